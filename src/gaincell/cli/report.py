"""`gaincell report`: one self-contained page from results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gaincell.cli._json import output
from gaincell.cli._options import argument, command, option
from gaincell.errors import InputError
from gaincell.files import write_text


@command
def report(
    results: Annotated[list[str], argument("RUN directories, --json files, or NAME=FILE.", "RUN|FILE...")],
    out: Annotated[Path, output("HTML page to write.")] = Path("report.html"),
    title: Annotated[str | None, option("Title; by default what the results are about.", "TEXT")] = None,
) -> None:
    """Write results as one HTML page, with tables, charts, heat maps of the heads, and provenance.

    The page is one file and loads nothing from the network. Several results are shown side by side. The page
    is made from the results alone: nothing is recomputed. The files in the examples come with gaincell.

    Example: gaincell report adapters/smollm2-135m

    Example: gaincell report docs/results/tiny.json chips=docs/results/evaluation/chips-5.json
    docs/results/costs/cost-tiny.json --out report.html
    """
    from gaincell.reports.html.page import load, names, page

    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {out}: give a name that ends with .html")
    found = [load(path, name) for name, path in names(results).items()]
    write_text(out, page(found, title))
    typer.echo(f"{out}: {out.stat().st_size / 1e3:,.0f} kB")
