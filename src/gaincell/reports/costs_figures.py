"""Figures of costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.reports.costs import KINDS, basis, with_scale
from gaincell.reports.costs_around import kept
from gaincell.reports.hardware import PHASE_COLOURS
from gaincell.reports.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    above,
    beside,
    heat_map,
    name_rows,
    save_all,
    styled,
)  # fmt: skip
from gaincell.reports.tables import layered
from gaincell.results.cost import CostResult
from gaincell.results.system_cost import Cache, Conversion

BLOCK_COLOURS = {
    "first dot product": BLUE, "second dot product": GREEN, "write": PURPLE, "digital": ORANGE,
    "leakage": GREY, "refresh": RED,
}  # fmt: skip


def draw_all(result: CostResult, folder: Path, prefix: str = "") -> list[Path]:
    """Draw every figure the result has data for into `folder`, as PNG files named costs-..."""
    return save_all(FIGURES, result, folder, f"{prefix}costs-")


@styled()
def energy(result: CostResult) -> Figure:
    """Pies of both columns, and the factor of every block with its band."""
    found = result.head
    figure = Figure(figsize=(11.5, 3.9))
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    stated = {line.name: line.cited.value for line in found.lines if line.cited is not None}
    computed = {line.name: line.bottom_up for line in found.lines}
    columns = ("cited", stated, found.cited.energy), ("bottom-up", computed, found.bottom_up.energy)
    for axes_of, (title, energies_of, whole) in zip(axes, columns, strict=False):
        drawn = {name: energy for name, energy in energies_of.items() if energy > 0}
        axes_of.pie(
            list(drawn.values()), colors=[BLOCK_COLOURS[name] for name in drawn], startangle=90,
            counterclock=False, wedgeprops={"edgecolor": "white", "linewidth": 1},
        )  # fmt: skip
        axes_of.set_title(f"{title}: {with_scale(whole, 'J')}")
        named = [f"{name}, {with_scale(energy, 'J')}" for name, energy in drawn.items()]
        axes_of.legend(named, loc="upper center", bbox_to_anchor=(0.5, 0.02), fontsize=8)
    compared = [line for line in found.lines if line.factor is not None and line.band is not None]
    for n, line in enumerate(compared):
        band, factor = line.band or 1.0, line.factor or 1.0
        axes[2].barh(n, band - 1 / band, left=1 / band, height=0.6, color="#E4E4E4", linewidth=0)
        axes[2].plot(factor, n, "o", ms=7, color=BLUE if line.inside else RED)
        above(axes[2], f"{factor:.2g}", (factor, n), 8)
    axes[2].axvline(1, color=BLACK, linewidth=0.8)
    axes[2].set_xscale("log")
    name_rows(axes[2], (line.name for line in compared))
    axes[2].set_xlabel("bottom-up over cited (grey: band)")
    axes[2].margins(x=0.12)
    figure.suptitle(f"A head and token; {basis(result)}", fontsize=9)
    return figure


@styled()
def machines(result: CostResult) -> Figure:
    """Latency and energy on a logarithmic axis, as dots: other machines, and gain cells twice."""
    figure = Figure(figsize=(9.0, 0.8 + 0.42 * (len(result.machines) + 2)))
    panels = figure.subplots(1, 2, sharey=True)
    compared = [row for row in result.machines if row.latency_over_cited is not None]
    heads = compared[0].heads
    for axes, key, unit, count in ((panels[0], "latency", "s", 1.0), (panels[1], "energy", "J", heads)):
        dots: list[tuple[str, float | None, str]] = [
            (f"gain cells, {title}", count * attrgetter(key)(column), colour)
            for column, title, colour in (
                (result.head.cited, "cited", SKY),
                (result.head.bottom_up, "bottom-up", BLUE),
            )
        ]
        for row in compared:
            colour = GREY if row.kind == "cited" else RED
            dots.append((f"{row.title} ({KINDS[row.kind]})", attrgetter(key)(row), colour))
        for n, (_, at, colour) in enumerate(dots):
            if at is not None:
                axes.plot(at, n, "o", ms=8, color=colour)
                beside(axes, with_scale(at, unit), (at, n))
        axes.set_xscale("log")
        axes.margins(x=0.35, y=0.1)
        axes.set_yticks(range(len(dots)), [name for name, _, _ in dots])
        axes.set(title=f"{key} of {heads:.0f} heads, one token", xlabel=f"{key}, {unit}")
    panels[0].invert_yaxis()
    return figure


@styled()
def sweeps(result: CostResult) -> Figure:
    """Energy above, latency below (batch: throughput too), a column for what changes."""
    found = result.sweeps
    figure = Figure(figsize=(3.1 * len(found), 5.4))
    grid = figure.subplots(2, len(found), squeeze=False)
    for column, (name, sweep) in enumerate(found.items()):
        at = sweep.at.value
        top, bottom = grid[0][column], grid[1][column]
        top.plot(at, [e * 1e9 for e in sweep.energy], "o-", ms=4, color=BLUE, label="bottom-up")
        top.plot(at, [e * 1e9 for e in sweep.energy_cited], "--", color=GREY, label="cited, scaled")
        bottom.plot(at, [s * 1e9 for s in sweep.latency], "o-", ms=4, color=ORANGE)
        bottom.set_ylabel("latency of a step, ns")
        if name == "batch":
            _throughput(bottom, at, sweep.throughput)
        if name == "retention_time":
            bottom.set_title("with refresh where needed", fontsize=9)
        for axes in (top, bottom):
            axes.set_xscale("log", base=10 if name == "retention_time" else 2)
            axes.set_xlabel(sweep.title + ("" if sweep.at.unit == "1" else f", {sweep.at.unit}"))
            axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
        top.set_ylabel("energy of a head, nJ")
    grid[0][0].legend(fontsize=8)
    return figure


def _throughput(axes: Axes, at: Sequence[float], found: Sequence[float]) -> None:
    """On an axis of its own at the right."""
    right = axes.twinx()
    right.plot(at, [x / 1e6 for x in found], "s--", ms=4, color=PURPLE)
    right.set_ylim(0, 1.12 * right.get_ylim()[1])
    right.set_ylabel("million tokens/s of a layer", color=PURPLE)
    right.grid(visible=False)


@styled()
def phases(result: CostResult) -> Figure:
    """Power over the time of a step, by phase, one on the other: the area of a colour is its energy."""
    figure = Figure(figsize=(8.4, 3.2))
    axes = figure.add_subplot()
    found = [phase for phase in result.head.phases if phase.duration > 0]
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


@styled()
def heads(result: CostResult) -> Figure:
    """Energy of every head of every layer."""
    grid = layered(result.model_cost.heads, lambda head: head.energy * 1e9)
    figure = Figure(figsize=(1.8 + 0.42 * len(grid[0]), 1.4 + 0.24 * len(grid)))
    axes = figure.add_subplot()
    image = heat_map(axes, grid)
    axes.grid(visible=False)
    axes.set(xlabel="query head", ylabel="layer", title=result.model.name)
    figure.colorbar(image, label="energy of a head, nJ per token")
    return figure


@styled()
def why(result: CostResult) -> Figure:
    """Memories for the keys and values of a head; reading out a line by pulses and by an ADC; what moving the
    cache costs against computing with it.
    """
    figure = Figure(figsize=(12.4, 4.2))
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.7, 0.9, 0.9))
    kinds = {"cells alone": GREY, "cells alone, wears out": RED, "with write lines and DACs": BLUE}
    for row in result.why.memories:
        kind = "with write lines and DACs" if row.title.startswith("gain cells") else "cells alone"
        kind += ", wears out" if row.lifetime is not None else ""
        at = row.area * 1e6, row.write * 1e12
        left.plot(*at, "o", ms=8, color=kinds[kind])
        above(left, row.title, at, 7, fontsize=8)
    for kind, colour in kinds.items():
        left.plot([], [], "o", ms=8, color=colour, label=kind)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=len(kinds), fontsize=8)
    left.set(
        xscale="log", yscale="log", xlabel="area of the cells of a head, mm²",
        ylabel="energy of writing a token, pJ", title="Keys and values of a head",
    )  # fmt: skip
    left.margins(x=0.25, y=0.2)
    _readouts(middle, result.why.conversions)
    _movement(right, result.why.cache)
    return figure


def _readouts(axes: Axes, conversions: Sequence[Conversion]) -> None:
    bars = [
        (row.energy * 1e12, f"{with_scale(row.energy, 'J')}\n{row.area * 1e12:,.0f} µm²")
        for row in conversions
    ]
    _bars(axes, bars, (BLUE, GREY), ["pulse and\ncounter", "ADC, 7 bits\n(cited)"], 0.25, fontsize=8)
    axes.set(ylabel="pJ a conversion", title="Reading out a line")


def _movement(axes: Axes, cache: Cache) -> None:
    bars = [(energy * 1e3, with_scale(energy, "J")) for energy in (cache.movement, cache.arithmetic)]
    _bars(axes, bars, (RED, GREEN), ["moving", "computing"], 0.15)
    axes.set(ylabel="mJ a token", title="Cache on a GPU")
    axes.set_xlabel(f"{cache.model},\n{kept(cache)}", fontsize=8)


def _bars(
    axes: Axes,
    bars: Sequence[tuple[float, str]],
    colours: Sequence[str],
    names: Sequence[str],
    room: float,
    **how: Any,
) -> None:
    """Two bars with words above them. room: for these, over the height."""
    for n, ((height, text), colour) in enumerate(zip(bars, colours, strict=True)):
        axes.bar(n, height, color=colour, width=0.6)
        above(axes, text, (n, height), **how)
    axes.set_xticks(range(2), names)
    axes.grid(visible=False, axis="x")
    axes.margins(y=room)


FIGURES: Mapping[str, tuple[Callable[[CostResult], bool], Callable[[CostResult], Figure]]] = {
    "energy": (lambda _: True, energy),
    "machines": (lambda result: any(row.latency_over_cited is not None for row in result.machines), machines),
    "sweeps": (lambda _: True, sweeps),
    "phases": (lambda _: True, phases),
    "heads": (lambda result: len(result.model_cost.heads) > 1, heads),
    "why": (lambda _: True, why),
}
"""Name -> (whether the result has what it needs, how it is drawn)."""
