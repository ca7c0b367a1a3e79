"""Progress on stderr: bars that fit a terminal, plain lines in a file; tables that fit a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from tests.micro import micro_design, write_micro

from gaincell.adaptation.published import expected
from gaincell.cli import _progress, main
from gaincell.cli._progress import progress_bars
from gaincell.integrations.hf.attach import attach
from gaincell.integrations.hf.base_model import load_base
from gaincell.integrations.hf.checkpoint import save
from gaincell.mapping.recipe_file import load_recipe
from gaincell.reports.tables import _amount, plan_table, stages_table
from gaincell.results import read
from gaincell.results.run import TrainedResult

ROOT = Path(__file__).parents[2]
NUMBERS = {"cross-entropy (nats per token)": 3.4567, "learning_rate": 1e-3, "tokens_per_second": 1559.7}


def shown(monkeypatch: pytest.MonkeyPatch, step: str, numbers: dict[str, float]) -> str:
    """What a terminal of 80 columns shows of a step at its middle, without colours."""
    terminal = io.StringIO()
    monkeypatch.setattr("sys.stderr", terminal)
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "80"), ("TTY_INTERACTIVE", "1")):
        monkeypatch.setenv(name, value)
    with progress_bars() as stages:
        show = stages(step)
        show(1, 1000, numbers)
        show(500, 1000, numbers)
    return re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", terminal.getvalue())


def test_a_bar_shows_tokens_per_second_on_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, "software-continued-more: train", NUMBERS)
    last = [line.rstrip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    assert max(map(len, last)) <= 80
    assert "50%" in text
    assert "left cross-entropy 3.457" in text
    assert "nats per token" in " ".join(text.split())
    assert "1,560 tok/s" in text
    assert "…" not in text
    assert "tok/s" not in shown(monkeypatch, "linear: evaluate", {})


def test_a_file_gets_plain_lines_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(_progress, "time", SimpleNamespace(monotonic=lambda: now))
    with progress_bars() as stages:
        show = stages("linear: train")
        for step in range(101, 301):  # it goes on from step 100, one every 2 seconds
            now += 2.0
            show(step, 300, NUMBERS)
        show = stages("linear: evaluate")
        show(1, 3, {})
        stages("adapted: adapt")(5, 0, {"residual": 0.01})
    lines = capsys.readouterr().err.splitlines()
    assert (
        lines[0] == "linear: train, 115 of 300, cross-entropy 3.457 nats per token, 1,560 tok/s, 0:06:10 left"
    )
    assert len(lines) == 14 + 2
    assert lines[-3:] == [
        "linear: train, 300 of 300, cross-entropy 3.457 nats per token, 1,560 tok/s",
        "linear: evaluate, 1 of 3",
        "adapted: adapt, 5, residual 0.01",
    ]
    assert _progress.EVERY >= 10


def test_a_file_gets_no_line_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is printed before something has changed, however often a step says that it is done."""
    now = 0.0
    monkeypatch.setattr(_progress, "time", SimpleNamespace(monotonic=lambda: now))
    with progress_bars() as stages:
        show = stages("read the text")
        for done in (10, 20, 20, 20):
            now += 40.0
            show(done, 20, {})
        show = stages("evaluate")
        for _ in range(3):
            now += 40.0
            show(1, 3, {})
    assert capsys.readouterr().err.splitlines() == [
        "read the text, 10 of 20",
        "read the text, 20 of 20",
        "evaluate, 1 of 3",
    ]


@pytest.mark.slow
def test_a_command_prints_no_line_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where every step prints one, without a pause."""
    model, text = write_micro(tmp_path)
    base = load_base(model)
    save(attach(base.model, micro_design()), tmp_path / "run", base=base)
    monkeypatch.setattr(_progress, "EVERY", 0.0)
    capsys.readouterr()
    command = ["adapt", str(tmp_path / "run"), "--text", str(text), "--cell", "x3", "--method", "published"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--limit", "512", "--calibration-tokens", "512"])
    assert ended.value.code == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 5
    assert len(set(lines)) == len(lines)


def test_the_time_left_of_an_iteration_follows_its_residual(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A residual that falls tenfold each time is at 1e-6 after 6 iterations, whatever the limit."""
    history: list[dict[str, float]] = []
    now = 0.0
    monkeypatch.setattr(_progress, "time", SimpleNamespace(monotonic=lambda: now))
    with progress_bars() as stages:
        show = stages("adapt")
        for iteration in range(7):
            now += 60.0
            history.append({"iteration": float(iteration), "residual": 10.0**-iteration})
            show(iteration, 100, history[-1] | expected(history, 1e-6, 100))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "adapt, 0 of at most 100, residual 1"
    assert [line.rpartition(", ")[2] for line in lines[1:6]] == [f"0:0{n}:00 left" for n in (5, 4, 3, 2, 1)]
    assert lines[6] == "adapt, 6 of at most 100, residual 1e-06"
    rising = [{"iteration": 0.0, "residual": 0.1}, {"iteration": 1.0, "residual": 0.2}]
    assert expected(rising, 1e-6, 100) == {"expected": 100.0}
    slow = [{"iteration": 0.0, "residual": 0.2}, {"iteration": 1.0, "residual": 0.1999}]
    assert expected(slow, 1e-6, 100) == {"expected": 100.0}


def rendered(table: object) -> str:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    return captured.get()


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_a_plan_is_legible_on_80_columns(path: Path) -> None:
    recipe = load_recipe(path)
    text = rendered(plan_table(recipe, recipe.stages))
    states = [stage.states for stage in recipe.stages if stage.states]
    assert all(f"0.5 CE + 0.5 KL + {share:g} states" in text for share in states)
    assert "…" not in text
    assert all(str(stage.steps) in text for stage in recipe.stages)
    rates = [stage.training.learning_rate for stage in recipe.stages if stage.task == "train"]
    shown = [float(rate) for rate in re.findall(r"\S *(\de-\d|\d\.\de-\d) *$", text, re.MULTILINE)]
    assert shown == pytest.approx(rates, rel=0.05)


@pytest.mark.parametrize(("tokens", "shown"), [(999, "999"), (999_499, "999 k"), (999_936, "1 M")])
def test_tokens_have_three_digits_and_a_unit(tokens: int, shown: str) -> None:
    assert _amount(tokens) == shown


def test_a_result_is_legible_on_80_columns() -> None:
    run = read(ROOT / "docs" / "results" / "training" / "tiny-table.json", TrainedResult)
    run = replace(run, stages=tuple(replace(s, training_tokens=25_559_040_000) for s in run.stages))
    text = rendered(stages_table(run))
    assert "…" not in text
    assert text.count(" 25,559,040,000 ") == len(run.stages)
    assert "straight" in text
