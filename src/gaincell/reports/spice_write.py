"""The write path in SPICE as a table, for the terminal and for docs/spice.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gaincell.reports.costs import DACS
from gaincell.reports.spice_tables import span
from gaincell.reports.tables import Rows
from gaincell.results.spice_circuits import DacWrites, WriteResult


def rows(result: WriteResult) -> Rows:
    """What is asked of the write path, a column a DAC; the pulse drivers below."""

    def largest(values: Sequence[float]) -> float:
        return max(map(abs, values))

    shown: dict[str, Callable[[DacWrites], str]] = {
        "stored, lowest to highest code (V)": lambda dac: span(dac.stored, 1, 3),
        "gain (of the range asked for)": lambda dac: f"{dac.gain:.3f}",
        "largest INL, DNL (steps)": lambda dac: f"{largest(dac.inl):.4f}, {largest(dac.dnl):.4f}",
        "settling to 9 mV, all codes (ns)": lambda dac: span(dac.settling, 1e9, 2),
        "injection when the gate closes (mV)": lambda dac: span(dac.injection, 1e3, 1),
        "left of VDD after the discharge": lambda dac: f"{largest(dac.residual):.1e}",
        "energy of a write, one line (fJ)": lambda dac: span(dac.energy, 1e15, 1),
        "kT/C noise of a write (mV rms, computed)": lambda dac: f"{dac.noise * 1e3:.2f}",
        "rms error of a full pulse's charge (% of full scale)": _charge_error,
    }
    lines = [
        *([name, *(of(result.dacs[kind]) for kind in DACS)] for name, of in shown.items()),
        ["word-line pulses: error of the width (ps)", span(result.pulses.error, 1e12, 2), ""],
        ["word-line pulses: energy of a pulse (fJ)", span(result.pulses.energy, 1e15, 1), ""],
    ]
    return Rows(f"{result.technology}, {result.ngspice}", ("write path", *DACS.values()), lines)


def _charge_error(dac: DacWrites) -> str:
    """Of the written cells, against cells at the ideal levels."""
    errors = [(a - b) ** 2 for a, b in zip(dac.charge, dac.ideal_charge, strict=True)]
    return f"{100 * math.sqrt(sum(errors) / len(errors)) / max(map(abs, dac.ideal_charge)):.2f}"
