"""What noise-aware fine-tuning buys back, from results with a known answer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import sweep_page
from scipy import stats
from tests.sweep_files import strength, swept

from gaincell.reports.sweep_aware import aware_lines, aware_rows, bought_back, strength_of
from gaincell.results import read
from gaincell.results.sweep import Point, SweepResult


def _point(value: float, steps: int, nll: list[float], chips: list[float] | None = None) -> Point:
    return strength(0, "noise.cell_std", value, steps, nll, chips)


def _result(points: list[Point], names: tuple[str, ...] = ("noise.cell_std", "fine_tune")) -> SweepResult:
    return swept(points, dict.fromkeys(names, "1"))


def test_share_of_the_loss() -> None:
    """60 % on every block: a share without an error, and ratios of the perplexities."""
    start = [400.0, 450.0, 420.0]
    loss = [10.0, 20.0, 15.0]
    unaware = [a + b for a, b in zip(start, loss, strict=True)]
    aware = [a + 0.4 * b for a, b in zip(start, loss, strict=True)]
    points = [_point(0.0, 0, start), _point(0.1, 0, unaware), _point(0.1, 8, aware)]
    (found,) = bought_back(_result(points))
    assert found.before[0] == pytest.approx(math.exp(45 / 300))
    assert found.after[0] == pytest.approx(math.exp(18 / 300))
    assert found.share is not None
    assert found.share[0] == pytest.approx(0.6)
    assert found.share[1:] == pytest.approx((0.6, 0.6), abs=1e-6)
    assert "60 % (60 to 60)" in aware_rows(_result(points)).markdown()
    assert "60 % (60 to 60) of the loss bought back" in aware_lines(_result(points))[0]


def test_intervals_of_shares_hold_what_is_not_told_apart_from_them() -> None:
    """At either end of Fieller's interval gain - share loss is just as far from zero as its half-width."""
    start = [400.0, 450.0, 420.0, 430.0]
    unaware, aware = [412.0, 470.0, 436.0, 441.0], [405.0, 456.0, 431.0, 434.0]
    points = [_point(0.0, 0, start), _point(0.1, 0, unaware), _point(0.1, 8, aware)]
    (found,) = bought_back(_result(points))
    assert found.share is not None
    share, low, high = found.share
    assert low < share < high
    for end in (low, high):
        left = [(u - a) - end * (u - s) for s, u, a in zip(start, unaware, aware, strict=True)]
        half = stats.t.ppf(0.975, 3) * np.std(left, ddof=1) / 2
        assert abs(np.mean(left)) == pytest.approx(half)


def test_a_sweep_without_its_reference_is_told_apart() -> None:
    points = [_point(0.1, 0, [410.0, 461.0]), _point(0.1, 8, [404.0, 455.0])]
    for found in (_result(points), _result([_point(0.0, 0, [1.0, 2.0])])):
        assert bought_back(found) == aware_lines(found) == []


def test_chips_widen_the_interval() -> None:
    start, unaware, aware = [400.0, 450.0], [410.0, 461.0], [404.0, 455.0]
    alone = [_point(0.0, 0, start), _point(0.1, 0, unaware), _point(0.1, 8, aware)]
    chips = [[50.0, 50.0, 50.0], [55.0, 56.0, 54.0], [52.0, 52.5, 52.0]]
    with_chips = [
        _point(s, a, n, c)
        for (s, a, n), c in zip(((0.0, 0, start), (0.1, 0, unaware), (0.1, 8, aware)), chips, strict=True)
    ]
    (narrow,), (wide,) = bought_back(_result(alone)), bought_back(_result(with_chips))
    assert narrow.before[0] == pytest.approx(wide.before[0])
    assert narrow.before[1] < wide.before[1]


def test_a_single_block_has_no_interval() -> None:
    """Nor has the share, however equal the chips are."""
    for chips in ([50.0, 55.0, 52.0], None):
        points = [
            _point(strength, steps, [nll], chips and [chips[n]] * 3)
            for n, (strength, steps, nll) in enumerate([(0.0, 0, 400.0), (0.1, 0, 410.0), (0.1, 8, 404.0)])
        ]
        result = _result(points)
        (found,) = bought_back(result)
        assert found.share is None
        assert math.isnan(found.before[1])
        assert "| × 1.1052 ± – | × 1.0408 ± – | – |" in aware_rows(result).markdown()
        assert "over blocks and chips" in aware_lines(result)[-1]
        assert "over blocks;" in aware_lines(replace(result, chips=1))[-1]


def test_no_share_of_a_loss_that_is_none() -> None:
    points = [
        _point(0.0, 0, [400.0, 450.0, 420.0]),
        _point(0.1, 0, [401.0, 449.0, 420.5]),
        _point(0.1, 8, [400.0, 449.0, 420.0]),
    ]
    assert bought_back(_result(points))[0].share is None
    assert aware_rows(_result(points)).markdown().count("| – |") == 1


@pytest.mark.parametrize(
    ("name", "rates", "reached"),
    [
        (
            "aware-mismatch",
            "0.0001 for the weights, 0.001 for gains",
            "is missed at mismatch.current_offset_std = 0.1.",
        ),
        (
            "aware-mismatch-strong",
            "0.0003 for the weights, 0.003 for gains",
            "is missed at mismatch.current_offset_std = 0.3.",
        ),
        (
            "aware-noise",
            "0.0003 for the weights, 0.01 for gains",
            "undecided (the interval spans it) at noise.output_std = 0.03 and",
        ),
        ("aware-noise", "0.0003 for the weights, 0.01 for gains", "reached at noise.output_std = 0.1."),
    ],
)
def test_the_page_says_the_rates_and_whether_the_aim_was_reached(name: str, rates: str, reached: str) -> None:
    found = read(sweep_page.ROOT / "docs" / "results" / "sweeps" / f"{name}.json", SweepResult)
    said = sweep_page.part(name, sweep_page.SECTIONS[name], found)
    assert rates in said
    assert reached in said
    assert said in (sweep_page.ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")


def test_other_sweeps_are_told_apart() -> None:
    found = _result([], ("tile", "window", "fine_tune"))
    assert strength_of(found) is None
    assert bought_back(found) == aware_lines(found) == []
