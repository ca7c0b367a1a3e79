"""A sweep over designs: its points, and the first objective against the others."""

from __future__ import annotations

from dataclasses import replace

from markupsafe import Markup

from gaincell.reports import sweep_figures
from gaincell.reports.html.markup import EMPTY, listed
from gaincell.reports.html.picture import picture
from gaincell.reports.html.tables import table
from gaincell.reports.sweep import rows
from gaincell.reports.sweep_aware import remarks
from gaincell.reports.tables import SIMULATED
from gaincell.results.sweep import SweepResult


def sweep(run: SweepResult) -> Markup:
    """Every point of a sweep."""
    points = replace(rows(run), title=f"Points of {run.sweep}", kinds=SIMULATED)
    has_data, draw = sweep_figures.FIGURES["pareto"]
    chart = picture("Objectives", draw(run), kind=SIMULATED, numbers=()) if has_data(run) else EMPTY
    return table(points) + listed(remarks(run)) + chart
