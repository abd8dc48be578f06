# What the loops of both engines do with arrays before and after they give up the GIL.
cimport numpy as cnp
from libc.string cimport memcpy

from pyrnn._core.memory cimport new_array
from pyrnn._core.table cimport flush_subnormals, restore_subnormals
from pyrnn._core.wait cimport pyrnn_seconds

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept  # cpython.exc declares it `except -1`, which would raise it where nobody can see
    void *PyErr_Occurred() noexcept

ctypedef fused real:
    float
    double

cdef inline Py_ssize_t stride(cnp.ndarray a, int axis) noexcept:
    """In elements."""
    return cnp.PyArray_STRIDE(a, axis) // cnp.PyArray_ITEMSIZE(a)


cdef inline void *data(cnp.ndarray a) noexcept nogil:
    return NULL if a is None else cnp.PyArray_DATA(a)


cdef inline cnp.ndarray empty(cnp.ndarray like, tuple shape, bint zero=False):
    """A new contiguous array of the dtype of `like`."""
    cdef cnp.npy_intp n[4]
    cdef int i, kind = cnp.PyArray_TYPE(like)
    for i in range(len(shape)):
        n[i] = shape[i]
    return new_array(len(shape), n, kind, zero)


cdef inline bint usable(cnp.ndarray a, int kind) noexcept:
    """Whether the loops can read the array as it lies: of this type, aligned, of native byte order, rows contiguous."""
    cdef int i, last = cnp.PyArray_NDIM(a) - 1
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(a)
    if last < 0 or cnp.PyArray_TYPE(a) != kind or not cnp.PyArray_ISBEHAVED_RO(a):
        return False
    for i in range(last):
        if cnp.PyArray_STRIDE(a, i) % size:
            return False
    return cnp.PyArray_STRIDE(a, last) == size or cnp.PyArray_DIM(a, last) == 1 or cnp.PyArray_SIZE(a) == 0


cdef inline bint fits(object a, int kind, int ndim, const cnp.npy_intp *shape) noexcept:
    """Whether it is an array of this type and shape that the loops can read as it lies; a subclass may mean another."""
    cdef int i
    if type(a) is not cnp.ndarray or cnp.PyArray_NDIM(a) != ndim:
        return False
    for i in range(ndim):
        if cnp.PyArray_DIM(a, i) != shape[i]:
            return False
    return usable(a, kind)


cdef inline bint rows_apart(cnp.ndarray a) noexcept:
    """Whether each row of a matrix that is `usable` lies behind the one before, as BLAS reads them."""
    return cnp.PyArray_DIM(a, 0) <= 1 or stride(a, 0) >= cnp.PyArray_DIM(a, 1) or cnp.PyArray_SIZE(a) == 0


# ---- What compiled functions need of the arrays they are called with ------------------------------------------------
# Each looks at all of them before anything is read: a wrong one is a fault of floor 3, which checks what users give,
# and must not become a wrong number or a read past the end. A look costs 3 ns.
cdef enum:
    IN_ROWS = 1      # the last axis is contiguous, the other strides are whole numbers
    AS_MATRIX = 2    # [m, n] in rows, each behind the one before, as BLAS reads them
    CONTIGUOUS = 4   # in C order
    WRITTEN = 8      # beside one of these: writeable, and no two rows overlap
    OPTIONAL = 16    # may be None


cdef inline bint has_layout(cnp.ndarray a, int kind, int layout) noexcept:
    """Whether an array has this type and layout; an empty array fits every layout."""
    cdef int i, last = cnp.PyArray_NDIM(a) - 1
    cdef Py_ssize_t n = cnp.PyArray_DIM(a, last)
    if cnp.PyArray_TYPE(a) != kind or (layout & WRITTEN and not cnp.PyArray_ISWRITEABLE(a)):
        return False
    if cnp.PyArray_SIZE(a) == 0:
        return True
    if layout & CONTIGUOUS:
        return cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISBEHAVED_RO(a)
    if not usable(a, kind):
        return False
    if layout & AS_MATRIX:
        return rows_apart(a)
    if layout & WRITTEN:
        for i in range(last):
            if cnp.PyArray_DIM(a, i) > 1 and stride(a, i) < n and not (i == 0 and -stride(a, 0) >= n):
                return False
    return True


cdef inline int need(str name, cnp.ndarray a, int kind, int layout, int ndim, Py_ssize_t n0, Py_ssize_t n1=0,
                     Py_ssize_t n2=0, Py_ssize_t n3=0) except -1:
    """Raise ValueError for an array that is not of this type, layout and shape: the first `ndim` of n0, n1, n2, n3."""
    if a is None:
        if layout & OPTIONAL:
            return 0
    elif (cnp.PyArray_NDIM(a) == ndim and cnp.PyArray_DIM(a, 0) == n0 and (ndim < 2 or cnp.PyArray_DIM(a, 1) == n1)
            and (ndim < 3 or cnp.PyArray_DIM(a, 2) == n2) and (ndim < 4 or cnp.PyArray_DIM(a, 3) == n3)
            and has_layout(a, kind, layout)):
        return 0
    return refuse(name, a, kind, layout, (n0, n1, n2, n3)[:ndim])


cdef inline int refuse(str name, cnp.ndarray a, int kind, int layout, tuple shape) except -1:
    order = "contiguous" if layout & CONTIGUOUS else "BLAS-like" if layout & AS_MATRIX else "row by row"
    more = ", writeable" if layout & WRITTEN else ""
    expected = f"{<object>cnp.PyArray_DescrFromType(kind)} {shape}, {order}{more}"
    got = "None" if a is None else f"{a.dtype} {(<object>a).shape} with strides {(<object>a).strides}"
    raise ValueError(f"a compiled function needs {name} as {expected}, got {got}")


cdef inline int kind_of(str name, cnp.ndarray a, int ndim) except -1:
    """The type of an array of float32 or float64 with so many axes; raises ValueError for any other."""
    cdef int kind = -1 if a is None else cnp.PyArray_TYPE(a)
    if (kind != cnp.NPY_FLOAT32 and kind != cnp.NPY_FLOAT64) or cnp.PyArray_NDIM(a) != ndim:
        got = "None" if a is None else f"{a.dtype} {(<object>a).shape}"
        raise ValueError(f"a compiled function needs {name} as float32 or float64 with {ndim} axes, got {got}")
    return kind


cdef inline int need_panels(str name, cnp.ndarray a, int kind, Py_ssize_t n) except -1:
    """Raise ValueError for memory that `lines` has not made for n numbers or more."""
    if a is None or cnp.PyArray_NDIM(a) != 1 or cnp.PyArray_DIM(a, 0) < n + 64 // cnp.PyArray_ITEMSIZE(a) or (
            not has_layout(a, kind, CONTIGUOUS)):
        return refuse(name, a, kind, CONTIGUOUS, (n,))
    return 0


cdef inline int need_padded(str name, cnp.ndarray a, int kind, Py_ssize_t T, Py_ssize_t B, Py_ssize_t H) except -1:
    """Raise ValueError for an array [T, B, H] that does not lie as `padded` says, without other gaps."""
    cdef Py_ssize_t ld = padded(H, 4 if kind == cnp.NPY_FLOAT32 else 8)
    need(name, a, kind, IN_ROWS, 3, T, B, H)
    if cnp.PyArray_SIZE(a) > 0 and ((B > 1 and stride(a, 1) != ld) or (T > 1 and stride(a, 0) != B * ld)):
        return refuse(name, a, kind, IN_ROWS, (T, B, H))
    return 0


cdef inline int check_signals() noexcept with gil:
    """Let the handlers of signals run, with subnormal numbers as the caller has them."""
    cdef bint flushing
    cdef int status
    if PyErr_Occurred() != NULL:
        # A call that was interrupted winds down, and its exception is pending: no handler may run until it is raised.
        return -1
    flushing = restore_subnormals()
    status = PyErr_CheckSignals()
    if flushing:
        flush_subnormals()
    return status


cdef inline int interrupted(double *since) noexcept nogil:
    """Look for Ctrl-C, if the last look was 50 ms ago; -1 once a signal handler has raised an exception."""
    cdef double now = pyrnn_seconds()
    if 0 <= now - since[0] < 0.05:
        return 0
    since[0] = now
    return check_signals()


cdef inline int pass_on(int status) except -1:
    """Raise the exception that a signal handler has set."""
    return status


cdef inline void gather(Py_ssize_t T, Py_ssize_t B, Py_ssize_t N, const real *a, Py_ssize_t st, Py_ssize_t sb,
                        real *copy) noexcept nogil:
    """copy [T B, N] = a [T, B, N]."""
    cdef Py_ssize_t t, i
    for t in range(T):
        for i in range(B):
            memcpy(copy + (t * B + i) * N, a + t * st + i * sb, N * sizeof(real))


# ---- Memory as the kernels like it ----------------------------------------------------------------------------------
cdef inline bint crowded(Py_ssize_t ld, Py_ssize_t itemsize) noexcept nogil:
    """Whether rows at this distance share the sets of a first-level cache of 64 sets of 64 bytes."""
    return ld * itemsize % 2048 == 0


cdef inline Py_ssize_t padded(Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil:
    """A distance for rows of n numbers: whole cache lines, not crowded."""
    cdef Py_ssize_t line = 64 // itemsize
    n = (n + line - 1) // line * line
    return n + line if crowded(n, itemsize) else n


cdef inline cnp.ndarray lines(cnp.ndarray like, Py_ssize_t n):
    """Memory for n numbers from an address that `line` finds."""
    return empty(like, (n + 64 // cnp.PyArray_ITEMSIZE(like),))


cdef inline void *line(cnp.ndarray a) noexcept nogil:
    """The first address of a cache line in it: registers are loaded from panels, and one load must not take two."""
    return NULL if a is None else <void *>((<size_t>cnp.PyArray_DATA(a) + 63) & ~<size_t>63)


# Bytes of the states of a block of sequences at one step: a small second-level cache holds those of two steps, and the
# panels of W that go past them. Measured: 2 % at H = 512, B = 128 in float32; from 64 to 128 KB all the same.
cdef enum:
    BLOCK_BYTES = 96 << 10


cdef inline Py_ssize_t most_block_rows(Py_ssize_t H, Py_ssize_t itemsize) noexcept nogil:
    """How many sequences go through time together at most."""
    return max(BLOCK_BYTES // max(H * itemsize, 1), <Py_ssize_t>24)
