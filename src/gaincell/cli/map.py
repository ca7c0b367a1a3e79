"""`gaincell map`: the main job, from a pretrained model to adapted and fine-tuned gain-cell hardware."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from gaincell.cli import _options as options
from gaincell.cli._json import JsonFile, command_line, directory, run_folder, show_result
from gaincell.cli._options import argument, command, option


@dataclass(frozen=True)
class MapOptions:
    """What is read, and how models are trained; fields as those of `mapping.settings.MapSettings`."""

    text: options.TextName = "sample"
    budget: Annotated[int, option("Training tokens in total.", "TOKENS", min=0)] = 65_536
    block: Annotated[
        int | None, option("Tokens per block; by default the model's context, at most 1024.", "TOKENS")
    ] = None
    evaluation_tokens: options.Limit = 32_768
    calibration_tokens: options.CalibrationTokens = 8_192
    learning_rate: Annotated[float, option("Peak learning rate of the linear model's training.", "X")] = 3e-4
    fine_tuning_learning_rate: Annotated[float, option("Peak learning rate of the fine-tuning.", "X")] = 1e-4
    lora: Annotated[
        int,
        option("Train adapters of this rank instead of weights; bfloat16 stays bfloat16.", "RANK", min=0),
    ] = 0
    gradient: Annotated[
        options.GradientName,
        option("Gradient of the cells: exact, or as if they were linear; -bf16: faster, approximate."),
    ] = "exact"
    redraw: Annotated[
        options.Redraw, option("What each training step redraws on a chip with noise or spread.")
    ] = "noise"
    published: Annotated[bool, option("Also run the paper's adaptation, for its curve.")] = True
    seed: options.Seed = 0


@command
def map(
    context: typer.Context,
    *,
    model: Annotated[str, argument(f"{options.PRETRAINED_HELP}.", "MODEL")],
    design: options.DesignName = "leroux2025",
    cell: options.CellName = None,
    asked: MapOptions,
    out: Annotated[Path | None, directory("Directory for results; by default runs/MODEL.", "RUN")] = None,
    track: options.TrackName = None,
    computing: options.Computing,
    json: JsonFile = None,
) -> None:
    """Map a pretrained language model onto gain-cell attention, and show the perplexity of every stage.

    The stages: the software model; the linear hardware model (ideal cells, quantised, trained on part of the
    budget); the chip's nonlinear cell, unadapted; adapted in closed form; fine-tuned on the rest of the
    budget. For comparison the software model is trained on the same tokens, by cross-entropy.

    Writes into RUN: run.json, figures/, design.toml and hardware.safetensors (the result, for gaincell
    evaluate). After an interruption, the same command continues where it stopped. In the examples MY_TEXTS
    is a folder with your own texts.

    Example: gaincell map tiny

    Example: gaincell map smollm2-135m --text MY_TEXTS/ --budget 500000 --out runs/smollm2
    """
    folder = run_folder(context, out, Path(model).resolve().name)
    computing.start()
    from gaincell.cli._progress import kept_in, progress_bars
    from gaincell.integrations.hf.size import model_size
    from gaincell.mapping.load_hardware import find_shipped
    from gaincell.mapping.pipeline import linear_is_shipped, map_model
    from gaincell.mapping.settings import MapSettings
    from gaincell.reports.tables import adaptation_lines, perplexity_table
    from gaincell.training.log import tracking

    settings = MapSettings(
        model=model,
        design=options.chip_of(design, cell),
        backend=computing.backend,
        device=computing.device,
        **vars(asked),
    )
    if find_shipped(model) is not None:
        shipped = linear_is_shipped(settings, model_size(model).layers)
        trained = f"a linear model to train, and {model} has a trained one for this chip"
        options.check_needed(context, ("--learning-rate",), trained, not shipped)
    with kept_in(folder), progress_bars() as progress, tracking(track, folder) as tracker:
        run = map_model(settings, folder, command=command_line(), progress=progress, tracker=tracker)
    typer.echo(f"{model}: the pretrained model, in software, where the mapping starts")
    where = f"Results, figures and the model are in {folder}."
    passed = run.adaptation["closed-form"].converged
    table = perplexity_table(run).terminal(no_wrap=True)
    show_result(run, json, table, *adaptation_lines(run), where, passed=passed)
