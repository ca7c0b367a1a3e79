"""Signed products from arrays whose pulses are never negative: half of a head's components, each in two rows.

After rotary positions, q and k of every head become

    q' = (q_c, -q_c),     k' = (k_c, -k_c),     c: the D/2 components that are kept

so that a row and its partner see pulses [a q + b]+ and [-a q + b]+ (b: the offset of q) and cells that store
V_offset + a_k k + c_k and V_offset - a_k k + c_k. Within the pulses' range their currents add up to a product
with a sign; where both rows are driven, b and c_k add the same to the score of every key, a threshold. The
array is the paper's, with all its D rows; what it costs is half of the components, and no circuit.

Rotary positions turn the pairs (d, d + D/2) of components; a head keeps whole pairs, those whose part of the
score varies most among the keys that a query of its group sees (without covariances between pairs).

For the same models as mixing.py, which can move what is wanted into the pairs that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.errors import ModelError, RunError
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.mixing import FAMILIES
from gaincell.integrations.hf.support import attention_modules
from gaincell.nn.attention import GainCellAttention
from gaincell.nn.softmax import softmax_attention

KEPT = ".kept"
"""End of the name of a stage's kept components."""
QUERIES_APART = 8
"""Of so many queries one is looked at; its neighbours see the same keys."""


@torch.no_grad()
def pair_rows(model: PreTrainedModel, ids: Int[Tensor, "B T"]) -> None:
    """Choose every head's pairs and put q and k into rows twice, in place.

    Args:
        model: attached, of one of mixing's FAMILIES, with the weights of the softmax model.
        ids: some text without padding.

    Raises:
        ModelError: the model is not attached, is paired already, has no such pairs, or its design has queries
            with a sign.
    """
    layers = attached_layers(model)
    if not layers:
        raise ModelError(f"{type(model).__name__} is not attached: call gaincell.attach(model, design) first")
    if model.config.model_type not in FAMILIES or layers[0].head_dim % 4:
        raise ModelError(
            f"paired rows are for the families {', '.join(FAMILIES)} with a multiple of 4 components a head, "
            f"not for {model.config.model_type!r} with {layers[0].head_dim}"
        )
    if layers[0].design.drivers.signed:
        raise ModelError(
            f"the queries of {layers[0].design.name} have a sign; paired rows are for those without"
        )
    if is_paired(model):
        raise ModelError("the model has paired rows already")
    modules: list[Any] = list(attention_modules(model).values())
    scaling = [getattr(m, "scaling", a.head_dim**-0.5) for m, a in zip(modules, layers, strict=True)]
    with ExitStack() as hooks:
        for n, layer in enumerate(layers):

            def choose(
                attention: GainCellAttention, inputs: tuple[Any, ...], output: Tensor, n: int = n
            ) -> Tensor:
                q, k, v, _, _, window = inputs
                _keep(attention, _most_varying(q, k))
                return softmax_attention(q, k, v, scaling[n], window).to(output.dtype)

            hooks.callback(layer.register_forward_hook(choose).remove)
        hooks.callback(model.train, model.training)
        model.eval()
        model.base_model(input_ids=ids.to(next(model.parameters()).device, torch.long), use_cache=False)


def is_paired(model: nn.Module) -> bool:
    """Whether a model's queries and keys stand in paired rows."""
    return bool(kept_components(model))


def kept_components(model: nn.Module) -> dict[str, Int[Tensor, "heads half"]]:
    """The kept components of every layer's q and k, by name; empty where rows are not paired."""
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith(KEPT)}


def hold_components(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Pair the rows of an attached model as `tensors`, by `kept_components`, say; in place.

    Raises:
        RunError: they are not for this model.
    """
    cells = {name: module for name, module in model.named_modules() if isinstance(module, GainCellAttention)}
    wanted = {f"{name}.{stage}{KEPT}" for name in cells for stage in "qk"}
    found = {name: tensor for name, tensor in tensors.items() if name.endswith(KEPT)}
    if not found:
        return
    if found.keys() != wanted:
        raise RunError(
            f"paired rows are not those of this model: {min(found.keys() ^ wanted)} is in one only"
        )
    for name, cell in cells.items():
        kept = found[f"{name}.k{KEPT}"]
        fits = kept.shape == (cell.kv_heads, cell.head_dim // 2) and kept.dtype == torch.int64
        if not fits or int(kept.min()) < 0 or int(kept.max()) >= cell.head_dim:
            raise RunError(
                f"{name}: kept components of shape {tuple(kept.shape)} do not fit {cell.kv_heads} heads of "
                f"{cell.head_dim} components"
            )
        _keep(cell, kept)


def _keep(cell: GainCellAttention, kept: Int[Tensor, "Hk half"]) -> None:
    cell.k.kept = kept.to(cell.k.gain.device)
    cell.q.kept = cell.k.kept.repeat_interleave(cell.heads // cell.kv_heads, 0)


def _most_varying(q: Float[Tensor, "B H T D"], k: Float[Tensor, "B Hk T D"]) -> Int[Tensor, "Hk half"]:
    tokens, kv_heads, pairs = q.shape[2], k.shape[1], q.shape[-1] // 2
    first = min(tokens - 1, QUERIES_APART)
    number = torch.arange(first, tokens, QUERIES_APART, device=q.device)
    seen = torch.arange(tokens, device=q.device) <= number[:, None]  # [queries, T]
    count = seen.sum(-1)
    found = torch.zeros(kv_heads, pairs, dtype=torch.float64, device=q.device)
    queries = q[:, :, number].unflatten(1, (kv_heads, -1)).float()  # [B, Hk, group, queries, D]
    for pair in range(pairs):
        both = [pair, pair + pairs]
        parts = queries[..., both] @ k[:, :, None, :, both].float().mT * seen
        mean = parts.sum(-1) / count
        spread = parts.square().sum(-1) / count - mean.square()
        found[:, pair] = spread.double().mean((0, 2, 3))
    chosen = found.topk(pairs // 2).indices.sort().values
    return torch.cat([chosen, chosen + pairs], dim=-1)
