"""Last rows of balanced keys (balanced_rows.py) on other cells: b belongs to its cell.

What the other rows of a key add up to depends on the shape of the cell, and b makes up for its mean. With
another cell b is set anew, so that on average over requests the last row stays where it was in its range.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gaincell.nn.attention import GainCellAttention
from gaincell.nn.balanced_rows import Balance


def balances(layers: Sequence[GainCellAttention]) -> Iterator[tuple[int, Balance]]:
    """(layer, the last rows of its keys) of layers with balanced rows."""
    for layer, attention in enumerate(layers):
        if attention.k.balance is not None:
            yield layer, attention.k.balance


class LastRows:
    """Where last rows are in their ranges, over any number of forward passes: see `Balance.share`."""

    def __init__(self, layers: Sequence[GainCellAttention]) -> None:
        self._layers = layers
        self._means: dict[int, tuple[float, Float[Tensor, " Hk"]]] = {}  # tokens, and over them

    @contextmanager
    def observing(self, real: Bool[Tensor, "B T"] | None = None) -> Iterator[None]:
        """Within the context every forward pass is looked at; `real` says which tokens count, None: all."""
        with ExitStack() as hooks:
            for layer, balance in balances(self._layers):
                observe = partial(self._observe, layer, real)
                hooks.enter_context(balance.register_forward_pre_hook(observe))
            yield

    def _observe(self, layer: int, real: Tensor | None, balance: Balance, inputs: Any) -> None:
        volts, around = inputs
        new = balance.share(volts, around, real).cpu()
        count = float(volts.shape[0] * volts.shape[2] if real is None else real.sum())
        before, mean = self._means.get(layer, (0.0, new))
        self._means[layer] = before + count, mean + (new - mean) * (count / (before + count))

    @property
    def shares(self) -> Float[Tensor, "L Hk"] | None:
        """Of every layer; None: nothing was balanced."""
        return torch.stack([mean for _, mean in self._means.values()]) if self._means else None


@contextmanager
def rows_at(
    layers: Sequence[GainCellAttention],
    shares: Float[Tensor, "L Hk"] | None,
    real: Bool[Tensor, "B T"] | None = None,
) -> Iterator[None]:
    """Within the context every forward pass first sets b, for its text: see `Balance.centre`."""

    def place(share: Tensor, balance: Balance, inputs: Any) -> None:
        volts, around = inputs
        balance.centre(volts, around, share, real)

    with ExitStack() as hooks:
        if shares is not None:
            for layer, balance in balances(layers):
                hooks.enter_context(balance.register_forward_pre_hook(partial(place, shares[layer])))
        yield


@contextmanager
def restored(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """After the context parameters are what they were before."""
    own = [(parameter, parameter.detach().clone()) for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in own:
                parameter.copy_(value)


def own_rows_after(layers: Sequence[GainCellAttention]) -> AbstractContextManager[None]:
    """After the context b is what it was before."""
    return restored(balance.offset for _, balance in balances(layers))
