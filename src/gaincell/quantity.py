"""One number of a design file: value, unit, source and the range in which it holds.

    tile = { value = 64, unit = "1", source = "M", range = [1, 4096], note = "columns of one sub-tile" }

Every number in a design file is such a table; a bare number is refused. Numbers are in SI units, without
prefixes. `value = "none"` switches off what can be switched off (a quantiser, the decay).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

from gaincell.errors import DesignError
from gaincell.files import read_toml

SOURCES = {
    "M": "published Methods of Leroux et al. 2025",
    "R": "released code and data of the same authors",
    "S": "second-hand summary of the full text",
    "D": "derived here",
    "U": "chosen by the user",
    "F": "fitted to measured or simulated cells",
    "L": "other published literature, cited in the note",
}

LARGEST_SEED = 2**32 - 1
"""The largest seed, and number of a chip: a word of 32 bits."""

Value: TypeAlias = int | float | tuple[float, ...] | None


@dataclass(frozen=True)
class NumberKind:
    """What a key of a design file accepts.

    Attributes:
        unit: The only unit allowed, SI without prefix; "1" for a pure number.
        whole: Whether an integer is required.
        optional: Whether "none" (None in Python) is allowed.
        many: Whether it is a list of numbers instead of one.
    """

    unit: str
    whole: bool = False
    optional: bool = False
    many: bool = False

    def convert(self, value: Any, where: str) -> Value:
        """`value` as it is stored: int, float, tuple of floats, None.

        Raises:
            DesignError: a wrong type.
        """
        if self.optional and (value is None or value == "none"):
            return None
        if self.many and isinstance(value, (list, tuple)) and all(_is_number(v) for v in value):
            return tuple(float(v) for v in value)
        if not self.many and _is_number(value) and (not self.whole or isinstance(value, int)):
            return value if self.whole else float(value)
        expected = "a list of numbers" if self.many else "a whole number" if self.whole else "a number"
        choice = ' or "none"' if self.optional else ""
        raise DesignError(f"{where} = {value!r} has the wrong type; allowed: {expected}{choice}")


@dataclass(frozen=True)
class Quantity:
    """A number with its provenance.

    Attributes:
        value: The number, SI.
        unit: As printed in the file.
        source: A key of SOURCES.
        range: The closed interval in which the number may lie; of a fit ("F") its 95 % confidence interval,
            or what was fitted.
        note: Free text.
    """

    value: Value
    unit: str
    source: str
    range: tuple[float, float]
    note: str = ""

    def set_to(self, value: Value, where: str) -> Quantity:
        """The same quantity with a user's value, checked against the range: unless that is the confidence
        interval of a fit, which says nothing about another value.
        """
        bounds = (-math.inf, math.inf) if self.source == "F" else self.range
        changed = replace(self, value=value, source="U", range=bounds, note="")
        changed.check_range(where)
        return changed

    def check_range(self, where: str) -> None:
        """Raise DesignError if the value lies outside the range."""
        low, high = self.range
        if low > high:
            raise DesignError(f"{where}: range = [{low!r}, {high!r}]; allowed: [lowest, highest]")
        numbers = self.value if isinstance(self.value, tuple) else (self.value,)
        if not all(number is None or low <= number <= high for number in numbers):
            unit = "" if self.unit == "1" else f" {self.unit}"
            raise DesignError(
                f"{where} = {plain(self.value)!r}{unit} is out of range; allowed: {low!r} to {high!r}{unit}"
            )

    def to_toml(self) -> str:
        """The inline table of a design file; parsing it gives the same Quantity."""
        low, high = (toml_value(bound) for bound in self.range)
        note = f", note = {toml_value(self.note)}" if self.note else ""
        return (
            f"{{ value = {toml_value(self.value)}, unit = {toml_value(self.unit)}, "
            f"source = {toml_value(self.source)}, range = [{low}, {high}]{note} }}"
        )


def parse_quantity(raw: Any, kind: NumberKind, where: str) -> Quantity:
    """Read one inline table. `where` names file and key in errors.

    Raises:
        DesignError: a bare number, a missing or unknown entry, another unit, an unknown source, a wrong type,
            or a value outside the range.
    """
    if not isinstance(raw, dict):
        raise DesignError(
            f"{where} = {raw!r} is a bare value; "
            f"write {{ value = ..., unit = {toml_value(kind.unit)}, source = ..., range = [low, high] }}"
        )
    check_keys(raw, ("value", "unit", "source", "range", "note"), where)
    missing = [entry for entry in ("value", "unit", "source", "range") if entry not in raw]
    if missing:
        raise DesignError(f"{where} lacks {missing[0]!r}; every number states value, unit, source and range")
    if raw["unit"] != kind.unit:
        raise DesignError(
            f"{where}: unit {raw['unit']!r} is not accepted; allowed: {kind.unit!r} (SI, no prefix)"
        )
    if not (isinstance(raw["source"], str) and raw["source"] in SOURCES):
        raise DesignError(f"{where}: unknown source {raw['source']!r}; allowed: {one_of(SOURCES)}")
    bounds = raw["range"]
    if not (isinstance(bounds, list) and len(bounds) == 2 and all(_is_number(b) for b in bounds)):
        raise DesignError(f"{where}: range = {bounds!r} is not acceptable; allowed: [lowest, highest]")
    note = raw.get("note", "")
    if not isinstance(note, str):
        raise DesignError(f"{where}: note = {note!r} is not acceptable; allowed: text")
    value = kind.convert(raw["value"], where)
    quantity = Quantity(value, kind.unit, raw["source"], (bounds[0], bounds[1]), note)
    quantity.check_range(where)
    return quantity


def read_numbers(path: Path) -> dict[str, Any]:
    """A TOML file of such numbers, as it is.

    Raises:
        DesignError: it cannot be read as TOML.
    """
    try:
        return read_toml(path)
    except (OSError, ValueError) as error:
        raise DesignError(f"{path}: cannot be read as TOML: {error}") from None


def shipped_names(folder: Path) -> list[str]:
    """Of the files of a folder of the package."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def shipped_or_own(name: str, folder: Path, kind: str) -> Path:
    """The file that a user names, by a shipped name or as a path.

    Args:
        name: What the user gave.
        folder: Where shipped files are.
        kind: What it is, for errors: "design", "technology".

    Raises:
        DesignError: there is none of that name; with the nearest one.
    """
    path, shipped = Path(name), shipped_names(folder)
    if name in shipped:
        return folder / f"{name}.toml"
    if path.suffix == ".toml" and path.is_file():
        return path
    raise DesignError(
        f"no {kind} {name!r}{did_you_mean(name, shipped)}; allowed: {one_of(shipped)}, or the path of a "
        ".toml file"
    )


def with_parents(path: Path, folder: Path, kind: str) -> list[tuple[Path, dict[str, Any], str | None]]:
    """A file and those it extends, itself first: the path of each, its entries, and what `extends` names, a
    shipped file or one relative to it.

    Raises:
        DesignError: one of them is missing or no TOML, or they extend each other in a circle.
    """
    found: list[tuple[Path, dict[str, Any], str | None]] = []
    while True:
        if path.resolve() in (place.resolve() for place, _, _ in found):
            raise DesignError(
                f"{path.resolve()}: {kind} files extend each other in a circle; remove one 'extends'"
            )
        raw = read_numbers(path)
        parent = raw.pop("extends", None)
        if not isinstance(parent, (str, type(None))):
            raise DesignError(
                f"{path}: extends = {parent!r} is not acceptable; allowed: the name or path of a {kind}"
            )
        found.append((path, raw, parent))
        if parent is None:
            return found
        beside = str(path.parent / parent) if parent.endswith(".toml") else parent
        try:
            path = shipped_or_own(beside, folder, kind)
        except DesignError as error:
            raise DesignError(f"{path}: extends: {error}") from None


def own_files(source: str | None, folder: Path, kind: str) -> list[Path]:
    """The file of a design or technology and those it extends, without the shipped ones; of a name none."""
    if source is None or not source.endswith(".toml"):
        return []
    return [path for path, _, _ in with_parents(Path(source), folder, kind) if path.parent != folder]


def named_after_file(
    path: Path, raw: Mapping[str, Any], parent: str | None, found: Mapping[str, Any], shipped: Iterable[str]
) -> dict[str, str]:
    """Name and description of a file that changes what it extends and states neither, so that results do not
    pass for those of what it extends. Nothing for other files.

    Args:
        path: Of the file.
        raw: Its entries.
        parent: What it extends.
        found: The entries of that.
        shipped: Names that are taken.

    Raises:
        DesignError: it states the name of what it extends.
    """
    changed = [key for key in raw if key not in ("name", "description")]
    if parent is None or not changed:
        return {}
    if "name" in raw and raw["name"] == found.get("name"):
        raise DesignError(
            f"{path}: name = {raw['name']!r} is that of what it extends and changes ({', '.join(changed)}); "
            "give another, or leave it out"
        )
    name = path.name if path.stem in {*shipped, found.get("name")} else path.stem
    description = f"{found.get('description', parent)}, changed by {path.name}: {', '.join(changed)}"
    return {"name": name, "description": description}


@dataclass(frozen=True)
class Range:
    """What a number may be.

    Attributes:
        above: Whether `low` itself is not allowed.
        below: Whether `high` itself is not allowed.
        unit: For messages.
        whole: For messages; a whole number is asked for.
        optional: Whether None is allowed.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    unit: str = "1"
    whole: bool = False
    optional: bool = False

    def holds(self, value: object) -> bool:
        """Whether this is a number in it, or None and allowed."""
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        value = float(value)
        if self.whole and not value.is_integer():
            return False
        is_end = (value == self.low and self.above) or (value == self.high and self.below)
        return self.low <= value <= self.high and not is_end

    def __str__(self) -> str:
        unit = "" if self.unit == "1" else f" {self.unit}"
        low = f"above {self.low}" if self.above else f"{self.low}"
        if self.low == -math.inf:
            text = f"a finite number{' of' if unit else ''}{unit}"
        elif self.high == math.inf:
            text = f"{low}{unit}{'' if self.above else ' or more'}{', finite' if self.below else ''}"
        else:
            text = f"{low} to {'below ' if self.below else ''}{self.high}{unit}"
        return f"{'a whole number, ' if self.whole else ''}{text}{', or none' if self.optional else ''}"


def check_ranges(table: str, part: object, **allowed: Range) -> None:
    """Raise DesignError for the first number of a part that is out of its range."""
    for key, numbers in allowed.items():
        value = getattr(part, key)
        if not numbers.holds(value):
            raise DesignError(f"{table}: {key} = {value!r} is out of range; allowed: {numbers}")


def check_keys(given: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Raise DesignError for the first given key that is not allowed, with the nearest allowed one."""
    allowed = list(allowed)
    for key in given:
        if key not in allowed:
            raise DesignError(
                f"{where}: unknown key {key!r}{did_you_mean(key, allowed)}; allowed: {one_of(allowed)}"
            )


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """' (did you mean ...?)' when something similar is allowed, otherwise nothing."""
    close = get_close_matches(given, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def one_of(names: Iterable[str]) -> str:
    """'a, b or c'; 'none' of no names."""
    *others, last = [*names] or ["none"]
    return f"{', '.join(others)} or {last}" if others else last


def whole_number(text: str) -> int | None:
    """A whole number of 1 to 18 digits; None of another text, which may be a number beyond all use."""
    return int(text) if len(text) <= 18 and text.isdecimal() else None


def plain(value: Value) -> Any:
    """The value as TOML and JSON know it: a list for a tuple, "none" for None."""
    if value is None:
        return "none"
    return list(value) if isinstance(value, tuple) else value


def toml_value(value: Any) -> str:
    """A TOML literal that parses to exactly `value` (None becomes "none")."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, str):
        text = json.dumps("none" if value is None else value, ensure_ascii=False)
        return text.replace(
            "\x7f", "\\u007f"
        )  # the one character that JSON leaves bare and TOML does not allow
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    return repr(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
