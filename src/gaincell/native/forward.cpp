// Forward pass of gain-cell attention, compiled once for every instruction level (GC_LEVEL).
//
// A block of R queries visits the pieces of N columns that its window reaches, newest first within a physical
// sub-tile; pieces of two laps in one sub-tile share their charge. Per block and piece, with columns j of the piece
// and queries i of the block, everything stays in a core's cache:
//
//     S^T[j][i] = sum_n row_n(i) (K_n X^T)[j][i] + C0 sum_d x_id,   A^T = clamp(S^T / S_sat) where j is seen
//     O[i][d]   = sum_n row_n(i) (A V_n)[i][d] + C0 sum_j A_ij
//
// then saturation, readout and the digital sum. At the default levels the first product is done in integers and
// exact. No sum depends on the number of threads.
#include <atomic>

#include "block.h"

namespace gc {
namespace GC_LEVEL {
namespace {

// O of one piece, in readout steps, added to w.charge.
void add_charge(const gc_problem &p, const Sizes &s, const Stored &stored, const Block &b, const Buffers &w,
                int64_t piece) {
    const int64_t at = (b.kv_row * s.pieces + piece) * s.np * s.dp;
    make_slabs(p, s, p.cells, p.cells.value_mismatch, stored.value + at, false, (s.first_piece + piece) * s.n, b.i0,
               b.kv, w.slabs, nullptr);
    for (int64_t n = 0; n < p.cells.count; ++n) {
        const float *factors = p.cells.row_factors + n * s.rp;
        multiply(s.rp, s.dp, s.np, w.a, 1, s.rp, w.slabs + n * s.np * s.dp, s.dp, [&](int64_t i, int64_t d, Vec sum) {
            float *to = w.charge + i * s.dp + d;
            store(to, fma(broadcast(factors[i] * p.output_scale), sum, load(to)));
        });
    }
    if (p.cells.constant == 0.0f) return;
    std::memset(w.a_sum, 0, size_t(s.rp) * 4);
    for (int64_t j = 0; j < s.np; ++j)
        for (int64_t i = 0; i < s.rp; i += kWidth)
            store(w.a_sum + i, load(w.a_sum + i) + load(w.a + j * s.rp + i));
    for (int64_t i = 0; i < s.rp; ++i) {
        const Vec added = broadcast(w.a_sum[i] * (p.cells.constant * p.output_scale));
        for (int64_t d = 0; d < s.dp; d += kWidth) store(w.charge + i * s.dp + d, load(w.charge + i * s.dp + d) + added);
    }
}

// Saturate and digitise w.charge, add it to w.sum, and note where it was not saturated.
void read_out(const gc_problem &p, const Sizes &s, const Block &b, const Buffers &w, int64_t tile) {
    const float edge = p.output_ceiling ? p.steps * (1.0f - p.output_margin) : INFINITY;
    for (int64_t i = 0; i < b.i1 - b.i0; ++i) {
        if (p.open) {
            uint8_t *open = p.open + ((b.bh * p.queries + b.i0 - p.first_query + i) * s.tiles + tile) * s.open_bytes;
            for (int64_t byte = 0; byte < s.open_bytes; ++byte) {
                unsigned bits = 0;
                for (int64_t bit = 0; bit < 8; ++bit)
                    bits |= unsigned(std::fabs(w.charge[i * s.dp + 8 * byte + bit]) < edge) << bit;
                open[byte] = uint8_t(bits);
            }
        }
        for (int64_t d = 0; d < s.dp; d += kWidth) {
            const Vec o = digitised(load(w.charge + i * s.dp + d), p.output_ceiling, p.steps, p.readout);
            store(w.sum + i * s.dp + d, load(w.sum + i * s.dp + d) + o);
        }
    }
}

bool forward_block(const gc_problem &p, const Sizes &s, const Stored &stored, const Block &b, const Buffers &w) {
    const bool all_finite = drive_queries(p, s, b, w);
    if (!p.integer_factors) transpose(w.x, s.rp, s.dp, w.xt);
    std::memset(w.sum, 0, size_t(s.rp * s.dp) * 4);
    const Reach reach = reach_of(p, s, b);
    for (int64_t newest = std::max(reach.first, reach.last - s.tiles + 1); newest <= reach.last; ++newest) {
        std::memset(w.charge, 0, size_t(s.rp * s.dp) * 4);
        for (int64_t piece = newest; piece >= reach.first; piece -= s.tiles) {
            activations(p, s, stored, b, w, piece, false);
            add_charge(p, s, stored, b, w, piece);
        }
        read_out(p, s, b, w, (s.first_piece + newest) % s.tiles);
    }
    const float unit = 1.0f / p.steps;
    const float gain = p.out_gain ? p.out_gain[b.head] : 1.0f, offset = p.out_gain ? p.out_offset[b.head] : 0.0f;
    for (int64_t i = 0; i < b.i1 - b.i0; ++i) {
        float *out = p.out + (b.bh * p.queries + b.i0 - p.first_query + i) * s.d;
        for (int64_t d = 0; d < s.d; ++d) {
            const float total = w.sum[i * s.dp + d] * unit;
            out[d] = p.out_gain ? total * gain + offset : total;
        }
    }
    return all_finite;
}

}  // namespace

int forward(const gc_problem &p) {
    const Sizes s(p);
    char *memory = workspace(0, Stored::bytes(p, s));
    if (!memory) return GC_NO_MEMORY;
    const Stored stored(p, s, memory);
    const int64_t bytes = Buffers::bytes(s, p.cells.count, 0);
    for (int t = 0; t < p.threads; ++t)
        if (!workspace(1 + t, bytes)) return GC_NO_MEMORY;
    if (p.open) std::memset(p.open, 0, size_t(p.batch * p.heads * p.queries * s.tiles * s.open_bytes));
    std::atomic<bool> all_finite{true};
    parallel(p.threads, p.batch * p.kv_heads, [&](int, int64_t head) {
        if (!write_keys_and_values(p, s, stored, head)) all_finite = false;
    });
    parallel(p.threads, p.batch * p.heads * s.blocks, [&](int thread, int64_t item) {
        const Buffers w(s, p.cells.count, 0, workspace(1 + thread, bytes));
        if (!forward_block(p, s, stored, block_of(p, s, item / s.blocks, item % s.blocks), w)) all_finite = false;
    });
    return all_finite ? GC_OK : GC_NOT_FINITE;
}

}  // namespace GC_LEVEL
}  // namespace gc
