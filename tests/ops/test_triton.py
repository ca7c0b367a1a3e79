"""The parity ladder, rung `ops.blocked = ops.triton`: on a GPU if there is one, else in the interpreter."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from tests.tiers import nightly, slow, slow_after
from torch import Tensor

pytest.importorskip("triton")

import gaincell
from gaincell.chips.design_file import Design, load_design
from gaincell.circuits.charge_to_pulse import ChargeToPulse
from gaincell.circuits.converter_errors import Converters
from gaincell.circuits.levels import LevelTable
from gaincell.circuits.noise import Noise
from gaincell.circuits.normaliser import Normaliser
from gaincell.circuits.pwm import Drivers
from gaincell.circuits.sinks import Sinks
from gaincell.devices.leakage import Leakage
from gaincell.devices.variability import Mismatch
from gaincell.devices.wires import Wires
from gaincell.errors import InputError
from gaincell.ops.gain_cell_attention import gain_cell_attention, triton_launches

# triton reads the source of its kernels: keep the run-time type checks of the test suite out of them
for _part in ("triton_random", "triton_kernels", "triton_time_basis"):
    _name = f"gaincell.ops.gain_cell_attention.{_part}"
    _path = Path(gaincell.__file__).parent / "ops" / "gain_cell_attention" / f"{_part}.py"
    _spec = importlib.util.spec_from_file_location(_name, _path)
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])

from gaincell.ops.gain_cell_attention.backends import triton  # noqa: E402
from gaincell.ops.gain_cell_attention.call import Call  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
M = 64
READOUTS = {"counter": 15.0, "counter-floor": 15.0, "published-code": 15.5, "none": 15.0}
CHEAP = (("linear", "counter-floor"), ("x3", "counter"), ("x3", "counter-floor"))
"""Cells and readouts of the default tier, where `chip()` has the polynomial and the counter."""
ROWS = sorted({launch.rows for launch in triton_launches.CANDIDATES} - {64})


def chip(**changes: object) -> Design:
    base = {"window": M, "tile": 16, "token_period": 20e-6}
    return load_design("leroux2025").replace(**{**base, **changes})


def signals(tokens: int, heads: int, kv_heads: int, dim: int, batch: int = 1) -> list[Tensor]:
    """Random requests at the centres of levels, and beyond both ends of the ranges."""
    g = torch.Generator().manual_seed(tokens)
    q = torch.randint(-3, 19, (batch, heads, tokens, dim), generator=g).float() / 15
    volts = torch.randint(-2, 10, (2, batch, kv_heads, tokens, dim), generator=g).float()
    k, v = 0.45 + (volts - 3.5) * 0.9 / 7
    return [t.to(DEVICE) for t in (q, k, v)]


def assert_agrees(
    inputs: list[Tensor], design: Design, half: bool, scale: float = 1.0, **options: object
) -> None:
    runs = []
    for compute in (
        lambda *x: triton.run(Call(*x, design, **options), half=half),
        lambda *x: gain_cell_attention(*x, design, None, "blocked", **options),
    ):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = compute(*leaves)
        weight = scale * torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out).cos()
        runs.append([out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)])
    (found, *gradients), (expected, *expected_gradients) = runs
    apart = (found - expected).abs() * READOUTS[design.readout]
    limit = 2e-4 if design.readout == "none" else 1e-3
    assert float((apart > limit).double().mean()) <= max(1e-4, 1 / apart.numel())
    assert float(apart.max()) < 1.001
    for name, got, wanted in zip("qkv", gradients, expected_gradients, strict=True):
        error = float((got - wanted).norm() / wanted.norm().clamp(min=1e-9 * scale))
        assert error < 5e-4, f"gradient of {name} differs by {error:.1e}"


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_gradients_of_any_size(scale: float) -> None:
    """The loss of many tokens has small ones; float16 would make them 0, or large ones infinite."""
    assert_agrees(signals(40, 2, 1, 16), chip(), True, scale)


@pytest.mark.parametrize(
    ("tokens", "gradient", "precision"),
    [
        sizes if sizes[0] == 1 or sizes == (2 * M + 37, "surrogate", "float16") else slow(*sizes)
        for sizes in product((1, 2 * M + 37, 63, 65), ("exact", "surrogate"), ("float32", "float16"))
    ],
)
def test_every_length(tokens: int, gradient: str, precision: str) -> None:
    assert_agrees(signals(tokens, 1, 1, 16), chip(), precision == "float16", gradient=gradient)


@pytest.mark.parametrize("rows", [*map(slow, ROWS[:-1]), *ROWS[-1:]])
def test_every_launch(rows: int) -> None:
    """Against the same numbers as the default; more queries of a program than the ring has columns."""
    launch = triton_launches.Launch(rows, warps=8, stages=1)
    with triton_launches.launched("forward", launch), triton_launches.launched("backward", launch):
        assert_agrees(signals(2 * M + 37, 1, 1, 16), chip(), True)


def test_the_table_of_launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    design, device = chip(), torch.device("cpu")
    of_forward = ("forward", device, design, 16, True)
    table = {triton_launches.name_of(*of_forward): triton_launches.Launch(32, 8, 2)._asdict()}
    monkeypatch.setattr(triton_launches, "MEASURED", tmp_path / "launches.json")
    triton_launches.MEASURED.write_text(json.dumps(table))
    triton_launches.read_table.cache_clear()
    try:
        assert triton_launches.launch_of(*of_forward) == (32, 8, 2)
        assert triton_launches.launch_of("backward", *of_forward[1:]) == triton_launches.DEFAULT
    finally:
        triton_launches.read_table.cache_clear()


@pytest.mark.parametrize(
    ("cell", "readout"),
    [case if case in CHEAP else slow(*case) for case in product(("linear", "polynomial", "x3"), READOUTS)],
)
def test_every_cell_and_readout(cell: str, readout: str) -> None:
    assert_agrees(signals(90, 2, 1, 32), chip(cell=cell, readout=readout), True)


@pytest.mark.parametrize(
    "changes",
    [
        {"score_ceiling": False, "output_ceiling": False},
        slow({"retention_time": None}),
        {"token_period": 5e-3},
        {"tile": 64},
        {"storage_levels": 3, "query_levels": 2},
    ],
    ids=str,
)
def test_other_chips(changes: dict[str, object]) -> None:
    assert_agrees(signals(100, 1, 1, 16), chip(**changes), True)


ANY = [
    {"cell": "x5", "tile": 20, "window": 40},
    {"mismatch": Mismatch(gain_std=0.05, offset_voltage_std=0.02, current_offset_std=0.01, seed=5)},
    {"noise": Noise(score_std=1.5, output_std=0.7, cell_std=0.05, pulse_jitter=2e-10, seed=3)},
    {"wires": Wires(key_drop=0.05, value_drop=0.05), "charge_to_pulse": ChargeToPulse(exponent=2)},
    {"drivers": Drivers(phases=2)},
    {"normaliser": Normaliser(floor=0.5)},
    {"sinks": Sinks(tokens=3, rewrite_tokens=10)},
]
MORE = [
    {"cell": "sigmoid"},
    {"cell": "exponential", "storage_levels": None},
    {"mismatch": Mismatch(offset_voltage_std=0.02, dead=0.1), "cell": "sigmoid"},
    {"converters": Converters(ramp_gain_std=0.05, comparator_offset_std=0.01, driver_gain_std=0.02)},
    {"token_period": 0.02, "cell": "linear"},
    {"leakage": Leakage(read_disturb=1e-4, decay_voltage=0.5)},
    {"levels": LevelTable(storage=(-0.45, -0.2, -0.1, 0.0, 0.03, 0.2, 0.25, 0.4))},
]


@pytest.mark.parametrize("changes", [*slow_after(1, ANY), *map(nightly, MORE)], ids=str)
def test_chips_of_any_kind(changes: dict[str, object]) -> None:
    """With groups and two laps: the output as of naive in float64, gradients as of blocked."""
    design = chip(**{"window": 32, **changes})
    q, k, v = signals(design.window + 11, 2, 1, 20)
    if design.drivers.signed:
        q = 2 * q - 1
    rest = {"layer": 3}
    exact = gain_cell_attention(q.double(), k.double(), v.double(), design, None, "naive", **rest)
    for gradient in ("exact", "surrogate"):
        runs = []
        for backend in ("triton", "blocked"):
            leaves = [t.clone().requires_grad_() for t in (q, k, v)]
            out = gain_cell_attention(*leaves, design, None, backend, gradient=gradient, **rest)
            weight = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out).cos()
            runs.append([out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)])
        apart = (runs[0][0] - exact).abs() * READOUTS[design.readout]
        if design.normaliser.present:
            assert float((apart > 1e-2).double().mean()) < 2e-3
        else:
            assert float((apart > 1e-3).double().mean()) <= max(1e-4, 1 / apart.numel())
            assert float(apart.max()) < 1.001
        for name, got, wanted in zip("qkv", runs[0][1:], runs[1][1:], strict=True):
            error = float((got - wanted).norm() / wanted.norm().clamp(min=1e-9))
            assert error < 5e-4, f"gradient of {name} differs by {error:.1e}"


@pytest.mark.slow
def test_the_benchmark_compares_outputs_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import gpu

    monkeypatch.setattr(gpu, "inputs", lambda tokens, batch: signals(tokens, 2, 1, 16))
    assert all(x <= gpu.MOST[what] for what, x in gpu.differences(50, chip()).items())
    wrong = {"triton": {"design": chip(readout="counter-floor"), "gradient": "surrogate"}}

    def attention(q: Tensor, k: Tensor, v: Tensor, design: Design, scaling: None, backend: str) -> Tensor:
        given = {"design": design, "backend": backend} | wrong.get(backend, {})
        return gain_cell_attention(q, k, v, **given)

    monkeypatch.setattr(gpu, "gain_cell_attention", attention)
    assert all(x > gpu.MOST[what] for what, x in gpu.differences(50, chip()).items())


@pytest.mark.slow
def test_groups_padding_and_a_window_of_the_model() -> None:
    q, k, v = signals(70, 4, 2, 16, batch=2)
    index = torch.arange(70, device=DEVICE).repeat(2, 1)
    index[1] = torch.cat([torch.full((9,), -1), torch.arange(61)])
    assert_agrees([q, k, v], chip(), True, key_index=index, sliding_window=20)
    rest = {"key_index": index, "query_index": index[:, -30:]}
    assert_agrees([q[:, :, -30:], k, v], chip(), False, **rest)


def test_a_zero_key_in_bf16_has_the_upper_code_without_kernels_of_codes_too() -> None:
    q, v = torch.ones(1, 1, 3, 16), torch.full((1, 1, 3, 16), 0.9)
    given = [t.to(DEVICE, torch.bfloat16) for t in (q, torch.full_like(v, 0.45), v)]
    design = chip(tile=16, window=16, storage_levels=16, readout="none")
    found, expected = (gain_cell_attention(*given, design, backend=name) for name in ("triton", "naive"))
    torch.testing.assert_close(found.float(), expected.float(), rtol=1e-2, atol=1e-2)


def test_a_nan_reaches_what_naive_says() -> None:
    q, k, v = signals(50, 4, 2, 16, batch=2)
    q[0, 1, 40, 2] = k[1, 1, 5, 3] = v[0, 0, 30, 7] = torch.nan
    found, expected = (
        gain_cell_attention(q, k, v, chip(), backend=backend) for backend in ("triton", "naive")
    )
    assert torch.equal(found.isnan(), expected.isnan())
    assert float(((found - expected).nan_to_num().abs() > 1e-3).double().mean()) <= 1e-3


def test_what_is_not_served_says_why() -> None:
    q, k, v = signals(20, 1, 1, 16)
    assert torch.equal(
        gain_cell_attention(q, k, v, chip(), None, "triton"), triton.run(Call(q, k, v, chip()))
    )
    with pytest.raises(InputError, match=r"does not implement leakage\.spread"):
        gain_cell_attention(q, k, v, chip(leakage=Leakage(spread=0.1)), None, "triton")
    if DEVICE == "cpu":
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("TRITON_INTERPRET")
            with pytest.raises(InputError, match="runs on a GPU, or on a CPU in Triton's interpreter"):
                gain_cell_attention(q, k, v, chip(), None, "triton")
