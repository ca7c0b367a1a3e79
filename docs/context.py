"""What the curves of perplexity against context say, of recipes/depth.py."""

from __future__ import annotations

from gaincell.results.evaluation import ContextCurve, DepthResult
from gaincell.standard_error import paired_ratio

APART = 2.0
"""Standard errors from which on two numbers are told apart."""


def context_sentences(result: DepthResult) -> str:
    """Of the deepest models, on the shortest and on the longest ring: what is told apart, and what is not."""
    layers = max(curve.layers for curve in result.curves)
    deepest = [curve for curve in result.curves if curve.layers == layers]
    deepest.sort(key=lambda curve: curve.window)
    short, long = deepest[0], deepest[-1]
    of_short, of_long = (curve.context[-1] for curve in (short, long))
    said = (
        f"{layers:.0f} layers: on {short.window} columns {_enough(short):,} tokens of context are not told "
        f"apart from all {of_short.context:,} (by {APART:g} standard errors), on {long.window:,} columns "
        f"{_enough(long):,} are not. "
    )
    if of_short.per_block and of_long.per_block:
        weights = [1.0] * len(of_long.per_block)
        ratio, error = paired_ratio(of_short.per_block, of_long.per_block, weights)
        assert error is not None
        apart = "" if abs(ratio - 1) > APART * error else ": not told apart"
        return (
            f"{said}With all of it the short ring has × {ratio:.4f} ± {error:.4f} of the long one's "
            f"perplexity{apart}."
        )
    return (
        f"{said}With all of it the short ring has a perplexity of {of_short.perplexity:.1f}, the long one of "
        f"{of_long.perplexity:.1f}; losses of single blocks were not stored, so this difference has no "
        "interval, and neither ring is shown to be better."
    )


def _enough(curve: ContextCurve) -> int:
    """The shortest context whose excess is within two standard errors."""
    return next(p.context for p in curve.context if p.excess <= APART * (p.excess_error or 0.0))
