/* The kernels of one instruction set (the macro ISA) in both types: this file includes itself once for each, with
 * TYPE the tag of the type and REAL its name in C. Contracts: kernels.h. */
#ifndef TYPE

#include "philox.h"

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
static const pyrnn_kernel_table SIMD(table) = {
    .name = PYRNN_STRING(ISA),
#define PYRNN_KERNEL(result, kernel, parameters) .kernel##_f32 = SIMD(pyrnn_##kernel##_f32),
#include "kernels.h"
#undef PYRNN_KERNEL
#define PYRNN_KERNEL(result, kernel, parameters) .kernel##_f64 = SIMD(pyrnn_##kernel##_f64),
#include "kernels.h"
#undef PYRNN_KERNEL
};
#undef PYRNN_STRING
#undef PYRNN_STRING_

#else

#define V(word) SIMD(PYRNN_GLUE(word, TYPE))                  /* a vector word: fma_f32_avx512 */
#define KERNEL(kernel) SIMD(PYRNN_GLUE(pyrnn_##kernel, TYPE)) /* a kernel: pyrnn_tanh_f32_avx512 */
#define C(constant) PYRNN_GLUE(PHI_##constant, TYPE)
#define N(constant) PYRNN_GLUE(NOISE_##constant, TYPE)
#define VEC V(vec)
#define LANES V(lanes)

/* Prototypes, so that a body that differs from its contract does not compile. */
#define PYRNN_KERNEL(result, kernel, parameters) static result KERNEL(kernel) parameters;
#include "kernels.h"
#undef PYRNN_KERNEL

#include "noise.h"
#include "tanh.h"
#include "softplus.h"

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

static void KERNEL(exp)(ptrdiff_t n, const REAL *x, REAL *y)
{
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) V(store)(y + i, V(exp)(V(load)(x + i)));
    if (i < n) V(store_part)(y + i, n - i, V(exp)(V(load_part)(x + i, n - i)));
}

/* a <= 0 ? 0 : b, and b where a is NaN: nothing is less than the smallest normal number but what is not above 0, or
 * subnormal. A subnormal bound would be 0 in comparisons while subnormal numbers are flushed. */
static inline VEC V(where_active)(VEC a, VEC b) { return V(if_less)(a, V(set)(C(LEAST)), V(set)(0), b); }
static inline VEC V(relu)(VEC a) { return V(where_active)(a, a); }

/* 1 - h², rounded once. */
static inline VEC V(slope)(VEC h) { return V(fma)(V(sub)(V(set)(0), h), h, V(set)(1)); }

/* phi of the pre-activation, and phi' g from h = phi(a). With `others`, of the functions behind PYRNN_IDENTITY, in
 * which each kernel has a body of its own: in the loops of the first three their code would take registers. */
static inline ALWAYS_INLINE VEC V(phi)(const int others, pyrnn_phi phi, VEC a)
{
    if (!others) return phi.kind == PYRNN_TANH ? V(tanh)(a) : phi.kind == PYRNN_RELU ? V(relu)(a) : a;
    switch (phi.kind) {
    case PYRNN_SOFTPLUS:
        return V(softplus)(a);
    case PYRNN_SIGMOID:
        return V(sigmoid)(a);
    case PYRNN_RETANH:
        return V(relu)(V(tanh)(a));
    default:
        return V(if_less)(a, V(set)(C(LEAST)), V(mul)(V(set)((REAL)phi.slope), a), a);
    }
}

static inline ALWAYS_INLINE VEC V(through)(const int others, pyrnn_phi phi, VEC h, VEC g)
{
    if (!others)
        return phi.kind == PYRNN_TANH ? V(mul)(V(slope)(h), g) : phi.kind == PYRNN_RELU ? V(where_active)(h, g) : g;
    switch (phi.kind) {
    case PYRNN_SOFTPLUS:
        return V(mul)(V(softplus_slope)(h), g);
    case PYRNN_SIGMOID:
        return V(mul)(V(fma)(V(sub)(V(set)(0), h), h, h), g);
    case PYRNN_RETANH:
        return V(where_active)(h, V(mul)(V(slope)(h), g));
    default:
        return V(if_less)(h, V(set)(C(LEAST)), V(mul)(V(set)((REAL)phi.slope), g), g);
    }
}

/* A register of memory, or its first n lanes if it has fewer. */
static inline VEC V(load_some)(const REAL *p, ptrdiff_t n) { return n < LANES ? V(load_part)(p, n) : V(load)(p); }
static inline void V(store_some)(REAL *p, ptrdiff_t n, VEC a)
{
    if (n < LANES)
        V(store_part)(p, n, a);
    else
        V(store)(p, a);
}

/* phi decides which body of a kernel runs. */
#define BY_PHI(body, ...)          \
    if (phi.kind > PYRNN_IDENTITY) \
        V(body)(1, __VA_ARGS__);   \
    else                           \
        V(body)(0, __VA_ARGS__)

static inline ALWAYS_INLINE void V(phi_slopes)(const int others, ptrdiff_t n, const REAL *rates, REAL *slopes,
                                               pyrnn_phi phi)
{
    for (ptrdiff_t i = 0; i < n; i += LANES)
        V(store_some)(slopes + i, n - i, V(through)(others, phi, V(load_some)(rates + i, n - i), V(set)(1)));
}

static void KERNEL(phi_slopes)(ptrdiff_t n, const REAL *rates, REAL *slopes, pyrnn_phi phi)
{
    BY_PHI(phi_slopes, n, rates, slopes, phi);
}

static inline ALWAYS_INLINE void V(step_forward)(const int others, ptrdiff_t rows, ptrdiff_t H, const REAL *restrict b,
                                                 REAL *restrict h, ptrdiff_t ld_h, pyrnn_phi phi)
{
    for (ptrdiff_t r = 0; r < rows; r++, h += ld_h)
        for (ptrdiff_t i = 0; i < H; i += LANES) {
            VEC a = V(load_some)(h + i, H - i);
            if (b) a = V(add)(a, V(load_some)(b + i, H - i));
            V(store_some)(h + i, H - i, V(phi)(others, phi, a));
        }
}

/* Tiles of 16 units, of one row or of several. Their places are written down for many tiles at once: a register read
 * from numbers just written would wait until these are in the cache, and all that is before them is done (1.3 times).
 */
static void KERNEL(noise)(uint64_t seed, ptrdiff_t stream, ptrdiff_t rows, ptrdiff_t H, ptrdiff_t step,
                          const ptrdiff_t *steps, ptrdiff_t sequence, const ptrdiff_t *sequences, const REAL *sigma,
                          const REAL *drive, ptrdiff_t ld_drive, const REAL *init, ptrdiff_t ld_init, REAL *out,
                          ptrdiff_t ld)
{
    enum {
        TILE = 16,
        TILES = V(noise_tiles),
        GROUPS = V(noise_groups),
        PLACES = 64,
        PART = LANES < TILE ? LANES : TILE,
    };
    const ptrdiff_t of_a_row = (H + TILE - 1) / TILE, all = rows * of_a_row;
    uint64_t key[20], blocks[PLACES], of_rows[PLACES], times[PLACES];
    SIMD(philox_keys)(seed, key);
    ptrdiff_t row = 0, tile = 0, done_row = 0, done_tile = 0;
    for (ptrdiff_t begin = 0; begin < all; begin += PLACES) {
        const ptrdiff_t here = all - begin < PLACES ? all - begin : PLACES;
        for (ptrdiff_t i = 0; i < here + GROUPS * TILES && i < PLACES; i++) {
            const ptrdiff_t r = row < rows ? row : rows - 1; /* behind the last tile, the last row again */
            blocks[i] = (uint64_t)(4 * tile);
            of_rows[i] = (uint64_t)(sequence + (sequences ? sequences[r] : r));
            times[i] = (uint64_t)(step + (steps ? steps[r] : 0));
            if (++tile == of_a_row) tile = 0, row++;
        }
        for (ptrdiff_t next = 0, made; next < here; next += made) {
            REAL numbers[GROUPS * TILES * TILE];
            made = here - next <= TILES ? TILES : GROUPS * TILES;
            if (made == TILES)
                V(normal_tiles)(1, key, blocks + next, of_rows + next, times + next, (uint64_t)stream, numbers);
            else
                V(normal_tiles)(GROUPS, key, blocks + next, of_rows + next, times + next, (uint64_t)stream, numbers);
            for (ptrdiff_t i = 0; i < made && next + i < here; i++) {
                const ptrdiff_t first = TILE * done_tile, units = H - first < TILE ? H - first : TILE;
                for (ptrdiff_t j = 0; j < units; j += PART) {
                    const ptrdiff_t n = units - j, at = done_row * ld + first + j;
                    VEC a = V(load)(numbers + TILE * i + j);
                    if (sigma) a = V(mul)(a, V(load_some)(sigma + first + j, n));
                    if (drive) a = V(add)(V(load_some)(drive + done_row * ld_drive + first + j, n), a);
                    if (init) a = V(add)(V(load_some)(init + done_row * ld_init + first + j, n), a);
                    V(store_some)(out + at, n, a);
                }
                if (++done_tile == of_a_row) done_tile = 0, done_row++;
            }
        }
    }
}

static void KERNEL(step_forward)(ptrdiff_t rows, ptrdiff_t H, const REAL *b, REAL *h, ptrdiff_t ld_h, pyrnn_phi phi)
{
    BY_PHI(step_forward, rows, H, b, h, ld_h, phi);
}

static inline ALWAYS_INLINE void V(leaky_step_forward)(const int others, ptrdiff_t rows, ptrdiff_t H, const REAL *b,
                                                       const REAL *past, ptrdiff_t ld_past, REAL *h, ptrdiff_t ld_h,
                                                       REAL *rates, ptrdiff_t ld_rates, const REAL *alpha,
                                                       pyrnn_phi phi, int current)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        for (ptrdiff_t i = 0; i < H; i += LANES) {
            const ptrdiff_t n = H - i;
            const VEC leak = V(load_some)(alpha + i, n);
            const VEC old = V(mul)(V(sub)(V(set)(1), leak), V(load_some)(past + i, n));
            VEC a = V(load_some)(h + i, n), rate;
            if (b) a = V(add)(a, V(load_some)(b + i, n));
            if (current) {
                a = V(fma)(leak, a, old);
                rate = V(phi)(others, phi, a);
            } else {
                rate = V(phi)(others, phi, a);
                a = V(fma)(leak, rate, old);
            }
            V(store_some)(h + i, n, a);
            if (rates) V(store_some)(rates + i, n, rate);
        }
        h += ld_h, past += ld_past;
        if (rates) rates += ld_rates;
    }
}

static void KERNEL(leaky_step_forward)(ptrdiff_t rows, ptrdiff_t H, const REAL *b, const REAL *past, ptrdiff_t ld_past,
                                       REAL *h, ptrdiff_t ld_h, REAL *rates, ptrdiff_t ld_rates, const REAL *alpha,
                                       pyrnn_phi phi, int current)
{
    BY_PHI(leaky_step_forward, rows, H, b, past, ld_past, h, ld_h, rates, ld_rates, alpha, phi, current);
}

static inline ALWAYS_INLINE void V(step_backward)(const int others, ptrdiff_t rows, ptrdiff_t H, const REAL *h,
                                                  ptrdiff_t ld_h, const REAL *dh, ptrdiff_t ld_dh, const REAL *back,
                                                  ptrdiff_t ld_back, REAL *grad, ptrdiff_t ld_grad, REAL *delta,
                                                  ptrdiff_t ld_delta, pyrnn_phi phi)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        for (ptrdiff_t i = 0; i < H; i += LANES) {
            const ptrdiff_t n = H - i;
            VEC g = V(load_some)(dh + i, n);
            if (back) g = V(add)(g, V(load_some)(back + i, n));
            if (grad) V(store_some)(grad + i, n, g);
            V(store_some)(delta + i, n, V(through)(others, phi, V(load_some)(h + i, n), g));
        }
        h += ld_h, dh += ld_dh, delta += ld_delta;
        if (back) back += ld_back;
        if (grad) grad += ld_grad;
    }
}

static void KERNEL(step_backward)(ptrdiff_t rows, ptrdiff_t H, const REAL *h, ptrdiff_t ld_h, const REAL *dh,
                                  ptrdiff_t ld_dh, const REAL *back, ptrdiff_t ld_back, REAL *grad, ptrdiff_t ld_grad,
                                  REAL *delta, ptrdiff_t ld_delta, pyrnn_phi phi)
{
    BY_PHI(step_backward, rows, H, h, ld_h, dh, ld_dh, back, ld_back, grad, ld_grad, delta, ld_delta, phi);
}

static inline ALWAYS_INLINE void V(leaky_step_backward)(const int others, ptrdiff_t rows, ptrdiff_t H,
                                                        const REAL *rates, ptrdiff_t ld_rates, const REAL *dh,
                                                        ptrdiff_t ld_dh, const REAL *back, ptrdiff_t ld_back,
                                                        const REAL *past, ptrdiff_t ld_past, REAL *grad,
                                                        ptrdiff_t ld_grad, REAL *delta, ptrdiff_t ld_delta,
                                                        const REAL *alpha, pyrnn_phi phi, int current)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        for (ptrdiff_t i = 0; i < H; i += LANES) {
            const ptrdiff_t n = H - i;
            const VEC leak = V(load_some)(alpha + i, n), rate = V(load_some)(rates + i, n);
            VEC g = V(load_some)(dh + i, n);
            if (back) {
                const VEC keep = V(sub)(V(set)(1), leak), s = V(load_some)(back + i, n);
                const VEC flow =
                    V(fma)(keep, V(load_some)(past + i, n), current ? V(through)(others, phi, rate, s) : s);
                g = V(add)(g, flow);
            }
            V(store_some)(grad + i, n, g);
            V(store_some)(delta + i, n, V(mul)(leak, current ? g : V(through)(others, phi, rate, g)));
        }
        rates += ld_rates, dh += ld_dh, grad += ld_grad, delta += ld_delta;
        if (back) back += ld_back, past += ld_past;
    }
}

static void KERNEL(leaky_step_backward)(ptrdiff_t rows, ptrdiff_t H, const REAL *rates, ptrdiff_t ld_rates,
                                        const REAL *dh, ptrdiff_t ld_dh, const REAL *back, ptrdiff_t ld_back,
                                        const REAL *past, ptrdiff_t ld_past, REAL *grad, ptrdiff_t ld_grad, REAL *delta,
                                        ptrdiff_t ld_delta, const REAL *alpha, pyrnn_phi phi, int current)
{
    BY_PHI(leaky_step_backward, rows, H, rates, ld_rates, dh, ld_dh, back, ld_back, past, ld_past, grad, ld_grad, delta,
           ld_delta, alpha, phi, current);
}

static inline ALWAYS_INLINE void V(jacobian)(const int others, ptrdiff_t H, const REAL *restrict h,
                                             const REAL *restrict W, ptrdiff_t ld_w, REAL *restrict J,
                                             const REAL *restrict alpha, pyrnn_phi phi, int current)
{
    /* The slope of softplus takes an exponential: once a unit. In the current form the last row of J has them until it
     * is written itself. */
    const int costly = others && phi.kind == PYRNN_SOFTPLUS;
    REAL *slopes = J + (H - 1) * H;
    if (costly && current) V(phi_slopes)(others, H, h, slopes, phi);
    for (ptrdiff_t i = 0; i < H; i++, W += ld_w, J += H) {
        const VEC rate = V(set)(h[i]), leak = V(set)(alpha ? alpha[i] : 1);
        const VEC slope = costly && !current ? V(softplus_slope)(rate) : rate;
        for (ptrdiff_t j = 0; j < H; j += LANES) {
            const VEC w = V(load_some)(W + j, H - j);
            VEC s = costly ? V(mul)(current ? V(load_some)(slopes + j, H - j) : slope, w)
                           : V(through)(others, phi, current ? V(load_some)(h + j, H - j) : rate, w);
            if (alpha) s = V(mul)(leak, s);
            V(store_some)(J + j, H - j, s);
        }
        if (alpha) J[i] = (1 - alpha[i]) + J[i];
    }
}

static void KERNEL(jacobian)(ptrdiff_t H, const REAL *h, const REAL *W, ptrdiff_t ld_w, REAL *J, const REAL *alpha,
                             pyrnn_phi phi, int current)
{
    BY_PHI(jacobian, H, h, W, ld_w, J, alpha, phi, current);
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

/* sum += s, and in `lost` what its rounding has lost, which is a number (Knuth). */
static inline void V(add_to_sum)(REAL *sum, REAL *lost, ptrdiff_t n, VEC s)
{
    const VEC old = V(load_some)(sum, n), new = V(add)(old, s);
    V(store_some)(sum, n, new);
    if (lost) {
        const VEC moved = V(sub)(new, old);
        const VEC missing = V(add)(V(sub)(old, V(sub)(new, moved)), V(sub)(s, moved));
        V(store_some)(lost, n, V(add)(V(load_some)(lost, n), missing));
    }
}

static void KERNEL(column_sums)(ptrdiff_t rows, ptrdiff_t n, const REAL *restrict a, ptrdiff_t ld_a, REAL *restrict sum,
                                REAL *restrict lost)
{
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const ptrdiff_t m = n - j < LANES ? n - j : LANES;
        V(add_to_sum)(sum + j, lost ? lost + j : NULL, m, V(column_sum)(rows, m, a + j, ld_a));
    }
}

/* The next m registers of columns, of which the last one has n lanes: side by side, since each sum waits for itself. */
static inline ALWAYS_INLINE void V(products_of_columns)(const int m, ptrdiff_t steps, ptrdiff_t rows, ptrdiff_t n,
                                                        const REAL *g, ptrdiff_t ld_g, const REAL *p, ptrdiff_t p_t,
                                                        ptrdiff_t p_r, const REAL *q, ptrdiff_t q_t, ptrdiff_t q_r,
                                                        REAL *restrict sum, REAL *restrict lost)
{
    VEC total[4], s[4];
    ptrdiff_t count = 0;
    UNROLL for (int c = 0; c < m; c++) total[c] = s[c] = V(set)(0);
    for (ptrdiff_t t = 0; t < steps; t++)
        for (ptrdiff_t r = 0; r < rows; r++) {
            const REAL *g_r = g + count * ld_g, *later = p + t * p_t + r * p_r, *before = q + t * q_t + r * q_r;
            UNROLL for (int c = 0; c < m; c++)
            {
                const ptrdiff_t j = c * LANES, lanes = c < m - 1 ? LANES : n;
                const VEC moved = V(sub)(V(load_some)(later + j, lanes), V(load_some)(before + j, lanes));
                s[c] = V(fma)(V(load_some)(g_r + j, lanes), moved, s[c]);
            }
            if (++count % 16 == 0) UNROLL for (int c = 0; c < m; c++)
                {
                    total[c] = V(add)(total[c], s[c]);
                    s[c] = V(set)(0);
                }
        }
    UNROLL for (int c = 0; c < m; c++)
        V(add_to_sum)(sum + c * LANES, lost + c * LANES, c < m - 1 ? LANES : n, V(add)(total[c], s[c]));
}

static void KERNEL(column_products)(ptrdiff_t steps, ptrdiff_t rows, ptrdiff_t n, const REAL *g, ptrdiff_t ld_g,
                                    const REAL *p, ptrdiff_t p_t, ptrdiff_t p_r, const REAL *q, ptrdiff_t q_t,
                                    ptrdiff_t q_r, REAL *restrict sum, REAL *restrict lost)
{
#define COLUMNS(m, last) \
    V(products_of_columns)(m, steps, rows, last, g + j, ld_g, p + j, p_t, p_r, q + j, q_t, q_r, sum + j, lost + j)
    ptrdiff_t j = 0;
    for (; j + 4 * LANES <= n; j += 4 * LANES) COLUMNS(4, LANES);
    for (; j + 2 * LANES <= n; j += 2 * LANES) COLUMNS(2, LANES);
    for (; j < n; j += LANES) COLUMNS(1, n - j);
#undef COLUMNS
}

static void KERNEL(gather_rows)(ptrdiff_t rows, ptrdiff_t n, const REAL *a, const ptrdiff_t *at, REAL *restrict out,
                                ptrdiff_t ld)
{
    for (ptrdiff_t r = 0; r < rows; r++, out += ld) {
        const REAL *from = a + at[r];
        for (ptrdiff_t i = 0; i < n; i += LANES) V(store_some)(out + i, n - i, V(load_some)(from + i, n - i));
    }
}

static void KERNEL(scatter_rows)(ptrdiff_t rows, ptrdiff_t n, const REAL *restrict a, ptrdiff_t ld, const ptrdiff_t *at,
                                 REAL *out)
{
    for (ptrdiff_t r = 0; r < rows; r++, a += ld) {
        REAL *to = out + at[r];
        for (ptrdiff_t i = 0; i < n; i += LANES) V(store_some)(to + i, n - i, V(load_some)(a + i, n - i));
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
#include "optimizers.inl"

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
#undef N
#undef VEC
#undef LANES
#undef BY_PHI
#endif
