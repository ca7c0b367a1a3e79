"""Which columns of a measured file hold what, by the names in its first line, or those that a user gives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gaincell.errors import InputError
from gaincell.quantity import did_you_mean, one_of, whole_number

SIMULATED = "# simulated: "
"""How the files of `gaincell spice characterise` begin."""
UNITS: Mapping[str, Mapping[str, float]] = {
    "voltage": {"V": 1.0, "mV": 1e-3},
    "current": {
        "A": 1.0, "mA": 1e-3, "uA": 1e-6, "µA": 1e-6, "μA": 1e-6, "nA": 1e-9, "pA": 1e-12, "fA": 1e-15,
    },
    "time": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9},
}  # fmt: skip
USUAL: Mapping[str, tuple[str, ...]] = {
    "voltage": (
        "voltage", "v", "u", "vg", "v_g", "vgs", "v_gs", "vstore", "v_store", "stored voltage", "vsn", "v_sn",
        "gate voltage", "spannung",
    ),
    "current": ("current", "i", "id", "i_d", "ids", "i_ds", "drain current", "iout", "i_out", "strom"),
    "time": ("time", "t", "zeit"),
    "cell": ("cell", "device", "dut"),
    "read": ("read",),
}  # fmt: skip
"""Names that are known without being given."""
MEASURED = ("voltage", "current", "time")
"""What has a unit; the others are words."""

_SUFFIX = "|".join(sorted({unit for units in UNITS.values() for unit in units}, key=len, reverse=True))
_BRACKETS = re.compile(r"(.*?)\s*[\[(]\s*([^\])\d=]*?)\s*[\])]")
_TRAILING = re.compile(
    rf"(.*\S)(?:\s*[/,]\s*({_SUFFIX})|[_\s]+((?!.$)(?:{_SUFFIX})))"
)  # "cell A" has no unit


@dataclass(frozen=True)
class Columns:
    """Names of columns, as in the first line of a file, or NAME [UNIT] where it states no unit, or the number
    of a column, counted from 1. None: one of the names in USUAL.

    Attributes:
        current: Several, or one with `*`, are one cell a column.
        decay_voltage: The voltage of decays; None: as of curves, if the decays have that column.
    """

    voltage: str | None = None
    current: tuple[str, ...] = ()
    time: str | None = None
    cell: str | None = None
    read: str | None = None
    decay_voltage: str | None = None

    def by_number(self, kinds: Sequence[str]) -> list[int]:
        """Places of the columns of some kinds that are given as numbers, counted from 0."""
        names = [split_unit(text)[0] for kind in kinds for text in _asked(self, kind)]
        return [number - 1 for name in names if (number := whole_number(name))]


@dataclass(frozen=True)
class Column:
    """One that is used.

    Attributes:
        place: Counted from 0.
        name: As the file has it, without the unit.
        unit: In SI.
    """

    place: int
    name: str
    unit: float = 1.0


def split_unit(text: str) -> tuple[str, str | None]:
    """Name and unit of a heading: V [mV], V (mV), V/mV, "V, mV", V_mV."""
    for form in (_BRACKETS, _TRAILING):
        if match := form.fullmatch(text.strip()):
            return match[1].strip(), next(unit for unit in match.groups()[1:] if unit is not None)
    return text.strip(), None


def names_columns(fields: Sequence[str], needed: Sequence[str], wanted: Columns) -> bool:
    """Whether a line names one of the columns that are needed; a number names none."""
    names = {split_unit(field)[0].casefold() for field in fields}
    if len(fields) < 2:
        return False
    asked = [text for kind in needed for text in _asked(wanted, kind)]
    usual = {name for kind in needed for name in USUAL[kind]}
    named = [text for text in asked if "*" not in text and not split_unit(text)[0].isdecimal()]
    return bool(names & usual) or any(_places(fields, text) for text in named)


def find_columns(
    fields: Sequence[str], needed: Sequence[str], wanted: Columns, where: str
) -> dict[str, list[Column]]:
    """The columns of each kind: one of each that is needed, several of the current of a wide file.

    Raises:
        InputError: a column is not there, there twice, or has no unit that is known; with what to do.
    """
    found: dict[str, list[Column]] = {}
    options = {kind: f"--{kind}" for kind in USUAL}
    if "time" in needed:
        options["voltage"] = "--decay-voltage"
    used: list[int] = []
    for kind in sorted((*needed, "cell", "read"), key=lambda kind: kind == "current"):
        texts = _asked(wanted, kind)
        named = [(place, text) for text in texts for place in _places(fields, text, where, kind)]
        places = [place for place, _ in named] if texts else _usual(fields, kind)
        if "*" in "".join(texts):
            places = [place for place in places if place not in used]
        if len(places) > 1 and (kind != "current" or not texts):
            raise InputError(_which(kind, [fields[place] for place in places], where, options[kind]))
        if not places and kind in needed:
            raise InputError(_missing(kind, fields, needed, where, options[kind]))
        units = {place: _stated(text, kind, fields[place], options[kind]) for place, text in named}
        if places:
            found[kind] = [_column(fields, n, kind, units.get(n), where, options[kind]) for n in places]
        used += places
    if len(used) != len(set(used)):
        raise InputError(f"{where}: one column cannot be two things; choose others")
    return found


def _stated(text: str, kind: str, field: str, option: str) -> str | None:
    """The unit that a user states behind the name of a column.

    Raises:
        InputError: it is none of the kind.
    """
    unit = split_unit(text)[1]
    if text == field or kind not in MEASURED or unit is None or unit in UNITS[kind]:
        return unit if unit in UNITS.get(kind, ()) else None
    raise InputError(f"{option} {text!r}: {unit!r} is no unit of a {kind}; allowed: {one_of(UNITS[kind])}")


def _asked(wanted: Columns, kind: str) -> tuple[str, ...]:
    value = getattr(wanted, kind)
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _places(fields: Sequence[str], text: str, where: str = "", kind: str = "") -> list[int]:
    """Where the columns stand that a user names.

    Raises:
        InputError: there is none, and a `kind` is given.
    """
    names = [split_unit(field)[0].casefold() for field in fields]
    exact = [n for n, field in enumerate(fields) if field == text]
    for name in (text.casefold(), split_unit(text)[0].casefold()):
        if "*" in name:
            pattern = name.replace("[", "[[]")
            alike = [n for n, other in enumerate(names) if fnmatchcase(other, pattern)]
            places = [n for n in alike if not (kind == "current" and _is_of_another_kind(fields[n]))]
        else:
            places = exact or [n for n, other in enumerate(names) if other == name]
        if not places and (number := whole_number(name)) and number <= len(fields):
            places = [number - 1]
        if places:
            break
    if kind and not places:
        raise InputError(
            f"{where}: there is no column {text!r}{did_you_mean(text, fields)}; found {', '.join(fields)}"
        )
    return places


def _is_of_another_kind(field: str) -> bool:
    """Whether a heading is none of a current: a voltage, a time, a name."""
    name, unit = split_unit(field)
    if unit is not None:
        return unit not in UNITS["current"]
    return any(name.casefold() in USUAL[kind] for kind in USUAL if kind != "current")


def _usual(fields: Sequence[str], kind: str) -> list[int]:
    """The columns with the name of the kind, else with a usual one: with a unit of it, if any has one."""
    split = [split_unit(field) for field in fields]
    named = [n for n, (name, _) in enumerate(split) if name.casefold() in USUAL[kind]]
    exact = [n for n in named if split[n][0].casefold() == kind]
    with_unit = [n for n in named if split[n][1] in UNITS.get(kind, ())]
    return exact or with_unit or named


def _column(
    fields: Sequence[str], place: int, kind: str, given: str | None, where: str, option: str
) -> Column:
    name, unit = split_unit(fields[place])
    if kind not in MEASURED:
        return Column(place, name)
    if given is not None and unit is not None and given != unit:
        raise InputError(
            f"{where}: column {fields[place]!r} is not in {given}; leave the unit out of {option}"
        )
    unit = given or unit
    if unit is None or unit not in UNITS[kind]:
        said = f"has no unit, {fields[place]!r}" if unit is None else f"has the unit {unit!r}"
        example = next(iter(UNITS[kind]))
        raise InputError(
            f"{where}: column {kind} {said}; write '{name} [{example}]' in the first line, or give {option} "
            f"'{name} [{example}]'; allowed are {one_of(UNITS[kind])}"
        )
    return Column(place, name, UNITS[kind][unit])


def _which(kind: str, named: Sequence[str], where: str, option: str) -> str:
    if len(set(named)) == 1:
        return f"{where}: column {named[0]!r} is there twice; rename one, or give {option} and its number"
    more = ", or --current '*' if every column is one cell" if kind == "current" else ""
    return f"{where}: {one_of(named)} could be the {kind}; choose by {option} {named[0]!r}{more}"


def _missing(kind: str, fields: Sequence[str], needed: Sequence[str], where: str, option: str) -> str:
    alike = [field for field in fields if split_unit(field)[1] in UNITS[kind]]
    if kind == "current" and len(alike) > 1:
        return _which(kind, alike, where, option)
    near = did_you_mean(kind, [split_unit(field)[0].casefold() for field in fields])
    example = ", ".join(f"{name} [{next(iter(UNITS[name]))}]" for name in needed)
    return (
        f"{where}: there is no column {kind!r}; found {', '.join(fields)}{near}. Name it: {option} COLUMN; "
        f"or let the first line name the columns: {example}"
    )
