"""Results as plain data, as a stage stores them until the run is put together."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from gaincell.adaptation import AdaptationResult, Statistics
from gaincell.adaptation.result import Residuals
from gaincell.adaptation.statistics import STAGES
from gaincell.evaluation.codes import CodeUse
from gaincell.evaluation.perplexity import Perplexity
from gaincell.files import is_count, is_number
from gaincell.standard_error import exp_or_infinity

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


def unfit(record: Record) -> str | None:
    """What makes a stored record none of a stage with its evaluation, in words; None for a good one."""
    counts = [key for key in ("training_tokens", "bytes") if record.get(key) is not None]
    odd = next((key for key in ("predictions", "blocks", *counts) if not is_count(record.get(key))), None)
    if odd is None:
        numbers = ("nll", "perplexity", "seconds")
        odd = next((key for key in numbers if not (is_number(record.get(key)) and record[key] >= 0)), None)
    if odd is None:
        maybe = ("perplexity_error", "bits_per_byte")
        odd = next((k for k in maybe if record.get(k) is not None and not is_number(record[k])), None)
    if odd is not None:
        return f"{odd} = {record.get(odd)!r}"
    if not math.isclose(record["perplexity"], exp_or_infinity(record["nll"] / max(1, record["predictions"]))):
        return f"perplexity = {record['perplexity']!r} is not that of nll and predictions"
    per_block, nll, predictions = record.get("per_block"), record["nll"], record["predictions"]
    if per_block is None:  # of an older version
        return None
    if not (isinstance(per_block, list) and len(per_block) == record["blocks"]):
        return f"per_block has not {record['blocks']} blocks"
    for pair in per_block:
        if not (isinstance(pair, list) and len(pair) == 2 and is_number(pair[0]) and is_count(pair[1])):
            return f"per_block holds {pair!r}"
    if sum(count for _, count in per_block) != predictions:
        return f"per_block has not {predictions} predictions"
    total = math.fsum(loss for loss, _ in per_block)
    if nll != total and not abs(nll - total) <= 1e-6 * (len(per_block) + abs(nll)):
        return f"per_block does not add up to nll = {nll!r}"
    return None


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
