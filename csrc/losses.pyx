"""Losses of rows of outputs with their gradients, and penalties of rates with theirs.

One pass, without the GIL, in blocks of BLOCK numbers or of one row. A row is a step of a sequence; its loss depends on
nothing but itself, and is summed in double, output after output. So the bits are the same for every batch, division of
time, thread and instruction set: exponentials are kernels', all else is in losses.h, rounded operation by operation.
"""

cimport numpy as cnp
from libc.math cimport INFINITY, fabs
from libc.string cimport memcpy

from pyrnn._core.arrays cimport real
from pyrnn._core.floating cimport pyrnn_floating, pyrnn_flush, pyrnn_restore
from pyrnn._core.table cimport PYRNN_SIGMOID, PYRNN_SOFTPLUS, pyrnn_phi
from pyrnn._core.typed cimport add_multiple, dot, exp, step_forward

cnp.import_array()

cdef extern from "losses.h":
    void pyrnn_logs(Py_ssize_t n, const double *x, double *logs) noexcept nogil
    void pyrnn_below_f32(Py_ssize_t rows, Py_ssize_t O, const float *o, float *out) noexcept nogil
    void pyrnn_below_f64(Py_ssize_t rows, Py_ssize_t O, const double *o, double *out) noexcept nogil
    void pyrnn_sums_f32(Py_ssize_t rows, Py_ssize_t O, const float *e, double *totals) noexcept nogil
    void pyrnn_sums_f64(Py_ssize_t rows, Py_ssize_t O, const double *e, double *totals) noexcept nogil
    void pyrnn_softmax_f32(Py_ssize_t rows, Py_ssize_t O, const Py_ssize_t *classes, const float *w,
                           const float *chosen, const double *logs, const double *totals, double *losses,
                           float *d) noexcept nogil
    void pyrnn_softmax_f64(Py_ssize_t rows, Py_ssize_t O, const Py_ssize_t *classes, const double *w,
                           const double *chosen, const double *logs, const double *totals, double *losses,
                           double *d) noexcept nogil
    void pyrnn_squared_f32(Py_ssize_t n, const float *o, const float *y, double *losses, float *d) noexcept nogil
    void pyrnn_squared_f64(Py_ssize_t n, const double *o, const double *y, double *losses, double *d) noexcept nogil
    void pyrnn_huber_f32(Py_ssize_t n, const float *o, const float *y, float delta, double *losses,
                         float *d) noexcept nogil
    void pyrnn_huber_f64(Py_ssize_t n, const double *o, const double *y, double delta, double *losses,
                         double *d) noexcept nogil
    void pyrnn_poisson_f32(Py_ssize_t n, const float *o, const float *y, const float *rate, double *losses,
                           float *d) noexcept nogil
    void pyrnn_poisson_f64(Py_ssize_t n, const double *o, const double *y, const double *rate, double *losses,
                           double *d) noexcept nogil
    void pyrnn_minus_f32(Py_ssize_t n, const float *o, float *out) noexcept nogil
    void pyrnn_minus_f64(Py_ssize_t n, const double *o, double *out) noexcept nogil
    void pyrnn_binary_f32(Py_ssize_t n, const float *o, const float *y, const float *log, const float *q,
                          double *losses, float *d) noexcept nogil
    void pyrnn_binary_f64(Py_ssize_t n, const double *o, const double *y, const double *log, const double *q,
                          double *losses, double *d) noexcept nogil
    void pyrnn_weigh_f32(Py_ssize_t rows, Py_ssize_t n, const float *w, bint by_output, const double *of_numbers,
                         double *losses, float *d) noexcept nogil
    void pyrnn_weigh_f64(Py_ssize_t rows, Py_ssize_t n, const double *w, bint by_output, const double *of_numbers,
                         double *losses, double *d) noexcept nogil
    bint pyrnn_outside_f32(Py_ssize_t n, const float *y, float low, float high) noexcept nogil
    bint pyrnn_outside_f64(Py_ssize_t n, const double *y, double low, double high) noexcept nogil

cdef enum:
    BLOCK = 512
    SUMS = 8     # side by side: one after the other, each would wait for the one before

cdef enum:
    SQUARED
    HUBER
    BINARY
    POISSON

cdef enum:
    L2
    L1
    CHANGE

cdef dict NUMBERS = {"squared_error": SQUARED, "huber": HUBER, "binary_cross_entropy": BINARY, "poisson": POISSON}
cdef dict PENALTIES = {"l2": L2, "l1": L1, "change": CHANGE}


cdef int need(str name, cnp.ndarray a, int kind, Py_ssize_t size, bint written=False) except -1:
    """Raise ValueError unless an array is contiguous, has this type, and holds this many numbers."""
    if a is None or cnp.PyArray_TYPE(a) != kind or cnp.PyArray_SIZE(a) != size or not (
            cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISBEHAVED_RO(a)) or (
            written and not cnp.PyArray_ISWRITEABLE(a)):
        got = "None" if a is None else f"{a.dtype} {(<object>a).shape} with strides {(<object>a).strides}"
        expected = f"{<object>cnp.PyArray_DescrFromType(kind)}, contiguous, {size} numbers"
        raise ValueError(f"a compiled function needs {name} as {expected}, got {got}")
    return 0


cdef int kind_of(cnp.ndarray o) except -1:
    cdef int kind = cnp.PyArray_TYPE(o)
    if cnp.PyArray_NDIM(o) < 2 or (kind != cnp.NPY_FLOAT32 and kind != cnp.NPY_FLOAT64):
        raise ValueError(f"a compiled function needs rows of float32 or float64, got {o.dtype} {(<object>o).shape}")
    return kind


# ---- Losses of classes ----------------------------------------------------------------------------------------------
def of_classes(cnp.ndarray o not None, cnp.ndarray targets, cnp.ndarray weights, cnp.ndarray losses, cnp.ndarray do):
    """Write the cross-entropy of each row and its gradient; return the first row whose target is no class, or -1.

    o, do [..., O], targets intp [...], weights [...] or None, losses float64 [...]; all contiguous, and O > 0.
    """
    cdef int kind = kind_of(o)
    cdef Py_ssize_t O = cnp.PyArray_DIM(o, cnp.PyArray_NDIM(o) - 1), rows = cnp.PyArray_SIZE(o) // max(O, 1), wrong
    need("o", o, kind, rows * O)
    need("do", do, kind, rows * O, True)
    need("targets", targets, cnp.NPY_INTP, rows)
    need("losses", losses, cnp.NPY_FLOAT64, rows, True)
    if weights is not None:
        need("weights", weights, kind, rows)
    cdef const void *w = NULL if weights is None else cnp.PyArray_DATA(weights)
    cdef const void *numbers = cnp.PyArray_DATA(o)
    cdef const Py_ssize_t *classes = <const Py_ssize_t *>cnp.PyArray_DATA(targets)
    cdef double *values = <double *>cnp.PyArray_DATA(losses)
    cdef void *into = cnp.PyArray_DATA(do)
    cdef pyrnn_floating state
    with nogil:
        state = pyrnn_flush()
        if kind == cnp.NPY_FLOAT32:
            wrong = cross_entropy(rows, O, <const float *>numbers, classes, <const float *>w, values, <float *>into)
        else:
            wrong = cross_entropy(rows, O, <const double *>numbers, classes, <const double *>w, values, <double *>into)
        pyrnn_restore(state)
    return wrong


cdef Py_ssize_t cross_entropy(Py_ssize_t rows, Py_ssize_t O, const real *o, const Py_ssize_t *classes, const real *w,
                              double *losses, real *do) noexcept nogil:
    """L = log Σ_k exp(o_k - m) - (o_y - m), m the greatest; dL/do_k = exp(o_k - m) / Σ - 1[k = y]  (10.11, 10.18)."""
    cdef double logs[BLOCK]
    cdef double totals[BLOCK]
    cdef real chosen[BLOCK]
    cdef Py_ssize_t block = max(<Py_ssize_t>1, BLOCK // O), first = 0, n, r, y
    cdef real *d
    while first < rows:
        n, d = min(block, rows - first), do + first * O
        if real is float:
            pyrnn_below_f32(n, O, o + first * O, d)
        else:
            pyrnn_below_f64(n, O, o + first * O, d)
        for r in range(n):
            y = classes[first + r]
            if 0 <= y < O:
                chosen[r] = d[r * O + y]
            elif w == NULL or w[first + r] != 0:
                return first + r
        exp(n * O, d, d)
        if real is float:
            pyrnn_sums_f32(n, O, d, totals)
        else:
            pyrnn_sums_f64(n, O, d, totals)
        pyrnn_logs(n, totals, logs)
        if real is float:
            pyrnn_softmax_f32(n, O, classes + first, NULL if w == NULL else w + first, chosen, logs, totals,
                              losses + first, d)
        else:
            pyrnn_softmax_f64(n, O, classes + first, NULL if w == NULL else w + first, chosen, logs, totals,
                              losses + first, d)
        first += n
    return -1


# ---- Losses of numbers ----------------------------------------------------------------------------------------------
cdef struct Numbers:
    int loss
    double delta
    Py_ssize_t rows, O
    const void *o
    const void *targets
    const void *weights
    bint by_output           # whether each output has a weight of its own
    double *losses
    void *do


def of_numbers(str loss, cnp.ndarray o not None, cnp.ndarray targets, cnp.ndarray weights, cnp.ndarray losses,
               cnp.ndarray do, double delta=1):
    """Write the loss of each row and its gradient; return whether all targets are within the range of the loss.

    o, targets, do [..., O], weights [...] or [..., O] or None, losses float64 [...]; all contiguous. delta: of "huber".
    """
    cdef int kind = kind_of(o)
    cdef Numbers n
    cdef bint within
    cdef pyrnn_floating state
    n.loss, n.delta = NUMBERS[loss], delta
    n.O, n.rows = cnp.PyArray_DIM(o, cnp.PyArray_NDIM(o) - 1), cnp.PyArray_SIZE(losses)
    n.by_output = weights is not None and cnp.PyArray_NDIM(weights) == cnp.PyArray_NDIM(o)
    need("o", o, kind, n.rows * n.O)
    need("targets", targets, kind, n.rows * n.O)
    need("do", do, kind, n.rows * n.O, True)
    need("losses", losses, cnp.NPY_FLOAT64, n.rows, True)
    if weights is not None:
        need("weights", weights, kind, n.rows * n.O if n.by_output else n.rows)
    n.o, n.targets, n.do = cnp.PyArray_DATA(o), cnp.PyArray_DATA(targets), cnp.PyArray_DATA(do)
    n.weights = NULL if weights is None else cnp.PyArray_DATA(weights)
    n.losses = <double *>cnp.PyArray_DATA(losses)
    with nogil:
        state = pyrnn_flush()
        within = all_rows(<float>0, &n) if kind == cnp.NPY_FLOAT32 else all_rows(<double>0, &n)
        pyrnn_restore(state)
    return within


cdef bint all_rows(real tag, Numbers *n) noexcept nogil:
    cdef Py_ssize_t O = n.O, block = max(<Py_ssize_t>1, BLOCK // max(O, <Py_ssize_t>1)), row = 0, rows, first, r
    while row < n.rows:
        rows, first = min(block, n.rows - row), 0
        for r in range(rows):
            n.losses[row + r] = 0
        while first < O:  # once, but for rows longer than a block
            if not part(tag, n, row, rows, first, min(<Py_ssize_t>BLOCK, O - first)):
                return False
            first += BLOCK
        row += rows
    return True


cdef bint part(real tag, Numbers *n, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t first,
               Py_ssize_t width) noexcept nogil:
    """Columns from `first` on of some rows, which are contiguous: all columns, or one row."""
    cdef double losses[BLOCK]
    cdef real log[BLOCK]
    cdef real q[BLOCK]
    cdef Py_ssize_t begin = row * n.O + first, count = rows * width, i
    cdef const real *o = <const real *>n.o + begin
    cdef const real *y = <const real *>n.targets + begin
    cdef const real *w = NULL
    cdef real *d = <real *>n.do + begin
    cdef real high = 1 if n.loss == BINARY else INFINITY
    cdef pyrnn_phi phi
    if n.weights != NULL:
        w = <const real *>n.weights + (begin if n.by_output else row)
    if n.loss == BINARY or n.loss == POISSON:
        if pyrnn_outside_f32(count, y, 0, high) if real is float else pyrnn_outside_f64(count, y, 0, high):
            for i in range(count):  # those that count
                if (y[i] < 0 or y[i] > high) and (w == NULL or w[i if n.by_output else i // width] != 0):
                    return False
    if n.loss == SQUARED:
        if real is float:
            pyrnn_squared_f32(count, o, y, losses, d)
        else:
            pyrnn_squared_f64(count, o, y, losses, d)
    elif n.loss == HUBER:
        if real is float:
            pyrnn_huber_f32(count, o, y, <float>n.delta, losses, d)
        else:
            pyrnn_huber_f64(count, o, y, n.delta, losses, d)
    elif n.loss == POISSON:
        exp(count, o, q)
        if real is float:
            pyrnn_poisson_f32(count, o, y, q, losses, d)
        else:
            pyrnn_poisson_f64(count, o, y, q, losses, d)
    else:
        if real is float:
            pyrnn_minus_f32(count, o, q)
        else:
            pyrnn_minus_f64(count, o, q)
        memcpy(log, q, count * sizeof(real))
        phi.slope, phi.kind = 0, PYRNN_SIGMOID
        step_forward(1, count, <const real *>NULL, q, count, phi)
        phi.kind = PYRNN_SOFTPLUS
        step_forward(1, count, <const real *>NULL, log, count, phi)
        if real is float:
            pyrnn_binary_f32(count, o, y, log, q, losses, d)
        else:
            pyrnn_binary_f64(count, o, y, log, q, losses, d)
    if real is float:
        pyrnn_weigh_f32(rows, width, w, n.by_output, losses, n.losses + row, d)
    else:
        pyrnn_weigh_f64(rows, width, w, n.by_output, losses, n.losses + row, d)
    return True


# ---- Penalties of rates ---------------------------------------------------------------------------------------------
def of_rates(str penalty, cnp.ndarray rates not None, cnp.ndarray gradient, cnp.ndarray lengths, double factor):
    """Return the sum of a penalty of rates [T, B, n] over the steps that exist; add its gradient times factor.

    rates and gradient contiguous, lengths intp [B] or None.
    """
    cdef int kind = kind_of(rates)
    cdef Py_ssize_t T = cnp.PyArray_DIM(rates, 0), B = cnp.PyArray_DIM(rates, 1)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(rates) // max(T * B, <Py_ssize_t>1)
    cdef int which = PENALTIES[penalty]
    cdef double total
    cdef pyrnn_floating state
    need("rates", rates, kind, T * B * n)
    need("gradient", gradient, kind, T * B * n, True)
    if lengths is not None:
        need("lengths", lengths, cnp.NPY_INTP, B)
    cdef const Py_ssize_t *ends = NULL if lengths is None else <const Py_ssize_t *>cnp.PyArray_DATA(lengths)
    cdef const void *r = cnp.PyArray_DATA(rates)
    cdef void *d = cnp.PyArray_DATA(gradient)
    with nogil:
        state = pyrnn_flush()
        if kind == cnp.NPY_FLOAT32:
            total = add_to_rates(which, T, B, n, <const float *>r, ends, <float>factor, <float *>d)
        else:
            total = add_to_rates(which, T, B, n, <const double *>r, ends, factor, <double *>d)
        pyrnn_restore(state)
    return total


cdef double add_to_rates(int which, Py_ssize_t T, Py_ssize_t B, Py_ssize_t n, const real *rates,
                         const Py_ssize_t *lengths, real factor, real *gradient) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t t, b, end, at, ld = B * n
    if lengths == NULL and which != CHANGE:
        return sizes(T * ld, which == L2, rates, factor, gradient)
    for t in range(T):
        for b in range(B):
            end = T if lengths == NULL else lengths[b]
            if t >= end:
                continue
            at = t * ld + b * n
            if which == CHANGE:
                total += changes(n, rates + at, ld, t > 0, t + 1 < end, factor, gradient + at)
            else:
                total += sizes(n, which == L2, rates + at, factor, gradient + at)
    return total


cdef double sizes(Py_ssize_t n, bint squared, const real *r, real factor, real *d) noexcept nogil:
    """Σ r² or Σ |r|, and their gradients."""
    cdef double s[SUMS]
    cdef Py_ssize_t i, j
    if squared:
        add_multiple(n, 2 * factor, r, d)
        return dot(n, r, r, 1)
    for j in range(SUMS):
        s[j] = 0
    for i in range(n // SUMS):
        for j in range(SUMS):
            s[j] += fabs(<double>r[i * SUMS + j])
    for i in range(n - n % SUMS, n):
        s[i % SUMS] += fabs(<double>r[i])
    for i in range(n):
        d[i] += factor * ((r[i] > 0) - <int>(r[i] < 0))
    return sum_of(s)


cdef double changes(Py_ssize_t n, const real *r, Py_ssize_t ld, bint before, bint behind, real factor,
                    real *d) noexcept nogil:
    """Σ (r_t - r_{t-1})² of one step, and the gradient of r_t, whose change to the next step counts too."""
    cdef double s[SUMS]
    cdef real change
    cdef Py_ssize_t i, j
    for j in range(SUMS):
        s[j] = 0
    if before:
        for i in range(n // SUMS):
            for j in range(SUMS):
                change = r[i * SUMS + j] - r[i * SUMS + j - ld]
                s[j] += <double>change * change
        for i in range(n - n % SUMS, n):
            change = r[i] - r[i - ld]
            s[i % SUMS] += <double>change * change
        for i in range(n):
            d[i] += 2 * factor * (r[i] - r[i - ld])
    if behind:
        for i in range(n):
            d[i] -= 2 * factor * (r[i + ld] - r[i])
    return sum_of(s)


cdef double sum_of(double *s) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(1, SUMS):
        s[0] += s[j]
    return s[0]
