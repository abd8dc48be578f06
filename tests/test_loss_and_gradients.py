"""`pyrnn.loss_and_gradients` and `pyrnn.check_gradients`: the whole network at once."""

import types

import numpy as np
import pytest
import scipy.optimize
from helpers import agree, arguments, assert_close, central_differences, complex_step, for_each, forms, network, states

import pyrnn
from pyrnn import reference
from pyrnn._core.call import Call
from pyrnn.training import check

pytestmark = pytest.mark.plain_c

PLAIN = pyrnn.Cell()
LOSSES = ["softmax_cross_entropy", "squared_error"]
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_form = pytest.mark.parametrize("cell", forms(6).values(), ids=forms(6))
FIELDS = ("U", "W", "b", "V", "c", "x", "h0")


def problem(loss, missing="", **sizes):
    """The arguments of `loss_and_gradients` for a loss, some of them None."""
    n = network(**{"O": 6} | sizes)
    if loss == "squared_error":
        n["targets"] = n["numbers"]
    return arguments("loss_and_gradients", n) | dict.fromkeys(missing.split())


def split(given, cell=PLAIN):
    """The network, and what else there is."""
    n = pyrnn.Network(*(given[name] for name in "UWbVc"), cell=cell)
    return n, {name: a for name, a in given.items() if name not in "UWbVc"}


@every_loss
@for_each("B", [None, 1, 5])
@for_each("missing", ["", "b", "c", "V c", "b c", "b V c", "h0", "weights", "b V c h0 weights"])
def test_reference(dtype, loss, B, missing):
    agree("loss_and_gradients", problem(loss, missing, B=B, dtype=dtype), loss=loss)


@every_loss
@for_each("B", [None, 0, 1, 3])
@for_each("T", [0, 1, 3])
@for_each("I", [0, 1])
@for_each("H", [0, 1, 3])
@for_each("O", [1, 3])
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
    n, others = split(given)
    actual, gradients = pyrnn.loss_and_gradients(n, **others, loss=loss)
    np.testing.assert_allclose(actual, value(**varied), rtol=1e-13)
    for name, exact in complex_step(value, varied).items():
        assert_close(getattr(gradients, name), exact, 1e-12)


@every_loss
@pytest.mark.parametrize("B", [None, 2])
@pytest.mark.parametrize("missing", ["", "V c", "b c", "weights"])
def test_central_differences(loss, B, missing):
    given = problem(loss, missing, T=4, B=B, I=3, H=4, O=4)

    def value(**varied):
        n, others = split(given | varied)
        return pyrnn.loss_and_gradients(n, **others, loss=loss)[0]

    n, others = split(given)
    _, gradients = pyrnn.loss_and_gradients(n, **others, loss=loss)
    differences = central_differences(value, {name: given[name] for name in FIELDS if given[name] is not None})
    for name, gradient in gradients._asdict().items():
        if given.get(name) is None:
            assert gradient is None
        else:
            assert_close(gradient, differences[name], 1e-8)


def whole_networks(n, x, targets, weights):
    """By name, the functions that have a squared error of their own, and what they return."""
    (H, I), O = n.U.shape, len(n.V)
    rnn = pyrnn.RNN(I, H, output_size=O, dtype=float, rng=0)
    feedback = n._replace(R=0.1 * np.ones((H, O)))
    options = {"loss": "squared_error", "weights": weights}
    objective = pyrnn.training.Objective(n, x, targets, **options)
    p = objective.first
    yield "loss_and_gradients", pyrnn.loss_and_gradients(n, x, targets, **options)
    yield "reference", reference.loss_and_gradients(n, x, targets, **options)
    yield "truncated", pyrnn.training.truncated_gradients(n, x, targets, k1=3, k2=4, **options)
    yield "RNN", rnn.loss_and_gradients(x, targets, **options)
    yield "Objective", [objective.fun(p), objective.jac(p), objective.hessp(p, p), objective.ggnp(p, p)]
    yield "free_running", pyrnn.training.free_running(feedback, x, targets, **options)
    flow = pyrnn.dynamics.gradient_flow(n, x, targets=targets, **options)
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
    n, _ = split(given)
    expected = dict(whole_networks(n, x, targets, weights))
    targets[weights == 0] = bad
    for name, result in whole_networks(n, x, targets, weights):
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
    n, others = split(given)
    loss, gradients = pyrnn.loss_and_gradients(n, **others, loss="squared_error")
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
    n, others = split(given)
    _, both = pyrnn.loss_and_gradients(n, **others)
    first, second = (
        pyrnn.loss_and_gradients(n, given["x"][:stop, i], given["targets"][:stop, i], h0=given["h0"][i])[1]
        for i, stop in enumerate((9, 5))
    )
    for name in "UWbVc":
        assert_close(getattr(both, name), getattr(first, name) + getattr(second, name), 1e-13)
    assert_close(both.x[:5, 1], second.x, 1e-13)
    np.testing.assert_array_equal(both.x[5:, 1], 0)


# ---- What comes back ------------------------------------------------------------------------------------------------
@every_loss
@pytest.mark.parametrize("missing", ["", "b", "V c"])
def test_types(dtype, loss, missing):
    n, others = split(problem(loss, missing, dtype=dtype))
    value, gradients = pyrnn.loss_and_gradients(n, **others, loss=loss)
    assert type(value) is np.float64
    assert isinstance(gradients, pyrnn.LossGradients)
    assert gradients._fields == (*FIELDS, "alpha")
    assert isinstance(gradients.parameters, pyrnn.Network)
    for a, gradient in zip(n[:5], gradients.parameters, strict=False):
        assert (gradient is None) == (a is None)
        if a is not None:
            assert gradient.shape == a.shape
            assert gradient.dtype == dtype
    assert gradients.parameters.ravel().shape == n.ravel().shape
    assert gradients.x.dtype == gradients.h0.dtype == dtype


@every_loss
def test_weights_and_targets_do_not_widen(loss):
    given = problem(loss, dtype=np.float32)
    given["weights"] = given["weights"].astype(np.float64)
    if loss == "squared_error":
        given["targets"] = given["targets"].astype(np.float64)
    n, others = split(given)
    _, gradients = pyrnn.loss_and_gradients(n, **others, loss=loss)
    assert {a.dtype for a in gradients[:7]} == {np.dtype(np.float32)}


@pytest.mark.parametrize("alpha", [0.3, np.linspace(0.1, 1, 6)], ids=["number", "by unit"])
@pytest.mark.parametrize("form", ["rate", "current"])
def test_alpha_takes_the_dtype_of_the_arrays(dtype, alpha, form):
    n, others = split(problem("squared_error", dtype=dtype), pyrnn.Cell(alpha=alpha, form=form))
    _, gradients = pyrnn.loss_and_gradients(n, **others, loss="squared_error")
    assert {a.dtype for a in gradients} == {np.dtype(dtype)}
    assert gradients.alpha.shape == np.shape(alpha)


def test_an_rnn_of_one_layer_is_a_network():
    given = problem("squared_error")
    rnn = pyrnn.RNN(4, 6, alpha=0.3, form="current", output_size=6, dtype=float, rng=0)
    _, others = split(given)
    value, gradients = pyrnn.loss_and_gradients(rnn, **others, loss="squared_error")
    expected, exact = pyrnn.loss_and_gradients(rnn.network(), **others, loss="squared_error")
    assert value == expected
    np.testing.assert_array_equal(gradients.W, exact.W)
    assert pyrnn.check_gradients(rnn, **others, loss="squared_error").worst < 1e-8
    with pytest.raises(ValueError, match="layer must be given for an RNN of 2 layers"):
        pyrnn.loss_and_gradients(pyrnn.RNN(4, 6, 2), **others, loss="squared_error")


# ---- Every form of the cell -----------------------------------------------------------------------------------------
def moved(given, cell, varied):
    """The network and what else there is, some of the arrays others."""
    if "alpha" in varied:
        cell = pyrnn.Cell(cell.nonlinearity, varied.pop("alpha"), cell.form)
    return split(given | varied, cell)


def fields_of(given, cell):
    """What has a gradient, by name."""
    arrays = {name: given[name] for name in FIELDS if given[name] is not None}
    return arrays if cell.alpha is None else arrays | {"alpha": np.array(cell.alpha)}


@every_form
@every_loss
@for_each("B", [None, 2])
@for_each("missing", ["", "V c", "b c h0 weights"])
def test_forms_against_the_reference(dtype, cell, loss, B, missing):
    given = problem(loss, missing, B=B, H=6, dtype=dtype)
    n, others = split(given, cell)
    value, gradients = pyrnn.loss_and_gradients(n, **others, loss=loss)
    wide = {name: a.astype(float) if getattr(a, "dtype", None) == dtype else a for name, a in given.items()}
    if cell.alpha is not None:  # as it is rounded
        cell = pyrnn.Cell(cell.nonlinearity, np.array(cell.alpha, dtype), cell.form)
    n, others = split(wide, cell)
    expected, exact = reference.loss_and_gradients(n, **others, loss=loss)
    tolerance = 1e-13 if dtype == np.float64 else 5e-6
    np.testing.assert_allclose(value, expected, rtol=tolerance)
    for name, a in exact._asdict().items():
        slack = 100 if name == "alpha" else 1  # one number may be a sum of units that cancel
        assert_close(getattr(gradients, name), a, tolerance * slack)


@every_form
@every_loss
@pytest.mark.parametrize("missing", ["", "V c"])
def test_forms_against_central_differences(cell, loss, missing):
    given = problem(loss, missing, T=4, B=2, I=3, H=6, O=6)

    def value(**varied):
        n, others = moved(given, cell, varied)
        return pyrnn.loss_and_gradients(n, **others, loss=loss)[0]

    n, others = split(given, cell)
    _, gradients = pyrnn.loss_and_gradients(n, **others, loss=loss)
    for name, exact in central_differences(value, fields_of(given, cell)).items():
        assert_close(getattr(gradients, name), exact, 1e-7)
    errors = pyrnn.check_gradients(n, **others, loss=loss, max_entries=None)
    assert errors.worst < 1e-7
    assert (errors.alpha is None) == (cell.alpha is None)


@pytest.mark.peer
@every_form
@every_loss
@pytest.mark.parametrize("B", [None, 2])
@pytest.mark.parametrize("missing", ["", "V c"])
def test_forms_against_torch(cell, loss, B, missing):
    torch = pytest.importorskip("torch")
    given = problem(loss, missing, B=B, H=6)
    leaves = {name: torch.tensor(a, requires_grad=True) for name, a in fields_of(given, cell).items()}
    U, W, b, V, c, x, h, alpha = (leaves.get(name) for name in (*FIELDS, "alpha"))
    phi = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda a: a}[cell.nonlinearity]
    read = []
    for x_t in x:
        a = x_t @ U.T + (phi(h) if cell.current else h) @ W.T + b
        new = a if cell.current else phi(a)
        h = new if alpha is None else (1 - alpha) * h + alpha * new
        read.append(phi(h) if cell.current else h)
    o = torch.stack(read) if V is None else torch.stack(read) @ V.T + c
    targets, weights = torch.tensor(given["targets"]), torch.tensor(given["weights"])
    if loss == "squared_error":
        each = ((o - targets) ** 2).sum(-1)
    else:
        each = -torch.log_softmax(o, -1).gather(-1, targets[..., None])[..., 0]
    total = (weights * each).sum()
    total.backward()
    n, others = split(given, cell)
    value, gradients = pyrnn.loss_and_gradients(n, **others, loss=loss)
    np.testing.assert_allclose(value, total.item(), rtol=1e-13)
    for name, leaf in leaves.items():
        assert_close(np.asarray(getattr(gradients, name)), leaf.grad.numpy(), 1e-12)


# ---- Errors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("function", [pyrnn.loss_and_gradients, pyrnn.check_gradients])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss": "mse"}, ValueError, "loss must be one of 'softmax_cross_entropy', .*, 'huber', got 'mse'"),
        ({"loss": None}, ValueError, "loss must be one of .*, got None"),
        (
            {"network": (1, 2, 3, 4, 5, 6)},
            TypeError,
            "network must be a pyrnn.Network .*, got tuple; Network.* makes one",
        ),
        ({"network": 7}, TypeError, "network must be a pyrnn.Network or a pyrnn.RNN, got int"),
        ({"network": None}, TypeError, "network must be a pyrnn.Network or a pyrnn.RNN, got NoneType"),
        ({"R": np.ones((6, 6))}, ValueError, "network must be without R here: closed_loop.*"),
        ({"cell": "relu"}, TypeError, "cell must be a pyrnn.Cell, got 'relu'"),
        ({"cell": pyrnn.Cell(alpha=[0.5])}, ValueError, r"alpha must be a number or have shape \(6,\), got \(1,\)"),
        ({"V": None}, ValueError, "network must have V where it has c, got V None"),
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
    n, others = split(problem("softmax_cross_entropy"))
    in_network = {name: a for name, a in changes.items() if name in n._fields}
    given = {"network": n._replace(**in_network)} | others
    given |= {name: a for name, a in changes.items() if name not in in_network}
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
    prediction = pyrnn.simulate(start.unravel(result.x), x[:-1]).output()
    np.testing.assert_allclose(((prediction - x[1:]) ** 2).sum(), result.fun, rtol=1e-3)


# ---- check_gradients ------------------------------------------------------------------------------------------------
@every_loss
@pytest.mark.parametrize("B", [None, 2])
@pytest.mark.parametrize("missing", ["", "b", "V c", "h0 weights"])
def test_check_passes_right_gradients(dtype, loss, B, missing):
    given = problem(loss, missing, B=B, dtype=dtype)
    n, others = split(given)
    before = {name: a.tobytes() for name, a in given.items() if a is not None}
    errors = pyrnn.check_gradients(n, **others, loss=loss)
    assert {name: given[name].tobytes() for name in before} == before
    assert errors._fields == (*FIELDS, "alpha")
    assert errors.worst == max(error for error in errors if error is not None)
    for name, error in errors._asdict().items():
        if (name in missing.split() and name != "h0") or name == "alpha":
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

    monkeypatch.setattr(check, "loss_and_gradients", with_mistake)
    n, others = split(problem(loss))
    errors = pyrnn.check_gradients(n, **others, loss=loss)._asdict()
    assert errors.pop(name) > 5e-3
    assert errors.pop("alpha") is None
    assert max(errors.values()) < 1e-8


@pytest.mark.parametrize("alpha", [0.5, np.linspace(0.2, 0.8, 6)], ids=["number", "by unit"])
def test_check_finds_a_wrong_gradient_of_alpha(monkeypatch, alpha):
    def with_mistake(*args, **kwargs):
        value, gradients = pyrnn.loss_and_gradients(*args, **kwargs)
        return value, gradients._replace(alpha=1.01 * gradients.alpha)

    monkeypatch.setattr(check, "loss_and_gradients", with_mistake)
    n, others = split(problem("squared_error"), pyrnn.Cell(alpha=alpha))
    errors = pyrnn.check_gradients(n, **others, loss="squared_error")
    assert errors.worst == errors.alpha > 5e-3
    assert max(errors[:7]) < 1e-8


def test_check_finds_a_missing_slope(monkeypatch):
    """Backpropagation with other slopes than 1 - h², planted below the public functions."""
    with_others = types.SimpleNamespace(
        forward=Call.forward, backward=lambda dh, h, *others: Call.backward(dh, 0.5 * h, *others)
    )
    monkeypatch.setattr(pyrnn.functional, "Call", with_others)
    n, others = split(problem("squared_error"))
    errors = pyrnn.check_gradients(n, **others, loss="squared_error")
    assert min(errors.U, errors.W, errors.b, errors.x, errors.h0) > 1e-3
    assert max(errors.V, errors.c) < 1e-8


@pytest.mark.parametrize(("max_entries", "count"), [(1, 7), (4, 28), (None, 24 + 36 + 6 + 36 + 6 + 60 + 18)])
def test_check_varies_so_many_entries(monkeypatch, max_entries, count):
    calls = []
    monkeypatch.setattr(check, "simulate", lambda *args: (calls.append(1), pyrnn.simulate(*args))[1])
    n, others = split(problem("softmax_cross_entropy"))
    pyrnn.check_gradients(n, **others, max_entries=max_entries)
    assert len(calls) == 2 * count


def test_check_of_nothing():
    """Without a step, and where all weights are zero, every gradient and every difference is 0."""
    for given in (problem("softmax_cross_entropy", T=0), problem("softmax_cross_entropy")):
        n, others = split(given)
        others["weights"] = 0 * others["weights"]
        assert pyrnn.check_gradients(n, **others) == (*(0.0,) * 7, None)


def test_check_chooses_by_rng():
    n, others = split(problem("squared_error"))
    check = lambda rng: pyrnn.check_gradients(n, **others, loss="squared_error", max_entries=3, rng=rng)
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
    n, others = split(problem("softmax_cross_entropy"))
    with pytest.raises((TypeError, ValueError), match=f"^{message}$"):
        pyrnn.check_gradients(n, **others, **options)


# ---- check_gradients of any function --------------------------------------------------------------------------------
def cubes(a, b):
    return (a**3).sum() + (a[0] * b).sum(), (3 * a**2 + np.eye(1, len(a))[0] * b.sum(), np.full(b.shape, a[0]))


def test_check_of_a_function():
    a, b = np.arange(1.0, 4), np.ones((2, 3))
    for arrays in ((a, b), [a, b], (a.tolist(), b.astype(np.float32))):
        errors = pyrnn.check_gradients(cubes, arrays)
        assert [type(error) for error in errors] == [float, float]
        assert max(errors) < 1e-9
    errors = pyrnn.check_gradients(lambda a, b: (cubes(a, b)[0], [None, -cubes(a, b)[1][1]]), (a, b))
    assert errors[0] is None
    assert errors[1] == pytest.approx(2)
    np.testing.assert_array_equal(a, [1, 2, 3])


def test_check_of_a_function_of_one_array():
    error = pyrnn.check_gradients(lambda p: ((p**2).sum(), 2 * p), np.arange(6.0).reshape(2, 3))
    assert type(error) is float
    assert error < 1e-9
    assert pyrnn.check_gradients(lambda p: ((p**2).sum(), 2.02 * p), np.arange(3.0)) == pytest.approx(0.0099, rel=1e-2)
    assert pyrnn.check_gradients(lambda p: (0.0, p), np.zeros(0)) == 0


def test_check_passes_none_on():
    def loss(W, b):
        assert b is None
        return (W**2).sum(), (2 * W, None)

    errors = pyrnn.check_gradients(loss, (np.ones((2, 2)), None))
    assert errors[0] < 1e-9
    assert errors[1] is None


def test_check_of_gradients_that_the_next_call_overwrites():
    """As those of an RNN."""
    rnn = pyrnn.RNN(2, 3, output_size=1, dtype=float, rng=0)
    x, targets = np.ones((5, 4, 2)), np.zeros((5, 4, 1))

    def loss(parameters):
        rnn.parameters[...] = parameters
        return rnn.loss_and_gradients(x, targets, loss="squared_error", out=rnn.gradients)

    assert pyrnn.check_gradients(loss, rnn.parameters.copy()) < 1e-8


def test_check_of_a_function_varies_so_many_entries():
    calls = []

    def loss(a, b):
        calls.append(1)
        return (a**2).sum() + b.sum(), (2 * a, np.ones_like(b))

    pyrnn.check_gradients(loss, (np.ones(50), np.ones(3)), max_entries=10, rng=1)
    assert len(calls) == 1 + 2 * 13


@pytest.mark.parametrize(
    ("function", "arrays", "options", "error", "message"),
    [
        (lambda a: a.sum(), np.ones(2), {}, TypeError, r"function must return \(loss, gradients\), got float64"),
        (lambda a, b: (0.0, (a,)), (np.ones(2), np.ones(2)), {}, ValueError, "function must .* 2 arrays, got 1"),
        (
            lambda a: (0.0, a[1:]),
            np.ones(2),
            {},
            ValueError,
            r"gradient of array must have shape \(2,\), got \(1,\)",
        ),
        (
            lambda a, b: (0.0, (a, b.T)),
            (np.ones(2), np.ones((2, 1))),
            {},
            ValueError,
            r"gradient of arrays\[1\] must have shape \(2, 1\), got \(1, 2\)",
        ),
        (cubes, (np.ones(2), "b"), {}, TypeError, r"arrays\[1\] must be real numbers .*"),
        (
            cubes,
            (np.ones(2), np.ones(2)),
            {"targets": np.ones(2)},
            ValueError,
            "targets must be None with a function.*",
        ),
        (cubes, (np.ones(2), np.ones(2)), {"h0": np.ones(2)}, ValueError, "h0 must be None with a function.*"),
        (cubes, (np.ones(2), np.ones(2)), {"step": 0}, ValueError, "step must be a positive number, got 0"),
    ],
)
def test_check_of_a_function_rejects(function, arrays, options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        pyrnn.check_gradients(function, arrays, **options)
