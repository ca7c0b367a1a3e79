"""Co-design as lines: what was learned, and what the training changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from scipy import stats

from gaincell.reports.tables import readable
from gaincell.results.run import Circuits, CodesignResult, LearnedChip
from gaincell.standard_error import ratio_error

CONFIDENCE = 0.95
SATURATIONS: Mapping[str, Callable[[Circuits], float]] = {
    "S_sat / D": lambda circuits: circuits.score_saturation_per_row,
    "O_sat / N": lambda circuits: circuits.output_saturation_per_column,
}
LEVELS: Mapping[tuple[str, str], Callable[[Circuits], tuple[float, ...] | None]] = {
    ("pulse widths", ""): lambda circuits: circuits.query_levels,
    ("voltages about V_offset", " V"): lambda circuits: circuits.storage_levels,
}
"""Title and unit -> where they stand."""


def training_ratio(run: LearnedChip) -> tuple[float, float, float]:
    """Ratio of trained to adapted perplexity and its interval of 95 % (Student), block by block.

    R = exp(sum (nll - nll_ref) / predictions); the error of the exponent is that of a ratio over blocks.
    """
    return paired_interval(run.blocks.trained, run.blocks.adapted, run.blocks.predictions)


def paired_interval(
    ours: Sequence[float], theirs: Sequence[float], weights: Sequence[float]
) -> tuple[float, float, float]:
    """Ratio of perplexities from the losses of the same blocks, and its interval of 95 % (Student)."""
    change = [a - b for a, b in zip(ours, theirs, strict=True)]
    middle, error = math.fsum(change) / math.fsum(weights), ratio_error(change, weights)
    half = (error or 0.0) * float(stats.t.ppf(0.5 + CONFIDENCE / 2, max(1, len(weights) - 1)))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def learned_lines(run: CodesignResult) -> list[str]:
    """What was learned, for a terminal."""
    found = run.perplexities
    start, learned = run.circuits.start, run.circuits.learned
    lines = [f"perplexity {readable(found['adapted'])} adapted, {readable(found['trained'])} trained"]
    for title, saturation in SATURATIONS.items():
        lines.append(f"{title}: {saturation(start):.4g} -> {saturation(learned):.4g} charge units")
    for (title, unit), levels in LEVELS.items():
        if (levels_found := levels(learned)) is not None:
            lines.append(f"{title}: {', '.join(f'{level:.4g}' for level in levels_found)}{unit}")
    return lines
