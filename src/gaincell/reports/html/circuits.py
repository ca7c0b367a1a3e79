"""Sections on circuits: a step of a head, waveforms, SPICE, cells that were measured."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gaincell.reports import spice_tables
from gaincell.reports.costs import Rows
from gaincell.reports.html.costs import PHASES
from gaincell.reports.html.lines import Level, Series, line_chart
from gaincell.reports.html.markup import EMPTY, element, grid
from gaincell.reports.html.result import Entry, Result, each, whole
from gaincell.reports.html.scales import short
from gaincell.reports.html.tables import markdown_rows, only_kind, table
from gaincell.reports.html.timeline import Busy, circuits
from gaincell.reports.results import number, numbers

CURVES = {"linear": ("linear cell", 7), "cubic": ("its cubic", 2), "own": ("cell's own curve", 1)}
PARTS = {"first": "First dot product", "second": "Second dot product"}
SIMULATED = "simulated"


def steps(results: Sequence[Result]) -> Markup:
    """Which circuit is busy when."""
    return each(results, "timeline", lambda result: grid(_step(result.run)))


def _step(run: Entry) -> Markup:
    found = [
        Busy(
            circuit,
            event["phase"],
            number(event["start"]) * 1e9,
            number(event["duration"]) * 1e9,
            number(event["token"]) > 0,
            event["basis"] == "assumed",
        )
        for event in run["timeline"]["events"]
        for circuit in event["circuits"]
    ]
    ends = [end * 1e9 for end in numbers(run["timeline"]["token_ends"])]
    title = f"One step: {number(run['schedule']['latency']) * 1e9:.3g} ns"
    note = (
        "Pale: the following tokens; dashed outline: the duration is assumed; dashed lines: ends of tokens."
    )
    return circuits(title, found, PHASES, ends, only_kind(run["timeline"]), note)


def waveforms(results: Sequence[Result]) -> Markup:
    """Charge and counter of one step."""
    return each(results, "waveforms", lambda result: grid(*_waveforms(result.run["waveforms"])))


def _waveforms(w: Entry) -> list[Markup]:
    t = [second * 1e9 for second in numbers(w["time"])]

    def chart(
        title: str, key: str, scale: float, label: str, colour: int, levels: Sequence[Level] = ()
    ) -> Markup:
        series = [Series("", t, [scale * x for x in numbers(w[key])], colour, marks=False)]
        return line_chart(
            title, series, "time in the step, ns", label, levels=levels, note=f"({only_kind(w[key])})"
        )

    full, limit = number(w["score_saturation"]) * 1e15, number(w["output_saturation"]) * 1e15
    return [
        chart("Current of the key bit line", "key_current", 1e6, "µA", 1),
        chart("Its integrator", "key_charge", 1e15, "fC", 1, [Level("full pulse", full)]),
        chart(
            "Integrator of one value bit line",
            "value_charge",
            1e15,
            "fC",
            3,
            [Level("full scale", limit), Level("", -limit)],
        ),
        chart("Its counter", "count", 1.0, "count", 4),
    ]


def traces(results: Sequence[Result]) -> Markup:
    """A head over many tokens."""
    return each(results, "trace", lambda result: grid(*_trace(result.run["trace"])))


def _trace(rows: Entry) -> list[Markup]:
    tokens = numbers(rows["token"])
    kind = only_kind(rows)
    titles = {
        "columns_held": ("Columns that hold a token", "columns", 1.0, 1),
        "oldest_left": ("What is left of the oldest column's voltage", "share", 1.0, 5),
        "pulses_above_zero": ("Pulses into the value array above zero", "% of columns held", 100.0, 3),
        "output_rms": ("Output, root mean square", "full scales of a sub-tile", 1.0, 4),
    }
    return [
        line_chart(
            title,
            [Series("", tokens, [scale * x for x in numbers(rows[key])], colour, kind, marks=False)],
            "token",
            label,
            zero=True,
            note=f"({kind})",
        )
        for key, (title, label, scale, colour) in titles.items()
        if key in rows
    ]


def spice_cells(results: Sequence[Result]) -> Markup:
    """Cells of transistor models side by side, and the curves of each."""
    found = {}
    for result in results:
        with whole(result, "curve"):
            shown = spice_tables.cells({result.name: result.run}, {})
            found[result.name] = result.run
    shown = spice_tables.cells(found, {})
    rows = markdown_rows("Cells from transistor models", shown)[0]
    return table(rows, SIMULATED) + each(results, "curve", lambda result: grid(*_spice_cell(result.run)))


def _spice_cell(run: Entry) -> list[Markup]:
    curve, write, retention = run["curve"], run["write"], run["retention"]
    levels = numbers(curve["levels"])

    def fc(entry: Entry) -> list[float]:
        return [x * 1e15 for x in numbers(entry)]

    drawn = [[x * 1e15 for x in cell] for cell in run["mismatch"]["charge"]["value"]]
    charge = [
        Series("with mismatch" if n == 0 else "", levels, cell, 7, faint=True, marks=False)
        for n, cell in enumerate(drawn)
    ]
    charge += [
        Series("nominal", levels, fc(curve["charge"]), 1, curve["charge"]["kind"]),
        Series(
            "the design's cell",
            levels,
            fc(curve["of_the_design"]),
            2,
            curve["of_the_design"]["kind"],
            dashed=True,
        ),
    ]
    volts = numbers(run["corners"]["volts"])
    processes = list(dict.fromkeys(c["process"] for c in run["corners"]["curves"]))
    wrong = spice_tables.artefacts(dict(run))
    corners = []
    for name, process, c in spice_tables.corner_lines(dict(run)):
        supply, artefact = number(c["supply"]), number(c["temperature"]) in wrong
        corners.append(
            Series(
                name,
                [v * supply for v in volts],
                [i * 1e6 for i in numbers(c["current"])],
                4 if artefact else processes.index(process) % 3 + 1,
                dashed=artefact,
                faint=True,
                marks=False,
            )
        )
    time = [t * 1e9 for t in numbers(write["time"])]
    writes = [Series("", time, wave, 1, marks=False) for wave in write["stored"]["value"]]
    held = [t * 1e3 for t in numbers(retention["time"])]
    how = "leak set" if retention["set_by_a_leak"] else "models' own leakage"
    kept = [
        Series(label if n == 0 else "", held, wave, colour, marks=False)
        for key, colour, label in (("held", 1, how), ("with_default_gmin", 4, "artefact: default gmin"))
        for n, wave in enumerate(retention[key]["value"])
    ]
    stored, kind = "stored voltage, V", f"({SIMULATED})"
    return [
        line_chart(
            "Charge of a full pulse", charge, stored, "fC", note=f"{len(drawn)} cells with mismatch {kind}."
        ),
        line_chart("Corners", corners, stored, "current, µA", note=kind),
        line_chart("Writing the levels of the DAC", writes, "time, ns", stored, note=kind),
        line_chart("Retention, no gate tunnelling", kept, "time, ms", stored, note=kind),
    ]


def verifications(results: Sequence[Result]) -> Markup:
    """SPICE against the behavioural model."""
    for result in results:
        with whole(result, "first"):
            spice_tables.verification({result.name: result.run})
    shown = spice_tables.verification({result.name: result.run for result in results})
    rows = markdown_rows("SPICE against the behavioural model", shown)[0]
    return table(rows, SIMULATED) + each(results, "first", lambda result: _verification(result.run))


def _verification(run: Entry) -> Markup:
    charts = []
    for part, title in PARTS.items():
        found = run[part]
        spice = [x * 1e9 for x in numbers(found["spice"])]
        series = []
        for key, (name, colour) in CURVES.items():
            if key in found["model"]:
                rms = f"{name}: rms {number(found['rms'][key]) * 1e9:.3f} ns"
                model = [x * 1e9 for x in numbers(found["model"][key])]
                hints = [
                    f"line {n}: model {short(a)} ns, SPICE {short(b)} ns"
                    for n, (a, b) in enumerate(zip(model, spice, strict=True))
                ]
                series.append(Series(rms, model, spice, colour, SIMULATED, line=False, hints=hints))
        charts.append(
            line_chart(
                title,
                series,
                "behavioural model: pulse width, ns",
                "SPICE: pulse width, ns",
                diagonal=True,
                note=f"({SIMULATED})",
            )
        )
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
    return grid(*charts) + (table(rows, SIMULATED, text=(3, 4)) if checks else EMPTY) + warnings


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
    charts = []
    for key, title, label in (
        ("bit_line", "Current lost on a bit line", "% of the line's current"),
        ("word_line", "Charge lost at the end of a word line", "% of the shortest pulse"),
    ):
        points = run[key]
        series = []
        for n, size in enumerate(sorted({number(p["cells"]) for p in points})):
            at = [p for p in points if number(p["cells"]) == size and number(p["resistance"]) > 0]
            series.append(
                Series(
                    f"{size:.0f} cells",
                    [number(p["resistance"]) for p in at],
                    [-100 * number(p["error"]) for p in at],
                    n % 6 + 1,
                    SIMULATED,
                )
            )
        note = f"No point where there is a gain instead of a loss ({SIMULATED})."
        charts.append(
            line_chart(title, series, "resistance, Ω per cell", label, log_x=True, log_y=True, note=note)
        )
    shown = [table(rows, SIMULATED) for rows in markdown_rows("Wires", spice_tables.wires(dict(run)))]
    return grid(*charts) + EMPTY.join(shown)


def devices(results: Sequence[Result]) -> Markup:
    """Fits to measured cells."""
    return each(results, "fit", lambda result: _device(result.run))


def _device(run: Entry) -> Markup:
    curves = run["curves"]
    u, kind = numbers(curves["u"]), curves["nominal"]["kind"]
    series = [
        Series("a cell each" if n == 0 else "", u, cell, 7, faint=True, marks=False)
        for n, cell in enumerate(curves["cells"]["value"])
    ]
    series.append(Series("fit", u, numbers(curves["nominal"]), 1, kind, marks=False))
    charts = [line_chart(run["title"], series, "u, V", "current, charge units", note=f"({kind})")]
    decays = []
    for n, held in enumerate(run["decays"]):
        time, colour, first = numbers(held["time"]), n % 6 + 1, n == 0
        found = Series("measured" if first else "", time, numbers(held["measured"]), colour, kind, line=False)
        fitted = Series("fit" if first else "", time, numbers(held["fitted"]), colour, marks=False)
        decays += [found, fitted]
    if decays:
        charts.append(line_chart("Decay of stored voltages", decays, "time, s", "stored voltage, V"))
    return grid(*charts) + _fit(run)


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
