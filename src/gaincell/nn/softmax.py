"""The attention that the arrays replace."""

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
