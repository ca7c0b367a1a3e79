// Forward pass in integers, queries in rows, in one pass over a piece: for cells that are all alike and polynomials of the
// default kind, sub-tiles of 64 columns, pulses that have a largest value. Others: forward.cpp.
//
// With planes P_n of the stored codes (X, X^2 and U, see gaincell_native.h), g_n the charge of a plane at an age, and
// Q the queries' codes, for 16 queries i and the 64 columns j of a piece
//
//     S_ij = sum_n g_n(i - j) sum_d Q_id P_n(key)_jd + C0 sum_d x_id,   A_ij = clamp(S_ij / S_sat, 0, 1) where j is seen
//     O_id = sum_n sum_j (g_n(i - j) A_ij) P_n(value)_jd + C0 sum_j A_ij
//
// g_n A is rounded to `unit`, to 24 bits or fewer, as float32 would be, and split into bytes. All products are of bytes,
// summed exactly: in tiles (AMX) and in vectors (AVX-512 VNNI) they have the same bits.
#pragma once

#include <array>

#include "block.h"

#if defined(GC_INTEGERS)
namespace gc {
namespace GC_LEVEL {
namespace {

constexpr int64_t kStrip = 16, kPiece = 64;  // queries and columns at a time
using Sums = int32_t[16][16];                // of 16 rows and 16 columns

// What all queries share: the planes of keys and values, and what they are charged.
struct Planes {
    int64_t steps, wide;                // of 64 rows of a key array; tiles of 16 columns of a value array
    int64_t count = 0, bytes[3];        // planes, and bytes of a number of each
    int8_t table[3][16] = {};           // of every code
    float *charge[3];                   // root g_n at age middle - n, above 0: the sign is in the table
    int64_t middle;
    float unit, root;                   // readout steps; A is kept times root, so that charge times A is in units
    int8_t *key, *value;                // [B Hk, pieces][plane][steps][4][16 d / 4][16 j][4], [..][plane][wide][16 j / 4][16 d][4]
    int64_t key_bytes, value_bytes;     // of a piece
    bool possible = true;

    static bool serves(const gc_problem &p) {
        return p.integer_factors && p.tile == kPiece && p.score_ceiling && p.score_exponent == 1 && !p.errors.present;
    }
    static int64_t reach(const gc_problem &p) { return std::min(p.window, p.keys); }  // of ages
    static int64_t ages(const gc_problem &p) { return reach(p) + 256; }
    static int64_t size(const gc_problem &p, const Sizes &s) {
        return p.batch * p.kv_heads * s.pieces * 3 * kPiece * (padded(s.d, 64) + s.dp) + 12 * ages(p) + 5 * 64;
    }
    Planes(const gc_problem &p, const Sizes &s, char *memory) : steps(padded(s.d, 64) / 64), wide(s.dp / 16), middle(reach(p) + 128) {
        const int top = p.storage_levels - 1;
        // integer_factors are of codes of q and in units of S_sat; here pulses are at most 1, and charges in readout steps
        const float scale = float(p.q_levels - 1) / p.score_scale * p.output_scale;
        float largest[3], most = 0.0f;
        const float *given[3];
        int sign[3];
        for (int n = 0; n < 3; ++n) {
            const float *g = p.integer_factors + n * p.ages + p.margin;
            if (n && g[0] == 0.0f) continue;  // a cell without this power
            __m512 low = _mm512_set1_ps(INFINITY), high = _mm512_set1_ps(-INFINITY);
            for (int64_t age = 0; age < p.window; age += kWidth) {  // and a few beyond the window
                low = _mm512_min_ps(low, _mm512_loadu_ps(g + age));
                high = _mm512_max_ps(high, _mm512_loadu_ps(g + age));
            }
            const float least = _mm512_reduce_min_ps(low), greatest = _mm512_reduce_max_ps(high);
            possible &= least >= 0.0f || greatest <= 0.0f;
            given[count] = g;
            sign[count] = least < 0.0f ? -1 : 1;
            largest[count] = std::max(greatest, -least) * scale;
            most = std::max(most, largest[count]);
            for (int code = 0; code <= top; ++code) table[count][code] = int8_t(sign[count] * power_of(p, n, code));
            ++count;
        }
        possible &= most > 0.0f && std::isfinite(most);
        if (!possible) return;
        unit = most / 16777000.0f;
        for (int64_t n = 0; n < count; ++n)  // a byte fewer is worth up to a bit
            if (largest[n] < 2.0f * 65500.0f * unit) unit = std::max(unit, largest[n] / 65500.0f);
        for (int64_t n = 0; n < count; ++n) bytes[n] = largest[n] <= 65500.0f * unit ? 2 : 3;
        root = std::sqrt(scale / unit);
        Cutter c{memory};
        for (float *&f : charge) f = c.cut<float>(ages(p));
        for (int64_t n = 0; n < count; ++n)
            for (int64_t x = 0; x < ages(p); ++x) {
                const int64_t age = std::min(std::max<int64_t>(middle - x, 0), reach(p) - 1);  // others are not seen
                charge[n][x] = root * float(sign[n]) * given[n][age];
            }
        key_bytes = count * steps * 64 * kPiece;
        value_bytes = count * s.dp * kPiece;
        key = c.cut<int8_t>(p.batch * p.kv_heads * s.pieces * key_bytes);
        value = c.cut<int8_t>(p.batch * p.kv_heads * s.pieces * value_bytes);
    }
};

// The first of the four tokens of a piece whose pulses are in quad `n` of bytes: see pulses_of.
inline int64_t tokens_of(int64_t n) { return 4 * (4 * (n % 4) + n / 4); }

// Codes of a row of `d` requests; `check` becomes no number where one is none.
template <class Convert>
inline void to_codes(const Row &row, int64_t d, uint8_t *codes, Vec *check, Convert convert) {
    for (int64_t at = 0; at < d; at += kWidth) {
        const Vec asked = row.at(at, d, 0.0f);
        *check = *check + (asked - asked);
        const __m512i code = _mm512_cvttps_epi32((__m512)convert(asked));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(codes + at), _mm512_cvtepi32_epi8(code));
    }
}

// The write DACs: planes of the keys and values of one head; false if one is not a number. What stands where there is no
// token, or beyond D, is not read by anybody: no pulse meets it.
inline bool write_planes(const gc_problem &p, const Sizes &s, const Planes &planes, int64_t head) {
    const int64_t kv = head % p.kv_heads;
    const Dac dac{p.low, p.high, p.middle, p.storage_levels, p.to_code, p.to_volts};
    const auto convert = [&](Vec volts) { return dac.step(volts); };
    alignas(64) uint8_t keys[kPiece][64] = {}, values[kPiece][64] = {};  // codes of 64 components
    __m512i table[3];
    for (int64_t n = 0; n < planes.count; ++n)
        table[n] = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(planes.table[n])));
    Vec check = {};
    for (int64_t piece = 0; piece < s.pieces; ++piece)
        for (int64_t step = 0; step < planes.steps; ++step) {
            const int64_t first = (s.first_piece + piece) * kPiece - p.first_key, d = std::min<int64_t>(64, s.d - 64 * step);
            for (int64_t c = std::max<int64_t>(0, -first); c < std::min(kPiece, p.keys - first); ++c) {
                const int64_t at = (head * p.keys + first + c) * s.d + 64 * step;
                to_codes(Row(p.k + at, p.k_gain, p.k_offset, kv), d, keys[c], &check, convert);
                to_codes(Row(p.v + at, p.v_gain, p.v_offset, kv), d, values[c], &check, convert);
            }
            int8_t *key = planes.key + (head * s.pieces + piece) * planes.key_bytes + step * 64 * kPiece;
            for (int64_t quad = 0; quad < 16; ++quad)
                for (int64_t j = 0; j < kPiece; j += 16) {
                    alignas(64) int32_t codes[16];
                    for (int64_t c = 0; c < 16; ++c) std::memcpy(codes + c, keys[j + c] + 4 * quad, 4);
                    for (int64_t n = 0; n < planes.count; ++n)
                        _mm512_store_si512(key + n * planes.steps * 64 * kPiece + 64 * (j + quad),
                                           _mm512_shuffle_epi8(table[n], _mm512_load_si512(codes)));
                }
            int8_t *value = planes.value + (head * s.pieces + piece) * planes.value_bytes + step * 64 * kPiece;
            for (int64_t quad = 0; quad < 16; ++quad)
                for (int64_t tile = 0; tile < std::min<int64_t>(4, planes.wide - 4 * step); ++tile) {
                    const auto four = [&](int e) {
                        const uint8_t *codes = values[tokens_of(quad) + e] + 16 * tile;
                        return _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i *>(codes))), 8 * e);
                    };
                    const __m512i codes = _mm512_or_si512(_mm512_or_si512(four(0), four(1)), _mm512_or_si512(four(2), four(3)));
                    for (int64_t n = 0; n < planes.count; ++n)
                        _mm512_store_si512(value + n * s.dp * kPiece + 1024 * tile + 64 * quad, _mm512_shuffle_epi8(table[n], codes));
                }
        }
    return finite(check);
}

// A thread's buffers.
struct Strips {
    uint8_t *codes;      // of the queries of a block [rows][steps 64]
    float *start;        // C0 sum_d x, in units of A [rows]
    Sums *scores;        // [plane][4]
    uint8_t *pulses;     // [plane][3 bytes, the highest first][16][64]
    Sums *charge;        // [3][wide]
    float *sum;          // the digital sum [rows][D]
    static int64_t size(const Sizes &s) {
        return s.rp * (padded(s.d, 64) + 4 + 4 * s.dp) + 12 * 1024 + 9 * 1024 + 3 * 64 * s.dp + 6 * 64;
    }
    Strips(const Sizes &s, char *memory) {
        Cutter c{memory};
        codes = c.cut<uint8_t>(s.rp * padded(s.d, 64));
        start = c.cut<float>(s.rp);
        scores = c.cut<Sums>(12);
        pulses = c.cut<uint8_t>(9 * 1024);
        charge = c.cut<Sums>(3 * s.dp / 16);
        sum = c.cut<float>(s.rp * s.dp);
    }
};

// The query drivers; false if a query is not a number.
inline bool drive_codes(const gc_problem &p, const Sizes &s, const Planes &planes, const Block &b, const Strips &w) {
    const float top = float(p.q_levels - 1);
    const float constant = p.cells.constant * p.score_scale * planes.root / top;
    std::memset(w.codes, 0, size_t((b.i1 - b.i0) * planes.steps * 64));
    Vec check = {};
    for (int64_t r = 0; r < b.i1 - b.i0; ++r) {
        uint8_t *codes = w.codes + r * planes.steps * 64;
        __m512i total = _mm512_setzero_si512();
        const Row q(p.q + (b.bh * p.queries + b.i0 - p.first_query + r) * s.d, p.q_gain, p.q_offset, b.head);
        for (int64_t d = 0; d < s.d; d += kWidth) {
            const Vec width = q.at(d, s.d, 0.0f);
            check = check + (width - width);
            const __mmask16 there = s.d - d >= kWidth ? __mmask16(0xffff) : __mmask16((1u << (s.d - d)) - 1);
            const __m512i code = _mm512_maskz_cvttps_epi32(there, (__m512)(bounded(width, Vec{}, broadcast(1.0f)) * top + 0.5f));
            total = _mm512_add_epi32(total, code);
            _mm_store_si128(reinterpret_cast<__m128i *>(codes + d), _mm512_cvtepi32_epi8(code));
        }
        w.start[r] = float(_mm512_reduce_add_epi32(total)) * constant;
    }
    return finite(check);
}

#if !defined(GC_TILES)
// sum[m][n] += products of rows r0 ... of a, unsigned, `stride` bytes apart, and b, signed: W tiles of 16 columns, `apart`
// bytes from one to the next.
template <int64_t W>
inline void add_products(__m512i (&sum)[kRows][W], const uint8_t *a, int64_t stride, const int8_t *b, int64_t apart) {
    for (int64_t quad = 0; quad < 16; ++quad) {
        __m512i right[W];
        GC_UNROLLED for (int64_t w = 0; w < W; ++w) right[w] = _mm512_load_si512(b + w * apart + 64 * quad);
        GC_UNROLLED for (int64_t m = 0; m < kRows; ++m) {
            int32_t four;
            std::memcpy(&four, a + m * stride + 4 * quad, 4);
            const __m512i left = _mm512_set1_epi32(four);
            GC_UNROLLED for (int64_t w = 0; w < W; ++w) sum[m][w] = _mm512_dpbusd_epi32(sum[m][w], left, right[w]);
        }
    }
}

// sums[w][m0 + m][n]: what the products are added to, and left in; 0 at first if `fresh`.
template <int64_t W, class Add>
inline void with_sums(Sums *sums, int64_t m0, bool fresh, Add add) {
    __m512i sum[kRows][W];
    GC_UNROLLED for (int64_t m = 0; m < kRows; ++m)
        GC_UNROLLED for (int64_t w = 0; w < W; ++w)
            sum[m][w] = fresh ? _mm512_setzero_si512() : _mm512_load_si512(sums[w][m0 + m]);
    add(sum);
    GC_UNROLLED for (int64_t m = 0; m < kRows; ++m)
        GC_UNROLLED for (int64_t w = 0; w < W; ++w) _mm512_store_si512(sums[w][m0 + m], sum[m][w]);
}
#endif

// Sums over D of the codes of a strip and the planes of the keys of a piece, in w.scores.
inline void read_keys(const Planes &planes, const Strips &w, int64_t row, [[maybe_unused]] int64_t rows, const int8_t *key) {
    const uint8_t *codes = w.codes + row * planes.steps * 64;
    const int64_t stride = planes.steps * 64;
    for (int64_t n = 0; n < planes.count; ++n, key += planes.steps * 64 * kPiece) {
        Sums *sums = w.scores + 4 * n;
#if defined(GC_TILES)
        clear_tiles();
        for (int64_t step = 0; step < planes.steps; ++step) {
            const int8_t *right = key + step * 64 * kPiece;
            GC_TILE_LOAD(4, codes + 64 * step, stride);
            GC_TILE_LOAD(5, right, 64);
            GC_TILE_PULSES(0, 4, 5);
            GC_TILE_LOAD(6, right + 1024, 64);
            GC_TILE_PULSES(1, 4, 6);
            GC_TILE_LOAD(7, right + 2048, 64);
            GC_TILE_PULSES(2, 4, 7);
            GC_TILE_LOAD(5, right + 3072, 64);
            GC_TILE_PULSES(3, 4, 5);
        }
        store_tiles(sums);
#else
        for (int64_t m0 = 0; m0 < rows; m0 += kRows)
            with_sums<4>(sums, m0, true, [&](__m512i (&sum)[kRows][4]) {
                for (int64_t step = 0; step < planes.steps; ++step)
                    add_products<4>(sum, codes + m0 * stride + 64 * step, stride, key + step * 64 * kPiece, 1024);
            });
#endif
    }
}

// Adds the charge of the pulses of a strip and the planes of the values of a piece to w.charge.
inline void read_values(const Planes &planes, const Strips &w, [[maybe_unused]] int64_t rows, const int8_t *value, bool fresh) {
    const int64_t plane = planes.wide * 1024;
#if defined(GC_TILES)
    settle_memory();
    for (int64_t tile = 0; tile < planes.wide; ++tile, value += 1024) {
        Sums *sums = w.charge + tile;
        clear_tiles();
        if (!fresh) {
            GC_TILE_LOAD(0, sums[0], 64);
            GC_TILE_LOAD(1, sums[planes.wide], 64);
            GC_TILE_LOAD(2, sums[2 * planes.wide], 64);
        }
        for (int64_t n = 0; n < planes.count; ++n) {
            const uint8_t *pulses = w.pulses + 3072 * n;
            GC_TILE_LOAD(7, value + n * plane, 64);
            GC_TILE_LOAD(4, pulses + 2048, 64);
            GC_TILE_PULSES(2, 4, 7);
            GC_TILE_LOAD(5, pulses + 1024, 64);
            GC_TILE_PULSES(1, 5, 7);
            if (planes.bytes[n] < 3) continue;
            GC_TILE_LOAD(6, pulses, 64);
            GC_TILE_PULSES(0, 6, 7);
        }
        GC_TILE_STORE(0, sums[0], 64);
        GC_TILE_STORE(1, sums[planes.wide], 64);
        GC_TILE_STORE(2, sums[2 * planes.wide], 64);
    }
    settle_memory();
#else
    const auto add = [&](int64_t byte, int64_t m0, int64_t tile, auto &sum) {
        for (int64_t n = 0; n < planes.count; ++n)
            if (byte + planes.bytes[n] >= 3)
                add_products(sum, w.pulses + 3072 * n + 1024 * byte + 64 * m0, 64, value + n * plane + 1024 * tile, 1024);
    };
    for (int64_t byte = 0; byte < 3; ++byte)
        for (int64_t m0 = 0; m0 < rows; m0 += kRows) {
            Sums *sums = w.charge + byte * planes.wide;
            int64_t tile = 0;
            for (; tile + 4 <= planes.wide; tile += 4)
                with_sums<4>(sums + tile, m0, fresh, [&](auto &sum) { add(byte, m0, tile, sum); });
            for (; tile < planes.wide; ++tile)
                with_sums<1>(sums + tile, m0, fresh, [&](auto &sum) { add(byte, m0, tile, sum); });
        }
#endif
}

// Queries i ... i + 15 and columns j ... j + 63.
struct Place {
    int64_t i, j, window, begin, end;  // keys are of tokens begin ... end - 1
    bool sees_nothing() const { return j > i + kStrip - 1 || j + kPiece - 1 <= i - window || j >= end || j + kPiece <= begin; }
    bool sees_all() const { return j + kPiece - 1 <= i && j > i + kStrip - 1 - window && j >= begin && j + kPiece <= end; }
};

// Pulses of a strip in bytes, from w.scores; adds those of a row to `total`. The bytes of four columns stay together, those
// of the 64 in the order that unpacking leaves: byte 16 l + 4 c + e is of column 16 c + 4 l + e.
template <bool Masked>
inline void pulses_of(const Planes &planes, const Strips &w, int64_t row, int64_t rows, const Place &at, Vec *total) {
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i number = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const Vec ceiling = broadcast(planes.root);
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t x = planes.middle + at.j - at.i - r;
        Vec a[4];
        for (int64_t c = 0; c < 4; ++c) {
            a[c] = broadcast(w.start[row + r]);
            for (int64_t n = 0; n < planes.count; ++n)
                a[c] = fma(to_floats(w.scores[4 * n + c][r]), load(planes.charge[n] + x + 16 * c), a[c]);
            a[c] = bounded(a[c], Vec{}, ceiling);
            if (Masked) {
                const auto since = [&](int64_t j) {
                    return _mm512_cmpge_epi32_mask(number, _mm512_set1_epi32(int32_t(std::min<int64_t>(64, std::max<int64_t>(-64, j - at.j - 16 * c)))));
                };
                const int64_t i = at.i + r;
                const __mmask16 seen = since(std::max(at.begin, i - at.window + 1)) & __mmask16(~since(std::min(at.end, i + 1)));
                a[c] = (Vec)_mm512_maskz_mov_ps(seen, (__m512)a[c]);
            }
            total[r] = total[r] + a[c];
        }
        for (int64_t n = 0; n < planes.count; ++n) {
            __m512i part[4];
            for (int64_t c = 0; c < 4; ++c)
                part[c] = _mm512_shuffle_epi8(_mm512_cvtps_epi32((__m512)(a[c] * load(planes.charge[n] + x + 16 * c))), order);
            uint8_t *to = w.pulses + 3072 * n + 64 * r;
            const __m512i left = _mm512_unpacklo_epi32(part[0], part[1]), right = _mm512_unpacklo_epi32(part[2], part[3]);
            _mm512_store_si512(to + 2048, _mm512_unpacklo_epi64(left, right));
            _mm512_store_si512(to + 1024, _mm512_unpackhi_epi64(left, right));
            if (planes.bytes[n] == 3)
                _mm512_store_si512(to, _mm512_unpacklo_epi64(_mm512_unpackhi_epi32(part[0], part[1]), _mm512_unpackhi_epi32(part[2], part[3])));
        }
    }
}

// Saturates and digitises the charge of a strip, adds it to w.sum, and notes where it was not saturated.
template <int Readout>
inline void read_strip(const gc_problem &p, const Sizes &s, const Planes &planes, const Block &b, const Strips &w, int64_t row,
                       int64_t rows, int64_t tile, const Vec *total) {
    float rest[kStrip];
    store(rest, sum_each(total) * (p.cells.constant * p.output_scale / planes.root));
    const Vec edge = broadcast(p.output_ceiling ? p.steps * (1.0f - p.output_margin) : INFINITY), unit = broadcast(planes.unit);
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t query = b.bh * p.queries + b.i0 - p.first_query + row + r;
        uint8_t *open = p.open ? p.open + (query * s.tiles + tile) * s.open_bytes : nullptr;
        for (int64_t n = 0; n < planes.wide; ++n) {
            const Vec less = fma(to_floats(w.charge[planes.wide + n][r]), broadcast(256.0f), to_floats(w.charge[2 * planes.wide + n][r]));
            const Vec o = fma(fma(to_floats(w.charge[n][r]), broadcast(65536.0f), less), unit, broadcast(rest[r]));
            if (open) {
                const uint32_t bits = _mm512_cmplt_ps_mask(_mm512_abs_ps((__m512)o), (__m512)edge);
                open[2 * n] = uint8_t(bits);
                if (2 * n + 1 < s.open_bytes) open[2 * n + 1] = uint8_t(bits >> 8);
            }
            float *sum = w.sum + (row + r) * s.dp + 16 * n;
            store(sum, load(sum) + digitised(o, p.output_ceiling, p.steps, Readout));
        }
    }
}

inline bool forward_block(const gc_problem &p, const Sizes &s, const Planes &planes, const Block &b, const Strips &w) {
    const bool all_finite = drive_codes(p, s, planes, b, w);
    std::memset(w.sum, 0, size_t((b.i1 - b.i0) * s.dp) * 4);
    const Reach reach = reach_of(p, s, b);
    for (int64_t newest = std::max(reach.first, reach.last - s.tiles + 1); newest <= reach.last; ++newest)
        for (int64_t row = 0; row < b.i1 - b.i0; row += kStrip) {
            const int64_t rows = std::min(kStrip, b.i1 - b.i0 - row);
            Vec total[kStrip] = {};
            bool fresh = true;
            for (int64_t piece = newest; piece >= reach.first; piece -= s.tiles) {
                const Place at{b.i0 + row, (s.first_piece + piece) * kPiece, p.window, p.first_key, p.first_key + p.keys};
                if (at.sees_nothing()) continue;
                const int64_t stored = b.kv_row * s.pieces + piece;
                read_keys(planes, w, row, rows, planes.key + stored * planes.key_bytes);
                (at.sees_all() ? pulses_of<false> : pulses_of<true>)(planes, w, row, rows, at, total);
                read_values(planes, w, rows, planes.value + stored * planes.value_bytes, fresh);
                fresh = false;
            }
            if (fresh) continue;
            constexpr auto readers = std::array{read_strip<0>, read_strip<1>, read_strip<2>, read_strip<3>};
            readers[size_t(p.readout)](p, s, planes, b, w, row, rows, (s.first_piece + newest) % s.tiles, total);
        }
    for (int64_t i = 0; i < b.i1 - b.i0; ++i) write_out(p, s, b, i, w.sum + i * s.dp);
    return all_finite;
}

}  // namespace
}  // namespace GC_LEVEL
}  // namespace gc
#endif
