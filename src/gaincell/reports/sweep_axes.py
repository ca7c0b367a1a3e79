"""What figures of sweeps share: titles, heights with intervals, ticks with units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from gaincell.reports.results import number, numbers
from gaincell.reports.sweep import UNSEEN, Point, Result, complete, is_number, quantity, unseen

TITLES = {
    "perplexity": "perplexity", "energy": "energy of a token", "latency": "latency of a token",
    "area": "area", "yield": "yield",
}  # fmt: skip


def ticks(unit: str) -> Callable[[float, object], str]:
    """Labels with their unit."""
    return lambda x, _: quantity(x, unit)


def axis_title(result: Result, objective: Mapping[str, str]) -> str:
    title = TITLES[objective["name"]]
    return f"{title} / unchanged" if as_ratio(result, objective["name"]) else title


def as_ratio(result: Result, objective: str) -> bool:
    return objective == "perplexity" and any("ratio" in p for p in complete(result))


def height(result: Result, point: Point, objective: str) -> tuple[float, float, float]:
    """Value, and the ends of its interval; NaN where the perplexity is infinite, which figures leave out."""
    if as_ratio(result, objective):
        if "ratio" not in point:
            own = number(point["point"]) == number(result["reference"])
            return (1.0, 1.0, 1.0) if own else (math.nan, math.nan, math.nan)
        ratio = number(point["ratio"])
        low, high = numbers(point["ratio_interval"]) if "ratio_interval" in point else (ratio, ratio)
        return ratio, low, high
    x = number(point["values"][objective])
    low, high = numbers(point["intervals"][objective]) if objective in point["intervals"] else (x, x)
    return x, low, high


def draw_unseen(
    axes: Axes,
    result: Result,
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
