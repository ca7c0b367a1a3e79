"""Sections on how a model came onto the arrays: adaptation, codes, the cell, cells of the literature."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gaincell.reports.costs import Rows
from gaincell.reports.figures import FLOOR, STAGES, closed_label
from gaincell.reports.html.heat import heat_map
from gaincell.reports.html.histogram import histogram
from gaincell.reports.html.lines import Level, Series, line_chart
from gaincell.reports.html.markup import EMPTY, element, grid
from gaincell.reports.html.result import Entry, Result, each, protocol, whole
from gaincell.reports.html.scales import wide
from gaincell.reports.html.tables import only_kind, table
from gaincell.reports.results import number, numbers
from gaincell.reports.tables import adaptation_lines, readable

OUTLINES = {"linear": (7, False), "unadapted": (2, True), "adapted": (1, False)}
SPREADS = {"std": "standard deviation, |σ / target − 1|", "mean": "mean, |μ − target| / σ"}


def adaptation(results: Sequence[Result]) -> Markup:
    """What the adaptations achieved."""
    return each(results, "adaptation", _adaptation)


def _adaptation(result: Result) -> Markup:
    run = result.run
    lines = element("ul", *(element("li", line) for line in adaptation_lines(run)), class_="plain")
    left_out = [
        element("li", f"{name}: {len(found[what])} {what}: {', '.join(found[what])}")
        for name, found in run["adaptation"].items()
        for what in ("skipped", "saturated")
        if found.get(what)
    ]
    words = element("ul", *left_out, class_="plain")
    more = (
        element("details", element("summary", "Left out or saturated"), words, class_="more")
        if left_out
        else EMPTY
    )
    return lines + more + grid(*_history(run)) + grid(*_mismatch(run), small=True)


def _history(run: Entry) -> list[Markup]:
    published, closed = run["adaptation"].get("published", {}), run["adaptation"].get("closed-form", {})
    if "history" not in published:
        return []
    history = published["history"]
    iteration, name = numbers(history["iteration"]), "published iteration"
    kind = only_kind(history)
    found, residuals = numbers(history["perplexity"]), numbers(history["residual"])
    levels = [
        Level("closed form", number(closed[key]), 2) for key in ("calibration_perplexity",) if key in closed
    ]
    left = number(closed["residual"]) if closed else 0.0
    ends = [Level(closed_label(left), max(left, FLOOR), 2)] if closed else []
    return [
        line_chart(
            "Perplexity of the calibration text",
            [Series(name, iteration, found, 1, kind)],
            "iteration",
            "perplexity",
            log_y=wide(found),
            levels=levels,
        ),
        line_chart(
            "Distance from the target statistics",
            [Series(name, iteration, [max(r, FLOOR) for r in residuals], 1, kind)],
            "iteration",
            "largest residual, fraction of σ",
            log_y=True,
            levels=ends,
        ),
    ]


def _mismatch(run: Entry) -> list[Markup]:
    """Only maps that show anything: what was no distance before needs no picture."""
    maps = []
    for stage, name in STAGES.items():
        for spread, title in SPREADS.items():
            for when in ("before", "after"):
                entry = run.get("mismatch", {}).get(when, {}).get(stage, {}).get(spread)
                if entry is None or all(float(x) <= FLOOR for row in entry["value"] for x in row):
                    continue
                heads = "key/value head" if stage in ("k", "v") else "head"
                maps.append(
                    heat_map(
                        f"{name} {when} adaptation: {title}",
                        entry["value"],
                        kind=entry["kind"],
                        columns=heads,
                        low=0.0,
                    )
                )
    return maps


def codes(results: Sequence[Result]) -> Markup:
    """Histograms of the codes."""
    return each(results, "codes", lambda result: grid(*_codes(result.run), small=True))


def _codes(run: Entry) -> list[Markup]:
    charts = []
    for stage, title in STAGES.items():
        shares = {
            name: (numbers(found[stage]["code"]), [100 * x for x in numbers(found[stage]["share"])])
            for name, found in run["codes"].items()
        }
        colours = {name: OUTLINES.get(name, (3, False)) for name in shares}
        label = "sum of the sub-tiles' codes" if stage == "out" else "code"
        charts.append(
            histogram(
                title.capitalize(),
                shares,
                colours,
                x_label=label,
                log=stage == "out",
                kind=only_kind(run["codes"]),
            )
        )
    return charts


def cell(results: Sequence[Result]) -> Markup:
    """Currents of the cells beside one another."""
    charts = []
    for result in results:
        with whole(result, "cell"):
            charts.append(_cell(f"{result.name}: current of one gain cell", result.run["cell"]))
    return grid(*charts)


def _cell(title: str, found: Entry) -> Markup:
    u = numbers(found["u"])
    kind, unit = only_kind(found), found["u"]["unit"]
    names = {
        "linear": ("linear (ideal)", 7),
        "nonlinear": (found["name"], 1),
        "F": (found.get("title", found["name"]), 1),
    }
    series = [
        Series(name, u, numbers(found[key]), colour, kind, dashed=key == "linear", marks=False)
        for key, (name, colour) in names.items()
        if key in found
    ]
    label = next(found[key]["unit"] for key in names if key in found)
    return line_chart(
        title,
        series,
        f"stored voltage from its offset, {unit}",
        f"F(u) at full pulse, {label}",
        note=f"({kind})",
    )


def cells(results: Sequence[Result]) -> Markup:
    """Cells and chips of recipes/cells.py, a row a result."""
    rows, kinds = [], []
    named = dict.fromkeys(name for result in results for name in result.run["stages"])
    facts = {
        "retention_time": "retention, s",
        "deviation": "deviation from a line",
        "tokens_to_1_e": "tokens to 1/e",
    }
    shown = [key for key in facts if any(key in result.run for result in results)]
    for result in results:
        with whole(result, "stages"):
            run = result.run
            row = [f"{result.name}, {run['design']['name']}, {run['design']['cell']}"]
            kind: list[str | None] = [None]
            for key in shown:
                row.append(f"{number(run[key]):.4g}" if key in run else "–")
                kind.append(run[key]["kind"] if key in run else None)
            for name in named:
                stage = run["stages"].get(name)
                row.append("–" if stage is None else _perplexity(stage))
                kind.append(None if stage is None else stage["perplexity"]["kind"])
            rows.append(row)
            kinds.append(kind)
    headings = ["cell", *(facts[key] for key in shown), *(f"perplexity, {name}" for name in named)]
    caption = f"{protocol(results[0].run)}; ± is the standard error over blocks."
    return table(Rows("Cells", headings, rows, caption), lambda r, c: kinds[r][c])


def _perplexity(stage: Entry) -> str:
    error = f" ± {readable(number(stage['perplexity_error']))}" if "perplexity_error" in stage else ""
    return f"{readable(number(stage['perplexity']))}{error}"
