"""A finished stage as its directory keeps it, until the run is put together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from gaincell.evaluation.perplexity import Perplexity
from gaincell.results.codec import Numbers
from gaincell.results.common import CountedTokens, Number
from gaincell.results.evaluation import BitPerByte, Nat
from gaincell.results.run import (
    Adaptation,
    BlockLosses,
    CodeShares,
    MeasuredSeconds,
    Mismatch,
    TrainingCurve,
)
from gaincell.standard_error import exp_or_infinity


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a stage tells beside its evaluation: see StageResult, AdaptedResult and MappedResult."""

    training_tokens: CountedTokens = 0
    curve: TrainingCurve | None = None
    step_time: Mapping[str, Annotated[float, "1", "measured"]] | None = None
    adaptation: Adaptation | None = None
    adaptations: Mapping[str, Adaptation] | None = None
    mismatch: Mismatch | None = None
    codes: Mapping[str, Mapping[str, CodeShares]] | None = None
    silent: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StageRecord(Told):
    """A stage and its evaluation."""

    numbers: Numbers
    perplexity: Number
    nll: Nat
    predictions: CountedTokens
    seconds: MeasuredSeconds
    blocks: BlockLosses
    perplexity_error: Number | None = None
    bits_per_byte: BitPerByte | None = None


def evaluated(name: str, told: Told, found: Perplexity, seconds: float) -> StageRecord:
    """The record of a stage that ended."""
    losses, counts = zip(*found.per_block, strict=True)
    return StageRecord(
        **vars(told),
        numbers="measured" if name.startswith("software") else "simulated",
        perplexity=found.perplexity,
        nll=found.nll,
        predictions=found.tokens,
        seconds=seconds,
        blocks=BlockLosses(tuple(round(nll, 6) for nll in losses), counts),
        perplexity_error=found.perplexity_error,
        bits_per_byte=found.bits_per_byte,
    )


def oddity(record: StageRecord) -> str | None:
    """What makes a record none of a stage with its evaluation, in words; None for a good one."""
    for key in ("training_tokens", "predictions", "nll", "perplexity", "seconds"):
        if not getattr(record, key) >= 0:
            return f"{key} = {getattr(record, key)!r}"
    if not math.isclose(record.perplexity, exp_or_infinity(record.nll / max(1, record.predictions))):
        return f"perplexity = {record.perplexity!r} is not that of nll and predictions"
    losses, counts = record.blocks.nll, record.blocks.predictions
    if len(losses) != len(counts) or min(counts, default=0) < 0 or sum(counts) != record.predictions:
        return f"blocks has not {record.predictions} predictions"
    total = math.fsum(losses)
    if record.nll != total and not abs(record.nll - total) <= 1e-6 * (len(losses) + abs(record.nll)):
        return f"blocks does not add up to nll = {record.nll!r}"
    return None
