"""The six-transistor gain cell, and the benches it is characterised on.

                 vdd
                  |
      store --o| read P          store: written through a transmission gate (write N, write P) from wbl
                  |
         wlb --o| switch P
                  |
    bl -----------+              I(bl -> cell) > 0 where the store is high: the cell sinks current
                  |
          wl ---| switch N
                  |
      store ---| read N
                  |
                 gnd

Source: the circuit of the paper's Fig. 1d, in words under "The cell" in docs/concepts/circuits.md; sizes are
ours. With an oxide-semiconductor write transistor the transmission gate is one transistor.
Not modelled: layout parasitics inside the cell.
"""

from __future__ import annotations

from collections.abc import Sequence

from gaincell.spice.netlists.netlist import EDGE, Netlist, bench, number, pulse, pwl, sources
from gaincell.spice.technology import Site, Technology
from gaincell.units import Second, Volt

HOLD_OPTIONS = "reltol=1e-4 abstol=1e-18 chgtol=1e-20 vntol=1e-6 gmin={gmin} method=gear"


def cell_subcircuit(
    technology: Technology,
    name: str = "gaincell",
    shifts: Sequence[Volt] = (0.0,) * 4,
    *,
    write_gate: bool = True,
) -> list[str]:
    """`.subckt gaincell bl wl wlb wbl wwl wwlb store vdd`.

    Args:
        technology: The process.
        name: Of the subcircuit.
        shifts: Threshold shifts of read N, read P, switch N, switch P, V.
        write_gate: False leaves the (idle) write transistors out.
    """
    t = technology
    rn, rp, sn, sp = shifts
    lines = [
        f".subckt {name} bl wl wlb wbl wwl wwlb store vdd",
        t.transistor("rn", "xn", "store", "0", "0", "n", t.read_n, rn),
        t.transistor("sn", "bl", "wl", "xn", "0", "n", t.switch_n, sn),
        t.transistor("rp", "xp", "store", "vdd", "vdd", "p", t.read_p, rp),
        t.transistor("sp", "bl", "wlb", "xp", "vdd", "p", t.switch_p, sp),
    ]
    if write_gate and t.oxide_write:
        lines.append(f"Xwn wbl wwl store oxide_fet w={t.write_n.w:.6g} l={t.write_n.l:.6g}")
    elif write_gate:
        lines.append(t.transistor("wn", "wbl", "wwl", "store", "0", "n", t.write_n))
        lines.append(t.transistor("wp", "wbl", "wwlb", "store", "vdd", "p", t.write_p))
    return [*lines, f"Cs store 0 {number(t.storage)}", ".ends"]


def curve_bench(site: Site, *, shifts: Sequence[Sequence[Volt]] = ((0.0,) * 4,), points: int = 46) -> Netlist:
    """DC current of one or many cells, bit line at VDD/2, over the stored voltage 0 ... VDD; i(vb<n>): out of
    each.

    Args:
        site: Technology in a corner.
        shifts: Four threshold shifts of every cell, V [cells, 4].
        points: Voltages of the sweep.
    """
    vdd, (off, _, off_b) = site.vdd, site.write_levels
    body = sources(
        {"dd vdd": vdd, "wl wl": vdd, "wlb wlb": 0, "wwl wwl": off, "wwlb wwlb": off_b, "st st": 0}
    )
    for n, shift in enumerate(shifts):
        body += cell_subcircuit(site.technology, f"cell{n}", shift)
        body += [f"Vb{n} b{n} 0 {number(vdd / 2)}", f"Xc{n} b{n} wl wlb st wwl wwlb st vdd cell{n}"]
    return bench(
        site,
        f"current over the stored voltage, {len(shifts)} cell(s)",
        body,
        ["v(st)", *(f"i(vb{n})" for n in range(len(shifts)))],
        dc=f".dc Vst 0 {number(vdd)} {vdd / (points - 1):.15g}",  # a step rounded up would lose the last
    )


def write_bench(site: Site, targets: Sequence[Volt]) -> Netlist:
    """One cell for every target: discharged to 0 V, written for 5 ns from 1 ns on, then held; v(st<n>)."""
    vdd, (off, on, off_b) = site.vdd, site.write_levels
    start, stop = 1e-9, 6e-9
    body = [
        *cell_subcircuit(site.technology),
        *sources({"dd vdd": vdd, "wl wl": 0, "wlb wlb": vdd, "b bl": vdd / 2}),
        f"Vwwl wwl 0 {pulse(start, stop, off, on)}",
        f"Vwwlb wwlb 0 {pulse(start, stop, off_b, 0)}",
    ]
    for n, target in enumerate(targets):
        body += [f"Vw{n} w{n} 0 {number(target)}", f"Xc{n} bl wl wlb w{n} wwl wwlb st{n} vdd gaincell"]
        body.append(f".ic v(st{n})=0")
    saved = [f"v(st{n})" for n in range(len(targets))]
    title = f"writing {len(targets)} levels"
    return bench(site, title, body, saved, stop=stop + 1e-9, steps=("20p", "20p"))


def hold_bench(
    site: Site,
    stored: Sequence[Volt],
    duration: Second,
    *,
    leak: float | None = None,
    gmin: float = 1e-20,
    tunnelling: bool = False,
) -> Netlist:
    """Cells that hold: every line at rest, v(st<n>) over time.

    Args:
        site: Technology in a corner.
        stored: Voltage of every cell at the start.
        duration: How long they hold, s.
        leak: Resistance from the store to VDD/2, Ohm: set, not predicted.
        gmin: Of ngspice, S.
        tunnelling: Leave gate tunnelling as the card has it.
    """
    vdd, (off, _, off_b) = site.vdd, site.write_levels
    rest = {"wl wl": 0, "wlb wlb": vdd, "b bl": vdd / 2, "mid mid": vdd / 2, "w wbl": vdd / 2}
    body = [
        *cell_subcircuit(site.technology),
        *sources({"dd vdd": vdd, **rest, "wwl wwl": off, "wwlb wwlb": off_b}),
    ]
    for n, volts in enumerate(stored):
        body += [f"Xc{n} bl wl wlb wbl wwl wwlb st{n} vdd gaincell", f".ic v(st{n})={number(volts)}"]
        if leak is not None:
            body.append(f"Rl{n} st{n} mid {number(leak)}")
    return bench(
        site,
        f"{len(stored)} cells held for {duration:g} s",
        body,
        [f"v(st{n})" for n in range(len(stored))],
        stop=duration,
        steps=(number(duration / 200), number(duration / 100)),
        options=HOLD_OPTIONS.format(gmin=number(gmin)),
        tunnelling=tunnelling,
    )


def disturb_bench(site: Site, stored: Sequence[Volt], *, reads: int = 8, t_pulse: Second = 15e-9) -> Netlist:
    """Read disturb, v(st<n>), and half-select disturb, v(hs<n>).

    Every stored cell is read `reads` times. Its half-selected twin shares the write bit line with columns
    being written: the line goes rail to rail as often, its own write gate stays off.
    """
    vdd, (off, _, off_b) = site.vdd, site.write_levels
    period = t_pulse + 5e-9
    wl, wlb, line = [(0.0, 0.0)], [(0.0, vdd)], [(0.0, vdd / 2)]
    for k in range(reads):
        on, end = 1e-9 + k * period, 1e-9 + k * period + t_pulse
        wl += [(on, 0.0), (on + EDGE, vdd), (end, vdd), (end + EDGE, 0.0)]
        wlb += [(on, vdd), (on + EDGE, 0.0), (end, 0.0), (end + EDGE, vdd)]
        low, high = (0.0, vdd) if k % 2 else (vdd, 0.0)
        line += [(on, line[-1][1]), (on + EDGE, low), (end, low), (end + EDGE, high)]
    stop = 1e-9 + reads * period
    line += [(stop - 1e-9, line[-1][1]), (stop - 1e-9 + EDGE, vdd / 2)]
    rest = {"off offn": 0, "rest offp": vdd, "mid mid": vdd / 2, "b bl": vdd / 2}
    body = [
        *cell_subcircuit(site.technology),
        f"Vdd vdd 0 {number(vdd)}",
        f"Vwl wl 0 {pwl(wl)}",
        f"Vwlb wlb 0 {pwl(wlb)}",
        f"Vline line 0 {pwl(line)}",
        *sources({**rest, "wwl wwl": off, "wwlb wwlb": off_b}),
    ]
    for n, volts in enumerate(stored):
        body.append(f"Xr{n} bl wl wlb mid wwl wwlb st{n} vdd gaincell")
        body.append(f"Xh{n} bl offn offp line wwl wwlb hs{n} vdd gaincell")
        body.append(f".ic v(st{n})={number(volts)} v(hs{n})={number(volts)}")
    saved = [f"v({kind}{n})" for kind in ("st", "hs") for n in range(len(stored))]
    title = "read and half-select disturb"
    return bench(site, title, body, saved, stop=stop, steps=("100p", "100p"))
