// Matrix products in tiles (AMX): registers of 16 rows of 64 bytes. GC_EMULATED_TILES computes the same in plain code,
// so that what is built on tiles can be tested on a processor that has none.
#pragma once

#include <type_traits>

#include "vector.h"

#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__AVX512F__)
#define GC_TILES 1
#define GC_TILE_LOAD(n, from, stride) _tile_loadd(n, from, stride)
#define GC_TILE_STORE(n, to, stride) _tile_stored(n, to, stride)
#define GC_TILE_ZERO(n) _tile_zero(n)
#define GC_TILE_UNSIGNED(c, a, b) _tile_dpbsud(c, a, b)
#define GC_TILE_PULSES(c, a, b) _tile_dpbusd(c, a, b)
#define GC_TILE_BF16(c, a, b) _tile_dpbf16ps(c, a, b)
#elif defined(GC_EMULATED_TILES) && defined(__AVX512F__)
#define GC_TILES 1
#define GC_TILE_LOAD(n, from, stride) emulated_load(n, from, stride)
#define GC_TILE_STORE(n, to, stride) emulated_store(n, to, stride)
#define GC_TILE_ZERO(n) std::memset(emulated_tiles[n], 0, 1024)
#define GC_TILE_UNSIGNED(c, a, b) (emulated_bytes<int8_t, uint8_t>(c, a, b))
#define GC_TILE_PULSES(c, a, b) (emulated_bytes<uint8_t, int8_t>(c, a, b))
#define GC_TILE_BF16(c, a, b) emulated_bf16(c, a, b)
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

// C[m][n] += sum_k a[m][k] b[k][n], pairs of bf16, in float32.
inline void emulated_bf16(int c, int a, int b) {
    const auto in_float = [](uint32_t bits) {
        float x;
        std::memcpy(&x, &bits, 4);
        return x;
    };
    for (int64_t m = 0; m < 16; ++m)
        for (int64_t n = 0; n < 16; ++n) {
            float sum = element<float>(c, m, n);
            for (int64_t k = 0; k < 16; ++k) {
                const uint32_t left = element<uint32_t>(a, m, k), right = element<uint32_t>(b, k, n);
                sum += in_float(left << 16) * in_float(right << 16);
                sum += in_float(left & 0xffff0000u) * in_float(right & 0xffff0000u);
            }
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

template <class Sum>
inline void store_tiles(Sum (*sums)[16][16]) {
    GC_TILE_STORE(0, sums[0], 64);
    GC_TILE_STORE(1, sums[1], 64);
    GC_TILE_STORE(2, sums[2], 64);
    GC_TILE_STORE(3, sums[3], 64);
    settle_memory();
}

inline Vec summed(const int32_t *sums) { return to_floats(sums); }
inline Vec summed(const float *sums) { return load(sums); }

#define GC_TILE_PRODUCT(c, a, b)                      \
    do {                                              \
        if constexpr (std::is_same_v<Sum, int32_t>)   \
            GC_TILE_UNSIGNED(c, a, b);                \
        else                                          \
            GC_TILE_BF16(c, a, b);                    \
    } while (false)

// C[m][n] = sum over `steps` times 64 bytes of a [rows], `stride` bytes apart, and b [steps][16][columns] of 4 bytes, to be 0 beyond
// the sum's length; rows and columns are multiples of 16. Sums are int32_t of a's signed bytes and b's unsigned ones, or float of
// pairs of bf16. `put(m, n, sum)` receives 16 neighbouring sums of row m.
template <class Sum, class Put>
inline void multiply_tiles(int64_t rows, int64_t columns, int64_t steps, const void *a, int64_t stride, const void *b, Put put) {
    alignas(64) Sum sums[4][16][16];  // above, above right, below, below right
    for (int64_t m0 = 0; m0 < rows; m0 += 32)
        for (int64_t n0 = 0; n0 < columns; n0 += 32) {
            const bool below = m0 + 16 < rows, beside = n0 + 16 < columns;
            clear_tiles();
            for (int64_t step = 0; step < steps; ++step) {
                const char *left = static_cast<const char *>(a) + m0 * stride + 64 * step;
                const char *right = static_cast<const char *>(b) + 4 * n0 + 64 * step * columns;
                GC_TILE_LOAD(4, left, stride);
                GC_TILE_LOAD(6, right, columns * 4);
                GC_TILE_PRODUCT(0, 4, 6);
                if (beside) {
                    GC_TILE_LOAD(7, right + 64, columns * 4);
                    GC_TILE_PRODUCT(1, 4, 7);
                }
                if (!below) continue;
                GC_TILE_LOAD(5, left + 16 * stride, stride);
                GC_TILE_PRODUCT(2, 5, 6);
                if (beside) GC_TILE_PRODUCT(3, 5, 7);
            }
            store_tiles(sums);
            for (int64_t part = 0; part < 4; ++part) {
                if ((part / 2 && !below) || (part % 2 && !beside)) continue;
                for (int64_t m = 0; m < 16; ++m)
                    put(m0 + 16 * (part / 2) + m, n0 + 16 * (part % 2), summed(sums[part][m]));
            }
        }
}

}  // namespace
}  // namespace GC_LEVEL
}  // namespace gc
#endif
