/* The vector words on AVX-512F/DQ: 16 float32 or 8 float64 a register. Meanings: simd_base.h. */

typedef __m512 SIMD(vec_f32);
typedef __m512d SIMD(vec_f64);
enum { SIMD(lanes_f32) = 16, SIMD(lanes_f64) = 8 };

#define PYRNN_WORDS(R, T, S, M)                                                                                  \
    static inline SIMD(vec_##T) SIMD(set_##T)(R a) { return _mm512_set1_##S(a); }                                \
    static inline SIMD(vec_##T) SIMD(load_##T)(const R *p) { return _mm512_loadu_##S(p); }                       \
    static inline void SIMD(store_##T)(R * p, SIMD(vec_##T) a) { _mm512_storeu_##S(p, a); }                      \
    static inline SIMD(vec_##T) SIMD(load_part_##T)(const R *p, ptrdiff_t n)                                     \
    {                                                                                                            \
        return _mm512_maskz_loadu_##S((M)((1u << n) - 1), p);                                                    \
    }                                                                                                            \
    static inline void SIMD(store_part_##T)(R * p, ptrdiff_t n, SIMD(vec_##T) a)                                 \
    {                                                                                                            \
        _mm512_mask_storeu_##S(p, (M)((1u << n) - 1), a);                                                        \
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(add_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return _mm512_add_##S(a, b); } \
    static inline SIMD(vec_##T) SIMD(sub_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return _mm512_sub_##S(a, b); } \
    static inline SIMD(vec_##T) SIMD(mul_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return _mm512_mul_##S(a, b); } \
    static inline SIMD(vec_##T) SIMD(div_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return _mm512_div_##S(a, b); } \
    static inline SIMD(vec_##T) SIMD(sqrt_##T)(SIMD(vec_##T) a) { return _mm512_sqrt_##S(a); }                   \
    static inline SIMD(vec_##T) SIMD(fma_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b, SIMD(vec_##T) c)                 \
    {                                                                                                            \
        return _mm512_fmadd_##S(a, b, c);                                                                        \
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(min_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return _mm512_min_##S(a, b); } \
    static inline SIMD(vec_##T) SIMD(abs_##T)(SIMD(vec_##T) a)                                                   \
    {                                                                                                            \
        return _mm512_andnot_##S(_mm512_set1_##S((R)-0.0), a);                                                   \
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(copysign_##T)(SIMD(vec_##T) a, SIMD(vec_##T) s)                             \
    {                                                                                                            \
        return _mm512_or_##S(a, _mm512_and_##S(_mm512_set1_##S((R)-0.0), s));                                    \
    }                                                                                                            \
    static inline SIMD(vec_##T)                                                                                  \
        SIMD(if_less_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b, SIMD(vec_##T) yes, SIMD(vec_##T) no)                 \
    {                                                                                                            \
        return _mm512_mask_blend_##S(_mm512_cmp_##S##_mask(a, b, _CMP_LT_OQ), no, yes);                          \
    }

PYRNN_WORDS(float, f32, ps, __mmask16)
PYRNN_WORDS(double, f64, pd, __mmask8)
#undef PYRNN_WORDS

static inline __m512d SIMD(load_double_f32)(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
static inline __m512d SIMD(load_double_f64)(const double *p) { return _mm512_loadu_pd(p); }

static inline __m512 SIMD(pow2_f32)(__m512 n)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(n), 23));
}
static inline __m512d SIMD(pow2_f64)(__m512d n)
{
    return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(n), 52));
}

static inline __m512 SIMD(zip_low_f32)(__m512 a, __m512 b)
{
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), b);
}
static inline __m512 SIMD(zip_high_f32)(__m512 a, __m512 b)
{
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
                                  b);
}
static inline __m512d SIMD(zip_low_f64)(__m512d a, __m512d b)
{
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b);
}
static inline __m512d SIMD(zip_high_f64)(__m512d a, __m512d b)
{
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b);
}
