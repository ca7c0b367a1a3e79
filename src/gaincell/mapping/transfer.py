"""Attention transfer: every layer's arrays learn what softmax attention does there.

Teacher and student are the same pretrained model, the teacher with softmax, the student with arrays. The
student's attention of each layer is given the teacher's own hidden states, and its output Y' is compared
with the teacher's Y:

    loss = mean over layers of  mean (Y' - Y)^2 / mean Y^2

Layers do not see each other's errors, so all learn at once, from the first step (the idea is LoLCATs').
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.adaptation.statistics import backbone
from gaincell.integrations.hf.support import attention_modules
from gaincell.training.loss_name import LossName


class AttentionTransfer:
    """The loss of attention transfer, for `gaincell.training.loop.train(..., loss_of=...)`.

    Args:
        teacher: an attached model with `attention="softmax"` and the pretrained weights.
    """

    loss_name = LossName("attention transfer", "relative squared error")

    def __init__(self, teacher: PreTrainedModel) -> None:
        teacher.train(False)
        self._teacher = teacher.requires_grad_(False)

    def __call__(self, model: nn.Module, tokens: Int[Tensor, "B T_plus_1"]) -> Float[Tensor, ""]:
        """Loss of the attached model `model`, the student, on some token ids (the last column is not
        used).
        """
        calls = self._watch(tokens[:, :-1])
        students = attention_modules(model)  # type: ignore[arg-type]
        losses = []
        for name, (arguments, keywords, wanted) in calls.items():
            got = _first(students[name](*arguments, **keywords)).float()
            wanted = wanted.float()
            losses.append((got - wanted).square().mean() / wanted.square().mean().clamp(min=1e-12))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _watch(self, ids: Tensor) -> Mapping[str, tuple[tuple[Any, ...], dict[str, Any], Tensor]]:
        """Arguments and output of every attention module of the teacher, by its name."""
        calls: dict[str, tuple[tuple[Any, ...], dict[str, Any], Tensor]] = {}

        def hook(name: str) -> Any:
            def keep(module: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
                calls[name] = (arguments, keywords, _first(output))

            return keep

        with ExitStack() as hooks:
            for name, module in attention_modules(self._teacher).items():
                hooks.callback(module.register_forward_hook(hook(name), with_kwargs=True).remove)
            backbone(self._teacher)(input_ids=ids, use_cache=False)
        return calls


def only_attention(model: PreTrainedModel) -> None:
    """Of what is trained, train only what stands in the attention modules, gains and offsets included."""
    inside = {id(p) for module in attention_modules(model).values() for p in module.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in inside)


def _first(output: Any) -> Tensor:
    """The hidden states among what an attention module returns."""
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first
