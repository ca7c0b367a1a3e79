"""Charge-to-pulse circuit between the arrays: a rectifier with saturation, analog (spec section 3).

    phi(S) = clamp(S / S_sat, 0, 1),       without a ceiling max(S, 0) / S_sat              (5)

S_sat is 80 charge units at 64 rows [R]. The pulse lasts phi * T_max and is not quantised.
Not modelled: comparator offset and noise, finite charging time of the integrator.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from gaincell.circuits.converter import strict_clamp, sum_rounding
from gaincell.units import ChargeUnit


def charge_to_pulse(
    scores: Float[Tensor, "*shape"], saturation: ChargeUnit, ceiling: bool = True
) -> Float[Tensor, "*shape"]:
    """Pulse widths phi(S) over the longest pulse; gradient 1 / S_sat strictly inside 0 < S < S_sat only.

    scores: charge S of a key column, charge units.  ceiling: whether phi stops at 1.
    """
    margin = sum_rounding(scores.dtype) * saturation
    return strict_clamp(scores, 0.0, saturation if ceiling else math.inf, margin) / saturation
