"""What the digital scaling of an attached model can have beside a gain and an offset per head.

    biases      a vector per head behind the arrays (a bias of o_proj) and in front of the values (of v_proj):
                no hardware, whether or not the pretrained model has such biases
    exponents   gains of q and of the output times (n / 1024)^g for a query that reads n columns, g per head
                (nn/scaler.py): a table or an exponential in the digital block (costs/digital.py)

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

EXPONENTS = ("q.exponent", "out.exponent")
"""Names of a layer's exponents."""


def add_biases(model: PreTrainedModel) -> None:
    """Give every head of an attached model its bias vectors, all zero, in place.

    Raises:
        ModelError: the model is not attached, or has biases already.
    """
    weight = next(model.parameters())
    for cell in _cells_without(model, "biases", has_biases(model)):
        cell.add_biases(torch.promote_types(weight.dtype, torch.float32))


def has_biases(model: nn.Module) -> bool:
    """Whether the heads of a model have bias vectors."""
    return any(cell.output_bias is not None for cell in attached_layers(model))


def add_exponents(model: PreTrainedModel) -> None:
    """Give every head of an attached model its exponents, all zero, in place.

    Raises:
        ModelError: the model is not attached, or has exponents already.
    """
    for cell in _cells_without(model, "exponents", has_exponents(model)):
        cell.add_exponents()


def has_exponents(model: nn.Module) -> bool:
    """Whether gains of a model follow the number of columns read."""
    return any(cell.q.exponent is not None for cell in attached_layers(model))


def _cells_without(model: PreTrainedModel, what: str, there: bool) -> list[GainCellAttention]:
    cells = attached_layers(model)
    if not cells:
        raise ModelError(f"{type(model).__name__} is not attached: call gaincell.attach(model, design) first")
    if there:
        raise ModelError(f"{type(model).__name__} has {what} already; they are added once")
    return cells


def hold_digital_scaling(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Give an attached model the biases and exponents that are among the names of stored tensors, in place.

    Raises:
        RunError: some layers have them there and others have not.
    """
    stored = set(names)
    cells = [name for name, module in model.named_modules() if isinstance(module, GainCellAttention)]
    for what, ends, there, add in (
        ("biases", BIASES, has_biases, add_biases),
        ("exponents", EXPONENTS, has_exponents, add_exponents),
    ):
        found = {name for name in stored if name.endswith(tuple(f".gain_cell.{end}" for end in ends))}
        odd = found ^ {f"{cell}.{end}" for cell in cells for end in ends}
        if found and odd:
            raise RunError(f"{what} are not those of this model: {min(odd)} is in one only")
        if found and not there(model):
            add(model)
