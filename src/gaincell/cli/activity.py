"""`gaincell activity`: pulses, stored voltages and sparsity of every head on some text."""

from __future__ import annotations

from typing import Annotated

import typer

from gaincell.cli._json import FigureFile, JsonFile, show_result
from gaincell.cli._options import Device, ModelOrRun, OtherDesign, Sequences, TextName, Threads, use

app = typer.Typer()


@app.command()
def activity(
    model: ModelOrRun,
    text: TextName = "sample",
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            metavar="TOKENS",
            min=1,
            help="Tokens read, of one sequence; by default the model's context, at most 1024.",
        ),
    ] = None,
    sequences: Sequences = 1,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Sequences at a time.")] = 1,
    design: OtherDesign = None,
    figure: FigureFile = None,
    threads: Threads = None,
    device: Device = "cpu",
    json: JsonFile = None,
) -> None:
    """Measure what energy depends on: lengths of pulses, columns that give one, stored voltages.

    It measures query pulses, pulses φ(S) between the arrays (over valid columns), stored |u| of keys and
    values, and output pulses of the sub-tiles, exactly as the attention computes them. --json and --figure
    have them per layer and head. An embedded model runs as its shipped linear version; a model that is not
    in arrays gets untrained gains and offsets.

    Example: gaincell activity adapters/smollm2-135m --tokens 2048 --figure activity.png --json activity.json
    """
    use(threads, device)
    from gaincell.chips.design_file import load_design
    from gaincell.cli._activity import observe_model
    from gaincell.cli._perplexity import result
    from gaincell.reports.heads import activity_figure, activity_rows, sparsity_line
    from gaincell.results.activity import ActivityResult

    chip = None if design is None else load_design(design)
    seen = observe_model(model, chip, text, tokens, sequences, batch=batch, device=device)
    protocol = f"{len(seen.ids)} x {seen.ids.shape[1]} tokens, each sequence from empty arrays"
    how = seen.ready.how
    head = result(
        seen.ready.loaded, protocol, seen.ids.flatten(), command="activity", text=seen.text, gains=how
    )
    entry = ActivityResult(**vars(head), activity=seen.found)
    typer.echo(f"{model}: {how}")
    show_result(
        entry, json, activity_rows(entry, model), sparsity_line(entry), figure=figure, draw=activity_figure
    )
