"""run.json: what `gaincell map`, `train`, `adapt`, `codesign` make of a model; comparisons of such runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal, TypeAlias

from gaincell.results.codec import Numbers
from gaincell.results.common import (
    Chip,
    Counted,
    CountedTokens,
    Many,
    Named,
    NamedModel,
    Number,
    Part,
    Result,
    Value,
    Values,
    Whole,
    nothing,
)
from gaincell.results.evaluation import BitPerByte, Nat, Nats, check_perplexity
from gaincell.units import ChargeUnit, ChargeUnits, Joule, Second, Volt, Volts

FILE = "run.json"
"""Of a RUN directory."""
Rule: TypeAlias = Literal["relative", "released"]
"""How residuals are stated and when an iteration stops: adaptation.result.Residuals."""
DISTANCES: Mapping[Rule, str] = {"relative": "fraction of sigma", "released": "that of the stage"}
"""Their unit."""
MeasuredSeconds: TypeAlias = Annotated[float, "s", "measured"]
PerHead: TypeAlias = Annotated[tuple[tuple[float, ...], ...], "fraction of sigma"]
"""[layers][heads]."""
Measured: TypeAlias = Annotated[float, "1", "measured"]


class AttachedModel(NamedModel):
    """A model on arrays, and its size."""

    parameters: Counted
    layers: Counted
    heads: Counted
    kv_heads: Counted
    head_dim: Counted


class UsedText(Part):
    """A text and how much of it was used."""

    name: str
    evaluation_tokens: CountedTokens
    calibration_tokens: CountedTokens
    training_tokens: CountedTokens | None = None


class BlockLosses(Part):
    """Summed losses and counts of the blocks of an evaluation."""

    nll: Nats
    predictions: Annotated[tuple[int, ...], "tokens", "measured"]


class TrainingCurve(Part):
    """Evaluations during a training; its numbers are measured with softmax attention, else simulated."""

    numbers: Numbers
    step: Annotated[tuple[int, ...], "steps", "measured"]
    perplexity: Many


class AdaptationHistory(Part):
    """Of the published method: an entry an iteration, with the perplexity of the calibration text."""

    iteration: Many
    residual: Values
    perplexity: Many


class Adaptation(Part, kw_only=True):
    """One adaptation: see adaptation.result.AdaptationResult.

    Attributes:
        worst: The place of the largest residual.
        skipped: Places of zero variance, which were left alone.
        saturated: Places all of whose values lie at or beyond a limit of their circuit.
        start: Gains and offsets at the beginning; earlier files do not state them.
        rule: Of the residuals; earlier files do not state it.
        target_perplexity: Of the model that is matched.
    """

    summary: str
    converged: bool
    start: Literal["trained", "neutral"] | None = None
    rule: Rule | None = None
    worst: str
    skipped: tuple[str, ...]
    saturated: tuple[str, ...]
    residual: Value
    iterations: Whole
    forward_passes: Annotated[float, "passes over the calibration text"]
    tokens: Annotated[int, "tokens"]
    calibration_perplexity: Number | None = None
    target_perplexity: Number | None = None
    history: AdaptationHistory | None = None


class StageResult(Part, kw_only=True):
    """One line of the table of a run.

    Attributes:
        numbers: "measured" in software, else "simulated".
        training_tokens: Beyond the pretrained model.
        ratio_to_software: Of perplexities, to the pretrained softmax model; its error is paired block by
            block.
        ratio_to_continued: The same, to the softmax model trained further.
        precision: Of the matrix products of its training, whose attention on arrays computes in float32;
            earlier files do not state it.
        step_time: Shares of a training step, by what took them.
    """

    name: str
    title: str
    numbers: Numbers
    training_tokens: CountedTokens
    perplexity: Number
    nll: Nat
    predictions: CountedTokens
    seconds: MeasuredSeconds
    blocks: BlockLosses | None = None
    perplexity_error: Number | None = None
    bits_per_byte: BitPerByte | None = None
    ratio_to_software: Number | None = None
    ratio_to_software_error: Number | None = None
    ratio_to_continued: Number | None = None
    ratio_to_continued_error: Number | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    curve: TrainingCurve | None = None
    step_time: Mapping[str, Measured] | None = None
    adaptation: Adaptation | None = None

    def __post_init__(self) -> None:
        check_perplexity(self)


class Spread(Part):
    """Residuals of a stage in every head."""

    mean: PerHead
    std: PerHead


Mismatch: TypeAlias = Mapping[str, Mapping[str, Spread]]
"""Before and after an adaptation, by stage: q, k, v, out."""


class CodeShares(Part):
    """How often every code of a converter is used."""

    code: Annotated[tuple[int, ...], "code"]
    share: Many


class CellCurve(Part):
    """Current of a cell and of the linear one over its stored voltage relative to its offset."""

    name: str
    u: Volts
    linear: ChargeUnits
    nonlinear: ChargeUnits


class StagedResult(Result, kw_only=True):
    """Anything with stages. The model of the stage `saved`, else of the last, lies beside the file."""

    model: NamedModel
    design: Chip
    stages: tuple[StageResult, ...]
    saved: str | None = ""

    def stage(self, name: str) -> StageResult | None:
        """The stage of that name, where there is one."""
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def saved_stage(self) -> StageResult:
        """The stage whose model lies beside the file."""
        return next(stage for stage in self.stages[::-1] if self.saved in (None, "", stage.name))


class Adaptations(Result, kw_only=True):
    """Anything with adaptations, by method."""

    adaptation: Mapping[str, Adaptation]


class AdaptedResult(Adaptations, StagedResult, kw_only=True, command="adapt"):
    """Of `gaincell adapt`.

    Attributes:
        settings: With which it may be done again in its RUN; earlier files have none.
        codes: By model, then stage (q, k, v, out).
    """

    model: AttachedModel
    text: UsedText
    settings: Mapping[str, str] = field(default_factory=nothing)
    mismatch: Mismatch | None = None
    codes: Mapping[str, Mapping[str, CodeShares]] | None = None
    cell: CellCurve | None = None


class MappedResult(AdaptedResult, kw_only=True, command="map"):
    """Of `gaincell map`; `silent` are stages of the linear model without variance."""

    silent: tuple[str, ...]


class TrainedResult(StagedResult, kw_only=True, command="train"):
    """Of `gaincell train`.

    Attributes:
        set: What was set otherwise than in the recipe.
        values: All that the recipe then said, of finished stages; earlier files have none.
        software: Its perplexity.
        texts: Tokens of each that all its stages take together.
    """

    recipe: str
    set: Mapping[str, str] = field(default_factory=nothing)
    values: Mapping[str, str] = field(default_factory=nothing)
    texts: Mapping[str, CountedTokens] | None = None
    software: Measured


class Circuits(Part):
    """What of a chip can be learned. Levels: relative pulse widths, and voltages about V_offset."""

    score_saturation_per_row: ChargeUnit
    output_saturation_per_column: ChargeUnit
    query_levels: Many | None = None
    storage_levels: Volts | None = None


class LearnedCircuits(Part):
    """Before and after."""

    start: Circuits
    learned: Circuits


class JointTraining(Part):
    """Of model and chip, and whether the model's weights were trained along."""

    steps: Annotated[int, "1", "measured"]
    tokens: CountedTokens
    learning_rate: Measured
    scale_learning_rate: Measured
    circuit_rate: Measured
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
    """One training.

    Attributes:
        start: The chip before it.
        energy: Of all attention and one token, bottom-up.
    """

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


class CodesignResult(LearnedChip, AdaptedResult, kw_only=True, command="codesign"):
    """Of `gaincell codesign`."""


class ComparedChip(LearnedChip, kw_only=True):
    """A chip whose circuits were learned.

    Attributes:
        name: What was learned.
        chip: Which, by its levels.
        levels: How many codes.
    """

    name: str
    chip: str
    levels: Mapping[str, Whole]
    command: str


class CodesignComparison(Result, kw_only=True, command="codesign comparison"):
    """Of recipes/codesign.py."""

    model: AttachedModel
    text: UsedText
    points: tuple[ComparedChip, ...]


class CellStage(Part):
    """Perplexity of the model, as one of several steps left it."""

    perplexity: Number
    perplexity_error: Number | None = None
    seconds: MeasuredSeconds | None = None


class TimedModel(AttachedModel):
    """A model and its token period on the chip."""

    token_period: Second


class DescribedChip(Named):
    """A chip in words."""

    description: str


class TitledCurve(Part):
    """A curve F of a cell: current over the voltage relative to its offset."""

    title: str
    name: str
    u: Volts
    F: ChargeUnits


class CellResult(Result, kw_only=True):
    """One cell in a model; stages by what was done."""

    design: Chip
    stages: Mapping[str, CellStage]


class CellDesignResult(CellResult, Adaptations, kw_only=True, command="cells design"):
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


class CellAdaptationResult(CellResult, Adaptations, kw_only=True, command="cells adaptation"):
    """Both methods of adaptation on one cell of one chip."""

    model: TimedModel
    text: UsedText
    chip: DescribedChip
    cell: TitledCurve


class ScoresResult(CellResult, kw_only=True, command="recipes/adapt_scores.py"):
    """An adaptation of scores, with their error in every layer."""

    error_of_scores: Many
