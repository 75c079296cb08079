// View-dependent colour from real spherical harmonics of degree 0 to 4 (sign convention of the 3DGS
// family; polynomial forms after Sloan, "Efficient Spherical Harmonic Evaluation", JCGT 2013).
#include "api.h"
#include "pool.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace {
constexpr int64_t kGrain = 512;
constexpr int kMaxBases = 25;

// Basis values b[K] at the unit direction (x, y, z) and, where d is given, their gradient d[K][3]
// as polynomials (its radial part drops out when the direction's normalisation is differentiated).
template <bool kGrad> void bases(int degree, float x, float y, float z, float *b, float (*d)[3]) {
    const auto set = [&](int i, float value, float dx, float dy, float dz) {
        b[i] = value;
        if (kGrad) d[i][0] = dx, d[i][1] = dy, d[i][2] = dz;
    };
    set(0, 0.28209479177387814f, 0, 0, 0);
    if (degree < 1) return;
    const float c1 = 0.4886025119029199f;
    set(1, -c1 * y, 0, -c1, 0);
    set(2, c1 * z, 0, 0, c1);
    set(3, -c1 * x, -c1, 0, 0);
    if (degree < 2) return;
    const float xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
    const float c2 = 1.0925484305920792f, c20 = 0.31539156525252005f, c22 = 0.5462742152960396f;
    set(4, c2 * xy, c2 * y, c2 * x, 0);
    set(5, -c2 * yz, 0, -c2 * z, -c2 * y);
    set(6, c20 * (2 * zz - xx - yy), -2 * c20 * x, -2 * c20 * y, 4 * c20 * z);
    set(7, -c2 * xz, -c2 * z, 0, -c2 * x);
    set(8, c22 * (xx - yy), 2 * c22 * x, -2 * c22 * y, 0);
    if (degree < 3) return;
    const float c33 = 0.5900435899266435f, c32 = 2.890611442640554f, c31 = 0.4570457994644658f;
    const float c30 = 0.3731763325901154f, c3m = 1.445305721320277f;
    set(9, -c33 * y * (3 * xx - yy), -6 * c33 * xy, -3 * c33 * (xx - yy), 0);
    set(10, c32 * xy * z, c32 * yz, c32 * xz, c32 * xy);
    set(11, -c31 * y * (4 * zz - xx - yy), 2 * c31 * xy, -c31 * (4 * zz - xx - 3 * yy), -8 * c31 * yz);
    set(12, c30 * z * (2 * zz - 3 * xx - 3 * yy), -6 * c30 * xz, -6 * c30 * yz, c30 * (6 * zz - 3 * xx - 3 * yy));
    set(13, -c31 * x * (4 * zz - xx - yy), -c31 * (4 * zz - 3 * xx - yy), 2 * c31 * xy, -8 * c31 * xz);
    set(14, c3m * z * (xx - yy), 2 * c3m * xz, -2 * c3m * yz, c3m * (xx - yy));
    set(15, -c33 * x * (xx - 3 * yy), -3 * c33 * (xx - yy), 6 * c33 * xy, 0);
    if (degree < 4) return;
    const float c44 = 2.5033429417967046f, c43 = 1.7701307697799304f, c42 = 0.9461746957575601f;
    const float c41 = 0.6690465435572892f, c40 = 0.10578554691520431f, c4m = 0.47308734787878004f;
    const float c4p = 0.6258357354491761f;
    set(16, c44 * xy * (xx - yy), c44 * y * (3 * xx - yy), c44 * x * (xx - 3 * yy), 0);
    set(17, -c43 * yz * (3 * xx - yy), -6 * c43 * xy * z, -3 * c43 * z * (xx - yy), -c43 * y * (3 * xx - yy));
    set(18, c42 * xy * (7 * zz - 1), c42 * y * (7 * zz - 1), c42 * x * (7 * zz - 1), 14 * c42 * xy * z);
    set(19, -c41 * yz * (7 * zz - 3), 0, -c41 * z * (7 * zz - 3), -c41 * y * (21 * zz - 3));
    set(20, c40 * (zz * (35 * zz - 30) + 3), 0, 0, c40 * z * (140 * zz - 60));
    set(21, -c41 * xz * (7 * zz - 3), -c41 * z * (7 * zz - 3), 0, -c41 * x * (21 * zz - 3));
    set(22, c4m * (xx - yy) * (7 * zz - 1), 2 * c4m * x * (7 * zz - 1), -2 * c4m * y * (7 * zz - 1), 14 * c4m * z * (xx - yy));
    set(23, -c43 * xz * (xx - 3 * yy), -3 * c43 * z * (xx - yy), 6 * c43 * xy * z, -c43 * x * (xx - 3 * yy));
    set(24, c4p * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)), 4 * c4p * x * (xx - 3 * yy), -4 * c4p * y * (3 * xx - yy), 0);
}

bool direction(const float *mean, const float *campos, float *u, float &inv) {
    const float d0 = mean[0] - campos[0], d1 = mean[1] - campos[1], d2 = mean[2] - campos[2];
    const float n2 = d0 * d0 + d1 * d1 + d2 * d2;
    inv = n2 > 0.0f ? 1.0f / std::sqrt(n2) : 0.0f;
    u[0] = d0 * inv, u[1] = d1 * inv, u[2] = d2 * inv;
    return n2 > 0.0f;
}
} // namespace

// colors [C, N, 3] = max(0, 0.5 + sum_k basis_k(direction) coeff_k); 0 where culled, NaN where not finite.
// coeffs is [N, K, 3], or [C, N, K, 3] where per_camera is set.
extern "C" void fs_sh_forward(int64_t n, int64_t cameras, int degree, int64_t k, int per_camera, const float *means,
                              const float *campos, const float *coeffs, const int32_t *radii, float *colors) {
    const int active = (degree + 1) * (degree + 1);
    for (int64_t ci = 0; ci < cameras; ++ci) {
        fs::parallel_blocks(n, kGrain, [&](int64_t begin, int64_t end) {
            for (int64_t g = begin; g < end; ++g) {
                const int64_t i = ci * n + g;
                float *out = colors + 3 * i;
                out[0] = out[1] = out[2] = 0.0f;
                if (radii[2 * i] <= 0 || radii[2 * i + 1] <= 0) continue;
                float u[3], inv, b[kMaxBases];
                direction(means + 3 * g, campos + 3 * ci, u, inv);
                bases<false>(degree, u[0], u[1], u[2], b, nullptr);
                const float *c = coeffs + 3 * k * (per_camera ? i : g);
                float s0 = 0, s1 = 0, s2 = 0;
                for (int j = 0; j < active; ++j) s0 += b[j] * c[3 * j], s1 += b[j] * c[3 * j + 1], s2 += b[j] * c[3 * j + 2];
                if (!(std::isfinite(s0) && std::isfinite(s1) && std::isfinite(s2))) {
                    out[0] = out[1] = out[2] = NAN; // compositing leaves such a Gaussian out
                    continue;
                }
                out[0] = std::max(0.0f, s0 + 0.5f), out[1] = std::max(0.0f, s1 + 0.5f), out[2] = std::max(0.0f, s2 + 0.5f);
            }
        });
    }
}

// v_coeffs, v_means are overwritten (summed over cameras in order); v_campos [C, 3].
extern "C" void fs_sh_backward(int64_t n, int64_t cameras, int degree, int64_t k, int per_camera, const float *means,
                               const float *campos, const float *coeffs, const int32_t *radii, const float *colors,
                               const float *v_colors, float *v_coeffs, float *v_means, float *v_campos) {
    const int active = (degree + 1) * (degree + 1);
    const int64_t blocks = (n + kGrain - 1) / kGrain;
    std::vector<double> partial(static_cast<size_t>(blocks * cameras) * 3, 0.0);
    fs::parallel_for(blocks, [&](int64_t block) {
        const int64_t begin = block * kGrain, end = std::min(n, begin + kGrain);
        std::fill(v_means + 3 * begin, v_means + 3 * end, 0.0f);
        if (!per_camera) std::fill(v_coeffs + 3 * k * begin, v_coeffs + 3 * k * end, 0.0f);
        for (int64_t ci = 0; ci < cameras; ++ci) {
            double *pos = &partial[static_cast<size_t>(ci * blocks + block) * 3];
            if (per_camera) {
                std::fill(v_coeffs + 3 * k * (ci * n + begin), v_coeffs + 3 * k * (ci * n + end), 0.0f);
            }
            for (int64_t g = begin; g < end; ++g) {
                const int64_t i = ci * n + g;
                if (radii[2 * i] <= 0 || radii[2 * i + 1] <= 0) continue;
                if (std::isnan(colors[3 * i])) continue;
                float v[3]; // no gradient through the clamp at 0
                for (int a = 0; a < 3; ++a) v[a] = colors[3 * i + a] > 0.0f ? v_colors[3 * i + a] : 0.0f;
                float u[3], inv, b[kMaxBases], d[kMaxBases][3];
                const bool defined = direction(means + 3 * g, campos + 3 * ci, u, inv);
                bases<true>(degree, u[0], u[1], u[2], b, d);
                const float *c = coeffs + 3 * k * (per_camera ? i : g);
                float *vc = v_coeffs + 3 * k * (per_camera ? i : g);
                float vu[3] = {0, 0, 0};
                for (int j = 0; j < active; ++j) {
                    for (int a = 0; a < 3; ++a) vc[3 * j + a] += b[j] * v[a];
                    const float s = c[3 * j] * v[0] + c[3 * j + 1] * v[1] + c[3 * j + 2] * v[2];
                    for (int a = 0; a < 3; ++a) vu[a] += d[j][a] * s;
                }
                if (!defined) continue;
                const float along = vu[0] * u[0] + vu[1] * u[1] + vu[2] * u[2];
                for (int a = 0; a < 3; ++a) {
                    const float vd = (vu[a] - along * u[a]) * inv;
                    v_means[3 * g + a] += vd;
                    pos[a] -= vd;
                }
            }
        }
    });
    for (int64_t ci = 0; ci < cameras; ++ci)
        for (int a = 0; a < 3; ++a) {
            double s = 0.0;
            for (int64_t b = 0; b < blocks; ++b) s += partial[static_cast<size_t>(ci * blocks + b) * 3 + a];
            v_campos[3 * ci + a] = static_cast<float>(s);
        }
}
