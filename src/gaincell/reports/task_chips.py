"""Scores of tasks on many virtual chips, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized

from gaincell.reports.tables import SIMULATED, Rows, ratio_or_score
from gaincell.results.evaluation import ScoreSpread, TasksResult


def chips_of_tasks(runs: Mapping[str, TasksResult]) -> Iterator[Rows]:
    """A table for every result that has chips."""
    for name, run in runs.items():
        if run.chips is not None:
            yield chip_rows(run, f"{name}: scores of every chip")


def chip_rows(run: TasksResult, title: str = "") -> Rows:
    """One row a score of a result that has chips."""
    chips = run.chips
    assert chips is not None
    caption = (
        f"{about_tasks(run)}; all on the same items; change: ratio of perplexities, difference of other "
        "scores, with its interval of 95 % over chips (Student)"
    )
    within = f"yield (≤ +{100 * chips.yield_within:g} %)"
    headings = ("score", "nominal", "mean", "std", "change", "95 %", "worst chip", within)
    rows = [[name, *_shown(spread, chips.number)] for name, spread in chips.scores.items()]
    return Rows(title, headings, rows, caption, kinds=SIMULATED)


def about_tasks(run: TasksResult) -> str:
    """Protocol of a result, and what befell its requests (of the nominal chip)."""
    forgot = "requests were longer than the ring, which then forgot their beginning"
    counts = (
        (run.requests_cached, f"of {run.requests} answers were kept from an earlier run"),
        (run.requests_truncated, "requests were longer and lost tokens on the left"),
        (run.requests_beyond_window, forgot),
    )
    return "; ".join([run.provenance.protocol, *(f"{n} {what}" for n, what in counts if n)])


def how_many(chips: Sized) -> str:
    """Number of chips, in words."""
    return f"{len(chips)} chip{'s' * (len(chips) > 1)}"


def interval(ends: tuple[float, ...] | None) -> str:
    return "–" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def _shown(found: ScoreSpread, numbers: tuple[int, ...]) -> list[str]:
    change = f"{found.difference:+.4f}" if found.ratio is None else f"× {found.ratio:.4f}"
    ends = found.difference_interval if found.ratio is None else found.ratio_interval
    good = "–" if found.yield_ is None else f"{100 * found.yield_:.0f} %"
    std = "–" if found.std is None else ratio_or_score(found.std)
    worst = f"{ratio_or_score(found.chips[numbers.index(found.worst)])} (no. {found.worst})"
    nominal, mean = ratio_or_score(found.nominal), ratio_or_score(found.mean)
    return [nominal, mean, std, change, interval(ends), worst, good]
