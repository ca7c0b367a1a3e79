"""Tables of `gaincell spice`: cells, arrays, energies, wires, the write path, a mixed-signal run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gaincell.reports.costs import DACS
from gaincell.reports.tables import SIMULATED, Rows, digits
from gaincell.results import spice as of
from gaincell.results.spice import DacWrites, MixedResult, VerifyResult, WriteResult
from gaincell.results.spice_cell import CharacterisationResult, CornerCurve

NANO, PICO, FEMTO = 1e9, 1e12, 1e15
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


def slowest_write(result: CharacterisationResult) -> str:
    """In ns, over the levels; or how many levels do not settle within the write."""
    settled = result.write.settled_within_9_mV
    never = sum(map(math.isinf, settled))
    return f"{never} of {len(settled)} levels never" if never else f"{max(settled) * NANO:.2f}"


def _largest(values: Sequence[float]) -> float:
    return max(map(abs, values))


def cells(found: Mapping[str, CharacterisationResult]) -> Rows:
    """One column per technology: what `characterise` found."""

    def ends(values: Sequence[float], factor: float, places: int) -> str:
        return f"{values[0] * factor:.{places}f} to {values[-1] * factor:.{places}f}"

    def spread(result: CharacterisationResult) -> str:
        s = result.mismatch.std_of_full_scale
        return " / ".join(f"{100 * s[n]:.1f}" for n in (0, len(s) // 2, -1))

    def left(waves: Sequence[Sequence[float]], times: Sequence[float]) -> str:
        return f"{waves[-1][-1]:.3f} after {times[-1] * 1e3:.3g} ms"

    def held(result: CharacterisationResult) -> str:
        leak = ", by a leak that was set" if result.retention.set_by_a_leak else ""
        return left(result.retention.held, result.retention.time) + leak

    def with_gmin(result: CharacterisationResult) -> str:
        leak = ", without that leak" if result.retention.set_by_a_leak else ""
        return left(result.retention.with_default_gmin, result.retention.time) + leak

    shown: dict[str, Callable[[CharacterisationResult], str]] = {
        "current at the lowest and highest voltage, DC (µA)": lambda r: ends(r.curve.current, 1e6, 2),
        "charge of a full pulse (fC)": lambda r: ends(r.curve.charge, FEMTO, 1),
        "R² against the cell of the design, not fitted": lambda r: f"{r.curve.r_squared_against_it:.3f}",
        "mismatch at lowest / middle / highest voltage (% of full scale)": spread,
        "slowest write to 9 mV (ns)": slowest_write,
        "error as the write gate closes (mV)": lambda r: span(r.write.error_after_switching_off, 1e3, 1),
        f"full current over that at {ROOM:g} °C": corner_row,
        "change by 8 reads (mV)": lambda r: span(r.disturb.after_8_reads, 1e3, 2),
        "change of a half-selected cell (mV)": lambda r: span(r.disturb.half_selected, 1e3, 2),
        "highest voltage, own leakage (V)": held,
        "same, default gmin: artefact (V)": with_gmin,
        "same, gate tunnelling (V)": lambda r: left(r.retention.with_tunnelling, r.retention.tunnelling_time),
    }
    head = ["", *(f"{name}: {r.technology}" for name, r in found.items())]
    rows = [[name, *map(text, found.values())] for name, text in shown.items()]
    return Rows("Cells from transistor models", head, rows, kinds=SIMULATED)


def write(result: WriteResult) -> Rows:
    """What is asked of the write path, a column a DAC; the pulse drivers below."""

    def charge_error(dac: DacWrites) -> str:
        """Of the written cells, against cells at the ideal levels."""
        errors = [(a - b) ** 2 for a, b in zip(dac.charge, dac.ideal_charge, strict=True)]
        return f"{100 * math.sqrt(sum(errors) / len(errors)) / _largest(dac.ideal_charge):.2f}"

    shown: dict[str, Callable[[DacWrites], str]] = {
        "stored, lowest to highest code (V)": lambda dac: span(dac.stored, 1, 3),
        "gain (of the range asked for)": lambda dac: f"{dac.gain:.3f}",
        "largest INL, DNL (steps)": lambda dac: f"{_largest(dac.inl):.4f}, {_largest(dac.dnl):.4f}",
        "settling to 9 mV, all codes (ns)": lambda dac: span(dac.settling, 1e9, 2),
        "injection when the gate closes (mV)": lambda dac: span(dac.injection, 1e3, 1),
        "left of VDD after the discharge": lambda dac: f"{_largest(dac.residual):.1e}",
        "energy of a write, one line (fJ)": lambda dac: span(dac.energy, 1e15, 1),
        "kT/C noise of a write (mV rms, computed)": lambda dac: f"{dac.noise * 1e3:.2f}",
        "rms error of a full pulse's charge (% of full scale)": charge_error,
    }
    title, head = f"{result.technology}, {result.ngspice}; {result.corner}", ("write path", *DACS.values())
    rows = [[name, *(text(result.dacs[kind]) for kind in DACS)] for name, text in shown.items()]
    rows.append(["word-line pulses: error of the width (ps)", span(result.pulses.error, 1e12, 2), ""])
    rows.append(["word-line pulses: energy of a pulse (fJ)", span(result.pulses.energy, 1e15, 1), ""])
    return Rows(title, head, rows, kinds=SIMULATED)


def mixed(result: MixedResult) -> Rows:
    """What was simulated of a sub-tile with its digital block, and how it compares."""
    codes = [code for token in result.codes.spice for code in token]
    error, drift = (
        f"{voltage.rms * 1e3:.1f}, {voltage.largest * 1e3:.1f}"
        for voltage in (result.write_error, result.drift)
    )
    run = f"{result.rows} x {result.columns}, {result.tokens} tokens of {result.step_periods} clock periods"
    lines = [
        ["sub-tile, run", run],
        ["output codes, lowest to highest", f"{len(codes)}, {min(codes):g} to {max(codes):g}"],
        ["codes unlike HeadArray's", f"{result.codes.differ} of {len(codes)}"],
        *([c.name, f"{c.found.value:.3g} (allowed: {c.allowed.value:g})"] for c in result.checks),
        ["codes unlike those of ideal writes", f"{result.codes.unlike_ideal_writes}"],
        ["stored voltages, error against the ideal level (mV): rms, largest", error],
        ["stored voltages, moved until the column is written again (mV): rms, largest", drift],
    ]
    title = f"{result.technology}, {result.ngspice}; {result.corner}"
    return Rows(title, ("mixed-signal run", ""), lines, kinds=SIMULATED)


def verified(result: VerifyResult) -> list[Rows]:
    """One run: what was found, and what is checked."""
    lines = f"{result.columns} column{'s' * (result.columns > 1)}"
    title = f"{result.technology}, {result.readout} readout, {result.inputs} inputs, {lines}; {result.corner}"
    checks = []
    for check in result.checks:
        at, unit = check.found.value, check.found.unit
        factor, unit = (NANO, "ns") if unit == "s" else (1.0, "of all" if unit == "1" else unit)
        shown = "too few columns in range" if math.isnan(at) else f"{at * factor:.4g}"
        allowed = f"{shown} ≤ {check.allowed.value * factor:.4g}"
        checks.append((check.name, allowed, unit, "pass" if check.passed else "FAIL"))
    codes = f"Codes that differ by more than one: {result.codes.differ_by_more_than_one}."
    if (unlike := result.codes.unlike_ideal_levels) is not None:
        codes += f" Codes unlike those of ideal levels: {unlike}."
    return [
        replace(verification({"": result}).transposed(), title=title),
        Rows("", ("check", "found ≤ allowed", "unit", ""), checks, codes, text=(0, 2, 3), kinds=SIMULATED),
    ]


def verification(found: Mapping[str, VerifyResult]) -> Rows:
    """One row a run and array."""

    def offsets(name: str, array: of.VerifiedArray) -> str:
        fit = array.affine_calibration
        shown = [fit.offset]
        shown += [fit.offset_of_negative] if name == "second" and fit.offset is not None else []
        return ", ".join(digits(offset, NANO, 3) for offset in shown)

    rows = []
    for name, run in found.items():
        for key, array in run.arrays.items():
            rms = [digits(array.rms.get(curve), NANO, 3) for curve in ("own", "cubic", "linear", "static")]
            own, left = array.rms_of_full_scale["own"], array.affine_calibration.rms_in_range
            calibrated = (f"{100 * own:.2f}", offsets(key, array), digits(left, NANO, 4))
            codes = "" if key == "first" else f"{run.codes.differ} of {len(run.codes.spice)}"
            of_run = f"{name}, {key}" if name else key
            rows.append([of_run, *rms, *calibrated, str(array.integrators_at_a_rail), codes])
    headings = ["run, dot product", "rms: own curve (ns)", "its cubic", "linear", "static current"]
    headings += ("own (% of full scale)", "offset (ns)", "rms left (ns)", "at a rail", "codes that differ")
    return Rows("SPICE against the behavioural model", headings, rows, kinds=SIMULATED)


def wires(result: of.WiresResult) -> list[Rows]:
    """Bit line, all cells conducting; word line; arrays in operation; what follows."""
    heads = [f"{n} cells" for n in sorted({p.cells for p in result.bit_line})]
    bit: dict[str, list[str]] = {}
    word: dict[str, list[str]] = {}
    for p in sorted(result.bit_line, key=lambda p: (p.resistance, p.cells)):
        bit.setdefault(f"{p.resistance:g}", []).append(f"{100 * p.error:.2f}")
    for w in sorted(result.word_line, key=lambda w: (w.capacitance, w.resistance, w.cells)):
        name = f"{w.resistance:g} Ω, {w.capacitance * FEMTO:g} fF"
        word.setdefault(name, []).append(f"{100 * w.error:.2f}")
    columns: dict[str, Callable[[of.InOperation], str]] = {
        "dot product, per cell": lambda p: f"{p.array}, {p.resistance:g} Ω, {p.capacitance * FEMTO:g} fF",
        "rms (ns)": lambda p: digits(p.rms, NANO, 3),
        "largest (ns)": lambda p: digits(p.largest, NANO, 3),
        "key_drop, value_drop": lambda p: digits(p.drop, 1.0, 4),
        "left by the first-order model (ns rms)": lambda p: digits(p.rms_after_first_order_model, NANO, 3),
    }
    last = {p.array: p for p in result.in_operation}
    first, second = last["first"], last["second"]
    operating = (
        "64 cells on every line, random inputs, wires of both directions: change of the charges as pulse "
        f"widths; {first.columns} and {second.columns} columns, noise of the integration "
        f"{digits(first.noise, NANO, 4)} and {digits(second.noise, NANO, 4)} ns rms"
    )
    limits = [[name, limit(x)] for name, x in result.limits.items()]
    overload = (
        f"The bit line whose cells all conduct carries {result.overload:.1f} times the charge at which the "
        "converter of the first dot product saturates."
    )
    return [
        Rows(
            f"{result.technology}; {result.corner}. Current lost on a bit line whose cells all conduct (%)",
            ("Ω per cell", *heads),
            [[name, *row] for name, row in bit.items()], kinds=SIMULATED,
        ),
        Rows(
            "Charge lost by the farthest cell of a word line, pulse of 1 ns (%)", ("per cell", *heads),
            [[name, *row] for name, row in word.items()], kinds=SIMULATED,
        ),
        Rows.of(operating, result.in_operation, columns, kinds=SIMULATED),
        Rows(
            f"64 cells lose {100 * result.tolerance:.1f} % of the line's own charge (in operation: of the "
            "converter's full scale, half a step of the counter) at",
            ("", "Ω per cell"), limits, overload, kinds=SIMULATED,
        ),
    ]  # fmt: skip


def limit(resistance: float) -> str:
    """Where a tolerance is reached, Ω per cell; 0 and infinity: outside of what is simulated, up to 100."""
    if resistance == 0:
        return "below the range"
    return f"{resistance:.3g}" if math.isfinite(resistance) else "beyond 100"


def energy(found: Mapping[str, of.EnergyResult]) -> Rows:
    """One row a run and array."""
    rows = []
    for name, result in found.items():
        where = f"{name}: {result.technology}, {result.corner}"
        for run in result.runs:
            for key, array in run.arrays.items():
                blocks = {name: block.total for name, block in array.blocks.items()}
                readout = blocks.get("readout", blocks.get("integrators, at least", 0.0))
                shown = [f"{array.activity:.3f}", f"{array.cell_read * FEMTO:.2f}"]
                cells, drivers = blocks["cells"], blocks["drivers"]
                of_head = array.head / array.array * cells
                joules = ((cells, 1), (drivers, 2), (readout, 1), (of_head, 0), (array.head, 0))
                shown += [f"{energy * PICO:.{places}f}" for energy, places in joules]
                of_run = f"{run.inputs}, {key}"
                rows.append([f"{where}, {of_run}, {result.readout}" if name else of_run, *shown])
    head = ["result, inputs, dot product, readout", "mean pulse", "cell (fJ)", "cells (pJ)", "drivers (pJ)"]
    head += ("readout (pJ)", "cells of a head (pJ)", "head (pJ)")
    return Rows("Energy of the arrays, from SPICE", head, rows, kinds=SIMULATED)
