"""What the write path adds, simulated: DACs, write gates, discharge, word-line pulses.

    stored      of every code, after the write gate has closed
    gain, offset  of the straight line through the stored voltages of the first and the last code
    INL, DNL    distance from that line, and of a step from its slope, in steps
    settling    time after which the store stays within 9 mV of what it reaches before the gate closes
    residual    of what was stored before, as a share, after the discharge
    energy      drawn from the DAC's supply from the discharge to the end of the write
    noise       sqrt(k T / C) of the store, and, for the charge DAC, of line, capacitors and store together
    charge      of a full pulse read from the written cell, beside that of a cell at the ideal level
    pulses      width at VDD/2 (0 where it is not reached) less what was asked for, energy of a pulse

Not modelled: as in netlists/write_path.py; the noise is computed, not simulated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gaincell.chips.design import Design
from gaincell.devices.leakage import BOLTZMANN
from gaincell.errors import InputError
from gaincell.results.spice import DacWrites, WordLinePulses, WriteResult
from gaincell.spice.characterise import SETTLED, read_charge
from gaincell.spice.designs import check_storage
from gaincell.spice.netlists.array import WireElement
from gaincell.spice.netlists.write_path import (
    BIT_CAPACITANCE,
    KINDS,
    START,
    WriteTimes,
    pulse_bench,
    write_path_bench,
)
from gaincell.spice.pulses import pulse_width
from gaincell.spice.rawfile import Plot, Wave
from gaincell.spice.result import corner_of, head, plain
from gaincell.spice.runner import run, run_many
from gaincell.spice.technology import Corner, Site, Technology
from gaincell.units import Joule, Second, Volt

CELSIUS = 273.15


def characterise_write_path(
    technology: Technology,
    design: Design,
    command: Sequence[str] = (),
    *,
    corner: Corner | None = None,
    jobs: int | None = None,
) -> WriteResult:
    """Simulate both DACs and the pulse drivers for every code of a design.

    Discharge and write take half of the design's unstated latency each, as in the generated sequencer.

    Args:
        technology: The process.
        design: The chip.
        command: The command line, for the provenance.
        corner: Where the circuit operates.
        jobs: Simulations at once; None: one a core.

    Raises:
        InputError: a design without so many levels or with another range.
        SimulationError: ngspice cannot do it.
    """
    check_storage(technology, design)
    levels, times = _levels(design), _times(design)
    steps = (design.query_levels or 0) - 1
    site = Site(technology, corner or Corner())
    widths = np.arange(1, steps + 1) * design.t_pulse_max / steps
    benches = [write_path_bench(site, k, levels, design.tile, times) for k in KINDS]
    benches.append(pulse_bench(site, widths.tolist(), design.tile, design.t_pulse_max))
    *written, pulses = (found.plot for found in run_many(benches, jobs=jobs))
    ideal = np.linspace(0, site.vdd, levels)
    charge = read_charge(site, ideal, design.t_pulse_max)
    kinds = {
        kind: _dac(
            plot, times, ideal, charge, _capacitance(technology, kind, levels, design.tile), site.corner
        )
        for kind, plot in zip(KINDS, written, strict=True)
    }
    return WriteResult(
        **head(technology, command, design),
        corner=corner_of(site),
        cells=design.tile,
        discharge=times.discharge,
        write=times.write,
        dacs=kinds,
        pulses=WordLinePulses(plain(widths), *_pulses(pulses, widths, site.vdd)),
    )


def stored_levels(site: Site, design: Design, kind: str) -> Wave:
    """What one kind of DAC leaves in a cell, of every code, V. Raises as `characterise_write_path`."""
    times = _times(design)
    bench = write_path_bench(site, kind, _levels(design), design.tile, times)
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


def _capacitance(t: Technology, kind: str, levels: int, cells: int) -> float:
    """What a sample is taken on, F."""
    if kind == "string":
        return t.storage
    return t.storage + (levels - 1) * BIT_CAPACITANCE + (cells - 1) * WireElement().capacitance


def _dac(
    plot: Plot, times: WriteTimes, ideal: Wave, charge: Wave, capacitance: float, corner: Corner
) -> DacWrites:
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

    step = float((stored[-1] - stored[0]) / (count - 1))
    line = np.linspace(stored[0], stored[-1], count)
    return DacWrites(
        levels=plain(ideal),
        stored=plain(stored),
        gain=float((stored[-1] - stored[0]) / (ideal[-1] - ideal[0])),
        offset=float(stored[0] - ideal[0]),
        inl=plain((stored - line) / step),
        dnl=plain(np.diff(stored) / step - 1),
        injection=plain(stored - before),
        settling=tuple(settling),
        residual=plain(np.array([at(store, begun) for store in stores]) / vdd),
        energy=tuple(float(vdd * integral(plot[f"i(vd{code})"], drawn)) for code in range(count)),
        noise=math.sqrt(BOLTZMANN * (corner.temperature + CELSIUS) / capacitance),
        charge=tuple(integral(plot[f"i(vb{code})"], read) for code in range(count)),
        ideal_charge=plain(charge),
    )


def _pulses(plot: Plot, widths: Wave, vdd: Volt) -> tuple[tuple[Second, ...], tuple[Joule, ...]]:
    """Errors of the widths, s, and energies, J."""
    t = plot["time"]
    errors = [pulse_width(t, plot[f"v(wl{n})"], vdd) - width for n, width in enumerate(widths.tolist())]
    energies = [float(-vdd * np.trapezoid(plot[f"i(vw{n})"], t)) for n in range(len(widths))]
    return tuple(errors), tuple(energies)
