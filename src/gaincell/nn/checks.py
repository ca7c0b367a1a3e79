"""What the layers of a model are checked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from gaincell.chips.design import Design
from gaincell.errors import InputError, ModelError
from gaincell.ops.gain_cell_attention import BACKENDS, GRADIENTS

if TYPE_CHECKING:
    from gaincell.nn.attention import GainCellAttention


def check_unsigned(design: Design, balanced: bool = False) -> None:
    """Refuse a chip whose queries have a sign; for balanced rows also one that gives no full pulses, with
    which their last row is reckoned.

    Raises:
        ModelError: it is such a chip.
    """
    if design.drivers.signed:
        raise ModelError(
            f"the queries of {design.name} have a sign; paired and balanced rows are for those without"
        )
    longest = design.levels.query[-1] if design.levels.query else 1.0
    if balanced and longest < 1:
        raise ModelError(
            f"the longest pulse of {design.name} (levels.query) is {longest:g} of a full one; balanced rows "
            "need full pulses for their last row: give levels that end at 1"
        )


def check_names(backend: str, gradient: str) -> None:
    """Refuse an implementation or a gradient that there is not.

    Raises:
        InputError: there is no such one.
    """
    for name, given, allowed in (("backend", backend, BACKENDS), ("gradient", gradient, GRADIENTS)):
        if given not in allowed:
            raise InputError(f"{name} is {given!r}; choose one of {', '.join(allowed)}")


def common_design(layers: Sequence[GainCellAttention]) -> Design:
    """The design of all layers.

    Raises:
        ModelError: they have different ones.
    """
    design = layers[0].design
    if any(layer.design != design for layer in layers):
        raise ModelError("the layers have different designs; use set_design(model, design)")
    return design


def check_precision(layers: Sequence[GainCellAttention], where: str) -> None:
    """Refuse gains and offsets in 16 bits: `model.bfloat16()` and the like cast them too.

    Raises:
        ModelError: they are in 16 bits; begins with `where`.
    """
    found = next((c.q.gain.dtype for c in layers if c.q.gain.dtype.itemsize < torch.float32.itemsize), None)
    if found is not None:
        raise ModelError(
            f"{where}: gains and offsets were cast to {found}, too coarse for the write DAC; convert the "
            f"model before attach, or load it with dtype={found}: they then stay in float64"
        )
