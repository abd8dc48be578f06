"""`pyrnn.training.lbfgs` on functions whose minima are known, beside SciPy's L-BFGS-B, and as a method of SciPy's."""

import numpy as np
import pytest
import scipy.optimize
from helpers import for_each

import pyrnn
from pyrnn._core import table
from pyrnn._core.optimizers import Pairs, inner
from pyrnn.training import lbfgs

pytestmark = [pytest.mark.plain_c, pytest.mark.compiled]

rosen, rosen_der = scipy.optimize.rosen, scipy.optimize.rosen_der


def quadratic(n, condition=100.0, seed=0):
    """½ (x - a)ᵀ A (x - a), its gradient, and a."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    A, a = (Q * np.geomspace(1, condition, n)) @ Q.T, rng.standard_normal(n)
    return lambda x: (0.5 * (x - a) @ A @ (x - a), A @ (x - a)), a


@for_each("n", [1, 2, 5, 30, 100])
def test_quadratics(n):
    fun, least = quadratic(n)
    found = lbfgs(fun, np.zeros(n), ftol=0, gtol=1e-9)
    assert (found.success, found.status) == (True, 0)
    np.testing.assert_allclose(found.x, least, atol=1e-8)
    np.testing.assert_array_equal(found.jac, fun(found.x)[1])
    assert found.fun == fun(found.x)[0]
    assert found.nfev == found.njev >= found.nit > 0


@for_each("n", [2, 10, 50])
@for_each("start", [-1.2, 0.0, 3.0])
def test_rosenbrock_in_as_few_calls_as_scipy(n, start):
    options = {"ftol": 1e-14, "gtol": 1e-8}
    found = lbfgs(rosen, np.full(n, start), jac=rosen_der, **options)
    other = scipy.optimize.minimize(rosen, np.full(n, start), jac=rosen_der, method="L-BFGS-B", options=options)
    assert found.success
    assert min(found.fun, abs(found.fun - other.fun)) < 1e-9  # of large n there is a second minimum
    assert found.nfev < 1.5 * other.nfev + 20


def test_a_loss():
    """Of a network, from the start that the objective has."""
    x = np.sin(np.arange(40.0))[:, None]
    objective = pyrnn.training.Objective(pyrnn.initialize(1, 4, 1, rng=0), x[:-1], x[1:], loss="squared_error")
    found = lbfgs(objective.fun, objective.first, jac=objective.jac, maxiter=300)
    other = scipy.optimize.minimize(objective.fun, objective.first, jac=objective.jac, method="L-BFGS-B")
    assert found.fun < max(2 * other.fun, 1e-2)


def test_as_a_method_of_scipy():
    """The same result, with its options, its args and both kinds of jac."""
    fun, _ = quadratic(6)
    expected = lbfgs(fun, np.ones(6), maxiter=7, maxcor=3)
    options = {"maxiter": 7, "maxcor": 3}
    for arguments in ({"fun": fun, "jac": True}, {"fun": lambda x: fun(x)[0], "jac": lambda x: fun(x)[1]}):
        found = scipy.optimize.minimize(x0=np.ones(6), method=lbfgs, options=options, **arguments)
        np.testing.assert_array_equal(found.x, expected.x)
        assert found.nit == expected.nit
    found = scipy.optimize.minimize(
        lambda x, a: ((x - a) @ (x - a), 2 * (x - a)), [0.0], (3.0,), jac=True, method=lbfgs
    )
    np.testing.assert_allclose(found.x, 3)


def test_endings():
    fun, least = quadratic(10, 1e4)
    few = lbfgs(fun, np.zeros(10), maxiter=3)
    assert (few.status, few.success, few.nit) == (1, False, 3)
    assert lbfgs(fun, np.zeros(10), maxiter=0).nfev == 1
    there = lbfgs(fun, least)
    assert (there.status, there.nit, there.nfev) == (0, 0, 1)
    loose = lbfgs(fun, np.zeros(10), ftol=1e-2)
    assert loose.nit < lbfgs(fun, np.zeros(10)).nit
    turned = lbfgs(lambda x: (x @ x, -2 * x), np.ones(3))  # a gradient of the wrong sign
    assert (turned.status, turned.success) == (2, False)
    np.testing.assert_array_equal(turned.x, 1)
    for bad in (np.nan, np.inf):
        found = lbfgs(lambda x, bad=bad: (bad, x), np.ones(3))
        assert (found.status, found.success, found.nit) == (2, False, 0)
    empty = lbfgs(lambda x: (1.0, x), np.zeros(0))
    assert (empty.success, empty.x.shape) == (True, (0,))


def test_values_that_are_not_finite():
    """A line search that steps out of the domain comes back."""
    with np.errstate(all="ignore"):
        found = lbfgs(lambda x: (float(x[0] - np.log(x[0])), 1 - 1 / x), np.array([1e-3]), gtol=1e-8, ftol=0)
    np.testing.assert_allclose(found.x, 1, rtol=1e-7)
    found = lbfgs(lambda x: (np.inf, np.full(1, np.nan)) if x[0] > 2 else ((x[0] - 1.9) ** 2, 2 * (x - 1.9)), [-5.0])
    np.testing.assert_allclose(found.x, 1.9, rtol=1e-5)


def test_linear_and_unbounded():
    """It ends, and the value has fallen."""
    found = lbfgs(lambda x: (-float(x.sum()), -np.ones(2)), np.zeros(2), maxiter=5)
    assert found.fun < -1e3


def test_callback():
    fun, _ = quadratic(5)
    points, results = [], []
    found = lbfgs(fun, np.zeros(5), callback=points.append)
    assert len(points) == found.nit
    np.testing.assert_array_equal(points[-1], found.x)
    assert len({id(point) for point in points}) == len(points)

    def stop(intermediate_result):
        results.append(intermediate_result.fun)
        if len(results) == 2:
            raise StopIteration

    found = lbfgs(fun, np.zeros(5), callback=stop)
    assert (found.nit, found.status, found.success) == (2, 99, False)
    assert results[1] == found.fun < results[0]


def test_what_is_given_is_not_changed():
    """Neither x0, nor what the function has kept or does to its argument."""
    start = np.ones(4)

    def spoil(x):
        result = x @ x, 2 * x
        x[:] = np.nan
        return result

    np.testing.assert_allclose(lbfgs(spoil, start).x, 0, atol=1e-5)
    np.testing.assert_array_equal(start, 1)
    kept = np.empty(4)

    def reuse(x):
        np.multiply(x, 2, out=kept)
        return x @ x, kept

    np.testing.assert_allclose(lbfgs(reuse, start.astype(np.float32)).x, 0, atol=1e-5)


def test_the_same_bits_on_every_instruction_set():
    before, results = table.selected(), []
    try:
        for name in table.available():
            table.select(name)
            results.append(lbfgs(lambda x: (float((x**4).sum()), 4 * x**3), np.arange(37.0)).x.tobytes())
    finally:
        table.select(before)
    assert all(result == results[0] for result in results)


@for_each(("n", "m", "count"), [(1, 1, 1), (7, 3, 2), (7, 3, 3), (20, 4, 9), (1000, 10, 12)])
def test_the_direction(n, m, count):
    """Against the matrix H that the pairs make, by the formula of BFGS."""
    rng = np.random.default_rng(1)
    pairs, kept = Pairs(m, n), []
    for _ in range(count):
        s = rng.standard_normal(n)
        y = s * rng.uniform(0.5, 2, n)
        assert pairs.add(s, y)
        kept.append((s, y))
    assert len(pairs) == min(m, count)
    g, last = rng.standard_normal(n), kept[-m:]
    s, y = last[-1]
    H = np.eye(n) * (s @ y) / (y @ y)
    for s, y in last:
        V = np.eye(n) - np.outer(y, s) / (s @ y)
        H = V.T @ H @ V + np.outer(s, s) / (s @ y)
    np.testing.assert_allclose(pairs.direction(g), -H @ g, rtol=1e-9, atol=1e-10 * np.abs(H @ g).max())
    assert not pairs.add(s, -y)
    pairs.clear()
    np.testing.assert_array_equal(pairs.direction(g), -g)


@for_each("n", [0, 1, 15, 16, 17, 1023, 1024, 1025, 5000])
def test_sums_of_products(n):
    a, b = np.random.default_rng(n).standard_normal((2, n))
    np.testing.assert_allclose(inner(a, b), a @ b, rtol=1e-13, atol=1e-14 * n)
    assert inner(np.ones(n), np.ones(n)) == n


@for_each(
    ("given", "error", "message"),
    [
        ({"fun": 3}, TypeError, "fun must be callable, got 3"),
        ({"jac": False}, TypeError, "jac must be callable, or True if fun returns the gradient too, got False"),
        ({"jac": None}, TypeError, "jac must be callable"),
        ({"x0": np.ones((2, 2))}, ValueError, r"x0 must have shape \(n,\), got \(2, 2\)"),
        ({"x0": None}, TypeError, "x0 must be an array of numbers, got None"),
        ({"bounds": [(0, 1)]}, ValueError, "lbfgs does not take bounds, got "),
        ({"constraints": ({},)}, ValueError, "lbfgs does not take constraints, got "),
        ({"tolerance": 1}, ValueError, "lbfgs does not take tolerance, got 1"),
        ({"callback": 1}, TypeError, "callback must be callable or None, got 1"),
        ({"maxiter": -1}, ValueError, "maxiter must be an integer from 0, got -1"),
        ({"maxcor": 0}, ValueError, "maxcor must be a positive integer, got 0"),
        ({"ftol": -1}, ValueError, "ftol must be a finite number and not negative, got -1"),
        ({"gtol": "a"}, TypeError, "gtol must be a number, got 'a'"),
        ({"fun": lambda x: (1.0, np.ones(3))}, ValueError, r"the gradient must have shape \(2,\), got \(3,\)"),
    ],
)
def test_errors(given, error, message):
    with pytest.raises(error, match=f"^{message}"):
        lbfgs(**{"fun": lambda x: (x @ x, 2 * x), "x0": np.ones(2)} | given)
