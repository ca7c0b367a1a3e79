"""`gaincell ablate`: which constraint of the hardware costs how much."""

from __future__ import annotations

from typing import Annotated

import typer

from gaincell.cli._groups import with_groups
from gaincell.cli._json import FigureFile, JsonFile, show_result
from gaincell.cli._options import (
    Computing,
    Limit,
    OtherDesign,
    ProtocolName,
    RunName,
    StageName,
    TextName,
    fraction,
)

app = typer.Typer()


@app.command()
@with_groups
def ablate(
    *,
    run: RunName,
    text: TextName = "sample",
    protocol: ProtocolName = None,
    limit: Limit = 32_768,
    design: OtherDesign = None,
    stage: StageName = None,
    mismatch: Annotated[
        str | None, typer.Option("--mismatch", metavar="P%", help="First give its cells a spread.")
    ] = None,
    figure: FigureFile = None,
    computing: Computing,
    json: JsonFile = None,
) -> None:
    """Perplexity with each constraint of the chip switched off, and with each switched on alone.

    The constraints are levels of queries, storage and readout; ceilings of scores and outputs; decay; the
    cell's nonlinearity; sub-tiles; and mismatch (--mismatch), noise, writes and leakage where the chip has
    them. Half the ring is tried too. Nothing is trained, so the table shows what the model as it is loses to
    each. In the example runs/tiny is what `gaincell map tiny` writes.

    Example: gaincell ablate runs/tiny --figure ablation.png
    """
    computing.start()
    from gaincell.cli._perplexity import load_run, result
    from gaincell.cli._progress import progress_bars
    from gaincell.devices.variability import Mismatch
    from gaincell.evaluation.ablation import ablate as run_ablation
    from gaincell.evaluation.perplexity import default_protocol, window_and_stride
    from gaincell.integrations.hf.attach import attached_layers, set_design
    from gaincell.integrations.hf.context import check_length, read_tokens
    from gaincell.reports.evaluation import ablation_figure, ablation_rows
    from gaincell.results.evaluation import AblationResult
    from gaincell.text import open_text

    if protocol is not None:
        window_and_stride(protocol)
    spread = 0.0 if mismatch is None else fraction(mismatch, "--mismatch")
    found_text = open_text(text)
    loaded, gains = load_run(run, "ablate", design, computing.backend, stage)
    length, _ = window_and_stride(protocol or default_protocol(loaded.model))
    check_length(loaded.model, length)
    loaded.model.to(computing.device)  # type: ignore[arg-type]
    if mismatch is not None:
        chip = attached_layers(loaded.model)[0].design
        set_design(loaded.model, chip.replace(mismatch=Mismatch(current_offset_std=spread)))
    with progress_bars() as progress:
        reading = progress("read and tokenise the text")
        tokens = read_tokens(loaded, found_text, "evaluation", limit or None, reading, block=length)
        found = run_ablation(loaded.model, tokens, protocol, progress("evaluate"))
    head = result(loaded, found.protocol, tokens, command="ablate", text=found_text.name, gains=gains)
    entry = AblationResult(**vars(head) | {"stage": stage}, ablation=found.rows)
    show_result(entry, json, ablation_rows(entry, run), figure=figure, draw=ablation_figure)
