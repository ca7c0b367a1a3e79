"""Whole mappings that are killed at random moments: every file is whole or absent, and the run goes on."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.micro import micro_settings, write_micro
from tests.robustness.test_bad_input import comparable

from gaincell.mapping.pipeline import map_model

KILLS = 10

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot fork"),
]


def whole(folder: Path) -> None:
    """Everything that has its final name can be read; half a file has a name that begins with a dot."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.is_dir():
            continue
        if path.suffix == ".json":
            json.loads(path.read_text(), parse_constant=pytest.fail)
        elif path.suffix == ".safetensors" or "checkpoint" in path.name:
            load_file(path)


def test_killed_mappings_leave_whole_files(tmp_path: Path) -> None:
    model, text = write_micro(tmp_path)
    started = time.monotonic()
    map_model(micro_settings(model, text), tmp_path / "straight")
    seconds = time.monotonic() - started
    dice, killed, ended = random.Random(2), 0, 0
    while killed < KILLS or not ended:
        process = multiprocessing.get_context("fork").Process(
            target=map_model, args=(micro_settings(model, text), tmp_path / "run")
        )
        process.start()
        process.join(dice.uniform(0, seconds / 5) if killed < KILLS else None)  # the last one ends by itself
        process.kill()
        process.join()
        whole(tmp_path / "run")
        if process.exitcode == 0:  # after several kills, each of which it went on from
            ended += 1
            assert comparable(tmp_path / "run") == comparable(tmp_path / "straight")
            assert not list((tmp_path / "run").rglob(".*"))
            shutil.rmtree(tmp_path / "run")
        killed += process.exitcode == -signal.SIGKILL
