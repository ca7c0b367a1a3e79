"""Charge-to-pulse circuits, analog. Between the arrays a rectifier with saturation, the paper's equation (5):

    phi(S) = clamp(S / S_sat, 0, 1)^p,       without a ceiling (max(S, 0) / S_sat)^p              (5)

S_sat is 80 charge units at 64 rows [R]. The pulse lasts phi * T_max and is not quantised. p is 1 in the
paper: the integrator is discharged by a constant current, and the pulse lasts until it is empty. p > 1 is an
extension: the integrator's voltage is compared with a ramp that all columns share and that rises as
(t / T_max)^(1/p), so that large charges give disproportionately long pulses: a step from ReLU towards
softmax. Its cost: one generator of such a ramp per array in place of a constant current per column.

At the output of one sub-tile (the paper's Fig. 1h) the pulse has a sign, and readout.py digitises it:

    o = clamp(O / O_sat, -1, 1),                 O_sat = 40 charge units at 64 columns [R]

Not modelled: comparator offset and noise, finite charging time of the integrator; that the steep beginning of
such a ramp makes short pulses less precise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gaincell.circuits.converter import strict_clamp, sum_rounding
from gaincell.quantity import Range, check_ranges
from gaincell.units import ChargeUnit

LARGEST_EXPONENT = 4


@dataclass(frozen=True)
class ChargeToPulse:
    """The law of the converter between the arrays.

    Attributes:
        exponent: p; 1 as published.
    """

    exponent: int = 1

    def __post_init__(self) -> None:
        check_ranges("charge_to_pulse", self, exponent=Range(1, LARGEST_EXPONENT))


def charge_to_pulse(
    scores: Float[Tensor, "*shape"], saturation: ChargeUnit, ceiling: bool = True, exponent: int = 1
) -> Float[Tensor, "*shape"]:
    """Pulse widths phi(S) over the longest pulse; a gradient strictly inside 0 < S < S_sat only.

    Args:
        scores: Charge S of a key column, charge units.
        saturation: S_sat, charge units.
        ceiling: Whether phi stops at 1.
        exponent: p.
    """
    margin = sum_rounding(scores.dtype) * saturation
    linear = strict_clamp(scores, 0.0, saturation if ceiling else math.inf, margin) / saturation
    return linear if exponent == 1 else linear**exponent


def signed_charge_to_pulse(
    charge: Float[Tensor, "*shape"], saturation: ChargeUnit, ceiling: bool = True
) -> Float[Tensor, "*shape"]:
    """o = O / O_sat, clamped to [-1, 1] if there is a ceiling; gradient for |O| < O_sat only.

    Args:
        charge: O of one value column over one sub-tile, charge units.
        saturation: O_sat, charge units.
        ceiling: Whether there is a ceiling.
    """
    margin = sum_rounding(charge.dtype) * saturation
    return (strict_clamp(charge, -saturation, saturation, margin) if ceiling else charge) / saturation
