"""The attention that the arrays replace."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class SoftmaxAttention(nn.Module):
    """Softmax attention of one layer, a module so that hooks can look at it."""

    def forward(
        self,
        q: Float[Tensor, "B H Tq D"],
        k: Float[Tensor, "B Hk Tk D"],
        v: Float[Tensor, "B Hk Tk D"],
        at: tuple[Int[Tensor, "B Tk"], Int[Tensor, "B Tq"], int | None],
        scaling: float | None,
        dropout: float = 0.0,
    ) -> Float[Tensor, "B H Tq D"]:
        """Attention to the tokens up to a query's own, 0 for padding.

        Args:
            q: Queries of the last Tq tokens.
            k: keys.
            v: values.
            at: Number of the real token in each slot of keys and of queries, -1 for padding, and the model's
                own sliding window.
            scaling: Of the scores; None: 1/sqrt(D).
            dropout: Share of the weights that are dropped.
        """
        keys, queries, window = at
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        attend = nn.functional.scaled_dot_product_attention
        if window is None and _is_causal(q, keys):
            return attend(q, k, v, is_causal=True, dropout_p=dropout, scale=scaling)
        padding = queries < 0
        age = queries[:, :, None] - keys[:, None, :]
        seen = (keys >= 0)[:, None, :] & (age >= 0)
        if window is not None:
            seen = seen & (age < window)
        mask = (seen | padding[:, :, None])[:, None]
        attended = attend(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
        return attended.masked_fill(padding[:, None, :, None], 0.0)


def _is_causal(q: Float[Tensor, "B H Tq D"], keys: Int[Tensor, "B Tk"]) -> bool:
    """Whether no mask is needed: all tokens are new, none is padding. Not asked of a GPU: it would wait."""
    tokens = keys.shape[1]
    if q.shape[2] != tokens or keys.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool((keys[:, -1] == tokens - 1).all())
