/* The vector words on 64-bit Arm: 4 float32 or 2 float64 a register. Meanings: simd_base.h. */

typedef float32x4_t SIMD(vec_f32);
typedef float64x2_t SIMD(vec_f64);
enum { SIMD(lanes_f32) = 4, SIMD(lanes_f64) = 2 };

#define PYRNN_WORDS(R, T, U)                                                                                      \
    static inline SIMD(vec_##T) SIMD(set_##T)(R a) { return vdupq_n_##T(a); }                                     \
    static inline SIMD(vec_##T) SIMD(load_##T)(const R *p) { return vld1q_##T(p); }                               \
    static inline void SIMD(store_##T)(R * p, SIMD(vec_##T) a) { vst1q_##T(p, a); }                               \
    static inline SIMD(vec_##T) SIMD(load_part_##T)(const R *p, ptrdiff_t n)                                      \
    {                                                                                                             \
        R lane[SIMD(lanes_##T)] = {0};                                                                            \
        for (ptrdiff_t i = 0; i < n; i++) lane[i] = p[i];                                                         \
        return vld1q_##T(lane);                                                                                   \
    }                                                                                                             \
    static inline void SIMD(store_part_##T)(R * p, ptrdiff_t n, SIMD(vec_##T) a)                                  \
    {                                                                                                             \
        R lane[SIMD(lanes_##T)];                                                                                  \
        vst1q_##T(lane, a);                                                                                       \
        for (ptrdiff_t i = 0; i < n; i++) p[i] = lane[i];                                                         \
    }                                                                                                             \
    static inline SIMD(vec_##T) SIMD(add_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return vaddq_##T(a, b); }       \
    static inline SIMD(vec_##T) SIMD(sub_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return vsubq_##T(a, b); }       \
    static inline SIMD(vec_##T) SIMD(mul_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return vmulq_##T(a, b); }       \
    static inline SIMD(vec_##T) SIMD(div_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return vdivq_##T(a, b); }       \
    static inline SIMD(vec_##T) SIMD(fma_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b, SIMD(vec_##T) c)                  \
    {                                                                                                             \
        return vfmaq_##T(c, a, b);                                                                                \
    }                                                                                                             \
    static inline SIMD(vec_##T) SIMD(min_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b)                                   \
    {                                                                                                             \
        return vbslq_##T(vcltq_##T(a, b), a, b);                                                                  \
    }                                                                                                             \
    static inline SIMD(vec_##T) SIMD(abs_##T)(SIMD(vec_##T) a) { return vabsq_##T(a); }                           \
    static inline SIMD(vec_##T) SIMD(copysign_##T)(SIMD(vec_##T) a, SIMD(vec_##T) s)                              \
    {                                                                                                             \
        return vbslq_##T(vreinterpretq_##U##_##T(vdupq_n_##T((R)-0.0)), s, a);                                    \
    }                                                                                                             \
    static inline SIMD(vec_##T)                                                                                   \
        SIMD(if_less_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b, SIMD(vec_##T) yes, SIMD(vec_##T) no)                  \
    {                                                                                                             \
        return vbslq_##T(vcltq_##T(a, b), yes, no);                                                               \
    }                                                                                                             \
    static inline SIMD(vec_##T) SIMD(zip_low_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return vzip1q_##T(a, b); }  \
    static inline SIMD(vec_##T) SIMD(zip_high_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return vzip2q_##T(a, b); } \
    static inline SIMD(vec_##T) SIMD(sqrt_##T)(SIMD(vec_##T) a) { return vsqrtq_##T(a); }                         \
    static inline void SIMD(store_fours_##T)(R * p, SIMD(vec_##T) a, SIMD(vec_##T) b, SIMD(vec_##T) c,            \
                                             SIMD(vec_##T) d)                                                     \
    {                                                                                                             \
        vst1q_##T(p, a), vst1q_##T(p + 4, b), vst1q_##T(p + 8, c), vst1q_##T(p + 12, d);                          \
    }                                                                                                             \
    static inline uint64x2_t SIMD(spread_##T)(const uint64_t *p) { return vdupq_n_u64(*p); }

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

static inline float32x4_t SIMD(exponent_f32)(float32x4_t a)
{
    return vsubq_f32(vcvtq_f32_u32(vshrq_n_u32(vreinterpretq_u32_f32(a), 23)), vdupq_n_f32(126));
}
static inline float64x2_t SIMD(exponent_f64)(float64x2_t a)
{
    return vsubq_f64(vcvtq_f64_u64(vshrq_n_u64(vreinterpretq_u64_f64(a), 52)), vdupq_n_f64(1022));
}
static inline float32x4_t SIMD(mantissa_f32)(float32x4_t a) /* the digits, under the exponent of 1/2 */
{
    return vbslq_f32(vdupq_n_u32(0x007fffff), a, vdupq_n_f32(0.5f));
}
static inline float64x2_t SIMD(mantissa_f64)(float64x2_t a)
{
    return vbslq_f64(vdupq_n_u64(0x000fffffffffffff), a, vdupq_n_f64(0.5));
}

typedef uint64x2_t SIMD(vec_u64);

static inline uint64x2_t SIMD(set_u64)(uint64_t a) { return vdupq_n_u64(a); }
static inline uint64x2_t SIMD(load_u64)(const uint64_t *p) { return vld1q_u64(p); }
static inline uint64x2_t SIMD(multiply_u64)(uint64x2_t a, uint64x2_t b)
{
    return vmull_u32(vmovn_u64(a), vmovn_u64(b));
}
static inline uint64x2_t SIMD(high_u64)(uint64x2_t a) { return vshrq_n_u64(a, 32); }
static inline uint64x2_t SIMD(xor3_u64)(uint64x2_t a, uint64x2_t b, uint64x2_t c)
{
    return veorq_u64(veorq_u64(a, b), c);
}

/* The low halves of a in the even lanes, of b in the odd ones. */
static inline uint32x4_t SIMD(halves)(uint64x2_t a, uint64x2_t b)
{
    return vreinterpretq_u32_u64(vsliq_n_u64(a, b, 32));
}
static inline float32x4_t SIMD(signed_f32)(uint64x2_t a, uint64x2_t b)
{
    return vcvtq_f32_s32(vreinterpretq_s32_u32(SIMD(halves)(a, b)));
}
static inline float64x2_t SIMD(signed_f64)(uint64x2_t a, uint64x2_t b)
{
    const float64x2_t high = vcvtq_f64_s64(vmovl_s32(vreinterpret_s32_u32(vmovn_u64(a))));
    return vfmaq_f64(high, vcvtq_f64_u64(vmovl_u32(vmovn_u64(b))), vdupq_n_f64(0x1p-32));
}
static inline float32x4_t SIMD(flip_f32)(float32x4_t c, uint64x2_t a, uint64x2_t b)
{
    return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(c), vshlq_n_u32(SIMD(halves)(a, b), 31)));
}
static inline float64x2_t SIMD(flip_f64)(float64x2_t c, uint64x2_t a, uint64x2_t b)
{
    return (void)b, vreinterpretq_f64_u64(veorq_u64(vreinterpretq_u64_f64(c), vshlq_n_u64(a, 63)));
}
