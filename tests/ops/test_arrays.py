"""The token-serial arrays against the literal definition: the same codes, token by token, in float64."""

from __future__ import annotations

import pytest
import torch
from tests.cells import CELLS
from tests.tiers import slow
from torch import Tensor

from gaincell.arrays import HeadArray
from gaincell.chips.design_file import Design, load_design
from gaincell.devices.variability import Mismatch
from gaincell.ops.gain_cell_attention import gain_cell_attention

MISMATCH = Mismatch(gain_std=0.05, offset_voltage_std=0.02, current_offset_std=0.03, seed=7, chip=3)
NEAR = 1e-9


def design_for(
    window: int, cell: str = "polynomial", *, mismatch: bool = False, leak: float = 300.0
) -> Design:
    """A chip that has forgotten most of a token after `leak` steps, so that errors of age show."""
    design = load_design("leroux2025").replace(window=window, cell=cell)
    design = design.replace(retention_time=leak * design.token_period)
    return design.replace(mismatch=MISMATCH) if mismatch else design


def signals(tokens: int, heads: int, kv_heads: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one sequence that use all codes; some queries and voltages out of range."""
    random = torch.Generator().manual_seed(tokens + heads)
    q = torch.randn(1, heads, tokens, head_dim, generator=random, dtype=torch.float64) * 0.5 + 0.2
    k, v = (
        torch.randn(1, kv_heads, tokens, head_dim, generator=random, dtype=torch.float64) * std + 0.5
        for std in (0.3, 0.4)
    )
    return q, k, v


def serial(head: HeadArray, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs [T, H, D] of all steps, and how near a sub-tile came to a threshold."""
    outputs, distances = [], []
    for t in range(q.shape[2]):
        outputs.append(head.step(q[:, :, t], k[:, :, t], v[:, :, t])[0])
        assert head.trace is not None
        count = (head.trace.tile_charge[0] / head.design.output_saturation).abs() * 15 + 0.5
        distances.append((count - count.round()).abs().min(1).values)
    return torch.stack(outputs), torch.stack(distances)


def assert_same_codes(design: Design, heads: int, kv_heads: int, head_dim: int, tokens: int) -> None:
    q, k, v = signals(tokens, heads, kv_heads, head_dim)
    expected = gain_cell_attention(q, k, v, design, backend="naive")[0].transpose(0, 1)
    head = HeadArray(design, head_dim, heads=heads, kv_heads=kv_heads)
    got, distance = serial(head, q, k, v)
    assert (expected * 15).round().unique().numel() > 10, "the outputs of the test use the codes"
    different = (got * 15).round() != (expected * 15).round()
    assert bool((distance[different] < NEAR).all()), (
        f"{int(different.sum())} codes differ away from a threshold"
    )
    assert different.double().mean() < 1e-4
    torch.testing.assert_close(got[~different], expected[~different], atol=1e-12, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_gives_the_codes_of_the_definition(cell: str) -> None:
    assert_same_codes(design_for(64, cell), 2, 1, 64, 2 * 64 + 17)


@pytest.mark.parametrize(("head_dim", "mismatch"), [(32, True), slow(128, False)])
def test_other_head_dimensions_groups_and_mismatch(head_dim: int, mismatch: bool) -> None:
    assert_same_codes(design_for(128, mismatch=mismatch), 4, 2, head_dim, 128 + 64 + 17)


@pytest.mark.slow
def test_the_paper_s_window_over_a_lap() -> None:
    """And into the next: every sub-tile has been full, and the first four have held tokens of both laps."""
    assert_same_codes(design_for(1024, mismatch=True), 1, 1, 8, 1024 + 217)


def test_after_a_reset_the_arrays_know_nothing_of_before() -> None:
    design = design_for(128, mismatch=True)
    q, k, v = signals(300, 2, 1, 64)
    head = HeadArray(design, heads=2, kv_heads=1)
    serial(head, q[:, :, :170], k[:, :, :170], v[:, :, :170])
    head.reset()
    got, _ = serial(head, q[:, :, 170:], k[:, :, 170:], v[:, :, 170:])
    expected = gain_cell_attention(q[:, :, 170:], k[:, :, 170:], v[:, :, 170:], design, backend="naive")
    torch.testing.assert_close(got, expected[0].transpose(0, 1), atol=1e-12, rtol=0)
