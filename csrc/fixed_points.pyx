"""Down the landscape of q(h) = ½|F(h) - h|², from many states at once: where q ends is a fixed or a slow point of F.

F is one step of a cell at a constant input, c = b + U x. With s = alpha ∘ (F(h) - h), D = diag(phi') and all vectors
as rows of memory:

    rate      F(h) = (1 - alpha) h + alpha phi(c + W h)       ∇q = Wᵀ D s - s     D, phi'' at c + W h
              (∇²q) v = Wᵀ (D y + s ∘ phi'' ∘ W v) - y        y = alpha² ∘ (D W v - v)
    current   F(h) = (1 - alpha) h + alpha (c + W phi(h))     ∇q = D Wᵀ s - s     D, phi'' at h
              (∇²q) v = D Wᵀ y - y + Wᵀ s ∘ phi'' ∘ v         y = alpha² ∘ (W D v - v)

So the exact second derivative costs two products with W, no more than that of Gauss and Newton, which leaves out what
has phi''. A step minimises q's quadratic model within a radius by conjugate gradients (Steihaug 1983). All states go
through a product together; a state whose step is found leaves the others to go on.

q and its gradient are in double precision. A step towards a minimum need not be exact, and float is twice as fast: so
the steps have a type of their own, `real`. They are found for a gradient of length 1, which float can hold.
"""

cimport cython
cimport numpy as cnp
from libc.math cimport INFINITY, sqrt
from libc.string cimport memcpy, memset

from pyrnn._core.arrays cimport (
    CONTIGUOUS, WRITTEN, data, empty, interrupted, kind_of, line, lines, need, padded, pass_on, real,
)
from pyrnn._core.cell cimport Cell, read_cell
from pyrnn._core.numbers cimport bends_of, is_bent, slopes_of
from pyrnn._core.scratch cimport Scratch
from pyrnn._core.sequences cimport between
from pyrnn._core.table cimport flush_subnormals, pyrnn_phi, restore_subnormals
from pyrnn._core.typed cimport pack, pack_transposed, panels_size, product, step_forward
from pyrnn._core.wait cimport pyrnn_seconds

cnp.import_array()

# Bytes of one array of a block of states: half a dozen of them, and the panels of W, stay in the second-level cache.
cdef enum:
    BLOCK_BYTES = 64 << 10

# What has become of a state.
cpdef enum:
    GOES_ON
    FIXED  # q is within the tolerance
    SLOW   # q has a minimum above it, or rounding hides any further descent
    LOST   # q or its gradient is no number

# A step that would lower q by less than this fraction is the last one: it is smaller than q's own rounding errors.
cdef double LEAST_DESCENT = 1e-13


cdef struct Map:                  # F
    Py_ssize_t H, ld               # units; the distance of rows in memory of our own
    const double *panels_T         # of Wᵀ: rows times it are W h
    const double *panels           # of W: Wᵀ h
    const float *panels_T_float    # the same for steps in float
    const float *panels_float
    const double *c                # [H]
    const double *alpha            # [H], of ones without a leak
    Cell cell


cdef struct States:
    # Rows of H numbers, contiguous: states, gradients of q, and what ∇²q is made of.
    double *h
    double *gradient
    double *slopes                 # phi'
    double *bends                  # s ∘ phi'', or in the current form Wᵀ s ∘ phi''
    double *q
    double *radius


# ---- q and its derivatives ------------------------------------------------------------------------------------------
cdef inline double dot(Py_ssize_t n, const real *a, const real *b) noexcept nogil:
    """aᵀ b in eight sums of the type of a; that of numbers.pxd has sums in double, in another order."""
    cdef real sums[8]
    cdef real rest = 0
    cdef Py_ssize_t i, j
    for j in range(8):
        sums[j] = 0
    for i in range(n // 8):
        for j in range(8):
            sums[j] += a[8 * i + j] * b[8 * i + j]
    for i in range(n // 8 * 8, n):
        rest += a[i] * b[i]
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7])) + rest


cdef inline void derivatives(Py_ssize_t H, pyrnn_phi phi, double *slopes, double *bends) noexcept nogil:
    """phi' and phi'' for the rates that stand in `slopes`."""
    cdef Py_ssize_t j
    memcpy(bends, slopes, H * sizeof(double))
    slopes_of(H, <const double *>bends, phi, slopes)
    if is_bent(phi):
        bends_of(H, <const double *>bends, phi, bends)
        for j in range(H):
            bends[j] *= slopes[j]
    else:
        memset(bends, 0, H * sizeof(double))


cdef void evaluate(const Map *map, Py_ssize_t rows, const double *h, double *slopes, double *bends, double *gradient,
                   double *q, double *work) noexcept nogil:
    """All that a block of States has, but for h, which is given; rows ld apart."""
    cdef Py_ssize_t H = map.H, ld = map.ld, i, j
    cdef double r
    cdef const double *alpha = map.alpha
    if map.cell.current:
        for i in range(rows):
            memcpy(slopes + i * ld, h + i * ld, H * sizeof(double))
        step_forward(rows, H, <const double *>NULL, slopes, ld, map.cell.phi)
        product(rows, H, H, <const double *>slopes, ld, map.panels_T, map.c, 0, work, ld)
    else:
        product(rows, H, H, h, ld, map.panels_T, map.c, 0, slopes, ld)
        step_forward(rows, H, <const double *>NULL, slopes, ld, map.cell.phi)
    for i in range(rows):  # s, in `work`; in the rate form then D s there, and -s in the gradient
        for j in range(i * ld, i * ld + H):
            work[j] = alpha[j - i * ld] * ((work[j] if map.cell.current else slopes[j]) - h[j])
        q[i] = 0.5 * dot(H, work + i * ld, work + i * ld)
        for j in range(i * ld, i * ld + H):
            work[j] *= alpha[j - i * ld]
        derivatives(H, map.cell.phi, slopes + i * ld, bends + i * ld)
        if not map.cell.current:
            for j in range(i * ld, i * ld + H):
                r = work[j]
                gradient[j] = -r
                bends[j] *= r
                work[j] = r * slopes[j]
    if not map.cell.current:
        product(rows, H, H, <const double *>work, ld, map.panels, <const double *>gradient, ld, gradient, ld)
        return
    product(rows, H, H, <const double *>work, ld, map.panels, <const double *>NULL, 0, gradient, ld)
    for i in range(rows):
        for j in range(i * ld, i * ld + H):
            bends[j] *= gradient[j]
            gradient[j] = slopes[j] * gradient[j] - work[j]


cdef void curvature(const Map *map, Py_ssize_t rows, const Py_ssize_t *which, const real *v, const real *slopes,
                    const real *bends, real *work, real *out) noexcept nogil:
    """out = (∇²q) v, at row which[i] of slopes and bends for row i of v."""
    cdef Py_ssize_t H = map.H, ld = map.ld, i, j
    cdef const real *panels
    cdef const real *panels_T
    cdef const real *none = NULL
    cdef const real *D
    cdef const real *e
    cdef const real *v_i
    cdef real *w
    cdef real *o
    cdef real alpha
    if real is float:
        panels, panels_T = map.panels_float, map.panels_T_float
    else:
        panels, panels_T = map.panels, map.panels_T
    if map.cell.current:
        for i in range(rows):
            D, v_i, w = slopes + which[i] * ld, v + i * ld, work + i * ld
            for j in range(H):
                w[j] = D[j] * v_i[j]
        product(rows, H, H, <const real *>work, ld, panels_T, none, 0, out, ld)
    else:
        product(rows, H, H, v, ld, panels_T, none, 0, work, ld)
    for i in range(rows):  # -y, in `out`, or in the current form in `work`
        D, e, v_i, w, o = slopes + which[i] * ld, bends + which[i] * ld, v + i * ld, work + i * ld, out + i * ld
        if map.cell.current:
            for j in range(H):
                alpha = <real>map.alpha[j]
                w[j] = alpha * alpha * (v_i[j] - o[j])
        else:
            for j in range(H):
                alpha = <real>map.alpha[j]
                o[j] = alpha * alpha * (v_i[j] - D[j] * w[j])
                w[j] = e[j] * w[j] - D[j] * o[j]
    if not map.cell.current:
        product(rows, H, H, <const real *>work, ld, panels, <const real *>out, ld, out, ld)
        return
    product(rows, H, H, <const real *>work, ld, panels, none, 0, out, ld)
    for i in range(rows):
        D, e, v_i, w, o = slopes + which[i] * ld, bends + which[i] * ld, v + i * ld, work + i * ld, out + i * ld
        for j in range(H):
            o[j] = w[j] - D[j] * o[j] + e[j] * v_i[j]


# ---- One step -------------------------------------------------------------------------------------------------------
cdef struct Step:
    # Of one state: its step so far, in numbers that conjugate gradients carry along.
    double residual                # |r|², r = -∇q - (∇²q) step
    double enough                  # |r|² at which it is good enough
    double pp, xp, xx              # |p|², <step, p> and |step|², p the direction
    double descent                 # of q, by its model
    bint at_edge


cdef inline double to_edge(const Step *step, double radius) noexcept nogil:
    """How far along p the radius is."""
    cdef double room = radius * radius - step.xx
    return (sqrt(step.xp * step.xp + step.pp * max(room, 0)) - step.xp) / step.pp


cdef bint advance(Py_ssize_t H, Step *step, double radius, real *p, const real *Bp, real *x,
                  real *r) noexcept nogil:
    """One iteration of conjugate gradients for a state; False where its step x is found."""
    cdef double pBp = dot(H, <const real *>p, Bp), length = step.residual / pBp, new
    cdef real some, fraction
    cdef Py_ssize_t j
    if not pBp > 0 or step.xx + length * (2 * step.xp + length * step.pp) >= radius * radius:
        length = to_edge(step, radius)
        step.descent += length * (step.residual - 0.5 * length * pBp)
        step.at_edge = True
        some = <real>length
        for j in range(H):
            x[j] += some * p[j]
        return False
    some = <real>length
    for j in range(H):
        x[j] += some * p[j]
        r[j] -= some * Bp[j]
    new = dot(H, <const real *>r, <const real *>r)
    step.descent += 0.5 * length * step.residual
    step.xx += length * (2 * step.xp + length * step.pp)
    if not new > step.enough:
        return False
    fraction = <real>(new / step.residual)
    for j in range(H):
        p[j] = r[j] + fraction * p[j]
    step.xp = fraction * (step.xp + length * step.pp)
    step.pp = new + fraction * fraction * step.pp
    step.residual = new
    return True


cdef int find_steps(const Map *map, Py_ssize_t rows, Step *steps, const double *radius, const real *slopes,
                    const real *bends, Py_ssize_t *which, real *p, real *x, real *r, real *work, real *Bp,
                    Py_ssize_t *products, double *since) noexcept nogil:
    """The steps x of a block, for r = -∇q; -1 after Ctrl-C. How many products that takes is added to `products`."""
    cdef Py_ssize_t H = map.H, ld = map.ld, live = 0, i, k, _
    for i in range(rows):
        if steps[i].residual > 0:
            which[live] = i
            memcpy(p + live * ld, r + i * ld, H * sizeof(real))
            live += 1
    for _ in range(2 * H + 10):  # H in exact arithmetic
        if live == 0:
            break
        if interrupted(since):
            return -1
        curvature(map, live, which, <const real *>p, slopes, bends, work, Bp)
        products[0] += live
        for i in range(live - 1, -1, -1):
            k = which[i]
            if not advance(H, &steps[k], radius[k], p + i * ld, <const real *>(Bp + i * ld), x + k * ld, r + k * ld):
                live -= 1
                if i < live:
                    which[i] = which[live]
                    memcpy(p + i * ld, p + live * ld, H * sizeof(real))
    return 0


cdef char judge(const Step *step, double length, double tolerance, double q, double new_q, double size, double *radius,
                bint *accept) noexcept nogil:
    """What has become of a state, whether its step is taken, and its next radius."""
    cdef double ratio = (q - new_q) / step.descent
    cdef bint last = not step.at_edge and step.descent <= LEAST_DESCENT * q
    accept[0] = False
    if not (step.descent < INFINITY and length < INFINITY):
        return LOST
    accept[0] = ratio > 1e-4 or (last and new_q <= q * (1 + 1e-9))
    if new_q <= tolerance and accept[0]:
        return FIXED
    if last:
        return SLOW
    if not ratio >= 0.25:
        radius[0] = 0.25 * length
    elif ratio > 0.75 and step.at_edge:
        radius[0] = 2 * length
    return GOES_ON if radius[0] > 1e-15 * size else SLOW


cdef int descend_block(real tag, const Map *map, States *states, Py_ssize_t rows, const Py_ssize_t *which,
                       double tolerance, char *outcomes, Py_ssize_t block, void *memory, Py_ssize_t *products,
                       double *since) noexcept nogil:
    """One step for a block of states; -1 after Ctrl-C."""
    cdef Py_ssize_t H = map.H, ld = map.ld, size = block * ld, i, j, k
    cdef double *h = <double *>memory  # where the steps lead, and what is there
    cdef double *new_slopes = h + size
    cdef double *new_bends = new_slopes + size
    cdef double *gradient = new_bends + size
    cdef double *space = gradient + size
    cdef double *radius = space + size
    cdef double *q = radius + block
    cdef double *lengths = q + block
    cdef Step *steps = <Step *>(lengths + block)
    cdef Py_ssize_t *live = <Py_ssize_t *>(steps + block)
    cdef real *slopes = <real *>(live + block)
    cdef real *bends = slopes + size
    cdef real *x = bends + size
    cdef real *r = x + size
    cdef real *p = r + size
    cdef real *work = p + size
    cdef real *Bp = work + size
    cdef double length, accuracy
    cdef bint accept
    for i in range(rows):
        k = which[i] * H
        lengths[i] = length = sqrt(dot(H, <const double *>(states.gradient + k), <const double *>(states.gradient + k)))
        for j in range(H):
            slopes[i * ld + j], bends[i * ld + j] = <real>states.slopes[k + j], <real>states.bends[k + j]
            x[i * ld + j], r[i * ld + j] = 0, <real>(-states.gradient[k + j] / length)
        steps[i].residual = steps[i].pp = 1 if 0 < length < INFINITY else 0
        radius[i] = states.radius[which[i]] / length
        accuracy = min(0.5, sqrt(length))  # ever better near the end: faster than linear (Dembo, Steihaug 1983)
        steps[i].enough = accuracy * accuracy
        steps[i].xp = steps[i].xx = steps[i].descent = 0
        steps[i].at_edge = False
    if find_steps(map, rows, steps, radius, <const real *>slopes, <const real *>bends, live, p, x, r, work, Bp,
                  products, since):
        return -1
    for i in range(rows):
        k = which[i] * H
        for j in range(H):
            h[i * ld + j] = states.h[k + j] + lengths[i] * x[i * ld + j]
    evaluate(map, rows, h, new_slopes, new_bends, gradient, q, space)
    for i in range(rows):
        k = which[i]
        length = states.radius[k] if steps[i].at_edge else lengths[i] * sqrt(steps[i].xx)
        steps[i].descent *= lengths[i] * lengths[i]
        outcomes[i] = judge(&steps[i], length, tolerance, states.q[k], q[i],
                            1 + sqrt(dot(H, <const double *>(h + i * ld), <const double *>(h + i * ld))),
                            &states.radius[k], &accept)
        if accept:
            states.q[k] = q[i]
            memcpy(states.h + k * H, h + i * ld, H * sizeof(double))
            memcpy(states.gradient + k * H, gradient + i * ld, H * sizeof(double))
            memcpy(states.slopes + k * H, new_slopes + i * ld, H * sizeof(double))
            memcpy(states.bends + k * H, new_bends + i * ld, H * sizeof(double))
    return 0


@cython.final
@cython.auto_pickle(False)
cdef class Landscape:
    """q of one cell at one input: W [H, H] and c [H], contiguous float64."""
    cdef Map map
    cdef cnp.ndarray c, alpha, memory

    def __cinit__(self, cnp.ndarray W not None, cnp.ndarray c not None, cell):
        need("c", c, cnp.NPY_FLOAT64, CONTIGUOUS, 1, cnp.PyArray_SIZE(c))
        need("W", W, cnp.NPY_FLOAT64, CONTIGUOUS, 2, c.shape[0], c.shape[0])
        cdef Py_ssize_t H = c.shape[0], size = panels_size(H, H, sizeof(double))
        cdef Py_ssize_t size_float = panels_size(H, H, sizeof(float))
        cdef cnp.ndarray W_float = W.astype("f4")
        self.c, self.alpha = c, read_cell(cell, H, c, &self.map.cell)
        if self.alpha is None:
            self.alpha = empty(c, (H,))
            self.alpha.fill(1)
        self.memory = lines(c, 2 * size + size_float + 3 * 8)
        cdef double *panels = <double *>line(self.memory)
        cdef float *panels_float = <float *>(panels + 2 * size)
        pack(H, 0, H, 1, H, <const double *>data(W), H, 0, panels)
        pack_transposed(H, H, <const double *>data(W), H, panels + size)
        pack(H, 0, H, 1, H, <const float *>data(W_float), H, 0, panels_float)
        pack_transposed(H, H, <const float *>data(W_float), H, panels_float + size_float)
        self.map.H, self.map.ld = H, padded(H, sizeof(double))
        self.map.panels, self.map.panels_T = panels, panels + size
        self.map.panels_float, self.map.panels_T_float = panels_float, panels_float + size_float
        self.map.c, self.map.alpha = <double *>data(c), <double *>data(self.alpha)

    cdef Py_ssize_t block(self, Py_ssize_t rows) noexcept:
        return max(1, min(rows, max(<Py_ssize_t>24, BLOCK_BYTES // <Py_ssize_t>(self.map.ld * sizeof(double)))))

    def evaluate(self, tuple states):
        """Compute all that a States has from its h: arrays (h, gradient, slopes, bends, q, radius), [n, H] or [n]."""
        cdef States all_ = as_states(states, self.map.H)
        cdef Py_ssize_t n = (<cnp.ndarray>states[4]).shape[0], H = self.map.H, ld = self.map.ld, first = 0, rows, i
        cdef Py_ssize_t block = self.block(n), size = block * ld
        cdef Scratch scratch = Scratch()
        cdef double *h = <double *>scratch.take(5 * size * sizeof(double))
        cdef double since = pyrnn_seconds()
        cdef int status = 0
        with nogil:
            flush_subnormals()
            while first < n and status == 0:
                rows = min(block, n - first)
                for i in range(rows):
                    memcpy(h + i * ld, all_.h + (first + i) * H, H * sizeof(double))
                evaluate(&self.map, rows, h, h + size, h + 2 * size, h + 3 * size, all_.q + first, h + 4 * size)
                for i in range(rows):
                    memcpy(all_.slopes + (first + i) * H, h + size + i * ld, H * sizeof(double))
                    memcpy(all_.bends + (first + i) * H, h + 2 * size + i * ld, H * sizeof(double))
                    memcpy(all_.gradient + (first + i) * H, h + 3 * size + i * ld, H * sizeof(double))
                first += rows
                status = interrupted(&since)
            restore_subnormals()
        pass_on(status)

    def second_derivative(self, tuple states, Py_ssize_t row):
        """∇²q [H, H] at a row of states: the products with all unit vectors."""
        cdef States all_ = as_states(states, self.map.H)
        if not 0 <= row < (<cnp.ndarray>states[4]).shape[0]:
            raise IndexError(f"row must be from 0 to {(<cnp.ndarray>states[4]).shape[0] - 1}, got {row}")
        cdef Py_ssize_t H = self.map.H, ld = self.map.ld, block = self.block(H), first = 0, rows, i
        cdef Scratch scratch = Scratch()
        cdef double *v = <double *>scratch.take(3 * block * ld * sizeof(double))
        cdef Py_ssize_t *which = <Py_ssize_t *>scratch.take(block * sizeof(Py_ssize_t))
        cdef cnp.ndarray result = empty(self.c, (H, H))
        cdef double *to = <double *>data(result)
        cdef double since = pyrnn_seconds()
        cdef int status = 0
        with nogil:
            flush_subnormals()
            memset(which, 0, block * sizeof(Py_ssize_t))
            while first < H and status == 0:
                rows = min(block, H - first)
                memset(v, 0, rows * ld * sizeof(double))
                for i in range(rows):
                    v[i * ld + first + i] = 1
                curvature(&self.map, rows, which, <const double *>v, <const double *>(all_.slopes + row * H),
                          <const double *>(all_.bends + row * H), v + block * ld, v + 2 * block * ld)
                for i in range(rows):
                    memcpy(to + (first + i) * H, v + (2 * block + i) * ld, H * sizeof(double))
                first += rows
                status = interrupted(&since)
            restore_subnormals()
        pass_on(status)
        return result

    def descend(self, tuple states, cnp.ndarray which not None, double tolerance, bint in_float, cnp.ndarray outcomes):
        """One step for the rows `which` (of intp) of states; to outcomes, of int8: what has become of each.

        Returns how many products of ∇²q and a vector that took.
        """
        cdef States all_ = as_states(states, self.map.H)
        need("which", which, cnp.NPY_INTP, CONTIGUOUS, 1, which.shape[0])
        need("outcomes", outcomes, cnp.NPY_INT8, CONTIGUOUS | WRITTEN, 1, which.shape[0])
        if not between(which, 0, (<cnp.ndarray>states[4]).shape[0] - 1):
            raise IndexError(f"which must be rows from 0 to {(<cnp.ndarray>states[4]).shape[0] - 1}")
        cdef Py_ssize_t n = which.shape[0], first = 0, block = self.block(n), ld = self.map.ld
        cdef Scratch scratch = Scratch()
        cdef void *memory = scratch.take(
            block * ((12 * ld + 3) * sizeof(double) + sizeof(Step) + sizeof(Py_ssize_t)))
        cdef const Py_ssize_t *rows = <const Py_ssize_t *>data(which)
        cdef char *to = <char *>data(outcomes)
        cdef double since = pyrnn_seconds()
        cdef Py_ssize_t products = 0
        cdef int status = 0
        with nogil:
            flush_subnormals()
            while first < n and status == 0:
                if in_float:
                    status = descend_block(<float>0, &self.map, &all_, min(block, n - first), rows + first, tolerance,
                                           to + first, block, memory, &products, &since)
                else:
                    status = descend_block(<double>0, &self.map, &all_, min(block, n - first), rows + first, tolerance,
                                           to + first, block, memory, &products, &since)
                first += block
            restore_subnormals()
        pass_on(status)
        return products


cdef States as_states(tuple arrays, Py_ssize_t H) except *:
    """Arrays of float64, contiguous: (h, gradient, slopes, bends), [n, H], and (q, radius), [n]."""
    cdef States states
    cdef Py_ssize_t n
    cdef cnp.ndarray h, gradient, slopes, bends, q, radius
    h, gradient, slopes, bends, q, radius = arrays
    kind_of("h", h, 2)
    n = h.shape[0]
    need("h", h, cnp.NPY_FLOAT64, CONTIGUOUS | WRITTEN, 2, n, H)
    need("gradient", gradient, cnp.NPY_FLOAT64, CONTIGUOUS | WRITTEN, 2, n, H)
    need("slopes", slopes, cnp.NPY_FLOAT64, CONTIGUOUS | WRITTEN, 2, n, H)
    need("bends", bends, cnp.NPY_FLOAT64, CONTIGUOUS | WRITTEN, 2, n, H)
    need("q", q, cnp.NPY_FLOAT64, CONTIGUOUS | WRITTEN, 1, n)
    need("radius", radius, cnp.NPY_FLOAT64, CONTIGUOUS | WRITTEN, 1, n)
    states.h, states.gradient, states.slopes = <double *>data(h), <double *>data(gradient), <double *>data(slopes)
    states.bends, states.q, states.radius = <double *>data(bends), <double *>data(q), <double *>data(radius)
    return states
