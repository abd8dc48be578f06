/* The vector words on 64-bit Arm: 4 float32 or 2 float64 a register. Meanings: simd_base.h. */

typedef float32x4_t SIMD(vec_f32);
typedef float64x2_t SIMD(vec_f64);
enum { SIMD(lanes_f32) = 4, SIMD(lanes_f64) = 2 };

#define PYRNN_WORDS(R, T, U)                                                                                     \
    static inline SIMD(vec_##T) SIMD(set_##T)(R a) { return vdupq_n_##T(a); }                                    \
    static inline SIMD(vec_##T) SIMD(load_##T)(const R *p) { return vld1q_##T(p); }                              \
    static inline void SIMD(store_##T)(R * p, SIMD(vec_##T) a) { vst1q_##T(p, a); }                              \
    static inline SIMD(vec_##T) SIMD(load_part_##T)(const R *p, ptrdiff_t n)                                     \
    {                                                                                                            \
        R lane[SIMD(lanes_##T)] = {0};                                                                           \
        for (ptrdiff_t i = 0; i < n; i++) lane[i] = p[i];                                                        \
        return vld1q_##T(lane);                                                                                  \
    }                                                                                                            \
    static inline void SIMD(store_part_##T)(R * p, ptrdiff_t n, SIMD(vec_##T) a)                                 \
    {                                                                                                            \
        R lane[SIMD(lanes_##T)];                                                                                 \
        vst1q_##T(lane, a);                                                                                      \
        for (ptrdiff_t i = 0; i < n; i++) p[i] = lane[i];                                                        \
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(add_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return vaddq_##T(a, b); }      \
    static inline SIMD(vec_##T) SIMD(sub_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return vsubq_##T(a, b); }      \
    static inline SIMD(vec_##T) SIMD(mul_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return vmulq_##T(a, b); }      \
    static inline SIMD(vec_##T) SIMD(div_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return vdivq_##T(a, b); }      \
    static inline SIMD(vec_##T) SIMD(sqrt_##T)(SIMD(vec_##T) a) { return vsqrtq_##T(a); }                        \
    static inline SIMD(vec_##T) SIMD(fma_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b, SIMD(vec_##T) c)                 \
    {                                                                                                            \
        return vfmaq_##T(c, a, b);                                                                               \
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(min_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b)                                  \
    {                                                                                                            \
        return vbslq_##T(vcltq_##T(a, b), a, b);                                                                 \
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(abs_##T)(SIMD(vec_##T) a) { return vabsq_##T(a); }                          \
    static inline SIMD(vec_##T) SIMD(copysign_##T)(SIMD(vec_##T) a, SIMD(vec_##T) s)                             \
    {                                                                                                            \
        return vbslq_##T(vreinterpretq_##U##_##T(vdupq_n_##T((R)-0.0)), s, a);                                   \
    }                                                                                                            \
    static inline SIMD(vec_##T)                                                                                  \
        SIMD(if_less_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b, SIMD(vec_##T) yes, SIMD(vec_##T) no)                 \
    {                                                                                                            \
        return vbslq_##T(vcltq_##T(a, b), yes, no);                                                              \
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(zip_low_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return vzip1q_##T(a, b); } \
    static inline SIMD(vec_##T) SIMD(zip_high_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return vzip2q_##T(a, b); }

PYRNN_WORDS(float, f32, u32)
PYRNN_WORDS(double, f64, u64)
#undef PYRNN_WORDS

static inline float64x2_t SIMD(load_double_f32)(const float *p) { return vcvt_f64_f32(vld1_f32(p)); }
static inline float64x2_t SIMD(load_double_f64)(const double *p) { return vld1q_f64(p); }

static inline float32x4_t SIMD(pow2_f32)(float32x4_t n)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(n), 23));
}
static inline float64x2_t SIMD(pow2_f64)(float64x2_t n)
{
    return vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(n), 52));
}
