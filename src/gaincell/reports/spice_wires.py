"""Results of `gaincell spice wires` as data for a file, and as a figure drawn from that data alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell import files
from gaincell.reports.results import SCHEMA, Json, number, provenance, value
from gaincell.reports.spice import FEMTO, NANO, PROTOCOL, describe_corner, label_axes
from gaincell.reports.spice_tables import corner_words
from gaincell.reports.style import GREEN, GREY, PALETTE, styled


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


def draw_wires(result: Json, path: Path) -> Path:
    """Error against the cells on a line, bit line and word line apart; change of charges in operation."""
    with styled():
        figure = Figure(figsize=(13.0, 3.9))
        bit, word, use = figure.subplots(1, 3)
        for axes, key, title in (
            (bit, "bit_line", "Bit line: lost current, all cells conduct"),
            (word, "word_line", "Word line: farthest cell, 1 ns pulse"),
        ):
            _draw_sizes(axes, result[key])
            axes.axhline(100 * number(result["tolerance"]), color=GREEN, lw=0.8, ls="--")
            axes.axvline(64, color=GREY, lw=0.8, ls=":")
            axes.set_title(title)
            label_axes(axes, "cells on the line", "error (%)")
        word.set_ylim(bottom=1e-5)  # room for the legend
        _draw_operation(use, result)
        figure.suptitle(f"{result['technology']}, {corner_words(result)}")
        return files.write_atomic(path, figure.savefig)


def _draw_sizes(axes: Axes, points: list[Json]) -> None:
    """One line for every resistance, in broken strokes for more capacitance."""
    capacitances = sorted({number(p["capacitance"]) for p in points if "capacitance" in p})
    for n, r in enumerate(sorted({number(p["resistance"]) for p in points})):
        for k, c in enumerate(capacitances or [0.0]):
            line = [
                p
                for p in points
                if number(p["resistance"]) == r and number(p.get("capacitance", {"value": 0})) == c
            ]
            error = [100 * max(abs(number(p["error"])), 1e-6) for p in line]
            label = f"{r:g} Ω" + (f", {c * FEMTO:g} fF" if capacitances else "") + " per cell"
            cells, style = [number(p["cells"]) for p in line], ("o-", "s--", "^:")[k % 3]
            axes.plot(cells, error, style, color=PALETTE[n % len(PALETTE)], ms=3.5, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")


def _draw_operation(axes: Axes, result: Json) -> None:
    """Change of the charges with random inputs over the resistance of the wires."""
    kinds = dict.fromkeys((p["array"], number(p["capacitance"])) for p in result["in_operation"])
    for n, (array, c) in enumerate(kinds):
        line = [p for p in result["in_operation"] if (p["array"], number(p["capacitance"])) == (array, c)]
        ohms, colour = [number(p["resistance"]) for p in line], PALETTE[n % len(PALETTE)]
        label = f"{array} dot product, {c * FEMTO:g} fF per cell"
        for key, style in (("rms", "o-"), ("largest", "^:")):
            axes.plot(
                ohms,
                [number(p[key]) * NANO for p in line],
                style,
                color=colour,
                ms=3.5,
                label=label if key == "rms" else "",
            )
    axes.axhline(
        number(result["tolerance"]) * number(result["full_scale"]) * NANO, color=GREEN, lw=0.8, ls="--"
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(top=100)
    axes.set_title("64 cells in operation: rms (dotted: largest)")
    label_axes(axes, "resistance per cell (Ω)", "change of the charges (ns)")
