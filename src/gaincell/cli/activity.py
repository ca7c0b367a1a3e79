"""`gaincell activity`: pulses, stored voltages and sparsity of every head on some text."""

from __future__ import annotations

from typing import Annotated

import typer

from gaincell.cli._json import FigureFile, JsonFile, check_outputs, write_json
from gaincell.cli._options import MODEL_HELP, Device, OtherDesign, TextName, Threads, use

app = typer.Typer()


@app.command()
def activity(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|RUN", help=f"A RUN directory, such as runs/tiny, or {MODEL_HELP}")
    ],
    text: TextName = "sample",
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Of one sequence.")] = 1024,
    sequences: Annotated[int, typer.Option("--sequences", min=1, help="How many.")] = 1,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Sequences at a time.")] = 1,
    design: OtherDesign = None,
    figure: FigureFile = None,
    threads: Threads = None,
    device: Device = "cpu",
    json: JsonFile = None,
) -> None:
    """How long the pulses are, how many columns give one, and what is stored: what energies follow from.

    Query pulses, pulses φ(S) between the arrays (over the columns that are valid), stored |u| of keys and
    values, output pulses of the sub-tiles, exactly as the attention computes them; per layer and head in
    --json and --figure. A MODEL that is no RUN takes the shipped linear version if it is embedded, else
    untrained gains and offsets.

    Example: gaincell activity adapters/smollm2-135m --tokens 2048 --figure activity.png --json activity.json
    """
    check_outputs(json, figure=figure)
    use(threads, device)
    from rich.console import Console

    from gaincell.cli._perplexity import result
    from gaincell.cli._progress import progress_bars
    from gaincell.config import load_design
    from gaincell.evaluation.activity import measure_activity
    from gaincell.evaluation.perplexity import cut_blocks
    from gaincell.mapping.ready import hardware_model
    from gaincell.reports.activity import activity_table, draw_activity, sparsity_line
    from gaincell.reports.results import check
    from gaincell.text import open_text, token_stream

    found_text = open_text(text)
    chip = None if design is None else load_design(design)
    with progress_bars() as progress:
        ready = hardware_model(model, load_design("leroux2025"), chip, progress=progress)
        loaded = ready.loaded
        loaded.model.to(device)  # type: ignore[arg-type]
        reading = progress("read and tokenise the text")
        stream = token_stream(found_text.part("evaluation"), loaded.tokenizer, tokens * sequences, reading)
        ids = cut_blocks(stream, tokens)[:sequences]
        found = measure_activity(
            loaded.model, list(ids.split(batch)), found_text.name, progress=progress("observe the arrays")
        )
    entry = result(loaded, f"{len(ids)} x {tokens} tokens, each sequence from empty arrays", ids.flatten())
    entry["command"] = "activity"
    entry["gains"] = ready.how
    entry["text"] = {"name": found_text.name}
    entry["activity"] = found.to_json()
    check(entry)
    console = Console()
    console.print(activity_table(entry, model))
    console.print(sparsity_line(entry))
    write_json(json, entry)
    if figure is not None:
        draw_activity(entry, figure)
