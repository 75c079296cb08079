// Calls every kernel on random and poisoned input of odd sizes, from heap arrays of exactly the needed
// length, so that a build with sanitizers sees each read and write that strays. Checks besides that
// every output is written, that the bits do not depend on the number of threads, and that two threads
// of the program may call at once. Prints "ok" and the number of runs, or says what differs and exits 1.
//
//     sanitizer_driver            everything
//     sanitizer_driver threads    only cases with work for several threads
//     sanitizer_driver overread   reads one float too many, on purpose
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

extern "C" {
const char *fs_simd_name();
void fs_set_threads(int);
int fs_get_threads();
double fs_sum(int64_t, const float *);
int fs_adam_step(int64_t, float *, const float *, float *, float *, double, double, double, double, int64_t);
int fs_project_forward(int64_t, int64_t, const float *, const float *, const float *, const float *, const float *,
                        const float *, int, int, float, float, float, float, int, int32_t *, float *, float *, float *,
                        float *);
int fs_project_backward(int64_t, int64_t, const float *, const float *, const float *, const float *, const float *,
                         int, int, float, float, float, const int32_t *, const float *, const float *, const float *,
                         const float *, float *, float *, float *, float *);
int fs_sh_forward(int64_t, int64_t, int, int, const float *, const float *, const float *, int64_t, const float *,
                   int64_t, const int32_t *, float *);
int fs_sh_backward(int64_t, int64_t, int, int64_t, int, const float *, const float *, const float *, int64_t,
                    const float *, int64_t, const int32_t *, const float *, const float *, float *, float *, float *,
                    float *);
void *fs_raster_forward(int64_t, int, const float *, const float *, const float *, const float *, const float *,
                        const int32_t *, const float *, int, int, float *, float *);
int fs_raster_backward(void *, const float *, const float *, const float *, const float *, float *, float *, float *,
                       float *, float *);
void fs_raster_counts(const void *, int64_t *, int64_t *);
double fs_raster_binning_ms(const void *);
void fs_raster_free(void *);
int fs_squared_error(int, int, const float *, const float *, const float *, double *);
int fs_density_statistics(int64_t, const int32_t *, const float *, float, float, float *, float *);
int fs_image_loss_forward(int, int, const float *, const float *, const float *, float *, double *);
int fs_image_loss_backward(int, int, const float *, const float *, const float *, const float *, float, float, float *);
int fs_stereo_sweep(int, int, const float *, int, const int32_t *, const float *, const int64_t *, const float *, int,
                    float, float, int, float *);
int fs_stereo_sgm(int, int, const float *, int, const float *, float, float, float, float, float, float *, float *);
int fs_stereo_patchmatch(int, int, const float *, const float *, int, const int32_t *, const float *, const float *, const int64_t *,
                         const float *, const uint8_t *, float, float, float, int, float, float, int, float, int64_t,
                         float *, float *);
int fs_row_warp_forward(int, int, const float *, const float *, float *, float *);
int fs_row_warp_backward(int, int, const float *, const float *, const float *, float *, float *);
int fs_stereo_distinct(int, int, const float *, const float *, int, const int32_t *, const float *, const int64_t *, const float *,
                       float, float, float, const float *, float *);
int fs_stereo_agreement(int, int, const float *, int, const int32_t *, const float *, const int64_t *, const float *,
                        float, float, float *, float *);
}

namespace {
void require(bool condition, const char *what) {
    if (condition) return;
    std::fprintf(stderr, "sanitizer_driver: %s\n", what);
    std::_Exit(1);
}

// Exactly n elements on the heap, null where there are none (as Python passes an empty tensor).
template <class T> struct Array {
    std::unique_ptr<T[]> data;
    size_t n;
    explicit Array(size_t count) : data(count ? new T[count] : nullptr), n(count) {
        for (size_t i = 0; i < n; ++i) std::memcpy(static_cast<void *>(&data[i]), &kUnwritten, sizeof(uint32_t));
    }
    static constexpr uint32_t kUnwritten = 0x7fa5a5a5u; // a NaN that no arithmetic makes
    operator T *() { return data.get(); }
    void check_written(const char *name) const {
        for (size_t i = 0; i < n; ++i) {
            uint32_t bits;
            std::memcpy(&bits, &data[i], 4);
            require(bits != kUnwritten, name);
        }
    }
};
using Floats = Array<float>;
using Ints = Array<int32_t>;

struct Random {
    std::mt19937 engine;
    double poison; // share of values that are replaced
    float uniform() { return std::uniform_real_distribution<float>(0.0f, 1.0f)(engine); }
    float normal() { return std::normal_distribution<float>()(engine); }
    float maybe_poison(float v) {
        static const float bad[] = {NAN,   INFINITY, -INFINITY, 0.0f,    -0.0f,  1e-45f, -1e-38f, 1e10f,
                                    1e20f, 1e38f,    -1e38f,    3.4e38f, -1.0f, 1.0f / 255.0f, 0.999f, 2.0f};
        if (uniform() >= poison) return v;
        return bad[engine() % (sizeof bad / sizeof bad[0])];
    }
    Floats normals(size_t n, float scale, float offset = 0.0f) {
        Floats a(n);
        for (size_t i = 0; i < n; ++i) a.data[i] = maybe_poison(offset + scale * normal());
        return a;
    }
    Floats uniforms(size_t n, float low, float high) {
        Floats a(n);
        for (size_t i = 0; i < n; ++i) a.data[i] = maybe_poison(low + (high - low) * uniform());
        return a;
    }
};

struct Case {
    int64_t n, cameras;
    int width, height, degree, per_camera, antialiased;
    double poison;
    unsigned seed;
};

using Bits = std::vector<uint32_t>; // all results of a run, one after the other
void append(Bits &all, const void *p, size_t words) {
    const size_t at = all.size();
    all.resize(at + words);
    if (words) std::memcpy(all.data() + at, p, words * 4);
}
template <class T> void keep(Bits &all, Array<T> &a, const char *name) {
    a.check_written(name);
    append(all, static_cast<T *>(a), a.n);
}

Bits render(const Case &c) {
    Bits all;
    Random r{std::mt19937(c.seed), c.poison}, clean{std::mt19937(c.seed + 1), 0.0};
    const size_t n = static_cast<size_t>(c.n), cams = static_cast<size_t>(c.cameras), rows = n * cams;
    const size_t k = static_cast<size_t>((c.degree + 1) * (c.degree + 1)) + 1; // one basis more than is used
    const size_t pixels = static_cast<size_t>(c.width) * static_cast<size_t>(c.height);
    Floats means = r.normals(3 * n, 1.0f), quats = r.normals(4 * n, 1.0f), scales = r.uniforms(3 * n, 0.01f, 0.5f);
    for (size_t i = 0; i < n; ++i) means.data[3 * i + 2] += 3.0f;
    Floats opacities = r.uniforms(n, 0.0f, 1.0f);
    Floats viewmats = clean.normals(16 * cams, 0.05f), ks(9 * cams), campos = clean.normals(3 * cams, 0.1f);
    for (size_t ci = 0; ci < cams; ++ci) {
        for (int i = 0; i < 4; ++i) viewmats.data[16 * ci + 5 * static_cast<size_t>(i)] += 1.0f;
        const float w = static_cast<float>(c.width), h = static_cast<float>(c.height);
        const float k9[9] = {0.9f * w + 1, 0, 0.5f * w, 0, 0.9f * w + 1, 0.5f * h, 0, 0, 1};
        for (size_t i = 0; i < 9; ++i) ks.data[9 * ci + i] = r.poison > 0.5 ? r.maybe_poison(k9[i]) : k9[i];
    }
    Ints radii(2 * rows);
    Floats means2d(2 * rows), depths(rows), conics(3 * rows), compensations(c.antialiased ? rows : 0);
    fs_project_forward(c.n, c.cameras, means, quats, scales, opacities, viewmats, ks, c.width, c.height, 0.3f, 0.01f,
                       1e10f, 0.0f, c.antialiased, radii, means2d, depths, conics, compensations);
    keep(all, radii, "radii"), keep(all, means2d, "means2d"), keep(all, depths, "depths");
    keep(all, conics, "conics"), keep(all, compensations, "compensations");

    Floats coeffs = r.normals(3 * k * (c.per_camera ? rows : n), 0.5f), colors(3 * rows);
    const int64_t stride = 3 * static_cast<int64_t>(k);
    const auto rest = [](float *first) { return first ? first + 3 : nullptr; };
    fs_sh_forward(c.n, c.cameras, c.degree, c.per_camera, means, campos, coeffs, stride, rest(coeffs), stride, radii, colors);
    keep(all, colors, "colors");

    Floats v_means2d(2 * rows), v_conics(3 * rows), v_colors(3 * rows), v_opacities(rows);
    for (size_t ci = 0; ci < cams; ++ci) {
        for (int channels = 1; channels <= 4; ++channels) {
            const size_t d = static_cast<size_t>(channels);
            const bool own = channels != 3; // features straight in; else the colours of the stage before
            Floats features = r.normals(own ? d * n : 0, 0.5f), background = r.uniforms(d, 0.0f, 1.0f);
            const float *features_or_colors = own ? static_cast<float *>(features) : colors + 3 * ci * n;
            Floats color(d * pixels), alpha(pixels);
            void *handle = fs_raster_forward(c.n, channels, means2d + 2 * ci * n, conics + 3 * ci * n, features_or_colors,
                                             opacities, depths + ci * n, radii + 2 * ci * n,
                                             channels % 2 ? static_cast<float *>(background) : nullptr, c.width, c.height,
                                             color, alpha);
            require(handle != nullptr, "fs_raster_forward ran out of memory");
            int64_t overlaps = -1, pairs = -1;
            fs_raster_counts(handle, &overlaps, &pairs);
            require(overlaps >= 0 && pairs >= 0 && pairs <= 16 * overlaps, "fs_raster_counts counts");
            require(fs_raster_binning_ms(handle) >= 0, "fs_raster_binning_ms");
            keep(all, color, "color"), keep(all, alpha, "alpha");
            Floats v_color = clean.normals(d * pixels, 1.0f), v_alpha = clean.normals(pixels, 1.0f);
            Floats absolute(2 * n), v_features(d * n);
            Floats part2d(2 * n), part_conics(3 * n), part_opacities(n);
            const bool with_abs = channels >= 3;
            require(fs_raster_backward(handle, opacities, color, v_color, v_alpha, part2d,
                                       with_abs ? static_cast<float *>(absolute) : nullptr, part_conics, v_features,
                                       part_opacities) == 0,
                    "fs_raster_backward ran out of memory");
            keep(all, part2d, "v_means2d"), keep(all, part_conics, "v_conics");
            keep(all, v_features, "v_colors"), keep(all, part_opacities, "v_opacities");
            if (with_abs) keep(all, absolute, "v_means2d_abs");
            if (channels == 3) {
                for (size_t i = 0; i < 2 * n; ++i) v_means2d.data[2 * ci * n + i] = part2d.data[i];
                for (size_t i = 0; i < 3 * n; ++i) v_conics.data[3 * ci * n + i] = part_conics.data[i];
                for (size_t i = 0; i < 3 * n; ++i) v_colors.data[3 * ci * n + i] = v_features.data[i];
                for (size_t i = 0; i < n; ++i) v_opacities.data[ci * n + i] = part_opacities.data[i];
            }
            fs_raster_free(handle);
        }
    }
    Floats v_coeffs(coeffs.n), v_means_sh(3 * n), v_campos(3 * cams);
    fs_sh_backward(c.n, c.cameras, c.degree, static_cast<int64_t>(k), c.per_camera, means, campos, coeffs, stride, rest(coeffs), stride,
                   radii, colors, v_colors, v_coeffs, rest(v_coeffs), v_means_sh, v_campos);
    keep(all, v_coeffs, "v_coeffs"), keep(all, v_means_sh, "v_means of colour"), keep(all, v_campos, "v_campos");

    Floats v_depths = clean.normals(rows, 1.0f), v_means(3 * n), v_quats(4 * n), v_scales(3 * n), v_viewmats(16 * cams);
    const bool pose = c.seed % 2 == 0;
    fs_project_backward(c.n, c.cameras, means, quats, scales, viewmats, ks, c.width, c.height, 0.3f, 0.01f, 1e10f, radii,
                        v_means2d, v_depths, v_conics, c.antialiased ? static_cast<float *>(v_opacities) : nullptr, v_means,
                        v_quats, v_scales, pose ? static_cast<float *>(v_viewmats) : nullptr);
    keep(all, v_means, "v_means"), keep(all, v_quats, "v_quats"), keep(all, v_scales, "v_scales");
    if (pose) keep(all, v_viewmats, "v_viewmats");
    return all;
}

// Rows that no projection would hand on: every field of the compositing stage poisoned by itself.
Bits composite_raw(int64_t count, int width, int height, double poison, unsigned seed) {
    Bits all;
    Random r{std::mt19937(seed), poison}, clean{std::mt19937(seed + 1), 0.0};
    const size_t n = static_cast<size_t>(count), pixels = static_cast<size_t>(width) * static_cast<size_t>(height);
    Floats means2d = r.uniforms(2 * n, -20.0f, 60.0f), conics = r.uniforms(3 * n, 0.0f, 0.5f);
    Floats colors = r.normals(3 * n, 1.0f), opacities = r.uniforms(n, 0.0f, 1.0f), depths = r.uniforms(n, 0.1f, 9.0f);
    Ints radii(2 * n);
    for (size_t i = 0; i < 2 * n; ++i) radii.data[i] = static_cast<int32_t>(clean.engine() % 40) - 2;
    Floats color(3 * pixels), alpha(pixels);
    void *handle = fs_raster_forward(count, 3, means2d, conics, colors, opacities, depths, radii, nullptr, width, height,
                                     color, alpha);
    require(handle != nullptr, "fs_raster_forward ran out of memory");
    keep(all, color, "color"), keep(all, alpha, "alpha");
    Floats v_color = clean.normals(3 * pixels, 1.0f), v_alpha = clean.normals(pixels, 1.0f);
    Floats v2d(2 * n), v_abs(2 * n), v_conics(3 * n), v_colors(3 * n), v_opacities(n);
    require(fs_raster_backward(handle, opacities, color, v_color, v_alpha, v2d, v_abs, v_conics, v_colors, v_opacities) == 0,
            "fs_raster_backward ran out of memory");
    keep(all, v2d, "v_means2d"), keep(all, v_abs, "v_means2d_abs"), keep(all, v_conics, "v_conics");
    keep(all, v_colors, "v_colors"), keep(all, v_opacities, "v_opacities");
    fs_raster_free(handle);
    return all;
}

Bits losses_and_adam(int width, int height, double poison, unsigned seed) {
    Bits all;
    Random r{std::mt19937(seed), poison};
    const size_t pixels = static_cast<size_t>(width) * static_cast<size_t>(height);
    Floats image = r.uniforms(3 * pixels, 0.0f, 1.0f), target = r.uniforms(3 * pixels, 0.0f, 1.0f);
    Floats weight = r.uniforms(pixels, 0.0f, 1.0f);
    for (int weighted = 0; weighted < 2; ++weighted) {
        Floats maps(9 * pixels), grad(3 * pixels);
        std::unique_ptr<double[]> sums(new double[3]);
        const float *w = weighted ? static_cast<float *>(weight) : nullptr;
        fs_image_loss_forward(width, height, image, target, w, nullptr, sums.get());
        fs_image_loss_forward(width, height, image, target, w, maps, sums.get());
        append(all, sums.get(), 6);
        fs_squared_error(width, height, image, target, w, sums.get());
        append(all, sums.get(), 4);
        fs_image_loss_backward(width, height, image, target, w, maps, 0.8f, -0.2f, grad);
        keep(all, maps, "maps"), keep(all, grad, "grad");
    }
    Floats disparity = r.normals(pixels, 0.2f * static_cast<float>(width)), warped(3 * pixels), inside(pixels);
    Floats grad_image(3 * pixels), grad_disparity(pixels);
    fs_row_warp_forward(width, height, image, disparity, warped, inside);
    fs_row_warp_backward(width, height, image, disparity, target, grad_image, grad_disparity);
    keep(all, warped, "warped"), keep(all, inside, "inside");
    keep(all, grad_image, "grad of what is warped"), keep(all, grad_disparity, "grad of disparity");
    const int64_t n = static_cast<int64_t>(3 * pixels);
    Floats first = r.normals(3 * pixels, 0.1f), second = r.uniforms(3 * pixels, 0.0f, 0.1f);
    fs_adam_step(n, image, target, first, second, 1e-2, 0.9, 0.999, 1e-15, 3);
    Ints radii(2 * pixels);
    for (size_t i = 0; i < 2 * pixels; ++i) radii[i] = static_cast<int32_t>(i % 5) - 1;
    Floats norms = r.uniforms(pixels, 0.0f, 1.0f), count = r.uniforms(pixels, 0.0f, 1.0f);
    fs_density_statistics(static_cast<int64_t>(pixels), radii, nullptr, 2.0f, 3.0f, norms, count);
    fs_density_statistics(static_cast<int64_t>(pixels), radii, target, 2.0f, 3.0f, norms, count); // of 3 values a pixel
    keep(all, norms, "norms"), keep(all, count, "count");
    const double total = fs_sum(n, image);
    keep(all, image, "param"), keep(all, first, "exp_avg"), keep(all, second, "exp_avg_sq"), append(all, &total, 2);
    return all;
}

// Three views of almost the same size around `width` x `height` (at least 2 x 2), the first one's depth from the others.
Bits stereo(int width, int height, double poison, unsigned seed) {
    Random r{std::mt19937(seed), poison};
    const int sizes[3][2] = {{width, height}, {width + 3, height + 1}, {width, height}};
    Array<int64_t> layout(9);
    int64_t total = 0;
    for (int i = 0; i < 3; ++i) {
        layout[static_cast<size_t>(3 * i)] = total;
        layout[static_cast<size_t>(3 * i + 1)] = sizes[i][0], layout[static_cast<size_t>(3 * i + 2)] = sizes[i][1];
        total += sizes[i][0] * sizes[i][1];
    }
    const size_t pixels = static_cast<size_t>(width) * static_cast<size_t>(height);
    constexpr int planes = 32;
    Floats images = r.uniforms(static_cast<size_t>(total), 0.0f, 1.0f), inverses = r.uniforms(static_cast<size_t>(total), 0.1f, 1.0f);
    Floats grey = r.uniforms(pixels, 0.0f, 1.0f), colours = r.uniforms(3 * pixels, 0.0f, 1.0f), geometry = r.normals(48, 0.1f);
    for (size_t k = 0; k < 4; ++k) // near the identity
        for (size_t i = 0; i < 3; ++i) geometry[12 * k + 4 * i] += 1.0f;
    Ints which(2);
    which[0] = 1, which[1] = 2;
    std::vector<uint8_t> mask(pixels);
    for (size_t i = 0; i < pixels; ++i) mask[i] = i % 7 != 0;
    Floats volume(pixels * planes), sums(pixels * planes), state(3 * pixels), cost(pixels), agreeing(pixels), fused(pixels);
    Bits all;
    for (int best = 1; best <= 2; ++best) {
        require(fs_stereo_sweep(width, height, grey, 2, which, images, layout, geometry, planes, 0.1f, 0.03f, best, volume) == 0, "sweep");
        keep(all, volume, "volume");
    }
    for (size_t i = 0; i < 3 * pixels; ++i) state[i] = 0.0f;
    require(fs_stereo_sgm(width, height, grey, planes, volume, 0.1f, 0.03f, 0.04f, 0.35f, 0.05f, sums, state) == 0, "sgm");
    keep(all, state, "inverse");
    for (int turn = 0; turn < 3; ++turn) {
        const float *known = turn == 1 ? static_cast<float *>(inverses) : nullptr;
        const uint8_t *used = turn == 2 ? mask.data() : nullptr;
        require(fs_stereo_patchmatch(width, height, grey, colours, 2, which, images, known, layout, geometry, used, 0.1f, 1.0f, 10.0f, 1 + turn % 2,
                                     0.1f, 0.05f, 2, 0.1f, 5, state, cost) == 0, "patchmatch");
        keep(all, state, "state"), keep(all, cost, "cost");
    }
    require(fs_stereo_distinct(width, height, grey, colours, 2, which, images, layout, geometry, 0.05f, 2.0f, 1.5f, state, cost) == 0, "distinct");
    keep(all, cost, "distinct");
    require(fs_stereo_agreement(width, height, state, 2, which, inverses, layout, geometry, 1.5f, 0.1f, agreeing, fused) == 0, "agreement");
    keep(all, agreeing, "agreeing"), keep(all, fused, "fused");
    return all;
}

// Two runs whose NaNs may differ in their payload (an addition may keep either operand's) but in nothing else.
bool same(const Bits &a, const Bits &b) {
    if (a.size() != b.size()) return false;
    for (size_t i = 0; i < a.size(); ++i) {
        const bool nan_a = (a[i] & 0x7fffffffu) > 0x7f800000u, nan_b = (b[i] & 0x7fffffffu) > 0x7f800000u;
        if (a[i] != b[i] && !(nan_a && nan_b)) return false;
    }
    return true;
}

int64_t runs = 0;
template <class Fn> void with_all_thread_counts(Fn f) {
    fs_set_threads(1);
    require(fs_get_threads() == 1, "fs_get_threads is not what was set");
    const Bits alone = f();
    fs_set_threads(3);
    require(same(f(), alone), "the bits depend on the number of threads");
    // Two threads of the program at once: one has the pool, the other works alone.
    Bits left, right;
    std::thread other([&] { left = f(); });
    right = f();
    other.join();
    require(same(left, alone) && same(right, alone), "two callers at once disturb each other");
    ++runs;
}
} // namespace

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (std::strcmp(what, "overread") == 0) {
        Floats values = Random{std::mt19937(1), 0.0}.normals(100, 1.0f);
        std::printf("read %f\n", fs_sum(101, values));
        return 0;
    }
    const int sizes[][2] = {{1, 1}, {17, 33}, {5, 40}, {64, 1}, {16, 16}, {3, 2}};
    unsigned seed = 0;
    for (const auto &size : sizes) {
        if (std::strcmp(what, "threads") == 0) break;
        for (const double poison : {0.0, 0.02, 0.7}) {
            for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{37}}) {
                ++seed;
                const Case c{n, 1 + static_cast<int64_t>(seed % 2), size[0], size[1], static_cast<int>(seed % 5),
                             static_cast<int>(seed / 2 % 2), static_cast<int>(seed / 3 % 2), poison, seed};
                with_all_thread_counts([&] { return render(c); });
                with_all_thread_counts([&] { return composite_raw(n, size[0], size[1], poison, seed); });
            }
            with_all_thread_counts([&] { return losses_and_adam(size[0], size[1], poison, seed); });
            if (size[0] > 1 && size[1] > 1) with_all_thread_counts([&] { return stereo(size[0], size[1], poison, seed); });
        }
    }
    const Case many{1300, 2, 71, 50, 3, 0, 1, 0.01, 99}; // several blocks of Gaussians and of pixels
    with_all_thread_counts([&] { return render(many); });
    with_all_thread_counts([&] { return composite_raw(5000, 71, 50, 0.01, 7); });   // several chunks of binning
    with_all_thread_counts([&] { return composite_raw(70000, 71, 50, 0.01, 8); }); // several shares of sorting
    with_all_thread_counts([&] { return losses_and_adam(101, 77, 0.0, 8); });
    with_all_thread_counts([&] { return stereo(53, 41, 0.0, 9); });
    std::printf("ok %lld %s\n", static_cast<long long>(runs), fs_simd_name());
    return 0;
}
