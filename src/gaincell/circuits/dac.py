"""Write DAC: the voltages that keys and values are stored at ("Write" in docs/concepts/circuits.md).

    code = clamp(floor((V - V_offset) * (L - 1) / (V_max - V_min) + L / 2), 0, L - 1)
    u    = (code - (L - 1) / 2) * (V_max - V_min) / (L - 1),                     L = 8 levels, 3 bit [M]

The levels lie symmetrically about V_offset, and for even L none of them is V_offset. Every zero key hits the
tie V = V_offset; the rule is that it gives code L/2 (4 of 0 ... 7) in every precision. V is therefore
compared with V_offset as the precision of V stores it: 0.45 V is not the same number in bfloat16 and float32.
Levels that are stated one by one instead: levels.py.

Not modelled: charge injection of the write switch, incomplete settling, nonlinearity of the DAC.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell.circuits.converter import at_least_float32, clamp_and_quantise, in_precision, strict_clamp
from gaincell.circuits.levels import Levels, level_code, on_levels
from gaincell.units import Volt


def write_dac(
    volts: Float[Tensor, "*shape"], levels: Levels, v_min: Volt, v_max: Volt, v_offset: Volt
) -> Float[Tensor, "*shape"]:
    """Stored voltage u = V - V_offset in volts, in float32 or wider.

    Args:
        volts: Requested voltages, clamped to [v_min, v_max], gradient strictly inside only.
        levels: Number of voltages, or the voltages about V_offset, None for a DAC without quantisation.
        v_min: Lowest voltage.
        v_max: Highest voltage.
        v_offset: Voltage of zero signal.
    """
    if levels is None:
        return _about_offset(strict_clamp(volts, v_min, v_max), v_offset)
    if not isinstance(levels, int):
        return on_levels(volts, levels, v_offset)
    step = (v_max - v_min) / (levels - 1)

    def quantise_(clamped: Tensor) -> Tensor:
        code = _code(_about_offset(clamped, v_offset), levels, v_max - v_min)
        return code.sub_((levels - 1) / 2).mul_(step)

    return clamp_and_quantise(volts, v_min, v_max, quantise_)


def dac_code(
    volts: Float[Tensor, "*shape"], levels: int | tuple[float, ...], v_min: Volt, v_max: Volt, v_offset: Volt
) -> Int[Tensor, "*shape"]:
    """The DAC's code, 0 ... L - 1, of the voltages `volts`; levels as in `write_dac`."""
    u = _about_offset(strict_clamp(volts.detach(), v_min, v_max), v_offset)
    if not isinstance(levels, int):
        return level_code(u, levels)
    return _code(u, levels, v_max - v_min).to(torch.int64)


def _about_offset(clamped: Tensor, v_offset: Volt) -> Tensor:
    return at_least_float32(clamped) - in_precision(v_offset, clamped.dtype)


def _code(u: Tensor, levels: int, span: Volt) -> Tensor:
    return (u * ((levels - 1) / span)).add_(levels / 2).floor_().clamp_(0, levels - 1)
