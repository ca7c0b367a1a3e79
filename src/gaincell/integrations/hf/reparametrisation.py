"""What the heads of an attached model can have beside a gain and an offset: all of them, or none.

    biases      a vector per head after the arrays (a bias of o_proj) and in front of the values (of v_proj):
                no hardware, whether or not the pretrained model has such biases
    exponents   gains of q and of the output times (n / 1024)^g for a query that reads n columns, g per head
                (nn/scaler.py): a table or an exponential in the digital block (costs/digital.py)
    rotated values  the Walsh-Hadamard transform of all components of the values, and of the outputs back
                (nn/value_rotation.py): no hardware, as it goes into v_proj and o_proj
    normaliser  a row of the value arrays that counts what was attended to, and a division by it
                (nn/array_normaliser.py)
    balance     a row of the key arrays that makes the sum over all rows the same for every key
                (nn/balanced_rows.py), and matrices for q and k
    paired rows numbers of components, which are no parameters (paired.py)
    mixing      matrices, which a model without them takes into its weights (mixing.py)

All stand in the layer's `GainCellAttention`: saved beside its gains and offsets, gone with them in `detach`,
and, but for mixing, without effect on softmax attention. Whatever saves, loads or trains a model asks here,
by the names of tensors.

The normaliser gives up one direction u of the values of a key/value head: the one in which the outputs Y_h of
its group vary least, the last eigenvector of sum_h cov(Y_h). The output's bias returns u (u . mean Y_h).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.errors import ModelError, RunError
from gaincell.integrations.hf.attach import attached_layers, required_layers
from gaincell.integrations.hf.softmax_passthrough import observe_softmax
from gaincell.nn.array_normaliser import NORMALISER
from gaincell.nn.attention import BIASES, EXPONENTS, GainCellAttention
from gaincell.nn.balanced_rows import BALANCE, fit
from gaincell.nn.value_rotation import ROTATION

ROW_INDEX = ".k.kept"
"""End of the name of a layer's row index: components, for every key/value head; its queries have the same."""
PARTS = {
    "biases": BIASES,
    "exponents": EXPONENTS,
    "rotated values": ROTATION,
    "array normalisers": NORMALISER,
    "balanced rows": BALANCE,
    "paired rows": (ROW_INDEX[1:],),
}
"""Names of their tensors in a layer's `GainCellAttention`."""
MIX = ".gain_cell.mix_"
"""In the name of a layer's matrices, before the q or k of their projection."""


def has_part(model: nn.Module, part: str) -> bool:
    """Whether the heads of a model have one of PARTS."""
    return any(PARTS[part][0] in cell.state_dict() for cell in attached_layers(model))


@torch.no_grad()
def add_part(model: PreTrainedModel, part: str, ids: Int[Tensor, "B T"] | None = None) -> None:
    """Give every head of an attached model one of PARTS, in place; biases and exponents are zero. (For paired
    rows, which are chosen, see paired.py.)

    Args:
        model: attached; where there are `ids`, with the weights of the softmax model.
        part: one of PARTS.
        ids: some text without padding, by which every key/value head's direction that a normaliser gives up
            is chosen, whose mean is put into the output's bias, and to which what balanced rows stretch is
            fitted. None: the last component is given up as it is, and nothing is stretched.

    Raises:
        ModelError: the model is not attached or has the part already. For array normalisers: it has no
            biases, or its design a normalising column. For rotated values: it has no biases, or array
            normalisers already, or D is no power of two. For balanced rows: it has paired rows, its design's
            queries have a sign or no full pulses, or D is no power of two. The part is paired rows.
    """
    cells = required_layers(model)
    if part == "paired rows":
        raise ModelError("paired rows are chosen by a text: call pair_rows(model, ids) of paired.py")
    if has_part(model, part):
        raise ModelError(f"{type(model).__name__} has {part} already; they are added once")
    weight = next(model.parameters())
    for cell in cells:
        if part == "biases":
            cell.add_biases(torch.promote_types(weight.dtype, torch.float32))
        elif part == "exponents":
            cell.add_exponents()
        elif part == "rotated values":
            cell.rotate_values()
        elif part == "balanced rows":
            cell.balance_rows()
        else:
            cell.add_normaliser()
    choose = {"array normalisers": _choose_direction, "balanced rows": _fit_rows}.get(part)
    if ids is not None and choose is not None:
        observe_softmax(model, ids, choose)


def _fit_rows(layer: int, attention: GainCellAttention, inputs: tuple[Any, ...], softmax: Tensor) -> None:
    q, k = inputs[:2]
    groups = q.transpose(0, 1).flatten(1, 2).unflatten(0, (attention.kv_heads, -1))  # [Hk, g, tokens, D]
    found = [fit(of, keys) for of, keys in zip(groups, k.transpose(0, 1).flatten(1, 2), strict=True)]
    for stage, turns in zip((attention.q, attention.k), zip(*found, strict=True), strict=True):
        for held, of in zip((stage.turn_in, stage.turn_out), zip(*turns, strict=True), strict=True):
            assert held is not None
            held.copy_(torch.stack(of).repeat_interleave(len(held) // len(of), 0))


def _choose_direction(
    layer: int, attention: GainCellAttention, inputs: tuple[Any, ...], softmax: Tensor
) -> None:
    assert attention.normaliser is not None
    assert attention.output_bias is not None
    heads = softmax.double().transpose(0, 1).flatten(1, 2)  # [H, tokens, D]
    mean = heads.mean(1)
    apart = (heads - mean[:, None]).unflatten(0, (attention.kv_heads, -1)).flatten(1, 2)
    lost = torch.linalg.eigh(apart.mT @ apart).eigenvectors[..., 0]  # [Hk, D], of the smallest
    attention.normaliser.give_up(lost if attention.rotation is None else attention.rotation(lost))
    lost = lost.repeat_interleave(attention.heads // attention.kv_heads, 0)
    attention.output_bias.add_((mean * lost).sum(-1, keepdim=True) * lost)


def is_trained(name: str) -> bool:
    """Whether a tensor is a trained matrix that a model without it takes into its weights."""
    return MIX in name


def is_index(name: str) -> bool:
    """Whether a tensor holds numbers of components, not numbers that are trained."""
    return ".gain_cell." in name and name.endswith((ROW_INDEX, *ROTATION))


def indices(model: nn.Module) -> dict[str, Tensor]:
    """Those of a model, by name."""
    return {name: buffer for name, buffer in model.named_buffers() if is_index(name)}


def is_copy(name: str) -> bool:
    """Whether a tensor is what queries have of an index, so that no file of ours needs it."""
    return name.endswith(".q.kept")


def add_stored_parts(model: PreTrainedModel, tensors: Mapping[str, Tensor | None]) -> None:
    """Give an attached model the biases, exponents, rotated values, normalisers, paired and balanced rows
    among stored tensors, in place. Values of parameters come later, those of indices where they are None.

    Raises:
        RunError: they are not for this model, or some layers have them there and others have not.
        ModelError: rows are paired, and the design has queries with a sign.
    """
    cells = {name: module for name, module in model.named_modules() if isinstance(module, GainCellAttention)}
    for what, ends in PARTS.items():
        found = {n for n in tensors if ".gain_cell." in n and n.endswith(tuple(f".{end}" for end in ends))}
        odd = found ^ {f"{cell}.{end}" for cell in cells for end in ends}
        if found and odd:
            raise RunError(f"{what} are not those of this model: {min(odd)} is in one only")
        if found and what == "paired rows":
            for name, cell in cells.items():
                _pair(cell, name + ROW_INDEX, tensors[name + ROW_INDEX])
        elif found and not has_part(model, what):
            add_part(model, what)


def _pair(cell: GainCellAttention, name: str, row_index: Tensor | None) -> None:
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


def is_mixed(model: nn.Module) -> bool:
    """Whether a model has matrices that are not in its weights."""
    return any(is_trained(name) for name, _ in model.named_parameters())


def identity(model: nn.Module) -> dict[str, Any]:
    """What a checkpoint of a training states of the model, beside its parameters."""
    rows = {name: index.tolist() for name, index in indices(model).items() if name.endswith(ROW_INDEX)}
    found: dict[str, Any] = {"paired rows": rows} if rows else {}
    return found | ({"rotated values": True} if has_part(model, "rotated values") else {})
