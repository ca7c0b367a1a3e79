// Forward pass of gain-cell attention, compiled once for every instruction level (GC_LEVEL).
//
// A block of R queries visits the pieces of N columns that its window reaches, newest first within a physical
// sub-tile; pieces of two laps in one sub-tile share their charge. Per block and piece, with columns j of the piece
// and queries i of the block, everything stays in a core's cache:
//
//     S^T[j][i] = sum_n row_n(i) (K_n X^T)[j][i] + C0 sum_d x_id,   A^T = clamp(S^T / S_sat) where j is seen
//     O^T[d][i] = sum_n row_n(i) (V_n^T A^T)[d][i] + C0 sum_j A_ij
//
// then saturation, readout and the digital sum. At the default levels the first product is done in integers and
// exact. No sum depends on the number of threads.
#include <atomic>

#include "integer_forward.h"

namespace gc {
namespace GC_LEVEL {
namespace {

// What C0 adds to w.charge.
void add_constant(const gc_problem &p, const Sizes &s, const Buffers &w) {
    if (p.cells.constant == 0.0f) return;
    const Vec constant = broadcast(p.cells.constant * p.output_scale);
    for (int64_t i = 0; i < s.rp; i += kWidth) {
        Vec sum = {};
        for (int64_t j = 0; j < s.np; ++j) sum = sum + load(w.a + j * s.rp + i);
        for (int64_t d = 0; d < s.dp; ++d) store(w.charge + d * s.rp + i, fma(sum, constant, load(w.charge + d * s.rp + i)));
    }
}

// O^T of one piece, in readout steps, added to w.charge.
void add_charge(const gc_problem &p, const Sizes &s, const Stored &stored, const Block &b, const Buffers &w,
                int64_t piece) {
    const int64_t at = (b.kv_row * s.pieces + piece) * s.np * s.dp;
    make_slabs(p, s, p.cells, p.cells.value_mismatch, stored.value + at, false, (s.first_piece + piece) * s.n, b.i0,
               b.kv, w.slabs, nullptr);
    const Vec scale = broadcast(p.output_scale);
    for (int64_t n = 0; n < p.cells.count; ++n) {
        const float *factors = p.cells.row_factors + n * s.rp;
        multiply(s.dp, s.rp, s.np, w.slabs + n * s.np * s.dp, 1, s.dp, w.a, s.rp, [&](int64_t d, int64_t i, Vec sum) {
            float *to = w.charge + d * s.rp + i;
            store(to, fma(load(factors + i) * scale, sum, load(to)));
        });
    }
    add_constant(p, s, w);
}

// What is to be known of a piece's pulses before its sub-tile is read: see disturb_charge.
void note_pulses(const gc_problem &p, const Sizes &s, const Block &b, const Buffers &w, int64_t piece) {
    const int64_t begin = std::max((s.first_piece + piece) * s.n, p.first_key);
    const int64_t end = std::min((s.first_piece + piece + 1) * s.n, p.first_key + p.keys);
    for (int64_t i = std::max(b.i0, begin); i < std::min(b.i1, end - 1 + p.window); ++i) w.read[i - b.i0] = 1.0f;
    if (p.errors.output_of_cell <= 0.0f) return;
    for (int64_t i = 0; i < s.rp; i += kWidth) {
        Vec squares = load(w.a_squares + i);
        for (int64_t j = 0; j < s.np; ++j) squares = fma(load(w.a + j * s.rp + i), load(w.a + j * s.rp + i), squares);
        store(w.a_squares + i, squares);
    }
}

// Errors and noise of the converters of one sub-tile; none of it where no token is seen, which is not read.
void disturb_charge(const gc_problem &p, const Sizes &s, const Block &b, const Buffers &w, int64_t tile) {
    const gc_errors &e = p.errors;
    const Draw draw{e.seed, e.chip, e.layer, uint32_t(b.head), 1, GC_READ};
    for (int64_t d = 0; d < s.d; ++d) {
        const int64_t at = (b.kv * s.tiles + tile) * s.d + d;
        for (int64_t i = 0; i < b.i1 - b.i0; i += kWidth) {
            float *charge = w.charge + d * s.rp + i;
            Vec o = load(charge);
            if (e.output_gain) o = fma(o, broadcast(e.output_gain[at]), broadcast(e.output_offset[at]));
            if (e.output_std > 0.0f || e.output_of_cell > 0.0f)
                o = fma(noise_std(e.output_std, e.output_of_cell, load(w.a_squares + i)),
                        draw.normals(uint32_t(tile), uint32_t(d), uint32_t(b.i0 + i)), o);
            store(charge, o * load(w.read + i));
        }
    }
}

// Saturate and digitise w.charge, add it to w.sum, and note where it was not saturated.
void quantize_output(const gc_problem &p, const Sizes &s, const Block &b, const Buffers &w, int64_t tile) {
    const Vec edge = broadcast(p.output_ceiling ? p.steps * (1.0f - p.output_margin) : INFINITY);
    for (int64_t i0 = 0; i0 < s.rp; i0 += kWidth) {
        const int64_t rows = std::min(kWidth, b.i1 - b.i0 - i0);
        const int64_t row = ((b.bh * p.queries + b.i0 - p.first_query + i0) * s.tiles + tile) * s.open_bytes;
        for (int64_t byte = 0; p.open && byte < s.open_bytes; ++byte) {
            IntVec bits = {};
            for (int64_t bit = 0; bit < 8; ++bit) {
                const Vec o = load(w.charge + (8 * byte + bit) * s.rp + i0);
                bits |= ((o < edge) & (o > -edge)) & (int32_t(1) << bit);
            }
            for (int64_t i = 0; i < rows; ++i) p.open[row + i * s.tiles * s.open_bytes + byte] = uint8_t(bits[i]);
        }
        for (int64_t d = 0; d < s.dp; ++d) {
            float *sum = w.sum + d * s.rp + i0;
            store(sum, load(sum) + digitised(load(w.charge + d * s.rp + i0), p.output_ceiling, p.steps, p.readout));
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
        std::memset(w.read, 0, size_t(s.rp) * 4);
        std::memset(w.a_squares, 0, size_t(s.rp) * 4);
        for (int64_t piece = newest; piece >= reach.first; piece -= s.tiles) {
            activations(p, s, stored, b, w, piece, false);
            if (p.errors.present) note_pulses(p, s, b, w, piece);
            add_charge(p, s, stored, b, w, piece);
        }
        const int64_t tile = (s.first_piece + newest) % s.tiles;
        if (p.errors.present) disturb_charge(p, s, b, w, tile);
        quantize_output(p, s, b, w, tile);
    }
    transpose(w.sum, s.dp, s.rp, w.x);
    for (int64_t i = 0; i < b.i1 - b.i0; ++i) write_out(p, s, b, i, w.x + i * s.dp);
    return all_finite;
}

}  // namespace

int forward(const gc_problem &p) {
    const Sizes s(p);
    if (p.open) std::memset(p.open, 0, size_t(p.batch * p.heads * p.queries * s.tiles * s.open_bytes));
    std::atomic<bool> all_finite{true};
#if defined(GC_INTEGERS)
    if (Planes::serves(p)) {
        char *shared = workspace(0, Planes::size(p, s));
        if (!shared) return GC_NO_MEMORY;
        const Planes planes(p, s, shared);
        for (int t = 0; t < p.threads; ++t)
            if (!workspace(1 + t, Strips::size(s))) return GC_NO_MEMORY;
        if (planes.possible) {
            parallel(p.threads, p.batch * p.kv_heads, [&](int, int64_t head) {
                if (!write_planes(p, s, planes, head)) all_finite = false;
            });
            parallel(p.threads, p.batch * p.heads * s.blocks, [&](int thread, int64_t item) {
                const Strips w(s, workspace(1 + thread, Strips::size(s)));
#if defined(GC_TILES)
                const TilesInUse tiles;
#endif
                if (!forward_block(p, s, planes, block_of(p, s, item / s.blocks, item % s.blocks), w)) all_finite = false;
            });
            return all_finite ? GC_OK : GC_NOT_FINITE;
        }
    }
#endif
    char *memory = workspace(0, Stored::bytes(p, s, false));
    if (!memory) return GC_NO_MEMORY;
    const Stored stored(p, s, false, memory);
    const int64_t bytes = Buffers::bytes(s, p.cells.count, 0);
    for (int t = 0; t < p.threads; ++t)
        if (!workspace(1 + t, bytes)) return GC_NO_MEMORY;
    parallel(p.threads, p.batch * p.kv_heads, [&](int, int64_t head) {
        if (!write_keys_and_values(p, s, stored, head)) all_finite = false;
    });
    parallel(p.threads, p.batch * p.heads * s.blocks, [&](int thread, int64_t item) {
        const Buffers w(s, p.cells.count, 0, workspace(1 + thread, bytes));
#if defined(GC_TILES)
        const TilesInUse tiles;
#endif
        if (!forward_block(p, s, stored, block_of(p, s, item / s.blocks, item % s.blocks), w)) all_finite = false;
    });
    return all_finite ? GC_OK : GC_NOT_FINITE;
}

}  // namespace GC_LEVEL
}  // namespace gc
