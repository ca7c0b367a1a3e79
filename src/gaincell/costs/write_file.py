"""Energies of `gaincell spice write --json` as another source for the write: DACs with their lines and cells.

The mean over the codes of a simulated line is counted twice a row, for a key and a value. The gates of the
column that is written, and those of its discharge, are ideal in the simulation: the formula adds them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gaincell.costs.head import Head
from gaincell.costs.writing import column_gates
from gaincell.errors import InputError
from gaincell.files import read_json
from gaincell.units import Joule

COMMAND = "spice write"


@dataclass(frozen=True)
class WriteEnergy:
    """technology: of the simulation.  cells: on a line.  energies: of a write, by DAC and code, J."""

    technology: str
    cells: int
    energies: Mapping[str, tuple[Joule, ...]]

    def of_head(self, head: Head) -> dict[str, Joule]:
        """Of one query head's share, by DAC. Raises InputError: its lines or levels are others."""
        levels = head.design.storage_levels
        found = (self.cells, *{len(codes) for codes in self.energies.values()})
        if found != (head.tile, levels):
            raise InputError(
                f"the simulated write lines have cells and levels {found}, those of design "
                f"{head.design.name!r} {(head.tile, levels)}; run gaincell {COMMAND} --design with it, or "
                "leave --write out"
            )
        lines = 2 * head.head_dim
        return {
            kind: (lines * sum(codes) / len(codes) + 2 * column_gates(head)) / head.group
            for kind, codes in self.energies.items()
        }


def read_write(path: str | os.PathLike[str]) -> WriteEnergy:
    """Read such a file. Raises InputError: it is none."""
    path = Path(path)
    try:
        result = read_json(path)
        if result["command"] != COMMAND:
            raise InputError(f"{path.name} is of `{result['command']}`; give one of `gaincell {COMMAND}`")
        energies = {kind: dac["energy"] for kind, dac in result["dacs"].items()}
        if wrong := {entry["unit"] for entry in energies.values()} - {"J"}:
            raise InputError(f"{path.name}: unit {wrong.pop()!r} of an energy is not accepted; allowed: 'J'")
        return WriteEnergy(
            str(result["technology"]),
            int(result["cells"]["value"]),
            {kind: tuple(float(x) for x in entry["value"]) for kind, entry in energies.items()},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path.name} is not a result of `gaincell {COMMAND} --json` ({type(error).__name__}: {error})"
        ) from error
