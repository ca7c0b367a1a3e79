"""Gain-cell attention on a CPU in compiled code (`gaincell/native`): forward and backward pass.

Agrees with `naive.py` as `blocked.py` does, whose formulation it shares. Clamps, drivers and write DACs are
part of the kernel: it takes requested pulse widths and volts.

Served: float32 on a CPU; polynomial cells and smooth curves, with mismatch and without quantised storage too.
Not served, and left by `backend="auto"` to others: other precisions and devices, polynomials of more than 8
orders, curves that pieces of cubics do not follow, a covariance of coefficients of cells that are not
polynomial, very large heads and sub-tiles, readouts of one's own, queries that are not those of the last
tokens.

Dimensions: B sequences, H query heads, Hk key/value heads, T tokens, D head dimension, R queries of a block,
n slabs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gaincell import features
from gaincell.chips.design_file import Design
from gaincell.ops.gain_cell_attention import native_library as library
from gaincell.ops.gain_cell_attention import native_tables as tables
from gaincell.ops.gain_cell_attention.call import APPROXIMATED, SURROGATES, Call
from gaincell.ops.gain_cell_attention.input_stage import scaled
from gaincell.ops.gain_cell_attention.varlen import Span, around_nan, over_real_tokens

IMPLEMENTS = features.ARRAYS
LARGEST_SIDE, LARGEST_ORDER = 4096, 64  # as dispatch.cpp has them


def supports(call: Call) -> str | None:
    if call.aged or (call.stage != "requested" and not call.design.input_stage_differs):
        return "it writes keys and values itself"
    design = call.design
    reason = unsupported((call.q, call.k, call.v), design, call.reads)
    if reason is None:
        library.level_in_use()  # raises for one that was named and is not there
    if reason is not None or design.leakage.spread == 0 or design.cell.coefficients is not None:
        return reason
    design = tables.without_read_noise(design)  # cells leak at rates of their own
    fastest = tables.fastest_of(design, call.layer, call.kv_heads, call.q.shape[3])
    return tables.NOT_SMOOTH if tables.curve_of(design, call.reads, fastest) is None else None


def unsupported(tensors: tuple[Tensor, ...], design: Design, reads: int) -> str | None:
    """Why arrays of these tensors are not served, in words; None if they are."""
    if library.compiled_library() is None:
        return "the compiled kernel was not built when gaincell was installed"
    for x in tensors:
        if x.device.type != "cpu":
            return f"it runs on a CPU, not on {x.device}"
        if x.dtype != torch.float32:
            return f"it computes in float32, not {x.dtype}"
    if max(tensors[0].shape[3], design.tile) > LARGEST_SIDE:
        return f"head dimension and sub-tile are at most {LARGEST_SIDE}"
    return _unsupported_chip(design, reads)


@lru_cache(maxsize=256)
def _unsupported_chip(design: Design, reads: int) -> str | None:
    """Why no call is served on a chip whose columns are read so many times per token."""
    if design.readout not in library.READOUTS:
        return f"it has no readout {design.readout!r}"
    if design.cell.coefficients is not None:
        orders = tables.orders_of(design)
        fits = len(orders) <= library.MOST_SLABS and max(orders, default=0) <= LARGEST_ORDER
        return None if fits else "the cell's polynomial has too many orders"
    if any(design.mismatch.coefficient_covariance):
        return "the coefficients of cells differ whose curve is no polynomial"
    if not tables.by_level(design) and tables.curve_of(tables.without_read_noise(design), reads, 0.0) is None:
        return tables.NOT_SMOOTH
    return None


def run(call: Call) -> Tensor:
    """The digital sum for a call that is requested or, where the input stage differs, driven; scaled on both
    sides if there is a scaling, in float32.
    """
    scaling: tuple[Tensor, ...] = call.scaling or ()
    level = library.level_number(call.backend.partition("-")[2] or library.level_in_use())

    def core(q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
        kernel = _Kernel(span, level)
        out: Tensor = _NativeCore.apply(q, k, v, kernel, *scaling)  # type: ignore[no-untyped-call]
        if kernel.finite:
            return out
        if scaling:
            q, k, v = (scaled(x, *scaling[2 * n : 2 * n + 2]) for n, x in enumerate((q, k, v)))
        out = around_nan(lambda *x: _NativeCore.apply(*x[:3], kernel), q, k, v, span)  # type: ignore[no-untyped-call]
        return scaled(out, *scaling[6:]) if scaling else out

    out = over_real_tokens(core, call)
    if scaling and not call.consecutive and bool((padding := call.queries < 0).any()):
        out = torch.where(padding[:, None, :, None], scaling[7][:, None, None], out)
    return out


@dataclass
class _Kernel:
    span: Span
    level: int
    finite: bool = True

    def problem(
        self, q: Tensor, k: Tensor, v: Tensor, open_: Tensor | None, total: Tensor | None, *scaling: Tensor
    ) -> tuple[library.Problem, list[object]]:
        """The C structure, and what holds the memory that it points to."""
        at = self.span
        sizes = (q.shape[1], k.shape[1], q.shape[3])
        problem, held = tables.chip_problem(at.design, at.window, at.layer, *sizes)
        problem.batch, problem.queries, problem.keys = q.shape[0], q.shape[2], k.shape[2]
        problem.first_query, problem.first_key = at.first_query, at.first_key
        given = zip(("q", "k", "v", "open", "sum"), (q, k, v, open_, total), strict=True)
        for name, tensor in (*given, *zip(library.SCALES, scaling, strict=False)):
            setattr(problem, name, library.pointer(tensor))
        problem.threads = library.threads_for(q.numel() * min(k.shape[2], at.window))
        problem.level = self.level
        return problem, held


class _NativeCore(torch.autograd.Function):
    """Requested q, k, v of consecutive tokens -> digital sum."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, kernel: _Kernel, *scaling: Tensor) -> Tensor:
        q, k, v, *scaling = (t.resolve_neg().contiguous() for t in (q, k, v, *scaling))  # type: ignore[assignment]
        out = torch.empty_like(q)
        open_ = total = None
        if any(ctx.needs_input_grad):
            tiles, dim = kernel.span.design.tiles, q.shape[3]
            open_ = torch.empty(*q.shape[:3], tiles, -(-dim // 8), dtype=torch.uint8, device=q.device)
            total = torch.empty_like(q) if scaling else None
        problem, held = kernel.problem(q, k, v, open_, total, *scaling)
        problem.out = out.data_ptr()
        kernel.finite = library.invoke("gc_forward", problem) == library.OK
        del held
        if open_ is not None:
            ctx.save_for_backward(q, k, v, open_, total, *scaling)
            ctx.kernel = kernel
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, open_, total, *scaling = ctx.saved_tensors
        kernel: _Kernel = ctx.kernel
        at = kernel.span
        grad = grad.resolve_neg().contiguous()
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        scales = [q.new_empty(*t.shape[:2], 2) for t in (q, k, v, q)] if scaling else []
        problem, held = kernel.problem(q, k, v, open_, total, *scaling)
        through = problem.cells
        if at.gradient in SURROGATES:
            sizes = (q.shape[1], k.shape[1], q.shape[3])
            linear, pointed_to = tables.filled_problem(at.design, at.window, at.layer, *sizes, surrogate=True)
            through, held = linear.cells, [*held, linear, pointed_to]
        pointers: list[int | None] = [t.data_ptr() for t in (grad, dq, dk, dv, *scales)]
        pointers += [None] * (8 - len(pointers))
        products = library.BF16 if at.gradient in APPROXIMATED else library.FLOAT32
        library.invoke("gc_backward", problem, library.Gradient(*pointers, through, products))
        del held
        return dq, dk, dv, None, *(d for both in scales for d in both.sum(0).unbind(1))
