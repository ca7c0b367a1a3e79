"""The schema of run.json: every value carries its unit and kind, and the file says how it came about.

A value is {"value": number or nested list, "unit": str, "kind": "measured" | "simulated" | "cited"}; a cited
one has "source" as well. Numbers that JSON does not know are written as the words "infinity" and "nan".
No number stands outside such a value, except in "provenance". Nothing holds a path of the machine it was
made on: files appear by base name and content hash.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gaincell import files
from gaincell.errors import RunError
from gaincell.results.codec import KINDS, Json, Kind, to_json
from gaincell.results.common import SCHEMA
from gaincell.results.provenance import code, hash_of, made, without_paths
from gaincell.shipped import begun, located

__all__ = [
    "FILE", "KINDS", "SCHEMA", "Json", "Kind", "check", "code", "hash_of", "number",
    "numbers", "provenance", "read", "saved_stage", "value", "without_paths", "write",
]  # fmt: skip
FILE = "run.json"


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


def saved_stage(run: Json) -> Json:
    """The stage whose model lies beside a run.json: the one that `saved` names, without it the last."""
    stages: list[Json] = run["stages"]
    name = run.get("saved")
    return stages[-1] if name is None else next(stage for stage in stages if stage["name"] == name)


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


def write(run: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Check `run` and write it, completely or not at all."""
    check(run)
    return files.write_json(path, run, indent=1)


def read(path: str | os.PathLike[str]) -> Json:
    """Read a run.json, or that of a RUN directory.

    Raises:
        RunError: there is none, or it is not one of this version.
    """
    path = located(path)
    if path.is_dir():
        if not (path / FILE).exists() and (unfinished := begun(path)):
            raise RunError(f"directory {str(path)!r} {unfinished}")
        path = path / FILE
    try:
        run = files.read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path.name} cannot be read ({error}); give a RUN directory or its run.json"
        ) from error
    if not isinstance(run, dict) or run.get("schema") != SCHEMA:
        raise RunError(f"{path.name} is not a result of this version of gaincell (schema {SCHEMA})")
    try:
        check(run)
    except ValueError as error:
        raise RunError(f"{path.name} is a broken result: {error}; make it again") from error
    return run


def provenance(
    *,
    command: Sequence[str],
    seed: int,
    protocol: str,
    design_hash: str | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Json:
    """As `results.provenance.made`, for results that are plain data yet."""
    return to_json(
        made(command=command, seed=seed, protocol=protocol, design_hash=design_hash, inputs=inputs)
    )
