"""Rotations of query and key pairs: an exact symmetry of a softmax model that the hardware does not have.

Rotary positions turn every pair of components (d, d + D/2) of q and k by an angle that grows with the
position. Turning the pair of all queries and keys of a key/value head by one angle more changes no score,

    (R q) . (R k) = q . k,

so the softmax model stays what it is. In arrays queries are never negative, and which components are clamped
depends on that angle: it is a free parameter of every pair, which can be set and trained without losing
anything. In the end it is a change of the weights of the query and key projections (`fold`).

For projections named q_proj and k_proj, of all of whose components positions turn in these pairs (Llama,
Mistral, Qwen2), without norms between projection and positions.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.errors import ModelError
from gaincell.integrations.hf.attach import set_attention
from gaincell.integrations.hf.support import attention_modules
from gaincell.nn.attention import rotated

ANGLE = ".gain_cell.angle"
"""End of the name of the angles of a layer."""
FAMILIES = ("llama", "mistral", "qwen2")


def add_rotations(model: PreTrainedModel, ids: Int[Tensor, "B T"] | None = None) -> None:
    """Give the arrays of an attached model a trainable angle for every pair, in place.

    Args:
        model: attached, of one of FAMILIES, with the weights of the softmax model.
        ids: some text without padding: the mean query of a pair, before rotary positions, will point between
            both axes. None: angles of 0.

    Raises:
        ModelError: the model's queries and keys have no such pairs.
    """
    if model.config.model_type not in FAMILIES:
        raise ModelError(
            f"rotations are for the families {', '.join(FAMILIES)}, not for {model.config.model_type!r}"
        )
    modules: list[Any] = list(attention_modules(model).values())
    angles = [torch.zeros(m.gain_cell.kv_heads, m.gain_cell.head_dim // 2) for m in modules]
    if ids is not None:
        angles = _towards_both_axes(model, modules, ids)
    for module, angle in zip(modules, angles, strict=True):
        gain = module.gain_cell.q.gain
        module.gain_cell.angle = nn.Parameter(angle.to(gain.device, gain.dtype))


@torch.no_grad()
def _towards_both_axes(model: PreTrainedModel, modules: list[Any], ids: Tensor) -> list[Tensor]:
    angles: list[Tensor] = []

    def watch(projection: nn.Module, _: Any, output: Tensor) -> None:
        cell = next(m.gain_cell for m in modules if m.q_proj is projection)
        pairs = output.detach().double().unflatten(-1, (cell.kv_heads, -1, 2, cell.head_dim // 2))
        mean = pairs.mean((0, 1, 3))  # [Hk, 2, D/2]
        angles.append(torch.pi / 4 - torch.atan2(mean[:, 1], mean[:, 0]))

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.q_proj.register_forward_hook(watch).remove)
        set_attention(model, "softmax")
        hooks.callback(set_attention, model, "gain-cell")
        model.eval()
        device = next(model.parameters()).device
        model.base_model(input_ids=ids.to(device, torch.long), use_cache=False)
    return angles


@torch.no_grad()
def fold(model: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn the rows of query and key projections of a model without angles by those in `tensors`, in place;
    returns the other tensors.
    """
    for name in (n for n in tensors if n.endswith(ANGLE)):
        attention: Any = model.get_submodule(name.removesuffix(ANGLE))
        for projection in (attention.q_proj, attention.k_proj):
            for parameter in projection.parameters():  # weight, and bias where there is one
                parameter.copy_(turned_rows(parameter, tensors[name]))
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(ANGLE)}


def turned_rows(
    rows: Float[Tensor, rows * shape], angle: Float[Tensor, "Hk pairs"]
) -> Float[Tensor, rows * shape]:
    """Rows of a projection (heads x D) whose outputs are turned."""
    pairs = angle.shape[1]
    heads = len(rows) // (2 * pairs)
    flat = rows.reshape(heads, 2 * pairs, -1).transpose(1, 2)[None]  # [1, heads, inputs, D]
    return rotated(flat.double(), angle)[0].transpose(1, 2).reshape(rows.shape).to(rows.dtype)
