/* softplus, its slope, the logistic function and exp on the vector words of one instruction set and one type; included
 * by kernels.inl behind tanh.h, whose exponential they share.
 *
 *   sigmoid    1 / (1 + exp(-x)):  q = e / (1 + e) for x < 0, else 1 - q                       e = exp(-|x|)
 *   softplus   log(1 + exp(x)):    |x| <= 1   log(2) + x/2 + x² Q(x²)
 *                                  otherwise  max(x, 0) + log(1 + e),  log(1 + e) = 2w + w³ A(w²),  w = e / (2 + e)
 *   its slope  1 - exp(-r) from r = softplus(x), which is sigmoid(x)
 *   exp        s (1 + 2g) of tanh.h, for x > 0 with half of s, whose exponent may be one too high
 *
 * Both quotients are kept in two parts, v + low, over the power of two of e, so that the result is rounded once and a
 * small one has all digits. log(2) + x/2 is kept in two parts, too. Q is of degree 4 (float32) and 9 (float64), A of
 * degree 2 and 6; `python csrc/coefficients.py` prints them.
 *
 * The bits are the same on every instruction set. Greatest error in units in the last place, of all float32, and of 2e7
 * random float64 and all around the breakpoints, for arguments above 0 and below:
 *
 *                float32                                         float64
 *     softplus   0.6926 at 0x1.022beap+0, 0.9577 at -0x1.faace8p-1    0.7036 at 0x1.06d84f3246294p+0,
 *                                                                     0.9062 at -0x1.f1ea46afdb9fap-1
 *     sigmoid    0.9888 at 0x1.61fe04p-2, 0.9777 at -0x1.61fe04p-2    0.9849 at 0x1.55162d2d84df2p-2,
 *                                                                     0.9844 at -0x1.5a26a8d52acb7p-2
 *     its slope  0.9959 at 0x1.840f9p-2                               1.1621 at 0x1.62e42fefa3b6dp-2
 *     exp        1.0348 at 0x1.4cc9d4p+2, 1.0214 at -0x1.dfa67cp+5    1.0488 at 0x1.9c6c2db4fcbd8p+7,
 *                                                                     1.0527 at -0x1.555fff1c43062p+8
 *
 * tests/test_softplus.py holds them to that. Results that would be subnormal are 0: below -0x1.5d589ep+6 = -87.34
 * (float32) and -0x1.6232bdd7abcd2p+9 = -708.40 (float64). NaN is kept, and exp of what is too large is inf. */

/* e / (base + e) = s (v + low) for e = exp(-size), s a power of two; size <= -LOWEST, 1 <= base. */
static inline VEC V(ratio_of_exp)(VEC size, VEC base, VEC *s, VEC *low)
{
    VEC r_low;
    const VEC g2 = V(reduced_exp)(V(mul)(size, V(set)((REAL)-0.5)), V(set)(C(SHIFT)), 1, s, &r_low);
    const VEC one = V(set)(1), m = V(add)(one, g2); /* e = s (m + m_low) */
    const VEC m_low = V(fma)(V(add)(r_low, r_low), m, V(sub)(g2, V(sub)(m, one)));
    const VEC e = V(mul)(*s, m), d = V(add)(base, e), d_low = V(sub)(e, V(sub)(d, base));
    const VEC inverse = V(div)(one, d), v = V(mul)(m, inverse), minus_v = V(sub)(V(set)(0), v);
    const VEC left = V(add)(V(fma)(minus_v, d_low, V(fma)(minus_v, d, m)), m_low);
    *low = V(mul)(left, inverse);
    return v;
}

static inline VEC V(sigmoid)(VEC x)
{
    const VEC zero = V(set)(0), lowest = V(set)(C(LOWEST));
    VEC s, low, q = V(ratio_of_exp)(V(min)(V(sub)(zero, lowest), V(abs)(x)), V(set)(1), &s, &low);
    q = V(mul)(s, V(add)(q, low));
    return V(if_less)(x, zero, V(if_less)(x, lowest, zero, q), V(sub)(V(set)(1), q));
}

static inline VEC V(softplus)(VEC x)
{
    const VEC zero = V(set)(0), lowest = V(set)(C(LOWEST)), size = V(abs)(x);

    const VEC z = V(mul)(x, x), half = V(mul)(x, V(set)((REAL)0.5)), ln2 = V(set)(C(LN2));
    VEC Q = V(set)(C(Q)[C(Q_DEGREE)]);
    for (int i = C(Q_DEGREE) - 1; i >= 0; i--) Q = V(fma)(Q, z, V(set)(C(Q)[i]));
    const VEC line = V(add)(ln2, half), line_low = V(sub)(half, V(sub)(line, ln2));
    const VEC small = V(add)(line, V(fma)(z, Q, V(add)(line_low, V(set)(C(LN2_LOW)))));

    VEC s, low;
    const VEC v = V(ratio_of_exp)(V(min)(V(sub)(zero, lowest), size), V(set)(2), &s, &low);
    const VEC w = V(mul)(s, v), w2 = V(mul)(w, w);
    VEC A = V(set)(C(A)[C(A_DEGREE)]);
    for (int i = C(A_DEGREE) - 1; i >= 0; i--) A = V(fma)(A, w2, V(set)(C(A)[i]));
    const VEC log = V(add)(V(add)(v, v), V(fma)(V(mul)(v, w2), A, V(add)(low, low)));
    const VEC large = V(fma)(s, log, V(if_less)(x, zero, zero, x));

    /* A NaN is not above 1 and takes the branch that passes it on. */
    return V(if_less)(V(set)(1), size, V(if_less)(x, lowest, zero, large), small);
}

/* softplus' = 1 - exp(-r) from r = softplus(x), to its last digits where r is small. */
static inline VEC V(softplus_slope)(VEC r)
{
    const VEC zero = V(set)(0), size = V(min)(V(sub)(zero, V(set)(C(LOWEST))), V(abs)(r));
    VEC s;
    const VEC y = V(mul)(V(copysign)(size, r), V(set)((REAL)-0.5));
    const VEC g2 = V(reduced_exp)(y, V(set)(C(SHIFT)), 1, &s, NULL);
    return V(fma)(V(sub)(zero, s), g2, V(sub)(V(set)(1), s));
}

static inline VEC V(exp)(VEC x)
{
    const VEC zero = V(set)(0), lowest = V(set)(C(LOWEST));
    const VEC shift = V(if_less)(x, zero, V(set)(C(SHIFT)), V(set)(C(SHIFT) - 1));
    const VEC times = V(if_less)(x, zero, V(set)(1), V(set)(2));
    const VEC size = V(min)(V(set)(C(HIGHEST)), V(if_less)(x, lowest, lowest, x));
    VEC s;
    const VEC g2 = V(reduced_exp)(V(mul)(size, V(set)((REAL)0.5)), shift, 1, &s, NULL);
    return V(if_less)(x, lowest, zero, V(mul)(times, V(fma)(s, g2, s)));
}
