"""What circuit simulations found, as figures and sections of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.reports import spice_tables, style
from gaincell.reports.html import parts
from gaincell.reports.html.markup import short
from gaincell.reports.style import BLACK, BLUE, GREY, MARKERS, ORANGE, PALETTE, RED, look, styled
from gaincell.reports.tables import SIMULATED, Rows, of_all
from gaincell.results import spice as of
from gaincell.results.spice import MixedResult, Nodes, WriteResult
from gaincell.results.spice_cell import CharacterisationResult
from gaincell.units import with_scale

MICRO, NANO, FEMTO = 1e6, 1e9, 1e15
SHOWN_CELLS = 64
"""Of a line in the design, and in operation."""
SMALLEST = 1e-6
"""Error below which none is drawn."""


@styled()
def cell_figure(result: CharacterisationResult) -> Figure:
    """Current with mismatch, corners, write settling and retention (after the paper's Fig. 1e to 1h)."""
    figure = Figure(figsize=(12.4, 6.8))
    (cells, corners), (write, hold) = figure.subplots(2, 2)
    curve = result.curve
    drawn = np.array(result.mismatch.charge) * FEMTO
    cells.plot(curve.levels, drawn.T, color=GREY, lw=0.5, alpha=0.6)
    cells.plot(curve.levels, np.array(curve.charge) * FEMTO, color=BLUE, lw=2, label="nominal")
    own = np.array(curve.of_the_design.value) * FEMTO
    label = f"the design's cell, {curve.of_the_design.kind}"
    cells.plot(curve.levels, own, color=RED, ls="--", label=label)
    _label(
        cells, "stored voltage (V)", "charge of a full pulse (fC)", f"{result.technology}: {len(drawn)} cells"
    )
    processes = list(dict.fromkeys(corner.process for corner in result.corners.curves))
    for label, corner in spice_tables.corner_lines(result):
        n, wrong = processes.index(corner.process), corner.temperature in spice_tables.artefacts(result)
        volts, current = np.array(result.corners.volts) * corner.supply, np.array(corner.current) * MICRO
        colour, dashes = (ORANGE, "--") if wrong else (PALETTE[n], ("-", "-.", ":")[n % 3])
        corners.plot(volts, current, dashes, color=colour, lw=0.8, label=label)
    _label(corners, "stored voltage (V)", "current (µA)", "Corners")
    time = np.array(result.write.time) * NANO
    for wave in result.write.stored:
        write.plot(time, wave, color=BLUE, lw=1)
    for level in result.write.levels:
        write.axhline(level, color=GREY, lw=0.5, ls=":")
    write.set(xlabel="time (ns)", ylabel="stored voltage (V)", title="Writing the levels of the DAC")
    retention = result.retention
    time = np.array(retention.time) * 1e3
    how = "leak set" if retention.set_by_a_leak else "models' own leakage"
    for held, colour, dashes, label in (
        (retention.held, BLUE, "-", how),
        (retention.with_default_gmin, ORANGE, "--", "artefact: default gmin"),
    ):
        for n, wave in enumerate(held):
            hold.plot(time, wave, dashes, color=colour, lw=1.4, label="" if n else label)
    _label(hold, "time (ms)", "stored voltage (V)", f"Retention, {retention.gate_tunnelling}")
    return figure


def _label(axes: Axes, x: str, y: str, title: str = "") -> None:
    axes.set(xlabel=x, ylabel=y)
    if title:
        axes.set_title(title)
    style.legend_beside(axes)


@styled()
def verification_figure(result: of.VerifyResult) -> Figure:
    """SPICE against the model, both dot products (the paper's Fig. 5a and 5b)."""
    figure = Figure(figsize=(11.0, 4.0))
    longest = result.full_scale * NANO
    for axes, (name, array), low in zip(
        figure.subplots(1, 2), result.arrays.items(), (0.0, -longest), strict=True
    ):
        spice = np.array(array.spice) * NANO
        for curve, word, colour, marker in (
            ("linear", "linear cell", GREY, "^"),
            ("cubic", "its cubic", RED, "s"),
            ("own", "cell's own curve", BLUE, "o"),
        ):
            label = f"{word}: rms {array.rms[curve] * NANO:.3f} ns"
            model = np.array(array.model[curve]) * NANO
            axes.plot(model, spice, marker, color=colour, ms=3.5, label=label)
        axes.plot([low, longest], [low, longest], color=BLACK, lw=0.7)
        x, y = (f"{of}: pulse width (ns)" for of in ("behavioural model", "SPICE"))
        _label(axes, x, y, f"{name.capitalize()} dot product")
    figure.suptitle(
        f"{result.technology}, {result.corner}, {result.readout} readout, {result.inputs} inputs, "
        f"{result.columns} column{'s' * (result.columns > 1)}",
    )
    return figure


@styled()
def wires_figure(result: of.WiresResult) -> Figure:
    """Error against the cells on a line, bit line and word line apart; change of charges in operation."""
    figure = Figure(figsize=(9.0, 10.2))
    bit, word, use = figure.subplots(3, 1)
    tolerance, full = result.tolerance, result.full_scale * NANO
    _draw_sizes(bit, result.bit_line)
    _draw_sizes(word, result.word_line)
    for axes, title in (
        (bit, "Bit line, all cells conduct"),
        (word, "Word line, farthest cell, shortest pulse"),
    ):
        axes.axvline(SHOWN_CELLS, color=GREY, lw=1, ls=":", label=f"{SHOWN_CELLS} cells")
        axes.axhline(100 * tolerance, color=BLACK, lw=1, ls="--", label=f"tolerance, {tolerance:.2%}")
        axes.set(title=title, xlabel="cells on the line")
    bit.set_ylabel("lost current (% of the line's)")
    word.set_ylabel("error (% of the pulse's charge)")
    lines: dict[tuple[str, float], list[of.InOperation]] = {}
    for p in result.in_operation:
        lines.setdefault((p.array, p.capacitance), []).append(p)
    for n, ((array, c), line) in enumerate(lines.items()):
        ohms, label = [p.resistance for p in line], f"{array} dot product, {c * FEMTO:g} fF per cell"
        use.plot(ohms, [p.rms * NANO for p in line], "-", label=f"{label}: rms", **look(n))
        largest = [p.largest * NANO for p in line]
        use.plot(ohms, largest, ":", mfc="white", label=f"{label}: largest", **look(n))
    columns = sorted({p.columns for p in result.in_operation})
    use.set(
        xscale="log", yscale="log", xlabel="resistance per cell (Ω)", ylabel="change of the charges (ns)",
        title=f"{SHOWN_CELLS} cells in operation, {' or '.join(map(str, columns))} columns",
    )  # fmt: skip
    limit = f"tolerance, {tolerance * full:.2g} ns"
    use.axhline(tolerance * full, color=BLACK, lw=1, ls="--", label=limit)
    for axes in (bit, word, use):
        style.legend_beside(axes)
    figure.suptitle(f"{result.technology}, {result.corner}")
    return figure


def _draw_sizes(axes: Axes, points: Sequence[of.BitLine] | Sequence[of.WordLine]) -> None:
    """A line for every resistance, in broken strokes for more capacitance."""
    lines: dict[tuple[float, float], list[tuple[float, float]]] = {}
    for p in points:
        wire = p.resistance, p.capacitance if isinstance(p, of.WordLine) else 0.0
        lines.setdefault(wire, []).append((p.cells, 100 * max(abs(p.error), SMALLEST)))
    ohms, farads = (sorted(set(values)) for values in zip(*lines, strict=True))
    for r, c in sorted(lines):
        dashes = ("-", "--", ":")[farads.index(c) % 3]
        label = f"{r:g} Ω" + (f", {c * FEMTO:g} fF" if c else "") + " per cell"
        axes.plot(*zip(*lines[r, c], strict=True), dashes, label=label, **look(ohms.index(r)))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_yscale("log")


@styled()
def mixed_figure(result: MixedResult) -> Figure:
    """Wires and integrators of one step, stores over all steps, codes beside HeadArray's."""
    waves = result.waves
    figure = Figure(figsize=(11.0, 8.5))
    grid = figure.add_gridspec(3, 2, height_ratios=[2.2, 1, 1.2])
    axes = figure.add_subplot(grid[0, :])
    nodes = waves.logic.nodes
    for n, wave in enumerate(nodes.values()):  # one above the other
        level = np.array(wave)
        low, high = level.min(), max(level.max(), level.min() + 0.5)
        time = np.array(waves.logic.time) * NANO
        axes.plot(time, (level - low) / (high - low) * 0.7 - n, color=BLACK, lw=0.9)
    axes.set_yticks([0.2 - n for n in range(len(nodes))], [node.replace("_", " ") for node in nodes])
    axes.grid(visible=False, axis="y")
    axes.set(title=f"Token {waves.token}: it overwrites the first column", xlabel="time of the step (ns)")
    axes = figure.add_subplot(grid[1, :])
    _waves(axes, waves.integrators, lambda node: node.replace("o_", "").replace("_", " "))
    _label(axes, "time of the step (ns)", "integrator (V)")
    axes = figure.add_subplot(grid[2, 0])
    _waves(axes, waves.stores, lambda node: f"row {node.split('_')[2]}")
    _label(axes, "time of the run (ns)", "stored (V)", "Key column 0: written twice")
    axes = figure.add_subplot(grid[2, 1])
    expected, seen = (np.ravel(codes) for codes in (result.codes.head_array, result.codes.spice))
    axes.plot([-15, 15], [-15, 15], color=GREY, lw=0.7)
    same = expected == seen
    for chosen, colour, marker, label in (
        (same, BLUE, MARKERS[0], "equal"),
        (~same, RED, MARKERS[1], "not equal"),
    ):
        axes.plot(expected[chosen], seen[chosen], marker, color=colour, ms=3.5, label=label)
    _label(axes, "code of HeadArray", "code of the simulation")
    sizes = f"{result.rows} x {result.columns}, {result.tokens} tokens"
    figure.suptitle(f"{result.technology}, sub-tile of {sizes}; {result.corner}")
    return figure


def _waves(axes: Axes, found: Nodes, name: Callable[[str], str]) -> None:
    nanoseconds = np.array(found.time) * NANO
    for (node, wave), colour in zip(found.nodes.items(), cycle(PALETTE), strict=False):
        axes.plot(nanoseconds, wave, color=colour, label=name(node))


def check_rows(run: of.VerifyResult) -> Iterator[Rows]:
    """What was checked of SPICE against the model."""
    rows = []
    for check in run.checks:
        numbers = map(short, (check.found.value, check.allowed.value))
        rows.append([check.name, *numbers, check.found.unit, "passed" if check.passed else "FAILED"])
    if rows:
        headings = ("check", "found", "allowed", "unit", "outcome")
        yield Rows("Checks", headings, rows, text=(0, 3, 4), kinds=SIMULATED)


def deviations(run: of.VerifyResult) -> str:
    shares = (f"{100 * array.rms_of_full_scale['own']:.2g} %" for array in run.arrays.values())
    return f"{' and '.join(shares)} of full scale, rms from the model"


def energy_rows(results: Mapping[str, of.EnergyResult]) -> Rows:
    missing = of_all(results, lambda one: one.not_included)
    return replace(spice_tables.energy(results), caption=f"Not included: {missing}.")


def head_energies(run: of.EnergyResult) -> str:
    last = run.runs[-1]
    heads = " and ".join(with_scale(array.head, "J") for array in last.arrays.values())
    return f"{heads} a head, {last.inputs} inputs"


CELLS = parts.section(
    "Cells in SPICE", "From transistor models.", CharacterisationResult,
    parts.figure("Curves of the cell", cell_figure),
    together=parts.tables(spice_tables.cells), numbers=lambda run: run.curve, id="spice-cell",
    headline=lambda run: f"R² {run.curve.r_squared_against_it:.3f} against the cell of the design",
)  # fmt: skip
VERIFICATION = parts.section(
    "SPICE and model", "Pulses of both dot products: circuit against model.", of.VerifyResult,
    parts.figure("Pulses of both dot products", verification_figure), parts.tables(check_rows),
    parts.listed(lambda run: run.warnings),
    together=parts.tables(spice_tables.verification), numbers=lambda run: run.first, id="spice-verify",
    headline=deviations,
)  # fmt: skip
ENERGY = parts.section(
    "Energy in SPICE", "Energies of the arrays.", of.EnergyResult,
    together=parts.tables(energy_rows), id="spice-energy", headline=head_energies,
)  # fmt: skip
WIRES = parts.section(
    "Wires", "What the resistance of wires costs.", of.WiresResult,
    parts.figure("What wires cost", wires_figure), parts.tables(spice_tables.wires),
    numbers=lambda run: run.bit_line, id="spice-wires",
    headline=lambda run: (
        f"{run.limits['bit line']:.3g} Ω per cell cost a bit line {100 * run.tolerance:.1f} % of its charge"
        if "bit line" in run.limits
        else "lines shorter than 64 cells"
    ),
)  # fmt: skip
WRITE = parts.section(
    "Write path", "From a code to a stored voltage.", WriteResult,
    parts.tables(spice_tables.write, title="Write path"), numbers=lambda run: run.dacs, id="spice-write",
    headline=lambda run: (
        f"{with_scale(fmean(run.dacs['string'].energy), 'J')} a write of a line, resistor string"
    ),
)  # fmt: skip
MIXED = parts.section(
    "Mixed-signal run", "A sub-tile of transistors with its digital block in one simulation.", MixedResult,
    parts.figure("Mixed-signal run", mixed_figure),
    parts.tables(spice_tables.mixed, title="Codes and stored voltages"),
    numbers=lambda run: run.waves, id="spice-mixed",
    headline=lambda run: f"{run.codes.differ} of {run.tokens * run.rows} codes unlike those of HeadArray",
)  # fmt: skip
