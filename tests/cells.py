"""The cells that tests of every implementation run: all kinds, and one known by an uneven, steep table."""

from gaincell.devices.cell import CELL_KINDS
from gaincell.devices.tabulated import TabulatedCell

VOLTS = (-0.45, -0.3, -0.1, 0.02, 0.2, 0.3, 0.45)
CURRENTS = (-9.0, -6.5, -2.0, 0.1, 3.0, 7.0, 10.5)
TABLE = TabulatedCell(VOLTS, CURRENTS, 19.3)
NAMED = tuple(kind for kind in CELL_KINDS if kind != TABLE.name)
CELLS = (*NAMED, TABLE)
