// A vector of floats of the width of the level being compiled, and the few operations the kernels need.
#pragma once

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

static inline Vec clamp(Vec x, float low, float high) {
    const Vec l = broadcast(low), h = broadcast(high);
    x = select(x < l, l, x);
    return select(x > h, h, x);
}

static inline Vec truncated(Vec x) { return __builtin_convertvector(__builtin_convertvector(x, IntVec), Vec); }

// A sub-tile's charge in readout steps: saturated, and as the counter gives it.
static inline Vec digitised(Vec o, bool ceiling, float steps, int readout) {
    if (ceiling) o = clamp(o, -steps, steps);
    switch (readout) {
        case 1: return truncated(select(o < broadcast(0.0f), o - 0.5f, o + 0.5f));  // counter: halves away from zero
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

static inline float total(Vec x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum = 0.0f;
    for (int n = 0; n < kWidth; ++n) sum += x[n];
    return sum;
#endif
}

}  // namespace gc
