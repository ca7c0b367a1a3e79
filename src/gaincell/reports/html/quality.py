"""Sections on how well the model does: perplexity, training, tasks, chips, ablation, pauses, context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

from markupsafe import Markup

from gaincell.reports import chips as of_chips
from gaincell.reports import figures, hardware
from gaincell.reports.ablation import ablation_figure, ablation_rows
from gaincell.reports.comparison import cell, compare, heading
from gaincell.reports.html.markup import EMPTY, folded, grid, join, pair
from gaincell.reports.html.picture import picture, plain
from gaincell.reports.html.result import Result
from gaincell.reports.html.result import heading as heading_of
from gaincell.reports.html.tables import only_kind, table
from gaincell.reports.tables import HEADINGS, SIMULATED, Rows, perplexity_rows, readable
from gaincell.reports.training import curves, losses
from gaincell.results import evaluation as of
from gaincell.results.run import AdaptedResult, StagedResult, StageResult

COMPARED = ("perplexity", "× software")
"""Columns of the perplexities of several results side by side."""


def stages(run: StagedResult) -> Markup:
    """The stages of a run."""

    def kind(row: int, column: int) -> str | None:
        return None if column == 1 else run.stages[row].numbers  # tokens are counted

    text = [f"text {run.text.name}"] if isinstance(run, AdaptedResult) else []
    caption = "; ".join([*text, run.provenance.protocol, "± is the standard error over blocks"])
    rows = Rows("Perplexity of every stage", HEADINGS, perplexity_rows(run), f"{caption}.", kinds=kind)
    note = "Lines: standard error over blocks."
    drawn = figures.perplexities(run)
    return pair(table(rows), picture("Perplexity", drawn, kind=only_kind(run.stages), note=note, numbers=()))


def side_by_side(results: Mapping[str, StagedResult]) -> Markup:
    """The perplexities of several runs, stage by stage."""
    if len(results) < 2:
        return EMPTY
    cells: dict[str, dict[int, tuple[str, str]]] = {}
    at, over = (HEADINGS.index(name) for name in COMPARED)
    for n, run in enumerate(results.values()):
        for stage, row in zip(run.stages, perplexity_rows(run), strict=True):
            ratio = "" if row[over] == "–" else f" (× {row[over]})"
            cells.setdefault(stage.title, {})[n] = (row[at] + ratio, stage.numbers)
    every = list(cells.values())
    rows = [
        [title, *(found.get(n, ("–", ""))[0] for n in range(len(results)))] for title, found in cells.items()
    ]
    caption = "In brackets: over the software model. Protocols and texts stand with each result below."
    shown = Rows("Perplexity side by side", ["stage", *results], rows, caption)
    return table(replace(shown, kinds=lambda r, c: every[r].get(c - 1, ("", ""))[1] or None))


def has_training(result: Result) -> bool:
    """Whether there is a curve to draw."""
    return bool(_trained(result)) or any("loss" in line for line in result.log)


def _trained(result: Result) -> list[StageResult]:
    """Stages that were evaluated while they were trained."""
    run = result.found
    return [one for one in run.stages if one.curve] if isinstance(run, StagedResult) else []


def training(results: Sequence[Result]) -> Markup:
    """Every loss at every step, and perplexity as it was trained."""
    pieces: list[Markup] = []
    for result in results:
        run, evaluated = result.found, "Perplexity of evaluation text"
        drawn = {("Training", ""): losses(result.log)}
        if isinstance(run, StagedResult):
            drawn[evaluated, only_kind(_trained(result))] = curves(run)
        found = [picture(title, one, kind=kind) for (title, kind), one in drawn.items() if one]
        pieces += [heading_of(result, getattr(run, "stages", ())), grid(*found)]
    return join(pieces)


def tasks(runs: Mapping[str, of.TasksResult]) -> Markup:
    """The table of several evaluations, compared with the first of them on the same items."""
    found = compare(runs)
    headings = ["", *(heading(column) for column in found.columns)]
    rows: list[list[str]] = []
    kinds: list[str] = []
    for name, run in runs.items():
        entries = found.rows[name]
        shown = [
            cell(entries[c], c, "\n").partition("\n") if c in entries else ("–", "", "")
            for c in found.columns
        ]
        rows.append([name, *(value for value, _, _ in shown)])
        if any(change for _, _, change in shown):
            rows.append([f"  to {found.reference}, paired", *(change or "–" for _, _, change in shown)])
        kinds += [run.numbers] * (len(rows) - len(kinds))
    notes = " ".join(found.notes)
    return table(Rows("Tasks, accuracies in %", headings, rows, notes, kinds=lambda r, _: kinds[r]))


def chips(found: Mapping[str, of.ChipsResult]) -> Markup:
    """The spread over virtual chips."""
    columns = [[one.chips.nominal, *one.chips.perplexity] for one in found.values()]
    every = [[str(n or "nominal"), *map(readable, row)] for n, row in enumerate(zip_longest(*columns))]
    title = "Perplexity of every chip"
    drawn = of_chips.draw_chips({plain(name): one for name, one in found.items()}, "result")
    shown = of_chips.chips_rows(found, "result", "Virtual chips")
    return pair(
        table(shown), picture(title, drawn, kind=SIMULATED, numbers=[Rows(title, ("chip", *found), every)])
    )


def ablation(result: of.AblationResult) -> Markup:
    """What every constraint costs."""
    found = ablation_rows(result, "Constraints of the hardware")
    rows = [(name, kind, *rest) for kind, name, *rest in found.rows]
    headings = ("constraint", "switched", "meaning", "perplexity", "ratio", "±")
    chart = picture("Ratios of perplexities", ablation_figure(result), kind=SIMULATED, numbers=())
    return chart + table(replace(found, headings=headings, rows=rows))


def pauses(found: Mapping[str, of.PausesResult]) -> Markup:
    """Perplexity against idle time."""
    protocol = next(iter(found.values())).provenance.protocol
    rows = Rows.of(
        "Pauses",
        [(name, row) for name, result in found.items() for row in result.pauses],
        {
            "idle time": lambda point: f"{point[0]}, {point[1].idle:g} s",
            "perplexity": lambda point: readable(point[1].perplexity),
            "±": lambda point: readable(point[1].perplexity_error),
            "time on the chip, s": lambda point: f"{point[1].chip_time:.4g}",
            "refreshes": lambda point: f"{point[1].refreshes:,.0f}",
            "columns written": lambda point: f"{point[1].writes:,.0f}",
        },
        caption=f"{protocol}; ± standard error; time, refreshes and columns: of one block.",
        kinds=SIMULATED,
    )
    drawn = hardware.pauses(list(found.values()), [plain(name) for name in found])
    kind = only_kind([result.pauses for result in found.values()])
    return picture("What a pause costs", drawn, kind=kind, numbers=()) + folded("Pauses", table(rows))


def evaluation(
    found: Mapping[str, of.PerplexityResult | of.RollingResult],
) -> Markup:
    """Perplexities of one model each, by tokens (blocks-T, strided-T-S) or by words (rolling-T)."""
    rows, kinds = [], []
    for name, one in found.items():
        if isinstance(one, of.RollingResult):
            number, spread, by = one.word_perplexity, one.word_perplexity_error, "words"
        else:
            number, spread, by = one.perplexity, one.perplexity_error, "tokens"
        shown = map(readable, (number, spread, one.bits_per_byte))
        rows.append([name, *shown, by, f"{one.predictions:,.0f}", one.provenance.protocol])
        kinds.append(one.numbers)
    headings = ("result", "perplexity", "±", "bits per byte", "by", "predictions", "protocol")
    shown_rows = Rows("Perplexity of a text", headings, rows, text=(0, 4, 6))
    return table(replace(shown_rows, kinds=lambda r, c: kinds[r] if c in (1, 2, 3) else None))


def context(result: of.DepthResult | of.ContextResult) -> Markup:
    """Perplexity against the length of the context: several models of a result, or one."""
    kind = getattr(result, "numbers", SIMULATED)
    note = result.provenance.protocol
    return picture("How far back a model looks", hardware.context(result), kind=kind, note=note)


def repetition(found: Mapping[str, of.RepetitionResult]) -> Markup:
    """Loss on tokens that stood in the context before, and on others."""
    points = [(name, one, point) for name, one in found.items() for point in one.repetition]
    kinds = [[None, one.numbers, one.numbers, "measured"] for _, one, _ in points]
    rows = Rows.of(
        "What is found again",
        points,
        {
            "tokens": lambda point: f"{point[0]}, {point[2].kind}",
            "perplexity": lambda point: readable(point[2].perplexity),
            "nats a token": lambda point: f"{point[2].nll:.3f}",
            "predictions": lambda point: f"{point[2].tokens:,.0f}",
        },
        caption=f"{points[0][1].provenance.protocol}.",
        kinds=lambda r, c: kinds[r][c],
    )
    return table(rows)
