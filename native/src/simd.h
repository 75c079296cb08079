// One vector type `F` (float) with its mask `M`, for AVX-512, AVX2+FMA, NEON (AArch64), or plain
// arrays. Kernels are written once against it. Compiled with -ffp-contract=off: a fused
// multiply-add happens only where it is written, so that forward and backward passes round alike.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// GCC 12's own intrinsics headers set off this warning (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && !defined(FS_FORCE_SCALAR)
#define FS_SIMD_NAME "avx512"
#include <immintrin.h>
namespace fs {
constexpr int kLanes = 16;
struct M {
    __mmask16 v;
};
struct F {
    __m512 v;
};
static inline F load(const float *p) { return {_mm512_load_ps(p)}; }
static inline F loadu(const float *p) { return {_mm512_loadu_ps(p)}; }
static inline void store(float *p, F a) { _mm512_store_ps(p, a.v); }
static inline void storeu(float *p, F a) { _mm512_storeu_ps(p, a.v); }
static inline F set1(float a) { return {_mm512_set1_ps(a)}; }
static inline F zero() { return {_mm512_setzero_ps()}; }
static inline F iota() {
    return {_mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)};
}
static inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }   // a*b + c
static inline F fnma(F a, F b, F c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; } // c - a*b
static inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline F sqrt(F a) { return {_mm512_sqrt_ps(a.v)}; }
static inline F floor(F a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
// p[index], for whole numbers 0 <= index < 2^24.
static inline F gather(const float *p, F index) { return {_mm512_i32gather_ps(_mm512_cvttps_epi32(index.v), p, 4)}; }
static inline F abs(F a) { return {_mm512_abs_ps(a.v)}; }
static inline F neg_abs(F a) { return {_mm512_or_ps(a.v, _mm512_set1_ps(-0.0f))}; }
static inline M ge(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
static inline M gt(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
static inline M lt(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
static inline M operator&(M a, M b) { return {static_cast<__mmask16>(a.v & b.v)}; }
static inline M operator|(M a, M b) { return {static_cast<__mmask16>(a.v | b.v)}; }
static inline M and_not(M a, M b) { return {static_cast<__mmask16>(~a.v & b.v)}; } // !a & b
static inline bool any(M a) { return a.v != 0; }
static inline uint32_t bits(M a) { return a.v; } // lane i is bit i
static inline F select(M m, F a, F b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; } // m ? a : b
static inline F keep(M m, F a) { return {_mm512_maskz_mov_ps(m.v, a.v)}; }              // m ? a : 0
static inline float sum(F a) {
    __m256 lo = _mm512_castps512_ps256(a.v), hi = _mm512_extractf32x8_ps(a.v, 1);
    __m256 s = _mm256_add_ps(lo, hi);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    q = _mm_add_ss(q, _mm_movehdup_ps(q));
    return _mm_cvtss_f32(q);
}
#define FS_APPEND
// Writes first + l for every lane l of m behind list[n]; returns the new length. Up to kLanes numbers
// behind it are overwritten.
static inline int append(uint32_t *list, int n, M m, uint32_t first) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i all = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(first)));
    _mm512_storeu_si512(list + n, _mm512_maskz_compress_epi32(m.v, all));
    return n + __builtin_popcount(m.v);
}
#define FS_EXP2_APPROX
// 2^x; relative error below 2.5e-7 (degree-5 minimax polynomial on [0, 1), whose own error is 7.5e-8,
// plus float rounding). scalef takes the floor of its second operand by itself.
static inline F exp2_approx(F x) {
    const F f{_mm512_reduce_ps(x.v, 9)}; // x - floor(x)
    F p = set1(0x1.ec320ap-10f);
    p = fma(p, f, set1(0x1.26900cp-7f));
    p = fma(p, f, set1(0x1.c95446p-5f));
    p = fma(p, f, set1(0x1.ebd5a8p-3f));
    p = fma(p, f, set1(0x1.62e4f6p-1f));
    p = fma(p, f, set1(0x1.fffffep-1f));
    return {_mm512_scalef_ps(p.v, x.v)};
}
#define FS_SUM12
// Sums of 12 vectors: out[k] = sum(v[k]); 16 floats are written, of which the last 4 mean nothing.
static inline void sum12(const F *v, float *out) {
    __m512 h[6], q[3];
    for (int i = 0; i < 6; ++i) { // pairs: lower halves of a, then of b
        const __m512 a = v[2 * i].v, b = v[2 * i + 1].v;
        h[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    }
    for (int i = 0; i < 3; ++i) // quarters of four vectors
        q[i] = _mm512_add_ps(_mm512_shuffle_f32x4(h[2 * i], h[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(h[2 * i], h[2 * i + 1], 0xdd));
    // Each 128-bit quarter j of q[i] holds four partial sums of vector 4 i + j.
    const __m512 lo = _mm512_add_ps(_mm512_unpacklo_ps(q[0], q[1]), _mm512_unpackhi_ps(q[0], q[1]));
    const __m512 hi = _mm512_add_ps(_mm512_unpacklo_ps(q[2], q[2]), _mm512_unpackhi_ps(q[2], q[2]));
    const __m512 s = _mm512_add_ps(_mm512_shuffle_ps(lo, hi, 0x44), _mm512_shuffle_ps(lo, hi, 0xee));
    // Lane 4 j + i holds vector 4 i + j.
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    _mm512_store_ps(out, _mm512_permutexvar_ps(order, s));
}
static inline F reciprocal(F a) { // one Newton step on a 14-bit estimate
    const F r{_mm512_rcp14_ps(a.v)};
    return fma(fnma(a, r, set1(1.0f)), r, r);
}
} // namespace fs

#elif defined(__AVX2__) && defined(__FMA__) && !defined(FS_FORCE_SCALAR)
#define FS_SIMD_NAME "avx2"
#include <immintrin.h>
namespace fs {
constexpr int kLanes = 8;
struct M {
    __m256 v;
};
struct F {
    __m256 v;
};
static inline F load(const float *p) { return {_mm256_load_ps(p)}; }
static inline F loadu(const float *p) { return {_mm256_loadu_ps(p)}; }
static inline void store(float *p, F a) { _mm256_store_ps(p, a.v); }
static inline void storeu(float *p, F a) { _mm256_storeu_ps(p, a.v); }
static inline F set1(float a) { return {_mm256_set1_ps(a)}; }
static inline F zero() { return {_mm256_setzero_ps()}; }
static inline F iota() { return {_mm256_set_ps(7, 6, 5, 4, 3, 2, 1, 0)}; }
static inline F operator+(F a, F b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline F operator-(F a, F b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline F operator*(F a, F b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline F operator/(F a, F b) { return {_mm256_div_ps(a.v, b.v)}; }
static inline F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
static inline F fnma(F a, F b, F c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
static inline F min(F a, F b) { return {_mm256_min_ps(a.v, b.v)}; }
static inline F max(F a, F b) { return {_mm256_max_ps(a.v, b.v)}; }
static inline F sqrt(F a) { return {_mm256_sqrt_ps(a.v)}; }
static inline F floor(F a) { return {_mm256_floor_ps(a.v)}; }
static inline F gather(const float *p, F index) { return {_mm256_i32gather_ps(p, _mm256_cvttps_epi32(index.v), 4)}; }
static inline F abs(F a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
static inline F neg_abs(F a) { return {_mm256_or_ps(a.v, _mm256_set1_ps(-0.0f))}; }
static inline M ge(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
static inline M gt(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
static inline M lt(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
static inline M operator&(M a, M b) { return {_mm256_and_ps(a.v, b.v)}; }
static inline M operator|(M a, M b) { return {_mm256_or_ps(a.v, b.v)}; }
static inline M and_not(M a, M b) { return {_mm256_andnot_ps(a.v, b.v)}; }
static inline bool any(M a) { return _mm256_movemask_ps(a.v) != 0; }
static inline uint32_t bits(M a) { return static_cast<uint32_t>(_mm256_movemask_ps(a.v)); } // lane i is bit i
static inline F select(M m, F a, F b) { return {_mm256_blendv_ps(b.v, a.v, m.v)}; }
static inline F keep(M m, F a) { return {_mm256_and_ps(m.v, a.v)}; }
static inline float sum(F a) {
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    q = _mm_add_ss(q, _mm_movehdup_ps(q));
    return _mm_cvtss_f32(q);
}
#define FS_SUM12
static inline void sum12(const F *v, float *out) { // see the AVX-512 one
    for (int i = 0; i < 12; i += 4) {
        const __m256 h = _mm256_hadd_ps(_mm256_hadd_ps(v[i].v, v[i + 1].v), _mm256_hadd_ps(v[i + 2].v, v[i + 3].v));
        _mm_store_ps(out + i, _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
    }
    _mm_store_ps(out + 12, _mm_setzero_ps());
}
#define FS_APPEND
struct LaneTable { // for every mask the numbers of its lanes, a byte each, in order
    uint64_t lanes[256];
    constexpr LaneTable() : lanes() {
        for (int mask = 0; mask < 256; ++mask) {
            int n = 0;
            for (int l = 0; l < 8; ++l)
                if (mask >> l & 1) lanes[mask] |= static_cast<uint64_t>(l) << (8 * n++);
        }
    }
};
static constexpr LaneTable kLaneTable;
static inline int append(uint32_t *list, int n, M m, uint32_t first) { // see the AVX-512 one
    const uint32_t mask = bits(m);
    const __m256i lane = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kLaneTable.lanes[mask])));
    const __m256i all = _mm256_add_epi32(lane, _mm256_set1_epi32(static_cast<int>(first)));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(list + n), all);
    return n + __builtin_popcount(mask);
}
static inline F round_nearest(F a) { return {_mm256_round_ps(a.v, 8)}; }
static inline F scale_by_pow2(F a, F n) { // a near 1, n in [-126, 126]: adds n to the exponent
    __m256i i = _mm256_slli_epi32(_mm256_cvtps_epi32(n.v), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), i))};
}
static inline F reciprocal(F a) { // one Newton step on a 12-bit estimate
    const F r{_mm256_rcp_ps(a.v)};
    return fma(fnma(a, r, set1(1.0f)), r, r);
}
} // namespace fs

#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(FS_FORCE_SCALAR)
#define FS_SIMD_NAME "neon"
#include <arm_neon.h>
namespace fs {
constexpr int kLanes = 4;
struct M {
    uint32x4_t v;
};
struct F {
    float32x4_t v;
};
static inline F load(const float *p) { return {vld1q_f32(p)}; }
static inline F loadu(const float *p) { return {vld1q_f32(p)}; }
static inline void store(float *p, F a) { vst1q_f32(p, a.v); }
static inline void storeu(float *p, F a) { vst1q_f32(p, a.v); }
static inline F set1(float a) { return {vdupq_n_f32(a)}; }
static inline F zero() { return {vdupq_n_f32(0)}; }
static inline F iota() {
    const float i[4] = {0, 1, 2, 3};
    return {vld1q_f32(i)};
}
static inline F operator+(F a, F b) { return {vaddq_f32(a.v, b.v)}; }
static inline F operator-(F a, F b) { return {vsubq_f32(a.v, b.v)}; }
static inline F operator*(F a, F b) { return {vmulq_f32(a.v, b.v)}; }
static inline F operator/(F a, F b) { return {vdivq_f32(a.v, b.v)}; }
static inline F fma(F a, F b, F c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
static inline F fnma(F a, F b, F c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
static inline F min(F a, F b) { return {vminq_f32(a.v, b.v)}; }
static inline F max(F a, F b) { return {vmaxq_f32(a.v, b.v)}; }
static inline F sqrt(F a) { return {vsqrtq_f32(a.v)}; }
static inline F floor(F a) { return {vrndmq_f32(a.v)}; }
static inline F gather(const float *p, F index) {
    alignas(16) int32_t i[4];
    vst1q_s32(i, vcvtq_s32_f32(index.v));
    const float v[4] = {p[i[0]], p[i[1]], p[i[2]], p[i[3]]};
    return {vld1q_f32(v)};
}
static inline F abs(F a) { return {vabsq_f32(a.v)}; }
static inline F neg_abs(F a) { return {vnegq_f32(vabsq_f32(a.v))}; }
static inline M ge(F a, F b) { return {vcgeq_f32(a.v, b.v)}; }
static inline M gt(F a, F b) { return {vcgtq_f32(a.v, b.v)}; }
static inline M lt(F a, F b) { return {vcltq_f32(a.v, b.v)}; }
static inline M operator&(M a, M b) { return {vandq_u32(a.v, b.v)}; }
static inline M operator|(M a, M b) { return {vorrq_u32(a.v, b.v)}; }
static inline M and_not(M a, M b) { return {vbicq_u32(b.v, a.v)}; }
static inline bool any(M a) { return vmaxvq_u32(a.v) != 0; }
static inline uint32_t bits(M a) { // lane i is bit i
    const uint32_t weight[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(a.v, vld1q_u32(weight)));
}
static inline F select(M m, F a, F b) { return {vbslq_f32(m.v, a.v, b.v)}; }
static inline F keep(M m, F a) {
    return {vreinterpretq_f32_u32(vandq_u32(m.v, vreinterpretq_u32_f32(a.v)))};
}
static inline float sum(F a) { return vaddvq_f32(a.v); }
#define FS_SUM12
static inline void sum12(const F *v, float *out) { // see the AVX-512 one
    for (int i = 0; i < 12; i += 4)
        vst1q_f32(out + i, vpaddq_f32(vpaddq_f32(v[i].v, v[i + 1].v), vpaddq_f32(v[i + 2].v, v[i + 3].v)));
    vst1q_f32(out + 12, vdupq_n_f32(0));
}
static inline F round_nearest(F a) { return {vrndnq_f32(a.v)}; }
static inline F scale_by_pow2(F a, F n) {
    int32x4_t i = vshlq_n_s32(vcvtnq_s32_f32(n.v), 23);
    return {vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a.v), i))};
}
static inline F reciprocal(F a) { return {vdivq_f32(vdupq_n_f32(1.0f), a.v)}; }
} // namespace fs

#else
#define FS_SIMD_NAME "scalar"
namespace fs {
constexpr int kLanes = 4;
struct M {
    bool v[4];
};
struct F {
    float v[4];
};
#define FS_EACH for (int i = 0; i < 4; ++i)
#define FS_MAP(expr)                                                                                         \
    F r;                                                                                                     \
    FS_EACH r.v[i] = (expr);                                                                                 \
    return r
#define FS_MASK(expr)                                                                                        \
    M r;                                                                                                     \
    FS_EACH r.v[i] = (expr);                                                                                 \
    return r
static inline F loadu(const float *p) { FS_MAP(p[i]); }
static inline F load(const float *p) { FS_MAP(p[i]); }
static inline void store(float *p, F a) { FS_EACH p[i] = a.v[i]; }
static inline void storeu(float *p, F a) { FS_EACH p[i] = a.v[i]; }
static inline F set1(float a) { FS_MAP(a); }
static inline F zero() { FS_MAP(0.0f); }
static inline F iota() { FS_MAP(static_cast<float>(i)); }
static inline F operator+(F a, F b) { FS_MAP(a.v[i] + b.v[i]); }
static inline F operator-(F a, F b) { FS_MAP(a.v[i] - b.v[i]); }
static inline F operator*(F a, F b) { FS_MAP(a.v[i] * b.v[i]); }
static inline F operator/(F a, F b) { FS_MAP(a.v[i] / b.v[i]); }
static inline F fma(F a, F b, F c) { FS_MAP(a.v[i] * b.v[i] + c.v[i]); }
static inline F fnma(F a, F b, F c) { FS_MAP(c.v[i] - a.v[i] * b.v[i]); }
static inline F min(F a, F b) { FS_MAP(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
static inline F max(F a, F b) { FS_MAP(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline F sqrt(F a) { FS_MAP(std::sqrt(a.v[i])); }
static inline F floor(F a) { FS_MAP(std::floor(a.v[i])); }
static inline F gather(const float *p, F index) { FS_MAP(p[static_cast<int32_t>(index.v[i])]); }
static inline F abs(F a) { FS_MAP(std::fabs(a.v[i])); }
static inline F neg_abs(F a) { FS_MAP(-std::fabs(a.v[i])); }
static inline M ge(F a, F b) { FS_MASK(a.v[i] >= b.v[i]); }
static inline M gt(F a, F b) { FS_MASK(a.v[i] > b.v[i]); }
static inline M lt(F a, F b) { FS_MASK(a.v[i] < b.v[i]); }
static inline M operator&(M a, M b) { FS_MASK(a.v[i] && b.v[i]); }
static inline M operator|(M a, M b) { FS_MASK(a.v[i] || b.v[i]); }
static inline M and_not(M a, M b) { FS_MASK(!a.v[i] && b.v[i]); }
static inline bool any(M a) { return a.v[0] || a.v[1] || a.v[2] || a.v[3]; }
static inline uint32_t bits(M a) { return uint32_t{a.v[0]} | uint32_t{a.v[1]} << 1 | uint32_t{a.v[2]} << 2 | uint32_t{a.v[3]} << 3; }
static inline F select(M m, F a, F b) { FS_MAP(m.v[i] ? a.v[i] : b.v[i]); }
static inline F keep(M m, F a) { FS_MAP(m.v[i] ? a.v[i] : 0.0f); }
static inline float sum(F a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
static inline F round_nearest(F a) { FS_MAP(std::nearbyint(a.v[i])); }
static inline F scale_by_pow2(F a, F n) { FS_MAP(std::ldexp(a.v[i], static_cast<int>(n.v[i]))); }
static inline F reciprocal(F a) { FS_MAP(1.0f / a.v[i]); }
#define FS_DIFFERENCE_OF_PRODUCTS
static inline F difference_of_products(F a, F b, F c, F d) {
    FS_MAP(static_cast<float>(static_cast<double>(a.v[i]) * b.v[i] - static_cast<double>(c.v[i]) * d.v[i]));
}
#undef FS_EACH
#undef FS_MAP
#undef FS_MASK
} // namespace fs
#endif

namespace fs {
#ifndef FS_EXP2_APPROX
// 2^x for x <= 120 (2^-100 where x is below -100 or not a number); relative error below 2.5e-7
// (degree-5 minimax polynomial on [-0.5, 0.5], whose own error is 7e-8, plus float rounding).
static inline F exp2_approx(F x) {
    x = max(x, set1(-100.0f)); // keeps the exponent arithmetic in range (and a NaN out)
    F n = round_nearest(x);
    F f = x - n;
    F p = set1(0x1.5c08e6p-10f);
    p = fma(p, f, set1(0x1.3d0c52p-7f));
    p = fma(p, f, set1(0x1.c6b6e4p-5f));
    p = fma(p, f, set1(0x1.ebf918p-3f));
    p = fma(p, f, set1(0x1.62e428p-1f));
    p = fma(p, f, set1(0x1.000002p+0f));
    return scale_by_pow2(p, n);
}
#endif
#ifndef FS_APPEND
// Writes first + l for every lane l of m behind list[n]; returns the new length. Up to kLanes numbers
// behind it may be overwritten.
static inline int append(uint32_t *list, int n, M m, uint32_t first) {
    for (uint32_t set = bits(m); set; set &= set - 1) list[n++] = first + static_cast<uint32_t>(__builtin_ctz(set));
    return n;
}
#endif
#ifndef FS_SUM12
static inline void sum12(const F *v, float *out) {
    for (int i = 0; i < 12; ++i) out[i] = sum(v[i]);
    for (int i = 12; i < 16; ++i) out[i] = 0.0f;
}
#endif
static inline F neg(F a) { return zero() - a; }
static inline M finite(F a) { return ge(set1(3.402823466e38f), abs(a)); }
#ifndef FS_DIFFERENCE_OF_PRODUCTS
// a b - c d to about one unit in the last place, where plain floats would cancel (Kahan's algorithm:
// the rounding error of c d is exact as a fused multiply-add).
static inline F difference_of_products(F a, F b, F c, F d) {
    const F cd = c * d;
    return fma(a, b, neg(cd)) + fnma(c, d, cd);
}
#endif

// Reads up to kLanes floats, zeros behind the end.
inline F load_part(const float *p, int64_t left) {
    if (left >= kLanes) return loadu(p);
    alignas(64) float buffer[kLanes] = {0};
    for (int64_t i = 0; i < left; ++i) buffer[i] = p[i];
    return load(buffer);
}
inline void store_part(float *p, F v, int64_t left) {
    if (left >= kLanes) {
        storeu(p, v);
        return;
    }
    alignas(64) float buffer[kLanes];
    store(buffer, v);
    for (int64_t i = 0; i < left; ++i) p[i] = buffer[i];
}
// Columns of `count` rows of W floats each; lanes beyond are 0.
template <int W> inline void load_rows(const float *p, int count, F *columns) {
    alignas(64) float c[W][kLanes];
    if (count == kLanes) {
        for (int i = 0; i < kLanes; ++i)
            for (int k = 0; k < W; ++k) c[k][i] = p[i * W + k];
    } else {
        for (int i = 0; i < kLanes; ++i)
            for (int k = 0; k < W; ++k) c[k][i] = i < count ? p[i * W + k] : 0.0f;
    }
    for (int k = 0; k < W; ++k) columns[k] = load(c[k]);
}
template <int W> inline void store_rows(float *p, int count, const F *columns) {
    alignas(64) float c[W][kLanes];
    for (int k = 0; k < W; ++k) store(c[k], columns[k]);
    for (int i = 0; i < count; ++i)
        for (int k = 0; k < W; ++k) p[i * W + k] = c[k][i];
}
// The lanes of up to kLanes Gaussians that are drawn: both radii [count, 2] above 0.
inline M drawn_lanes(const int32_t *radii, int count) {
    alignas(64) float v[kLanes];
    for (int l = 0; l < kLanes; ++l) v[l] = l < count && radii[2 * l] > 0 && radii[2 * l + 1] > 0 ? 1.0f : 0.0f;
    return gt(load(v), zero());
}
// Adds the lanes one by one in double: leaving a Gaussian whose share is 0 out changes no bit.
inline void add_in_order(double &total, F v) {
    alignas(64) float lanes[kLanes];
    store(lanes, v);
    for (int i = 0; i < kLanes; ++i) total += static_cast<double>(lanes[i]);
}
} // namespace fs
