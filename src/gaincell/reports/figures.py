"""Figures of a mapping, from run.json alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gaincell.reports.results import number, numbers
from gaincell.reports.style import BLACK, BLUE, GREEN, GREY, ORANGE, RED, SKY, legend_below, save, styled
from gaincell.reports.tables import readable

STAGES = {"q": "query q", "k": "key k", "v": "value v", "out": "output"}
FLOOR = 1e-9
"""Smallest residual drawn on a logarithmic axis; an exact match sits there."""

Run = Mapping[str, Any]


def draw_all(run: Run, folder: Path) -> list[Path]:
    """Draw every figure the run has data for into `folder`, as PNG files."""
    written: list[Path] = []
    for name, (has_data, draw) in FIGURES.items():
        if has_data(run):
            written.append(save(draw(run), folder / f"{name}.png"))
    return written


@styled()
def perplexities(run: Run) -> Figure:
    """Perplexity of every stage: bars from zero, or dots where the axis is logarithmic and has no zero."""
    stages = run["stages"]
    figure = Figure(figsize=(7.6, 0.9 + 0.42 * len(stages)))
    axes = figure.add_subplot()
    values = [number(stage["perplexity"]) for stage in stages]
    finite = [v for v in values if math.isfinite(v)]
    top = max(finite) * 1.5 if finite else 10.0
    logarithmic = _perplexity_axis(axes, finite or [top])
    for n, (stage, perplexity) in enumerate(zip(stages, values, strict=True)):
        colour, end = _stage_colour(stage["name"]), min(perplexity, top)
        error = number(stage["perplexity_error"]) if "perplexity_error" in stage else 0.0
        error = min(error, end / 2)
        if logarithmic:
            axes.plot(end, n, "o" if math.isfinite(perplexity) else ">", color=colour, markersize=7)
        else:
            axes.barh(n, end, color=colour, height=0.68)
        axes.errorbar(end, n, xerr=error, fmt="none", ecolor=BLACK, elinewidth=1)
        axes.annotate(readable(perplexity), (end + error, n), xytext=(7, 0),
                      textcoords="offset points", va="center")  # fmt: skip
    axes.set_yticks(range(len(stages)), [stage["title"] for stage in stages])
    axes.invert_yaxis()
    axes.grid(visible=logarithmic, axis="y")
    design = run.get("design")
    chip = f" on {design['name']}, {design['cell']} cell" if design else ""
    axes.set_title(f"{run['model']['name']}{chip}")
    return figure


def _perplexity_axis(axes: Axes, values: list[float]) -> bool:
    """From 0 where all are of one order; else, which is returned, logarithmic, from below the best."""
    low, high = min(values), max(values)
    if high < 4 * low:
        axes.set_xlim(0, high * 1.25)
        axes.set_xlabel("perplexity (lower is better)")
        return False
    axes.set_xscale("log")
    axes.set_xlim(low / 1.6, high * (high / low) ** 0.12 * 1.5)
    axes.set_xlabel("perplexity (lower is better; logarithmic axis)")
    inside = readable_ticks(low / 1.6, high * 1.5)
    axes.set_xticks(inside, [f"{t:,.0f}" if t < 1e5 else f"$10^{{{math.log10(t):.0f}}}$" for t in inside])
    axes.minorticks_off()
    return True


def readable_ticks(low: float, high: float) -> list[float]:
    """Between two perplexities: powers of ten where they are far apart, or 1, 2, 5, 10 and so on, or even."""
    for digits in ((1,), (1, 2, 5)):
        inside = [m * 10.0**e for e in range(13) for m in digits if low <= m * 10**e <= high]
        if len(inside) >= 3:
            return inside
    return [float(tick) for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]


def closed_label(residual: float) -> str:
    """Of the line of the closed form's residual, which stands at `FLOOR` where it is smaller."""
    return f"closed form: residual {residual:.1e}" + (f", drawn at {FLOOR:.0e}" if residual < FLOOR else "")


@styled()
def adaptation(run: Run) -> Figure:
    """Perplexity of the calibration text, and the largest residual, against the published method's
    iteration.
    """
    history = run["adaptation"]["published"]["history"]
    closed = run["adaptation"].get("closed-form", {})
    iterations = numbers(history["iteration"])
    published = "published iteration"
    if "tokens" in run["adaptation"]["published"]:
        published += f", {number(run['adaptation']['published']['tokens']):,.0f} tokens"
    figure = Figure(figsize=(8.4, 3.9))
    left, right = figure.subplots(1, 2)
    left.plot(iterations, numbers(history["perplexity"]), "o-", color=BLUE, ms=3, label=published)
    if "calibration_perplexity" in closed:
        level = number(closed["calibration_perplexity"])
        passes = number(closed["forward_passes"])
        label = f"closed form, {number(closed['tokens']):,.0f} tokens, {passes:.3g} passes: "
        label += f"perplexity {readable(level)}"
        left.axhline(level, color=RED, ls="--", label=label)
    if (target := run["adaptation"]["published"].get("target_perplexity")) is not None:
        label = f"the model to be matched: perplexity {readable(number(target))}"
        left.axhline(number(target), color=GREY, ls=":", label=label)
    left.set_ylabel("perplexity of the calibration text")
    left.set_title("Perplexity")
    residuals = [max(r, FLOOR) for r in numbers(history["residual"])]
    right.set_yscale("log")
    right.plot(iterations, residuals, "o-", color=BLUE, ms=3, label=published)
    if closed:
        right.axhline(max(number(closed["residual"]), FLOOR), color=RED, ls="--",
                      label=closed_label(number(closed["residual"])))  # fmt: skip
    absolute = run["adaptation"]["published"].get("rule") == "released"
    right.set_ylabel("largest residual (" + ("pulse width, V or output)" if absolute else "fraction of σ)"))
    right.set_title("Distance from the target statistics")
    perplexities = numbers(history["perplexity"])
    if max(perplexities) > 4 * min(perplexities):
        left.set_yscale("log")
    for axes in (left, right):
        axes.set_xlabel("iteration")
        axes.xaxis.get_major_locator().set_params(integer=True)
    legend_below(figure)
    return figure


@styled()
def mismatch(run: Run) -> Figure:
    """Residuals of mean and standard deviation of every stage, layer and head, before and after
    adaptation; without those that had no variance, which have nothing to match.
    """
    figure = Figure(figsize=(10.5, 5.0))
    grid = figure.subplots(2, 4, sharey="row")
    silent = _silent(run)
    points = {
        (when, stage, kind): _residuals(run["mismatch"][when][stage][kind]["value"], stage, silent)
        for when in ("before", "after")
        for stage in STAGES
        for kind in ("std", "mean")
    }
    low = min((v for at in points.values() for v in at if not math.isnan(v)), default=FLOOR)
    floored = f" (smaller ones are drawn at {FLOOR:.0e}, hollow where exactly 0)" if low < FLOOR else ""
    if silent:
        figure.suptitle(f"{len(silent)} stages without variance are left out", fontsize=9)
    for row, (kind, label) in enumerate(
        [("std", r"$|\sigma/\sigma_{target} - 1|$"), ("mean", r"$|\mu - \mu_{target}| / \sigma_{target}$")]
    ):
        for column, (stage, title) in enumerate(STAGES.items()):
            axes = grid[row][column]
            for when, colour, marker in (("before", ORANGE, "o"), ("after", BLUE, "D")):
                table = run["mismatch"][when][stage][kind]["value"]
                axes.plot(
                    [max(v, FLOOR) for v in points[when, stage, kind]],
                    marker,
                    color=colour,
                    ms=3,
                    label=f"{when} adaptation{floored if when == 'after' else ''}",
                )
                exact = [n for n, v in enumerate(points[when, stage, kind]) if v == 0]
                axes.plot(exact, [FLOOR] * len(exact), marker, color=colour, mfc="white", ms=3)
                heads = len(table[0])
            for layer in range(1, len(table)):
                axes.axvline(layer * heads - 0.5, color="#D8D8D8", lw=0.6, zorder=0)
            axes.set_yscale("log")
            axes.grid(visible=False, axis="x")
            ticks = range(0, len(table), max(1, len(table) // 6))
            axes.set_xticks([(n + 0.5) * heads - 0.5 for n in ticks], [str(n) for n in ticks])
            if row == 0:
                axes.set_title(title)
            else:
                axes.set_xlabel("layer (one point a head)")
        grid[row][0].set_ylabel(f"{'standard deviation' if kind == 'std' else 'mean'}\n{label}")
    legend_below(figure, columns=2)
    return figure


def _silent(run: Run) -> frozenset[str]:
    """Stages without variance, which the closed form left as they were, as it names them."""
    return frozenset(run.get("adaptation", {}).get("closed-form", {}).get("skipped", ()))


def _residuals(table: Sequence[Sequence[float]], stage: str, silent: frozenset[str]) -> list[float]:
    """Of every head of every layer; NaN where it is silent."""
    return [
        math.nan if f"layer {layer}, head {head}, stage {stage}" in silent else float(v)
        for layer, heads in enumerate(table)
        for head, v in enumerate(heads)
    ]


@styled()
def codes(run: Run) -> Figure:
    """Use of the codes of q, k, v and the output, over all layers and heads."""
    figure = Figure(figsize=(10.5, 3.4))
    panels = figure.subplots(1, 4)
    for axes, (stage, title) in zip(panels, STAGES.items(), strict=True):
        for model, colour, style in (
            ("linear", GREY, ":"),
            ("unadapted", ORANGE, "--"),
            ("adapted", BLUE, "-"),
        ):
            if model not in run["codes"]:
                continue
            use = run["codes"][model][stage]
            shares = [100 * share for share in numbers(use["share"])]
            axes.step(numbers(use["code"]), shares, where="mid", color=colour, ls=style, lw=1.6, label=model)
        axes.set_title(title)
        axes.set_xlabel("code" if stage != "out" else "sum of the sub-tiles' codes")
        axes.set_ylim(bottom=0)
    panels[3].set_yscale("symlog", linthresh=0.01)
    panels[0].set_ylabel("share of all values (%)")
    panels[3].set_ylabel("%, logarithmic above 0.01")
    legend_below(figure, columns=3)
    return figure


@styled()
def cell(run: Run) -> Figure:
    """Current of a cell over the stored voltage, beside that of the linear cell if the run has it."""
    curve = run["cell"]
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.add_subplot()
    u, current = numbers(curve["u"]), curve["nonlinear" if "nonlinear" in curve else "F"]
    if "linear" in curve:
        axes.plot(u, numbers(curve["linear"]), color=GREY, ls="--", lw=2, label="linear (ideal)")
    axes.plot(u, numbers(current), color=BLUE, lw=2, label=curve["name"])
    axes.axhline(0, color=BLACK, lw=0.6)
    axes.axvline(0, color=BLACK, lw=0.6)
    axes.set_xlabel(f"stored voltage relative to its offset, u ({curve['u']['unit']})")
    axes.set_ylabel(f"F(u) at full pulse ({current['unit']})")
    axes.set_title("Current of one gain cell")
    axes.legend(loc="upper left")
    return figure


def _stage_colour(name: str) -> str:
    if name.startswith("software"):
        return GREY
    return {"linear": SKY, "unadapted": RED, "adapted": ORANGE, "fine-tuned": GREEN}.get(name, BLUE)


FIGURES: Mapping[str, tuple[Callable[[Run], bool], Callable[[Run], Figure]]] = {
    "perplexity": (lambda run: "stages" in run, perplexities),
    "adaptation": (lambda run: "published" in run.get("adaptation", {}), adaptation),
    "mismatch": (lambda run: "mismatch" in run, mismatch),
    "codes": (lambda run: "codes" in run, codes),
    "cell": (lambda run: "cell" in run, cell),
}
"""File name -> (whether run.json has what it needs, how it is drawn)."""
