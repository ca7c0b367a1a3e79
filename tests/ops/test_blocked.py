"""The parity ladder, rung `ops.naive = ops.blocked`: values and all gradients.

In float64 the two must agree to rounding, quantisation included. In float32 codes are compared: equal, or one
level apart where the tile output lies within rounding of a threshold.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cells import CELLS, TABLE
from tests.tiers import slow
from torch import Tensor

from gaincell.chips.design_file import Design, load_design
from gaincell.devices.variability import Mismatch
from gaincell.ops.gain_cell_attention import Scaling, gain_cell_attention

READOUTS = ["counter", "counter-floor", "published-code", "none"]
M = 128
LENGTHS = [1, 63, 64, 65, 127, 2 * M + 37]


def chip(**changes: object) -> Design:
    """The paper's chip with a small window and a decay strong enough to matter."""
    base = {"window": M, "tile": 32, "token_period": 20e-6}
    return load_design("leroux2025").replace(**{**base, **changes})


class Case:
    """Random inputs and scaling of one attention, with the gradients that flow back to them."""

    def __init__(
        self, batch: int, heads: int, kv_heads: int, tokens: int, dim: int, dtype=torch.float64, seed: int = 0
    ):
        g = torch.Generator().manual_seed(seed)

        def draw(*shape: int, low: float, high: float) -> Tensor:
            return (low + (high - low) * torch.rand(*shape, generator=g, dtype=torch.float64)).to(dtype)

        self.leaves = {
            "q": draw(batch, heads, tokens, dim, low=-0.3, high=1.2),
            "k": draw(batch, kv_heads, tokens, dim, low=-0.6, high=0.6),
            "v": draw(batch, kv_heads, tokens, dim, low=-0.6, high=0.6),
            "q_gain": draw(heads, low=0.5, high=1.5),
            "q_offset": draw(heads, low=-0.1, high=0.1),
            "k_gain": draw(kv_heads, low=0.5, high=1.5),
            "k_offset": draw(kv_heads, low=0.40, high=0.50),
            "v_gain": draw(kv_heads, low=0.5, high=1.5),
            "v_offset": draw(kv_heads, low=0.40, high=0.50),
            "out_gain": draw(heads, low=0.5, high=1.5),
            "out_offset": draw(heads, low=-0.1, high=0.1),
        }
        self.weight = draw(batch, heads, tokens, dim, low=-1.0, high=1.0)

    def run(self, design: Design, backend: str, **options: object) -> tuple[Tensor, dict[str, Tensor]]:
        leaves = {name: t.clone().requires_grad_() for name, t in self.leaves.items()}
        q, k, v = (leaves[n] for n in "qkv")
        scaling = Scaling(**{n: t for n, t in leaves.items() if n not in "qkv"})
        out = gain_cell_attention(q, k, v, design, scaling, backend, **options)
        (out * self.weight).sum().backward()
        return out.detach(), {name: t.grad for name, t in leaves.items()}


def assert_parity(case: Case, design: Design, **options: object) -> None:
    expected, expected_gradients = case.run(design, "naive", **options)
    found, gradients = case.run(design, "blocked", **options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for name, gradient in gradients.items():
        scale = expected_gradients[name].abs().max().clamp(min=1e-12)
        error = float((gradient - expected_gradients[name]).abs().max() / scale)
        assert error < 1e-9, f"gradient of {name} differs by {error:.1e} of its largest element"


@pytest.mark.parametrize("gradient", ["exact", "surrogate"])
@pytest.mark.parametrize("tokens", LENGTHS)
def test_every_length(tokens: int, gradient: str) -> None:
    assert_parity(Case(1, 2, 2, tokens, 16), chip(), gradient=gradient)


@pytest.mark.slow
def test_a_thousand_tokens_in_the_paper_s_array() -> None:
    assert_parity(Case(1, 1, 1, 1000, 8), load_design("leroux2025"))
    assert_parity(Case(1, 1, 1, 200, 64), load_design("leroux2025"))


@pytest.mark.parametrize(
    ("cell", "gradient"),
    [(cell, "exact") for cell in CELLS]
    + [slow(cell, "surrogate") if cell is TABLE else (cell, "surrogate") for cell in CELLS],
)
def test_every_cell(cell: str, gradient: str) -> None:
    assert_parity(Case(1, 2, 1, M + 37, 16), chip(cell=cell), gradient=gradient)


@pytest.mark.parametrize("cell", [slow(cell) if cell is TABLE else cell for cell in CELLS])
def test_every_cell_with_mismatch(cell: str) -> None:
    design = chip(cell=cell, mismatch=Mismatch(0.05, 0.02, 0.05, seed=3, chip=1))
    assert_parity(Case(2, 4, 2, M + 37, 16), design, layer=2)


@pytest.mark.parametrize("readout", READOUTS)
def test_every_readout(readout: str) -> None:
    assert_parity(Case(1, 2, 2, M + 37, 16), chip(readout=readout))


@pytest.mark.parametrize(
    "changes",
    [
        {"score_ceiling": False},
        {"output_ceiling": False, "readout": "none"},
        {"query_levels": None, "storage_levels": None},
        {"retention_time": None},
        {"token_period": 500e-6},
        {"token_period": 20e-3},
        {"window": 32},
        {"window": 96, "tile": 48},
        {"window": 160, "tile": 160},
        {"tile": 1, "window": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("cell", ["polynomial", "sigmoid"])
def test_designs(changes: dict[str, object], cell: str) -> None:
    assert_parity(Case(1, 2, 1, 230, 8), chip(cell=cell, **changes))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "batch"), [(6, 2, 24, 3), (3, 1, 80, 1), (4, 4, 1, 2), slow(12, 4, 128, 1)]
)
def test_shapes(heads: int, kv_heads: int, dim: int, batch: int) -> None:
    assert_parity(Case(batch, heads, kv_heads, 150, dim), chip())


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("cell", ["polynomial", "sigmoid"])
def test_several_heads_at_once(threads: int, cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head for every thread: groups of heads that do and do not divide evenly."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    design = chip(cell=cell, mismatch=Mismatch(0.05, 0.02, 0.05, seed=3, chip=1))
    for gradient in ("exact", "surrogate"):
        assert_parity(Case(2, 6, 3, M + 37, 16), design, gradient=gradient)


@pytest.mark.parametrize("width", [1, 5, 64, 100, M, 3 * M])
def test_a_model_s_own_window(width: int) -> None:
    assert_parity(Case(1, 2, 1, 200, 8), chip(), sliding_window=width)


PADDINGS = {
    "left": [[0] * 60 + [1] * 140, [1] * 200, [0] * 199 + [1]],
    "right": [[1] * 140 + [0] * 60, [1] * 200, [1] + [0] * 199],
    "holes": [[1, 0] * 100, [1] * 200, [0] * 50 + [1] * 100 + [0] * 50],
    "an empty sequence": [[0] * 200, [1] * 200, [0] * 100 + [1] * 100],
}


@pytest.mark.parametrize("kind", list(PADDINGS))
def test_padding(kind: str) -> None:
    real = torch.tensor(PADDINGS[kind])
    index = torch.where(real > 0, real.cumsum(1) - 1, -1)
    assert_parity(Case(3, 2, 1, 200, 8), chip(), key_index=index)


@pytest.mark.parametrize("queries", [1, 3, 70])
@pytest.mark.parametrize("dropped", [0, 30, 64])
def test_the_last_queries_on_a_longer_memory(queries: int, dropped: int) -> None:
    """Decoding: the last queries alone, with left padding, and with the oldest columns no longer held."""
    case, design, tokens = Case(2, 4, 2, 300, 8), chip(), 300
    real = torch.ones(2, tokens, dtype=torch.long)
    real[0, :11] = 0
    index = torch.where(real > 0, real.cumsum(1) - 1, -1)
    q, k, v = (case.leaves[n] for n in "qkv")
    window = tokens - dropped - queries
    full = gain_cell_attention(q, k, v, design, None, "blocked", key_index=index, sliding_window=window)
    for backend in ("naive", "blocked"):
        last = gain_cell_attention(
            q[:, :, -queries:],
            k[:, :, dropped:],
            v[:, :, dropped:],
            design,
            None,
            backend,
            key_index=index[:, dropped:],
            sliding_window=window,
        )
        torch.testing.assert_close(last, full[:, :, -queries:], rtol=0, atol=1e-12)


def test_whatever_stands_in_the_padding_is_never_read() -> None:
    case = Case(2, 2, 1, 100, 8)
    real = torch.ones(2, 100, dtype=torch.long)
    real[0, :40] = 0
    real[1, 70:] = 0
    index = torch.where(real > 0, real.cumsum(1) - 1, -1)
    q, k, v = (case.leaves[n].clone() for n in "qkv")
    clean = gain_cell_attention(q, k, v, chip(), None, "blocked", key_index=index)
    for t in (q, k, v):
        t.masked_fill_(real[:, None, :, None] == 0, float("nan"))
    poisoned = gain_cell_attention(q, k, v, chip(), None, "blocked", key_index=index)
    assert torch.equal(clean, poisoned)


def test_float32_codes() -> None:
    """At most one level apart, and only where a float64 tile output lies within float32 rounding of a
    threshold.
    """
    design = load_design("leroux2025")
    g = torch.Generator().manual_seed(0)
    shape = (1, 2, 640, 64)
    q = torch.randint(0, 16, shape, generator=g).double() / 15
    k, v = (0.45 + (torch.randint(0, 8, shape, generator=g).double() - 3.5) * 0.9 / 7 for _ in range(2))
    exact = gain_cell_attention(q, k, v, design, None, "blocked")
    found = gain_cell_attention(q.float(), k.float(), v.float(), design, None, "blocked").double()
    steps = (found - exact) * 15
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    apart = steps.round().abs()
    assert float(apart.max()) <= 1
    assert float((apart > 0).double().mean()) < 1e-4
    for _, h, i, d in (apart > 0).nonzero().tolist():
        age = i - torch.arange(i + 1)
        decay = (design.decay_per_token**age)[:, None]
        scores = (q[0, h, i] * design.cell.current((k[0, h, : i + 1] - 0.45) * decay)).sum(1)
        pulses = (scores / design.score_saturation(64)).clamp(0, 1)
        charges = pulses * design.cell.current((v[0, h, : i + 1, d] - 0.45) * decay[:, 0])
        tiles = torch.stack([part.sum() for part in charges.split(design.tile)])
        levels = 15 * (tiles / design.output_saturation).clamp(-1, 1).abs() + 0.5
        assert float((levels - levels.round()).abs().min()) < 2e-4


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 150),
    tile=st.sampled_from([1, 3, 8, 16]),
    tiles=st.integers(1, 5),
    group=st.integers(1, 3),
    dim=st.integers(1, 9),
    cell=st.sampled_from(CELLS),
    readout=st.sampled_from(READOUTS),
    period=st.sampled_from([1e-9, 1e-6, 1e-4, 1e-3, 1.0]),
    seed=st.integers(0, 2**20),
)
def test_anything(
    tokens: int,
    tile: int,
    tiles: int,
    group: int,
    dim: int,
    cell: str,
    readout: str,
    period: float,
    seed: int,
) -> None:
    design = chip(tile=tile, window=tile * tiles, cell=cell, readout=readout, token_period=period)
    assert_parity(Case(1, 2 * group, 2, tokens, dim, seed=seed), design)
