"""float64 gradients against 50 digits; docs/bptt.md, section 13, says what to expect and why.

The exact values come from the equations, written here once more in mpmath, one sequence after the other.
"""

import itertools

import mpmath
import numpy as np
import pytest
from helpers import InEngine

pytestmark = pytest.mark.plain_c

ROUNDOFF = 2.0**-53
WHOLE = 1e-13  # of the largest entry of an array; the greatest error seen, over ten seeds, is 9e-15
EXACT = 1e-14  # what the arithmetic alone may do, a few roundoffs an operation; seen: 2e-15
H, I = 6, 3
SIZES = [(1, 1), (7, 2), (40, 1)]  # T, B


@pytest.fixture(autouse=True)
def fifty_digits():
    with mpmath.workdps(50):
        yield


def exact(a):
    """An array of mpmath numbers with the values of a."""
    return np.frompyfunc(lambda v: mpmath.mpf(float(v)), 1, 1)(a)


def exact_forward(x, U, W, b, h0):
    x, U, W, b, h0 = map(exact, (x, U, W, b, h0))
    tanh = np.frompyfunc(mpmath.tanh, 1, 1)
    a = np.empty((len(x), *h0.shape), object)
    h_previous = h0
    for t in range(len(x)):
        for n in range(len(h0)):
            a[t, n] = b + U.dot(x[t, n]) + W.dot(h_previous[n])
        h_previous = tanh(a[t])
    return a, tanh(a)


def exact_backward(dh, h, x, U, W, h0):
    """The gradients, and grad_h; h is taken as it is, rounded or not."""
    dh, x, U, W, h0 = map(exact, (dh, x, U, W, h0))
    T, B, _ = h.shape
    d = {"x": x * 0, "U": U * 0, "W": W * 0, "b": U[:, 0] * 0, "h0": h0 * 0}
    grad_h = dh.copy()
    for n in range(B):
        for t in reversed(range(T)):
            delta = (1 - h[t, n] * h[t, n]) * grad_h[t, n]
            d["x"][t, n] = U.T.dot(delta)
            d["U"] += np.outer(delta, x[t, n])
            d["W"] += np.outer(delta, h[t - 1, n] if t else h0[n])
            d["b"] += delta
            if t:
                grad_h[t - 1, n] += W.T.dot(delta)
            else:
                d["h0"][n] = W.T.dot(delta)
    return d, grad_h


def network(T, B, greatest, seed):
    """A network whose unit i has |a| of about i / (H - 1) of `greatest`, the greatest of all within 10 %, and dh."""
    rng = np.random.default_rng(seed)
    U, W = rng.normal(size=(H, I)), rng.normal(size=(H, H))
    inputs = {
        "x": rng.uniform(-1, 1, (T, B, I)),
        "U": 0.5 * U / np.abs(U).sum(axis=1, keepdims=True),
        "W": 1.2 * W / np.abs(W).sum(axis=1, keepdims=True),
        "b": rng.choice([-1.0, 1.0], H) * np.arange(H) / (H - 1) * (greatest - 1),
        "h0": rng.uniform(-1, 1, (B, H)),
    }
    for _ in range(5):
        scale = 0.95 * greatest / float(np.abs(exact_forward(**inputs)[0]).max())
        inputs |= {name: inputs[name] * scale for name in "UWb"}
    return inputs, rng.normal(size=(T, B, H))


@pytest.fixture(params=itertools.product(["blas", "fused"], range(3)), ids="{0[0]}-seed{0[1]}".format)
def solve(request):
    """A function of T, B and greatest: pyrnn's and the exact states and gradients of one network."""

    engine, seed = request.param

    def solve(T, B, greatest):
        inputs, dh = network(T, B, greatest, seed)
        a, h_exact = exact_forward(**inputs)
        assert 0.9 * greatest < np.abs(a).max() <= greatest
        h = InEngine(engine).forward(**inputs)
        del inputs["b"]
        gradients = InEngine(engine).backward(dh, h, **inputs)
        return inputs, dh, h, gradients, a, h_exact, exact_backward(dh, h_exact, **inputs)

    return solve


def error(ours, truth):
    """The greatest error of an element over the greatest element."""
    return float(np.abs(exact(ours) - truth).max() / np.abs(truth).max())


def unit_errors(ours, truth):
    """The same for each unit: row i of dU, dW and db taken together."""
    ours = np.column_stack([ours.U, ours.W, ours.b])
    truth = np.column_stack([truth["U"], truth["W"], truth["b"]])
    return [error(ours[i], truth[i]) for i in range(H)]


@pytest.mark.parametrize(("T", "B"), SIZES)
def test_moderate_pre_activations(solve, T, B):
    _, _, h, gradients, _, h_exact, (truth, _) = solve(T, B, 2)
    assert error(h, h_exact) <= 1e-15
    errors = {name: error(getattr(gradients, name), truth[name]) for name in truth}
    assert all(e <= WHOLE for e in errors.values()), errors
    assert all(e <= EXACT for e in unit_errors(gradients, truth))


@pytest.mark.parametrize("greatest", [5, 10, 15])
@pytest.mark.parametrize(("T", "B"), SIZES)
def test_a_saturated_network_as_a_whole(solve, T, B, greatest):
    # A slope's absolute error is about the roundoff however small it is, so the gradient as a whole keeps its accuracy.
    _, _, _, gradients, _, _, (truth, _) = solve(T, B, greatest)
    errors = {name: error(getattr(gradients, name), truth[name]) for name in truth}
    assert all(e <= WHOLE for e in errors.values()), errors


@pytest.mark.parametrize("greatest", [5, 10, 15])
@pytest.mark.parametrize(("T", "B"), SIZES)
def test_backward_loses_nothing_beyond_the_rounding_of_h(solve, T, B, greatest):
    # Taken from the same stored h in 50 digits, the gradients of every unit agree, the most saturated one included.
    inputs, dh, h, gradients, _, _, _ = solve(T, B, greatest)
    truth, _ = exact_backward(dh, exact(h), **inputs)
    assert all(e <= EXACT for e in unit_errors(gradients, truth))


@pytest.mark.parametrize("greatest", [5, 10, 15])
@pytest.mark.parametrize(("T", "B"), SIZES)
def test_the_rounding_of_h_bounds_the_error_of_a_saturated_unit(solve, T, B, greatest):
    # h in [½, 1) is off by at most 1.4 units in the last place (tests/test_tanh.py), each one roundoff u, so
    # the slope 1 - h² is off by at most |2h| 1.4 u < 2.8 u, and delta_i = (1 - h_i²) grad_h_i by 2.8 u |grad_h_i| on
    # top of the relative errors of grad_h and of the arithmetic, for which EXACT stands. Errors in a are multiplied by
    # the slope before they reach h: they belong to the second kind. Summed over time and batch:
    #     |error of dU_ij| <= Σ_t (2.8 u + EXACT (1 - h_ti²)) |grad_h_ti| |x_tj|
    # and with h_{t-1,j} or 1 instead of x_tj for dW and db.
    inputs, _, _, gradients, a, h, (truth, grad_h) = solve(T, B, greatest)
    allowed = (2.8 * ROUNDOFF + EXACT * (1 - h * h)) * np.abs(grad_h)
    h_previous = np.concatenate([exact(inputs["h0"])[np.newaxis], h[:-1]])
    factors = {"U": exact(inputs["x"]), "W": h_previous, "b": np.ones((T, B, 1))}
    for name, factor in factors.items():
        bound = np.abs(allowed[..., np.newaxis] * factor[..., np.newaxis, :]).sum(axis=(0, 1))
        ours = exact(getattr(gradients, name)).reshape(H, -1)
        assert (np.abs(ours - truth[name].reshape(H, -1)) <= bound).all(), name
    # The loss is real, and has the size of the table in section 13: u e^(2|a|) / 4, |a| that of the worst unit.
    ratio = max(unit_errors(gradients, truth)) / (ROUNDOFF * np.exp(2 * float(np.abs(a).max())) / 4)
    assert 0.01 < ratio < 5
