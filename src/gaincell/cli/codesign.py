"""`gaincell codesign`: a model and circuits of its chip learned together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gaincell.cli import _options as options
from gaincell.cli._json import JsonFile, command_line, directory, show_result
from gaincell.cli._options import command, flag, option


class Circuit(StrEnum):
    """What of a chip can be learned."""

    saturations = "saturations"
    levels = "levels"


@dataclass(frozen=True)
class JointTraining:
    """How model and circuits are trained; fields as those of `gaincell.mapping.codesign.CodesignSettings`."""

    steps: Annotated[int, option("Training steps.", "N", min=1)] = 100
    batch: Annotated[int, option("Sequences per step.", "N", min=1)] = 2
    learning_rate: Annotated[float, option("Peak learning rate of the weights.", "X")] = 1e-4
    scale_learning_rate: Annotated[float, option("Peak learning rate of gains and offsets.", "X")] = 1e-3
    rate: Annotated[
        float,
        option(
            "Peak learning rate of the circuits: relative change per step.",
            "X",
            "--circuit-learning-rate",
            min=0.0,
        ),
    ] = 3e-2
    weights: Annotated[
        bool, flag("--weights/--no-weights", "Train weights too, or only gains and offsets.")
    ] = True
    text: options.TextName = "sample"
    evaluation_tokens: options.Limit = 32_768
    calibration_tokens: options.CalibrationTokens = 4096


@command
def codesign(
    context: typer.Context,
    *,
    model: options.ModelInArrays,
    learn: Annotated[
        list[Circuit] | None,
        option(
            "Learn the saturations S_sat and O_sat, or the levels of query drivers and write DACs; may be "
            "given twice; by default both."
        ),
    ] = None,
    design: Annotated[str | None, option("Chip to start from; by default that of the RUN.", "DESIGN")] = None,
    training: JointTraining,
    out: Annotated[
        Path | None, directory("Save model and chip here; an interrupted training resumes.", "RUN")
    ] = None,
    computing: options.Computing,
    json: JsonFile = None,
) -> None:
    """Learn circuits of a chip by gradients, together with the model that runs on it.

    The model is first adapted to the chip, then trained together with what --learn names. Before levels are
    learned, the levels of the write DACs are spaced so that one of them is V_offset, which stores no signal,
    unless the design states levels. RUN/design.toml is the learned chip, an ordinary design. In the examples
    runs/tiny is what `gaincell map tiny` writes.

    Example: gaincell codesign tiny --steps 40 --out runs/codesigned

    Example: gaincell codesign tiny --learn levels --design leroux2025-oxide --out runs/levels

    Example: gaincell codesign runs/tiny --learn saturations --no-weights
    """
    trained = "training of weights, without --no-weights"
    options.check_needed(context, ("--learning-rate",), trained, training.weights)
    computing.start()
    from gaincell.cli._progress import kept_in, progress_bars
    from gaincell.mapping.codesign import CodesignSettings, codesign_model
    from gaincell.mapping.load_hardware import find_start
    from gaincell.reports.codesign import learned_lines

    settings = CodesignSettings(
        model=model,
        design=options.choose_chip(model, design),
        learn=tuple(dict.fromkeys(circuit.value for circuit in learn or Circuit)),
        backend=computing.backend,
        device=computing.device,
        **vars(training),
    )
    typer.echo(f"{model}: {find_start(model, linear=False).words}")
    with kept_in(out), progress_bars() as progress:
        run = codesign_model(
            settings, options.chip_of("leroux2025"), out, command=command_line(), progress=progress
        )
    show_result(run, json, *learned_lines(run))
