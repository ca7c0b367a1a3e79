"""Strict TOML <-> Design, and the designs shipped with the package.

    design = load_design("leroux2025")          # shipped name, path of a .toml file, or a Design
    design = design.replace(cell="linear", window=256)
    design.save("mine.toml")                    # reads back as exactly the same design

A file states every number with unit, source and range (see quantity.py), or takes what it does not state from
another one by `extends = "leroux2025"`. Unknown keys are errors.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gaincell.design import (
    CELL_NUMBERS,
    NUMBERS,
    ROOM_TEMPERATURE,
    TABLE_NUMBERS,
    TABLES,
    WORDS,
    Design,
    cell_of,
)
from gaincell.errors import DesignError
from gaincell.files import read_toml
from gaincell.quantity import Quantity, check_keys, did_you_mean, one_of, parse_quantity

__all__ = ["Design", "list_designs", "load_design"]

SHIPPED = Path(__file__).parent / "designs"


def list_designs() -> list[str]:
    """Names of the shipped designs."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_design(source: str | os.PathLike[str] | Design) -> Design:
    """A design by its shipped name, from a .toml file, or as it is.

    Raises DesignError if there is no such design or the file is not acceptable, naming file, key, what was
    given and what is allowed.
    """
    if isinstance(source, Design):
        return source
    path = _locate(source)
    entries = {"temperature": ROOM_TEMPERATURE} | _read(path, ())
    required = [*WORDS, *NUMBERS, "cell.kind"]
    missing = [key for key in required if key not in entries and key != "token_period"]
    if missing:
        raise DesignError(f"{path}: key {missing[0]!r} is missing; state it, or extend a design that does")
    quantities = {key: entry for key, entry in entries.items() if isinstance(entry, Quantity)}
    numbers: dict[str, Any] = {key: quantity.value for key, quantity in quantities.items()}
    values = {word: entries[word] for word in WORDS} | {key: numbers.get(key) for key in NUMBERS}
    explicit_token_period = values.pop("token_period")
    stated = {
        table: {key: numbers[f"{table}.{key}"] for key in kinds if f"{table}.{key}" in numbers}
        for table, kinds in TABLE_NUMBERS.items()
    }
    try:
        return Design(
            **values,
            cell=cell_of(entries["cell.kind"], quantities),
            **{table: kind(**stated[table]) for table, kind in TABLES.items()},
            nonideality=None,
            explicit_token_period=explicit_token_period,
            provenance=quantities,
        )
    except DesignError as error:
        raise DesignError(f"{path}: {error}") from None


def _locate(source: str | os.PathLike[str]) -> Path:
    """The file of a design named by a user."""
    name = os.fspath(source)
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
    if path in children:
        raise DesignError(f"{path}: designs extend each other in a circle; remove one 'extends'")
    try:
        raw = read_toml(path)
    except (OSError, ValueError) as error:
        raise DesignError(f"{path}: cannot be read as TOML: {error}") from None
    check_keys(raw, ("extends", *WORDS, *NUMBERS, "cell", *TABLES), str(path))
    parent = raw.pop("extends", None)
    if not isinstance(parent, (str, type(None))):
        raise DesignError(
            f"{path}: extends = {parent!r} is not acceptable; allowed: the name or path of a design"
        )
    inherited = {} if parent is None else _read(_locate_parent(parent, path), (*children, path))
    entries: dict[str, Any] = {}
    for key, value in raw.items():
        where = f"{path}: {key}"
        if key in NUMBERS:
            entries[key] = parse_quantity(value, NUMBERS[key], where)
        elif key in WORDS:
            entries[key] = value
        else:
            entries |= _read_table(key, value, where)
    return inherited | entries


def _locate_parent(parent: str, child: Path) -> Path:
    """What `extends` names: a shipped design, or a file relative to the one that extends it."""
    try:
        return _locate(child.parent / parent if parent.endswith(".toml") else parent)
    except DesignError as error:
        raise DesignError(f"{child}: extends: {error}") from None


def _read_table(table: str, raw: Any, where: str) -> dict[str, Any]:
    kinds = CELL_NUMBERS if table == "cell" else TABLE_NUMBERS[table]
    words = ("kind",) if table == "cell" else ()
    if not isinstance(raw, dict):
        raise DesignError(
            f"{where} = {raw!r} is not a table; allowed: [{table}] with {one_of((*words, *kinds))}"
        )
    check_keys(raw, (*words, *kinds), where)
    return {
        f"{table}.{key}": value if key in words else parse_quantity(value, kinds[key], f"{where}.{key}")
        for key, value in raw.items()
    }
