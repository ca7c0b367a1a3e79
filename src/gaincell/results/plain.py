"""Plain data of a result: every value carries its unit and kind.

A value is {"value": number or nested list, "unit": str, "kind": "measured" | "simulated" | "cited"}; a cited
one has "source" as well. Numbers that JSON does not know are written as the words "infinity" and "nan".
No number stands outside such a value, except in "provenance". Nothing holds a path of the machine it was
made on: files appear by base name and content hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gaincell import files
from gaincell.results.codec import KINDS, Json, Kind


def value(number: Any, unit: str, kind: Kind, source: str | None = None) -> Json:
    """One value of run.json.

    Args:
        number: a number, or a (nested) sequence of numbers.
        unit: SI or in words; "1" for a pure number.
        kind: "measured" on a machine, "simulated" by a model of the hardware, or "cited".
        source: required for a cited value.
    """
    if kind == "cited" and not source:
        raise ValueError("a cited value needs its source")
    entry: Json = {"value": files.finite(number), "unit": unit, "kind": kind}
    return entry | ({"source": source} if source else {})


def number(entry: Mapping[str, Any]) -> float:
    """The number in a value of run.json."""
    return float(entry["value"])


def numbers(entry: Mapping[str, Any]) -> list[float]:
    """The numbers in a value of run.json that holds a flat list."""
    return [float(item) for item in entry["value"]]


def check(run: Mapping[str, Any]) -> None:
    """Raise ValueError where a number of `run` stands without unit and kind (provenance and schema
    excepted).
    """
    for key, entry in run.items():
        if key not in ("provenance", "schema"):
            _check(entry, key)


def _check(entry: Any, where: str) -> None:
    if isinstance(entry, Mapping) and "value" in entry:
        if not isinstance(entry.get("unit"), str) or not entry["unit"] or entry.get("kind") not in KINDS:
            raise ValueError(f"{where} lacks unit or kind")
        if not _is_value(entry["value"]):
            raise ValueError(f"{where} has a value that is neither a number, a word nor a list of them")
        if entry["kind"] == "cited" and not entry.get("source"):
            raise ValueError(f"{where} is cited without a source")
    elif isinstance(entry, Mapping):
        for key, item in entry.items():
            _check(item, f"{where}.{key}")
    elif isinstance(entry, list):
        for n, item in enumerate(entry):
            _check(item, f"{where}[{n}]")
    elif isinstance(entry, (int, float)) and not isinstance(entry, bool):
        raise ValueError(f"{where} = {entry} stands without unit and kind")


def _is_value(entry: Any) -> bool:
    if isinstance(entry, (list, tuple)):
        return all(map(_is_value, entry))
    return entry is None or isinstance(entry, (int, float, str))
