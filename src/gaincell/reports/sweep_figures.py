"""Figures of sweeps, from the JSON of `gaincell sweep` alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gaincell import files
from gaincell.reports.figures import BLACK, BLUE, GREY, ORANGE, PALETTE, STYLE
from gaincell.reports.results import number, numbers
from gaincell.reports.sweep import (
    Point,
    Result,
    changed,
    complete,
    front,
    is_number,
    quantity,
    setting,
    varied,
    word,
)

LINES = 7
"""Most lines of one panel."""
PANELS = 8
"""Most panels of the curves of several objectives."""
TITLES = {
    "perplexity": "perplexity", "energy": "energy of a token", "latency": "latency of a token",
    "area": "area", "yield": "yield",
}  # fmt: skip


def draw_all(result: Result, folder: Path, prefix: str = "") -> list[Path]:
    """Every figure that the result has data for, as PNG files in `folder`."""
    written = []
    for name, (has_data, draw) in FIGURES.items():
        if has_data(result):
            with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
                written.append(files.write_atomic(folder / f"{prefix}{name}.png", draw(result).savefig))
    return written


def curves(result: Result) -> Figure:
    """Objectives against every parameter, the others fixed; bands of 95 %. Only the first objective where
    there are many panels.
    """
    names = [name for name in varied(result) if _has_numbers(result, name)]
    objectives = result["objectives"]
    if len(names) * len(objectives) > PANELS:
        objectives = objectives[:1]
    pairs = [(objective, name) for objective in objectives for name in names]
    columns = len(names) if len(objectives) > 1 else min(4, len(names))
    rows = math.ceil(len(pairs) / columns)
    figure = Figure(figsize=(0.8 + max(5.0, 3.1 * columns), 0.5 + 2.6 * rows))
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for n, (axes, (objective, name)) in enumerate(zip(grid, pairs, strict=False)):
        _curve(axes, result, name, objective)
        if n % columns == 0:
            axes.set_ylabel(_axis_title(result, objective))
        if objective["unit"] != "1":
            axes.yaxis.set_major_formatter(_ticks(objective["unit"]))
    for axes in grid[len(pairs) :]:
        axes.set_visible(False)
    return figure


def _ticks(unit: str) -> Callable[[float, object], str]:
    """Labels with their unit."""
    return lambda x, _: quantity(x, unit)


def _has_numbers(result: Result, name: str) -> bool:
    return sum(is_number(v) for v in {setting(p, name) for p in complete(result)}) > 1


def tornado(result: Result) -> Figure:
    """Perplexity after every single change over that of the unchanged design, the best on top."""
    points = sorted((p for p in complete(result) if "ratio" in p), key=lambda p: number(p["ratio"]))
    figure = Figure(figsize=(7.6, 0.9 + 0.27 * len(points)))
    axes = figure.add_subplot()
    heights = [_height(result, point, "perplexity") for point in points]
    ratios = [ratio for ratio, _, _ in heights]
    ends = [[r - low for r, low, _ in heights], [high - r for r, _, high in heights]]
    axes.axvline(1.0, color=BLACK, linewidth=1)
    axes.errorbar(ratios, range(len(points)), xerr=ends, fmt="o", color=BLUE, markersize=4, capsize=3)
    axes.set_yticks(range(len(points)), [changed(result, point) for point in points])
    axes.invert_yaxis()
    if ratios and max(ratios) > 1.5:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}")
    axes.set_xlabel("perplexity / that of the unchanged design, with its interval of 95 %")
    return figure


def _axis_title(result: Result, objective: Mapping[str, str]) -> str:
    title = TITLES[objective["name"]]
    return f"{title} / unchanged" if _as_ratio(result, objective["name"]) else title


def _as_ratio(result: Result, objective: str) -> bool:
    return objective == "perplexity" and any("ratio" in p for p in complete(result))


def _height(result: Result, point: Point, objective: str) -> tuple[float, float, float]:
    """Value, and the ends of its interval."""
    if _as_ratio(result, objective):
        if "ratio" not in point:
            return 1.0, 1.0, 1.0
        ratio = number(point["ratio"])
        low, high = numbers(point["ratio_interval"]) if "ratio_interval" in point else (ratio, ratio)
        return ratio, low, high
    x = number(point["values"][objective])
    low, high = numbers(point["intervals"][objective]) if objective in point["intervals"] else (x, x)
    return x, low, high


def _curve(axes: Axes, result: Result, name: str, objective: Mapping[str, str]) -> None:
    """One panel; a line for every setting of the other parameters that has two points or more."""
    others = [n for n in varied(result) if n != name]
    groups: dict[str, list[Point]] = {}
    for point in complete(result):
        groups.setdefault(", ".join(word(setting(point, n)) for n in others), []).append(point)
    lines = {key: points for key, points in groups.items() if len(points) > 1}
    unit = next(p["unit"] for p in result["parameters"] if p["name"] == name)
    seen = {repr(setting(p, name)): setting(p, name) for points in lines.values() for p in points}
    plain = sorted(v for v in seen.values() if is_number(v))
    words = sorted(str(v) for v in seen.values() if not is_number(v))
    logarithmic = bool(plain) and plain[0] > 0 and plain[-1] >= 8 * plain[0]
    step = max((plain[-1] / plain[0]) ** (1 / max(1, len(plain) - 1)), 1.5) if logarithmic else 0.0
    span = plain[-1] - plain[0] if plain and not logarithmic else 1.0
    places: dict[Any, float] = {v: float(v) for v in plain}
    for n, text in enumerate(words, 1):
        beyond = plain[-1] * step**n if logarithmic else (plain[-1] + 0.2 * n * span if plain else float(n))
        places[text] = beyond
    for n, (key, points) in enumerate(list(lines.items())[:LINES]):
        colour = PALETTE[n % len(PALETTE)]
        ordered = sorted(points, key=lambda p: places[_key(setting(p, name))])
        x = [places[_key(setting(p, name))] for p in ordered]
        y, low, high = zip(*(_height(result, p, objective["name"]) for p in ordered), strict=True)
        count = sum(is_number(setting(p, name)) for p in ordered)
        label = f"{', '.join(others)} = {key}" if len(lines) > 1 else None
        axes.plot(x[:count], y[:count], "o-", color=colour, markersize=4, label=label)
        axes.fill_between(x[:count], low[:count], high[:count], color=colour, alpha=0.2, linewidth=0)
        if x[count:]:
            ends = [
                [a - b for a, b in zip(y, low, strict=True)],
                [b - a for a, b in zip(y, high, strict=True)],
            ]
            ends = [[max(0.0, e) for e in end[count:]] for end in ends]
            axes.errorbar(x[count:], y[count:], yerr=ends, fmt="s", color=colour, markersize=4, capsize=3)
    if logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
    if len(places) <= 9:
        labels = [word(v, unit).replace(" ", "\n") if is_number(v) else str(v) for v in places]
        axes.set_xticks(list(places.values()), labels)
    axes.set_xlabel(name if len(places) <= 9 or unit == "1" else f"{name} ({unit})")
    if len(lines) > 1:
        axes.legend(fontsize=8)


def _key(value: Any) -> Any:
    return value if is_number(value) else str(value)


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
            y, low, high = zip(*(_height(result, p, first["name"]) for p in some), strict=True)
            ends = [
                [v - e for v, e in zip(y, low, strict=True)],
                [e - v for v, e in zip(y, high, strict=True)],
            ]
            axes.errorbar(x, y, yerr=ends, fmt="o", color=colour, markersize=5 if chosen else 3.5,
                          elinewidth=0.7, alpha=1.0 if chosen else 0.6, label=label)  # fmt: skip
            if chosen and len(rest) == 1:
                axes.step(x, y, where="post", color=colour, linewidth=1)
        for point in (p for p in points if number(p["point"]) == reference):
            place = number(point["values"][other["name"]]), _height(result, point, first["name"])[0]
            axes.plot(*place, "*", color=ORANGE, markeredgecolor=BLACK, markersize=13,
                      label=result["design"]["name"])  # fmt: skip
        _scale(axes, points, other)
        axes.set_xlabel(TITLES[other["name"]])
        axes.set_ylabel(_axis_title(result, first))
        axes.legend(fontsize=8)
    return figure


def _scale(axes: Axes, points: Sequence[Point], objective: Mapping[str, str]) -> None:
    """The axis of an objective: logarithmic where values are of several orders, with units at its ticks."""
    found = [number(p["values"][objective["name"]]) for p in points]
    if min(found) > 0 and max(found) > 8 * min(found):
        axes.set_xscale("log")
    if objective["unit"] != "1":
        axes.xaxis.set_major_formatter(_ticks(objective["unit"]))
        axes.xaxis.set_minor_formatter(lambda x, _: "")
        axes.tick_params(axis="x", labelrotation=30)


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
        known = dict(zip((_key(v) for v in column), heights, strict=True))
        ends = [pick(known, key=known.__getitem__) for pick in (min, max)]
        shown = list(known) if len(known) <= 6 else ends
        for value in shown:
            axes.annotate(word(value, unit), (place, known[value]), xytext=(4, 0),
                          textcoords="offset points", fontsize=8, va="center")  # fmt: skip
    axes.set_xticks(range(len(titles)), [t.replace(".", ".\n") for t in titles], fontsize=8, rotation=20)
    axes.set_yticks([])
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


def _several(result: Result) -> bool:
    return len(result["objectives"]) > 1 and len(complete(result)) > 1


def _has_lines(result: Result) -> bool:
    """Whether there are points that differ in one parameter alone, and numbers to draw them over."""
    alone = result["sampler"] in ("grid", "each") and len(complete(result)) > 1
    return alone and any(_has_numbers(result, name) for name in varied(result))


def _is_cloud(result: Result) -> bool:
    """Whether several parameters change together."""
    return result["sampler"] != "each" and len(varied(result)) > 1 and len(complete(result)) > 1


def _is_tornado(result: Result) -> bool:
    return result["sampler"] == "each" and sum("ratio" in p for p in complete(result)) > 1


FIGURES: Mapping[str, tuple[Callable[[Result], bool], Callable[[Result], Figure]]] = {
    "curves": (_has_lines, curves),
    "tornado": (_is_tornado, tornado),
    "pareto": (_several, pareto),
    "parallel": (_is_cloud, parallel),
}
"""File name -> (whether the result has what it needs, how it is drawn)."""
