"""find_fixed_points where phi has a kink, against all minima of q, found by enumeration.

With phi'(a) = D on a piece F(h) - h is linear, and q has one minimum there at most, a fixed point. Where the pieces of
some units meet, q may have a minimum too. Each unit is on one side, on the other, or between: 3^H places to look at.
"""

import itertools

import numpy as np
import pytest
from helpers import for_each

import pyrnn
from pyrnn import reference
from pyrnn.dynamics import descent as _descent
from pyrnn.dynamics import find_fixed_points, kinks
from pyrnn.plots import plot_fixed_points

pytestmark = pytest.mark.once

CELLS = {
    "relu": pyrnn.Cell("relu"),
    "leaky relu, rate": pyrnn.Cell("relu", 0.3),
    "relu, current": pyrnn.Cell("relu", 0.3, "current"),
    "relu, leaks by unit": pyrnn.Cell("relu", (0.1, 0.9, 0.5, 1.0, 0.3, 0.7)),
    "leaky_relu": pyrnn.Cell("leaky_relu", negative_slope=0.2),
    "leaky_relu, current": pyrnn.Cell("leaky_relu", 0.4, "current", 0.1),
    "leaky_relu, slope above 1": pyrnn.Cell("leaky_relu", negative_slope=1.5),
}


def network(H, seed, cell, gain=1.5):
    rng = np.random.default_rng(seed)
    if np.ndim(cell.alpha):
        cell = pyrnn.Cell(cell.nonlinearity, cell.alpha[:H], cell.form)
    W, b = gain * rng.standard_normal((H, H)) / H**0.5, rng.standard_normal(H)
    return pyrnn.Network(np.zeros((H, 1)), W, b, cell=cell)


def q_of(h, net):
    """½|F(h) - h|² of rows h, by the reference."""
    U, W, b = net.arrays
    F = reference.forward(np.zeros((1, len(h), 1)), U, W, b, h, cell=net.cell)[0]
    return 0.5 * ((F - h) ** 2).sum(axis=1)


def minima(net):
    """All minima of q, by enumeration: arrays of fixed points and of slow points."""
    (_, W, b), cell, H = net.arrays, net.cell, len(net.W)
    alpha = np.ones(H) if cell.alpha is None else np.broadcast_to(cell.alpha, H)
    low = cell.negative_slope if cell.nonlinearity == "leaky_relu" else 0.0
    A, const = (np.eye(H), np.zeros(H)) if cell.current else (W, b)  # u = A h + const
    fixed, slow = [], []
    for place in itertools.product((-1, 0, 1), repeat=H):
        place = np.array(place)
        D, K = np.where(place > 0, 1.0, low), np.flatnonzero(place == 0)
        # (F(h) - h) / alpha = J h + e
        J, e = (W * D - np.eye(H), b) if cell.current else (D[:, None] * W - np.eye(H), D * b)
        J, e = alpha[:, None] * J, alpha * e
        k = len(K)
        system = np.block([[J.T @ J, A[K].T], [A[K], np.zeros((k, k))]])
        solution = np.linalg.solve(system, np.concatenate([-J.T @ e, -const[K]]))
        h, multipliers = solution[:H], solution[H:]
        u = A @ h + const
        if (np.sign(u) != place)[place != 0].any():
            continue
        s = alpha * (J @ h + e)
        push = (W.T @ s if cell.current else s)[K]
        if k == 0:
            fixed.append(h)
        elif (multipliers > 0).all() and (multipliers < (1 - low) * push).all():
            slow.append(h)
    return np.reshape(fixed, (-1, H)), np.reshape(slow, (-1, H))


def among(found, known, tolerance=1e-7):
    """For each row of `found` whether it is one of the rows of `known`."""
    return (abs(found[:, None] - known).max(axis=2) < tolerance).any(axis=1)


def lowest_around(h, net, distance, n=2000):
    """The lowest q of n states at about this distance from h; half of them are on all kinks that h is on."""
    (_, W, b), H = net.arrays, len(h)
    u, A = (h, np.eye(H)) if net.cell.current else (W @ h + b, W)
    on = A[abs(u) < 1e-9]
    ways = np.random.default_rng(0).standard_normal((n, H)) / H**0.5
    ways[::2] -= ways[::2] @ np.linalg.pinv(on) @ on
    return q_of(h + distance * ways, net).min()


@pytest.mark.parametrize("name", CELLS)
def test_every_point_is_one_of_those_that_enumeration_finds(name):
    """203 networks of 2 to 6 units. Without `Kinks.settle`, 7,621 of 7,835 points were none (from 100 starts)."""
    known, missing = 0, 0
    for seed in range(29):
        H = 2 + seed % 5
        net = network(H, seed, CELLS[name])
        fixed, slow = minima(net)
        points = find_fixed_points(net, starts=3 * np.random.default_rng(seed).standard_normal((60, H)))
        assert (points.origin >= 0).all()
        assert not points.stuck.any()
        found = points.h[~points.slow], points.h[points.slow]
        for actual, expected in zip(found, (fixed, slow), strict=True):
            assert among(actual, expected).all(), seed
            known, missing = known + len(expected), missing + len(expected) - len(actual)
    assert known > 25
    assert missing <= 3  # of all 315: a start leads to each of the others


@pytest.mark.parametrize("name", CELLS)
def test_enumerated_slow_points_are_minima(name):
    """The oracle, by samples of what is around them."""
    count = 0
    for seed in range(12):
        net = network(3, seed, CELLS[name])
        for h in minima(net)[1]:
            assert lowest_around(h, net, 1e-6) > q_of(h[None], net)[0] * (1 - 1e-12)
            count += 1
    assert count > 0


@for_each(["alpha", "form"], [(None, "rate"), (0.4, "rate"), (0.4, "current")])
def test_slow_points_of_retanh_are_minima(alpha, form):
    at_kinks = 0
    for seed in range(12):
        net = network(2 + seed % 5, seed, pyrnn.Cell("retanh", alpha, form), gain=2.5)
        points = find_fixed_points(net, starts=starts_for(net, seed, 30))
        u = points.h if form == "current" else points.h @ net.W.T + net.b
        for h, q in zip(points.h[points.slow], points.q[points.slow], strict=True):
            assert lowest_around(h, net, 1e-5) > q * (1 - 1e-9)
        assert not points.stuck.any()
        at_kinks += np.count_nonzero(points.slow & (abs(u) < 1e-9).any(axis=1))
    assert at_kinks > 5


def test_copies_of_units_reach_their_kinks_together():
    """No multipliers are unique then; and a unit without input or bias is always at its kink."""
    slow = 0
    for seed in range(8):
        net = network(6, seed, pyrnn.Cell("relu"))
        for a in (net.W, net.b):
            a[3:] = a[:3]
            a[0] = 0
        points = find_fixed_points(net, starts=starts_for(net, seed, 40))
        points = points[~points.stuck]
        for h, q in zip(points.h[points.slow], points.q[points.slow], strict=True):
            assert lowest_around(h, net, 1e-6) > q * (1 - 1e-12)
        slow += points.slow.sum()
    assert slow > 0


def starts_for(net, seed, n):
    return 2 * np.random.default_rng(seed).standard_normal((n, len(net.W)))


def test_a_network_of_many_units_has_few_slow_points():
    """Of 100 units, as in training: most starts meet a kink on their way."""
    net = network(100, 0, pyrnn.Cell("relu", 0.2), gain=1.2)
    points = find_fixed_points(net, starts=starts_for(net, 1, 60))
    assert (points.origin >= 0).all()
    assert len(points) <= 5
    for h, q in zip(points.h[points.slow], points.q[points.slow], strict=True):
        assert lowest_around(h, net, 1e-6) > q * (1 - 1e-12)


# ---- Where no minimum is found --------------------------------------------------------------------------------------
@pytest.fixture
def stuck(monkeypatch):
    """Points of a search that never gets away from a kink."""
    monkeypatch.setattr(kinks.Kinks, "settle", lambda self, h, leave: (kinks.STUCK, None))
    net = network(4, 12, CELLS["relu"])
    return find_fixed_points(net, starts=starts_for(net, 0, 50))


def test_points_where_the_search_is_stuck_are_marked(stuck):
    assert 0 < stuck.stuck.sum() < len(stuck)
    assert stuck.slow[stuck.stuck].all()
    assert (np.diff(stuck.stuck.astype(int)) >= 0).all()  # they come last
    assert f"{len(stuck) - stuck.slow.sum()} fixed, 0 slow, {stuck.stuck.sum()} stuck; H = 4" in repr(stuck)
    assert not stuck[~stuck.stuck].stuck.any()
    assert stuck[stuck.stuck].stuck.all()


def test_points_where_the_search_is_stuck_are_not_drawn(stuck):
    pytest.importorskip("matplotlib")
    labels = lambda axes: axes.get_legend_handles_labels()[1]
    assert "stuck" not in labels(plot_fixed_points(stuck))
    axes = plot_fixed_points(stuck, stuck=True)
    (drawn,) = [line for line in axes.lines if line.get_label() == "stuck"]
    assert len(drawn.get_xdata()) == (stuck.stuck & ~stuck.outlier).sum()
    with pytest.raises(TypeError, match=r"^stuck must be True or False, got 1"):
        plot_fixed_points(stuck, stuck=1)


def test_a_minimum_replaces_a_stuck_point_in_its_place():
    net = network(2, 0, CELLS["relu"])
    descent = _descent.Descent(
        net.W, net.b, net.cell, np.zeros((3, 2)), tolerance=0.0, max_iterations=1, unique_tolerance=1e-4
    )
    descent.q[:] = 1.0, 2.0, 0.5
    for row, is_stuck in ((0, True), (1, False), (2, True)):
        descent._arrive(np.array([row]), True, is_stuck)
    assert (descent.points, descent.stuck, list(descent.origin)) == ([1], [False], [0, 0, 0])


def test_a_phi_without_a_kink_never_looks_for_one(monkeypatch):
    monkeypatch.delattr(kinks.Kinks, "settle")
    for cell in (pyrnn.Cell(), pyrnn.Cell("softplus"), pyrnn.Cell("leaky_relu", negative_slope=1.0)):
        net = network(4, 1, cell, gain=0.5)
        assert not find_fixed_points(net, starts=starts_for(net, 0, 20)).stuck.any()


# ---- Speed ----------------------------------------------------------------------------------------------------------
def test_max_speed():
    net = next(net for net in (network(4, seed, CELLS["relu"]) for seed in range(29)) if len(minima(net)[1]))
    starts = starts_for(net, 0, 50)
    points = find_fixed_points(net, starts=starts)
    fastest = points.speed.max()
    assert points.slow.any()
    same, fewer, none = (find_fixed_points(net, starts=starts, max_speed=s) for s in (fastest, 0.99 * fastest, 0))
    np.testing.assert_array_equal(same.h, points.h)
    np.testing.assert_array_equal(fewer.h, points.h[points.speed < 0.99 * fastest])
    assert (fewer.origin == np.where(points.speed[points.origin] < 0.99 * fastest, fewer.origin, -1)).all()
    assert (fewer.origin < 0).sum() == points.counts[points.speed >= 0.99 * fastest].sum()
    assert not none.slow.any()
    for bad in (-1.0, np.nan, np.inf, "fast"):
        with pytest.raises(ValueError, match=r"^max_speed must be a finite number from 0, got "):
            find_fixed_points(net, starts=starts, max_speed=bad)
