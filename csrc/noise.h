/* Standard normal numbers, each from a place of its own, on the vector words of one instruction set and one type;
 * included by kernels.inl. philox.h makes four words of 32 bits of a key and a counter:
 *
 *   key       the seed
 *   counter   a block of four units, the sequence, the step, the stream
 *   unit      u = 16 g + 4 w + j is made of word w of block 4 g + j, and of its neighbour's: of words 0 and 1, or 2 and
 * 3
 *
 * A step of a sequence is divided into tiles of 16 units, g, so that the words of four counters are four registers of
 * NEON, and a wider register has two or four tiles, of any rows: which unit is where depends on nothing else.
 *
 * Two words make two numbers (Box and Muller 1958), r cos(a) and r sin(a). It was chosen over the inverse of the normal
 * distribution: that needs a logarithm, a square root and two rational functions for each number, this one of each and
 * two polynomials for two; and unlike the ziggurat it needs no table, no branch and no second try. Of the first word, s
 * as an integer with sign:
 *
 *   v = (s + 1/2) / 2^32            never 0
 *   r² = -2 log(v),  v > 0          both ends of u = v, 1 + v have all digits: r goes from 1.5e-5 to 6.76 (float64: to
 *        -2 log(1 + v),  v < 0      9.49), where 1 in 2^33 of all r should be larger; a number beyond 6.76 is one of
 * 7e10 -2 log(m 2^e) = -2 log(2) e - 2f + f² L(f),  f = m - 1 in [-1/2, 0): no difference of numbers of one sign
 *
 * and of the second, y = 2v in (-1, 1): sin(a) = y S(y²), cos(a) = ±(1 - y²) C(y²), a = πy/2, the sign from the last
 * bit. float64 continues each word by 32 bits of the same counter in the stream 2^31 further on. So float32 noise is
 * float64 noise, rounded: but for numbers of the tail, which have few bits.
 *
 * Greatest error of a number over its r, since cos(a) near 0 has the absolute error of numbers near 1: float32, 2.0e-7;
 * float64, 3.9e-16 (tests/test_noise.py). `python csrc/coefficients.py` prints the coefficients. */

/* Σ c[k] x^k: Horner's rule in x² for pairs of coefficients. */
static inline ALWAYS_INLINE VEC V(polynomial)(const REAL *c, const int degree, VEC x)
{
    const VEC x2 = V(mul)(x, x);
    const int top = degree / 2;
    VEC sum = V(set)(c[2 * top]);
    if (degree % 2) sum = V(fma)(V(set)(c[degree]), x, sum);
    UNROLL for (int i = top - 1; i >= 0; i--) sum = V(fma)(sum, x2, V(fma)(V(set)(c[2 * i + 1]), x, V(set)(c[2 * i])));
    return sum;
}

/* Two normal numbers of two words: a and b as in `signed_T`. */
static inline ALWAYS_INLINE void V(normal_pair)(SIMD(vec_u64) a0, SIMD(vec_u64) b0, SIMD(vec_u64) a1, SIMD(vec_u64) b1,
                                                VEC *first, VEC *second)
{
    const VEC zero = V(set)(0), one = V(set)(1);
    const VEC v = V(fma)(V(signed)(a0, b0), V(set)((REAL)0x1p-32), V(set)(N(HALF)));
    const VEC f = V(if_less)(v, zero, v, V(sub)(V(mantissa)(v), one));
    const VEC e = V(if_less)(v, zero, zero, V(exponent)(v));
    const VEC part = V(fma)(V(mul)(f, f), V(polynomial)(N(L), N(L_DEGREE), f), V(mul)(f, V(set)(-2)));
    const VEC r = V(sqrt)(V(fma)(e, V(set)(N(MINUS_2LN2)), part));

    const VEC y = V(fma)(V(signed)(a1, b1), V(set)((REAL)0x1p-31), V(set)(2 * N(HALF))), z = V(mul)(y, y);
    const VEC sine = V(mul)(y, V(polynomial)(N(S), N(S_DEGREE), z));
    const VEC rest = V(fma)(V(sub)(zero, y), y, one); /* 1 - y², rounded once */
    const VEC cosine = V(mul)(rest, V(polynomial)(N(C), N(C_DEGREE), z));
    *first = V(mul)(r, V(flip)(cosine, a1, b1));
    *second = V(mul)(r, sine);
}
