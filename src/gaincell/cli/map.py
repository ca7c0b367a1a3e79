"""`gaincell map`: the main job, from a pretrained model to adapted and fine-tuned gain-cell hardware."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from gaincell.cli._groups import with_groups
from gaincell.cli._json import JsonFile, command_line, directory, run_folder, show_result
from gaincell.cli._options import (
    MODEL_HELP,
    CalibrationTokens,
    CellName,
    Computing,
    DesignName,
    GradientName,
    Limit,
    Redraw,
    Seed,
    TextName,
    TrackName,
    chip_of,
)

app = typer.Typer()


@dataclass(frozen=True)
class TrainingOptions:
    """How the linear model and the chip's own are trained."""

    learning_rate: Annotated[
        float,
        typer.Option(
            "--learning-rate", metavar="X", help="Peak learning rate of the linear model's training."
        ),
    ] = 3e-4
    fine_tuning_learning_rate: Annotated[
        float,
        typer.Option(
            "--fine-tuning-learning-rate", metavar="X", help="Peak learning rate of the fine-tuning."
        ),
    ] = 1e-4
    lora: Annotated[
        int,
        typer.Option(
            "--lora",
            metavar="RANK",
            min=0,
            help="Train adapters of this rank, not weights; bfloat16 stays bfloat16.",
        ),
    ] = 0
    gradient: Annotated[
        GradientName,
        typer.Option(
            "--gradient",
            help="Of the cells in training: exact, or as if they were linear; -bf16: faster, approximate.",
        ),
    ] = "exact"
    redraw: Annotated[
        Redraw,
        typer.Option("--redraw", help="What each training step redraws on a chip with noise or spread."),
    ] = "noise"


@app.command()
@with_groups
def map_(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP + ".")],
    design: DesignName = "leroux2025",
    cell: CellName = None,
    text: TextName = "sample",
    budget: Annotated[
        int, typer.Option("--budget", metavar="TOKENS", min=0, help="Training tokens in total.")
    ] = 65_536,
    out: Annotated[
        Path | None, directory("--out", "RUN", "Directory of results; by default runs/MODEL.")
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(
            "--block",
            metavar="TOKENS",
            help="Tokens of a block; by default the model's context, at most 1024.",
        ),
    ] = None,
    limit: Limit = 32_768,
    calibration_tokens: CalibrationTokens = 8_192,
    training: TrainingOptions,
    published: Annotated[bool, typer.Option(help="Also run the paper's adaptation, for its curve.")] = True,
    track: TrackName = None,
    seed: Seed = 0,
    computing: Computing,
    json: JsonFile = None,
) -> None:
    """Map a pretrained language model onto gain-cell attention, and show the perplexity of every stage.

    The stages: the software model; the linear hardware model (ideal cells, quantised, trained on part of the
    budget); the chip's nonlinear cell, unadapted; adapted in closed form; fine-tuned on the rest of the
    budget. For a fair comparison, the software model is trained on the same tokens.

    Writes into RUN: run.json, figures/, design.toml and hardware.safetensors (the result, for gaincell
    evaluate). After an interruption, the same command goes on where it stopped. In the examples MY_TEXTS is a
    folder of texts of yours.

    Example: gaincell map tiny

    Example: gaincell map smollm2-135m --text MY_TEXTS/ --budget 500000 --out runs/smollm2
    """
    folder = run_folder(context, out, Path(model).resolve().name)
    computing.start()
    from gaincell.cli._progress import kept_in, progress_bars
    from gaincell.mapping.pipeline import map_model
    from gaincell.mapping.settings import MapSettings
    from gaincell.reports.tables import adaptation_lines, perplexity_table
    from gaincell.training.log import tracking

    settings = MapSettings(
        model=model,
        design=chip_of(design, cell),
        text=text,
        budget=budget,
        seed=seed,
        block=block,
        evaluation_tokens=limit,
        calibration_tokens=calibration_tokens,
        learning_rate=training.learning_rate,
        fine_tuning_learning_rate=training.fine_tuning_learning_rate,
        lora=training.lora,
        gradient=training.gradient,
        redraw=training.redraw,
        published=published,
        backend=computing.backend,
        device=computing.device,
    )
    with kept_in(folder), progress_bars() as progress, tracking(track, folder) as tracker:
        run = map_model(settings, folder, command=command_line(), progress=progress, tracker=tracker)
    typer.echo(f"{model}: the pretrained model, in software, where the mapping starts")
    where = f"Results, figures and the model are in {folder}."
    show_result(run, json, perplexity_table(run), *adaptation_lines(run), where)
    if not run.adaptation["closed-form"].converged:
        raise typer.Exit(1)
