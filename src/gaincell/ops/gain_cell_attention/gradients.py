"""Which gradient a backward pass takes, by name. The forward pass is the same whichever it is.

* "exact": the derivative of the cells' own curve, in float32.
* "surrogate": the derivative of linear cells of slope `design.cell.linear_slope`, as in the paper; the
  clamps' masks are those of the true forward pass.
* "bf16", "surrogate-bf16": cheaper approximations of these. All queries of a block of 64 see a column at one
  age, that at the middle one of them. The products with gradients are of numbers in bf16, summed in float32.
  Pulses and masks are exact. With the paper's cell the gradients of q, k and v are off by less than 0.6 % of
  their norm without decay, 1.2 % with that of 12 layers, 3 % with that of 30; those of gains and offsets, as
  vectors of all heads, by up to twice as much (tests/ops/test_native.py). They are sums over tokens: where
  the terms of a head all but cancel, what is left of them can be off by any share. The steeper a cell, the
  faster its current decays: x^5 is off by 3 % where the paper's cell is by 1.2 %.

The compiled kernel alone computes the approximate ones, with the processor's instructions for bf16 where it
has them. The sub-tile of first tokens (first_token_tile.py) keeps the gradient that they approximate.
"""

from __future__ import annotations

from typing import Literal, get_args

from gaincell.chips.design_file import Design
from gaincell.errors import InputError

Gradient = Literal["exact", "bf16", "surrogate", "surrogate-bf16"]
GRADIENTS = get_args(Gradient)
SURROGATES = ("surrogate", "surrogate-bf16")
APPROXIMATING = "native"
"""Begins the names of implementations of the approximate ones."""
APPROXIMATED = {"bf16": "exact", "surrogate-bf16": "surrogate"}
"""What the approximate ones stand for."""
LARGEST_DECAY = 0.05
"""Of a stored voltage over half a block of 64 queries, for an approximate gradient to be worth its name."""


def check_gradient(gradient: str, backend: str, design: Design, reads: int) -> None:
    """Refuse an approximate gradient where it is not computed, or would be far off.

    Args:
        reads: of one column, per token.

    Raises:
        InputError: an unknown gradient; an implementation without it; a chip that forgets too fast for it.
    """
    if gradient not in GRADIENTS:
        raise InputError(f"gradient={gradient!r}; choose one of {', '.join(GRADIENTS)}")
    if gradient not in APPROXIMATED:
        return
    instead = f"give gradient={APPROXIMATED[gradient]!r}"
    if backend != "auto" and not backend.startswith(APPROXIMATING):
        raise InputError(
            f"backend={backend!r} does not compute gradient={gradient!r}; give backend='native', or {instead}"
        )
    decay = 32 * (design.leak_per_token + reads * design.disturb_per_read)
    if decay > LARGEST_DECAY:
        raise InputError(
            f"gradient={gradient!r} takes voltages as constant over 32 tokens, but {design.name!r} loses "
            f"{decay:.0%} of them by then, above {LARGEST_DECAY:.0%}; {instead}"
        )
