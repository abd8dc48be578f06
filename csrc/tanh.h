/* tanh and sech² on the vector words of one instruction set and one type; included by kernels.inl.
 *
 *   |x| <= SPLIT   |x| + |x|³ R(x²)
 *   otherwise      1 - 1 / d,  d = (exp(2|x|) + 1) / 2
 *
 * with the sign of x; R of degree 6 (float32), 11 (float64). exp(2y) = s (1 + 2g), s = 2^k, g = r + r² P(r), P of
 * degree 4 and 9, y = k log(2)/2 + r, |r| <= log(2)/4. So d = s g + (s + 1)/2 is one fused multiply-add: it is rounded
 * once, and 1 / d once. The coefficients are minimax in relative error: `python csrc/coefficients.py` prints them.
 *
 * Exactly odd; ±0 and NaN are kept; monotone over all float32; never above 1, and exactly 1 above 0x1.205966p+3 = 9.01
 * (float32) and 0x1.30fc1931f09c9p+4 = 19.06 (float64). The bits are the same on every instruction set, since every
 * word rounds once. Greatest error in units in the last place: float32, all numbers, 0.9370 at 0x1.ce9242p-1; float64,
 * 1e9 random points and all around the breakpoints, 1.2202 at 0x1.409c8408a026cp-1. The float32 split is where 1 - tanh
 * falls under 1/4, so that its rounding counts half; in float64 that would cost five more terms of R.
 * tests/test_tanh.py holds it to that. */

/* 2g for y >= 0 or y <= 0, and s = 2^k times the power of two that `shift` adds to the exponent (see C(SHIFT)). With
 * `low`, also what the last rounding of r has lost. */
static inline ALWAYS_INLINE VEC V(reduced_exp)(VEC y, VEC shift, int precise, VEC *s, VEC *low)
{
    /* Adding 1.5 2^23 (2^52) rounds 2y/log(2) to an integer; with the exponent's bias added too, the low bits are the
     * exponent of s. */
    const VEC shifted = V(fma)(y, V(set)(C(TWO_LOG2E)), shift);
    const VEC k = V(sub)(shifted, shift), first = V(fma)(k, V(set)(-C(HALF_LN2)), y);
    VEC r = first;
    if (precise) r = V(fma)(k, V(set)(-C(HALF_LN2_LOW)), first);
    if (low) *low = V(fma)(k, V(set)(-C(HALF_LN2_LOW)), V(sub)(first, r));
    /* Horner's rule in r² for pairs of coefficients: as many operations, half of them one after the other. Measured on
     * Zen 3: 5 % of tanh in float64, nothing in float32. */
    const VEC r2 = V(mul)(r, r);
    const int top = C(P_DEGREE) / 2;
    VEC P = V(set)(2 * C(P)[2 * top]); /* 2P: to double is exact */
    if (C(P_DEGREE) % 2) P = V(fma)(V(set)(2 * C(P)[C(P_DEGREE)]), r, P);
    for (int i = top - 1; i >= 0; i--)
        P = V(fma)(P, r2, V(fma)(V(set)(2 * C(P)[2 * i + 1]), r, V(set)(2 * C(P)[2 * i])));
    *s = V(pow2)(shifted);
    return V(fma)(r2, P, V(add)(r, r));
}

static inline VEC V(tanh)(VEC x)
{
    const VEC size = V(abs)(x), half = V(set)((REAL)0.5), one = V(set)(1);

    const VEC z = V(mul)(size, size);
    VEC R = V(set)(C(R)[C(R_DEGREE)]);
    for (int i = C(R_DEGREE) - 1; i >= 0; i--) R = V(fma)(R, z, V(set)(C(R)[i]));
    const VEC small = V(fma)(V(mul)(size, z), R, size);

    VEC s; /* 2^k / 2, so that the (2^k + 1) / 2 of d is a sum: additions have units of their own */
    const VEC g2 = V(reduced_exp)(V(min)(V(set)(C(ONE)), size), V(set)(C(SHIFT) - 1), C(TANH_PRECISE), &s, NULL);
    const VEC d = V(fma)(s, g2, V(add)(s, half));
    const VEC large = V(sub)(one, V(div)(one, d));

    /* A NaN is not above the split and takes the branch that passes it on. */
    return V(copysign)(V(if_less)(V(set)(C(SPLIT)), size, large, small), x);
}

/* 1 - tanh² from x: 4e / (1 + e)², e = exp(-2|x|), which loses no digit where tanh is near 1. Numbers that are too
 * small for an exponent are kept 2^RAISED times as large until the end. */
static inline VEC V(sech2)(VEC x)
{
    const VEC y = V(min)(V(set)(C(ZERO)), V(abs)(x)), lower = V(set)(C(LOWER)), one = V(set)(1);
    VEC s;
    const VEC g2 = V(reduced_exp)(V(sub)(V(set)(0), y), V(set)(C(SHIFT) + C(RAISED)), 1, &s, NULL);
    const VEC e = V(fma)(s, g2, s), d = V(fma)(e, lower, one);
    return V(mul)(V(div)(V(mul)(e, V(set)(4)), V(mul)(d, d)), lower);
}
