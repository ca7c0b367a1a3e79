"""Tables, timeline and section of the page of `gaincell rtl`, from its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter

from matplotlib.figure import Figure

from gaincell.reports.html import parts
from gaincell.reports.style import BLUE, GREY, legend_below, name_rows, panel, styled
from gaincell.reports.tables import CITED, SIMULATED, Rows
from gaincell.results.rtl import PAPER, Library, Module, RtlCheck, RtlEnergy, RtlResult, Total
from gaincell.units import with_scale


def check_rows(result: RtlResult) -> Rows:
    """What was checked, how, how much, and how much of it was different."""
    columns: dict[str, Callable[[RtlCheck], str]] = {
        "check": lambda one: one.name,
        "what and how": lambda one: one.how,
        "compared": lambda one: f"{one.compared.value:,.0f} {one.compared.unit}",
        "different": lambda one: (
            f"{one.different.value:,.0f}" if one.different else "failed" if one.broken else "not done"
        ),
    }
    return Rows.of("Checks", result.checks, columns, text=(0, 1), kinds=SIMULATED)


def module_rows(result: RtlResult) -> Rows:
    """Gates, flip-flops, depth, area and energy by kind of module, and of all."""

    def row(name: str, placed: str, depth: str, of: Module | Total) -> list[str]:
        energy = "" if of.energy is None else with_scale(of.energy, "J")
        numbers = (f"{of.gates:,}", f"{of.flip_flops:,}", depth, f"{of.area * 1e12:,.0f} µm²")
        return [name, placed, *numbers, energy]

    rows = [row(m.name, f"{m.placed:,}", f"{m.depth:,}", m) for m in result.modules]
    rows += [] if result.total is None else [row("head", "", "", result.total)]
    headings = ("module", "placed", "gates", "flip-flops", "depth", "area", "energy a token")
    return Rows("Modules", headings, rows, kinds=SIMULATED)


def liberty_rows(found: Library) -> Rows:
    """What the head takes in the cells of a Liberty file."""
    row = [found.name, f"{found.cells:,}", f"{found.area:g}"]
    return Rows("Library", ("Liberty file", "cells", "area (library's unit)"), [row], kinds=SIMULATED)


def energy_rows(found: Mapping[str, RtlResult]) -> Rows:
    """Energy of a token and query head, a column a result: synthesised, the formula of the cost model, each
    hypothesis, the paper's.
    """
    given = [(one.energy, one.sizes.group) for one in found.values() if one.energy]

    def row(name: str, of: Callable[[RtlEnergy], float], basis: str) -> list[str]:
        """Shares of what all query heads of a group take together."""
        return [name, *(with_scale(of(energy) / group, "J") for energy, group in given), basis]

    def hypothesis(n: int) -> Callable[[RtlEnergy], float]:
        return lambda energy: energy.hypotheses[n].energy

    rows = [row(name, attrgetter(key), basis) for key, (name, basis) in SOURCES.items()]
    for n, one in enumerate(given[0][0].hypotheses):
        rows.append(row(f"+ {one.name}", hypothesis(n), "hypothesis"))
    rows.append(row("synthesised and all hypotheses", attrgetter("all"), "sum"))
    rows.append(row("paper, digital control and routing, of a full ring", attrgetter("paper"), PAPER.source))
    last = len(found) + 1
    return Rows(
        "Energy", ("energy of a token and query head", *found, "basis"), rows, text=(0, last),
        kinds=lambda r, c: None if c == last else CITED if r == len(rows) - 1 else SIMULATED,
    )  # fmt: skip


SOURCES = {
    "gates": ("synthesised: gates", "switching"),
    "registers": ("synthesised: registers", "switching"),
    "clock": ("synthesised: clock, as if every enable gated it", "switching"),
    "synthesised": ("synthesised", "sum"),
    "formula": ("formula of gaincell cost, the same blocks", "counted"),
}


@styled()
def timeline(result: RtlResult) -> Figure:
    """When each phase was seen on the wires of the RTL (filled), and its schedule (outlined): one token."""
    phases = result.timeline
    figure, axes = panel(8.4, 0.9 + 0.4 * len(phases))
    for row, phase in enumerate(phases):
        for n, (start, end) in enumerate(phase.seen):
            name = None if row + n else "wires of the RTL"
            axes.barh(row, end - start, left=start, label=name, color=BLUE, height=0.4)
        for n, (start, end) in enumerate(phase.scheduled):
            name = None if row + n else "schedule"
            axes.barh(row, end - start, 0.8, start, label=name, facecolor="none", edgecolor=GREY, lw=1.2)
    name_rows(axes, (phase.name for phase in phases))
    axes.set_xlim(left=0)
    axes.set_xlabel("clock period of the step")
    legend_below(figure, columns=2)
    return figure


def page_rows(run: RtlResult) -> list[Rows]:
    """What was checked of the digital half, its gates and its energies, as far as they are known."""
    checked = [check_rows(run)] if run.checks else []
    modules = [module_rows(run)] if run.modules else []
    library = [liberty_rows(run.liberty)] if run.liberty else []
    return checked + modules + library + ([energy_rows({run.inputs: run})] if run.energy else [])


def headline(run: RtlResult) -> str:
    if not run.checks:
        return f"a step takes {run.sizes.step_periods} clock periods"
    done = [check for check in run.checks if check.different or check.broken]
    broken = sum(check.broken for check in done)
    differ = sum(check.failed for check in done) - broken
    return f"{len(done)} checks, {differ} with differences" + (f", {broken} failed" if broken else "")


RTL = parts.section(
    "Digital half", "Generated, compared with HeadArray and the schedule, synthesised.", RtlResult,
    parts.figure("Phases of a step", timeline), parts.tables(page_rows),
    numbers=lambda run: run.sizes, id="rtl", headline=headline,
)  # fmt: skip
