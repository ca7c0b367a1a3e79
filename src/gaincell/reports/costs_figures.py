"""Figures of costs, and their section of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from gaincell.reports import costs, style, system_costs
from gaincell.reports.costs import KINDS, basis
from gaincell.reports.html import parts
from gaincell.reports.html.markup import head_rows, only_kind, short
from gaincell.reports.simulation import PHASE_COLOURS
from gaincell.reports.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, above, panel, styled
from gaincell.reports.tables import Rows
from gaincell.results.cost import CostResult
from gaincell.units import with_scale

BLOCK_COLOURS = {
    "first dot product": BLUE, "second dot product": GREEN, "write": PURPLE, "digital": ORANGE,
    "leakage": GREY, "refresh": RED,
}  # fmt: skip


@styled()
def energy(result: CostResult) -> Figure:
    """Pies of both columns, and the factor of every block with its band."""
    found = result.head
    figure = Figure(figsize=(11.5, 3.9))
    *pies, factors = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    stated = {line.name: line.cited.value for line in found.lines if line.cited is not None}
    computed = {line.name: line.bottom_up for line in found.lines}
    columns = ("cited", stated, found.cited.energy), ("bottom-up", computed, found.bottom_up.energy)
    for pie, (title, energies_of, whole) in zip(pies, columns, strict=True):
        drawn = {name: energy for name, energy in energies_of.items() if energy > 0}
        pie.pie(
            list(drawn.values()), colors=[BLOCK_COLOURS[name] for name in drawn], startangle=90,
            counterclock=False, wedgeprops={"edgecolor": "white", "linewidth": 1},
        )  # fmt: skip
        pie.set_title(f"{title}: {with_scale(whole, 'J')}")
        named = [f"{name}, {with_scale(energy, 'J')}" for name, energy in drawn.items()]
        pie.legend(named, loc="upper center", bbox_to_anchor=(0.5, 0.02), fontsize=8)
    compared = [line for line in found.lines if line.factor is not None and line.band is not None]
    for n, line in enumerate(compared):
        band, factor = line.band or 1.0, line.factor or 1.0
        factors.barh(n, band - 1 / band, left=1 / band, height=0.6, color="#E4E4E4", linewidth=0)
        factors.plot(factor, n, "o", ms=7, color=BLUE if line.inside else RED)
        above(factors, f"{factor:.2g}", (factor, n), 8)
    factors.axvline(1, color=BLACK, linewidth=0.8)
    style.name_rows(factors, (line.name for line in compared))
    factors.set(xscale="log", xlabel="bottom-up over cited (grey: band)")
    factors.margins(x=0.12)
    figure.suptitle(f"A head and token; {basis(result)}", fontsize=9)
    return figure


@styled()
def machines(result: CostResult) -> Figure | None:
    """Latency and energy on a logarithmic axis, as dots: other machines, and gain cells twice."""
    compared = [row for row in result.machines if row.latency_over_cited is not None]
    if not compared:
        return None
    figure = Figure(figsize=(9.0, 0.8 + 0.42 * (len(result.machines) + 2)))
    panels = figure.subplots(1, 2, sharey=True)
    heads = compared[0].heads
    cells = (result.head.cited, "cited", SKY), (result.head.bottom_up, "bottom-up", BLUE)
    for axes, key, unit, count in zip(panels, ("latency", "energy"), ("s", "J"), (1.0, heads), strict=True):
        amount = attrgetter(key)
        dots = [(f"gain cells, {title}", count * amount(column), colour) for column, title, colour in cells]
        for row in compared:
            colour = GREY if row.kind == "cited" else RED
            dots.append((f"{row.title} ({KINDS[row.kind]})", amount(row), colour))
        for n, (_, at, colour) in enumerate(dots):
            if at is not None:
                axes.plot(at, n, "o", ms=8, color=colour)
                style.beside(axes, with_scale(at, unit), (at, n))
        axes.set_xscale("log")
        axes.margins(x=0.45, y=0.1)
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
        axes.set_yticks(range(len(dots)), [name for name, _, _ in dots])
        title = f"{'time' if key == 'latency' else key} per token"  # of a GPU that of a batch, over the batch
        axes.set(title=f"{title} of {heads:.0f} heads", xlabel=f"{title}, {unit}")
    panels[0].invert_yaxis()
    return figure


@styled()
def sweeps(result: CostResult) -> Figure:
    """Energy above, latency below (batch: throughput too), a column for what changes."""
    found = result.sweeps
    figure = Figure(figsize=(3.1 * len(found), 5.4))
    grid = figure.subplots(2, len(found), squeeze=False)
    for top, bottom, (name, sweep) in zip(*grid, found.items(), strict=True):
        at = sweep.at.value
        top.plot(at, [e * 1e9 for e in sweep.energy], "o-", ms=4, color=BLUE, label="bottom-up")
        top.plot(at, [e * 1e9 for e in sweep.energy_cited], "--", color=GREY, label="cited, scaled")
        bottom.plot(at, [s * 1e9 for s in sweep.latency], "o-", ms=4, color=ORANGE)
        bottom.set_ylabel("latency of a step, ns")
        if name == "batch":
            right = bottom.twinx()
            right.plot(at, [x / 1e6 for x in sweep.throughput], "s--", ms=4, color=PURPLE)
            right.set_ylim(0, 1.12 * right.get_ylim()[1])
            right.set_ylabel("million tokens/s of a layer", color=PURPLE)
            right.set_xlabel(sweep.title)
            right.grid(visible=False)
        if name == "retention_time":
            bottom.set_title("with refresh where needed", fontsize=9)
        for axes in (top, bottom):
            axes.set_xscale("log", base=10 if name == "retention_time" else 2)
            axes.set_xlabel(sweep.title + ("" if sweep.at.unit == "1" else f", {sweep.at.unit}"))
            axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
        top.set_ylabel("energy of a head, nJ")
    grid[0][0].legend(fontsize=8)
    return figure


@styled()
def phases(result: CostResult) -> Figure | None:
    """Power over the time of a step, by phase, one on the other: the area of a colour is its energy."""
    found = [phase for phase in result.head.phases if phase.duration > 0]
    if not found:
        return None
    figure, axes = panel(8.4, 3.2)
    found.sort(key=lambda phase: phase.name != "throughout")
    times = sorted({time for phase in found for time in (phase.start, phase.start + phase.duration)})
    bases = [0.0] * (len(times) - 1)
    for phase in found:
        power, end = phase.energy / phase.duration * 1e3, phase.start + phase.duration - 1e-15
        over = [n for n, time in enumerate(times[:-1]) if phase.start <= time < end]
        axes.bar(
            [times[n] * 1e9 for n in over], [power] * len(over),
            width=[(times[n + 1] - times[n]) * 1e9 for n in over], bottom=[bases[n] for n in over],
            align="edge", linewidth=0, label=f"{phase.name}: {with_scale(phase.energy, 'J')}",
            color=BLACK if phase.name.startswith("scale") else PHASE_COLOURS.get(phase.name, "#D8D8D8"),
        )  # fmt: skip
        for n in over:
            bases[n] += power
    axes.set(xlabel="time in the step, ns", ylabel="mW", title="Power of a head over a step, bottom-up")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


@styled(grid=False)
def heads(result: CostResult) -> Figure | None:
    if len(result.model_cost.heads) < 2:
        return None
    grid = [[energy * 1e9 for energy in layer] for layer in costs.head_energies(result)]
    figure = Figure(figsize=(1.8 + 0.42 * len(grid[0]), 1.4 + 0.24 * len(grid)))
    axes = figure.add_subplot()
    image = style.heat_map(axes, grid, title=result.model.name, xlabel="query head")
    axes.set_ylabel("layer")
    figure.colorbar(image, label="energy of a head, nJ per token")
    return figure


@styled()
def why(result: CostResult) -> Figure:
    """Memories for the keys and values of a head; reading out a line by pulses and by an ADC; what moving the
    cache costs against computing with it, where the GPU has HBM.
    """
    figure = Figure(figsize=(12.4, 4.2))
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.7, 0.9, 0.9))
    kinds = {"cells alone": GREY, "cells alone, wears out": RED, "with write lines and DACs": BLUE}
    for row in result.why.memories:
        kind = "with write lines and DACs" if row.title.startswith("gain cells") else "cells alone"
        kind += ", wears out" if row.lifetime is not None else ""
        at = row.area * 1e6, row.write * 1e12
        left.plot(*at, "o", ms=8, color=kinds[kind])
        above(left, row.title, at, 7, 8)
    for kind, colour in kinds.items():
        left.plot([], [], "o", ms=8, color=colour, label=kind)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=len(kinds), fontsize=8)
    left.set(
        xscale="log", yscale="log", xlabel="area of the cells of a head, mm²",
        ylabel="energy of writing a token, pJ", title="Keys and values of a head",
    )  # fmt: skip
    left.margins(x=0.25, y=0.2)
    readouts = [
        (row.energy * 1e12, f"{with_scale(row.energy, 'J')}\n{row.area * 1e12:,.0f} µm²")
        for row in result.why.conversions
    ]
    _bars(middle, readouts, (BLUE, GREY), ["pulse and\ncounter", "ADC, 7 bits\n(cited)"], 0.25, 8)
    middle.set(ylabel="pJ a conversion", title="Reading out a line")
    cache = result.why.cache
    if cache.movement is None:
        right.remove()
        return figure
    spent = [(energy * 1e3, with_scale(energy, "J")) for energy in (cache.movement, cache.arithmetic)]
    _bars(right, spent, (RED, GREEN), ["moving", "computing"], 0.15)
    right.set(ylabel="mJ a token", title="Cache on a GPU")
    right.set_xlabel(f"{cache.model},\n{system_costs.kept(cache)}", fontsize=8)
    return figure


def _bars(
    axes: Axes,
    bars: Sequence[tuple[float, str]],
    colours: Sequence[str],
    names: Sequence[str],
    room: float,
    size: float | None = None,
) -> None:
    """Two bars with words above them, which have a share `room` of the height."""
    for n, ((height, text), colour) in enumerate(zip(bars, colours, strict=True)):
        axes.bar(n, height, color=colour, width=0.6)
        above(axes, text, (n, height), size=size)
    axes.set_xticks(range(2), names)
    axes.grid(visible=False, axis="x")
    axes.margins(y=room)


FIGURES: Mapping[str, Callable[[CostResult], Figure | None]] = {
    "energy": energy, "machines": machines, "sweeps": sweeps, "phases": phases, "heads": heads, "why": why,
}  # fmt: skip
"""By name; None where a result has no data for one."""


def phase_rows(run: CostResult) -> Rows:
    """Power of a head over a step; the area of a bar is its energy."""
    rows = []
    for phase in run.head.phases:
        if phase.duration > 0:
            numbers = (phase.start * 1e9, phase.duration * 1e9, phase.energy / phase.duration * 1e3)
            rows.append([phase.name, *map(short, numbers), with_scale(phase.energy, "J")])
    return Rows("A step over time", ("phase", "from, ns", "for, ns", "power, mW", "energy"), rows)


def energy_of_heads(run: CostResult) -> Rows:
    found = [[energy * 1e9 for energy in layer] for layer in costs.head_energies(run)]
    return head_rows("Energy of every head, nJ per token", found, "query head")


COSTS = parts.section(
    "Costs", "Energy, latency and area of a token.", CostResult,
    parts.tables(costs.summary),
    parts.grid(
        parts.figure("Energy of a head and token", energy, lambda run: only_kind(run.head.lines),
                     numbers=parts.no_numbers),
        parts.figure("A step over time", phases, lambda run: only_kind(run.head.phases), numbers=phase_rows),
        parts.figure("Energy of every head", heads, numbers=energy_of_heads),
    ),
    parts.listed(lambda run: [note[0].upper() + note[1:] for note in run.notes]),
    parts.tables(costs.energy, costs.area, system_costs.machines),
    parts.folded(
        "Sweeps, cells and stacks, whole model, memories, sensitivity, technology, what is left out",
        parts.figure("What changes the costs", sweeps, lambda run: only_kind(run.sweeps)),
        parts.tables(
            costs.variants, system_costs.whole_model, system_costs.cache, system_costs.memories,
            costs.sensitivity, costs.technology, costs.left_out,
        ),
    ),
    together=parts.tables(lambda results: [costs.models(results)] if len(results) > 1 else []),
    numbers=lambda run: run.head,
    headline=lambda run: (
        f"{', '.join(costs.three(run.model_cost.bottom_up))} for all attention of a token, bottom-up"
    ),
)  # fmt: skip
