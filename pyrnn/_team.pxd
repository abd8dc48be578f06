# A piece of work that a team of threads does together: member `index` of `size` does its share. `size` may turn out
# to be less than what was asked for, down to 1: the result must not depend on it.
ctypedef void (*work_function)(void *job, int index, int size) noexcept nogil

# How many threads a call may use: at most `wanted`, as many as there are and as the work is worth. Starts them.
cdef int team_size(object wanted, double flops, Py_ssize_t rows) except -1

# Call work(job, index, size) for every index, 0 on the calling thread, and come back when all have.
cdef void run(work_function work, void *job, int size) noexcept nogil

# Wait until all members of the running team have come to their barrier. Only inside a work_function.
cdef void barrier(int size) noexcept nogil
