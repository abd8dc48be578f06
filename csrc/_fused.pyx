"""Time, in the fused engine: forward, backward and state gradients by the packed kernels of floor 1.

The same sums as _bptt.pyx; see there for the letters, the chunks of time and how arrays are passed. The differences:

- Weights are packed once per call. A kernel takes rows at any stride, so that no sequence is ever copied.
- Each product of a row and a column is one chain of multiply-adds from zero, a = (b + U x) + W h of two. The weight
  gradients are sums over chunks, from the last to the first, of one chain each, db with what its roundings have lost.
  The bits depend neither on the other sequences of the batch nor on the instruction set. Chains that begin with zero
  are also more accurate: with b or the sum so far first, dW after 10,000 steps had twice PyTorch's error, now it has
  half.
- Threads share out the sequences, each with the loop over time inside. In backward the rounds of the team are, for each
  chunk, the sequences and then the rows of dU and dW: no number is summed by two of them.
- Rows that a tile reads side by side must not fall into the same sets of the first-level cache, as they do when they
  lie a multiple of 2 KB apart (measured, H = 512 float32: 119 GF/s became 76). Such states are kept a second time,
  padded.
"""

cimport cython
cimport numpy as cnp
from libc.string cimport memcpy, memset

from pyrnn._arrays cimport (
    crowded, data, empty, gather, interrupted, line, lines, padded, pass_on, real, stride,
)
from pyrnn._bptt cimport chunk_steps
from pyrnn._profile cimport (
    BACKWARD_RECURRENCE, FORWARD_RECURRENCE, INPUT_GRADIENTS, INPUT_PRODUCT, OUTPUT, OUTPUT_GRADIENTS, PACK,
    WEIGHT_GRADIENTS, begin, lap,
)
from pyrnn._team cimport run, team_size, work_function
from pyrnn._wait cimport pyrnn_atomic, pyrnn_exchange, pyrnn_load, pyrnn_seconds
from pyrnn._typed cimport (
    column_sums, fused_backward, fused_forward, outer, pack, pack_narrow, pack_transposed, panels_size, product,
    step_backward,
)

cnp.import_array()

cdef Py_ssize_t FEW = 4  # below so many sequences, several steps of one make better tiles than one step of all

# Bytes between rows of delta from which on it is packed for the outer products: so far apart, the rows that a tile runs
# down fall into few sets of the first-level cache. Measured (AVX2, H = 256 to 512): 1 to 5 % of backward in float32, 5
# to 10 % in float64; below, the packing costs what it brings.
cdef enum:
    APART = 1024

# Bytes of the states of a block of sequences at one step: a small second-level cache holds those of two steps, and the
# panels of W that go past them. Measured: 2 % at H = 512, B = 128 in float32; from 64 to 128 KB all the same.
cdef enum:
    BLOCK_BYTES = 96 << 10


cdef inline Py_ssize_t block_rows(Py_ssize_t left, Py_ssize_t H, Py_ssize_t itemsize) noexcept nogil:
    """How many of the sequences that are left go through time together next: an even share of them."""
    cdef Py_ssize_t most = max(BLOCK_BYTES // max(H * itemsize, 1), <Py_ssize_t>24)
    cdef Py_ssize_t blocks = (left + most - 1) // most
    return (left + blocks - 1) // blocks


# ---- Memory ---------------------------------------------------------------------------------------------------------
cdef extern from *:
    """
    #ifdef __SANITIZE_ADDRESS__ /* each piece alone, so that it sees who writes beyond one */
    enum { pyrnn_kept_bytes = 0 };
    #else
    enum { pyrnn_kept_bytes = 8 << 20 };
    #endif
    """
    enum: KEPT_BYTES "pyrnn_kept_bytes"  # of a buffer at most

cdef enum:
    KEPT = 4  # buffers at most, for as many Python threads at once

cdef list spares = []
cdef Py_ssize_t spare_bytes = 0  # of a new buffer: what the largest call so far wanted, within KEPT_BYTES


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class _Scratch:
    """Memory of one call, from a buffer that is kept for the next one.

    Fresh pages cost more than the sums of a small call: the system clears and maps each when it is first written, and
    malloc returns them with the call's end. Measured, H = 32, B = 32, T = 100: 1.4 ms with, 0.5 ms without.
    """
    cdef cnp.ndarray buffer
    cdef list more                    # what did not fit
    cdef Py_ssize_t used, wanted

    def __cinit__(self):
        self.more = []
        try:
            self.buffer = spares.pop()
        except IndexError:
            self.buffer = bytes_(spare_bytes)

    cdef void *take(self, Py_ssize_t size) except NULL:
        """So many bytes from the beginning of a cache line on."""
        cdef cnp.ndarray extra
        size = (size + 63) & ~<Py_ssize_t>63
        self.wanted += size
        if self.used + size <= cnp.PyArray_DIM(self.buffer, 0) - 64:
            self.used += size
            return <char *>line(self.buffer) + self.used - size
        extra = bytes_(size + 64)
        self.more.append(extra)
        return line(extra)

    cdef void *packed(self, cnp.ndarray M, bint transposed) except NULL:
        """Panels of M, or of its transpose."""
        cdef void *panels = self.take(packed_size(M, transposed) * cnp.PyArray_ITEMSIZE(M))
        pack_into(M, transposed, panels)
        return panels

    def __dealloc__(self):
        global spare_bytes
        if self.wanted + 64 > spare_bytes:
            spare_bytes = min(self.wanted + 64, <Py_ssize_t>KEPT_BYTES)
        if self.buffer is not None and cnp.PyArray_DIM(self.buffer, 0) >= spare_bytes and len(spares) < KEPT:
            spares.append(self.buffer)


cdef cnp.ndarray bytes_(cnp.npy_intp size):
    return cnp.PyArray_EMPTY(1, &size, cnp.NPY_UINT8, 0)


cdef Py_ssize_t packed_size(cnp.ndarray M, bint transposed) noexcept:
    cdef Py_ssize_t rows = M.shape[0], n = M.shape[1], size = cnp.PyArray_ITEMSIZE(M)
    return panels_size(n, rows, size) if transposed else panels_size(rows, n, size)


cdef void pack_typed(cnp.ndarray M, bint transposed, real *panels) noexcept:
    cdef Py_ssize_t rows = M.shape[0], n = M.shape[1], ld = stride(M, 0)
    if transposed:
        pack_transposed(n, rows, <const real *>data(M), ld, panels)
    else:
        pack(rows, 0, rows, 1, n, <const real *>data(M), ld, 0, panels)


cdef void pack_into(cnp.ndarray M, bint transposed, void *panels) noexcept:
    cdef long long clock = begin()
    if cnp.PyArray_ITEMSIZE(M) == 4:
        pack_typed(M, transposed, <float *>panels)
    else:
        pack_typed(M, transposed, <double *>panels)
    lap(clock, PACK, 0, cnp.PyArray_ITEMSIZE(M), 0, 2.0 * M.shape[0] * M.shape[1])


# ---- Forward --------------------------------------------------------------------------------------------------------
cdef void rows_product(Py_ssize_t T, Py_ssize_t B, Py_ssize_t K, Py_ssize_t N, const real *x, Py_ssize_t xt,
                       Py_ssize_t xb, const real *panels, const real *b, real *out, Py_ssize_t ot,
                       Py_ssize_t ob) noexcept nogil:
    """out_t = b + U x_t for all t, by steps or by sequences: no sum knows the difference."""
    cdef Py_ssize_t i
    if B >= FEW:
        for i in range(T):
            product(B, K, N, x + i * xt, xb, panels, b, 0, out + i * ot, ob)
    else:
        for i in range(B):
            product(T, K, N, x + i * xb, xt, panels, b, 0, out + i * ob, ot)


cdef struct Job:
    # One call, as the tasks of a team see it; letters as in the loops below, but I, a macro in complex.h.
    Py_ssize_t T, B, inputs, H, chunk, xt, xb, ht, hb, dt, db, ld_h0, ld
    const void *x
    const void *b
    const void *h0
    const void *dh
    const void *panels_U
    const void *panels_W
    void *h
    void *grad_h
    void *dx
    void *dU
    void *dW
    void *sum_b
    void *lost                     # [H]: what the rounding of sum_b has lost
    void *dh0
    void *state
    void *delta
    void *panels_x
    void *panels_h
    void *narrow                   # narrow panels of delta; NULL where it is read as it lies
    double since                   # when the caller last looked for Ctrl-C
    pyrnn_atomic stop              # 1 once a signal handler has raised an exception


cdef inline Py_ssize_t share(Py_ssize_t n, int task, int tasks) noexcept nogil:
    """Where the share of a task begins, and that of the one before ends."""
    return n * task // tasks


cdef bint stopped(Job *job, int member) noexcept nogil:
    """Whether Ctrl-C was pressed: the caller looks, the others hear of it."""
    if member == 0 and interrupted(&job.since):
        pyrnn_exchange(&job.stop, 1)
    return pyrnn_load(&job.stop) != 0


cdef void forward_work(real tag, Job *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    """One round: each task its sequences."""
    cdef Py_ssize_t T = job.T, I = job.inputs, H = job.H, xt = job.xt, xb = job.xb, ht = job.ht, hb = job.hb
    cdef Py_ssize_t row = share(job.B, task, tasks), B = share(job.B, task + 1, tasks) - row
    cdef Py_ssize_t t, start = 0, stop, ld = job.ld, ld_previous
    cdef const real *x = <const real *>job.x + row * xb
    cdef const real *h0 = <const real *>job.h0 + row * job.ld_h0
    cdef const real *previous
    cdef const real *panels_U = <const real *>job.panels_U
    cdef const real *panels_W = <const real *>job.panels_W
    cdef const real *b = <const real *>job.b
    cdef real *h = <real *>job.h + row * hb
    cdef bint merged = B < FEW  # the input product of all steps of a chunk at once
    cdef Py_ssize_t inputs = 0 if merged else I, first, rows
    cdef real *state = NULL if job.state == NULL else <real *>job.state + 2 * row * ld
    cdef real *copy = NULL
    cdef real *h_t
    cdef long long clock = begin()
    while start < T:
        stop = min(start + job.chunk, T)
        if merged:
            rows_product(stop - start, B, I, H, x + start * xt, xt, xb, panels_U, b, h + start * ht, ht, hb)
            clock = lap(clock, INPUT_PRODUCT, member, sizeof(real), 2.0 * (stop - start) * B * H * I,
                        <double>(stop - start) * B * (I + H) + (H * I if task == start == 0 else 0))
        first = 0
        while first < B:
            rows = block_rows(B - first, H, sizeof(real))
            for t in range(start, stop):
                # h_t = tanh(b + U x_t + W h_{t-1})                          (10.8, 10.9)
                h_t = h + t * ht + first * hb
                if t == 0:
                    previous, ld_previous = h0 + first * job.ld_h0, job.ld_h0
                elif state == NULL:
                    previous, ld_previous = h_t - ht, hb
                else:
                    previous, ld_previous = state + ((t - 1) % 2 * B + first) * ld, ld
                if state != NULL:
                    copy = state + (t % 2 * B + first) * ld
                fused_forward(rows, inputs, H, x + t * xt + first * xb, xb, panels_U, previous, ld_previous, panels_W,
                              h_t if merged else b, hb if merged else 0, h_t, hb, copy, ld, t % 2)
            first += rows
        clock = lap(clock, FORWARD_RECURRENCE, member, sizeof(real), 2.0 * (stop - start) * B * H * (inputs + H),
                    (stop - start) * B * (inputs + (2.0 if merged else 1.0) * H) + (B * H if start == 0 else 0) +
                    (H * (inputs + H) if task == start == 0 else 0))
        if stopped(job, member):
            return
        start = stop


# ---- Backward -------------------------------------------------------------------------------------------------------
cdef void pack_share(Py_ssize_t K, Py_ssize_t first, Py_ssize_t steps, Py_ssize_t rows, Py_ssize_t N, const real *B,
                     Py_ssize_t ld_t, Py_ssize_t ld_r, real *panels, int task, int tasks) noexcept nogil:
    """A task's share of the panels, whole ones."""
    cdef Py_ssize_t width = 2 * panels_size(1, 1, sizeof(real)), count = (N + width - 1) // width
    cdef Py_ssize_t left = share(count, task, tasks) * width, right = min(share(count, task + 1, tasks) * width, N)
    if left < right:
        pack(K, first, steps, rows, right - left, B + left, ld_t, ld_r, panels + left * K)


cdef void backward_work(real tag, Job *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    """Two rounds for each chunk, from the last one on: the recurrence, then the weights; and a last one for dh0."""
    cdef Py_ssize_t stop = job.T - round // 2 * job.chunk, start = max(0, stop - job.chunk)
    if stopped(job, member):
        return
    if stop <= 0:
        initial_gradient(tag, job, task, tasks, member)
    elif round % 2 == 0:
        backward_recurrence(tag, job, start, stop, task, tasks, member)
    else:
        weight_gradients(tag, job, start, stop, task, tasks, member)


cdef void backward_recurrence(real tag, Job *job, Py_ssize_t start, Py_ssize_t stop, int task, int tasks,
                              int member) noexcept nogil:
    """delta of the chunk, its rows ld apart, after them the first step of the chunk that follows; panels of x and h."""
    cdef Py_ssize_t T = job.T, B = job.B, I = job.inputs, H = job.H, xt = job.xt, xb = job.xb, ht = job.ht, hb = job.hb
    cdef Py_ssize_t row = share(B, task, tasks), end = share(B, task + 1, tasks), n = stop - start, ld = job.ld
    cdef Py_ssize_t t, first = row, rows
    cdef const real *x = <const real *>job.x
    cdef const real *h = <const real *>job.h
    cdef real *delta = <real *>job.delta
    cdef real *later = delta + job.chunk * B * ld
    cdef real *panels_x = <real *>job.panels_x
    cdef real *panels_h = <real *>job.panels_h
    cdef real *delta_t
    cdef const real *h_t
    cdef const real *dh_t
    cdef long long clock = begin()
    while first < end:
        rows = block_rows(end - first, H, sizeof(real))
        for t in range(stop - 1, start - 1, -1):
            # delta_t = (1 - h_t²) ∘ (dh_t + Wᵀ delta_{t+1})                 (10.21)
            delta_t = delta + ((t - start) * B + first) * ld
            h_t = h + t * ht + first * hb
            dh_t = <const real *>job.dh + t * job.dt + first * job.db
            if t == T - 1:
                step_backward(rows, H, h_t, hb, dh_t, job.db, <real *>NULL, 0, <real *>NULL, 0, delta_t, ld)
            else:
                fused_backward(rows, H, delta_t + B * ld if t < stop - 1 else later + first * ld, ld,
                               <const real *>job.panels_W, h_t, hb, dh_t, job.db, <real *>NULL, 0, delta_t, ld,
                               t % 2)
        first += rows
    rows = end - row
    memcpy(later + row * ld, delta + row * ld, rows * ld * sizeof(real))
    clock = lap(clock, BACKWARD_RECURRENCE, member, sizeof(real), 2.0 * (min(stop, T - 1) - start) * rows * H * H,
                3.0 * n * rows * H + (H * H if task == start == 0 else 0))
    pack_share(n * B, 0, n, B, I, x + start * xt, xt, xb, panels_x, task, tasks)
    if start == 0:
        pack_share(n * B, 0, 1, B, H, <const real *>job.h0, 0, job.ld_h0, panels_h, task, tasks)
        pack_share(n * B, B, n - 1, B, H, h, ht, hb, panels_h, task, tasks)
    else:
        pack_share(n * B, 0, n, B, H, h + (start - 1) * ht, ht, hb, panels_h, task, tasks)
    lap(clock, PACK, member, sizeof(real), 0, 2.0 * n * B * (I + H) / tasks)


cdef void weight_gradients(real tag, Job *job, Py_ssize_t start, Py_ssize_t stop, int task, int tasks,
                           int member) noexcept nogil:
    cdef Py_ssize_t B = job.B, I = job.inputs, H = job.H, n = stop - start, ld = job.ld
    cdef Py_ssize_t unit = share(H, task, tasks), units = share(H, task + 1, tasks) - unit
    cdef Py_ssize_t row = share(n * B, task, tasks), rows = share(n * B, task + 1, tasks) - row
    cdef const real *delta = <const real *>job.delta
    cdef const real *D = delta + unit
    cdef Py_ssize_t ld_D = ld
    cdef bint accumulate = stop < job.T
    cdef long long clock = begin()
    if job.narrow != NULL:
        D, ld_D = <const real *>job.narrow + unit * n * B, 0
        pack_narrow(n * B, units, delta + unit, ld, <real *>D)
        clock = lap(clock, PACK, member, sizeof(real), 0, 2.0 * n * B * units)
    # Each task its units: dU = Σ delta_t x_tᵀ    dW = Σ delta_t h_{t-1}ᵀ    db = Σ delta_t   (10.28, 10.26, 10.23)
    outer(n * B, units, I, D, ld_D, <const real *>job.panels_x, accumulate, <real *>job.dU + unit * I)
    outer(n * B, units, H, D, ld_D, <const real *>job.panels_h, accumulate, <real *>job.dW + unit * H)
    column_sums(n * B, units, delta + unit, ld, <real *>job.sum_b + unit, <real *>job.lost + unit)
    clock = lap(clock, WEIGHT_GRADIENTS, member, sizeof(real), 2.0 * n * B * units * (I + H),
                <double>n * B * units + (<double>n * B * (I + H) if task == 0 else 0) +
                (units * (I + H + 1) if start == 0 else 0))
    # Each task its rows: dx_t = Uᵀ delta_t
    product(rows, H, I, delta + row * ld, ld, <const real *>job.panels_U, <real *>NULL, 0,
            <real *>job.dx + (start * B + row) * I, I)
    lap(clock, INPUT_GRADIENTS, member, sizeof(real), 2.0 * rows * H * I,
        <double>rows * (H + I) + (H * I if task == start == 0 else 0))


cdef void initial_gradient(real tag, Job *job, int task, int tasks, int member) noexcept nogil:
    cdef Py_ssize_t B = job.B, H = job.H, ld = job.ld
    cdef Py_ssize_t row = share(B, task, tasks), rows = share(B, task + 1, tasks) - row
    cdef const real *first = <const real *>job.delta + job.chunk * B * ld
    cdef Py_ssize_t i
    cdef real lost
    cdef long long clock = begin()
    for i in range(share(H, task, tasks), share(H, task + 1, tasks)):
        lost = (<real *>job.lost)[i]
        if lost == lost:  # a sum of inf or NaN has lost NaN
            (<real *>job.sum_b)[i] += lost
    # dh0 = Wᵀ delta_1
    product(rows, H, H, first + row * ld, ld, <const real *>job.panels_W, <real *>NULL, 0, <real *>job.dh0 + row * H, H)
    lap(clock, INPUT_GRADIENTS, member, sizeof(real), 2.0 * rows * H * H,
        2.0 * rows * H + (H * H if task == 0 else 0))


cdef void state_gradients_work(real tag, Job *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    """One round: each task its sequences; delta: 2 B ld numbers, for two steps of each."""
    cdef Py_ssize_t T = job.T, H = job.H, ht = job.ht, hb = job.hb, dt = job.dt, db = job.db, t, ld = job.ld
    cdef Py_ssize_t row = share(job.B, task, tasks), B = share(job.B, task + 1, tasks) - row
    cdef Py_ssize_t first = 0, rows
    cdef real *delta
    cdef real *grad_t
    cdef const real *h_t
    cdef const real *dh_t
    cdef long long clock = begin()
    while first < B:
        rows = block_rows(B - first, H, sizeof(real))
        delta = <real *>job.delta + 2 * (row + first) * ld
        for t in range(T - 1, -1, -1):
            # grad_h_t = dh_t + Wᵀ delta_{t+1}    delta_t = (1 - h_t²) ∘ grad_h_t    (10.20, 10.21)
            grad_t = <real *>job.grad_h + (t * job.B + row + first) * H
            h_t = <const real *>job.h + t * ht + (row + first) * hb
            dh_t = <const real *>job.dh + t * dt + (row + first) * db
            if t == T - 1:
                step_backward(rows, H, h_t, hb, dh_t, db, <real *>NULL, 0, grad_t, H, delta + t % 2 * rows * ld, ld)
            else:
                fused_backward(rows, H, delta + (t + 1) % 2 * rows * ld, ld, <const real *>job.panels_W, h_t, hb, dh_t,
                               db, grad_t, H, delta + t % 2 * rows * ld, ld, t % 2)
            if stopped(job, member):
                return
        first += rows
    lap(clock, BACKWARD_RECURRENCE, member, sizeof(real), 2.0 * max(T - 1, 0) * B * H * H,
        3.0 * T * B * H + (H * H if task == 0 else 0))


# Function pointers have no fused types.
cdef void forward_f32(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    forward_work(<float>0, <Job *>job, round, task, tasks, member)


cdef void forward_f64(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    forward_work(<double>0, <Job *>job, round, task, tasks, member)


cdef void backward_f32(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    backward_work(<float>0, <Job *>job, round, task, tasks, member)


cdef void backward_f64(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    backward_work(<double>0, <Job *>job, round, task, tasks, member)


cdef void state_gradients_f32(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    state_gradients_work(<float>0, <Job *>job, round, task, tasks, member)


cdef void state_gradients_f64(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    state_gradients_work(<double>0, <Job *>job, round, task, tasks, member)


# ---- The output layer -----------------------------------------------------------------------------------------------
cdef int output_loop(Py_ssize_t T, Py_ssize_t B, Py_ssize_t H, Py_ssize_t O, const real *h, Py_ssize_t ht,
                     Py_ssize_t hb, const real *panels_V, const real *c, real *o, Py_ssize_t chunk) noexcept nogil:
    cdef Py_ssize_t start = 0, n
    cdef double since = pyrnn_seconds()
    cdef long long clock = begin()
    while start < T:
        n = min(chunk, T - start)
        # o_t = c + V h_t                                                    (10.10)
        rows_product(n, B, H, O, h + start * ht, ht, hb, panels_V, c, o + start * B * O, B * O, O)
        clock = lap(clock, OUTPUT, 0, sizeof(real), 2.0 * n * B * O * H,
                    <double>n * B * (H + O) + (O * H if start == 0 else 0))
        start += n
        if interrupted(&since):
            return -1
    return 0


cdef int output_gradients_loop(Py_ssize_t T, Py_ssize_t B, Py_ssize_t H, Py_ssize_t O, const real *do_, Py_ssize_t dt,
                               Py_ssize_t db_, const real *h, Py_ssize_t ht, Py_ssize_t hb, const real *panels_V,
                               real *dh, real *dV, real *dc, Py_ssize_t chunk, real *rows, real *panels) noexcept nogil:
    cdef Py_ssize_t start = 0, n
    cdef double since = pyrnn_seconds()
    cdef long long clock = begin()
    while start < T:
        n = min(chunk, T - start)
        gather(n, B, O, do_ + start * dt, dt, db_, rows)
        pack(n * B, 0, n, B, H, h + start * ht, ht, hb, panels)
        clock = lap(clock, PACK, 0, sizeof(real), 0, 2.0 * n * B * (O + H))
        # dh_t = Vᵀ do_t                                                     (10.19)
        product(n * B, O, H, rows, O, panels_V, <real *>NULL, 0, dh + start * B * H, H)
        # dV = Σ do_t h_tᵀ    dc = Σ do_t                                    (10.24, 10.22)
        outer(n * B, O, H, rows, O, panels, start > 0, dV)
        column_sums(n * B, O, rows, O, dc, <real *>NULL)
        clock = lap(clock, OUTPUT_GRADIENTS, 0, sizeof(real), 4.0 * n * B * O * H,
                    <double>n * B * (O + 2 * H) + (O * (2 * H + 1) if start == 0 else 0))
        start += n
        if interrupted(&since):
            return -1
    return 0


# ---- For floor 3: checked arrays in, memory allocated here, and the GIL given up ------------------------------------
cpdef cnp.ndarray packed(cnp.ndarray M, bint transposed):
    """Panels of M, or of its transpose, in an array of their own, from the address that `line` finds."""
    cdef cnp.ndarray out = lines(M, packed_size(M, transposed))
    pack_into(M, transposed, line(out))
    return out


cdef int finish(work_function work, Job *job, Py_ssize_t rounds, Py_ssize_t itemsize, int size) except -1:
    """Let a team do the job without the GIL; raise what a signal handler has raised."""
    job.since, job.stop = pyrnn_seconds(), 0
    with nogil:
        run(work, job, rounds, job.B, size, itemsize, &job.stop)
    return pass_on(-1 if job.stop else 0)


def forward(cnp.ndarray x, cnp.ndarray U, cnp.ndarray W, cnp.ndarray b, cnp.ndarray h0, cnp.ndarray out,
            n_threads=None):
    """Write h [T, B, H] to out and return it; out is new if None, and b may be None."""
    cdef _Scratch scratch = _Scratch()
    return run_forward(x, scratch.packed(U, True), scratch.packed(W, True), b, h0, out, n_threads, scratch)


def forward_packed(cnp.ndarray x, cnp.ndarray panels_U, cnp.ndarray panels_W, cnp.ndarray b, cnp.ndarray h0,
                   cnp.ndarray out, n_threads=None):
    """forward with panels of Uᵀ and Wᵀ."""
    return run_forward(x, line(panels_U), line(panels_W), b, h0, out, n_threads, _Scratch())


cdef cnp.ndarray run_forward(cnp.ndarray x, const void *panels_U, const void *panels_W, cnp.ndarray b, cnp.ndarray h0,
                             cnp.ndarray out, n_threads, _Scratch scratch):
    cdef Job job
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x), H = h0.shape[1]
    cdef cnp.ndarray h = empty(x, (x.shape[0], x.shape[1], H)) if out is None else out
    job.T, job.B, job.inputs, job.H = x.shape[0], x.shape[1], x.shape[2], H
    job.xt, job.xb, job.ht, job.hb, job.ld_h0 = stride(x, 0), stride(x, 1), stride(h, 0), stride(h, 1), stride(h0, 0)
    job.chunk, job.ld = chunk_steps(job.T, job.B, max(job.H, job.inputs), size), padded(job.H, size)
    job.state = NULL
    if job.B >= FEW and crowded(job.hb, size):
        job.state = scratch.take(2 * job.B * job.ld * size)
    job.x, job.b, job.h0, job.h = data(x), data(b), data(h0), data(h)
    job.panels_U, job.panels_W = panels_U, panels_W
    finish(forward_f32 if size == 4 else forward_f64, &job, 1, size,
           team_size(n_threads, 2.0 * job.T * job.B * job.H * (job.H + job.inputs), job.B))
    return h


def backward(cnp.ndarray dh, cnp.ndarray h, cnp.ndarray x, cnp.ndarray U, cnp.ndarray W, cnp.ndarray h0,
             n_threads=None):
    """(dx, dU, dW, db, dh0), new arrays."""
    cdef Job job
    cdef _Scratch scratch = _Scratch()
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x), T = x.shape[0], B = x.shape[1], I = x.shape[2], H = W.shape[0]
    cdef cnp.ndarray dx = empty(x, (T, B, I)), dU = empty(x, (H, I), zero=T == 0), dW = empty(x, (H, H), zero=T == 0)
    cdef cnp.ndarray db = empty(x, (H,), zero=True), dh0 = empty(x, (B, H), zero=T == 0)
    cdef Py_ssize_t rounds
    job.T, job.B, job.inputs, job.H = T, B, I, H
    job.xt, job.xb, job.ht, job.hb, job.ld_h0 = stride(x, 0), stride(x, 1), stride(h, 0), stride(h, 1), stride(h0, 0)
    job.dt, job.db = stride(dh, 0), stride(dh, 1)
    job.chunk, job.ld = chunk_steps(T, B, max(H, I), size), padded(H, size)
    job.panels_U, job.panels_W = scratch.packed(U, False), scratch.packed(W, False)
    job.delta = scratch.take((job.chunk + 1) * B * job.ld * size)
    job.panels_x = scratch.take(panels_size(job.chunk * B, I, size) * size)
    job.panels_h = scratch.take(panels_size(job.chunk * B, H, size) * size)
    job.narrow = scratch.take(job.chunk * B * H * size) if job.ld * size >= APART else NULL
    job.lost = scratch.take(H * size)
    memset(job.lost, 0, H * size)
    job.dh, job.h, job.x, job.h0 = data(dh), data(h), data(x), data(h0)
    job.dx, job.dU, job.dW, job.sum_b, job.dh0 = data(dx), data(dU), data(dW), data(db), data(dh0)
    rounds = 2 * ((T + job.chunk - 1) // job.chunk) + 1 if T > 0 else 0
    finish(backward_f32 if size == 4 else backward_f64, &job, rounds, size,
           team_size(n_threads, 4.0 * T * B * H * (H + I), B))
    return dx, dU, dW, db, dh0


def state_gradients(cnp.ndarray dh, cnp.ndarray h, cnp.ndarray W, n_threads=None):
    """grad_h [T, B, H], a new array."""
    cdef Job job
    cdef _Scratch scratch = _Scratch()
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(h), T = h.shape[0], B = h.shape[1], H = h.shape[2]
    cdef cnp.ndarray grad_h = empty(h, (T, B, H))
    job.T, job.B, job.H, job.ld = T, B, H, padded(H, size)
    job.ht, job.hb, job.dt, job.db = stride(h, 0), stride(h, 1), stride(dh, 0), stride(dh, 1)
    job.panels_W, job.delta = scratch.packed(W, False), scratch.take(2 * B * job.ld * size)
    job.dh, job.h, job.grad_h = data(dh), data(h), data(grad_h)
    finish(state_gradients_f32 if size == 4 else state_gradients_f64, &job, 1, size,
           team_size(n_threads, 2.0 * T * B * H * H, B))
    return grad_h


cdef cnp.ndarray run_output(real tag, cnp.ndarray h, const void *panels_V, Py_ssize_t O, cnp.ndarray c):
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2]
    cdef Py_ssize_t ht = stride(h, 0), hb = stride(h, 1)
    cdef cnp.ndarray o = empty(h, (T, B, O))
    cdef const real *ph = <const real *>data(h)
    cdef const real *pc = <const real *>data(c)
    cdef real *po = <real *>data(o)
    cdef Py_ssize_t chunk = chunk_steps(T, B, max(H, O), sizeof(real))
    cdef int status
    with nogil:
        status = output_loop(T, B, H, O, ph, ht, hb, <const real *>panels_V, pc, po, chunk)
    pass_on(status)
    return o


cdef tuple run_output_gradients(real tag, cnp.ndarray do_, cnp.ndarray h, cnp.ndarray V):
    cdef _Scratch scratch = _Scratch()
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2], O = V.shape[0]
    cdef Py_ssize_t dt = stride(do_, 0), db_ = stride(do_, 1), ht = stride(h, 0), hb = stride(h, 1)
    cdef Py_ssize_t chunk = chunk_steps(T, B, max(H, O), sizeof(real))
    cdef cnp.ndarray dh = empty(h, (T, B, H)), dV = empty(h, (O, H), zero=T == 0), dc = empty(h, (O,), zero=True)
    cdef const real *pdo = <const real *>data(do_)
    cdef const real *ph = <const real *>data(h)
    cdef const real *pV = <const real *>scratch.packed(V, False)
    cdef real *pdh = <real *>data(dh)
    cdef real *pdV = <real *>data(dV)
    cdef real *pdc = <real *>data(dc)
    cdef real *rows = <real *>scratch.take(chunk * B * O * sizeof(real))
    cdef real *panels = <real *>scratch.take(panels_size(chunk * B, H, sizeof(real)) * sizeof(real))
    cdef int status
    with nogil:
        status = output_gradients_loop(T, B, H, O, pdo, dt, db_, ph, ht, hb, pV, pdh, pdV, pdc, chunk, rows, panels)
    pass_on(status)
    return dh, dV, dc


def output(cnp.ndarray h, cnp.ndarray V, cnp.ndarray c):
    """o [T, B, O], a new array; c may be None."""
    cdef _Scratch scratch = _Scratch()
    return output_with(h, scratch.packed(V, True), V.shape[0], c)


def output_packed(cnp.ndarray h, cnp.ndarray panels_V, Py_ssize_t O, cnp.ndarray c):
    """output with panels of Vᵀ."""
    return output_with(h, line(panels_V), O, c)


cdef cnp.ndarray output_with(cnp.ndarray h, const void *panels_V, Py_ssize_t O, cnp.ndarray c):
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        return run_output(<float>0, h, panels_V, O, c)
    return run_output(<double>0, h, panels_V, O, c)


def output_gradients(cnp.ndarray do, cnp.ndarray h, cnp.ndarray V):
    """(dh, dV, dc), new arrays."""
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        return run_output_gradients(<float>0, do, h, V)
    return run_output_gradients(<double>0, do, h, V)
