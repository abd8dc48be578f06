"""Seconds a call, contenders in turn: a drift of the machine's speed falls on all of them."""

import os
import statistics
import subprocess
import sys
import time


def environment(threads):
    """The variables that a process which measures starts with.

    They hold BLAS, OpenMP and XLA to so many threads, and let glibc keep freed memory: else it depends on what was
    allocated before whether results lie in fresh pages, with a page fault each, and the same call takes 500 or 1400
    microseconds (forward and gradients, H = 32, B = 32, T = 100, on a virtual machine).
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    variables = dict.fromkeys(names, str(threads))
    variables |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
    if threads == 1:
        variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return variables


def again(threads):
    """Run this script once more with --here, in a process that has these variables from its start; its exit status."""
    variables = os.environ | environment(threads) | {"PYRNN_NUM_THREADS": str(threads)}
    return subprocess.run([sys.executable, "-P", *sys.argv, "--here"], env=variables).returncode


def pin(threads):
    """Keep this process to the last `threads` of its processors, where the system can; returns those it had."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-threads:])
    return before


def in_turn(functions, *, seconds=0.15, rounds=7, clock=time.perf_counter):
    """Seconds a call, by name: a list over rounds, in each of which every function runs in turn.

    Parameters
    ----------
    functions : dict of str to callable
        Without arguments; called twice before the first round.
    seconds : float
        How long each function runs over all rounds, about; at least one call a round.
    rounds : int
        At most; 5 at least, and no more than 5 once the rounds have taken four times what they should.
    clock : callable
        The seconds that are counted: `time.process_time` on a machine that others use too.
    """
    repeats, times = {}, {name: [] for name in functions}
    for name, function in functions.items():
        function()
        begin = clock()
        function()
        repeats[name] = max(1, int(seconds / rounds / max(1e-7, clock() - begin)))
    end = time.perf_counter() + 4 * seconds * len(functions)
    for done in range(rounds):
        if done >= 5 and time.perf_counter() > end:
            break
        for name, function in functions.items():
            begin = clock()
            for _ in range(repeats[name]):
                function()
            times[name].append((clock() - begin) / repeats[name])
    return times


def medians(times):
    """The median over rounds, by name."""
    return {name: statistics.median(values) for name, values in times.items()}


def ratios(times, to="pyrnn"):
    """How many times as long the others took as `to`: the median over rounds of the quotient within a round."""
    return {
        name: statistics.median(theirs / ours for theirs, ours in zip(values, times[to], strict=True))
        for name, values in times.items()
        if name != to
    }
