"""`fit`: every kind of data, losses, seeds, interruptions, files, and errors before anything is computed."""

import copy
import dataclasses
import functools
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from helpers import for_each

import pyrnn
from pyrnn._core import team
from pyrnn.training import SGD, Adam, EarlyStopping, batches, run_files, schedules

pytestmark = [pytest.mark.once]

T, B, I, H, O = 7, 10, 2, 5, 3


def rnn_of(dtype=np.float64, **options):
    return pyrnn.RNN(I, H, **{"output_size": O, "dtype": dtype, "rng": 0} | options)


def arrays(loss="softmax_cross_entropy", seed=0, n=B, length=T):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((length, n, I))
    if loss == "softmax_cross_entropy":
        y = rng.integers(0, O, (length, n))
    elif loss == "binary_cross_entropy":
        y = rng.integers(0, 2, (length, n, O)).astype(float)
    elif loss == "poisson":
        y = rng.poisson(1.5, (length, n, O)).astype(float)
    else:
        y = rng.standard_normal((length, n, O))
    return x, y, rng.uniform(0.5, 1.5, (length, n))


def sequences(loss="softmax_cross_entropy", lengths=(3, 7, 1, 5, 7)):
    x, y, w = arrays(loss, n=len(lengths))
    return [(x[:n, i], y[:n, i], w[:n, i]) for i, n in enumerate(lengths)]


def same(a, b):
    """Whether two runs have the same bits: parameters and records."""
    np.testing.assert_array_equal(a[0].parameters, b[0].parameters)
    assert a[1].to_list() == b[1].to_list()
    return True


def run(data=None, **options):
    rnn = options.pop("rnn", None) or rnn_of()
    options = {"loss": "softmax_cross_entropy", "steps": 12, "batch_size": 4} | options
    return rnn, pyrnn.fit(rnn, arrays() if data is None else data, **options)


LOSSES = ["softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson", "huber"]


# ---- The steps ------------------------------------------------------------------------------------------------------
@for_each("loss", LOSSES)
@for_each("reduction", ["mean", "sum"])
@for_each("weighted", [False, True])
def test_a_loop_by_hand_has_the_same_bits(dtype, loss, reduction, weighted):
    x, y, w = arrays(loss)
    data = (x, y, w) if weighted else (x, y)
    rnn, other, optimizer = rnn_of(dtype), rnn_of(dtype), Adam(lr=0.01)
    rate = schedules.cosine(0.02, T_max=5)
    options = {"reduction": reduction, "schedule": rate, "clip_norm": 0.1, "optimizer": Adam(lr=0.01)}
    history = pyrnn.fit(rnn, data, loss=loss, steps=5, **options)
    by_output = loss != "softmax_cross_entropy"
    x, w = x.astype(dtype), w.astype(dtype) if weighted else None
    y = y.astype(dtype) if by_output else y
    for k in range(5):
        o, _ = other(x)
        function = getattr(pyrnn, loss, None) or getattr(pyrnn.training, loss)
        value, do = function(o, y, w)
        if reduction == "mean":
            total = (w.sum(dtype=np.float64) if weighted else T * B) * (O if by_output else 1)
            value, do = value / total, do / dtype(total)
        other.backward(do)
        norm = optimizer.step(other.parameters, other.gradients, lr=rate(k), clip_norm=0.1)
        assert history[k] == {"step": k, "epoch": k, "loss": value, "lr": rate(k), "norm": norm}
    np.testing.assert_array_equal(rnn.parameters, other.parameters)
    assert history.stopped == "steps"
    assert len(history) == 5


@pytest.mark.peer
@for_each("loss", LOSSES)
@for_each("weights", [None, "by step", "by output"])
def test_means_are_those_of_pytorch(loss, weights):
    torch = pytest.importorskip("torch")
    if loss == "softmax_cross_entropy" and weights == "by output":
        return
    x, y, w = arrays(loss)
    if weights == "by output":
        w = np.random.default_rng(1).uniform(0, 1, y.shape)
    rnn, data = rnn_of(), (x, y) if weights is None else (x, y, w)
    o = torch.tensor(rnn(x)[0])
    value = pyrnn.fit(rnn, data, loss=loss, steps=1)[0]["loss"]
    y = torch.tensor(y)
    theirs = {
        "softmax_cross_entropy": lambda **k: torch.nn.functional.cross_entropy(o.swapaxes(1, 2), y, **k),
        "squared_error": lambda **k: torch.nn.functional.mse_loss(o, y, **k),
        "binary_cross_entropy": lambda **k: torch.nn.functional.binary_cross_entropy_with_logits(o, y, **k),
        "poisson": lambda **k: torch.nn.functional.poisson_nll_loss(o, y, **k),
        "huber": lambda **k: torch.nn.functional.huber_loss(o, y, **k),
    }[loss]
    if weights is None:
        expected = theirs()
    else:
        each, w = theirs(reduction="none"), torch.tensor(w)
        each = each.mean(-1) if loss != "softmax_cross_entropy" and weights == "by step" else each
        expected = (w * each).sum() / w.sum()
    assert value == pytest.approx(float(expected), rel=1e-12)


def test_a_batch_in_which_nothing_counts():
    x, y, w = arrays("squared_error")
    rnn, history = run((x, np.full_like(y, np.nan), 0 * w), loss="squared_error", steps=2, batch_size=None)
    assert [record["loss"] for record in history] == [0, 0]
    np.testing.assert_array_equal(rnn.parameters, rnn_of().parameters)


@for_each("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_optimizers_by_name(name):
    made = {"sgd": SGD, "adam": Adam, "adamw": pyrnn.training.AdamW, "rmsprop": pyrnn.training.RMSprop}[name]()
    assert same(run(optimizer=name), run(optimizer=made))
    assert made.state_dict()["step"] == 12


def test_a_loss_of_ones_own():
    """Used as it is: value and gradient, of the outputs that have targets."""
    x, y, w = arrays("huber")
    function = functools.partial(pyrnn.training.huber, delta=1.0)
    by_name = run((x, y, w), loss="huber", reduction="sum", validation=0.2)
    own = run((x, y, w), loss=function, validation=0.2)
    np.testing.assert_array_equal(by_name[0].parameters, own[0].parameters)
    seen = []

    def loss(o, targets, weights):
        seen.append((o.shape, targets.shape, weights))
        return 0.0, np.zeros_like(o)

    run((x, y[-1]), loss=loss, steps=1, batch_size=None)
    run(sequences("huber"), loss=loss, steps=1, batch_size=None)
    assert seen[0] == ((B, O), (B, O), None)
    assert seen[1][0] == (T, 5, O)
    assert [int((row > 0).sum()) for row in seen[1][2].T] == [3, 7, 1, 5, 7]


def test_penalties():
    x, y, _ = arrays()
    plain, rnn = rnn_of(), rnn_of()
    options = {"loss": "softmax_cross_entropy", "steps": 1, "optimizer": SGD(lr=1.0)}
    pyrnn.fit(plain, (x, y), **options)
    history = pyrnn.fit(rnn, (x, y), penalties={"l2": 0.1, "l1": 0.01}, **options)
    first = dict(rnn_of().named_parameters())
    weights = {name: a for name, a in first.items() if name.startswith("weight")}
    expected = sum(0.1 * (a**2).sum() + 0.01 * np.abs(a).sum() for a in weights.values())
    assert history[0]["penalty"] == pytest.approx(expected, rel=1e-12)
    for name, before in first.items():
        change = 0.2 * before + 0.01 * np.sign(before) if name in weights else 0
        np.testing.assert_allclose(getattr(rnn, name), getattr(plain, name) - change, rtol=0, atol=1e-14)
    one = rnn_of()
    pyrnn.fit(one, (x, y), penalties=[pyrnn.training.L2(0.1, of="weight_hh_l0")], **options)
    np.testing.assert_array_equal(one.weight_ih_l0, plain.weight_ih_l0)
    np.testing.assert_allclose(one.weight_hh_l0, plain.weight_hh_l0 - 0.2 * first["weight_hh_l0"], atol=1e-14)


# ---- Data -----------------------------------------------------------------------------------------------------------
def test_batches_are_a_function_of_the_seed():
    """Each epoch has every sequence once; its order is that of the seed and the epoch alone."""
    x, y, _ = arrays()
    x[...] = np.arange(B)[:, np.newaxis]
    kind = batches.Kind(rnn_of(), "softmax_cross_entropy", True)
    seen = {}
    for seed in (0, 0, 1):
        source = batches.source(kind, (x, y), 4, seed, "data")
        drawn = [[int(i) for i in source.next().x[0, :, 0]] for _ in range(6)]
        assert [len(batch) for batch in drawn] == [4, 4, 2, 4, 4, 2]
        first, second = ([*itertools.chain(*drawn[i : i + 3])] for i in (0, 3))
        assert sorted(first) == sorted(second) == list(range(B))
        assert first != second
        assert seen.setdefault(seed, drawn) == drawn
        source.begin(4)
        assert [int(i) for i in source.next().x[0, :, 0]] == drawn[4]
        assert (source.epoch, source.ends, source.passes) == (1, False, 1)
    assert seen[0] != seen[1]


def test_splits_are_a_function_of_the_seed():
    x, y, _ = arrays()
    x[...] = np.arange(B)[:, np.newaxis]
    kind = batches.Kind(rnn_of(), "softmax_cross_entropy", True)
    members = lambda source: sorted(int(i) for batch in source.in_order() for i in batch.x[0, :, 0])
    for size in (None, 3):
        make = lambda seed, size=size: batches.source(kind, (x, y), size, seed, "data")
        splits = []
        for seed in (0, 0, 1):
            train = make(seed)
            held = batches.split(train, 0.3, seed, functools.partial(make, seed))
            assert len(members(held)) == 3
            assert sorted(members(held) + members(train)) == list(range(B))
            splits.append(members(held))
        assert splits[0] == splits[1] != splits[2]


@for_each("loss", LOSSES)
@for_each("batch_first", [False, True])
@for_each("bidirectional", [False, True])
def test_a_list_of_sequences_is_a_padded_array(loss, batch_first, bidirectional):
    data = sequences(loss)
    lengths = [len(x) for x, *_ in data]
    rnn = rnn_of(batch_first=batch_first, bidirectional=bidirectional)
    other = copy.deepcopy(rnn)
    x, y, w = arrays(loss, n=5)
    for i, n in enumerate(lengths):
        w[n:, i] = 0
    if batch_first:
        x, y, w = (a.swapaxes(0, 1) for a in (x, y, w))
    history = pyrnn.fit(rnn, data, loss=loss, steps=1, reduction="sum", optimizer=SGD(lr=1.0))
    value, gradient = other.loss_and_gradients(x, y, loss=loss, lengths=lengths, weights=w)
    # NumPy sums in the order of memory, and the losses lie batch first there.
    assert history[0]["loss"] == (pytest.approx(value, rel=1e-14) if batch_first else value)
    np.testing.assert_array_equal(rnn.gradients, gradient)


def test_lists_are_padded_to_the_longest_sequence_of_each_batch():
    """NaN behind the ends would be seen: memory of an earlier, longer batch is written over."""
    data, rnn = sequences(), rnn_of()
    kind = batches.Kind(rnn, "softmax_cross_entropy", True)
    source = batches.source(kind, data, 2, 0, "data")
    for _ in range(9):
        batch = source.next()
        steps = np.arange(len(batch.x))[:, np.newaxis]
        assert len(batch.x) == batch.lengths.max()
        assert (batch.x[steps >= batch.lengths] == 0).all()
        np.testing.assert_array_equal(batch.weights > 0, steps < batch.lengths)


@for_each("loss", LOSSES)
@for_each("batch_first", [False, True])
def test_a_target_of_the_whole_sequence_counts_at_its_last_step(loss, batch_first):
    x, y, _ = arrays(loss)
    lengths = np.array([7, 3, 1, 5, 7, 2, 4, 7, 6, 1])
    last = y[0]
    factors = np.random.default_rng(1).uniform(0.5, 1, B)
    for weights in (None, factors):
        for data, at in (
            ((x.swapaxes(0, 1) if batch_first else x, last), np.full(B, T)),
            ([(x[:n, i], last[i]) for i, n in enumerate(lengths)], lengths),
        ):
            rnn = rnn_of(batch_first=batch_first)
            other, w = copy.deepcopy(rnn), np.zeros((T, B))
            w[at - 1, np.arange(B)] = 1 if weights is None else weights
            if weights is not None:
                data = (
                    (*data, weights)
                    if isinstance(data, tuple)
                    else [(*item, np.array(v)) for item, v in zip(data, weights, strict=True)]
                )
            history = pyrnn.fit(rnn, data, loss=loss, steps=1, reduction="sum", optimizer=SGD(lr=1.0))
            full = np.broadcast_to(last, y.shape)
            turn = lambda a: a.swapaxes(0, 1) if batch_first else a
            value, gradient = other.loss_and_gradients(turn(x), turn(full), loss=loss, lengths=at, weights=turn(w))
            assert history[0]["loss"] == pytest.approx(value, rel=1e-13)
            np.testing.assert_allclose(rnn.gradients, gradient, rtol=0, atol=1e-13)


def test_one_sequence_without_a_batch_axis():
    x, y, w = (a[:, 0] for a in arrays())
    by_axis = run(tuple(a[:, np.newaxis] for a in (x, y, w)), batch_size=None)
    assert same(run((x, y, w), batch_size=None), by_axis)
    assert same(run((x, y[-1]), batch_size=None), run((x[:, np.newaxis], y[-1:]), batch_size=None))


def test_tasks_functions_and_iterables_give_the_same_batches():
    task = pyrnn.tasks.FlipFlop(bits=2, batch_size=4, seed=3)
    given = [task.batch(k) for k in range(6)]
    again = dataclasses.replace(task)

    def train(data, steps=6, **options):
        rnn = pyrnn.RNN(2, H, output_size=2, rng=0)
        return rnn, pyrnn.fit(rnn, data, loss="squared_error", steps=steps, **options)

    expected = train(task)
    calls = lambda: again()
    assert same(train(calls), expected)
    for data in (given, iter(given), (batch for batch in given)):
        rnn, history = train(data)
        np.testing.assert_array_equal(rnn.parameters, expected[0].parameters)
    rnn, history = train(given[:3], steps=None, epochs=2)
    assert [record["epoch"] for record in history] == [0, 0, 0, 1, 1, 1]
    assert history.stopped == "epochs"
    assert same((rnn, history), train(given[:3]))
    assert train(task, steps=1, optimizer="sgd")[1].stopped == "steps"
    by_attribute = pyrnn.RNN(2, H, output_size=2, rng=0)
    pyrnn.fit(by_attribute, task, steps=6)
    np.testing.assert_array_equal(by_attribute.parameters, expected[0].parameters)
    with pytest.warns(RuntimeWarning, match="data ended after 6 steps and cannot begin anew"):
        assert train(iter(given), steps=7)[1].stopped == "data"


def test_dropout_of_a_step_is_a_function_of_seed_and_step():
    options = {"dropout": 0.5, "recurrent_dropout": 0.2, "noise": 0.1}
    make = lambda: pyrnn.RNN(I, H, 2, output_size=O, **options, dtype=np.float64, rng=0)
    one, two = make(), make()
    two.rng.random(5)
    before = two.rng.bit_generator.state
    two.eval()
    assert same(run(rnn=one), run(rnn=two))
    assert two.rng.bit_generator.state == before
    assert not two.training
    assert one.training
    assert not np.array_equal(run(rnn=make(), rng=1)[0].parameters, one.parameters)


def test_one_generator_that_is_moved_draws_what_each_place_has():
    draws = batches.Draws(7)
    for purpose, number in itertools.product(range(3), (0, 5, 2**40)):
        found = draws.at(purpose, number)
        expected = np.random.Generator(np.random.Philox(key=batches._key(7), counter=[0, 0, number, purpose]))
        for draw in (
            lambda rng: rng.random(3, np.float32),  # leaves half a word behind
            lambda rng: rng.integers(2**64, size=5, dtype=np.uint64),
            lambda rng: rng.permutation(9),
            lambda rng: rng.standard_normal(4),
            lambda rng: rng.random(1, np.float32),
        ):
            np.testing.assert_array_equal(draw(found), draw(expected))


def test_threads_do_not_change_the_bits(monkeypatch):
    """`n_threads` is that of all calls of the run, and of no others."""
    rng, seen = np.random.default_rng(0), []
    x, y = rng.standard_normal((30, 64, I)), rng.integers(0, O, (30, 64))

    class Look:
        def on_step_end(self, state):
            seen.append(team.default_threads())

    monkeypatch.setenv("PYRNN_NUM_THREADS", "5")
    make = lambda: pyrnn.RNN(I, 64, output_size=O, noise=0.1, rng=0)
    options = {"loss": "softmax_cross_entropy", "steps": 3, "callbacks": [Look()]}
    rnn = make()
    expected = rnn, pyrnn.fit(rnn, (x, y), **options)
    for n_threads in (1, 2, 3):
        other = make()
        with pyrnn.config.using(n_threads=4):
            assert same((other, pyrnn.fit(other, (x, y), n_threads=n_threads, **options)), expected)
            assert team.default_threads() == 4
    assert seen == [5] * 3 + [1] * 3 + [2] * 3 + [3] * 3


# ---- Evaluations ----------------------------------------------------------------------------------------------------
@for_each("loss", LOSSES)
@for_each("batch_size", [None, 4])
def test_validation_loss(loss, batch_size):
    held = arrays(loss, seed=1)
    rnn = rnn_of()
    history = pyrnn.fit(rnn, arrays(loss), loss=loss, epochs=2, batch_size=batch_size, validation=held)
    losses = [record for record in history if "validation_loss" in record]
    x, y, w = held
    value = rnn.loss_and_gradients(x, y, loss=loss, weights=w)[0]
    total = w.sum() * (1 if loss == "softmax_cross_entropy" else O)
    assert losses[-1]["validation_loss"] == pytest.approx(value / total, rel=1e-12)
    assert [record["step"] for record in losses] == ([1, 2] if batch_size is None else [3, 6])
    assert [record["epoch"] for record in losses] == [0, 1]


def test_evaluations_do_not_change_the_steps():
    plain = run()
    options = {"validation": arrays(seed=1), "evaluate_every": 5}
    rnn, history = run(**options)
    np.testing.assert_array_equal(rnn.parameters, plain[0].parameters)
    assert [record for record in history if "loss" in record] == plain[1].to_list()
    assert [record["step"] for record in history if "validation_loss" in record] == [5, 10]


def test_early_stopping_keeps_the_best_parameters():
    x, y, _ = arrays(n=4)
    other = arrays(seed=1)
    kept = {}

    class Keep:
        def on_epoch_end(self, state):
            kept[state.step] = state.rnn.parameters.copy()

    rnn = rnn_of()
    options = {"loss": "softmax_cross_entropy", "epochs": 1000, "optimizer": Adam(lr=0.05)}
    history = pyrnn.fit(rnn, (x, y), validation=other[:2], early_stopping=5, callbacks=[Keep()], **options)
    assert history.stopped == "early_stopping"
    losses = {record["step"]: record["validation_loss"] for record in history if "validation_loss" in record}
    best = min(losses, key=losses.get)
    assert max(losses) == best + 5
    np.testing.assert_array_equal(rnn.parameters, kept[best])
    options |= {"optimizer": Adam(lr=0.05), "early_stopping": EarlyStopping(3, min_delta=1e9)}
    history = pyrnn.fit(rnn_of(), (x, y), validation=other[:2], **options)
    assert sum("validation_loss" in record for record in history) == 4  # only the first one is better than infinity


# ---- Callbacks, progress --------------------------------------------------------------------------------------------
class Log:
    def __init__(self):
        self.calls = []

    def on_train_begin(self, state):
        self.calls.append(("begin", state.step))

    def on_step_end(self, state):
        self.calls.append(("step", state.step, state.epoch))

    def on_epoch_end(self, state):
        self.calls.append(("epoch", state.step, state.epoch, "validation_loss" in state.history[-1]))

    def on_train_end(self, state):
        self.calls.append(("end", state.step, state.history.stopped))


def test_callbacks():
    log = Log()
    run(batch_size=5, steps=5, validation=arrays(seed=1), callbacks=[log])
    expected = [("begin", 0), ("step", 1, 0), ("step", 2, 0), ("epoch", 2, 0, True), ("step", 3, 1), ("step", 4, 1)]
    assert log.calls == [*expected, ("epoch", 4, 1, True), ("step", 5, 2), ("end", 5, "steps")]

    class Stop:
        def on_step_end(self, state):
            if state.step == 2:
                state.stop()

    _, history = run(callbacks=[Stop()])
    assert history.stopped == "callback"
    assert len(history) == 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_shown_to_a_terminal_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    shown = {}
    slow = lambda *given: (time.sleep(0.3), pyrnn.softmax_cross_entropy(*given))[1]
    for stream, progress in ((Terminal(), True), (Terminal(), False), (io.StringIO(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        run(steps=4, loss=slow, progress=progress)
        shown[stream.isatty(), progress] = stream.getvalue()
    assert " of 4, loss " in shown[True, True]
    assert shown[True, False] == shown[False, True] == ""


def test_progress_by_tqdm(monkeypatch):
    made = []

    class Bar:
        def __init__(self, **options):
            self.options, self.texts = options, []
            made.append(self)

        def set_postfix_str(self, text, refresh):
            self.texts.append((self.n, text))

        def close(self):
            self.closed = True

    module = type(sys)("tqdm")
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", module)
    monkeypatch.setattr(sys, "stderr", Terminal())
    run(steps=4)
    (bar,) = made
    assert bar.options["total"] == 4
    assert bar.closed
    assert bar.texts[0][0] == 1
    assert "loss" in bar.texts[0][1]
    made.clear()
    run(steps=4, progress=False)
    assert not made


# ---- History --------------------------------------------------------------------------------------------------------
def test_history():
    _, history = run(steps=3, rng=7)
    assert history.seed == 7
    assert history.seconds > 0
    listed = history.to_list()
    listed[0]["loss"] = None
    assert history[0]["loss"] is not None
    assert history[-2:] == history.records[1:]
    assert repr(pyrnn.training.History()) == "History(0 steps, stopped: None)"
    drawn = run(steps=3, rng=None)[1]
    assert same(run(steps=3, rng=drawn.seed), run(steps=3, rng=drawn.seed))
    assert json.loads(json.dumps(listed[1:])) == listed[1:]


def test_history_is_drawn():
    pytest.importorskip("matplotlib")
    ax = pyrnn.plots.learning_curve(run(validation=0.2)[1])
    assert len(ax.lines) == 2


# ---- Interruptions --------------------------------------------------------------------------------------------------
class Raise:
    """An error, or Ctrl-C, in the middle of a run."""

    def __init__(self, step, error):
        self.step, self.error = step, error

    def on_step_end(self, state):
        if state.step == self.step:
            raise self.error


FULL = {
    "optimizer": "adam",
    "clip_norm": 0.5,
    "penalties": {"l2": 1e-3, "rates_l2": 0.1},
    "validation": 0.3,
    "evaluate_every": 2,
}


@for_each("data", ["arrays", "list", "task", "calls", "iterable"])
@for_each("error", [KeyboardInterrupt(), RuntimeError("power")])
def test_a_resumed_run_has_the_same_bits(tmp_path_factory, data, error):
    path = tmp_path_factory.mktemp("run") / "run.npz"
    options = dict(FULL)
    if data in ("task", "calls", "iterable"):
        options |= {"batch_size": None, "validation": arrays(seed=2), "loss": "softmax_cross_entropy"}
    given = [arrays(seed=k) for k in range(4)]

    def make():
        calls = iter(given * 5)
        task = type("Task", (), {"batch": lambda self, k: given[k % 4]})()
        kinds = {"arrays": arrays(), "list": sequences(), "task": task, "iterable": given}
        return kinds[data] if data in kinds else lambda: next(calls)

    dropout = lambda: pyrnn.RNN(I, H, 2, output_size=O, dropout=0.3, noise=0.1, dtype=np.float64, rng=0)
    expected = run(make(), rnn=dropout(), **options)
    options |= {"checkpoint": path, "checkpoint_every": 3}
    if isinstance(error, KeyboardInterrupt):
        _, history = run(make(), rnn=dropout(), callbacks=[Raise(7, error)], **options)
        assert history.stopped == "interrupted"
        assert [record["step"] for record in history if "loss" in record] == list(range(7))
    else:
        with pytest.raises(RuntimeError, match="power"):
            run(make(), rnn=dropout(), callbacks=[Raise(7, error)], **options)
    # Its parameters do not matter.
    other = pyrnn.RNN(I, H, 2, output_size=O, dropout=0.3, noise=0.1, dtype=np.float64, rng=5)
    assert same(run(make(), rnn=other, resume=True, **options), expected)
    assert same(run(make(), rnn=dropout(), resume=True, **options), expected)  # nothing is left to do


def test_ctrl_c_in_the_middle_of_an_evaluation(tmp_path):
    """The evaluation that was not finished is made when the run is resumed."""
    calls = []

    def loss(o, targets, weights):
        calls.append(len(o))
        if len(calls) == 9:
            raise KeyboardInterrupt
        return pyrnn.softmax_cross_entropy(o, targets, weights)

    options = {"validation": arrays(seed=1, n=3), "evaluate_every": 1, "loss": loss}
    calls = [0] * 100
    expected = run(**options)
    calls = []
    options |= {"checkpoint": tmp_path / "run.npz"}
    _, history = run(**options)
    assert history.stopped == "interrupted"
    assert same(run(resume=True, **options), expected)


def test_early_stopping_of_a_resumed_run(tmp_path):
    options = {"steps": 400, "validation": arrays(seed=1), "early_stopping": 4, "evaluate_every": 3}
    make = lambda: {"optimizer": Adam(lr=0.05), **options}
    expected = run(**make())
    assert expected[1].stopped == "early_stopping"
    path = tmp_path / "run.npz"
    end = expected[1][-1]["step"]
    for stop in (end - 13, end - 4):
        _, history = run(**make(), callbacks=[Raise(stop, KeyboardInterrupt())], checkpoint=path)
        assert history.stopped == "interrupted"
        assert same(run(**make(), checkpoint=path, resume=True), expected)
    assert same(run(**make(), checkpoint=path, resume=True), expected)


def test_a_longer_run_goes_on_with_the_same_bits(tmp_path):
    expected = run(steps=20, **FULL)
    run(steps=7, checkpoint=tmp_path / "run.npz", **FULL)
    assert same(run(steps=20, checkpoint=tmp_path / "run.npz", resume=True, **FULL), expected)


SCRIPT = """
import sys, numpy as np, pyrnn
path, out = sys.argv[1:]
rng = np.random.default_rng(0)
x, y = rng.standard_normal((40, 64, 3)).astype(np.float32), rng.integers(0, 4, (40, 64))
rnn = pyrnn.RNN(3, 48, 2, output_size=4, dropout=0.2, noise=0.05, rng=1)
print("begins", flush=True)
history = pyrnn.fit(rnn, (x, y), loss="softmax_cross_entropy", steps=120, batch_size=24, checkpoint=path, resume=True,
                    checkpoint_every=2, clip_norm=1.0, validation=0.2, early_stopping=100)
np.savez(out, parameters=rnn.parameters, records=np.array(str(history.to_list())))
"""


def start(folder, threads, out):
    return subprocess.Popen(
        [sys.executable, "-P", "-c", SCRIPT, str(folder / "run.npz"), str(folder / out)],
        env=os.environ | {"PYRNN_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is of POSIX")
def test_resumed_after_kill_9(tmp_path):
    """At random moments, and on other numbers of threads."""
    reference = tmp_path / "reference"
    reference.mkdir()
    begin = time.monotonic()
    with start(reference, 1, "end.npz") as process:
        process.communicate()
    assert process.returncode == 0
    took = time.monotonic() - begin
    draw, kills = random.Random(), 0
    for i in range(50):
        with start(tmp_path, 1 + i % 2, "end.npz") as process:
            process.stdout.readline()
            if kills < 4:
                time.sleep(draw.uniform(0.02, 0.5) * took)
                kills += process.poll() is None
                process.kill()
        if (tmp_path / "end.npz").exists():
            break
    expected, found = (dict(np.load(io.BytesIO((folder / "end.npz").read_bytes()))) for folder in (reference, tmp_path))
    np.testing.assert_array_equal(found["parameters"], expected["parameters"])
    assert str(found["records"]) == str(expected["records"])
    assert "validation_loss" in str(found["records"])


@pytest.fixture
def heard():
    """Ctrl-C is heard, also where these tests run in the background of a shell, which ignores it there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_ctrl_c_at_any_moment(heard):
    """Parameters, history and optimizer are those of one step."""
    passed = [rnn_of().parameters]

    class Keep:
        def on_step_end(self, state):
            passed.append(state.rnn.parameters.copy())

    class Later:
        def __init__(self, delay):
            self.delay = delay

        def on_train_begin(self, state):
            signal.setitimer(signal.ITIMER_REAL, self.delay)

    expected = run(steps=2000, callbacks=[Keep()])[1].to_list()
    ours = signal.getsignal(signal.SIGINT)
    before = signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        for delay in np.linspace(0.001, 0.04, 14):
            optimizer = Adam()
            rnn, history = run(steps=10**9, optimizer=optimizer, callbacks=[Later(delay)])
            n = len(history)
            assert history.stopped == "interrupted"
            assert optimizer.state_dict()["step"] == n
            assert history.to_list()[:2000] == expected[:n]
            if n <= 2000:
                np.testing.assert_array_equal(rnn.parameters, passed[n])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert signal.getsignal(signal.SIGINT) is ours


def test_ctrl_c_between_an_update_and_its_record(heard):
    class Hit(Adam):
        def step(self, *given, **named):
            norm = super().step(*given, **named)
            if self.state_dict()["step"] == 3:
                signal.raise_signal(signal.SIGINT)
            return norm

    rnn, history = run(optimizer=Hit())
    assert history.stopped == "interrupted"
    assert same((rnn, history), run(steps=3))


# ---- What goes wrong during a run -----------------------------------------------------------------------------------
def test_a_loss_that_becomes_nan(tmp_path):
    """The parameters are those of the last step whose loss was finite; the file stays as it was."""
    calls = []

    def loss(o, targets, weights):
        calls.append(0)
        value, do = pyrnn.softmax_cross_entropy(o, targets, weights)
        return (np.nan if len(calls) == 6 else value), do

    path = tmp_path / "run.npz"
    rnn = rnn_of()
    with pytest.warns(RuntimeWarning, match="loss is nan at step 5: the parameters are those of the last finite loss"):
        _, history = run(rnn=rnn, loss=loss, checkpoint=path, checkpoint_every=2)
    assert history.stopped == "loss is nan at step 5"
    assert [record["step"] for record in history] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(rnn.parameters, run(steps=4, reduction="sum")[0].parameters)
    assert int(np.load(io.BytesIO(path.read_bytes()))["step"]) == 4


def test_a_gradient_that_is_not_finite():
    def loss(o, targets, weights):
        value, do = pyrnn.softmax_cross_entropy(o, targets, weights)
        return value, do * np.inf if value < first else do

    first = np.inf
    rnn = rnn_of()
    with pytest.warns(RuntimeWarning, match="gradient is not finite at step 0"):
        history = run(rnn=rnn, loss=loss)[1]
    assert history.stopped == "gradient is not finite at step 0"
    np.testing.assert_array_equal(rnn.parameters, rnn_of().parameters)


def test_a_run_that_diverges():
    """In float32, by steps that are too long: no other warning, and finite parameters."""
    x, y, _ = arrays("squared_error")
    rnn = rnn_of(np.float32, nonlinearity="identity")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = pyrnn.fit(rnn, (x, y), loss="squared_error", optimizer=SGD(lr=10.0), steps=1000, reduction="sum")
    assert len(caught) == 1
    assert "at step" in history.stopped
    assert np.isfinite(rnn.parameters).all()


# ---- Files ----------------------------------------------------------------------------------------------------------
@for_each("broken", ["savez", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path_factory, broken):
    path = tmp_path_factory.mktemp("run") / "run.npz"
    run(steps=4, checkpoint=path)
    before = path.read_bytes()
    owner, full = (np, "savez") if broken == "savez" else (os, broken)

    def fail(*given, **named):
        if broken == "savez":
            given[0].write(b"half a file")
        raise OSError(28, "No space left on device")

    rnn = rnn_of()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, full, fail)
        with pytest.raises(
            run_files.CheckpointError, match=r"could not be written after step 6: No space left"
        ) as caught:
            run(rnn=rnn, steps=9, checkpoint=path, checkpoint_every=2, resume=True)
    assert caught.value.errno == 28
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["run.npz"]
    assert len(caught.value.history) == 6
    np.testing.assert_array_equal(rnn.parameters, run(steps=6)[0].parameters)
    assert same(run(steps=9, checkpoint=path, resume=True), run(steps=9))


FULL_DISK = """
import resource, signal, sys, numpy as np, pyrnn
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
x, y = np.ones((5, 4, 2)), np.zeros((5, 4), int)
options = {"loss": "softmax_cross_entropy", "checkpoint": sys.argv[1], "checkpoint_every": 2}
pyrnn.fit(pyrnn.RNN(2, 40, output_size=3, rng=0), (x, y), steps=2, **options)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    pyrnn.fit(pyrnn.RNN(2, 40, output_size=3, rng=0), (x, y), steps=4, resume=True, **options)
except pyrnn.training.CheckpointError as error:
    print(error, len(error.history))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files")
def test_a_full_disk(tmp_path):
    path = tmp_path / "run.npz"
    done = subprocess.run(
        [sys.executable, "-P", "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    assert "could not be written after step 4: File too large" in done.stdout
    assert done.stdout.split()[-1] == "4"
    assert os.listdir(tmp_path) == ["run.npz"]
    assert int(np.load(io.BytesIO(path.read_bytes()))["step"]) == 2


@for_each(
    ("change", "name"),
    [
        ({"loss": "squared_error"}, "data"),
        ({"optimizer": Adam(lr=0.3)}, "optimizer"),
        ({"batch_size": 3}, "batch_size"),
        ({"reduction": "sum"}, "reduction"),
        ({"validation": 0.4}, "validation"),
        ({"validation": None, "early_stopping": None}, "validation"),
        ({"evaluate_every": 2}, "evaluate_every"),
        ({"early_stopping": 7}, "early_stopping"),
        ({"penalties": {"l1": 0.1}}, "penalties"),
        ({"penalties": [pyrnn.training.RatesL2(0.1)]}, "penalties"),
        ({"clip_norm": 2.0}, "clip_norm"),
        ({"schedule": schedules.cosine(0.1, T_max=5)}, "schedule"),
        ({"rng": 1}, "rng"),
        ({"rnn": rnn_of(nonlinearity="relu")}, "rnn, nonlinearity,"),
        ({"rnn": rnn_of(np.float32)}, "rnn, dtype,"),
        ({"data": arrays(seed=4)}, "data"),
    ],
)
def test_the_file_of_another_run_is_refused(tmp_path_factory, change, name):
    path = tmp_path_factory.mktemp("run") / "run.npz"
    options = {"validation": 0.3, "early_stopping": 5, "penalties": {"l2": 0.1}, "checkpoint": path}
    run(**options)
    change = dict(change)
    if change.get("loss"):
        change["data"] = arrays("squared_error")
    rnn = change.setdefault("rnn", rnn_of())
    before = rnn.parameters.copy()
    with pytest.raises(ValueError, match=rf"^{name} must be that of the run in .*run\.npz, .*, got"):
        run(**options | change, resume=True)
    np.testing.assert_array_equal(rnn.parameters, before)


def test_a_seed_that_was_drawn_is_in_the_file(tmp_path):
    path = tmp_path / "run.npz"
    first = run(steps=4, rng=None, checkpoint=path)[1]
    again = run(rng=None, checkpoint=path, resume=True)
    assert again[1].seed == first.seed
    assert same(again, run(rng=first.seed))


ANY_PROCESSOR = """
import sys, numpy as np, pyrnn, test_fit
for loss in test_fit.LOSSES:
    for dtype in (np.float32, np.float64):
        options = {"nonlinearity": "softplus", "alpha": 0.3, "dropout": 0.2, "noise": 0.1, "num_layers": 2}
        rnn = test_fit.rnn_of(dtype, **options)
        penalties = {"rates_l2": 0.1, "rates_l1": 0.01, "rate_change": 0.1, "l2": 1e-3, "l1": 1e-3}
        with pyrnn.config.using(engine="fused"):
            history = pyrnn.fit(
                rnn, test_fit.sequences(loss), loss=loss, epochs=4, batch_size=3, clip_norm=0.5, penalties=penalties,
                validation=0.4,
            )
        print(loss, dtype.__name__, rnn.parameters.tobytes().hex(), history.to_list())
"""


def test_the_same_bits_on_any_processor():
    """Of parameters and records: with kernels in plain C, and without what NumPy has for this processor alone."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    ours = " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])
    seen = []
    for more in ({}, {"PYRNN_CPU": "base", "NPY_DISABLE_CPU_FEATURES": ours}):
        command = [sys.executable, "-P", "-c", ANY_PROCESSOR]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])} | more
        seen.append(subprocess.check_output(command, env=environment, text=True).splitlines())
    assert len(seen[0]) == 2 * len(LOSSES)
    for line, other in zip(*seen, strict=True):
        assert line == other


def test_resume_without_a_file_begins(tmp_path):
    assert same(run(checkpoint=tmp_path / "run.npz", resume=True), run())


def test_damaged_files(tmp_path):
    path = tmp_path / "run.npz"
    run(checkpoint=path)
    whole, resume = path.read_bytes(), lambda: run(checkpoint=path, resume=True)
    draw = random.Random(0)
    for _ in range(60):
        content = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.5 else whole)
        if len(content) == len(whole):
            for _ in range(3):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        if content == whole:
            continue
        try:  # a bit that no check covers may have been changed
            resume()
        except ValueError as error:
            message = str(error)
        else:
            message = str(path)
        assert str(path) in message
    arrays = dict(np.load(io.BytesIO(whole)))
    for name in arrays:
        np.savez(path, **{other: a for other, a in arrays.items() if other != name})
        with pytest.raises(ValueError, match=r"run\.npz"):
            resume()
        np.savez(path, **arrays | {name: np.zeros((3, 2))})
        with pytest.raises(ValueError, match=r"run\.npz"):
            resume()
    np.savez(path, parameters=np.zeros(3))
    with pytest.raises(ValueError, match=r"run.npz must be a checkpoint of pyrnn.fit"):
        resume()


# ---- Errors before anything is computed -----------------------------------------------------------------------------
NAN = np.full((T, B, I), np.nan)
BAD = [
    ({"rnn": object()}, TypeError, "rnn must be a pyrnn.RNN, got object"),
    ({"steps": None}, ValueError, "one of steps and epochs must be given, got steps=None and epochs=None"),
    ({"epochs": 3}, ValueError, "one of steps and epochs must be given, got steps=12 and epochs=3"),
    ({"steps": 0}, ValueError, "steps must be a positive integer, got 0"),
    ({"steps": 1.5}, TypeError, "steps must be a positive integer, got 1.5"),
    ({"loss": None}, TypeError, "loss must be given for data without an attribute loss"),
    ({"loss": "mse"}, ValueError, "loss must be one of 'softmax_cross_entropy', .*, 'huber', got 'mse'"),
    ({"optimizer": "lbfgs"}, ValueError, "optimizer must be one of 'sgd', 'adam', 'adamw', 'rmsprop', got 'lbfgs'"),
    ({"optimizer": Adam}, TypeError, "optimizer must be a name or an optimizer of pyrnn.training, got type"),
    ({"batch_size": 0}, ValueError, "batch_size must be a positive integer, got 0"),
    ({"reduction": "none"}, ValueError, "reduction must be 'mean' or 'sum', got 'none'"),
    ({"validation": 1.5}, ValueError, "validation must be data, or a fraction above 0 and below 1, got 1.5"),
    ({"validation": 0.99}, ValueError, "validation must leave one sequence or more to train on, got 0.99 of 10"),
    ({"validation": arrays()[0]}, TypeError, r"validation must be \(x, y\), .*, got ndarray"),
    ({"validation": (NAN, arrays()[1])}, ValueError, "x of validation must be finite numbers, got nan"),
    ({"evaluate_every": 3}, ValueError, "evaluate_every must come with validation, got 3 without it"),
    ({"early_stopping": 3}, ValueError, "early_stopping must come with validation, got 3 without it"),
    ({"early_stopping": 0, "validation": 0.2}, ValueError, "early_stopping must be a positive integer, got 0"),
    ({"penalties": {"l3": 1}}, ValueError, "penalties must have names among 'l1', 'l2', 'rates_l1', .*, got 'l3'"),
    ({"penalties": {"l2": -1}}, ValueError, "strength must be a finite number and not negative, got -1"),
    ({"penalties": [1.0]}, TypeError, "penalties must be objects with the methods check and add"),
    ({"penalties": "l2"}, TypeError, "penalties must be a dict of strengths or a sequence of penalties"),
    (
        {"penalties": [pyrnn.training.L2(1, of="W")]},
        ValueError,
        "of must be names of parameters of the RNN, .*, got 'W'",
    ),
    ({"clip_norm": 0}, ValueError, "clip_norm must be a positive number, got 0"),
    ({"schedule": 0.1}, TypeError, "schedule must be a function of the number of a step, got 0.1"),
    ({"callbacks": [object()]}, TypeError, "callbacks must have one of the methods on_train_begin"),
    ({"callbacks": print}, TypeError, "callbacks must be a sequence of objects"),
    ({"checkpoint": "run.pt"}, ValueError, r"checkpoint must be a path that ends in \.npz, got 'run.pt'"),
    ({"checkpoint": "/no/such/folder/run.npz"}, ValueError, "checkpoint must lie in a folder that is there"),
    ({"resume": True}, ValueError, "checkpoint must be given with resume or checkpoint_every, got None"),
    ({"checkpoint_every": 5}, ValueError, "checkpoint must be given with resume or checkpoint_every, got None"),
    ({"resume": 1}, TypeError, "resume must be True or False, got 1"),
    ({"progress": None}, TypeError, "progress must be True or False, got None"),
    ({"n_threads": 0}, ValueError, "n_threads must be a positive integer or None, got 0"),
    ({"n_threads": 1.5}, TypeError, "n_threads must be a positive integer or None, got 1.5"),
    ({"rng": -1}, ValueError, "rng must be an integer from 0, got -1"),
    ({"rng": np.random.default_rng(0)}, TypeError, "rng must be an integer from 0, got"),
    ({"data": arrays()[0]}, TypeError, r"data must be \(x, y\), .*, got ndarray"),
    ({"data": []}, ValueError, r"data must be \(x, y\), .*, got an empty list"),
    ({"data": 3}, TypeError, r"data must be \(x, y\), .*, got int"),
    ({"data": arrays()[:1]}, TypeError, r"data must be \(x, y\) or \(x, y, weights\), got tuple of 1"),
    ({"data": (arrays()[0][..., :1], arrays()[1])}, ValueError, r"x of data must have shape \(T, B, 2\) or \(T, 2\)"),
    ({"data": (NAN, arrays()[1])}, ValueError, r"x of data must be finite numbers, got nan at \(0, 0, 0\)"),
    (
        {"data": (np.zeros((0, 3, I)), np.zeros((0, 3), int))},
        ValueError,
        "x of data must have one step and one sequence",
    ),
    ({"data": (arrays()[0], arrays()[1][:3])}, ValueError, r"y of data must have shape \(7, 10\), got \(3, 10\)"),
    (
        {"data": (arrays()[0], arrays()[1] * 1.0)},
        TypeError,
        "y of data must be integers, the classes, got dtype float64",
    ),
    ({"data": (arrays()[0], arrays()[1] + 1)}, ValueError, r"data: targets must be classes from 0 to 2, got 3 at"),
    (
        {"data": (arrays()[0], np.full((T, B, O), np.nan)), "loss": "squared_error"},
        ValueError,
        r"y of data must be finite numbers, got nan at \(0, 0, 0\)",
    ),
    (
        {"data": (arrays()[0], -np.ones((T, B, O))), "loss": "poisson"},
        ValueError,
        r"data: targets must be not negative for poisson, got -1.0 at \(0, 0, 0\)",
    ),
    ({"data": (*arrays()[:2], np.ones(3))}, ValueError, r"weights of data must have shape \(7, 10\), got \(3,\)"),
    ({"data": (*arrays()[:2], -arrays()[2])}, ValueError, "weights of data must not be negative with reduction='mean'"),
    ({"data": (*arrays()[:2], arrays()[2] * np.nan)}, ValueError, "weights of data must be finite numbers, got nan"),
    ({"data": [*sequences()[:2], sequences()[2][:2]]}, ValueError, r"data\[2\] must be like data\[0\], .*, got"),
    ({"data": [(NAN[:, 0], arrays()[1][:, 0])]}, ValueError, r"x of data\[0\] must be finite numbers"),
    ({"data": lambda: arrays()}, ValueError, "batch_size must be None where data has batches of its own, got 4"),
    (
        {"data": lambda: arrays(), "batch_size": None, "epochs": 3, "steps": None},
        ValueError,
        "epochs must be None for data without an end, got 3: give steps",
    ),
    (
        {"data": lambda: arrays(), "batch_size": None, "validation": 0.2},
        ValueError,
        "validation must be data, or None, for data that is no array or list, got 0.2",
    ),
]


@for_each(("change", "error", "message"), BAD)
def test_bad_arguments(change, error, message):
    rnn = change.get("rnn", rnn_of())
    before = copy.deepcopy(rnn)
    with pytest.raises(error, match=f"^{message}"):
        run(**change | {"rnn": rnn})
    if isinstance(rnn, pyrnn.RNN):
        np.testing.assert_array_equal(rnn.parameters, before.parameters)
        np.testing.assert_array_equal(rnn.gradients, before.gradients)


@for_each(
    ("returned", "error", "message"),
    [
        (1.0, TypeError, r"loss must return \(value, gradient\), got float"),
        ((1.0, np.zeros(3)), ValueError, r"the gradient of loss must have shape .* to match the outputs"),
        ((np.zeros(2), np.zeros((T, 4, O))), TypeError, "loss must return a number first"),
        ((1.0, np.zeros((T, 4, O), complex)), TypeError, "the gradient of loss must be real numbers"),
    ],
)
def test_a_loss_of_ones_own_that_returns_something_else(returned, error, message):
    with pytest.raises(error, match=message):
        run(loss=lambda o, targets, weights: returned)


def test_a_batch_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"^x of batch 1 of data must be finite numbers, got nan"):
        run([arrays(), (NAN, arrays()[1])], batch_size=None)
    with pytest.raises(ValueError, match=r"^x of data\(\) must be finite numbers, got nan"):
        run(lambda: (NAN, arrays()[1]), batch_size=None)


# ---- A task ---------------------------------------------------------------------------------------------------------
def test_a_task_is_learned():
    task = pyrnn.tasks.FlipFlop(bits=2, batch_size=32)
    rnn = pyrnn.RNN(task.input_size, 32, output_size=task.output_size, rng=0)
    options = {"optimizer": Adam(lr=1e-2), "steps": 300, "clip_norm": 1.0}
    pyrnn.fit(rnn, task, **options)
    x, y, weights = dataclasses.replace(task, seed=1).batch(0)
    assert task.accuracy(rnn(x)[0], y, weights) > 0.95


def test_steps_allocate_no_arrays_that_stay():
    """Memory after many steps is that after a few, but for the records."""
    import tracemalloc

    data = tuple(a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays(n=64, length=50))

    sizes = {}

    class Measure:
        def on_step_end(self, state):
            if state.step in (5, 60):
                sizes[state.step] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        run(data, rnn=rnn_of(np.float32), batch_size=16, steps=60, callbacks=[Measure()])
    finally:
        tracemalloc.stop()
    assert sizes[60] - sizes[5] < 60_000
