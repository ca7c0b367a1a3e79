"""What the curves of perplexity against context say, from the JSON of recipes/depth.py alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gaincell.reports.results import number, numbers
from gaincell.spread import paired_ratio

Result = Mapping[str, Any]
APART = 2.0
"""Standard errors from which on two numbers are told apart."""


def context_sentences(result: Result) -> str:
    """Of the deepest models, on the shortest and on the longest ring: what is told apart, and what is not."""
    layers = max(number(curve["layers"]) for curve in result["curves"])
    deepest = [curve for curve in result["curves"] if number(curve["layers"]) == layers]
    deepest.sort(key=lambda curve: number(curve["window"]))
    short, long = (_context_of(curve) for curve in (deepest[0], deepest[-1]))
    said = (
        f"{layers:.0f} layers: on {short.window} columns {short.enough:,} tokens of context are not told "
        f"apart from all {short.all:,} (by {APART:g} standard errors), on {long.window:,} columns "
        f"{long.enough:,} are not. "
    )
    if short.losses and long.losses:
        ratio, error = paired_ratio(short.losses, long.losses, [1.0] * len(long.losses))
        assert error is not None
        apart = "" if abs(ratio - 1) > APART * error else ": not told apart"
        return (
            f"{said}With all of it the short ring has × {ratio:.4f} ± {error:.4f} of the long one's "
            f"perplexity{apart}."
        )
    return (
        f"{said}With all of it the short ring has a perplexity of {short.perplexity:.1f}, the long one of "
        f"{long.perplexity:.1f}; losses of single blocks were not stored, so this difference has no "
        "interval, and neither ring is shown to be better."
    )


class _Context(NamedTuple):
    """enough: the shortest context whose excess is within two standard errors.  losses: with all of it."""

    window: int
    all: int
    enough: int
    perplexity: float
    losses: list[float]


def _context_of(curve: Result) -> _Context:
    points = curve["context"]
    enough = next(p for p in points if number(p["excess"]) <= APART * number(p["excess_error"]))
    last = points[-1]
    losses = numbers(last["per_block"]) if "per_block" in last else []
    window, every, some = (number(x) for x in (curve["window"], last["context"], enough["context"]))
    return _Context(int(window), int(every), int(some), number(last["perplexity"]), losses)
