"""Strict TOML <-> Design, and the designs shipped with the package.

    design = load_design("leroux2025")          # shipped name, path of a .toml file, or a Design
    design = design.replace(cell="linear", window=256)
    design.save("mine.toml")                    # reads back as exactly the same design

A file states every number with unit, source and range (see quantity.py), or takes what it does not state from
another one by `extends = "leroux2025"`. One that changes another and states no name is named after itself.
Unknown keys are errors, as is the name of a design that is changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gaincell.chips.design import Design, design_of
from gaincell.chips.fields import ROOM_TEMPERATURE, entries_of
from gaincell.errors import DesignError
from gaincell.quantity import named_after_file, own_files, shipped_names, shipped_or_own, with_parents
from gaincell.results.common import Chip
from gaincell.text import sha256

__all__ = ["Design", "list_designs", "load_design"]

SHIPPED = Path(__file__).parents[1] / "designs"


def list_designs() -> list[str]:
    """Names of the shipped designs.

    Example:

        >>> import gaincell
        >>> "leroux2025" in gaincell.list_designs()
        True
    """
    return shipped_names(SHIPPED)


def load_design(source: str | os.PathLike[str] | Design) -> Design:
    """A design by its shipped name, from a .toml file, or as it is.

    Example:

        >>> import gaincell
        >>> design = gaincell.load_design("leroux2025")
        >>> design.window, design.replace(window=256).window
        (1024, 256)

    Raises:
        DesignError: there is no such design or the file is not acceptable; names file, key, what was
            given and what is allowed.
    """
    if isinstance(source, Design):
        return source
    path = shipped_or_own(str(source), SHIPPED, "design")
    return _complete(_entries(path), str(path))


def name_after(design: Design, changed: Iterable[str]) -> str:
    """What a design is called after changes, so that results do not pass for those of the design itself.

    Args:
        design: As it is without them.
        changed: What has another value. The cell is stated beside the name, and the number of layers is the
            model's: they do not count.
    """
    keys = [key for key in changed if key not in ("cell", "cell.kind", "layers", "description")]
    return f"{design.name} (changed: {', '.join(keys)})" if keys else design.name


def chip_of(design: Design) -> Chip:
    """Which chip, as results name it."""
    errors = design.nonideality
    numbers = None if errors is None else {"name": errors.name, **errors.numbers}
    return Chip(design.name, design.hash, design.cell.name, numbers)


def inputs_of_design(source: str | None) -> dict[str, str]:
    """Name -> SHA-256 of the file of a design and of own ones it extends, for provenances; of a shipped name
    nothing.
    """
    return {f"design {path.name}": sha256(path) for path in own_files(source, SHIPPED, "design")}


def design_from(table: Any, where: str) -> Design:
    """A design from the parsed text of `Design.to_toml`; see `load_design`.

    Args:
        table: The parsed text.
        where: Where it was read from, for errors.
    """
    if not isinstance(table, Mapping) or "extends" in table:
        raise DesignError(f"{where} is no complete design; save the model again")
    return _complete(entries_of(dict(table), where), where)


def _complete(entries: dict[str, Any], where: str) -> Design:
    return design_of({"temperature": ROOM_TEMPERATURE} | entries, where)


def _entries(path: Path) -> dict[str, Any]:
    """Every entry of a file and of what it extends, checked, by key ("tile", "cell.kind", "cell.c00"). A file
    that changes another and has no name or description is named after itself, described by what it changes.
    """
    found: dict[str, Any] = {}
    shipped = list_designs()
    for place, raw, parent in reversed(with_parents(path, SHIPPED, "design")):
        own = entries_of(raw, str(place))
        fit = [key for key in own if re.fullmatch(r"cell\.c\d\d", key)]
        if fit and "cell.coefficients" in found.keys() - own.keys():
            raise DesignError(
                f"{place}: {fit[0]} has no effect beside the cell.coefficients of {parent!r}; state "
                "coefficients"
            )
        found |= named_after_file(place, raw, parent, found, shipped) | own
    return found
