"""A sweep over designs: its points, and the first objective against the others."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gaincell.reports import sweep, sweep_figures
from gaincell.reports.html.markup import EMPTY, element
from gaincell.reports.html.picture import picture
from gaincell.reports.html.result import Result, each
from gaincell.reports.html.tables import markdown_rows, table
from gaincell.reports.sweep_aware import remarks

SIMULATED = "simulated"


def sweeps(results: Sequence[Result]) -> Markup:
    """Every point of every sweep."""
    return each(results, "points", _sweep)


def _sweep(result: Result) -> Markup:
    run, title = result.run, f"Points of {result.name}"
    rows = markdown_rows(title, sweep.sweep_markdown(run), sweep.caption(run))[0]
    said = [element("li", line) for line in remarks(run)]
    below = element("ul", *said, class_="plain") if said else EMPTY
    has_data, draw = sweep_figures.FIGURES["pareto"]
    chart = picture("Objectives", draw(run), kind=SIMULATED, numbers=()) if has_data(run) else EMPTY
    return table(rows, SIMULATED) + below + chart
