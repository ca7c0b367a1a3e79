"""What `gaincell evaluate`, `ablate`, `fidelity` and `activity` find out about a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Annotated, Literal, TypeAlias

from gaincell.errors import InputError
from gaincell.results.codec import COLUMNS, REST, Numbers
from gaincell.results.common import (
    Chip,
    Counted,
    CountedTokens,
    Kind,
    Named,
    NamedModel,
    Number,
    Part,
    Result,
    Value,
    Whole,
)
from gaincell.units import Second, Volt

Heads: TypeAlias = tuple[tuple[float, ...], ...]
"""[layers][heads], or [layers][key/value heads]."""
Nat: TypeAlias = Annotated[float, "nat"]
Nats: TypeAlias = Annotated[tuple[float, ...], "nat"]
BitPerByte: TypeAlias = Annotated[float, "bit/byte"]
Many: TypeAlias = Annotated[tuple[float, ...], "1"]
PerItem: TypeAlias = Annotated[tuple[float | tuple[float, ...], ...], "1"]
FidelityNumber: TypeAlias = Literal[
    "error", "cosine", "linear error", "linear cosine", "silent", "score ceiling", "pulses", "tile ceiling",
    "tile zero", "q codes", "k codes", "v codes", "output codes", "q clipped", "k clipped", "v clipped",
]  # fmt: skip


class EvaluationResult(Result, kw_only=True):
    """Of a model on a text. design: None in software.  gains: whose.  stage: of a RUN.  dtype: of weights."""

    model: NamedModel
    design: Chip | None
    text: Named | None = None
    gains: str | None = None
    stage: str | None = None
    dtype: str | None = None


class AblationRow(Part):
    """One constraint.

    kind: "off" (switched off, the others on), "ring" (a shorter ring) or "on" (on alone).
    ratio: of perplexities to the chip as it is, of rows on to the free one.  ratio_error: over blocks; None
    for a single block.  not_exercised: the protocol, where all losses are equal to the last digit.
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


class AblationResult(EvaluationResult, kw_only=True):
    """What every constraint of the hardware costs."""

    text: Named
    ablation: tuple[AblationRow, ...]


class FidelityResult(EvaluationResult, kw_only=True):
    """Every head beside that of the pretrained model, by name of the number: see evaluation/fidelity.py."""

    fidelity: Mapping[FidelityNumber, Annotated[Heads, "1"]]


class PerplexityResult(EvaluationResult, kw_only=True):
    """By blocks-T or strided-T-S. numbers: "measured" in software, else "simulated"."""

    numbers: Numbers
    perplexity: Number
    nll: Nat
    predictions: CountedTokens
    bits_per_byte: BitPerByte | None = None
    perplexity_error: Number | None = None


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


class RollingResult(RollingPerplexity, EvaluationResult, kw_only=True):
    """By rolling-T."""

    numbers: Numbers


class ContextPoint(Part):
    """What one length of context gives.

    context: tokens before the first target.  perplexity: of the targets.
    excess: per token above the longest context.  excess_error: its standard error over blocks (paired), None
    for a single block.  per_block: mean negative log-likelihood of the targets of every block.
    """

    context: CountedTokens
    perplexity: Number
    excess: Nat
    excess_error: Annotated[float | None, "nat"]
    per_block: Nats = ()


class ContextResult(EvaluationResult, kw_only=True):
    """Perplexity over the length of the context."""

    numbers: Numbers
    context: tuple[ContextPoint, ...]


class ContextCurve(Part):
    """Of a model of some layers on rings of `window` columns."""

    layers: Whole
    window: Annotated[int, "columns"]
    context: tuple[ContextPoint, ...]


class DepthResult(Result, kw_only=True):
    """Of recipes/depth.py: models of other depths on other rings."""

    training_tokens: CountedTokens
    text: Named
    curves: tuple[ContextCurve, ...]


class RepetitionPoint(Part):
    """One kind of tokens.

    kind: one of evaluation.repetition.KINDS.  tokens: how many of them were predicted.  nll: mean, a token.
    sums, counts: of every block.
    """

    kind: str
    tokens: CountedTokens
    nll: Nat
    perplexity: Number
    sums: Nats
    counts: Annotated[tuple[int, ...], "tokens", "measured"]


class RepetitionResult(EvaluationResult, kw_only=True):
    """What a model finds again in its context."""

    numbers: Numbers
    repetition: tuple[RepetitionPoint, ...]


class RefreshPolicy(Part):
    """kind: of arrays.refresh.  every: so many tokens or seconds."""

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


class PausesResult(EvaluationResult, kw_only=True):
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
    """Of virtual chips (evaluation/chips.py). number: of each.  spread: what differs, by name; its seed."""

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


class ChipsResult(EvaluationResult, kw_only=True):
    """One model on many virtual chips."""

    chips: ChipSpread


class Harness(Part):
    name: str
    version: str


class Metric(Part):
    """A score and its standard error."""

    score: Value
    error: Value | None = None


class TaskScores(Part):
    """Of one task: see evaluation/harness.py. items, of: evaluated, and there are.  per_item: by metric."""

    task: str
    version: str
    split: str
    items: Annotated[int, "items", "measured"]
    of: Annotated[int, "items", "measured"]
    fingerprint: str
    metrics: Mapping[str, Metric]
    per_item: Mapping[str, PerItem]


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


class TasksResult(EvaluationResult, kw_only=True):
    """Scores of `gaincell evaluate --tasks`. softmax: its type."""

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
    chips: TaskChips | None = None


class ComparedScore(Metric):
    """difference: to the reference, on the same items; points of an accuracy, the ratio of perplexities."""

    difference: Value | None = None
    difference_error: Value | None = None


class ComparedModel(Part):
    """entries: by task/metric."""

    name: str
    entries: Mapping[str, ComparedScore]


class ComparisonResult(Result, kw_only=True):
    """Of `gaincell table`. reference: name of the model that the others are compared to."""

    reference: str
    rows: tuple[ComparedModel, ...]
    notes: tuple[str, ...]


ASSUMED = "assumed"
"""Source of an activity that nobody measured."""


class HeadActivity(Part):
    """Means over tokens (and rows or columns) of one query head of one layer.

    layer, head: which.
    query_pulse: mean query pulse over T_max, in [0, 1]; of |q| with signed queries.
    query_active: share of query pulses above 0.
    score_pulse: mean phi(S) over T_max, over the valid columns.
    score_active: share of phi(S) above 0, of the valid columns.
    score_negative: mean max(-S, 0) over S_sat, over the valid columns: net charge that the cells sink; the
    converter has no lower limit, so that it may exceed 1.
    key_level, value_level: mean |u| of stored keys and values as written; key_square, value_square: mean u^2.
    output_pulse: mean |output| over T_max of the sub-tiles.  valid_columns: mean number that a query saw.

    Raises InputError for a share outside [0, 1], a negative or an infinite number.
    """

    layer: Whole
    head: Whole
    query_pulse: Number
    query_active: Number
    score_pulse: Number
    score_active: Number
    score_negative: Number
    key_level: Volt
    value_level: Volt
    key_square: Annotated[float, "V^2"]
    value_square: Annotated[float, "V^2"]
    output_pulse: Number
    valid_columns: Number

    def __post_init__(self) -> None:
        for name, found in asdict(self).items():
            share = name.endswith(("pulse", "active"))
            if not (math.isfinite(found) and found >= 0 and (found <= 1 + 1e-9 or not share)):
                allowed = "0 to 1" if share else "a finite number, 0 or above"
                raise InputError(f"activity: {name} = {found!r} is out of range; allowed: {allowed}")


HEAD_NUMBERS = tuple(f.name for f in fields(HeadActivity) if f.name not in ("layer", "head"))
"""What of a HeadActivity is a number that can be averaged."""


class ActivityOfHeads(Part):
    """Of a model on a text.

    source: what it was measured on, or "assumed".  tokens: measured; 0 when assumed.  heads: one or more.
    design: hash of the chip whose arrays were observed; None when assumed.
    """

    source: str
    tokens: Annotated[int, "tokens"]
    heads: Annotated[tuple[HeadActivity, ...], COLUMNS]
    design: str | None = None

    def __post_init__(self) -> None:
        if not self.heads:
            raise InputError("an activity needs at least one head")

    @property
    def is_assumed(self) -> bool:
        return self.source == ASSUMED

    def mean(self) -> HeadActivity:
        """The average over heads, all of the same weight; layer and head are 0."""
        means = {name: sum(getattr(h, name) for h in self.heads) / len(self.heads) for name in HEAD_NUMBERS}
        return HeadActivity(layer=0, head=0, **means)


class ActivityResult(EvaluationResult, kw_only=True):
    """Of `gaincell activity`: a model with arrays on a text."""

    design: Chip
    activity: ActivityOfHeads
