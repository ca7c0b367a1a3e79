"""Signed charge-to-pulse circuit at the output of one sub-tile (the paper's Fig. 1h).

    o = clamp(O / O_sat, -1, 1),   O_sat = 40 charge units at 64 columns [R]

readout.py digitises o. Not modelled: comparator offset and noise.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from gaincell.circuits.converter import strict_clamp, sum_rounding
from gaincell.units import ChargeUnit


def signed_charge_to_pulse(
    charge: Float[Tensor, "*shape"], saturation: ChargeUnit, ceiling: bool = True
) -> Float[Tensor, "*shape"]:
    """o = O / O_sat, clamped to [-1, 1] if there is a ceiling; gradient for |O| < O_sat only.

    charge: O of one value column over one sub-tile, charge units.
    """
    margin = sum_rounding(charge.dtype) * saturation
    return (strict_clamp(charge, -saturation, saturation, margin) if ceiling else charge) / saturation
