"""The mixed-signal run of a sub-tile: its table and waveforms, for terminal, report and docs."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.reports.spice import label_axes
from gaincell.reports.style import BLACK, BLUE, GREY, MARKERS, PALETTE, RED, styled
from gaincell.reports.tables import Rows
from gaincell.results.spice_circuits import MixedResult, MixedWaves


def rows(result: MixedResult) -> Rows:
    """What was simulated and how it compares."""
    codes = np.array(result.codes.spice)
    error, drift = (
        f"{of.rms * 1e3:.1f}, {of.largest * 1e3:.1f}" for of in (result.write_error, result.drift)
    )
    tokens = f"{result.tokens} tokens of {result.step_periods} clock periods"
    lines = [
        ["sub-tile, run", f"{_size(result)}, {tokens}"],
        ["output codes, lowest to highest", f"{codes.size}, {codes.min():g} to {codes.max():g}"],
        ["codes unlike HeadArray's", f"{result.codes.differ} of {codes.size}"],
        *([c.name, f"{c.found.value:.3g} (allowed: {c.allowed.value:g})"] for c in result.checks),
        ["codes unlike those of ideal writes", f"{result.codes.unlike_ideal_writes}"],
        ["stored voltages, error against the ideal level (mV): rms, largest", error],
        ["stored voltages, moved until the column is written again (mV): rms, largest", drift],
    ]
    return Rows(f"{result.technology}, {result.ngspice}", ("mixed-signal run", ""), lines)


def _size(result: MixedResult) -> str:
    return f"{result.rows} x {result.columns}"


@styled()
def mixed_figure(result: MixedResult) -> Figure:
    """Wires and integrators of one step, stores over all steps, codes beside HeadArray's."""
    waves = result.waves
    figure = Figure(figsize=(11.0, 8.5))
    grid = figure.add_gridspec(3, 2, height_ratios=[2.2, 1, 1.2])
    _logic(figure.add_subplot(grid[0, :]), waves)
    axes = figure.add_subplot(grid[1, :])
    nanoseconds = np.array(waves.integrators.time) * 1e9
    for n, (node, wave) in enumerate(waves.integrators.nodes.items()):
        label = node.replace("o_", "").replace("_", " ")
        axes.plot(nanoseconds, wave, color=PALETTE[n % len(PALETTE)], label=label)
    label_axes(axes, "", "integrator (V)")
    axes = figure.add_subplot(grid[2, 0])
    nanoseconds = np.array(waves.stores.time) * 1e9
    for n, (node, wave) in enumerate(waves.stores.nodes.items()):
        axes.plot(nanoseconds, wave, color=PALETTE[n], label=f"row {node.split('_')[2]}")
    axes.set_title("Key column 0: written twice")
    label_axes(axes, "time of the run (ns)", "stored (V)")
    axes = figure.add_subplot(grid[2, 1])
    expected, seen = (np.ravel(codes) for codes in (result.codes.head_array, result.codes.spice))
    axes.plot([-15, 15], [-15, 15], color=GREY, lw=0.7)
    same = expected == seen
    for chosen, colour, marker, label in (
        (same, BLUE, MARKERS[0], "equal"),
        (~same, RED, MARKERS[1], "not equal"),
    ):
        axes.plot(expected[chosen], seen[chosen], marker, color=colour, ms=3.5, label=label)
    label_axes(axes, "code of HeadArray", "code of the simulation")
    figure.suptitle(f"{result.technology}, sub-tile of {_size(result)}, {result.tokens} tokens")
    return figure


def _logic(axes: Axes, waves: MixedWaves) -> None:
    """Wires one above the other."""
    nodes = waves.logic.nodes
    nanoseconds = np.array(waves.logic.time) * 1e9
    for n, wave in enumerate(nodes.values()):
        level = np.array(wave)
        low, high = level.min(), max(level.max(), level.min() + 0.5)
        axes.plot(nanoseconds, (level - low) / (high - low) * 0.7 - n, color=BLACK, lw=0.9)
    axes.set_yticks([0.2 - n for n in range(len(nodes))], [node.replace("_", " ") for node in nodes])
    axes.grid(visible=False, axis="y")
    axes.set_title(f"Token {waves.token}: it overwrites the first column")
    axes.set_xlabel("time of the step (ns)")
