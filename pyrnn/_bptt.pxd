# How many steps of B rows of N numbers make a chunk of time: at least one, at most T.
cdef Py_ssize_t chunk_steps(Py_ssize_t T, Py_ssize_t B, Py_ssize_t N, Py_ssize_t itemsize) noexcept nogil
