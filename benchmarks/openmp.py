"""Why pyrnn has a team of its own and not OpenMP: both on a job of the same length, after gaps of several lengths.

    OPENBLAS_NUM_THREADS=1 python -P benchmarks/openmp.py

Needs gcc. The OpenMP side is a loop of multiply-adds, cut in two halves by a parallel region; ours is `pyrnn.forward`,
as long on one thread. Printed: how many times as fast two threads are as one, medians, the two libraries in turn. Then:
does a child after fork get through a call? The environment OMP_WAIT_POLICY=passive shows libgomp without spinning.
"""

import ctypes
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

import pyrnn

SOURCE = """
#include <omp.h>
double work(long n, int threads)
{
    double total[2];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int half = 0; half < 2; half++) {
        double a[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        for (long i = 0; i < n / 2; i++)
            for (int k = 0; k < 8; k++) a[k] = a[k] * 0.5 + 1;
        total[half] = a[0] + a[7];
    }
    return total[0] + total[1];
}
"""
GAPS = (0, 50e-6, 500e-6, 5e-3)  # seconds between two calls
LENGTHS = (200e-6, 1e-3, 5e-3)  # seconds of a call on one thread


def openmp_library():
    folder = Path(tempfile.mkdtemp())
    (folder / "work.c").write_text(SOURCE)
    subprocess.run(["gcc", "-O2", "-fopenmp", "-shared", "-fPIC", "work.c", "-o", "work.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "work.so"))
    library.work.restype = ctypes.c_double
    return lambda n, threads: library.work(ctypes.c_long(n), threads)


def seconds(call, gap, rounds=40):
    """The median time of calls after gaps in which the caller sleeps."""
    times = []
    for _ in range(rounds):
        if gap:
            time.sleep(gap)
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def ours(length):
    """forward of about this many seconds on one thread."""
    params = pyrnn.initialize(32, 128, rng=0, dtype=np.float32)
    x = np.random.default_rng(0).standard_normal((20, 16, 32), np.float32)
    call = lambda x, threads: pyrnn.forward(x, params.U, params.W, n_threads=threads)
    one = seconds(lambda: call(x, 1), 0)
    x = np.resize(x, (max(1, round(20 * length / one)), 16, 32))
    return lambda threads: call(x, threads)


def theirs(work, length):
    n = round(1e6 * length / seconds(lambda: work(1_000_000, 1), 0))
    return lambda threads: work(n, threads)


def survives_fork(call):
    """Whether a child that is made after a threaded call gets through one of its own in ten seconds."""
    call(2)
    child = multiprocessing.get_context("fork").Process(target=call, args=(2,))
    child.start()
    child.join(10)
    if alive := child.is_alive():
        child.kill()
        child.join()
    return not alive and child.exitcode == 0


def main():
    work = openmp_library()
    print(f"OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY', 'not set')}; two threads against one")
    print("| call | gap | pyrnn | OpenMP |\n|---|---|---|---|")
    for length in LENGTHS:
        calls = [ours(length), theirs(work, length)]
        for gap in GAPS:
            ratios = [seconds(lambda c=call: c(1), gap) / seconds(lambda c=call: c(2), gap) for call in calls]
            cells = [f"{ratio:.2f}x" for ratio in ratios]
            print(f"| {length * 1e3:.1f} ms | {gap * 1e3:.2f} ms | {' | '.join(cells)} |", flush=True)
    print("after fork: pyrnn", "works;" if survives_fork(ours(1e-3)) else "hangs;", end=" ", flush=True)
    print("OpenMP", "works" if survives_fork(theirs(work, 1e-3)) else "hangs")


if __name__ == "__main__":
    main()
