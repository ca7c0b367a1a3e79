"""One sub-tile, written and read by a digital block in the same simulation: N keys and N values of N cells.

    taps -> string DACs -- write line of a row -- write gates -- cells      (key array; value array alike)
    words -> word-line drivers -> key cells -> bit line of a column -> charge-to-pulse with ReLU
          -> word-line drivers -> value cells -> bit line of a row -> signed charge-to-pulse -> pulse, sign

Cells, write gates, word-line drivers, DACs and discharge are of transistors, the readouts behavioural
(readout.py). A column is read by its own converter in the period in which the digital block says so: a switch
resets the integrator outside of `hold_*`, a current into a capacitor is the ramp.

The digital block is a code model `d_cosim` of ngspice: a library that Verilator made. It sees the clock and
the pulses at VDD/2, and drives gates with edges of EDGE. Its ports, bit by bit, are `inputs` and `outputs`.

Not modelled: wires beyond a lumped capacitance a line, other sub-tiles, level shifters of the write gates,
delays of the digital block.
"""

from __future__ import annotations

from gaincell.spice.netlists.array import GATE_LOAD, WireElement, driver_subcircuit
from gaincell.spice.netlists.cell import cell_subcircuit
from gaincell.spice.netlists.netlist import ARRAY_OPTIONS, Netlist, bench, number
from gaincell.spice.netlists.readout import Readout, column_lines
from gaincell.spice.netlists.transistor_readout import gates
from gaincell.spice.netlists.write_path import discharge_transistor, string_dac
from gaincell.spice.technology import Site, Technology
from gaincell.units import Hertz, Second

LIBRARY = "sub_tile.so"
EDGE: Second = 20e-12
"""Rise and fall of what the digital block drives."""
DELAY: Second = 1e-12
"""From the clock to its outputs: the least that the code model takes."""
ARRAYS = ("key", "value")
HOLD = {"key": "hold_key", "value": "hold_value"}
CONVERT = {"key": "value_read", "value": "late_count"}
"""When integrators hold or integrate, and when they are compared with the ramp."""


def inputs(size: int) -> list[str]:
    """Ports of the digital block that the circuit drives."""
    return ["clk", *(f"{name}_{row}" for name in ("pulse", "negative") for row in range(size))]


def outputs(size: int, levels: int, sum_bits: int) -> list[str]:
    """Ports of the digital block.

    Args:
        size: N.
        levels: Of the DACs.
        sum_bits: Of a row's code, which nothing in the circuit takes: they are only observed.
    """
    lines = range(size)
    return [
        *("hold_key", "value_read", "hold_value", "late_count", "result_valid"),
        *(f"discharge_{array}" for array in ARRAYS),
        *(f"valid_{column}" for column in lines),
        *(f"word_{row}" for row in lines),
        *(f"gate_{array}_{column}" for array in ARRAYS for column in lines),
        *(f"tap_{array}_{row}_{tap}" for array in ARRAYS for row in lines for tap in range(levels)),
        *(f"total_{row}_{bit}" for row in lines for bit in range(sum_bits)),
    ]


def sub_tile(
    site: Site,
    readouts: dict[str, Readout],
    *,
    size: int,
    levels: int,
    sum_bits: int,
    clock: Hertz,
    longest: Second,
    stop: Second,
) -> Netlist:
    """The circuit, from 0 to `stop`; edge n of the clock comes at (n + 1) / clock.

    The digital block is LIBRARY, beside the netlist, as vlnggen of ngspice compiles it.
    Saved: total_<row>_<bit>, result_valid; st_<array>_<row>_<column>; o_<array>_<line>, and the pulses
    phi_<column>, pulse_<row>, negative_<row>; discharge_key, gate_key_0, word_<row>, late_count.

    Args:
        site: Technology in a corner.
        readouts: Of the key and of the value array.
        size: N.
        levels: Of the DACs.
        sum_bits: Of a row's code.
        clock: Its frequency, Hz.
        longest: Longest pulse, s.
        stop: End of the simulation, s.
    """
    technology, vdd = site.technology, site.vdd
    ports = outputs(size, levels, sum_bits)
    body = [
        *cell_subcircuit(technology),
        *driver_subcircuit(technology),
        *gates(technology),
        *_supplies(vdd, clock),
        *_digital(site, size, ports),
    ]
    for array in ARRAYS:
        body += _write_lines(technology, array, size, levels, vdd)
        body += _converters(array, readouts[array], size, longest, vdd)
        for line in range(size):
            source = f"word_{line}" if array == "key" else f"phi_{line}"
            load = number(size * (WireElement().capacitance + GATE_LOAD))
            body.append(f"Xd_{array}_{line} {source} wl_{array}_{line} wlb_{array}_{line} vdd driver")
            body += [f"C{node}_{array}_{line} {node}_{array}_{line} 0 {load}" for node in ("wl", "wlb")]
        for row in range(size):
            for column in range(size):
                bit, word = (column, row) if array == "key" else (row, column)
                store = f"st_{array}_{row}_{column}"
                body.append(
                    f"X{store} bl_{array}_{bit} wl_{array}_{word} wlb_{array}_{word} w_{array}_{row} "
                    f"gate_{array}_{column} n_gate_{array}_{column} {store} vdd gaincell"
                )
                body.append(f".ic v({store})=0")
    title, steps = f"sub-tile of {size} x {size} with its digital block", ("100p", "100p")
    saved = _saved(size, sum_bits)
    return bench(site, title, body, saved, stop=stop, steps=steps, options=ARRAY_OPTIONS)


def _saved(size: int, sum_bits: int) -> list[str]:
    lines = range(size)
    nodes = [f"total_{row}_{bit}" for row in lines for bit in range(sum_bits)]
    nodes += [f"st_{array}_{row}_{column}" for array in ARRAYS for row in lines for column in lines]
    nodes += [f"o_{array}_{line}" for array in ARRAYS for line in lines]
    nodes += [f"{name}_{line}" for name in ("phi", "pulse", "negative", "word") for line in lines]
    nodes += ["result_valid", "discharge_key", "gate_key_0", "late_count", "ref"]
    return [f"v({node})" for node in nodes]


def _supplies(vdd: float, clock: Hertz) -> list[str]:
    period = 1 / clock
    times = " ".join(number(t) for t in (period, EDGE, EDGE, period / 2 - EDGE, period))
    return [
        f"Vdd vdd 0 {number(vdd)}",
        f"Vref ref 0 {number(vdd / 2)}",
        "Vone one 0 1",
        f"Vclk clk 0 PULSE(0 {number(vdd)} {times})",
        ".model reset sw(vt=0.5 vh=0 ron=100 roff=1e12)",
    ]


def _digital(site: Site, size: int, ports: list[str]) -> list[str]:
    """The digital block between its bridges. Write gates swing beyond the rails; taps have complements."""
    vdd, (off, on, off_b) = site.vdd, site.write_levels
    seen = inputs(size)
    taps = [port for port in ports if port.startswith("tap_")]
    write_gates = [port for port in ports if port.startswith("gate_")]
    others = [port for port in ports if port not in write_gates]
    edges = f"t_rise={number(EDGE)} t_fall={number(EDGE)}"

    def bridge(name: str, digital: list[str], analog: list[str], low: float, high: float) -> list[str]:
        return [
            f"a{name} [{' '.join(digital)}] [{' '.join(analog)}] {name}",
            f".model {name} dac_bridge(out_low={number(low)} out_high={number(high)} {edges})",
        ]

    half = number(vdd / 2)
    return [
        f"aseen [{' '.join(seen)}] [{' '.join(f'd_{port}' for port in seen)}] seen",
        f".model seen adc_bridge(in_low={half} in_high={half} rise_delay=1p fall_delay=1p)",
        f"adigital [{' '.join(f'd_{port}' for port in seen)}] [{' '.join(f'd_{port}' for port in ports)}] "
        "null digital",
        f'.model digital d_cosim(simulation="./{LIBRARY}" delay={number(DELAY)})',
        *bridge("drive", [f"d_{port}" for port in others], others, 0, vdd),
        *bridge("complement", [f"~d_{port}" for port in taps], [f"n_{port}" for port in taps], 0, vdd),
        *bridge("gate", [f"d_{port}" for port in write_gates], write_gates, off, on),
        *bridge("gate_b", [f"~d_{port}" for port in write_gates], [f"n_{p}" for p in write_gates], 0, off_b),
    ]


def _write_lines(t: Technology, array: str, size: int, levels: int, vdd: float) -> list[str]:
    """DAC, discharge and wire of every row."""
    lines = []
    for row in range(size):
        name = f"{array}_{row}"
        on = [(f"tap_{name}_{tap}", f"n_tap_{name}_{tap}") for tap in range(levels)]
        lines += [
            *string_dac(name, "vdd", f"w_{name}", on),
            discharge_transistor(t, name, f"w_{name}", f"discharge_{array}"),
            f"Cw_{name} w_{name} 0 {number(size * WireElement().capacitance)}",
        ]
    return lines


def _converters(array: str, readout: Readout, size: int, longest: Second, vdd: float) -> list[str]:
    """Ramp and converters: o_<array>_<line>, with phi_<line> or with pulse_<line> and negative_<line>."""
    window, ramp, rest = f"win_{array}", f"ramp_{array}", f"rest_{array}"
    unit = number(1 / vdd)
    slope = readout.full_swing / longest
    inner = [line for line in column_lines(readout, 0, "bl0", vdd / 2, vdd) if not line.startswith(".ic")]
    found = [
        f".subckt convert_{array} bl0 o0 p0 s0 ref ramp win samp rest one",
        *inner,
        "Srest bl0 o0 rest 0 reset",
        ".ends",
        f"E{window} {window} 0 {CONVERT[array]} 0 {unit}",
        f"B{rest} {rest} 0 V=1-v({HOLD[array]})*{unit}",
        f"E_samp_{array} samp_{array} 0 value_read 0 {unit}",
        f"G{ramp} 0 {ramp} {window} 0 {number(slope * 1e-12)}",
        f"C{ramp} {ramp} 0 1e-12",
        f"S{ramp} {ramp} 0 one {window} reset",
    ]
    for line in range(size):
        own = window
        if array == "key":
            own = f"{window}_{line}"
            found.append(f"B{own} {own} 0 V=v({window})*v(valid_{line})*{unit}")
        pulse, sign = (f"phi_{line}", "0") if array == "key" else (f"pulse_{line}", f"positive_{line}")
        found += [
            f"Xo_{array}_{line} bl_{array}_{line} o_{array}_{line} {pulse} {sign} ref {ramp} {own} "
            f"samp_{array} {rest} one convert_{array}",
            f".ic v(o_{array}_{line})={number(vdd / 2)} v(bl_{array}_{line})={number(vdd / 2)}",
        ]
        if array == "value":
            found.append(f"Bnegative_{line} negative_{line} 0 V={number(vdd)}-v(positive_{line})")
    return found
