"""The one way from a result to JSON and back, by the annotations of its dataclass.

    energy: Joule                            {"value": 2e-12, "unit": "J", "kind": "simulated"}
    tokens: Annotated[int, "tokens", "measured"]    a kind of its own
    area: Annotated[SquareMetre, Cited("...")]      cited, with its source
    error: Number | None = None              left out where it is None
    set: Mapping[...] = field(default_factory=nothing)      left out where it is `nothing`
    error: Annotated[float | None, "1"]      written as null where it is None
    heads: Annotated[tuple[Head, ...], COLUMNS]     a list of numbers for every field of Head
    numbers: Numbers                         not written: the kind of the numbers here that state none
    others: Annotated[Mapping[str, Value], REST]    all keys that are no fields

Numbers may be nested tuples; those that JSON does not know are the words "infinity" and "nan". What has no
unit is written as it is. A key is the field's name; a trailing underscore, as in `yield_`, is left out.
No number is written without unit and kind, except in "provenance" and "schema".
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping
from functools import cache
from typing import (
    Annotated,
    Literal,
    NamedTuple,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from gaincell import files
from gaincell.errors import RunError
from gaincell.quantity import did_you_mean, one_of

KINDS = ("measured", "simulated", "cited", "assumed")
Kind: TypeAlias = Literal["measured", "simulated", "cited", "assumed"]
Json: TypeAlias = dict[str, object]
T = TypeVar("T")
COLUMNS = "as columns"
OWN = "kind of the numbers"
REST = "all other keys"
Numbers: TypeAlias = Annotated[Kind, OWN]
BARE = tuple(f"result.{key}" for key in ("provenance", "schema", "origin", "quality", "covariance"))
"""Where numbers need neither unit nor kind."""
UNIONS = (Union, types.UnionType)


@dataclasses.dataclass(frozen=True)
class Cited:
    """Marks a number that is taken from elsewhere."""

    source: str


class Origin(NamedTuple):
    """How numbers came about.

    Attributes:
        source: Of cited ones.
    """

    kind: str
    source: str | None = None


SIMULATED = Origin("simulated")


class _Field(NamedTuple):
    name: str
    key: str
    hint: object
    default: object


def to_json(result: object, where: str | None = "result") -> Json:
    """A result, or a part of one, as plain data.

    Args:
        result: A dataclass.
        where: How messages name it; None: its numbers need no unit, as in a provenance.

    Raises:
        ValueError: a number has no unit or no kind, or is cited without a source; its key is named.
    """
    return _encode_table(result, object, SIMULATED, where)


def from_json(kind: type[T], entry: object, where: str = "result") -> T:
    """Read what `to_json` wrote.

    Raises:
        RunError: something is missing, unknown, of another type, unit or kind; it is named after `where`.
    """
    found: set[Origin] = set()
    made = _decode_table(kind, entry, where, found)
    if found - {SIMULATED}:
        raise RunError(f"{where}: a number is {min(found - {SIMULATED}).kind}; allowed: simulated")
    assert isinstance(made, kind)
    return made


def kinds_of(*parts: object) -> set[str]:
    """All kinds of numbers in some parts of results: typed ones, or plain data."""
    found: set[str] = set()
    for part in parts:
        entry = to_json(part) if dataclasses.is_dataclass(part) else part
        if isinstance(entry, Mapping):
            found |= {str(entry["kind"])} if {"value", "kind"} <= entry.keys() else kinds_of(*entry.values())
        elif isinstance(entry, (list, tuple)):
            found |= kinds_of(*entry)
    return found


@cache
def _fields(kind: type) -> tuple[tuple[_Field, ...], _Field | None, _Field | None]:
    """Those of a dataclass: all, the one of the kind of its numbers, the one of all other keys."""
    hints = get_type_hints(kind, include_extras=True)
    fields = tuple(
        _Field(
            f.name,
            f.name.removesuffix("_"),
            hints[f.name],
            f.default if f.default_factory is dataclasses.MISSING else f.default_factory(),
        )
        for f in dataclasses.fields(kind)
    )
    own, rest = (next((f for f in fields if mark in _marks(f.hint)[1]), None) for mark in (OWN, REST))
    return fields, own, rest


def _marks(hint: object) -> tuple[object, tuple[object, ...]]:
    """A type, and what is annotated to it."""
    if get_origin(hint) is not Annotated:
        return hint, ()
    base, *marks = get_args(hint)
    return base, tuple(marks)


def _origin(marks: tuple[object, ...], inherited: Origin) -> Origin:
    cited = next((mark for mark in marks if isinstance(mark, Cited)), None)
    kind = next((str(mark) for mark in marks if mark in KINDS), None)
    return Origin("cited", cited.source) if cited else Origin(kind) if kind else inherited


def _encode(hint: object, found: object, origin: Origin, where: str | None) -> object:
    """What stands under the key `where`; None: numbers need no unit there."""
    base, marks = _marks(hint)
    options = get_args(base)
    if COLUMNS in marks and isinstance(found, Iterable):
        columns = ((f, [getattr(row, f.name) for row in found]) for f in _fields(options[0])[0])
        return {f.key: _encode(f.hint, column, origin, _place(where, f.key)) for f, column in columns}
    if marks:
        kind, source = _origin(marks, origin)
        value = {"value": files.finite(found), "unit": marks[0], "kind": kind}
        return _stated(value | ({"source": source} if source else {}), where)
    if get_origin(base) in UNIONS:
        chosen = (option for option in options if option is not types.NoneType)
        return None if found is None else _encode(next(chosen), found, origin, where)
    if dataclasses.is_dataclass(found) or isinstance(found, Mapping):
        return _encode_table(found, options[1] if options else object, origin, where)
    if isinstance(found, (list, tuple)):
        inner = options[0] if options else object
        return [_encode(inner, item, origin, where and f"{where}[{n}]") for n, item in enumerate(found)]
    if where is not None and files.is_number(found):
        raise ValueError(f"{where} = {found} stands without unit and kind")
    return files.finite(found)


def _encode_table(found: object, inner: object, origin: Origin, where: str | None) -> Json:
    """A dataclass, or a table whose entries are of type `inner`."""
    entries: list[tuple[str, object, object]] = []
    if isinstance(found, Mapping):
        entries += ((key, inner, entry) for key, entry in found.items())
    else:
        kind: type = type(found)
        fields, own, rest = _fields(kind)
        if own is not None:
            of = getattr(found, own.name)
            origin = Origin(of, vars(found)["source"] if of == "cited" else None)
        for f in fields:
            entry = getattr(found, f.name)
            if f is rest:
                of_others = get_args(_marks(f.hint)[0])[1]
                entries += ((key, of_others, one) for key, one in entry.items())
            elif f is not own and not (entry is f.default and entry in (None, "", (), {})):
                entries.append((f.key, f.hint, entry))
    inside = None if any(key == "value" for key, _, _ in entries) else where
    made = {key: _encode(hint, entry, origin, _place(inside, key)) for key, hint, entry in entries}
    return _stated(made, where)


def _place(where: str | None, key: str) -> str | None:
    place = f"{where}.{key}"
    return None if where is None or place in BARE else place


def _stated(entry: Json, where: str | None) -> Json:
    """A table as it is, if it is no number or says all that a number has to."""
    if where is None or "value" not in entry:
        return entry
    if not isinstance(entry.get("unit"), str) or not entry["unit"] or entry.get("kind") not in KINDS:
        raise ValueError(f"{where} lacks unit or kind")
    if isinstance(entry["value"], Mapping):
        raise ValueError(f"{where} has a value that is neither a number, a word nor a list of them")
    if entry["kind"] == "cited" and not entry.get("source"):
        raise ValueError(f"{where} is cited without a source")
    return entry


def _decode(hint: object, entry: object, where: str, found: set[Origin]) -> object:
    base, marks = _marks(hint)
    origin, options = get_origin(base), get_args(base)
    if COLUMNS in marks:
        return _rows(options[0], entry, where, found)
    if marks:
        return _number(base, marks, entry, where, found)
    if origin in UNIONS:
        if entry is None and types.NoneType in options:
            return None
        return _decode(_option(options, entry), entry, where, found)
    if origin is tuple:
        if not isinstance(entry, list):
            raise RunError(f"{where} = {entry!r}; allowed: a list")
        if _leaves(options[0]).issuperset(map(type, entry)):  # most of a long file: nothing to convert
            return tuple(entry)
        return tuple(_decode(options[0], item, f"{where}[{n}]", found) for n, item in enumerate(entry))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(entry, Mapping):
            raise RunError(f"{where} = {entry!r}; allowed: a table")
        return {key: _decode(options[1], item, f"{where}.{key}", found) for key, item in entry.items()}
    if origin is Literal:
        if entry not in options:
            raise RunError(f"{where} = {entry!r}; allowed: {one_of(map(repr, options))}")
        return entry
    assert isinstance(base, type)
    return (
        _decode_table(base, entry, where, found)
        if dataclasses.is_dataclass(base)
        else _plain(base, entry, where)
    )


@cache
def _leaves(hint: object) -> frozenset[type]:
    """Types of the entries that are what they stand for already."""
    options = get_args(hint) if get_origin(hint) in UNIONS else (hint,)
    return frozenset(one for one in options if one in (float, int, str, bool, types.NoneType))


def _option(options: tuple[object, ...], entry: object) -> object:
    """Which type of a union an entry is of; where it is of none, one that is no table."""

    def fits(option: object) -> bool:
        if dataclasses.is_dataclass(option):
            return isinstance(entry, Mapping)
        if get_origin(option) is tuple:
            return isinstance(entry, list)
        return isinstance(option, type) and isinstance(entry, option)

    others = [option for option in options if option is not types.NoneType]
    plain = [option for option in others if not dataclasses.is_dataclass(option)]
    return next(filter(fits, others), (plain or others)[0])


def _plain(kind: type, entry: object, where: str) -> object:
    """A word, a truth value or a number; a whole number will do for one that is not."""
    if kind is float:
        entry = files.restored(entry)
        entry = float(entry) if type(entry) is int else entry
    if not isinstance(entry, kind) or (kind is int and isinstance(entry, bool)):
        raise RunError(f"{where} = {entry!r}; allowed: a value of type {kind.__name__}")
    return entry


def _decode_table(kind: type, entry: object, where: str, found: set[Origin]) -> object:
    if not isinstance(entry, Mapping):
        raise RunError(f"{where} = {entry!r}; allowed: a table")
    fields, own, rest = _fields(kind)
    known = [f.key for f in fields if f is not rest]
    unknown = [key for key in entry if key not in known]
    if unknown and rest is None:
        raise RunError(f"{where}: unknown key {unknown[0]!r}{did_you_mean(unknown[0], known)}; make it again")
    inner = found if own is None else set()
    made: Json = {}
    for f in fields:
        if f is rest:
            made[f.name] = _decode(_marks(f.hint)[0], {key: entry[key] for key in unknown}, where, inner)
        elif f.key in entry:
            made[f.name] = _decode(f.hint, entry[f.key], f"{where}.{f.key}", inner)
        elif f.default is dataclasses.MISSING and f is not own:
            raise RunError(f"{where} lacks {f.key!r}; make it again with this version of gaincell")
    if own is not None:
        if len(inner) > 1:
            raise RunError(
                f"{where}: its numbers are {one_of(sorted(o.kind for o in inner))}; allowed: one kind"
            )
        origin = inner.pop() if inner else SIMULATED
        if origin.source != (made.get("source") if origin.kind == "cited" else None):
            raise RunError(f"{where}: its numbers are from {origin.source!r}; allowed: its own source")
        made[own.name] = origin.kind
    try:
        return kind(**made)
    except RunError as error:
        raise RunError(f"{where}: {error}; make it again") from error


def _rows(kind: type, entry: object, where: str, found: set[Origin]) -> tuple[object, ...]:
    """Columns of numbers as rows."""
    fields, _, _ = _fields(kind)
    if not isinstance(entry, Mapping) or set(entry) != {f.key for f in fields}:
        raise RunError(f"{where}: allowed are the columns {', '.join(f.key for f in fields)}; make it again")
    columns = []
    for f in fields:
        base, marks = _marks(f.hint)
        many = types.GenericAlias(tuple, (base, ...))
        column = _number(many, marks, entry[f.key], f"{where}.{f.key}", found)
        assert isinstance(column, tuple)
        columns.append(column)
    if len(set(map(len, columns))) > 1:
        raise RunError(f"{where}: its columns differ in length; make it again")
    return tuple(kind(*row) for row in zip(*columns, strict=True))


def _number(base: object, marks: tuple[object, ...], entry: object, where: str, found: set[Origin]) -> object:
    """The number of an entry with unit and kind; its kind goes into `found` unless the annotation has one."""
    if not isinstance(entry, Mapping) or not {"value", "unit", "kind"} <= entry.keys():
        raise RunError(f"{where} lacks unit or kind; make it again with this version of gaincell")
    if entry["unit"] != marks[0]:
        raise RunError(f"{where}: unit {entry['unit']!r} is not accepted; allowed: {marks[0]!r}")
    origin = Origin(entry["kind"], entry.get("source"))
    wanted = _origin(marks, origin)
    if origin != wanted or origin.kind not in KINDS:
        raise RunError(f"{where} is {' from '.join(map(str, filter(None, origin)))}; allowed: {wanted.kind}")
    if not any(isinstance(mark, Cited) or mark in KINDS for mark in marks):
        found.add(origin)
    return _decode(base, entry["value"], where, found)
