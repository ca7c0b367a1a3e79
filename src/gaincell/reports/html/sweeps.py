"""A sweep over designs: its points, and one objective against another."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gaincell.reports import sweep
from gaincell.reports.html.lines import Series, line_chart
from gaincell.reports.html.markup import EMPTY, element, grid
from gaincell.reports.html.result import Entry, Result, each
from gaincell.reports.html.tables import markdown_rows, table
from gaincell.reports.results import number
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
    return table(rows, SIMULATED) + below + _chart(run)


def _chart(run: Entry) -> Markup:
    """The second objective against the first, if there are two."""
    objectives = run["objectives"][:2]
    points = sweep.complete(run)
    if len(objectives) < 2 or not points:
        return EMPTY
    first, second = (objective["name"] for objective in objectives)
    best = sweep.front(run)
    series = [
        Series(
            label,
            [number(point["values"][first]) for point in shown],
            [number(point["values"][second]) for point in shown],
            colour,
            SIMULATED,
            line=False,
            hints=[sweep.changed(run, point) for point in shown],
        )
        for label, colour, shown in (
            ("points", 7, [p for p in points if p not in best and not sweep.unseen(run, p)]),
            ("front", 1, [p for p in best if not sweep.unseen(run, p)]),
            (sweep.UNSEEN, 2, [p for p in points if sweep.unseen(run, p)]),
        )
        if shown
    ]
    labels = [one["name"] if one["unit"] == "1" else f"{one['name']}, {one['unit']}" for one in objectives]
    title = f"{second} against {first}".capitalize()
    return grid(line_chart(title, series, labels[0], labels[1], note=SIMULATED))
