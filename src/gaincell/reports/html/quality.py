"""Sections on how well the model does: perplexity, training, tasks, chips, ablation, pauses, context."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from markupsafe import Markup

from gaincell.reports import figures, hardware
from gaincell.reports.ablation import ablation_figure, ablation_rows
from gaincell.reports.chips import HEADINGS as CHIPS
from gaincell.reports.chips import chips_rows, draw_chips
from gaincell.reports.comparison import cell, compare, heading
from gaincell.reports.html.markup import EMPTY, grid, pair
from gaincell.reports.html.picture import picture, plain
from gaincell.reports.html.result import Result, each, each_of, typed
from gaincell.reports.html.tables import folded, only_kind, table
from gaincell.reports.tables import HEADINGS, Rows, perplexity_rows, readable
from gaincell.reports.training import curves, losses
from gaincell.results.evaluation import (
    AblationResult,
    ChipsResult,
    ContextResult,
    DepthResult,
    PausesResult,
    PerplexityResult,
    RepetitionResult,
    RollingResult,
    TasksResult,
)
from gaincell.results.run import AdaptedResult, StagedResult, StageResult

SIMULATED = "simulated"
COMPARED = ("perplexity", "× software")
"""Columns of the perplexities of several results side by side."""


def perplexity(results: Sequence[Result]) -> Markup:
    """Stages of a run: side by side where there are several, then each."""
    together = _side_by_side(results) if len(results) > 1 else EMPTY
    return together + each_of(results, StagedResult, _stages, lambda run: run.stages)


def _stages(run: StagedResult) -> Markup:
    def kind(row: int, column: int) -> str | None:
        return None if column == 1 else run.stages[row].numbers  # tokens are counted

    text = [f"text {run.text.name}"] if isinstance(run, AdaptedResult) else []
    caption = "; ".join([*text, run.provenance.protocol, "± is the standard error over blocks"])
    rows = Rows("Perplexity of every stage", HEADINGS, perplexity_rows(run), f"{caption}.")
    note = "Lines: standard error over blocks."
    drawn = figures.perplexities(run)
    return pair(
        table(rows, kind), picture("Perplexity", drawn, kind=only_kind(run.stages), note=note, numbers=())
    )


def _side_by_side(results: Sequence[Result]) -> Markup:
    cells: dict[str, dict[int, tuple[str, str]]] = {}
    at, over = (HEADINGS.index(name) for name in COMPARED)
    for n, (_, run) in enumerate(typed(results, StagedResult)):
        for stage, row in zip(run.stages, perplexity_rows(run), strict=True):
            ratio = "" if row[over] == "–" else f" (× {row[over]})"
            cells.setdefault(stage.title, {})[n] = (row[at] + ratio, stage.numbers)
    every = list(cells.values())
    columns = range(len(results))
    rows = [[title, *(found.get(n, ("–", ""))[0] for n in columns)] for title, found in cells.items()]
    caption = "In brackets: over the software model. Protocols and texts stand with each result below."
    shown = Rows("Perplexity side by side", ["stage", *(result.name for result in results)], rows, caption)
    return table(shown, lambda r, c: every[r].get(c - 1, ("", ""))[1] or None)


def has_training(result: Result) -> bool:
    """Whether there is a curve to draw."""
    return bool(_trained(result)) or any("loss" in line for line in result.log)


def _trained(result: Result) -> list[StageResult]:
    """Stages that were evaluated while they were trained."""
    run = result.found
    return [one for one in run.stages if one.curve] if isinstance(run, StagedResult) else []


def training(results: Sequence[Result]) -> Markup:
    """Every loss at every step, and perplexity as it was trained."""
    return each(results, "stages", _training)


def _training(result: Result) -> Markup:
    run, trained = result.found, _trained(result)
    drawn = {
        ("Training", ""): losses(result.log),
        ("Perplexity of evaluation text", only_kind(trained)): curves(run)
        if isinstance(run, StagedResult)
        else None,
    }
    return grid(*(picture(title, found, kind=kind) for (title, kind), found in drawn.items() if found))


def tasks(results: Sequence[Result]) -> Markup:
    """The table of several evaluations, compared with the first of them on the same items."""
    runs = dict(typed(results, TasksResult))
    found = compare(runs)
    headings = ["", *(heading(column) for column in found.columns)]
    rows, kinds = [], []
    for name, run in runs.items():
        entries = found.rows[name]
        shown = [
            cell(entries[c], c, "\n").partition("\n") if c in entries else ("–", "", "")
            for c in found.columns
        ]
        rows.append([name, *(value for value, _, _ in shown)])
        kinds.append(run.numbers)
        if any(change for _, _, change in shown):
            rows.append([f"  to {found.reference}, paired", *(change or "–" for _, _, change in shown)])
            kinds.append(run.numbers)
    title = "Tasks, accuracies in %"
    return table(Rows(title, headings, rows, " ".join(found.notes)), lambda r, _: kinds[r])


def chips(results: Sequence[Result]) -> Markup:
    """The spread over virtual chips."""
    found = dict(typed(results, ChipsResult))
    columns = [[one.chips.nominal, *one.chips.perplexity] for one in found.values()]
    caption = f"{next(iter(found.values())).provenance.protocol}; every chip on the same text."
    every = [
        [str(n or "nominal"), *("–" if x is None else readable(x) for x in row)]
        for n, row in enumerate(zip_longest(*columns))
    ]
    title = "Perplexity of every chip"
    of_chips = Rows(title, ("chip", *found), every)
    drawn = draw_chips({plain(name): one for name, one in found.items()}, "result")
    shown = Rows("Virtual chips", ("result", *CHIPS[1:]), chips_rows(found), caption)
    return pair(table(shown, SIMULATED), picture(title, drawn, kind=SIMULATED, numbers=[of_chips]))


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
    found = list(typed(results, PausesResult))
    rows = [
        [
            f"{name}, {row.idle:g} s",
            readable(row.perplexity),
            "–" if row.perplexity_error is None else readable(row.perplexity_error),
            f"{row.chip_time:.4g}",
            f"{row.refreshes:,.0f}",
            f"{row.writes:,.0f}",
        ]
        for name, result in found
        for row in result.pauses
    ]
    protocol_of = found[0][1].provenance.protocol
    caption = f"{protocol_of}; ± standard error; time, refreshes and columns: of one block."
    headings = ("idle time", "perplexity", "±", "time on the chip, s", "refreshes", "columns written")
    drawn = hardware.pauses([result for _, result in found], [plain(name) for name, _ in found])
    kind = only_kind([result.pauses for _, result in found])
    shown = table(Rows("Pauses", headings, rows, caption), lambda _, c: SIMULATED if c else None)
    return picture("What a pause costs", drawn, kind=kind, numbers=()) + folded("Pauses", shown)


def evaluation(results: Sequence[Result]) -> Markup:
    """Perplexities of one model each, by tokens (blocks-T, strided-T-S) or by words (rolling-T)."""
    rows, kinds = [], []
    for name, one in ((result.name, result.found) for result in results):
        if isinstance(one, RollingResult):
            number, spread, by = one.word_perplexity, one.word_perplexity_error, "words"
        else:
            assert isinstance(one, PerplexityResult)
            number, spread, by = one.perplexity, one.perplexity_error, "tokens"
        shown = ["–" if x is None else readable(x) for x in (number, spread, one.bits_per_byte)]
        rows.append([name, *shown, by, f"{one.predictions:,.0f}", one.provenance.protocol])
        kinds.append(one.numbers)
    headings = ("result", "perplexity", "±", "bits per byte", "by", "predictions", "protocol")
    found = Rows("Perplexity of a text", headings, rows, "")
    return table(found, lambda row, column: kinds[row] if column in (1, 2, 3) else None, text=(4, 6))


def context(results: Sequence[Result]) -> Markup:
    """Perplexity against the length of the context: several models of a result, or one."""
    several = each_of(
        results, DepthResult, lambda found: _context(found, SIMULATED), lambda found: found.curves
    )
    return several + each_of(results, ContextResult, lambda found: _context(found, found.numbers))


def repetition(results: Sequence[Result]) -> Markup:
    """Loss on tokens that stood in the context before, and on others."""
    found = list(typed(results, RepetitionResult))
    points = [(name, one, point) for name, one in found for point in one.repetition]
    kinds = [[None, one.numbers, one.numbers, "measured"] for _, one, _ in points]
    rows = [
        [f"{name}, {p.kind}", readable(p.perplexity), f"{p.nll:.3f}", f"{p.tokens:,.0f}"]
        for name, _, p in points
    ]
    headings = ("tokens", "perplexity", "nats a token", "predictions")
    shown = Rows("What is found again", headings, rows, f"{found[0][1].provenance.protocol}.")
    return table(shown, lambda r, c: kinds[r][c])


def _context(result: DepthResult | ContextResult, kind: str) -> Markup:
    note = result.provenance.protocol
    return picture("How far back a model looks", hardware.context(result), kind=kind, note=note)
