"""`gaincell activity`: pulses, stored voltages and sparsity of every head on some text."""

from __future__ import annotations

from typing import Annotated

import typer

from gaincell.cli import _options as options
from gaincell.cli._json import FigureFile, JsonFile, show_result
from gaincell.cli._options import command, option


@command
def activity(
    model: options.ModelOrRun,
    text: options.TextName = "sample",
    tokens: Annotated[
        int | None,
        option("Tokens read per sequence; by default the model's context, at most 1024.", "TOKENS", min=1),
    ] = None,
    sequences: options.Sequences = 1,
    batch: Annotated[int, option("Sequences computed at a time.", "N", min=1)] = 1,
    design: options.OtherDesign = None,
    figure: FigureFile = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    json: JsonFile = None,
) -> None:
    """Measure what energy depends on: pulse lengths, columns that give a pulse, stored voltages.

    It measures query pulses, pulses φ(S) between the arrays (over valid columns), stored |u| of keys and
    values, and output pulses of the sub-tiles, exactly as the attention computes them. --json and --figure
    give them per layer and head. An embedded model runs as its shipped linear version; a model that is not
    in arrays gets untrained gains and offsets.

    Example: gaincell activity adapters/smollm2-135m --tokens 2048 --figure activity.png --json activity.json
    """
    options.use(threads, device)
    from gaincell.chips.design_file import inputs_of_design
    from gaincell.cli._models import head, in_arrays, observe_model
    from gaincell.reports.heads import NAMES, activity_figure, activity_rows, sparsity_line
    from gaincell.results.activity import ActivityResult
    from gaincell.results.common import Named

    chip = options.choose_chip(model, design)
    found, (loaded, origin), ids = observe_model(
        model, chip, text, tokens, sequences, batch=batch, device=device
    )
    protocol = f"{len(ids)} x {ids.shape[1]} tokens, each sequence from empty arrays"
    entry = ActivityResult(
        **in_arrays(head(loaded, protocol, ids.flatten(), others=inputs_of_design(design))),
        text=Named(found.source), gains=origin, activity=found,
    )  # fmt: skip
    typer.echo(f"{model}: {origin}")
    shown = (activity_rows(entry, model), sparsity_line(entry))
    show_result(entry, json, *shown, figure=figure, draw=lambda run: activity_figure(run, NAMES))
