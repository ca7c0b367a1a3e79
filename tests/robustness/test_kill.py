"""Training that is killed at random moments, ten times, ends with the very bits of a run that was not."""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import signal
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.micro import micro_design, micro_llama
from tests.tiers import slow

from gaincell.circuits.noise import Noise
from gaincell.integrations.hf.attach import attach
from gaincell.training import checkpoint as disk
from gaincell.training.loop import TrainSettings, train

KILLS = 10
SMALL = 60_000  # bytes: larger than the log, smaller than the parameters

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot fork"
)


def job(
    folder: Path,
    largest: int | None = None,
    *,
    steps: int = 120,
    most: int | None = None,
    **changes: object,
) -> None:
    """So many steps with noise, a checkpoint after every third. A file that grows larger than `largest` bytes
    kills the process, in the midst of writing. After `most` steps of its own it waits to be killed.
    """
    seen: list[int] = []

    def wait(done: int, total: int, numbers: object) -> None:
        seen.append(done)
        if len(seen) == most:
            time.sleep(600)

    if largest is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    model = attach(micro_llama(torch.float32), micro_design(noise=Noise(score_std=0.01)))
    blocks = torch.randint(1, 97, (2 * steps, 33), generator=torch.Generator().manual_seed(0))
    settings = TrainSettings(batch=2, micro_batch=1, bf16=False, checkpoint_every=3, **changes)  # type: ignore[arg-type]
    place, log = folder / "checkpoint", folder / "log.jsonl"
    train(model, blocks, settings, progress=wait, checkpoint=place, log=log, evaluate=lambda _: 1.0)


def started(folder: Path, *arguments: object, **changes: object) -> BaseProcess:
    """The job in a process of its own, which has everything imported already."""
    process = multiprocessing.get_context("fork").Process(
        target=job, args=(folder, *arguments), kwargs=changes
    )
    process.start()
    return process


def steps_done(folder: Path) -> int:
    """Of the checkpoint on disk, which is whole at any moment."""
    for place in disk.checkpoints(folder / "checkpoint"):
        with suppress(Exception), safe_open(place, framework="pt") as file:  # it may be renamed just now
            return int(json.loads(file.metadata()["progress"])["step"])
    return 0


@pytest.mark.slow
def test_ten_kills_change_no_bit(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    killed.mkdir()
    job(straight)
    dice, done = random.Random(1), 0
    for _ in range(KILLS):
        process = started(killed, most=11)  # however late it is killed
        while steps_done(killed) == done and process.is_alive():
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.03))  # in which it may be writing
        process.kill()
        process.join()
        assert process.exitcode == -9
        assert done < steps_done(killed) < 120
        done = steps_done(killed)
    last = started(killed)
    last.join()
    assert last.exitcode == 0
    expected, found = (load_file(folder / "checkpoint") for folder in (straight, killed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    names = sorted(path.name for path in killed.iterdir() if "log" not in path.name)
    assert names == ["checkpoint", "checkpoint.1"]
    logs = [(folder / "log.jsonl").read_text().splitlines() for folder in (straight, killed)]
    losses = [[(json.loads(line)["step"], json.loads(line)["loss"]) for line in log] for log in logs]
    assert losses[0] == losses[1]  # the very curve, every step once
    assert len(losses[0]) == 120


@pytest.mark.parametrize("writer", ["checkpoint", slow("best")])
def test_what_a_killed_writer_left_goes(writer: str, tmp_path: Path) -> None:
    best = {"evaluate_every": 2, "patience": 1000} if writer == "best" else {}
    changes = {"steps": 12} | best
    for again in (False, True):
        process = started(tmp_path, SMALL, **changes)
        process.join()
        assert process.exitcode == -signal.SIGXFSZ
        (left,) = (path for path in tmp_path.iterdir() if "log" not in path.name)
        assert left.name.startswith(".")
        if again:
            job(tmp_path, **changes)
            assert not left.exists()
            expected = {"checkpoint", "checkpoint.1"} | ({"checkpoint.best"} if best else set())
            assert {path.name for path in tmp_path.iterdir() if "log" not in path.name} == expected
        disk.remove(tmp_path / "checkpoint")
        assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
