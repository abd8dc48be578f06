"""`pyrnn.loss_and_gradients` and `pyrnn.check_gradients`: the whole network at once."""

import numpy as np
import pytest
import scipy.optimize
from helpers import agree, arguments, assert_close, central_differences, complex_step, network, states

import pyrnn
from pyrnn import gradient_check, reference

pytestmark = pytest.mark.plain_c

LOSSES = ["softmax_cross_entropy", "squared_error"]
every_loss = pytest.mark.parametrize("loss", LOSSES)
FIELDS = ("U", "W", "b", "V", "c", "x", "h0")


def problem(loss, missing="", **sizes):
    """The arguments of `loss_and_gradients` for a loss, some of them None."""
    n = network(**{"O": 6} | sizes)
    if loss == "squared_error":
        n["targets"] = n["numbers"]
    return arguments("loss_and_gradients", n) | dict.fromkeys(missing.split())


def split(given):
    """The parameters, and what else there is."""
    params = pyrnn.Parameters(*(given[name] for name in "UWbVc"))
    return params, {name: a for name, a in given.items() if name not in params._fields}


@every_loss
@pytest.mark.parametrize("B", [None, 1, 5])
@pytest.mark.parametrize("missing", ["", "b", "c", "V c", "b c", "b V c", "h0", "weights", "b V c h0 weights"])
def test_reference(dtype, loss, B, missing):
    agree("loss_and_gradients", problem(loss, missing, B=B, dtype=dtype), loss=loss)


@every_loss
@pytest.mark.parametrize("B", [None, 0, 1, 3])
@pytest.mark.parametrize("T", [0, 1, 3])
@pytest.mark.parametrize("I", [0, 1])
@pytest.mark.parametrize("H", [0, 1, 3])
@pytest.mark.parametrize("O", [1, 3])
def test_edge_sizes(loss, T, B, I, H, O):
    agree("loss_and_gradients", problem(loss, T=T, B=B, I=I, H=H, O=O), loss=loss)


@every_loss
@pytest.mark.parametrize("B", [None, 2])
@pytest.mark.parametrize("missing", ["", "V c"])
def test_complex_step(loss, B, missing):
    given = problem(loss, missing, T=4, B=B, I=3, H=4, O=4)
    targets, weights = given["targets"], given["weights"]

    def value(x, U, W, b, h0, V=None, c=None):
        o = states(x, U, W, b, h0)
        o = o if V is None else o @ V.T + c
        if loss == "squared_error":
            return (weights * ((o - targets) ** 2).sum(axis=-1)).sum()
        chosen = (o * np.eye(4)[targets]).sum(axis=-1)
        return (weights * (np.log(np.exp(o).sum(axis=-1)) - chosen)).sum()

    varied = {name: given[name] for name in FIELDS if given[name] is not None}
    params, others = split(given)
    actual, gradients = pyrnn.loss_and_gradients(params, **others, loss=loss)
    np.testing.assert_allclose(actual, value(**varied), rtol=1e-13)
    for name, exact in complex_step(value, varied).items():
        assert_close(getattr(gradients, name), exact, 1e-12)


@every_loss
@pytest.mark.parametrize("B", [None, 2])
@pytest.mark.parametrize("missing", ["", "V c", "b c", "weights"])
def test_central_differences(loss, B, missing):
    given = problem(loss, missing, T=4, B=B, I=3, H=4, O=4)

    def value(**varied):
        params, others = split(given | varied)
        return pyrnn.loss_and_gradients(params, **others, loss=loss)[0]

    params, others = split(given)
    _, gradients = pyrnn.loss_and_gradients(params, **others, loss=loss)
    differences = central_differences(value, {name: given[name] for name in FIELDS if given[name] is not None})
    for name, gradient in gradients._asdict().items():
        if given[name] is None:
            assert gradient is None
        else:
            assert_close(gradient, differences[name], 1e-8)


def whole_networks(params, x, targets, weights):
    """By name, the functions that have a squared error of their own, and what they return."""
    (H, I), O = params.U.shape, len(params.V)
    rnn = pyrnn.RNN(I, H, output_size=O, dtype=float, rng=0)
    feedback = pyrnn.FeedbackParameters(*params, 0.1 * np.ones((H, O)))
    options = {"loss": "squared_error", "weights": weights}
    objective = pyrnn.Objective(params, x, targets, **options)
    p = objective.first
    yield "loss_and_gradients", pyrnn.loss_and_gradients(params, x, targets, **options)
    yield "reference", reference.loss_and_gradients(params, x, targets, **options)
    yield "truncated", pyrnn.truncated_gradients(params, x, targets, k1=3, k2=4, **options)
    yield "RNN", rnn.loss_and_gradients(x, targets, **options)
    yield "Objective", [objective.fun(p), objective.jac(p), objective.hessp(p, p), objective.ggnp(p, p)]
    yield "free_running", pyrnn.free_running(feedback, x, targets, **options)
    flow = pyrnn.gradient_flow(params, x, targets=targets, **options)
    yield "gradient_flow", np.exp(flow.log_gradient_norms)


def numbers(result):
    """All numbers of a nested result, one after the other."""
    parts = result if isinstance(result, tuple | list) else [result]
    if parts is result:
        return np.concatenate([numbers(part) for part in parts if part is not None])
    return np.ravel(result)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_targets_of_weight_zero_are_not_read(bad):
    given = problem("squared_error", T=20, B=3, H=5)
    weights, targets, x = given["weights"], given["targets"], given["x"]
    weights[weights < np.median(weights)] = 0
    params, _ = split(given)
    expected = dict(whole_networks(params, x, targets, weights))
    targets[weights == 0] = bad
    for name, result in whole_networks(params, x, targets, weights):
        assert np.isfinite(numbers(result)).all(), name
        np.testing.assert_array_equal(numbers(result), numbers(expected[name]), err_msg=name)


def test_inputs_of_weight_zero_are_read_and_lengths_leave_them_out():
    """What the documentation of `weights` says: a NaN in x there makes the gradients NaN, but not the loss."""
    given = problem("squared_error", T=5, B=2, I=2, H=4)
    given["weights"] = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    rnn = pyrnn.RNN(2, 4, output_size=6, dtype=float, rng=0)
    names = ("x", "targets", "weights", "loss")
    options = {name: given.get(name, "squared_error") for name in names} | {"lengths": [5, 2]}
    expected = rnn.loss_and_gradients(**options)
    given["x"][2:, 1] = np.nan
    params, others = split(given)
    loss, gradients = pyrnn.loss_and_gradients(params, **others, loss="squared_error")
    assert np.isfinite(loss)
    assert np.isnan(gradients.W).all()
    actual = rnn.loss_and_gradients(**options)
    assert actual[0] == expected[0]
    np.testing.assert_array_equal(actual[1], expected[1])


def test_masked_sequences_of_different_lengths():
    """Padding a shorter sequence with anything but NaN, of weight 0, changes nothing."""
    given = problem("softmax_cross_entropy", T=9, B=2)
    given["weights"][:] = 1
    given["weights"][5:, 1] = 0
    given["targets"][5:, 1] = -1
    params, others = split(given)
    _, both = pyrnn.loss_and_gradients(params, **others)
    first, second = (
        pyrnn.loss_and_gradients(params, given["x"][:n, i], given["targets"][:n, i], h0=given["h0"][i], weights=None)[1]
        for i, n in enumerate((9, 5))
    )
    for name in "UWbVc":
        assert_close(getattr(both, name), getattr(first, name) + getattr(second, name), 1e-13)
    assert_close(both.x[:5, 1], second.x, 1e-13)
    np.testing.assert_array_equal(both.x[5:, 1], 0)


# ---- What comes back ------------------------------------------------------------------------------------------------
@every_loss
@pytest.mark.parametrize("missing", ["", "b", "V c"])
def test_types(dtype, loss, missing):
    params, others = split(problem(loss, missing, dtype=dtype))
    value, gradients = pyrnn.loss_and_gradients(params, **others, loss=loss)
    assert type(value) is np.float64
    assert isinstance(gradients, pyrnn.LossGradients)
    assert gradients._fields == FIELDS
    assert isinstance(gradients.parameters, pyrnn.Parameters)
    for a, gradient in zip(params, gradients.parameters, strict=True):
        assert (gradient is None) == (a is None)
        if a is not None:
            assert gradient.shape == a.shape
            assert gradient.dtype == dtype
    assert gradients.parameters.ravel().shape == params.ravel().shape
    assert gradients.x.dtype == gradients.h0.dtype == dtype


@every_loss
def test_weights_and_targets_do_not_widen(loss):
    given = problem(loss, dtype=np.float32)
    given["weights"] = given["weights"].astype(np.float64)
    if loss == "squared_error":
        given["targets"] = given["targets"].astype(np.float64)
    params, others = split(given)
    _, gradients = pyrnn.loss_and_gradients(params, **others, loss=loss)
    assert {a.dtype for a in gradients} == {np.dtype(np.float32)}


@pytest.mark.parametrize("kind", [tuple, list, iter])
def test_params_may_be_any_five(kind):
    params, others = split(problem("softmax_cross_entropy"))
    expected, _ = pyrnn.loss_and_gradients(params, **others)
    assert pyrnn.loss_and_gradients(kind(params), **others)[0] == expected


# ---- Errors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("function", [pyrnn.loss_and_gradients, pyrnn.check_gradients])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss": "mse"}, ValueError, "loss must be one of 'softmax_cross_entropy', 'squared_error', got 'mse'"),
        ({"loss": None}, ValueError, "loss must be one of .*, got None"),
        ({"params": (1, 2, 3, 4, 5, 6)}, TypeError, r"params must be a Parameters or a tuple \(.*\), got 6 values"),
        ({"params": (1,)}, TypeError, r"params must be a Parameters or a tuple \(.*\), got 1 values"),
        ({"params": 7}, TypeError, r"params must be a Parameters or a tuple \(.*\), got 7"),
        ({"params": None}, TypeError, r"params must be a Parameters or a tuple \(.*\), got None"),
        ({"V": None}, ValueError, "params must have V where it has c, got V None"),
        ({"U": None}, TypeError, "U must be an array of numbers, got None"),
        ({"W": None}, TypeError, "W must be an array of numbers, got None"),
        ({"x": None}, TypeError, "x must be an array of numbers, got None"),
        ({"targets": None}, TypeError, "targets must be integers.*"),
        ({"W": np.ones((6, 6), complex)}, TypeError, "W must be real numbers .*, got dtype complex128"),
        ({"W": np.ones((6, 5))}, ValueError, r"W must have shape \(6, 6\) .*, got \(6, 5\)"),
        ({"c": np.ones(3)}, ValueError, r"c must have shape \(6,\) .*, got \(3,\)"),
        ({"weights": np.ones(5)}, ValueError, r"weights must have shape \(5, 3\) .*, got \(5,\)"),
        ({"targets": np.full((5, 3), 6)}, ValueError, r"targets must be classes from 0 to 5, got 6 at \(0, 0\)"),
    ],
)
def test_errors(function, changes, error, message):
    params, others = split(problem("softmax_cross_entropy"))
    in_params = {name: a for name, a in changes.items() if name in params._fields}
    given = {"params": params._replace(**in_params)} | others
    given |= {name: a for name, a in changes.items() if name not in in_params}
    with pytest.raises(error, match=f"^{message}$"):
        function(**given)


# ---- An optimiser ---------------------------------------------------------------------------------------------------
def test_scipy_minimize(dtype):
    """A network of 8 units learns to predict a sine; the prediction before is as bad as none."""
    start = pyrnn.initialize(1, 8, 1, scheme="uniform", rng=0, dtype=dtype)
    x = np.sin(0.5 * np.arange(60))[:, np.newaxis].astype(dtype)

    def objective(vector):
        loss, gradients = pyrnn.loss_and_gradients(start.unravel(vector), x[:-1], x[1:], loss="squared_error")
        return loss, gradients.parameters.ravel()

    result = scipy.optimize.minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    assert objective(start.ravel())[0] > 10
    assert result.fun < 0.05
    trained = start.unravel(result.x)
    prediction = pyrnn.output(pyrnn.forward(x[:-1], *trained[:3]), *trained[3:])
    np.testing.assert_allclose(((prediction - x[1:]) ** 2).sum(), result.fun, rtol=1e-3)


# ---- check_gradients ------------------------------------------------------------------------------------------------
@every_loss
@pytest.mark.parametrize("B", [None, 2])
@pytest.mark.parametrize("missing", ["", "b", "V c", "h0 weights"])
def test_check_passes_right_gradients(dtype, loss, B, missing):
    given = problem(loss, missing, B=B, dtype=dtype)
    params, others = split(given)
    before = {name: a.tobytes() for name, a in given.items() if a is not None}
    errors = pyrnn.check_gradients(params, **others, loss=loss)
    assert {name: given[name].tobytes() for name in before} == before
    assert errors._fields == FIELDS
    for name, error in errors._asdict().items():
        if name in missing.split() and name != "h0":
            assert error is None
        else:
            assert type(error) is float
            assert error < 1e-8


WRONG = {
    "scaled": lambda a: 1.01 * a,
    "sign": lambda a: -a,
    "one entry": lambda a: a + 0.05 * np.abs(a).max() * (np.arange(a.size).reshape(a.shape) == a.size // 2),
    "zero": lambda a: 0 * a,
}


@every_loss
@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_check_finds_a_wrong_gradient(monkeypatch, loss, name, wrong):
    def with_mistake(*args, **kwargs):
        value, gradients = pyrnn.loss_and_gradients(*args, **kwargs)
        return value, gradients._replace(**{name: wrong(getattr(gradients, name))})

    monkeypatch.setattr(gradient_check, "loss_and_gradients", with_mistake)
    params, others = split(problem(loss))
    errors = pyrnn.check_gradients(params, **others, loss=loss)._asdict()
    assert errors.pop(name) > 5e-3
    assert max(errors.values()) < 1e-8


def test_check_finds_a_missing_slope(monkeypatch):
    """Backpropagation without the factor 1 - h² of a saturated unit, planted below the public functions."""
    engine = pyrnn._engines.choose()
    compiled = engine.backward
    monkeypatch.setattr(engine, "backward", lambda dh, h, *others: compiled(dh, 0.5 * h, *others))
    params, others = split(problem("squared_error"))
    errors = pyrnn.check_gradients(params, **others, loss="squared_error")
    assert min(errors.U, errors.W, errors.b, errors.x, errors.h0) > 1e-3
    assert max(errors.V, errors.c) < 1e-8


@pytest.mark.parametrize(("max_entries", "count"), [(1, 7), (4, 28), (None, 24 + 36 + 6 + 36 + 6 + 60 + 18)])
def test_check_varies_so_many_entries(monkeypatch, max_entries, count):
    calls = []
    monkeypatch.setattr(gradient_check, "forward", lambda *args: (calls.append(1), pyrnn.forward(*args))[1])
    params, others = split(problem("softmax_cross_entropy"))
    pyrnn.check_gradients(params, **others, max_entries=max_entries)
    assert len(calls) == 2 * count


def test_check_of_nothing():
    """Without a step, and where all weights are zero, every gradient and every difference is 0."""
    for given in (problem("softmax_cross_entropy", T=0), problem("softmax_cross_entropy")):
        params, others = split(given)
        others["weights"] = 0 * others["weights"]
        assert pyrnn.check_gradients(params, **others) == (0.0,) * 7


def test_check_chooses_by_rng():
    params, others = split(problem("squared_error"))
    check = lambda rng: pyrnn.check_gradients(params, **others, loss="squared_error", max_entries=3, rng=rng)
    assert check(1) == check(1) == check(np.random.default_rng(1))
    assert check(1) != check(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0}, "step must be a positive number, got 0"),
        ({"step": -1e-5}, "step must be a positive number, got -1e-05"),
        ({"step": np.nan}, "step must be a positive number, got nan"),
        ({"step": np.inf}, "step must be a positive number, got inf"),
        ({"step": "small"}, "step must be a positive number, got 'small'"),
        ({"step": None}, "step must be a positive number, got None"),
        ({"max_entries": 0}, "max_entries must be a positive integer or None, got 0"),
        ({"max_entries": 1.5}, r"max_entries must be a positive integer or None, got 1\.5"),
        ({"max_entries": "all"}, "max_entries must be a positive integer or None, got 'all'"),
    ],
)
def test_check_rejects(options, message):
    params, others = split(problem("softmax_cross_entropy"))
    with pytest.raises((TypeError, ValueError), match=f"^{message}$"):
        pyrnn.check_gradients(params, **others, **options)
