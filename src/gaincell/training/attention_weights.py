"""Where a layer's arrays look, compared with where softmax attention looks.

The output of a head says little about a single token that it should have found. The pulses between the arrays
say it themselves:

    KL( softmax(q k^T / sqrt(D))_i || A_i / sum_j A_ij ),   A_ij = phi(S_ij),      nats, mean over i and heads

For its gradient phi is smooth at zero, s ln(1 + e^(S / (s S_sat))) with s = `SMOOTH`, else a token that ReLU
cuts off could not come back. Of every text `QUERIES` queries in a row are looked at, which see a column at
one age, that at the middle one of them.

Not modelled: errors and noise of a chip; columns of first tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from gaincell.circuits import query_driver, write_dac
from gaincell.integrations.hf.attach import attached_layers
from gaincell.nn.attention import GainCellAttention

QUERIES = 64
SMOOTH = 0.05
"""Width of the bend of phi, in full scales."""


class Looked(NamedTuple):
    """Queries and keys of one layer; for softmax the factor of their products, for arrays the model's own
    sliding window.
    """

    q: Float[Tensor, "B H T D"]
    k: Float[Tensor, "B Hk T D"]
    scaling: float = 1.0
    window: int | None = None


@contextmanager
def watched_queries(model: nn.Module) -> Iterator[dict[int, Looked]]:
    """Queries and keys that an attached model attends with while the context lasts, by layer."""
    found: dict[int, Looked] = {}

    def watch(layer: GainCellAttention) -> Any:
        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            q, k = inputs[:2]
            if module is layer.softmax:
                found[layer.layer] = Looked(q, k, scaling=inputs[4] or q.shape[-1] ** -0.5)
            else:
                found[layer.layer] = Looked(q, k, window=inputs[5])

        return keep

    with ExitStack() as hooks:
        for layer in attached_layers(model):
            for module in (layer, layer.softmax):
                hooks.callback(module.register_forward_hook(watch(layer)).remove)
        yield found


def weights_divergence(
    cell: GainCellAttention, own: Looked, teacher: Looked, ids: Int[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """The divergence of this file's head, of one layer.

    Args:
        cell: the layer's arrays.
        own, teacher: what arrays and softmax attention were given for the same texts without padding.
        ids: these texts. Which queries are looked at follows from them.
    """
    design, tokens = cell.design, own.k.shape[2]
    first = int(ids.sum()) % math.ceil(tokens / QUERIES) * QUERIES
    rows = slice(first, min(first + QUERIES, tokens))
    i = torch.arange(tokens, device=own.k.device)[rows]
    j = torch.arange(tokens, device=own.k.device)
    age = i[:, None] - j
    seen = (age >= 0) & (age < min(design.window, own.window or tokens))
    wanted = _by_key_head(teacher.q[:, :, rows].float(), teacher.k.float()) * teacher.scaling
    wanted = wanted.masked_fill(~seen, -math.inf).log_softmax(-1)
    q = cell.q(own.q, cell.columns(own.q, own.k, own.k, sliding_window=own.window))[:, :, rows]
    x = query_driver(q, design.driver_levels, signed=design.drivers.signed)
    u = write_dac(cell.k(own.k), design.dac_levels, design.v_min, design.v_max, design.v_offset)
    reads = cell.heads // cell.kv_heads
    rate = design.leak_per_token + reads * design.disturb_per_read
    left = torch.exp(-rate * (i.double().mean() - j).clamp(min=0))[:, None].to(u.dtype)
    u = design.decay_target + (u - design.decay_target) * left
    scores = _by_key_head(x, design.cell.current(u).to(x.dtype))
    full = design.score_saturation(x.shape[-1])
    pulses = SMOOTH * functional.softplus(scores / (SMOOTH * full))
    if design.score_ceiling:
        pulses = pulses.clamp(max=1.0)
    pulses = pulses**design.charge_to_pulse.exponent
    found = pulses.float().clamp(min=torch.finfo(torch.float32).tiny).log()
    found = found.masked_fill(~seen, -math.inf).log_softmax(-1)
    apart = torch.where(seen, wanted.exp() * (wanted - found), 0.0)
    return apart.sum(-1).mean()


def _by_key_head(q: Float[Tensor, "B H R D"], k: Float[Tensor, "B Hk T D"]) -> Float[Tensor, "B H R T"]:
    group = q.shape[1] // k.shape[1]
    products: Tensor = q.unflatten(1, (-1, group)) @ k[:, :, None].mT
    return products.flatten(1, 2)
