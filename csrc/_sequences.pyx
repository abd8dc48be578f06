"""Sequences of different lengths, with holes, or read backwards, as the loops over time like them.

A loop sees the steps that exist and nothing else: all first steps, then all second ones, and so on, the longest
sequence first, so that those of a step are the first ones of the step before. `Sequences` says where each lies,
copies arrays into that order and results out of it.
"""

cimport cython
cimport numpy as cnp
from libc.string cimport memcpy, memset

from pyrnn._arrays cimport data, empty, real, stride

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
    cdef cnp.ndarray places               # [B, T]: where step t of sequence b lies among the N, or -1
    cdef const Py_ssize_t *place          # its memory

    def __cinit__(self, Py_ssize_t T, Py_ssize_t B, cnp.ndarray lengths, cnp.ndarray mask, bint reverse):
        """lengths: intp [B], or None; mask: booleans [T, B]."""
        cdef cnp.ndarray counts = new_integers(B)
        cdef Py_ssize_t *count = <Py_ssize_t *>data(counts)
        cdef Py_ssize_t t, i, k, n, most = 0
        cdef Py_ssize_t *place
        cdef Py_ssize_t *offset
        cdef Py_ssize_t *order
        self.T, self.B, self.reverse, self.holes = T, B, reverse, lengths is None
        for i in range(B):
            if lengths is None:
                count[i] = 0
                for t in range(T):
                    count[i] += self.given(mask, t, i)
            else:
                count[i] = (<Py_ssize_t *>cnp.PyArray_GETPTR1(lengths, i))[0]
            most = max(most, count[i])

        # How many have a first step, a second one, ...: those that have just n steps are counted at n, then summed up.
        self.offsets = new_integers(most + 1)
        offset = <Py_ssize_t *>data(self.offsets)
        memset(offset, 0, (most + 1) * sizeof(Py_ssize_t))
        for i in range(B):
            offset[count[i]] += 1
        self.order = new_integers(B - offset[0])
        order = <Py_ssize_t *>data(self.order)
        n = 0
        for k in range(most, 0, -1):
            n += offset[k]
            offset[k] = n                 # sequences with a k-th step
        offset[0] = 0
        # A stable counting sort: sequences with k steps begin where those with more end.
        starts = new_integers(most + 2)
        cdef Py_ssize_t *start = <Py_ssize_t *>data(starts)
        for k in range(most + 1):
            start[k] = offset[k + 1] if k < most else 0
        for i in range(B):
            if count[i] > 0:
                order[start[count[i]]] = i
                start[count[i]] += 1
        for k in range(most):
            offset[k + 1] += offset[k]
        self.N = offset[most]

        self.places = new_integers(B * T)
        place = <Py_ssize_t *>data(self.places)
        self.place = place
        for i in range(B * T):
            place[i] = -1
        for n in range(self.order.shape[0]):
            i, k = order[n], 0
            if lengths is None:
                for t in range(T):
                    if self.given(mask, T - 1 - t if reverse else t, i):
                        place[i * T + (T - 1 - t if reverse else t)] = offset[k] + n
                        k += 1
            else:
                for k in range(count[i]):
                    place[i * T + (count[i] - 1 - k if reverse else k)] = offset[k] + n

    cdef inline bint given(self, cnp.ndarray mask, Py_ssize_t t, Py_ssize_t i) noexcept:
        return (<cnp.npy_bool *>cnp.PyArray_GETPTR2(mask, t, i))[0] != 0

    def gather(self, cnp.ndarray a):
        """[1, N, n]: the rows of a [T, B, n] that exist."""
        cdef cnp.ndarray packed = empty(a, (1, self.N, a.shape[2]))
        cdef Py_ssize_t size = a.shape[2] * cnp.PyArray_ITEMSIZE(a), t, i, at
        cdef char *to = <char *>data(packed)
        for i in range(self.B):
            for t in range(self.T):
                at = self.place[i * self.T + t]
                if at >= 0:
                    memcpy(to + at * size, cnp.PyArray_BYTES(a) + t * cnp.PyArray_STRIDE(a, 0)
                           + i * cnp.PyArray_STRIDE(a, 1), size)
        return packed

    def scatter(self, cnp.ndarray packed, cnp.ndarray out, cnp.ndarray h0=None):
        """Write packed [1, N, n] to out [T, B, n]; where no step exists, zeros, or with h0 [B, n] the row before."""
        cdef Py_ssize_t size = out.shape[2] * cnp.PyArray_ITEMSIZE(out), t, i, j, at
        cdef const char *source = <const char *>data(packed)
        cdef const char *last
        cdef char *to
        for i in range(self.B):
            last = NULL if h0 is None else cnp.PyArray_BYTES(h0) + i * cnp.PyArray_STRIDE(h0, 0)
            for j in range(self.T):
                t = self.T - 1 - j if self.reverse else j
                at = self.place[i * self.T + t]
                to = cnp.PyArray_BYTES(out) + t * cnp.PyArray_STRIDE(out, 0) + i * cnp.PyArray_STRIDE(out, 1)
                if at >= 0:
                    memcpy(to, source + at * size, size)
                    if last != NULL:
                        last = source + at * size
                elif last != NULL:
                    memcpy(to, last, size)
                else:
                    memset(to, 0, size)

    def gather_gradients(self, cnp.ndarray dh):
        """dh [T, B, H] as rows [1, N, H], and [B, H]: a state that a mask passes on has the gradients of all its steps,
        h0 of those before the first."""
        cdef cnp.ndarray packed = empty(dh, (1, self.N, dh.shape[2]))
        cdef cnp.ndarray initial = empty(dh, (self.B, dh.shape[2]), zero=True)
        if not self.holes:
            return self.gather(dh), initial
        if cnp.PyArray_ITEMSIZE(dh) == 4:
            self.sum_gradients(dh, <float *>data(packed), <float *>data(initial))
        else:
            self.sum_gradients(dh, <double *>data(packed), <double *>data(initial))
        return packed, initial

    cdef void sum_gradients(self, cnp.ndarray dh, real *packed, real *initial) noexcept:
        """From the last step on: initial[i] is the sum of the steps since one that exists."""
        cdef Py_ssize_t t, i, j, k, at, n = dh.shape[2]
        cdef const real *row
        cdef real *total
        for i in range(self.B):
            total = initial + i * n
            for j in range(self.T):
                t = j if self.reverse else self.T - 1 - j
                row = <const real *>data(dh) + t * stride(dh, 0) + i * stride(dh, 1)
                for k in range(n):
                    total[k] += row[k]
                at = self.place[i * self.T + t]
                if at >= 0:
                    memcpy(packed + at * n, total, n * sizeof(real))
                    memset(total, 0, n * sizeof(real))

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
                if self.place[i * self.T + t] < 0:
                    if before < 0:
                        memcpy(to, initial + i * n, n * sizeof(real))
                    else:
                        row = <const real *>data(dh) + before * stride(dh, 0) + i * stride(dh, 1)
                        for k in range(n):
                            to[k] = out[(before * self.B + i) * n + k] - row[k]
                before = t


cdef cnp.ndarray new_integers(cnp.npy_intp n):
    return cnp.PyArray_EMPTY(1, &n, cnp.NPY_INTP, 0)
