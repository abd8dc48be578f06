"""`fit_population`: each network has the bits that it has alone, and nothing that befalls one touches the others."""

import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from helpers import for_each

import pyrnn
from pyrnn._core import team
from pyrnn.training import L1, L2, Adam, batches, population

pytestmark = [pytest.mark.python]

T, B, I, H, O = 7, 10, 3, 6, 3
TASK = pyrnn.tasks.PerceptualDecision(stimulus=(60, 100), fixation=40, response=40, batch_size=8, sigma=0.3)


def make(k, **options):
    options = {"output_size": O, "nonlinearity": "relu", "alpha": 0.3, "noise": 0.1, "rng": k} | options
    return pyrnn.RNN(I, H, **options)


def arrays(seed=0, n=B):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((T, n, I)), rng.integers(0, O, (T, n)), rng.uniform(0.5, 1.5, (T, n))


def sequences():
    x, y, w = arrays()
    return [(x[: 1 + i % T, i], y[: 1 + i % T, i], w[: 1 + i % T, i]) for i in range(B)]


KINDS = {
    "arrays": {"data": arrays(), "loss": "softmax_cross_entropy", "batch_size": 4},
    "list": {"data": sequences(), "loss": "softmax_cross_entropy", "batch_size": 4, "penalties": {"l2": 1e-3}},
    "task": {"data": TASK, "penalties": [L2(1e-3), L1(1e-3, of="weight_hh_l0")]},
}
FULL = {"steps": 9, "optimizer": Adam(lr=0.01), "clip_norm": 0.5}


def seed_of(rng, k):
    """As documented."""
    return int(np.random.SeedSequence(rng, spawn_key=(k,)).generate_state(1, np.uint64)[0])


def alone(k, data, make=make, rng=0, **options):
    """Network k by `fit` alone."""
    options = dict(FULL) | options
    options["optimizer"] = options["optimizer"].fresh()
    rnn = make(k)
    return rnn, pyrnn.fit(rnn, data, rng=seed_of(rng, k), **options)


def together(K=4, data=TASK, make=make, **options):
    return pyrnn.fit_population(make, K, data, **FULL | options)


def same(member, expected):
    np.testing.assert_array_equal(member.rnn.parameters, expected[0].parameters)
    assert member.history.to_list() == expected[1].to_list()
    assert member.history.seed == expected[1].seed
    assert member.history.stopped == expected[1].stopped
    return True


# ---- Bits -----------------------------------------------------------------------------------------------------------
@for_each("rng", [0, 5])
@for_each("kind", KINDS)
def test_each_network_has_the_bits_that_it_has_alone(kind, rng):
    options = dict(kind)
    data = options.pop("data")
    for dropout in (0.0, 0.2):
        one = lambda k, p=dropout: make(k, num_layers=2, dropout=p, recurrent_dropout=p / 2)
        expected = [alone(k, data, one, rng=rng, **options) for k in range(4)]
        assert len({rnn.parameters.tobytes() for rnn, _ in expected}) == 4
        for n_threads in (1, 2, 3, 7):
            found = together(4, data, one, rng=rng, n_threads=n_threads, **options)
            assert len(found) == len(found.rnns) == 4
            assert all(same(*pair) for pair in zip(found, expected, strict=True))


def test_evaluations_and_early_stopping():
    options = {"loss": "softmax_cross_entropy", "validation": 0.3, "early_stopping": 2, "steps": 200, "batch_size": 4}
    options |= {"optimizer": Adam(lr=0.1), "evaluate_every": 2}
    expected = [alone(k, arrays(), **options) for k in range(3)]
    assert {history.stopped for _, history in expected} == {"early_stopping"}
    assert all(same(*pair) for pair in zip(together(3, arrays(), n_threads=2, **options), expected, strict=True))


def test_networks_of_other_forms():
    """`make` may return what it likes."""
    one = lambda k: make(k, dtype=(np.float32, np.float64)[k % 2], num_layers=1 + k, bidirectional=k == 2)
    found = together(4, arrays(), one, loss="softmax_cross_entropy", n_threads=3)
    for k in range(4):
        same(found[k], alone(k, arrays(), one, loss="softmax_cross_entropy"))


def test_twenty_networks_on_seven_threads_again_and_again():
    """With a switch of threads as often as Python makes one, each run has the bits of its network alone."""
    data = arrays()
    penalties = [L2(1e-3), L1(1e-4)]
    one = lambda k: make(k, num_layers=2, dropout=0.2)
    options = {"loss": "softmax_cross_entropy", "batch_size": 4, "penalties": penalties, "steps": 4}
    expected = [alone(k, data, one, **options) for k in range(20)]
    of_task = [alone(k, TASK, steps=2) for k in range(20)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            found = together(20, data, one, n_threads=7, **options)
            assert all(same(*pair) for pair in zip(found, expected, strict=True))
            found = together(20, TASK, n_threads=7, steps=2)
            assert all(same(*pair) for pair in zip(found, of_task, strict=True))
    finally:
        sys.setswitchinterval(before)


def test_runs_on_threads_of_ones_own_may_share_penalties():
    """Nothing but the caller's threads and `fit`."""
    penalties = [L2(1e-2), L1(1e-2)]
    options = {"loss": "softmax_cross_entropy", "penalties": penalties, "steps": 40}
    expected = [alone(k, arrays(), **options) for k in range(4)]
    found, before = [None] * 4, sys.getswitchinterval()

    def work(k):
        found[k] = alone(k, arrays(), **options)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    for k in range(4):
        np.testing.assert_array_equal(found[k][0].parameters, expected[k][0].parameters)
        assert found[k][1].to_list() == expected[k][1].to_list()


# ---- Batches that are shared ----------------------------------------------------------------------------------------
def batch_of(step, size=1):
    x = np.broadcast_to(np.array(float(step)), (1, 1, size))  # of any size, in no memory
    return batches.Batch(x, np.zeros((1, 1), int), None, None, False)


def test_runs_at_the_same_step_share_its_batch():
    """Whoever comes second waits for it, and gets the same arrays, which nobody can write to."""
    shared, calls, going, found = batches.Shared(), [], threading.Event(), []

    def work(step):
        calls.append(step)
        going.wait(60)
        return batch_of(step)

    threads = [threading.Thread(target=lambda: found.append(shared.get(3, work))) for _ in range(5)]
    for thread in threads:
        thread.start()
    while not calls:
        time.sleep(0.001)
    going.set()
    for thread in threads:
        thread.join()
    found.append(shared.get(3, work))
    assert calls == [3]
    assert all(batch is found[0] for batch in found)
    with pytest.raises(ValueError, match="read-only"):
        found[0].x[...] = 1


@for_each("size", [1, batches.Shared.BYTES // 80, batches.Shared.BYTES])
def test_the_batches_that_are_kept(size):
    """The latest ones, within a number and a size of memory."""
    shared, calls = batches.Shared(), []
    make = lambda step: (calls.append(step), batch_of(step, size))[1]
    for step in range(100):
        shared.get(step, make)
    kept = {1: 64, batches.Shared.BYTES // 80: 9, batches.Shared.BYTES: 0}[size]
    assert list(shared.entries) == list(range(100 - kept, 100))
    calls.clear()
    assert [int(shared.get(step, make).x[0, 0, 0]) for step in (99, 3)] == [99, 3]
    assert calls == ([3] if kept else [99, 3])


def test_each_run_gets_the_error_of_a_batch():
    shared, going, errors = batches.Shared(), threading.Event(), []

    def work(step):
        going.wait(60)
        raise OSError(f"no file {step}")

    def run():
        try:
            shared.get(3, work)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    going.set()
    for thread in threads:
        thread.join()
    assert len({id(error) for error in errors}) == 3
    assert not shared.entries
    assert shared.get(3, batch_of).x[0, 0, 0] == 3


def test_networks_of_other_dtypes_do_not_share_batches():
    one = lambda k: make(k, dtype=(np.float32, np.float64)[k % 2])
    found = together(4, TASK, one, n_threads=4)
    for k in range(4):
        same(found[k], alone(k, TASK, one))


def test_a_loss_that_writes_to_its_targets_fails():
    """They are those of other networks too."""

    def loss(o, targets, weights):
        targets[...] = 0
        return 0.0, o * 0

    with pytest.warns(RuntimeWarning, match=r"1 of 1 networks failed: 0 \(ValueError: .*read-only"):
        together(1, loss=loss)


# ---- Who does what --------------------------------------------------------------------------------------------------
def test_networks_are_made_in_order_by_the_caller():
    made, seen = [], {}

    def one(k):
        made.append((k, threading.current_thread()))
        return make(k)

    class Look:
        def on_train_begin(self, state):
            seen[id(state.rnn)] = threading.current_thread(), team.default_threads()

    found = together(6, make=one, callbacks=[Look()], n_threads=2, steps=3)
    assert made == [(k, threading.main_thread()) for k in range(6)]
    assert set(seen) == {id(rnn) for rnn in found.rnns}
    assert {threads for _, threads in seen.values()} == {1}
    assert 1 <= len({thread for thread, _ in seen.values()}) <= 2
    assert threading.main_thread() not in {thread for thread, _ in seen.values()}


def test_networks_compute_with_the_callers_engine():
    with pyrnn.config.using(engine="blas"):
        expected = [alone(k, TASK) for k in range(2)]
        assert all(same(*pair) for pair in zip(together(2, n_threads=2), expected, strict=True))
    default = together(2, n_threads=2)
    assert any((m.rnn.parameters != rnn.parameters).any() for m, (rnn, _) in zip(default, expected, strict=True))


def test_the_number_of_threads(monkeypatch):
    begun = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: (begun.append(self.name), start(self)))
    for n_threads, K, expected in ((1, 3, 1), (2, 3, 2), (7, 3, 3), (10**20, 2, 2)):
        begun.clear()
        together(K, n_threads=n_threads, steps=1)
        assert begun == [f"pyrnn.fit_population {i}" for i in range(expected)]
    for context in (contextlib.nullcontext(), pyrnn.config.using(n_threads=2)):
        monkeypatch.setenv("PYRNN_NUM_THREADS", "3")
        begun.clear()
        with context:
            together(4, steps=1)
        assert len(begun) == (3 if isinstance(context, contextlib.nullcontext) else 2)


def test_fewer_threads_than_asked_for(monkeypatch):
    start, begun = threading.Thread.start, []

    def refuse(self):
        if begun:
            raise RuntimeError("can't start new thread")
        begun.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert len(together(3, n_threads=3, steps=1).rnns) == 3
    with pytest.raises(RuntimeError, match="can't start new thread"):
        together(3, n_threads=3, steps=1)


def test_each_network_has_an_optimizer_of_its_own():
    optimizer = Adam(lr=0.01)
    optimizer.step(np.zeros(3), np.ones(3))
    state = optimizer.state_dict()
    found = together(3, optimizer=optimizer, n_threads=2)
    after = optimizer.state_dict()
    assert state["step"] == after["step"]
    np.testing.assert_array_equal(state["exp_avg"], after["exp_avg"])
    for k in range(3):
        same(found[k], alone(k, TASK))
    optimizer.lr = 0.5
    assert optimizer.fresh().lr == 0.5
    assert optimizer.fresh().state_dict()["step"] == 0


def test_a_network_gives_back_the_memory_of_its_training():
    rnn = together(1, steps=2).rnns[0]
    with pytest.raises(RuntimeError, match="nothing was computed yet"):
        rnn.layer_states  # noqa: B018
    before = rnn.parameters.copy()
    rnn.weight_ih_l0 += 1
    assert (rnn.parameters != before).any()


# ---- Arguments of each network --------------------------------------------------------------------------------------
def test_each():
    rates = [0.001, 0.01, 0.1]
    logs = [[] for _ in range(3)]

    class Log:
        def __init__(self, k):
            self.k = k

        def on_step_end(self, state):
            logs[self.k].append(state.history[-1]["loss"])

    def calls(k):
        given = iter([arrays(seed=10 * k + i) for i in range(20)])
        return lambda: next(given)

    def each(k):
        own = {"data": calls(k), "optimizer": Adam(lr=rates[k]), "callbacks": [Log(k)]}
        return own | ({"rng": 7, "steps": 3} if k == 1 else {})

    found = pyrnn.fit_population(make, 3, each=each, loss="softmax_cross_entropy", n_threads=3, **FULL)
    for k in range(3):
        rnn, options = make(k), FULL | {"optimizer": Adam(lr=rates[k])}
        options |= {"rng": 7, "steps": 3} if k == 1 else {"rng": seed_of(0, k)}
        history = pyrnn.fit(rnn, calls(k), loss="softmax_cross_entropy", **options)
        same(found[k], (rnn, history))
        assert logs[k] == [record["loss"] for record in history]


def test_rng_none_draws_a_seed_for_each():
    found = together(3, rng=None, steps=3)
    seeds = [member.history.seed for member in found]
    assert len(set(seeds)) == 3
    for k, seed in enumerate(seeds):
        rnn = make(k)
        pyrnn.fit(rnn, TASK, rng=seed, **FULL | {"steps": 3, "optimizer": FULL["optimizer"].fresh()})
        np.testing.assert_array_equal(rnn.parameters, found[k].rnn.parameters)


class Dataset:
    def __iter__(self):
        return iter([arrays()])


@for_each("data", [lambda: arrays(), iter([arrays()]), Dataset(), (a for a in [arrays()])])
def test_data_that_cannot_be_shared(data):
    options = {"loss": "softmax_cross_entropy", **FULL}
    name = type(data).__name__
    with pytest.raises(
        TypeError, match=rf"data must be arrays, a list or .*, which all .* got {name}: give each .* by"
    ):
        pyrnn.fit_population(make, 2, data, **options)
    with pytest.warns(RuntimeWarning, match="each must return data that no other network reads, got that of network"):
        found = pyrnn.fit_population(make, 2, each=lambda k: {"data": data}, **options | {"steps": 1})
    assert len(found.failed) == 1


# ---- What goes wrong ------------------------------------------------------------------------------------------------


class FailingTask:
    loss = "softmax_cross_entropy"

    def batch(self, step):
        if step == 4:
            raise OSError("no such file")
        return TASK.batch(step)


class FailingCallback:
    def on_step_end(self, state):
        if state.step == 2:
            raise KeyError("what")


class Exit:
    def on_step_end(self, state):
        raise SystemExit(3)


def diverging(o, targets, weights):
    value, do = pyrnn.softmax_cross_entropy(o, targets, weights)
    return value * np.nan, do


def test_a_network_that_fails_does_not_touch_the_others():
    def one(k):
        if k == 1:
            raise ZeroDivisionError("one over nothing")
        return object() if k == 2 else make(k)

    own = {
        3: {"data": FailingTask()},
        4: {"callbacks": [FailingCallback()]},
        5: {"loss": diverging},
        6: {"data": arrays()[0], "loss": "huber"},
        8: {"callbacks": [Exit()]},
    }

    def each(k):
        if k == 7:
            raise LookupError("no seventh")
        return own.get(k, {})

    reasons = {
        1: "ZeroDivisionError: one over nothing",
        2: "TypeError: make must return a pyrnn.RNN, got object",
        3: "OSError: no such file",
        4: "KeyError: 'what'",
        5: "loss is nan at step 0",
        6: r"TypeError: data must be (x, y), ",
        7: "LookupError: no seventh",
        8: "SystemExit: 3",
    }
    expected = {k: alone(k, TASK) for k in (0, 9, 10)}
    for n_threads in (1, 3):
        with pytest.warns(
            RuntimeWarning, match=r"^8 of 11 networks failed: 1 \(Zero.*, 5 \(loss is nan at step 0\)"
        ) as w:
            found = together(11, make=one, each=each, n_threads=n_threads)
        assert len(w) == 1
        assert w[0].filename == __file__
        assert list(found.failed) == list(reasons)
        for k, reason in reasons.items():
            assert found.failed[k].startswith(reason)
            assert found[k].number == k
        assert all(same(found[k], expected[k]) for k in expected)
        assert [rnn is found[k].rnn for rnn, k in zip(found.rnns, expected, strict=True)] == [True] * 3
        assert [history is found[k].history for history, k in zip(found.histories, expected, strict=True)] == [True] * 3
        assert found[1].rnn is None
        assert isinstance(found[1].error, ZeroDivisionError)
        assert found[6].history is found[7].history is None
        # What was reached is kept.
        assert (len(found[3].history), len(found[4].history), len(found[8].history)) == (4, 2, 1)
        assert found[3].history.stopped == "error"
        same_steps = alone(3, TASK, steps=4)
        np.testing.assert_array_equal(found[3].rnn.parameters, same_steps[0].parameters)
        np.testing.assert_array_equal(found[5].rnn.parameters, make(5).parameters)
        assert found[5].error is None
        assert re.match(r"Population\(11 networks, stopped: 3 'steps', failed: 1 \(Zero", repr(found))


def test_a_warning_names_a_few():
    def one(k):
        if k:
            raise ValueError(f"number {k}")
        return make(k)

    with pytest.warns(RuntimeWarning, match=r"29 of 30 networks failed: 1 \(ValueError: number 1\), .* and 21 more$"):
        together(30, make=one, steps=1)


def test_warnings_that_are_errors():
    """The whole population is trained before."""
    seen = []

    class Count:
        def on_train_end(self, state):
            seen.append(state.history.stopped)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="1 of 4 networks failed: 1"):
            together(4, each=lambda k: {"loss": diverging} if k == 1 else {}, callbacks=[Count()])
    assert sorted(seen) == ["loss is nan at step 0", "steps", "steps", "steps"]


def test_data_that_ends():
    each = lambda k: {"data": iter([arrays()] * 3), "loss": "softmax_cross_entropy"}
    with pytest.warns(RuntimeWarning, match="^data of 2 of 2 networks ended before their runs did: 0, 1$"):
        found = together(2, None, each=each)
    assert not found.failed
    assert [len(history) for history in found.histories] == [3, 3]


BAD = [
    ({"K": 0}, ValueError, "K must be a positive integer, got 0"),
    ({"K": 1.5}, TypeError, "K must be a positive integer, got 1.5"),
    ({"make": 3}, TypeError, "make must be a function of the number of a network, got 3"),
    ({"make": lambda k: None}, TypeError, "make must return a pyrnn.RNN, got NoneType"),
    ({"each": {}}, TypeError, "each must be a function of the number of a network or None, got {}"),
    ({"each": lambda k: None}, TypeError, "each must return a dict of arguments of pyrnn.fit, got NoneType"),
    ({"each": lambda k: {"resume": True}}, TypeError, "each got an unexpected argument 'resume': it is none of"),
    ({"learning_rate": 3}, TypeError, "fit_population got an unexpected argument 'learning_rate': it is none of"),
    ({"rnn": 3}, TypeError, "fit_population got an unexpected argument 'rnn'"),
    ({"progress": 1}, TypeError, "progress must be True or False, got 1"),
    ({"resume": 1}, TypeError, "resume must be True or False, got 1"),
    ({"resume": True}, ValueError, "checkpoint must be given with resume or checkpoint_every, got None"),
    ({"n_threads": 0}, ValueError, "n_threads must be a positive integer or None, got 0"),
    ({"n_threads": 1.0}, TypeError, "n_threads must be a positive integer or None, got 1.0"),
    ({"rng": -1}, ValueError, "rng must be an integer from 0, got -1"),
    ({"checkpoint": __file__}, ValueError, "checkpoint must be a folder, got the file"),
    ({"checkpoint": "/no/such/folder"}, ValueError, "checkpoint must be a folder in one that is there, got"),
    ({"data": None}, TypeError, "loss must be given for data without an attribute loss"),
    ({"data": None, "loss": "huber"}, TypeError, r"data must be \(x, y\), .*, got NoneType"),
    ({"data": arrays()[0], "loss": "huber"}, TypeError, r"data must be \(x, y\), .*, got ndarray"),
    ({"steps": None}, ValueError, "one of steps and epochs must be given"),
    ({"loss": "mse"}, ValueError, "loss must be one of"),
    ({"optimizer": "lbfgs"}, ValueError, "optimizer must be one of"),
    ({"penalties": {"l3": 1}}, ValueError, "penalties must have names among"),
    ({"clip_norm": 0}, ValueError, "clip_norm must be a positive number, got 0"),
]


@for_each(("change", "error", "message"), BAD)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=f"^{message}"):
        together(**change)


def test_networks_that_share_parameters():
    import copy

    shared = make(0)
    for other in (lambda k: shared, lambda k: copy.copy(shared)):
        with pytest.raises(ValueError, match="make must return networks of their own, got the parameters of 0 again"):
            together(make=other)


# ---- Files ----------------------------------------------------------------------------------------------------------
def test_files_are_those_of_fit(tmp_path):
    """A file of the population goes on in a run alone, and the other way round."""
    folder = tmp_path / "runs"
    expected = [alone(k, TASK, steps=12) for k in range(3)]
    together(3, steps=5, checkpoint=folder)
    assert sorted(os.listdir(folder)) == ["network-0000.npz", "network-0001.npz", "network-0002.npz"]
    went_on = alone(0, TASK, steps=8, checkpoint=folder / "network-0000.npz", resume=True)
    np.testing.assert_array_equal(went_on[0].parameters, alone(0, TASK, steps=8)[0].parameters)
    os.unlink(folder / "network-0002.npz")
    for _ in range(2):  # the second time nothing is left to do
        found = together(3, steps=12, checkpoint=folder, resume=True, n_threads=2)
        assert all(same(*pair) for pair in zip(found, expected, strict=True))
    more = together(5, steps=12, checkpoint=folder, resume=True, n_threads=2)
    assert all(same(*pair) for pair in zip(more, expected, strict=False))
    assert len(os.listdir(folder)) == 5


def test_seeds_that_were_drawn_are_in_the_files(tmp_path):
    first = together(2, rng=None, steps=4, checkpoint=tmp_path / "runs")
    again = together(2, rng=None, checkpoint=tmp_path / "runs", resume=True)
    assert [m.history.seed for m in first] == [m.history.seed for m in again]


def test_a_damaged_file_concerns_one_network(tmp_path):
    together(3, checkpoint=tmp_path)
    (tmp_path / "network-0001.npz").write_bytes(b"nothing")
    with pytest.warns(RuntimeWarning, match=r"1 of 3 networks failed: 1 \(ValueError: .*network-0001\.npz"):
        found = together(3, checkpoint=tmp_path, resume=True)
    assert list(found.failed) == [1]


SCRIPT = """
import json, os, signal, sys, numpy as np, pyrnn
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process that a script starts behind itself ignores it
folder, out, n_threads, K, steps = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
task = pyrnn.tasks.PerceptualDecision(batch_size=16)
make = lambda k: pyrnn.RNN(task.input_size, 24, output_size=3, nonlinearity="relu", alpha=0.2, noise=0.1, rng=k)

class Begin:
    def on_step_end(self, state):
        if state.step == 3:
            print("begins", flush=True)

found = pyrnn.fit_population(make, K, task, steps=steps, clip_norm=1.0, penalties={"l2": 1e-3}, callbacks=[Begin()],
                             checkpoint=None if folder == "-" else folder, resume=folder != "-",
                             checkpoint_every=None if folder == "-" else 2, n_threads=n_threads)
print(json.dumps([[m.history.stopped, len(m.history), m.history.seed] for m in found]), flush=True)
np.savez(out, *[m.rnn.parameters for m in found], records=np.array(str([m.history.to_list() for m in found])))
"""


def start(folder, out, n_threads, K, steps):
    arguments = [str(folder), str(out), str(n_threads), str(K), str(steps)]
    return subprocess.Popen([sys.executable, "-P", "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, text=True)


def loaded(path):
    return dict(np.load(io.BytesIO(path.read_bytes())))


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is of POSIX")
def test_resumed_after_kill_9(tmp_path):
    """At random moments, and on other numbers of threads."""
    with start("-", tmp_path / "expected.npz", 2, 5, 40) as process:
        process.stdout.readline()
        begin = time.monotonic()
        process.communicate()
    assert process.returncode == 0
    took = time.monotonic() - begin
    draw, kills, end = random.Random(), 0, tmp_path / "end.npz"
    for i in range(50):
        with start(tmp_path / "runs", end, 1 + i % 3, 5, 40) as process:
            if kills < 5:
                process.stdout.readline()
                time.sleep(draw.uniform(0.0, 0.4) * took)
                kills += process.poll() is None
                process.kill()
            process.communicate()
        if end.exists():
            break
    expected, found = loaded(tmp_path / "expected.npz"), loaded(end)
    assert set(expected) == set(found)
    for name, a in expected.items():
        np.testing.assert_array_equal(found[name], a)


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def heard():
    """Ctrl-C is heard, also where these tests run in the background of a shell, which ignores it there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Signal:
    """Sends Ctrl-C when the first of the networks reaches this step."""

    def __init__(self, step, times=1):
        self.step, self.times = step, times

    def on_step_end(self, state):
        if state.step == self.step and self.times:
            self.times -= 1
            handler = signal.getsignal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # Python handles it on the main thread, when that wakes
            training = handler.__self__.heard.__self__ if hasattr(handler, "__self__") else None
            while training is not None and not training.ended.is_set():
                time.sleep(0.001)


@for_each("n_threads", [1, 3])
def test_ctrl_c(heard, n_threads):
    """Each network is in the state after its last whole step; networks that were not begun are as they were made."""
    ours = signal.getsignal(signal.SIGINT)
    found = together(5, steps=10**6, callbacks=[Signal(5)], n_threads=n_threads)
    assert signal.getsignal(signal.SIGINT) is ours
    assert {m.history.stopped for m in found} == {"interrupted"}
    assert not found.failed
    assert 0 in [len(m.history) for m in found]
    for k, m in enumerate(found):
        steps = len(m.history)
        rnn = alone(k, TASK, steps=steps)[0] if steps else make(k)
        np.testing.assert_array_equal(m.rnn.parameters, rnn.parameters)
        assert m.history.seed == seed_of(0, k)


def test_ctrl_c_and_resume(heard, tmp_path):
    expected = [alone(k, TASK, steps=60) for k in range(4)]
    for step in (5, 20, 40):
        found = together(4, steps=60, callbacks=[Signal(step)], checkpoint=tmp_path, resume=True, n_threads=2)
        assert "interrupted" in {m.history.stopped for m in found}
    with_files = together(4, steps=60, callbacks=[Signal(1, 0)], checkpoint=tmp_path, resume=True, n_threads=3)
    assert all(same(*pair) for pair in zip(with_files, expected, strict=True))


def test_ctrl_c_once_more_does_not_wait(heard):
    going = threading.Event()

    class Slow:
        def on_step_end(self, state):
            signal.raise_signal(signal.SIGINT)
            time.sleep(1.0)  # until the main thread has heard it
            signal.raise_signal(signal.SIGINT)
            going.wait(60)

    with pytest.raises(KeyboardInterrupt):
        together(1, steps=10**6, callbacks=[Slow()])
    assert not going.is_set()
    going.set()
    for thread in threading.enumerate():
        if thread.name.startswith("pyrnn.fit_population"):
            thread.join(60)
            assert not thread.is_alive()


def test_another_handler_of_ctrl_c(heard):
    """One that raises KeyboardInterrupt itself is waited for too."""

    def handle(number, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    found = together(3, steps=10**6, callbacks=[Signal(5)], n_threads=2)
    assert signal.getsignal(signal.SIGINT) is handle
    assert {m.history.stopped for m in found} == {"interrupted"}


@pytest.mark.skipif(os.name != "posix", reason="sends a signal of POSIX")
def test_sigint_of_another_process(tmp_path):
    out = tmp_path / "end.npz"
    with start("-", out, 2, 4, 10**6) as process:
        process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        lines = process.stdout.read().splitlines()
    assert process.returncode == 0
    told = json.loads(lines[-1])
    assert [stopped for stopped, _, _ in told] == ["interrupted"] * 4
    assert any(steps > 2 for _, steps, _ in told)
    task = pyrnn.tasks.PerceptualDecision(batch_size=16)
    found = loaded(out)
    for k, (_, steps, seed) in enumerate(told):
        rnn = pyrnn.RNN(3, 24, output_size=3, nonlinearity="relu", alpha=0.2, noise=0.1, rng=k)
        if steps:
            pyrnn.fit(rnn, task, steps=steps, clip_norm=1.0, penalties={"l2": 1e-3}, rng=seed)
        np.testing.assert_array_equal(found[f"arr_{k}"], rnn.parameters)


# ---- The line -------------------------------------------------------------------------------------------------------
class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_shown_to_a_terminal_only(monkeypatch):
    class Slow:
        def on_step_end(self, state):
            time.sleep(0.25)

    for stream, progress in ((Terminal(), True), (Terminal(), False), (io.StringIO(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        together(2, steps=4, callbacks=[Slow()], progress=progress, n_threads=1)
        text = stream.getvalue()
        if stream.isatty() and progress:
            assert re.search(r"\r[01] of 2 networks, \d+ steps/s", text)
            assert text.endswith("\r\033[K")
        else:
            assert text == ""


def test_the_type():
    found = together(3, steps=1)
    assert isinstance(found, population.Population)
    assert found[1:] == (found[1], found[2])
    assert found[-1].number == 2
    assert found.seconds > 0
    assert all(history.seconds > 0 for history in found.histories)
    assert repr(found) == "Population(3 networks, stopped: 3 'steps')"
