"""Energies of other simulations, beside the formulas.

arrays    of `gaincell spice energy`: the simulated array as it is, with its own inputs, counted once for
          every sub-tile that is read
writes    of `gaincell spice write`: the mean over the codes of a simulated line, counted twice a row, for a
          key and a value. The gates of the column that is written, and those of its discharge, are ideal in
          the simulation: the formula adds them
digital   of `gaincell rtl --verify`: what switched at the gates of the head that was synthesised, with its
          own words. The routing, which no synthesis knows, is added by the formula
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gaincell import results
from gaincell.costs.head import Head
from gaincell.costs.writing import column_gates
from gaincell.errors import InputError, RunError
from gaincell.results.common import Result
from gaincell.results.rtl import RtlEnergy, RtlResult
from gaincell.results.spice import EnergyResult, EnergyRun, WriteResult
from gaincell.units import Joule

PREFERRED = "real"
"""Inputs that are taken where a file has several."""
T = TypeVar("T", bound=Result)


@dataclass(frozen=True)
class SimulatedArrays:
    """One run of a simulation."""

    result: EnergyResult
    run: EnergyRun

    def of_head(self, head: Head) -> tuple[Joule, Joule]:
        """Both dot products of a head. Raises InputError: the head is not made of such arrays."""
        if head.head_dim != head.tile:
            raise InputError(
                f"the SPICE energies are of arrays of {head.tile} rows, the heads have {head.head_dim}; "
                "leave --spice out"
            )
        return self.run.first.array * head.active_tiles, self.run.second.array * head.active_tiles


@dataclass(frozen=True)
class SimulatedWrites:
    """Of both DACs."""

    result: WriteResult

    def of_head(self, head: Head) -> dict[str, Joule]:
        """Of one query head's share, by DAC. Raises InputError: its lines or levels are others."""
        levels, dacs = head.design.storage_levels, self.result.dacs
        found = (self.result.cells, *{len(dac.energy) for dac in dacs.values()})
        if found != (head.tile, levels):
            raise InputError(
                f"the simulated write lines have cells and levels {found}, those of design "
                f"{head.design.name!r} {(head.tile, levels)}; run gaincell spice write --design with it, or "
                "leave --write out"
            )
        lines = 2 * head.head_dim
        return {
            kind: (lines * sum(dac.energy) / len(dac.energy) + 2 * column_gates(head)) / head.group
            for kind, dac in dacs.items()
        }


@dataclass(frozen=True)
class SimulatedDigital:
    """Of a verified head."""

    result: RtlResult
    energy: RtlEnergy

    def of_head(self, head: Head) -> Joule:
        """Of one query head. Raises InputError: the head is another one."""
        sizes = self.result.sizes
        found, own = (head.head_dim, head.design.window, head.group), (sizes.rows, sizes.columns, sizes.group)
        if found != own:
            raise InputError(
                f"the synthesised head has D, columns and query heads {own}, the model's heads {found}; "
                "synthesise such a head (gaincell rtl --head-dim, --group), or leave --rtl out"
            )
        return self.energy.synthesised / sizes.group


def read_spice(path: str | os.PathLike[str], inputs: str | None = None) -> SimulatedArrays:
    """Read one run of a file of `gaincell spice energy --json`.

    inputs: which run; by default that of real inputs, else the last.

    Raises:
        InputError: the file is no such result, or has no such run.
    """
    result = _read(path, EnergyResult, "spice energy")
    runs = {run.inputs: run for run in result.runs}
    wanted = inputs or (PREFERRED if PREFERRED in runs else result.runs[-1].inputs)
    if wanted not in runs:
        raise InputError(f"{Path(path).name} has no run with inputs {wanted!r}; it has {', '.join(runs)}")
    return SimulatedArrays(result, runs[wanted])


def read_write(path: str | os.PathLike[str]) -> SimulatedWrites:
    """Read a file of `gaincell spice write --json`. Raises InputError: it is none."""
    return SimulatedWrites(_read(path, WriteResult, "spice write"))


def read_rtl(path: str | os.PathLike[str]) -> SimulatedDigital:
    """Read a result of `gaincell rtl`. Raises InputError: it is none, or nothing was verified in it."""
    result = _read(path, RtlResult, "rtl")
    if result.energy is None:
        raise InputError(f"{Path(path).name} has no energy; make it by gaincell rtl --verify, with yosys")
    return SimulatedDigital(result, result.energy)


def _read(path: str | os.PathLike[str], kind: type[T], command: str) -> T:
    try:
        return results.read(path, kind)
    except RunError as error:
        raise InputError(f"{error}; give one of `gaincell {command}`") from error
