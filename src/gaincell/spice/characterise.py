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

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from gaincell.chips.design import Design
from gaincell.chips.device import Device, fit_device
from gaincell.devices.columns import SIMULATED
from gaincell.errors import InputError
from gaincell.files import write_text
from gaincell.progress import StageProgress, silent_stages
from gaincell.results.codec import Kind
from gaincell.results.common import Values
from gaincell.results.description import kind_of_number
from gaincell.results.spice_cell import (
    CellCorners,
    CellCurve,
    CellDisturb,
    CellMismatch,
    CellRetention,
    CellWrite,
    CharacterisationResult,
    CornerCurve,
)
from gaincell.spice.designs import check_storage
from gaincell.spice.netlists.array import charge_bench
from gaincell.spice.netlists.cell import curve_bench, disturb_bench, hold_bench, write_bench
from gaincell.spice.rawfile import Plot, Wave
from gaincell.spice.result import corner_of, head, plain
from gaincell.spice.runner import run, run_many
from gaincell.spice.technology import PROCESSES, SUPPLIES, TEMPERATURES, Corner, Site, Technology
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
"""The simulator's own, S: shown beside, since it alone discharges a store within milliseconds."""
GROUP = 10
"""Cells of the Monte Carlo in one netlist."""


def read_charge(site: Site, levels: Wave, width: Second) -> Wave:
    """Charge that a cell takes from its bit line for one pulse, C [levels]."""
    charges = _charges(run(charge_bench(site, levels.tolist(), width)).plot, 1, len(levels))
    return charges.reshape(len(levels))


def _charges(plot: Plot, cells: int, levels: int) -> Wave:
    t = plot["time"]
    return np.array([[-np.trapezoid(plot[f"i(vb{k}_{n})"], t) for n in range(levels)] for k in range(cells)])


def characterise(
    technology: Technology,
    design: Design,
    command: Sequence[str] = (),
    *,
    cells: int = 50,
    seed: int = 0,
    tau: Second | None = None,
    jobs: int | None = None,
    stages: StageProgress = silent_stages,
) -> CharacterisationResult:
    """Simulate one cell of a technology; of its numbers, `result.rounded` keeps the digits that count.

    Args:
        technology: The process.
        design: The chip.
        command: The command line, for the provenance.
        cells: Cells of the Monte Carlo.
        seed: Of the Monte Carlo.
        tau: Set retention to this by a leak; None: what the cards give.
        jobs: Simulations at once; None: one a core.
        stages: Called as the work goes on.

    Raises:
        InputError: numbers out of range.
        SimulationError: ngspice cannot do it.
    """
    if not 2 <= cells <= 1000:
        raise InputError(f"cells = {cells!r} is out of range; allowed: 2 to 1000")
    if tau is not None and not 1e-6 <= tau <= 1:
        raise InputError(f"tau = {tau!r} s is out of range; allowed: 1e-6 to 1")
    site, vdd = Site(technology), technology.vdd
    check_storage(technology, design)
    step = stages("current, write, disturb")
    step(0, 5, {})
    dc = run(curve_bench(site)).plot
    step(1, 5, {})
    codes = design.storage_levels or 8
    write = _writes(site, np.arange(codes) * vdd / (codes - 1))
    step(2, 5, {})
    disturb = _disturb(site, design.t_pulse_max)
    step(3, 5, {})
    corners = _corners(technology, jobs)
    step(4, 5, {})
    levels = np.linspace(0, vdd, LEVELS)
    charge = read_charge(site, levels, design.t_pulse_max)
    step(5, 5, {})
    expected = design.cell.current(torch.from_numpy(levels) - design.v_offset).numpy() * design.charge_unit
    kinds = {kind_of_number(q) for key, q in design.provenance.items() if key.startswith("cell.")}
    kind: Kind = kinds.pop() if len(kinds) == 1 else "assumed"
    unexplained = ((charge - expected) ** 2).sum() / ((charge - charge.mean()) ** 2).sum()
    shifts = threshold_shifts(technology, cells, seed).tolist()
    groups = [shifts[n : n + GROUP] for n in range(0, cells, GROUP)]
    benches = [charge_bench(site, levels.tolist(), design.t_pulse_max, shifts=group) for group in groups]
    done = zip(groups, run_many(benches, jobs=jobs, progress=stages("mismatch")), strict=True)
    spread = np.concatenate([_charges(found.plot, len(group), LEVELS) for group, found in done])
    return CharacterisationResult(
        **head(technology, command, design, seed),
        curve=CellCurve(
            plain(dc["v(st)"]),
            plain(-dc["i(vb0)"]),
            plain(levels),
            plain(charge),
            Values(
                plain(expected), "C", kind, f"cell of the design {design.name}" if kind == "cited" else None
            ),
            float(1 - unexplained),
        ),
        mismatch=CellMismatch(
            cells, plain(spread), plain(spread.std(0, ddof=1) / float(np.abs(charge).max())), technology.a_vt
        ),
        corners=corners,
        write=write,
        retention=_retention(technology, tau, jobs, stages),
        disturb=disturb,
    )


def _writes(site: Site, targets: Wave) -> CellWrite:
    """Time to within SETTLED for good, inf if not within the write; error after the switch closed; waves."""
    waves = run(write_bench(site, targets.tolist())).plot
    t = waves["time"]
    start, stop = 1e-9, 6e-9
    stored = np.array([waves[f"v(st{n})"] for n in range(len(targets))])
    during = (t >= start) & (t <= stop)
    times = []
    for wave, target in zip(stored, targets, strict=True):
        late = np.nonzero(during & (np.abs(wave - target) > SETTLED))[0]
        last = int(late[-1]) if len(late) else int(np.argmax(during))
        times.append(float(t[last + 1] - start) if t[last + 1] < stop else float("inf"))
    return CellWrite(plain(targets), tuple(times), plain(stored[:, -1] - targets), plain(t), plain(stored))


def _disturb(site: Site, t_pulse: Second) -> CellDisturb:
    stored = np.array([0.0, site.vdd / 2, site.vdd])
    plot = run(disturb_bench(site, stored.tolist(), reads=READS, t_pulse=t_pulse)).plot
    read, half_selected = (
        np.array([plot[f"v({kind}{n})"][-1] for n in range(len(stored))]) - stored for kind in ("st", "hs")
    )
    return CellDisturb(plain(stored), plain(read), plain(half_selected))


def _corners(technology: Technology, jobs: int | None) -> CellCorners:
    """Of a user's own models, which are those of one process, the nominal one only."""
    processes = PROCESSES if technology.kit is None else ("nominal",)
    sites = [Site(technology, Corner(p, t, s)) for p in processes for t in TEMPERATURES for s in SUPPLIES]
    found = run_many([curve_bench(site, points=19) for site in sites], jobs=jobs)
    curves = [
        CornerCurve(
            corner_of(site).process,
            site.corner.temperature,
            site.corner.supply,
            plain(-simulation.plot["i(vb0)"]),
        )
        for site, simulation in zip(sites, found, strict=True)
    ]
    return CellCorners(plain(np.linspace(0, technology.vdd, 19)), tuple(curves))


def threshold_shifts(technology: Technology, cells: int, seed: int) -> Wave:
    """Of read N, read P, switch N, switch P of every cell, V [cells, 4]."""
    sizes = (technology.read_n, technology.read_p, technology.switch_n, technology.switch_p)
    sigma = np.array([technology.sigma_vt(size) for size in sizes])
    shifts: Wave = np.random.default_rng(seed).standard_normal((cells, 4)) * sigma
    return shifts


def _retention(
    technology: Technology, tau: Second | None, jobs: int | None, stages: StageProgress
) -> CellRetention:
    """Of cells with the retention asked for, with the simulator's own gmin, and with gate tunnelling."""
    stored = [v * technology.vdd / 0.9 for v in HELD]
    site, progress = Site(technology), stages("retention")
    progress(0, 4, {})
    leak, duration = None, HOLD if tau is None else 2 * tau
    if tau is not None:
        # the store is more than C_s: found from a decay through a known resistance
        probe = run(hold_bench(site, stored, tau, leak=tau / technology.storage)).plot
        t, v = probe["time"], probe[f"v(st{len(stored) - 1})"]
        signal = (v[-1] - technology.vdd / 2) / (v[0] - technology.vdd / 2)
        if not 0 < signal < 1:
            raise InputError(f"tau = {tau:g} s cannot be set: the cell itself changes faster; omit --tau")
        leak = tau / technology.storage * tau / (-t[-1] / np.log(signal))
    progress(1, 4, {})
    times, short = np.linspace(0, duration, 61), np.linspace(0, 1e-5, 61)
    benches = [
        hold_bench(site, stored, duration, leak=leak),
        hold_bench(site, stored, duration, gmin=DEFAULT_GMIN),
        hold_bench(site, stored, 1e-5, tunnelling=True),
    ]
    held, by_default_gmin, with_tunnelling = (
        tuple(plain(np.interp(when, s.plot["time"], s.plot[f"v(st{n})"])) for n in range(len(stored)))
        for s, when in zip(run_many(benches, jobs=jobs), (times, times, short), strict=True)
    )
    progress(4, 4, {})
    return CellRetention(
        tau is not None,
        "no gate tunnelling" if technology.kit is None else "models as they are",
        plain(times),
        held,
        by_default_gmin,
        plain(short),
        with_tunnelling,
    )


def measured_files(stem: Path) -> tuple[Path, Path]:
    """The curve and the decays that `device_of` writes.

    Raises:
        InputError: one is there that is no simulation.
    """
    curve, decay = (stem.with_name(f"{stem.name}-{kind}.csv") for kind in ("curve", "decay"))
    for place in (curve, decay):
        if place.is_file() and not place.read_bytes().startswith(SIMULATED.encode()):
            raise InputError(
                f"{place} is there already, not from gaincell spice characterise; give another --out, or "
                "move it"
            )
    return curve, decay


def device_of(
    found: CharacterisationResult, design: Design, stem: Path, tau: Second | None
) -> tuple[Device, str]:
    """A device file's content, and why it states no retention ("" if it does). It never states a spread of
    the retention, since one cell is simulated.

    Writes STEM-curve.csv, whose current is the charge of a full pulse over its length, and STEM-decay.csv, as
    `gaincell device fit` reads them.

    Args:
        found: The simulated cell.
        design: The chip.
        stem: Path that the names of both files begin with.
        tau: As set by a leak.

    Raises:
        InputError: the curve cannot be fitted.
    """
    origin, files = f"{SIMULATED}{found.technology}; ngspice\n", measured_files(stem)
    longest = design.t_pulse_max
    curve = _write_cells(
        files[0],
        f"{origin}# charge of a pulse of {longest * 1e9:g} ns over its length\n"
        "cell,voltage [V],current [A]\n",
        found.curve.levels,
        [[charge / longest for charge in row] for row in found.mismatch.charge],
    )
    how = f"set by a leak, tau {tau:g} s" if tau else "by the models' own leakage"
    decay = _write_cells(
        files[1],
        f"{origin}# retention {how}; one cell for every written voltage\ncell,time [s],voltage [V]\n",
        found.retention.time,
        found.retention.held,
    )
    without = ""
    retention = f"retention set to {tau:g} s by a leak" if tau else "retention as simulated"
    try:
        law = None if tau is None else "exponential"
        device, _, _ = fit_device(curve, design, decay=decay, law=law, name=stem.name)
    except InputError as error:
        device, _, _ = fit_device(curve, design, name=stem.name)
        without, retention = str(error).removeprefix(f"{decay}: "), "no retention stated"
    simulated = {"simulator": found.ngspice, "models": found.technology, "retention": retention}
    title = f"{device.cell.name} cell fitted to {found.mismatch.cells} simulated cells, {found.technology}"
    return dataclasses.replace(device, description=title, origin={**device.origin, **simulated}), without


def _write_cells(path: Path, heading: str, x: Sequence[float], cells: Iterable[Sequence[float]]) -> Path:
    """A row for every cell and x."""
    rows = [
        f"{cell},{at:.6g},{value:.8g}\n"
        for cell, row in enumerate(cells)
        for at, value in zip(x, row, strict=True)
    ]
    return write_text(path, heading + "".join(rows))
