"""Calls from several threads at once, after a fork, and interrupted.

Each test runs a script in a process of its own, because the number of BLAS's threads is fixed when it is loaded. The
scripts use all processors even where the tests are pinned to one.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.compiled, pytest.mark.python]

CALLS = 400  # of all four threads together
SLOW_CALLS = 10_000
THREADS_OF_BLAS = [None, "1", "4"]  # OPENBLAS_NUM_THREADS; None leaves the choice to OpenBLAS

COMMON = """
import itertools, os, random, signal, sys, threading, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, range(os.cpu_count()))
import numpy as np
from helpers import BLAS, FUSED, InEngine
import pyrnn


def network(T, B, I, H, dtype, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"x": (T, B, I), "U": (H, I), "W": (H, H), "b": (H,), "h0": (B, H)}
    arrays = {name: (rng.normal(size=shape) / np.sqrt(H)).astype(dtype) for name, shape in shapes.items()}
    return arrays, rng.normal(size=(T, B, H)).astype(dtype)


def jobs(T, B, I, H, dtype):
    "The calls that share one network, each a function without arguments that returns arrays."
    forward_arguments, dh = network(T, B, I, H, dtype)
    rest = {name: a for name, a in forward_arguments.items() if name != "b"}
    h = pyrnn.forward(**forward_arguments)
    V, c = dh[0, :1].repeat(5, axis=0) / H, np.zeros(5, dtype)
    made = pyrnn.Network(rest["U"], rest["W"], forward_arguments["b"], V, c)
    leaky = made._replace(cell=pyrnn.Cell(alpha=0.3, form="current"))
    targets = np.arange(T * B).reshape(T, B) % 5

    def loss_and_gradients():
        loss, gradients = pyrnn.loss_and_gradients(made, rest["x"], targets, h0=rest["h0"])
        return [np.asarray(loss), *(a for a in gradients if a is not None)]

    def currents():
        run = FUSED.simulate(leaky, rest["x"], rest["h0"])
        return [run.h, run.rates, *FUSED(run.backward)(dh, dh)[:5]]

    return [
        lambda: [BLAS.forward(**forward_arguments)],
        lambda: list(BLAS.backward(dh, h, **rest)[:5]),
        lambda: [FUSED.forward(**forward_arguments)],
        lambda: list(FUSED.backward(dh, h, **rest)[:5]),
        lambda: [pyrnn.state_gradients(dh, h, rest["W"])],
        loss_and_gradients,
        currents,
    ]


def same(ours, expected):
    return all(a.tobytes() == b.tobytes() for a, b in zip(ours, expected, strict=True))


# T, B, I, H below and above the sizes from which OpenBLAS uses threads: 262,144 products for gemm (per step B H H; over
# a chunk T B H I), 460,800 for gemv.
SHAPES = [(5, 1, 3, 8), (30, 2, 16, 32), (3, 40, 8, 64), (4, 32, 64, 128), (2, 64, 128, 128), (3, 16, 192, 256),
          (2, 1, 32, 768), (40, 8, 24, 48)]
"""

CONCURRENT = """
calls, n_threads = int(sys.argv[1]), 4
work = [job for shape in SHAPES for dtype in ("float32", "float64") for job in jobs(*shape, dtype)]
expected = [job() for job in work]
assert all(same(job(), result) for job, result in zip(work, expected)), "serial results differ between themselves"
wrong, start = [], threading.Barrier(n_threads)


def run(seed):
    order = random.Random(seed)
    start.wait()
    for _ in range(calls // n_threads):
        i = order.randrange(len(work))
        try:
            if not same(work[i](), expected[i]):
                wrong.append(i)
        except BaseException as error:
            wrong.append(error)


threads = [threading.Thread(target=run, args=(seed,)) for seed in range(n_threads)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"{len(wrong)} of {calls} wrong", sorted({str(w) for w in wrong}))
"""

FORK = """
work = jobs(4, 32, 64, 128, "float32")
expected = [job() for job in work]
stop = threading.Event()


def keep_busy():
    while not stop.is_set():
        small[3]()


# Another thread is in the middle of a call when the process forks; it takes no lock of BLAS's own, whose fate in the
# child is not ours to mend.
small = jobs(5, 1, 3, 8, "float32")
thread = threading.Thread(target=keep_busy)
thread.start()
failed = 0
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if all(same(job(), result) for job, result in zip(work, expected)) else 1)
    deadline = time.monotonic() + 1800  # a child that hangs, not one that is slow
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.005)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print("a child hangs")
    failed += ended == (0, 0) or ended[1] != 0
stop.set()
thread.join()
print("after the fork", all(same(job(), result) for job, result in zip(work, expected)), "children failed", failed)
"""

# Work for more than 2 s at 60 GF/s (of the Jacobian: 0.1 s at 10 GB/s), interrupted soon after it starts.
INTERRUPT = """
what, engine, delay = sys.argv[1], sys.argv[2], float(sys.argv[3])
T, H = 60_000, 1024
rng = np.random.default_rng(0)
U, W, row = rng.normal(size=(H, 1)), rng.normal(size=(H, H)) / np.sqrt(H), rng.uniform(-0.5, 0.5, H)
U, W, row = U.astype("f"), W.astype("f"), row.astype("f")
x, h = np.ones((T, 1, 1), "f"), np.broadcast_to(row, (T, 1, H))
call = {
    "forward": lambda n: InEngine(engine).forward(x[:n], U, W),
    "backward": lambda n: InEngine(engine).backward(h[:n], h[:n], x[:n], U, W).W,
    "state_gradients": lambda n: pyrnn.state_gradients(h[:n], h[:n], W),
    "jacobian": lambda n: pyrnn.jacobian(h[: min(n, 256)], W),
}[what]
expected = call(3)
signal.signal(signal.SIGPROF, signal.default_int_handler)
start = time.process_time()
signal.setitimer(signal.ITIMER_PROF, delay)
try:
    call(T)
    print("not interrupted", time.process_time() - start)
except KeyboardInterrupt:
    print("interrupted", time.process_time() - start - delay, same([call(3)], [expected]))
"""


def run(script, *arguments, blas_threads=None, timeout=3600):
    """What the script prints, in a process where BLAS has this many threads."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.getenv("PYTHONPATH")]))
    if blas_threads is not None:
        environment["OPENBLAS_NUM_THREADS"] = blas_threads
    process = subprocess.run(
        [sys.executable, "-P", "-c", COMMON + script, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.parametrize("calls", [CALLS, pytest.param(SLOW_CALLS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("blas_threads", THREADS_OF_BLAS)
def test_four_threads_get_what_one_gets(blas_threads, calls):
    assert run(CONCURRENT, calls, blas_threads=blas_threads) == f"0 of {calls} wrong []"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("blas_threads", THREADS_OF_BLAS)
def test_forked_child(blas_threads):
    assert run(FORK, blas_threads=blas_threads) == "after the fork True children failed 0"


@pytest.mark.unsanitized
@pytest.mark.skipif(not hasattr(signal, "ITIMER_PROF"), reason="needs timers of processor time")
@pytest.mark.parametrize(
    ("what", "engine", "delay"),
    [
        ("forward", "blas", 0.3),
        ("forward", "fused", 0.3),
        ("backward", "blas", 0.3),
        ("backward", "fused", 0.3),
        ("state_gradients", "auto", 0.3),
        ("jacobian", "auto", 0.02),
    ],
)
def test_interrupt(what, engine, delay):
    outcome = run(INTERRUPT, what, engine, delay, blas_threads="1").split()
    assert outcome[0] == "interrupted"
    assert float(outcome[1]) < 0.5
    assert outcome[2] == "True"
