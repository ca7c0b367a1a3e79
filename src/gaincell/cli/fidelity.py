"""`gaincell fidelity`: how close every head comes to softmax attention, and what its circuits do."""

from __future__ import annotations

from typing import Annotated

from gaincell.cli import _options as options
from gaincell.cli._json import FigureFile, JsonFile, show_result
from gaincell.cli._options import command, option
from gaincell.errors import InputError

TOKENS = 512
"""Of a sequence, at most, where none are asked for."""


@command
def fidelity(
    *,
    run: options.RunName,
    text: options.TextName = "sample",
    tokens: Annotated[
        int | None,
        option(
            "Tokens read per sequence; by default up to 512, at most what ring and context hold.",
            "TOKENS",
            min=2,
        ),
    ] = None,
    sequences: options.Sequences = 1,
    design: options.OtherDesign = None,
    stage: options.StageName = None,
    linear: Annotated[str | None, option("RUN of the linear hardware model, if there is one.", "RUN")] = None,
    figure: FigureFile = None,
    computing: options.Computing,
    json: JsonFile = None,
) -> None:
    """Compare every head's output in arrays with the pretrained model's softmax attention.

    Both see the pretrained model's hidden states. Error: squared, relative to the softmax output. Linear
    error: relative to the output of --linear, or of the same arrays with linear cells. Pulses: share of
    columns that give one. Ceilings: share at full scale, of the pulses above zero and of the sub-tile
    outputs. Tile zero: share of sub-tile outputs counted as 0. Codes: share of the codes in use (exp of
    their entropy). Pulses, ceilings, tile zero and codes of the outputs take columns of first tokens
    ([sinks] of a design) as columns of the ring. --json and --figure give all of them per layer and head. In
    the example runs/tiny is what `gaincell map tiny` writes.

    Example: gaincell fidelity runs/tiny --figure fidelity.png --json fidelity.json
    """
    computing.start()
    from gaincell.cli._models import head, load_in_arrays, read_blocks
    from gaincell.cli._progress import progress_bars
    from gaincell.evaluation.fidelity import fidelity as compare_heads
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.integrations.hf.context import check_length, default_length
    from gaincell.integrations.hf.models import load_model, load_software
    from gaincell.integrations.hf.placement import place_model
    from gaincell.reports.heads import fidelity_figure, fidelity_rows
    from gaincell.results.common import Named
    from gaincell.results.evaluation import FidelityResult
    from gaincell.text import open_text

    found_text = open_text(text)
    loaded, gains = load_in_arrays(run, "fidelity", design, stage, computing)
    chip = attached_layers(loaded.model)[0].design
    tokens = tokens or default_length(loaded.model, min(TOKENS, chip.window))
    check_length(loaded.model, tokens)
    base = load_software(loaded.id)
    place_model(base, computing.device)
    of_linear, others = None, {}
    if linear is not None:
        other = load_model(linear, backend=computing.backend)
        if other.sha256 != loaded.sha256:
            raise InputError(
                f"--linear {linear} was made from another model than {run}; give a RUN of the same model"
            )
        cells = {layer.design.cell.name for layer in attached_layers(other.model)} or {"no"}
        if cells != {"linear"}:
            raise InputError(f"--linear {linear} has {cells.pop()} cells; give a RUN with linear ones")
        of_linear = other.model
        others = {f"linear {name}": sha256 for name, sha256 in other.own.items()}
        place_model(of_linear, computing.device)
    with progress_bars() as progress:
        ids = read_blocks(loaded, found_text, tokens, sequences, progress)
        found = compare_heads(loaded.model, base, ids, linear=of_linear, progress=progress("compare heads"))
    protocol = f"{len(ids)} x {tokens} tokens, hidden states of the pretrained model, {found.queries} queries"
    if chip.sinks.tokens:
        protocol += "; numbers of the circuits: first tokens taken as columns of the ring"
    entry = FidelityResult(
        **head(loaded, protocol, ids.flatten(), others=others),
        text=Named(found_text.name), gains=gains, stage=stage, fidelity=found.tables,
    )  # fmt: skip
    show_result(entry, json, fidelity_rows(entry, run), figure=figure, draw=fidelity_figure)
