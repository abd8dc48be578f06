"""Time, for derivatives in a direction and of second order: tangents of forward and of backward, gradients by sequence.

A letter with a dot is a derivative in a direction: h_dot that of h when x moves by x_dot, W by W_dot and so on. The
tangent of a step is linear in the one before,

    a_dot_t = add_t + W h_dot_{t-1}      add_t = b_dot + drive_dot_t + U x_dot_t + U_dot x_t + W_dot h_{t-1}
    h_dot_t = phi'(a_t) ∘ a_dot_t

which is the step of backward with Wᵀ for W, so that the same kernel does it. `add` does not depend on the recurrence:
its products are merged over a chunk of time and written where h_dot will stand, which the recurrence then reads while
the chunk is in the cache. Letters, chunks, and how arrays are passed: see engine_blas.pyx. One thread.
"""

cimport cython
cimport numpy as cnp
from libc.string cimport memcpy, memset

from pyrnn._core.arrays cimport (
    AS_MATRIX, CONTIGUOUS, IN_ROWS, OPTIONAL, WRITTEN, crowded, data, empty, interrupted, kind_of, need, need_padded,
    padded, pass_on, pyrnn_seconds, real, stride,
)
from pyrnn._core.call cimport Job, Rows, at, chunk_steps, count_steps, divide, feed, present, rows_in
from pyrnn._core.cell cimport read_cell
from pyrnn._core.engine_fused cimport APART, packed_in, rows_product
from pyrnn._core.numbers cimport bends_of, is_bent, slopes_of
from pyrnn._core.scratch cimport Scratch
from pyrnn._core.table cimport flush_subnormals, restore_subnormals
from pyrnn._core.typed cimport (
    column_sums, fused_backward, leaky_step_backward, outer, pack, pack_narrow, pack_transposed, panels_size, product,
    step_backward,
)

cnp.import_array()

cdef struct Tangent:
    Job job
    # Directions; first is NULL where there is none. h_dot is written, first with `add`.
    Rows x_dot, drive_dot, h_dot
    # Also written: a_dot, or in the current form, where W multiplies phi(h), the tangent of that; NULL if unused.
    Rows second
    const void *b_dot
    const void *alpha_dot
    const void *h0_dot             # [B, H], ld_h0_dot apart: 0 for one row of zeros
    const void *fed0_dot           # the tangent of what W multiplies in the first step
    Py_ssize_t ld_h0_dot, ld_fed0_dot
    const void *panels_U           # of the transposes; NULL where no direction needs them
    const void *panels_U_dot
    const void *panels_W
    const void *panels_W_dot
    void *state                    # 2 B ld numbers where rows of h_dot are crowded, else NULL
    void *slopes                   # [H], of leaky cells
    void *bends                    # [H]


# ---- The tangent of forward -----------------------------------------------------------------------------------------
cdef void add_product(Tangent *job, Py_ssize_t start, Py_ssize_t stop, const Rows *a, bint before, Py_ssize_t K,
                      const real *panels, bint begun) noexcept nogil:
    """add_t += M a_t for the steps of a chunk, or `before` M a_{t-1}; unless begun, add_t = b_dot + M a_t."""
    cdef Job *j = &job.job
    cdef Py_ssize_t t = start, H = j.H, B = j.B, ot = job.h_dot.st, ob = job.h_dot.sb
    cdef Py_ssize_t it = ot if begun else 0, ib = ob if begun else 0
    cdef const real *b = <const real *>job.b_dot
    cdef const real *x = <const real *>a.first
    cdef real *add = <real *>job.h_dot.first
    if before and t == 0:
        product(present(j, 0, 0, B), K, H, <const real *>j.fed0, j.ld_fed0, panels, add if begun else b, ib, add, ob)
        t = 1
    if j.offsets == NULL:
        if t < stop:
            add += t * ot
            rows_product(stop - t, B, K, H, x + (t - before) * a.st, a.st, a.sb, panels, add if begun else b, it, ib,
                         add, ot, ob)
        return
    for t in range(t, stop):
        add = <real *>job.h_dot.first + at(j, &job.h_dot, t, 0)
        product(present(j, t, 0, B), K, H, x + at(j, a, t - before, 0), a.sb, panels, add if begun else b, ib, add, ob)


cdef void add_rows(real tag, Tangent *job, Py_ssize_t start, Py_ssize_t stop, bint zeros) noexcept nogil:
    """add_t = b_dot + drive_dot_t, where the sums of a chunk begin with either; with `zeros` in any case."""
    cdef Job *j = &job.job
    cdef Py_ssize_t t, i, k, H = j.H
    cdef const real *b = <const real *>job.b_dot
    cdef const real *drive
    cdef real *add
    for t in range(start, stop):
        for i in range(present(j, t, 0, j.B)):
            add = <real *>job.h_dot.first + at(j, &job.h_dot, t, i)
            if job.drive_dot.first == NULL:
                if b == NULL:
                    memset(add, 0, H * sizeof(real))
                else:
                    memcpy(add, b, H * sizeof(real))
                continue
            drive = <const real *>job.drive_dot.first + at(j, &job.drive_dot, t, i)
            for k in range(H):
                add[k] = drive[k] if b == NULL else b[k] + drive[k]


cdef void fill(real tag, Tangent *job, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """add_t = b_dot + drive_dot_t + U x_dot_t + U_dot x_t + W_dot h_{t-1} for the steps of a chunk."""
    cdef Job *j = &job.job
    cdef bint begun = job.drive_dot.first != NULL
    if begun or (job.x_dot.first == job.panels_U_dot == job.panels_W_dot == NULL):
        add_rows(tag, job, start, stop, not begun)
        begun = True
    if job.x_dot.first != NULL:
        add_product(job, start, stop, &job.x_dot, False, j.inputs, <const real *>job.panels_U, begun)
        begun = True
    if job.panels_U_dot != NULL:
        add_product(job, start, stop, &j.x, False, j.inputs, <const real *>job.panels_U_dot, begun)
        begun = True
    if job.panels_W_dot != NULL:
        add_product(job, start, stop, &j.fed, True, j.H, <const real *>job.panels_W_dot, begun)


cdef void leak(real tag, Tangent *job, Py_ssize_t t, Py_ssize_t n) noexcept nogil:
    """From a_dot_t, which stands there, the h_dot_t of leaky cells, and what goes into the next step.

    rate:     h_dot_t = (1 - alpha) h_dot_{t-1} + alpha phi'(a_t) a_dot_t + alpha_dot (r_t - h_{t-1})
    current:  h_dot_t = (1 - alpha) h_dot_{t-1} + alpha a_dot_t + alpha_dot (a_t - h_{t-1})
    with a_t - h_{t-1} = (h_t - h_{t-1}) / alpha, and phi'(h_t) h_dot_t goes into the next step.
    """
    cdef Job *j = &job.job
    cdef Py_ssize_t _, k, H = j.H
    cdef const real *alpha = <const real *>j.cell.alpha
    cdef const real *alpha_dot = <const real *>job.alpha_dot
    cdef const real *h = <const real *>j.h.first + at(j, &j.h, t, 0)
    cdef const real *rates = <const real *>j.rates.first + at(j, &j.rates, t, 0)
    cdef const real *h_past = <const real *>j.h0
    cdef const real *past = <const real *>job.h0_dot
    cdef real *h_dot = <real *>job.h_dot.first + at(j, &job.h_dot, t, 0)
    cdef real *second = NULL
    cdef Py_ssize_t ld_h_past = j.ld_h0, ld_past = job.ld_h0_dot
    cdef real *slope = <real *>job.slopes
    if job.second.first != NULL:
        second = <real *>job.second.first + at(j, &job.second, t, 0)
    if t > 0:
        h_past, ld_h_past = <const real *>j.h.first + at(j, &j.h, t - 1, 0), j.h.sb
        past, ld_past = <const real *>job.h_dot.first + at(j, &job.h_dot, t - 1, 0), job.h_dot.sb
    for _ in range(n):
        slopes_of(H, rates, j.cell.phi, slope)
        if j.cell.current:
            for k in range(H):
                h_dot[k] = (1 - alpha[k]) * past[k] + alpha[k] * h_dot[k]
        else:
            if second != NULL:
                memcpy(second, h_dot, H * sizeof(real))
            for k in range(H):
                h_dot[k] = (1 - alpha[k]) * past[k] + alpha[k] * slope[k] * h_dot[k]
        if alpha_dot != NULL:
            for k in range(H):
                h_dot[k] += alpha_dot[k] * ((h[k] - h_past[k]) / alpha[k] if j.cell.current else rates[k] - h_past[k])
        if j.cell.current:
            for k in range(H):
                second[k] = slope[k] * h_dot[k]
        h += j.h.sb
        rates += j.rates.sb
        h_past += ld_h_past
        past += ld_past
        h_dot += job.h_dot.sb
        if second != NULL:
            second += job.second.sb


cdef void tangent_step(real tag, Tangent *job, Py_ssize_t t) noexcept nogil:
    cdef Job *j = &job.job
    cdef Py_ssize_t H = j.H, n = present(j, t, 0, j.B), ob = job.h_dot.sb, ld_previous = job.ld_fed0_dot, i
    cdef Rows *fed = &job.second if j.cell.current else &job.h_dot
    cdef const real *previous = <const real *>job.fed0_dot
    cdef real *h_dot = <real *>job.h_dot.first + at(j, &job.h_dot, t, 0)
    cdef real *state = <real *>job.state
    cdef real *a_dot = NULL
    if t > 0:
        previous, ld_previous = <const real *>fed.first + at(j, fed, t - 1, 0), fed.sb
        if state != NULL:
            previous, ld_previous = state + (t - 1) % 2 * j.B * j.ld, j.ld
    if j.cell.leaky:
        product(n, H, H, previous, ld_previous, <const real *>job.panels_W, h_dot, ob, h_dot, ob)
        leak(tag, job, t, n)
    else:
        if job.second.first != NULL:
            a_dot = <real *>job.second.first + at(j, &job.second, t, 0)
        # a_dot_t = add_t + W h_dot_{t-1}    h_dot_t = phi'(a_t) ∘ a_dot_t
        fused_backward(n, H, previous, ld_previous, <const real *>job.panels_W,
                       <const real *>j.rates.first + at(j, &j.rates, t, 0), j.rates.sb, h_dot, ob, a_dot, job.second.sb,
                       h_dot, ob, j.cell.phi, t % 2)
    if state != NULL:
        for i in range(n):
            memcpy(state + (t % 2 * j.B + i) * j.ld, h_dot + i * ob, H * sizeof(real))


cdef int tangent_loop(real tag, Tangent *job) noexcept nogil:
    cdef Py_ssize_t c, t
    cdef double since = pyrnn_seconds()
    for c in range(job.job.chunks):
        fill(tag, job, job.job.starts[c], job.job.starts[c + 1])
        for t in range(job.job.starts[c], job.job.starts[c + 1]):
            tangent_step(tag, job, t)
        if interrupted(&since):
            return -1
    return 0


# ---- The tangent of backward ----------------------------------------------------------------------------------------
cdef struct Second:
    # Of a tangent whose arrays are complete. Rows of delta and delta_dot [T, B, H] lie `ld` apart, without other gaps.
    Tangent *tangent
    const void *g                  # grad_h, contiguous
    const void *delta
    Rows dh_dot
    void *delta_dot                # written
    void *g_dot                    # of leaky cells, written, contiguous
    void *later                    # of the current form: Wᵀ delta_{t+1} of a chunk
    const void *panels_W           # of W, U and their tangents themselves
    const void *panels_W_dot
    const void *panels_U
    const void *panels_U_dot
    # Written: tangents of the gradients, contiguous; dx NULL if not requested.
    void *dx
    void *dU
    void *dW
    void *db
    void *lost                     # what the roundings of db have lost
    void *panels_x                 # of a chunk
    void *panels_h
    void *narrow                   # or NULL where delta is read as it lies


cdef void begin_chunk(real tag, Second *job, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """What delta_dot does not need the recurrence for, where it will stand.

    Without leak dh_dot_t + W_dotᵀ delta_{t+1} + phi''/phi' ∘ a_dot_t ∘ grad_h_t, the last one from the slope of the
    slope: phi''/phi' = -2 h_t of tanh. With a leak the second term alone.
    """
    cdef Job *j = &job.tangent.job
    cdef Py_ssize_t H = j.H, B = j.B, ld = j.ld, t, i, k
    cdef Py_ssize_t rows = (min(stop, j.T - 1) - start) * B  # those that have a later step
    cdef Rows *a = &job.tangent.second
    cdef real *add = <real *>job.delta_dot + start * B * ld
    cdef const real *later = <const real *>job.delta + (start + 1) * B * ld
    cdef const real *g = <const real *>job.g + start * B * H
    cdef const real *a_dot
    cdef real *bend = <real *>job.tangent.bends
    for t in range(start, stop):
        for i in range(B):
            if job.dh_dot.first == NULL or j.cell.leaky:
                memset(add, 0, H * sizeof(real))
            else:
                memcpy(add, <const real *>job.dh_dot.first + at(j, &job.dh_dot, t, i), H * sizeof(real))
            if is_bent(j.cell.phi) and not j.cell.leaky:
                bends_of(H, <const real *>j.h.first + at(j, &j.h, t, i), j.cell.phi, bend)
                a_dot = <const real *>a.first + at(j, a, t, i)
                for k in range(H):
                    add[k] += bend[k] * a_dot[k] * g[k]
            add += ld
            g += H
    add = <real *>job.delta_dot + start * B * ld
    if job.panels_W_dot != NULL:
        product(rows, H, H, later, ld, <const real *>job.panels_W_dot, add, ld, add, ld)
    if j.cell.current:
        product(rows, H, H, later, ld, <const real *>job.panels_W, <const real *>NULL, 0, <real *>job.later, ld)


cdef void leak_back(real tag, Second *job, Py_ssize_t start, Py_ssize_t t) noexcept nogil:
    """From flow = W_dotᵀ delta_{t+1} + Wᵀ delta_dot_{t+1}, which stands there, delta_dot_t and g_dot_t of leaky cells.

    rate:     g_dot_t = dh_dot_t + (1 - alpha) g_dot_{t+1} - alpha_dot g_{t+1} + flow
              delta_dot_t = alpha phi' (g_dot_t + phi''/phi' a_dot g_t) + alpha_dot phi' g_t
    current:  g_dot_t = dh_dot_t + (1 - alpha) g_dot_{t+1} - alpha_dot g_{t+1}
                        + phi' (flow + phi''/phi' h_dot Wᵀ delta_{t+1})
              delta_dot_t = alpha g_dot_t + alpha_dot g_t
    """
    cdef Job *j = &job.tangent.job
    cdef Py_ssize_t H = j.H, B = j.B, ld = j.ld, i, k, row
    cdef bint last = t == j.T - 1  # nothing comes back to it
    cdef Rows *moved = &job.tangent.h_dot if j.cell.current else &job.tangent.second
    cdef const real *alpha = <const real *>j.cell.alpha
    cdef const real *alpha_dot = <const real *>job.tangent.alpha_dot
    cdef const real *g
    cdef const real *r
    cdef const real *dot
    cdef const real *later
    cdef real *slope = <real *>job.tangent.slopes
    cdef real *bend = <real *>job.tangent.bends
    cdef real *g_dot
    cdef real *delta_dot
    for i in range(B):
        row = t * B + i
        g, g_dot = <const real *>job.g + row * H, <real *>job.g_dot + row * H
        delta_dot = <real *>job.delta_dot + row * ld
        r = <const real *>j.rates.first + at(j, &j.rates, t, i)
        dot = <const real *>moved.first + at(j, moved, t, i)
        slopes_of(H, r, j.cell.phi, slope)
        bends_of(H, r, j.cell.phi, bend)
        if job.dh_dot.first == NULL:
            memset(g_dot, 0, H * sizeof(real))
        else:
            memcpy(g_dot, <const real *>job.dh_dot.first + at(j, &job.dh_dot, t, i), H * sizeof(real))
        if not last:
            if j.cell.current:
                later = <const real *>job.later + (row - start * B) * ld
                for k in range(H):
                    delta_dot[k] = slope[k] * (delta_dot[k] + bend[k] * dot[k] * later[k])
            for k in range(H):
                g_dot[k] += (1 - alpha[k]) * g_dot[B * H + k] + delta_dot[k]
            if alpha_dot != NULL:
                for k in range(H):
                    g_dot[k] -= alpha_dot[k] * g[B * H + k]
        if j.cell.current:
            for k in range(H):
                delta_dot[k] = alpha[k] * g_dot[k]
        else:
            for k in range(H):
                delta_dot[k] = alpha[k] * slope[k] * (g_dot[k] + bend[k] * dot[k] * g[k])
        if alpha_dot != NULL:
            for k in range(H):
                delta_dot[k] += alpha_dot[k] * g[k] * (1 if j.cell.current else slope[k])


cdef void back_chunk(real tag, Second *job, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """delta_dot_t = phi'(h_t) ∘ (add_t + Wᵀ delta_dot_{t+1}) from the chunk's last step to its first."""
    cdef Job *j = &job.tangent.job
    cdef Py_ssize_t H = j.H, B = j.B, ld = j.ld, t
    cdef const real *panels = <const real *>job.panels_W
    cdef const real *rates
    cdef real *d
    for t in range(stop - 1, start - 1, -1):
        d = <real *>job.delta_dot + t * B * ld
        rates = <const real *>j.rates.first + at(j, &j.rates, t, 0)
        if j.cell.leaky:
            if t < j.T - 1:
                product(B, H, H, d + B * ld, ld, panels, d, ld, d, ld)
            leak_back(tag, job, start, t)
        elif t < j.T - 1:
            fused_backward(B, H, d + B * ld, ld, panels, rates, j.rates.sb, d, ld, <real *>NULL, 0, d, ld, j.cell.phi,
                           t % 2)
        else:
            step_backward(B, H, rates, j.rates.sb, d, ld, <const real *>NULL, 0, <real *>NULL, 0, d, ld, j.cell.phi)


cdef const real *as_columns(const Job *job, void *narrow, Py_ssize_t K, const real *D, Py_ssize_t *ld) noexcept nogil:
    """Rows of delta as an outer product reads its columns best: as they lie, or packed."""
    if narrow == NULL:
        return D
    pack_narrow(K, job.H, D, ld[0], <real *>narrow)
    ld[0] = 0
    return <const real *>narrow


cdef void pack_steps(Py_ssize_t start, Py_ssize_t stop, const Rows *a, Py_ssize_t B, Py_ssize_t n,
                     real *panels) noexcept nogil:
    """Panels of the rows of some steps."""
    cdef Py_ssize_t K = (stop - start) * B
    pack(K, 0, stop - start, B, n, <const real *>a.first + start * a.st, a.st, a.sb, panels)


cdef void pack_before(Py_ssize_t start, Py_ssize_t stop, const Rows *a, const real *first, Py_ssize_t ld_first,
                      Py_ssize_t B, Py_ssize_t n, real *panels) noexcept nogil:
    """The same of the steps before each, with `first` before step 0."""
    cdef Py_ssize_t K = (stop - start) * B, t = start
    if t == 0:
        pack(K, 0, 1, B, n, first, 0, ld_first, panels)
        t = 1
    if t < stop:
        pack(K, (t - start) * B, stop - t, B, n, <const real *>a.first + (t - 1) * a.st, a.st, a.sb, panels)


cdef void weights_chunk(real tag, Second *job, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    cdef Tangent *tangent = job.tangent
    cdef Job *j = &tangent.job
    cdef Py_ssize_t H = j.H, I = j.inputs, B = j.B, K = (stop - start) * B, ld = j.ld, first = start * B
    cdef bint accumulate = stop < j.T
    cdef const real *delta = <const real *>job.delta + first * ld
    cdef const real *delta_dot = <const real *>job.delta_dot + first * ld
    cdef const real *D = as_columns(j, job.narrow, K, delta_dot, &ld)
    cdef real *dx = <real *>job.dx
    cdef real *panels_x = <real *>job.panels_x
    cdef real *panels_h = <real *>job.panels_h
    cdef Rows *fed_dot = &tangent.second if j.cell.current else &tangent.h_dot
    # dU_dot = Σ delta_dot_t x_tᵀ + delta_t x_dot_tᵀ    dW_dot = Σ delta_dot_t h_{t-1}ᵀ + delta_t h_dot_{t-1}ᵀ
    pack_steps(start, stop, &j.x, B, I, panels_x)
    outer(K, H, I, D, ld, panels_x, accumulate, <real *>job.dU, I)
    pack_before(start, stop, &j.fed, <const real *>j.fed0, j.ld_fed0, B, H, panels_h)
    outer(K, H, H, D, ld, panels_h, accumulate, <real *>job.dW, H)
    ld = j.ld
    column_sums(K, H, delta_dot, ld, <real *>job.db, <real *>job.lost)
    if dx != NULL:
        product(K, H, I, delta_dot, ld, <const real *>job.panels_U, <const real *>NULL, 0, dx + first * I, I)
        if job.panels_U_dot != NULL:
            product(K, H, I, delta, ld, <const real *>job.panels_U_dot, dx + first * I, I, dx + first * I, I)
    D = as_columns(j, job.narrow, K, delta, &ld)
    if tangent.x_dot.first != NULL:
        pack_steps(start, stop, &tangent.x_dot, B, I, panels_x)
        outer(K, H, I, D, ld, panels_x, True, <real *>job.dU, I)
    pack_before(start, stop, fed_dot, <const real *>tangent.fed0_dot, tangent.ld_fed0_dot, B, H, panels_h)
    outer(K, H, H, D, ld, panels_h, True, <real *>job.dW, H)


cdef int second_loop(real tag, Second *job) noexcept nogil:
    cdef Job *j = &job.tangent.job
    cdef Py_ssize_t c
    cdef double since = pyrnn_seconds()
    for c in range(j.chunks - 1, -1, -1):
        begin_chunk(tag, job, j.starts[c], j.starts[c + 1])
        back_chunk(tag, job, j.starts[c], j.starts[c + 1])
        weights_chunk(tag, job, j.starts[c], j.starts[c + 1])
        if interrupted(&since):
            return -1
    return 0


cdef void delta_loop(Job *job, real *g, real *delta) noexcept nogil:
    """delta_t = phi'(a_t) ∘ grad_h_t, of leaky cells as in backward; grad_h contiguous, rows of delta ld apart."""
    cdef Py_ssize_t t, B = job.B, H = job.H, ld = job.ld, ld_rates = job.rates.sb
    cdef const real *rates
    for t in range(job.T):
        rates = <const real *>job.rates.first + at(job, &job.rates, t, 0)
        if job.cell.leaky:  # which writes grad_h too: as it is
            leaky_step_backward(B, H, rates, ld_rates, g, H, <const real *>NULL, 0, <const real *>NULL, 0, g, H, delta,
                                ld, <const real *>job.cell.alpha, job.cell.phi, job.cell.current)
        else:
            step_backward(B, H, rates, ld_rates, g, H, <const real *>NULL, 0, <real *>NULL, 0, delta, ld, job.cell.phi)
        g += B * H
        delta += B * ld


# ---- Gradients of each sequence -------------------------------------------------------------------------------------
cdef struct Each:
    Job job
    const void *delta              # [T, B, H], rows `job.ld` apart
    Py_ssize_t chunk               # steps
    void *panels_x                 # of a chunk
    void *panels_h
    void *narrow
    void *lost                     # [H]
    # Written, of all sequences; for norms, of one.
    void *dU
    void *dW
    void *db
    double *squares                # [3, B]: the squared norms of the three, or NULL
    # Where the products of steps by steps are less work, memory for three of them and for T rows of h_{t-1}; else NULL.
    void *grams
    void *rows


cdef inline double square(const real *a, Py_ssize_t n) noexcept nogil:
    """Σ a², in four sums."""
    cdef double s[4]
    cdef Py_ssize_t i, k
    s[0] = s[1] = s[2] = s[3] = 0
    for i in range(0, n - 3, 4):
        for k in range(4):
            s[k] += <double>a[i + k] * a[i + k]
    for i in range(n - n % 4, n):
        s[0] += <double>a[i] * a[i]
    return s[0] + s[1] + (s[2] + s[3])


cdef void gradient_of(Each *job, Py_ssize_t row, real *dU, real *dW, real *db) noexcept nogil:
    """dU = Σ delta_t x_tᵀ    dW = Σ delta_t h_{t-1}ᵀ    db = Σ delta_t of one sequence."""
    cdef Job *j = &job.job
    cdef Py_ssize_t H = j.H, I = j.inputs, start = 0, n, k, ld = j.B * j.ld
    cdef real *panels_x = <real *>job.panels_x
    cdef real *panels_h = <real *>job.panels_h
    cdef real *lost = <real *>job.lost
    cdef real *D = <real *>job.narrow
    cdef const real *delta
    cdef Rows x = j.x, fed = j.fed
    x.first = <real *>x.first + row * x.sb
    fed.first = <real *>fed.first + row * fed.sb
    memset(db, 0, H * sizeof(real))
    memset(lost, 0, H * sizeof(real))
    if j.T == 0:
        memset(dU, 0, H * I * sizeof(real))
        memset(dW, 0, H * H * sizeof(real))
    while start < j.T:
        n = min(job.chunk, j.T - start)
        delta = <const real *>job.delta + start * ld + row * j.ld
        pack_narrow(n, H, delta, ld, D)
        pack_steps(start, start + n, &x, 1, I, panels_x)
        pack_before(start, start + n, &fed, <const real *>j.fed0 + row * j.ld_fed0, 0, 1, H, panels_h)
        outer(n, H, I, D, 0, panels_x, start > 0, dU, I)
        outer(n, H, H, D, 0, panels_h, start > 0, dW, H)
        column_sums(n, H, delta, ld, db, lost)
        start += n
    for k in range(H):
        db[k] += lost[k]


cdef void gram(Py_ssize_t T, Py_ssize_t K, const real *a, Py_ssize_t ld, real *panels, real *out) noexcept nogil:
    """out [T, T] = a aᵀ, the products of all pairs of rows."""
    pack_transposed(K, T, a, ld, panels)
    product(T, K, T, a, ld, panels, <const real *>NULL, 0, out, T)


cdef void norms_by_steps(Each *job, Py_ssize_t row, real tag) noexcept nogil:
    """|Σ_t delta_t y_tᵀ|² = Σ_{t,s} (delta_t · delta_s) (y_t · y_s), for y of x, h_{t-1} and 1."""
    cdef Job *j = &job.job
    cdef Py_ssize_t T = j.T, H = j.H, i
    cdef real *dd = <real *>job.grams
    cdef real *yy = dd + T * T
    cdef real *rows = <real *>job.rows
    cdef double of_U = 0, of_W = 0, of_b = 0
    gram(T, H, <const real *>job.delta + row * j.ld, j.B * j.ld, <real *>job.panels_h, dd)
    gram(T, j.inputs, <const real *>j.x.first + row * j.x.sb, j.x.st, <real *>job.panels_x, yy)
    for i in range(T * T):
        of_b += dd[i]
        of_U += <double>dd[i] * yy[i]
    memcpy(rows, <const real *>j.fed0 + row * j.ld_fed0, H * sizeof(real))
    for i in range(T - 1):
        memcpy(rows + (i + 1) * H, <const real *>j.fed.first + i * j.fed.st + row * j.fed.sb, H * sizeof(real))
    gram(T, H, rows, H, <real *>job.panels_h, yy)
    for i in range(T * T):
        of_W += <double>dd[i] * yy[i]
    job.squares[row], job.squares[j.B + row], job.squares[2 * j.B + row] = of_U, of_W, of_b


cdef int each_loop(real tag, Each *job) noexcept nogil:
    cdef Job *j = &job.job
    cdef Py_ssize_t row, H = j.H, I = j.inputs, apart
    cdef real *dU
    cdef real *dW
    cdef real *db
    cdef double since = pyrnn_seconds()
    for row in range(j.B):
        if job.grams != NULL:
            norms_by_steps(job, row, tag)
        else:
            apart = row if job.squares == NULL else 0
            dU, dW, db = <real *>job.dU + apart * H * I, <real *>job.dW + apart * H * H, <real *>job.db + apart * H
            gradient_of(job, row, dU, dW, db)
            if job.squares != NULL:
                job.squares[row], job.squares[j.B + row] = square(dU, H * I), square(dW, H * H)
                job.squares[2 * j.B + row] = square(db, H)
        if interrupted(&since):
            return -1
    return 0


# ---- For floor 3: checked arrays in, memory allocated here, and the GIL given up ------------------------------------
def padded_rows(cnp.ndarray like not None, Py_ssize_t T, Py_ssize_t B, Py_ssize_t H):
    """A new array [T, B, H] whose rows lie apart as the kernels like it."""
    return empty(like, (T, B, padded(H, cnp.PyArray_ITEMSIZE(like))))[..., :H]


@cython.final
@cython.freelist(4)
@cython.no_gc  # refers to arrays and to a cell alone
@cython.auto_pickle(False)
cdef class Moved:
    """The arrays of a Trajectory, and with _dot of a Direction, by name: the one place where either is read."""
    cdef cnp.ndarray h, x, U, W, h0, rates, x_dot, U_dot, W_dot, b_dot, h0_dot, drive_dot, alpha_dot
    cdef object cell

    def __cinit__(self, run, direction):
        network = run.network
        self.h, self.x, self.h0, self.rates = run.h, run.x, run.h0, run.rates
        self.U, self.W, self.cell = network.U, network.W, network.cell
        self.x_dot, self.U_dot, self.W_dot, self.b_dot = direction.x, direction.U, direction.W, direction.b
        self.h0_dot, self.drive_dot, self.alpha_dot = direction.h0, direction.drive, direction.alpha


cdef int set_up(Job *job, Scratch scratch, cnp.ndarray x, Py_ssize_t H, cnp.ndarray h0, cnp.ndarray offsets,
                bint from_end) except -1:
    """Write what x, h0 and the lengths say into a job, and check them; who calls it checks the others."""
    cdef Py_ssize_t *steps
    cdef int kind = kind_of("x", x, 3)
    memset(job, 0, sizeof(Job))
    need("x", x, kind, IN_ROWS, 3, x.shape[0], x.shape[1], x.shape[2])
    job.T, job.B, job.inputs, job.H = x.shape[0], x.shape[1], x.shape[2], H
    job.x = rows_in(x)
    if offsets is not None:
        check_offsets(offsets, x)
        job.offsets = <const Py_ssize_t *>data(offsets)
        job.T = offsets.shape[0] - 1
        job.B = job.offsets[1] if job.T > 0 else 0
        steps = <Py_ssize_t *>scratch.take((job.B + 1) * sizeof(Py_ssize_t))
        count_steps(job, steps)
        job.steps_before = steps
    need("h0", h0, kind, AS_MATRIX | OPTIONAL, 2, job.B, H)
    if h0 is not None:
        job.h0, job.ld_h0, job.fed0, job.ld_fed0 = data(h0), stride(h0, 0), data(h0), stride(h0, 0)
    return divide(job, scratch, cnp.PyArray_ITEMSIZE(x), from_end)


cdef int check_offsets(cnp.ndarray offsets, cnp.ndarray x) except -1:
    """Raise ValueError unless offsets count the rows of x step by step, no step with more rows than the step before."""
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
    if x.shape[0] != 1 or x.shape[1] != offset[offsets.shape[0] - 1]:
        raise ValueError(f"sequences must be packed as (1, {offset[offsets.shape[0] - 1]}, ...), "
                         f"got {x.shape[0]}, {x.shape[1]}")
    return 0


cdef int check_tangent(const Job *job, Moved a, cnp.ndarray h_dot, cnp.ndarray second) except -1:
    """Raise ValueError for arrays that the loops cannot read or write in place; `set_up` checks x."""
    cdef int kind = cnp.PyArray_TYPE(a.x)
    cdef Py_ssize_t T = a.x.shape[0], B = a.x.shape[1], I = a.x.shape[2], H = job.H
    need("h", a.h, kind, IN_ROWS, 3, T, B, H)
    need("U", a.U, kind, AS_MATRIX, 2, H, I)
    need("W", a.W, kind, AS_MATRIX, 2, H, H)
    need("h0", a.h0, kind, AS_MATRIX, 2, job.B, H)
    need("rates", a.rates, kind, IN_ROWS, 3, T, B, H)
    need("x_dot", a.x_dot, kind, IN_ROWS | OPTIONAL, 3, T, B, I)
    need("U_dot", a.U_dot, kind, AS_MATRIX | OPTIONAL, 2, H, I)
    need("W_dot", a.W_dot, kind, AS_MATRIX | OPTIONAL, 2, H, H)
    need("b_dot", a.b_dot, kind, CONTIGUOUS | OPTIONAL, 1, H)
    need("h0_dot", a.h0_dot, kind, IN_ROWS | OPTIONAL, 2, job.B, H)
    need("drive_dot", a.drive_dot, kind, IN_ROWS | OPTIONAL, 3, T, B, H)
    need("alpha_dot", a.alpha_dot, kind, CONTIGUOUS | OPTIONAL, 1, H)
    need("h_dot", h_dot, kind, IN_ROWS | WRITTEN, 3, T, B, H)
    need("second", second, kind, IN_ROWS | WRITTEN | (0 if job.cell.current else OPTIONAL), 3, T, B, H)
    return 0


cdef int set_up_tangent(Tangent *job, Scratch scratch, Moved a, cnp.ndarray offsets, bint from_end, cnp.ndarray h_dot,
                        cnp.ndarray second) except -1:
    """Write into a job what `tangent` says of its arguments."""
    kind_of("W", a.W, 2)
    cdef Py_ssize_t H = a.W.shape[0], size = cnp.PyArray_ITEMSIZE(a.W)
    cdef Job *j = &job.job
    memset(job, 0, sizeof(Tangent))
    set_up(j, scratch, a.x, H, a.h0, offsets, from_end)
    read_cell(a.cell, H, a.x, &j.cell)
    check_tangent(j, a, h_dot, second)
    j.h, j.rates, j.ld = rows_in(a.h), rows_in(a.rates), padded(H, size)
    j.fed = j.rates if j.cell.current else j.h
    job.x_dot, job.drive_dot = rows_in(a.x_dot), rows_in(a.drive_dot)
    job.h_dot, job.second = rows_in(h_dot), rows_in(second)
    job.b_dot, job.alpha_dot = data(a.b_dot), data(a.alpha_dot)
    if a.h0_dot is None:
        job.h0_dot = scratch.take(H * size)
        memset(<void *>job.h0_dot, 0, H * size)
    else:
        job.h0_dot, job.ld_h0_dot = data(a.h0_dot), stride(a.h0_dot, 0)
    job.fed0_dot, job.ld_fed0_dot = job.h0_dot, job.ld_h0_dot
    job.slopes, job.bends = scratch.take(H * size), scratch.take(H * size)
    if j.cell.current:
        feed(j, size, scratch.take(j.B * H * size))
        feed_tangent(job, size, scratch.take(j.B * H * size))
    job.panels_W = packed_in(scratch, a.W, True)
    job.panels_U = NULL if a.x_dot is None else packed_in(scratch, a.U, True)
    job.panels_U_dot = NULL if a.U_dot is None else packed_in(scratch, a.U_dot, True)
    job.panels_W_dot = NULL if a.W_dot is None else packed_in(scratch, a.W_dot, True)
    return 0


cdef void feed_tangent(Tangent *job, Py_ssize_t itemsize, void *memory) noexcept:
    """In the current form, the tangent of phi(h0), in B H numbers of memory."""
    if itemsize == 4:
        feed_tangent_typed(job, <float *>memory)
    else:
        feed_tangent_typed(job, <double *>memory)
    job.fed0_dot, job.ld_fed0_dot = memory, job.job.H


cdef void feed_tangent_typed(Tangent *job, real *out) noexcept:
    cdef Py_ssize_t i, k, H = job.job.H
    cdef const real *h0_dot = <const real *>job.h0_dot
    for i in range(job.job.B):
        slopes_of(H, <const real *>job.job.fed0 + i * job.job.ld_fed0, job.job.cell.phi, out)
        for k in range(H):
            out[k] *= h0_dot[k]
        out += H
        h0_dot += job.ld_h0_dot


def tangent(run, direction, cnp.ndarray offsets, cnp.ndarray out, cnp.ndarray second):
    """Write h_dot [T, B, H] to out, of a Trajectory with a batch axis, x and h0 in a Direction of its dtype.

    second [T, B, H], written with a_dot, or in the current form, where it must be given, with the tangent of phi(h).
    With `offsets` (see sequences.pyx) all sequences are [1, N, .].
    """
    cdef Tangent job
    cdef Scratch scratch = Scratch()
    cdef Moved a = Moved(run, direction)
    set_up_tangent(&job, scratch, a, offsets, False, out, second)
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(a.x)
    cdef int status
    if not job.job.cell.current and job.job.B >= 4 and crowded(job.h_dot.sb, size):
        job.state = scratch.take(2 * job.job.B * job.job.ld * size)
    with nogil:
        flush_subnormals()
        status = tangent_loop(<float>0, &job) if size == 4 else tangent_loop(<double>0, &job)
        restore_subnormals()
    pass_on(status)


def deltas(cnp.ndarray g, cell, cnp.ndarray rates):
    """delta [T, B, H], padded, from grad_h g, contiguous; rates: phi of each step."""
    cdef int kind = kind_of("g", g, 3)
    cdef Job job
    need("g", g, kind, CONTIGUOUS, 3, g.shape[0], g.shape[1], g.shape[2])
    need("rates", rates, kind, IN_ROWS, 3, g.shape[0], g.shape[1], g.shape[2])
    cdef Scratch scratch = Scratch()
    set_up(&job, scratch, g, g.shape[2], None, None, False)
    read_cell(cell, g.shape[2], g, &job.cell)
    cdef cnp.ndarray delta = padded_rows(g, g.shape[0], g.shape[1], g.shape[2])
    job.rates, job.ld = rows_in(rates), padded(job.H, cnp.PyArray_ITEMSIZE(g))
    with nogil:
        flush_subnormals()
        if cnp.PyArray_ITEMSIZE(g) == 4:
            delta_loop(&job, <float *>data(g), <float *>data(delta))
        else:
            delta_loop(&job, <double *>data(g), <double *>data(delta))
        restore_subnormals()
    return delta


def second_order(cnp.ndarray g, cnp.ndarray delta, cnp.ndarray dh_dot, cnp.ndarray h_dot, cnp.ndarray second,
                 run, direction, bint x_gradient):
    """(delta_dot, g_dot, dx_dot, dU_dot, dW_dot, db_dot), the tangents of what backward computes from dh.

    g: grad_h, contiguous; delta: of `deltas`; dh_dot may be None; h_dot and second: of `tangent`, as run and direction.
    delta_dot is padded; g_dot None without alpha, dx_dot without x_gradient.
    """
    cdef Tangent tangent
    cdef Second job
    cdef Scratch scratch = Scratch()
    cdef Moved a = Moved(run, direction)
    set_up_tangent(&tangent, scratch, a, None, True, h_dot, second)
    cdef cnp.ndarray x = a.x
    cdef int kind = cnp.PyArray_TYPE(x)
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x), most = tangent.job.most
    cdef Py_ssize_t T = tangent.job.T, B = tangent.job.B, H = tangent.job.H, I = tangent.job.inputs
    need("g", g, kind, CONTIGUOUS, 3, T, B, H)
    need_padded("delta", delta, kind, T, B, H)
    need("dh_dot", dh_dot, kind, IN_ROWS | OPTIONAL, 3, T, B, H)
    need("second", second, kind, IN_ROWS, 3, T, B, H)
    cdef cnp.ndarray delta_dot = padded_rows(x, T, B, H), g_dot = None, dx = None, lost = empty(x, (H,), zero=True)
    cdef cnp.ndarray dU = empty(x, (H, I), zero=T == 0), dW = empty(x, (H, H), zero=T == 0)
    cdef cnp.ndarray db = empty(x, (H,), zero=True)
    cdef int status
    memset(&job, 0, sizeof(Second))
    job.tangent, job.g, job.delta, job.dh_dot = &tangent, data(g), data(delta), rows_in(dh_dot)
    job.panels_W = packed_in(scratch, a.W, False)
    job.panels_W_dot = NULL if a.W_dot is None else packed_in(scratch, a.W_dot, False)
    if x_gradient:
        dx = empty(x, (T, B, I))
        job.panels_U = packed_in(scratch, a.U, False)
        job.panels_U_dot = NULL if a.U_dot is None else packed_in(scratch, a.U_dot, False)
    if tangent.job.cell.leaky:
        g_dot = empty(x, (T, B, H))
    if tangent.job.cell.current:
        job.later = scratch.take(most * tangent.job.ld * size)
    job.delta_dot, job.g_dot = data(delta_dot), data(g_dot)
    job.dx, job.dU, job.dW, job.db, job.lost = data(dx), data(dU), data(dW), data(db), data(lost)
    job.panels_x = scratch.take(panels_size(most, I, size) * size)
    job.panels_h = scratch.take(panels_size(most, H, size) * size)
    job.narrow = scratch.take(most * H * size) if tangent.job.ld * size >= APART else NULL
    with nogil:
        flush_subnormals()
        status = second_loop(<float>0, &job) if size == 4 else second_loop(<double>0, &job)
        restore_subnormals()
    pass_on(status)
    return delta_dot, g_dot, dx, dU, dW, db + lost


def each(cnp.ndarray delta, cnp.ndarray x, cnp.ndarray fed, cnp.ndarray fed0 not None, bint norms):
    """(dU, dW, db) of each sequence, [B, H, I], [B, H, H], [B, H]; or squares of their norms, float64 [3, B].

    delta: of `deltas`; fed [T, B, H] and fed0 [B, H]: what W multiplies in the step after, and in the first.
    """
    cdef int kind = kind_of("x", x, 3)
    kind_of("delta", delta, 3)
    need_padded("delta", delta, kind, x.shape[0], x.shape[1], delta.shape[2])
    need("fed", fed, kind, IN_ROWS, 3, x.shape[0], x.shape[1], delta.shape[2])
    cdef Each job
    cdef Scratch scratch = Scratch()
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x), H = delta.shape[2], T = x.shape[0], B = x.shape[1], I = x.shape[2]
    cdef Py_ssize_t many = 1 if norms else B
    cdef cnp.ndarray dU = None, dW = None, db = None, squares = None
    cdef int status
    memset(&job, 0, sizeof(Each))
    set_up(&job.job, scratch, x, H, fed0, None, False)
    job.job.fed, job.job.ld, job.delta = rows_in(fed), padded(H, size), data(delta)
    job.chunk = chunk_steps(T, 1, max(H, I), size)
    if norms:
        squares = np_zeros(3, B)
        job.squares = <double *>data(squares)
    if norms and by_steps(T, H, I):
        job.grams, job.rows = scratch.take(2 * T * T * size), scratch.take(T * H * size)
        job.panels_x = scratch.take(panels_size(I, T, size) * size)
        job.panels_h = scratch.take(panels_size(H, T, size) * size)
    else:
        dU, dW, db = empty(x, (many, H, I)), empty(x, (many, H, H)), empty(x, (many, H))
        job.dU, job.dW, job.db, job.lost = data(dU), data(dW), data(db), scratch.take(H * size)
        job.panels_x = scratch.take(panels_size(job.chunk, I, size) * size)
        job.panels_h = scratch.take(panels_size(job.chunk, H, size) * size)
        job.narrow = scratch.take(job.chunk * H * size)
    with nogil:
        flush_subnormals()
        status = each_loop(<float>0, &job) if size == 4 else each_loop(<double>0, &job)
        restore_subnormals()
    pass_on(status)
    return squares if norms else (dU, dW, db)


cdef bint by_steps(Py_ssize_t T, Py_ssize_t H, Py_ssize_t I) noexcept:
    """Whether products of steps by steps are less work than the gradient of a sequence: by their multiply-adds."""
    return T > 0 and T * (2 * H + I) < H * (H + I)


cdef cnp.ndarray np_zeros(cnp.npy_intp rows, cnp.npy_intp n):
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = rows, n
    return cnp.PyArray_ZEROS(2, shape, cnp.NPY_FLOAT64, 0)
