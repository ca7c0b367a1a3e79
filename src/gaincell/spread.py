"""Standard errors of what is computed from independent items."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean_error(items: Sequence[float]) -> float | None:
    """Standard error of the mean, sqrt(variance / n); None for a single item."""
    return ratio_error(items, [1.0] * len(items))


def ratio_error(sums: Sequence[float], weights: Sequence[float]) -> float | None:
    """Standard error of R = sum(sums) / sum(weights), to first order; None for a single item.

    error = sqrt(n / (n - 1) sum_i (s_i - R w_i)^2) / sum(weights): for equal weights that of the mean.
    sums: such as the negative log-likelihood of every document.  weights: such as its words.
    """
    n, total = len(sums), math.fsum(weights)
    if n < 2:
        return None
    mean = math.fsum(sums) / total
    squares = math.fsum((s - mean * w) ** 2 for s, w in zip(sums, weights, strict=True))
    return math.sqrt(squares * n / (n - 1)) / total
