"""Sections on how well the model does: perplexity, training, tasks, chips, ablation, pauses, context."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from gaincell.reports.ablation import TITLES, ablation_rows
from gaincell.reports.chips import HEADINGS as CHIPS
from gaincell.reports.chips import chips_rows
from gaincell.reports.comparison import cell, compare, heading
from gaincell.reports.costs import Rows
from gaincell.reports.html.lines import Level, Series, line_chart
from gaincell.reports.html.markup import EMPTY, grid, pair
from gaincell.reports.html.result import Entry, Result, each, protocol, whole
from gaincell.reports.html.rows import Row, row_chart
from gaincell.reports.html.scales import wide
from gaincell.reports.html.tables import folded, only_kind, table
from gaincell.reports.results import number, number_or_nan, numbers
from gaincell.reports.tables import HEADINGS, perplexity_rows, readable
from gaincell.reports.training import by_loss, smoothed, tokens_of

LOWER = "perplexity, lower is better"
TOKENS = "tokens of this training"
STAGE_COLOURS = {"linear": 6, "unadapted": 2, "adapted": 4, "fine-tuned": 3}
PAUSE = ("perplexity", "perplexity_error", "chip_time", "refreshes", "writes")
WORDS = "word_perplexity"
COMPARED = ("perplexity", "× software")
"""Columns of the perplexities of several results side by side."""


def perplexity(results: Sequence[Result]) -> Markup:
    """Stages of a run: side by side where there are several, then each."""
    together = _side_by_side(results) if len(results) > 1 else EMPTY
    return together + each(results, "stages", _stages)


def _stages(result: Result) -> Markup:
    stages = result.run["stages"]

    def kind(row: int, column: int) -> str | None:
        return None if column == 1 else str(stages[row]["perplexity"]["kind"])  # tokens are counted

    text = result.run.get("text", {}).get("name")
    words = [*([f"text {text}"] if text else []), protocol(result.run), "± is the standard error over blocks"]
    caption = f"{'; '.join(words)}."
    rows = Rows("Perplexity of every stage", HEADINGS, perplexity_rows(result.run), caption)
    found = [number(stage["perplexity"]) for stage in stages]
    drawn = [
        Row(
            stage["title"],
            number(stage["perplexity"]),
            readable(number(stage["perplexity"])),
            7 if stage["name"].startswith("software") else STAGE_COLOURS.get(stage["name"], 1),
            stage["perplexity"]["kind"],
            number(stage["perplexity_error"]) if "perplexity_error" in stage else None,
        )
        for stage in stages
        if math.isfinite(number(stage["perplexity"]))
    ]
    chart = row_chart("Perplexity", drawn, LOWER, log=wide(found), note="Lines: standard error over blocks.")
    return pair(table(rows, kind), chart)


def _side_by_side(results: Sequence[Result]) -> Markup:
    cells: dict[str, dict[int, tuple[str, str]]] = {}
    at, over = (HEADINGS.index(name) for name in COMPARED)
    for n, result in enumerate(results):
        with whole(result, "stages"):
            for stage, row in zip(result.run["stages"], perplexity_rows(result.run), strict=True):
                ratio = "" if row[over] == "–" else f" (× {row[over]})"
                cells.setdefault(stage["title"], {})[n] = (row[at] + ratio, str(stage["perplexity"]["kind"]))
    every = list(cells.values())
    columns = range(len(results))
    rows = [[title, *(found.get(n, ("–", ""))[0] for n in columns)] for title, found in cells.items()]
    caption = "In brackets: over the software model. Protocols and texts stand with each result below."
    shown = Rows("Perplexity side by side", ["stage", *(result.name for result in results)], rows, caption)
    return table(shown, lambda r, c: every[r].get(c - 1, ("", ""))[1] or None)


def has_training(result: Result) -> bool:
    """Whether there is a curve to draw."""
    stages = result.run.get("stages")
    curves = isinstance(stages, list) and any(isinstance(s, dict) and "curve" in s for s in stages)
    return curves or any("loss" in line for line in result.log)


def training(results: Sequence[Result]) -> Markup:
    """Every loss at every step, and perplexity as it was trained."""
    return each(results, "stages", lambda result: grid(*_losses(result), _curves(result.run)))


def _losses(result: Result) -> list[Markup]:
    """A chart for every loss, and one for the evaluations."""
    named = by_loss(result.log)
    runs = list(dict.fromkeys(run for group in named.values() for run in group))
    colours = {run: n % 6 + 1 for n, run in enumerate(runs)}
    charts, tested = [], []
    for title, group in named.items():
        series, averaged = [], False
        for run, lines in group.items():
            x, every = tokens_of(lines), [float(line["loss"]) for line in lines]
            bold, colour = smoothed(every), colours[run]
            averaged |= bold != every
            series.append(Series("", x, every, colour, faint=True, marks=False))
            series.append(Series(run, x, bold, colour, marks=False))
            some = [line for line in lines if "evaluation" in line]
            if some:
                found = [float(line["evaluation"]) for line in some]
                tested.append(Series(run, tokens_of(some), found, colour))
        log = wide([y for s in series for y in s.y])
        note = "Thin: every step; bold: mean over the last steps." if averaged else ""
        charts.append(line_chart(f"Training: {title}", series, TOKENS, title, log_y=log, note=note))
    if tested:
        log = wide([y for s in tested for y in s.y])
        charts.append(line_chart("Evaluations in training", tested, TOKENS, LOWER, log_y=log))
    return charts


def _curves(run: Entry) -> Markup:
    trained = (
        [s for s in run.get("stages", ()) if "curve" in s] if isinstance(run.get("stages"), list) else []
    )
    if not trained:
        return EMPTY
    series = [
        Series(
            stage["title"],
            numbers(stage["curve"]["step"]),
            numbers(stage["curve"]["perplexity"]),
            n % 6 + 1,
            stage["curve"]["perplexity"]["kind"],
            dashed=stage["perplexity"]["kind"] == "measured",
        )
        for n, stage in enumerate(trained)
    ]
    levels = [Level("software", number(run["software"]))] if "software" in run else []
    found = [y for s in series for y in s.y] + [level.y for level in levels]
    note = "Dashed, with dots: softmax attention." if any(s.dashed for s in series) else ""
    return line_chart(
        "Perplexity of evaluation text",
        series,
        "steps of the stage",
        "perplexity",
        log_y=wide(found),
        levels=levels,
        note=note,
    )


def tasks(results: Sequence[Result]) -> Markup:
    """The table of several evaluations, compared with the first of them on the same items."""
    for result in results:
        with whole(result, "tasks"):
            compare({result.name: result.run})
    found = compare({result.name: result.run for result in results})
    headings = ["", *(heading(column) for column in found.columns)]
    rows, kinds = [], []
    for result in results:
        entries = found.rows[result.name]
        shown = [
            cell(entries[c], c, "\n").partition("\n") if c in entries else ("–", "", "")
            for c in found.columns
        ]
        kind = only_kind([entry["metrics"] for entry in result.run["tasks"]])
        rows.append([result.name, *(value for value, _, _ in shown)])
        kinds.append(kind)
        if any(change for _, _, change in shown):
            rows.append([f"  to {found.reference}, paired", *(change or "–" for _, _, change in shown)])
            kinds.append(kind)
    title = "Tasks, accuracies in %"
    return table(Rows(title, headings, rows, " ".join(found.notes)), lambda r, _: kinds[r])


def chips(results: Sequence[Result]) -> Markup:
    """The spread over virtual chips."""
    rows, drawn = [], []
    for n, result in enumerate(results):
        with whole(result, "chips"):
            found = result.run["chips"]
            rows += chips_rows({result.name: result.run})
            mean, std = number(found["mean"]), number(found["std"]) if "std" in found else None
            spread = "" if std is None else f" ± {std:.2g}"
            shown = f"{readable(mean)}{spread}, nominal {readable(number(found['nominal']))}"
            also = numbers(found["perplexity"])
            drawn.append(Row(result.name, mean, shown, n % 6 + 1, only_kind(found), std, None, also))
    kind = only_kind([result.run["chips"] for result in results])
    headings = ("result", *CHIPS[1:])
    caption = f"{protocol(results[0].run)}; every chip on the same text."
    note = "Pale dots: a chip each; full dot and line: mean and standard deviation of the chips."
    chart = row_chart("Perplexity of every chip", drawn, LOWER, dots=True, note=note)
    return pair(table(Rows("Virtual chips", headings, rows, caption), kind), chart)


def ablation(results: Sequence[Result]) -> Markup:
    """What every constraint costs."""
    return each(results, "ablation", _ablation)


def _ablation(result: Result) -> Markup:
    found = result.run["ablation"]
    rows = [(name, kind, meaning, *rest) for kind, name, meaning, *rest in ablation_rows(result.run)]
    caption = f"{protocol(result.run)}; nothing trained; ± standard error of the paired ratio."
    headings = ("constraint", "switched", "meaning", "perplexity", "ratio", "±")
    charts = []
    for colour, (kind, title) in enumerate(TITLES.items(), start=1):
        base, *rest = [row for row in found if row["kind"] == kind]
        drawn = [
            Row(
                row["name"],
                number(row["ratio"]),
                f"{number(row['ratio']):.4f}",
                colour,
                row["ratio"]["kind"],
                number(row["ratio_error"]) if "ratio_error" in row else None,
            )
            for row in rest
        ]
        label = f"perplexity / {readable(number(base['perplexity']))} ({base['name']})"
        log = wide([row.number for row in drawn])
        charts.append(row_chart(title.capitalize(), drawn, label, log=log, dots=True, reference=1.0))
    shown = table(Rows("Constraints of the hardware", headings, rows, caption), only_kind(found), text=(1, 2))
    return grid(*charts) + shown


def pauses(results: Sequence[Result]) -> Markup:
    """Perplexity against idle time."""
    series, rows, kinds = [], [], []
    for n, result in enumerate(results):
        with whole(result, "pauses"):
            found = result.run["pauses"]
            series.append(_pause(result.name, found, n % 6 + 1))
            for row in found:
                first, error, time, *counts = (row[key] for key in PAUSE)
                shown = [readable(number(first)), _error(error), f"{number(time):.4g}"]
                name = f"{result.name}, {number(row['idle']):g} s"
                rows.append([name, *shown, *(f"{number(entry):,.0f}" for entry in counts)])
                kinds.append([None, *(row[key]["kind"] for key in PAUSE)])
    caption = f"{protocol(results[0].run)}; ± standard error; time, refreshes and columns: of one block."
    headings = ("idle time", "perplexity", "±", "time on the chip, s", "refreshes", "columns written")
    log = wide([y for s in series for y in s.y])
    label = "idle time, s (leftmost: none)"
    chart = line_chart("What a pause costs", series, label, "perplexity", log_x=True, log_y=log)
    numbers_of = Rows("Pauses", headings, rows, caption)
    return grid(chart) + folded(numbers_of.title, table(numbers_of, lambda r, c: kinds[r][c]))


def _pause(name: str, found: Sequence[Entry], colour: int) -> Series:
    """No pause has no place on a logarithmic axis: it stands left of the shortest."""
    idle = [number(row["idle"]) for row in found]
    first = min((x for x in idle if x > 0), default=1.0) / 10
    perplexities = [number(row["perplexity"]) for row in found]
    hints = [f"idle {x:g} s: perplexity {readable(y)}" for x, y in zip(idle, perplexities, strict=True)]
    return Series(
        name,
        [max(x, first) for x in idle],
        perplexities,
        colour,
        found[0]["perplexity"]["kind"],
        [number_or_nan(row["perplexity_error"]) for row in found],
        hints=hints,
    )


def _error(entry: Entry) -> str:
    error = number_or_nan(entry)
    return "–" if math.isnan(error) else readable(error)


def evaluation(results: Sequence[Result]) -> Markup:
    """Perplexities of one model each, by tokens (blocks-T, strided-T-S) or by words (rolling-T)."""
    rows, kinds = [], []
    for result in results:
        with whole(result, "perplexity"):
            run = result.run
            key = measured_by(run) or "perplexity"
            bits = readable(number(run["bits_per_byte"])) if "bits_per_byte" in run else "–"
            error = readable(number(run[f"{key}_error"])) if f"{key}_error" in run else "–"
            counted, by = f"{number(run['predictions']):,.0f}", "words" if key == WORDS else "tokens"
            rows.append([result.name, readable(number(run[key])), error, bits, by, counted, protocol(run)])
            kinds.append(str(run[key]["kind"]))
    headings = ("result", "perplexity", "±", "bits per byte", "by", "predictions", "protocol")
    shown = Rows("Perplexity of a text", headings, rows, "")
    return table(shown, lambda row, column: kinds[row] if column in (1, 2, 3) else None, text=(4, 6))


def measured_by(run: Entry) -> str | None:
    """The entry that holds the one perplexity of a result; None if there is none."""
    found = (key for key in ("perplexity", WORDS) if isinstance(run.get(key), dict))
    return next(found, None)


def context(results: Sequence[Result]) -> Markup:
    """Perplexity against the length of the context: several models of a result, or one."""
    several = [result for result in results if "curves" in result.run]
    one = [result for result in results if "curves" not in result.run]
    return each(several, "curves", _of_several) + each(
        one, "context", lambda result: grid(_context(result.run, {result.name: result.run["context"]}))
    )


def repetition(results: Sequence[Result]) -> Markup:
    """Loss on tokens that stood in the context before, and on others."""
    rows, kinds = [], []
    for result in results:
        with whole(result, "repetition"):
            for row in result.run["repetition"]:
                cells = [
                    readable(number(row["perplexity"])),
                    f"{number(row['nll']):.3f}",
                    f"{number(row['tokens']):,.0f}",
                ]
                rows.append([f"{result.name}, {row['kind']}", *cells])
                kinds.append([None, *(row[key]["kind"] for key in ("perplexity", "nll", "tokens"))])
    headings = ("tokens", "perplexity", "nats a token", "predictions")
    found = Rows("What is found again", headings, rows, f"{protocol(results[0].run)}.")
    return table(found, lambda r, c: kinds[r][c])


def _of_several(result: Result) -> Markup:
    found = {}
    for curve in result.run["curves"]:
        layers, window = (int(number(curve[key])) for key in ("layers", "window"))
        found[f"{layers} layer{'s' if layers > 1 else ''}, window {window}"] = curve["context"]
    return grid(_context(result.run, found))


def _context(run: Entry, curves: Mapping[str, Sequence[Entry]]) -> Markup:
    series = [
        Series(
            name,
            [number(point["context"]) for point in points],
            [number(point["excess"]) for point in points],
            n % 7 + 1,
            only_kind(points[0]["excess"]),
            [number_or_nan(point["excess_error"]) for point in points],
        )
        for n, (name, points) in enumerate(curves.items())
    ]
    return line_chart(
        "How far back a model looks",
        series,
        "tokens of context",
        "nats per token above all of it",
        log_x=True,
        ticks=series[0].x,
        note=protocol(run),
    )
