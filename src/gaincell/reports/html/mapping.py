"""Sections on how a model came onto the arrays: adaptation, codes, the cell, cells of the literature."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from gaincell.reports import figures
from gaincell.reports.html.markup import folded, grid, listed
from gaincell.reports.html.picture import picture
from gaincell.reports.html.tables import head_rows, table
from gaincell.reports.tables import SIMULATED, Rows, with_error
from gaincell.results.run import (
    Adaptations,
    AdaptedResult,
    CellAdaptationResult,
    CellDesignResult,
    CellResult,
    Mismatch,
)


def adaptation(run: Adaptations) -> Markup:
    """What the adaptations achieved."""
    adapted = run.adaptation
    left_out = [
        f"{name}: {len(places)} {what}: {', '.join(places)}"
        for name, found in adapted.items()
        for what, places in (("skipped", found.skipped), ("saturated", found.saturated))
        if places
    ]
    charts = []
    if "published" in adapted and adapted["published"].history is not None:
        title = "Adaptation, iteration by iteration"
        charts.append(picture(title, figures.adaptation(adapted), kind=SIMULATED))
    if isinstance(run, AdaptedResult) and run.mismatch is not None:
        drawn, numbers = figures.mismatch(run.mismatch, adapted), _distances(run.mismatch)
        charts.append(picture("Distance of every head", drawn, kind=SIMULATED, numbers=numbers))
    summaries = listed(found.summary for found in adapted.values())
    more = [listed(left_out)] if left_out else []
    return summaries + folded("Left out or saturated", *more) + grid(*charts)


def _distances(found: Mismatch) -> list[Rows]:
    """The numbers of what shows anything: what was no distance before needs no table."""
    tables = []
    for stage, name in figures.STAGES.items():
        heads = "key/value head" if stage in ("k", "v") else "head"
        pairs = [(when, by_stage[stage]) for when, by_stage in found.items()]
        of_std = [(when, "standard deviation, |σ / target − 1|", spread.std) for when, spread in pairs]
        of_mean = [(when, "mean, |μ − target| / σ", spread.mean) for when, spread in pairs]
        for when, title, rows in of_std + of_mean:
            if any(x > figures.FLOOR for row in rows for x in row):
                tables.append(head_rows(f"{name} {when} adaptation: {title}", rows, heads))
    return tables


def codes(run: AdaptedResult) -> Markup:
    """Histograms of the codes."""
    return picture("Use of the codes", figures.codes(run.codes or {}), kind=SIMULATED)


def cell(results: Mapping[str, AdaptedResult | CellAdaptationResult]) -> Markup:
    """Currents of the cells beside one another."""
    curves = {f"{name}: current of one gain cell": run.cell for name, run in results.items()}
    return grid(
        *(picture(title, figures.cell(curve), kind=SIMULATED) for title, curve in curves.items() if curve)
    )


def cells(results: Mapping[str, CellResult]) -> Markup:
    """Cells and chips of recipes/cells.py, a row a result."""
    named = dict.fromkeys(stage for run in results.values() for stage in run.stages)
    facts = ("retention, s", "deviation from a line", "tokens to 1/e")
    shown = facts if any(isinstance(run, CellDesignResult) for run in results.values()) else ()
    rows = []
    for name, run in results.items():
        numbers = ["–"] * len(shown)
        if isinstance(run, CellDesignResult):
            found = (run.retention_time.value, run.deviation, run.tokens_to_1_e)
            numbers = [f"{number:.4g}" for number in found]
        stages = [run.stages.get(stage) for stage in named]
        perplexities = [
            "–" if of is None else with_error(of.perplexity, of.perplexity_error) for of in stages
        ]
        rows.append([f"{name}, {run.design.name}, {run.design.cell}", *numbers, *perplexities])
    headings = ["cell", *shown, *(f"perplexity, {stage}" for stage in named)]
    protocol = next(iter(results.values())).provenance.protocol
    caption = f"{protocol}; ± is the standard error over blocks."

    def kind(_: int, column: int) -> str:
        return "cited" if headings[column] == facts[0] else SIMULATED

    return table(Rows("Cells", headings, rows, caption, kinds=kind))
