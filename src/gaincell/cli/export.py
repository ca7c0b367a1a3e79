"""`gaincell export`: a RUN in the files of other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gaincell.cli import _options as options
from gaincell.cli._json import directory
from gaincell.cli._options import command, option


@command
def export(
    context: typer.Context,
    run: options.RunName,
    out: Annotated[Path, directory("Directory to write.")],
    form: Annotated[
        Literal["transformers", "peft"],
        option("transformers: a standalone model; peft: an adapter.", None, "--format"),
    ] = "transformers",
    dtype: options.DtypeName = "float32",
) -> None:
    """Write a RUN as a transformers model, or as a PEFT adapter, with a model card.

    After `import gaincell`, from_pretrained of transformers and peft loads either already attached; an
    adapter whose base model is not on the hub is for gaincell.load, as its card says. A model has merged
    weights, configuration, tokenizer and the chip; RUN may also be a PEFT adapter. An adapter has low-rank
    factors, gains, offsets and the chip; it can be made from RUNs with low-rank adapters and without mixing.
    A DIR that holds a RUN, or the other form, is refused. In the examples runs/tiny is what
    `gaincell map tiny` writes.

    Example: gaincell export runs/tiny --out tiny-on-arrays

    Example: gaincell map tiny --lora 4 --budget 49152 --out runs/adapter

    Example: gaincell export runs/adapter --format peft --out tiny-adapter
    """
    import torch

    from gaincell.integrations.hf.export import export_peft, export_transformers

    whole = form == "transformers"
    options.check_needed(context, ("--dtype",), "--format transformers", whole)
    place = export_transformers(run, out, getattr(torch, dtype)) if whole else export_peft(run, out)
    typer.echo(f"{place}: {', '.join(sorted(file.name for file in place.iterdir()))}")
