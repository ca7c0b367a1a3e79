// The C interface's checks alone, with levels that compute nothing: sizes at the edges of int64 must be refused or
// survive the arithmetic that the kernels do on them. Built with -fsanitize=undefined by test_native_build.py.
#include <cstdio>
#include <random>

#include "shared.h"

namespace {

int served = 0;

int sizes_of(const gc_problem &p) {
    const gc::Sizes s(p);
    ++served;
    return s.pieces * s.tiles * s.dp + s.blocks * p.batch * p.heads + 3 * p.ages > 0 ? GC_OK : GC_BAD_ARGUMENT;
}
int back(const gc_problem &p, const gc_gradient &) { return sizes_of(p); }
int step(const gc_step &) { return GC_OK; }
int write(const gc_tokens &p) {
    ++served;
    const int64_t last = p.position + p.tokens - 1;
    return p.batch * p.heads * (p.columns + p.tokens) * p.dim + last >= 0 ? GC_OK : GC_BAD_ARGUMENT;
}

}  // namespace

namespace gc::portable {
extern const Level level;
const Level level = {sizes_of, back, step, write};
}  // namespace gc::portable

int main() {
    std::mt19937_64 random(1);
    float number = 0;
    uint8_t code = 0;
    const int64_t edges[] = {INT64_MIN, -1, 0, 1, 2, 16, 64, 4096, int64_t(1) << 31, int64_t(1) << 40, int64_t(1) << 62, INT64_MAX};
    const auto edge = [&] { return edges[random() % (sizeof edges / sizeof *edges)]; };
    for (int n = 0; n < 400000; ++n) {
        gc_problem p{};
        p.batch = p.heads = p.kv_heads = 1;
        p.queries = p.keys = p.dim = p.window = p.columns = p.tile = p.rows = 16;
        p.margin = 32;
        p.ages = 128;
        p.q = p.k = p.v = p.cells.row_factors = p.cells.column_factors = p.out = &number;
        p.cells.count = p.threads = 1;
        int64_t *sizes = &p.batch;
        for (int changes = 1 + random() % 3; changes-- > 0;) sizes[random() % 14] = edge();
        if (random() % 2) p.first_query = p.first_key;
        gc_forward(&p);
        gc_tokens t = {edge(), edge(), edge(), edge(), edge(), edge(), &number, nullptr, nullptr, &code, 8, 0, 1, 0, 1};
        gc_write(&t);
    }
    std::printf("%d\n", served);
    return served > 1000 ? 0 : 1;
}
