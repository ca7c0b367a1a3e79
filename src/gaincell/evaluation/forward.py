"""Forward passes without logits, and what the scalers of the arrays see meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gaincell.nn.attention import GainCellAttention
from gaincell.nn.scaler import STAGES

Seen = Callable[[GainCellAttention, str, Tensor, Tensor], None]
"""Called with layer, stage, input and output of its scaler."""


def forward(model: nn.Module, ids: Int[Tensor, "B T"], **padding: Tensor) -> None:
    """Let a model read token ids, in evaluation mode, without cache and logits."""
    model.eval()
    device = next(model.parameters()).device
    getattr(model, "base_model", model)(input_ids=ids.to(device, torch.long), use_cache=False, **padding)


@contextmanager
def watch_stages(
    layers: Iterable[GainCellAttention], seen: Seen, stages: Iterable[str] = STAGES
) -> Iterator[None]:
    """Within the context `seen` is called for every stage of every layer that computes."""

    def hook(layer: GainCellAttention, stage: str, _: Any, inputs: Any, output: Tensor) -> None:
        seen(layer, stage, inputs[0], output)

    with ExitStack() as hooks:
        for layer, stage in product(layers, stages):
            hooks.enter_context(getattr(layer, stage).register_forward_hook(partial(hook, layer, stage)))
        yield
