"""Strict TOML <-> Design, and the designs shipped with the package.

    design = load_design("leroux2025")          # shipped name, path of a .toml file, or a Design
    design = design.replace(cell="linear", window=256)
    design.save("mine.toml")                    # reads back as exactly the same design

A file states every number with unit, source and range (see quantity.py), or takes what it does not state from
another one by `extends = "leroux2025"`. Unknown keys are errors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaincell.chips.design import Design, design_of
from gaincell.chips.fields import ROOM_TEMPERATURE, entries_of
from gaincell.errors import DesignError
from gaincell.files import read_toml
from gaincell.quantity import did_you_mean, one_of
from gaincell.results.common import Chip

__all__ = ["Design", "list_designs", "load_design"]

SHIPPED = Path(__file__).parents[1] / "designs"


def list_designs() -> list[str]:
    """Names of the shipped designs.

    Example:

        >>> import gaincell
        >>> "leroux2025" in gaincell.list_designs()
        True
    """
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_design(source: str | os.PathLike[str] | Design) -> Design:
    """A design by its shipped name, from a .toml file, or as it is.

    Example:

        >>> import gaincell
        >>> design = gaincell.load_design("leroux2025")
        >>> design.window, design.replace(window=256).window
        (1024, 256)

    Raises DesignError if there is no such design or the file is not acceptable, naming file, key, what was
    given and what is allowed.
    """
    if isinstance(source, Design):
        return source
    path = _locate(source)
    return _complete(_read(path, ()), str(path))


def chip_of(design: Design) -> Chip:
    """Which chip, as results name it."""
    errors = design.nonideality
    numbers = None if errors is None else {"name": errors.name, **errors.numbers}
    return Chip(design.name, design.hash, design.cell.name, numbers)


def design_from(table: Any, where: str) -> Design:
    """A design from the parsed text of `Design.to_toml`; see `load_design`.

    where: it was read from, for errors.
    """
    if not isinstance(table, Mapping) or "extends" in table:
        raise DesignError(f"{where} is no complete design; save the model again")
    return _complete(entries_of(dict(table), where), where)


def _complete(entries: dict[str, Any], where: str) -> Design:
    return design_of({"temperature": ROOM_TEMPERATURE} | entries, where)


def _locate(source: str | os.PathLike[str]) -> Path:
    """The file of a design named by a user."""
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else str(source)
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    if path.is_file() and (name.endswith(".toml") or name in list_designs()):
        return path
    shipped = list_designs()
    raise DesignError(
        f"no design {name!r}{did_you_mean(name, shipped)}; "
        f"allowed: {one_of(shipped)}, or the path of a .toml file"
    )


def _read(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """Every entry of a file and of what it extends, checked, by key ("tile", "cell.kind", "cell.c00")."""
    place = path.resolve()
    if place in children:
        raise DesignError(f"{place}: designs extend each other in a circle; remove one 'extends'")
    try:
        raw = read_toml(path)
    except (OSError, ValueError) as error:
        raise DesignError(f"{path}: cannot be read as TOML: {error}") from None
    parent = raw.pop("extends", None)
    if not isinstance(parent, (str, type(None))):
        raise DesignError(
            f"{path}: extends = {parent!r} is not acceptable; allowed: the name or path of a design"
        )
    own = entries_of(raw, str(path))
    inherited: dict[str, Any] = {}
    if parent is not None:
        try:  # a shipped design, or a file relative to the one that extends it
            extended = _locate(path.parent / parent if parent.endswith(".toml") else parent)
        except DesignError as error:
            raise DesignError(f"{path}: extends: {error}") from None
        inherited = _read(extended, (*children, place))
    fit = [key for key in own if re.fullmatch(r"cell\.c\d\d", key)]
    if fit and "cell.coefficients" in inherited.keys() - own.keys():
        raise DesignError(
            f"{path}: {fit[0]} has no effect beside the cell.coefficients of {parent!r}; state coefficients"
        )
    return inherited | own
