"""Sections on what a token costs: energy, latency, area; floorplan; other machines; a step over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from markupsafe import Markup

from gaincell.reports import costs as tables
from gaincell.reports import costs_around as around
from gaincell.reports import costs_figures
from gaincell.reports.baseline import baseline_figure, baseline_rows, skipped_lines
from gaincell.reports.baseline import title as baseline_title
from gaincell.reports.floorplan import area_rows, floorplan_figure, stack_rows
from gaincell.reports.html.markup import EMPTY, element, grid
from gaincell.reports.html.picture import picture
from gaincell.reports.html.result import Result, each_of, typed
from gaincell.reports.html.tables import head_rows, only_kind, short, table
from gaincell.reports.tables import Rows, layered
from gaincell.results.baseline import BaselineResult
from gaincell.results.cost import CostResult
from gaincell.results.floorplan import FloorplanResult

SIMULATED, CITED = "simulated", "cited"


def costs(results: Sequence[Result]) -> Markup:
    """A token in gain cells: side by side where there are several, then each."""
    models = tables.models(dict(typed(results, CostResult)))
    kind = _by_heading(models)
    together = table(models, lambda r, c: kind(r, c) if c > 2 else None) if len(results) > 1 else EMPTY
    return together + each_of(results, CostResult, _cost, lambda found: found.head)


def _cost(run: CostResult) -> Markup:
    notes = element("ul", *(element("li", note[0].upper() + note[1:]) for note in run.notes), class_="plain")
    summary = tables.summary(run)
    first = [
        table(summary, lambda r, _: CITED if ", cited" in summary.rows[r][0] else SIMULATED),
        grid(_energy(run), *_phases(run), *_heads(run)),
        notes if run.notes else EMPTY,
        table(tables.energy(run), _by_heading(tables.energy(run))),
        table(tables.area(run), _by_heading(tables.area(run))),
    ]
    machines = run.machines
    first.append(table(around.machines(run), lambda r, c: machines[r].kind if c < 3 else SIMULATED))
    return EMPTY.join(first) + _more(run)


def _more(run: CostResult) -> Markup:
    """What explains the numbers, folded."""
    found = list(run.technology.numbers.values())
    parts = [
        picture(
            "What changes the costs", costs_figures.sweeps(run), kind=only_kind(tuple(run.sweeps.values()))
        ),
        table(tables.variants(run), _by_heading(tables.variants(run))),
        table(around.whole_model(run), SIMULATED),
        table(around.cache(run), SIMULATED),
        table(around.memories(run), SIMULATED),
        table(tables.sensitivity(run, tables.MOST), SIMULATED),
        table(tables.technology(run), lambda r, c: found[r].kind if c == 1 else None, text=(2,)),
        table(tables.left_out(run)),
    ]
    words = "Sweeps, cells and stacks, whole model, memories, sensitivity, technology, what is left out"
    return element("details", element("summary", words), *parts, class_="more")


def _by_heading(rows: Rows) -> Callable[[int, int], str]:
    """Columns that are called cited hold cited numbers; the others follow from a model."""
    return lambda r, c: CITED if "cited" in rows.headings[c] and "×" not in rows.headings[c] else SIMULATED


def _energy(run: CostResult) -> Markup:
    kind = only_kind(run.head.lines)
    return picture("Energy of a head and token", costs_figures.energy(run), kind=kind, numbers=())


def _phases(run: CostResult) -> list[Markup]:
    """Power of a head over a step; the area of a bar is its energy."""
    shown = [phase for phase in run.head.phases if phase.duration > 0]
    if not shown:
        return []
    rows = [
        [p.name, short(p.start * 1e9), short(p.duration * 1e9), short(p.energy / p.duration * 1e3),
         tables.with_scale(p.energy, "J")]
        for p in shown
    ]  # fmt: skip
    found = Rows("A step over time", ("phase", "from, ns", "for, ns", "power, mW", "energy"), rows)
    kind = only_kind(run.head.phases)
    return [picture("A step over time", costs_figures.phases(run), kind=kind, numbers=[found])]


def _heads(run: CostResult) -> list[Markup]:
    if len(run.model_cost.heads) < 2:
        return []
    found, title = layered(run.model_cost.heads, lambda head: head.energy * 1e9), "Energy of every head"
    of_all = head_rows(f"{title}, nJ per token", found, "query head")
    return [picture(title, costs_figures.heads(run), kind=SIMULATED, numbers=[of_all])]


def floorplans(results: Sequence[Result]) -> Markup:
    """A sub-tile and a head to scale, and what takes how much of it."""
    return each_of(results, FloorplanResult, _floorplan, lambda run: run.floorplan)


def _floorplan(run: FloorplanResult) -> Markup:
    return (
        picture("Sub-tile and head", floorplan_figure(run), kind=SIMULATED, numbers=())
        + table(replace(area_rows(run), title="Area of a head"), SIMULATED)
        + table(stack_rows(run), lambda _, c: CITED if c == 3 else SIMULATED)
    )


def baseline(results: Sequence[Result]) -> Markup:
    """Softmax attention timed on a machine."""
    return each_of(results, BaselineResult, _baseline, lambda found: found.measurements)


def _baseline(run: BaselineResult) -> Markup:
    shown = [element("p", baseline_title(run), class_="lead")]
    for context, (headings, *rows) in baseline_rows(run).items():
        title = f"{context:,} keys: µs per token, by batch"
        cited = [CITED if "(cited)" in row[0] else "measured" for row in rows]
        found = Rows(
            title, ["implementation", *(f"batch {h}" if h.isdigit() else h for h in headings[1:])], rows
        )
        shown.append(table(found, lambda r, _, cited=cited: cited[r]))  # type: ignore[misc]
    skipped = [element("li", line) for line in skipped_lines(run)]
    notes = element("ul", *skipped, class_="plain") if skipped else EMPTY
    chart = picture("Time per token and layer", baseline_figure(run), kind="measured", numbers=())
    return EMPTY.join(shown) + chart + notes + element("p", run.provenance.protocol, class_="note")
