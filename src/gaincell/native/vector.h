// A vector of floats of the width of the level being compiled, and the few operations the kernels need.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#define GC_WIDTH 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define GC_WIDTH 8
#else
#define GC_WIDTH 4
#endif

namespace gc {
namespace GC_LEVEL {
namespace {

typedef float Vec __attribute__((vector_size(GC_WIDTH * 4)));
typedef int32_t IntVec __attribute__((vector_size(GC_WIDTH * 4)));
constexpr int64_t kWidth = GC_WIDTH;

static inline Vec load(const float *p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float *p, Vec v) { std::memcpy(p, &v, sizeof v); }

static inline Vec broadcast(float x) { return x - Vec{}; }

static inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

static inline Vec select(IntVec mask, Vec a, Vec b) {
    return (Vec)((mask & (IntVec)a) | (~mask & (IntVec)b));
}

// min(high, max(low, x)); what is not a number stays so.
static inline Vec clamp(Vec x, float low, float high) {
    const Vec l = broadcast(low), h = broadcast(high);
#if defined(__AVX512F__)
    return (Vec)_mm512_min_ps((__m512)h, _mm512_max_ps((__m512)l, (__m512)x));
#elif defined(__AVX2__)
    return (Vec)_mm256_min_ps((__m256)h, _mm256_max_ps((__m256)l, (__m256)x));
#else
    x = select(x < l, l, x);
    return select(x > h, h, x);
#endif
}

static inline Vec square_root(Vec x) {
#if defined(__AVX512F__)
    return (Vec)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (Vec)_mm256_sqrt_ps((__m256)x);
#else
    for (int64_t n = 0; n < kWidth; ++n) x[n] = __builtin_sqrtf(x[n]);
    return x;
#endif
}

static inline Vec truncated(Vec x) { return __builtin_convertvector(__builtin_convertvector(x, IntVec), Vec); }

// Whether all elements are finite numbers.
static inline bool finite(Vec x) {
    const IntVec good = (x - x) == broadcast(0.0f);
    bool all = true;
    for (int64_t n = 0; n < kWidth; ++n) all &= good[n] != 0;
    return all;
}

// Whether an element is not 0.
static inline bool not_zero(Vec x) {
#if defined(__AVX512F__)
    return _mm512_cmpneq_ps_mask((__m512)x, _mm512_setzero_ps()) != 0;
#else
    const IntVec found = x != Vec{};
    bool any = false;
    for (int64_t n = 0; n < kWidth; ++n) any |= found[n] != 0;
    return any;
#endif
}

// n floats or kWidth, the rest `fill`.
static inline Vec load_some(const float *p, int64_t n, float fill) {
    if (n >= kWidth) return load(p);
    float part[kWidth];
    for (int64_t k = 0; k < kWidth; ++k) part[k] = k < n ? p[k] : fill;
    return load(part);
}

// Stores n floats or kWidth.
static inline void store_some(float *p, Vec x, int64_t n) {
    if (n >= kWidth) return store(p, x);
    for (int64_t k = 0; k < n; ++k) p[k] = x[k];
}

// x in its first n elements, 0 in the others.
static inline Vec first_of(Vec x, int64_t n) {
    for (int64_t k = std::max<int64_t>(n, 0); k < kWidth; ++k) x[k] = 0.0f;
    return x;
}

#if defined(__AVX512F__)
static inline Vec to_floats(const int32_t *n) { return (Vec)_mm512_cvtepi32_ps(_mm512_load_si512(n)); }
#endif

// Two numbers in bf16 (rounded to nearest, halves to even) in each element, the first in its lower half.
static inline IntVec in_bf16(Vec first, Vec second) {
    const auto rounded = [](Vec x) {
        const IntVec bits = (IntVec)x, quiet = bits | 0x400000;
        return (IntVec)select(x == x, (Vec)(bits + ((bits >> 16 & 1) + 0x7fff)), (Vec)quiet);
    };
    return (rounded(first) >> 16 & 0xffff) | (rounded(second) & int32_t(0xffff0000));
}

// kWidth floats where a bit is set, the first float's bit lowest, and 0 elsewhere, where nothing is read.
static inline Vec load_where(uint32_t bits, const float *p) {
#if defined(__AVX512F__)
    return (Vec)_mm512_maskz_loadu_ps(__mmask16(bits), p);
#else
    float part[kWidth];
    for (int64_t k = 0; k < kWidth; ++k) part[k] = bits >> k & 1 ? p[k] : 0.0f;
    return load(part);
#endif
}

// max(low, min(high, x)) with low for what is not a number.
static inline Vec bounded(Vec x, Vec low, Vec high) {
#if defined(__AVX512F__)
    return (Vec)_mm512_min_ps(_mm512_max_ps((__m512)x, (__m512)low), (__m512)high);
#elif defined(__AVX2__)
    return (Vec)_mm256_min_ps(_mm256_max_ps((__m256)x, (__m256)low), (__m256)high);
#else
    x = select(x >= low, x, low);
    return select(x > high, high, x);
#endif
}

// The write DAC: codes and u = V - V_offset of requested voltages; levels = 0: no codes, u not quantised.
struct Dac {
    float low, high, middle;
    int32_t levels;
    float to_code, to_volts;
    Vec about_middle(Vec volts) const { return bounded(volts, broadcast(low), broadcast(high)) - middle; }
    // A code, and less than 1.
    Vec step(Vec volts) const {
        return bounded(about_middle(volts) * to_code + float(levels) * 0.5f, Vec{}, broadcast(float(levels - 1)));
    }
    void convert(Vec volts, Vec *code, Vec *u) const {
        *code = levels ? truncated(step(volts)) : Vec{};
        *u = levels ? (*code - float(levels - 1) * 0.5f) * to_volts : about_middle(volts);
    }
};

// The query driver: codes and pulse widths of requested widths; levels = 0: no codes.
static inline void drive(Vec width, int32_t levels, Vec *code, Vec *x) {
    *x = levels < 0 ? width : bounded(width, broadcast(0.0f), broadcast(1.0f));
    *code = broadcast(0.0f);
    if (levels <= 0) return;
    const float top = float(levels - 1);
    *code = truncated(*x * top + 0.5f);
    *x = *code / top;
}

// x^n, n >= 0.
static inline Vec power(Vec x, int32_t n) {
    Vec product = broadcast(1.0f);
    for (int32_t k = 0; k < n; ++k) product = product * x;
    return product;
}

// A sub-tile's charge in readout steps: saturated, and as the counter gives it.
static inline Vec digitised(Vec o, bool ceiling, float steps, int readout) {
    if (ceiling) o = clamp(o, -steps, steps);
    switch (readout) {
        case 1: return truncated(o + (Vec)(((IntVec)o & INT32_MIN) | 0x3f000000));  // counter: halves away from zero
        case 2: return truncated(o);                                                // counter that rounds down
        case 3: return (o + 12582912.0f) - 12582912.0f;                             // halves to even
        default: return o;
    }
}

// Entries of a table of 16 at `kWidth` codes.
static inline Vec look_up(const float *table, const uint8_t *codes) {
#if defined(__AVX512F__)
    const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(codes)));
    return (Vec)_mm512_permutexvar_ps(index, _mm512_loadu_ps(table));
#elif defined(__AVX2__)
    const __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(codes)));
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index);
    return (Vec)_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_cmpgt_epi32(index, _mm256_set1_epi32(7))));
#else
    Vec found;
    for (int n = 0; n < kWidth; ++n) found[n] = table[codes[n] & 15];
    return found;
#endif
}

// base[index].
static inline Vec gather(const float *base, IntVec index) {
#if defined(__AVX512F__)
    return (Vec)_mm512_i32gather_ps((__m512i)index, base, 4);
#elif defined(__AVX2__)
    return (Vec)_mm256_i32gather_ps(base, (__m256i)index, 4);
#else
    Vec found;
    for (int64_t n = 0; n < kWidth; ++n) found[n] = base[index[n]];
    return found;
#endif
}

// The sums over the elements of each of kWidth vectors.
static inline Vec sum_each(const Vec *v) {
#if defined(__AVX512F__)
    __m512 lanes[4];  // of four vectors each: four partial sums in every lane of 128 bits
    for (int n = 0; n < 4; ++n, v += 4) {
        const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps((__m512)v[0], (__m512)v[1]), _mm512_unpackhi_ps((__m512)v[0], (__m512)v[1]));
        const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps((__m512)v[2], (__m512)v[3]), _mm512_unpackhi_ps((__m512)v[2], (__m512)v[3]));
        const __m512d p = _mm512_castps_pd(ab), q = _mm512_castps_pd(cd);
        lanes[n] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(p, q)), _mm512_castpd_ps(_mm512_unpackhi_pd(p, q)));
    }
    const auto halves = [](__m512 a, __m512 b) {
        return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    };
    return (Vec)halves(halves(lanes[0], lanes[1]), halves(lanes[2], lanes[3]));
#elif defined(__AVX2__)
    const auto four = [](const Vec *w) {
        return _mm256_hadd_ps(_mm256_hadd_ps((__m256)w[0], (__m256)w[1]), _mm256_hadd_ps((__m256)w[2], (__m256)w[3]));
    };
    const __m256 a = four(v), b = four(v + 4);
    return (Vec)_mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
#else
    Vec sums;
    for (int64_t m = 0; m < kWidth; ++m) {
        sums[m] = 0.0f;
        for (int64_t n = 0; n < kWidth; ++n) sums[m] += v[m][n];
    }
    return sums;
#endif
}

// Element n of vector m <-> element m of vector n, of kWidth vectors.
static inline void transpose(Vec *v) {
#if defined(__AVX512F__)
    __m512 four[16];  // four g + c: column 4 L + c of rows 4 g ... 4 g + 3 in lane L
    for (int g = 0; g < 16; g += 4) {
        const __m512d ab = (__m512d)_mm512_unpacklo_ps((__m512)v[g], (__m512)v[g + 1]), cd = (__m512d)_mm512_unpacklo_ps((__m512)v[g + 2], (__m512)v[g + 3]);
        const __m512d AB = (__m512d)_mm512_unpackhi_ps((__m512)v[g], (__m512)v[g + 1]), CD = (__m512d)_mm512_unpackhi_ps((__m512)v[g + 2], (__m512)v[g + 3]);
        four[g] = (__m512)_mm512_unpacklo_pd(ab, cd), four[g + 1] = (__m512)_mm512_unpackhi_pd(ab, cd);
        four[g + 2] = (__m512)_mm512_unpacklo_pd(AB, CD), four[g + 3] = (__m512)_mm512_unpackhi_pd(AB, CD);
    }
    for (int c = 0; c < 4; ++c) {
        const __m512 even = _mm512_shuffle_f32x4(four[c], four[4 + c], 0x88), odd = _mm512_shuffle_f32x4(four[c], four[4 + c], 0xdd);
        const __m512 EVEN = _mm512_shuffle_f32x4(four[8 + c], four[12 + c], 0x88), ODD = _mm512_shuffle_f32x4(four[8 + c], four[12 + c], 0xdd);
        v[c] = (Vec)_mm512_shuffle_f32x4(even, EVEN, 0x88), v[8 + c] = (Vec)_mm512_shuffle_f32x4(even, EVEN, 0xdd);
        v[4 + c] = (Vec)_mm512_shuffle_f32x4(odd, ODD, 0x88), v[12 + c] = (Vec)_mm512_shuffle_f32x4(odd, ODD, 0xdd);
    }
#else
    for (int64_t m = 0; m < kWidth; ++m)
        for (int64_t n = 0; n < m; ++n) std::swap(((float *)(v + m))[n], ((float *)(v + n))[m]);
#endif
}

static inline float sum_of(Vec x) {
    float sum = 0.0f;
    for (int64_t n = 0; n < kWidth; ++n) sum += x[n];
    return sum;
}

// Append first + n to a list for every n where the mask is set; room for a whole vector. How many were appended.
static inline int64_t list(int32_t first, IntVec mask, int32_t *to) {
#if defined(__AVX512F__)
    const __m512i numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 set = _mm512_movepi32_mask((__m512i)mask);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(set, _mm512_add_epi32(numbers, _mm512_set1_epi32(first))));
    return __builtin_popcount(set);
#else
    int64_t count = 0;
    for (int64_t n = 0; n < kWidth; ++n) {
        to[count] = first + int32_t(n);
        count += mask[n] != 0;
    }
    return count;
#endif
}

}  // namespace
}  // namespace GC_LEVEL
}  // namespace gc
