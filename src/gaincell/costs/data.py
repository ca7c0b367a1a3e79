"""Numbers of costs: TOML files in this folder, each number with value, unit, source, range and note.

A file is read into a frozen dataclass whose annotations say the units, as in designs. Unknown keys, bare
numbers, other units and values outside their range are errors. Sources are those of gaincell.quantity: "L"
is other literature, cited in the note ("as commonly quoted" where the original was not at hand); "D" is
derived or assumed here, and a note that begins with "assumed" says that nobody published it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from gaincell.chips.fields import number_kinds
from gaincell.errors import DesignError
from gaincell.quantity import Quantity, check_keys, parse_quantity, read_numbers

FOLDER = Path(__file__).parent
T = TypeVar("T", bound="Sourced")


@dataclass(frozen=True)
class Sourced:
    """Where the numbers of a dataclass come from, by field."""

    provenance: Mapping[str, Quantity]


def build(owner: type[T], raw: Mapping[str, Any], where: str) -> T:
    """A dataclass from a complete table.

    Raises:
        DesignError: a key, unit, type or range is wrong.
    """
    kinds, words = number_kinds(owner), [f.name for f in fields(owner) if f.type == "str"]
    check_keys(raw, (*words, *kinds), where)
    found = {
        key: parse_quantity(entry, kinds[key], f"{where}: {key}")
        for key, entry in raw.items()
        if key in kinds
    }
    for key in (*words, *kinds):
        if key not in raw:
            raise DesignError(f"{where}: key {key!r} is missing; state it, or extend a file that does")
        if key in words and not isinstance(raw[key], str):
            raise DesignError(f"{where}: {key} = {raw[key]!r} has the wrong type; allowed: text")
    for key, quantity in found.items():
        if quantity.source == "L" and len(quantity.note) < len("author, year"):
            raise DesignError(f"{where}: {key} has source 'L' but no reference in its note; state one")
    values: dict[str, Any] = {key: quantity.value for key, quantity in found.items()}
    return owner(**values, **{key: raw[key] for key in words}, provenance=found)


def packaged(owner: type[T], file: str, table: str) -> T:
    """One table of a packaged file."""
    return build(owner, read_numbers(FOLDER / file)[table], f"{file}: {table}")


def all_packaged(owner: type[T], file: str, section: str | None = None) -> dict[str, T]:
    """Every table of a packaged file, or of a section of it, by name."""
    raw = read_numbers(FOLDER / file)
    tables = raw if section is None else raw[section]
    return {name: build(owner, entry, f"{file}: {name}") for name, entry in tables.items()}
