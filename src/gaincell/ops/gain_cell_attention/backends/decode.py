"""Gain-cell attention of one new token against the columns that are held: for generation, without gradients.

The equations of `naive.py` for a single query, all sub-tiles in one product: with member_tj = 1 where column
j lies in sub-tile t,

    O_td = sum_j (member_tj A_j) F(u_jd delta^age_j)

Time and memory are linear in the columns: O(Tk (D + M/N)).

Dimensions: B sequences, Hk key/value heads, g query heads of each, Tk columns, D head dimension, t sub-tiles.
Not modelled: see the devices and circuits it is made of.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gaincell.circuits import charge_to_pulse, quantize_output, signed_charge_to_pulse
from gaincell.devices.leakage import remaining
from gaincell.devices.variability import KEY_ARRAY, VALUE_ARRAY, cell_errors, current_of
from gaincell.features import CELLS, DRIVERS, LEVELS, NOMINAL, PULSE_LAW, WRITES
from gaincell.ops.gain_cell_attention.call import Call
from gaincell.ops.gain_cell_attention.input_stage import array_inputs

IMPLEMENTS = NOMINAL | LEVELS | DRIVERS | WRITES | CELLS | PULSE_LAW


def supports(call: Call) -> str | None:
    one = call.q.shape[2] == 1 and not call.differentiated
    return None if one else "it takes one query and no gradients"


@torch.no_grad()
def run(call: Call) -> Float[Tensor, "B H 1 D"]:
    """The digital sum for one query; the gradient that is asked for changes nothing."""
    call = array_inputs(call)
    x, design, key_index, query_index = call.q, call.design, call.keys, call.queries
    (b, h, _, d), hk = x.shape, call.kv_heads
    age = query_index - key_index  # [B, Tk]
    seen = (age >= 0) & (age < call.window) & (key_index >= 0) & (query_index >= 0)
    decays = torch.zeros_like(age) if call.aged else age.clamp(min=0)
    left = remaining(design.decay_per_token, decays, x.dtype)
    column = key_index % design.window

    def current(u: Tensor, array: int) -> Tensor:
        """Charge of every cell for a full pulse [B, Hk, Tk, D]; 0 where no token is seen."""
        aged = torch.where(seen[:, None, :, None], u, 0.0) * left[:, None, :, None]
        errors = cell_errors(design, call.layer, hk, d, array, x.dtype, x.device)
        if errors is not None:
            errors = errors.each(lambda e: e[:, column].transpose(0, 1))
        return current_of(design.cell, aged, errors)

    grouped = torch.where((query_index >= 0)[:, :, None, None], x, 0.0).view(b, hk, h // hk, d)
    scores = grouped @ current(call.k, KEY_ARRAY).mT  # [B, Hk, g, Tk]
    exponent = design.charge_to_pulse.exponent
    pulses = charge_to_pulse(scores, design.score_saturation(d), design.score_ceiling, exponent)
    pulses = torch.where(seen[:, None, None], pulses, 0.0)
    tiles = torch.arange(design.tiles, device=x.device)
    member = ((column // design.tile)[:, None] == tiles[:, None]).to(x.dtype)  # [B, t, Tk]
    spread = (pulses[:, :, :, None] * member[:, None, None]).flatten(2, 3)  # [B, Hk, g t, Tk]
    charge = (spread @ current(call.v, VALUE_ARRAY)).view(b, h, design.tiles, d)
    output = signed_charge_to_pulse(charge, design.output_saturation, design.output_ceiling)
    return quantize_output(output, design.readout, design.counter_levels).sum(2, keepdim=True)
