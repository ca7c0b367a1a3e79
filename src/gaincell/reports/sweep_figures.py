"""Figures of sweeps and their section of the page, from the JSON of `gaincell sweep` alone."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.files import is_number
from gaincell.reports import style
from gaincell.reports import sweep_clouds as clouds
from gaincell.reports.html import parts
from gaincell.reports.style import BLACK, BLUE, look, panel, styled
from gaincell.reports.sweep import UNSEEN, by_ratio, changed, rows, unseen, varied, word
from gaincell.reports.sweep_aware import remarks
from gaincell.reports.tables import SIMULATED
from gaincell.results.sweep import Objective, Point, SweepResult

PANELS = 8
"""Most panels of the curves of several objectives."""
LETTERS = 14
"""Of a title, an inch."""


@styled()
def curves(result: SweepResult) -> Figure | None:
    """Objectives against every parameter, the others fixed; bands of 95 %. Only the first objective where
    there are many panels. None where no points differ in one parameter alone, or there are no numbers. The
    title names what is left out.
    """
    alone = result.sampler in ("grid", "each") and len(result.complete) > 1 and not clouds.is_large(result)
    values = {name: {p.setting(name) for p in result.complete} for name in varied(result)}
    names = [name for name, found in values.items() if sum(map(is_number, found)) > 1]
    if not (alone and names):
        return None
    objectives = result.objectives
    if len(names) * len(objectives) > PANELS:
        objectives = objectives[:1]
    pairs = [(objective, name) for objective in objectives for name in names]
    columns = len(names) if len(objectives) > 1 else min(4, len(names))
    lines = math.ceil(len(pairs) / columns)
    figure = Figure(figsize=(0.8 + max(5.0, 3.1 * columns), 0.5 + 2.6 * lines))
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for n, (axes, (objective, name)) in enumerate(zip(grid, pairs, strict=False)):
        _curve(axes, result, name, objective)
        if n % columns == 0:
            axes.set_ylabel(clouds.axis_title(result, objective))
        if objective.unit != "1":
            axes.yaxis.set_major_formatter(clouds.ticks(objective.unit))
    for axes in grid[len(pairs) :]:
        axes.set_visible(False)
    style.legend_below(figure, only=UNSEEN)
    lines_of = values if result.sampler == "grid" else names  # in a grid words tell the lines of a panel
    left_out = [one.name for one in result.objectives if one not in objectives]
    left_out += [name for name in values if name not in lines_of]
    if left_out:
        text = f"not drawn, see the table or the JSON: {', '.join(left_out)}"
        figure.suptitle(textwrap.fill(text, int(LETTERS * figure.get_figwidth())), fontsize=9)
    return figure


@styled()
def tornado(result: SweepResult) -> Figure | None:
    """Perplexity after every single change over that of the unchanged design, the best on top. None of less
    than two.
    """
    points = by_ratio(result.complete)
    if result.sampler != "each" or len(points) < 2:
        return None
    figure, axes = panel(7.6, 0.9 + 0.27 * len(points))
    heights = [clouds.height(result, point, "perplexity") for point in points]
    ratios = [ratio for ratio, _, _ in heights]
    axes.axvline(1.0, color=BLACK, linewidth=1)
    axes.errorbar(ratios, range(len(points)), xerr=clouds.error_bars(heights), fmt="o", color=BLUE)
    clouds.draw_unseen(axes, result, "perplexity", points, ratios, range(len(points)), marker="o", color=BLUE)
    marks = [f" ({UNSEEN})" if unseen(result, point) else "" for point in points]
    labels = [changed(result, point) for point in points]
    style.name_rows(axes, (a + b for a, b in zip(labels, marks, strict=True)), grid=True)
    if max(ratios) > 1.5:
        axes.set_xscale("log")
        style.plain_ticks(axes.xaxis)
    axes.set_xlabel("perplexity / that of the unchanged design, with its interval of 95 %")
    return figure


def _curve(axes: Axes, result: SweepResult, name: str, objective: Objective) -> None:
    """One panel; a line for every setting of the other parameters that has two points or more."""
    others = [n for n in varied(result) if n != name]
    groups: dict[tuple[float | str | None, ...], list[Point]] = {}
    for point in result.complete:
        groups.setdefault(tuple(point.setting(n) for n in others), []).append(point)
    lines = {group: points for group, points in groups.items() if len(points) > 1}
    unit = result.units[name]
    seen = {p.setting(name) for points in lines.values() for p in points}
    plain = sorted(v for v in seen if is_number(v))
    words = sorted(str(v) for v in seen if not is_number(v))
    logarithmic = bool(plain) and plain[0] > 0 and plain[-1] >= 8 * plain[0]
    step = max((plain[-1] / plain[0]) ** (1 / max(1, len(plain) - 1)), 1.5) if logarithmic else 0.0
    span = plain[-1] - plain[0] if plain and not logarithmic else 1.0
    places: dict[float | str, float] = {v: float(v) for v in plain}
    for n, text in enumerate(words, 1):
        beyond = plain[-1] * step**n if logarithmic else (plain[-1] + 0.2 * n * span if plain else float(n))
        places[text] = beyond
    named = set[str | None]()
    for n, (group, points) in enumerate(lines.items()):
        colour, marker = look(n)["color"], look(n)["marker"]
        ordered = sorted(points, key=lambda p: places[clouds.key(p.setting(name))])
        x = [places[clouds.key(p.setting(name))] for p in ordered]
        heights = [clouds.height(result, p, objective.name) for p in ordered]
        y, low, high = zip(*heights, strict=True)
        count = sum(is_number(p.setting(name)) for p in ordered)
        settings = (word(v, result.units[n]) for n, v in zip(others, group, strict=True))
        label = f"{', '.join(others)} = {', '.join(settings)}" if len(lines) > 1 else None
        named.add(label)
        axes.plot(x[:count], y[:count], f"{marker}-", color=colour, label=label)
        axes.fill_between(x[:count], low[:count], high[:count], color=colour, alpha=0.2, linewidth=0)
        if x[count:]:
            ends = [[max(0.0, e) for e in end] for end in clouds.error_bars(heights[count:])]
            axes.errorbar(x[count:], y[count:], yerr=ends, fmt=marker, color=colour)
        clouds.draw_unseen(axes, result, objective.name, ordered, x, y, marker=marker, color=colour)
    if logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
    if len(places) <= 9:
        labels = [word(v, unit).replace(" ", "\n") if is_number(v) else str(v) for v in places]
        axes.set_xticks(list(places.values()), labels)
    axes.set_xlabel(name if len(places) <= 9 or unit == "1" else f"{name} ({unit})")
    if len(lines) > 1:
        shown = [line for line in axes.lines if line.get_label() in named]
        axes.legend(handles=shown, loc="lower left", bbox_to_anchor=(0, 1))  # above: nothing is drawn there


FIGURES: Mapping[str, Callable[[SweepResult], Figure | None]] = {
    "curves": curves,
    "tornado": tornado,
    "scatter": clouds.scatter,
    "pareto": clouds.pareto,
    "parallel": clouds.parallel,
}
"""By file name; None where a result has no data for one."""


SWEEP = parts.section(
    "Sweep", "One model on many designs.", SweepResult,
    parts.tables(lambda run: replace(rows(run), title=f"Points of {run.sweep}", kinds=SIMULATED)),
    parts.listed(remarks),
    parts.figure("Objectives", clouds.pareto, numbers=parts.no_numbers),
    numbers=lambda run: run.points,
    headline=lambda run: (
        f"{' and '.join(one.name for one in run.objectives)} of {run.counts.complete} points"
    ),
)  # fmt: skip
