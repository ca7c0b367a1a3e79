"""What a block costs, and how costs add up.

Cost(energy=1e-9) + Cost(energy=2e-9, area=1e-12)      # one after the other: energies, times, areas add
total({"cells": ..., "readout": ...})                  # the same, keeping the parts by name
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gaincell.errors import InputError
from gaincell.units import Joule, Second, SquareMetre, Watt

NUMBERS = ("energy", "latency", "area", "power")


@dataclass(frozen=True)
class Cost:
    """Of one use of a block.

    Attributes:
        energy: Drawn from the supplies, J.
        power: Drawn all the time, whether the block is used or not (leakage), W; not contained in energy.
        parts: What it is made of, by name; they add up to it.

    Raises:
        InputError: a negative or infinite number.
    """

    energy: Joule = 0.0
    latency: Second = 0.0
    area: SquareMetre = 0.0
    power: Watt = 0.0
    parts: Mapping[str, Cost] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for name in NUMBERS:
            number = getattr(self, name)
            if not (math.isfinite(number) and number >= 0):
                raise InputError(
                    f"cost: {name} = {number!r} is out of range; allowed: a finite number, 0 or above"
                )

    def __add__(self, other: Cost) -> Cost:
        """Both, one after the other, in different circuits; the parts are not kept."""
        return Cost(*(getattr(self, name) + getattr(other, name) for name in NUMBERS))


def total(parts: Mapping[str, Cost], latency: Second | None = None) -> Cost:
    """What the parts cost together; their latencies add up unless a schedule says that of the whole."""
    whole = sum(parts.values(), Cost())
    time = whole.latency if latency is None else latency
    return Cost(whole.energy, time, whole.area, whole.power, dict(parts))
