"""The parity ladder, rung `ops.naive = ops.native`, at every instruction level that this machine has."""

from __future__ import annotations

import ctypes
import math
import random
from collections.abc import Callable, Iterator

import pytest
import torch
from tests.cells import CELLS, TABLE
from tests.tiers import nightly, slow
from torch import Tensor
from torch.nn.utils import parametrize

from gaincell.chips.design_file import Design, load_design
from gaincell.circuits.converter_errors import Converters
from gaincell.circuits.noise import Noise
from gaincell.devices import chip_cache
from gaincell.devices.cell import PolynomialCell
from gaincell.devices.leakage import Leakage
from gaincell.devices.variability import Mismatch
from gaincell.devices.wires import Wires
from gaincell.errors import InputError
from gaincell.nn.attention import GainCellAttention
from gaincell.ops.gain_cell_attention import (
    Scaling,
    gain_cell_attention,
    native_decode,
    native_library,
    native_tables,
)
from gaincell.ops.gain_cell_attention.input_stage import scaled

M = 128
LENGTHS = [1, 63, 64, 65, 127, 2 * M + 37]
STEPS = {"counter": 15.0, "counter-floor": 15.0, "published-code": 15.5, "none": 15.0}

BUILT = native_library.compiled_library() is not None
pytestmark = pytest.mark.skipif(not BUILT, reason="the kernel was not built: no C++ compiler")
EVERY_LEVEL = pytest.mark.usefixtures("level")


@pytest.fixture(params=native_library.levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    with native_library.instructions(request.param):
        yield request.param


def chip(**changes: object) -> Design:
    """The paper's chip with a small window and a decay strong enough to matter."""
    base = {"window": M, "tile": 32, "token_period": 20e-6}
    return load_design("leroux2025").replace(**{**base, **changes})


def signals(tokens: int, heads: int, kv_heads: int, dim: int, batch: int = 1, seed: int = 0) -> list[Tensor]:
    """Random requests at the centres of levels, and beyond both ends of the ranges."""
    g = torch.Generator().manual_seed(seed)
    q = torch.randint(-3, 19, (batch, heads, tokens, dim), generator=g).double() / 15
    volts = torch.randint(-2, 10, (2, batch, kv_heads, tokens, dim), generator=g).double()
    k, v = 0.45 + (volts - 3.5) * 0.9 / 7
    return [q, k, v]


def results(inputs: list[Tensor], design: Design, backend: str, **options: object) -> list[Tensor]:
    """Output and gradients of q, k, v."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = gain_cell_attention(*leaves, design, None, backend, **options)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out).cos()
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


def assert_agrees(inputs: list[Tensor], design: Design, **options: object) -> None:
    """At every level: output as of naive in float64, but for one code near thresholds; gradients as of
    blocked in float32, whose clamps have the same margin.
    """
    single = [t.float() for t in inputs]
    steps = STEPS[design.readout]
    exact = gain_cell_attention(*inputs, design, None, "naive", **options)
    gradients = results(single, design, "blocked", **options)[1:]
    for level in native_library.levels():
        with native_library.instructions(level):
            found = results(single, design, "native", **options)
        apart = (found[0] - exact).abs() * steps
        if design.readout == "none":
            assert float(apart.max()) < 2e-4, level
        else:
            assert float((apart > 1e-3).double().mean()) <= max(1e-4, 1 / apart.numel()), level
            assert float(apart.max()) < 1.001, level
        for name, got, expected in zip("qkv", found[1:], gradients, strict=True):
            error = float((got - expected).norm() / expected.norm().clamp(min=1e-9))
            assert error < 5e-4, f"{level}: gradient of {name} differs by {error:.1e}"


@pytest.mark.parametrize("gradient", ["exact", "surrogate"])
@pytest.mark.parametrize("tokens", LENGTHS)
def test_every_length(tokens: int, gradient: str) -> None:
    assert_agrees(signals(tokens, 2, 2, 16), chip(), gradient=gradient)


@pytest.mark.parametrize(
    ("cell", "readout"),
    [slow(c, r) if c is TABLE and r != "counter" else (c, r) for c in CELLS for r in STEPS],
)
def test_every_cell_and_readout(cell: str, readout: str) -> None:
    assert_agrees(signals(150, 3, 1, 20, batch=2), chip(cell=cell, readout=readout))


@pytest.mark.parametrize(
    "changes",
    [
        {"mismatch": Mismatch(gain_std=0.05, offset_voltage_std=0.02, current_offset_std=0.01, seed=5)},
        {"mismatch": Mismatch(offset_voltage_std=0.02), "cell": "x3"},
        {"storage_levels": None},
        {"query_levels": None},
        {"storage_levels": 3, "query_levels": 2},
        {"storage_levels": 16, "cell": "sigmoid"},
        {"storage_levels": None, "cell": "exponential"},
        {
            "mismatch": Mismatch(gain_std=0.05, offset_voltage_std=0.02, current_offset_std=0.01, seed=5),
            "cell": "sigmoid",
        },
        {"mismatch": Mismatch(offset_voltage_std=0.05), "cell": "exponential", "token_period": 1e-3},
        {"score_ceiling": False, "output_ceiling": False},
        {"retention_time": None},
        {"token_period": 1e-3},
        {"token_period": 1.0},
        {"tile": 1, "window": 5},
        {"tile": 24, "window": 48},
        {"tile": 128},
    ],
    ids=str,
)
def test_other_chips(changes: dict[str, object]) -> None:
    assert_agrees(signals(203, 2, 1, 17), chip(**changes))


APPROXIMATED = [("bf16", "exact"), ("surrogate-bf16", "surrogate")]


@pytest.mark.parametrize(("approximate", "gradient"), APPROXIMATED)
@pytest.mark.parametrize(
    ("changes", "of_signals", "of_gains"),
    [({"retention_time": None}, 0.006, 0.008), ({}, 0.012, 0.025), ({"layers": 30}, 0.03, 0.06)],
    ids=["no decay", "12 layers", "30 layers"],
)
def test_approximate_gradients_are_as_near_as_stated(
    changes: dict[str, object], of_signals: float, of_gains: float, approximate: str, gradient: str
) -> None:
    """In the norm of the gradients of q, k and v, and of the gains and offsets of all heads: sums over tokens
    whose terms largely cancel here. The output has the same bits.
    """
    design = load_design("leroux2025").replace(**changes)
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 300, 64, generator=g) for heads in (8, 4, 4))
    ones, of_keys = torch.ones(8), torch.ones(4)
    scaling = Scaling(0.5 * ones, 0.4 * ones, *(0.4 * of_keys, 0.45 * of_keys) * 2, ones, 0 * ones)
    weight = torch.randn(q.shape, generator=g)
    found = {}
    for name in (approximate, gradient):
        leaves = [t.clone().requires_grad_() for t in (q, k, v, *scaling)]
        out = gain_cell_attention(*leaves[:3], design, Scaling(*leaves[3:]), "native", gradient=name)
        found[name] = [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]
    assert torch.equal(found[approximate][0], found[gradient][0])
    for name, got, expected in zip(
        ("q", "k", "v", *Scaling._fields), found[approximate][1:], found[gradient][1:], strict=True
    ):
        error = float((got - expected).norm() / expected.norm())
        assert error < (of_signals if len(name) == 1 else of_gains), f"{name} differs by {error:.1%}"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cell": "sigmoid"},
        {"cell": "exponential", "storage_levels": None},
        {"cell": "x5"},
        {
            "cell": PolynomialCell((0.0, 1.0, *[0.0] * 7, 400.0), 1.0)
        },  # of a degree beyond the number of slabs
        {"cell": "x5", "mismatch": Mismatch(gain_std=0.05, offset_voltage_std=0.02, seed=5)},
        {"leakage": Leakage(spread=0.1)},
        {"tile": 24, "window": 48},
        {"tile": 1, "window": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("approximate", ["bf16", "surrogate-bf16"])
def test_approximate_gradients_of_every_cell_and_shape(approximate: str, changes: dict[str, object]) -> None:
    """Near the one that they approximate, and the same at every level but for the order of sums."""
    design = chip(**{"token_period": 2e-7, **changes})
    inputs = [t.float() for t in signals(150, 3, 1, 20, batch=2)]
    with native_library.instructions("portable"):
        same = results(inputs, design, "native", gradient=approximate)
    for level in native_library.levels():
        with native_library.instructions(level):
            found = results(inputs, design, "native", gradient=approximate)
            near = results(inputs, design, "native", gradient=dict(APPROXIMATED)[approximate])
        for got, expected, portable in zip(found[1:], near[1:], same[1:], strict=True):
            assert float((got - expected).norm()) < 0.015 * float(expected.norm()), level
            assert float((got - portable).norm()) < 2e-3 * float(portable.norm()), level


def test_approximate_gradients_are_refused_where_they_are_not_computed() -> None:
    inputs = [t.float().requires_grad_() for t in signals(70, 2, 1, 16)]
    for backend in ("naive", "blocked", "triton"):
        with pytest.raises(InputError, match=f"backend='{backend}' does not compute gradient='bf16'"):
            gain_cell_attention(*inputs, chip(), None, backend, gradient="bf16")
    with pytest.raises(InputError, match=r"loses 13% of them by then, above 5%; give gradient='surrogate'"):
        gain_cell_attention(*inputs, chip(), gradient="surrogate-bf16")
    design = chip(token_period=1e-6)
    double = [t.double() for t in inputs]
    with pytest.raises(InputError, match=r"which does not serve this.*give gradient='exact'"):
        gain_cell_attention(*double, design, gradient="bf16")
    with torch.no_grad():  # no gradient is asked for
        assert gain_cell_attention(*double, design, gradient="bf16").dtype == torch.float64


@pytest.mark.parametrize(
    ("dim", "tokens", "changes", "options"),
    [
        (64, 150, {}, {}),
        (17, 2 * M + 37, {"readout": "none"}, {}),
        (80, 200, {"readout": "published-code"}, {"sliding_window": 50}),
        (130, 70, {"cell": "linear"}, {}),
        (16, 130, {"storage_levels": 3, "query_levels": 2}, {}),
        (16, 130, {"readout": "counter-floor", "token_period": 1e-3}, {}),
        (16, 2 * M + 37, {"cell": PolynomialCell((0.1, 3.0, -9.0, 46.0), 19.0), "readout": "none"}, {}),
        (16, 80, {"cell": PolynomialCell((0.1, -0.5, 0.0, 46.0), 19.0), "token_period": 1e-3}, {}),
        (16, 80, {"score_ceiling": False}, {}),
    ],
    ids=str,
)
def test_sub_tiles_of_64_columns(
    dim: int, tokens: int, changes: dict[str, object], options: dict[str, object]
) -> None:
    """Those that are computed in integers, and some of the same size that are not."""
    assert_agrees(signals(tokens, 3, 1, dim), chip(tile=64, **changes), **options)


@pytest.mark.skipif("amx" not in native_library.levels(), reason="no tiles, not even emulated ones")
def test_tiles_and_vectors_have_the_same_bits() -> None:
    for dim, cell in ((64, "polynomial"), (70, "linear"), (16, "polynomial")):
        inputs = [t.float() for t in signals(2 * M + 37, 2, 1, dim)]
        found = []
        for name in ("avx512", "amx"):
            with native_library.instructions(name):
                found.append(gain_cell_attention(*inputs, chip(tile=64, cell=cell), None, "native"))
        assert torch.equal(*found)


@pytest.mark.parametrize("window", [1, 7, 64, 500])
def test_a_sliding_window_of_the_model(window: int) -> None:
    assert_agrees(signals(200, 1, 1, 8), chip(), sliding_window=window)


def test_padding_and_a_cache() -> None:
    q, k, v = signals(90, 2, 1, 16, batch=3)
    index = torch.arange(90).repeat(3, 1)
    index[1] = torch.cat([torch.full((20,), -1), torch.arange(70)])
    index[2, 75:] = -1
    assert_agrees([q, k, v], chip(), key_index=index)
    assert_agrees([q[:, :, -30:], k, v], chip(), key_index=index, query_index=index[:, -30:])


@pytest.mark.parametrize("window", [64, 256, 1024])
def test_differences_are_one_level_and_near_a_threshold(window: int) -> None:
    """The paper's chip, one sub-tile at a time: what naive has between sub-tile and readout is known."""
    design = load_design("leroux2025").replace(window=window)
    q, k, v = signals(600, 2, 2, 64, seed=3)
    exact = gain_cell_attention(q, k, v, design, None, "blocked")
    raw = 15 * gain_cell_attention(q, k, v, design.replace(readout="none"), None, "blocked").abs() + 0.5
    for level in native_library.levels():
        with native_library.instructions(level):
            found = gain_cell_attention(q.float(), k.float(), v.float(), design, None, "native").double()
        steps = (found - exact) * 15
        apart = steps.round().abs()
        assert float((steps - steps.round()).abs().max()) < 1e-4, level
        assert float(apart.max()) <= 1, level
        assert float((apart > 0).double().mean()) < 1e-4, level
        if window == 64:
            assert bool(((raw - raw.round()).abs() < 2e-4)[apart > 0].all()), level


@EVERY_LEVEL
def test_the_same_bits_whatever_the_threads_and_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "WORTH_A_THREAD", 1)
    inputs = [t.float() for t in signals(150, 4, 2, 32, batch=3)]
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            runs.append(results(inputs, chip(), "native"))
    finally:
        torch.set_num_threads(threads)
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = gain_cell_attention(*leaves, chip(), None, "native")
    weight = torch.linspace(-1, 1, out.numel()).view_as(out).cos()
    rows = []
    for b in range(3):
        one = [t[b : b + 1].detach().requires_grad_() for t in leaves]
        part = gain_cell_attention(*one, chip(), None, "native")
        rows.append([part.detach(), *torch.autograd.grad((part * weight[b : b + 1]).sum(), one)])
    runs.append([torch.cat(parts) for parts in zip(*rows, strict=True)])
    for run in runs[1:]:
        for got, expected in zip(run, runs[0], strict=True):
            assert torch.equal(got, expected)


@EVERY_LEVEL
def test_scaling_goes_through() -> None:
    q, k, v = (t.float() for t in signals(70, 4, 2, 16))
    g = torch.Generator().manual_seed(1)
    names = dict.fromkeys(("q", "out"), 4) | dict.fromkeys(("k", "v"), 2)
    scaling = Scaling(
        **{
            f"{n}_{part}": torch.rand(size, generator=g) + 0.1
            for n, size in names.items()
            for part in ("gain", "offset")
        }
    )
    index = torch.arange(-9, 61).clamp(min=-1)[None]
    for options in ({}, {"key_index": index}, {"gradient": "surrogate"}):
        found = {}
        for backend in ("native", "blocked"):
            leaves = [t.clone().requires_grad_() for t in (q, k, v, *scaling)]
            out = gain_cell_attention(*leaves[:3], chip(), Scaling(*leaves[3:]), backend, **options)
            found[backend] = [out.detach(), *torch.autograd.grad((out * out.detach().cos()).sum(), leaves)]
        assert torch.equal(found["native"][0], found["blocked"][0])
        for name, got, expected in zip(
            ("q", "k", "v", *Scaling._fields), *(x[1:] for x in found.values()), strict=True
        ):
            error = float((got - expected).norm() / expected.norm().clamp(min=1e-9))
            assert error < 5e-4, f"gradient of {name} differs by {error:.1e}"
    with torch.no_grad():
        assert torch.equal(
            gain_cell_attention(q, k, v, chip(), scaling),
            gain_cell_attention(q, k, v, chip(), scaling, "blocked"),
        )
    q[0, 1, 30, 2] = math.nan
    marked = gain_cell_attention(q, k, v, chip(), scaling, "native")
    assert torch.equal(marked.isnan(), gain_cell_attention(q, k, v, chip(), scaling, "naive").isnan())
    assert int(marked.isnan().sum()) == 16


@pytest.mark.parametrize("extra", ["none", "exponents", "normaliser"])
def test_a_layer_scales_in_the_kernel_what_its_stages_show(extra: str) -> None:
    """Stages that are watched compute; others leave gain and offset to the kernel: the same bits."""
    layer = GainCellAttention(chip(), 4, 2, 16)
    layer.add_biases()
    if extra == "exponents":
        layer.add_exponents()
    if extra == "normaliser":
        layer.add_normaliser()
    g = torch.Generator().manual_seed(2)
    for parameter in layer.parameters():
        parameter.data += 0.1 * torch.rand(parameter.shape, generator=g)
    signals = [torch.randn(2, heads, 70, 16, generator=g) for heads in (4, 2, 2)]
    found, seen = [], []
    for watched in (False, True):
        if watched:
            for stage in (layer.q, layer.k, layer.v, layer.out):
                stage.register_forward_hook(lambda module, _, out: seen.append(out))
        out = layer(*signals)
        found.append(
            [out.detach(), *torch.autograd.grad((out * out.detach().cos()).sum(), layer.parameters())]
        )
    assert len(seen) == 4
    assert torch.equal(found[0][0], found[1][0])
    for got, expected in zip(found[0][1:], found[1][1:], strict=True):
        assert float((got - expected).norm()) < 1e-5 * float(expected.norm())


def test_a_layer_takes_gains_that_are_computed_and_backward_hooks() -> None:
    """torch's parametrisations, and hooks before the backward pass of a stage."""
    layer = GainCellAttention(chip(), 4, 2, 16)
    inputs = [t.float().requires_grad_() for t in signals(40, 4, 2, 16)]
    with torch.no_grad():
        layer.q.gain.fill_(0.7)
    expected = layer(*inputs)
    parametrize.register_parametrization(layer.q, "gain", _Exponential())
    seen: list[object] = []
    layer.k.register_full_backward_pre_hook(lambda *found: seen.append(found))
    found = layer(*inputs)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert len(seen) == 1
    assert float(layer.q.parametrizations.gain.original.grad.abs().max()) > 0.0


class _Exponential(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()

    def right_inverse(self, x: Tensor) -> Tensor:
        return x.log()


@EVERY_LEVEL
def test_what_is_not_served_says_why() -> None:
    q, k, v = (t.float() for t in signals(20, 1, 1, 8))
    with pytest.raises(InputError, match=r"computes in float32, not torch\.float64"):
        gain_cell_attention(q.double(), k.double(), v.double(), chip(), None, "native")
    with (
        pytest.raises(InputError, match="not available; choose one of"),
        native_library.instructions("avx1024"),
    ):
        pass


@EVERY_LEVEL
def test_inputs_of_different_precision_are_computed_in_the_widest() -> None:
    q, k, v = (t.float() for t in signals(70, 2, 1, 16))
    for other in (torch.float16, torch.bfloat16, torch.float64):
        for change in range(3):
            mixed = [t.to(other) if n == change else t for n, t in enumerate((q, k, v))]
            common = torch.promote_types(other, torch.float32)
            expected = gain_cell_attention(*(t.to(common) for t in mixed), chip(), None, "blocked")
            apart = gain_cell_attention(*mixed, chip()) != expected.to(mixed[0].dtype)
            assert int(apart.sum()) <= 1
            with pytest.raises(InputError, match=f"computes in float32, not torch.{str(other)[6:]}"):
                gain_cell_attention(*mixed, chip(), None, "native")


@EVERY_LEVEL
def test_auto_leaves_to_blocked_what_is_not_served() -> None:
    q, k, v = (t.float() for t in signals(20, 2, 1, 16))
    index = {"key_index": torch.arange(20)[None], "query_index": torch.arange(5, 15)[None]}
    early = gain_cell_attention(q[:, :, 5:15], k, v, chip(), **index)
    expected = gain_cell_attention(q[:, :, 5:15], k, v, chip(), None, "naive", **index)
    torch.testing.assert_close(early, expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="queries must be those of the last"):
        gain_cell_attention(q[:, :, 5:15], k, v, chip(), None, "native", **index)
    missing = index | {"query_index": torch.arange(50, 60)[None]}
    with pytest.raises(InputError, match="every query's own key must be among the keys"):
        gain_cell_attention(q[:, :, 5:15], k, v, chip(), **missing)
    many = chip(cell=PolynomialCell((0.1, 12.0, *(0.1,) * 9), 19.0))
    apart = gain_cell_attention(q, k, v, many) - gain_cell_attention(q, k, v, many, None, "naive")
    assert float(apart.abs().max()) < 1e-5


@EVERY_LEVEL
def test_an_index_of_the_queries_is_heeded_without_one_of_the_keys() -> None:
    q, k, v = (t.float() for t in signals(40, 4, 2, 16, batch=2))
    last = torch.tensor([[-1, *range(30, 40)], range(29, 40)])
    early = torch.tensor([range(5, 16)] * 2)
    sizes = (4, 4, 2, 2, 2, 2, 4, 4)
    scaling = Scaling(*(torch.full((heads,), n % 2 * 0.1 + (n == 7) + 0.9) for n, heads in enumerate(sizes)))
    for index, scale, backends in (
        (last, None, ("blocked", "native", "auto")),
        (last, scaling, ("blocked", "native", "auto")),
        (early, scaling, ("blocked", "auto")),
    ):
        given = (q[:, :, :11], k, v, chip(readout="none"), scale)
        expected = gain_cell_attention(*given, "naive", query_index=index)
        for backend in backends:
            found = gain_cell_attention(*given, backend, query_index=index)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="queries must be those of the last"):
        gain_cell_attention(q[:, :, :11], k, v, chip(), None, "native", query_index=early)
    with pytest.raises(InputError, match="row 0 must count real tokens one by one"):
        gain_cell_attention(q[:, :, :11], k, v, chip(), query_index=early.flip(1))


def test_views_second_derivatives_and_sparse_tensors(level: str) -> None:
    q, k, v = (t.float() for t in signals(40, 2, 2, 16))
    expected = gain_cell_attention(q, k, v, chip(), None, "native")
    negated = torch._neg_view(-v)
    assert negated.is_neg()
    assert torch.equal(gain_cell_attention(q, k, negated, chip(), None, "native"), expected)
    named = gain_cell_attention(q, k, v, chip(), None, f"native-{level}")  # type: ignore[arg-type]
    assert torch.equal(named, expected)
    w = v.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        gain_cell_attention(q, k, w, chip(), None, "native").square().sum(), w, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    with pytest.raises(InputError, match="give a dense tensor"):
        gain_cell_attention(q, k, v.to_sparse(), chip())


@EVERY_LEVEL
def test_not_contiguous_and_awkward_shapes() -> None:
    q, k, v = (t.float() for t in signals(40, 2, 2, 13))
    expected = gain_cell_attention(q, k, v, chip(), None, "native")
    turned = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    assert torch.equal(gain_cell_attention(*turned, chip(), None, "native"), expected)
    with pytest.raises(InputError, match="no dimension may be 0"):
        gain_cell_attention(q[:, :, :0], k[:, :, :0], v[:, :, :0], chip(), None, "native")


@pytest.mark.parametrize("readout", STEPS)
@pytest.mark.parametrize("cell", CELLS)
def test_decoding_from_a_ring_of_codes(cell: str, readout: str) -> None:
    """Any columns in any order, any ages, some not seen: as naive has it for the voltages that are left."""
    design = chip(cell=cell, readout=readout, tile=16, window=48)
    for dim, heads, kv_heads in ((16, 2, 2), (64, 6, 2), (128, 2, 1), (19, 3, 1)):
        g = torch.Generator().manual_seed(dim)
        keys, values = torch.randint(0, 8, (2, 2, kv_heads, 48, dim), generator=g, dtype=torch.uint8)
        q = torch.randint(-3, 19, (2, heads, 1, dim), generator=g).double() / 15
        positions = torch.arange(29, 29 + 41) % 48
        left = torch.rand(2, 41, generator=g).double()
        seen = torch.rand(2, 41, generator=g) < 0.8
        tile_of = torch.where(seen, positions // 16, -1)
        slots = native_decode.make_slots(positions, tile_of, left, torch.zeros(2, dtype=torch.int64), design)
        still = design.replace(retention_time=None)  # the ages are in the voltages
        expected = torch.stack(
            [_one_by_one(q[b], keys[b], values[b], left[b], positions, seen[b], still) for b in (0, 1)]
        )
        for level in native_library.levels():
            decoder = native_decode.RingDecoder(design, heads, kv_heads, dim, 0, level)
            found = decoder(q.float(), keys, values, slots)
            assert found is not None
            apart = (found - expected).abs() * STEPS[readout]
            assert float((apart > 1e-3).double().mean()) <= 1 / apart.numel(), level
            assert float(apart.max()) < 1.001, level


CHIPS = [
    {"mismatch": Mismatch(gain_std=0.05, offset_voltage_std=0.02, current_offset_std=0.01, seed=5)},
    {"mismatch": Mismatch(offset_voltage_std=0.02, stuck_low=0.1, dead=0.1), "cell": "sigmoid"},
    {"wires": Wires(key_drop=0.05, value_drop=0.05), "cell": "linear"},
    {
        "converters": Converters(
            ramp_gain_std=0.05,
            comparator_offset_std=0.01,
            ramp_gain_tile_std=0.03,
            comparator_offset_tile_std=0.02,
        )
    },
    {"noise": Noise(score_std=1.5, output_std=0.7, cell_std=0.05, seed=3), "cell": "x3"},
    {"noise": Noise(score_std=1.5), "mismatch": Mismatch(gain_std=0.05)},
]


@pytest.mark.parametrize("changes", CHIPS, ids=str)
def test_decoding_on_a_chip_with_errors(changes: dict[str, object]) -> None:
    """As naive has it for the last token of a text that goes round the ring."""
    design = chip(tile=16, window=48, **changes)
    for tokens, dim, heads, kv_heads in ((60, 19, 3, 1), (20, 64, 2, 2)):
        q, k, v = signals(tokens, heads, kv_heads, dim, batch=2)
        expected = gain_cell_attention(q[:, :, -1:], k, v, design, None, "naive", layer=3)
        keys, values = torch.zeros(2, 2, kv_heads, 48, dim, dtype=torch.uint8)
        for token in range(tokens):
            for volts, ring in ((k, keys), (v, values)):
                one = volts[:, :, token : token + 1].float()
                assert native_decode.write_ring(one, ring, token % 48, design)
        columns = torch.arange(min(tokens, 48))
        age = (tokens - 1 - columns) % 48
        left = torch.exp(-age * design.leak_per_token).expand(2, -1)
        tiles, last = (columns // 16).expand(2, -1), torch.full((2,), tokens - 1)
        slots = native_decode.make_slots(columns, tiles, left, last, design)
        assert native_decode.unsupported((q.float(),), design) is None
        for level in native_library.levels():
            decoder = native_decode.RingDecoder(design, heads, kv_heads, dim, 3, level)
            found = decoder(q[:, :, -1:].float(), keys, values, slots)
            assert found is not None
            apart = (found - expected).abs() * 15
            assert float((apart > 1e-3).double().mean()) <= 1 / apart.numel(), level
            assert float(apart.max()) < 1.001, level


@pytest.fixture
def float64_by_default() -> Iterator[Callable[[], None]]:
    """Makes float64 torch's default, until the end of the test."""
    yield lambda: torch.set_default_dtype(torch.float64)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cell": "sigmoid"},
        {"cell": "sigmoid", "storage_levels": None},
        {"cell": "sigmoid", "leakage": Leakage(spread=0.1)},
        {"mismatch": Mismatch(gain_std=0.05, offset_voltage_std=0.02, seed=5)},
        {"converters": Converters(comparator_offset_std=0.01), "leakage": Leakage(spread=0.1)},
    ],
    ids=str,
)
def test_tables_are_the_same_whatever_the_default_type(
    changes: dict[str, object], float64_by_default: Callable[[], None]
) -> None:
    design = chip(tile=16, window=48, **changes)
    inputs = [t.float() for t in signals(70, 2, 1, 16)]
    wanted = gain_cell_attention(*inputs, design, None, "native")
    native_tables.filled_problem.cache_clear()
    native_tables._constants_of.cache_clear()
    chip_cache._entries.clear()
    float64_by_default()
    assert torch.equal(gain_cell_attention(*inputs, design, None, "native"), wanted)


def test_a_layer_is_computed_in_the_kernel_whatever_the_default_type(
    float64_by_default: Callable[[], None],
) -> None:
    """Also where one of its stages is watched, and the gains of the others wait for the kernel."""
    layer = GainCellAttention(chip(), 4, 2, 16)
    layer.q.register_forward_hook(lambda *_: None)
    signals = [torch.randn(1, heads, 20, 16) for heads in (4, 2, 2)]
    wanted = layer(*signals)
    float64_by_default()
    assert torch.equal(layer(*signals), wanted)


def test_a_table_of_a_ring_is_the_same_whatever_the_default_type(
    float64_by_default: Callable[[], None],
) -> None:
    columns, left = torch.arange(48), torch.linspace(0.5, 1.0, 48)[None]
    asked = columns, (columns // 16)[None], left, torch.tensor([47]), chip(cell="sigmoid")
    wanted = native_decode.make_slots(*asked).table
    float64_by_default()
    found = native_decode.make_slots(*asked).table
    assert wanted is not None
    assert found is not None
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


def test_a_curve_too_rough_for_the_fastest_cells_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In words, and left to another implementation where none was named."""
    curve_of = native_tables.curve_of
    monkeypatch.setattr(
        native_tables, "curve_of", lambda d, reads, fastest: None if fastest > 0 else curve_of(d, reads, 0.0)
    )
    design = chip(cell="sigmoid", leakage=Leakage(spread=0.1))
    inputs = [t.float() for t in signals(9, 2, 1, 16)]
    with pytest.raises(InputError, match=r"backend='native' .* curve is not smooth enough"):
        gain_cell_attention(*inputs, design, None, "native")
    found = gain_cell_attention(*inputs, design)
    assert torch.equal(found, gain_cell_attention(*inputs, design, None, "blocked"))


@EVERY_LEVEL
def test_a_ring_is_scaled_in_passing() -> None:
    """As if it were given what torch makes of gains and offsets, in every bit; more tokens than columns."""
    design, batch, heads, kv_heads = chip(tile=16, window=48), 2, 6, 3
    for dim in (19, 64):
        q, k, v = (t.float() - 0.4 for t in signals(50, heads, kv_heads, dim, batch=batch))
        q = q[:, :, -1:]
        numbers = torch.linspace(0.7, 1.3, 4 * heads).view(4, heads)
        of_q, of_kv, of_out = numbers[:2], (numbers[2, :kv_heads], 0.4 * numbers[3, :kv_heads]), numbers[2:]
        rings = torch.zeros(2, 2, batch, kv_heads, 48, dim, dtype=torch.uint8)  # [scaled before, array, ...]
        for (plain, within), x in zip(rings.transpose(0, 1), (k, v), strict=True):
            assert native_decode.write_ring(scaled(x, *of_kv), plain, 0, design)
            for first, tokens in ((0, 7), (7, 43)):
                piece = x[:, :, first : first + tokens]
                assert native_decode.write_ring(piece, within, first, design, of_kv)
        assert torch.equal(rings[0], rings[1])
        assert bool((rings[0].amax((1, 2, 4)) > rings[0].amin((1, 2, 4))).all())
        columns = torch.arange(48)
        left = torch.exp(-((49 - columns) % 48) * design.leak_per_token).expand(batch, -1)
        tiles, last = (columns // 16).expand(batch, -1), torch.full((batch,), 49)
        slots = native_decode.make_slots(columns, tiles, left, last, design)
        decoder = native_decode.RingDecoder(design, heads, kv_heads, dim, 0)
        before = decoder(scaled(q, *of_q), *rings[0], slots)
        found = decoder(q, *rings[0], slots, tuple(of_q), tuple(of_out))
        assert before is not None
        assert found is not None
        assert torch.equal(found, scaled(before, *of_out))


@EVERY_LEVEL
def test_a_ring_reads_strided_gains_as_they_are() -> None:
    design = chip(tile=16, window=48)
    q, k, _ = (t.float() for t in signals(48, 4, 4, 16))
    one, strided = torch.tensor(0.7).expand(4), torch.stack([torch.full((4,), 0.2), torch.full((4,), 9.0)], 1)
    rings, outputs = torch.zeros(2, 1, 4, 48, 16, dtype=torch.uint8), []
    columns = torch.arange(48)
    left, tiles = torch.ones(1, 48), (columns // 16)[None]
    slots = native_decode.make_slots(columns, tiles, left, torch.tensor([47]), design)
    decoder = native_decode.RingDecoder(design, 4, 4, 16, 0)
    for ring, scale in zip(rings, ((one, strided[:, 0]), (one.clone(), strided[:, 0].clone())), strict=True):
        assert native_decode.write_ring(k, ring, 0, design, scale)
        outputs.append(decoder(q[:, :, -1:], ring, ring, slots, scale, scale))
    assert torch.equal(*rings)
    assert torch.equal(*outputs)


def test_a_thread_is_started_for_work_that_is_worth_it() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        each = native_library.WORTH_A_THREAD
        found = [native_library.threads_for(cells) for cells in (12 * 64, each - 1, each, 10 * each)]
    finally:
        torch.set_num_threads(threads)
    assert found == [1, 1, 2, 3]


def _one_by_one(
    q: Tensor, keys: Tensor, values: Tensor, left: Tensor, positions: Tensor, seen: Tensor, design: Design
) -> Tensor:
    """The equations for one query, a sub-tile at a time."""
    group = q.shape[0] // keys.shape[0]
    x = (q.clamp(0, 1) * 15 + 0.5).floor() / 15
    volts = [(codes[:, positions].double() - 3.5) * 0.9 / 7 * left[:, None] for codes in (keys, values)]
    k, v = (design.cell.current(u).repeat_interleave(group, 0) for u in volts)
    scores = (k * x).sum(2) / design.score_saturation(q.shape[2])
    pulses = scores.clamp(0, 1) * seen
    total = torch.zeros_like(q)
    for tile in range(design.tiles):
        charge = ((pulses * (positions // design.tile == tile))[:, :, None] * v).sum(1, keepdim=True)
        o = (charge / design.output_saturation).clamp(-1, 1)
        match design.readout:
            case "counter":
                o = (o.abs() * 15 + 0.5).floor() / 15 * o.sign()
            case "counter-floor":
                o = (o.abs() * 15).floor() / 15 * o.sign()
            case "published-code":
                o = (o * 15.5).round() / 15.5
        total = total + o
    return total


FUZZED = {
    "batch": (1, 2),
    "heads": (1, 2, 3, 4),
    "kv_heads": (1, 2, 3),
    "queries": (1, 2, 5, 9),
    "keys": (1, 3, 9),
    "dim": (1, 2, 7, 16, 17),
    "first_query": (0, 1, 4),
    "first_key": (0, 3),
    "window": (1, 4, 8, 16),
    "columns": (4, 8, 16, 64),
    "tile": (1, 2, 4, 8, 64),
    "rows": (1, 3, 16, 64),
    "margin": (0, 72, 80),
    "ages": (0, 60, 200, 300),
    "q_levels": (0, 1, 2, 16, 300, -1),
    "storage_levels": (0, 1, 2, 8, 16, 17),
    "readout": (0, 1, 2, 3, 4, -1),
    "integer_third": (0, 1, 24),
    "threads": (0, 1, 3),
    "level": (-1, 0, 1, 2, 3),
}
NEVER = (-1, 0, -(2**62), 2**62, 2**41, -(2**63), 2**63 - 1)


@pytest.mark.parametrize(
    ("level", "seed"),
    [
        *(slow(level, 0) for level in native_library.levels()[:-1]),
        *((level, 0) for level in native_library.levels()[-1:]),
        *(nightly(level, seed) for level in native_library.levels() for seed in range(1, 6)),
    ],
    indirect=["level"],
)
def test_no_arguments_crash_the_library(level: str, seed: int) -> None:
    """100 000 calls over all levels, sizes right, wrong or absurd; buffers hold the largest right ones."""
    found = native_library.compiled_library()
    assert found is not None
    dice = random.Random(f"{seed} {level}")
    data = torch.randn(2 * 4 * 9 * 17 + 64)
    outs = [torch.zeros(2 * 4 * 9 * 17 + 64) for _ in range(4)]
    bits = torch.zeros(2 * 4 * 9 * 64 * 3 + 64, dtype=torch.uint8)
    factors = torch.rand(8 * 300 * 16)
    own = torch.rand(4 * 64 * 8 * 64)  # of every cell, column, output
    pointers = [None, data.data_ptr()]
    statuses = {}
    calls = 100_000 // len(native_library.levels())
    for call in range(calls):
        cells = native_library.Cells(
            kind=dice.choice((0, 0, 0, 1, 2, 3, 4, 5)), count=dice.choice((1, 2, 3, 3, 8, 0, 9, -1))
        )
        cells.powers = dice.choice((1, 3, 4, 4, 0, -1, 66))
        if dice.random() < (0.9 if cells.kind in (3, 4) else 0.3):
            cells.key_mismatch = own.data_ptr()
            cells.value_mismatch = own.data_ptr() if dice.random() < 0.97 else None
        cells.orders[0], cells.orders[1], cells.orders[2] = 1, 2, dice.choice((3, 3, 3, -1, 65))
        cells.constant = dice.choice((0.0, 0.1))
        cells.pieces, cells.pieces_per_volt = dice.choice((1, 100, 100, 0, -5, 1 << 30)), 50.0
        for name in ("row_factors", "column_factors", "table", "slopes", "curve"):
            setattr(cells, name, factors.data_ptr() if dice.random() < 0.97 else None)
        problem = native_library.Problem(
            cells=cells, low=0.0, high=0.9, middle=0.45, to_code=7.8, to_volts=0.13, steps=15.0
        )
        for name, values in FUZZED.items():
            wrong = dice.random() < 0.01
            setattr(problem, name, dice.choice(NEVER if wrong else values))
        if dice.random() < 0.8:  # mostly what fits together, so that kernels run
            problem.queries = min(problem.queries, problem.keys)
            problem.first_query = problem.first_key + problem.keys - problem.queries
            problem.margin, problem.ages = 80, 300
            problem.level, problem.readout = native_library.LEVELS.index(level), dice.choice((0, 1, 2, 3))
            problem.window, problem.threads = min(problem.window, problem.columns), 1
            if problem.tile < 1 or problem.columns % problem.tile:
                problem.tile = problem.columns
        problem.score_scale = problem.output_scale = 1.0
        errors = problem.errors
        errors.present, errors.seed, errors.chip = (
            dice.random() < 0.5,
            dice.getrandbits(32),
            dice.getrandbits(32),
        )
        for name in ("score_std", "output_std", "score_of_cell", "output_of_cell", "jitter_std"):
            setattr(errors, name, dice.choice((0.0, 0.1, 0.1, math.nan, -1.0)))
        for name in ("score_gain", "score_offset", "output_gain", "output_offset"):
            if dice.random() < (0.98 if call % 3 else 0.02):
                setattr(errors, name, own.data_ptr())
        for name in ("q", "k", "v", "q_gain", "q_offset", "k_gain", "k_offset", "v_gain", "v_offset"):
            given = 0.98 if len(name) == 1 else (0.02 if call % 2 else 0.98)
            setattr(problem, name, pointers[dice.random() < given])
        problem.integer_factors = dice.choice((None, factors.data_ptr()))
        problem.out, problem.open = outs[0].data_ptr(), bits.data_ptr()
        for name in ("sum", "out_gain", "out_offset"):
            setattr(problem, name, pointers[dice.random() < (0.02 if call % 4 else 0.98)])
        if dice.random() < 0.5:
            status = found.gc_forward(ctypes.byref(problem))
        else:
            known = (native_library.FLOAT32, native_library.BF16)
            products = dice.choice(known if dice.random() < 0.98 else (2, -1))
            grads = (data.data_ptr(), *(t.data_ptr() for t in outs[1:]))
            scales = (outs[0].data_ptr() if dice.random() < 0.99 else None for _ in range(4))
            gradient = native_library.Gradient(*grads, *scales, cells, products)
            status = found.gc_backward(ctypes.byref(problem), ctypes.byref(gradient))
        statuses[status] = statuses.get(status, 0) + 1
    assert set(statuses) <= {0, 1, 2, 4}
    assert min(statuses[0], statuses[2]) > 0.02 * calls, statuses  # 0.029 to 0.035 of them are right
    assert found.gc_forward(None) == 2
    steps = {}
    data.normal_()  # calls have written sums into it, perhaps no numbers
    ring = torch.zeros(2 * 3 * 16 * 64 + 64, dtype=torch.uint8)
    for _ in range(20_000):
        step = native_library.Step(order=3, to_volts=0.1, steps=15.0, score_scale=1.0, output_scale=1.0)
        sizes = {"batch": (1, 2), "heads": (1, 3, 6), "kv_heads": (1, 3), "dim": (1, 7, 16, 17, 64)}
        sizes |= {"columns": (8, 16), "tiles": (1, 4, 8), "slots": (1, 5, 8), "q_levels": (0, 1, 2, 16)}
        sizes |= {"storage_levels": (2, 8, 16, 17), "readout": (0, 1, 2, 3, 4), "threads": (1, 1, 1, 0)}
        for name, values in sizes.items():
            setattr(step, name, dice.choice(NEVER if dice.random() < 0.01 else values))
        step.level = native_library.LEVELS.index(level)
        positions = torch.randint(-1 if dice.random() < 0.1 else 0, 8, (8,), dtype=torch.int32)
        tile_of = torch.randint(-1, dice.choice((1, 1, 4, 9)), (16,), dtype=torch.int32)
        step.positions, step.tile_of, step.left = positions.data_ptr(), tile_of.data_ptr(), factors.data_ptr()
        step.q, step.out = data.data_ptr(), outs[0].data_ptr()
        step.cells.kind, step.cells.count = dice.choice((0, 0, 2, 3)), dice.choice((1, 3, 3, 0, 9))
        step.cells.orders[0], step.cells.orders[1], step.cells.orders[2] = 1, 2, dice.choice((3, 3, 65))
        step.cells.row_factors = step.cells.column_factors = step.cells.curve = factors.data_ptr()
        step.cells.pieces, step.cells.pieces_per_volt = dice.choice((1, 100, 0)), 50.0
        if dice.random() < 0.5:
            step.cells.key_mismatch = own.data_ptr()
            step.cells.value_mismatch = own.data_ptr() if dice.random() < 0.97 else None
        step.errors.present, step.errors.score_std = dice.random() < 0.5, dice.choice((0.0, 0.1, math.nan))
        step.errors.output_std, step.errors.jitter_std = (
            dice.choice((0.0, 0.1)),
            dice.choice((0.0,) * 9 + (0.1,)),
        )
        for name in ("score_gain", "score_offset", "output_gain", "output_offset"):
            if dice.random() < 0.5 or step.errors.present:
                setattr(step.errors, name, own.data_ptr() if dice.random() < 0.97 else None)
        step.query_tokens = positions.data_ptr() if dice.random() < 0.97 else None
        step.key = step.value = ring.data_ptr() if dice.random() < 0.97 else None
        status = found.gc_decode(ctypes.byref(step))
        steps[status] = steps.get(status, 0) + 1
    assert {0, 2} <= set(steps) <= {0, 1, 2}  # done, refused; or done and said not to be finite
    assert min(steps[0], steps[2]) > 1000, steps
    assert found.gc_decode(None) == 2
