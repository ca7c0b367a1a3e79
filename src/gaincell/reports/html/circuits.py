"""Sections on circuits: a step of a head, waveforms, SPICE, cells that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from gaincell.reports import device, hardware, rtl, spice, spice_mixed, spice_tables, spice_wires, spice_write
from gaincell.reports.html.markup import EMPTY, element
from gaincell.reports.html.picture import picture
from gaincell.reports.html.result import Result, each_of, typed
from gaincell.reports.html.tables import markdown_rows, only_kind, short, table
from gaincell.reports.tables import Rows
from gaincell.results.device import DeviceResult
from gaincell.results.rtl import RtlResult
from gaincell.results.simulation import HeadResult, TileResult
from gaincell.results.spice import CharacterisationResult, EnergyResult, VerifyResult, WiresResult
from gaincell.results.spice_circuits import MixedResult, WriteResult

SIMULATED = "simulated"


def steps(results: Sequence[Result]) -> Markup:
    """Which circuit is busy when."""
    return each_of(results, HeadResult, _step, lambda run: run.timeline)


def _step(run: HeadResult) -> Markup:
    rows = [
        [circuit, event.phase, short(event.token), short(event.start * 1e9), short(event.duration * 1e9),
         event.basis]
        for event in run.timeline.events
        for circuit in event.circuits
    ]  # fmt: skip
    found = Rows("One step", ("circuit", "phase", "token", "from, ns", "for, ns", "duration"), rows)
    return picture("One step", hardware.timeline(run), kind=only_kind(run.timeline), numbers=[found])


def waveforms(results: Sequence[Result]) -> Markup:
    """Voltages, pulses, charges and counter of one step."""

    def shown(run: TileResult) -> Markup:
        return picture("Waveforms of one step", hardware.waveforms(run), kind=only_kind(run.waveforms))

    return each_of(results, TileResult, shown, lambda run: run.waveforms)


def traces(results: Sequence[Result]) -> Markup:
    """A head over many tokens."""

    def shown(run: HeadResult) -> Markup:
        return picture("A head over its tokens", hardware.trace(run), kind=SIMULATED)

    return each_of(results, HeadResult, shown, lambda run: run.schedule)


def spice_cells(results: Sequence[Result]) -> Markup:
    """Cells of transistor models side by side, and the curves of each."""

    def curves(run: CharacterisationResult) -> Markup:
        return picture("Curves of the cell", spice.cell_figure(run), kind=SIMULATED)

    rows = spice_tables.cells(dict(typed(results, CharacterisationResult)))
    return table(rows, SIMULATED) + each_of(results, CharacterisationResult, curves, lambda run: run.curve)


def verifications(results: Sequence[Result]) -> Markup:
    """SPICE against the behavioural model."""
    rows = spice_tables.verification(dict(typed(results, VerifyResult)))
    return table(rows, SIMULATED) + each_of(results, VerifyResult, _verification, lambda run: run.first)


def _verification(run: VerifyResult) -> Markup:
    chart = picture("Pulses of both dot products", spice.verification_figure(run), kind=SIMULATED)
    checks = [
        [
            c.name,
            short(c.found.value),
            short(c.allowed.value),
            c.found.unit,
            "passed" if c.passed else "FAILED",
        ]
        for c in run.checks
    ]
    rows = Rows("Checks", ("check", "found", "allowed", "unit", "outcome"), checks)
    warned = [element("li", warning) for warning in run.warnings]
    warnings = element("ul", *warned, class_="plain") if warned else EMPTY
    return chart + (table(rows, SIMULATED, text=(3, 4)) if checks else EMPTY) + warnings


def energies(results: Sequence[Result]) -> Markup:
    """Energies of the arrays, from SPICE."""
    found = [run for _, run in typed(results, EnergyResult)]
    caption = f"Not included: {found[0].not_included}."
    return table(replace(spice_tables.energy(found), caption=caption), SIMULATED)


def wires(results: Sequence[Result]) -> Markup:
    """What wires cost."""

    def shown(run: WiresResult) -> Markup:
        chart = picture("What wires cost", spice_wires.wires_figure(run), kind=SIMULATED)
        tables = (table(rows, SIMULATED) for rows in markdown_rows("Wires", spice_tables.wires(run)))
        return chart + EMPTY.join(tables)

    return each_of(results, WiresResult, shown, lambda run: run.bit_line)


def writes(results: Sequence[Result]) -> Markup:
    """DACs, discharge and word-line pulses."""
    return each_of(
        results,
        WriteResult,
        lambda run: table(replace(spice_write.rows(run), title="Write path"), SIMULATED),
        lambda run: tuple(run.dacs.values()),
    )


def mixed_runs(results: Sequence[Result]) -> Markup:
    """Waveforms of a sub-tile with its digital block, and its codes."""

    def shown(run: MixedResult) -> Markup:
        chart = picture("Mixed-signal run", spice_mixed.mixed_figure(run), kind=SIMULATED)
        rows = replace(spice_mixed.rows(run), title="Codes and stored voltages")
        return chart + table(rows, SIMULATED)

    return each_of(results, MixedResult, shown, lambda run: run.waves)


def digital(results: Sequence[Result]) -> Markup:
    """What was checked of the digital half, its phases, gates and energies."""
    return each_of(results, RtlResult, _digital, lambda run: run.sizes)


def _digital(run: RtlResult) -> Markup:
    parts = [picture("Phases of a step", rtl.timeline(run), kind=only_kind(run.timeline))]
    if run.checks:
        parts.append(table(Rows("Checks", rtl.CHECKS, rtl.check_rows(run)), SIMULATED, text=(1,)))
    if run.modules:
        parts.append(table(Rows("Modules", rtl.MODULES, rtl.module_rows(run)), SIMULATED))
    if run.energy:
        energies = rtl.energy_rows(run)
        kinds = ["cited" if name.startswith("paper") else SIMULATED for name, *_ in energies]
        found = Rows("Energy", (*rtl.ENERGY[:1], run.inputs, "basis"), energies)
        parts.append(table(found, lambda r, c: kinds[r] if c == 1 else None, text=(2,)))
    return EMPTY.join(parts)


def devices(results: Sequence[Result]) -> Markup:
    """Fits to measured cells."""
    return each_of(results, DeviceResult, _device, lambda run: tuple(run.fit.values()))


def _device(run: DeviceResult) -> Markup:
    rows, kinds = [], []
    for name, entry in run.fit.items():
        if not isinstance(entry.value, (list, tuple)):
            shown = f"{entry.value:.6g}" if isinstance(entry.value, (int, float)) else str(entry.value)
            ends = " to ".join(f"{end:.4g}" for end in entry.interval or ()) or "–"
            rows.append([name, shown, ends, entry.unit])
            kinds.append(entry.kind)
    parameters = Rows("Parameters", ("parameter", "value", "95 %", "unit"), rows)
    chart = picture(run.title or run.device, device.device_figure(run), kind=only_kind(run.curves))
    return chart + table(parameters, lambda r, c: kinds[r] if c < 3 else None, text=(3,))
