"""A team of threads for the fused engine: they take tasks until none is left.

A job is a sequence of rounds, each of the same number of tasks that do not depend on each other. Whoever is free takes
the next task, in order, and begins it when the rounds before are complete. So a call never waits for a thread that has
not come yet: if the others sleep, or have lost their processor, the caller does their part.

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

from pyrnn._arrays cimport interrupted
from pyrnn._profile cimport WAIT, begin, lap
from pyrnn._wait cimport (
    pyrnn_add, pyrnn_atomic, pyrnn_atomic64, pyrnn_exchange, pyrnn_keep_off, pyrnn_load, pyrnn_load64, pyrnn_pause,
    pyrnn_processor, pyrnn_replace64, pyrnn_seconds, pyrnn_store64, pyrnn_thread, pyrnn_yield,
)

cdef enum:
    MOST = 64  # members

cdef double SPIN = 100e-6          # seconds that a thread without work waits awake
cdef double WORTH = 4e6            # flops that a member must have to be worth its hand-over: 20-40 us
cdef Py_ssize_t ROWS = 4           # fewest rows of a task
cdef int PIECES = 2                # tasks of a round for each member, so that one who comes late finds some left

cdef struct Member:
    pyrnn_atomic call              # the number of the last call that it was asked to
    pyrnn_atomic asleep            # 1 while it waits, or is about to wait, for `alarm`
    pyrnn_atomic thread            # its number in the system, 0 until it has begun
    long kept_off                  # the processor that it must not run on: that of the caller
    PyThread_type_lock alarm       # held but for the moment of waking it

cdef Member members[MOST]          # members[0] is whoever calls
cdef int started = 1

# The call at work. `ticket` holds its number, odd, in the upper half, and its next task in the lower one; between calls
# the number is even. The plain ones are written before the ticket opens a call, and read by who has taken a task of it.
cdef pyrnn_atomic busy = 0, calls = 0, total = 0, complete = 0
cdef pyrnn_atomic64 ticket = 0
cdef work_function current_work
cdef void *current_job
cdef int current_tasks
cdef Py_ssize_t current_itemsize


cdef void wait_for(long count, int member, Py_ssize_t itemsize, pyrnn_atomic *stop) noexcept nogil:
    """Wait until so many tasks are complete; who has no processor to do them gets this one after a while.

    The caller looks for Ctrl-C meanwhile: `stop`, NULL for the others.
    """
    cdef int i = 0
    cdef double since = 0
    cdef long long clock
    if pyrnn_load(&complete) >= count:
        return
    clock = begin()
    while pyrnn_load(&complete) < count:
        i += 1
        if i < 4000:
            pyrnn_pause()
            continue
        pyrnn_yield()
        if stop != NULL:
            if since == 0:
                since = pyrnn_seconds()
            if interrupted(&since):
                pyrnn_exchange(stop, 1)
    lap(clock, WAIT, member, itemsize, 0, 0)


cdef void take_part(int member, long call, pyrnn_atomic *stop) noexcept nogil:
    """Do tasks of the call of this number until all are taken."""
    cdef long long now
    cdef long task
    while True:
        now = pyrnn_load64(&ticket)
        task = <long>(now & 0x7fffffff)
        if now >> 32 != call or task >= pyrnn_load(&total):
            return
        if pyrnn_replace64(&ticket, now, now + 1):
            wait_for(task - task % current_tasks, member, current_itemsize, stop)
            current_work(current_job, task // current_tasks, task % current_tasks, current_tasks, member)
            pyrnn_add(&complete, 1)


cdef void run(work_function work, void *job, Py_ssize_t rounds, Py_ssize_t rows, int size, Py_ssize_t itemsize,
              pyrnn_atomic *stop) noexcept nogil:
    global current_work, current_job, current_tasks, current_itemsize
    cdef int i, tasks = <int>min(rows // ROWS, <Py_ssize_t>PIECES * size)
    cdef long call, processor
    if size == 1 or tasks * rounds > 0x7fffffff or pyrnn_exchange(&busy, 1):
        for i in range(rounds):
            work(job, i, 0, 1, 0)
        return
    call = (pyrnn_load(&calls) + 2) & 0x3fffffff | 1
    pyrnn_exchange(&calls, call)
    current_work, current_job, current_tasks, current_itemsize = work, job, tasks, itemsize
    pyrnn_exchange(&complete, 0)
    pyrnn_exchange(&total, tasks * rounds)
    pyrnn_store64(&ticket, <long long>call << 32)
    processor = pyrnn_processor()
    for i in range(1, size):
        if members[i].kept_off != processor and pyrnn_load(&members[i].thread):
            members[i].kept_off = processor
            pyrnn_keep_off(pyrnn_load(&members[i].thread), processor)
        pyrnn_exchange(&members[i].call, call)
        if pyrnn_exchange(&members[i].asleep, 0):
            PyThread_release_lock(members[i].alarm)
    take_part(0, call, stop)
    wait_for(tasks * rounds, 0, itemsize, stop)
    pyrnn_store64(&ticket, <long long>(call + 1) << 32)
    pyrnn_exchange(&busy, 0)


cdef void serve(int index) noexcept nogil:
    cdef Member *me = &members[index]
    cdef long done = 0
    cdef double since
    cdef int i
    pyrnn_exchange(&me.thread, pyrnn_thread())
    while True:
        since, i = pyrnn_seconds(), 0
        while pyrnn_load(&me.call) == done:
            pyrnn_pause()
            i += 1
            if i % 64 == 0 and pyrnn_seconds() - since > SPIN:
                pyrnn_exchange(&me.asleep, 1)
                # Called between the look and the nap: whoever clears `asleep` first decides who releases the lock.
                if pyrnn_load(&me.call) == done or not pyrnn_exchange(&me.asleep, 0):
                    PyThread_acquire_lock(me.alarm, WAIT_LOCK)
                since = pyrnn_seconds()
        done = pyrnn_load(&me.call)
        take_part(index, done, NULL)


def _serve(int index):
    with nogil:
        serve(index)


def _forget():
    """After fork: the threads are not here, and their numbers may have been copied at any moment."""
    global started
    started = 1
    pyrnn_exchange(&busy, 0)


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
        members[started].call, members[started].asleep, members[started].thread = 0, 0, 0
        members[started].kept_off = -1
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
