"""Energies of `gaincell spice energy --json` as another source for the arrays.

The simulated array is taken as it is, with its own inputs, and counted once for every sub-tile that is read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gaincell.costs.head import Head
from gaincell.errors import InputError
from gaincell.files import read_json
from gaincell.units import Joule

PREFERRED = "real"
"""Inputs that are taken where a file has several."""
COMMAND = "spice energy"


@dataclass(frozen=True)
class SpiceEnergy:
    """Energy of one sub-tile.

    inputs, readout, technology: of the simulation.  first, second: of the two dot products, J.
    first_pulse, second_pulse: mean pulses of their word lines over the longest.
    """

    inputs: str
    readout: str
    technology: str
    first: Joule
    second: Joule
    first_pulse: float
    second_pulse: float

    def of_head(self, head: Head) -> tuple[Joule, Joule]:
        """Both dot products of a head. Raises InputError: the head is not made of such arrays."""
        if head.head_dim != head.tile:
            raise InputError(
                f"the SPICE energies are of arrays of {head.tile} rows, the heads have {head.head_dim}; "
                "leave --spice out"
            )
        return self.first * head.active_tiles, self.second * head.active_tiles


def read_spice(path: str | os.PathLike[str], inputs: str | None = None) -> SpiceEnergy:
    """Read one run of such a file.

    inputs: which run; by default that of real inputs, else the last.

    Raises:
        InputError: the file is no such result, or has no such run.
    """
    path = Path(path)
    try:
        result = read_json(path)
        if result["command"] != COMMAND:
            raise InputError(f"{path.name} is of `{result['command']}`; give one of `{COMMAND}`")
        runs = {run["inputs"]: run for run in result["runs"]}
        wanted = inputs or (PREFERRED if PREFERRED in runs else list(runs)[-1])
        if wanted not in runs:
            raise InputError(f"{path.name} has no run with inputs {wanted!r}; it has {', '.join(runs)}")
        run = runs[wanted]
        energies = [_joules(run[key]["array"], path) for key in ("first", "second")]
        pulses = [float(run[key]["activity"]["value"]) for key in ("first", "second")]
        return SpiceEnergy(wanted, result["readout"], result["technology"], *energies, *pulses)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{path.name} is not a result of `gaincell {COMMAND} --json` ({type(error).__name__}: {error})"
        ) from error


def _joules(entry: dict[str, object], path: Path) -> Joule:
    if entry.get("unit") != "J":
        raise InputError(
            f"{path.name}: unit {entry.get('unit')!r} of an energy is not accepted; allowed: 'J'"
        )
    return float(str(entry["value"]))
