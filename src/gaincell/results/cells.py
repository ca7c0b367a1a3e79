"""Cells and chips compared with the same model, of recipes/cells.py and recipes/adapt_scores.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from gaincell.results.common import Chip, Named, Number, Part, Result, Value
from gaincell.results.evaluation import Many
from gaincell.results.run import Adaptations, AttachedModel, Current, MeasuredSeconds, UsedText
from gaincell.units import Second, Volt


class CellStage(Part):
    """Perplexity of the model, as one of several steps left it."""

    perplexity: Number
    perplexity_error: Number | None = None
    seconds: MeasuredSeconds | None = None


class TimedModel(AttachedModel):
    """token_period: on the chip."""

    token_period: Second


class DescribedChip(Named):
    """A chip in words."""

    description: str


class TitledCurve(Part):
    """F: current over the voltage relative to its offset."""

    title: str
    name: str
    u: Annotated[tuple[float, ...], "V"]
    F: Current


class CellResult(Result, kw_only=True):
    """stages: by what was done."""

    design: Chip
    stages: Mapping[str, CellStage]


class CellDesignResult(CellResult, Adaptations, kw_only=True):
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


class CellAdaptationResult(CellResult, Adaptations, kw_only=True):
    """Both methods of adaptation on one cell of one chip."""

    model: TimedModel
    text: UsedText
    chip: DescribedChip
    cell: TitledCurve


class ScoresResult(CellResult, kw_only=True):
    """error_of_scores: of every layer."""

    error_of_scores: Many
