"""A sweep concludes nothing from a parameter that its measurement cannot see."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path

import pytest
from sweep_page import changes_markdown
from tests.sweep_files import measured, strength, swept

from gaincell.reports.html.page import load
from gaincell.reports.html.page import page as page_of
from gaincell.reports.style import save_all
from gaincell.reports.sweep import answers, caption, rows, verdict
from gaincell.reports.sweep_aware import aware_lines, remarks
from gaincell.reports.sweep_clouds import pareto
from gaincell.reports.sweep_figures import FIGURES, curves, tornado
from gaincell.results import write as write_result
from gaincell.results.sweep import Point, SweepResult, plain
from gaincell.sweeps.file import load_sweep

pytest.importorskip("optuna")
HEAD = """objectives = ["perplexity", "area"]
limit = 256
protocol = "blocks-32"
calibration = 64
"""


def of_window(found: SweepResult, window: int) -> Point:
    return next(p for p in found.complete if p.setting("window") == window)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_ring_longer_than_the_blocks_is_not_called_free(write: Callable[..., Path], tmp_path: Path) -> None:
    """Rings of 32, 64 and 128 columns give the same losses in blocks of 32: only 16 columns can be judged."""
    sweep = load_sweep(write("window = [16, 32, 128]\nquery_levels = [4]", f'{HEAD}sampler = "each"\n'))
    found = measured(sweep, tmp_path)
    own = of_window(found, 64)
    for window in (32, 128):
        point = of_window(found, window)
        assert point.blocks == own.blocks
        assert point.not_exercised == "blocks-32"
        assert point.ratio_interval is None
        assert verdict(point) == "not exercised by blocks-32"
    assert of_window(found, 16).not_exercised is None
    said = answers(found)
    free, unseen = said[1], said[-1]
    assert free.startswith("Numbers that save something")
    assert "window = 32" not in free
    assert unseen == (
        "Not exercised by blocks-32, so that nothing is known of their perplexity: window = 32; window = 128."
    )
    assert not any("window = 32" in line or "window = 128" in line for line in said[:-1])
    parameter = next(p for p in found.parameters if p.name == "window")
    assert parameter.not_exercised is not None
    (group,) = parameter.not_exercised.values
    assert {plain(v) for v in group} == {32, 64, 128}
    assert "blocks-32 does not exercise window = 64, 32, 128: between these values no loss" in caption(found)
    lines = {line[0]: line for line in rows(found).rows}
    assert "not exercised" in lines["window = 32"]
    assert "not exercised" not in lines["window = 16"]
    page = changes_markdown(found)
    assert "| window = 32 | not exercised |" in page
    assert page.count("| not exercised by blocks-32 |") == 2
    labels = [label.get_text() for label in tornado(found).axes[0].get_yticklabels()]
    assert {"window = 32 (not exercised)", "window = 128 (not exercised)"} < set(labels)
    assert "window = 16" in labels
    assert save_all(FIGURES, found, tmp_path / "figures")
    for figure in (tornado(found), curves(found), pareto(found)):
        open_ones = sum(
            len(line.get_xdata())
            for axes in figure.axes
            for line in axes.lines
            if line.get_label() == "not exercised" and line.get_markerfacecolor() == "white"
        )
        assert open_ones == 2
    assert "not exercised" in [text.get_text() for text in curves(found).legends[0].get_texts()]
    path = tmp_path / "found.json"
    write_result(found, path)
    shown = html.unescape(page_of([load(path, "found")], None))
    for said in (caption(found), *remarks(found)):
        assert said in shown


@pytest.mark.slow
def test_a_front_over_what_is_not_seen_says_so(write: Callable[..., Path], tmp_path: Path) -> None:
    """Of a grid without the unchanged design, too: its front prefers the short ring unseen."""
    found = measured(load_sweep(write("window = [32, 128]\nquery_levels = [4, 8]", HEAD)), tmp_path)
    assert found.reference is None
    assert "blocks-32 does not exercise window = 32, 128: between these values no loss" in caption(found)
    levels = next(p for p in found.parameters if p.name == "query_levels")
    assert levels.not_exercised is None


@pytest.mark.slow
def test_longer_blocks_exercise_the_ring(write: Callable[..., Path], tmp_path: Path) -> None:
    head = HEAD.replace("blocks-32", "blocks-64") + 'sampler = "each"\n'
    found = measured(load_sweep(write("window = [32]", head)), tmp_path)
    assert of_window(found, 32).not_exercised is None
    assert "exercise" not in caption(found)
    assert not any("ot exercised" in line for line in answers(found))


def test_a_strength_that_is_not_seen_has_no_loss_to_buy_back() -> None:
    """A seed changes nothing where nothing is drawn."""

    name, losses, trained = "noise.pulse_jitter", (100.0, 102.0, 99.0), (99.5, 101.2, 98.9)
    points = [
        strength(0, name, 0.0, 0, losses),
        strength(1, name, 0.0, 8, trained),
        strength(2, name, 1e-12, 0, losses),
        strength(3, name, 1e-12, 8, trained),
    ]
    found = swept(points, {name: "s", "fine_tune": "steps"})
    control, unseen, _ = aware_lines(found)
    assert "1.0000 ± 0.0000 before" in control
    assert "not exercised before training" in unseen
