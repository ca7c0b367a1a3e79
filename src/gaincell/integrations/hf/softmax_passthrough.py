"""Looking at the arrays of every layer while the model computes what it computed with softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.integrations.hf.attach import (
    Attention,
    attached_layers,
    computed_attention,
    not_yet_calibrated,
    set_attention,
)
from gaincell.integrations.hf.interface import THREAD

See = Callable[[int, Any, tuple[Any, ...], Tensor], None]
"""Called with the number of a layer, its GainCellAttention, what that was called with, and the output of
softmax attention [B, H, T, D].
"""


@contextmanager
def softmax_passthrough(model: PreTrainedModel, see: See) -> Iterator[None]:
    """Within the context every layer of an attached model passes on the softmax attention of its q, k and v,
    once `see` has looked at it, so that the next one sees what it sees in the softmax model.

    The arrays are computed all the same, and what they give is dropped. For texts without padding.
    """

    def replace(layer: int, attention: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        softmax: Tensor = attention.softmax(*inputs[:3], inputs[3:], THREAD.scaling)
        see(layer, attention, inputs, softmax)
        return softmax.to(output.dtype)

    with ExitStack() as hooks:
        hooks.enter_context(not_yet_calibrated(model))
        for layer, attention in enumerate(attached_layers(model)):
            hooks.callback(attention.register_forward_hook(partial(replace, layer)).remove)
        yield


@torch.no_grad()
def pass_through(model: PreTrainedModel, ids: Int[Tensor, "B T"], attention: Attention) -> None:
    """Pass some text without padding through an attached model, which is then as it was."""
    with ExitStack() as after:
        after.callback(set_attention, model, computed_attention(model))
        after.callback(model.train, model.training)
        set_attention(model, attention)
        model.eval()
        model.base_model(input_ids=ids.to(next(model.parameters()).device, torch.long), use_cache=False)


def observe_softmax(model: PreTrainedModel, ids: Int[Tensor, "B T"], see: See) -> None:
    """`pass_through` the arrays, with softmax passed on."""
    with softmax_passthrough(model, see):
        pass_through(model, ids, "gain-cell")
