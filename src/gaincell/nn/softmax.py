"""What the arrays are compared with: causal softmax attention on the same q, k and v."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class SoftmaxAttention(nn.Module):
    """Softmax attention of one layer, a module so that hooks can look at it."""

    def forward(
        self,
        q: Float[Tensor, "B H Tq D"],
        k: Float[Tensor, "B Hk Tk D"],
        v: Float[Tensor, "B Hk Tk D"],
        seen: Bool[Tensor, "#B #H Tq Tk"],
        scaling: float | None,
        dropout: float = 0.0,
    ) -> Float[Tensor, "B H Tq D"]:
        """Attention to the keys that are `seen`; scaling None: 1/sqrt(D)."""
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        return nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, dropout_p=dropout, scale=scaling
        )


def softmax_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B Hk T D"],
    v: Float[Tensor, "B Hk T D"],
    scaling: float,
    window: int | None,
) -> Float[Tensor, "B H T D"]:
    """Causal softmax attention without padding; `window` is the model's own sliding window."""
    age = torch.arange(q.shape[2], device=q.device)
    age = age[:, None] - age[None, :]
    seen = (age >= 0) & (age < (window or q.shape[2]))
    found: Tensor = SoftmaxAttention()(q, k, v, seen, scaling)
    return found
