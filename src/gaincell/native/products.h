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

// Sums of products in bf16 take their terms in pairs: term t of every 2 kWidth beside term t + kWidth.
inline int64_t pairs_of(int64_t terms) { return (terms + 2 * kWidth - 1) / (2 * kWidth) * kWidth; }

// [rows][terms] -> [rows][pairs]; terms are a multiple of 16.
inline void pair_along(const float *from, int64_t rows, int64_t terms, int32_t *to) {
    for (int64_t r = 0; r < rows; ++r, from += terms)
        for (int64_t t = 0; t < terms; t += 2 * kWidth, to += kWidth) {
            const IntVec both = in_bf16(load(from + t), t + kWidth < terms ? load(from + t + kWidth) : Vec{});
            std::memcpy(to, &both, sizeof both);
        }
}

// [terms][columns] -> [pairs][columns]; both are multiples of 16.
inline void pair_rows(const float *from, int64_t terms, int64_t columns, int32_t *to) {
    for (int64_t t = 0; t < terms; t += t % kWidth == kWidth - 1 ? kWidth + 1 : 1)
        for (int64_t n = 0; n < columns; n += kWidth, to += kWidth) {
            const float *above = from + t * columns + n;
            const IntVec both = in_bf16(load(above), t + kWidth < terms ? load(above + kWidth * columns) : Vec{});
            std::memcpy(to, &both, sizeof both);
        }
}

// sums[m][n] = sum over pairs k of a[m * pairs + k] times b[k * ldb + n], in float32, of a register block.
template <int64_t W>
void multiply_pairs_emulated(int64_t pairs, const int32_t *a, const int32_t *b, int64_t ldb, float *sums) {
    Vec sum[kRows][W] = {};
    for (int64_t k = 0; k < pairs; ++k) {
        Vec first[W], second[W];
        GC_UNROLLED for (int64_t w = 0; w < W; ++w) {
            IntVec both;
            std::memcpy(&both, b + k * ldb + w * kWidth, sizeof both);
            first[w] = (Vec)(both << 16);
            second[w] = (Vec)(both & int32_t(0xffff0000));
        }
        GC_UNROLLED for (int64_t m = 0; m < kRows; ++m) {
            const IntVec both = a[m * pairs + k] - IntVec{};
            const Vec x = (Vec)(both << 16), y = (Vec)(both & int32_t(0xffff0000));
            GC_UNROLLED for (int64_t w = 0; w < W; ++w) sum[m][w] = fma(y, second[w], fma(x, first[w], sum[m][w]));
        }
    }
    GC_UNROLLED for (int64_t m = 0; m < kRows; ++m)
        GC_UNROLLED for (int64_t w = 0; w < W; ++w) store(sums + (m * W + w) * kWidth, sum[m][w]);
}

#if defined(__AVX512F__)
template <int64_t W>
__attribute__((target("avx512bf16"))) void multiply_pairs_bf16(int64_t pairs, const int32_t *a, const int32_t *b,
                                                               int64_t ldb, float *sums) {
    __m512 sum[kRows][W];
    GC_UNROLLED for (int64_t m = 0; m < kRows; ++m)
        GC_UNROLLED for (int64_t w = 0; w < W; ++w) sum[m][w] = _mm512_setzero_ps();
    for (int64_t k = 0; k < pairs; ++k) {
        __m512bh bk[W];
        GC_UNROLLED for (int64_t w = 0; w < W; ++w) bk[w] = (__m512bh)_mm512_loadu_si512(b + k * ldb + w * 16);
        GC_UNROLLED for (int64_t m = 0; m < kRows; ++m) {
            const __m512bh x = (__m512bh)_mm512_set1_epi32(a[m * pairs + k]);
            GC_UNROLLED for (int64_t w = 0; w < W; ++w) sum[m][w] = _mm512_dpbf16_ps(sum[m][w], x, bk[w]);
        }
    }
    GC_UNROLLED for (int64_t m = 0; m < kRows; ++m)
        GC_UNROLLED for (int64_t w = 0; w < W; ++w) _mm512_storeu_ps(sums + (m * W + w) * 16, sum[m][w]);
}

// Whether the processor multiplies in bf16; known from loading on, see dispatch.cpp.
const bool has_bf16 = (__builtin_cpu_init(), __builtin_cpu_supports("avx512bf16"));
#endif

// C[m][n] = sum over pairs k of a[m * pairs + k] times b[k * columns + n], see `multiply`.
template <class Put>
inline void multiply_pairs(int64_t rows, int64_t columns, int64_t pairs, const int32_t *a, const int32_t *b, Put put) {
#if defined(GC_TILES)
    return multiply_tiles<float>(rows, columns, pairs / 16, a, 4 * pairs, b, put);
#endif
    auto *wide = multiply_pairs_emulated<kWide>, *narrow = multiply_pairs_emulated<1>;
#if defined(__AVX512F__)
    if (has_bf16) wide = multiply_pairs_bf16<kWide>, narrow = multiply_pairs_bf16<1>;
#endif
    float sums[kRows * kWide * kWidth];
    for (int64_t n0 = 0, vectors; n0 < columns; n0 += vectors * kWidth) {
        vectors = n0 + kWide * kWidth <= columns ? kWide : 1;
        for (int64_t m0 = 0; m0 < rows; m0 += kRows) {
            (vectors == kWide ? wide : narrow)(pairs, a + m0 * pairs, b + n0, columns, sums);
            for (int64_t m = 0; m < kRows; ++m)
                for (int64_t w = 0; w < vectors; ++w) put(m0 + m, n0 + w * kWidth, load(sums + (m * vectors + w) * kWidth));
        }
    }
}

#if defined(GC_INTEGERS)
// As `multiply` for a [rows][4 * quads] signed bytes and b [quads][columns][4] unsigned bytes, exact.
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
    return multiply_tiles<int32_t>(rows, columns, (quads + 15) / 16, a, row, b, put);
#endif
    int64_t n0 = 0;
    for (; n0 + 64 <= columns; n0 += 64) multiply_bytes_panel<4>(rows, quads, a, row, b, columns, n0, put);
    for (; n0 < columns; n0 += 16) multiply_bytes_panel<1>(rows, quads, a, row, b, columns, n0, put);
}
#endif

}  // namespace
}  // namespace GC_LEVEL
}  // namespace gc
