"""Gain-cell attention on a CPU in compiled code (`gaincell/native`): forward and backward pass.

Agrees with `naive.py` as `blocked.py` does, whose formulation it shares. Clamps, drivers and write DACs are
part of the kernel: it takes requested pulse widths and volts. The library is built when the package is
installed; without it (no compiler) everything runs in `blocked.py`.

Served: float32 on a CPU; every cell, with mismatch and without quantised storage too. Not served, and left
to `blocked.py` by `backend="auto"`: other precisions and devices, polynomials of more than 8 orders, queries
that are not those of the last tokens.

Dimensions: B sequences, H query heads, Hk key/value heads, T tokens, D head dimension, R queries of a block,
n slabs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gaincell import features
from gaincell.chips.design_file import Design
from gaincell.circuits.converter import in_precision, sum_rounding
from gaincell.ops.gain_cell_attention import not_a_number
from gaincell.ops.gain_cell_attention.call import Call
from gaincell.ops.gain_cell_attention.gradients import APPROXIMATED, SURROGATES
from gaincell.ops.gain_cell_attention.input_stage import scaled
from gaincell.ops.gain_cell_attention.native_library import (
    AS_GIVEN,
    BF16,
    FLOAT32,
    MOST_SLABS,
    OK,
    SCALES,
    Gradient,
    Problem,
    compiled_library,
    invoke,
    level_in_use,
    level_number,
    threads_for,
)
from gaincell.ops.gain_cell_attention.native_tables import (
    by_level,
    cells_of,
    constants_of,
    converters_of,
    curve_of,
    errors_of,
    fastest_of,
    mismatch_of,
    orders_of,
    quiet,
)
from gaincell.ops.gain_cell_attention.varlen import Span, over_real_tokens

IMPLEMENTS = features.ARRAYS
"""Features of a chip (features.py), those of the input stage included."""
LARGEST_SIDE, LARGEST_ORDER = 4096, 64  # as dispatch.cpp has them


def supports(call: Call) -> str | None:
    """Why a call is not served, in words; None if it is."""
    if call.aged or (call.stage != "requested" and not call.design.front_differs):
        return "it writes keys and values itself"
    return unsupported((call.q, call.k, call.v), call.design, call.reads)


def unsupported(tensors: tuple[Tensor, ...], design: Design, reads: int) -> str | None:
    """Why arrays of these tensors are not served, in words; None if they are."""
    if compiled_library() is None:
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
    if design.cell.coefficients is not None:
        orders = orders_of(design)
        fits = len(orders) <= MOST_SLABS and max(orders, default=0) <= LARGEST_ORDER
        return None if fits else "the cell's polynomial has too many orders"
    if any(design.mismatch.coefficient_covariance):
        return "the coefficients of cells differ whose curve is no polynomial"
    if not by_level(design) and curve_of(quiet(design), reads, 0.0) is None:
        return "the cell's curve is not smooth enough for pieces of cubics"
    if design.query_levels is not None and design.query_levels > 2**15:
        return "there are too many query levels"
    return None


def run(call: Call) -> Tensor:
    """The digital sum for a call that is requested or, where the input stage differs, driven; scaled on both
    sides if there is a scaling, in float32.
    """
    scaling: tuple[Tensor, ...] = call.scaling or ()
    level = level_number(call.backend.partition("-")[2] or level_in_use())

    def core(q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
        kernel = _Kernel(span, level)
        out: Tensor = _NativeCore.apply(q, k, v, kernel, *scaling)  # type: ignore[no-untyped-call]
        if kernel.finite:
            return out
        if scaling:
            q, k, v = (scaled(x, *scaling[2 * n : 2 * n + 2]) for n, x in enumerate((q, k, v)))
        out = not_a_number.around(lambda *x: _NativeCore.apply(*x[:3], kernel), q, k, v, span)  # type: ignore[no-untyped-call]
        return scaled(out, *scaling[6:]) if scaling else out

    out = over_real_tokens(core, call)
    if scaling and call.key_index is not None and bool((padding := call.queries < 0).any()):
        out = torch.where(padding[:, None, :, None], scaling[7][:, None, None], out)
    return out


@dataclass
class _Kernel:
    span: Span
    level: int
    finite: bool = True

    def problem(
        self, q: Tensor, k: Tensor, v: Tensor, open_: Tensor | None, total: Tensor | None, *scaling: Tensor
    ) -> tuple[Problem, list[object]]:
        """The C structure, and what holds the memory that it points to."""
        at = self.span
        problem, kept = chip_problem(at.design, at.window, at.layer, q.shape[1], k.shape[1], q.shape[3])
        problem.batch, problem.queries, problem.keys = q.shape[0], q.shape[2], k.shape[2]
        problem.first_query, problem.first_key = at.first_query, at.first_key
        problem.q, problem.k, problem.v = q.data_ptr(), k.data_ptr(), v.data_ptr()
        problem.open = None if open_ is None else open_.data_ptr()
        problem.sum = None if total is None else total.data_ptr()
        for name, numbers in zip((*SCALES, "out_gain", "out_offset"), scaling, strict=False):
            setattr(problem, name, numbers.data_ptr())
        problem.threads = threads_for(q.numel() * min(k.shape[2], at.window))
        problem.level = self.level
        return problem, kept


class _NativeCore(torch.autograd.Function):
    """Requested q, k, v of consecutive tokens -> digital sum."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, kernel: _Kernel, *scaling: Tensor) -> Tensor:
        q, k, v, *scaling = (t.resolve_neg().contiguous() for t in (q, k, v, *scaling))  # type: ignore[assignment]
        out = torch.empty_like(q)
        open_ = total = None
        if any(ctx.needs_input_grad):
            tiles, dim = kernel.span.design.tiles, q.shape[3]
            open_ = torch.empty(*q.shape[:3], tiles, -(-dim // 8), dtype=torch.uint8)
            total = torch.empty_like(q) if scaling else None
        problem, kept = kernel.problem(q, k, v, open_, total, *scaling)
        problem.out = out.data_ptr()
        kernel.finite = invoke("gc_forward", problem) == OK
        del kept
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
        problem, kept = kernel.problem(q, k, v, open_, total, *scaling)
        through = problem.cells
        if at.gradient in SURROGATES:
            linear = _filled(at.design, at.window, at.layer, q.shape[1], k.shape[1], q.shape[3], True)
            through, kept = linear.problem.cells, [*kept, linear]
        pointers = [t.data_ptr() for t in (grad, dq, dk, dv, *scales)]
        pointers += [None] * (8 - len(pointers))
        products = BF16 if at.gradient in APPROXIMATED else FLOAT32
        invoke("gc_backward", problem, Gradient(*pointers, through, products))
        del kept
        return dq, dk, dv, None, *(d for both in scales for d in both.sum(0).unbind(1))


class _Filled(NamedTuple):
    """The C structure with all that does not change from call to call, and the tensors that it points to."""

    problem: Problem
    kept: tuple[Tensor, ...]
    fastest: float
    """See slabs.fastest_leak."""


@lru_cache(maxsize=256)
def _filled(
    design: Design, window: int, layer: int, heads: int, kv_heads: int, dim: int, surrogate: bool
) -> _Filled:
    d, reads = quiet(design), heads // kv_heads
    raw = d.front_differs
    fastest = fastest_of(d, layer, kv_heads, dim)
    constants = constants_of(d, window, dim, reads, fastest, surrogate)
    curve = None
    if not surrogate and d.cell.coefficients is None and not by_level(d):
        curve = curve_of(d, reads, fastest)
    cells, kept = cells_of(constants, curve)
    errors, more = errors_of(design, layer, kv_heads, dim)
    span = d.v_max - d.v_min
    margin = sum_rounding(torch.float32)
    integer = constants.integer_factors
    problem = Problem(
        heads=heads,
        kv_heads=kv_heads,
        dim=dim,
        window=window,
        columns=d.window,
        tile=d.tile,
        rows=constants.rows,
        margin=constants.margin,
        ages=constants.ages,
        q_levels=AS_GIVEN if raw else d.query_levels or 0,
        storage_levels=0 if raw else d.storage_levels or 0,
        low=-inf if raw else in_precision(d.v_min, torch.float32),
        high=inf if raw else in_precision(d.v_max, torch.float32),
        middle=d.decay_target if raw else in_precision(d.v_offset, torch.float32),
        to_code=((d.storage_levels or 1) - 1) / span,
        to_volts=span / ((d.storage_levels or 2) - 1),
        **converters_of(d, dim),
        score_margin=margin,
        output_margin=margin,
        cells=cells,
        errors=errors,
        integer_factors=None if integer is None else integer.data_ptr(),
        integer_third=constants.integer_third,
    )
    given = (*kept, *more, *(() if integer is None else (integer,)))
    return _Filled(problem, given, fastest)


def chip_problem(
    design: Design, window: int, layer: int, heads: int, kv_heads: int, dim: int
) -> tuple[Problem, list[object]]:
    """The C structure with what it says of the chip, and what holds the memory that it points to."""
    filled = _filled(design, window, layer, heads, kv_heads, dim, False)
    problem = Problem.from_buffer_copy(filled.problem)
    kept: list[object] = [filled]
    if design.cells_differ:  # large, and kept elsewhere: see devices/chip_cache.py
        mismatch = mismatch_of(quiet(design), layer, kv_heads, dim, heads // kv_heads, filled.fastest)
        problem.cells.powers = mismatch[0].shape[2] - 1
        problem.cells.key_mismatch, problem.cells.value_mismatch = (t.data_ptr() for t in mismatch)
        kept.append(mismatch)
    return problem, kept
