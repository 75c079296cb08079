// Multi-view stereo with known poses: inverse depth of one view from its neighbours.
//
// A view's pixel (u, v), in pixels with centres at +0.5, at inverse depth r (1 / camera z) lies in a
// neighbour at q = M (u, v, 1) + t r (M = K' R K^-1, t = K' t'; q is homogeneous, and q_z / r the
// neighbour's depth). A surface is locally a plane, and the inverse depth of a plane is affine in (u, v):
// every pixel has a hypothesis (r, dr/du, dr/dv).
//
// fs_stereo_sweep: a volume of matching costs over fronto-parallel planes, smoothed by semi-global
// matching (Hirschmueller 2008): a first guess that also holds where there is little texture.
// fs_stereo_patchmatch: refines it (PatchMatch, Bleyer et al. 2011; on a checkerboard as Galliani et al. 2015;
// candidates from near and far as Xu and Tao 2019) and keeps views consistent with each other (Schoenberger et al. 2016).
// fs_stereo_agreement: how many neighbours confirm a pixel.
//
// Photographs are grey, [H, W] floats in [0, 1]. The same bits for any number of threads.
#include "api.h"
#include "pool.h"
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace {
using namespace fs;

constexpr float kWorst = 2.0f;            // 1 - NCC, and what a match outside of the picture costs
constexpr float kNoise = 2.0f / 255.0f;   // standard deviation below which a patch has no texture
constexpr float kSteepest = 6.0f;         // tangent of a surface's angle to the image plane: 80 degrees

// How a view's pixels come into a neighbour.
struct Neighbour {
    const float *image;   // [height, width]
    const float *inverse; // the neighbour's own inverse depth [height, width], or null
    int width, height;
    float m[9], t[3];          // view to neighbour
    float back_m[9], back_t[3]; // neighbour to view
};

// Every view's data one behind the other; `layout` [views, 3] is each one's offset, width, height.
// geometry [n, 24]: m, t, back_m, back_t of each neighbour.
std::vector<Neighbour> neighbours_of(int n, const int32_t *which, const float *images, const float *inverses,
                                     const int64_t *layout, const float *geometry) {
    std::vector<Neighbour> all(static_cast<size_t>(n));
    for (int k = 0; k < n; ++k) {
        Neighbour &b = all[static_cast<size_t>(k)];
        const int64_t *at = layout + 3 * which[k];
        b.image = images + at[0];
        b.inverse = inverses ? inverses + at[0] : nullptr;
        b.width = static_cast<int>(at[1]), b.height = static_cast<int>(at[2]);
        const float *g = geometry + 24 * k;
        std::copy(g, g + 9, b.m), std::copy(g + 9, g + 12, b.t);
        std::copy(g + 12, g + 21, b.back_m), std::copy(g + 21, g + 24, b.back_t);
    }
    return all;
}

struct Point { // where pixels fall in a neighbour, in pixels from the centre of its first one
    F x, y, z;
    M inside;
};

inline Point divide(const Neighbour &b, F x, F y, F z) {
    const F inv = reciprocal(max(z, set1(1e-6f))), half = set1(0.5f);
    Point p{x * inv - half, y * inv - half, z, {}};
    p.inside = gt(z, set1(1e-6f)) & ge(p.x, zero()) & ge(p.y, zero()) & ge(set1(static_cast<float>(b.width - 1)), p.x) &
               ge(set1(static_cast<float>(b.height - 1)), p.y);
    return p;
}

inline Point project(const Neighbour &b, F u, F v, F r) {
    F q[3];
    for (int k = 0; k < 3; ++k)
        q[k] = fma(set1(b.m[3 * k]), u, fma(set1(b.m[3 * k + 1]), v, fma(set1(b.t[k]), r, set1(b.m[3 * k + 2]))));
    return divide(b, q[0], q[1], q[2]);
}

// Bilinear; positions outside read the nearest pixel.
inline F sample(const Neighbour &b, F x, F y) {
    const F cx = min(max(x, zero()), set1(static_cast<float>(b.width) - 1.001f));
    const F cy = min(max(y, zero()), set1(static_cast<float>(b.height) - 1.001f));
    const F x0 = floor(cx), y0 = floor(cy), fx = cx - x0, fy = cy - y0;
    const F at = fma(y0, set1(static_cast<float>(b.width)), x0);
    const F a = gather(b.image, at), c = gather(b.image + b.width, at);
    const F top = fma(fx, gather(b.image + 1, at) - a, a), bottom = fma(fx, gather(b.image + b.width + 1, at) - c, c);
    return fma(fy, bottom - top, top);
}

// How the neighbour's own depth at the pixel nearest to `at` brings that place back into the view.
struct Return {
    F dx, dy, z;    // from where it started, in pixels; how much deeper the neighbour sees it
    F theirs, seen; // inverse depth of the neighbour's surface, as the neighbour and as the view see it
};

inline Return bring_back(const Neighbour &b, const Point &at, F u, F v) {
    const F half = set1(0.5f), qu = at.x + half, qv = at.y + half;
    const F x = min(max(floor(qu), zero()), set1(static_cast<float>(b.width - 1)));
    const F y = min(max(floor(qv), zero()), set1(static_cast<float>(b.height - 1)));
    const F theirs = gather(b.inverse, fma(y, set1(static_cast<float>(b.width)), x));
    F q[3];
    for (int k = 0; k < 3; ++k)
        q[k] = fma(set1(b.back_m[3 * k]), qu, fma(set1(b.back_m[3 * k + 1]), qv, fma(set1(b.back_t[k]), theirs, set1(b.back_m[3 * k + 2]))));
    const F inv = reciprocal(max(q[2], set1(1e-6f)));
    return {q[0] * inv - u, q[1] * inv - v, q[2], theirs, theirs * inv};
}

// 1 - NCC in [0, 2] from weighted means. Patches without texture come out near 1.
inline F ncc_cost(F a, F b, F aa, F bb, F ab) {
    const F noise = set1(kNoise * kNoise);
    const F va = max(fnma(a, a, aa), zero()), vb = max(fnma(b, b, bb), zero()), cov = fnma(a, b, ab);
    const F ncc = cov / sqrt((va + noise) * (vb + noise));
    return set1(1.0f) - min(max(ncc, set1(-1.0f)), set1(1.0f));
}

inline F nan_to_worst(F cost) { return select(ge(cost, zero()), cost, set1(kWorst)); }
} // namespace

// volume [H, W, planes]: cost of each plane (inverse depths `first + i step`), the mean of the `best` lowest of the
// neighbours' 1 - NCC over 7x7 pixels.
extern "C" int fs_stereo_sweep(int width, int height, const float *image, int n, const int32_t *which, const float *images,
                               const int64_t *layout, const float *geometry, int planes, float first, float step, int best,
                               float *volume) {
    return fs::status_of([&] {
        constexpr int radius = 3, side = 2 * radius + 1, band = 8;
        const std::vector<Neighbour> all = neighbours_of(n, which, images, nullptr, layout, geometry);
        parallel_blocks(height, band, [&](int64_t begin, int64_t end) {
            // Rows begin - radius to end + radius, each with `radius` columns beyond both ends, edge pixels repeated.
            const int rows = static_cast<int>(end - begin) + 2 * radius;
            const int padded = (width + 2 * radius + kLanes - 1) / kLanes * kLanes + kLanes;
            const size_t size = static_cast<size_t>(rows) * padded;
            std::vector<float> ref(size, 0.0f), warped(size, 0.0f), sums(static_cast<size_t>(5) * padded);
            std::vector<float> costs(static_cast<size_t>(n) * static_cast<size_t>(end - begin) * padded);
            for (int y = 0; y < rows; ++y) {
                const int64_t from = std::min<int64_t>(std::max<int64_t>(begin + y - radius, 0), height - 1) * width;
                for (int x = 0; x < padded; ++x)
                    ref[static_cast<size_t>(y) * padded + x] = image[from + std::min(std::max(x - radius, 0), width - 1)];
            }
            for (int plane = 0; plane < planes; ++plane) {
                const F r = set1(first + static_cast<float>(plane) * step);
                for (int k = 0; k < n; ++k) {
                    const Neighbour &b = all[static_cast<size_t>(k)];
                    for (int y = 0; y < rows; ++y)
                        for (int x = 0; x < padded; x += kLanes) {
                            const F u = iota() + set1(static_cast<float>(x - radius) + 0.5f);
                            const Point p = project(b, u, set1(static_cast<float>(begin + y - radius) + 0.5f), r);
                            storeu(&warped[static_cast<size_t>(y) * padded + x], sample(b, p.x, p.y));
                        }
                    for (int y = 0; y < static_cast<int>(end - begin); ++y) {
                        for (int x = 0; x < padded; x += kLanes) { // down the columns
                            F s[5] = {zero(), zero(), zero(), zero(), zero()};
                            for (int j = 0; j < side; ++j) {
                                const size_t at = static_cast<size_t>(y + j) * padded + x;
                                const F a = loadu(&ref[at]), w = loadu(&warped[at]);
                                s[0] = s[0] + a, s[1] = s[1] + w;
                                s[2] = fma(a, a, s[2]), s[3] = fma(w, w, s[3]), s[4] = fma(a, w, s[4]);
                            }
                            for (int i = 0; i < 5; ++i) storeu(&sums[static_cast<size_t>(i) * padded + x], s[i]);
                        }
                        float *out = &costs[(static_cast<size_t>(k) * static_cast<size_t>(end - begin) + y) * padded];
                        for (int x = 0; x < width; x += kLanes) { // along the row
                            const F scale = set1(1.0f / (side * side));
                            F s[5];
                            for (int i = 0; i < 5; ++i) {
                                const float *row = &sums[static_cast<size_t>(i) * padded + x];
                                s[i] = loadu(row);
                                for (int j = 1; j < side; ++j) s[i] = s[i] + loadu(row + j);
                                s[i] = s[i] * scale;
                            }
                            const F u = iota() + set1(static_cast<float>(x) + 0.5f);
                            const Point p = project(b, u, set1(static_cast<float>(begin + y) + 0.5f), r);
                            storeu(out + x, select(p.inside, nan_to_worst(ncc_cost(s[0], s[1], s[2], s[3], s[4])), set1(kWorst)));
                        }
                    }
                }
                for (int64_t y = begin; y < end; ++y)
                    for (int x = 0; x < width; ++x) {
                        float least[2] = {kWorst, kWorst};
                        for (int k = 0; k < n; ++k) {
                            const float c = costs[(static_cast<size_t>(k) * static_cast<size_t>(end - begin) + static_cast<size_t>(y - begin)) * padded + x];
                            if (c < least[0]) least[1] = least[0], least[0] = c;
                            else if (c < least[1]) least[1] = c;
                        }
                        volume[(y * width + x) * planes + plane] = best > 1 && n > 1 ? 0.5f * (least[0] + least[1]) : least[0];
                    }
            }
        });
    });
}

namespace {
// One step of semi-global matching: path costs of a pixel from those of the one before it on the path, added to sum.
// All have one more float on either side, and `planes` is a multiple of kLanes.
void sgm_step(const float *cost, const float *before, float *now, float *sum, int planes, float p1, float p2) {
    F low = loadu(before);
    for (int d = kLanes; d < planes; d += kLanes) low = min(low, loadu(before + d));
    alignas(64) float lanes[kLanes];
    store(lanes, low);
    const float least = *std::min_element(lanes, lanes + kLanes);
    const F jump = set1(least + p2), small = set1(p1), base = set1(least);
    for (int d = 0; d < planes; d += kLanes) {
        const F side = min(loadu(before + d - 1), loadu(before + d + 1)) + small;
        const F v = loadu(cost + d) + min(min(loadu(before + d), side), jump) - base;
        storeu(now + d, v);
        storeu(sum + d, loadu(sum + d) + v);
    }
}
} // namespace

// Semi-global matching along rows and columns. volume [H, W, planes] (planes a multiple of 16) is read, inverse [H, W]
// receives the inverse depth of the best plane, refined between planes. p2 is lowered to p1 + (p2 - p1) / (1 + |step| / contrast)
// where neighbouring pixels of the picture differ. sums [H, W, planes] is work space.
extern "C" int fs_stereo_sgm(int width, int height, const float *image, int planes, const float *volume, float first, float step,
                             float p1, float p2, float contrast, float *sums, float *inverse) {
    return fs::status_of([&] {
        constexpr float big = 1e9f;
        const int64_t stride = planes;
        const auto penalty = [&](int64_t a, int64_t b) { return p1 + (p2 - p1) / (1.0f + std::fabs(image[a] - image[b]) / contrast); };
        const auto walk = [&](int64_t from, int64_t by, int count) { // along one path
            std::vector<float> work(2 * static_cast<size_t>(planes + 2 * kLanes), big);
            float *now = work.data() + kLanes, *before = now + planes + 2 * kLanes;
            std::copy(volume + from * stride, volume + (from + 1) * stride, before);
            for (int d = 0; d < planes; ++d) sums[from * stride + d] += before[d];
            for (int i = 1; i < count; ++i) {
                const int64_t at = from + i * by;
                sgm_step(volume + at * stride, before, now, sums + at * stride, planes, p1, penalty(at, at - by));
                std::swap(now, before);
            }
        };
        parallel_blocks(height, 1, [&](int64_t y, int64_t) {
            std::fill(sums + y * width * stride, sums + (y + 1) * width * stride, 0.0f);
            walk(y * width, 1, width);
            walk(y * width + width - 1, -1, width);
        });
        parallel_blocks(width, 16, [&](int64_t begin, int64_t end) {
            for (int64_t x = begin; x < end; ++x) {
                walk(x, width, height);
                walk(x + static_cast<int64_t>(height - 1) * width, -width, height);
            }
        });
        parallel_blocks(static_cast<int64_t>(width) * height, 1024, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const float *s = sums + i * stride;
                const int d = static_cast<int>(std::min_element(s, s + planes) - s);
                float shift = 0.0f;
                if (d > 0 && d + 1 < planes) {
                    const float curve = s[d - 1] - 2.0f * s[d] + s[d + 1];
                    if (curve > 1e-6f) shift = std::min(std::max(0.5f * (s[d - 1] - s[d + 1]) / curve, -0.5f), 0.5f);
                }
                inverse[i] = first + (static_cast<float>(d) + shift) * step;
            }
        });
    });
}

namespace {
constexpr int kReach = 5, kStride = 2, kSide = kReach + 1, kSamples = kSide * kSide; // a patch: -5, -3, .., 5 both ways

struct Patch { // of kLanes pixels: what they see around them, and how much it counts
    alignas(64) float value[kSamples][kLanes], weight[kSamples][kLanes];
    F u, v, mean, square;
};

struct Plane {
    F r, a, b; // inverse depth and its slopes
};

struct Match {
    const float *image, *colours; // the view's own: grey [H, W], and [3, H, W]
    int width, height;
    std::vector<Neighbour> neighbours;
    float least, most; // inverse depth
    float focal;
    int best;
    float geometric; // weight of disagreement with the neighbours' own depths; 0 = none
    float colour;    // how fast weights fall with the difference of colour
};

void load_patch(const Match &m, const float *x, int y, Patch &p) {
    const F sharp = set1(-1.4426950408889634f / (3.0f * m.colour));
    F xs = load(x);
    p.u = xs + set1(0.5f), p.v = set1(static_cast<float>(y) + 0.5f);
    const F right = set1(static_cast<float>(m.width - 1));
    const int64_t plane = static_cast<int64_t>(m.width) * m.height;
    F here[3];
    for (int c = 0; c < 3; ++c) here[c] = gather(m.colours + c * plane + static_cast<int64_t>(y) * m.width, xs);
    F total = zero(), mean = zero(), square = zero();
    int k = 0;
    for (int dy = -kReach; dy <= kReach; dy += kStride) {
        const int64_t row = static_cast<int64_t>(std::min(std::max(y + dy, 0), m.height - 1)) * m.width;
        for (int dx = -kReach; dx <= kReach; dx += kStride, ++k) {
            const F at = min(max(xs + set1(static_cast<float>(dx)), zero()), right);
            const F value = gather(m.image + row, at);
            F difference = zero();
            for (int c = 0; c < 3; ++c) difference = difference + abs(gather(m.colours + c * plane + row, at) - here[c]);
            const float distance = static_cast<float>(dx * dx + dy * dy) / (2.0f * kReach * kReach) * 1.4426950408889634f;
            const F w = exp2_approx(fma(sharp, difference, set1(-distance)));
            store(p.value[k], value), store(p.weight[k], w);
            total = total + w, mean = fma(w, value, mean), square = fma(w * value, value, square);
        }
    }
    const F inv = set1(1.0f) / total;
    for (int i = 0; i < kSamples; ++i) store(p.weight[i], load(p.weight[i]) * inv);
    p.mean = mean * inv, p.square = square * inv;
}

// 1 - NCC between a patch and what a neighbour shows of a plane there; `centre` receives where its middle falls.
F dissimilarity(const Neighbour &b, const Patch &p, const Plane &plane, Point &centre) {
    F q[3], across[3], down[3];
    for (int k = 0; k < 3; ++k) {
        const F t = set1(b.t[k]);
        q[k] = fma(set1(b.m[3 * k]), p.u, fma(set1(b.m[3 * k + 1]), p.v, fma(t, plane.r, set1(b.m[3 * k + 2]))));
        across[k] = fma(t, plane.a, set1(b.m[3 * k])), down[k] = fma(t, plane.b, set1(b.m[3 * k + 1]));
    }
    centre = divide(b, q[0], q[1], q[2]);
    if (!any(centre.inside)) return set1(kWorst);
    F mean = zero(), square = zero(), product = zero();
    int i = 0;
    for (int dy = -kReach; dy <= kReach; dy += kStride) {
        F at[3];
        const F start = set1(static_cast<float>(-kReach)), offset = set1(static_cast<float>(dy));
        for (int k = 0; k < 3; ++k) at[k] = fma(across[k], start, fma(down[k], offset, q[k]));
        for (int dx = 0; dx < kSide; ++dx, ++i) {
            const F inv = reciprocal(max(at[2], set1(1e-6f)));
            const F value = sample(b, fma(at[0], inv, set1(-0.5f)), fma(at[1], inv, set1(-0.5f)));
            const F w = load(p.weight[i]), weighted = w * value;
            mean = mean + weighted, square = fma(weighted, value, square), product = fma(weighted, load(p.value[i]), product);
            for (int k = 0; k < 3; ++k) at[k] = fma(across[k], set1(static_cast<float>(kStride)), at[k]);
        }
    }
    return select(centre.inside, nan_to_worst(ncc_cost(p.mean, mean, p.square, square, product)), set1(kWorst));
}

// Cost of hypotheses: the mean of the `best` lowest of the neighbours' costs.
F evaluate(const Match &m, const Patch &p, const Plane &plane) {
    F least[2] = {set1(kWorst + 1.0f), set1(kWorst + 1.0f)};
    for (const Neighbour &b : m.neighbours) {
        Point centre;
        F cost = dissimilarity(b, p, plane, centre);
        if (m.geometric > 0.0f && any(centre.inside)) {
            const Return back = bring_back(b, centre, p.u, p.v);
            const F error = min(sqrt(fma(back.dx, back.dx, back.dy * back.dy)), set1(3.0f));
            cost = cost + set1(m.geometric) * select(ge(error, zero()), error, set1(3.0f));
        }
        const M first = lt(cost, least[0]);
        least[1] = select(first, least[0], min(least[1], cost));
        least[0] = select(first, cost, least[0]);
    }
    if (m.best > 1 && m.neighbours.size() > 1) return set1(0.5f) * (least[0] + least[1]);
    return least[0];
}

// Numbers that look random, from counters (PCG's output function by M. O'Neill, on a hashed counter).
inline uint32_t scramble(uint32_t x) {
    x = x * 747796405u + 2891336453u;
    x = ((x >> ((x >> 28) + 4u)) ^ x) * 277803737u;
    return (x >> 22) ^ x;
}
inline F uniform(const uint32_t *seeds, uint32_t salt) { // in [-1, 1)
    alignas(64) float v[kLanes];
    for (int l = 0; l < kLanes; ++l) v[l] = static_cast<float>(scramble(seeds[l] ^ scramble(salt)) >> 8) * (2.0f / 16777216.0f) - 1.0f;
    return load(v);
}

Plane limited(const Match &m, Plane p) {
    p.r = min(max(p.r, set1(m.least)), set1(m.most));
    const F steepest = p.r * set1(kSteepest / m.focal);
    p.a = min(max(p.a, neg(steepest)), steepest), p.b = min(max(p.b, neg(steepest)), steepest);
    return p;
}
} // namespace

// state [3, H, W]: inverse depth and slopes of each pixel, read and refined; cost [H, W] receives what they cost.
// colours [3, H, W] tell which pixels around one are likely to lie on the same surface.
// Views, neighbours and geometry as in fs_stereo_sweep; inverses (the neighbours' own maps, laid out as images) and
// mask [H, W] (0 = leave out) may be null. `iterations` rounds over both colours of the checkerboard, with random changes that
// shrink from `spread` (a share of the range of inverse depths) by half each time.
extern "C" int fs_stereo_patchmatch(int width, int height, const float *image, const float *colours, int n, const int32_t *which, const float *images,
                                    const float *inverses, const int64_t *layout, const float *geometry, const uint8_t *mask,
                                    float least, float most, float focal, int best, float geometric, float colour,
                                    int iterations, float spread, int64_t seed, float *state, float *cost) {
    return fs::status_of([&] {
        Match m{image, colours, width, height, neighbours_of(n, which, images, inverses, layout, geometry), least, most, focal, best,
                inverses ? geometric : 0.0f, colour};
        const int64_t size = static_cast<int64_t>(width) * height;
        float *r = state, *a = state + size, *b = state + 2 * size;
        // iteration -1 only finds what the given state costs
        for (int iteration = -1; iteration < iterations; ++iteration)
            for (int parity = 0; parity < 2; ++parity)
                parallel_blocks(height, 2, [&](int64_t begin, int64_t end) {
                    Patch patch;
                    for (int64_t y = begin; y < end; ++y)
                        for (int x0 = static_cast<int>(y + parity) % 2; x0 < width; x0 += 2 * kLanes) {
                            const int count = std::min(kLanes, (width - x0 + 1) / 2);
                            alignas(64) float xs[kLanes], own[4][kLanes];
                            alignas(64) uint32_t seeds[kLanes];
                            bool used = false;
                            for (int l = 0; l < kLanes; ++l) {
                                const int x = x0 + 2 * std::min(l, count - 1);
                                const int64_t i = y * width + x;
                                xs[l] = static_cast<float>(x);
                                own[0][l] = r[i], own[1][l] = a[i], own[2][l] = b[i], own[3][l] = cost[i];
                                seeds[l] = scramble(static_cast<uint32_t>(i) ^ scramble(static_cast<uint32_t>(seed) + static_cast<uint32_t>(iteration)));
                                used = used || !mask || mask[i];
                            }
                            if (!used) {
                                if (iteration < 0)
                                    for (int l = 0; l < count; ++l) cost[y * width + x0 + 2 * l] = kWorst;
                                continue;
                            }
                            load_patch(m, xs, static_cast<int>(y), patch);
                            Plane plane{load(own[0]), load(own[1]), load(own[2])};
                            F now = load(own[3]);
                            const auto consider = [&](Plane p) {
                                p = limited(m, p);
                                const F c = evaluate(m, patch, p);
                                const M better = lt(c, now);
                                now = select(better, c, now);
                                plane.r = select(better, p.r, plane.r);
                                plane.a = select(better, p.a, plane.a), plane.b = select(better, p.b, plane.b);
                            };
                            if (iteration < 0) {
                                plane = limited(m, plane);
                                now = evaluate(m, patch, plane);
                            } else {
                                // In each of four directions the nearest pixel of the other colour, and the best of some farther ones.
                                static constexpr int dirs[4][2] = {{-1, 0}, {1, 0}, {0, -1}, {0, 1}};
                                for (const auto &dir : dirs)
                                    for (int distant = 0; distant < 2; ++distant) {
                                        alignas(64) float cand[3][kLanes];
                                        for (int l = 0; l < kLanes; ++l) {
                                            int64_t pick = -1;
                                            float low = 1e9f, offset = 0.0f;
                                            for (int s = distant ? 3 : 1; s <= (distant ? 11 : 1); s += 2) {
                                                const int64_t px = static_cast<int64_t>(xs[l]) + dir[0] * s, py = y + dir[1] * s;
                                                if (px < 0 || px >= width || py < 0 || py >= height) break;
                                                const int64_t i = py * width + px;
                                                if (cost[i] < low) low = cost[i], pick = i, offset = static_cast<float>(-s);
                                            }
                                            if (pick < 0) pick = y * width + static_cast<int64_t>(xs[l]), offset = 0.0f;
                                            cand[0][l] = r[pick] + offset * (static_cast<float>(dir[0]) * a[pick] + static_cast<float>(dir[1]) * b[pick]);
                                            cand[1][l] = a[pick], cand[2][l] = b[pick];
                                        }
                                        consider({load(cand[0]), load(cand[1]), load(cand[2])});
                                    }
                                const float share = spread / static_cast<float>(1 << std::min(iteration, 20));
                                const F by = set1(share * (most - least)), tilt = set1(share * 4.0f / focal);
                                const auto turned = [&](F slope, uint32_t salt) { return fma(uniform(seeds, salt) * tilt, plane.r, slope); };
                                consider({fma(uniform(seeds, 1), by, plane.r), plane.a, plane.b});
                                consider({plane.r, turned(plane.a, 2), turned(plane.b, 3)});
                                consider({fma(uniform(seeds, 4), by * set1(0.25f), plane.r), turned(plane.a, 5), turned(plane.b, 6)});
                                consider({fma(uniform(seeds, 7), by * set1(0.0625f), plane.r), plane.a, plane.b});
                            }
                            store(own[0], plane.r), store(own[1], plane.a), store(own[2], plane.b), store(own[3], now);
                            for (int l = 0; l < count; ++l) {
                                const int64_t i = y * width + x0 + 2 * l;
                                r[i] = own[0][l], a[i] = own[1][l], b[i] = own[2][l], cost[i] = own[3][l];
                            }
                        }
                });
    });
}

// distinct [H, W] receives how much worse the match gets when the surface is moved so far that the pixel moves by `pixels` in
// the neighbour: the smaller of both ways, the greatest of the neighbours in which 1 - NCC of the state itself is at most
// `worst`; 0 where there is none. state [3, H, W] as above.
extern "C" int fs_stereo_distinct(int width, int height, const float *image, const float *colours, int n, const int32_t *which,
                                  const float *images, const int64_t *layout, const float *geometry, float colour, float pixels,
                                  float worst, const float *state, float *distinct) {
    return fs::status_of([&] {
        const Match m{image, colours, width, height, neighbours_of(n, which, images, nullptr, layout, geometry), 0, 0, 0, 1, 0, colour};
        const int64_t size = static_cast<int64_t>(width) * height;
        parallel_blocks(height, 2, [&](int64_t begin, int64_t end) {
            Patch patch;
            for (int64_t y = begin; y < end; ++y)
                for (int x = 0; x < width; x += kLanes) {
                    const int64_t i = y * width + x, left = width - x;
                    alignas(64) float xs[kLanes];
                    for (int l = 0; l < kLanes; ++l) xs[l] = static_cast<float>(std::min(x + l, width - 1));
                    load_patch(m, xs, static_cast<int>(y), patch);
                    const Plane plane{load_part(state + i, left), load_part(state + size + i, left), load_part(state + 2 * size + i, left)};
                    F found = zero();
                    for (const Neighbour &b : m.neighbours) {
                        Point centre, ignored;
                        const F cost = dissimilarity(b, patch, plane, centre);
                        const F inv = reciprocal(max(centre.z, set1(1e-6f))), half = set1(0.5f);
                        const F mx = (set1(b.t[0]) - (centre.x + half) * set1(b.t[2])) * inv;
                        const F my = (set1(b.t[1]) - (centre.y + half) * set1(b.t[2])) * inv;
                        const F moves = sqrt(fma(mx, mx, my * my)); // pixels per inverse depth
                        const F by = set1(pixels) / max(moves, set1(1e-20f));
                        const F nearer = dissimilarity(b, patch, {plane.r + by, plane.a, plane.b}, ignored);
                        const F farther = dissimilarity(b, patch, {plane.r - by, plane.a, plane.b}, ignored);
                        const M usable = centre.inside & ge(set1(worst), cost) & gt(moves, set1(1e-20f));
                        found = max(found, keep(usable, min(nearer, farther) - cost));
                    }
                    store_part(distinct + i, found, left);
                }
        });
    });
}

// agreeing [H, W] receives the number of neighbours whose own inverse depth, where a pixel falls on them, brings it back to
// within `pixels` of where it was and within `relative` of its depth; fused [H, W] the mean inverse depth of the pixel and of
// those neighbours' surfaces, as it sees them.
extern "C" int fs_stereo_agreement(int width, int height, const float *inverse, int n, const int32_t *which, const float *inverses,
                                   const int64_t *layout, const float *geometry, float pixels, float relative, float *agreeing,
                                   float *fused) {
    return fs::status_of([&] {
        const std::vector<Neighbour> all = neighbours_of(n, which, inverses, inverses, layout, geometry);
        parallel_blocks(height, 4, [&](int64_t begin, int64_t end) {
            for (int64_t y = begin; y < end; ++y)
                for (int x = 0; x < width; x += kLanes) {
                    const int64_t left = width - x;
                    const F u = iota() + set1(static_cast<float>(x) + 0.5f), v = set1(static_cast<float>(y) + 0.5f);
                    const F r = load_part(inverse + y * width + x, left), one = set1(1.0f);
                    F count = zero(), total = r;
                    for (const Neighbour &b : all) {
                        const Point p = project(b, u, v, r);
                        const Return back = bring_back(b, p, u, v);
                        const M agrees = p.inside & gt(back.z, set1(1e-6f)) & gt(back.theirs, zero()) & gt(r, zero()) &
                                         lt(fma(back.dx, back.dx, back.dy * back.dy), set1(pixels * pixels)) &
                                         lt(abs(back.seen - r), set1(relative) * r);
                        count = count + keep(agrees, one), total = total + keep(agrees, back.seen);
                    }
                    store_part(agreeing + y * width + x, count, left);
                    store_part(fused + y * width + x, total / (count + one), left);
                }
        });
    });
}
