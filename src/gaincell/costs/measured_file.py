"""Measurements of softmax attention from a result of `gaincell baseline`, or of `gaincell cost` with some."""

from __future__ import annotations

import os
from pathlib import Path

from gaincell.costs.gpus import Measured
from gaincell.errors import InputError, RunError
from gaincell.files import read_json
from gaincell.results import parse
from gaincell.results.cost import CostResult
from gaincell.results.system_cost import BaselineResult


def read_measured(path: str | os.PathLike[str]) -> list[Measured]:
    """All machines of a file that were measured, not cited. Raises InputError: it is no such file, or none
    was measured.
    """
    path = Path(path)
    try:
        found = parse(read_json(path), path.name)
    except (OSError, ValueError, TypeError, RunError) as error:
        raise InputError(f"{path.name} holds no measurements: {error}") from error
    machines: list[Measured] = []
    match found:
        case BaselineResult():
            machines = [machine.measured for machine in found.machines]
        case CostResult():
            machines = [
                Measured(m.title, *m.sizes, m.latency, m.energy, m.kind, m.source) for m in found.machines
            ]
        case _:
            raise InputError(
                f"{path.name} holds no measurements; give the result of gaincell baseline --json"
            )
    measured = [machine for machine in machines if machine.kind == "measured"]
    if not measured:
        raise InputError(
            f"{path.name} holds no machine that was measured, only cited or computed ones; give the result "
            "of gaincell baseline --json"
        )
    return measured
