"""Gradients carried forward in time: the influence of the parameters on the state, exact or in part, step by step.

With a_t = b + U x_t + W h_{t-1} and z_t = (h_{t-1}, x_t, 1), the parameter in row i and column j of (W, U, b) moves a_t
by z_t[j] in unit i alone. `slopes` say what that makes of h_t, and J = dh_t/dh_{t-1} what the step makes of all earlier
influence. Every form of the cell is these three: z, slopes, J.

- The influence P [B, H, C, H] has a row of H numbers for each parameter: P[i, j] = dh_t/d(parameter i, j). Its columns
  j are W's, U's, b's, with a leak one for alpha, and the last for h0. So a step is P <- P Jᵀ, a product with packed
  panels whatever the form, and one number more in each row.
- It needs no second copy of P. P lies in memory with room for one block of rows more; a step moves all rows by that
  block, down and up in turn, and writes what it makes of a block where the block before was.
- Over a block of T steps, P <- P Kᵀ + sum_t (dh_T/da_t) z_tᵀ, with K = dh_T/dh_0. The sum is H products of matrices
  [C, T] and [T, H].
- Traces [B, H, C - 1] are an influence of unit i on itself alone: one number for each parameter.
"""

cimport numpy as cnp
from libc.math cimport sqrt
from libc.string cimport memcpy, memset

from pyrnn._arrays cimport data, empty, interrupted, line, lines, padded, pass_on, real, stride
from pyrnn._kernels cimport kernels
from pyrnn._scratch cimport Scratch
from pyrnn._typed cimport (
    gemm, jacobian_step, pack, pack_transposed, panels_size, product, step_backward, step_forward, transpose,
)
from pyrnn._wait cimport pyrnn_seconds

cnp.import_array()

# Bytes of a block of rows: what a step writes stays in the first- or second-level cache until it is read again.
cdef enum:
    BLOCK_BYTES = 96 << 10


# ---- One step as the influence sees it ------------------------------------------------------------------------------
cdef void immediate_typed(real tag, Py_ssize_t rows, Py_ssize_t I, Py_ssize_t H, const real *x, Py_ssize_t ld_x,
                          const real *past, const real *h, const real *rates, real *z, real *slopes, real *moved,
                          const real *alpha, int phi, bint current) noexcept nogil:
    cdef Py_ssize_t Z = H + I + 1, r, i
    cdef real one = 1
    for r in range(rows):
        memcpy(z + r * Z, past + r * H, H * sizeof(real))
        memcpy(z + r * Z + H, x + r * ld_x, I * sizeof(real))
        z[r * Z + H + I] = 1
        for i in range(H):
            slopes[r * H + i] = one if alpha == NULL else alpha[i]
    if current:  # W multiplies phi(h_{t-1}), and the sum goes into h_t as it is
        step_forward(rows, H, <const real *>NULL, z, Z, phi)
    else:
        step_backward(rows, H, rates, H, slopes, H, <const real *>NULL, 0, <real *>NULL, 0, slopes, H, phi)
    if alpha != NULL:  # dh_t/dalpha, as in backward
        for r in range(rows):
            for i in range(H):
                moved[r * H + i] = ((h[r * H + i] - past[r * H + i]) / alpha[i] if current
                                    else rates[r * H + i] - past[r * H + i])


def immediate(cnp.ndarray x, cnp.ndarray past, cnp.ndarray h, cnp.ndarray rates, tuple cell):
    """(z, slopes, moved, point) of steps in rows: past [rows, H] to h with input x [rows, I].

    z [rows, H + I + 1] is what the parameters multiply, slopes [rows, H] is dh/da, moved dh/dalpha, None without alpha,
    and point [rows, H] the values of phi at which the Jacobian is made. x has contiguous rows, the others are
    contiguous; rates is None but in the rate form with alpha. cell: number of phi, alpha [H] or None, current.
    """
    cdef int phi
    cdef cnp.ndarray alpha, moved, z, slopes
    cdef bint current
    phi, alpha, current = cell
    cdef Py_ssize_t rows = x.shape[0], I = x.shape[1], H = h.shape[1]
    z, slopes = empty(h, (rows, H + I + 1)), empty(h, (rows, H))
    moved = None if alpha is None else empty(h, (rows, H))
    cdef cnp.ndarray r = h if rates is None else rates
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        immediate_typed(<float>0, rows, I, H, <const float *>data(x), stride(x, 0), <const float *>data(past),
                        <const float *>data(h), <const float *>data(r), <float *>data(z), <float *>data(slopes),
                        <float *>data(moved), <const float *>data(alpha), phi, current)
    else:
        immediate_typed(<double>0, rows, I, H, <const double *>data(x), stride(x, 0), <const double *>data(past),
                        <const double *>data(h), <const double *>data(r), <double *>data(z), <double *>data(slopes),
                        <double *>data(moved), <const double *>data(alpha), phi, current)
    return z, slopes, moved, z[:, :H] if current else r


# ---- The influence --------------------------------------------------------------------------------------------------
cdef Py_ssize_t block_rows(Py_ssize_t H, Py_ssize_t itemsize) noexcept nogil:
    return max(BLOCK_BYTES // (padded(max(H, 1), itemsize) * itemsize) // 24 * 24, <Py_ssize_t>24)


def influence_memory(cnp.ndarray like, Py_ssize_t B, Py_ssize_t H, Py_ssize_t C):
    """Memory of an influence, zero, of the dtype of `like`."""
    cdef cnp.ndarray memory
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(like), ld = padded(H, size)
    memory = lines(like, (B * H * C + block_rows(H, size)) * ld)
    memset(data(memory), 0, cnp.PyArray_NBYTES(memory))
    return memory


def influence_rows(cnp.ndarray memory, bint high, Py_ssize_t B, Py_ssize_t H, Py_ssize_t C):
    """A view [B, H, C, H] of the influence in it, which lies at the end of the memory or, not `high`, at its start."""
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


cdef int move(Py_ssize_t H, Py_ssize_t Z, Py_ssize_t C, const real *panels_J, const real *z, const real *slopes,
              const real *moved, const real *dh, real *G, real *P, Py_ssize_t ld, Py_ssize_t block, bint high,
              double *since) noexcept nogil:
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
        product(n, H, H, source, ld, panels_J, <const real *>NULL, 0, target, ld)
        if z != NULL:
            add_immediate(first, n, Z, C, z, slopes, moved, target, ld)
        if G != NULL:
            gemm(False, False, n, 1, H, target, ld, dh, 1, False, G + first, 1)
        done += n
        if interrupted(since):
            return -1
    return 0


cdef object advance_typed(real tag, cnp.ndarray memory, bint high, Py_ssize_t C, tuple step, cnp.ndarray W, tuple cell,
                          cnp.ndarray dh):
    cdef cnp.ndarray z, slopes, moved, point, alpha, gradients = None
    cdef int phi, status = 0
    cdef bint current
    z, slopes, moved, point = step
    phi, alpha, current = cell
    cdef Scratch scratch = Scratch()
    cdef Py_ssize_t B = z.shape[0], Z = z.shape[1], H = W.shape[0], size = sizeof(real), ld = padded(H, size), k, b
    cdef Py_ssize_t block = block_rows(H, size), rows = H * C, ld_point = stride(point, 0)
    cdef real *P = <real *>line(memory) + (block * ld if high else 0)
    cdef real *J = <real *>scratch.take(H * H * size)
    cdef real *panels = <real *>scratch.take(panels_size(H, H, size) * size)
    cdef real *G = NULL
    if dh is not None:
        gradients = empty(W, (B, H, C))
        G = <real *>data(gradients)
    cdef const real *pz = <const real *>data(z)
    cdef const real *ps = <const real *>data(slopes)
    cdef const real *pm = <const real *>data(moved)
    cdef const real *pp = <const real *>data(point)
    cdef const real *pd = <const real *>data(dh)
    cdef const real *pa = <const real *>data(alpha)
    cdef const real *pW = <const real *>data(W)
    cdef double since = pyrnn_seconds()
    with nogil:
        for k in range(B):
            b = k if high else B - 1 - k
            jacobian_step(H, pp + b * ld_point, pW, H, J, pa, phi, current)
            pack_transposed(H, H, J, H, panels)
            status = move(H, Z, C, panels, pz + b * Z, ps + b * H, pm + b * H if pm != NULL else pm,
                          pd + b * H if pd != NULL else pd, G + b * rows if G != NULL else G, P + b * rows * ld, ld,
                          block, high, &since)
            if status:
                break
    pass_on(status)
    return gradients


def advance(cnp.ndarray memory, bint high, Py_ssize_t C, tuple step, cnp.ndarray W, tuple cell, cnp.ndarray dh):
    """One step of the influence, after which it lies at the other end of its memory; its gradients [B, H, C] for dh.

    step: of `immediate`, one row for each sequence; dh [B, H] contiguous, or None for no gradients.
    """
    if cnp.PyArray_TYPE(W) == cnp.NPY_FLOAT32:
        return advance_typed(<float>0, memory, high, C, step, W, cell, dh)
    return advance_typed(<double>0, memory, high, C, step, W, cell, dh)


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


cdef cnp.ndarray contract_typed(real tag, cnp.ndarray memory, bint high, Py_ssize_t C, cnp.ndarray dh):
    cdef Py_ssize_t B = dh.shape[0], H = dh.shape[1], size = sizeof(real), ld = padded(H, size)
    cdef Py_ssize_t block = block_rows(H, size)
    cdef cnp.ndarray G = empty(dh, (B, H, C))
    cdef const real *P = <const real *>line(memory) + (block * ld if high else 0)
    cdef const real *d = <const real *>data(dh)
    cdef real *g = <real *>data(G)
    cdef int status
    with nogil:
        status = contract_loop(B, H * C, H, P, ld, block, d, g)
    pass_on(status)
    return G


def contract(cnp.ndarray memory, bint high, Py_ssize_t C, cnp.ndarray dh):
    """G [B, H, C] = P dh for dh [B, H] contiguous."""
    if cnp.PyArray_TYPE(dh) == cnp.NPY_FLOAT32:
        return contract_typed(<float>0, memory, high, C, dh)
    return contract_typed(<double>0, memory, high, C, dh)


# ---- A block of steps -----------------------------------------------------------------------------------------------
cdef int block_of_one(Py_ssize_t T, Py_ssize_t B, Py_ssize_t H, Py_ssize_t Z, Py_ssize_t C, const real *z,
                      const real *slopes, const real *moved, const real *point, Py_ssize_t ld_point, const real *W,
                      const real *alpha, int phi, bint current, real *P, Py_ssize_t ld, Py_ssize_t rows_block,
                      bint high, real *J, real *K, real *K_next, real *panels, real *M, real *of_alpha,
                      double *since) noexcept nogil:
    """The steps of one sequence, whose rows of z and the like lie B rows apart, as those of P."""
    cdef Py_ssize_t t, i, k
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
        jacobian_step(H, point + t * B * ld_point, W, H, J, alpha, phi, current)
        pack(H, 0, H, 1, H, J, H, 0, panels)
        product(H, H, H, K, H, panels, <const real *>NULL, 0, K_next, H)
        K, K_next = K_next, K
        if interrupted(since):
            return -1
    pack_transposed(H, H, K, H, panels)
    if move(H, Z, C, panels, <const real *>NULL, <const real *>NULL, <const real *>NULL, <const real *>NULL,
            <real *>NULL, P, ld, rows_block, high, since):
        return -1
    P += (-rows_block if high else rows_block) * ld
    for i in range(H):
        # P[i, j] += sum_t z_t[j] M_t[i]
        pack(T, 0, T, 1, H, M + i * ld, H * ld, 0, panels)
        if real is float:
            kernels().outer_f32(T, Z, H, z, B * Z, panels, 1, P + i * C * ld, ld)
        else:
            kernels().outer_f64(T, Z, H, z, B * Z, panels, 1, P + i * C * ld, ld)
        if moved != NULL:
            for k in range(H):
                P[(i * C + Z) * ld + k] += of_alpha[i * ld + k]
        if interrupted(since):
            return -1
    return 0


cdef object advance_block_typed(real tag, cnp.ndarray memory, bint high, Py_ssize_t C, Py_ssize_t B, tuple steps,
                                cnp.ndarray W, tuple cell):
    cdef cnp.ndarray z, slopes, moved, point, alpha
    cdef int phi, status = 0
    cdef bint current
    z, slopes, moved, point = steps
    phi, alpha, current = cell
    cdef Scratch scratch = Scratch()
    cdef Py_ssize_t Z = z.shape[1], H = W.shape[0], size = sizeof(real), ld = padded(H, size), k, b
    cdef Py_ssize_t T = z.shape[0] // B if B > 0 else 0, block = block_rows(H, size), ld_point = stride(point, 0)
    cdef real *P = <real *>line(memory) + (block * ld if high else 0)
    cdef real *J = <real *>scratch.take(H * H * size)
    cdef real *K = <real *>scratch.take(2 * H * H * size)
    cdef real *panels = <real *>scratch.take(panels_size(max(H, T), H, size) * size)
    cdef real *M = <real *>scratch.take((T + 1) * H * ld * size)
    cdef const real *pz = <const real *>data(z)
    cdef const real *ps = <const real *>data(slopes)
    cdef const real *pm = <const real *>data(moved)
    cdef const real *pp = <const real *>data(point)
    cdef const real *pa = <const real *>data(alpha)
    cdef const real *pW = <const real *>data(W)
    cdef double since = pyrnn_seconds()
    with nogil:
        for k in range(B):
            b = k if high else B - 1 - k
            status = block_of_one(T, B, H, Z, C, pz + b * Z, ps + b * H, pm + b * H if pm != NULL else pm,
                                  pp + b * ld_point, ld_point, pW, pa, phi, current, P + b * H * C * ld, ld, block,
                                  high, J, K, K + H * H, panels, M, M + T * H * ld, &since)
            if status:
                break
    pass_on(status)


def advance_block(cnp.ndarray memory, bint high, Py_ssize_t C, Py_ssize_t B, tuple steps, cnp.ndarray W, tuple cell):
    """`advance` by all steps, of `immediate` with rows [T, B], at once."""
    if cnp.PyArray_TYPE(W) == cnp.NPY_FLOAT32:
        advance_block_typed(<float>0, memory, high, C, B, steps, W, cell)
    else:
        advance_block_typed(<double>0, memory, high, C, B, steps, W, cell)


# ---- Traces: one number a parameter ---------------------------------------------------------------------------------
cdef void trace_typed(real tag, cnp.ndarray trace, tuple step, cnp.ndarray W, tuple cell, bint recurrent) noexcept:
    cdef cnp.ndarray z, slopes, moved, point, alpha
    cdef bint current
    cdef int phi
    z, slopes, moved, point = step
    phi, alpha, current = cell
    cdef Py_ssize_t B = z.shape[0], Z = z.shape[1], H = W.shape[0], C = trace.shape[2], ld_point = stride(point, 0)
    cdef Py_ssize_t b, i, j
    cdef const real *row_z
    cdef const real *s = <const real *>data(slopes)
    cdef const real *m = <const real *>data(moved)
    cdef const real *a = <const real *>data(alpha)
    cdef const real *w = <const real *>data(W)
    cdef const real *p
    cdef real *e = <real *>data(trace)
    cdef real kept, slope, phi_slope
    with nogil:
        for b in range(B):
            row_z = <const real *>data(z) + b * Z
            p = <const real *>data(point) + b * ld_point
            for i in range(H):
                slope = s[b * H + i]
                kept = 0 if a == NULL else 1 - a[i]
                if recurrent:  # the diagonal of the Jacobian
                    phi_slope = slope
                    if current:
                        step_backward(1, 1, p + i, 1, a + i, 1, <const real *>NULL, 0, <real *>NULL, 0, &phi_slope, 1,
                                      phi)
                    kept = kept + phi_slope * w[i * H + i]
                for j in range(Z):
                    e[j] = kept * e[j] + slope * row_z[j]
                if C > Z:
                    e[Z] = kept * e[Z] + m[b * H + i]
                e += C


def advance_trace(cnp.ndarray trace, tuple step, cnp.ndarray W, tuple cell, bint recurrent):
    """One step of a trace [B, H, C]: what is kept of unit i is J[i, i], or 1 - alpha[i] where not `recurrent`."""
    if cnp.PyArray_TYPE(W) == cnp.NPY_FLOAT32:
        trace_typed(<float>0, trace, step, W, cell, recurrent)
    else:
        trace_typed(<double>0, trace, step, W, cell, recurrent)


cdef void scaled_sum(real tag, cnp.ndarray trace, cnp.ndarray factors, cnp.ndarray out) noexcept:
    cdef Py_ssize_t B = trace.shape[0], H = trace.shape[1], C = trace.shape[2], b, i, j
    cdef const real *e = <const real *>data(trace)
    cdef const real *f = <const real *>data(factors)
    cdef real *g
    cdef real factor
    with nogil:
        for b in range(B):
            g = <real *>data(out)
            for i in range(H):
                factor = f[b * H + i]
                for j in range(C):
                    g[j] = factor * e[j] if b == 0 else g[j] + factor * e[j]
                e += C
                g += C


def contract_trace(cnp.ndarray trace, cnp.ndarray factors):
    """G [H, C], the sum over sequences of trace [B, H, C] with rows scaled by factors [B, H], both contiguous."""
    cdef cnp.ndarray G = empty(trace, (trace.shape[1], trace.shape[2]), trace.shape[0] == 0)
    if cnp.PyArray_TYPE(trace) == cnp.NPY_FLOAT32:
        scaled_sum(<float>0, trace, factors, G)
    else:
        scaled_sum(<double>0, trace, factors, G)
    return G


# ---- A random influence of rank one ---------------------------------------------------------------------------------
cdef enum:
    LANES = 8  # sums side by side: one after the other each waits for the one before


cdef double norm(Py_ssize_t n, const real *a) noexcept nogil:
    cdef double sums[LANES]
    cdef double total = 0
    cdef Py_ssize_t i = 0, j
    for j in range(LANES):
        sums[j] = 0
    while i + LANES <= n:
        for j in range(LANES):
            sums[j] += <double>a[i + j] * a[i + j]
        i += LANES
    while i < n:
        sums[0] += <double>a[i] * a[i]
        i += 1
    for j in range(LANES):
        total += sums[j]
    return sqrt(total)


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


cdef void rank_one_typed(real tag, cnp.ndarray v, cnp.ndarray theta, cnp.ndarray signs, tuple step, cnp.ndarray W,
                         tuple cell):
    cdef cnp.ndarray z, slopes, moved, point, alpha
    cdef int phi
    cdef bint current
    z, slopes, moved, point = step
    phi, alpha, current = cell
    cdef Scratch scratch = Scratch()
    cdef Py_ssize_t B = z.shape[0], Z = z.shape[1], H = W.shape[0], C = theta.shape[2], size = sizeof(real), b
    cdef real *J = <real *>scratch.take(H * H * size)
    cdef real *panels = <real *>scratch.take(panels_size(H, H, size) * size)
    cdef real *v_next = <real *>scratch.take(H * size)
    cdef Py_ssize_t ld_point = stride(point, 0)
    cdef const real *pm = <const real *>data(moved)
    with nogil:
        for b in range(B):
            jacobian_step(H, <const real *>data(point) + b * ld_point, <const real *>data(W), H, J,
                          <const real *>data(alpha), phi, current)
            pack_transposed(H, H, J, H, panels)
            rank_one_step(H, Z, C, <const real *>data(z) + b * Z, <const real *>data(slopes) + b * H,
                          pm + b * H if pm != NULL else pm, <const real *>data(signs) + b * H, panels,
                          <real *>data(v) + b * H, v_next, <real *>data(theta) + b * H * C)


def advance_rank_one(cnp.ndarray v, cnp.ndarray theta, cnp.ndarray signs, tuple step, cnp.ndarray W, tuple cell):
    """One step of v [B, H] and theta [B, H, C], with signs [B, H] of 1 and -1, drawn anew."""
    if cnp.PyArray_TYPE(W) == cnp.NPY_FLOAT32:
        rank_one_typed(<float>0, v, theta, signs, step, W, cell)
    else:
        rank_one_typed(<double>0, v, theta, signs, step, W, cell)
