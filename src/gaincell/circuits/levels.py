"""Levels of the query driver and of the write DAC that are not evenly spaced: an extension, not in the paper.

A design may state the values of a converter's levels l_0 < l_1 < ... < l_(L-1) one by one: pulse widths of
the query driver, from 0 on, or voltages of the write DAC relative to V_offset. A signal s takes the nearest:

    t_c = (l_(c-1) + l_c) / 2,    code = number of thresholds t_1 ... t_(L-1) with s >= t_c,    value = l_code

On a threshold, a tie, the upper level is taken, as by the evenly spaced converters; what lies beyond the
first or the last level takes that level. Signals are compared in their own precision, float32 or wider. An
even number of evenly spaced voltages about V_offset has none at V_offset itself; stated levels may hold 0, a
code that stores no signal and does not decay. With two-phase drivers the pulse widths are those of |q|.

Gradients: of the signal, straight-through strictly between first and last level; of a level, where levels are
a tensor that is learned, the sum over the signals that take it (thresholds follow their levels, and what
signals win by changing sides is not seen):

    dL/dl_c = sum_{s: code(s) = c} dL/dvalue(s)

Cost in hardware: as many bits a code as before. The write DAC selects among L references that are no longer
taps of even ladders (one ladder of unequal resistors for all DACs); the requests are quantised digitally, by
L - 1 comparisons with stored thresholds in place of a rounding. A query driver compares its code's stored
width with a counter whose clock must resolve the widths, not 1 / (L - 1) of the longest pulse.
Not modelled: the resolution of ladder and clock; references and widths are taken for exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell.circuits.converter import at_least_float32, in_precision
from gaincell.errors import DesignError
from gaincell.units import Volt, Volts

Levels: TypeAlias = int | tuple[float, ...] | Tensor | None
"""What a converter is told: a number of even levels, the values of its levels, or None: not quantised."""


@dataclass(frozen=True)
class LevelTable:
    """Levels that are stated one by one; evenly spaced where a tuple is empty.

    Attributes:
        query: Pulse widths over the longest pulse, rising from 0 to at most 1, `query_levels` of them.
        storage: Voltages about V_offset, rising, `storage_levels` of them.
    """

    query: tuple[float, ...] = ()
    storage: Annotated[tuple[float, ...], "V"] = ()

    def __post_init__(self) -> None:
        for name, values in (("query", self.query), ("storage", self.storage)):
            if values and (len(values) < 2 or not all(b > a for a, b in pairwise(values))):
                raise DesignError(
                    f"levels: {name} = {list(values)!r} is not acceptable; allowed: two or more numbers, "
                    "each above the one before"
                )
        if self.query and (self.query[0] != 0 or self.query[-1] > 1):
            raise DesignError(
                f"levels: query = {list(self.query)!r} is out of range; allowed: pulse widths that rise "
                "from 0 (no pulse) to at most 1 (the longest)"
            )

    @property
    def present(self) -> bool:
        """Whether any levels are stated."""
        return bool(self.query or self.storage)


def pulse_widths(levels: int | tuple[float, ...] | None) -> tuple[float, ...]:
    """Of a query driver's codes, over the longest pulse; empty where it is not quantised."""
    if isinstance(levels, int):
        return tuple(code / (levels - 1) for code in range(levels))
    return levels or ()


def stored_volts(levels: int | tuple[float, ...] | None, v_min: Volt, v_max: Volt) -> Volts:
    """Of a write DAC's codes, about V_offset; empty where it is not quantised."""
    if isinstance(levels, int):
        step = (v_max - v_min) / (levels - 1)
        return tuple((code - (levels - 1) / 2) * step for code in range(levels))
    return levels or ()


def level_code(signal: Float[Tensor, "*shape"], levels: tuple[float, ...] | Tensor) -> Int[Tensor, "*shape"]:
    """The code, 0 ... L - 1, of signals in float32 or wider: see the head of this file."""
    values = torch.as_tensor(levels, dtype=signal.dtype, device=signal.device).detach()
    return torch.bucketize(signal.detach().contiguous(), (values[1:] + values[:-1]) / 2, right=True)


def on_levels(
    x: Float[Tensor, "*shape"], levels: tuple[float, ...] | Tensor, middle: float = 0.0
) -> Float[Tensor, "*shape"]:
    """The levels that signals x - middle take, in float32 or wider; NaN stays NaN.

    Args:
        x: The signals.
        levels: Rising; a tensor may require a gradient.
        middle: Where zero signal is, in units of x; rounded to the precision of x.
    """
    values = torch.as_tensor(levels, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    taken: Tensor = _OnLevels.apply(x, values, middle)  # type: ignore[no-untyped-call]
    return taken


class _OnLevels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: Tensor, middle: float) -> Tensor:
        low, high = (in_precision(middle + float(end), x.dtype) for end in (levels[0], levels[-1]))
        code = level_code(at_least_float32(x.clamp(low, high)) - in_precision(middle, x.dtype), levels)
        ctx.save_for_backward(x, code if ctx.needs_input_grad[1] else None)
        ctx.levels = low, high, len(levels)
        return torch.where(x.isnan(), torch.nan, levels[code])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, code = ctx.saved_tensors
        low, high, count = ctx.levels
        of_levels = None
        if code is not None:
            of_levels = grad.new_zeros(count).index_add_(0, code.flatten(), grad.flatten())
        return grad.to(x.dtype) * ((x > low) & (x < high)), of_levels, None
