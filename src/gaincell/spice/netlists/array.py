"""A slice of an array: n cells on each of m bit lines, with wires, word-line drivers and readouts.

    in<r> --inverter-- wlb --+--[R]--+--[R]-- ...          word lines of row r: wlb from the first inverter,
                             |                             wl from a second; segments of R, C between cells
                             +--inverter-- wl --[R]-- ...
    bl<c>: readout --+--[R]--+--[R]-- ...                  row 0 is the cell next to the readout

A slice is m of `columns` columns of an array: what stands before it on the word lines is one lumped RC of
that many segments and switch gates, what stands after it likewise.
Source: the paper's 64 x 64 arrays ("From cell to code" in docs/concepts/circuits.md); wire values are assumed
(a pitch of about 1 um in an intermediate metal).
Not modelled: coupling between neighbouring lines, resistance of the supplies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gaincell.errors import InputError
from gaincell.spice.netlists.cell import cell_subcircuit
from gaincell.spice.netlists.netlist import (
    ARRAY_OPTIONS,
    EDGE,
    OPTIONS,
    Netlist,
    bench,
    number,
    pulse,
    pwl,
    sources,
)
from gaincell.spice.netlists.readout import Phases, Readout, column_lines, shared_lines
from gaincell.spice.netlists.transistor_readout import column_of_transistors, shared_of_transistors
from gaincell.spice.technology import Site, Size, Technology
from gaincell.units import Farad, Ohm, Second, Volt

DRIVER_N, DRIVER_P = 1.0e-6, 2.0e-6
"""Widths of the word-line inverters, m."""
GATE_LOAD = 0.25e-15
"""Of one switch on a word line, F: stands for cells outside the slice."""


@dataclass(frozen=True)
class WireElement:
    """One segment between two cells.

    Attributes:
        resistance: Ohm.
        capacitance: F.
    """

    resistance: Ohm = 2.0
    capacitance: Farad = 0.2e-15


def array_slice(
    site: Site,
    stored: Sequence[Sequence[Volt]],
    pulses: Sequence[Second],
    readout: Readout,
    *,
    phases: Phases | None = None,
    bit_wire: WireElement | None = None,
    word_wire: WireElement | None = None,
    before: int = 0,
    columns: int | None = None,
    transistor_readout: bool = False,
    write_gates: bool = False,
) -> Netlist:
    """Read a slice and convert its charges.

    Saved: o<c> integrator, p<c> pulse, s<c> sign; i(vcell), i(vdrive), i(vread).

    Args:
        site: Technology in a corner.
        stored: Voltages [n rows, m columns].
        pulses: Width of every row's pulse, s [n]; 0: none.
        readout: Of every column.
        phases: When what happens; None: the default `Phases`.
        bit_wire: Wire of the bit lines; None: the default `WireElement`.
        word_wire: Wire of the word lines, likewise.
        before: Columns between drivers and slice.
        columns: Columns of the whole array; None: those of the slice.
        transistor_readout: Whether the readout is of transistors.
        write_gates: With the idle write transistors: a third more time, to change 0.003 ns of 15 (measured).

    Raises:
        InputError: shapes that do not fit and pulses longer than the longest.
    """
    phases, bit, word = phases or Phases(), bit_wire or WireElement(), word_wire or WireElement()
    n, m = len(stored), len(stored[0])
    columns = m + before if columns is None else columns
    if len(pulses) != n or any(len(row) != m for row in stored) or columns < m + before:
        raise InputError(
            f"{len(pulses)} pulses and {columns} columns for stored voltages of {n} x {m}; they must fit"
        )
    if max(pulses) > phases.longest * 1.1:
        raise InputError(f"a pulse of {max(pulses):.4g} s is longer than the longest, {phases.longest:.4g} s")
    technology, vdd, ref = site.technology, site.vdd, site.vdd / 2
    body = [
        *cell_subcircuit(technology, write_gate=write_gates),
        *driver_subcircuit(technology),
        *_idle_supplies(site),
        *shared_lines(readout, phases, ref),
    ]
    saved = ["v(ramp)", "v(ref)", "i(vcell)", "i(vdrive)"]
    for r, width in enumerate(pulses):
        body += word_line(r, width, phases.start, vdd, m, word, before, columns - m - before)
    if transistor_readout:
        body += shared_of_transistors(technology, readout, phases, vdd)
        saved.append("i(vread)")
    for c in range(m):
        for r in range(n):
            near = f"b{c}_{r - 1}" if r else f"bl{c}"
            body.append(f"Rb{c}_{r} {near} b{c}_{r} {number(max(bit.resistance, 1e-3))}")
            body.append(f"Cb{c}_{r} b{c}_{r} 0 {number(bit.capacitance)}")
            body.append(f"Xc{r}_{c} b{c}_{r} w{r}_{c} x{r}_{c} wbl off offb st{r}_{c} vdd gaincell")
            body.append(f".ic v(st{r}_{c})={number(stored[r][c])}")
            if not transistor_readout:
                body.append(f".ic v(b{c}_{r})={number(ref)}")
        if transistor_readout:
            body += column_of_transistors(technology, readout, c, f"bl{c}")
        else:
            body += column_lines(readout, c, f"bl{c}", ref, vdd)
        saved += [f"v(o{c})", f"v(p{c})", f"v(bl{c})"] + ([f"v(s{c})"] if readout.kind == "signed" else [])
    step = "5e-11" if transistor_readout else "1e-09"
    return bench(
        site,
        f"{n} x {m} cells, {readout.kind} readout{' of transistors' * transistor_readout}",
        body,
        saved,
        stop=phases.end,
        steps=(step, step),
        options=OPTIONS if transistor_readout else ARRAY_OPTIONS,
    )


def _idle_supplies(site: Site) -> list[str]:
    """Supplies of cells and word-line drivers, and the write path at rest."""
    vdd, (off, _, off_b) = site.vdd, site.write_levels
    supplies = {"cell vdd": vdd, "drive vdrive": vdd}
    return sources({**supplies, "wl off": off, "wlb offb": off_b, "wbl wbl": vdd / 2})


def driver_subcircuit(technology: Technology) -> list[str]:
    """`.subckt driver in wl wlb vdd`: two inverters."""
    n, p = Size(DRIVER_N, technology.switch_n.l), Size(DRIVER_P, technology.switch_p.l)
    return [
        ".subckt driver in wl wlb vdd",
        technology.transistor("n1", "wlb", "in", "0", "0", "n", n),
        technology.transistor("p1", "wlb", "in", "vdd", "vdd", "p", p),
        technology.transistor("n2", "wl", "wlb", "0", "0", "n", n),
        technology.transistor("p2", "wl", "wlb", "vdd", "vdd", "p", p),
        ".ends",
    ]


def word_pulse(width: Second, start: Second, vdd: Volt) -> str:
    """What drives a word line for one pulse; shorter than an edge it does not reach the rail."""
    if 0 < width < EDGE:
        peak = vdd * width / EDGE
        return pwl([(0, 0), (start, 0), (start + width, peak), (start + 2 * width, 0)])
    return pulse(start, start + width, 0, vdd) if width > 0 else "0"


def word_line(
    row: int, width: Second, start: Second, vdd: Volt, m: int, wire: WireElement, before: int, after: int
) -> list[str]:
    """Driver and wires of one row, with the lumped rest of its array."""
    source = word_pulse(width, start, vdd)
    lines = [f"Vi{row} in{row} 0 {source}", f"Xd{row} in{row} wd{row} xd{row} vdrive driver"]
    for line in ("w", "x"):
        near = f"{line}d{row}"
        segments = [(f"{line}{row}_{c}", 1, 0) for c in range(m)]
        if before:
            segments.insert(0, (f"{line}p{row}", before, before))
        if after:
            segments.append((f"{line}q{row}", after, after))
        for node, count, gates in segments:
            lines.append(f"R{node} {near} {node} {number(max(wire.resistance, 1e-3) * count)}")
            lines.append(f"C{node} {node} 0 {number(wire.capacitance * count + GATE_LOAD * gates)}")
            near = node
    return lines


def charge_bench(
    site: Site,
    stored: Sequence[Volt],
    width: Second,
    *,
    shifts: Sequence[Sequence[Volt]] = ((0.0,) * 4,),
    columns: int = 64,
) -> Netlist:
    """One read of separate cells, each on a bit line held at VDD/2: i(vb<k>_<n>) is what each takes from it.

    Args:
        site: Technology in a corner.
        stored: Voltages of the copies of every cell [levels].
        width: Of the pulse, s.
        shifts: Of every cell k, see cell_subcircuit [cells, 4]; each has a word line of its own.
        columns: Length of the word lines.
    """
    technology, vdd, start = site.technology, site.vdd, Phases().start
    m = len(stored)
    body = [*driver_subcircuit(technology), *_idle_supplies(site)]
    for k, shift in enumerate(shifts):
        body += cell_subcircuit(technology, f"cell{k}", shift, write_gate=False)
        body += word_line(k, width, start, vdd, m, WireElement(), 0, max(columns - m, 0))
        for n, volts in enumerate(stored):
            body.append(f"Vb{k}_{n} b{k}_{n} 0 {number(vdd / 2)}")
            body.append(f"Xc{k}_{n} b{k}_{n} w{k}_{n} x{k}_{n} wbl off offb st{k}_{n} vdd cell{k}")
            body.append(f".ic v(st{k}_{n})={number(volts)}")
    end = start + width + 2e-9
    saved = [f"i(vb{k}_{n})" for k in range(len(shifts)) for n in range(m)]
    title = f"charge of {len(saved)} cells for a pulse of {width * 1e9:.4g} ns"
    saved += ["i(vcell)", "i(vdrive)"]
    return bench(site, title, body, saved, stop=end, steps=("1n", "500p"), options=ARRAY_OPTIONS)
