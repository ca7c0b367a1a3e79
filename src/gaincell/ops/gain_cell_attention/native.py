"""Gain-cell attention on a CPU in compiled code (`gaincell/native`): forward and backward pass.

Agrees with `naive.py` as `blocked.py` does, whose formulation it shares. Clamps, drivers and write DACs are
part of the kernel: it takes requested pulse widths and volts. The library is built when the package is
installed; without it (no compiler) everything runs in `blocked.py`.

Served: float32 on a CPU; every cell, with mismatch and without quantised storage too. Not served, and left
to `blocked.py` by `impl="auto"`: other precisions and devices, polynomials of more than 8 orders, queries
that are not those of the last tokens.

Dimensions: B sequences, H query heads, Hk key/value heads, T tokens, D head dimension, R queries of a block,
n slabs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gaincell import features
from gaincell.circuits.converter import in_precision, sum_rounding
from gaincell.config import Design
from gaincell.ops.gain_cell_attention import not_a_number
from gaincell.ops.gain_cell_attention.gradients import APPROXIMATED, SURROGATES
from gaincell.ops.gain_cell_attention.native_library import (
    AS_GIVEN,
    BF16,
    FLOAT32,
    MOST_SLABS,
    MOST_THREADS,
    OK,
    READOUTS,
    Gradient,
    Problem,
    compiled_library,
    invoke,
    level_in_use,
    level_number,
)
from gaincell.ops.gain_cell_attention.native_tables import (
    Constants,
    by_level,
    cells_of,
    constants_of,
    curve_of,
    errors_of,
    fastest_of,
    mismatch_of,
    orders_of,
    quiet,
)
from gaincell.ops.gain_cell_attention.ragged import over_real_tokens

IMPLEMENTS = features.ARRAYS
"""Features of a chip (features.py), those of front.py included."""
LARGEST_SIDE, LARGEST_ORDER = 4096, 64  # as dispatch.cpp has them


def why_not(q: Tensor, k: Tensor, v: Tensor, design: Design) -> str | None:
    """Why a call is not served, in words; None if it is."""
    if compiled_library() is None:
        return "the compiled kernel was not built when gaincell was installed"
    if more := features.missing(design.in_use, IMPLEMENTS):
        return f"it does not implement {more}"
    if q.device.type != "cpu":
        return f"it runs on a CPU, not on {q.device}"
    for x in (q, k, v):
        if x.dtype != torch.float32:
            return f"it computes in float32, not {x.dtype}"
    if max(q.shape[3], design.tile) > LARGEST_SIDE:
        return f"head dimension and sub-tile are at most {LARGEST_SIDE}"
    if design.cell.coefficients is not None:
        orders = orders_of(design)
        fits = len(orders) <= MOST_SLABS and max(orders, default=0) <= LARGEST_ORDER
        return None if fits else "the cell's polynomial has too many orders"
    if any(design.mismatch.coefficient_covariance):
        return "the coefficients of cells differ whose curve is no polynomial"
    if not by_level(design) and curve_of(quiet(design), q.shape[1] // k.shape[1], 0.0) is None:
        return "the cell's curve is not smooth enough for pieces of cubics"
    if design.query_levels is not None and design.query_levels > 2**15:
        return "there are too many query levels"
    return None


def gain_cell_native(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    design: Design,
    key_index: Tensor | None = None,
    query_index: Tensor | None = None,
    sliding_window: int | None = None,
    layer: int = 0,
    gradient: str = "exact",
) -> Tensor:
    """The digital sum over the sub-tiles for requested pulse widths `q` and volts `k`, `v`.

    Args and result as of `gain_cell_core_blocked`, but for q, k, v: before drivers and write DACs.
    """

    def run(q: Tensor, k: Tensor, v: Tensor, first_query: int, first_key: int) -> Tensor:
        call = _Call(design, first_query, first_key, sliding_window, layer, gradient, level_in_use())
        out: Tensor = _NativeCore.apply(q, k, v, call)  # type: ignore[no-untyped-call]
        if not call.finite:
            reached = not_a_number.marks(q, k, v, first_query, first_key, _window(call))
            out = _NativeCore.apply(*not_a_number.without(q, k, v), call) + reached  # type: ignore[no-untyped-call]
        return out

    if key_index is None:
        return run(q, k, v, k.shape[2] - q.shape[2], 0)
    if query_index is None:
        query_index = key_index[:, k.shape[2] - q.shape[2] :]
    return over_real_tokens(run, q, k, v, key_index, query_index)


@dataclass
class _Call:
    design: Design
    first_query: int
    first_key: int
    sliding_window: int | None
    layer: int
    gradient: str
    level: str
    finite: bool = True
    reads: int = 1
    """Of one column, per token."""
    fastest: float = 0.0
    """See slabs.fastest_leak."""


class _NativeCore(torch.autograd.Function):
    """Requested q, k, v of consecutive tokens -> digital sum."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, call: _Call) -> Tensor:
        q, k, v = (t.resolve_neg().contiguous() for t in (q, k, v))
        call.reads = q.shape[1] // k.shape[1]
        call.fastest = fastest_of(quiet(call.design), call.layer, k.shape[1], q.shape[3])
        out = torch.empty_like(q)
        open_ = None
        if any(ctx.needs_input_grad):
            tiles, dim = call.design.tiles, q.shape[3]
            open_ = torch.empty(*q.shape[:3], tiles, -(-dim // 8), dtype=torch.uint8)
        problem, kept = _problem(call, q, k, v, open_)
        problem.out = out.data_ptr()
        call.finite = invoke("gc_forward", problem) == OK
        del kept
        if open_ is not None:
            ctx.save_for_backward(q, k, v, open_)
            ctx.call = call
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, open_ = ctx.saved_tensors
        call = ctx.call
        grad = grad.resolve_neg().contiguous()
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        problem, kept = _problem(call, q, k, v, open_)
        through = problem.cells
        if call.gradient in SURROGATES:
            through, linear = cells_of(_constants(call, q.shape[3], surrogate=True), None, None)
            kept += linear
        pointers = (t.data_ptr() for t in (grad, dq, dk, dv))
        products = BF16 if call.gradient in APPROXIMATED else FLOAT32
        invoke("gc_backward", problem, Gradient(*pointers, through, products))
        del kept
        return dq, dk, dv, None


def _window(call: _Call) -> int:
    return min(call.design.window, call.sliding_window or call.design.window)


def _problem(
    call: _Call, q: Tensor, k: Tensor, v: Tensor, open_: Tensor | None
) -> tuple[Problem, list[Tensor]]:
    """The C structure, and the tensors that it points to."""
    d = quiet(call.design)
    raw = d.front_differs
    dim = q.shape[3]
    constants = _constants(call, dim, surrogate=False)
    curve = None
    if d.cell.coefficients is None and not by_level(d):
        curve = curve_of(d, call.reads, call.fastest)
    mismatch = mismatch_of(d, call.layer, k.shape[1], dim, call.reads, call.fastest)
    cells, kept = cells_of(constants, curve, mismatch)
    errors, more = errors_of(call.design, call.layer, k.shape[1], dim)
    kept += more
    span = d.v_max - d.v_min
    margin = sum_rounding(torch.float32)
    integer = constants.integer_factors
    problem = Problem(
        batch=q.shape[0],
        heads=q.shape[1],
        kv_heads=k.shape[1],
        queries=q.shape[2],
        keys=k.shape[2],
        dim=dim,
        first_query=call.first_query,
        first_key=call.first_key,
        window=_window(call),
        columns=d.window,
        tile=d.tile,
        rows=constants.rows,
        margin=constants.margin,
        ages=constants.ages,
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        q_levels=AS_GIVEN if raw else d.query_levels or 0,
        storage_levels=0 if raw else d.storage_levels or 0,
        low=-inf if raw else in_precision(d.v_min, torch.float32),
        high=inf if raw else in_precision(d.v_max, torch.float32),
        middle=d.decay_target if raw else in_precision(d.v_offset, torch.float32),
        to_code=((d.storage_levels or 1) - 1) / span,
        to_volts=span / ((d.storage_levels or 2) - 1),
        readout=READOUTS[d.readout],
        score_ceiling=d.score_ceiling,
        score_exponent=d.charge_to_pulse.exponent,
        output_ceiling=d.output_ceiling,
        steps=constants.steps,
        score_scale=1 / d.score_saturation(dim),
        output_scale=constants.steps / d.output_saturation,
        score_margin=margin,
        output_margin=margin,
        cells=cells,
        errors=errors,
        integer_factors=None if integer is None else integer.data_ptr(),
        integer_third=constants.integer_third,
        open=None if open_ is None else open_.data_ptr(),
        threads=min(torch.get_num_threads(), MOST_THREADS),
        level=level_number(call.level),
    )
    return problem, kept


def _constants(call: _Call, dim: int, *, surrogate: bool) -> Constants:
    return constants_of(quiet(call.design), _window(call), dim, call.reads, call.fastest, surrogate)
