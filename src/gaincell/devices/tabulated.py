"""A cell known by a table: current against stored voltage, monotone between the points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from gaincell.errors import DesignError
from gaincell.units import ChargeUnitPerVolt, ChargeUnits, Volts

FEWEST_POINTS = 4


def require_positive(cell: str, numbers: Mapping[str, float]) -> None:
    """Raise DesignError for a number of a cell that is not finite and above 0."""
    for key, value in numbers.items():
        if not (math.isfinite(value) and value > 0):
            raise DesignError(f"cell {cell!r}: {key} = {value!r} must be a finite number above 0")


class Numbered:
    """A dataclass of a cell whose numbers are all of its fields: above 0, unless it checks them itself."""

    name: str

    def __post_init__(self) -> None:
        require_positive(self.name, self.numbers)

    @property
    def numbers(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class TabulatedCell(Numbered):
    """A measured cell, F(u) interpolated through points (u_k, F_k).

    Between the points runs the cubic Hermite curve of Fritsch and Butland (SIAM J. Sci. Stat. Comput. 5, 300,
    1984), which is as monotone as the points; beyond them the tangent at the last one goes on.

    Attributes:
        volts: u_k relative to V_offset, rising.
        currents: F_k, all rising or equal.
        linear_slope: Slope of the linear surrogate.

    Not modelled: anything between the points that they do not show.
    """

    volts: Volts
    currents: ChargeUnits
    linear_slope: ChargeUnitPerVolt
    name = "tabulated"
    coefficients = None

    def __post_init__(self) -> None:
        for name in ("volts", "currents"):
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        if not FEWEST_POINTS <= len(self.volts) == len(self.currents):
            raise DesignError(
                f"cell 'tabulated': {len(self.volts)} volts and {len(self.currents)} currents; "
                f"give as many of one as of the other, {FEWEST_POINTS} or more"
            )
        if not all(math.isfinite(x) for x in (*self.volts, *self.currents)):
            raise DesignError("cell 'tabulated': volts and currents must be finite numbers")
        if not all(a < b for a, b in pairwise(self.volts)):
            raise DesignError("cell 'tabulated': volts must rise from point to point")
        if sorted(self.currents) != list(self.currents) or self.currents[0] == self.currents[-1]:
            raise DesignError("cell 'tabulated': currents must rise, or stay equal, from point to point")
        require_positive(self.name, {"linear_slope": self.linear_slope})

    def current(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        c0, c1, c2, c3, t, beyond = self._piece(u)
        return ((c3 * t + c2) * t + c1) * t + c0 + beyond

    def slope(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        _, c1, c2, c3, t, _ = self._piece(u)
        return (3 * c3 * t + 2 * c2) * t + c1

    def _piece(self, u: Tensor) -> tuple[Tensor, ...]:
        """Coefficients of the piece that u lies in, place in it, and what the tangent adds beyond."""
        knots, pieces = (x.to(u) for x in _pieces(self.volts, self.currents))
        inside = u.clamp(self.volts[0], self.volts[-1])
        index = (torch.searchsorted(knots, inside.detach().contiguous(), right=True) - 1).clamp(
            0, len(pieces) - 1
        )
        c0, c1, c2, c3 = pieces[index].unbind(-1)
        t = inside - knots[index]
        slope = (3 * c3 * t + 2 * c2) * t + c1
        return c0, c1, c2, c3, t, (u - inside) * slope.detach()


@lru_cache(maxsize=64)
def _pieces(volts: tuple[float, ...], currents: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Where the pieces begin [K] and their coefficients of 1, t, t^2, t^3 [K, 4], float64."""
    curve = PchipInterpolator(np.array(volts), np.array(currents))
    return torch.tensor(volts[:-1], dtype=torch.float64), torch.from_numpy(curve.c[::-1].T.copy())
