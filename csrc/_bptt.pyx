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
from libc.string cimport memcpy

from pyrnn._arrays cimport data, empty, fits, gather, interrupted, pass_on, pyrnn_seconds, real, stride, usable
from pyrnn._blas cimport by_rows
from pyrnn._profile cimport (
    BACKWARD_RECURRENCE, FORWARD_RECURRENCE, INPUT_GRADIENTS, INPUT_PRODUCT, JACOBIAN, OUTPUT, OUTPUT_GRADIENTS, PACK,
    WEIGHT_GRADIENTS, begin, lap,
)
from pyrnn._typed cimport column_sums, gemm, jacobian_step, step_backward, step_forward, transpose

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


# ---- Forward --------------------------------------------------------------------------------------------------------
cdef int forward_loop(Py_ssize_t T, Py_ssize_t B, Py_ssize_t I, Py_ssize_t H, const real *x, Py_ssize_t xt,
                      Py_ssize_t xb, const real *U, Py_ssize_t ld_u, const real *W, Py_ssize_t ld_w, bint transposed,
                      const real *b, const real *h0, Py_ssize_t ld_h0, real *h, Py_ssize_t ht, Py_ssize_t hb,
                      Py_ssize_t chunk, real *copy) noexcept nogil:
    cdef Py_ssize_t t, start = 0, stop, ld_previous = ld_h0
    cdef const real *previous = h0
    cdef real *h_t
    cdef double since = pyrnn_seconds()
    cdef long long clock = begin()
    while start < T:
        stop = min(start + chunk, T)
        merged_product(stop - start, B, I, H, x + start * xt, xt, xb, U, ld_u, h + start * ht, ht, hb, copy)
        clock = lap(clock, INPUT_PRODUCT, 0, sizeof(real), 2.0 * (stop - start) * B * H * I,
                    <double>(stop - start) * B * (I + H) + (H * I if start == 0 else 0))
        for t in range(start, stop):
            h_t = h + t * ht
            # a_t = b + U x_t + W h_{t-1}                                    (10.8)
            gemm(False, not transposed, B, H, H, previous, ld_previous, W, ld_w, True, h_t, hb)
            # h_t = tanh(a_t)                                                (10.9)
            step_forward(B, H, b, h_t, hb)
            previous, ld_previous = h_t, hb
        clock = lap(clock, FORWARD_RECURRENCE, 0, sizeof(real), 2.0 * (stop - start) * B * H * H,
                    2.0 * (stop - start) * B * H + (H * H + B * H if start == 0 else 0))
        start = stop
        if interrupted(&since):
            return -1
    return 0


# ---- Backward -------------------------------------------------------------------------------------------------------
cdef int backward_loop(Py_ssize_t T, Py_ssize_t B, Py_ssize_t I, Py_ssize_t H, const real *dh, Py_ssize_t dt,
                       Py_ssize_t db_, const real *h, Py_ssize_t ht, Py_ssize_t hb, const real *x, Py_ssize_t xt,
                       Py_ssize_t xb, const real *U, Py_ssize_t ld_u, const real *W, Py_ssize_t ld_w, const real *h0,
                       Py_ssize_t ld_h0, real *dx, real *dU, real *dW, real *db, real *dh0, Py_ssize_t chunk,
                       real *delta, real *copy) noexcept nogil:
    """delta: (chunk + 1) B H numbers, its last step the first of the chunk after; copy: chunk B max(I, H)."""
    cdef Py_ssize_t t, start, stop, first, n, step = B * H
    cdef const real *back
    cdef real *delta_t
    cdef double since = pyrnn_seconds()
    cdef bint later = False  # the sums over time hold something
    cdef long long clock = begin()
    stop = T
    while stop > 0:
        start = max(0, stop - chunk)
        n = stop - start
        for t in range(stop - 1, start - 1, -1):
            # delta_t = (1 - h_t²) ∘ (dh_t + Wᵀ delta_{t+1})                 (10.21)
            delta_t = delta + (t - start) * step
            back = NULL
            if t < T - 1:
                gemm(False, False, B, H, H, delta_t + step if t < stop - 1 else delta + chunk * step, H, W, ld_w,
                     False, delta_t, H)
                back = delta_t
            step_backward(B, H, h + t * ht, hb, dh + t * dt, db_, back, H, <real *>NULL, 0, delta_t, H)
        clock = lap(clock, BACKWARD_RECURRENCE, 0, sizeof(real), 2.0 * (min(stop, T - 1) - start) * B * H * H,
                    3.0 * n * B * H + (H * H if start == 0 else 0))
        # dx_t = Uᵀ delta_t
        gemm(False, False, n * B, I, H, delta, H, U, ld_u, False, dx + start * B * I, I)
        clock = lap(clock, INPUT_GRADIENTS, 0, sizeof(real), 2.0 * n * B * H * I,
                    <double>n * B * (H + I) + (H * I if start == 0 else 0))
        # dU = Σ delta_t x_tᵀ                                                (10.28)
        merged_gradient(n, B, H, I, delta, H, x + start * xt, xt, xb, later, dU, copy)
        # dW = Σ delta_t h_{t-1}ᵀ                                            (10.26)
        first = 1 if start == 0 else 0  # the step whose h_{t-1} is h0
        if first:
            gemm(True, False, H, H, B, delta, H, h0, ld_h0, later, dW, H)
        if n > first:
            merged_gradient(n - first, B, H, H, delta + first * step, H, h + (start + first - 1) * ht, ht, hb,
                            later or first == 1, dW, copy)
        # db = Σ delta_t                                                     (10.23)
        column_sums(n * B, H, delta, H, db, <real *>NULL)
        clock = lap(clock, WEIGHT_GRADIENTS, 0, sizeof(real), 2.0 * n * B * H * (I + H),
                    <double>n * B * (2 * H + I) + (H * (I + H + 1) if start == 0 else 0))
        memcpy(delta + chunk * step, delta, step * sizeof(real))
        later = True
        stop = start
        if interrupted(&since):
            return -1
    # dh0 = Wᵀ delta_1
    if T > 0:
        gemm(False, False, B, H, H, delta, H, W, ld_w, False, dh0, H)
        lap(clock, INPUT_GRADIENTS, 0, sizeof(real), 2.0 * B * H * H, 2.0 * B * H + H * H)
    return 0


cdef int state_gradients_loop(Py_ssize_t T, Py_ssize_t B, Py_ssize_t H, const real *dh, Py_ssize_t dt, Py_ssize_t db_,
                              const real *h, Py_ssize_t ht, Py_ssize_t hb, const real *W, Py_ssize_t ld_w,
                              real *grad_h, real *delta) noexcept nogil:
    cdef Py_ssize_t t
    cdef real *grad_t
    cdef real *back = NULL
    cdef double since = pyrnn_seconds()
    cdef long long clock = begin()
    for t in range(T - 1, -1, -1):
        # grad_h_t = dh_t + Wᵀ delta_{t+1}    delta_t = (1 - h_t²) ∘ grad_h_t    (10.20, 10.21)
        grad_t = grad_h + t * B * H
        if t < T - 1:
            gemm(False, False, B, H, H, delta, H, W, ld_w, False, grad_t, H)
            back = grad_t
        step_backward(B, H, h + t * ht, hb, dh + t * dt, db_, back, H, grad_t, H, delta, H)
        if interrupted(&since):
            return -1
    lap(clock, BACKWARD_RECURRENCE, 0, sizeof(real), 2.0 * max(T - 1, 0) * B * H * H, 3.0 * T * B * H + H * H)
    return 0


cdef int jacobian_loop(Py_ssize_t T, Py_ssize_t B, Py_ssize_t H, const real *h, Py_ssize_t ht, Py_ssize_t hb,
                       const real *W, Py_ssize_t ld_w, real *J) noexcept nogil:
    cdef Py_ssize_t t, i
    cdef double written = 0, since = pyrnn_seconds()
    cdef long long clock = begin()
    for t in range(T):
        for i in range(B):
            jacobian_step(H, h + t * ht + i * hb, W, ld_w, J + (t * B + i) * H * H)
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
                               const real *V, Py_ssize_t ld_v, real *dh, real *dV, real *dc, Py_ssize_t chunk,
                               real *copy_o, real *copy_h) noexcept nogil:
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
        merged_gradient(n, B, O, H, rows, ld, h + start * ht, ht, hb, start > 0, dV, copy_h)
        column_sums(n * B, O, rows, ld, dc, <real *>NULL)
        clock = lap(clock, OUTPUT_GRADIENTS, 0, sizeof(real), 4.0 * n * B * O * H,
                    <double>n * B * (O + 2 * H) + (O * (2 * H + 1) if start == 0 else 0))
        start += n
        if interrupted(&since):
            return -1
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


cdef cnp.ndarray run_forward(real tag, cnp.ndarray x, cnp.ndarray U, cnp.ndarray W, cnp.ndarray b, cnp.ndarray h0,
                             cnp.ndarray h):
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], I = x.shape[2], H = W.shape[0]
    cdef Py_ssize_t xt = stride(x, 0), xb = stride(x, 1), ht = stride(h, 0), hb = stride(h, 1)
    cdef bint transposed = worth_transposing(T, B, H)
    cdef cnp.ndarray M = transposed_copy(tag, W) if transposed else W
    cdef Py_ssize_t ld_u = stride(U, 0), ld_w = stride(M, 0), ld_h0 = stride(h0, 0)
    cdef Py_ssize_t chunk = chunk_steps(T, B, max(H, I), sizeof(real))
    cdef cnp.ndarray copy = None if one_stride(T, B, I, xt, xb) else empty(x, (chunk * B * I,))
    cdef const real *px = <const real *>data(x)
    cdef const real *pU = <const real *>data(U)
    cdef const real *pW = <const real *>data(M)
    cdef const real *pb = <const real *>data(b)
    cdef const real *ph0 = <const real *>data(h0)
    cdef real *ph = <real *>data(h)
    cdef real *pcopy = <real *>data(copy)
    cdef int status
    with nogil:
        status = forward_loop(T, B, I, H, px, xt, xb, pU, ld_u, pW, ld_w, transposed, pb, ph0, ld_h0, ph, ht, hb,
                              chunk, pcopy)
    pass_on(status)
    return h


cdef tuple run_backward(real tag, cnp.ndarray dh, cnp.ndarray h, cnp.ndarray x, cnp.ndarray U, cnp.ndarray W,
                        cnp.ndarray h0):
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], I = x.shape[2], H = W.shape[0]
    cdef Py_ssize_t xt = stride(x, 0), xb = stride(x, 1), ht = stride(h, 0), hb = stride(h, 1)
    cdef Py_ssize_t dt = stride(dh, 0), db_ = stride(dh, 1)
    cdef Py_ssize_t ld_u = stride(U, 0), ld_w = stride(W, 0), ld_h0 = stride(h0, 0)
    cdef Py_ssize_t chunk = chunk_steps(T, B, max(H, I), sizeof(real))
    cdef bint in_place = one_stride(T, B, I, xt, xb) and one_stride(T, B, H, ht, hb)
    cdef cnp.ndarray dx = empty(x, (T, B, I)), dU = empty(x, (H, I), zero=T == 0), dW = empty(x, (H, H), zero=T == 0)
    cdef cnp.ndarray db = empty(x, (H,), zero=True), dh0 = empty(x, (B, H), zero=T == 0)
    cdef cnp.ndarray delta = empty(x, ((chunk + 1) * B * H,))
    cdef cnp.ndarray copy = None if in_place else empty(x, (chunk * B * max(I, H),))
    cdef const real *pdh = <const real *>data(dh)
    cdef const real *ph = <const real *>data(h)
    cdef const real *px = <const real *>data(x)
    cdef const real *pU = <const real *>data(U)
    cdef const real *pW = <const real *>data(W)
    cdef const real *ph0 = <const real *>data(h0)
    cdef real *pdx = <real *>data(dx)
    cdef real *pdU = <real *>data(dU)
    cdef real *pdW = <real *>data(dW)
    cdef real *pdb = <real *>data(db)
    cdef real *pdh0 = <real *>data(dh0)
    cdef real *pdelta = <real *>data(delta)
    cdef real *pcopy = <real *>data(copy)
    cdef int status
    with nogil:
        status = backward_loop(T, B, I, H, pdh, dt, db_, ph, ht, hb, px, xt, xb, pU, ld_u, pW, ld_w, ph0, ld_h0, pdx,
                               pdU, pdW, pdb, pdh0, chunk, pdelta, pcopy)
    pass_on(status)
    return dx, dU, dW, db, dh0


cdef cnp.ndarray run_state_gradients(real tag, cnp.ndarray dh, cnp.ndarray h, cnp.ndarray W):
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2]
    cdef Py_ssize_t dt = stride(dh, 0), db_ = stride(dh, 1), ht = stride(h, 0), hb = stride(h, 1), ld_w = stride(W, 0)
    cdef cnp.ndarray grad_h = empty(h, (T, B, H)), delta = empty(h, (B * H,))
    cdef const real *pdh = <const real *>data(dh)
    cdef const real *ph = <const real *>data(h)
    cdef const real *pW = <const real *>data(W)
    cdef real *pgrad = <real *>data(grad_h)
    cdef real *pdelta = <real *>data(delta)
    cdef int status
    with nogil:
        status = state_gradients_loop(T, B, H, pdh, dt, db_, ph, ht, hb, pW, ld_w, pgrad, pdelta)
    pass_on(status)
    return grad_h


cdef cnp.ndarray run_jacobian(real tag, cnp.ndarray h, cnp.ndarray W):
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2]
    cdef Py_ssize_t ht = stride(h, 0), hb = stride(h, 1), ld_w = stride(W, 0)
    cdef cnp.ndarray J = empty(h, (T, B, H, H))
    cdef const real *ph = <const real *>data(h)
    cdef const real *pW = <const real *>data(W)
    cdef real *pJ = <real *>data(J)
    cdef int status
    with nogil:
        status = jacobian_loop(T, B, H, ph, ht, hb, pW, ld_w, pJ)
    pass_on(status)
    return J


cdef cnp.ndarray run_output(real tag, cnp.ndarray h, cnp.ndarray V, cnp.ndarray c):
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2], O = V.shape[0]
    cdef Py_ssize_t ht = stride(h, 0), hb = stride(h, 1), ld_v = stride(V, 0)
    cdef Py_ssize_t chunk = chunk_steps(T, B, max(H, O), sizeof(real))
    cdef cnp.ndarray o = empty(h, (T, B, O)), copy = None if one_stride(T, B, H, ht, hb) else empty(h, (chunk * B * H,))
    cdef const real *ph = <const real *>data(h)
    cdef const real *pV = <const real *>data(V)
    cdef const real *pc = <const real *>data(c)
    cdef real *po = <real *>data(o)
    cdef real *pcopy = <real *>data(copy)
    cdef int status
    with nogil:
        status = output_loop(T, B, H, O, ph, ht, hb, pV, ld_v, pc, po, chunk, pcopy)
    pass_on(status)
    return o


cdef tuple run_output_gradients(real tag, cnp.ndarray do_, cnp.ndarray h, cnp.ndarray V):
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2], O = V.shape[0]
    cdef Py_ssize_t dt = stride(do_, 0), db_ = stride(do_, 1), ht = stride(h, 0), hb = stride(h, 1)
    cdef Py_ssize_t ld_v = stride(V, 0), chunk = chunk_steps(T, B, max(H, O), sizeof(real))
    cdef cnp.ndarray dh = empty(h, (T, B, H)), dV = empty(h, (O, H), zero=T == 0), dc = empty(h, (O,), zero=True)
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
        status = output_gradients_loop(T, B, H, O, pdo, dt, db_, ph, ht, hb, pV, ld_v, pdh, pdV, pdc, chunk, pcopy_o,
                                       pcopy_h)
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


def fit(x, U, W, b, h0, dh=None, h=None):
    """Whether forward, or backward where there is dh, takes the arguments as they are: b and h0 may be None.

    What it says no to may still be right: it is the short way past the checks, 0.2 us instead of 3.
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
    return (fits(x, kind, 3, inputs) and fits(U, kind, 2, columns) and fits(W, kind, 2, square)
            and stride(U, 0) >= columns[1] and stride(W, 0) >= square[1]  # else BLAS wants a copy, as of h0
            and (h0 is None or fits(h0, kind, 2, states + 1) and stride(h0, 0) >= states[2])
            and (b is None or fits(b, kind, 1, square))
            and (dh is None or fits(dh, kind, 3, states) and fits(h, kind, 3, states)))


def forward(cnp.ndarray x, cnp.ndarray U, cnp.ndarray W, cnp.ndarray b, cnp.ndarray h0, cnp.ndarray out,
            n_threads=None):
    """Write h [T, B, H] to out and return it; out is new if None, and b may be None. BLAS has threads of its own."""
    if out is None:
        out = empty(x, (x.shape[0], x.shape[1], W.shape[0]))
    if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32:
        return run_forward(<float>0, x, U, W, b, h0, out)
    return run_forward(<double>0, x, U, W, b, h0, out)


def backward(cnp.ndarray dh, cnp.ndarray h, cnp.ndarray x, cnp.ndarray U, cnp.ndarray W, cnp.ndarray h0,
             n_threads=None):
    """(dx, dU, dW, db, dh0), new arrays."""
    if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32:
        return run_backward(<float>0, dh, h, x, U, W, h0)
    return run_backward(<double>0, dh, h, x, U, W, h0)


def state_gradients(cnp.ndarray dh, cnp.ndarray h, cnp.ndarray W):
    """grad_h [T, B, H], a new array."""
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        return run_state_gradients(<float>0, dh, h, W)
    return run_state_gradients(<double>0, dh, h, W)


def jacobian(cnp.ndarray h, cnp.ndarray W):
    """J [T, B, H, H], a new array."""
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        return run_jacobian(<float>0, h, W)
    return run_jacobian(<double>0, h, W)


def output(cnp.ndarray h, cnp.ndarray V, cnp.ndarray c):
    """o [T, B, O], a new array; c may be None."""
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        return run_output(<float>0, h, V, c)
    return run_output(<double>0, h, V, c)


def output_gradients(cnp.ndarray do, cnp.ndarray h, cnp.ndarray V):
    """(dh, dV, dc), new arrays."""
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        return run_output_gradients(<float>0, do, h, V)
    return run_output_gradients(<double>0, do, h, V)


def set_chunk_bytes(Py_ssize_t size):
    """Force how many bytes of a sequence make a chunk, 0 for the usual rule, and return the old number; for tests."""
    global FORCED_BYTES
    old, FORCED_BYTES = FORCED_BYTES, size
    return old
