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

Energies are E = VDD * integral of i_VDD dt, by block (cells, word-line drivers, readout) and phase (read,
conversion). They depend on the inputs, whose statistics belong to every number. A head is `tiles` key and
value sub-tiles, all taken to be as active as the simulated one. A behavioural readout draws no supply; only
the least that its integrators must source is counted.

Tolerances are stated before and not adapted; see TOLERANCES. That against the cubic
says how far the curve is from a cubic, over many inputs, and is checked with all columns of array 1 only.
Not modelled: age, mismatch (all cells nominal), noise; in the energies writes and DACs, counters, adders and
control, leakage between reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gaincell.chips.design import Design
from gaincell.errors import InputError
from gaincell.progress import StageProgress, silent_stages
from gaincell.results.common import Check, Value
from gaincell.results.spice import (
    AffineFit,
    ArrayEnergy,
    EnergyResult,
    EnergyRun,
    ReadEnergy,
    VerifiedArray,
    VerifiedCodes,
    VerifyResult,
)
from gaincell.spice.characterise import LEVELS, read_charge
from gaincell.spice.designs import check_design
from gaincell.spice.inputs import Inputs
from gaincell.spice.netlists.array import WireElement, array_slice
from gaincell.spice.netlists.cell import curve_bench
from gaincell.spice.netlists.readout import RELU, SIGNED, Phases, Readout
from gaincell.spice.pulses import decided_width, sourced, supplied, touched_rail, transistor_width
from gaincell.spice.rawfile import Plot, Wave
from gaincell.spice.result import corner_of, head, plain
from gaincell.spice.runner import run, run_many
from gaincell.spice.technology import Corner, Site, Technology
from gaincell.units import Second

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


class Verified(NamedTuple):
    """What `gaincell spice verify` gives, and the energies of the same simulations."""

    result: VerifyResult
    energy: EnergyRun


def own_curve(site: Site, design: Design) -> dict[str, Callable[[Wave], Wave]]:
    """F in charge units over stored voltage in V, for "own", "cubic", "linear" and "static"."""
    from scipy.interpolate import PchipInterpolator

    levels = np.linspace(0, site.vdd, LEVELS)
    charge = read_charge(site, levels, design.t_pulse_max) / design.charge_unit
    own = PchipInterpolator(levels, charge)
    cubic, line = (np.polynomial.Polynomial.fit(levels, charge, order) for order in (3, 1))
    dc = run(curve_bench(site)).plot
    static = PchipInterpolator(dc["v(st)"], -dc["i(vb0)"] * design.t_pulse_max / design.charge_unit)
    return {"own": own, "cubic": cubic, "linear": line, "static": static}


def verify(
    technology: Technology,
    design: Design,
    inputs: Inputs,
    command: Sequence[str] = (),
    *,
    seed: int = 0,
    corner: Corner | None = None,
    columns: int = 8,
    group: int = 4,
    transistor_readout: bool = False,
    written: Wave | None = None,
    wire: WireElement | None = None,
    jobs: int | None = None,
    timeout: Second = 900.0,
    stages: StageProgress = silent_stages,
) -> Verified:
    """Simulate both arrays and compare.

    `columns` lines of each array are simulated, or all it has, `group` of them in one netlist, which may take
    `timeout` seconds. `written` is what a write path stores of every code, V (None: ideal levels), `wire` is
    that of word and bit lines (None: that of `array_slice`). `command` and `seed` are for the provenance.

    Raises:
        InputError: columns out of range, a design without circuits.
    """
    check_design(design, technology)
    site = Site(technology, corner or Corner())
    tokens, dims = inputs.values.shape
    if not 1 <= columns <= max(tokens, dims):
        raise InputError(f"columns = {columns!r} is out of range; allowed: 1 to {max(tokens, dims)}")
    curves = own_curve(site, design)
    ideal = np.linspace(0, site.vdd, design.storage_levels or 8)
    levels = ideal if written is None else written
    bench = _Bench(
        site, design, inputs, levels, columns, group, transistor_readout, wire, jobs, timeout, stages
    )  # fmt: skip
    longest = bench.phases.longest
    models = {name: bench.chained(curve, levels) for name, curve in curves.items()}
    model1, model2 = ({name: pair[n] for name, pair in models.items()} for n in (0, 1))
    found1 = bench.simulate(inputs.keys, inputs.x * longest, RELU, tokens, "first dot product")
    first = bench.compare(found1, model1, model1["own"], RELU)
    driven = model1["own"].copy()
    driven[:columns] = bench.calibrated(first)
    same = bench.to_pulse(driven @ curves["own"](levels[inputs.values]) / longest, SIGNED)
    found2 = bench.simulate(inputs.values, np.clip(driven, 0, None), SIGNED, dims, "second dot product")
    second = bench.compare(found2, model2, same, SIGNED)
    codes = count(bench.calibrated(second), design)
    model_codes = {name: count(wave[:columns], design) for name, wave in model2.items()}
    ideal_codes = count(bench.chained(curves["own"], ideal)[1][:columns], design)
    off = np.abs(codes - model_codes["own"])
    allowed = dict(TRANSISTOR_TOLERANCES if transistor_readout else TOLERANCES)
    allowed |= {} if written is None else WRITE_TOLERANCES
    if columns < tokens:
        allowed.pop(CUBIC, None)
    written_off = float(np.abs(levels - ideal).max() / ideal[1])
    result = VerifyResult(
        **head(technology, command, design, seed, inputs.origin),
        corner=corner_of(site),
        readout="transistor" if transistor_readout else "behavioural",
        inputs=inputs.name,
        input_statistics=inputs.statistics,
        columns=columns,
        full_scale=longest,
        first=first,
        second=second,
        codes=VerifiedCodes(
            plain(codes),
            **{curve: plain(wave) for curve, wave in model_codes.items()},
            differ=int((off > 0).sum()),
            differ_by_more_than_one=int((off > 1).sum()),
            unlike_ideal_levels=int((codes != ideal_codes).sum()),
        ),
        levels=plain(levels),
        checks=checked(allowed, _measured(first, off, written_off)),
        warnings=tuple(dict.fromkeys(found1.warnings + found2.warnings)),
    )
    energy1 = _array_energy(first, dims, tokens, design, float(inputs.x.mean()))
    energy2 = _array_energy(second, tokens, dims, design, float(driven.mean()) / longest)
    return Verified(result, EnergyRun(inputs.name, inputs.statistics, columns, energy1, energy2))


def _measured(first: VerifiedArray, off: Wave, written_off: float) -> dict[str, float]:
    """What is checked; `off` is how far codes are off, `written_off` by how many steps a level is off,
    at most.
    """
    rms = first.affine_calibration.rms_in_range
    return {
        "first: rms against the cell's own curve": first.rms["own"],
        CUBIC: first.rms["cubic"],
        "codes that differ": float((off > 0).mean()),
        "largest difference of a code": float(off.max()),
        "first: rms after affine calibration": float("nan") if rms is None else rms,
        "write: largest error of a stored voltage": written_off,
    }


def checked(allowed: Mapping[str, tuple[float, str]], measured: Mapping[str, float]) -> tuple[Check, ...]:
    """Whether numbers are within their tolerances; `allowed` has (tolerance, unit) by name."""
    return tuple(
        Check(
            name,
            Value(measured[name], unit, "simulated"),
            Value(most, unit, "simulated"),
            measured[name] <= most,
        )
        for name, (most, unit) in allowed.items()
    )


def energy_result(
    runs: Sequence[Verified], design: Design, command: Sequence[str], seed: int
) -> EnergyResult:
    """Of `gaincell spice energy`."""
    one = runs[0].result
    origin = {name: sha for run in runs for name, sha in run.result.provenance.inputs.items()}
    return EnergyResult(
        **head(one.technology, command, design, seed, origin),
        corner=one.corner,
        readout=one.readout,
        runs=tuple(run.energy for run in runs),
        not_included="writes, DACs, counters, adders, control; supply of a behavioural readout",
    )


def _array_energy(
    found: VerifiedArray, rows: int, lines: int, design: Design, activity: float
) -> ArrayEnergy:
    """Of a whole array: the simulated lines stand for all."""
    share = {name: 1.0 if name == "drivers" else lines / len(found.spice) for name in found.energy}
    blocks = {
        name: ReadEnergy(part.read * share[name], part.conversion * share[name])
        for name, part in found.energy.items()
    }
    array = sum(block.total for block in blocks.values())
    cell = blocks["cells"].total / (rows * lines)
    return ArrayEnergy(cell, blocks, array / lines, array, array * design.tiles, activity)


class _Simulated(NamedTuple):
    """One array: signed pulse widths of its lines, s; the waves of every netlist; what ngspice warned of."""

    widths: Wave
    plots: list[Plot]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Bench:
    """What both arrays share: their circuits, what is stored and read, and how they are simulated."""

    site: Site
    design: Design
    inputs: Inputs
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

    def readout(self, kind: str) -> Readout:
        """That of one array."""
        dims = self.inputs.values.shape[1]
        saturation = self.design.score_saturation(dims) if kind == RELU else self.design.output_saturation
        return Readout(kind, saturation * self.design.charge_unit)

    def simulate(self, codes: Wave, pulses: Wave, kind: str, all_lines: int, title: str) -> _Simulated:
        """Some lines of an array, in netlists of a group each."""
        readout, phases = self.readout(kind), self.phases
        lines = min(self.columns, all_lines)
        spans = [(a, min(a + self.group, lines)) for a in range(0, lines, self.group)]
        slices = [
            array_slice(
                self.site, self.levels[codes[:, a:b]].tolist(), pulses.tolist(), readout,
                phases=phases, word_wire=self.wire, bit_wire=self.wire, before=a, columns=all_lines,
                transistor_readout=self.transistors,
            )
            for a, b in spans
        ]  # fmt: skip
        done = run_many(slices, jobs=self.jobs, timeout=self.timeout, progress=self.stages(title))
        widths = [
            transistor_width(simulation.plot, c, kind, phases, self.site.vdd)
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

    def calibrated(self, array: VerifiedArray) -> Wave:
        """Its pulses: of a readout of transistors with the affine map found in the same run."""
        fit, width, longest = array.affine_calibration, np.array(array.spice), self.phases.longest
        gain, positive, negative = fit.gain, fit.offset, fit.offset_of_negative
        if not self.transistors or gain is None or positive is None or negative is None or gain <= 0:
            return width
        offset = np.where(width >= 0, positive, negative)
        right = np.where(width == 0, 0.0, (width - offset) / gain)
        right = np.where(width >= 0, np.maximum(right, 0), np.minimum(right, 0))
        return np.clip(np.where(np.abs(width) >= 0.999 * longest, width, right), -longest, longest)

    def compare(self, found: _Simulated, model: Mapping[str, Wave], same: Wave, kind: str) -> VerifiedArray:
        """An array beside its model, of the lines that are simulated.

        `same` is of the cell's own curve, from the pulses that the simulation had.
        """
        n, longest = len(found.widths), self.phases.longest
        model = {curve: wave[:n] for curve, wave in model.items()}
        rms = {c: float(np.sqrt(((found.widths - wave) ** 2).mean())) for c, wave in model.items()}
        places = [
            (plot, int(key[4:-1])) for plot in found.plots for key in plot.waves if key.startswith("v(bl")
        ]
        return VerifiedArray(
            plain(found.widths),
            {curve: plain(wave) for curve, wave in model.items()},
            plain(same[:n]),
            rms,
            {curve: value / longest for curve, value in rms.items()},
            affine_fit(model["own"], found.widths, longest),
            sum(touched_rail(plot, c, self.readout(kind), self.site.vdd) for plot, c in places),
            self._energy(found.plots, places, self.readout(kind)),
        )

    def _energy(
        self, plots: Sequence[Plot], places: Sequence[tuple[Plot, int]], readout: Readout
    ) -> dict[str, ReadEnergy]:
        """By block: "cells" of the simulated lines; "drivers" of all word lines of the array, once; "readout"
        of transistors, or "integrators, at least": what ideal amplifiers source.
        """
        energy: dict[str, ReadEnergy] = {}
        for name, source in {"cells": "i(vcell)", "drivers": "i(vdrive)", "readout": "i(vread)"}.items():
            if source in plots[0].waves:
                parts = [supplied(plot, source, self.phases, self.site.vdd) for plot in plots]
                # every slice drives whole word lines, so drivers count once
                share = 1 / len(plots) if name == "drivers" else 1.0
                read, conversion = (share * sum(part[n] for part in parts) for n in (0, 1))
                energy[name] = ReadEnergy(read, conversion, len(places))
        if "readout" not in energy:
            drawn = [sourced(plot, c, readout) * self.site.vdd for plot, c in places]
            energy["integrators, at least"] = ReadEnergy(float(np.sum(drawn)), 0.0, len(places))
        return energy


def affine_fit(x: Wave, y: Wave, longest: Second) -> AffineFit:
    """The best y = gain * x + offset, from model to simulated widths, of the columns in range.

    In range: neither at 0 nor at the longest pulse; nothing with fewer than 4. Negative pulses have an offset
    of their own, since their comparator switches the other way. rms: by the degrees of freedom left.
    """
    inside = (np.minimum(abs(x), abs(y)) > 0.01 * longest) & (np.maximum(abs(x), abs(y)) < 0.99 * longest)
    x, y = x[inside], y[inside]
    if len(x) < 4:
        return AffineFit()
    signed = bool((x < 0).any() and (x > 0).any())
    terms = np.stack([x, np.sign(x), np.ones_like(x)] if signed else [x, np.ones_like(x)], 1)
    found = np.linalg.lstsq(terms, y, rcond=None)[0]
    free = max(len(y) - terms.shape[1], 1)
    left = float(np.sqrt(((y - terms @ found) ** 2).sum() / free))
    up, down = (found[2] + found[1], found[2] - found[1]) if signed else (found[1], found[1])
    return AffineFit(float(found[0]), float(up), float(down), left)


def count(width: Wave, design: Design) -> Wave:
    """Codes of a counter that starts half a clock early: sign * floor(|w| / T_max * (L - 1) + 1/2)."""
    steps = design.counter_levels - 1
    return np.sign(width) * np.floor(np.abs(width) / design.t_pulse_max * steps + 0.5)
