/* Prints a line of hexadecimal digits for each instruction set that this build and this processor have: a hash of the
 * bits of every kernel's results on fixed inputs, then one of results around the smallest normal number and below,
 * while subnormal numbers are flushed. All lines, of all machines, must be the same.
 *
 *     cc -O3 -std=c11 -ffp-contract=off -Icsrc tests/bits.c csrc/kernels.c -lm -o bits && ./bits */
#include "floating.h"
#include "kernels.h"

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t seed, hash;

static void mix(const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (uint64_t word; n >= sizeof word; n -= sizeof word, p += sizeof word) {
        memcpy(&word, p, sizeof word);
        hash = (hash ^ word) * 0x100000001b3u;
        hash ^= hash >> 32; /* else two signs that differ would cancel: the product moves bits up alone */
    }
    for (; n--; p++) hash = (hash ^ *p) * 0x100000001b3u;
}

/* Numbers in (-1, 1), the same in every type as far as its digits go. */
static double number(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(int32_t)(seed >> 32) / 2147483648.0;
}

/* With `flushing`, arrays have sizes such that products and sums come to about the smallest normal number: so many
 * parts of 21 of its exponent, a few powers of two more or less. They hold subnormal numbers, too. */
enum { MOST = 1 << 16 };
static int flushing, filled;
static size_t most; /* numbers of each array that a case fills, and that are looked at */
static pyrnn_floating unflushed;

static double small_number(int exponent)
{
    static const int parts[] = {10, 11, 21, 21, 20};
    const double x = number();
    return ldexp(x, exponent * parts[filled % 5] / 21 + (int)(8 * number()));
}

#define DEFINE(R, T)                                                                                                   \
    static R T##_a[MOST], T##_b[MOST], T##_panels[MOST], T##_c[MOST], T##_d[MOST], T##_e[MOST], T##_f[MOST],           \
        T##_narrow[MOST];                                                                                              \
    static void T##_fill(R *a)                                                                                         \
    {                                                                                                                  \
        if (!flushing) {                                                                                               \
            for (size_t i = 0; i < most; i++) a[i] = (R)number();                                                      \
            return;                                                                                                    \
        }                                                                                                              \
        pyrnn_restore(unflushed);                                                                                      \
        for (size_t i = 0; i < most; i++) a[i] = (R)small_number(sizeof(R) == 4 ? -126 : -1022);                       \
        filled++;                                                                                                      \
        pyrnn_flush();                                                                                                 \
    }                                                                                                                  \
    static void T##_leaky(ptrdiff_t rows, ptrdiff_t H, int odd, pyrnn_phi phi)                                         \
    {                                                                                                                  \
        const pyrnn_kernel_table *k = pyrnn_kernels();                                                                 \
        const ptrdiff_t ld = H + 3;                                                                                    \
        const int current = (int)rows % 2;                                                                             \
        T##_fill(T##_a), T##_fill(T##_b), T##_fill(T##_c), T##_fill(T##_d), T##_fill(T##_e), T##_fill(T##_f);          \
        T##_fill(T##_narrow);                                                                                          \
        k->pack_transposed_##T(H, H, T##_b, ld, T##_panels);                                                           \
        k->leaky_forward_##T(rows, H, H, T##_a, ld, T##_panels, T##_c, ld, T##_panels, T##_b, 0, T##_d, ld, T##_e, ld, \
                             T##_narrow, ld, T##_f, ld, T##_b, phi, current, odd);                                     \
        mix(T##_e, most * sizeof(R)), mix(T##_narrow, most * sizeof(R)), mix(T##_f, most * sizeof(R));                 \
        k->leaky_backward_##T(rows, H, T##_a, ld, T##_panels, T##_f, ld, T##_c, ld, T##_d, ld, T##_e, ld, T##_narrow,  \
                              ld, T##_b, phi, current, odd);                                                           \
        mix(T##_e, most * sizeof(R)), mix(T##_narrow, most * sizeof(R));                                               \
        k->leaky_step_forward_##T(rows, H, T##_b, T##_c, ld, T##_e, ld, T##_f, ld, T##_a, phi, current);               \
        mix(T##_e, most * sizeof(R)), mix(T##_f, most * sizeof(R));                                                    \
        k->leaky_step_backward_##T(rows, H, T##_f, ld, T##_c, ld, T##_d, ld, T##_a, ld, T##_e, ld, T##_narrow, ld,     \
                                   T##_b, phi, current);                                                               \
        mix(T##_e, most * sizeof(R)), mix(T##_narrow, most * sizeof(R));                                               \
        k->column_products_##T(2, rows / 2, H, T##_e, ld, T##_c, 3 * ld, ld, T##_d, 2, ld, T##_a, T##_b);              \
        ptrdiff_t at[300];                                                                                             \
        for (int i = 0; i < rows; i++) at[i] = i * 7 % rows * ld;                                                      \
        k->gather_rows_##T(rows, H, T##_e, at, T##_c, H), k->scatter_rows_##T(rows, H, T##_d, H, at, T##_f);           \
        mix(T##_c, most * sizeof(R)), mix(T##_f, most * sizeof(R));                                                    \
        mix(T##_a, most * sizeof(R)), mix(T##_b, most * sizeof(R));                                                    \
    }                                                                                                                  \
    static void T##_case(ptrdiff_t rows, ptrdiff_t H, int odd, pyrnn_phi phi)                                          \
    {                                                                                                                  \
        const pyrnn_kernel_table *k = pyrnn_kernels();                                                                 \
        const ptrdiff_t ld = H + 3;                                                                                    \
        T##_fill(T##_a), T##_fill(T##_b), T##_fill(T##_c), T##_fill(T##_d), T##_fill(T##_e);                           \
        k->pack_transposed_##T(H, H, T##_b, ld, T##_panels);                                                           \
        k->product_##T(rows, H, H, T##_a, ld, T##_panels, T##_d, 0, T##_c, ld);                                        \
        k->fused_forward_##T(rows, 0, H, NULL, 0, NULL, T##_a, ld, T##_panels, T##_c, ld, T##_c, ld, T##_d, ld, phi,   \
                             odd);                                                                                     \
        mix(T##_c, most * sizeof(R)), mix(T##_d, most * sizeof(R));                                                    \
        k->pack_##T(H, 0, H, 1, H, T##_b, ld, 0, T##_panels);                                                          \
        k->fused_backward_##T(rows, H, T##_a, ld, T##_panels, T##_c, ld, T##_e, ld, T##_b, ld, T##_d, ld, phi, odd);   \
        mix(T##_b, most * sizeof(R)), mix(T##_d, most * sizeof(R));                                                    \
        ptrdiff_t at[300];                                                                                             \
        for (int i = 0; i < rows; i++) at[i] = i * ld;                                                                 \
        k->pack_rows_at_##T(rows, 0, rows, H, T##_a, at, T##_panels);                                                  \
        k->outer_##T(rows, H, H, T##_d, ld, T##_panels, 1, T##_e, ld);                                                 \
        k->pack_narrow_##T(rows, H, T##_d, ld, T##_narrow);                                                            \
        k->outer_##T(rows, H, H, T##_narrow, 0, T##_panels, 1, T##_e, ld);                                             \
        k->column_sums_##T(rows, H, T##_d, ld, T##_c, T##_b);                                                          \
        for (size_t i = 0; i < most; i++) T##_panels[i] = (R)(i % 7);                                                  \
        const R total = k->sum_##T(3, rows * ld, T##_panels); /* exact in every order */                               \
        mix(&total, sizeof total);                                                                                     \
        k->step_forward_##T(rows, H, T##_b, T##_a, ld, phi);                                                           \
        mix(T##_e, most * sizeof(R)), mix(T##_c, most * sizeof(R)), mix(T##_a, most * sizeof(R));                      \
        k->step_backward_##T(rows, H, T##_a, ld, T##_b, ld, T##_c, ld, T##_e, ld, T##_d, ld, phi);                     \
        mix(T##_e, most * sizeof(R)), mix(T##_d, most * sizeof(R));                                                    \
        k->jacobian_##T(H, T##_a, T##_b, ld, T##_c, odd ? T##_e : NULL, phi, (int)rows % 2);                           \
        mix(T##_c, most * sizeof(R));                                                                                  \
        k->noise_##T(~(uint64_t)0 / (uint64_t)H, odd, rows, H, 5, odd ? at : NULL, 7, odd ? NULL : at, T##_a, T##_b,   \
                     ld, T##_e, 0, T##_c, ld);                                                                         \
        mix(T##_c, most * sizeof(R));                                                                                  \
        T##_leaky(rows, H, odd, phi);                                                                                  \
        const ptrdiff_t n = H == 1 ? (ptrdiff_t)most : rows * ld; /* many numbers, or a tail of another length */      \
        for (size_t i = 0; i < most; i++) T##_a[i] = 25 * T##_b[i] * T##_b[i] * T##_b[i];                              \
        k->sech2_##T(n, T##_a, T##_b);                                                                                 \
        mix(T##_b, most * sizeof(R));                                                                                  \
        k->exp_##T(n, T##_a, T##_b);                                                                                   \
        mix(T##_b, most * sizeof(R));                                                                                  \
        memcpy(T##_b, T##_a, most * sizeof(R));                                                                        \
        k->step_forward_##T(1, n, NULL, T##_b, n, phi), k->phi_slopes_##T(n, T##_b, T##_c, phi);                       \
        mix(T##_b, most * sizeof(R)), mix(T##_c, most * sizeof(R));                                                    \
        k->tanh_##T(n, T##_a, T##_a);                                                                                  \
        mix(T##_a, most * sizeof(R));                                                                                  \
        T##_fill(T##_a), T##_fill(T##_b), T##_fill(T##_c), T##_fill(T##_d), T##_fill(T##_e);                           \
        /* Mean squares, above the squares of means: the sign of a NaN is the processor's. */                          \
        for (size_t i = 0; i < most; i++) T##_c[i] = (R)(fabs(T##_c[i]) + (flushing ? 0 : 3));                         \
        const R small = (R)0.01, decay = (R)(odd ? 0.1 : 0);                                                           \
        const double products = k->dot_##T(n, T##_a, T##_b, 0.5);                                                      \
        mix(&products, sizeof products);                                                                               \
        k->sgd_##T(n, T##_a, 1, (R)0.7, decay, (R)0.9, (R)0.8, small, 0, odd, odd ? T##_d : NULL, T##_b);              \
        k->adam_##T(n, T##_a, 1, (R)0.7, decay, (R)0.99, (R)0.3, (R)0.9, (R)0.1, (R)0.4, small, small, T##_d, T##_c,   \
                    odd ? T##_e : NULL, T##_b);                                                                        \
        k->rmsprop_##T(n, T##_a, 1, (R)0.7, decay, (R)0.9, (R)0.1, (R)0.8, small, small, T##_c,                        \
                       odd && !flushing ? T##_d : NULL, odd ? T##_e : NULL, T##_b);                                    \
        k->add_multiple_##T(n, (R)0.3, T##_b, T##_e);                                                                  \
        mix(T##_b, most * sizeof(R)), mix(T##_c, most * sizeof(R)), mix(T##_d, most * sizeof(R)),                      \
            mix(T##_e, most * sizeof(R));                                                                              \
        R half[2] = {0.5, 0.25};                                                                                       \
        k->multiply_adds_##T(200, half);                                                                               \
        mix(half, sizeof half);                                                                                        \
    }

DEFINE(float, f32)
DEFINE(double, f64)

int main(void)
{
    static const ptrdiff_t rows[] = {1, 2, 3, 5, 8, 13, 31, 300}, sizes[] = {1, 2, 3, 7, 16, 17, 33, 50, 100};
    const char *name;
    for (int i = 0; (name = pyrnn_available(i)); i++) {
        pyrnn_select(name);
        fprintf(stderr, "%s ", name);
        for (flushing = 0; flushing < 2; flushing++) {
            seed = 1, hash = 0xcbf29ce484222325u;
            filled = 0;
            unflushed = flushing ? pyrnn_flush() : pyrnn_read_floating();
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r += (size_t)(1 + flushing))
                for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s += (size_t)(1 + flushing)) {
                    const ptrdiff_t wide = sizes[s] + 64; /* more than any tile adds */
                    const ptrdiff_t used = 4096 + wide * (rows[r] > wide ? rows[r] : wide);
                    most = sizes[s] == 1 || used > MOST ? MOST : (size_t)used;
                    for (int kind = (int)(r + s) % 3; kind <= PYRNN_LEAKY_RELU; kind += 3) {
                        f32_case(rows[r], sizes[s], s % 2, (pyrnn_phi){kind, 0.3});
                        f64_case(rows[r], sizes[s], r % 2, (pyrnn_phi){kind, 0.3});
                    }
                }
            if (flushing) pyrnn_restore(unflushed);
            printf("%016" PRIx64 "%c", hash, flushing ? '\n' : ' ');
        }
    }
    return 0;
}
