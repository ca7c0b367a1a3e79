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
from gaincell.ops.autocast import without_autocast
from gaincell.ops.gain_cell_attention.call import SURROGATES, Call
from gaincell.ops.gain_cell_attention.input_stage import array_inputs

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
    heads, _, dim = call.k.shape[1:]
    token = torch.arange(call.design.sinks.tokens, device=call.k.device)
    match = call.keys[:, None, :] == token[:, None]  # [B, n, Tk]
    where = match.to(torch.uint8).argmax(2)[:, None, :, None].expand(-1, heads, -1, dim)
    k, v = (volts.gather(2, where) for volts in (call.k, call.v))
    keys = torch.where(match.any(2), token, -1)
    tile = array_inputs(call._replace(k=k, v=v, key_index=keys, query_index=call.queries))
    x = tile.q.unflatten(1, (heads, -1))  # [B, Hk, g, Tq, D]
    at_once = max(1, CELLS_AT_ONCE // k.numel())
    parts = zip(x.split(at_once, 3), tile.queries.split(at_once, 1), strict=True)
    with without_autocast(x):
        pieces = [_some_queries(part, tile, index) for part, index in parts]
    return torch.cat(pieces, 3).flatten(1, 2)


def _some_queries(
    x: Float[Tensor, "B Hk g Q D"], tile: Call, query_index: Int[Tensor, "B Q"]
) -> Float[Tensor, "B Hk g Q D"]:
    design, period = tile.design, tile.design.sinks.rewrite_tokens
    token, query = tile.keys[:, None, :], query_index[:, :, None]
    age = (query - torch.maximum(token, query // period * period)).clamp(min=0)  # [B, Q, n]
    seen = (token >= 0) & (query >= token)
    left = remaining(design.decay_per_token, age, x.dtype)[:, None, :, :, None]

    def product(kind: str, a: Tensor, u: Tensor) -> Tensor:
        decayed = torch.where(seen[:, None, :, :, None], u[:, :, None] * left, 0.0)  # [B, Hk, Q, n, D]
        charge = torch.einsum(kind, a, design.cell.current(decayed))
        if tile.gradient not in SURROGATES:
            return charge
        linear = torch.einsum(kind, a, design.cell.linear_slope * decayed)
        return circuits.straight_through(charge, linear)

    scores = product("bkgid,bkijd->bkgij", x, tile.k)
    # S_sat is a number per row of the array; a normalising column adds a row that is never driven
    saturation, exponent = design.score_saturation(x.shape[-1]), design.charge_to_pulse.exponent
    pulses = circuits.charge_to_pulse(scores, saturation, design.score_ceiling, exponent)
    charge = product("bkgij,bkijd->bkgid", torch.where(seen[:, None, None], pulses, 0.0), tile.v)
    output = circuits.signed_charge_to_pulse(charge, design.output_saturation, design.output_ceiling)
    return circuits.quantize_output(output, design.readout, design.counter_levels)
