// Checks, choice of the instruction level, memory and threads.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <functional>
#include <initializer_list>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#if defined(GC_AMX) && !defined(GC_EMULATED_TILES)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "shared.h"

namespace gc {

namespace portable { extern const Level level; }
#if defined(GC_X86)
namespace avx2 { extern const Level level; }
namespace avx512 { extern const Level level; }
#if defined(GC_AMX)
namespace amx { extern const Level level; }
#endif
#endif

namespace {

struct Slot {
    char *memory = nullptr;
    int64_t bytes = 0;
};
std::vector<Slot> slots;
std::mutex one_call;  // calls from several threads take turns

// Wait for a moment, shorter than it takes to sleep and be woken, for something that another thread is about to do.
template <class Done>
void briefly(Done done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(40);
    while (!done() && std::chrono::steady_clock::now() < end) {
    }
}

// Threads that wait for the next piece of work: to wake one takes a tenth of the time that starting one takes.
class Pool {
    std::mutex mutex;  // of all that is written here
    std::condition_variable begin, end;
    const std::function<void(int)> *work = nullptr;
    int size = 0;
    std::atomic<int> next{1}, last{0}, running{0};  // numbers next ... last of the work are not taken yet

    void serve() {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            lock.unlock();
            briefly([this] { return next <= last; });
            lock.lock();
            begin.wait(lock, [this] { return next <= last; });
            const int number = next++;
            ++running;
            lock.unlock();
            (*work)(number);
            lock.lock();
            if (--running == 0) end.notify_one();
        }
    }

public:
    // work(0) here, and work(1) ... work(threads - 1) in threads that come to it before that is done.
    void run(int threads, const std::function<void(int)> &task) {
        {
            const std::lock_guard<std::mutex> lock(mutex);
            try {
                for (; size < threads - 1; ++size) std::thread([this] { serve(); }).detach();
            } catch (const std::exception &) {  // no more threads to be had: those there are do the work
            }
            work = &task;
            next = 1;
            last = std::min(size, threads - 1);
        }
        for (int number = 1; number <= last; ++number) begin.notify_one();
        task(0);
        std::unique_lock<std::mutex> lock(mutex);
        last = 0;
        lock.unlock();
        briefly([this] { return running == 0; });
        lock.lock();
        end.wait(lock, [this] { return running == 0; });
    }
};
Pool *pool = nullptr;  // never destroyed: its threads wait in it when the process ends

#if defined(__unix__) || defined(__APPLE__)
// A child process has only the thread that forked: fork waits for the call of another one, so that the child finds the
// mutex free and the memory whole, and starts threads of its own. Static initialisers, whose guards a child could find
// taken, run at loading alone.
const int forks_wait = pthread_atfork([] { one_call.lock(); }, [] { one_call.unlock(); },
                                      [] { pool = nullptr, one_call.unlock(); });
#endif

#if defined(GC_AMX)
// Whether the processor has tiles of bytes and of bf16, and the system lets this process use them.
bool tiles_allowed() {
#if defined(GC_EMULATED_TILES)
    return true;
#else
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const unsigned needed = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
    if ((d & needed) != needed) return false;
    constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
#endif
}
#endif

int find_best_level() {
#if defined(GC_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni")) {
#if defined(GC_AMX)
        if (tiles_allowed()) return GC_LEVEL_AMX;
#endif
        return GC_LEVEL_AVX512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return GC_LEVEL_AVX2;
#endif
    return GC_LEVEL_PORTABLE;
}

const int best_level = find_best_level();

const Level *find_level(int wanted) {
    if (wanted < 0 || wanted > best_level) return nullptr;
#if defined(GC_X86)
#if defined(GC_AMX)
    if (wanted == GC_LEVEL_AMX) return &amx::level;
#endif
    if (wanted == GC_LEVEL_AVX512) return &avx512::level;
    if (wanted == GC_LEVEL_AVX2) return &avx2::level;
#endif
    return &portable::level;
}

bool bad_cells(const gc_cells &c) {
    if (c.count < 1 || c.count > GC_MAX_SLABS || !c.row_factors) return true;
    if (c.kind == GC_BY_LEVEL) return !c.table || !c.slopes || c.key_mismatch || c.value_mismatch;
    if (!c.column_factors || (c.key_mismatch == nullptr) != (c.value_mismatch == nullptr)) return true;
    const bool no_curve = !c.curve || c.pieces < 1 || c.pieces > (1 << 20);
    if (c.kind == GC_CURVE) return no_curve;
    if (c.kind == GC_TIMED) return !c.key_mismatch || c.powers < 1 || c.powers > 65;
    if (c.kind == GC_TIMED_CURVE) return !c.key_mismatch || no_curve;
    if (c.kind != GC_POLYNOMIAL) return true;
    for (int n = 0; n < c.count; ++n)
        if (c.orders[n] < 0 || c.orders[n] > 64) return true;
    return false;
}

bool bad_errors(const gc_errors &e) {
    return (e.score_gain == nullptr) != (e.score_offset == nullptr) || (e.output_gain == nullptr) != (e.output_offset == nullptr);
}

// Whether a product of sizes is more than any memory holds.
bool too_many(std::initializer_list<int64_t> sizes) {
    int64_t product = 1;
    for (int64_t size : sizes)
        if (__builtin_mul_overflow(product, size, &product) || product > int64_t(1) << 44) return true;
    return false;
}

// Whatever would make a kernel read or write outside its arrays.
bool bad_problem(const gc_problem &p) {
    const int64_t limit = int64_t(1) << 40;
    for (int64_t size : {p.batch, p.heads, p.kv_heads, p.queries, p.keys, p.dim, p.window, p.columns, p.tile, p.rows})
        if (size < 1 || size > limit) return true;
    if (p.heads % p.kv_heads || p.columns % p.tile || p.rows > 64 || p.queries > p.keys) return true;
    if (p.dim > 4096 || p.tile > 4096 || p.window > p.columns) return true;
    for (int64_t token : {p.first_key, p.first_query})
        if (token < 0 || token > limit) return true;
    if (p.first_query + p.queries != p.first_key + p.keys) return true;
    if (too_many({p.batch, p.heads, p.queries, p.dim + 16}) || too_many({p.batch, p.kv_heads, p.keys + p.tile, p.dim + 16}) ||
        too_many({p.batch, p.heads, p.queries, p.columns / p.tile, p.dim / 8 + 1}))
        return true;
    const int64_t around = padded(p.rows) + padded(p.tile);  // whole vectors are read
    if (p.margin < around || p.margin > limit || p.ages > 4 * limit || p.ages < p.margin + p.window + around)
        return true;
    if (!p.q || !p.k || !p.v || bad_cells(p.cells) || p.threads < 1 || p.threads > 1024) return true;
    const bool scaled = p.q_gain != nullptr;
    for (const float *scale : {p.q_offset, p.k_gain, p.k_offset, p.v_gain, p.v_offset})
        if ((scale != nullptr) != scaled) return true;
    if ((p.out_gain == nullptr) != (p.out_offset == nullptr)) return true;
    if (p.q_levels < GC_AS_GIVEN || p.q_levels == 1 || p.storage_levels < 0 || p.storage_levels == 1) return true;
    if (bad_errors(p.errors)) return true;
    if (p.integer_factors && (p.q_levels < 2 || p.q_levels > 256 || p.storage_levels < 2 || p.storage_levels > 8 ||
                              p.integer_third < 1))
        return true;
    if (p.cells.kind == GC_BY_LEVEL && (p.storage_levels < 2 || p.storage_levels > GC_TABLE)) return true;
    return p.readout < GC_READOUT_NONE || p.readout > GC_READOUT_EVEN;
}

// Whether all of x[0 ... count) lie in first ... end - 1; without a way out, for it to be vectorised.
bool within(const int32_t *x, int64_t count, int64_t first, int64_t end) {
    const int32_t low = int32_t(first), high = int32_t(std::min<int64_t>(end - 1, INT32_MAX));
    bool all = true;
    for (int64_t n = 0; n < count; ++n) all &= x[n] >= low && x[n] <= high;
    return all;
}

bool bad_step(const gc_step &p) {
    const int64_t limit = int64_t(1) << 31;
    for (int64_t size : {p.batch, p.heads, p.kv_heads, p.dim, p.columns, p.tiles, p.slots})
        if (size < 1 || size > limit) return true;
    if (p.heads % p.kv_heads || p.dim > 4096 || p.tiles > p.columns || p.slots > p.columns) return true;
    if (too_many({p.batch, p.kv_heads, p.columns, p.dim}) || too_many({p.batch, p.heads, p.dim})) return true;
    if (!p.q || !p.key || !p.value || !p.positions || !p.tile_of || !p.out) return true;
    const gc_cells &c = p.cells;
    if ((c.key_mismatch == nullptr) != (c.value_mismatch == nullptr)) return true;
    if (c.key_mismatch && ((c.kind != GC_POLYNOMIAL && c.kind != GC_CURVE) || bad_cells(c) || !p.left)) return true;
    if ((p.q_gain == nullptr) != (p.q_offset == nullptr) || (p.out_gain == nullptr) != (p.out_offset == nullptr)) return true;
    if (bad_errors(p.errors) || (p.errors.present && (!p.query_tokens || p.errors.jitter_std > 0.0f))) return true;
    if (!p.table && (!p.left || p.order < 0 || p.order > GC_MAX_SLABS)) return true;
    if (p.q_levels < 0 || p.q_levels == 1 || p.storage_levels < 2 || p.storage_levels > GC_TABLE) return true;
    if (p.readout < GC_READOUT_NONE || p.readout > GC_READOUT_EVEN || p.threads < 1 || p.threads > 1024) return true;
    return !within(p.positions, p.slots, 0, p.columns) || !within(p.tile_of, p.batch * p.slots, -1, p.tiles);
}

bool bad_tokens(const gc_tokens &p) {
    for (int64_t size : {p.batch, p.heads, p.tokens, p.dim, p.columns})
        if (size < 1) return true;
    if (too_many({p.batch, p.heads, p.columns, p.dim}) || too_many({p.batch, p.heads, p.tokens, p.dim})) return true;
    if (!p.volts || !p.ring || (p.gain == nullptr) != (p.offset == nullptr)) return true;
    return p.levels < 2 || p.levels > 256 || p.position < 0 || p.position >= p.columns;
}

// One call at a time; nothing is thrown through the C interface.
template <class Run>
int alone(int threads, Run run) {
    try {
        const std::lock_guard<std::mutex> turn(one_call);
        if (slots.size() < size_t(threads) + 1) slots.resize(size_t(threads) + 1);
        return run();
    } catch (const std::exception &) {
        return GC_NO_MEMORY;
    }
}

template <class Run>
int checked(const gc_problem *p, Run run) {
    if (!p || bad_problem(*p)) return GC_BAD_ARGUMENT;
    const Level *level = find_level(p->level);
    if (!level) return GC_NO_SUCH_LEVEL;
    gc_problem problem = *p;
    if (p->level < GC_LEVEL_AVX512) problem.integer_factors = nullptr;
    return alone(p->threads, [&] { return run(*level, problem); });
}

}  // namespace

char *workspace(int64_t slot, int64_t bytes) {
    Slot &s = slots[size_t(slot)];
    if (s.bytes < bytes) {
        std::free(s.memory);
        s.memory = static_cast<char *>(std::aligned_alloc(64, size_t((bytes + 63) / 64 * 64)));
        s.bytes = s.memory ? bytes : 0;
    }
    return s.memory;
}

void parallel(int threads, int64_t items, const std::function<void(int, int64_t)> &work) {
    std::atomic<int64_t> next{0};
    auto run = [&](int thread) {
        for (int64_t item; (item = next.fetch_add(1)) < items;) work(thread, item);
    };
    threads = int(std::min<int64_t>(threads, items));
    if (threads < 2) return run(0);
    if (!pool) pool = new Pool;
    pool->run(threads, run);
}

}  // namespace gc

extern "C" {

int gc_forward(const gc_problem *p) {
    return gc::checked(p, [&](const gc::Level &level, const gc_problem &problem) -> int {
        return problem.out ? level.forward(problem) : int(GC_BAD_ARGUMENT);
    });
}

int gc_backward(const gc_problem *p, const gc_gradient *g) {
    return gc::checked(p, [&](const gc::Level &level, const gc_problem &problem) -> int {
        if (!p->open || !g || !g->grad || !g->dq || !g->dk || !g->dv || gc::bad_cells(g->cells)) return GC_BAD_ARGUMENT;
        if (p->q_gain && !(g->q_scales && g->k_scales && g->v_scales)) return GC_BAD_ARGUMENT;
        if (p->out_gain && !(p->sum && g->out_scales)) return GC_BAD_ARGUMENT;
        if (g->products != GC_FLOAT32 && g->products != GC_BF16) return GC_BAD_ARGUMENT;
        if (g->cells.kind != GC_POLYNOMIAL && p->cells.kind != g->cells.kind) return GC_BAD_ARGUMENT;
        return level.backward(problem, *g);
    });
}

int gc_decode(const gc_step *p) {
    if (!p || gc::bad_step(*p)) return GC_BAD_ARGUMENT;
    const gc::Level *level = gc::find_level(p->level);
    if (!level) return GC_NO_SUCH_LEVEL;
    return gc::alone(p->threads, [&] { return level->decode(*p); });
}

int gc_write(const gc_tokens *p) {
    if (!p || gc::bad_tokens(*p)) return GC_BAD_ARGUMENT;
    return gc::find_level(gc::best_level)->write(*p);
}

int gc_best_level(void) { return gc::best_level; }
int64_t gc_sizeof_problem(void) { return int64_t(sizeof(gc_problem)); }
int64_t gc_sizeof_step(void) { return int64_t(sizeof(gc_step)); }
int64_t gc_sizeof_tokens(void) { return int64_t(sizeof(gc_tokens)); }
int64_t gc_sizeof_gradient(void) { return int64_t(sizeof(gc_gradient)); }

}
