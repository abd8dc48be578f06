"""Time: forward, backward and state gradients by BLAS products and the fused ends of a step.

Letters and equation numbers: docs/bptt.md. A sequence [T, B, N] comes as a pointer and two strides in elements, of
time and of batch, with rows of N contiguous numbers; matrices have contiguous rows and a stride `ld`. Outputs of
this module's own making are contiguous. The functions that Python calls expect checked arrays of one dtype and
allocate all memory before they give up the GIL.

What does not depend on the recurrence is merged over a chunk of time into one product: U x_t in forward; dx, dU, dW
and db in backward. The memory beside inputs and outputs does not grow with T. A chunk of a sequence has 512 rows, so
that dW is not read and written too often, but 256 KB at least and 4 MB at most. Measured in the fused engine, one
thread: 512 KB against 4 MB is within 3 % up to H = 256, and at H = 1000 slower by 7 % in float32, by 25 % in float64.
"""

cimport numpy as cnp
from libc.string cimport memcpy, memset

from pyrnn._core.arrays cimport (
    AS_MATRIX, CONTIGUOUS, IN_ROWS, OPTIONAL, WRITTEN, data, empty, fits, gather, interrupted, kind_of, need, pass_on,
    pyrnn_seconds, real, stride, usable,
)
from pyrnn._core.blas cimport by_rows
from pyrnn._core.profile cimport (
    BACKWARD_RECURRENCE, FORWARD_RECURRENCE, INPUT_GRADIENTS, INPUT_PRODUCT, JACOBIAN, OUTPUT, OUTPUT_GRADIENTS, PACK,
    WEIGHT_GRADIENTS, begin, lap,
)
from pyrnn._core.table cimport flush_subnormals, restore_subnormals
from pyrnn._core.typed cimport (
    column_sums, gemm, jacobian as jacobian_step, leaky_step_backward, leaky_step_forward, step_backward, step_forward,
    transpose,
)

cnp.import_array()

cdef enum:  # what a chunk should have; dW, which may be larger than a cache, is read and written once in each
    ROWS = 512
    LEAST_BYTES = 1 << 18
    MOST_BYTES = 1 << 22

cdef Py_ssize_t FORCED_BYTES = 0  # of a chunk, if not 0


# ---- Time and chunks ------------------------------------------------------------------------------------------------
cdef Py_ssize_t chunk_steps(Py_ssize_t T, Py_ssize_t B, Py_ssize_t N, Py_ssize_t itemsize) noexcept nogil:
    """How many steps of B rows of N numbers make a chunk: at least one, at most T."""
    cdef Py_ssize_t row = max(N * itemsize, 1), size = FORCED_BYTES
    if size == 0:
        size = min(max(ROWS * row, LEAST_BYTES), MOST_BYTES)
    return max(1, min(T, size // (max(B, 1) * row)))


cdef inline bint one_stride(Py_ssize_t T, Py_ssize_t B, Py_ssize_t N, Py_ssize_t st, Py_ssize_t sb) noexcept nogil:
    """Whether T x B rows lie at one distance that BLAS accepts: [T, B, N] is then a matrix of T B rows."""
    return (B == 1 or sb >= N) and (T == 1 or (st == B * sb if B > 1 else st >= N))


cdef const real *rows_of(Py_ssize_t T, Py_ssize_t B, Py_ssize_t N, const real *a, Py_ssize_t st, Py_ssize_t sb,
                         real *copy, Py_ssize_t *ld) noexcept nogil:
    """a [T, B, N] as a matrix of T B rows and its stride: in place if it is one, else copied into `copy`."""
    if one_stride(T, B, N, st, sb):
        ld[0] = sb if B > 1 else st
        return a
    gather(T, B, N, a, st, sb, copy)
    ld[0] = N
    return copy


# ---- Merged over time: the input product and what belongs to it -----------------------------------------------------
cdef void merged_product(Py_ssize_t T, Py_ssize_t B, Py_ssize_t I, Py_ssize_t H, const real *x, Py_ssize_t xt,
                         Py_ssize_t xb, const real *U, Py_ssize_t ld_u, real *a, Py_ssize_t at, Py_ssize_t ab,
                         real *copy) noexcept nogil:
    """a_t = U x_t, all t at once where the rows of a allow it."""
    cdef Py_ssize_t t, ld
    cdef const real *rows = rows_of(T, B, I, x, xt, xb, copy, &ld)
    if one_stride(T, B, H, at, ab):
        gemm(False, True, T * B, H, I, rows, ld, U, ld_u, False, a, ab if B > 1 else at)
    else:
        for t in range(T):
            gemm(False, True, B, H, I, rows + t * B * ld, ld, U, ld_u, False, a + t * at, ab)


cdef void merged_gradient(Py_ssize_t T, Py_ssize_t B, Py_ssize_t H, Py_ssize_t N, const real *delta, Py_ssize_t ld_d,
                          const real *x, Py_ssize_t xt, Py_ssize_t xb, bint accumulate, real *dU,
                          real *copy) noexcept nogil:
    """dU = Σ_t delta_t x_tᵀ, or +=: the sum over time and batch is the inner sum of one product   (10.24-10.28)"""
    cdef Py_ssize_t ld
    cdef const real *rows = rows_of(T, B, N, x, xt, xb, copy, &ld)
    gemm(True, False, H, N, T * B, delta, ld_d, rows, ld, accumulate, dU, N)


cdef inline void add_rows(Py_ssize_t rows, Py_ssize_t H, const real *a, Py_ssize_t ld_a, real *out,
                          Py_ssize_t ld) noexcept nogil:
    """out += a."""
    cdef Py_ssize_t i, j
    for i in range(rows):
        for j in range(H):
            out[i * ld + j] += a[i * ld_a + j]


# ---- Forward --------------------------------------------------------------------------------------------------------
cdef int forward_loop(real tag, Job *job, const real *U, Py_ssize_t ld_u, const real *W, Py_ssize_t ld_w,
                      bint transposed, real *copy) noexcept nogil:
    cdef Py_ssize_t B = job.B, I = job.inputs, H = job.H, c, t, start, stop, n, rows
    cdef Py_ssize_t ld_fed = job.ld_fed0, ld_past = job.ld_h0
    cdef const real *fed = <const real *>job.fed0
    cdef const real *past = <const real *>job.h0
    cdef const real *x
    cdef real *h_t
    cdef double since = pyrnn_seconds()
    cdef long long clock = begin()
    for c in range(job.chunks):
        start, stop = job.starts[c], job.starts[c + 1]
        rows = rows_before(job, stop) - rows_before(job, start)
        x, h_t = <const real *>job.x.first + at(job, &job.x, start, 0), <real *>job.h.first + at(job, &job.h, start, 0)
        if job.offsets == NULL:
            merged_product(stop - start, B, I, H, x, job.x.st, job.x.sb, U, ld_u, h_t, job.h.st, job.h.sb, copy)
        else:
            merged_product(1, rows, I, H, x, 0, job.x.sb, U, ld_u, h_t, 0, job.h.sb, copy)
        clock = lap(clock, INPUT_PRODUCT, 0, sizeof(real), 2.0 * rows * H * I,
                    <double>rows * (I + H) + (H * I if start == 0 else 0))
        for t in range(start, stop):
            n = present(job, t, 0, B)
            h_t = <real *>job.h.first + at(job, &job.h, t, 0)
            # a_t = b + U x_t + W h_{t-1}                                    (10.8)
            if job.drive.first != NULL:
                add_rows(n, H, <const real *>job.drive.first + at(job, &job.drive, t, 0), job.drive.sb, h_t, job.h.sb)
            gemm(False, not transposed, n, H, H, fed, ld_fed, W, ld_w, True, h_t, job.h.sb)
            # h_t = tanh(a_t)                                                (10.9)
            if job.leaky:
                leaky_step_forward(n, H, <const real *>job.b, past, ld_past, h_t, job.h.sb,
                                   <real *>job.rates.first + at(job, &job.rates, t, 0), job.rates.sb,
                                   <const real *>job.alpha, job.phi, job.current)
            else:
                step_forward(n, H, <const real *>job.b, h_t, job.h.sb, job.phi)
            past, ld_past = h_t, job.h.sb
            fed, ld_fed = <const real *>job.fed.first + at(job, &job.fed, t, 0), job.fed.sb
        clock = lap(clock, FORWARD_RECURRENCE, 0, sizeof(real), 2.0 * rows * H * H,
                    2.0 * rows * H + (H * H + B * H if start == 0 else 0))
        if interrupted(&since):
            return -1
    return 0


# ---- Backward -------------------------------------------------------------------------------------------------------
cdef void step_back(real tag, const Job *job, Py_ssize_t t, const real *dh, Py_ssize_t ld_dh, const real *rates,
                    Py_ssize_t ld_rates, const real *W, Py_ssize_t ld_w, const real *later, const real *past,
                    Py_ssize_t ld_past, real *grad, Py_ssize_t ld_grad, real *delta) noexcept nogil:
    """Step t, or -1 for h0: delta and grad, which may be NULL without alpha; later: delta_{t+1}, past: grad_{t+1}."""
    cdef Py_ssize_t H = job.H, n = present(job, max(t, 0), 0, job.B), going_on = present(job, t + 1, 0, job.B)
    cdef real *back = delta if grad == NULL else grad
    cdef Py_ssize_t ld_back = H if grad == NULL else ld_grad
    if going_on > 0:
        gemm(False, False, going_on, H, H, later, H, W, ld_w, False, back, ld_back)
        end_back(job, going_on, dh, ld_dh, rates, ld_rates, <const real *>back, ld_back, past, ld_past, grad, ld_grad,
                 delta)
    if n > going_on:  # sequences that end here
        if grad != NULL:
            grad += going_on * ld_grad
        end_back(job, n - going_on, dh + going_on * ld_dh, ld_dh, rates + going_on * ld_rates, ld_rates,
                 <const real *>NULL, 0, <const real *>NULL, 0, grad, ld_grad, delta + going_on * H)


cdef void end_back(const Job *job, Py_ssize_t rows, const real *dh, Py_ssize_t ld_dh, const real *rates,
                   Py_ssize_t ld_rates, const real *back, Py_ssize_t ld_back, const real *past, Py_ssize_t ld_past,
                   real *grad, Py_ssize_t ld_grad, real *delta) noexcept nogil:
    # grad_h_t = dh_t + Wᵀ delta_{t+1}    delta_t = (1 - h_t²) ∘ grad_h_t      (10.20, 10.21)
    if job.leaky:
        leaky_step_backward(rows, job.H, rates, ld_rates, dh, ld_dh, back, ld_back, past, ld_past, grad, ld_grad, delta,
                            job.H, <const real *>job.alpha, job.phi, job.current)
    else:
        step_backward(rows, job.H, rates, ld_rates, dh, ld_dh, back, ld_back, grad, ld_grad, delta, job.H, job.phi)


cdef int backward_loop(real tag, Job *job, const real *U, Py_ssize_t ld_u, const real *W, Py_ssize_t ld_w,
                       real *copy) noexcept nogil:
    """job.delta: most + B rows, the last B the first step of the chunk after; so job.grad, with alpha."""
    cdef Py_ssize_t B = job.B, I = job.inputs, H = job.H, c, t, start, stop, base, rows, n
    cdef Py_ssize_t slot = job.most * H
    cdef real *delta = <real *>job.delta
    cdef real *grad = <real *>job.grad
    cdef real *delta_t
    cdef real *grad_t
    cdef const real *later
    cdef const real *past
    cdef double since = pyrnn_seconds()
    cdef bint accumulate = job.accumulate   # the sums over time hold something
    cdef long long clock = begin()
    for c in range(job.chunks - 1, -1, -1):
        start, stop = job.starts[c], job.starts[c + 1]
        base = rows_before(job, start)
        rows = rows_before(job, stop) - base
        for t in range(stop - 1, start - 1, -1):
            # delta_t = (1 - h_t²) ∘ (dh_t + Wᵀ delta_{t+1})                 (10.21)
            n = (rows_before(job, t) - base) * H
            delta_t, grad_t = delta + n, NULL if grad == NULL else grad + n
            n = slot if t == stop - 1 else (rows_before(job, t + 1) - base) * H
            later, past = delta + n, NULL if grad == NULL else grad + n
            step_back(tag, job, t, <const real *>job.dh.first + at(job, &job.dh, t, 0), job.dh.sb,
                      <const real *>job.rates.first + at(job, &job.rates, t, 0), job.rates.sb, W, ld_w, later, past, H,
                      grad_t, H, delta_t)
        clock = lap(clock, BACKWARD_RECURRENCE, 0, sizeof(real),
                    2.0 * (rows_before(job, min(stop + 1, job.T)) - rows_before(job, start + 1)) * H * H,
                    3.0 * rows * H + (H * H if start == 0 else 0))
        # dx_t = Uᵀ delta_t
        if job.dx.first != NULL:
            merged_rows(start, stop, job, &job.dx, I, delta, U, ld_u, copy)
        if job.d_drive.first != NULL:
            for t in range(start, stop):
                copy_rows(present(job, t, 0, B), H, delta + (rows_before(job, t) - base) * H, H,
                          <real *>job.d_drive.first + at(job, &job.d_drive, t, 0), job.d_drive.sb)
        clock = lap(clock, INPUT_GRADIENTS, 0, sizeof(real), 2.0 * rows * H * I,
                    <double>rows * (H + I) + (H * I if start == 0 else 0))
        # dU = Σ delta_t x_tᵀ                                                (10.28)
        if job.offsets == NULL:
            merged_gradient(stop - start, B, H, I, delta, H, <const real *>job.x.first + start * job.x.st, job.x.st,
                            job.x.sb, accumulate, <real *>job.dU, copy)
        else:
            merged_gradient(1, rows, H, I, delta, H, <const real *>job.x.first + base * job.x.sb, 0, job.x.sb,
                            accumulate, <real *>job.dU, copy)
        # dW = Σ delta_t h_{t-1}ᵀ                                            (10.26)
        recurrent_gradient(start, stop, job, delta, accumulate, copy)
        # db = Σ delta_t                                                     (10.23)
        column_sums(rows, H, delta, H, <real *>job.sum_b, <real *>job.lost)
        n = present(job, start, 0, B) * H
        memcpy(delta + slot, delta, n * sizeof(real))
        if grad != NULL:
            memcpy(grad + slot, grad, n * sizeof(real))
            leak_gradient_of(job, start, stop, 0, H, <const real *>grad, H, <real *>NULL, <real *>NULL, 0)
        clock = lap(clock, WEIGHT_GRADIENTS, 0, sizeof(real), 2.0 * rows * H * (I + H),
                    <double>rows * (2 * H + I) + (H * (I + H + 1) if start == 0 else 0))
        accumulate = True
        if interrupted(&since):
            return -1
    # dh0 = Wᵀ delta_1
    if job.T > 0:
        if job.leaky:
            step_back(tag, job, -1, <const real *>job.zeros, 0, <const real *>job.fed0, job.ld_fed0, W, ld_w,
                      delta + slot, grad + slot, H, <real *>job.dh0, H, delta)
        else:
            gemm(False, False, B, H, H, delta + slot, H, W, ld_w, False, <real *>job.dh0, H)
        lap(clock, INPUT_GRADIENTS, 0, sizeof(real), 2.0 * B * H * H, 2.0 * B * H + H * H)
    return 0


cdef void copy_rows(Py_ssize_t rows, Py_ssize_t n, const real *a, Py_ssize_t ld_a, real *out,
                    Py_ssize_t ld) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(rows):
        memcpy(out + i * ld, a + i * ld_a, n * sizeof(real))


cdef void merged_rows(Py_ssize_t start, Py_ssize_t stop, const Job *job, const Rows *dx, Py_ssize_t N,
                      const real *delta, const real *U, Py_ssize_t ld_u, real *copy) noexcept nogil:
    """dx_t = Uᵀ delta_t of a chunk, or +=, at once where the rows of dx lie one after the other."""
    cdef Py_ssize_t B = job.B, H = job.H, t
    cdef Py_ssize_t rows = rows_before(job, stop) - rows_before(job, start)
    cdef real *out = <real *>dx.first + at(job, dx, start, 0)
    if job.offsets != NULL or one_stride(stop - start, B, N, dx.st, dx.sb):
        gemm(False, False, rows, N, H, delta, H, U, ld_u, job.add_x, out,
             dx.sb if B > 1 or job.offsets != NULL else dx.st)
    else:
        for t in range(stop - start):
            gemm(False, False, B, N, H, delta + t * B * H, H, U, ld_u, job.add_x, out + t * dx.st, dx.sb)


cdef void recurrent_gradient(Py_ssize_t start, Py_ssize_t stop, const Job *job, const real *delta, bint accumulate,
                             real *copy) noexcept nogil:
    """dW of a chunk: the steps whose h_{t-1} is h0, and the others."""
    cdef Py_ssize_t B = job.B, H = job.H, t, first = 1 if start == 0 else 0, n = present(job, 0, 0, B)
    cdef Py_ssize_t base = rows_before(job, start), rows
    if first:
        gemm(True, False, H, H, n, delta, H, <const real *>job.fed0, job.ld_fed0, accumulate, <real *>job.dW, H)
        accumulate = True
    first += start
    rows = rows_before(job, stop) - rows_before(job, first)
    delta += (rows_before(job, first) - base) * H
    if rows <= 0 and accumulate:  # else dW is written: zeros of no sequences
        return
    if job.offsets == NULL:
        merged_gradient(stop - first, B, H, H, delta, H, <const real *>job.fed.first + (first - 1) * job.fed.st,
                        job.fed.st, job.fed.sb, accumulate, <real *>job.dW, copy)
        return
    for t in range(first, stop):
        copy_rows(present(job, t, 0, B), H, <const real *>job.fed.first + at(job, &job.fed, t - 1, 0), job.fed.sb,
                  copy + (rows_before(job, t) - rows_before(job, first)) * H, H)
    gemm(True, False, H, H, rows, delta, H, copy, H, accumulate, <real *>job.dW, H)


cdef void end_of_sums(const Job *job, Py_ssize_t itemsize, Py_ssize_t first, Py_ssize_t end) noexcept nogil:
    """What the roundings of sums have lost, and in the current form the division by alpha, of some units."""
    if itemsize == 4:
        add_lost(first, end, <const float *>job.lost, <float *>job.sum_b)
        if job.leaky:
            add_lost(first, end, <const float *>job.lost_alpha, <float *>job.sum_alpha)
            divide_by_alpha(job, first, end, <float *>job.sum_alpha)
    else:
        add_lost(first, end, <const double *>job.lost, <double *>job.sum_b)
        if job.leaky:
            add_lost(first, end, <const double *>job.lost_alpha, <double *>job.sum_alpha)
            divide_by_alpha(job, first, end, <double *>job.sum_alpha)


cdef inline void add_lost(Py_ssize_t first, Py_ssize_t end, const real *lost, real *total) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(first, end):
        if lost[i] == lost[i]:  # a sum of inf or NaN has lost NaN
            total[i] += lost[i]


cdef inline void divide_by_alpha(const Job *job, Py_ssize_t first, Py_ssize_t end, real *total) noexcept nogil:
    cdef Py_ssize_t i
    if job.current:
        for i in range(first, end):
            total[i] /= (<const real *>job.alpha)[i]


cdef int state_gradients_loop(real tag, Job *job, const real *W, Py_ssize_t ld_w) noexcept nogil:
    """job.delta: B rows."""
    cdef Py_ssize_t t, H = job.H, rows = rows_before(job, job.T)
    cdef real *grad_t
    cdef const real *past = NULL
    cdef real *delta = <real *>job.delta
    cdef double since = pyrnn_seconds()
    cdef long long clock = begin()
    for t in range(job.T - 1, -1, -1):
        grad_t = <real *>job.grad_h.first + at(job, &job.grad_h, t, 0)
        step_back(tag, job, t, <const real *>job.dh.first + at(job, &job.dh, t, 0), job.dh.sb,
                  <const real *>job.rates.first + at(job, &job.rates, t, 0), job.rates.sb, W, ld_w, delta, past,
                  job.grad_h.sb, grad_t, job.grad_h.sb, delta)
        past = grad_t
        if interrupted(&since):
            return -1
    lap(clock, BACKWARD_RECURRENCE, 0, sizeof(real), 2.0 * (rows - rows_before(job, min(1, job.T))) * H * H,
        3.0 * rows * H + H * H)
    return 0


cdef int jacobian_loop(Py_ssize_t T, Py_ssize_t B, Py_ssize_t H, const real *h, Py_ssize_t ht, Py_ssize_t hb,
                       const real *W, Py_ssize_t ld_w, real *J, const real *alpha, int phi,
                       bint current) noexcept nogil:
    cdef Py_ssize_t t, i
    cdef double written = 0, since = pyrnn_seconds()
    cdef long long clock = begin()
    for t in range(T):
        for i in range(B):
            jacobian_step(H, h + t * ht + i * hb, W, ld_w, J + (t * B + i) * H * H, alpha, phi, current)
            written += H * H
            if written > 1e6:
                written = 0
                if interrupted(&since):
                    return -1
    lap(clock, JACOBIAN, 0, sizeof(real), <double>T * B * H * H, <double>T * B * H * (H + 1) + H * H)
    return 0


# ---- The output layer: the same products without the recurrence -----------------------------------------------------
cdef int output_loop(Py_ssize_t T, Py_ssize_t B, Py_ssize_t H, Py_ssize_t O, const real *h, Py_ssize_t ht,
                     Py_ssize_t hb, const real *V, Py_ssize_t ld_v, const real *c, real *o, Py_ssize_t chunk,
                     real *copy) noexcept nogil:
    cdef Py_ssize_t start = 0, n, i, j
    cdef real *row
    cdef double since = pyrnn_seconds()
    cdef long long clock = begin()
    while start < T:
        n = min(chunk, T - start)
        # o_t = c + V h_t                                                    (10.10)
        merged_product(n, B, H, O, h + start * ht, ht, hb, V, ld_v, o + start * B * O, B * O, O, copy)
        if c != NULL:
            for i in range(n * B):
                row = o + (start * B + i) * O
                for j in range(O):
                    row[j] += c[j]
        clock = lap(clock, OUTPUT, 0, sizeof(real), 2.0 * n * B * O * H,
                    <double>n * B * (H + O) + (O * H if start == 0 else 0))
        start += n
        if interrupted(&since):
            return -1
    return 0


cdef int output_gradients_loop(Py_ssize_t T, Py_ssize_t B, Py_ssize_t H, Py_ssize_t O, const real *do_,
                               Py_ssize_t dt, Py_ssize_t db_, const real *h, Py_ssize_t ht, Py_ssize_t hb,
                               const real *V, Py_ssize_t ld_v, real *dh, real *dV, real *dc, bint accumulate,
                               Py_ssize_t chunk, real *copy_o, real *copy_h) noexcept nogil:
    cdef Py_ssize_t start = 0, n, ld
    cdef const real *rows
    cdef double since = pyrnn_seconds()
    cdef long long clock = begin()
    while start < T:
        n = min(chunk, T - start)
        rows = rows_of(n, B, O, do_ + start * dt, dt, db_, copy_o, &ld)
        # dh_t = Vᵀ do_t                                                     (10.19)
        gemm(False, False, n * B, H, O, rows, ld, V, ld_v, False, dh + start * B * H, H)
        # dV = Σ do_t h_tᵀ    dc = Σ do_t                                    (10.24, 10.22)
        merged_gradient(n, B, O, H, rows, ld, h + start * ht, ht, hb, accumulate or start > 0, dV, copy_h)
        column_sums(n * B, O, rows, ld, dc, <real *>NULL)
        clock = lap(clock, OUTPUT_GRADIENTS, 0, sizeof(real), 4.0 * n * B * O * H,
                    <double>n * B * (O + 2 * H) + (O * (2 * H + 1) if start == 0 else 0))
        start += n
        if interrupted(&since):
            return -1
    return 0


# ---- What both engines do with their arguments ----------------------------------------------------------------------
cdef Rows rows_in(cnp.ndarray a):
    """An array [T, B, n] as the loops see it; None as nothing."""
    cdef Rows rows
    rows.first, rows.st, rows.sb, rows.where = NULL, 0, 0, NULL
    if a is not None:
        rows.first, rows.st, rows.sb = data(a), stride(a, 0), stride(a, 1)
    return rows


cdef tuple set_up(Job *job, cnp.ndarray x, Py_ssize_t H, cnp.ndarray h0, int phi, cnp.ndarray alpha, bint current,
                  cnp.ndarray offsets, bint from_end):
    """Write what x, h0, the cell and the lengths say into a job, and return the arrays that it points to.

    Checks these arrays; who calls it checks the others.
    """
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x)
    cdef cnp.ndarray steps = None, starts
    cdef int kind = kind_of("x", x, 3)
    memset(job, 0, sizeof(Job))
    need("x", x, kind, IN_ROWS, 3, x.shape[0], x.shape[1], x.shape[2])
    need("alpha", alpha, kind, CONTIGUOUS | OPTIONAL, 1, H)
    job.T, job.B, job.inputs, job.H = x.shape[0], x.shape[1], x.shape[2], H
    job.x, job.phi, job.leaky, job.current, job.alpha = rows_in(x), phi, alpha is not None, current, data(alpha)
    if offsets is not None:
        check_offsets(offsets)
        job.offsets = <const Py_ssize_t *>data(offsets)
        job.T = offsets.shape[0] - 1
        job.B = job.offsets[1] if job.T > 0 else 0
        steps = integers(job.B + 1)
        count_steps(job, <Py_ssize_t *>data(steps))
        job.steps_before = <const Py_ssize_t *>data(steps)
    need("h0", h0, kind, AS_MATRIX | OPTIONAL, 2, job.B, H)
    if h0 is not None:
        job.h0, job.ld_h0, job.fed0, job.ld_fed0 = data(h0), stride(h0, 0), data(h0), stride(h0, 0)
    starts = divide(job, size, from_end)
    return None if starts is None and steps is None else (starts, steps)


cdef int check_offsets(cnp.ndarray offsets) except -1:
    """Raise ValueError unless offsets count rows step by step, no step with more rows than the step before."""
    cdef Py_ssize_t t, rows, before
    cdef const Py_ssize_t *offset
    need("offsets", offsets, cnp.NPY_INTP, CONTIGUOUS, 1, max(cnp.PyArray_SIZE(offsets), <Py_ssize_t>1))
    offset = <const Py_ssize_t *>data(offsets)
    before = offset[offsets.shape[0] - 1]
    for t in range(offsets.shape[0] - 1):
        rows = offset[t + 1] - offset[t]
        if rows < 0 or rows > before:
            raise ValueError(f"offsets must count fewer rows from step to step, got {rows} after {before}")
        before = rows
    if offset[0] != 0:
        raise ValueError(f"offsets must begin with 0, got {offset[0]}")
    return 0


cdef int check_packed(const Job *job, cnp.ndarray x) except -1:
    """Raise ValueError unless x has the rows of the offsets, if there are, one after the other."""
    if job.offsets != NULL and (x.shape[0] != 1 or x.shape[1] != job.offsets[job.T]):
        raise ValueError(f"sequences must be packed as (1, {job.offsets[job.T]}, ...), got {x.shape[0]}, {x.shape[1]}")
    return 0


cdef cnp.ndarray integers(cnp.npy_intp n):
    return cnp.PyArray_EMPTY(1, &n, cnp.NPY_INTP, 0)


cdef void count_steps(Job *job, Py_ssize_t *before) noexcept:
    """The steps of the sequences before each, of sequences of different lengths."""
    cdef Py_ssize_t row, t = job.T
    before[0] = 0
    for row in range(job.B):
        while t > 0 and job.offsets[t] - job.offsets[t - 1] <= row:
            t -= 1
        before[row + 1] = before[row] + t


cdef cnp.ndarray divide(Job *job, Py_ssize_t size, bint from_end):
    """Divide time into chunks, all but the first, or with from_end all but the last, as full as they may be."""
    cdef Py_ssize_t steps = chunk_steps(job.T, job.B, max(job.H, job.inputs), size), most = steps * job.B, t, c
    cdef cnp.ndarray starts = None
    cdef Py_ssize_t *start
    if job.offsets == NULL:
        job.chunks = (job.T + steps - 1) // steps if job.T > 0 else 0
        start = job.few_starts
        if job.chunks >= 17:
            starts = integers(job.chunks + 1)
            start = <Py_ssize_t *>data(starts)
        for c in range(job.chunks + 1):
            start[c] = max(0, job.T - (job.chunks - c) * steps) if from_end else min(c * steps, job.T)
    else:
        starts = integers(job.T + 1)
        start = <Py_ssize_t *>data(starts)
        c, start[0] = 0, 0
        for t in range(1, job.T + 1):
            if t == job.T or job.offsets[t + 1] - job.offsets[start[c]] > most:
                c += 1
                start[c] = t
        job.chunks = c
    job.starts, job.most = start, most
    return starts


cdef void feed(Job *job, Py_ssize_t itemsize, void *memory) noexcept:
    """In the current form, what W multiplies in the first step: phi(h0), in B H numbers of memory."""
    if itemsize == 4:
        feed_typed(job, <const float *>job.h0, <float *>memory)
    else:
        feed_typed(job, <const double *>job.h0, <double *>memory)
    job.fed0, job.ld_fed0 = memory, job.H


cdef inline void feed_typed(const Job *job, const real *h0, real *rates) noexcept:
    copy_rows(job.B, job.H, h0, job.ld_h0, rates, job.H)
    step_forward(job.B, job.H, <const real *>NULL, rates, job.H, job.phi)


cdef cnp.ndarray phi_of(cnp.ndarray h, int phi):
    """phi of the states [T, B, H], as the loops of forward compute it."""
    cdef cnp.ndarray rates = empty(h, (h.shape[0] * h.shape[1], h.shape[2]))
    if cnp.PyArray_ITEMSIZE(h) == 4:
        gather(h.shape[0], h.shape[1], h.shape[2], <const float *>data(h), stride(h, 0), stride(h, 1),
               <float *>data(rates))
    else:
        gather(h.shape[0], h.shape[1], h.shape[2], <const double *>data(h), stride(h, 0), stride(h, 1),
               <double *>data(rates))
    _phi(rates, phi)
    return rates.reshape((h.shape[0], h.shape[1], h.shape[2]))


cdef tuple gradient_arrays(Job *job, cnp.ndarray x, bint drive, tuple results, cnp.ndarray lost, void *memory,
                           bint goes_on):
    """The arrays for the gradients of a job, which is told where they are: `results`, or new ones; see `backward`.

    memory: 3 H numbers, where `lost` is None.
    """
    cdef Py_ssize_t H = job.H, B = job.B, size = cnp.PyArray_ITEMSIZE(x)
    cdef int kind = cnp.PyArray_TYPE(x)
    cdef bint nothing = job.T == 0
    cdef cnp.ndarray dx, dU, dW, db, dh0, d_drive = None, d_alpha = None
    if results is None:
        dx, dU = empty(x, (x.shape[0], x.shape[1], x.shape[2])), empty(x, (H, x.shape[2]), zero=nothing)
        dW, db, dh0 = empty(x, (H, H), zero=nothing), empty(x, (H,), zero=True), empty(x, (B, H), zero=nothing)
        if drive:
            d_drive = empty(x, (x.shape[0], x.shape[1], H))
        if job.leaky:
            d_alpha = empty(x, (H,), zero=True)
    else:
        dx, dU, dW, db, dh0, d_drive, d_alpha = results
        need("dx", dx, kind, IN_ROWS | WRITTEN | OPTIONAL, 3, x.shape[0], x.shape[1], x.shape[2])
        need("dU", dU, kind, CONTIGUOUS | WRITTEN, 2, H, x.shape[2])
        need("dW", dW, kind, CONTIGUOUS | WRITTEN, 2, H, H)
        need("db", db, kind, CONTIGUOUS | WRITTEN, 1, H)
        need("dh0", dh0, kind, CONTIGUOUS | WRITTEN, 2, B, H)
        need("d_drive", d_drive, kind, IN_ROWS | WRITTEN | OPTIONAL, 3, x.shape[0], x.shape[1], H)
        need("d_alpha", d_alpha, kind, CONTIGUOUS | WRITTEN | (0 if job.leaky else OPTIONAL), 1, H)
        if not job.accumulate:
            db.fill(0)
            if d_alpha is not None:
                d_alpha.fill(0)
            if nothing:
                dU.fill(0)
                dW.fill(0)
        if nothing:
            dh0.fill(0)
    need("lost", lost, kind, CONTIGUOUS | WRITTEN | OPTIONAL, 2, 3, H)
    if lost is None:
        job.lost = memory
        memset(memory, 0, 3 * H * size)
    else:
        job.lost = data(lost)
    job.lost_alpha = <char *>job.lost + H * size
    job.zeros = <char *>job.lost_alpha + H * size
    job.goes_on = goes_on
    job.dx, job.d_drive = rows_in(dx), rows_in(d_drive)
    job.dU, job.dW, job.sum_b, job.dh0, job.sum_alpha = data(dU), data(dW), data(db), data(dh0), data(d_alpha)
    return dx, dU, dW, db, dh0, d_drive, d_alpha


cdef int check_forward(const Job *job, cnp.ndarray x, cnp.ndarray U, cnp.ndarray W, cnp.ndarray b, cnp.ndarray out,
                       cnp.ndarray drive, cnp.ndarray rates) except -1:
    """Raise ValueError for arrays that forward cannot read and write in place; `set_up` checks x, h0 and alpha."""
    cdef int kind = cnp.PyArray_TYPE(x)
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], H = job.H
    need("U", U, kind, AS_MATRIX | OPTIONAL, 2, H, job.inputs)
    need("W", W, kind, AS_MATRIX | OPTIONAL, 2, H, H)
    need("b", b, kind, CONTIGUOUS | OPTIONAL, 1, H)
    need("out", out, kind, IN_ROWS | WRITTEN | OPTIONAL, 3, T, B, H)
    if drive is not None or rates is not None:
        need("drive", drive, kind, IN_ROWS | OPTIONAL, 3, T, B, H)
        need("rates", rates, kind, IN_ROWS | WRITTEN | OPTIONAL, 3, T, B, H)
    return 0


cdef int check_backward(const Job *job, cnp.ndarray x, cnp.ndarray U, cnp.ndarray W, cnp.ndarray dh, cnp.ndarray h,
                        cnp.ndarray rates) except -1:
    """The same of backward, and without U of state_gradients."""
    cdef int kind = cnp.PyArray_TYPE(x)
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], H = job.H
    need("U", U, kind, AS_MATRIX | OPTIONAL, 2, H, job.inputs)
    need("W", W, kind, AS_MATRIX, 2, H, H)
    need("dh", dh, kind, IN_ROWS, 3, T, B, H)
    need("h", h, kind, IN_ROWS, 3, T, B, H)
    if rates is not None or (job.leaky and not job.current):
        need("rates", rates, kind, IN_ROWS, 3, T, B, H)
    return 0


# ---- For floor 3: checked arrays in, memory allocated here, and the GIL given up ------------------------------------
cdef cnp.ndarray transposed_copy(real tag, cnp.ndarray W):
    cdef Py_ssize_t rows = W.shape[0], n = W.shape[1]
    cdef cnp.ndarray out = empty(W, (n, rows))
    cdef long long clock = begin()
    transpose(rows, n, <const real *>data(W), stride(W, 0), <real *>data(out))
    lap(clock, PACK, 0, sizeof(real), 0, 2.0 * rows * n)
    return out


cdef bint worth_transposing(Py_ssize_t T, Py_ssize_t B, Py_ssize_t H) noexcept:
    """Whether the loop of forward is faster over a transposed copy of W, made once per call.

    Measured (OpenBLAS 0.3.30, AVX-512, one thread, float32, GF/s): gemv by columns of a copy against by rows of W, H =
    16: 14 and 10, 32: 36 and 27, 64: 51 and 47, 128: 48 and 45, 512: 50 and 49; gemm of the two kinds within 2 %.
    """
    return H <= 256 and T * B >= 16 and by_rows(B, H, H)


cdef cnp.ndarray run_forward(real tag, Job *job, cnp.ndarray x, cnp.ndarray U, cnp.ndarray W, cnp.ndarray h):
    cdef bint transposed = worth_transposing(job.T, job.B, job.H)
    cdef cnp.ndarray M = transposed_copy(tag, W) if transposed else W
    cdef Py_ssize_t ld_u = stride(U, 0), ld_w = stride(M, 0)
    cdef bint in_place = job.offsets != NULL or one_stride(job.T, job.B, job.inputs, job.x.st, job.x.sb)
    cdef cnp.ndarray copy = None if in_place else empty(x, (job.most * job.inputs,))
    cdef cnp.ndarray rates, first
    cdef const real *pU = <const real *>data(U)
    cdef const real *pW = <const real *>data(M)
    cdef real *pcopy = <real *>data(copy)
    cdef int status
    if job.current:
        first = empty(x, (job.B, job.H))
        feed(job, sizeof(real), data(first))
    if job.leaky and job.rates.first == NULL:  # not requested, but the loop needs those of a step, or of the one before
        if job.current:
            rates = empty(x, (rows_before(job, job.T), job.H))
            job.rates.first, job.rates.st, job.rates.sb = data(rates), job.B * job.H, job.H
        else:
            rates = empty(x, (job.H,))
            job.rates.first, job.rates.st, job.rates.sb = data(rates), 0, 0
    job.fed = job.rates if job.current else job.h
    with nogil:
        flush_subnormals()
        status = forward_loop(tag, job, pU, ld_u, pW, ld_w, transposed, pcopy)
        restore_subnormals()
    pass_on(status)
    return h


cdef int run_backward(real tag, Job *job, cnp.ndarray x, cnp.ndarray U, cnp.ndarray W) except -1:
    cdef Py_ssize_t ld_u = stride(U, 0), ld_w = stride(W, 0), rows = job.most + job.B
    cdef bint in_place = job.offsets == NULL and one_stride(
        job.T, job.B, job.inputs, job.x.st, job.x.sb) and one_stride(job.T, job.B, job.H, job.fed.st, job.fed.sb)
    cdef cnp.ndarray delta = empty(x, (rows * job.H,)), grad = empty(x, (rows * job.H,)) if job.leaky else None
    cdef cnp.ndarray copy = None if in_place else empty(x, (job.most * max(job.inputs, job.H),)), first
    cdef const real *pU = <const real *>data(U)
    cdef const real *pW = <const real *>data(W)
    cdef real *pcopy = <real *>data(copy)
    cdef int status
    job.delta, job.grad = data(delta), data(grad)
    if job.current:
        first = empty(x, (job.B, job.H))
        feed(job, sizeof(real), data(first))
    with nogil:
        flush_subnormals()
        status = backward_loop(tag, job, pU, ld_u, pW, ld_w, pcopy)
        if status == 0 and not job.goes_on:
            end_of_sums(job, sizeof(real), 0, job.H)
        restore_subnormals()
    return pass_on(status)


cdef cnp.ndarray run_state_gradients(real tag, Job *job, cnp.ndarray W, cnp.ndarray grad_h):
    cdef Py_ssize_t ld_w = stride(W, 0)
    cdef cnp.ndarray delta = empty(W, (job.B * job.H,))
    cdef const real *pW = <const real *>data(W)
    cdef int status
    job.delta = data(delta)
    with nogil:
        flush_subnormals()
        status = state_gradients_loop(tag, job, pW, ld_w)
        restore_subnormals()
    pass_on(status)
    return grad_h


cdef cnp.ndarray run_jacobian(real tag, cnp.ndarray h, cnp.ndarray W, int phi, cnp.ndarray alpha, bint current):
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2]
    cdef Py_ssize_t ht = stride(h, 0), hb = stride(h, 1), ld_w = stride(W, 0)
    cdef cnp.ndarray J = empty(h, (T, B, H, H))
    cdef const real *ph = <const real *>data(h)
    cdef const real *pW = <const real *>data(W)
    cdef const real *pa = <const real *>data(alpha)
    cdef real *pJ = <real *>data(J)
    cdef int status
    with nogil:
        flush_subnormals()
        status = jacobian_loop(T, B, H, ph, ht, hb, pW, ld_w, pJ, pa, phi, current)
        restore_subnormals()
    pass_on(status)
    return J


cdef cnp.ndarray run_output(real tag, cnp.ndarray h, cnp.ndarray V, cnp.ndarray c, cnp.ndarray o):
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2], O = V.shape[0]
    cdef Py_ssize_t ht = stride(h, 0), hb = stride(h, 1), ld_v = stride(V, 0)
    cdef Py_ssize_t chunk = chunk_steps(T, B, max(H, O), sizeof(real))
    cdef cnp.ndarray copy = None if one_stride(T, B, H, ht, hb) else empty(h, (chunk * B * H,))
    cdef const real *ph = <const real *>data(h)
    cdef const real *pV = <const real *>data(V)
    cdef const real *pc = <const real *>data(c)
    cdef real *po = <real *>data(o)
    cdef real *pcopy = <real *>data(copy)
    cdef int status
    with nogil:
        flush_subnormals()
        status = output_loop(T, B, H, O, ph, ht, hb, pV, ld_v, pc, po, chunk, pcopy)
        restore_subnormals()
    pass_on(status)
    return o


cdef tuple run_output_gradients(real tag, cnp.ndarray do_, cnp.ndarray h, cnp.ndarray V, cnp.ndarray dh, cnp.ndarray dV,
                                cnp.ndarray dc, bint accumulate):
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2], O = V.shape[0]
    cdef Py_ssize_t dt = stride(do_, 0), db_ = stride(do_, 1), ht = stride(h, 0), hb = stride(h, 1)
    cdef Py_ssize_t ld_v = stride(V, 0), chunk = chunk_steps(T, B, max(H, O), sizeof(real))
    cdef cnp.ndarray copy_o = None if one_stride(T, B, O, dt, db_) else empty(h, (chunk * B * O,))
    cdef cnp.ndarray copy_h = None if one_stride(T, B, H, ht, hb) else empty(h, (chunk * B * H,))
    cdef const real *pdo = <const real *>data(do_)
    cdef const real *ph = <const real *>data(h)
    cdef const real *pV = <const real *>data(V)
    cdef real *pdh = <real *>data(dh)
    cdef real *pdV = <real *>data(dV)
    cdef real *pdc = <real *>data(dc)
    cdef real *pcopy_o = <real *>data(copy_o)
    cdef real *pcopy_h = <real *>data(copy_h)
    cdef int status
    with nogil:
        flush_subnormals()
        status = output_gradients_loop(T, B, H, O, pdo, dt, db_, ph, ht, hb, pV, ld_v, pdh, pdV, pdc, accumulate,
                                       chunk, pcopy_o, pcopy_h)
        restore_subnormals()
    pass_on(status)
    return dh, dV, dc


def read_in_place(*arrays):
    """Whether the loops here can read the arrays as they lie: all float32 or all float64, rows contiguous; None may be.

    Only exact ndarrays count, since a subclass may mean something else by its elements.
    """
    cdef int kind = -1
    for a in arrays:
        if a is None:
            continue
        if type(a) is not cnp.ndarray:
            return False
        if kind < 0:
            kind = cnp.PyArray_TYPE(a)
            if kind != cnp.NPY_FLOAT32 and kind != cnp.NPY_FLOAT64:
                return False
        if not usable(a, kind):
            return False
    return True


cdef void bounds(cnp.ndarray a, size_t *first, size_t *end) noexcept:
    """The addresses between which an array lies."""
    cdef int i
    cdef Py_ssize_t span
    first[0] = <size_t>cnp.PyArray_DATA(a)
    end[0] = first[0] + cnp.PyArray_ITEMSIZE(a)
    for i in range(cnp.PyArray_NDIM(a)):
        span = (cnp.PyArray_DIM(a, i) - 1) * cnp.PyArray_STRIDE(a, i)
        if span < 0:
            first[0] += span
        else:
            end[0] += span


cdef bint writeable_apart(cnp.ndarray a, tuple others) noexcept:
    """Whether the loops can write to a [T, B, n] as it lies, apart from the others, of which each may be None."""
    cdef size_t first, end, other_first, other_end
    cdef Py_ssize_t n = cnp.PyArray_DIM(a, 2)
    if not cnp.PyArray_ISWRITEABLE(a) or not (cnp.PyArray_DIM(a, 1) <= 1 or stride(a, 1) >= n):
        return False
    if not (cnp.PyArray_DIM(a, 0) <= 1 or stride(a, 0) >= n or -stride(a, 0) >= n):
        return False
    bounds(a, &first, &end)
    for other in others:
        if other is not None:
            bounds(other, &other_first, &other_end)
            if first < other_end and other_first < end:
                return False
    return True


def fit(x, U, W, b, h0, dh=None, h=None, drive=None, alpha=None, rates=None, out=None):
    """Whether forward, or backward where there is dh, takes the arguments as they are; all but x, U and W may be None.

    False does not mean that they are wrong: the caller then checks and converts them, in 3 us. This test takes 0.2 us.
    """
    cdef cnp.npy_intp inputs[3]
    cdef cnp.npy_intp states[3]
    cdef cnp.npy_intp columns[2]  # of U
    cdef cnp.npy_intp square[2]   # of W
    cdef int kind, i
    if type(x) is not cnp.ndarray or type(U) is not cnp.ndarray or cnp.PyArray_NDIM(x) != 3 or cnp.PyArray_NDIM(U) != 2:
        return False
    kind = cnp.PyArray_TYPE(x)
    if kind != cnp.NPY_FLOAT32 and kind != cnp.NPY_FLOAT64:
        return False
    for i in range(3):
        inputs[i] = states[i] = cnp.PyArray_DIM(x, i)
    states[2] = columns[0] = square[0] = square[1] = cnp.PyArray_DIM(U, 0)
    columns[1] = inputs[2]
    if not (fits(x, kind, 3, inputs) and fits(U, kind, 2, columns) and fits(W, kind, 2, square)
            and stride(U, 0) >= columns[1] and stride(W, 0) >= square[1]  # else BLAS wants a copy, as of h0
            and (h0 is None or fits(h0, kind, 2, states + 1) and stride(h0, 0) >= states[2])
            and (b is None or fits(b, kind, 1, square))
            and (dh is None or fits(dh, kind, 3, states) and fits(h, kind, 3, states))):
        return False
    if drive is alpha is rates is out is None:
        return True
    if not ((drive is None or fits(drive, kind, 3, states)) and (alpha is None or fits(alpha, kind, 1, square))
            and (rates is None or alpha is not None and fits(rates, kind, 3, states))
            and (out is None or fits(out, kind, 3, states))):
        return False
    if dh is not None:
        return True
    others = (x, U, W, b, h0, drive, alpha)
    return (rates is None or writeable_apart(rates, others)) and (
        out is None or writeable_apart(out, (*others, rates)))


cdef bint whole(object a, int kind, int ndim, const cnp.npy_intp *shape) noexcept:
    return fits(a, kind, ndim, shape) and cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISWRITEABLE(a)


def fit_results(results, cnp.ndarray x not None, cnp.ndarray U not None, tuple inputs):
    """Whether backward can write to the seven results as they are: (dx, dU, dW, db, dh0, ddrive, dalpha).

    x and U fit; dx, ddrive and dalpha may be None, and the inputs, from which all lie apart as from each other.
    """
    cdef cnp.npy_intp shape[3]
    cdef cnp.npy_intp states[3]
    cdef cnp.npy_intp columns[2]
    cdef cnp.npy_intp square[2]
    cdef size_t first, end, other_first, other_end
    cdef int kind = kind_of("x", x, 3), i
    kind_of("U", U, 2)
    for i in range(3):
        shape[i] = states[i] = cnp.PyArray_DIM(x, i)
    states[2] = columns[0] = square[0] = square[1] = cnp.PyArray_DIM(U, 0)
    columns[1] = shape[2]
    dx, dU, dW, db, dh0, d_drive, d_alpha = results
    if not ((dx is None or whole(dx, kind, 3, shape)) and whole(dU, kind, 2, columns) and whole(dW, kind, 2, square)
            and whole(db, kind, 1, square) and whole(dh0, kind, 2, states + 1)
            and (d_drive is None or whole(d_drive, kind, 3, states))
            and (d_alpha is None or whole(d_alpha, kind, 1, square))):
        return False
    for i in range(7):
        if results[i] is None:
            continue
        bounds(results[i], &first, &end)
        for other in (*inputs, *results[i + 1:]):
            if other is not None:
                bounds(other, &other_first, &other_end)
                if first < other_end and other_first < end:
                    return False
    return True


def forward(cnp.ndarray x not None, cnp.ndarray U not None, cnp.ndarray W not None, cnp.ndarray b,
            cnp.ndarray h0 not None, cnp.ndarray out, n_threads=None, int phi=0, cnp.ndarray alpha=None,
            bint current=False, cnp.ndarray drive=None, cnp.ndarray rates=None, cnp.ndarray offsets=None):
    """Write h [T, B, H] to out and return it; out is new if None, and b may be None. BLAS has threads of its own.

    phi and current: numbers of pyrnn.cell; rates: written, or None. With `offsets` (see sequences.pyx) x, drive,
    rates and h are [1, N, .].
    """
    cdef Job job
    cdef Py_ssize_t H = W.shape[0]
    cdef tuple _kept = set_up(&job, x, H, h0, phi, alpha, current, offsets, False)
    check_forward(&job, x, U, W, b, out, drive, rates)
    check_packed(&job, x)
    if out is None:
        out = empty(x, (x.shape[0], x.shape[1], H))
    job.h, job.drive, job.rates, job.b = rows_in(out), rows_in(drive), rows_in(rates), data(b)
    if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32:
        return run_forward(<float>0, &job, x, U, W, out)
    return run_forward(<double>0, &job, x, U, W, out)


def backward(cnp.ndarray dh, cnp.ndarray h, cnp.ndarray x not None, cnp.ndarray U not None,
             cnp.ndarray W not None, cnp.ndarray h0 not None, n_threads=None, int phi=0, cnp.ndarray alpha=None,
             bint current=False, bint drive=False, cnp.ndarray rates=None, cnp.ndarray offsets=None,
             tuple results=None, cnp.ndarray lost=None, bint accumulate=False, bint goes_on=False, bint add_x=False):
    """(dx, dU, dW, db, dh0, ddrive, dalpha); ddrive and dalpha None unless there is a drive, an alpha [H].

    rates: what forward wrote; None without alpha, and in the current form if it must be computed. results: the first
    seven, of which dx may be None, to be written; None for new arrays. add_x: add to dx instead.

    To go through a long sequence from its end in pieces: dh of a piece's last step has the dh0 of the piece behind it,
    `accumulate` where the gradients of U, W, b and alpha begin with those, `goes_on` where another piece is to come,
    and in between `lost` [3, H], zeros at first, keeps what sums have lost by rounding.
    """
    cdef Job job
    cdef tuple _kept = set_up(&job, x, W.shape[0], h0, phi, alpha, current, offsets, True)
    check_backward(&job, x, U, W, dh, h, rates)
    check_packed(&job, x)
    job.accumulate, job.add_x = accumulate, add_x
    if lost is None:
        lost = empty(x, (3, job.H), zero=True)
    results = gradient_arrays(&job, x, drive, results, lost, NULL, goes_on)
    if current and rates is None:
        rates = phi_of(h, phi)
    job.dh, job.h, job.rates = rows_in(dh), rows_in(h), rows_in(h if alpha is None else rates)
    job.fed = job.rates if current else job.h
    if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32:
        run_backward(<float>0, &job, x, U, W)
    else:
        run_backward(<double>0, &job, x, U, W)
    return results


def state_gradients(cnp.ndarray dh, cnp.ndarray h not None, cnp.ndarray W not None, int phi=0, cnp.ndarray alpha=None,
                    bint current=False, cnp.ndarray rates=None, cnp.ndarray offsets=None):
    """grad_h [T, B, H], a new array."""
    cdef Job job
    cdef tuple _kept = set_up(&job, h, W.shape[0], None, phi, alpha, current, offsets, True)
    check_backward(&job, h, None, W, dh, h, rates)
    check_packed(&job, h)
    cdef cnp.ndarray grad_h = empty(h, (h.shape[0], h.shape[1], job.H))
    if current and rates is None:
        rates = phi_of(h, phi)
    job.dh, job.rates, job.grad_h = rows_in(dh), rows_in(h if alpha is None else rates), rows_in(grad_h)
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        return run_state_gradients(<float>0, &job, W, grad_h)
    return run_state_gradients(<double>0, &job, W, grad_h)


def takes_sequences(Py_ssize_t B):
    """Whether forward and backward read sequences of different lengths where they lie: see engine_fused.pyx."""
    return False


def jacobian(cnp.ndarray rates, cnp.ndarray W, int phi=0, cnp.ndarray alpha=None, bint current=False):
    """J [T, B, H, H], a new array; rates: phi of each step, in the current form of the step before."""
    cdef int kind = kind_of("rates", rates, 3)
    cdef Py_ssize_t H = rates.shape[2]
    need("rates", rates, kind, IN_ROWS, 3, rates.shape[0], rates.shape[1], H)
    need("W", W, kind, IN_ROWS, 2, H, H)
    need("alpha", alpha, kind, CONTIGUOUS | (0 if current else OPTIONAL), 1, H)
    if cnp.PyArray_TYPE(rates) == cnp.NPY_FLOAT32:
        return run_jacobian(<float>0, rates, W, phi, alpha, current)
    return run_jacobian(<double>0, rates, W, phi, alpha, current)


cdef int check_output(cnp.ndarray h, Py_ssize_t O, cnp.ndarray c, cnp.ndarray out) except -1:
    cdef int kind = kind_of("h", h, 3)
    need("h", h, kind, IN_ROWS, 3, h.shape[0], h.shape[1], h.shape[2])
    need("c", c, kind, CONTIGUOUS | OPTIONAL, 1, O)
    need("out", out, kind, CONTIGUOUS | WRITTEN | OPTIONAL, 3, h.shape[0], h.shape[1], O)
    return 0


def output(cnp.ndarray h not None, cnp.ndarray V, cnp.ndarray c, cnp.ndarray out=None):
    """Write o [T, B, O] to out, contiguous, and return it; out is new if None, and c may be None."""
    kind_of("V", V, 2)
    check_output(h, V.shape[0], c, out)
    need("V", V, cnp.PyArray_TYPE(h), AS_MATRIX, 2, V.shape[0], h.shape[2])
    if out is None:
        out = empty(h, (h.shape[0], h.shape[1], V.shape[0]))
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        return run_output(<float>0, h, V, c, out)
    return run_output(<double>0, h, V, c, out)


cdef tuple output_results(cnp.ndarray do_, cnp.ndarray h, cnp.ndarray V, tuple results, bint accumulate):
    """(dh, dV, dc): the arrays given, or new ones, ready to be added to; checks all."""
    cdef cnp.ndarray dh, dV, dc
    cdef int kind = kind_of("h", h, 3)
    kind_of("V", V, 2)
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2], O = V.shape[0]
    need("do", do_, kind, IN_ROWS, 3, T, B, O)
    need("h", h, kind, IN_ROWS, 3, T, B, H)
    need("V", V, kind, AS_MATRIX, 2, O, H)
    if results is None:
        if accumulate:
            raise ValueError("accumulate needs results to add to")
        dh, dV, dc = empty(h, (T, B, H)), empty(h, (O, H)), empty(h, (O,))
    else:
        dh, dV, dc = results
        need("dh", dh, kind, CONTIGUOUS | WRITTEN, 3, T, B, H)
        need("dV", dV, kind, CONTIGUOUS | WRITTEN, 2, O, H)
        need("dc", dc, kind, CONTIGUOUS | WRITTEN, 1, O)
    if not accumulate:
        dc.fill(0)
        if h.shape[0] == 0:
            dV.fill(0)
    return dh, dV, dc


def output_gradients(cnp.ndarray do, cnp.ndarray h, cnp.ndarray V, tuple results=None, bint accumulate=False):
    """(dh, dV, dc), new arrays, or results, which are contiguous; accumulate: dV and dc are added to those given."""
    cdef cnp.ndarray dh, dV, dc
    dh, dV, dc = output_results(do, h, V, results, accumulate)
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        return run_output_gradients(<float>0, do, h, V, dh, dV, dc, accumulate)
    return run_output_gradients(<double>0, do, h, V, dh, dV, dc, accumulate)


def _phi(cnp.ndarray rows, int phi):
    """phi of rows [n, H], contiguous, in place; returns them."""
    need("rows", rows, kind_of("rows", rows, 2), CONTIGUOUS | WRITTEN, 2, rows.shape[0], rows.shape[1])
    flush_subnormals()
    if cnp.PyArray_ITEMSIZE(rows) == 4:
        step_forward(rows.shape[0], rows.shape[1], <const float *>NULL, <float *>data(rows), rows.shape[1], phi)
    else:
        step_forward(rows.shape[0], rows.shape[1], <const double *>NULL, <double *>data(rows), rows.shape[1], phi)
    restore_subnormals()
    return rows


def steps_of_a_chunk(Py_ssize_t T, Py_ssize_t B, Py_ssize_t N, Py_ssize_t itemsize):
    """How many steps of B rows of N numbers the loops take together, counted in backward from the end of time."""
    return chunk_steps(T, B, N, itemsize)


def set_chunk_bytes(Py_ssize_t size):
    """Force how many bytes of a sequence make a chunk, 0 for the usual rule, and return the old number; for tests."""
    global FORCED_BYTES
    old, FORCED_BYTES = FORCED_BYTES, size
    return old
