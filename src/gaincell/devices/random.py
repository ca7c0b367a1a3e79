"""Random numbers of cells, converters and their operations: the same for every implementation.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is a pure function from
a counter and a key to 128 bits. Nothing is drawn "in order": batch size, threads, devices and the order of
computation change no draw.

    counter = (column, row | effect << 16 | array << 24, step, layer << 16 | head),   key = (seed, chip)

`step` is 0 for what belongs to the chip, and the index of the token for what is drawn at every operation. All
sequences of a batch therefore see the same noise at the same token index.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any, Literal

import torch
from torch import Tensor

from gaincell.errors import DesignError

KEY_ARRAY, VALUE_ARRAY = 0, 1

Drawn = Literal["chip", "operation"]
"""When a random number is drawn: once, for the chip, or anew for every operation."""
PER_CHIP: dict[str, Drawn] = {"drawn": "chip"}
PER_OPERATION: dict[str, Drawn] = {"drawn": "operation"}
"""Metadata of a dataclass field that is the strength of a random effect, 0 or nothing being none.
`design.DRAWN` collects them: whatever tells chips or draws apart takes them from there.
"""

LARGEST_NORMAL = 6.8
"""No standard normal number made of 32 bits is larger: sqrt(-2 ln 2^-33) = 6.764."""


class Effect(IntEnum):
    """What a number is drawn for: a field of the counter."""

    GAIN = 0
    OFFSET_VOLTAGE = 1
    CURRENT_OFFSET = 2
    STUCK = 3
    LEAKAGE = 4
    DRIVER_GAIN = 5
    DRIVER_OFFSET = 6
    RAMP_GAIN = 7
    RAMP_GAIN_OF_TILE = 8
    COMPARATOR_OFFSET = 9
    COMPARATOR_OFFSET_OF_TILE = 10
    WRITE = 11
    QUERY_JITTER = 12
    PULSE_JITTER = 13
    READ = 14
    CORRELATED = 16
    """And the two after it: the smooth part of GAIN, OFFSET_VOLTAGE, CURRENT_OFFSET."""
    COEFFICIENT = 32
    """And those after it: one for every coefficient of a polynomial."""
    OWN = 128
    """And those after it: of a non-ideality of a user's own (circuits/nonideality.py)."""


# Philox4x32 (Salmon et al., table 2): two multipliers, two Weyl increments (golden ratio, sqrt(3) - 1)
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF


def philox4x32(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four counter words and two key words, 32 bit each, to four random words, as int64."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*(torch.as_tensor(word, dtype=torch.int64) for word in counter))
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # 64 bits, in two's complement
        c0, c1, c2, c3 = (
            (product1 >> 32 & _WORD) ^ c1 ^ k0,
            product1 & _WORD,
            (product0 >> 32 & _WORD) ^ c3 ^ k1,
            product0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def normal(
    *,
    seed: int,
    chip: int,
    layer: int,
    head: Any,
    array: int,
    column: Any,
    row: Any,
    effect: int,
    step: Any = 0,
) -> Tensor:
    """Standard normal numbers, float64; integers or tensors `head`, `column`, `row`, `step` broadcast.

    Box-Muller on the first two words w0, w1 of the Philox block, in float64:

        z = sqrt(-2 ln((w0 + 1/2) / 2^32)) * cos(2 pi (w1 + 1/2) / 2^32)

    Raises:
        DesignError: an index does not fit its field: array, effect < 2^8; row, head, layer < 2^16; column,
            step < 2^32.
    """
    w0, w1 = _words(seed, chip, layer, head, array, column, row, effect, step)
    radius = ((w0.double() + 0.5) * 2.0**-32).log_().mul_(-2.0).sqrt_()
    return radius.mul_(((w1.double() + 0.5) * (2.0 * math.pi * 2.0**-32)).cos_())


def uniform(
    *, seed: int, chip: int, layer: int, head: Any, array: int, column: Any, row: Any, effect: int
) -> Tensor:
    """Numbers uniform in (0, 1), float64: (w0 + 1/2) / 2^32; arguments as of `normal`."""
    w0, _ = _words(seed, chip, layer, head, array, column, row, effect, 0)
    return (w0.double() + 0.5) * 2.0**-32


def _words(
    seed: int, chip: int, layer: int, head: Any, array: int, column: Any, row: Any, effect: int, step: Any
) -> tuple[Tensor, Tensor]:
    fields = {"layer": (layer, 16), "head": (head, 16), "array": (array, 8), "column": (column, 32)}
    fields |= {"row": (row, 16), "effect": (effect, 8), "step": (step, 32)}
    word = {name: _field(name, value, bits) for name, (value, bits) in fields.items()}
    counter = (
        word["column"],
        word["row"] | word["effect"] << 16 | word["array"] << 24,
        word["step"],
        word["layer"] << 16 | word["head"],
    )
    w0, w1, _, _ = philox4x32(counter, (seed, chip))
    return w0, w1


def _field(name: str, value: Any, bits: int) -> Tensor:
    values = torch.as_tensor(value, dtype=torch.int64)
    if values.numel() and (int(values.min()) < 0 or int(values.max()) >= 2**bits):
        raise DesignError(
            f"random numbers: {name} must be in 0 ... 2^{bits} - 1, got up to {int(values.max())}"
        )
    return values
