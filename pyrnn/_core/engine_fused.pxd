# Products over time with packed panels, for the loops of other modules; what each does stands in csrc/engine_fused.pyx.
cimport numpy as cnp

from pyrnn._core.arrays cimport real
from pyrnn._core.scratch cimport Scratch

cdef enum:
    # Bytes between rows of delta from which on it is packed for the outer products: so far apart, the rows that a tile
    # runs down fall into few sets of the first-level cache. Measured (AVX2, H = 256 to 512): 1 to 5 % of backward in
    # float32, 5 to 10 % in float64; below, the packing costs what it brings.
    APART = 1024

cdef void *packed_in(Scratch scratch, cnp.ndarray M, bint transposed) except NULL

cdef void rows_product(Py_ssize_t T, Py_ssize_t B, Py_ssize_t K, Py_ssize_t N, const real *x, Py_ssize_t xt,
                       Py_ssize_t xb, const real *panels, const real *init, Py_ssize_t it, Py_ssize_t ib, real *out,
                       Py_ssize_t ot, Py_ssize_t ob) noexcept nogil
