"""One gain cell: its current, how its voltage decays, how it differs from its neighbours."""

from gaincell.devices.cell import (
    CELL_KINDS,
    Cell,
    ExponentialCell,
    LinearCell,
    PolynomialCell,
    PowerCell,
    SigmoidCell,
    named_cell,
)

__all__ = [
    "CELL_KINDS",
    "Cell",
    "ExponentialCell",
    "LinearCell",
    "PolynomialCell",
    "PowerCell",
    "SigmoidCell",
    "named_cell",
]
