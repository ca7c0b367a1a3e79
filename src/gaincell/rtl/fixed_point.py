"""Gains and offsets of equation (3) as whole numbers, with what follows them folded in.

A scaling stage and its converter are one multiply-add. Of a query, with L levels,

    code = floor((L - 1) (a q + b) + 1/2) = floor(A q + B),    A = (L - 1) a,    B = (L - 1) b + 1/2

of a key or value, with s = (L - 1) / (V_max - V_min),

    code = floor(s (a k + b - V_offset) + L / 2) = floor(A k + B),    A = s a,    B = s (b - V_offset) + L / 2

then clamped. With a word n = x / 2^e, F fraction bits, and A 2^(e + F) and B 2^F rounded to whole numbers the
stage computes (A' n + B') >> F: every step of it is exact. e is the least with which the word reaches both
ends of the converter's range: what it cannot hold, the clamp would cut. The sum of the sub-tiles is scaled as

    result = floor((A' sum + B') / 2^F)
    A' = round(a / steps 2^(F - e)),    B' = round(b 2^(F - e)) + 2^(F - 1)

in units of 2^e, saturated; `steps` is the counter's highest count, and e the least with which the result and
A' fit their words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gaincell.errors import InputError
from gaincell.rtl.parameters import Parameters


@dataclass(frozen=True)
class Stage:
    """One scaling stage.

    Attributes:
        gain: Whole number, as it is loaded.
        offset: Likewise.
        exponent: e.
    """

    gain: int
    offset: int
    exponent: int


@dataclass(frozen=True)
class Scales:
    """All stages of a head: of keys, of values, and of every query head that of its queries and output."""

    key: Stage
    value: Stage
    queries: tuple[Stage, ...]
    outputs: tuple[Stage, ...]

    @property
    def loads(self) -> list[int]:
        """Gains and offsets in the order of their addresses."""
        stages = (self.key, self.value, *self.queries, *self.outputs)
        return [number for stage in stages for number in (stage.gain, stage.offset)]


def query_stage(parameters: Parameters, gain: float, offset: float) -> Stage:
    """Of queries: pulse width = gain q + offset.

    Raises:
        InputError: see `_input_stage`.
    """
    steps = parameters.query_levels - 1
    levels = parameters.query_levels
    low = -levels if parameters.signed else 0
    return _input_stage(parameters, "q", steps * gain, steps * offset + 0.5, low, levels)


def storage_stage(parameters: Parameters, name: str, gain: float, offset: float) -> Stage:
    """Of keys or values: volts = gain k + offset.

    Raises:
        InputError: see `_input_stage`.
    """
    slope, levels = _slope(parameters), parameters.storage_levels
    origin = slope * (offset - parameters.design.v_offset) + levels / 2
    return _input_stage(parameters, name, slope * gain, origin, 0, levels)


def output_stage(parameters: Parameters, gain: float, offset: float) -> Stage:
    """Of the sum of the sub-tiles, in full scales: result = gain sum + offset.

    Raises:
        InputError: see `_input_stage`.
    """
    p = parameters
    _check_numbers("the output", gain, offset)
    steps, fraction = p.design.counter_levels - 1, p.sum_bits - 1
    reach = gain * p.tiles + abs(offset)
    exponent = math.ceil(math.log2(reach / 2 ** (p.sum_bits - 1)))
    if round(gain / steps * 2.0 ** (fraction - exponent)) >= 2**p.sum_bits:  # more sub-tiles than count
        exponent += 1
    scale = 2.0 ** (fraction - exponent)
    if not round(gain / steps * scale):
        raise InputError(
            f"the gain of the output is {gain:g}, too small beside its offset, {offset:g} full scales: words "
            f"of {p.sum_bits} bits do not hold both"
        )
    return Stage(round(gain / steps * scale), round(offset * scale) + 2 ** (fraction - 1), exponent)


def _input_stage(p: Parameters, name: str, slope: float, origin: float, low: int, high: int) -> Stage:
    """code = floor(slope x + origin), from low to high.

    Raises:
        InputError: a gain that is not above 0, or an offset that moves the converter's range too far away.
    """
    _check_numbers(name, slope, origin)
    reach = max(abs(low - origin), abs(high - origin)) / slope
    exponent = math.ceil(math.log2(reach / 2 ** (p.word_bits - 1)))
    gain = round(slope * 2.0 ** (exponent + p.fraction_bits))
    offset = round(origin * 2.0**p.fraction_bits)
    if not 0 < gain < 2**p.gain_bits or abs(offset) >= 2 ** (p.offset_bits - 1):
        raise InputError(
            f"the offset of {name} moves the range of its converter to {(low - origin) / slope:.4g} ... "
            f"{(high - origin) / slope:.4g}, too far from zero for a gain of {p.gain_bits} bits; "
            "allowed: both ends within twice the range of zero"
        )
    return Stage(gain, offset, exponent)


def _check_numbers(name: str, gain: float, offset: float) -> None:
    if not (math.isfinite(gain) and gain > 0):
        raise InputError(f"the gain of {name} is {gain:g}; a scaling stage takes finite ones above 0")
    if not math.isfinite(offset):
        raise InputError(f"the offset of {name} is {offset}; a scaling stage takes finite ones")


def _slope(p: Parameters) -> float:
    return (p.storage_levels - 1) / (p.design.v_max - p.design.v_min)


def words(x: Tensor, stage: Stage, bits: int) -> Tensor:
    """Signals as the whole numbers that come in, saturated."""
    limit = 2 ** (bits - 1)
    return torch.round(x.double() * 2.0**-stage.exponent).clamp(-limit, limit - 1).to(torch.int64)


def scaled(word: Tensor, stage: Stage, p: Parameters) -> Tensor:
    """A' n + B', in units of 2^-F of a code, and half a unit.

    The half changes no floor, and keeps float64 from rounding what lies on a threshold to below it.
    """
    return ((word * stage.gain + stage.offset).double() + 0.5) * 2.0**-p.fraction_bits


def query_widths(word: Tensor, stage: Stage, p: Parameters) -> Tensor:
    """The pulse widths over the longest pulse that the stage asks the driver for."""
    return (scaled(word, stage, p) - 0.5) / (p.query_levels - 1)


def storage_volts(word: Tensor, stage: Stage, p: Parameters) -> Tensor:
    """The voltages that the stage asks the DAC for."""
    return p.design.v_offset + (scaled(word, stage, p) - p.storage_levels / 2) / _slope(p)


def results(sums: Tensor, stage: Stage, p: Parameters) -> Tensor:
    """What the output stage makes of sums of codes, whole numbers in units of 2^e."""
    limit = 2 ** (p.sum_bits - 1)
    return ((sums * stage.gain + stage.offset) >> (p.sum_bits - 1)).clamp(-limit, limit - 1)
