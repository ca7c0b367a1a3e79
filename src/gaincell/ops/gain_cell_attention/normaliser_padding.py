"""Arrays with a normalising column, as arrays of D + 1 rows and columns without one.

The additional value column is written with the highest voltage. The additional key row is driven by no pulse,
so that it contributes nothing; S_sat is that of D rows. Every implementation serves such arrays as they are.
"""

from __future__ import annotations

from functools import lru_cache

from torch.nn.functional import pad

from gaincell.chips.design_file import Design
from gaincell.circuits.normaliser import Normaliser
from gaincell.ops.gain_cell_attention.call import Call


@lru_cache(maxsize=64)
def widened_design(design: Design, head_dim: int) -> Design:
    """The chip whose arrays of `head_dim` + 1 rows behave as those of `head_dim` rows."""
    per_row = design.score_saturation_per_row * head_dim / (head_dim + 1)
    return design.replace(normaliser=Normaliser(), score_saturation_per_row=per_row)


def with_normaliser_column(call: Call) -> Call:
    """The call with one dimension more where the chip has a normalising column; else as it is."""
    d = call.design
    if not d.normaliser.present:
        return call
    middle, top = (d.v_offset, d.v_max) if call.stage == "requested" else (0.0, d.highest_write)
    return call._replace(
        q=pad(call.q, (0, 1)),
        k=pad(call.k, (0, 1), value=middle),
        v=pad(call.v, (0, 1), value=top),
        design=widened_design(d, call.q.shape[3]),
    )
