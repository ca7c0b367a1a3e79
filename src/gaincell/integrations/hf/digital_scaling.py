"""What the digital scaling of an attached model can have beside a gain and an offset per head.

    biases      a vector per head behind the arrays (a bias of o_proj) and in front of the values (of v_proj):
                no hardware, whether or not the pretrained model has such biases
    exponents   gains of q and of the output times (n / 1024)^g for a query that reads n columns, g per head
                (nn/scaler.py): a table or an exponential in the digital block (costs/digital.py)
    normaliser  a row of the value arrays that counts what was attended to, and a division by it
                (nn/array_normaliser.py)

They are parameters of the layer's `GainCellAttention`: saved beside its gains and offsets, gone with them in
`detach`, and without effect on softmax attention. A model has them in all layers or in none.

The normaliser gives up one direction u of the values of a key/value head: the one in which the outputs Y_h of
its group vary least, the last eigenvector of sum_h cov(Y_h). The output's bias returns u (u . mean Y_h).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.errors import ModelError, RunError
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.softmax_passthrough import observe_softmax
from gaincell.nn.array_normaliser import NORMALISER
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


@torch.no_grad()
def add_array_normaliser(model: PreTrainedModel, ids: Int[Tensor, "B T"] | None = None) -> None:
    """Give every head of an attached model a normaliser inside its arrays, in place.

    Args:
        model: with biases; where there are `ids`, with the weights of the softmax model.
        ids: some text without padding, by which every key/value head's direction is chosen, and its mean is
            put into the output's bias. None: the last component is given up as it is.

    Raises:
        ModelError: the model is not attached, has no biases or has normalisers already, or its design has a
            normalising column.
    """
    for cell in _cells_without(model, "array normalisers", has_array_normaliser(model)):
        cell.add_normaliser()
    if ids is not None:
        observe_softmax(model, ids, _choose_direction)


def has_array_normaliser(model: nn.Module) -> bool:
    """Whether a row of the value arrays of a model is its normaliser."""
    return any(cell.normaliser is not None for cell in attached_layers(model))


def _choose_direction(
    layer: int, attention: GainCellAttention, inputs: tuple[Any, ...], softmax: Tensor
) -> None:
    assert attention.normaliser is not None
    assert attention.output_bias is not None
    heads = softmax.double().transpose(0, 1).flatten(1, 2)  # [H, tokens, D]
    mean = heads.mean(1)
    apart = (heads - mean[:, None]).unflatten(0, (attention.kv_heads, -1)).flatten(1, 2)
    lost = torch.linalg.eigh(apart.mT @ apart).eigenvectors[..., 0]  # [Hk, D], of the smallest
    attention.normaliser.give_up(lost)
    lost = lost.repeat_interleave(attention.heads // attention.kv_heads, 0)
    attention.output_bias.add_((mean * lost).sum(-1, keepdim=True) * lost)


def _cells_without(model: PreTrainedModel, what: str, there: bool) -> list[GainCellAttention]:
    cells = attached_layers(model)
    if not cells:
        raise ModelError(f"{type(model).__name__} is not attached: call gaincell.attach(model, design) first")
    if there:
        raise ModelError(f"{type(model).__name__} has {what} already; they are added once")
    return cells


def hold_digital_scaling(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Give an attached model the biases, exponents and normalisers that are among the names of stored
    tensors, in place.

    Raises:
        RunError: some layers have them there and others have not.
    """
    stored = set(names)
    cells = [name for name, module in model.named_modules() if isinstance(module, GainCellAttention)]
    kinds: tuple[tuple[str, tuple[str, ...], Callable[..., bool], Callable[..., None]], ...] = (
        ("biases", BIASES, has_biases, add_biases),
        ("exponents", EXPONENTS, has_exponents, add_exponents),
        ("array normalisers", NORMALISER, has_array_normaliser, add_array_normaliser),
    )
    for what, ends, there, add in kinds:
        found = {name for name in stored if name.endswith(tuple(f".gain_cell.{end}" for end in ends))}
        odd = found ^ {f"{cell}.{end}" for cell in cells for end in ends}
        if found and odd:
            raise RunError(f"{what} are not those of this model: {min(odd)} is in one only")
        if found and not there(model):
            add(model)
