"""Products with a sign from pulses that have none: half of a head's components, each in two rows.

After rotary positions, q and k of every head become

    q' = (q_c, -q_c),     k' = (k_c, -k_c),     c: the D/2 components that are kept

so that a row and its partner see the pulses [a q + b]+ and [-a q + b]+ (b: the offset of q) and cells that
store u = a_k k + c_k and u = -a_k k + c_k from V_offset. With linear cells their currents add up to a product
with a sign where one pulse is 0 and b is too, or where both are driven, |a q| < b; between, b k is added, and
c_k adds a threshold for ReLU. Only the odd part of a cell's current does this: an even part adds the pulses
times F_even(u), whatever the sign of k. A threshold decays, and the write DAC rounds it, like any voltage.

The array is the paper's, with all its D rows. It costs half of the components, and their selection and two
changes of sign in the digital block.

Rotary positions turn the pairs (d, d + D/2) of components; a head keeps whole pairs, those whose part of the
score varies most among the keys that a query of its group sees (without covariances between pairs). Where
positions are learnt (GPT-2), nothing turns, and single components are chosen instead of pairs.

For the same models as mixing.py, which can move what is wanted into the pairs that are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.errors import InputError, ModelError, RunError
from gaincell.integrations.hf.attach import required_layers
from gaincell.integrations.hf.mixing import FAMILIES, ROTARY
from gaincell.integrations.hf.part import Part
from gaincell.integrations.hf.softmax_passthrough import observe_softmax
from gaincell.integrations.hf.support import attention_modules, geometry
from gaincell.nn.attention import GainCellAttention
from gaincell.nn.checks import check_unsigned

ROW_INDEX = ".k.kept"
"""End of the name of a layer's row index: components, for every key/value head; its queries have the same."""
QUERIES_APART = 8
"""Of so many queries one is looked at; its neighbours see nearly the same keys."""


@torch.no_grad()
def pair_rows(model: PreTrainedModel, ids: Int[Tensor, "B T"]) -> None:
    """Choose every head's pairs and put q and k into rows twice, in place.

    Args:
        model: attached, of one of mixing's FAMILIES, with the weights of the softmax model.
        ids: Some text without padding.

    Raises:
        ModelError: the model is not attached, is paired already, has no such pairs, or its design has queries
            with a sign.
        InputError: the text has no two tokens.
    """
    layers = required_layers(model)
    _check_model(model)
    check_unsigned(layers[0].design)
    if PART.is_in(model):
        raise ModelError("the model has paired rows already")
    if ids.ndim != 2 or ids.shape[1] < 2:
        raise InputError(f"token ids to choose by have shape {tuple(ids.shape)}; give [sequences, 2 or more]")

    rotary = model.config.model_type in ROTARY

    def choose(layer: int, attention: GainCellAttention, inputs: tuple[Any, ...], softmax: Tensor) -> None:
        q, k, _, _, _, window = inputs
        attention.pair_rows(_most_varying(q, k, window, rotary))

    observe_softmax(model, ids, choose)


def _check_model(model: PreTrainedModel) -> None:
    head_dim = geometry(next(iter(attention_modules(model).values()))).head_dim
    if model.config.model_type not in FAMILIES or head_dim % 4:
        raise ModelError(
            f"paired rows are for the families {', '.join(FAMILIES)} with a multiple of 4 components a head, "
            f"not for {model.config.model_type!r} with {head_dim}"
        )


def _most_varying(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B Hk T D"], window: int | None = None, rotary: bool = True
) -> Int[Tensor, "Hk half"]:
    """The components that are kept: whole pairs where positions are `rotary`, single ones where not."""
    tokens, kv_heads = q.shape[2], k.shape[1]
    components = torch.arange(q.shape[-1], device=q.device).view(2 if rotary else 1, -1)
    number = torch.arange(min(tokens - 1, QUERIES_APART), tokens, QUERIES_APART, device=q.device)
    age = number[:, None] - torch.arange(tokens, device=q.device)  # [queries, T]
    seen = (age >= 0) & (age < (window or tokens))
    count = seen.sum(-1)
    found = torch.zeros(kv_heads, components.shape[1], dtype=torch.float64, device=q.device)
    queries = q[:, :, number].unflatten(1, (kv_heads, -1)).float()  # [B, Hk, group, queries, D]
    for column, together in enumerate(components.T):
        parts = queries[..., together] @ k[:, :, None, :, together].float().mT
        mean = (parts * seen).sum(-1) / count
        spread = ((parts - mean[..., None]).square() * seen).sum(-1) / count
        found[:, column] = spread.double().mean((0, 2, 3))
    chosen = found.topk(components.shape[1] // 2).indices.sort().values  # [Hk, half of the columns]
    return components[:, chosen].transpose(0, 1).flatten(1)


def _restore(cell: GainCellAttention, name: str, row_index: Tensor | None) -> None:
    shape = (cell.kv_heads, cell.head_dim // 2)
    if row_index is None:
        row_index = torch.arange(shape[1]).repeat(cell.kv_heads, 1)
    fits = row_index.shape == shape and row_index.dtype == torch.int64
    if not fits or any(len({*row} & {*range(cell.head_dim)}) < shape[1] for row in row_index.tolist()):
        raise RunError(
            f"{name} ({row_index.dtype}, {tuple(row_index.shape)}) does not name {shape[1]} of "
            f"{cell.head_dim} components for each of {cell.kv_heads} heads"
        )
    cell.pair_rows(row_index)


def _add(model: PreTrainedModel, ids: Tensor | None) -> None:
    if ids is None:
        raise ModelError("paired rows are chosen by a text: call pair_rows(model, ids) of paired.py")
    pair_rows(model, ids[:1])


PART = Part(
    "paired rows",
    "paired",
    (ROW_INDEX[1:],),
    _add,
    restore=_restore,
    has_indices=True,
    copies=("q.kept",),
    check_model=_check_model,
    check_chip=check_unsigned,
)
