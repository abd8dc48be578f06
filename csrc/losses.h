/* What losses.pyx computes number by number: the logarithm, and the losses of rows and of numbers. Only operations that
 * round once, in a fixed order, so that the bits are the same on every processor. No loop has a branch that depends on
 * the numbers: it would be mispredicted for half of them, and keeps compilers from making vectors.
 *
 * log(x) of one number in double, x >= 1: a sum of exponentials whose greatest one is exp(0) = 1.
 *
 *   x = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2)
 *   log(1 + f) = 2 atanh(s), s = f / (2 + f);  atanh(s) = s + s³/3 + s⁵/5 + ...
 *              = f - (f²/2 - s (f²/2 + R)),  R = s² 2/3 + s⁴ 2/5 + ... + s¹⁸ 2/19, as s f = f - 2s
 *
 * The first part left out is below 2^-55 of the sum. LN2_HIGH has 32 bits, so that k LN2_HIGH is exact. Greatest error
 * in units in the last place, of 8e7 random numbers and all around sqrt(2) 2^k: 0.9502 at 0x1.69fa81cd0d7bcp+0
 * (tests/log_error.c). */
#ifndef PYRNN_LOSSES_H
#define PYRNN_LOSSES_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline double pyrnn_log(double x)
{
    static const double R[] = {2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19};
    const double LN2_HIGH = 0x1.62e42feep-1, LN2_LOW = 0x1.a39ef35793c76p-33;
    uint64_t bits, field;
    double k, m;
    memcpy(&bits, &x, sizeof bits);
    field = (bits - 0x3fe6a09e667f3bcd) >> 52; /* k, from sqrt(1/2) on */
    bits -= field << 52;
    field |= 0x4330000000000000; /* 2^52 + k */
    memcpy(&k, &field, sizeof k), memcpy(&m, &bits, sizeof m);
    k -= 0x1p52;
    const double f = m - 1, s = f / (2 + f), z = s * s, half = 0.5 * f * f;
    double sum = R[8];
    for (int i = 7; i >= 0; i--) sum = sum * z + R[i];
    sum *= z;
    const double log = k * LN2_HIGH - ((half - (s * (half + sum) + k * LN2_LOW)) - f);
    return log + (x - x); /* NaN and inf give NaN */
}

static inline void pyrnn_logs(ptrdiff_t n, const double *restrict x, double *restrict logs)
{
    for (ptrdiff_t i = 0; i < n; i++) logs[i] = pyrnn_log(x[i]);
}

/* The losses, for both types R. Outputs whose weight is 0 are computed like all others, and then count for nothing.
 *
 *   below     out = o - its greatest number, of rows of O numbers
 *   sums      of rows of O numbers, in double
 *   softmax   from d = exp(out), its sum and the logarithm of that, and out of the row's class, which is `chosen`:
 *             loss = log - chosen, d = d / total - 1[k = class]
 *   squared   e = o - y: loss = e², d = 2e
 *   huber     c = e cut off at ±delta: loss = c (e - c/2), d = c. That is e²/2 inside, delta (|e| - delta/2) outside
 *   poisson   rate = exp(o): loss = rate - y o, d = rate - y
 *   minus     out = -|o|
 *   binary    from log(1 + exp(-|o|)) and q = 1 / (1 + exp(|o|)): loss = max(o, 0) - y o + log, d = p - y, where p is
 *             q below 0, and 1 - q above
 *   weigh     losses of rows += the sums of those of numbers; w of each row, of each number, or NULL
 *   outside   whether a y is below low or above high */
#define PYRNN_LOSSES(R, T)                                                                                            \
    static inline void pyrnn_below_##T(ptrdiff_t rows, ptrdiff_t O, const R *restrict o, R *restrict out)             \
    {                                                                                                                 \
        for (; rows > 0; rows--, o += O, out += O) {                                                                  \
            R greatest = o[0];                                                                                        \
            for (ptrdiff_t k = 1; k < O; k++) greatest = o[k] > greatest ? o[k] : greatest;                           \
            for (ptrdiff_t k = 0; k < O; k++) out[k] = o[k] - greatest;                                               \
        }                                                                                                             \
    }                                                                                                                 \
    static inline void pyrnn_sums_##T(ptrdiff_t rows, ptrdiff_t O, const R *restrict e, double *restrict totals)      \
    {                                                                                                                 \
        for (ptrdiff_t r = 0; r < rows; r++, e += O) {                                                                \
            double total = 0;                                                                                         \
            for (ptrdiff_t k = 0; k < O; k++) total += e[k];                                                          \
            totals[r] = total;                                                                                        \
        }                                                                                                             \
    }                                                                                                                 \
    static inline void pyrnn_softmax_##T(ptrdiff_t rows, ptrdiff_t O, const ptrdiff_t *restrict classes,              \
                                         const R *restrict w, const R *restrict chosen, const double *restrict logs,  \
                                         const double *restrict totals, double *restrict losses, R *restrict d)       \
    {                                                                                                                 \
        for (ptrdiff_t r = 0; r < rows; r++, d += O) {                                                                \
            const R weight = w ? w[r] : 1;                                                                            \
            if (weight == 0) {                                                                                        \
                losses[r] = 0;                                                                                        \
                for (ptrdiff_t k = 0; k < O; k++) d[k] = 0;                                                           \
                continue;                                                                                             \
            }                                                                                                         \
            losses[r] = weight * (logs[r] - chosen[r]);                                                               \
            const double total = totals[r], factor = 1 / total;                                                       \
            R own = d[classes[r]];                                                                                    \
            if (sizeof(R) < sizeof(double)) { /* this product is rounded to R once, as good as a quotient */          \
                own = (R)(own * factor - 1) * weight;                                                                 \
                for (ptrdiff_t k = 0; k < O; k++) d[k] = (R)(d[k] * factor) * weight;                                 \
            } else {                                                                                                  \
                own = (R)(own / total - 1) * weight;                                                                  \
                for (ptrdiff_t k = 0; k < O; k++) d[k] = (R)(d[k] / total) * weight;                                  \
            }                                                                                                         \
            d[classes[r]] = own;                                                                                      \
        }                                                                                                             \
    }                                                                                                                 \
    static inline void pyrnn_squared_##T(ptrdiff_t n, const R *restrict o, const R *restrict y,                       \
                                         double *restrict losses, R *restrict d)                                      \
    {                                                                                                                 \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                           \
            const R e = o[i] - y[i];                                                                                  \
            losses[i] = (double)e * e, d[i] = 2 * e;                                                                  \
        }                                                                                                             \
    }                                                                                                                 \
    static inline void pyrnn_huber_##T(ptrdiff_t n, const R *restrict o, const R *restrict y, R delta,                \
                                       double *restrict losses, R *restrict d)                                        \
    {                                                                                                                 \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                           \
            const R e = o[i] - y[i], above = e < -delta ? -delta : e, c = above > delta ? delta : above;              \
            losses[i] = c * (e - 0.5 * c), d[i] = c;                                                                  \
        }                                                                                                             \
    }                                                                                                                 \
    static inline void pyrnn_poisson_##T(ptrdiff_t n, const R *restrict o, const R *restrict y,                       \
                                         const R *restrict rate, double *restrict losses, R *restrict d)              \
    {                                                                                                                 \
        for (ptrdiff_t i = 0; i < n; i++) losses[i] = rate[i] - (double)o[i] * y[i], d[i] = rate[i] - y[i];           \
    }                                                                                                                 \
    static inline void pyrnn_minus_##T(ptrdiff_t n, const R *restrict o, R *restrict out)                             \
    {                                                                                                                 \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                           \
            const R other = -o[i];                                                                                    \
            out[i] = o[i] < other ? o[i] : other;                                                                     \
        }                                                                                                             \
    }                                                                                                                 \
    static inline void pyrnn_binary_##T(ptrdiff_t n, const R *restrict o, const R *restrict y, const R *restrict log, \
                                        const R *restrict q, double *restrict losses, R *restrict d)                  \
    {                                                                                                                 \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                           \
            const double e = o[i], positive = e > 0 ? e : 0, one = copysign(1, e), half = copysign(0.5, e);           \
            losses[i] = log[i] + (positive - e * y[i]);                                                               \
            d[i] = (R)((0.5 + half - one * q[i]) - y[i]);                                                             \
        }                                                                                                             \
    }                                                                                                                 \
    static inline void pyrnn_weigh_##T(ptrdiff_t rows, ptrdiff_t n, const R *restrict w, int by_output,               \
                                       const double *restrict of_numbers, double *restrict losses, R *restrict d)     \
    {                                                                                                                 \
        for (ptrdiff_t r = 0; r < rows; r++, of_numbers += n, d += n) {                                               \
            double total = 0;                                                                                         \
            if (by_output) {                                                                                          \
                for (ptrdiff_t k = 0; k < n; k++) {                                                                   \
                    total += w[k] == 0 ? 0 : w[k] * of_numbers[k];                                                    \
                    d[k] = w[k] == 0 ? 0 : d[k] * w[k];                                                               \
                }                                                                                                     \
                w += n;                                                                                               \
            } else {                                                                                                  \
                const R weight = w ? w[r] : 1;                                                                        \
                for (ptrdiff_t k = 0; k < n; k++) total += of_numbers[k];                                             \
                total = weight == 0 ? 0 : total * weight;                                                             \
                if (weight == 0)                                                                                      \
                    for (ptrdiff_t k = 0; k < n; k++) d[k] = 0;                                                       \
                else if (w)                                                                                           \
                    for (ptrdiff_t k = 0; k < n; k++) d[k] *= weight;                                                 \
            }                                                                                                         \
            losses[r] += total;                                                                                       \
        }                                                                                                             \
    }                                                                                                                 \
    static inline int pyrnn_outside_##T(ptrdiff_t n, const R *restrict y, R low, R high)                              \
    {                                                                                                                 \
        int found = 0;                                                                                                \
        for (ptrdiff_t i = 0; i < n; i++) found |= (y[i] < low) | (y[i] > high);                                      \
        return found;                                                                                                 \
    }

PYRNN_LOSSES(float, f32)
PYRNN_LOSSES(double, f64)
#undef PYRNN_LOSSES

#endif
