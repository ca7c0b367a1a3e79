"""The kernels of triton.py. Sizes and constants: see there; dimensions R, N, D as there."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def quantize_output(o, steps, CEILING: tl.constexpr, READOUT: tl.constexpr):
    """Outputs of a sub-tile, in steps of the readout, between their ceilings and as codes."""
    if CEILING:
        o = tl.minimum(tl.maximum(o, -steps), steps)
    sign = tl.where(o < 0, -1.0, 1.0)
    if READOUT == 1:
        o = sign * tl.floor(tl.abs(o) + 0.5)
    elif READOUT == 2:
        o = sign * tl.floor(tl.abs(o))
    elif READOUT == 3:
        near = tl.floor(o + 0.5)  # halves to even
        tie = (near - o == 0.5) & (near - 2.0 * tl.floor(near * 0.5) == 1.0)
        o = tl.where(tie, near - 1.0, near)
    return o


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
    left = tl.exp(-alpha * tl.maximum(age, 0).to(tl.float32))
    xt = tl.trans(x)
    s = c0 * tl.sum(q, 1)[:, None] + (c1 * left) * _dot(q, xt, HALF)
    if c2 != 0:
        s += (c2 * left * left) * _dot(q, xt * xt, HALF)
    if c3 != 0:
        s += (c3 * left * left * left) * _dot(q, xt * xt * xt, HALF)
    return s


@triton.jit
def forward(
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
            tl.store(
                open_ptr + row[:, None] * D + dims[None, :],
                (tl.abs(o) < edge).to(tl.int8),
                mask=there[:, None],
            )
        total += quantize_output(o, steps, output_ceiling, readout)
    tl.store(out_ptr + at, total / steps, mask=there[:, None])


@triton.jit
def _pair(
    q_ptr, k_ptr, v_ptr, grad_ptr, open_ptr, bh, kv_row, block, piece,
    queries, keys, first_query, first_key, window, tiles,
    s0, s1, s2, s3, f0, f1, f2, f3, alpha, top: tl.constexpr, scale, margin,
    score_ceiling: tl.constexpr,
    R: tl.constexpr, N: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """What both backward kernels need of a block and a piece: q, X of K and V, dO, A, dS, what is left."""
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
    left = tl.exp(-alpha * tl.maximum(age, 0).to(tl.float32))
    vt = tl.trans(v)
    da = f0 * tl.sum(do, 1)[:, None] + (f1 * left) * _dot_split(do, vt, HALF)
    if f2 != 0:
        da += (f2 * left * left) * _dot_split(do, vt * vt, HALF)
    if f3 != 0:
        da += (f3 * left * left * left) * _dot_split(do, vt * vt * vt, HALF)
    return q, x, v, do, a, tl.where(gate, da, 0.0), left


@triton.jit
def backward_queries(
    q_ptr, k_ptr, v_ptr, grad_ptr, open_ptr, dq_ptr,
    heads, kv_heads, queries, keys, first_query, first_key, window, tiles,
    s0, s1, s2, s3, f0, f1, f2, f3, alpha, top: tl.constexpr, scale, score_scale, margin,
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
        _q, x, _v, _do, _a, ds, left = _pair(
            q_ptr, k_ptr, v_ptr, grad_ptr, open_ptr, bh, kv_row, block, piece,
            queries, keys, first_query, first_key, window, tiles,
            s0, s1, s2, s3, f0, f1, f2, f3, alpha, top, scale, margin, score_ceiling,
            R, N, D, HALF,
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
def backward_keys(
    q_ptr, k_ptr, v_ptr, grad_ptr, open_ptr, dk_ptr, dv_ptr,
    heads, kv_heads, queries, keys, first_query, first_key, window, tiles,
    s0, s1, s2, s3, f0, f1, f2, f3, alpha, top: tl.constexpr, scale,
    key_scale, value_scale, margin, score_ceiling: tl.constexpr,
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
                s0, s1, s2, s3, f0, f1, f2, f3, alpha, top, scale, margin, score_ceiling,
                R, N, D, HALF,
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
