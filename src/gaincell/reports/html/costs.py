"""Sections on what a token costs: energy, latency, area; floorplan; other machines; a step over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from markupsafe import Markup

from gaincell.reports import baseline as of_baseline
from gaincell.reports import costs as tables
from gaincell.reports import costs_around as around
from gaincell.reports import costs_figures
from gaincell.reports.floorplan import area_rows, floorplan_figure, stack_rows
from gaincell.reports.html.markup import EMPTY, folded, grid, join, listed, paragraph
from gaincell.reports.html.picture import picture
from gaincell.reports.html.tables import head_rows, only_kind, short, table
from gaincell.reports.tables import SIMULATED, Rows, layered
from gaincell.results.cost import CostResult, FloorplanResult
from gaincell.results.system_cost import BaselineResult


def side_by_side(results: Mapping[str, CostResult]) -> Markup:
    """All attention of several models."""
    return table(tables.models(results)) if len(results) > 1 else EMPTY


def cost(run: CostResult) -> Markup:
    """A token in gain cells."""
    energy = picture(
        "Energy of a head and token", costs_figures.energy(run), kind=only_kind(run.head.lines), numbers=()
    )
    sweeps = picture("What changes the costs", costs_figures.sweeps(run), kind=only_kind(run.sweeps))
    more = (
        tables.variants(run), around.whole_model(run), around.cache(run), around.memories(run),
        tables.sensitivity(run, tables.MOST), tables.technology(run), tables.left_out(run),
    )  # fmt: skip
    title = "Sweeps, cells and stacks, whole model, memories, sensitivity, technology, what is left out"
    return join((
        table(tables.summary(run)),
        grid(energy, *_phases(run), *_heads(run)),
        listed(note[0].upper() + note[1:] for note in run.notes),
        *map(table, (tables.energy(run), tables.area(run), around.machines(run))),
        folded(title, sweeps, *map(table, more)),
    ))  # fmt: skip


def _phases(run: CostResult) -> list[Markup]:
    """Power of a head over a step; the area of a bar is its energy."""
    shown = [phase for phase in run.head.phases if phase.duration > 0]
    found = Rows.of(
        "A step over time",
        shown,
        {
            "phase": lambda p: p.name,
            "from, ns": lambda p: short(p.start * 1e9),
            "for, ns": lambda p: short(p.duration * 1e9),
            "power, mW": lambda p: short(p.energy / p.duration * 1e3),
            "energy": lambda p: tables.with_scale(p.energy, "J"),
        },
    )
    kind = only_kind(run.head.phases)
    return [picture(found.title, costs_figures.phases(run), kind=kind, numbers=[found])] if shown else []


def _heads(run: CostResult) -> list[Markup]:
    if len(run.model_cost.heads) < 2:
        return []
    found, title = layered(run.model_cost.heads, lambda head: head.energy * 1e9), "Energy of every head"
    of_all = head_rows(f"{title}, nJ per token", found, "query head")
    return [picture(title, costs_figures.heads(run), kind=SIMULATED, numbers=[of_all])]


def floorplan(run: FloorplanResult) -> Markup:
    """A sub-tile and a head to scale, and what takes how much of it."""
    drawn = picture("Sub-tile and head", floorplan_figure(run), kind=SIMULATED, numbers=())
    return drawn + table(replace(area_rows(run), title="Area of a head")) + table(stack_rows(run))


def baseline(run: BaselineResult) -> Markup:
    """Softmax attention timed on a machine."""
    shown = [
        table(replace(rows, headings=[f"batch {h}" if h.isdigit() else h for h in rows.headings], caption=""))
        for rows in of_baseline.baseline_rows(run)
    ]
    drawn = of_baseline.baseline_figure(run)
    return join((
        paragraph(of_baseline.title(run), "lead"),
        *shown,
        picture("Time per token and layer", drawn, kind="measured", numbers=()),
        listed(of_baseline.skipped_lines(run)),
        paragraph(run.provenance.protocol),
    ))  # fmt: skip
