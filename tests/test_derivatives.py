"""Products with derivatives: against complex steps of the reference, PyTorch's double backward, and each other."""

import gc
import itertools
import sys
import weakref

import numpy as np
import pytest
from helpers import network, stops_early
from scipy.optimize import minimize

import pyrnn
from pyrnn import reference
from pyrnn._directions import DOTS

pytestmark = [pytest.mark.compiled, pytest.mark.peer]

NONLINEARITIES = ("tanh", "relu", "identity")
LEAKS = {
    "plain": {},
    "rate": {"alpha": 0.3},
    "rate by unit": {"alpha": np.array([0.1, 0.9, 1.0, 0.0, 0.5, 0.25])},
    "current": {"alpha": 0.3, "form": "current"},
    "current by unit": {"alpha": np.array([0.1, 0.9, 1.0, 0.01, 0.5, 0.25]), "form": "current"},
}
STEPS = {
    "all": {},
    "lengths": {"lengths": np.array([3, 0, 5, 1])},
    "mask": {"mask": np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 0, 1]], bool)},
}
ARGUMENTS = ("x", "U", "W", "b", "h0", "drive")
TINY = 1e-30


def case(T, B, I, H, dtype=np.float64, seed=0):
    """Arguments of forward, and a direction for each."""
    n = network(T, B, I, H, dtype=dtype, seed=seed)
    rng = np.random.default_rng(seed + 1)
    n["drive"] = rng.standard_normal(n["dh"].shape).astype(dtype)
    v = {f"{name}_dot": rng.standard_normal(n[name].shape).astype(dtype) for name in (*ARGUMENTS, "dh")}
    return n, v


def states_of(module, n, form, **options):
    rates = np.empty_like(n["dh"]) if "alpha" in form else None
    return module.forward(*(n[a] for a in ARGUMENTS[:5]), drive=n["drive"], rates=rates, **form, **options), rates


def complex_forward(n, v, form, alpha_dot=None):
    """h and rates of the reference, moved by TINY i in the directions that are given."""
    moved = {a: n[a] + 1j * TINY * v.get(f"{a}_dot", 0) for a in ARGUMENTS}
    fixed = {k: a for k, a in form.items() if k != "alpha"}
    if "alpha" in form:
        fixed["alpha"] = form["alpha"] + (0 if alpha_dot is None else 1j * TINY * alpha_dot)
        fixed["rates"] = np.empty(n["dh"].shape, complex)
    return reference.forward(**moved, **fixed), moved, fixed


def close(actual, expected, tolerance=1e-12):
    """Relative to the largest entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max(initial=0))


@pytest.fixture(params=itertools.product(NONLINEARITIES, LEAKS, (False, True)), ids=lambda p: "-".join(map(str, p)))
def form(request):
    nonlinearity, leak, reverse = request.param
    return {"nonlinearity": nonlinearity, "reverse": reverse} | LEAKS[leak]


@pytest.fixture
def alpha_dot(form):
    """A direction of alpha, of the kind that alpha is; not where the current form would divide by 0."""
    if "alpha" not in form:
        return None
    return np.random.default_rng(3).standard_normal(np.shape(form["alpha"]))


# ---- jvp ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", STEPS)
def test_jvp_against_complex_steps(form, alpha_dot, steps):
    n, v = case(5, 4, 3, 6)
    del v["dh_dot"]
    form = form | STEPS[steps]
    h, rates = states_of(pyrnn, n, form)
    actual = pyrnn.jvp(h, n["x"], n["U"], n["W"], n["h0"], **v, alpha_dot=alpha_dot, rates=rates, **form)
    close(actual, complex_forward(n, v, form, alpha_dot)[0].imag / TINY)


@pytest.mark.parametrize("steps", STEPS)
def test_reference_jvp_against_complex_steps(form, alpha_dot, steps):
    n, v = case(5, 4, 3, 6)
    del v["dh_dot"]
    form = form | STEPS[steps]
    h, rates = states_of(reference, n, form)
    actual = reference.jvp(h, n["x"], n["U"], n["W"], n["h0"], **v, alpha_dot=alpha_dot, rates=rates, **form)
    close(actual, complex_forward(n, v, form, alpha_dot)[0].imag / TINY)


def test_reference_of_the_others(form, alpha_dot):
    """The compiled functions against their namesakes, which differ from them in how they are computed."""
    n, v = case(5, 4, 3, 6)
    h, rates = states_of(pyrnn, n, form)
    arguments, options = [n[name] for name in ("x", "U", "W", "h0")], {"rates": rates} | form
    both = [
        module.backward_jvp(n["dh"], h, *arguments, **v, alpha_dot=alpha_dot, drive=n["drive"], **options)
        for module in (pyrnn, reference)
    ]
    for name in ("x", "U", "W", "b", "h0", "drive", *(["alpha"] if "alpha" in form else [])):
        close(*(getattr(g, name) for g in both), 1e-12)
    for norms in (False, True):
        both = [m.per_sample_gradients(n["dh"], h, *arguments, norms_only=norms, **options) for m in (pyrnn, reference)]
        for a, e in zip(*both, strict=True):
            close(a, e, 1e-12)


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("only", DOTS)
def test_each_direction_alone(leak, only):
    n, v = case(5, 4, 3, 6)
    form = LEAKS[leak]
    if only == "alpha_dot" and not form:
        return
    h, rates = states_of(pyrnn, n, form)
    given = {only: np.float64(0.7) * np.ones_like(form["alpha"])} if only == "alpha_dot" else {only: v[only]}
    actual = pyrnn.jvp(h, n["x"], n["U"], n["W"], n["h0"], **given, rates=rates, **form)
    close(actual, complex_forward(n, given, form, given.get("alpha_dot"))[0].imag / TINY)


def test_sizes(edge_size, dtype):
    T, B, I, H = edge_size
    n, v = case(T, B, I, H, dtype)
    dh, dh_dot = n["dh"], v.pop("dh_dot")
    for form in ({}, {"alpha": 0.3}, {"alpha": 0.3, "form": "current"}):
        h, rates = states_of(pyrnn, n, form)
        arguments, options = (h, n["x"], n["U"], n["W"], n["h0"]), {"rates": rates} | form
        h_dot = pyrnn.jvp(*arguments, **v, **options)
        assert h_dot.dtype == dtype
        tolerance = 1e-13 if dtype == np.float64 else 1e-5
        close(h_dot, complex_forward(n, v, form)[0].imag / TINY, tolerance)
        g = pyrnn.backward_jvp(dh, *arguments, dh_dot=dh_dot, drive=n["drive"], **v, **options)
        like = pyrnn.backward(dh, *arguments, drive=n["drive"], **options)
        each = pyrnn.per_sample_gradients(dh, *arguments, **options)
        norms = pyrnn.per_sample_gradients(dh, *arguments, **options, norms_only=True)
        for a, b in zip(g, like, strict=True):
            assert np.shape(a) == np.shape(b)
            if b is None:
                continue
            assert a.dtype == dtype
        for name in ("U", "W", "b"):
            total = getattr(each, name) if B is None else getattr(each, name).sum(axis=0)
            close(total, getattr(like, name), 1e-13 if dtype == np.float64 else 1e-5)
            assert getattr(norms, name).shape == n["x"].shape[1:-1]


@pytest.mark.parametrize("sizes", [(3, 1, 5, 33), (40, 5, 3, 64), (9, 33, 17, 256), (300, 2, 1, 16), (7, 12, 4, 100)])
def test_jvp_in_float32_and_in_chunks(set_chunk_bytes, dtype, sizes):
    n, v = case(*sizes, dtype)
    del v["dh_dot"]
    h, _ = states_of(pyrnn, n, {})
    arguments = (h, n["x"], n["U"], n["W"], n["h0"])
    actual = pyrnn.jvp(*arguments, **v)
    exact = {name: a.astype(float) if a.dtype.kind == "f" else a for name, a in (n | v).items()}
    close(actual, complex_forward(exact, exact, {})[0].imag / TINY, 1e-13 if dtype == np.float64 else 3e-5)
    set_chunk_bytes(5000)
    np.testing.assert_array_equal(pyrnn.jvp(*arguments, **v), actual)


def test_bits_of_a_sequence_do_not_depend_on_the_batch(dtype):
    n, v = case(7, 13, 3, 40, dtype)
    del v["dh_dot"]
    h, _ = states_of(pyrnn, n, {})
    whole = pyrnn.jvp(h, n["x"], n["U"], n["W"], n["h0"], **v)
    alone = {name: v[name] for name in ("U_dot", "W_dot", "b_dot")}
    alone |= {name: v[name][:, 4] for name in ("x_dot", "drive_dot")} | {"h0_dot": v["h0_dot"][4]}
    one = pyrnn.jvp(h[:, 4], n["x"][:, 4], n["U"], n["W"], n["h0"][4], **alone)
    np.testing.assert_array_equal(one, whole[:, 4])


@pytest.mark.parametrize("steps", [{"lengths": np.array([2, 0, 5, 4])}, {"mask": STEPS["mask"]["mask"]}])
def test_steps_that_do_not_exist_are_never_read(steps):
    n, v = case(5, 4, 3, 6)
    del v["dh_dot"]
    h, _ = states_of(pyrnn, n, steps)
    missing = ~steps["mask"] if "mask" in steps else np.arange(5)[:, np.newaxis] >= steps["lengths"]
    expected = pyrnn.jvp(h, n["x"], n["U"], n["W"], n["h0"], **v, **steps)
    x = n["x"].copy()
    for a in (x, v["x_dot"], v["drive_dot"]):
        a[missing] = np.nan
    np.testing.assert_array_equal(pyrnn.jvp(h, x, n["U"], n["W"], n["h0"], **v, **steps), expected)


# ---- vjp, and the two against each other ----------------------------------------------------------------------------
@pytest.mark.parametrize("steps", STEPS)
def test_vjp_is_backward_and_the_transpose_of_jvp(form, alpha_dot, steps):
    """<dh, J v> = <Jᵀ dh, v>."""
    n, v = case(5, 4, 3, 6)
    del v["dh_dot"]
    form = form | STEPS[steps]
    h, pullback = pyrnn.vjp(*(n[a] for a in ARGUMENTS[:5]), drive=n["drive"], **form)
    expected, rates = states_of(pyrnn, n, form)
    np.testing.assert_array_equal(h, expected)
    g = pullback(n["dh"])
    like = pyrnn.backward(n["dh"], h, n["x"], n["U"], n["W"], n["h0"], drive=n["drive"], rates=rates, **form)
    for a, b in zip(g, like, strict=True):
        np.testing.assert_array_equal(a, b)
    dh = n["dh"]
    if "lengths" in form:
        dh = np.where((np.arange(5)[:, np.newaxis] < form["lengths"])[..., np.newaxis], dh, 0)
    forwards = (dh * pyrnn.jvp(h, n["x"], n["U"], n["W"], n["h0"], **v, rates=rates, **form)).sum()
    backwards = sum((getattr(g, a) * v[f"{a}_dot"]).sum() for a in ARGUMENTS)
    np.testing.assert_allclose(forwards, backwards, rtol=0, atol=1e-11)


def test_pullback_takes_the_options_of_backward():
    n = network(T=4, B=2)
    _, pullback = pyrnn.vjp(n["x"], n["U"], n["W"], n["b"], alpha=0.5)
    g = pullback(n["dh"], x_gradient=False)
    assert g.x is None
    assert np.ndim(g.alpha) == 0
    again = pullback(n["dh"], out=g)
    assert again.W is g.W
    assert again.alpha == g.alpha
    with pytest.raises(ValueError, match=r"dh must have shape \(4, 2, 6\)"):
        pullback(n["dh"][:1])


# ---- backward_jvp ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [(5, 4, 3, 6), (1, 1, 1, 6)])
def test_backward_jvp_against_complex_steps(form, alpha_dot, sizes):
    n, v = case(*sizes)
    if np.any(np.asarray(form.get("alpha", 1)) == 0) and "form" in form:
        return
    h, rates = states_of(pyrnn, n, form)
    dh_dot = v.pop("dh_dot")
    moved_h, moved, fixed = complex_forward(n, v, form, alpha_dot)
    at = [moved[a] for a in ("x", "U", "W", "h0")]
    expected = reference.backward(n["dh"] + 1j * TINY * dh_dot, moved_h, *at, drive=moved["drive"], **fixed)
    actual = pyrnn.backward_jvp(
        n["dh"], h, n["x"], n["U"], n["W"], n["h0"], dh_dot=dh_dot, **v, alpha_dot=alpha_dot, drive=n["drive"],
        rates=rates, **form,
    )  # fmt: skip
    for name in (*expected._fields, "drive", "alpha"):
        e = getattr(expected, name)
        if e is None:
            assert getattr(actual, name) is None
        else:
            close(getattr(actual, name), np.imag(e) / TINY, 1e-12)


@pytest.mark.parametrize("sizes", [(40, 5, 3, 64), (9, 33, 17, 256), (300, 2, 1, 16)])
@pytest.mark.parametrize("leak", ["plain", "rate", "current"])
def test_backward_jvp_in_chunks(set_chunk_bytes, dtype, sizes, leak):
    n, v = case(*sizes, dtype)
    form = LEAKS[leak]
    h, rates = states_of(pyrnn, n, form)
    arguments = (n["dh"], h, n["x"], n["U"], n["W"], n["h0"])
    one = pyrnn.backward_jvp(*arguments, **v, rates=rates, **form)
    double = [a.astype(float) for a in arguments]
    r = None if rates is None else rates.astype(float)
    exact = pyrnn.backward_jvp(*double, **{name: a.astype(float) for name, a in v.items()}, rates=r, **form)
    set_chunk_bytes(5000)
    for a, b, c in zip(pyrnn.backward_jvp(*arguments, **v, rates=rates, **form), one, exact, strict=True):
        if a is None:
            assert b is c is None
            continue
        close(a, b, 1e-13 if dtype == np.float64 else 1e-5)
        close(a, c, 1e-13 if dtype == np.float64 else 3e-4)


# ---- A network with a loss ------------------------------------------------------------------------------------------
def problem(loss, T=6, B=3, I=2, H=5, O=3, output=True, bias=True, weights=True, dtype=np.float64, seed=0):
    n = network(T, B, I, H, O if output else H, dtype=dtype, seed=seed)
    b, V, c = n["b"] if bias else None, n["V"] if output else None, n["c"] if output and bias else None
    params = pyrnn.Parameters(n["U"], n["W"], b, V, c)
    options = {"loss": loss, "h0": n["h0"], "weights": n["weights"] if weights else None}
    return params, n["x"], n["targets" if loss == "softmax_cross_entropy" else "numbers"], options


def torch_loss(torch, params, x, targets, options, nonlinearity="tanh", alpha=None, form="rate"):
    """The outputs and the loss as functions of a flat vector, in PyTorch."""
    phi = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda a: a}[nonlinearity]
    tensor = lambda a: None if a is None else torch.from_numpy(np.ascontiguousarray(a))
    x, targets, h0, weights = (tensor(a) for a in (x, targets, options["h0"], options["weights"]))
    sizes = [0 if a is None else a.size for a in params]

    def outputs(p):
        parts = torch.split(p, sizes)
        U, W, b, V, c = (None if a is None else q.reshape(a.shape) for a, q in zip(params, parts, strict=True))
        h, out = h0, []
        for x_t in x:
            a = x_t @ U.T + (h if form == "rate" else phi(h)) @ W.T + (0 if b is None else b)
            new = phi(a) if form == "rate" else a
            h = new if alpha is None else (1 - alpha) * h + alpha * new
            read = h if form == "rate" else phi(h)
            out.append(read if V is None else read @ V.T + (0 if c is None else c))
        return torch.stack(out)

    def loss_of(o):
        if options["loss"] == "squared_error":
            each = ((o - targets) ** 2).sum(-1)
        else:
            each = -torch.log_softmax(o, -1).gather(-1, targets[..., None])[..., 0]
        return (each if weights is None else weights * each).sum()

    return outputs, loss_of


CELLS = (
    {},
    {"nonlinearity": "relu"},
    {"nonlinearity": "identity"},
    {"alpha": 0.4},
    {"alpha": 0.4, "form": "current"},
    {"alpha": 0.4, "nonlinearity": "relu"},
    {"alpha": 0.4, "form": "current", "nonlinearity": "relu"},
    {"alpha": 0.4, "form": "current", "nonlinearity": "identity"},
)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
@pytest.mark.parametrize("kind", [{}, {"output": False}, {"bias": False}, {"weights": False}])
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_products_against_pytorch(loss, kind, cell):
    torch = pytest.importorskip("torch")
    params, x, targets, options = problem(loss, **kind)
    outputs, loss_of = torch_loss(torch, params, x, targets, options, **cell)
    p = torch.from_numpy(params.ravel())
    v = torch.from_numpy(np.random.default_rng(5).standard_normal(p.shape[0]))
    objective = pyrnn.Objective(params, x, targets, **options, **cell)
    total = lambda q: loss_of(outputs(q))
    value, gradient = total(p), torch.func.grad(total)(p)
    np.testing.assert_allclose(objective.fun(p.numpy()), float(value), rtol=1e-13)
    close(objective.jac(p.numpy()), gradient.numpy(), 1e-13)

    Hv = torch.func.jvp(torch.func.grad(total), (p,), (v,))[1].numpy()
    close(objective.hessp(p.numpy(), v.numpy()), Hv)
    close(pyrnn.hvp(params, x, targets, params.unravel(v.numpy()), **options, **cell).ravel(), Hv)

    o, o_dot = torch.func.jvp(outputs, (p,), (v,))
    do_dot = torch.func.jvp(torch.func.grad(loss_of), (o,), (o_dot,))[1]
    Gv = torch.func.vjp(outputs, p)[1](do_dot)[0].numpy()
    close(objective.ggnp(p.numpy(), v.numpy()), Gv)
    close(pyrnn.ggn_vp(params, x, targets, v.numpy(), **options, **cell), Gv)

    J = torch.func.jacrev(outputs)(p).numpy()
    close(pyrnn.output_jacobian(params, x, h0=options["h0"], **cell), J)


@pytest.mark.parametrize("output", [True, False])
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_output_layer_reads_the_same_in_an_objective_an_rnn_and_a_stepper(cell, output):
    """h in the rate form, phi(h) in the current one."""
    params, x, targets, _ = problem("squared_error", output=output)
    U, W, b, V, c = params
    rnn = pyrnn.RNN(U.shape[1], len(U), output_size=None if V is None else len(V), dtype=float, **cell)
    state = {"weight_ih_l0": U, "weight_hh_l0": W, "bias_ih_l0": b, "bias_hh_l0": np.zeros(len(b))}
    rnn.load_state_dict(state | ({} if V is None else {"weight_out": V, "bias_out": c}))
    expected, _ = rnn.loss_and_gradients(x, targets, loss="squared_error")
    expected_gradients = dict(rnn.named_gradients())
    objective = pyrnn.Objective(params, x, targets, loss="squared_error", **cell)
    np.testing.assert_allclose(objective.fun(objective.first), expected, rtol=1e-13)
    gradients = params.unravel(objective.jac(objective.first))
    close(gradients.W, expected_gradients["weight_hh_l0"], 1e-13)
    o = rnn(x)[0]
    if V is not None:
        close(gradients.V, expected_gradients["weight_out"], 1e-13)
        close(pyrnn.Stepper(*params, batch=x.shape[1], **cell).run(x), o, 1e-13)
    J = pyrnn.output_jacobian(params, x, **cell)
    close(np.tensordot(2 * (o - targets), J, 3), gradients.ravel(), 1e-13)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
def test_the_hessian_is_symmetric_and_gauss_newton_has_no_negative_eigenvalue(loss):
    params, x, targets, options = problem(loss, T=20, H=4)
    objective = pyrnn.Objective(params, x, targets, **options)
    p, one = objective.first, np.eye(objective.first.size)
    H, G = (np.stack([product(p, e) for e in one]) for product in (objective.hessp, objective.ggnp))
    close(H.T, H, 1e-13)
    close(G.T, G, 1e-13)
    eigenvalues = np.linalg.eigvalsh(G)
    assert eigenvalues.min() > -1e-13 * eigenvalues.max()
    assert np.linalg.eigvalsh(H).min() < 0


def test_gauss_newton_is_the_fisher_matrix():
    """Of the cross-entropy: the expected outer product of gradients under the network's own predictions."""
    params, x, _, _ = problem("softmax_cross_entropy", T=1, B=1, O=3)
    scores, chances = [], []
    for y in range(3):
        loss, g = pyrnn.loss_and_gradients(params, x, np.array([[y]]))
        scores.append(g.parameters.ravel())
        chances.append(np.exp(-loss))
    v = np.random.default_rng(0).standard_normal(scores[0].size)
    expected = sum(chance * g * (g @ v) for chance, g in zip(chances, scores, strict=True))
    close(pyrnn.ggn_vp(params, x, np.array([[0]]), v), expected, 1e-13)


def test_against_finite_differences():
    """Of the gradient that the reference computes."""
    params, x, targets, options = problem("softmax_cross_entropy")
    v = np.random.default_rng(2).standard_normal(params.ravel().size)

    def gradient(p):
        return reference.loss_and_gradients(params.unravel(p), x, targets, **options)[1].parameters.ravel()

    p, step = params.ravel(), 1e-6
    expected = (gradient(p + step * v) - gradient(p - step * v)) / (2 * step)
    close(pyrnn.hvp(params, x, targets, v, **options), expected, 1e-8)


@pytest.mark.parametrize("method", ["newton-cg", "trust-ncg", "trust-krylov"])
@pytest.mark.parametrize("curvature", ["hessp", "ggnp"])
def test_scipy_minimises_an_objective(method, curvature):
    params = pyrnn.initialize(1, 4, 1, rng=1)
    x = np.sin(np.arange(40.0))[:, np.newaxis]
    objective = pyrnn.Objective(params, x[:-1], x[1:], loss="squared_error")
    options = {"maxiter": 30}
    found = minimize(
        objective.fun, objective.first, jac=objective.jac, hessp=getattr(objective, curvature), method=method,
        options=options,
    )  # fmt: skip
    assert found.fun < 0.05 * objective.fun(objective.first)


def test_the_objective_keeps_its_last_point(monkeypatch):
    params, x, targets, options = problem("squared_error")
    objective = pyrnn.Objective(params, x, targets, **options)
    calls = []
    forward = pyrnn.curvature.forward
    monkeypatch.setattr("pyrnn.curvature.forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
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
    params, x, targets, options = problem("squared_error")
    objective = pyrnn.Objective(params, x, targets, **options)
    objective.hessp(objective.first, objective.first)
    gc.disable()
    try:
        point = weakref.ref(objective._last)
        del objective
        assert point() is None
    finally:
        gc.enable()


def test_weight_zero_hides_a_step_whatever_is_there():
    params, x, targets, options = problem("softmax_cross_entropy")
    options["weights"][2:, 1] = 0
    p = params.ravel()
    expected = [product(params, x, targets, p, **options) for product in (pyrnn.hvp, pyrnn.ggn_vp)]
    targets[2:, 1] = -7
    for e, product in zip(expected, (pyrnn.hvp, pyrnn.ggn_vp), strict=True):
        np.testing.assert_array_equal(product(params, x, targets, p, **options), e)


@pytest.mark.parametrize("product", [pyrnn.hvp, pyrnn.ggn_vp])
def test_weight_zero_hides_an_output_that_overflows(product):
    params = pyrnn.Parameters(np.array([[1.0]]), np.array([[0.0]]), V=np.array([[1e300]]))
    x, y, weights = np.array([[1e-300], [2e-300], [1e10]]), np.ones((3, 1)), np.array([1.0, 1.0, 0.0])
    options = {"loss": "squared_error", "nonlinearity": "identity", "weights": weights}
    actual = product(params, x, y, [1.0, 0.0, 0.0], **options)
    x[2] = 0
    np.testing.assert_array_equal(actual, product(params, x, y, [1.0, 0.0, 0.0], **options))
    assert np.isfinite(actual).all()


@pytest.mark.parametrize(
    "sizes", [(0, 2, 1, 3, 2), (3, 0, 2, 3, 2), (1, 1, 0, 1, 1), (2, 3, 2, 0, 2), (2, None, 1, 4, 3)]
)
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
def test_sizes_of_objectives(sizes, loss):
    T, B, I, H, O = sizes
    params, x, targets, options = problem(loss, T, B, I, H, O)
    objective = pyrnn.Objective(params, x, targets, **options)
    v = np.random.default_rng(0).standard_normal(objective.first.size)
    step = 1e-6 * v
    change = objective.jac(objective.first + step) - objective.jac(objective.first - step)
    close(objective.hessp(objective.first, v), change / 2e-6, 1e-7)
    assert objective.ggnp(objective.first, v) @ v >= 0


def test_dtypes_of_objectives(dtype):
    params, x, targets, options = problem("softmax_cross_entropy", dtype=dtype)
    objective = pyrnn.Objective(params, x, targets, **options)
    p = objective.first.astype(float)  # SciPy's
    double = pyrnn.Objective(pyrnn.Parameters(*(a.astype(float) for a in params)), x, targets, **options)
    for name in ("jac", "hessp", "ggnp"):
        more = () if name == "jac" else (p,)
        actual = getattr(objective, name)(p, *more)
        assert actual.dtype == dtype
        close(actual, getattr(double, name)(p, *more), 1e-12 if dtype == np.float64 else 1e-5)


# ---- Gradients of each sequence -------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [(5, 4, 3, 6), (3, 5, 2, 40), (60, 3, 2, 7), (1, 2, 4, 8), (700, 2, 3, 5)])
def test_per_sample_gradients(form, dtype, sizes):
    n, _ = case(*sizes, dtype)
    if np.ndim(form.get("alpha", 0)):
        form = form | {"alpha": np.resize(form["alpha"], sizes[3]).astype(dtype)}
    if form["nonlinearity"] != "tanh":
        n["W"] *= dtype(0.5)
    h, rates = states_of(pyrnn, n, form)
    arguments = [n["dh"], h, n["x"], n["U"], n["W"], n["h0"]]
    each = pyrnn.per_sample_gradients(*arguments, rates=rates, **form)
    norms = pyrnn.per_sample_gradients(*arguments, rates=rates, **form, norms_only=True)
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    for i in range(sizes[1]):
        r = None if rates is None else rates[:, i]
        dh, h_i, x = (a[:, i] for a in arguments[:3])
        one = pyrnn.backward(dh, h_i, x, n["U"], n["W"], n["h0"][i], rates=r, **form)
        for name in ("U", "W", "b"):
            close(getattr(each, name)[i], getattr(one, name), tolerance)
            close(getattr(norms, name)[i], np.linalg.norm(getattr(one, name)), 10 * tolerance)
            assert getattr(norms, name).dtype == dtype


def test_sums_of_many_chunks_keep_their_digits(set_chunk_bytes):
    """db of each sequence and the tangent of db: small numbers after a large one are not lost."""
    set_chunk_bytes(1024)
    dh = np.full((100_000, 1), 0.5, np.float32)
    dh[40_000] = 3e9  # where neighbours are 256 apart
    x, U, W = np.zeros((100_000, 1), np.float32), np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)
    expected = np.float32(dh.sum(dtype=np.float64))
    for b in (
        pyrnn.per_sample_gradients(dh, dh, x, U, W, nonlinearity="identity").b,
        pyrnn.backward_jvp(dh, dh, x, U, W, dh_dot=dh, nonlinearity="identity").b,
    ):
        assert abs(b[0] - expected) <= 2 * np.spacing(expected)


def test_norms_of_steps_that_cancel_are_not_nan():
    """The squares are sums of products of steps, and some come out below 0."""
    rng = np.random.default_rng(0)
    dh = rng.standard_normal((3, 500, 8)).astype(np.float32)
    dh[2] = -(dh[0] + dh[1])
    x, U, W = np.ones((3, 500, 1), np.float32), np.zeros((8, 1), np.float32), np.zeros((8, 8), np.float32)
    norms = pyrnn.per_sample_gradients(dh, dh, x, U, W, nonlinearity="identity", norms_only=True)
    assert norms.b.min() == 0
    assert norms.b.max() < 1e-2


def test_long_sequences_are_summed_in_chunks(set_chunk_bytes):
    n = network(T=50, B=3, I=2, H=4)
    arguments = [n[name] for name in ("dh", "h", "x", "U", "W", "h0")]
    one = pyrnn.per_sample_gradients(*arguments)
    set_chunk_bytes(200)
    for a, b in zip(pyrnn.per_sample_gradients(*arguments), one, strict=True):
        close(a, b, 1e-13)


# ---- The Jacobian of outputs ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [(4, 2, 1, 2, 3), (9, 1, 1, 1, 4), (5, 2, 3, 6, 2), (1, 3, 2, 4, 1)])
@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("together", [1, 40, 1 << 20])
def test_rows_and_columns_of_the_output_jacobian(monkeypatch, sizes, leak, together):
    """Both routes, in any number of passes, against products with directions."""
    T, B, I, H, O = sizes
    n = network(T, B, I, H, O)
    form = dict(LEAKS[leak])
    if np.ndim(form.get("alpha", 0)):
        form["alpha"] = form["alpha"][:H]
    params = pyrnn.Parameters(*(n[name] for name in ("U", "W", "b", "V", "c")))
    module = sys.modules["pyrnn.output_jacobian"]  # pyrnn.output_jacobian is the function
    monkeypatch.setattr(module, "NUMBERS", together)
    steps = [T - 1, 0, -1]
    chosen = pyrnn.output_jacobian(params, n["x"], steps=steps, h0=n["h0"], **form)
    monkeypatch.setattr(module, "_columns", module._rows)
    rows = pyrnn.output_jacobian(params, n["x"], steps=steps, h0=n["h0"], **form)
    monkeypatch.undo()
    monkeypatch.setattr(module, "NUMBERS", together)
    monkeypatch.setattr(module, "_rows", module._columns)
    columns = pyrnn.output_jacobian(params, n["x"], steps=steps, h0=n["h0"], **form)
    close(rows, columns, 1e-13)
    close(chosen, columns, 1e-13)

    v = np.random.default_rng(1).standard_normal(params.ravel().size)
    d = params.unravel(v)
    rates = np.empty_like(n["dh"]) if form else None
    h = pyrnn.forward(n["x"], n["U"], n["W"], n["b"], n["h0"], rates=rates, **form)
    h_dot = pyrnn.jvp(h, n["x"], n["U"], n["W"], n["h0"], U_dot=d.U, W_dot=d.W, b_dot=d.b, rates=rates, **form)
    read, read_dot = (np.tanh(h), h_dot / np.cosh(h) ** 2) if leak.startswith("current") else (h, h_dot)
    close(chosen @ v, (read_dot @ n["V"].T + read @ d.V.T + d.c)[steps], 1e-12)


def test_output_jacobian_of_nothing():
    for T, B in ((0, 2), (3, 0)):
        n = network(T, B, 2, 3, 2)
        J = pyrnn.output_jacobian(pyrnn.Parameters(n["U"], n["W"], n["b"], n["V"], n["c"]), n["x"])
        assert J.shape == (T, B, 2, 2 * 3 + 9 + 3 + 6 + 2)
    assert pyrnn.output_jacobian(pyrnn.Parameters(n["U"], n["W"]), np.ones((3, 2)), steps=[]).shape == (0, 3, 15)


# ---- Arguments ------------------------------------------------------------------------------------------------------
def test_any_layout_is_read_and_nothing_is_written(layout):
    n, v = case(5, 4, 3, 6)
    h, rates = states_of(pyrnn, n, {"alpha": 0.3})
    plain = {"h": h, "rates": rates, "alpha": np.full(6, 0.3)} | {a: n[a] for a in ("x", "U", "W", "h0")} | v
    laid = {name: layout(a) for name, a in plain.items()}
    before = {name: a.tobytes() for name, a in laid.items()}
    g = pyrnn.backward_jvp(n["dh"], **plain)
    g_laid = pyrnn.backward_jvp(n["dh"], **laid)
    dh_dot, laid_dh_dot = plain.pop("dh_dot"), laid.pop("dh_dot")
    np.testing.assert_array_equal(pyrnn.jvp(**laid), pyrnn.jvp(**plain))
    for a, b in zip((*g[:5], g.alpha), (*g_laid[:5], g_laid.alpha), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    options = {name: a for name, a in laid.items() if not name.endswith("_dot")}
    like = {name: a for name, a in plain.items() if not name.endswith("_dot")}
    for norms in (False, True):
        each = pyrnn.per_sample_gradients(laid_dh_dot, **options, norms_only=norms)
        for a, b in zip(each, pyrnn.per_sample_gradients(dh_dot, **like, norms_only=norms), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    for name, a in laid.items():
        assert a.tobytes() == before[name], name


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_what_is_not_finite_passes_through(value, dtype):
    n, v = case(5, 4, 3, 6, dtype)
    for name in ("x_dot", "W_dot", "h0_dot"):
        v[name].flat[2] = value
    h, rates = states_of(pyrnn, n, {"alpha": 0.3})
    arguments = (h, n["x"], n["U"], n["W"], n["h0"])
    dh_dot = v.pop("dh_dot")
    assert pyrnn.jvp(*arguments, **v, alpha=0.3, rates=rates).shape == h.shape
    for norms in (False, True):
        dh = n["dh"].copy()
        dh[3, 1, 2] = value
        each = pyrnn.per_sample_gradients(dh, *arguments, alpha=0.3, rates=rates, norms_only=norms)
        assert np.isfinite(each.W[0]).all()
    pyrnn.backward_jvp(n["dh"], *arguments, dh_dot=dh_dot, **v, alpha=0.3, alpha_dot=1.0, rates=rates)
    params = pyrnn.Parameters(*(n[name] for name in ("U", "W", "b", "V", "c")))
    direction = params.ravel()
    direction[0] = value
    pyrnn.hvp(params, n["x"], n["targets"], direction)
    pyrnn.ggn_vp(params, n["x"], n["targets"], direction)
    direction[-1] = value  # an output that is not finite
    pyrnn.hvp(params.unravel(direction), n["x"], n["targets"], direction)


def test_errors_name_the_argument():
    n, v = case(5, 4, 3, 6)
    arguments = (n["h"], n["x"], n["U"], n["W"], n["h0"])
    for name, shape in (("x_dot", (5, 4, 3)), ("W_dot", (6, 6)), ("b_dot", (6,)), ("h0_dot", (4, 6))):
        with pytest.raises(
            ValueError, match=rf"{name} must have shape {shape}".replace("(", r"\(").replace(")", r"\)")
        ):
            pyrnn.jvp(*arguments, **{name: v[name][:-1]})
    with pytest.raises(ValueError, match="alpha_dot must be None without alpha"):
        pyrnn.jvp(*arguments, alpha_dot=1.0)
    with pytest.raises(ValueError, match=r"alpha_dot must be a number or have shape \(6,\), got \(3,\)"):
        pyrnn.jvp(*arguments, alpha=0.3, rates=n["h"], alpha_dot=np.ones(3))
    with pytest.raises(ValueError, match="rates must be the array that forward wrote"):
        pyrnn.jvp(*arguments, alpha=0.3)
    with pytest.raises(TypeError, match="W_dot must be real numbers"):
        pyrnn.jvp(*arguments, W_dot=1j * v["W_dot"])
    with pytest.raises(ValueError, match=r"dh_dot must have shape \(5, 4, 6\)"):
        pyrnn.backward_jvp(n["dh"], *arguments, dh_dot=n["dh"][1:])
    with pytest.raises(TypeError, match="norms_only must be True or False"):
        pyrnn.per_sample_gradients(n["dh"], *arguments, norms_only=1)
    params = pyrnn.Parameters(*(n[name] for name in ("U", "W", "b", "V", "c")))
    with pytest.raises(ValueError, match=r"vector must have shape \(74,\), got \(73,\)"):
        pyrnn.hvp(params, n["x"], n["targets"], np.ones(73))
    with pytest.raises(ValueError, match=r"vector\.W must have shape \(6, 6\), got \(5, 6\)"):
        pyrnn.hvp(params, n["x"], n["targets"], params._replace(W=n["W"][1:]))
    with pytest.raises(ValueError, match=r"vector\.b must be an array, as params.b is"):
        pyrnn.ggn_vp(params, n["x"], n["targets"], params._replace(b=None))
    with pytest.raises(ValueError, match="loss must be one of"):
        pyrnn.Objective(params, n["x"], n["targets"], loss="hinge")
    with pytest.raises(ValueError, match=r"p must have shape \(74,\)"):
        pyrnn.Objective(params, n["x"], n["targets"]).fun(np.ones(3))
    with pytest.raises(ValueError, match="steps must be from -5 to 4"):
        pyrnn.output_jacobian(params, n["x"], steps=[5])
    with pytest.raises(TypeError, match="steps must be integers"):
        pyrnn.output_jacobian(params, n["x"], steps=[0.5])


@pytest.mark.parametrize("function", [pyrnn.jvp, pyrnn.backward_jvp, pyrnn.per_sample_gradients])
def test_ctrl_c_stops_a_call_in_its_middle(function):
    H = 512  # the whole takes a second, since loops look for signals every 50 ms

    def call(T):
        h, x, U, W = np.zeros((T, 8, H)), np.zeros((T, 8, 1)), np.zeros((H, 1)), np.zeros((H, H))
        arguments = (h, x, U, W) if function is pyrnn.jvp else (h, h, x, U, W)
        function(*arguments, **({} if function is pyrnn.per_sample_gradients else {"W_dot": W}))

    stops_early(lambda: call(6000), lambda: call(200), 30)
