"""`pyrnn.training.Objective` and `output_jacobian`: against PyTorch, the reference, differences, and each other."""

import gc
import weakref

import numpy as np
import pytest
from helpers import for_each, forms, network
from scipy.optimize import minimize

import pyrnn
from pyrnn import reference
from pyrnn.training import Objective, output_jacobian, tangent_kernel

pytestmark = pytest.mark.compiled

PLAIN = pyrnn.Cell()
every_loss = pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
every_form = pytest.mark.parametrize("cell", forms(5).values(), ids=forms(5))


def close(actual, expected, tolerance=1e-12):
    """Relative to the largest entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max(initial=0))


# ---- A network with a loss ------------------------------------------------------------------------------------------
def problem(loss, T=6, B=3, I=2, H=5, O=3, output=True, bias=True, weights=True, dtype=np.float64, cell=PLAIN):
    n = network(T, B, I, H, O if output else H, dtype=dtype)
    b, V, c = n["b"] if bias else None, n["V"] if output else None, n["c"] if output and bias else None
    net = pyrnn.Network(n["U"], n["W"], b, V, c, cell=cell)
    options = {"loss": loss, "h0": n["h0"], "weights": n["weights"] if weights else None}
    return net, n["x"], n["targets" if loss == "softmax_cross_entropy" else "numbers"], options


def torch_loss(torch, net, x, targets, options):
    """The outputs and the loss as functions of a flat vector, in PyTorch."""
    phi = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda a: a}[net.cell.nonlinearity]
    tensor = lambda a: None if a is None else torch.tensor(np.asarray(a))
    x, targets, h0, weights = (tensor(a) for a in (x, targets, options["h0"], options["weights"]))
    alpha, current = tensor(net.cell.alpha), net.cell.current
    sizes = [0 if a is None else a.size for a in net[:5]]

    def outputs(p):
        parts = torch.split(p, sizes)
        U, W, b, V, c = (None if a is None else q.reshape(a.shape) for a, q in zip(net[:5], parts, strict=True))
        h, out = h0, []
        for x_t in x:
            a = x_t @ U.T + (phi(h) if current else h) @ W.T + (0 if b is None else b)
            new = a if current else phi(a)
            h = new if alpha is None else (1 - alpha) * h + alpha * new
            read = phi(h) if current else h
            out.append(read if V is None else read @ V.T + (0 if c is None else c))
        return torch.stack(out)

    def loss_of(o):
        if options["loss"] == "squared_error":
            each = ((o - targets) ** 2).sum(-1)
        else:
            each = -torch.log_softmax(o, -1).gather(-1, targets[..., None])[..., 0]
        return (each if weights is None else weights * each).sum()

    return outputs, loss_of


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@every_loss
@pytest.mark.parametrize("kind", [{}, {"output": False}, {"bias": False}, {"weights": False}])
@every_form
def test_products_against_pytorch(loss, kind, cell):
    torch = pytest.importorskip("torch")
    net, x, targets, options = problem(loss, **kind, cell=cell)
    outputs, loss_of = torch_loss(torch, net, x, targets, options)
    p = torch.from_numpy(net.ravel())
    v = torch.from_numpy(np.random.default_rng(5).standard_normal(p.shape[0]))
    objective = Objective(net, x, targets, **options)
    total = lambda q: loss_of(outputs(q))
    value, gradient = total(p), torch.func.grad(total)(p)
    np.testing.assert_allclose(objective.fun(p.numpy()), float(value), rtol=1e-13)
    close(objective.jac(p.numpy()), gradient.numpy(), 1e-13)

    Hv = torch.func.jvp(torch.func.grad(total), (p,), (v,))[1].numpy()
    close(objective.hessp(p.numpy(), v.numpy()), Hv)
    direction = net.unravel(v.numpy())
    named = objective.hessp(p.numpy(), direction)
    assert isinstance(named, pyrnn.Network)
    close(named.ravel(), Hv)

    o, o_dot = torch.func.jvp(outputs, (p,), (v,))
    do_dot = torch.func.jvp(torch.func.grad(loss_of), (o,), (o_dot,))[1]
    Gv = torch.func.vjp(outputs, p)[1](do_dot)[0].numpy()
    close(objective.ggnp(p.numpy(), v.numpy()), Gv)
    close(objective.ggnp(p.numpy(), direction).ravel(), Gv)

    J = torch.func.jacrev(outputs)(p).numpy()
    close(output_jacobian(net, x, options["h0"]), J)


@pytest.mark.parametrize("output", [True, False])
@every_form
def test_the_output_layer_reads_the_same_in_an_objective_an_rnn_and_a_stepper(cell, output):
    """h in the rate form, phi(h) in the current one."""
    net, x, targets, _ = problem("squared_error", output=output, cell=cell)
    U, W, b, V, c, _, _ = net
    alpha = 1.0 if cell.alpha is None else cell.alpha
    rnn = pyrnn.RNN(
        U.shape[1], len(U), output_size=None if V is None else len(V), dtype=float,
        nonlinearity=cell.nonlinearity, alpha=alpha, form=cell.form,
    )  # fmt: skip
    state = {"weight_ih_l0": U, "weight_hh_l0": W, "bias_ih_l0": b, "bias_hh_l0": np.zeros(len(b))}
    rnn.load_state_dict(state | ({} if V is None else {"weight_out": V, "bias_out": c}))
    expected, _ = rnn.loss_and_gradients(x, targets, loss="squared_error")
    expected_gradients = dict(rnn.named_gradients())
    objective = Objective(net, x, targets, loss="squared_error")
    np.testing.assert_allclose(objective.fun(objective.first), expected, rtol=1e-13)
    of_rnn = Objective(rnn, x, targets, loss="squared_error")
    np.testing.assert_allclose(of_rnn.fun(of_rnn.first), expected, rtol=1e-13)
    gradients = net.unravel(objective.jac(objective.first))
    close(gradients.W, expected_gradients["weight_hh_l0"], 1e-13)
    o = rnn(x)[0]
    if V is not None:
        close(gradients.V, expected_gradients["weight_out"], 1e-13)
        close(pyrnn.Stepper(net, batch=x.shape[1]).run(x), o, 1e-13)
    J = output_jacobian(net, x)
    close(np.tensordot(2 * (o - targets), J, 3), gradients.ravel(), 1e-13)


@every_loss
def test_the_hessian_is_symmetric_and_gauss_newton_has_no_negative_eigenvalue(loss):
    net, x, targets, options = problem(loss, T=20, H=4)
    objective = Objective(net, x, targets, **options)
    p, one = objective.first, np.eye(objective.first.size)
    H, G = (np.stack([product(p, e) for e in one]) for product in (objective.hessp, objective.ggnp))
    close(H.T, H, 1e-13)
    close(G.T, G, 1e-13)
    eigenvalues = np.linalg.eigvalsh(G)
    assert eigenvalues.min() > -1e-13 * eigenvalues.max()
    assert np.linalg.eigvalsh(H).min() < 0


def test_gauss_newton_is_the_fisher_matrix():
    """Of the cross-entropy: the expected outer product of gradients under the network's own predictions."""
    net, x, _, _ = problem("softmax_cross_entropy", T=1, B=1, O=3)
    scores, chances = [], []
    for y in range(3):
        loss, g = pyrnn.loss_and_gradients(net, x, np.array([[y]]))
        scores.append(g.parameters.ravel())
        chances.append(np.exp(-loss))
    v = np.random.default_rng(0).standard_normal(scores[0].size)
    expected = sum(chance * g * (g @ v) for chance, g in zip(chances, scores, strict=True))
    objective = Objective(net, x, np.array([[0]]))
    close(objective.ggnp(objective.first, v), expected, 1e-13)


@every_form
@every_loss
@pytest.mark.parametrize("output", [True, False])
def test_against_finite_differences(cell, loss, output):
    """Of the gradient that the reference computes."""
    net, x, targets, options = problem(loss, output=output, cell=cell)
    v = np.random.default_rng(2).standard_normal(net.ravel().size)

    def gradient(p):
        return reference.loss_and_gradients(net.unravel(p), x, targets, **options)[1].parameters.ravel()

    p, step = net.ravel(), 1e-6
    expected = (gradient(p + step * v) - gradient(p - step * v)) / (2 * step)
    objective = Objective(net, x, targets, **options)
    close(objective.hessp(p, v), expected, 1e-7)
    close(objective.jac(p), gradient(p), 1e-13)


@every_form
def test_the_gradient_is_that_of_loss_and_gradients(cell, dtype):
    """To the last bit."""
    net, x, targets, options = problem("softmax_cross_entropy", dtype=dtype, cell=cell)
    objective = Objective(net, x, targets, **options)
    value, gradients = pyrnn.loss_and_gradients(net, x, targets, **options)
    assert objective.fun(objective.first) == value
    np.testing.assert_array_equal(objective.jac(objective.first), gradients.parameters.ravel())


@pytest.mark.parametrize("method", ["newton-cg", "trust-ncg", "trust-krylov"])
@pytest.mark.parametrize("curvature", ["hessp", "ggnp"])
def test_scipy_minimises_an_objective(method, curvature):
    net = pyrnn.initialize(1, 4, 1, rng=1)
    x = np.sin(np.arange(40.0))[:, np.newaxis]
    objective = Objective(net, x[:-1], x[1:], loss="squared_error")
    options = {"maxiter": 30}
    found = minimize(
        objective.fun, objective.first, jac=objective.jac, hessp=getattr(objective, curvature), method=method,
        options=options,
    )  # fmt: skip
    assert found.fun < 0.05 * objective.fun(objective.first)


def test_the_objective_keeps_its_last_point(monkeypatch):
    net, x, targets, options = problem("squared_error")
    objective = Objective(net, x, targets, **options)
    calls = []
    simulate = pyrnn.simulate
    monkeypatch.setattr("pyrnn.training.objective.simulate", lambda *a: calls.append(1) or simulate(*a))
    p = objective.first
    first = objective.hessp(p, p)
    objective.fun(p), objective.jac(p), objective.ggnp(p, p)
    assert len(calls) == 1
    g = objective.jac(p)
    g[:] = 0  # the caller's own
    assert objective.jac(p).any()
    p[0] += 1  # a point that was changed in place is another one
    assert not np.array_equal(objective.hessp(p, p), first)
    assert len(calls) == 2


def test_an_old_point_is_freed_at_once():
    """Not when the garbage is collected: its states may be large."""
    net, x, targets, options = problem("squared_error")
    objective = Objective(net, x, targets, **options)
    objective.hessp(objective.first, objective.first)
    gc.disable()
    try:
        point = weakref.ref(objective._last)
        del objective
        assert point() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("product", ["hessp", "ggnp"])
def test_weight_zero_hides_a_step_whatever_is_there(product):
    net, x, targets, options = problem("softmax_cross_entropy")
    options["weights"][2:, 1] = 0
    p = net.ravel()
    expected = getattr(Objective(net, x, targets, **options), product)(p, p)
    targets[2:, 1] = -7
    np.testing.assert_array_equal(getattr(Objective(net, x, targets, **options), product)(p, p), expected)


@pytest.mark.parametrize("product", ["hessp", "ggnp"])
def test_weight_zero_hides_an_output_that_overflows(product):
    cell = pyrnn.Cell("identity")
    net = pyrnn.Network(np.array([[1.0]]), np.array([[0.0]]), V=np.array([[1e300]]), cell=cell)
    x, y, weights = np.array([[1e-300], [2e-300], [1e10]]), np.ones((3, 1)), np.array([1.0, 1.0, 0.0])
    options = {"loss": "squared_error", "weights": weights}
    actual = getattr(Objective(net, x, y, **options), product)(net.ravel(), [1.0, 0.0, 0.0])
    x[2] = 0
    expected = getattr(Objective(net, x, y, **options), product)(net.ravel(), [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(actual, expected)
    assert np.isfinite(actual).all()


@pytest.mark.parametrize("cell", [PLAIN, pyrnn.Cell(alpha=0.3), pyrnn.Cell(alpha=0.3, form="current")], ids=str)
@pytest.mark.parametrize(
    "sizes", [(0, 2, 1, 3, 2), (3, 0, 2, 3, 2), (1, 1, 0, 1, 1), (2, 3, 2, 0, 2), (2, None, 1, 4, 3)]
)
@every_loss
def test_sizes_of_objectives(sizes, loss, cell):
    T, B, I, H, O = sizes
    net, x, targets, options = problem(loss, T, B, I, H, O, cell=cell)
    objective = Objective(net, x, targets, **options)
    v = np.random.default_rng(0).standard_normal(objective.first.size)
    step = 1e-6 * v
    change = objective.jac(objective.first + step) - objective.jac(objective.first - step)
    close(objective.hessp(objective.first, v), change / 2e-6, 1e-7)
    assert objective.ggnp(objective.first, v) @ v >= 0


@pytest.mark.parametrize("cell", [PLAIN, pyrnn.Cell(alpha=0.3), pyrnn.Cell(alpha=0.3, form="current")], ids=str)
def test_dtypes_of_objectives(dtype, cell):
    net, x, targets, options = problem("softmax_cross_entropy", dtype=dtype, cell=cell)
    objective = Objective(net, x, targets, **options)
    p = objective.first.astype(float)  # SciPy's
    double = Objective(pyrnn.Network(*(a.astype(float) for a in net[:5]), cell=cell), x, targets, **options)
    for name in ("jac", "hessp", "ggnp"):
        more = () if name == "jac" else (p,)
        actual = getattr(objective, name)(p, *more)
        assert actual.dtype == dtype
        close(actual, getattr(double, name)(p, *more), 1e-12 if dtype == np.float64 else 1e-5)


# ---- The Jacobian of outputs ----------------------------------------------------------------------------------------
@for_each("sizes", [(4, 2, 1, 2, 3), (9, 1, 1, 1, 4), (5, 2, 3, 6, 2), (1, 3, 2, 4, 1)])
@pytest.mark.parametrize("kind", forms(1))
@for_each("together", [1, 40, 1 << 20])
def test_rows_and_columns_of_the_output_jacobian(monkeypatch, sizes, kind, together):
    """Both routes, in any number of passes, against products with directions."""
    T, B, I, H, O = sizes
    n = network(T, B, I, H, O)
    net = pyrnn.Network(*(n[name] for name in "UWbVc"), cell=forms(H)[kind])
    monkeypatch.setattr(tangent_kernel, "NUMBERS", together)
    steps = [T - 1, 0, -1]
    chosen = output_jacobian(net, n["x"], n["h0"], steps=steps)
    monkeypatch.setattr(tangent_kernel, "_columns", tangent_kernel._rows)
    rows = output_jacobian(net, n["x"], n["h0"], steps=steps)
    monkeypatch.undo()
    monkeypatch.setattr(tangent_kernel, "NUMBERS", together)
    monkeypatch.setattr(tangent_kernel, "_rows", tangent_kernel._columns)
    columns = output_jacobian(net, n["x"], n["h0"], steps=steps)
    close(rows, columns, 1e-13)
    close(chosen, columns, 1e-13)

    v = np.random.default_rng(1).standard_normal(net.ravel().size)
    d, run = net.unravel(v), pyrnn.simulate(net, n["x"], n["h0"])
    read_dot = pyrnn.jvp(run, pyrnn.Direction(U=d.U, W=d.W, b=d.b))
    if net.cell.current:
        read_dot = net.cell.slope(run.rates) * read_dot
    close(chosen @ v, (read_dot @ n["V"].T + run.read @ d.V.T + d.c)[steps], 1e-12)


@every_form
@pytest.mark.parametrize("B", [None, 2])
@pytest.mark.parametrize("output", [True, False])
def test_output_jacobian_against_central_differences(cell, B, output):
    """Of the reference."""
    net, x, _, options = problem("squared_error", T=3, B=B, output=output, cell=cell)

    def outputs(p):
        moved = net.unravel(p)
        run = reference.simulate(moved, x, options["h0"])
        return reference.output(run.read, moved.V, moved.c) if output else run.read

    p, step = net.ravel(), 1e-6
    columns = [(outputs(p + step * e) - outputs(p - step * e)) / (2 * step) for e in np.eye(len(p))]
    close(output_jacobian(net, x, options["h0"]), np.stack(columns, axis=-1), 1e-8)


def test_output_jacobian_of_nothing():
    for T, B in ((0, 2), (3, 0)):
        n = network(T, B, 2, 3, 2)
        J = output_jacobian(pyrnn.Network(n["U"], n["W"], n["b"], n["V"], n["c"]), n["x"])
        assert J.shape == (T, B, 2, 2 * 3 + 9 + 3 + 6 + 2)
    assert output_jacobian(pyrnn.Network(n["U"], n["W"]), np.ones((3, 2)), steps=[]).shape == (0, 3, 15)


# ---- Arguments ------------------------------------------------------------------------------------------------------
def test_any_layout_is_read_and_nothing_is_written(layout):
    net, x, targets, options = problem("squared_error", cell=pyrnn.Cell(alpha=0.3))
    p = net.ravel()
    expected = Objective(net, x, targets, **options)
    J = output_jacobian(net, x, options["h0"])
    given = {"x": x, "targets": targets, "h0": options["h0"], "weights": options["weights"]}
    laid = {name: layout(a) for name, a in given.items()}
    before = {name: a.tobytes() for name, a in laid.items()}
    net = pyrnn.Network(*map(layout, net[:5]), cell=net.cell)
    objective = Objective(net, **laid, loss="squared_error")
    for name, more in (("jac", ()), ("hessp", (p,)), ("ggnp", (p,))):
        close(getattr(objective, name)(p, *more), getattr(expected, name)(p, *more), 1e-12)
    close(output_jacobian(net, laid["x"], laid["h0"]), J, 1e-12)
    assert {name: a.tobytes() for name, a in laid.items()} == before


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_what_is_not_finite_passes_through(value, dtype):
    net, x, targets, _ = problem("softmax_cross_entropy", dtype=dtype)
    direction = net.ravel()
    direction[0] = value
    objective = Objective(net, x, targets)
    objective.hessp(objective.first, direction)
    objective.ggnp(objective.first, direction)
    direction[-1] = value  # an output that is not finite
    objective.hessp(direction, direction)


def test_errors_name_the_argument():
    net, x, targets, _ = problem("softmax_cross_entropy", T=5, B=4, I=4, H=6, O=2)
    objective = Objective(net, x, targets)
    p = objective.first
    for product in (objective.hessp, objective.ggnp):
        with pytest.raises(ValueError, match=r"^v must have shape \(80,\), got \(79,\)$"):
            product(p, np.ones(79))
        with pytest.raises(ValueError, match=r"^p must have shape \(80,\), got \(3,\)$"):
            product(np.ones(3), p)
        with pytest.raises(ValueError, match=r"^v\.W must have shape \(6, 6\), got \(5, 6\)$"):
            product(p, net._replace(W=net.W[1:]))
        with pytest.raises(ValueError, match=r"^v\.b must be an array, as network.b is$"):
            product(p, net._replace(b=None))
        with pytest.raises(ValueError, match=r"^v\.R must be None, as network.R is$"):
            product(p, net._replace(R=np.ones((6, 2))))
        with pytest.raises(TypeError, match=r"^v must be real numbers"):
            product(p, 1j * p)
    with pytest.raises(ValueError, match=r"p must have shape \(80,\)"):
        objective.fun(np.ones(3))
    with pytest.raises(ValueError, match="loss must be one of"):
        Objective(net, x, targets, loss="hinge")
    with pytest.raises(TypeError, match=r"network must be a pyrnn\.Network or a pyrnn\.RNN, got tuple"):
        Objective(tuple(net), x, targets)
    with pytest.raises(ValueError, match="network must be without R here"):
        Objective(net._replace(R=np.ones((6, 2))), x, targets)
    with pytest.raises(ValueError, match=r"targets must be classes from 0 to 1, got 9 at \(0, 0\)"):
        Objective(net, x, np.full((5, 4), 9))
    with pytest.raises(ValueError, match="steps must be from -5 to 4"):
        output_jacobian(net, x, steps=[5])
    with pytest.raises(TypeError, match="steps must be integers"):
        output_jacobian(net, x, steps=[0.5])
    with pytest.raises(ValueError, match=r"h0 must have shape \(4, 6\)"):
        output_jacobian(net, x, np.ones(6))
