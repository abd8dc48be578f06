"""Products of Jacobians, their singular values, and the flow of gradients."""

import numpy as np
import pytest
from helpers import assert_close, for_each

import pyrnn
from pyrnn import dynamics, reference

pytestmark = pytest.mark.compiled

LEAKS = ({}, {"alpha": 0.4}, {"alpha": "by unit"}, {"alpha": 0.4, "form": "current"})
FORMS = [{"nonlinearity": phi} | leak for phi in ("tanh", "relu", "identity") for leak in LEAKS]
FORMS.append({"alpha": "by unit", "form": "current"})
SPANS = [(0, None), (0, 0), (3, 4), (2, 7)]


def run(form, dtype=np.float64, T=8, B=3, H=6, gain=1.0, seed=0, least=0.2, greatest=1.0, reverse=False):
    """A Trajectory of a random network."""
    rng = np.random.default_rng(seed)
    form = form | ({"alpha": np.linspace(least, greatest, H)} if form.get("alpha") == "by unit" else {})
    W = (gain * rng.standard_normal((H, H)) / H**0.5).astype(dtype)
    x, U = rng.standard_normal((T, B, 2)).astype(dtype), rng.standard_normal((H, 2)).astype(dtype)
    h0 = rng.uniform(-0.5, 0.5, (B, H)).astype(dtype)
    return pyrnn.simulate(pyrnn.Network(U, W, cell=pyrnn.Cell(**form)), x, h0, reverse=reverse)


def of(h, W, **options):
    """States of a plain network whose input does not matter."""
    return pyrnn.Trajectory.of(pyrnn.Network(np.zeros((len(W), 0), np.float32), W), h, **options)


def value(product):
    mantissa, log_scale = product
    return mantissa * np.exp(log_scale)[(..., *[np.newaxis] * (mantissa.ndim - np.ndim(log_scale)))]


def by_numpy(a_run, start, stop):
    J = a_run.jacobian()[:: -1 if a_run.reverse else 1][start:stop]
    product = np.broadcast_to(np.eye(J.shape[-1]), J.shape[1:])
    for step in J:
        product = step @ product
    return product


@pytest.mark.parametrize("form", FORMS)
@for_each(("start", "stop"), SPANS)
@for_each("reverse", [False, True])
def test_product_and_vectors(form, dtype, start, stop, reverse):
    whole = run(form, dtype, reverse=reverse)
    expected = by_numpy(whole, start, stop)
    tolerance = 1e-13 if dtype == np.float64 else 2e-5
    product = dynamics.jacobian_product(whole, start, stop)
    assert product.mantissa.dtype == dtype
    assert product.log_scale.dtype == np.float64
    assert_close(value(product), expected, tolerance)
    largest = np.abs(product.mantissa).max(axis=(1, 2))
    assert (((largest >= 1) & (largest < 2)) | (largest == 0)).all()

    v = np.random.default_rng(1).standard_normal((3, 4, 6)).astype(dtype)
    assert_close(value(dynamics.push(whole, v, start, stop)), v @ expected.swapaxes(1, 2), tolerance)
    backwards = dynamics.pull(whole, v, start, stop)
    assert_close(value(backwards), v @ expected, tolerance)
    shared = dynamics.pull(whole, v[0], start, stop)
    np.testing.assert_array_equal(shared.mantissa[0], backwards.mantissa[0])

    x, h, rates = whole.x[:, 1], whole.h[:, 1], None if whole.written_rates is None else whole.rates[:, 1]
    alone = pyrnn.Trajectory.of(whole.network, h, x, whole.h0[1], rates=rates, reverse=reverse)
    one = dynamics.jacobian_product(alone, start, stop)
    np.testing.assert_array_equal(one.mantissa, product.mantissa[1])
    assert one.log_scale == product.log_scale[1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at_sums", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_against_the_reference(form, at_sums, reverse, batched):
    """With slopes from the rates and from the pre-activations, which are the same but for saturated units."""
    a_run = run(form, T=5, reverse=reverse)
    if not batched:
        rates = None if a_run.written_rates is None else a_run.rates[:, 1]
        first = (a_run.h[:, 1], a_run.x[:, 1], a_run.h0[1])
        a_run = pyrnn.Trajectory.of(a_run.network, *first, rates=rates, reverse=reverse)
    v = np.random.default_rng(1).standard_normal((2, 6))
    for function, more in (("jacobian_product", ()), ("push", (v,)), ("pull", (v,))):
        actual, expected = (
            getattr(module, function)(a_run, *more, 1, 4, preactivations=at_sums) for module in (dynamics, reference)
        )
        assert actual.mantissa.shape == expected.mantissa.shape
        assert np.shape(actual.log_scale) == expected.log_scale.shape
        assert_close(value(actual), expected.mantissa, 1e-12)
    logs = dynamics.log_singular_values(a_run, 1, 4, preactivations=at_sums)
    with np.errstate(divide="ignore"):  # of singular matrices
        expected = np.exp(reference.log_singular_values(a_run, 1, 4, preactivations=at_sums))
    assert_close(np.exp(logs), expected, 1e-12)
    assert_close(dynamics.preactivations(a_run), reference.preactivations(a_run), 1e-13)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reverse", [False, True])
def test_vectors_by_differences(form, reverse):
    """Of the last state with respect to the one before the first of the steps, and of its product with u."""
    a_run = run(form, T=6, B=2, reverse=reverse)
    order = slice(None, None, -1 if reverse else 1)
    x, h = a_run.x[order], a_run.h[order]
    v, u = np.random.default_rng(1).standard_normal((2, 2, 1, 6))
    above, below = (pyrnn.simulate(a_run.network, x[2:], h[1] + step * v[:, 0]).h[-1] for step in (1e-6, -1e-6))
    pushed = value(dynamics.push(a_run, v, 2, preactivations=True))
    np.testing.assert_allclose(pushed[:, 0], (above - below) / 2e-6, rtol=0, atol=1e-8)
    pulled = value(dynamics.pull(a_run, u, 2, preactivations=True))
    np.testing.assert_allclose((pushed * u).sum(axis=-1), (pulled * v).sum(axis=-1), rtol=1e-12)


@pytest.mark.parametrize("gain", [0.3, 3.0])
def test_thousands_of_steps_against_mpmath(gain):
    mpmath = pytest.importorskip("mpmath")
    T, H = 5000, 3
    whole = run({}, T=T, B=1, H=H, gain=gain)
    h, W = whole.h, whole.network.W
    product = dynamics.jacobian_product(of(h[:, 0], W))
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
        states = pyrnn.Trajectory.of(pyrnn.Network(one, one), one, a * one)
        product = dynamics.jacobian_product(states, preactivations=True)
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
    saturated = pyrnn.simulate(pyrnn.Network(U, W), x)
    a = dynamics.preactivations(saturated)
    product = dynamics.jacobian_product(saturated, preactivations=True)
    with mpmath.workdps(30):
        exact, M = mpmath.eye(H), mpmath.matrix(W.tolist())
        for row in a.tolist():
            exact = mpmath.diag([mpmath.sech(u) ** 2 for u in row]) * (M * exact)
        norm = float(mpmath.log(mpmath.mnorm(exact, "f")))
    assert np.log(np.linalg.norm(product.mantissa)) + product.log_scale == pytest.approx(norm, rel=1e-12)
    assert norm < -5000
    assert not dynamics.jacobian_product(saturated).mantissa.any()


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize("reverse", [False, True])
def test_preactivations(nonlinearity, form, reverse):
    rng = np.random.default_rng(0)
    x, U, W, b = rng.standard_normal((5, 2, 3)), rng.standard_normal((4, 3)), rng.standard_normal((4, 4)), np.ones(4)
    h0, drive = rng.standard_normal((2, 4)), rng.standard_normal((5, 2, 4))
    network = pyrnn.Network(U, W, b, cell=pyrnn.Cell(nonlinearity, 0.5, form))
    driven = pyrnn.simulate(network, x, h0, drive=drive, reverse=reverse)
    a = dynamics.preactivations(driven)
    phi = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0), "identity": lambda a: a}[nonlinearity]
    if form == "rate":
        assert_close(phi(a), driven.rates, 1e-13)
    else:
        first, h = h0[np.newaxis], driven.h
        previous = np.concatenate([h[1:], first]) if reverse else np.concatenate([first, h[:-1]])
        assert_close(0.5 * previous + 0.5 * a, h, 1e-13)


def test_preactivations_in_parts(monkeypatch):
    for reverse in (False, True):
        for form in FORMS:
            a_run = run(form, reverse=reverse)
            monkeypatch.setattr("pyrnn.dynamics.slopes.TOGETHER", 100_000_000)
            whole = dynamics.preactivations(a_run)
            part = dynamics.jacobian_product(a_run, 3, 8, preactivations=True)
            monkeypatch.setattr("pyrnn.dynamics.slopes.TOGETHER", 3 * 18 * 9)
            np.testing.assert_allclose(dynamics.preactivations(a_run), whole, rtol=1e-13, atol=1e-13)
            again = dynamics.jacobian_product(a_run, 3, 8, preactivations=True)
            assert_close(value(again), value(part), 1e-12)


# ---- Singular values ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
def test_singular_values_of_few_steps(form):
    a_run = run(form, T=6)
    logs = dynamics.log_singular_values(a_run)
    assert logs.shape == (7, 3, 6)
    for n in range(7):
        expected = np.linalg.svd(by_numpy(a_run, 6 - n, 6), compute_uv=False)
        sure = expected > 1e-9 * expected[:, :1]
        np.testing.assert_allclose(np.exp(logs[n])[sure], expected[sure], rtol=1e-6)
        np.testing.assert_allclose(np.exp(logs[n, :, 0]), expected[:, 0], rtol=1e-12)


def test_condition_numbers_beyond_all_digits_against_mpmath():
    mpmath = pytest.importorskip("mpmath")
    T, H = 60, 4
    whole = run({}, T=T, B=1, H=H, gain=1.5, seed=3)
    h, W = whole.h, whole.network.W
    logs = dynamics.log_singular_values(of(h[:, 0], W))
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
    logs = dynamics.log_singular_values(of(np.zeros((20, 2)), np.ones((2, 2))))
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
    a_run = run(form, T=20, gain=0.3, seed=seed, least=0.1, greatest=0.35)
    alpha, W = np.asarray(a_run.network.cell.alpha), a_run.network.W
    W *= 0.9 * (1 - alpha.max()) / alpha.max() / np.linalg.norm(W, 2)
    bound = np.log((1 - alpha).min() - alpha.max() * np.linalg.norm(W, 2))
    logs = dynamics.log_singular_values(a_run)
    assert (logs[1:, :, -1] >= np.arange(1, 21)[:, np.newaxis] * bound).all()


def test_the_bound_of_leaky_cells_is_reached():
    """With inhibition products fall faster than (1 - α)ⁿ: log -89.9 against -20.8."""
    h, alpha = np.zeros((30, 4)), 0.5
    network = pyrnn.Network(np.zeros((4, 0)), -0.9 * np.eye(4), cell=pyrnn.Cell(alpha=alpha))
    logs = dynamics.log_singular_values(pyrnn.Trajectory.of(network, h, rates=h))[-1]
    np.testing.assert_allclose(logs, 30 * np.log(1 - alpha - alpha * 0.9), rtol=1e-12)
    assert logs[0] < 30 * np.log(1 - alpha) - 69
    assert not pyrnn.jacobian(h, -np.eye(4), cell=network.cell, rates=h).any()  # one step erases everything


@pytest.mark.parametrize("form", LEAKY)
@pytest.mark.parametrize("seed", range(3))
def test_products_without_inhibition_keep_one_large_singular_value(form, seed):
    a_run = run(form, T=20, gain=0.2, seed=seed)
    network = a_run.network
    with_W = lambda W: a_run._replace(network=network._replace(W=W))
    logs = dynamics.log_singular_values(with_W(np.abs(network.W)))[1:, :, 0]
    slowest = np.log(1 - np.min(network.cell.alpha))
    assert (logs >= np.arange(1, 21)[:, np.newaxis] * slowest - 1e-12).all()
    without = dynamics.log_singular_values(with_W(0 * network.W))[1:, :, 0]
    np.testing.assert_allclose(without, np.broadcast_to(np.arange(1, 21)[:, np.newaxis] * slowest, (20, 3)), rtol=1e-12)


# ---- Flow -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", [form for form in FORMS if form.get("alpha") != "by unit"])
def test_flow_of_one_layer(form):
    network = pyrnn.initialize(2, 7, 3, cell=pyrnn.Cell(**form), rng=0)
    rng = np.random.default_rng(0)
    x, targets, h0 = rng.standard_normal((9, 4, 2)), rng.integers(0, 3, (9, 4)), rng.standard_normal((4, 7))
    a_run = pyrnn.simulate(network, x, h0)
    _, do = pyrnn.softmax_cross_entropy(a_run.output(), targets)
    grad_h = a_run.state_gradients((network.cell.slope(a_run.rates) if network.cell.current else 1) * (do @ network.V))
    for norm, order in (("frobenius", "fro"), ("spectral", 2)):
        flow = dynamics.gradient_flow(network, x, targets, norm=norm, h0=h0)
        assert flow.norm == norm
        assert flow.log_gradient_norms.shape == flow.log_jacobian_norms.shape == (1, 9, 4)
        assert_close(np.exp(flow.log_gradient_norms[0]), np.linalg.norm(grad_h, axis=-1), 1e-12)
        for t in range(9):
            products = by_numpy(a_run, t + 1, 9)
            expected = np.linalg.norm(products, order, axis=(1, 2))
            assert_close(np.exp(flow.log_jacobian_norms[0, t]), expected, 1e-12)
    alone = dynamics.gradient_flow(network, x[:, 0], targets[:, 0], h0=h0[0])
    assert_close(alone.log_gradient_norms[0], flow.log_gradient_norms[0, :, 0], 1e-12)
    assert dynamics.gradient_flow(network, x).log_gradient_norms is None


@pytest.mark.parametrize("vectors", [1, 200])
def test_random_vectors_estimate_the_norm(vectors):
    params = pyrnn.initialize(2, 20, rng=0)
    x = np.random.default_rng(0).standard_normal((30, 2))
    exact = dynamics.gradient_flow(params, x).log_jacobian_norms
    estimate = dynamics.gradient_flow(params, x, vectors=vectors, rng=1).log_jacobian_norms
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
    flow = dynamics.gradient_flow(rnn, turn(x), dh=turn(dh), h0=h0)
    np.testing.assert_array_equal(rnn.gradients, before)
    for t in range(5):
        rnn(turn(x[: t + 1]), h0)
        h_t = rnn.layer_states[0]
        h_t = (h_t[:, -1] if rnn.batch_first and h_t.shape[0] == 3 and h_t.shape[1] == t + 1 else h_t[-1]).copy()
        rnn(turn(x[t + 1 :]), h_t[np.newaxis])
        g = rnn.backward(turn(dh[t + 1 :])).h0[0]
        np.testing.assert_allclose(np.exp(flow.log_gradient_norms[0, t]), np.linalg.norm(g, axis=-1), rtol=1e-11)


@pytest.mark.peer
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_flow_against_torch(bidirectional, num_layers):
    """Each layer's states are an intermediate result there, whose gradient autograd tells."""
    torch = pytest.importorskip("torch")
    rnn = pyrnn.RNN(2, 4, num_layers, bidirectional=bidirectional, dtype=np.float64, rng=0)
    rng = np.random.default_rng(0)
    D = 1 + bidirectional
    x, dh = rng.standard_normal((7, 3, 2)), rng.standard_normal((7, 3, D * 4))
    flow = dynamics.gradient_flow(rnn, x, dh=dh)
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


@pytest.mark.parametrize("form", [form for form in FORMS if form.get("alpha") != "by unit"])
@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_flow_of_two_layers_and_directions(form, norm):
    """Against the gradients and Jacobians of each, without exponents."""
    rnn = pyrnn.RNN(2, 5, 2, bidirectional=True, output_size=3, dtype=np.float64, rng=0, **form)
    rng = np.random.default_rng(0)
    x, targets, h0 = rng.standard_normal((6, 3, 2)), rng.standard_normal((6, 3, 3)), rng.standard_normal((4, 3, 5))
    flow = dynamics.gradient_flow(rnn, x, targets, loss="squared_error", h0=h0, norm=norm)
    runs, read = [], x
    for layer in range(2):
        both = [
            pyrnn.simulate(rnn.network(layer, way), read, h0[2 * layer + way], reverse=way == 1) for way in range(2)
        ]
        runs.append(both)
        read = np.concatenate([a_run.read for a_run in both], axis=-1)
    g = 2 * (read @ rnn.weight_out.T + rnn.bias_out - targets) @ rnn.weight_out
    for layer in (1, 0):
        below = 0
        for way, a_run in enumerate(runs[layer]):
            current = a_run.network.cell.current
            dh = g[..., 5 * way : 5 * way + 5] * (a_run.network.cell.slope(a_run.rates) if current else 1)
            norms = np.exp(flow.log_gradient_norms[2 * layer + way])
            assert_close(norms, np.linalg.norm(a_run.state_gradients(dh), axis=-1), 1e-11)
            below = below + a_run.backward(dh).x
            for t in range(6):
                products = by_numpy(a_run, (6 - t if way else t + 1), 6)
                expected = np.linalg.norm(products, 2 if norm == "spectral" else "fro", axis=(1, 2))
                assert_close(np.exp(flow.log_jacobian_norms[2 * layer + way, t]), expected, 1e-11)
        g = below


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    params = pyrnn.initialize(1, 8, rng=0)
    x = np.ones((20, 3, 1))
    for flow in (dynamics.gradient_flow(params, x), dynamics.gradient_flow(params, x, dh=np.ones((20, 3, 8)))):
        path = tmp_path / "flow.png"
        pyrnn.plots.plot_gradient_flow(flow, path)
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TypeError, match=r"flow must be a pyrnn\.dynamics\.GradientFlow, got int"):
        pyrnn.plots.plot_gradient_flow(3, path)


# ---- Sizes, values, errors ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [(0, 2, 3), (4, 0, 3), (4, 2, 0), (1, 1, 1)])
def test_sizes_of_nothing(sizes):
    T, B, H = sizes
    for form in ({}, {"alpha": 0.5}, {"alpha": 0.5, "form": "current"}):
        network = pyrnn.Network(np.zeros((H, 2)), np.ones((H, H)), cell=pyrnn.Cell(**form))
        a_run = pyrnn.simulate(network, np.zeros((T, B, 2)))
        for at_sums in (False, True):
            assert dynamics.jacobian_product(a_run, preactivations=at_sums).mantissa.shape == (B, H, H)
            vectors = dynamics.push(a_run, np.ones((0, H)), preactivations=at_sums)
            assert vectors.mantissa.shape == (B, 0, H)
            assert dynamics.log_singular_values(a_run, preactivations=at_sums).shape == (T + 1, B, H)
        assert dynamics.preactivations(a_run).shape == (T, B, H)
        for norm in ("frobenius", "spectral"):
            flow = dynamics.gradient_flow(network, a_run.x, dh=a_run.h, norm=norm)
            assert flow.log_jacobian_norms.shape == flow.log_gradient_norms.shape == (1, T, B)


def test_scales_of_a_batch_first_h():
    """Two steps of 0.5 (1 - h²) for two sequences, by hand: the exponents of slopes must not change places."""
    h = np.array([[[0.1], [0.1]], [[0.9], [0.9]]]).transpose(1, 0, 2)
    expected = (0.5 * (1 - np.array([0.1, 0.9]) ** 2)) ** 2
    W, one = np.array([[0.5]]), np.ones((2, 1, 1))
    for product in (
        dynamics.jacobian_product(of(h, W)),
        dynamics.push(of(h, W), one),
        dynamics.pull(of(h, W), one),
    ):
        np.testing.assert_allclose(value(product)[:, 0, 0], expected, rtol=1e-14)
    np.testing.assert_allclose(dynamics.log_singular_values(of(h, W))[-1, :, 0], np.log(expected), rtol=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_pass_through(bad):
    a_run = run({})
    a_run.network.W[1, 2] = bad
    assert not np.isfinite(dynamics.jacobian_product(a_run).mantissa).all()
    assert not np.isfinite(dynamics.pull(a_run, np.ones((1, 6))).mantissa).all()
    dynamics.log_singular_values(a_run)


def test_inputs_stay_as_they_are():
    for form in FORMS:
        a_run = run(form)
        arrays = (a_run.x, a_run.h, a_run.h0, a_run.rates, *a_run.network.arrays, np.ones((2, 6)))
        for a in arrays:
            a.flags.writeable = False
        before = [a.tobytes() for a in arrays]
        for at_sums in (False, True):
            dynamics.jacobian_product(a_run, preactivations=at_sums)
            dynamics.push(a_run, arrays[-1], preactivations=at_sums)
            dynamics.log_singular_values(a_run, preactivations=at_sums)
        dynamics.gradient_flow(a_run.network, a_run.x, dh=a_run.h, h0=a_run.h0)
        assert [a.tobytes() for a in arrays] == before


BAD = [
    ({"start": -1}, ValueError, "start must be an integer from 0 to 8, got -1"),
    ({"start": 4, "stop": 3}, ValueError, "stop must be an integer from 4 to 8, got 3"),
    ({"stop": 9}, ValueError, "stop must be an integer from 0 to 8, got 9"),
    ({"stop": 2.5}, TypeError, "stop must be an integer from 0 to 8, got 2.5"),
    ({"preactivations": np.zeros((8, 3, 6))}, TypeError, "preactivations must be True or False, got array"),
    ({"run": np.zeros((8, 3, 6))}, TypeError, "run must be a pyrnn.Trajectory, as simulate returns it, got ndarray"),
]
FUNCTIONS = ["jacobian_product", "log_singular_values", "push", "pull"]


def arguments(function, a_run):
    return {"run": a_run} | ({"push": {"v": np.ones((2, 6))}, "pull": {"u": np.ones((2, 6))}}.get(function, {}))


@pytest.mark.parametrize(("changes", "error", "message"), BAD)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_arguments(function, changes, error, message):
    with pytest.raises(error, match=message):
        getattr(dynamics, function)(**arguments(function, run({})) | changes)


@pytest.mark.parametrize("steps", [{"lengths": [8, 3, 0]}, {"mask": np.ones((8, 3), bool)}])
@pytest.mark.parametrize("function", [*FUNCTIONS, "preactivations"])
def test_runs_whose_steps_do_not_all_exist(function, steps):
    whole = run({})
    part = pyrnn.simulate(whole.network, whole.x, whole.h0, **steps)
    with pytest.raises(ValueError, match=f"run must be without lengths and mask here, .* got {next(iter(steps))}"):
        getattr(dynamics, function)(**arguments(function, part))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_preactivations_need_the_input(function):
    """But in the current form, whose states are what they are asked for."""
    for form in ({}, {"alpha": 0.5}, {"alpha": 0.5, "form": "current"}):
        whole = run(form)
        without = pyrnn.Trajectory.of(whole.network, whole.h, None, whole.h0, rates=whole.written_rates)
        options = arguments(function, without)
        if "form" in form:
            actual = getattr(dynamics, function)(**options, preactivations=True)
            expected = getattr(dynamics, function)(**options)
            for a, b in zip(actual, expected, strict=True):
                np.testing.assert_array_equal(a, b)
        else:
            getattr(dynamics, function)(**options)
            with pytest.raises(ValueError, match="x must be known"):
                getattr(dynamics, function)(**options, preactivations=True)
            with pytest.raises(ValueError, match="x must be known"):
                dynamics.preactivations(without)


@pytest.mark.parametrize("v", [np.ones(6), np.ones((2, 5)), np.ones((2, 2, 6)), np.ones((1, 3, 2, 6))])
def test_bad_vectors(v):
    with pytest.raises(ValueError, match="v must have"):
        dynamics.push(run({}), v)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"network": 3}, TypeError, "network must be a pyrnn.Network or a pyrnn.RNN, got int"),
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
        dynamics.gradient_flow(**arguments)
