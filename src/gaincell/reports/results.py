"""The schema of run.json: every value carries its unit and kind, and the file says how it came about.

A value is {"value": number or nested list, "unit": str, "kind": "measured" | "simulated" | "cited"}; a cited
one has "source" as well. Numbers that JSON does not know are written as the words "infinity" and "nan".
No number stands outside such a value, except in "provenance". Nothing holds a path of the machine it was
made on: files appear by base name and content hash.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from gaincell import __version__, files
from gaincell.errors import RunError
from gaincell.shipped import begun, located

SCHEMA = 1
FILE = "run.json"
KINDS = ("measured", "simulated", "cited")
Kind = Literal["measured", "simulated", "cited"]
Json = dict[str, Any]


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


def number_or_nan(entry: Mapping[str, Any]) -> float:
    """The number, NaN where it could not be had: there is no error of one block."""
    return math.nan if entry["value"] is None else number(entry)


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
    """How results came about: design, versions, commit, seed, hardware, protocol, command, date.

    Args:
        command: the command line; paths in it are reduced to base names.
        seed: of every random choice.
        protocol: of the evaluation, in words.
        design_hash: of the design.
        inputs: name (no path) -> content hash of what went in: base model, text.
    """
    return {
        "command": " ".join(without_paths(command)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "design_hash": design_hash,
        "inputs": dict(inputs or {}),
        "seed": seed,
        "protocol": protocol,
        "versions": _versions(),
        "commit": _commit(),
        "hardware": hardware(),
    }


def without_paths(command: Sequence[str]) -> list[str]:
    """The command line with every path reduced to its base name; hub ids (owner/name) stay."""
    shown: list[str] = []
    option = ""
    for argument in command:
        named = argument.startswith("--") or option == "--set"
        name, equals, rest = argument.partition("=") if named else ("", "", argument)
        kept = _without_path(rest, option in ("--out", "--json", "--dump")) if rest else ""
        shown.append(f"{name}{equals}{kept}")
        option = argument if argument.startswith("--") else ""
    return shown


def _without_path(argument: str, is_path: bool) -> str:
    looks_like = argument.startswith(("/", "./", "../", "~")) or "\\" in argument or argument.count("/") > 1
    if is_path or looks_like or (os.sep in argument and Path(argument).exists()):
        return re.split(r"[/\\]", argument.rstrip("/\\"))[-1] or argument[:1]
    return argument


def hash_of(ids: Any) -> str:
    """12 hexadecimal digits of the SHA-256 of some token ids (a tensor), as int32, or of texts."""
    if isinstance(ids, list):
        return hashlib.sha256("\0".join(ids).encode()).hexdigest()[:12]
    return hashlib.sha256(ids.cpu().int().numpy().tobytes()).hexdigest()[:12]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "gaincell": __version__}
    for package in ("torch", "transformers"):
        versions[package] = metadata.version(package)
    return versions


def code() -> str:
    """Which gaincell this is: the commit of its source tree, else the version installed."""
    return _commit() or metadata.version("gaincell")


def _commit() -> str | None:
    """The git commit of gaincell's own source tree, with "+" when it has changes; None when installed."""
    here = Path(__file__).resolve()
    if here.parents[2].name != "src" or not (here.parents[3] / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(here.parents[3])]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "src"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else None


def hardware() -> Json:
    """CPU model, cores this process may use, memory, and the accelerator if torch has one."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_bytes": memory,
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
