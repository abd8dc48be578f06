/* Prints, for each instruction set and both types, the greatest errors of softplus, of the logistic function, of
 * softplus' from r, and of exp, in units in the last place, for arguments above and below 0, and where: over every
 * float32, against double, and over N random float64 and the numbers around every breakpoint, against long double (64
 * bits of mantissa: 0.001 units of float64). Results that would be subnormal must be 0.
 *
 *     cc -O3 -std=c11 -ffp-contract=off -Icsrc tests/softplus_error.c csrc/kernels.c -lm -o softplus_error
 *     ./softplus_error N */
#include "kernels.h"

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1 << 14, MOST = 4, FUNCTIONS = 4 };

typedef struct {
    double error, at;
} worst;

static const char *names[MOST], *functions[FUNCTIONS] = {"softplus", "sigmoid", "slope", "exp"};
static const pyrnn_phi softplus = {PYRNN_SOFTPLUS, 0}, sigmoid = {PYRNN_SIGMOID, 0};
static int sets;

static void note(worst w[2], double error, double at)
{
    worst *side = w + (at < 0);
    if (!(error <= side->error)) *side = (worst){error, at};
}

static void report(const char *type, worst w[MOST][FUNCTIONS][2])
{
    for (int k = 0; k < sets; k++)
        for (int f = 0; f < FUNCTIONS; f++)
            printf("%s %s %s %.4f %a %.4f %a\n", names[k], type, functions[f], w[k][f][0].error, w[k][f][0].at,
                   w[k][f][1].error, w[k][f][1].at);
}

static void check_f32(const float *x, worst w[MOST][FUNCTIONS][2])
{
    static float y[FUNCTIONS][BLOCK];
    static double exact[FUNCTIONS][BLOCK], unit[FUNCTIONS][BLOCK];
    for (int j = 0; j < BLOCK; j++) {
        const double a = x[j];
        if (fabs(a) < 0x1p-30) { /* three quarters of all: the first terms of the series have the digits of double */
            exact[0][j] = log(2) + a / 2;
            exact[1][j] = 0.5 + a / 4;
            exact[2][j] = a > 0 ? a - a * a / 2 : 0;
            exact[3][j] = 1 + a;
        } else {
            const double e = exp(-fabs(a)), L = log1p(e);
            exact[0][j] = a > 0 ? a + L : L;
            exact[1][j] = (a > 0 ? 1 : e) / (1 + e);
            exact[2][j] = a > 0 ? -expm1(-a) : 0;
            exact[3][j] = exp(a) < 0x1p128 ? exp(a) : INFINITY;
        }
        for (int f = 0; f < FUNCTIONS; f++) {
            if (exact[f][j] < 0x1p-126) exact[f][j] = 0;
            unit[f][j] = exact[f][j] > 0 ? ldexp(1, 23 - ilogb(exact[f][j])) : INFINITY;
        }
    }
    for (int k = 0; k < sets; k++) {
        pyrnn_select(names[k]);
        memcpy(y[0], x, sizeof y[0]), memcpy(y[1], x, sizeof y[1]);
        pyrnn_kernels()->step_forward_f32(1, BLOCK, NULL, y[0], BLOCK, softplus);
        pyrnn_kernels()->step_forward_f32(1, BLOCK, NULL, y[1], BLOCK, sigmoid);
        pyrnn_kernels()->phi_slopes_f32(BLOCK, x, y[2], softplus);
        pyrnn_kernels()->exp_f32(BLOCK, x, y[3]);
        for (int f = 0; f < FUNCTIONS; f++)
            for (int j = 0; j < BLOCK; j++)
                if (f != 2 || x[j] >= 0x1p-124f) /* r / 2 below it is subnormal */
                    note(w[k][f], y[f][j] == exact[f][j] ? 0 : fabs(y[f][j] - exact[f][j]) * unit[f][j], x[j]);
    }
}

static void every_f32(void)
{
    static float x[BLOCK];
    worst w[MOST][FUNCTIONS][2] = {{{{0, 0}}}};
    const float end = 110;
    uint32_t last;
    memcpy(&last, &end, sizeof last);
    for (uint32_t sign = 0; sign < 2; sign++)
        for (uint32_t i = 0; i < last; i += BLOCK) {
            for (uint32_t j = 0; j < BLOCK; j++) {
                const uint32_t bits = (i + j) | sign << 31;
                memcpy(x + j, &bits, sizeof bits);
            }
            check_f32(x, w);
        }
    report("f32", w);
}

static void check_f64(const double *x, worst w[MOST][FUNCTIONS][2])
{
    static double y[FUNCTIONS][BLOCK];
    static long double exact[FUNCTIONS][BLOCK], unit[FUNCTIONS][BLOCK]; /* a double does not hold all units */
    for (int j = 0; j < BLOCK; j++) {
        const long double a = x[j], e = expl(-fabsl(a)), L = log1pl(e);
        exact[0][j] = a > 0 ? a + L : L;
        exact[1][j] = (a > 0 ? 1 : e) / (1 + e);
        exact[2][j] = a > 0 ? -expm1l(-a) : 0;
        exact[3][j] = expl(a) < 0x1p1024L ? expl(a) : (long double)INFINITY;
        for (int f = 0; f < FUNCTIONS; f++) {
            if (exact[f][j] < 0x1p-1022L) exact[f][j] = 0;
            unit[f][j] = exact[f][j] > 0 ? ldexpl(1, 52 - ilogbl(exact[f][j])) : INFINITY;
        }
    }
    for (int k = 0; k < sets; k++) {
        pyrnn_select(names[k]);
        memcpy(y[0], x, sizeof y[0]), memcpy(y[1], x, sizeof y[1]);
        pyrnn_kernels()->step_forward_f64(1, BLOCK, NULL, y[0], BLOCK, softplus);
        pyrnn_kernels()->step_forward_f64(1, BLOCK, NULL, y[1], BLOCK, sigmoid);
        pyrnn_kernels()->phi_slopes_f64(BLOCK, x, y[2], softplus);
        pyrnn_kernels()->exp_f64(BLOCK, x, y[3]);
        for (int f = 0; f < FUNCTIONS; f++)
            for (int j = 0; j < BLOCK; j++)
                if (f != 2 || x[j] > 0) {
                    const long double error = fabsl(y[f][j] - exact[f][j]);
                    note(w[k][f], y[f][j] == exact[f][j] ? 0 : (double)(error * unit[f][j]), x[j]);
                }
    }
}

static void some_f64(uint64_t n)
{
    static double x[BLOCK];
    worst w[MOST][FUNCTIONS][2] = {{{{0, 0}}}};
    uint64_t seed = 1;
    for (int place = 0; place <= 1023; place++) { /* where the formula changes, and where k changes */
        const double at = place ? (place - 0.5) * log(2) : 1;
        uint64_t bits;
        memcpy(&bits, &at, sizeof bits);
        for (int j = 0; j < BLOCK; j++) {
            const uint64_t near = (bits - BLOCK / 4 + (uint64_t)(j / 2)) | (uint64_t)(j % 2) << 63;
            memcpy(x + j, &near, sizeof near);
        }
        check_f64(x, w);
    }
    for (uint64_t i = 0; i < n;
         i += BLOCK) { /* of each sign: most from (0, 5), some from (0, 710), some of all sizes */
        for (int j = 0; j < BLOCK; j++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            const double u = ((double)(seed >> 12) + 0.5) * 0x1p-52;
            x[j] = j % 8 < 3 ? 1.5 * u : j % 8 < 5 ? 5 * u : j % 8 == 5 ? 40 * u : j % 8 == 6 ? 710 * u : exp(-700 * u);
            if (j / 8 % 2) x[j] = -x[j];
        }
        check_f64(x, w);
    }
    report("f64", w);
}

int main(int count, char **arguments)
{
    while (sets < MOST && (names[sets] = pyrnn_available(sets))) sets++;
    every_f32();
    some_f64(count > 1 ? strtoull(arguments[1], NULL, 10) : 1000000);
    return 0;
}
