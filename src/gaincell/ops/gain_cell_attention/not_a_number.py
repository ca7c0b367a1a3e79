"""How far a NaN reaches: for the fast paths, whose products meet columns that a query does not see.

As naive.py has it, a NaN in a query reaches that query's outputs; one in a key those of every query of its
group that sees the token; one in a value component that component of the same outputs. Fast paths compute
without the NaN, and what it reaches is marked afterwards.

Dimensions: B sequences, H query heads, Hk key/value heads, Tq queries, Tk keys, D head dimension.
Not modelled: how NaN spreads in gradients; where an output is NaN, gradients mean nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from gaincell.ops.gain_cell_attention.varlen import Core, Span


def marks(q: Float[Tensor, "B H Tq D"], k: Tensor, v: Tensor, span: Span) -> Float[Tensor, "B H Tq D"]:
    """NaN where one reaches, 0 elsewhere: to be added to the output. Tokens are consecutive."""
    bad = v.isnan() | k.isnan().any(-1, keepdim=True)
    before = pad(bad.cumsum(2, dtype=torch.int32), (0, 0, 1, 0))  # [B, Hk, Tk + 1, D] in earlier tokens
    end = torch.arange(1, q.shape[2] + 1, device=q.device) + span.first_query - span.first_key
    read = before[:, :, end] != before[:, :, (end - span.window).clamp(min=0)]
    reached = read.repeat_interleave(q.shape[1] // k.shape[1], 1) | q.isnan().any(-1, keepdim=True)
    return torch.where(reached, torch.nan, 0.0)


def around(core: Core, q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
    """What `core` computes with a number wherever there is none, and NaN where one reaches.

    Infinities stand at the end of the range.
    """
    x, ku, vu = (t.nan_to_num(nan=0.0) for t in (q, k, v))
    return core(x, ku, vu, span) + marks(q, k, v, span)
