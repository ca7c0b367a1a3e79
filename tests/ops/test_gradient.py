"""Gradients of the literal definition: the derivative, the gates of the clamps, the linear surrogate."""

import pytest
import torch
from tests.cells import NAMED
from tests.tiers import slow_after
from torch import Tensor

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.devices.variability import Mismatch
from gaincell.ops.gain_cell_attention import gain_cell_attention

M, N = 8, 4


def chip(**changes: object) -> Design:
    """Not quantised, so that the function is smooth between the thresholds of its clamps."""
    smooth = {"query_levels": None, "storage_levels": None, "readout": "none", "token_period": 200e-6}
    return load_design("leroux2025").replace(**({"window": M, "tile": N} | smooth | changes))


def inputs(tokens: int, dim: int = 3, heads: int = 2, kv_heads: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(1, heads, tokens, dim), (1, kv_heads, tokens, dim), (1, kv_heads, tokens, dim)]
    q, k, v = (torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return q.requires_grad_(), (0.9 * k).requires_grad_(), (0.9 * v).requires_grad_()


@pytest.mark.parametrize(
    "cell", slow_after(3, ["polynomial", "x5", "sigmoid", "linear", "x3", "exponential"])
)
def test_gradient_is_the_derivative(cell: str) -> None:
    """Scores and outputs on both sides of their ceilings, ages beyond one lap, cells with errors."""
    design = chip(
        cell=cell,
        window=4,
        tile=2,
        score_saturation_per_row=0.6,
        output_saturation_per_column=0.3,
        mismatch=Mismatch(0.1, 0.03, 0.05, seed=1),
    )
    assert torch.autograd.gradcheck(
        lambda q, k, v: gain_cell_attention(q, k, v, design, backend="naive"),
        inputs(6, dim=2),
        eps=1e-7,
        atol=1e-5,
    )


def test_rounding_is_straight_through() -> None:
    """The quantised chip has the gradient that the smooth one has at the quantised inputs."""
    q, k, v = inputs(M)
    quantised = chip(query_levels=16, storage_levels=8, readout="counter")
    on_grid = ((15 * q + 0.5).floor() / 15, *(((x - 0.45) * 7 / 0.9 + 4).floor() - 3.5 for x in (k, v)))
    smooth_inputs = [on_grid[0].detach(), *(x.detach() * 0.9 / 7 + 0.45 for x in on_grid[1:])]
    inside = [
        (x > low) & (x < high) for x, low, high in zip(smooth_inputs, (0, 0, 0), (1, 0.9, 0.9), strict=True)
    ]
    smooth_leaves = [x.requires_grad_() for x in smooth_inputs]
    gradients = []
    for design, leaves in ((quantised, (q, k, v)), (chip(), smooth_leaves)):
        out = gain_cell_attention(*leaves, design, backend="naive")
        gradients.append(torch.autograd.grad(out.sum(), leaves))
    for found, expected, mask in zip(*gradients, inside, strict=True):
        torch.testing.assert_close(found[mask], expected[mask], rtol=1e-8, atol=1e-10)
        assert mask.any()


@pytest.mark.parametrize("gradient", ["exact", "surrogate"])
def test_scores_of_exactly_0_pass_no_gradient(gradient: str) -> None:
    """u = 0 in the linear cell, and charges that cancel: S = 0 exactly, for every key."""
    q = torch.full((1, 1, 4, 2), 0.4, dtype=torch.float64, requires_grad=True)
    zero = torch.full((1, 1, 4, 2), 0.45, dtype=torch.float64)
    cancelling = torch.tensor([0.25, 0.65], dtype=torch.float64).expand(1, 1, 4, 2)
    v = torch.full((1, 1, 4, 2), 0.6, dtype=torch.float64, requires_grad=True)
    for keys in (zero, cancelling):
        k = keys.clone().requires_grad_()
        out = gain_cell_attention(q, k, v, chip(cell="linear"), backend="naive", gradient=gradient)
        gradients = torch.autograd.grad(out.sum(), (q, k, v))
        assert all((g == 0).all() for g in gradients)


@pytest.mark.parametrize(
    ("cell", "lost"), [("linear", 1e-5), ("polynomial", 1e-5), ("x3", 1e-4), ("x5", 0.2)]
)
@pytest.mark.parametrize("backend", ["naive", "blocked", "auto"])
def test_gradients_of_small_scores_in_float32(cell: str, lost: float, backend: str) -> None:
    """Keys in the innermost levels: float32 passes the gradients of float64, x5 excepted."""
    generator = torch.Generator().manual_seed(1)
    q, k, v, weight = (torch.randn(1, 2, 100, 64, generator=generator) for _ in range(4))
    design, gradients = load_design("leroux2025").replace(cell=cell), {}
    for dtype in (torch.float32, torch.float64):
        q_offset, k_offset = (torch.full((2,), x, dtype=dtype, requires_grad=True) for x in (0.5, 0.45))
        requests = (
            0.3 * q.to(dtype) + q_offset[:, None, None],
            0.06 * k.to(dtype) + k_offset[:, None, None],
            0.15 * v.to(dtype) + 0.45,
        )
        out = gain_cell_attention(*requests, design, backend=backend)
        out.backward(weight.to(dtype))
        gradients[dtype] = (q_offset.grad.double(), k_offset.grad.double())
    for found, expected in zip(gradients[torch.float32], gradients[torch.float64], strict=True):
        assert float((found - expected).norm() / expected.norm()) < lost


@pytest.mark.parametrize("cell", NAMED)
@pytest.mark.parametrize("backend", ["blocked", "auto"])
def test_charges_that_cancel_pass_no_gradient_in_float32(cell: str, backend: str) -> None:
    """Whatever the order of summation: components of one pulse, in pairs of opposite voltages."""
    generator = torch.Generator().manual_seed(2)
    levels = torch.randint(0, 8, (1, 1, 200, 32), generator=generator)
    k = (0.45 + (torch.cat([levels, 7 - levels], 3) - 3.5) * 0.9 / 7).requires_grad_()
    half = torch.rand(1, 1, 200, 32, generator=generator)
    q = torch.cat([half, half], 3).requires_grad_()
    v = torch.rand(1, 1, 200, 64, generator=generator)
    design = load_design("leroux2025").replace(cell=cell)
    out = gain_cell_attention(q, k, v, design, backend=backend)
    odd = cell not in ("polynomial", "exponential")
    for gradient in torch.autograd.grad(out.sum(), (q, k)):
        assert bool(gradient.any()) != odd


def test_surrogate_has_the_true_output_and_the_gradient_of_linear_cells() -> None:
    """One key, age 0: A is the true pulse, dS/dx = slope u, dO/du = slope A."""
    design = chip(retention_time=None, score_ceiling=False, output_ceiling=False)
    q, _, v = (x[:, :1] for x in inputs(1))
    k = torch.full_like(v, 0.7, requires_grad=True)
    out = gain_cell_attention(q, k, v, design, backend="naive", gradient="surrogate")
    assert torch.equal(out, gain_cell_attention(q, k, v, design, backend="naive"))
    found = torch.autograd.grad(out.sum(), (q, k, v))
    slope, s_sat, o_sat = design.cell.linear_slope, design.score_saturation(3), design.output_saturation
    score = (q * design.cell.current(k - 0.45)).sum()
    assert score > 0
    to_score = (slope * (v - 0.45)).sum() / o_sat / s_sat
    pulse = score / s_sat
    expected = (to_score * slope * (k - 0.45), to_score * slope * q, (pulse * slope / o_sat).expand_as(v))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("tokens", [M, 2 * M + 1])
def test_surrogate_of_a_linear_cell_is_exact(tokens: int) -> None:
    design = chip(cell="linear", query_levels=16, storage_levels=8, readout="counter")
    leaves = inputs(tokens)
    gradients = [
        torch.autograd.grad(
            gain_cell_attention(*leaves, design, backend="naive", gradient=gradient).square().sum(), leaves
        )
        for gradient in ("exact", "surrogate")
    ]
    for exact, surrogate in zip(*gradients, strict=True):
        torch.testing.assert_close(surrogate, exact, rtol=1e-12, atol=1e-14)


def test_surrogate_masks_are_those_of_the_true_forward_pass() -> None:
    """A score above its ceiling in the true cell, below it in the linear one, passes nothing to q and k."""
    design = chip(score_saturation_per_row=9.0, retention_time=None)  # F(0.45) = 10.3, linear 8.7
    q = torch.full((1, 1, 1, 2), 0.999, dtype=torch.float64, requires_grad=True)
    k = torch.full((1, 1, 1, 2), 0.899, dtype=torch.float64, requires_grad=True)
    v = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64, requires_grad=True)
    out = gain_cell_attention(q, k, v, design, backend="naive", gradient="surrogate")
    dq, dk, dv = torch.autograd.grad(out.sum(), (q, k, v))
    assert (dq == 0).all()
    assert (dk == 0).all()
    assert (dv > 0).all()


def test_padding_receives_no_gradient() -> None:
    q, k, v = inputs(5)
    index = torch.tensor([[-1, -1, 0, 1, 2]])
    out = gain_cell_attention(q, k, v, chip(), backend="naive", key_index=index)
    for g in torch.autograd.grad(out.square().sum(), (q, k, v)):
        assert (g[:, :, :2] == 0).all()
        assert (g[:, :, 2:] != 0).any()
