import numpy as np
import pytest
from helpers import assert_close

import pyrnn

pytestmark = [pytest.mark.compiled, pytest.mark.peer]

FORMS = [
    {},
    {"nonlinearity": "relu"},
    {"nonlinearity": "identity"},
    {"alpha": 0.4},
    {"alpha": "by unit", "nonlinearity": "relu"},
    {"alpha": 0.4, "form": "current"},
    {"alpha": "by unit", "form": "current"},
]
SPANS = [(0, None), (0, 0), (3, 4), (2, 7)]


def run(form, dtype=np.float64, T=8, B=3, H=6, gain=1.0, seed=0, least=0.2, greatest=1.0):
    """(h, W, h0), and what functions of Jacobians take beside them."""
    rng = np.random.default_rng(seed)
    form = form | ({"alpha": np.linspace(least, greatest, H).astype(dtype)} if form.get("alpha") == "by unit" else {})
    W = (gain * rng.standard_normal((H, H)) / H**0.5).astype(dtype)
    x, U = rng.standard_normal((T, B, 2)).astype(dtype), rng.standard_normal((H, 2)).astype(dtype)
    h0 = rng.uniform(-0.5, 0.5, (B, H)).astype(dtype)
    rates = np.empty((T, B, H), dtype) if "alpha" in form else None
    h = pyrnn.forward(x, U, W, None, h0, rates=rates, **form)
    return (h, W, h0), form | {"rates": rates}


def value(product):
    mantissa, log_scale = product
    return mantissa * np.exp(log_scale)[(..., *[np.newaxis] * (mantissa.ndim - np.ndim(log_scale)))]


def by_numpy(arguments, form, start, stop):
    J = pyrnn.jacobian(*arguments, **form)[start:stop]
    product = np.broadcast_to(np.eye(J.shape[-1]), J.shape[1:])
    for step in J:
        product = step @ product
    return product


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("start", "stop"), SPANS)
def test_product_and_vectors(form, dtype, start, stop):
    arguments, form = run(form, dtype)
    expected, span = by_numpy(arguments, form, start, stop), {"start": start, "stop": stop}
    tolerance = 1e-13 if dtype == np.float64 else 2e-5
    product = pyrnn.jacobian_product(*arguments, **span, **form)
    assert product.mantissa.dtype == dtype
    assert product.log_scale.dtype == np.float64
    assert_close(value(product), expected, tolerance)
    largest = np.abs(product.mantissa).max(axis=(1, 2))
    assert (((largest >= 1) & (largest < 2)) | (largest == 0)).all()

    v = np.random.default_rng(1).standard_normal((3, 4, 6)).astype(dtype)
    forwards = pyrnn.jacobian_vector_product(*arguments[:2], v, arguments[2], **span, **form)
    assert_close(value(forwards), v @ expected.swapaxes(1, 2), tolerance)
    backwards = pyrnn.vector_jacobian_product(*arguments[:2], v, arguments[2], **span, **form)
    assert_close(value(backwards), v @ expected, tolerance)
    shared = pyrnn.vector_jacobian_product(*arguments[:2], v[0], arguments[2], **span, **form)
    np.testing.assert_array_equal(shared.mantissa[0], backwards.mantissa[0])

    (h, W, h0), rates = arguments, form["rates"]
    alone = form | {"rates": None if rates is None else rates[:, 1]}
    one = pyrnn.jacobian_product(h[:, 1], W, h0[1], **span, **alone)
    np.testing.assert_array_equal(one.mantissa, product.mantissa[1])
    assert one.log_scale == product.log_scale[1]


@pytest.mark.parametrize("gain", [0.3, 3.0])
def test_thousands_of_steps_against_mpmath(gain):
    mpmath = pytest.importorskip("mpmath")
    T, H = 5000, 3
    (h, W, _), _ = run({}, T=T, B=1, H=H, gain=gain)
    product = pyrnn.jacobian_product(h[:, 0], W)
    assert np.isfinite(product.mantissa).all()
    assert product.mantissa.any()
    with mpmath.workdps(30):
        exact, M = mpmath.eye(H), mpmath.matrix(W.tolist())
        for row in h[:, 0].tolist():
            exact = mpmath.diag([1 - mpmath.mpf(u) ** 2 for u in row]) * (M * exact)
        norm = float(mpmath.log(mpmath.mnorm(exact, "f")))
        scaled = exact / mpmath.exp(mpmath.mpf(float(product.log_scale)))
    assert np.log(np.linalg.norm(product.mantissa)) + product.log_scale == pytest.approx(norm, rel=1e-12)
    np.testing.assert_allclose(product.mantissa, np.array(scaled.tolist(), float), rtol=1e-9)
    assert abs(norm) > 2000  # far outside of what a float holds


def test_slopes_keep_their_digits_up_to_354():
    """docs/gradient-flow.md: up to |a| = 354 all of them, beyond fewer and fewer, from 373.3 on none."""
    mpmath = pytest.importorskip("mpmath")
    one = np.ones((1, 1))
    errors = {}
    for a in (300.0, 354.0, 365.0, 373.2, 373.3):
        product = pyrnn.jacobian_product(one, one, preactivations=a * one)
        with mpmath.workdps(30):
            exact = mpmath.sech(a) ** 2 / mpmath.mpf(2) ** round(float(product.log_scale) / np.log(2))
        errors[a] = abs(float(product.mantissa[0, 0] / exact) - 1)
    assert max(errors[300.0], errors[354.0]) < 1e-15
    assert 1e-8 < errors[365.0] < 1e-6
    assert errors[373.2] > 0.1
    assert errors[373.3] == 1


def test_saturated_units_against_mpmath():
    """1 - h² has no digits there, and sech² of the pre-activation has."""
    mpmath = pytest.importorskip("mpmath")
    T, H = 40, 3
    rng = np.random.default_rng(0)
    x, U, W = rng.uniform(20, 300, (T, H)) * rng.choice([-1, 1], (T, H)), np.eye(H), rng.standard_normal((H, H))
    h = pyrnn.forward(x, U, W)
    a = pyrnn.preactivations(h, x, U, W)
    product = pyrnn.jacobian_product(h, W, preactivations=a)
    with mpmath.workdps(30):
        exact, M = mpmath.eye(H), mpmath.matrix(W.tolist())
        for row in a.tolist():
            exact = mpmath.diag([mpmath.sech(u) ** 2 for u in row]) * (M * exact)
        norm = float(mpmath.log(mpmath.mnorm(exact, "f")))
    assert np.log(np.linalg.norm(product.mantissa)) + product.log_scale == pytest.approx(norm, rel=1e-12)
    assert norm < -5000
    assert not pyrnn.jacobian_product(h, W).mantissa.any()


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("form", ["rate", "current"])
def test_preactivations(nonlinearity, form):
    rng = np.random.default_rng(0)
    x, U, W, b = rng.standard_normal((5, 2, 3)), rng.standard_normal((4, 3)), rng.standard_normal((4, 4)), np.ones(4)
    h0, drive, rates = rng.standard_normal((2, 4)), rng.standard_normal((5, 2, 4)), np.empty((5, 2, 4))
    cell = {"nonlinearity": nonlinearity, "form": form, "drive": drive}
    h = pyrnn.forward(x, U, W, b, h0, alpha=0.5, rates=rates, **cell)
    a = pyrnn.preactivations(h, x, U, W, b, h0, **cell)
    if form == "rate":
        assert_close({"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}[nonlinearity](a), rates, 1e-13)
    else:
        assert_close(0.5 * np.concatenate([h0[np.newaxis], h[:-1]]) + 0.5 * a, h, 1e-13)


# ---- Singular values ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
def test_singular_values_of_few_steps(form):
    arguments, form = run(form, T=6)
    logs = pyrnn.log_singular_values(*arguments, **form)
    assert logs.shape == (7, 3, 6)
    for n in range(7):
        expected = np.linalg.svd(by_numpy(arguments, form, 6 - n, 6), compute_uv=False)
        sure = expected > 1e-9 * expected[:, :1]
        np.testing.assert_allclose(np.exp(logs[n])[sure], expected[sure], rtol=1e-6)
        np.testing.assert_allclose(np.exp(logs[n, :, 0]), expected[:, 0], rtol=1e-12)


def test_condition_numbers_beyond_all_digits_against_mpmath():
    mpmath = pytest.importorskip("mpmath")
    T, H = 60, 4
    (h, W, _), _ = run({}, T=T, B=1, H=H, gain=1.5, seed=3)
    logs = pyrnn.log_singular_values(h[:, 0], W)
    with mpmath.workdps(120):
        exact, M = mpmath.eye(H), mpmath.matrix(W.tolist())
        for row in h[:, 0].tolist():
            exact = mpmath.diag([1 - mpmath.mpf(u) ** 2 for u in row]) * (M * exact)
        expected = np.array([float(mpmath.log(s)) for s in mpmath.svd_r(exact, compute_uv=False)])
    np.testing.assert_allclose(logs[-1], np.sort(expected)[::-1], rtol=1e-11)
    assert expected.max() - expected.min() > 232  # e^232 = 1e101
    slopes = (1 - h[:, 0] ** 2)[::-1]
    volumes = np.cumsum(np.log(slopes).sum(axis=1) + np.linalg.slogdet(W)[1])
    np.testing.assert_allclose(logs[1:].sum(axis=1), volumes, rtol=1e-12)


def test_a_lost_direction():
    logs = pyrnn.log_singular_values(np.zeros((20, 2)), np.ones((2, 2)))
    np.testing.assert_allclose(logs[1:, 0], np.arange(1, 21) * np.log(2))
    assert (logs[1:, 1] == -np.inf).all()


LEAKY = [
    {"alpha": 0.4},
    {"alpha": 0.4, "form": "current", "nonlinearity": "relu"},
    {"alpha": "by unit", "form": "current"},
    {"alpha": "by unit", "nonlinearity": "relu"},
    {"alpha": 0.05, "nonlinearity": "identity"},
]


@pytest.mark.parametrize("form", LEAKY)
@pytest.mark.parametrize("seed", range(5))
def test_products_of_leaky_cells_fall_no_faster_than_their_bound(form, seed):
    """The bound of docs/gradient-flow.md, (1 - α - α ||W||)ⁿ, for weights of any sign."""
    (h, W, h0), form = run(form, T=20, gain=0.3, seed=seed, least=0.1, greatest=0.35)
    alpha = np.asarray(form["alpha"])
    W *= 0.9 * (1 - alpha.max()) / alpha.max() / np.linalg.norm(W, 2)
    bound = np.log((1 - alpha).min() - alpha.max() * np.linalg.norm(W, 2))
    logs = pyrnn.log_singular_values(h, W, h0, **form)
    assert (logs[1:, :, -1] >= np.arange(1, 21)[:, np.newaxis] * bound).all()


def test_the_bound_of_leaky_cells_is_reached():
    """With inhibition products fall faster than (1 - α)ⁿ: log -89.9 against -20.8."""
    W, h, alpha = -0.9 * np.eye(4), np.zeros((30, 4)), 0.5
    logs = pyrnn.log_singular_values(h, W, alpha=alpha, rates=h)[-1]
    np.testing.assert_allclose(logs, 30 * np.log(1 - alpha - alpha * 0.9), rtol=1e-12)
    assert logs[0] < 30 * np.log(1 - alpha) - 69
    assert not pyrnn.jacobian(h, -np.eye(4), alpha=alpha, rates=h).any()  # one step erases everything


@pytest.mark.parametrize("form", LEAKY)
@pytest.mark.parametrize("seed", range(3))
def test_products_without_inhibition_keep_one_large_singular_value(form, seed):
    (h, W, h0), form = run(form, T=20, gain=0.2, seed=seed)
    logs = pyrnn.log_singular_values(h, np.abs(W), h0, **form)[1:, :, 0]
    slowest = np.log(1 - np.min(form["alpha"]))
    assert (logs >= np.arange(1, 21)[:, np.newaxis] * slowest - 1e-12).all()
    without = pyrnn.log_singular_values(h, 0 * W, h0, **form)[1:, :, 0]
    np.testing.assert_allclose(without, np.broadcast_to(np.arange(1, 21)[:, np.newaxis] * slowest, (20, 3)), rtol=1e-12)


# ---- Flow -----------------------------------------------------------------------------------------------------------
def test_flow_of_one_layer():
    params = pyrnn.initialize(2, 7, 3, rng=0)
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((9, 4, 2)), rng.integers(0, 3, (9, 4))
    h = pyrnn.forward(x, params.U, params.W, params.b)
    _, do = pyrnn.softmax_cross_entropy(pyrnn.output(h, params.V, params.c), targets)
    grad_h = pyrnn.state_gradients(do @ params.V, h, params.W)
    for norm, order in (("frobenius", "fro"), ("spectral", 2)):
        flow = pyrnn.gradient_flow(params, x, targets, norm=norm)
        assert flow.norm == norm
        assert flow.log_gradient_norms.shape == flow.log_jacobian_norms.shape == (1, 9, 4)
        assert_close(np.exp(flow.log_gradient_norms[0]), np.linalg.norm(grad_h, axis=-1), 1e-12)
        for t in range(9):
            products = by_numpy((h, params.W, None), {}, t + 1, 9)
            expected = np.linalg.norm(products, order, axis=(1, 2))
            assert_close(np.exp(flow.log_jacobian_norms[0, t]), expected, 1e-12)
    alone = pyrnn.gradient_flow(params, x[:, 0], targets[:, 0])
    assert_close(alone.log_gradient_norms[0], flow.log_gradient_norms[0, :, 0], 1e-12)
    assert pyrnn.gradient_flow(params, x).log_gradient_norms is None


@pytest.mark.parametrize("vectors", [1, 200])
def test_random_vectors_estimate_the_norm(vectors):
    params = pyrnn.initialize(2, 20, rng=0)
    x = np.random.default_rng(0).standard_normal((30, 2))
    exact = pyrnn.gradient_flow(params, x).log_jacobian_norms
    estimate = pyrnn.gradient_flow(params, x, vectors=vectors, rng=1).log_jacobian_norms
    assert np.abs(estimate - exact).max() < (2.5 if vectors == 1 else 0.3)
    assert (estimate != exact).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True},
        {"alpha": 0.5},
        {"alpha": np.linspace(0.2, 0.9, 5), "nonlinearity": "relu"},
        {"alpha": 0.5, "form": "current"},
    ],
)
def test_flow_against_networks_that_begin_later(options):
    """The gradient at h_t is that at h0 of a network whose first step is the next one."""
    rnn = pyrnn.RNN(2, 5, dtype=np.float64, rng=0, **options)
    rng = np.random.default_rng(0)
    turn = (lambda a: a.swapaxes(0, 1)) if rnn.batch_first else (lambda a: a)
    x, h0, d_last = rng.standard_normal((6, 3, 2)), rng.standard_normal((1, 3, 5)), rng.standard_normal((3, 5))
    dh = np.zeros((6, 3, 5))
    dh[-1] = d_last
    before = rnn.gradients.copy()
    flow = pyrnn.gradient_flow(rnn, turn(x), dh=turn(dh), h0=h0)
    np.testing.assert_array_equal(rnn.gradients, before)
    for t in range(5):
        rnn(turn(x[: t + 1]), h0)
        h_t = rnn.layer_states[0]
        h_t = (h_t[:, -1] if rnn.batch_first and h_t.shape[0] == 3 and h_t.shape[1] == t + 1 else h_t[-1]).copy()
        rnn(turn(x[t + 1 :]), h_t[np.newaxis])
        g = rnn.backward(turn(dh[t + 1 :])).h0[0]
        np.testing.assert_allclose(np.exp(flow.log_gradient_norms[0, t]), np.linalg.norm(g, axis=-1), rtol=1e-11)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_flow_against_torch(bidirectional, num_layers):
    """Each layer's states are an intermediate result there, whose gradient autograd tells."""
    torch = pytest.importorskip("torch")
    rnn = pyrnn.RNN(2, 4, num_layers, bidirectional=bidirectional, dtype=np.float64, rng=0)
    rng = np.random.default_rng(0)
    D = 1 + bidirectional
    x, dh = rng.standard_normal((7, 3, 2)), rng.standard_normal((7, 3, D * 4))
    flow = pyrnn.gradient_flow(rnn, x, dh=dh)
    read, states = list(torch.as_tensor(x)), {}
    for layer in range(num_layers):
        both = []
        for way in range(D):
            end = f"_l{layer}" + ("_reverse" if way else "")
            U, W, b1, b2 = (
                torch.tensor(getattr(rnn, name + end)) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h, row = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True), [None] * 7
            for t in reversed(range(7)) if way else range(7):
                h = torch.tanh(read[t] @ U.T + h @ W.T + b1 + b2)
                h.retain_grad()
                row[t] = h
            both.append(row)
            states[layer * D + way] = row
        read = [torch.cat(pair, dim=-1) for pair in zip(*both, strict=True)]
    (torch.stack(read) * torch.as_tensor(dh)).sum().backward()
    for i, row in states.items():
        expected = np.array([np.linalg.norm(h.grad.numpy(), axis=-1) for h in row])
        np.testing.assert_allclose(np.exp(flow.log_gradient_norms[i]), expected, rtol=1e-11)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    params = pyrnn.initialize(1, 8, rng=0)
    x = np.ones((20, 3, 1))
    for flow in (pyrnn.gradient_flow(params, x), pyrnn.gradient_flow(params, x, dh=np.ones((20, 3, 8)))):
        path = tmp_path / "flow.png"
        pyrnn.plot_gradient_flow(flow, path)
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TypeError, match=r"flow must be a pyrnn\.GradientFlow, got int"):
        pyrnn.plot_gradient_flow(3, path)


# ---- Sizes, values, errors ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [(0, 2, 3), (4, 0, 3), (4, 2, 0), (1, 1, 1)])
def test_sizes_of_nothing(sizes):
    T, B, H = sizes
    h, W = np.zeros(sizes), np.ones((H, H))
    assert pyrnn.jacobian_product(h, W).mantissa.shape == (B, H, H)
    assert pyrnn.jacobian_vector_product(h, W, np.ones((0, H))).mantissa.shape == (B, 0, H)
    assert pyrnn.log_singular_values(h, W).shape == (T + 1, B, H)
    params = (np.zeros((H, 2)), W, None, None, None)
    flow = pyrnn.gradient_flow(pyrnn.Parameters(*params), np.zeros((T, B, 2)))
    assert flow.log_jacobian_norms.shape == (1, T, B)


def test_scales_of_a_batch_first_h():
    """Two steps of 0.5 (1 - h²) for two sequences, by hand: the exponents of slopes must not change places."""
    h = np.array([[[0.1], [0.1]], [[0.9], [0.9]]]).transpose(1, 0, 2)
    expected = (0.5 * (1 - np.array([0.1, 0.9]) ** 2)) ** 2
    W, one = np.array([[0.5]]), np.ones((2, 1, 1))
    for product in (
        pyrnn.jacobian_product(h, W),
        pyrnn.jacobian_vector_product(h, W, one),
        pyrnn.vector_jacobian_product(h, W, one),
    ):
        np.testing.assert_allclose(value(product)[:, 0, 0], expected, rtol=1e-14)
    np.testing.assert_allclose(pyrnn.log_singular_values(h, W)[-1, :, 0], np.log(expected), rtol=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_pass_through(bad):
    (h, W, _), _ = run({})
    W[1, 2] = bad
    assert not np.isfinite(pyrnn.jacobian_product(h, W).mantissa).all()
    assert not np.isfinite(pyrnn.vector_jacobian_product(h, W, np.ones((1, 6))).mantissa).all()
    pyrnn.log_singular_values(h, W)


def test_inputs_stay_as_they_are():
    (h, W, h0), _ = run({})
    v = np.ones((2, 6))
    for a in (h, W, h0, v):
        a.flags.writeable = False
    before = [a.tobytes() for a in (h, W, h0, v)]
    pyrnn.jacobian_product(h, W, h0)
    pyrnn.jacobian_vector_product(h, W, v, h0)
    pyrnn.log_singular_values(h, W, h0)
    assert [a.tobytes() for a in (h, W, h0, v)] == before


BAD = [
    ({"W": np.zeros((5, 5))}, ValueError, "W must have shape"),
    ({"h": np.zeros(6)}, ValueError, "h must have shape"),
    ({"h0": np.zeros((3, 5))}, ValueError, "h0 must have shape"),
    ({"start": -1}, ValueError, "start must be an integer from 0 to 8, got -1"),
    ({"start": 4, "stop": 3}, ValueError, "stop must be an integer from 4 to 8, got 3"),
    ({"stop": 9}, ValueError, "stop must be an integer from 0 to 8, got 9"),
    ({"stop": 2.5}, TypeError, "stop must be an integer from 0 to 8, got 2.5"),
    ({"nonlinearity": "sin"}, ValueError, "nonlinearity must be one of"),
    ({"alpha": 0.5}, ValueError, "rates must be"),
    ({"form": "current"}, ValueError, "alpha must be given"),
    ({"preactivations": np.zeros((8, 3, 5))}, ValueError, "preactivations must have shape"),
    (
        {"form": "current", "alpha": 0.5, "preactivations": np.zeros((8, 3, 6))},
        ValueError,
        "preactivations must be None",
    ),
    ({"W": np.zeros((6, 6), complex)}, TypeError, "W must be real"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD)
@pytest.mark.parametrize("function", ["jacobian_product", "log_singular_values", "jacobian_vector_product"])
def test_bad_arguments(function, changes, error, message):
    (h, W, h0), _ = run({})
    arguments = {"h": h, "W": W, "h0": h0} | ({"v": np.ones((2, 6))} if "vector" in function else {}) | changes
    with pytest.raises(error, match=message):
        getattr(pyrnn, function)(**arguments)


@pytest.mark.parametrize("v", [np.ones(6), np.ones((2, 5)), np.ones((2, 2, 6)), np.ones((1, 3, 2, 6))])
def test_bad_vectors(v):
    (h, W, _), _ = run({})
    with pytest.raises(ValueError, match="v must have"):
        pyrnn.jacobian_vector_product(h, W, v)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"network": 3}, TypeError, "network must be a pyrnn.Parameters or a pyrnn.RNN, got int"),
        ({"dh": np.zeros((5, 4)), "targets": [0] * 5}, ValueError, "targets and dh must not be given together"),
        ({"dh": np.zeros((5, 3))}, ValueError, "dh must have shape"),
        ({"norm": "nuclear"}, ValueError, "norm must be one of 'spectral', 'frobenius', got 'nuclear'"),
        ({"loss": "hinge"}, ValueError, "loss must be one of"),
        ({"vectors": 0}, ValueError, "vectors"),
        ({"vectors": 2, "norm": "spectral"}, ValueError, "vectors must be None with norm 'spectral', got 2"),
        ({"x": np.zeros((5, 3))}, ValueError, "U must have"),
        ({"h0": np.zeros(3)}, ValueError, "h0 must have shape"),
    ],
)
def test_bad_flow(changes, error, message):
    arguments = {"network": pyrnn.initialize(2, 4, 3, rng=0), "x": np.zeros((5, 2))} | changes
    with pytest.raises(error, match=message):
        pyrnn.gradient_flow(**arguments)
