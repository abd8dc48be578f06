"""pyrnn.profile: what it counts against the formulas, from all threads, and that it leaves everything else alone."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import InEngine, network

import pyrnn
from pyrnn import _engines, profiling
from pyrnn._core import table

pytestmark = pytest.mark.profile

T, B, I, H, O = 40, 16, 64, 96, 8  # worth three threads


@pytest.fixture
def net(dtype):
    return network(T, B, I, H, O, dtype=dtype)


def run_all(net, engine="auto", **options):
    """forward and backward, in this engine and with the options."""
    h = InEngine(engine).forward(net["x"], net["U"], net["W"], net["b"], net["h0"], **options)
    grads = InEngine(engine).backward(net["dh"], h, net["x"], net["U"], net["W"], net["h0"], **options)
    return h, *grads[:5]


def bits(results):
    return [a.tobytes() for a in results]


def total(phases, name):
    return phases[name].flops, phases[name].bytes


@pytest.mark.parametrize("steps", [1, 7, T])
@pytest.mark.parametrize(("engine", "n_threads"), [("blas", 1), ("fused", 1), ("fused", 3)])
def test_flops_and_bytes_are_those_of_the_formulas(net, dtype, engine, n_threads, steps, set_chunk_bytes):
    size = np.dtype(dtype).itemsize
    set_chunk_bytes(steps * B * H * size)
    with pyrnn.profile() as p:
        run_all(net, engine, n_threads=n_threads)
    N = T * B
    expected = {
        "input product": (2 * N * H * I, N * I + N * H + H * I),
        "forward recurrence": (2 * N * H * H, 2 * N * H + H * H + B * H),
    }
    if engine == "fused":  # one pass for both, where a task has several sequences
        expected = {"forward recurrence": (2 * N * H * (I + H), N * (I + H) + H * (I + H) + B * H)}
    expected |= {
        "backward recurrence": (2 * (T - 1) * B * H * H, 3 * N * H + H * H),
        "weight gradients": (2 * N * H * (I + H), N * (2 * H + I) + H * (I + H + 1)),
        "input gradients": (2 * N * H * I + 2 * B * H * H, N * (H + I) + H * I + 2 * B * H + H * H),
    }
    for phase, (flops, numbers) in expected.items():
        assert total(p.phases, phase) == (flops, numbers * size), phase
    assert set(p.phases) - set(expected) <= {"pack", "wait"}
    chunks = -(-T // steps)
    tasks = 1 if n_threads == 1 else 4  # of 4 sequences
    assert p.phases["forward recurrence"].calls == chunks * tasks
    assert p.phases["weight gradients"].calls == chunks * tasks
    assert {r.dtype for r in p.records} == {np.dtype(dtype).name}
    if engine == "fused":
        weights, inputs = 4 * (H * I + H * H), 2 * N * (I + H)
        assert p.phases["pack"].bytes == pytest.approx((weights + inputs) * size, rel=1e-12)


@pytest.mark.parametrize("engine", ["blas", "fused"])
def test_the_other_functions(net, dtype, engine, monkeypatch):
    monkeypatch.setattr(table, "selected", lambda: {"blas": "base", "fused": "avx2"}[engine])
    with pyrnn.profile() as p:
        pyrnn.state_gradients(net["dh"], net["h"], net["W"])
        pyrnn.jacobian(net["h"], net["W"])
        pyrnn.output(net["h"], net["V"], net["c"])
        pyrnn.output_gradients(net["do"], net["h"], net["V"])
    size, N = np.dtype(dtype).itemsize, T * B
    expected = {
        "backward recurrence": (2 * (T - 1) * B * H * H, 3 * N * H + H * H),
        "jacobian": (N * H * H, N * H + H * H + N * H * H),
        "output layer": (2 * N * O * H, N * (H + O) + O * H),
        "output gradients": (4 * N * O * H, N * (O + 2 * H) + 2 * O * H + O),
    }
    for phase, (flops, numbers) in expected.items():
        assert total(p.phases, phase) == (flops, numbers * size), phase
    assert {name: totals.calls for name, totals in p.functions.items()} == dict.fromkeys(
        ["state_gradients", "jacobian", "output", "output_gradients"], 1
    )


def test_functions_are_counted_with_what_they_call():
    n = network(T, B, I, H, O)
    params = pyrnn.Network(*(n[name] for name in "UWbVc"))
    with pyrnn.profile() as p:
        for _ in range(3):
            pyrnn.loss_and_gradients(params, n["x"], n["targets"])
        pyrnn.loss_and_gradients(params, n["x"], n["numbers"], loss="squared_error")
        with pytest.raises(ValueError, match="W must have shape"):
            pyrnn.forward(n["x"], n["U"], n["U"])
    calls = {name: totals.calls for name, totals in p.functions.items()}
    assert calls == {
        "forward": 4,
        "output": 4,
        "softmax_cross_entropy": 3,
        "squared_error": 1,
        "output_gradients": 4,
        "backward": 4,
        "loss_and_gradients": 4,
    }
    parts = [p.functions[name] for name in calls if name != "loss_and_gradients"]
    whole = p.functions["loss_and_gradients"]
    assert sum(part.seconds for part in parts) < whole.seconds < p.seconds
    assert whole.phase_seconds == pytest.approx(sum(part.phase_seconds for part in parts), rel=1e-9)
    assert p.functions["squared_error"].phase_seconds == 0
    for totals in p.functions.values():
        assert 0 <= totals.phase_seconds < totals.seconds


def test_threads_and_phases_are_two_sums_of_the_same(net):
    for _ in range(1000):  # a thread that comes late, on a busy machine, finds no task left
        with pyrnn.profile() as p:
            run_all(net, "fused", n_threads=3)
        members = {r.member for r in p.records if r.phase == "weight gradients"}
        assert members <= {0, 1, 2}
        assert len({(r.thread, r.member) for r in p.records}) == len(p.threads) <= 3
        if len(members) > 1:
            break
    assert len(members) > 1
    for i in range(4):
        by_thread, by_phase = (sum(totals[i] for totals in parts.values()) for parts in (p.threads, p.phases))
        assert by_thread == pytest.approx(by_phase, rel=1e-12)
        assert by_phase == pytest.approx(sum(r[i + 4] for r in p.records), rel=1e-12)
    for totals in p.threads.values():
        assert 0 < totals.seconds <= p.seconds


def test_bits_do_not_depend_on_it(net):
    for options in ({"engine": "blas"}, {"engine": "fused", "n_threads": 1}, {"engine": "fused", "n_threads": 3}):
        expected = bits(run_all(net, **options))
        with pyrnn.profile():
            inside = bits(run_all(net, **options))
        assert inside == expected


def test_nothing_is_recorded_outside(net):
    run_all(net)
    with pyrnn.profile() as p:
        pass
    run_all(net)
    assert (p.records, p.phases, p.threads, p.functions, p.peak) == ((), {}, {}, {}, {})
    assert str(p) == "pyrnn.profile: nothing recorded"
    assert InEngine("fused")(_engines.choose)() is _engines.ENGINES["fused"]
    with p:
        pyrnn.jacobian(net["h"], net["W"])
    assert set(p.phases) == {"jacobian"}
    before = p.to_json()
    run_all(net)
    assert p.to_json() == before


def test_exception_ends_the_profile(net):
    p = pyrnn.profile()
    with pytest.raises(ZeroDivisionError), p:
        run_all(net) and 1 / 0
    assert profiling.running is None
    assert p.functions["backward"].calls == 1
    assert p.phases["weight gradients"].flops > 0
    with pyrnn.profile() as after:
        pass
    assert after.records == ()


def test_two_at_a_time_are_refused(net):
    with pyrnn.profile() as p:
        run_all(net)
        with pytest.raises(RuntimeError, match="already recording: a process has one at a time"), pyrnn.profile():
            pytest.fail("the second one began")
        run_all(net)
    assert p.functions["forward"].calls == 2


def test_json(net, tmp_path):
    with pyrnn.profile() as p:
        run_all(net, n_threads=2)
    read = json.loads(p.to_json())
    assert set(read) == {"seconds", "instruction_set", "peak", "functions", "records"}
    assert (read["seconds"], read["instruction_set"], read["peak"]) == (p.seconds, p.instruction_set, p.peak)
    assert tuple(profiling.PhaseRecord(**record) for record in read["records"]) == p.records
    assert {name: profiling.FunctionTotals(**f) for name, f in read["functions"].items()} == p.functions
    assert p.to_json(tmp_path / "profile.json") is None
    assert json.loads((tmp_path / "profile.json").read_text()) == read


def test_table(net):
    with pyrnn.profile() as p:
        run_all(net, "fused", n_threads=2)
    lines = str(p).splitlines()
    assert max(map(len, lines)) <= 120
    for name, totals in (*p.functions.items(), *p.phases.items()):
        (line,) = (line for line in lines if line.startswith(name.ljust(24)))
        assert int(line[24:32]) == totals.calls
        assert float(line[32:43]) == pytest.approx(totals.seconds, abs=6e-6)
    (line,) = (line for line in lines if line.startswith("backward recurrence"))
    recurrence = p.phases["backward recurrence"]
    assert float(line[54:65]) == pytest.approx(1e-9 * recurrence.flops / recurrence.seconds, abs=0.06)
    assert sum("(caller)" in line for line in lines) == 1
    assert sum("(member 1)" in line for line in lines) == len(p.threads) - 1  # on a busy machine it may come too late


@pytest.mark.skipif(table.selected() == "base", reason="plain C has no peak to compare with")
@pytest.mark.parametrize("B", [1, 16])
def test_fraction_of_peak(dtype, B):
    n = network(20, B, 128, 128, dtype=dtype)
    with pyrnn.profile() as p:
        for _ in range(10):
            run_all(n, "fused", n_threads=1)
    assert p.peak[np.dtype(dtype).name] > 1e8
    fractions = {phase: totals.fraction_of_peak for phase, totals in p.phases.items()}
    assert fractions.pop("pack") is None
    assert all(0 < fraction <= 1.05 for fraction in fractions.values()), fractions


@pytest.mark.parametrize("instruction_set", table.available())
def test_peak(instruction_set, dtype):
    before = table.selected()
    table.select(instruction_set)
    try:
        assert table.multiply_add_peak(dtype) > 1e6
        with pytest.raises(TypeError, match="dtype must be float32 or float64, got int64"):
            table.multiply_add_peak(np.int64)
    finally:
        table.select(before)


def in_threads(count, function):
    threads = [threading.Thread(target=function) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_python_threads_at_once():
    n = network(T, B, I, H)
    with pyrnn.profile() as p:
        in_threads(5, lambda: [run_all(n, "fused", n_threads=2) for _ in range(20)])
    assert p.functions["forward"].calls == p.functions["backward"].calls == 100
    assert p.phases["forward recurrence"].flops == 100 * 2 * T * B * H * (I + H)
    assert p.phases["weight gradients"].flops == 100 * 2 * T * B * H * (I + H)
    assert len({r.thread for r in p.records if r.member == 0}) == 5


def test_more_threads_than_rows():
    n = network(5, 2, 3, 4)
    with pyrnn.profile() as p:
        for _ in range(50):
            in_threads(6, lambda: pyrnn.jacobian(n["h"], n["W"]))
    assert p.functions["jacobian"].calls == p.phases["jacobian"].calls == 300
    assert p.phases["jacobian"].flops == 300 * 5 * 2 * 4 * 4
    assert len(p.threads) == 128


def test_beginning_and_end_while_others_compute():
    n = network(5, 2, 3, 4)
    done = threading.Event()

    def work():
        while not done.is_set():
            pyrnn.jacobian(n["h"], n["W"])

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(100):
            with pyrnn.profile() as p:
                pyrnn.jacobian(n["h"], n["W"])
            counted = p.phases["jacobian"]
            assert counted.calls >= 1
            assert counted.flops == counted.calls * 5 * 2 * 4 * 4
            assert all(totals.seconds <= p.seconds for totals in p.threads.values())
    finally:
        done.set()
        for worker in workers:
            worker.join()


def frames_of(thread):
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        yield frame
        frame = frame.f_back


def test_what_began_in_an_earlier_profile_counts_in_none():
    h = np.zeros((100_000, 1, 256), np.float32)
    W = np.zeros((256, 256), np.float32)
    worker = threading.Thread(target=lambda: pyrnn.state_gradients(h, h, W))
    with pyrnn.profile() as first:
        worker.start()
        while not any(frame.f_code is pyrnn.state_gradients.__code__ for frame in frames_of(worker)):
            assert worker.is_alive()
            time.sleep(1e-3)
        time.sleep(0.1)
    with pyrnn.profile() as second:
        assert worker.is_alive()
        worker.join()
    assert {r.phase for r in first.records} <= {"pack"}
    assert (second.records, second.functions) == ((), {})


FORK = """
import os, numpy as np, pyrnn
h, W = np.zeros((5, 2, 3)), np.eye(3)
with pyrnn.profile() as p:
    pyrnn.jacobian(h, W)
    child = os.fork()
    pyrnn.jacobian(h, W)
assert p.functions["jacobian"].calls == p.phases["jacobian"].calls == 2
if not child:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_fork_within():
    subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", FORK], check=True, timeout=3600)
