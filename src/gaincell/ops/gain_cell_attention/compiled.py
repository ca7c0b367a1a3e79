"""`gain_cell_attention` under torch.compile: one opaque operator, so that a model's graph stays whole.

The operator runs whatever implementation is asked for, eagerly. Its backward pass computes the forward pass
once more, as checkpointing does; outside torch.compile it is not used.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch import library as operators

from gaincell.chips.design_file import Design
from gaincell.ops.gain_cell_attention.call import Call, Gradient
from gaincell.ops.gain_cell_attention.pipeline import sums

_OPTIONS: list[tuple[Design, str, int | None, int, Gradient]] = []
"""What calls are but for their tensors."""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def number_of(
    design: Design, backend: str, sliding_window: int | None, layer: int, gradient: Gradient
) -> int:
    """A number for the options of a call, as operators take no objects."""
    options = (design, backend, sliding_window, layer, gradient)
    if options not in _OPTIONS:
        _OPTIONS.append(options)
    return _OPTIONS.index(options)


def _eager(
    q: Tensor, k: Tensor, v: Tensor, key_index: Tensor | None, query_index: Tensor | None, number: int
) -> Tensor:
    design, backend, sliding_window, layer, gradient = _OPTIONS[number]
    return sums(Call(q, k, v, design, backend, key_index, query_index, sliding_window, layer, gradient))


@operators.custom_op("gaincell::attention", mutates_args=())
def attention(
    q: Tensor, k: Tensor, v: Tensor, key_index: Tensor | None, query_index: Tensor | None, number: int
) -> Tensor:
    """The digital sum for requested pulse widths and volts; see `gain_cell_attention`."""
    return _eager(q, k, v, key_index, query_index, number).contiguous()


@attention.register_fake
def _(q: Tensor, k: Tensor, *_: Any) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.float32)
    return q.new_empty(q.shape, dtype=dtype)


@operators.custom_op("gaincell::attention_backward", mutates_args=())
def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, queries: Tensor | None, number: int
) -> list[Tensor]:
    def run() -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (q, k, v)]
        out = _eager(leaves[0], leaves[1], leaves[2], keys, queries, number)
        return [g.contiguous() for g in torch.autograd.grad(out, leaves, grad)]

    # an operator runs below autograd in its own thread; a thread of its own has an autograd of its own
    with ThreadPoolExecutor(1) as another:
        return another.submit(run).result()


@attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (q, k, v)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.number = inputs[5]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*attention_backward(grad, *ctx.saved_tensors, ctx.number), None, None, None)


attention.register_autograd(_backward, setup_context=_keep)
