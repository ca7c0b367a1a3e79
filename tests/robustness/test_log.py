"""The log of a training after an interruption."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from gaincell.errors import RunError
from gaincell.reports.training import curves, losses, read_log
from gaincell.results import read
from gaincell.results.run import TrainedResult
from gaincell.training.log import TrainingLog


def test_steps_that_are_done_again_replace_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for stage, part, steps in (("linear", "1 of 2", 3), ("linear", "2 of 2", 5)):
        log = TrainingLog(path, {"stage": stage, "part": part})
        for step in range(steps):
            log.line(step, {"loss": 1.0})
    with path.open("a") as file:
        file.write('{"stage": "linear", "pa')  # killed while writing
    assert len(read_log(path)) == 8
    TrainingLog(path, {"stage": "linear", "part": "2 of 2"}).rewind(3)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["part"], line["step"]) for line in kept] == [
        *(("1 of 2", step) for step in (0, 1, 2)),
        *(("2 of 2", step) for step in (0, 1, 2)),
    ]


def test_a_log_that_cannot_grow_says_why_and_goes_on_later(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "log.jsonl")
    log.line(0, {"loss": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 10, hard))
    try:
        with pytest.raises(RunError, match=r"cannot write .*log.jsonl: the disk is full, .*free some space"):
            log.line(1, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.rewind(1)
    log.line(1, {"loss": 1.0})
    assert [line["step"] for line in read_log(log.path)] == [0, 1]


def test_the_figure_shows_every_training(tmp_path: Path) -> None:
    for stage in ("linear", "fine-tuned"):
        log = TrainingLog(tmp_path / "log.jsonl", {"stage": stage}, tmp_path / "loss.png")
        for step in range(20):
            log.line(step, {"loss": 2.0 / (step + 1), "tokens": step * 64, "evaluation": 3.0})
        log.draw()
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert {line["stage"] for line in read_log(tmp_path / "log.jsonl")} == {"linear", "fine-tuned"}


def test_evaluations_have_an_axis_of_their_own() -> None:
    named = {"stage": "linear", "loss": 4.0, "loss_name": "cross-entropy", "loss_unit": "nats per token"}
    lines = [{**named, "step": step, "tokens": 64 * step} for step in range(9)]
    alone = losses(lines)
    assert alone is not None
    assert [axes.get_ylabel() for axes in alone.axes] == ["cross-entropy (nats per token)"]
    both = losses([*lines[:-1], {**lines[-1], "evaluation": 90.0}])
    assert both is not None
    assert [axes.get_ylabel() for axes in both.axes] == [
        "cross-entropy (nats per token)",
        "perplexity (evaluation)",
    ]
    seen = [max(max(line.get_ydata()) for line in axes.lines) for axes in both.axes]
    assert seen == [4.0, 90.0]
    assert losses([{"step": 0, "evaluation": 90.0}]) is None


def test_the_curves_of_stages_say_of_which_text_they_are() -> None:
    root = Path(__file__).parents[2] / "docs" / "results" / "training"
    runs = [read(path, TrainedResult) for path in root.glob("*.json")]
    watched = [run for run in runs if any(stage.curve is not None for stage in run.stages)]
    assert watched
    assert all(curves(run) is None for run in runs if run not in watched)
    for run in watched:
        figure = curves(run)
        assert figure is not None
        (axes,) = figure.axes
        assert axes.get_ylabel() == "perplexity (first part of the evaluation text)"
        assert axes.lines[-1].get_label() == "software, on the whole text"
        assert curves(replace(run, stages=())) is None


@pytest.mark.parametrize(
    "line",
    ["null", "[]", "5", "[" * 100_000, "[" * 9000 + "]" * 9000, '{"stage": "linear"}', '{"step": null}',
     '{"step": "text"}', '{"step": true}', '{"step": 1, "loss": "low"}', '{"step": 1, "stage": []}'],
)  # fmt: skip
def test_a_damaged_log_is_refused_by_name(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 0, "loss": 1.0}}\n{line}\n')
    for reading in (lambda: read_log(path), lambda: TrainingLog(path).rewind(1)):
        with pytest.raises(RunError, match=r"log.jsonl cannot be read \(line 2: .*remove the file"):
            reading()


def test_a_pipe_is_no_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.raises(RunError, match="no regular file"):
        TrainingLog(tmp_path / "log.jsonl").rewind(0)
