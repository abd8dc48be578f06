/* The vector words in plain C, one lane a "vector": every compiler, every machine, the same bits as the others.
 * This file is also the dictionary; simd_avx512.h, simd_avx2.h and simd_neon.h say the same words.
 *
 *   vec_T, lanes_T           a register of T = f32 or f64, and how many numbers it holds
 *   set, load, store         all lanes equal; from and to memory of any alignment
 *   load_part, store_part    the first n lanes, 0 <= n <= lanes: the others load as 0 and are not stored
 *   load_double              as many numbers as vec_f64 has lanes, as such a register
 *   add, sub, mul, div, sqrt rounded once
 *   fma(a, b, c)             a b + c, rounded once: never a product and a sum
 *   min(a, b)                a < b ? a : b, hence b where either is NaN
 *   abs, copysign(a, s)      by bits; copysign expects a >= 0 or NaN
 *   if_less(a, b, yes, no)   a < b ? yes : no; no where either is NaN
 *   pow2(n)                  the number whose exponent field is in the low bits of n (see tanh.h), a power of two
 *   zip_low, zip_high(a, b)  a0 b0 a1 b1 ... of the lower, of the upper halves of a and b
 *   exponent, mantissa(a)    of a normal number a = m 2^e > 0, 1/2 <= m < 1: e and m; of others, anything
 *   store_fours(p, a, b, c, d)   lane i of a, b, c and d to p[k], p[k + 4], p[k + 8] and p[k + 12],
 *                            k = 16 (i / 4) + i % 4
 *
 * Integers of 64 bits, as many as a register has of f64. A half is 32 of their bits; words that read the low half only
 * leave what is in the high one without effect.
 *
 *   vec_u64                  a register
 *   set, load                all lanes equal; from memory
 *   multiply(a, b)           the product of the low halves, 64 bits
 *   high(a)                  the high half, as a low one under zeros
 *   xor3(a, b, c)            a ^ b ^ c
 *   spread_T(p)              p[i / 4] in the lanes that belong to lane i of T: all lanes of f64, every second one of
 * f32 signed_T(a, b)           f32: the low halves of a in the even lanes, those of b in the odd ones, as integers of
 * 32 bits with a sign, rounded once; f64: those of a so, plus 2^-32 times those of b without sign, rounded once
 *   flip_T(c, a, b)          c with the other sign where that integer is odd; f64: that of a */

typedef float SIMD(vec_f32);
typedef double SIMD(vec_f64);
enum { SIMD(lanes_f32) = 1, SIMD(lanes_f64) = 1 };

#define PYRNN_WORDS(R, T, S, INT, MANTISSA, BIAS)                                                                    \
    static inline R SIMD(set_##T)(R a) { return a; }                                                                 \
    static inline R SIMD(load_##T)(const R *p) { return *p; }                                                        \
    static inline void SIMD(store_##T)(R * p, R a) { *p = a; }                                                       \
    static inline double SIMD(load_double_##T)(const R *p) { return *p; }                                            \
    static inline R SIMD(load_part_##T)(const R *p, ptrdiff_t n) { return n ? *p : 0; }                              \
    static inline void SIMD(store_part_##T)(R * p, ptrdiff_t n, R a)                                                 \
    {                                                                                                                \
        if (n) *p = a;                                                                                               \
    }                                                                                                                \
    static inline R SIMD(add_##T)(R a, R b) { return a + b; }                                                        \
    static inline R SIMD(sub_##T)(R a, R b) { return a - b; }                                                        \
    static inline R SIMD(mul_##T)(R a, R b) { return a * b; }                                                        \
    static inline R SIMD(div_##T)(R a, R b) { return a / b; }                                                        \
    static inline R SIMD(fma_##T)(R a, R b, R c) { return fma##S(a, b, c); }                                         \
    static inline R SIMD(min_##T)(R a, R b) { return a < b ? a : b; }                                                \
    static inline R SIMD(abs_##T)(R a) { return fabs##S(a); }                                                        \
    static inline R SIMD(copysign_##T)(R a, R s) { return copysign##S(a, s); }                                       \
    static inline R SIMD(if_less_##T)(R a, R b, R yes, R no) { return a < b ? yes : no; }                            \
    static inline R SIMD(pow2_##T)(R n)                                                                              \
    {                                                                                                                \
        INT k;                                                                                                       \
        memcpy(&k, &n, sizeof k);                                                                                    \
        k <<= MANTISSA;                                                                                              \
        memcpy(&n, &k, sizeof n);                                                                                    \
        return n;                                                                                                    \
    }                                                                                                                \
    static inline R SIMD(zip_low_##T)(R a, R b) { return (void)b, a; }                                               \
    static inline R SIMD(zip_high_##T)(R a, R b) { return (void)b, a; }                                              \
    static inline R SIMD(sqrt_##T)(R a) { return sqrt##S(a); }                                                       \
    static inline R SIMD(exponent_##T)(R a)                                                                          \
    {                                                                                                                \
        INT k;                                                                                                       \
        memcpy(&k, &a, sizeof k);                                                                                    \
        return (R)(int)(k >> MANTISSA) - BIAS;                                                                       \
    }                                                                                                                \
    static inline R SIMD(mantissa_##T)(R a)                                                                          \
    {                                                                                                                \
        INT k;                                                                                                       \
        memcpy(&k, &a, sizeof k);                                                                                    \
        k = (k & (((INT)1 << MANTISSA) - 1)) | (INT)BIAS << MANTISSA;                                                \
        memcpy(&a, &k, sizeof a);                                                                                    \
        return a;                                                                                                    \
    }                                                                                                                \
    static inline void SIMD(store_fours_##T)(R * p, R a, R b, R c, R d) { p[0] = a, p[4] = b, p[8] = c, p[12] = d; } \
    static inline uint64_t SIMD(spread_##T)(const uint64_t *p) { return *p; }

PYRNN_WORDS(float, f32, f, uint32_t, 23, 126)
PYRNN_WORDS(double, f64, , uint64_t, 52, 1022)
#undef PYRNN_WORDS

typedef uint64_t SIMD(vec_u64);

static inline uint64_t SIMD(set_u64)(uint64_t a) { return a; }
static inline uint64_t SIMD(load_u64)(const uint64_t *p) { return *p; }
static inline uint64_t SIMD(multiply_u64)(uint64_t a, uint64_t b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
static inline uint64_t SIMD(high_u64)(uint64_t a) { return a >> 32; }
static inline uint64_t SIMD(xor3_u64)(uint64_t a, uint64_t b, uint64_t c) { return a ^ b ^ c; }

/* The low half as an integer with a sign. */
static inline int32_t SIMD(low)(uint64_t a)
{
    const uint32_t half = (uint32_t)a;
    int32_t k;
    memcpy(&k, &half, sizeof k);
    return k;
}
static inline float SIMD(signed_f32)(uint64_t a, uint64_t b) { return (void)b, (float)SIMD(low)(a); }
static inline double SIMD(signed_f64)(uint64_t a, uint64_t b)
{
    return fma((double)(uint32_t)b, 0x1p-32, (double)SIMD(low)(a));
}
static inline float SIMD(flip_f32)(float c, uint64_t a, uint64_t b) { return (void)b, a & 1 ? -c : c; }
static inline double SIMD(flip_f64)(double c, uint64_t a, uint64_t b) { return (void)b, a & 1 ? -c : c; }
