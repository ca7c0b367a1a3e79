"""Results as plain data, as a stage stores them until the run is put together."""

from __future__ import annotations

from typing import Any, TypeAlias

from gaincell.adaptation import AdaptationResult, Statistics
from gaincell.adaptation.result import Residuals
from gaincell.adaptation.statistics import STAGES
from gaincell.evaluation.codes import CodeUse
from gaincell.evaluation.perplexity import Perplexity

Record: TypeAlias = dict[str, Any]


def of_perplexity(found: Perplexity, seconds: float) -> Record:
    """An evaluation."""
    return {
        "nll": found.nll,
        "predictions": found.tokens,
        "blocks": found.blocks,
        "per_block": [[round(nll, 6), count] for nll, count in found.per_block],
        "bytes": found.bytes,
        "perplexity": found.perplexity,
        "perplexity_error": found.perplexity_error,
        "bits_per_byte": found.bits_per_byte,
        "seconds": seconds,
    }


def of_adaptation(result: AdaptationResult) -> Record:
    """An adaptation."""
    return {
        "summary": result.summary(),
        "converged": result.converged,
        "start": result.start,
        "rule": result.residuals.rule,
        "residual": result.residual,
        "iterations": result.iterations,
        "forward_passes": result.forward_passes,
        "tokens": result.tokens,
        "worst": str(result.worst),
        "skipped": [str(place) for place in result.skipped],
        "saturated": [str(place) for place in result.saturated],
        "history": list(result.history),
    }


def of_mismatch(measured: Statistics, target: Statistics) -> Record:
    """How far the statistics of a model are from their target."""
    residuals = Residuals.between(measured, target)
    return {s: {"mean": residuals.mean[s].tolist(), "std": residuals.std[s].tolist()} for s in STAGES}


def of_codes(use: dict[str, CodeUse]) -> Record:
    """The use of codes."""
    return {stage: {"code": list(u.codes), "share": list(u.share)} for stage, u in use.items()}
