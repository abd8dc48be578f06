# A cell as the loops see it, and the one place where compiled code reads a pyrnn.Cell.
cimport numpy as cnp

from pyrnn._core.arrays cimport CONTIGUOUS, data, need
from pyrnn._core.table cimport pyrnn_phi


cdef struct Cell:
    pyrnn_phi phi
    bint leaky, current
    const void *alpha              # [H], or NULL; its memory belongs to the pyrnn.Cell


cdef inline pyrnn_phi read_phi(object given):
    """phi of a pyrnn.Cell."""
    cdef pyrnn_phi phi
    phi.kind, phi.slope = given.number, given.negative_slope
    return phi


cdef inline cnp.ndarray read_cell(object given, Py_ssize_t H, cnp.ndarray like, Cell *cell):
    """Write a pyrnn.Cell of H units to `cell`, its alpha in the dtype of `like`; returns alpha, or None."""
    cdef cnp.ndarray alpha = None
    cell.phi, cell.leaky, cell.current = read_phi(given), given.alpha is not None, given.current
    if cell.leaky:
        alpha = given.leak(H, like.dtype)
        need("alpha", alpha, cnp.PyArray_TYPE(like), CONTIGUOUS, 1, H)
    cell.alpha = data(alpha)
    return alpha
