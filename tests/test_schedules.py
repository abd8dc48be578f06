"""Every threaded form under forced schedules: the bits of one thread, whoever does what and when.

A seed decides which thread does which task of a round, in which order, and where each pauses, so that a fault that
needs a busy machine shows on an idle one: a buffer shared by two loops of one round was found by the first seeds.
"""

import os
import signal

import numpy as np
import pytest
import threaded_forms

import pyrnn
from pyrnn._core import team

pytestmark = pytest.mark.compiled

THREADS = (2, 3, 7)
SEEDS = 6  # a third of them for each number of threads
MANY_SEEDS = 1000


@pytest.fixture(autouse=True)
def own_threads(monkeypatch):
    monkeypatch.setenv("PYRNN_NUM_THREADS", "1")  # put back after the test, whatever that sets
    yield
    team.set_schedule(0)


def different(forms, seeds):
    """The forms whose bits are not those of one thread, with seed and threads; seeds: pairs of both."""
    threaded_forms.threads(1)
    expected = {name: form() for name, form in forms.items()}
    assert all(form() == expected[name] for name, form in forms.items()), "not the same twice on one thread"
    found = []
    for seed, n_threads in seeds:
        threaded_forms.threads(n_threads)
        for name, form in forms.items():
            team.set_schedule(seed)
            if form() != expected[name]:
                found.append((name, seed, n_threads))
    team.set_schedule(0)
    return found


def few():
    return [(seed, THREADS[seed % 3]) for seed in range(1, 1 + SEEDS)]


@pytest.mark.parametrize("chunk", threaded_forms.CHUNKS)
@pytest.mark.parametrize("size", threaded_forms.SIZES)
def test_loops(set_chunk_bytes, size, chunk):
    set_chunk_bytes(chunk)
    assert different(threaded_forms.loops(size), few()) == []


def test_callers(set_chunk_bytes):
    set_chunk_bytes(2000)
    assert different(threaded_forms.callers(), few()) == []


@pytest.mark.peer
def test_tensors(set_chunk_bytes):
    pytest.importorskip("torch")
    set_chunk_bytes(2000)
    assert different(threaded_forms.tensors(), few()) == []


@pytest.mark.slow
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("chunk", threaded_forms.CHUNKS)
def test_many_seeds(set_chunk_bytes, chunk, n_threads):
    """Each form under a thousand seeds, the sizes in turn."""
    set_chunk_bytes(chunk)
    sizes = list(threaded_forms.SIZES)
    for i, size in enumerate(sizes):
        seeds = [(seed, n_threads) for seed in range(1 + i, 1 + MANY_SEEDS, len(sizes))]
        assert different(threaded_forms.loops(size), seeds) == []
    assert different(threaded_forms.callers(), [(seed, n_threads) for seed in range(1, 1 + MANY_SEEDS)]) == []


def test_seed_decides(monkeypatch):
    """Seeds are what `set_schedule` returns, and all threads that are asked for take part, in calls of any size."""
    assert team.set_schedule(5) == 0
    assert team.set_schedule(0) == 5
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("needs /proc to count threads")
    form = next(iter(threaded_forms.loops("small").values()))
    team.set_schedule(1)
    threaded_forms.threads(7)
    form()
    assert len(os.listdir("/proc/self/task")) >= 7


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that raises a signal")
def test_one_handler_while_a_call_winds_down():
    """Signals go on while members sleep: no handler may run with the exception of the first pending."""
    handled = []

    def handler(signum, frame):
        if frame.f_code.co_name == "backward":  # pyrnn's
            handled.append(frame)
            raise KeyboardInterrupt

    def call():
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        pyrnn.backward(h, h, x, U, W, n_threads=3)

    x, U, W = np.ones((400, 6, 4)), np.ones((32, 4)), np.eye(32)
    h, old = pyrnn.forward(x, U, W), signal.signal(signal.SIGALRM, handler)
    try:
        for seed in range(1, 9):
            team.set_schedule(seed, nap=200_000)
            handled.clear()
            try:
                with pytest.raises(KeyboardInterrupt):
                    call()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert len(handled) == 1, seed
    finally:
        signal.signal(signal.SIGALRM, old)
