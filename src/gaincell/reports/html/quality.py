"""Sections on how well the model does: perplexity, training, tasks, chips, ablation, pauses, context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

from markupsafe import Markup

from gaincell.reports import figures, hardware
from gaincell.reports.ablation import ablation_figure, ablation_rows
from gaincell.reports.chips import HEADINGS as CHIPS
from gaincell.reports.chips import chips_rows, draw_chips
from gaincell.reports.comparison import cell, compare, heading
from gaincell.reports.costs import Rows
from gaincell.reports.html.markup import EMPTY, grid, pair
from gaincell.reports.html.picture import picture, plain
from gaincell.reports.html.result import Entry, Result, each, each_of, protocol, whole
from gaincell.reports.html.tables import folded, only_kind, table
from gaincell.reports.results import number, number_or_nan, numbers
from gaincell.reports.tables import HEADINGS, perplexity_rows, readable
from gaincell.reports.training import curves, losses
from gaincell.results.evaluation import AblationResult

SIMULATED = "simulated"
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
    note = "Lines: standard error over blocks."
    drawn = figures.perplexities(result.run)
    return pair(
        table(rows, kind), picture("Perplexity", drawn, kind=only_kind(stages), note=note, numbers=())
    )


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
    return each(results, "stages", _training)


def _training(result: Result) -> Markup:
    stages = result.run.get("stages")
    trained = [s for s in stages if "curve" in s] if isinstance(stages, list) else []
    drawn = {
        ("Training", ""): losses(result.log),
        ("Perplexity of evaluation text", only_kind(trained)): curves(result.run) if trained else None,
    }
    return grid(*(picture(title, found, kind=kind) for (title, kind), found in drawn.items() if found))


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
    rows, columns, drawn = [], [], {}
    for result in results:
        with whole(result, "chips"):
            rows += chips_rows({result.name: result.run})
            found = result.run["chips"]
            columns.append([number(found["nominal"]), *numbers(found["perplexity"])])
            drawn[plain(result.name)] = result.run
    kind = only_kind([result.run["chips"] for result in results])
    headings = ("result", *CHIPS[1:])
    caption = f"{protocol(results[0].run)}; every chip on the same text."
    every = [
        [str(n or "nominal"), *("–" if x is None else readable(x) for x in row)]
        for n, row in enumerate(zip_longest(*columns))
    ]
    title = "Perplexity of every chip"
    of_chips = Rows(title, ("chip", *(result.name for result in results)), every)
    chart = picture(title, draw_chips(drawn, "result"), kind=kind, numbers=[of_chips])
    return pair(table(Rows("Virtual chips", headings, rows, caption), kind), chart)


def ablation(results: Sequence[Result]) -> Markup:
    """What every constraint costs."""
    return each_of(results, AblationResult, _ablation)


def _ablation(result: AblationResult) -> Markup:
    rows = [(name, kind, meaning, *rest) for kind, name, meaning, *rest in ablation_rows(result)]
    caption = f"{result.provenance.protocol}; nothing trained; ± standard error of the paired ratio."
    headings = ("constraint", "switched", "meaning", "perplexity", "ratio", "±")
    chart = picture("Ratios of perplexities", ablation_figure(result), kind=SIMULATED, numbers=())
    return chart + table(Rows("Constraints of the hardware", headings, rows, caption), SIMULATED, text=(1, 2))


def pauses(results: Sequence[Result]) -> Markup:
    """Perplexity against idle time."""
    rows, kinds = [], []
    for result in results:
        with whole(result, "pauses"):
            found = result.run["pauses"]
            for row in found:
                first, error, time, *counts = (row[key] for key in PAUSE)
                shown = [readable(number(first)), _error(error), f"{number(time):.4g}"]
                name = f"{result.name}, {number(row['idle']):g} s"
                rows.append([name, *shown, *(f"{number(entry):,.0f}" for entry in counts)])
                kinds.append([None, *(row[key]["kind"] for key in PAUSE)])
    caption = f"{protocol(results[0].run)}; ± standard error; time, refreshes and columns: of one block."
    headings = ("idle time", "perplexity", "±", "time on the chip, s", "refreshes", "columns written")
    drawn = hardware.pauses([result.run for result in results], [plain(result.name) for result in results])
    kind = only_kind([result.run["pauses"] for result in results])
    numbers_of = Rows("Pauses", headings, rows, caption)
    return picture("What a pause costs", drawn, kind=kind, numbers=()) + folded(
        numbers_of.title, table(numbers_of, lambda r, c: kinds[r][c])
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
    return each(several, "curves", _context) + each(one, "context", _context)


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


def _context(result: Result) -> Markup:
    run, title = result.run, "How far back a model looks"
    kind = only_kind([p["excess"] for curve in run.get("curves", [run]) for p in curve["context"]])
    return picture(title, hardware.context(run), kind=kind, note=protocol(run))
