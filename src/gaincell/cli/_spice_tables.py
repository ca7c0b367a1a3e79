"""Results of `gaincell spice` as tables for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gaincell.reports.spice_tables import ROOM, corner_row, digits, limit, slowest_write, span
from gaincell.reports.tables import Rows
from gaincell.results.spice import CharacterisationResult, EnergyResult, VerifyResult, WiresResult

if TYPE_CHECKING:
    from gaincell.chips.device_file import Device

CURVES = {
    "own": "the cell's own curve",
    "cubic": "its cubic",
    "linear": "the linear cell",
    "static": "the static current",
}
CALIBRATION = (
    ("gain", "gain", 1.0, ""),
    ("offset", "offset", 1e9, "ns"),
    ("offset_of_negative", "offset of negative pulses", 1e9, "ns"),
    ("rms_in_range", "rms in range after affine calibration", 1e9, "ns"),
)
"""Number of the affine map, what it is called, factor, unit."""


def cell_table(result: CharacterisationResult, device: Device | None) -> Rows:
    """device: None where none can be fitted to the cells."""
    charge, spread = result.curve.charge, result.mismatch.std_of_full_scale
    time, held = result.retention.time, result.retention.held
    ends = f"{charge[0] * 1e15:.1f} to {charge[-1] * 1e15:.1f}"
    fitted = []
    if device is not None:
        cubic = " ".join(f"{c:.4g}" for c in device.cell.coefficients or ())
        r_squared = f"{device.quality['r_squared_of_own_curves']:.4f}"
        fitted = [
            ("its cubic", cubic, "charge units/V^p"),
            ("R² of the cells about their own cubics", r_squared, ""),
        ]
    places = (("lowest", 0), ("middle", len(spread) // 2), ("highest", -1))
    switched_off, disturb = result.write.error_after_switching_off, result.disturb
    left = f"{held[0][-1]:.3f}, {held[-1][-1]:.3f}"
    rows = [
        ("charge of a full pulse, from lowest to highest voltage", ends, "fC"),
        *fitted,
        *(
            (f"mismatch at the {name} voltage", f"{100 * spread[at]:.2f}", "% of full scale")
            for name, at in places
        ),
        ("slowest write to within 9 mV (ns)", slowest_write(result), ""),
        ("error when the write gate closes", span(switched_off, 1e3, 1), "mV"),
        (f"full current over that at {ROOM:g} °C", corner_row(result), ""),
        (f"lowest, highest voltage after {time[-1] * 1e3:.3g} ms", left, "V"),
        ("change by 8 reads", span(disturb.after_8_reads, 1e3, 2), "mV"),
        ("change of a half-selected cell", span(disturb.half_selected, 1e3, 2), "mV"),
    ]
    return Rows(f"{result.technology}, {result.ngspice}", ("", "value", "unit"), rows, text=(0, 2))


def verify_tables(result: VerifyResult) -> list[Rows]:
    arrays, codes = result.arrays.values(), result.codes
    rows: list[tuple[str, ...]] = []
    for name, word in CURVES.items():
        cells = (f"{a.rms[name] * 1e9:.3f} ({100 * a.rms_of_full_scale[name]:.2f} %)" for a in arrays)
        rows.append((f"rms against {word}", *cells, "ns (of full scale)"))
    for key, word, factor, unit in CALIBRATION:
        fits = (digits(getattr(array.affine_calibration, key), factor, 4) for array in arrays)
        rows.append((word, *fits, unit))
    clipped = (str(array.integrators_at_a_rail) for array in arrays)
    rows += [
        ("integrators that touched a rail", *clipped, ""),
        ("codes that differ, by more than one", "", f"{codes.differ}, {codes.differ_by_more_than_one}", ""),
        ("codes unlike those of ideal levels", "", str(codes.unlike_ideal_levels), ""),
    ]
    checks = []
    for check in result.checks:
        factor = 1e9 if check.found.unit == "s" else 1.0
        unit = "ns" if factor > 1 else check.found.unit.replace("1", "of all")
        at = check.found.value
        shown = "too few columns in range" if math.isnan(at) else f"{at * factor:.4g}"
        allowed = f"{shown} ≤ {check.allowed.value * factor:.4g}"
        checks.append((check.name, allowed, "pass" if check.passed else "FAIL", unit))
    lines = f"{result.columns} column{'s' * (result.columns > 1)}"
    title = f"{result.technology}, {result.readout} readout, {result.inputs} inputs, {lines}"
    return [
        Rows(f"{title}; {result.corner}", ("", "first", "second", "unit"), rows, text=(0, 3)),
        Rows("", ("check", "found ≤ allowed", "", "unit"), checks, text=(0, 2, 3)),
    ]


def wire_tables(result: WiresResult) -> list[Rows]:
    bit = Rows.of(
        "Bit line: current lost",
        result.bit_line,
        {
            "Ω per cell": lambda p: f"{p.resistance:g}",
            "cells": lambda p: str(p.cells),
            "error (%)": lambda p: f"{100 * p.error:.3f}",
            "first order (%)": lambda p: f"{100 * p.first_order_error:.3f}",
            "drop": lambda p: digits(p.drop, 1.0, 4),
        },
        text=(),
    )
    word = Rows.of(
        "Word line: farthest cell",
        result.word_line,
        {
            "Ω per cell": lambda p: f"{p.resistance:g}",
            "fF per cell": lambda p: f"{p.capacitance * 1e15:g}",
            "cells": lambda p: str(p.cells),
            "1 ns pulse (%)": lambda p: f"{100 * p.error:.3f}",
            "15 ns pulse (%)": lambda p: f"{100 * p.long_error:.3f}",
        },
        text=(),
    )
    operation = Rows.of(
        "In operation, random inputs: change of the charges",
        result.in_operation,
        {
            "dot product": lambda p: p.array,
            "Ω": lambda p: f"{p.resistance:g}",
            "fF per cell": lambda p: f"{p.capacitance * 1e15:g}",
            "rms (ns)": lambda p: digits(p.rms, 1e9, 4),
            "largest (ns)": lambda p: digits(p.largest, 1e9, 4),
            "drop": lambda p: digits(p.drop, 1.0, 4),
            "left (ns)": lambda p: digits(p.rms_after_first_order_model, 1e9, 4),
        },
    )
    limits = [(name, limit(resistance)) for name, resistance in result.limits.items()]
    reached = Rows("64 cells reach the tolerance at", ("", "Ω per cell"), limits)
    return [bit, word, reached, operation]


def energy_table(result: EnergyResult) -> Rows:
    found = [(run.inputs, name, array) for run in result.runs for name, array in run.arrays.items()]
    return Rows.of(
        f"{result.technology}, {result.readout} readout, energy of a read; {result.corner}",
        found,
        {
            "inputs, dot product": lambda of: f"{of[0]}, {of[1]}",
            "activity": lambda of: f"{of[2].activity:.2f}",
            "cell (fJ)": lambda of: f"{of[2].cell_read * 1e15:.2f}",
            "drivers (pJ)": lambda of: f"{of[2].blocks['drivers'].total * 1e12:.2f}",
            "array (pJ)": lambda of: f"{of[2].array * 1e12:.2f}",
            "head (pJ)": lambda of: f"{of[2].head * 1e12:.0f}",
        },
    )
