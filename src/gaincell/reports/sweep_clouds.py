"""Figures of sweeps in which several parameters change together: front, scatter, parallel coordinates.

Ratios of perplexities are drawn as their change in %, linear up to 1 % and logarithmic beyond: one bad point
does not flatten all others.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import TypeAlias

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gaincell.files import is_number
from gaincell.reports.style import BLACK, BLUE, GREY, ORANGE, RED, legend_below, panel, styled
from gaincell.reports.sweep import UNSEEN, quantity, unseen, varied, word
from gaincell.results.sweep import Objective, Point, SweepResult

TITLES = {
    "perplexity": "perplexity", "energy": "energy of a token", "latency": "latency of a token",
    "area": "area", "yield": "yield",
}  # fmt: skip
Plain: TypeAlias = float | str
"""A number or a word."""
LINES = 7
"""Most lines of one panel; larger grids are scattered."""
COLUMNS = 4
"""Of panels of the scatter."""
PALE, TITLE_WIDTH, CLOSE = "#DCDCDC", 12, 0.05
"""Of points behind others; characters of a line below an axis, heights below which only one of two values is
labelled, of the parallel coordinates.
"""
PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
"""Behind words that stand on lines."""


def ticks(unit: str, label: Callable[[float, str], str] = quantity) -> Callable[[float, object], str]:
    """Labels with their unit."""
    return lambda x, _: label(x, unit)


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
    *,
    color: str,
    marker: str,
    markersize: float | None = None,
) -> None:
    """Open symbols, which say that nothing was measured, over points not exercised; only for what follows
    from losses.
    """
    chosen = [n for n, point in enumerate(points) if unseen(result, point)]
    if chosen and objective in ("perplexity", "yield"):
        axes.plot([x[n] for n in chosen], [y[n] for n in chosen], linestyle="none", markerfacecolor="white",
                  zorder=4, label=UNSEEN, color=color, marker=marker, markersize=markersize)  # fmt: skip


def key(value: Plain | None) -> Plain:
    return value if is_number(value) else str(value)


def is_large(result: SweepResult) -> bool:
    """Whether a grid has more lines in a panel than can be told apart."""
    names, points = varied(result), result.complete
    others = ({tuple(p.setting(o) for o in names if o != name) for p in points} for name in names)
    return result.sampler == "grid" and any(len(lines) > LINES for lines in others)


@styled()
def pareto(result: SweepResult) -> Figure | None:
    """The first objective against every other; the front as a line, the unchanged design marked. None of one
    objective or point.
    """
    first, *rest = result.objectives
    if not rest or len(result.complete) < 2:
        return None
    figure = Figure(figsize=(0.6 + (4.6 if len(rest) == 1 else 3.4) * len(rest), 4.1))
    points, own = result.complete, result.own
    best = {point.point for point in result.front}
    for axes, other in zip(figure.subplots(1, len(rest), squeeze=False)[0], rest, strict=True):
        for chosen, colour, label in ((False, GREY, "other points"), (True, BLUE, "Pareto front")):
            some = [p for p in points if (p.point in best) == chosen]
            some.sort(key=lambda p: p.values[other.name].value)
            if not some:
                continue
            x = [p.values[other.name].value for p in some]
            heights = [_change(result, p, first.name) for p in some]
            y = [value for value, _, _ in heights]
            marker, size = ("o", 5) if chosen else ("D", 3)
            axes.errorbar(x, y, yerr=error_bars(heights), linestyle="none", zorder=3, elinewidth=0.7,
                          capsize=0, alpha=1.0 if chosen else 0.6, label=label, color=colour, marker=marker,
                          markersize=size)  # fmt: skip
            draw_unseen(axes, result, first.name, some, x, y, color=colour, marker=marker, markersize=size)
            if chosen and len(rest) == 1:
                where = "post" if other.sign > 0 else "pre"
                axes.step(x, y, where=where, color=colour, linewidth=1)
        if own is not None:
            place = own.values[other.name].value, _change(result, own, first.name)[0]
            axes.plot(*place, "*", color=ORANGE, markeredgecolor=BLACK, markersize=13, zorder=5,
                      label=result.design.name)  # fmt: skip
        _scale(axes, points, other)
        axes.set_xlabel(TITLES[other.name])
        _first_axis(axes, result, first)
    legend_below(figure, columns=3)
    return figure


def _change(result: SweepResult, point: Point, objective: str) -> tuple[float, float, float]:
    """Value and ends of its interval; of ratios their change in %."""
    found = height(result, point, objective)
    if not as_ratio(result, objective):
        return found
    value, low, high = (100 * (ratio - 1) for ratio in found)
    return value, low, high


def _first_axis(axes: Axes, result: SweepResult, objective: Objective) -> None:
    if as_ratio(result, objective.name):
        axes.set_yscale("symlog", linthresh=1.0)
        axes.yaxis.set_major_formatter(lambda x, _: f"{x:+g} %" if x else "0")
        axes.axhline(0.0, color=BLACK, linewidth=0.6)
        axes.set_ylabel(f"{TITLES[objective.name]} vs. unchanged")
        return
    axes.set_ylabel(axis_title(result, objective))
    if objective.unit != "1":
        axes.yaxis.set_major_formatter(ticks(objective.unit))


@styled()
def scatter(result: SweepResult) -> Figure | None:
    """The first objective against every parameter, all points, whatever the others are. None where they do
    not lie anywhere in the space, and are few.
    """
    if (result.sampler in ("grid", "each") and not is_large(result)) or len(result.complete) < 2:
        return None
    names, objective = varied(result), result.objectives[0]
    units, points = result.units, result.complete
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(1.0 + 2.9 * columns, 0.5 + 2.7 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    heights = [_change(result, p, objective.name) for p in points]
    y, ends = [value for value, _, _ in heights], error_bars(heights)
    for n, (axes, name) in enumerate(zip(grid, names, strict=False)):
        values = [p.setting(name) for p in points]
        known = sorted({key(v) for v in values}, key=lambda v: (not is_number(v), v))
        if len(known) <= 6 or not all(map(is_number, known)):
            places = {value: float(place) for place, value in enumerate(known)}
            x = [places[key(v)] for v in values]
            axes.set_xticks(list(places.values()), [word(v, units[name]) for v in known])
        else:
            x = [float(v) for v in values if is_number(v)]
            if min(x) > 0 and max(x) > 8 * min(x):
                axes.set_xscale("log")
            axes.xaxis.set_major_formatter(ticks(units[name], word))
            axes.minorticks_off()
            axes.set_xticks([min(x), max(x)])
        axes.errorbar(
            x, y, yerr=ends, fmt="o", color=BLUE, markersize=3.5, elinewidth=0.5, capsize=0, alpha=0.6
        )
        draw_unseen(axes, result, objective.name, points, x, y, marker="o", markersize=3.5, color=BLUE)
        axes.set_xlabel(name)
        _first_axis(axes, result, objective)
        if n % columns:
            axes.set_ylabel("")
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    legend_below(figure)
    return figure


def _scale(axes: Axes, points: Sequence[Point], objective: Objective) -> None:
    """The axis of an objective: logarithmic where values are of several orders, with units at its ticks."""
    found = [p.values[objective.name].value for p in points]
    if min(found) > 0 and max(found) > 8 * min(found):
        axes.set_xscale("log")
    if objective.unit != "1":
        axes.xaxis.set_major_formatter(ticks(objective.unit))
        axes.xaxis.set_minor_formatter(lambda x, _: "")
        axes.tick_params(axis="x", labelrotation=30)


@styled()
def parallel(result: SweepResult) -> Figure | None:
    """The points of the front as lines over parameters and objectives, coloured by the first objective; the
    unchanged design in broken strokes; all others pale, behind them. None where none change together.
    """
    if result.sampler == "each" or len(varied(result)) < 2 or len(result.complete) < 2:
        return None
    names, objectives, units = varied(result), result.objectives, result.units
    titles = [*names, *(TITLES[o.name] for o in objectives)]
    points, first = result.complete, objectives[0].name
    columns: list[list[Plain | None]] = [[p.setting(n) for p in points] for n in names]
    columns += [[p.values[o.name].value for p in points] for o in objectives]
    kinds = [*(units[n] for n in names), *(o.unit for o in objectives)]
    scaled = [_scaled(column) for column in columns]
    if as_ratio(result, first):
        changes = [_change(result, p, first)[0] for p in points]
        scaled[len(names)] = _scaled([math.copysign(math.log1p(abs(x)), x) for x in changes])
    best = {point.point for point in result.front} if len(objectives) > 1 else None
    chosen = [n for n, p in enumerate(points) if best is None or p.point in best]
    shown = [points[n].values[first].value for n in chosen]
    colours, norm = colormaps["viridis"], Normalize(min(shown), max(shown))
    figure, axes = panel(2.2 + 1.1 * len(titles), 4.6)
    places = range(len(titles))
    lines = list(zip(*scaled, strict=True))
    labels = iter(["other points"] if len(chosen) < len(points) else [])
    for n in {*range(len(points))} - {*chosen}:
        axes.plot(places, lines[n], color=PALE, linewidth=0.8, label=next(labels, None))
    labels = iter(["Pareto front"] if best is not None else [])
    for n, value in zip(chosen, shown, strict=True):
        dotted = unseen(result, points[n])
        label, width = UNSEEN if dotted else next(labels, None), 2.2 if best is not None else 1.2
        axes.plot(places, lines[n], color=colours(norm(value)), linewidth=width, label=label,
                  linestyle=":" if dotted else "-")  # fmt: skip
    for point, line in zip(points, lines, strict=True):
        if point is result.own:
            name = f"unchanged: {result.design.name}"
            axes.plot(places, line, color=RED, linewidth=2, linestyle="--", label=name)
    for place, (column, heights, unit) in enumerate(zip(columns, scaled, kinds, strict=True)):
        axes.axvline(place, color=BLACK, linewidth=0.8)
        known = dict(zip((key(v) for v in column), heights, strict=True))
        ends = [pick(known, key=known.__getitem__) for pick in (min, max)]
        labelled = math.inf
        for plain in sorted(known if len(known) <= 6 else ends, key=known.__getitem__, reverse=True):
            if labelled - known[plain] > CLOSE:
                labelled = known[plain]
                axes.annotate(word(plain, unit), (place, labelled), xytext=(4, 0), va="center",
                              textcoords="offset points", fontsize=8, bbox=PAPER)  # fmt: skip
    words = [textwrap.fill(t.replace("_", " ").replace(".", ". "), TITLE_WIDTH) for t in titles]
    axes.set_xticks(places, words, fontsize=9)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.margins(x=0.06)
    if len(set(shown)) > 1:
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.02)
        if objectives[0].unit != "1":
            bar.ax.yaxis.set_major_formatter(ticks(objectives[0].unit))
        bar.set_label(TITLES[first] + ("" if best is None else " of the points of the front"))
    if hidden := sum(point.state == "failed" for point in result.points):
        axes.set_title(f"without {hidden} points that failed")
    axes.grid(visible=False)
    legend_below(figure, columns=3)
    return figure


def _scaled(column: Sequence[Plain | None]) -> list[float]:
    """Heights from 0 to 1; words stand above numbers, numbers of several orders are taken logarithmically."""
    plain = [float(v) for v in column if is_number(v)]
    words = sorted({str(v) for v in column if not is_number(v)})
    logarithmic = bool(plain) and min(plain) > 0 and max(plain) >= 8 * min(plain)
    heights = [math.log(v) if logarithmic else v for v in plain]
    low, high = (min(heights), max(heights)) if heights else (0.0, 0.0)
    room = 1.0 if not words else (0.8 if plain else 0.0)
    found = []
    for v in column:
        if is_number(v):
            height = math.log(v) if logarithmic else float(v)
            found.append(room * (0.5 if high == low else (height - low) / (high - low)))
        else:
            place = words.index(str(v)) + (1 if plain else 0)
            found.append(room + (1 - room) * place / max(1, len(words) - (0 if plain else 1)))
    return found
