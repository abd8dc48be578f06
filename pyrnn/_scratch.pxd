# Memory of one call: what `take` returns is valid while the object lives.
cimport numpy as cnp


cdef class Scratch:
    cdef cnp.ndarray buffer
    cdef list more                    # what did not fit
    cdef Py_ssize_t used, wanted

    cdef void *take(self, Py_ssize_t size) except NULL
