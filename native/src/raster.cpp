// Tile rasterizer: binning, front-to-back compositing, and its gradient.
//
// Per image: Gaussians are sorted by depth once; going through them in that order gives every 16x16
// tile its list, already sorted. A tile takes its list in chunks: for each of its blocks of 4x4 pixels
// it lists the Gaussians of the chunk whose ellipse (where alpha reaches 1/255) touches the block, then
// composites them with the block's pixels in registers, and notes which ones contributed or ended a pixel.
//
// The exponent is evaluated as E = u^2 + c2 dy^2 with u = a dx + b dy (base 2): a sum of squares, so
// that it neither cancels nor turns negative for long thin Gaussians.
//
// A pixel is alive while its T is positive. When the next contribution would bring its transmittance
// to FS_MIN_TRANSMITTANCE, T is stored negated: the pixel is done, and |T| is what is left.
//
// Backward goes front to back as well: Q is the part of dL/d(pixel) that later contributions and the
// background make up, one number per pixel. It visits the blocks that the forward pass noted. Gradients
// are summed in one slot per (Gaussian, tile), then per Gaussian in slot order: the same bits for any
// number of threads.
#include "api.h"
#include "pool.h"
#include "simd.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

namespace {
using namespace fs;

constexpr float kHalfLog2e = 0.72134752044448170368f; // log2(e) / 2
constexpr float kLog2Of255 = 7.994353436858858f;
constexpr float kLog2Slack = 1e-3f;                   // of the culling tests, in units of the exponent
constexpr int kTile = FS_TILE;
constexpr int kSlot = 16;   // floats of one gradient record: a cache line
constexpr int kChunk = 128; // Gaussians that a tile works on at a time
constexpr int64_t kMaxEntries = int64_t{1} << 31;

// A block is what the compositing loop keeps in registers: 4x4 pixels, of which even a small Gaussian
// fills much, in as many vectors as it takes, of kRows rows each.
constexpr int kBlock = 4, kBlockPixels = kBlock * kBlock;
constexpr int kVectors = kBlockPixels / kLanes, kRows = kLanes / kBlock;
constexpr int kAcross = kTile / kBlock, kBlocks = kAcross * kAcross;
static_assert(kBlocks <= 16, "the blocks of a tile that a Gaussian touches are 16 bits");

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
    // Makes room for `more` behind the first `used`, which stay.
    void grow(size_t used, size_t more) {
        if (used + more <= capacity) return;
        Buffer larger;
        larger.resize(used + more + used / 2);
        if (used) std::memcpy(larger.p, p, used * sizeof(T));
        std::swap(p, larger.p), std::swap(capacity, larger.capacity);
    }
    T &operator[](size_t i) { return p[i]; }
    const T &operator[](size_t i) const { return p[i]; }
};

struct alignas(64) Record { // one Gaussian; its exponent is log2_opacity - E
    float mx, my, a, b, c2, log2_opacity;
    float color[4];
    float to_y, to_x; // where E is least on a vertical (horizontal) line: dy = to_y dx (dx = to_x dy)
    float rx, ry;     // half-width and half-height of the ellipse where alpha reaches 1/255
    uint32_t slot, slots; // first gradient record (within its chunk of ranks), and how many: one per tile
    float smax() const { return log2_opacity + (kLog2Of255 + kLog2Slack); } // E at the ellipse
};
static_assert(sizeof(Record) == 64, "a record is one cache line");

struct Entry { // a Gaussian in a tile
    uint32_t id, slot;
};

struct Pair { // the same, before it is sorted by tile
    uint32_t tile, id;
};

struct State {
    int width = 0, height = 0, tiles_x = 0, tiles_y = 0, channels = 0;
    int64_t n = 0, visible = 0, entries = 0;
    double binning_ms = 0.0;
    Buffer<Record> records; // [n]
    Buffer<uint32_t> keys, ids, digits, histogram;
    Buffer<uint64_t> sorted, sorted2;
    Buffer<uint32_t> tile_begin, tile_end;
    std::vector<Buffer<Pair>> pairs;  // in order of depth, in chunks of ranks
    std::vector<uint64_t> first_slot; // of each chunk
    int64_t per_chunk = 0;
    Buffer<Entry> list;
    Buffer<uint16_t> touched; // by slot: the blocks of its tile in which it counts
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

// Pixels [first, last] whose centres lie in [low, high], clipped to [0, size).
void pixel_span(float low, float high, int size, int &first, int &last) {
    const float top = static_cast<float>(size);
    // The order of max's arguments turns a NaN (an edge that overflowed) into the bound.
    first = static_cast<int>(std::ceil(std::min(std::max(0.0f, low - 0.5f), top)));
    last = static_cast<int>(std::floor(std::min(std::max(-1.0f, high - 0.5f), top - 1.0f)));
}

// Calls f(tile_row, first_tile, last_tile) for the tiles that the ellipse overlaps.
template <class Fn> void for_each_tile_row(const Record &e, int width, int height, Fn f) {
    int x0, x1, y0, y1;
    pixel_span(e.my - e.ry, e.my + e.ry, height, y0, y1);
    pixel_span(e.mx - e.rx, e.mx + e.rx, width, x0, x1);
    if (y0 > y1 || x0 > x1) return;
    if (y0 / kTile == y1 / kTile || x0 / kTile == x1 / kTile) {
        for (int row = y0 / kTile; row <= y1 / kTile; ++row) f(row, x0 / kTile, x1 / kTile);
        return;
    }
    const float inv_a = 1.0f / e.a, dy_right = e.to_y * e.rx, smax = e.smax();
    for (int row = y0 / kTile; row <= y1 / kTile; ++row) {
        const float d0 = std::max(static_cast<float>(row * kTile) + 0.5f - e.my, -e.ry);
        const float d1 = std::min(static_cast<float>(row * kTile + kTile) - 0.5f - e.my, e.ry);
        if (d0 > d1) continue;
        const float dr = std::min(std::max(dy_right, d0), d1), dl = std::min(std::max(-dy_right, d0), d1);
        const float right = (std::sqrt(std::max(0.0f, smax - e.c2 * dr * dr)) - e.b * dr) * inv_a;
        const float left = (-std::sqrt(std::max(0.0f, smax - e.c2 * dl * dl)) - e.b * dl) * inv_a;
        pixel_span(e.mx + left, e.mx + right, width, x0, x1);
        if (x0 <= x1) f(row, x0 / kTile, x1 / kTile);
    }
}

uint32_t sortable(float depth) { // order-preserving map of finite floats to unsigned
    depth += 0.0f;               // -0 is 0
    uint32_t bits;
    std::memcpy(&bits, &depth, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

constexpr uint32_t kHidden = 0xffffffffu; // key of a Gaussian that is not drawn
constexpr int kPasses = 3, kMostDigits = 1 << 11; // three digits hold 32 bits

// Leaves in s.ids the Gaussians that are drawn, by key, equal keys by index; sets s.visible. A stable
// least-significant-digit radix sort of (key - smallest key, index) in 64 bits, with digits as narrow as the range
// of keys allows. The shares of the input count and move their entries side by side, and what a share has of a digit
// goes behind what the shares before it have, so the order does not depend on the shares.
void sort_visible(State &s, size_t n) {
    const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(16, static_cast<int64_t>(n) / 32768));
    const auto begin_of = [&](int64_t share, size_t size) { return size * static_cast<size_t>(share) / static_cast<size_t>(shares); };
    s.sorted.resize(n), s.sorted2.resize(n), s.ids.resize(n), s.digits.resize(static_cast<size_t>(shares) * kMostDigits);
    struct Seen {
        size_t count = 0;
        uint32_t least = kHidden, most = 0;
    };
    std::vector<Seen> seen(static_cast<size_t>(shares));
    const uint32_t *keys = s.keys.p;
    parallel_for(shares, [&](int64_t share) {
        Seen here;
        for (size_t j = begin_of(share, n), end = begin_of(share + 1, n); j < end; ++j) {
            if (keys[j] == kHidden) continue;
            ++here.count;
            here.least = std::min(here.least, keys[j]), here.most = std::max(here.most, keys[j]);
        }
        seen[static_cast<size_t>(share)] = here;
    });
    Seen all;
    for (Seen &share : seen) {
        all.least = std::min(all.least, share.least), all.most = std::max(all.most, share.most);
        std::swap(all.count, share.count); // where the share begins
        all.count += share.count;
    }
    const size_t m = all.count;
    s.visible = static_cast<int64_t>(m);
    if (m == 0) return;
    uint64_t *from = s.sorted.p, *to = s.sorted2.p;
    parallel_for(shares, [&](int64_t share) {
        size_t at = seen[static_cast<size_t>(share)].count;
        for (size_t j = begin_of(share, n), end = begin_of(share + 1, n); j < end; ++j)
            if (keys[j] != kHidden) from[at++] = static_cast<uint64_t>(keys[j] - all.least) << 32 | j;
    });
    int width = 1;
    while (width * kPasses < 32 && (all.most - all.least) >> (width * kPasses)) ++width;
    const size_t digits = size_t{1} << width;
    for (int pass = 0; pass < kPasses; ++pass) {
        const int shift = 32 + pass * width;
        const auto digit = [&](uint64_t entry) { return static_cast<size_t>(entry >> shift) & (digits - 1); };
        parallel_for(shares, [&](int64_t share) {
            uint32_t *count = s.digits.p + static_cast<size_t>(share) * digits;
            std::fill(count, count + digits, 0u);
            for (size_t j = begin_of(share, m), end = begin_of(share + 1, m); j < end; ++j) ++count[digit(from[j])];
        });
        uint32_t at = 0;
        for (size_t d = 0; d < digits; ++d)
            for (size_t share = 0; share < static_cast<size_t>(shares); ++share) {
                uint32_t &start = s.digits[share * digits + d];
                const uint32_t count = start;
                start = at, at += count;
            }
        const bool last = pass == kPasses - 1;
        parallel_for(shares, [&](int64_t share) {
            uint32_t *start = s.digits.p + static_cast<size_t>(share) * digits;
            for (size_t j = begin_of(share, m), end = begin_of(share + 1, m); j < end; ++j) {
                const uint32_t place = start[digit(from[j])]++;
                if (last) s.ids[place] = static_cast<uint32_t>(from[j]);
                else to[place] = from[j];
            }
        });
        std::swap(from, to);
    }
}

struct Input {
    int64_t n;
    const float *means2d, *conics, *colors, *opacities, *depths;
    const int32_t *radii;
};

// Fills the records and sorting keys of Gaussians [begin, end). What cannot touch any pixel, or has
// unusable numbers, is hidden.
void make_records(State &s, const Input &in, int64_t begin, int64_t end) {
    const F half = set1(kHalfLog2e), min_alpha = set1(FS_MIN_ALPHA);
    for (int64_t first = begin; first < end; first += kLanes) {
        const int count = static_cast<int>(std::min<int64_t>(kLanes, end - first));
        F mean[2], conic[3], opacity, depth;
        load_rows<2>(in.means2d + 2 * first, count, mean);
        load_rows<3>(in.conics + 3 * first, count, conic);
        load_rows<1>(in.opacities + first, count, &opacity);
        load_rows<1>(in.depths + first, count, &depth);
        alignas(64) float logarithm[kLanes] = {0}, seen[kLanes] = {0};
        for (int l = 0; l < count; ++l) {
            const int64_t i = first + l;
            bool ok = in.radii[2 * i] > 0 && in.radii[2 * i + 1] > 0;
            for (int c = 0; c < s.channels; ++c) ok = ok && std::isfinite(in.colors[i * s.channels + c]);
            if (!ok) continue;
            seen[l] = 1.0f;
            logarithm[l] = std::min(std::log2(in.opacities[i]), 126.0f); // 2^127 and more overflow in exp2_approx
        }
        const F A = conic[0], B = conic[1], C = conic[2], det = difference_of_products(A, C, B, B);
        const F a = sqrt(half * A), b = half * B / a, c2 = half * (det / A), log2_opacity = load(logarithm);
        const F size = (log2_opacity + set1(kLog2Of255 + kLog2Slack)) / (half * det);
        const F rx = sqrt(size * C), ry = sqrt(size * A), to_y = neg(B) / C, to_x = neg(b) / a;
        const M visible = gt(load(seen), zero()) & finite(depth) & ge(opacity, min_alpha) & finite(opacity) & finite(mean[0]) &
                          finite(mean[1]) & gt(A, zero()) & gt(det, zero()) & finite(det) & gt(a, zero()) & gt(c2, zero()) &
                          finite(rx) & finite(ry) & finite(to_y * rx);
        const uint32_t drawn = bits(visible);
        const F fields[] = {mean[0], mean[1], a, b, c2, log2_opacity, to_y, to_x, rx, ry};
        alignas(64) float out[10][kLanes];
        for (int k = 0; k < 10; ++k) store(out[k], fields[k]);
        for (int l = 0; l < count; ++l) {
            const int64_t i = first + l;
            Record &r = s.records[static_cast<size_t>(i)];
            r.slot = r.slots = 0;
            s.keys[static_cast<size_t>(i)] = kHidden;
            if (!(drawn >> l & 1u)) continue;
            r.mx = out[0][l], r.my = out[1][l], r.a = out[2][l], r.b = out[3][l], r.c2 = out[4][l];
            r.log2_opacity = out[5][l], r.to_y = out[6][l], r.to_x = out[7][l], r.rx = out[8][l], r.ry = out[9][l];
            for (int c = 0; c < 4; ++c) r.color[c] = c < s.channels ? in.colors[i * s.channels + c] : 0.0f;
            s.keys[static_cast<size_t>(i)] = sortable(in.depths[i]);
        }
    }
}

// Fills records and tile lists.
void bin(State &s, const Input &in) {
    const size_t n = static_cast<size_t>(in.n), tiles = static_cast<size_t>(s.tiles_x) * s.tiles_y;
    s.keys.resize(n), s.records.resize(n);
    parallel_blocks(in.n, 1024, [&](int64_t begin, int64_t end) { make_records(s, in, begin, end); });
    sort_visible(s, n);
    s.tile_begin.resize(tiles + 1), s.tile_end.resize(tiles);

    // Chunks of ranks work independently; the lists do not depend on the chunks.
    const int64_t chunks = std::max<int64_t>(1, std::min<int64_t>(32, s.visible / 1024));
    s.per_chunk = (s.visible + chunks - 1) / chunks;
    s.histogram.resize(static_cast<size_t>(chunks) * tiles);
    if (s.pairs.size() < static_cast<size_t>(chunks)) s.pairs = std::vector<Buffer<Pair>>(static_cast<size_t>(chunks));
    std::vector<uint64_t> sizes(static_cast<size_t>(chunks), 0);
    parallel_for(chunks, [&](int64_t c) {
        uint32_t *h = s.histogram.p + static_cast<size_t>(c) * tiles;
        std::fill(h, h + tiles, 0u);
        Buffer<Pair> &pairs = s.pairs[static_cast<size_t>(c)];
        size_t size = 0;
        const int64_t end = std::min(s.visible, (c + 1) * s.per_chunk);
        for (int64_t r = c * s.per_chunk; r < end; ++r) {
            const uint32_t id = s.ids[static_cast<size_t>(r)];
            if (r + 8 < end) __builtin_prefetch(&s.records[s.ids[static_cast<size_t>(r + 8)]], 1);
            Record &rec = s.records[id];
            rec.slot = static_cast<uint32_t>(size);
            for_each_tile_row(rec, s.width, s.height, [&](int row, int x0, int x1) {
                pairs.grow(size, static_cast<size_t>(x1 - x0 + 1));
                for (int x = x0; x <= x1; ++x) {
                    const uint32_t tile = static_cast<uint32_t>(row * s.tiles_x + x);
                    ++h[tile];
                    pairs[size++] = {tile, id};
                }
            });
            rec.slots = static_cast<uint32_t>(size - rec.slot);
            if (size >= static_cast<size_t>(kMaxEntries)) throw std::bad_alloc();
        }
        sizes[static_cast<size_t>(c)] = size;
    });
    uint64_t total = 0;
    s.first_slot.clear();
    for (const uint64_t size : sizes) s.first_slot.push_back(total), total += size;
    if (total >= static_cast<uint64_t>(kMaxEntries)) throw std::bad_alloc();
    s.entries = static_cast<int64_t>(total);
    s.list.resize(total), s.touched.resize(total);
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
        const Pair *pair = s.pairs[static_cast<size_t>(c)].p;
        const uint32_t first = static_cast<uint32_t>(s.first_slot[static_cast<size_t>(c)]);
        const uint32_t size = static_cast<uint32_t>(sizes[static_cast<size_t>(c)]);
        for (uint32_t i = 0; i < size; ++i) s.list[h[pair[i].tile]++] = {pair[i].id, first + i};
    });
}

// The Gaussians that a tile works on: their records, side by side, what the culling test reads, and for
// each block those that reach it.
struct Chunk {
    alignas(64) Record records[kChunk];
    alignas(64) float mx[kChunk], my[kChunk], a[kChunk], b[kChunk], c2[kChunk], smax[kChunk], ry[kChunk], dy_right[kChunk];
    alignas(64) uint32_t touched[kChunk];
    alignas(64) uint32_t list[kBlocks][kChunk + kLanes];
    int listed[kBlocks];
    int n;
};

void load_chunk(const State &s, uint32_t begin, uint32_t end, Chunk &k) {
    k.n = static_cast<int>(end - begin);
    for (int i = 0; i < k.n; ++i) {
        const Record &r = k.records[i] = s.records[s.list[begin + static_cast<uint32_t>(i)].id];
        k.mx[i] = r.mx, k.my[i] = r.my, k.a[i] = r.a, k.b[i] = r.b, k.c2[i] = r.c2;
        k.smax[i] = r.smax();
        k.ry[i] = r.ry, k.dy_right[i] = r.to_y * r.rx;
        k.touched[i] = 0;
    }
    for (int i = k.n; i % kLanes != 0; ++i) {
        k.mx[i] = k.my[i] = k.b[i] = k.c2[i] = k.smax[i] = k.dy_right[i] = 0.0f;
        k.a[i] = 1.0f, k.ry[i] = -1.0f; // in no row
    }
}

// Lists, for each block of the tile at (x, y), the Gaussians whose ellipse reaches its pixel centres: a
// row of blocks cuts the ellipse from `left` to `right`, which lie where E = smax on the row's edges or,
// where the ellipse's outermost points are within, there. kMargin is for the rounding of both.
void cull(Chunk &k, int x, int y) {
    constexpr float kMargin = 0.01f;
    for (int &count : k.listed) count = 0;
    for (int i = 0; i < k.n; i += kLanes) {
        const F mx = load(k.mx + i), my = load(k.my + i), b = load(k.b + i), c2 = load(k.c2 + i), smax = load(k.smax + i);
        const F ry = load(k.ry + i), dy_right = load(k.dy_right + i), inv_a = set1(1.0f) / load(k.a + i);
        for (int row = 0; row < kAcross; ++row) {
            const float first = static_cast<float>(y + row * kBlock) + (0.5f - kMargin);
            const F d0 = max(set1(first) - my, neg(ry)), d1 = min(set1(first + (kBlock - 1 + 2 * kMargin)) - my, ry);
            const F dr = min(max(dy_right, d0), d1), dl = min(max(neg(dy_right), d0), d1);
            const F right = fnma(b, dr, sqrt(max(fnma(c2 * dr, dr, smax), zero()))) * inv_a;
            const F left = neg(fma(b, dl, sqrt(max(fnma(c2 * dl, dl, smax), zero())))) * inv_a;
            const M reaches = ge(d1, d0);
            for (int column = 0; column < kAcross; ++column) {
                const float begin = static_cast<float>(x + column * kBlock) + (0.5f - kMargin);
                const F lower = set1(begin) - mx, upper = set1(begin + (kBlock - 1 + 2 * kMargin)) - mx;
                const int block = row * kAcross + column;
                k.listed[block] = append(k.list[block], k.listed[block], reaches & ge(right, lower) & ge(upper, left), static_cast<uint32_t>(i));
            }
        }
    }
}

// One Gaussian at one vector of pixels. Both passes call it, so that their bits agree.
struct Hit {
    F raw, alpha, weight, next; // next: transmittance behind it, negated where the pixel is done
    M use, counts;              // counts: it contributes to the pixel, or ends it
};

inline Hit composite(F u, F dy, F c2_dy, F log2_opacity, F t) {
    Hit h;
    h.raw = exp2_approx(fnma(u, u, fnma(c2_dy, dy, log2_opacity)));
    const M reaches = ge(h.raw, set1(FS_MIN_ALPHA));
    h.alpha = min(h.raw, set1(FS_MAX_ALPHA));
    const F next = fnma(h.alpha, t, t);
    const M alive = gt(next, set1(FS_MIN_TRANSMITTANCE));
    h.use = reaches & alive;
    h.counts = reaches & gt(t, zero());
    h.weight = keep(h.use, h.alpha * t);
    h.next = select(h.use, next, select(reaches, neg_abs(t), t));
    return h;
}

// Pixel centres of a tile, by vector: the x of each column of blocks, and the y of each vector of each row.
struct Grid {
    alignas(64) float x[kAcross][kLanes], y[kAcross * kVectors][kLanes];
    Grid(int first_x, int first_y) {
        for (int l = 0; l < kLanes; ++l) {
            for (int i = 0; i < kAcross; ++i) x[i][l] = static_cast<float>(first_x + i * kBlock + l % kBlock) + 0.5f;
            for (int i = 0; i < kAcross * kVectors; ++i) y[i][l] = static_cast<float>(first_y + i * kRows + l / kBlock) + 0.5f;
        }
    }
};

// Copies `columns` pixels of NC floats to pixels of `channels` <= NC floats.
template <int NC> void copy_row(float *to, const float *from, int columns, int channels) {
    if (columns == kTile && channels == NC) {
        std::memcpy(to, from, sizeof(float) * kTile * NC);
        return;
    }
    for (int x = 0; x < columns; ++x)
        for (int c = 0; c < channels; ++c) to[x * channels + c] = from[x * NC + c];
}

template <int NC> struct Pixels { // what a block keeps in the forward pass
    alignas(64) float t[kBlockPixels], color[NC][kBlockPixels];
    bool alive;
};

inline bool any_alive(const F *t) {
    M alive = gt(t[0], zero());
    for (int v = 1; v < kVectors; ++v) alive = alive | gt(t[v], zero());
    return any(alive);
}

// Composites the listed Gaussians over one block and notes which ones count: the backward pass must see
// those that only end pixels as well.
template <int NC> void forward_block(Chunk &k, int block, const Grid &grid, Pixels<NC> &px) {
    F t[kVectors], acc[kVectors][NC];
    for (int v = 0; v < kVectors; ++v) {
        t[v] = load(px.t + v * kLanes);
        for (int c = 0; c < NC; ++c) acc[v][c] = load(px.color[c] + v * kLanes);
    }
    const F x = load(grid.x[block % kAcross]);
    const uint32_t *list = k.list[block];
    for (int j = 0; j < k.listed[block]; ++j) {
        if (j % 16 == 15) { // end when every pixel is done
            if (!any_alive(t)) break;
        }
        const Record &r = k.records[list[j]];
        const F adx = set1(r.a) * (x - set1(r.mx));
        const F my = set1(r.my), b = set1(r.b), c2 = set1(r.c2), log2_opacity = set1(r.log2_opacity);
        M used[kVectors];
        for (int v = 0; v < kVectors; ++v) {
            const F dy = load(grid.y[block / kAcross * kVectors + v]) - my;
            const Hit h = composite(fma(b, dy, adx), dy, c2 * dy, log2_opacity, t[v]);
            t[v] = h.next;
            for (int c = 0; c < NC; ++c) acc[v][c] = fma(h.weight, set1(r.color[c]), acc[v][c]);
            used[v] = h.counts;
        }
    for (int v = 1; v < kVectors; ++v) used[0] = used[0] | used[v];
        k.touched[list[j]] |= static_cast<uint32_t>(any(used[0])) << block; // no branch: it would often be mispredicted
    }
    px.alive = any_alive(t);
    for (int v = 0; v < kVectors; ++v) {
        store(px.t + v * kLanes, t[v]);
        for (int c = 0; c < NC; ++c) store(px.color[c] + v * kLanes, acc[v][c]);
    }
}

// The pixels of a tile, from (x, y), as far as the image goes.
struct Window {
    int x, y, columns, rows;
};

Window window(const State &s, int tile) {
    const int x = tile % s.tiles_x * kTile, y = tile / s.tiles_x * kTile;
    return {x, y, std::min(kTile, s.width - x), std::min(kTile, s.height - y)};
}

// Asks for the memory of a tile's pixels in an image [H, W, channels].
void prefetch(const State &s, const Window &w, const float *image, int channels) {
    for (int y = 0; y < w.rows; ++y) {
        const float *row = image + (static_cast<int64_t>(w.y + y) * s.width + w.x) * channels;
        for (int i = 0; i < w.columns * channels; i += 16) __builtin_prefetch(row + i, 1);
    }
}

template <int NC> void forward_tile(State &s, int tile, const float *background, float *color, float *alpha) {
    Chunk k;
    Pixels<NC> px[kBlocks];
    const Window w = window(s, tile);
    const uint32_t begin = s.tile_begin[static_cast<size_t>(tile)], end = s.tile_end[static_cast<size_t>(tile)];
    prefetch(s, w, color, s.channels), prefetch(s, w, alpha, 1), prefetch(s, w, s.transmittance.p, 1);
    for (int block = 0; block < kBlocks; ++block) {
        px[block].alive = block % kAcross * kBlock < w.columns && block / kAcross * kBlock < w.rows;
        std::fill(px[block].t, px[block].t + kBlockPixels, 1.0f);
        for (int c = 0; c < NC; ++c) std::fill(px[block].color[c], px[block].color[c] + kBlockPixels, 0.0f);
    }
    const Grid grid(w.x, w.y);
    uint32_t last = begin, from = begin;
    for (bool alive = true; from < end && alive; ) {
        const uint32_t to = std::min(end, from + kChunk);
        load_chunk(s, from, to, k);
        cull(k, w.x, w.y);
        alive = false;
        for (int block = 0; block < kBlocks; ++block) {
            if (!px[block].alive) continue;
            forward_block<NC>(k, block, grid, px[block]);
            alive = alive || px[block].alive;
        }
        for (int i = 0; i < k.n; ++i) {
            const uint32_t entry = from + static_cast<uint32_t>(i);
            s.touched[s.list[entry].slot] = static_cast<uint16_t>(k.touched[i]);
            if (k.touched[i]) last = entry + 1;
        }
        from = to;
    }
    for (; from < end; ++from) s.touched[s.list[from].slot] = 0;
    s.tile_end[static_cast<size_t>(tile)] = last;
    for (int y = 0; y < w.rows; ++y) {
        const int64_t first = static_cast<int64_t>(w.y + y) * s.width + w.x;
        alignas(64) float t[kTile], opaque[kTile], out[kTile * NC];
        for (int column = 0; column < kAcross; ++column) {
            const Pixels<NC> &p = px[y / kBlock * kAcross + column];
            const int from_x = column * kBlock, row = y % kBlock * kBlock;
            for (int x = 0; x < kBlock; ++x) t[from_x + x] = std::fabs(p.t[row + x]), opaque[from_x + x] = 1.0f - t[from_x + x];
            for (int c = 0; c < NC; ++c) {
                const float behind = background && c < s.channels ? background[c] : 0.0f;
                for (int x = 0; x < kBlock; ++x) out[(from_x + x) * NC + c] = p.color[c][row + x] + t[from_x + x] * behind;
            }
        }
        copy_row<1>(&s.transmittance[static_cast<size_t>(first)], t, w.columns, 1);
        copy_row<1>(alpha + first, opaque, w.columns, 1);
        copy_row<NC>(color + first * s.channels, out, w.columns, s.channels);
    }
}

template <int NC> struct Gradients { // what a block keeps in the backward pass
    alignas(64) float t[kBlockPixels], q[kBlockPixels], color[NC][kBlockPixels];
};

// Gradient record of one Gaussian from the blocks of its tile in which it counts: sums over their pixels of
// s u, s dy, s dx^2, s dx dy, s dy^2, s (s = alpha dL/dalpha), weight dL/dcolour (4), and |s u|,
// |s (b u + c2 dy)|.
template <int NC, bool kAbs>
void backward_gaussian(const Record &r, uint32_t blocks, const Grid &grid, Gradients<NC> *pixels, float *slot) {
    const F mx = set1(r.mx), my = set1(r.my), a = set1(r.a), b = set1(r.b), c2 = set1(r.c2), log2_opacity = set1(r.log2_opacity);
    const F one = set1(1.0f), max_alpha = set1(FS_MAX_ALPHA);
    F g[12];
    for (int c = 0; c < 12; ++c) g[c] = zero();
    for (; blocks; blocks &= blocks - 1) {
        const int block = __builtin_ctz(blocks);
        Gradients<NC> &px = pixels[block];
        const F dx = load(grid.x[block % kAcross]) - mx, adx = a * dx;
        for (int v = 0; v < kVectors; ++v) {
            const int at = v * kLanes;
            const F dy = load(grid.y[block / kAcross * kVectors + v]) - my, u = fma(b, dy, adx), c2_dy = c2 * dy;
            const Hit h = composite(u, dy, c2_dy, log2_opacity, load(px.t + at));
            store(px.t + at, h.next);
            F cg = set1(r.color[0]) * load(px.color[0] + at);
            for (int c = 1; c < NC; ++c) cg = fma(set1(r.color[c]), load(px.color[c] + at), cg);
            const F own = h.weight * cg, rest = load(px.q + at) - own;
            store(px.q + at, rest);
            const F s = keep(and_not(gt(h.raw, max_alpha), h.use), fnma(rest, h.alpha * reciprocal(one - h.alpha), own));
            const F s_dx = s * dx, s_dy = s * dy;
            g[0] = fma(s, u, g[0]), g[1] = g[1] + s_dy;
            g[2] = fma(s_dx, dx, g[2]), g[3] = fma(s_dx, dy, g[3]), g[4] = fma(s_dy, dy, g[4]);
            g[5] = g[5] + s;
            for (int c = 0; c < NC; ++c) g[6 + c] = fma(h.weight, load(px.color[c] + at), g[6 + c]);
            if (kAbs) {
                const F size = abs(s);
                g[10] = fma(size, abs(u), g[10]);
                g[11] = fma(size, abs(fma(b, u, c2_dy)), g[11]);
            }
        }
    }
    sum12(g, slot);
}

template <int NC, bool kAbs>
void backward_tile(State &s, int tile, const float *color, const float *v_color, const float *v_alpha) {
    Gradients<NC> px[kBlocks];
    const Window w = window(s, tile);
    const uint32_t begin = s.tile_begin[static_cast<size_t>(tile)], end = s.tile_end[static_cast<size_t>(tile)];
    if (begin == end) return;
    prefetch(s, w, color, s.channels), prefetch(s, w, v_color, s.channels);
    for (int block = 0; block < kBlocks; ++block) {
        Gradients<NC> &p = px[block];
        std::fill(p.t, p.t + kBlockPixels, 1.0f);
        std::fill(p.q, p.q + kBlockPixels, 0.0f);
        for (int c = 0; c < NC; ++c) std::fill(p.color[c], p.color[c] + kBlockPixels, 0.0f);
    }
    for (int y = 0; y < w.rows; ++y) {
        const int64_t first = static_cast<int64_t>(w.y + y) * s.width + w.x;
        // sum_i w_i (c_i . g) + T_end (background . g - v_alpha) = colour . g - T_end v_alpha
        alignas(64) float q[kTile] = {0}, v[kTile * NC] = {0};
        if (v_alpha)
            for (int x = 0; x < w.columns; ++x) q[x] = -s.transmittance[static_cast<size_t>(first + x)] * v_alpha[first + x];
        for (int x = 0; x < w.columns; ++x)
            for (int c = 0; c < NC; ++c) {
                if (c >= s.channels) break;
                const float slope = v_color[(first + x) * s.channels + c];
                v[c * kTile + x] = slope;
                q[x] += color[(first + x) * s.channels + c] * slope;
            }
        for (int column = 0; column < kAcross; ++column) {
            Gradients<NC> &p = px[y / kBlock * kAcross + column];
            const int from_x = column * kBlock, row = y % kBlock * kBlock;
            std::memcpy(p.q + row, q + from_x, sizeof(float) * kBlock);
            for (int c = 0; c < NC; ++c) std::memcpy(p.color[c] + row, v + c * kTile + from_x, sizeof(float) * kBlock);
        }
    }
    const Grid grid(w.x, w.y);
    for (uint32_t i = begin; i < end; ++i) {
        if (i + 4 < end) __builtin_prefetch(&s.records[s.list[i + 4].id]);
        const Entry entry = s.list[i];
        const uint32_t blocks = s.touched[entry.slot];
        if (blocks) backward_gaussian<NC, kAbs>(s.records[entry.id], blocks, grid, px, s.slots.p + static_cast<size_t>(entry.slot) * kSlot);
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
        const auto start = std::chrono::steady_clock::now();
        bin(*s, in);
        s->binning_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
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

// color is what the forward pass returned. v_alpha (zeros) and v_means2d_abs may be null. All outputs are overwritten.
// Returns 0, or 1 where memory ran out.
extern "C" int fs_raster_backward(void *handle, const float *opacities, const float *color, const float *v_color,
                                  const float *v_alpha, float *v_means2d, float *v_means2d_abs, float *v_conics,
                                  float *v_colors, float *v_opacities) {
    State &s = *static_cast<State *>(handle);
    return status_of([&] {
        s.slots.resize(static_cast<size_t>(s.entries) * kSlot);
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
                const int64_t id = s.ids[static_cast<size_t>(rank)];
                if (rank + 8 < end) { // the slots lie in a row; the rest does not
                    const int64_t ahead = s.ids[static_cast<size_t>(rank + 8)];
                    __builtin_prefetch(&s.records[static_cast<size_t>(ahead)]);
                    __builtin_prefetch(v_means2d + 2 * ahead, 1);
                    __builtin_prefetch(v_conics + 3 * ahead, 1);
                    __builtin_prefetch(v_colors + s.channels * ahead, 1);
                    __builtin_prefetch(v_opacities + ahead, 1);
                }
                const Record &r = s.records[static_cast<size_t>(id)];
                const uint64_t first = s.first_slot[static_cast<size_t>(rank / s.per_chunk)] + r.slot;
                alignas(64) float v[kSlot] = {0};
                for (uint64_t i = first; i < first + r.slots; ++i) {
                    if (!s.touched[i]) continue;
                    const float *slot = s.slots.p + i * kSlot;
                    for (int k = 0; k < kSlot; ++k) v[k] += slot[k];
                }
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
    });
}

// What the forward pass of the image that the handle stands for had to do: (Gaussian, tile) overlaps, and pairs of
// a Gaussian and a block of 4x4 pixels in which it counts.
extern "C" void fs_raster_counts(const void *handle, int64_t *overlaps, int64_t *pairs) {
    const State &s = *static_cast<const State *>(handle);
    *overlaps = s.entries, *pairs = 0;
    for (int64_t i = 0; i < s.entries; ++i) *pairs += __builtin_popcount(s.touched[static_cast<size_t>(i)]);
}

// The milliseconds that making records, sorting and listing took in that pass.
extern "C" double fs_raster_binning_ms(const void *handle) { return static_cast<const State *>(handle)->binning_ms; }

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
