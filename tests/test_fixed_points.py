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
from pyrnn import _progress, reference
from pyrnn.dynamics import descent as _descent
from pyrnn.dynamics import find_fixed_points
from pyrnn.dynamics.fixed_points import _divided
from pyrnn.plots import plot_fixed_points

pytestmark = pytest.mark.compiled

BY_UNIT = np.array([0.1, 0.9, 1.0, 0.4, 0.5, 0.25])
LEAKS = {
    "plain": (None, "rate"),
    "rate": (0.3, "rate"),
    "rate by unit": (BY_UNIT, "rate"),
    "current": (0.3, "current"),
    "current by unit": (BY_UNIT, "current"),
}
CELLS = {name: pyrnn.Cell("tanh", *leak) for name, leak in LEAKS.items()}
PLAIN = pyrnn.Cell()
NONLINEARITIES = ("tanh", "relu", "identity")


@pytest.fixture(params=itertools.product(NONLINEARITIES, LEAKS), ids="-".join)
def cell(request):
    nonlinearity, leak = request.param
    return pyrnn.Cell(nonlinearity, *LEAKS[leak])


def network(H=6, I=2, gain=1.0, seed=0, cell=PLAIN):
    rng = np.random.default_rng(seed)
    U, W, b = rng.standard_normal((H, I)), gain * rng.standard_normal((H, H)) / max(H, 1) ** 0.5, rng.standard_normal(H)
    return pyrnn.Network(U, W, 0.3 * b, cell=cell)


def alone(W, b=None, cell=PLAIN):
    """A network without input."""
    W = np.asarray(W, float)
    return pyrnn.Network(np.zeros((len(W), 1)), W, b, cell=cell)


def symmetric(H, gain=1.6, seed=0):
    """Weights with many fixed points."""
    W = np.random.default_rng(seed).standard_normal((H, H))
    return gain * (W + W.T) / (2 * H) ** 0.5


def starts_for(H, n=200, seed=1, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal((n, H))


def step(h, net, x):
    """F of rows h, by the reference; complex numbers go through."""
    U, W, b, x = (np.asarray(a) + 0 * h.flat[0] for a in (*net[:3], x))
    return reference.forward(np.broadcast_to(x, (1, len(h), len(x))), U, W, b, h, cell=net.cell)[0]


def q_of(h, net, x):
    return 0.5 * ((step(h, net, x) - h) ** 2).sum(axis=-1)


def jacobian_by_complex_step(h, net, x):
    H = len(h)
    moved = h + 1e-30j * np.eye(H)
    return step(moved, net, x).imag.T / 1e-30


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
    points = find_fixed_points(pyrnn.Network(np.zeros((1, 1), dtype), w.reshape(1, 1)), starts=starts)
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


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("H", [1, 2, 6, 40])
def test_linear_network_has_one_point(leak, H, dtype):
    alpha, form = LEAKS[leak]
    cell = pyrnn.Cell("identity", alpha[np.arange(H) % 6] if np.ndim(alpha) else alpha, form)
    net = pyrnn.Network(*(a.astype(dtype) for a in network(H, gain=0.4).arrays), cell=cell)
    U, W, b = (a.astype(np.float64) for a in net.arrays)
    x = np.array([0.5, -1.0], dtype)
    points = find_fixed_points(net, x, starts=starts_for(H, 20).astype(dtype))
    assert len(points) == 1
    expected = np.linalg.solve(np.eye(H) - W, U @ x + b)
    np.testing.assert_allclose(points.h[0], expected, atol=1e-12 if dtype == np.float64 else 1e-5)
    assert points.counts[0] == 20
    alpha = np.broadcast_to(1.0 if alpha is None else cell.alpha, H)[:, np.newaxis]
    np.testing.assert_allclose(points.jacobian[0], (1 - alpha) * np.eye(H) + alpha * W, atol=1e-6)


@pytest.mark.parametrize("gain", [1.5, 3.0])
def test_orthogonal_patterns(gain):
    """W p = gain p for each pattern p, so that m p is a fixed point where m = tanh(gain m)."""
    patterns = hadamard(16)[[3, 5, 6]].astype(float)
    W = gain * patterns.T @ patterns / 16
    m = float(mpmath.findroot(lambda m: mpmath.tanh(gain * m) - m, (0.1, 1), solver="anderson"))
    near = np.repeat(np.concatenate([patterns, -patterns]), 20, axis=0) + 0.3 * starts_for(16, 120)
    points = find_fixed_points(alone(W), starts=near)
    stored = points[(abs(abs(points.h) - m) < 1e-6).all(axis=1)]
    same_set(stored.h, m * np.concatenate([patterns, -patterns]), 1e-12)
    assert (stored.stability == "stable").all()
    assert stored.counts.sum() >= 100


@pytest.mark.parametrize("seed", range(8))
def test_relu_points_by_enumeration(seed):
    """A relu network is linear where the same units are active: each of 2^H sets has a point, or none."""
    H = 4
    net = network(H, gain=1.5, seed=seed, cell=pyrnn.Cell("relu"))
    U, W, b = net.arrays
    x = np.array([0.2, 0.4])
    c, expected = U @ x + b, []
    for active in itertools.product((0.0, 1.0), repeat=H):
        h = np.linalg.solve(np.eye(H) - np.diag(active) @ W, np.array(active) * c)
        if ((c + W @ h > 0) == np.array(active, bool)).all():
            expected.append(h)
    points = find_fixed_points(net, x, starts=starts_for(H, 1000, scale=4.0))
    same_set(points[~points.slow].h, np.reshape(expected, (-1, H)), 1e-9)


def test_uncoupled_units_have_all_combinations():
    points = find_fixed_points(alone(2 * np.eye(4)), starts=starts_for(4, 3000))
    m = float(mpmath.findroot(lambda m: mpmath.tanh(2 * m) - m, (0.1, 1), solver="anderson"))
    same_set(points.h, list(itertools.product((-m, 0.0, m), repeat=4)), 1e-12)
    zeros = (abs(points.h) < 1e-9).sum(axis=1)
    assert (points.unstable == zeros).all()
    assert (points.stability == np.where(zeros == 0, "stable", np.where(zeros == 4, "unstable", "saddle"))).all()


def test_a_line_of_points_is_not_merged():
    """h = v vᵀ h for unit v: each start has its own point, vᵀ start along v."""
    v = np.array([0.6, 0.0, 0.8])
    starts = starts_for(3, 100)
    net = alone(np.outer(v, v), cell=pyrnn.Cell("identity"))
    points = find_fixed_points(net, starts=starts, unique_tolerance=1e-9, between=False)
    assert len(points) == 100
    np.testing.assert_allclose(points.h[points.origin], starts @ np.outer(v, v), atol=1e-6)


def test_between_points_are_saddles():
    """From the four corners alone: the edges' middles and the centre are half-way between two of them."""
    m = float(mpmath.findroot(lambda m: mpmath.tanh(2 * m) - m, (0.1, 1), solver="anderson"))
    net, starts = alone(2 * np.eye(2)), list(itertools.product((-0.9, 0.9), repeat=2))
    corners = find_fixed_points(net, starts=starts, between=False)
    same_set(corners.h, list(itertools.product((-m, m), repeat=2)), 1e-12)
    points = find_fixed_points(net, starts=starts)
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
    points = find_fixed_points(alone([[2.0]], b), starts=np.linspace(-1, 1, 40)[:, np.newaxis])
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
    points = find_fixed_points(alone([[2.0]], [b]), starts=np.linspace(-1, 1, 40)[:, np.newaxis])
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
        points = find_fixed_points(alone(W, b, pyrnn.Cell(alpha=leak)), starts=rng.uniform(-1, 1, (50, H)))
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
    net, starts = network(gain=2.0, seed=3), starts_for(6, 300)
    plain, one, by_unit, current = (
        find_fixed_points(net._replace(cell=CELLS[leak]), np.zeros(2), starts=starts)
        for leak in ("plain", "rate", "rate by unit", "current")
    )
    slow = plain.h[plain.slow]
    assert len(slow) == 2
    same_set(one.h[one.slow], slow, 1e-6)
    np.testing.assert_allclose(np.sort(one.q[one.slow]), 0.3**2 * np.sort(plain.q[plain.slow]), rtol=1e-9)
    for others in (by_unit.h[by_unit.slow], np.tanh(current.h[current.slow])):
        assert np.abs(others[:, np.newaxis] - slow).max(axis=2).min() > 1e-3


@pytest.mark.parametrize("leak", LEAKS)
def test_slow_points_are_minima(leak):
    """BFGS, which starts there, finds nothing lower; and the gradient of q is zero."""
    net, x = network(gain=2.0, seed=3, cell=CELLS[leak]), np.zeros(2)
    points = find_fixed_points(net, x, starts=starts_for(6, 300))
    slow = points[points.slow]
    for h, q in zip(slow.h, slow.q, strict=True):
        assert q == pytest.approx(q_of(h[np.newaxis], net, x)[0], rel=1e-10)
        lowest = minimize(lambda h: q_of(h[np.newaxis], net, x)[0], h, method="BFGS", tol=1e-12)
        assert lowest.fun >= q * (1 - 1e-8)
        A = jacobian_by_complex_step(h, net, x) - np.eye(6)
        assert np.abs(A.T @ (step(h[np.newaxis], net, x)[0] - h)).max() < 1e-7 * np.sqrt(q)


# ---- What a point comes with ----------------------------------------------------------------------------------------
def test_points_in_every_form(cell):
    net = network(gain=1.2 if cell.nonlinearity == "tanh" else 0.6, seed=5, cell=cell)
    x = np.array([0.3, -0.2])
    starts = starts_for(6, 100)
    before = starts.copy()
    points = find_fixed_points(net, x, starts=starts)
    np.testing.assert_array_equal(starts, before)
    assert len(points) > 0
    fixed = points[~points.slow]
    assert len(fixed) > 0
    assert (fixed.q <= 1e-24).all()
    np.testing.assert_allclose(step(fixed.h, net, x), fixed.h, rtol=0, atol=1e-13)
    np.testing.assert_allclose(points.q, q_of(points.h, net, x), rtol=1e-8, atol=1e-28)
    for h, J in zip(points.h, points.jacobian, strict=True):
        np.testing.assert_allclose(J, jacobian_by_complex_step(h, net, x), rtol=0, atol=1e-13)


def test_a_leak_leaves_the_points_where_they_are():
    net, starts = alone(symmetric(6)), starts_for(6, 500)
    plain = find_fixed_points(net, starts=starts)
    plain = plain[~plain.slow]
    assert len(plain) > 3
    leaky = find_fixed_points(net._replace(cell=pyrnn.Cell(alpha=0.2)), starts=starts)
    same_set(leaky[~leaky.slow].h, plain.h, 1e-9)
    currents = find_fixed_points(net._replace(cell=pyrnn.Cell(alpha=0.2, form="current")), starts=2 * starts)
    same_set(np.tanh(currents[~currents.slow].h), plain.h, 1e-9)


def test_jacobian_is_that_of_pyrnn(cell):
    """At a fixed point a step leads to itself."""
    net, x = network(gain=1.2 if cell.nonlinearity == "tanh" else 0.6, cell=cell), np.array([1.0, 2.0])
    points = find_fixed_points(net, x, starts=starts_for(6, 20))
    fixed = points[~points.slow]
    assert len(fixed) > 0
    run = pyrnn.simulate(net, np.tile(x, (1, len(fixed), 1)), fixed.h)
    np.testing.assert_allclose(fixed.jacobian, run.jacobian()[0], atol=1e-12)


def test_modes():
    net = network(H=9, gain=2.5)
    points = find_fixed_points(net, starts=starts_for(9, 300))
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
    points = find_fixed_points(alone(W, cell=pyrnn.Cell("identity")), starts=np.ones((1, 2)))
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
    points = find_fixed_points(alone(2 * np.eye(2)), starts=starts_for(2, 60))
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
def test_derivatives_of_q(cell):
    """The gradient against complex steps, the second derivative against differences of it; away from relu's kink."""
    net, h = network(gain=1.5, cell=cell), starts_for(6, 3)
    options = {"tolerance": 0.0, "max_iterations": 1, "unique_tolerance": 0.0}
    make = lambda h: _descent.Descent(net.W, net.b, cell, h, **options)
    gradient = complex_step(lambda h: q_of(h, net, np.zeros(2)), {"h": h})["h"]
    descent = make(h)
    np.testing.assert_allclose(descent.q, q_of(h, net, np.zeros(2)), rtol=1e-13)
    for i in range(3):
        np.testing.assert_allclose(descent._gradient[i], gradient[i, :, i], atol=1e-13)
        second = central_differences(lambda h: make(h[np.newaxis])._gradient[0], {"h": h[i]})["h"]
        actual = descent._landscape.second_derivative(descent._states(), i)
        np.testing.assert_allclose(actual, second, atol=1e-8)


@pytest.mark.parametrize("in_float", [False, True])
@pytest.mark.parametrize("H", [1, 7, 8, 33, 130])
def test_a_linear_network_takes_few_steps(H, in_float, monkeypatch):
    """q is quadratic then: conjugate gradients end in its minimum, within a radius that is large enough."""
    W, b = network(H, gain=0.3)[1:3]
    monkeypatch.setattr(_descent, "DRAWN", -1.0)
    options = {"tolerance": 1e-28, "max_iterations": 1, "unique_tolerance": 0.0}
    descent = _descent.Descent(W, b, pyrnn.Cell("identity"), starts_for(H, 70), **options)
    descent._radius[:] = 1e6
    expected, first = np.linalg.solve(np.eye(H) - W, b), descent.q.copy()
    rows = np.arange(70)
    for _ in range(14):
        rows = descent._step(rows, in_float)
    np.testing.assert_allclose(descent.h, np.tile(expected, (70, 1)), atol=1e-12)
    assert (descent.q < first).all()


def test_starts_that_are_drawn_would_have_gone_there(monkeypatch):
    """What a start gets is the same, but for a few, as on the whole way; and no point is lost."""
    net, starts = alone(symmetric(12)), starts_for(12, 400)
    drawn, look = [], _descent.Descent._drawn
    monkeypatch.setattr(_descent.Descent, "_drawn", lambda *a: drawn.append(look(*a)) or drawn[-1])
    short = find_fixed_points(net, starts=starts)
    assert sum(map(np.count_nonzero, drawn)) > 50
    monkeypatch.setattr(_descent, "DRAWN", -1.0)
    whole = find_fixed_points(net, starts=starts)
    assert len(whole) > 3
    distances = np.linalg.norm(short.h[:, np.newaxis] - whole.h, axis=2)
    assert (distances.min(axis=0) < 1e-6).all()
    assert (distances.min(axis=1) < 1e-6).all()
    same = np.linalg.norm(short.h[short.origin] - whole.h[whole.origin], axis=1) < 1e-6
    assert same.mean() > 0.9


@pytest.mark.peer
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
    points = find_fixed_points(alone(W, b), starts=starts)
    ours = points[~points.slow].h
    assert np.linalg.norm(theirs[:, np.newaxis] - ours, axis=2).min(axis=1).max() < 1e-6


# ---- Arguments ------------------------------------------------------------------------------------------------------
def test_inputs_one_for_each_start():
    net, starts = network(gain=0.5), starts_for(6, 30)
    x = np.repeat([[0.5, 1.0], [-1.0, 0.0], [0.0, 0.3]], 10, axis=0)
    points = find_fixed_points(net, x, starts=starts)
    assert len(points) == 3
    np.testing.assert_allclose(points.x[points.origin], x)
    for value in x[::10]:
        alone = find_fixed_points(net, value, starts=starts[:10])
        at = (points.x == value).all(axis=1)
        np.testing.assert_allclose(points[at].h, alone.h, atol=1e-14)
    np.testing.assert_allclose(find_fixed_points(net, starts=starts).x, [[0.0, 0.0]])


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("I", [0, 1, 2])
@pytest.mark.parametrize("H", [0, 1, 3])
def test_sizes_of_nothing(H, I, n, dtype):
    net = pyrnn.Network(*(a.astype(dtype) for a in network(H, I, gain=0.5).arrays))
    for x in (None, np.ones(I, dtype), np.ones((n, I), dtype)):
        points = find_fixed_points(net, x, starts=np.zeros((n, H), dtype))
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
    net = network()
    starts, x = starts_for(6, 50), np.array([0.1, 0.2])
    expected = find_fixed_points(net, x, starts=starts)
    actual = find_fixed_points(pyrnn.Network(*map(layout, net.arrays)), layout(x), starts=layout(starts))
    np.testing.assert_array_equal(actual.h, expected.h)
    np.testing.assert_array_equal(actual.origin, expected.origin)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_starts_that_are_not_finite_lead_nowhere(bad):
    starts = starts_for(6, 20)
    starts[3, 2] = starts[11, 0] = bad
    points = find_fixed_points(network(gain=0.5), starts=starts)
    assert list(np.flatnonzero(points.origin < 0)) == [3, 11]
    assert len(points) == 1
    assert not points.outlier.any()
    for number in range(3):
        net = network(gain=0.5)
        net[number].flat[0] = bad
        points = find_fixed_points(net, np.ones(2), starts=starts_for(6, 5))
        if np.isnan(bad):
            assert len(points) == 0
        assert np.isfinite(points.h).all()  # an infinite sum may hide behind tanh's 1
        assert points.origin.shape == (5,)
        assert np.isfinite(points.eigenvalues).all()


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_extreme_numbers(nonlinearity, scale):
    (W, b), cell = network(gain=0.5)[1:3], pyrnn.Cell(nonlinearity)
    for net in (alone(scale * W, b, cell), alone(W, scale * b, cell)):
        for starts in (starts_for(6, 10), starts_for(6, 10, scale=scale)):
            points = find_fixed_points(net, starts=starts, max_iterations=30)
            assert np.isfinite(points.h).all()
            assert np.isfinite(points.q).all()


def test_weights_that_float_cannot_hold():
    """Steps in float meet infinity times zero; the search goes on in double."""
    net = alone([[0.5, 1e39], [0.0, 0.5]], np.array([0.0, 1.0]))
    points = find_fixed_points(net, starts=np.random.default_rng(0).uniform(0.1, 1, (10, 2)))
    second = float(mpmath.findroot(lambda h: mpmath.tanh(0.5 * h + 1) - h, 0.9))
    np.testing.assert_allclose(points.h, [[1.0, second]], rtol=1e-13)
    assert (points.origin == 0).all()


@pytest.mark.parametrize("leak", ["plain", "rate", "current"])
@pytest.mark.parametrize("bias", [0.0, 0.1])
def test_mirror_images(bias, leak):
    """Without a constant input -h is a point where h is one: from starts on one side alone."""
    net = alone([[1.5, 0.4], [0.2, 1.4]], np.full(2, bias), CELLS[leak])
    starts = np.random.default_rng(0).uniform(0.5, 1.5, (20, 2))
    ours = find_fixed_points(net, starts=starts)
    single = find_fixed_points(net, starts=starts, between=False)
    assert (single.h > 0.1).any()
    assert all(np.abs(ours.h + h).max(axis=1).min() < 1e-9 for h in single.h) == (bias == 0)
    fixed = ours.h[~ours.slow]
    assert np.abs(pyrnn.simulate(net, np.zeros((1, len(fixed), 1)), fixed).h[0] - fixed).max() < 1e-12


def test_infinite_weight_behind_a_saturated_unit():
    """tanh(inf) is 1, a fixed point; its Jacobian, zero times infinity, is no number, and so are its modes."""
    points = find_fixed_points(alone([[np.inf]]), starts=[[1.0]])
    assert points.h.tolist() == [[1.0], [-1.0]]  # the second is the first one's mirror image
    assert points.counts.tolist() == [1, 0]
    for a in (points.jacobian, points.eigenvalues, points.right, points.left):
        assert np.isnan(a).all()


def test_options():
    net, starts = network(gain=2.0, seed=3), starts_for(6, 100)
    points = find_fixed_points(net, starts=starts)
    assert len(points) > 2
    assert len(find_fixed_points(net, starts=starts, max_iterations=1)) == 0
    assert (find_fixed_points(net, starts=starts, max_iterations=1).origin == -1).all()
    assert len(find_fixed_points(net, starts=starts, unique_tolerance=100.0)) == 1
    rough = find_fixed_points(net, starts=starts, tolerance=1e-2)
    assert (rough.q[~rough.slow] <= 1e-2).all()


def test_outliers():
    """All starts near zero, and the only point far away."""
    net = alone(0.5 * np.eye(2), np.array([50.0, 0.0]), pyrnn.Cell("identity"))
    starts = 0.1 * starts_for(2, 20)
    find = lambda **options: find_fixed_points(net, **options)
    points = find(starts=starts)
    np.testing.assert_allclose(points.h, [[100.0, 0.0]])
    assert points.outlier.tolist() == [True]
    assert find(starts=starts, outlier_distance=1e4).outlier.tolist() == [False]
    assert find(starts=starts[:1]).outlier.tolist() == [False]


def test_shapes_that_do_not_fit():
    net, starts, find = network(), starts_for(6, 5), find_fixed_points
    with pytest.raises(ValueError, match=r"^W must have shape \(6, 6\) to match U \(6, 2\), got \(6, 5\)"):
        find(net._replace(W=net.W[:, :5]), starts=starts)
    with pytest.raises(ValueError, match=r"^U must have shape \(H, I\), got \(6,\)"):
        find(net._replace(U=net.U[:, 0]), starts=starts)
    with pytest.raises(ValueError, match=r"^b must have shape \(6,\)"):
        find(net._replace(b=net.b[:3]), starts=starts)
    with pytest.raises(ValueError, match=r"^starts must have shape \(n, 6\) to match U \(6, 2\), got \(6,\)"):
        find(net, starts=starts[0, :6])
    with pytest.raises(ValueError, match=r"^x must have shape \(2,\) or \(5, 2\) .* got \(3,\)"):
        find(net, np.zeros(3), starts=starts)
    with pytest.raises(ValueError, match=r"^alpha must be a number or have shape \(6,\)"):
        find(net._replace(cell=pyrnn.Cell(alpha=np.ones(3))), starts=starts)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tolerance": -1.0}, ValueError, "tolerance must be a finite number from 0, got -1.0"),
        ({"tolerance": "small"}, ValueError, "tolerance must be a finite number from 0, got 'small'"),
        ({"unique_tolerance": np.nan}, ValueError, "unique_tolerance must be a finite number from 0"),
        ({"outlier_distance": None}, ValueError, "outlier_distance must be a finite number from 0"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be a positive integer, got 0"),
        ({"max_iterations": 2.5}, TypeError, "max_iterations must be a positive integer, got 2.5"),
        ({"between": 1}, TypeError, "between must be True or False, got 1"),
        ({"starts": None}, TypeError, "starts must be an array of numbers, got None"),
        ({"starts": np.zeros((2, 6), complex)}, TypeError, "starts must be real numbers"),
        ({"network": 3}, TypeError, "network must be a pyrnn.Network or a pyrnn.RNN, got int"),
        (
            {"network": network()._replace(R=np.zeros((6, 1)))},
            ValueError,
            "network must be without R here: closed_loop",
        ),
        ({"network": pyrnn.RNN(2, 6, num_layers=2)}, ValueError, r"layer must be given .* rnn\.network\(layer\)"),
    ],
)
def test_values_that_do_not_exist(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        find_fixed_points(**{"network": network(), "starts": starts_for(6, 5)} | options)


@pytest.mark.parametrize("form", ["rate", "current"])
def test_float32_is_computed_in_float64(form):
    """With alpha as float32 rounds it."""
    narrow = pyrnn.Network(*(a.astype(np.float32) for a in network(gain=2.0, seed=3).arrays))
    wide = pyrnn.Network(*(a.astype(np.float64) for a in narrow.arrays))
    cells = (pyrnn.Cell(alpha=alpha, form=form) for alpha in (0.3, np.float32(0.3)))
    starts = starts_for(6, 100).astype(np.float32)
    points, expected = (
        find_fixed_points(net._replace(cell=cell), starts=starts.astype(net.U.dtype))
        for net, cell in zip((narrow, wide), cells, strict=True)
    )
    assert points.slow.any()
    assert points.h.dtype == np.float32
    np.testing.assert_array_equal(points.h, expected.h.astype(np.float32))
    for name in ("q", "slow", "origin", "eigenvalues"):
        np.testing.assert_array_equal(getattr(points, name), getattr(expected, name))


def test_an_rnn_of_one_layer_is_its_network(cell, dtype):
    alpha = 1.0 if cell.alpha is None else cell.alpha
    options = {"nonlinearity": cell.nonlinearity, "alpha": alpha, "form": cell.form, "dtype": dtype}
    rnn, starts = pyrnn.RNN(2, 6, output_size=3, rng=0, **options), starts_for(6, 20).astype(dtype)
    points, other = (find_fixed_points(net, np.ones(2, dtype), starts=starts) for net in (rnn, rnn.network()))
    assert len(points) > 0
    assert points.network.cell == rnn.cell
    assert points.network.V is None
    assert points.h.dtype == points.jacobian.dtype == dtype
    for name in ("h", "q", "slow", "origin", "jacobian", "eigenvalues"):
        np.testing.assert_array_equal(getattr(points, name), getattr(other, name))


def test_progress_is_for_a_terminal_alone(monkeypatch, capsys):
    find_fixed_points(network(), starts=starts_for(6, 5))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    clock = itertools.count()
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(clock))
    find_fixed_points(network(gain=2.0), starts=starts_for(6, 50))
    shown = capsys.readouterr().err
    assert "of 50 starts" in shown
    assert shown.endswith("\r\033[K")


@pytest.mark.unsanitized
def test_interrupt():
    net = network(400, gain=1.5)
    run = lambda starts: find_fixed_points(net, starts=starts)
    starts = starts_for(400, 200)
    stops_early(lambda: run(starts), lambda: run(starts[:4]), 50)


# ---- The picture ----------------------------------------------------------------------------------------------------
def test_plot():
    pytest.importorskip("matplotlib")
    net, x = alone(2 * np.eye(3), np.array([0.0, 0.1, 0.7])), np.zeros((30, 4, 1))
    h = pyrnn.simulate(net, x, starts_for(3, 4)).h
    points = find_fixed_points(net, starts=starts_for(3, 200))
    axes = plot_fixed_points(points, h)
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
    assert plot_fixed_points(points, h[:, 0], components=(1, 2), directions=False, axes=other) is other
    assert len(plot_fixed_points(points).lines) > 0
    assert plot_fixed_points(points[:0]).get_legend() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trajectories": np.zeros((5, 2))}, r"trajectories must have shape \(T, B, 3\) or \(T, 3\), got \(5, 2\)"),
        ({"components": (0, 3)}, r"components must be from 0 to 2, got \(0, 3\)"),
        ({"components": 1}, "components must be two integers, got 1"),
    ],
)
def test_plot_of_wrong_arguments(options, message):
    points = find_fixed_points(alone(np.eye(3) / 2), starts=starts_for(3, 5))
    with pytest.raises(ValueError, match=f"^{message}"):
        plot_fixed_points(points, **options)


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    points = find_fixed_points(alone(np.eye(3) / 2), starts=starts_for(3, 5))
    with pytest.raises(Exception, match="pyrnn-bptt\\[plot\\]"):
        plot_fixed_points(points)
