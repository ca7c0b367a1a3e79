"""The same random numbers in Python, C++ and Triton."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

import gaincell
from gaincell.chips.design_file import load_design
from gaincell.circuits.noise import Noise
from gaincell.devices.random import VALUE_ARRAY, Effect, normal
from gaincell.ops.gain_cell_attention import gain_cell_attention, native_library

LEVELS = [f"native-{level}" for level in native_library.levels()]


@pytest.mark.skipif(not LEVELS, reason="the kernel was not built: no C++ compiler")
@pytest.mark.parametrize("backend", LEVELS)
def test_draws_of_the_compiled_kernel(backend: str) -> None:
    """Output noise of silent arrays, read without a counter, is the draw itself: 40 000 of them."""
    noise = Noise(output_std=1e-3, seed=0xDEADBEEF)
    design = load_design("leroux2025").replace(
        cell="linear", window=64, tile=64, readout="none", output_ceiling=False, noise=noise
    )
    q = torch.zeros(1, 2, 640, 32)
    out = gain_cell_attention(q, q, q, design, None, backend, layer=7)  # type: ignore[arg-type]
    z = normal(
        seed=noise.seed, chip=0, layer=7, head=torch.arange(2)[:, None, None], array=VALUE_ARRAY, column=0,
        row=torch.arange(32), effect=Effect.READ, step=torch.arange(640)[:, None],
    )  # fmt: skip
    assert float((out[0].double() / 1e-3 - z).abs().max()) < 2e-6


def test_draws_of_triton() -> None:
    pytest.importorskip("triton")
    # triton reads the source of its kernels: keep the run-time type checks of the test suite out of them
    name = "gaincell.ops.gain_cell_attention.triton_random"
    path = Path(gaincell.__file__).parent / "ops" / "gain_cell_attention" / "triton_random.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    from tests.ops.triton_draws import normals

    device = "cuda" if torch.cuda.is_available() else "cpu"
    key = {"seed": 0xFFFFFFFF, "chip": 0xFEDCBA98, "layer": 65535, "array": 1, "effect": 14}
    index = {
        "head": torch.arange(4)[:, None, None],
        "column": torch.arange(10)[:, None] * 400_000_000,
        "row": torch.arange(50),
        "step": 4_294_967_295,
    }
    found = normals(**key, **index, device=device).cpu()
    assert float((found - normal(**key, **index)).abs().max()) < 5e-6


def test_extreme_words() -> None:
    """The largest number of 32 bits is what LARGEST_NORMAL bounds."""
    from gaincell.devices.random import LARGEST_NORMAL

    assert math.sqrt(-2 * math.log(2**-33)) < LARGEST_NORMAL < 6.9
