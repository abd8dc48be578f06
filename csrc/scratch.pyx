"""Memory that a call needs beside its results, kept for the next one."""

cimport cython
cimport numpy as cnp

from pyrnn._core cimport team
from pyrnn._core.arrays cimport line

cnp.import_array()

cdef extern from *:
    """
    #ifdef __SANITIZE_ADDRESS__ /* each piece alone, so that it sees who writes beyond one */
    enum { pyrnn_kept_bytes = 0 };
    #else
    enum { pyrnn_kept_bytes = 8 << 20 };
    #endif
    """
    enum: KEPT_BYTES "pyrnn_kept_bytes"  # of a buffer at most

cdef enum:
    KEPT = 4  # buffers at most, for as many Python threads at once

cdef list spares = []
cdef Py_ssize_t spare_bytes = 0  # of a new buffer: what the largest call so far wanted, within KEPT_BYTES


@cython.final
@cython.freelist(4)
@cython.no_gc
@cython.auto_pickle(False)
cdef class Scratch:
    """Memory of one call, from a buffer that is kept for the next one.

    Fresh pages cost more than the sums of a small call: the system clears and maps each when it is first written, and
    malloc returns them with the call's end. Measured, H = 32, B = 32, T = 100: 1.4 ms with, 0.5 ms without.
    """
    def __cinit__(self):
        self.more = []
        self.shares.size = self.shares.tasks = 1
        try:
            self.buffer = spares.pop()
        except IndexError:
            self.buffer = bytes_(spare_bytes)

    cdef void *take(self, Py_ssize_t size) except NULL:
        """So many bytes from the beginning of a cache line on."""
        cdef cnp.ndarray extra
        size = (size + 63) & ~<Py_ssize_t>63
        self.wanted += size
        if self.used + size <= cnp.PyArray_DIM(self.buffer, 0) - 64:
            self.used += size
            return <char *>line(self.buffer) + self.used - size
        extra = bytes_(size + 64)
        self.more.append(extra)
        return line(extra)

    cdef int divide(self, object wanted, double flops, Py_ssize_t rows) except -1:
        self.release()
        self.shares = team.divide(wanted, flops, rows)
        return 0

    cdef void **take_by_task(self, Py_ssize_t size) except NULL:
        """Memory of tasks lies in cache lines of their own; under the address sanitizer each is an allocation."""
        cdef int task
        cdef void **memory = <void **>self.take(self.shares.tasks * sizeof(void *))
        for task in range(self.shares.tasks):
            memory[task] = self.take(size)
        return memory

    cdef void release(self) noexcept:
        """Give the team back to other calls."""
        team.release(&self.shares)
        self.shares.size = 1

    def __dealloc__(self):
        global spare_bytes
        self.release()
        if self.wanted + 64 > spare_bytes:
            spare_bytes = min(self.wanted + 64, <Py_ssize_t>KEPT_BYTES)
        if self.buffer is not None and cnp.PyArray_DIM(self.buffer, 0) >= spare_bytes and len(spares) < KEPT:
            spares.append(self.buffer)


cdef cnp.ndarray bytes_(cnp.npy_intp size):
    return cnp.PyArray_EMPTY(1, &size, cnp.NPY_UINT8, 0)
