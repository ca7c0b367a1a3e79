"""Four-bit counter of transistors: how many clock edges fall into a pulse.

    clock AND pulse -> four master-slave flip-flops of transmission gates, each dividing by two

The clock starts half a period before the conversion, so that its rising edges come at (n - 1/2) periods and
the count is floor(w / T + 1/2).
Source: the 16-level counter of the paper's section on end-to-end analog attention, half a clock early as ours
(circuits/readout.py); the circuit is a textbook ripple counter of ours.
Not modelled: metastability at an edge of the pulse, time to ripple at the end.
"""

from __future__ import annotations

from gaincell.spice.netlists.netlist import Netlist, bench, number
from gaincell.spice.netlists.transistor_readout import gates
from gaincell.spice.technology import Site
from gaincell.units import Hertz, Second

BITS = 4
START = 2e-9
"""When the pulses begin, s."""
EDGE = 3e-11


def flip_flop_lines() -> list[str]:
    """`.subckt toggle ck ckb reset q qb vread`: q changes at every rising edge of ck; 0 after reset.

    Master open while ck is low; feedback of the latches by transmission gates; reset, active low, clears
    both through NANDs.
    """
    return [
        ".subckt toggle ck ckb reset q qb vread",
        "Xm qb m1 ckb ck vread pass",
        "Xmn m1 reset m2 vread nand",
        "Xmi m2 m3 vread inv",
        "Xmf m3 m1 ck ckb vread pass",
        "Xs m2 s1 ck ckb vread pass",
        "Xsi s1 q vread inv",
        "Xsn q reset s3 vread nand",
        "Xsf s3 s1 ckb ck vread pass",
        "Xqb q qb vread inv",
        ".ends",
    ]


def counter_bench(site: Site, widths: list[Second], clock: Hertz, longest: Second) -> Netlist:
    """One counter for every pulse width: bits v(b<n>_0) ... v(b<n>_3), lowest first, read at the end.

    Widths below EDGE are no pulses.
    """
    vdd = site.vdd
    period = 1 / clock
    first = START + period / 2
    end = START + longest + 2 * period
    body = [
        f"Vread vread 0 {number(vdd)}",
        f"Vreset reset 0 PWL(0 0 {number(START / 2)} 0 {number(START / 2 + EDGE)} {number(vdd)})",
        f"Vclk clk 0 PULSE(0 {number(vdd)} {number(first)} {number(EDGE)} {number(EDGE)} "
        f"{number(period / 2 - EDGE)} {number(period)})",
        *gates(site.technology),
        *flip_flop_lines(),
    ]
    for n, width in enumerate(widths):
        if width > EDGE:
            times = (START, START + EDGE, START + width, START + width + EDGE)
            points = " ".join(
                f"{number(t)} {number(v * vdd)}" for t, v in zip(times, (0, 1, 1, 0), strict=True)
            )
            body.append(f"Vp{n} p{n} 0 PWL(0 0 {points})")
        else:
            body.append(f"Vp{n} p{n} 0 0")
        body.append(f"Xg{n} clk p{n} g{n} vread nand")
        body.append(f"Xh{n} g{n} h{n} vread inv")
        ck, ckb = f"h{n}", f"g{n}"
        for bit in range(BITS):
            body.append(f"Xt{n}_{bit} {ck} {ckb} reset b{n}_{bit} c{n}_{bit} vread toggle")
            ck, ckb = f"c{n}_{bit}", f"b{n}_{bit}"
    title = f"counters of {len(widths)} pulses"
    saved = [f"v(b{n}_{bit})" for n in range(len(widths)) for bit in range(BITS)]
    return bench(site, title, body, saved, stop=end, steps=("50p", "50p"))
