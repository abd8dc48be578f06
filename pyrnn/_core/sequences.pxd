# What the loops over time ask of sequences of different lengths; see sequences.pyx.
cimport numpy as cnp

from pyrnn._core.arrays cimport real
from pyrnn._core.scratch cimport Scratch


cdef class Sequences:
    cdef readonly Py_ssize_t T, B, N
    cdef readonly cnp.ndarray offsets, order
    cdef readonly bint reverse, holes
    cdef readonly bint longest_first      # and in the order of time: a step has the first rows of an array's
    cdef cnp.ndarray mask
    cdef Scratch scratch                  # of what is gathered, for as long as this object lives
    cdef Py_ssize_t *count                # [B] the steps of each
    cdef Py_ssize_t *rank                 # [B] its place in `order`
    cdef Py_ssize_t *time                 # [N] step and sequence of each row
    cdef Py_ssize_t *row
    cdef Py_ssize_t *where                # [N] and where it begins in the array that was asked for last
    cdef Py_ssize_t st, sb                # of that array
    cdef double since                     # when it was last looked for Ctrl-C
    cdef const Py_ssize_t *offset

    cdef int check(self, str name, cnp.ndarray a, int kind, int layout, Py_ssize_t n) except -1
    cdef Py_ssize_t *integers(self, Py_ssize_t n) except NULL
    cdef inline bint given(self, Py_ssize_t t, Py_ssize_t i) noexcept
    cdef const Py_ssize_t *places(self, cnp.ndarray a) except NULL
    cdef int gather_typed(self, Py_ssize_t n, const real *a, const Py_ssize_t *where, real *packed) except -1
    cdef int scatter_typed(self, Py_ssize_t n, const real *packed, const Py_ssize_t *where, real *out) except -1
    cdef int look(self) except -1
    cdef int clear_ends(self, cnp.ndarray out) except -1
    cdef int fill_holes(self, cnp.ndarray out, cnp.ndarray h0) except -1
    cdef int sum_gradients(self, cnp.ndarray dh, real *packed, real *initial) except -1
    cdef void add_typed(self, const real *rows, real *out, Py_ssize_t n) noexcept
    cdef int add_holes(self, cnp.ndarray dh, real *out) except -1


cpdef bint between(cnp.ndarray a, Py_ssize_t least, Py_ssize_t most) except -1
