"""What the curves of perplexity against context say, of recipes/depth.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gaincell.results.evaluation import ContextCurve, DepthResult
from gaincell.standard_error import paired_ratio

APART = 2.0
"""Standard errors from which on two numbers are told apart."""


def context_sentences(result: DepthResult) -> str:
    """Of the deepest models, on the shortest and on the longest ring: what is told apart, and what is not."""
    layers = max(curve.layers for curve in result.curves)
    deepest = [curve for curve in result.curves if curve.layers == layers]
    deepest.sort(key=lambda curve: curve.window)
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
    losses: Sequence[float]


def _context_of(curve: ContextCurve) -> _Context:
    points = curve.context
    enough = next(p for p in points if p.excess <= APART * (p.excess_error or 0.0))
    last = points[-1]
    return _Context(curve.window, last.context, enough.context, last.perplexity, last.per_block)
