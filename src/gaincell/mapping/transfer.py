"""Attention transfer: every layer's arrays learn what softmax attention does there.

Teacher and student are the same pretrained model, the teacher with softmax, the student with arrays. The
student's attention of each layer is given the teacher's own hidden states, and its output Y' is compared
with the teacher's Y:

    loss = mean over layers of  mean (Y' - Y)^2 / mean Y^2  +  w KL(softmax weights || phi / sum phi)

w is 0 unless it is given (training/attention_weights.py). Layers do not see each other's errors, so all learn
at once, from the first step (the idea is LoLCATs'). For the same reason the gradients of a layer are computed
as soon as its loss is: of activations and graph, those of one layer are held at a time, however many there
are. With blocks of n layers the student's layers are given its own hidden states instead, and can mend what
went wrong before them; gradients stop between blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.adaptation.statistics import backbone
from gaincell.integrations.hf.support import attention_modules
from gaincell.schema import Factor, check_value
from gaincell.training.attention_weights import watched_queries, weights_divergence
from gaincell.training.distillation import relative_error
from gaincell.training.loss_name import LossName
from gaincell.training.shares import students_part, teachers_part


class AttentionTransfer:
    """The loss of attention transfer, for `gaincell.training.loop.train(..., loss_of=...)`.

    Args:
        teacher: an attached model with `attention="softmax"` and the pretrained weights.
        weights: w, 0 or more.
        own_inputs: n, layers of a block; 0: all are given the teacher's hidden states.

    Raises:
        InputError: w is below 0 or not finite.
    """

    def __init__(self, teacher: PreTrainedModel, weights: float = 0.0, own_inputs: int = 0) -> None:
        check_value(weights, Factor, "the weight of attention weights")
        teacher.train(False)
        self._teacher, self._weights, self._own_inputs = teacher.requires_grad_(False), weights, own_inputs
        self.loss_name = LossName("attention transfer", "relative squared error")
        if weights:
            self.loss_name = LossName(
                f"attention transfer + {weights:g} attention weights", "relative squared error + nats"
            )

    def __call__(self, model: nn.Module, tokens: Int[Tensor, "B T_plus_1"]) -> Float[Tensor, ""]:
        """Loss of the attached model `model`, the student, on some token ids (the last column is not
        used).
        """
        ids = tokens[:, :-1]
        with ExitStack() as hooks:
            if self._weights:
                wanted = hooks.enter_context(watched_queries(self._teacher))
                found = hooks.enter_context(watched_queries(model))

            def loss_of(student: Any, output: Tensor, teachers: Tensor) -> Tensor:
                loss = relative_error(output, teachers)
                if not self._weights:
                    return loss
                cell = student.gain_cell
                own, other = found.pop(cell.layer), wanted.pop(cell.layer)
                return loss + self._weights * weights_divergence(cell, own, other, ids)

            if self._own_inputs:
                losses = self._from_own_inputs(model, ids, loss_of)
            else:
                losses = self._from_teachers(model, ids, loss_of)
        return torch.stack(losses).mean()

    def _from_teachers(self, model: nn.Module, ids: Tensor, loss_of: LayerLoss) -> list[Tensor]:
        students = attention_modules(model)  # type: ignore[arg-type]
        learning, losses = torch.is_grad_enabled(), []

        def compare(name: str, arguments: Any, keywords: Any, output: Tensor) -> None:
            with torch.set_grad_enabled(learning), students_part():
                student = students[name]
                got = _first(student(*arguments, **keywords))
                losses.append(_with_gradients(loss_of(student, got, output), student))

        with torch.no_grad(), teachers_part(), _seen(self._teacher, compare):
            backbone(self._teacher)(input_ids=ids, use_cache=False)
        return losses

    def _from_own_inputs(self, model: nn.Module, ids: Tensor, loss_of: LayerLoss) -> list[Tensor]:
        outputs: dict[str, Tensor] = {}
        losses = []

        def keep(name: str, arguments: Any, keywords: Any, output: Tensor) -> None:
            outputs[name] = output

        def compare(name: str, arguments: Any, keywords: Any, output: Tensor) -> None:
            losses.append(loss_of(students[name], output, outputs[name]))

        students = attention_modules(model)  # type: ignore[arg-type]
        with torch.no_grad(), teachers_part(), _seen(self._teacher, keep):
            backbone(self._teacher)(input_ids=ids, use_cache=False)
        with ExitStack() as hooks:
            for name in list(students)[:: self._own_inputs]:
                layer = model.get_submodule(name.rpartition(".")[0])
                hooks.callback(layer.register_forward_pre_hook(_cut).remove)
            hooks.enter_context(_seen(model, compare))
            backbone(model)(input_ids=ids, use_cache=False)
        return losses


LayerLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Loss of an attention module of the student, of its output and the teacher's."""


@contextmanager
def _seen(model: nn.Module, see: Callable[[str, Any, Any, Tensor], None]) -> Iterator[None]:
    """Within the context `see` is called with name, arguments and output of every attention module."""

    def hook(name: str) -> Any:
        return lambda module, arguments, keywords, output: see(name, arguments, keywords, _first(output))

    with ExitStack() as hooks:
        for name, module in attention_modules(model).items():  # type: ignore[arg-type]
            hooks.callback(module.register_forward_hook(hook(name), with_kwargs=True).remove)
        yield


def _cut(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A layer's inputs, through which no gradient leaves it."""
    return given[0].detach(), *given[1:]


def _with_gradients(loss: Float[Tensor, ""], module: nn.Module) -> Float[Tensor, ""]:
    """The same loss with the gradients of a module's parameters in place of its graph."""
    parameters = [p for p in module.parameters() if p.requires_grad] if loss.requires_grad else []
    if not parameters:
        return loss.detach()
    with torch.autocast(loss.device.type, enabled=False):
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    used = [(p, gradient) for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
    gradients, own = [gradient for _, gradient in used], [p for p, _ in used]
    computed: Tensor = _Computed.apply(loss.detach(), gradients, *own)  # type: ignore[no-untyped-call]
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
