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

/* How many tiles a register of four lanes each has, and how many times as many are made at once: twice with 32 large
 * registers, since the ten rounds of Philox wait for each other (float32, AVX-512: 0.95 ns a number, 1.16 once). */
enum { V(noise_tiles) = LANES > 4 ? LANES / 4 : 1, V(noise_groups) = SIMD(lanes_f64) == 8 ? 2 : 1 };

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

/* The numbers of tiles of 16 units, `groups` times as many as fill the registers once, behind each other. Of a tile:
 *   blocks     4 times its place in its row
 *   sequences  and steps: the other words of its counters */
static inline ALWAYS_INLINE void V(normal_tiles)(const int groups, const uint64_t key[20], const uint64_t *blocks,
                                                 const uint64_t *sequences, const uint64_t *steps, uint64_t stream,
                                                 REAL *numbers)
{
    enum { TILE = 16, TILES = V(noise_tiles), HALVES = LANES > SIMD(lanes_f64) };
    static const uint64_t each[] = {0, 1, 2, 3, 0, 1, 2, 3}, even[] = {0, 2, 0, 2, 0, 2, 0, 2},
                          odd[] = {1, 3, 1, 3, 1, 3, 1, 3};
    const SIMD(vec_u64) stream_a = SIMD(set_u64)(stream), zero = SIMD(set_u64)(0),
                        stream_b = HALVES ? stream_a : SIMD(set_u64)(stream ^ 0x80000000u);
    for (int lane = 0; lane < 4 * TILES; lane += LANES) { /* once, or to fill one tile by fewer than four lanes */
        /* HALVES: the lanes of a and b are in turn those of a register; else a number has two words, of two streams. */
        const SIMD(vec_u64) in_a = SIMD(load_u64)((HALVES ? even : each) + lane),
                            in_b = SIMD(load_u64)((HALVES ? odd : each) + lane);
        SIMD(vec_u64) c[2 * V(noise_groups)][4];
        UNROLL for (int g = 0; g < groups; g++)
        {
            SIMD(vec_u64) *a = c[2 * g], *b = c[2 * g + 1];
            const SIMD(vec_u64) block = V(spread)(blocks + g * TILES);
            a[0] = SIMD(xor3_u64)(block, in_a, zero), b[0] = SIMD(xor3_u64)(block, in_b, zero);
            a[1] = b[1] = V(spread)(sequences + g * TILES);
            a[2] = b[2] = V(spread)(steps + g * TILES);
            a[3] = stream_a, b[3] = stream_b;
        }
        SIMD(philox)(key, 2 * groups, c);
        UNROLL for (int g = 0; g < groups; g++)
        {
            const SIMD(vec_u64) *a = c[2 * g], *b = c[2 * g + 1];
            VEC n[4];
            V(normal_pair)(a[0], b[0], a[1], b[1], n, n + 1);
            V(normal_pair)(a[2], b[2], a[3], b[3], n + 2, n + 3);
            V(store_fours)(numbers + g * TILES * TILE + lane, n[0], n[1], n[2], n[3]);
        }
    }
}
