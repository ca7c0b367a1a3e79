"""What figures of sweeps share: titles, heights with intervals, ticks with units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes

from gaincell.reports.sweep import UNSEEN, is_number, quantity, unseen
from gaincell.results.sweep import Objective, Point, SweepResult

TITLES = {
    "perplexity": "perplexity", "energy": "energy of a token", "latency": "latency of a token",
    "area": "area", "yield": "yield",
}  # fmt: skip


def ticks(unit: str) -> Callable[[float, object], str]:
    """Labels with their unit."""
    return lambda x, _: quantity(x, unit)


def axis_title(result: SweepResult, objective: Objective) -> str:
    title = TITLES[objective.name]
    return f"{title} / unchanged" if as_ratio(result, objective.name) else title


def as_ratio(result: SweepResult, objective: str) -> bool:
    return objective == "perplexity" and result.has_ratios


def height(result: SweepResult, point: Point, objective: str) -> tuple[float, float, float]:
    """Value, and the ends of its interval; NaN where the perplexity is infinite, which figures leave out."""
    if as_ratio(result, objective):
        if point.ratio is None:
            own = point.point == result.reference
            return (1.0, 1.0, 1.0) if own else (math.nan, math.nan, math.nan)
        x, ends = point.ratio, point.ratio_interval
    else:
        x, ends = point.values[objective].value, point.interval(objective)
    low, high = ends or (x, x)
    return x, low, high


def error_bars(heights: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """Lengths below and above the values, as matplotlib wants them."""
    return [[x - low for x, low, _ in heights], [high - x for x, _, high in heights]]


def draw_unseen(
    axes: Axes,
    result: SweepResult,
    objective: str,
    points: Sequence[Point],
    x: Sequence[float],
    y: Sequence[float],
    **drawn: Any,
) -> bool:
    """Open symbols, which say that nothing was measured, over points not exercised; whether there are any.
    Only for what follows from losses.
    """
    chosen = [n for n, point in enumerate(points) if unseen(result, point)]
    if not chosen or objective not in ("perplexity", "yield"):
        return False
    axes.plot([x[n] for n in chosen], [y[n] for n in chosen], linestyle="none", markerfacecolor="white",
              zorder=4, label=UNSEEN, **drawn)  # fmt: skip
    return True


def key(value: Any) -> Any:
    return value if is_number(value) else str(value)
