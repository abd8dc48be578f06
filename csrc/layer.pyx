"""One direction of a layer of PyTorch tensors in one call, for tensors that the loops can read in place.

For small networks the way through arrays and checks takes longer than the loops (measured, H = 32, B = 1, T = 100: 15
of 26 us). These functions skip both if the loops can read all rows and matrices in place and all steps exist. If not,
they compute nothing and return False, and the caller, pyrnn/bridges/_layers_of_tensors.py, converts the arrays.
"""

cimport numpy as cnp
from libc.string cimport memcpy

from pyrnn._core.arrays cimport empty, kind_of, stride, usable

cnp.import_array()


# ---- Arrays on memory that others own -------------------------------------------------------------------------------
cdef cnp.ndarray on_memory(int ndim, const cnp.npy_intp *shape, const cnp.npy_intp *strides, int kind, void *memory,
                           object owner):
    """The array of this shape and strides, in bytes, NULL for contiguous, that keeps `owner`."""
    cdef cnp.ndarray a = cnp.PyArray_New(cnp.ndarray, ndim, <cnp.npy_intp *>shape, kind, <cnp.npy_intp *>strides,
                                         memory, 0, cnp.NPY_ARRAY_WRITEABLE, <object>NULL)
    cnp.set_array_base(a, owner)
    return a


def array(tensor):
    """The array on the memory of a tensor of PyTorch of float32 or float64, or a copy of what has no plain memory."""
    cdef cnp.npy_intp n[3]
    cdef size_t address
    cdef int i, ndim
    if tensor.is_contiguous() and not tensor.is_neg():
        shape, address = tensor.shape, tensor.data_ptr()
        ndim = len(shape)
        if address != 0 and ndim <= 3:  # else nothing is there
            for i in range(ndim):
                n[i] = shape[i]
            return on_memory(ndim, n, NULL, cnp.NPY_FLOAT32 if tensor.itemsize == 4 else cnp.NPY_FLOAT64,
                             <void *>address, tensor)
    try:
        return tensor.detach().numpy()
    except (RuntimeError, TypeError):
        return tensor.detach().to_dense().resolve_neg().clone().numpy()


cdef cnp.ndarray part(cnp.ndarray a, Py_ssize_t first, Py_ssize_t units, bint reverse):
    """Some columns of a sequence [T, B, n], in the order of the steps."""
    cdef cnp.npy_intp shape[3]
    cdef cnp.npy_intp strides[3]
    cdef char *memory = cnp.PyArray_BYTES(a) + first * cnp.PyArray_STRIDE(a, 2)
    cdef int i
    if not reverse and units == a.shape[2]:
        return a
    for i in range(3):
        shape[i], strides[i] = a.shape[i], cnp.PyArray_STRIDE(a, i)
    shape[2] = units
    if reverse:
        if shape[0] > 0:
            memory += (shape[0] - 1) * strides[0]
        strides[0] = -strides[0]
    return on_memory(3, shape, strides, cnp.PyArray_TYPE(a), memory, a)


cdef cnp.ndarray state_of(cnp.ndarray states, Py_ssize_t k):
    """One of states [K, B, H]."""
    return on_memory(2, cnp.PyArray_DIMS(states) + 1, cnp.PyArray_STRIDES(states) + 1, cnp.PyArray_TYPE(states),
                     cnp.PyArray_BYTES(states) + k * cnp.PyArray_STRIDE(states, 0), states)


cdef cnp.ndarray bias(list parameters):
    """b = b_ih + b_hh, or None."""
    if len(parameters) == 2:
        return None
    return array(parameters[2]) + array(parameters[3])


cdef bint plain(cnp.ndarray a, int kind) noexcept:
    """Whether a matrix has rows that BLAS reads as they lie."""
    return usable(a, kind) and stride(a, 0) >= a.shape[1]


cdef bint written_in_place(cnp.ndarray a, int kind) noexcept:
    """Whether the loops can write all of an array in place: a new one, or part of it along the first axis."""
    return a is None or (cnp.PyArray_TYPE(a) == kind and cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISBEHAVED(a))


# ---- A direction of a layer -----------------------------------------------------------------------------------------
cdef int check_direction(Py_ssize_t k, int direction, Py_ssize_t states, Py_ssize_t H, cnp.ndarray h) except -1:
    """Raise IndexError unless there are so many states and columns of h [T, B, D H]."""
    if not (0 <= k < states and 0 <= direction and (direction + 1) * H <= h.shape[2]):
        raise IndexError(f"no direction {direction} and state {k} in {states} states and {h.shape[2]} columns")
    return 0


cdef int check_shape(str name, cnp.ndarray a, Py_ssize_t K, Py_ssize_t B, Py_ssize_t H) except -1:
    """Raise ValueError for an array of another shape; for another layout there is the other way."""
    if a is not None and (cnp.PyArray_NDIM(a) != 3 or a.shape[0] != K or a.shape[1] != B or a.shape[2] != H):
        raise ValueError(f"a compiled function needs {name} as ({K}, {B}, {H}), got {(<object>a).shape}")
    return 0


cdef cnp.ndarray initial_of(cnp.ndarray h0, Py_ssize_t k, cnp.ndarray x, Py_ssize_t H):
    return empty(x, (x.shape[1], H), zero=True) if h0 is None else state_of(h0, k)


def forward(compiled, cnp.ndarray x, list parameters, cnp.ndarray h0, cnp.ndarray h, cnp.ndarray h_n, Py_ssize_t k,
            int direction, int phi, n_threads):
    """Write the states of a direction to its columns of h [T, B, D H], and the last ones to row k of h_n [K, B, H].

    x: [T, B, I]; parameters: tensors U, W and the two halves of b if there are; h0: as h_n, or None for zeros;
    compiled: the engine. False, and nothing is written, if an array is not plain.
    """
    cdef int kind = kind_of("x", x, 3)
    kind_of("h_n", h_n, 3)
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], H = h_n.shape[2], i
    kind_of("h", h, 3)
    check_direction(k, direction, h_n.shape[0], H, h)
    check_shape("h", h, T, B, h.shape[2])
    check_shape("h_n", h_n, h_n.shape[0], B, H)
    check_shape("h0", h0, h_n.shape[0], B, H)
    cdef cnp.ndarray U = array(parameters[0]), W = array(parameters[1]), initial = initial_of(h0, k, x, H), states, last
    if not (T > 0 and usable(x, kind) and plain(U, kind) and plain(W, kind) and plain(initial, kind)
            and written_in_place(h, kind) and written_in_place(h_n, kind)):
        return False
    states, last = part(h, direction * H, H, direction == 1), state_of(h_n, k)
    compiled.forward(part(x, 0, x.shape[2], direction == 1), U, W, bias(parameters), initial, states, n_threads, phi)
    for i in range(B):
        memcpy(cnp.PyArray_BYTES(last) + i * cnp.PyArray_STRIDE(last, 0),
               cnp.PyArray_BYTES(states) + (T - 1) * cnp.PyArray_STRIDE(states, 0) + i * cnp.PyArray_STRIDE(states, 1),
               H * cnp.PyArray_ITEMSIZE(x))
    return True


def backward(compiled, cnp.ndarray dh, cnp.ndarray h, cnp.ndarray x, list parameters, cnp.ndarray h0, Py_ssize_t k,
             int direction, tuple results, int phi, n_threads):
    """Write the gradients of x, or add to them in the second direction, and those of U, W, b and of row k of h0.

    dh, h: [T, B, D H]; results: (dx, dU, dW, db, dh0), dx may be None. False, and nothing is written, if an array is
    not plain, or a result not C-contiguous: the order of axes in memory of what is made `like` a tensor may be any.
    """
    cdef int kind = kind_of("x", x, 3)
    cdef Py_ssize_t I = x.shape[2], H = len(results[2])
    kind_of("h", h, 3)
    kind_of("dh", dh, 3)
    check_direction(k, direction, k + 1 if h0 is None else h0.shape[0], H, h)
    check_direction(k, direction, k + 1, H, dh)
    check_shape("h0", h0, k + 1 if h0 is None else h0.shape[0], x.shape[1], H)
    cdef bint reverse = direction == 1
    cdef cnp.ndarray U = array(parameters[0]), W = array(parameters[1]), initial = initial_of(h0, k, x, H), a
    for a in results:
        if not written_in_place(a, kind):
            return False
    if not (usable(x, kind) and usable(h, kind) and usable(dh, kind) and plain(U, kind) and plain(W, kind)
            and plain(initial, kind)):
        return False
    dx = None if results[0] is None else part(results[0], 0, I, reverse)
    compiled.backward(
        part(dh, direction * H, H, reverse), part(h, direction * H, H, reverse), part(x, 0, I, reverse), U, W, initial,
        n_threads, phi, None, False, False, None, None, (dx, *results[1:], None, None), None, False, False, reverse)
    return True
