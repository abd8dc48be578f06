"""The two engines: the same numbers from both; from `fused` the same bits whatever the batch, threads and processor."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import FUSED, InEngine, compiled_state_gradients

import pyrnn
from pyrnn import _engines, reference
from pyrnn._core import table, team

pytestmark = [pytest.mark.compiled, pytest.mark.python]

ROOT = Path(__file__).parent.parent
SIZES = [(5, 3, 4, 6), (1, 1, 1, 1), (40, 20, 7, 33), (12, 8, 64, 128), (30, 1, 3, 50), (6, 13, 9, 512), (7, 64, 1, 17)]
SIZES += [
    (9, 70, 5, 400)
]  # several blocks of sequences, delta packed, more rows than a tile of dW goes through at once


@pytest.fixture(params=[name for name in table.available() if name != "base"])
def instruction_set(request):
    before = table.selected()
    table.select(request.param)
    yield request.param
    table.select(before)


def arrays(T, B, I, H, dtype, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape, scale=1.0: (rng.standard_normal(shape) * scale).astype(dtype)
    x, dh, h0, b = draw(T, B, I), draw(T, B, H), draw(B, H, scale=0.3), draw(H, scale=0.3)
    return x, draw(H, I, scale=I**-0.5), draw(H, H, scale=H**-0.5), b, h0, dh


def everything(x, U, W, b, h0, dh, inside=FUSED, **options):
    h = inside.forward(x, U, W, b, h0, **options)
    return h, *inside.backward(dh, h, x, U, W, h0, **options)[:5]


def bits(results):
    return [a.tobytes() for a in results]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("engine", ["blas", "fused"])
def test_engine_against_reference(engine, dtype, size, instruction_set):
    x, U, W, b, h0, dh = arrays(*size, dtype)
    exact = [a.astype(np.float64) for a in (x, U, W, b, h0, dh)]
    h, *gradients = everything(x, U, W, b, h0, dh, InEngine(engine))
    expected = reference.forward(*exact[:5])
    for have, want in zip(
        (h, *gradients),
        (expected, *reference.backward(exact[5], h.astype(np.float64), *exact[:3], exact[4])[:5]),
        strict=True,
    ):
        assert have.dtype == dtype
        assert np.abs(have - want).max() <= {np.float32: 2e-5, np.float64: 1e-13}[dtype] * np.abs(want).max()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_do_not_depend_on_the_batch(dtype, size, instruction_set):
    x, U, W, b, h0, dh = arrays(*size, dtype)
    h = FUSED.forward(x, U, W, b, h0)
    grad_h, J = compiled_state_gradients("fused", dh, h, W), pyrnn.jacobian(h[:2], W)
    for r in {0, size[1] // 2, size[1] - 1}:
        alone = FUSED.forward(x[:, r], U, W, b, h0[r])
        assert bits([alone]) == bits([h[:, r]])
        assert bits([compiled_state_gradients("fused", dh[:, r : r + 1], h[:, r : r + 1], W)]) == bits(
            [grad_h[:, r : r + 1]]
        )
        assert bits([pyrnn.jacobian(alone[:2], W)]) == bits([J[:, r]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_do_not_depend_on_strides(dtype, instruction_set):
    x, U, W, b, h0, dh = arrays(30, 20, 9, 40, dtype)
    apart = lambda a: np.ascontiguousarray(a.transpose(1, 0, 2)).transpose(1, 0, 2)
    assert bits(everything(x, U, W, b, h0, dh)) == bits(everything(apart(x), U, W, b, h0, apart(dh)))


@pytest.mark.parametrize("size", [(50, 64, 17, 128), (40, 13, 5, 100), (9, 70, 200, 300), (200, 9, 3, 64)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("chunk", [1 << 13, 1 << 19])
def test_bits_do_not_depend_on_threads(dtype, size, chunk, set_chunk_bytes):
    set_chunk_bytes(chunk)
    network = arrays(*size, dtype)
    x, U, W, b, h0, dh = network
    expected = bits(everything(*network, n_threads=1))
    h = FUSED.forward(x, U, W, b, h0, n_threads=1)
    grad_h = bits([compiled_state_gradients("fused", dh, h, W, n_threads=1)])
    for n_threads in (2, 3, 7):
        for _ in range(3):
            assert bits(everything(*network, n_threads=n_threads)) == expected
            assert bits([compiled_state_gradients("fused", dh, h, W, n_threads=n_threads)]) == grad_h


def test_bits_of_weight_gradients_a_thousand_times():
    network = arrays(30, 16, 8, 64, np.float32)
    expected = bits(everything(*network, n_threads=1))
    for i in range(1000):
        assert bits(everything(*network, n_threads=(2, 3, 7, 1)[i % 4])) == expected


# Not the -O3 of a build: the bits may not depend on it, nor on the compiler. With -O1 the program takes two minutes.
FLAGS = ["-O2", "-std=c11", "-ffp-contract=off", f"-I{ROOT / 'csrc'}"]


def output_of(command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def hashes(command):
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert all(len(line.split()) == 2 for line in lines)  # of ordinary numbers, and of those around the smallest
    return set(lines)


@pytest.fixture(scope="module")
def kernels_object(gcc, tmp_path_factory):
    """csrc/kernels.c compiled alone, which takes longer than all that is linked to it."""
    compiled = tmp_path_factory.mktemp("kernels") / "kernels.o"
    subprocess.run([gcc, *FLAGS, "-c", ROOT / "csrc" / "kernels.c", "-o", compiled], check=True)
    return compiled


def test_kernels_have_the_same_bits_on_every_instruction_set(gcc, kernels_object, tmp_path):
    program = ROOT / "tests" / "bits.c"
    subprocess.run([gcc, *FLAGS, program, kernels_object, "-lm", "-o", tmp_path / "here"], check=True)
    found = hashes([tmp_path / "here"])
    arm, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if arm and emulator:
        sources = [program, ROOT / "csrc" / "kernels.c"]
        subprocess.run([arm, "-static", *FLAGS, *sources, "-lm", "-o", tmp_path / "arm"], check=True)
        found |= hashes([emulator, tmp_path / "arm"])
    assert len(found) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs POSIX threads with barriers")
def test_first_use_of_the_kernels_chooses_the_best(gcc, kernels_object, tmp_path):
    """A C program that chooses nothing, on 16 threads at once; then what pyrnn_select chooses, and refuses."""
    program = ROOT / "tests" / "first_use.c"
    subprocess.run([gcc, *FLAGS, "-pthread", program, kernels_object, "-lm", "-o", tmp_path / "first_use"], check=True)
    best = table.available()[0]
    assert output_of([tmp_path / "first_use"]) == [best, "base", "base", best]


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("3", 3), ("", team.processors())])
def test_default_threads(text, expected, monkeypatch):
    monkeypatch.setenv("PYRNN_NUM_THREADS", text)
    assert team.default_threads() == expected


def test_wrong_default_threads(monkeypatch):
    monkeypatch.setenv("PYRNN_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="PYRNN_NUM_THREADS must be a positive integer below 10\\^9, got 'many'"):
        team.default_threads()


IMPORTS = f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\nfrom helpers import FUSED\n"
FORK = """
import os, sys, numpy as np, pyrnn
rng = np.random.default_rng(0)
x, U, W = rng.standard_normal((50, 64, 64)), rng.standard_normal((128, 64)) / 8, rng.standard_normal((128, 128)) / 11
run = lambda: FUSED.forward(x, U, W, n_threads=2).tobytes()
expected = run()
for _ in range(5):
    child = os.fork()
    if not child:
        os._exit(0 if run() == run() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
assert run() == expected
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forked_child_has_a_team_of_its_own():
    subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", IMPORTS + FORK], check=True)


NESTED = """
import threading, numpy as np, pyrnn
rng = np.random.default_rng(0)
x, U, W = rng.standard_normal((50, 64, 64)), rng.standard_normal((128, 64)) / 8, rng.standard_normal((128, 128)) / 11
def run():
    h = FUSED.forward(x, U, W, n_threads=2)
    return [a.tobytes() for a in (h, *FUSED.backward(h, h, x, U, W, n_threads=3)[:5])]
expected, wrong = run(), []
def worker():
    for _ in range(40):
        if run() != expected:
            wrong.append(1)
threads = [threading.Thread(target=worker) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
assert not wrong
"""


def test_teams_called_from_several_threads():
    subprocess.run([sys.executable, "-P", "-c", IMPORTS + NESTED], check=True)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1" + 23 * "0", 5000 * "9"])
def test_default_threads_out_of_range(text, monkeypatch):
    monkeypatch.setenv("PYRNN_NUM_THREADS", text)
    with pytest.raises(ValueError, match="PYRNN_NUM_THREADS must be a positive integer below 10"):
        FUSED.forward(np.zeros((50, 64, 64)), np.zeros((128, 64)), np.zeros((128, 128)))


def test_using_a_number_of_threads(monkeypatch):
    """Of this thread alone, inside of the context alone, beside the engine; and no more threads take part."""
    monkeypatch.setenv("PYRNN_NUM_THREADS", "5")
    network = arrays(40, 64, 64, 128, np.float64)
    expected, seen = bits(everything(*network, n_threads=1)), []
    with pyrnn.config.using(n_threads=2, engine="fused"):
        assert team.default_threads() == 2
        with pyrnn.config.using(engine="blas"), pyrnn.config.using(n_threads=np.int64(3)):
            assert (team.default_threads(), _engines.chosen.get()) == (3, "blas")
        other = threading.Thread(target=lambda: seen.append(team.default_threads()))
        other.start()
        other.join()
        assert (team.default_threads(), _engines.chosen.get()) == (2, "fused")
    assert seen == [5]
    assert team.default_threads() == 5
    team.set_schedule(1)  # all members take part
    try:
        for n_threads in (1, 2, 10**23):
            for context, given in ((n_threads, None), (1, n_threads)):  # what a call is given goes first
                with pyrnn.config.using(n_threads=context), pyrnn.profile() as p:
                    assert bits(everything(*network, n_threads=given)) == expected
                members = {record.member for record in p.records}
                assert members == set(range(n_threads)) if n_threads < 10 else len(members) > 2
    finally:
        team.set_schedule(0)
    with pytest.raises(ZeroDivisionError), pyrnn.config.using(n_threads=2):
        1 / 0  # noqa: B018
    assert team.default_threads() == 5


@pytest.mark.parametrize(
    ("n_threads", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_using_another_number_of_threads(n_threads, error):
    with (
        pytest.raises(error, match="n_threads must be a positive integer or None, got"),
        pyrnn.config.using(n_threads=n_threads),
    ):
        pass


@pytest.mark.parametrize("n_threads", [True, False, np.True_, 1.0, "2"])
def test_number_of_threads_of_a_wrong_type(n_threads):
    with pytest.raises(TypeError, match="n_threads must be a positive integer or None, got "):
        pyrnn.forward(np.zeros((2, 1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), n_threads=n_threads)


def test_more_threads_than_any_machine_has():
    network = arrays(6, 16, 8, 64, np.float64)
    assert bits(everything(*network, n_threads=10**23)) == bits(everything(*network, n_threads=1))


NO_THREADS = """
import _thread, tracemalloc
import numpy as np, pyrnn

def refuse(*arguments):
    raise RuntimeError("can't start new thread")

_thread.start_new_thread = refuse
x, U, W = np.ones((50, 64, 64)), np.ones((128, 64)) / 99, np.ones((128, 128)) / 999
run = lambda: pyrnn.forward(x, U, W, n_threads=7).tobytes()
context = pyrnn.config.using(engine="fused")
context.__enter__()  # once: a context of its own for each call would be counted too
expected = run()
tracemalloc.start()
run()
before, _ = tracemalloc.get_traced_memory()
for _ in range(100):
    assert run() == expected
after, _ = tracemalloc.get_traced_memory()
assert after - before < 2000, after - before
"""


def test_calls_where_threads_cannot_start_leave_nothing_behind():
    subprocess.run([sys.executable, "-P", "-c", NO_THREADS], check=True)
