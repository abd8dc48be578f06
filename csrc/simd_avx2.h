/* The vector words on AVX2 and FMA: 8 float32 or 4 float64 a register. Meanings: simd_base.h. */

typedef __m256 SIMD(vec_f32);
typedef __m256d SIMD(vec_f64);
enum { SIMD(lanes_f32) = 8, SIMD(lanes_f64) = 4 };

/* The first n lanes: a window into ones followed by zeros. */
static const int32_t SIMD(window_f32)[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
static const int64_t SIMD(window_f64)[8] = {-1, -1, -1, -1};

static inline __m256i SIMD(first_f32)(ptrdiff_t n)
{
    return _mm256_loadu_si256((const __m256i *)(SIMD(window_f32) + 8 - n));
}
static inline __m256i SIMD(first_f64)(ptrdiff_t n)
{
    return _mm256_loadu_si256((const __m256i *)(SIMD(window_f64) + 4 - n));
}

#define PYRNN_WORDS(R, T, S)                                                                                     \
    static inline SIMD(vec_##T) SIMD(set_##T)(R a) { return _mm256_set1_##S(a); }                                \
    static inline SIMD(vec_##T) SIMD(load_##T)(const R *p) { return _mm256_loadu_##S(p); }                       \
    static inline void SIMD(store_##T)(R * p, SIMD(vec_##T) a) { _mm256_storeu_##S(p, a); }                      \
    static inline SIMD(vec_##T) SIMD(load_part_##T)(const R *p, ptrdiff_t n)                                     \
    {                                                                                                            \
        return _mm256_maskload_##S(p, SIMD(first_##T)(n));                                                       \
    }                                                                                                            \
    static inline void SIMD(store_part_##T)(R * p, ptrdiff_t n, SIMD(vec_##T) a)                                 \
    {                                                                                                            \
        _mm256_maskstore_##S(p, SIMD(first_##T)(n), a);                                                          \
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(add_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return _mm256_add_##S(a, b); } \
    static inline SIMD(vec_##T) SIMD(sub_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return _mm256_sub_##S(a, b); } \
    static inline SIMD(vec_##T) SIMD(mul_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return _mm256_mul_##S(a, b); } \
    static inline SIMD(vec_##T) SIMD(div_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return _mm256_div_##S(a, b); } \
    static inline SIMD(vec_##T) SIMD(sqrt_##T)(SIMD(vec_##T) a) { return _mm256_sqrt_##S(a); }                   \
    static inline SIMD(vec_##T) SIMD(fma_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b, SIMD(vec_##T) c)                 \
    {                                                                                                            \
        return _mm256_fmadd_##S(a, b, c);                                                                        \
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(min_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b) { return _mm256_min_##S(a, b); } \
    static inline SIMD(vec_##T) SIMD(abs_##T)(SIMD(vec_##T) a)                                                   \
    {                                                                                                            \
        return _mm256_andnot_##S(_mm256_set1_##S((R)-0.0), a);                                                   \
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(copysign_##T)(SIMD(vec_##T) a, SIMD(vec_##T) s)                             \
    {                                                                                                            \
        return _mm256_or_##S(a, _mm256_and_##S(_mm256_set1_##S((R)-0.0), s));                                    \
    }                                                                                                            \
    static inline SIMD(vec_##T)                                                                                  \
        SIMD(if_less_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b, SIMD(vec_##T) yes, SIMD(vec_##T) no)                 \
    {                                                                                                            \
        return _mm256_blendv_##S(no, yes, _mm256_cmp_##S(a, b, _CMP_LT_OQ));                                     \
    }

PYRNN_WORDS(float, f32, ps)
PYRNN_WORDS(double, f64, pd)
#undef PYRNN_WORDS

static inline __m256d SIMD(load_double_f32)(const float *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
static inline __m256d SIMD(load_double_f64)(const double *p) { return _mm256_loadu_pd(p); }

static inline __m256 SIMD(pow2_f32)(__m256 n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(n), 23));
}
static inline __m256d SIMD(pow2_f64)(__m256d n)
{
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(n), 52));
}

#define PYRNN_ZIP(word, T, S, halves)                                                                 \
    static inline SIMD(vec_##T) SIMD(word##_##T)(SIMD(vec_##T) a, SIMD(vec_##T) b)                    \
    {                                                                                                 \
        return _mm256_permute2f128_##S(_mm256_unpacklo_##S(a, b), _mm256_unpackhi_##S(a, b), halves); \
    }
PYRNN_ZIP(zip_low, f32, ps, 0x20)
PYRNN_ZIP(zip_high, f32, ps, 0x31)
PYRNN_ZIP(zip_low, f64, pd, 0x20)
PYRNN_ZIP(zip_high, f64, pd, 0x31)
#undef PYRNN_ZIP
