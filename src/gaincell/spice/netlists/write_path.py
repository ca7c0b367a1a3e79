"""The write path of transistors: from a code to a stored voltage, and from a code to a pulse on a word line.

    code -> DAC -- switch --+-- write line of N cells -- write gate -- store of the cell
                            |
                 discharge n-transistor to ground

    discharge     the write gate is open and the line held at ground: the store is emptied
    write         the line is released and connected to the DAC; at the end the write gate closes
    read          one full pulse on the cell's word lines, its bit line held at VDD/2

Two DACs for L levels between 0 and VDD:

    string      L - 1 equal resistors; a transmission gate from every tap to the line, one of them on. Draws
                current as long as it is connected
    charge      binary-weighted capacitors whose bottoms inverters pull to VDD or ground, by the bits of the
                code; their tops are the line. Line and store divide the charge: the range shrinks by
                C_dac / (C_dac + C_line + C_store), which no reference within the rails undoes

The pulse driver is that of the arrays: two inverters and the word line of N cells.
Source: textbook circuits; sizes are ours, the paper states none. Selection of taps and bits is ideal.
Not modelled: mismatch of resistors and capacitors, buffers, coupling between write lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gaincell.spice.netlists.array import GATE_LOAD, WireElement, driver_subcircuit, word_pulse
from gaincell.spice.netlists.cell import cell_subcircuit
from gaincell.spice.netlists.netlist import EDGE, Netlist, bench, number, pulse, pwl
from gaincell.spice.netlists.transistor_readout import gates
from gaincell.spice.technology import Site, Size, Technology
from gaincell.units import Farad, Ohm, Second

KINDS = ("string", "charge")
STRING_RESISTANCE: Ohm = 5e3
"""Of one resistor of the string."""
BIT_CAPACITANCE: Farad = 20e-15
"""Of the lowest bit."""
DISCHARGE = 0.5e-6
"""Width of the discharge transistor, m."""
START: Second = 1e-9
"""When the discharge begins."""
GAP: Second = 0.2e-9
"""Between discharge and write, and between write gate and DAC switch."""


@dataclass(frozen=True)
class WriteTimes:
    """When what happens in a write.

    Attributes:
        discharge: Its duration, s.
        write: Its duration, s.
        pulse: Duration of the read after them, s.
    """

    discharge: Second
    write: Second
    pulse: Second

    @property
    def written(self) -> Second:
        """When the write gate begins to close."""
        return START + self.discharge + self.write

    @property
    def read(self) -> Second:
        """When the read begins."""
        return self.written + 1e-9

    @property
    def end(self) -> Second:
        return self.read + self.pulse + 1e-9


def write_path_bench(site: Site, kind: str, levels: int, cells: int, times: WriteTimes) -> Netlist:
    """One line, DAC and cell for every code; the store at VDD before.

    Saved: st<code> the store, i(vd<code>) of the DAC's supply, i(vb<code>) of the cell's bit line.

    Args:
        site: Technology in a corner.
        kind: Of KINDS.
        levels: L.
        cells: N on a write line.
        times: Of the write.
    """
    t, vdd, (off, on, off_b) = site.technology, site.vdd, site.write_levels
    begun, release = START, START + times.discharge
    connect, closed = release + GAP, times.written

    def window(name: str, first: Second, last: Second, rest: float, active: float) -> str:
        return f"V{name} {name} 0 {pulse(first, last, rest, active)}"

    body = [
        *cell_subcircuit(t),
        *gates(t),
        f"Vdd vdd 0 {number(vdd)}",
        window("wwl", begun, closed, off, on),
        window("wwlb", begun, closed, off_b, 0.0),
        window("dis", begun - EDGE, release, 0.0, vdd),
        window("con", connect, closed + GAP, 0.0, vdd),
        window("conb", connect, closed + GAP, vdd, 0.0),
        window("wl", times.read, times.read + times.pulse, 0.0, vdd),
        window("wlb", times.read, times.read + times.pulse, vdd, 0.0),
    ]
    saved = []
    wire = (cells - 1) * WireElement().capacitance
    for code in range(levels):
        line = f"w{code}"
        body += [
            f"Vd{code} d{code} 0 {number(vdd)}",
            f"Vb{code} b{code} 0 {number(vdd / 2)}",
            discharge_transistor(t, str(code), line, "dis"),
            f"Cl{code} {line} 0 {number(wire)}",
            *_idle_gates(t, line, code, cells - 1, off, off_b),
            f"Xc{code} b{code} wl wlb {line} wwl wwlb st{code} vdd gaincell",
            f".ic v(st{code})={number(vdd)}",
        ]
        if kind == "string":  # the gate of the code's own tap opens, the others never do
            taps = [("con", "conb") if tap == code else ("0", "vdd") for tap in range(levels)]
            body += string_dac(str(code), f"d{code}", line, taps)
        else:
            body += _charge(code, levels, vdd, connect)
        saved += [f"v(st{code})", f"i(vd{code})", f"i(vb{code})"]
    return bench(site, f"{kind} DAC, {levels} codes into cells", body, saved, stop=times.end)


def _idle_gates(t: Technology, line: str, code: int, count: int, off: float, off_b: float) -> list[str]:
    """The write gates of the other cells on a line, as one transistor of each kind, on stores at ground."""
    if t.oxide_write or not count:
        return []
    n, p = (Size(size.w * count, size.l) for size in (t.write_n, t.write_p))
    return [
        f"Vin{code} in{code} 0 {number(off)}",
        f"Vip{code} ip{code} 0 {number(off_b)}",
        t.transistor(f"in{code}", line, f"in{code}", "0", "0", "n", n),
        t.transistor(f"ip{code}", line, f"ip{code}", f"s{code}", "vdd", "p", p),
        f"Cs{code} s{code} 0 {number(count * t.storage)}",
    ]


def string_dac(name: str, supply: str, line: str, taps: Sequence[tuple[str, str]]) -> list[str]:
    """A resistor string from a supply to ground, and a gate from every tap to a line.

    Args:
        name: Of its parts.
        supply: Node of the supply.
        line: Node of the line.
        taps: Nodes that open the gate of each, the lowest first: high to open, and its complement.
    """
    lines = [f"Rt{name} {supply} t{name}_{len(taps) - 1} 1"]
    for tap, (on, onb) in enumerate(taps):
        lower = f"t{name}_{tap - 1}" if tap else "0"
        resistance = STRING_RESISTANCE if tap else 1.0
        lines.append(f"Rs{name}_{tap} t{name}_{tap} {lower} {number(resistance)}")
        lines.append(f"Xs{name}_{tap} t{name}_{tap} {line} {on} {onb} vdd pass")
    return lines


def discharge_transistor(technology: Technology, name: str, line: str, gate: str) -> str:
    """From a write line to ground."""
    size = Size(DISCHARGE, technology.switch_n.l)
    return technology.transistor(f"dis{name}", line, gate, "0", "0", "n", size)


def _charge(code: int, levels: int, vdd: float, connect: Second) -> list[str]:
    """Capacitors with their inverters; the inputs of those whose bit is set fall when the write begins."""
    lines = []
    for bit in range((levels - 1).bit_length()):
        falls = [(0, vdd), (connect, vdd), (connect + EDGE, 0.0)]
        source = pwl(falls) if code >> bit & 1 else number(vdd)
        lines += [
            f"Vx{code}_{bit} x{code}_{bit} 0 {source}",
            f"Xi{code}_{bit} x{code}_{bit} y{code}_{bit} d{code} inv",
            f"Cd{code}_{bit} y{code}_{bit} w{code} {number(BIT_CAPACITANCE * 2**bit)}",
        ]
    return lines


def pulse_bench(site: Site, widths: Sequence[Second], cells: int, longest: Second) -> Netlist:
    """A word-line driver for every width, on the lines of `cells` cells: v(wl<n>), i(vw<n>) of its supply."""
    vdd = site.vdd
    load = cells * (WireElement().capacitance + GATE_LOAD)
    end = START + longest + 3e-9
    body = [*driver_subcircuit(site.technology)]
    saved = []
    for n, width in enumerate(widths):
        body += [
            f"Vw{n} v{n} 0 {number(vdd)}",
            f"Vi{n} in{n} 0 {word_pulse(width, START, vdd)}",
            f"Xd{n} in{n} wl{n} wlb{n} v{n} driver",
            f"Cw{n} wl{n} 0 {number(load)}",
            f"Cb{n} wlb{n} 0 {number(load)}",
        ]
        saved += [f"v(wl{n})", f"i(vw{n})"]
    return bench(site, f"word-line drivers of {len(widths)} pulses", body, saved, stop=end)
