"""One frozen dataclass for every kind. Computations make them; tables, figures and reports take them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from gaincell import files
from gaincell.errors import RunError
from gaincell.resources import begun, resolve
from gaincell.results import (  # noqa: F401  # their kinds go into KINDS
    activity,
    comparison,
    cost,
    description,
    device,
    evaluation,
    floorplan,
    rtl,
    run,
    simulation,
    spice,
    spice_cell,
    sweep,
    system_cost,
)
from gaincell.results.codec import Json, from_json, to_json
from gaincell.results.common import KINDS, SCHEMA, Result
from gaincell.results.run import FILE, StagedResult

T = TypeVar("T", bound=Result)
RESULT = "result.json"
"""The result in a directory of `gaincell sweep` or `gaincell rtl`, as FILE is that of a RUN."""
SWEEP = "sweep.json"
"""In a directory of `gaincell sweep`: which sweep it belongs to."""
ALLOWED = "a RUN, a sweep's directory, or a file of --json"


def read(path: str | os.PathLike[str], kind: type[T], allowed: str = ALLOWED) -> T:
    """Read a result of a kind, or of one that inherits it, from a file or a directory; `allowed` says what to
    give.

    Raises:
        RunError: it cannot be read, is of another version, or is no such result.
    """
    path = _file(path)
    entry = content(path, allowed)
    found = kind_of(entry) or kind
    if not issubclass(found, kind):
        raise RunError(
            f"{path.name} is a result of another kind, of `gaincell {entry.get('command')}`; see --help for "
            "what is taken"
        )
    return from_json(found, entry, path.name)


def content(path: str | os.PathLike[str], allowed: str = ALLOWED) -> Json:
    """Read a result file of any kind, or that in a directory of a RUN, a sweep or a circuit, as plain data;
    `allowed` says what to give.

    Raises:
        RunError: it cannot be read, or is of another version.
    """
    path = _file(path)
    try:
        entry = files.read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path.name} cannot be read ({error}); give {allowed}") from error
    if not isinstance(entry, dict) or entry.get("schema") != SCHEMA:
        raise RunError(f"{path.name} is not a result of this version of gaincell (schema {SCHEMA})")
    return entry


def _file(path: str | os.PathLike[str]) -> Path:
    path = resolve(path)
    if not path.is_dir():
        return path
    if (path / FILE).exists():
        return path / FILE
    if unfinished := begun(path):
        raise RunError(f"directory {str(path)!r} {unfinished}")
    if (path / RESULT).is_file():
        return path / RESULT
    if (path / SWEEP).is_file():
        raise RunError(
            f"directory {str(path)!r} holds a sweep that is not finished; give its `gaincell sweep` command "
            "once more, and it goes on"
        )
    return path / FILE


def read_stages(folder: Path) -> StagedResult | None:
    """The run.json of a RUN directory; None where there is none, or none with stages.

    Raises:
        RunError: it cannot be read, or is of another version.
    """
    found = read(folder, Result) if (folder / FILE).is_file() else None
    return found if isinstance(found, StagedResult) and found.stages else None


def write(result: Result, path: str | os.PathLike[str]) -> Path:
    """Write a result, completely or not at all.

    Raises:
        ValueError: a number has no unit or no kind, or is cited without a source; nothing is written.
    """
    return files.write_json(path, to_json(result), indent=1)


def kind_of(entry: Json) -> type[Result] | None:
    """Which kind of result the content of a file is; None where it is none."""
    made = entry.get("command")
    return next(
        (kind for (command, part), kind in KINDS.items() if command == made and part in ("", *entry)), None
    )


def parse(entry: Json, where: str) -> Result | None:
    """A result from the content of its file; None where it is none.

    Raises:
        RunError: it is not as a result of its kind is.
    """
    kind = kind_of(entry)
    return None if kind is None else from_json(kind, entry, where)
