// A small thread pool: `parallel_for(n, f)` calls f(i) once for every i in [0, n), in any order and
// on any thread. Results must not depend on the order; every kernel here is written so. An exception of
// f ends the loop and comes out of parallel_for.
#pragma once

#include <cstdint>
#include <functional>
#include <new>

namespace fs {
int thread_count();
void set_thread_count(int n);
// A nested call, or one made while another thread uses the pool, runs on the calling thread.
void parallel_for(int64_t n, const std::function<void(int64_t)> &f);

// Splits [0, n) into blocks of `grain` and calls f(begin, end) for each. The blocks depend on n and
// grain only, so that per-block partial results are the same for any number of threads.
template <class Fn> void parallel_blocks(int64_t n, int64_t grain, Fn f) {
    const int64_t blocks = (n + grain - 1) / grain;
    parallel_for(blocks, [&](int64_t b) {
        const int64_t begin = b * grain;
        f(begin, begin + grain < n ? begin + grain : n);
    });
}

// Runs f; the status that a kernel returns to Python: 0, or 1 where memory ran out.
template <class Fn> int status_of(Fn f) {
    try {
        f();
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}
} // namespace fs
