"""Retention from measured decays: which of three laws, how fast, towards which voltage, how different from
cell to cell.

    exponential     g(t) = exp(-t / tau)
    stretched       g(t) = exp(-(t / tau)^beta)
    two-times       g(t) = w exp(-t / tau) + (1 - w) exp(-t / tau_slow)
    V(t) = V_inf + (V_0 - V_inf) g(t)

Every cell is fitted on its own, with V_0 and V_inf of its own; tau is the geometric mean over the cells. The
law is the one of smallest AICc over all cells, if none is asked for. Cells whose ln tau is far from that of
the others (6 robust standard deviations, and half), or known to no better than a standard error of 1, are
left out and counted. What the record does not determine is refused: voltages that hardly change, a record
that ends before half of the signal is gone, a target outside of what was measured.

Intervals hold 95 %: over cells by Student's t (the spread: chi square), of a single cell from the covariance
of the least squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import curve_fit

from gaincell.devices.measurement import Numbers, Table
from gaincell.errors import InputError
from gaincell.quantity import one_of

Law = Callable[..., Numbers]
Interval = tuple[float, float]
CLEARLY_BETTER = 6.0
"""By how much the AICc of a law with more parameters must be lower."""
CONFIDENCE = 0.95
LEAST_EXPLAINED = 0.8
"""Share of the variance that a law, or the curve of a cell, must explain."""
MOST_LEFT = 0.5
"""Share of the signal that may be left when a record ends."""
FAR_OFF = 6.0
"""Robust standard deviations of ln tau, from which on a cell is left out."""
MOST_EVALUATIONS, MOST_TRIED = 20_000, 500
"""Of a law for one cell: of the one that is asked for, and of those that are tried. One that fits takes tens,
one with too many parameters for the data thousands.
"""
FEWEST_CELLS = 5
"""Below which none is called far from the others."""
FEWEST_TIMES = 6


def _exponential(t: Numbers, tau: float) -> Numbers:
    return np.exp(-t / tau)


def _stretched(t: Numbers, tau: float, beta: float) -> Numbers:
    return np.exp(-((t / tau) ** beta))


def _two_times(t: Numbers, tau: float, ratio: float, share: float) -> Numbers:
    return share * np.exp(-t / tau) + (1 - share) * np.exp(-t / (tau * ratio))


LAWS: Mapping[str, tuple[Law, tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    # law, start of its parameters behind tau, and their lowest and highest values
    "exponential": (_exponential, (), (), ()),
    "stretched": (_stretched, (0.8,), (0.1,), (2.0,)),
    "two-times": (_two_times, (10.0, 0.5), (1.5, 0.0), (1e6, 1.0)),
}


def two_times_to_1_over_e(tau: float, tau_slow: float, share: float) -> float:
    """When 1/e of the signal is left by the law "two-times", s."""
    t = np.geomspace(tau * 1e-3, tau_slow * 10, 20_000)
    return float(np.interp(-1 / math.e, -_two_times(t, tau, tau_slow / tau, share), t))


@dataclass(frozen=True)
class DecayFit:
    """What decays say about cells.

    Attributes:
        law: Of LAWS.
        tau: Time constant, s.
        beta: Of "stretched".
        tau_slow: Of "two-times": the slower time, s.
        share: Of "two-times": w.
        target: V_inf, V.
        tau_spread: Standard deviation of ln tau across cells, without the noise of the fits; None with one
            cell.
        intervals: Of these, by name; 95 %.
        rms: Of all points, V.
        cells: How many were used.
        points: How many were used.
        left_out: Cells that say little, or are far from the others.
        curves: For figures, of some cells: times, voltages, and the law's.
    """

    law: str
    tau: float
    beta: float | None
    tau_slow: float | None
    share: float | None
    target: float
    tau_spread: float | None
    intervals: Mapping[str, Interval]
    rms: float
    cells: int
    points: int
    left_out: int
    curves: tuple[tuple[Numbers, Numbers, Numbers], ...]

    @property
    def time_to_1_over_e(self) -> float:
        """When 1/e of the signal is left, s."""
        if self.law != "two-times":
            return self.tau
        assert self.tau_slow is not None
        assert self.share is not None
        return two_times_to_1_over_e(self.tau, self.tau_slow, self.share)


@dataclass(frozen=True)
class _Cell:
    """The fit of one cell: V_0, V_inf, ln tau, what the law has besides; their covariance."""

    p: Numbers
    covariance: Numbers
    t: Numbers
    v: Numbers
    fitted: Numbers


def fit_decay(table: Table, law: str | None = None) -> DecayFit:
    """Fit the cells of measured decays.

    Args:
        table: Of `read_decay`.
        law: One of LAWS; None: the one that describes them best.

    Raises:
        InputError: too few points, decays that no law describes, or that do not determine its parameters.
    """
    if law is not None and law not in LAWS:
        raise InputError(f"law {law!r}; choose {one_of(LAWS)}")
    best: tuple[float, str, list[_Cell]] | None = None
    for name in list(LAWS) if law is None else [law]:
        cells = _fit_law(table, name, MOST_TRIED if law is None else MOST_EVALUATIONS)
        if cells is None:
            continue
        aicc = _aicc(cells)
        if best is None or aicc < best[0] - CLEARLY_BETTER:
            best = (aicc, name, cells)
    if best is None:
        count, cell = min((len(np.unique(rows["time"])), name) for name, rows in table.cells())
        few = f": cell {cell or 1} has {count} times" if count < FEWEST_TIMES else ""
        raise InputError(
            f"{table.path}: no law fits{few}; give {FEWEST_TIMES} or more times a cell, from well below to "
            "well beyond the time in which a third of the signal is left"
        )
    _, name, cells = best
    _check_determined(table, name, cells)
    return _summary(name, *_without_outliers(cells))


def _fit_law(table: Table, name: str, most: int) -> list[_Cell] | None:
    """One law, cell by cell; None where it cannot be fitted with so many evaluations."""
    law, start, lowest, highest = LAWS[name]

    def model(t: Numbers, first: float, last: float, log_tau: float, *rest: float) -> Numbers:
        return last + (first - last) * law(t, math.exp(log_tau), *rest)

    found = []
    for _, cell in table.cells():
        order = np.argsort(cell["time"])
        t, v = cell["time"][order], cell["voltage"][order]
        if len(np.unique(t)) < 3 + len(start) + 2:
            return None
        third = v[-1] + (v[0] - v[-1]) / math.e
        crossing = t[np.argmin(np.abs(v - third))]
        guess = math.log(max(float(crossing), float(t[t > 0].min())))
        base, change = float(v.min()), float(np.ptp(v)) or 1.0
        u = (v - base) / change  # however small the change is
        bounds = ([-2, -2, guess - 12, *lowest], [3, 3, guess + 12, *highest])
        try:
            p, covariance = curve_fit(model, t, u, [u[0], u[-1], guess, *start], bounds=bounds, max_nfev=most)
        except (RuntimeError, ValueError):
            return None
        in_volts = np.array([change, change, *np.ones(len(p) - 2)])
        p, covariance = p * in_volts, covariance * np.outer(in_volts, in_volts)
        p[:2] += base
        found.append(_Cell(p, covariance, t, v, model(t, *p)))
    return found


def _aicc(cells: list[_Cell]) -> float:
    points, parameters = sum(len(c.t) for c in cells), sum(len(c.p) for c in cells)
    variance = max(sum(float(((c.v - c.fitted) ** 2).sum()) for c in cells) / points, 1e-24)
    return points * math.log(variance) + 2 * parameters * points / max(1, points - parameters - 1)


def _check_determined(table: Table, name: str, cells: list[_Cell]) -> None:
    """Raise InputError where the record says nothing about the parameters."""
    longest = max(float(c.t[-1]) for c in cells)
    total = sum(float(((c.v - c.v.mean()) ** 2).sum()) for c in cells)
    rest = sum(float(((c.v - c.fitted) ** 2).sum()) for c in cells)
    rounding = 1e-12 * sum(float((c.v**2).sum()) for c in cells)
    if total <= rounding or 1 - rest / total < LEAST_EXPLAINED:
        raise InputError(
            f"{table.path}: within {longest:.3g} s the voltages hardly change beyond their noise; measure "
            "for longer (a cell that holds has no retention time to fit), or are the columns swapped?"
        )
    law = LAWS[name][0]
    left = [float(law(c.t[-1:], math.exp(c.p[2]), *c.p[3:])[0]) for c in cells]
    if np.median(left) > MOST_LEFT:
        raise InputError(
            f"{table.path}: after {longest:.3g} s {100 * float(np.median(left)):.0f} % of the signal or "
            "more is left, too much to say how fast and towards which voltage it decays; measure for longer"
        )
    widest = max((c.v for c in cells), key=lambda v: float(np.ptp(v)))
    lowest, highest = float(widest.min()), float(widest.max())
    around = 0.25 * (highest - lowest)
    target = float(np.median([c.p[1] for c in cells]))
    if not lowest - around <= target <= highest + around:
        raise InputError(
            f"{table.path}: the fit decays to {target:.3g} V, outside of what was measured, {lowest:.3g} to "
            f"{highest:.3g} V: measure for longer, or are the columns swapped?"
        )


def _without_outliers(cells: list[_Cell]) -> tuple[list[_Cell], int]:
    """Cells whose tau is known and like the others', and how many are not."""
    everything, cells = len(cells), [c for c in cells if c.covariance[2, 2] <= 1.0] or cells
    log_tau = np.array([c.p[2] for c in cells])
    away = np.abs(log_tau - np.median(log_tau))
    limit = max(0.5, FAR_OFF * 1.4826 * float(np.median(away)))
    if len(cells) >= FEWEST_CELLS:
        cells = [c for c, distance in zip(cells, away, strict=True) if distance <= limit]
    return cells, everything - len(cells)


def _summary(name: str, cells: list[_Cell], left_out: int) -> DecayFit:
    p = np.array([c.p for c in cells])
    axis = np.eye(p.shape[1])
    intervals: dict[str, Interval] = {}

    def mean(key: str, column: Numbers, gradient: Numbers, log: bool = False) -> float:
        """Over the cells; `gradient` is that of the column by the parameters of a cell."""
        value = float(column.mean())
        if len(cells) > 1:
            half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(cells) - 1) * column.std(ddof=1))
            half /= math.sqrt(len(cells))
        else:
            free = max(1, len(cells[0].t) - p.shape[1])
            variance = float(gradient @ cells[0].covariance @ gradient)
            half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, free) * math.sqrt(variance))
        ends = (value - half, value + half)
        intervals[key] = (math.exp(ends[0]), math.exp(ends[1])) if log else ends
        return math.exp(value) if log else value

    tau = mean("retention_time", p[:, 2], axis[2], log=True)
    target = mean("target_voltage", p[:, 1], axis[1])
    beta = mean("beta", p[:, 3], axis[3]) if name == "stretched" else None
    two = name == "two-times"
    tau_slow = None
    if two:
        tau_slow = mean("tau_slow", p[:, 2] + np.log(p[:, 3]), axis[2] + axis[3] / p[0, 3], log=True)
    share = mean("share", p[:, 4], axis[4]) if two else None
    spread = None
    if len(cells) > 1:
        total = float(p[:, 2].var(ddof=1))
        own = float(np.mean([c.covariance[2, 2] for c in cells]))
        spread = math.sqrt(max(0.0, total - own))
        free = len(cells) - 1
        chi = (float(stats.chi2.ppf(0.5 + s * CONFIDENCE / 2, free)) for s in (1, -1))
        low, high = (math.sqrt(max(0.0, total * free / c - own)) for c in chi)
        intervals["spread"] = (low, high)
    points = sum(len(c.t) for c in cells)
    squares = sum(float(((c.v - c.fitted) ** 2).sum()) for c in cells)
    return DecayFit(
        law=name,
        tau=tau,
        beta=beta,
        tau_slow=tau_slow,
        share=share,
        target=target,
        tau_spread=spread,
        intervals=intervals,
        rms=math.sqrt(squares / points),
        cells=len(cells),
        points=points,
        left_out=left_out,
        curves=tuple((c.t, c.v, c.fitted) for c in cells[:50]),
    )
