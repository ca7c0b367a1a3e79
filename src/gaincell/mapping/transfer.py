"""Attention transfer: every layer's arrays learn what softmax attention does there.

Teacher and student are the same pretrained model, the teacher with softmax, the student with arrays. The
student's attention of each layer is given the teacher's own hidden states, and its output Y' is compared
with the teacher's Y:

    loss = mean over layers of  mean (Y' - Y)^2 / mean Y^2

Layers do not see each other's errors, so all learn at once, from the first step (the idea is LoLCATs'). For
the same reason the gradients of a layer are computed as soon as its loss is: of activations and graph, those
of one layer are held at a time, however many there are.
"""

from __future__ import annotations

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
        students = attention_modules(model)  # type: ignore[arg-type]
        learning, losses = torch.is_grad_enabled(), []

        def hook(student: nn.Module) -> Any:
            def compare(module: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
                wanted = _first(output).float()
                with torch.set_grad_enabled(learning):
                    got = _first(student(*arguments, **keywords)).float()
                    loss = (got - wanted).square().mean() / wanted.square().mean().clamp(min=1e-12)
                    losses.append(_with_gradients(loss, student))

            return compare

        with torch.no_grad(), ExitStack() as hooks:
            for name, module in attention_modules(self._teacher).items():
                hooks.callback(module.register_forward_hook(hook(students[name]), with_kwargs=True).remove)
            backbone(self._teacher)(input_ids=tokens[:, :-1], use_cache=False)
        return torch.stack(losses).mean()


def _with_gradients(loss: Float[Tensor, ""], module: nn.Module) -> Float[Tensor, ""]:
    """The same loss with the gradients of a module's parameters in place of its graph."""
    parameters = [p for p in module.parameters() if p.requires_grad] if loss.requires_grad else []
    if not parameters:
        return loss.detach()
    with torch.autocast(loss.device.type, enabled=False):
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    used = [(p, gradient) for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
    computed: Tensor = _Computed.apply(loss.detach(), [g for _, g in used], *(p for p, _ in used))
    return computed


class _Computed(torch.autograd.Function):
    """A value whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return (None, None, *(outer[0] * gradient for gradient in ctx.gradients))


def only_attention(model: PreTrainedModel) -> None:
    """Of what is trained, train only what stands in the attention modules, gains and offsets included."""
    inside = {id(p) for module in attention_modules(model).values() for p in module.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in inside)


def _first(output: Any) -> Tensor:
    """The hidden states among what an attention module returns."""
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first
