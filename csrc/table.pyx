"""The kernels of floor 1 for the modules of floor 2: the table of functions, and the choice of instruction set."""

import os

import numpy as np

cimport numpy as cnp

from pyrnn._core.floating cimport pyrnn_floating, pyrnn_flush, pyrnn_restore
from pyrnn._core.wait cimport pyrnn_nanoseconds

cnp.import_array()

cdef extern from *:
    """
    #include "floating.h"
    #include "wait.h"
    static PYRNN_THREAD_LOCAL int pyrnn_flushing;
    static PYRNN_THREAD_LOCAL pyrnn_floating pyrnn_of_caller;
    """
    bint flushing "pyrnn_flushing"               # 1 between flush_subnormals and restore_subnormals
    pyrnn_floating of_caller "pyrnn_of_caller"   # what is restored

ctypedef void (*kernel_f32)(Py_ssize_t n, const float *x, float *y) noexcept nogil
ctypedef void (*kernel_f64)(Py_ssize_t n, const double *x, double *y) noexcept nogil


cdef void flush_subnormals() noexcept nogil:
    global flushing, of_caller
    if not flushing:
        of_caller = pyrnn_flush()
        flushing = True


cdef bint restore_subnormals() noexcept nogil:
    global flushing
    if not flushing:
        return False
    pyrnn_restore(of_caller)
    flushing = False
    return True


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
    global in_use
    cdef bytes encoded = b"" if name is None else name.encode()
    if (pyrnn_select(NULL) if name is None else pyrnn_select(encoded)) < 0:
        raise ValueError(f"instruction set must be one of {', '.join(available())} on this machine, got {name!r}")
    in_use = pyrnn_kernels()


def selected():
    """The instruction set in use."""
    return kernels().name.decode()


def compiler():
    """The compiler of the kernels and its version."""
    return pyrnn_compiler.decode()


def tanh(cnp.ndarray x not None):
    """tanh of a float32 or float64 array, a new array: what the recurrence computes."""
    return elementwise(x, kernels().tanh_f32, kernels().tanh_f64)


def sech2(cnp.ndarray x not None):
    """1 - tanh² of a float32 or float64 array, a new array."""
    return elementwise(x, kernels().sech2_f32, kernels().sech2_f64)


cdef cnp.ndarray elementwise(cnp.ndarray x, kernel_f32 f32, kernel_f64 f64):
    if not cnp.PyArray_ISBEHAVED_RO(x):
        raise ValueError("a compiled function needs x aligned and of native byte order")
    x = cnp.PyArray_GETCONTIGUOUS(x)
    cdef cnp.ndarray y = cnp.PyArray_EMPTY(x.ndim, x.shape, x.descr.type_num, 0)
    cdef Py_ssize_t n = x.size
    if x.descr.type_num == cnp.NPY_FLOAT32:
        with nogil:
            f32(n, <const float *>x.data, <float *>cnp.PyArray_DATA(y))
    elif x.descr.type_num == cnp.NPY_FLOAT64:
        with nogil:
            f64(n, <const double *>x.data, <double *>cnp.PyArray_DATA(y))
    else:
        raise TypeError(f"x must be float32 or float64, got {x.dtype}")
    return y


def multiply_add_peak(dtype):
    """The most flop/s of one thread in float32 or float64: independent multiply-adds of the instruction set in use.

    The best of runs of half a millisecond, some 6 ms in all: what lies below is other work or a slower clock.
    """
    cdef float single[2]
    cdef double double_[2]
    cdef bint is_single = np.dtype(dtype) == np.float32
    cdef long long since, took = 0
    cdef Py_ssize_t n = 64, flops
    cdef double best = 0
    cdef int run = 0
    if not is_single and np.dtype(dtype) != np.float64:
        raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
    with nogil:
        while run < 10:
            single[0] = double_[0] = 0.5  # s approaches 0.5
            single[1] = double_[1] = 0.25
            since = pyrnn_nanoseconds()
            if is_single:
                flops = kernels().multiply_adds_f32(n, single)
            else:
                flops = kernels().multiply_adds_f64(n, double_)
            took = pyrnn_nanoseconds() - since
            if took < 500000:
                n *= 2
            else:
                run += 1
                best = max(best, 1e9 * flops / took)
    return best


cdef double seconds_to_sum(Py_ssize_t times, Py_ssize_t n, const void *a, bint double_precision) noexcept nogil:
    """The seconds that one sum takes, from that many sums of the same array."""
    cdef long long since = pyrnn_nanoseconds()
    if double_precision:
        kernels().sum_f64(times, n, <const double *>a)
    else:
        kernels().sum_f32(times, n, <const float *>a)
    return 1e-9 * (pyrnn_nanoseconds() - since) / times


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
