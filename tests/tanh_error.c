/* Prints, for each instruction set and both types, the greatest error of tanh in units in the last place, at or below
 * the split and above it, and where: over every float32, against double, and over N random float64 and the numbers
 * around every breakpoint, against long double (64 bits of mantissa: 0.001 units of float64).
 *
 *     cc -O3 -std=c11 -ffp-contract=off -Icsrc tests/tanh_error.c csrc/kernels.c -lm -o tanh_error && ./tanh_error N */
#include "kernels.h"

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1 << 14, MOST = 4 };

typedef struct {
    double error, at;
} worst;

static const double split_f32 = 0.975f, split_f64 = 0.625;
static const char *names[MOST];
static int sets;

static void note(worst w[2], int above, double error, double at)
{
    if (error > w[above].error) w[above] = (worst){error, at};
}

static void report(const char *type, worst w[MOST][2])
{
    for (int k = 0; k < sets; k++)
        printf("%s %s %.4f %a %.4f %a\n", names[k], type, w[k][0].error, w[k][0].at, w[k][1].error, w[k][1].at);
}

static void every_f32(void)
{
    static float x[BLOCK], y[BLOCK];
    static double exact[BLOCK], unit[BLOCK];
    worst w[MOST][2] = {{{0, 0}}};
    const float end = 10;
    uint32_t last, i;
    memcpy(&last, &end, sizeof last);
    for (i = 1; i < last; i += BLOCK) {
        for (uint32_t j = 0; j < BLOCK; j++) {
            const uint32_t bits = i + j;
            memcpy(x + j, &bits, sizeof bits);
            exact[j] = tanh((double)x[j]);
            unit[j] = ldexp(1, ilogb(exact[j]) < -126 ? 149 : 23 - ilogb(exact[j]));
        }
        for (int k = 0; k < sets; k++) {
            pyrnn_select(names[k]);
            pyrnn_kernels()->tanh_f32(BLOCK, x, y);
            for (int j = 0; j < BLOCK; j++) note(w[k], x[j] > split_f32, fabs(y[j] - exact[j]) * unit[j], x[j]);
        }
    }
    report("f32", w);
}

static void check_f64(double *x, worst w[MOST][2])
{
    static double y[BLOCK];
    static long double exact[BLOCK];
    for (int j = 0; j < BLOCK; j++) exact[j] = tanhl((long double)x[j]);
    for (int k = 0; k < sets; k++) {
        pyrnn_select(names[k]);
        pyrnn_kernels()->tanh_f64(BLOCK, x, y);
        for (int j = 0; j < BLOCK; j++)
            note(w[k], x[j] > split_f64, (double)ldexpl(fabsl(y[j] - exact[j]), 52 - ilogbl(exact[j])), x[j]);
    }
}

static void some_f64(uint64_t n)
{
    static double x[BLOCK];
    worst w[MOST][2] = {{{0, 0}}};
    uint64_t seed = 1;
    for (int place = 0; place <= 56; place++) { /* the split, and where k changes */
        const double at = place ? (place - 0.5) * log(2) / 2 : split_f64;
        uint64_t bits;
        memcpy(&bits, &at, sizeof bits);
        for (int j = 0; j < BLOCK; j++) {
            const uint64_t near = bits - BLOCK / 2 + (uint64_t)j;
            memcpy(x + j, &near, sizeof near);
        }
        check_f64(x, w);
    }
    for (uint64_t i = 0; i < n;
         i += BLOCK) { /* a half from (0, 1.25), a quarter from (0, 20), a quarter of all sizes */
        for (int j = 0; j < BLOCK; j++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            const double u = ((double)(seed >> 12) + 0.5) * 0x1p-52;
            x[j] = j % 4 < 2 ? 1.25 * u : j % 4 == 2 ? 20 * u : exp(-40 * u);
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
