"""Tangent vectors along a trajectory, kept apart by orthonormalisation: what Lyapunov exponents are made of.

k vectors go through the Jacobians of the steps together, as rows of memory, Q ← diag(phi') W Q: a step of backward with
Wᵀ for W, by the same kernel. Before they have all turned into the direction that grows fastest, they are made
orthonormal again, A = Q R, and the logs of the diagonal of R are what they have grown by. This need not be done at
every step: R of several steps is the product of theirs. As long as the condition of the vectors is below 1e7,
Cholesky's factor of AᵀA gives R at the speed of a matrix product [Yamamoto et al. 2015]; else Householder's reflections
do.
"""

cimport numpy as cnp
from libc.math cimport INFINITY, fabs, log, sqrt
from libc.stdlib cimport qsort
from libc.string cimport memcpy
from scipy.linalg.cython_blas cimport dgemm, dsyrk, dtrsm
from scipy.linalg.cython_lapack cimport dgeqrf, dorgqr, dpotrf

from pyrnn._core.arrays cimport (
    AS_MATRIX, CONTIGUOUS, OPTIONAL, WRITTEN, data, interrupted, kind_of, need, padded, pass_on, stride,
)
from pyrnn._core.blas cimport hold, let_go
from pyrnn._core.cell cimport Cell, read_cell
from pyrnn._core.chains cimport Steps, step
from pyrnn._core.scratch cimport Scratch
from pyrnn._core.table cimport flush_subnormals, restore_subnormals
from pyrnn._core.typed cimport fused_backward, pack_transposed, panels_size
from pyrnn._core.wait cimport pyrnn_seconds

cnp.import_array()

include "blas_int.pxi"

# Logs of the condition number of vectors: what the interval is chosen for, and beyond what Cholesky's factor of their
# products, whose condition is the square, has no digits left.
cdef double GOOD = 15
cdef double MOST = 17

cdef double NOISE = 16 * 2.2e-16   # of a sum of products over its size, times the root of their number
cdef double LEAST_SQUARE = 1e-290  # that keeps all its digits, with room for the products that it is the sum of

cdef enum:
    TOGETHER = 64  # vectors, in a block

cdef struct Unit:
    double size                    # the largest number that a vector has for it
    Py_ssize_t at

cdef struct Walk:
    Steps steps                    # of one sequence; without slopes where phi' is computed from h
    Py_ssize_t k
    const double *h                # [n, H], or NULL
    const double *zeros            # [H]
    Cell cell
    # Rows of vectors [k, ld]: these, those of the next step, and those of the last orthonormalisation.
    double *rows
    double *next
    double *first
    double *R                      # [k, k], columns one after the other
    double *tau                    # [k]
    double *work                   # [64 k]
    Unit *units                    # [H]


cdef void advance(Walk *w, Py_ssize_t t) noexcept nogil:
    """Rows through the Jacobian of step t."""
    cdef Py_ssize_t H = w.steps.H, ld = w.steps.ld
    if w.h != NULL:
        fused_backward(w.k, H, w.rows, ld, <const double *>w.steps.panels, w.h + t * H, 0, w.zeros, 0, <double *>NULL,
                       0, w.next, ld, w.cell.phi, t % 2)
    else:
        step(<double>0, &w.steps, t, 0, w.k, w.k, w.rows, w.next)
    w.rows, w.next = w.next, w.rows


cdef double spread_of(const double *R, Py_ssize_t ld, Py_ssize_t k) noexcept nogil:
    """log of the largest over the smallest number of a diagonal."""
    cdef Py_ssize_t i
    cdef double least = INFINITY, most = 0
    for i in range(k):
        least, most = min(least, fabs(R[i * ld + i])), max(most, fabs(R[i * ld + i]))
    return log(most / least)


cdef inline void add_logs(const double *R, Py_ssize_t ld, Py_ssize_t k, double *total) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(k):
        total[i] += log(fabs(R[i * ld + i]))


cdef double factor(Walk *w) noexcept nogil:
    """R of AᵀA = RᵀR, A the rows as columns: how far its diagonal is spread, infinity if there is none.

    At least MOST if a number of the diagonal may be rounding alone: if its square is as small as the errors of the
    products that it is the difference of.
    """
    cdef blas_int k = <blas_int>w.k, H = <blas_int>w.steps.H, ld = <blas_int>w.steps.ld, info = 0, j = 0, n, right
    cdef double one = 1, zero = 0, minus = -1
    cdef double *corner
    cdef double noise = NOISE * sqrt(<double>w.steps.H)
    cdef bint sure = True
    cdef Py_ssize_t i
    dsyrk(b"U", b"T", &k, &H, &one, w.rows, &ld, &zero, w.R, &k)
    for i in range(w.k):
        w.tau[i] = w.R[i * w.k + i]
    while j < k:
        n, right, corner = min(k - j, <blas_int>TOGETHER), k - j, w.R + j * w.k + j
        if j > 0:  # less what the rows of R above make of it
            dgemm(b"T", b"N", &n, &right, &j, &minus, w.R + j * w.k, &k, w.R + j * w.k, &k, &one, corner, &k)
        dpotrf(b"U", &n, corner, &k, &info)
        if info != 0:
            return INFINITY
        right -= n
        dtrsm(b"L", b"U", b"T", b"N", &n, &right, &one, corner, &k, corner + n * w.k, &k)
        j += n
    for i in range(w.k):
        sure &= w.R[i * w.k + i] * w.R[i * w.k + i] > noise * w.tau[i] and w.tau[i] > LEAST_SQUARE
    return spread_of(w.R, w.k, w.k) if sure else max(MOST, spread_of(w.R, w.k, w.k))


cdef void divide(Walk *w, double *total) noexcept nogil:
    """A ← A R⁻¹, which is orthonormal as far as the condition of AᵀA allows.

    By blocks, as in `factor`: most of it is in matrix products then, which OpenBLAS does more than twice as fast as its
    dtrsm and dpotrf (k = H = 500).
    """
    cdef blas_int k = <blas_int>w.k, H = <blas_int>w.steps.H, ld = <blas_int>w.steps.ld, j = 0, n
    cdef double one = 1, minus = -1
    while j < k:
        n = min(k - j, <blas_int>TOGETHER)
        if j > 0:
            dgemm(b"N", b"N", &H, &n, &j, &minus, w.rows, &ld, w.R + j * w.k, &k, &one, w.rows + j * w.steps.ld, &ld)
        dtrsm(b"R", b"U", b"N", b"N", &H, &n, &one, w.R + j * w.k + j, &k, w.rows + j * w.steps.ld, &ld)
        j += n
    add_logs(w.R, w.k, w.k, total)


cdef int by_size(const void *a, const void *b) noexcept nogil:
    cdef double first = (<const Unit *>a).size, second = (<const Unit *>b).size
    return (first < second) - (first > second)


cdef double householder(Walk *w, double *total) noexcept nogil:
    """A ← Q of A = Q R by reflections. Returns how far the diagonal of R is spread.

    A saturated unit has a row of A that is small, and the vector that this row alone keeps from the others has a small
    R_ii: its digits survive where larger rows come first (Cox and Higham 1998).
    """
    cdef blas_int k = <blas_int>w.k, H = <blas_int>w.steps.H, ld = <blas_int>w.steps.ld, size = 64 * k, info = 0
    cdef Py_ssize_t i, j
    cdef double spread
    cdef double *row
    for j in range(H):
        w.units[j].size, w.units[j].at = 0, j
    for i in range(k):
        row = w.rows + i * ld
        for j in range(H):
            w.units[j].size = max(w.units[j].size, fabs(row[j]))
    qsort(w.units, H, sizeof(Unit), by_size)
    for i in range(k):
        row = w.rows + i * ld
        memcpy(w.next, row, H * sizeof(double))
        for j in range(H):
            row[j] = w.next[w.units[j].at]
    dgeqrf(&H, &k, w.rows, &ld, w.tau, w.work, &size, &info)
    add_logs(w.rows, w.steps.ld, w.k, total)
    spread = spread_of(w.rows, w.steps.ld, w.k)
    dorgqr(&H, &k, &k, w.rows, &ld, w.tau, w.work, &size, &info)
    for i in range(k):
        row = w.rows + i * ld
        memcpy(w.next, row, H * sizeof(double))
        for j in range(H):
            row[w.units[j].at] = w.next[j]
    return spread


cdef Py_ssize_t evolve(Walk *w, Py_ssize_t n, bint automatic, Py_ssize_t *interval, double *total,
                       double *widest) noexcept nogil:
    """Rows through n steps; total [k] += what they grow by. Returns how often they were factored, -1 for Ctrl-C.

    widest: at least how far a diagonal of R over several steps was spread.
    """
    cdef Py_ssize_t t = 0, i, m, times = 0
    cdef double since = pyrnn_seconds(), spread
    cdef bint held
    while t < n:
        m = min(interval[0], n - t)
        if automatic and m > 1:
            memcpy(w.first, w.rows, w.k * w.steps.ld * sizeof(double))
        for i in range(m):
            advance(w, t + i)
            if interrupted(&since):
                return -1
        held = hold(<double>w.k * w.k * w.steps.H)
        spread = factor(w)
        times += 1
        if spread < MOST:
            # Once is enough here: Q R = A holds to rounding though Q is orthonormal to a percent alone, so that what
            # this R has too much, the next one has too little.
            divide(w, total)
            if t + m == n:
                if factor(w) < MOST:
                    divide(w, total)
                else:
                    householder(w, total)
        elif automatic and m > 1:  # again, with less
            memcpy(w.rows, w.first, w.k * w.steps.ld * sizeof(double))
            interval[0] = max(1, min(m - 1, <Py_ssize_t>(m * GOOD / spread)))
            let_go(held)
            continue
        else:
            spread = householder(w, total)
        let_go(held)
        if m > 1:
            widest[0] = max(widest[0], spread)
        t += m
        if automatic and m == interval[0]:
            if spread > GOOD:
                interval[0] = max(m - 1, <Py_ssize_t>1)
            elif spread * (m + 1) < GOOD * m:
                interval[0] = min(max(m + 1, <Py_ssize_t>(m * min(2.0, GOOD / max(spread, 1.0)))),
                                  <Py_ssize_t>100)
    return times


def vectors(cnp.ndarray W not None, cell, cnp.ndarray h, cnp.ndarray slopes, cnp.ndarray keep, cnp.ndarray Q,
            Py_ssize_t interval, bint automatic, cnp.ndarray total):
    """Take the rows of Q [k, H] through n steps, in place and orthonormal; total [k] += logs of what they grow by.

    W [H, H]: with alpha in it. h [n, H]: what phi' is computed from, for cells without a leak; or slopes [n, H]: phi'
    itself, in the current form before the product with W, and keep [H], 1 - alpha, or None. interval: steps between
    orthonormalisations, or where it begins if `automatic`. Returns how many there were, the last interval, and the log
    of the largest condition number that R of more than one step is known to have had. All arrays are contiguous, of
    float64.
    """
    if (h is None) == (slopes is None) or interval < 1:
        raise ValueError(f"either h or slopes must be given, and an interval of 1 or more, got {interval}")
    kind_of("Q", Q, 2)
    kind_of("h or slopes", h if slopes is None else slopes, 2)
    cdef Walk w
    cdef Scratch scratch = Scratch()
    cdef Py_ssize_t k = Q.shape[0], H = Q.shape[1], ld = padded(H, sizeof(double)), r, times
    cdef Py_ssize_t n = slopes.shape[0] if h is None else h.shape[0]
    if k > H:
        raise ValueError(f"Q must have {H} rows or fewer, got {k}")
    need("W", W, cnp.NPY_FLOAT64, AS_MATRIX, 2, H, H)
    need("h", h, cnp.NPY_FLOAT64, CONTIGUOUS | OPTIONAL, 2, n, H)
    need("slopes", slopes, cnp.NPY_FLOAT64, CONTIGUOUS | OPTIONAL, 2, n, H)
    need("keep", keep, cnp.NPY_FLOAT64, CONTIGUOUS | OPTIONAL, 1, H)
    need("Q", Q, cnp.NPY_FLOAT64, CONTIGUOUS | WRITTEN, 2, k, H)
    need("total", total, cnp.NPY_FLOAT64, CONTIGUOUS | WRITTEN, 1, k)
    cdef Py_ssize_t ld_W = stride(W, 0)
    cdef double *panels = <double *>scratch.take(panels_size(H, H, sizeof(double)) * sizeof(double))
    cdef double *zeros = <double *>scratch.take(H * sizeof(double))
    cdef const double *matrix = <const double *>data(W)
    cdef double *q = <double *>data(Q)
    cdef double *sums = <double *>data(total)
    cdef double widest = 0
    read_cell(cell, H, W, &w.cell)
    w.k, w.h, w.zeros = k, <const double *>data(h), zeros
    w.steps.T, w.steps.B, w.steps.H, w.steps.ld = n, 1, H, ld
    w.steps.slopes, w.steps.exponents, w.steps.keep = data(slopes), NULL, data(keep)
    w.steps.panels, w.steps.before = panels, w.cell.current
    w.steps.scaled = scratch.take(k * ld * sizeof(double)) if w.cell.current else NULL
    w.rows = <double *>scratch.take(k * ld * sizeof(double))
    w.next = <double *>scratch.take(k * ld * sizeof(double))
    w.first = <double *>scratch.take(k * ld * sizeof(double))
    w.R = <double *>scratch.take(k * k * sizeof(double))
    w.tau = <double *>scratch.take(k * sizeof(double))
    w.work = <double *>scratch.take(64 * k * sizeof(double))
    w.units = <Unit *>scratch.take(H * sizeof(Unit))
    for r in range(H):
        zeros[r] = 0
    with nogil:
        flush_subnormals()
        pack_transposed(H, H, matrix, ld_W, panels)
        for r in range(k):
            memcpy(w.rows + r * ld, q + r * H, H * sizeof(double))
        times = evolve(&w, n, automatic, &interval, sums, &widest)
        for r in range(k):
            memcpy(q + r * H, w.rows + r * ld, H * sizeof(double))
        restore_subnormals()
    pass_on(-1 if times < 0 else 0)
    return times, interval, widest
