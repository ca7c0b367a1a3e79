"""`gaincell adapt`: adaptation alone, of a linear hardware model to any cell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from gaincell.cli._groups import with_groups
from gaincell.cli._json import JsonFile, command_line, directory, show_result
from gaincell.cli._options import (
    CalibrationTokens,
    CellName,
    ComputingAnywhere,
    Limit,
    ModelInArrays,
    ProtocolName,
    TextName,
    choose_chip,
)

app = typer.Typer()


Start: TypeAlias = Literal["trained", "neutral"]
"""Gains and offsets that an adaptation starts from."""
Rule: TypeAlias = Literal["relative", "released"]
"""When the published method stops, see `gaincell.adaptation.result.Residuals`."""
Method: TypeAlias = Literal["closed-form", "published"]
"""Ways to adapt."""


@app.command()
@with_groups
def adapt(
    *,
    model: ModelInArrays,
    cell: CellName = None,
    method: Annotated[
        Method, typer.Option("--method", help="Exact in two forward passes, or the paper's iteration.")
    ] = "closed-form",
    start: Annotated[
        Start,
        typer.Option("--start", metavar="START", help="trained, or neutral: all gains 1, all offsets 0."),
    ] = "trained",
    rule: Annotated[
        Rule | None,
        typer.Option(
            "--rule",
            metavar="RULE",
            help="When published stops: relative, or as released by the authors; by default released from "
            "the neutral start, relative from the trained one.",
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option("--iterations", metavar="N", min=1, max=1000, help="Most of published; by default 100."),
    ] = None,
    design: Annotated[
        str | None, typer.Option("--design", metavar="DESIGN", help="Chip; by default that of the RUN.")
    ] = None,
    text: TextName = "sample",
    protocol: ProtocolName = None,
    limit: Limit = 16_384,
    calibration_tokens: CalibrationTokens = 16_384,
    out: Annotated[
        Path | None, directory("--out", "RUN", "Also save the adapted model and its figures here.")
    ] = None,
    computing: ComputingAnywhere,
    json: JsonFile = None,
) -> None:
    """Put a model on another cell and adapt its gains and offsets, nothing else.

    Every scaling stage (q, k, v and output of every head) gets the mean and standard deviation it had on the
    linear cell, on calibration text in blocks of the protocol's T. All evaluations use one protocol,
    whatever the design: a ring shorter than T forgets. Exit code 1 if a stage stays further away than
    a millionth of its standard deviation (by the released rule: 1e-4 in its own unit). In the examples
    runs/tiny is what `gaincell map tiny` writes.

    --start neutral first discards the trained gains and offsets, as the paper's released code does: the fall
    of perplexity in its Fig. 4c begins there. Both starts are evaluated.

    Example: gaincell adapt tiny --cell x3

    Example: gaincell adapt tiny --cell docs/data/compressive.toml

    Example: gaincell adapt tiny --method published --start neutral --out runs/fall

    Example: gaincell adapt runs/tiny --cell sigmoid --method published --out runs/tiny-sigmoid
    """
    computing.start()
    from gaincell.chips.design_file import load_design
    from gaincell.cli._progress import progress_bars
    from gaincell.errors import InputError
    from gaincell.mapping.readapt import AdaptSettings, adapt_model
    from gaincell.mapping.ready import find_start
    from gaincell.reports.tables import adaptation_lines, perplexity_table

    for given, option, does in (
        (rule == "released", "--rule", "--rule released stops"),
        (iterations is not None, "--iterations", "--iterations limits"),
    ):
        if given and method != "published":
            raise InputError(f"{does} --method published; give both, or leave {option} out")
    as_the_paper = method == "published" and start == "neutral"
    rule = rule or ("released" if as_the_paper else "relative")
    settings = AdaptSettings(
        model=model,
        design=choose_chip(model, design),
        cell=cell,
        method=method,
        start=start,
        rule=rule,
        max_iterations=iterations or 100,
        text=text,
        protocol=protocol,
        evaluation_tokens=limit,
        calibration_tokens=calibration_tokens,
        backend=computing.backend,
        device=computing.device,
        dtype=computing.dtype,
    )
    typer.echo(f"{model}: {find_start(model).words}")
    with progress_bars() as progress:
        run = adapt_model(settings, load_design("leroux2025"), out, command=command_line(), progress=progress)
    show_result(run, json, perplexity_table(run), *adaptation_lines(run))
    if not run.adaptation[method].converged:
        raise typer.Exit(1)
