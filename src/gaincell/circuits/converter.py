"""Building blocks of every converter: clamping, rounding, and what their gradients are.

* A clamp passes the gradient strictly inside its range only; on the edge and beyond it the gradient is 0.
  (torch.clamp passes it on the edge as well, where every score of exactly 0 sits.) A charge is a sum, and a
  sum that is 0 in exact arithmetic is 0 only up to rounding: quantised linear cells make many of those. So
  that gradients do not depend on the order of summation, "strictly inside" means, for a charge, by more than
  `sum_rounding` of full scale.
* Rounding is straight-through: the value is the rounded one exactly, the gradient that of the identity.
* Nothing is computed below float32: bfloat16 and float16 signals are widened before any arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x widened to float32 if it is narrower; float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@lru_cache(maxsize=256)
def in_precision(value: float, dtype: torch.dtype) -> float:
    """The number that `dtype` stores for `value`; 0.45 is 0.44921875 in bfloat16."""
    return float(torch.tensor(value, dtype=dtype))


def sum_rounding(dtype: torch.dtype) -> float:
    """Rounding of a sum of hundreds of products, as a fraction of full scale.

    Scores that are 0 in exact arithmetic came out within 3 eps of it in float32, for every cell and for 4 to
    256 rows; in float64 curves are interpolated to 45 eps. Steps of a cell's charge below it have no gradient
    at 0: none of the published cells' but those of x5, whose innermost level gives 4 eps (docs/limits.md).
    """
    return (16 if dtype == torch.float32 else 256) * torch.finfo(dtype).eps


def strict_clamp(
    x: Float[Tensor, "*shape"], low: float, high: float, margin: float = 0.0
) -> Float[Tensor, "*shape"]:
    """min(max(x, low), high), gradient 1 for low + margin < x < high - margin and 0 elsewhere; NaN stays NaN.

    The bounds are rounded to the precision of x, so that a signal stored at a bound is at the bound.
    """
    low, high = in_precision(low, x.dtype), in_precision(high, x.dtype)
    clamped = x.detach().clamp(low, high)
    return torch.where((x > low + margin) & (x < high - margin), x, clamped)


class _ClampAndQuantise(torch.autograd.Function):
    """One buffer forward, one mask backward: these run on every query, key and value of a model."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, low: float, high: float, quantise_: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return quantise_(x.clamp(low, high))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        low, high = ctx.bounds
        return grad.to(x.dtype) * ((x > low) & (x < high)), None, None, None


def clamp_and_quantise(
    x: Float[Tensor, "*shape"], low: float, high: float, quantise_: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*shape"]:
    """quantise_(min(max(x, low), high)), rounding straight-through; gradient as in `strict_clamp`.

    Args:
        x: The signal.
        low: Lower bound.
        high: Upper bound.
        quantise_: Rounds the clamped signal; it may do so in place.
    """
    low, high = in_precision(low, x.dtype), in_precision(high, x.dtype)
    quantised: Tensor = _ClampAndQuantise.apply(x, low, high, quantise_)  # type: ignore[no-untyped-call]
    return quantised


def straight_through(
    value: Float[Tensor, "*shape"], path: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Exactly `value` going forward, the gradient of `path` going backward."""
    return value.detach() + (path - path.detach())
