"""Numbers of costs: TOML files in this folder, each number with value, unit, source, range and note.

A file is read into a frozen dataclass whose annotations say the units, as in designs. Unknown keys, bare
numbers, other units and values outside their range are errors. Sources are those of gaincell.quantity: "L"
is other literature, cited in the note ("as commonly quoted" where the original was not at hand); "D" is
derived or assumed here, and a note that begins with "assumed" says that nobody published it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from gaincell import files
from gaincell.errors import DesignError
from gaincell.quantity import NumberKind, Quantity, check_keys, did_you_mean, one_of, parse_quantity

FOLDER = Path(__file__).parent
T = TypeVar("T")


@dataclass(frozen=True)
class Sourced:
    """Where the numbers of a dataclass come from, by field."""

    provenance: Mapping[str, Quantity]

    def is_assumed(self, key: str) -> bool:
        """Whether nobody published a number."""
        return self.provenance[key].note.startswith("assumed")


def number_kinds(owner: type) -> dict[str, NumberKind]:
    """What each number of a dataclass accepts, from its annotation: int, Second, Farad, ..."""
    kinds = {}
    for name, hint in get_type_hints(owner, include_extras=True).items():
        base, unit = (hint.__origin__, hint.__metadata__[0]) if hasattr(hint, "__metadata__") else (hint, "1")
        if base in (int, float):
            kinds[name] = NumberKind(unit, whole=base is int)
    return kinds


def read_toml(path: Path) -> dict[str, Any]:
    """A file as it is. Raises DesignError."""
    try:
        return files.read_toml(path)
    except (OSError, ValueError) as error:
        raise DesignError(f"{path}: cannot be read as TOML: {error}") from None


def parse(
    raw: Mapping[str, Any], kinds: Mapping[str, NumberKind], words: tuple[str, ...], where: str
) -> tuple[dict[str, str], dict[str, Quantity]]:
    """Words and numbers of a table; those missing are left out. Raises DesignError."""
    check_keys(raw, (*words, *kinds), where)
    found = {
        key: parse_quantity(entry, kinds[key], f"{where}: {key}")
        for key, entry in raw.items()
        if key in kinds
    }
    texts = {key: raw[key] for key in words if key in raw}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise DesignError(f"{where}: {key} = {text!r} has the wrong type; allowed: text")
    for key, quantity in found.items():
        if quantity.source == "L" and len(quantity.note) < len("author, year"):
            raise DesignError(f"{where}: {key} has source 'L' but no reference in its note; state one")
    return texts, found


def build(owner: type[T], raw: Mapping[str, Any], words: tuple[str, ...], where: str) -> T:
    """A `Sourced` dataclass from a complete table. Raises DesignError: a key, unit or range is wrong."""
    kinds = number_kinds(owner)
    texts, found = parse(raw, kinds, words, where)
    missing = [key for key in (*words, *kinds) if key not in texts and key not in found]
    if missing:
        raise DesignError(f"{where}: key {missing[0]!r} is missing; state it, or extend a file that does")
    values = {key: quantity.value for key, quantity in found.items()}
    return owner(**texts, **values, provenance=found)  # type: ignore[call-arg]


def build_all(owner: type[T], file: str, words: tuple[str, ...]) -> dict[str, T]:
    """Every table of a packaged file, by name."""
    path = FOLDER / file
    return {name: build(owner, raw, words, f"{path.name}: {name}") for name, raw in read_toml(path).items()}


def pick(found: Mapping[str, T], name: str, what: str) -> T:
    """One of them by name. Raises DesignError with the nearest name."""
    if name not in found:
        raise DesignError(f"no {what} {name!r}{did_you_mean(name, found)}; allowed: {one_of(found)}")
    return found[name]
