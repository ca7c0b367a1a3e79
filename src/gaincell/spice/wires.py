"""Error against the number of cells on a line and the resistance of the wire, bit line and word line apart.

Bit line, DC: all n cells conduct as they do at the highest stored voltage, the far end of the line sags:

    error = (sum of the currents of the line - n I(V_max)) / (n I(V_max))

Word line, transient: the cell at the far end of n cells answers a pulse; its charge is compared with that of
the nearest cell. A delay of both edges alike costs no charge; what is lost is the rounding of short pulses.

The worst case is far outside of the converter's range, and so a bound: `overload` says how far. From the bit
line the first-order model of devices/wires.py is calibrated: the `drop` for which its weights lose what the
circuit loses, sum_m (1 - w_m) / n = -error; nan: no drop below 1 does.

In operation, where currents of both signs cancel along the line: both dot products with random inputs. The
charge of every column, before ReLU and saturation, as the pulse width it stands for,

    w = T_max (V_o - V_ref) / V_fs  at tc,       change = w(R, C) - w(0, 0)

The columns are spread evenly over the array, since a few neighbours may have small charges; those that are
not simulated are lumped on the word lines, half before, half after those that are. A column whose integrator
touched a rail is left out. `noise` is the rms by which w(0, 0) changes with the finer time steps of
netlist.OPTIONS. Where the change is above three times that, `drop` is fitted to it by least squares.

Not modelled: rows and columns disturbing one another, resistance of the supplies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gaincell.chips.design import Design
from gaincell.devices.wires import weights
from gaincell.errors import InputError, SimulationError
from gaincell.progress import StageProgress, silent_stages
from gaincell.results.spice import BitLine, InOperation, WiresResult, WordLine
from gaincell.spice.designs import check_design
from gaincell.spice.inputs import random_inputs
from gaincell.spice.netlists.array import GATE_LOAD, WireElement, array_slice, driver_subcircuit, word_line
from gaincell.spice.netlists.cell import cell_subcircuit
from gaincell.spice.netlists.netlist import ARRAY_OPTIONS, OPTIONS, Netlist, bench, number, sources
from gaincell.spice.netlists.readout import RELU, SIGNED, Phases, Readout
from gaincell.spice.pulses import touched_rail
from gaincell.spice.rawfile import Plot, Wave
from gaincell.spice.result import corner_of, head
from gaincell.spice.runner import run_many
from gaincell.spice.technology import Corner, Site, Technology
from gaincell.spice.verify import own_curve
from gaincell.units import Farad, Ohm, Second

SIZES = (16, 32, 64, 128, 256, 512)
BIT_RESISTANCES = (1.0, 3.0, 10.0, 30.0, 100.0)
WORD_RESISTANCES = (1.0, 10.0, 100.0)
WORD_CAPACITANCES = (0.2e-15, 1e-15)
CELLS = 64
"""On every line in operation, and on those whose limits are found."""
SHORT = 1e-9
POINTS: Sequence[tuple[Ohm, Farad]] = (
    *((r, 0.2e-15) for r in (2.0, 10.0, 30.0, 100.0)),
    (2.0, 1e-15),
    (2.0, 4e-15),
    (30.0, 1e-15),
)
"""Resistance and capacitance of a wire per cell, of bit and word lines alike."""
SECOND_POINTS = POINTS[1:4]
COLUMNS = 16
ABOVE_NOISE = 3.0


def bit_line_bench(site: Site, cells: int, resistance: float) -> Netlist:
    """Operating point of one bit line whose cells all conduct, stored voltage VDD; i(vsense)."""
    vdd, (off, _, off_b) = site.vdd, site.write_levels
    body = [
        *cell_subcircuit(site.technology, write_gate=False),
        *sources({"dd vdd": vdd, "on on": vdd, "onb onb": 0, "off off": off, "offb offb": off_b}),
        *sources({"st st": vdd, "sense b0": vdd / 2}),
    ]
    for n in range(1, cells + 1):
        body.append(f"R{n} b{n - 1} b{n} {number(max(resistance, 1e-6))}")
        body.append(f"Xc{n} b{n} on onb off off offb st vdd gaincell")
    title = f"bit line of {cells} cells, {resistance:g} Ohm per cell"
    dc = f".dc Vsense {number(vdd / 2)} {number(vdd / 2 + 2e-3)} 1e-3"
    return bench(site, title, body, ["i(vsense)"], dc=dc)


def word_line_bench(site: Site, cells: int, wire: WireElement, width: float) -> Netlist:
    """One word line: the nearest and the farthest cell at V_max, gate loads between; i(vb0), i(vb1)."""
    vdd, (off, _, off_b) = site.vdd, site.write_levels
    body = [
        *cell_subcircuit(site.technology, write_gate=False),
        *driver_subcircuit(site.technology),
        *sources({"dd vdd": vdd, "drive vdrive": vdd, "off off": off, "offb offb": off_b}),
        *word_line(0, width, 1e-9, vdd, cells, wire, 0, 0),
    ]
    for line in ("w", "x"):
        body += [f"Cg{line}{n} {line}0_{n} 0 {number(GATE_LOAD)}" for n in range(1, cells - 1)]
    for k, n in enumerate((0, cells - 1)):
        body += [
            f"Vb{k} b{k} 0 {number(vdd / 2)}",
            f"Xc{k} b{k} w0_{n} x0_{n} off off offb st{k} vdd gaincell",
            f".ic v(st{k})={number(vdd)}",
        ]
    end = 1e-9 + width + 3e-9 + 2 * cells**2 * wire.resistance * (wire.capacitance + GATE_LOAD)
    title = f"word line of {cells} cells, {wire.resistance:g} Ohm, {width * 1e9:g} ns"
    saved = ["i(vb0)", "i(vb1)"]
    return bench(site, title, body, saved, stop=end, options=ARRAY_OPTIONS)


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

    Args:
        technology: The process.
        design: The chip.
        command: The command line, for the provenance.
        corner: Where the circuit operates.
        most: Largest size.
        jobs: Simulations at once; None: one a core.
        stages: Called as the work goes on.

    Raises:
        InputError: a design without these circuits or of other sub-tiles than `CELLS`.
        SimulationError: ngspice failed.
    """
    check_design(design, technology)
    if design.tile != CELLS:
        raise InputError(
            f"design {design.name!r} has sub-tiles of {design.tile} columns; wires are simulated in arrays "
            f"of {CELLS} x {CELLS} cells: give a design with tile = {CELLS}"
        )
    site = Site(technology, corner or Corner())
    sizes = [n for n in SIZES if n <= most]
    bit_line, current, conductance = bit_lines(site, sizes, jobs, stages)
    word_line = word_lines(site, sizes, design.t_pulse_max, jobs, stages)
    operating = in_operation(site, design, jobs=jobs, stages=stages)
    tolerance = 0.5 / (design.counter_levels - 1)
    errors = {"bit line": [(p.resistance, p.error) for p in bit_line if p.cells == CELLS]}
    for c in WORD_CAPACITANCES:
        line = [p for p in word_line if p.cells == CELLS and p.capacitance == c]
        errors[f"word line, {c * 1e15:g} fF, 1 ns pulse"] = [(p.resistance, p.error) for p in line]
        errors[f"word line, {c * 1e15:g} fF, longest pulse"] = [(p.resistance, p.long_error) for p in line]
    for array in ("first", "second"):
        points = [p for p in operating if p.array == array and p.capacitance == POINTS[0][1]]
        for words in ("rms", "largest"):
            errors[f"in operation, {array} dot product, {words}"] = [
                (p.resistance, getattr(p, words) / design.t_pulse_max) for p in points
            ]
    full = CELLS * current * design.t_pulse_max / (design.score_saturation(CELLS) * design.charge_unit)
    return WiresResult(
        **head(technology, command, design),
        corner=corner_of(site),
        bit_line=tuple(bit_line),
        word_line=tuple(word_line),
        in_operation=tuple(operating),
        conductance=conductance,
        tolerance=tolerance,
        full_scale=design.t_pulse_max,
        overload=full,
        limits={name: _limit(points, tolerance) for name, points in errors.items() if points},
    )


def bit_lines(
    site: Site, sizes: Sequence[int], jobs: int | None, stages: StageProgress
) -> tuple[list[BitLine], float, float]:
    """Lines of `sizes` cells; current, A, and output conductance, S, of one cell at V_max."""
    points = [(n, r) for r in BIT_RESISTANCES for n in sizes]
    benches = [bit_line_bench(site, 1, 1e-6)]
    benches += [bit_line_bench(site, n, r) for n, r in points]
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
    site: Site, sizes: Sequence[int], longest: Second, jobs: int | None, stages: StageProgress
) -> list[WordLine]:
    """Lines of `sizes` cells over resistance and capacitance."""
    points = [(n, r, c) for c in WORD_CAPACITANCES for r in WORD_RESISTANCES for n in sizes]
    benches = [
        word_line_bench(site, n, WireElement(r, c), width) for n, r, c in points for width in (SHORT, longest)
    ]
    plots = [s.plot for s in run_many(benches, jobs=jobs, progress=stages("word lines"))]
    ratios = [
        float(np.trapezoid(p["i(vb1)"], p["time"]) / np.trapezoid(p["i(vb0)"], p["time"])) - 1 for p in plots
    ]
    return [WordLine(*point, ratios[2 * k], ratios[2 * k + 1]) for k, point in enumerate(points)]


@dataclass(frozen=True)
class _Array:
    """One dot product.

    Attributes:
        columns: Of the whole array.
        volts: Stored [rows, simulated columns].
        pulses: Width of the pulses, s [rows].
        per_drop: Change of the charges for a drop of 1, to first order, s [simulated columns].
    """

    name: str
    columns: int
    volts: Wave
    pulses: Wave
    readout: Readout
    per_drop: Wave


def in_operation(
    site: Site,
    design: Design,
    *,
    first: Sequence[tuple[Ohm, Farad]] = POINTS,
    second: Sequence[tuple[Ohm, Farad]] = SECOND_POINTS,
    columns: int = COLUMNS,
    jobs: int | None = None,
    stages: StageProgress = silent_stages,
) -> list[InOperation]:
    """Both dot products over wires.

    Args:
        site: Technology in a corner.
        design: The chip.
        first: Resistance and capacitance of every point of the first dot product.
        second: Likewise of the second.
        columns: At least how many, evenly spread.
        jobs: Simulations at once; None: one a core.
        stages: Called as the work goes on.

    Raises:
        SimulationError: ngspice failed.
    """
    phases, vdd = Phases(design.t_pulse_max), site.vdd
    found = []
    arrays = _arrays(site, design, columns, phases)
    for array, points in zip(arrays, (first, second), strict=True):
        if not points:
            continue
        others = array.columns - array.volts.shape[1]  # lumped, half before and half after those simulated
        benches = [
            array_slice(
                site, array.volts.tolist(), array.pulses.tolist(), array.readout, phases=phases,
                bit_wire=wire, word_wire=wire, before=others // 2, columns=array.columns,
            )
            for wire in (WireElement(*point) for point in ((0.0, 0.0), *points))
        ]  # fmt: skip
        finer = replace(benches[0], text=benches[0].text.replace(ARRAY_OPTIONS, OPTIONS))
        benches.insert(1, finer)
        progress = stages(f"arrays in operation, {array.name} dot product")
        done = run_many(benches, jobs=jobs, progress=progress)
        ideal, finer_ideal, *charges = (_widths(s.plot, array, phases, vdd) for s in done)
        noise = _rms(finer_ideal - ideal)
        for point, charge in zip(points, charges, strict=True):
            found.append(_compare(array, *point, charge - ideal, noise))
    return found


def _arrays(site: Site, design: Design, columns: int, phases: Phases) -> tuple[_Array, _Array]:
    inputs, curve = random_inputs(design, 0), own_curve(site, design)["own"]
    dims = inputs.values.shape[1]
    volts = site.vdd / ((design.storage_levels or 8) - 1)
    pulses = inputs.x * phases.longest
    scores = Readout(RELU, design.score_saturation(dims) * design.charge_unit)
    charge = inputs.x @ curve(inputs.keys * volts) * design.charge_unit / scores.full_charge
    driven = np.clip(charge, 0, 1) * phases.longest
    outputs = Readout(SIGNED, design.output_saturation * design.charge_unit)

    def array(name: str, codes: Wave, width: Wave, readout: Readout) -> _Array:
        stored = codes[:, :: max(codes.shape[1] // columns, 1)] * volts
        farther = (1 - weights(1e-3, len(width)).numpy()) / 1e-3
        per_drop = -(width * farther) @ curve(stored) * design.charge_unit / readout.full_charge
        return _Array(name, codes.shape[1], stored, width, readout, per_drop)

    return array("first", inputs.keys, pulses, scores), array("second", inputs.values, driven, outputs)


def _widths(plot: Plot, array: _Array, phases: Phases, vdd: float) -> Wave:
    """That the charges stand for, s [columns]; nan: clipped."""
    found = []
    for c in range(array.volts.shape[1]):
        at = float(np.interp(phases.convert, plot["time"], plot[f"v(o{c})"] - plot["v(ref)"]))
        clipped = touched_rail(plot, c, array.readout, vdd)
        found.append(float("nan") if clipped else at * phases.longest / array.readout.full_swing)
    return np.array(found)


def _rms(change: Wave) -> float:
    return float(np.sqrt(np.nanmean(change**2)))


def _compare(array: _Array, resistance: Ohm, capacitance: Farad, change: Wave, noise: Second) -> InOperation:
    inside = np.isfinite(change)
    if not inside.any():
        raise SimulationError(
            f"{array.name} dot product, {resistance:g} ohm per cell: every column clips at a rail; give a "
            "design with larger score_saturation_per_row and output_saturation_per_column"
        )
    change, per_drop = change[inside], array.per_drop[inside]
    rms, largest = _rms(change), float(np.abs(change).max())
    drop = float(change @ per_drop / (per_drop @ per_drop))
    left = _rms(change - drop * per_drop)
    if rms < ABOVE_NOISE * noise or not 0 <= drop < 1:
        drop = left = float("nan")
    return InOperation(
        array.name, resistance, capacitance, rms, largest, drop, left, noise, int(inside.sum())
    )


def _limit(points: Sequence[tuple[float, float]], tolerance: float) -> float:
    """Resistance at which |error| reaches the tolerance, by interpolation; 0: below the first, inf: beyond
    the last.
    """
    r, e = np.array(points).T
    e = np.maximum(np.abs(e), 1e-12)
    beyond = np.nonzero(e >= tolerance)[0]
    if len(beyond) == 0:
        return float("inf")
    n = int(beyond[0])
    if n == 0:
        return 0.0
    share = np.log(tolerance / e[n - 1]) / np.log(e[n] / e[n - 1])
    return float(np.exp(np.log(r[n - 1]) + share * np.log(r[n] / r[n - 1])))
