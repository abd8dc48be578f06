"""A team of threads for the fused engine: they take tasks until none is left.

A job is a sequence of rounds, each of the same number of tasks that do not depend on each other. Whoever is free takes
the next task, in order, and begins it when the rounds before are complete. So a call never waits for a thread that has
not come yet: if the others sleep, or have lost their processor, the caller does their part.

The threads are Python's, which makes them portable and known to debuggers, but they never take the GIL again: they
serve jobs in C. A thread that has finished waits for the next job with its eyes open for SPIN seconds, which makes the
hand-over of a job under a microsecond in a training loop, and then goes to sleep on a lock. One team serves the whole
process. A call claims it before it takes its scratch memory, which is handed out by task; a call that finds it claimed,
from another thread or from inside, has one task and does everything itself. A child after fork starts a team of its own
when it needs one.

Tests force other schedules: `set_schedule` makes a seed choose which member does each task, in which order, and where
it pauses before, within and after the task. A fault that needs a busy machine then shows on an idle one.
"""

import _thread
import os
from contextvars import ContextVar

from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock, PyThread_type_lock,
    WAIT_LOCK,
)

from pyrnn._core cimport profile
from pyrnn._core.arrays cimport interrupted
from pyrnn._core.floating cimport pyrnn_floating, pyrnn_flush, pyrnn_restore
from pyrnn._core.profile cimport WAIT, begin, lap
from pyrnn._core.wait cimport (
    pyrnn_add, pyrnn_atomic, pyrnn_atomic64, pyrnn_exchange, pyrnn_keep_off, pyrnn_load, pyrnn_load64, pyrnn_nap,
    pyrnn_pause, pyrnn_processor, pyrnn_replace64, pyrnn_seconds, pyrnn_store64, pyrnn_thread, pyrnn_yield,
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

chosen = ContextVar("pyrnn threads", default=None)  # set by pyrnn.config.using

cdef Member members[MOST]          # members[0] is whoever calls
cdef int started = 1               # read and written by whoever has claimed the team

# The call at work. `ticket` holds its number, odd, in the upper half, and its next task in the lower one; between calls
# the number is even. The plain ones are written before the ticket opens a call, and read by who has taken a task of it.
# Even and odd rounds are counted apart: a task then reads nothing that other tasks of its round write, so that
# ThreadSanitizer takes none of them to be ordered.
cdef pyrnn_atomic busy = 0, calls = 0, total = 0
cdef pyrnn_atomic complete[2]
cdef pyrnn_atomic64 ticket = 0
cdef work_function current_work
cdef void *current_job
cdef Py_ssize_t current_rounds
cdef int current_tasks, current_size
cdef Py_ssize_t current_itemsize

# A forced schedule: its seed, 0 for none; the calls made under it; the seed of the call at work; how long a member may
# sleep, in microseconds; and who has left the call.
cdef unsigned long long seed = 0, seeded_calls = 0, current_seed = 0, longest_nap = 64
cdef pyrnn_atomic left = 0

cdef extern from *:
    """
    #include "wait.h"
    static PYRNN_THREAD_LOCAL unsigned long long pyrnn_phases;
    """
    unsigned long long phases "pyrnn_phases"  # that the calling thread has been through under forced schedules


cdef void wait_for(Py_ssize_t round, int member, Py_ssize_t itemsize, pyrnn_atomic *stop) noexcept nogil:
    """Wait until a round may begin; the processor of a member that waits for long goes to one that has work.

    The caller looks for Ctrl-C meanwhile: `stop`, NULL for the others.
    """
    cdef int i = 0
    cdef double since = 0
    cdef long long clock
    cdef pyrnn_atomic *before = &complete[(round + 1) % 2]
    cdef long count = current_tasks * <long>((round + 1) // 2)
    if pyrnn_load(before) >= count:
        return
    clock = begin()
    while pyrnn_load(before) < count:
        i += 1
        if i < 4000 and not current_seed:
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
    cdef long task, round
    cdef pyrnn_floating state = pyrnn_flush()  # of this thread
    while True:
        now = pyrnn_load64(&ticket)
        task = <long>(now & 0x7fffffff)
        if now >> 32 != call or task >= pyrnn_load(&total):
            break
        if current_seed:
            follow_schedule(member, stop)
            break
        if pyrnn_replace64(&ticket, now, now + 1):
            round = task // current_tasks
            wait_for(round, member, current_itemsize, stop)
            current_work(current_job, round, task % current_tasks, current_tasks, member)
            pyrnn_add(&complete[round % 2], 1)
    pyrnn_restore(state)


# ---- Forced schedules, for tests ------------------------------------------------------------------------------------
cdef unsigned long long mixed(unsigned long long a, unsigned long long b) noexcept nogil:
    """A number that depends on all bits of both (the finalizer of SplitMix64; Steele, Lea, Flood, OOPSLA 2014)."""
    a += (b + 1) * <unsigned long long>0x9e3779b97f4a7c15
    a = (a ^ (a >> 30)) * <unsigned long long>0xbf58476d1ce4e5b9
    a = (a ^ (a >> 27)) * <unsigned long long>0x94d049bb133111eb
    return a ^ (a >> 31)


cdef void disturb(unsigned long long chance) noexcept nogil:
    """Do nothing, spin, give the processor away, or sleep."""
    cdef unsigned long long _
    if chance % 16 < 4:
        for _ in range((chance >> 8) % 512):
            pyrnn_pause()
    elif chance % 16 < 6:
        pyrnn_yield()
    elif chance % 16 == 6:
        pyrnn_nap(<long>((chance >> 8) % longest_nap))


cdef void between_phases() noexcept nogil:
    global phases
    phases += 1
    disturb(mixed(seed, phases))


cdef void follow_schedule(int member, pyrnn_atomic *stop) noexcept nogil:
    """Do the tasks that the seed gives to a member, in the seed's order; all members take part before the call ends."""
    cdef Py_ssize_t round
    cdef int i, task, tasks = current_tasks
    cdef unsigned long long chance
    for round in range(current_rounds):
        chance = mixed(current_seed, round)
        for i in range(tasks):
            # Any step that is prime to the number of tasks goes through all of them: 1 or the number less 1.
            task = (<int>(chance >> 32) & 0x7fffffff) % tasks
            task = (task + i) % tasks if chance & 1 else (task + i * (tasks - 1)) % tasks
            if mixed(chance, task) % <unsigned long long>current_size != <unsigned long long>member:
                continue
            wait_for(round, member, current_itemsize, stop)
            disturb(mixed(chance, tasks + task))
            current_work(current_job, round, task, tasks, member)
            disturb(mixed(chance, 2 * tasks + task))
            pyrnn_add(&complete[round % 2], 1)
    pyrnn_add(&left, 1)


def set_schedule(unsigned long long number, unsigned long long nap=64):
    """Let the seed `number` choose the schedule of the calls that follow, 0 for none; returns the seed before.

    nap: microseconds that a member may sleep between two phases, fewer than.

    A call then takes as many threads as it is told to, whatever its size, up to one for each sequence, and all of them
    take part.
    """
    global seed, seeded_calls, longest_nap
    before, seed, seeded_calls, longest_nap = seed, number, 0, max(nap, 1)
    if number:
        profile.after_phase = between_phases
    else:
        profile.after_phase = NULL
    return before


# ---- A call ---------------------------------------------------------------------------------------------------------
cdef Shares divide(object wanted, double flops, Py_ssize_t rows) except *:
    cdef Shares shares
    cdef Py_ssize_t size = rows, least = 1
    if not seed:
        least = ROWS
        size = min(rows // ROWS, <Py_ssize_t>min(flops / WORTH, <double>MOST))
    shares.size = shares.tasks = 1
    if size >= 2:
        size = min(size, <Py_ssize_t>min(default_threads() if wanted is None else wanted, MOST))
    if size < 2 or pyrnn_exchange(&busy, 1):
        return shares
    try:
        shares.size = have_started(<int>size)
    finally:
        if shares.size == 1:
            pyrnn_exchange(&busy, 0)
    if shares.size > 1:
        shares.tasks = <int>min(rows // least, <Py_ssize_t>PIECES * shares.size)
    return shares


cdef void release(const Shares *shares) noexcept nogil:
    if shares.size > 1:
        pyrnn_exchange(&busy, 0)


cdef void run(const Shares *shares, work_function work, void *job, Py_ssize_t rounds, Py_ssize_t itemsize,
              pyrnn_atomic *stop) noexcept nogil:
    global current_work, current_job, current_rounds, current_tasks, current_size, current_itemsize
    global current_seed, seeded_calls
    cdef int i, task, size = shares.size, tasks = shares.tasks
    cdef Py_ssize_t round
    cdef long call, processor
    if size == 1 or tasks * rounds > 0x7fffffff:
        for round in range(rounds):
            for task in range(tasks):
                work(job, round, task, tasks, 0)
        return
    call = (pyrnn_load(&calls) + 2) & 0x3fffffff | 1
    pyrnn_exchange(&calls, call)
    current_work, current_job, current_rounds, current_tasks, current_itemsize = work, job, rounds, tasks, itemsize
    current_size, current_seed = size, seed
    if seed:
        seeded_calls += 1
        current_seed = mixed(seed, seeded_calls) | 1
    pyrnn_exchange(&left, 0)
    pyrnn_exchange(&complete[0], 0)
    pyrnn_exchange(&complete[1], 0)
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
    wait_for(rounds, 0, itemsize, stop)
    while current_seed and pyrnn_load(&left) < size:
        pyrnn_yield()
    pyrnn_store64(&ticket, <long long>(call + 1) << 32)


# ---- The members ----------------------------------------------------------------------------------------------------
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
                # A job may arrive between the check and the sleep; whoever clears `asleep` first releases the lock.
                if pyrnn_load(&me.call) == done or not pyrnn_exchange(&me.asleep, 0):
                    PyThread_acquire_lock(me.alarm, WAIT_LOCK)
                since = pyrnn_seconds()
        done = pyrnn_load(&me.call)
        take_part(index, done, NULL)


def _serve(int index):
    with nogil:
        serve(index)


cdef int have_started(int size) except -1:
    """Start members until the team has `size` of them; return how many it has. The caller has claimed the team."""
    global started
    cdef PyThread_type_lock alarm
    while started < size:
        alarm = PyThread_allocate_lock()
        if alarm == NULL:
            break
        PyThread_acquire_lock(alarm, WAIT_LOCK)
        members[started].call, members[started].asleep, members[started].thread = 0, 0, 0
        members[started].kept_off, members[started].alarm = -1, alarm
        try:
            _thread.start_new_thread(_serve, (started,))
        except RuntimeError:  # no more threads to be had: those there are do
            PyThread_release_lock(alarm)
            PyThread_free_lock(alarm)
            break
        started += 1
    return min(size, started)


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
    """The number that `pyrnn.config.using` has set here, or PYRNN_NUM_THREADS, or the processors of this process."""
    number = chosen.get()
    if number is not None:
        return number
    text = os.environ.get("PYRNN_NUM_THREADS", "").strip()
    if not text:
        return processors()
    if not (text.isdecimal() and len(text.lstrip("0")) < 10 and int(text) > 0):
        shown = text if len(text) < 40 else text[:40] + "..."
        raise ValueError(
            f"environment variable PYRNN_NUM_THREADS must be a positive integer below 10^9, got {shown!r}"
        )
    return int(text)
