// Tile rasterizer: binning, front-to-back compositing, and its gradient.
//
// Per image: Gaussians are sorted by depth once; a count, a prefix sum and a fill in that order give
// every 16x16 tile its list, already sorted. A tile keeps its pixels in structure-of-arrays form and
// takes one Gaussian at a time, rows clipped to the ellipse where alpha reaches 1/255.
//
// The exponent is evaluated as E = u^2 + c2 dy^2 with u = a dx + b dy (base 2): a sum of squares, so
// that it neither cancels nor turns negative for long thin Gaussians.
//
// A pixel is alive while its T is positive. When the next contribution would bring its transmittance
// to FS_MIN_TRANSMITTANCE, T is stored negated: the pixel is done, and |T| is what is left.
//
// Backward goes front to back as well: Q is the part of dL/d(pixel) that later contributions and the
// background make up, one number per pixel. Gradients are written to one slot per (Gaussian, tile) and
// summed per Gaussian in slot order: the same bits for any number of threads.
#include "api.h"
#include "pool.h"
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace {
using namespace fs;

constexpr float kHalfLog2e = 0.72134752044448170368f; // log2(e) / 2
constexpr int kTile = FS_TILE, kPixels = kTile * kTile;
constexpr int kSegments = kTile / kLanes;
constexpr int kSlot = 12; // floats of one gradient record
constexpr float kLog2Slack = 1e-3f;
constexpr int64_t kMaxEntries = int64_t{1} << 31;

// Memory that keeps its capacity between images and is not cleared.
template <class T> struct Buffer {
    T *p = nullptr;
    size_t capacity = 0;
    Buffer() = default;
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() { std::free(p); }
    void resize(size_t n) {
        if (n <= capacity) return;
        std::free(p);
        p = nullptr, capacity = 0;
        const size_t want = n + n / 8 + 64;
        p = static_cast<T *>(std::aligned_alloc(64, (want * sizeof(T) + 63) / 64 * 64));
        if (!p) throw std::bad_alloc();
        capacity = want;
    }
    T &operator[](size_t i) { return p[i]; }
    const T &operator[](size_t i) const { return p[i]; }
};

struct alignas(64) Record { // one visible Gaussian, in depth order
    float mx, my, a, b, c2, log2_opacity;
    float color[4];
    int32_t x0, x1, y0, y1; // pixels that it can reach, clipped to the image
    int32_t id;
    float unused;
};
static_assert(sizeof(Record) == 64, "a record is one cache line");

struct Entry {
    uint32_t rank, slot;
};

struct State {
    int width = 0, height = 0, tiles_x = 0, tiles_y = 0, channels = 0;
    int64_t n = 0, visible = 0, entries = 0;
    Buffer<Record> records;
    Buffer<uint32_t> keys, keys2, ids, ids2, counts, histogram;
    Buffer<uint64_t> offsets; // [visible + 1] first slot of a rank
    Buffer<uint32_t> tile_begin, tile_end;
    Buffer<Entry> list;
    Buffer<float> transmittance; // [H, W]
    Buffer<float> slots;
};

std::mutex recycle_mutex;
std::vector<State *> &recycled = *new std::vector<State *>; // never destroyed: threads may outlive main

// Where the lock is taken, nothing waits: in a forked child its owner may not exist any more.
State *take_state() {
    std::unique_lock<std::mutex> lock(recycle_mutex, std::try_to_lock);
    if (!lock.owns_lock() || recycled.empty()) return new State;
    State *s = recycled.back();
    recycled.pop_back();
    return s;
}

struct Ellipse {
    float mx, my, a, b, c2, smax, rx, ry, dy_right;
};

// False where the Gaussian cannot touch any pixel or its numbers are unusable.
bool make_ellipse(const float *mean, const float *conic, float opacity, Ellipse &e) {
    if (!(opacity >= FS_MIN_ALPHA) || !std::isfinite(opacity)) return false;
    const double A = conic[0], B = conic[1], C = conic[2];
    const double det = A * C - B * B;
    if (!(A > 0.0) || !(det > 0.0) || !std::isfinite(det)) return false;
    e.mx = mean[0], e.my = mean[1];
    if (!std::isfinite(e.mx) || !std::isfinite(e.my)) return false;
    e.a = static_cast<float>(std::sqrt(kHalfLog2e * A));
    e.b = static_cast<float>(kHalfLog2e * B / std::sqrt(kHalfLog2e * A));
    e.c2 = static_cast<float>(kHalfLog2e * det / A);
    const double smax = std::log2(static_cast<double>(opacity) * 255.0) + kLog2Slack;
    e.smax = static_cast<float>(smax);
    e.rx = static_cast<float>(std::sqrt(smax * C / (kHalfLog2e * det)));
    e.ry = static_cast<float>(std::sqrt(smax * A / (kHalfLog2e * det)));
    e.dy_right = static_cast<float>(-B / C) * e.rx; // height of the rightmost point
    return e.a > 0.0f && e.c2 > 0.0f && std::isfinite(e.rx) && std::isfinite(e.ry) && std::isfinite(e.dy_right);
}

// Pixels [first, last] whose centres lie in [low, high], clipped to [0, size).
void pixel_span(float low, float high, int size, int &first, int &last) {
    const float top = static_cast<float>(size);
    // The order of max's arguments turns a NaN (an edge that overflowed) into the bound.
    first = static_cast<int>(std::ceil(std::min(std::max(0.0f, low - 0.5f), top)));
    last = static_cast<int>(std::floor(std::min(std::max(-1.0f, high - 0.5f), top - 1.0f)));
}

// Calls f(tile_row, first_tile, last_tile) for the tiles that the ellipse overlaps.
template <class Fn> void for_each_tile_row(const Ellipse &e, int width, int height, Fn f) {
    int y0, y1;
    pixel_span(e.my - e.ry, e.my + e.ry, height, y0, y1);
    if (y0 > y1) return;
    const float inv_a = 1.0f / e.a;
    for (int row = y0 / kTile; row <= y1 / kTile; ++row) {
        const float d0 = std::max(static_cast<float>(row * kTile) + 0.5f - e.my, -e.ry);
        const float d1 = std::min(static_cast<float>(row * kTile + kTile) - 0.5f - e.my, e.ry);
        if (d0 > d1) continue;
        const float dr = std::min(std::max(e.dy_right, d0), d1), dl = std::min(std::max(-e.dy_right, d0), d1);
        const float right = (std::sqrt(std::max(0.0f, e.smax - e.c2 * dr * dr)) - e.b * dr) * inv_a;
        const float left = (-std::sqrt(std::max(0.0f, e.smax - e.c2 * dl * dl)) - e.b * dl) * inv_a;
        int x0, x1;
        pixel_span(e.mx + left, e.mx + right, width, x0, x1);
        if (x0 <= x1) f(row, x0 / kTile, x1 / kTile);
    }
}

uint32_t sortable(float depth) { // order-preserving map of finite floats to unsigned
    uint32_t bits;
    std::memcpy(&bits, &depth, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Stable least-significant-digit radix sort of (keys, ids), 11 bits a pass.
void radix_sort(State &s, size_t n) {
    s.keys2.resize(n), s.ids2.resize(n);
    uint32_t *k = s.keys.p, *i = s.ids.p, *k2 = s.keys2.p, *i2 = s.ids2.p;
    for (int shift = 0; shift < 33; shift += 11) {
        std::vector<size_t> start(2049, 0);
        for (size_t j = 0; j < n; ++j) ++start[((k[j] >> shift) & 2047u) + 1];
        for (size_t j = 0; j < 2048; ++j) start[j + 1] += start[j];
        for (size_t j = 0; j < n; ++j) {
            const size_t to = start[(k[j] >> shift) & 2047u]++;
            k2[to] = k[j], i2[to] = i[j];
        }
        std::swap(k, k2), std::swap(i, i2);
    }
    std::copy(i, i + n, s.ids.p); // three passes end in the second buffer
}

struct Input {
    int64_t n;
    const float *means2d, *conics, *colors, *opacities, *depths;
    const int32_t *radii;
};

bool visible_ellipse(const State &s, const Input &in, int64_t i, Ellipse &e) {
    if (in.radii[2 * i] <= 0 || in.radii[2 * i + 1] <= 0 || !std::isfinite(in.depths[i])) return false;
    for (int c = 0; c < s.channels; ++c)
        if (!std::isfinite(in.colors[i * s.channels + c])) return false;
    return make_ellipse(in.means2d + 2 * i, in.conics + 3 * i, in.opacities[i], e);
}

// Fills records, offsets and the tile lists.
void bin(State &s, const Input &in) {
    const size_t n = static_cast<size_t>(in.n), tiles = static_cast<size_t>(s.tiles_x) * s.tiles_y;
    s.counts.resize(n), s.keys.resize(n), s.ids.resize(n);
    parallel_blocks(in.n, 1024, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            Ellipse e;
            uint32_t count = 0;
            if (visible_ellipse(s, in, i, e))
                for_each_tile_row(e, s.width, s.height, [&](int, int x0, int x1) { count += static_cast<uint32_t>(x1 - x0 + 1); });
            s.counts[static_cast<size_t>(i)] = count;
        }
    });
    size_t m = 0;
    for (size_t i = 0; i < n; ++i) {
        if (!s.counts[i]) continue;
        s.keys[m] = sortable(in.depths[i]);
        s.ids[m++] = static_cast<uint32_t>(i);
    }
    s.visible = static_cast<int64_t>(m);
    radix_sort(s, m);
    s.offsets.resize(m + 1);
    uint64_t total = 0;
    for (size_t r = 0; r < m; ++r) {
        s.offsets[r] = total;
        total += s.counts[s.ids[r]];
    }
    s.offsets[m] = total;
    if (total >= static_cast<uint64_t>(kMaxEntries)) throw std::bad_alloc();
    s.entries = static_cast<int64_t>(total);
    s.records.resize(m), s.list.resize(total), s.tile_begin.resize(tiles + 1), s.tile_end.resize(tiles);

    // Chunks of ranks count and fill independently; entry positions do not depend on the chunks.
    const int64_t chunks = std::max<int64_t>(1, std::min<int64_t>(16, s.visible / 2048));
    const int64_t per_chunk = (s.visible + chunks - 1) / chunks;
    s.histogram.resize(static_cast<size_t>(chunks) * tiles);
    parallel_for(chunks, [&](int64_t c) {
        uint32_t *h = s.histogram.p + static_cast<size_t>(c) * tiles;
        std::fill(h, h + tiles, 0u);
        for (int64_t r = c * per_chunk; r < std::min(s.visible, (c + 1) * per_chunk); ++r) {
            const int64_t i = s.ids[static_cast<size_t>(r)];
            Ellipse e;
            visible_ellipse(s, in, i, e);
            Record &rec = s.records[static_cast<size_t>(r)];
            rec.mx = e.mx, rec.my = e.my, rec.a = e.a, rec.b = e.b, rec.c2 = e.c2;
            rec.log2_opacity = std::min(std::log2(in.opacities[i]), 126.0f); // 2^127 and more overflow in exp2_approx
            for (int k = 0; k < 4; ++k) rec.color[k] = k < s.channels ? in.colors[i * s.channels + k] : 0.0f;
            pixel_span(e.mx - e.rx, e.mx + e.rx, s.width, rec.x0, rec.x1);
            pixel_span(e.my - e.ry, e.my + e.ry, s.height, rec.y0, rec.y1);
            rec.id = static_cast<int32_t>(i);
            rec.unused = 0.0f;
            for_each_tile_row(e, s.width, s.height, [&](int row, int x0, int x1) {
                for (int x = x0; x <= x1; ++x) ++h[row * s.tiles_x + x];
            });
        }
    });
    uint32_t at = 0;
    for (size_t t = 0; t < tiles; ++t) {
        s.tile_begin[t] = at;
        for (int64_t c = 0; c < chunks; ++c) {
            uint32_t &h = s.histogram[static_cast<size_t>(c) * tiles + t];
            const uint32_t count = h;
            h = at;
            at += count;
        }
        s.tile_end[t] = at;
    }
    s.tile_begin[tiles] = at;
    parallel_for(chunks, [&](int64_t c) {
        uint32_t *h = s.histogram.p + static_cast<size_t>(c) * tiles;
        for (int64_t r = c * per_chunk; r < std::min(s.visible, (c + 1) * per_chunk); ++r) {
            Ellipse e;
            visible_ellipse(s, in, s.ids[static_cast<size_t>(r)], e);
            uint32_t slot = static_cast<uint32_t>(s.offsets[static_cast<size_t>(r)]);
            for_each_tile_row(e, s.width, s.height, [&](int row, int x0, int x1) {
                for (int x = x0; x <= x1; ++x) s.list[h[row * s.tiles_x + x]++] = {static_cast<uint32_t>(r), slot++};
            });
        }
    });
}

// What one Gaussian needs in one tile, per row segment of kLanes pixels.
struct Span {
    int row0, row1, seg0, seg1;
    float dy0;
};

Span span_in_tile(const Record &r, int px, int py) {
    Span s;
    s.row0 = std::max(r.y0 - py, 0), s.row1 = std::min(r.y1 - py, kTile - 1);
    s.seg0 = kSegments == 1 ? 0 : std::max(r.x0 - px, 0) / kLanes;
    s.seg1 = kSegments == 1 ? 0 : std::min(r.x1 - px, kTile - 1) / kLanes;
    s.dy0 = static_cast<float>(py) + 0.5f - r.my;
    return s;
}

template <int NC> void forward_tile(State &s, int tile, const float *background, float *color, float *alpha) {
    alignas(64) float T[kPixels], acc[NC][kPixels];
    const int px = tile % s.tiles_x * kTile, py = tile / s.tiles_x * kTile;
    const uint32_t begin = s.tile_begin[static_cast<size_t>(tile)], end = s.tile_end[static_cast<size_t>(tile)];
    std::fill(T, T + kPixels, 1.0f);
    for (int c = 0; c < NC; ++c) std::fill(acc[c], acc[c] + kPixels, 0.0f);
    const F lane = iota(), min_alpha = set1(FS_MIN_ALPHA), max_alpha = set1(FS_MAX_ALPHA), min_t = set1(FS_MIN_TRANSMITTANCE);
    uint32_t last = begin;
    for (uint32_t at = begin; at < end; ++at) {
        if ((at - begin) % 16 == 15) { // end when every pixel is done
            M alive = gt(load(T), zero());
            for (int i = kLanes; i < kPixels; i += kLanes) alive = alive | gt(load(T + i), zero());
            if (!any(alive)) break;
        }
        const Record &r = s.records[s.list[at].rank];
        const Span q = span_in_tile(r, px, py);
        bool touched = false;
        for (int seg = q.seg0; seg <= q.seg1; ++seg) {
            const F dx = lane + set1(static_cast<float>(px + seg * kLanes) + 0.5f - r.mx);
            const F adx = set1(r.a) * dx;
            F col[NC];
            for (int c = 0; c < NC; ++c) col[c] = set1(r.color[c]);
            for (int row = q.row0; row <= q.row1; ++row) {
                const float dy = q.dy0 + static_cast<float>(row);
                const F u = adx + set1(r.b * dy);
                const F raw = exp2_approx(fnma(u, u, set1(r.log2_opacity - r.c2 * dy * dy)));
                const M reaches = ge(raw, min_alpha);
                if (!any(reaches)) continue;
                const int at_pixel = row * kTile + seg * kLanes;
                const F t = load(T + at_pixel), al = min(raw, max_alpha);
                const F next = fnma(al, t, t);
                const M alive = gt(next, min_t), use = reaches & alive;
                store(T + at_pixel, select(use, next, select(reaches, neg_abs(t), t)));
                const F w = keep(use, al * t);
                for (int c = 0; c < NC; ++c) store(acc[c] + at_pixel, fma(w, col[c], load(acc[c] + at_pixel)));
                touched = touched || any(use);
            }
        }
        if (touched) last = at + 1;
    }
    s.tile_end[static_cast<size_t>(tile)] = last;
    const int rows = std::min(kTile, s.height - py), columns = std::min(kTile, s.width - px);
    for (int y = 0; y < rows; ++y) {
        const int64_t first = static_cast<int64_t>(py + y) * s.width + px;
        for (int x = 0; x < columns; ++x) {
            const float t = std::fabs(T[y * kTile + x]);
            s.transmittance[static_cast<size_t>(first + x)] = t;
            alpha[first + x] = 1.0f - t;
            float *out = color + (first + x) * s.channels;
            for (int c = 0; c < s.channels; ++c) out[c] = acc[c][y * kTile + x] + (background ? t * background[c] : 0.0f);
        }
    }
}

template <int NC, bool kAbs>
void backward_tile(State &s, int tile, const float *color, const float *v_color, const float *v_alpha) {
    alignas(64) float T[kPixels], Q[kPixels], g[NC][kPixels];
    const int px = tile % s.tiles_x * kTile, py = tile / s.tiles_x * kTile;
    const uint32_t begin = s.tile_begin[static_cast<size_t>(tile)], end = s.tile_end[static_cast<size_t>(tile)];
    std::fill(T, T + kPixels, 1.0f);
    std::fill(Q, Q + kPixels, 0.0f);
    for (int c = 0; c < NC; ++c) std::fill(g[c], g[c] + kPixels, 0.0f);
    const int rows = std::min(kTile, s.height - py), columns = std::min(kTile, s.width - px);
    for (int y = 0; y < rows; ++y) {
        const int64_t first = static_cast<int64_t>(py + y) * s.width + px;
        for (int x = 0; x < columns; ++x) {
            // sum_i w_i (c_i . g) + T_end (background . g - v_alpha) = colour . g - T_end v_alpha
            float q = -s.transmittance[static_cast<size_t>(first + x)] * v_alpha[first + x];
            for (int c = 0; c < s.channels; ++c) {
                const float v = v_color[(first + x) * s.channels + c];
                g[c][y * kTile + x] = v;
                q += color[(first + x) * s.channels + c] * v;
            }
            Q[y * kTile + x] = q;
        }
    }
    const F lane = iota(), min_alpha = set1(FS_MIN_ALPHA), max_alpha = set1(FS_MAX_ALPHA), min_t = set1(FS_MIN_TRANSMITTANCE);
    const F one = set1(1.0f);
    for (uint32_t at = begin; at < end; ++at) {
        const Record &r = s.records[s.list[at].rank];
        const Span q = span_in_tile(r, px, py);
        float total[kSlot] = {0};
        for (int seg = q.seg0; seg <= q.seg1; ++seg) {
            const F dx = lane + set1(static_cast<float>(px + seg * kLanes) + 0.5f - r.mx);
            const F adx = set1(r.a) * dx;
            F col[NC], vcol[NC];
            for (int c = 0; c < NC; ++c) col[c] = set1(r.color[c]), vcol[c] = zero();
            // s = alpha dL/dalpha: sums of s, s dy, s dy^2 by column; of s u; of |s u|, |s (b u + c2 dy)|
            F s0 = zero(), sy = zero(), syy = zero(), su = zero(), ax = zero(), ay = zero();
            bool touched = false;
            for (int row = q.row0; row <= q.row1; ++row) {
                const float dy = q.dy0 + static_cast<float>(row);
                const F u = adx + set1(r.b * dy);
                const F raw = exp2_approx(fnma(u, u, set1(r.log2_opacity - r.c2 * dy * dy)));
                const M reaches = ge(raw, min_alpha);
                if (!any(reaches)) continue;
                const int at_pixel = row * kTile + seg * kLanes;
                const F t = load(T + at_pixel), al = min(raw, max_alpha);
                const F next = fnma(al, t, t);
                const M alive = gt(next, min_t), use = reaches & alive;
                store(T + at_pixel, select(use, next, select(reaches, neg_abs(t), t)));
                const F w = keep(use, al * t);
                F cg = col[0] * load(g[0] + at_pixel);
                for (int c = 1; c < NC; ++c) cg = fma(col[c], load(g[c] + at_pixel), cg);
                const F rest = fnma(w, cg, load(Q + at_pixel));
                store(Q + at_pixel, rest);
                for (int c = 0; c < NC; ++c) vcol[c] = fma(w, load(g[c] + at_pixel), vcol[c]);
                const F v_al = fnma(rest, reciprocal(one - al), t * cg);
                const F sv = keep(and_not(gt(raw, max_alpha), use), al * v_al);
                const F vdy = set1(dy), su1 = sv * u;
                s0 = s0 + sv;
                sy = fma(sv, vdy, sy);
                syy = fma(sv, set1(dy * dy), syy);
                su = su + su1;
                if (kAbs) {
                    ax = ax + abs(su1);
                    ay = ay + abs(fma(set1(r.b), su1, sv * set1(r.c2 * dy)));
                }
                touched = true;
            }
            if (!touched) continue;
            total[0] += sum(su);
            total[1] += sum(sy);
            total[2] += sum(s0 * dx * dx);
            total[3] += sum(sy * dx);
            total[4] += sum(syy);
            total[5] += sum(s0);
            for (int c = 0; c < NC; ++c) total[6 + c] += sum(vcol[c]);
            if (kAbs) total[10] += sum(ax), total[11] += sum(ay);
        }
        float *slot = s.slots.p + static_cast<size_t>(s.list[at].slot) * kSlot;
        std::copy(total, total + kSlot, slot);
    }
    // Entries behind the last one that any pixel used have no gradient.
    for (uint32_t at = end; at < s.tile_begin[static_cast<size_t>(tile) + 1]; ++at) {
        float *slot = s.slots.p + static_cast<size_t>(s.list[at].slot) * kSlot;
        std::fill(slot, slot + kSlot, 0.0f);
    }
}

int kernel_channels(int channels) { return channels <= 1 ? 1 : channels <= 3 ? 3 : 4; }
} // namespace

extern "C" const char *fs_simd_name() { return FS_SIMD_NAME; }

// Composites one image. color [H, W, channels], alpha [H, W]; channels is 1 to 4. Returns a handle for
// fs_raster_backward that the caller must give to fs_raster_free, or null where memory ran out.
extern "C" void *fs_raster_forward(int64_t n, int channels, const float *means2d, const float *conics,
                                   const float *colors, const float *opacities, const float *depths,
                                   const int32_t *radii, const float *background, int width, int height, float *color,
                                   float *alpha) {
    State *s = nullptr;
    try {
        s = take_state();
        s->width = width, s->height = height, s->channels = channels, s->n = n;
        s->tiles_x = (width + kTile - 1) / kTile, s->tiles_y = (height + kTile - 1) / kTile;
        const Input in{n, means2d, conics, colors, opacities, depths, radii};
        s->transmittance.resize(static_cast<size_t>(width) * height);
        bin(*s, in);
        parallel_for(static_cast<int64_t>(s->tiles_x) * s->tiles_y, [&](int64_t t) {
            switch (kernel_channels(channels)) {
            case 1: forward_tile<1>(*s, static_cast<int>(t), background, color, alpha); break;
            case 3: forward_tile<3>(*s, static_cast<int>(t), background, color, alpha); break;
            default: forward_tile<4>(*s, static_cast<int>(t), background, color, alpha); break;
            }
        });
        return s;
    } catch (const std::bad_alloc &) {
        delete s;
        return nullptr;
    }
}

// color is what the forward pass returned. v_means2d_abs may be null. All outputs are overwritten.
// Returns 0, or 1 where memory ran out.
extern "C" int fs_raster_backward(void *handle, const float *opacities, const float *color, const float *v_color,
                                  const float *v_alpha, float *v_means2d, float *v_means2d_abs, float *v_conics,
                                  float *v_colors, float *v_opacities) {
    State &s = *static_cast<State *>(handle);
    try {
        s.slots.resize(static_cast<size_t>(s.entries) * kSlot);
    } catch (const std::bad_alloc &) {
        return 1;
    }
    const bool absolute = v_means2d_abs != nullptr;
    parallel_for(static_cast<int64_t>(s.tiles_x) * s.tiles_y, [&](int64_t t) {
        const int tile = static_cast<int>(t);
        switch (kernel_channels(s.channels) * 2 + (absolute ? 1 : 0)) {
        case 2: backward_tile<1, false>(s, tile, color, v_color, v_alpha); break;
        case 3: backward_tile<1, true>(s, tile, color, v_color, v_alpha); break;
        case 6: backward_tile<3, false>(s, tile, color, v_color, v_alpha); break;
        case 7: backward_tile<3, true>(s, tile, color, v_color, v_alpha); break;
        case 8: backward_tile<4, false>(s, tile, color, v_color, v_alpha); break;
        default: backward_tile<4, true>(s, tile, color, v_color, v_alpha); break;
        }
    });
    parallel_blocks(s.n, 4096, [&](int64_t begin, int64_t end) {
        std::fill(v_means2d + 2 * begin, v_means2d + 2 * end, 0.0f);
        std::fill(v_conics + 3 * begin, v_conics + 3 * end, 0.0f);
        std::fill(v_opacities + begin, v_opacities + end, 0.0f);
        std::fill(v_colors + s.channels * begin, v_colors + s.channels * end, 0.0f);
        if (absolute) std::fill(v_means2d_abs + 2 * begin, v_means2d_abs + 2 * end, 0.0f);
    });
    parallel_blocks(s.visible, 1024, [&](int64_t begin, int64_t end) {
        constexpr float inv_h = 1.0f / kHalfLog2e;
        for (int64_t rank = begin; rank < end; ++rank) {
            const Record &r = s.records[static_cast<size_t>(rank)];
            float v[kSlot] = {0};
            for (uint64_t i = s.offsets[static_cast<size_t>(rank)]; i < s.offsets[static_cast<size_t>(rank) + 1]; ++i) {
                const float *slot = s.slots.p + static_cast<size_t>(i) * kSlot;
                for (int k = 0; k < kSlot; ++k) v[k] += slot[k];
            }
            const int64_t id = r.id;
            v_means2d[2 * id] = inv_h * r.a * v[0];
            v_means2d[2 * id + 1] = inv_h * (r.b * v[0] + r.c2 * v[1]);
            v_conics[3 * id] = -0.5f * v[2];
            v_conics[3 * id + 1] = -v[3];
            v_conics[3 * id + 2] = -0.5f * v[4];
            v_opacities[id] = v[5] / opacities[id];
            for (int c = 0; c < s.channels; ++c) v_colors[id * s.channels + c] = v[6 + c];
            if (absolute) {
                v_means2d_abs[2 * id] = inv_h * r.a * v[10];
                v_means2d_abs[2 * id + 1] = inv_h * v[11];
            }
        }
    });
    return 0;
}

extern "C" void fs_raster_free(void *handle) {
    State *s = static_cast<State *>(handle);
    if (!s) return;
    {
        std::unique_lock<std::mutex> lock(recycle_mutex, std::try_to_lock);
        if (lock.owns_lock() && recycled.size() < 2) {
            recycled.push_back(s);
            return;
        }
    }
    delete s;
}
