/* Prints the greatest error of pyrnn_log of csrc/losses.h, in units in the last place, and where: of N random numbers
 * from 1 to 2, to 20 and to 2^60, and of numbers around the places where the power of two changes; against long double
 * (64 bits of mantissa).
 *
 *     cc -O3 -std=c11 -ffp-contract=off -Icsrc tests/log_error.c -lm -o log_error && ./log_error N */
#include "losses.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static double worst, where;

static void check(double x)
{
    const double y = pyrnn_log(x);
    const long double exact = logl(x);
    const double error = (double)(fabsl(y - exact) * ldexpl(1, 52 - ilogbl(exact)));
    if (x > 1 && !(error <= worst)) worst = error, where = x;
}

int main(int count, char **arguments)
{
    const long n = count > 1 ? atol(arguments[1]) : 1000000;
    uint64_t seed = 1;
    for (long i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        const double u = ((double)(seed >> 12) + 0.5) * 0x1p-52;
        check(1 + u), check(1 + 19 * u), check(exp2(60 * u)), check(1 + exp2(-52 * u));
    }
    for (int k = 0; k < 60; k++) {
        const double at = ldexp(sqrt(0.5), k + 1);
        double below = at, above = at;
        for (int i = 0; i < 2000; i++) {
            check(below), check(above);
            below = nextafter(below, 0), above = nextafter(above, INFINITY);
        }
    }
    printf("%.4f %a\n", worst, where);
    return pyrnn_log(1) != 0 || pyrnn_log(INFINITY) == INFINITY || pyrnn_log(NAN) == pyrnn_log(NAN);
}
