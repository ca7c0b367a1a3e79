"""Under torch.compile the attention is one operator of a whole graph: no break, the same results.

Runs as a script of its own: the run-time type checks of the test suite cannot be compiled.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from gaincell.chips.design_file import load_design
from gaincell.nn.attention import GainCellAttention
from gaincell.ops.gain_cell_attention import gain_cell_attention

BACKEND = "aot_eager"  # traces forward and backward pass like the default one, and compiles no code


def signals() -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.rand(2, heads, 70, 16, generator=g) for heads in (4, 2, 2))
    return [q, 0.9 * k, 0.9 * v]


def check_values_and_gradients(backend: str, gradient: str) -> None:
    torch.compiler.reset()
    design = load_design("leroux2025").replace(window=128, tile=32)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (
            gain_cell_attention(q + 0.1, k, v, design, None, backend, gradient=gradient, sliding_window=50)
            * 2
        )

    found = []
    for call in (attention, torch.compile(attention, fullgraph=True, backend=BACKEND)):
        leaves = [t.requires_grad_() for t in signals()]
        out = call(*leaves)
        found.append([out.detach(), *torch.autograd.grad((out * out).sum(), leaves)])
    for eager, compiled in zip(*found, strict=True):
        assert torch.equal(eager, compiled), (backend, gradient)


def check_layer() -> None:
    """A layer with its gains, and padding."""
    torch.compiler.reset()
    layer = GainCellAttention(load_design("leroux2025").replace(window=128, tile=32), 4, 2, 16)
    index = torch.arange(70).repeat(2, 1)
    index[0] -= 7
    index[0, :7] = -1
    found = []
    for call in (layer, torch.compile(layer, fullgraph=True, backend=BACKEND)):
        layer.zero_grad()
        out = call(*(t - 0.4 for t in signals()), index)
        out.square().sum().backward()
        # gradients of gains are sums in float32, in other orders in and out of a graph
        found.append([out.detach(), *(p.grad.float() for p in layer.parameters())])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(eager, compiled)


@pytest.mark.slow
def test_one_graph_with_the_same_values_and_gradients() -> None:
    result = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == ["checked"] * 7


if __name__ == "__main__":
    for backend in ("auto", "blocked", "naive"):
        for gradient in ("exact", "surrogate"):
            check_values_and_gradients(backend, gradient)
            print("checked")
    check_layer()
    print("checked")
