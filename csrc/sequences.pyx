"""Sequences of different lengths, with holes, or read backwards, as the loops over time like them.

A loop sees the steps that exist and nothing else: all first steps, then all second ones, and so on, the longest
sequence first, so that those of a step are the first ones of the step before. `Sequences` says where each lies,
copies arrays into that order and results out of it.
"""

cimport cython
cimport numpy as cnp
from libc.string cimport memcpy, memset

from pyrnn._core.arrays cimport (
    CONTIGUOUS, IN_ROWS, OPTIONAL, WRITTEN, data, interrupted, kind_of, need, pass_on, real, stride,
)
from pyrnn._core.scratch cimport Scratch
from pyrnn._core.typed cimport gather_rows, scatter_rows

cnp.import_array()


@cython.final
@cython.auto_pickle(False)
cdef class Sequences:
    """The steps of a batch [T, B] that exist, by the length of each sequence or by a mask.

    N steps in all; `offsets` [S + 1]: those before the first steps, the second steps ...; `order`: the sequences that
    have steps, longest first.
    """
    def __cinit__(self, Py_ssize_t T, Py_ssize_t B, cnp.ndarray lengths, cnp.ndarray mask, bint reverse):
        """lengths: intp [B], or None; mask: booleans [T, B]."""
        cdef Py_ssize_t t, i, j, k, n, most = 0
        cdef Py_ssize_t *offset
        cdef Py_ssize_t *order
        cdef Py_ssize_t *start
        if T < 0 or B < 0 or (lengths is None) == (mask is None):
            raise ValueError(f"either lengths or a mask must be given, and T and B from 0, got {T} and {B}")
        if lengths is not None and (lengths.ndim != 1 or lengths.shape[0] != B):
            raise ValueError(f"a compiled function needs lengths of shape ({B},), got {(<object>lengths).shape}")
        if lengths is not None and not between(lengths, 0, T):
            raise ValueError(f"lengths must be from 0 to {T}")
        if mask is not None and (cnp.PyArray_TYPE(mask) != cnp.NPY_BOOL or cnp.PyArray_NDIM(mask) != 2
                                 or mask.shape[0] != T or mask.shape[1] != B):
            raise ValueError(f"a mask must be booleans ({T}, {B}), got {mask.dtype} {(<object>mask).shape}")
        self.T, self.B, self.reverse, self.holes, self.mask = T, B, reverse, lengths is None, mask
        self.scratch = Scratch()
        self.count, self.rank = self.integers(B), self.integers(B)
        for i in range(B):
            if lengths is None:
                self.count[i] = 0
                for t in range(T):
                    self.count[i] += self.given(t, i)
            else:
                self.count[i] = (<Py_ssize_t *>cnp.PyArray_GETPTR1(lengths, i))[0]
            most = max(most, self.count[i])

        # How many have a first step, a second one ...: those that have just n steps are counted at n, then summed up.
        self.offsets = new_integers(most + 1)
        offset = <Py_ssize_t *>data(self.offsets)
        memset(offset, 0, (most + 1) * sizeof(Py_ssize_t))
        for i in range(B):
            offset[self.count[i]] += 1
        self.order = new_integers(B - offset[0])
        order = <Py_ssize_t *>data(self.order)
        n = 0
        for k in range(most, 0, -1):
            n += offset[k]
            offset[k] = n
        offset[0] = 0
        # A stable sort by counting: sequences with k steps begin where those with more end.
        start = self.integers(most + 1)
        for k in range(most):
            start[k] = offset[k + 1]
        start[most] = 0
        for i in range(B):
            if self.count[i] > 0:
                self.rank[i] = start[self.count[i]]
                order[self.rank[i]] = i
                start[self.count[i]] += 1
        for k in range(most):
            offset[k + 1] += offset[k]
        self.offset, self.N = offset, offset[most]

        self.longest_first = lengths is not None and not reverse
        for j in range(self.order.shape[0]):
            self.longest_first = self.longest_first and order[j] == j

        self.time, self.row, self.where = self.integers(self.N), self.integers(self.N), NULL
        if lengths is not None:
            n = 0
            for k in range(most):
                for j in range(offset[k + 1] - offset[k]):
                    i = order[j]
                    self.time[n], self.row[n] = self.count[i] - 1 - k if reverse else k, i
                    n += 1
            return
        for i in range(B):
            k = 0
            for j in range(T):
                t = T - 1 - j if reverse else j
                if self.given(t, i):
                    n = offset[k] + self.rank[i]
                    self.time[n], self.row[n] = t, i
                    k += 1

    cdef Py_ssize_t *integers(self, Py_ssize_t n) except NULL:
        return <Py_ssize_t *>self.scratch.take(n * sizeof(Py_ssize_t))

    cdef inline bint given(self, Py_ssize_t t, Py_ssize_t i) noexcept:
        """Whether a step exists, where there is a mask."""
        return (<cnp.npy_bool *>cnp.PyArray_GETPTR2(self.mask, t, i))[0] != 0

    cdef const Py_ssize_t *places(self, cnp.ndarray a) except NULL:
        """Where the rows begin in a [T, B, n], in elements; valid while this object lives."""
        cdef Py_ssize_t i, st = stride(a, 0), sb = stride(a, 1)
        if self.where == NULL or st != self.st or sb != self.sb:  # most arrays of a call have the same strides
            self.where, self.st, self.sb = self.integers(self.N), st, sb
            for i in range(self.N):
                self.where[i] = self.time[i] * st + self.row[i] * sb
        return self.where

    cdef int check(self, str name, cnp.ndarray a, int kind, int layout, Py_ssize_t n) except -1:
        """Raise ValueError unless it is [T, B, n]."""
        return need(name, a, kind, layout, 3, self.T, self.B, n)

    def empty(self, cnp.ndarray like not None, Py_ssize_t n):
        """[1, N, n] in memory of this object."""
        cdef cnp.npy_intp shape[3]
        cdef cnp.ndarray a
        shape[0], shape[1], shape[2] = 1, self.N, n
        a = cnp.PyArray_SimpleNewFromData(3, shape, cnp.PyArray_TYPE(like),
                                          self.scratch.take(self.N * n * cnp.PyArray_ITEMSIZE(like)))
        cnp.set_array_base(a, self)
        return a

    def gather(self, cnp.ndarray a):
        """[1, N, n]: the rows of a [T, B, n] that exist; valid while this object lives."""
        self.check("a", a, kind_of("a", a, 3), IN_ROWS, a.shape[2])
        cdef cnp.ndarray packed = self.empty(a, a.shape[2])
        cdef const Py_ssize_t *where = self.places(a)
        if cnp.PyArray_ITEMSIZE(a) == 4:
            self.gather_typed(a.shape[2], <const float *>data(a), where, <float *>data(packed))
        else:
            self.gather_typed(a.shape[2], <const double *>data(a), where, <double *>data(packed))
        return packed

    cdef int gather_typed(self, Py_ssize_t n, const real *a, const Py_ssize_t *where, real *packed) except -1:
        cdef Py_ssize_t first = 0, rows
        while first < self.N:
            rows = min(block_of(n * sizeof(real)), self.N - first)
            gather_rows(rows, n, a, where + first, packed + first * n, n)
            first += rows
            self.look()
        return 0

    def scatter(self, cnp.ndarray packed, cnp.ndarray out, cnp.ndarray h0=None):
        """Write packed [1, N, n] to out [T, B, n]; where no step exists, zeros, or with h0 [B, n] the row before."""
        cdef int kind = kind_of("out", out, 3)
        self.check("out", out, kind, IN_ROWS | WRITTEN, out.shape[2])
        need("packed", packed, kind, CONTIGUOUS, 3, 1, self.N, out.shape[2])
        cdef const Py_ssize_t *where = self.places(out)
        if cnp.PyArray_ITEMSIZE(out) == 4:
            self.scatter_typed(out.shape[2], <const float *>data(packed), where, <float *>data(out))
        else:
            self.scatter_typed(out.shape[2], <const double *>data(packed), where, <double *>data(out))
        self.fill(out, h0)

    cdef int scatter_typed(self, Py_ssize_t n, const real *packed, const Py_ssize_t *where, real *out) except -1:
        cdef Py_ssize_t first = 0, rows
        while first < self.N:
            rows = min(block_of(n * sizeof(real)), self.N - first)
            scatter_rows(rows, n, packed + first * n, n, where + first, out)
            first += rows
            self.look()
        return 0

    cdef int look(self) except -1:
        """Raise what a handler of a signal raises, such as Ctrl-C; called between blocks of rows."""
        return pass_on(interrupted(&self.since))

    def fill(self, cnp.ndarray out, cnp.ndarray h0=None):
        """Write to the rows of out [T, B, n] where no step exists: zeros, or with h0 [B, n] the row before."""
        cdef int kind = kind_of("out", out, 3)
        self.check("out", out, kind, IN_ROWS | WRITTEN, out.shape[2])
        need("h0", h0, kind, IN_ROWS | OPTIONAL, 2, self.B, out.shape[2])
        if self.N == self.T * self.B:
            return
        if self.holes:
            self.fill_holes(out, h0)
        else:
            self.clear_ends(out)

    cdef int clear_ends(self, cnp.ndarray out) except -1:
        """Zeros behind the ends of sequences, for those beside each other at once where their rows touch."""
        cdef Py_ssize_t size = out.shape[2] * cnp.PyArray_ITEMSIZE(out), sb = cnp.PyArray_STRIDE(out, 1), t, i, first
        cdef Py_ssize_t steps = block_of(self.B * size)
        cdef char *row
        for t in range(self.T):
            if t % steps == 0:
                self.look()
            row, i = cnp.PyArray_BYTES(out) + t * cnp.PyArray_STRIDE(out, 0), 0
            while i < self.B:
                first = i
                while i < self.B and t >= self.count[i] and (i == first or sb == size):
                    i += 1
                if i > first:
                    memset(row + first * sb, 0, (i - first) * size)
                else:
                    i += 1
        return 0

    cdef int fill_holes(self, cnp.ndarray out, cnp.ndarray h0) except -1:
        """What a mask leaves out, in the order of the steps."""
        cdef Py_ssize_t size = out.shape[2] * cnp.PyArray_ITEMSIZE(out), t, i, j, rows = block_of(size)
        cdef const char *last
        cdef char *to
        for i in range(self.B):
            last = NULL if h0 is None else cnp.PyArray_BYTES(h0) + i * cnp.PyArray_STRIDE(h0, 0)
            for j in range(self.T):
                if j % rows == 0:
                    self.look()
                t = self.T - 1 - j if self.reverse else j
                to = cnp.PyArray_BYTES(out) + t * cnp.PyArray_STRIDE(out, 0) + i * cnp.PyArray_STRIDE(out, 1)
                if self.given(t, i):
                    if last != NULL:
                        last = to
                elif last != NULL:
                    memcpy(to, last, size)
                else:
                    memset(to, 0, size)
        return 0

    def gather_gradients(self, cnp.ndarray dh, cnp.ndarray initial):
        """dh [T, B, H] as rows [1, N, H]: a state that a mask passes on has the gradients of all its steps.

        Those of h0, before the first step, are written to initial [B, H], contiguous.
        """
        cdef cnp.ndarray packed
        cdef int kind = kind_of("dh", dh, 3)
        self.check("dh", dh, kind, IN_ROWS, dh.shape[2])
        need("initial", initial, kind, CONTIGUOUS | WRITTEN, 2, self.B, dh.shape[2])
        memset(data(initial), 0, cnp.PyArray_NBYTES(initial))
        if not self.holes:
            return self.gather(dh)
        packed = self.empty(dh, dh.shape[2])
        if cnp.PyArray_ITEMSIZE(dh) == 4:
            self.sum_gradients(dh, <float *>data(packed), <float *>data(initial))
        else:
            self.sum_gradients(dh, <double *>data(packed), <double *>data(initial))
        return packed

    cdef int sum_gradients(self, cnp.ndarray dh, real *packed, real *initial) except -1:
        """From the last step on: initial[i] is the sum of the steps since one that exists."""
        cdef Py_ssize_t t, i, j, k, left, n = dh.shape[2], rows = block_of(n * sizeof(real))
        cdef const real *row
        cdef real *total
        for i in range(self.B):
            total, left = initial + i * n, self.count[i]
            for j in range(self.T):
                if j % rows == 0:
                    self.look()
                t = j if self.reverse else self.T - 1 - j
                row = <const real *>data(dh) + t * stride(dh, 0) + i * stride(dh, 1)
                for k in range(n):
                    total[k] += row[k]
                if self.given(t, i):
                    left -= 1
                    memcpy(packed + (self.offset[left] + self.rank[i]) * n, total, n * sizeof(real))
                    memset(total, 0, n * sizeof(real))
        return 0

    def first_rows(self, cnp.ndarray h0):
        """The rows of h0 [B, n] that sequences with steps begin with, in order; in memory of this object."""
        need("h0", h0, kind_of("h0", h0, 2), IN_ROWS, 2, self.B, h0.shape[1])
        cdef cnp.npy_intp shape[2]
        cdef Py_ssize_t i, size = h0.shape[1] * cnp.PyArray_ITEMSIZE(h0)
        cdef const Py_ssize_t *order = <const Py_ssize_t *>data(self.order)
        cdef cnp.ndarray rows
        shape[0], shape[1] = self.order.shape[0], h0.shape[1]
        rows = cnp.PyArray_SimpleNewFromData(2, shape, cnp.PyArray_TYPE(h0), self.scratch.take(shape[0] * size))
        cnp.set_array_base(rows, self)
        for i in range(shape[0]):
            memcpy(cnp.PyArray_BYTES(rows) + i * size,
                   cnp.PyArray_BYTES(h0) + order[i] * cnp.PyArray_STRIDE(h0, 0), size)
        return rows

    def add_first_rows(self, cnp.ndarray rows, cnp.ndarray out):
        """Add such rows to those of out [B, n], contiguous, that they came from; -0 added to 0 is -0."""
        cdef int kind = kind_of("out", out, 2)
        need("rows", rows, kind, CONTIGUOUS, 2, self.order.shape[0], out.shape[1])
        need("out", out, kind, CONTIGUOUS | WRITTEN, 2, self.B, out.shape[1])
        if cnp.PyArray_ITEMSIZE(out) == 4:
            self.add_typed(<const float *>data(rows), <float *>data(out), out.shape[1])
        else:
            self.add_typed(<const double *>data(rows), <double *>data(out), out.shape[1])

    cdef void add_typed(self, const real *rows, real *out, Py_ssize_t n) noexcept:
        cdef Py_ssize_t i, j
        cdef real *to
        cdef const Py_ssize_t *order = <const Py_ssize_t *>data(self.order)
        for i in range(self.order.shape[0]):
            to = out + order[i] * n
            for j in range(n):
                to[j] = rows[i * n + j] if to[j] == 0 else to[j] + rows[i * n + j]

    def add_along_holes(self, cnp.ndarray dh, cnp.ndarray out):
        """Add up the gradients at steps that a mask leaves out, from the last step on, in out [T, B, H], contiguous.

        out holds what the next step passes back where that one exists, and 0 where no step follows. A step that does
        not exist passes on its own gradient. Nothing is subtracted from a gradient at a step that exists: where that is
        much larger, no digit would be left.
        """
        cdef int kind = kind_of("out", out, 3)
        self.check("out", out, kind, CONTIGUOUS | WRITTEN, out.shape[2])
        self.check("dh", dh, kind, IN_ROWS, out.shape[2])
        if cnp.PyArray_ITEMSIZE(out) == 4:
            self.add_holes(dh, <float *>data(out))
        else:
            self.add_holes(dh, <double *>data(out))

    cdef int add_holes(self, cnp.ndarray dh, real *out) except -1:
        cdef Py_ssize_t t, i, j, k, later, n = dh.shape[2], rows = block_of(n * sizeof(real))
        cdef const real *row
        cdef const real *more
        cdef real *to
        for i in range(self.B):
            later = -1  # the next step, if that does not exist either
            for j in range(self.T):
                if j % rows == 0:
                    self.look()
                t = j if self.reverse else self.T - 1 - j
                if self.given(t, i):
                    later = -1
                    continue
                row = <const real *>data(dh) + t * stride(dh, 0) + i * stride(dh, 1)
                to = out + (t * self.B + i) * n
                more = to if later < 0 else out + (later * self.B + i) * n
                for k in range(n):
                    to[k] = more[k] + row[k]
                later = t
        return 0


def fit(lengths, cnp.ndarray x not None):
    """Whether lengths are an array of intp, of any stride, as x [T, B, I] wants them, of 0 to T."""
    return (type(lengths) is cnp.ndarray and cnp.PyArray_TYPE(lengths) == cnp.NPY_INTP
            and cnp.PyArray_ISBEHAVED_RO(lengths) and cnp.PyArray_NDIM(lengths) == 1 and cnp.PyArray_NDIM(x) == 3
            and cnp.PyArray_DIM(lengths, 0) == cnp.PyArray_DIM(x, 1) and between(lengths, 0, cnp.PyArray_DIM(x, 0)))


cpdef bint between(cnp.ndarray a, Py_ssize_t least, Py_ssize_t most) except -1:
    """Whether all integers in a [n], of type intp, or the one in a [], are."""
    cdef Py_ssize_t i, value, n = a.shape[0] if a.ndim else 1, step = cnp.PyArray_STRIDE(a, 0) if a.ndim else 0
    check_integers(a)
    for i in range(n):
        value = (<Py_ssize_t *>(cnp.PyArray_BYTES(a) + i * step))[0]
        if value < least or value > most:
            return False
    return True


cdef int check_integers(cnp.ndarray a) except -1:
    if cnp.PyArray_TYPE(a) != cnp.NPY_INTP or cnp.PyArray_NDIM(a) > 1 or not cnp.PyArray_ISBEHAVED_RO(a):
        raise ValueError(f"a compiled function needs integers of intp with one axis or none, got {a.dtype} "
                         f"{(<object>a).shape}")
    return 0


def common(cnp.ndarray lengths):
    """The one length of all sequences, lengths [B] of intp; -1 if there is none, or lengths is None."""
    cdef Py_ssize_t i, first
    if lengths is None or lengths.shape[0] == 0:
        return -1
    check_integers(lengths)
    first = (<Py_ssize_t *>cnp.PyArray_GETPTR1(lengths, 0))[0]
    for i in range(1, lengths.shape[0]):
        if (<Py_ssize_t *>cnp.PyArray_GETPTR1(lengths, i))[0] != first:
            return -1
    return first


cdef inline Py_ssize_t block_of(Py_ssize_t row) noexcept nogil:
    """How many rows, of `row` bytes each, are copied between two looks for Ctrl-C: 4 MB, some milliseconds."""
    return max((<Py_ssize_t>1 << 22) // max(row, <Py_ssize_t>1), <Py_ssize_t>1)


cdef cnp.ndarray new_integers(cnp.npy_intp n):
    return cnp.PyArray_EMPTY(1, &n, cnp.NPY_INTP, 0)
