"""Sections on what a token costs: energy, latency, area; floorplan; other machines; a step over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from gaincell.reports import costs as tables
from gaincell.reports import costs_around as around
from gaincell.reports.baseline import baseline_rows, per_token, skipped_lines
from gaincell.reports.baseline import title as baseline_title
from gaincell.reports.costs import Rows
from gaincell.reports.floorplan import KINDS, MICRO, SHOWN_WIRES, area_caption, area_rows, boxes
from gaincell.reports.html.floorplan import plan
from gaincell.reports.html.heat import heat_map
from gaincell.reports.html.lines import Series, line_chart
from gaincell.reports.html.markup import EMPTY, element, grid
from gaincell.reports.html.pie import pie
from gaincell.reports.html.result import Entry, Result, each, protocol
from gaincell.reports.html.rows import Row, row_chart
from gaincell.reports.html.tables import only_kind, table
from gaincell.reports.html.timeline import power
from gaincell.reports.results import number, numbers

BLOCKS = {
    "first dot product": 1,
    "second dot product": 3,
    "write": 5,
    "digital": 4,
    "leakage": 7,
    "refresh": 2,
}
PHASES = {
    "scale inputs": 7,
    "key write": 5,
    "value write": 6,
    "key read": 1,
    "value read": 3,
    "count": 4,
    "add": 2,
    "scale output": 7,
}
COLUMNS = (("cited", "cited"), ("bottom_up", "bottom-up"))
SIMULATED, CITED = "simulated", "cited"


def costs(results: Sequence[Result]) -> Markup:
    """A token in gain cells: side by side where there are several, then each."""
    many = {result.name: result.run for result in results}
    models = tables.models(many)
    kind = _by_heading(models)
    together = table(models, lambda r, c: kind(r, c) if c > 2 else None) if len(results) > 1 else EMPTY
    return together + each(results, "head", lambda result: _cost(result.run))


def _cost(run: Entry) -> Markup:
    notes = element(
        "ul", *(element("li", note[0].upper() + note[1:]) for note in run["notes"]), class_="plain"
    )
    summary = tables.summary(run)
    pictures = [*_pies(run), _factors(run), _power(run), *_heads(run)]
    first = [
        table(summary, lambda r, _: CITED if ", cited" in summary.rows[r][0] else SIMULATED),
        grid(*pictures),
        notes if run["notes"] else EMPTY,
        table(tables.energy(run), _by_heading(tables.energy(run))),
        table(tables.area(run), _by_heading(tables.area(run))),
    ]
    machines = run.get("machines", [])
    if machines:
        first.append(
            table(around.machines(run), lambda r, c: machines[r]["latency"]["kind"] if c < 3 else SIMULATED)
        )
    return EMPTY.join(first) + _more(run)


def _more(run: Entry) -> Markup:
    """What explains the numbers, folded."""
    parts = [grid(*_sweeps(run))] if "sweeps" in run else []
    if "areas" in run:
        parts.append(table(tables.variants(run), _by_heading(tables.variants(run))))
    if "whole_model" in run:
        parts.append(table(around.whole_model(run), SIMULATED))
    if "why" in run:
        parts += [table(around.cache(run), SIMULATED), table(around.memories(run), SIMULATED)]
    if "sensitivity" in run:
        parts.append(table(tables.sensitivity(run, tables.MOST), SIMULATED))
    process = tables.technology(run)
    found = list(run["technology"]["numbers"].values())
    parts.append(table(process, lambda r, c: found[r]["kind"] if c == 1 else None, text=(2,)))
    words = "Sweeps, cells and stacks, whole model, memories, sensitivity, technology, what is left out"
    if "left_out" in run:
        parts.append(table(tables.left_out(run)))
    return element("details", element("summary", words), *parts, class_="more")


def _by_heading(rows: Rows) -> Callable[[int, int], str]:
    """Columns that are called cited hold cited numbers; the others follow from a model."""
    return lambda r, c: CITED if "cited" in rows.headings[c] and "×" not in rows.headings[c] else SIMULATED


def _pies(run: Entry) -> list[Markup]:
    charts = []
    for where, title in COLUMNS:
        lines = [line for line in run["head"]["lines"] if where in line and number(line[where]) > 0]
        parts = [
            (line["name"], number(line[where]), tables.readable(line[where]), BLOCKS.get(line["name"], 2))
            for line in lines
        ]
        if parts:
            whole = tables.readable(run["head"][where]["energy"])
            name = f"Energy of a head and token, {title}"
            charts.append(pie(name, parts, whole, run["head"][where]["energy"]["kind"]))
    return charts


def _factors(run: Entry) -> Markup:
    rows = []
    for line in run["head"]["lines"]:
        if "factor" in line:
            band, factor = number(line["band"]), number(line["factor"])
            inside = "inside" if line["inside"] else "outside its band"
            rows.append(
                Row(
                    line["name"],
                    factor,
                    f"× {factor:.2g}, {inside}",
                    1 if line["inside"] else 2,
                    line["factor"]["kind"],
                    None,
                    (1 / band, band),
                )
            )
    if not rows:
        return EMPTY
    note = "Grey: the band in which it was expected."
    return row_chart("Bottom-up over cited", rows, "factor", log=True, reference=1.0, note=note)


def _power(run: Entry) -> Markup:
    shown = [p for p in run["head"]["phases"] if number(p["duration"]) > 0]
    shown.sort(key=lambda p: -number(p["duration"]))
    phases = [
        (
            p["name"],
            number(p["start"]) * 1e9,
            number(p["duration"]) * 1e9,
            number(p["energy"]) / number(p["duration"]) * 1e3,
            tables.readable(p["energy"]),
            PHASES.get(p["name"], 7),
        )
        for p in shown
    ]
    note = "Power of a head, bottom-up; the area of a bar is its energy."
    return power("A step over time", phases, only_kind(run["head"]["phases"]), note) if phases else EMPTY


def _heads(run: Entry) -> list[Markup]:
    found = run["model_cost"]["heads"]
    energies = numbers(found["energy"])
    if len(energies) < 2:
        return []
    rows: dict[int, list[float]] = {}
    for layer, drawn in zip(numbers(found["layer"]), energies, strict=True):
        rows.setdefault(int(layer), []).append(drawn * 1e9)
    return [
        heat_map(
            "Energy of every head",
            [rows[n] for n in sorted(rows)],
            kind=found["energy"]["kind"],
            unit="nJ per token",
            columns="query head",
        )
    ]


def _sweeps(run: Entry) -> list[Markup]:
    charts = []
    for name, sweep in run["sweeps"].items():
        at = numbers(sweep["at"])
        unit = f", {sweep['at']['unit']}" if sweep["at"]["unit"] != "1" else ""
        ticks = () if name == "retention_time" else at
        energy = [
            Series("bottom-up", at, [e * 1e9 for e in numbers(sweep["energy"])], 1, sweep["energy"]["kind"]),
            Series(
                "cited, scaled", at, [e * 1e9 for e in numbers(sweep["energy_cited"])], 7, CITED, dashed=True
            ),
        ]
        charts.append(
            line_chart(
                f"Energy over {sweep['title']}",
                energy,
                f"{sweep['title']}{unit}",
                "energy of a head, nJ",
                log_x=True,
                zero=True,
                ticks=ticks,
            )
        )
        key, label, scale = (
            ("throughput", "million tokens/s of a layer", 1e-6)
            if name == "batch"
            else ("latency", "step, ns", 1e9)
        )
        other = [Series("", at, [x * scale for x in numbers(sweep[key])], 4, sweep[key]["kind"])]
        charts.append(
            line_chart(
                f"{key.capitalize()} over {sweep['title']}",
                other,
                f"{sweep['title']}{unit}",
                label,
                log_x=True,
                zero=True,
                ticks=ticks,
            )
        )
    return charts


def floorplans(results: Sequence[Result]) -> Markup:
    """A sub-tile and a head to scale, and what takes how much of it."""
    return each(results, "floorplan", lambda result: _floorplan(result.run))


def _floorplan(run: Entry) -> Markup:
    tile, head = run["floorplan"]["tile"], run["floorplan"]["head"]
    kind, inside = only_kind(run["floorplan"]), boxes(tile)
    kinds = list(KINDS.items())
    taps = numbers(tile["wires"]["x"])
    shown = dict.fromkeys(round((n + 0.5) * len(taps) / SHOWN_WIRES - 0.5) for n in range(SHOWN_WIRES))
    named = {box.name: box for box in inside}
    wires = []
    for n in shown:
        x, y, to = (numbers(tile["wires"][side])[n] * MICRO for side in ("x", "y", "to"))
        key, value = named["key array"], named["value array"]
        wires += [((x, key.y), (x, key.y + key.h)), ((x, y), (to, y)), ((value.x, y), (value.x + value.w, y))]
    sizes = [(number(part["w"]) * MICRO, number(part["h"]) * MICRO) for part in (tile, head)]
    note = f"{len(shown)} of {len(taps)} wires are drawn."
    headings, *rows = area_rows(run)
    return (
        grid(
            plan("Sub-tile", sizes[0], inside, kinds, wires=wires, kind=kind, note=note),
            plan("Head", sizes[1], boxes(head), kinds, inner=inside, kind=kind),
        )
        + table(Rows("Area of a head", headings, rows, area_caption(run)), only_kind(run["areas"]))
        + _stacks(run)
    )


def _stacks(run: Entry) -> Markup:
    rows = [
        [
            f"{number(row['layers']):.0f}",
            *(f"{number(row[key]) * 1e6:.4f}" for key in ("cells", "head", "cited_cells")),
        ]
        for row in run.get("stack", ())
    ]
    headings = ("layers", "cells, mm²", "head, mm²", "paper's cells, mm²")
    found = Rows("Cells stacked in 3D over one periphery", headings, rows)
    return table(found, lambda _, c: CITED if c == 3 else SIMULATED) if rows else EMPTY


def baselines(results: Sequence[Result]) -> Markup:
    """Softmax attention timed on a machine."""
    return each(results, "measurements", _baseline)


def _baseline(result: Result) -> Markup:
    run = result.run
    shown, charts = [element("p", baseline_title(run), class_="lead")], []
    for context, (headings, *rows) in baseline_rows(run).items():
        title = f"{context:,} keys: µs per token, by batch"
        cited = [CITED if "(cited)" in row[0] else "measured" for row in rows]
        found = Rows(
            title, ["implementation", *(f"batch {h}" if h.isdigit() else h for h in headings[1:])], rows
        )
        shown.append(table(found, lambda r, _, cited=cited: cited[r]))  # type: ignore[misc]
        charts.append(_timed(run, context))
    skipped = [element("li", line) for line in skipped_lines(run)]
    notes = element("ul", *skipped, class_="plain") if skipped else EMPTY
    return EMPTY.join(shown) + grid(*charts) + notes + element("p", protocol(run), class_="note")


def _timed(run: Entry, context: int) -> Markup:
    lines: dict[str, list[tuple[float, float]]] = {}
    for m in run["measurements"]:
        if int(number(m["context"])) == context:
            name = f"{m['implementation']}, {m['dtype']}"
            lines.setdefault(name, []).append((number(m["batch"]), per_token(m) * 1e6))
    series = []
    for n, (name, points) in enumerate(lines.items()):
        x, y = zip(*sorted(points), strict=True)
        series.append(Series(name, x, y, n % 7 + 1, "measured", dashed=n >= 7))
    batches = sorted({x for s in series for x in s.x})
    title = f"Time per token and layer, {context:,} keys"
    return line_chart(title, series, "batch", "µs", log_x=True, log_y=True, ticks=batches)
