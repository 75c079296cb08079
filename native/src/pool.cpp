#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <pthread.h>
#include <thread>
#include <utility>
#include <vector>

namespace fs {
namespace {

thread_local bool inside_job = false;

// Workers sleep on a condition variable between jobs: they never spin, so they take nothing from
// the threads of the program that calls us.
struct Pool {
    std::mutex mutex;
    std::condition_variable wake, finished;
    std::vector<std::thread> workers;
    const std::function<void(int64_t)> *job = nullptr;
    std::atomic<int64_t> next{0};
    int64_t n = 0;
    uint64_t generation = 0;
    int inside = 0; // workers at the current job
    int wanted = 0; // workers that may take part in it; 0 once nothing of it is left to begin
    std::exception_ptr failure;
    std::mutex in_use;

    void drain() {
        inside_job = true;
        try {
            for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) (*job)(i);
        } catch (...) { // handed to the caller; what has not begun is left out
            next.store(n, std::memory_order_relaxed);
            std::lock_guard<std::mutex> lock(mutex);
            if (!failure) failure = std::current_exception();
        }
        inside_job = false;
    }

    void work(int index) {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            wake.wait(lock, [&] { return generation != seen; });
            seen = generation;
            if (index >= wanted) continue; // also when it woke too late: nobody waits for it
            ++inside;
            lock.unlock();
            drain();
            lock.lock();
            if (--inside == 0) finished.notify_one();
        }
    }

    void run(int64_t count, const std::function<void(int64_t)> &f, int threads) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            try {
                while (static_cast<int>(workers.size()) < threads - 1) {
                    const int index = static_cast<int>(workers.size());
                    workers.emplace_back([this, index] { work(index); });
                }
            } catch (const std::exception &) { // the system gives no more threads: those that exist do the work
                threads = static_cast<int>(workers.size()) + 1;
            }
            job = &f;
            n = count;
            next.store(0, std::memory_order_relaxed);
            wanted = threads - 1;
            ++generation;
        }
        wake.notify_all();
        drain();
        std::unique_lock<std::mutex> lock(mutex);
        wanted = 0;
        finished.wait(lock, [&] { return inside == 0; });
        job = nullptr;
        if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
    }
};

std::atomic<int> configured{0};
Pool *pool = nullptr;
std::once_flag pool_once;

// A forked child has none of its parent's threads: it starts with a new pool. The old one, and the
// pool of a process that ends, are left alone on purpose (their threads cannot be joined safely).
void reset_after_fork() { pool = new Pool; }

Pool &the_pool() {
    std::call_once(pool_once, [] {
        pool = new Pool;
        pthread_atfork(nullptr, nullptr, reset_after_fork);
    });
    return *pool;
}
} // namespace

int thread_count() {
    const int n = configured.load();
    if (n > 0) return n;
    const unsigned cores = std::thread::hardware_concurrency();
    return cores > 0 ? static_cast<int>(cores) : 1;
}

void set_thread_count(int n) { configured.store(n); }

void parallel_for(int64_t n, const std::function<void(int64_t)> &f) {
    const int64_t threads = thread_count() < n ? thread_count() : n;
    if (threads > 1 && !inside_job) {
        Pool &p = the_pool();
        std::unique_lock<std::mutex> lock(p.in_use, std::try_to_lock);
        if (lock.owns_lock()) {
            p.run(n, f, static_cast<int>(threads));
            return;
        }
    }
    for (int64_t i = 0; i < n; ++i) f(i);
}
} // namespace fs
