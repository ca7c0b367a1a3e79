"""What follows from a sweep, told from results with a known answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sweep_page import changes_markdown
from tests.sweep_files import strength

from gaincell.evaluation.chips import perplexity_spread
from gaincell.reports.sweep import answers, caption
from gaincell.reports.sweep_aware import remarks
from gaincell.results import read
from gaincell.results.common import Value
from gaincell.results.sweep import Objective, SweepResult
from gaincell.sweeps.point import interval
from gaincell.sweeps.result import _with_ratio

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


def test_intervals_of_one_block_and_of_one_chip() -> None:
    blocks, chips = ((20.0, 10), (21.0, 10)), perplexity_spread(7.5, (0, 1), (7.4, 7.6), 0.05)
    assert interval(blocks, chips) is not None
    assert interval(blocks[:1], chips) is None
    result = read(RESULTS / "mismatch.json", SweepResult)
    assert "±: 95 %, over blocks and chips" in caption(result)
    assert "±: 95 %, over blocks and" not in caption(replace(result, chips=1))
    yields = [replace(p, intervals={"yield": p.intervals["yield"]}) for p in result.points]
    assert "Yield: 95 %, over chips" in caption(replace(result, points=tuple(yields)))


def test_a_single_block_gives_no_interval_of_a_ratio() -> None:
    points = [
        strength(n, "noise.cell_std", float(n), 0, [400.0 + 5 * n], [55.0 + n, 55.5 + n]) for n in range(2)
    ]
    found = _with_ratio(points[1], points[0], "blocks-101")
    assert (found.ratio, found.ratio_interval) == (pytest.approx(1.0513, abs=1e-4), None)


def test_a_yield_of_nothing_is_shown() -> None:
    """No chip of the unchanged design is good, so no other yield has a ratio to it."""
    result = _with_yield(read(RESULTS / "constraints.json", SweepResult), 0.0, 0.5)
    assert remarks(result)
    table = changes_markdown(result)
    assert "| area × | yield | perplexity is |" in table
    assert "| 50 % |" in table
