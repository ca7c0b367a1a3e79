"""Scales from numbers to places, their ticks, and how numbers are written beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
DECADES = 8.0
"""Ratio of the largest to the smallest number from which on an axis is logarithmic."""


@dataclass(frozen=True)
class Scale:
    """From [low, high] onto [start, end], linear or logarithmic.

    at: its ticks, if they are known.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    at: tuple[float, ...] = ()

    def __call__(self, x: float) -> float:
        """The place of x; what lies outside is put on the edge, what is no number at the start."""
        if math.isnan(x):
            return self.start
        x = min(max(x, self.low), self.high)
        if self.log:
            share = math.log(x / self.low) / math.log(self.high / self.low)
        else:
            share = (x - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 8) -> list[float]:
        """At most about so many round numbers inside."""
        if self.at:
            return _thinned([x for x in self.at if self.low <= x <= self.high], most)
        if not self.log:
            return linear_ticks(self.low, self.high, most)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        inside = [
            m * 10.0**e
            for e in range(first, last + 1)
            for m in (1, 2, 5)
            if self.low * 0.999 <= m * 10.0**e <= self.high * 1.001
        ]
        decades = [x for x in inside if math.isclose(math.log10(x), round(math.log10(x)), abs_tol=1e-9)]
        if len(inside) < 2:
            return linear_ticks(self.low, self.high, most)
        return inside if len(inside) <= most else _thinned(decades, most)


def linear(
    numbers: Iterable[float], start: float, end: float, *, zero: bool = False, at: Sequence[float] = ()
) -> Scale:
    """A linear scale out to the next ticks; zero: begins at 0."""
    found = [x for x in numbers if math.isfinite(x)] or [0.0, 1.0]
    low, high = min(found), max(found)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    step = _step(low, high, 6)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    ticks = tuple(at) or tuple(low + n * step for n in range(round((high - low) / step) + 1))
    return Scale(low, high, start, end, False, ticks)


def logarithmic(numbers: Iterable[float], start: float, end: float, *, at: Sequence[float] = ()) -> Scale:
    """A logarithmic scale with a little room at both ends; what is not above zero is left out."""
    found = [x for x in numbers if math.isfinite(x) and x > 0] or [1.0, 10.0]
    low, high = min(found), max(found)
    room = max((high / low) ** 0.04, 1.08)
    return Scale(low / room, high * room, start, end, True, tuple(at))


def wide(numbers: Iterable[float]) -> bool:
    """Whether numbers above zero span so much that only a logarithmic axis shows the small ones."""
    found = [x for x in numbers if math.isfinite(x)]
    return bool(found) and min(found) > 0 and max(found) > DECADES * min(found)


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    step = _step(low, high, most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def short(x: float) -> str:
    """A number as an axis or a hint writes it: four digits at most, powers of ten as such."""
    if math.isnan(x):
        return "not a number"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if x == 0:
        return "0"
    if 1e-3 <= abs(x) < 1e6:
        shown = f"{x:,.0f}" if abs(x) >= 1e3 else f"{x:.4g}"
        return shown.replace("-", "−")
    exponent = math.floor(math.log10(abs(x)) + 1e-9)
    mantissa = x / 10.0**exponent
    power = f"10{str(exponent).translate(SUPERSCRIPT)}"
    if math.isclose(mantissa, 1.0, rel_tol=1e-6):
        return power
    return f"{mantissa:.3g}×{power}".replace("-", "−")


def _step(low: float, high: float, most: int) -> float:
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _thinned(ticks: list[float], most: int) -> list[float]:
    every = max(1, math.ceil(len(ticks) / most))
    return ticks[::every]
