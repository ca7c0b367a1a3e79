"""Results of `gaincell spice wires` as data for a file, and as a figure drawn from that data alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.reports.results import SCHEMA, Json, number, provenance, value
from gaincell.reports.spice import FEMTO, NANO, PROTOCOL, describe_corner
from gaincell.reports.spice_tables import corner_words
from gaincell.reports.style import BLACK, GREY, MARKERS, PALETTE, legend_beside, save, styled

SHOWN_CELLS = 64
"""Of a line in the design, and in operation."""
SMALLEST = 1e-6
"""Error below which none is drawn."""


def describe_wires(found: Any, ngspice: str, command: Sequence[str], design_hash: str) -> Json:
    """The result file of `gaincell spice wires`; found: spice.wires.WireStudy."""

    def v(entry: Any, unit: str) -> Json:
        return value(np.asarray(entry).tolist(), unit, "simulated")

    return {
        "schema": SCHEMA,
        "command": "spice wires",
        "technology": found.technology.title,
        "corner": describe_corner(found.corner, found.technology),
        "ngspice": ngspice,
        "bit_line": [
            {
                "cells": v(p.cells, "1"),
                "resistance": v(p.resistance, "Ohm per cell"),
                "error": v(p.error, "of the line's current"),
                "drop": v(p.drop, "of the farthest cell's current"),
                "first_order_error": v(p.first_order, "of the line's current"),
            }
            for p in found.bit_line
        ],
        "word_line": [
            {
                "cells": v(p.cells, "1"),
                "resistance": v(p.resistance, "Ohm per cell"),
                "capacitance": v(p.capacitance, "F per cell"),
                "error": v(p.error, "of the shortest pulse's charge"),
                "long_error": v(p.long_error, "of the longest pulse's charge"),
            }
            for p in found.word_line
        ],
        "in_operation": [
            {
                "array": p.array,
                "resistance": v(p.resistance, "Ohm per cell"),
                "capacitance": v(p.capacitance, "F per cell"),
                "rms": v(p.rms, "s"),
                "largest": v(p.largest, "s"),
                "drop": v(p.drop, "of the farthest cell's current"),
                "rms_after_first_order_model": v(p.left, "s"),
                "noise": v(p.noise, "s"),
                "columns": v(p.columns, "1"),
            }
            for p in found.in_operation
        ],
        "conductance": v(found.conductance, "S"),
        "tolerance": v(found.tolerance, "1"),
        "full_scale": v(found.longest, "s"),
        "overload": v(found.overload, "of the converter's saturation"),
        "limits": {
            name: v(limit, "Ohm per cell")
            if np.isfinite(limit)
            else value("infinity", "Ohm per cell", "simulated")
            for name, limit in found.limits.items()
        },
        "provenance": provenance(command=command, seed=0, protocol=PROTOCOL, design_hash=design_hash),
    }


@styled()
def wires_figure(result: Json) -> Figure:
    """Error against the cells on a line, bit line and word line apart; change of charges in operation."""
    figure = Figure(figsize=(9.0, 10.2))
    bit, word, use = figure.subplots(3, 1)
    tolerance, full = number(result["tolerance"]), number(result["full_scale"]) * NANO
    for axes, key, title in (
        (bit, "bit_line", "Bit line, all cells conduct"),
        (word, "word_line", "Word line, farthest cell, shortest pulse"),
    ):
        _draw_sizes(axes, result[key])
        axes.axvline(SHOWN_CELLS, color=GREY, lw=1, ls=":", label=f"{SHOWN_CELLS} cells")
        axes.axhline(100 * tolerance, color=BLACK, lw=1, ls="--", label=f"tolerance, {tolerance:.2%}")
        axes.set_title(title)
        axes.set_xlabel("cells on the line")
    bit.set_ylabel("lost current (% of the line's)")
    word.set_ylabel("error (% of the pulse's charge)")
    _draw_operation(use, result)
    limit = f"tolerance, {tolerance * full:.2g} ns"
    use.axhline(tolerance * full, color=BLACK, lw=1, ls="--", label=limit)
    for axes in (bit, word, use):
        legend_beside(axes)
    figure.suptitle(f"{result['technology']}, {corner_words(result)}")
    return figure


def draw_wires(result: Json, path: Path) -> Path:
    """`wires_figure` in a file."""
    return save(wires_figure(result), path)


def _draw_sizes(axes: Axes, points: list[Json]) -> None:
    """A line for every resistance, in broken strokes for more capacitance."""
    capacitances = sorted({number(p["capacitance"]) for p in points if "capacitance" in p})
    for n, r in enumerate(sorted({number(p["resistance"]) for p in points})):
        look: dict[str, Any] = {"color": PALETTE[n % len(PALETTE)], "marker": MARKERS[n % len(MARKERS)]}
        for k, c in enumerate(capacitances or [0.0]):
            line = [
                p
                for p in points
                if number(p["resistance"]) == r and number(p.get("capacitance", {"value": 0})) == c
            ]
            error = [100 * max(abs(number(p["error"])), SMALLEST) for p in line]
            label = f"{r:g} Ω" + (f", {c * FEMTO:g} fF" if capacitances else "") + " per cell"
            axes.plot([number(p["cells"]) for p in line], error, ("-", "--", ":")[k % 3], label=label, **look)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_yscale("log")


def _draw_operation(axes: Axes, result: Json) -> None:
    """Change of the charges with random inputs over the resistance of the wires."""
    kinds = dict.fromkeys((p["array"], number(p["capacitance"])) for p in result["in_operation"])
    for n, (array, c) in enumerate(kinds):
        line = [p for p in result["in_operation"] if (p["array"], number(p["capacitance"])) == (array, c)]
        ohms = [number(p["resistance"]) for p in line]
        look: dict[str, Any] = {"color": PALETTE[n % len(PALETTE)], "marker": MARKERS[n % len(MARKERS)]}
        label = f"{array} dot product, {c * FEMTO:g} fF per cell"
        axes.plot(ohms, [number(p["rms"]) * NANO for p in line], "-", label=f"{label}: rms", **look)
        largest = [number(p["largest"]) * NANO for p in line]
        axes.plot(ohms, largest, ":", mfc="white", label=f"{label}: largest", **look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    columns = sorted({round(number(p["columns"])) for p in result["in_operation"]})
    axes.set_title(f"{SHOWN_CELLS} cells in operation, {' or '.join(map(str, columns))} columns")
    axes.set_xlabel("resistance per cell (Ω)")
    axes.set_ylabel("change of the charges (ns)")
