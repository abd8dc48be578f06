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

/* The sign and the exponent of infinity with a minus: all bits that are no digits. */
static inline __m256i SIMD(infinite_f32)(void) { return _mm256_set1_epi32((int)0xff800000); }
static inline __m256i SIMD(infinite_f64)(void) { return _mm256_set1_epi64x((long long)0xfff0000000000000); }

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
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(mantissa_##T)(SIMD(vec_##T) a)                                              \
    {                                                                                                            \
        const SIMD(vec_##T) half = _mm256_set1_##S((R)0.5), ones = _mm256_castsi256_##S(_mm256_set1_epi64x(-1)); \
        const SIMD(vec_##T) digits = _mm256_andnot_##S(_mm256_castsi256_##S(SIMD(infinite_##T)()), ones);        \
        return _mm256_or_##S(_mm256_and_##S(a, digits), half);                                                   \
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

static inline __m256 SIMD(exponent_f32)(__m256 a)
{
    const __m256i field = _mm256_srli_epi32(_mm256_castps_si256(a), 23);
    return _mm256_sub_ps(_mm256_cvtepi32_ps(field), _mm256_set1_ps(126));
}
static inline __m256d SIMD(exponent_f64)(__m256d a)
{
    const __m256i one = _mm256_set1_epi64x(0x4330000000000000); /* 2^52, whose last digits the exponent becomes */
    const __m256i field = _mm256_srli_epi64(_mm256_castpd_si256(a), 52);
    return _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(field, one)), _mm256_set1_pd(0x1p52 + 1022));
}

static inline void SIMD(store_fours_f32)(float *p, __m256 a, __m256 b, __m256 c, __m256 d)
{
    _mm256_storeu_ps(p, _mm256_permute2f128_ps(a, b, 0x20));
    _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(c, d, 0x20));
    _mm256_storeu_ps(p + 16, _mm256_permute2f128_ps(a, b, 0x31));
    _mm256_storeu_ps(p + 24, _mm256_permute2f128_ps(c, d, 0x31));
}
static inline void SIMD(store_fours_f64)(double *p, __m256d a, __m256d b, __m256d c, __m256d d)
{
    _mm256_storeu_pd(p, a), _mm256_storeu_pd(p + 4, b), _mm256_storeu_pd(p + 8, c), _mm256_storeu_pd(p + 12, d);
}

typedef __m256i SIMD(vec_u64);

static inline __m256i SIMD(set_u64)(uint64_t a) { return _mm256_set1_epi64x((long long)a); }
static inline __m256i SIMD(load_u64)(const uint64_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline __m256i SIMD(multiply_u64)(__m256i a, __m256i b) { return _mm256_mul_epu32(a, b); }
static inline __m256i SIMD(high_u64)(__m256i a) { return _mm256_srli_epi64(a, 32); }
static inline __m256i SIMD(xor3_u64)(__m256i a, __m256i b, __m256i c)
{
    return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
}
static inline __m256i SIMD(spread_f32)(const uint64_t *p)
{
    const __m256i two = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p));
    return _mm256_permute4x64_epi64(two, 0x50);
}
static inline __m256i SIMD(spread_f64)(const uint64_t *p) { return _mm256_set1_epi64x((long long)*p); }

/* The low halves of a in the even lanes, of b in the odd ones. */
static inline __m256i SIMD(halves)(__m256i a, __m256i b)
{
    return _mm256_blend_epi32(a, _mm256_slli_epi64(b, 32), 0xaa);
}
/* The low halves as numbers without sign: as the last digits of 2^52. */
static inline __m256d SIMD(low)(__m256i a)
{
    const __m256i one = _mm256_set1_epi64x(0x4330000000000000);
    return _mm256_sub_pd(_mm256_castsi256_pd(_mm256_blend_epi32(a, one, 0xaa)), _mm256_castsi256_pd(one));
}
static inline __m256 SIMD(signed_f32)(__m256i a, __m256i b) { return _mm256_cvtepi32_ps(SIMD(halves)(a, b)); }
static inline __m256d SIMD(signed_f64)(__m256i a, __m256i b)
{
    const __m256i top = _mm256_set1_epi64x(0x80000000);
    const __m256d high = _mm256_sub_pd(SIMD(low)(_mm256_xor_si256(a, top)), _mm256_set1_pd(0x1p31));
    return _mm256_fmadd_pd(SIMD(low)(b), _mm256_set1_pd(0x1p-32), high);
}
static inline __m256 SIMD(flip_f32)(__m256 c, __m256i a, __m256i b)
{
    return _mm256_xor_ps(c, _mm256_castsi256_ps(_mm256_slli_epi32(SIMD(halves)(a, b), 31)));
}
static inline __m256d SIMD(flip_f64)(__m256d c, __m256i a, __m256i b)
{
    return (void)b, _mm256_xor_pd(c, _mm256_castsi256_pd(_mm256_slli_epi64(a, 63)));
}
