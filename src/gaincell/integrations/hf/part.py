"""What heads can have beside a gain and an offset, for whatever saves, loads, trains or prices a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.chips.design import Design
from gaincell.integrations.hf.attach import attached_layers
from gaincell.nn.attention import GainCellAttention


@dataclass(frozen=True)
class Part:
    """A part, which all heads of a model have, or none: reparametrisation.py lists them.

    Attributes:
        name: In messages.
        key: Of the recipes that ask for it (mapping/recipe.py).
        tensors: Names of its tensors in a layer's `GainCellAttention`.
        add: Gives it to an attached model, fitted to a text where there is one.
        restore: Gives a layer a tensor that a text chose, of a file, whose name in it refusals state; None
            stands for any that fits.
        fold: Takes its tensors, by name and among others, into the weights of a model without it.
        has_indices: Whether its tensors are numbers of components, which are not trained.
        copies: Names of tensors that follow from others, so that no file of ours needs them.
        directions: Names of tensors that hold directions, whose length is above 0.
        check_model: Refuses a model that it is not for, attached or not, by a ModelError.
        check_chip: Refuses a design that it is not for, by a ModelError.
        needs_biases: Why it needs biases, what a bias does for it; empty where it needs none.
        rates: The fields of `TrainSettings` with the peak learning rates of its tensors; of others it is that
            of gains.
        decayed: The values of `TrainSettings.decayed` with which its tensors decay.
        costs: The fields of `ModelSize` that say that a model has it.
    """

    name: str
    key: str
    tensors: tuple[str, ...]
    add: Callable[[PreTrainedModel, Tensor | None], None]
    restore: Callable[[GainCellAttention, str, Tensor | None], None] | None = None
    fold: Callable[[PreTrainedModel, Mapping[str, Tensor]], None] | None = None
    has_indices: bool = False
    copies: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()
    check_model: Callable[[PreTrainedModel], None] = lambda model: None
    check_chip: Callable[[Design], None] = lambda design: None
    needs_biases: str = ""
    rates: dict[str, str] = field(default_factory=dict)
    decayed: tuple[str, ...] = ("matrices-and-scales", "all")
    costs: Mapping[str, Any] = field(default_factory=dict)

    def is_in(self, model: nn.Module) -> bool:
        """Whether the heads of a model have it."""
        return any(self.tensors[0] in cell.state_dict() for cell in attached_layers(model))

    def owns(self, name: str) -> bool:
        """Whether a tensor of a model, by its name there, is one of its own."""
        return ".gain_cell." in name and name.endswith(tuple(f".{own}" for own in self.tensors))
