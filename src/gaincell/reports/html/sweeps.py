"""A sweep over designs: its points, and the first objective against the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from gaincell.reports import sweep_figures
from gaincell.reports.html.markup import EMPTY, element
from gaincell.reports.html.picture import picture
from gaincell.reports.html.result import Result, each_of, typed
from gaincell.reports.html.tables import table
from gaincell.reports.sweep import rows
from gaincell.reports.sweep_aware import remarks
from gaincell.results.sweep import SweepResult

SIMULATED = "simulated"


def sweep(results: Sequence[Result]) -> Markup:
    """Every point of every sweep."""
    names = {id(run): name for name, run in typed(results, SweepResult)}
    return each_of(results, SweepResult, lambda run: _sweep(names[id(run)], run), lambda run: run.points)


def _sweep(name: str, run: SweepResult) -> Markup:
    points = replace(rows(run), title=f"Points of {name}")
    said = [element("li", line) for line in remarks(run)]
    below = element("ul", *said, class_="plain") if said else EMPTY
    has_data, draw = sweep_figures.FIGURES["pareto"]
    chart = picture("Objectives", draw(run), kind=SIMULATED, numbers=()) if has_data(run) else EMPTY
    return table(points, SIMULATED) + below + chart
