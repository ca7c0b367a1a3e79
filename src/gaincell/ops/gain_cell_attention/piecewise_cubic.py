"""A cell's curve as pieces of cubics, for compiled code that evaluates curves it does not know."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from gaincell.devices.cell import Cell

FEWEST_PIECES, MOST_PIECES = 256, 16_384
TOLERANCE = 3e-8
"""Largest error, as a fraction of the largest current: below the rounding of float32."""


class Curve(NamedTuple):
    """F between two voltages.

    pieces: [K, 4] float32: coefficients (1, t, t^2, t^3) with t from 0 to 1 along each of K equal pieces.
    low: where they begin, volts.
    per_volt: pieces per volt.
    """

    pieces: Tensor
    low: float
    per_volt: float


@lru_cache(maxsize=64)
def piecewise(cell: Cell, low: float, high: float) -> Curve | None:
    """Cubic Hermite pieces of F and its derivative: as few as are exact to `TOLERANCE`; None: most do not
    suffice.
    """
    count = FEWEST_PIECES
    while count <= MOST_PIECES:
        width = (high - low) / count
        knots = torch.linspace(low, high, count + 1, dtype=torch.float64)
        f, slope = cell.current(knots), cell.slope(knots) * width
        rise = f[1:] - f[:-1]
        bend = 3 * rise - 2 * slope[:-1] - slope[1:]
        pieces = torch.stack((f[:-1], slope[:-1], bend, slope[:-1] + slope[1:] - 2 * rise), 1)
        error = 0.0
        for t in (0.25, 0.5, 0.75):
            powers = torch.tensor([1.0, t, t * t, t**3], dtype=torch.float64)
            difference = pieces @ powers - cell.current(knots[:-1] + t * width)
            error = max(error, float(difference.abs().nan_to_num(nan=torch.inf).max()))
        if error <= TOLERANCE * float(f.abs().max()):
            return Curve(pieces.float().contiguous(), low, 1 / width)
        count *= 2
    return None
