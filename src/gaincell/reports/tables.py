"""The table of perplexities, for a terminal and as Markdown, from run.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, isfinite, log10
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from gaincell.reports.results import number

SHORT = {"cross-entropy": "CE", "distillation": "KL"}
"""Losses, as short as a terminal needs."""
HEADINGS = ("model", "tokens", "perplexity", "bits/byte", "× software", "× continued")


def perplexity_rows(run: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row a stage, in the order of the run, under `HEADINGS`."""
    return [
        (
            stage["title"],
            f"{number(stage['training_tokens']):,.0f}" if number(stage["training_tokens"]) else "–",
            _with_error(stage),
            f"{number(stage['bits_per_byte']):.3f}" if "bits_per_byte" in stage else "–",
            _ratio(stage, "ratio_to_software"),
            _ratio(stage, "ratio_to_continued"),
        )
        for stage in run["stages"]
    ]


def perplexity_table(run: Mapping[str, Any]) -> Table:
    """For a terminal."""
    table = _table(_title(run), _caption(run), HEADINGS)
    for row in perplexity_rows(run):
        table.add_row(*row)
    return table


def perplexity_markdown(run: Mapping[str, Any]) -> str:
    """For a README."""
    rows = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *perplexity_rows(run)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", _title(run) + ". " + _caption(run)]) + "\n"


STAGE_HEADINGS = ("stage", "tokens", "perplexity", "bits/byte", "× software", "× compared")


def stages_table(run: Mapping[str, Any]) -> Table:
    """The stages of a recipe, for a terminal."""
    title = f"{run['model']['name']} on {run['design']['name']}, recipe {run['recipe']}"
    title += _changes(run.get("set", {}))
    table = _table(title, _of_stages(run), STAGE_HEADINGS)
    for row in perplexity_rows(run):
        table.add_row(*row)
    return table


def step_times(run: Mapping[str, Any]) -> list[str]:
    """Where the time of every stage's training steps went, a line a stage."""
    return [
        f"{stage['name']}: of a training step "
        + ", ".join(f"{number(share):.0%} {group}" for group, share in stage["step_time"].items())
        for stage in run["stages"]
        if "step_time" in stage
    ]


def stages_markdown(run: Mapping[str, Any]) -> str:
    """The same for a page."""
    rows = [STAGE_HEADINGS, ("---", *["---:"] * (len(STAGE_HEADINGS) - 1)), *perplexity_rows(run)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", f"{run['design']['name']}; {_of_stages(run)}."]) + "\n"


def _of_stages(run: Mapping[str, Any]) -> str:
    text = f"{run['provenance']['protocol']}; software {readable(number(run['software']))}"
    compared = any("ratio_to_continued" in stage for stage in run["stages"])
    return f"{text}; × compared {_of_ratios(run)}" if compared else text


def _of_ratios(run: Mapping[str, Any]) -> str:
    """What the error of a ratio to a continued model is."""
    if any("ratio_to_continued_error" in stage for stage in run["stages"]):
        return "paired block by block, with its own ±"
    return "without ±: losses of single blocks were not stored"


def plan_table(recipe: Any, stages: Sequence[Any]) -> Table:
    """What a recipe will do, for a terminal; takes a `mapping.recipe.Recipe`."""
    headings = ("stage", "from", "loss", "steps", "a step", "in all", "rate")
    caption = (
        f"{recipe.blocks:,} blocks of {recipe.block} tokens, order: {recipe.order}. A step, in all: tokens, "
        "those of all it starts from included. Rate: peak learning rate. CE: cross-entropy, KL: distillation."
    )
    title = f"{recipe.name} on {recipe.design.name}{_changes(recipe.changes)}"
    table = _table(title, caption, headings, texts=2)
    for stage in stages:
        trained = stage.task == "train"
        table.add_row(
            stage.name,
            stage.start,
            SHORT.get(stage.loss, stage.loss) if trained else stage.task,
            str(stage.steps) if trained else "–",
            _amount(stage.training.batch * recipe.block) if trained else "–",
            _amount(recipe.tokens_of(stage)),
            f"{stage.training.learning_rate:.1e}".replace(".0e", "e").replace("e-0", "e-")
            if trained
            else "–",
        )
    return table


def _changes(changes: Mapping[str, Any]) -> str:
    """What was set otherwise than in a recipe, in words."""
    return "".join(f", {key} = {value}" for key, value in changes.items())


def _table(title: str, caption: str, headings: Sequence[str], texts: int = 1) -> Table:
    """A table whose first columns are `texts`, folded where room is short; numbers are not."""
    table = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0), show_edge=False,
    )  # fmt: skip
    for heading in headings[:texts]:
        table.add_column(heading, overflow="fold")
    for heading in headings[texts:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def adaptation_lines(run: Mapping[str, Any]) -> list[str]:
    """What the adaptations achieved and left out, a line each."""
    return [result["summary"] for result in run.get("adaptation", {}).values()]


def readable(perplexity: float) -> str:
    """A perplexity with three or four significant digits."""
    if perplexity < 1e4:
        return f"{perplexity:.2f}" if perplexity < 1e3 else f"{perplexity:.0f}"
    return f"{perplexity:.2e}"


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
        if tokens >= unit:
            return f"{tokens / unit:.3g}{name}"
    return str(tokens)


def _with_error(stage: Mapping[str, Any]) -> str:
    shown = number(stage["perplexity"])
    if "perplexity_error" not in stage:
        return readable(shown)
    error = number(stage["perplexity_error"])
    return " ± ".join(map(readable, (shown, error)) if shown < 1e3 else number_and_error(shown, error))


def _ratio(stage: Mapping[str, Any], key: str) -> str:
    if key not in stage:
        return "–"
    ratio = number(stage[key])
    if key == "ratio_to_continued" and (error := f"{key}_error") in stage:
        return " ± ".join(number_and_error(ratio, number(stage[error])))
    return f"{ratio:.3f}" if ratio < 100 else readable(ratio)


def _title(run: Mapping[str, Any]) -> str:
    return (
        f"{run['model']['name']} on {run['design']['name']} ({run['design']['cell']} cell), "
        f"text: {run['text']['name']}"
    )


def _caption(run: Mapping[str, Any]) -> str:
    caption = f"{run['provenance']['protocol']}; ± is the standard error over blocks."
    if any("ratio_to_continued" in stage for stage in run["stages"]):
        caption += (
            " × continued: against the softmax model trained further on the same tokens, order and schedule"
        )
        caption += f", {_of_ratios(run)}. Tokens: those each was trained on beyond the pretrained model."
    return caption
