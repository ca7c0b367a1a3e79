"""What `gaincell codesign` learns: circuits of a chip, together with the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from gaincell.results.common import Chip, CountedTokens, Part, Result, Values, Whole
from gaincell.results.evaluation import Many, Nats
from gaincell.results.run import (
    Adaptation,
    AdaptedResult,
    AttachedModel,
    MeasuredSeconds,
    StageResult,
    UsedText,
)
from gaincell.units import Joule

Charge: TypeAlias = Annotated[float, "charge units"]
Voltages: TypeAlias = Annotated[tuple[float, ...], "V"]
Setting: TypeAlias = Annotated[float, "1", "measured"]


class Circuits(Part):
    """What of a chip can be learned. Levels: relative pulse widths, and voltages about V_offset."""

    score_saturation_per_row: Charge
    output_saturation_per_column: Charge
    query_levels: Many | None = None
    storage_levels: Voltages | None = None


class LearnedCircuits(Part):
    """Before and after."""

    start: Circuits
    learned: Circuits


class JointTraining(Part):
    """Of model and chip. weights: whether the model's were trained along."""

    steps: Annotated[int, "1", "measured"]
    tokens: CountedTokens
    learning_rate: Setting
    scale_learning_rate: Setting
    circuit_rate: Setting
    weights: bool
    seconds: MeasuredSeconds


class PairedLosses(Part):
    """Summed losses of every block, adapted and trained."""

    predictions: Annotated[tuple[int, ...], "tokens", "measured"]
    adapted: Nats
    trained: Nats


class Histogram(Part):
    """Of the signals of a stage."""

    edges: Values
    share: Many


class LearnedChip(Part, kw_only=True):
    """One training. start: the chip before it.  energy: of all attention and one token, bottom-up."""

    model: AttachedModel
    design: Chip
    start: Chip
    learn: tuple[str, ...]
    circuits: LearnedCircuits
    training: JointTraining
    text: UsedText
    adaptation: Mapping[str, Adaptation]
    stages: tuple[StageResult, ...]
    blocks: PairedLosses
    energy: Joule
    signals: Mapping[str, Histogram]

    @property
    def perplexities(self) -> Mapping[str, float]:
        """By stage: adapted, trained."""
        return {stage.name: stage.perplexity for stage in self.stages}


class CodesignResult(LearnedChip, AdaptedResult, kw_only=True):
    """Of `gaincell codesign`."""


class ComparedChip(LearnedChip, kw_only=True):
    """name: what was learned.  chip: which, by its levels.  levels: how many codes."""

    name: str
    chip: str
    levels: Mapping[str, Whole]
    command: str


class CodesignComparison(Result, kw_only=True):
    """Of recipes/codesign.py."""

    model: AttachedModel
    text: UsedText
    points: tuple[ComparedChip, ...]
