"""What the heads of an attached model can have beside a gain and an offset: all of them, or none.

    biases      a vector per head after the arrays (a bias of o_proj) and in front of the values (of v_proj):
                no hardware, whether or not the pretrained model has such biases
    exponents   gains of q and of the output times (n / 1024)^g for a query that reads n columns, g per head
                (nn/scaler.py): a table or an exponential in the digital block (costs/digital.py)
    rotated values  the Walsh-Hadamard transform of all components of the values, and of the outputs back
                (nn/value_rotation.py): no hardware, as it goes into v_proj and o_proj
    array normalisers  a row of the value arrays that counts what was attended to, and a division by it
                (nn/array_normaliser.py)
    balanced rows  a row of the key arrays that makes the sum over all rows the same for every key
                (nn/balanced_rows.py), and matrices for q and k
    paired rows numbers of components, which are no parameters (paired.py)
    mixing      matrices, which a model without them takes into its weights (mixing.py)

All stand in the layer's `GainCellAttention`: saved beside its gains and offsets, gone with them in `detach`,
and, but for mixing, without effect on softmax attention. Whatever saves, loads, trains or prices a model asks
PARTS, mostly by the names of tensors. A new part is one `Part` (part.py) in PARTS, its key in a recipe
(mapping/recipe.py), and where it costs something a field of `ModelSize` (costs/size.py).

The normaliser gives up one direction u of the values of a key/value head: the one in which the outputs Y_h of
its group vary least, the last eigenvector of sum_h cov(Y_h). The output's bias returns u (u . mean Y_h).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import product
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.errors import ModelError, RunError
from gaincell.integrations.hf import mixing, paired
from gaincell.integrations.hf.attach import required_layers
from gaincell.integrations.hf.part import Part
from gaincell.integrations.hf.softmax_passthrough import See, observe_softmax
from gaincell.nn.array_normaliser import NORMALISER
from gaincell.nn.attention import BIASES, EXPONENTS, GainCellAttention
from gaincell.nn.balanced_rows import BALANCE, DIRECTIONS, fit
from gaincell.nn.checks import check_unsigned
from gaincell.nn.value_rotation import ROTATION

ROW_INDEX, MIX = paired.ROW_INDEX, mixing.MIX
"""In the names of tensors of paired rows and of mixing."""


def has_part(model: nn.Module, part: str) -> bool:
    """Whether the heads of a model have one of PARTS."""
    return PARTS[part].is_in(model)


@torch.no_grad()
def add_part(model: PreTrainedModel, part: str, ids: Int[Tensor, "B T"] | None = None) -> None:
    """Give every head of an attached model one of PARTS, in place; biases and exponents are zero.

    Args:
        model: Attached; where there are `ids`, with the weights of the softmax model.
        part: One of PARTS.
        ids: Some text without padding, by which every key/value head's direction that a normaliser gives up
            is chosen, whose mean is put into the output's bias, and to which what balanced rows stretch is
            fitted; by its first sequence rows are paired and mixing is turned, this not where rows are paired
            or balanced. None: the last component is given up as it is, and nothing is stretched or turned.

    Raises:
        ModelError: the model is not attached or has the part already. For array normalisers: it has no
            biases, or its design a normalising column. For rotated values: it has no biases, or array
            normalisers already, or D is no power of two. For balanced rows: it has paired rows, its design's
            queries have a sign or no full pulses, or D is no power of two. For paired rows: there are no
            `ids`, or see `pair_rows`. For mixing: see `add_mixing`.
    """
    required_layers(model)
    if has_part(model, part):
        raise ModelError(f"{type(model).__name__} has {part} already; they are added once")
    PARTS[part].add(model, ids)


def _in_layers(
    add: Callable[[GainCellAttention], None], fit_layer: See | None = None
) -> Callable[[PreTrainedModel, Tensor | None], None]:
    """Gives a part to every layer, and fits it layer by layer where there is a text."""

    def add_to(model: PreTrainedModel, ids: Tensor | None) -> None:
        for cell in required_layers(model):
            add(cell)
        if ids is not None and fit_layer is not None:
            observe_softmax(model, ids, fit_layer)

    return add_to


def _add_biases(model: PreTrainedModel, ids: Tensor | None) -> None:
    dtype = torch.promote_types(next(model.parameters()).dtype, torch.float32)
    for cell in required_layers(model):
        cell.add_biases(dtype)


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


PARTS = {
    part.name: part
    for part in (
        paired.PART,
        Part(
            "balanced rows",
            "balanced",
            BALANCE,
            _in_layers(GainCellAttention.balance_rows, _fit_rows),
            check_chip=partial(check_unsigned, balanced=True),
            rates=dict.fromkeys(BALANCE[2:], "turn_learning_rate"),
            decayed=(),
            costs={"balanced_rows": DIRECTIONS},
        ),
        mixing.PART,
        Part(
            "biases",
            "biases",
            BIASES,
            _add_biases,
            rates=dict.fromkeys(BIASES, "bias_learning_rate"),
            decayed=("all",),
        ),
        Part(
            "exponents",
            "exponents",
            EXPONENTS,
            _in_layers(GainCellAttention.add_exponents),
            rates=dict.fromkeys(EXPONENTS, "exponent_learning_rate"),
            decayed=("all",),
            costs={"column_gains": True},
        ),
        Part(
            "rotated values",
            "rotated_values",
            ROTATION,
            _in_layers(GainCellAttention.rotate_values),
            has_indices=True,
            needs_biases="takes the place of the outputs' offset",
        ),
        Part(
            "array normalisers",
            "array_normaliser",
            NORMALISER,
            _in_layers(GainCellAttention.add_normaliser, _choose_direction),
            directions=NORMALISER[:1],
            needs_biases="returns the mean of what it drops",
            rates={NORMALISER[0]: "mixing_learning_rate"},
            decayed=(),
            costs={"array_normaliser": True},
        ),
    )
}
"""By name, in the order in which a model gets them."""
NO_PART = Part("", "", (), lambda model, ids: None)
"""Of gains, offsets and whatever else is none."""


def part_of(name: str) -> Part:
    """The part of which a tensor is, by its name in a model, else NO_PART."""
    return next((part for part in PARTS.values() if part.owns(name)), NO_PART)


def parts_among(names: Collection[str]) -> list[Part]:
    """The parts of which some tensors are."""
    return [part for part in PARTS.values() if any(map(part.owns, names))]


def is_trained(name: str) -> bool:
    """Whether a tensor is a trained matrix that a model without it takes into its weights."""
    return part_of(name).fold is not None


def is_index(name: str) -> bool:
    """Whether a tensor holds numbers of components, not numbers that are trained."""
    return part_of(name).has_indices


def is_copy(name: str) -> bool:
    """Whether a tensor is what queries have of an index, so that no file of ours needs it."""
    return name.endswith(tuple(f".{copy}" for part in PARTS.values() for copy in part.copies))


def indices(model: nn.Module) -> dict[str, Tensor]:
    """Those of a model, by name."""
    return {name: buffer for name, buffer in model.named_buffers() if is_index(name)}


def add_stored_parts(model: PreTrainedModel, tensors: Mapping[str, Tensor | None]) -> None:
    """Give an attached model the parts among stored tensors, in place, without those that `fold` takes.
    Values of parameters come later, those of indices where they are None.

    Raises:
        RunError: they are not for this model, or some layers have them there and others have not.
        ModelError: rows are paired, and the design has queries with a sign.
    """
    cells = {name: module for name, module in model.named_modules() if isinstance(module, GainCellAttention)}
    for part in parts_among(tensors):
        if part.fold is not None:
            continue
        odd = set(filter(part.owns, tensors)) ^ {f"{cell}.{end}" for cell in cells for end in part.tensors}
        if odd:
            raise RunError(f"{part.name} are not those of this model: {min(odd)} is in one only")
        if part.restore is not None:
            for cell, end in product(cells, part.tensors):
                part.restore(cells[cell], f"{cell}.{end}", tensors[f"{cell}.{end}"])
        elif not part.is_in(model):
            add_part(model, part.name)


def is_mixed(model: nn.Module) -> bool:
    """Whether a model has matrices that are not in its weights."""
    return any(is_trained(name) for name, _ in model.named_parameters())


def identity(model: nn.Module) -> dict[str, Any]:
    """What a checkpoint of a training states of the model, beside its parameters."""
    found = indices(model)
    return {
        part.name: {n: found[n].tolist() for n in found if part.owns(n)} if part.restore else True
        for part in parts_among(found)
    }
