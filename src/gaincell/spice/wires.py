"""Error against the number of cells on a line and the resistance of the wire, bit line and word line apart.

Bit line, DC: all n cells conduct as they do at the highest stored voltage, the far end of the line sags:

    error = (sum of the currents of the line - n I(V_max)) / (n I(V_max))

Word line, transient: the cell at the far end of n cells answers a pulse; its charge is compared with that of
the nearest cell. A delay of both edges alike costs no charge; what is lost is the rounding of short pulses.

In operation currents of both signs cancel along the line; see operation.py. The worst case is far outside of
the converter's range, and so a bound: `overload` says how far.

From the bit line the first-order model of devices/wires.py is calibrated: the `drop` for which its weights
lose what the circuit loses, sum_m (1 - w_m) / n = -error; nan: no drop below 1 does.

Not modelled: rows and columns disturbing one another, resistance of the supplies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gaincell.chips.design import Design
from gaincell.devices.wires import weights
from gaincell.progress import StageProgress, silent_stages
from gaincell.results.spice import BitLine, WiresResult, WordLine
from gaincell.spice.netlists.array import GATE_LOAD, WireElement, driver_subcircuit, word_line
from gaincell.spice.netlists.cell import cell_subcircuit, write_levels
from gaincell.spice.netlists.netlist import ARRAY_OPTIONS, Netlist, netlist, number
from gaincell.spice.operation import POINTS, in_operation
from gaincell.spice.result import corner_of, head
from gaincell.spice.runner import run_many
from gaincell.spice.technology import Corner, Technology
from gaincell.units import Second

SIZES = (16, 32, 64, 128, 256, 512)
BIT_RESISTANCES = (1.0, 3.0, 10.0, 30.0, 100.0)
WORD_RESISTANCES = (1.0, 10.0, 100.0)
WORD_CAPACITANCES = (0.2e-15, 1e-15)
SHORT = 1e-9


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
    command: Sequence[str] = (),
    *,
    corner: Corner | None = None,
    most: int = 512,
    jobs: int | None = None,
    stages: StageProgress = silent_stages,
) -> WiresResult:
    """Both lines over sizes up to `most`, resistance and capacitance.

    command: the command line, for the provenance.

    Raises SimulationError.
    """
    corner = corner or Corner()
    sizes = [n for n in SIZES if n <= most]
    bit_line, current, conductance = bit_lines(technology, corner, sizes, jobs, stages)
    word_line = word_lines(technology, corner, sizes, design.t_pulse_max, jobs, stages)
    operating = in_operation(technology, design, corner, jobs=jobs, stages=stages)
    tolerance = 0.5 / (design.counter_levels - 1)
    limits = {"bit line": _limit([(p.resistance, p.error) for p in bit_line if p.cells == 64], tolerance)}
    for c in WORD_CAPACITANCES:
        line = [p for p in word_line if p.cells == 64 and p.capacitance == c]
        for words, errors in (
            ("1 ns pulse", [(p.resistance, p.error) for p in line]),
            ("longest pulse", [(p.resistance, p.long_error) for p in line]),
        ):
            limits[f"word line, {c * 1e15:g} fF, {words}"] = _limit(errors, tolerance)
    for array in ("first", "second"):
        points = [p for p in operating if p.array == array and p.capacitance == POINTS[0][1]]
        for words, changes in (("rms", [p.rms for p in points]), ("largest", [p.largest for p in points])):
            share = [change / design.t_pulse_max for change in changes]
            pairs = list(zip((p.resistance for p in points), share, strict=True))
            limits[f"in operation, {array} dot product, {words}"] = _limit(pairs, tolerance)
    full = 64 * current * design.t_pulse_max / (design.score_saturation(64) * design.charge_unit)
    return WiresResult(
        **head("wires", technology, command, design),
        corner=corner_of(corner, technology),
        bit_line=tuple(bit_line),
        word_line=tuple(word_line),
        in_operation=tuple(operating),
        conductance=conductance,
        tolerance=tolerance,
        full_scale=design.t_pulse_max,
        overload=full,
        limits=limits,
    )


def bit_lines(
    technology: Technology, corner: Corner, sizes: Sequence[int], jobs: int | None, stages: StageProgress
) -> tuple[list[BitLine], float, float]:
    """Lines of `sizes` cells; current, A, and output conductance, S, of one cell at V_max."""
    points = [(n, r) for r in BIT_RESISTANCES for n in sizes]
    benches = [bit_line_bench(technology, corner, 1, 1e-6)]
    benches += [bit_line_bench(technology, corner, n, r) for n, r in points]
    currents = [-s.plot["i(vsense)"] for s in run_many(benches, jobs=jobs, progress=stages("bit lines"))]
    single, conductance = float(currents[0][0]), float((currents[0][2] - currents[0][0]) / 2e-3)
    found = []
    for (n, r), current in zip(points, currents[1:], strict=True):
        error = float(current[0]) / (n * single) - 1
        lost = float((1 - weights(1e-3, n)).mean()) / 1e-3
        drop = -error / lost if 0 <= -error / lost < 1 else float("nan")
        found.append(BitLine(n, r, error, drop, -conductance * r * n * (n + 1) / 2 * lost))
    return found, single, conductance


def word_lines(
    technology: Technology,
    corner: Corner,
    sizes: Sequence[int],
    longest: Second,
    jobs: int | None,
    stages: StageProgress,
) -> list[WordLine]:
    """Lines of `sizes` cells over resistance and capacitance."""
    points = [(n, r, c) for c in WORD_CAPACITANCES for r in WORD_RESISTANCES for n in sizes]
    benches = [
        word_line_bench(technology, corner, n, WireElement(r, c), width)
        for n, r, c in points
        for width in (SHORT, longest)
    ]
    plots = [s.plot for s in run_many(benches, jobs=jobs, progress=stages("word lines"))]
    ratios = [
        float(np.trapezoid(p["i(vb1)"], p["time"]) / np.trapezoid(p["i(vb0)"], p["time"])) - 1 for p in plots
    ]
    return [WordLine(*point, ratios[2 * k], ratios[2 * k + 1]) for k, point in enumerate(points)]


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
