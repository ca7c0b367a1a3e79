"""Files that commands write: the option `--json FILE` beside the table, `--figure FILE`, and their check."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from gaincell.files import write_text

FIGURES = (".png", ".svg", ".pdf")


def output_file(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Callback of an option: refuse, before any work, a file that could not be written after it."""
    if value is not None:
        _check_place(param.opts[0], value, value.resolve().parent)
    return value


def output_figure(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Callback of an option: as `output_file`, and the ending must be that of a picture."""
    from gaincell.errors import InputError

    if value is not None and value.suffix.lower() not in FIGURES:
        raise InputError(f"{param.opts[0]} {value.name}: give a name that ends with {', '.join(FIGURES)}")
    return output_file(param, value)


def output_directory(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Callback of an option: refuse, before any work, a directory that could not be written into after it."""
    if value is not None:
        _check_place(param.opts[0], value, value.resolve())
    return value


def _check_place(option: str, value: Path, place: Path) -> None:
    """Raise InputError where a directory cannot be written into, or made."""
    from gaincell.errors import InputError

    while not (place.exists() or place.is_symlink()):
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(
            f"{option} {value}: nothing can be written in {place} ({error.strerror}); give another place"
        ) from None


JsonFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Also write the result as JSON.",
        dir_okay=False,
        callback=output_file,
    ),
]
FigureFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--figure",
        metavar="FILE",
        dir_okay=False,
        help="Also draw it: .png, .svg or .pdf.",
        callback=output_figure,
    ),
]


def write_json(path: Path | None, content: Any) -> None:
    """Write the content, completely or not at all, if a file was asked for."""
    if path is not None:
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
