"""Cells and chips compared with the same model, of recipes/cells.py and recipes/adapt_scores.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from gaincell.results.common import Chip, Named, Number, Result, Value
from gaincell.results.evaluation import Many
from gaincell.results.run import Adaptations, AttachedModel, Current, MeasuredSeconds, UsedText
from gaincell.units import Second, Volt


@dataclass(frozen=True)
class CellStage:
    """Perplexity of the model, as one of several steps left it."""

    perplexity: Number
    perplexity_error: Number | None = None
    seconds: MeasuredSeconds | None = None


@dataclass(frozen=True)
class TimedModel(AttachedModel):
    """token_period: on the chip."""

    token_period: Second


@dataclass(frozen=True)
class DescribedChip(Named):
    """A chip in words."""

    description: str


@dataclass(frozen=True)
class TitledCurve:
    """F: current over the voltage relative to its offset."""

    title: str
    name: str
    u: Annotated[tuple[float, ...], "V"]
    F: Current


@dataclass(frozen=True, kw_only=True)
class CellResult(Result):
    """stages: by what was done."""

    design: Chip
    stages: Mapping[str, CellStage]


@dataclass(frozen=True, kw_only=True)
class CellDesignResult(CellResult, Adaptations):
    """A design of the literature; its numbers are explained in recipes/cells.py."""

    model: TimedModel
    text: UsedText
    retention_time: Value
    layers: Value
    token_period: Second
    window: Value
    tokens_to_1_e: Annotated[float, "tokens"]
    deviation: Number
    current_at_offset: Number
    half_level: Volt
    refresh_interval: Second
    refresh_tokens: Annotated[float, "tokens"]


@dataclass(frozen=True, kw_only=True)
class CellAdaptationResult(CellResult, Adaptations):
    """Both methods of adaptation on one cell of one chip."""

    model: TimedModel
    text: UsedText
    chip: DescribedChip
    cell: TitledCurve


@dataclass(frozen=True, kw_only=True)
class ScoresResult(CellResult):
    """error_of_scores: of every layer."""

    error_of_scores: Many
