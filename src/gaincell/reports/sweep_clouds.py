"""Figures of sweeps in which several parameters change together: front, scatter, parallel coordinates.

Ratios of perplexities are drawn as their change in %, linear up to 1 % and logarithmic beyond: one bad point
does not flatten all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gaincell.reports.results import number
from gaincell.reports.style import BLACK, BLUE, GREY, ORANGE, styled
from gaincell.reports.sweep import Point, Result, complete, front, is_number, setting, varied, word
from gaincell.reports.sweep_axes import TITLES, as_ratio, axis_title, height, key, ticks

COLUMNS = 4
"""Of panels of the scatter."""


@styled()
def pareto(result: Result) -> Figure:
    """The first objective against every other; the front as a line, the unchanged design marked."""
    first, *rest = result["objectives"]
    figure = Figure(figsize=(0.6 + 4.6 * len(rest), 3.9))
    points = complete(result)
    best = {number(point["point"]) for point in front(result)}
    reference = number(result["reference"]) if "reference" in result else None
    for axes, other in zip(figure.subplots(1, len(rest), squeeze=False)[0], rest, strict=True):
        for chosen, colour, label in ((False, GREY, "other points"), (True, BLUE, "Pareto front")):
            some = [p for p in points if (number(p["point"]) in best) == chosen]
            some.sort(key=lambda p: number(p["values"][other["name"]]))
            if not some:
                continue
            x = [number(p["values"][other["name"]]) for p in some]
            y, low, high = zip(*(_change(result, p, first["name"]) for p in some), strict=True)
            ends = [
                [v - e for v, e in zip(y, low, strict=True)],
                [e - v for v, e in zip(y, high, strict=True)],
            ]
            axes.errorbar(x, y, yerr=ends, fmt="o", color=colour, markersize=5 if chosen else 3.5, zorder=3,
                          elinewidth=0.7, alpha=1.0 if chosen else 0.6, label=label)  # fmt: skip
            if chosen and len(rest) == 1:
                axes.step(x, y, where="post", color=colour, linewidth=1)
        for point in (p for p in points if number(p["point"]) == reference):
            place = number(point["values"][other["name"]]), _change(result, point, first["name"])[0]
            axes.plot(*place, "*", color=ORANGE, markeredgecolor=BLACK, markersize=13, zorder=5,
                      label=result["design"]["name"])  # fmt: skip
        _scale(axes, points, other)
        axes.set_xlabel(TITLES[other["name"]])
        _first_axis(axes, result, first)
        axes.legend()
    return figure


def _change(result: Result, point: Point, objective: str) -> tuple[float, float, float]:
    """Value and ends of its interval; of ratios their change in %."""
    found = height(result, point, objective)
    if not as_ratio(result, objective):
        return found
    value, low, high = (100 * (ratio - 1) for ratio in found)
    return value, low, high


def _number(unit: str, x: float, _: object) -> str:
    """Label of a tick."""
    return word(x, unit)


def _first_axis(axes: Axes, result: Result, objective: Mapping[str, str]) -> None:
    """The vertical axis of the first objective."""
    if as_ratio(result, objective["name"]):
        axes.set_yscale("symlog", linthresh=1.0)
        axes.yaxis.set_major_formatter(lambda x, _: f"{x:+g} %" if x else "0")
        axes.axhline(0.0, color=BLACK, linewidth=0.6)
        axes.set_ylabel(f"{TITLES[objective['name']]} vs. unchanged")
        return
    axes.set_ylabel(axis_title(result, objective))
    if objective["unit"] != "1":
        axes.yaxis.set_major_formatter(ticks(objective["unit"]))


@styled()
def scatter(result: Result) -> Figure:
    """The first objective against every parameter, all points, whatever the others are."""
    names, objective = varied(result), result["objectives"][0]
    units = {parameter["name"]: parameter["unit"] for parameter in result["parameters"]}
    points = complete(result)
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(1.0 + 2.9 * columns, 0.5 + 2.7 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    y, low, high = zip(*(_change(result, p, objective["name"]) for p in points), strict=True)
    ends = [[v - e for v, e in zip(y, low, strict=True)], [e - v for v, e in zip(y, high, strict=True)]]
    for n, (axes, name) in enumerate(zip(grid, names, strict=False)):
        values = [setting(p, name) for p in points]
        known = sorted({key(v) for v in values}, key=lambda v: (not is_number(v), v))
        if len(known) <= 6 or not all(map(is_number, known)):
            places = {value: float(place) for place, value in enumerate(known)}
            x = [places[key(v)] for v in values]
            axes.set_xticks(list(places.values()), [word(v, units[name]) for v in known])
        else:
            x = [float(v) for v in values]
            if min(x) > 0 and max(x) > 8 * min(x):
                axes.set_xscale("log")
            axes.xaxis.set_major_formatter(partial(_number, units[name]))
            axes.minorticks_off()
            axes.set_xticks([min(x), max(x)])
        axes.errorbar(x, y, yerr=ends, fmt="o", color=BLUE, markersize=3.5, elinewidth=0.5, alpha=0.6)
        axes.set_xlabel(name)
        _first_axis(axes, result, objective)
        if n % columns:
            axes.set_ylabel("")
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    return figure


def _scale(axes: Axes, points: Sequence[Point], objective: Mapping[str, str]) -> None:
    """The axis of an objective: logarithmic where values are of several orders, with units at its ticks."""
    found = [number(p["values"][objective["name"]]) for p in points]
    if min(found) > 0 and max(found) > 8 * min(found):
        axes.set_xscale("log")
    if objective["unit"] != "1":
        axes.xaxis.set_major_formatter(ticks(objective["unit"]))
        axes.xaxis.set_minor_formatter(lambda x, _: "")
        axes.tick_params(axis="x", labelrotation=30)


@styled()
def parallel(result: Result) -> Figure:
    """Every point a line over parameters and objectives; coloured by the first objective, the front bold."""
    names = varied(result)
    titles = [*names, *(TITLES[o["name"]] for o in result["objectives"])]
    points = complete(result)
    columns = [[setting(p, n) for p in points] for n in names]
    columns += [[number(p["values"][o["name"]]) for p in points] for o in result["objectives"]]
    units = {parameter["name"]: parameter["unit"] for parameter in result["parameters"]}
    kinds = [*(units[n] for n in names), *(o["unit"] for o in result["objectives"])]
    scaled = [_scaled(column) for column in columns]
    first = result["objectives"][0]["name"]
    if as_ratio(result, first):
        changes = [_change(result, p, first)[0] for p in points]
        scaled[len(names)] = _scaled([math.copysign(math.log1p(abs(x)), x) for x in changes])
    best = {number(point["point"]) for point in front(result)} if len(result["objectives"]) > 1 else set()
    shade = scaled[len(names)]
    figure = Figure(figsize=(1.4 + 1.35 * len(titles), 3.9))
    axes = figure.add_subplot()
    colours, norm = colormaps["viridis"], Normalize(0, 1)
    for n, point in enumerate(points):
        bold = number(point["point"]) in best
        axes.plot(range(len(titles)), [column[n] for column in scaled], color=colours(norm(shade[n])),
                  linewidth=2.2 if bold else 0.8, alpha=1.0 if bold else 0.5)  # fmt: skip
    for place, (column, heights, unit) in enumerate(zip(columns, scaled, kinds, strict=True)):
        axes.axvline(place, color=BLACK, linewidth=0.8)
        known = dict(zip((key(v) for v in column), heights, strict=True))
        ends = [pick(known, key=known.__getitem__) for pick in (min, max)]
        shown = list(known) if len(known) <= 6 else ends
        for value in shown:
            axes.annotate(word(value, unit), (place, known[value]), xytext=(4, 0),
                          textcoords="offset points", fontsize=8, va="center")  # fmt: skip
    axes.set_xticks(range(len(titles)), [t.replace(".", ".\n") for t in titles], fontsize=8, rotation=20)
    axes.set_yticks([])
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.08)
    unit = result["objectives"][0]["unit"]
    bar.set_ticks([0.0, 1.0], labels=[word(pick(columns[len(names)]), unit) for pick in (min, max)])
    bar.set_label(TITLES[first])
    if hidden := sum(point["state"] == "failed" for point in result["points"]):
        axes.set_title(f"without {hidden} points that failed", fontsize=8)
    axes.grid(visible=False)
    return figure


def _scaled(column: Sequence[Any]) -> list[float]:
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
