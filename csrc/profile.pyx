"""The counters behind pyrnn.profile: a row for each thread, a column for each phase and type.

A thread takes its row when it first records something in a profile and writes to no other one, so that members of a
team and callers of Python threads never meet. Each row has a lock all the same: `stop` reads while a call may still be
under way in another thread, and threads beyond the last row share that. Taking a lock that nobody holds costs some ten
nanoseconds, once per chunk of time.
"""

import os

from libc.string cimport memcpy, memset

from pyrnn._core.wait cimport pyrnn_add, pyrnn_exchange, pyrnn_yield

cdef extern from *:
    """
    #include "wait.h"
    static PYRNN_THREAD_LOCAL long pyrnn_own_row, pyrnn_own_row_of;
    static PYRNN_THREAD_LOCAL long long pyrnn_own_time;
    """
    long own_row "pyrnn_own_row"             # of the calling thread,
    long own_row_of "pyrnn_own_row_of"       # in the profile of this number
    long long own_time "pyrnn_own_time"      # nanoseconds of all its phases in all profiles

PHASES = ("pack", "input product", "forward recurrence", "backward recurrence", "weight gradients", "input gradients",
          "output layer", "output gradients", "jacobian", "wait")

cdef enum:
    ROWS = 128

cdef struct Count:
    long long calls, nanoseconds
    double flops, numbers

cdef struct Row:
    pyrnn_atomic locked
    int member                     # of the team; 0 is whoever calls
    long long since                # what began before this moment belongs to no profile, or to an earlier one
    Count counts[COUNT_OF_PHASES][2]  # float32, float64
    char padding[64]               # two rows share no cache line

cdef Row rows[ROWS]
cdef pyrnn_atomic taken = 0, number = 0


cdef inline void take(Row *row) noexcept nogil:
    while pyrnn_exchange(&row.locked, 1):
        pyrnn_yield()


cdef void record(long long since, long long now, int phase, int member, Py_ssize_t itemsize, double flops,
                 double numbers) noexcept nogil:
    global own_row, own_row_of, own_time
    cdef Row *row
    cdef Count *count
    if own_row_of != pyrnn_load(&number):
        own_row_of = pyrnn_load(&number)
        own_row = min(pyrnn_add(&taken, 1), <long>ROWS) - 1
    own_time += now - since
    row = &rows[own_row]
    take(row)
    if since >= row.since:
        row.member = member
        count = &row.counts[phase][itemsize == 8]
        count.calls += 1
        count.nanoseconds += now - since
        count.flops += flops
        count.numbers += numbers
    pyrnn_exchange(&row.locked, 0)


def start():
    """Forget everything and record from now on."""
    cdef int i
    cdef long long now = pyrnn_nanoseconds()
    for i in range(ROWS):
        with nogil:  # who holds the lock may want the GIL, in a build with line tracing
            take(&rows[i])
            rows[i].since = now
            memset(rows[i].counts, 0, sizeof(rows[i].counts))
            pyrnn_exchange(&rows[i].locked, 0)
    pyrnn_exchange(&taken, 0)
    pyrnn_add(&number, 1)
    pyrnn_exchange(&running, 1)


def stop():
    """Record no more; [(row, member, phase, dtype, calls, seconds, flops, bytes)] of what there was."""
    cdef int i, phase, kind, member
    cdef Count counts[COUNT_OF_PHASES][2]
    cdef Count count
    pyrnn_exchange(&running, 0)
    found = []
    for i in range(ROWS):
        with nogil:
            take(&rows[i])
            member = rows[i].member
            memcpy(counts, rows[i].counts, sizeof(counts))
            pyrnn_exchange(&rows[i].locked, 0)
        for phase in range(COUNT_OF_PHASES):
            for kind in range(2):
                count = counts[phase][kind]
                if count.calls:
                    found.append((i, member, PHASES[phase], "float64" if kind else "float32", count.calls,
                                  1e-9 * count.nanoseconds, count.flops, count.numbers * (8 if kind else 4)))
    return found


def own_seconds():
    """Seconds of all phases that this thread has ever recorded."""
    return 1e-9 * own_time


def _forget():
    """After fork: a lock may have been copied at the moment when another thread held it."""
    cdef int i
    for i in range(ROWS):
        pyrnn_exchange(&rows[i].locked, 0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
