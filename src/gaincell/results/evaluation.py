"""What `gaincell evaluate`, `ablate`, `fidelity` and `activity` find out about a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from gaincell.errors import RunError
from gaincell.results.codec import REST, Numbers
from gaincell.results.common import (
    Chip,
    Counted,
    CountedTokens,
    Kind,
    Many,
    Named,
    NamedModel,
    Number,
    Part,
    Result,
    Value,
    Whole,
)
from gaincell.standard_error import exp_or_infinity
from gaincell.units import Second

Heads: TypeAlias = tuple[tuple[float, ...], ...]
"""[layers][heads], or [layers][key/value heads]."""
Nat: TypeAlias = Annotated[float, "nat"]
Nats: TypeAlias = Annotated[tuple[float, ...], "nat"]
BitPerByte: TypeAlias = Annotated[float, "bit/byte"]
PerItem: TypeAlias = Annotated[tuple[float | tuple[float, ...], ...], "1"]
FidelityNumber: TypeAlias = Literal[
    "error", "cosine", "linear error", "linear cosine", "silent", "score ceiling", "pulses", "tile ceiling",
    "tile zero", "q codes", "k codes", "v codes", "output codes", "q clipped", "k clipped", "v clipped",
]  # fmt: skip


def check_perplexity(result: object, name: str = "perplexity", units: str = "predictions") -> None:
    """Raise RunError where a perplexity of a result is not exp(nll / units), by the names of its fields."""
    held = vars(result)
    stated = held[name]
    expected = exp_or_infinity(held["nll"] / max(1, held[units]))
    if not math.isclose(stated, expected):
        raise RunError(f"{name} = {stated!r} is not that of nll and {units}, {expected!r}")


class EvaluationResult(Result, kw_only=True):
    """Of a model on a text.

    Attributes:
        design: The chip; None in software.
        gains: Whose gains and offsets were used.
        stage: Of a RUN, where one was named.
        dtype: Type of the weights.
    """

    model: NamedModel
    design: Chip | None
    text: Named | None = None
    gains: str | None = None
    stage: str | None = None
    dtype: str | None = None


class AblationRow(Part):
    """One constraint.

    Attributes:
        kind: "off" (switched off, the others on), "ring" (a shorter ring) or "on" (on alone).
        ratio: Of perplexities to the chip as it is, of rows on to the free one.
        ratio_error: Over blocks; None for a single block.
        not_exercised: The protocol, where all losses are equal to the last digit.
    """

    kind: str
    name: str
    meaning: str
    perplexity: Number
    ratio: Number
    ratio_error: Number | None = None
    not_exercised: str | None = None

    @property
    def exercised(self) -> bool:
        """Whether any loss differs from those of the first row; else nothing follows for the constraint."""
        return self.not_exercised is None


class AblationResult(EvaluationResult, kw_only=True, command="ablate"):
    """What every constraint of the hardware costs."""

    text: Named
    ablation: tuple[AblationRow, ...]


class FidelityResult(EvaluationResult, kw_only=True, command="fidelity"):
    """Every head beside that of the pretrained model, by name of the number: see evaluation/fidelity.py."""

    fidelity: Mapping[FidelityNumber, Annotated[Heads, "1"]]


class PerplexityResult(EvaluationResult, kw_only=True, command="evaluate", part="perplexity"):
    """By blocks-T or strided-T-S.

    Attributes:
        numbers: "measured" in software, else "simulated".
    """

    numbers: Numbers
    perplexity: Number
    nll: Nat
    predictions: CountedTokens
    bits_per_byte: BitPerByte | None = None
    perplexity_error: Number | None = None

    def __post_init__(self) -> None:
        check_perplexity(self)


class RollingPerplexity(Part, kw_only=True):
    """Of whole documents, by words, tokens and bytes; words and bytes are those of the published text."""

    word_perplexity: Number
    token_perplexity: Number
    byte_perplexity: Number
    bits_per_byte: BitPerByte
    nll: Nat
    words: Annotated[int, "words", "measured"]
    bytes: Annotated[int, "bytes", "measured"]
    predictions: CountedTokens
    documents: Annotated[int, "documents", "measured"]
    word_perplexity_error: Number | None = None

    def __post_init__(self) -> None:
        for name, units in (("word", "words"), ("token", "predictions"), ("byte", "bytes")):
            check_perplexity(self, f"{name}_perplexity", units)


class RollingResult(
    RollingPerplexity, EvaluationResult, kw_only=True, command="evaluate", part="word_perplexity"
):
    """By rolling-T."""

    numbers: Numbers


class ContextPoint(Part):
    """What one length of context gives.

    Attributes:
        context: Tokens before the first target.
        perplexity: Of the targets.
        excess: Per token above the longest context.
        excess_error: Its standard error over blocks (paired), None for a single block.
        per_block: Mean negative log-likelihood of the targets of every block.
    """

    context: CountedTokens
    perplexity: Number
    excess: Nat
    excess_error: Annotated[float | None, "nat"]
    per_block: Nats = ()


class ContextResult(EvaluationResult, kw_only=True, command="evaluate", part="context"):
    """Perplexity over the length of the context."""

    numbers: Numbers
    context: tuple[ContextPoint, ...]


class ContextCurve(Part):
    """Of a model of some layers on rings of `window` columns."""

    layers: Whole
    window: Annotated[int, "columns"]
    context: tuple[ContextPoint, ...]


class DepthResult(Result, kw_only=True, command="depth"):
    """Of recipes/depth.py: models of other depths on other rings."""

    training_tokens: CountedTokens
    text: Named
    curves: tuple[ContextCurve, ...]


class RepetitionPoint(Part):
    """One kind of tokens.

    Attributes:
        kind: One of evaluation.repetition.KINDS.
        tokens: How many of them were predicted.
        nll: Mean negative log-likelihood of a token.
        sums: Of every block.
        counts: Of every block.
    """

    kind: str
    tokens: CountedTokens
    nll: Nat
    perplexity: Number
    sums: Nats
    counts: Annotated[tuple[int, ...], "tokens", "measured"]


class RepetitionResult(EvaluationResult, kw_only=True, command="evaluate", part="repetition"):
    """What a model finds again in its context."""

    numbers: Numbers
    repetition: tuple[RepetitionPoint, ...]


class RefreshPolicy(Part):
    """When columns are rewritten.

    Attributes:
        kind: One of those of arrays.refresh.
        every: Tokens or seconds between refreshes.
    """

    kind: str
    every: Value | None = None


class PauseRow(Part):
    """What a pause left; time, refreshes and columns written in every key/value head: of one block."""

    idle: Second
    perplexity: Number
    perplexity_error: Annotated[float | None, "1"]
    predictions: CountedTokens
    chip_time: Second
    refreshes: Whole
    refreshing: Second
    writes: Annotated[int, "columns"]


class PausesResult(EvaluationResult, kw_only=True, command="evaluate", part="pauses"):
    """Perplexity after pauses."""

    design: Chip
    refresh: RefreshPolicy
    pauses: tuple[PauseRow, ...]


class Strength(Part):
    """Of an error that differs from chip to chip."""

    value: float | tuple[float, ...]
    unit: str
    kind: Kind = "simulated"


class ChipSpread(Part):
    """Of virtual chips (evaluation/chips.py).

    Attributes:
        number: Of each.
        spread: What differs, by name; its seed.
    """

    perplexity: Many
    number: Annotated[tuple[int, ...], "1"]
    nominal: Number
    mean: Number
    ratio: Number
    worst: Whole
    yield_within: Number
    yield_: Number
    yield_interval: Many
    spread: Annotated[Mapping[str, Strength], REST]
    std: Number | None = None
    ratio_interval: Many | None = None


class Harness(Part):
    name: str
    version: str


class Metric(Part):
    """A score and its standard error."""

    score: Value
    error: Value | None = None


class TaskScores(Part):
    """Of one task: see evaluation/harness.py.

    Attributes:
        items: How many were evaluated.
        of: How many there are.
        fingerprint: Of the items' texts and order; only tasks with the same one can be compared item by item.
        per_item: What every item contributes, by metric.
        lower_is_better: Metrics of which the harness says so.
    """

    task: str
    version: str
    split: str
    items: Annotated[int, "items", "measured"]
    of: Annotated[int, "items", "measured"]
    fingerprint: str
    metrics: Mapping[str, Metric]
    per_item: Mapping[str, PerItem]
    lower_is_better: tuple[str, ...] = ()


class ScoreSpread(Part):
    """Of one score over chips; perplexities have ratio and yield, other scores a difference."""

    nominal: Number
    chips: Many
    mean: Number
    worst: Whole
    std: Number | None = None
    ratio: Number | None = None
    ratio_interval: Many | None = None
    yield_: Number | None = None
    yield_interval: Many | None = None
    difference: Number | None = None
    difference_interval: Many | None = None
    per_item: Annotated[tuple[tuple[float | tuple[float, ...], ...], ...], "1"] | None = None


class TaskChips(Part):
    """Scores of virtual chips, by task/metric."""

    number: Annotated[tuple[int, ...], "1"]
    scores: Mapping[str, ScoreSpread]
    yield_within: Number
    spread: Annotated[Mapping[str, Strength], REST]


class TasksRun(Part, kw_only=True):
    """Scores of several tasks.

    Attributes:
        longest_context: In tokens; longer requests are truncated.
        requests: In all; a document is one.
        requests_cached: Answered from the cache.
        requests_truncated: Those that were longer and lost tokens on the left.
        requests_beyond_window: Those whose first tokens had left the ring when the last was predicted.
        model_seconds: Of the model's forward passes, without those found in the cache.
        softmax: Type in which the softmax of logits is taken.
    """

    numbers: Numbers
    harness: Harness
    longest_context: CountedTokens
    requests: Counted
    requests_cached: Counted
    requests_truncated: Counted
    requests_beyond_window: Counted
    model_seconds: Annotated[float, "s", "measured"]
    tasks: tuple[TaskScores, ...]
    softmax: str | None = None


class TasksResult(TasksRun, EvaluationResult, kw_only=True, command="evaluate", part="tasks"):
    """Of `gaincell evaluate --tasks`."""

    chips: TaskChips | None = None


class ChipsResult(EvaluationResult, kw_only=True, command="evaluate", part="chips"):
    """One model on many virtual chips."""

    chips: ChipSpread
