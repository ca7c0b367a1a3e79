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
    const float middle = 0.5f * float(p.storage_levels - 1);
    for (int64_t s = 0; s < p.batch * p.slots; ++s)
        for (int64_t level = 0; level < GC_TABLE; ++level) {
            const float u = (float(level) - middle) * p.to_volts * p.left[s];
            float sum = p.coefficients[p.order];
            for (int64_t n = p.order - 1; n >= 0; --n) sum = sum * u + p.coefficients[n];
            tables[s * GC_TABLE + level] = sum;
        }
}

struct Row {
    const gc_step &p;
    const float *tables;
    int64_t d, dp, group;
    float *x, *charge;  // [g, D], [g, tiles, D]
};

// F of one column's cells, in registers of at most kWidth cells; the last ones may lie beyond D.
inline Vec current(const Row &r, const float *table, const uint8_t *codes, int64_t d) {
    if (d + kWidth <= r.d) return look_up(table, codes + d);
    uint8_t rest[kWidth] = {};
    if (d < r.d) std::memcpy(rest, codes + d, size_t(r.d - d));
    return look_up(table, rest);
}

bool decode_head(const Row &r, int64_t batch, int64_t kv) {
    const gc_step &p = r.p;
    const uint8_t *keys = p.key + (batch * p.kv_heads + kv) * p.columns * r.d;
    const uint8_t *values = p.value + (batch * p.kv_heads + kv) * p.columns * r.d;
    const int32_t *tile_of = p.tile_of + batch * p.slots;
    bool finite = true;
    std::memset(r.x, 0, size_t(r.group * r.dp) * 4);
    for (int64_t g = 0; g < r.group; ++g)
        for (int64_t d = 0; d < r.d; ++d) {
            int32_t code;
            const float width = p.q[(batch * p.heads + kv * r.group + g) * r.d + d];
            finite &= drive_query(width, p.q_levels, &code, r.x + g * r.dp + d);
        }
    std::memset(r.charge, 0, size_t(r.group * p.tiles * r.dp) * 4);
    for (int64_t s = 0; s < p.slots; ++s) {
        if (tile_of[s] < 0) continue;
        const float *table = r.tables + (batch * p.slots + s) * GC_TABLE;
        const uint8_t *key = keys + p.positions[s] * r.d, *value = values + p.positions[s] * r.d;
        bool any = false;
        float pulse[64];
        for (int64_t g0 = 0; g0 < r.group; g0 += 64) {
            const int64_t g1 = std::min<int64_t>(r.group, g0 + 64);
            for (int64_t g = g0; g < g1; ++g) {
                Vec sum = {};
                for (int64_t d = 0; d < r.dp; d += kWidth) sum = fma(load(r.x + g * r.dp + d), current(r, table, key, d), sum);
                const float score = total(sum) * p.score_scale;
                pulse[g - g0] = !(score > 0.0f) ? 0.0f : p.score_ceiling && score > 1.0f ? 1.0f : score;
                any |= pulse[g - g0] > 0.0f;
            }
            if (!any) continue;
            for (int64_t d = 0; d < r.dp; d += kWidth) {
                const Vec charge = current(r, table, value, d);
                for (int64_t g = g0; g < g1; ++g) {
                    float *to = r.charge + (g * p.tiles + tile_of[s]) * r.dp + d;
                    store(to, fma(broadcast(pulse[g - g0]), charge, load(to)));
                }
            }
        }
    }
    const float unit = 1.0f / p.steps;
    for (int64_t g = 0; g < r.group; ++g) {
        float *out = p.out + (batch * p.heads + kv * r.group + g) * r.d;
        for (int64_t d = 0; d < r.dp; d += kWidth) {
            Vec sum = {};
            for (int64_t t = 0; t < p.tiles; ++t)
                sum = sum + digitised(load(r.charge + (g * p.tiles + t) * r.dp + d) * p.output_scale,
                                      p.output_ceiling != 0, p.steps, p.readout);
            sum = sum * unit;
            for (int64_t n = 0; n < kWidth && d + n < r.d; ++n) out[d + n] = sum[n];
        }
    }
    return finite;
}

}  // namespace

int decode(const gc_step &p) {
    const int64_t dp = padded(p.dim), group = p.heads / p.kv_heads;
    const int64_t floats = group * dp + group * p.tiles * dp;
    float *tables = reinterpret_cast<float *>(workspace(0, p.batch * p.slots * GC_TABLE * 4));
    if (!tables) return GC_NO_MEMORY;
    for (int t = 0; t < p.threads; ++t)
        if (!workspace(1 + t, floats * 4)) return GC_NO_MEMORY;
    if (p.table)
        std::memcpy(tables, p.table, size_t(p.batch * p.slots * GC_TABLE) * 4);
    else
        fill_tables(p, tables);
    std::atomic<bool> finite{true};
    parallel(p.threads, p.batch * p.kv_heads, [&](int thread, int64_t item) {
        float *own = reinterpret_cast<float *>(workspace(1 + thread, floats * 4));
        const Row row{p, tables, p.dim, dp, group, own, own + group * dp};
        if (!decode_head(row, item / p.kv_heads, item % p.kv_heads)) finite = false;
    });
    return finite ? GC_OK : GC_NOT_FINITE;
}

}  // namespace GC_LEVEL
}  // namespace gc
