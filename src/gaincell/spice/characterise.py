"""What one cell of a technology does, simulated: current, charge, write, retention, disturb, mismatch.

    current     I(V) at a bit line held at VDD/2, DC
    charge      F(u) = Q / charge unit of a full pulse: with its edges, the kick on the store and the
                switches' own charges. This is what the rest of the software means by a cell's curve
    mismatch    Q of cells whose transistors' thresholds are drawn, sigma = A_VT / sqrt(w l) (Pelgrom,
                Duinmaijer and Welbers, IEEE J. Solid-State Circuits 24, 1433 (1989)); A_VT is assumed

Retention is what the cards give with gate tunnelling off, or, with `tau`, set by a leak to V_offset:

    R = tau / (C_s + C_gate),  C_gate found from the decay of a first run

Not modelled: mismatch of mobility and size, noise, anything the cards do not know (layout, tunnelling by
default).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gaincell.chips.design import Design
from gaincell.errors import InputError
from gaincell.files import write_text
from gaincell.progress import StageProgress, silent_stages
from gaincell.spice.netlists.array import charge_bench
from gaincell.spice.netlists.cell import (
    curve_bench,
    disturb_bench,
    hold_bench,
    write_bench,
)
from gaincell.spice.rawfile import Plot, Wave
from gaincell.spice.runner import run, run_many
from gaincell.spice.technology import PROCESSES, SUPPLIES, TEMPERATURES, Corner, Technology
from gaincell.units import Second, Volt

LEVELS = 15
"""Stored voltages of a charge curve; the eight of the write DAC are among them."""
HELD = (0.0, 0.15, 0.3, 0.6, 0.75, 0.9)
"""Voltages whose retention is simulated, V at nominal supply."""
HOLD: Second = 10e-3
SETTLED: Volt = 9e-3
"""Written to within this, 1 % of VDD: a fourteenth of a level."""
READS = 8
DEFAULT_GMIN = 1e-12


@dataclass(frozen=True)
class Characterisation:
    """Simulated facts about one cell; SI units.

    volts, current: DC curve [points].  levels, charge: of a full pulse over stored voltage [levels], C.
    cells_charge: of cells with mismatch [cells, levels], C.
    corners: (process, temperature, supply) -> current over `corner_volts` scaled with the supply [points].
    write_times: until within SETTLED of every DAC level, s; inf: not within the write.
    written: voltage after the write gate closed, minus the level, V.
    writes: time, and voltage of every level [levels, time].
    hold_times, held: stored voltage over time [cells, time].  held_by_default_gmin: what the simulator's
    default of gmin = 1e-12 S alone would do to the same cells; held_with_tunnelling: with the card's.
    read_disturb, half_select: change of the stored voltage after READS reads, V, over `disturbed`.
    tau_set: retention that was set by a leak, s; None: native.
    """

    technology: Technology
    volts: Wave
    current: Wave
    levels: Wave
    charge: Wave
    cells_charge: Wave
    corner_volts: Wave
    corners: Mapping[tuple[str, float, float], Wave]
    write_levels: Wave
    write_times: Wave
    written: Wave
    writes: tuple[Wave, Wave]
    hold_times: Wave
    held: Wave
    held_by_default_gmin: Wave
    held_with_tunnelling: tuple[Wave, Wave]
    disturbed: Wave
    read_disturb: Wave
    half_select: Wave
    tau_set: Second | None


def read_charge(
    technology: Technology,
    corner: Corner,
    levels: Wave,
    width: Second,
    shifts: Sequence[Sequence[Volt]] = ((0.0,) * 4,),
) -> Wave:
    """Charge that each cell takes from its bit line for one pulse, C [cells, levels]."""
    plot = run(charge_bench(technology, corner, levels.tolist(), width, shifts=shifts)).plot
    t = plot["time"]
    rows = [[-np.trapezoid(plot[f"i(vb{k}_{n})"], t) for n in range(len(levels))] for k in range(len(shifts))]
    return np.array(rows)


def characterise(
    technology: Technology,
    design: Design,
    *,
    cells: int = 50,
    seed: int = 0,
    tau: Second | None = None,
    jobs: int | None = None,
    stages: StageProgress = silent_stages,
) -> Characterisation:
    """Simulate one cell of a technology.

    cells: of the Monte Carlo.  tau: set retention to this by a leak; None: what the cards give.

    Raises InputError for numbers out of range, SimulationError for what ngspice cannot do.
    """
    if not 2 <= cells <= 1000:
        raise InputError(f"cells = {cells!r} is out of range; allowed: 2 to 1000")
    if tau is not None and not 1e-6 <= tau <= 1:
        raise InputError(f"tau = {tau!r} s is out of range; allowed: 1e-6 to 1")
    corner, vdd = Corner(), technology.vdd
    if not (np.isclose(vdd, design.v_max) and design.v_min == 0):
        raise InputError(
            f"{technology.name} has VDD = {vdd:g} V, and the design {design.name} stores {design.v_min:g} to "
            f"{design.v_max:g} V; give --vdd {design.v_max:g}, or a --design that stores 0 to {vdd:g} V"
        )
    step = stages("current, write, disturb")
    step(0, 5, {})
    dc = run(curve_bench(technology, corner)).plot
    step(1, 5, {})
    targets = np.arange(design.storage_levels or 8) * vdd / ((design.storage_levels or 8) - 1)
    writing = run(write_bench(technology, corner, targets.tolist())).plot
    step(2, 5, {})
    disturbed = np.array([0.0, vdd / 2, vdd])
    disturb = run(disturb_bench(technology, corner, disturbed.tolist(), reads=READS)).plot
    step(3, 5, {})
    places = [(p, t, s) for p in PROCESSES for t in TEMPERATURES for s in SUPPLIES]
    if technology.kit is not None:
        places = [place for place in places if place[0] == "nominal"]
    found = run_many([curve_bench(technology, Corner(*place), points=19) for place in places], jobs=jobs)
    step(4, 5, {})
    levels = np.linspace(0, vdd, LEVELS)
    charge = read_charge(technology, corner, levels, design.t_pulse_max)[0]
    step(5, 5, {})
    spread = _cells_with_mismatch(technology, levels, design.t_pulse_max, cells, seed, jobs, stages)
    hold = _retention(technology, tau, jobs, stages)
    times, written, writes = _settling(writing.waves, targets)
    ends = {kind: [disturb[f"v({kind}{n})"] for n in range(3)] for kind in ("st", "hs")}
    return Characterisation(
        technology,
        dc["v(st)"],
        -dc["i(vb0)"],
        levels,
        charge,
        spread,
        np.linspace(0, vdd, 19),
        {place: -s.plot["i(vb0)"] for place, s in zip(places, found, strict=True)},
        targets,
        times,
        written,
        writes,
        *hold,
        disturbed,
        np.array([w[-1] for w in ends["st"]]) - disturbed,
        np.array([w[-1] for w in ends["hs"]]) - disturbed,
        tau,
    )


def threshold_shifts(technology: Technology, cells: int, seed: int) -> Wave:
    """Of read N, read P, switch N, switch P of every cell, V [cells, 4]."""
    sizes = (technology.read_n, technology.read_p, technology.switch_n, technology.switch_p)
    sigma = np.array([technology.sigma_vt(size) for size in sizes])
    shifts: Wave = np.random.default_rng(seed).standard_normal((cells, 4)) * sigma
    return shifts


def _cells_with_mismatch(
    technology: Technology,
    levels: Wave,
    width: Second,
    cells: int,
    seed: int,
    jobs: int | None,
    stages: StageProgress,
) -> Wave:
    """Charges of cells whose thresholds are drawn, C [cells, levels]; ten cells a netlist."""
    shifts = threshold_shifts(technology, cells, seed)
    groups = [shifts[n : n + 10].tolist() for n in range(0, cells, 10)]
    benches = [charge_bench(technology, Corner(), levels.tolist(), width, shifts=group) for group in groups]
    rows = []
    for group, simulation in zip(
        groups, run_many(benches, jobs=jobs, progress=stages("mismatch")), strict=True
    ):
        plot = simulation.plot
        for k in range(len(group)):
            rows.append([-np.trapezoid(plot[f"i(vb{k}_{n})"], plot["time"]) for n in range(len(levels))])
    return np.array(rows)


def _retention(
    technology: Technology, tau: Second | None, jobs: int | None, stages: StageProgress
) -> tuple[Wave, Wave, Wave, tuple[Wave, Wave]]:
    """Times, voltages; voltages with the simulator's default gmin; times and voltages with tunnelling."""
    stored = [v * technology.vdd / 0.9 for v in HELD]
    corner, progress = Corner(), stages("retention")
    progress(0, 4, {})
    leak = None
    duration = HOLD if tau is None else 2 * tau
    if tau is not None:
        # the store is more than C_s: found from a decay through a known resistance
        probe = run(hold_bench(technology, corner, stored, tau, leak=tau / technology.storage)).plot
        t, v = probe["time"], probe[f"v(st{len(stored) - 1})"]
        signal = (v[-1] - technology.vdd / 2) / (v[0] - technology.vdd / 2)
        if not 0 < signal < 1:
            raise InputError(f"tau = {tau:g} s cannot be set: the cell itself changes faster; omit --tau")
        leak = tau / technology.storage * tau / (-t[-1] / np.log(signal))
    progress(1, 4, {})
    benches = [
        hold_bench(technology, corner, stored, duration, leak=leak),
        hold_bench(technology, corner, stored, duration, gmin=DEFAULT_GMIN),
        hold_bench(technology, corner, stored, 1e-5, tunnelling=True),
    ]
    native, default, tunnel = (s.plot for s in run_many(benches, jobs=jobs))
    progress(4, 4, {})
    times = np.linspace(0, duration, 61)

    def at(plot: Plot, when: Wave) -> Wave:
        rows = [np.interp(when, plot["time"], plot[f"v(st{n})"]) for n in range(len(stored))]
        return np.array(rows, dtype=np.float64)

    short = np.linspace(0, 1e-5, 61)
    return times, at(native, times), at(default, times), (short, at(tunnel, short))


def _settling(waves: Mapping[str, Wave], targets: Wave) -> tuple[Wave, Wave, tuple[Wave, Wave]]:
    """Time to within SETTLED for good, error after the switch closed, and the waves themselves."""
    t = waves["time"]
    start, stop = 1e-9, 6e-9
    stored = np.array([waves[f"v(st{n})"] for n in range(len(targets))])
    during = (t >= start) & (t <= stop)
    times = []
    for wave, target in zip(stored, targets, strict=True):
        late = np.nonzero(during & (np.abs(wave - target) > SETTLED))[0]
        last = int(late[-1]) if len(late) else int(np.argmax(during))
        times.append(float(t[last + 1] - start) if t[last + 1] < stop else float("inf"))
    return np.array(times), stored[:, -1] - targets, (t, stored)


def write_measurements(found: Characterisation, stem: Path, t_pulse_max: Second) -> tuple[Path, Path]:
    """STEM-curve.csv and STEM-decay.csv as `gaincell device fit` reads them; current: charge / length."""
    origin = f"# simulated: {found.technology.title}; ngspice\n"
    lines = [
        f"{k},{volts:.6g},{charge / t_pulse_max:.8g}"
        for k, row in enumerate(found.cells_charge)
        for volts, charge in zip(found.levels, row, strict=True)
    ]
    head = f"{origin}# charge of a pulse of {t_pulse_max * 1e9:g} ns over its length\n"
    head += "cell,voltage [V],current [A]\n"
    curve = write_text(stem.with_name(f"{stem.name}-curve.csv"), head + "\n".join(lines) + "\n")
    how = f"set by a leak, tau {found.tau_set:g} s" if found.tau_set else "by the models' own leakage"
    lines = [
        f"{k},{time:.6g},{volts:.8g}"
        for k, row in enumerate(found.held)
        for time, volts in zip(found.hold_times, row, strict=True)
    ]
    head = f"{origin}# retention {how}; one cell for every written voltage\ncell,time [s],voltage [V]\n"
    decay = write_text(stem.with_name(f"{stem.name}-decay.csv"), head + "\n".join(lines) + "\n")
    return curve, decay
