/* The contract of every kernel of floor 1. No kernel allocates, fails, or knows of time.
 *
 * Notation: DESIGN of the equations is in docs/bptt.md; REAL below is float or double, `ld_a` the distance in elements
 * between two rows of `a` (any sign, zero allowed for what is only read). Pointers do not overlap unless a line says
 * so. NaN and inf pass through as in the formulas. Rows and columns may be 0.
 *
 * A call goes through the table that pyrnn_kernels() returns: pyrnn_kernels()->step_forward_f32(...). The functions
 * behind it carry the name of their instruction set, so that a profile shows which path ran:
 * pyrnn_step_forward_f32_avx512.
 *
 * A kernel is declared here and nowhere else: PYRNN_KERNEL(what it returns, its name, its parameters). The file
 * includes itself for the types of the table below, kernels.inl includes it for the prototypes and the rows of the
 * table, kernels_for_cython.py reads it for what Cython has to know. */
#ifdef PYRNN_KERNEL

/* y[i] = tanh(x[i]), i < n. x, y [n], contiguous; y may be x. Error: tanh.h. */
PYRNN_KERNEL(void, tanh, (ptrdiff_t n, const REAL *x, REAL *y))

/* y[i] = 1 - tanh²(x[i]), i < n, without cancellation. x, y [n], contiguous; y may be x. Error: tanh.h. */
PYRNN_KERNEL(void, sech2, (ptrdiff_t n, const REAL *x, REAL *y))

/* y[i] = exp(x[i]), i < n. x, y [n], contiguous; y may be x. Error: softplus.h. */
PYRNN_KERNEL(void, exp, (ptrdiff_t n, const REAL *x, REAL *y))

/* slopes[i] = phi'(a_i) from rates[i] = phi(a_i), i < n. rates, slopes [n], contiguous; slopes may be rates. */
PYRNN_KERNEL(void, phi_slopes, (ptrdiff_t n, const REAL *rates, REAL *slopes, pyrnn_phi phi))

/* The end of a forward step (10.8, 10.9): h = phi(a + b), where a holds U x_t + W h_{t-1}.
 *   h  [rows, H]  stride ld_h   read as a, written as h
 *   b  [H]                      read; NULL for no bias */
PYRNN_KERNEL(void, step_forward, (ptrdiff_t rows, ptrdiff_t H, const REAL *b, REAL *h, ptrdiff_t ld_h, pyrnn_phi phi))

/* The same of a leaky cell: rates = phi(a + b), h = (1 - alpha) past + alpha rates; `current`:
 * h = (1 - alpha) past + alpha (a + b), rates = phi(h).
 *   past   [rows, H]  read: h_{t-1}; not h
 *   rates  [rows, H]  written; NULL if not requested, not h
 *   alpha  [H]        read */
PYRNN_KERNEL(void, leaky_step_forward,
             (ptrdiff_t rows, ptrdiff_t H, const REAL *b, const REAL *past, ptrdiff_t ld_past, REAL *h, ptrdiff_t ld_h,
              REAL *rates, ptrdiff_t ld_rates, const REAL *alpha, pyrnn_phi phi, int current))

/* The end of a backward step (10.21): grad_h = dh + back, delta = phi'(h) grad_h; of tanh, (1 - h²) grad_h.
 *   h, dh   [rows, H]  read
 *   back    [rows, H]  read: Wᵀ delta_{t+1}; NULL for none
 *   grad    [rows, H]  written with grad_h; may be back; NULL if not requested
 *   delta   [rows, H]  written; may be back */
PYRNN_KERNEL(void, step_backward,
             (ptrdiff_t rows, ptrdiff_t H, const REAL *h, ptrdiff_t ld_h, const REAL *dh, ptrdiff_t ld_dh,
              const REAL *back, ptrdiff_t ld_back, REAL *grad, ptrdiff_t ld_grad, REAL *delta, ptrdiff_t ld_delta,
              pyrnn_phi phi))

/* The same of a leaky cell: grad_h = dh + (1 - alpha) past + back, delta = alpha phi'(rates) grad_h; `current`:
 * grad_h = dh + (1 - alpha) past + phi'(rates) back, delta = alpha grad_h. Without back there is no past either.
 *   rates        [rows, H]  read: phi of the step
 *   past         [rows, H]  read: grad_h_{t+1}
 *   grad, delta  [rows, H]  written, both; each may be dh, back or past, delta not grad */
PYRNN_KERNEL(void, leaky_step_backward,
             (ptrdiff_t rows, ptrdiff_t H, const REAL *rates, ptrdiff_t ld_rates, const REAL *dh, ptrdiff_t ld_dh,
              const REAL *back, ptrdiff_t ld_back, const REAL *past, ptrdiff_t ld_past, REAL *grad, ptrdiff_t ld_grad,
              REAL *delta, ptrdiff_t ld_delta, const REAL *alpha, pyrnn_phi phi, int current))

/* Normal noise of one step: out = init + (drive + sigma xi), xi of each unit from its own place (noise.h), so that its
 * bits depend neither on the other rows and units nor on the instruction set.
 *   stream                   from 0 to 2^31 - 1
 *   steps, sequences [rows]  read; row r is of step + steps[r] and of sequence + sequences[r], 32 bits of each;
 *                            without steps all are of `step`, without sequences of sequence, sequence + 1, ...
 *   sigma        [H]         read; NULL for 1
 *   drive, init  [rows, H]   read; NULL for none; each may be out; ld_drive and ld_init may be 0
 *   out          [rows, H]   written */
PYRNN_KERNEL(void, noise,
             (uint64_t seed, ptrdiff_t stream, ptrdiff_t rows, ptrdiff_t H, ptrdiff_t step, const ptrdiff_t *steps,
              ptrdiff_t sequence, const ptrdiff_t *sequences, const REAL *sigma, const REAL *drive, ptrdiff_t ld_drive,
              const REAL *init, ptrdiff_t ld_init, REAL *out, ptrdiff_t ld))

/* One Jacobian (section 10.2.2): J = diag(phi'(h)) W, of tanh row i of W scaled by 1 - h_i². With
 * alpha, of a leaky cell: J = (1 - alpha) I + alpha diag(phi'(h)) W; `current`: J = (1 - alpha) I
 * + alpha W diag(phi'(h)).
 *   h [H]  W [H, H] stride ld_w  alpha [H] or NULL   read
 *   J [H, H] contiguous   written */
PYRNN_KERNEL(void, jacobian,
             (ptrdiff_t H, const REAL *h, const REAL *W, ptrdiff_t ld_w, REAL *J, const REAL *alpha, pyrnn_phi phi,
              int current))

/* sum[j] += Σ_i a[i, j]: of sums of 128 rows, and those of sums of 16. With `lost`, sum + lost is the sum of all
 * that was added in any number of calls, without their roundings.
 *   a          [rows, n] stride ld_a   read
 *   sum, lost  [n]                     read and written; lost may be NULL */
PYRNN_KERNEL(void, column_sums, (ptrdiff_t rows, ptrdiff_t n, const REAL *a, ptrdiff_t ld_a, REAL *sum, REAL *lost))

/* sum[j] += Σ g[i, j] (p[i, j] - q[i, j]) over the rows of all steps, with `lost` as in column_sums.
 *   g          [steps rows, n]   read
 *   p, q       [steps, rows, n]  read; strides of steps and of rows
 *   sum, lost  [n]               read and written */
PYRNN_KERNEL(void, column_products,
             (ptrdiff_t steps, ptrdiff_t rows, ptrdiff_t n, const REAL *g, ptrdiff_t ld_g, const REAL *p, ptrdiff_t p_t,
              ptrdiff_t p_r, const REAL *q, ptrdiff_t q_t, ptrdiff_t q_r, REAL *sum, REAL *lost))

/* out[r] = a[at[r]], and the other way round out[at[r]] = a[r]: rows of n contiguous numbers.
 *   at   [rows]     read: where a row begins, in elements
 *   the other side  [rows, n] stride ld */
PYRNN_KERNEL(void, gather_rows,
             (ptrdiff_t rows, ptrdiff_t n, const REAL *a, const ptrdiff_t *at, REAL *out, ptrdiff_t ld))
PYRNN_KERNEL(void, scatter_rows,
             (ptrdiff_t rows, ptrdiff_t n, const REAL *a, ptrdiff_t ld, const ptrdiff_t *at, REAL *out))

/* times Σ a[i], i < n, in an order of the instruction set's own: to measure reading, not for results. */
PYRNN_KERNEL(REAL, sum, (ptrdiff_t times, ptrdiff_t n, const REAL *a))

/* out[j, i] = a[i, j]: a transposed copy. a [rows, n] stride ld_a, out [n, rows] contiguous. */
PYRNN_KERNEL(void, transpose, (ptrdiff_t rows, ptrdiff_t n, const REAL *a, ptrdiff_t ld_a, REAL *out))

/* Products with packed panels. Each element of A B is one chain of fused multiply-adds in ascending k that
 * begins with zero: its bits depend neither on the other rows nor on the instruction set. */

/* How many numbers the panels of a matrix [K, N] take. */
PYRNN_KERNEL(ptrdiff_t, panels_size, (ptrdiff_t K, ptrdiff_t N))

/* Rows `first` to `first` + steps rows - 1 of the panels of a matrix [K, N]; row first + t rows + r is at
 * B + t ld_t + r ld_r.
 *   B       read            panels  [panels_size]  those rows written */
PYRNN_KERNEL(void, pack,
             (ptrdiff_t K, ptrdiff_t first, ptrdiff_t steps, ptrdiff_t rows, ptrdiff_t N, const REAL *B, ptrdiff_t ld_t,
              ptrdiff_t ld_r, REAL *panels))

/* Rows `first` to `first` + rows - 1 of such panels; row first + r is at B + at[r]. */
PYRNN_KERNEL(void, pack_rows_at,
             (ptrdiff_t K, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t N, const REAL *B, const ptrdiff_t *at,
              REAL *panels))

/* Panels of the transpose of B [N, K], stride ld_b: the same as pack of a transposed copy. */
PYRNN_KERNEL(void, pack_transposed, (ptrdiff_t K, ptrdiff_t N, const REAL *B, ptrdiff_t ld_b, REAL *panels))

/* out = init + A B, the product first.
 *   A     [rows, K]  read       panels of B [K, N]  read
 *   init  [rows, N]  read; NULL for zeros; ld_init 0 for one row that all begin with; may be out
 *   out   [rows, N]  written; not A */
PYRNN_KERNEL(void, product,
             (ptrdiff_t rows, ptrdiff_t K, ptrdiff_t N, const REAL *A, ptrdiff_t ld_a, const REAL *panels,
              const REAL *init, ptrdiff_t ld_init, REAL *out, ptrdiff_t ld_out))

/* Narrow panels of D [K, M], K M numbers: as many columns each as a tile of outer has rows, the last one fewer.
 *   D  [K, M]  read       panels [K M]  written */
PYRNN_KERNEL(void, pack_narrow, (ptrdiff_t K, ptrdiff_t M, const REAL *D, ptrdiff_t ld_d, REAL *panels))

/* C = Dᵀ X, or C += Dᵀ X where accumulate: the sum of K outer products, of 128 at a time in one chain.
 *   D  [K, M]  read: with ld_d 0, narrow panels of it       panels of X [K, N]  read
 *   C  [M, N]  written, read where accumulate */
PYRNN_KERNEL(void, outer,
             (ptrdiff_t K, ptrdiff_t M, ptrdiff_t N, const REAL *D, ptrdiff_t ld_d, const REAL *X, int accumulate,
              REAL *C, ptrdiff_t ld_c))

/* Both in one pass over X for M from 1 to 4: P = D A as by `product`, and C = Dᵀ X, or C += Dᵀ X where accumulate, as
 * by `outer`, with the same bits. D  [K, M]  A  [M, N]  X  [K, N]  read, none of them packed P  [K, N]  written C  [M,
 * N]  written, read where accumulate */
PYRNN_KERNEL(void, product_and_outer,
             (ptrdiff_t K, ptrdiff_t M, ptrdiff_t N, const REAL *D, ptrdiff_t ld_d, const REAL *A, ptrdiff_t ld_a,
              const REAL *X, ptrdiff_t ld_x, REAL *P, ptrdiff_t ld_p, int accumulate, REAL *C, ptrdiff_t ld_c))

/* A forward step (10.8, 10.9) for `rows` sequences: h = phi(init + U x + W previous).
 *   x         [rows, inputs]  read; of 0 inputs where init has U x     panels of Uᵀ  read
 *   previous  [rows, H]       read; not h                               panels of Wᵀ  read
 *   init      [rows, H]       read: b with ld_init 0, or NULL for zeros; may be h
 *   h         [rows, H]       written
 *   copy      [rows, H]       written with h too; NULL for none
 * odd: 0 and 1 from step to step, so that few rows find panels in the cache that the step before has left there.
 */
PYRNN_KERNEL(void, fused_forward,
             (ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t H, const REAL *x, ptrdiff_t ld_x, const REAL *panels_U,
              const REAL *previous, ptrdiff_t ld_previous, const REAL *panels_W, const REAL *init, ptrdiff_t ld_init,
              REAL *h, ptrdiff_t ld_h, REAL *copy, ptrdiff_t ld_copy, pyrnn_phi phi, int odd))

/* A backward step (10.21) for `rows` sequences: grad_h = dh + Wᵀ later, delta = phi'(h) grad_h.
 *   later    [rows, H]  read: delta_{t+1}; not delta       panels of W  read
 *   h, dh    [rows, H]  read
 *   grad     [rows, H]  written with grad_h; NULL if not requested
 *   delta    [rows, H]  written; may be dh
 * odd: as in fused_forward. */
PYRNN_KERNEL(void, fused_backward,
             (ptrdiff_t rows, ptrdiff_t H, const REAL *later, ptrdiff_t ld_later, const REAL *panels, const REAL *h,
              ptrdiff_t ld_h, const REAL *dh, ptrdiff_t ld_dh, REAL *grad, ptrdiff_t ld_grad, REAL *delta,
              ptrdiff_t ld_delta, pyrnn_phi phi, int odd))

/* A forward step of a leaky cell: rates = phi(init + U x + W previous), h = (1 - alpha) past + alpha rates;
 * `current`: h = (1 - alpha) past + alpha (init + U x + W previous), rates = phi(h).
 *   x, previous, init and the panels as in fused_forward; previous: h_{t-1}, or in the current form phi of it
 *   past   [rows, H]  read: h_{t-1}; not h, may be previous
 *   h      [rows, H]  written
 *   copy   [rows, H]  written with what the next step needs as `previous`; NULL for none
 *   rates  [rows, H]  written; NULL for none
 *   alpha  [H]        read */
PYRNN_KERNEL(void, leaky_forward,
             (ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t H, const REAL *x, ptrdiff_t ld_x, const REAL *panels_U,
              const REAL *previous, ptrdiff_t ld_previous, const REAL *panels_W, const REAL *init, ptrdiff_t ld_init,
              const REAL *past, ptrdiff_t ld_past, REAL *h, ptrdiff_t ld_h, REAL *copy, ptrdiff_t ld_copy, REAL *rates,
              ptrdiff_t ld_rates, const REAL *alpha, pyrnn_phi phi, int current, int odd))

/* A backward step of a leaky cell: grad_h = dh + (1 - alpha) past + Wᵀ later, delta = alpha phi'(rates) grad_h;
 * `current`: grad_h = dh + (1 - alpha) past + phi'(rates) Wᵀ later, delta = alpha grad_h.
 *   later        [rows, H]  read: delta_{t+1}; not delta       panels of W  read
 *   rates, dh    [rows, H]  read; ld_dh may be 0
 *   past         [rows, H]  read: grad_h_{t+1}; not grad
 *   grad, delta  [rows, H]  written */
PYRNN_KERNEL(void, leaky_backward,
             (ptrdiff_t rows, ptrdiff_t H, const REAL *later, ptrdiff_t ld_later, const REAL *panels, const REAL *rates,
              ptrdiff_t ld_rates, const REAL *dh, ptrdiff_t ld_dh, const REAL *past, ptrdiff_t ld_past, REAL *grad,
              ptrdiff_t ld_grad, REAL *delta, ptrdiff_t ld_delta, const REAL *alpha, pyrnn_phi phi, int current,
              int odd))

/* A step of stochastic gradient descent, s = power scale g + decay p, with a buffer b = momentum b + weight s, in the
 * first step b = s; p -= rate b, of Nesterov's p -= rate (s + momentum b). Without a buffer p -= rate s.
 *   g       [n]  read; power scale is the factor of clipping, in two parts where it is too small for a REAL
 *   buffer  [n]  read but in the first step, and written; NULL for none
 *   p       [n]  read and written */
PYRNN_KERNEL(void, sgd,
             (ptrdiff_t n, const REAL *g, REAL power, REAL scale, REAL decay, REAL momentum, REAL weight, REAL rate,
              int first, int nesterov, REAL *buffer, REAL *p))

/* A step of Adam, s = power scale g + decay p: mean += weight (s - mean), square = keep square + square_weight s²,
 * largest = max(largest, square), p = shrink p - rate mean / (sqrt(largest) / correction + eps); without `largest`,
 * of square.
 *   g              [n]  read, as in sgd
 *   mean, square   [n]  read and written
 *   largest        [n]  read and written; NULL for none
 *   p              [n]  read and written */
PYRNN_KERNEL(void, adam,
             (ptrdiff_t n, const REAL *g, REAL power, REAL scale, REAL decay, REAL shrink, REAL weight, REAL keep,
              REAL square_weight, REAL correction, REAL eps, REAL rate, REAL *mean, REAL *square, REAL *largest,
              REAL *p))

/* A step of RMSprop, s = power scale g + decay p: square = keep square + weight s², mean += weight (s - mean),
 * d = sqrt(square - mean²) + eps, buffer = momentum buffer + s / d, p -= rate buffer; without a mean d of square alone,
 * without a buffer p -= rate s / d.
 *   g             [n]  read, as in sgd
 *   square        [n]  read and written
 *   mean, buffer  [n]  read and written; NULL for none
 *   p             [n]  read and written */
PYRNN_KERNEL(void, rmsprop,
             (ptrdiff_t n, const REAL *g, REAL power, REAL scale, REAL decay, REAL keep, REAL weight, REAL momentum,
              REAL eps, REAL rate, REAL *square, REAL *mean, REAL *buffer, REAL *p))

/* Σ (factor a[i]) (factor b[i]) in double, i < n: sixteen sums side by side, in blocks of 1024 numbers. b may be a. */
PYRNN_KERNEL(double, dot, (ptrdiff_t n, const REAL *a, const REAL *b, double factor))

/* y[i] += factor x[i], i < n, rounded once. */
PYRNN_KERNEL(void, add_multiple, (ptrdiff_t n, REAL factor, const REAL *x, REAL *y))

/* For measuring a processor: n times s = a[0] s + a[1] on as many registers as the sums of the widest tile take,
 * without memory and without one waiting for another. a[0] becomes the least s. Returns the flops. */
PYRNN_KERNEL(ptrdiff_t, multiply_adds, (ptrdiff_t n, REAL *a))

#elif !defined(PYRNN_KERNELS_H)
#define PYRNN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* phi of a cell: its number, and of PYRNN_LEAKY_RELU the slope below 0, which is at least 0. */
enum {
    PYRNN_TANH,
    PYRNN_RELU,
    PYRNN_IDENTITY,
    PYRNN_SOFTPLUS,
    PYRNN_SIGMOID,
    PYRNN_RETANH, /* relu of tanh */
    PYRNN_LEAKY_RELU
};
typedef struct {
    int kind;
    double slope;
} pyrnn_phi;

typedef struct {
    const char *name; /* of the instruction set */
#define REAL float
#define PYRNN_KERNEL(result, kernel, parameters) result(*kernel##_f32) parameters;
#include "kernels.h"
#undef PYRNN_KERNEL
#undef REAL
#define REAL double
#define PYRNN_KERNEL(result, kernel, parameters) result(*kernel##_f64) parameters;
#include "kernels.h"
#undef PYRNN_KERNEL
#undef REAL
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
