"""What the write path adds, simulated: DACs, write gates, discharge, word-line pulses.

    stored      of every code, after the write gate has closed
    gain, offset  of the straight line through the stored voltages of the first and the last code
    INL, DNL    distance from that line, and of a step from its slope, in steps
    settling    time after which the store stays within 9 mV of what it reaches before the gate closes
    residual    of what was stored before, as a share, after the discharge
    energy      drawn from the DAC's supply from the discharge to the end of the write
    noise       sqrt(k T / C) of the store, and, for the charge DAC, of line, capacitors and store together
    charge      of a full pulse read from the written cell, beside that of a cell at the ideal level
    pulses      width at VDD/2 less what was asked for, energy of a pulse

Not modelled: as in netlists/write_path.py; the noise is computed, not simulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaincell.design import Design
from gaincell.errors import InputError
from gaincell.spice.characterise import SETTLED, read_charge
from gaincell.spice.netlists.array import WireElement
from gaincell.spice.netlists.write_path import (
    KINDS,
    START,
    WriteSizes,
    WriteTimes,
    pulse_bench,
    write_path_bench,
)
from gaincell.spice.rawfile import Plot, Wave
from gaincell.spice.runner import run, run_many
from gaincell.spice.technology import Corner, Technology
from gaincell.units import Joule, Second, Volt

BOLTZMANN = 1.380649e-23
"""J/K, exact by definition of the kelvin."""
CELSIUS = 273.15


@dataclass(frozen=True)
class DacPath:
    """One kind of DAC; voltages and times by code.

    levels: ideal.  stored: after the gate has closed.  injection: by its closing.  settling: s.
    residual: share left by the discharge.  energy: J.  noise: V.
    charge, ideal_charge: of a full pulse, C.
    """

    levels: Wave
    stored: Wave
    injection: Wave
    settling: Wave
    residual: Wave
    energy: Wave
    noise: Volt
    charge: Wave
    ideal_charge: Wave

    @property
    def gain(self) -> float:
        """Of the line through both ends; 1 is ideal."""
        return float((self.stored[-1] - self.stored[0]) / (self.levels[-1] - self.levels[0]))

    @property
    def offset(self) -> Volt:
        """Of the lowest code."""
        return float(self.stored[0] - self.levels[0])

    @property
    def inl(self) -> Wave:
        """In steps of the line."""
        line = np.linspace(self.stored[0], self.stored[-1], len(self.stored))
        found: Wave = (self.stored - line) / self._step
        return found

    @property
    def dnl(self) -> Wave:
        """In steps of the line, from the second code on."""
        found: Wave = np.diff(self.stored) / self._step - 1
        return found

    @property
    def _step(self) -> float:
        return float((self.stored[-1] - self.stored[0]) / (len(self.stored) - 1))


@dataclass(frozen=True)
class WritePath:
    """cells: on a write line.  times: of the writes.  kinds: by name.

    widths, errors, energies: of the word-line pulses, s, s, J.
    """

    technology: Technology
    cells: int
    times: WriteTimes
    kinds: Mapping[str, DacPath]
    widths: Wave
    errors: Wave
    energies: Wave


def characterise_write_path(
    technology: Technology, design: Design, *, corner: Corner | None = None, jobs: int | None = None
) -> WritePath:
    """Simulate both DACs and the pulse drivers for every code of a design.

    Discharge and write take half of the design's unstated latency each, as in the generated sequencer.

    Raises InputError for a design without so many levels, SimulationError for what ngspice cannot do.
    """
    levels, times = _levels(design), _times(design)
    steps, sizes = (design.query_levels or 0) - 1, WriteSizes()
    corner = corner or Corner()
    vdd = technology.vdd * corner.supply
    widths = np.arange(1, steps + 1) * design.t_pulse_max / steps
    benches = [write_path_bench(technology, corner, k, levels, design.tile, times, sizes) for k in KINDS]
    benches.append(pulse_bench(technology, corner, widths.tolist(), design.tile, design.t_pulse_max))
    *written, pulses = (found.plot for found in run_many(benches, jobs=jobs))
    ideal = np.linspace(0, vdd, levels)
    charge = read_charge(technology, corner, ideal, design.t_pulse_max)[0]
    kinds = {
        kind: _dac(
            plot, times, ideal, charge, _capacitance(technology, kind, levels, design.tile, sizes), corner
        )
        for kind, plot in zip(KINDS, written, strict=True)
    }
    errors, energies = _pulses(pulses, widths, vdd)
    return WritePath(technology, design.tile, times, kinds, widths, errors, energies)


def stored_levels(technology: Technology, design: Design, kind: str, *, corner: Corner | None = None) -> Wave:
    """What one kind of DAC leaves in a cell, of every code, V. Raises as `characterise_write_path`."""
    times = _times(design)
    bench = write_path_bench(
        technology, corner or Corner(), kind, _levels(design), design.tile, times, WriteSizes()
    )
    return _stored(run(bench).plot, times, _levels(design))


def _levels(design: Design) -> int:
    levels = design.storage_levels
    if levels is None or levels & (levels - 1) or not design.query_levels or design.levels.present:
        raise InputError(
            f"design {design.name!r}: its storage or query levels are not evenly spaced codes of whole bits; "
            "give a design with 2, 4, 8 ... of both, such as leroux2025"
        )
    return levels


def _times(design: Design) -> WriteTimes:
    half = design.unstated_latency / 2
    return WriteTimes(half, half, design.t_pulse_max)


def _stored(plot: Plot, times: WriteTimes, levels: int) -> Wave:
    when = times.read - 0.1e-9
    return np.array([np.interp(when, plot["time"], plot[f"v(st{code})"]) for code in range(levels)])


def _capacitance(t: Technology, kind: str, levels: int, cells: int, sizes: WriteSizes) -> float:
    """What a sample is taken on, F."""
    if kind == "string":
        return t.storage
    return t.storage + (levels - 1) * sizes.capacitance + (cells - 1) * WireElement().capacitance


def _dac(
    plot: Plot, times: WriteTimes, ideal: Wave, charge: Wave, capacitance: float, corner: Corner
) -> DacPath:
    t, count = plot["time"], len(ideal)
    vdd = ideal[-1]
    stores = [plot[f"v(st{code})"] for code in range(count)]

    def at(wave: Wave, when: Second) -> float:
        return float(np.interp(when, t, wave))

    before = np.array([at(store, times.written) for store in stores])
    stored = _stored(plot, times, count)
    begun = START + times.discharge
    settling = []
    for store, reached in zip(stores, before, strict=True):
        during = (t >= begun) & (t <= times.written)
        outside = np.nonzero(during & (np.abs(store - reached) > SETTLED))[0]
        settling.append(float(t[outside[-1] + 1] - begun) if len(outside) else 0.0)
    drawn = (t >= START) & (t <= times.written)
    read = t >= times.read - 0.1e-9

    def integral(wave: Wave, when: NDArray[np.bool_]) -> float:
        return float(-np.trapezoid(wave[when], t[when]))

    return DacPath(
        levels=ideal,
        stored=stored,
        injection=stored - before,
        settling=np.array(settling),
        residual=np.array([at(store, begun) for store in stores]) / vdd,
        energy=np.array([vdd * integral(plot[f"i(vd{code})"], drawn) for code in range(count)]),
        noise=math.sqrt(BOLTZMANN * (corner.temperature + CELSIUS) / capacitance),
        charge=np.array([integral(plot[f"i(vb{code})"], read) for code in range(count)]),
        ideal_charge=charge,
    )


def _pulses(plot: Plot, widths: Wave, vdd: Volt) -> tuple[Wave, Wave]:
    """Errors of the widths, s, and energies, J."""
    t = plot["time"]
    errors: list[Second] = []
    energies: list[Joule] = []
    for n, width in enumerate(widths):
        high = np.nonzero(plot[f"v(wl{n})"] > vdd / 2)[0]
        ends = [
            float(
                np.interp(
                    vdd / 2, sorted(plot[f"v(wl{n})"][pair]), t[pair][np.argsort(plot[f"v(wl{n})"][pair])]
                )
            )
            for pair in (slice(high[0] - 1, high[0] + 1), slice(high[-1], high[-1] + 2))
        ]
        errors.append(ends[1] - ends[0] - width)
        energies.append(float(-vdd * np.trapezoid(plot[f"i(vw{n})"], t)))
    return np.array(errors), np.array(energies)
