// What densification remembers of one backward pass, in one go over the Gaussians.
#include "api.h"
#include "pool.h"

#include <cmath>

// For each Gaussian that the camera saw (both radii above 0): count += 1 and
// total += |(scale_x gradient_x, scale_y gradient_y)|. radii [N, 2], gradient [N, 2] or null (not known: only
// counted), total [N], count [N].
extern "C" int fs_density_statistics(int64_t n, const int32_t *radii, const float *gradient, float scale_x, float scale_y,
                                     float *total, float *count) {
    return fs::status_of([&] {
        fs::parallel_blocks(n, 1 << 14, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const bool seen = radii[2 * i] > 0 && radii[2 * i + 1] > 0;
                count[i] += seen ? 1.0f : 0.0f;
                const float x = gradient ? gradient[2 * i] * scale_x : 0.0f, y = gradient ? gradient[2 * i + 1] * scale_y : 0.0f;
                total[i] += seen ? std::sqrt(x * x + y * y) : 0.0f;
            }
        });
    });
}
