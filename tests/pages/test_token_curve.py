"""The law of conversion against tokens: recovered from points that follow it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from token_curve import TokenPoint, draw_tokens, fit, token_markdown, tokens_of
from training_page import token_points

from gaincell.results import read
from gaincell.results.evaluation import TasksResult
from gaincell.results.run import TrainedResult

ROOT = Path(__file__).parents[2]
SCORES = ROOT / "docs" / "results" / "evaluation" / "tasks" / "tiny-adapted.json"


def _points(errors: float, noise: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)) -> list[TokenPoint]:
    found = []
    for tokens, off in zip((3e5, 9e5, 2e6, 3e6), noise, strict=True):
        ratio = math.exp(0.3 * (tokens / 9e5) ** -0.25 + off)
        found.append(TokenPoint(tokens, 38.8 * ratio, ratio, errors * ratio))
    return found


def test_the_law_is_recovered() -> None:
    law = fit(_points(0.01))
    assert law.logs[1] == pytest.approx(0.25, rel=1e-6)
    ratio, low, high = law(np.array([9e5, 5e7]))
    assert ratio == pytest.approx(np.exp(0.3 * np.array([1, (5e7 / 9e5) ** -0.25])), rel=1e-6)
    assert (low < ratio).all()
    assert (ratio < high).all()
    assert math.log(high[1] / low[1]) / math.log(ratio[1]) > math.log(high[0] / low[0]) / math.log(ratio[0])


@pytest.mark.parametrize(
    ("errors", "scatter", "seed"),
    [(0.01, 0.01, 0), (0.004, 0.02, 1)],
    ids=["as stated", "by the points alone"],
)
def test_the_band_holds_the_truth_as_often_as_it_says(errors: float, scatter: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    held = 0
    for _ in range(400):
        law = fit(_points(errors, tuple(generator.normal(0, scatter, 4))))
        _, low, high = law(np.array([1e7]))
        held += bool(low[0] <= math.exp(0.3 * (1e7 / 9e5) ** -0.25) <= high[0])
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def test_points_off_the_law_widen_its_band() -> None:
    near = fit(_points(0.01))
    assert not near.scatter.any()
    far = fit(_points(0.01, (0.04, -0.04, -0.04, 0.04)))
    assert far.scatter[1, 1] > 5 * far.articles[1, 1]
    exponent = np.array([0.0, 1.0])
    assert far.half(exponent) > 5 * near.half(exponent)


def test_errors_over_articles_go_together() -> None:
    """ln r of all points off by the same factor: all of it is in A."""
    share = np.random.default_rng(0).normal(0, 0.004, 60)
    found = []
    for point in _points(0.01):
        off = share * math.log(point.ratio)
        found.append(replace(point, error=point.ratio * math.hypot(*off), deviations=tuple(off)))
    together, apart = fit(found), fit([replace(point, deviations=()) for point in found])
    assert together.half(np.array([0.0, 1.0])) < 1e-3 * apart.half(np.array([0.0, 1.0]))
    for tokens in (3e5, 5e7):
        assert together.half(np.array([1.0, -math.log(tokens)])) == pytest.approx(
            1.96 * math.hypot(*share), rel=1e-3
        )


def test_deviations_are_those_of_the_error() -> None:
    for chip in ("leroux2025-fitted", "leroux2025-extended"):
        for point in token_points(chip):
            assert math.hypot(*point.deviations) == pytest.approx(point.error / point.ratio, rel=1e-9)


def test_a_software_model_that_gains_is_shown_without_a_law() -> None:
    found = [replace(point, ratio=0.9) for point in _points(0.01)]
    assert "Fitted" not in token_markdown(found)
    assert len(draw_tokens(found).axes[0].lines) < len(draw_tokens(_points(0.01)).axes[0].lines)


def test_tokens_are_those_of_the_stage_that_was_scored() -> None:
    run = read(ROOT / "adapters" / "smollm2-135m", TrainedResult)
    stage = run.saved_stage
    named = (("software-continued", 5), (stage.name, 7))
    run = replace(
        run, stages=tuple(replace(stage, name=name, training_tokens=tokens) for name, tokens in named)
    )
    scored = read(SCORES, TasksResult)
    assert tokens_of(run, replace(scored, stage="software-continued")) == 5
    assert tokens_of(run, scored) == 7
    assert tokens_of(run, replace(scored, stage="of another run")) == 7


def test_table_and_figure() -> None:
    found = _points(0.01)
    table = token_markdown(found)
    assert "| 900,000 |" in table
    assert "× continued" not in table
    other = token_markdown([replace(found[0], continued=(1.2, 0.01))])
    assert "| 1.200 ± 0.010 |" in other
    assert "× continued" in other
    assert "b = 0.25 ±" in table
    assert len(draw_tokens(found).axes[0].lines) > 2
    with pytest.raises(ValueError, match="3 points"):
        fit(found[:2])
    assert "Fitted" not in token_markdown(found[:2])
    assert len(draw_tokens(found[:2]).axes[0].lines) < len(draw_tokens(found).axes[0].lines)
