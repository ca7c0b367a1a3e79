"""Sections on how a model came onto the arrays: adaptation, codes, the cell, cells of the literature."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gaincell.reports import figures
from gaincell.reports.html.markup import EMPTY, element, grid
from gaincell.reports.html.picture import picture
from gaincell.reports.html.result import Result, each_of, typed
from gaincell.reports.html.tables import head_rows, table
from gaincell.reports.tables import Rows, readable
from gaincell.results.cells import CellAdaptationResult, CellDesignResult, CellResult, CellStage
from gaincell.results.run import Adaptations, AdaptedResult, Mismatch

SIMULATED = "simulated"


def adaptation(results: Sequence[Result]) -> Markup:
    """What the adaptations achieved."""
    return each_of(results, Adaptations, _adaptation, lambda found: found.adaptation)


def _adaptation(run: Adaptations) -> Markup:
    adapted = run.adaptation
    lines = element("ul", *(element("li", found.summary) for found in adapted.values()), class_="plain")
    left_out = [
        element("li", f"{name}: {len(places)} {what}: {', '.join(places)}")
        for name, found in adapted.items()
        for what, places in (("skipped", found.skipped), ("saturated", found.saturated))
        if places
    ]
    words = element("ul", *left_out, class_="plain")
    more = (
        element("details", element("summary", "Left out or saturated"), words, class_="more")
        if left_out
        else EMPTY
    )
    charts = []
    if "published" in adapted and adapted["published"].history is not None:
        title = "Adaptation, iteration by iteration"
        charts.append(picture(title, figures.adaptation(adapted), kind=SIMULATED))
    if isinstance(run, AdaptedResult) and run.mismatch is not None:
        drawn = figures.mismatch(run.mismatch, adapted)
        charts.append(
            picture("Distance of every head", drawn, kind=SIMULATED, numbers=_distances(run.mismatch))
        )
    return lines + more + grid(*charts)


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


def codes(results: Sequence[Result]) -> Markup:
    """Histograms of the codes."""
    return each_of(results, AdaptedResult, _codes, lambda found: found.codes)


def _codes(run: AdaptedResult) -> Markup:
    return picture("Use of the codes", figures.codes(run.codes or {}), kind=SIMULATED)


def cell(results: Sequence[Result]) -> Markup:
    """Currents of the cells beside one another."""
    curves = {
        one.name: one.found.cell
        for one in results
        if isinstance(one.found, AdaptedResult | CellAdaptationResult)
    }
    titles = {f"{name}: current of one gain cell": curve for name, curve in curves.items()}
    drawn = {title: figures.cell(curve) for title, curve in titles.items() if curve is not None}
    return grid(*(picture(title, figure, kind=SIMULATED) for title, figure in drawn.items()))


def cells(results: Sequence[Result]) -> Markup:
    """Cells and chips of recipes/cells.py, a row a result."""
    found = list(typed(results, CellResult))
    named = dict.fromkeys(stage for _, run in found for stage in run.stages)
    facts = ("retention, s", "deviation from a line", "tokens to 1/e")
    shown = facts if any(isinstance(run, CellDesignResult) for _, run in found) else ()
    rows = []
    for name, run in found:
        numbers: list[float | None] = [None] * len(shown)
        if isinstance(run, CellDesignResult):
            numbers = [run.retention_time.value, run.deviation, run.tokens_to_1_e]
        row = [f"{name}, {run.design.name}, {run.design.cell}"]
        row += ["–" if number is None else f"{number:.4g}" for number in numbers]
        rows.append(row + [_perplexity(run.stages.get(stage)) for stage in named])
    headings = ["cell", *shown, *(f"perplexity, {stage}" for stage in named)]
    caption = f"{found[0][1].provenance.protocol}; ± is the standard error over blocks."

    def kind(_: int, column: int) -> str:
        return "cited" if headings[column] == facts[0] else SIMULATED

    return table(Rows("Cells", headings, rows, caption), kind)


def _perplexity(stage: CellStage | None) -> str:
    if stage is None:
        return "–"
    error = "" if stage.perplexity_error is None else f" ± {readable(stage.perplexity_error)}"
    return f"{readable(stage.perplexity)}{error}"
