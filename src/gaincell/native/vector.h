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

}  // namespace gc
