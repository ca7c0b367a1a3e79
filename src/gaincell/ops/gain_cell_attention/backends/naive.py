"""The definition (naive.py) as a backend: everything that is modelled, slowly, a few queries at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gaincell import features
from gaincell.ops.gain_cell_attention.call import Call
from gaincell.ops.gain_cell_attention.input_stage import array_inputs
from gaincell.ops.gain_cell_attention.naive import attention
from gaincell.ops.gain_cell_attention.naive_errors import Chip, errors_of_columns

IMPLEMENTS = features.ARRAYS | {"nonideality"}
CELLS_AT_ONCE = 2**22  # cells (B Hk Q Tk D) of one chunk; bounds memory only


def supports(_: Call) -> None:
    """Every call is served."""


def run(call: Call) -> Tensor:
    """The digital sum over the sub-tiles; 0 where a query is padding."""
    call = array_inputs(call)
    keys, queries, decays_from = call.keys, call.queries, call.keys
    if call.aged:
        decays_from = torch.maximum(keys, call.first_query)
    ku, vu = (torch.where((keys >= 0)[:, None, :, None], u, 0.0) for u in (call.k, call.v))
    x = torch.where((queries >= 0)[:, None, :, None], call.q, 0.0).unflatten(1, (call.kv_heads, -1))
    cells = errors_of_columns(call)
    at_once = max(1, CELLS_AT_ONCE // ku.numel())
    chunks = []
    for part, index in zip(x.split(at_once, 3), queries.split(at_once, 1), strict=True):
        given = (part, ku, vu, call, Chip(call, cells, index), index, decays_from)
        # recomputed in the backward pass instead of stored
        chunks.append(checkpoint(attention, *given, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(chunks, 3).flatten(1, 2)
