"""The table of perplexities, for a terminal and as Markdown, from run.json alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, isfinite, isnan, log10
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from gaincell.results.codec import KINDS
from gaincell.results.common import Result
from gaincell.results.comparison import names_by
from gaincell.results.run import Adaptations, AdaptedResult, StagedResult, TrainedResult

if TYPE_CHECKING:
    from rich.table import Table

    from gaincell.mapping.recipe import Recipe, StageRecipe

Item = TypeVar("Item")
MEASURED, SIMULATED, CITED, _ = KINDS
Columns: TypeAlias = Mapping[str, Callable[[Item], str]]
"""Heading -> what stands below it in the row of an item."""
Kinds = Callable[[int, int], str | None] | str | None
"""Kind of the number at a row and a column; one for all; or none where a table holds no results."""


@dataclass(frozen=True)
class Rows:
    """A table.

    Attributes:
        text: Columns of words, flush left; the others hold numbers, flush right, of some kinds.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text: Collection[int] = (0,)
    kinds: Kinds = None

    @classmethod
    def of(
        cls,
        title: str,
        items: Iterable[Item],
        columns: Columns[Item],
        caption: str = "",
        text: Collection[int] = (0,),
        kinds: Kinds = None,
    ) -> Rows:
        """A row an item."""
        rows = [[cell(item) for cell in columns.values()] for item in items]
        return cls(title, (*columns,), rows, caption, text, kinds)

    def transposed(self) -> Rows:
        """With a column for every row, for a narrow terminal; of one kind."""
        names, *columns = zip(*self.rows, strict=True)
        rows = [(heading, *cells) for heading, cells in zip(self.headings[1:], columns, strict=True)]
        return replace(self, headings=("", *names), rows=rows)

    def __rich__(self) -> Table:
        return self.terminal()

    def terminal(self, *, no_wrap: bool = False) -> Table:
        """A table of rich. With `no_wrap` numbers stay whole where room is short, words fold."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(
            title=self.title or None, caption=self.caption or None, title_justify="left",
            caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False,
        )  # fmt: skip
        for n, heading in enumerate(self.headings):
            words = n in self.text
            table.add_column(
                heading, justify="left" if words else "right", no_wrap=no_wrap and not words, overflow="fold"
            )
        for row in self.rows:
            if row[0] == "all":
                table.add_section()
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a document, with the caption below; indentation of parts is kept."""
        rule = ["---" if n in self.text else "---:" for n in range(len(self.headings))]
        rows = [[row[0].replace("  ", "&emsp;"), *row[1:]] for row in self.rows]
        lines = ["| " + " | ".join(row) + " |" for row in (self.headings, rule, *rows)]
        return "\n".join([*lines, *(["", self.caption] if self.caption else [])]) + "\n"


HEADINGS = ("model", "tokens", "perplexity", "bits/byte", "× software", "× continued")


def perplexity_rows(run: StagedResult) -> list[tuple[str, ...]]:
    """One row a stage, in the order of the run, under `HEADINGS`."""
    return [
        (
            stage.title,
            f"{stage.training_tokens:,}" if stage.training_tokens else "–",
            with_error(stage.perplexity, stage.perplexity_error),
            digits(stage.bits_per_byte, 1, 3),
            _ratio(stage.ratio_to_software),
            _ratio(stage.ratio_to_continued, stage.ratio_to_continued_error),
        )
        for stage in run.stages
    ]


STAGE_HEADINGS = ("stage", "tokens", "perplexity", "bits/byte", "× software", "× compared")


def headings_and_rows(run: StagedResult) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Of the table of stages. An adaptation alone has no software model: ratios are to its first stage."""
    rows = perplexity_rows(run)
    if run.command != "adapt":
        return STAGE_HEADINGS if isinstance(run, TrainedResult) else HEADINGS, rows
    first = run.stages[0]
    ratios = [_ratio(stage.perplexity / first.perplexity) for stage in run.stages]
    return (*HEADINGS[:4], f"× {first.name}"), [(*row[:4], of) for row, of in zip(rows, ratios, strict=True)]


def perplexity_table(run: AdaptedResult) -> Rows:
    """The stages of a run."""
    title = f"{run.model.name} on {run.design.name} ({run.design.cell} cell), text: {run.text.name}"
    caption = f"{run.provenance.protocol}; ± is the standard error over blocks.{compared(run)}"
    return Rows(title, *headings_and_rows(run), caption)


def stages_table(run: TrainedResult) -> Table:
    """The stages of a recipe, for a terminal."""
    title = f"{run.model.name} on {run.design.name}, recipe {run.recipe}{_changes(run.set)}"
    return Rows(title, STAGE_HEADINGS, perplexity_rows(run), of_stages(run)).terminal(no_wrap=True)


def step_times(run: TrainedResult) -> list[str]:
    """Where the time of every stage's training steps went, a line a stage."""
    return [
        f"{stage.name}: of a training step "
        + ", ".join(f"{share:.0%} {group}" for group, share in stage.step_time.items())
        for stage in run.stages
        if stage.step_time is not None
    ]


def of_stages(run: TrainedResult) -> str:
    """What the table of stages is about."""
    text = f"{run.provenance.protocol}; software {readable(run.software)}"
    compared = any(stage.ratio_to_continued is not None for stage in run.stages)
    return f"{text}; × compared {_of_ratios(run)}" if compared else text


def _of_ratios(run: StagedResult) -> str:
    """What the error of a ratio to a continued model is."""
    if any(stage.ratio_to_continued_error is not None for stage in run.stages):
        return "paired block by block, with its own ±"
    return "without ±, which needs stored losses of two blocks or more"


def plan_table(recipe: Recipe, stages: Sequence[StageRecipe]) -> Table:
    """What a recipe will do, for a terminal."""
    rows = []
    for stage in stages:
        loss, steps, step, rate = stage.task, "–", "–", "–"
        if stage.task == "train":
            loss, steps = _terms(stage), str(stage.steps)
            step = _amount(stage.training.batch * recipe.block)
            rate = f"{stage.training.learning_rate:.1e}".replace(".0e", "e").replace("e-0", "e-")
        rows.append([stage.name, stage.start, loss, steps, step, _amount(recipe.tokens_of(stage)), rate])
    headings = ("stage", "from", "loss", "steps", "a step", "in all", "rate")
    included = "those of the stages before it included" + (", not the adapter's" if recipe.adapter else "")
    made = f", {recipe.pretraining_blocks:,} of them in the pretraining" if recipe.pretraining_blocks else ""
    caption = (
        f"{recipe.blocks:,} blocks of {recipe.block} tokens{made}, order: {recipe.order}. A step, in all: "
        f"tokens, {included}. Rate: peak learning rate. CE: cross-entropy, KL: to the teacher."
    )
    title = f"{recipe.name} on {recipe.design.name}{_changes(recipe.changes)}"
    return Rows(title, headings, rows, caption, text=(0, 1)).terminal(no_wrap=True)


def _terms(stage: StageRecipe) -> str:
    """The loss of a stage, as short as a terminal needs."""
    of = {
        "cross-entropy": [(1.0, "CE")],
        "transfer": [(1.0, "transfer"), (stage.attention_weights, "weights")],
        "distillation": [(1.0 - stage.weight, "CE"), (stage.weight, "KL")],
    }[stage.loss] + [(stage.states, "states"), (stage.outputs, "outputs")]
    return " + ".join(f"{share:g} {term}" if share != 1.0 else term for share, term in of if share)


def _changes(changes: Mapping[str, object]) -> str:
    """What was set otherwise than in a recipe, in words."""
    return "".join(
        f", {key} = {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in changes.items()
    )


def adaptation_lines(run: Adaptations) -> list[str]:
    """What the adaptations achieved and left out, a line each."""
    return [result.summary for result in run.adaptation.values()]


def layered(heads: Iterable[tuple[int, float]]) -> list[list[float]]:
    """Numbers of heads, each with its layer, as [layers][heads]."""
    found: dict[int, list[float]] = {}
    for layer, number in heads:
        found.setdefault(layer, []).append(number)
    return [found[layer] for layer in sorted(found)]


def layer_rows(
    title: str,
    tables: Mapping[str, Sequence[Sequence[float]]],
    caption: str,
    digits: Mapping[str, int] = {},
    last: str = "",
) -> Rows:
    """The mean over the heads of every layer, a column a table.

    Args:
        title: Of the table.
        tables: [layers][heads], by column.
        caption: Below the table.
        digits: Behind the point, by column, where not three.
        last: Name of the last row, which is no layer.
    """
    rows = [
        [
            str(layer),
            *(f"{sum(of) / len(of):.{digits.get(name, 3)}f}" for name, of in zip(tables, row, strict=True)),
        ]
        for layer, row in enumerate(zip(*tables.values(), strict=True))
    ]
    rows[-1][0] = last or rows[-1][0]
    return Rows(title, ("layer", *tables), rows, caption, (), SIMULATED)


def other_weights(dtype: str | None) -> str:
    """The type of weights behind a semicolon, where it is recorded and not the usual one; else empty."""
    return "" if dtype in (None, "float32") else f"; weights in {dtype}"


def readable(perplexity: float | None) -> str:
    """A perplexity with three or four significant digits; a dash where there is none."""
    if perplexity is None:
        return "–"
    if perplexity < 1e4:
        return f"{perplexity:.2f}" if perplexity < 1e3 else f"{perplexity:.0f}"
    return f"{perplexity:.2e}"


def digits(found: float | None, factor: float, places: int) -> str:
    """A number with so many decimals; a dash where there is none."""
    return "–" if found is None or isnan(found) else f"{found * factor:.{places}f}"


def ratio_or_score(number: float) -> str:
    """A ratio or a score; as a perplexity where it is 10 or more."""
    return f"{number:.4f}" if number < 10 else readable(number)


def number_and_error(number: float, error: float) -> tuple[str, str]:
    """Both to the decimal of the error's second digit; what is not finite, or exact, as it is."""
    if not (isfinite(number) and isfinite(error)) or error <= 0:
        return f"{number:.4g}", f"{error:.2g}"
    places = 1 - floor(log10(error))
    shown = max(0, places)
    return f"{round(number, places):,.{shown}f}", f"{round(error, places):,.{shown}f}"


def _amount(tokens: int) -> str:
    """A number of tokens with three digits."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if tokens >= 0.9995 * unit:  # which rounds to it
            return f"{tokens / unit:.3g}{name}"
    return str(tokens)


def with_error(perplexity: float, error: float | None) -> str:
    """A perplexity with its standard error, where it has one."""
    if error is None:
        return readable(perplexity)
    numbers = (perplexity, error)
    return " ± ".join(map(readable, numbers) if perplexity < 1e3 else number_and_error(*numbers))


def protocol_of(results: Mapping[str, Result]) -> str:
    """Protocol of all results; where they differ, each with the results that it is of."""
    return of_all(results, lambda one: one.provenance.protocol)


def of_all(results: Mapping[str, Item], said: Callable[[Item], str]) -> str:
    """What is said of all results; where that differs, each with the results that it is said of."""
    named = names_by(results, said)
    if len(named) == 1:
        return next(iter(named))
    return "; ".join(f"{', '.join(names)}: {words}" for words, names in named.items())


def _ratio(ratio: float | None, error: float | None = None) -> str:
    if ratio is None:
        return "–"
    if error is not None:
        return " ± ".join(number_and_error(ratio, error))
    return f"{ratio:.3f}" if ratio < 100 else readable(ratio)


def compared(run: StagedResult) -> str:
    """What the last column of a table of stages compares with, and its tokens; empty without comparison."""
    if all(stage.ratio_to_continued is None for stage in run.stages):
        return ""
    if isinstance(run, TrainedResult):
        return f" × compared: against the stage that the recipe names (compare), {_of_ratios(run)}."
    return (
        " × continued: against the softmax model trained further, by cross-entropy, on the same tokens"
        f" in the same order, {_of_ratios(run)}. Tokens: those each was trained on beyond the pretrained"
        " model."
    )
