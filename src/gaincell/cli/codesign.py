"""`gaincell codesign`: a model and circuits of its chip learned together."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gaincell.cli._groups import with_groups
from gaincell.cli._json import JsonFile, command_line, directory, show_result
from gaincell.cli._options import (
    CalibrationTokens,
    Computing,
    Limit,
    ModelInArrays,
    TextName,
    check_needed,
    choose_chip,
)

app = typer.Typer()


class Circuit(StrEnum):
    """What of a chip can be learned."""

    saturations = "saturations"
    levels = "levels"


@app.command()
@with_groups
def codesign(
    context: typer.Context,
    *,
    model: ModelInArrays,
    learn: Annotated[
        list[Circuit] | None,
        typer.Option(
            "--learn",
            help="S_sat and O_sat, or the levels of query drivers and write DACs, with a zero code; "
            "may be given twice, which is the default.",
        ),
    ] = None,
    design: Annotated[
        str | None,
        typer.Option("--design", metavar="DESIGN", help="Chip to start from; by default that of the RUN."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Steps of training.")] = 100,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Sequences per step.")] = 2,
    learning_rate: Annotated[
        float,
        typer.Option("--learning-rate", metavar="X", min=0.0, help="Peak learning rate of the weights."),
    ] = 1e-4,
    scale_learning_rate: Annotated[
        float,
        typer.Option(
            "--scale-learning-rate", metavar="X", min=0.0, help="Peak learning rate of gains and offsets."
        ),
    ] = 1e-3,
    rate: Annotated[
        float,
        typer.Option(
            "--circuit-learning-rate",
            metavar="X",
            min=0.0,
            help="Peak learning rate of the circuits: relative change per step.",
        ),
    ] = 3e-2,
    weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="Train weights, or gains and offsets alone.")
    ] = True,
    text: TextName = "sample",
    limit: Limit = 32_768,
    calibration_tokens: CalibrationTokens = 4096,
    out: Annotated[
        Path | None, directory("--out", "RUN", "Save model and chip; an interrupted training goes on.")
    ] = None,
    computing: Computing,
    json: JsonFile = None,
) -> None:
    """Learn circuits of a chip by gradients, together with the model that runs on it.

    The model is adapted to the chip; then both are trained, the chip's saturations and levels with the model.
    RUN/design.toml is the learned chip, an ordinary design. In the examples runs/tiny is what
    `gaincell map tiny` writes.

    Example: gaincell codesign tiny --steps 40 --out runs/codesigned

    Example: gaincell codesign tiny --learn levels --design leroux2025-oxide --out runs/levels

    Example: gaincell codesign runs/tiny --learn saturations --no-weights
    """
    check_needed(context, ("--learning-rate",), "training of weights, without --no-weights", weights)
    computing.start()
    from gaincell.chips.design_file import load_design
    from gaincell.cli._progress import kept_in, progress_bars
    from gaincell.mapping.codesign import CodesignSettings, codesign_model
    from gaincell.mapping.ready import find_start
    from gaincell.reports.codesign import learned_lines

    settings = CodesignSettings(
        model=model,
        design=choose_chip(model, design),
        learn=tuple(dict.fromkeys(circuit.value for circuit in learn or Circuit)),
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        scale_learning_rate=scale_learning_rate,
        rate=rate,
        weights=weights,
        text=text,
        evaluation_tokens=limit,
        calibration_tokens=calibration_tokens,
        backend=computing.backend,
        device=computing.device,
    )
    typer.echo(f"{model}: {find_start(model, linear=False).words}")
    with kept_in(out), progress_bars() as progress:
        run = codesign_model(
            settings, load_design("leroux2025"), out, command=command_line(), progress=progress
        )
    show_result(run, json, *learned_lines(run))
