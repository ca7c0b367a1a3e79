"""Looking at the arrays of every layer while the model computes what it computed with softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.integrations.hf.attach import computes_softmax, not_yet_calibrated, set_attention
from gaincell.integrations.hf.interface import arrays_of
from gaincell.integrations.hf.support import attention_modules
from gaincell.nn.softmax import softmax_attention

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

    def watch(layer: int, scaling: float) -> Any:
        def replace(attention: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            q, k, v, _, _, window = inputs
            softmax = softmax_attention(q, k, v, scaling, window)
            see(layer, attention, inputs, softmax)
            return softmax.to(output.dtype)

        return replace

    modules: list[Any] = list(attention_modules(model).values())
    with ExitStack() as hooks:
        hooks.enter_context(not_yet_calibrated(model))
        for layer, module in enumerate(modules):
            attention: Any = arrays_of(module)
            scaling = getattr(module, "scaling", attention.head_dim**-0.5)
            hooks.callback(attention.register_forward_hook(watch(layer, scaling)).remove)
        yield


@torch.no_grad()
def observe_softmax(model: PreTrainedModel, ids: Int[Tensor, "B T"], see: See) -> None:
    """Pass some text without padding through an attached model, with softmax passed on; the model is then as
    it was.
    """
    attention = "softmax" if computes_softmax(model) else "gain-cell"
    with ExitStack() as hooks:
        hooks.enter_context(softmax_passthrough(model, see))
        hooks.callback(set_attention, model, attention)  # type: ignore[arg-type]
        hooks.callback(model.train, model.training)
        set_attention(model, "gain-cell")
        model.eval()
        model.base_model(input_ids=ids.to(next(model.parameters()).device, torch.long), use_cache=False)
