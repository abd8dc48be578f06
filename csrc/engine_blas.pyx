"""Time: forward, backward and state gradients by BLAS products and the fused ends of a step.

Letters and equation numbers: docs/bptt.md. A sequence [T, B, N] comes as a pointer and two strides in elements, of
time and of batch, with rows of N contiguous numbers; matrices have contiguous rows and a stride `ld`. Outputs of
this module's own making are contiguous. What a function of Python has to do comes as a `Call` (call.pyx); all memory
is allocated before it gives up the GIL.

What does not depend on the recurrence is merged over a chunk of time into one product: U x_t in forward; dx, dU, dW
and db in backward. The memory beside inputs and outputs does not grow with T.
"""

cimport numpy as cnp
from cpython.pyport cimport PY_SSIZE_T_MAX
from libc.string cimport memcpy

from pyrnn._core.arrays cimport (
    AS_MATRIX, IN_ROWS, data, empty, gather, interrupted, kind_of, need, pass_on, pyrnn_seconds, real, stride,
)
from pyrnn._core.blas cimport by_rows
from pyrnn._core.call cimport (
    Call, Job, Rows, add_noise, at, check_output, chunk_steps, end_of_sums, feed, leak_gradient_of, output_results,
    present, rows_before,
)
from pyrnn._core.cell cimport Cell, read_cell
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

# ---- Rows of a chunk as one matrix ----------------------------------------------------------------------------------
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
                         Py_ssize_t xb, const real *U, Py_ssize_t ld_u, real *a, Py_ssize_t st, Py_ssize_t sb,
                         real *copy) noexcept nogil:
    """a_t = U x_t, all t at once where the rows of a allow it."""
    cdef Py_ssize_t t, ld
    cdef const real *rows = rows_of(T, B, I, x, xt, xb, copy, &ld)
    if one_stride(T, B, H, st, sb):
        gemm(False, True, T * B, H, I, rows, ld, U, ld_u, False, a, sb if B > 1 else st)
    else:
        for t in range(T):
            gemm(False, True, B, H, I, rows + t * B * ld, ld, U, ld_u, False, a + t * st, sb)


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
    cdef const real *drive
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
            drive = <const real *>job.drive.first
            if drive != NULL:
                drive += at(job, &job.drive, t, 0)
            if job.noise.given:
                add_noise(job, t, 0, n, drive, job.drive.sb, <const real *>h_t, job.h.sb, h_t, job.h.sb)
            elif drive != NULL:
                add_rows(n, H, drive, job.drive.sb, h_t, job.h.sb)
            gemm(False, not transposed, n, H, H, fed, ld_fed, W, ld_w, True, h_t, job.h.sb)
            # h_t = tanh(a_t)                                                (10.9)
            if job.cell.leaky:
                leaky_step_forward(n, H, <const real *>job.b, past, ld_past, h_t, job.h.sb,
                                   <real *>job.rates.first + at(job, &job.rates, t, 0), job.rates.sb,
                                   <const real *>job.cell.alpha, job.cell.phi, job.cell.current)
            else:
                step_forward(n, H, <const real *>job.b, h_t, job.h.sb, job.cell.phi)
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
    if job.cell.leaky:
        leaky_step_backward(rows, job.H, rates, ld_rates, dh, ld_dh, back, ld_back, past, ld_past, grad, ld_grad, delta,
                            job.H, <const real *>job.cell.alpha, job.cell.phi, job.cell.current)
    else:
        step_backward(rows, job.H, rates, ld_rates, dh, ld_dh, back, ld_back, grad, ld_grad, delta, job.H, job.cell.phi)


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
        if job.cell.leaky:
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
                       const real *W, Py_ssize_t ld_w, real *J, const Cell *cell) noexcept nogil:
    cdef Py_ssize_t t, i
    cdef double written = 0, since = pyrnn_seconds()
    cdef long long clock = begin()
    for t in range(T):
        for i in range(B):
            jacobian_step(H, h + t * ht + i * hb, W, ld_w, J + (t * B + i) * H * H, <const real *>cell.alpha, cell.phi,
                          cell.current)
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


# ---- For floor 3: calls in, memory taken here, and the GIL given up -------------------------------------------------
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


cdef int run_forward(real tag, Call call) except -1:
    cdef Job *job = &call.job
    cdef cnp.ndarray U = call.U, W = call.W
    cdef bint transposed = worth_transposing(job.T, job.B, job.H)
    cdef cnp.ndarray M = transposed_copy(tag, W) if transposed else W
    cdef Py_ssize_t ld_u = stride(U, 0), ld_w = stride(M, 0)
    cdef bint in_place = job.offsets != NULL or one_stride(job.T, job.B, job.inputs, job.x.st, job.x.sb)
    cdef const real *pU = <const real *>data(U)
    cdef const real *pW = <const real *>data(M)
    cdef real *copy = NULL if in_place else <real *>call.scratch.take(job.most * job.inputs * sizeof(real))
    cdef int status
    if job.cell.current:
        feed(job, sizeof(real), call.scratch.take(job.B * job.H * sizeof(real)))
    # Rates that are not requested: the loop needs those of a step, or of the one before.
    if job.cell.leaky and job.rates.first == NULL:
        if job.cell.current:
            job.rates.first = call.scratch.take(rows_before(job, job.T) * job.H * sizeof(real))
            job.rates.st, job.rates.sb = job.B * job.H, job.H
        else:
            job.rates.first = call.scratch.take(job.H * sizeof(real))
    job.fed = job.rates if job.cell.current else job.h
    with nogil:
        flush_subnormals()
        status = forward_loop(tag, job, pU, ld_u, pW, ld_w, transposed, copy)
        restore_subnormals()
    return pass_on(status)


cdef int run_backward(real tag, Call call) except -1:
    cdef Job *job = &call.job
    cdef Py_ssize_t ld_u = stride(call.U, 0), ld_w = stride(call.W, 0), size = (job.most + job.B) * job.H * sizeof(real)
    cdef bint in_place = job.offsets == NULL and one_stride(
        job.T, job.B, job.inputs, job.x.st, job.x.sb) and one_stride(job.T, job.B, job.H, job.fed.st, job.fed.sb)
    cdef const real *pU = <const real *>data(call.U)
    cdef const real *pW = <const real *>data(call.W)
    cdef real *copy = NULL
    cdef int status
    if not in_place:
        copy = <real *>call.scratch.take(job.most * max(job.inputs, job.H) * sizeof(real))
    job.delta = call.scratch.take(size)
    if job.cell.leaky:
        job.grad = call.scratch.take(size)
    if job.cell.current:
        feed(job, sizeof(real), call.scratch.take(job.B * job.H * sizeof(real)))
    with nogil:
        flush_subnormals()
        status = backward_loop(tag, job, pU, ld_u, pW, ld_w, copy)
        if status == 0 and not job.goes_on:
            end_of_sums(job, sizeof(real), 0, job.H)
        restore_subnormals()
    return pass_on(status)


cdef int run_state_gradients(real tag, Call call) except -1:
    cdef Job *job = &call.job
    cdef Py_ssize_t ld_w = stride(call.W, 0)
    cdef const real *pW = <const real *>data(call.W)
    cdef int status
    job.delta = call.scratch.take(job.B * job.H * sizeof(real))
    with nogil:
        flush_subnormals()
        status = state_gradients_loop(tag, job, pW, ld_w)
        restore_subnormals()
    return pass_on(status)


cdef cnp.ndarray run_jacobian(real tag, cnp.ndarray h, cnp.ndarray W, const Cell *cell):
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2]
    cdef Py_ssize_t ht = stride(h, 0), hb = stride(h, 1), ld_w = stride(W, 0)
    cdef cnp.ndarray J = empty(h, (T, B, H, H))
    cdef const real *ph = <const real *>data(h)
    cdef const real *pW = <const real *>data(W)
    cdef real *pJ = <real *>data(J)
    cdef int status
    with nogil:
        flush_subnormals()
        status = jacobian_loop(T, B, H, ph, ht, hb, pW, ld_w, pJ, cell)
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


def forward(Call call not None):
    """Compute a call of `Call.forward`. BLAS has threads of its own."""
    call.begin_forward(PY_SSIZE_T_MAX)
    if call.size == 4:
        run_forward(<float>0, call)
    else:
        run_forward(<double>0, call)
    call.end_forward()


def backward(Call call not None):
    """Compute a call of `Call.backward`."""
    call.begin_backward(PY_SSIZE_T_MAX)
    if call.size == 4:
        run_backward(<float>0, call)
    else:
        run_backward(<double>0, call)
    call.end_backward()


def state_gradients(Call call not None):
    """Compute a call of `Call.state_gradients`."""
    call.begin_state_gradients()
    if call.size == 4:
        run_state_gradients(<float>0, call)
    else:
        run_state_gradients(<double>0, call)
    call.end_state_gradients()


def jacobian(cnp.ndarray rates, cnp.ndarray W, cell):
    """J [T, B, H, H], a new array; rates: phi of each step, in the current form of the step before."""
    cdef int kind = kind_of("rates", rates, 3)
    cdef Py_ssize_t H = rates.shape[2]
    need("rates", rates, kind, IN_ROWS, 3, rates.shape[0], rates.shape[1], H)
    need("W", W, kind, IN_ROWS, 2, H, H)
    cdef Cell read
    read_cell(cell, H, rates, &read)
    if cnp.PyArray_TYPE(rates) == cnp.NPY_FLOAT32:
        return run_jacobian(<float>0, rates, W, &read)
    return run_jacobian(<double>0, rates, W, &read)


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


def output_gradients(cnp.ndarray do, cnp.ndarray h, cnp.ndarray V, tuple results=None, bint accumulate=False):
    """(dh, dV, dc), new arrays, or results, which are contiguous; accumulate: dV and dc are added to those given."""
    cdef cnp.ndarray dh, dV, dc
    dh, dV, dc = output_results(do, h, V, results, accumulate)
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        return run_output_gradients(<float>0, do, h, V, dh, dV, dc, accumulate)
    return run_output_gradients(<double>0, do, h, V, dh, dV, dc, accumulate)
