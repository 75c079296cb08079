// Perspective projection of 3D Gaussians (EWA splatting), with gradients to every input and to the
// camera pose. Conventions and culling rules are gsplat's. kLanes Gaussians are worked on at a time.
#include "api.h"
#include "pool.h"
#include "simd.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

namespace {
using namespace fs;

constexpr int64_t kGrain = 512; // Gaussians of one block; partial sums of pose gradients are per block
static_assert(kGrain % kLanes == 0, "a block is a whole number of vectors");

struct CameraParams {
    float r[9], t[3], fx, fy, cx, cy;
    float lim_x_pos, lim_x_neg, lim_y_pos, lim_y_neg;
};

CameraParams read_camera(const float *viewmat, const float *k, int width, int height) {
    CameraParams c;
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) c.r[3 * i + j] = viewmat[4 * i + j];
        c.t[i] = viewmat[4 * i + 3];
    }
    c.fx = k[0], c.fy = k[4], c.cx = k[2], c.cy = k[5];
    // The Jacobian is taken at a point clamped to 1.3 times the field of view.
    const float tan_x = 0.5f * static_cast<float>(width) / c.fx, tan_y = 0.5f * static_cast<float>(height) / c.fy;
    c.lim_x_pos = (static_cast<float>(width) - c.cx) / c.fx + 0.3f * tan_x;
    c.lim_x_neg = c.cx / c.fx + 0.3f * tan_x;
    c.lim_y_pos = (static_cast<float>(height) - c.cy) / c.fy + 0.3f * tan_y;
    c.lim_y_neg = c.cy / c.fy + 0.3f * tan_y;
    return c;
}

// Everything that the forward pass computes on the way, for the backward pass to use again.
struct Projected {
    F p[3];            // camera space
    F qn[4], inv_norm; // unit quaternion
    F rq[9];           // its rotation
    F m[9];            // rotation times scales, M; the world covariance is M M^t
    F iz, j00, j02, j11, j12;
    F x, y;   // x/z, y/z
    F ux, uy; // the same, clamped
    F tm[6];      // T = J R, 2x3
    F n[6];       // T M, 2x3
    F a0, b0, c0; // covariance before the blur, (T M) (T M)^t
    F a, b, c, det, det0, inv_det;
    M valid;
};

F dot3(F a0, F a1, F a2, F b0, F b1, F b2) { return a0 * b0 + a1 * b1 + a2 * b2; }

Projected project(const CameraParams &cam, const F *mean, const F *quat, const F *scale, float eps2d, float near_plane,
                  float far_plane) {
    Projected o;
    for (int i = 0; i < 3; ++i)
        o.p[i] = dot3(set1(cam.r[3 * i]), set1(cam.r[3 * i + 1]), set1(cam.r[3 * i + 2]), mean[0], mean[1], mean[2]) + set1(cam.t[i]);
    const F one = set1(1.0f), two = set1(2.0f), z = o.p[2];
    const F norm2 = quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3];
    o.valid = ge(z, set1(near_plane)) & ge(set1(far_plane), z);
    o.valid = o.valid & ge(norm2, set1(FLT_MIN)) & finite(norm2); // below it the norm has lost its digits
    o.inv_norm = one / sqrt(norm2);
    for (int i = 0; i < 4; ++i) o.qn[i] = quat[i] * o.inv_norm;
    const F w = o.qn[0], x = o.qn[1], y = o.qn[2], v = o.qn[3];
    o.rq[0] = one - two * (y * y + v * v), o.rq[1] = two * (x * y - w * v), o.rq[2] = two * (x * v + w * y);
    o.rq[3] = two * (x * y + w * v), o.rq[4] = one - two * (x * x + v * v), o.rq[5] = two * (y * v - w * x);
    o.rq[6] = two * (x * v - w * y), o.rq[7] = two * (y * v + w * x), o.rq[8] = one - two * (x * x + y * y);
    for (int i = 0; i < 3; ++i)
        for (int k = 0; k < 3; ++k) o.m[3 * i + k] = o.rq[3 * i + k] * scale[k];
    o.iz = one / z;
    o.x = o.p[0] * o.iz, o.y = o.p[1] * o.iz;
    o.ux = min(set1(cam.lim_x_pos), max(set1(-cam.lim_x_neg), o.x));
    o.uy = min(set1(cam.lim_y_pos), max(set1(-cam.lim_y_neg), o.y));
    o.j00 = set1(cam.fx) * o.iz, o.j11 = set1(cam.fy) * o.iz;
    o.j02 = set1(-cam.fx) * o.ux * o.iz, o.j12 = set1(-cam.fy) * o.uy * o.iz;
    for (int k = 0; k < 3; ++k) {
        o.tm[k] = o.j00 * set1(cam.r[k]) + o.j02 * set1(cam.r[6 + k]);
        o.tm[3 + k] = o.j11 * set1(cam.r[3 + k]) + o.j12 * set1(cam.r[6 + k]);
    }
    for (int i = 0; i < 2; ++i)
        for (int k = 0; k < 3; ++k) o.n[3 * i + k] = dot3(o.tm[3 * i], o.tm[3 * i + 1], o.tm[3 * i + 2], o.m[k], o.m[3 + k], o.m[6 + k]);
    const F *n0 = o.n, *n1 = o.n + 3;
    o.a0 = dot3(n0[0], n0[1], n0[2], n0[0], n0[1], n0[2]);
    o.b0 = dot3(n0[0], n0[1], n0[2], n1[0], n1[1], n1[2]);
    o.c0 = dot3(n1[0], n1[1], n1[2], n1[0], n1[1], n1[2]);
    const F eps = set1(eps2d);
    o.a = o.a0 + eps, o.b = o.b0, o.c = o.c0 + eps;
    // For long thin Gaussians a c - b^2 would cancel; the determinant of N N^t is the squared length of
    // the cross product of N's rows (Cauchy-Binet), and the blur adds positive terms.
    F cross[3];
    for (int k = 0; k < 3; ++k) cross[k] = difference_of_products(n0[(k + 1) % 3], n1[(k + 2) % 3], n0[(k + 2) % 3], n1[(k + 1) % 3]);
    o.det0 = dot3(cross[0], cross[1], cross[2], cross[0], cross[1], cross[2]);
    o.det = o.det0 + eps * (o.a0 + o.c0) + eps * eps;
    o.inv_det = one / o.det;
    o.valid = o.valid & gt(o.det, zero()) & finite(o.det);
    return o;
}

struct Shapes { // of a vector of Gaussians, or their gradients
    F mean[3], quat[4], scale[3];
};

Shapes load_shapes(const float *means, const float *quats, const float *scales, int64_t first, int count) {
    Shapes x;
    load_rows<3>(means + 3 * first, count, x.mean);
    load_rows<4>(quats + 4 * first, count, x.quat);
    load_rows<3>(scales + 3 * first, count, x.scale);
    return x;
}

int32_t to_radius(float r) { return static_cast<int32_t>(std::min(r, 1e9f)); }
} // namespace

extern "C" int fs_project_forward(int64_t n, int64_t cameras, const float *means, const float *quats,
                                   const float *scales, const float *opacities, const float *viewmats,
                                   const float *ks, int width, int height, float eps2d, float near_plane,
                                   float far_plane, float radius_clip, int antialiased, int32_t *radii,
                                   float *means2d, float *depths, float *conics, float *compensations) {
    return fs::status_of([&] {
        for (int64_t ci = 0; ci < cameras; ++ci) {
            const CameraParams cam = read_camera(viewmats + 16 * ci, ks + 9 * ci, width, height);
            parallel_blocks(n, kGrain, [&](int64_t begin, int64_t end) {
                std::fill(radii + 2 * (ci * n + begin), radii + 2 * (ci * n + end), 0);
                std::fill(means2d + 2 * (ci * n + begin), means2d + 2 * (ci * n + end), 0.0f);
                std::fill(depths + ci * n + begin, depths + ci * n + end, 0.0f);
                std::fill(conics + 3 * (ci * n + begin), conics + 3 * (ci * n + end), 0.0f);
                if (compensations) std::fill(compensations + ci * n + begin, compensations + ci * n + end, 0.0f);
                for (int64_t first = begin; first < end; first += kLanes) {
                    const int count = static_cast<int>(std::min<int64_t>(kLanes, end - first));
                    const Shapes x = load_shapes(means, quats, scales, first, count);
                    const Projected o = project(cam, x.mean, x.quat, x.scale, eps2d, near_plane, far_plane);
                    const F mx = set1(cam.fx) * o.p[0] * o.iz + set1(cam.cx), my = set1(cam.fy) * o.p[1] * o.iz + set1(cam.cy);
                    const F ca = o.c * o.inv_det, cb = neg(o.b) * o.inv_det, cc = o.a * o.inv_det;
                    const M valid = o.valid & finite(mx) & finite(my) & finite(ca) & finite(cb) & finite(cc);
                    enum { kMx, kMy, kZ, kCa, kCb, kCc, kComp, kSx, kSy, kCount };
                    alignas(64) float out[kCount][kLanes];
                    store(out[kMx], mx), store(out[kMy], my), store(out[kZ], o.p[2]);
                    store(out[kCa], ca), store(out[kCb], cb), store(out[kCc], cc);
                    store(out[kComp], sqrt(max(zero(), o.det0 / o.det)));
                    store(out[kSx], sqrt(o.a)), store(out[kSy], sqrt(o.c));
                    for (uint32_t left = bits(valid); left; left &= left - 1) {
                        const int l = __builtin_ctz(left);
                        if (l >= count) break;
                        const int64_t g = first + l, i = ci * n + g;
                        const float opacity = antialiased ? opacities[g] * out[kComp][l] : opacities[g];
                        if (!(opacity >= FS_MIN_ALPHA) || !std::isfinite(opacity)) continue;
                        const float extent = std::min(3.33f, std::sqrt(2.0f * std::log(opacity / FS_MIN_ALPHA)));
                        const float rx = std::ceil(extent * out[kSx][l]), ry = std::ceil(extent * out[kSy][l]);
                        if (!(rx > radius_clip || ry > radius_clip)) continue;
                        const float x = out[kMx][l], y = out[kMy][l];
                        if (!(x + rx > 0 && x - rx < static_cast<float>(width) && y + ry > 0 && y - ry < static_cast<float>(height)))
                            continue;
                        radii[2 * i] = to_radius(rx), radii[2 * i + 1] = to_radius(ry);
                        means2d[2 * i] = x, means2d[2 * i + 1] = y;
                        depths[i] = out[kZ][l];
                        conics[3 * i] = out[kCa][l], conics[3 * i + 1] = out[kCb][l], conics[3 * i + 2] = out[kCc][l];
                        if (compensations) compensations[i] = out[kComp][l];
                    }
                }
            });
        }
    });
}

namespace {
// Adds one camera's share to g; lanes outside `seen` add nothing. pose (12 sums) may be null.
void pull_back(const CameraParams &cam, const Projected &o, const F *mean, const F *scale, M seen, const F *v_mean2d,
               F v_depth, const F *v_conic, const F *v_compensation, Shapes &g, double *pose) {
    const F two = set1(2.0f), half = set1(0.5f);
    const F ca = o.c * o.inv_det, cb = neg(o.b) * o.inv_det, cc = o.a * o.inv_det;
    // conic = A^-1: dL/dA = -A^-1 G A^-1, with G's off-diagonal halved
    const F ga = v_conic[0], gb = half * v_conic[1], gc = v_conic[2];
    const F h00 = ca * ga + cb * gb, h01 = ca * gb + cb * gc, h10 = cb * ga + cc * gb, h11 = cb * gb + cc * gc;
    F v00 = neg(h00 * ca + h01 * cb), v01 = neg(h00 * cb + h01 * cc), v11 = neg(h10 * cb + h11 * cc);
    if (v_compensation) {
        const F comp2 = o.det0 * o.inv_det;
        const M some = gt(comp2, zero());
        const F f = *v_compensation * half / sqrt(comp2);
        v00 = v00 + keep(some, f * (o.c0 * o.inv_det - comp2 * ca));
        v01 = v01 + keep(some, f * (neg(o.b0) * o.inv_det - comp2 * cb));
        v11 = v11 + keep(some, f * (o.a0 * o.inv_det - comp2 * cc));
    }
    v00 = keep(seen, v00), v01 = keep(seen, v01), v11 = keep(seen, v11);
    // cov2d = N N^t, N = T M, M = R(q) S
    const F *n0 = o.n, *n1 = o.n + 3, *t0 = o.tm, *t1 = o.tm + 3;
    F vn[6], vt[6], v[9];
    for (int k = 0; k < 3; ++k) {
        vn[k] = two * (v00 * n0[k] + v01 * n1[k]);
        vn[3 + k] = two * (v01 * n0[k] + v11 * n1[k]);
    }
    for (int k = 0; k < 3; ++k) {
        vt[k] = dot3(vn[0], vn[1], vn[2], o.m[3 * k], o.m[3 * k + 1], o.m[3 * k + 2]);
        vt[3 + k] = dot3(vn[3], vn[4], vn[5], o.m[3 * k], o.m[3 * k + 1], o.m[3 * k + 2]);
    }
    for (int k = 0; k < 3; ++k) {
        F vs = zero();
        for (int r = 0; r < 3; ++r) {
            const F vm = t0[r] * vn[k] + t1[r] * vn[3 + k];
            vs = vs + vm * o.rq[3 * r + k];
            v[3 * r + k] = vm * scale[k];
        }
        g.scale[k] = g.scale[k] + keep(seen, vs);
    }
    const F w = o.qn[0], x = o.qn[1], y = o.qn[2], z = o.qn[3];
    const F vq[4] = {
        two * (x * (v[7] - v[5]) + y * (v[2] - v[6]) + z * (v[3] - v[1])),
        two * (neg(two * x) * (v[4] + v[8]) + y * (v[1] + v[3]) + z * (v[2] + v[6]) + w * (v[7] - v[5])),
        two * (x * (v[1] + v[3]) - two * y * (v[0] + v[8]) + z * (v[5] + v[7]) + w * (v[2] - v[6])),
        two * (x * (v[2] + v[6]) + y * (v[5] + v[7]) - two * z * (v[0] + v[4]) + w * (v[3] - v[1])),
    };
    const F along = vq[0] * w + vq[1] * x + vq[2] * y + vq[3] * z;
    for (int k = 0; k < 4; ++k) g.quat[k] = g.quat[k] + keep(seen, (vq[k] - along * o.qn[k]) * o.inv_norm);
    // T = J R
    F r[9];
    for (int k = 0; k < 9; ++k) r[k] = set1(cam.r[k]);
    const F vj00 = dot3(vt[0], vt[1], vt[2], r[0], r[1], r[2]), vj02 = dot3(vt[0], vt[1], vt[2], r[6], r[7], r[8]);
    const F vj11 = dot3(vt[3], vt[4], vt[5], r[3], r[4], r[5]), vj12 = dot3(vt[3], vt[4], vt[5], r[6], r[7], r[8]);
    // J and mean2d as functions of the camera-space point; a clamped direction does not move with x or y
    const F fx = set1(cam.fx), fy = set1(cam.fy), iz = o.iz, iz2 = iz * iz;
    const M moves_x = ge(o.ux, o.x) & ge(o.x, o.ux), moves_y = ge(o.uy, o.y) & ge(o.y, o.uy);
    const F gx = v_mean2d[0], gy = v_mean2d[1];
    const F x02 = fx * iz2 * vj02, y12 = fy * iz2 * vj12;
    F vp[3] = {fx * iz * gx - keep(moves_x, x02), fy * iz * gy - keep(moves_y, y12), v_depth};
    vp[2] = vp[2] - iz * (fx * o.x * gx + fy * o.y * gy);
    vp[2] = vp[2] - iz2 * (fx * vj00 + fy * vj11);
    vp[2] = vp[2] + select(moves_x, two, set1(1.0f)) * o.ux * x02;
    vp[2] = vp[2] + select(moves_y, two, set1(1.0f)) * o.uy * y12;
    for (int k = 0; k < 3; ++k) vp[k] = keep(seen, vp[k]);
    for (int k = 0; k < 3; ++k) g.mean[k] = g.mean[k] + dot3(r[k], r[3 + k], r[6 + k], vp[0], vp[1], vp[2]);
    if (!pose) return;
    const F j[6] = {o.j00, zero(), o.j02, zero(), o.j11, o.j12};
    for (int a = 0; a < 3; ++a) {
        for (int k = 0; k < 3; ++k)
            add_in_order(pose[4 * a + k], keep(seen, vp[a] * mean[k] + j[a] * vt[k] + j[3 + a] * vt[3 + k]));
        add_in_order(pose[4 * a + 3], vp[a]);
    }
}
} // namespace

// Adds up over cameras in their order; v_viewmats is summed over fixed blocks of Gaussians in double.
// v_depths and v_compensations may be null (zeros).
extern "C" int fs_project_backward(int64_t n, int64_t cameras, const float *means, const float *quats,
                                    const float *scales, const float *viewmats, const float *ks, int width,
                                    int height, float eps2d, float near_plane, float far_plane,
                                    const int32_t *radii, const float *v_means2d, const float *v_depths,
                                    const float *v_conics, const float *v_compensations, float *v_means,
                                    float *v_quats, float *v_scales, float *v_viewmats) {
    return fs::status_of([&] {
        const int64_t blocks = (n + kGrain - 1) / kGrain;
        std::vector<double> partial(v_viewmats ? static_cast<size_t>(blocks * cameras) * 12 : 0, 0.0);
        std::vector<CameraParams> cams;
        for (int64_t ci = 0; ci < cameras; ++ci) cams.push_back(read_camera(viewmats + 16 * ci, ks + 9 * ci, width, height));
        parallel_for(blocks, [&](int64_t block) {
            const int64_t begin = block * kGrain, end = std::min(n, begin + kGrain);
            for (int64_t first = begin; first < end; first += kLanes) {
                const int count = static_cast<int>(std::min<int64_t>(kLanes, end - first));
                const Shapes x = load_shapes(means, quats, scales, first, count);
                Shapes g;
                for (F &v : g.mean) v = zero();
                for (F &v : g.quat) v = zero();
                for (F &v : g.scale) v = zero();
                for (int64_t ci = 0; ci < cameras; ++ci) {
                    const int64_t i = ci * n + first;
                    const M seen = drawn_lanes(radii + 2 * i, count);
                    if (!any(seen)) continue;
                    const Projected o = project(cams[static_cast<size_t>(ci)], x.mean, x.quat, x.scale, eps2d, near_plane, far_plane);
                    F v_mean2d[2], v_depth = zero(), v_conic[3], v_compensation = zero();
                    load_rows<2>(v_means2d + 2 * i, count, v_mean2d);
                    if (v_depths) load_rows<1>(v_depths + i, count, &v_depth);
                    load_rows<3>(v_conics + 3 * i, count, v_conic);
                    if (v_compensations) load_rows<1>(v_compensations + i, count, &v_compensation);
                    pull_back(cams[static_cast<size_t>(ci)], o, x.mean, x.scale, seen & o.valid, v_mean2d, v_depth, v_conic,
                              v_compensations ? &v_compensation : nullptr, g,
                              v_viewmats ? &partial[static_cast<size_t>(ci * blocks + block) * 12] : nullptr);
                }
                store_rows<3>(v_means + 3 * first, count, g.mean);
                store_rows<4>(v_quats + 4 * first, count, g.quat);
                store_rows<3>(v_scales + 3 * first, count, g.scale);
            }
        });
        if (!v_viewmats) return;
        for (int64_t ci = 0; ci < cameras; ++ci) {
            for (int k = 0; k < 12; ++k) {
                double s = 0.0;
                for (int64_t b = 0; b < blocks; ++b) s += partial[static_cast<size_t>(ci * blocks + b) * 12 + k];
                v_viewmats[16 * ci + k] = static_cast<float>(s);
            }
            for (int k = 12; k < 16; ++k) v_viewmats[16 * ci + k] = 0.0f;
        }
    });
}
