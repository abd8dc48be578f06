"""The kernels of floor 1 for the modules of floor 2: the table of functions, and the choice of instruction set."""

import os

cimport numpy as cnp

cnp.import_array()


cdef const pyrnn_kernel_table *kernels() noexcept nogil:
    """The table of kernels in use."""
    return &pyrnn_kernels


def available():
    """The instruction sets of this build that this processor has, best first."""
    names = []
    while (name := pyrnn_available(len(names))) != NULL:
        names.append(name.decode())
    return tuple(names)


def select(name=None):
    """Use the kernels of one instruction set, by default the best; for tests, while nothing else computes.

    Raises ValueError for a name that is not in `available`.
    """
    cdef bytes encoded = b"" if name is None else name.encode()
    if (pyrnn_select(NULL) if name is None else pyrnn_select(encoded)) < 0:
        raise ValueError(f"instruction set must be one of {', '.join(available())} on this machine, got {name!r}")


def selected():
    """The instruction set in use."""
    return pyrnn_kernels.name.decode()


def tanh(cnp.ndarray x):
    """tanh of a float32 or float64 array by the kernel in use: what the recurrence computes, for tests."""
    x = cnp.PyArray_GETCONTIGUOUS(x)
    y = cnp.PyArray_EMPTY(x.ndim, x.shape, x.descr.type_num, 0)
    if x.descr.type_num == cnp.NPY_FLOAT32:
        pyrnn_kernels.tanh_f32(x.size, <const float *>x.data, <float *>cnp.PyArray_DATA(y))
    elif x.descr.type_num == cnp.NPY_FLOAT64:
        pyrnn_kernels.tanh_f64(x.size, <const double *>x.data, <double *>cnp.PyArray_DATA(y))
    else:
        raise TypeError(f"x must be float32 or float64, got {x.dtype}")
    return y


try:
    select(os.environ.get("PYRNN_CPU") or None)
except ValueError as error:
    raise ValueError(f"environment variable PYRNN_CPU: {error}") from None
