"""Networks whose output is fed back: against PyTorch's autograd on plain loops, and by what sampling must do."""

import inspect
import itertools

import numpy as np
import pytest
from helpers import LAYOUTS, assert_close, central_differences, for_each, forms, network

import pyrnn
from pyrnn import reference
from pyrnn.training import free_running, free_running_output, sample, scheduled_sampling, teacher_forcing

pytestmark = pytest.mark.once

PLAIN = pyrnn.Cell()
FIELDS = ("U", "W", "b", "V", "c", "R", "x", "h0", "first", "alpha")
ARRAYS = FIELDS[:6]
LOSSES = ["softmax_cross_entropy", "squared_error"]
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_form = pytest.mark.parametrize("cell", forms(4).values(), ids=forms(4))
every_missing = pytest.mark.parametrize("missing", ["", "W", "b", "c", "b c", "W b c", "h0", "weights", "W h0 weights"])


def problem(loss="softmax_cross_entropy", missing="", dtype=np.float64, cell=PLAIN, **sizes):
    """A network, and the other arguments, of 6 steps."""
    n = network(**{"T": 6, "B": 3, "I": 2, "H": 4, "O": 3} | sizes, dtype=dtype)
    n["R"] = np.random.default_rng(1).standard_normal((len(n["U"]), len(n["V"]))).astype(dtype)
    n |= dict.fromkeys(missing.split())
    targets = n["targets"] if loss == "softmax_cross_entropy" else n["numbers"]
    others = {"x": n["x"], "targets": targets, "h0": n["h0"], "weights": n["weights"], "loss": loss}
    return pyrnn.Network(*(n[name] for name in ARRAYS), cell=cell), others


def in_torch(net, x, targets, h0, weights, loss, first=None, fed=None, free=False):
    """Loss and gradients by autograd through a loop of steps: each field of FeedbackGradients, and the outputs.

    first: numbers [B, O]; fed: numbers of all steps; free: the output of the step before is fed back.
    """
    torch = pytest.importorskip("torch")
    leaves = {}

    def leaf(name, a):
        if a is not None:
            leaves[name] = torch.tensor(np.asarray(a, np.float64), requires_grad=True)
        return leaves.get(name)

    cell = net.cell
    phi = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda a: a}[cell.nonlinearity]
    U, W, b, V, c, R, alpha = (leaf(n, a) for n, a in zip((*ARRAYS, "alpha"), (*net[:6], cell.alpha), strict=True))
    x, first = leaf("x", x), leaf("first", first)
    h = leaf("h0", np.zeros((*x.shape[1:-1], len(U))) if h0 is None else h0)
    targets = torch.tensor(targets)
    weights = torch.ones(x.shape[:-1]) if weights is None else torch.tensor(weights)
    value, outputs = 0.0, []

    read = lambda h: phi(h) if cell.current else h

    def output(h):
        return read(h) @ V.T + (0 if c is None else c)

    for t in range(len(x)):
        if fed is not None:
            y = torch.tensor(fed[t])
        elif t == 0:
            y = first if first is not None else output(h) if free else torch.zeros(*h.shape[:-1], len(V)).double()
        elif free:
            y = outputs[-1]
        elif loss == "squared_error":
            y = targets[t - 1]
        else:
            y = torch.nn.functional.one_hot(targets[t - 1], len(V)).double()
        a = x[t] @ U.T + y @ R.T + (0 if b is None else b)
        a = a if W is None else a + read(h) @ W.T
        new = a if cell.current else phi(a)
        h = new if alpha is None else (1 - alpha) * h + alpha * new
        outputs.append(output(h))
        if loss == "squared_error":
            value = value + (weights[t] * ((outputs[-1] - targets[t]) ** 2).sum(-1)).sum()
        else:
            log_p = torch.log_softmax(outputs[-1], -1).gather(-1, targets[t].unsqueeze(-1))[..., 0]
            value = value - (weights[t] * log_p).sum()
    value.backward()
    gradients = {name: np.zeros(a.shape) if a.grad is None else a.grad.numpy() for name, a in leaves.items()}
    return value.item(), gradients, torch.stack(outputs).detach().numpy()


def assert_agrees(result, expected, tolerance=1e-12):
    value, gradients = result
    exact_value, exact = expected[:2]
    np.testing.assert_allclose(value, exact_value, rtol=tolerance)
    assert gradients._fields == FIELDS
    for name in FIELDS:
        a = getattr(gradients, name)
        assert (a is None) == (name not in exact), name
        if a is not None:
            assert_close(np.asarray(a), exact[name], tolerance)


# ---- Against autograd -----------------------------------------------------------------------------------------------
@pytest.mark.peer
@every_loss
@every_missing
@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("first", [False, True])
def test_teacher_forcing_against_torch(loss, missing, B, first):
    net, others = problem(loss, missing, B=B)
    first = np.random.default_rng(2).standard_normal((*others["x"].shape[1:-1], 3)) if first else None
    result = teacher_forcing(net, **others, first=first)
    assert_agrees(result, in_torch(net, **others, first=first))


@pytest.mark.peer
@every_loss
@every_missing
@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("first", [False, True])
def test_free_running_against_torch(loss, missing, B, first):
    net, others = problem(loss, missing, B=B)
    first = np.random.default_rng(2).standard_normal((*others["x"].shape[1:-1], 3)) if first else None
    expected = in_torch(net, **others, first=first, free=True)
    assert_agrees(free_running(net, **others, first=first), expected)
    o = free_running_output(net, others["x"], first=first, h0=others["h0"])
    assert_close(o, expected[2], 1e-13)


@pytest.mark.peer
@every_form
@pytest.mark.parametrize("function", [teacher_forcing, free_running])
@for_each("missing", ["", "W", "b", "b c"])
@for_each("first", [False, True])
def test_forms_against_torch(cell, function, missing, first):
    net, others = problem("squared_error", missing, cell=cell)
    first = np.random.default_rng(2).standard_normal((3, 3)) if first else None
    expected = in_torch(net, **others, first=first, free=function is free_running)
    assert_agrees(function(net, **others, first=first), expected, 1e-11)
    if function is free_running:
        o = free_running_output(net, others["x"], first=first, h0=others["h0"])
        assert_close(o, expected[2], 1e-12)


@pytest.mark.parametrize(
    ("kind", "loss"), [*itertools.product(forms(4), LOSSES[1:]), ("tanh-plain", LOSSES[0]), ("tanh-current", LOSSES[0])]
)
@pytest.mark.parametrize("function", [teacher_forcing, free_running])
@pytest.mark.parametrize("missing", ["", "W"])
@pytest.mark.parametrize("first", [False, True])
def test_against_central_differences(kind, loss, function, missing, first):
    cell = forms(4)[kind]
    net, others = problem(loss, missing, T=4, B=2, cell=cell)
    arrays = {name: a for name, a in zip(ARRAYS, net, strict=False) if a is not None}
    arrays |= {"x": others.pop("x"), "h0": others.pop("h0")}
    if first:
        arrays["first"] = np.random.default_rng(2).standard_normal((2, 3))
    if cell.alpha is not None:
        arrays["alpha"] = np.array(cell.alpha)

    def run(x, h0, first=None, alpha=None, **given):
        given = net._replace(**given, cell=pyrnn.Cell(cell.nonlinearity, alpha, cell.form))
        return function(given, x, h0=h0, first=first, **others)

    _, gradients = run(**arrays)
    for name, exact in central_differences(lambda **varied: run(**varied)[0], arrays).items():
        tolerance = {"alpha": 1e-6}.get(name, 1e-8 if kind == "tanh-plain" else 1e-7)  # of units that cancel
        assert_close(np.asarray(getattr(gradients, name)), exact, tolerance)


@every_form
@pytest.mark.parametrize("missing", ["", "W", "b", "c"])
def test_the_closed_loop_is_the_network_whose_output_is_fed_back(cell, missing):
    """By the reference, a step at a time, of the network of the input [x_t, o_{t-1}]."""
    net, others = problem(missing=missing, cell=cell)
    U, W, b, V, c, R = net[:6]
    opened = pyrnn.Network(np.hstack([U, R]), np.zeros((4, 4)) if W is None else W, b, cell=cell)
    h, outputs = others["h0"], []
    for x_t in others["x"]:
        read = reference.phi_of(cell)(h) if cell.current else h
        o = reference.output(read, V, c)
        outputs.append(o)
        h = reference.simulate(opened, np.hstack([x_t, o])[np.newaxis], h).h[0]
    run = pyrnn.simulate(net.closed_loop(), others["x"], others["h0"])
    assert_close(run.h[-1], h, 1e-12)
    assert_close(run.output()[:-1], np.array(outputs[1:]), 1e-12)
    assert_close(free_running_output(net, others["x"], h0=others["h0"]), run.output(), 0)


@every_loss
@pytest.mark.parametrize("missing", ["", "W", "b c"])
def test_float32(loss, missing):
    net, others = problem(loss, missing, dtype=np.float32)
    exact = pyrnn.Network(*(None if a is None else a.astype(np.float64) for a in net[:6]))
    given = {n: a.astype(np.float64) if getattr(a, "dtype", None) == np.float32 else a for n, a in others.items()}
    for function in (teacher_forcing, free_running):
        value, gradients = function(net, **others)
        expected = function(exact, **given)
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        for a, correct in zip(gradients, expected[1], strict=True):
            if correct is not None:
                assert a.dtype == np.float32
                assert_close(a, correct, 1e-5)


# ---- What is fed back -----------------------------------------------------------------------------------------------
@pytest.mark.peer
@pytest.mark.parametrize("missing", ["", "W"])
def test_fed_as_classes_and_as_numbers(missing):
    net, others = problem(missing=missing)
    classes = np.random.default_rng(3).integers(-1, 3, (6, 3))
    numbers = (classes[..., None] == np.arange(3)).astype(float)
    expected = in_torch(net, **others, fed=numbers)
    for fed in (classes, numbers, classes.astype(np.int8), classes.tolist()):
        assert_agrees(teacher_forcing(net, **others, fed=fed), expected)


@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("function", [teacher_forcing, free_running])
def test_first_as_class(B, function):
    net, others = problem(B=B)
    for first, vector in ((2, [0.0, 0, 1]), (np.uint8(0), [1.0, 0, 0]), (-1, [0.0, 0, 0])):
        numbers = np.broadcast_to(vector, (*others["x"].shape[1:-1], 3))
        value, gradients = function(net, **others, first=first)
        expected, exact = function(net, **others, first=numbers)
        assert value == expected
        assert gradients.first is None
        assert exact.first.shape == numbers.shape
        for name in FIELDS[:-2]:
            np.testing.assert_array_equal(getattr(gradients, name), getattr(exact, name))
    if B:
        each = function(net, **others, first=np.array([2, 2, 2]))[0]
        assert each == function(net, **others, first=2)[0]


def test_first_that_is_the_output_of_h0():
    """Given, it makes a first step of its own; left out, it is part of the closed network: the same numbers."""
    net, others = problem("squared_error")
    first = pyrnn.output(others["h0"][np.newaxis], net.V, net.c)[0]
    value, gradients = free_running(net, **others, first=first)
    expected, exact = free_running(net, **others)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    assert_close(gradients.x, exact.x, 1e-13)
    assert_close(gradients.h0 + gradients.first @ net.V, exact.h0, 1e-13)
    assert_close(gradients.V + gradients.first.T @ others["h0"], exact.V, 1e-13)
    o, same = (free_running_output(net, others["x"], h0=others["h0"], first=y) for y in (first, None))
    assert_close(o, same, 1e-13)


@pytest.mark.peer
@pytest.mark.parametrize("missing", ["", "W"])
def test_targets_of_no_weight(missing):
    """Valid ones are fed back, others are nothing."""
    net, others = problem(missing=missing)
    others["weights"][2, 1] = others["weights"][3:5, 0] = 0
    expected = teacher_forcing(net, **others)
    changed = others | {"targets": others["targets"].copy()}
    changed["targets"][2, 1] = (others["targets"][2, 1] + 1) % 3
    assert not np.array_equal(teacher_forcing(net, **changed)[1].x, expected[1].x)
    changed["targets"][2, 1] = 77
    fed = np.concatenate([np.full((1, 3), -1), changed["targets"][:-1]])
    fed[fed == 77] = -1
    assert_agrees(
        teacher_forcing(net, **changed),
        in_torch(net, **others, fed=(fed[..., None] == np.arange(3)).astype(float)),
    )
    net, others = problem("squared_error", missing)
    others["weights"][2, 1] = 0
    others["targets"][2, 1, 0] = np.nan
    nothing = others["targets"].copy()
    nothing[2, 1] = 0
    value, gradients = teacher_forcing(net, **others)
    expected, exact = teacher_forcing(net, **others | {"targets": nothing})
    assert value == expected
    np.testing.assert_array_equal(gradients.R, exact.R)
    others["weights"][2, 1] = 1
    assert np.isnan(teacher_forcing(net, **others)[1].R).any()


def test_without_w_steps_do_not_know_each_other():
    """Figure 10.4: with the target fed back a NaN stays within its step."""
    net, others = problem(missing="W")
    _, expected = teacher_forcing(net, **others)
    others["x"][2, 1] = np.nan
    _, gradients = teacher_forcing(net, **others)
    assert np.isnan(gradients.x[2, 1]).all()
    gradients.x[2, 1] = expected.x[2, 1]
    np.testing.assert_array_equal(gradients.x, expected.x)
    np.testing.assert_array_equal(gradients.h0, np.zeros((3, 4)))


@pytest.mark.parametrize("form", ["rate", "current"])
def test_without_w_a_leak_remembers(form):
    net, others = problem(missing="W", cell=pyrnn.Cell(alpha=0.5, form=form))
    others["x"][2, 1] = np.nan
    _, gradients = teacher_forcing(net, **others)
    assert gradients.W is None
    assert np.isfinite(gradients.x[:, [0, 2]]).all()
    assert np.isnan(gradients.x[2:, 1]).all()
    assert np.isnan(gradients.h0[1]).any()


def test_zero_w_is_no_w():
    net, others = problem(missing="W")
    zero = net._replace(W=np.zeros((4, 4)))
    for function in (teacher_forcing, free_running):
        value, gradients = function(net, **others)
        expected, exact = function(zero, **others)
        np.testing.assert_allclose(value, expected, rtol=1e-14)
        for name in set(FIELDS) - {"W", "first", "alpha"}:
            assert_close(getattr(gradients, name), getattr(exact, name), 1e-13)


@pytest.mark.parametrize("cell", [pyrnn.Cell(), pyrnn.Cell(alpha=0.5), pyrnn.Cell(alpha=0.5, form="current")], ids=str)
def test_memory_limit(cell):
    net = pyrnn.initialize(3, 128, 5, feedback=True, cell=cell, dtype=np.float32, rng=0)
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((1000, 4, 3)).astype(np.float32), rng.integers(0, 5, (1000, 4))
    for function in (teacher_forcing, free_running):
        with pytest.raises(ValueError, match=r"^memory_limit must be at least \d+ bytes") as caught:
            function(net, x, targets, memory_limit=1)
        value, gradients = function(net, x, targets, memory_limit=int(str(caught.value).split()[5]))
        expected, exact = function(net, x, targets)
        assert value == pytest.approx(expected, rel=1e-6)
        for a, correct in zip(gradients[:8], exact[:8], strict=True):
            assert_close(a, correct, 1e-5)


# ---- Scheduled sampling ---------------------------------------------------------------------------------------------
@pytest.mark.peer
@every_loss
@pytest.mark.parametrize("missing", ["", "W", "h0 weights"])
@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("choose", ["sample", "argmax"])
def test_scheduled_gradients_are_those_of_what_was_fed(loss, missing, B, choose):
    net, others = problem(loss, missing, B=B, T=20)
    first = np.random.default_rng(2).standard_normal((*others["x"].shape[1:-1], 3))
    result = scheduled_sampling(net, **others, probability=0.5, choose=choose, first=first, rng=0)
    expected = in_torch(net, **others, fed=result.fed)
    np.testing.assert_allclose(result.loss, expected[0], rtol=1e-12)
    for name in FIELDS[:-2]:
        if name in expected[1]:
            assert_close(getattr(result.gradients, name), expected[1][name], 1e-12)
    np.testing.assert_array_equal(result.fed[0], first)
    # Each row is the target of the step before or, about half of the time, what the network said.
    said = expected[2][:-1]
    if loss == "softmax_cross_entropy":
        told = result.fed[1:].argmax(axis=-1) == others["targets"][:-1]
        np.testing.assert_array_equal(np.sort(result.fed[1:], axis=-1), np.broadcast_to([0.0, 0, 1], said.shape))
        if choose == "argmax":
            assert (told | (result.fed[1:].argmax(axis=-1) == said.argmax(axis=-1))).all()
    else:
        told = (result.fed[1:] == others["targets"][:-1]).all(axis=-1)
        np.testing.assert_allclose(result.fed[1:][~told], said[~told], rtol=1e-10, atol=1e-12)
    assert 0.2 < told.mean() < 0.95


@every_loss
def test_probability_one_is_teacher_forcing(loss):
    net, others = problem(loss)
    result = scheduled_sampling(net, **others, probability=1, first=2)
    value, gradients = teacher_forcing(net, **others, first=2)
    assert result.loss == value
    for a, exact in zip(result.gradients, gradients, strict=True):
        np.testing.assert_array_equal(a, exact)


@pytest.mark.peer
@every_form
@every_loss
def test_scheduled_gradients_of_every_form(cell, loss):
    net, others = problem(loss, cell=cell, T=20)
    result = scheduled_sampling(net, **others, probability=0.5, choose="argmax", rng=0)
    value, exact, said = in_torch(net, **others, fed=result.fed)
    np.testing.assert_allclose(result.loss, value, rtol=1e-12)
    for name, a in exact.items():
        assert_close(np.asarray(getattr(result.gradients, name)), a, 1e-11)
    if loss == "squared_error":  # what it says is what is fed back
        told = (result.fed[1:] == others["targets"][:-1]).all(axis=-1)
        assert 0.2 < told.mean() < 0.8
        np.testing.assert_allclose(result.fed[1:][~told], said[:-1][~told], rtol=1e-10, atol=1e-12)


def test_probability_zero_of_numbers_is_free_running():
    net, others = problem("squared_error", T=30)
    first = np.ones((3, 3))
    result = scheduled_sampling(net, **others, probability=0, first=first)
    o = free_running_output(net, others["x"], h0=others["h0"], first=first)
    assert_close(result.fed[1:], o[:-1], 1e-12)
    np.testing.assert_allclose(result.loss, free_running(net, **others, first=first)[0], rtol=1e-12)
    # The gradient through what is fed back is left out.
    assert not np.allclose(result.gradients.R, free_running(net, **others, first=first)[1].R)


def test_probability_by_step():
    net, others = problem("squared_error", T=30, B=50)
    probability = np.repeat([1.0, 0.0, 0.3], 10)
    fed = scheduled_sampling(net, **others, probability=probability, rng=1).fed
    told = (fed[1:] == others["targets"][:-1]).all(axis=-1)
    assert told[:9].all()
    assert not told[9:19].any()
    assert abs(told[19:].mean() - 0.3) < 5 * (0.21 / 500) ** 0.5


def test_scheduled_sampling_draws_from_the_softmax():
    """Frequencies of what is fed back at the second step, where all sequences are alike."""
    net, others = problem(T=2, B=20_000, missing="h0 weights")
    others["x"][...] = others["x"][:, :1]
    fed = scheduled_sampling(net, **others, probability=0, rng=2).fed[1]
    o = pyrnn.simulate(net._replace(R=None), others["x"][:1, :1]).output()[0, 0]
    p = np.exp(o) / np.exp(o).sum()
    assert (np.abs(fed.mean(axis=0) - p) < 5 * np.sqrt(p * (1 - p) / 20_000)).all()


# ---- Sampling -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("missing", ["", "W", "b c", "h0"])
@pytest.mark.parametrize("batch", [None, 1, 7])
@for_each("end_symbol", [None, 2])
@for_each("temperature", [0, 0.5, 1, 2.0])
@for_each("first", [None, 1])
def test_log_probabilities_are_the_cross_entropy(dtype, missing, batch, end_symbol, temperature, first):
    net, others = problem(missing=missing, T=25, B=batch, O=5, dtype=dtype)
    options = {"x": others["x"], "h0": others["h0"], "first": first}
    result = sample(net, 25, batch=batch, end_symbol=end_symbol, temperature=temperature, rng=3, **options)
    classes, lengths, log_probabilities = result
    steps = (25,) if batch is None else (25, batch)
    assert classes.shape == log_probabilities.shape == steps
    assert np.shape(lengths) == steps[1:]
    counted = np.arange(25).reshape(-1, *[1] * len(steps[1:])) < lengths
    for t in range(25):
        weights = counted & (np.arange(25) == t).reshape(-1, *[1] * len(steps[1:]))
        loss, _ = teacher_forcing(net, targets=classes, weights=weights, **options)
        np.testing.assert_allclose(log_probabilities[t].sum(), -loss, rtol=1e-5 if dtype == np.float32 else 1e-12)
    assert (log_probabilities <= 0).all()
    assert not log_probabilities[~counted].any()
    if end_symbol is None:
        assert np.all(lengths == 25)
    else:
        assert (classes[~counted] == end_symbol).all()
        ends = (classes == end_symbol) & counted
        np.testing.assert_array_equal(ends.sum(axis=0), np.asarray(lengths < 25) | (classes[-1] == end_symbol))
        assert temperature == 0 or batch != 7 or ends.any()  # some do end


@every_form
@pytest.mark.parametrize("missing", ["", "W"])
def test_log_probabilities_of_every_form(cell, missing):
    net, others = problem(missing=missing, T=25, B=7, O=5, cell=cell)
    options = {"x": others["x"], "h0": others["h0"], "first": 1}
    classes, lengths, log_probabilities = sample(net, 25, batch=7, end_symbol=2, rng=3, **options)
    weights = np.arange(25)[:, np.newaxis] < lengths
    loss, _ = teacher_forcing(net, targets=classes, weights=weights, **options)
    np.testing.assert_allclose(log_probabilities.sum(), -loss, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_frequencies_are_those_of_the_network(temperature):
    """Of all sequences of two steps, where each is as probable as teacher forcing says at temperature 1."""
    net = pyrnn.initialize(0, 6, 3, feedback=True, rng=4, gain=2.0)
    net = net._replace(c=np.array([0.5, -0.5, 0.0]), V=2 * net.V)
    N = 40_000
    classes, _, log_p = sample(net, 2, batch=N, temperature=temperature, first=0, rng=5)
    cold = net._replace(V=net.V / temperature, c=net.c / temperature)  # its outputs: o / temperature
    pairs = np.stack(np.meshgrid(range(3), range(3), indexing="ij")).reshape(2, 9)
    p = np.exp([-teacher_forcing(cold, np.empty((2, 0)), pair, first=0)[0] for pair in pairs.T])
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)
    found = np.array([(classes == pair[:, None]).all(axis=0).mean() for pair in pairs.T])
    assert (np.abs(found - p) < 5 * np.sqrt(p * (1 - p) / N)).all()
    if temperature == 1:
        np.testing.assert_allclose(np.exp(log_p.sum(axis=0)), p[classes[0] * 3 + classes[1]], rtol=1e-12)


def test_end_symbol_ends():
    net, _ = problem(I=0)
    net = net._replace(c=np.array([0.0, 0.0, 50.0]))
    classes, lengths, log_probabilities = sample(net, 10, batch=4, end_symbol=2, rng=0)
    np.testing.assert_array_equal(classes, np.full((10, 4), 2))
    np.testing.assert_array_equal(lengths, np.ones(4))
    assert not log_probabilities[1:].any()
    alone = sample(net, 10, end_symbol=2, rng=0)
    assert alone.lengths == 1
    assert alone.classes.shape == (10,)


def test_temperature_zero_is_the_most_probable():
    net, others = problem(T=9)
    first, second = (sample(net, 9, batch=3, x=others["x"], temperature=0, rng=seed) for seed in (0, 1))
    np.testing.assert_array_equal(first.classes, second.classes)
    joined = net._replace(U=np.concatenate([net.U, net.R], axis=1), R=None)
    stepper = pyrnn.Stepper(joined, batch=3)
    fed = np.zeros((3, 3))
    for t in range(9):
        o = stepper.step(np.concatenate([others["x"][t], fed], axis=1))
        np.testing.assert_array_equal(first.classes[t], o.argmax(axis=1))
        fed = np.eye(3)[first.classes[t]]


def test_random_state():
    net, _ = problem(I=0)
    draw = lambda rng: sample(net, 30, rng=rng).classes
    np.testing.assert_array_equal(draw(7), draw(np.random.default_rng(7)))
    assert not np.array_equal(draw(7), draw(8))
    assert not np.array_equal(draw(None), draw(None))


# ---- Parameters -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("missing", ["", "W", "b", "c", "W b c"])
def test_ravel(missing):
    net, others = problem(missing=missing)
    vector = net.ravel()
    assert vector.shape == (sum(a.size for a in net.arrays),)
    again = net.unravel(vector)
    assert isinstance(again, pyrnn.Network)
    for a, b in zip(net[:6], again[:6], strict=True):
        np.testing.assert_array_equal(a, b)
    _, gradients = teacher_forcing(net, **others)
    assert gradients.parameters.ravel().shape == vector.shape
    with pytest.raises(ValueError, match=r"^vector must have shape \(\d+,\), got \(3,\)$"):
        net.unravel(np.ones(3))


# ---- Edges and errors -----------------------------------------------------------------------------------------------
def call(function, net, others):
    """Any of the functions with what it takes of the arguments; `sample` as long as x."""
    taken = {name: a for name, a in others.items() if name in inspect.signature(function).parameters}
    if function is sample:
        return function(net, **{"length": 6, "batch": 3, "rng": 0} | taken)
    if function is scheduled_sampling:
        return function(net, **{"probability": 0.5, "rng": 0} | taken)
    return function(net, **taken)


FUNCTIONS = [
    teacher_forcing,
    free_running,
    free_running_output,
    scheduled_sampling,
    sample,
]
every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


@pytest.mark.peer
@every_loss
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("missing", ["", "W"])
@for_each("B", [None, 0, 1, 3])
@for_each("T", [0, 1, 2])
@for_each("I", [0, 1])
@for_each("H", [0, 2])
def test_edge_sizes(loss, first, missing, B, T, I, H):
    net, others = problem(loss, missing, T=T, B=B, I=I, H=H)
    first = np.ones((*others["x"].shape[1:-1], 3)) if first else None
    for function in FUNCTIONS:
        sizes = {"length": T, "batch": B} if function is sample else {}
        result = call(function, net, others | sizes | {"first": first})
        if function is free_running_output:
            assert result.shape == (*others["x"].shape[:-1], 3)
        elif function is not sample:
            given = (*net[:6], others["x"], others["h0"], first)
            for a, like in zip(result[1], given, strict=False):
                assert np.shape(a) == np.shape(like)
    if T > 0 and B != 0 and H > 0:
        for function, free in ((teacher_forcing, False), (free_running, True)):
            expected = in_torch(net, **others, first=first, free=free)
            assert_agrees(call(function, net, others | {"first": first}), expected)


@every_function
def test_inputs_are_not_written(function):
    net, others = problem("squared_error")
    others["first"] = np.ones((3, 3))
    given = [*net.arrays, *(a for a in others.values() if isinstance(a, np.ndarray))]
    before = [a.tobytes() for a in given]
    for a in given:
        a.flags.writeable = False
    call(function, net, others)
    assert [a.tobytes() for a in given] == before


@every_function
@every_loss
@for_each("layout", LAYOUTS)
def test_layouts(layout, function, loss):
    net, others = problem(loss)
    others["first"] = np.ones((3, 3))
    expected = call(function, net, others)
    others |= {name: layout(a) for name, a in others.items() if isinstance(a, np.ndarray)}
    result = call(function, pyrnn.Network(*map(layout, net[:6])), others)
    flat = lambda r: [r] if isinstance(r, np.ndarray) else [a for p in r for a in (p if isinstance(p, tuple) else (p,))]
    for a, exact in zip(flat(result), flat(expected), strict=True):
        if exact is not None:
            assert_close(np.asarray(a), np.asarray(exact), 1e-12)


@every_function
def test_nan_passes_through(function):
    net, others = problem()
    others["x"][3, 1] = np.nan
    if function is sample:
        with pytest.raises(
            ValueError, match=r"outputs that a class can be drawn from, got NaN .* at step 3 of sequence 1"
        ):
            call(function, net, others)
        return
    result = call(function, net, others)
    if function is free_running_output:
        assert np.isfinite(result[:, [0, 2]]).all()
        assert np.isnan(result[3:, 1]).all()
    else:
        assert np.isnan(result[0])
        assert np.isfinite(result[1].x[:, [0, 2]]).all()


@every_function
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"network": (1, 2, 3)}, TypeError, "network must be a pyrnn.Network .*, got tuple; Network.* makes one"),
        ({"network": None}, TypeError, "network must be a pyrnn.Network .*, got NoneType"),
        ({"network": pyrnn.RNN(2, 4, output_size=3)}, ValueError, "network must have R, by which .*, got R None"),
        ({"U": None}, TypeError, "U must be an array of numbers, got None"),
        ({"V": None}, TypeError, "V must be an array of numbers, got None"),
        ({"R": None}, ValueError, "network must have R, by which its output is fed back, got R None"),
        ({"cell": None}, TypeError, "cell must be a pyrnn.Cell, got None"),
        ({"cell": pyrnn.Cell(alpha=[0.5])}, ValueError, r"alpha must be a number or have shape \(4,\), got \(1,\)"),
        (
            {"R": np.ones((4, 2))},
            ValueError,
            r"R must have shape \(4, 3\) to match U \(4, 2\) and V \(3, 4\), got \(4, 2\)",
        ),
        ({"R": np.ones((4, 3), complex)}, TypeError, "R must be real numbers .*, got dtype complex128"),
        ({"W": np.ones((4, 3))}, ValueError, r"W must have shape \(4, 4\) .*, got \(4, 3\)"),
        ({"b": np.ones(3)}, ValueError, r"b must have shape \(4,\) .*"),
        ({"V": np.ones((3, 3))}, ValueError, r"V must have shape \(O, 4\) .*"),
        ({"c": np.ones(4)}, ValueError, r"c must have shape \(3,\) .*"),
        ({"x": np.ones((6, 3, 5))}, ValueError, r"U must have shape \(H, 5\) .*"),
        ({"x": np.ones(6)}, ValueError, r"x must have shape \(T, B, I\) or \(T, I\), got \(6,\)"),
        ({"x": [[1, 2], [3]]}, ValueError, "x must be an array of numbers: .*"),
        ({"h0": np.ones(4)}, ValueError, r"h0 must have shape \(3, 4\) .*"),
        ({"first": 3}, ValueError, "first must be classes from 0 to 2, or -1, got 3"),
        ({"first": [0, 1, -2]}, ValueError, "first must be classes from 0 to 2, or -1, got -2"),
        ({"first": [0, 1]}, ValueError, r"first must have shape \(3,\) to match x .*, got \(2,\)"),
        (
            {"first": 0.5},
            ValueError,
            r"first must be classes of shape \(3,\) or \(\) or numbers of shape \(3, 3\), got .*",
        ),
        ({"first": np.ones((3, 2))}, ValueError, r"first must be .* numbers of shape \(3, 3\), got shape \(3, 2\)"),
        ({"first": "a"}, TypeError, "first must be real numbers .*, got dtype .*"),
        ({"targets": np.full((6, 3), 3)}, ValueError, r"targets must be classes from 0 to 2, got 3 at \(0, 0\)"),
        ({"targets": np.ones((6, 3))}, TypeError, "targets must be integers, .*"),
        ({"targets": np.ones((5, 3), int)}, ValueError, r"targets must have shape \(6, 3\) .*"),
        ({"weights": np.ones(6)}, ValueError, r"weights must have shape \(6, 3\) .*"),
        ({"loss": "mse"}, ValueError, "loss must be one of .*, got 'mse'"),
        ({"fed": np.ones((6, 3, 2))}, ValueError, r"fed must be classes of shape \(6, 3\) or numbers of .*"),
        ({"fed": np.full((6, 3), 3)}, ValueError, "fed must be classes from 0 to 2, or -1, got 3"),
        ({"fed": np.ones((5, 3), int)}, ValueError, r"fed must have shape \(6, 3\) .*"),
        ({"fed": np.zeros((6, 3), int), "first": 0}, ValueError, "fed and first must not be given together"),
        ({"memory_limit": 0}, ValueError, "memory_limit must be a positive .*"),
        ({"probability": 1.5}, ValueError, r"probability must be from 0 to 1, got 1\.5"),
        ({"probability": np.nan}, ValueError, "probability must be from 0 to 1, got nan"),
        ({"probability": np.ones(5)}, ValueError, r"probability must be a number or have shape \(6,\), got \(5,\)"),
        ({"probability": "half"}, TypeError, "probability must be real numbers .*"),
        ({"choose": "greedy"}, ValueError, "choose must be one of 'sample', 'argmax', got 'greedy'"),
        ({"length": -1}, ValueError, "length must be .*, got -1"),
        ({"length": 6.0}, TypeError, r"length must be .*, got 6\.0"),
        ({"length": 5}, ValueError, r"x must have shape \(5, 3, I\), got \(6, 3, 2\)"),
        ({"batch": None}, ValueError, r"x must have shape \(6, I\), got \(6, 3, 2\)"),
        ({"batch": "3"}, TypeError, "batch must be .*, got '3'"),
        ({"end_symbol": 3}, ValueError, "end_symbol must be a class from 0 to 2, got 3"),
        ({"end_symbol": -1}, ValueError, "end_symbol must be .*, got -1"),
        ({"end_symbol": 1.0}, TypeError, r"end_symbol must be .*, got 1\.0"),
        ({"temperature": -0.1}, ValueError, r"temperature must be a number of at least 0, got -0\.1"),
        ({"temperature": np.nan}, ValueError, "temperature must be .*, got nan"),
        ({"temperature": None}, ValueError, "temperature must be .*, got None"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_errors(function, changes, error, message):
    net, others = problem()
    if any(name not in inspect.signature(function).parameters for name in changes if name not in net._fields):
        pytest.skip("not an argument of this function")
    given = others | {name: a for name, a in changes.items() if name not in net._fields}
    net = given.pop("network", net._replace(**{n: a for n, a in changes.items() if n in net._fields}))
    with pytest.raises(error, match=f"^{message}$"):
        call(function, net, given)


# ---- Outputs that are not finite ------------------------------------------------------------------------------------
def constant(o):
    """A network whose outputs are these, whatever it is fed."""
    o = np.asarray(o, float)
    return pyrnn.Network(np.empty((1, 0)), np.zeros((1, 1)), None, np.zeros((len(o), 1)), o, np.zeros((1, len(o))))


@pytest.mark.parametrize("temperature", [0, 1e-300, 0.5, 1, 1e300])
@pytest.mark.parametrize("batch", [None, 4])
def test_an_output_of_inf_is_drawn_with_probability_1(temperature, batch):
    samples = sample(constant([1, np.inf, -np.inf, 1e308]), 30, batch=batch, temperature=temperature, rng=0)
    np.testing.assert_array_equal(samples.classes, 1)
    np.testing.assert_array_equal(samples.log_probabilities, 0)


def test_several_outputs_of_inf_share_it():
    samples = sample(constant([np.inf, 5, np.inf, -np.inf, np.inf]), 600, rng=0)
    counts = np.bincount(samples.classes, minlength=5)
    assert counts[[1, 3]].tolist() == [0, 0]
    assert counts[[0, 2, 4]].min() > 150  # of 200, with a standard deviation of 12
    np.testing.assert_allclose(samples.log_probabilities, -np.log(3), rtol=1e-15)
    assert set(sample(constant([0, np.inf, np.inf]), 50, temperature=0).classes) == {1}


def test_an_output_of_minus_inf_is_never_drawn():
    samples = sample(constant([0, -np.inf, 0]), 500, rng=0)
    assert 1 not in samples.classes
    np.testing.assert_allclose(samples.log_probabilities, -np.log(2), rtol=1e-15)


@pytest.mark.parametrize("o", [[0, np.nan, 1], [np.nan, np.inf, 0], [-np.inf, -np.inf, -np.inf]], ids=str)
@pytest.mark.parametrize("temperature", [0, 1])
def test_no_class_is_drawn_from_nan_or_from_nothing(o, temperature):
    message = (
        "^network, x, first and h0 must give outputs that a class can be drawn from, got NaN or only -inf at step 0"
    )
    with pytest.raises(ValueError, match=message + "$"):
        sample(constant(o), 5, temperature=temperature)
    with pytest.raises(ValueError, match=message + " of sequence 0$"):
        sample(constant(o), 5, batch=2, temperature=temperature)
    assert sample(constant(o), 0).classes.size == 0  # no step, no error


def test_sequences_that_have_ended_may_have_outputs_of_nan():
    """Nothing is drawn from them."""
    net = pyrnn.initialize(1, 3, 2, feedback=True, rng=0)._replace(c=np.array([-1e3, 0]))  # class 1 at once
    x = np.zeros((4, 2, 1))
    x[1:, 0] = np.nan
    net.V[:] = 0
    x[0, 1], net.V[0, 0], net.U[0, 0] = 10, 1e4, 1.0  # the second sequence draws class 0 at first
    samples = sample(net, 4, batch=2, x=x, end_symbol=1, rng=0)
    assert samples.lengths[0] == 1
    assert samples.lengths[1] > 1


@pytest.mark.parametrize("choose", ["sample", "argmax"])
def test_what_scheduled_sampling_feeds_back_of_outputs_that_are_not_finite(choose):
    options = {"probability": 0, "choose": choose, "rng": 0}
    x, targets = np.empty((5, 2, 0)), np.zeros((5, 2), int)
    fed = scheduled_sampling(constant([0, np.inf, 0]), x, targets, **options).fed
    np.testing.assert_array_equal(fed[1:], np.broadcast_to([0, 1, 0], (4, 2, 3)))
    for o in ([0, np.nan, 0], [-np.inf] * 3):
        result = scheduled_sampling(constant(o), x, targets, **options)
        np.testing.assert_array_equal(result.fed, 0)
        assert np.isnan(result.loss)


def test_sample_wants_x_where_u_does():
    net, _ = problem()
    with pytest.raises(ValueError, match=r"^x must be given where U has columns, got None and U of shape \(4, 2\)$"):
        sample(net, 3)


def test_nothing_is_computed_before_the_checks(monkeypatch):
    """Not even where the first step is one of its own."""
    net, others = problem()
    others["targets"][5, 2] = 9
    monkeypatch.setattr("pyrnn.training.feedback.simulate", None)
    with pytest.raises(ValueError, match=r"^targets must be classes from 0 to 2, got 9 at \(5, 2\)$"):
        free_running(net, **others, first=0)
