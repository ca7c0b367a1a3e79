// Backward pass of gain-cell attention, compiled once for every instruction level (GC_LEVEL): with dO the gradient
// of a sub-tile's charge where it was not saturated, and dS that of the scores strictly inside their clamp,
//
//     dA = sum_n (row_n dO) V_n^T,   dX = sum_n row_n dS K_n,   dV_n = A^T (row_n dO),   dK_n = dS^T (row_n X)
//
// and the slabs' own derivatives turn dK_n, dV_n into gradients of the stored voltages.
//
// The cheaper gradient (GC_BF16) takes row_n at the middle one of the block's queries that see a column. The slabs then
// add up to one, and the four products are computed once, of factors in bf16, summed in float32. A and the masks are exact.
#include "block.h"

namespace gc {
namespace GC_LEVEL {
namespace {

// Of the bits of a row, one for each of `dim` components, those of kWidth components from d; 0 beyond the row.
uint32_t open_bits(const uint8_t *row, int64_t d, int64_t dim) {
    if (d >= dim) return 0;
    uint32_t bits = row[d / 8] >> (d % 8);
    if (kWidth > 8 && d + 8 < dim) bits |= uint32_t(row[d / 8 + 1]) << 8;
    return d + kWidth > dim ? bits & ((1u << (dim - d)) - 1) : bits;
}

// Gradient of the sub-tile outputs of one piece, where they were not saturated: w.dout and what is made of it.
// Whether any is left.
bool tile_gradient(const gc_problem &p, const gc_gradient &g, const Sizes &s, const Block &b, const Buffers &w,
                   int64_t tile) {
    const float scale = p.output_scale / p.steps * (p.out_gain ? p.out_gain[b.head] : 1.0f);
    const float *gains = p.errors.present && p.errors.output_gain ? p.errors.output_gain + (b.kv * s.tiles + tile) * s.d : nullptr;
    bool any = false;
    Vec totals[kWidth];
    for (int64_t i = 0; i < s.rp; ++i) {
        const bool real = i < b.i1 - b.i0;
        const int64_t row = b.bh * p.queries + b.i0 - p.first_query + i;
        const uint8_t *open = p.open + (row * s.tiles + tile) * s.open_bytes;
        Vec total = {};
        for (int64_t d = 0; d < s.dp; d += kWidth) {
            const uint32_t bits = real ? open_bits(open, d, s.d) : 0;
            const Vec factor = gains ? load_where(bits, gains + d) * scale : broadcast(scale);
            const Vec passed = load_where(bits, g.grad + row * s.d + d) * factor;
            store(w.dout + i * s.dp + d, passed);
            total = total + passed;
            any |= not_zero(passed);
        }
        totals[i % kWidth] = total;
        if (i % kWidth == kWidth - 1) store(w.dout_sum + i + 1 - kWidth, sum_each(totals));
    }
    return any;
}

// A constant current C_0 of all cells: what it adds to dX, with dS in w.da.
void add_constant(const Sizes &s, float constant, const Buffers &w) {
    if (constant == 0.0f) return;
    for (int64_t i0 = 0; i0 < s.rp; i0 += kWidth) {
        Vec totals = {};
        for (int64_t j = 0; j < s.np; ++j) totals = totals + load(w.da + j * s.rp + i0);
        for (int64_t i = 0; i < kWidth; ++i) {
            const Vec added = broadcast(totals[i] * constant);
            float *to = w.dx + (i0 + i) * s.dp;
            for (int64_t d = 0; d < s.dp; d += kWidth) store(to + d, load(to + d) + added);
        }
    }
}

void backward_piece(const gc_problem &p, const gc_gradient &g, const Sizes &s, const Stored &stored, const Block &b,
                    const Buffers &w, int64_t piece) {
    if (!tile_gradient(p, g, s, b, w, (s.first_piece + piece) % s.tiles)) return;
    transpose(w.dout, s.rp, s.dp, w.dout_t);
    activations(p, s, stored, b, w, piece, true);
    const gc_cells &cells = g.cells;
    const bool by_level = p.cells.kind == GC_BY_LEVEL;
    const int64_t at = (b.kv_row * s.pieces + piece) * s.np * s.dp, size = s.np * s.dp, rd = s.rp * s.dp;
    const int64_t first_token = (s.first_piece + piece) * s.n;
    for (int64_t n = 0; n < cells.count; ++n)
        for (int64_t i = 0; i < s.rp; ++i) {
            const Vec factor = broadcast(cells.row_factors[n * s.rp + i]);
            for (int64_t x = i * s.dp; x < (i + 1) * s.dp; x += kWidth) store(w.dout_n + n * rd + x, load(w.dout + x) * factor);
        }

    make_slabs(p, s, cells, cells.value_mismatch, stored.value + at, by_level, first_token, b.i0, b.kv, w.slabs,
               w.slopes);
    for (int64_t n = 0; n < cells.count; ++n) {  // dA = sum_n (row_n dO) V_n^T
        const float *factors = cells.row_factors + n * s.rp;
        multiply(s.np, s.rp, s.dp, w.slabs + n * size, s.dp, 1, w.dout_t, s.rp, [&](int64_t j, int64_t i, Vec sum) {
            float *to = w.da + j * s.rp + i;
            const Vec before = n ? load(to) : broadcast(cells.constant) * load(w.dout_sum + i);
            store(to, fma(load(factors + i), sum, before));
        });
    }
    for (int64_t n = 0; n < cells.count; ++n)  // dV_n = A^T (row_n dO)
        multiply(s.np, s.dp, s.rp, w.a, s.rp, 1, w.dout_n + n * rd, s.dp, [&](int64_t j, int64_t d, Vec sum) {
            float *to = w.dv + piece * size + j * s.dp + d;
            store(to, fma(load(w.slopes + n * size + j * s.dp + d), sum, load(to)));
        });
    for (int64_t x = 0; x < s.np * s.rp; x += kWidth) store(w.da + x, load(w.da + x) * load(w.gate + x));

    make_slabs(p, s, cells, cells.key_mismatch, stored.key + at, by_level, first_token, b.i0, b.kv, w.slabs, w.slopes);
    for (int64_t n = 0; n < cells.count; ++n) {  // dX = sum_n row_n dS K_n
        const float *factors = cells.row_factors + n * s.rp;
        multiply(s.rp, s.dp, s.np, w.da, 1, s.rp, w.slabs + n * size, s.dp, [&](int64_t i, int64_t d, Vec sum) {
            float *to = w.dx + i * s.dp + d;
            store(to, fma(broadcast(factors[i] * p.score_scale), sum, load(to)));
        });
    }
    for (int64_t n = 0; n < cells.count; ++n)  // dK_n = dS^T (row_n X)
        multiply(s.np, s.dp, s.rp, w.da, s.rp, 1, w.x_n + n * rd, s.dp, [&](int64_t j, int64_t d, Vec sum) {
            float *to = w.dk + piece * size + j * s.dp + d;
            store(to, fma(load(w.slopes + n * size + j * s.dp + d), sum, load(to)));
        });
    add_constant(s, cells.constant * p.score_scale, w);
}

// One slab in place of all, in w.slabs, and its slope: sum_n row_n slab_n with row_n at the middle one of the queries that
// see a column. Polynomials are that old themselves.
void make_middle_slab(const gc_problem &p, const Sizes &s, const gc_cells &cells, const float *mismatch, const float *stored,
                      const Block &b, int64_t first_token, const Buffers &w) {
    const int64_t size = s.np * s.dp, degree = cells.count ? cells.orders[cells.count - 1] : 0;
    const bool by_level = p.cells.kind == GC_BY_LEVEL;
    const bool polynomial = cells.kind == GC_POLYNOMIAL && !mismatch && degree <= GC_MAX_SLABS;
    if (!polynomial) make_slabs(p, s, cells, mismatch, stored, by_level, first_token, b.i0, b.kv, w.slabs, w.slopes);
    const Vec top = broadcast(by_level ? 0.5f * float(p.storage_levels - 1) : 0.0f), volts = broadcast(by_level ? p.to_volts : 1.0f);
    float powers[GC_MAX_SLABS + 1] = {};  // of what is stored: the coefficients
    for (int64_t c = 0; c < s.n; ++c) {
        const Seen seen = seen_by(p, b, first_token + c);
        const int64_t middle = seen.first < seen.last ? (seen.first + seen.last - 1) / 2 : 0, row = c * s.dp;
        if (!polynomial) {
            for (int64_t at = row; at < row + s.dp; at += kWidth) {
                Vec slab = {}, slope = {};
                for (int64_t n = 0; n < cells.count; ++n) {
                    const Vec factor = broadcast(cells.row_factors[n * s.rp + middle]);
                    slab = fma(factor, load(w.slabs + n * size + at), slab);
                    slope = fma(factor, load(w.slopes + n * size + at), slope);
                }
                store(w.slabs + at, slab);
                store(w.slopes + at, slope);
            }
            continue;
        }
        const float left = cells.column_factors[b.i0 + middle - first_token - c + p.margin];
        float remains = 1.0f;
        for (int64_t n = 0, power = 0; n < cells.count; ++n) {
            for (; power < cells.orders[n]; ++power) remains *= left;
            powers[power] = cells.coefficients[n] * remains;
        }
        for (int64_t at = row; at < row + s.dp; at += kWidth) {
            const Vec u = (load(stored + at) - top) * volts;
            Vec slab = {}, slope = {};
            for (int64_t power = degree; power >= 1; --power) {  // Horner's rule
                slab = slab + powers[power];
                slope = fma(slope, u, slab);
                slab = slab * u;
            }
            store(w.slabs + at, slab);
            store(w.slopes + at, slope);
        }
    }
    std::memset(w.slabs + s.n * s.dp, 0, size_t((s.np - s.n) * s.dp) * 4);
    std::memset(w.slopes + s.n * s.dp, 0, size_t((s.np - s.n) * s.dp) * 4);
}

void backward_piece_in_bf16(const gc_problem &p, const gc_gradient &g, const Sizes &s, const Stored &stored, const Block &b,
                            const Buffers &w, int64_t piece) {
    if (!tile_gradient(p, g, s, b, w, (s.first_piece + piece) % s.tiles)) return;
    activations(p, s, stored, b, w, piece, true);
    const gc_cells &cells = g.cells;
    const int64_t at = (b.kv_row * s.pieces + piece) * s.np * s.dp, size = s.np * s.dp;
    const int64_t first_token = (s.first_piece + piece) * s.n;
    const auto times_slope = [&](float *to) {
        return [&w, &s, to](int64_t j, int64_t d, Vec sum) {
            const int64_t x = j * s.dp + d;
            store(to + x, fma(load(w.slopes + x), sum, load(to + x)));
        };
    };

    pair_along(w.dout, s.rp, s.dp, w.left);
    transpose(w.left, s.rp, pairs_of(s.dp), w.right);
    make_middle_slab(p, s, cells, cells.value_mismatch, stored.value + at, b, first_token, w);
    pair_along(w.slabs, s.np, s.dp, w.left);
    multiply_pairs(s.np, s.rp, pairs_of(s.dp), w.left, w.right, [&](int64_t j, int64_t i, Vec sum) {
        const int64_t x = j * s.rp + i;
        const Vec da = fma(broadcast(cells.constant), load(w.dout_sum + i), sum);
        store(w.da + x, da * load(w.gate + x) * p.score_scale);
    });
    pair_along(w.a, s.np, s.rp, w.left);
    pair_rows(w.dout, s.rp, s.dp, w.right);
    multiply_pairs(s.np, s.dp, pairs_of(s.rp), w.left, w.right, times_slope(w.dv + piece * size));

    make_middle_slab(p, s, cells, cells.key_mismatch, stored.key + at, b, first_token, w);
    pair_rows(w.da, s.np, s.rp, w.right);
    transpose(w.right, pairs_of(s.np), s.rp, w.left);
    pair_rows(w.slabs, s.np, s.dp, w.right);
    multiply_pairs(s.rp, s.dp, pairs_of(s.np), w.left, w.right, [&](int64_t i, int64_t d, Vec sum) {
        float *to = w.dx + i * s.dp + d;
        store(to, load(to) + sum);
    });
    pair_along(w.da, s.np, s.rp, w.left);
    multiply_pairs(s.np, s.dp, pairs_of(s.rp), w.left, w.x_pairs, times_slope(w.dk + piece * size));
    add_constant(s, cells.constant, w);
}

// Gradient of a gain and an offset, and of what they scale.
struct ScaleGradient {
    Vec gain = {}, offset = {};
    double gains = 0.0, offsets = 0.0;  // of rows before
    // A row: the gradient of what was asked of a converter, which passes it strictly inside its range, -> of what was given.
    void pass(const Row &row, const float *gradient, float low, float high, int64_t dim, float *to) {
        for (int64_t d = 0; d < dim; d += kWidth) {
            const Vec asked = row.at(d, dim, 0.0f);
            Vec of_asked = load_some(gradient + d, dim - d, 0.0f);
            of_asked = select((asked > broadcast(low)) & (asked < broadcast(high)), of_asked, Vec{});
            gain = fma(of_asked, load_some(row.given + d, dim - d, 0.0f), gain);
            offset = offset + of_asked;
            if (to) store_some(to + d, of_asked * row.gain, dim - d);
        }
    }
    void settle() {
        gains += double(sum_of(gain)), offsets += double(sum_of(offset));
        gain = offset = Vec{};
    }
    void write(float *scales) const { scales[0] = float(gains), scales[1] = float(offsets); }
};

// What the queries of one head pass back: to themselves, and to the stored voltages in w.dk and w.dv.
void backward_queries(const gc_problem &p, const gc_gradient &g, const Sizes &s, const Stored &stored, int64_t bh,
                      const Buffers &w) {
    const int64_t head = bh % p.heads;
    std::memset(w.dk, 0, size_t(s.pieces * s.np * s.dp) * 4);
    std::memset(w.dv, 0, size_t(s.pieces * s.np * s.dp) * 4);
    ScaleGradient of_q, of_out;
    for (int64_t number = 0; number < s.blocks; ++number) {
        const Block b = block_of(p, s, bh, number);
        drive_queries(p, s, b, w);
        if (!p.integer_factors) transpose(w.x, s.rp, s.dp, w.xt);
        if (g.products == GC_BF16) pair_rows(w.x, s.rp, s.dp, w.x_pairs);
        for (int64_t n = 0; n < g.cells.count && g.products == GC_FLOAT32; ++n)
            for (int64_t i = 0; i < s.rp; ++i)
                for (int64_t d = 0; d < s.dp; d += kWidth)
                    store(w.x_n + (n * s.rp + i) * s.dp + d,
                          load(w.x + i * s.dp + d) * broadcast(g.cells.row_factors[n * s.rp + i] * p.score_scale));
        std::memset(w.dx, 0, size_t(s.rp * s.dp) * 4);
        const Reach reach = reach_of(p, s, b);
        for (int64_t piece = reach.first; piece <= reach.last; ++piece)
            (g.products == GC_BF16 ? backward_piece_in_bf16 : backward_piece)(p, g, s, stored, b, w, piece);
        const float low = p.q_levels == GC_AS_GIVEN ? -INFINITY : 0.0f, high = p.q_levels == GC_AS_GIVEN ? INFINITY : 1.0f;
        for (int64_t i = 0; i < b.i1 - b.i0; ++i) {
            const int64_t row = (bh * p.queries + b.i0 - p.first_query + i) * s.d;
            of_q.pass(Row(p.q + row, p.q_gain, p.q_offset, head), w.dx + i * s.dp, low, high, s.d, g.dq + row);
            if (p.out_gain) of_out.pass(Row(p.sum + row, nullptr, nullptr, head), g.grad + row, -INFINITY, INFINITY, s.d, nullptr);
        }
        of_q.settle();
        of_out.settle();
    }
    if (p.q_gain) of_q.write(g.q_scales + 2 * bh);
    if (p.out_gain) of_out.write(g.out_scales + 2 * bh);
}

// All that reaches one key/value head of one sequence: the sum of what its query heads passed back, [g][2][pieces][N][D].
void backward_keys_and_values(const gc_problem &p, const gc_gradient &g, const Sizes &s, int64_t kv_row, float *passed) {
    const int64_t kv = kv_row % p.kv_heads, size = 2 * s.pieces * s.np * s.dp;
    for (int64_t head = 1; head < s.group; ++head)
        for (int64_t x = 0; x < size; x += kWidth) store(passed + x, load(passed + x) + load(passed + head * size + x));
    ScaleGradient of_k, of_v;
    for (int64_t token = p.first_key; token < p.first_key + p.keys; ++token) {
        const int64_t row = (kv_row * p.keys + token - p.first_key) * s.d;
        const float *dk = passed + ((token / s.n - s.first_piece) * s.np + token % s.n) * s.dp;
        of_k.pass(Row(p.k + row, p.k_gain, p.k_offset, kv), dk, p.low, p.high, s.d, g.dk + row);
        of_v.pass(Row(p.v + row, p.v_gain, p.v_offset, kv), dk + size / 2, p.low, p.high, s.d, g.dv + row);
        if (token % 64 == 63) of_k.settle(), of_v.settle();
    }
    of_k.settle();
    of_v.settle();
    if (p.k_gain) of_k.write(g.k_scales + 2 * kv_row), of_v.write(g.v_scales + 2 * kv_row);
}

}  // namespace

int backward(const gc_problem &p, const gc_gradient &g) {
    const Sizes s(p);
    const int64_t rows = p.batch * p.kv_heads, cells = s.pieces * s.np * s.dp;
    // key/value heads whose query heads are shared out at once: memory for them against threads without work
    const int64_t together = p.threads == 1 ? 1 : std::min(rows, (4 * p.threads + s.group - 1) / s.group);
    const int64_t stored_bytes = padded(Stored::bytes(p, s, true), 64);
    char *memory = workspace(0, stored_bytes + together * s.group * 2 * cells * 4);
    if (!memory) return GC_NO_MEMORY;
    const Stored stored(p, s, true, memory);
    float *passed = reinterpret_cast<float *>(memory + stored_bytes);
    const int64_t bytes = Buffers::bytes(s, p.cells.count, g.cells.count);
    for (int t = 0; t < p.threads; ++t)
        if (!workspace(1 + t, bytes)) return GC_NO_MEMORY;
    parallel(p.threads, rows, [&](int, int64_t head) { write_keys_and_values(p, s, stored, head); });
    for (int64_t first = 0; first < rows; first += together) {
        const int64_t count = std::min(together, rows - first);
        parallel(p.threads, count * s.group, [&](int thread, int64_t item) {
#if defined(GC_TILES)
            const TilesInUse tiles;
#endif
            Buffers w(s, p.cells.count, g.cells.count, workspace(1 + thread, bytes));
            w.dk = passed + item * 2 * cells;
            w.dv = w.dk + cells;
            backward_queries(p, g, s, stored, first * s.group + item, w);
        });
        parallel(p.threads, count, [&](int, int64_t row) {
            backward_keys_and_values(p, g, s, first + row, passed + row * s.group * 2 * cells);
        });
    }
    return GC_OK;
}

}  // namespace GC_LEVEL
}  // namespace gc
