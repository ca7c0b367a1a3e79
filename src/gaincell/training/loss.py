"""Losses, what each is called, and its unit: a number that is only "the loss" says nothing.

cross-entropy                       nats per token
KL to the teacher (distillation)    nats per token
attention transfer                  relative squared error
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

Loss = Callable[[nn.Module, Tensor], Tensor]
"""Called with the model and token ids [sequences, T + 1]; a scalar, the mean over targets. Its `loss_name` is
a `LossName`.
"""


class LossName(NamedTuple):
    """What a loss is called.

    Attributes:
        name: What is minimised.
        unit: Of its numbers; empty: none is known.
    """

    name: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


def name_of(loss: Loss) -> LossName:
    """The name that a loss was given; of others the name that it has in Python, without a unit."""
    given: LossName | None = getattr(loss, "loss_name", None)
    return given or LossName(getattr(loss, "__name__", type(loss).__name__))


def next_token_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy of columns 1..T given those before, in nats per token."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


next_token_loss.loss_name = LossName("cross-entropy", "nats per token")  # type: ignore[attr-defined]
