"""Gain-cell attention on a GPU in Triton: forward and backward pass, true per-sub-tile saturation and readout.

A program has R queries of one head and visits the sub-tiles that its window reaches; pieces of two laps in one
physical sub-tile share their charge. Queries, keys and values are read as one-byte codes; their powers are made
in the kernel. With X = 2 code - (L - 1), h half a step of the write DAC, a = i - j:

    S_ij = C0 sum_d x_id + sum_p C_p h^p delta^(p a) (Q X^p)_ij / (levels - 1)
    O_id = C0 sum_j A_ij + sum_p C_p h^p sum_j (A_ij delta^(p a)) X_jd^p

Codes and X^p (at most 343) are exact in float16, and so are the first product's sums in float32. A delta^(p a)
is split into two float16 numbers, so that the second product is exact to 2^-22. With `exact=False` operands
stay in float32 (`tl.dot` in IEEE precision): for the interpreter and for checks.

Served: polynomial cells up to order 3 without mismatch, at most 8 storage levels and 256 query levels, every
readout, windows that are multiples of the sub-tile, D a power of two from 16 on. Everything else is left to
`blocked.py`.

Dimensions: B sequences, H query heads, Hk key/value heads, T tokens, D head dimension, R queries of a program,
N columns of a sub-tile, t sub-tiles.
Not modelled: see the devices and circuits it is made of.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gaincell.circuits import dac_code, query_code
from gaincell.circuits.converter import in_precision, sum_rounding
from gaincell.config import Design
from gaincell.ops.gain_cell_attention.ragged import over_real_tokens

ROWS = 64
READOUTS = {"none": 0, "counter": 1, "counter-floor": 2, "published-code": 3}


@triton.jit
def _levels(codes, top: tl.constexpr):
    """X = 2 code - top, float32."""
    return codes.to(tl.float32) * 2.0 - top


@triton.jit
def _dot(a, b, HALF: tl.constexpr):
    """a @ b of numbers that float16 holds exactly."""
    if HALF:
        return tl.dot(a.to(tl.float16), b.to(tl.float16))
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _dot_split(a, b, HALF: tl.constexpr):
    """a @ b where only b is exact in float16: a in two parts."""
    if HALF:
        high = a.to(tl.float16)
        low = (a - high.to(tl.float32)).to(tl.float16)
        return tl.dot(high, b.to(tl.float16)) + tl.dot(low, b.to(tl.float16))
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _dot_both(a, b, HALF: tl.constexpr):
    """a @ b of any numbers: both in two parts, the product of the small ones left out."""
    if HALF:
        ah = a.to(tl.float16)
        al = (a - ah.to(tl.float32)).to(tl.float16)
        bh = b.to(tl.float16)
        bl = (b - bh.to(tl.float32)).to(tl.float16)
        return tl.dot(ah, bh) + tl.dot(ah, bl) + tl.dot(al, bh)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _scores(q, x, age, c0, c1, c2, c3, alpha, HALF: tl.constexpr):
    """S / S_sat of queries' codes q [R, D] and keys' X [N, D]; the constants hold h^p and the scales."""
    left = tl.exp(-alpha * age.to(tl.float32))
    xt = tl.trans(x)
    s = c0 * tl.sum(q, 1)[:, None] + (c1 * left) * _dot(q, xt, HALF)
    if c2 != 0:
        s += (c2 * left * left) * _dot(q, xt * xt, HALF)
    if c3 != 0:
        s += (c3 * left * left * left) * _dot(q, xt * xt * xt, HALF)
    return s


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, out_ptr, open_ptr,
    heads, kv_heads, queries, keys, first_query, first_key, window, tiles,
    s0, s1, s2, s3, o0, o1, o2, o3, alpha, top: tl.constexpr, steps, edge,
    score_ceiling: tl.constexpr, output_ceiling: tl.constexpr, readout: tl.constexpr,
    R: tl.constexpr, N: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    block, bh = tl.program_id(0), tl.program_id(1)
    kv_row = bh // heads * kv_heads + bh % heads // (heads // kv_heads)
    rows, columns, dims = tl.arange(0, R), tl.arange(0, N), tl.arange(0, D)
    i = first_query + block * R + rows
    there = block * R + rows < queries
    at = (bh.to(tl.int64) * queries + block * R + rows)[:, None] * D + dims[None, :]
    q = tl.load(q_ptr + at, mask=there[:, None], other=0).to(tl.float32)
    i0 = first_query + block * R
    newest = tl.minimum(i0 + R, first_query + queries) - 1
    first = tl.maximum(i0 - window + 1, first_key) // N
    last = newest // N
    total = tl.zeros((R, D), tl.float32)
    for piece in range(tl.maximum(first, last - tiles + 1), last + 1):
        o = tl.zeros((R, D), tl.float32)
        lap = piece
        while lap >= first:
            j = lap * N + columns
            age = i[:, None] - j[None, :]
            held = (j >= first_key) & (j < first_key + keys)
            key_at = (kv_row.to(tl.int64) * keys + j - first_key)[:, None] * D + dims[None, :]
            x = _levels(tl.load(k_ptr + key_at, mask=held[:, None], other=0), top)
            a = _scores(q, x, age, s0, s1, s2, s3, alpha, HALF)
            a = tl.maximum(a, 0.0)
            if score_ceiling:
                a = tl.minimum(a, 1.0)
            a = tl.where((age >= 0) & (age < window) & held[None, :], a, 0.0)
            left = tl.exp(-alpha * tl.maximum(age, 0).to(tl.float32))
            v = _levels(tl.load(v_ptr + key_at, mask=held[:, None], other=0), top)
            o += o0 * tl.sum(a, 1)[:, None]
            weight = a * left
            o += o1 * _dot_split(weight, v, HALF)
            if o2 != 0:
                weight = weight * left
                o += o2 * _dot_split(weight, v * v, HALF)
            if o3 != 0:
                o += o3 * _dot_split(a * left * left * left, v * v * v, HALF)
            lap -= tiles
        if KEEP:
            row = (bh.to(tl.int64) * queries + block * R + rows) * tiles + piece % tiles
            tl.store(open_ptr + row[:, None] * D + dims[None, :], (tl.abs(o) < edge).to(tl.int8), mask=there[:, None])
        if output_ceiling:
            o = tl.minimum(tl.maximum(o, -steps), steps)
        sign = tl.where(o < 0, -1.0, 1.0)
        if readout == 1:
            o = sign * tl.floor(tl.abs(o) + 0.5)
        elif readout == 2:
            o = sign * tl.floor(tl.abs(o))
        elif readout == 3:
            near = tl.floor(o + 0.5)  # halves to even
            tie = (near - o == 0.5) & (near - 2.0 * tl.floor(near * 0.5) == 1.0)
            o = tl.where(tie, near - 1.0, near)
        total += o
    tl.store(out_ptr + at, total / steps, mask=there[:, None])


@triton.jit
def _pair(
    q_ptr, k_ptr, v_ptr, grad_ptr, open_ptr, bh, kv_row, block, piece,
    queries, keys, first_query, first_key, window, tiles,
    s0, s1, s2, s3, f0, f1, f2, f3, alpha, grad_alpha, top: tl.constexpr, scale, margin,
    score_ceiling: tl.constexpr,
    R: tl.constexpr, N: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """What both backward kernels need of a block and a piece: q, K's and V's X, dO, A, dS, remaining share."""
    rows, columns, dims = tl.arange(0, R), tl.arange(0, N), tl.arange(0, D)
    i, j = first_query + block * R + rows, piece * N + columns
    there = block * R + rows < queries
    held = (j >= first_key) & (j < first_key + keys)
    row = bh.to(tl.int64) * queries + block * R + rows
    at = row[:, None] * D + dims[None, :]
    q = tl.load(q_ptr + at, mask=there[:, None], other=0).to(tl.float32)
    open_at = (row * tiles + piece % tiles)[:, None] * D + dims[None, :]
    opened = tl.load(open_ptr + open_at, mask=there[:, None], other=0).to(tl.float32)
    do = tl.load(grad_ptr + at, mask=there[:, None], other=0.0) * opened * scale
    key_at = (kv_row.to(tl.int64) * keys + j - first_key)[:, None] * D + dims[None, :]
    x = _levels(tl.load(k_ptr + key_at, mask=held[:, None], other=0), top)
    v = _levels(tl.load(v_ptr + key_at, mask=held[:, None], other=0), top)
    age = i[:, None] - j[None, :]
    seen = (age >= 0) & (age < window) & held[None, :] & there[:, None]
    s = _scores(q, x, age, s0, s1, s2, s3, alpha, HALF)
    gate = (s > margin) & seen
    a = tl.maximum(s, 0.0)
    if score_ceiling:
        gate = gate & (s < 1.0 - margin)
        a = tl.minimum(a, 1.0)
    a = tl.where(seen, a, 0.0)
    left = tl.exp(-grad_alpha * tl.maximum(age, 0).to(tl.float32))
    vt = tl.trans(v)
    da = f0 * tl.sum(do, 1)[:, None] + (f1 * left) * _dot_split(do, vt, HALF)
    if f2 != 0:
        da += (f2 * left * left) * _dot_split(do, vt * vt, HALF)
    if f3 != 0:
        da += (f3 * left * left * left) * _dot_split(do, vt * vt * vt, HALF)
    return q, x, v, do, a, tl.where(gate, da, 0.0), left


@triton.jit
def _backward_queries(
    q_ptr, k_ptr, v_ptr, grad_ptr, open_ptr, dq_ptr,
    heads, kv_heads, queries, keys, first_query, first_key, window, tiles,
    s0, s1, s2, s3, f0, f1, f2, f3, alpha, grad_alpha, top: tl.constexpr, scale, score_scale, margin,
    score_ceiling: tl.constexpr,
    R: tl.constexpr, N: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """dX = sum_p f_p (dS delta^(p a)) X^p, of one block of queries."""
    block, bh = tl.program_id(0), tl.program_id(1)
    kv_row = bh // heads * kv_heads + bh % heads // (heads // kv_heads)
    rows, dims = tl.arange(0, R), tl.arange(0, D)
    i0 = first_query + block * R
    first = tl.maximum(i0 - window + 1, first_key) // N
    last = (tl.minimum(i0 + R, first_query + queries) - 1) // N
    dx = tl.zeros((R, D), tl.float32)
    for piece in range(first, last + 1):
        q, x, v, do, a, ds, left = _pair(
            q_ptr, k_ptr, v_ptr, grad_ptr, open_ptr, bh, kv_row, block, piece,
            queries, keys, first_query, first_key, window, tiles,
            s0, s1, s2, s3, f0, f1, f2, f3, alpha, grad_alpha, top, scale, margin, score_ceiling, R, N, D, HALF,
        )  # fmt: skip
        ds = ds * score_scale
        dx += f0 * tl.sum(ds, 1)[:, None]
        dx += f1 * _dot_split(ds * left, x, HALF)
        if f2 != 0:
            dx += f2 * _dot_split(ds * left * left, x * x, HALF)
        if f3 != 0:
            dx += f3 * _dot_split(ds * left * left * left, x * x * x, HALF)
    at = (bh.to(tl.int64) * queries + block * R + rows)[:, None] * D + dims[None, :]
    tl.store(dq_ptr + at, dx, mask=(block * R + rows < queries)[:, None])


@triton.jit
def _backward_keys(
    q_ptr, k_ptr, v_ptr, grad_ptr, open_ptr, dk_ptr, dv_ptr,
    heads, kv_heads, queries, keys, first_query, first_key, window, tiles,
    s0, s1, s2, s3, f0, f1, f2, f3, alpha, grad_alpha, top: tl.constexpr, scale, key_scale, value_scale, margin,
    score_ceiling: tl.constexpr,
    R: tl.constexpr, N: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """dK, dV of one piece of one key/value head, from all queries of its group that see it."""
    number, kv_row = tl.program_id(0), tl.program_id(1)
    piece = first_key // N + number
    group = heads // kv_heads
    columns, dims = tl.arange(0, N), tl.arange(0, D)
    oldest = tl.maximum(piece * N, first_query)
    begin = (oldest - first_query) // R
    end = tl.minimum(piece * N + N - 1 + window, first_query + queries)  # first query that sees nothing of it
    stop = tl.cdiv(end - first_query, R)
    dk = tl.zeros((N, D), tl.float32)
    dv = tl.zeros((N, D), tl.float32)
    for member in range(0, group):
        bh = kv_row // kv_heads * heads + kv_row % kv_heads * group + member
        for block in range(begin, stop):
            q, x, v, do, a, ds, left = _pair(
                q_ptr, k_ptr, v_ptr, grad_ptr, open_ptr, bh, kv_row, block, piece,
                queries, keys, first_query, first_key, window, tiles,
                s0, s1, s2, s3, f0, f1, f2, f3, alpha, grad_alpha, top, scale, margin, score_ceiling, R, N, D, HALF,
            )  # fmt: skip
            dst = tl.trans(ds * left)
            dk += f1 * _dot_split(dst, q, HALF)
            at = tl.trans(a * left)
            dv += f1 * _dot_both(at, do, HALF)
            if f2 != 0:
                dk += 2.0 * f2 * x * _dot_split(tl.trans(ds * left * left), q, HALF)
                dv += 2.0 * f2 * v * _dot_both(tl.trans(a * left * left), do, HALF)
            if f3 != 0:
                dk += 3.0 * f3 * x * x * _dot_split(tl.trans(ds * left * left * left), q, HALF)
                dv += 3.0 * f3 * v * v * _dot_both(tl.trans(a * left * left * left), do, HALF)
    j = piece * N + columns
    held = (j >= first_key) & (j < first_key + keys)
    key_at = (kv_row.to(tl.int64) * keys + j - first_key)[:, None] * D + dims[None, :]
    tl.store(dk_ptr + key_at, dk * key_scale, mask=held[:, None])
    tl.store(dv_ptr + key_at, dv * value_scale, mask=held[:, None])


def why_not(q: Tensor, design: Design) -> str | None:
    """Why a call is not served, in words; None if it is."""
    dim, c = q.shape[3], design.cell.coefficients
    if q.dtype == torch.float64:
        return "it computes in float32"
    if c is None or len(c) > 4:
        return "it serves polynomial cells up to order 3"
    if design.mismatch.present:
        return "mismatch of cells is computed by 'blocked'"
    if design.storage_levels is None or design.storage_levels > 8:
        return "it needs at most 8 storage levels"
    if design.query_levels is None or design.query_levels > 256:
        return "it needs at most 256 query levels"
    if dim < 16 or dim & (dim - 1) or design.tile < 16 or design.tile & (design.tile - 1):
        return "head dimension and sub-tile must be powers of two, 16 or more"
    return None


class _Call(NamedTuple):
    design: Design
    first_query: int
    first_key: int
    window: int
    gradient: str
    half: bool


def gain_cell_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    design: Design,
    key_index: Tensor | None = None,
    query_index: Tensor | None = None,
    sliding_window: int | None = None,
    layer: int = 0,
    gradient: str = "exact",
    *,
    half: bool = True,
) -> Tensor:
    """The digital sum over the sub-tiles for requested pulse widths `q` and volts `k`, `v`, in float32.

    Args and result as of `gain_cell_core_blocked`, but for q, k, v: before drivers and write DACs.
    half: products of float16 operands (see the head of this file), or of float32 ones.
    """

    def run(q: Tensor, k: Tensor, v: Tensor, first_query: int, first_key: int) -> Tensor:
        window = min(design.window, sliding_window or design.window)
        call = _Call(design, first_query, first_key, window, gradient, half)
        return _TritonCore.apply(q, k, v, call)  # type: ignore[no-untyped-call,no-any-return]

    if key_index is None:
        return run(q, k, v, k.shape[2] - q.shape[2], 0)
    if query_index is None:
        query_index = key_index[:, k.shape[2] - q.shape[2] :]
    return over_real_tokens(run, q, k, v, key_index, query_index)


class _TritonCore(torch.autograd.Function):
    """Requested q, k, v of consecutive tokens -> digital sum."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, call: _Call) -> Tensor:
        d = call.design
        codes = _codes(q, k, v, d)
        out = torch.empty(q.shape, dtype=torch.float32, device=q.device)
        keep = any(ctx.needs_input_grad)
        open_shape = (*q.shape[:3], d.tiles, q.shape[3]) if keep else (1,)
        open_ = torch.zeros(open_shape, dtype=torch.int8, device=q.device)
        steps = _steps(d)
        s, o = _constants(d, q.shape[3])
        edge = steps * (1 - sum_rounding(torch.float32)) if d.output_ceiling else float("inf")
        grid = (triton.cdiv(q.shape[2], ROWS), q.shape[0] * q.shape[1])
        _forward[grid](
            *codes, out, open_, *_sizes(q, k, call), *s, *o, _alpha(d), d.storage_levels - 1, steps, edge,
            d.score_ceiling, d.output_ceiling, READOUTS[d.readout],
            R=ROWS, N=d.tile, D=q.shape[3], HALF=call.half, KEEP=keep,
        )  # fmt: skip
        if keep:
            ctx.save_for_backward(q, k, v, open_)
            ctx.call = call
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, open_ = ctx.saved_tensors
        call: _Call = ctx.call
        d, dim = call.design, q.shape[3]
        codes = _codes(q, k, v, d)
        grad = grad.contiguous().float()
        dq, dk, dv = (torch.zeros(t.shape, dtype=torch.float32, device=t.device) for t in (q, k, v))
        s, _ = _constants(d, dim)
        h = _half_step(d)
        c = (0.0, d.cell.linear_slope) if call.gradient == "surrogate" else d.cell.coefficients or ()
        f = [p * h**n for n, p in enumerate((*c, 0.0, 0.0, 0.0)[:4])]
        score_scale = 1 / d.score_saturation(dim)
        scale = 1 / d.output_saturation
        margin = sum_rounding(torch.float32)
        constants = (*s, *f, _alpha(d), _alpha(d), d.storage_levels - 1, scale)
        shape = {"R": ROWS, "N": d.tile, "D": dim, "HALF": call.half}
        sizes = _sizes(q, k, call)
        blocks = triton.cdiv(q.shape[2], ROWS)
        _backward_queries[(blocks, q.shape[0] * q.shape[1])](
            *codes, grad, open_, dq, *sizes, *constants, score_scale, margin, d.score_ceiling, **shape
        )
        pieces = (call.first_key + k.shape[2] - 1) // d.tile - call.first_key // d.tile + 1
        key_scale = score_scale / (h * (d.query_levels - 1))
        _backward_keys[(pieces, k.shape[0] * k.shape[1])](
            *codes, grad, open_, dk, dv, *sizes, *constants, key_scale, 1 / h, margin, d.score_ceiling, **shape
        )
        inside = ((q, 0.0, 1.0, dq), (k, d.v_min, d.v_max, dk), (v, d.v_min, d.v_max, dv))
        gated = [g * ((x > in_precision(lo, x.dtype)) & (x < in_precision(hi, x.dtype))) for x, lo, hi, g in inside]
        return gated[0].to(q.dtype), gated[1].to(k.dtype), gated[2].to(v.dtype), None


def _codes(q: Tensor, k: Tensor, v: Tensor, d: Design) -> list[Tensor]:
    """One byte each: the query drivers' and the write DACs'."""
    assert d.query_levels is not None
    assert d.storage_levels is not None
    stored = [dac_code(u, d.storage_levels, d.v_min, d.v_max, d.v_offset) for u in (k, v)]
    codes = (query_code(q, d.query_levels), *stored)
    return [code.to(torch.uint8).contiguous() for code in codes]


def _sizes(q: Tensor, k: Tensor, call: _Call) -> tuple[int, ...]:
    lengths = (q.shape[1], k.shape[1], q.shape[2], k.shape[2])
    return (*lengths, call.first_query, call.first_key, call.window, call.design.tiles)


def _half_step(d: Design) -> float:
    return (d.v_max - d.v_min) / ((d.storage_levels or 2) - 1) / 2


def _steps(d: Design) -> float:
    counts = {"none": 1.0, "published-code": (2 * d.counter_levels - 1) / 2}
    return counts.get(d.readout, d.counter_levels - 1.0)


def _alpha(d: Design) -> float:
    return 0.0 if d.retention_time is None else d.token_period / d.retention_time


def _constants(d: Design, dim: int) -> tuple[list[float], list[float]]:
    """C_p h^p of the scores, per S_sat and full query code, and of the outputs, in readout steps."""
    h = _half_step(d)
    c = (*(d.cell.coefficients or ()), 0.0, 0.0, 0.0)[:4]
    score = 1 / ((d.query_levels or 2) - 1) / d.score_saturation(dim)
    output = _steps(d) / d.output_saturation
    return [p * h**n * score for n, p in enumerate(c)], [p * h**n * output for n, p in enumerate(c)]
