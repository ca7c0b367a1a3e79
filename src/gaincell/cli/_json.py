"""Files that commands write: the option `--json FILE` beside the table, `--figure FILE`, and their check."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from gaincell import files

FIGURES = (".png", ".svg", ".pdf")


def output_file(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Callback of an option: refuse, before any work, a file that could not be written after it."""
    if value is not None:
        check_output(param.opts[0], value)
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
        check_output(param.opts[0], value, directory=True)
    return value


def check_output(option: str, place: Path, *, directory: bool = False) -> None:
    """Raise InputError or RunError for a file, or a directory of files, that could not be written.

    Tried is the directory that is there, with all that is missing in a temporary one.
    """
    from gaincell.errors import InputError, RunError

    whole = place.absolute() / "file" if directory else place.absolute()
    parent = whole.parent
    try:
        if not directory:
            files.check_place(place)
        while not (parent.exists() or parent.is_symlink()):
            parent = parent.parent
        with tempfile.TemporaryDirectory(dir=parent, prefix=".gaincell-") as tried:
            missing = (part for part in whole.relative_to(parent).parts if part != "..")
            files.write_text(Path(tried, *missing), "")
    except (OSError, RunError) as error:
        reason = error if isinstance(error, OSError) else error.__cause__
        if reason is None:
            raise
        raise InputError(
            f"{option} {place}: nothing can be written in {parent} ({getattr(reason, 'strerror', reason)}); "
            "give another place"
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
        files.write_json(path, content, indent=2)
