"""An array in operation: what wires change in its charges, over their resistance and capacitance.

Both dot products with random inputs; columns spread evenly over the array, since a few neighbours may have
small charges. The charge of every column, before ReLU and saturation, as the pulse width it stands for,

    w = T_max (V_o - V_ref) / V_fs  at tc,       change = w(R, C) - w(0, 0)

`noise` is the rms by which w(0, 0) changes with the finer time steps of netlist.OPTIONS. Where the change is
above three times that, `drop` of the first-order model of devices/wires.py is fitted to it by least squares.
A column whose integrator touched a rail is left out. The columns that are not simulated are lumped on the
word lines, half before, half after those that are. Not modelled: as in wires.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gaincell.chips.design import Design
from gaincell.devices.wires import weights
from gaincell.progress import StageProgress, silent_stages
from gaincell.results.spice import InOperation
from gaincell.spice.inputs import random_inputs
from gaincell.spice.netlists.array import WireElement, array_slice
from gaincell.spice.netlists.netlist import ARRAY_OPTIONS, OPTIONS, Netlist
from gaincell.spice.netlists.readout import RELU, SIGNED, Phases, Readout
from gaincell.spice.pulses import touched_rail
from gaincell.spice.rawfile import Plot, Wave
from gaincell.spice.runner import run_many
from gaincell.spice.technology import Corner, Technology
from gaincell.spice.verify import own_curve
from gaincell.units import Farad, Ohm, Second

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


@dataclass(frozen=True)
class _Array:
    """One dot product. columns: of the whole array.  volts: stored [rows, simulated columns].  pulses: s
    [rows].  per_drop: change of the charges for a drop of 1, to first order, s [simulated columns]."""

    name: str
    columns: int
    volts: Wave
    pulses: Wave
    readout: Readout
    per_drop: Wave


def in_operation(
    technology: Technology,
    design: Design,
    corner: Corner,
    *,
    first: Sequence[tuple[Ohm, Farad]] = POINTS,
    second: Sequence[tuple[Ohm, Farad]] = SECOND_POINTS,
    columns: int = COLUMNS,
    jobs: int | None = None,
    stages: StageProgress = silent_stages,
) -> list[InOperation]:
    """Both dot products over wires.

    first, second: resistance and capacitance of every point.  columns: at least how many, evenly spread.

    Raises SimulationError.
    """
    phases = Phases(design.t_pulse_max)
    found = []
    arrays = _arrays(technology, design, corner, columns, phases)
    for array, points in zip(arrays, (first, second), strict=True):
        if not points:
            continue
        benches = [_bench(technology, corner, array, phases, wire) for wire in ((0.0, 0.0), *points)]
        finer = replace(benches[0], text=benches[0].text.replace(ARRAY_OPTIONS, OPTIONS))
        benches.insert(1, finer)
        progress = stages(f"arrays in operation, {array.name} dot product")
        plots = [s.plot for s in run_many(benches, jobs=jobs, progress=progress)]
        vdd = technology.vdd * corner.supply
        charges = [_charges(plot, array, phases, vdd) for plot in plots]
        noise = _rms(charges[1] - charges[0])
        for point, charge in zip(points, charges[2:], strict=True):
            found.append(_compare(array, *point, charge - charges[0], noise))
    return found


def _arrays(
    technology: Technology, design: Design, corner: Corner, columns: int, phases: Phases
) -> tuple[_Array, _Array]:
    inputs, curve = random_inputs(design, 0), own_curve(technology, corner, design)["own"]
    dims = inputs.values.shape[1]
    volts = technology.vdd * corner.supply / ((design.storage_levels or 8) - 1)
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


def _bench(
    technology: Technology,
    corner: Corner,
    array: _Array,
    phases: Phases,
    wire: tuple[Ohm, Farad],
) -> Netlist:
    """The simulated columns in the middle of the word lines, the other columns lumped before and after."""
    others = array.columns - array.volts.shape[1]
    return array_slice(
        technology,
        corner,
        array.volts.tolist(),
        array.pulses.tolist(),
        array.readout,
        phases=phases,
        bit_wire=WireElement(*wire),
        word_wire=WireElement(*wire),
        before=others // 2,
        columns=array.columns,
    )


def _charges(plot: Plot, array: _Array, phases: Phases, vdd: float) -> Wave:
    """As pulse widths, s [columns]; nan: clipped."""
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
    change, per_drop = change[inside], array.per_drop[inside]
    rms, largest = _rms(change), float(np.abs(change).max())
    drop = float(change @ per_drop / (per_drop @ per_drop))
    left = _rms(change - drop * per_drop)
    if rms < ABOVE_NOISE * noise or not 0 <= drop < 1:
        drop = left = float("nan")
    return InOperation(
        array.name, resistance, capacitance, rms, largest, drop, left, noise, int(inside.sum())
    )
