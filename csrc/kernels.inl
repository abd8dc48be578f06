/* The kernels of one instruction set (the macro ISA) in both types: this file includes itself once for each, with
 * TYPE the tag of the type and REAL its name in C. Contracts: kernels.h. */
#ifndef TYPE

#define TYPE f32
#define REAL float
#include "kernels.inl"
#undef TYPE
#undef REAL
#define TYPE f64
#define REAL double
#include "kernels.inl"
#undef TYPE
#undef REAL

#define PYRNN_STRING_(a) #a
#define PYRNN_STRING(a) PYRNN_STRING_(a)
/* clang-format off */
#define PYRNN_KERNEL(kernel, t) .kernel##_##t = SIMD(pyrnn_##kernel##_##t)
#define PYRNN_ROW(t)                  \
    PYRNN_KERNEL(tanh, t),            \
    PYRNN_KERNEL(sech2, t),           \
    PYRNN_KERNEL(step_forward, t),    \
    PYRNN_KERNEL(step_backward, t),   \
    PYRNN_KERNEL(jacobian, t),        \
    PYRNN_KERNEL(column_sums, t),     \
    PYRNN_KERNEL(transpose, t),       \
    PYRNN_KERNEL(panels_size, t),     \
    PYRNN_KERNEL(pack, t),            \
    PYRNN_KERNEL(pack_transposed, t), \
    PYRNN_KERNEL(pack_narrow, t),     \
    PYRNN_KERNEL(product, t),         \
    PYRNN_KERNEL(outer, t),           \
    PYRNN_KERNEL(fused_forward, t),   \
    PYRNN_KERNEL(fused_backward, t),  \
    PYRNN_KERNEL(multiply_adds, t),   \
    PYRNN_KERNEL(sum, t)
/* clang-format on */
static const pyrnn_kernel_table SIMD(table) = {.name = PYRNN_STRING(ISA), PYRNN_ROW(f32), PYRNN_ROW(f64)};
#undef PYRNN_ROW
#undef PYRNN_KERNEL
#undef PYRNN_STRING
#undef PYRNN_STRING_

#else

#define V(word) SIMD(PYRNN_GLUE(word, TYPE))                  /* a vector word: fma_f32_avx512 */
#define KERNEL(kernel) SIMD(PYRNN_GLUE(pyrnn_##kernel, TYPE)) /* a kernel: pyrnn_tanh_f32_avx512 */
#define C(constant) PYRNN_GLUE(TANH_##constant, TYPE)
#define VEC V(vec)
#define LANES V(lanes)

#include "tanh.h"

static void KERNEL(tanh)(ptrdiff_t n, const REAL *x, REAL *y)
{
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) V(store)(y + i, V(tanh)(V(load)(x + i)));
    if (i < n) V(store_part)(y + i, n - i, V(tanh)(V(load_part)(x + i, n - i)));
}

static void KERNEL(sech2)(ptrdiff_t n, const REAL *x, REAL *y)
{
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) V(store)(y + i, V(sech2)(V(load)(x + i)));
    if (i < n) V(store_part)(y + i, n - i, V(sech2)(V(load_part)(x + i, n - i)));
}

static void KERNEL(step_forward)(ptrdiff_t rows, ptrdiff_t H, const REAL *restrict b, REAL *restrict h, ptrdiff_t ld_h)
{
    for (ptrdiff_t r = 0; r < rows; r++, h += ld_h) {
        if (!b) {
            KERNEL(tanh)(H, h, h);
            continue;
        }
        ptrdiff_t i = 0;
        for (; i + LANES <= H; i += LANES) V(store)(h + i, V(tanh)(V(add)(V(load)(h + i), V(load)(b + i))));
        if (i < H) {
            const VEC a = V(add)(V(load_part)(h + i, H - i), V(load_part)(b + i, H - i));
            V(store_part)(h + i, H - i, V(tanh)(a));
        }
    }
}

/* 1 - h², rounded once. */
static inline VEC V(slope)(VEC h) { return V(fma)(V(sub)(V(set)(0), h), h, V(set)(1)); }

static void KERNEL(step_backward)(ptrdiff_t rows, ptrdiff_t H, const REAL *h, ptrdiff_t ld_h, const REAL *dh,
                                  ptrdiff_t ld_dh, const REAL *back, ptrdiff_t ld_back, REAL *grad, ptrdiff_t ld_grad,
                                  REAL *delta, ptrdiff_t ld_delta)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        for (ptrdiff_t i = 0; i < H; i += LANES) {
            const ptrdiff_t n = H - i;
            const int part = n < LANES;
            VEC g = part ? V(load_part)(dh + i, n) : V(load)(dh + i);
            if (back) g = V(add)(g, part ? V(load_part)(back + i, n) : V(load)(back + i));
            const VEC d = V(mul)(V(slope)(part ? V(load_part)(h + i, n) : V(load)(h + i)), g);
            if (part) {
                if (grad) V(store_part)(grad + i, n, g);
                V(store_part)(delta + i, n, d);
            } else {
                if (grad) V(store)(grad + i, g);
                V(store)(delta + i, d);
            }
        }
        h += ld_h, dh += ld_dh, delta += ld_delta;
        if (back) back += ld_back;
        if (grad) grad += ld_grad;
    }
}

static void KERNEL(jacobian)(ptrdiff_t H, const REAL *restrict h, const REAL *restrict W, ptrdiff_t ld_w,
                             REAL *restrict J)
{
    for (ptrdiff_t i = 0; i < H; i++, W += ld_w, J += H) {
        const VEC slope = V(slope)(V(set)(h[i]));
        ptrdiff_t j = 0;
        for (; j + LANES <= H; j += LANES) V(store)(J + j, V(mul)(slope, V(load)(W + j)));
        if (j < H) V(store_part)(J + j, H - j, V(mul)(slope, V(load_part)(W + j, H - j)));
    }
}

/* The sum of the rows of one register, or of its first n lanes: of sums of 128, and those of sums of 16. */
static inline VEC V(column_sum)(ptrdiff_t rows, ptrdiff_t n, const REAL *a, ptrdiff_t ld_a)
{
    VEC total = V(set)(0), middle = V(set)(0);
    for (ptrdiff_t r = 0; r < rows; r += 16) {
        VEC s = V(set)(0);
        for (ptrdiff_t i = r; i < rows && i < r + 16; i++)
            s = V(add)(s, n < LANES ? V(load_part)(a + i * ld_a, n) : V(load)(a + i * ld_a));
        middle = V(add)(middle, s);
        if (r % 128 == 112 || r + 16 >= rows) {
            total = V(add)(total, middle);
            middle = V(set)(0);
        }
    }
    return total;
}

static void KERNEL(column_sums)(ptrdiff_t rows, ptrdiff_t n, const REAL *restrict a, ptrdiff_t ld_a, REAL *restrict sum,
                                REAL *restrict lost)
{
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const ptrdiff_t m = n - j < LANES ? n - j : LANES;
        const VEC s = V(column_sum)(rows, m, a + j, ld_a), old = V(load_part)(sum + j, m), new = V(add)(old, s);
        V(store_part)(sum + j, m, new);
        if (lost) { /* what is missing in the rounded sum of two numbers is a number (Knuth) */
            const VEC moved = V(sub)(new, old);
            const VEC missing = V(add)(V(sub)(old, V(sub)(new, moved)), V(sub)(s, moved));
            V(store_part)(lost + j, m, V(add)(V(load_part)(lost + j, m), missing));
        }
    }
}

/* Eight sums hide four cycles of an addition at two a cycle. */
static REAL KERNEL(sum)(ptrdiff_t times, ptrdiff_t n, const REAL *a)
{
    enum { SUMS_OF_READS = 8, BLOCK = SUMS_OF_READS * LANES };
    VEC s[SUMS_OF_READS];
    REAL lanes[LANES], total = 0;
    UNROLL for (int k = 0; k < SUMS_OF_READS; k++) s[k] = V(set)(0);
    while (times-- > 0) {
        ptrdiff_t i = 0;
        for (; i + BLOCK <= n; i += BLOCK)
            UNROLL for (int k = 0; k < SUMS_OF_READS; k++) s[k] = V(add)(s[k], V(load)(a + i + k * LANES));
        for (; i + LANES <= n; i += LANES) s[0] = V(add)(s[0], V(load)(a + i));
        if (i < n) s[1] = V(add)(s[1], V(load_part)(a + i, n - i));
    }
    UNROLL for (int k = 1; k < SUMS_OF_READS; k++) s[0] = V(add)(s[0], s[k]);
    V(store)(lanes, s[0]);
    for (int k = 0; k < LANES; k++) total += lanes[k];
    return total;
}

static void KERNEL(transpose)(ptrdiff_t rows, ptrdiff_t n, const REAL *restrict a, ptrdiff_t ld_a, REAL *restrict out)
{
    enum { TILE = 16 }; /* a tile's rows and columns are both a cache line of float32 */
    for (ptrdiff_t i = 0; i < rows; i += TILE)
        for (ptrdiff_t j = 0; j < n; j += TILE) {
            const ptrdiff_t i_end = i + TILE < rows ? i + TILE : rows, j_end = j + TILE < n ? j + TILE : n;
            for (ptrdiff_t jj = j; jj < j_end; jj++)
                for (ptrdiff_t ii = i; ii < i_end; ii++) out[jj * rows + ii] = a[ii * ld_a + jj];
        }
}

#include "product.inl"

static ptrdiff_t KERNEL(multiply_adds)(ptrdiff_t n, REAL *a)
{
    const VEC factor = V(set)(a[0]), addend = V(set)(a[1]);
    VEC sum[SUMS / 2][2]; /* they differ at the beginning, else the compiler would keep one */
    UNROLL for (int i = 0; i < SUMS / 2; i++) UNROLL for (int j = 0; j < 2; j++) sum[i][j] = V(set)((REAL)(2 * i + j));
    for (ptrdiff_t k = 0; k < n; k++)
        UNROLL for (int i = 0; i < SUMS / 2; i++) UNROLL for (int j = 0; j < 2; j++) sum[i][j] =
            V(fma)(factor, sum[i][j], addend);
    VEC least = sum[0][0];
    UNROLL for (int i = 0; i < SUMS / 2; i++) UNROLL for (int j = 0; j < 2; j++) least = V(min)(least, sum[i][j]);
    V(store_part)(a, 1 % LANES, least);
    if (LANES == 1) V(store)(a, least);
    return 2 * n * SUMS * LANES;
}

#undef V
#undef KERNEL
#undef C
#undef VEC
#undef LANES
#endif
