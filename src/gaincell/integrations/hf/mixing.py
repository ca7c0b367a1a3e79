"""Trainable mixing of a head's components: queries and keys are multiplied, head by head,

    y_h = M_h (W_h x + b_h),       M_h a matrix D x D (of keys: of their key/value head)

before rotary positions. Softmax attention does not care in which axes a head's queries and keys lie; arrays,
whose queries are never negative, do. Rearranging them is a full-rank change of the projections, which
low-rank adapters learn slowly (docs/experiments.md). In the end it is a change of the weights, W_h' = M_h W_h
(`fold`); a converted model holds nothing else.

M begins at an exact symmetry of the softmax model, so that nothing is lost: rotary positions turn every pair
of components (d, d + D/2) of q and k by an angle that grows with the position, and turning the pair of all
queries and keys of a key/value head by one angle more changes no score, (R q) . (R k) = q . k. Once M is
trained, the softmax attention of the mixed model is another than the pretrained one's.

Positions that are learnt (GPT-2) are in x already: any invertible M of the queries with its inverse transpose
of the keys would change no score. The same turns are taken, biases included.

For projections named q_proj and k_proj, of all of whose components positions turn in these pairs (Llama,
Mistral, Qwen2), or GPT-2's c_attn, which gives q, k and v; without norms between projection and positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gaincell.errors import ModelError, RunError
from gaincell.integrations.hf.attach import required_layers
from gaincell.integrations.hf.lora import lora_parameters
from gaincell.integrations.hf.part import Part
from gaincell.integrations.hf.softmax_passthrough import pass_through
from gaincell.integrations.hf.support import attention_modules

ROTARY = ("llama", "mistral", "qwen2")
"""Families whose positions turn the pairs (d, d + D/2)."""
FAMILIES = (*ROTARY, "gpt2")
MIX = ".gain_cell.mix_"
"""In the name of a layer's matrices, before the q or k of their projection."""


class _Projection(NamedTuple):
    """What gives q or k: a linear layer, and which of `parts` equal parts of its outputs."""

    layer: nn.Module
    part: int
    parts: int

    def of(self, outputs: Tensor, dim: int) -> Tensor:
        """Its share of the layer's outputs, which lie in `dim`; a view."""
        return outputs.chunk(self.parts, dim)[self.part]


def _projection(attention: Any, stage: str) -> _Projection:
    """Of an attention module; `stage`: "q" or "k"."""
    if attention.config.model_type == "gpt2":
        return _Projection(attention.c_attn, "qkv".index(stage), 3)
    return _Projection(getattr(attention, f"{stage}_proj"), 0, 1)


def add_mixing(model: PreTrainedModel, ids: Int[Tensor, "B T"] | None = None) -> None:
    """Give every head a trainable matrix for its queries and keys, in place. Adapters come after it
    (`add_lora`) and are not mixed.

    Args:
        model: attached, of one of FAMILIES, with the weights of the softmax model.
        ids: Some text without padding: the pairs of q and k are turned so that the mean query, before rotary
            positions, points between both axes. None: every matrix is one.

    Raises:
        ModelError: the model is not attached, has mixing or adapters already, or its queries and keys have no
            such pairs.
    """
    modules: list[Any] = list(attention_modules(model).values())
    required_layers(model)
    if PART.is_in(model) or lora_parameters(model):
        raise ModelError("the model has mixing or adapters already; mixing is added once, before adapters")
    _check_family(model)
    angles = [torch.zeros(m.gain_cell.kv_heads, m.gain_cell.head_dim // 2) for m in modules]
    if ids is not None:
        angles = _towards_both_axes(model, modules, ids)
    for module, angle in zip(modules, angles, strict=True):
        cell = module.gain_cell
        like = next(module.parameters())
        first = rotation(angle).to(like.device, torch.promote_types(like.dtype, torch.float32))
        cell.mix_q = nn.Parameter(first.repeat_interleave(cell.heads // cell.kv_heads, 0))
        cell.mix_k = nn.Parameter(first)
        for stage in "qk":
            _projection(module, stage).layer.register_forward_hook(partial(_mix, module, cell, stage))


def _check_family(model: PreTrainedModel) -> None:
    if model.config.model_type not in FAMILIES:
        raise ModelError(
            f"mixing is for the families {', '.join(FAMILIES)}, not for {model.config.model_type!r}"
        )


def _mix(attention: Any, cell: nn.Module, stage: str, layer: nn.Module, _: Any, output: Tensor) -> Tensor:
    """A hook that mixes what a projection gives. It is given modules, not matrices, so that a copy of the
    model mixes with its own, and one that was detached no longer mixes, even when it is attached again.
    """
    if getattr(attention, "gain_cell", None) is not cell:
        return output
    matrices: Tensor = getattr(cell, f"mix_{stage}")
    projection = _projection(attention, stage)
    heads = projection.of(output, -1).unflatten(-1, (len(matrices), -1))  # [B, T, heads, D]
    mixed: Tensor = torch.einsum("bthd,hed->bthe", heads, matrices.to(heads.dtype)).flatten(-2)
    parts = [*output.chunk(projection.parts, -1)]
    parts[projection.part] = mixed
    return torch.cat(parts, -1)


@torch.no_grad()
def fold(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
    """Multiply the projections of a model without mixing by the matrices among `tensors`, in place, before
    adapters are added to them.

    Raises:
        RunError: there are matrices for q or for k alone, or of a size that does not fit.
    """
    found = {name: tensor.double() for name, tensor in tensors.items() if PART.owns(name)}
    layers = {name.rpartition(MIX)[0] for name in found}
    missing = {f"{layer}{MIX}{stage}" for layer in layers for stage in "qk"} - found.keys()
    if missing:
        raise RunError(f"{min(missing)} is missing beside its other matrices")
    for name, matrices in found.items():
        layer, _, stage = name.partition(MIX)
        projection = _projection(model.get_submodule(layer), stage)
        transposed = isinstance(projection.layer, Conv1D)
        for parameter in projection.layer.parameters():  # weight, and bias where there is one
            own = projection.of(parameter.T if transposed and parameter.ndim == 2 else parameter, 0)
            square = matrices.ndim == 3 and matrices.shape[1] == matrices.shape[2]
            if not square or len(own) != matrices[..., 0].numel():
                raise RunError(f"{name} of shape {tuple(matrices.shape)} does not fit {len(own)} rows")
            rows = own.double().unflatten(0, (len(matrices), -1))  # [heads, D, ...]
            own.copy_(torch.einsum("hed,hd...->he...", matrices.to(rows.device), rows).flatten(0, 1))


def _add_turned(model: PreTrainedModel, ids: Tensor | None) -> None:
    """Rows that are paired or balanced give products with a sign, which do not care how they are turned."""
    stage = required_layers(model)[0].q
    signed = stage.kept is not None or stage.turned is not None
    add_mixing(model, None if ids is None or signed else ids[:1])


PART = Part(
    "mixing",
    "mixing",
    ("mix_q", "mix_k"),
    _add_turned,
    fold=fold,
    check_model=_check_family,
    rates=dict.fromkeys(("mix_q", "mix_k"), "mixing_learning_rate"),
)


def rotation(angle: Float[Tensor, "Hk pairs"]) -> Float[Tensor, "Hk D D"]:
    """Matrices that turn the pairs (d, d + D/2) by an angle."""
    cosine, sine = angle.cos().diag_embed(), angle.sin().diag_embed()
    return torch.cat([torch.cat([cosine, -sine], -1), torch.cat([sine, cosine], -1)], -2)


def _towards_both_axes(model: PreTrainedModel, modules: list[Any], ids: Tensor) -> list[Tensor]:
    angles: list[Tensor] = []

    def see(cell: Any, projection: _Projection, layer: nn.Module, _: Any, output: Tensor) -> None:
        queries = projection.of(output.detach(), -1).double()
        pairs = queries.unflatten(-1, (cell.kv_heads, -1, 2, cell.head_dim // 2))
        mean = pairs.mean((0, 1, 3))  # [Hk, 2, D/2]
        angles.append(torch.pi / 4 - torch.atan2(mean[:, 1], mean[:, 0]))

    with ExitStack() as hooks:
        for module in modules:
            projection = _projection(module, "q")
            hook = partial(see, module.gain_cell, projection)
            hooks.callback(projection.layer.register_forward_hook(hook).remove)
        pass_through(model, ids, "softmax")
    return angles
