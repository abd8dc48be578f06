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
 *   zip_low, zip_high(a, b)  a0 b0 a1 b1 ... of the lower, of the upper halves of a and b */

typedef float SIMD(vec_f32);
typedef double SIMD(vec_f64);
enum { SIMD(lanes_f32) = 1, SIMD(lanes_f64) = 1 };

#define PYRNN_WORDS(R, T, S, INT, MANTISSA)                                               \
    static inline R SIMD(set_##T)(R a) { return a; }                                      \
    static inline R SIMD(load_##T)(const R *p) { return *p; }                             \
    static inline void SIMD(store_##T)(R * p, R a) { *p = a; }                            \
    static inline double SIMD(load_double_##T)(const R *p) { return *p; }                 \
    static inline R SIMD(load_part_##T)(const R *p, ptrdiff_t n) { return n ? *p : 0; }   \
    static inline void SIMD(store_part_##T)(R * p, ptrdiff_t n, R a)                      \
    {                                                                                     \
        if (n) *p = a;                                                                    \
    }                                                                                     \
    static inline R SIMD(add_##T)(R a, R b) { return a + b; }                             \
    static inline R SIMD(sub_##T)(R a, R b) { return a - b; }                             \
    static inline R SIMD(mul_##T)(R a, R b) { return a * b; }                             \
    static inline R SIMD(div_##T)(R a, R b) { return a / b; }                             \
    static inline R SIMD(sqrt_##T)(R a) { return sqrt##S(a); }                            \
    static inline R SIMD(fma_##T)(R a, R b, R c) { return fma##S(a, b, c); }              \
    static inline R SIMD(min_##T)(R a, R b) { return a < b ? a : b; }                     \
    static inline R SIMD(abs_##T)(R a) { return fabs##S(a); }                             \
    static inline R SIMD(copysign_##T)(R a, R s) { return copysign##S(a, s); }            \
    static inline R SIMD(if_less_##T)(R a, R b, R yes, R no) { return a < b ? yes : no; } \
    static inline R SIMD(pow2_##T)(R n)                                                   \
    {                                                                                     \
        INT k;                                                                            \
        memcpy(&k, &n, sizeof k);                                                         \
        k <<= MANTISSA;                                                                   \
        memcpy(&n, &k, sizeof n);                                                         \
        return n;                                                                         \
    }                                                                                     \
    static inline R SIMD(zip_low_##T)(R a, R b) { return (void)b, a; }                    \
    static inline R SIMD(zip_high_##T)(R a, R b) { return (void)b, a; }

PYRNN_WORDS(float, f32, f, uint32_t, 23)
PYRNN_WORDS(double, f64, , uint64_t, 52)
#undef PYRNN_WORDS
