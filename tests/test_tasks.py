"""`pyrnn.tasks`: batches as functions of a seed and a step, and what counts as solved."""

import copy
import dataclasses
import itertools
import pickle

import numpy as np
import pytest
from helpers import LAYOUTS, for_each

import pyrnn
from pyrnn import tasks

pytestmark = pytest.mark.python

TASKS = {
    "flip-flop": tasks.FlipFlop(),
    "sines": tasks.SineWave(),
    "dots": tasks.PerceptualDecision(),
    "context": tasks.ContextDecision(),
    "match": tasks.DelayedMatch(),
    "memory": tasks.WorkingMemory(),
    "dots of many durations": tasks.PerceptualDecision(stimulus=(100, 800), fixation=(0, 200)),
    "context of many durations": tasks.ContextDecision(stimulus=(100, 800), response=(20, 300)),
    "match of many durations": tasks.DelayedMatch(stimuli=2, delay=(0, 1000), test=(300, 500)),
    "memory of many durations": tasks.WorkingMemory(delay=(500, 1000), sigma=0.2, dt=10),
}
DECISIONS = {name: task for name, task in TASKS.items() if isinstance(task, tasks.Decision)}
# All sizes of one: a trial, a step of each period, a bit, a frequency, a strength, a pair.
SMALLEST = {
    "flip-flop": tasks.FlipFlop(batch_size=1, bits=1, duration=20),
    "sines": tasks.SineWave(batch_size=1, count=1, duration=20),
    "dots": tasks.PerceptualDecision(batch_size=1, coherences=[0], fixation=0, stimulus=20, response=20),
    "context": tasks.ContextDecision(batch_size=1, motion=[5], colour=[5], fixation=0, stimulus=20, response=20),
    "match": tasks.DelayedMatch(batch_size=1, stimuli=2, fixation=0, sample=20, delay=0, test=20, response=20),
    "memory": tasks.WorkingMemory(batch_size=1, pairs=[(1, 2)], fixation=0, first=20, delay=0, second=20, response=20),
}
EVERY = TASKS | {f"smallest {name}": task for name, task in SMALLEST.items()}


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))


def oracle(task, y):
    """Outputs that solve the task."""
    return np.eye(task.output_size)[y] * 5 if isinstance(task, tasks.Decision) else y


# ---- Batches --------------------------------------------------------------------------------------------------------
@for_each("task", EVERY)
def test_shapes_and_dtypes(task):
    x, y, weights = batch = task.batch(3)
    T, B = task.length, task.batch_size
    assert isinstance(batch, tasks.Batch)
    assert (x.shape, x.dtype) == ((T, B, task.input_size), np.float32)
    assert (weights.shape, weights.dtype) == ((T, B), np.float32)
    if task.loss == "softmax_cross_entropy":
        assert (y.shape, y.dtype) == ((T, B), np.int64)
        assert 0 <= y.min() <= y.max() < task.output_size
    else:
        assert task.loss == "squared_error"
        assert (y.shape, y.dtype) == ((T, B, task.output_size), np.float32)
    assert set(np.unique(weights)) <= {0, 1}
    assert np.isfinite(x).all()
    assert all(a.flags.c_contiguous for a in batch)
    assert {len(values) for values in task.trial_info(3).values()} == {B}


@for_each("task", EVERY)
def test_a_network_takes_what_a_batch_is(task):
    x, y, weights = task.batch(0)
    rnn = pyrnn.RNN(task.input_size, 4, output_size=task.output_size, rng=0)
    loss = rnn.loss_and_gradients(x, y, weights=weights, loss=task.loss)[0]
    assert np.isfinite(loss)
    assert loss > 0


@for_each("task", EVERY)
def test_a_batch_is_a_function_of_seed_and_step(task):
    first = task.batch(5)
    task.batch(6)
    assert same(task.batch(np.int64(5)), first)
    other = dataclasses.replace(task, seed=1)
    assert same(dataclasses.replace(other, seed=0).batch(5), first)
    assert not same(task.batch(6)[:1], first[:1])
    assert not same(other.batch(5)[:1], first[:1])
    assert same(task.batch(2**64 - 1), task.batch(2**64 - 1))
    assert dataclasses.replace(task, seed=2**200).batch(0).x.shape == first.x.shape


@for_each("task", EVERY)
def test_a_smaller_batch_is_the_beginning_of_a_larger_one(task):
    larger = dataclasses.replace(task, batch_size=9)
    for size in (1, 4):
        smaller = dataclasses.replace(task, batch_size=size)
        assert same(smaller.batch(2), [a[:, :size] for a in larger.batch(2)])
        assert same(smaller.trial_info(2).values(), [a[:size] for a in larger.trial_info(2).values()])


@for_each("task", EVERY)
def test_steps_in_turn(task):
    expected = [task.batch(step) for step in range(3)]
    task = dataclasses.replace(task)
    assert all(same(task(), batch) for batch in expected)
    for _ in range(2):  # from the beginning each time, and whatever was called before
        assert all(same(one, other) for one, other in zip(itertools.islice(task, 3), expected, strict=True))
    assert task == dataclasses.replace(task)
    assert hash(task) == hash(dataclasses.replace(task))
    assert same(pickle.loads(pickle.dumps(task))(), task.batch(3))
    assert same(copy.deepcopy(task)(), task.batch(3))
    assert same(dataclasses.replace(task)(), expected[0])


@for_each("task", TASKS)
def test_noise(task):
    """Of the size that the power over time says, independent of the trial, which it does not change."""
    quiet, noisy = (dataclasses.replace(task, sigma=sigma, batch_size=200) for sigma in (0, 0.3))
    expected, actual = quiet.batch(1), noisy.batch(1)
    assert same(actual[1:], expected[1:])
    assert same(quiet.trial_info(1).values(), noisy.trial_info(1).values())
    noise = actual.x - expected.x
    std = 0.3 * (2 * task.tau / task.dt) ** 0.5
    limit = 5 * std / noise.size**0.5
    assert abs(noise.mean()) < limit
    assert abs(noise.std() - std) < limit
    assert abs((noise[1:] * noise[:-1]).mean()) < std * limit
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < std * limit
    other = dataclasses.replace(noisy, seed=1)
    assert abs((noise * (other.batch(1).x - dataclasses.replace(other, sigma=0).batch(1).x)).mean()) < std * limit


def test_a_network_of_the_same_seed_draws_other_numbers():
    """What draws from Philox for another purpose, with the key that belongs to the seed alone."""
    other = np.random.Philox(key=np.random.SeedSequence(0).generate_state(2, np.uint64))
    u, _ = tasks.SineWave(batch_size=1)._draw(0, with_noise=False)
    assert u[0, 0] != np.random.Generator(other).random()


@for_each("task", TASKS)
def test_targets_know_no_later_inputs(task):
    """Where two trials have the same inputs up to a step, they have the same targets up to it."""
    task = dataclasses.replace(task, sigma=0, batch_size=150)
    x, y, weights = task.batch(0)
    y = np.where((weights != 0)[(..., *[np.newaxis] * (y.ndim - 2))], y, 0).reshape(len(x), 150, -1)
    seen, first = {}, {}  # numbers of inputs up to a step, and a trial that has each of them
    other = np.tile(np.arange(150), (len(x), 1))
    for b in range(150):
        key = 0
        for t in range(len(x)):
            key = seen.setdefault((key, x[t, b].tobytes()), len(seen) + 1)
            if weights[t, b]:
                other[t, b] = first.setdefault(key, b)
    np.testing.assert_array_equal(y, np.take_along_axis(y, other[..., np.newaxis], axis=1))
    assert (other[1:] != np.arange(150)).sum() > 10


# ---- What trials are made of ----------------------------------------------------------------------------------------
@for_each("task", DECISIONS)
def test_periods(task):
    task = dataclasses.replace(task, sigma=0)
    x, y, weights = task.batch(4)
    info, t = task.trial_info(4), np.arange(task.length)[:, np.newaxis]
    go, end = info["go"], info["end"]
    np.testing.assert_array_equal(x[..., 0] == 1, t < go)
    np.testing.assert_array_equal(x[..., 0] == 0, t >= go)
    np.testing.assert_array_equal(y, np.where((go <= t) & (t < end), info["correct"], 0))
    assert (weights[(go <= t) & (t < end)] == 1).all()
    assert (weights[t >= end] == 0).all()
    assert (x[np.broadcast_to(t >= end, x.shape[:2])] == 0).all()
    shortest, longest = task._steps("response")
    assert shortest <= (end - go).min() <= (end - go).max() <= longest
    low, high = np.array([task._steps(name) for name in task.PERIODS]).sum(axis=0)
    assert high == task.length
    assert low <= end.min() <= end.max() <= high
    fixed = low == high
    assert (len(np.unique(end)) == 1) == fixed


def test_durations_are_equally_probable():
    task = tasks.PerceptualDecision(batch_size=3000, fixation=0, stimulus=[40, 100], response=20)
    assert task.stimulus == (40, 100)
    steps, counts = np.unique(task.trial_info(0)["go"], return_counts=True)
    np.testing.assert_array_equal(steps, [2, 3, 4, 5])
    assert np.abs(counts - 750).max() < 5 * (3000 * 0.25 * 0.75) ** 0.5


def test_perceptual_decision():
    task = tasks.PerceptualDecision(batch_size=5000, sigma=0, coherences=(0, 10, 100), fixation=20, stimulus=40)
    (x, y, _), info = task.batch(0), task.trial_info(0)
    coherence, correct = info["coherence"], info["correct"]
    values, counts = np.unique(coherence, return_counts=True)
    np.testing.assert_array_equal(values, [-100, -10, 0, 10, 100])
    assert not np.signbit(values[2])
    expected = 5000 * np.array([1, 1, 2, 1, 1]) / 6
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    np.testing.assert_array_equal(correct[coherence != 0], np.where(coherence > 0, 2, 1)[coherence != 0])
    assert abs((correct[coherence == 0] == 2).mean() - 0.5) < 0.06
    np.testing.assert_allclose(x[1:3, :, 2] - x[1:3, :, 1], [coherence / 100] * 2, atol=1e-7)
    np.testing.assert_allclose(x[1:3, :, 2] + x[1:3, :, 1], 1, atol=1e-7)
    assert (x[[0, 3]][..., 1:] == 0).all()
    np.testing.assert_array_equal(y[-1], correct)


def test_context_decision():
    task = tasks.ContextDecision(batch_size=3000, sigma=0, motion=(10, 20), colour=(0, 40))
    x, info = task.batch(0).x, task.trial_info(0)
    by_colour, during = info["context"] == 1, 10
    assert abs(by_colour.mean() - 0.5) < 0.05
    np.testing.assert_array_equal(x[:, :, 1:3], np.broadcast_to(np.eye(2)[info["context"]], (len(x), 3000, 2)))
    np.testing.assert_allclose(x[during, :, 4] - x[during, :, 3], info["motion"] / 100, atol=1e-7)
    np.testing.assert_allclose(x[during, :, 6] - x[during, :, 5], info["colour"] / 100, atol=1e-7)
    np.testing.assert_array_equal(info["coherence"], np.where(by_colour, info["colour"], info["motion"]))
    decided = info["coherence"] != 0
    np.testing.assert_array_equal(info["correct"][decided], np.where(info["coherence"] > 0, 2, 1)[decided])
    conflict = np.sign(info["motion"]) == -np.sign(info["colour"])
    assert abs(conflict.mean() - 0.25) < 0.05  # in the other half of the trials without a colour's evidence
    assert abs(np.corrcoef(info["motion"], info["colour"])[0, 1]) < 0.1


@for_each("stimuli", [2, 3, 5])
def test_delayed_match(stimuli):
    task = tasks.DelayedMatch(batch_size=3000, sigma=0, stimuli=stimuli)
    x, info = task.batch(0).x, task.trial_info(0)
    sample, test, lines = info["sample"], info["test"], np.eye(stimuli)
    np.testing.assert_array_equal(info["correct"], np.where(sample == test, 1, 2))
    assert abs((info["correct"] == 1).mean() - 0.5) < 0.05
    for shown in (sample, test):
        counts = np.bincount(shown, minlength=stimuli)
        assert np.abs(counts - 3000 / stimuli).max() < 5 * (3000 / stimuli) ** 0.5
    np.testing.assert_array_equal(x[15:40, :, 1:], [lines[sample]] * 25)
    np.testing.assert_array_equal(x[90:115, :, 1:], [lines[test]] * 25)
    assert x[..., 1:].sum() == 50 * 3000


def test_working_memory():
    task = tasks.WorkingMemory(batch_size=3000, sigma=0)
    x, info = task.batch(0).x, task.trial_info(0)
    first, second = info["first"], info["second"]
    np.testing.assert_array_equal(info["correct"], np.where(first > second, 1, 2))
    _, counts = np.unique(np.stack([first, second]), axis=1, return_counts=True)
    assert len(counts) == 10
    assert np.abs(counts - 300).max() < 5 * 300**0.5
    for steps, frequency in ((slice(5, 30), first), (slice(180, 205), second)):
        np.testing.assert_allclose(x[steps, :, 1], [0.2 + 0.8 * (frequency - 10) / 24] * 25, rtol=1e-6)
        np.testing.assert_allclose(x[steps, :, 2], [1 - 0.8 * (frequency - 10) / 24] * 25, rtol=1e-6)
    assert (x[30:180, :, 1:] == 0).all()


def test_flip_flop():
    """Against a loop over time."""
    task = tasks.FlipFlop(bits=2, batch_size=50, interval=100, pulse=60, sigma=0)
    x, y, _ = task.batch(0)
    assert set(np.unique(x)) == {-1, 0, 1}
    assert (x[0] != 0).all()
    memory, age = y[0].copy(), np.zeros(y[0].shape, int)
    np.testing.assert_array_equal(x[0], y[0])
    for t in range(1, len(x)):
        age += 1
        age[(x[t] != 0) & ((x[t] != memory) | (age >= 3))] = 0
        memory = np.where(x[t] != 0, x[t], memory)
        np.testing.assert_array_equal(y[t], memory)
    narrow = dataclasses.replace(task, pulse=20, batch_size=500)
    pulses = narrow.batch(0).x
    np.testing.assert_array_equal((pulses != 0).sum(axis=0), narrow.trial_info(0)["pulses"])
    np.testing.assert_array_equal(narrow.trial_info(0)["pulses"][:50], task.trial_info(0)["pulses"])
    assert abs((pulses[1:] != 0).mean() - 0.2) < 0.01
    assert abs(pulses.mean()) < 0.01


def test_pulses_at_every_step():
    task = tasks.FlipFlop(interval=20, sigma=0)
    np.testing.assert_array_equal(task.batch(0).x, task.batch(0).y)


def test_sine_wave():
    task = tasks.SineWave(batch_size=2000, low=1, high=5, count=5, dt=10, sigma=0)
    (x, y, _), frequency = task.batch(0), task.trial_info(0)["frequency"]
    t = np.arange(task.length)[:, np.newaxis] * 0.01
    np.testing.assert_allclose(y[..., 0], np.sin(2 * np.pi * t * frequency), atol=1e-6)
    np.testing.assert_allclose(x[..., 0], np.broadcast_to(frequency / 5 + 0.25, x.shape[:2]), rtol=1e-6)
    values, counts = np.unique(frequency, return_counts=True)
    np.testing.assert_array_equal(values, [1, 2, 3, 4, 5])
    assert np.abs(counts - 400).max() < 5 * 400**0.5
    assert tasks.SineWave(count=1).trial_info(0)["frequency"][0] == 0.5


# ---- What counts as solved ------------------------------------------------------------------------------------------
@for_each("task", TASKS)
def test_accuracy_of_an_oracle_and_of_chance(task):
    task = dataclasses.replace(task, batch_size=2000)
    _, y, weights = task.batch(0)
    assert task.accuracy(oracle(task, y), y, weights) == 1
    assert task.accuracy(oracle(task, y), y) == 1
    outputs = np.random.default_rng(0).standard_normal((len(y), 2000, task.output_size))
    if isinstance(task, tasks.SineWave):
        assert abs(task.accuracy(np.full_like(outputs, y.mean()), y, weights)) < 1e-6
        assert task.accuracy(outputs, y, weights) == pytest.approx(
            1 - np.square(outputs - y).mean() / y.var(), rel=1e-5
        )
        return
    chance = 1 / 3 if isinstance(task, tasks.Decision) else 1 / 2
    assert abs(task.accuracy(outputs, y, weights) - chance) < 0.06
    assert task.accuracy(-oracle(task, y), y, weights) == 0


@for_each("task", SMALLEST)
def test_accuracy_of_the_smallest_tasks(task):
    _, y, weights = task.batch(0)
    actual = task.accuracy(oracle(task, y), y, weights)
    assert actual == 1 or (isinstance(task, tasks.SineWave) and np.isnan(actual))  # a target without variance


@for_each("task", DECISIONS)
def test_choices_are_those_of_the_response_period(task):
    task = dataclasses.replace(task, batch_size=30, response=300)
    (_, y, weights), info = task.batch(0), task.trial_info(0)
    t = np.arange(len(y))[:, np.newaxis]
    response = (info["go"] <= t) & (t < info["end"])
    wanted = np.random.default_rng(0).integers(0, 3, 30)
    outputs = np.where(response[..., np.newaxis], np.eye(3)[wanted], 100 * np.eye(3)[(wanted + 1) % 3])
    np.testing.assert_array_equal(task.choices(outputs, y, weights), wanted)
    assert task.accuracy(outputs, y, weights) == (wanted == info["correct"]).mean()
    outputs[~response] = np.nan  # is not read
    np.testing.assert_array_equal(task.choices(outputs, y, weights), wanted)
    # The mean decides: one step with an output of 2 does not outvote all steps with another of 1.
    first = t == info["go"]
    outputs = np.where(response[..., np.newaxis], np.eye(3)[[1] * 30], 0) + 2 * first[..., np.newaxis] * np.eye(3)[2]
    np.testing.assert_array_equal(task.choices(outputs, y, weights), 1)


def test_trials_that_cannot_be_decided():
    task = tasks.PerceptualDecision(batch_size=4)
    _, y, weights = task.batch(0)
    outputs = np.array(oracle(task, y))
    outputs[-1, 0, 2] = np.nan
    outputs[-1, 1] = [-np.inf, np.inf, -np.inf]
    outputs[-2, 1] = -np.inf
    weights[:, 2] = 0
    np.testing.assert_array_equal(task.choices(outputs, y, weights), [-1, -1, -1, y[-1, 3]])
    assert task.accuracy(outputs, y, weights) == pytest.approx(1 / 3)
    assert np.isnan(task.accuracy(outputs, y, np.zeros_like(weights)))
    assert np.isnan(task.accuracy(outputs[:, :0], y[:, :0], weights[:, :0]))


@for_each("task", [tasks.FlipFlop(batch_size=4), tasks.SineWave(batch_size=4)])
def test_steps_without_weight_are_left_out(task):
    _, y, weights = task.batch(0)
    outputs = y.copy()
    outputs[10:20], weights[10:20] = np.nan, 0
    assert task.accuracy(outputs, y, weights) == 1
    assert task.accuracy(np.nan_to_num(outputs), y) < 1
    assert np.isnan(task.accuracy(outputs, y, np.zeros_like(weights)))
    outputs = y.copy()
    outputs[0] = -y[0] - 1
    weights[:] = 1
    weights[0] = 50
    heavy = task.accuracy(outputs, y, weights)
    assert heavy < task.accuracy(outputs, y)


@for_each("layout", LAYOUTS)
def test_accuracy_of_every_layout(layout):
    for task in (tasks.FlipFlop(bits=2, batch_size=5), tasks.SineWave(batch_size=5), tasks.DelayedMatch(batch_size=5)):
        _, y, weights = task.batch(0)
        outputs = np.random.default_rng(0).standard_normal((len(y), 5, task.output_size))
        expected = task.accuracy(outputs, y, weights)
        given = [layout(a) for a in (outputs, y, weights)]
        assert task.accuracy(*given) == pytest.approx(expected, rel=1e-12)
        assert task.accuracy(outputs.tolist(), y.tolist(), weights.tolist()) == pytest.approx(expected, rel=1e-6)


# ---- A task of one's own --------------------------------------------------------------------------------------------
class Sum(tasks.Task):
    loss = "squared_error"
    input_size, output_size, length, numbers = 1, 1, 10, 10

    def trials(self, u):
        x = (u.T[..., np.newaxis] < 0.5).astype(np.float32)
        return tasks.Trials(x, x.cumsum(axis=0), np.ones(x.shape[:2], np.float32), {"sum": x.sum(axis=(0, 2))})

    def accuracy(self, outputs, y, weights=None):
        return float((np.round(outputs) == y).mean())


def test_a_task_of_ones_own():
    task = Sum(batch_size=3, sigma=0, seed=4)
    x, y, _ = task.batch(0)
    np.testing.assert_array_equal(y[-1, :, 0], task.trial_info(0)["sum"])
    assert x.shape == (10, 3, 1)
    assert same(task(), task.batch(0))
    with pytest.raises(TypeError, match="abstract"):
        tasks.Task()


# ---- Errors ---------------------------------------------------------------------------------------------------------
WRONG = [
    ("FlipFlop", {"batch_size": 0}, ValueError, "batch_size must be a positive integer, got 0"),
    ("FlipFlop", {"batch_size": 2.0}, TypeError, "batch_size must be a positive integer, got 2.0"),
    ("FlipFlop", {"bits": 0}, ValueError, "bits must be a positive integer, got 0"),
    ("FlipFlop", {"dt": 0}, ValueError, "dt must be a finite number greater than 0, got 0"),
    ("FlipFlop", {"dt": "20"}, TypeError, "dt must be a finite number greater than 0, got '20'"),
    ("FlipFlop", {"dt": True}, TypeError, "dt must be a finite number greater than 0, got True"),
    ("FlipFlop", {"sigma": -1}, ValueError, "sigma must be a finite number at least 0, got -1"),
    ("FlipFlop", {"sigma": np.nan}, ValueError, "sigma must be a finite number at least 0, got nan"),
    ("FlipFlop", {"tau": np.inf}, ValueError, "tau must be a finite number greater than 0, got inf"),
    ("FlipFlop", {"seed": -1}, ValueError, "seed must be an integer from 0, got -1"),
    ("FlipFlop", {"seed": None}, TypeError, "seed must be an integer from 0, got None"),
    ("FlipFlop", {"interval": 10}, ValueError, "interval must be a finite number at least 20, got 10"),
    ("FlipFlop", {"duration": 5}, ValueError, "duration must be at least one step of 20 ms long, got 5"),
    ("FlipFlop", {"pulse": 0}, ValueError, "pulse must be at least one step of 20 ms long, got 0"),
    ("SineWave", {"low": 0}, ValueError, "low must be a finite number greater than 0, got 0"),
    ("SineWave", {"low": 4}, ValueError, "high must be a finite number at least 4, got 3.5"),
    ("SineWave", {"high": 25}, ValueError, "high must be less than half of the steps in a second, 25, got 25"),
    ("SineWave", {"count": 0}, ValueError, "count must be a positive integer, got 0"),
    ("PerceptualDecision", {"coherences": ()}, ValueError, "coherences must be one or more numbers, got ()"),
    ("PerceptualDecision", {"coherences": 5}, TypeError, "coherences must be a sequence of numbers, got 5"),
    (
        "PerceptualDecision",
        {"coherences": [3, 101]},
        ValueError,
        "coherences must be a finite number at least 0 and at most 100, got 101",
    ),
    ("PerceptualDecision", {"stimulus": (3, 2)}, ValueError, "stimulus must be a pair of durations, the shorter one"),
    ("PerceptualDecision", {"stimulus": (3, 2, 1)}, ValueError, "stimulus must be a duration in ms or a pair of them"),
    ("PerceptualDecision", {"stimulus": 0}, ValueError, "stimulus must be at least one step of 20 ms long, got 0"),
    ("PerceptualDecision", {"fixation": -1}, ValueError, "fixation must be a finite number at least 0, got -1"),
    ("ContextDecision", {"colour": [-5]}, ValueError, "colour must be a finite number at least 0 and at most"),
    ("DelayedMatch", {"stimuli": 1}, ValueError, "stimuli must be an integer from 2, got 1"),
    ("WorkingMemory", {"pairs": []}, ValueError, "pairs must be one or more pairs of frequencies, got []"),
    ("WorkingMemory", {"pairs": [1, 2]}, ValueError, "pairs must be pairs of frequencies, got [1, 2]"),
    ("WorkingMemory", {"pairs": [(2, 2)]}, ValueError, "pairs must be pairs of different frequencies, got (2, 2)"),
    ("WorkingMemory", {"pairs": [(-2, 2)]}, ValueError, "pairs must be a finite number at least 0, got -2"),
]  # fmt: skip


@for_each(("name", "arguments", "error", "message"), WRONG)
def test_wrong_arguments(name, arguments, error, message):
    with pytest.raises(error) as caught:
        getattr(tasks, name)(**arguments)
    assert str(caught.value).startswith(message)


def test_fields_are_fixed():
    task = tasks.FlipFlop()
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.bits = 2
    with pytest.raises(TypeError, match="positional"):
        tasks.FlipFlop(3)


@for_each(
    ("step", "error"), [(-1, ValueError), (2**64, ValueError), (1.0, TypeError), (None, TypeError), (True, TypeError)]
)
def test_wrong_steps(step, error):
    for function in (tasks.FlipFlop().batch, tasks.SineWave().trial_info):
        with pytest.raises(error, match=rf"^step must be an integer from 0 to {2**64 - 1}, got {step}"):
            function(step)


def test_wrong_outputs():
    task = tasks.DelayedMatch(batch_size=2)
    _, y, weights = task.batch(0)
    outputs = np.zeros((*y.shape, 3))
    for function in (task.choices, task.accuracy):
        with pytest.raises(ValueError, match=r"^outputs must have shape \(T, B, 3\), got \(130, 2\)"):
            function(outputs[..., 0], y, weights)
        with pytest.raises(
            ValueError, match=r"^y must have shape \(130, 2\) to match outputs \(130, 2, 3\), got \(2,\)"
        ):
            function(outputs, y[0], weights)
        with pytest.raises(ValueError, match=r"^weights must have shape \(130, 2\) to match outputs"):
            function(outputs, y, weights[0])
        with pytest.raises(TypeError, match=r"^y must be integers, the classes, got dtype float64"):
            function(outputs, y * 1.0, weights)
        with pytest.raises(TypeError, match=r"^outputs must be real numbers"):
            function(outputs * 1j, y, weights)
    task = tasks.FlipFlop(batch_size=2)
    _, y, _ = task.batch(0)
    with pytest.raises(ValueError, match=r"^y must have shape \(100, 2, 3\) to match outputs"):
        task.accuracy(y, y[..., 0])


# ---- Training -------------------------------------------------------------------------------------------------------
def train(task, rnn, steps, rate=1e-2, first=0, moments=None):
    """Adam, by hand; returns what a resumed run needs."""
    mean, square = np.zeros((2, rnn.parameters.size)) if moments is None else moments
    for step in range(first, steps):
        x, y, weights = task.batch(step)
        rnn.loss_and_gradients(x, y, weights=weights / weights.sum(), loss=task.loss)
        mean = 0.9 * mean + 0.1 * rnn.gradients
        square = 0.999 * square + 0.001 * rnn.gradients.astype(float) ** 2
        rnn.parameters -= rate * (mean / (1 - 0.9 ** (step + 1))) / (np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8)
    return mean, square


def accuracy(task, rnn):
    x, y, weights = task.batch(0)
    return task.accuracy(rnn(x)[0], y, weights)


def test_a_network_learns_a_bit():
    task = tasks.FlipFlop(bits=1, duration=600, interval=150, batch_size=32)
    rnn = pyrnn.RNN(1, 16, output_size=1, rng=0)
    validation = dataclasses.replace(task, seed=1, batch_size=200)
    assert accuracy(validation, rnn) < 0.8
    train(task, rnn, 300)
    assert accuracy(validation, rnn) > 0.99


def test_a_resumed_run_is_the_same_run():
    task = tasks.PerceptualDecision(batch_size=8)
    once, twice = (pyrnn.RNN(3, 8, output_size=3, rng=0) for _ in range(2))
    train(task, once, 20)
    moments = train(task, twice, 7)
    train(pickle.loads(pickle.dumps(task)), twice, 20, first=7, moments=moments)
    np.testing.assert_array_equal(once.parameters, twice.parameters)
