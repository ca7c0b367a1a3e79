"""Sections on how a model came onto the arrays: adaptation, codes, the cell, cells of the literature."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gaincell.reports import figures
from gaincell.reports.html.markup import EMPTY, element, grid
from gaincell.reports.html.picture import picture
from gaincell.reports.html.result import Entry, Result, each, protocol, whole
from gaincell.reports.html.tables import head_rows, only_kind, table
from gaincell.reports.results import number
from gaincell.reports.rows import Rows
from gaincell.reports.tables import adaptation_lines, readable

SPREADS = {"std": "standard deviation, |σ / target − 1|", "mean": "mean, |μ − target| / σ"}


def adaptation(results: Sequence[Result]) -> Markup:
    """What the adaptations achieved."""
    return each(results, "adaptation", _adaptation)


def _adaptation(result: Result) -> Markup:
    run = result.run
    lines = element("ul", *(element("li", line) for line in adaptation_lines(run)), class_="plain")
    left_out = [
        element("li", f"{name}: {len(found[what])} {what}: {', '.join(found[what])}")
        for name, found in run["adaptation"].items()
        for what in ("skipped", "saturated")
        if found.get(what)
    ]
    words = element("ul", *left_out, class_="plain")
    more = (
        element("details", element("summary", "Left out or saturated"), words, class_="more")
        if left_out
        else EMPTY
    )
    return lines + more + grid(*_history(run), *_mismatch(run))


def _history(run: Entry) -> list[Markup]:
    published = run["adaptation"].get("published", {})
    if "history" not in published:
        return []
    kind = only_kind(published["history"])
    return [picture("Adaptation, iteration by iteration", figures.adaptation(run), kind=kind)]


def _mismatch(run: Entry) -> list[Markup]:
    """With the numbers of what shows anything: what was no distance before needs no table."""
    if "mismatch" not in run:
        return []
    tables = []
    for stage, name in figures.STAGES.items():
        for spread, title in SPREADS.items():
            for when in ("before", "after"):
                found = run["mismatch"][when][stage][spread]["value"]
                if any(float(x) > figures.FLOOR for row in found for x in row):
                    heads = "key/value head" if stage in ("k", "v") else "head"
                    tables.append(head_rows(f"{name} {when} adaptation: {title}", found, heads))
    kind = only_kind(run["mismatch"])
    return [picture("Distance of every head", figures.mismatch(run), kind=kind, numbers=tables)]


def codes(results: Sequence[Result]) -> Markup:
    """Histograms of the codes."""
    return each(results, "codes", _codes)


def _codes(result: Result) -> Markup:
    return picture("Use of the codes", figures.codes(result.run), kind=only_kind(result.run["codes"]))


def cell(results: Sequence[Result]) -> Markup:
    """Currents of the cells beside one another."""
    charts = []
    for result in results:
        with whole(result, "cell"):
            title, kind = f"{result.name}: current of one gain cell", only_kind(result.run["cell"])
            charts.append(picture(title, figures.cell(result.run), kind=kind))
    return grid(*charts)


def cells(results: Sequence[Result]) -> Markup:
    """Cells and chips of recipes/cells.py, a row a result."""
    rows, kinds = [], []
    named = dict.fromkeys(name for result in results for name in result.run["stages"])
    facts = {
        "retention_time": "retention, s",
        "deviation": "deviation from a line",
        "tokens_to_1_e": "tokens to 1/e",
    }
    shown = [key for key in facts if any(key in result.run for result in results)]
    for result in results:
        with whole(result, "stages"):
            run = result.run
            row = [f"{result.name}, {run['design']['name']}, {run['design']['cell']}"]
            kind: list[str | None] = [None]
            for key in shown:
                row.append(f"{number(run[key]):.4g}" if key in run else "–")
                kind.append(run[key]["kind"] if key in run else None)
            for name in named:
                stage = run["stages"].get(name)
                row.append("–" if stage is None else _perplexity(stage))
                kind.append(None if stage is None else stage["perplexity"]["kind"])
            rows.append(row)
            kinds.append(kind)
    headings = ["cell", *(facts[key] for key in shown), *(f"perplexity, {name}" for name in named)]
    caption = f"{protocol(results[0].run)}; ± is the standard error over blocks."
    return table(Rows("Cells", headings, rows, caption), lambda r, c: kinds[r][c])


def _perplexity(stage: Entry) -> str:
    error = f" ± {readable(number(stage['perplexity_error']))}" if "perplexity_error" in stage else ""
    return f"{readable(number(stage['perplexity']))}{error}"
