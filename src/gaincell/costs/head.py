"""What every estimate of a head starts from: chip, process, activity, sizes, and the counts that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from gaincell.arrays.refresh import Refresh
from gaincell.arrays.schedule import Schedule
from gaincell.chips.design import Design
from gaincell.costs.activity import Activity, HeadActivity
from gaincell.costs.technology import Technology
from gaincell.errors import InputError
from gaincell.units import Second

UNQUANTISED = 2**8
"""Levels that a converter without quantisation is priced with."""


@dataclass(frozen=True)
class Head:
    """One query head with its share of the key/value arrays.

    Attributes:
        activity: Of this head, or the mean.
        head_dim: D.
        group: g query heads share the arrays, which are written once for them.
        context: Tokens before and including the query; None: what the activity was measured with.
        sliding_window: Of the model's own attention, which gates older columns; 0: it has none.
        refresh: Policy by which columns are rewritten; None: never.
        streams: Sequences that take turns on the periphery, each with cells of its own.
        column_gains: Whether gains of q and of the output follow the columns read.
        array_normaliser: Whether the outputs are divided by the last of them.
        balanced_rows: Directions in which queries and keys are stretched before rows are balanced; 0: they
            are not.
        layers: Of cells, stacked in 3D.

    Raises:
        InputError: sizes below 1.
    """

    design: Design
    technology: Technology
    activity: HeadActivity
    head_dim: int = 64
    group: int = 1
    context: int | None = None
    sliding_window: int = 0
    refresh: Refresh | None = None
    streams: int = 1
    column_gains: bool = False
    array_normaliser: bool = False
    balanced_rows: int = 0
    layers: int = 1

    def __post_init__(self) -> None:
        for name in ("head_dim", "group", "context", "streams", "layers"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InputError(f"{name} = {number!r} is out of range; allowed: 1 or more")

    @property
    def rows(self) -> int:
        """Rows of cells of a column: row blocks of N rows that D needs, those beyond D idle."""
        return math.ceil(self.head_dim / self.design.tile) * self.design.tile

    @cached_property
    def written(self) -> float:
        """Columns that hold a token, on average."""
        seen = self.activity.valid_columns if self.context is None else float(self.context)
        return min(seen, float(self.design.window))

    @cached_property
    def columns(self) -> float:
        """Valid columns that a query reads, on average: those that the model's own window does not gate."""
        return min(self.written, float(self.sliding_window or self.written))

    @property
    def active_tiles(self) -> float:
        """Sub-tiles with a valid column; the others are not driven. Where the model's own window W gates
        columns, the valid ones begin anywhere in a sub-tile: (W + N - 1) / N on average over all places.
        """
        tile = self.design.tile
        if self.columns < self.written:
            return min((self.columns + tile - 1) / tile, float(self.design.tiles))
        return math.ceil(self.columns / tile)

    @property
    def cells(self) -> int:
        """Of both arrays: 2 M rows."""
        return 2 * self.design.window * self.rows

    @property
    def output_lines(self) -> float:
        """Value bit lines that are read, each with a signed converter and a counter: D a sub-tile."""
        return self.active_tiles * self.head_dim

    @property
    def divisions(self) -> int:
        """Of a query's outputs, by the sum of a normalising column or by that of the last row."""
        if self.array_normaliser:
            return self.head_dim - 1
        return self.head_dim if self.design.normaliser.present else 0

    @property
    def query_bits(self) -> int:
        """Of a query code."""
        return _bits(self.design.query_levels or UNQUANTISED) + (1 if self.design.drivers.signed else 0)

    @property
    def storage_bits(self) -> int:
        """Of a key or value code."""
        return _bits(self.design.storage_levels or UNQUANTISED)

    @property
    def output_bits(self) -> int:
        """Of a sub-tile's code, sign included."""
        return _bits(self.design.counter_levels) + 1

    @property
    def query_word(self) -> int:
        """Of a query component that is scaled (digital.py)."""
        return _bits(self.design.query_levels or UNQUANTISED) + self.technology.guard_bits

    @property
    def storage_word(self) -> int:
        """Of a key or value component that is scaled."""
        return self.storage_bits + self.technology.guard_bits

    def sum_bits(self, tiles: float) -> int:
        """Of the sum of so many sub-tiles' codes; of a mean number, of the most that there are."""
        return self.output_bits + (math.ceil(tiles) - 1).bit_length()

    @property
    def cycles(self) -> float:
        """Clock periods of a step."""
        return self.latency * self.design.counter_clock / self.group

    @cached_property
    def latency(self) -> Second:
        """Of the step of a group: the schedule with its scaling stages, and with the write that the process
        needs in place of the design's assumed latency, which was chosen to complete the published 65 ns.
        """
        return self.found_schedule(self.group).latency

    def found_schedule(self, group: int) -> Schedule:
        """The schedule of so many query heads, with the write that the process needs."""
        return Schedule(counted(self.design).supposed(unstated_latency=self.slot), group, scales=True)

    @property
    def slot(self) -> Second:
        """Of a discharge and a write."""
        return self.technology.discharge_time + self.technology.write_time

    @property
    def rewriting(self) -> Second:
        """Of the valid columns of all sequences, one after the other."""
        return self.streams * self.columns * self.slot

    @property
    def refresh_every(self) -> Second | None:
        """Time between two refreshes; None: there are none."""
        if self.refresh is None or self.refresh.every_tokens is None:
            return None if self.refresh is None else self.refresh.every_seconds
        return self.refresh.every_tokens * self.design.token_period

    @cached_property
    def remaining(self) -> float:
        """Mean of exp(-age / tau) over the valid columns: what is left of the stored voltages."""
        return self._remaining(self.design.decay_per_token)

    @cached_property
    def remaining_square(self) -> float:
        """Mean of exp(-2 age / tau): what is left of their squares."""
        return self._remaining(self.design.decay_per_token**2)

    def _remaining(self, delta: float) -> float:
        """(1 - delta^n) / (n (1 - delta)) for n columns of ages 0 ... n - 1; refreshed ones are never older
        than the refresh's interval.
        """
        n = self.columns
        if self.refresh_every is not None:
            n = min(n, max(self.refresh_every / self.design.token_period, 1.0))
        return 1.0 if delta == 1 or n <= 1 else (1 - delta**n) / (n * (1 - delta))


def counted(design: Design) -> Design:
    """The design that is priced: where outputs are not quantised, with counters in their place."""
    return design.replace(readout="counter") if design.readout == "none" else design


def assumed_head(design: Design, technology: Technology, head_dim: int = 64, group: int = 1) -> Head:
    """A head of which no activity was measured."""
    return Head(design, technology, Activity.assumed(design).mean(), head_dim, group)


def _bits(levels: int) -> int:
    return math.ceil(math.log2(levels))
