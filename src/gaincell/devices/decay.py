"""Retention from measured decays: which of three laws, how fast, towards which voltage, how different from
cell to cell.

    exponential     g(t) = exp(-t / tau)
    stretched       g(t) = exp(-(t / tau)^beta)
    two-times       g(t) = w exp(-t / tau) + (1 - w) exp(-t / tau_slow)
    V(t) = V_inf + (V_0 - V_inf) g(t)

Every cell is fitted on its own, with V_0 and V_inf of its own; tau is the geometric mean over the cells. The
law is the one of smallest AICc over all cells, if none is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import curve_fit

from gaincell.devices.measurement import Numbers, Table
from gaincell.errors import InputError
from gaincell.quantity import one_of

Law = Callable[..., Numbers]
CLEARLY_BETTER = 6.0
"""By how much the AICc of a law with more parameters must be lower."""


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


@dataclass(frozen=True)
class DecayFit:
    """What decays say about cells.

    law: of LAWS.  tau: s.  beta: of "stretched".  tau_slow, share: of "two-times": the slower time, s, and w.
    target: V_inf, V.  tau_spread: standard deviation of ln tau across cells; None with one cell.
    rms: of all points, V.  cells, points: how many.
    """

    law: str
    tau: float
    beta: float | None
    tau_slow: float | None
    share: float | None
    target: float
    tau_spread: float | None
    rms: float
    cells: int
    points: int

    @property
    def time_to_1_over_e(self) -> float:
        """When 1/e of the signal is left, s."""
        if self.law != "two-times":
            return self.tau
        assert self.tau_slow is not None
        assert self.share is not None
        t = np.geomspace(self.tau * 1e-3, self.tau_slow * 10, 20_000)
        left = _two_times(t, self.tau, self.tau_slow / self.tau, self.share)
        return float(np.interp(-1 / math.e, -left, t))


def fit_decay(table: Table, law: str | None = None) -> DecayFit:
    """Fit the cells of measured decays.

    Args:
        table: of `read_decay`.
        law: one of LAWS; None: the one that describes them best.

    Raises:
        InputError: too few points, or decays that no law describes.
    """
    if law is not None and law not in LAWS:
        raise InputError(f"law {law!r}; choose {one_of(LAWS)}")
    names = list(LAWS) if law is None else [law]
    best: tuple[float, DecayFit] | None = None
    for name in names:
        found = _fit_law(table, name)
        if found is None:
            continue
        if best is None or found[0] < best[0] - CLEARLY_BETTER:
            best = found
    if best is None:
        raise InputError(
            f"{table.path}: no law fits; give 6 or more times a cell, from well below to well beyond the "
            "time in which a third of the signal is left"
        )
    return best[1]


def _fit_law(table: Table, name: str) -> tuple[float, DecayFit] | None:
    """(AICc, fit) of one law; None where it cannot be fitted."""
    law, start, lowest, highest = LAWS[name]
    rows, squares, points, parameters = [], 0.0, 0, 0

    def model(t: Numbers, first: float, last: float, log_tau: float, *rest: float) -> Numbers:
        return last + (first - last) * law(t, math.exp(log_tau), *rest)

    for _, cell in table.cells():
        t, v = cell["time"], cell["voltage"]
        order = np.argsort(t)
        t, v = t[order], v[order]
        count = 3 + len(start)
        if len(np.unique(t)) < count + 2:
            return None
        third = v[-1] + (v[0] - v[-1]) / math.e
        crossing = t[np.argmin(np.abs(v - third))]
        guess = math.log(max(float(crossing), float(t[t > 0].min())))
        reach = 2 * float(np.ptp(v)) + 1e-6
        bounds = (
            [float(v.min()) - reach, float(v.min()) - reach, guess - 12, *lowest],
            [float(v.max()) + reach, float(v.max()) + reach, guess + 12, *highest],
        )
        try:
            p, _ = curve_fit(model, t, v, [v[0], v[-1], guess, *start], bounds=bounds, max_nfev=20_000)
        except (RuntimeError, ValueError):
            return None
        rows.append(p)
        squares += float(((v - model(t, *p)) ** 2).sum())
        points, parameters = points + len(t), parameters + count
    found = np.array(rows)
    tau = np.exp(found[:, 2])
    ratio = found[:, 3] if name == "two-times" else None
    variance = max(squares / points, 1e-24)
    aicc = points * math.log(variance) + 2 * parameters * points / max(1, points - parameters - 1)
    return aicc, DecayFit(
        law=name,
        tau=float(np.exp(found[:, 2].mean())),
        beta=float(found[:, 3].mean()) if name == "stretched" else None,
        tau_slow=None if ratio is None else float(np.exp(np.log(tau * ratio).mean())),
        share=float(found[:, 4].mean()) if name == "two-times" else None,
        target=float(found[:, 1].mean()),
        tau_spread=float(found[:, 2].std(ddof=1)) if len(found) > 1 else None,
        rms=math.sqrt(squares / points),
        cells=len(found),
        points=points,
    )
