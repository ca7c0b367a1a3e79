"""Energies of other simulations, beside the formulas.

Each is brought to the share of one query head:

    arrays    of `gaincell spice energy`: the simulated array as it is, with its own inputs (real ones, where
              the file has them), counted once for every sub-tile that is read
    writes    of `gaincell spice write`: the mean over the codes of a simulated line, counted twice a row, for
              a key and a value. The gates of the column that is written, and those of its discharge, are
              ideal in the simulation: the formula adds them
    digital   of `gaincell rtl --verify`: what switched at the gates of the head that was synthesised, with
              its own words. The routing, which no synthesis knows, is added by the formula. What a model has
              beyond gains and offsets (NOT_GENERATED) is in the formula only. Compared with the paper's
              number only where as many sub-tiles hold valid columns
"""

from __future__ import annotations

import math
import os
from typing import TypeVar

from gaincell import results
from gaincell.costs.cited import DIGITAL, FIRST, SECOND, WRITE
from gaincell.costs.cost import Cost
from gaincell.costs.head import Head
from gaincell.costs.roll_up import HeadCost, compared
from gaincell.costs.storage import column_gates
from gaincell.errors import InputError, RunError
from gaincell.results.common import Result
from gaincell.results.cost import DotProduct, OtherEnergy, SpiceArrays, SpiceWrites, SynthesisedDigital
from gaincell.results.rtl import RtlResult
from gaincell.results.spice import ArrayEnergy, EnergyResult, WriteResult
from gaincell.spice.designs import check_design
from gaincell.units import Joule

T = TypeVar("T", bound=Result)
NOT_GENERATED = (
    "division", "column gains", "turning of q", "turning of k", "sum of a key's charges", "row that balances",
)  # fmt: skip
"""Parts of the digital block (costs/digital.py) that `gaincell rtl` does not generate."""


def read_simulated(path: str | os.PathLike[str], kind: type[T], command: str) -> T:
    """Read a result of a command.

    Raises:
        InputError: it is none, or an RTL result without energy.
    """
    try:
        found = results.read(path, kind)
    except RunError as error:
        raise InputError(f"{error}; give one of `gaincell {command}`") from error
    if isinstance(found, RtlResult) and found.energy is None:
        name = os.path.basename(path)
        raise InputError(f"{name} has no energy; make it by gaincell rtl --verify, with yosys")
    return found


def arrays(found: HeadCost, simulated: EnergyResult) -> SpiceArrays:
    """Both dot products.

    Raises:
        InputError: the head is not made of such arrays, or which inputs is open.
    """
    head = found.head
    check_design(head.design)
    wanted, own = (head.head_dim, head.design.tile), _rows_and_columns(simulated.runs[-1].first)
    if wanted != own:
        raise InputError(
            f"the SPICE energies are of arrays of {own[0]} rows and {own[1]} columns, the head has arrays of "
            f"{wanted[0]} and {wanted[1]}; leave --spice out"
        )
    real = [run for run in simulated.runs if run.inputs.startswith("real")]
    if len(real) > 1:
        raise InputError(
            f"the SPICE energies are of {len(real)} real inputs ({', '.join(run.inputs for run in real)}); "
            "give a result of gaincell spice energy with one --inputs FILE"
        )
    run = (real or simulated.runs)[-1]
    products = {
        name: DotProduct(**vars(_beside(found, name, one.array * head.active_tiles)), pulse=one.activity)
        for name, one in ((FIRST, run.first), (SECOND, run.second))
    }
    return SpiceArrays(run.inputs, simulated.readout, simulated.technology, products, simulated.corner)


def _rows_and_columns(key_array: ArrayEnergy) -> tuple[int, int]:
    """Of a simulated key array: how many cells and lines share its energy.

    Raises:
        InputError: it has none.
    """
    if not (key_array.column > 0 and key_array.cell_read > 0):
        raise InputError("the SPICE energies are 0; give another result of `gaincell spice energy`")
    lines = round(key_array.array / key_array.column)
    cells = key_array.blocks["cells"]
    return round((cells.read + cells.conversion) / key_array.cell_read / lines), lines


def writes(found: HeadCost, simulated: WriteResult) -> SpiceWrites:
    """One query head's share, by DAC.

    Raises:
        InputError: its lines or levels are others.
    """
    head, design = found.head, found.head.design
    wanted = (design.tile, design.storage_levels)
    sizes = (simulated.cells, *{len(dac.energy) for dac in simulated.dacs.values()})
    if sizes != wanted:
        own = "does not quantise" if design.storage_levels is None else f"has {wanted}"
        other = "" if design.storage_levels is None else "run gaincell spice write --design with it, or "
        raise InputError(
            f"the simulated write lines have cells and levels {sizes}, where design {design.name!r} {own}; "
            f"{other}leave --write out"
        )
    lines, gates = 2 * head.head_dim, 2 * column_gates(head)
    energies = {
        kind: (lines * sum(dac.energy) / len(dac.energy) + gates) / head.group
        for kind, dac in simulated.dacs.items()
    }
    shown = {kind: _beside(found, WRITE, energy) for kind, energy in energies.items()}
    return SpiceWrites(simulated.technology, shown, simulated.corner)


def digital(found: HeadCost, simulated: RtlResult) -> SynthesisedDigital:
    """One query head's share, of a result with an energy.

    Raises:
        InputError: the head is another one.
    """
    head, sizes, energy = found.head, simulated.sizes, simulated.energy
    code_bits = max(head.query_bits, head.storage_bits + head.design.drivers.signed)
    wanted = (head.head_dim, head.design.window, head.group, head.design.tiles, code_bits, head.output_bits)
    own = (sizes.rows, sizes.columns, sizes.group, sizes.tiles, sizes.code_bits, sizes.count_bits)
    if wanted != own:
        raise InputError(
            f"the synthesised head has D, columns, query heads, sub-tiles, bits of codes and counts {own}, "
            f"the model's heads {wanted}; synthesise such a head (gaincell rtl DESIGN --head-dim, --group), "
            "or leave --rtl out"
        )
    assert energy is not None  # see read_simulated
    routing = found.bottom_up.parts[DIGITAL].parts["routing"]
    own_energy = energy.synthesised / sizes.group + routing.energy
    same = same_tiles(head, simulated)
    beside = _beside(found, DIGITAL, own_energy) if same else OtherEnergy(own_energy)
    return SynthesisedDigital(
        **vars(beside), inputs=simulated.inputs, technology=simulated.technology, columns=energy.columns
    )


def same_tiles(head: Head, simulated: RtlResult) -> bool:
    """Whether the synthesised head had as many sub-tiles with valid columns as the one that is priced."""
    assert simulated.energy is not None  # see read_simulated
    return math.ceil(simulated.energy.columns / head.design.tile) == math.ceil(
        head.columns / head.design.tile
    )


def _beside(found: HeadCost, block: str, energy: Joule) -> OtherEnergy:
    """The energy of a block from another source, against the same cited one and band."""
    line = compared(block, Cost(energy=energy), found.cited)
    return OtherEnergy(energy, line.factor, line.band, line.inside)
