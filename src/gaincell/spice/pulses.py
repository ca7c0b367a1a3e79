"""Pulse widths from waveforms.

    width = (time at which the comparator's decision falls) - tc

The decision V_o - V_ref - ramp is linear in time between two steps, so the crossing is interpolated exactly.
"""

from __future__ import annotations

import numpy as np

from gaincell.spice.netlists.readout import RELU, Phases, Readout
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
    a, b, dt = high[:-1], high[1:], np.diff(t)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(a == b, 0.0, a / (a - b))
    part = np.where(
        (a > 0) & (b > 0),
        1.0,
        np.where((a > 0) & (b <= 0), share, np.where((a <= 0) & (b > 0), 1 - share, 0)),
    )
    return float((part * dt).sum())


def touched_rail(plot: Plot, column: int, readout: Readout, vdd: Volt) -> bool:
    """Whether the integrator of a column reached a rail at any time, so that its partial sum was clipped."""
    v = plot[f"v(o{column})"]
    margin = readout.headroom + 0.01
    return bool((v > vdd - margin).any() or (v < margin).any())
