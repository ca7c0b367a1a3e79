"""Physics of gain-cell attention, on its literal definition: causality, ring buffer, valid bits, tiles.

The reference here is a third, scalar one, loops over single cells, for sizes where that is possible.
"""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.circuits import write_dac
from gaincell.circuits.normaliser import Normaliser
from gaincell.circuits.sinks import Sinks
from gaincell.devices.variability import VALUE_ARRAY, Mismatch, cell_errors
from gaincell.errors import InputError
from gaincell.ops.gain_cell_attention import (
    BackendName,
    Scaling,
    attention_from_voltages,
    gain_cell_attention,
)

M, N = 8, 4
FORGETFUL = 200e-6  # token period that leaves exp(-0.04) per token: decay matters within a small window


def chip(**changes: object) -> Design:
    """The paper's chip, small; full scale is lowered so that few tokens reach it."""
    small = {
        "window": M,
        "tile": N,
        "token_period": FORGETFUL,
        "score_saturation_per_row": 0.8,
        "output_saturation_per_column": 0.5,
    }
    return load_design("leroux2025").replace(**(small | changes))


def random_inputs(
    tokens: int,
    batch: int = 1,
    heads: int = 2,
    kv_heads: int = 1,
    dim: int = 3,
    seed: int = 0,
    dtype=torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(h: int) -> Tensor:
        return torch.rand(batch, h, tokens, dim, generator=generator, dtype=torch.float64).to(dtype)

    return draw(heads), 0.9 * draw(kv_heads), 0.9 * draw(kv_heads)


def attend(q: Tensor, k: Tensor, v: Tensor, design: Design, **options: object) -> Tensor:
    return gain_cell_attention(q, k, v, design, backend="naive", **options)


def scalar_attention(q: Tensor, k: Tensor, v: Tensor, design: Design) -> Tensor:
    """One sequence and head, [T, D] each, cell by cell, by equations (5) to (9) of the paper."""
    tokens, dim = q.shape
    c = design.cell.coefficients
    assert c is not None

    def f(x: float, u: float) -> float:
        return x * sum(cp * u**p for p, cp in enumerate(c))

    def drive(value: float) -> float:
        return math.floor(15 * min(max(value, 0), 1) + 0.5) / 15

    def store(volts: float) -> float:
        return (min(max(math.floor((volts - 0.45) * 7 / 0.9 + 4), 0), 7) - 3.5) * 0.9 / 7

    delta = math.exp(-design.token_period / design.retention_time)  # type: ignore[operator]
    out = torch.zeros(tokens, dim, dtype=torch.float64)
    for i in range(tokens):
        charge = torch.zeros(design.window // design.tile, dim, dtype=torch.float64)
        for j in range(max(0, i - design.window + 1), i + 1):
            kept = delta ** (i - j)
            s = sum(f(drive(float(q[i, d])), store(float(k[j, d])) * kept) for d in range(dim))
            a = min(max(s / (design.score_saturation_per_row * dim), 0), 1)
            for d in range(dim):
                charge[j % design.window // design.tile, d] += f(a, store(float(v[j, d])) * kept)
        o = (charge / (design.output_saturation_per_column * design.tile)).clamp(-1, 1)
        out[i] = (o.sign() * (15 * o.abs() + 0.5).floor() / 15).sum(0)
    return out


@pytest.mark.parametrize("cell", ["linear", "polynomial", "x3"])
@pytest.mark.parametrize("dim", [1, 3, 9])  # idle rows, and more rows than a tile has
def test_agrees_with_scalar_loops(cell: str, dim: int) -> None:
    q, k, v = random_inputs(2 * M + 3, heads=1, dim=dim)
    design = chip(cell=cell)
    expected = scalar_attention(q[0, 0], k[0, 0], v[0, 0], design)
    torch.testing.assert_close(attend(q, k, v, design)[0, 0], expected, rtol=1e-12, atol=1e-12)
    assert len(expected.unique()) > 5  # neither empty nor all saturated


def test_outputs_are_whole_codes() -> None:
    codes = attend(*random_inputs(3 * M, dim=6), chip()) * 15
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-12)
    assert codes.abs().max() <= 15 * (M // N)


@settings(max_examples=20, deadline=None)
@given(tokens=st.integers(2, 2 * M), data=st.data())
def test_a_future_token_changes_nothing(tokens: int, data: st.DataObject) -> None:
    future = data.draw(st.integers(1, tokens - 1))
    q, k, v = random_inputs(tokens)
    _, other_k, other_v = random_inputs(tokens, seed=1)
    changed_k = torch.cat([k[:, :, :future], other_k[:, :, future:]], dim=2)
    changed_v = torch.cat([v[:, :, :future], other_v[:, :, future:]], dim=2)
    before = attend(q, k, v, chip())[:, :, :future]
    assert torch.equal(attend(q, changed_k, changed_v, chip())[:, :, :future], before)


@settings(max_examples=20, deadline=None)
@given(tokens=st.integers(M + 1, 3 * M), seed=st.integers(0, 100))
def test_the_ring_buffer_is_a_sliding_window(tokens: int, seed: int) -> None:
    """The last token sees M tokens: older ones change nothing, and need not even be given."""
    q, k, v = random_inputs(tokens, seed=seed)
    last = attend(q, k, v, chip())[:, :, -1:]
    k[:, :, : tokens - M], v[:, :, : tokens - M] = 0.9, 0.0
    assert torch.equal(attend(q, k, v, chip())[:, :, -1:], last)
    held = torch.arange(tokens - M, tokens)[None]
    alone = attend(q[:, :, -1:], k[:, :, -M:], v[:, :, -M:], chip(), key_index=held)
    torch.testing.assert_close(alone, last, rtol=0, atol=1e-12)


def test_mismatch_stays_with_the_physical_column() -> None:
    """Periodic tokens, no decay: the output is periodic only if column j mod M keeps its errors."""
    q, k, v = (x.repeat(1, 1, 3, 1) for x in random_inputs(M))
    design = chip(mismatch=Mismatch(0.2, 0.05, 0.1, seed=1), retention_time=None, readout="none")
    out = attend(q, k, v, design)
    torch.testing.assert_close(out[:, :, M : 2 * M], out[:, :, 2 * M :], rtol=1e-10, atol=1e-10)
    nominal = attend(q, k, v, design.replace(mismatch=Mismatch()))
    assert not torch.allclose(out[:, :, M : 2 * M], nominal[:, :, M : 2 * M])
    shifted = attend(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:], design)  # every token one column further left
    assert not torch.allclose(shifted[:, :, M : 2 * M], out[:, :, M + 1 : 2 * M + 1])


def test_all_sequences_and_all_heads_of_a_group_see_the_same_chip() -> None:
    q, k, v = random_inputs(2 * M, batch=3, heads=4, kv_heads=2)
    design = chip(mismatch=Mismatch(0.2, 0.05, 0.1, seed=1), readout="none")
    out = attend(q, k, v, design)
    for b in range(3):
        alone = attend(q[b : b + 1], k[b : b + 1], v[b : b + 1], design)
        torch.testing.assert_close(alone, out[b : b + 1], rtol=1e-12, atol=1e-12)
    same = attend(*(x[:, :1].expand(-1, n, -1, -1) for x, n in ((q, 4), (k, 2), (v, 2))), design)
    assert torch.equal(same[:, 0], same[:, 1])
    assert not torch.allclose(same[:, 0], same[:, 2])  # another key/value head, other cells


def test_mismatch_enters_as_in_its_equation() -> None:
    """Two tokens of one row whose scores are far above saturation: full pulses into the value cells."""
    design = chip(
        mismatch=Mismatch(0.2, 0.05, 0.1, seed=3),
        readout="none",
        query_levels=None,
        storage_levels=None,
        output_ceiling=False,
    )
    q, k, v = (torch.full((1, 1, 2, 1), value, dtype=torch.float64) for value in (1.0, 0.9, 0.6))
    e = cell_errors(design, 5, 1, 1, VALUE_ARRAY, torch.float64, torch.device("cpu"))
    assert e is not None
    expected = 0.0
    for j in range(2):
        u = (v[0, 0, j, 0] - 0.45) * design.decay_per_token ** (1 - j)
        current = design.cell.current(u + e.offset_voltage[0, j, 0])
        expected += float(e.gain[0, j, 0] * current + e.current_offset[0, j, 0])
    found = attend(q, k, v, design, layer=5)[0, 0, 1, 0]
    assert found.item() == pytest.approx(expected / design.output_saturation, rel=1e-12)


@pytest.mark.parametrize("tokens", [1, 5, M])
def test_the_ideal_unsaturated_cell_is_a_scaled_matrix_product(tokens: int) -> None:
    design = load_design("ideal").replace(window=M, tile=N)
    q, k, v = random_inputs(tokens, heads=1, dim=5)
    scores = 19.3 * q @ (k - 0.45).mT / design.score_saturation(5)
    expected = 19.3 * scores.relu().tril() @ (v - 0.45) / design.output_saturation
    torch.testing.assert_close(attend(q, k, v, design), expected, rtol=1e-12, atol=1e-12)


def test_columns_never_written_are_silent_but_decayed_ones_are_not() -> None:
    """A decayed column stores V_offset and drives C0 per input: its score is C0 sum(x), its output A C0."""
    design = chip(readout="none", token_period=1.0)  # exp(-200): everything older than one token is gone
    c0 = design.cell.coefficients[0]  # type: ignore[index]
    q, k, v = random_inputs(2, heads=1)
    only_itself = attend(
        q, k, v, design, key_index=torch.tensor([[-1, 1]]), query_index=torch.tensor([[-1, 1]])
    )
    both = attend(q, k, v, design)
    x = (15 * q[0, 0, 1] + 0.5).floor() / 15
    pulse = c0 * x.sum() / design.score_saturation(3)
    expected = torch.full((3,), float(pulse * c0 / design.output_saturation), dtype=torch.float64)
    torch.testing.assert_close((both - only_itself)[0, 0, 1], expected, rtol=1e-10, atol=1e-14)
    assert (only_itself[0, 0, 0] == 0).all()


def test_a_token_is_read_first_undecayed() -> None:
    q, k, v = random_inputs(1)
    assert torch.equal(attend(q, k, v, chip(token_period=1.0)), attend(q, k, v, chip(retention_time=None)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_never_written(side: str) -> None:
    """Sequences of 5 and 2M + 1 tokens in one batch give what each gives alone; padding holds NaN."""
    length = 2 * M + 1
    design = chip(mismatch=Mismatch(0.1, seed=2))
    q, k, v = random_inputs(length, batch=2)
    index = torch.arange(length).repeat(2, 1)
    alone = attend(q[:1, :, :5], k[:1, :, :5], v[:1, :, :5], design)
    if side == "left":
        q[0], k[0], v[0] = (x[0].roll(length - 5, dims=1) for x in (q, k, v))
        real = slice(length - 5, length)
        index[0] = torch.arange(length) - (length - 5)
    else:
        real = slice(0, 5)
        index[0, 5:] = -1
    index[0] = index[0].clamp(min=-1)
    padding = index[0] < 0
    q[0][:, padding], k[0][:, padding], v[0][:, padding] = torch.nan, torch.nan, torch.nan
    out = attend(q, k, v, design, key_index=index)
    torch.testing.assert_close(out[0, :, real], alone[0], rtol=0, atol=1e-12)
    assert (out[0][:, padding] == 0).all()
    torch.testing.assert_close(out[1:], attend(q[1:], k[1:], v[1:], design), rtol=0, atol=1e-12)


@pytest.mark.parametrize("w", [1, 3, M - 1])
def test_a_sliding_window_gates_columns_and_leaves_the_ring(w: int) -> None:
    q, k, v = random_inputs(2 * M)
    i = 2 * M - 1
    index = torch.arange(2 * M)[None]
    only_w = torch.where(index > i - w, index, -1)
    expected = attend(q[:, :, -1:], k, v, chip(), key_index=only_w)
    assert torch.equal(attend(q, k, v, chip(), sliding_window=w)[:, :, -1:], expected)
    assert torch.equal(attend(q, k, v, chip(), sliding_window=5 * M), attend(q, k, v, chip()))


@pytest.mark.parametrize("at_once", [1, 3])
def test_token_by_token_equals_all_at_once(at_once: int) -> None:
    q, k, v = random_inputs(2 * M + 1)
    out = attend(q, k, v, chip())
    for start in range(0, 2 * M + 1 - at_once, at_once):
        end = start + at_once
        step = attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], chip())
        torch.testing.assert_close(step, out[:, :, start:end], rtol=0, atol=1e-12)


def test_scaling_is_applied_per_head_before_and_after() -> None:
    q, k, v = random_inputs(M, heads=4, kv_heads=2)
    s = Scaling(*(torch.linspace(0.5, 1.5, n, dtype=torch.float64) for n in (4, 4, 2, 2, 2, 2, 4, 4)))

    def by_hand(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        return x * gain[:, None, None] + offset[:, None, None]

    inner = attend(
        by_hand(q, s.q_gain, s.q_offset),
        by_hand(k, s.k_gain, s.k_offset),
        by_hand(v, s.v_gain, s.v_offset),
        chip(),
    )
    assert torch.equal(attend(q, k, v, chip(), scaling=s), by_hand(inner, s.out_gain, s.out_offset))


@pytest.mark.parametrize("backend", ["naive", "blocked", "decode"])
def test_autocast_changes_nothing(backend: BackendName) -> None:
    """Nor in columns of first tokens: the arrays compute in float32 in models that it makes narrow."""
    q, k, v = random_inputs(20, dtype=torch.float32)
    given = q[:, :, -1:], k, v, chip(readout="none", sinks=Sinks(tokens=2))
    alone = gain_cell_attention(*given, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gain_cell_attention(*given, backend=backend), alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    """With voltages in the middle of their steps only the final rounding of the output differs."""
    q, k, v = random_inputs(2 * M)
    q, k, v = q.to(dtype), *((0.45 + (((8 * x / 0.9).floor() - 3.5) * 0.9 / 7)).to(dtype) for x in (k, v))
    out = attend(q, k, v, chip(readout="none"))
    assert out.dtype == dtype
    wide = attend(q.float(), k.float(), v.float(), chip(readout="none"))
    torch.testing.assert_close(out, wide.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_zero_keys_give_the_same_in_every_precision(dtype: torch.dtype) -> None:
    zero = torch.zeros(1, 1, M, 4, dtype=dtype)
    q = torch.full((1, 1, M, 4), 0.6, dtype=dtype)
    ones, offset, none = (
        torch.ones(1, dtype=dtype),
        torch.full((1,), 0.45, dtype=dtype),
        torch.zeros(1, dtype=dtype),
    )
    scaling = Scaling(ones, none, ones, offset, ones, offset, ones, none)
    out = attend(q, zero, zero, chip(), scaling=scaling)
    volts = torch.full((1, 1, M, 4), 0.46, dtype=torch.float64)  # inside the step just above V_offset
    expected = attend(q.double(), volts, volts, chip())
    assert (expected > 0).any()
    torch.testing.assert_close(out.double(), expected.to(dtype).double(), rtol=1e-6, atol=0)


def test_nan_of_a_real_token_is_not_hidden() -> None:
    q, k, v = random_inputs(4)
    k[0, 0, 1, 0] = torch.nan
    out = attend(q, k, v, chip())
    assert out[:, :, 1:].isnan().all()
    assert not out[:, :, :1].isnan().any()


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("must be \\[B, H", {"q": torch.rand(2, 3, 4)}),
        ("same shape", {"v": torch.rand(1, 1, 5, 3)}),
        ("head dimension", {"q": torch.rand(1, 2, 4, 5)}),
        ("multiple of", {"k": torch.rand(1, 3, 4, 3), "v": torch.rand(1, 3, 4, 3)}),
        ("more queries than keys", {"q": torch.rand(1, 2, 6, 3)}),
        ("no dimension may be 0", {"q": torch.rand(1, 2, 0, 3)}),
        ("design is 'leroux2025'; give a Design, as load_design", {"design": "leroux2025"}),
        ("choose one of auto, naive, blocked", {"backend": "fast"}),
        ("exact, bf16, surrogate, surrogate-bf16", {"gradient": "none"}),
        ("sliding_window=0", {"sliding_window": 0}),
        ("layer=-1", {"layer": -1}),
        ("key_index is torch.int32", {"key_index": torch.zeros(1, 4, dtype=torch.int32)}),
        ("query_index is", {"query_index": torch.zeros(1, 3, dtype=torch.int64)}),
        ("scaling=1.0; give a Scaling of gaincell.ops", {"scaling": 1.0}),
        ("scaling.k_gain has shape", {"scaling": Scaling(*[torch.ones(2)] * 8)}),
    ],
)
def test_unacceptable_arguments_are_refused(message: str, change: dict[str, object]) -> None:
    q, k, v = random_inputs(4)
    arguments = {"q": q, "k": k, "v": v, "design": chip(), "backend": "naive"} | change
    unchecked = inspect.unwrap(
        gain_cell_attention
    )  # as users get it, without the annotation checks of the tests
    with pytest.raises(InputError, match=message):
        unchecked(**arguments)


@pytest.mark.parametrize("offset", [0.3, 0.45, 0.6])
def test_the_normalising_column_holds_what_the_write_dac_gives(offset: float) -> None:
    """Of written voltages, too, where V_offset is not in the middle of the range."""
    design = chip().replace(normaliser=Normaliser(floor=0.5), v_offset=offset)
    q, k, v = random_inputs(6)
    written = [write_dac(u, 8, design.v_min, design.v_max, offset) for u in (k, v)]
    found = attention_from_voltages(q, *written, design, "naive")
    torch.testing.assert_close(found, gain_cell_attention(q, k, v, design, None, "naive"))


@pytest.mark.parametrize("backend", ["naive", "blocked"])
def test_voltages_that_are_older_than_their_tokens_say(backend: str) -> None:
    """Held for so many token periods more, they are what they would be if the tokens were as much older."""
    design = chip()
    q, k, v = random_inputs(6)
    levels = [((u - 0.45) * 7 / 0.9 + 4).floor().clamp(0, 7).sub(3.5) * 0.9 / 7 for u in (k, v)]
    now = {"key_index": torch.arange(6)[None], "query_index": torch.tensor([[4, 5]])}
    rest = {"key_index": torch.tensor([[0, 1, 2, 3, 7, 8]]), "query_index": torch.tensor([[7, 8]])}
    columns = design.replace(window=16, tile=16)  # one sub-tile, whichever columns the tokens are in
    given = (q[:, :, 4:], *levels, columns, backend)
    pause = torch.full((1, 4), 3 * FORGETFUL, dtype=torch.float64)
    found = attention_from_voltages(*given, **now, extra_age=pause)
    expected = attention_from_voltages(*given[:-1], "naive", **rest)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    with pytest.raises(InputError, match="extra_age is of the first 3 slots, but more hold tokens before"):
        attention_from_voltages(*given, **now, extra_age=pause[:, :3])
