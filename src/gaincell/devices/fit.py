"""A cell's curve, and how cells differ, from measured currents.

Every cell i with voltages u and charges y gives coefficients c_i by least squares; over n cells

    C = mean of c_i,        standard error = std of c_i / sqrt(n)   (one cell: that of its least squares)
    cov(C) = cov of c_i - mean covariance of the least squares      (what cells differ by, without the noise)

and the three errors of the basic mismatch model (variability.py) from what is left of every cell,

    F_i(u) - F(u) = e_gain F(u) + e_voltage F'(u) + e_current       by least squares over the measured u,

their variances likewise without that of the estimate. Noise comes from repeated reads where there are any,
and else is what the polynomial leaves over.

Units: voltages relative to V_offset, V; charges of a full pulse, charge units.
Not modelled: errors of the voltages, drift during the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy import stats

from gaincell.devices.cell import Cell, PolynomialCell
from gaincell.devices.decay import CONFIDENCE, LEAST_EXPLAINED
from gaincell.devices.measurement import Numbers, Table
from gaincell.devices.screening import (
    Points,
    Scale,
    check_coverage,
    check_direction,
    check_gaps,
    rising,
    same_width,
    scatter,
    within,
    without_broken,
)
from gaincell.devices.tabulated import FEWEST_POINTS, TabulatedCell
from gaincell.errors import InputError

MOST_ORDER = 9
WORST_CONDITION = 1e8
GRID = 401
SHOWN = 50
"""Cells whose points are drawn."""
LEAST_FULL_SCALE = 0.05
"""Current at v_max, as a share of the range of currents, below which nothing is a fraction of it."""
ROUGHLY = 0.02
"""Share of the storage range over which currents are averaged to see whether they rise, and of the currents'
range by which a polynomial may fall where the points leave it open."""


@dataclass(frozen=True)
class Estimate:
    """A number with the two ends of its 95 % confidence interval."""

    value: float
    interval: tuple[float, float]

    def over(self, unit: float) -> Estimate:
        """The same number in another unit, which is positive."""
        low, high = self.interval
        return Estimate(self.value / unit, (low / unit, high / unit))


@dataclass(frozen=True)
class CurveFit:
    """What currents say about cells.

    Attributes:
        cell: The nominal one.
        coefficients: Of a polynomial, C_p in charge units / V^p.
        covariance: Of the coefficients across cells [p, p].
        offset_voltage: Where the current is zero, relative to V_offset, V; None: nowhere in the range.
        full_scale: F at v_max, charge units.
        gain_std: Of the basic mismatch model; None with one cell.
        offset_voltage_std: Likewise, V.
        current_offset_std: Likewise, as a fraction of full_scale.
        explained: Share of the cells' variance that these three describe.
        noise_std: Of one read, from repeated reads, as a fraction of full_scale; None without repeated reads.
        residual_std: Of the points about each cell's own curve, likewise: noise and what the curve cannot
            follow; None of one cell with hardly any full_scale.
        r_squared: Of all points against each cell's own curve.
        rms: Likewise, charge units.
        nominal_r_squared: Of all points against the nominal curve.
        nominal_rms: Likewise, charge units.
        cells: How many.
        points: How many.
        u: For figures: grid of voltages [GRID].
        nominal: For figures: nominal curve [GRID].
        curves: For figures: curves of the cells [cells, GRID].
    """

    cell: Cell
    coefficients: tuple[Estimate, ...]
    covariance: tuple[tuple[float, ...], ...]
    offset_voltage: float | None
    full_scale: float
    gain_std: Estimate | None
    offset_voltage_std: Estimate | None
    current_offset_std: Estimate | None
    explained: float | None
    noise_std: float | None
    residual_std: float | None
    r_squared: float
    rms: float
    nominal_r_squared: float
    nominal_rms: float
    cells: int
    points: int
    u: Numbers
    nominal: Numbers
    curves: Numbers
    measured: tuple[Numbers, Numbers]
    """Voltages and charges of some cells, for figures."""
    broken: Mapping[str, int]
    """Cells whose current hardly follows the voltage, left out of everything else: by the name that Mismatch
    has for them, stuck_low, stuck_high, dead."""


def fit_curve(table: Table, scale: Scale, kind: str = "polynomial", order: int = 3) -> CurveFit:
    """Fit the cells of a measured curve.

    Args:
        table: Of `read_curve`.
        scale: Of the chip that shall use the cell.
        kind: "polynomial", or "tabulated": mean current at every voltage, made monotone.
        order: Highest power of the polynomial.

    Raises:
        InputError: too few points, a range that is not covered, a rank-deficient or a falling curve, currents
            that no such curve explains, or that are nearly 0 at v_max; with the reason and what to do.
    """
    if kind not in ("polynomial", "tabulated"):
        raise InputError(f"kind {kind!r}; choose polynomial or tabulated")
    if not 1 <= order <= MOST_ORDER:
        raise InputError(f"order {order}; choose 1 to {MOST_ORDER}")
    check_direction(table)
    where = str(table.path)
    cells, broken = without_broken(
        [
            (name, rows["voltage"] - scale.v_offset, rows["current"] * scale.charge_per_ampere)
            for name, rows in table.cells()
        ],
        scale,
    )
    _check_cells(cells, scale, kind, order, where)
    solved = [_least_squares(u, y, order, f"{where}: cell {n}") for n, u, y in cells]
    own, spread = (np.array(parts) for parts in zip(*solved, strict=True))
    mean = own.mean(0)
    half = _half_widths(own, spread, len(cells[0][1]))
    grid = np.linspace(*scale.ends, GRID)
    cell = _nominal_cell(cells, kind, own, grid, scale, where)
    (gain, shift, offset, explained), errors = _mismatch(cell, cells)
    if kind == "polynomial":
        drawn, free = [partial(_value, c) for c in own], own.size
    else:  # the table, with a gain, a shift and an offset of each cell
        drawn, free = [partial(_moved, cell, e) for e in errors], 0 if len(cells) == 1 else 3 * len(cells)
    u, y = (np.concatenate([points[n] for points in cells]) for n in (1, 2))
    residuals = y - np.concatenate([curve(points[1]) for curve, points in zip(drawn, cells, strict=True)])
    from_nominal = y - _current(cell, u)
    squares = float(((y - y.mean()) ** 2).sum())
    r_squared = 1.0 - float((residuals**2).sum()) / squares
    nominal = _current(cell, grid)
    full_scale = float(nominal[-1])
    noise = _noise_of_reads(table, scale, {name for name, _, _ in cells})
    unit = abs(full_scale)
    no_fractions = unit < LEAST_FULL_SCALE * float(np.ptp(nominal))
    _check_quality(r_squared, no_fractions and (len(cells) > 1 or noise is not None), scale, where)
    some = sum(len(points[1]) for points in cells[:SHOWN])
    return CurveFit(
        cell=cell,
        coefficients=tuple(
            Estimate(float(c), (float(c - h), float(c + h))) for c, h in zip(mean, half, strict=True)
        ),
        covariance=_between(own, spread, grid),
        offset_voltage=float(np.interp(0.0, nominal, grid)) if nominal[0] < 0 < full_scale else None,
        full_scale=full_scale,
        gain_std=gain,
        offset_voltage_std=shift,
        current_offset_std=None if offset is None else offset.over(unit),
        explained=explained,
        noise_std=None if noise is None else noise / unit,
        residual_std=None
        if no_fractions
        else float(np.sqrt((residuals**2).sum() / max(1, len(y) - free))) / unit,
        r_squared=r_squared,
        rms=float(np.sqrt((residuals**2).mean())),
        nominal_r_squared=1.0 - float((from_nominal**2).sum()) / squares,
        nominal_rms=float(np.sqrt((from_nominal**2).mean())),
        cells=len(cells),
        points=len(y),
        u=grid,
        nominal=nominal,
        curves=np.array([curve(grid) for curve in drawn]),
        measured=(u[:some], y[:some]),
        broken=broken,
    )


def _nominal_cell(
    cells: Sequence[Points], kind: str, own: Numbers, grid: Numbers, scale: Scale, where: str
) -> Cell:
    """The cell of the mean coefficients, or of the mean currents; its linear slope is that of its best line.
    `own` are the coefficients of the cells.

    Raises:
        InputError: it falls by more than their fit leaves over.
    """
    u, y = (np.concatenate([cell[n] for cell in cells]) for n in (1, 2))
    if _best_slope(u, y) <= 0:
        raise InputError(
            f"{where}: the current falls with the voltage; if the sign is a convention, negate the currents"
        )
    if kind == "tabulated":
        volts, currents = rising(u, y, same_width([v for _, v, _ in cells]), where)
        table = TabulatedCell(tuple(volts), tuple(currents), 1.0)
        return replace(table, linear_slope=_best_slope(grid, _current(table, grid)))
    mean, roughly = own.mean(0), ROUGHLY * float(np.ptp(y))
    rest = np.concatenate([y - _value(c, u) for c, (_, u, y) in zip(own, cells, strict=True)])
    least, steps = min(float(rest.std()), roughly), np.diff(_value(mean, grid))
    runs = np.split(np.arange(len(steps)), np.flatnonzero(np.diff(steps < 0)) + 1)
    if falls := [run for run in runs if steps[run].sum() < -least]:
        ends = [(grid[run[0]] + scale.v_offset, grid[run[-1] + 1] + scale.v_offset) for run in falls]
        said = " and ".join(f"from {first:.4g} to {last:.4g} V" for first, last in ends)
        raise InputError(
            f"{where}: the polynomial of order {len(mean) - 1} falls {said}, a cell that is read out by its "
            "current must rise: choose another --order, or --kind tabulated"
        )
    rising(u, y, ROUGHLY * float(np.ptp(grid)), where, noise=scatter(u, y))
    return PolynomialCell(tuple(mean), _best_slope(grid, _value(mean, grid)))


def _check_cells(cells: Sequence[Points], scale: Scale, kind: str, order: int, where: str) -> None:
    """Raise InputError for cells with too few points, or points that leave out a part of the range."""
    places = [f"{where}: cell {number}" if len(cells) > 1 else where for number, _, _ in cells]
    for (_, u, _), place in zip(cells, places, strict=True):
        check_coverage(u, scale, place)
    needed = order + 2 if kind == "polynomial" else FEWEST_POINTS
    for (_, u, _), place in zip(cells, places, strict=True):
        if len(np.unique(u)) < needed:
            raise InputError(
                f"{place} has {len(np.unique(u))} voltages; {needed} or more are needed for "
                + (f"a polynomial of order {order}: lower --order" if kind == "polynomial" else "a table")
            )
        check_gaps(u, scale, place)


def _check_quality(r_squared: float, of_nothing: bool, scale: Scale, where: str) -> None:
    """Raise InputError for a curve far from the points, or for fractions of a full scale of nearly 0."""
    if r_squared < LEAST_EXPLAINED:
        raise InputError(
            f"{where}: a curve of this kind explains {100 * r_squared:.1f} % of the variance of the "
            f"currents, {100 * LEAST_EXPLAINED:.0f} % are needed: choose another --order or --kind, or "
            "measure again"
        )
    if of_nothing:
        raise InputError(
            f"{where}: the current at {scale.v_max:g} V is nearly 0, and mismatch and noise are stated as "
            "fractions of it: measure against a reference, or add a constant to all currents"
        )


def _least_squares(u: Numbers, y: Numbers, order: int, where: str) -> tuple[Numbers, Numbers]:
    """Coefficients [order + 1] and their covariance.

    Raises:
        InputError: the points do not fix them.
    """
    size = float(np.abs(u).max()) or 1.0
    powers = np.vander(u / size, order + 1, increasing=True)
    if np.linalg.matrix_rank(powers) <= order or np.linalg.cond(powers) > WORST_CONDITION:
        raise InputError(
            f"{where}: the voltages do not fix a polynomial of order {order} (rank-deficient); lower "
            "--order, or measure at more, and more widely spread, voltages"
        )
    units = size ** np.arange(order + 1)
    c, *_ = np.linalg.lstsq(powers, y, rcond=None)
    variance = float(((y - powers @ c) ** 2).sum() / max(1, len(u) - order - 1))
    covariance = variance * np.linalg.inv(powers.T @ powers)
    return c / units, covariance / np.outer(units, units)


def _half_widths(own: Numbers, spread: Numbers, points: int) -> Numbers:
    """Of the confidence intervals of the mean coefficients; `points` are those of the first cell."""
    n, count = own.shape
    if n == 1:
        t = stats.t.ppf(0.5 + CONFIDENCE / 2, max(1, points - count))
        return np.asarray(t * np.sqrt(np.diag(spread[0])))
    return np.asarray(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * own.std(0, ddof=1) / np.sqrt(n))


def _between(own: Numbers, spread: Numbers, grid: Numbers) -> tuple[tuple[float, ...], ...]:
    """Covariance of the coefficients across cells: no negative variances. These are looked for among
    polynomials that are orthonormal on the grid: powers nearly cancel one another, and would pass the noise
    of the highest on to all.
    """
    if len(own) < 2:
        return ()
    powers = np.vander(grid, own.shape[1], increasing=True)
    _, orthonormal = np.linalg.qr(powers / np.sqrt(len(grid)))
    values, vectors = np.linalg.eigh(orthonormal @ (np.cov(own.T) - spread.mean(0)) @ orthonormal.T)
    root = np.linalg.solve(orthonormal, vectors * np.sqrt(values.clip(min=0.0)))
    covariance = root @ root.T
    return tuple(tuple(float(x) for x in row) for row in covariance)


def _moved(cell: Cell, errors: Numbers, u: Numbers) -> Numbers:
    """The curve with a relative error of the gain, a shift of the voltage and an added current."""
    f = _current(cell, u)
    return np.asarray(f * (1 + errors[0]) + _slope(cell, u) * errors[1] + errors[2])


def _mismatch(
    cell: Cell, cells: Sequence[Points]
) -> tuple[tuple[Estimate | None, Estimate | None, Estimate | None, float | None], list[Numbers]]:
    """Standard deviations of gain, offset voltage (V) and offset current (charge units), and what share of
    the cells' variance they describe; and these errors of every cell. One cell has none.

    Where the slope of the cell hardly changes, a shift of the voltage cannot be told from a current: all of
    it then counts as voltage.
    """
    if len(cells) < 2:
        return (None, None, None, None), [np.zeros(3)]
    errors, variances, before, after = [], [], 0.0, 0.0
    for _, u, y in cells:
        f, slope = _current(cell, u), _slope(cell, u)
        basis = np.stack([f, slope, np.ones_like(u)], 1)
        norms = np.linalg.norm(basis, axis=0)
        told_apart = bool((norms > 0).all()) and np.linalg.cond(basis / norms) < 1e3
        used = basis if told_apart else basis[:, :2]
        e, *_ = np.linalg.lstsq(used, y - f, rcond=None)
        rest = y - f - used @ e
        variance = float((rest**2).sum() / max(1, len(u) - used.shape[1])) * np.diag(
            np.linalg.pinv(used.T @ used)
        )
        errors.append(np.pad(e, (0, 3 - len(e))))
        variances.append(np.pad(variance, (0, 3 - len(e))))
        before, after = before + float(((y - f) ** 2).sum()), after + float((rest**2).sum())
    n = len(errors)
    total = np.var(errors, axis=0, ddof=1)
    noise = np.mean(variances, 0)
    found = np.sqrt((total - noise).clip(min=0.0))
    # the variance over n Gaussian cells has the distribution of chi square; where it is not above the noise,
    # the interval begins at 0
    ends = [
        np.sqrt((total * (n - 1) / stats.chi2.ppf(0.5 + s * CONFIDENCE / 2, n - 1) - noise).clip(min=0.0))
        for s in (1, -1)
    ]
    gain, shift, offset = (
        Estimate(float(s), (float(a), float(b))) for s, a, b in zip(found, *ends, strict=True)
    )
    return (gain, shift, offset, 1.0 - after / before if before else 1.0), errors


def _noise_of_reads(table: Table, scale: Scale, used: set[str]) -> float | None:
    """Standard deviation of repeated reads of one cell at one voltage, charge units; None without any."""
    if not (table.read != "").any():
        return None
    squares, repeats = 0.0, 0
    for name, rows in table.cells():
        if name not in used:
            continue
        volts, y = rows["voltage"], rows["current"] * scale.charge_per_ampere
        label = within(volts, same_width([volts]))
        count = np.bincount(label)
        squares += float(((y - (np.bincount(label, y) / count)[label]) ** 2).sum())
        repeats += len(y) - len(count)
    return math.sqrt(squares / repeats) if repeats >= 2 else None


def _best_slope(u: Numbers, y: Numbers) -> float:
    """Of the straight line nearest to a curve."""
    return float(((u - u.mean()) * (y - y.mean())).sum() / ((u - u.mean()) ** 2).sum())


def _value(c: Numbers, u: Numbers) -> Numbers:
    return np.asarray(np.polynomial.polynomial.polyval(u, c), dtype=np.float64)


def _current(cell: Cell, u: Numbers) -> Numbers:
    return np.asarray(cell.current(torch.from_numpy(u)).numpy())


def _slope(cell: Cell, u: Numbers) -> Numbers:
    return np.asarray(cell.slope(torch.from_numpy(u)).numpy())
