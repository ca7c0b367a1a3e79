"""What circuit simulations found, as data for a file, and as figures drawn from that data alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.reports.results import SCHEMA, Json, number, numbers, provenance, value
from gaincell.reports.spice_tables import artefacts, corner_lines, corner_words
from gaincell.reports.style import BLACK, BLUE, GREY, ORANGE, PALETTE, RED, legend_beside, save, styled

PROTOCOL = "transistor-level simulation with open models; see docs/spice.md"
MICRO, NANO, FEMTO, PICO = 1e6, 1e9, 1e15, 1e12


def describe_cell(
    found: Any, design: Any, expected: Any, ngspice: str, command: Sequence[str], seed: int
) -> Json:
    """The result file of `gaincell spice characterise`.

    found: spice.characterise.Characterisation.  design: the chip.  expected: charge of the design's own
    cell at found.levels, C.
    """

    def v(entry: Any, unit: str) -> Json:
        return value(_rounded(entry), unit, "simulated")

    spread = found.cells_charge.std(0, ddof=1) / float(np.abs(found.charge).max())
    corners = [
        {
            "process": place[0],
            "temperature": v(place[1], "C"),
            "supply": v(place[2], "of VDD"),
            "current": v(current, "A"),
        }
        for place, current in found.corners.items()
    ]
    return {
        "schema": SCHEMA,
        "command": "spice characterise",
        "technology": found.technology.title,
        "ngspice": ngspice,
        "curve": {
            "volts": v(found.volts, "V"),
            "current": v(found.current, "A"),
            "levels": v(found.levels, "V"),
            "charge": v(found.charge, "C"),
            "of_the_design": value(
                np.asarray(expected).tolist(), "C", "cited", f"cell of the design {design.name}"
            ),
            "r_squared_against_it": v(_r_squared(found.charge, expected), "1"),
        },
        "mismatch": {
            "cells": v(len(found.cells_charge), "1"),
            "charge": v(found.cells_charge, "C"),
            "std_of_full_scale": v(spread, "1"),
            "a_vt": v(found.technology.a_vt, "V m"),
        },
        "corners": {"volts": v(found.corner_volts, "V at nominal supply"), "curves": corners},
        "write": {
            "levels": v(found.write_levels, "V"),
            "settled_within_9_mV": v(found.write_times, "s"),
            "error_after_switching_off": v(found.written, "V"),
            "time": v(found.writes[0], "s"),
            "stored": v(found.writes[1], "V"),
        },
        "retention": {
            "set_by_a_leak": found.tau_set is not None,
            "gate_tunnelling": "no gate tunnelling" if found.technology.kit is None else "models as they are",
            "time": v(found.hold_times, "s"),
            "held": v(found.held, "V"),
            "with_default_gmin": v(found.held_by_default_gmin, "V"),
            "tunnelling_time": v(found.held_with_tunnelling[0], "s"),
            "with_tunnelling": v(found.held_with_tunnelling[1], "V"),
        },
        "disturb": {
            "stored": v(found.disturbed, "V"),
            "after_8_reads": v(found.read_disturb, "V"),
            "half_selected": v(found.half_select, "V"),
        },
        "provenance": provenance(command=command, seed=seed, protocol=PROTOCOL, design_hash=design.hash),
    }


def _rounded(entry: Any) -> Any:
    """Nested lists of numbers with 6 digits: simulations are not good for more."""
    if isinstance(entry, (list, tuple, np.ndarray)):
        return [_rounded(item) for item in entry]
    return float(f"{entry:.6g}")


def _r_squared(found: Any, expected: Any) -> float:
    """Share of the variance of `found` that `expected` explains, unfitted."""
    return float(1 - ((found - expected) ** 2).sum() / ((found - found.mean()) ** 2).sum())


@styled()
def cell_figure(result: Json) -> Figure:
    """Current with mismatch, corners, write settling and retention (after the paper's Fig. 1e to 1h)."""
    figure = Figure(figsize=(12.4, 6.8))
    (cells, corners), (write, hold) = figure.subplots(2, 2)
    curve = result["curve"]
    levels = np.array(numbers(curve["levels"]))
    drawn = np.array(result["mismatch"]["charge"]["value"]) * FEMTO
    cells.plot(levels, drawn.T, color=GREY, lw=0.5, alpha=0.6)
    cells.plot(levels, np.array(numbers(curve["charge"])) * FEMTO, color=BLUE, lw=2, label="nominal")
    cited = np.array(numbers(curve["of_the_design"])) * FEMTO
    cells.plot(levels, cited, color=RED, ls="--", label="the design's cell, cited")
    cells.set_title(f"{result['technology']}: {len(drawn)} cells")
    label_axes(cells, "stored voltage (V)", "charge of a full pulse (fC)")
    volts = np.array(numbers(result["corners"]["volts"]))
    processes = list(dict.fromkeys(c["process"] for c in result["corners"]["curves"]))
    for label, process, entry in corner_lines(result):
        n, wrong = processes.index(process), number(entry["temperature"]) in artefacts(result)
        corners.plot(
            volts * number(entry["supply"]),
            np.array(numbers(entry["current"])) * MICRO,
            "--" if wrong else ("-", "-.", ":")[n % 3],
            color=ORANGE if wrong else PALETTE[n],
            lw=0.8,
            label=label,
        )
    corners.set_title("Corners")
    label_axes(corners, "stored voltage (V)", "current (µA)")
    time = np.array(numbers(result["write"]["time"])) * NANO
    for wave in result["write"]["stored"]["value"]:
        write.plot(time, wave, color=BLUE, lw=1)
    for level in numbers(result["write"]["levels"]):
        write.axhline(level, color=GREY, lw=0.5, ls=":")
    write.set_title("Writing the levels of the DAC")
    label_axes(write, "time (ns)", "stored voltage (V)", legend=False)
    time = np.array(numbers(result["retention"]["time"])) * 1e3
    how = "leak set" if result["retention"]["set_by_a_leak"] else "models' own leakage"
    for key, colour, style, label in (
        ("held", BLUE, "-", how),
        ("with_default_gmin", ORANGE, "--", "artefact: default gmin"),
    ):
        for n, wave in enumerate(result["retention"][key]["value"]):
            hold.plot(time, wave, style, color=colour, lw=1.4, label="" if n else label)
    hold.set_title(f"Retention, {result['retention']['gate_tunnelling']}")
    label_axes(hold, "time (ms)", "stored voltage (V)")
    return figure


def draw_cell(result: Json, path: Path) -> Path:
    """`cell_figure` in a file."""
    return save(cell_figure(result), path)


def describe_corner(corner: Any, technology: Any) -> Json:
    """Where circuits operated; corner, technology: of spice.technology."""
    return {
        "process": corner.process if technology.kit is None else technology.section or "as the models are",
        "temperature": value(corner.temperature, "C", "simulated"),
        "supply": value(technology.vdd * corner.supply, "V", "simulated"),
    }


def label_axes(axes: Axes, x: str, y: str, *, legend: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if legend:
        legend_beside(axes)


def describe_verification(
    found: Any, ngspice: str, command: Sequence[str], design_hash: str, seed: int
) -> Json:
    """The result file of `gaincell spice verify`; found: spice.verify.Verification."""

    def v(entry: Any, unit: str) -> Json:
        return value(np.asarray(entry).tolist(), unit, "simulated")

    def stage(part: Any) -> Json:
        fit = part.calibration(found.longest)
        entry: Json = {
            "spice": v(part.spice, "s"),
            "model": {name: v(wave, "s") for name, wave in part.model.items()},
            "model_from_simulated_pulses": v(part.same_pulses, "s"),
            "rms": {name: v(part.rms(name), "s") for name in part.model},
            "rms_of_full_scale": {name: v(part.rms(name) / found.longest, "1") for name in part.model},
            "affine_calibration": {
                "gain": v(fit.gain, "1"),
                "offset": v(fit.offset, "s"),
                "offset_of_negative": v(fit.negative_offset, "s"),
                "rms_in_range": v(fit.rms, "s"),
            },
            "integrators_at_a_rail": v(part.clipped, "1"),
            "energy": {
                name: {"read": v(read, "J"), "conversion": v(convert, "J"), "lines": v(part.lines, "1")}
                for name, (read, convert) in part.energy.items()
            },
        }
        entry["affine_calibration"] = {
            k: e for k, e in entry["affine_calibration"].items() if e["value"] != "nan"
        }
        return entry

    own = np.abs(found.codes - found.model_codes["own"])
    return {
        "schema": SCHEMA,
        "command": "spice verify",
        "technology": found.technology.title,
        "corner": describe_corner(found.corner, found.technology),
        "ngspice": ngspice,
        "readout": found.readout,
        "inputs": found.inputs.name,
        "input_statistics": {name: v(x, "1") for name, x in found.inputs.statistics.items()},
        "columns": v(found.columns, "1"),
        "full_scale": v(found.longest, "s"),
        "first": stage(found.first),
        "second": stage(found.second),
        "codes": {
            "spice": v(found.codes, "codes"),
            **{name: v(codes, "codes") for name, codes in found.model_codes.items()},
            "differ": v(int((own > 0).sum()), "1"),
            "differ_by_more_than_one": v(int((own > 1).sum()), "1"),
            "unlike_ideal_levels": v(int((found.codes != found.ideal_codes).sum()), "1"),
        },
        "levels": v(found.levels, "V"),
        "checks": [
            {"name": name, "found": v(x, unit), "allowed": v(limit, unit), "passed": bool(x <= limit)}
            for name, (x, limit, unit) in found.checks.items()
        ],
        "warnings": list(found.warnings),
        "provenance": provenance(
            command=command, seed=seed, protocol=PROTOCOL, design_hash=design_hash, inputs=found.inputs.origin
        ),
    }


@styled()
def verification_figure(result: Json) -> Figure:
    """SPICE against the model, both dot products (the paper's Fig. 5a and 5b)."""
    figure = Figure(figsize=(11.0, 4.0))
    longest = number(result["full_scale"]) * NANO
    for axes, key, title, low in zip(
        figure.subplots(1, 2),
        ("first", "second"),
        ("First dot product", "Second dot product"),
        (0.0, -longest),
        strict=True,
    ):
        spice = np.array(numbers(result[key]["spice"])) * NANO
        for name, colour, marker in (("linear", GREY, "^"), ("cubic", RED, "s"), ("own", BLUE, "o")):
            if name not in result[key]["model"]:
                continue
            rms = number(result[key]["rms"][name]) * NANO
            model = np.array(numbers(result[key]["model"][name])) * NANO
            word = {"own": "cell's own curve", "cubic": "its cubic", "linear": "linear cell"}[name]
            axes.plot(model, spice, marker, color=colour, ms=3.5, label=f"{word}: rms {rms:.3f} ns")
        axes.plot([low, longest], [low, longest], color=BLACK, lw=0.7)
        axes.set_title(title)
        label_axes(axes, "behavioural model: pulse width (ns)", "SPICE: pulse width (ns)")
    figure.suptitle(
        f"{result['technology']}, {corner_words(result)}, {result['readout']} readout, "
        f"{result['inputs']} inputs, {number(result['columns']):.0f} columns",
    )
    return figure


def draw_verification(result: Json, path: Path) -> Path:
    """`verification_figure` in a file."""
    return save(verification_figure(result), path)


def describe_energy(
    runs: Sequence[tuple[Any, tuple[Any, Any]]],
    ngspice: str,
    command: Sequence[str],
    design_hash: str,
    seed: int,
) -> Json:
    """The result file of `gaincell spice energy`; runs: (Verification, its two ArrayEnergy)."""

    def v(entry: Any, unit: str) -> Json:
        return value(np.asarray(entry).tolist(), unit, "simulated")

    entries = []
    origin: dict[str, str] = {}
    for found, arrays in runs:
        origin |= found.inputs.origin
        entry: Json = {
            "inputs": found.inputs.name,
            "input_statistics": {name: v(x, "1") for name, x in found.inputs.statistics.items()},
            "simulated_lines": v(found.columns, "1"),
        }
        for name, part in zip(("first", "second"), arrays, strict=True):
            entry[name] = {
                "cell_read": v(part.cell_read, "J"),
                "blocks": {
                    block: {"read": v(read, "J"), "conversion": v(convert, "J")}
                    for block, (read, convert) in part.blocks.items()
                },
                "column": v(part.column, "J"),
                "array": v(part.array, "J"),
                "head": v(part.head, "J"),
                "activity": v(part.activity, "1"),
            }
        entries.append(entry)
    return {
        "schema": SCHEMA,
        "command": "spice energy",
        "technology": runs[0][0].technology.title,
        "corner": describe_corner(runs[0][0].corner, runs[0][0].technology),
        "ngspice": ngspice,
        "readout": runs[0][0].readout,
        "runs": entries,
        "not_included": "writes, DACs, counters, adders, control; supply of a behavioural readout",
        "provenance": provenance(
            command=command, seed=seed, protocol=PROTOCOL, design_hash=design_hash, inputs=origin
        ),
    }
