// One query of every head against the ring, compiled once for every instruction level (GC_LEVEL).
//
//     S_s = sum_d x_d F_s(code_sd),   A_s = clamp(S_s / S_sat) where slot s is seen,
//     O_td = sum_{s in tile t} A_s F_s(code_sd),
//
// F_s: the charge of every level at the slot's age, a table of at most 16 numbers that all cells of a column share.
// The codes are all that is read of the ring, one byte a cell.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "shared.h"
#include "vector.h"

namespace gc {
namespace GC_LEVEL {
namespace {

// Charge of every level in every slot, [B, S, 16].
void fill_tables(const gc_step &p, float *tables) {
    float levels[GC_TABLE];
    for (int level = 0; level < GC_TABLE; ++level)
        levels[level] = (float(level) - 0.5f * float(p.storage_levels - 1)) * p.to_volts;
    for (int64_t s = 0; s < p.batch * p.slots; ++s)
        for (int64_t level = 0; level < GC_TABLE; level += kWidth) {
            const Vec u = load(levels + level) * p.left[s];
            Vec sum = broadcast(p.coefficients[p.order]);
            for (int64_t n = p.order - 1; n >= 0; --n) sum = fma(sum, u, broadcast(p.coefficients[n]));
            store(tables + s * GC_TABLE + level, sum);
        }
}

struct Row {
    const gc_step &p;
    const float *tables;  // of the sequence, [S, 16]
    const int32_t *tile_of;
    const uint8_t *keys, *values;  // of the head, [columns, D]
    int64_t d, dp;
    float *x;          // [D]
    float *pulses;     // [S + 3]
    int32_t *working;  // [S]: slots whose pulse is not zero
    float *charge;     // [tiles, D]
};

// F of cells d ... of one column; the last ones may lie beyond D.
inline Vec current(const Row &r, const float *table, const uint8_t *codes, int64_t d) {
    if (d + kWidth <= r.d) return look_up(table, codes + d);
    uint8_t rest[kWidth] = {};
    if (d < r.d) std::memcpy(rest, codes + d, size_t(r.d - d));
    return look_up(table, rest);
}

// W: vectors of a row, where D is a multiple of their width, so that they stay in registers; 0: any D.
template <int64_t W>
inline Vec score(const Row &r, int64_t s) {
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

// Pulses of all slots, and the list of those that are not zero.
template <int64_t W>
int64_t read_keys(const Row &r) {
    const gc_step &p = r.p;
    int64_t s = 0;
    for (; s + 4 <= p.slots; s += 4)
        sum_four(score<W>(r, s), score<W>(r, s + 1), score<W>(r, s + 2), score<W>(r, s + 3), r.pulses + s);
    for (; s < p.slots; ++s) sum_four(score<W>(r, s), Vec{}, Vec{}, Vec{}, r.pulses + s);
    int64_t count = 0;
    for (s = 0; s < p.slots; ++s) {
        const float phi = r.pulses[s] * p.score_scale;
        r.pulses[s] = p.score_ceiling && phi > 1.0f ? 1.0f : phi;
        r.working[count] = int32_t(s);
        count += (phi > 0.0f) & (r.tile_of[s] >= 0);
    }
    return count;
}

// Charge of every sub-tile; slots of one sub-tile mostly follow each other, and stay in registers meanwhile.
template <int64_t W, bool Whole>
void read_values(const Row &r, int64_t count, int64_t d0) {
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

// One query head: driver, key read, value read, readout, digital sum.
bool decode_head(const Row &r, const float *q, float *out) {
    const gc_step &p = r.p;
    Vec check = {};
    for (int64_t d = 0; d < r.dp; d += kWidth) {
        Vec code, x;
        const Vec width = load_some(q + d, r.d - d, 0.0f);
        check = check + (width - width);  // 0, or not a number
        drive(width, p.q_levels, &code, &x);
        store(r.x + d, x);
    }
    const int64_t vectors = r.d % kWidth ? 0 : r.d / kWidth;
    const int64_t count = vectors == 4    ? read_keys<4>(r)
                          : vectors == 8  ? read_keys<8>(r)
                          : vectors == 16 ? read_keys<16>(r)
                                          : read_keys<0>(r);
    std::memset(r.charge, 0, size_t(p.tiles * r.dp) * 4);
    constexpr int64_t wide = 4;
    int64_t d0 = 0;
    for (; d0 + wide * kWidth <= r.d; d0 += wide * kWidth) read_values<wide, true>(r, count, d0);
    for (; d0 < r.dp; d0 += kWidth) read_values<1, false>(r, count, d0);
    const float unit = 1.0f / p.steps;
    for (int64_t d = 0; d < r.dp; d += kWidth) {
        Vec sum = {};
        for (int64_t t = 0; t < p.tiles; ++t)
            sum = sum + digitised(load(r.charge + t * r.dp + d) * p.output_scale, p.output_ceiling != 0, p.steps, p.readout);
        sum = sum * unit;
        for (int64_t n = 0; n < kWidth && d + n < r.d; ++n) out[d + n] = sum[n];
    }
    return finite(check);
}

}  // namespace

int decode(const gc_step &p) {
    const int64_t dp = padded(p.dim), group = p.heads / p.kv_heads, slots = padded(p.slots + 3);
    const int64_t bytes = (dp + 2 * slots + p.tiles * dp) * 4;
    float *tables = reinterpret_cast<float *>(workspace(0, p.batch * p.slots * GC_TABLE * 4));
    if (!tables) return GC_NO_MEMORY;
    for (int t = 0; t < p.threads; ++t)
        if (!workspace(1 + t, bytes)) return GC_NO_MEMORY;
    if (p.table)
        std::memcpy(tables, p.table, size_t(p.batch * p.slots * GC_TABLE) * 4);
    else
        fill_tables(p, tables);
    std::atomic<bool> all_finite{true};
    parallel(p.threads, p.batch * p.heads, [&](int thread, int64_t item) {
        const int64_t batch = item / p.heads, kv = item % p.heads / group;
        const int64_t ring = (batch * p.kv_heads + kv) * p.columns * p.dim;
        float *own = reinterpret_cast<float *>(workspace(1 + thread, bytes));
        const Row row{p, tables + batch * p.slots * GC_TABLE, p.tile_of + batch * p.slots, p.key + ring, p.value + ring,
                      p.dim, dp, own, own + dp, reinterpret_cast<int32_t *>(own + dp + slots), own + dp + 2 * slots};
        if (!decode_head(row, p.q + item * p.dim, p.out + item * p.dim)) all_finite = false;
    });
    return all_finite ? GC_OK : GC_NOT_FINITE;
}

int write(const float *volts, int64_t rows, int64_t dim, uint8_t *ring, int64_t columns, int64_t position, int32_t levels,
          float low, float high, float middle, float to_code) {
    const Dac dac{low, high, middle, levels, to_code, 1.0f};
    Vec check = {};
    for (int64_t row = 0; row < rows; ++row) {
        uint8_t *codes = ring + (row * columns + position) * dim;
        for (int64_t d = 0; d < dim; d += kWidth) {
            Vec code, u;
            const Vec requested = load_some(volts + row * dim + d, dim - d, 0.0f);
            check = check + (requested - requested);  // 0, or not a number
            dac.convert(requested, &code, &u);
            for (int64_t n = 0; n < std::min(kWidth, dim - d); ++n) codes[d + n] = uint8_t(int32_t(code[n]));
        }
    }
    return finite(check) ? GC_OK : GC_NOT_FINITE;
}

}  // namespace GC_LEVEL
}  // namespace gc
