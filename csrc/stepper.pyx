"""One step of time a call, for streams: weights packed once, the state kept between calls, and little beside the sums.

The numbers are those of the fused engine, by the same kernels; see there. A call that finds its arrays as the
kernels read them allocates nothing but its result, and takes no detour through Python.
"""

cimport cython
cimport numpy as cnp
from libc.string cimport memcpy

from pyrnn._core import engine_fused

from pyrnn._core.arrays cimport (
    CONTIGUOUS, IN_ROWS, OPTIONAL, data, empty, fits, kind_of, line, lines, need, padded, real, stride,
)
from pyrnn._core.cell cimport Cell, read_cell
from pyrnn._core.floating cimport pyrnn_floating, pyrnn_flush, pyrnn_restore
from pyrnn._core.profile cimport FORWARD_RECURRENCE, OUTPUT, begin, lap
from pyrnn._core.table cimport kernels
from pyrnn._core.typed cimport fused_forward, leaky_forward, product, step_forward
from pyrnn._core.wait cimport pyrnn_atomic, pyrnn_exchange

cnp.import_array()

# Flops of a step from which on it gives up the GIL: 10 us or more. To give it up costs 0.05 us, and 0.3 us where
# another thread waits for it.
cdef double WORTH = 1e6


# ---- The stepper ----------------------------------------------------------------------------------------------------
@cython.no_gc                # refers to arrays of numbers and to a cell: no cycles
@cython.auto_pickle(False)   # the subclass does it
cdef class Stepper:
    """What pyrnn.Stepper is made of: a network and h0 of one dtype, their arrays C-contiguous and owned by nobody else.

    The subclass has the method `_checked(x, out)`, which is asked about arrays that do not fit as they lie: it raises,
    or returns x in the dtype and shape of the stepper.
    """
    cdef readonly Py_ssize_t input_size, hidden_size
    cdef readonly object output_size, batch, dtype
    cdef readonly object _network
    cdef Cell cell                        # of the network
    cdef readonly cnp.ndarray _h0         # [B, H]
    cdef cnp.ndarray b, c, panels_U, panels_W, panels_V, memory
    cdef const char *packed_for           # the name of the instruction set
    cdef int kind, ndim
    cdef cnp.npy_intp x_shape[2]
    cdef cnp.npy_intp out_shape[2]
    cdef Py_ssize_t rows, ld
    cdef bint with_output, releases_gil
    cdef void *h                          # [B, H] stride ld, in `memory`
    cdef void *next_h                     # where the next state is written, the same
    cdef void *rates                      # in the current form phi of the state, and where the next is written
    cdef void *next_rates
    cdef pyrnn_atomic busy                # 1 while a call reads or writes the state

    def __cinit__(self, network, batch, cnp.ndarray h0):
        cdef cnp.ndarray U = network.U, W = network.W, b = network.b, V = network.V, c = network.c
        cdef int kind = kind_of("U", U, 2)
        kind_of("h0", h0, 2)
        if V is not None:
            kind_of("V", V, 2)
            need("V", V, kind, CONTIGUOUS, 2, V.shape[0], U.shape[0])
            need("c", c, kind, CONTIGUOUS | OPTIONAL, 1, V.shape[0])
        need("U", U, kind, CONTIGUOUS, 2, U.shape[0], U.shape[1])
        need("W", W, kind, CONTIGUOUS, 2, U.shape[0], U.shape[0])
        need("b", b, kind, CONTIGUOUS | OPTIONAL, 1, U.shape[0])
        need("h0", h0, kind, CONTIGUOUS, 2, 1 if batch is None else batch, U.shape[0])
        cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(U), H = U.shape[0], I = U.shape[1], B = h0.shape[0]
        cdef Py_ssize_t O = H if V is None else V.shape[0]
        self.input_size, self.hidden_size, self.dtype = I, H, U.dtype
        self.output_size, self.batch = None if V is None else O, batch
        self._network, self._h0, self.b, self.c = network, h0, b, c
        read_cell(network.cell, H, U, &self.cell)
        self.kind, self.ndim, self.with_output = cnp.PyArray_TYPE(U), 1 if batch is None else 2, V is not None
        self.x_shape[0] = self.out_shape[0] = B
        self.x_shape[self.ndim - 1], self.out_shape[self.ndim - 1] = I, O
        self.rows, self.ld = B, padded(H, size)
        self.releases_gil = 2.0 * B * (H * (H + I) + (H * O if self.with_output else 0)) > WORTH
        self.memory = lines(U, (4 if self.cell.current else 2) * B * self.ld)
        self.h = line(self.memory)
        self.next_h = <char *>self.h + B * self.ld * size
        if self.cell.current:
            self.rates = <char *>self.next_h + B * self.ld * size
            self.next_rates = <char *>self.rates + B * self.ld * size
        self.packed_for = NULL
        self._write(h0)

    cdef int acquire(self) except -1:
        """Begin to use the state; and pack again if another instruction set, of other panels, was selected."""
        cdef cnp.ndarray U, W, V
        if pyrnn_exchange(&self.busy, 1):
            raise RuntimeError("the Stepper is being used by another thread: each thread needs one of its own")
        if self.packed_for != kernels().name:
            try:
                U, W, V = self._network.U, self._network.W, self._network.V
                self.panels_U, self.panels_W = engine_fused.packed(U, True), engine_fused.packed(W, True)
                self.panels_V = None if V is None else engine_fused.packed(V, True)
                self.packed_for = kernels().name
            except BaseException:
                self.release()
                raise
        return 0

    cdef inline void release(self) noexcept nogil:
        pyrnn_exchange(&self.busy, 0)

    cdef inline Py_ssize_t row_stride(self, cnp.ndarray a) noexcept:
        return stride(a, 0) if self.ndim == 2 else 0

    cdef inline bint written_in_place(self, cnp.ndarray out) noexcept:
        """Whether the rows of an array that fits lie apart from each other, and may be written."""
        return cnp.PyArray_ISWRITEABLE(out) and (
            self.rows == 1 or self.row_stride(out) >= self.out_shape[self.ndim - 1])

    cdef inline size_t first_byte(self, cnp.ndarray a) noexcept:
        """The lowest address of an array that fits."""
        cdef size_t first = <size_t>cnp.PyArray_DATA(a)
        return first + min((self.rows - 1) * self.row_stride(a), 0) * cnp.PyArray_ITEMSIZE(a)

    cdef inline size_t byte_after(self, cnp.ndarray a) noexcept:
        """The address behind its highest."""
        cdef size_t first = <size_t>cnp.PyArray_DATA(a)
        cdef Py_ssize_t last = max((self.rows - 1) * self.row_stride(a), 0)
        return first + (last + cnp.PyArray_DIM(a, self.ndim - 1)) * cnp.PyArray_ITEMSIZE(a)

    cdef inline bint apart(self, cnp.ndarray a, cnp.ndarray b) noexcept:
        """Whether two arrays that fit lie in memory one behind the other."""
        return self.byte_after(a) <= self.first_byte(b) or self.byte_after(b) <= self.first_byte(a)

    cdef cnp.ndarray advance(self, cnp.ndarray x, cnp.ndarray out):
        """One step with arrays that fit; out is new if None."""
        if out is None:
            out = cnp.PyArray_EMPTY(self.ndim, self.out_shape, self.kind, 0)
        cdef Py_ssize_t ld_x = self.row_stride(x), ld_out = self.row_stride(out)
        self.acquire()
        if self.releases_gil:
            with nogil:
                step(self, data(x), ld_x, data(out), ld_out)
        else:
            step(self, data(x), ld_x, data(out), ld_out)
        self.release()
        return out

    def step(self, x, out=None):
        """Advance the state by one step: h = tanh(b + U x + W h).

        Parameters
        ----------
        x : array_like, shape (I,) or (batch, I)
            Input of the step. An ndarray of the stepper's dtype with contiguous rows is read in place; narrower dtypes
            are converted, which takes longer than a small step.
        out : ndarray, shape of the result, optional
            Where to write the result: of the stepper's dtype, not overlapping x. With it nothing is allocated.

        Returns
        -------
        ndarray, shape (H,) or (batch, H), or (O,) or (batch, O)
            The output c + V h of the step if the stepper has V, else the new state h; ``out`` if that was given.

        Raises
        ------
        ValueError
            If a shape does not fit, or out is read-only, of another dtype or overlaps x. The state is unchanged.
        TypeError
            If x is complex, long double, text, an object or masked, or of a wider dtype than the stepper.
        RuntimeError
            If another thread is using the stepper.

        Examples
        --------
        >>> import numpy as np, pyrnn
        >>> network = pyrnn.Network(U=[[1.0], [0.0]], W=[[0.0, 0.5], [1.0, 0.0]])
        >>> stepper = pyrnn.Stepper(network)
        >>> h = np.empty(2)
        >>> for x in np.ones((3, 1)):
        ...     print(stepper.step(x, out=h).round(4))
        [0.7616 0.    ]
        [0.7616 0.642 ]
        [0.867 0.642]
        """
        cdef bint in_place = out is None or (
            fits(out, self.kind, self.ndim, self.out_shape) and self.written_in_place(out))
        if fits(x, self.kind, self.ndim, self.x_shape) and in_place and (out is None or self.apart(x, out)):
            return self.advance(x, out)
        result = self.advance(self._checked(x, out), None)
        if out is None:
            return result
        out[...] = result
        return out

    def _run(self, cnp.ndarray x, n_threads):
        """h [T, B, H] or o [T, B, O] of x [T, B, I]; the state is written once all is computed."""
        kind_of("x", x, 3)
        need("x", x, self.kind, IN_ROWS, 3, x.shape[0], self.rows, self.input_size)
        self.acquire()
        try:
            rates = None
            if self.cell.current and self.with_output:
                rates = empty(x, (x.shape[0], x.shape[1], self.hidden_size))
            h = engine_fused.forward_packed(x, self.panels_U, self.panels_W, self.b, self.read(),
                                            self._network.cell, rates, n_threads)
            result = h
            if self.with_output:
                read = h if rates is None else rates
                result = engine_fused.output_packed(read, self.panels_V, self.output_size, self.c)
            if x.shape[0] > 0:
                self.write(h[x.shape[0] - 1])
            return result
        finally:
            self.release()

    def _read(self):
        """A copy of the state [B, H]."""
        self.acquire()
        try:
            return self.read()
        finally:
            self.release()

    def _write(self, cnp.ndarray h):
        """Set the state [B, H] from an array with contiguous rows."""
        need("h", h, self.kind, IN_ROWS, 2, self.rows, self.hidden_size)
        self.acquire()
        try:
            self.write(h)
        finally:
            self.release()

    cdef cnp.ndarray read(self):
        cdef cnp.ndarray h = empty(self._h0, (self.rows, self.hidden_size))
        copy_rows(self.rows, self.hidden_size * cnp.PyArray_ITEMSIZE(h), <const char *>self.h,
                  self.ld * cnp.PyArray_ITEMSIZE(h), <char *>data(h), cnp.PyArray_STRIDE(h, 0))
        return h

    cdef int write(self, cnp.ndarray h) except -1:
        cdef Py_ssize_t row = self.ld * cnp.PyArray_ITEMSIZE(h), H = self.hidden_size, ld = self.ld
        cdef Py_ssize_t size = H * cnp.PyArray_ITEMSIZE(h)
        copy_rows(self.rows, size, <const char *>data(h), cnp.PyArray_STRIDE(h, 0), <char *>self.h, row)
        if self.cell.current:
            copy_rows(self.rows, size, <const char *>data(h), cnp.PyArray_STRIDE(h, 0), <char *>self.rates, row)
            if self.kind == cnp.NPY_FLOAT32:
                step_forward(self.rows, H, <const float *>NULL, <float *>self.rates, ld, self.cell.phi)
            else:
                step_forward(self.rows, H, <const double *>NULL, <double *>self.rates, ld, self.cell.phi)
        return 0


cdef void copy_rows(Py_ssize_t rows, Py_ssize_t size, const char *a, Py_ssize_t step_a, char *b,
                    Py_ssize_t step_b) noexcept nogil:
    """b = a, row by row; steps and size in bytes."""
    cdef Py_ssize_t i
    for i in range(rows):
        memcpy(b + i * step_b, a + i * step_a, size)


cdef void step_typed(real tag, Stepper self, const real *x, Py_ssize_t ld_x, real *out,
                     Py_ssize_t ld_out) noexcept nogil:
    cdef Py_ssize_t rows = self.rows, I = self.input_size, H = self.hidden_size, ld = self.ld, O, i
    cdef real *previous = <real *>self.h
    cdef real *h = <real *>self.next_h
    cdef real *sent = <real *>self.next_rates if self.cell.current else h  # to the output layer
    cdef long long clock = begin()
    # h_t = tanh(b + U x_t + W h_{t-1})                                      (10.8, 10.9)
    if not self.cell.leaky:
        fused_forward(rows, I, H, x, ld_x, <const real *>line(self.panels_U), previous, ld,
                      <const real *>line(self.panels_W), <const real *>data(self.b), 0, h, ld,
                      <real *>NULL if self.with_output else out, ld_out, self.cell.phi, previous > h)
    else:
        leaky_forward(rows, I, H, x, ld_x, <const real *>line(self.panels_U),
                      <const real *>self.rates if self.cell.current else previous, ld,
                      <const real *>line(self.panels_W), <const real *>data(self.b), 0, previous, ld, h, ld,
                      <real *>self.next_rates if self.cell.current else <real *>NULL, ld, <real *>NULL, 0,
                      <const real *>self.cell.alpha, self.cell.phi, self.cell.current, previous > h)
        if not self.with_output:
            for i in range(rows):
                memcpy(out + i * ld_out, h + i * ld, H * sizeof(real))
    clock = lap(clock, FORWARD_RECURRENCE, 0, sizeof(real), 2.0 * rows * H * (I + H),
                rows * (I + 2.0 * H) + H * (I + H))
    if self.with_output:
        O = self.out_shape[self.ndim - 1]
        # o_t = c + V h_t                                                    (10.10)
        product(rows, H, O, sent, ld, <const real *>line(self.panels_V), <const real *>data(self.c), 0, out, ld_out)
        lap(clock, OUTPUT, 0, sizeof(real), 2.0 * rows * O * H, <double>rows * (H + O) + O * H)
    self.h, self.next_h = h, previous
    self.rates, self.next_rates = self.next_rates, self.rates


cdef inline void step(Stepper self, const void *x, Py_ssize_t ld_x, void *out, Py_ssize_t ld_out) noexcept nogil:
    cdef pyrnn_floating state = pyrnn_flush()  # no signal is looked for meanwhile
    if self.kind == cnp.NPY_FLOAT32:
        step_typed(<float>0, self, <const float *>x, ld_x, <float *>out, ld_out)
    else:
        step_typed(<double>0, self, <const double *>x, ld_x, <double *>out, ld_out)
    pyrnn_restore(state)
