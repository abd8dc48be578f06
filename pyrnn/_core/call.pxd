# One call as the loops of both engines see it, and what they share to walk through it.
cimport numpy as cnp

from libc.stdint cimport uint64_t

from pyrnn._core.arrays cimport real
from pyrnn._core.cell cimport Cell
from pyrnn._core.scratch cimport Scratch
from pyrnn._core.sequences cimport Sequences
from pyrnn._core.table cimport pyrnn_phi
from pyrnn._core.typed cimport column_products, gather_rows, noise
from pyrnn._core.wait cimport pyrnn_atomic


cdef struct Rows:
    # A sequence of rows of contiguous numbers: [T, B, n] by two strides in elements, of time and of batch.
    void *first                    # NULL if there is none
    Py_ssize_t st, sb
    # Where sequences differ in length and lie as the caller has them: where each row that exists begins, in elements,
    # step by step as `offsets` says; else NULL.
    const Py_ssize_t *where


cdef struct Noise:
    # Normal noise that is added to the drive; see csrc/noise.h.
    bint given
    uint64_t seed
    Py_ssize_t stream, step, sequence   # the last two: of the first step and sequence of the arrays
    const void *sigma                   # [H], NULL for 1
    # Step and sequence of each row, as `offsets` says, where sequences differ in length, else NULL: the rows of step t
    # are then at first + by t.
    const Py_ssize_t *steps
    const Py_ssize_t *sequences
    Py_ssize_t first, by


cdef struct Job:
    # Letters as in docs/bptt.md, but I, a macro in complex.h.
    Py_ssize_t T, B, inputs, H
    Rows x, h, dh, drive, dx, d_drive, grad_h
    Rows rates                     # phi of each step; without alpha, h
    Rows fed                       # what W multiplies in the next step: h, or in the current form the rates
    Noise noise
    const void *b
    const void *h0
    const void *fed0               # what W multiplies in the first step, [B, H]
    Py_ssize_t ld_h0, ld_fed0
    Cell cell
    # Where sequences differ in length (see sequences.pyx), else NULL: the rows before each step [T + 1], and the steps
    # of the sequences before each [B + 1]. Rows then lie one after the other, sb apart, or where `where` says.
    const Py_ssize_t *offsets
    const Py_ssize_t *steps_before
    bint longest_first             # rows that `where` tells lie as in sequences of one length: the first ones of a step
    # Chunks of time: their first steps, and T; the most rows that one has.
    Py_ssize_t chunks, most
    const Py_ssize_t *starts
    Py_ssize_t few_starts[17]      # their memory, if these are enough
    # Gradients: of weights [H, I], [H, H], [H], [H]; what the roundings of the last two have lost; of h0 [B, H].
    void *dU
    void *dW
    void *sum_b
    void *sum_alpha
    void *lost
    void *lost_alpha
    void *dh0
    const void *zeros              # [H]
    bint accumulate                # to the gradients of weights, as they are
    bint add_x                     # to that of x
    bint goes_on                   # they will be added to
    # Of the fused engine: the stride of rows in memory of its own, and panels.
    Py_ssize_t ld
    const void *panels_U
    const void *panels_W
    # Written in one round, read in those that follow: delta and, with alpha, grad of the rows of a chunk, after them of
    # the first step of the chunk behind it; panels of x and of what W multiplies.
    void *delta
    void *grad
    void *panels_x
    void *panels_h
    # Scratch memory by task, see Scratch.take_by_task: states of two steps, padded, where h itself is crowded or its
    # rows are scattered; panels of delta, NULL where it is read in place; delta of two steps (state_gradients), or of
    # h0 (backward). Where rows are scattered, rows of two arrays, `widest` apart.
    void **state
    void **own
    void **narrow
    void **step
    void **rows
    void **other_rows
    Py_ssize_t widest
    double since                   # when the caller last looked for Ctrl-C
    pyrnn_atomic stop              # 1 once a signal handler has raised an exception


cdef inline Py_ssize_t at(const Job *job, const Rows *a, Py_ssize_t t, Py_ssize_t row) noexcept nogil:
    """Where a row of step t lies, in elements."""
    return (t * a.st if job.offsets == NULL or a.where != NULL else job.offsets[t] * a.sb) + row * a.sb


cdef inline bint scattered(const Job *job, const Rows *a) noexcept nogil:
    """True if the rows of a step are not equally spaced: use `places`, not `at`."""
    return a.where != NULL and not job.longest_first


cdef inline Py_ssize_t rows_before(const Job *job, Py_ssize_t t) noexcept nogil:
    return t * job.B if job.offsets == NULL else job.offsets[t]


cdef inline Py_ssize_t present(const Job *job, Py_ssize_t t, Py_ssize_t first, Py_ssize_t rows) noexcept nogil:
    """How many of so many rows exist at step t, the first ones; none at T."""
    if t >= job.T:
        return 0
    if job.offsets == NULL:
        return rows
    return max(0, min(rows, job.offsets[t + 1] - job.offsets[t] - first))


cdef inline void add_noise(const Job *job, Py_ssize_t t, Py_ssize_t first, Py_ssize_t rows, const real *drive,
                           Py_ssize_t ld_drive, const real *init, Py_ssize_t ld_init, real *out,
                           Py_ssize_t ld) noexcept nogil:
    """out = init + (drive + sigma xi) of rows of step t from `first` on; init and drive may be NULL, or out."""
    cdef const Noise *a = &job.noise
    if a.steps == NULL:
        noise(a.seed, a.stream, rows, job.H, a.step + a.first + a.by * t, NULL, a.sequence + first, NULL,
              <const real *>a.sigma, drive, ld_drive, init, ld_init, out, ld)
    else:
        first += job.offsets[t]
        noise(a.seed, a.stream, rows, job.H, a.step, a.steps + first, a.sequence, a.sequences + first,
              <const real *>a.sigma, drive, ld_drive, init, ld_init, out, ld)


cdef class Call:
    cdef Job job
    cdef int what                  # this call does, until it is begun
    cdef Py_ssize_t T, B, size     # of the arrays, and of a number in bytes; job.T and job.B are those of the loops
    cdef readonly cnp.ndarray x, U, W, b, h0, drive, alpha, h, rates, dh, grad_h
    cdef cnp.ndarray dx, dU, dW, db, dh0, d_drive, d_alpha, lost
    cdef cnp.ndarray lengths, sigma
    cdef readonly cnp.ndarray mask
    cdef readonly bint reverse
    cdef bint packed, adds_x
    cdef readonly object n_threads
    cdef public object give        # what floor 3 makes of the result; None where the caller gets it as it is
    cdef readonly Sequences sequences                                # where the steps of some sequences do not exist
    cdef cnp.ndarray packed_h, packed_rates, packed_dx, packed_drive, initial
    cdef Scratch scratch

    cdef int new_results(self, bint x_gradient, bint drive) except -1
    cdef bint take_results(self, out, drive, cell)
    cdef int lay_out(self, int what, Py_ssize_t least) except -1
    cdef cnp.ndarray place(self, cnp.ndarray a, Rows *rows, bint written)
    cdef int put(self, cnp.ndarray packed, cnp.ndarray a, cnp.ndarray before=*) except -1
    cdef int read_states(self) except -1
    # What the function of an engine does first and last.
    cdef int begin_forward(self, Py_ssize_t least) except -1
    cdef int end_forward(self) except -1
    cdef int begin_backward(self, Py_ssize_t least) except -1
    cdef int end_backward(self) except -1
    cdef int begin_state_gradients(self) except -1
    cdef int end_state_gradients(self) except -1


cdef Call packed_call(cnp.ndarray x, cnp.ndarray b, cnp.ndarray h0, cell, cnp.ndarray h, cnp.ndarray rates, n_threads)

cdef Rows rows_in(cnp.ndarray a)

cdef void count_steps(Job *job, Py_ssize_t *before) noexcept

cdef int divide(Job *job, Scratch scratch, Py_ssize_t size, bint from_end) except -1

cdef void feed(Job *job, Py_ssize_t itemsize, void *memory) noexcept

cdef cnp.ndarray phi_of(cnp.ndarray h, pyrnn_phi phi)

cdef int check_output(cnp.ndarray h, Py_ssize_t O, cnp.ndarray c, cnp.ndarray out) except -1

cdef tuple output_results(cnp.ndarray do_, cnp.ndarray h, cnp.ndarray V, tuple results, bint accumulate)

cdef void end_of_sums(const Job *job, Py_ssize_t itemsize, Py_ssize_t first, Py_ssize_t end) noexcept nogil


# How many steps of B rows of N numbers make a chunk of time: at least one, at most T.
cdef Py_ssize_t chunk_steps(Py_ssize_t T, Py_ssize_t B, Py_ssize_t N, Py_ssize_t itemsize) noexcept nogil


cdef inline const Py_ssize_t *places(const Job *job, const Rows *a, Py_ssize_t t, Py_ssize_t first) noexcept nogil:
    """Where the rows of step t from `first` on begin."""
    return a.where + job.offsets[t] + first


cdef inline const real *read(const Job *job, const Rows *a, Py_ssize_t t, Py_ssize_t first, Py_ssize_t rows,
                             Py_ssize_t n, real *memory, Py_ssize_t *ld) noexcept nogil:
    """Rows of n numbers of step t, ld apart: as they lie, or gathered in memory of rows as far apart as `ld` says.

    A step is gathered just before it is used, while it stays in the nearest cache: of whole sequences it took a third
    of the time of a call (H = 32, B = 32).
    """
    if not scattered(job, a):
        ld[0] = a.sb
        return <const real *>a.first + at(job, a, t, first)
    gather_rows(rows, n, <const real *>a.first, places(job, a, t, first), memory, ld[0])
    return memory


cdef inline void leak_gradient_of(const Job *job, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t unit, Py_ssize_t units,
                                  const real *grad, Py_ssize_t ld, real *memory_p, real *memory_q,
                                  Py_ssize_t ld_memory) noexcept nogil:
    """dalpha = Σ grad_h_t ∘ (r_t - h_{t-1}) of some units and steps; grad: whole rows of all the steps, ld apart.

    In the current form the sum of grad_h_t ∘ (h_t - h_{t-1}), which is alpha times that with a_t for r_t.
    memory_p, memory_q: B rows of these units, ld_memory apart, where rows are scattered.
    """
    cdef Py_ssize_t t, n, rows, base = rows_before(job, start), ld_p = ld_memory, ld_q = ld_memory
    cdef Rows p = job.h if job.cell.current else job.rates
    cdef Rows q = job.h
    cdef const real *later
    cdef const real *earlier
    cdef real *total = <real *>job.sum_alpha + unit
    cdef real *lost = <real *>job.lost_alpha + unit
    p.first, q.first = <real *>p.first + unit, <real *>q.first + unit
    if start == 0:
        rows = present(job, 0, 0, job.B)
        later = read(job, &p, 0, 0, rows, units, memory_p, &ld_p)
        column_products(1, rows, units, grad, ld, later, 0, ld_p, <const real *>job.h0 + unit, 0, job.ld_h0, total,
                        lost)
    t = max(start, 1)
    while t < stop:
        n = 1 if job.offsets != NULL else stop - t  # steps at once
        rows, ld_p, ld_q = present(job, t, 0, job.B), ld_memory, ld_memory
        later = read(job, &p, t, 0, rows, units, memory_p, &ld_p)
        earlier = read(job, &q, t - 1, 0, rows, units, memory_q, &ld_q)
        column_products(n, rows, units, grad + (rows_before(job, t) - base) * ld, ld, later, p.st, ld_p, earlier, q.st,
                        ld_q, total, lost)
        t += n
