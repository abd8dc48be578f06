# New arrays, large ones in memory of those that are gone; see memory.pyx.
cimport numpy as cnp


cdef cnp.ndarray new_array(int ndim, const cnp.npy_intp *shape, int kind, bint zero)
