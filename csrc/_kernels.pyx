"""The kernels of floor 1 for the modules of floor 2: the table of functions, and the choice of instruction set."""

import os

cimport numpy as cnp
import numpy as np

cdef extern from "wait.h":
    double pyrnn_seconds() noexcept nogil

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


cdef double seconds_to_sum(Py_ssize_t times, Py_ssize_t n, const void *a, bint double_precision) noexcept nogil:
    """The seconds that one sum takes, from that many sums of the same array."""
    cdef double begin = pyrnn_seconds()
    if double_precision:
        pyrnn_kernels.sum_f64(times, n, <const double *>a)
    else:
        pyrnn_kernels.sum_f32(times, n, <const float *>a)
    return (pyrnn_seconds() - begin) / times


def read_bandwidth(nbytes, dtype):
    """Bytes a second at which one thread reads an array of so many bytes again and again; for benchmarks.

    From the cache that holds so much, or else from memory. The best of 20 passes of a millisecond or more.

    Raises ValueError if not one number fits, TypeError for a dtype other than float32 and float64.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    cdef Py_ssize_t n = nbytes // dtype.itemsize
    if n < 1:
        raise ValueError(f"nbytes must be at least {dtype.itemsize}, the size of one {dtype}, got {nbytes}")
    # Written, since pages that nobody wrote to are all the same page of zeros; a load must not straddle cache lines.
    cdef cnp.ndarray memory = np.ones(n + 64 // dtype.itemsize, dtype)
    cdef const char *a = <const char *>memory.data
    a += -<Py_ssize_t>a & 63
    cdef bint double_precision = dtype == np.float64
    cdef Py_ssize_t times = 1
    cdef double best
    with nogil:
        best = seconds_to_sum(times, n, a, double_precision)
        while best * times < 1e-3:
            times = times * 2
            best = seconds_to_sum(times, n, a, double_precision)
        for _ in range(20):
            best = min(best, seconds_to_sum(times, n, a, double_precision))
    return n * dtype.itemsize / best


try:
    select(os.environ.get("PYRNN_CPU") or None)
except ValueError as error:
    raise ValueError(f"environment variable PYRNN_CPU: {error}") from None
