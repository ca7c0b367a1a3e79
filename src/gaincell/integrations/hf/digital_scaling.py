"""What the digital scaling of an attached model can have beside a gain and an offset per head.

    biases      a vector per head behind the arrays (a bias of o_proj) and in front of the values (of v_proj):
                no hardware, whether or not the pretrained model has such biases

They are parameters of the layer's `GainCellAttention`: saved beside its gains and offsets, gone with them in
`detach`, and without effect on softmax attention. A model has them in all layers or in none.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel

from gaincell.errors import ModelError, RunError
from gaincell.integrations.hf.attach import attached_layers
from gaincell.nn.attention import BIASES, GainCellAttention


def add_biases(model: PreTrainedModel) -> None:
    """Give every head of an attached model its bias vectors, all zero, in place.

    Raises:
        ModelError: the model is not attached, or has biases already.
    """
    cells = attached_layers(model)
    if not cells:
        raise ModelError(f"{type(model).__name__} is not attached: call gaincell.attach(model, design) first")
    if has_biases(model):
        raise ModelError(f"{type(model).__name__} has biases already; they are added once")
    weight = next(model.parameters())
    for cell in cells:
        cell.add_biases(torch.promote_types(weight.dtype, torch.float32))


def has_biases(model: nn.Module) -> bool:
    """Whether the heads of a model have bias vectors."""
    return any(cell.output_bias is not None for cell in attached_layers(model))


def hold_digital_scaling(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Give an attached model the biases that are among the names of stored tensors, in place.

    Raises:
        RunError: some layers have them there and others have not.
    """
    found = {name for name in names if name.endswith(tuple(f".{bias}" for bias in BIASES))}
    if not found:
        return
    cells = [name for name, module in model.named_modules() if isinstance(module, GainCellAttention)]
    odd = found ^ {f"{cell}.{bias}" for cell in cells for bias in BIASES}
    if odd:
        raise RunError(f"biases are not those of this model: {min(odd)} is in one only")
    if not has_biases(model):
        add_biases(model)
