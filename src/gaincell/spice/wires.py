"""Error against the number of cells on a line and the resistance of the wire, bit line and word line apart.

Bit line, DC: all n cells conduct as they do at the highest stored voltage, the far end of the line sags:

    error = (sum of the currents of the line - n I(V_max)) / (n I(V_max))

Word line, transient: the cell at the far end of n cells answers a pulse; its charge is compared with that of
the nearest cell. A delay of both edges alike costs no charge; what is lost is the rounding of short pulses.

In operation (random inputs, a few columns of 64 cells) currents of both signs cancel along the line; the
change of the pulses against wires without resistance is far smaller; `drop` is fitted to it by least squares.

From the bit line the first-order model of devices/wires.py is calibrated: the `drop` for which its weights
lose what the circuit loses, sum_m (1 - w_m) / n = -error.

Not modelled: rows and columns disturbing one another, resistance of the supplies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gaincell.design import Design
from gaincell.devices.wires import weights
from gaincell.progress import StageProgress, silent_stages
from gaincell.spice.inputs import random_inputs
from gaincell.spice.netlists.array import GATE_LOAD, WireElement, array_slice, driver_subcircuit, word_line
from gaincell.spice.netlists.cell import cell_subcircuit, write_levels
from gaincell.spice.netlists.netlist import ARRAY_OPTIONS, Netlist, netlist, number
from gaincell.spice.netlists.readout import RELU, Phases, Readout
from gaincell.spice.runner import run_many
from gaincell.spice.technology import Corner, Technology
from gaincell.spice.verify import own_curve

SIZES = (16, 32, 64, 128, 256, 512)
BIT_RESISTANCES = (1.0, 3.0, 10.0, 30.0, 100.0)
WORD_RESISTANCES = (1.0, 10.0, 100.0)
WORD_CAPACITANCE = 0.2e-15
OPERATING_RESISTANCES = (2.0, 10.0, 30.0)
SHORT = 1e-9


@dataclass(frozen=True)
class BitLine:
    """cells: n.  resistance: Ohm per cell.  error: share of the current, below 0 where it is lost.
    drop: calibrated parameter of devices.wires.  first_order: error that G R s_n / ... predicts with the
    conductance of one cell."""

    cells: int
    resistance: float
    error: float
    drop: float
    first_order: float


@dataclass(frozen=True)
class WordLine:
    """error, long_error: of the farthest cell's charge against the nearest one's, 1 ns and longest pulse."""

    cells: int
    resistance: float
    capacitance: float
    error: float
    long_error: float


@dataclass(frozen=True)
class InOperation:
    """resistance: Ohm per cell of bit and word lines.  rms: change of the pulses, s.  drop: fitted.  left:
    rms that the first-order model leaves, s."""

    resistance: float
    rms: float
    drop: float
    left: float


@dataclass(frozen=True)
class WireStudy:
    """conductance: output conductance of a conducting cell at V_max, S.  tolerance: half a counter step.
    limits: name -> resistance at which 64 cells reach the tolerance, Ohm per cell; inf: above the range."""

    technology: Technology
    corner: Corner
    bit_line: Sequence[BitLine]
    word_line: Sequence[WordLine]
    in_operation: Sequence[InOperation]
    conductance: float
    tolerance: float
    limits: Mapping[str, float]


def bit_line_bench(technology: Technology, corner: Corner, cells: int, resistance: float) -> Netlist:
    """Operating point of one bit line whose cells all conduct, stored voltage VDD; i(vsense)."""
    vdd = technology.vdd * corner.supply
    off, _, off_b = write_levels(technology, vdd)
    body = [
        *cell_subcircuit(technology, write_gate=False),
        f"Vdd vdd 0 {number(vdd)}",
        f"Von on 0 {number(vdd)}",
        "Vonb onb 0 0",
        f"Voff off 0 {number(off)}",
        f"Voffb offb 0 {number(off_b)}",
        f"Vst st 0 {number(vdd)}",
        f"Vsense b0 0 {number(vdd / 2)}",
    ]
    for n in range(1, cells + 1):
        body.append(f"R{n} b{n - 1} b{n} {number(max(resistance, 1e-6))}")
        body.append(f"Xc{n} b{n} on onb off off offb st vdd gaincell")
    return netlist(
        f"{technology.name}: bit line of {cells} cells, {resistance:g} Ohm per cell",
        body,
        f".dc Vsense {number(vdd / 2)} {number(vdd / 2 + 2e-3)} 1e-3",
        ["i(vsense)"],
        files=technology.files(corner),
        temperature=corner.temperature,
    )


def word_line_bench(
    technology: Technology, corner: Corner, cells: int, wire: WireElement, width: float
) -> Netlist:
    """One word line: the nearest and the farthest cell at V_max, gate loads between; i(vb0), i(vb1)."""
    vdd = technology.vdd * corner.supply
    off, _, off_b = write_levels(technology, vdd)
    body = [
        *cell_subcircuit(technology, write_gate=False),
        *driver_subcircuit(technology),
        f"Vdd vdd 0 {number(vdd)}",
        f"Vdrive vdrive 0 {number(vdd)}",
        f"Voff off 0 {number(off)}",
        f"Voffb offb 0 {number(off_b)}",
        *word_line(0, width, 1e-9, vdd, cells, wire, 0, 0),
    ]
    for line in ("w", "x"):
        body += [f"Cg{line}{n} {line}0_{n} 0 {number(GATE_LOAD)}" for n in range(1, cells - 1)]
    for k, n in enumerate((0, cells - 1)):
        body += [
            f"Vb{k} b{k} 0 {number(vdd / 2)}",
            f"Xc{k} b{k} w0_{n} x0_{n} off off offb st{k} vdd gaincell",
        ]
        body.append(f".ic v(st{k})={number(vdd)}")
    end = 1e-9 + width + 3e-9 + 2 * cells**2 * wire.resistance * (wire.capacitance + GATE_LOAD)
    return netlist(
        f"{technology.name}: word line of {cells} cells, {wire.resistance:g} Ohm, {width * 1e9:g} ns",
        body,
        f".tran 20p {number(end)} 0 50p",
        ["i(vb0)", "i(vb1)"],
        files=technology.files(corner),
        temperature=corner.temperature,
        options=ARRAY_OPTIONS,
        stop_time=end,
    )


def study(
    technology: Technology,
    design: Design,
    *,
    corner: Corner | None = None,
    most: int = 512,
    jobs: int | None = None,
    stages: StageProgress = silent_stages,
) -> WireStudy:
    """Both lines over sizes up to `most` and resistances. Raises SimulationError."""
    corner = corner or Corner()
    sizes = [n for n in SIZES if n <= most]
    bits = [(n, r) for r in BIT_RESISTANCES for n in sizes]
    benches = [bit_line_bench(technology, corner, 1, 1e-6)]
    benches += [bit_line_bench(technology, corner, n, r) for n, r in bits]
    done = run_many(benches, jobs=jobs, progress=stages("bit lines"))
    currents = [-s.plot["i(vsense)"] for s in done]
    single, conductance = float(currents[0][0]), float((currents[0][2] - currents[0][0]) / 2e-3)
    bit_line = []
    for (n, r), current in zip(bits, currents[1:], strict=True):
        error = float(current[0]) / (n * single) - 1
        lost = float((1 - weights(1e-3, n)).mean()) / 1e-3
        s_n = n * (n + 1) / 2
        bit_line.append(BitLine(n, r, error, -error / lost, -conductance * r * s_n * lost))
    words = [(n, r) for r in WORD_RESISTANCES for n in sizes]
    widths = (SHORT, design.t_pulse_max)
    benches = [
        word_line_bench(technology, corner, n, WireElement(r, WORD_CAPACITANCE), width)
        for n, r in words
        for width in widths
    ]
    plots = [s.plot for s in run_many(benches, jobs=jobs, progress=stages("word lines"))]
    ratios = [
        float(np.trapezoid(p["i(vb1)"], p["time"]) / np.trapezoid(p["i(vb0)"], p["time"])) - 1 for p in plots
    ]
    word_lines = [
        WordLine(n, r, WORD_CAPACITANCE, ratios[2 * k], ratios[2 * k + 1]) for k, (n, r) in enumerate(words)
    ]
    tolerance = 0.5 / (design.counter_levels - 1)
    limits = {
        "bit line": _limit([(p.resistance, p.error) for p in bit_line if p.cells == 64], tolerance),
        "word line, 1 ns pulse": _limit(
            [(p.resistance, p.error) for p in word_lines if p.cells == 64], tolerance
        ),
        "word line, longest pulse": _limit(
            [(p.resistance, p.long_error) for p in word_lines if p.cells == 64], tolerance
        ),
    }
    operating = in_operation(technology, design, corner, jobs, stages)
    return WireStudy(technology, corner, bit_line, word_lines, operating, conductance, tolerance, limits)


def in_operation(
    technology: Technology,
    design: Design,
    corner: Corner,
    jobs: int | None,
    stages: StageProgress,
    columns: int = 4,
) -> list[InOperation]:
    """Columns of the first dot product with random inputs, over the resistance of their wires."""
    inputs, phases = random_inputs(design, 0), Phases(design.t_pulse_max)
    readout = Readout(RELU, design.score_saturation(len(inputs.x)) * design.charge_unit)
    volts = inputs.keys[:, :columns] / ((design.storage_levels or 8) - 1) * technology.vdd * corner.supply
    benches = [
        array_slice(
            technology,
            corner,
            volts.tolist(),
            (inputs.x * phases.longest).tolist(),
            readout,
            bit_wire=WireElement(r, WORD_CAPACITANCE),
            word_wire=WireElement(r, WORD_CAPACITANCE),
        )
        for r in (0.0, *OPERATING_RESISTANCES)
    ]
    plots = [s.plot for s in run_many(benches, jobs=jobs, progress=stages("arrays in operation"))]
    charges = [
        np.array([np.interp(phases.convert, p["time"], p[f"v(o{c})"] - p["v(ref)"]) for c in range(columns)])
        * (phases.longest / readout.full_swing)
        for p in plots
    ]
    curve = own_curve(technology, corner, design)["own"]
    farther = 1 - weights(1e-3, len(inputs.x)).numpy()
    per_drop = -(inputs.x * farther / 1e-3) @ curve(volts)
    per_drop = per_drop * design.charge_unit / readout.full_charge * phases.longest
    found = []
    for r, charge in zip(OPERATING_RESISTANCES, charges[1:], strict=True):
        change = charge - charges[0]
        drop = float(change @ per_drop / (per_drop @ per_drop))
        rms, left = (float(np.sqrt((e**2).mean())) for e in (change, change - drop * per_drop))
        found.append(InOperation(r, rms, drop, left))
    return found


def _limit(points: Sequence[tuple[float, float]], tolerance: float) -> float:
    """Resistance at which |error| reaches the tolerance, by interpolation; inf: beyond the last, or none."""
    if not points:
        return float("inf")
    r, e = np.array(points).T
    e = np.maximum(np.abs(e), 1e-12)
    beyond = np.nonzero(e >= tolerance)[0]
    if len(beyond) == 0:
        return float("inf")
    n = int(beyond[0])
    if n == 0:
        return float(r[0])
    share = np.log(tolerance / e[n - 1]) / np.log(e[n] / e[n - 1])
    return float(np.exp(np.log(r[n - 1]) + share * np.log(r[n] / r[n - 1])))
