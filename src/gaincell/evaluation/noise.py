"""Draws of noise in an evaluation.

Noise of reads and writes is drawn from its seed, the number of the chip, the token's position, head and row.
So all blocks (items, documents) of one evaluation meet one draw, and a spread over them holds nothing of the
noise; a spread over chips does. An evaluation says so in its protocol, or draws anew for every block
(`redrawn`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from gaincell.chips.design import Design
from gaincell.errors import InputError
from gaincell.integrations.hf.attach import attached_layers, computes_softmax, computing_layers


def noise_remark(arrays: nn.Module | Design, *, redraw: bool = False, chips: bool = False) -> str:
    """Which noise the parts of an evaluation met, or that no arrays computed; empty without noise.

    Args:
        arrays: The model, or the design of all of its arrays.
        redraw: For every block.
        chips: It was on many.
    """
    if isinstance(arrays, nn.Module) and computes_softmax(arrays):
        return "; softmax attention: no arrays computed"
    designs = [arrays] if isinstance(arrays, Design) else [layer.design for layer in attached_layers(arrays)]
    if not any(design.drawn("operation") for design in designs):
        return ""
    if redraw:
        return "; noise is redrawn for every block"
    if chips:
        return (
            "; each chip meets a draw of noise of its own, which the spread over chips holds; that of the "
            "nominal one is in no ± or interval"
        )
    return "; everything meets one draw of noise, whose variance is in no ± or interval"


@contextmanager
def redrawn(model: nn.Module, draw: int) -> Iterator[None]:
    """Within the context the arrays of a model have another draw of noise; 0 is the design's own.

    Raises:
        InputError: there is no noise to draw.
        ModelError: the model is set to softmax attention.
    """
    own = {layer: layer.design for layer in computing_layers(model)}
    if not any(design.drawn("operation") for design in own.values()):
        raise InputError(
            "the design has no noise to redraw; give a RUN whose design has [noise] or [writing]"
        )
    try:
        for layer, design in own.items():
            layer.design = design.redrawn(draw)
        yield
    finally:
        for layer, design in own.items():
            layer.design = design
