// L1 and SSIM of two images [H, W, 3] with pixel weights, and their gradient, in one go.
//
// SSIM: 11x11 Gaussian window, sigma 1.5, zero padding, per channel (Wang et al. 2004; the 3DGS
// definition). The window is separable: down the columns first, then along the row. Pixels stay
// interleaved: a step of one pixel along the row is a step of three floats.
#include "api.h"
#include "pool.h"
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace {
using namespace fs;

constexpr int kRadius = 5, kTaps = 2 * kRadius + 1, kChannels = 3;
constexpr int kPad = kRadius * kChannels; // floats left and right of a row
constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;

struct Window {
    float g[kTaps];
    Window() {
        double total = 0.0, v[kTaps];
        for (int i = 0; i < kTaps; ++i) {
            v[i] = std::exp(-(i - kRadius) * (i - kRadius) / (2.0 * 1.5 * 1.5));
            total += v[i];
        }
        for (int i = 0; i < kTaps; ++i) g[i] = static_cast<float>(v[i] / total);
    }
};
const Window window;

// One filtered row with kPad zeros before and at least kPad + kLanes behind.
struct Row {
    std::vector<float> data;
    explicit Row(int length) : data(static_cast<size_t>(length + 2 * kPad + 2 * kLanes), 0.0f) {}
    void put(int i, F v, int left) { store_part(data.data() + kPad + i, v, left); }
    F along(int i) const { // the window along the row, centred on float i
        const float *p = data.data() + i;
        F s = set1(window.g[0]) * loadu(p);
        for (int k = 1; k < kTaps; ++k) s = fma(set1(window.g[k]), loadu(p + kChannels * k), s);
        return s;
    }
};

// The rows that the window reaches from row y, as its taps [first, last].
struct Taps {
    int first, last;
    Taps(int64_t y, int height)
        : first(static_cast<int>(std::max<int64_t>(0, kRadius - y))),
          last(static_cast<int>(std::min<int64_t>(kTaps, height - y + kRadius)) - 1) {}
};

// One row of pixel weights, for every channel; ones where there are no weights.
class Weights {
    const float *all; // [H, W] or null
    int width;
    std::vector<float> row;

  public:
    Weights(const float *weight, int width_) : all(weight), width(width_), row(static_cast<size_t>(width_ * kChannels), 1.0f) {}
    void read(int64_t y) {
        if (!all) return;
        for (int x = 0; x < width; ++x)
            for (int c = 0; c < kChannels; ++c) row[static_cast<size_t>(kChannels * x + c)] = all[y * width + x];
    }
    F at(int i) const { return load_part(row.data() + i, static_cast<int>(row.size()) - i); }
};
} // namespace

// sums: [sum w |a - b|, sum w ssim, sum w over pixels and channels]. maps [3, H, W, 3] receives
// w dssim/d(mean a), w dssim/d(mean a^2), w dssim/d(mean a b) for the backward pass; it may be null.
// weight [H, W] may be null (all ones).
extern "C" int fs_image_loss_forward(int width, int height, const float *image, const float *target,
                                      const float *weight, float *maps, double *sums) {
    return fs::status_of([&] {
        const int length = width * kChannels;
        const int64_t plane = static_cast<int64_t>(height) * length;
        std::vector<double> rows(static_cast<size_t>(height) * 3, 0.0);
        parallel_blocks(height, 8, [&](int64_t begin, int64_t end) {
            Row ma(length), mb(length), maa(length), mbb(length), mab(length);
            Weights weights(weight, width);
            for (int64_t y = begin; y < end; ++y) {
                weights.read(y);
                const Taps taps(y, height);
                for (int i = 0; i < length; i += kLanes) {
                    const int left = length - i;
                    F a1 = zero(), b1 = zero(), aa = zero(), bb = zero(), ab = zero();
                    for (int k = taps.first; k <= taps.last; ++k) {
                        const int64_t at = (y + k - kRadius) * length + i;
                        const F g = set1(window.g[k]), a = load_part(image + at, left), b = load_part(target + at, left);
                        const F ga = g * a, gb = g * b;
                        a1 = a1 + ga, b1 = b1 + gb;
                        aa = fma(ga, a, aa), bb = fma(gb, b, bb), ab = fma(ga, b, ab);
                    }
                    ma.put(i, a1, left), mb.put(i, b1, left), maa.put(i, aa, left), mbb.put(i, bb, left), mab.put(i, ab, left);
                }
                F l1 = zero(), similarity = zero(), total = zero();
                for (int i = 0; i < length; i += kLanes) {
                    const int left = length - i;
                    const F mu1 = ma.along(i), mu2 = mb.along(i);
                    const F s11 = fnma(mu1, mu1, maa.along(i)), s22 = fnma(mu2, mu2, mbb.along(i));
                    const F s12 = fnma(mu1, mu2, mab.along(i));
                    const F two = set1(2.0f), one = set1(1.0f);
                    const F a1 = fma(two * mu1, mu2, set1(kC1)), a2 = fma(two, s12, set1(kC2));
                    const F b1 = fma(mu1, mu1, fma(mu2, mu2, set1(kC1))), b2 = s11 + s22 + set1(kC2);
                    const F inv1 = one / b1, inv2 = one / b2, inv12 = inv1 * inv2;
                    const F s = a1 * a2 * inv12;
                    const F wi = weights.at(i);
                    const F a = load_part(image + y * length + i, left), b = load_part(target + y * length + i, left);
                    l1 = fma(wi, abs(a - b), l1);
                    similarity = fma(wi, s, similarity);
                    total = total + wi;
                    if (!maps) continue;
                    const F q = fnma(s, inv2, zero()), r = two * a1 * inv12; // d/d(mean a^2), d/d(mean ab)
                    F p = two * mu2 * a2 * inv12;
                    p = fnma(two * mu1 * s, inv1, p);
                    p = fnma(two * mu1, q, p);
                    p = fnma(mu2, r, p);
                    store_part(maps + y * length + i, wi * p, left);
                    store_part(maps + plane + y * length + i, wi * q, left);
                    store_part(maps + 2 * plane + y * length + i, wi * r, left);
                }
                rows[static_cast<size_t>(3 * y)] = static_cast<double>(sum(l1));
                rows[static_cast<size_t>(3 * y + 1)] = static_cast<double>(sum(similarity));
                rows[static_cast<size_t>(3 * y + 2)] = static_cast<double>(sum(total));
            }
        });
        sums[0] = sums[1] = sums[2] = 0.0;
        for (int y = 0; y < height; ++y)
            for (int k = 0; k < 3; ++k) sums[k] += rows[static_cast<size_t>(3 * y + k)];
    });
}

// sums: [sum w (clamp(a, 0, 1) - b)^2, sum w over pixels and channels].
extern "C" int fs_squared_error(int width, int height, const float *image, const float *target, const float *weight,
                                double *sums) {
    return fs::status_of([&] {
        const int length = width * kChannels;
        std::vector<double> rows(static_cast<size_t>(height) * 2, 0.0);
        parallel_blocks(height, 32, [&](int64_t begin, int64_t end) {
            Weights weights(weight, width);
            for (int64_t y = begin; y < end; ++y) {
                weights.read(y);
                F error = zero(), total = zero();
                for (int i = 0; i < length; i += kLanes) {
                    const int left = length - i;
                    const F a = load_part(image + y * length + i, left), wi = weights.at(i);
                    // In this order a NaN stays one.
                    const F d = min(set1(1.0f), max(zero(), a)) - load_part(target + y * length + i, left);
                    error = fma(wi * d, d, error);
                    total = total + wi;
                }
                rows[static_cast<size_t>(2 * y)] = static_cast<double>(sum(error));
                rows[static_cast<size_t>(2 * y + 1)] = static_cast<double>(sum(total));
            }
        });
        sums[0] = sums[1] = 0.0;
        for (int y = 0; y < height; ++y)
            for (int k = 0; k < 2; ++k) sums[k] += rows[static_cast<size_t>(2 * y + k)];
    });
}

// grad [H, W, 3] = scale_l1 w sign(a - b) + scale_ssim d(sum w ssim)/da.
extern "C" int fs_image_loss_backward(int width, int height, const float *image, const float *target,
                                       const float *weight, const float *maps, float scale_l1, float scale_ssim,
                                       float *grad) {
    return fs::status_of([&] {
        const int length = width * kChannels;
        const int64_t plane = static_cast<int64_t>(height) * length;
        parallel_blocks(height, 8, [&](int64_t begin, int64_t end) {
            Row p(length), q(length), r(length);
            Weights weights(weight, width);
            for (int64_t y = begin; y < end; ++y) {
                weights.read(y);
                const Taps taps(y, height);
                for (int i = 0; i < length; i += kLanes) {
                    const int left = length - i;
                    F vp = zero(), vq = zero(), vr = zero();
                    for (int k = taps.first; k <= taps.last; ++k) {
                        const int64_t at = (y + k - kRadius) * length + i;
                        const F g = set1(window.g[k]);
                        vp = fma(g, load_part(maps + at, left), vp);
                        vq = fma(g, load_part(maps + plane + at, left), vq);
                        vr = fma(g, load_part(maps + 2 * plane + at, left), vr);
                    }
                    p.put(i, vp, left), q.put(i, vq, left), r.put(i, vr, left);
                }
                for (int i = 0; i < length; i += kLanes) {
                    const int left = length - i;
                    const F a = load_part(image + y * length + i, left), b = load_part(target + y * length + i, left);
                    const F ssim = fma(set1(2.0f) * a, q.along(i), fma(b, r.along(i), p.along(i)));
                    const F l1 = weights.at(i) * set1(scale_l1);
                    const F sign = select(gt(a, b), l1, select(lt(a, b), zero() - l1, zero()));
                    store_part(grad + y * length + i, fma(set1(scale_ssim), ssim, sign), left);
                }
            }
        });
    });
}
