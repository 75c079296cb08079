#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <thread>
#include <utility>
#include <vector>

namespace fs {
namespace {

thread_local bool inside_job = false;

// The indices that a thread still has to do, [begin, end): it takes them from the front, and one that has none left
// takes the rear half of somebody's. Neighbouring indices touch the same memory, and the next loop begins with the
// same shares: what a thread reads is mostly in its own core's cache.
class alignas(64) Share {
    std::atomic<uint64_t> both{0};
    static uint64_t pack(uint64_t begin, uint64_t end) { return begin << 32 | end; }

  public:
    void set(int64_t begin, int64_t end) { both.store(pack(static_cast<uint64_t>(begin), static_cast<uint64_t>(end)), std::memory_order_relaxed); }
    int64_t left() const {
        const uint64_t now = both.load(std::memory_order_relaxed);
        return static_cast<int64_t>(now & 0xffffffffu) - static_cast<int64_t>(now >> 32);
    }
    // The next index, or -1.
    int64_t take() {
        uint64_t now = both.load(std::memory_order_relaxed);
        while ((now >> 32) < (now & 0xffffffffu))
            if (both.compare_exchange_weak(now, now + (uint64_t{1} << 32), std::memory_order_relaxed)) return static_cast<int64_t>(now >> 32);
        return -1;
    }
    // Moves the rear half to `thief`, whose share is empty. An index is in one share at a time, so a share that
    // reads the same holds the same.
    bool give_half(Share &thief) {
        uint64_t now = both.load(std::memory_order_relaxed);
        for (;;) {
            const uint64_t begin = now >> 32, end = now & 0xffffffffu;
            if (begin >= end) return false;
            const uint64_t middle = begin + (end - begin) / 2;
            if (both.compare_exchange_weak(now, pack(begin, middle), std::memory_order_relaxed)) {
                thief.set(static_cast<int64_t>(middle), static_cast<int64_t>(end));
                return true;
            }
        }
    }
};

// Workers sleep on a condition variable between jobs: they never spin, so they take nothing from
// the threads of the program that calls us.
struct Pool {
    std::mutex mutex;
    std::condition_variable wake, finished;
    std::vector<std::thread> workers;
    const std::function<void(int64_t)> *job = nullptr;
    std::unique_ptr<Share[]> shares; // the caller's first, then the workers'
    int room = 0, sharing = 0;       // how many there are, and how many the current job uses
    uint64_t generation = 0;
    int inside = 0; // workers at the current job
    int wanted = 0; // workers that may take part in it; 0 once nothing of it is left to begin
    std::exception_ptr failure;
    std::mutex in_use;

    bool steal(Share &thief) {
        for (;;) {
            Share *richest = &thief;
            for (int i = 0; i < sharing; ++i)
                if (shares[i].left() > richest->left()) richest = &shares[i];
            if (richest == &thief) return false;
            if (richest->give_half(thief)) return true;
        }
    }

    void drain(Share &mine) {
        inside_job = true;
        try {
            do
                for (int64_t i; (i = mine.take()) >= 0;) (*job)(i);
            while (steal(mine));
        } catch (...) { // handed to the caller; what has not begun is left out
            for (int i = 0; i < sharing; ++i) shares[i].set(0, 0);
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
            drain(shares[index + 1]);
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
            if (room < threads) shares.reset(new Share[static_cast<size_t>(threads)]), room = threads;
            sharing = threads;
            for (int i = 0; i < threads; ++i) shares[i].set(count * i / threads, count * (i + 1) / threads);
            wanted = threads - 1;
            ++generation;
        }
        wake.notify_all();
        drain(shares[0]);
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
