"""One call of forward, backward or state_gradients, as the loops over time of both engines see it.

Floor 3 makes a `Call` of its arguments, an engine computes it. The call owns its arrays and knows their sizes, which
steps exist and in which order they come, where the rows of each lie, how time is divided into chunks, and what memory
the loops need. A loop sees a `Job` of it: plain C.

A chunk of a sequence has 512 rows, so that dW is not read and written too often, but 256 KB at least and 4 MB at most.
Measured in the fused engine, one thread: 512 KB against 4 MB is within 3 % up to H = 256, and at H = 1000 slower by 7 %
in float32, by 25 % in float64.
"""

cimport cython
cimport numpy as cnp
from cpython.pyport cimport PY_SSIZE_T_MAX
from libc.stdint cimport uint64_t
from libc.string cimport memset

from pyrnn._core.arrays cimport (
    AS_MATRIX, CONTIGUOUS, IN_ROWS, OPTIONAL, WRITTEN, data, empty, fits, gather, has_layout, kind_of, need, real,
    rows_apart, stride, usable,
)
from pyrnn._core.cell cimport read_cell, read_phi
from pyrnn._core.memory cimport new_array
from pyrnn._core.numbers cimport slopes_of
from pyrnn._core.scratch cimport Scratch
from pyrnn._core.sequences cimport Sequences
from pyrnn._core.table cimport flush_subnormals, pyrnn_phi, restore_subnormals
from pyrnn._core.typed cimport step_forward

from pyrnn._core.sequences import common, fit as lengths_fit

cnp.import_array()

cdef enum:  # what a chunk should have; dW, which may be larger than a cache, is read and written once in each
    ROWS = 512
    LEAST_BYTES = 1 << 18
    MOST_BYTES = 1 << 22

cdef Py_ssize_t FORCED_BYTES = 0  # of a chunk, if not 0


# ---- Arguments that the loops can take as they are ------------------------------------------------------------------
def read_in_place(*arrays):
    """Whether the loops can read all arrays without a copy: all float32 or all float64, with contiguous rows.

    None counts as readable. A subclass of ndarray does not, since it may mean something else by its elements.
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
    """The first address of an array and the one behind its last; both are 0 for an empty array."""
    cdef int i
    cdef Py_ssize_t span
    first[0] = end[0] = 0
    if cnp.PyArray_SIZE(a) == 0:
        return
    first[0] = <size_t>cnp.PyArray_DATA(a)
    end[0] = first[0] + cnp.PyArray_ITEMSIZE(a)
    for i in range(cnp.PyArray_NDIM(a)):
        span = (cnp.PyArray_DIM(a, i) - 1) * cnp.PyArray_STRIDE(a, i)
        if span < 0:
            first[0] += span
        else:
            end[0] += span


cdef bint apart(cnp.ndarray a, tuple others) noexcept:
    """Whether an array shares no memory with the other arrays; None among them is passed over."""
    cdef size_t first, end, other_first, other_end
    bounds(a, &first, &end)
    for other in others:
        if other is not None:
            bounds(other, &other_first, &other_end)
            if first < other_end and other_first < end:
                return False
    return True


cdef bint writeable(object a, int kind, int ndim, const cnp.npy_intp *shape) noexcept:
    """Whether the loops can write to an array without a copy: its rows are contiguous and do not overlap."""
    return fits(a, kind, ndim, shape) and has_layout(a, kind, IN_ROWS | WRITTEN)


cdef bint whole(object a, int kind, int ndim, const cnp.npy_intp *shape) noexcept:
    """Whether it is a contiguous array that the loops can write to."""
    return fits(a, kind, ndim, shape) and cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISWRITEABLE(a)


cdef int kind_with_matrix(a, matrix) noexcept:
    """The type of an array of three axes, float32 or float64; -1 for any other, or if the second one is no matrix."""
    cdef int kind
    if (type(a) is not cnp.ndarray or type(matrix) is not cnp.ndarray or cnp.PyArray_NDIM(a) != 3
            or cnp.PyArray_NDIM(matrix) != 2):
        return -1
    kind = cnp.PyArray_TYPE(a)
    return kind if kind == cnp.NPY_FLOAT32 or kind == cnp.NPY_FLOAT64 else -1


cdef int fit_network(x, U, W, h0, cnp.npy_intp *states) noexcept:
    """The type of a network's arrays if the loops can take them as they are, else -1; writes T, B, H to `states`."""
    cdef cnp.npy_intp inputs[3]
    cdef cnp.npy_intp columns[2]  # of U
    cdef cnp.npy_intp square[2]   # of W
    cdef int kind, i
    kind = kind_with_matrix(x, U)
    if kind < 0:
        return -1
    for i in range(3):
        inputs[i] = states[i] = cnp.PyArray_DIM(x, i)
    states[2] = columns[0] = square[0] = square[1] = cnp.PyArray_DIM(U, 0)
    columns[1] = inputs[2]
    if (fits(x, kind, 3, inputs) and fits(U, kind, 2, columns) and fits(W, kind, 2, square)
            and rows_apart(U) and rows_apart(W)  # else BLAS wants a copy, as of h0
            and (h0 is None or fits(h0, kind, 2, states + 1) and rows_apart(h0))):
        return kind
    return -1


cdef bint fit_rates(rates, cell, int kind, const cnp.npy_intp *states):
    """Whether rates are as backward reads them: there with a leak, but in the current form they need not be."""
    if cell.alpha is None or (rates is None and cell.current):
        return rates is None
    return fits(rates, kind, 3, states)


cdef bint fit_steps(lengths, mask, reverse, cnp.ndarray x):
    """Whether the steps that exist are given as `Sequences` wants them."""
    if lengths is not None and (mask is not None or not lengths_fit(lengths, x)):
        return False
    if mask is not None and (
            type(mask) is not cnp.ndarray or cnp.PyArray_TYPE(mask) != cnp.NPY_BOOL or cnp.PyArray_NDIM(mask) != 2
            or cnp.PyArray_DIM(mask, 0) != cnp.PyArray_DIM(x, 0)
            or cnp.PyArray_DIM(mask, 1) != cnp.PyArray_DIM(x, 1)):
        return False
    return type(reverse) is bool


cdef int fit_layer(h, V, cnp.npy_intp *states, cnp.npy_intp *outputs) noexcept:
    """The type of the states and weights of an output layer, or -1, as by `fit_network`; the shapes of h and o."""
    cdef cnp.npy_intp matrix[2]
    cdef int kind, i
    kind = kind_with_matrix(h, V)
    if kind < 0:
        return -1
    for i in range(3):
        states[i] = outputs[i] = cnp.PyArray_DIM(h, i)
    matrix[0] = outputs[2] = cnp.PyArray_DIM(V, 0)
    matrix[1] = states[2]
    return kind if fits(h, kind, 3, states) and fits(V, kind, 2, matrix) and rows_apart(V) else -1


def output_fits(h, V, c, out):
    """Whether an engine's `output` can take all as they are, and may write to out; c and out may be None."""
    cdef cnp.npy_intp states[3]
    cdef cnp.npy_intp outputs[3]
    cdef int kind = fit_layer(h, V, states, outputs)
    return (kind >= 0 and (c is None or fits(c, kind, 1, outputs + 2))
            and (out is None or whole(out, kind, 3, outputs) and apart(out, (h, V, c))))


def output_gradients_fit(do, h, V, dh, dV, dc):
    """The same of `output_gradients` and three arrays to write to."""
    cdef cnp.npy_intp states[3]
    cdef cnp.npy_intp outputs[3]
    cdef cnp.npy_intp matrix[2]
    cdef int kind = fit_layer(h, V, states, outputs)
    if kind < 0 or not fits(do, kind, 3, outputs):
        return False
    matrix[0], matrix[1] = outputs[2], states[2]
    return (whole(dh, kind, 3, states) and whole(dV, kind, 2, matrix) and whole(dc, kind, 1, outputs + 2)
            and apart(dh, (do, h, V, dV, dc)) and apart(dV, (do, h, V, dc)) and apart(dc, (do, h, V)))


# ---- A call ---------------------------------------------------------------------------------------------------------
cdef enum:  # what a call does, once
    NOTHING
    FORWARD
    BACKWARD
    STATE_GRADIENTS


@cython.final
@cython.freelist(4)
@cython.no_gc  # nothing in it leads back to it
@cython.auto_pickle(False)
cdef class Call:
    """The arguments of one call, ready for an engine, which computes it once.

    `forward`, `backward` and `state_gradients` make it. They return None if the loops cannot take an argument as it is:
    it may be wrong, or must be converted first. What the arguments mean stands in pyrnn/functional.py; here all arrays
    are of one dtype with a batch axis.
    """
    def __cinit__(self):
        self.scratch = Scratch()

    @staticmethod
    def forward(x, U, W, b, h0, cell, drive, lengths, mask, reverse, rates, out, n_threads):
        """A call that writes h to out, a new array if None, and rates unless None."""
        cdef Call call
        cdef cnp.npy_intp states[3]
        cdef int kind = fit_network(x, U, W, h0, states)
        cdef bint leaky = cell.alpha is not None
        if kind < 0 or not fit_steps(lengths, mask, reverse, x) or (rates is not None and not leaky):
            return None
        if not ((b is None or fits(b, kind, 1, states + 2)) and (drive is None or fits(drive, kind, 3, states))):
            return None
        others = (x, U, W, b, h0, drive)
        if not ((rates is None or writeable(rates, kind, 3, states) and apart(rates, others)) and (
                out is None or writeable(out, kind, 3, states) and apart(out, (*others, rates)))):
            return None
        call = new_call(FORWARD, x, states[2], h0, cell, lengths, mask, reverse, n_threads)
        call.U, call.W, call.b, call.drive, call.rates = U, W, b, drive, rates
        call.h = new_array(3, states, kind, False) if out is None else out
        return call

    @staticmethod
    def backward(dh, h, x, U, W, h0, cell, drive, lengths, mask, reverse, rates, bint x_gradient, out, n_threads):
        """A call that writes gradients to the arrays of out, as `results` has them, or to new ones if None.

        drive: unless None, its gradient is wanted; rates may be None in the current form.
        """
        cdef Call call
        cdef cnp.npy_intp states[3]
        cdef int kind = fit_network(x, U, W, h0, states)
        if kind < 0 or not fit_steps(lengths, mask, reverse, x):
            return None
        if not (fits(dh, kind, 3, states) and fits(h, kind, 3, states) and fit_rates(rates, cell, kind, states)
                and (drive is None or fits(drive, kind, 3, states))):
            return None
        call = new_call(BACKWARD, x, states[2], h0, cell, lengths, mask, reverse, n_threads)
        call.U, call.W, call.dh, call.h, call.rates = U, W, dh, h, rates
        if out is None:
            call.new_results(x_gradient, drive is not None)
        elif not call.take_results(out, drive, cell):
            return None
        return call

    @staticmethod
    def state_gradients(dh, h, W, cell, lengths, mask, reverse, rates, n_threads):
        """A call that writes grad_h, a new array; rates may be None in the current form."""
        cdef Call call
        cdef cnp.npy_intp states[3]
        cdef int kind = fit_network(h, W, W, None, states)  # h is as x of a network whose U is W
        if kind < 0 or not (fit_steps(lengths, mask, reverse, h) and fits(dh, kind, 3, states)
                            and fit_rates(rates, cell, kind, states)):
            return None
        call = new_call(STATE_GRADIENTS, h, states[2], None, cell, lengths, mask, reverse, n_threads)
        call.W, call.dh, call.h, call.rates = W, dh, h, rates
        call.grad_h = new_array(3, states, kind, False)
        return call

    # ---- Results of backward -----------------------------------------------------------------------------------------
    cdef int new_results(self, bint x_gradient, bint drive) except -1:
        cdef cnp.ndarray x = self.x
        cdef Py_ssize_t H = self.job.H
        self.dx = empty(x, (self.T, self.B, self.job.inputs)) if x_gradient else None
        self.dU, self.dW, self.db = empty(x, (H, self.job.inputs)), empty(x, (H, H)), empty(x, (H,))
        self.dh0 = empty(x, (self.B, H))
        self.d_drive = empty(x, (self.T, self.B, H)) if drive else None
        self.d_alpha = empty(x, (H,)) if self.job.cell.leaky else None
        return 0

    cdef bint take_results(self, out, drive, cell):
        """Use the arrays of earlier results, and return True, if the loops can write to them without a copy.

        They must share no memory with each other or with an input. Where alpha is one number, its gradient in `out` is
        one too, and the loops get a new array for the gradients of all units.
        """
        cdef cnp.npy_intp states[3]
        cdef cnp.npy_intp inputs[3]
        cdef cnp.npy_intp columns[2]
        cdef cnp.npy_intp square[2]
        cdef int kind = cnp.PyArray_TYPE(self.x), i
        states[0], states[1], states[2] = self.T, self.B, self.job.H
        inputs[0], inputs[1], inputs[2] = self.T, self.B, self.job.inputs
        columns[0], columns[1] = self.job.H, self.job.inputs
        square[0] = square[1] = self.job.H
        dx, dU, dW, db, dh0, d_drive, d_alpha = out
        if drive is None:
            d_drive = None
        elif d_drive is None:
            return False
        if not self.job.cell.leaky:
            d_alpha = None
        elif type(d_alpha) is not cnp.ndarray:
            if not isinstance(cell.alpha, float):
                return False
            d_alpha = empty(self.x, (self.job.H,))
        if not ((dx is None or writeable(dx, kind, 3, inputs)) and whole(dU, kind, 2, columns)
                and whole(dW, kind, 2, square) and whole(db, kind, 1, square) and whole(dh0, kind, 2, states + 1)
                and (d_drive is None or writeable(d_drive, kind, 3, states))
                and (d_alpha is None or whole(d_alpha, kind, 1, square))):
            return False
        results = (dx, dU, dW, db, dh0, d_drive, d_alpha)
        inputs_ = (self.dh, self.h, self.x, self.U, self.W, self.h0, drive, self.alpha, self.rates)
        for i in range(7):
            if results[i] is not None and not (apart(results[i], inputs_) and apart(results[i], results[i + 1:])):
                return False
        self.dx, self.dU, self.dW, self.db, self.dh0, self.d_drive, self.d_alpha = results
        return True

    @property
    def results(self):
        """(dx, dU, dW, db, dh0, d_drive, d_alpha): the first or the last two may be None; d_alpha is of each unit."""
        return self.dx, self.dU, self.dW, self.db, self.dh0, self.d_drive, self.d_alpha

    def add(self, bint weights, bint x, cnp.ndarray lost=None, bint goes_on=False):
        """Let backward add to the gradients of U, W, b and alpha, and to that of x, instead of writing them.

        To go through a long sequence from its end in pieces: dh of a piece's last step has the dh0 of the piece behind
        it, `goes_on` says that another piece is to come, and in between `lost` [3, H], zeros at first, keeps what the
        sums have lost by rounding.
        """
        need("lost", lost, cnp.PyArray_TYPE(self.x), CONTIGUOUS | WRITTEN | OPTIONAL, 2, 3, self.job.H)
        self.job.accumulate, self.job.add_x, self.job.goes_on, self.lost = weights, x, goes_on, lost

    def add_noise(self, uint64_t seed, Py_ssize_t stream, Py_ssize_t step, Py_ssize_t sequence, cnp.ndarray sigma):
        """Let forward add noise to the drive, of a step and a sequence on; sigma [H], or None for 1."""
        need("sigma", sigma, cnp.PyArray_TYPE(self.x), CONTIGUOUS | OPTIONAL, 1, self.job.H)
        self.sigma = sigma
        self.job.noise.given, self.job.noise.sigma = True, data(sigma)
        self.job.noise.seed, self.job.noise.stream = seed, stream
        self.job.noise.step, self.job.noise.sequence = step, sequence

    # ---- For the engines ---------------------------------------------------------------------------------------------
    cdef int lay_out(self, int what, Py_ssize_t least) except -1:
        """Put the steps that exist in order and divide them into chunks; an error if the call was computed before.

        least: from so many sequences of different lengths on, the loops read the caller's arrays. The rows of fewer
        sequences, and of those with a mask, are copied behind each other first.
        """
        cdef Job *job = &self.job
        cdef cnp.ndarray first = self.h0
        cdef Py_ssize_t *steps
        if self.what != what:
            raise ValueError("a call is computed once, by the function that it was made for")
        self.what = NOTHING
        if self.lengths is not None or self.mask is not None:
            job.T = common(self.lengths)
            if job.T < 0:
                self.sequences = Sequences(self.T, self.B, self.lengths, self.mask, self.reverse)
                self.packed = self.mask is not None or self.sequences.order.shape[0] < least
                job.longest_first = self.sequences.longest_first and not self.packed
                job.offsets = self.sequences.offset
                job.T, job.B = self.sequences.offsets.shape[0] - 1, self.sequences.order.shape[0]
                steps = <Py_ssize_t *>self.scratch.take((job.B + 1) * sizeof(Py_ssize_t))
                count_steps(job, steps)
                job.steps_before = steps
                if first is not None:
                    first = self.sequences.first_rows(first)
        if first is not None:
            job.h0, job.ld_h0 = data(first), stride(first, 0)
            job.fed0, job.ld_fed0 = job.h0, job.ld_h0
        divide(job, self.scratch, self.size, what != FORWARD)
        return 0

    cdef cnp.ndarray place(self, cnp.ndarray a, Rows *rows, bint written):
        """Write to `rows` where the loops find a [T, B, n]; returns the packed array that they write, or None."""
        cdef cnp.ndarray packed = None
        if self.packed and a is not None:
            packed = self.sequences.empty(a, a.shape[2]) if written else self.sequences.gather(a)
        rows[0] = rows_in(a if packed is None else packed)
        if a is None or self.packed:
            return packed
        if self.sequences is not None:
            rows.where = self.sequences.places(a)
        elif self.reverse and self.job.T > 0:
            rows.first = <char *>rows.first + (self.job.T - 1) * cnp.PyArray_STRIDE(a, 0)
            rows.st = -rows.st
        return None

    cdef int put(self, cnp.ndarray packed, cnp.ndarray a, cnp.ndarray before=None) except -1:
        """Copy what the loops have packed to a [T, B, n].

        Steps that do not exist get 0, or with `before` [B, n] the row of the step before.
        """
        if a is None:
            return 0
        if packed is not None:
            self.sequences.scatter(packed, a, before)
        elif self.sequences is not None:
            self.sequences.fill(a)
        elif self.job.T < self.T:
            a[self.job.T:] = 0
        return 0

    cdef int begin_forward(self, Py_ssize_t least) except -1:
        cdef Job *job = &self.job
        self.lay_out(FORWARD, least)
        self.place(self.x, &job.x, False)
        self.place(self.drive, &job.drive, False)
        if self.sequences is not None:
            job.noise.steps, job.noise.sequences = self.sequences.time, self.sequences.row
        elif self.reverse:
            job.noise.first, job.noise.by = job.T - 1, -1
        else:
            job.noise.first, job.noise.by = 0, 1
        self.packed_h, self.packed_rates = self.place(self.h, &job.h, True), self.place(self.rates, &job.rates, True)
        job.b = data(self.b)
        return 0

    cdef int end_forward(self) except -1:
        self.put(self.packed_h, self.h, None if self.mask is None else self.h0)
        return self.put(self.packed_rates, self.rates)

    cdef int read_states(self) except -1:
        """Place the states and rates that backward and state_gradients read."""
        cdef Job *job = &self.job
        if self.rates is None and job.cell.current:
            self.rates = phi_of(self.h, job.cell.phi)
        self.place(self.h, &job.h, False)
        if job.cell.leaky:
            self.place(self.rates, &job.rates, False)
        else:
            job.rates = job.h
        job.fed = job.rates if job.cell.current else job.h
        return 0

    cdef int begin_backward(self, Py_ssize_t least) except -1:
        cdef Job *job = &self.job
        cdef cnp.ndarray dh = self.dh
        cdef Py_ssize_t size = job.H * self.size
        self.lay_out(BACKWARD, least)
        job.dh0 = data(self.dh0)
        if self.sequences is not None:
            self.initial = self.sequences.first_rows(self.h0)  # memory for their gradients
            job.dh0 = data(self.initial)
        if self.packed:
            dh = self.sequences.gather_gradients(dh, self.dh0)
            job.dh = rows_in(dh)
        else:
            self.place(dh, &job.dh, False)
            if self.sequences is not None:
                clear(self.dh0)
        self.place(self.x, &job.x, False)
        self.read_states()
        self.packed_dx = self.place(self.dx, &job.dx, True)
        self.packed_drive = self.place(self.d_drive, &job.d_drive, True)
        self.adds_x, job.add_x = job.add_x, job.add_x and not self.packed
        if not job.accumulate:
            clear(self.db)
            clear(self.d_alpha)
            if job.T == 0:
                clear(self.dU)
                clear(self.dW)
        if job.T == 0 and self.sequences is None:
            clear(self.dh0)
        if self.lost is None:
            job.lost = self.scratch.take(3 * size)
            memset(job.lost, 0, 3 * size)
        else:
            job.lost = data(self.lost)
        job.lost_alpha = <char *>job.lost + size
        job.zeros = <char *>job.lost_alpha + size
        job.dU, job.dW, job.sum_b, job.sum_alpha = data(self.dU), data(self.dW), data(self.db), data(self.d_alpha)
        return 0

    cdef int end_backward(self) except -1:
        cdef cnp.ndarray dx = self.dx
        if self.sequences is not None:
            self.sequences.add_first_rows(self.initial, self.dh0)
        self.put(self.packed_drive, self.d_drive)
        if self.adds_x and (dx is None or self.packed_dx is None):
            return 0
        if self.adds_x:
            dx = empty(dx, (self.T, self.B, self.job.inputs))
        self.put(self.packed_dx, dx)
        if self.adds_x:
            self.dx += dx
        return 0

    cdef int begin_state_gradients(self) except -1:
        cdef cnp.ndarray initial, dh = self.dh
        self.lay_out(STATE_GRADIENTS, PY_SSIZE_T_MAX)
        if self.packed:
            initial = empty(dh, (self.B, self.job.H))
            dh = self.sequences.gather_gradients(dh, initial)
            self.job.dh = rows_in(dh)
        else:
            self.place(dh, &self.job.dh, False)
        self.read_states()
        self.packed_h = self.place(self.grad_h, &self.job.grad_h, True)
        return 0

    cdef int end_state_gradients(self) except -1:
        return self.put(self.packed_h, self.grad_h)


cdef inline void clear(cnp.ndarray a) noexcept:
    """Zeros in a contiguous array, if there is one."""
    if a is not None:
        memset(data(a), 0, cnp.PyArray_NBYTES(a))


cdef Call new_call(int what, cnp.ndarray x, Py_ssize_t H, h0, cell, lengths, mask, bint reverse, n_threads):
    """A call with the arguments that all three have; without h0, forward and backward begin with zeros."""
    cdef Call call = Call.__new__(Call)
    cdef Job *job = &call.job
    call.what, call.x, call.n_threads = what, x, n_threads
    call.lengths, call.mask, call.reverse = lengths, mask, reverse
    call.T, call.B, call.size = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1), cnp.PyArray_ITEMSIZE(x)
    job.T, job.B, job.inputs, job.H = call.T, call.B, cnp.PyArray_DIM(x, 2), H
    call.alpha = read_cell(cell, H, x, &job.cell)
    if h0 is not None:
        call.h0 = h0
    elif what != STATE_GRADIENTS:
        call.h0 = empty(x, (call.B, H), zero=True)
    return call


cdef Call packed_call(cnp.ndarray x, cnp.ndarray b, cnp.ndarray h0, cell, cnp.ndarray h, cnp.ndarray rates, n_threads):
    """A call of forward for `engine_fused.forward_packed`, whose arrays fit."""
    cdef Call call = new_call(FORWARD, x, h.shape[2], h0, cell, None, None, False, n_threads)
    call.b, call.h, call.rates = b, h, rates
    return call


# ---- What the loops see ---------------------------------------------------------------------------------------------
cdef Rows rows_in(cnp.ndarray a):
    """An array [T, B, n] as the loops see it; None as nothing."""
    cdef Rows rows
    rows.first, rows.st, rows.sb, rows.where = NULL, 0, 0, NULL
    if a is not None:
        rows.first, rows.st, rows.sb = data(a), stride(a, 0), stride(a, 1)
    return rows


cdef Py_ssize_t chunk_steps(Py_ssize_t T, Py_ssize_t B, Py_ssize_t N, Py_ssize_t itemsize) noexcept nogil:
    """How many steps of B rows of N numbers make a chunk: at least one, at most T."""
    cdef Py_ssize_t row = max(N * itemsize, 1), size = FORCED_BYTES
    if size == 0:
        size = min(max(ROWS * row, LEAST_BYTES), MOST_BYTES)
    return max(1, min(T, size // (max(B, 1) * row)))


cdef void count_steps(Job *job, Py_ssize_t *before) noexcept:
    """The steps of the sequences before each, of sequences of different lengths."""
    cdef Py_ssize_t row, t = job.T
    before[0] = 0
    for row in range(job.B):
        while t > 0 and job.offsets[t] - job.offsets[t - 1] <= row:
            t -= 1
        before[row + 1] = before[row] + t


cdef int divide(Job *job, Scratch scratch, Py_ssize_t size, bint from_end) except -1:
    """Divide time into chunks, all but the first, or with from_end all but the last, as full as they may be."""
    cdef Py_ssize_t steps = chunk_steps(job.T, job.B, max(job.H, job.inputs), size), most = steps * job.B, t, c
    cdef Py_ssize_t *start = job.few_starts
    if job.offsets == NULL:
        job.chunks = (job.T + steps - 1) // steps if job.T > 0 else 0
        if job.chunks >= 17:
            start = <Py_ssize_t *>scratch.take((job.chunks + 1) * sizeof(Py_ssize_t))
        for c in range(job.chunks + 1):
            start[c] = max(0, job.T - (job.chunks - c) * steps) if from_end else min(c * steps, job.T)
    else:
        start = <Py_ssize_t *>scratch.take((job.T + 1) * sizeof(Py_ssize_t))
        c, start[0] = 0, 0
        for t in range(1, job.T + 1):
            if t == job.T or job.offsets[t + 1] - job.offsets[start[c]] > most:
                c += 1
                start[c] = t
        job.chunks = c
    job.starts, job.most = start, most
    return 0


cdef void feed(Job *job, Py_ssize_t itemsize, void *memory) noexcept:
    """In the current form, what W multiplies in the first step: phi(h0), in B H numbers of memory."""
    if itemsize == 4:
        feed_typed(job, <const float *>job.h0, <float *>memory)
    else:
        feed_typed(job, <const double *>job.h0, <double *>memory)
    job.fed0, job.ld_fed0 = memory, job.H


cdef inline void feed_typed(const Job *job, const real *h0, real *rates) noexcept:
    gather(1, job.B, job.H, h0, 0, job.ld_h0, rates)
    step_forward(job.B, job.H, <const real *>NULL, rates, job.H, job.cell.phi)


cdef cnp.ndarray phi_of(cnp.ndarray h, pyrnn_phi phi):
    """phi of the states [T, B, H], as the loops of forward compute it."""
    cdef cnp.ndarray rates = empty(h, (h.shape[0] * h.shape[1], h.shape[2]))
    if cnp.PyArray_ITEMSIZE(h) == 4:
        gather(h.shape[0], h.shape[1], h.shape[2], <const float *>data(h), stride(h, 0), stride(h, 1),
               <float *>data(rates))
    else:
        gather(h.shape[0], h.shape[1], h.shape[2], <const double *>data(h), stride(h, 0), stride(h, 1),
               <double *>data(rates))
    apply_phi(rates, phi)
    return rates.reshape((h.shape[0], h.shape[1], h.shape[2]))


cdef void end_of_sums(const Job *job, Py_ssize_t itemsize, Py_ssize_t first, Py_ssize_t end) noexcept nogil:
    """What the roundings of sums have lost, and in the current form the division by alpha, of some units."""
    if itemsize == 4:
        add_lost(first, end, <const float *>job.lost, <float *>job.sum_b)
        if job.cell.leaky:
            add_lost(first, end, <const float *>job.lost_alpha, <float *>job.sum_alpha)
            divide_by_alpha(job, first, end, <float *>job.sum_alpha)
    else:
        add_lost(first, end, <const double *>job.lost, <double *>job.sum_b)
        if job.cell.leaky:
            add_lost(first, end, <const double *>job.lost_alpha, <double *>job.sum_alpha)
            divide_by_alpha(job, first, end, <double *>job.sum_alpha)


cdef inline void add_lost(Py_ssize_t first, Py_ssize_t end, const real *lost, real *total) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(first, end):
        if lost[i] == lost[i]:  # a sum of inf or NaN has lost NaN
            total[i] += lost[i]


cdef inline void divide_by_alpha(const Job *job, Py_ssize_t first, Py_ssize_t end, real *total) noexcept nogil:
    cdef Py_ssize_t i
    if job.cell.current:
        for i in range(first, end):
            total[i] /= (<const real *>job.cell.alpha)[i]


cdef void apply_phi(cnp.ndarray rows, pyrnn_phi phi) noexcept:
    flush_subnormals()
    if cnp.PyArray_ITEMSIZE(rows) == 4:
        step_forward(rows.shape[0], rows.shape[1], <const float *>NULL, <float *>data(rows), rows.shape[1], phi)
    else:
        step_forward(rows.shape[0], rows.shape[1], <const double *>NULL, <double *>data(rows), rows.shape[1], phi)
    restore_subnormals()


def phi_in_place(cnp.ndarray rows, cell):
    """phi of a pyrnn.Cell at rows [n, H], contiguous, in place; returns them."""
    need("rows", rows, kind_of("rows", rows, 2), CONTIGUOUS | WRITTEN, 2, rows.shape[0], rows.shape[1])
    apply_phi(rows, read_phi(cell))
    return rows


def slopes(cnp.ndarray rates, cell, cnp.ndarray out):
    """Write phi'(a) of a pyrnn.Cell to out [n], from rates [n] = phi(a); both contiguous, and may be the same."""
    cdef int kind = kind_of("rates", rates, 1)
    cdef Py_ssize_t n = rates.shape[0]
    need("rates", rates, kind, CONTIGUOUS, 1, n)
    need("out", out, kind, CONTIGUOUS | WRITTEN, 1, n)
    flush_subnormals()
    if kind == cnp.NPY_FLOAT32:
        slopes_of(n, <const float *>data(rates), read_phi(cell), <float *>data(out))
    else:
        slopes_of(n, <const double *>data(rates), read_phi(cell), <double *>data(out))
    restore_subnormals()


def steps_of_a_chunk(Py_ssize_t T, Py_ssize_t B, Py_ssize_t N, Py_ssize_t itemsize):
    """How many steps of B rows of N numbers the loops take together, counted in backward from the end of time."""
    return chunk_steps(T, B, N, itemsize)


def set_chunk_bytes(Py_ssize_t size):
    """Force how many bytes of a sequence make a chunk, 0 for the usual rule, and return the old number; for tests."""
    global FORCED_BYTES
    old, FORCED_BYTES = FORCED_BYTES, size
    return old


# ---- The output layer: what both engines check of its arguments ------------------------------------------------------
cdef int check_output(cnp.ndarray h, Py_ssize_t O, cnp.ndarray c, cnp.ndarray out) except -1:
    cdef int kind = kind_of("h", h, 3)
    need("h", h, kind, IN_ROWS, 3, h.shape[0], h.shape[1], h.shape[2])
    need("c", c, kind, CONTIGUOUS | OPTIONAL, 1, O)
    need("out", out, kind, CONTIGUOUS | WRITTEN | OPTIONAL, 3, h.shape[0], h.shape[1], O)
    return 0


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
