"""Tables and the timeline of `gaincell rtl`, from its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from matplotlib.figure import Figure

from gaincell.reports.costs import with_scale
from gaincell.reports.style import BLUE, GREY, legend_below, styled
from gaincell.results.rtl import PAPER, Module, RtlEnergy, RtlResult, Total

Lines = list[list[str]]


def check_rows(result: RtlResult) -> Lines:
    """What was checked, how, how much, and how much of it was different."""
    return [
        [
            check.name,
            check.how,
            f"{check.compared.value:,.0f} {check.compared.unit}",
            "not done" if check.different is None else f"{check.different.value:,.0f}",
        ]
        for check in result.checks
    ]


def module_rows(result: RtlResult) -> Lines:
    """Gates, flip-flops, depth, area and energy by kind of module, and of all."""

    def row(name: str, placed: str, depth: str, of: Module | Total) -> list[str]:
        energy = "" if of.energy is None else with_scale(of.energy, "J")
        return [
            name,
            placed,
            f"{of.gates:,}",
            f"{of.flip_flops:,}",
            depth,
            f"{of.area * 1e12:,.0f} µm²",
            energy,
        ]

    rows = [row(m.name, f"{m.placed:,}", f"{m.depth:,}", m) for m in result.modules]
    return [*rows, *([] if result.total is None else [row("head", "", "", result.total)])]


def energy_rows(*found: RtlResult) -> Lines:
    """Energy of a token and query head, a column a result: synthesised, the formula of the cost model, each
    hypothesis, the paper's.
    """
    given = [(result.energy, result.sizes.group) for result in found if result.energy]

    def row(name: str, of: Callable[[RtlEnergy], float], basis: str) -> list[str]:
        """Shares of what all query heads of a group take together."""
        return [name, *(with_scale(of(energy) / group, "J") for energy, group in given), basis]

    def hypothesis(n: int) -> Callable[[RtlEnergy], float]:
        return lambda energy: energy.hypotheses[n].energy

    rows = [row(name, attrgetter(key), basis) for key, (name, basis) in SOURCES.items()]
    for n, one in enumerate(given[0][0].hypotheses):
        rows.append(row(f"+ {one.name}", hypothesis(n), "hypothesis"))
    rows.append(row("synthesised and all hypotheses", attrgetter("all"), "sum"))
    return [*rows, row("paper, digital control and routing", attrgetter("paper"), PAPER.source)]


SOURCES = {
    "gates": ("synthesised: gates", "switching"),
    "registers": ("synthesised: registers", "switching"),
    "clock": ("synthesised: clock, gated by the enables", "switching"),
    "synthesised": ("synthesised", "sum"),
    "formula": ("formula of gaincell cost, the same blocks", "counted"),
}
CHECKS = ("check", "what and how", "compared", "different")
MODULES = ("module", "placed", "gates", "flip-flops", "depth", "area", "energy a token")
ENERGY = ("energy of a token and query head", "", "")


def markdown(headings: Sequence[str], rows: Lines) -> str:
    """For a page."""
    lines = [list(headings), ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


@styled()
def timeline(result: RtlResult) -> Figure:
    """When each phase was seen on the wires of the RTL (filled), and its schedule (outlined): one token."""
    phases = result.timeline
    figure = Figure(figsize=(8.4, 0.9 + 0.4 * len(phases)))
    axes = figure.add_subplot()
    seen: dict[str, Any] = {"color": BLUE, "height": 0.4}
    scheduled: dict[str, Any] = {"facecolor": "none", "edgecolor": GREY, "height": 0.8, "linewidth": 1.2}
    for row, phase in enumerate(phases):
        for periods, name, style in (
            (phase.seen, "wires of the RTL", seen),
            (phase.scheduled, "schedule", scheduled),
        ):
            for n, (start, end) in enumerate(periods):
                axes.barh(row, end - start, left=start, label=None if row + n else name, **style)
    axes.set_yticks(range(len(phases)), [phase.name for phase in phases])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=0)
    axes.set_xlabel("clock period of the step")
    legend_below(figure, columns=2)
    return figure
