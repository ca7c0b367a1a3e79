"""`gaincell adapt`: adaptation alone, of a linear hardware model to any cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from gaincell.cli import _options as options
from gaincell.cli._json import JsonFile, command_line, directory, show_result
from gaincell.cli._options import command, option


@dataclass(frozen=True)
class AdaptOptions:
    """How gains and offsets are adapted; fields as those of `gaincell.mapping.readapt.AdaptSettings`."""

    method: Annotated[
        Literal["closed-form", "published"],
        option("closed-form: exact, in two forward passes; published: the paper's iteration."),
    ] = "closed-form"
    start: Annotated[
        Literal["trained", "neutral"], option("trained, or neutral: all gains 1, all offsets 0.", "START")
    ] = "trained"
    rule: Annotated[
        Literal["relative", "released"] | None,
        option(
            "When --method published stops: relative, or as released by the authors; by default released "
            "from the neutral start, relative from the trained one.",
            "RULE",
        ),
    ] = None
    max_iterations: Annotated[
        int, option("Maximum iterations of published.", "N", "--iterations", min=1, max=1000)
    ] = 100
    text: options.TextName = "sample"
    protocol: options.ProtocolName = None
    evaluation_tokens: options.Limit = 16_384
    calibration_tokens: options.CalibrationTokens = 16_384


@command
def adapt(
    context: typer.Context,
    *,
    model: options.ModelInArrays,
    cell: options.CellName = None,
    design: Annotated[str | None, option("Chip; by default that of the RUN.", "DESIGN")] = None,
    adaptation: AdaptOptions,
    out: Annotated[Path | None, directory("Also save the adapted model and its figures here.", "RUN")] = None,
    computing: options.ComputingAnywhere,
    json: JsonFile = None,
) -> None:
    """Move a model to another cell and adapt its gains and offsets, nothing else.

    Every scaling stage (q, k, v and output of every head) gets the mean and standard deviation that it had on
    the linear cell, on calibration text in blocks of the protocol's T. All evaluations use one protocol,
    whatever the design; a ring shorter than T forgets. Exit code 1 if a stage remains further away
    than a millionth of its standard deviation (with the released rule: 1e-4 in its own unit). An --out that
    holds an adaptation with other settings is refused; with the same, an interrupted one goes on. In the
    examples runs/tiny is what `gaincell map tiny` writes.

    --start neutral first discards the trained gains and offsets, as the paper's released code does; by it the
    fall of perplexity in the paper's Fig. 4c begins there. Both starts are evaluated.

    Example: gaincell adapt tiny --cell x3

    Example: gaincell adapt tiny --cell docs/data/compressive.toml

    Example: gaincell adapt tiny --method published --start neutral --out runs/fall

    Example: gaincell adapt runs/tiny --cell sigmoid --method published --out runs/tiny-sigmoid
    """
    published = adaptation.method == "published"
    options.check_needed(context, ("--rule", "--iterations"), "--method published", published)
    computing.start()
    from gaincell.cli._progress import kept_in, progress_bars
    from gaincell.mapping.load_hardware import find_start
    from gaincell.mapping.readapt import AdaptSettings, adapt_model
    from gaincell.reports.tables import adaptation_lines, perplexity_table

    settings = AdaptSettings(
        model=model,
        design=options.choose_chip(model, design),
        cell=cell,
        backend=computing.backend,
        device=computing.device,
        dtype=computing.dtype,
        **vars(adaptation),
    )
    typer.echo(f"{model}: {find_start(model).words}")
    with kept_in(out), progress_bars() as progress:
        run = adapt_model(
            settings, options.chip_of("leroux2025"), out, command=command_line(), progress=progress
        )
    passed = run.adaptation[settings.method].converged
    table = perplexity_table(run).terminal(no_wrap=True)
    show_result(run, json, table, *adaptation_lines(run), passed=passed)
