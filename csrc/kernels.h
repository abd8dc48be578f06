/* The contract of every kernel of floor 1. No kernel allocates, fails, or knows of time.
 *
 * Notation: DESIGN of the equations is in docs/bptt.md; T below is f32 (float) or f64 (double), `ld_a` the distance in
 * elements between two rows of `a` (any sign, zero allowed for what is only read). Pointers do not overlap unless a
 * line says so. NaN and inf pass through as in the formulas. Rows and columns may be 0.
 *
 * A call goes through the table that pyrnn_kernels() returns. The functions behind it carry the name of their
 * instruction set, so that a profile shows which path ran: pyrnn_step_forward_f32_avx512. */
#ifndef PYRNN_KERNELS_H
#define PYRNN_KERNELS_H

#include <stddef.h>

/* phi of a cell. */
enum { PYRNN_TANH, PYRNN_RELU, PYRNN_IDENTITY };

#define PYRNN_DECLARE(R, T)                                                                                            \
    /* y[i] = tanh(x[i]), i < n. x, y [n], contiguous; y may be x. Error: tanh.h. */                                   \
    void (*tanh_##T)(ptrdiff_t n, const R *x, R *y);                                                                   \
                                                                                                                       \
    /* y[i] = 1 - tanh²(x[i]), i < n, without cancellation. x, y [n], contiguous; y may be x. Error: tanh.h. */       \
    void (*sech2_##T)(ptrdiff_t n, const R *x, R *y);                                                                  \
                                                                                                                       \
    /* The end of a forward step (10.8, 10.9): h = phi(a + b), where a holds U x_t + W h_{t-1}.                        \
     *   h  [rows, H]  stride ld_h   read as a, written as h                                                           \
     *   b  [H]                      read; NULL for no bias */                                                         \
    void (*step_forward_##T)(ptrdiff_t rows, ptrdiff_t H, const R *b, R *h, ptrdiff_t ld_h, int phi);                  \
                                                                                                                       \
    /* The same of a leaky cell: rates = phi(a + b), h = (1 - alpha) past + alpha rates; `current`:                    \
     * h = (1 - alpha) past + alpha (a + b), rates = phi(h).                                                           \
     *   past   [rows, H]  read: h_{t-1}; not h                                                                        \
     *   rates  [rows, H]  written; NULL if nobody asks, not h                                                         \
     *   alpha  [H]        read */                                                                                     \
    void (*leaky_step_forward_##T)(ptrdiff_t rows, ptrdiff_t H, const R *b, const R *past, ptrdiff_t ld_past, R *h,    \
                                   ptrdiff_t ld_h, R *rates, ptrdiff_t ld_rates, const R *alpha, int phi,              \
                                   int current);                                                                       \
                                                                                                                       \
    /* The end of a backward step (10.21): grad_h = dh + back, delta = phi'(h) grad_h; of tanh, (1 - h²) grad_h.      \
     *   h, dh   [rows, H]  read                                                                                       \
     *   back    [rows, H]  read: Wᵀ delta_{t+1}; NULL for none                                                      \
     *   grad    [rows, H]  written with grad_h; may be back; NULL if nobody asks                                      \
     *   delta   [rows, H]  written; may be back */                                                                    \
    void (*step_backward_##T)(ptrdiff_t rows, ptrdiff_t H, const R *h, ptrdiff_t ld_h, const R *dh, ptrdiff_t ld_dh,   \
                              const R *back, ptrdiff_t ld_back, R *grad, ptrdiff_t ld_grad, R *delta,                  \
                              ptrdiff_t ld_delta, int phi);                                                            \
                                                                                                                       \
    /* The same of a leaky cell: grad_h = dh + (1 - alpha) past + back, delta = alpha phi'(rates) grad_h; `current`:   \
     * grad_h = dh + (1 - alpha) past + phi'(rates) back, delta = alpha grad_h. Without back there is no past either.  \
     *   rates        [rows, H]  read: phi of the step                                                                 \
     *   past         [rows, H]  read: grad_h_{t+1}                                                                    \
     *   grad, delta  [rows, H]  written, both; each may be dh, back or past, delta not grad */                        \
    void (*leaky_step_backward_##T)(ptrdiff_t rows, ptrdiff_t H, const R *rates, ptrdiff_t ld_rates, const R *dh,      \
                                    ptrdiff_t ld_dh, const R *back, ptrdiff_t ld_back, const R *past,                  \
                                    ptrdiff_t ld_past, R *grad, ptrdiff_t ld_grad, R *delta, ptrdiff_t ld_delta,       \
                                    const R *alpha, int phi, int current);                                             \
                                                                                                                       \
    /* One Jacobian (section 10.2.2): J = diag(phi'(h)) W, of tanh row i of W scaled by 1 - h_i². With                \
     * alpha, of a leaky cell: J = (1 - alpha) I + alpha diag(phi'(h)) W; `current`: J = (1 - alpha) I                 \
     * + alpha W diag(phi'(h)).                                                                                        \
     *   h [H]  W [H, H] stride ld_w  alpha [H] or NULL   read                                                         \
     *   J [H, H] contiguous   written */                                                                              \
    void (*jacobian_##T)(ptrdiff_t H, const R *h, const R *W, ptrdiff_t ld_w, R *J, const R *alpha, int phi,           \
                         int current);                                                                                 \
                                                                                                                       \
    /* sum[j] += Σ_i a[i, j]: of sums of 128 rows, and those of sums of 16. With `lost`, sum + lost is the sum of all \
     * that was added in any number of calls, without their roundings.                                                 \
     *   a          [rows, n] stride ld_a   read                                                                       \
     *   sum, lost  [n]                     read and written; lost may be NULL */                                      \
    void (*column_sums_##T)(ptrdiff_t rows, ptrdiff_t n, const R *a, ptrdiff_t ld_a, R *sum, R *lost);                 \
                                                                                                                       \
    /* sum[j] += Σ g[i, j] (p[i, j] - q[i, j]) over so many rows of so many steps, with `lost` as in column_sums.     \
     *   g          [steps rows, n]   read                                                                             \
     *   p, q       [steps, rows, n]  read; strides of steps and of rows                                               \
     *   sum, lost  [n]               read and written */                                                              \
    void (*column_products_##T)(ptrdiff_t steps, ptrdiff_t rows, ptrdiff_t n, const R *g, ptrdiff_t ld_g, const R *p,  \
                                ptrdiff_t p_t, ptrdiff_t p_r, const R *q, ptrdiff_t q_t, ptrdiff_t q_r, R *sum,        \
                                R *lost);                                                                              \
                                                                                                                       \
    /* out[r] = a[at[r]], and the other way round out[at[r]] = a[r]: rows of n contiguous numbers.                     \
     *   at   [rows]     read: where a row begins, in elements                                                         \
     *   the other side  [rows, n] stride ld */                                                                        \
    void (*gather_rows_##T)(ptrdiff_t rows, ptrdiff_t n, const R *a, const ptrdiff_t *at, R *out, ptrdiff_t ld);       \
    void (*scatter_rows_##T)(ptrdiff_t rows, ptrdiff_t n, const R *a, ptrdiff_t ld, const ptrdiff_t *at, R *out);      \
                                                                                                                       \
    /* times Σ a[i], i < n, in an order of the instruction set's own: to measure reading, not for results. */         \
    R (*sum_##T)(ptrdiff_t times, ptrdiff_t n, const R *a);                                                            \
                                                                                                                       \
    /* out[j, i] = a[i, j]: a transposed copy. a [rows, n] stride ld_a, out [n, rows] contiguous. */                   \
    void (*transpose_##T)(ptrdiff_t rows, ptrdiff_t n, const R *a, ptrdiff_t ld_a, R *out);                            \
                                                                                                                       \
    /* Products with packed panels. Each element of A B is one chain of fused multiply-adds in ascending k that        \
     * begins with zero: its bits depend neither on the other rows nor on the instruction set.                         \
 \                                                                                                                     \
     * How many numbers the panels of a matrix [K, N] take. */                                                         \
    ptrdiff_t (*panels_size_##T)(ptrdiff_t K, ptrdiff_t N);                                                            \
                                                                                                                       \
    /* Rows `first` to `first` + steps rows - 1 of the panels of a matrix [K, N]; row first + t rows + r is at         \
     * B + t ld_t + r ld_r.                                                                                            \
     *   B       read            panels  [panels_size]  those rows written */                                          \
    void (*pack_##T)(ptrdiff_t K, ptrdiff_t first, ptrdiff_t steps, ptrdiff_t rows, ptrdiff_t N, const R *B,           \
                     ptrdiff_t ld_t, ptrdiff_t ld_r, R *panels);                                                       \
                                                                                                                       \
    /* Rows `first` to `first` + rows - 1 of such panels; row first + r is at B + at[r]. */                            \
    void (*pack_rows_at_##T)(ptrdiff_t K, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t N, const R *B,                    \
                             const ptrdiff_t *at, R *panels);                                                          \
                                                                                                                       \
    /* Panels of the transpose of B [N, K], stride ld_b: the same as pack of a transposed copy. */                     \
    void (*pack_transposed_##T)(ptrdiff_t K, ptrdiff_t N, const R *B, ptrdiff_t ld_b, R *panels);                      \
                                                                                                                       \
    /* out = init + A B, the product first.                                                                            \
     *   A     [rows, K]  read       panels of B [K, N]  read                                                          \
     *   init  [rows, N]  read; NULL for zeros; ld_init 0 for one row that all begin with; may be out                  \
     *   out   [rows, N]  written; not A */                                                                            \
    void (*product_##T)(ptrdiff_t rows, ptrdiff_t K, ptrdiff_t N, const R *A, ptrdiff_t ld_a, const R *panels,         \
                        const R *init, ptrdiff_t ld_init, R *out, ptrdiff_t ld_out);                                   \
                                                                                                                       \
    /* Narrow panels of D [K, M], K M numbers: as many columns each as a tile of outer has rows, the last one fewer.   \
     *   D  [K, M]  read       panels [K M]  written */                                                                \
    void (*pack_narrow_##T)(ptrdiff_t K, ptrdiff_t M, const R *D, ptrdiff_t ld_d, R *panels);                          \
                                                                                                                       \
    /* C = Dᵀ X, or C += Dᵀ X where accumulate: the sum of K outer products, of 128 at a time in one chain.        \
     *   D  [K, M]  read: with ld_d 0, narrow panels of it       panels of X [K, N]  read                              \
     *   C  [M, N]  written, read where accumulate */                                                                  \
    void (*outer_##T)(ptrdiff_t K, ptrdiff_t M, ptrdiff_t N, const R *D, ptrdiff_t ld_d, const R *X, int accumulate,   \
                      R *C, ptrdiff_t ld_c);                                                                           \
                                                                                                                       \
    /* A forward step (10.8, 10.9) for `rows` sequences: h = phi(init + U x + W previous).                             \
     *   x         [rows, inputs]  read; of 0 inputs where init has U x     panels of Uᵀ  read                       \
     *   previous  [rows, H]       read; not h                               panels of Wᵀ  read                      \
     *   init      [rows, H]       read: b with ld_init 0, or NULL for zeros; may be h                                 \
     *   h         [rows, H]       written                                                                             \
     *   copy      [rows, H]       written with h too; NULL for none                                                   \
     * odd: 0 and 1 from step to step, so that few rows find panels in the cache that the step before has left there.  \
     */                                                                                                                \
    void (*fused_forward_##T)(ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t H, const R *x, ptrdiff_t ld_x,               \
                              const R *panels_U, const R *previous, ptrdiff_t ld_previous, const R *panels_W,          \
                              const R *init, ptrdiff_t ld_init, R *h, ptrdiff_t ld_h, R *copy, ptrdiff_t ld_copy,      \
                              int phi, int odd);                                                                       \
                                                                                                                       \
    /* A backward step (10.21) for `rows` sequences: grad_h = dh + Wᵀ later, delta = phi'(h) grad_h.                 \
     *   later    [rows, H]  read: delta_{t+1}; not delta       panels of W  read                                      \
     *   h, dh    [rows, H]  read                                                                                      \
     *   grad     [rows, H]  written with grad_h; NULL if nobody asks                                                  \
     *   delta    [rows, H]  written; may be dh                                                                        \
     * odd: as in fused_forward. */                                                                                    \
    void (*fused_backward_##T)(ptrdiff_t rows, ptrdiff_t H, const R *later, ptrdiff_t ld_later, const R *panels,       \
                               const R *h, ptrdiff_t ld_h, const R *dh, ptrdiff_t ld_dh, R *grad, ptrdiff_t ld_grad,   \
                               R *delta, ptrdiff_t ld_delta, int phi, int odd);                                        \
                                                                                                                       \
    /* A forward step of a leaky cell: rates = phi(init + U x + W previous), h = (1 - alpha) past + alpha rates;       \
     * `current`: h = (1 - alpha) past + alpha (init + U x + W previous), rates = phi(h).                              \
     *   x, previous, init and the panels as in fused_forward; previous: h_{t-1}, or in the current form phi of it     \
     *   past   [rows, H]  read: h_{t-1}; not h, may be previous                                                       \
     *   h      [rows, H]  written                                                                                     \
     *   copy   [rows, H]  written with what the next step needs as `previous`; NULL for none                          \
     *   rates  [rows, H]  written; NULL for none                                                                      \
     *   alpha  [H]        read */                                                                                     \
    void (*leaky_forward_##T)(ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t H, const R *x, ptrdiff_t ld_x,               \
                              const R *panels_U, const R *previous, ptrdiff_t ld_previous, const R *panels_W,          \
                              const R *init, ptrdiff_t ld_init, const R *past, ptrdiff_t ld_past, R *h,                \
                              ptrdiff_t ld_h, R *copy, ptrdiff_t ld_copy, R *rates, ptrdiff_t ld_rates,                \
                              const R *alpha, int phi, int current, int odd);                                          \
                                                                                                                       \
    /* A backward step of a leaky cell: grad_h = dh + (1 - alpha) past + Wᵀ later, delta = alpha phi'(rates) grad_h; \
     * `current`: grad_h = dh + (1 - alpha) past + phi'(rates) Wᵀ later, delta = alpha grad_h.                       \
     *   later        [rows, H]  read: delta_{t+1}; not delta       panels of W  read                                  \
     *   rates, dh    [rows, H]  read; ld_dh may be 0                                                                  \
     *   past         [rows, H]  read: grad_h_{t+1}; not grad                                                          \
     *   grad, delta  [rows, H]  written */                                                                            \
    void (*leaky_backward_##T)(ptrdiff_t rows, ptrdiff_t H, const R *later, ptrdiff_t ld_later, const R *panels,       \
                               const R *rates, ptrdiff_t ld_rates, const R *dh, ptrdiff_t ld_dh, const R *past,        \
                               ptrdiff_t ld_past, R *grad, ptrdiff_t ld_grad, R *delta, ptrdiff_t ld_delta,            \
                               const R *alpha, int phi, int current, int odd);                                         \
                                                                                                                       \
    /* For measuring a processor: n times s = a[0] s + a[1] on as many registers as the sums of the widest tile take,  \
     * without memory and without one waiting for another. a[0] becomes the least s. Returns the flops. */             \
    ptrdiff_t (*multiply_adds_##T)(ptrdiff_t n, R * a);

typedef struct {
    const char *name; /* of the instruction set */
    PYRNN_DECLARE(float, f32)
    PYRNN_DECLARE(double, f64)
} pyrnn_kernel_table;

/* The kernels in use: those that pyrnn_select chose last, or else those of the best instruction set that the processor
 * has, which the first call finds out. Never NULL; a table is never changed. Any threads may call it at any time. */
const pyrnn_kernel_table *pyrnn_kernels(void);

/* Switch to the named instruction set ("base", "avx2", "avx512", "neon"), or to the best if name is NULL.
 * Returns 0, or -1 and changes nothing if this processor or this build does not have it. A thread that is at work then
 * may see both tables: meant for load time and for tests. */
int pyrnn_select(const char *name);

/* The i-th instruction set of this build and this processor, best first; NULL after the last. */
const char *pyrnn_available(int i);

/* The compiler that these kernels were compiled with, and its version. */
extern const char *const pyrnn_compiler;

#endif
