"""Attention transfer: every layer's arrays learn what softmax attention does there.

Teacher and student are the same pretrained model, the teacher with softmax, the student with arrays. The
student's attention of each layer is given the teacher's own hidden states, and its output Y' is compared
with the teacher's Y:

    loss = mean over layers of  mean (Y' - Y)^2 / mean Y^2  +  w KL(softmax weights || phi / sum phi)

w is 0 unless it is given (training/attention_weights.py). Layers do not see each other's errors, so all learn
at once, from the first step (the idea is LoLCATs'). With blocks of n layers the student's layers are given
its own hidden states instead, and can mend what went wrong before them; gradients stop between blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.adaptation.statistics import backbone
from gaincell.integrations.hf.support import attention_modules
from gaincell.training.attention_weights import watched_queries, weights_divergence
from gaincell.training.distillation import relative_error
from gaincell.training.loss_name import LossName
from gaincell.training.settings import FACTOR, check_value
from gaincell.training.shares import teachers_part


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
        check_value(weights, FACTOR, "the weight of attention weights")
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
        if not self._weights:
            return self._of_outputs(model, ids)
        with watched_queries(self._teacher) as wanted, watched_queries(model) as found:
            loss = self._of_outputs(model, ids)
        return loss + self._weights * weights_divergence(model, found, wanted, ids)

    def _of_outputs(self, model: nn.Module, ids: Tensor) -> Float[Tensor, ""]:
        with torch.no_grad(), teachers_part():
            calls = _watch(self._teacher, ids)
        students = attention_modules(model)  # type: ignore[arg-type]
        if self._own_inputs:
            with _cut(model, list(students)[:: self._own_inputs]):
                found = {name: output for name, (_, _, output) in _watch(model, ids).items()}
        else:
            found = {
                name: _first(students[name](*given, **words)) for name, (given, words, _) in calls.items()
            }
        losses = [relative_error(found[name], wanted) for name, (_, _, wanted) in calls.items()]
        return torch.stack(losses).mean()


def _watch(model: nn.Module, ids: Tensor) -> Mapping[str, tuple[tuple[Any, ...], dict[str, Any], Tensor]]:
    """Arguments and output of every attention module while a model reads, by its name."""
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any], Tensor]] = {}

    def hook(name: str) -> Any:
        def keep(module: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
            calls[name] = (arguments, keywords, _first(output))

        return keep

    with ExitStack() as hooks:
        for name, module in attention_modules(model).items():  # type: ignore[arg-type]
            hooks.callback(module.register_forward_hook(hook(name), with_kwargs=True).remove)
        backbone(model)(input_ids=ids, use_cache=False)
    return calls


@contextmanager
def _cut(model: nn.Module, attentions: Iterable[str]) -> Iterator[None]:
    """Within the context no gradient leaves the layers of these attention modules through their inputs."""

    def cut(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return given[0].detach(), *given[1:]

    with ExitStack() as hooks:
        for name in attentions:
            layer = model.get_submodule(name.rpartition(".")[0])
            hooks.callback(layer.register_forward_pre_hook(cut).remove)
        yield


def only_attention(model: PreTrainedModel) -> None:
    """Of what is trained, train only what stands in the attention modules, gains and offsets included."""
    inside = {id(p) for module in attention_modules(model).values() for p in module.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in inside)


def _first(output: Any) -> Tensor:
    """The hidden states among what an attention module returns."""
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first
