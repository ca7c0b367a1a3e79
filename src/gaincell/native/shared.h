// What the kernels of all levels share: sizes, memory that outlives a call, threads.
#pragma once

#include <cstdint>
#include <functional>

#include "gaincell_native.h"

namespace gc {

static inline int64_t padded(int64_t n, int64_t to = 16) { return (n + to - 1) / to * to; }

// Sizes of one problem; names ending in p are padded to whole vectors, with zeros in the padding.
struct Sizes {
    explicit Sizes(const gc_problem &p)
        : d(p.dim), dp(padded(p.dim)), n(p.tile), np(padded(p.tile)), r(p.rows), rp(padded(p.rows)),
          tiles(p.columns / p.tile), group(p.heads / p.kv_heads), end(p.first_query + p.queries),
          first_piece(p.first_key / p.tile), pieces((p.first_key + p.keys - 1) / p.tile - first_piece + 1),
          blocks((p.queries + p.rows - 1) / p.rows), open_bytes((p.dim + 7) / 8) {}
    int64_t d, dp, n, np, r, rp;
    int64_t tiles, group, end;
    int64_t first_piece, pieces;  // pieces of N tokens that hold keys
    int64_t blocks;               // of R queries
    int64_t open_bytes;           // of one row of one sub-tile
};

// Memory kept from call to call, so that only the first call of a size pays for it.
// Slot 0 is shared by all threads, slot 1 + t belongs to thread t. nullptr where there is no memory.
char *workspace(int64_t slot, int64_t bytes);

// work(thread, item) for every item, on so many threads; items are handed out in order.
void parallel(int threads, int64_t items, const std::function<void(int, int64_t)> &work);

// One level's entry points, see level.cpp.
struct Level {
    int (*forward)(const gc_problem &);
    int (*backward)(const gc_problem &, const gc_gradient &);
    int (*decode)(const gc_step &);
    int (*write)(const gc_tokens &);
};

}  // namespace gc
