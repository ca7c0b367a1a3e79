// Standard normal numbers of operations, the very ones of devices/random.py: Philox4x32-10 and Box-Muller.
#pragma once

#include "vector.h"

namespace gc {
namespace GC_LEVEL {
namespace {

typedef uint32_t Word __attribute__((vector_size(GC_WIDTH * 4)));
typedef uint64_t Wide __attribute__((vector_size(GC_WIDTH * 8)));

// e^x, relative error 2e-7; 0 far below, bounded far above.
static inline Vec exponential(Vec x) {
    x = bounded(x, broadcast(-87.0f), broadcast(87.0f));
    const Vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    Vec r = fma(n, broadcast(-0.693359375f), x);
    r = fma(n, broadcast(2.12194440e-4f), r);
    Vec y = broadcast(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        y = fma(y, r, broadcast(c));
    y = fma(y, r * r, r) + 1.0f;
    const IntVec power = (__builtin_convertvector(n, IntVec) + 127) << 23;
    return y * (Vec)power;
}

// Natural logarithm of (w + 1/2) / 2^32.
static inline Vec log_of_word(Word w) {
    const IntVec upper = (IntVec)(w >> 31) != 0;  // near 1: from the distance to 1, which is exact
    const Word small = (Word)((upper & (IntVec)~w) | (~upper & (IntVec)w));
    // u = m 2^e with m in [1/2, 1)
    const Vec u = fma(__builtin_convertvector(small, Vec), broadcast(0x1p-32f), broadcast(0x1p-33f));
    const IntVec bits = (IntVec)u;
    Vec e = __builtin_convertvector((bits >> 23) - 126, Vec);
    const Vec m = (Vec)((bits & 0x007fffff) | 0x3f000000);
    const IntVec low = m < broadcast(0.70710678f);
    Vec x = select(low, m + m, m) - 1.0f;
    e = select(low, e - 1.0f, e);
    // 1 - y with y = `u` of the complement
    const IntVec near = upper & (u < broadcast(0.29289322f));
    x = select(upper, select(near, broadcast(0.0f) - u, broadcast(1.0f) - (u + u)), x);
    e = select(upper, select(near, broadcast(0.0f), broadcast(-1.0f)), e);
    const Vec z = x * x;
    Vec y = broadcast(7.0376836292e-2f);
    for (float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                    2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
        y = fma(y, x, broadcast(c));
    y = y * x * z;
    y = fma(e, broadcast(-2.12194440e-4f), y);
    y = fma(z, broadcast(-0.5f), y);
    return fma(e, broadcast(0.693359375f), x + y);
}

// cos(2 pi (w + 1/2) / 2^32).
static inline Vec cos_of_word(Word w) {
    const Word quarter = (w + 0x20000000u) >> 30;
    const IntVec rest = (IntVec)(w - (quarter << 30));  // -2^29 ... 2^29 - 1
    const Vec r = fma(__builtin_convertvector(rest, Vec), broadcast(1.46291808e-9f), broadcast(7.3145904e-10f));
    const Vec z = r * r;
    Vec sine = fma(fma(broadcast(-1.9515295891e-4f), z, broadcast(8.3321608736e-3f)), z, broadcast(-1.6666654611e-1f));
    sine = fma(sine * z, r, r);
    Vec cosine = fma(fma(broadcast(2.443315711809948e-5f), z, broadcast(-1.388731625493765e-3f)), z,
                     broadcast(4.166664568298827e-2f));
    cosine = fma(cosine * z, z, fma(z, broadcast(-0.5f), broadcast(1.0f)));
    const IntVec q = (IntVec)quarter, odd = (q & 1) != 0, negative = ((q + 1) & 2) != 0;
    const Vec value = select(odd, sine, cosine);
    return select(negative, broadcast(0.0f) - value, value);
}

// What a number is drawn for: fields of Philox' counter that do not change from lane to lane.
struct Draw {
    uint32_t seed, chip, layer, head, array, effect;
    // Of steps `first`, first + 1, ...
    Vec normals(uint32_t column, uint32_t row, uint32_t first) const {
        return normals(Word{} + column, Word{} + row, counted() + first);
    }
    static Word counted() {
        Word n;
        for (int64_t k = 0; k < kWidth; ++k) n[k] = uint32_t(k);
        return n;
    }
    Vec normals(Word column, Word row, Word step) const {
        Word c0 = column, c1 = row | (effect << 16 | array << 24), c2 = step, c3 = Word{} + (layer << 16 | head);
        uint32_t k0 = seed, k1 = chip;
        for (int round = 0; round < 10; ++round) {
            const Wide p0 = __builtin_convertvector(c0, Wide) * 0xD2511F53ull, p1 = __builtin_convertvector(c2, Wide) * 0xCD9E8D57ull;
            const Word high0 = __builtin_convertvector(p0 >> 32, Word), high1 = __builtin_convertvector(p1 >> 32, Word);
            c0 = high1 ^ c1 ^ k0;
            c1 = __builtin_convertvector(p1, Word);
            c2 = high0 ^ c3 ^ k1;
            c3 = __builtin_convertvector(p0, Word);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        return square_root(log_of_word(c0) * -2.0f) * cos_of_word(c1);
    }
};

enum { GC_PULSE_JITTER = 13, GC_READ = 14 };  // Effect of devices/random.py

}  // namespace
}  // namespace GC_LEVEL
}  // namespace gc
