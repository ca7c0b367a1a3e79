"""The option `--json FILE` that every command has beside the table it prints."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from gaincell import files

JsonFile: TypeAlias = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON.", dir_okay=False)
]


FIGURES = (".png", ".svg", ".pdf")
FigureFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--figure", metavar="FILE", dir_okay=False, help="Also draw it: .png, .svg or .pdf."),
]


def check_outputs(*files: Path | None, figure: Path | None = None) -> None:
    """Raise InputError, before any work, for files that could not be written after it."""
    from gaincell.errors import InputError

    if figure is not None and figure.suffix.lower() not in FIGURES:
        raise InputError(f"--figure {figure.name}: give a name that ends with {', '.join(FIGURES)}")
    for file in (*files, figure):
        if file is None:
            continue
        place = file.resolve().parent
        while not place.exists():
            place = place.parent
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise InputError(
                f"{file}: nothing can be written in {place} ({error}); give another place"
            ) from None


def write_json(path: Path | None, content: Any) -> None:
    """Write the content, completely or not at all, if a file was asked for."""
    if path is not None:
        files.write_json(path, content, indent=2)
