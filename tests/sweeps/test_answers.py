"""What follows from a sweep, told from results with a known answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gaincell.reports.sweep import answers, changes_markdown
from gaincell.reports.sweep_aware import remarks
from gaincell.results import read
from gaincell.results.common import Value
from gaincell.results.sweep import Objective, SweepResult

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "sweeps"


def _with_yield(result: SweepResult, own: float, others: float) -> SweepResult:
    """The result with the objective yield: of the unchanged design, and of all other points."""
    points = [
        replace(p, values={**p.values, "yield": Value(y, "1", "simulated")})
        for p in result.points
        for y in (own if p.point == result.reference else others,)
    ]
    objectives = (*result.objectives, Objective("yield", "maximise", "1"))
    return replace(result, objectives=objectives, points=tuple(points))


def test_a_lost_yield_saves_nothing() -> None:
    result = read(RESULTS / "constraints.json", SweepResult)
    kept, lost = (answers(_with_yield(result, 1.0, y)) for y in (1.0, 0.5))
    assert kept == answers(result) == answers(_with_yield(result, 0.5, 1.0))
    assert "×" in kept[1]
    assert lost[1] == "Numbers that save something for surely less than 1 % of perplexity: nothing."


def test_a_yield_of_nothing_is_shown() -> None:
    """No chip of the unchanged design is good, so no other yield has a ratio to it."""
    result = _with_yield(read(RESULTS / "constraints.json", SweepResult), 0.0, 0.5)
    assert remarks(result)
    table = changes_markdown(result)
    assert "| area × | yield | perplexity is |" in table
    assert "| 50 % |" in table
