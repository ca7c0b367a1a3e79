"""Columns for the first tokens of a sequence that are never overwritten: an extension, not in the paper.

Language models attend to their first tokens whatever these say (attention sinks); a ring forgets them after
a lap. A head gets one sub-tile more. Tokens j < n of a sequence are written there and not into the ring, in
which token j then is in column (j - n) mod M. They are rewritten, from a digital copy, at every multiple of R
tokens, so that a query i meets them at the age

    age_ij = i - max(j, R floor(i / R))     in token periods

Everything else is as in any other sub-tile: phi, the cells, saturation and readout, the digital sum.

Cost in hardware: one more sub-tile of N columns per head and its converters; a digital copy of n keys and
values per key/value head; n writes every R tokens, between two tokens. Not modelled: the time that these
writes take, the model's own sliding window (sinks stay visible), errors and noise of any kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gaincell.quantity import Range, check_ranges


@dataclass(frozen=True)
class Sinks:
    """The columns of the first tokens; none by default.

    Attributes:
        tokens: n, at most the columns of a sub-tile.
        rewrite_tokens: R.
    """

    tokens: int = 0
    rewrite_tokens: int = 256

    def __post_init__(self) -> None:
        check_ranges("sinks", self, tokens=Range(0, math.inf), rewrite_tokens=Range(1, math.inf))
