"""Gain-cell attention on a GPU in Triton: forward and backward, true per-sub-tile saturation and readout.

A program has R queries of one head and visits the sub-tiles that its window reaches; pieces of two laps in
one physical sub-tile share their charge. Queries, keys and values are read as one-byte codes; their powers
are made in the kernel. With X = 2 code - (L - 1), h half a step of the write DAC, a = i - j:

    S_ij = C0 sum_d x_id + sum_p C_p h^p delta^(p a) (Q X^p)_ij / (levels - 1)
    O_id = C0 sum_j A_ij + sum_p C_p h^p sum_j (A_ij delta^(p a)) X_jd^p

Codes and X^p (at most 343) are exact in float16, and so are the first product's sums in float32. Products of
A delta^(p a) split it into two float16 numbers, so that they are exact to 2^-22. With `half=False` operands
stay in float32 (`tl.dot` in IEEE precision).

Served so: polynomial cells up to order 3 without mismatch, at most 8 storage levels and 256 query levels,
every readout, D and N powers of two from 16 on. Everything else is left to triton_any.py.
`TRITON_INTERPRET=1` runs the kernels on a CPU, slowly. The kernels are in triton_kernels.py.

Dimensions: B sequences, H query heads, Hk key/value heads, T tokens, D head dimension, R queries of a
program, N columns of a sub-tile, t sub-tiles.
Not modelled: see the devices and circuits it is made of.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from gaincell.chips.design_file import Design
from gaincell.circuits import dac_code, query_code
from gaincell.circuits.converter import in_precision, sum_rounding
from gaincell.features import NOMINAL, missing
from gaincell.ops.gain_cell_attention import triton_any
from gaincell.ops.gain_cell_attention import triton_kernels as kernels
from gaincell.ops.gain_cell_attention.call import Call
from gaincell.ops.gain_cell_attention.input_stage import array_inputs
from gaincell.ops.gain_cell_attention.native_library import READOUTS
from gaincell.ops.gain_cell_attention.triton_launches import Pass, launch_of
from gaincell.ops.gain_cell_attention.varlen import Span, around_nan, marks, over_real_tokens

IMPLEMENTS = triton_any.IMPLEMENTS


def supports(call: Call) -> str | None:
    if call.q.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "it runs on a GPU, or on a CPU in Triton's interpreter (TRITON_INTERPRET=1)"
    if call.q.dtype == torch.float64:
        return "it computes in float32"
    if call.design.readout not in READOUTS:
        return f"it has no readout {call.design.readout!r}"
    return None if in_codes(call) else triton_any.unsupported_chip(call.design, call.reads)


def in_codes(call: Call) -> bool:
    design, sides = call.design, (call.q.shape[3], call.design.tile)
    if call.stage != "requested" or missing(design.in_use, NOMINAL):
        return False
    if design.cell.coefficients is None or len(design.cell.coefficients) > 4:
        return False
    if design.storage_levels is None or design.storage_levels > 8:
        return False
    if design.query_levels is None or design.query_levels > 256:
        return False
    return all(side >= 16 and side & (side - 1) == 0 for side in sides)


def run(call: Call, *, half: bool = True) -> Tensor:
    """The digital sum over the sub-tiles, in float32.

    Args:
        call: What is to be computed.
        half: Products of float16 operands (see the head of this file), or of float32 ones.
    """
    if not in_codes(call):
        call = array_inputs(call)  # first: converters round what they are asked for
        call = call._replace(q=call.q.float(), k=call.k.float(), v=call.v.float())
        return over_real_tokens(partial(around_nan, triton_any.core), call)

    def core(q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
        reached = marks(q, k, v, span)  # codes have no number for it
        return _TritonCore.apply(q, k, v, span, half) + reached  # type: ignore[no-untyped-call,no-any-return]

    return over_real_tokens(core, call)


class _TritonCore(torch.autograd.Function):
    """Requested q, k, v of consecutive tokens -> digital sum."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, span: Span, half: bool) -> Tensor:
        d = span.design
        codes, sizes, shape = _given("forward", q, k, v, span, half)
        out = torch.empty(q.shape, dtype=torch.float32, device=q.device)
        keep = any(ctx.needs_input_grad)
        open_, edge = triton_any.gates(q, d, keep)
        s, o = _constants(d, q.shape[3])
        grid = (triton.cdiv(q.shape[2], shape["R"]), q.shape[0] * q.shape[1])
        kernels.forward[grid](
            *codes, out, open_, *sizes, *s, *o, d.leak_per_token, (d.storage_levels or 2) - 1,
            d.readout_steps, edge, d.score_ceiling, d.output_ceiling, READOUTS[d.readout], KEEP=keep, **shape,
        )  # fmt: skip
        if keep:
            ctx.save_for_backward(q, k, v, open_)
            ctx.span, ctx.half = span, half
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, open_ = ctx.saved_tensors
        span: Span = ctx.span
        d, dim, grad = span.design, q.shape[3], grad.contiguous().float()
        unit = (grad.abs().amax() / d.output_saturation).log2().ceil().exp2()  # float16 has few exponents
        unit = torch.where(unit > 0, unit, 1.0)
        grad = grad / unit
        codes, sizes, shape = _given("backward", q, k, v, span, ctx.half)
        dq, dk, dv = (torch.zeros(t.shape, dtype=torch.float32, device=t.device) for t in (q, k, v))
        s, _ = _constants(d, dim)
        h = _half_step(d)
        c = (0.0, d.cell.linear_slope) if span.gradient == "surrogate" else d.cell.coefficients or ()
        f = [p * h**n for n, p in enumerate((*c, 0.0, 0.0, 0.0)[:4])]
        score_scale, margin = 1 / d.score_saturation(dim), sum_rounding(torch.float32)
        given = (*sizes, *s, *f, d.leak_per_token, (d.storage_levels or 2) - 1, 1 / d.output_saturation)
        blocks = triton.cdiv(q.shape[2], shape["R"])
        kernels.backward_queries[(blocks, q.shape[0] * q.shape[1])](
            *codes, grad, open_, dq, *given, score_scale, margin, d.score_ceiling, **shape
        )
        key_scale = score_scale / (h * ((d.query_levels or 2) - 1))
        kernels.backward_keys[(triton_any.pieces_of(span, k), k.shape[0] * k.shape[1])](
            *codes, grad, open_, dk, dv, *given, key_scale, 1 / h, margin, d.score_ceiling, **shape
        )
        inside = ((q, 0.0, 1.0, dq), (k, d.v_min, d.v_max, dk), (v, d.v_min, d.v_max, dv))
        gated = [
            (g * unit * ((x > in_precision(lo, x.dtype)) & (x < in_precision(hi, x.dtype)))).to(x.dtype)
            for x, lo, hi, g in inside
        ]
        return gated[0], gated[1], gated[2], None, None


def _given(
    which: Pass, q: Tensor, k: Tensor, v: Tensor, span: Span, half: bool
) -> tuple[list[Tensor], tuple[int, ...], dict[str, int]]:
    """What all kernels are given: codes of drivers and write DACs, sizes, and how to launch them."""
    d = span.design
    assert d.query_levels is not None
    assert d.storage_levels is not None
    stored = [dac_code(u, d.storage_levels, d.v_min, d.v_max, d.v_offset) for u in (k, v)]
    codes = [code.to(torch.uint8).contiguous() for code in (query_code(q, d.query_levels), *stored)]
    sizes = (q.shape[1], k.shape[1], q.shape[2], k.shape[2], span.first_query, span.first_key, span.window)
    launch = launch_of(which, q.device, d, q.shape[3], half)
    shape = {"R": launch.rows, "N": d.tile, "D": q.shape[3], "HALF": half}
    return codes, (*sizes, d.tiles), shape | {"num_warps": launch.warps, "num_stages": launch.stages}


def _half_step(d: Design) -> float:
    return (d.v_max - d.v_min) / ((d.storage_levels or 2) - 1) / 2


def _constants(d: Design, dim: int) -> tuple[list[float], list[float]]:
    """C_p h^p of the scores, per S_sat and full query code, and of the outputs, in readout steps."""
    h = _half_step(d)
    c = (*(d.cell.coefficients or ()), 0.0, 0.0, 0.0)[:4]
    score = 1 / ((d.query_levels or 2) - 1) / d.score_saturation(dim)
    output = d.readout_steps / d.output_saturation
    return [p * h**n * score for n, p in enumerate(c)], [p * h**n * output for n, p in enumerate(c)]
