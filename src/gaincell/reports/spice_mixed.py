"""The mixed-signal run of a sub-tile: its result file, table and waveforms, for terminal, report and docs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.reports.results import SCHEMA, Json, number, provenance, value
from gaincell.reports.spice import PROTOCOL, describe_corner, label_axes
from gaincell.reports.spice_tables import table
from gaincell.reports.style import BLACK, BLUE, GREY, MARKERS, PALETTE, RED, save, styled

HEADINGS = ("mixed-signal run", "")
POINTS = 800
"""Of a waveform in the result file."""
LINES = 3
"""Rows and columns whose waveforms are kept."""
LOGIC = ("discharge_key", "gate_key_0", "word", "phi", "late_count", "pulse", "negative")


def describe_mixed(found: Any, ngspice: str, command: Sequence[str], design_hash: str, seed: int) -> Json:
    """The result file of `gaincell spice mixed`; found: rtl.mixed_signal.MixedSignal."""

    def v(entry: Any, unit: str) -> Json:
        return value(np.asarray(entry).tolist(), unit, "simulated")

    p, errors, moved = found.parameters, found.stored - found.targets, found.held - found.stored
    off = np.abs(found.codes - found.expected)
    return {
        "schema": SCHEMA,
        "command": "spice mixed",
        "technology": found.technology.title,
        "corner": describe_corner(found.corner, found.technology),
        "ngspice": ngspice,
        "chip": p.design.name,
        "columns": v(p.columns, "1"),
        "rows": v(p.rows, "1"),
        "tokens": v(len(found.codes), "1"),
        "step_periods": v(p.step_cycles, "1"),
        "clock": v(p.design.counter_clock, "Hz"),
        "codes": {
            "spice": v(found.codes, "codes"),
            "head_array": v(found.expected, "codes"),
            "ideal_writes": v(found.ideal, "codes"),
            "differ": v(int((off > 0).sum()), "1"),
            "unlike_ideal_writes": v(int((found.codes != found.ideal).sum()), "1"),
        },
        "write_error": {
            "rms": v(float(np.sqrt((errors**2).mean())), "V"),
            "largest": v(float(np.abs(errors).max()), "V"),
        },
        "drift": {
            "rms": v(float(np.sqrt((moved**2).mean())), "V"),
            "largest": v(float(np.abs(moved).max()), "V"),
        },
        "checks": [
            {"name": name, "found": v(x, unit), "allowed": v(limit, unit), "passed": bool(x <= limit)}
            for name, (x, limit, unit) in found.checks.items()
        ],
        "waves": _waves(found),
        "warnings": list(found.warnings),
        "provenance": provenance(
            command=list(command), seed=seed, protocol=PROTOCOL, design_hash=design_hash, inputs={}
        ),
    }


def _waves(found: Any) -> Json:
    """Of the step that overwrites the first column, and the stores of that column over all steps."""
    p, plot = found.parameters, found.plot
    period = 1 / p.design.counter_clock
    start = (found.record.starts[p.columns] + 1) * period
    lines = range(min(LINES, p.rows))
    step = np.linspace(start, start + (p.step_cycles + 1) * period, POINTS)
    run = np.linspace(0, float(plot["time"][-1]), POINTS)

    def sampled(nodes: Sequence[str], times: Any) -> Json:
        waves = {node: np.interp(times, plot["time"], plot[f"v({node})"]).round(4) for node in nodes}
        return {
            "time": value((times - times[0]).tolist(), "s", "simulated"),
            "nodes": {node: value(wave.tolist(), "V", "simulated") for node, wave in waves.items()},
        }

    logic = [
        node
        for name in LOGIC
        for node in ([name] if f"v({name})" in plot.waves else [f"{name}_{line}" for line in lines])
    ]
    analog = [f"o_{array}_{line}" for array in ("key", "value") for line in lines]
    return {
        "token": value(p.columns, "1", "simulated"),
        "logic": sampled(logic, step),
        "integrators": sampled(analog, step),
        "stores": sampled([f"st_key_{line}_0" for line in lines], run),
    }


def rows(result: Json) -> list[list[str]]:
    """What was simulated and how it compares."""
    codes = np.array(result["codes"]["spice"]["value"])
    error, drift = (
        f"{number(result[key]['rms']) * 1e3:.1f}, {number(result[key]['largest']) * 1e3:.1f}"
        for key in ("write_error", "drift")
    )
    checks = [
        [f"{c['name']}", f"{number(c['found']):.3g} (allowed: {number(c['allowed']):g})"]
        for c in result["checks"]
    ]
    size = f"{number(result['rows']):g} x {number(result['columns']):g}"
    tokens = f"{number(result['tokens']):g} tokens of {number(result['step_periods']):g} clock periods"
    return [
        ["sub-tile, run", f"{size}, {tokens}"],
        ["output codes, lowest to highest", f"{codes.size}, {codes.min():g} to {codes.max():g}"],
        ["codes unlike HeadArray's", f"{number(result['codes']['differ']):g} of {codes.size}"],
        *checks,
        ["codes unlike those of ideal writes", f"{number(result['codes']['unlike_ideal_writes']):g}"],
        ["stored voltages, error against the ideal level (mV): rms, largest", error],
        ["stored voltages, moved until the column is written again (mV): rms, largest", drift],
    ]


def markdown(result: Json) -> str:
    """The table with its conditions."""
    return f"{table(HEADINGS, rows(result))}\n\n{result['technology']}; {result['ngspice']}; simulated.\n"


@styled()
def mixed_figure(result: Json) -> Figure:
    """Wires and integrators of one step, stores over all steps, codes beside HeadArray's."""
    waves = result["waves"]
    figure = Figure(figsize=(11.0, 8.5))
    grid = figure.add_gridspec(3, 2, height_ratios=[2.2, 1, 1.2])
    _logic(figure.add_subplot(grid[0, :]), waves)
    axes = figure.add_subplot(grid[1, :])
    nanoseconds = np.array(waves["integrators"]["time"]["value"]) * 1e9
    for n, (node, wave) in enumerate(waves["integrators"]["nodes"].items()):
        label = node.replace("o_", "").replace("_", " ")
        axes.plot(nanoseconds, wave["value"], color=PALETTE[n % len(PALETTE)], label=label)
    label_axes(axes, "", "integrator (V)")
    axes = figure.add_subplot(grid[2, 0])
    nanoseconds = np.array(waves["stores"]["time"]["value"]) * 1e9
    for n, (node, wave) in enumerate(waves["stores"]["nodes"].items()):
        axes.plot(nanoseconds, wave["value"], color=PALETTE[n], label=f"row {node.split('_')[2]}")
    axes.set_title("Key column 0: written twice")
    label_axes(axes, "time of the run (ns)", "stored (V)")
    axes = figure.add_subplot(grid[2, 1])
    expected, seen = (np.ravel(result["codes"][key]["value"]) for key in ("head_array", "spice"))
    axes.plot([-15, 15], [-15, 15], color=GREY, lw=0.7)
    same = expected == seen
    for chosen, colour, marker, label in (
        (same, BLUE, MARKERS[0], "equal"),
        (~same, RED, MARKERS[1], "not equal"),
    ):
        axes.plot(expected[chosen], seen[chosen], marker, color=colour, ms=3.5, label=label)
    label_axes(axes, "code of HeadArray", "code of the simulation")
    size = f"{number(result['rows']):g} x {number(result['columns']):g}"
    figure.suptitle(f"{result['technology']}, sub-tile of {size}, {number(result['tokens']):g} tokens")
    return figure


def draw_mixed(result: Json, path: Path) -> Path:
    """`mixed_figure` in a file."""
    return save(mixed_figure(result), path)


def _logic(axes: Axes, waves: Json) -> None:
    """Wires one above the other."""
    nodes = waves["logic"]["nodes"]
    nanoseconds = np.array(waves["logic"]["time"]["value"]) * 1e9
    for n, (_, wave) in enumerate(nodes.items()):
        level = np.array(wave["value"])
        low, high = level.min(), max(level.max(), level.min() + 0.5)
        axes.plot(nanoseconds, (level - low) / (high - low) * 0.7 - n, color=BLACK, lw=0.9)
    axes.set_yticks([0.2 - n for n in range(len(nodes))], [node.replace("_", " ") for node in nodes])
    axes.grid(visible=False, axis="y")
    axes.set_title(f"Token {number(waves['token']):g}: it overwrites the first column")
    axes.set_xlabel("time of the step (ns)")
