"""Values rotated before they are written, and outputs back: nothing but a change of v_proj and o_proj.

    written     (v + c) H, scaled           c: bias of the values
    output      (a_o O + b_o) H^T + e       e: bias of the output

H is the Walsh-Hadamard matrix / sqrt(D), its own inverse. It spreads what is large in few components over all
rows of the value arrays, as QuaRot does for quantised models (arXiv:2404.00456); what that gives is in
docs/experiments.md and docs/training.md. Softmax attention does not change. Where outputs are divided by what
the last row counts (array_normaliser.py), R comes behind H.

Not modelled: rounding of the weights that H goes into.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaincell.nn.balanced_rows import walsh
from gaincell.ops.autocast import without_autocast

ROTATION = ("rotation.size",)
"""Name of the buffer among those of a layer's `GainCellAttention`: D, which says that there is a rotation."""

_WHAT = "rotated values"


class ValueRotation(nn.Module):
    """H of one layer, for D = `head_dim`, in the type and on the device of `like`.

    Raises:
        ModelError: D is no power of two.
    """

    def __init__(self, head_dim: int, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("size", torch.tensor(head_dim, device=like.device))
        self.matrix: Tensor
        self.register_buffer("matrix", walsh(head_dim, _WHAT).to(like), persistent=False)
        self.register_load_state_dict_post_hook(_fill)  # type: ignore[no-untyped-call]

    def forward(self, x: Float[Tensor, "*rest D"]) -> Float[Tensor, "*rest D"]:
        """x H, which is x H^T, in the type of ``x``."""
        with without_autocast(x):
            turned: Tensor = x @ self.matrix.to(x.dtype)
            return turned


def _fill(rotation: ValueRotation, _: object) -> None:
    """H is in no file, and what was moved from the meta device has none."""
    rotation.matrix.copy_(walsh(len(rotation.matrix), _WHAT))
