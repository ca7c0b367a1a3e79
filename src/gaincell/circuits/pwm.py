"""Query driver: pulse-width modulation of the query components (the Methods on neural network simulations).

    code = floor((L - 1) * clamp(q, 0, 1) + 1/2),    x = code / (L - 1),    L = 16 levels, 4 bit [M]

A pulse has no sign. An extension, not in the paper, reads the key array in two phases: positive components
first, then the others, with the integrators' sense inverted; the driver has a sign bit, and

    x = sign(q) code(|q|) / (L - 1),    -1 <= x <= 1

Cost: a second key read, T_max more a step, and a switch at every integrator.
Pulse widths that are stated one by one instead: levels.py.

Not modelled: jitter of the pulse edges, rise and fall times (a pulse of width x is taken to deliver x times
the charge of the longest one).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell.circuits.converter import at_least_float32, clamp_and_quantise, strict_clamp
from gaincell.circuits.levels import Levels, level_code, on_levels
from gaincell.errors import DesignError


@dataclass(frozen=True)
class Drivers:
    """How queries are driven.

    Attributes:
        phases: 1 for pulses for components above 0, as in the paper; 2 for signed ones, in two phases.
    """

    phases: int = 1

    def __post_init__(self) -> None:
        if self.phases not in (1, 2):
            raise DesignError(f"drivers: phases = {self.phases!r} is out of range; allowed: 1 or 2")

    @property
    def signed(self) -> bool:
        """Whether negative components are driven."""
        return self.phases == 2


def query_driver(
    q: Float[Tensor, "*shape"], levels: Levels, *, signed: bool = False
) -> Float[Tensor, "*shape"]:
    """Pulse widths x over the longest pulse, in [0, 1] or [-1, 1], in float32 or wider.

    Args:
        q: Requested pulse widths; clamped to the range, gradient strictly inside only.
        levels: Number of pulse widths, or these themselves, None for a driver without quantisation.
        signed: Whether there is a second phase for negative components.
    """
    low = -1.0 if signed else 0.0
    if levels is None:
        return strict_clamp(at_least_float32(q), low, 1.0)
    if not isinstance(levels, int):
        sign = torch.ones_like(q).copysign(q.detach()) if signed else 1.0
        return on_levels(at_least_float32(q) * sign, levels) * sign

    def quantise_(x: Tensor) -> Tensor:
        width = ((x.abs() if signed else x) * (levels - 1)).add_(0.5).floor_().div_(levels - 1)
        return width.copysign_(x) if signed else width

    return clamp_and_quantise(at_least_float32(q), low, 1.0, quantise_)


def query_code(
    q: Float[Tensor, "*shape"], levels: int | tuple[float, ...], *, signed: bool = False
) -> Int[Tensor, "*shape"]:
    """The driver's code, 0 ... L - 1, or with a sign; levels as in `query_driver`."""
    if not isinstance(levels, int):
        code = level_code(at_least_float32(q.abs() if signed else q), levels)
        return torch.where(q < 0, -code, code) if signed else code
    return torch.round(query_driver(q.detach(), levels, signed=signed) * (levels - 1)).to(torch.int64)
