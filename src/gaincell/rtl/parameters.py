"""Sizes of the registers of a head, and when each of them acts: from a design and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from gaincell.arrays.schedule import Schedule
from gaincell.chips.design import Design
from gaincell.circuits import dac_code
from gaincell.errors import DesignError, InputError
from gaincell.units import Second

READOUTS = ("counter", "counter-floor")
"""Those that a counter of pulses gives."""
MOST = 1 << 14
"""Counters, and columns, of a head that can be simulated here: sixteen times the paper's."""
EXACT_BITS = 52
"""Of a product of word and gain, so that the reference holds it, and half a unit, exactly in float64."""


class Window(NamedTuple):
    """Clock periods of a step during which something acts: first included, last not."""

    name: str
    query: int
    start: int
    end: int


@dataclass(frozen=True)
class Parameters:
    """What the head is generated from.

    Attributes:
        design: The chip.
        rows: D.
        group: g query heads that share the arrays.
        guard_bits: Of a word and of a gain beyond the bits of a code.

    Raises:
        InputError: sizes that are out of range.
        DesignError: a design that these circuits cannot serve; which of its numbers, and what is allowed.
    """

    design: Design
    rows: int = 64
    group: int = 1
    guard_bits: int = 4

    def __post_init__(self) -> None:
        for name, lowest in (("rows", 1), ("group", 1), ("guard_bits", 0)):
            if getattr(self, name) < lowest:
                raise InputError(f"{name} = {getattr(self, name)} is out of range; allowed: {lowest} or more")
        for reason in _refusals(self.design):
            raise DesignError(f"design {self.design.name!r}: {reason}")
        if max(self.columns, self.rows * self.tiles) > MOST:
            raise InputError(
                f"rows = {self.rows}, window = {self.columns}, {self.tiles} sub-tiles: too large to be "
                f"simulated; allowed: {MOST} columns, and as many counters (rows x sub-tiles)"
            )
        least, most = max(0, (4 - self.code_bits) // 2), EXACT_BITS // 2 - self.code_bits
        if not least <= self.guard_bits <= most:
            raise InputError(
                f"guard_bits = {self.guard_bits} is out of range; allowed: {least} to {most} with codes of "
                f"{self.code_bits} bits, so that a scaled word holds its code and the reference is exact"
            )
        for phase, number, least, why in (
            ("key write", "unstated_latency", 3, "for the words of keys, values and queries to come in"),
            ("value write", "t_pulse_max", 2, "to discharge and to write"),
        ):
            (write,) = self.of_phase(phase)
            periods = write.end - write.start
            if periods < least:
                raise DesignError(
                    f"design {self.design.name!r}: {number} gives the {phase} {periods} clock periods; "
                    f"it needs {least} or more, {why}"
                )
        if self.of_phase("key read")[0].start < 2 + self.group:
            raise InputError(
                f"group = {self.group}: the words of keys, values and {self.group} queries come in "
                f"while a key is written, {self.of_phase('key write')[0].end} clock periods; give a smaller "
                "group"
            )
        for add, read in zip(self.of_phase("add"), self.of_phase("value read")[1:], strict=False):
            if add.start >= read.end:
                raise InputError(
                    f"group = {self.group}: the {self.depth} levels of the adder tree take so long that the "
                    f"counts of query head {read.query} replace those of head {add.query} before they are "
                    "added; give a smaller group, a shorter window, or a longer pulse"
                )

    @property
    def columns(self) -> int:
        """M."""
        return self.design.window

    @property
    def tiles(self) -> int:
        """Sub-tiles of the ring."""
        return self.design.tiles

    @property
    def query_levels(self) -> int:
        """Pulse widths, a power of two."""
        assert self.design.query_levels is not None
        return self.design.query_levels

    @property
    def storage_levels(self) -> int:
        """Voltages, a power of two."""
        assert self.design.storage_levels is not None
        return self.design.storage_levels

    @property
    def signed(self) -> bool:
        """Whether queries have signs, and a key read a second half for the negative ones."""
        return self.design.drivers.signed

    @property
    def query_bits(self) -> int:
        """Of a query code, two's complement where it has a sign."""
        return bits_of(self.query_levels) + self.signed

    @property
    def storage_bits(self) -> int:
        return bits_of(self.storage_levels)

    @property
    def code_bits(self) -> int:
        """Of the wider of both codes: what the scaling stage gives; two's complement with signed queries."""
        return max(self.query_bits, self.storage_bits + self.signed)

    @property
    def word_bits(self) -> int:
        """Of a component of q, k or v as it comes in, two's complement."""
        return self.code_bits + self.guard_bits

    @property
    def gain_bits(self) -> int:
        """Of a gain of an input, without a sign."""
        return self.word_bits

    @property
    def fraction_bits(self) -> int:
        """Of a scaled component below its code: so that gains whose offset puts the converter's range within
        twice its own width of zero fit gain_bits.
        """
        return self.word_bits + self.gain_bits - self.code_bits - 3

    @property
    def offset_bits(self) -> int:
        """Of an offset of an input, two's complement: of the product."""
        return self.word_bits + self.gain_bits

    @property
    def count_bits(self) -> int:
        """Of a sub-tile's code, two's complement."""
        return bits_of(self.design.counter_levels) + 1

    @property
    def sum_bits(self) -> int:
        """Of the sum over the sub-tiles, of its gain and of the result."""
        return self.count_bits + self.depth

    @property
    def sum_offset_bits(self) -> int:
        """Of the offset of the output."""
        return 2 * self.sum_bits

    @property
    def depth(self) -> int:
        """Levels of an adder tree."""
        return math.ceil(math.log2(self.tiles))

    @property
    def pulse_cycles(self) -> int:
        """Clock periods of the longest pulse."""
        return round(self.design.t_pulse_max * self.design.counter_clock)

    @cached_property
    def code_limits(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Lowest and highest code of a query, and of a key or value, whose clamp is in volts."""
        d = self.design
        ends = torch.tensor([d.v_min, d.v_max], dtype=torch.float64)
        low, high = dac_code(ends, self.storage_levels, d.v_min, d.v_max, d.v_offset).tolist()
        most = self.query_levels - 1
        return (-most if self.signed else 0, most), (low, high)

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """The events of the schedule's step, in clock periods."""
        events = Schedule(self.design, self.group, scales=True).step
        return tuple(
            Window(
                e.phase.name, e.query, self._cycles(e.phase.name, e.start), self._cycles(e.phase.name, e.end)
            )
            for e in events
        )

    def of_phase(self, name: str) -> tuple[Window, ...]:
        """Those of one phase, a query head each."""
        return tuple(window for window in self.windows if window.name == name)

    @property
    def step_cycles(self) -> int:
        """Clock periods of a step."""
        return max(window.end for window in self.windows)

    def _cycles(self, name: str, time: Second) -> int:
        exact = time * self.design.counter_clock
        if abs(exact - round(exact)) > 1e-6:
            raise DesignError(
                f"design {self.design.name!r}: the phase {name!r} begins or ends {exact:.4g} clock "
                "periods after the step's start; the sequencer counts whole ones: change counter_clock, "
                "t_pulse_max or unstated_latency"
            )
        return round(exact)


def bits_of(levels: int) -> int:
    """Bits of a code of so many levels."""
    return (levels - 1).bit_length()


def _refusals(d: Design) -> Iterator[str]:
    """What of a design these circuits cannot serve; each reason holds if those before it do not."""
    for name in ("query_levels", "storage_levels", "counter_levels"):
        levels = getattr(d, name)
        if levels is None or levels & (levels - 1):
            given = "not quantised" if levels is None else levels
            yield f"{name} is {given}; a register of whole bits takes 2, 4, 8, 16 ..."
    if d.readout not in READOUTS:
        yield f"readout = {d.readout!r} is no count of pulses; allowed: {' or '.join(READOUTS)}"
    for name in ("score_ceiling", "output_ceiling"):
        if not getattr(d, name):
            yield f"{name} is false: a pulse could outlast its phase; allowed: true"
    others = {
        "levels: levels that are not evenly spaced": d.levels.present,
        "normaliser.floor: a division by a normalising column": d.normaliser.present,
        "sinks.tokens: columns of first tokens": d.sinks.tokens > 0,
    }
    for what, present in others.items():
        if present:
            yield f"{what} have no circuit here; give a design without, such as leroux2025"
    cycles = d.t_pulse_max * d.counter_clock
    for name in ("query_levels", "counter_levels"):
        if abs(getattr(d, name) - 1 - cycles) > 1e-6:
            yield (
                f"{name} = {getattr(d, name)} does not fit a longest pulse of {cycles:.4g} clock periods; "
                f"allowed: one period a step: change {name}, t_pulse_max or counter_clock"
            )
