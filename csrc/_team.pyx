"""A team of threads for the fused engine: rows are split between them, nothing is shared but the barrier.

The threads are Python's, which makes them portable and known to debuggers, but they never take the GIL again: they
serve jobs in C. A thread that has finished waits for the next job with its eyes open for SPIN seconds, which makes the
hand-over of a job under a microsecond in a training loop, and then goes to sleep on a lock. One team serves the whole
process; a call that finds it at work, from another thread or from inside, does everything itself. A child after fork
starts a team of its own when it needs one.
"""

import _thread
import os

from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_release_lock, PyThread_type_lock, WAIT_LOCK,
)

cdef extern from "wait.h":
    ctypedef long pyrnn_atomic
    long pyrnn_load(pyrnn_atomic *a) noexcept nogil
    long pyrnn_exchange(pyrnn_atomic *a, long v) noexcept nogil
    long pyrnn_add(pyrnn_atomic *a, long v) noexcept nogil
    void pyrnn_yield() noexcept nogil
    void pyrnn_pause() noexcept nogil
    double pyrnn_seconds() noexcept nogil

cdef enum:
    MOST = 64  # members

cdef double SPIN = 100e-6          # seconds that a thread without work waits awake
cdef double WORTH = 4e6            # flops that a member must have to be worth its hand-over: 20-40 us
cdef Py_ssize_t ROWS = 4           # fewest rows of a member

cdef struct Member:
    pyrnn_atomic job               # the number of the last job that it was called to
    pyrnn_atomic asleep            # 1 while it waits, or is about to wait, for `alarm`
    PyThread_type_lock alarm       # held but for the moment of waking it

cdef Member members[MOST]          # members[0] is whoever calls
cdef int started = 1
cdef pyrnn_atomic busy = 0, unfinished = 0, arrived = 0, phase = 0
cdef work_function current_work
cdef void *current_job
cdef int current_size


cdef void spin(pyrnn_atomic *a, long old) noexcept nogil:
    """Wait until the number changes; a holder of the processor that it waits for gets it after a while."""
    cdef int i = 0
    while pyrnn_load(a) == old:
        i += 1
        if i < 4000:
            pyrnn_pause()
        else:
            pyrnn_yield()


cdef void barrier(int size) noexcept nogil:
    cdef long now = pyrnn_load(&phase)
    if size == 1:
        return
    if pyrnn_add(&arrived, 1) == size:
        pyrnn_exchange(&arrived, 0)
        pyrnn_add(&phase, 1)
    else:
        spin(&phase, now)


cdef void run(work_function work, void *job, int size) noexcept nogil:
    global current_work, current_job, current_size
    cdef int i
    cdef long left
    if size == 1 or pyrnn_exchange(&busy, 1):
        work(job, 0, 1)
        return
    current_work, current_job, current_size = work, job, size
    pyrnn_exchange(&unfinished, size - 1)
    for i in range(1, size):
        pyrnn_add(&members[i].job, 1)
        if pyrnn_exchange(&members[i].asleep, 0):
            PyThread_release_lock(members[i].alarm)
    work(job, 0, size)
    left = pyrnn_load(&unfinished)
    while left:
        spin(&unfinished, left)
        left = pyrnn_load(&unfinished)
    pyrnn_exchange(&busy, 0)


cdef void serve(int index) noexcept nogil:
    cdef Member *me = &members[index]
    cdef long done = 0
    cdef double since
    cdef int i
    while True:
        since, i = pyrnn_seconds(), 0
        while pyrnn_load(&me.job) == done:
            pyrnn_pause()
            i += 1
            if i % 64 == 0 and pyrnn_seconds() - since > SPIN:
                pyrnn_exchange(&me.asleep, 1)
                # Called between the look and the nap: whoever clears `asleep` first decides who releases the lock.
                if pyrnn_load(&me.job) == done or not pyrnn_exchange(&me.asleep, 0):
                    PyThread_acquire_lock(me.alarm, WAIT_LOCK)
                since = pyrnn_seconds()
        done += 1
        current_work(current_job, index, current_size)
        pyrnn_add(&unfinished, -1)


def _serve(int index):
    with nogil:
        serve(index)


def _forget():
    """After fork: the threads are not here, and their numbers may have been copied at any moment."""
    global started
    started = 1
    pyrnn_exchange(&busy, 0)
    pyrnn_exchange(&arrived, 0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def processors():
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads():
    """PYRNN_NUM_THREADS, or the processors that this process may use."""
    text = os.environ.get("PYRNN_NUM_THREADS", "").strip()
    if not text:
        return processors()
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"environment variable PYRNN_NUM_THREADS must be a positive integer, got {text!r}")
    return int(text)


cdef int team_size(object wanted, double flops, Py_ssize_t rows) except -1:
    global started
    cdef Py_ssize_t size = min(rows // ROWS, <Py_ssize_t>min(flops / WORTH, <double>MOST), <Py_ssize_t>MOST)
    if size < 2:
        return 1
    size = min(size, <Py_ssize_t>(default_threads() if wanted is None else min(wanted, MOST)))
    while started < size:
        members[started].job, members[started].asleep = 0, 0
        members[started].alarm = PyThread_allocate_lock()
        if members[started].alarm == NULL:
            break
        PyThread_acquire_lock(members[started].alarm, WAIT_LOCK)
        try:
            _thread.start_new_thread(_serve, (started,))
        except RuntimeError:  # no more threads to be had: those there are do
            break
        started += 1
    return <int>min(size, <Py_ssize_t>started)
