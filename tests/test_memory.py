"""Memory of large arrays that are gone, kept for the next ones."""

import gc
import os
import pickle
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from helpers import network

import pyrnn
from pyrnn._core import memory, table

pytestmark = pytest.mark.compiled

LARGE = (64, 64, 32)  # 512 KB of float32
KEPT = 64 << 20


@pytest.fixture(autouse=True)
def nothing_kept():
    gc.collect()
    memory.release()
    yield
    memory.release()


@pytest.fixture
def keeps():
    """Skips where nothing is kept: with the address sanitizer, which wants each array alone."""
    a = memory.empty(LARGE, np.float32)
    del a
    if memory.release() == 0:
        pytest.skip("nothing is kept in this build")


def address(a):
    return a.ctypes.data


def test_memory_comes_back(keeps):
    a = memory.empty(LARGE, np.float32)
    first = address(a)
    view = a[3:]
    del a
    assert address(memory.empty(LARGE, np.float32)) != first  # the view holds it
    del view
    assert address(memory.empty(LARGE, np.float32)) == first


def test_results_of_public_functions(keeps):
    n = network(T=100, B=32, I=16, H=64, dtype=np.float32)
    arguments = [n[name] for name in ("x", "U", "W", "b", "h0")]
    first = pyrnn.forward(*arguments)
    expected, at = first.copy(), address(first)
    del first
    again = pyrnn.forward(*arguments)
    assert address(again) == at
    np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("size", [1, 1000, 1 << 14, 1 << 20, 1 << 24])
def test_arrays_are_like_others(size):
    a = memory.empty((size,), np.float64)
    assert a.flags.owndata
    assert a.flags.c_contiguous
    assert a.base is None
    if a.nbytes >= 1 << 16:
        assert address(a) % 64 == 0
    a[...] = np.arange(size)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(a)), np.arange(size))
    a.resize(2 * size, refcheck=False)
    np.testing.assert_array_equal(a[:size], np.arange(size))
    assert (a[size:] == 0).all()
    a.resize(size // 2, refcheck=False)
    np.testing.assert_array_equal(a, np.arange(size // 2))


def test_empty_and_impossible_shapes():
    assert memory.empty((0, 5), np.float32).shape == (0, 5)
    assert memory.empty((), np.float32).shape == ()
    with pytest.raises(ValueError, match="negative dimensions"):
        memory.empty((-1,), np.float32)
    with pytest.raises((MemoryError, ValueError)):
        memory.empty((1 << 60,), np.float32)
    a = np.empty(1 << 20)  # the choice of NumPy's memory is as it was
    del a
    assert memory.release() == 0


def test_a_block_serves_what_is_a_little_smaller(keeps):
    n = 1 << 20
    a = memory.empty((n,), np.uint8)
    at = address(a)
    del a
    larger, much_smaller = memory.empty((n + 1,), np.uint8), memory.empty((n // 2,), np.uint8)
    assert at not in (address(larger), address(much_smaller))
    smaller = memory.empty((n - n // 10,), np.uint8)
    assert address(smaller) == at
    del smaller  # as large as it was
    assert address(memory.empty((n,), np.uint8)) == at


def test_no_more_than_64_MB(keeps):
    arrays = [memory.empty((1 << 20,), np.uint8) for _ in range(100)]
    del arrays
    assert memory.release() <= KEPT
    too_large = memory.empty((KEPT + 1,), np.uint8)
    del too_large
    assert memory.release() == 0
    many = [memory.empty((1 << 16,), np.uint8) for _ in range(200)]
    del many
    assert memory.release() == 64 << 16  # blocks


def test_the_oldest_are_given_up_first(keeps):
    sizes = [(20 << 20) + (i << 22) for i in range(3)]  # 20, 24, 28 MB: too much together
    a, b, c = (memory.empty((n,), np.uint8) for n in sizes)
    addresses = address(a), address(b), address(c)
    del a, b, c
    b, c = (memory.empty((n,), np.uint8) for n in sizes[1:])
    assert (address(b), address(c)) == addresses[1:]
    assert memory.release() == 0


def test_tracemalloc_sees_them():
    tracemalloc.start()
    a = memory.empty((1 << 20,), np.uint8)
    with_it = tracemalloc.get_traced_memory()[0]
    del a
    without = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert with_it - without >= 1 << 20


def test_no_two_arrays_share_memory():
    """Random arrays in several threads, each with its own numbers."""
    wrong = []

    def work(seed):
        rng, arrays = np.random.default_rng(seed), []
        for _ in range(300):
            if arrays and rng.integers(2):
                a, value = arrays.pop(rng.integers(len(arrays)))
                if not (a == value).all():
                    wrong.append((seed, a.shape))
            value = rng.integers(1 << 30)
            a = memory.empty((rng.integers(1, 100_000),), np.int64)
            a[...] = value
            arrays.append((a, value))
            del a
        wrong.extend((seed, a.shape) for a, value in arrays if not (a == value).all())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_a_fork():
    a = memory.empty(LARGE, np.float32)
    del a
    child = os.fork()
    if child == 0:
        status = 1
        try:
            b = memory.empty(LARGE, np.float32)
            b[...] = 1
            status = int(b.sum() != b.size)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
@pytest.mark.parametrize("B", [32, 128])
def test_a_loop_of_training_gets_no_fresh_pages(keeps, B):
    import resource

    n = network(T=100, B=B, I=32, H=32, dtype=np.float32)
    arguments = [n[name] for name in ("x", "U", "W", "b", "h0")]

    def step():
        h = pyrnn.forward(*arguments)
        pyrnn.backward(n["dh"], h, *arguments[:3], n["h0"])

    for _ in range(5):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    if table.selected() != "base":  # the blas engine has scratch memory of its own
        assert faults < 20 * 20, faults
