"""The digital half of a head: checks, gates, energies, and word lengths of its stages."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from gaincell.results.codec import Cited
from gaincell.results.common import Chip, CountedTokens, Number, Part, Result, Value, Whole
from gaincell.units import Joule, SquareMetre

PAPER = Cited("Leroux et al. 2025 [R]")
Periods: TypeAlias = Annotated[tuple[tuple[int, ...], ...], "clock periods"]


class Sizes(Part):
    """Of a head.

    Attributes:
        tokens: How many were simulated.
    """

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


class RtlCheck(Part):
    """One check of the RTL.

    Attributes:
        name: As in the head of rtl/verification.py.
        how: In words.
        different: Of those compared.
        note: The first differences, or, where `different` is None, why it was not done.
        broken: Whether it was not done because its program failed or took too long.
    """

    name: str
    how: str
    note: str
    compared: Value
    different: Value | None = None
    broken: bool = False

    @property
    def failed(self) -> bool:
        """Whether anything was different, or its program failed."""
        return self.broken or (self.different is not None and self.different.value > 0)


class Phase(Part):
    """When a phase of the first token was seen on the wires, and when the schedule has it."""

    name: str
    seen: Periods
    scheduled: Periods


class Module(Part):
    """A kind of module: how often it is placed, what each holds, area of all, energy of all a token."""

    name: str
    placed: Whole
    gates: Whole
    flip_flops: Whole
    depth: Whole
    area: SquareMetre
    energy: Joule | None = None


class Total(Part):
    gates: Whole
    flip_flops: Whole
    area: SquareMetre
    energy: Joule | None = None


class Hypothesis(Part):
    """One explanation of the paper's digital energy.

    Attributes:
        name: As in the head of rtl/energy.py.
        energy: A token more, of all query heads of the group.
    """

    name: str
    energy: Joule


class RtlEnergy(Part):
    """Of a mean token, all query heads of the group.

    Attributes:
        synthesised: Gates, registers and clock.
        formula: Of gaincell cost for as many columns, no routing.
        columns: Valid ones, on average.
        all: With every hypothesis.
        paper: Scaled to the output lines.
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


class Library(Part):
    """Mapped to the cells of a Liberty file.

    Attributes:
        name: Of the file.
    """

    name: str
    area: Annotated[float, "library's unit"]
    cells: Whole


class RtlResult(Result, kw_only=True, command="rtl"):
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
    liberty: Library | None = None


class WordLength(Part):
    """Stages with one number of guard bits: perplexity, and shares of codes unlike those of exact stages."""

    guard_bits: Whole
    word_bits: Whole
    perplexity: Number
    q_codes_different: Number
    k_codes_different: Number
    v_codes_different: Number


class WordLengthsResult(Result, kw_only=True, command="recipes/word_lengths.py"):
    """Of recipes/word_lengths.py.

    Attributes:
        exact: Perplexity with exact stages.
    """

    model: str
    exact: Number
    predictions: CountedTokens
    words: tuple[WordLength, ...]
