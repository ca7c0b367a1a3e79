"""Sweeps as tables and figures, from the JSON of `gaincell sweep` alone."""

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
from gaincell.reports.tables import readable

Result = Mapping[str, Any]
Point = Mapping[str, Any]
PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"), (1e-15, "f"))
LINES = 7
"""Most lines of one panel."""
TITLES = {
    "perplexity": "perplexity", "energy": "energy of a token", "latency": "latency of a token",
    "area": "area", "yield": "yield",
}  # fmt: skip


def complete(result: Result) -> list[Point]:
    """The points that were measured."""
    return [point for point in result["points"] if point["state"] == "complete"]


def varied(result: Result) -> list[str]:
    """Parameters that differ between points."""
    names = [parameter["name"] for parameter in result["parameters"]]
    points = complete(result)
    return [n for n in names if len({repr(setting(p, n)) for p in points}) > 1] or names


def setting(point: Point, name: str) -> Any:
    """A parameter of a point: a number or a word."""
    entry = point["parameters"].get(name)
    return entry["value"] if isinstance(entry, Mapping) else entry


def front(result: Result) -> list[Point]:
    """Points that no other is better than in one objective and as good in all others."""
    signs = [1.0 if o["direction"] == "minimise" else -1.0 for o in result["objectives"]]
    names = [o["name"] for o in result["objectives"]]
    points = complete(result)
    scores = [[s * number(p["values"][n]) for s, n in zip(signs, names, strict=True)] for p in points]

    def dominated(ours: list[float]) -> bool:
        return any(
            theirs != ours and all(a <= b for a, b in zip(theirs, ours, strict=True)) for theirs in scores
        )

    return [point for point, score in zip(points, scores, strict=True) if not dominated(score)]


def quantity(x: float, unit: str, digits: int = 3) -> str:
    """A number with its unit, in thousands of it."""
    if unit == "1":
        return f"{x:.{digits + 1}g}"
    if unit == "m^2":
        return f"{x * 1e6:.{digits}g} mm²"
    if not math.isfinite(x) or x == 0:
        return f"{x:g} {unit}"
    scale, prefix = next(((s, p) for s, p in PREFIXES if abs(x) >= 0.9995 * s), PREFIXES[-1])
    return f"{x / scale:.{digits}g} {prefix}{unit}"


def word(value: Any, unit: str = "1") -> str:
    """A parameter's value."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:.4g}" if unit == "1" or unit == "charge units" else quantity(value, unit)
    return str(value)


def rows(result: Result, shown: Sequence[Point] | None = None) -> list[list[str]]:
    """Headings and a row a point: what varies, objectives with intervals, ratio, whether on the front."""
    names = varied(result)
    units = {parameter["name"]: parameter["unit"] for parameter in result["parameters"]}
    several = len(result["objectives"]) > 1
    has_ratio = any("ratio" in point for point in complete(result))
    head = [*names, *(objective["name"] for objective in result["objectives"])]
    lines = [head + (["ratio"] if has_ratio else []) + (["front"] if several else [])]
    best = {number(point["point"]) for point in front(result)} if several else set()
    reference = number(result["reference"]) if "reference" in result else None
    for point in result["points"] if shown is None else shown:
        line = [word(setting(point, name), units[name]) for name in names]
        if point["state"] != "complete":
            line += ["–"] * (len(lines[0]) - len(line))
            lines.append(line)
            continue
        line += [_objective(point, o["name"], o["unit"]) for o in result["objectives"]]
        if has_ratio:
            line.append("1" if number(point["point"]) == reference else _ratio(point))
        if several:
            line.append("•" if number(point["point"]) in best else "")
        lines.append(line)
    return lines


def _objective(point: Point, name: str, unit: str) -> str:
    x = number(point["values"][name])
    if name == "perplexity":
        shown = readable(x)
    elif name == "yield":
        shown = f"{100 * x:.0f} %"
    else:
        shown = quantity(x, unit)
    if name not in point["intervals"]:
        return shown
    low, high = numbers(point["intervals"][name])
    if name == "yield":
        return f"{shown} ({100 * low:.0f} to {100 * high:.0f})"
    return f"{shown} ± {max(x - low, high - x):.2g}"


def _ratio(point: Point) -> str:
    if "ratio" not in point:
        return "–"
    ratio = number(point["ratio"])
    if "ratio_interval" not in point:
        return _factor(ratio)
    low, high = numbers(point["ratio_interval"])
    return f"{_factor(ratio)} ± {max(ratio - low, high - ratio):.2g}"


def _factor(x: float) -> str:
    return f"{x:.4f}" if x < 10 else readable(x)


def caption(result: Result) -> str:
    """What the numbers are."""
    counts = {name: number(count) for name, count in result["counts"].items()}
    text = f"{result['model']['name']} on {result['design']['name']}, text {result['text']['name']}; "
    text += f"{result['provenance']['protocol']}. ±: 95 %"
    text += ", over blocks and chips" if number(result["chips"]) else ", over blocks"
    if any("ratio" in point for point in complete(result)):
        text += "; ratio: to the unchanged design, on the same blocks, with its own interval"
    if "front" in rows(result, [])[0]:
        text += "; •: on the Pareto front"
    text += f". {counts['complete']:.0f} of {counts['planned']:.0f} points measured"
    return text + (f", {counts['failed']:.0f} failed." if counts["failed"] else ".")


def sweep_table(result: Result) -> Any:
    """For a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    head, *body = rows(result)
    table = Table(
        title=result["sweep"], title_justify="left", box=SIMPLE_HEAD, caption=caption(result),
        caption_justify="left",
    )  # fmt: skip
    for heading in head:
        table.add_column(heading, justify="right", overflow="fold")
    for line in body:
        table.add_row(*line)
    return table


def failures(result: Result) -> list[str]:
    """A line for every failed point: its values and the reason."""
    failed = [point for point in result["points"] if point["state"] == "failed"]
    return [f"failed: {_settings(point)}: {point['reason']}" for point in failed]


def sweep_markdown(result: Result, shown: Sequence[Point] | None = None) -> str:
    """For a document; of the points `shown`, by default all."""
    head, *body = rows(result, shown)
    lines = [head, ["---:"] * len(head), *body]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    reasons = "".join(f"\n* {line}" for line in (failures(result) if shown is None else ()))
    return f"{table}\n\n{caption(result)}\n{reasons}".rstrip() + "\n"


def _settings(point: Point) -> str:
    return ", ".join(f"{name} = {word(setting(point, name))}" for name in point["parameters"])


def draw_all(result: Result, folder: Path, prefix: str = "") -> list[Path]:
    """Every figure that the result has data for, as PNG files in `folder`."""
    written = []
    for name, (has_data, draw) in FIGURES.items():
        if has_data(result):
            with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
                written.append(files.write_atomic(folder / f"{prefix}{name}.png", draw(result).savefig))
    return written


def curves(result: Result) -> Figure:
    """Every objective against every parameter, the others fixed; bands of 95 %."""
    names = varied(result)
    objectives = result["objectives"]
    figure = Figure(figsize=(0.8 + 3.1 * len(names), 0.6 + 2.6 * len(objectives)))
    grid = figure.subplots(len(objectives), len(names), squeeze=False)
    for row, objective in zip(grid, objectives, strict=True):
        for axes, name in zip(row, names, strict=True):
            _curve(axes, result, name, objective)
        row[0].set_ylabel(_axis_title(result, objective))
    return figure


def _axis_title(result: Result, objective: Mapping[str, str]) -> str:
    title = TITLES[objective["name"]]
    if _as_ratio(result, objective["name"]):
        return f"{title} / unchanged"
    return title if objective["unit"] == "1" else f"{title} ({objective['unit']})"


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
    plain = sorted(v for v in seen.values() if _is_number(v))
    words = sorted(str(v) for v in seen.values() if not _is_number(v))
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
        count = sum(_is_number(setting(p, name)) for p in ordered)
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
        labels = [word(v, unit).replace(" ", "\n") if _is_number(v) else str(v) for v in places]
        axes.set_xticks(list(places.values()), labels)
    axes.set_xlabel(name if len(places) <= 9 or unit == "1" else f"{name} ({unit})")
    if len(lines) > 1:
        axes.legend(fontsize=8)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _key(value: Any) -> Any:
    return value if _is_number(value) else str(value)


def pareto(result: Result) -> Figure:
    """The first objective against every other; the front as a line, the unchanged design marked."""
    first, *rest = result["objectives"]
    figure = Figure(figsize=(0.6 + 4.6 * len(rest), 3.9))
    best = {number(point["point"]) for point in front(result)}
    reference = number(result["reference"]) if "reference" in result else None
    for axes, other in zip(figure.subplots(1, len(rest), squeeze=False)[0], rest, strict=True):
        points = complete(result)
        for chosen, colour, label in ((False, GREY, "other points"), (True, BLUE, "Pareto front")):
            some = [p for p in points if (number(p["point"]) in best) == chosen]
            some.sort(key=lambda p: number(p["values"][other["name"]]))
            x = [number(p["values"][other["name"]]) for p in some]
            y = [number(p["values"][first["name"]]) for p in some]
            ends = [_interval(p, first["name"]) for p in some]
            errors = [[max(0.0, v - e[0]) for v, e in zip(y, ends, strict=True)],
                      [max(0.0, e[1] - v) for v, e in zip(y, ends, strict=True)]]  # fmt: skip
            axes.errorbar(x, y, yerr=errors, fmt="o", color=colour, markersize=5 if chosen else 3.5,
                          elinewidth=0.7, alpha=1.0 if chosen else 0.6, label=label)  # fmt: skip
            if chosen and len(rest) == 1:
                axes.step(x, y, where="post", color=colour, linewidth=1)
        for point in points:
            if number(point["point"]) == reference:
                x0, y0 = (number(point["values"][o["name"]]) for o in (other, first))
                axes.plot([x0], [y0], "*", color=ORANGE, markeredgecolor=BLACK, markersize=13,
                          label=result["design"]["name"])  # fmt: skip
        _scales(axes, [p["values"] for p in points], other["name"], first["name"])
        axes.set_xlabel(_title(other))
        axes.set_ylabel(_title(first))
        axes.legend(fontsize=8)
    return figure


def _title(objective: Mapping[str, str]) -> str:
    title = TITLES[objective["name"]]
    return title if objective["unit"] == "1" else f"{title} ({objective['unit'].replace('^2', '²')})"


def _interval(point: Point, name: str) -> list[float]:
    if name in point["intervals"]:
        return numbers(point["intervals"][name])
    return [number(point["values"][name])] * 2


def _scales(axes: Axes, values: Sequence[Mapping[str, Any]], x: str, y: str) -> None:
    """Logarithmic where values are of several orders."""
    for name, scale in ((x, axes.set_xscale), (y, axes.set_yscale)):
        found = [number(v[name]) for v in values]
        if min(found) > 0 and max(found) > 8 * min(found):
            scale("log")


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
    colours, norm = colormaps["viridis_r"], Normalize(0, 1)
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
    plain = [float(v) for v in column if _is_number(v)]
    words = sorted({str(v) for v in column if not _is_number(v)})
    logarithmic = bool(plain) and min(plain) > 0 and max(plain) >= 8 * min(plain)
    heights = [math.log(v) if logarithmic else v for v in plain]
    low, high = (min(heights), max(heights)) if heights else (0.0, 0.0)
    room = 1.0 if not words else (0.8 if plain else 0.0)
    found = []
    for v in column:
        if _is_number(v):
            height = math.log(v) if logarithmic else float(v)
            found.append(room * (0.5 if high == low else (height - low) / (high - low)))
        else:
            place = words.index(str(v)) + (1 if plain else 0)
            found.append(room + (1 - room) * place / max(1, len(words) - (0 if plain else 1)))
    return found


def _several(result: Result) -> bool:
    return len(result["objectives"]) > 1 and len(complete(result)) > 1


def _has_lines(result: Result) -> bool:
    """Whether some points differ in one parameter alone."""
    names, points = varied(result), complete(result)
    for name in names:
        others = [repr([setting(p, n) for n in names if n != name]) for p in points]
        if len(set(others)) < len(others):
            return result["sampler"] in ("grid", "each")
    return False


FIGURES: Mapping[str, tuple[Callable[[Result], bool], Callable[[Result], Figure]]] = {
    "curves": (_has_lines, curves),
    "pareto": (_several, pareto),
    "parallel": (lambda result: len(varied(result)) > 1 and len(complete(result)) > 1, parallel),
}
"""File name -> (whether the result has what it needs, how it is drawn)."""
