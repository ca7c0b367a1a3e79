"""Signed charge-to-pulse circuit and counter at the output of one sub-tile (the paper's Fig. 1h).

    o = clamp(O / O_sat, -1, 1),   O_sat = 40 charge units at 64 columns [R]

A flip-flop holds the sign, a counter of L = 16 levels measures the pulse |o| T_max at the pulse clock [M]:

    counter          sign(o) * floor((L - 1) |o| + 1/2) / (L - 1)    2L - 1 values; started half a clock early
    counter-floor    sign(o) * floor((L - 1) |o|) / (L - 1)
    published-code   round(o (2L - 1) / 2) * 2 / (2L - 1)    2L + 1 values up to 1.032; ties to even [R]
    none             o

`published-code` is what the authors' networks were trained with. Full scale, o = 1, is one of its ties.
Not modelled: comparator offset and noise, counter metastability.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gaincell.circuits.converter import straight_through, strict_clamp, sum_rounding
from gaincell.errors import DesignError
from gaincell.units import ChargeUnit

READOUTS = ("counter", "counter-floor", "published-code", "none")


def signed_charge_to_pulse(
    charge: Float[Tensor, "*shape"], saturation: ChargeUnit, ceiling: bool = True
) -> Float[Tensor, "*shape"]:
    """o = O / O_sat, clamped to [-1, 1] if there is a ceiling; gradient for |O| < O_sat only.

    charge: O of one value column over one sub-tile, charge units.
    """
    margin = sum_rounding(charge.dtype) * saturation
    return (strict_clamp(charge, -saturation, saturation, margin) if ceiling else charge) / saturation


def read_out(o: Float[Tensor, "*shape"], kind: str, levels: int) -> Float[Tensor, "*shape"]:
    """The digital value of a sub-tile output, in units of full scale; straight-through gradient.

    o: signed pulse width over the longest pulse.  kind: one of READOUTS.  levels: L, levels of the magnitude.
    Raises DesignError for an unknown kind.
    """
    if kind == "none":
        return o
    steps = levels - 1
    if kind == "counter":
        value = torch.sign(o) * torch.floor(o.abs() * steps + 0.5) / steps
    elif kind == "counter-floor":
        value = torch.sign(o) * torch.floor(o.abs() * steps) / steps
    elif kind == "published-code":
        half_codes = (2 * levels - 1) / 2
        value = torch.round(o * half_codes) / half_codes
    else:
        raise DesignError(f"unknown readout {kind!r}; choose one of {', '.join(READOUTS)}")
    return straight_through(value, o)
