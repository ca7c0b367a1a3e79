"""What a loss is called, and its unit: losses differ, and a number that is only "the loss" says nothing.

cross-entropy                       nats per token
KL to the teacher (distillation)    nats per token
attention transfer                  relative squared error
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

Named = TypeVar("Named", bound=Callable[..., Any])


class LossName(NamedTuple):
    """name: what is minimised.  unit: of its numbers; empty: none is known."""

    name: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


def called(name: str, unit: str) -> Callable[[Named], Named]:
    """Decorator of a function that is a loss. Classes set `loss_name` themselves."""

    def give(loss: Named) -> Named:
        loss.loss_name = LossName(name, unit)  # type: ignore[attr-defined]
        return loss

    return give


def name_of(loss: Callable[..., Any]) -> LossName:
    """The name that a loss was given; of others the name that it has in Python, without a unit."""
    given: LossName | None = getattr(loss, "loss_name", None)
    return given or LossName(getattr(loss, "__name__", type(loss).__name__))
