"""`gaincell fidelity`: how close every head comes to softmax attention, and what its circuits do."""

from __future__ import annotations

from typing import Annotated

import typer

from gaincell.cli._groups import with_groups
from gaincell.cli._json import FigureFile, JsonFile, show_result
from gaincell.cli._options import Computing, OtherDesign, RunName, Sequences, StageName, TextName

app = typer.Typer()
TOKENS = 512
"""Of a sequence, at most, where none are asked for."""


@app.command()
@with_groups
def fidelity(
    *,
    run: RunName,
    text: TextName = "sample",
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            metavar="TOKENS",
            min=2,
            help="Tokens read, of one sequence; by default up to 512, at most ring and context hold.",
        ),
    ] = None,
    sequences: Sequences = 1,
    design: OtherDesign = None,
    stage: StageName = None,
    linear: Annotated[
        str | None, typer.Option("--linear", metavar="RUN", help="The linear hardware model, if it is a RUN.")
    ] = None,
    figure: FigureFile = None,
    computing: Computing,
    json: JsonFile = None,
) -> None:
    """Compare every head's output in arrays with the pretrained model's softmax attention.

    Both see the pretrained model's hidden states. Error: squared, relative to the softmax output. Linear
    error: relative to the output of --linear, or of the same arrays with linear cells. Pulses: share of
    columns that give one. Ceilings: share of pulses and sub-tile outputs that are cut. Tile zero: share of
    sub-tile outputs that count as nothing. Codes: share of the codes in use (exp of their entropy). --json
    and --figure have all of them per layer and head. In the example runs/tiny is what `gaincell map tiny`
    writes.

    Example: gaincell fidelity runs/tiny --figure fidelity.png --json fidelity.json
    """
    computing.start()
    from gaincell.cli._perplexity import load_run, result
    from gaincell.cli._progress import progress_bars
    from gaincell.errors import InputError
    from gaincell.evaluation.fidelity import fidelity as compare_heads
    from gaincell.evaluation.perplexity import cut_blocks
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.integrations.hf.context import check_length, default_length, read_tokens
    from gaincell.integrations.hf.models import load_model, load_software
    from gaincell.reports.heads import fidelity_figure, fidelity_rows
    from gaincell.results.evaluation import FidelityResult
    from gaincell.text import open_text

    found_text = open_text(text)
    loaded, gains = load_run(run, "fidelity", design, computing.backend, stage)
    columns = attached_layers(loaded.model)[0].design.window
    tokens = tokens or default_length(loaded.model, min(TOKENS, columns))
    check_length(loaded.model, tokens)
    base = load_software(loaded.id)
    of_linear = None
    if linear is not None:
        other = load_model(linear)
        if other.sha256 != loaded.sha256:
            raise InputError(
                f"--linear {linear} was made from another model than {run}; give a RUN of the same"
            )
        of_linear = other.model
    for model in (loaded.model, base, *([] if of_linear is None else [of_linear])):
        model.to(computing.device)  # type: ignore[arg-type]
    with progress_bars() as progress:
        reading = progress("read and tokenise the text")
        stream = read_tokens(loaded, found_text, "evaluation", tokens * sequences, reading, block=tokens)
        ids = cut_blocks(stream, tokens)[:sequences]
        found = compare_heads(loaded.model, base, ids, linear=of_linear, progress=progress("compare heads"))
    protocol = f"{len(ids)} x {tokens} tokens, hidden states of the pretrained model, {found.queries} queries"
    head = result(loaded, protocol, ids.flatten(), command="fidelity", text=found_text.name, gains=gains)
    entry = FidelityResult(**vars(head) | {"stage": stage}, fidelity=found.tables)
    show_result(entry, json, fidelity_rows(entry, run), figure=figure, draw=fidelity_figure)
