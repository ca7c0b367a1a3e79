"""Which measured points can be used: those near the storage range, cells that work, a range that is covered,
currents that rise, voltages that were meant to be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from gaincell.devices.measurement import Numbers, Table
from gaincell.errors import InputError

COVERAGE = 0.02
"""By how much of the storage range the measured voltages may fall short of its ends."""
FLAT, FEWEST_CELLS = 0.2, 5
LARGEST_GAP = 0.3
"""Of the storage range, between neighbouring voltages."""
MOST_CHANGED = 0.1
"""Largest distance of currents from a rising curve, of their range."""
SURE = 4.0
"""Standard errors that are taken for noise."""
ONE_WAY = 0.6
"""Least share of the points of a read that have voltages of their own; up and down half of them have."""


@dataclass(frozen=True)
class Scale:
    """How volts and amperes of a file become those of a chip.

    Attributes:
        v_min: Lowest voltage of the storage range, V.
        v_max: Highest voltage of the storage range, V.
        v_offset: Voltage of zero signal, V.
        charge_per_ampere: Charge units of a full pulse of one ampere, t_pulse_max / charge_unit.
    """

    v_min: float
    v_max: float
    v_offset: float
    charge_per_ampere: float

    @property
    def ends(self) -> tuple[float, float]:
        """Storage range relative to V_offset, V."""
        return self.v_min - self.v_offset, self.v_max - self.v_offset


Points = tuple[str, Numbers, Numbers]  # name of a cell, its voltages relative to V_offset, its charges


def near_range(table: Table, scale: Scale) -> Table:
    """The rows within the storage range, with each cell's nearest voltage beyond each end: a polynomial that
    followed the others as well would follow those that matter less closely.
    """
    margin = COVERAGE * (scale.v_max - scale.v_min)
    kept = np.ones(len(table), dtype=np.bool_)
    for name in np.unique(table.cell):
        rows = table.cell == name
        volts = table.columns["voltage"][rows]
        if volts.min() > scale.v_min + margin or volts.max() < scale.v_max - margin:
            continue  # which `check_coverage` refuses
        low = volts[volts <= scale.v_min].max(initial=-np.inf) - margin
        high = volts[volts >= scale.v_max].min(initial=np.inf) + margin
        kept[rows] = (volts >= low) & (volts <= high)
    columns = {name: values[kept] for name, values in table.columns.items()}
    return replace(table, cell=table.cell[kept], read=table.read[kept], columns=columns)


def without_broken(cells: list[Points], scale: Scale) -> tuple[list[Points], dict[str, int]]:
    """Cells whose current follows the voltage, and how many do not: of five cells or more, those whose
    current spans less than a fifth of what it spans in the cell in the middle.
    """
    spans = np.array([np.ptp(y) for _, _, y in cells])
    typical = float(np.median(spans))
    if len(cells) < FEWEST_CELLS or typical == 0:
        return cells, {}
    working = [cell for cell, span in zip(cells, spans, strict=True) if span >= FLAT * typical]
    low, high = (
        float(np.median([y[np.argmin(np.abs(u - end))] for _, u, y in working])) for end in scale.ends
    )
    broken: dict[str, int] = {}
    for (_, _, y), span in zip(cells, spans, strict=True):
        if span < FLAT * typical:
            states = {"stuck_low": low, "stuck_high": high, "dead": 0.0}
            state = min(states, key=lambda name: abs(states[name] - float(np.median(y))))
            broken[state] = broken.get(state, 0) + 1
    return working, broken


def check_coverage(u: Numbers, scale: Scale, where: str) -> None:
    low, high = scale.ends
    margin = COVERAGE * (high - low)
    if u.min() > low + margin or u.max() < high - margin:
        raise InputError(
            f"{where}: voltages go from {u.min() + scale.v_offset:.4g} to {u.max() + scale.v_offset:.4g} V, "
            f"the chip stores {scale.v_min:g} to {scale.v_max:g} V; measure that range, or give a design "
            "with another (is the unit right, or are the columns swapped?)"
        )


def check_gaps(u: Numbers, scale: Scale, where: str) -> None:
    low, high = scale.ends
    margin = COVERAGE * (high - low)
    inside = np.unique(u[(u >= low - margin) & (u <= high + margin)])
    gap = int(np.argmax(np.diff(inside))) if len(inside) > 1 else 0
    if len(inside) > 1 and inside[gap + 1] - inside[gap] > LARGEST_GAP * (high - low):
        raise InputError(
            f"{where}: nothing was measured between {inside[gap] + scale.v_offset:.4g} and "
            f"{inside[gap + 1] + scale.v_offset:.4g} V; measure there, too"
        )


def check_direction(table: Table) -> None:
    """Raise InputError for a sweep up and down: voltages of one read that nearly all come twice."""
    reads, which = np.unique(np.rec.fromarrays([table.cell, table.read]), return_inverse=True)
    for number, (cell, _) in enumerate(reads.tolist()):
        volts = table.columns["voltage"][which == number]
        if 1 + within(volts, same_width([volts])).max() < ONE_WAY * len(volts):
            raise InputError(
                f"{table.path}: cell {cell or 1} has most of its voltages twice, within 1 mV; of a sweep up "
                "and down keep one direction; number repeated reads in a column 'read' (or --read COLUMN)"
            )


def rising(
    u: Numbers, y: Numbers, width: float, where: str, *, noise: float = 0.0
) -> tuple[Numbers, Numbers]:
    """Mean voltages and currents of the points that lie within a width, V, the currents as close as a rising
    curve can be. The `noise` of a point makes none of a fall.

    Raises:
        InputError: the curve is not close to the points.
    """
    label = within(u, width)
    count = np.bincount(label)
    volts, means = (np.bincount(label, values) / count for values in (u, y))
    closest = isotonic_regression(means, weights=count.astype(float)).x
    away, random = np.abs(closest - means), SURE * noise / np.sqrt(count)
    changed = float(away.max() / np.ptp(means))
    if (away > MOST_CHANGED * np.ptp(means) + random).any():
        raise InputError(
            f"{where}: the currents do not rise with the voltage: a rising curve is up to "
            f"{100 * changed:.0f} % of their range away from them; measure again, or leave out the cells "
            "that do not work"
        )
    return volts, np.asarray(closest)


def scatter(u: Numbers, y: Numbers) -> float:
    """Standard deviation of currents about a smooth curve, from their second differences by voltage."""
    second = np.diff(y[np.argsort(u)], 2)
    return 1.4826 * float(np.median(np.abs(second))) / np.sqrt(6.0) if len(second) else 0.0


def within(volts: Numbers, width: float) -> npt.NDArray[np.int64]:
    """Number of the group of each voltage, from the lowest on: none is wider than that, V."""
    label = np.empty(len(volts), dtype=np.int64)
    first, number = -np.inf, -1
    for place in np.argsort(volts).tolist():
        if volts[place] - first > width:
            first, number = volts[place], number + 1
        label[place] = number
    return label


def same_width(cells: Sequence[Numbers]) -> float:
    """Width within which voltages of cells were meant to be the same, V: read back, one differs a little from
    time to time. At most a fifth of the median over the cells of the step of their voltages.
    """
    steps = []
    for u in cells:
        d = np.diff(np.unique(u))
        steps.append(float(np.median(d[d > 0.1 * d.max()])) if len(d) else 0.0)
    return min(1e-3, 0.2 * float(np.median(steps)))
