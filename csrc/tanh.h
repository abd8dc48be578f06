/* tanh on the vector words of one instruction set and one type; included by kernels.inl.
 *
 *   |x| <= 0.625   |x| + |x|³ R(x²)                 R of degree 5 (float32), 11 (float64)
 *   otherwise      1 - 2 / (exp(2|x|) + 1)
 *
 * with the sign of x. exp(2|x|) = 2^k exp(r), |r| <= log(2)/2, and exp(r) = 1 + r + r² P(r), P of degree 4 and 9.
 * The coefficients are minimax in relative error: `python csrc/coefficients.py` makes and prints them.
 *
 * Exactly odd; ±0 and NaN are kept; monotone over all float32; never above 1, and exactly 1 above 0x1.205966p+3 = 9.01
 * (float32) and 0x1.30fc1931f09c9p+4 = 19.06 (float64). The bits are the same on every instruction set, since every
 * word rounds once. Greatest error: float32, all numbers, 1.3320 units in the last place at 0x1.43183ap-1; float64, 5e8
 * random points, 1.3447 at 0x1.40e2153ef0fc4p-1 (just above the split the roundings of e, e + 1, the quotient and the
 * difference add up to 0.198 + 0.396 + 0.25 + 0.5). tests/test_tanh.py holds it to that. */

static inline VEC V(tanh)(VEC x)
{
    const VEC size = V(abs)(x);

    const VEC z = V(mul)(size, size);
    VEC R = V(set)(C(R)[C(R_DEGREE)]);
    for (int i = C(R_DEGREE) - 1; i >= 0; i--) R = V(fma)(R, z, V(set)(C(R)[i]));
    const VEC small = V(fma)(V(mul)(size, z), R, size);

    /* Adding 1.5 2^23 (2^52) rounds 2|x|/log(2) to an integer k and leaves k in the low bits. */
    const VEC y = V(min)(V(set)(C(ONE)), size);
    const VEC shifted = V(fma)(y, V(set)(C(TWO_LOG2E)), V(set)(C(SHIFT)));
    const VEC k = V(sub)(shifted, V(set)(C(SHIFT)));
    VEC r = V(fma)(k, V(set)(-C(LN2_HIGH)), V(add)(y, y));
    r = V(fma)(k, V(set)(-C(LN2_LOW)), r);
    VEC P = V(set)(C(P)[C(P_DEGREE)]);
    for (int i = C(P_DEGREE) - 1; i >= 0; i--) P = V(fma)(P, r, V(set)(C(P)[i]));
    const VEC one = V(set)(1), two = V(set)(2);
    const VEC e = V(scale2)(V(add)(one, V(fma)(V(mul)(r, r), P, r)), shifted);
    const VEC large = V(sub)(one, V(div)(two, V(add)(e, one)));

    /* A NaN is not above the split and takes the branch that passes it on. */
    return V(copysign)(V(if_less)(V(set)(C(SPLIT)), size, large, small), x);
}
