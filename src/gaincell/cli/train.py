"""`gaincell train`: carry out the recipe of a model that is shipped with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gaincell.cli._json import JsonFile, write_json

app = typer.Typer(add_completion=False)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Such as recipes/tiny.toml.")],
    text: Annotated[Path, typer.Option(help="Directory with the texts that the recipe names.")],
    out: Annotated[Path, typer.Option(help="Directory of the results; the same one resumes.")],
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
    json: JsonFile = None,
) -> None:
    """Train a small model, continue it in software, and turn it into its linear hardware model.

    Every stage is kept in --out and every training writes checkpoints: the same command resumes.

    Example: gaincell train recipes/tiny.toml --text texts --out runs/tiny-recipe
    """
    import torch
    from rich.console import Console
    from rich.table import Table

    from gaincell.cli._progress import progress_bars
    from gaincell.mapping.recipe import load_recipe, run_recipe

    if threads is not None:
        torch.set_num_threads(threads)
    with progress_bars() as stages:
        result = run_recipe(load_recipe(recipe), text, out, stages)
    table = Table("model", "perplexity", "bits per byte", caption=result["protocol"])
    for name, found in result["models"].items():
        table.add_row(name, *(f"{found[key]['value']:.4g}" for key in ("perplexity", "bits_per_byte")))
    Console().print(table)
    write_json(json, result)
