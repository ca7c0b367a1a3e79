"""Measurements of softmax attention from a result file: its entry "machines", a list of

    {"title", "source", "heads": value, "kv_heads": value, "head_dim": value, "context": value,
     "latency": value in s, "energy": value in J (if it was measured)}

per token of one layer. `gaincell cost --json` writes the same entry.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gaincell.costs.gpus import Measured
from gaincell.errors import InputError
from gaincell.files import read_json


def read_measured(path: str | os.PathLike[str]) -> list[Measured]:
    """All machines of a file that were measured, not cited. Raises InputError: it is no such file, or none
    was measured.
    """
    path = Path(path)
    try:
        content = read_json(path)
        found = [_machine(row, path.name) for row in content["machines"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path.name} holds no measurements ({type(error).__name__}: {error}); give a JSON file with the "
            'entry "machines"'
        ) from error
    measured = [machine for machine in found if machine.kind == "measured"]
    if not measured:
        raise InputError(
            f"{path.name} holds no machine that was measured, only cited or computed ones; give the result "
            "of gaincell baseline --json"
        )
    return measured


def _machine(row: dict[str, Any], where: str) -> Measured:
    energy = _number(row["energy"], "J", where) if "energy" in row else None
    return Measured(
        title=str(row["title"]),
        heads=int(row["heads"]["value"]),
        kv_heads=int(row.get("kv_heads", row["heads"])["value"]),  # earlier files are of heads of their own
        head_dim=int(row["head_dim"]["value"]),
        context=int(row["context"]["value"]),
        latency=_number(row["latency"], "s", where),
        energy=energy,
        kind=row["latency"]["kind"],
        source=str(row.get("source", where)),
    )


def _number(entry: dict[str, Any], unit: str, where: str) -> float:
    if entry.get("unit") != unit:
        raise InputError(f"{where}: unit {entry.get('unit')!r} is not accepted; allowed: {unit!r}")
    return float(entry["value"])
