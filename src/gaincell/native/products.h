// Matrix products in a core's registers, with whatever is done to their results as they leave them.
#pragma once

#include "tiles.h"
#include "vector.h"

#if defined(__AVX512VNNI__)
#define GC_INTEGERS 1
#endif
// Whole loops over a register block: an array of sums stays in registers only where every index is a constant.
#define GC_UNROLLED _Pragma("GCC unroll 16")

namespace gc {
namespace GC_LEVEL {
namespace {

constexpr int64_t kRows = 4;                            // rows of the register block
constexpr int64_t kWide = GC_WIDTH == 16 ? 4 : 2;       // vectors of the register block

// C[m][n] = sum_k a[m * row + k * step] * b[k * ldb + n]; `put(m, n, vector)` receives the sums.
// rows and columns are multiples of 16.
template <int64_t W, class Put>
inline void multiply_panel(int64_t rows, int64_t depth, const float *a, int64_t row, int64_t step, const float *b,
                           int64_t ldb, int64_t n0, Put put) {
    for (int64_t m0 = 0; m0 < rows; m0 += kRows) {
        Vec sum[kRows][W] = {};
        const float *am = a + m0 * row;
        for (int64_t k = 0; k < depth; ++k) {
            Vec bk[W];
            GC_UNROLLED for (int64_t w = 0; w < W; ++w) bk[w] = load(b + k * ldb + n0 + w * kWidth);
            GC_UNROLLED for (int64_t m = 0; m < kRows; ++m) {
                const Vec x = broadcast(am[m * row + k * step]);
                GC_UNROLLED for (int64_t w = 0; w < W; ++w) sum[m][w] = fma(x, bk[w], sum[m][w]);
            }
        }
        GC_UNROLLED for (int64_t m = 0; m < kRows; ++m)
            GC_UNROLLED for (int64_t w = 0; w < W; ++w) put(m0 + m, n0 + w * kWidth, sum[m][w]);
    }
}

template <class Put>
inline void multiply(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t row, int64_t step,
                     const float *b, int64_t ldb, Put put) {
    int64_t n0 = 0;
    for (; n0 + kWide * kWidth <= columns; n0 += kWide * kWidth)
        multiply_panel<kWide>(rows, depth, a, row, step, b, ldb, n0, put);
    for (; n0 < columns; n0 += kWidth) multiply_panel<1>(rows, depth, a, row, step, b, ldb, n0, put);
}

#if defined(GC_INTEGERS)
// The same for a [rows][4 * quads] signed bytes and b [quads][columns][4] unsigned bytes, exact.
template <int64_t W, class Put>
inline void multiply_bytes_panel(int64_t rows, int64_t quads, const int8_t *a, int64_t row, const uint8_t *b,
                                 int64_t columns, int64_t n0, Put put) {
    for (int64_t m0 = 0; m0 < rows; m0 += kRows) {
        __m512i sum[kRows][W];
        GC_UNROLLED for (int64_t m = 0; m < kRows; ++m)
            GC_UNROLLED for (int64_t w = 0; w < W; ++w) sum[m][w] = _mm512_setzero_si512();
        for (int64_t k = 0; k < quads; ++k) {
            __m512i bk[W];
            GC_UNROLLED for (int64_t w = 0; w < W; ++w) bk[w] = _mm512_loadu_si512(b + 4 * (k * columns + n0 + w * 16));
            GC_UNROLLED for (int64_t m = 0; m < kRows; ++m) {
                int32_t four;
                std::memcpy(&four, a + (m0 + m) * row + 4 * k, 4);
                const __m512i x = _mm512_set1_epi32(four);
                GC_UNROLLED for (int64_t w = 0; w < W; ++w) sum[m][w] = _mm512_dpbusd_epi32(sum[m][w], bk[w], x);
            }
        }
        GC_UNROLLED for (int64_t m = 0; m < kRows; ++m)
            GC_UNROLLED for (int64_t w = 0; w < W; ++w) put(m0 + m, n0 + w * 16, (Vec)_mm512_cvtepi32_ps(sum[m][w]));
    }
}

template <class Put>
inline void multiply_bytes(int64_t rows, int64_t columns, int64_t quads, const int8_t *a, int64_t row,
                           const uint8_t *b, Put put) {
#if defined(GC_TILES)
    return multiply_tiles(rows, columns, (quads + 15) / 16, a, row, b, put);
#endif
    int64_t n0 = 0;
    for (; n0 + 64 <= columns; n0 += 64) multiply_bytes_panel<4>(rows, quads, a, row, b, columns, n0, put);
    for (; n0 < columns; n0 += 16) multiply_bytes_panel<1>(rows, quads, a, row, b, columns, n0, put);
}
#endif

}  // namespace
}  // namespace GC_LEVEL
}  // namespace gc
