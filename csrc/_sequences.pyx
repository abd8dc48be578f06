"""Sequences of different lengths, with holes, or read backwards, as the loops over time like them.

A loop sees the steps that exist and nothing else: all first steps, then all second ones, and so on, the longest
sequence first, so that those of a step are the first ones of the step before. `Sequences` says where each lies,
copies arrays into that order and results out of it.
"""

cimport cython
cimport numpy as cnp
from libc.string cimport memcpy, memset

from pyrnn._arrays cimport data, real, stride
from pyrnn._scratch cimport Scratch
from pyrnn._typed cimport gather_rows, scatter_rows

cnp.import_array()


@cython.final
@cython.auto_pickle(False)
cdef class Sequences:
    """The steps of a batch [T, B] that exist, by the length of each sequence or by a mask.

    N steps in all; `offsets` [S + 1]: those before the first steps, the second steps ...; `order`: the sequences that
    have steps, longest first.
    """
    cdef readonly Py_ssize_t T, B, N
    cdef readonly cnp.ndarray offsets, order
    cdef readonly bint reverse, holes
    cdef cnp.ndarray mask
    cdef Scratch scratch                  # of what is gathered, for as long as this object lives
    cdef Py_ssize_t *count                # [B] the steps of each
    cdef Py_ssize_t *rank                 # [B] its place in `order`
    cdef Py_ssize_t *time                 # [N] step and sequence of each row
    cdef Py_ssize_t *row
    cdef Py_ssize_t *where                # [N] and where it begins in an array
    cdef const Py_ssize_t *offset

    def __cinit__(self, Py_ssize_t T, Py_ssize_t B, cnp.ndarray lengths, cnp.ndarray mask, bint reverse):
        """lengths: intp [B], or None; mask: booleans [T, B]."""
        cdef Py_ssize_t t, i, j, k, n, most = 0
        cdef Py_ssize_t *offset
        cdef Py_ssize_t *order
        cdef Py_ssize_t *start
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

        self.time, self.row, self.where = self.integers(self.N), self.integers(self.N), self.integers(self.N)
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

    cdef void find(self, cnp.ndarray a) noexcept:
        """Where the rows begin in a [T, B, n]."""
        cdef Py_ssize_t i, st = stride(a, 0), sb = stride(a, 1)
        for i in range(self.N):
            self.where[i] = self.time[i] * st + self.row[i] * sb

    def empty(self, cnp.ndarray like, Py_ssize_t n):
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
        cdef cnp.ndarray packed = self.empty(a, a.shape[2])
        self.find(a)
        if cnp.PyArray_ITEMSIZE(a) == 4:
            gather_rows(self.N, a.shape[2], <const float *>data(a), self.where, <float *>data(packed))
        else:
            gather_rows(self.N, a.shape[2], <const double *>data(a), self.where, <double *>data(packed))
        return packed

    def scatter(self, cnp.ndarray packed, cnp.ndarray out, cnp.ndarray h0=None):
        """Write packed [1, N, n] to out [T, B, n]; where no step exists, zeros, or with h0 [B, n] the row before."""
        cdef Py_ssize_t size = out.shape[2] * cnp.PyArray_ITEMSIZE(out), t, i, j
        cdef const char *last
        cdef char *to
        self.find(out)
        if cnp.PyArray_ITEMSIZE(out) == 4:
            scatter_rows(self.N, out.shape[2], <const float *>data(packed), self.where, <float *>data(out))
        else:
            scatter_rows(self.N, out.shape[2], <const double *>data(packed), self.where, <double *>data(out))
        if self.N == self.T * self.B:
            return
        for i in range(self.B):
            last = NULL if h0 is None else cnp.PyArray_BYTES(h0) + i * cnp.PyArray_STRIDE(h0, 0)
            for j in range(self.T):
                t = self.T - 1 - j if self.reverse else j
                to = cnp.PyArray_BYTES(out) + t * cnp.PyArray_STRIDE(out, 0) + i * cnp.PyArray_STRIDE(out, 1)
                if self.given(t, i) if self.holes else t < self.count[i]:
                    if last != NULL:
                        last = to
                elif last != NULL:
                    memcpy(to, last, size)
                else:
                    memset(to, 0, size)

    def gather_gradients(self, cnp.ndarray dh, cnp.ndarray initial):
        """dh [T, B, H] as rows [1, N, H]: a state that a mask passes on has the gradients of all its steps.

        Those of h0, before the first step, are written to initial [B, H], contiguous.
        """
        cdef cnp.ndarray packed
        memset(data(initial), 0, cnp.PyArray_NBYTES(initial))
        if not self.holes:
            return self.gather(dh)
        packed = self.empty(dh, dh.shape[2])
        if cnp.PyArray_ITEMSIZE(dh) == 4:
            self.sum_gradients(dh, <float *>data(packed), <float *>data(initial))
        else:
            self.sum_gradients(dh, <double *>data(packed), <double *>data(initial))
        return packed

    cdef void sum_gradients(self, cnp.ndarray dh, real *packed, real *initial) noexcept:
        """From the last step on: initial[i] is the sum of the steps since one that exists."""
        cdef Py_ssize_t t, i, j, k, left, n = dh.shape[2]
        cdef const real *row
        cdef real *total
        for i in range(self.B):
            total, left = initial + i * n, self.count[i]
            for j in range(self.T):
                t = j if self.reverse else self.T - 1 - j
                row = <const real *>data(dh) + t * stride(dh, 0) + i * stride(dh, 1)
                for k in range(n):
                    total[k] += row[k]
                if self.given(t, i):
                    left -= 1
                    memcpy(packed + (self.offset[left] + self.rank[i]) * n, total, n * sizeof(real))
                    memset(total, 0, n * sizeof(real))

    def first_rows(self, cnp.ndarray h0):
        """The rows of h0 [B, n] that sequences with steps begin with, in order; in memory of this object."""
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
        """Add such rows to those of out [B, n], contiguous, that they came from."""
        if cnp.PyArray_ITEMSIZE(out) == 4:
            self.add_typed(<const float *>data(rows), <float *>data(out), out.shape[1])
        else:
            self.add_typed(<const double *>data(rows), <double *>data(out), out.shape[1])

    cdef void add_typed(self, const real *rows, real *out, Py_ssize_t n) noexcept:
        cdef Py_ssize_t i, j
        cdef const Py_ssize_t *order = <const Py_ssize_t *>data(self.order)
        for i in range(self.order.shape[0]):
            for j in range(n):
                out[order[i] * n + j] += rows[i * n + j]

    def scatter_gradients(self, cnp.ndarray packed, cnp.ndarray dh, cnp.ndarray initial, cnp.ndarray out):
        """Write grad_h, packed [1, N, H], to out [T, B, H], contiguous; dh as it was gathered, initial [B, H] of h0.

        At steps that a mask leaves out it is the gradient of the state that they pass on, less what went into that
        before them; behind the ends of sequences it is 0.
        """
        self.scatter(packed, out)
        if self.holes:
            if cnp.PyArray_ITEMSIZE(out) == 4:
                self.fill_gradients(dh, <const float *>data(initial), <float *>data(out))
            else:
                self.fill_gradients(dh, <const double *>data(initial), <double *>data(out))

    cdef void fill_gradients(self, cnp.ndarray dh, const real *initial, real *out) noexcept:
        """Steps that do not exist, in order: what a step passes on is its gradient less its own dh."""
        cdef Py_ssize_t t, i, j, k, before, n = dh.shape[2]
        cdef const real *row
        cdef real *to
        for i in range(self.B):
            before = -1
            for j in range(self.T):
                t = self.T - 1 - j if self.reverse else j
                to = out + (t * self.B + i) * n
                if not self.given(t, i):
                    if before < 0:
                        memcpy(to, initial + i * n, n * sizeof(real))
                    else:
                        row = <const real *>data(dh) + before * stride(dh, 0) + i * stride(dh, 1)
                        for k in range(n):
                            to[k] = out[(before * self.B + i) * n + k] - row[k]
                before = t


def between(cnp.ndarray a, Py_ssize_t least, Py_ssize_t most):
    """Whether all integers in a [n], of type intp, or the one in a [], are."""
    cdef Py_ssize_t i, value
    for i in range(a.shape[0] if a.ndim else 1):
        value = (<Py_ssize_t *>(cnp.PyArray_BYTES(a) + (i * cnp.PyArray_STRIDE(a, 0) if a.ndim else 0)))[0]
        if value < least or value > most:
            return False
    return True


cdef cnp.ndarray new_integers(cnp.npy_intp n):
    return cnp.PyArray_EMPTY(1, &n, cnp.NPY_INTP, 0)
