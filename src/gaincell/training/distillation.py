"""Distillation: the trained model learns the distribution of a teacher, not only the token that came next.

    loss = (1 - w) CE(student, next token) + w KL(teacher || student),      both in nats per token

Every token of the text then carries a whole distribution, which is what makes converting a model with few
tokens possible.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class Distillation:
    """A loss for `gaincell.training.loop.train`.

    teacher: a causal language model with the student's vocabulary; it is not trained.  weight: w in [0, 1].
    """

    def __init__(self, teacher: nn.Module, weight: float) -> None:
        self._teacher = teacher.eval().requires_grad_(False)
        self._weight = weight

    def __call__(self, model: nn.Module, tokens: Int[Tensor, "B T_plus_1"]) -> Float[Tensor, ""]:
        with torch.no_grad():
            expected = self._teacher(input_ids=tokens[:, :-1], use_cache=False).logits.float()
            expected = functional.log_softmax(expected.flatten(0, 1), dim=-1)
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float().flatten(0, 1)
        found = functional.log_softmax(logits, dim=-1)
        divergence = functional.kl_div(found, expected, log_target=True, reduction="batchmean")
        if self._weight == 1.0:
            return divergence
        entropy = functional.nll_loss(found, tokens[:, 1:].flatten())
        return (1.0 - self._weight) * entropy + self._weight * divergence
