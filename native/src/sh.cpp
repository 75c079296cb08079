// View-dependent colour from real spherical harmonics of degree 0 to 4 (sign convention of the 3DGS
// family; polynomial forms after Sloan, "Efficient Spherical Harmonic Evaluation", JCGT 2013).
// kLanes Gaussians are worked on at a time, their coefficients turned into columns.
#include "api.h"
#include "pool.h"
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace {
using namespace fs;

constexpr int64_t kGrain = 512;
constexpr int kMaxBases = 25;
static_assert(kGrain % kLanes == 0, "a block is a whole number of vectors");

// Basis values b[K] at the unit direction (x, y, z) and, where d is given, their gradient d[K][3]
// as polynomials (its radial part drops out when the direction's normalisation is differentiated).
template <bool kGrad> void bases(int degree, F x, F y, F z, F *b, F (*d)[3]) {
    const F none = zero();
    const auto set = [&](int i, F value, F dx, F dy, F dz) {
        b[i] = value;
        if (kGrad) d[i][0] = dx, d[i][1] = dy, d[i][2] = dz;
    };
    const auto c = [](float v) { return set1(v); };
    set(0, c(0.28209479177387814f), none, none, none);
    if (degree < 1) return;
    const float c1 = 0.4886025119029199f;
    set(1, c(-c1) * y, none, c(-c1), none);
    set(2, c(c1) * z, none, none, c(c1));
    set(3, c(-c1) * x, c(-c1), none, none);
    if (degree < 2) return;
    const F xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
    const float c2 = 1.0925484305920792f, c20 = 0.31539156525252005f, c22 = 0.5462742152960396f;
    set(4, c(c2) * xy, c(c2) * y, c(c2) * x, none);
    set(5, c(-c2) * yz, none, c(-c2) * z, c(-c2) * y);
    set(6, c(c20) * (c(2) * zz - xx - yy), c(-2 * c20) * x, c(-2 * c20) * y, c(4 * c20) * z);
    set(7, c(-c2) * xz, c(-c2) * z, none, c(-c2) * x);
    set(8, c(c22) * (xx - yy), c(2 * c22) * x, c(-2 * c22) * y, none);
    if (degree < 3) return;
    const float c33 = 0.5900435899266435f, c32 = 2.890611442640554f, c31 = 0.4570457994644658f;
    const float c30 = 0.3731763325901154f, c3m = 1.445305721320277f;
    const F xx3 = c(3) * xx, yy3 = c(3) * yy, zz4 = c(4) * zz;
    set(9, c(-c33) * y * (xx3 - yy), c(-6 * c33) * xy, c(-3 * c33) * (xx - yy), none);
    set(10, c(c32) * xy * z, c(c32) * yz, c(c32) * xz, c(c32) * xy);
    set(11, c(-c31) * y * (zz4 - xx - yy), c(2 * c31) * xy, c(-c31) * (zz4 - xx - yy3), c(-8 * c31) * yz);
    set(12, c(c30) * z * (c(2) * zz - xx3 - yy3), c(-6 * c30) * xz, c(-6 * c30) * yz, c(c30) * (c(6) * zz - xx3 - yy3));
    set(13, c(-c31) * x * (zz4 - xx - yy), c(-c31) * (zz4 - xx3 - yy), c(2 * c31) * xy, c(-8 * c31) * xz);
    set(14, c(c3m) * z * (xx - yy), c(2 * c3m) * xz, c(-2 * c3m) * yz, c(c3m) * (xx - yy));
    set(15, c(-c33) * x * (xx - yy3), c(-3 * c33) * (xx - yy), c(6 * c33) * xy, none);
    if (degree < 4) return;
    const float c44 = 2.5033429417967046f, c43 = 1.7701307697799304f, c42 = 0.9461746957575601f;
    const float c41 = 0.6690465435572892f, c40 = 0.10578554691520431f, c4m = 0.47308734787878004f;
    const float c4p = 0.6258357354491761f;
    const F zz7 = c(7) * zz, pole = zz7 - c(3), ring = zz7 - c(1), steep = c(21) * zz - c(3);
    set(16, c(c44) * xy * (xx - yy), c(c44) * y * (xx3 - yy), c(c44) * x * (xx - yy3), none);
    set(17, c(-c43) * yz * (xx3 - yy), c(-6 * c43) * xy * z, c(-3 * c43) * z * (xx - yy), c(-c43) * y * (xx3 - yy));
    set(18, c(c42) * xy * ring, c(c42) * y * ring, c(c42) * x * ring, c(14 * c42) * xy * z);
    set(19, c(-c41) * yz * pole, none, c(-c41) * z * pole, c(-c41) * y * steep);
    set(20, c(c40) * (zz * (c(35) * zz - c(30)) + c(3)), none, none, c(c40) * z * (c(140) * zz - c(60)));
    set(21, c(-c41) * xz * pole, c(-c41) * z * pole, none, c(-c41) * x * steep);
    set(22, c(c4m) * (xx - yy) * ring, c(2 * c4m) * x * ring, c(-2 * c4m) * y * ring, c(14 * c4m) * z * (xx - yy));
    set(23, c(-c43) * xz * (xx - yy3), c(-3 * c43) * z * (xx - yy), c(6 * c43) * xy * z, c(-c43) * x * (xx - yy3));
    set(24, c(c4p) * (xx * (xx - yy3) - yy * (xx3 - yy)), c(4 * c4p) * x * (xx - yy3), c(-4 * c4p) * y * (xx3 - yy), none);
}

struct Direction {
    F u[3], inv; // unit direction from the camera; all 0 where the Gaussian is at its centre
};

Direction direction(const float *means, int count, const float *campos) {
    F d[3];
    load_rows<3>(means, count, d);
    for (int a = 0; a < 3; ++a) d[a] = d[a] - set1(campos[a]);
    const F n2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
    Direction r;
    r.inv = keep(gt(n2, zero()), set1(1.0f) / sqrt(n2));
    for (int a = 0; a < 3; ++a) r.u[a] = d[a] * r.inv;
    return r;
}

// The coefficients of a Gaussian: the first basis's at `first`, the others' in a row at `rest`. The two
// may be parts of one tensor or two tensors; the strides are floats from one Gaussian to the next.
template <class T> struct Coefficients {
    T *first, *rest;
    int64_t first_stride, rest_stride;
    T *at(int64_t row) const { return first + row * first_stride; }
    T *behind(int64_t row) const { return rest + row * rest_stride; }
};

using Columns = float[3 * kMaxBases][kLanes];

void read_columns(const Coefficients<const float> &k, int64_t row, int count, int active, Columns c) {
    for (int l = 0; l < count; ++l) {
        const float *a = k.at(row + l), *b = k.behind(row + l);
        for (int i = 0; i < 3; ++i) c[i][l] = a[i];
        for (int i = 3; i < 3 * active; ++i) c[i][l] = b[i - 3];
    }
    for (int l = count; l < kLanes; ++l)
        for (int i = 0; i < 3 * active; ++i) c[i][l] = 0.0f;
}

void write_columns(const Coefficients<float> &k, int64_t row, int count, int active, int bases, const Columns c, bool add) {
    for (int l = 0; l < count; ++l) {
        float *a = k.at(row + l), *b = k.behind(row + l);
        if (add) {
            for (int i = 0; i < 3; ++i) a[i] += c[i][l];
            for (int i = 3; i < 3 * active; ++i) b[i - 3] += c[i][l];
        } else {
            for (int i = 0; i < 3; ++i) a[i] = c[i][l];
            for (int i = 3; i < 3 * active; ++i) b[i - 3] = c[i][l];
            for (int i = 3 * active; i < 3 * bases; ++i) b[i - 3] = 0.0f;
        }
    }
}
} // namespace

// colors [C, N, 3] = max(0, 0.5 + sum_k basis_k(direction) coeff_k); 0 where culled, NaN where not finite.
// Coefficients of N Gaussians, or of C x N where per_camera is set.
extern "C" int fs_sh_forward(int64_t n, int64_t cameras, int degree, int per_camera, const float *means,
                              const float *campos, const float *first, int64_t first_stride, const float *rest,
                              int64_t rest_stride, const int32_t *radii, float *colors) {
    return fs::status_of([&] {
        const int active = (degree + 1) * (degree + 1);
        const Coefficients<const float> k{first, rest, first_stride, rest_stride};
        for (int64_t ci = 0; ci < cameras; ++ci) {
            parallel_blocks(n, kGrain, [&](int64_t begin, int64_t end) {
                alignas(64) Columns c;
                for (int64_t g = begin; g < end; g += kLanes) {
                    const int count = static_cast<int>(std::min<int64_t>(kLanes, end - g));
                    const int64_t i = ci * n + g;
                    const M seen = drawn_lanes(radii + 2 * i, count);
                    if (!any(seen)) {
                        std::fill(colors + 3 * i, colors + 3 * (i + count), 0.0f);
                        continue;
                    }
                    read_columns(k, per_camera ? i : g, count, active, c);
                    const Direction d = direction(means + 3 * g, count, campos + 3 * ci);
                    F b[kMaxBases], out[3];
                    bases<false>(degree, d.u[0], d.u[1], d.u[2], b, nullptr);
                    M usable = seen;
                    for (int a = 0; a < 3; ++a) {
                        F s = b[0] * load(c[a]);
                        for (int j = 1; j < active; ++j) s = fma(b[j], load(c[3 * j + a]), s);
                        usable = usable & finite(s);
                        out[a] = max(zero(), s + set1(0.5f));
                    }
                    // Compositing leaves a NaN out.
                    for (F &v : out) v = select(usable, v, keep(seen, set1(NAN)));
                    store_rows<3>(colors + 3 * i, count, out);
                }
            });
        }
    });
}

// The gradients are overwritten (summed over cameras in order); v_campos is [C, 3] or null. Coefficients of
// bases above the active degree, of which there are `count` in all, get 0.
extern "C" int fs_sh_backward(int64_t n, int64_t cameras, int degree, int64_t count, int per_camera, const float *means,
                               const float *campos, const float *first, int64_t first_stride, const float *rest,
                               int64_t rest_stride, const int32_t *radii, const float *colors, const float *v_colors,
                               float *v_first, float *v_rest, float *v_means, float *v_campos) {
    return fs::status_of([&] {
        const int active = (degree + 1) * (degree + 1), all = static_cast<int>(count);
        const Coefficients<const float> k{first, rest, first_stride, rest_stride};
        const Coefficients<float> vk{v_first, v_rest, first_stride, rest_stride};
        const int64_t blocks = (n + kGrain - 1) / kGrain;
        std::vector<double> partial(v_campos ? static_cast<size_t>(blocks * cameras) * 3 : 0, 0.0);
        parallel_for(blocks, [&](int64_t block) {
            const int64_t begin = block * kGrain, end = std::min(n, begin + kGrain);
            alignas(64) Columns c;
            for (int64_t g = begin; g < end; g += kLanes) {
                const int rows = static_cast<int>(std::min<int64_t>(kLanes, end - g));
                F v_mean[3] = {zero(), zero(), zero()};
                for (int64_t ci = 0; ci < cameras; ++ci) {
                    const int64_t i = ci * n + g, row = per_camera ? i : g;
                    const bool add = ci > 0 && !per_camera;
                    F drawn[3], v[3];
                    load_rows<3>(colors + 3 * i, rows, drawn);
                    load_rows<3>(v_colors + 3 * i, rows, v);
                    // A colour of NaN took no part; through the clamp at 0 goes no gradient.
                    const M seen = drawn_lanes(radii + 2 * i, rows) & ge(drawn[0], zero());
                    if (!any(seen)) {
                        if (!add) {
                            std::memset(c, 0, sizeof(c));
                            write_columns(vk, row, rows, active, all, c, false);
                        }
                        continue;
                    }
                    for (int a = 0; a < 3; ++a) v[a] = keep(seen & gt(drawn[a], zero()), v[a]);
                    read_columns(k, row, rows, active, c);
                    const Direction d = direction(means + 3 * g, rows, campos + 3 * ci);
                    F b[kMaxBases], db[kMaxBases][3], vu[3] = {zero(), zero(), zero()};
                    bases<true>(degree, d.u[0], d.u[1], d.u[2], b, db);
                    for (int j = 0; j < active; ++j) {
                        const F s = fma(load(c[3 * j]), v[0], fma(load(c[3 * j + 1]), v[1], load(c[3 * j + 2]) * v[2]));
                        for (int a = 0; a < 3; ++a) {
                            vu[a] = fma(db[j][a], s, vu[a]);
                            store(c[3 * j + a], keep(seen, b[j] * v[a])); // a hidden one may be at NaN
                        }
                    }
                    write_columns(vk, row, rows, active, all, c, add);
                    const F along = vu[0] * d.u[0] + vu[1] * d.u[1] + vu[2] * d.u[2];
                    for (int a = 0; a < 3; ++a) {
                        const F vd = keep(seen, (vu[a] - along * d.u[a]) * d.inv);
                        v_mean[a] = v_mean[a] + vd;
                        if (v_campos) add_in_order(partial[static_cast<size_t>(ci * blocks + block) * 3 + static_cast<size_t>(a)], vd);
                    }
                }
                store_rows<3>(v_means + 3 * g, rows, v_mean);
            }
        });
        if (!v_campos) return;
        for (int64_t ci = 0; ci < cameras; ++ci)
            for (int a = 0; a < 3; ++a) {
                double s = 0.0;
                for (int64_t b = 0; b < blocks; ++b) s += partial[static_cast<size_t>(ci * blocks + b) * 3 + static_cast<size_t>(a)];
                v_campos[3 * ci + a] = static_cast<float>(-s);
            }
    });
}
