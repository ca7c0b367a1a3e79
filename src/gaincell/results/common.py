"""What all results share: the head of a file, chip and model, numbers that bring their own unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import get_annotations
from typing import Annotated, Never, TypeAlias, dataclass_transform

from gaincell.errors import RunError
from gaincell.results.codec import Kind as Kind

SCHEMA = 1
"""Version of the schema of result files."""
Number: TypeAlias = Annotated[float, "1"]
Many: TypeAlias = Annotated[tuple[float, ...], "1"]
Whole: TypeAlias = Annotated[int, "1"]
Counted: TypeAlias = Annotated[int, "1", "measured"]
CountedTokens: TypeAlias = Annotated[int, "tokens", "measured"]
Plain: TypeAlias = bool | int | float | str | tuple[float, ...] | None
"""What stands in a file without unit and kind: of a user's own, or of a device's file."""
_NOTHING: Mapping[str, Never] = {}


def nothing() -> Mapping[str, Never]:
    """Default of a table that is left out of a file where nothing is in it."""
    return _NOTHING


@dataclass_transform(frozen_default=True)
class Part:
    """A result or a part of one: what inherits this is a frozen dataclass, without a decorator."""

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        dataclass(frozen=True, kw_only=kw_only)(cls)


class Value(Part):
    """A number with a unit of its own.

    Attributes:
        source: Of a cited one.
    """

    value: float | int
    unit: str
    kind: Kind
    source: str | None = None

    def __post_init__(self) -> None:
        _check_source(self.kind, self.source)


class Values(Part):
    """Numbers with a unit of their own.

    Attributes:
        source: Of cited ones.
    """

    value: tuple[float, ...]
    unit: str
    kind: Kind
    source: str | None = None

    def __post_init__(self) -> None:
        _check_source(self.kind, self.source)


def _check_source(kind: Kind, source: str | None) -> None:
    if kind == "cited" and not source:
        raise RunError("a cited number needs its source")


class Hardware(Part):
    """The machine that a result was computed on.

    Attributes:
        threads: Of torch, in each process.
        memory_bytes: None where not known.
        processes: How many torchrun started, on all nodes; None for one that it did not start.
    """

    cpu: str
    cores: int | None
    threads: int
    memory_bytes: int | None
    accelerator: str | None
    processes: int | None = None


class Repriced(Part):
    """Numbers of a result that were computed anew by a later cost model: which, and how."""

    commit: str
    date: str
    numbers: tuple[str, ...]
    how: str


class Provenance(Part):
    """How a result came about.

    Attributes:
        inputs: Name (no path) -> content hash of what went in.
        commit: Of the repository; None when installed.
    """

    command: str
    date: str
    design_hash: str | None
    inputs: Mapping[str, str]
    seed: int
    protocol: str
    versions: Mapping[str, str]
    commit: str | None
    hardware: Hardware
    repriced: Repriced | None = None


class Check(Part):
    """A tolerance that was stated beforehand."""

    name: str
    found: Value
    allowed: Value
    passed: bool


class Chip(Part):
    """A design.

    Attributes:
        nonideality: Its name and numbers.
    """

    name: str
    hash: str
    cell: str
    nonideality: Mapping[str, Plain] | None = None


class Named(Part):
    """A text, by its name."""

    name: str


class NamedModel(Part):
    """A model, by its name and the hash of its files."""

    name: str
    sha256: str


class Result(Part, kw_only=True):
    """The head of every result file. A class names the command whose results it holds, and the part that
    tells them from others of that command.

    Attributes:
        command: The command that made it.
        title: As figures call it.
    """

    command: str = ""
    provenance: Provenance
    title: str | None = None
    schema: int = SCHEMA

    def __init_subclass__(cls, *, kw_only: bool = False, command: str = "", part: str = "") -> None:
        if command:
            cls.__annotations__ = {"command": "str", **get_annotations(cls)}
            cls.command = command
            if KINDS.setdefault((command, part), cls) is not cls:
                raise TypeError(
                    f"{cls.__name__} is a second kind of {command} {part}: no file tells them apart"
                )
        super().__init_subclass__(kw_only=kw_only)


KINDS: dict[tuple[str, str], type[Result]] = {}
"""The command that a file states, and a part that it has ("" for any) -> the kind of its result."""
