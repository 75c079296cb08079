// A picture seen from a camera moved along its own x axis, brought back along the rows: out(x, y) = image(x - disparity, y),
// linear between pixel centres. And the gradients with respect to picture and disparity.
#include "api.h"
#include "pool.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace {
struct Sample {
    int64_t left; // of the two pixels
    float share;  // of the right one
    bool inside;
};

// Everything outside the picture, and what is not a number, is not inside.
Sample sample_at(int x, float disparity, int width) {
    const float at = static_cast<float>(x) - disparity;
    if (!(at >= 0.0f && at <= static_cast<float>(width - 1))) return {0, 0.0f, false};
    const int left = std::min(static_cast<int>(at), std::max(width - 2, 0));
    return {left, at - static_cast<float>(left), true};
}
} // namespace

// image, out [H, W, 3]; disparity, inside [H, W]. inside is 1 or 0, and out 0 where that is 0.
extern "C" int fs_row_warp_forward(int width, int height, const float *image, const float *disparity, float *out, float *inside) {
    return fs::status_of([&] {
        fs::parallel_blocks(height, 4, [&](int64_t begin, int64_t end) {
            for (int64_t y = begin; y < end; ++y)
                for (int x = 0; x < width; ++x) {
                    const int64_t i = y * width + x;
                    const Sample s = sample_at(x, disparity[i], width);
                    const float *a = image + 3 * (y * width + s.left), *b = width > 1 ? a + 3 : a;
                    for (int c = 0; c < 3; ++c) out[3 * i + c] = s.inside ? a[c] + s.share * (b[c] - a[c]) : 0.0f;
                    inside[i] = s.inside ? 1.0f : 0.0f;
                }
        });
    });
}

// grad [H, W, 3] of out -> grad_image [H, W, 3] and grad_disparity [H, W].
extern "C" int fs_row_warp_backward(int width, int height, const float *image, const float *disparity, const float *grad,
                                    float *grad_image, float *grad_disparity) {
    return fs::status_of([&] {
        fs::parallel_blocks(height, 4, [&](int64_t begin, int64_t end) {
            std::fill(grad_image + 3 * begin * width, grad_image + 3 * end * width, 0.0f);
            for (int64_t y = begin; y < end; ++y)
                for (int x = 0; x < width; ++x) { // a row's sums in the order of its pixels
                    const int64_t i = y * width + x;
                    const Sample s = sample_at(x, disparity[i], width);
                    grad_disparity[i] = 0.0f;
                    if (!s.inside) continue;
                    const int64_t left = 3 * (y * width + s.left), right = width > 1 ? left + 3 : left;
                    float slope = 0.0f;
                    for (int c = 0; c < 3; ++c) {
                        const float g = grad[3 * i + c];
                        grad_image[left + c] += (1.0f - s.share) * g;
                        grad_image[right + c] += s.share * g;
                        slope += g * (image[right + c] - image[left + c]);
                    }
                    grad_disparity[i] = -slope;
                }
        });
    });
}
