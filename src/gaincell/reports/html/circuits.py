"""Sections on circuits: a step of a head, waveforms, SPICE, cells that were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from markupsafe import Markup

from gaincell.reports import device as of_device
from gaincell.reports import hardware, rtl, spice, spice_tables
from gaincell.reports.html.markup import EMPTY, join, listed
from gaincell.reports.html.picture import picture
from gaincell.reports.html.tables import only_kind, short, table
from gaincell.reports.tables import SIMULATED, Rows
from gaincell.results.device import DeviceResult
from gaincell.results.rtl import RtlResult
from gaincell.results.simulation import HeadResult, TileResult
from gaincell.results.spice import (
    CharacterisationResult,
    EnergyResult,
    MixedResult,
    VerifyResult,
    WiresResult,
    WriteResult,
)


def timeline(run: HeadResult) -> Markup:
    """Which circuit is busy when."""
    found = Rows.of(
        "One step",
        [(circuit, event) for event in run.timeline.events for circuit in event.circuits],
        {
            "circuit": lambda of: of[0],
            "phase": lambda of: of[1].phase,
            "token": lambda of: short(of[1].token),
            "from, ns": lambda of: short(of[1].start * 1e9),
            "for, ns": lambda of: short(of[1].duration * 1e9),
            "duration": lambda of: of[1].basis,
        },
    )
    return picture("One step", hardware.timeline(run), kind=only_kind(run.timeline), numbers=[found])


def waveforms(run: TileResult) -> Markup:
    """Voltages, pulses, charges and counter of one step."""
    return picture("Waveforms of one step", hardware.waveforms(run), kind=only_kind(run.waveforms))


def trace(run: HeadResult) -> Markup:
    """A head over many tokens."""
    return picture("A head over its tokens", hardware.trace(run), kind=SIMULATED)


def cells(results: Mapping[str, CharacterisationResult]) -> Markup:
    """Cells of transistor models side by side."""
    return table(spice_tables.cells(results))


def cell(run: CharacterisationResult) -> Markup:
    """The curves of one."""
    return picture("Curves of the cell", spice.cell_figure(run), kind=SIMULATED)


def verifications(results: Mapping[str, VerifyResult]) -> Markup:
    """SPICE against the behavioural model."""
    return table(spice_tables.verification(results))


def verification(run: VerifyResult) -> Markup:
    """The pulses of both dot products, and what was checked of them."""
    chart = picture("Pulses of both dot products", spice.verification_figure(run), kind=SIMULATED)
    checks = Rows.of(
        "Checks",
        run.checks,
        {
            "check": lambda c: c.name,
            "found": lambda c: short(c.found.value),
            "allowed": lambda c: short(c.allowed.value),
            "unit": lambda c: c.found.unit,
            "outcome": lambda c: "passed" if c.passed else "FAILED",
        },
        text=(0, 3, 4),
        kinds=SIMULATED,
    )
    return chart + (table(checks) if run.checks else EMPTY) + listed(run.warnings)


def energies(results: Mapping[str, EnergyResult]) -> Markup:
    """Energies of the arrays, from SPICE."""
    found = list(results.values())
    return table(replace(spice_tables.energy(found), caption=f"Not included: {found[0].not_included}."))


def wires(run: WiresResult) -> Markup:
    """What wires cost."""
    chart = picture("What wires cost", spice.wires_figure(run), kind=SIMULATED)
    return chart + join(map(table, spice_tables.wires(run)))


def write(run: WriteResult) -> Markup:
    """DACs, discharge and word-line pulses."""
    return table(replace(spice_tables.write(run), title="Write path"))


def mixed(run: MixedResult) -> Markup:
    """Waveforms of a sub-tile with its digital block, and its codes."""
    chart = picture("Mixed-signal run", spice.mixed_figure(run), kind=SIMULATED)
    return chart + table(replace(spice_tables.mixed(run), title="Codes and stored voltages"))


def digital(run: RtlResult) -> Markup:
    """What was checked of the digital half, its phases, gates and energies."""
    tables = [rtl.check_rows(run)] if run.checks else []
    tables += [rtl.module_rows(run)] if run.modules else []
    tables += [rtl.energy_rows({run.inputs: run})] if run.energy else []
    return picture("Phases of a step", rtl.timeline(run), kind=only_kind(run.timeline)) + join(
        map(table, tables)
    )


def device(run: DeviceResult) -> Markup:
    """A fit to measured cells."""
    found = {name: one for name, one in run.fit.items() if not isinstance(one.value, (list, tuple))}
    rows = Rows.of(
        "Parameters",
        found.items(),
        {
            "parameter": lambda of: of[0],
            "value": lambda of: (
                f"{of[1].value:.6g}" if isinstance(of[1].value, (int, float)) else str(of[1].value)
            ),
            "95 %": lambda of: " to ".join(f"{end:.4g}" for end in of[1].interval or ()) or "–",
            "unit": lambda of: of[1].unit,
        },
        text=(0, 3),
        kinds=lambda r, c: [*found.values()][r].kind if c < 3 else None,
    )
    title = run.title or run.device
    return picture(title, of_device.device_figure(run), kind=only_kind(run.curves)) + table(rows)
