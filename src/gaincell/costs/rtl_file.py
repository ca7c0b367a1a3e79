"""The energy of `gaincell rtl --verify` as another source for the digital part: what switched at its gates.

It is that of the head that was synthesised, with its own words; the routing, which no synthesis knows, is
added by the formula.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gaincell.costs.head import Head
from gaincell.errors import InputError
from gaincell.files import read_json
from gaincell.units import Joule

COMMAND = "rtl"


@dataclass(frozen=True)
class RtlEnergy:
    """Of one token.

    inputs, technology: of the simulation.  rows, window, group: of the head.
    columns: valid ones, on average.  energy: of all query heads of the group, without routing, J.
    """

    inputs: str
    technology: str
    rows: int
    window: int
    group: int
    columns: float
    energy: Joule

    def of_head(self, head: Head) -> Joule:
        """Of one query head. Raises InputError: the head is another one."""
        found, own = (head.head_dim, head.design.window, head.group), (self.rows, self.window, self.group)
        if found != own:
            raise InputError(
                f"the synthesised head has D, columns and query heads {own}, the model's heads {found}; "
                "synthesise such a head (gaincell rtl --head-dim, --group), or leave --rtl out"
            )
        return self.energy / self.group


def read_rtl(path: str | os.PathLike[str]) -> RtlEnergy:
    """Read such a file. Raises InputError: it is none, or nothing was verified in it."""
    path = Path(path)
    try:
        result = read_json(path)
        if result["command"] != COMMAND:
            raise InputError(f"{path.name} is of `{result['command']}`; give one of `gaincell {COMMAND}`")
        if "energy" not in result:
            raise InputError(f"{path.name} has no energy; make it by gaincell {COMMAND} --verify, with yosys")
        sizes = {key: int(result["sizes"][key]["value"]) for key in ("rows", "columns", "group")}
        energy = result["energy"]
        if energy["synthesised"]["unit"] != "J":
            raise InputError(
                f"{path.name}: unit {energy['synthesised']['unit']!r} of an energy; allowed: 'J'"
            )
        return RtlEnergy(
            str(result["inputs"]),
            str(result["technology"]),
            sizes["rows"],
            sizes["columns"],
            sizes["group"],
            float(energy["columns"]["value"]),
            float(energy["synthesised"]["value"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path.name} is not a result of `gaincell {COMMAND}` ({type(error).__name__}: {error})"
        ) from error
