"""Figures of a mapping and of cells, and their sections of the page, from results alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gaincell.reports import style, tables
from gaincell.reports.html import markup, parts
from gaincell.reports.html.markup import head_rows, only_kind
from gaincell.reports.style import BLACK, BLUE, GREEN, GREY, ORANGE, RED, SKY, panel, styled
from gaincell.results import run as of

STAGES = {"q": "query q", "k": "key k", "v": "value v", "out": "output"}
STAGE_COLOURS = {"linear": SKY, "unadapted": RED, "adapted": ORANGE, "fine-tuned": GREEN}
FLOOR = 1e-9
"""Smallest residual drawn on a logarithmic axis; an exact match sits there."""
FACTS: Mapping[str, Callable[[of.CellDesignResult], float]] = {
    "retention, s": lambda run: run.retention_time.value,
    "deviation from a line": lambda run: run.deviation,
    "tokens to 1/e": lambda run: run.tokens_to_1_e,
}
"""Of cells of the literature; the first is cited."""
DISTANCES = {
    "std": "standard deviation\n" r"$|\sigma/\sigma_{target} - 1|$",
    "mean": "mean\n" r"$|\mu - \mu_{target}| / \sigma_{target}$",
}


@styled()
def perplexities(run: of.StagedResult) -> Figure:
    """Perplexity of every stage: bars from zero, or dots where the axis is logarithmic and has no zero."""
    stages = run.stages
    figure, axes = panel(7.6, 0.9 + 0.42 * len(stages))
    finite = [stage.perplexity for stage in stages if math.isfinite(stage.perplexity)]
    top = max(finite) * 1.5 if finite else 10.0
    low, high = (min(finite), max(finite)) if finite else (top, top)
    logarithmic = high >= 4 * low  # from below the best; else from 0, where all are of one order
    if logarithmic:
        axes.set(xscale="log", xlim=(low / 1.6, high * (high / low) ** 0.12 * 1.5),
                 xlabel="perplexity (lower is better; logarithmic axis)")  # fmt: skip
        inside = readable_ticks(low / 1.6, high * 1.5)
        powers = {t: math.log10(t) for t in inside}
        words = [
            f"$10^{{{power:.0f}}}$" if t >= 1e5 and power == round(power) else f"{t:,.10g}"
            for t, power in powers.items()
        ]
        axes.set_xticks(inside, words)
        axes.minorticks_off()
    else:
        axes.set(xlim=(0, high * 1.25), xlabel="perplexity (lower is better)")
    for n, stage in enumerate(stages):
        end = min(stage.perplexity, top)
        colour = GREY if stage.name.startswith("software") else STAGE_COLOURS.get(stage.name, BLUE)
        error = min(stage.perplexity_error or 0.0, end / 2)
        if logarithmic:
            axes.plot(end, n, "o" if math.isfinite(stage.perplexity) else ">", color=colour, markersize=7)
        else:
            axes.barh(n, end, color=colour, height=0.68)
        axes.errorbar(end, n, xerr=error, fmt="none", ecolor=BLACK, elinewidth=1)
        style.beside(axes, tables.readable(stage.perplexity), (end + error, n), 7)
    style.name_rows(axes, (stage.title for stage in stages), grid=logarithmic)
    axes.set_title(f"{run.model.name} on {run.design.name}, {run.design.cell} cell")
    return figure


def readable_ticks(low: float, high: float) -> list[float]:
    """Between two perplexities: powers of ten where they are far apart, or 1, 2, 5, 10 and so on, or even."""
    for digits in ((1,), (1, 2, 5)):
        inside = [m * 10.0**e for e in range(13) for m in digits if low <= m * 10**e <= high]
        if len(inside) >= 3:
            return inside
    return [float(tick) for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]


@styled()
def adaptation(run: of.Adaptations) -> Figure | None:
    """Perplexity of the calibration text, and the largest residual, against the published method's
    iteration.
    """
    published, closed = (run.adaptation.get(method) for method in ("published", "closed-form"))
    if published is None or (history := published.history) is None:
        return None
    figure = Figure(figsize=(8.4, 3.9))
    left, right = figure.subplots(1, 2)
    right.set_yscale("log")
    residuals = [max(r, FLOOR) for r in history.residual.value]
    name = f"published iteration, {published.tokens:,} tokens"
    for axes, values in ((left, history.perplexity), (right, residuals)):
        axes.plot(history.iteration, values, "o-", color=BLUE, ms=3, label=name)
        axes.set_xlabel("iteration")
        style.whole_ticks(axes.xaxis)
    if closed is not None and (level := closed.calibration_perplexity) is not None:
        took = f"{closed.tokens:,} tokens, {closed.forward_passes:.3g} passes"
        left.axhline(
            level, color=RED, ls="--", label=f"closed form, {took}: perplexity {tables.readable(level)}"
        )
    if (target := published.target_perplexity) is not None:
        label = f"the model to be matched: perplexity {tables.readable(target)}"
        left.axhline(target, color=GREY, ls=":", label=label)
    left.set(ylabel="perplexity of the calibration text", title="Perplexity")
    if max(history.perplexity) > 4 * min(history.perplexity):
        left.set_yscale("log")
    if closed is not None:
        residual = closed.residual.value
        drawn = f", drawn at {FLOOR:.0e}" if residual < FLOOR else ""
        label = f"closed form: residual {residual:.1e}{drawn}"
        right.axhline(max(residual, FLOOR), color=RED, ls="--", label=label)
    unit = "pulse width, V or output" if published.rule == "released" else "fraction of σ"
    right.set(ylabel=f"largest residual ({unit})", title="Distance from the target statistics")
    style.legend_below(figure)
    return figure


@styled()
def mismatch(run: of.Adaptations) -> Figure | None:
    """Residuals of mean and standard deviation of every stage, layer and head, before and after
    adaptation; without those that had no variance, which have nothing to match.
    """
    if not isinstance(run, of.AdaptedResult) or run.mismatch is None:
        return None
    figure = Figure(figsize=(10.5, 5.0))
    grid = figure.subplots(2, 4, sharey="row")
    adapted = run.adaptation.get("closed-form") or run.adaptation.get("published")
    silent = frozenset(() if adapted is None else adapted.skipped)
    points = {
        (when, stage, kind): _residuals(getattr(by_stage[stage], kind), stage, silent)
        for when, by_stage in run.mismatch.items()
        for stage in STAGES
        for kind in DISTANCES
    }
    low = min((v for at in points.values() for v in at if not math.isnan(v)), default=FLOOR)
    floored = f" (smaller ones are drawn at {FLOOR:.0e}, hollow where exactly 0)" if low < FLOOR else ""
    if silent:
        figure.suptitle(f"{len(silent)} stages without variance are left out", fontsize=9)
    for row, (kind, label) in zip(grid, DISTANCES.items(), strict=True):
        for axes, stage in zip(row, STAGES, strict=True):
            for when, note, colour, marker in (
                ("before", _started(run), ORANGE, "o"),
                ("after", floored, BLUE, "D"),
            ):
                found = points[when, stage, kind]
                how = {"color": colour, "ms": 3}
                axes.plot([max(v, FLOOR) for v in found], marker, label=f"{when} adaptation{note}", **how)
                exact = [n for n, v in enumerate(found) if v == 0]
                axes.plot(exact, [FLOOR] * len(exact), marker, mfc="white", **how)
            layers, heads = np.shape(getattr(run.mismatch["after"][stage], kind))
            for layer in range(1, layers):
                axes.axvline(layer * heads - 0.5, color="#D8D8D8", lw=0.6, zorder=0)
            axes.set_yscale("log")
            axes.grid(visible=False, axis="x")
            ticks = range(0, layers, max(1, layers // 6))
            axes.set_xticks([(n + 0.5) * heads - 0.5 for n in ticks], [str(n) for n in ticks])
        row[0].set_ylabel(label)
    for axes, title in zip(grid[0], STAGES.values(), strict=True):
        axes.set_title(title)
    for axes in grid[1]:
        axes.set_xlabel("layer (one point a head)")
    style.legend_below(figure, columns=2)
    return figure


def _residuals(table: Sequence[Sequence[float]], stage: str, silent: frozenset[str]) -> list[float]:
    """Of every head of every layer; NaN without variance, where the adaptation left it as it was."""
    return [
        math.nan if f"layer {layer}, head {head}, stage {stage}" in silent else v
        for layer, heads in enumerate(table)
        for head, v in enumerate(heads)
    ]


def _started(run: of.AdaptedResult) -> str:
    """Of which gains and offsets the state before an adaptation is, where the result says so."""
    starts = {one.start for one in run.adaptation.values()} - {None}
    return f", {starts.pop()} start" if len(starts) == 1 else ""


@styled()
def codes(run: of.AdaptedResult) -> Figure | None:
    """Use of the codes of q, k, v and the output, over all layers and heads."""
    if run.codes is None:
        return None
    figure = Figure(figsize=(10.5, 3.4))
    panels = figure.subplots(1, 4)
    looks = {"linear": (GREY, ":"), "unadapted": (ORANGE, "--"), "adapted": (BLUE, "-")}
    begun = {"unadapted": f"unadapted{_started(run)}"}
    for axes, (stage, title) in zip(panels, STAGES.items(), strict=True):
        for model, (colour, dashes) in looks.items():
            if model in run.codes:
                use, how = run.codes[model][stage], {"where": "mid", "lw": 1.6, "color": colour, "ls": dashes}
                axes.step(
                    use.code, [100 * share for share in use.share], label=begun.get(model, model), **how
                )
        axes.set(title=title, xlabel="code" if stage != "out" else "sum of the sub-tiles' codes")
        axes.set_ylim(bottom=0)
    panels[3].set_yscale("symlog", linthresh=0.01)
    panels[0].set_ylabel("share of all values (%)")
    panels[3].set_ylabel("%, logarithmic above 0.01")
    style.legend_below(figure, columns=3)
    return figure


@styled()
def cell(curve: of.CellCurve | of.TitledCurve) -> Figure:
    """Current of a cell over the stored voltage, beside that of the linear cell if it is known."""
    figure, axes = panel(4.6, 3.4)
    current = curve.F if isinstance(curve, of.TitledCurve) else curve.nonlinear
    if isinstance(curve, of.CellCurve):
        axes.plot(curve.u, curve.linear, color=GREY, ls="--", lw=2, label="linear (ideal)")
    axes.plot(curve.u, current, color=BLUE, lw=2, label=curve.name)
    axes.axhline(0, color=BLACK, lw=0.6)
    axes.axvline(0, color=BLACK, lw=0.6)
    axes.set(xlabel="stored voltage relative to its offset, u (V)", title="Current of one gain cell",
             ylabel="F(u) at full pulse (charge units)")  # fmt: skip
    axes.legend(loc="upper left")
    return figure


FIGURES: Mapping[str, Callable[[of.AdaptedResult], Figure | None]] = {
    "perplexity": perplexities,
    "adaptation": adaptation,
    "mismatch": mismatch,
    "codes": codes,
    "cell": lambda run: None if run.cell is None else cell(run.cell),
}
"""By name; None where a run has no data for one."""


def stage_rows(run: of.StagedResult) -> tables.Rows:
    """The stages of a run; tokens are counted."""
    text = [f"text {run.text.name}"] if isinstance(run, of.AdaptedResult) else []
    caption = "; ".join([*text, run.provenance.protocol, "± is the standard error over blocks"])
    numbers = [stage.numbers for stage in run.stages]
    return tables.Rows(
        "Perplexity of every stage", *tables.headings_and_rows(run), f"{caption}.{tables.compared(run)}",
        kinds=lambda row, column: None if column == 1 else numbers[row],
    )  # fmt: skip


def side_by_side(results: Mapping[str, of.StagedResult]) -> Iterator[tables.Rows]:
    """The perplexities of several runs, stage by stage."""
    cells: dict[str, dict[int, tuple[str, str]]] = {}
    at, over = map(tables.HEADINGS.index, ("perplexity", "× software"))
    for n, run in enumerate(results.values()):
        for stage, row in zip(run.stages, tables.perplexity_rows(run), strict=True):
            ratio = "" if row[over] == "–" else f" (× {row[over]})"
            cells.setdefault(stage.title, {})[n] = (row[at] + ratio, stage.numbers)
    shown = [[found.get(n, ("–", "")) for n in range(len(results))] for found in cells.values()]
    rows = [[title, *(word for word, _ in row)] for title, row in zip(cells, shown, strict=True)]
    caption = "In brackets: over the software model. Protocols and texts stand with each result below."
    if len(results) > 1:
        yield tables.Rows(
            "Perplexity side by side", ["stage", *results], rows, caption,
            kinds=lambda r, c: shown[r][c - 1][1] or None,
        )  # fmt: skip


def left_out(run: of.Adaptations) -> list[str]:
    """Places that the adaptations skipped, or that are saturated, a line each."""
    return [
        f"{name}: {len(places)} {what}: {', '.join(places)}"
        for name, found in run.adaptation.items()
        for what, places in (("skipped", found.skipped), ("saturated", found.saturated))
        if places
    ]


def distances(run: of.Adaptations) -> Iterator[tables.Rows]:
    """The distances of all heads of what shows anything: what was no distance before needs no table."""
    if not isinstance(run, of.AdaptedResult) or run.mismatch is None:
        return
    for stage, name in STAGES.items():
        heads = "key/value head" if stage in ("k", "v") else "head"
        pairs = [(when, by_stage[stage]) for when, by_stage in run.mismatch.items()]
        of_std = [(when, "standard deviation, |σ / target − 1|", spread.std) for when, spread in pairs]
        of_mean = [(when, "mean, |μ − target| / σ", spread.mean) for when, spread in pairs]
        for when, title, rows in of_std + of_mean:
            if any(x > FLOOR for row in rows for x in row):
                yield head_rows(f"{name} {when} adaptation: {title}", rows, heads)


def currents(results: Mapping[str, of.AdaptedResult | of.CellAdaptationResult]) -> Markup:
    """Currents of the cells, beside one another."""
    titled = {f"{name}: current of one gain cell": run.cell for name, run in results.items()}
    shown = (parts.figure(title, cell)(curve) for title, curve in titled.items() if curve is not None)
    return markup.grid(*shown)


def cell_rows(results: Mapping[str, of.CellResult]) -> tables.Rows:
    """Cells and chips of recipes/cells.py, a row a result."""
    named = dict.fromkeys(stage for run in results.values() for stage in run.stages)
    facts = FACTS if any(isinstance(run, of.CellDesignResult) for run in results.values()) else {}
    rows = []
    for name, run in results.items():
        numbers = (
            f"{fact(run):.4g}" if isinstance(run, of.CellDesignResult) else "–" for fact in facts.values()
        )
        stages = [run.stages.get(stage) for stage in named]
        perplexities = [
            "–" if one is None else tables.with_error(one.perplexity, one.perplexity_error) for one in stages
        ]
        rows.append([f"{name}, {run.design.name}, {run.design.cell}", *numbers, *perplexities])
    headings = ["cell", *facts, *(f"perplexity, {stage}" for stage in named)]
    caption = f"{tables.protocol_of(results)}; ± is the standard error over blocks."
    kinds = [tables.CITED if name == "retention, s" else tables.SIMULATED for name in headings]
    return tables.Rows("Cells", headings, rows, caption, kinds=lambda _, c: kinds[c])


def last_stage(run: of.CellResult) -> str:
    name, stage = list(run.stages.items())[-1]
    return f"perplexity {tables.readable(stage.perplexity)} ({name})"


def headline(run: of.StagedResult) -> str:
    """The perplexity of the model that was saved, and whether its adaptation (the last) failed."""
    stage = run.saved_stage
    over = stage.ratio_to_software
    text = "" if over is None else f", × {over:.3g} software"
    adapted = [stage.adaptation, *(run.adaptation.values() if isinstance(run, of.Adaptations) else ())][-1]
    failed = "" if adapted is None or adapted.converged else ", adaptation not converged"
    return f"perplexity {tables.readable(stage.perplexity)}{text} ({stage.title}){failed}"


PERPLEXITY = parts.section(
    "Perplexity", "How well the model predicts text, stage by stage.", of.StagedResult,
    parts.pair(
        parts.tables(stage_rows),
        parts.figure("Perplexity", perplexities, lambda run: only_kind(run.stages), numbers=parts.no_numbers,
                     note="Lines: standard error over blocks."),
    ),
    together=parts.tables(side_by_side), numbers=lambda run: run.stages,
    headline=headline, kind=lambda run: run.saved_stage.numbers,
)  # fmt: skip
ADAPTATION = parts.section(
    "Adaptation", "Gains and offsets that bring the statistics back.", of.Adaptations,
    parts.listed(tables.adaptation_lines),
    parts.folded("Left out or saturated", parts.listed(left_out)),
    parts.grid(
        parts.figure("Adaptation, iteration by iteration", adaptation),
        parts.figure("Distance of every head", mismatch, numbers=distances),
    ),
    numbers=lambda run: run.adaptation,
)  # fmt: skip
CODES = parts.section(
    "Codes", "How often every code of the converters is used.", of.AdaptedResult,
    parts.figure("Use of the codes", codes), numbers=lambda run: run.codes, has=lambda run: run.codes,
)  # fmt: skip
CELL = parts.section(
    "Cell", "Current of a cell over its stored voltage.", of.AdaptedResult | of.CellAdaptationResult,
    together=currents, has=lambda run: run.cell,
)  # fmt: skip
CELLS = parts.section(
    "Cells", "Cells and chips compared with the same model.", of.CellResult,
    together=parts.tables(cell_rows), headline=last_stage,
)  # fmt: skip
