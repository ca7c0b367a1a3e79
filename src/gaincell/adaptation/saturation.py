"""Which stages drive the circuit behind them beyond its limits with every single value.

Such a stage carries one or two codes only, whatever its mean and standard deviation are; adaptation cannot
tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gaincell.adaptation.result import Place
from gaincell.adaptation.statistics import scalers

if TYPE_CHECKING:
    from gaincell.nn.attention import GainCellAttention

ROUNDING = 1e-3
"""A tile output within this of full scale is at full scale."""


class SaturationWatch:
    """Remembers, over any number of forward passes, which (layer, head, stage) never left its limits."""

    def __init__(self, layers: list[GainCellAttention]) -> None:
        self._layers = layers
        self._saturated: dict[tuple[str, int], Bool[Tensor, " heads"]] = {}

    @contextmanager
    def observing(self, real: Bool[Tensor, "B T"] | None) -> Iterator[None]:
        """Within the context every forward pass of the model is watched; `real` marks its real tokens."""
        with ExitStack() as hooks:
            for stage, layer, scaler in scalers(self._layers):
                hook = scaler.register_forward_hook(self._hook(stage, layer, real))
                hooks.callback(hook.remove)
            yield

    def _hook(self, stage: str, layer: int, real: Tensor | None) -> Callable[[nn.Module, Any, Tensor], None]:
        attention = self._layers[layer]

        def observe(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            known = self._saturated.get((stage, layer))
            if known is not None and not known.any():
                return
            for rows in (slice(1), slice(None)):  # one sequence is enough to show that a stage moves
                real_rows = None if real is None else real[rows]
                beyond = _beyond_limits(attention, stage, inputs[0][rows], output[rows], real_rows)
                if real_rows is not None:
                    beyond |= ~real_rows[:, None, :, None]
                everywhere = beyond.all(dim=3).all(dim=2).all(dim=0).cpu()
                if not everywhere.any():
                    break
            self._saturated[stage, layer] = everywhere if known is None else everywhere & known

        return observe

    def places(self) -> tuple[Place, ...]:
        """The stages all of whose values so far were at or beyond the limits."""
        return tuple(
            Place(layer, head, stage)
            for (stage, layer), heads in self._saturated.items()
            for head in heads.nonzero().flatten().tolist()
        )


def _beyond_limits(
    attention: GainCellAttention,
    stage: str,
    x: Float[Tensor, "B heads T D"],
    y: Float[Tensor, "B heads T D"],
    real: Bool[Tensor, "B T"] | None,
) -> Bool[Tensor, "B heads T D"]:
    """q outside (0, 1), k and v outside (V_min, V_max); the output where all sub-tiles in use are at full
    scale, which quotients (array_normaliser.py) do not say.
    """
    design = attention.design
    if stage == "out":
        tokens = torch.arange(x.shape[2], device=x.device)[None] if real is None else real.cumsum(1) - 1
        tiles_in_use = (tokens // design.tile + 1).clamp(max=design.tiles)
        at_ceiling = x.abs() >= tiles_in_use[:, None, :, None] - ROUNDING
        says = design.output_ceiling and attention.normaliser is None
        return at_ceiling if says else torch.zeros_like(at_ceiling)
    low, high = (0.0, 1.0) if stage == "q" else (design.v_min, design.v_max)
    return (y <= low) | (y >= high)
