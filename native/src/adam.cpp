// Adam (Kingma and Ba, 2015) in one pass over a parameter, its gradient and both moments. Every
// element goes through the same instructions in the same order, whatever the number of threads.
#include "api.h"
#include "pool.h"
#include "simd.h"

#include <algorithm>
#include <cmath>

extern "C" int fs_adam_step(int64_t n, float *param, const float *grad, float *exp_avg, float *exp_avg_sq, double lr,
                             double beta1, double beta2, double eps, int64_t step) {
    using namespace fs;
    return fs::status_of([&] {
        const double correction1 = 1.0 - std::pow(beta1, static_cast<double>(step));
        const double correction2 = 1.0 - std::pow(beta2, static_cast<double>(step));
        const F step_size = set1(static_cast<float>(lr / correction1));
        const F inv_sqrt2 = set1(static_cast<float>(1.0 / std::sqrt(correction2)));
        const F b1 = set1(static_cast<float>(beta1)), c1 = set1(static_cast<float>(1.0 - beta1));
        const F b2 = set1(static_cast<float>(beta2)), c2 = set1(static_cast<float>(1.0 - beta2));
        const F e = set1(static_cast<float>(eps));
        fs::parallel_blocks(n, 1 << 14, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i += kLanes) {
                const int64_t left = end - i;
                const F g = load_part(grad + i, left), m = b1 * load_part(exp_avg + i, left) + c1 * g;
                const F v = b2 * load_part(exp_avg_sq + i, left) + c2 * g * g;
                store_part(exp_avg + i, m, left), store_part(exp_avg_sq + i, v, left);
                store_part(param + i, load_part(param + i, left) - step_size * m / (sqrt(v) * inv_sqrt2 + e), left);
            }
        });
    });
}

namespace {
double sum_of_block(const float *x, int64_t begin, int64_t end) {
    double lanes[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    int64_t i = begin;
    for (; i + 8 <= end; i += 8)
        for (int k = 0; k < 8; ++k) lanes[k] += static_cast<double>(x[i + k]);
    for (; i < end; ++i) lanes[0] += static_cast<double>(x[i]);
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}
} // namespace

// Sum of n floats in double, over fixed blocks: the same bits for any number of threads.
extern "C" double fs_sum(int64_t n, const float *x) {
    constexpr int64_t grain = 1 << 14, wave = 256; // blocks of one wave; their sums need no memory to be asked for
    double s = 0.0, partial[wave];
    for (int64_t first = 0; first < n; first += wave * grain) {
        const int64_t blocks = std::min<int64_t>(wave, (n - first + grain - 1) / grain);
        const auto work = [&](int64_t b) {
            const int64_t begin = first + b * grain;
            partial[b] = sum_of_block(x, begin, std::min(n, begin + grain));
        };
        if (fs::status_of([&] { fs::parallel_for(blocks, work); }))
            for (int64_t b = 0; b < blocks; ++b) work(b);
        for (int64_t b = 0; b < blocks; ++b) s += partial[b];
    }
    return s;
}

extern "C" void fs_set_threads(int n) { fs::set_thread_count(n); }
extern "C" int fs_get_threads() { return fs::thread_count(); }
