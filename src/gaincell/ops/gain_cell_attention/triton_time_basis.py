"""The kernels of triton_any.py: attention of any cells, by slabs (time_basis.py). Sizes, constants: there.

    F(u_j delta^(i-j)) = constant + sum_n row_n(i - i0) slab_n(u_j, i0 - j),   i0 the first query of a block

Dimensions: R queries of a program, of which `step` are used, N columns and D rows padded to powers of two, of
which `tile` and `dim` are used.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl

from gaincell.ops.gain_cell_attention.time_basis import MOST_NODES
from gaincell.ops.gain_cell_attention.triton_kernels import quantize_output
from gaincell.ops.gain_cell_attention.triton_random import standard_normal

# places in a curve's tensor, behind its nodes: where pieces begin, pieces per volt, their number, the pieces
LOW = tl.constexpr(MOST_NODES)
PER_VOLT = tl.constexpr(MOST_NODES + 1)
NUMBER = tl.constexpr(MOST_NODES + 2)
PIECES = tl.constexpr(MOST_NODES + 3)


@triton.jit
def _dot(a, b):
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _queries(bh, block, queries, first_query, step, dim, R: tl.constexpr, D: tl.constexpr):
    """Of a block: its tokens, which are there, their rows, where they are and which of that is real."""
    rows, dims = tl.arange(0, R), tl.arange(0, D)
    there = (rows < step) & (block * step + rows < queries)
    row = bh.to(tl.int64) * queries + block * step + rows
    at = row[:, None] * dim + dims[None, :]
    return first_query + block * step + rows, there, row, at, there[:, None] & (dims < dim)[None, :]


@triton.jit
def _columns(kv_row, piece, keys, first_key, tile, dim, N: tl.constexpr, D: tl.constexpr):
    """Of a piece: its tokens, which of them are held, where they are and which of that is real."""
    columns, dims = tl.arange(0, N), tl.arange(0, D)
    j = piece * tile + columns
    held = (columns < tile) & (j >= first_key) & (j < first_key + keys)
    at = (kv_row.to(tl.int64) * keys + j - first_key)[:, None] * dim + dims[None, :]
    return j, held, at, held[:, None] & (dims < dim)[None, :]


@triton.jit
def _seen(i, j, there, held, window):
    age = i[:, None] - j[None, :]
    return (age >= 0) & (age < window) & held[None, :] & there[:, None]


@triton.jit
def _left(alpha, i0, j, step):
    """What is left at i0 of what was written at j; no query of the block sees tokens behind it."""
    return tl.exp(-alpha * tl.maximum(i0 - j, 1 - step).to(tl.float32))


@triton.jit
def _own(own_ptr, kv, column, ring, dim, PARTS: tl.constexpr, D: tl.constexpr):
    """Where the numbers of cells [N, D] are, and how far apart their PARTS; 0 where all are alike."""
    dims = tl.arange(0, D)
    if PARTS > 0:
        return own_ptr + ((kv * ring + column).to(tl.int64) * (PARTS * dim))[:, None] + dims[None, :], dim
    else:
        return own_ptr + (column * 0)[:, None] + (dims * 0)[None, :], 1


@triton.jit
def _slab(
    u, left, own, by_part, inside, n: tl.constexpr, curve_ptr, POLYNOMIAL: tl.constexpr, FIRST: tl.constexpr
):
    """Slab n of voltages u [N, D] of which `left` [N] is left at i0, and its derivative by u."""
    if POLYNOMIAL:
        x = u * left[:, None]
        power = tl.full(u.shape, 1.0, tl.float32)
        below = tl.zeros(u.shape, tl.float32)
        for _ in tl.static_range(FIRST + n):
            below = power
            power = power * x
        coefficient = tl.load(own + n * by_part, mask=inside, other=0.0)
        slab = coefficient * power
        slope = coefficient * below * ((FIRST + n) * left)[:, None]
    else:
        low, per_volt = tl.load(curve_ptr + LOW), tl.load(curve_ptr + PER_VOLT)
        pieces = tl.load(curve_ptr + NUMBER)
        factor = (left * tl.load(curve_ptr + n))[:, None]
        gain = tl.load(own, mask=inside, other=0.0)
        shift = tl.load(own + by_part, mask=inside, other=0.0)
        offset = tl.load(own + 2 * by_part, mask=inside, other=0.0)
        at = tl.minimum(tl.maximum((u * factor + shift - low) * per_volt, 0.0), pieces)
        piece = tl.minimum(tl.floor(at), pieces - 1.0)
        t = at - piece
        cubic = curve_ptr + PIECES + piece.to(tl.int32) * 4
        c1, c2, c3 = tl.load(cubic + 1), tl.load(cubic + 2), tl.load(cubic + 3)
        slab = (((c3 * t + c2) * t + c1) * t + tl.load(cubic)) * gain + offset
        slope = ((3.0 * c3 * t + 2.0 * c2) * t + c1) * per_volt * factor * gain
    return tl.where(inside, slab, 0.0), tl.where(inside, slope, 0.0)


@triton.jit
def _draw(numbers_ptr, array: tl.constexpr, effect: tl.constexpr, head, column, row, token):
    """Normal numbers of a chip's layer, for the array and the effect that stand at these places."""
    seed, chip, layer = tl.load(numbers_ptr), tl.load(numbers_ptr + 1), tl.load(numbers_ptr + 2)
    of = tl.load(numbers_ptr + array)
    return standard_normal(seed, chip, layer, head, of, column, row, tl.load(numbers_ptr + effect), token)


@triton.jit
def _std(stds_ptr, squares):
    rest, of_cell = tl.load(stds_ptr), tl.load(stds_ptr + 1)
    return tl.sqrt(rest * rest + of_cell * of_cell * squares)


@triton.jit
def _pulses(
    x, u, i, seen, inside, left, own, by_part, kv, kv_heads, head, column, ring, rows_ptr, curve_ptr,
    constant, score_scale, lines_ptr, stds_ptr, numbers_ptr,
    POLYNOMIAL: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr, CEILING: tl.constexpr,
    EXPONENT: tl.constexpr, LINES: tl.constexpr, NOISE: tl.constexpr, JITTER: tl.constexpr,
    R: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Pulses A [R, N] of queries x [R, D] and keys u [N, D], scores before their clamp, and their gains."""
    rows = tl.arange(0, R)
    s = constant * tl.sum(x, 1)[:, None] + tl.zeros((R, N), tl.float32)
    for n in tl.static_range(COUNT):
        slab, _ = _slab(u, left, own, by_part, inside, n, curve_ptr, POLYNOMIAL, FIRST)
        s += tl.load(rows_ptr + n * R + rows)[:, None] * _dot(x, tl.trans(slab))
    s = s * score_scale
    gain = tl.full(column.shape, 1.0, tl.float32)
    if LINES:
        line = lines_ptr + kv * ring + column
        gain = tl.load(line)
        s = s * gain[None, :] + tl.load(line + kv_heads * ring)[None, :]
    drawn_column = column.to(tl.uint32)[None, :]
    token = i.to(tl.uint32)[:, None]
    if NOISE:
        z = _draw(numbers_ptr, 3, 5, head, drawn_column, drawn_column * 0, token)
        s += z * _std(stds_ptr, tl.sum(x * x, 1))[:, None]
    a = tl.maximum(s, 0.0)
    if CEILING:
        a = tl.minimum(a, 1.0)
    a = tl.where(seen, a, 0.0)
    phi = a
    for _ in tl.static_range(EXPONENT - 1):
        phi = phi * a
    if JITTER:
        z = _draw(numbers_ptr, 4, 6, head, drawn_column, drawn_column * 0, token)
        phi = tl.where(phi > 0, tl.maximum(phi + tl.load(stds_ptr + 4) * z, 0.0), 0.0)
    return phi, s, gain


@triton.jit
def forward(
    x_ptr, k_ptr, v_ptr, out_ptr, open_ptr, rows_ptr, key_own_ptr, value_own_ptr, curve_ptr, lines_ptr,
    stds_ptr, numbers_ptr, heads, kv_heads, queries, keys, first_query, first_key, window, ring, tiles, tile,
    dim, step, alpha, constant, score_scale, output_scale, steps, edge,
    POLYNOMIAL: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr, PARTS: tl.constexpr,
    CEILING: tl.constexpr, EXPONENT: tl.constexpr, LINES: tl.constexpr, NOISE: tl.constexpr,
    JITTER: tl.constexpr, OUT_CEILING: tl.constexpr, OUT_NOISE: tl.constexpr, READOUT: tl.constexpr,
    KEEP: tl.constexpr, R: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    block, bh = tl.program_id(0), tl.program_id(1)
    kv = bh % heads // (heads // kv_heads)
    kv_row, head = bh // heads * kv_heads + kv, (bh % heads).to(tl.uint32)
    rows, dims = tl.arange(0, R), tl.arange(0, D)
    i0 = first_query + block * step
    i, there, row, at, real = _queries(bh, block, queries, first_query, step, dim, R, D)
    x = tl.load(x_ptr + at, mask=real, other=0.0)
    newest = tl.minimum(i0 + step, first_query + queries) - 1
    first = tl.maximum(i0 - window + 1, first_key) // tile
    last = newest // tile
    total = tl.zeros((R, D), tl.float32)
    for piece in range(tl.maximum(first, last - tiles + 1), last + 1):
        o = tl.zeros((R, D), tl.float32)
        squares = tl.zeros((R,), tl.float32)
        read = tl.zeros((R,), tl.float32)
        lap = piece
        while lap >= first:
            j, held, key_at, inside = _columns(kv_row, lap, keys, first_key, tile, dim, N, D)
            seen = _seen(i, j, there, held, window)
            k = tl.load(k_ptr + key_at, mask=inside, other=0.0)
            v = tl.load(v_ptr + key_at, mask=inside, other=0.0)
            left, column = _left(alpha, i0, j, step), j % ring
            own, by_part = _own(key_own_ptr, kv, column, ring, dim, PARTS, D)
            a, _s, _gain = _pulses(
                x, k, i, seen, inside, left, own, by_part, kv, kv_heads, head, column, ring, rows_ptr,
                curve_ptr, constant, score_scale, lines_ptr, stds_ptr, numbers_ptr,
                POLYNOMIAL, FIRST, COUNT, CEILING, EXPONENT, LINES, NOISE, JITTER, R, N,
            )  # fmt: skip
            own, by_part = _own(value_own_ptr, kv, column, ring, dim, PARTS, D)
            o += constant * tl.sum(a, 1)[:, None]
            for n in tl.static_range(COUNT):
                slab, _ = _slab(v, left, own, by_part, inside, n, curve_ptr, POLYNOMIAL, FIRST)
                o += tl.load(rows_ptr + n * R + rows)[:, None] * _dot(a, slab)
            squares += tl.sum(a * a, 1)
            read = tl.maximum(read, tl.max(seen.to(tl.float32), 1))
            lap -= tiles
        o = o * output_scale
        number = piece % tiles
        if LINES:
            line = lines_ptr + 2 * kv_heads * ring + (kv * tiles + number) * dim + dims
            o = o * tl.load(line, mask=dims < dim, other=1.0)[None, :]
            o += tl.load(line + kv_heads * tiles * dim, mask=dims < dim, other=0.0)[None, :]
        if OUT_NOISE:
            drawn_tile, drawn_row = (dims * 0 + number).to(tl.uint32)[None, :], dims.to(tl.uint32)[None, :]
            z = _draw(numbers_ptr, 4, 5, head, drawn_tile, drawn_row, i.to(tl.uint32)[:, None])
            o += z * _std(stds_ptr + 2, squares)[:, None]
        o = o * read[:, None]  # a sub-tile without a token is not read
        if KEEP:
            open_at = (row * tiles + number)[:, None] * dim + dims[None, :]
            tl.store(open_ptr + open_at, (tl.abs(o) < edge).to(tl.int8), mask=real)
        total += quantize_output(o, steps, OUT_CEILING, READOUT)
    tl.store(out_ptr + at, total / steps, mask=real)


@triton.jit
def _pair(
    x_ptr, k_ptr, v_ptr, grad_ptr, open_ptr, rows_ptr, key_own_ptr, curve_ptr, lines_ptr, stds_ptr,
    numbers_ptr, back_rows_ptr, back_value_ptr, bh, kv, kv_row, block, piece,
    heads, kv_heads, queries, keys, first_query, first_key, window, ring, tiles, tile, dim, step,
    alpha, back_alpha, constant, back_constant, score_scale, scale, margin,
    POLYNOMIAL: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr, PARTS: tl.constexpr,
    CEILING: tl.constexpr, EXPONENT: tl.constexpr, LINES: tl.constexpr, NOISE: tl.constexpr,
    JITTER: tl.constexpr, BACK_POLYNOMIAL: tl.constexpr, BACK_FIRST: tl.constexpr, BACK_COUNT: tl.constexpr,
    BACK_PARTS: tl.constexpr, R: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """What both backward passes need of a block and a piece: x, voltages, dO, A, dS, and where cells are."""
    rows, dims = tl.arange(0, R), tl.arange(0, D)
    i0 = first_query + block * step
    i, there, row, at, real = _queries(bh, block, queries, first_query, step, dim, R, D)
    j, held, key_at, inside = _columns(kv_row, piece, keys, first_key, tile, dim, N, D)
    x = tl.load(x_ptr + at, mask=real, other=0.0)
    open_at = (row * tiles + piece % tiles)[:, None] * dim + dims[None, :]
    opened = tl.load(open_ptr + open_at, mask=real, other=0).to(tl.float32)
    do = tl.load(grad_ptr + at, mask=real, other=0.0) * opened * scale
    if LINES:
        line = lines_ptr + 2 * kv_heads * ring + (kv * tiles + piece % tiles) * dim + dims
        do = do * tl.load(line, mask=dims < dim, other=0.0)[None, :]
    k = tl.load(k_ptr + key_at, mask=inside, other=0.0)
    v = tl.load(v_ptr + key_at, mask=inside, other=0.0)
    seen, column = _seen(i, j, there, held, window), j % ring
    own, by_part = _own(key_own_ptr, kv, column, ring, dim, PARTS, D)
    a, s, gain = _pulses(
        x, k, i, seen, inside, _left(alpha, i0, j, step), own, by_part, kv, kv_heads,
        (bh % heads).to(tl.uint32), column, ring, rows_ptr, curve_ptr, constant, score_scale, lines_ptr,
        stds_ptr, numbers_ptr, POLYNOMIAL, FIRST, COUNT, CEILING, EXPONENT, LINES, NOISE, JITTER, R, N,
    )  # fmt: skip
    gate = (s > margin) & seen
    if CEILING:
        gate = gate & (s < 1.0 - margin)
    slope = gain[None, :] + s * 0.0
    for _ in tl.static_range(EXPONENT - 1):
        slope = slope * s
    slope = slope * EXPONENT
    left = _left(back_alpha, i0, j, step)
    own, by_part = _own(back_value_ptr, kv, column, ring, dim, BACK_PARTS, D)
    da = back_constant * tl.sum(do, 1)[:, None] + tl.zeros((R, N), tl.float32)
    for n in tl.static_range(BACK_COUNT):
        slab, _ = _slab(v, left, own, by_part, inside, n, curve_ptr, BACK_POLYNOMIAL, BACK_FIRST)
        da += tl.load(back_rows_ptr + n * R + rows)[:, None] * _dot(do, tl.trans(slab))
    return x, k, v, do, a, tl.where(gate, da * slope, 0.0) * score_scale, left, column, inside


@triton.jit
def backward(
    x_ptr, k_ptr, v_ptr, grad_ptr, open_ptr, dx_ptr, dk_ptr, dv_ptr, rows_ptr, key_own_ptr, curve_ptr,
    lines_ptr, stds_ptr, numbers_ptr, back_rows_ptr, back_key_ptr, back_value_ptr,
    heads, kv_heads, queries, keys, first_query, first_key, window, ring, tiles, tile, dim, step,
    alpha, back_alpha, constant, back_constant, score_scale, scale, margin,
    POLYNOMIAL: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr, PARTS: tl.constexpr,
    CEILING: tl.constexpr, EXPONENT: tl.constexpr, LINES: tl.constexpr, NOISE: tl.constexpr,
    JITTER: tl.constexpr, BACK_POLYNOMIAL: tl.constexpr, BACK_FIRST: tl.constexpr, BACK_COUNT: tl.constexpr,
    BACK_PARTS: tl.constexpr, R: tl.constexpr, N: tl.constexpr, D: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """dX of one block of queries, or dK and dV of one piece of a key/value head from all of its group."""
    number, line = tl.program_id(0), tl.program_id(1)
    rows, group = tl.arange(0, R), heads // kv_heads
    if QUERIES:
        i0 = first_query + number * step
        begin = tl.maximum(i0 - window + 1, first_key) // tile  # of the pieces that a block reaches
        stop = (tl.minimum(i0 + step, first_query + queries) - 1) // tile + 1
        members, kv = 1, line % heads // group
        kv_row = line // heads * kv_heads + kv
    else:
        piece = first_key // tile + number
        begin = (tl.maximum(piece * tile, first_query) - first_query) // step  # of the blocks that see it
        end = tl.minimum(piece * tile + tile - 1 + window, first_query + queries)
        stop = tl.cdiv(end - first_query, step)
        members, kv, kv_row = group, line % kv_heads, line
    dx = tl.zeros((R, D), tl.float32)
    dk = tl.zeros((N, D), tl.float32)
    dv = tl.zeros((N, D), tl.float32)
    for member in range(0, members):
        for other in range(begin, stop):
            if QUERIES:
                bh, block, at_piece = line, number, other
            else:
                bh = line // kv_heads * heads + kv * group + member
                block, at_piece = other, first_key // tile + number
            x, k, v, do, a, ds, left, column, inside = _pair(
                x_ptr, k_ptr, v_ptr, grad_ptr, open_ptr, rows_ptr, key_own_ptr, curve_ptr, lines_ptr,
                stds_ptr, numbers_ptr, back_rows_ptr, back_value_ptr, bh, kv, kv_row, block, at_piece,
                heads, kv_heads, queries, keys, first_query, first_key, window, ring, tiles, tile, dim, step,
                alpha, back_alpha, constant, back_constant, score_scale, scale, margin,
                POLYNOMIAL, FIRST, COUNT, PARTS, CEILING, EXPONENT, LINES, NOISE, JITTER,
                BACK_POLYNOMIAL, BACK_FIRST, BACK_COUNT, BACK_PARTS, R, N, D,
            )  # fmt: skip
            key, by_part = _own(back_key_ptr, kv, column, ring, dim, BACK_PARTS, D)
            value, _ = _own(back_value_ptr, kv, column, ring, dim, BACK_PARTS, D)
            if QUERIES:
                dx += back_constant * tl.sum(ds, 1)[:, None]
            for n in tl.static_range(BACK_COUNT):
                row = tl.load(back_rows_ptr + n * R + rows)[:, None]
                slab, slope = _slab(k, left, key, by_part, inside, n, curve_ptr, BACK_POLYNOMIAL, BACK_FIRST)
                if QUERIES:
                    dx += _dot(ds * row, slab)
                else:
                    dk += slope * _dot(tl.trans(ds), x * row)
                    _, slope = _slab(
                        v, left, value, by_part, inside, n, curve_ptr, BACK_POLYNOMIAL, BACK_FIRST
                    )
                    dv += slope * _dot(tl.trans(a), do * row)
    if QUERIES:
        _i, _there, _row, at, real = _queries(line, number, queries, first_query, step, dim, R, D)
        tl.store(dx_ptr + at, dx, mask=real)
    else:
        piece = first_key // tile + number
        _j, _held, at, inside = _columns(kv_row, piece, keys, first_key, tile, dim, N, D)
        tl.store(dk_ptr + at, dk, mask=inside)
        tl.store(dv_ptr + at, dv, mask=inside)
