"""The definition (naive.py) is mutated: no backend may agree with a wrong hardware model."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.tiers import slow

from gaincell.chips.design_file import Design, load_design
from gaincell.ops.gain_cell_attention import gain_cell_attention, naive, native_library
from gaincell.ops.gain_cell_attention.backends import naive as naive_backend

MUTATIONS = {
    "no decay": {"age, u.dtype)": "age * 0, u.dtype)"},
    "decay outside the cell's curve": {
        "chip.current(array, u, left, age)": "chip.current(array, u, torch.ones_like(left), 0 * age) * left"
    },
    "a token does not see itself": {"(i - j >= 0)": "(i - j > 0)"},
    "a window of one token more": {"i - j < call.window": "i - j <= call.window"},
    "values of keys": {"cells(1, vu)": "cells(1, ku)"},
    "scores without ceiling": {"saturation, design.score_ceiling, exponent": "saturation, False, exponent"},
    "outputs without ceiling": {"output_saturation, design.output_ceiling": "output_saturation, False"},
    "pulses squared": {", design.score_ceiling, exponent)": ", design.score_ceiling, 2)"},
    "sub-tiles by absolute index, laps apart": {
        "range(design.tiles)": "range(int(key_index.max()) // design.tile + 1)",
        "key_index % design.window // design.tile": "key_index // design.tile",
    },
    "sub-tiles one column on": {"key_index % design.window": "(key_index + 1) % design.window"},
    "readout after the sum": {
        "total + quantize_output(output, design.readout, design.counter_levels)": "total + output",
        "return total": "return quantize_output(total, design.readout, design.counter_levels)",
    },
}
FAST = ("blocked", "decode", "triton", *(f"native-{level}" for level in native_library.levels()))


def chip() -> Design:
    """Decay, both ceilings, two laps and every sub-tile matter."""
    changes = {"score_saturation_per_row": 0.12, "output_saturation_per_column": 1.0}
    return load_design("leroux2025").replace(window=32, tile=16, token_period=60e-6, **changes)


def apart(backend: str) -> float:
    """Share of outputs of a backend that are off by more than float32 can tell."""
    if backend == "triton":
        pytest.importorskip("triton")
        import tests.ops.test_triton  # noqa: F401  (its kernels without type checks)
    g = torch.Generator().manual_seed(5)
    q = torch.rand(2, 2, 75, 16, generator=g)
    k, v = torch.rand(2, 2, 1, 75, 16, generator=g) * 0.9
    q = q[:, :, -1:] if backend == "decode" else q
    found, expected = (gain_cell_attention(q, k, v, chip(), None, i) for i in (backend, "naive"))  # type: ignore[arg-type]
    return float(((found - expected).abs() > 1e-4).double().mean())


def mutated(changes: dict[str, str]) -> ModuleType:
    source = Path(naive.__file__).read_text(encoding="utf-8")
    for before, after in changes.items():
        assert source.count(before) >= 1, before
        source = source.replace(before, after)
    module = ModuleType("mutated")
    exec(compile(source, "mutated", "exec"), vars(module))
    return module


@pytest.mark.parametrize("backend", FAST)
def test_every_backend_agrees_with_the_definition(backend: str) -> None:
    assert apart(backend) <= 1e-3


@pytest.mark.parametrize(
    ("mutation", "backend"),
    [
        slow(mutation, backend) if backend == "triton" and number > 2 else (mutation, backend)
        for number, mutation in enumerate(MUTATIONS)
        for backend in FAST
    ],
)
def test_no_backend_agrees_with_another(backend: str, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naive_backend, "attention", mutated(MUTATIONS[mutation]).attention)
    assert apart(backend) > 0.02
