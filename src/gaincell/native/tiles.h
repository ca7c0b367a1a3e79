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
#define GC_TILE_PULSES(c, a, b) _tile_dpbusd(c, a, b)
#elif defined(GC_EMULATED_TILES) && defined(__AVX512F__)
#define GC_TILES 1
#define GC_TILE_LOAD(n, from, stride) emulated_load(n, from, stride)
#define GC_TILE_STORE(n, to, stride) emulated_store(n, to, stride)
#define GC_TILE_ZERO(n) std::memset(emulated_tiles[n], 0, 1024)
#define GC_TILE_UNSIGNED(c, a, b) (emulated_bytes<int8_t, uint8_t>(c, a, b))
#define GC_TILE_PULSES(c, a, b) (emulated_bytes<uint8_t, int8_t>(c, a, b))
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

// C[m][n] += sum_k a[m][k] b[k / 4][n][k % 4], bytes, signed or not.
template <class A, class B>
inline void emulated_bytes(int c, int a, int b) {
    for (int64_t m = 0; m < 16; ++m)
        for (int64_t n = 0; n < 16; ++n) {
            int32_t sum = element<int32_t>(c, m, n);
            for (int64_t k = 0; k < 64; ++k)
                sum += int32_t(element<A>(a, m, k)) * int32_t(element<B>(b, k / 4, 4 * n + k % 4));
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

// C[m][n] = sum over `steps` times 64 k of a [rows], signed, `stride` bytes apart, and b [steps][16][columns][4], unsigned, to be 0
// beyond the sum's length; rows and columns are multiples of 16. `put(m, n, sum)` receives 16 neighbouring sums of row m.
template <class Put>
inline void multiply_tiles(int64_t rows, int64_t columns, int64_t steps, const int8_t *a, int64_t stride, const uint8_t *b,
                           Put put) {
    alignas(64) int32_t sums[4][16][16];  // above, above right, below, below right
    for (int64_t m0 = 0; m0 < rows; m0 += 32)
        for (int64_t n0 = 0; n0 < columns; n0 += 32) {
            const bool below = m0 + 16 < rows, beside = n0 + 16 < columns;
            clear_tiles();
            for (int64_t step = 0; step < steps; ++step) {
                const int8_t *left = a + m0 * stride + 64 * step;
                const uint8_t *right = b + 4 * n0 + 64 * step * columns;
                GC_TILE_LOAD(4, left, stride);
                GC_TILE_LOAD(6, right, columns * 4);
                GC_TILE_UNSIGNED(0, 4, 6);
                if (beside) {
                    GC_TILE_LOAD(7, right + 64, columns * 4);
                    GC_TILE_UNSIGNED(1, 4, 7);
                }
                if (!below) continue;
                GC_TILE_LOAD(5, left + 16 * stride, stride);
                GC_TILE_UNSIGNED(2, 5, 6);
                if (beside) GC_TILE_UNSIGNED(3, 5, 7);
            }
            store_tiles(sums);
            for (int64_t part = 0; part < 4; ++part) {
                if ((part / 2 && !below) || (part % 2 && !beside)) continue;
                for (int64_t m = 0; m < 16; ++m)
                    put(m0 + 16 * (part / 2) + m, n0 + 16 * (part % 2), to_floats(sums[part][m]));
            }
        }
}

}  // namespace
}  // namespace GC_LEVEL
}  // namespace gc
#endif
