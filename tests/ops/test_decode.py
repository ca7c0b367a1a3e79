"""The parity ladder, rung `ops.naive = ops.decode`: one query against what is held."""

from __future__ import annotations

import pytest
import torch
from tests.cells import CELLS

from gaincell.chips.design_file import load_design
from gaincell.devices.variability import Mismatch
from gaincell.errors import InputError
from gaincell.ops.gain_cell_attention import gain_cell_attention

READOUTS = ["counter", "counter-floor", "published-code", "none"]
M = 128


def check(tokens: int, dim: int = 16, window: int | None = None, padding: int = 0, **changes: object) -> None:
    design = load_design("leroux2025").replace(**{"window": M, "tile": 32, "token_period": 20e-6, **changes})
    g = torch.Generator().manual_seed(tokens)
    q = torch.rand(3, 4, 1, dim, generator=g, dtype=torch.float64) * 1.5 - 0.3
    k, v = (torch.rand(3, 2, tokens, dim, generator=g, dtype=torch.float64) * 1.1 - 0.1 for _ in range(2))
    index = torch.arange(tokens).repeat(3, 1)
    index[1] = (index[1] - padding).clamp(min=-1)
    k[1, :, :padding] = torch.nan
    options = {"key_index": index, "sliding_window": window, "layer": 2}
    expected = gain_cell_attention(q, k, v, design, backend="naive", **options)
    found = gain_cell_attention(q, k, v, design, backend="decode", **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert torch.equal(gain_cell_attention(q, k, v, design, **options), found), "auto is decode"


@pytest.mark.parametrize("tokens", [1, 31, 32, 33, M, 2 * M + 37])
def test_every_length(tokens: int) -> None:
    check(tokens)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("readout", READOUTS)
def test_every_cell_and_readout(cell: str, readout: str) -> None:
    check(M + 5, cell=cell, readout=readout)


@pytest.mark.parametrize("window", [1, 20, M, 5 * M])
@pytest.mark.parametrize("dim", [8, 64])
def test_windows_padding_and_mismatch(window: int, dim: int) -> None:
    mismatch = Mismatch(gain_std=0.1, offset_voltage_std=0.02, current_offset_std=0.05, seed=1)
    check(M + 40, dim, window, padding=21, mismatch=mismatch)


def test_decode_is_for_one_query_without_gradients() -> None:
    design = load_design("leroux2025").replace(window=M)
    q, k = torch.rand(1, 1, 2, 8), torch.rand(1, 1, 2, 8)
    with pytest.raises(InputError, match="takes one query"):
        gain_cell_attention(q, k, k, design, backend="decode")
    one = q[:, :, :1].requires_grad_()
    with pytest.raises(InputError, match="no gradients"):
        gain_cell_attention(one, k, k, design, backend="decode")
    gain_cell_attention(one, k, k, design).sum().backward()
    assert one.grad is not None
