"""`pyrnn.training.vanishing_regularizer` against Jacobians, differences, PyTorch's autograd and the published code."""

import numpy as np
import pytest
from helpers import central_differences

import pyrnn

pytestmark = pytest.mark.once

VARIANTS = ["book", "published"]
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_nonlinearity = pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])


def of(h, W, nonlinearity="tanh"):
    """States of a network whose input does not matter here."""
    U = np.zeros((len(W), 0), np.float32)
    return pyrnn.Trajectory.of(pyrnn.Network(U, W, cell=pyrnn.Cell(nonlinearity)), h)


def regularizer(grad_h, h, W, *, nonlinearity="tanh", **options):
    return pyrnn.training.vanishing_regularizer(of(h, W, nonlinearity), grad_h, **options)


def run(T=6, B=3, H=5, *, nonlinearity="tanh", dtype=np.float64, seed=0):
    """grad_h, h and W of a random network, with a loss in every other step."""
    rng = np.random.default_rng(seed)
    W = (rng.standard_normal((H, H)) / max(H, 1) ** 0.5).astype(dtype)
    x, dh = rng.standard_normal((2, T, B, H)).astype(dtype)
    dh[::2] = 0
    h = pyrnn.forward(x, np.eye(H, dtype=dtype), W, cell=pyrnn.Cell(nonlinearity))
    return of(h, W, nonlinearity).state_gradients(dh), h, W


def by_the_definition(grad_h, h, W, variant, nonlinearity):
    """Step by step, with the Jacobian of each."""
    terms = []
    Jacobians = of(h, W, nonlinearity).jacobian().reshape(-1, *W.shape)
    for g, J in zip(grad_h.reshape(-1, len(W)), Jacobians, strict=True):
        length = np.linalg.norm(g)
        if variant == "book" and length > 0:
            terms.append((np.linalg.norm(g @ J) / length - 1) ** 2)
        if variant == "published" and length**2 >= 1e-20:
            terms.append((np.linalg.norm(g @ J) ** 2 / length**2 - 1) ** 2)
    return np.sum(terms) if variant == "book" else np.mean(terms)


@every_variant
@every_nonlinearity
@pytest.mark.parametrize("seed", range(5))
def test_value(variant, nonlinearity, seed):
    grad_h, h, W = run(nonlinearity=nonlinearity, seed=seed)
    omega, gradients = regularizer(grad_h, h, W, variant=variant, nonlinearity=nonlinearity)
    assert isinstance(omega, np.float64)
    assert isinstance(gradients, pyrnn.training.RegularizerGradients)
    np.testing.assert_allclose(omega, by_the_definition(grad_h, h, W, variant, nonlinearity), rtol=1e-12)


@every_variant
@every_nonlinearity
@pytest.mark.parametrize("seed", range(5))
def test_gradients_by_differences(variant, nonlinearity, seed):
    grad_h, h, W = run(T=4, B=2, nonlinearity=nonlinearity, seed=seed)
    if nonlinearity == "relu":
        h[h == 0] = -1  # away from the kink
    options = {"variant": variant, "nonlinearity": nonlinearity}
    _, gradients = regularizer(grad_h, h, W, **options)
    expected = central_differences(lambda h, W: regularizer(grad_h, h, W, **options)[0], {"h": h, "W": W})
    for name in ("h", "W"):
        np.testing.assert_allclose(getattr(gradients, name), expected[name], rtol=0, atol=1e-8)
    assert np.abs(expected["W"]).max() > 0.01
    assert (np.abs(expected["h"]).max() > 0.01) == (nonlinearity == "tanh")


def published_code(grad_h, h, W):
    """What RNN.py of pascanur/trainingRNNs computes, in PyTorch and with our W, which multiplies from the left."""
    torch = pytest.importorskip("torch")
    d_ht, ht = torch.tensor(grad_h), torch.tensor(h)
    W = torch.tensor(W, requires_grad=True)
    above = ((d_ht * (1 - ht**2)) @ W).square().sum(2)
    below = d_ht.square().sum(2)
    counts = below >= 1e-20
    ratio = torch.where(counts, above / torch.where(counts, below, 1.0), 1.0)  # no 0/0, whose derivative is NaN
    omega = (ratio - 1).square().mean(1).sum() / counts.double().mean(1).sum()
    omega.backward()
    return omega.item(), W.grad.numpy()


@pytest.mark.peer
@pytest.mark.parametrize("seed", range(10))
def test_against_the_published_code(seed):
    grad_h, h, W = run(T=30, B=4, H=6, seed=seed)
    grad_h = grad_h * 1e-10 ** np.random.default_rng(seed).uniform(-1, 3, (30, 4, 1))  # on both sides of the bound
    grad_h[20:] = 0
    omega, gradients = regularizer(grad_h, h, W, variant="published")
    expected, dW = published_code(grad_h, h, W)
    np.testing.assert_allclose(omega, expected, rtol=1e-12)
    np.testing.assert_allclose(gradients.W, dW, rtol=0, atol=1e-12 * np.abs(dW).max())


def test_the_forms_differ_as_they_say():
    """In one step at h = 0, where a gradient of length 1 becomes one of length 3: (3 - 1)² and (9 - 1)²."""
    for variant, expected, slope in (("book", 4, 4), ("published", 64, 96)):  # 2 (3 - 1) and 4 (9 - 1) 3
        omega, gradients = regularizer([[1.0]], [[0.0]], [[3.0]], variant=variant)
        assert omega == expected
        np.testing.assert_array_equal(gradients.W, [[slope]])


def test_an_orthogonal_W_keeps_lengths():
    W = pyrnn.initialize(1, 8, scheme="orthogonal", rng=0).W
    grad_h = np.random.default_rng(0).standard_normal((5, 3, 8))
    for variant in VARIANTS:
        omega, gradients = regularizer(grad_h, np.zeros((5, 3, 8)), W, variant=variant)
        assert omega < 1e-28
        assert np.abs(gradients.W).max() < 1e-13


@every_variant
@every_nonlinearity
def test_without_a_batch_axis_and_in_parts(variant, nonlinearity):
    grad_h, h, W = run(nonlinearity=nonlinearity)
    options = {"variant": variant, "nonlinearity": nonlinearity}
    omega, gradients = regularizer(grad_h, h, W, **options)
    parts = [regularizer(grad_h[:, i], h[:, i], W, **options) for i in range(3)]
    counts = np.array([(np.abs(grad_h[:, i]).max(axis=1) > 0).sum() for i in range(3)])
    weights = np.ones(3) if variant == "book" else counts / counts.sum()
    np.testing.assert_allclose(sum(w * o for w, (o, _) in zip(weights, parts, strict=True)), omega, rtol=1e-12)
    np.testing.assert_allclose(sum(w * g.W for w, (_, g) in zip(weights, parts, strict=True)), gradients.W, atol=1e-12)
    for i, (_, g) in enumerate(parts):
        np.testing.assert_allclose(weights[i] * g.h, gradients.h[:, i], atol=1e-12)


def test_gradients_serve_training():
    """A step against gradients.W, and one more against what backward makes of gradients.h, bring Omega down."""
    grad_h, h, W = run(T=10, seed=3)
    x = np.random.default_rng(3).standard_normal((2, 10, 3, 5))[0]  # as in run, but for W before it
    h = pyrnn.forward(x, np.eye(5), W)

    def omega(W):
        return regularizer(grad_h, pyrnn.forward(x, np.eye(5), W), W)[0]

    start, gradients = regularizer(grad_h, h, W)
    through_h = pyrnn.backward(gradients.h, h, x, np.eye(5), W).W
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((5, 5))
    expected = (omega(W + 1e-6 * direction) - omega(W - 1e-6 * direction)) / 2e-6
    # all but what flows through grad_h, which is a constant here
    np.testing.assert_allclose(((gradients.W + through_h) * direction).sum(), expected, rtol=1e-6)
    assert omega(W - 1e-3 * (gradients.W + through_h)) < start


# ---- Zeros, sizes, dtypes -------------------------------------------------------------------------------------------
@every_variant
def test_steps_without_a_gradient_do_not_count(variant):
    """Nor what stands in h there, behind the end of a sequence for instance."""
    grad_h, h, W = run(seed=1)
    grad_h[3, 1], grad_h[5], h[5] = 0, 0, np.nan
    omega, gradients = regularizer(grad_h, h, W, variant=variant)
    kept = np.abs(grad_h).max(axis=2) > 0
    same, of_kept = regularizer(grad_h[kept], h[kept], W, variant=variant)
    np.testing.assert_allclose(omega, same, rtol=1e-13)
    np.testing.assert_allclose(gradients.W, of_kept.W, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(gradients.h[~kept], 0)
    assert np.isfinite(gradients.h).all()


@every_variant
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0), (0, 4), (3, 4)])
def test_nothing_that_counts(variant, shape, dtype):
    zeros = np.zeros(shape, dtype)
    omega, gradients = regularizer(zeros, zeros, np.ones((shape[-1],) * 2, dtype), variant=variant)
    assert omega == 0
    np.testing.assert_array_equal(gradients.h, zeros)
    np.testing.assert_array_equal(gradients.W, 0)
    assert gradients.h.dtype == gradients.W.dtype == dtype


@every_variant
def test_nothing_is_handed_on(variant):
    """W of zeros, and relus that are all off: Omega counts the steps, and no gradient is NaN."""
    grad_h = np.ones((4, 2, 3))
    for h, W, nonlinearity in (
        (np.zeros((4, 2, 3)), np.zeros((3, 3)), "tanh"),
        (np.ones((4, 2, 3)), np.ones((3, 3)), "tanh"),
        (np.zeros((4, 2, 3)), np.ones((3, 3)), "relu"),
    ):
        omega, gradients = regularizer(grad_h, h, W, variant=variant, nonlinearity=nonlinearity)
        assert omega == (8 if variant == "book" else 1)
        np.testing.assert_array_equal(gradients.W, 0)
        np.testing.assert_array_equal(gradients.h, 0)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 1e37])
def test_the_scale_of_float32_gradients_does_not_matter(scale):
    grad_h, h, W = run(dtype=np.float32)
    grad_h = grad_h / np.abs(grad_h).max()
    scaled = (grad_h.astype(np.float64) * scale).astype(np.float32)
    omega, gradients = regularizer(scaled, h, W)
    kept = scaled.astype(np.float64) / scale  # with the rounding of subnormal numbers
    expected, exact = regularizer(kept, h.astype(float), W.astype(float))
    np.testing.assert_allclose(omega, expected, rtol=1e-5)
    np.testing.assert_allclose(gradients.W, exact.W, rtol=0, atol=1e-5 * np.abs(exact.W).max())
    published = regularizer(scaled, h, W, variant="published")[0]
    assert (published == 0) == (scale < 1e-12)  # below the bound no step counts


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e306])
def test_the_scale_of_float64_gradients_does_not_matter(scale):
    grad_h = np.random.default_rng(0).integers(1, 100, (4, 3, 5)) * scale
    _, h, W = run(T=4)
    omega, gradients = regularizer(grad_h, h, W)
    expected, exact = regularizer(np.round(grad_h / scale), h, W)
    np.testing.assert_allclose(omega, expected, rtol=1e-3 if scale < 1e-300 else 1e-12)
    np.testing.assert_allclose(gradients.W, exact.W, rtol=0, atol=1e-3 if scale < 1e-300 else 1e-12)


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e30])
def test_a_small_or_large_W_in_float32(size):
    """Squares of what is handed on leave float32, the derivative of the norm stays."""
    W = np.array([[size]], np.float32)
    one = np.ones((1, 1), np.float32)
    omega, gradients = regularizer(one, 0 * one, W)
    np.testing.assert_allclose(omega, (float(W[0, 0]) - 1) ** 2, rtol=1e-6)
    np.testing.assert_allclose(gradients.W, 2 * (W - 1), rtol=1e-6)


@every_variant
def test_float32(variant):
    grad_h, h, W = run(T=20, B=8, H=32, dtype=np.float32)
    omega, gradients = regularizer(grad_h, h, W, variant=variant)
    expected, exact = regularizer(*(a.astype(float) for a in (grad_h, h, W)), variant=variant)
    assert isinstance(omega, np.float64)
    np.testing.assert_allclose(omega, expected, rtol=1e-5)
    for a, e in zip(gradients[:2], exact[:2], strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-5 * np.abs(e).max())


@every_variant
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_pass_through(variant, bad):
    for place in range(3):
        arguments = [a.copy() for a in run()]
        arguments[place].flat[7] = bad
        omega, gradients = regularizer(*arguments, variant=variant)
        assert not np.isfinite(omega)
        assert not np.isfinite(gradients.W).all()


@every_variant
def test_layouts(layout, variant):
    arguments = run()
    before = [a.tobytes() for a in arguments]
    expected = regularizer(*arguments, variant=variant)
    actual = regularizer(*(layout(a) for a in arguments), variant=variant)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-14)
    for a, e in zip(actual[1][:2], expected[1][:2], strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-14)
    assert [a.tobytes() for a in arguments] == before


def test_reversed_sequences():
    """Steps are taken one by one: their order in time does not matter."""
    rng = np.random.default_rng(0)
    x, dh = rng.standard_normal((2, 6, 3, 5))
    W, lengths = 0.4 * rng.standard_normal((5, 5)), np.array([6, 2, 0])
    results = []
    for reverse in (False, True):
        turned = [x, dh]
        if reverse:
            turned = [np.zeros_like(a) for a in turned]
            for a, t in zip((x, dh), turned, strict=True):
                for i, n in enumerate(lengths):
                    t[:n, i] = a[:n, i][::-1]
        options = {"lengths": lengths, "reverse": reverse}
        run = pyrnn.simulate(pyrnn.Network(np.eye(5), W), turned[0], **options)
        results.append(pyrnn.training.vanishing_regularizer(run, run.state_gradients(turned[1])))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-13)
    np.testing.assert_allclose(results[0][1].W, results[1][1].W, rtol=0, atol=1e-13)


@every_variant
@every_nonlinearity
def test_chunks(variant, nonlinearity, monkeypatch):
    """Some of which have steps that do not count, or none that counts, and the last one of another length."""
    grad_h, h, W = run(T=31, B=3, nonlinearity=nonlinearity)
    grad_h[3:6], grad_h[12:25], h[12:25] = 0, 0, np.nan
    grad_h[7, 1] = 0
    options = {"variant": variant, "nonlinearity": nonlinearity}
    omega, gradients = regularizer(grad_h, h, W, **options)
    monkeypatch.setattr(pyrnn.training.regularizer, "CHUNK", 1)  # 16 rows
    same, in_chunks = regularizer(grad_h, h, W, **options)
    np.testing.assert_allclose(same, omega, rtol=1e-13)
    np.testing.assert_allclose(in_chunks.W, gradients.W, rtol=0, atol=1e-13)
    np.testing.assert_allclose(in_chunks.h, gradients.h, rtol=0, atol=1e-15)
    assert np.isfinite(gradients.h).all()


@every_variant
def test_steps_that_exist(variant):
    """Of sequences with holes."""
    rng = np.random.default_rng(0)
    x, dh = rng.standard_normal((2, 6, 3, 5))
    W, mask = 0.4 * rng.standard_normal((5, 5)), rng.random((6, 3)) < 0.6
    run = pyrnn.simulate(pyrnn.Network(np.eye(5), W), x, mask=mask)
    grad_h = run.state_gradients(dh)
    expected, of_existing = regularizer(grad_h[mask], run.h[mask], W, variant=variant)
    omega, gradients = pyrnn.training.vanishing_regularizer(run, grad_h, variant=variant)
    np.testing.assert_allclose(omega, expected, rtol=1e-12)
    np.testing.assert_allclose(gradients.W, of_existing.W, rtol=0, atol=1e-13)
    np.testing.assert_allclose(gradients.h[mask], of_existing.h, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(gradients.h[~mask], 0)


# ---- Every form of the cell -----------------------------------------------------------------------------------------
LEAKS = {
    "plain": {},
    "rate": {"alpha": 0.4},
    "rate by unit": {"alpha": np.array([0.1, 0.9, 1.0, 0.5, 0.25])},
    "current": {"alpha": 0.4, "form": "current"},
    "current by unit": {"alpha": np.array([0.1, 0.9, 1.0, 0.5, 0.25]), "form": "current"},
}
STEPS = {
    "all": {},
    "reverse": {"reverse": True},
    "lengths": {"lengths": np.array([6, 2, 0])},
    "lengths reverse": {"lengths": np.array([6, 2, 4]), "reverse": True},
    "mask": {"mask": np.random.default_rng(0).random((6, 3)) < 0.6},
    "mask reverse": {"mask": np.random.default_rng(0).random((6, 3)) < 0.6, "reverse": True},
}


@pytest.fixture(params=[(phi, leak) for phi in ("tanh", "relu", "identity") for leak in LEAKS], ids="-".join)
def simulated(request):
    """A network of each form, its input, h0 and dh."""
    phi, leak = request.param
    rng = np.random.default_rng(1)
    W, U, b = rng.standard_normal((5, 5)) / 5**0.5, rng.standard_normal((5, 4)), rng.standard_normal(5)
    x, dh = rng.standard_normal((6, 3, 4)), rng.standard_normal((6, 3, 5))
    network = pyrnn.Network(U, W, b, cell=pyrnn.Cell(phi, **LEAKS[leak]))
    return network, x, rng.standard_normal((3, 5)), dh


@every_variant
@pytest.mark.parametrize("steps", STEPS)
def test_every_form_by_the_definition(simulated, variant, steps):
    """With the Jacobian of each step that exists."""
    network, x, h0, dh = simulated
    run = pyrnn.simulate(network, x, h0, **STEPS[steps])
    grad_h = run.state_gradients(dh)
    exists = STEPS[steps].get("mask", np.ones((6, 3), bool))
    if "lengths" in STEPS[steps]:
        exists = np.arange(6)[:, np.newaxis] < STEPS[steps]["lengths"]
    g, J = grad_h[exists], run.jacobian()[exists]
    r = np.linalg.norm(np.einsum("ni,nij->nj", g, J), axis=1) / np.linalg.norm(g, axis=1)
    expected = ((r - 1) ** 2).sum() if variant == "book" else ((r**2 - 1) ** 2).mean()
    omega, _ = pyrnn.training.vanishing_regularizer(run, grad_h, variant=variant)
    np.testing.assert_allclose(omega, expected, rtol=1e-12)


@every_variant
@pytest.mark.parametrize("steps", STEPS)
def test_gradients_of_every_form_by_differences(simulated, variant, steps):
    """Of what made the states too: what is with respect to states and rates goes through `Trajectory.backward`."""
    network, x, h0, dh = simulated
    run = pyrnn.simulate(network, x, h0, **STEPS[steps])
    grad_h = run.state_gradients(dh)
    _, gradients = pyrnn.training.vanishing_regularizer(run, grad_h, variant=variant)
    leaky_rates = network.cell.alpha is not None and not network.cell.current
    assert (gradients.rates is None) != leaky_rates
    through = run.backward(gradients.h, gradients.rates)
    rng = np.random.default_rng(2)
    moves = {"x": rng.standard_normal(x.shape)} | {a: rng.standard_normal(getattr(network, a).shape) for a in "UWb"}

    def omega(name, step):
        moved = step * moves[name]
        net = network if name == "x" else network._replace(**{name: getattr(network, name) + moved})
        at = pyrnn.simulate(net, x + moved if name == "x" else x, h0, **STEPS[steps])
        return pyrnn.training.vanishing_regularizer(at, grad_h, variant=variant)[0]

    for name, move in moves.items():
        expected = (omega(name, 1e-6) - omega(name, -1e-6)) / 2e-6
        total = getattr(through, name) + (gradients.W if name == "W" else 0)
        np.testing.assert_allclose((total * move).sum(), expected, rtol=1e-6, atol=1e-7)


def test_dtypes_of_every_form(simulated):
    network, x, h0, dh = simulated
    network = network._replace(**{name: getattr(network, name).astype(np.float32) for name in "UWb"})
    single = pyrnn.simulate(network, x.astype(np.float32), h0.astype(np.float32))
    grad_h = single.state_gradients(dh.astype(np.float32))
    omega, gradients = pyrnn.training.vanishing_regularizer(single, grad_h)
    double = pyrnn.Trajectory.of(network, single.h.astype(float), single.x, single.h0, rates=single.written_rates)
    expected, exact = pyrnn.training.vanishing_regularizer(double, grad_h)
    np.testing.assert_allclose(omega, expected, rtol=1e-5)
    for a, e in zip(gradients, exact, strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, e, rtol=0, atol=1e-5 * np.abs(e).max())


# ---- Bad arguments --------------------------------------------------------------------------------------------------
GOOD = {"grad_h": np.ones((4, 2, 3)), "h": np.zeros((4, 2, 3)), "W": np.ones((3, 3))}


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"variant": "paper"}, ValueError, "variant must be one of 'book', 'published', got 'paper'"),
        ({"variant": None}, ValueError, "variant must be one of 'book', 'published', got None"),
        ({"grad_h": None}, TypeError, "grad_h must be an array of numbers, got None"),
        ({"grad_h": np.ones((4, 2, 3), complex)}, TypeError, "grad_h must be real numbers .* complex128"),
        ({"grad_h": np.ones((4, 3))}, ValueError, r"grad_h must have shape \(4, 2, 3\) to match h .*, got \(4, 3\)"),
    ],
)
def test_bad_arguments(bad, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        regularizer(**GOOD | bad)


def test_a_run_is_needed():
    with pytest.raises(TypeError, match=r"^run must be a pyrnn.Trajectory, as simulate returns it, got ndarray$"):
        pyrnn.training.vanishing_regularizer(np.zeros((4, 3)), np.zeros((4, 3)))
