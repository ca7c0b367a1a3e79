"""Results of `gaincell spice` as tables for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gaincell.reports.spice_tables import ROOM, corner_row, digits, span
from gaincell.results.spice import CharacterisationResult, EnergyResult, VerifyResult, WiresResult
from gaincell.results.spice_circuits import MixedResult, WriteResult

if TYPE_CHECKING:
    from gaincell.device_file import Device


def _plain_table(title: str, *columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def cell_table(result: CharacterisationResult, device: Device) -> Any:
    table = _plain_table(f"{result.technology}, {result.ngspice}", "", "value", "unit")
    charge = [c * 1e15 for c in result.curve.charge]
    table.add_row(
        "charge of a full pulse, from lowest to highest voltage", f"{charge[0]:.1f} to {charge[-1]:.1f}", "fC"
    )
    coefficients = device.cell.coefficients or ()
    table.add_row("its cubic", " ".join(f"{c:.4g}" for c in coefficients), "charge units/V^p")
    table.add_row(
        "R² of the cells about their own cubics", f"{device.quality['r_squared_of_own_curves']:.4f}", ""
    )
    spread = result.mismatch.std_of_full_scale
    for name, at in (("lowest", 0), ("middle", len(spread) // 2), ("highest", -1)):
        table.add_row(f"mismatch at the {name} voltage", f"{100 * spread[at]:.2f}", "% of full scale")
    slowest = max(filter(math.isfinite, result.write.settled_within_9_mV))
    table.add_row("slowest write to within 9 mV", f"{slowest * 1e9:.2f}", "ns")
    table.add_row(
        "error when the write gate closes", span(result.write.error_after_switching_off, 1e3, 1), "mV"
    )
    table.add_row(f"full current over that at {ROOM:g} °C", corner_row(result), "")
    time, held = result.retention.time, result.retention.held
    table.add_row(
        f"lowest, highest voltage after {time[-1] * 1e3:.3g} ms",
        f"{held[0][-1]:.3f}, {held[-1][-1]:.3f}",
        "V",
    )
    table.add_row("change by 8 reads", span(result.disturb.after_8_reads, 1e3, 2), "mV")
    table.add_row("change of a half-selected cell", span(result.disturb.half_selected, 1e3, 2), "mV")
    return table


def rows_table(result: WriteResult | MixedResult, headings: tuple[str, ...], rows: list[list[str]]) -> Any:
    table = _plain_table(f"{result.technology}, {result.ngspice}", *headings)
    for row in rows:
        table.add_row(*row)
    return table


def verify_table(result: VerifyResult) -> Any:
    title = f"{result.technology}, {result.readout} readout, {result.inputs} inputs"
    table = _plain_table(f"{title}, {result.columns} columns; {result.corner}", "", "first", "second", "unit")
    arrays = result.arrays.values()
    for name, word in (
        ("own", "the cell's own curve"),
        ("cubic", "its cubic"),
        ("linear", "the linear cell"),
        ("static", "the static current"),
    ):
        cells = [f"{a.rms[name] * 1e9:.3f} ({100 * a.rms_of_full_scale[name]:.2f} %)" for a in arrays]
        table.add_row(f"rms against {word}", *cells, "ns (of full scale)")
    for key, word, factor, unit in (
        ("gain", "gain", 1.0, ""),
        ("offset", "offset", 1e9, "ns"),
        ("offset_of_negative", "offset of negative pulses", 1e9, "ns"),
        ("rms_in_range", "rms in range after affine calibration", 1e9, "ns"),
    ):
        fits = [getattr(array.affine_calibration, key) for array in arrays]
        table.add_row(word, *("-" if fit is None else f"{fit * factor:.4f}" for fit in fits), unit)
    table.add_row(
        "integrators that touched a rail", *(str(array.integrators_at_a_rail) for array in arrays), ""
    )
    codes = result.codes
    table.add_row(
        "codes that differ, by more than one", "", f"{codes.differ}, {codes.differ_by_more_than_one}", ""
    )
    table.add_row("codes unlike those of ideal levels", "", str(codes.unlike_ideal_levels), "")
    table.add_section()
    for check in result.checks:
        factor = 1e9 if check.found.unit == "s" else 1.0
        words = "pass" if check.passed else "FAIL"
        unit = "ns" if factor > 1 else check.found.unit.replace("1", "of all")
        at = check.found.value
        shown = "too few columns in range" if math.isnan(at) else f"{at * factor:.4g}"
        table.add_row(check.name, f"{shown} ≤ {check.allowed.value * factor:.4g}", words, unit)
    return table


def wire_tables(result: WiresResult) -> list[Any]:
    bit = _plain_table(
        "Bit line: current lost", "Ω per cell", "cells", "error (%)", "first order (%)", "drop"
    )
    for p in result.bit_line:
        errors = (f"{100 * error:.3f}" for error in (p.error, p.first_order_error))
        bit.add_row(f"{p.resistance:g}", str(p.cells), *errors, digits(p.drop, 1.0, 4))
    word = _plain_table(
        "Word line: farthest cell", "Ω per cell", "fF per cell", "cells", "1 ns pulse (%)", "15 ns pulse (%)"
    )
    for w in result.word_line:
        errors = (f"{100 * error:.3f}" for error in (w.error, w.long_error))
        word.add_row(f"{w.resistance:g}", f"{w.capacitance * 1e15:g}", str(w.cells), *errors)
    limits = _plain_table("64 cells reach the tolerance at", "", "Ω per cell")
    for name, limit in result.limits.items():
        limits.add_row(name, f"{limit:.3g}" if math.isfinite(limit) else "above the range")
    head = ("dot product", "Ω", "fF per cell", "rms (ns)", "largest (ns)", "drop", "left (ns)")
    use = _plain_table("In operation, random inputs: change of the charges", *head)
    for o in result.in_operation:
        use.add_row(
            o.array,
            f"{o.resistance:g}",
            f"{o.capacitance * 1e15:g}",
            digits(o.rms, 1e9, 4),
            digits(o.largest, 1e9, 4),
            digits(o.drop, 1.0, 4),
            digits(o.rms_after_first_order_model, 1e9, 4),
        )
    return [bit, word, limits, use]


def energy_table(result: EnergyResult) -> Any:
    title = f"{result.technology}, {result.readout} readout, energy of a read; {result.corner}"
    table = _plain_table(
        title, "inputs, dot product", "activity", "cell (fJ)", "drivers (pJ)", "array (pJ)", "head (pJ)"
    )
    for run in result.runs:
        for name, array in run.arrays.items():
            table.add_row(
                f"{run.inputs}, {name}",
                f"{array.activity:.2f}",
                f"{array.cell_read * 1e15:.2f}",
                f"{array.blocks['drivers'].total * 1e12:.2f}",
                f"{array.array * 1e12:.2f}",
                f"{array.head * 1e12:.0f}",
            )
    return table
