"""The counter behind a sub-tile's charge-to-pulse circuit: which code a pulse gives [M].

A flip-flop holds the sign of o, a counter of L = 16 levels measures the pulse |o| T_max at the pulse clock.
With x = o S, S the codes from zero to full scale:

    counter          sign(x) * floor(|x| + 1/2)    S = L - 1, 2L - 1 values; started half a clock early
    counter-floor    sign(x) * floor(|x|)          S = L - 1
    published-code   round(x)    S = (2L - 1) / 2, 2L + 1 values up to 1.032; ties to even [R]
    none             x           S = 1

`published-code` is what the authors' networks were trained with. Full scale, o = 1, is one of its ties.
A readout of your own: docs/adding_a_readout.md. Not modelled: counter metastability.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gaincell.circuits.converter import straight_through
from gaincell.errors import DesignError


@dataclass(frozen=True)
class Readout:
    """How outputs of sub-tiles become digital.

    Attributes:
        steps: S, codes from zero to full scale, of a counter of L levels.
        code: The codes of x = o S, any shape; whole numbers, as traces and counts of codes take them, but for
            "none".
    """

    steps: Callable[[int], float]
    code: Callable[[Tensor], Tensor]


READOUTS: dict[str, Readout] = {
    "counter": Readout(lambda levels: levels - 1.0, lambda x: x.abs().add_(0.5).floor_().copysign_(x)),
    "counter-floor": Readout(lambda levels: levels - 1.0, lambda x: x.abs().floor_().copysign_(x)),
    "published-code": Readout(lambda levels: levels - 0.5, torch.round),
    "none": Readout(lambda _: 1.0, lambda x: x),
}
"""By the word of `readout` in a design."""


def quantize_output(o: Float[Tensor, "*shape"], kind: str, levels: int) -> Float[Tensor, "*shape"]:
    """The digital value of a sub-tile output, in units of full scale; straight-through gradient.

    Args:
        o: Signed pulse width over the longest pulse.
        kind: One of READOUTS.
        levels: L, levels of the magnitude.

    Raises:
        DesignError: an unknown kind.
    """
    if kind not in READOUTS:
        raise DesignError(f"unknown readout {kind!r}; choose one of {', '.join(READOUTS)}")
    readout = READOUTS[kind]
    steps = readout.steps(levels)
    return straight_through(readout.code(o * steps) / steps, o)
