"""The published eager algorithm, restated from the paper's equations: whole T x T matrices.

What the paper's released training code does in spirit, to have its speed beside ours: every power of the keys
and values is multiplied on its own, the decay is a full matrix, and the output of every sub-tile is kept for
every query. T at most M: sub-tiles are cut by token. Not part of the package.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaincell.chips.design_file import Design
from gaincell.circuits import (
    charge_to_pulse,
    quantize_output,
    query_driver,
    signed_charge_to_pulse,
    write_dac,
)


def published_eager(q: Tensor, k: Tensor, v: Tensor, design: Design) -> Tensor:
    """Attention of [B, H, T, D] pulse widths and volts, T a multiple of the tile and at most the window."""
    tokens, dim = q.shape[2:]
    coefficients = design.cell.coefficients
    assert coefficients is not None
    x = query_driver(q, design.query_levels)
    ku, vu = (
        write_dac(u, design.storage_levels, design.v_min, design.v_max, design.v_offset) for u in (k, v)
    )
    i = torch.arange(tokens)
    age = (i[:, None] - i[None, :]).clamp(min=0)
    decay = (design.decay_per_token**age).to(q.dtype)
    scores = coefficients[0] * x.sum(-1, keepdim=True)
    for p, c in enumerate(coefficients[1:], start=1):
        scores = scores + c * decay**p * (x @ (ku**p).mT)
    pulses = charge_to_pulse(scores, design.score_saturation(dim), design.score_ceiling)
    pulses = pulses * (i[:, None] >= i[None, :])
    tiled = (-1, design.tile)
    charge = coefficients[0] * pulses.unflatten(3, tiled).sum(-1)[..., None]
    for p, c in enumerate(coefficients[1:], start=1):
        weights = (pulses * decay**p).unflatten(3, tiled)
        charge = charge + c * torch.einsum("bhitj,bhtjd->bhitd", weights, (vu**p).unflatten(2, tiled))
    output = signed_charge_to_pulse(charge, design.output_saturation, design.output_ceiling)
    return quantize_output(output, design.readout, design.counter_levels).sum(3)
