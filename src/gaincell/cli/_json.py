"""The option `--json FILE` that every command has beside the table it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from gaincell.files import write_text

JsonFile: TypeAlias = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON.", dir_okay=False)
]


def write_json(path: Path | None, content: Any) -> None:
    """Write the content, completely or not at all, if a file was asked for."""
    if path is not None:
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
