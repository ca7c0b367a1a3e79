"""The digital half of a head: checks, gates, energies, and word lengths of its stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from gaincell.results.codec import Cited
from gaincell.results.common import Chip, CountedTokens, Number, Result, Value, Whole
from gaincell.units import Joule, SquareMetre

PAPER = Cited("Leroux et al. 2025 [R]")
Periods: TypeAlias = Annotated[tuple[tuple[int, ...], ...], "clock periods"]


@dataclass(frozen=True)
class Sizes:
    """Of a head. tokens: that were simulated."""

    columns: Whole
    tiles: Whole
    rows: Whole
    group: Whole
    word_bits: Whole
    gain_bits: Whole
    code_bits: Whole
    count_bits: Whole
    sum_bits: Whole
    step_periods: Whole
    tokens: Whole


@dataclass(frozen=True)
class RtlCheck:
    """name: as in the head of rtl/verification.py.  how: in words.  different: of those compared.

    note: the first differences, or, where `different` is None, why it was not done.
    """

    name: str
    how: str
    note: str
    compared: Value
    different: Value | None = None

    @property
    def failed(self) -> bool:
        """Whether anything was different."""
        return self.different is not None and self.different.value > 0


@dataclass(frozen=True)
class Phase:
    """When a phase of the first token was seen on the wires, and when the schedule has it."""

    name: str
    seen: Periods
    scheduled: Periods


@dataclass(frozen=True)
class Module:
    """A kind of module: how often it is placed, what each holds, area of all, energy of all a token."""

    name: str
    placed: Whole
    gates: Whole
    flip_flops: Whole
    depth: Whole
    area: SquareMetre
    energy: Joule | None = None


@dataclass(frozen=True)
class Total:
    """Of all modules."""

    gates: Whole
    flip_flops: Whole
    area: SquareMetre
    energy: Joule | None = None


@dataclass(frozen=True)
class Hypothesis:
    """name: as in the head of rtl/energy.py.  energy: a token more, of all query heads of the group."""

    name: str
    energy: Joule


@dataclass(frozen=True)
class RtlEnergy:
    """Of a mean token, all query heads of the group.

    synthesised: gates, registers and clock.  formula: of gaincell cost for as many columns, no routing.
    columns: valid ones, on average.  all: with every hypothesis.
    """

    gates: Joule
    registers: Joule
    clock: Joule
    synthesised: Joule
    formula: Joule
    columns: Annotated[int, "columns"]
    hypotheses: tuple[Hypothesis, ...]
    all: Joule
    paper: Annotated[Joule, PAPER]


@dataclass(frozen=True)
class Library:
    """Mapped to the cells of a Liberty file."""

    area: Annotated[float, "library's unit"]
    cells: Whole


@dataclass(frozen=True, kw_only=True)
class RtlResult(Result):
    """Of `gaincell rtl`."""

    design: Chip
    sizes: Sizes
    inputs: str
    technology: str
    checks: tuple[RtlCheck, ...]
    timeline: tuple[Phase, ...]
    modules: tuple[Module, ...] = ()
    total: Total | None = None
    energy: RtlEnergy | None = None
    library: Library | None = None


@dataclass(frozen=True)
class WordLength:
    """Stages with one number of guard bits: perplexity, and shares of codes unlike those of exact stages."""

    guard_bits: Whole
    word_bits: Whole
    perplexity: Number
    q_codes_different: Number
    k_codes_different: Number
    v_codes_different: Number


@dataclass(frozen=True, kw_only=True)
class WordLengthsResult(Result):
    """Of recipes/word_lengths.py. exact: perplexity with exact stages."""

    model: str
    exact: Number
    predictions: CountedTokens
    words: tuple[WordLength, ...]
