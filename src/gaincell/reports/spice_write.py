"""The write path in SPICE: its result file and its table, for the terminal and for docs/spice.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gaincell.reports.costs import DACS
from gaincell.reports.results import SCHEMA, Json, number, numbers, provenance, value
from gaincell.reports.spice import PROTOCOL, describe_corner
from gaincell.reports.spice_tables import table

HEADINGS = ("write path", *DACS.values())


def describe_write_path(
    found: Any, corner: Any, ngspice: str, command: Sequence[str], design_hash: str
) -> Json:
    """The result file of `gaincell spice write`.

    found: spice.write_path.WritePath.  corner: of spice.technology.
    """

    def v(entry: Any, unit: str) -> Json:
        return value(np.asarray(entry).tolist(), unit, "simulated")

    return {
        "schema": SCHEMA,
        "command": "spice write",
        "technology": found.technology.title,
        "corner": describe_corner(corner, found.technology),
        "ngspice": ngspice,
        "cells": v(found.cells, "1"),
        "discharge": v(found.times.discharge, "s"),
        "write": v(found.times.write, "s"),
        "dacs": {
            name: {
                "levels": v(dac.levels, "V"),
                "stored": v(dac.stored, "V"),
                "gain": v(dac.gain, "1"),
                "offset": v(dac.offset, "V"),
                "inl": v(dac.inl, "steps"),
                "dnl": v(dac.dnl, "steps"),
                "injection": v(dac.injection, "V"),
                "settling": v(dac.settling, "s"),
                "residual": v(dac.residual, "1"),
                "energy": v(dac.energy, "J"),
                "noise": v(dac.noise, "V"),
                "charge": v(dac.charge, "C"),
                "ideal_charge": v(dac.ideal_charge, "C"),
            }
            for name, dac in found.kinds.items()
        },
        "pulses": {
            "width": v(found.widths, "s"),
            "error": v(found.errors, "s"),
            "energy": v(found.energies, "J"),
        },
        "provenance": provenance(
            command=list(command), seed=0, protocol=PROTOCOL, design_hash=design_hash, inputs={}
        ),
    }


def rows(result: Json) -> list[list[str]]:
    """What is asked of the write path, a column a DAC; the pulse drivers below."""

    def row(name: str, shown: Any) -> list[str]:
        return [name, *(shown(result["dacs"][kind]) for kind in DACS)]

    def span(key: str, factor: float, digits: int) -> Any:
        return lambda dac: _span(dac[key], factor, digits)

    def largest(key: str, digits: int) -> Any:
        return lambda dac: f"{max(abs(x) for x in numbers(dac[key])):.{digits}f}"

    pulses = result["pulses"]
    return [
        row("stored, lowest to highest code (V)", span("stored", 1, 3)),
        row("gain (of the range asked for)", lambda dac: f"{number(dac['gain']):.3f}"),
        row("largest INL, DNL (steps)", lambda dac: f"{largest('inl', 4)(dac)}, {largest('dnl', 4)(dac)}"),
        row("settling to 9 mV, all codes (ns)", span("settling", 1e9, 2)),
        row("injection when the gate closes (mV)", span("injection", 1e3, 1)),
        row("left of VDD after the discharge", lambda dac: f"{max(map(abs, numbers(dac['residual']))):.1e}"),
        row("energy of a write, one line (fJ)", span("energy", 1e15, 1)),
        row("kT/C noise of a write (mV rms, computed)", lambda dac: f"{number(dac['noise']) * 1e3:.2f}"),
        row("rms error of a full pulse's charge (% of full scale)", _charge_error),
        ["word-line pulses: error of the width (ps)", _span(pulses["error"], 1e12, 2), ""],
        ["word-line pulses: energy of a pulse (fJ)", _span(pulses["energy"], 1e15, 1), ""],
    ]


def markdown(result: Json) -> str:
    """The table with its conditions."""
    times = " and ".join(f"{number(result[key]) * 1e9:g} ns" for key in ("discharge", "write"))
    return f"{table(HEADINGS, rows(result))}\n\n{result['technology']}; discharge and write of {times}.\n"


def _span(entry: Mapping[str, Any], factor: float, digits: int) -> str:
    found = [x * factor for x in numbers(entry)]
    return f"{min(found):.{digits}f} to {max(found):.{digits}f}"


def _charge_error(dac: Mapping[str, Any]) -> str:
    """Of the written cells, against cells at the ideal levels."""
    ideal = numbers(dac["ideal_charge"])
    errors = [(a - b) ** 2 for a, b in zip(numbers(dac["charge"]), ideal, strict=True)]
    return f"{100 * math.sqrt(sum(errors) / len(errors)) / max(map(abs, ideal)):.2f}"
