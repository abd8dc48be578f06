"""find_fixed_points against roots by mpmath, linear algebra, enumeration, SciPy's minimisers, and Adam in PyTorch."""

import itertools
import sys

import mpmath
import numpy as np
import pytest
from helpers import central_differences, complex_step, stops_early
from scipy.linalg import hadamard
from scipy.optimize import minimize, minimize_scalar

import pyrnn
from pyrnn import _cell, _descent, _progress, reference
from pyrnn.fixed_points import _divided

pytestmark = [pytest.mark.compiled, pytest.mark.peer]

FORMS = {
    "plain": {},
    "rate": {"alpha": 0.3},
    "rate by unit": {"alpha": np.array([0.1, 0.9, 1.0, 0.4, 0.5, 0.25])},
    "current": {"alpha": 0.3, "form": "current"},
    "current by unit": {"alpha": np.array([0.1, 0.9, 1.0, 0.4, 0.5, 0.25]), "form": "current"},
}
NONLINEARITIES = ("tanh", "relu", "identity")


@pytest.fixture(params=itertools.product(NONLINEARITIES, FORMS), ids="-".join)
def form(request):
    nonlinearity, leak = request.param
    return {"nonlinearity": nonlinearity} | FORMS[leak]


def network(H=6, I=2, gain=1.0, seed=0):
    rng = np.random.default_rng(seed)
    U, W, b = rng.standard_normal((H, I)), gain * rng.standard_normal((H, H)) / max(H, 1) ** 0.5, rng.standard_normal(H)
    return U, W, 0.3 * b, None, None


def symmetric(H, gain=1.6, seed=0):
    """Weights with many fixed points."""
    W = np.random.default_rng(seed).standard_normal((H, H))
    return gain * (W + W.T) / (2 * H) ** 0.5


def starts_for(H, n=200, seed=1, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal((n, H))


def step(h, params, x, **form):
    """F of rows h, by the reference; complex numbers go through."""
    U, W, b, *_ = params
    U, W, b, x = (np.asarray(a) + 0 * h.flat[0] for a in (U, W, np.zeros(len(W)) if b is None else b, x))
    return reference.forward(np.broadcast_to(x, (1, len(h), len(x))), U, W, b, h, **form)[0]


def q_of(h, params, x, **form):
    return 0.5 * ((step(h, params, x, **form) - h) ** 2).sum(axis=-1)


def jacobian_by_complex_step(h, params, x, **form):
    H = len(h)
    moved = h + 1e-30j * np.eye(H)
    return step(moved, params, x, **form).imag.T / 1e-30


def same_set(actual, expected, tolerance):
    """Assert that the rows are the same in any order."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    distances = np.abs(actual[:, np.newaxis] - expected).max(axis=2)
    assert (distances.min(axis=0) <= tolerance).all()
    assert (distances.min(axis=1) <= tolerance).all()


# ---- Points that are known ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("w", [0.5, 1.001, 1.5, 3.0, 12.0])
def test_one_unit(w, dtype):
    w, starts = dtype(w), np.linspace(-2, 2, 400, dtype=dtype)[:, np.newaxis]
    points = pyrnn.find_fixed_points((np.zeros((1, 1), dtype), w.reshape(1, 1), None), starts=starts)
    expected = [0.0]
    if w > 1:
        with mpmath.workdps(40):
            root = float(mpmath.findroot(lambda h: mpmath.tanh(float(w) * h) - h, (1e-3, 1), solver="anderson"))
        expected = [-root, 0.0, root]
    assert points.h.dtype == dtype
    assert not points.slow.any()
    np.testing.assert_allclose(np.sort(points.h.ravel()), expected, rtol=0, atol=1e-13 if dtype == np.float64 else 1e-7)
    slopes = float(w) * (1 - np.array(expected) ** 2)
    np.testing.assert_allclose(np.sort(points.eigenvalues.ravel()), np.sort(slopes), rtol=0, atol=1e-6)
    kinds = np.where((abs(points.h.ravel()) < 1e-9) & (w > 1), "unstable", "stable")
    assert (points.stability == kinds).all()
    assert (points.origin >= 0).all()
    assert points.counts.sum() == 400


@pytest.mark.parametrize("leak", FORMS)
@pytest.mark.parametrize("H", [1, 2, 6, 40])
def test_linear_network_has_one_point(leak, H, dtype):
    options = {name: a[np.arange(H) % 6] if np.ndim(a) else a for name, a in FORMS[leak].items()}
    params = [None if a is None else a.astype(dtype) for a in network(H, gain=0.4)]
    U, W, b, *_ = (None if a is None else a.astype(np.float64) for a in params)
    x = np.array([0.5, -1.0], dtype)
    points = pyrnn.find_fixed_points(
        params, x, starts=starts_for(H, 20).astype(dtype), nonlinearity="identity", **options
    )
    assert len(points) == 1
    expected = np.linalg.solve(np.eye(H) - W, U @ x + b)
    np.testing.assert_allclose(points.h[0], expected, atol=1e-12 if dtype == np.float64 else 1e-5)
    assert points.counts[0] == 20
    alpha = np.broadcast_to(options.get("alpha", 1.0), H)[:, np.newaxis]
    np.testing.assert_allclose(points.jacobian[0], (1 - alpha) * np.eye(H) + alpha * W, atol=1e-6)


@pytest.mark.parametrize("gain", [1.5, 3.0])
def test_orthogonal_patterns(gain):
    """W p = gain p for each pattern p, so that m p is a fixed point where m = tanh(gain m)."""
    patterns = hadamard(16)[[3, 5, 6]].astype(float)
    W = gain * patterns.T @ patterns / 16
    m = float(mpmath.findroot(lambda m: mpmath.tanh(gain * m) - m, (0.1, 1), solver="anderson"))
    near = np.repeat(np.concatenate([patterns, -patterns]), 20, axis=0) + 0.3 * starts_for(16, 120)
    points = pyrnn.find_fixed_points((np.zeros((16, 1)), W, None), starts=near)
    stored = points[(abs(abs(points.h) - m) < 1e-6).all(axis=1)]
    same_set(stored.h, m * np.concatenate([patterns, -patterns]), 1e-12)
    assert (stored.stability == "stable").all()
    assert stored.counts.sum() >= 100


@pytest.mark.parametrize("seed", range(8))
def test_relu_points_by_enumeration(seed):
    """A relu network is linear where the same units are active: each of 2^H sets has a point, or none."""
    H = 4
    params = U, W, b, *_ = network(H, gain=1.5, seed=seed)
    x = np.array([0.2, 0.4])
    c, expected = U @ x + b, []
    for active in itertools.product((0.0, 1.0), repeat=H):
        h = np.linalg.solve(np.eye(H) - np.diag(active) @ W, np.array(active) * c)
        if ((c + W @ h > 0) == np.array(active, bool)).all():
            expected.append(h)
    points = pyrnn.find_fixed_points(params, x, starts=starts_for(H, 1000, scale=4.0), nonlinearity="relu")
    same_set(points[~points.slow].h, np.reshape(expected, (-1, H)), 1e-9)


def test_uncoupled_units_have_all_combinations():
    points = pyrnn.find_fixed_points((np.zeros((4, 1)), 2 * np.eye(4), None), starts=starts_for(4, 3000))
    m = float(mpmath.findroot(lambda m: mpmath.tanh(2 * m) - m, (0.1, 1), solver="anderson"))
    same_set(points.h, list(itertools.product((-m, 0.0, m), repeat=4)), 1e-12)
    zeros = (abs(points.h) < 1e-9).sum(axis=1)
    assert (points.unstable == zeros).all()
    assert (points.stability == np.where(zeros == 0, "stable", np.where(zeros == 4, "unstable", "saddle"))).all()


def test_a_line_of_points_is_not_merged():
    """h = v vᵀ h for unit v: each start has its own point, vᵀ start along v."""
    v = np.array([0.6, 0.0, 0.8])
    starts = starts_for(3, 100)
    params = (np.zeros((3, 1)), np.outer(v, v), None)
    points = pyrnn.find_fixed_points(
        params, starts=starts, nonlinearity="identity", unique_tolerance=1e-9, between=False
    )
    assert len(points) == 100
    np.testing.assert_allclose(points.h[points.origin], starts @ np.outer(v, v), atol=1e-6)


def test_between_points_are_saddles():
    """From the four corners alone: the edges' middles and the centre are half-way between two of them."""
    m = float(mpmath.findroot(lambda m: mpmath.tanh(2 * m) - m, (0.1, 1), solver="anderson"))
    params, starts = (np.zeros((2, 1)), 2 * np.eye(2), None), list(itertools.product((-0.9, 0.9), repeat=2))
    corners = pyrnn.find_fixed_points(params, starts=starts, between=False)
    same_set(corners.h, list(itertools.product((-m, m), repeat=2)), 1e-12)
    points = pyrnn.find_fixed_points(params, starts=starts)
    same_set(points.h, list(itertools.product((-m, 0, m), repeat=2)), 1e-12)
    assert points.counts.tolist() == [1] * 4 + [0] * 5
    assert points.origin.shape == (4,)


# ---- Slow points ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("over", [1e-1, 1e-2, 1e-3, 1e-4])
def test_ghost_of_a_saddle_node(over):
    """h = tanh(2 h + b) loses two points where b passes arccosh(√2) - √2 from below its modulus; q keeps a minimum."""
    critical = 2 * 0.5**0.5 - np.arctanh(0.5**0.5)  # where 2 (1 - h²) = 1
    b = np.array([critical + over])
    expected = minimize_scalar(
        lambda h: (np.tanh(2 * h + b[0]) - h) ** 2, bounds=(-0.9, -0.4), method="bounded", options={"xatol": 1e-12}
    )
    points = pyrnn.find_fixed_points((np.zeros((1, 1)), [[2.0]], b), starts=np.linspace(-1, 1, 40)[:, np.newaxis])
    assert list(points.slow) == [False, True]
    np.testing.assert_allclose(points.q[1], 0.5 * expected.fun, rtol=1e-9)
    np.testing.assert_allclose(points.speed[1], np.sqrt(expected.fun), rtol=1e-9)
    np.testing.assert_allclose(points.h[1], expected.x, rtol=0, atol=1e-5)
    assert points.counts[1] > 5


def steps_to_pass(F, h, l, r, k, reach):
    """Steps of F from reach before the point h to reach behind it, along r, which l measures."""
    way, n = np.sign(k) * reach, 0
    state = h - way * r
    while l @ (state - h) * np.sign(k) < reach:
        state, n = F(state), n + 1
    return n


@pytest.mark.parametrize("over", [1e-2, 1e-3, 1e-4, 1e-5])
def test_time_to_pass_a_ghost(over):
    """It is π / √(speed F''/2), which grows as over^-½. 1 / speed grows faster, as over^-1."""
    b = 2 * 0.5**0.5 - np.arctanh(0.5**0.5) + over
    points = pyrnn.find_fixed_points((np.zeros((1, 1)), [[2.0]], [b]), starts=np.linspace(-1, 1, 40)[:, np.newaxis])
    h, speed = points.h[1], points.speed[1]
    k = -4 * np.tanh(2 * h[0] + b) * (1 - np.tanh(2 * h[0] + b) ** 2)
    expected = np.pi / np.sqrt(speed * k)
    n = steps_to_pass(lambda h: np.tanh(2 * h + b), h, np.ones(1), np.ones(1), k, 0.3)
    assert expected - 8 < n < expected  # reach is not infinite: it takes 2 / (0.3 k) steps less, about 5
    assert 1 / speed > 5 * n


@pytest.mark.parametrize("leak", [1.0, 0.5])
def test_time_to_pass_a_ghost_of_many_units(leak):
    rng, H = np.random.default_rng(5), 8
    m, n = rng.standard_normal((2, H))
    W = 0.4 * rng.standard_normal((H, H)) / H**0.5
    m *= 2.5 / np.linalg.norm(m)
    n += 2 * m
    W += np.outer(m, 2 * n / (n @ m))
    for strength in (0.545, 0.542, 0.5417):
        b = strength * m
        points = pyrnn.find_fixed_points((np.zeros((H, 1)), W, b), starts=rng.uniform(-1, 1, (50, H)), alpha=leak)
        (i,) = np.flatnonzero(points.slow)
        h, one = points.h[i], np.argmin(abs(points.eigenvalues[i] - 1))
        np.testing.assert_allclose(points.eigenvalues[i, one], 1, rtol=0, atol=1e-6)
        F = lambda h, b=b: (1 - leak) * h + leak * np.tanh(W @ h + b)
        r, moved = points.right[i, :, one].real, F(h) - h
        l = moved / (moved @ r)
        np.testing.assert_allclose(l, points.left[i, :, one].real, rtol=0, atol=1e-4)
        phi = np.tanh(W @ h + b)
        k = leak * l @ (-2 * phi * (1 - phi**2) * (W @ r) ** 2) / 2
        expected = np.pi / np.sqrt((l @ moved) * k)
        n = steps_to_pass(F, h, l, r, k, 0.5)
        assert expected - 8 / leak < n < expected
    assert expected > 350 / leak


def test_slow_points_with_a_leak():
    """One leak for all units multiplies q by alpha² everywhere; leaks by unit weigh the units, and the minima move."""
    params, starts = network(gain=2.0, seed=3), starts_for(6, 300)
    plain, one, by_unit, current = (
        pyrnn.find_fixed_points(params, np.zeros(2), starts=starts, **FORMS[leak])
        for leak in ("plain", "rate", "rate by unit", "current")
    )
    slow = plain.h[plain.slow]
    assert len(slow) == 2
    same_set(one.h[one.slow], slow, 1e-6)
    np.testing.assert_allclose(np.sort(one.q[one.slow]), 0.3**2 * np.sort(plain.q[plain.slow]), rtol=1e-9)
    for others in (by_unit.h[by_unit.slow], np.tanh(current.h[current.slow])):
        assert np.abs(others[:, np.newaxis] - slow).max(axis=2).min() > 1e-3


@pytest.mark.parametrize("leak", FORMS)
def test_slow_points_are_minima(leak):
    """BFGS, which starts there, finds nothing lower; and the gradient of q is zero."""
    params, x = network(gain=2.0, seed=3), np.zeros(2)
    points = pyrnn.find_fixed_points(params, x, starts=starts_for(6, 300), **FORMS[leak])
    slow = points[points.slow]
    for h, q in zip(slow.h, slow.q, strict=True):
        assert q == pytest.approx(q_of(h[np.newaxis], params, x, **FORMS[leak])[0], rel=1e-10)
        lowest = minimize(lambda h: q_of(h[np.newaxis], params, x, **FORMS[leak])[0], h, method="BFGS", tol=1e-12)
        assert lowest.fun >= q * (1 - 1e-8)
        A = jacobian_by_complex_step(h, params, x, **FORMS[leak]) - np.eye(6)
        assert np.abs(A.T @ (step(h[np.newaxis], params, x, **FORMS[leak])[0] - h)).max() < 1e-7 * np.sqrt(q)


# ---- What a point comes with ----------------------------------------------------------------------------------------
def test_points_in_every_form(form):
    params, x = network(gain=1.2 if form["nonlinearity"] == "tanh" else 0.6, seed=5), np.array([0.3, -0.2])
    starts = starts_for(6, 100)
    before = starts.copy()
    points = pyrnn.find_fixed_points(params, x, starts=starts, **form)
    np.testing.assert_array_equal(starts, before)
    assert len(points) > 0
    fixed = points[~points.slow]
    assert len(fixed) > 0
    assert (fixed.q <= 1e-24).all()
    np.testing.assert_allclose(step(fixed.h, params, x, **form), fixed.h, rtol=0, atol=1e-13)
    np.testing.assert_allclose(points.q, q_of(points.h, params, x, **form), rtol=1e-8, atol=1e-28)
    for h, J in zip(points.h, points.jacobian, strict=True):
        np.testing.assert_allclose(J, jacobian_by_complex_step(h, params, x, **form), rtol=0, atol=1e-13)


def test_a_leak_leaves_the_points_where_they_are():
    params, starts = (np.zeros((6, 1)), symmetric(6), None), starts_for(6, 500)
    plain = pyrnn.find_fixed_points(params, starts=starts)
    plain = plain[~plain.slow]
    assert len(plain) > 3
    leaky = pyrnn.find_fixed_points(params, starts=starts, alpha=0.2)
    same_set(leaky[~leaky.slow].h, plain.h, 1e-9)
    currents = pyrnn.find_fixed_points(params, starts=2 * starts, alpha=0.2, form="current")
    same_set(np.tanh(currents[~currents.slow].h), plain.h, 1e-9)


def test_jacobian_is_that_of_pyrnn():
    params = network(gain=1.2)
    points = pyrnn.find_fixed_points(params, [1.0, 2.0], starts=starts_for(6, 20))
    fixed = points[~points.slow]
    np.testing.assert_allclose(fixed.jacobian, pyrnn.jacobian(fixed.h, params[1]), atol=1e-12)


def test_modes():
    params = network(H=9, gain=2.5)
    points = pyrnn.find_fixed_points(params, starts=starts_for(9, 300))
    assert len(points) > 2
    for i, J in enumerate(points.jacobian):
        values, right, left = points.eigenvalues[i], points.right[i], points.left[i]
        expected = np.linalg.eigvals(J)
        np.testing.assert_allclose(np.sort(abs(values)), np.sort(abs(expected)), rtol=1e-10)
        assert (np.diff(abs(values)) <= 1e-12).all()
        np.testing.assert_allclose(J @ right, right * values, atol=1e-12)
        np.testing.assert_allclose(left.conj().T @ J, values[:, np.newaxis] * left.conj().T, atol=1e-10)
        np.testing.assert_allclose(left.conj().T @ right, np.eye(9), atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(right, axis=0), 1)
        assert points.unstable[i] == (abs(expected) > 1).sum()


def test_too_few_eigenvectors():
    """A Jordan block has one eigenvector: the left one is orthogonal to it."""
    W = np.array([[0.5, 1.0], [0.0, 0.5]])
    points = pyrnn.find_fixed_points((np.zeros((2, 1)), W, None), starts=np.ones((1, 2)), nonlinearity="identity")
    np.testing.assert_allclose(points.eigenvalues, [[0.5, 0.5]])
    assert (abs(points.left) > 1e6).any()
    assert not np.isnan(points.left).any()


@pytest.mark.parametrize("share", [0, 5e-324, -1e-320, 1e-320j])
def test_left_eigenvectors_of_a_defective_jacobian_are_infinite_where_they_are_not_0(share):
    """Not NaN beside inf, as complex numbers over 0 are in NumPy."""
    l = np.array([0, 1, -2, 3j, 1 - 1j])
    result = _divided(l[np.newaxis, :, np.newaxis], np.full((1, 1, 1), share, complex))[0, :, 0]
    np.testing.assert_array_equal(result == 0, l == 0)
    assert not np.isnan(result).any()
    assert np.isinf(result[1:]).all()


def test_left_eigenvectors_are_divided_by_their_shares():
    rng = np.random.default_rng(0)
    l, share = (rng.standard_normal((*shape, 2)) @ [1, 1j] for shape in ((2, 3, 3), (2, 1, 3)))
    np.testing.assert_allclose(_divided(l, share), l / share.conj(), rtol=1e-14)


def test_selection():
    points = pyrnn.find_fixed_points((np.zeros((2, 1)), 2 * np.eye(2), None), starts=starts_for(2, 60))
    assert (np.diff(points.counts) <= 0).all()
    assert "9 fixed, 0 slow" in repr(points)
    values = points.eigenvalues
    stable = points[points.stability == "stable"]
    assert len(stable) == 4
    np.testing.assert_array_equal(stable.eigenvalues, values[points.stability == "stable"])
    assert ((stable.origin >= 0) == np.isin(points.origin, np.flatnonzero(points.stability == "stable"))).all()
    reached = stable.origin >= 0
    np.testing.assert_array_equal(stable.h[stable.origin[reached]], points.h[points.origin[reached]])
    assert len(points[:0]) == 0
    assert len(points[[1, 0]]) == 2
    np.testing.assert_array_equal(points[[1, 0]].counts, points.counts[[1, 0]])
    with pytest.raises(TypeError, match="slice, a mask or an array"):
        points[0]


# ---- The descent ----------------------------------------------------------------------------------------------------
def test_derivatives_of_q(form):
    """The gradient against complex steps, the second derivative against differences of it; away from relu's kink."""
    (U, W, b, *_), h = network(gain=1.5), starts_for(6, 3)
    phi, current = _cell.numbers(form["nonlinearity"], form.get("form", "rate"))
    alpha = np.ascontiguousarray(np.broadcast_to(form.get("alpha", 1.0), 6))
    options = {"tolerance": 0.0, "max_iterations": 1, "unique_tolerance": 0.0}
    make = lambda h: _descent.Descent(W, b, alpha, phi, current, h, **options)
    params = U, W, b
    gradient = complex_step(lambda h: q_of(h, params, np.zeros(2), **form), {"h": h})["h"]
    descent = make(h)
    np.testing.assert_allclose(descent.q, q_of(h, params, np.zeros(2), **form), rtol=1e-13)
    for i in range(3):
        np.testing.assert_allclose(descent._gradient[i], gradient[i, :, i], atol=1e-13)
        second = central_differences(lambda h: make(h[np.newaxis])._gradient[0], {"h": h[i]})["h"]
        actual = descent._landscape.second_derivative(descent._states(), i)
        np.testing.assert_allclose(actual, second, atol=1e-8)


@pytest.mark.parametrize("in_float", [False, True])
@pytest.mark.parametrize("H", [1, 7, 8, 33, 130])
def test_a_linear_network_takes_few_steps(H, in_float, monkeypatch):
    """q is quadratic then: conjugate gradients end in its minimum, within a radius that is large enough."""
    _, W, b, *_ = network(H, gain=0.3)
    monkeypatch.setattr(_descent, "DRAWN", -1.0)
    options = {"tolerance": 1e-28, "max_iterations": 1, "unique_tolerance": 0.0}
    descent = _descent.Descent(W, b, np.ones(H), 2, False, starts_for(H, 70), **options)
    descent._radius[:] = 1e6
    expected, first = np.linalg.solve(np.eye(H) - W, b), descent.q.copy()
    rows = np.arange(70)
    for _ in range(14):
        rows = descent._step(rows, in_float)
    np.testing.assert_allclose(descent.h, np.tile(expected, (70, 1)), atol=1e-12)
    assert (descent.q < first).all()


def test_starts_that_are_drawn_would_have_gone_there(monkeypatch):
    """What a start gets is the same, but for a few, as on the whole way; and no point is lost."""
    params, starts = (np.zeros((12, 1)), symmetric(12), None), starts_for(12, 400)
    drawn, look = [], _descent.Descent._drawn
    monkeypatch.setattr(_descent.Descent, "_drawn", lambda *a: drawn.append(look(*a)) or drawn[-1])
    short = pyrnn.find_fixed_points(params, starts=starts)
    assert sum(map(np.count_nonzero, drawn)) > 50
    monkeypatch.setattr(_descent, "DRAWN", -1.0)
    whole = pyrnn.find_fixed_points(params, starts=starts)
    assert len(whole) > 3
    distances = np.linalg.norm(short.h[:, np.newaxis] - whole.h, axis=2)
    assert (distances.min(axis=0) < 1e-6).all()
    assert (distances.min(axis=1) < 1e-6).all()
    same = np.linalg.norm(short.h[short.origin] - whole.h[whole.origin], axis=1) < 1e-6
    assert same.mean() > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_everything_that_adam_finds(seed):
    torch = pytest.importorskip("torch")
    W, b, starts = symmetric(10, seed=seed), np.full(10, 0.05), starts_for(10, 100)
    h = torch.tensor(starts, requires_grad=True)
    tW, tb = torch.tensor(W), torch.tensor(b)
    adam = torch.optim.Adam([h], lr=0.03)
    rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda k: 1 - k / 1500)
    for _ in range(1500):
        adam.zero_grad()
        q = 0.5 * ((torch.tanh(h @ tW.T + tb) - h) ** 2).sum(dim=1)
        q.sum().backward()
        adam.step()
        rate.step()
    theirs = h.detach().numpy()[q.detach().numpy() < 1e-20]
    assert len(theirs) > 3
    points = pyrnn.find_fixed_points((np.zeros((10, 1)), W, b), starts=starts)
    ours = points[~points.slow].h
    assert np.linalg.norm(theirs[:, np.newaxis] - ours, axis=2).min(axis=1).max() < 1e-6


# ---- Arguments ------------------------------------------------------------------------------------------------------
def test_inputs_one_for_each_start():
    params, starts = network(gain=0.5), starts_for(6, 30)
    x = np.repeat([[0.5, 1.0], [-1.0, 0.0], [0.0, 0.3]], 10, axis=0)
    points = pyrnn.find_fixed_points(params, x, starts=starts)
    assert len(points) == 3
    np.testing.assert_allclose(points.x[points.origin], x)
    for value in x[::10]:
        alone = pyrnn.find_fixed_points(params, value, starts=starts[:10])
        at = (points.x == value).all(axis=1)
        np.testing.assert_allclose(points[at].h, alone.h, atol=1e-14)
    np.testing.assert_allclose(pyrnn.find_fixed_points(params, starts=starts).x, [[0.0, 0.0]])


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("I", [0, 1, 2])
@pytest.mark.parametrize("H", [0, 1, 3])
def test_sizes_of_nothing(H, I, n, dtype):
    params = [None if a is None else a.astype(dtype) for a in network(H, I, gain=0.5)]
    for x in (None, np.ones(I, dtype), np.ones((n, I), dtype)):
        points = pyrnn.find_fixed_points(params, x, starts=np.zeros((n, H), dtype))
        k = 1 if n else 0
        assert points.h.shape == (k, H)
        assert points.x.shape == (k, I)
        assert points.jacobian.shape == points.right.shape == points.left.shape == (k, H, H)
        assert points.eigenvalues.shape == (k, H)
        assert points.h.dtype == points.x.dtype == points.jacobian.dtype == dtype
        assert points.q.dtype == np.float64
        assert (points.origin == 0).all()
        assert points.unstable.shape == points.counts.shape == points.speed.shape == points.stability.shape == (k,)
        assert repr(points)


def test_layouts(layout):
    U, W, b, *_ = network()
    starts, x = starts_for(6, 50), np.array([0.1, 0.2])
    expected = pyrnn.find_fixed_points((U, W, b), x, starts=starts)
    actual = pyrnn.find_fixed_points(tuple(map(layout, (U, W, b))), layout(x), starts=layout(starts))
    np.testing.assert_array_equal(actual.h, expected.h)
    np.testing.assert_array_equal(actual.origin, expected.origin)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_starts_that_are_not_finite_lead_nowhere(bad):
    starts = starts_for(6, 20)
    starts[3, 2] = starts[11, 0] = bad
    points = pyrnn.find_fixed_points(network(gain=0.5), starts=starts)
    assert list(np.flatnonzero(points.origin < 0)) == [3, 11]
    assert len(points) == 1
    assert not points.outlier.any()
    for number in range(3):
        params = list(network(gain=0.5))
        params[number] = params[number].copy()
        params[number].flat[0] = bad
        points = pyrnn.find_fixed_points(params, np.ones(2), starts=starts_for(6, 5))
        if np.isnan(bad):
            assert len(points) == 0
        assert np.isfinite(points.h).all()  # an infinite sum may hide behind tanh's 1
        assert points.origin.shape == (5,)
        assert np.isfinite(points.eigenvalues).all()


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_extreme_numbers(nonlinearity, scale):
    _, W, b, *_ = network(gain=0.5)
    for params in ((np.zeros((6, 1)), scale * W, b), (np.zeros((6, 1)), W, scale * b)):
        for starts in (starts_for(6, 10), starts_for(6, 10, scale=scale)):
            points = pyrnn.find_fixed_points(params, starts=starts, nonlinearity=nonlinearity, max_iterations=30)
            assert np.isfinite(points.h).all()
            assert np.isfinite(points.q).all()


def test_weights_that_float_cannot_hold():
    """Steps in float meet infinity times zero; the search goes on in double."""
    params = np.zeros((2, 1)), np.array([[0.5, 1e39], [0.0, 0.5]]), np.array([0.0, 1.0])
    points = pyrnn.find_fixed_points(params, starts=np.random.default_rng(0).uniform(0.1, 1, (10, 2)))
    second = float(mpmath.findroot(lambda h: mpmath.tanh(0.5 * h + 1) - h, 0.9))
    np.testing.assert_allclose(points.h, [[1.0, second]], rtol=1e-13)
    assert (points.origin == 0).all()


@pytest.mark.parametrize("form", [{}, {"alpha": 0.3, "form": "current"}])
@pytest.mark.parametrize("bias", [0.0, 0.1])
def test_mirror_images(bias, form):
    """Without a constant input -h is a point where h is one: from starts on one side alone."""
    params = np.zeros((2, 2)), np.array([[1.5, 0.4], [0.2, 1.4]]), np.full(2, bias)
    starts = np.random.default_rng(0).uniform(0.5, 1.5, (20, 2))
    ours = pyrnn.find_fixed_points(params, starts=starts, **form)
    alone = pyrnn.find_fixed_points(params, starts=starts, between=False, **form)
    assert (alone.h > 0.1).any()
    assert all(np.abs(ours.h + h).max(axis=1).min() < 1e-9 for h in alone.h) == (bias == 0)
    fixed = ours.h[~ours.slow]
    assert np.abs(pyrnn.forward(np.zeros((1, len(fixed), 2)), *params, fixed, **form)[0] - fixed).max() < 1e-12


def test_infinite_weight_behind_a_saturated_unit():
    """tanh(inf) is 1, a fixed point; its Jacobian, zero times infinity, is no number, and so are its modes."""
    points = pyrnn.find_fixed_points((np.zeros((1, 1)), [[np.inf]], None), starts=[[1.0]])
    assert points.h.tolist() == [[1.0], [-1.0]]  # the second is the first one's mirror image
    assert points.counts.tolist() == [1, 0]
    for a in (points.jacobian, points.eigenvalues, points.right, points.left):
        assert np.isnan(a).all()


def test_options():
    params, starts = network(gain=2.0, seed=3), starts_for(6, 100)
    points = pyrnn.find_fixed_points(params, starts=starts)
    assert len(points) > 2
    assert len(pyrnn.find_fixed_points(params, starts=starts, max_iterations=1)) == 0
    assert (pyrnn.find_fixed_points(params, starts=starts, max_iterations=1).origin == -1).all()
    assert len(pyrnn.find_fixed_points(params, starts=starts, unique_tolerance=100.0)) == 1
    rough = pyrnn.find_fixed_points(params, starts=starts, tolerance=1e-2)
    assert (rough.q[~rough.slow] <= 1e-2).all()


def test_outliers():
    """All starts near zero, and the only point far away."""
    params = (np.zeros((2, 1)), 0.5 * np.eye(2), np.array([50.0, 0.0]))
    starts = 0.1 * starts_for(2, 20)
    find = lambda **options: pyrnn.find_fixed_points(params, nonlinearity="identity", **options)
    points = find(starts=starts)
    np.testing.assert_allclose(points.h, [[100.0, 0.0]])
    assert points.outlier.tolist() == [True]
    assert find(starts=starts, outlier_distance=1e4).outlier.tolist() == [False]
    assert find(starts=starts[:1]).outlier.tolist() == [False]


def test_shapes_that_do_not_fit():
    U, W, b, *_ = network()
    starts, find = starts_for(6, 5), pyrnn.find_fixed_points
    with pytest.raises(ValueError, match=r"^W must have shape \(6, 6\) to match U \(6, 2\), got \(6, 5\)"):
        find((U, W[:, :5], b), starts=starts)
    with pytest.raises(ValueError, match=r"^U must have shape \(H, I\), got \(6,\)"):
        find((U[:, 0], W, b), starts=starts)
    with pytest.raises(ValueError, match=r"^b must have shape \(6,\)"):
        find((U, W, b[:3]), starts=starts)
    with pytest.raises(ValueError, match=r"^starts must have shape \(n, 6\) to match U \(6, 2\), got \(6,\)"):
        find((U, W, b), starts=starts[0, :6])
    with pytest.raises(ValueError, match=r"^x must have shape \(2,\) or \(5, 2\) .* got \(3,\)"):
        find((U, W, b), np.zeros(3), starts=starts)
    with pytest.raises(ValueError, match=r"^alpha must be a number or have shape \(6,\)"):
        find((U, W, b), starts=starts, alpha=np.ones(3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"nonlinearity": "sigmoid"}, ValueError, "nonlinearity must be one of"),
        ({"form": "voltage"}, ValueError, "form must be one of"),
        ({"form": "current"}, ValueError, "alpha must be given"),
        ({"tolerance": -1.0}, ValueError, "tolerance must be a finite number from 0, got -1.0"),
        ({"tolerance": "small"}, ValueError, "tolerance must be a finite number from 0, got 'small'"),
        ({"unique_tolerance": np.nan}, ValueError, "unique_tolerance must be a finite number from 0"),
        ({"outlier_distance": None}, ValueError, "outlier_distance must be a finite number from 0"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be a positive integer, got 0"),
        ({"max_iterations": 2.5}, TypeError, "max_iterations must be a positive integer, got 2.5"),
        ({"between": 1}, TypeError, "between must be True or False, got 1"),
        ({"starts": None}, TypeError, "starts must be an array of numbers, got None"),
        ({"starts": np.zeros((2, 6), complex)}, TypeError, "starts must be real numbers"),
        ({"params": 3}, TypeError, "params must be a Parameters"),
    ],
)
def test_values_that_do_not_exist(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        pyrnn.find_fixed_points(**{"params": network(), "starts": starts_for(6, 5)} | options)


def test_progress_is_for_a_terminal_alone(monkeypatch, capsys):
    pyrnn.find_fixed_points(network(), starts=starts_for(6, 5))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    clock = itertools.count()
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(clock))
    pyrnn.find_fixed_points(network(gain=2.0), starts=starts_for(6, 50))
    shown = capsys.readouterr().err
    assert "of 50 starts" in shown
    assert shown.endswith("\r\033[K")


@pytest.mark.unsanitized
def test_interrupt():
    _, W, b, *_ = network(400, gain=1.5)
    run = lambda starts: pyrnn.find_fixed_points((np.zeros((400, 1)), W, b), starts=starts)
    starts = starts_for(400, 200)
    stops_early(lambda: run(starts), lambda: run(starts[:4]), 50)


# ---- The picture ----------------------------------------------------------------------------------------------------
def test_plot():
    pytest.importorskip("matplotlib")
    params, x = (np.zeros((3, 1)), 2 * np.eye(3), np.array([0.0, 0.1, 0.7])), np.zeros((30, 4, 1))
    h = pyrnn.forward(x, *params, starts_for(3, 4))
    points = pyrnn.find_fixed_points(params, starts=starts_for(3, 200))
    axes = pyrnn.plot_fixed_points(points, h)
    labels = axes.get_legend_handles_labels()[1]
    assert set(labels) <= {"stable", "saddle", "unstable", "slow"}
    assert "stable" in labels
    drawn = {line.get_label(): line for line in axes.lines}
    center = h.reshape(-1, 3).mean(axis=0)
    _, _, Vt = np.linalg.svd(h.reshape(-1, 3) - center)
    stable = (points[(points.stability == "stable") & ~points.slow].h - center) @ Vt[:2].T
    np.testing.assert_allclose(np.abs(drawn["stable"].get_xdata()), np.abs(stable[:, 0]), atol=1e-9)
    np.testing.assert_allclose(np.abs(drawn["stable"].get_ydata()), np.abs(stable[:, 1]), atol=1e-9)
    other = axes.figure.add_subplot()
    assert pyrnn.plot_fixed_points(points, h[:, 0], components=(1, 2), directions=False, axes=other) is other
    assert len(pyrnn.plot_fixed_points(points).lines) > 0
    assert pyrnn.plot_fixed_points(points[:0]).get_legend() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trajectories": np.zeros((5, 2))}, r"trajectories must have shape \(T, B, 3\) or \(T, 3\), got \(5, 2\)"),
        ({"components": (0, 3)}, r"components must be from 0 to 2, got \(0, 3\)"),
        ({"components": 1}, "components must be two integers, got 1"),
    ],
)
def test_plot_of_wrong_arguments(options, message):
    points = pyrnn.find_fixed_points((np.zeros((3, 1)), np.eye(3) / 2, None), starts=starts_for(3, 5))
    with pytest.raises(ValueError, match=f"^{message}"):
        pyrnn.plot_fixed_points(points, **options)


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    points = pyrnn.find_fixed_points((np.zeros((3, 1)), np.eye(3) / 2, None), starts=starts_for(3, 5))
    with pytest.raises(Exception, match="pyrnn-bptt\\[plot\\]"):
        pyrnn.plot_fixed_points(points)
