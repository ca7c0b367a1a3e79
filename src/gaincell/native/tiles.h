// Matrix products in tiles (AMX): registers of 16 rows of 64 bytes. GC_EMULATED_TILES computes the same in plain code,
// so that what is built on tiles can be tested on a processor that has none.
#pragma once

#include "vector.h"

#if defined(__AMX_INT8__) && defined(__AVX512F__)
#define GC_TILES 1
#define GC_TILE_LOAD(n, from, stride) _tile_loadd(n, from, stride)
#define GC_TILE_STORE(n, to, stride) _tile_stored(n, to, stride)
#define GC_TILE_ZERO(n) _tile_zero(n)
#define GC_TILE_UNSIGNED(c, a, b) _tile_dpbsud(c, a, b)
#define GC_TILE_SIGNED(c, a, b) _tile_dpbssd(c, a, b)
#elif defined(GC_EMULATED_TILES) && defined(__AVX512F__)
#define GC_TILES 1
#define GC_TILE_LOAD(n, from, stride) emulated_load(n, from, stride)
#define GC_TILE_STORE(n, to, stride) emulated_store(n, to, stride)
#define GC_TILE_ZERO(n) std::memset(emulated_tiles[n], 0, 1024)
#define GC_TILE_UNSIGNED(c, a, b) emulated_bytes<uint8_t>(c, a, b)
#define GC_TILE_SIGNED(c, a, b) emulated_bytes<int8_t>(c, a, b)
#endif

#if defined(GC_TILES)
namespace gc {
namespace GC_LEVEL {
namespace {

#if defined(GC_EMULATED_TILES)
alignas(64) thread_local uint8_t emulated_tiles[8][1024];

inline void emulated_load(int n, const void *from, int64_t stride) {
    for (int64_t r = 0; r < 16; ++r) std::memcpy(emulated_tiles[n] + 64 * r, static_cast<const char *>(from) + r * stride, 64);
}

inline void emulated_store(int n, void *to, int64_t stride) {
    for (int64_t r = 0; r < 16; ++r) std::memcpy(static_cast<char *>(to) + r * stride, emulated_tiles[n] + 64 * r, 64);
}

template <class T>
inline T element(int tile, int64_t row, int64_t n) {
    T x;
    std::memcpy(&x, emulated_tiles[tile] + 64 * row + n * int64_t(sizeof(T)), sizeof(T));
    return x;
}

// C[m][n] += sum_k a[m][k] b[k / 4][n][k % 4], bytes: a is signed, b as B says.
template <class B>
inline void emulated_bytes(int c, int a, int b) {
    for (int64_t m = 0; m < 16; ++m)
        for (int64_t n = 0; n < 16; ++n) {
            int32_t sum = element<int32_t>(c, m, n);
            for (int64_t k = 0; k < 64; ++k)
                sum += int32_t(element<int8_t>(a, m, k)) * int32_t(element<B>(b, k / 4, 4 * n + k % 4));
            std::memcpy(emulated_tiles[c] + 64 * m + 4 * n, &sum, 4);
        }
}

struct TilesInUse {
    TilesInUse() {}  // not trivial: its use is seen by compilers
};
#else
// While it lives this thread's tiles are set up: all of them 16 rows of 64 bytes.
struct TilesInUse {
    TilesInUse() {
        struct alignas(64) {
            uint8_t palette, start, reserved[14];
            uint16_t bytes[16];
            uint8_t rows[16];
        } all = {};
        all.palette = 1;
        for (int n = 0; n < 8; ++n) {
            all.bytes[n] = 64;
            all.rows[n] = 16;
        }
        _tile_loadconfig(&all);
    }
    ~TilesInUse() { _tile_release(); }
    TilesInUse(const TilesInUse &) = delete;
    TilesInUse &operator=(const TilesInUse &) = delete;
};
#endif

// Compilers do not see that tiles are loaded from memory, or stored to it.
inline void settle_memory() { asm volatile("" ::: "memory"); }

inline void clear_tiles() {
    settle_memory();
    GC_TILE_ZERO(0);
    GC_TILE_ZERO(1);
    GC_TILE_ZERO(2);
    GC_TILE_ZERO(3);
}

inline void store_tiles(int32_t (*sums)[16][16]) {
    GC_TILE_STORE(0, sums[0], 64);
    GC_TILE_STORE(1, sums[1], 64);
    GC_TILE_STORE(2, sums[2], 64);
    GC_TILE_STORE(3, sums[3], 64);
    settle_memory();
}

inline Vec to_floats(const int32_t *sums) { return (Vec)_mm512_cvtepi32_ps(_mm512_load_si512(sums)); }

// Adds to tiles 0 to 3, sums over steps of 64 bytes of a: [rows] signed, `stride` bytes apart, and b: [steps][16][columns][4], unsigned or
// signed, to be 0 beyond the sum's length. rows and columns are multiples of 16.
template <bool Signed>
inline void add_tiles(int64_t steps, const int8_t *a, int64_t stride, const void *b, int64_t columns, bool below, bool beside) {
    for (int64_t step = 0; step < steps; ++step) {
        const int8_t *left = a + 64 * step;
        const char *right = static_cast<const char *>(b) + 64 * step * columns;
        GC_TILE_LOAD(4, left, stride);
        GC_TILE_LOAD(6, right, columns * 4);
        if (Signed) GC_TILE_SIGNED(0, 4, 6); else GC_TILE_UNSIGNED(0, 4, 6);
        if (beside) {
            GC_TILE_LOAD(7, right + 64, columns * 4);
            if (Signed) GC_TILE_SIGNED(1, 4, 7); else GC_TILE_UNSIGNED(1, 4, 7);
        }
        if (!below) continue;
        GC_TILE_LOAD(5, left + 16 * stride, stride);
        if (Signed) GC_TILE_SIGNED(2, 5, 6); else GC_TILE_UNSIGNED(2, 5, 6);
        if (!beside) continue;
        if (Signed) GC_TILE_SIGNED(3, 5, 7); else GC_TILE_UNSIGNED(3, 5, 7);
    }
}

using Sums = int32_t[4][16][16];  // of up to 32 rows and columns: above, above right, below, below right

// C[m][n] = sum_k of signed a and unsigned b, as above; `put(m, n, sum)` receives 16 neighbouring sums of row m.
template <class Put>
inline void multiply_tiles(int64_t rows, int64_t columns, int64_t steps, const int8_t *a, int64_t stride, const uint8_t *b,
                           Put put) {
    alignas(64) Sums sums;
    for (int64_t m0 = 0; m0 < rows; m0 += 32)
        for (int64_t n0 = 0; n0 < columns; n0 += 32) {
            const bool below = m0 + 16 < rows, beside = n0 + 16 < columns;
            clear_tiles();
            add_tiles<false>(steps, a + m0 * stride, stride, b + 4 * n0, columns, below, beside);
            store_tiles(sums);
            for (int64_t part = 0; part < 4; ++part) {
                if ((part / 2 && !below) || (part % 2 && !beside)) continue;
                for (int64_t m = 0; m < 16; ++m)
                    put(m0 + 16 * (part / 2) + m, n0 + 16 * (part % 2), to_floats(sums[part][m]));
            }
        }
}

// C[m][n] = sum over terms and k of a signed times b in 24 bits, three bytes of which are given apart:
// b = 65536 high + 256 middle + low.
struct Term {
    const int8_t *a;
    const uint8_t *high, *middle, *low;
};

template <class Put>
inline void multiply_wide_tiles(int64_t rows, int64_t columns, int64_t steps, const Term *terms, int64_t count, int64_t stride,
                                Put put) {
    alignas(64) Sums high, middle, low;
    for (int64_t m0 = 0; m0 < rows; m0 += 32)
        for (int64_t n0 = 0; n0 < columns; n0 += 32) {
            const bool below = m0 + 16 < rows, beside = n0 + 16 < columns;
            clear_tiles();
            for (int64_t t = 0; t < count; ++t)
                add_tiles<true>(steps, terms[t].a + m0 * stride, stride, terms[t].high + 4 * n0, columns, below, beside);
            store_tiles(high);
            clear_tiles();
            for (int64_t t = 0; t < count; ++t)
                add_tiles<false>(steps, terms[t].a + m0 * stride, stride, terms[t].middle + 4 * n0, columns, below, beside);
            store_tiles(middle);
            clear_tiles();
            for (int64_t t = 0; t < count; ++t)
                add_tiles<false>(steps, terms[t].a + m0 * stride, stride, terms[t].low + 4 * n0, columns, below, beside);
            store_tiles(low);
            for (int64_t part = 0; part < 4; ++part) {
                if ((part / 2 && !below) || (part % 2 && !beside)) continue;
                for (int64_t m = 0; m < 16; ++m) {
                    const Vec less = fma(to_floats(middle[part][m]), broadcast(256.0f), to_floats(low[part][m]));
                    put(m0 + 16 * (part / 2) + m, n0 + 16 * (part % 2),
                        fma(to_floats(high[part][m]), broadcast(65536.0f), less));
                }
            }
        }
}

// The three bytes of four rows of 16 numbers of at most 24 bits, rounded; bytes of the four rows alternate.
inline void split(const Vec *rows, uint8_t *high, uint8_t *middle, uint8_t *low) {
    const __m512i byte = _mm512_set1_epi32(255);
    __m512i parts[3] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    for (int row = 3; row >= 0; --row) {
        __m512i n = _mm512_cvtps_epi32((__m512)rows[row]);
        for (int part = 0; part < 3; ++part) {
            parts[part] = _mm512_or_si512(_mm512_slli_epi32(parts[part], 8), _mm512_and_si512(n, byte));
            n = _mm512_srai_epi32(n, 8);
        }
    }
    _mm512_storeu_si512(low, parts[0]);
    _mm512_storeu_si512(middle, parts[1]);
    _mm512_storeu_si512(high, parts[2]);
}

}  // namespace
}  // namespace GC_LEVEL
}  // namespace gc
#endif
