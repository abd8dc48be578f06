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
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(exponent_##T)(SIMD(vec_##T) a)                                              \
    {                                                                                                            \
        return _mm512_add_##S(_mm512_getexp_##S(a), _mm512_set1_##S(1));                                         \
    }                                                                                                            \
    static inline SIMD(vec_##T) SIMD(mantissa_##T)(SIMD(vec_##T) a)                                              \
    {                                                                                                            \
        return _mm512_getmant_##S(a, _MM_MANT_NORM_p5_1, _MM_MANT_SIGN_zero);                                    \
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

/* Each tile of four lanes is a quarter of a register: a transposed matrix of quarters, or of two halves. */
static inline void SIMD(store_fours_f32)(float *p, __m512 a, __m512 b, __m512 c, __m512 d)
{
    const __m512 ab_low = _mm512_shuffle_f32x4(a, b, 0x44), ab_high = _mm512_shuffle_f32x4(a, b, 0xee);
    const __m512 cd_low = _mm512_shuffle_f32x4(c, d, 0x44), cd_high = _mm512_shuffle_f32x4(c, d, 0xee);
    _mm512_storeu_ps(p, _mm512_shuffle_f32x4(ab_low, cd_low, 0x88));
    _mm512_storeu_ps(p + 16, _mm512_shuffle_f32x4(ab_low, cd_low, 0xdd));
    _mm512_storeu_ps(p + 32, _mm512_shuffle_f32x4(ab_high, cd_high, 0x88));
    _mm512_storeu_ps(p + 48, _mm512_shuffle_f32x4(ab_high, cd_high, 0xdd));
}
static inline void SIMD(store_fours_f64)(double *p, __m512d a, __m512d b, __m512d c, __m512d d)
{
    _mm512_storeu_pd(p, _mm512_shuffle_f64x2(a, b, 0x44));
    _mm512_storeu_pd(p + 8, _mm512_shuffle_f64x2(c, d, 0x44));
    _mm512_storeu_pd(p + 16, _mm512_shuffle_f64x2(a, b, 0xee));
    _mm512_storeu_pd(p + 24, _mm512_shuffle_f64x2(c, d, 0xee));
}

typedef __m512i SIMD(vec_u64);

static inline __m512i SIMD(set_u64)(uint64_t a) { return _mm512_set1_epi64((long long)a); }
static inline __m512i SIMD(load_u64)(const uint64_t *p) { return _mm512_loadu_si512(p); }
static inline __m512i SIMD(multiply_u64)(__m512i a, __m512i b) { return _mm512_mul_epu32(a, b); }
static inline __m512i SIMD(high_u64)(__m512i a) { return _mm512_srli_epi64(a, 32); }
static inline __m512i SIMD(xor3_u64)(__m512i a, __m512i b, __m512i c)
{
    return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}
static inline __m512i SIMD(spread_f32)(const uint64_t *p)
{
    const __m512i four = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), four);
}
static inline __m512i SIMD(spread_f64)(const uint64_t *p)
{
    const __m512i two = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1), two);
}

/* The low halves of a in the even lanes, of b in the odd ones. */
static inline __m512i SIMD(halves)(__m512i a, __m512i b)
{
    return _mm512_mask_shuffle_epi32(a, 0xaaaa, b, (_MM_PERM_ENUM)0xa0);
}
/* The low halves as numbers without sign: as the last digits of 2^52. */
static inline __m512d SIMD(low)(__m512i a)
{
    const __m512i one = _mm512_set1_epi64(0x4330000000000000);
    return _mm512_sub_pd(_mm512_castsi512_pd(_mm512_mask_blend_epi32(0xaaaa, a, one)), _mm512_castsi512_pd(one));
}
static inline __m512 SIMD(signed_f32)(__m512i a, __m512i b) { return _mm512_cvtepi32_ps(SIMD(halves)(a, b)); }
static inline __m512d SIMD(signed_f64)(__m512i a, __m512i b)
{
    const __m512i top = _mm512_set1_epi64(0x80000000);
    const __m512d high = _mm512_sub_pd(SIMD(low)(_mm512_xor_epi64(a, top)), _mm512_set1_pd(0x1p31));
    return _mm512_fmadd_pd(SIMD(low)(b), _mm512_set1_pd(0x1p-32), high);
}
static inline __m512 SIMD(flip_f32)(__m512 c, __m512i a, __m512i b)
{
    return _mm512_xor_ps(c, _mm512_castsi512_ps(_mm512_slli_epi32(SIMD(halves)(a, b), 31)));
}
static inline __m512d SIMD(flip_f64)(__m512d c, __m512i a, __m512i b)
{
    return (void)b, _mm512_xor_pd(c, _mm512_castsi512_pd(_mm512_slli_epi64(a, 63)));
}
