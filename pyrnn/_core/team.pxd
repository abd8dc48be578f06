from pyrnn._core.wait cimport pyrnn_atomic

# A task of a round of a job, done by `member`, 0 for the calling thread. A round has `tasks` tasks, which share it out;
# they may be as few as 1: the result must not depend on it. Memory that a task writes in a round, no other task of that
# round reads or writes: scratch memory comes from Scratch.take_by_task.
ctypedef void (*work_function)(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil

cdef struct Shares:                # how a call is divided
    int size                       # threads that take part, the caller among them; more than 1: the team is claimed
    int tasks                      # of each round

# Divide a call of `rows` rows: at most `wanted` threads, as many as there are and as the work is worth. Starts them,
# and claims the team until `release`; one task where another call has it.
cdef Shares divide(object wanted, double flops, Py_ssize_t rows) except *

cdef void release(const Shares *shares) noexcept nogil

# Do all tasks of `rounds` rounds, each round after the one before, and return when they are done. `stop` becomes 1
# once a signal handler has raised an exception.
cdef void run(const Shares *shares, work_function work, void *job, Py_ssize_t rounds, Py_ssize_t itemsize,
              pyrnn_atomic *stop) noexcept nogil
