// Perspective projection of 3D Gaussians (EWA splatting) and spherical-harmonic colour, with
// gradients to every input and to the camera pose. Conventions and culling rules are gsplat's.
#include "api.h"
#include "pool.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

namespace {
constexpr int64_t kGrain = 512; // Gaussians of one block; partial sums of pose gradients are per block

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
    float p[3];            // camera space
    float qn[4], inv_norm; // unit quaternion
    float rq[9];           // its rotation
    float m[9];            // rotation times scales
    float sigma[9];        // world covariance
    float j00, j02, j11, j12;
    float ux, uy; // clamped x/z, y/z
    bool clamped_x, clamped_y;
    float tm[6];       // J R, 2x3
    float a0, b0, c0;  // covariance before the blur
    float a, b, c, det, det0;
};

bool project_one(const CameraParams &cam, const float *mean, const float *quat, const float *scale, float eps2d,
                 float near_plane, float far_plane, Projected &o) {
    for (int i = 0; i < 3; ++i) {
        o.p[i] = cam.r[3 * i] * mean[0] + cam.r[3 * i + 1] * mean[1] + cam.r[3 * i + 2] * mean[2] + cam.t[i];
    }
    const float z = o.p[2];
    if (!(z >= near_plane && z <= far_plane)) return false;
    const float norm2 = quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3];
    if (!(norm2 >= FLT_MIN) || !std::isfinite(norm2)) return false; // below it the norm has lost its digits
    o.inv_norm = 1.0f / std::sqrt(norm2);
    for (int i = 0; i < 4; ++i) o.qn[i] = quat[i] * o.inv_norm;
    const float w = o.qn[0], x = o.qn[1], y = o.qn[2], zq = o.qn[3];
    o.rq[0] = 1 - 2 * (y * y + zq * zq), o.rq[1] = 2 * (x * y - w * zq), o.rq[2] = 2 * (x * zq + w * y);
    o.rq[3] = 2 * (x * y + w * zq), o.rq[4] = 1 - 2 * (x * x + zq * zq), o.rq[5] = 2 * (y * zq - w * x);
    o.rq[6] = 2 * (x * zq - w * y), o.rq[7] = 2 * (y * zq + w * x), o.rq[8] = 1 - 2 * (x * x + y * y);
    for (int i = 0; i < 3; ++i)
        for (int k = 0; k < 3; ++k) o.m[3 * i + k] = o.rq[3 * i + k] * scale[k];
    for (int i = 0; i < 3; ++i)
        for (int k = i; k < 3; ++k) {
            const float v = o.m[3 * i] * o.m[3 * k] + o.m[3 * i + 1] * o.m[3 * k + 1] + o.m[3 * i + 2] * o.m[3 * k + 2];
            o.sigma[3 * i + k] = o.sigma[3 * k + i] = v;
        }
    const float iz = 1.0f / z;
    const float ux = o.p[0] * iz, uy = o.p[1] * iz;
    o.ux = std::min(cam.lim_x_pos, std::max(-cam.lim_x_neg, ux));
    o.uy = std::min(cam.lim_y_pos, std::max(-cam.lim_y_neg, uy));
    o.clamped_x = o.ux != ux, o.clamped_y = o.uy != uy;
    o.j00 = cam.fx * iz, o.j11 = cam.fy * iz;
    o.j02 = -cam.fx * o.ux * iz, o.j12 = -cam.fy * o.uy * iz;
    for (int k = 0; k < 3; ++k) {
        o.tm[k] = o.j00 * cam.r[k] + o.j02 * cam.r[6 + k];
        o.tm[3 + k] = o.j11 * cam.r[3 + k] + o.j12 * cam.r[6 + k];
    }
    float ts[6]; // T Sigma
    for (int i = 0; i < 2; ++i)
        for (int k = 0; k < 3; ++k)
            ts[3 * i + k] = o.tm[3 * i] * o.sigma[k] + o.tm[3 * i + 1] * o.sigma[3 + k] + o.tm[3 * i + 2] * o.sigma[6 + k];
    o.a0 = ts[0] * o.tm[0] + ts[1] * o.tm[1] + ts[2] * o.tm[2];
    o.b0 = ts[0] * o.tm[3] + ts[1] * o.tm[4] + ts[2] * o.tm[5];
    o.c0 = ts[3] * o.tm[3] + ts[4] * o.tm[4] + ts[5] * o.tm[5];
    o.a = o.a0 + eps2d, o.b = o.b0, o.c = o.c0 + eps2d;
    // In double: for long thin Gaussians the products cancel to a small difference.
    o.det0 = static_cast<float>(static_cast<double>(o.a0) * o.c0 - static_cast<double>(o.b0) * o.b0);
    o.det = static_cast<float>(static_cast<double>(o.a) * o.c - static_cast<double>(o.b) * o.b);
    return o.det > 0.0f && std::isfinite(o.det);
}

int32_t to_radius(float r) { return static_cast<int32_t>(std::min(r, 1e9f)); }
} // namespace

extern "C" void fs_project_forward(int64_t n, int64_t cameras, const float *means, const float *quats,
                                   const float *scales, const float *opacities, const float *viewmats,
                                   const float *ks, int width, int height, float eps2d, float near_plane,
                                   float far_plane, float radius_clip, int antialiased, int32_t *radii,
                                   float *means2d, float *depths, float *conics, float *compensations) {
    for (int64_t ci = 0; ci < cameras; ++ci) {
        const CameraParams cam = read_camera(viewmats + 16 * ci, ks + 9 * ci, width, height);
        fs::parallel_blocks(n, kGrain, [&](int64_t begin, int64_t end) {
            for (int64_t g = begin; g < end; ++g) {
                const int64_t i = ci * n + g;
                Projected o;
                radii[2 * i] = radii[2 * i + 1] = 0;
                means2d[2 * i] = means2d[2 * i + 1] = depths[i] = 0.0f;
                conics[3 * i] = conics[3 * i + 1] = conics[3 * i + 2] = 0.0f;
                if (compensations) compensations[i] = 0.0f;
                if (!project_one(cam, means + 3 * g, quats + 4 * g, scales + 3 * g, eps2d, near_plane, far_plane, o))
                    continue;
                const float comp = std::sqrt(std::max(0.0f, o.det0 / o.det));
                const float opacity = antialiased ? opacities[g] * comp : opacities[g];
                if (!(opacity >= FS_MIN_ALPHA) || !std::isfinite(opacity)) continue;
                const float extent = std::min(3.33f, std::sqrt(2.0f * std::log(opacity / FS_MIN_ALPHA)));
                const float rx = std::ceil(extent * std::sqrt(o.a)), ry = std::ceil(extent * std::sqrt(o.c));
                if (!(rx > radius_clip || ry > radius_clip)) continue;
                const float iz = 1.0f / o.p[2];
                const float mx = cam.fx * o.p[0] * iz + cam.cx, my = cam.fy * o.p[1] * iz + cam.cy;
                if (!(mx + rx > 0 && mx - rx < static_cast<float>(width) && my + ry > 0 &&
                      my - ry < static_cast<float>(height)))
                    continue;
                const float inv_det = 1.0f / o.det;
                const float ca = o.c * inv_det, cb = -o.b * inv_det, cc = o.a * inv_det;
                if (!(std::isfinite(mx) && std::isfinite(my) && std::isfinite(ca) && std::isfinite(cb) &&
                      std::isfinite(cc)))
                    continue;
                radii[2 * i] = to_radius(rx), radii[2 * i + 1] = to_radius(ry);
                means2d[2 * i] = mx, means2d[2 * i + 1] = my;
                depths[i] = o.p[2];
                conics[3 * i] = ca, conics[3 * i + 1] = cb, conics[3 * i + 2] = cc;
                if (compensations) compensations[i] = comp;
            }
        });
    }
}

// Adds up over cameras in their order; v_viewmats is summed over fixed blocks of Gaussians in double.
extern "C" void fs_project_backward(int64_t n, int64_t cameras, const float *means, const float *quats,
                                    const float *scales, const float *viewmats, const float *ks, int width,
                                    int height, float eps2d, float near_plane, float far_plane,
                                    const int32_t *radii, const float *v_means2d, const float *v_depths,
                                    const float *v_conics, const float *v_compensations, float *v_means,
                                    float *v_quats, float *v_scales, float *v_viewmats) {
    const int64_t blocks = (n + kGrain - 1) / kGrain;
    std::vector<double> partial(v_viewmats ? static_cast<size_t>(blocks * cameras) * 12 : 0, 0.0);
    fs::parallel_for(blocks, [&](int64_t block) {
        const int64_t begin = block * kGrain, end = std::min(n, begin + kGrain);
        std::fill(v_means + 3 * begin, v_means + 3 * end, 0.0f);
        std::fill(v_quats + 4 * begin, v_quats + 4 * end, 0.0f);
        std::fill(v_scales + 3 * begin, v_scales + 3 * end, 0.0f);
        for (int64_t ci = 0; ci < cameras; ++ci) {
            const CameraParams cam = read_camera(viewmats + 16 * ci, ks + 9 * ci, width, height);
            double *pose = v_viewmats ? &partial[static_cast<size_t>(ci * blocks + block) * 12] : nullptr;
            for (int64_t g = begin; g < end; ++g) {
                const int64_t i = ci * n + g;
                Projected o;
                if (radii[2 * i] <= 0 || radii[2 * i + 1] <= 0) continue;
                if (!project_one(cam, means + 3 * g, quats + 4 * g, scales + 3 * g, eps2d, near_plane, far_plane, o))
                    continue;
                const float inv_det = 1.0f / o.det;
                const float ca = o.c * inv_det, cb = -o.b * inv_det, cc = o.a * inv_det;
                // conic = A^-1: dL/dA = -A^-1 G A^-1, with G's off-diagonal halved
                const float ga = v_conics[3 * i], gb = 0.5f * v_conics[3 * i + 1], gc = v_conics[3 * i + 2];
                const float h00 = ca * ga + cb * gb, h01 = ca * gb + cb * gc;
                const float h10 = cb * ga + cc * gb, h11 = cb * gb + cc * gc;
                float v00 = -(h00 * ca + h01 * cb), v01 = -(h00 * cb + h01 * cc), v11 = -(h10 * cb + h11 * cc);
                if (v_compensations) {
                    const float comp2 = o.det0 * inv_det;
                    if (comp2 > 0.0f) {
                        const float f = v_compensations[i] * 0.5f / std::sqrt(comp2);
                        v00 += f * (o.c0 * inv_det - comp2 * ca);
                        v01 += f * (-o.b0 * inv_det - comp2 * cb);
                        v11 += f * (o.a0 * inv_det - comp2 * cc);
                    }
                }
                // cov2d = T Sigma T^t
                const float *t0 = o.tm, *t1 = o.tm + 3;
                float vt[6], vsig[9], q0[3], q1[3];
                for (int k = 0; k < 3; ++k) {
                    q0[k] = v00 * t0[k] + v01 * t1[k];
                    q1[k] = v01 * t0[k] + v11 * t1[k];
                }
                for (int k = 0; k < 3; ++k) {
                    vt[k] = 2 * (q0[0] * o.sigma[k] + q0[1] * o.sigma[3 + k] + q0[2] * o.sigma[6 + k]);
                    vt[3 + k] = 2 * (q1[0] * o.sigma[k] + q1[1] * o.sigma[3 + k] + q1[2] * o.sigma[6 + k]);
                }
                for (int r = 0; r < 3; ++r)
                    for (int k = 0; k < 3; ++k) vsig[3 * r + k] = t0[r] * q0[k] + t1[r] * q1[k];
                // Sigma = M M^t, M = R(q) S
                float vrq[9];
                for (int k = 0; k < 3; ++k) {
                    float vs = 0.0f;
                    for (int r = 0; r < 3; ++r) {
                        const float vm = 2 * (vsig[3 * r] * o.m[k] + vsig[3 * r + 1] * o.m[3 + k] + vsig[3 * r + 2] * o.m[6 + k]);
                        vs += vm * o.rq[3 * r + k];
                        vrq[3 * r + k] = vm * scales[3 * g + k];
                    }
                    v_scales[3 * g + k] += vs;
                }
                const float w = o.qn[0], x = o.qn[1], y = o.qn[2], z = o.qn[3];
                const float vq[4] = {
                    2 * (x * (vrq[7] - vrq[5]) + y * (vrq[2] - vrq[6]) + z * (vrq[3] - vrq[1])),
                    2 * (-2 * x * (vrq[4] + vrq[8]) + y * (vrq[1] + vrq[3]) + z * (vrq[2] + vrq[6]) + w * (vrq[7] - vrq[5])),
                    2 * (x * (vrq[1] + vrq[3]) - 2 * y * (vrq[0] + vrq[8]) + z * (vrq[5] + vrq[7]) + w * (vrq[2] - vrq[6])),
                    2 * (x * (vrq[2] + vrq[6]) + y * (vrq[5] + vrq[7]) - 2 * z * (vrq[0] + vrq[4]) + w * (vrq[3] - vrq[1])),
                };
                const float along = vq[0] * w + vq[1] * x + vq[2] * y + vq[3] * z;
                for (int k = 0; k < 4; ++k) v_quats[4 * g + k] += (vq[k] - along * o.qn[k]) * o.inv_norm;
                // T = J R
                const float *r = cam.r;
                const float vj00 = vt[0] * r[0] + vt[1] * r[1] + vt[2] * r[2];
                const float vj02 = vt[0] * r[6] + vt[1] * r[7] + vt[2] * r[8];
                const float vj11 = vt[3] * r[3] + vt[4] * r[4] + vt[5] * r[5];
                const float vj12 = vt[3] * r[6] + vt[4] * r[7] + vt[5] * r[8];
                // J and mean2d as functions of the camera-space point
                const float iz = 1.0f / o.p[2], iz2 = iz * iz;
                const float ux = o.p[0] * iz, uy = o.p[1] * iz;
                const float gx = v_means2d[2 * i], gy = v_means2d[2 * i + 1];
                float vp[3] = {cam.fx * iz * gx, cam.fy * iz * gy, v_depths[i]};
                vp[2] -= iz * (cam.fx * ux * gx + cam.fy * uy * gy);
                vp[2] -= iz2 * (cam.fx * vj00 + cam.fy * vj11);
                if (o.clamped_x) {
                    vp[2] += cam.fx * o.ux * iz2 * vj02;
                } else {
                    vp[0] -= cam.fx * iz2 * vj02;
                    vp[2] += 2 * cam.fx * o.ux * iz2 * vj02;
                }
                if (o.clamped_y) {
                    vp[2] += cam.fy * o.uy * iz2 * vj12;
                } else {
                    vp[1] -= cam.fy * iz2 * vj12;
                    vp[2] += 2 * cam.fy * o.uy * iz2 * vj12;
                }
                const float *mean = means + 3 * g;
                for (int k = 0; k < 3; ++k) v_means[3 * g + k] += r[k] * vp[0] + r[3 + k] * vp[1] + r[6 + k] * vp[2];
                if (pose) {
                    const float j[6] = {o.j00, 0, o.j02, 0, o.j11, o.j12};
                    for (int a = 0; a < 3; ++a) {
                        for (int k = 0; k < 3; ++k)
                            pose[4 * a + k] += vp[a] * mean[k] + j[a] * vt[k] + j[3 + a] * vt[3 + k];
                        pose[4 * a + 3] += vp[a];
                    }
                }
            }
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
}
