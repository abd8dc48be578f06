"""The losses: values against SciPy, arbitrary precision and differences; extreme numbers; weights as masks."""

import subprocess
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.special
from helpers import agree, arguments, assert_close, central_differences, for_each, network

import pyrnn
from pyrnn import losses, reference
from pyrnn._core import table

pytestmark = pytest.mark.once

LOSSES = ["softmax_cross_entropy", "squared_error"]
every_loss = pytest.mark.parametrize("loss", LOSSES)


@every_loss
@for_each("T", [0, 1, 3])
@for_each("B", [None, 0, 1, 3])
@for_each("O", [1, 2, 17])
def test_sizes(dtype, loss, T, B, O):
    given = arguments(loss, network(T, B, O=O, dtype=dtype))
    agree(loss, given)
    agree(loss, given | {"weights": None})


@pytest.mark.parametrize("steps", [(0,), (3,), (0, 2), (3, 2)])
def test_no_outputs(steps):
    for weights in (None, np.ones(steps)):
        loss, do = pyrnn.squared_error(np.ones((*steps, 0)), np.ones((*steps, 0)), weights)
        assert loss == 0
        assert do.shape == (*steps, 0)


@every_loss
def test_types(dtype, loss):
    given = arguments(loss, network(dtype=dtype))
    value, do = getattr(pyrnn, loss)(**given)
    assert type(value) is np.float64
    assert type(do) is np.ndarray
    assert do.dtype == dtype
    assert not any(np.shares_memory(do, a) for a in given.values())


@every_loss
def test_central_differences(loss):
    given = arguments(loss, network(3, 2, O=4))
    o = given.pop("o")
    differences = central_differences(lambda o: getattr(pyrnn, loss)(o, **given)[0], {"o": o})["o"]
    assert_close(getattr(pyrnn, loss)(o, **given)[1], differences, 1e-8)


@every_loss
def test_weights_multiply(loss):
    given = arguments(loss, network())
    function = getattr(pyrnn, loss)
    value, do = function(**given)
    parts = [function(given["o"][t : t + 1, r], given["targets"][t : t + 1, r]) for t, r in np.ndindex(*do.shape[:-1])]
    weights = given["weights"].ravel()
    np.testing.assert_allclose(value, weights @ [part for part, _ in parts], rtol=1e-14)
    assert_close(do.reshape(len(parts), -1), weights[:, np.newaxis] * np.concatenate([d for _, d in parts]), 1e-14)


@every_loss
def test_weights_that_make_a_mean(loss):
    given = arguments(loss, network(T=6, B=4)) | {"weights": None}
    mean, do = getattr(pyrnn, loss)(**given | {"weights": np.full((6, 4), 1 / 24)})
    total, do_total = getattr(pyrnn, loss)(**given)
    np.testing.assert_allclose(mean, total / 24, rtol=1e-14)
    np.testing.assert_allclose(do, do_total / 24, rtol=1e-14)


@every_loss
def test_many_float32_steps_are_summed_in_float64(loss):
    given = arguments(loss, network(200_000, None, O=2, dtype=np.float32))
    exact = {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in given.items()}
    value, expected = getattr(pyrnn, loss)(**given)[0], getattr(pyrnn, loss)(**exact)[0]
    np.testing.assert_allclose(value, expected, rtol=1e-7)


# ---- Weights as masks -----------------------------------------------------------------------------------------------
MASKED = np.array([[True, False], [False, False], [False, True], [True, True]])


@every_loss
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
@pytest.mark.parametrize("where", ["one output", "all outputs"])
def test_masked_step_does_not_exist(dtype, loss, bad, where):
    given = arguments(loss, network(4, 2, O=3, dtype=dtype))
    given["weights"][MASKED] = 0
    value, do = getattr(pyrnn, loss)(**given)
    with np.errstate(over="ignore"):
        given["o"][(MASKED, 1) if where == "one output" else MASKED] = bad
    if loss == "squared_error":
        given["targets"][MASKED] = given["o"][MASKED][::-1]
    else:
        given["targets"][MASKED] = [-1, 3, 10**6, -(10**6)]
    masked_value, masked_do = getattr(pyrnn, loss)(**given)
    assert masked_value == value
    np.testing.assert_array_equal(masked_do, do)
    np.testing.assert_array_equal(masked_do[MASKED], 0)


@every_loss
def test_masked_steps_could_be_left_out(loss):
    given = arguments(loss, network(4, 2, O=3))
    given["weights"][MASKED] = 0
    value, do = getattr(pyrnn, loss)(**given)
    kept_value, kept_do = getattr(pyrnn, loss)(**{name: a[~MASKED] for name, a in given.items()})
    np.testing.assert_allclose(value, kept_value, rtol=1e-14)
    np.testing.assert_allclose(do[~MASKED], kept_do, rtol=1e-14)


@every_loss
@pytest.mark.parametrize("dtype", [bool, np.int8])
def test_weights_of_other_types_mask(loss, dtype):
    given = arguments(loss, network(4, 2, O=3))
    expected = getattr(pyrnn, loss)(**given | {"weights": 1.0 - MASKED})
    actual = getattr(pyrnn, loss)(**given | {"weights": (~MASKED).astype(dtype)})
    assert actual[0] == expected[0]
    np.testing.assert_array_equal(actual[1], expected[1])


# ---- Softmax cross-entropy ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", [0, 1e-8, 1, 30, 1e4, 1e300])
def test_softmax_against_scipy(scale):
    n = network(7, 5, O=6)
    o, targets, weights = scale * n["o"], n["targets"], n["weights"]
    loss, do = pyrnn.softmax_cross_entropy(o, targets, weights)
    log_p = scipy.special.log_softmax(o, axis=-1)
    one_hot = np.eye(6)[targets]
    np.testing.assert_allclose(loss, -(weights * (log_p * one_hot).sum(axis=-1)).sum(), rtol=1e-14)
    np.testing.assert_allclose(do, weights[..., np.newaxis] * (np.exp(log_p) - one_hot), rtol=0, atol=2e-15)


@pytest.mark.peer
@pytest.mark.parametrize("o", [[0, np.nan], [np.inf, 0], [np.inf, np.inf], [-np.inf, -np.inf], [0, -np.inf]], ids=str)
@pytest.mark.parametrize("target", [0, 1])
def test_softmax_of_infinite_outputs_is_that_of_pytorch(o, target):
    """NaN, but for a class of -inf, whose probability is 0; a step of weight 0 hides it."""
    torch = pytest.importorskip("torch")
    loss, do = pyrnn.softmax_cross_entropy([o, [0.0, 1.0]], [target, 0])
    leaf = torch.tensor([o, [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(leaf, torch.tensor([target, 0]), reduction="sum")
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-14)
    np.testing.assert_allclose(do, leaf.grad.numpy(), rtol=1e-14)
    hidden, hidden_do = pyrnn.softmax_cross_entropy([o, [0.0, 1.0]], [target, 0], [0.0, 1.0])
    np.testing.assert_allclose(hidden, np.log1p(np.e), rtol=1e-14)
    np.testing.assert_array_equal(hidden_do[0], 0)


@pytest.mark.parametrize("scale", [1e-6, 1, 100, 1e6])
@pytest.mark.parametrize("target", range(4))
def test_softmax_against_arbitrary_precision(scale, target):
    o = scale * np.array([0.3, -1.7, 0.25, 2.0])
    loss, do = pyrnn.softmax_cross_entropy(o[np.newaxis], [target])
    with mpmath.workdps(60):
        total = mpmath.fsum(mpmath.exp(v) for v in o.tolist())
        np.testing.assert_allclose(loss, float(mpmath.log(total) - mpmath.mpf(o[target])), rtol=1e-14, atol=1e-15)
        p = [float(mpmath.exp(v) / total - (i == target)) for i, v in enumerate(o.tolist())]
    np.testing.assert_allclose(do[0], p, rtol=0, atol=4e-16)


@pytest.mark.parametrize("shift", [-1e4, -1.0, 1e4])
def test_softmax_does_not_see_a_shift(shift):
    n = network(O=6)
    shifted, do_shifted = pyrnn.softmax_cross_entropy(n["o"] + shift, n["targets"])
    loss, do = pyrnn.softmax_cross_entropy(n["o"], n["targets"])
    np.testing.assert_allclose(shifted, loss, rtol=1e-11)
    np.testing.assert_allclose(do_shifted, do, rtol=0, atol=1e-11)
    np.testing.assert_allclose(do.sum(axis=-1), 0, atol=1e-15)


INF = np.inf


@pytest.mark.parametrize(
    ("o", "target", "loss", "do"),
    [
        ([1e4, -1e4], 0, 0, [0, 0]),
        ([1e4, -1e4], 1, 2e4, [1, -1]),
        ([1e308, 0], 1, 1e308, [1, -1]),
        ([1e308, 1e308], 1, np.log(2), [0.5, -0.5]),
        ([1e308, -1e308], 0, 0, [0, 0]),
        ([1e308, -1e308], 1, INF, [1, -1]),
        ([-1e308, -1e308], 0, np.log(2), [-0.5, 0.5]),
        ([0, -INF], 0, 0, [0, 0]),
        ([0, -INF], 1, INF, [1, -1]),
        ([0, 0, -INF], 1, np.log(2), [0.5, -0.5, 0]),
        ([-INF, -INF], 0, np.nan, [np.nan, np.nan]),
        ([INF, 0], 1, np.nan, [np.nan, np.nan]),
        ([np.nan, 0], 1, np.nan, [np.nan, np.nan]),
    ],
)
def test_softmax_of_extreme_numbers(dtype, o, target, loss, do):
    """Without a warning, since every warning is an error here."""
    o = np.array(o, np.float64)
    if dtype == np.float32:
        o[np.abs(o) == 1e308] *= 3e-270
        loss = loss * 3e-270 if loss == 1e308 else loss
    value, gradient = pyrnn.softmax_cross_entropy(o[np.newaxis].astype(dtype), [target])
    np.testing.assert_allclose(value, loss, rtol=1e-6, atol=0)
    if not np.isfinite(o).all() and np.isnan(loss):
        assert np.isnan(gradient).any()
    else:
        np.testing.assert_allclose(gradient[0], do, rtol=1e-6, atol=0)


def test_softmax_of_one_class_is_certain():
    loss, do = pyrnn.softmax_cross_entropy(np.array([[3.0], [-1e308]]), [0, 0])
    assert loss == 0
    np.testing.assert_array_equal(do, 0)


@pytest.mark.parametrize(("target", "position"), [(3, (1, 0)), (-1, (0, 1)), (2**40, (1, 1))])
def test_softmax_target_is_no_class(target, position):
    targets = np.zeros((2, 2), np.int64)
    targets[position] = target
    message = rf"^targets must be classes from 0 to 2, got {target} at \({position[0]}, {position[1]}\)$"
    with pytest.raises(ValueError, match=message):
        pyrnn.softmax_cross_entropy(np.zeros((2, 2, 3)), targets)


def test_softmax_of_no_classes():
    with pytest.raises(ValueError, match="targets must be"):
        pyrnn.softmax_cross_entropy(np.zeros((2, 0)), [0, 0])
    loss, do = pyrnn.softmax_cross_entropy(np.zeros((2, 0)), [0, 0], weights=[0, 0])
    assert loss == 0
    assert do.shape == (2, 0)


def test_softmax_of_no_steps_takes_an_empty_list():
    loss, do = pyrnn.softmax_cross_entropy(np.zeros((0, 3)), [])
    assert loss == 0
    assert do.shape == (0, 3)


# ---- Squared error --------------------------------------------------------------------------------------------------
def test_squared_error_by_hand():
    o, targets = np.array([[[1.0, 2.0], [0.5, -1.0]]]), np.array([[[0.0, 4.0], [0.5, 1.0]]])
    loss, do = pyrnn.squared_error(o, targets, weights=np.array([[3.0, 0.5]]))
    assert loss == 3 * (1 + 4) + 0.5 * 4
    np.testing.assert_array_equal(do, [[[6, -12], [0, -2]]])


def test_squared_error_of_large_float32():
    """The squares are taken in float64, so that they do not overflow where the gradient does not."""
    loss, do = pyrnn.squared_error(np.array([[1e30]], np.float32), np.array([[-1e30]], np.float32))
    np.testing.assert_allclose(loss, 4e60, rtol=1e-6)
    np.testing.assert_allclose(do, [[4e30]], rtol=1e-6)
    assert do.dtype == np.float32


@pytest.mark.parametrize(
    ("o", "target", "loss", "do"),
    [
        (1e200, 0, INF, 2e200),
        (1e308, -1e308, INF, INF),
        (INF, 0, INF, INF),
        (INF, INF, np.nan, np.nan),
        (-INF, INF, INF, -INF),
        (np.nan, 0, np.nan, np.nan),
    ],
)
def test_squared_error_of_extreme_numbers(o, target, loss, do):
    """Without a warning, since every warning is an error here."""
    value, gradient = pyrnn.squared_error([[o]], [[float(target)]])
    np.testing.assert_array_equal(value, loss)
    np.testing.assert_array_equal(gradient, [[do]])


# ---- Losses of numbers that are in pyrnn.training -------------------------------------------------------------------
def of_numbers(loss, o, targets, weights=None):
    return (pyrnn.squared_error if loss == "squared_error" else getattr(pyrnn.training, loss))(o, targets, weights)


def with_numbers(loss, T=4, B=3, O=5, dtype=np.float64, seed=0):
    """Outputs, targets within the range of the loss, and weights by step and by output, some of them 0."""
    rng = np.random.default_rng(seed)
    shape = (T, B, O) if B is not None else (T, O)
    o = (2 * rng.standard_normal(shape)).astype(dtype)
    targets = {
        "squared_error": rng.standard_normal(shape),
        "huber": rng.standard_normal(shape),
        "binary_cross_entropy": rng.choice([0, 1, 0.3], shape),
        "poisson": rng.poisson(2.0, shape),
    }[loss].astype(dtype)
    factors = [rng.uniform(0.5, 2, s) * (rng.random(s) < 0.8) for s in (shape[:-1], shape)]
    return o, targets, *(w.astype(dtype) for w in factors)


NUMBERS = ["squared_error", "huber", "binary_cross_entropy", "poisson"]
every_loss_of_numbers = pytest.mark.parametrize("loss", NUMBERS)


@pytest.mark.peer
@every_loss_of_numbers
def test_losses_of_numbers_against_pytorch(dtype, loss):
    torch = pytest.importorskip("torch")
    theirs = {
        "squared_error": torch.nn.MSELoss(reduction="none"),
        "huber": torch.nn.HuberLoss(reduction="none"),
        "binary_cross_entropy": torch.nn.BCEWithLogitsLoss(reduction="none"),
        "poisson": torch.nn.PoissonNLLLoss(log_input=True, full=False, reduction="none"),
    }[loss]
    for B in (None, 3):
        o, targets, by_step, by_output = with_numbers(loss, B=B, dtype=dtype)
        for weights in (None, by_step, by_output):
            leaf = torch.tensor(o.astype(np.float64), requires_grad=True)
            factor = 1 if weights is None else torch.tensor(weights.reshape(*o.shape[:-1], -1).astype(np.float64))
            expected = (factor * theirs(leaf, torch.tensor(targets.astype(np.float64)))).sum()
            expected.backward()
            value, do = of_numbers(loss, o, targets, weights)
            tolerance = 1e-13 if dtype == np.float64 else 1e-6
            np.testing.assert_allclose(value, expected.item(), rtol=tolerance)
            np.testing.assert_allclose(do, leaf.grad.numpy(), rtol=tolerance, atol=tolerance)
            assert type(value) is np.float64
            assert do.dtype == dtype


@every_loss_of_numbers
def test_gradients_of_losses_of_numbers(loss):
    o, targets, *weights = with_numbers(loss, seed=3)
    for w in (None, *weights):
        differences = central_differences(lambda o, w=w: of_numbers(loss, o, targets, w)[0], {"o": o})["o"]
        assert_close(of_numbers(loss, o, targets, w)[1], differences, 1e-8)


@every_loss_of_numbers
def test_masked_outputs_are_not_read(loss):
    o, targets, by_step, by_output = with_numbers(loss)
    for weights, masked in ((by_step, by_step == 0), (by_output, by_output == 0)):
        expected = of_numbers(loss, o, targets, weights)
        for bad in (np.nan, np.inf, -np.inf, 1e308):
            o_bad, targets_bad = o.copy(), targets.copy()
            o_bad[masked], targets_bad[masked] = bad, -bad
            value, do = of_numbers(loss, o_bad, targets_bad, weights)
            assert value == expected[0]
            np.testing.assert_array_equal(do, expected[1])
            assert (do[masked] == 0).all()


@every_loss_of_numbers
def test_weights_by_output_that_are_those_of_steps(loss):
    o, targets, by_step, _ = with_numbers(loss)
    value, do = of_numbers(loss, o, targets, by_step)
    spread = np.broadcast_to(by_step[..., np.newaxis], o.shape)
    again, do_again = of_numbers(loss, o, targets, spread)
    np.testing.assert_allclose(again, value, rtol=1e-14)
    np.testing.assert_array_equal(do_again, do)


@pytest.mark.parametrize("o", [-1e4, -30.0, -1e-3, 0.0, 1e-3, 30.0, 1e4])
@pytest.mark.parametrize("y", [0.0, 0.25, 1.0])
def test_binary_cross_entropy_against_arbitrary_precision(o, y):
    value, do = pyrnn.training.binary_cross_entropy([[o]], [[y]])
    with mpmath.workdps(60):
        exact = mpmath.log1p(mpmath.exp(mpmath.mpf(o))) - mpmath.mpf(y) * mpmath.mpf(o)
        np.testing.assert_allclose(value, float(exact), rtol=1e-14)
        p = float(1 / (1 + mpmath.exp(-mpmath.mpf(o))) - y)
    np.testing.assert_allclose(do[0, 0], p, rtol=0, atol=4e-16)


@pytest.mark.parametrize("delta", [0.5, 3])
def test_huber_of_another_delta(delta):
    e = np.array([[0.0, 0.4, -0.4, 2.0, -2.0, 1e30, -1e30]])
    value, do = pyrnn.training.huber(e, np.zeros_like(e), np.eye(7)[3:4], delta=delta)
    assert value == (2.0 if delta > 2 else delta * (2 - delta / 2))
    each = [float(pyrnn.training.huber([[a]], [[0.0]], delta=delta)[0]) for a in e[0]]
    inside = np.abs(e[0]) <= delta
    np.testing.assert_allclose(each, np.where(inside, e[0] ** 2 / 2, delta * (np.abs(e[0]) - delta / 2)), rtol=1e-14)
    np.testing.assert_array_equal(do, np.eye(7)[3:4] * np.clip(2.0, -delta, delta))


@for_each("delta", [0, -1.0, np.nan, np.inf, True, "1"])
def test_huber_without_a_delta(delta):
    with pytest.raises(ValueError, match="delta must be a positive number, got"):
        pyrnn.training.huber([[1.0]], [[0.0]], delta=delta)


@for_each(
    ("loss", "target", "message"),
    [
        ("binary_cross_entropy", 1.5, r"targets must be from 0 to 1 for binary_cross_entropy, got 1.5 at \(1, 0\)"),
        ("binary_cross_entropy", -0.1, r"targets must be from 0 to 1 for binary_cross_entropy, got -0.1 at \(1, 0\)"),
        ("poisson", -1, r"targets must be not negative for poisson, got -1.0 at \(1, 0\)"),
    ],
)
def test_targets_out_of_range(loss, target, message):
    """Also where they are checked in parts, before anything is computed."""
    targets = np.zeros((3, 2))
    targets[1, 0] = target
    with pytest.raises(ValueError, match=message):
        getattr(pyrnn.training, loss)(np.zeros((3, 2)), targets)
    network = pyrnn.initialize(1, 4, 2, rng=0)
    with pytest.raises(ValueError, match=message):
        pyrnn.loss_and_gradients(network, np.zeros((3, 1)), targets, loss=loss, memory_limit=10**7)
    weights = np.ones((3, 2))
    weights[1, 0] = 0
    assert np.isfinite(getattr(pyrnn.training, loss)(np.zeros((3, 2)), targets, weights)[0])


# ---- What takes a loss by its name ----------------------------------------------------------------------------------
@every_loss_of_numbers
def test_every_function_knows_every_loss(loss):
    n = network(6, 3, 2, 5, 5)
    net = pyrnn.Network(n["U"], n["W"], n["b"], n["V"], n["c"])
    _, targets, by_step, by_output = with_numbers(loss, 6, 3)
    for weights in (None, by_step, by_output):
        options = {"loss": loss, "weights": weights}
        assert max(pyrnn.check_gradients(net, n["x"], targets, **options)[:5]) < 1e-7
        value, gradients = pyrnn.loss_and_gradients(net, n["x"], targets, **options)
        again, in_parts = pyrnn.loss_and_gradients(net, n["x"], targets, memory_limit=10**7, **options)
        assert again == value
        assert_close(in_parts.W, gradients.W, 1e-13)
        parts = pyrnn.training.truncated_gradients(net, n["x"], targets, k1=2, k2=6, **options)
        np.testing.assert_allclose(parts.loss, value, rtol=1e-13)
        objective = pyrnn.training.Objective(net, n["x"], targets, **options)
        v, p = np.random.default_rng(1).standard_normal(objective.first.size), objective.first
        moved = (objective.jac(p + 1e-6 * v) - objective.jac(p - 1e-6 * v)) / 2e-6
        assert_close(objective.hessp(p, v), moved, 1e-6)


@every_loss_of_numbers
def test_feedback_knows_every_loss(loss):
    """Targets are what is fed back; scheduled sampling takes those whose outputs can stand for them."""
    net = pyrnn.initialize(2, 5, 4, feedback=True, dtype=np.float64, rng=0)
    x = np.random.default_rng(0).standard_normal((6, 3, 2))
    _, targets, by_step, by_output = with_numbers(loss, 6, 3, 4)
    for weights in (by_step, by_output):
        broken = targets.copy()
        broken[weights == 0] = np.nan
        fed = np.zeros_like(targets)
        fed[1:] = targets[:-1]
        fed[1:][weights[:-1] == 0] = 0
        value, gradients = pyrnn.training.teacher_forcing(net, x, broken, loss=loss, weights=weights)
        again, expected = pyrnn.training.teacher_forcing(net, x, targets, loss=loss, weights=weights, fed=fed)
        assert value == again
        np.testing.assert_array_equal(gradients.R, expected.R)
        assert np.isfinite(pyrnn.training.free_running(net, x, targets, loss=loss, weights=weights)[0])
    if loss in ("binary_cross_entropy", "poisson"):
        with pytest.raises(ValueError, match="loss must be one of 'softmax_cross_entropy', 'squared_error', 'huber'"):
            pyrnn.training.scheduled_sampling(net, x, targets, 0.5, loss=loss)
    else:
        assert np.isfinite(pyrnn.training.scheduled_sampling(net, x, targets, 0.5, loss=loss, rng=0).loss)


# ---- The compiled loops ---------------------------------------------------------------------------------------------
EVERY = ["softmax_cross_entropy", *NUMBERS]
# Rows of one block, of several in a block, longer than a block; and so many that blocks end within them.
SHAPES = [(1, 1), (600, 1), (300, 2), (171, 3), (52, 10), (3, 511), (3, 512), (3, 513), (2, 1500), (0, 3)]


def with_targets(loss, rows, O, dtype, seed=0):
    """o, targets and weights of a loss; weights by step, and by output where there are such."""
    if loss != "softmax_cross_entropy":
        return with_numbers(loss, rows, None, O, dtype, seed)
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 2, rows) * (rng.random(rows) < 0.8)
    return (3 * rng.standard_normal((rows, O))).astype(dtype), rng.integers(0, O, rows), weights.astype(dtype)


@for_each("loss", EVERY)
@for_each("shape", SHAPES)
def test_against_the_reference(dtype, loss, shape):
    o, targets, *weights = with_targets(loss, *shape, dtype)
    exact = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in (o, targets)]
    eps = np.finfo(dtype).eps
    for w in (None, *weights):
        value, do = getattr(pyrnn, loss, None) or getattr(pyrnn.training, loss), None
        value, do = value(o, targets, w)
        expected, gradient = getattr(reference, loss)(*exact, None if w is None else w.astype(np.float64))
        magnitude = np.abs(gradient).max(initial=1)
        # A long row is summed one after the other.
        np.testing.assert_allclose(value, expected, rtol=4 * eps + shape[1] * 1e-16, atol=4 * eps * magnitude)
        np.testing.assert_allclose(do, gradient, rtol=0, atol=4 * eps * magnitude)


@for_each("loss", EVERY)
@for_each("shape", SHAPES)
def test_the_same_bits_on_every_instruction_set_and_of_every_part(dtype, loss, shape):
    """A step's loss and gradient depend on nothing but the step."""
    o, targets, *weights = with_targets(loss, *shape, dtype)
    for w in (None, *weights):
        each, do = losses.OF_STEPS[loss](o, targets, w)
        if len(o):
            for part in (slice(0, 1), slice(1, None), slice(len(o) // 2, None), slice(None, None, -1)):
                again, do_again = losses.OF_STEPS[loss](o[part], targets[part], None if w is None else w[part])
                assert again.tobytes() == np.ascontiguousarray(each[part]).tobytes()
                assert do_again.tobytes() == np.ascontiguousarray(do[part]).tobytes()
        chosen = table.selected()
        try:
            for name in table.available():
                table.select(name)
                again, do_again = losses.OF_STEPS[loss](o, targets, w)
                assert again.tobytes() == each.tobytes()
                assert do_again.tobytes() == do.tobytes()
        finally:
            table.select(chosen)


def units(value, exact, dtype):
    """The distance in units in the last place of the exact value; of the smallest normal number for those below."""
    info = np.finfo(dtype)
    exponent = max(mpmath.frexp(exact)[1], info.minexp + 1) if exact else info.minexp + 1
    return float(abs(mpmath.mpf(float(value)) - exact) / mpmath.ldexp(1, exponent - info.nmant - 1))


def test_errors_against_60_digits(dtype):
    """Values and gradients of single outputs, in units in the last place of float64 and of the dtype."""
    rng = np.random.default_rng(3)
    numbers = np.concatenate([rng.uniform(-1, 1, 150), rng.uniform(-20, 20, 150), rng.uniform(-80, 80, 100)])
    numbers = numbers.astype(dtype)
    tiny = np.finfo(dtype).eps
    with mpmath.workdps(60):
        for o in numbers.tolist():
            x, a = mpmath.mpf(o), np.array([[o]], dtype)
            rate = pyrnn.training.poisson(a, np.zeros_like(a))
            assert units(rate[1][0, 0], mpmath.exp(x), dtype) <= 1.053
            assert rate[0] == rate[1][0, 0]
            for y in (0.0, 0.3, 1.0):
                y = dtype(y)
                value, do = pyrnn.training.binary_cross_entropy(a, np.array([[y]]))
                exact, p = mpmath.log1p(mpmath.exp(x)) - mpmath.mpf(float(y)) * x, 1 / (1 + mpmath.exp(-x))
                assert abs(value - exact) <= 1.5 * tiny * mpmath.log1p(mpmath.exp(-abs(x))) + 2e-16 * abs(exact)
                assert abs(float(do[0, 0]) - (p - mpmath.mpf(float(y)))) <= 1.01 * tiny
        for row in np.sort(rng.uniform(-30, 30, (200, 5)), axis=1).astype(dtype):
            for target in (0, 4):
                value, do = pyrnn.softmax_cross_entropy(row[np.newaxis], [target])
                # The distances from the greatest are rounded first: that is what the arguments are.
                d = [mpmath.mpf(float(a)) for a in row - row.max()]
                total = mpmath.fsum(map(mpmath.exp, d))
                assert abs(value - (mpmath.log(total) - d[target])) <= tiny + 4e-16 * value
                for k in range(5):
                    assert abs(float(do[0, k]) - (mpmath.exp(d[k]) / total - (k == target))) <= 1.5 * tiny


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is not wider than float64 here")
def test_the_error_of_the_logarithm(gcc, tmp_path):
    here = Path(__file__).parent
    flags = ["-O3", "-std=c11", "-ffp-contract=off", f"-I{here.parent / 'csrc'}"]
    subprocess.run([gcc, *flags, here / "log_error.c", "-lm", "-o", tmp_path / "log_error"], check=True)
    error, _ = subprocess.check_output([tmp_path / "log_error", "500000"], text=True).split()
    assert 0.5 < float(error) < 0.96


@for_each("loss", EVERY)
def test_compiled_functions_refuse_what_they_cannot_read(loss):
    from pyrnn._core import losses as compiled

    o, targets, w, *_ = with_targets(loss, 4, 3, np.float64)
    targets = targets.astype(np.intp) if loss == "softmax_cross_entropy" else targets
    name = () if loss == "softmax_cross_entropy" else (loss,)
    function = compiled.of_classes if loss == "softmax_cross_entropy" else compiled.of_numbers
    good = {"o": o, "targets": targets, "weights": w, "losses": np.empty(4), "do": np.empty((4, 3))}
    function(*name, *good.values())
    read_only = np.empty((4, 3))
    read_only.flags.writeable = False
    single = np.float32
    wrong = [
        ("o", o.astype(np.float16)), ("o", o[0]), ("o", o[:, ::-1]), ("targets", targets[:3]), ("targets", None),
        ("targets", targets.astype(single)), ("weights", w[:3]), ("weights", w.astype(single)),
        ("losses", np.empty(3)), ("losses", np.empty(4, single)), ("do", np.empty((4, 2))), ("do", read_only),
        ("do", np.empty((4, 3), single)), ("do", None),
    ]  # fmt: skip
    for argument, bad in wrong:
        with pytest.raises(ValueError, match="a compiled function needs"):
            function(*name, *(good | {argument: bad}).values())
