"""Pulse widths, charges and energies from waveforms.

    width = (time at which the comparator's decision falls) - tc

The decision V_o - V_ref - ramp is linear in time between two steps, so the crossing is interpolated exactly.
"""

from __future__ import annotations

import numpy as np

from gaincell.spice.netlists.readout import RELU, SIGNED, Phases, Readout
from gaincell.spice.rawfile import Plot, Wave
from gaincell.units import Second, Volt


def decided_width(plot: Plot, column: int, readout: Readout, phases: Phases) -> Second:
    """Signed pulse width of one column of a behavioural readout, s; negative for a negative charge."""
    t, difference = plot["time"], plot[f"v(o{column})"] - plot["v(ref)"]
    at = float(np.interp(phases.convert, t, difference))
    sign = 1.0 if readout.kind == RELU or at >= 0 else -1.0
    return sign * _falls(t, sign * difference - plot["v(ramp)"], phases.convert, phases.longest)


def _falls(t: Wave, decision: Wave, start: Second, longest: Second) -> Second:
    inside = (t > start) & (t < start + longest)
    times = np.concatenate(([start], t[inside], [start + longest]))
    values = np.interp(times, t, decision)
    below = np.nonzero(values <= 0)[0]
    if len(below) == 0:
        return longest
    n = int(below[0])
    if n == 0:
        return 0.0
    share = values[n - 1] / (values[n - 1] - values[n])
    return float(times[n - 1] + share * (times[n] - times[n - 1]) - start)


def pulse_width(t: Wave, pulse: Wave, vdd: Volt) -> Second:
    """Time that a pulse is above VDD/2, s, by linear interpolation."""
    high = pulse - vdd / 2
    a, b = high[:-1], high[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(np.maximum(a, b) / np.abs(a - b)).clip(0.0, 1.0)
    return float((share * np.diff(t)).sum())


def touched_rail(plot: Plot, column: int, readout: Readout, vdd: Volt) -> bool:
    """Whether the integrator of a column reached a rail at any time, so that its partial sum was clipped."""
    v = plot[f"v(o{column})"]
    margin = readout.headroom + 0.01
    return bool((v > vdd - margin).any() or (v < margin).any())


def transistor_width(plot: Plot, column: int, kind: str, phases: Phases, vdd: float) -> Second:
    """Signed pulse width of one column of a readout of transistors, s."""
    width = pulse_width(plot["time"], plot[f"v(p{column})"], vdd)
    if kind == SIGNED and float(np.interp(phases.convert, plot["time"], plot[f"v(s{column})"])) < vdd / 2:
        width = -width
    return width


def sourced(plot: Plot, column: int, readout: Readout) -> float:
    """Charge that the amplifier of a behavioural integrator must take from the supply, C: that it sources."""
    rises = np.diff(plot[f"v(o{column})"] - plot[f"v(bl{column})"])
    return float(rises[rises > 0].sum()) * readout.capacitance


def supplied(plot: Plot, source: str, phases: Phases, vdd: float) -> tuple[float, float]:
    """Energy that a supply of vdd gives before and after the conversion begins, J."""
    t, power = plot["time"], -plot[source] * vdd
    total = np.concatenate(([0.0], np.cumsum(np.diff(t) * (power[1:] + power[:-1]) / 2)))
    middle = float(np.interp(phases.convert, t, total))
    return middle, float(total[-1]) - middle
