"""`gaincell ablate`: which constraint of the hardware costs how much."""

from __future__ import annotations

from typing import Annotated

import typer

from gaincell.cli._json import FigureFile, JsonFile, write_json
from gaincell.cli._options import (
    Device,
    Impl,
    ImplName,
    Limit,
    OtherDesign,
    ProtocolName,
    RunName,
    TextName,
    Threads,
    check_run,
    choose_chip,
    fraction,
    use,
)

app = typer.Typer()


@app.command()
def ablate(
    run: RunName,
    text: TextName = "sample",
    protocol: ProtocolName = None,
    limit: Limit = 32_768,
    design: OtherDesign = None,
    mismatch: Annotated[
        str | None,
        typer.Option("--mismatch", metavar="P%", help="First give its cells a spread."),
    ] = None,
    figure: FigureFile = None,
    threads: Threads = None,
    impl: ImplName = Impl.auto,
    device: Device = "cpu",
    json: JsonFile = None,
) -> None:
    """Perplexity with each constraint of the chip switched off, and with each switched on alone.

    The constraints are levels of queries, storage and readout; ceilings of scores and outputs; decay; the
    cell's nonlinearity; sub-tiles; and mismatch (--mismatch), noise, writes and leakage where the chip has
    them. Half the ring is tried too. Nothing is trained, so the table shows what the model as it is loses to
    each. In the example runs/tiny is what `gaincell map tiny` writes.

    Example: gaincell ablate runs/tiny --figure ablation.png
    """
    use(threads, device)
    from rich.console import Console

    from gaincell.cli._perplexity import result
    from gaincell.cli._progress import progress_bars
    from gaincell.devices.variability import Mismatch
    from gaincell.evaluation.ablation import ablate as run_ablation
    from gaincell.evaluation.perplexity import default_protocol, window_and_stride
    from gaincell.integrations.hf.attach import attached_layers, set_design
    from gaincell.integrations.hf.chip import AS_SAVED, change_chip, set_impl
    from gaincell.integrations.hf.context import check_length, read_tokens
    from gaincell.integrations.hf.models import load_model
    from gaincell.reports.ablation import ablation_figure, ablation_rows
    from gaincell.reports.style import save
    from gaincell.results.evaluation import AblationResult
    from gaincell.text import open_text

    check_run(run, "ablate")
    choose_chip(run, design)
    if protocol is not None:
        window_and_stride(protocol)
    spread = 0.0 if mismatch is None else fraction(mismatch, "--mismatch")
    found_text = open_text(text)
    loaded = load_model(run)
    length, _ = window_and_stride(protocol or default_protocol(loaded.model))
    check_length(loaded.model, length)
    loaded.model.to(device)  # type: ignore[arg-type]
    gains = AS_SAVED + change_chip(loaded.model, design)
    set_impl(loaded.model, impl.value)
    typer.echo(f"{run}: {gains}")
    if mismatch is not None:
        chip = attached_layers(loaded.model)[0].design
        set_design(loaded.model, chip.replace(mismatch=Mismatch(current_offset_std=spread)))
    with progress_bars() as progress:
        reading = progress("read and tokenise the text")
        tokens = read_tokens(loaded, found_text, "evaluation", limit or None, reading, block=length)
        found = run_ablation(loaded.model, tokens, protocol, progress("evaluate"))
    head = result(loaded, found.protocol, tokens, command="ablate", text=found_text.name, gains=gains)
    entry = AblationResult(**vars(head), ablation=found.rows)
    Console().print(ablation_rows(entry, run).terminal())
    write_json(json, entry)
    if figure is not None:
        save(ablation_figure(entry), figure)
