# What the loops over time tell a profile. They call `begin` before a phase and `lap` after each, once per chunk of
# time, never per step; while no profile runs that is a look at one number.
from pyrnn._core.wait cimport pyrnn_atomic, pyrnn_load, pyrnn_nanoseconds

cdef enum:  # the phases; their names, in this order, are PHASES in profile.pyx
    PACK, INPUT_PRODUCT, FORWARD_RECURRENCE, BACKWARD_RECURRENCE, WEIGHT_GRADIENTS, INPUT_GRADIENTS, OUTPUT
    OUTPUT_GRADIENTS, JACOBIAN, WAIT, COUNT_OF_PHASES

cdef pyrnn_atomic running  # 1 while a profile does
cdef void (*after_phase)() noexcept nogil  # what tests of threads do between phases, else NULL

cdef void record(long long since, long long now, int phase, int member, Py_ssize_t itemsize, double flops,
                 double numbers) noexcept nogil

cdef inline long long begin() noexcept nogil:
    """The time, or 0 if there is no profile."""
    return pyrnn_nanoseconds() if pyrnn_load(&running) else 0

cdef inline long long lap(long long since, int phase, int member, Py_ssize_t itemsize, double flops,
                          double numbers) noexcept nogil:
    """Record a phase of `member` of a team, from `since` to now, which is returned for the next; nothing if 0.

    flops: two for each multiply-add of a matrix product. numbers, of itemsize bytes: the operands, each read or
    written once in a call; of what all members read or all chunks need, like W, the first one counts it.
    """
    cdef long long now = 0
    if after_phase != NULL:
        after_phase()
    if since:
        now = pyrnn_nanoseconds()
        record(since, now, phase, member, itemsize, flops, numbers)
    return now
