// What both passes do with a block of queries and a piece of columns: see forward.cpp for the formulation.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "products.h"
#include "random.h"
#include "shared.h"
#include "tiles.h"

namespace gc {
namespace GC_LEVEL {
namespace {

// Hands out pieces of one block of memory.
struct Cutter {
    char *at;
    template <class T>
    T *cut(int64_t count) {
        T *p = reinterpret_cast<T *>(at);
        at += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
        return p;
    }
};

// What the write DACs make of keys and values: [B Hk, pieces, N, D], zeros where there is no token.
struct Stored {
    float *key, *value;         // u in volts, or the level's number where cells are tabulated; where they are needed
    int8_t *power[3];           // X, X^2, (X^3 - top^2 X) / third of the keys
    static bool needs_keys(const gc_problem &p, bool gradient) { return gradient || !p.integer_factors; }
    static int64_t bytes(const gc_problem &p, const Sizes &s, bool gradient) {
        const int64_t cells = p.batch * p.kv_heads * s.pieces * s.np * s.dp;
        return cells * (4 + 4 * needs_keys(p, gradient) + (p.integer_factors ? 3 : 0)) + 6 * 64;
    }
    Stored(const gc_problem &p, const Sizes &s, bool gradient, char *memory) {
        const int64_t cells = p.batch * p.kv_heads * s.pieces * s.np * s.dp;
        Cutter c{memory};
        for (int8_t *&x : power) x = p.integer_factors ? c.cut<int8_t>(cells) : nullptr;
        key = needs_keys(p, gradient) ? c.cut<float>(cells) : nullptr;
        value = c.cut<float>(cells);  // behind `power`, of which tiles read up to 64 bytes too many
    }
};

// The n-th power of a code: X, X^2 or U = (X^3 - top^2 X) / third, with X = 2 code - top.
inline int8_t power_of(const gc_problem &p, int n, int code) {
    const int top = p.storage_levels - 1, x = 2 * code - top;
    return int8_t(n == 0 ? x : n == 1 ? x * x : (x * x * x - top * top * x) / p.integer_third);
}

// A row of q, k or v as requested: with its head's gain and offset, if there are any.
struct Row {
    const float *given;
    float gain, offset;
    Row(const float *row, const float *gains, const float *offsets, int64_t head)
        : given(row), gain(gains ? gains[head] : 1.0f), offset(gains ? offsets[head] : 0.0f) {}
    Vec at(int64_t d, int64_t dim, float fill) const { return load_some(given + d, dim - d, fill) * gain + offset; }
};

inline bool write_keys_and_values(const gc_problem &p, const Sizes &s, const Stored &stored, int64_t head) {
    const int64_t kv = head % p.kv_heads, cells = s.np * s.dp;
    const Dac dac{p.low, p.high, p.middle, p.storage_levels, p.to_code, p.to_volts};
    const bool by_level = p.cells.kind == GC_BY_LEVEL;
#if defined(GC_INTEGERS)
    alignas(16) int8_t powers[3][16] = {};
    for (int code = 0; p.integer_factors && code < p.storage_levels; ++code)
        for (int n = 0; n < 3; ++n) powers[n][code] = power_of(p, n, code);
#endif
    Vec check = {};  // 0, or not a number
    for (int64_t piece = 0; piece < s.pieces; ++piece) {
        const int64_t start = (head * s.pieces + piece) * cells, first = (s.first_piece + piece) * s.n - p.first_key;
        if (first < 0 || first + s.np > p.keys || s.n < s.np || s.d < s.dp) {
            if (stored.key) std::memset(stored.key + start, 0, size_t(cells) * 4);
            std::memset(stored.value + start, 0, size_t(cells) * 4);
            for (int8_t *power : stored.power)
                if (power) std::memset(power + start, 0, size_t(cells));
        }
        for (int64_t c = std::max<int64_t>(0, -first); c < std::min(s.n, p.keys - first); ++c) {
            const int64_t row = (head * p.keys + first + c) * s.d;
            const Row k(p.k + row, p.k_gain, p.k_offset, kv), v(p.v + row, p.v_gain, p.v_offset, kv);
            for (int64_t d = 0; d < s.d; d += kWidth) {
                const int64_t at = start + c * s.dp + d;
                Vec code, u;
                const Vec key = k.at(d, s.d, 0.0f), value = v.at(d, s.d, 0.0f);
                check = check + (key - key) + (value - value);
                dac.convert(key, &code, &u);
                if (stored.key) store(stored.key + at, by_level ? code : u);
#if defined(GC_INTEGERS)
                if (p.integer_factors) {
                    const __m128i codes = _mm512_cvtepi32_epi8(_mm512_cvttps_epi32((__m512)code));
                    for (int n = 0; n < 3; ++n) {
                        const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i *>(powers[n]));
                        _mm_storeu_si128(reinterpret_cast<__m128i *>(stored.power[n] + at), _mm_shuffle_epi8(table, codes));
                    }
                }
#endif
                dac.convert(value, &code, &u);
                store(stored.value + at, by_level ? code : u);
            }
        }
    }
    return finite(check);
}

// A thread's buffers for one block and one piece.
struct Buffers {
    Buffers() { std::memset(this, 0, sizeof *this); }
    float *x, *xt, *x_sum;       // queries [R][D], transposed [D][R], sums over d [R]
    float *x_squares, *a_squares, *read;  // sums of squares of x and of the pulses of a sub-tile; 1 where it is read [R]
    uint8_t *codes;              // queries' codes [D / 4][R][4], zeros up to a multiple of 64 in D
    float *a;                    // A^T [N][R]
    float *slabs, *slopes;       // [n][N][D]
    float *charge, *sum;         // O^T and the digital sum [D][R]
    float *gate, *da;            // of the scores, d A^T, both [N][R]
    float *dout, *dout_t, *dout_n, *dout_sum;  // gradient of a sub-tile [R][D], [D][R], [n][R][D], [R]
    float *x_n;                  // row factors times queries [n][R][D]
    float *dx;                   // [R][D]
    float *dk, *dv;              // of this head's queries, [pieces][N][D]; not the thread's
    int32_t *left, *right, *x_pairs;  // factors of products in bf16, the last one of queries: see products.h
    static int64_t bytes(const Sizes &s, int64_t slabs, int64_t gradient_slabs) {
        const int64_t rd = s.rp * s.dp, nr = s.np * s.rp, nd = s.np * s.dp;
        const int64_t n = std::max(slabs, gradient_slabs);
        int64_t floats = 4 * rd + 4 * s.rp + nr + 2 * n * nd;
        int64_t count = 13;
        if (gradient_slabs) {
            floats += 2 * nr + 3 * rd + 2 * n * rd + s.rp;
            floats += most_left(s) + most_right(s) + pairs_of(s.rp) * s.dp;
            count += 11;
        }
        return floats * 4 + s.rp * padded(s.dp, 64) + (count + 3) * 64;
    }
    static int64_t most_left(const Sizes &s) {
        return std::max({s.np, s.rp}) * std::max({pairs_of(s.dp), pairs_of(s.rp), pairs_of(s.np)});
    }
    static int64_t most_right(const Sizes &s) {
        return std::max({pairs_of(s.dp) * s.rp, pairs_of(s.rp) * s.dp, pairs_of(s.np) * std::max(s.dp, s.rp)});
    }
    Buffers(const Sizes &s, int64_t slab_count, int64_t gradient_slabs, char *memory) : Buffers() {
        const int64_t rd = s.rp * s.dp, nr = s.np * s.rp, nd = s.np * s.dp;
        const int64_t n = std::max(slab_count, gradient_slabs);
        Cutter c{memory};
        codes = c.cut<uint8_t>(s.rp * padded(s.dp, 64));
        x = c.cut<float>(rd);
        xt = c.cut<float>(rd);
        x_sum = c.cut<float>(s.rp);
        x_squares = c.cut<float>(s.rp);
        a_squares = c.cut<float>(s.rp);
        read = c.cut<float>(s.rp);
        a = c.cut<float>(nr);
        slabs = c.cut<float>(n * nd);
        slopes = c.cut<float>(n * nd);
        charge = c.cut<float>(rd);
        sum = c.cut<float>(rd);
        if (!gradient_slabs) return;
        gate = c.cut<float>(nr);
        da = c.cut<float>(nr);
        dout = c.cut<float>(rd);
        dout_t = c.cut<float>(rd);
        dout_n = c.cut<float>(n * rd);
        dout_sum = c.cut<float>(s.rp);
        x_n = c.cut<float>(n * rd);
        dx = c.cut<float>(rd);
        left = c.cut<int32_t>(most_left(s));
        right = c.cut<int32_t>(most_right(s));
        x_pairs = c.cut<int32_t>(pairs_of(s.rp) * s.dp);
    }
};

// Queries [i0, i1) of one head.
struct Block {
    int64_t bh, head, kv_row, kv;  // row of [B, H], head, row of [B, Hk], key/value head
    int64_t i0, i1;
};

inline Block block_of(const gc_problem &p, const Sizes &s, int64_t bh, int64_t number) {
    const int64_t head = bh % p.heads, kv = head / s.group;
    const int64_t i0 = p.first_query + number * s.r;
    return {bh, head, bh / p.heads * p.kv_heads + kv, kv, i0, std::min(i0 + s.r, s.end)};
}

// The query drivers: pulse widths of a block, and their codes; false if one is not a number.
inline bool drive_queries(const gc_problem &p, const Sizes &s, const Block &b, const Buffers &w) {
    std::memset(w.x, 0, size_t(s.rp * s.dp) * 4);
    if (p.integer_factors) std::memset(w.codes, 0, size_t(s.rp * padded(s.dp, 64)));
    Vec check = {};  // 0, or not a number
    for (int64_t r = 0; r < b.i1 - b.i0; ++r) {
        const Row q(p.q + (b.bh * p.queries + b.i0 - p.first_query + r) * s.d, p.q_gain, p.q_offset, b.head);
        Vec total = {}, squares = {};
        for (int64_t d = 0; d < s.d; d += kWidth) {
            Vec code, x;
            const Vec width = q.at(d, s.d, 0.0f);
            check = check + (width - width);
            drive(width, p.q_levels, &code, &x);
            if (s.d - d < kWidth) x = first_of(x, s.d - d), code = first_of(code, s.d - d);
            store(w.x + r * s.dp + d, x);
            total = total + x;
            squares = fma(x, x, squares);
#if defined(GC_INTEGERS)
            if (!p.integer_factors) continue;
            alignas(16) int32_t quads[4];
            _mm_store_si128(reinterpret_cast<__m128i *>(quads), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32((__m512)code)));
            for (int64_t n = 0; n < 4; ++n) std::memcpy(w.codes + ((d / 4 + n) * s.rp + r) * 4, quads + n, 4);
#endif
        }
        w.x_sum[r] = sum_of(total);
        w.x_squares[r] = sum_of(squares);
    }
    for (int64_t r = b.i1 - b.i0; r < s.rp; ++r) w.x_sum[r] = w.x_squares[r] = 0.0f;
    return finite(check);
}

// [rows][columns] -> [columns][rows], both multiples of kWidth; of anything of four bytes.
template <class T>
inline void transpose(const T *from, int64_t rows, int64_t columns, T *to) {
    for (int64_t m0 = 0; m0 < rows; m0 += kWidth)
        for (int64_t n0 = 0; n0 < columns; n0 += kWidth) {
            Vec v[kWidth];
            for (int64_t m = 0; m < kWidth; ++m) std::memcpy(v + m, from + (m0 + m) * columns + n0, sizeof *v);
            transpose(v);
            for (int64_t n = 0; n < kWidth; ++n) std::memcpy(to + (n0 + n) * rows + m0, v + n, sizeof *v);
        }
}

// F and dF/dv of a curve at v; beyond its ends, as at them.
inline void evaluate(const gc_cells &cells, Vec v, Vec *value, Vec *slope) {
    const Vec last = broadcast(float(cells.pieces - 1));
    const Vec at = bounded((v - cells.curve_low) * cells.pieces_per_volt, broadcast(0.0f), last + 1.0f);
    const Vec piece = bounded(truncated(at), broadcast(0.0f), last), t = at - piece;
    const IntVec index = __builtin_convertvector(piece, IntVec) * 4;
    const Vec c1 = gather(cells.curve + 1, index), c2 = gather(cells.curve + 2, index), c3 = gather(cells.curve + 3, index);
    *value = fma(fma(fma(c3, t, c2), t, c1), t, gather(cells.curve, index));
    *slope = fma(fma(c3 * 3.0f, t, c2 * 2.0f), t, c1) * cells.pieces_per_volt;
}

// Slabs of cells of any curve in one column: see make_slabs.
inline void curve_slabs(const gc_cells &cells, const float *errors, const float *u, int64_t age, const Sizes &s, float *slabs,
                        float *slopes) {
    for (int64_t d = 0; d < s.dp; d += kWidth) {
        const Vec stored = load(u + d), one = broadcast(1.0f);
        const Vec gain = errors ? load_some(errors + d, s.d - d, 1.0f) : one;
        const Vec shift = errors ? load_some(errors + s.d + d, s.d - d, 0.0f) : Vec{};
        const Vec offset = errors ? load_some(errors + 2 * s.d + d, s.d - d, 0.0f) : Vec{};
        for (int64_t n = 0; n < cells.count; ++n) {
            const Vec factor = broadcast(cells.column_factors[age * cells.count + n]);
            Vec value, slope;
            evaluate(cells, fma(stored, factor, shift), &value, &slope);
            store(slabs + n * s.np * s.dp + d, fma(value, gain, offset));
            if (slopes) store(slopes + n * s.np * s.dp + d, slope * (factor * gain));
        }
    }
}

// Slabs in one column of cells that leak at rates of their own.
inline void timed_slabs(const gc_cells &cells, const float *own, const float *u, int64_t age, const Sizes &s, float *slabs,
                        float *slopes) {
    for (int64_t d = 0; d < s.dp; d += kWidth) {
        const Vec stored = load(u + d), rate = load_some(own + d, s.d - d, 0.0f);
        const auto part = [&](int64_t n) { return load_some(own + n * s.d + d, s.d - d, 0.0f); };
        for (int64_t n = 0; n < cells.count; ++n) {
            const Vec left = exponential(rate * -cells.column_factors[age * cells.count + n]), v = stored * left;
            Vec value = {}, slope = {};
            if (cells.kind == GC_TIMED) {
                for (int64_t power = cells.powers; power >= 1; --power) {  // Horner's rule, C_p is part 1 + p
                    slope = fma(slope, v, value);
                    value = fma(value, v, part(power));
                }
            } else {
                evaluate(cells, v + part(2), &value, &slope);
                value = fma(value, part(1), part(3));
                slope = slope * part(1);
            }
            store(slabs + n * s.np * s.dp + d, value);
            if (slopes) store(slopes + n * s.np * s.dp + d, slope * left);
        }
    }
}

// Slabs of one piece about the block's first query, and their derivatives if asked for: [n][N][D].
inline void make_slabs(const gc_problem &p, const Sizes &s, const gc_cells &cells, const float *mismatch, const float *stored,
                bool stored_by_level, int64_t first_token, int64_t i0, int64_t kv, float *slabs, float *slopes) {
    const int64_t size = s.np * s.dp;
    for (int64_t c = 0; c < s.np; ++c) {
        const int64_t token = first_token + c, age = i0 - token + p.margin;
        const float *u = stored + c * s.dp;
        if (c >= s.n) {
            for (int64_t n = 0; n < cells.count; ++n) {
                std::memset(slabs + n * size + c * s.dp, 0, size_t(s.dp) * 4);
                if (slopes) std::memset(slopes + n * size + c * s.dp, 0, size_t(s.dp) * 4);
            }
            continue;
        }
        if (cells.kind == GC_BY_LEVEL) {
            for (int64_t n = 0; n < cells.count; ++n) {
                const float *table = cells.table + (age * cells.count + n) * GC_TABLE;
                float *slab = slabs + n * size + c * s.dp;
                for (int64_t d = 0; d < s.dp; ++d) slab[d] = table[int32_t(u[d])];
                if (!slopes) continue;
                table = cells.slopes + (age * cells.count + n) * GC_TABLE;
                float *slope = slopes + n * size + c * s.dp;
                for (int64_t d = 0; d < s.dp; ++d) slope[d] = table[int32_t(u[d])];
            }
            continue;
        }
        if (cells.kind == GC_TIMED || cells.kind == GC_TIMED_CURVE) {
            const int64_t parts = 1 + (cells.kind == GC_TIMED ? cells.powers : 3);
            const float *own = mismatch + (kv * p.columns + token % p.columns) * parts * s.d;
            timed_slabs(cells, own, u, age, s, slabs + c * s.dp, slopes ? slopes + c * s.dp : nullptr);
            continue;
        }
        if (cells.kind == GC_CURVE) {
            const float *own = mismatch ? mismatch + (kv * p.columns + token % p.columns) * 3 * s.d : nullptr;
            curve_slabs(cells, own, u, age, s, slabs + c * s.dp, slopes ? slopes + c * s.dp : nullptr);
            continue;
        }
        const Vec factor = broadcast(cells.column_factors[age]);
        const Vec middle = broadcast(0.5f * float(p.storage_levels - 1)), volts = broadcast(p.to_volts);
        const float *own = mismatch ? mismatch + (kv * p.columns + token % p.columns) * cells.count * s.d : nullptr;
        for (int64_t d = 0; d < s.dp; d += kWidth) {
            Vec v = load(u + d);
            if (stored_by_level) v = (v - middle) * volts;  // linear cells behind tabulated ones
            const Vec x = v * factor;
            Vec power = broadcast(1.0f), below = broadcast(0.0f);
            int32_t reached = 0;
            for (int64_t n = 0; n < cells.count; ++n) {
                for (; reached < cells.orders[n]; ++reached) {
                    below = power;
                    power = power * x;
                }
                const Vec coefficient = own ? load_some(own + n * s.d + d, s.d - d, 0.0f) : broadcast(cells.coefficients[n]);
                store(slabs + n * size + c * s.dp + d, coefficient * power);
                if (slopes)
                    store(slopes + n * size + c * s.dp + d,
                          coefficient * below * (factor * broadcast(float(cells.orders[n]))));
            }
        }
    }
}

// Which queries of a block see token j: rows [first, last) of the block.
struct Seen {
    int64_t first, last;
};

inline Seen seen_by(const gc_problem &p, const Block &b, int64_t token) {
    if (token < p.first_key || token >= p.first_key + p.keys) return {0, 0};
    const int64_t first = std::max(b.i0, token), last = std::min(b.i1, token + p.window);
    return first < last ? Seen{first - b.i0, last - b.i0} : Seen{0, 0};
}

// Standard deviation of a sum: of the conversion, and of the cells that take part.
inline Vec noise_std(float std, float of_cell, Vec squares) {
    return square_root(fma(squares, broadcast(of_cell * of_cell), broadcast(std * std)));
}

// A^T of one piece in w.a, and in w.gate, if `gradient`, 1 where the score passes a gradient.
inline void activations(const gc_problem &p, const Sizes &s, const Stored &stored, const Block &b, const Buffers &w,
                 int64_t piece, bool gradient) {
    const int64_t at = (b.kv_row * s.pieces + piece) * s.np * s.dp;
    const int64_t first_token = (s.first_piece + piece) * s.n;
    const float constant = p.cells.constant * p.score_scale;
#if defined(GC_INTEGERS)
    if (p.integer_factors) {
        const int64_t quads = s.dp / 4;
        bool begun = false;
        for (int64_t n = 0; n < 3; ++n) {
            const float *factors = p.integer_factors + n * p.ages + b.i0 - first_token + p.margin;
            if (n && p.integer_factors[n * p.ages + p.margin] == 0.0f) continue;  // a cell without this power
            const int8_t *powers = stored.power[n] + at;
            if (!begun)
                multiply_bytes(s.np, s.rp, quads, powers, s.dp, w.codes, [&](int64_t j, int64_t i, Vec sum) {
                    store(w.a + j * s.rp + i, fma(load(factors + i - j), sum, broadcast(constant) * load(w.x_sum + i)));
                });
            else
                multiply_bytes(s.np, s.rp, quads, powers, s.dp, w.codes, [&](int64_t j, int64_t i, Vec sum) {
                    float *to = w.a + j * s.rp + i;
                    store(to, fma(load(factors + i - j), sum, load(to)));
                });
            begun = true;
        }
    } else
#endif
    {
        make_slabs(p, s, p.cells, p.cells.key_mismatch, stored.key + at, false, first_token, b.i0, b.kv, w.slabs,
                   nullptr);
        for (int64_t n = 0; n < p.cells.count; ++n) {
            const float *factors = p.cells.row_factors + n * s.rp;
            const Vec scale = broadcast(p.score_scale);
            multiply(s.np, s.rp, s.dp, w.slabs + n * s.np * s.dp, s.dp, 1, w.xt, s.rp, [&](int64_t j, int64_t i, Vec sum) {
                float *to = w.a + j * s.rp + i;
                const Vec before = n ? load(to) : broadcast(constant) * load(w.x_sum + i);
                store(to, fma(load(factors + i) * scale, sum, before));
            });
        }
    }
    const gc_errors &e = p.errors;
    const bool disturbed = e.present && (e.score_gain || e.score_std > 0.0f || e.score_of_cell > 0.0f);
    const Draw read{e.seed, e.chip, e.layer, uint32_t(b.head), 0, GC_READ};
    const Draw jitter{e.seed, e.chip, e.layer, uint32_t(b.head), 1, GC_PULSE_JITTER};
    const float ceiling = p.score_ceiling ? 1.0f : INFINITY;
    const int32_t exponent = p.score_exponent;
    const Vec low = broadcast(p.score_margin), high = broadcast(p.score_ceiling ? 1.0f - p.score_margin : INFINITY);
    for (int64_t j = 0; j < s.np; ++j) {
        float *row = w.a + j * s.rp;
        const Seen seen = j < s.n ? seen_by(p, b, first_token + j) : Seen{0, 0};
        const int64_t column = (first_token + j) % p.columns;
        const float gain = disturbed && e.score_gain && j < s.n ? e.score_gain[b.kv * p.columns + column] : 1.0f;
        if (disturbed && seen.first < seen.last) {
            const Vec offset = broadcast(e.score_gain ? e.score_offset[b.kv * p.columns + column] : 0.0f);
            for (int64_t i = seen.first / kWidth * kWidth; i < seen.last; i += kWidth) {
                Vec score = e.score_gain ? fma(load(row + i), broadcast(gain), offset) : load(row + i);
                if (e.score_std > 0.0f || e.score_of_cell > 0.0f)
                    score = fma(noise_std(e.score_std, e.score_of_cell, load(w.x_squares + i)),
                                read.normals(uint32_t(column), 0, uint32_t(b.i0 + i)), score);
                store(row + i, score);
            }
        }
        if (gradient) {
            float *gate = w.gate + j * s.rp;
            for (int64_t i = 0; i < s.rp; i += kWidth) {
                const Vec score = load(row + i);
                Vec slope = broadcast(gain);
                if (exponent > 1) slope = slope * power(score, exponent - 1) * broadcast(float(exponent));
                store(gate + i, select((score > low) & (score < high), slope, broadcast(0.0f)));
            }
            for (int64_t i = 0; i < seen.first; ++i) gate[i] = 0.0f;
            for (int64_t i = seen.last; i < s.rp; ++i) gate[i] = 0.0f;
        }
        for (int64_t i = 0; i < s.rp; i += kWidth) {
            const Vec phi = clamp(load(row + i), 0.0f, ceiling);
            store(row + i, exponent == 1 ? phi : power(phi, exponent));
        }
        for (int64_t i = 0; i < seen.first; ++i) row[i] = 0.0f;
        for (int64_t i = seen.last; i < s.rp; ++i) row[i] = 0.0f;
        if (!e.present || e.jitter_std <= 0.0f) continue;
        for (int64_t i = seen.first / kWidth * kWidth; i < seen.last; i += kWidth) {
            const Vec a = load(row + i), zero = {};
            const Vec off = fma(broadcast(e.jitter_std), jitter.normals(uint32_t(column), 0, uint32_t(b.i0 + i)), a);
            store(row + i, select((a > zero) & (off > zero), off, zero));
        }
    }
}

// Output of query i of a block, whose digital sum is given in steps.
inline void write_out(const gc_problem &p, const Sizes &s, const Block &b, int64_t i, const float *sum) {
    const float unit = 1.0f / p.steps;
    const float gain = p.out_gain ? p.out_gain[b.head] : 1.0f, offset = p.out_gain ? p.out_offset[b.head] : 0.0f;
    const int64_t row = (b.bh * p.queries + b.i0 - p.first_query + i) * s.d;
    for (int64_t d = 0; d < s.d; d += kWidth) {
        const Vec total = load(sum + d) * unit;
        if (p.sum) store_some(p.sum + row + d, total, s.d - d);
        store_some(p.out + row + d, p.out_gain ? total * gain + offset : total, s.d - d);
    }
}

// Pieces that a block's window reaches, as numbers of stored pieces.
struct Reach {
    int64_t first, last;
};

inline Reach reach_of(const gc_problem &p, const Sizes &s, const Block &b) {
    const int64_t oldest = std::max(b.i0 - p.window + 1, p.first_key);
    return {oldest / s.n - s.first_piece, (b.i1 - 1) / s.n - s.first_piece};
}

}  // namespace
}  // namespace GC_LEVEL
}  // namespace gc
