"""Energy of a read, from the supplies' currents in the circuits of verify.py.

    E = VDD * integral of i_VDD dt,  by block (cells, word-line drivers, readout) and phase (read, conversion)

The energy of an array depends on its inputs: their statistics belong to every number. A head is `tiles` key
and value sub-tiles; all of them are taken to be as active as the simulated one.
Not modelled: writes and DACs, counters, adders and control, leakage between reads. A behavioural readout
draws no supply; only the least that its integrators must source is counted.
"""

from __future__ import annotations

from gaincell.chips.design import Design
from gaincell.results.spice import ArrayEnergy, ReadEnergy
from gaincell.spice.verify import Stage, Verification


def of_verification(found: Verification, design: Design) -> tuple[ArrayEnergy, ArrayEnergy]:
    """Both dot products; the simulated lines stand for all."""
    tokens, dims = found.inputs.values.shape
    return (
        _array(found.first, dims, tokens, design, float(found.inputs.x.mean())),
        _array(found.second, tokens, dims, design, float(found.driven.mean()) / found.longest),
    )


def _array(stage: Stage, rows: int, lines: int, design: Design, activity: float) -> ArrayEnergy:
    share = {name: 1.0 if name == "drivers" else lines / stage.lines for name in stage.energy}
    blocks = {
        name: ReadEnergy(read * share[name], convert * share[name])
        for name, (read, convert) in stage.energy.items()
    }
    array = sum(block.total for block in blocks.values())
    cell = blocks["cells"].total / (rows * lines)
    return ArrayEnergy(cell, blocks, array / lines, array, array * design.tiles, activity)
