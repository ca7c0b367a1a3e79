"""Sections on circuits: a step of a head, waveforms, SPICE, cells that were measured."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gaincell.reports import device, hardware, rtl, spice, spice_mixed, spice_tables, spice_wires, spice_write
from gaincell.reports.html.markup import EMPTY, element
from gaincell.reports.html.picture import picture
from gaincell.reports.html.result import Entry, Result, each, whole
from gaincell.reports.html.tables import markdown_rows, only_kind, short, table
from gaincell.reports.results import number
from gaincell.reports.tables import Rows

SIMULATED = "simulated"


def steps(results: Sequence[Result]) -> Markup:
    """Which circuit is busy when."""
    return each(results, "timeline", lambda result: _step(result.run))


def _step(run: Entry) -> Markup:
    rows = [
        [circuit, event["phase"], short(number(event["token"])), short(number(event["start"]) * 1e9),
         short(number(event["duration"]) * 1e9), event["basis"]]
        for event in run["timeline"]["events"]
        for circuit in event["circuits"]
    ]  # fmt: skip
    found = Rows("One step", ("circuit", "phase", "token", "from, ns", "for, ns", "duration"), rows)
    kind = only_kind(run["timeline"])
    return picture("One step", hardware.timeline(run), kind=kind, numbers=[found])


def waveforms(results: Sequence[Result]) -> Markup:
    """Voltages, pulses, charges and counter of one step."""

    def shown(result: Result) -> Markup:
        kind = only_kind(result.run["waveforms"])
        return picture("Waveforms of one step", hardware.waveforms(result.run), kind=kind)

    return each(results, "waveforms", shown)


def traces(results: Sequence[Result]) -> Markup:
    """A head over many tokens."""

    def shown(result: Result) -> Markup:
        kind = only_kind(result.run["trace"])
        return picture("A head over its tokens", hardware.trace(result.run), kind=kind)

    return each(results, "trace", shown)


def spice_cells(results: Sequence[Result]) -> Markup:
    """Cells of transistor models side by side, and the curves of each."""
    found = {}
    for result in results:
        with whole(result, "curve"):
            spice_tables.cells({result.name: result.run}, {})
            found[result.name] = result.run
    shown = spice_tables.cells(found, {})
    rows = markdown_rows("Cells from transistor models", shown)[0]
    return table(rows, SIMULATED) + each(results, "curve", _spice_cell)


def _spice_cell(result: Result) -> Markup:
    return picture("Curves of the cell", spice.cell_figure(result.run), kind=SIMULATED)


def verifications(results: Sequence[Result]) -> Markup:
    """SPICE against the behavioural model."""
    for result in results:
        with whole(result, "first"):
            spice_tables.verification({result.name: result.run})
    shown = spice_tables.verification({result.name: result.run for result in results})
    rows = markdown_rows("SPICE against the behavioural model", shown)[0]
    return table(rows, SIMULATED) + each(results, "first", lambda result: _verification(result.run))


def _verification(run: Entry) -> Markup:
    chart = picture("Pulses of both dot products", spice.verification_figure(dict(run)), kind=SIMULATED)
    checks = [
        [
            c["name"],
            short(number(c["found"])),
            short(number(c["allowed"])),
            c["found"]["unit"],
            "passed" if c["passed"] else "FAILED",
        ]
        for c in run["checks"]
    ]
    rows = Rows("Checks", ("check", "found", "allowed", "unit", "outcome"), checks)
    warned = [element("li", warning) for warning in run["warnings"]]
    warnings = element("ul", *warned, class_="plain") if warned else EMPTY
    return chart + (table(rows, SIMULATED, text=(3, 4)) if checks else EMPTY) + warnings


def energies(results: Sequence[Result]) -> Markup:
    """Energies of the arrays, from SPICE."""
    rows: Rows | None = None
    for result in results:
        with whole(result, "runs"):
            found = markdown_rows("Energy of the arrays, from SPICE", spice_tables.energy([result.run]))[0]
            rows = found if rows is None else Rows(rows.title, rows.headings, [*rows.rows, *found.rows])
    assert rows is not None
    caption = f"Not included: {results[0].run['not_included']}."
    return table(Rows(rows.title, rows.headings, rows.rows, caption), SIMULATED)


def wires(results: Sequence[Result]) -> Markup:
    """What wires cost."""
    return each(results, "bit_line", lambda result: _wires(result.run))


def _wires(run: Entry) -> Markup:
    chart = picture("What wires cost", spice_wires.wires_figure(dict(run)), kind=SIMULATED)
    shown = [table(rows, SIMULATED) for rows in markdown_rows("Wires", spice_tables.wires(dict(run)))]
    return chart + EMPTY.join(shown)


def writes(results: Sequence[Result]) -> Markup:
    """DACs, discharge and word-line pulses."""
    return each(results, "dacs", lambda result: _tables("Write path", spice_write.markdown(result.run)))


def mixed_runs(results: Sequence[Result]) -> Markup:
    """Waveforms of a sub-tile with its digital block, and its codes."""

    def shown(result: Result) -> Markup:
        chart = picture("Mixed-signal run", spice_mixed.mixed_figure(result.run), kind=SIMULATED)
        return chart + _tables("Codes and stored voltages", spice_mixed.markdown(result.run))

    return each(results, "waves", shown)


def _tables(title: str, markdown: str) -> Markup:
    return EMPTY.join(table(rows, SIMULATED) for rows in markdown_rows(title, markdown))


def digital(results: Sequence[Result]) -> Markup:
    """What was checked of the digital half, its phases, gates and energies."""
    return each(results, "sizes", lambda result: _digital(result.run))


def _digital(run: Entry) -> Markup:
    parts = [picture("Phases of a step", rtl.timeline(run), kind=only_kind(run["timeline"]))]
    if run["checks"]:
        parts.append(table(Rows("Checks", rtl.CHECKS, rtl.check_rows(run)), SIMULATED, text=(1,)))
    if "modules" in run:
        parts.append(table(Rows("Modules", rtl.MODULES, rtl.module_rows(run)), SIMULATED))
    if "energy" in run:
        energies = rtl.energy_rows(run)
        kinds = ["cited" if name.startswith("paper") else SIMULATED for name, *_ in energies]
        found = Rows("Energy", (*rtl.ENERGY[:1], run["inputs"], "basis"), energies)
        parts.append(table(found, lambda r, c: kinds[r] if c == 1 else None, text=(2,)))
    return EMPTY.join(parts)


def devices(results: Sequence[Result]) -> Markup:
    """Fits to measured cells."""
    return each(results, "fit", lambda result: _device(result.run))


def _device(run: Entry) -> Markup:
    kind = only_kind(run["curves"])
    return picture(run["title"], device.device_figure(dict(run)), kind=kind) + _fit(run)


def _fit(run: Entry) -> Markup:
    rows, kinds = [], []
    for name, entry in run["fit"].items():
        found = entry["value"]
        if not isinstance(found, list):
            shown = f"{found:.6g}" if isinstance(found, (int, float)) else str(found)
            ends = " to ".join(f"{end:.4g}" for end in entry.get("interval", ())) or "–"
            rows.append([name, shown, ends, entry["unit"]])
            kinds.append(entry["kind"])
    parameters = Rows("Parameters", ("parameter", "value", "95 %", "unit"), rows)
    return table(parameters, lambda r, c: kinds[r] if c < 3 else None, text=(3,))
