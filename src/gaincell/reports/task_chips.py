"""Scores of tasks on many virtual chips, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gaincell.reports.tables import SIMULATED, Rows, ratio_or_score
from gaincell.results.evaluation import ScoreSpread, TaskChips, TasksResult


def chips_of_tasks(runs: Mapping[str, TasksResult]) -> Iterator[Rows]:
    """A table for every result that has chips."""
    for name, run in runs.items():
        if run.chips is not None:
            yield chip_rows(run.chips, f"{name}: scores of every chip")


def chip_rows(chips: TaskChips, title: str = "") -> Rows:
    """One row a score."""
    caption = (
        f"{len(chips.number)} chips and the nominal one on the same items; change: ratio of perplexities, "
        "difference of other scores, with its interval of 95 % over chips (Student)"
    )
    within = f"yield (≤ +{100 * chips.yield_within:g} %)"
    headings = ("score", "nominal", "mean", "std", "change", "95 %", "worst chip", within)
    rows = [[name, *_shown(spread, chips.number)] for name, spread in chips.scores.items()]
    return Rows(title, headings, rows, caption, kinds=SIMULATED)


def interval(ends: tuple[float, ...] | None) -> str:
    """Two ends, or none."""
    return "–" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def _shown(found: ScoreSpread, numbers: tuple[int, ...]) -> list[str]:
    change = f"{found.difference:+.4f}" if found.ratio is None else f"× {found.ratio:.4f}"
    ends = found.difference_interval if found.ratio is None else found.ratio_interval
    good = "–" if found.yield_ is None else f"{100 * found.yield_:.0f} %"
    std = "–" if found.std is None else ratio_or_score(found.std)
    worst = f"{ratio_or_score(found.chips[numbers.index(found.worst)])} (no. {found.worst})"
    return [
        ratio_or_score(found.nominal),
        ratio_or_score(found.mean),
        std,
        change,
        interval(ends),
        worst,
        good,
    ]
