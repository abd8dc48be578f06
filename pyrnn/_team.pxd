from pyrnn._wait cimport pyrnn_atomic

# A task of a round of a job, done by `member`, 0 for the calling thread. A round has `tasks` tasks, which share it out;
# they may be as few as 1: the result must not depend on it.
ctypedef void (*work_function)(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil

# How many threads a call may use: at most `wanted`, as many as there are and as the work is worth. Starts them.
cdef int team_size(object wanted, double flops, Py_ssize_t rows) except -1

# Do all tasks of so many rounds with up to `size` threads, each round after the one before, and come back when they are
# done. Tasks are made of `rows` rows. `stop` becomes 1 once a signal handler has raised an exception.
cdef void run(work_function work, void *job, Py_ssize_t rounds, Py_ssize_t rows, int size, Py_ssize_t itemsize,
              pyrnn_atomic *stop) noexcept nogil
