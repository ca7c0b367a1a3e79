// One query of every head against the ring, compiled once for every instruction level (GC_LEVEL).
//
//     S_s = sum_d x_d F_s(code_sd),   A_s = clamp(S_s / S_sat) where slot s is seen,
//     O_td = sum_{s in tile t} A_s F_s(code_sd),
//
// F_s: the charge of every level at the slot's age, a table of at most 16 numbers that all cells of a column share.
// The codes are all that is read of the ring, one byte a cell. Where cells are cubic and powers of the codes fit a byte,
// S_s is summed in integers, exact: with X = 2 code - top, u = X h (h: half a step at the slot's age), and c_n the cell,
//
//     sum_d x_d F(code_d) = (c_0 sum Q + (c_1 h + c_3 h^3 top^2) Q.X + c_2 h^2 Q.X^2 + c_3 h^3 third Q.U) / (levels of q),
//     U = (X^3 - top^2 X) / third.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>

#include "block.h"

namespace gc {
namespace GC_LEVEL {
namespace {

// Charge of every level in every slot of a sequence, at its place in [B, S, 16]; where cells differ, what is left of its
// voltage.
void fill_tables(const gc_step &p, int64_t batch, float *tables) {
    float levels[GC_TABLE];
    for (int level = 0; level < GC_TABLE; ++level)
        levels[level] = (float(level) - 0.5f * float(p.storage_levels - 1)) * p.to_volts;
    for (int64_t s = batch * p.slots; s < (batch + 1) * p.slots; ++s)
        for (int64_t level = 0; level < GC_TABLE; level += kWidth) {
            const Vec u = load(levels + level) * p.left[s];
            if (p.cells.key_mismatch) {
                store(tables + s * GC_TABLE + level, u);
                continue;
            }
            Vec sum = broadcast(p.coefficients[p.order]);
            for (int64_t n = p.order - 1; n >= 0; --n) sum = fma(sum, u, broadcast(p.coefficients[n]));
            store(tables + s * GC_TABLE + level, sum);
        }
}

// Numbers of every cell that differs.
inline int64_t parts_of(const gc_cells &cells) { return cells.kind == GC_CURVE ? 3 : cells.count; }

// The key read in integers: see the head of this file.
struct Integers {
    bool possible = false;
    int8_t planes[3][16] = {};  // X, X^2 and U of every level
    int32_t third = 0;

    explicit Integers(const gc_step &p) {
        const int32_t levels = p.storage_levels, top = levels - 1;
        if (p.table || p.cells.key_mismatch || p.order > 3 || p.q_levels < 2 || p.q_levels > 256 || levels < 2) return;
        if (p.dim != 64 && p.dim != 128) return;
        for (int32_t n = 0; n < levels; ++n) {
            const int32_t x = 2 * n - top;
            third = std::gcd(third, x * x * x - top * top * x);
        }
        third = std::max(third, 1);
        possible = true;
        for (int32_t n = 0; n < levels; ++n) {
            const int32_t x = 2 * n - top, values[3] = {x, x * x, (x * x * x - top * top * x) / third};
            for (int plane = 0; plane < 3; ++plane) {
                possible &= values[plane] <= 127 && values[plane] >= -127;
                planes[plane][n] = int8_t(values[plane]);
            }
        }
#if !defined(GC_INTEGERS)
        possible = false;
#endif
    }

    // Factors of Q.X, Q.X^2 and Q.U in every slot of a sequence, in units of S_sat, at its place in [B, S, 4].
    void fill(const gc_step &p, int64_t batch, float *factors) const {
        float c[4] = {};
        for (int32_t n = 0; n <= p.order; ++n) c[n] = p.coefficients[n] * p.score_scale / float(p.q_levels - 1);
        const float top = float(p.storage_levels - 1);
        for (int64_t s = batch * p.slots; s < (batch + 1) * p.slots; ++s) {
            const float h = 0.5f * p.to_volts * p.left[s], h3 = h * h * h;
            factors[4 * s] = c[1] * h + c[3] * h3 * top * top;
            factors[4 * s + 1] = c[2] * h * h;
            factors[4 * s + 2] = c[3] * h3 * float(third);
        }
    }
};

struct Head {
    const gc_step &p;
    int64_t head, kv, batch;
    const Integers &integers;
    const float *factors;  // of the sequence, [S, 4], where integers are possible
    const float *tables;  // of the sequence, [S, 16]
    const int32_t *tile_of;
    const uint8_t *keys, *values;  // of the head, [columns, D]
    int64_t d, dp;
    float *x;          // [D]
    uint8_t *q;        // [D]: codes of x
    float *pulses;     // [S], and room for a vector more
    int32_t *working;  // likewise: slots whose pulse is not zero
    float *charge;     // [tiles, D]
};

// F of cells d ... of a column that differ, own: see gaincell_native.h.
inline Vec own_current(const gc_cells &cells, const float *own, Vec v, int64_t d, int64_t dim) {
    const auto part = [&](int64_t n) { return load_some(own + n * dim + d, dim - d, 0.0f); };
    if (cells.kind == GC_CURVE) {
        Vec value, slope;
        evaluate(cells, v + part(1), &value, &slope);
        return fma(value, part(0), part(2));
    }
    Vec sum = broadcast(cells.constant), power = broadcast(1.0f);
    for (int32_t n = 0, reached = 0; n < cells.count; ++n) {
        for (; reached < cells.orders[n]; ++reached) power = power * v;
        sum = fma(part(n), power, sum);
    }
    return sum;
}

// F of cells d ... of one column; the last ones may lie beyond D.
inline Vec current(const Head &r, const float *table, const uint8_t *codes, int64_t d) {
    if (d + kWidth <= r.d) return look_up(table, codes + d);
    uint8_t rest[kWidth] = {};
    if (d < r.d) std::memcpy(rest, codes + d, size_t(r.d - d));
    return look_up(table, rest);
}

// W: vectors of a row, where D is a multiple of their width, so that they stay in registers; 0: any D.
template <int64_t W>
inline Vec score(const Head &r, int64_t s) {
    const float *table = r.tables + s * GC_TABLE;
    Vec sum = {};
    if (W) {
        const uint8_t *codes = r.keys + r.p.positions[s] * (W * kWidth);
        for (int64_t w = 0; w < W; ++w)
            sum = fma(load(r.x + w * kWidth), look_up(table, codes + w * kWidth), sum);
    } else {
        const uint8_t *codes = r.keys + r.p.positions[s] * r.d;
        for (int64_t d = 0; d < r.dp; d += kWidth) sum = fma(load(r.x + d), current(r, table, codes, d), sum);
    }
    return sum;
}

#if defined(GC_INTEGERS)
// C: runs of 64 codes of a row.
template <int64_t C>
struct IntegerScore {
    const Head &r;
    __m512i planes[3], q[C];
    explicit IntegerScore(const Head &row) : r(row) {
        for (int n = 0; n < 3; ++n)
            planes[n] = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(r.integers.planes[n])));
        for (int64_t c = 0; c < C; ++c) q[c] = _mm512_loadu_si512(r.q + 64 * c);
    }
    Vec operator()(int64_t s) const {
        const uint8_t *codes = r.keys + r.p.positions[s] * (64 * C);
        const float *factors = r.factors + 4 * s;
        __m512i sum[3] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
        for (int64_t c = 0; c < C; ++c) {
            const __m512i code = _mm512_loadu_si512(codes + 64 * c);
            for (int n = 0; n < 3; ++n) sum[n] = _mm512_dpbusd_epi32(sum[n], q[c], _mm512_shuffle_epi8(planes[n], code));
        }
        Vec total = (Vec)_mm512_cvtepi32_ps(sum[0]) * factors[0];
        total = fma((Vec)_mm512_cvtepi32_ps(sum[1]), broadcast(factors[1]), total);
        return fma((Vec)_mm512_cvtepi32_ps(sum[2]), broadcast(factors[2]), total);
    }
};
#endif

// Scores of slots s ... with the errors and noise of their converters.
inline Vec disturbed(const Head &r, Vec score, int64_t s) {
    const gc_errors &e = r.p.errors;
    IntVec column;
    for (int64_t n = 0; n < kWidth; ++n) column[n] = r.p.positions[std::min(s + n, r.p.slots - 1)];
    if (e.score_gain) {
        const int64_t first = r.kv * r.p.columns;
        score = fma(score, gather(e.score_gain + first, column), gather(e.score_offset + first, column));
    }
    if (!(e.score_std > 0.0f || e.score_of_cell > 0.0f)) return score;
    const Draw draw{e.seed, e.chip, e.layer, uint32_t(r.head), 0, GC_READ};
    Vec squares = {};
    for (int64_t d = 0; d < r.dp; d += kWidth) squares = fma(load(r.x + d), load(r.x + d), squares);
    const Vec std = noise_std(e.score_std, e.score_of_cell, broadcast(sum_of(squares)));
    return fma(std, draw.normals((Word)column, Word{}, Word{} + r.p.query_tokens[r.batch]), score);
}

// Charge of the sub-tiles that are read, in readout steps, with the errors and noise of their converters.
void disturb_charge(const Head &r, int64_t count) {
    const gc_step &p = r.p;
    const gc_errors &e = p.errors;
    const Draw draw{e.seed, e.chip, e.layer, uint32_t(r.head), 1, GC_READ};
    for (int64_t t = 0; t < p.tiles; ++t) {
        float squares = 0.0f;
        bool read = false;
        for (int64_t n = 0; n < count; ++n)
            if (r.tile_of[r.working[n]] == t) squares += r.pulses[r.working[n]] * r.pulses[r.working[n]];
        for (int64_t s = 0; s < p.slots && !read; ++s) read = r.tile_of[s] == t;
        if (!read) continue;
        const int64_t own = (r.kv * p.tiles + t) * r.d;
        const Vec std = noise_std(e.output_std, e.output_of_cell, broadcast(squares));
        for (int64_t d = 0; d < r.d; d += kWidth) {
            float *charge = r.charge + t * r.dp + d;
            Vec o = load(charge);
            if (e.output_gain)
                o = fma(o, load_some(e.output_gain + own + d, r.d - d, 1.0f), load_some(e.output_offset + own + d, r.d - d, 0.0f));
            if (e.output_std > 0.0f || e.output_of_cell > 0.0f)
                o = fma(std, draw.normals(Word{} + uint32_t(t), Draw::counted() + uint32_t(d), Word{} + p.query_tokens[r.batch]), o);
            store(charge, o);
        }
    }
}

// Pulses of all slots, score * scale + offset before the ceiling; the list of those that are not zero, and its length.
template <class Score>
inline int64_t read_keys(const Head &r, const Score &score, float scale, float offset) {
    const int64_t slots = r.p.slots;
    int64_t count = 0;
    for (int64_t s0 = 0; s0 < slots; s0 += kWidth) {
        const bool whole = s0 + kWidth <= slots;
        Vec sums[kWidth];
#pragma GCC unroll 4
        for (int64_t n = 0; n < kWidth; ++n) sums[n] = whole || s0 + n < slots ? score(s0 + n) : Vec{};
        Vec phi = fma(sum_each(sums), broadcast(scale), broadcast(offset));
        if (r.p.errors.present) phi = disturbed(r, phi, s0);
        if (r.p.score_ceiling) phi = select(phi > broadcast(1.0f), broadcast(1.0f), phi);
        if (r.p.score_exponent > 1) phi = power(select(phi > broadcast(0.0f), phi, broadcast(0.0f)), r.p.score_exponent);
        store(r.pulses + s0, phi);
        IntVec tile;
        if (whole)
            std::memcpy(&tile, r.tile_of + s0, sizeof tile);
        else
            for (int64_t n = 0; n < kWidth; ++n) tile[n] = s0 + n < slots ? r.tile_of[s0 + n] : -1;
        count += list(int32_t(s0), (phi > broadcast(0.0f)) & (tile >= IntVec{}), r.working + count);
    }
    return count;
}

int64_t read_keys(const Head &r) {
    const gc_step &p = r.p;
#if defined(GC_INTEGERS)
    if (r.integers.possible) {
        int32_t sum = 0;
        for (int64_t d = 0; d < r.d; ++d) sum += r.q[d];
        const float offset = float(sum) * (p.coefficients[0] * p.score_scale / float(p.q_levels - 1));
        return r.d == 64 ? read_keys(r, IntegerScore<1>(r), 1.0f, offset) : read_keys(r, IntegerScore<2>(r), 1.0f, offset);
    }
#endif
    if (p.cells.key_mismatch) {
        const auto own = [&](int64_t s) {
            const uint8_t *codes = r.keys + p.positions[s] * r.d;
            const float *cells = p.cells.key_mismatch + (r.kv * p.columns + p.positions[s]) * parts_of(p.cells) * r.d;
            Vec sum = {};
            for (int64_t d = 0; d < r.dp; d += kWidth) {
                const Vec v = current(r, r.tables + s * GC_TABLE, codes, d);
                sum = fma(load(r.x + d), own_current(p.cells, cells, v, d, r.d), sum);
            }
            return sum;
        };
        return read_keys(r, own, p.score_scale, 0.0f);
    }
    switch (r.d % kWidth ? 0 : r.d / kWidth) {
        case 4: return read_keys(r, [&](int64_t s) { return score<4>(r, s); }, p.score_scale, 0.0f);
        case 8: return read_keys(r, [&](int64_t s) { return score<8>(r, s); }, p.score_scale, 0.0f);
        case 16: return read_keys(r, [&](int64_t s) { return score<16>(r, s); }, p.score_scale, 0.0f);
        default: return read_keys(r, [&](int64_t s) { return score<0>(r, s); }, p.score_scale, 0.0f);
    }
}

// Charge of every sub-tile; slots of one sub-tile mostly follow each other, and stay in registers meanwhile.
template <int64_t W, bool Whole>
void read_values(const Head &r, int64_t count, int64_t d0) {
    for (int64_t n = 0; n < count;) {
        const int32_t tile = r.tile_of[r.working[n]];
        float *to = r.charge + tile * r.dp + d0;
        Vec sum[W];
        for (int64_t w = 0; w < W; ++w) sum[w] = load(to + w * kWidth);
        for (; n < count && r.tile_of[r.working[n]] == tile; ++n) {
            const int64_t s = r.working[n];
            const Vec pulse = broadcast(r.pulses[s]);
            const uint8_t *codes = r.values + r.p.positions[s] * r.d;
            const float *table = r.tables + s * GC_TABLE;
            for (int64_t w = 0; w < W; ++w) {
                const int64_t d = d0 + w * kWidth;
                sum[w] = fma(pulse, Whole ? look_up(table, codes + d) : current(r, table, codes, d), sum[w]);
            }
        }
        for (int64_t w = 0; w < W; ++w) store(to + w * kWidth, sum[w]);
    }
}

// The same of cells that differ.
void read_own_values(const Head &r, int64_t count) {
    const gc_step &p = r.p;
    for (int64_t n = 0; n < count; ++n) {
        const int64_t s = r.working[n], column = p.positions[s];
        const float *cells = p.cells.value_mismatch + (r.kv * p.columns + column) * parts_of(p.cells) * r.d;
        for (int64_t d = 0; d < r.dp; d += kWidth) {
            float *to = r.charge + r.tile_of[s] * r.dp + d;
            const Vec v = current(r, r.tables + s * GC_TABLE, r.values + column * r.d, d);
            store(to, fma(broadcast(r.pulses[s]), own_current(p.cells, cells, v, d, r.d), load(to)));
        }
    }
}

// One query head: driver, key read, value read, readout, digital sum.
bool decode_head(const Head &r, const float *q, float *out) {
    const gc_step &p = r.p;
    const Row asked(q, p.q_gain, p.q_offset, r.head);
    Vec check = {};
    for (int64_t d = 0; d < r.dp; d += kWidth) {
        Vec code, x;
        const Vec width = asked.at(d, r.d, 0.0f);
        check = check + (width - width);  // 0, or not a number
        drive(width, p.q_levels, &code, &x);
        store(r.x + d, x);
        for (int64_t n = 0; n < kWidth; ++n) r.q[d + n] = uint8_t(int32_t(code[n]));
    }
    std::fill(r.x + r.d, r.x + r.dp, 0.0f);  // an offset has reached what is no component
    const int64_t count = read_keys(r);
    std::memset(r.charge, 0, size_t(p.tiles * r.dp) * 4);
    constexpr int64_t wide = 4;
    int64_t d0 = 0;
    if (p.cells.key_mismatch) read_own_values(r, count), d0 = r.dp;
    for (; d0 + wide * kWidth <= r.d; d0 += wide * kWidth) read_values<wide, true>(r, count, d0);
    for (; d0 < r.dp; d0 += kWidth) read_values<1, false>(r, count, d0);
    for (int64_t d = 0; d < p.tiles * r.dp; d += kWidth) store(r.charge + d, load(r.charge + d) * p.output_scale);
    if (p.errors.present) disturb_charge(r, count);
    const float unit = 1.0f / p.steps;
    const float gain = p.out_gain ? p.out_gain[r.head] : 1.0f, offset = p.out_gain ? p.out_offset[r.head] : 0.0f;
    for (int64_t d = 0; d < r.dp; d += kWidth) {
        Vec sum = {};
        for (int64_t t = 0; t < p.tiles; ++t)
            sum = sum + digitised(load(r.charge + t * r.dp + d), p.output_ceiling != 0, p.steps, p.readout);
        sum = sum * unit;
        store_some(out + d, p.out_gain ? sum * gain + offset : sum, r.d - d);
    }
    return finite(check);
}

}  // namespace

int decode(const gc_step &p) {
    const int64_t dp = padded(p.dim), group = p.heads / p.kv_heads, slots = padded(p.slots) + kWidth;
    const int64_t bytes = (2 * dp + 2 * slots + p.tiles * dp) * 4;
    float *tables = reinterpret_cast<float *>(workspace(0, p.batch * p.slots * (GC_TABLE + 4) * 4));
    if (!tables) return GC_NO_MEMORY;
    float *factors = tables + p.batch * p.slots * GC_TABLE;
    const Integers integers(p);
    for (int t = 0; t < p.threads; ++t)
        if (!workspace(1 + t, bytes)) return GC_NO_MEMORY;
    parallel(p.threads, p.batch, [&](int, int64_t batch) {
        const int64_t at = batch * p.slots * GC_TABLE;
        if (integers.possible) integers.fill(p, batch, factors);
        if (p.table)
            std::memcpy(tables + at, p.table + at, size_t(p.slots * GC_TABLE) * 4);
        else
            fill_tables(p, batch, tables);
    });
    std::atomic<bool> all_finite{true};
    parallel(p.threads, p.batch * p.heads, [&](int thread, int64_t item) {
        const int64_t batch = item / p.heads, kv = item % p.heads / group;
        const int64_t ring = (batch * p.kv_heads + kv) * p.columns * p.dim;
        float *own = reinterpret_cast<float *>(workspace(1 + thread, bytes));
        const Head row{p, item % p.heads, kv, batch, integers, factors + batch * p.slots * 4, tables + batch * p.slots * GC_TABLE,
                      p.tile_of + batch * p.slots, p.key + ring, p.value + ring, p.dim, dp,
                      own, reinterpret_cast<uint8_t *>(own + dp), own + 2 * dp,
                      reinterpret_cast<int32_t *>(own + 2 * dp + slots), own + 2 * dp + 2 * slots};
        if (!decode_head(row, p.q + item * p.dim, p.out + item * p.dim)) all_finite = false;
    });
    return all_finite ? GC_OK : GC_NOT_FINITE;
}

int write(const gc_tokens &p) {
    const Dac dac{p.low, p.high, p.middle, p.levels, p.to_code, 1.0f};
    Vec check = {};
    for (int64_t row = 0; row < p.batch * p.heads; ++row)
        for (int64_t t = std::max<int64_t>(0, p.tokens - p.columns); t < p.tokens; ++t) {
            const Row asked(p.volts + (row * p.tokens + t) * p.dim, p.gain, p.offset, row % p.heads);
            uint8_t *codes = p.ring + (row * p.columns + (p.position + t) % p.columns) * p.dim;
            for (int64_t d = 0; d < p.dim; d += kWidth) {
                Vec code, u;
                const Vec volts = asked.at(d, p.dim, 0.0f);
                check = check + (volts - volts);  // 0, or not a number
                dac.convert(volts, &code, &u);
                for (int64_t n = 0; n < std::min(kWidth, p.dim - d); ++n) codes[d + n] = uint8_t(int32_t(code[n]));
            }
        }
    return finite(check) ? GC_OK : GC_NOT_FINITE;
}

}  // namespace GC_LEVEL
}  // namespace gc
