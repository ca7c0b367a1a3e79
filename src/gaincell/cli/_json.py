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


def check_outputs(*places: Path | None, figure: Path | None = None, folder: Path | None = None) -> None:
    """Raise InputError or RunError, before any work, for files, or a folder of files, that could not be
    written after it.
    """
    from gaincell.errors import InputError

    if figure is not None and figure.suffix.lower() not in FIGURES:
        raise InputError(f"--figure {figure.name}: give a name that ends with {', '.join(FIGURES)}")
    for file in filter(None, (*places, figure)):
        files.check_place(file)
        _check_writable(file, file.absolute())
    if folder is not None:
        _check_writable(folder, folder.absolute() / "file")


def _check_writable(given: Path, file: Path) -> None:
    """Write into the folder that is there, under the name of what is missing."""
    from gaincell.errors import InputError

    place, missing = file.parent, file.name
    try:
        while not place.exists():
            place, missing = place.parent, place.name
        with tempfile.TemporaryDirectory(dir=place, prefix=f".{missing}-"):
            pass
    except OSError as error:
        raise InputError(
            f"{given}: nothing can be written in {place} ({error}); give another place"
        ) from None


def write_json(path: Path | None, content: Any) -> None:
    """Write the content, completely or not at all, if a file was asked for."""
    if path is not None:
        files.write_json(path, content, indent=2)
