"""What `gaincell doctor`, `gaincell design` and `gaincell device show` say of an installation or a chip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from gaincell.quantity import Quantity
from gaincell.results.codec import REST, Kind
from gaincell.results.common import SCHEMA, Part, Plain, Result, Value

KIND_OF: Mapping[str, Kind] = {"L": "cited", "M": "cited", "R": "cited", "S": "cited", "F": "measured"}
"""Source of a number in a file -> its kind; others are assumed."""


def kind_of_number(number: Quantity) -> Kind:
    """How a number of a file came about; the note of one that follows from simulations says so."""
    simulated = any(part.partition(":")[0] == "simulated" for part in number.note.split("; "))
    return "simulated" if simulated and number.source in "DF" else KIND_OF.get(number.source, "assumed")


class Finding(Part):
    """One line of `gaincell doctor`.

    Attributes:
        part: What was looked at.
        found: Version or state.
        note: What follows, or what to do.
        ok: Whether it serves; None for something that is missing and that only some commands need.
    """

    part: str
    found: str
    note: str
    ok: bool | None = True


class InstallationResult(Result, kw_only=True, command="doctor"):
    """Of `gaincell doctor`."""

    ok: bool
    findings: tuple[Finding, ...]


class ListedDesign(Part):
    """An entry of `gaincell design list`."""

    name: str
    cell: str
    hash: str
    description: str
    schema: int = SCHEMA


class CheckedDesign(Part):
    """An entry of `gaincell design validate`: the hash of a design, or what is wrong with it."""

    design: str
    ok: bool
    hash: str | None = None
    error: str | None = None
    schema: int = SCHEMA


class Difference(Part):
    """What stands in two designs, in words; None: nothing."""

    first: str | None
    second: str | None


class DifferencesResult(Result, kw_only=True, command="design diff"):
    """Of `gaincell design diff`: numbers and settings that differ, by name."""

    differences: Annotated[Mapping[str, Difference], REST]


class Stated(Part):
    """A number of a design or a device, as its file states it.

    Attributes:
        source: A key of gaincell.quantity.SOURCES.
        range: Both ends; None: there is none.
    """

    value: int | float | str | tuple[float, ...]
    unit: str
    source: str
    range: tuple[float | None, ...]
    note: str
    kind: Kind

    @classmethod
    def of(cls, number: Quantity) -> Stated:
        """A quantity; "none" where it has no value."""
        value = "none" if number.value is None else number.value
        ends = tuple(end if math.isfinite(end) else None for end in number.range)
        return cls(value, number.unit, number.source, ends, number.note, kind_of_number(number))


class DesignResult(Result, kw_only=True, command="design show"):
    """Of `gaincell design show`.

    Attributes:
        derived: What follows from the numbers.
    """

    name: str
    description: str
    hash: str
    settings: Mapping[str, str | bool]
    numbers: Mapping[str, Stated]
    derived: Mapping[str, Value]


class ShownDevice(Result, kw_only=True, command="device show"):
    """Of `gaincell device show`; origin, quality and covariance are as in its file, without units."""

    name: str
    kind: str
    law: str | None
    numbers: Mapping[str, Stated]
    origin: Mapping[str, Plain]
    quality: Mapping[str, Plain]
    covariance: Mapping[str, tuple[tuple[float, ...], ...]]
