"""Readouts of transistors: what such a circuit itself adds, before and after calibration.

An inverter is the amplifier of the integrator. It is reset with input and output connected, which puts the
bit line and its output at its trip point V_m; an inverter of the same ratio of widths is the comparator, so
that its threshold is V_m as well. In the conversion a constant current takes the charge off again, and the
pulse lasts until the output is back at V_m:

    charge-to-pulse with ReLU   I_d = Q_sat / T_max into the bit line; pulse = output above V_m
    signed charge-to-pulse      a latch holds the sign; I_d into or out of the line; pulse = sign unchanged

Source: the principle is that of the paper (Fig. 1c, g, h: a pulse as wide as the charge); the discharge by a
constant current as in "Charge to pulse" of docs/concepts/circuits.md; the circuit and its sizes are ours. The
reference currents, the buffers of their bias lines (without which columns that switch disturb one another)
and the control signals are ideal.
Not modelled: mismatch of the readouts, noise.
"""

from __future__ import annotations

from gaincell.spice.netlists.netlist import number, pwl
from gaincell.spice.netlists.readout import SIGNED, Phases, Readout
from gaincell.spice.technology import Size, Technology
from gaincell.units import Volt

AMPLIFIER_N, AMPLIFIER_P = Size(24e-6, 150e-9), Size(52e-6, 150e-9)
"""Of the integrator."""
SCALE = 0.1
"""Of the comparator's first inverter relative to the amplifier."""
LOGIC_N, LOGIC_P = 0.5e-6, 1.0e-6
SOURCE_LENGTH = 200e-9
SOURCE_WIDTH_N, SOURCE_WIDTH_P = 8e-6, 16e-6
MIRROR = 8
"""Reference currents are a MIRROR-th of the discharge current."""


def shared_of_transistors(technology: Technology, readout: Readout, phases: Phases, vdd: Volt) -> list[str]:
    """Supply, control signals and current references, and the subcircuits of a column."""
    tc, stop = phases.convert, phases.convert + phases.longest
    edge, reset = 2e-11, phases.start - 2e-10
    current = readout.full_charge / phases.longest / MIRROR

    def signal(name: str, low_first: bool, *times: float) -> list[str]:
        """A control signal and its complement, toggling at `times`."""
        level = 0.0 if low_first else vdd
        true, false = [(0.0, level)], [(0.0, vdd - level)]
        for t in times:
            true += [(t, level), (t + edge, vdd - level)]
            false += [(t, vdd - level), (t + edge, level)]
            level = vdd - level
        return [f"V{name} {name} 0 {pwl(true)}", f"V{name}b {name}b 0 {pwl(false)}"]

    wn, wp = Size(SOURCE_WIDTH_N / MIRROR, SOURCE_LENGTH), Size(SOURCE_WIDTH_P / MIRROR, SOURCE_LENGTH)
    return [
        f"Vread vread 0 {number(vdd)}",
        *signal("rst", False, reset),
        *signal("conv", True, tc, stop),
        *signal("take", False, tc - 5e-11),
        "Ebp biasp 0 refp 0 1",
        "Ebn biasn 0 refn 0 1",
        f"Irefp refp 0 {number(current)}",
        technology.transistor("refp", "refp", "refp", "vread", "vread", "p", wp),
        f"Irefn vread refn {number(current)}",
        technology.transistor("refn", "refn", "refn", "0", "0", "n", wn),
        *gates(technology),
    ]


def gates(t: Technology) -> list[str]:
    """Subcircuits amplifier, first, inv (in out vread), pass (a b on onb vread), nand (a b out vread)."""
    length = t.switch_n.l
    n, p, n2 = (Size(width, length) for width in (LOGIC_N, LOGIC_P, 2 * LOGIC_N))
    first_n, first_p = (Size(size.w * SCALE, size.l) for size in (AMPLIFIER_N, AMPLIFIER_P))

    def inverter(name: str, sn: Size, sp: Size) -> list[str]:
        return [
            f".subckt {name} in out vread",
            t.transistor("n", "out", "in", "0", "0", "n", sn),
            t.transistor("p", "out", "in", "vread", "vread", "p", sp),
            ".ends",
        ]

    return [
        *inverter("amplifier", AMPLIFIER_N, AMPLIFIER_P),
        *inverter("first", first_n, first_p),
        *inverter("inv", n, p),
        ".subckt pass a b on onb vread",
        t.transistor("n", "a", "on", "b", "0", "n", n),
        t.transistor("p", "a", "onb", "b", "vread", "p", p),
        ".ends",
        ".subckt nand a b out vread",
        t.transistor("na", "out", "a", "m", "0", "n", n2),
        t.transistor("nb", "m", "b", "0", "0", "n", n2),
        t.transistor("pa", "out", "a", "vread", "vread", "p", p),
        t.transistor("pb", "out", "b", "vread", "vread", "p", p),
        ".ends",
    ]


def column_of_transistors(technology: Technology, readout: Readout, n: int, bit_line: str) -> list[str]:
    """Column n: integrator output o<n>, comparator c<n>, pulse p<n>, sign s<n>."""
    t = technology
    wn, wp = Size(SOURCE_WIDTH_N, SOURCE_LENGTH), Size(SOURCE_WIDTH_P, SOURCE_LENGTH)
    sn, sp = Size(SOURCE_WIDTH_N, t.switch_n.l), Size(SOURCE_WIDTH_P, t.switch_n.l)
    lines = [
        f"Xa{n} {bit_line} o{n} vread amplifier",
        f"Xr{n} {bit_line} o{n} rst rstb vread pass",
        f"Ci{n} {bit_line} o{n} {number(readout.capacitance)}",
        f"Xf{n} o{n} f{n} vread first",
        f"Xc{n}a f{n} c{n} vread inv",
        f"Xc{n}b c{n} cb{n} vread inv",
        t.transistor(f"src{n}", f"dp{n}", "biasp", "vread", "vread", "p", wp),
        t.transistor(f"swp{n}", bit_line, f"up{n}", f"dp{n}", "vread", "p", sp),
    ]
    if readout.kind != SIGNED:
        return [
            *lines,
            f"Vup{n} up{n} convb 0",
            f"Xg{n} c{n} conv q{n} vread nand",
            f"Xp{n} q{n} p{n} vread inv",
        ]
    return [
        *lines,
        t.transistor(f"snk{n}", f"dn{n}", "biasn", "0", "0", "n", wn),
        t.transistor(f"swn{n}", bit_line, f"down{n}", f"dn{n}", "0", "n", sn),
        f"Xl{n}a c{n} l{n} take takeb vread pass",
        f"Xl{n}b l{n} sb{n} vread inv",
        f"Xl{n}c sb{n} s{n} vread inv",
        f"Xl{n}d s{n} l{n} takeb take vread pass",
        f"Xu{n} s{n} conv up{n} vread nand",
        f"Xd{n}a sb{n} conv downb{n} vread nand",
        f"Xd{n}b downb{n} down{n} vread inv",
        f"Xx{n}a c{n} x{n} s{n} sb{n} vread pass",
        f"Xx{n}b cb{n} x{n} sb{n} s{n} vread pass",
        f"Xg{n} x{n} conv q{n} vread nand",
        f"Xp{n} q{n} p{n} vread inv",
    ]
