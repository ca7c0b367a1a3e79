"""A normaliser inside the paper's arrays: one row of every value array holds a constant.

Softmax divides by the sum of its weights; saturating ReLU does not. The values of every key/value head are
reflected by an orthogonal matrix R (Householder), and the last of the D components is given up:

    v' = R v,    R = I - 2 h h^T / (h . h),    u = R e_D: the direction that is given up
    written in row D: V_max, for every token

so that the counters of row D read, sub-tile by sub-tile, what was attended to,

    Z = sum_t Qout(sum_{j in t} f(A_ij, u_max delta^(i-j)) / O_sat)

and the digital block divides the other outputs by it, with a floor c per query head:

    O'_d = O_d / (max(Z, 0) + c)   for d < D,    O'_D = 0,    output = R^T (a_o O' + b_o)

with a_o O' + b_o for d < D only. Z and c are in full scales of a sub-tile's counter. V_max and not V_min,
because charges are to be positive. h and ln c are learnt.

Arrays, drivers, write DACs, converters and counters stay the paper's. R is folded into the weights: rows of
v_proj, columns of o_proj of all query heads of the group. The reciprocal is new hardware: D - 1 divisions a
query in the digital block (costs/digital.py). It costs the direction u of the values, whose mean the output's
bias returns (`GainCellAttention.add_biases`). The other normaliser, a column more in every value array, is
another chip (circuits/normaliser.py).

Not modelled: precision and time of the divider; it is taken for exact.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaincell.chips.design import Design
from gaincell.circuits.normaliser import divided
from gaincell.errors import ModelError

NORMALISER = ("normaliser.direction", "normaliser.log_floor")
"""Names of the parameters among those of a layer's `GainCellAttention`."""
FIRST_FLOOR = 0.25
"""In full scales of a sub-tile, until it is fitted."""


class ArrayNormaliser(nn.Module):
    """The reflection and the division of one layer: see the head of this file.

    Args:
        heads: Query heads, H.
        kv_heads: Key/value heads, Hk.
        head_dim: D.
        like: Of the type and on the device of its parameters.

    Attributes:
        direction: h [Hk, D], at first e_D, with which the last component of the values is given up as it is.
        log_floor: ln c [H].
    """

    def __init__(self, heads: int, kv_heads: int, head_dim: int, like: Tensor) -> None:
        super().__init__()
        first = like.new_zeros(kv_heads, head_dim)
        first[:, -1] = 1.0
        self.direction = nn.Parameter(first)
        self.log_floor = nn.Parameter(like.new_zeros(heads))
        self.set_floor(FIRST_FLOOR)

    @torch.no_grad()
    def set_floor(self, floor: float | Float[Tensor, " H"]) -> None:
        """Set c, above 0, of every query head."""
        self.log_floor.copy_(torch.as_tensor(floor, dtype=self.log_floor.dtype).log())

    @torch.no_grad()
    def give_up(self, lost: Float[Tensor, "Hk D"]) -> None:
        """Let R turn the unit vectors `lost` into the last component."""
        lost = lost.to(self.direction)
        lost = torch.where(lost[:, -1:] > 0, -lost, lost)  # h is then never 0
        last = torch.zeros_like(lost)
        last[:, -1] = 1.0
        self.direction.copy_(lost - last)

    def reflected(self, x: Float[Tensor, "B heads T D"]) -> Float[Tensor, "B heads T D"]:
        """R x, which is R^T x, of key/value or query heads, in the type of ``x``."""
        unit = nn.functional.normalize(self.direction, dim=-1).to(x.dtype)
        unit = unit.repeat_interleave(x.shape[1] // len(unit), 0)[:, None]  # [heads, 1, D]
        return x - 2 * (x * unit).sum(-1, keepdim=True) * unit

    def divided(self, sums: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H T D_less_1"]:
        """The other outputs divided by what the last row counted."""
        return divided(sums, self.log_floor.exp().to(sums.dtype)[:, None, None])


def check_one_normaliser(design: Design) -> None:
    """Refuse a chip that has a normalising column besides.

    Raises:
        ModelError: it has one.
    """
    if design.normaliser.present:
        raise ModelError(
            f"{design.name} has a normalising column ([normaliser]), and the model a normaliser inside the "
            "arrays; give a design without, or a model without"
        )
