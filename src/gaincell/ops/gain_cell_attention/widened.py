"""Arrays with a normalising column, as arrays of D + 1 rows and columns without one.

The additional value column is written with the highest voltage. The additional key row is driven by no pulse,
so that it contributes nothing; S_sat is that of D rows. Every implementation serves such arrays as they are.
"""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor
from torch.nn.functional import pad

from gaincell.circuits.normaliser import Normaliser
from gaincell.config import Design


@lru_cache(maxsize=64)
def widened_design(design: Design, head_dim: int) -> Design:
    """The chip whose arrays of `head_dim` + 1 rows behave as those of `head_dim` rows."""
    per_row = design.score_saturation_per_row * head_dim / (head_dim + 1)
    return design.replace(normaliser=Normaliser(), score_saturation_per_row=per_row)


def widened(q: Tensor, k: Tensor, v: Tensor, *, middle: float, top: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pulse widths, keys and values with one dimension more.

    middle, top: V_offset and the highest voltage, in whatever k and v are in.
    """
    return pad(q, (0, 1)), pad(k, (0, 1), value=middle), pad(v, (0, 1), value=top)
