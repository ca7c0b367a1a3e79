"""Refreshing gain cells: how the stored voltages are made fresh before they have leaked away.

    none       never: a token is read at the age it has
    copy       every column is rewritten from a digital copy of its codes: its voltage is again the one that
               was written
    reread     every column is read, quantised by the write DAC's levels, and written back: what has leaked
               below the next level's edge stays there

A refresh rewrites the valid columns one after the other in address order, each in one write slot, while
nothing else happens: it costs their number times the slot's duration, and as many writes.
Not modelled: the circuits that read a stored voltage back (their noise and offset); refresh hidden behind
reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from gaincell.errors import InputError
from gaincell.units import Second

RefreshKind = Literal["none", "copy", "reread"]
REFRESH_KINDS: tuple[str, ...] = get_args(RefreshKind)


@dataclass(frozen=True)
class Refresh:
    """A refresh policy.

    Attributes:
        kind: See the head of this file.
        every_tokens: After how many steps. One of the two is given, none for the kind none.
        every_seconds: After how much time, s.
    """

    kind: RefreshKind = "none"
    every_tokens: int | None = None
    every_seconds: Second | None = None

    def __post_init__(self) -> None:
        if self.kind not in REFRESH_KINDS:
            raise InputError(f"refresh {self.kind!r} is unknown; choose one of {', '.join(REFRESH_KINDS)}")
        tokens, seconds = self.every_tokens, self.every_seconds
        given = (tokens is not None) + (seconds is not None)
        if self.kind == "none" and given:
            raise InputError("refresh 'none' takes no period; choose copy or reread")
        if self.kind != "none" and given != 1:
            raise InputError(
                f"refresh {self.kind!r} needs one period, {'both are' if given else 'none is'} given: give "
                "every_tokens or every_seconds (--refresh-tokens or --refresh-seconds), not both"
            )
        if tokens is not None and (not isinstance(tokens, int) or tokens < 1):
            raise InputError(f"every_tokens is {tokens}; give a whole number, 1 or more")
        if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
            raise InputError(f"every_seconds is {seconds}; give a finite number above 0")

    def __str__(self) -> str:
        if self.every_tokens is not None:
            return f"{self.kind} every {self.every_tokens} tokens"
        return self.kind if self.every_seconds is None else f"{self.kind} every {self.every_seconds:g} s"
