"""Results of `gaincell spice` as tables for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gaincell.reports.spice_tables import ROOM, corner_row, digits, span
from gaincell.reports.tables import Rows
from gaincell.results.spice import CharacterisationResult, EnergyResult, VerifyResult, WiresResult

if TYPE_CHECKING:
    from gaincell.chips.device_file import Device


def cell_table(result: CharacterisationResult, device: Device) -> Rows:
    charge, spread = result.curve.charge, result.mismatch.std_of_full_scale
    slowest = max(filter(math.isfinite, result.write.settled_within_9_mV))
    time, held = result.retention.time, result.retention.held
    cubic = " ".join(f"{c:.4g}" for c in device.cell.coefficients or ())
    rows = [
        (
            "charge of a full pulse, from lowest to highest voltage",
            f"{charge[0] * 1e15:.1f} to {charge[-1] * 1e15:.1f}",
            "fC",
        ),
        ("its cubic", cubic, "charge units/V^p"),
        ("R² of the cells about their own cubics", f"{device.quality['r_squared_of_own_curves']:.4f}", ""),
        *(
            (f"mismatch at the {name} voltage", f"{100 * spread[at]:.2f}", "% of full scale")
            for name, at in (("lowest", 0), ("middle", len(spread) // 2), ("highest", -1))
        ),
        ("slowest write to within 9 mV", f"{slowest * 1e9:.2f}", "ns"),
        ("error when the write gate closes", span(result.write.error_after_switching_off, 1e3, 1), "mV"),
        (f"full current over that at {ROOM:g} °C", corner_row(result), ""),
        (
            f"lowest, highest voltage after {time[-1] * 1e3:.3g} ms",
            f"{held[0][-1]:.3f}, {held[-1][-1]:.3f}",
            "V",
        ),
        ("change by 8 reads", span(result.disturb.after_8_reads, 1e3, 2), "mV"),
        ("change of a half-selected cell", span(result.disturb.half_selected, 1e3, 2), "mV"),
    ]
    return Rows(f"{result.technology}, {result.ngspice}", ("", "value", "unit"), rows, text=(0, 2))


def verify_tables(result: VerifyResult) -> list[Rows]:
    arrays = result.arrays.values()
    curves = {
        "own": "the cell's own curve",
        "cubic": "its cubic",
        "linear": "the linear cell",
        "static": "the static current",
    }
    rows: list[tuple[str, ...]] = []
    for name, word in curves.items():
        cells = (f"{a.rms[name] * 1e9:.3f} ({100 * a.rms_of_full_scale[name]:.2f} %)" for a in arrays)
        rows.append((f"rms against {word}", *cells, "ns (of full scale)"))
    for key, word, factor, unit in (
        ("gain", "gain", 1.0, ""),
        ("offset", "offset", 1e9, "ns"),
        ("offset_of_negative", "offset of negative pulses", 1e9, "ns"),
        ("rms_in_range", "rms in range after affine calibration", 1e9, "ns"),
    ):
        fits = (digits(getattr(array.affine_calibration, key), factor, 4) for array in arrays)
        rows.append((word, *fits, unit))
    clipped, codes = (str(array.integrators_at_a_rail) for array in arrays), result.codes
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
    title = f"{result.technology}, {result.readout} readout, {result.inputs} inputs, {result.columns} columns"
    return [
        Rows(f"{title}; {result.corner}", ("", "first", "second", "unit"), rows, text=(0, 3)),
        Rows("", ("check", "found ≤ allowed", "", "unit"), checks, text=(0, 2, 3)),
    ]


def wire_tables(result: WiresResult) -> list[Rows]:
    bit = [
        (
            f"{p.resistance:g}",
            str(p.cells),
            f"{100 * p.error:.3f}",
            f"{100 * p.first_order_error:.3f}",
            digits(p.drop, 1.0, 4),
        )
        for p in result.bit_line
    ]
    word = [
        (
            f"{p.resistance:g}",
            f"{p.capacitance * 1e15:g}",
            str(p.cells),
            f"{100 * p.error:.3f}",
            f"{100 * p.long_error:.3f}",
        )
        for p in result.word_line
    ]
    use = [
        (
            p.array,
            f"{p.resistance:g}",
            f"{p.capacitance * 1e15:g}",
            digits(p.rms, 1e9, 4),
            digits(p.largest, 1e9, 4),
            digits(p.drop, 1.0, 4),
            digits(p.rms_after_first_order_model, 1e9, 4),
        )
        for p in result.in_operation
    ]
    limits = [
        (name, f"{limit:.3g}" if math.isfinite(limit) else "above the range")
        for name, limit in result.limits.items()
    ]
    of_bit = ("Ω per cell", "cells", "error (%)", "first order (%)", "drop")
    of_word = ("Ω per cell", "fF per cell", "cells", "1 ns pulse (%)", "15 ns pulse (%)")
    of_use = ("dot product", "Ω", "fF per cell", "rms (ns)", "largest (ns)", "drop", "left (ns)")
    return [
        Rows("Bit line: current lost", of_bit, bit, text=()),
        Rows("Word line: farthest cell", of_word, word, text=()),
        Rows("64 cells reach the tolerance at", ("", "Ω per cell"), limits),
        Rows("In operation, random inputs: change of the charges", of_use, use),
    ]


def energy_table(result: EnergyResult) -> Rows:
    rows = [
        (
            f"{run.inputs}, {name}",
            f"{array.activity:.2f}",
            f"{array.cell_read * 1e15:.2f}",
            f"{array.blocks['drivers'].total * 1e12:.2f}",
            f"{array.array * 1e12:.2f}",
            f"{array.head * 1e12:.0f}",
        )
        for run in result.runs
        for name, array in run.arrays.items()
    ]
    headings = ("inputs, dot product", "activity", "cell (fJ)", "drivers (pJ)", "array (pJ)", "head (pJ)")
    title = f"{result.technology}, {result.readout} readout, energy of a read; {result.corner}"
    return Rows(title, headings, rows)
