"""The log of a training and its figures: losses and evaluations against tokens, stages of a recipe."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Required, TypedDict, TypeGuard

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from gaincell.errors import RunError
from gaincell.files import is_count, is_number, open_file, parse_json, restored
from gaincell.reports.figures import perplexities, readable_ticks
from gaincell.reports.html import markup, parts
from gaincell.reports.html.markup import only_kind
from gaincell.reports.html.picture import picture
from gaincell.reports.style import BLACK, PALETTE, legend_beside, look, panel, save_all, styled
from gaincell.results.run import StagedResult, StageResult, TrainedResult

SMOOTH = 0.02
"""Share of a run that the bold line averages over."""
LABEL_WIDTH = 34
"""Characters of a line beside an axis."""
WIDE = 4.0
"""Ratio of the largest to the smallest value from which on an axis is logarithmic."""


class Step(TypedDict, total=False):
    """A line of a log, as far as it is read again.

    Attributes:
        evaluation: The perplexity then.
    """

    step: Required[int]
    stage: str
    part: str
    tokens: float
    loss: float
    loss_name: str
    loss_unit: str
    evaluation: float


def read_log(path: Path) -> list[Step]:
    """The lines of a log; one that a killed process left unfinished is left out.

    Raises:
        RunError: it cannot be read, or a line is none that a training writes.
    """
    return [known for _, known in log_lines(path) if known is not None]


def log_lines(path: Path) -> Iterator[tuple[str, Step | None]]:
    """The lines of a log, and what each says: None of one that is unfinished.

    Raises:
        RunError: the log cannot be read, or a line is no step.
    """
    number = 0
    try:
        with open_file(path) as file:
            for raw in file:
                number += 1
                line = raw.decode(errors="replace")
                try:
                    known = restored(parse_json(line))
                except json.JSONDecodeError:
                    yield line, None
                    continue
                if not _is_step(known):
                    raise ValueError(f"{line.strip()[:40]!r} is no step of a training")
                yield line, known
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path.name} cannot be read (line {number}: {error}); remove the file, or the line"
        ) from error


def _is_step(known: object) -> TypeGuard[Step]:
    """Whether a line has the form of those that a training writes, as far as they are read again."""
    if not isinstance(known, dict):
        return False
    words = ("stage", "part", "loss_name", "loss_unit")
    return (
        is_count(known.get("step"))
        and all(is_number(known.get(key, 0)) for key in ("loss", "tokens", "evaluation"))
        and all(isinstance(known.get(key, ""), str) for key in words)
    )


def by_loss(lines: Sequence[Step]) -> dict[str, dict[str, list[Step]]]:
    """Lines of a `log.jsonl` by the name of their loss, with its unit, then by training. A log that does not
    name its losses may hold several: there every training stands alone.
    """
    found: dict[str, dict[str, list[Step]]] = {}
    for line in lines:
        if "loss" in line:
            run = " ".join(label for label in (line.get("stage"), line.get("part")) if label is not None)
            title = line.get("loss_name") or f"loss of {run or 'the training'}, which its log does not name"
            title += f" ({line['loss_unit']})" if line.get("loss_unit") else ""
            found.setdefault(title, {}).setdefault(run, []).append(line)
    return found


def tokens_of(lines: Sequence[Step]) -> list[float]:
    """Tokens, or steps where the log has no tokens, after every line."""
    return [float(line.get("tokens", line["step"] + 1)) for line in lines]


@styled()
def losses(lines: Sequence[Step]) -> Figure | None:
    """A panel for every loss against tokens, a colour for every training, and one for the evaluations there
    are; None without a loss.
    """
    named = by_loss(lines)
    if not named:
        return None
    runs = list(dict.fromkeys(run for group in named.values() for run in group))
    colours = {run: PALETTE[n % len(PALETTE)] for n, run in enumerate(runs)}
    tested = {
        run: [line for group in named.values() for line in group.get(run, ()) if "evaluation" in line]
        for run in runs
    }
    panels = len(named) + any(tested.values())
    figure = Figure(figsize=(7.6, 1.2 + 2.6 * panels))
    grid = figure.subplots(panels, sharex=True, squeeze=False)[:, 0]
    averaged = False
    for axes, (title, group) in zip(grid, named.items(), strict=False):
        for run, points in group.items():
            tokens, values = tokens_of(points), [point["loss"] for point in points]
            bold = smoothed(values)
            averaged |= bold != values
            axes.plot(tokens, values, color=colours[run], linewidth=0.5, alpha=0.35)
            axes.plot(tokens, bold, color=colours[run], linewidth=1.6, label=run or None)
        axes.set_ylabel(textwrap.fill(title, LABEL_WIDTH))
        if any(group):
            legend_beside(axes)
    if any(tested.values()):
        for run, points in tested.items():
            found, label = [point["evaluation"] for point in points], run or None
            grid[-1].plot(tokens_of(points), found, "o-", color=colours[run], linewidth=0.8, label=label)
        grid[-1].set_ylabel("perplexity (evaluation)")
    for axes in grid:
        drawn = [float(y) for line in axes.lines for y in np.asarray(line.get_ydata())]
        if min(drawn) > 0 and max(drawn) > WIDE * min(drawn):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
    grid[-1].set_xlabel("tokens of this training" if "tokens" in lines[-1] else "step")
    how = f" (thin: every step; bold: mean of the last {SMOOTH:.0%} of all)" if averaged else ""
    grid[0].set_title(f"Training{how}")
    return figure


def draw_stages(run: TrainedResult, folder: Path) -> None:
    """Of a finished recipe: the perplexity of every stage and, where stages were evaluated in training,
    how it fell with their steps.
    """
    save_all({"perplexity": perplexities, "training": curves}, run, folder)


@styled()
def curves(run: StagedResult) -> Figure | None:
    """The perplexities that stages had in training, in the manner of the paper's Fig. 4d; None without any.

    They are of the first tokens of the evaluation text (a recipe's `watched_tokens`); those of the table, and
    the software model's, are of all.
    """
    trained = [(stage, stage.curve) for stage in run.stages if stage.curve is not None]
    if not trained:
        return None
    figure, axes = panel(8.4, 4.6)
    softmax = [stage.numbers == "measured" for stage, _ in trained]
    for n, (stage, curve) in enumerate(trained):
        axes.plot(curve.step, curve.perplexity, "--" if softmax[n] else "-", label=stage.title, **look(n))
    if isinstance(run, TrainedResult):
        of_all = "software, on the whole text"
        axes.axhline(run.software, color=BLACK, linewidth=0.8, linestyle=":", label=of_all)
    axes.set_yscale("log")
    axes.set(xlabel="steps of the stage", ylabel="perplexity (first part of the evaluation text)")
    axes.minorticks_off()
    axes.set_yticks(readable_ticks(*axes.get_ylim()))
    axes.yaxis.set_major_formatter("{x:,.10g}")
    legend_beside(axes)
    axes.set_title("Training" + (" (dashed: softmax attention)" if any(softmax) else ""))
    return figure


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean over the last SMOOTH of the run at every point."""
    width = max(1, round(SMOOTH * len(values)))
    if width == 1:
        return [*values]
    sums = [0.0, *accumulate(values)]
    return [(sums[n + 1] - sums[max(0, n + 1 - width)]) / min(n + 1, width) for n in range(len(values))]


def _trained(result: parts.Result) -> list[StageResult]:
    """Stages that were evaluated while they were trained."""
    run = result.found
    return [one for one in run.stages if one.curve] if isinstance(run, StagedResult) else []


def on_page(results: Sequence[parts.Result]) -> Markup:
    """Every loss at every step, and perplexity as it was trained."""
    pieces: list[Markup] = []
    for result in results:
        run, evaluated = result.found, "Perplexity of evaluation text"
        stages = run.stages if isinstance(run, StagedResult) else ()
        drawn = {("Training", ""): losses(result.log)}
        if isinstance(run, StagedResult):
            drawn[evaluated, only_kind(_trained(result))] = curves(run)
        found = [picture(title, one, kind=kind) for (title, kind), one in drawn.items() if one]
        pieces += [parts.heading(result, stages), markup.grid(*found)]
    return markup.join(pieces)


TRAINING = parts.Section(
    "training", "Training", "Every loss on an axis of its own, and perplexity.",
    lambda result: bool(_trained(result)) or any("loss" in line for line in result.log), on_page,
)  # fmt: skip
