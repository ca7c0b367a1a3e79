"""Twins of figures of the paper that no command draws: one cell, its converters, the ring of columns.

Drawn from the design of the paper's chip and from docs/results/spice; called by docs/reproduction.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from gaincell.arrays.head import HeadArray
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.circuits import charge_to_pulse, quantize_output, signed_charge_to_pulse
from gaincell.reports.style import BLACK, BLUE, GREY, ORANGE, RED, save, styled
from gaincell.results.spice_cell import CharacterisationResult

SHORT = {"window": 8, "tile": 4}
"""Columns of the ring that is drawn, and of its sub-tiles."""
HEAD_DIM = 64
STEPS = 20
"""Tokens written into it."""


def draw_all(cell: CharacterisationResult, folder: Path) -> None:
    """Every figure into `folder`; cell: result of `gaincell spice characterise`."""
    chip = load_design("leroux2025")
    save(draw_cell(chip, cell), folder / "reproduction-cell.png")
    save(draw_converters(chip), folder / "reproduction-converters.png")
    save(draw_ring(chip), folder / "reproduction-ring.png")


@styled()
def draw_cell(chip: Design, cell: CharacterisationResult) -> Figure:
    """Fig. 1e and 1f: current against stored voltage, and decay of the stored voltage."""
    figure = Figure(figsize=(9.6, 3.6))
    left, right = figure.subplots(1, 2)
    ampere = chip.charge_unit / chip.t_pulse_max
    volts = torch.linspace(chip.v_min, chip.v_max, 181, dtype=torch.float64)
    volts_of_cells = np.array(cell.curve.levels)
    drawn = np.array(cell.mismatch.charge) / chip.t_pulse_max * 1e6
    for number, curve in enumerate(drawn):
        label = f"{len(drawn)} cells, FreePDK45, SPICE" if number == 0 else None
        left.plot(volts_of_cells, curve, color=GREY, linewidth=0.5, alpha=0.6, label=label)
    u = volts - chip.v_offset
    linear = chip.replace(cell="linear").cell
    left.plot(
        volts, linear.current(u) * ampere * 1e6, color=BLACK, linestyle=":", label="ideal, linear (cited)"
    )
    left.plot(
        volts, chip.cell.current(u) * ampere * 1e6, color=BLUE, linewidth=2,
        label="published cubic (cited, an input)",
    )  # fmt: skip
    left.axhline(0, color=BLACK, linewidth=0.6)
    left.set(
        title="Current of one cell (Fig. 1e)",
        xlabel="stored voltage (V)",
        ylabel="current during a pulse (µA)",
    )
    left.legend()
    time = np.linspace(0.0, 10e-3, 200)
    for level in (chip.v_max, chip.v_min):
        ideal = chip.v_offset + (level - chip.v_offset) * np.exp(-time / chip.retention_time)
        label = f"τ = {chip.retention_time * 1e3:g} ms (cited, an input)" if level == chip.v_max else None
        right.plot(time * 1e3, ideal, color=BLUE, linewidth=2, label=label)
    retention = cell.retention
    at = np.array(retention.time) * 1e3
    for voltages, style, colour, what in (
        (retention.held, "-", RED, "FreePDK45, SPICE: own leakage"),
        (retention.with_default_gmin, "--", ORANGE, "the same with ngspice's gmin, an artefact"),
    ):
        held = np.array(voltages)
        for number, curve in enumerate((held[0], held[-1])):
            right.plot(at, curve, style, color=colour, label=what if number == 0 else None)
    right.set(
        title="Decay of both extremes (Fig. 1f)",
        xlabel="time since the write (ms)",
        ylabel="stored voltage (V)",
    )
    right.set_ylim(-0.05, 1.35)
    right.legend(loc="upper right")
    return figure


@styled()
def draw_converters(chip: Design) -> Figure:
    """Fig. 1b, 1g and 1h: what the charge of a column becomes, and that of an output line."""
    figure = Figure(figsize=(9.6, 3.4))
    left, middle, right = figure.subplots(1, 3)
    figure.suptitle(
        "Inputs of the model, taken from the paper; the unit of charge is assumed. Drawn, not reproduced"
    )
    limit = chip.score_saturation(HEAD_DIM)
    scores = torch.linspace(-1.5 * limit, 1.5 * limit, 601, dtype=torch.float64)
    row = torch.linspace(-6, 6, 201, dtype=torch.float64)
    pair = torch.softmax(torch.stack([row, torch.zeros_like(row)]), 0)[0]
    left.plot(row, pair, color=GREY, linestyle="--", label="softmax, beside one score of 0")
    left.plot(row, torch.relu(row / 6), color=BLUE, linewidth=2, label="ReLU, up to the ceiling")
    left.set(title="Activation (Fig. 1b)", xlabel="score", ylabel="weight of a token", ylim=(-0.05, 1.3))
    left.legend(loc="upper left")
    pulse = charge_to_pulse(scores, limit, chip.score_ceiling) * chip.t_pulse_max
    middle.plot(scores * chip.charge_unit * 1e12, pulse * 1e9, color=BLUE, linewidth=2)
    middle.set(
        title="Charge to pulse (Fig. 1g)", xlabel="charge of a key column (pC)", ylabel="pulse width (ns)"
    )
    ceiling = chip.output_saturation
    charge = torch.linspace(-1.5 * ceiling, 1.5 * ceiling, 1201, dtype=torch.float64)
    signed = signed_charge_to_pulse(charge, ceiling, chip.output_ceiling)
    counted = quantize_output(signed, chip.readout, chip.counter_levels)
    at = charge * chip.charge_unit * 1e12
    right.plot(at, signed * chip.t_pulse_max * 1e9, color=GREY, linestyle="--", label="signed pulse")
    right.plot(at, counted * chip.t_pulse_max * 1e9, color=BLUE, label="as counted")
    right.set(
        title="With a sign (Fig. 1h)", xlabel="charge of an output line (pC)", ylabel="width × sign (ns)"
    )
    right.legend(loc="upper left")
    return figure


@styled()
def draw_ring(chip: Design) -> Figure:
    """Fig. 2a and 2b: which tokens a query sees, and which token every column of the arrays holds."""
    held = contents(chip.replace(**SHORT))
    window = held.shape[1]
    seen = np.zeros((STEPS, STEPS))
    for step, row in enumerate(held):
        seen[step, row[row >= 0]] = 1.0
    figure = Figure(figsize=(9.6, 4.2))
    left, right = figure.subplots(1, 2)
    left.imshow(seen, cmap=ListedColormap(["white", BLUE]), aspect="equal")
    left.set(title="Tokens in the window (Fig. 2a)", xlabel="key and value of token", ylabel="query of token")
    shown = np.ma.masked_less(held.T, 0)
    right.imshow(shown, cmap="viridis", aspect="auto", alpha=0.5)
    for step, row in enumerate(held):
        for column, token in enumerate(row):
            if token >= 0:
                weight = "bold" if token == step else "normal"
                right.text(step, column, str(token), ha="center", va="center", fontsize=7, weight=weight)
    right.axhline(SHORT["tile"] - 0.5, color=RED, linewidth=1.5)
    right.set(
        title=f"Columns of a ring of {window}, token by token (Fig. 2b)",
        xlabel="step (bold: written in it)",
        ylabel="physical column (red: next sub-tile)",
    )
    left.set_yticks(range(0, STEPS, 4))
    for axes in (left, right):
        axes.set_xticks(range(0, STEPS, 4))
        axes.grid(False)
    return figure


def contents(chip: Design) -> np.ndarray:
    """Token held by every column after every step, -1 for none, read from the token-serial hardware."""
    head = HeadArray(chip, HEAD_DIM)
    volts = torch.full((1, 1, HEAD_DIM), chip.v_offset, dtype=torch.float64)
    rows = []
    for _ in range(STEPS):
        head.step(torch.ones_like(volts), volts, volts)
        state = head.state
        rows.append(torch.where(state.valid, state.written_at, -1)[0].numpy().copy())
    return np.array(rows)
