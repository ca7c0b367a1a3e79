"""Put gain-cell attention into a decoder of transformers, and take it out again.

``attach`` adds one module, ``gain_cell``, to every attention module and points the model at the attention
and mask functions of ``interface.py``; the model's own weights are not touched. ``detach`` undoes both.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from gaincell.design import Design
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf import interface
from gaincell.integrations.hf.support import attention_modules, geometry
from gaincell.nn.attention import GainCellAttention
from gaincell.ops.gain_cell_attention import Gradient, Impl

AnyModel = TypeVar("AnyModel", bound=PreTrainedModel)

_RECORD = "gaincell_attachment"
"""Attribute of an attached model that remembers how to detach it."""


@dataclass
class _Attachment:
    """What ``attach`` changed besides adding modules."""

    implementation: str
    """the attention implementation the model had before"""
    guard: RemovableHandle
    """the hook that refuses arguments which never reach an attention function"""


def attach(
    model: AnyModel,
    design: Design,
    *,
    impl: Impl = "auto",
    gradient: Gradient = "exact",
    attention: Literal["gain-cell", "softmax"] = "gain-cell",
) -> AnyModel:
    """Run the attention of ``model`` in gain-cell arrays, in place.

    Every attention module gets a ``GainCellAttention`` named ``gain_cell``: per-layer, per-head gains and
    offsets for q, k, v and the output, as parameters in float32 (float64 if the model is). The design's
    token period becomes that of the model's number of layers unless the design states one. The cache of
    keys and values keeps the float projections; arrays are filled from it.

    Args:
        model: a decoder of transformers with plain causal self-attention.
        design: the chip.
        impl: implementation of the arrays: "auto", "native", "blocked", "triton" or "naive".
        gradient: derivative of the cells in the backward pass: "exact" or "surrogate".
        attention: "gain-cell", or "softmax": the model's own attention computed through the same masks,
            checks and functions, to compare with.

    Returns:
        ``model``; ``attached_layers(model)`` lists what was changed.

    Raises:
        ModelError: the model has features that are not modelled (named), or is attached already.
        InputError: ``attention`` is none of the two.

    Not modelled: dropout of attention weights. `gaincell.training.loop.train` trains without any dropout.
    """
    _implementation(attention)
    if _owner(model) is not None:
        raise ModelError(
            f"{type(model).__name__} is attached already: use set_design(model, design) to exchange the "
            "design, or detach(model) first"
        )
    modules = attention_modules(model)
    design = design.replace(layers=len(modules))
    for module in modules.values():
        size = geometry(module)
        weight = next(module.parameters())
        module.gain_cell = GainCellAttention(
            design,
            size.heads,
            size.kv_heads,
            size.head_dim,
            layer=_layer_index(module),
            impl=impl,
            gradient=gradient,
            dtype=torch.float32 if weight.device.type == "mps" else torch.float64,
            device=weight.device,
        )
        module.gain_cell.train(module.training)
    interface.register()
    guard = model.base_model.register_forward_pre_hook(interface.refuse_call, with_kwargs=True)
    setattr(model, _RECORD, _Attachment(model.config._attn_implementation, guard))
    try:
        set_attention(model, attention)
    except BaseException:
        detach(model)
        raise
    return model


def detach(model: AnyModel) -> AnyModel:
    """Remove gains, offsets and arrays: ``model`` is again what it was before ``attach``, bit for bit.

    Raises:
        ModelError: the model is not attached.
    """
    owner = _require_owner(model)
    attachment: _Attachment = getattr(owner, _RECORD)
    attachment.guard.remove()
    for module in _carriers(owner):
        del module.gain_cell
    delattr(owner, _RECORD)
    owner.set_attn_implementation(attachment.implementation)
    return model


def attached_layers(model: nn.Module) -> list[GainCellAttention]:
    """The gain-cell modules of ``model`` in the order of its layers; empty if it is not attached.

    ``model`` may be wrapped (by peft, by a data-parallel module).
    """
    cells = [module.gain_cell for module in _carriers(model)]
    return sorted(cells, key=lambda cell: cell.layer)


def set_design(model: AnyModel, design: Design) -> AnyModel:
    """Exchange the design (the cell, say) of an attached model; gains, offsets and weights stay.

    Raises:
        ModelError: the model is not attached.
    """
    _require_owner(model)
    cells = attached_layers(model)
    design = design.replace(layers=len(cells))
    for cell in cells:
        cell.design = design
    return model


def set_attention(model: AnyModel, attention: Literal["gain-cell", "softmax"]) -> AnyModel:
    """Switch an attached model between its arrays and its own softmax attention; see ``attach``.

    Raises:
        ModelError: the model is not attached.
        InputError: ``attention`` is none of the two.
    """
    wanted = _implementation(attention)
    owner = _require_owner(model)
    owner.set_attn_implementation(wanted)
    wrong = {module.config._attn_implementation for module in _carriers(owner)} - {wanted}
    if wrong:
        raise ModelError(
            f"{type(owner).__name__} did not accept another attention implementation (still {wrong.pop()!r})"
        )
    return model


def _implementation(attention: str) -> str:
    names = {"gain-cell": interface.GAIN_CELL, "softmax": interface.SOFTMAX}
    if attention not in names:
        raise InputError(f"attention is {attention!r}; allowed: {', '.join(map(repr, names))}")
    return names[attention]


def _carriers(model: nn.Module) -> list[Any]:
    """Attention modules that have gain-cell arrays."""
    return [
        module
        for module in model.modules()
        if isinstance(getattr(module, "gain_cell", None), GainCellAttention)
    ]


def _owner(model: nn.Module) -> PreTrainedModel | None:
    """The transformers model that was attached: ``model`` itself or one inside it."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and _RECORD in module.__dict__:
            return module
    return None


def _require_owner(model: nn.Module) -> PreTrainedModel:
    owner = _owner(model)
    if owner is None:
        raise ModelError(f"{type(model).__name__} is not attached: call gaincell.attach(model, design) first")
    return owner


def _layer_index(module: nn.Module) -> int:
    index = module.layer_idx
    assert isinstance(index, int), "attention_modules() lets no module without a layer index pass"
    return index
