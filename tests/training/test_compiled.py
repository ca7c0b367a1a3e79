"""Compiled layers: what is compiled, and that a training learns the same.

Runs as a program of its own: the run-time type checks of the test suite cannot be compiled.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import gaincell
from gaincell.errors import InputError
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.support import attention_modules
from gaincell.training.compiled import compile_layers, is_compiled
from gaincell.training.distillation import Distillation
from gaincell.training.loop import TrainSettings, train


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_learn_the_same() -> None:
    program = [sys.executable, "-m", "tests.training.test_compiled"]
    result = subprocess.run(program, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stderr[-2000:]


def check_training() -> None:
    """All but the arrays is compiled, in model and teacher; losses differ by rounding alone."""
    teacher: Any = load_model("tiny").model
    student = gaincell.attach(copy.deepcopy(teacher), "leroux2025")
    for attention in attention_modules(student).values():
        cell: Any = attention.gain_cell
        cell.add_biases()
        cell.add_exponents()
        cell.add_normaliser()
        cell.pair_rows(torch.arange(cell.head_dim // 2).expand(cell.kv_heads, -1))
    blocks = torch.randint(0, 4000, (4, 65), generator=torch.Generator().manual_seed(0))
    gaincell.calibrate(student, [blocks[:, :-1]])
    settings = TrainSettings(batch=1, micro_batch=1, bf16=False, warmup_steps=0, learning_rate=1e-3)
    losses: dict[bool, list[float]] = {}
    counted = torch._dynamo.utils.counters
    for compiled in (False, True):
        model, tutor = copy.deepcopy(student), copy.deepcopy(teacher)
        if compiled:
            compile_layers(model)
            compile_layers(tutor)
        found = losses[compiled] = []
        train(model, blocks, settings, loss_of=Distillation(tutor, 0.5, states=1.0), progress=noting(found))
        assert (counted["stats"]["unique_graphs"] > 0) == compiled
    assert not counted["graph_break"]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert losses[True][0] != losses[True][-1]
    layer = model.model.layers[0]
    parts = (layer.mlp, layer.input_layernorm, layer.self_attn.gain_cell.q, layer.self_attn)
    assert [part._compiled_call_impl is not None for part in parts] == [True, True, True, False]
    assert is_compiled(model)
    assert {"values", "output"} <= vars(layer.self_attn.gain_cell).keys()
    assert not {"values", "output"} & vars(copy.deepcopy(layer.self_attn.gain_cell)).keys()


def noting(losses: list[float]) -> Any:
    def progress(done: int, total: int, values: dict[str, float]) -> None:
        losses.append(next(iter(values.values())))

    return progress


def test_without_a_compiler_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: Any) -> None:
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(InputError, match=r"not work here \(Inv.* found\): it needs a C\+\+ comp"):
        compile_layers(load_model("tiny").model)


if __name__ == "__main__":
    check_training()
