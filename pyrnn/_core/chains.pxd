# Vectors through one Jacobian, for the loops of other modules; what it does stands in csrc/chains.pyx.
cimport numpy as cnp

from pyrnn._core.arrays cimport real


cdef struct Steps:
    # What floor 3 has made of a call, and memory.
    Py_ssize_t T, B, H, ld
    const void *slopes             # [T, B, H], contiguous
    const cnp.int64_t *exponents   # [T, B]
    const void *panels             # of Mᵀ: rows times them are M v by rows
    const void *keep               # [H], or NULL
    bint before
    void *scaled                   # [rows, ld]


cdef void step(real tag, const Steps *c, Py_ssize_t t, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t k, const real *v,
               real *out) noexcept nogil
