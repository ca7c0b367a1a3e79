"""SPICE against the behavioural model: the two dot products of one query on one tile.

    array 1    S_j = sum_d x_d F(k_jd)    -> charge-to-pulse with ReLU, width w_j
    array 2    O_d = sum_j w_j F(v_jd)    -> signed charge-to-pulse, counted to a code

The pulses that the simulated first array gives drive the simulated second one. The model (ops and circuits)
gets the same codes and one of four curves F: the cell's own, charge of a full pulse simulated on a single
cell and interpolated; its least-squares cubic; the best straight line; the
static current times the pulse, which knows neither the kick of a read on the store nor switches' charges.
With fewer than all columns the other pulses of array 2 come from the model, and so do not add to its error.

Every store is at its level, or, with `written`, where a simulated write path leaves it (write_path.py): code
-> DAC -> cell -> current. The model then reads the voltages written; the codes of ideal levels stand beside.

Tolerances are stated before and not adapted; see TOLERANCES. That against the cubic
says how far the curve is from a cubic, over many inputs, and is checked with all columns only.
Not modelled: age, mismatch (all cells nominal), noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gaincell.chips.design import Design
from gaincell.errors import InputError
from gaincell.progress import StageProgress, silent_stages
from gaincell.spice.characterise import LEVELS, read_charge
from gaincell.spice.inputs import Inputs
from gaincell.spice.netlists.array import WireElement, array_slice
from gaincell.spice.netlists.cell import curve_bench
from gaincell.spice.netlists.readout import RELU, SIGNED, Phases, Readout
from gaincell.spice.pulses import decided_width, pulse_width, touched_rail
from gaincell.spice.rawfile import Plot, Wave
from gaincell.spice.runner import run, run_many
from gaincell.spice.technology import Corner, Technology
from gaincell.units import Second

CURVES = ("own", "cubic", "linear", "static")
CUBIC = "first: rms against its cubic"
TOLERANCES: Mapping[str, tuple[float, str]] = {
    "first: rms against the cell's own curve": (0.06e-9, "s"),
    CUBIC: (0.25e-9, "s"),
    "codes that differ": (0.10, "1"),
    "largest difference of a code": (1.0, "codes"),
}
WRITE_TOLERANCES: Mapping[str, tuple[float, str]] = {
    "write: largest error of a stored voltage": (0.5, "steps"),
}
TRANSISTOR_TOLERANCES: Mapping[str, tuple[float, str]] = {
    "first: rms after affine calibration": (0.2e-9, "s"),
}


@dataclass(frozen=True)
class Stage:
    """One array.

    spice: signed pulse widths, s [columns].  model: of every curve of CURVES, s [columns].
    same_pulses: of the own curve, from the pulses that the simulation had, s [columns].
    clipped: columns whose integrator touched a rail.
    energy: by block and phase (read, conversion), J: "cells" of the simulated lines; "drivers" of all word
    lines of the array, once; "readout" of transistors, or "integrators, at least": what ideal
    amplifiers source.
    lines: how many were simulated.
    """

    spice: Wave
    model: Mapping[str, Wave]
    same_pulses: Wave
    clipped: int
    energy: Mapping[str, tuple[float, float]]
    lines: int

    def rms(self, curve: str) -> Second:
        """Of the difference to one curve's model, s."""
        return float(np.sqrt(((self.spice - self.model[curve]) ** 2).mean()))

    def calibration(self, longest: Second) -> Calibration:
        """The best affine map from the own curve's model to the simulation, of the columns in range.

        In range: neither the model nor the simulation at 0 or at the longest pulse. NaN with fewer than 4.
        """
        x, y = self.model["own"], self.spice
        inside = (np.minimum(abs(x), abs(y)) > 0.01 * longest) & (np.maximum(abs(x), abs(y)) < 0.99 * longest)
        x, y = x[inside], y[inside]
        if len(x) < 4:
            return Calibration(*[float("nan")] * 4)
        signed = bool((x < 0).any() and (x > 0).any())
        terms = np.stack([x, np.sign(x), np.ones_like(x)] if signed else [x, np.ones_like(x)], 1)
        found = np.linalg.lstsq(terms, y, rcond=None)[0]
        free = max(len(y) - terms.shape[1], 1)
        left = float(np.sqrt(((y - terms @ found) ** 2).sum() / free))
        up, down = (found[2] + found[1], found[2] - found[1]) if signed else (found[1], found[1])
        return Calibration(float(found[0]), float(up), float(down), left)


@dataclass(frozen=True)
class Calibration:
    """w = gain * model + offset.  offset: s, of positive pulses; negative_offset: of negative ones,
    whose comparator switches the other way.  rms: what is left, by the degrees of freedom left, s."""

    gain: float
    offset: Second
    negative_offset: Second
    rms: Second

    def corrected(self, width: Wave, longest: Second) -> Wave:
        """Widths with the calibration applied, within the longest pulse."""
        offset = np.where(width >= 0, self.offset, self.negative_offset)
        right = np.where(width == 0, 0.0, (width - offset) / self.gain)
        right = np.where(width >= 0, np.maximum(right, 0), np.minimum(right, 0))
        return np.clip(np.where(np.abs(width) >= 0.999 * longest, width, right), -longest, longest)


@dataclass(frozen=True)
class Verification:
    """Both arrays, the codes they end in, and what was allowed.

    driven: pulses that array 2 got, s [tokens].
    codes: of the simulation [D of array 2], of every curve's model; a readout of transistors is calibrated,
    in both arrays, by the affine map found in the same run.
    levels: voltage of every code.  ideal_codes: of the own curve's model with ideal levels.
    checks: name -> (found, allowed, unit).
    """

    inputs: Inputs
    technology: Technology
    corner: Corner
    readout: str
    first: Stage
    second: Stage
    driven: Wave
    codes: Wave
    model_codes: Mapping[str, Wave]
    columns: int
    longest: Second
    levels: Wave
    ideal_codes: Wave
    warnings: tuple[str, ...] = ()
    checks: Mapping[str, tuple[float, float, str]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return all(found <= allowed for found, allowed, _ in self.checks.values())


def own_curve(technology: Technology, corner: Corner, design: Design) -> dict[str, Callable[[Wave], Wave]]:
    """F in charge units over stored voltage in V, for every one of CURVES."""
    from scipy.interpolate import PchipInterpolator

    levels = np.linspace(0, technology.vdd * corner.supply, LEVELS)
    charge = read_charge(technology, corner, levels, design.t_pulse_max)[0] / design.charge_unit
    own = PchipInterpolator(levels, charge)
    cubic, line = (np.polynomial.Polynomial.fit(levels, charge, order) for order in (3, 1))
    dc = run(curve_bench(technology, corner)).plot
    static = PchipInterpolator(dc["v(st)"], -dc["i(vb0)"] * design.t_pulse_max / design.charge_unit)
    return {"own": own, "cubic": cubic, "linear": line, "static": static}


def verify(
    technology: Technology,
    design: Design,
    inputs: Inputs,
    *,
    corner: Corner | None = None,
    columns: int = 8,
    group: int = 4,
    transistor_readout: bool = False,
    written: Wave | None = None,
    wire: WireElement | None = None,
    jobs: int | None = None,
    timeout: Second = 900.0,
    stages: StageProgress = silent_stages,
) -> Verification:
    """Simulate both arrays and compare.

    columns: lines of each array that are simulated.  group: lines in one netlist.
    written: what a write path stores of every code, V; None: ideal levels.

    Raises InputError for columns out of range and designs without circuits, SimulationError for what
    ngspice cannot do.
    """
    check_design(design)
    corner = corner or Corner()
    tokens, dims = inputs.values.shape
    if not 1 <= columns <= min(tokens, dims):
        raise InputError(f"columns = {columns!r} is out of range; allowed: 1 to {min(tokens, dims)}")
    curves = own_curve(technology, corner, design)
    ideal = np.linspace(0, technology.vdd * corner.supply, design.storage_levels or 8)
    levels = ideal if written is None else written
    bench = _Bench(
        technology, design, inputs, corner, levels, columns, group, transistor_readout, wire, jobs, timeout,
        stages,
    )  # fmt: skip
    longest = bench.phases.longest
    models = {name: bench.chained(curve, levels) for name, curve in curves.items()}
    model1, model2 = ({name: pair[n] for name, pair in models.items()} for n in (0, 1))
    pulses = inputs.x * longest
    found1 = bench.simulate(inputs.keys, pulses, RELU, tokens, "first dot product")
    first = bench.stage(found1, model1, model1["own"], RELU)
    driven = model1["own"].copy()
    driven[:columns] = bench.calibrated(first)
    same = bench.to_pulse(driven @ curves["own"](levels[inputs.values]) / longest, SIGNED)
    high = np.clip(driven, 0, None)
    found2 = bench.simulate(inputs.values, high, SIGNED, dims, "second dot product")
    second = bench.stage(found2, model2, same, SIGNED)
    codes = count(bench.calibrated(second), design)
    model_codes = {name: count(model2[name][:columns], design) for name in curves}
    off = np.abs(codes - model_codes["own"])
    measured = {
        "first: rms against the cell's own curve": first.rms("own"),
        CUBIC: first.rms("cubic"),
        "codes that differ": float((off > 0).mean()),
        "largest difference of a code": float(off.max()),
        "first: rms after affine calibration": first.calibration(longest).rms,
        "write: largest error of a stored voltage": float(np.abs(levels - ideal).max() / ideal[1]),
    }
    allowed = dict(TRANSISTOR_TOLERANCES if transistor_readout else TOLERANCES)
    allowed |= {} if written is None else WRITE_TOLERANCES
    if columns < dims:
        allowed.pop(CUBIC, None)
    return Verification(
        inputs, technology, corner, "transistor" if transistor_readout else "behavioural", first, second,
        driven, codes, model_codes, columns, longest, levels,
        count(bench.chained(curves["own"], ideal)[1][:columns], design),
        tuple(dict.fromkeys(found1.warnings + found2.warnings)),
        {name: (measured[name], limit, unit) for name, (limit, unit) in allowed.items()},
    )  # fmt: skip


class _Simulated(NamedTuple):
    """One array: signed pulse widths of its lines, s; the waves of every netlist; what ngspice warned of."""

    widths: Wave
    plots: list[Plot]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Bench:
    """What both arrays share: their circuits, what is stored and read, and how they are simulated."""

    technology: Technology
    design: Design
    inputs: Inputs
    corner: Corner
    levels: Wave
    columns: int
    group: int
    transistors: bool
    wire: WireElement | None
    jobs: int | None
    timeout: Second
    stages: StageProgress

    @property
    def phases(self) -> Phases:
        return Phases(self.design.t_pulse_max)

    @property
    def vdd(self) -> float:
        return self.technology.vdd * self.corner.supply

    def readout(self, kind: str) -> Readout:
        """That of one array."""
        dims = self.inputs.values.shape[1]
        saturation = self.design.score_saturation(dims) if kind == RELU else self.design.output_saturation
        return Readout(kind, saturation * self.design.charge_unit)

    def simulate(self, codes: Wave, pulses: Wave, kind: str, all_lines: int, title: str) -> _Simulated:
        """Some lines of an array, in netlists of a group each."""
        readout, phases = self.readout(kind), self.phases
        starts = range(0, self.columns, self.group)
        spans = [(a, min(a + self.group, self.columns)) for a in starts]
        slices = [
            array_slice(
                self.technology, self.corner, self.levels[codes[:, a:b]].tolist(), pulses.tolist(), readout,
                phases=phases, word_wire=self.wire, bit_wire=self.wire, before=a, columns=all_lines,
                transistor_readout=self.transistors,
            )
            for a, b in spans
        ]  # fmt: skip
        done = run_many(slices, jobs=self.jobs, timeout=self.timeout, progress=self.stages(title))
        widths = [
            _transistor_width(simulation.plot, c, kind, phases, self.vdd)
            if self.transistors
            else decided_width(simulation.plot, c, readout, phases)
            for (a, b), simulation in zip(spans, done, strict=True)
            for c in range(b - a)
        ]
        warnings = tuple(dict.fromkeys(w for s in done for w in s.warnings))
        return _Simulated(np.array(widths), [s.plot for s in done], warnings)

    def to_pulse(self, charge: Wave, kind: str) -> Wave:
        """Pulse widths, s, of charges in charge units."""
        share = charge * self.design.charge_unit / self.readout(kind).full_charge
        return np.clip(share, 0.0 if kind == RELU else -1.0, 1.0) * self.phases.longest

    def chained(self, curve: Callable[[Wave], Wave], volts: Wave) -> tuple[Wave, Wave]:
        """What the model says of both arrays with one curve."""
        longest = self.phases.longest
        pulses = self.inputs.x * longest
        first = self.to_pulse(pulses @ curve(volts[self.inputs.keys]) / longest, RELU)
        return first, self.to_pulse(first @ curve(volts[self.inputs.values]) / longest, SIGNED)

    def calibrated(self, stage: Stage) -> Wave:
        """Its pulses: of a readout of transistors with the affine map found in the same run."""
        fit = stage.calibration(self.phases.longest)
        right = self.transistors and fit.gain > 0
        return fit.corrected(stage.spice, self.phases.longest) if right else stage.spice

    def stage(self, found: _Simulated, model: Mapping[str, Wave], same: Wave, kind: str) -> Stage:
        """An array beside its model, of the lines that are simulated."""
        plots, readout, vdd, n = found.plots, self.readout(kind), self.vdd, self.columns
        energy: dict[str, tuple[float, float]] = {}
        sources = {"cells": "i(vcell)", "drivers": "i(vdrive)", "readout": "i(vread)"}
        for name, source in sources.items():
            if source in plots[0].waves:
                parts = [supplied(plot, source, self.phases, vdd) for plot in plots]
                # every slice drives whole word lines, so drivers count once
                share = 1 / len(plots) if name == "drivers" else 1.0
                energy[name] = (share * sum(p[0] for p in parts), share * sum(p[1] for p in parts))
        places = [(plot, int(key[4:-1])) for plot in plots for key in plot.waves if key.startswith("v(bl")]
        if "readout" not in energy:
            drawn = [_integrator_charge(plot, c, readout) * vdd for plot, c in places]
            energy["integrators, at least"] = (float(np.sum(drawn)), 0.0)
        clipped = sum(touched_rail(plot, c, readout, vdd) for plot, c in places)
        return Stage(found.widths, {k: v[:n] for k, v in model.items()}, same[:n], clipped, energy, n)


def check_design(design: Design) -> None:
    """Raise InputError for a design whose read is not that of the circuits."""
    said = {
        "queries with signs ([drivers] phases = 2)": design.drivers.signed,
        "a normalising column ([normaliser])": design.normaliser.present,
        f"a converter law with exponent {design.charge_to_pulse.exponent:g}": design.charge_to_pulse.exponent
        != 1,
        f"readout = {design.readout!r}": design.readout != "counter",
        "levels that are not evenly spaced ([levels])": design.levels.present,
    }
    found = [words for words, present in said.items() if present]
    if found:
        raise InputError(
            f"design {design.name}: it has {', '.join(found)}; circuits are simulated for unsigned queries, "
            "no normalising column, exponent 1, readout = 'counter' and even levels; give a design with "
            "these, leroux2025 for instance"
        )


def count(width: Wave, design: Design) -> Wave:
    """Codes of a counter that starts half a clock early: sign * floor(|w| / T_max * (L - 1) + 1/2)."""
    steps = design.counter_levels - 1
    return np.sign(width) * np.floor(np.abs(width) / design.t_pulse_max * steps + 0.5)


def _transistor_width(plot: Plot, column: int, kind: str, phases: Phases, vdd: float) -> Second:
    width = pulse_width(plot["time"], plot[f"v(p{column})"], vdd)
    if kind == SIGNED and float(np.interp(phases.convert, plot["time"], plot[f"v(s{column})"])) < vdd / 2:
        width = -width
    return width


def _integrator_charge(plot: Plot, column: int, readout: Readout) -> float:
    """Charge that the amplifier of a behavioural integrator must take from the supply, C: that it sources."""
    rises = np.diff(plot[f"v(o{column})"] - plot[f"v(bl{column})"])
    return float(rises[rises > 0].sum()) * readout.capacitance


def supplied(plot: Plot, source: str, phases: Phases, vdd: float) -> tuple[float, float]:
    """Energy that a supply of vdd gives before and after the conversion begins, J."""
    t, power = plot["time"], -plot[source] * vdd
    total = np.concatenate(([0.0], np.cumsum(np.diff(t) * (power[1:] + power[:-1]) / 2)))
    middle = float(np.interp(phases.convert, t, total))
    return middle, float(total[-1]) - middle
