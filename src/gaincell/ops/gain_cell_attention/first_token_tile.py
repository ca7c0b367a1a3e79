"""Attention to the first tokens of a sequence in columns of their own (circuits/sinks.py), beside the ring's.

Dimensions: B sequences, Hk key/value heads, g = H / Hk, Tq queries, Tk keys, D head dimension, n sinks, Q
queries done at a time.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell import circuits
from gaincell.chips.design_file import Design
from gaincell.circuits.sinks import Sinks
from gaincell.devices.leakage import remaining
from gaincell.ops.gain_cell_attention.call import SURROGATES, Call

CELLS_AT_ONCE = 2**22
"""Cells (B Hk Q n D) of one piece; bounds memory only."""


@lru_cache(maxsize=64)
def _design_of_ring(design: Design) -> Design:
    return design.replace(sinks=Sinks())


def without_sinks(call: Call) -> Call:
    """The ring's part of a call: its chip, and the index of every token in the ring, -1 outside it."""
    n = call.design.sinks.tokens
    if n == 0:
        return call
    keys, queries = (torch.where(index >= n, index - n, -1) for index in (call.keys, call.queries))
    return call._replace(design=_design_of_ring(call.design), key_index=keys, query_index=queries)


def sink_tile(call: Call) -> Float[Tensor, "B H Tq D"]:
    """What the sub-tile of the first tokens adds to the digital sum of a requested call.

    An approximate gradient is exactly what it stands for here.
    """
    d, (heads, _, dim) = call.design, call.k.shape[1:]
    match = call.keys[:, None, :] == torch.arange(d.sinks.tokens, device=call.k.device)[:, None]  # [B, n, Tk]
    held, slot = match.any(2), match.to(torch.uint8).argmax(2)
    where = slot[:, None, :, None].expand(-1, heads, -1, dim)
    ku, vu = (
        circuits.write_dac(volts.gather(2, where), d.dac_levels, d.v_min, d.v_max, d.v_offset)
        for volts in (call.k, call.v)
    )
    x = circuits.query_driver(call.q, d.driver_levels, signed=d.drivers.signed)
    dtype = torch.promote_types(x.dtype, torch.promote_types(ku.dtype, vu.dtype))
    x, ku, vu = x.to(dtype).unflatten(1, (heads, -1)), ku.to(dtype), vu.to(dtype)  # [B, Hk, g, Tq, D]
    at_once = max(1, CELLS_AT_ONCE // (ku[:, :, :, :1].numel() * dim))
    pieces = [
        _some_queries(part, ku, vu, call, index, held)
        for part, index in zip(x.split(at_once, 3), call.queries.split(at_once, 1), strict=True)
    ]
    return torch.cat(pieces, 3).flatten(1, 2)


def _some_queries(
    x: Float[Tensor, "B Hk g Q D"],
    ku: Float[Tensor, "B Hk n D"],
    vu: Float[Tensor, "B Hk n D"],
    call: Call,
    query_index: Int[Tensor, "B Q"],
    held: Tensor,
) -> Float[Tensor, "B Hk g Q D"]:
    design, period = call.design, call.design.sinks.rewrite_tokens
    token, query = torch.arange(ku.shape[2], device=x.device), query_index[:, :, None]
    age = (query - torch.maximum(token, query // period * period)).clamp(min=0)  # [B, Q, n]
    seen = held[:, None, :] & (query >= token)
    left = remaining(design.decay_per_token, age, x.dtype)[:, None, :, :, None]

    def product(kind: str, a: Tensor, u: Tensor) -> Tensor:
        decayed = torch.where(seen[:, None, :, :, None], u[:, :, None] * left, 0.0)  # [B, Hk, Q, n, D]
        charge = torch.einsum(kind, a, design.cell.current(decayed))
        if call.gradient not in SURROGATES:
            return charge
        linear = torch.einsum(kind, a, design.cell.linear_slope * decayed)
        return circuits.straight_through(charge, linear)

    scores = product("bkgid,bkijd->bkgij", x, ku)
    # S_sat is a number per row of the array; a normalising column adds a row that is never driven
    saturation, exponent = design.score_saturation(x.shape[-1]), design.charge_to_pulse.exponent
    pulses = circuits.charge_to_pulse(scores, saturation, design.score_ceiling, exponent)
    charge = product("bkgij,bkijd->bkgid", torch.where(seen[:, None, None], pulses, 0.0), vu)
    output = circuits.signed_charge_to_pulse(charge, design.output_saturation, design.output_ceiling)
    return circuits.read_out(output, design.readout, design.counter_levels)
