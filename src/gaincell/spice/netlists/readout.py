"""Readouts of a bit line, behavioural: they test cells and wires, and add next to no error of their own.

Integration from t0 to tc: an amplifier holds the bit line at V_ref while the cells' charge goes onto C_int,

    V_o = V_ref + Q / C_int,      C_int = Q_sat / V_fs,    i_o = I_max tanh(g_m (V_ref - V_bl) / I_max)

limited to the rails less `headroom`. Conversion from tc to tc + T_max against a ramp that rises by V_fs,

    charge-to-pulse with ReLU     pulse while V_o - V_ref > ramp        (saturates at T_max, negative: none)
    signed charge-to-pulse        pulse while |V_o - V_ref| > ramp, sign of V_o - V_ref held from tc on

Source: what the circuits do is the paper's (Fig. 1c, g, h; equation (5)). Numbers below are assumed: the
paper gives no circuit values.
Not modelled: noise, offset, finite gain at DC (the transistor readout has one).
"""

from __future__ import annotations

from dataclasses import dataclass

from gaincell.spice.netlists.netlist import number, pwl
from gaincell.units import Coulomb, Second, Volt

RELU, SIGNED = "relu", "signed"
SOFTNESS = 1e-3
"""Of the smooth comparators, V."""


@dataclass(frozen=True)
class Readout:
    """One readout of every column.

    Attributes:
        kind: RELU or SIGNED.
        full_charge: Charge that gives the longest pulse, C.
        full_swing: V_fs, V.
        transconductance: g_m, S.
        most_current: I_max, A.
        headroom: V.
    """

    kind: str
    full_charge: Coulomb
    full_swing: Volt = 0.25
    transconductance: float = 0.05
    most_current: float = 2e-3
    headroom: Volt = 0.03

    @property
    def capacitance(self) -> float:
        """C_int, F."""
        return self.full_charge / self.full_swing


@dataclass(frozen=True)
class Phases:
    """When what happens, s: reads from `start` for `longest`, conversion after `settle` for `longest`."""

    longest: Second = 15e-9
    start: Second = 1e-9
    settle: Second = 1.5e-9

    @property
    def convert(self) -> Second:
        """tc."""
        return self.start + self.longest + self.settle

    @property
    def end(self) -> Second:
        """Of the simulation."""
        return self.convert + self.longest + 0.5e-9


def shared_lines(readout: Readout, phases: Phases, ref: Volt) -> list[str]:
    """What all columns share: reference, ramp (relative to V_ref), conversion window, sign sampling."""
    tc, stop = phases.convert, phases.convert + phases.longest
    return [
        f"Vref ref 0 {number(ref)}",
        f"Vramp ramp 0 {pwl([(0, 0), (tc, 0), (stop, readout.full_swing)])}",
        f"Vwin win 0 {pwl([(0, 0), (tc - 1e-11, 0), (tc, 1), (stop, 1), (stop + 1e-11, 0)])}",
        f"Vsamp samp 0 {pwl([(0, 1), (tc - 2e-11, 1), (tc - 1e-11, 0)])}",
    ]


def column_lines(readout: Readout, n: int, bit_line: str, ref: Volt, vdd: Volt) -> list[str]:
    """Integrator and comparator of column n: integrator output o<n>, pulse p<n>, sign s<n>."""
    most = number(readout.most_current)
    ratio = number(readout.transconductance / readout.most_current)
    high, low = number(vdd - readout.headroom), number(readout.headroom)
    rails = f"ln(1+exp(min((v(o{n})-{high})/2m,50)))-ln(1+exp(min(({low}-v(o{n}))/2m,50)))"
    magnitude = f"v(o{n})-v(ref)" if readout.kind == RELU else f"abs(v(o{n})-v(ref))"
    lines = [
        f"Ba{n} 0 o{n} I={most}*tanh({ratio}*(v(ref)-v({bit_line})))",
        f"Bc{n} o{n} 0 I=2m*({rails})",
        f"Ci{n} {bit_line} o{n} {number(readout.capacitance)}",
        f"Cl{n} o{n} 0 20e-15",
        f".ic v(o{n})={number(ref)} v({bit_line})={number(ref)}",
        f"Bp{n} p{n} 0 V={number(vdd / 2)}*(1+tanh(({magnitude}-v(ramp))/{number(SOFTNESS)}))*v(win)",
    ]
    decided = f"tanh((v(o{n})-v(ref))/{number(SOFTNESS)})"
    if readout.kind == SIGNED:  # a sampled latch: follows the comparator until tc, then holds
        lines += [
            f"Bs{n} 0 s{n} I=1m*v(samp)*({number(vdd / 2)}*(1+{decided})-v(s{n}))",
            f"Cf{n} s{n} 0 10e-15",
            f"Rf{n} s{n} 0 1e12",
        ]
    return lines
