"""Voltage drop along a bit line, to first order.

A cell of output conductance G sees the drop of its bit line, which the currents of all cells cause on the way
to the sensing end. With segments of resistance R, cells at k = 1 ... n from the sensing end and currents I_k,

    V_k = R sum_m min(k, m) I_m,     I_k -> I_k - G V_k,
    sum_k I_k -> sum_m I_m w_m,      w_m = 1 - drop * s_m / s_n,
                                     s_m = sum_k min(k, m) = m n - m (m - 1) / 2

to first order in drop = G R s_n, the fraction that the farthest cell loses. Key bit lines run along the rows
of an array (k = d + 1 of a block of N rows), value bit lines along the columns of a sub-tile (k = column in
the tile + 1).

Source: first-order perturbation of the resistance ladder [D]; `drop` is a parameter, to be calibrated against
a circuit simulation.
Not modelled: that only cells with a pulse conduct, drop along the word lines, anything of second order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gaincell.quantity import Range, check_ranges


@dataclass(frozen=True)
class Wires:
    """IR drop along the bit lines; none by default.

    Attributes:
        key_drop: Fraction of its current that the cell of a key column farthest from the sensing end loses.
        value_drop: Likewise on a value bit line.
    """

    key_drop: float = 0.0
    value_drop: float = 0.0

    def __post_init__(self) -> None:
        share = Range(0, 1, below=True)
        check_ranges("wires", self, key_drop=share, value_drop=share)


def weights(drop: float, cells: int) -> Float[Tensor, " cells"]:
    """w_m of the cells of one bit line, nearest first, float64."""
    m = torch.arange(1, cells + 1, dtype=torch.float64)
    s = m * cells - m * (m - 1) / 2
    return 1 - drop * s / s[-1]
