"""Vectors through many Jacobians, and the singular values of their products, without underflow or overflow.

One step of every form of the cell, forwards or backwards in time, is

    v ← keep ∘ v + M (s_t ∘ v)        `before`: the slopes scale what the matrix reads
    v ← keep ∘ v + s_t ∘ (M v)        else: they scale what it makes

with M = W or Wᵀ, alpha in it, and keep = 1 - alpha, or NULL. The slopes s_t come from floor 3, each row divided by a
power of two whose exponent stands in `exponents`. Vectors are rows; each has an exponent of its own, so that a row
stands for row * 2^scale. All scaling is by powers of two: no digit is lost to it.
"""

cimport numpy as cnp
from libc.math cimport fabs, frexp, ldexp, log, sqrt
from libc.string cimport memcpy, memset

from pyrnn._core.arrays cimport (
    AS_MATRIX, CONTIGUOUS, OPTIONAL, WRITTEN, data, interrupted, kind_of, most_block_rows, need, padded, pass_on, real,
    stride,
)
from pyrnn._core.numbers cimport LANES, dot, norm
from pyrnn._core.scratch cimport Scratch
from pyrnn._core.table cimport flush_subnormals, restore_subnormals
from pyrnn._core.typed cimport pack, pack_transposed, panels_size, product
from pyrnn._core.wait cimport pyrnn_seconds

cnp.import_array()

cdef enum:
    FREE_BITS = 16       # the sizes of a row sum to 2^-16 to 2^17: rescaling is rare, and a step has room
    FARTHEST = 1000      # an exponent that ldexp(1.0, ...) takes as it is
    MOST_SWEEPS = 40     # of Jacobi's method; 10 are many

cdef double LOG_2 = log(2.0)


# ---- Rows -----------------------------------------------------------------------------------------------------------
cdef inline real largest(Py_ssize_t n, const real *a) noexcept nogil:
    """max |a_i|, past any NaN."""
    cdef real m[LANES]
    cdef real x
    cdef Py_ssize_t i, j
    for j in range(LANES):
        m[j] = 0
    for i in range(n // LANES):
        for j in range(LANES):
            x = a[i * LANES + j]
            x = -x if x < 0 else x
            m[j] = x if x > m[j] else m[j]
    for i in range(n - n % LANES, n):
        x = -a[i] if a[i] < 0 else a[i]
        m[0] = x if x > m[0] else m[0]
    for j in range(1, LANES):
        m[0] = m[j] if m[j] > m[0] else m[0]
    return m[0]


cdef inline double size(Py_ssize_t n, const real *a) noexcept nogil:
    """Σ |a_i|: within a factor of n of the largest, and unlike a maximum, of which C compilers make branches, fast."""
    cdef double s[LANES]
    cdef Py_ssize_t i, j
    for j in range(LANES):
        s[j] = 0
    for i in range(n // LANES):
        for j in range(LANES):
            s[j] += fabs(a[i * LANES + j])
    for i in range(n - n % LANES, n):
        s[0] += fabs(a[i])
    for j in range(1, LANES):
        s[0] += s[j]
    return s[0]


cdef inline Py_ssize_t exponent(double m) noexcept nogil:
    """e with 2^e <= m < 2^(e + 1), held to what one scaling can do; 0 of what has none."""
    cdef int e = 1
    if 0 < m <= 1.7976931348623157e308:
        frexp(m, &e)
    return max(-FARTHEST, min(FARTHEST, e - 1))


cdef inline void scale_row(Py_ssize_t n, Py_ssize_t e, real *a) noexcept nogil:
    """a *= 2^e."""
    cdef double factor = ldexp(1.0, <int>max(-2 * FARTHEST, min(e, FARTHEST)))
    cdef Py_ssize_t i
    for i in range(n):
        a[i] = <real>(a[i] * factor)


cdef inline void normalize_row(Py_ssize_t n, Py_ssize_t free, real *a, cnp.int64_t *scale) noexcept nogil:
    """Bring the sum of sizes to [1, 2) if it is not within 2^±free."""
    cdef double m = size(n, a)
    cdef Py_ssize_t e
    if not m <= 1.7976931348623157e308:  # NaN or inf among them: the others are scaled all the same
        m = largest(n, a)
    e = exponent(m)
    if e > free or e < -free:
        scale_row(n, -e, a)
        scale[0] += e


cdef inline void add_row(Py_ssize_t n, const real *a, real *sum, cnp.int64_t *scale) noexcept nogil:
    """(sum, scale) += a, at the larger of both scales."""
    cdef real m = largest(n, a)
    cdef Py_ssize_t e = exponent(m), i
    cdef double factor = 1
    if m > 0:
        if largest(n, sum) == 0:
            scale[0] = e
        elif e > scale[0]:
            scale_row(n, scale[0] - e, sum)
            scale[0] = e
        factor = ldexp(1.0, <int>max(-scale[0], <Py_ssize_t>-2 * FARTHEST))
    for i in range(n):
        sum[i] += <real>(a[i] * factor)


# ---- One step -------------------------------------------------------------------------------------------------------
cdef void step(real tag, const Steps *c, Py_ssize_t t, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t k, const real *v,
               real *out) noexcept nogil:
    """Rows `first` to first + rows - 1 through step t; k rows belong to one sequence."""
    cdef Py_ssize_t H = c.H, ld = c.ld, r, i
    cdef const real *keep = <const real *>c.keep
    cdef const real *s
    cdef const real *past
    cdef real *scaled = <real *>c.scaled
    cdef real *row
    if c.before:
        for r in range(rows):
            s = <const real *>c.slopes + (t * c.B + (first + r) // k) * H
            past, row = v + r * ld, scaled + r * ld
            for i in range(H):
                row[i] = s[i] * past[i]
        product(rows, H, H, scaled, ld, <const real *>c.panels, <const real *>NULL, 0, out, ld)
    else:
        product(rows, H, H, v, ld, <const real *>c.panels, <const real *>NULL, 0, out, ld)
        for r in range(rows):
            s = <const real *>c.slopes + (t * c.B + (first + r) // k) * H
            row = out + r * ld
            for i in range(H):
                row[i] *= s[i]
    if keep != NULL:
        for r in range(rows):
            past, row = v + r * ld, out + r * ld
            for i in range(H):
                row[i] += keep[i] * past[i]


# ---- Vectors --------------------------------------------------------------------------------------------------------
cdef int vectors_loop(real tag, const Steps *c, bint backwards, Py_ssize_t k, real *vectors, cnp.int64_t *scales,
                      const real *add, double *log_norms, Py_ssize_t block, real *v, real *out) noexcept nogil:
    """vectors [B k, H] and scales [B k] through all steps, in place; add [T, B, H] and log_norms [T, B k], or NULL."""
    cdef Py_ssize_t H = c.H, ld = c.ld, all_rows = c.B * k, first = 0, rows, n, t, r, at
    cdef double since = pyrnn_seconds()
    while first < all_rows:
        rows = min(block, all_rows - first)
        for r in range(rows):
            memcpy(v + r * ld, vectors + (first + r) * H, H * sizeof(real))
        for n in range(c.T):
            t = c.T - 1 - n if backwards else n
            for r in range(rows):
                at = first + r
                if add != NULL:
                    add_row(H, add + (t * c.B + at // k) * H, v + r * ld, scales + at)
                if log_norms != NULL:
                    log_norms[t * all_rows + at] = log(norm(H, v + r * ld)) + scales[at] * LOG_2
            step(tag, c, t, first, rows, k, v, out)
            for r in range(rows):
                scales[first + r] += c.exponents[t * c.B + (first + r) // k]
                normalize_row(H, FREE_BITS, out + r * ld, scales + first + r)
            v, out = out, v
            if interrupted(&since):
                return -1
        for r in range(rows):
            memcpy(vectors + (first + r) * H, v + r * ld, H * sizeof(real))
        first += rows
    return 0


# ---- Singular values ------------------------------------------------------------------------------------------------
# The transposed product so far is Σ_i q_i s_iᵀ 2^(e_i): orthonormal q_i, orthogonal s_i, so that the lengths of the
# s_i 2^(e_i) are the singular values, each with its digits, however far they are apart.
cdef int orthonormalize(Py_ssize_t H, double *q, Py_ssize_t ld, double *R, double *since) noexcept nogil:
    """Rows a_i = Σ_j R[j, i] q_j, by Gram-Schmidt, each row a second time if the first has cancelled much of it.

    What is left of a row that depends on those before it is rounding, and made 0. Returns -1 for Ctrl-C, like the two
    below: a step of some hundred units takes seconds.
    """
    cdef Py_ssize_t i, j, l
    cdef int _
    cdef double c, whole, before, after
    memset(R, 0, H * H * sizeof(double))
    for i in range(H):
        whole = after = norm(H, q + i * ld)
        for _ in range(2):
            before = after
            for j in range(i):
                c = dot(H, q + i * ld, q + j * ld)
                R[j * H + i] += c
                for l in range(H):
                    q[i * ld + l] -= c * q[j * ld + l]
            after = norm(H, q + i * ld)
            if after > 0.7 * before:
                break
        if after <= H * 2.3e-16 * whole:
            memset(q + i * ld, 0, H * sizeof(double))
        else:
            R[i * H + i] = after
            for l in range(H):
                q[i * ld + l] /= after
        if interrupted(since):
            return -1
    return 0


cdef int times_triangle(Py_ssize_t H, const double *R, double *s, cnp.int64_t *scales, double *row,
                        double *since) noexcept nogil:
    """s ← R s with the scales of its rows, R upper triangular; row [H]: scratch."""
    cdef Py_ssize_t i, j, l
    cdef cnp.int64_t top
    cdef bint any
    cdef double factor
    for i in range(H):
        top, any = 0, False
        for j in range(i, H):
            if R[i * H + j] != 0 and (not any or scales[j] > top):
                top, any = scales[j], True
        memset(row, 0, H * sizeof(double))
        for j in range(i, H):
            if R[i * H + j] != 0 and scales[j] - top > -FARTHEST:
                factor = ldexp(R[i * H + j], <int>(scales[j] - top))
                for l in range(H):
                    row[l] += factor * s[j * H + l]
        memcpy(s + i * H, row, H * sizeof(double))
        scales[i] = top
        normalize_row(H, 0, s + i * H, scales + i)
        if interrupted(since):
            return -1
    return 0


cdef void swap_rows(Py_ssize_t n, double *a, double *b) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        a[i], b[i] = b[i], a[i]


cdef inline void rotate(Py_ssize_t n, double c, double up, double down, double *a, double *b) noexcept nogil:
    """(a, b) ← c (a + up b, b - down a)."""
    cdef Py_ssize_t i
    cdef double x
    for i in range(n):
        x = a[i]
        a[i] = c * (x + up * b[i])
        b[i] = c * (b[i] - down * x)


cdef bint orthogonalize_pair(Py_ssize_t H, double *q, Py_ssize_t ld, double *s, double *squares, cnp.int64_t *scales,
                             Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    """Make rows i < j of s orthogonal, the longer one first; whether there was anything to do.

    The angle's tangent is ratio * tau, with the ratio of the scales, which may underflow, and a tau that does not: the
    short row loses its component along the long one, and the long one keeps its digits.
    """
    cdef double a, b, c, tau, t, difference, ratio, cosine
    cdef Py_ssize_t far = max(-2 * FARTHEST, min(scales[j] - scales[i], 2 * FARTHEST))
    cdef bint swap = squares[j] > 0 and (squares[i] == 0 or ldexp(squares[j], <int>far) > ldexp(squares[i], <int>-far))
    if swap:
        swap_rows(H, s + i * H, s + j * H)
        swap_rows(H, q + i * ld, q + j * ld)
        squares[i], squares[j] = squares[j], squares[i]
        scales[i], scales[j] = scales[j], scales[i]
        far = -far
    a, b = squares[i], squares[j]
    c = dot(H, s + i * H, s + j * H)
    if not fabs(c) > 1e-15 * sqrt(a) * sqrt(b):
        return swap
    ratio = ldexp(1.0, <int>far)
    difference = a - ratio * ratio * b
    tau = 2 * c / (difference + sqrt(difference * difference + 4 * ratio * ratio * c * c))
    t = ratio * tau
    cosine = 1 / sqrt(1 + t * t)
    rotate(H, cosine, ratio * t, tau, s + i * H, s + j * H)
    if fabs(t) > 1e-20:  # below, nothing changes
        rotate(H, cosine, t, t, q + i * ld, q + j * ld)
    normalize_row(H, FREE_BITS, s + j * H, scales + j)
    squares[i], squares[j] = dot(H, s + i * H, s + i * H), dot(H, s + j * H, s + j * H)
    return True


cdef int orthogonalize(Py_ssize_t H, double *q, Py_ssize_t ld, double *s, double *squares, cnp.int64_t *scales,
                       double *since) noexcept nogil:
    """One-sided Jacobi: sweeps over all pairs of rows of s until all are orthogonal, the longest first."""
    cdef Py_ssize_t i, j, _
    cdef bint busy
    for i in range(H):
        squares[i] = dot(H, s + i * H, s + i * H)
    for _ in range(MOST_SWEEPS):
        busy = False
        for i in range(H - 1):
            for j in range(i + 1, H):
                busy |= orthogonalize_pair(H, q, ld, s, squares, scales, i, j)
            if interrupted(since):
                return -1
        if not busy:
            break
    return 0


cdef int singular_values_loop(Steps *c, double *logs, double *q, double *out, double *s, double *R, double *squares,
                              cnp.int64_t *scales) noexcept nogil:
    """logs [T + 1, B, H]; q, out [H, ld], s, R [H, H], squares [H], scales [H]: scratch."""
    cdef Py_ssize_t H = c.H, ld = c.ld, b, n, i
    cdef double since = pyrnn_seconds()
    for b in range(c.B):
        memset(q, 0, H * ld * sizeof(double))
        memset(s, 0, H * H * sizeof(double))
        memset(logs + b * H, 0, H * sizeof(double))  # of the identity
        for i in range(H):
            q[i * ld + i] = s[i * H + i] = 1
            scales[i] = 0
        for n in range(c.T):
            step(<double>0, c, c.T - 1 - n, b * H, H, H, q, out)
            q, out = out, q
            if (orthonormalize(H, q, ld, R, &since) or times_triangle(H, R, s, scales, squares, &since)
                    or orthogonalize(H, q, ld, s, squares, scales, &since)):
                return -1
            for i in range(H):
                scales[i] += c.exponents[(c.T - 1 - n) * c.B + b]
                logs[((n + 1) * c.B + b) * H + i] = 0.5 * log(squares[i]) + scales[i] * LOG_2
            if interrupted(&since):
                return -1
    return 0


# ---- For floor 3: checked arrays in, memory allocated here, and the GIL given up ------------------------------------
cdef int check_steps(cnp.ndarray slopes, cnp.ndarray exponents, cnp.ndarray W, cnp.ndarray keep) except -1:
    """Raise ValueError for what are no Steps of pyrnn/_slopes.py."""
    cdef int kind = kind_of("W", W, 2)
    kind_of("slopes", slopes, 3)
    cdef Py_ssize_t T = slopes.shape[0], B = slopes.shape[1], H = W.shape[0]
    need("W", W, kind, AS_MATRIX, 2, H, H)
    need("slopes", slopes, kind, CONTIGUOUS, 3, T, B, H)
    need("exponents", exponents, cnp.NPY_INT64, CONTIGUOUS, 2, T, B)
    need("keep", keep, kind, CONTIGUOUS | OPTIONAL, 1, H)
    return 0


cdef int set_up(real tag, Steps *c, Scratch scratch, cnp.ndarray slopes, cnp.ndarray exponents, cnp.ndarray W,
                bint transposed, cnp.ndarray keep, bint of_columns, Py_ssize_t rows) except -1:
    """Arguments as `vectors` takes them; memory for so many rows at once."""
    cdef Py_ssize_t H = W.shape[0]
    cdef real *panels = <real *>scratch.take(panels_size(H, H, sizeof(real)) * sizeof(real))
    if transposed:
        pack(H, 0, H, 1, H, <const real *>data(W), stride(W, 0), 0, panels)
    else:
        pack_transposed(H, H, <const real *>data(W), stride(W, 0), panels)
    c.T, c.B, c.H, c.ld = slopes.shape[0], slopes.shape[1], H, padded(H, sizeof(real))
    c.slopes, c.exponents, c.keep = data(slopes), <const cnp.int64_t *>data(exponents), data(keep)
    c.panels, c.before = panels, of_columns != transposed
    c.scaled = scratch.take(rows * c.ld * sizeof(real)) if c.before else NULL
    return 0


cdef int run_vectors(real tag, cnp.ndarray slopes, cnp.ndarray exponents, cnp.ndarray W, cnp.ndarray keep,
                     bint of_columns, bint backwards, cnp.ndarray vectors, cnp.ndarray scales, cnp.ndarray add,
                     cnp.ndarray log_norms) except -1:
    cdef Steps c
    cdef Scratch scratch = Scratch()
    cdef Py_ssize_t k = vectors.shape[1], H = W.shape[0]
    cdef Py_ssize_t block = max(1, min(most_block_rows(H, sizeof(real)), vectors.shape[0] * k))
    set_up(tag, &c, scratch, slopes, exponents, W, backwards, keep, of_columns, block)
    cdef real *v = <real *>scratch.take(block * c.ld * sizeof(real))
    cdef real *out = <real *>scratch.take(block * c.ld * sizeof(real))
    cdef real *pv = <real *>data(vectors)
    cdef const real *pa = <const real *>data(add)
    cdef cnp.int64_t *ps = <cnp.int64_t *>data(scales)
    cdef double *pn = <double *>data(log_norms)
    cdef int status
    with nogil:
        flush_subnormals()
        status = vectors_loop(tag, &c, backwards, k, pv, ps, pa, pn, block, v, out)
        restore_subnormals()
    return pass_on(status)


def vectors(cnp.ndarray slopes, cnp.ndarray exponents, cnp.ndarray W, cnp.ndarray keep, bint of_columns, bint backwards,
            cnp.ndarray vectors, cnp.ndarray scales, cnp.ndarray add=None, cnp.ndarray log_norms=None):
    """Take vectors [B, k, H] with scales [B, k] through all steps, in place.

    W has alpha in it; of_columns: whether slopes scale its columns, not its rows. Backwards: from the last step to the
    first, through the transposed Jacobians. At each step, before it, add [T, B, H] is added where it is given, and the
    logs of the norms go to log_norms [T, B, k]. All arrays are contiguous, of one dtype; exponents and scales of int64,
    log_norms of float64.
    """
    check_steps(slopes, exponents, W, keep)
    cdef int kind = kind_of("vectors", vectors, 3)
    cdef Py_ssize_t T = slopes.shape[0], B = slopes.shape[1], k = vectors.shape[1], H = W.shape[0]
    need("vectors", vectors, cnp.PyArray_TYPE(W), CONTIGUOUS | WRITTEN, 3, B, k, H)
    need("scales", scales, cnp.NPY_INT64, CONTIGUOUS | WRITTEN, 2, B, k)
    need("add", add, kind, CONTIGUOUS | OPTIONAL, 3, T, B, H)
    need("log_norms", log_norms, cnp.NPY_FLOAT64, CONTIGUOUS | WRITTEN | OPTIONAL, 3, T, B, k)
    if cnp.PyArray_TYPE(W) == cnp.NPY_FLOAT32:
        run_vectors(<float>0, slopes, exponents, W, keep, of_columns, backwards, vectors, scales, add, log_norms)
    else:
        run_vectors(<double>0, slopes, exponents, W, keep, of_columns, backwards, vectors, scales, add, log_norms)


def log_singular_values(cnp.ndarray slopes, cnp.ndarray exponents, cnp.ndarray W, cnp.ndarray keep, bint of_columns,
                        cnp.ndarray logs):
    """Write those of the product of the last n steps to logs [T + 1, B, H], for each n; arguments as of `vectors`.

    All arrays but exponents are of float64.
    """
    check_steps(slopes, exponents, W, keep)
    need("W", W, cnp.NPY_FLOAT64, AS_MATRIX, 2, W.shape[0], W.shape[0])
    need("logs", logs, cnp.NPY_FLOAT64, CONTIGUOUS | WRITTEN, 3, slopes.shape[0] + 1, slopes.shape[1], W.shape[0])
    cdef Steps c
    cdef Scratch scratch = Scratch()
    cdef Py_ssize_t H = W.shape[0]
    set_up(<double>0, &c, scratch, slopes, exponents, W, True, keep, of_columns, H)
    cdef double *q = <double *>scratch.take(H * c.ld * sizeof(double))
    cdef double *out = <double *>scratch.take(H * c.ld * sizeof(double))
    cdef double *s = <double *>scratch.take(H * H * sizeof(double))
    cdef double *R = <double *>scratch.take(H * H * sizeof(double))
    cdef double *squares = <double *>scratch.take(H * sizeof(double))
    cdef cnp.int64_t *scales = <cnp.int64_t *>scratch.take(H * sizeof(cnp.int64_t))
    cdef double *pl = <double *>data(logs)
    cdef int status
    with nogil:
        flush_subnormals()
        status = singular_values_loop(&c, pl, q, out, s, R, squares, scales)
        restore_subnormals()
    pass_on(status)
