"""Bad inputs from seeds (bad_input/): each ends in one short line, none in a traceback or in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.robustness.bad_input.cases import cases
from tests.robustness.bad_input.commands import BASE, Place, options
from tests.robustness.bad_input.runner import failures, run_as_user, run_here
from tests.tiers import nightly, slow

from gaincell.ops.gain_cell_attention.native_library import compiled_library

CASES = 1000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("bad"))


def batch(seed: int, count: int) -> str:
    """Many in a process of its own, without pytest's warnings; what went wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.bad_input", str(seed), str(count)],
        capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    *wrong, said = done.stdout.splitlines()
    assert said.startswith(f"{count} cases of seed {seed}: {len(wrong)} ended badly")
    return "\n".join(wrong)


def test_every_command_is_known() -> None:
    """Of the options only flags of lm-eval, which are the harness's own, are not made bad."""
    assert {option.command for option in options()} == set(BASE)


@pytest.mark.slow
def test_some_bad_inputs() -> None:
    assert batch(0, 30) == ""


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_bad_inputs(seed: int) -> None:
    assert batch(seed, CASES) == ""


@pytest.mark.nightly
def test_bad_inputs_as_a_user_gives_them(place: Place) -> None:
    assert not list(failures(place, 3, 40, run_as_user))


@pytest.mark.parametrize("name", [slow("GAINCELL_INSTRUCTIONS"), nightly("TMPDIR"), nightly("COLUMNS")])
def test_a_bad_environment(place: Place, name: str) -> None:
    """A value that means nothing ends in one line, or changes nothing."""
    command = [sys.executable, "-m", "gaincell", "evaluate", *place.filled(BASE["evaluate"])]
    done = subprocess.run(
        command, env=os.environ | {name: "/no/such thing"}, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 2)
    if name == "GAINCELL_INSTRUCTIONS" and compiled_library() is not None:
        assert done.returncode == 2, "the level that was named is not what computed"
    if done.returncode:
        assert sum(line.startswith("gaincell: error:") for line in done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_judge_sees_what_is_wrong(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command does instead of refusing is found."""
    found = next(found for found in cases(place, 0, 20) if found.sure)

    def crash(_: object) -> None:
        raise ZeroDivisionError

    def leave(_: object) -> None:
        Path("left").touch()
        print("gaincell: error: no", file=sys.stderr)
        raise SystemExit(2)

    def accept(_: object) -> None:
        raise SystemExit(0)

    def chat(_: object) -> None:
        print("gaincell: error: " + "x" * 5000, file=sys.stderr)
        raise SystemExit(2)

    for main, expected in ((crash, "ZeroDivisionError"), (leave, "left behind"), (accept, "accepted"),
                           (chat, "characters")):  # fmt: skip
        monkeypatch.setattr("gaincell.cli.main", main)
        assert expected in (run_here(place, found) or "")
