"""A column that says how much a query attended to, and the division by it: an extension, not in the paper.

Softmax divides by the sum of its weights; saturating ReLU does not. Every value sub-tile gets one more column
of cells, all written to the highest voltage with their token. Its charge is the sum of the pulses,

    Z_t = sum_{j in tile t} f(A_ij, u_max delta^(i-j))

read by the same converter and counter as any other column. The digital block adds it over the sub-tiles and
divides:

    out_d = (sum_t Qout(O_t,d)) / (max(sum_t Qout(Z_t), 0) + floor)

Cost in hardware: one column more per value array (1 / D of its cells, writes and reads, and one converter and
counter per sub-tile), and a divider in the digital block of a head, used D times a token. Not modelled: the
divider's own precision; it is taken for exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gaincell.quantity import Range, check_ranges


@dataclass(frozen=True)
class Normaliser:
    """The normalising column; absent by default.

    Attributes:
        floor: What is added to the denominator, in full scales of a sub-tile; None: there is no such column.
    """

    floor: float | None = None

    def __post_init__(self) -> None:
        check_ranges("normaliser", self, floor=Range(0, 1000, above=True, optional=True))

    @property
    def present(self) -> bool:
        """Whether there is a normalising column."""
        return self.floor is not None


def normalised(total: Float[Tensor, "*shape D_plus_1"], normaliser: Normaliser) -> Float[Tensor, "*shape D"]:
    """Digital sums divided by that of the last column."""
    assert normaliser.floor is not None
    return divided(total, normaliser.floor)


def divided(
    total: Float[Tensor, "*shape D_plus_1"], floor: float | Float[Tensor, "*#rest"]
) -> Float[Tensor, "*shape D"]:
    """All sums but the last, divided by the last, which is not below 0, plus a floor."""
    return total[..., :-1] / (total[..., -1:].clamp(min=0.0) + floor)
