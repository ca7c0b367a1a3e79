"""Training that is killed at random moments, ten times, ends with the very bits of a run that was not."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.micro import micro_design, micro_llama

from gaincell.circuits.noise import Noise
from gaincell.integrations.hf.attach import attach
from gaincell.training import checkpoint as disk
from gaincell.training.loop import TrainSettings, train

KILLS = 10


def job(folder: Path) -> None:
    """120 steps with noise, a checkpoint after every third."""
    model = attach(micro_llama(torch.float32), micro_design(noise=Noise(score_std=0.01)))
    blocks = torch.randint(1, 97, (240, 33), generator=torch.Generator().manual_seed(0))
    settings = TrainSettings(batch=2, micro_batch=1, bf16=False, checkpoint_every=3)
    train(model, blocks, settings, checkpoint=folder / "checkpoint", log=folder / "log.jsonl")


def started(folder: Path) -> BaseProcess:
    """The job in a process of its own, which has everything imported already."""
    process = multiprocessing.get_context("fork").Process(target=job, args=(folder,))
    process.start()
    return process


def steps_done(folder: Path) -> int:
    """Of the checkpoint on disk, which is whole at any moment."""
    for place in disk.checkpoints(folder / "checkpoint"):
        with suppress(Exception), safe_open(place, framework="pt") as file:  # it may be renamed just now
            return int(json.loads(file.metadata()["progress"])["step"])
    return 0


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot fork")
def test_ten_kills_change_no_bit(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    killed.mkdir()
    job(straight)
    dice, done = random.Random(1), 0
    for _ in range(KILLS):
        process = started(killed)
        while steps_done(killed) == done and process.is_alive():
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.03))  # in which it may be writing
        process.kill()
        process.join()
        assert process.exitcode == -9
        assert done < steps_done(killed) < 120
        done = steps_done(killed)
    (killed / ".checkpoint-0123abcd").write_text("of a writer that was killed")
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
