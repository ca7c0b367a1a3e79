"""What circuit simulations found, as figures."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.reports.spice_tables import artefacts, corner_lines
from gaincell.reports.style import BLACK, BLUE, GREY, ORANGE, PALETTE, RED, legend_beside, styled
from gaincell.results.spice import CharacterisationResult, VerifyResult

MICRO, NANO, FEMTO = 1e6, 1e9, 1e15


@styled()
def cell_figure(result: CharacterisationResult) -> Figure:
    """Current with mismatch, corners, write settling and retention (after the paper's Fig. 1e to 1h)."""
    figure = Figure(figsize=(12.4, 6.8))
    (cells, corners), (write, hold) = figure.subplots(2, 2)
    curve = result.curve
    drawn = np.array(result.mismatch.charge) * FEMTO
    cells.plot(curve.levels, drawn.T, color=GREY, lw=0.5, alpha=0.6)
    cells.plot(curve.levels, np.array(curve.charge) * FEMTO, color=BLUE, lw=2, label="nominal")
    cited = np.array(curve.of_the_design.value) * FEMTO
    cells.plot(curve.levels, cited, color=RED, ls="--", label="the design's cell, cited")
    cells.set_title(f"{result.technology}: {len(drawn)} cells")
    label_axes(cells, "stored voltage (V)", "charge of a full pulse (fC)")
    processes = list(dict.fromkeys(corner.process for corner in result.corners.curves))
    for label, corner in corner_lines(result):
        n, wrong = processes.index(corner.process), corner.temperature in artefacts(result)
        corners.plot(
            np.array(result.corners.volts) * corner.supply,
            np.array(corner.current) * MICRO,
            "--" if wrong else ("-", "-.", ":")[n % 3],
            color=ORANGE if wrong else PALETTE[n],
            lw=0.8,
            label=label,
        )
    corners.set_title("Corners")
    label_axes(corners, "stored voltage (V)", "current (µA)")
    time = np.array(result.write.time) * NANO
    for wave in result.write.stored:
        write.plot(time, wave, color=BLUE, lw=1)
    for level in result.write.levels:
        write.axhline(level, color=GREY, lw=0.5, ls=":")
    write.set_title("Writing the levels of the DAC")
    label_axes(write, "time (ns)", "stored voltage (V)", legend=False)
    retention = result.retention
    time = np.array(retention.time) * 1e3
    how = "leak set" if retention.set_by_a_leak else "models' own leakage"
    for held, colour, style, label in (
        (retention.held, BLUE, "-", how),
        (retention.with_default_gmin, ORANGE, "--", "artefact: default gmin"),
    ):
        for n, wave in enumerate(held):
            hold.plot(time, wave, style, color=colour, lw=1.4, label="" if n else label)
    hold.set_title(f"Retention, {retention.gate_tunnelling}")
    label_axes(hold, "time (ms)", "stored voltage (V)")
    return figure


def label_axes(axes: Axes, x: str, y: str, *, legend: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if legend:
        legend_beside(axes)


@styled()
def verification_figure(result: VerifyResult) -> Figure:
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
        axes.set_title(f"{name.capitalize()} dot product")
        label_axes(axes, "behavioural model: pulse width (ns)", "SPICE: pulse width (ns)")
    figure.suptitle(
        f"{result.technology}, {result.corner}, {result.readout} readout, {result.inputs} inputs, "
        f"{result.columns} columns",
    )
    return figure
