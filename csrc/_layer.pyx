"""One layer of a network of tensors, in one or two directions, as one call: what `pyrnn.torch` repeats for each layer.

For small networks the way from a tensor through the checks to the loops takes longer than the loops (measured, H = 32,
B = 1, T = 100: 15 of 26 us). Here it is short for what is plain: tensors with contiguous memory, all steps of all
sequences. All else goes through `pyrnn.forward` and `pyrnn.backward`.
"""

import numpy as np

cimport numpy as cnp
from libc.string cimport memcpy

from pyrnn._arrays cimport empty, stride, usable

from pyrnn import _cell, _engines, functional
from pyrnn._results import Gradients

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


# ---- A layer --------------------------------------------------------------------------------------------------------
def forward(cnp.ndarray x, list directions, cnp.ndarray h0, cnp.ndarray h, cnp.ndarray h_n, Py_ssize_t first,
            str nonlinearity, lengths, n_threads):
    """Write the states h [T, B, D H] of a layer, and those in which sequences end to h_n, from its row `first` on.

    x: [T, B, I]; directions: for each of D the list of its tensors U, W and the two halves of b if there are; h0:
    [K, B, H] as h_n, or None for zeros.
    """
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h_n.shape[2], d, i
    cdef int kind = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray U, W, b, initial, states, last
    cdef bint usual = lengths is None and T > 0 and usable(x, kind)
    cdef object zeros = None
    cdef tuple given
    for d in range(len(directions)):
        U, W, b = array(directions[d][0]), array(directions[d][1]), bias(directions[d])
        initial = None if h0 is None else state_of(h0, first + d)
        last = state_of(h_n, first + d)
        if usual and plain(U, kind) and plain(W, kind) and (initial is None or plain(initial, kind)):
            if initial is None:
                if zeros is None:
                    zeros = empty(x, (B, H), zero=True)
                initial = zeros
            states = part(h, d * H, H, d == 1)
            given = part(x, 0, x.shape[2], d == 1), U, W, b, initial, states
            _engines.choose("auto", n_threads).forward(*given, n_threads, _cell.numbers(nonlinearity, "rate")[0])
            for i in range(B):
                memcpy(cnp.PyArray_BYTES(last) + i * cnp.PyArray_STRIDE(last, 0),
                       cnp.PyArray_BYTES(states) + (T - 1) * cnp.PyArray_STRIDE(states, 0) +
                       i * cnp.PyArray_STRIDE(states, 1), H * cnp.PyArray_ITEMSIZE(x))
        else:
            states = part(h, d * H, H, False)
            functional.forward(x, U, W, b, initial, nonlinearity=nonlinearity, lengths=lengths, reverse=d == 1,
                               out=states, n_threads=n_threads)
            if d == 1:
                last[...] = states[0]
            else:
                last[...] = states[T - 1] if lengths is None else states[lengths - 1, np.arange(B)]


def backward(cnp.ndarray dh, cnp.ndarray h, cnp.ndarray x, list directions, cnp.ndarray h0, cnp.ndarray d_h0,
             Py_ssize_t first, bint x_gradient, str nonlinearity, lengths, n_threads):
    """The gradient of x, or None, and for each direction those of its U, W and b, as new arrays.

    dh: [T, B, D H], what the loss and the layer above send into each state. That of h0 is written to d_h0 [K, B, H],
    unless None, from its row `first` on.
    """
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], I = x.shape[2], H = h.shape[2] // len(directions), d
    cdef int kind = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray U, W, initial, d_initial, dx = empty(x, (T, B, I)) if x_gradient else None
    cdef bint usual = lengths is None and usable(x, kind) and usable(h, kind) and usable(dh, kind)
    cdef tuple given, results
    cdef list weights = []
    cdef object zeros = None
    for d in range(len(directions)):
        U, W = array(directions[d][0]), array(directions[d][1])
        initial = None if h0 is None else state_of(h0, first + d)
        d_initial = empty(x, (B, H)) if d_h0 is None else state_of(d_h0, first + d)
        results = dx, empty(x, (H, I)), empty(x, (H, H)), empty(x, (H,)), d_initial
        if usual and plain(U, kind) and plain(W, kind) and (initial is None or plain(initial, kind)):
            if initial is None:
                if zeros is None:
                    zeros = empty(x, (B, H), zero=True)
                initial = zeros
            given = part(dh, d * H, H, d == 1), part(h, d * H, H, d == 1), part(x, 0, I, d == 1), U, W, initial
            if dx is not None:
                results = (part(dx, 0, I, d == 1), *results[1:])
            _engines.choose("auto", n_threads).backward(
                *given, n_threads, _cell.numbers(nonlinearity, "rate")[0], None, False, False, None, None,
                (*results, None, None), None, False, False, d == 1)
        else:
            given = part(dh, d * H, H, False), part(h, d * H, H, False), x, U, W, initial
            functional.backward(*given, nonlinearity=nonlinearity, lengths=lengths, reverse=d == 1,
                                out=Gradients(*results), accumulate=("x",) if d == 1 and x_gradient else (),
                                n_threads=n_threads)
        weights.append(results[1:4])
    return dx, weights
