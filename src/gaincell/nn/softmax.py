"""What the arrays are compared with: causal softmax attention on the same q, k and v."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def softmax_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B Hk T D"],
    v: Float[Tensor, "B Hk T D"],
    scaling: float,
    window: int | None,
) -> Float[Tensor, "B H T D"]:
    """Causal softmax attention without padding; `window` is the model's own sliding window."""
    group = q.shape[1] // k.shape[1]
    age = torch.arange(q.shape[2], device=q.device)
    age = age[:, None] - age[None, :]
    seen = (age >= 0) & (age < (window or q.shape[2]))
    return nn.functional.scaled_dot_product_attention(
        q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), attn_mask=seen, scale=scaling
    )
