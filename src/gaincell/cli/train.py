"""`gaincell train`: carry out a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaincell.cli import _options as options
from gaincell.cli._json import JsonFile, command_line, directory, run_folder, show, show_result
from gaincell.cli._options import argument, check_needed, command, flag, option
from gaincell.progress import silent_stages

if TYPE_CHECKING:
    from gaincell.mapping.recipe import Recipe, StageRecipe
    from gaincell.results.run import TrainedResult


@dataclass(frozen=True)
class TrainOptions:
    """How a recipe is carried out."""

    only: Annotated[
        str | None, option("Run this stage and those that it needs or is compared to.", "STAGE")
    ] = None
    dry_run: Annotated[
        bool,
        flag(
            "--dry-run",
            "Check the recipe, its model if that is a directory or made by it, and the text if given, and "
            "show what it would do.",
        ),
    ] = False
    teacher_outputs: Annotated[
        Path | None,
        directory("Keep teachers' outputs here, for trainings that see the same text again.", "DIRECTORY"),
    ] = None
    compiled: Annotated[
        bool,
        flag(
            "--compile",
            "Compile layers with torch, but not the arrays; it takes about a minute first.",
        ),
    ] = False
    track: options.TrackName = None
    threads: options.Threads = None
    device: options.Device = "cpu"


@command
def train(
    context: typer.Context,
    *,
    recipe: Annotated[Path, argument("Recipe, such as recipes/tiny.toml.", "RECIPE.toml")],
    text: options.TextName = "sample",
    out: Annotated[Path | None, directory("Directory for results; by default runs/RECIPE.", "RUN")] = None,
    design: Annotated[str | None, option("Chip to use instead of the recipe's own.", "DESIGN")] = None,
    changes: Annotated[
        list[str] | None, option("Change a value of the recipe; may be repeated.", "KEY=VALUE", "--set")
    ] = None,
    asked: TrainOptions,
    json: JsonFile = None,
) -> None:
    """Carry out a recipe: train software, linear and nonlinear hardware models, one from the other.

    A recipe names a model, a chip and stages; recipes/ has the paper's, those of the adapters, of small
    models trained from scratch, and of the embedded model. Every stage is kept in --out and every training
    writes checkpoints, so the same command resumes an interrupted run. For several processes: torchrun
    --nproc_per_node 8 -m gaincell train ... In the examples MY_TEXTS is a folder with your own texts, all of
    which 'files=[]' takes where a recipe names some; Skylion007/openwebtext is downloaded from the hub.

    Example: gaincell train recipes/low-tokens.toml --text MY_TEXTS/ --set 'files=[]' --out runs/smollm2

    Example: gaincell train recipes/tiny-table.toml --text MY_TEXTS/ --set 'files=[]'
    --design leroux2025-extended --out runs/x

    --set changes any value that a recipe can state, except extends and stages, whether its file states it or
    not: for instance seed=1, training.learning_rate=1e-3, model.config.n_layer=2, stage.linear.steps=500 (of
    a stage that there is). Values are TOML; text needs no quotes, a list does: 'files=["books"]'. The changes
    are kept in run.json; a run resumes only with the same values.

    Example: gaincell train recipes/tiny-table.toml --set seed=2 --set stage.linear.steps=100 --dry-run

    Example: gaincell train recipes/gpt2.toml --text Skylion007/openwebtext --only linear --device cuda
    """
    carried_out = ("--json", "--track", "--compile", "--teacher-outputs")
    check_needed(context, carried_out, "a recipe that is carried out, without --dry-run", not asked.dry_run)
    folder = run_folder(context, out, recipe.stem)
    options.use(asked.threads, asked.device)
    from gaincell.mapping.recipe_file import load_recipe, parse_overrides
    from gaincell.reports.tables import stages_table, step_times

    plan = load_recipe(recipe, design, parse_overrides(changes or ()))
    chosen = plan.needed_by(asked.only)
    trains = any(stage.task == "train" for stage in chosen)
    check_needed(context, ("--compile",), "a stage that trains", trains)
    keeps = any(stage.loss == "distillation" and not stage.states and not stage.outputs for stage in chosen)
    check_needed(context, ("--teacher-outputs",), "a stage of distillation without states and outputs", keeps)
    if asked.dry_run:
        if out is not None:
            from gaincell.mapping.run_recipe import check_resumes

            check_resumes(plan, folder)
        _dry_run(plan, chosen, text if options.was_given(context, "text") else None)
        return
    result = _carry_out(plan, text, folder, asked)
    if result is not None:
        saved = "; no model, for no stage in arrays began with a trained one"
        if result.saved:
            saved = f", the model of {result.saved}"
        where = f"Results and figures are in {folder}{saved}."
        show_result(result, json, stages_table(result), *step_times(result), where)


def _carry_out(plan: Recipe, text: str, folder: Path, asked: TrainOptions) -> TrainedResult | None:
    """The result; None in all processes but the first."""
    from gaincell.cli._progress import kept_in, progress_bars
    from gaincell.mapping.run_recipe import run_recipe
    from gaincell.text import open_text
    from gaincell.training.log import tracking
    from gaincell.training.parallel import join_processes

    main = join_processes(asked.device).is_main_process
    with (
        kept_in(folder),
        progress_bars() if main else nullcontext(silent_stages) as stages,
        tracking(asked.track if main else None, folder) as tracker,
    ):
        result = run_recipe(
            plan, open_text(text), folder, stages, only=asked.only, device=asked.device,
            teacher_outputs=asked.teacher_outputs, compiled=asked.compiled, command=command_line(),
            tracker=tracker,
        )  # fmt: skip
    return result if main else None


def _dry_run(plan: Recipe, chosen: Sequence[StageRecipe], text: str | None) -> None:
    """Check the model, and the text if there is one, and show what a recipe would do."""
    from gaincell.mapping.recipe_checks import check_mapping_here
    from gaincell.mapping.recipe_text import check_recipe_text
    from gaincell.reports.tables import plan_table
    from gaincell.text import check_text

    check_mapping_here(plan)
    unchecked = "The text was not checked: give --text."
    if text is not None:
        unchecked = (
            f"The text was not checked: there is no {text} here, so it is taken for a data set of the hub."
        )
        if (found := check_text(text)) is not None:
            check_recipe_text(plan, found)
            unchecked = ""
    show(plan_table(plan, chosen), *filter(None, [unchecked]))
