"""Tables of docs/spice.md, from results of `gaincell spice`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from gaincell.reports.tables import Rows
from gaincell.results.spice import (
    CharacterisationResult,
    CornerCurve,
    EnergyResult,
    VerifyResult,
    WiresResult,
)

NANO, PICO, FEMTO = 1e9, 1e12, 1e15
FEMTO_FARAD = 1e-15
ROOM = 27.0
"""Temperature, C, that the corners of a characterisation are compared with."""
LATTICE = 2.42
"""Mobility of electrons in silicon falls as T^-2.42 where the lattice alone scatters (S. M. Sze, Physics of
Semiconductor Devices): nothing raises a current in the cold more.
"""


def artefacts(result: CharacterisationResult) -> list[float]:
    """Temperatures, C, whose currents rise above those at `ROOM` by more than any mobility does: the card is
    not made for them.
    """
    return [
        temperature
        for temperature, ratio in _over_room(result).items()
        if ratio > max(1.0, ((ROOM + 273.15) / (temperature + 273.15)) ** LATTICE)
    ]


def corner_lines(result: CharacterisationResult) -> list[tuple[str, CornerCurve]]:
    """Label (for the first of its kind) and curve of every corner; artefacts are named, not labelled by
    their process.
    """
    wrong, lines, seen = artefacts(result), [], set[str]()
    kept = [t for t in _over_room(result) if t not in wrong]
    for curve in result.corners.curves:
        label = f"{curve.process}, {min(kept):g} to {max(kept):g} °C, VDD ±10 %"
        if curve.temperature in wrong:
            label = f"artefact: card at {curve.temperature:g} °C"
        lines.append(("" if label in seen else label, curve))
        seen.add(label)
    return lines


def corner_row(result: CharacterisationResult) -> str:
    """Full current at the ends of temperature over that at `ROOM`; artefacts are called so."""
    wrong = artefacts(result)
    found = {t: ratio for t, ratio in _over_room(result).items() if t != ROOM}
    return ", ".join(
        f"{ratio:.2f} at {t:g} °C{' (an artefact of the card)' if t in wrong else ''}"
        for t, ratio in found.items()
    )


def _over_room(result: CharacterisationResult) -> dict[float, float]:
    """Temperature -> largest current over that at `ROOM`, of the first process at the nominal supply."""
    curves = result.corners.curves
    nominal = min((curve.supply for curve in curves), key=lambda supply: abs(supply - 1))
    found = {c.temperature: max(c.current) for c in reversed(curves) if c.supply == nominal}
    return {t: found[t] / found[ROOM] for t in sorted(found)}


def span(values: Sequence[float], factor: float, places: int) -> str:
    """The least and the largest."""
    found = [value * factor for value in values]
    return f"{min(found):.{places}f} to {max(found):.{places}f}"


def cells(found: Mapping[str, CharacterisationResult]) -> Rows:
    """One column per technology: what `characterise` found."""

    def ends(values: Sequence[float], factor: float, places: int) -> str:
        return f"{values[0] * factor:.{places}f} to {values[-1] * factor:.{places}f}"

    def spread(result: CharacterisationResult) -> str:
        s = result.mismatch.std_of_full_scale
        return " / ".join(f"{100 * s[n]:.1f}" for n in (0, len(s) // 2, -1))

    shown: dict[str, Callable[[CharacterisationResult], str]] = {
        "current at 0 and 0.9 V, DC (µA)": lambda r: ends(r.curve.current, 1e6, 2),
        "charge of a full pulse (fC)": lambda r: ends(r.curve.charge, FEMTO, 1),
        "R² against the published cubic, not fitted": lambda r: f"{r.curve.r_squared_against_it:.3f}",
        "mismatch at 0 / 0.45 / 0.9 V (% of full scale)": spread,
        "slowest write to 9 mV (ns)": lambda r: f"{max(r.write.settled_within_9_mV) * NANO:.2f}",
        "error as the write gate closes (mV)": lambda r: span(r.write.error_after_switching_off, 1e3, 1),
        f"full current over that at {ROOM:g} °C": corner_row,
        "change by 8 reads (mV)": lambda r: span(r.disturb.after_8_reads, 1e3, 2),
        "change of a half-selected cell (mV)": lambda r: span(r.disturb.half_selected, 1e3, 2),
        "0.9 V after 10 ms: own leakage (V)": lambda r: f"{r.retention.held[-1][-1]:.3f}",
        "0.9 V after 10 ms: default gmin, an artefact (V)": lambda r: (
            f"{r.retention.with_default_gmin[-1][-1]:.3f}"
        ),
        "0.9 V after 10 µs with gate tunnelling (V)": lambda r: f"{r.retention.with_tunnelling[-1][-1]:.3f}",
    }
    rows = [[name, *map(of, found.values())] for name, of in shown.items()]
    return Rows("Cells from transistor models", ["", *(r.technology for r in found.values())], rows)


def verification(found: Mapping[str, VerifyResult]) -> Rows:
    """One row a run and array."""
    rows = []
    for name, result in found.items():
        for key, array in result.arrays.items():
            fit = array.affine_calibration
            offsets = [fit.offset]
            if key == "second" and fit.offset is not None:
                offsets.append(fit.offset_of_negative)
            rows.append(
                [
                    f"{name}, {key}",
                    *(digits(array.rms.get(c), NANO, 3) for c in ("own", "cubic", "linear", "static")),
                    f"{100 * array.rms_of_full_scale['own']:.2f}",
                    ", ".join(digits(offset, NANO, 3) for offset in offsets),
                    digits(fit.rms_in_range, NANO, 4),
                    str(array.integrators_at_a_rail),
                    "" if key == "first" else f"{result.codes.differ} of {result.columns}",
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
    head += ["rms left (ns)", "at a rail", "codes that differ"]
    return Rows("SPICE against the behavioural model", head, rows)


def digits(found: float | None, factor: float, places: int) -> str:
    """A number with so many decimals; "–" where there is none."""
    return "–" if found is None or math.isnan(found) else f"{found * factor:.{places}f}"


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return Rows("", headings, rows).markdown()


def wires(result: WiresResult) -> str:
    """Bit line, all cells conducting; word line; arrays in operation."""
    cells_head = [f"{n} cells" for n in sorted({p.cells for p in result.bit_line})]

    bit: dict[str, list[str]] = {}
    word: dict[str, list[str]] = {}
    for p in sorted(result.bit_line, key=lambda p: (p.resistance, p.cells)):
        bit.setdefault(f"{p.resistance:g}", []).append(f"{100 * p.error:.2f}")
    for w in sorted(result.word_line, key=lambda w: (w.capacitance, w.resistance, w.cells)):
        name = f"{w.resistance:g} Ω, {w.capacitance / FEMTO_FARAD:g} fF"
        word.setdefault(name, []).append(f"{100 * w.error:.2f}")
    return (
        "Current lost on a bit line whose cells all conduct (%):\n\n"
        + _markdown(["Ω per cell", *cells_head], [[name, *row] for name, row in bit.items()])
        + "\nCharge lost by the farthest cell of a word line, pulse of 1 ns (%):\n\n"
        + _markdown(["per cell", *cells_head], [[name, *row] for name, row in word.items()])
        + "\n"
        + _in_operation(result)
    )


def _in_operation(result: WiresResult) -> str:
    operating = result.in_operation
    rows = [
        [
            f"{p.array}, {p.resistance:g} Ω, {p.capacitance / FEMTO_FARAD:g} fF",
            digits(p.rms, NANO, 3),
            digits(p.largest, NANO, 3),
            digits(p.drop, 1.0, 4),
            digits(p.rms_after_first_order_model, NANO, 3),
        ]
        for p in operating
    ]
    last = {p.array: p for p in operating}
    first, second = last["first"], last["second"]
    text = (
        "64 cells on every line, random inputs, wires of both directions: change of the charges as pulse "
        f"widths; {first.columns} and {second.columns} columns, noise of the integration "
        f"{digits(first.noise, NANO, 4)} and {digits(second.noise, NANO, 4)} ns rms:\n\n"
    )
    head = ["dot product, per cell", "rms (ns)", "largest (ns)", "`key_drop`, `value_drop`"]
    text += _markdown([*head, "left by the first-order model (ns rms)"], rows)
    text += f"\n64 cells reach half a step of the counter ({100 * result.tolerance:.1f} %) at:\n\n"
    limits = [[name, f"{x:.3g}" if math.isfinite(x) else "beyond 100"] for name, x in result.limits.items()]
    return (
        text
        + _markdown(["", "Ω per cell"], limits)
        + (
            f"\nThe bit line whose cells all conduct carries {result.overload:.1f} times the "
            "charge at which the converter of the first dot product saturates.\n"
        )
    )


def energy(found: Sequence[EnergyResult]) -> Rows:
    """One row a run and array."""
    rows = []
    for result in found:
        for run in result.runs:
            for key, array in run.arrays.items():
                blocks = {name: block.total for name, block in array.blocks.items()}
                readout = blocks.get("readout", blocks.get("integrators, at least", 0.0))
                rows.append(
                    [
                        f"{run.inputs}, {key}, {result.readout}",
                        f"{array.activity:.3f}",
                        f"{array.cell_read * FEMTO:.2f}",
                        f"{blocks['cells'] * PICO:.1f}",
                        f"{blocks['drivers'] * PICO:.2f}",
                        f"{readout * PICO:.1f}",
                        f"{16 * blocks['cells'] * PICO:.0f}",
                        f"{array.head * PICO:.0f}",
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
    head += ["cells of a head (pJ)", "head (pJ)"]
    return Rows("Energy of the arrays, from SPICE", head, rows)
