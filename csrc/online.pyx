"""Gradients carried forward in time: the influence of the parameters on the state, exact or in part, step by step.

With a_t = b + U x_t + W h_{t-1} and z_t = (h_{t-1}, x_t, 1), the parameter in row i and column j of (W, U, b) moves a_t
by z_t[j] in unit i alone. `slopes` say what that makes of h_t, and J = dh_t/dh_{t-1} what the step makes of all earlier
influence. Every form of the cell is these three: z, slopes, J.

- The influence P [B, H, C, H] has a row of H numbers for each parameter: P[i, j] = dh_t/d(parameter i, j). Its columns
  j are W's, U's, b's, with a leak one for alpha, and the last for h0. So a step is P <- P Jᵀ, a product with packed
  panels whatever the form, and one number more in each row.
- A few steps go through P at once: P <- P Kᵀ with the product K of their Jacobians, and what each of them adds goes
  through those behind it. Until they do, gradients are those of P for Kᵀ dh, and of the steps that wait.
- It needs no second copy of P. P lies in memory with room for one block of rows more; a step moves all rows by that
  block, down and up in turn, and writes what it makes of a block where the block before was.
- Over a block of T steps, P <- P Kᵀ + sum_t (dh_T/da_t) z_tᵀ, with K = dh_T/dh_0. The sum is H products of matrices
  [C, T] and [T, H].
- Traces [B, H, C - 1] are an influence of unit i on itself alone: one number for each parameter.
"""

cimport numpy as cnp
from libc.math cimport sqrt
from libc.string cimport memcpy, memset

from pyrnn._core.arrays cimport (
    CONTIGUOUS, IN_ROWS, OPTIONAL, WRITTEN, data, empty, interrupted, kind_of, line, lines, need, need_panels, padded,
    pass_on, real, stride,
)
from pyrnn._core.cell cimport Cell, read_cell
from pyrnn._core.numbers cimport norm
from pyrnn._core.scratch cimport Scratch
from pyrnn._core.table cimport flush_subnormals, restore_subnormals
from pyrnn._core.typed cimport (
    gemm, jacobian as jacobian_step, outer, pack, pack_transposed, panels_size, product, step_backward, step_forward,
    transpose,
)
from pyrnn._core.wait cimport pyrnn_seconds

cnp.import_array()

# Bytes of a block of rows: what a step writes stays in the first- or second-level cache until it is read again.
cdef enum:
    BLOCK_BYTES = 96 << 10


# ---- One step as the influence sees it ------------------------------------------------------------------------------
cdef void immediate_typed(real tag, Py_ssize_t rows, Py_ssize_t I, Py_ssize_t H, const real *x, Py_ssize_t ld_x,
                          const real *past, const real *h, const real *rates, real *z, real *slopes, real *moved,
                          const Cell *cell) noexcept nogil:
    cdef Py_ssize_t Z = H + I + 1, r, i
    cdef real one = 1
    cdef const real *alpha = <const real *>cell.alpha
    for r in range(rows):
        memcpy(z + r * Z, past + r * H, H * sizeof(real))
        memcpy(z + r * Z + H, x + r * ld_x, I * sizeof(real))
        z[r * Z + H + I] = 1
        for i in range(H):
            slopes[r * H + i] = one if alpha == NULL else alpha[i]
    if cell.current:  # W multiplies phi(h_{t-1}), and the sum goes into h_t as it is
        step_forward(rows, H, <const real *>NULL, z, Z, cell.phi)
    else:
        step_backward(rows, H, rates, H, slopes, H, <const real *>NULL, 0, <real *>NULL, 0, slopes, H, cell.phi)
    if alpha != NULL:  # dh_t/dalpha, as in backward
        for r in range(rows):
            for i in range(H):
                moved[r * H + i] = ((h[r * H + i] - past[r * H + i]) / alpha[i] if cell.current
                                    else rates[r * H + i] - past[r * H + i])


def immediate(cnp.ndarray x, cnp.ndarray past, cnp.ndarray h, cnp.ndarray rates, cell):
    """(z, slopes, moved, point) of steps in rows: past [rows, H] to h with input x [rows, I].

    z [rows, H + I + 1] is what the parameters multiply, slopes [rows, H] is dh/da, moved dh/dalpha, None without alpha,
    and point [rows, H] the values of phi at which the Jacobian is made. x has contiguous rows, the others are
    contiguous; rates is None but in the rate form with alpha.
    """
    cdef cnp.ndarray moved, z, slopes
    cdef Cell of
    cdef int kind = kind_of("h", h, 2)
    kind_of("x", x, 2)
    cdef Py_ssize_t rows = x.shape[0], I = x.shape[1], H = h.shape[1]
    need("x", x, kind, IN_ROWS, 2, rows, I)
    need("past", past, kind, CONTIGUOUS, 2, rows, H)
    need("h", h, kind, CONTIGUOUS, 2, rows, H)
    read_cell(cell, H, h, &of)
    need("rates", rates, kind, CONTIGUOUS | (0 if of.leaky and not of.current else OPTIONAL), 2, rows, H)
    z, slopes = empty(h, (rows, H + I + 1)), empty(h, (rows, H))
    moved = empty(h, (rows, H)) if of.leaky else None
    cdef cnp.ndarray r = h if rates is None else rates
    flush_subnormals()
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        immediate_typed(<float>0, rows, I, H, <const float *>data(x), stride(x, 0), <const float *>data(past),
                        <const float *>data(h), <const float *>data(r), <float *>data(z), <float *>data(slopes),
                        <float *>data(moved), &of)
    else:
        immediate_typed(<double>0, rows, I, H, <const double *>data(x), stride(x, 0), <const double *>data(past),
                        <const double *>data(h), <const double *>data(r), <double *>data(z), <double *>data(slopes),
                        <double *>data(moved), &of)
    restore_subnormals()
    return z, slopes, moved, z[:, :H] if of.current else r


cdef struct Step:  # or rows of many
    Py_ssize_t rows, Z, ld_point
    const void *z       # [rows, Z]
    const void *slopes  # [rows, H]
    const void *moved   # [rows, H], or NULL
    const void *point   # [rows, H], ld_point apart
    const void *J       # [rows, H, H], of pending steps


cdef int read_step(given, int kind, Py_ssize_t rows, Py_ssize_t H, Py_ssize_t C, Step *step) except -1:
    """Write to `step` what `immediate` says of one, C numbers for each unit, from a value that has it by these names.

    The value keeps the arrays, and has to stay as long as `step`.
    """
    cdef cnp.ndarray z = given.z, slopes = given.slopes, moved = given.moved, point = given.point
    kind_of("z", z, 2)
    need("z", z, kind, CONTIGUOUS, 2, rows, z.shape[1])
    need("slopes", slopes, kind, CONTIGUOUS, 2, rows, H)
    need("moved", moved, kind, CONTIGUOUS | OPTIONAL, 2, rows, H)
    need("point", point, kind, IN_ROWS, 2, rows, H)
    if z.shape[1] < H + 1 or C != z.shape[1] + (moved is not None):
        raise ValueError(f"{C} parameters of a unit do not fit z of {z.shape[1]}")
    step.rows, step.Z, step.ld_point = rows, z.shape[1], stride(point, 0)
    step.z, step.slopes, step.moved, step.point, step.J = data(z), data(slopes), data(moved), data(point), NULL
    return 0


cdef int read_network(cell, cnp.ndarray W, int kind, Cell *read) except -1:
    """Read the cell of a network; raises ValueError for a W that does not fit."""
    kind_of("W", W, 2)
    need("W", W, kind, CONTIGUOUS, 2, W.shape[0], W.shape[0])
    read_cell(cell, W.shape[0], W, read)
    return 0


cdef int check_influence(cnp.ndarray memory, Py_ssize_t B, Py_ssize_t H, Py_ssize_t C) except -1:
    """Raise ValueError for memory that `influence_memory` has not made for these sizes; returns its type."""
    cdef int kind = kind_of("memory", memory, 1)
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(memory)
    need_panels("memory", memory, kind, (B * H * C + block_rows(H, size)) * padded(H, size))
    return kind


# ---- The influence --------------------------------------------------------------------------------------------------
cdef Py_ssize_t block_rows(Py_ssize_t H, Py_ssize_t itemsize) noexcept nogil:
    return max(BLOCK_BYTES // (padded(max(H, 1), itemsize) * itemsize) // 24 * 24, <Py_ssize_t>24)


def influence_memory(cnp.ndarray like not None, Py_ssize_t B, Py_ssize_t H, Py_ssize_t C):
    """Memory of an influence, zero, of the dtype of `like`."""
    cdef cnp.ndarray memory
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(like), ld = padded(H, size)
    memory = lines(like, (B * H * C + block_rows(H, size)) * ld)
    memset(data(memory), 0, cnp.PyArray_NBYTES(memory))
    return memory


def influence_rows(cnp.ndarray memory, bint high, Py_ssize_t B, Py_ssize_t H, Py_ssize_t C):
    """A view [B, H, C, H] of the influence in it, which lies at the end of the memory or, not `high`, at its start."""
    check_influence(memory, B, H, C)
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(memory), ld = padded(H, size)
    cdef Py_ssize_t first = (<size_t>line(memory) - <size_t>data(memory)) // size
    first += block_rows(H, size) * ld if high else 0
    return memory[first:first + B * H * C * ld].reshape(B, H, C, ld)[..., :H]


cdef inline void add_immediate(Py_ssize_t first, Py_ssize_t n, Py_ssize_t Z, Py_ssize_t C, const real *z,
                               const real *slopes, const real *moved, real *rows, Py_ssize_t ld) noexcept nogil:
    """One number for each of n rows from the parameter of this number on: it moves its own unit alone."""
    cdef Py_ssize_t i = first // C, j = first % C, r
    for r in range(n):
        if j < Z:
            rows[r * ld + i] += slopes[i] * z[j]
        elif j < C - 1:
            rows[r * ld + i] += moved[i]
        j += 1
        if j == C:
            i, j = i + 1, 0


cdef struct Earlier:
    # What steps before the last add to P, through the Jacobians of those behind them.
    Py_ssize_t steps
    const void *z                  # [steps, Z]
    const void *panels             # for each unit i the panels of dh/da_t[i] of all of them
    Py_ssize_t size                # numbers of one of those
    const void *of_alpha           # [H, H]: the sum of dh/dalpha; NULL without


cdef void write_earlier(Py_ssize_t first, Py_ssize_t n, Py_ssize_t H, Py_ssize_t Z, Py_ssize_t C,
                        const Earlier *earlier, real *rows, Py_ssize_t ld) noexcept nogil:
    """That, to n rows from the parameter of this number on."""
    cdef Py_ssize_t i = first // C, j = first % C, m, k, of_z
    cdef const real *z = <const real *>earlier.z
    while n > 0:
        m = min(n, C - j)  # rows of unit i
        of_z = max(min(m, Z - j), <Py_ssize_t>0)
        outer(earlier.steps, of_z, H, z + j, Z, <const real *>earlier.panels + i * earlier.size, False, rows, ld)
        for k in range(of_z, m):
            if earlier.of_alpha != NULL and j + k == Z:
                memcpy(rows + k * ld, <const real *>earlier.of_alpha + i * H, H * sizeof(real))
            else:
                memset(rows + k * ld, 0, H * sizeof(real))
        rows += m * ld
        n -= m
        i, j = i + 1, 0


cdef int move(Py_ssize_t H, Py_ssize_t Z, Py_ssize_t C, const real *panels_J, const Earlier *earlier, const real *z,
              const real *slopes, const real *moved, const real *dh, real *G, real *P, Py_ssize_t ld, Py_ssize_t block,
              bint high, double *since) noexcept nogil:
    """P <- P Jᵀ + the immediate influence, of one sequence, to the rows one block above, or below where it lies high.

    With z NULL without the immediate influence; with G [H, C], G = P dh of the new P.
    """
    cdef Py_ssize_t rows = H * C, done = 0, n, first
    cdef const real *source
    cdef real *target
    while done < rows:
        n = min(block, rows - done)
        first = done if high else rows - done - n  # never over rows that are still to be read
        source = P + first * ld
        target = P + (first - block if high else first + block) * ld
        if earlier != NULL:
            write_earlier(first, n, H, Z, C, earlier, target, ld)
        product(n, H, H, source, ld, panels_J, <const real *>target if earlier != NULL else NULL, ld, target, ld)
        if z != NULL:
            add_immediate(first, n, Z, C, z, slopes, moved, target, ld)
        if G != NULL:
            gemm(False, False, n, 1, H, target, ld, dh, 1, False, G + first, 1)
        done += n
        if interrupted(since):
            return -1
    return 0


cdef cnp.ndarray jacobians_typed(real tag, cnp.ndarray point, cnp.ndarray W, const Cell *cell):
    cdef Py_ssize_t B = point.shape[0], H = W.shape[0], b, ld_point = stride(point, 0)
    cdef cnp.ndarray J = empty(W, (B, H, H))
    for b in range(B):
        jacobian_step(H, <const real *>data(point) + b * ld_point, <const real *>data(W), H,
                      <real *>data(J) + b * H * H, <const real *>cell.alpha, cell.phi, cell.current)
    return J


def jacobians(cnp.ndarray point, cnp.ndarray W, cell):
    """dh_t/dh_{t-1} [B, H, H] of a step, at the point of `immediate` with one row for each sequence."""
    cdef Cell read
    read_network(cell, W, kind_of("W", W, 2), &read)
    kind_of("point", point, 2)
    need("point", point, cnp.PyArray_TYPE(W), IN_ROWS, 2, point.shape[0], W.shape[0])
    if cnp.PyArray_TYPE(W) == cnp.NPY_FLOAT32:
        return jacobians_typed(<float>0, point, W, &read)
    return jacobians_typed(<double>0, point, W, &read)


cdef enum:
    MOST_STEPS = 16  # that go through the influence at once

cdef int read_steps(tuple given, int kind, Py_ssize_t B, Py_ssize_t H, Py_ssize_t C, Step *steps) except -1:
    """Their number, each with Jacobians; C numbers are carried for each unit."""
    cdef cnp.ndarray J
    cdef int n
    if len(given) > MOST_STEPS:
        raise ValueError(f"steps must be {MOST_STEPS} or fewer, got {len(given)}")
    for n in range(len(given)):
        read_step(given[n], kind, B, H, C - 1, steps + n)
        J = given[n].J
        need("J", J, kind, CONTIGUOUS, 3, B, H, H)
        steps[n].J = data(J)
        if steps[n].Z != steps[0].Z:
            raise ValueError("steps must have the same parameters")
    return len(given)


cdef void go_through(real tag, Py_ssize_t b, Py_ssize_t H, Py_ssize_t Z, const Step *steps, int n, real *K,
                     real *K_next, real *M, real *panels, Earlier *earlier, real *z, real *of_units,
                     real *of_alpha) noexcept nogil:
    """Of sequence b: K, the product of the Jacobians of the steps, and what those before the last add through it.

    K and K_next have room for H² numbers, M for (n - 1) H², panels for those of [H, H]; K is the one with the result.
    """
    cdef Py_ssize_t t, i, k
    cdef const real *slopes
    cdef const real *moved
    cdef real *M_t
    memcpy(K, <const real *>steps[n - 1].J + b * H * H, H * H * sizeof(real))
    for t in range(n - 2, -1, -1):
        memcpy(z + t * Z, <const real *>steps[t].z + b * Z, Z * sizeof(real))
        slopes, M_t = <const real *>steps[t].slopes + b * H, M + t * H * H
        transpose(H, H, K, H, M_t)
        if of_alpha != NULL:
            moved = <const real *>steps[t].moved + b * H
            for i in range(H):
                for k in range(H):
                    of_alpha[i * H + k] = M_t[i * H + k] * moved[i] + (of_alpha[i * H + k] if t < n - 2 else 0)
        for i in range(H):
            for k in range(H):
                M_t[i * H + k] *= slopes[i]
        pack(H, 0, H, 1, H, <const real *>steps[t].J + b * H * H, H, 0, panels)
        product(H, H, H, K, H, panels, <const real *>NULL, 0, K_next, H)
        memcpy(K, K_next, H * H * sizeof(real))
    for i in range(H):
        pack(n - 1, 0, n - 1, 1, H, M + i * H, H * H, 0, of_units + i * earlier.size)
    earlier.steps, earlier.z, earlier.panels, earlier.of_alpha = n - 1, z, of_units, of_alpha


cdef object advance_typed(real tag, cnp.ndarray memory, bint high, Py_ssize_t H, Py_ssize_t C, const Step *steps, int n,
                          cnp.ndarray dh):
    cdef Scratch scratch = Scratch()
    cdef Py_ssize_t B = steps[0].rows, Z = steps[0].Z, size = sizeof(real), ld = padded(H, size), k, b
    cdef Py_ssize_t block = block_rows(H, size), rows = H * C
    cdef real *P = <real *>line(memory) + (block * ld if high else 0)
    cdef real *K = <real *>scratch.take(2 * H * H * size)
    cdef real *panels = <real *>scratch.take(panels_size(H, H, size) * size)
    cdef real *M = <real *>scratch.take((n - 1) * H * H * size)
    cdef real *z = <real *>scratch.take((n - 1) * Z * size)
    cdef Earlier earlier
    earlier.size = panels_size(n - 1, H, size)
    cdef real *of_units = <real *>scratch.take(H * earlier.size * size)
    cdef real *of_alpha = NULL if steps[0].moved == NULL else <real *>scratch.take(H * H * size)
    cdef cnp.ndarray gradients = None if dh is None else empty(memory, (B, H, C))
    cdef const Step *last = steps + n - 1
    cdef const real *moved = <const real *>last.moved
    cdef const real *pd = <const real *>data(dh)
    cdef real *G = <real *>data(gradients)
    cdef double since = pyrnn_seconds()
    cdef int status = 0
    with nogil:
        flush_subnormals()
        for k in range(B):
            b = k if high else B - 1 - k
            go_through(tag, b, H, Z, steps, n, K, K + H * H, M, panels, &earlier, z, of_units, of_alpha)
            pack_transposed(H, H, K, H, panels)
            status = move(H, Z, C, panels, &earlier if n > 1 else NULL, <const real *>last.z + b * Z,
                          <const real *>last.slopes + b * H, moved + b * H if moved != NULL else moved,
                          pd + b * H if pd != NULL else pd, G + b * rows if G != NULL else G, P + b * rows * ld, ld,
                          block, high, &since)
            if status:
                break
        restore_subnormals()
    pass_on(status)
    return gradients


def advance(cnp.ndarray memory, bint high, Py_ssize_t C, tuple steps, cnp.ndarray dh):
    """Some steps of the influence, after which it lies at the other end of its memory; its gradients [B, H, C] for dh.

    steps: of each, by these names, what `immediate` says, with one row for each sequence, and J, its `jacobians`; dh
    [B, H] contiguous, or None for no gradients.
    """
    cdef Step read[MOST_STEPS]
    cdef cnp.ndarray J = steps[0].J
    kind_of("J", J, 3)
    cdef Py_ssize_t B = J.shape[0], H = J.shape[1]
    cdef int kind = check_influence(memory, B, H, C), n = read_steps(steps, kind, B, H, C, read)
    need("dh", dh, kind, CONTIGUOUS | OPTIONAL, 2, B, H)
    if cnp.PyArray_TYPE(memory) == cnp.NPY_FLOAT32:
        return advance_typed(<float>0, memory, high, H, C, read, n, dh)
    return advance_typed(<double>0, memory, high, H, C, read, n, dh)


cdef int contract_loop(Py_ssize_t B, Py_ssize_t rows, Py_ssize_t H, const real *P, Py_ssize_t ld, Py_ssize_t block,
                       const real *dh, real *G) noexcept nogil:
    cdef Py_ssize_t b, first, n
    cdef double since = pyrnn_seconds()
    for b in range(B):
        first = 0
        while first < rows:
            n = min(block, rows - first)
            gemm(False, False, n, 1, H, P + (b * rows + first) * ld, ld, dh + b * H, 1, False, G + b * rows + first, 1)
            first += n
            if interrupted(&since):
                return -1
    return 0


cdef void through_steps(Py_ssize_t b, Py_ssize_t H, Py_ssize_t Z, Py_ssize_t C, const Step *steps, int n, real *dh,
                        real *dh_before, real *G) noexcept nogil:
    """Add to G [H, C] of sequence b what the steps themselves give for dh; or, G NULL, replace dh by Kᵀ dh."""
    cdef Py_ssize_t t, i, j
    cdef const real *z
    cdef const real *slopes
    cdef const real *moved
    cdef real delta
    for t in range(n - 1, -1, -1):
        z, slopes = <const real *>steps[t].z + b * Z, <const real *>steps[t].slopes + b * H
        moved = NULL if steps[t].moved == NULL else <const real *>steps[t].moved + b * H
        for i in range(H if G != NULL else 0):
            delta = slopes[i] * dh[i]
            for j in range(Z):
                G[i * C + j] += delta * z[j]
            if moved != NULL:
                G[i * C + Z] += moved[i] * dh[i]
        gemm(False, False, 1, H, H, dh, H, <const real *>steps[t].J + b * H * H, H, False, dh_before, H)
        memcpy(dh, dh_before, H * sizeof(real))


cdef cnp.ndarray contract_typed(real tag, cnp.ndarray memory, bint high, Py_ssize_t C, cnp.ndarray dh,
                                const Step *steps, int n):
    cdef Scratch scratch = Scratch()
    cdef Py_ssize_t B = dh.shape[0], H = dh.shape[1], Z = steps[0].Z if n > 0 else 0, b
    cdef Py_ssize_t size = sizeof(real), ld = padded(H, size), block = block_rows(H, size)
    cdef cnp.ndarray G = empty(dh, (B, H, C))
    cdef const real *P = <const real *>line(memory) + (block * ld if high else 0)
    cdef real *d = <real *>scratch.take((B + 1) * H * size)
    cdef real *g = <real *>data(G)
    cdef int status
    memcpy(d, data(dh), B * H * size)
    with nogil:
        flush_subnormals()
        for b in range(B):
            through_steps(b, H, Z, C, steps, n, d + b * H, d + B * H, <real *>NULL)
        status = contract_loop(B, H * C, H, P, ld, block, <const real *>d, g)
        memcpy(d, data(dh), B * H * size)
        for b in range(B):
            through_steps(b, H, Z, C, steps, n, d + b * H, d + B * H, g + b * H * C)
        restore_subnormals()
    pass_on(status)
    return G


def contract(cnp.ndarray memory, bint high, Py_ssize_t C, cnp.ndarray dh, tuple steps=()):
    """G [B, H, C] = P dh for dh [B, H] contiguous, P with steps as in `advance` that it has not made."""
    cdef Step read[MOST_STEPS]
    kind_of("dh", dh, 2)
    cdef int kind = check_influence(memory, dh.shape[0], dh.shape[1], C)
    cdef int n = read_steps(steps, kind, dh.shape[0], dh.shape[1], C, read)
    need("dh", dh, kind, CONTIGUOUS, 2, dh.shape[0], dh.shape[1])
    if cnp.PyArray_TYPE(dh) == cnp.NPY_FLOAT32:
        return contract_typed(<float>0, memory, high, C, dh, read, n)
    return contract_typed(<double>0, memory, high, C, dh, read, n)


# ---- A block of steps -----------------------------------------------------------------------------------------------
cdef int block_of_one(Py_ssize_t T, Py_ssize_t B, Py_ssize_t b, Py_ssize_t H, Py_ssize_t C, const Step *steps,
                      const real *W, const Cell *cell, real *P, Py_ssize_t ld, Py_ssize_t rows_block, bint high,
                      real *J, real *K, real *K_next, real *panels, real *M, real *of_alpha,
                      double *since) noexcept nogil:
    """The steps of sequence b, whose rows of z and the like are every B-th one; P is its influence."""
    cdef Py_ssize_t Z = steps.Z, ld_point = steps.ld_point, t, i, k
    cdef const real *z = <const real *>steps.z + b * Z
    cdef const real *slopes = <const real *>steps.slopes + b * H
    cdef const real *moved = NULL if steps.moved == NULL else <const real *>steps.moved + b * H
    cdef const real *point = <const real *>steps.point + b * ld_point
    cdef const real *s
    cdef real *M_t
    memset(K, 0, H * H * sizeof(real))
    memset(of_alpha, 0, H * ld * sizeof(real))
    for i in range(H):
        K[i * H + i] = 1
    for t in range(T - 1, -1, -1):
        # M_t [i, k] = dh_T[k]/da_t[i] = K_t[k, i] slopes_t[i],   K_{t-1} = dh_T/dh_{t-1} = K_t J_t
        M_t = M + t * H * ld
        s = slopes + t * B * H
        transpose(H, H, K, H, J)
        for i in range(H):
            for k in range(H):
                M_t[i * ld + k] = J[i * H + k] * s[i]
            if moved != NULL:
                for k in range(H):
                    of_alpha[i * ld + k] += J[i * H + k] * moved[t * B * H + i]
        jacobian_step(H, point + t * B * ld_point, W, H, J, <const real *>cell.alpha, cell.phi, cell.current)
        pack(H, 0, H, 1, H, J, H, 0, panels)
        product(H, H, H, K, H, panels, <const real *>NULL, 0, K_next, H)
        K, K_next = K_next, K
        if interrupted(since):
            return -1
    pack_transposed(H, H, K, H, panels)
    if move(H, Z, C, panels, NULL, <const real *>NULL, <const real *>NULL, <const real *>NULL, <const real *>NULL,
            <real *>NULL, P, ld, rows_block, high, since):
        return -1
    P += (-rows_block if high else rows_block) * ld
    for i in range(H):
        # P[i, j] += sum_t z_t[j] M_t[i]
        pack(T, 0, T, 1, H, M + i * ld, H * ld, 0, panels)
        outer(T, Z, H, z, B * Z, panels, True, P + i * C * ld, ld)
        if moved != NULL:
            for k in range(H):
                P[(i * C + Z) * ld + k] += of_alpha[i * ld + k]
        if interrupted(since):
            return -1
    return 0


cdef object advance_block_typed(real tag, cnp.ndarray memory, bint high, Py_ssize_t C, Py_ssize_t B, const Step *steps,
                                cnp.ndarray W, const Cell *cell):
    cdef Scratch scratch = Scratch()
    cdef Py_ssize_t H = W.shape[0], T = steps.rows // B if B > 0 else 0, k, b
    cdef Py_ssize_t size = sizeof(real), ld = padded(H, size), block = block_rows(H, size)
    cdef int status = 0
    cdef real *P = <real *>line(memory) + (block * ld if high else 0)
    cdef real *J = <real *>scratch.take(H * H * size)
    cdef real *K = <real *>scratch.take(2 * H * H * size)
    cdef real *panels = <real *>scratch.take(panels_size(max(H, T), H, size) * size)
    cdef real *M = <real *>scratch.take((T + 1) * H * ld * size)
    cdef const real *pW = <const real *>data(W)
    cdef double since = pyrnn_seconds()
    with nogil:
        flush_subnormals()
        for k in range(B):
            b = k if high else B - 1 - k
            status = block_of_one(T, B, b, H, C, steps, pW, cell, P + b * H * C * ld, ld, block, high, J, K, K + H * H,
                                  panels, M, M + T * H * ld, &since)
            if status:
                break
        restore_subnormals()
    pass_on(status)


def advance_block(cnp.ndarray memory, bint high, Py_ssize_t C, Py_ssize_t B, steps, cnp.ndarray W, cell):
    """`advance` by all steps, of `immediate` with rows [T, B], at once."""
    cdef cnp.ndarray z = steps.z
    cdef int kind = kind_of("W", W, 2)
    cdef Step read
    cdef Cell of
    read_network(cell, W, check_influence(memory, B, W.shape[0], C), &of)
    kind_of("z", z, 2)
    if B > 0 and z.shape[0] % B:
        raise ValueError(f"steps must have rows of {B} sequences, got {z.shape[0]}")
    read_step(steps, kind, z.shape[0], W.shape[0], C - 1, &read)
    if cnp.PyArray_TYPE(W) == cnp.NPY_FLOAT32:
        advance_block_typed(<float>0, memory, high, C, B, &read, W, &of)
    else:
        advance_block_typed(<double>0, memory, high, C, B, &read, W, &of)


# ---- Traces: one number a parameter ---------------------------------------------------------------------------------
cdef void trace_typed(real tag, cnp.ndarray trace, const Step *step, cnp.ndarray W, const Cell *cell,
                      bint recurrent) noexcept:
    cdef Py_ssize_t B = step.rows, Z = step.Z, H = W.shape[0], C = trace.shape[2], b, i, j
    cdef const real *row_z
    cdef const real *s = <const real *>step.slopes
    cdef const real *m = <const real *>step.moved
    cdef const real *a = <const real *>cell.alpha
    cdef const real *w = <const real *>data(W)
    cdef const real *p
    cdef real *e = <real *>data(trace)
    cdef real kept, slope, phi_slope
    with nogil:
        flush_subnormals()
        for b in range(B):
            row_z = <const real *>step.z + b * Z
            p = <const real *>step.point + b * step.ld_point
            for i in range(H):
                slope = s[b * H + i]
                kept = 0 if a == NULL else 1 - a[i]
                if recurrent:  # the diagonal of the Jacobian
                    phi_slope = slope
                    if cell.current:
                        step_backward(1, 1, p + i, 1, a + i, 1, <const real *>NULL, 0, <real *>NULL, 0, &phi_slope, 1,
                                      cell.phi)
                    kept = kept + phi_slope * w[i * H + i]
                for j in range(Z):
                    e[j] = kept * e[j] + slope * row_z[j]
                if C > Z:
                    e[Z] = kept * e[Z] + m[b * H + i]
                e += C
        restore_subnormals()


def advance_trace(cnp.ndarray trace, step, cnp.ndarray W, cell, bint recurrent):
    """One step of a trace [B, H, C]: what is kept of unit i is J[i, i], or 1 - alpha[i] where not `recurrent`."""
    cdef int kind = kind_of("trace", trace, 3)
    cdef Step read
    cdef Cell of
    read_network(cell, W, kind, &of)
    need("trace", trace, kind, CONTIGUOUS | WRITTEN, 3, trace.shape[0], W.shape[0], trace.shape[2])
    read_step(step, kind, trace.shape[0], W.shape[0], trace.shape[2], &read)
    if cnp.PyArray_TYPE(W) == cnp.NPY_FLOAT32:
        trace_typed(<float>0, trace, &read, W, &of, recurrent)
    else:
        trace_typed(<double>0, trace, &read, W, &of, recurrent)


cdef void scaled_sum(real tag, cnp.ndarray trace, cnp.ndarray factors, cnp.ndarray out) noexcept:
    cdef Py_ssize_t B = trace.shape[0], H = trace.shape[1], C = trace.shape[2], b, i, j
    cdef const real *e = <const real *>data(trace)
    cdef const real *f = <const real *>data(factors)
    cdef real *g
    cdef real factor
    with nogil:
        flush_subnormals()
        for b in range(B):
            g = <real *>data(out)
            for i in range(H):
                factor = f[b * H + i]
                for j in range(C):
                    g[j] = factor * e[j] if b == 0 else g[j] + factor * e[j]
                e += C
                g += C
        restore_subnormals()


def contract_trace(cnp.ndarray trace, cnp.ndarray factors):
    """G [H, C], the sum over sequences of trace [B, H, C] with rows scaled by factors [B, H], both contiguous."""
    cdef int kind = kind_of("trace", trace, 3)
    need("trace", trace, kind, CONTIGUOUS, 3, trace.shape[0], trace.shape[1], trace.shape[2])
    need("factors", factors, kind, CONTIGUOUS, 2, trace.shape[0], trace.shape[1])
    cdef cnp.ndarray G = empty(trace, (trace.shape[1], trace.shape[2]), trace.shape[0] == 0)
    if cnp.PyArray_TYPE(trace) == cnp.NPY_FLOAT32:
        scaled_sum(<float>0, trace, factors, G)
    else:
        scaled_sum(<double>0, trace, factors, G)
    return G


# ---- A random influence of rank one ---------------------------------------------------------------------------------
cdef void rank_one_step(Py_ssize_t H, Py_ssize_t Z, Py_ssize_t C, const real *z, const real *slopes, const real *moved,
                        const real *signs, const real *panels_J, real *v, real *v_next, real *theta) noexcept nogil:
    """v <- rho_0 J v + rho_1 signs,   theta <- theta / rho_0 + (signs immediate) / rho_1."""
    cdef double tiny = 1e-7, of_slopes = norm(H, slopes), of_z = norm(Z, z), of_moved = 0, rho_0, rho_1
    cdef Py_ssize_t i, j
    cdef real factor, keep
    if moved != NULL:
        of_moved = norm(H, moved)
    product(1, H, H, v, H, panels_J, <const real *>NULL, 0, v_next, H)
    # The factors that make the variance least (Tallec and Ollivier 2017).
    rho_0 = sqrt(norm(H * C, theta) / (norm(H, v_next) + tiny)) + tiny
    rho_1 = sqrt(sqrt(of_slopes * of_slopes * of_z * of_z + of_moved * of_moved) / (sqrt(<double>H) + tiny)) + tiny
    keep = <real>(1 / rho_0)
    for i in range(H):
        v[i] = <real>(rho_0 * v_next[i] + rho_1 * signs[i])
        factor = <real>(signs[i] * slopes[i] / rho_1)
        for j in range(Z):
            theta[j] = keep * theta[j] + factor * z[j]
        if moved != NULL:
            theta[Z] = keep * theta[Z] + <real>(signs[i] * moved[i] / rho_1)
        theta += C


cdef void rank_one_typed(real tag, cnp.ndarray v, cnp.ndarray theta, cnp.ndarray signs, const Step *step,
                         cnp.ndarray W, const Cell *cell):
    cdef Scratch scratch = Scratch()
    cdef Py_ssize_t B = step.rows, Z = step.Z, H = W.shape[0], C = theta.shape[2], size = sizeof(real), b
    cdef real *J = <real *>scratch.take(H * H * size)
    cdef real *panels = <real *>scratch.take(panels_size(H, H, size) * size)
    cdef real *v_next = <real *>scratch.take(H * size)
    cdef const real *moved = <const real *>step.moved
    with nogil:
        flush_subnormals()
        for b in range(B):
            jacobian_step(H, <const real *>step.point + b * step.ld_point, <const real *>data(W), H, J,
                          <const real *>cell.alpha, cell.phi, cell.current)
            pack_transposed(H, H, J, H, panels)
            rank_one_step(H, Z, C, <const real *>step.z + b * Z, <const real *>step.slopes + b * H,
                          moved + b * H if moved != NULL else moved, <const real *>data(signs) + b * H, panels,
                          <real *>data(v) + b * H, v_next, <real *>data(theta) + b * H * C)
        restore_subnormals()


def advance_rank_one(cnp.ndarray v, cnp.ndarray theta, cnp.ndarray signs, step, cnp.ndarray W, cell):
    """One step of v [B, H] and theta [B, H, C], with signs [B, H] of 1 and -1, drawn anew; all are contiguous."""
    cdef int kind = kind_of("theta", theta, 3)
    cdef Py_ssize_t B = theta.shape[0], H = theta.shape[1]
    cdef Step read
    cdef Cell of
    read_network(cell, W, kind, &of)
    need("W", W, kind, CONTIGUOUS, 2, H, H)
    need("v", v, kind, CONTIGUOUS | WRITTEN, 2, B, H)
    need("theta", theta, kind, CONTIGUOUS | WRITTEN, 3, B, H, theta.shape[2])
    need("signs", signs, kind, CONTIGUOUS, 2, B, H)
    read_step(step, kind, B, H, theta.shape[2], &read)
    if cnp.PyArray_TYPE(W) == cnp.NPY_FLOAT32:
        rank_one_typed(<float>0, v, theta, signs, &read, W, &of)
    else:
        rank_one_typed(<double>0, v, theta, signs, &read, W, &of)
