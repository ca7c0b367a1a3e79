"""Results of `gaincell spice` as tables for people."""

from __future__ import annotations

import math
from typing import Any

from gaincell.reports.results import number
from gaincell.reports.spice_tables import ROOM, corner_row, corner_words, digits


def _plain_table(title: str, *columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def cell_table(result: dict[str, Any], device: Any) -> Any:
    table = _plain_table(f"{result['technology']}, {result['ngspice']}", "", "value", "unit")
    charge = [c * 1e15 for c in result["curve"]["charge"]["value"]]
    table.add_row(
        "charge of a full pulse, from lowest to highest voltage", f"{charge[0]:.1f} to {charge[-1]:.1f}", "fC"
    )
    coefficients = device.cell.coefficients or ()
    table.add_row("its cubic", " ".join(f"{c:.4g}" for c in coefficients), "charge units/V^p")
    table.add_row(
        "R² of the cells about their own cubics", f"{device.quality['r_squared_of_own_curves']:.4f}", ""
    )
    spread = result["mismatch"]["std_of_full_scale"]["value"]
    for name, at in (("lowest", 0), ("middle", len(spread) // 2), ("highest", -1)):
        table.add_row(f"mismatch at the {name} voltage", f"{100 * spread[at]:.2f}", "% of full scale")
    times = [t for t in result["write"]["settled_within_9_mV"]["value"] if isinstance(t, float)]
    table.add_row("slowest write to within 9 mV", f"{max(times) * 1e9:.2f}", "ns")
    errors = result["write"]["error_after_switching_off"]["value"]
    table.add_row(
        "error when the write gate closes", f"{min(errors) * 1e3:.1f} to {max(errors) * 1e3:.1f}", "mV"
    )
    table.add_row(f"full current over that at {ROOM:g} °C", corner_row(result), "")
    held = result["retention"]
    when = held["time"]["value"][-1] * 1e3
    table.add_row(
        f"lowest, highest voltage after {when:.3g} ms",
        f"{held['held']['value'][0][-1]:.3f}, {held['held']['value'][-1][-1]:.3f}",
        "V",
    )
    for key, title in (
        ("after_8_reads", "change by 8 reads"),
        ("half_selected", "change of a half-selected cell"),
    ):
        shift = [s * 1e3 for s in result["disturb"][key]["value"]]
        table.add_row(title, f"{min(shift):.2f} to {max(shift):.2f}", "mV")
    return table


def rows_table(result: dict[str, Any], report: Any) -> Any:
    """Of a module of reports with HEADINGS and rows."""
    table = _plain_table(f"{result['technology']}, {result['ngspice']}", *report.HEADINGS)
    for row in report.rows(result):
        table.add_row(*row)
    return table


def verify_table(result: dict[str, Any]) -> Any:
    title = f"{result['technology']}, {result['readout']} readout, {result['inputs']} inputs"
    title += f", {result['columns']['value']} columns; {corner_words(result)}"
    table = _plain_table(title, "", "first", "second", "unit")
    for name, word in (
        ("own", "the cell's own curve"),
        ("cubic", "its cubic"),
        ("linear", "the linear cell"),
        ("static", "the static current"),
    ):
        found = [result[s]["rms"][name]["value"] * 1e9 for s in ("first", "second")]
        share = [100 * result[s]["rms_of_full_scale"][name]["value"] for s in ("first", "second")]
        cells = [f"{f:.3f} ({p:.2f} %)" for f, p in zip(found, share, strict=True)]
        table.add_row(f"rms against {word}", *cells, "ns (of full scale)")
    fits = [result[s]["affine_calibration"] for s in ("first", "second")]
    for key, word, factor, unit in (
        ("gain", "gain", 1.0, ""),
        ("offset", "offset", 1e9, "ns"),
        ("offset_of_negative", "offset of negative pulses", 1e9, "ns"),
        ("rms_in_range", "rms in range after affine calibration", 1e9, "ns"),
    ):
        table.add_row(word, *(f"{f[key]['value'] * factor:.4f}" if key in f else "-" for f in fits), unit)
    table.add_row(
        "integrators that touched a rail",
        *(str(result[s]["integrators_at_a_rail"]["value"]) for s in ("first", "second")),
        "",
    )
    codes = result["codes"]
    table.add_row(
        "codes that differ, by more than one",
        "",
        f"{codes['differ']['value']}, {codes['differ_by_more_than_one']['value']}",
        "",
    )
    table.add_row("codes unlike those of ideal levels", "", str(codes["unlike_ideal_levels"]["value"]), "")
    table.add_section()
    for check in result["checks"]:
        factor = 1e9 if check["found"]["unit"] == "s" else 1.0
        words = "pass" if check["passed"] else "FAIL"
        unit = "ns" if factor > 1 else check["found"]["unit"].replace("1", "of all")
        at = number(check["found"])
        shown = "too few columns in range" if math.isnan(at) else f"{at * factor:.4g}"
        table.add_row(check["name"], f"{shown} ≤ {number(check['allowed']) * factor:.4g}", words, unit)
    return table


def wire_tables(result: dict[str, Any]) -> list[Any]:
    bit = _plain_table(
        "Bit line: current lost", "Ω per cell", "cells", "error (%)", "first order (%)", "drop"
    )
    for p in result["bit_line"]:
        bit.add_row(
            f"{p['resistance']['value']:g}",
            str(p["cells"]["value"]),
            f"{100 * p['error']['value']:.3f}",
            f"{100 * p['first_order_error']['value']:.3f}",
            digits(p["drop"], 1.0, 4),
        )
    word = _plain_table(
        "Word line: farthest cell", "Ω per cell", "fF per cell", "cells", "1 ns pulse (%)", "15 ns pulse (%)"
    )
    for p in result["word_line"]:
        word.add_row(
            f"{p['resistance']['value']:g}",
            f"{p['capacitance']['value'] * 1e15:g}",
            str(p["cells"]["value"]),
            f"{100 * p['error']['value']:.3f}",
            f"{100 * p['long_error']['value']:.3f}",
        )
    limits = _plain_table("64 cells reach the tolerance at", "", "Ω per cell")
    for name, limit in result["limits"].items():
        shown = limit["value"]
        limits.add_row(name, f"{shown:.3g}" if isinstance(shown, float) else "above the range")
    head = ("dot product", "Ω", "fF per cell", "rms (ns)", "largest (ns)", "drop", "left (ns)")
    use = _plain_table("In operation, random inputs: change of the charges", *head)
    for p in result["in_operation"]:
        use.add_row(
            p["array"],
            f"{p['resistance']['value']:g}",
            f"{p['capacitance']['value'] * 1e15:g}",
            *(digits(p[key], 1e9, 4) for key in ("rms", "largest")),
            digits(p["drop"], 1.0, 4),
            digits(p["rms_after_first_order_model"], 1e9, 4),
        )
    return [bit, word, limits, use]


def energy_table(result: dict[str, Any]) -> Any:
    title = f"{result['technology']}, {result['readout']} readout, energy of a read; {corner_words(result)}"
    table = _plain_table(
        title, "inputs, dot product", "activity", "cell (fJ)", "drivers (pJ)", "array (pJ)", "head (pJ)"
    )
    for run in result["runs"]:
        for name in ("first", "second"):
            part = run[name]
            table.add_row(
                f"{run['inputs']}, {name}",
                f"{part['activity']['value']:.2f}",
                f"{part['cell_read']['value'] * 1e15:.2f}",
                f"{sum(map(number, part['blocks']['drivers'].values())) * 1e12:.2f}",
                f"{part['array']['value'] * 1e12:.2f}",
                f"{part['head']['value'] * 1e12:.0f}",
            )
    return table
