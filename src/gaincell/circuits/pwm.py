"""Query driver: pulse-width modulation of the query components (spec section 3).

    code = floor((L - 1) * clamp(q, 0, 1) + 1/2),    x = code / (L - 1),    L = 16 levels, 4 bit [M]

Not modelled: jitter of the pulse edges, rise and fall times (a pulse of width x is taken to deliver x times
the charge of the longest one).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell.circuits.converter import at_least_float32, clamp_and_quantise, strict_clamp


def query_driver(q: Float[Tensor, "*shape"], levels: int | None) -> Float[Tensor, "*shape"]:
    """Pulse widths x in [0, 1] over the longest pulse, in float32 or wider.

    q: requested pulse widths; clamped to [0, 1], gradient strictly inside only.
    levels: number of pulse widths, None for a driver without quantisation.
    """
    if levels is None:
        return strict_clamp(at_least_float32(q), 0.0, 1.0)
    return clamp_and_quantise(at_least_float32(q), 0.0, 1.0, lambda x: _code(x, levels).div_(levels - 1))


def query_code(q: Float[Tensor, "*shape"], levels: int) -> Int[Tensor, "*shape"]:
    """The driver's code, 0 ... levels - 1."""
    return _code(strict_clamp(at_least_float32(q.detach()), 0.0, 1.0), levels).to(torch.int64)


def _code(width: Tensor, levels: int) -> Tensor:
    return (width * (levels - 1)).add_(0.5).floor_()
