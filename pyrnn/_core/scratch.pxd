# Memory of one call: what `take` and `take_by_task` return is valid while the object lives.
cimport numpy as cnp

from pyrnn._core.team cimport Shares


cdef class Scratch:
    cdef cnp.ndarray buffer
    cdef list more                    # what did not fit
    cdef Py_ssize_t used, wanted
    cdef Shares shares                # how the call is divided: one task until `divide` says otherwise

    cdef void *take(self, Py_ssize_t size) except NULL

    # Divide the call among threads: see divide in team.pxd. What tasks have of their own is taken afterwards.
    cdef int divide(self, object wanted, double flops, Py_ssize_t rows) except -1

    # So many bytes for each task, which no other one reads or writes: `memory[task]` is that of a task.
    cdef void **take_by_task(self, Py_ssize_t size) except NULL

    cdef void release(self) noexcept
