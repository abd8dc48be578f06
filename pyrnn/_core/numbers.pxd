# What loops of several modules do with a row of n contiguous numbers, where no kernel does it.
from libc.math cimport sqrt

from pyrnn._core.arrays cimport real
from pyrnn._core.table cimport (
    PYRNN_IDENTITY, PYRNN_RELU, PYRNN_RETANH, PYRNN_SIGMOID, PYRNN_SOFTPLUS, PYRNN_TANH, pyrnn_phi,
)
from pyrnn._core.typed cimport phi_slopes

cdef enum:
    LANES = 8  # of sums and maxima side by side: one after the other, each would wait for the one before


cdef inline double dot(Py_ssize_t n, const real *a, const real *b) noexcept nogil:
    """aᵀ b in double precision, of both types."""
    cdef double s[LANES]
    cdef Py_ssize_t i, j
    for j in range(LANES):
        s[j] = 0
    for i in range(n // LANES):
        for j in range(LANES):
            s[j] += <double>a[i * LANES + j] * b[i * LANES + j]
    for i in range(n - n % LANES, n):
        s[0] += <double>a[i] * b[i]
    for j in range(1, LANES):
        s[0] += s[j]
    return s[0]


cdef inline double norm(Py_ssize_t n, const real *a) noexcept nogil:
    return sqrt(dot(n, a, a))


cdef inline void slopes_of(Py_ssize_t n, const real *rates, pyrnn_phi phi, real *out) noexcept nogil:
    """phi'(a) from phi(a). A loop for each phi, without a branch, which the compiler vectorises."""
    cdef Py_ssize_t k
    if phi.kind == PYRNN_TANH:
        for k in range(n):
            out[k] = (1 - rates[k]) * (1 + rates[k])
    elif phi.kind == PYRNN_RELU:
        for k in range(n):
            out[k] = 0 if rates[k] <= 0 else 1
    elif phi.kind == PYRNN_IDENTITY:
        for k in range(n):
            out[k] = 1
    else:
        phi_slopes(n, rates, out, phi)


cdef inline bint is_bent(pyrnn_phi phi) noexcept nogil:
    """True if phi'' is not 0 everywhere."""
    return (phi.kind == PYRNN_TANH or phi.kind == PYRNN_SOFTPLUS or phi.kind == PYRNN_SIGMOID
            or phi.kind == PYRNN_RETANH)


cdef inline void bends_of(Py_ssize_t n, const real *rates, pyrnn_phi phi, real *out) noexcept nogil:
    """phi''(a) over phi'(a), from phi(a); 0 where phi' is 0. out may be rates."""
    cdef Py_ssize_t k
    if phi.kind == PYRNN_TANH or phi.kind == PYRNN_RETANH:
        for k in range(n):
            out[k] = -2 * rates[k]
    elif phi.kind == PYRNN_SIGMOID:
        for k in range(n):
            out[k] = 1 - 2 * rates[k]
    elif phi.kind == PYRNN_SOFTPLUS:
        phi_slopes(n, rates, out, phi)
        for k in range(n):
            out[k] = 1 - out[k]
    else:
        for k in range(n):
            out[k] = 0 * rates[k]
