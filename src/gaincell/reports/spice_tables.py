"""Tables of docs/spice.md, from the result files of `gaincell spice` and `gaincell adapt` alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gaincell.reports.results import Json, number, numbers

NANO, PICO, FEMTO = 1e9, 1e12, 1e15
FEMTO_FARAD = 1e-15
ROOM = 27.0
"""Temperature, C, that the corners of a characterisation are compared with."""
LATTICE = 2.42
"""Mobility of electrons in silicon falls as T^-2.42 where the lattice alone scatters (S. M. Sze, Physics of
Semiconductor Devices): nothing raises a current in the cold more.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first flush right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def corner_words(result: Json) -> str:
    """ "nominal, 27 °C, 0.9 V": the corner of a result."""
    corner = result["corner"]
    temperature, supply = number(corner["temperature"]), number(corner["supply"])
    return f"{corner['process']}, {temperature:g} °C, {supply:g} V"


def artefacts(result: Json) -> list[float]:
    """Temperatures, C, whose currents rise above those at `ROOM` by more than any mobility does: the card is
    not made for them.
    """
    return [
        temperature
        for temperature, ratio in _over_room(result).items()
        if ratio > max(1.0, ((ROOM + 273.15) / (temperature + 273.15)) ** LATTICE)
    ]


def corner_lines(result: Json) -> list[tuple[str, str, Json]]:
    """Label (for the first of its kind), process and entry of every corner; artefacts are named, not labelled
    by their process.
    """
    wrong, lines, seen = artefacts(result), [], set[str]()
    kept = [t for t in _over_room(result) if t not in wrong]
    for entry in result["corners"]["curves"]:
        temperature = number(entry["temperature"])
        label = f"{entry['process']}, {min(kept):g} to {max(kept):g} °C, VDD ±10 %"
        if temperature in wrong:
            label = f"artefact: card at {temperature:g} °C"
        lines.append(("" if label in seen else label, entry["process"], entry))
        seen.add(label)
    return lines


def corner_row(result: Json) -> str:
    """Full current at the ends of temperature over that at `ROOM`; artefacts are called so."""
    wrong = artefacts(result)
    found = {t: ratio for t, ratio in _over_room(result).items() if t != ROOM}
    return ", ".join(
        f"{ratio:.2f} at {t:g} °C{' (an artefact of the card)' if t in wrong else ''}"
        for t, ratio in found.items()
    )


def _over_room(result: Json) -> dict[float, float]:
    """Temperature -> largest current over that at `ROOM`, of the first process at the nominal supply."""
    curves = result["corners"]["curves"]
    nominal = min((number(c["supply"]) for c in curves), key=lambda supply: abs(supply - 1))
    found = {
        number(c["temperature"]): max(numbers(c["current"]))
        for c in reversed(curves)
        if number(c["supply"]) == nominal
    }
    return {t: found[t] / found[ROOM] for t in sorted(found)}


def cells(found: Mapping[str, Json], adapted: Mapping[str, Json]) -> str:
    """One column per technology: what `characterise` found, and the perplexity of `tiny` on that cell."""
    rows: list[list[str]] = []

    def row(name: str, entry: Any) -> None:
        rows.append([name, *(entry(result) for result in found.values())])

    def ends(values: Sequence[float], factor: float, digits: int) -> str:
        return f"{values[0] * factor:.{digits}f} to {values[-1] * factor:.{digits}f}"

    def span(values: Sequence[float], factor: float, digits: int) -> str:
        return f"{min(values) * factor:.{digits}f} to {max(values) * factor:.{digits}f}"

    def spread(result: Json) -> str:
        s = result["mismatch"]["std_of_full_scale"]["value"]
        return " / ".join(f"{100 * s[n]:.1f}" for n in (0, len(s) // 2, -1))

    row("current at 0 and 0.9 V, DC (µA)", lambda r: ends(r["curve"]["current"]["value"], 1e6, 2))
    row("charge of a full pulse (fC)", lambda r: ends(r["curve"]["charge"]["value"], FEMTO, 1))
    row(
        "R² against the published cubic, not fitted",
        lambda r: f"{number(r['curve']['r_squared_against_it']):.3f}",
    )
    row("mismatch at 0 / 0.45 / 0.9 V (% of full scale)", spread)
    row(
        "slowest write to 9 mV (ns)",
        lambda r: f"{max(r['write']['settled_within_9_mV']['value']) * NANO:.2f}",
    )
    row(
        "error as the write gate closes (mV)",
        lambda r: span(r["write"]["error_after_switching_off"]["value"], 1e3, 1),
    )
    row(f"full current over that at {ROOM:g} °C", corner_row)
    row("change by 8 reads (mV)", lambda r: span(r["disturb"]["after_8_reads"]["value"], 1e3, 2))
    row("change of a half-selected cell (mV)", lambda r: span(r["disturb"]["half_selected"]["value"], 1e3, 2))
    for key, words in (("held", "own leakage"), ("with_default_gmin", "default gmin, an artefact")):
        row(
            f"0.9 V after 10 ms: {words} (V)",
            lambda r, key=key: f"{r['retention'][key]['value'][-1][-1]:.3f}",
        )
    row(
        "0.9 V after 10 µs with gate tunnelling (V)",
        lambda r: f"{r['retention']['with_tunnelling']['value'][-1][-1]:.3f}",
    )
    text = table(["", *(r["technology"] for r in found.values())], rows)
    return text + "\n" + _perplexities(adapted)


def _perplexities(adapted: Mapping[str, Json]) -> str:
    rows = []
    for name, result in adapted.items():
        stages = {
            s["name"]: f"{number(s['perplexity']):.2f} ± {number(s['perplexity_error']):.2f}"
            for s in result["stages"]
        }
        rows.append([name, *(stages.get(s, "–") for s in ("linear", "unadapted", "adapted"))])
    return table(["perplexity of `tiny` on", "linear cell", "unadapted", "adapted"], rows)


def verification(found: Mapping[str, Json]) -> str:
    """One row a run and array."""
    rows = []
    for name, result in found.items():
        for key in ("first", "second"):
            part = result[key]
            fit = part["affine_calibration"]
            offsets = f"{number(fit['offset']) * NANO:.3f}" if "offset" in fit else "–"
            if key == "second" and "offset" in fit:
                offsets += f", {number(fit['offset_of_negative']) * NANO:.3f}"
            codes = result["codes"]
            differ = "" if key == "first" else f"{codes['differ']['value']} of {result['columns']['value']}"
            rows.append(
                [
                    f"{name}, {key}",
                    *(_rms(part, curve) for curve in ("own", "cubic", "linear", "static")),
                    f"{100 * number(part['rms_of_full_scale']['own']):.2f}",
                    offsets,
                    f"{number(fit['rms_in_range']) * NANO:.4f}" if "rms_in_range" in fit else "–",
                    str(part["integrators_at_a_rail"]["value"]),
                    differ,
                ]
            )
    head = [
        "run, dot product",
        "rms: own curve (ns)",
        "its cubic",
        "linear",
        "static current",
        "own (% of 15 ns)",
        "offset (ns)",
    ]
    return table([*head, "rms left (ns)", "at a rail", "codes that differ"], rows)


def _rms(part: Json, curve: str) -> str:
    return f"{number(part['rms'][curve]) * NANO:.3f}" if curve in part["rms"] else "–"


def digits(entry: Json, factor: float, places: int) -> str:
    """A value of a result with so many decimals; "–" where there is none."""
    at = number(entry)
    return "–" if math.isnan(at) else f"{at * factor:.{places}f}"


def wires(result: Json) -> str:
    """Bit line, all cells conducting; word line; arrays in operation."""
    sizes = sorted({number(p["cells"]) for p in result["bit_line"]})
    cells_head = [f"{n:.0f} cells" for n in sizes]

    def errors(key: str, chosen: Callable[[Json], Any]) -> dict[Any, list[str]]:
        rows: dict[Any, list[str]] = {}
        for p in sorted(result[key], key=lambda p: (chosen(p), number(p["cells"]))):
            rows.setdefault(chosen(p), []).append(f"{100 * number(p['error']):.2f}")
        return rows

    text = "Current lost on a bit line whose cells all conduct (%):\n\n"
    found = errors("bit_line", lambda p: number(p["resistance"]))
    text += table(["Ω per cell", *cells_head], [[f"{r:g}", *row] for r, row in found.items()])
    text += "\nCharge lost by the farthest cell of a word line, pulse of 1 ns (%):\n\n"
    found = errors("word_line", lambda p: (number(p["capacitance"]), number(p["resistance"])))
    rows = [[f"{r:g} Ω, {c / FEMTO_FARAD:g} fF", *row] for (c, r), row in found.items()]
    return text + table(["per cell", *cells_head], rows) + "\n" + _in_operation(result)


def _in_operation(result: Json) -> str:
    operating = result["in_operation"]
    rows = [
        [
            f"{p['array']}, {number(p['resistance']):g} Ω, {number(p['capacitance']) / FEMTO_FARAD:g} fF",
            digits(p["rms"], NANO, 3),
            digits(p["largest"], NANO, 3),
            digits(p["drop"], 1.0, 4),
            digits(p["rms_after_first_order_model"], NANO, 3),
        ]
        for p in operating
    ]
    columns = {p["array"]: f"{number(p['columns']):.0f}" for p in operating}
    noise = {p["array"]: digits(p["noise"], NANO, 4) for p in operating}
    text = (
        "64 cells on every line, random inputs, wires of both directions: change of the charges as pulse "
        f"widths; {columns['first']} and {columns['second']} columns, noise of the integration "
        f"{noise['first']} and {noise['second']} ns rms:\n\n"
    )
    head = ["dot product, per cell", "rms (ns)", "largest (ns)", "`key_drop`, `value_drop`"]
    text += table([*head, "left by the first-order model (ns rms)"], rows)
    text += f"\n64 cells reach half a step of the counter ({100 * number(result['tolerance']):.1f} %) at:\n\n"
    limits = {name: number(limit) for name, limit in result["limits"].items()}
    return (
        text
        + table(
            ["", "Ω per cell"],
            [[name, f"{x:.3g}" if math.isfinite(x) else "beyond 100"] for name, x in limits.items()],
        )
        + (
            f"\nThe bit line whose cells all conduct carries {number(result['overload']):.1f} times the "
            "charge at which the converter of the first dot product saturates.\n"
        )
    )


def energy(found: Sequence[Json]) -> str:
    """One row a run and array."""
    rows = []
    for result in found:
        for run in result["runs"]:
            for key in ("first", "second"):
                part = run[key]
                blocks = {name: sum(map(number, x.values())) for name, x in part["blocks"].items()}
                readout = blocks.get("readout", blocks.get("integrators, at least", 0.0))
                rows.append(
                    [
                        f"{run['inputs']}, {key}, {result['readout']}",
                        f"{number(part['activity']):.3f}",
                        f"{number(part['cell_read']) * FEMTO:.2f}",
                        f"{blocks['cells'] * PICO:.1f}",
                        f"{blocks['drivers'] * PICO:.2f}",
                        f"{readout * PICO:.1f}",
                        f"{16 * blocks['cells'] * PICO:.0f}",
                        f"{number(part['head']) * PICO:.0f}",
                    ]
                )
    head = [
        "inputs, dot product, readout",
        "mean pulse",
        "cell (fJ)",
        "cells (pJ)",
        "drivers (pJ)",
        "readout (pJ)",
    ]
    return table([*head, "cells of a head (pJ)", "head (pJ)"], rows)
