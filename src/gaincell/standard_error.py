"""Standard errors of what is computed from independent items."""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.95
PER_UNIT = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""Scores of the evaluation harness that are ratios of sums: of log-likelihoods and of words or bytes."""


def ratio_error(sums: Sequence[float], weights: Sequence[float]) -> float | None:
    """Standard error of R = sum(sums) / sum(weights), to first order; None for a single item.

    error = sqrt(n / (n - 1) sum_i (s_i - R w_i)^2) / sum(weights): for equal weights that of the mean.

    Args:
        sums: Such as the negative log-likelihood of every document.
        weights: Such as its words.
    """
    n, total = len(sums), math.fsum(weights)
    if n < 2:
        return None
    mean = math.fsum(sums) / total
    squares = math.fsum((s - mean * w) ** 2 for s, w in zip(sums, weights, strict=True))
    return math.sqrt(squares * n / (n - 1)) / total


def half_width(sums: Sequence[float], weights: Sequence[float], chips: Sequence[float] = ()) -> float | None:
    """Of the `CONFIDENCE` interval (Student) of sum(sums) / sum(weights); None for a single item.

    Args:
        sums: As of `ratio_error`.
        weights: As of `ratio_error`.
        chips: The same number on every chip; of two or more, its variance over them adds to that over the
            items.
    """
    of_items, of_chips = ratio_error(sums, weights), ratio_error(chips, [1.0] * len(chips))
    if of_items is None:
        return None
    parts = ((of_items, len(sums)), (of_chips or 0.0, max(2, len(chips))))
    return math.hypot(*(error * student(n) for error, n in parts))


def student(items: int) -> float:
    """Half the `CONFIDENCE` interval of a mean of `items` in its standard errors: Student's t, two-sided."""
    from scipy import stats

    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, items - 1))


def exp_or_infinity(x: float) -> float:
    """exp(x), infinity where a float cannot hold it."""
    return math.exp(x) if x < 700 else math.inf


def paired_ratio(
    ours: Sequence[float], theirs: Sequence[float], weights: Sequence[float]
) -> tuple[float, float | None]:
    """Ratio of two perplexities on the same blocks, and its standard error over blocks, to first order.

    ratio = exp(sum (ours_b - theirs_b) / sum w_b); None for the error of a single block.

    Args:
        ours: Negative log-likelihood of every block, nats.
        theirs: Likewise.
        weights: Predictions of every block.
    """
    change = [a - b for a, b in zip(ours, theirs, strict=True)]
    ratio = exp_or_infinity(math.fsum(change) / math.fsum(weights))
    error = ratio_error(change, weights)
    return ratio, None if error is None else ratio * error
