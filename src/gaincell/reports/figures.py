"""Figures of a mapping, from run.json alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gaincell.reports.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SKY,
    beside,
    legend_below,
    name_rows,
    save,
    styled,
    whole_ticks,
)
from gaincell.reports.tables import readable
from gaincell.results.run import (
    Adaptation,
    AdaptedResult,
    CellCurve,
    CodeShares,
    Mismatch,
    StagedResult,
    TitledCurve,
)

STAGES = {"q": "query q", "k": "key k", "v": "value v", "out": "output"}
FLOOR = 1e-9
"""Smallest residual drawn on a logarithmic axis; an exact match sits there."""


def draw_all(run: AdaptedResult, folder: Path) -> list[Path]:
    """Draw every figure the run has data for into `folder`, as PNG files."""
    return [save(figure, folder / f"{name}.png") for name, figure in drawn(run).items()]


def drawn(run: AdaptedResult) -> dict[str, Figure]:
    """Every figure the run has data for, by name."""
    found = {
        "perplexity": perplexities(run),
        "adaptation": adaptation(run.adaptation) if "published" in run.adaptation else None,
        "mismatch": None if run.mismatch is None else mismatch(run.mismatch, run.adaptation),
        "codes": None if run.codes is None else codes(run.codes),
        "cell": None if run.cell is None else cell(run.cell),
    }
    return {name: figure for name, figure in found.items() if figure is not None}


@styled()
def perplexities(run: StagedResult) -> Figure:
    """Perplexity of every stage: bars from zero, or dots where the axis is logarithmic and has no zero."""
    stages = run.stages
    figure = Figure(figsize=(7.6, 0.9 + 0.42 * len(stages)))
    axes = figure.add_subplot()
    values = [stage.perplexity for stage in stages]
    finite = [v for v in values if math.isfinite(v)]
    top = max(finite) * 1.5 if finite else 10.0
    logarithmic = _perplexity_axis(axes, finite or [top])
    for n, (stage, perplexity) in enumerate(zip(stages, values, strict=True)):
        colour, end = _stage_colour(stage.name), min(perplexity, top)
        error = min(stage.perplexity_error or 0.0, end / 2)
        if logarithmic:
            axes.plot(end, n, "o" if math.isfinite(perplexity) else ">", color=colour, markersize=7)
        else:
            axes.barh(n, end, color=colour, height=0.68)
        axes.errorbar(end, n, xerr=error, fmt="none", ecolor=BLACK, elinewidth=1)
        beside(axes, readable(perplexity), (end + error, n), 7)
    name_rows(axes, (stage.title for stage in stages), grid=logarithmic)
    axes.set_title(f"{run.model.name} on {run.design.name}, {run.design.cell} cell")
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
def adaptation(found: Mapping[str, Adaptation]) -> Figure:
    """Perplexity of the calibration text, and the largest residual, against the published method's
    iteration.
    """
    published, closed = found["published"], found.get("closed-form")
    history = published.history
    assert history is not None
    iterations, name = history.iteration, f"published iteration, {published.tokens:,} tokens"
    figure = Figure(figsize=(8.4, 3.9))
    left, right = figure.subplots(1, 2)
    left.plot(iterations, history.perplexity, "o-", color=BLUE, ms=3, label=name)
    if closed is not None and (level := closed.calibration_perplexity) is not None:
        took = f"{closed.tokens:,} tokens, {closed.forward_passes:.3g} passes"
        left.axhline(level, color=RED, ls="--", label=f"closed form, {took}: perplexity {readable(level)}")
    if (target := published.target_perplexity) is not None:
        label = f"the model to be matched: perplexity {readable(target)}"
        left.axhline(target, color=GREY, ls=":", label=label)
    left.set(ylabel="perplexity of the calibration text", title="Perplexity")
    residuals = [max(r, FLOOR) for r in history.residual.value]
    right.set_yscale("log")
    right.plot(iterations, residuals, "o-", color=BLUE, ms=3, label=name)
    if closed is not None:
        residual = closed.residual.value
        right.axhline(max(residual, FLOOR), color=RED, ls="--", label=closed_label(residual))
    unit = "pulse width, V or output" if published.rule == "released" else "fraction of σ"
    right.set(ylabel=f"largest residual ({unit})", title="Distance from the target statistics")
    if max(history.perplexity) > 4 * min(history.perplexity):
        left.set_yscale("log")
    for axes in (left, right):
        axes.set_xlabel("iteration")
        whole_ticks(axes.xaxis)
    legend_below(figure)
    return figure


@styled()
def mismatch(found: Mismatch, adapted: Mapping[str, Adaptation]) -> Figure:
    """Residuals of mean and standard deviation of every stage, layer and head, before and after
    adaptation; without those that had no variance, which have nothing to match.
    """
    figure = Figure(figsize=(10.5, 5.0))
    grid = figure.subplots(2, 4, sharey="row")
    closed = adapted.get("closed-form")
    silent = frozenset(() if closed is None else closed.skipped)
    tables = {
        (when, stage, kind): table
        for when, by_stage in found.items()
        for stage in STAGES
        for kind, table in (("std", by_stage[stage].std), ("mean", by_stage[stage].mean))
    }
    points = {at: _residuals(table, at[1], silent) for at, table in tables.items()}
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
                table, found_here = tables[when, stage, kind], points[when, stage, kind]
                name = f"{when} adaptation{floored if when == 'after' else ''}"
                axes.plot([max(v, FLOOR) for v in found_here], marker, color=colour, ms=3, label=name)
                exact = [n for n, v in enumerate(found_here) if v == 0]
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


def _residuals(table: Sequence[Sequence[float]], stage: str, silent: frozenset[str]) -> list[float]:
    """Of every head of every layer; NaN without variance, where the closed form left it as it was."""
    return [
        math.nan if f"layer {layer}, head {head}, stage {stage}" in silent else v
        for layer, heads in enumerate(table)
        for head, v in enumerate(heads)
    ]


@styled()
def codes(found: Mapping[str, Mapping[str, CodeShares]]) -> Figure:
    """Use of the codes of q, k, v and the output, over all layers and heads."""
    figure = Figure(figsize=(10.5, 3.4))
    panels = figure.subplots(1, 4)
    for axes, (stage, title) in zip(panels, STAGES.items(), strict=True):
        looks = {"linear": (GREY, ":"), "unadapted": (ORANGE, "--"), "adapted": (BLUE, "-")}
        for model, (colour, style) in looks.items():
            if model in found:
                use, how = found[model][stage], {"where": "mid", "lw": 1.6, "color": colour, "ls": style}
                axes.step(use.code, [100 * share for share in use.share], label=model, **how)
        axes.set(title=title, xlabel="code" if stage != "out" else "sum of the sub-tiles' codes")
        axes.set_ylim(bottom=0)
    panels[3].set_yscale("symlog", linthresh=0.01)
    panels[0].set_ylabel("share of all values (%)")
    panels[3].set_ylabel("%, logarithmic above 0.01")
    legend_below(figure, columns=3)
    return figure


@styled()
def cell(curve: CellCurve | TitledCurve) -> Figure:
    """Current of a cell over the stored voltage, beside that of the linear cell if it is known."""
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.add_subplot()
    current = curve.F if isinstance(curve, TitledCurve) else curve.nonlinear
    if isinstance(curve, CellCurve):
        axes.plot(curve.u, curve.linear, color=GREY, ls="--", lw=2, label="linear (ideal)")
    axes.plot(curve.u, current, color=BLUE, lw=2, label=curve.name)
    axes.axhline(0, color=BLACK, lw=0.6)
    axes.axvline(0, color=BLACK, lw=0.6)
    axes.set(xlabel="stored voltage relative to its offset, u (V)", title="Current of one gain cell",
             ylabel="F(u) at full pulse (charge units)")  # fmt: skip
    axes.legend(loc="upper left")
    return figure


def _stage_colour(name: str) -> str:
    if name.startswith("software"):
        return GREY
    return {"linear": SKY, "unadapted": RED, "adapted": ORANGE, "fine-tuned": GREEN}.get(name, BLUE)
