"""RTRL, BlockedRTRL, SnAp1, RFLO and UORO against backpropagation through time, PyTorch and their definitions."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from helpers import FUSED, LAYOUTS, allocated, for_each, network

import pyrnn
from pyrnn import reference
from pyrnn._core import table
from pyrnn.online import RFLO, RTRL, UORO, BlockedRTRL, OnlineGradients, SnAp1

pytestmark = pytest.mark.compiled

EXACT = [RTRL, BlockedRTRL]
LEARNERS = [*EXACT, SnAp1, RFLO, UORO]
LEAKS = [(None, "rate"), *itertools.product((0.3, "units"), ("rate", "current"))]
PLAIN = pyrnn.Cell()


@pytest.fixture(params=itertools.product(("tanh", "relu", "identity"), LEAKS), ids=str)
def make_cell(request):
    """Of H units, in each form."""
    nonlinearity, (alpha, form) = request.param
    return lambda H: pyrnn.Cell(nonlinearity, np.linspace(0.2, 0.9, H) if alpha == "units" else alpha, form)


def exact(n, cell, T):
    """The gradients of the first T steps by `pyrnn.backward`, as a learner names them."""
    x, U, W, b, h0, dh = (n[name] for name in ("x", "U", "W", "b", "h0", "dh"))
    rates = None if cell.alpha is None else np.empty_like(dh[:T])
    h = pyrnn.forward(x[:T], U, W, b, h0, cell=cell, rates=rates)
    g = pyrnn.backward(dh[:T], h, x[:T], U, W, h0, cell=cell, rates=rates)
    return OnlineGradients(g.U, g.W, g.b, g.h0, g.alpha)


def added(total, g):
    if total is None or g is None:
        return g if total is None else total
    return OnlineGradients(*(None if a is None else a + c for a, c in zip(total, g, strict=True)))


def assert_same(actual, expected, tolerance=1e-12):
    for name, a, e in zip(actual._fields, actual, expected, strict=True):
        assert (a is None) == (e is None), name
        if a is not None:
            largest = max(np.abs(e).max(initial=0), 1e-300)
            np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * largest, err_msg=name)


def of(n, cell=PLAIN):
    return pyrnn.Network(n["U"], n["W"], n["b"], cell=cell)


def made(cls, n, B, cell=PLAIN, **more):
    return cls(of(n, cell), n["h0"], batch=B, **more)


# ---- Exact ones -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("B", [None, 1, 3])
@pytest.mark.parametrize("H", [1, 5, 33])
def test_sums_of_rtrl_are_those_of_backward_at_every_step(make_cell, B, H):
    n, cell = network(T=7, B=B, I=2, H=H), make_cell(H)
    learner, total = made(RTRL, n, B, cell), None
    for t in range(7):
        g = learner.step(n["x"][t], n["dh"][t])
        assert (g.U.shape, g.W.shape, g.b.shape, g.h0.shape) == ((H, 2), (H, H), (H,), n["h0"].shape)
        total = added(total, g)
        assert_same(total, exact(n, cell, t + 1))


@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("H", [1, 5, 33])
@pytest.mark.parametrize("block", [1, 3, None])
def test_sums_of_blocks_are_those_of_backward_at_every_end(make_cell, B, H, block):
    T = 8
    n, cell = network(T=T, B=B, I=2, H=H), make_cell(H)
    learner, total, size = made(BlockedRTRL, n, B, cell, block=block), None, block or H
    for t in range(T):
        g = learner.step(n["x"][t], n["dh"][t])
        assert (g is not None) == ((t + 1) % size == 0)
        total = added(total, g)
        if g is not None:
            assert_same(total, exact(n, cell, t + 1))
    assert_same(added(total, learner.finish()), exact(n, cell, T))
    assert not learner.finish().W.any()


@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("block", [1, 3, 20])
def test_blocks_at_every_step_are_rtrl(make_cell, B, block):
    n, cell = network(T=8, B=B, I=2, H=6), make_cell(6)
    learner = made(BlockedRTRL, n, B, cell, block=block, every_step=True)
    other = made(RTRL, n, B, cell)
    for x, dh in zip(n["x"], n["dh"], strict=True):
        expected = other.step(x, dh)
        assert_same(learner.step(x, dh), expected, 1e-11)
        assert_same(learner.gradients(dh), expected, 1e-11)
    assert not learner.finish().W.any()


@pytest.mark.parametrize("cls", EXACT)
@pytest.mark.parametrize("name", table.available())
def test_every_instruction_set(cls, name):
    n, before = network(T=9, B=None, I=1, H=65), table.selected()
    learner, total = made(cls, n, None, **({"block": 2} if cls is BlockedRTRL else {})), None
    try:
        table.select(name)
        for x, dh in zip(n["x"], n["dh"], strict=True):
            total = added(total, learner.step(x, dh))
        total = added(total, learner.finish()) if cls is BlockedRTRL else total
    finally:
        table.select(before)
    assert_same(total, exact(n, PLAIN, 9))


def test_rtrl_is_the_specification(make_cell):
    n, cell = network(T=6, B=None, I=2, H=5), make_cell(5)
    learner = made(RTRL, n, None, cell)
    plain = reference.RTRL(of(n, cell), n["h0"])
    for x, dh in zip(n["x"], n["dh"], strict=True):
        g, (G, G_alpha, G_h0) = learner.step(x, dh), plain.step(x, dh)
        alpha = None if cell.alpha is None else cell.alpha_gradient(G_alpha)
        assert_same(g, OnlineGradients(G[:, 5:7], G[:, :5], G[:, 7], G_h0, alpha))
    influence = learner.influence()
    for part, columns in ((influence.W, np.s_[:5]), (influence.U, np.s_[5:7]), (influence.b, 7)):
        np.testing.assert_allclose(part, plain.P[:, columns], atol=1e-13)
    np.testing.assert_allclose(influence.h0, plain.P_h0, atol=1e-13)


@pytest.mark.peer
def test_one_step_is_pytorch_s_gradient_of_its_loss():
    torch = pytest.importorskip("torch")
    n = network(T=6, B=2, I=3, H=4)
    learner = made(RTRL, n, 2)
    for t in range(6):
        g = learner.step(n["x"][t], dh=lambda h: 2 * h)
        U, W, b, h0 = (torch.tensor(n[name], requires_grad=True) for name in ("U", "W", "b", "h0"))
        h = h0
        for x in torch.tensor(n["x"][: t + 1]):
            h = torch.tanh(x @ U.T + h @ W.T + b)
        (h**2).sum().backward()  # of step t alone
        assert_same(g, OnlineGradients(*(a.grad.numpy() for a in (U, W, b, h0))))


@pytest.mark.parametrize("cls", LEARNERS)
def test_states_have_the_bits_of_forward(make_cell, dtype, cls):
    n, cell = network(T=5, B=3, I=2, H=7, dtype=dtype), make_cell(7)
    learner = made(cls, n, 3, cell)
    h = [learner.forward(x) for x in n["x"]]
    assert learner.dtype == dtype
    assert np.array_equal(h, FUSED.forward(n["x"], n["U"], n["W"], n["b"], n["h0"], cell=cell))
    assert np.array_equal(learner.h, h[-1])


@pytest.mark.parametrize("cls", EXACT)
def test_float32(cls):
    n = network(T=9, B=2, I=3, H=20, dtype=np.float32)
    learner, total = made(cls, n, 2), None
    for t in range(9):
        total = added(total, learner.step(n["x"][t], n["dh"][t]))
    total = added(total, learner.finish()) if cls is BlockedRTRL else total
    assert all(a.dtype == np.float32 for a in total[:4])
    assert_same(total, exact({name: np.float64(a) for name, a in n.items()}, PLAIN, 9), 1e-5)


# ---- Approximations -------------------------------------------------------------------------------------------------
def test_snap_1_is_exact_for_diagonal_weights(make_cell):
    n, cell = network(T=7, B=2, I=2, H=5), make_cell(5)
    n["W"] = np.diag(np.linspace(-0.9, 0.8, 5))
    learner, other = made(SnAp1, n, 2, cell), made(RTRL, n, 2, cell)
    for x, dh in zip(n["x"], n["dh"], strict=True):
        g, e = learner.step(x, dh), other.step(x, dh)
        assert_same(g, e._replace(h0=None))  # those of other entries of W count too: they start from zero


def test_rflo_is_exact_without_recurrent_weights(make_cell):
    n, cell = network(T=7, B=2, I=2, H=5), make_cell(5)
    n["W"] = np.zeros((5, 5))
    learner, other = made(RFLO, n, 2, cell), made(RTRL, n, 2, cell)
    for x, dh in zip(n["x"], n["dh"], strict=True):
        assert_same(learner.step(x, dh), other.step(x, dh)._replace(h0=None))


@pytest.mark.parametrize(("cls", "kept"), [(SnAp1, True), (RFLO, False)])
def test_traces_by_their_definition(make_cell, cls, kept):
    """e <- d e + immediate, with d the diagonal of the Jacobian or 1 - alpha, on a W that is not diagonal."""
    n, cell = network(T=6, B=None, I=2, H=5), make_cell(5)
    learner, e, h, units = made(cls, n, None, cell), np.zeros((5, 8)), n["h0"], np.arange(5)
    for x, dh in zip(n["x"], n["dh"], strict=True):
        one_step = RTRL(of(n, cell), h)
        h = one_step.forward(x)
        i = one_step.influence()
        J = i.h0.T
        d = np.diag(J) if kept else 1 - np.broadcast_to(1 if cell.alpha is None else cell.alpha, (5,))
        e = d[:, np.newaxis] * e + np.concatenate([i.W, i.U, i.b[:, np.newaxis]], axis=1)[units, :, units]
        g = learner.step(x, dh)
        np.testing.assert_allclose(
            np.concatenate([g.W, g.U, g.b[:, np.newaxis]], axis=1), dh[:, np.newaxis] * e, atol=1e-13
        )


def test_uoro_has_the_mean_of_rtrl(make_cell):
    """Many seeds at once, as a batch of equal sequences; the mean is within five standard errors of the exact one."""
    n, cell, seeds = network(T=4, B=None, I=2, H=4), make_cell(4), 20_000
    exact_one = made(RTRL, n, None, cell)
    many = UORO(of(n, cell), np.tile(n["h0"], (seeds, 1)), batch=seeds, rng=1)
    for x, dh in zip(n["x"], n["dh"], strict=True):
        expected = exact_one.step(x, dh)
        many.forward(np.tile(x, (seeds, 1)))
    many.gradients()
    each = (many._v @ dh)[:, np.newaxis, np.newaxis] * many._theta
    expected = np.concatenate([expected.W, expected.U, expected.b[:, np.newaxis]], axis=1)
    error, deviation = each[:, :, :7].mean(axis=0) - expected, each[:, :, :7].std(axis=0)
    assert (np.abs(error) <= 5 * deviation / seeds**0.5 + 1e-12).all()
    assert deviation.max() > 0.1 * np.abs(expected).max()  # that it is random, and the bound not empty
    mean = many.gradients(np.tile(dh / seeds, (seeds, 1)))
    np.testing.assert_allclose(mean.W, each[:, :, :4].mean(axis=0), atol=1e-10)


def test_uoro_repeats_itself_from_a_seed():
    n = network(T=4, B=None)
    runs = [[made(UORO, n, None, rng=seed).step(n["x"][0], n["dh"][0]).W] for seed in (0, 0, 1)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


# ---- The interface --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cls", LEARNERS)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_go_on_by_themselves(cls, copied):
    n = network(T=6, B=2)
    more = {"block": 3} if cls is BlockedRTRL else {"rng": 3} if cls is UORO else {}
    learner, other = (made(cls, n, 2, pyrnn.Cell(alpha=0.5), **more) for _ in range(2))
    for t in range(6):
        if t in (2, 3):
            before = learner
            learner = copied(before)
            before.step(n["x"][0])  # writes to what it carries
            before.step(n["x"][1])
        a, b = (one.step(n["x"][t], n["dh"][t]) for one in (learner, other))
        assert (a is None) == (b is None)
        if a is not None:
            assert_same(a, b, 0)


@pytest.mark.parametrize("cls", LEARNERS)
@pytest.mark.parametrize(("B", "I", "H"), [(None, 0, 3), (None, 2, 0), (0, 2, 3), (2, 0, 0), (None, 1, 1)])
def test_nothing_and_one(cls, B, I, H):
    n = network(T=9, B=B, I=I, H=H)
    learner = made(cls, n, B, pyrnn.Cell(alpha=0.5))
    for x, dh in zip(n["x"], n["dh"], strict=True):
        g = learner.step(x, dh)
        if g is not None:
            assert (g.U.shape, g.W.shape) == ((H, I), (H, H))
            assert np.isfinite(g.U).all()


@pytest.mark.parametrize("cls", EXACT)
def test_steps_without_loss_and_gradients_asked_late(cls):
    n = network(T=7, B=None)
    n["dh"][[0, 1, 2, 4]] = 0
    learner, total = made(cls, n, None, **({"block": 3} if cls is BlockedRTRL else {})), None
    for t in range(7):
        if n["dh"][t].any():
            total = added(total, learner.step(n["x"][t], n["dh"][t]))
        else:
            learner.forward(n["x"][t])
    total = added(total, learner.finish()) if cls is BlockedRTRL else total
    assert_same(total, exact(n, PLAIN, 7))


def test_gradients_twice_and_in_parts():
    n = network(T=3, B=None)
    learner, other = (made(RTRL, n, None) for _ in range(2))
    for x in n["x"]:
        learner.forward(x)
        other.forward(x)
    whole = learner.gradients(n["dh"][2])
    assert_same(learner.gradients(n["dh"][2]), whole)
    assert_same(added(other.gradients(n["dh"][0]), other.gradients(n["dh"][2] - n["dh"][0])), whole)


@pytest.mark.parametrize("cls", LEARNERS)
def test_update_changes_what_follows_alone(cls):
    n = network(T=4, B=None)
    more = {"block": 2} if cls is BlockedRTRL else {"rng": 0} if cls is UORO else {}
    learner = made(cls, n, None, pyrnn.Cell(alpha=0.5), **more)
    for x in n["x"][:2]:
        learner.step(x)
    before, held = learner.h, n["W"] * 0.5
    slow = pyrnn.Cell(alpha=0.25)
    learner.update(pyrnn.Network(n["U"] + 1, held, n["b"] * 0, cell=slow))
    held[:] = np.nan  # a copy was taken
    assert np.array_equal(learner.h, before)
    assert np.array_equal(learner.network.W, n["W"] * 0.5)
    assert learner.network.cell == slow
    expected = FUSED.forward(n["x"][2:3], n["U"] + 1, n["W"] * 0.5, None, before, cell=slow)
    assert np.array_equal(learner.forward(n["x"][2]), expected[0])


@pytest.mark.parametrize("cls", LEARNERS)
def test_a_new_alpha_decides_what_its_gradient_is(cls):
    """A number where alpha is one, whatever it was before; the rest of the gradients does not change."""
    n, more = network(T=2, B=None), {"block": 1} if cls is BlockedRTRL else {"rng": 0} if cls is UORO else {}
    cells = [pyrnn.Cell(alpha=alpha) for alpha in (0.5, np.full(6, 0.5))]
    results = []
    for cell in cells:
        learner = made(cls, n, None, cells[0], **more)
        learner.step(n["x"][0])
        learner.update(of(n, cell))
        assert learner.network.cell == cell
        results.append(learner.step(n["x"][1], n["dh"][1]))
    number, each = (g.alpha for g in results)
    assert (np.shape(number), np.shape(each)) == ((), (6,))
    np.testing.assert_allclose(number, each.sum(), rtol=1e-13)
    assert_same(*(g._replace(alpha=None) for g in results), 0)


def test_the_influence_at_an_update_is_of_the_old_parameters():
    n = network(T=3, B=None)
    learner, other = (made(RTRL, n, None) for _ in range(2))
    learner.forward(n["x"][0])
    learner.update(of(n)._replace(W=n["W"] * 2))  # before the influence has made its step
    assert np.array_equal(learner.influence().U, (other.forward(n["x"][0]), other.influence().U)[1])


@pytest.mark.parametrize("asked", [(), (0, 1, 2, 5, 9), range(12)], ids=len)
def test_updates_at_every_step(make_cell, asked):
    """The influence goes through each Jacobian as it was, also where it is asked for between."""
    n, cell = network(T=12, B=None, I=2, H=5), make_cell(5)
    rng = np.random.default_rng(0)
    learner = made(RTRL, n, None, cell)
    plain = reference.RTRL(of(n, cell), n["h0"])
    for t in range(12):
        g, (G, G_alpha, G_h0) = learner.step(n["x"][t], n["dh"][t]), plain.step(n["x"][t], n["dh"][t])
        alpha = None if cell.alpha is None else cell.alpha_gradient(G_alpha)
        assert_same(g, OnlineGradients(G[:, 5:7], G[:, :5], G[:, 7], G_h0, alpha))
        if t in asked:
            np.testing.assert_allclose(learner.influence().W, plain.P[:, :5], rtol=0, atol=1e-13)
        U, W, b = (a + 0.1 * rng.standard_normal(a.shape) for a in plain.network[:3])
        plain.network = pyrnn.Network(U, W, b, cell=cell)
        learner.update(plain.network)
    np.testing.assert_allclose(learner.influence().h0, plain.P_h0, rtol=0, atol=1e-13)


def test_a_block_cannot_be_updated_within():
    n = network(T=2, B=None)
    learner = made(BlockedRTRL, n, None, block=5)
    learner.step(n["x"][0])
    with pytest.raises(RuntimeError, match="finish"):
        learner.update(of(n))
    learner.finish()
    learner.update(of(n))
    with pytest.raises(RuntimeError, match="after forward"):
        learner.gradients(n["dh"][0])


@pytest.mark.parametrize("cls", LEARNERS)
def test_reset_forgets(cls):
    n = network(T=3, B=2)
    more = {"block": 1} if cls is BlockedRTRL else {"rng": 0} if cls is UORO else {}
    learner, new = (made(cls, n, 2, **more) for _ in range(2))
    learner.step(n["x"][0])
    learner.reset()
    if cls is UORO:
        new._rng = copy.deepcopy(learner._rng)
    assert_same(learner.step(n["x"][1], n["dh"][1]), new.step(n["x"][1], n["dh"][1]), 0)
    learner.reset(n["h0"] * 2)
    assert np.array_equal(learner.h, n["h0"] * 2)


@pytest.mark.parametrize("cls", LEARNERS)
def test_bad_arguments(cls):
    n = network(B=None, I=4, H=6)
    with pytest.raises(ValueError, match=r"W must have shape \(6, 6\) to match U \(6, 4\), got \(6, 4\)"):
        cls(pyrnn.Network(n["U"], n["U"]))
    with pytest.raises(ValueError, match="batch must be an integer from 0, got -1"):
        cls(of(n), batch=-1)
    with pytest.raises(TypeError, match=r"batch must be an integer from 0, got 1\.5"):
        cls(of(n), batch=1.5)
    with pytest.raises(ValueError, match=r"h0 must have shape \(2, 6\) to match U \(6, 4\), got \(6,\)"):
        cls(of(n), n["h0"], batch=2)
    with pytest.raises(ValueError, match=r"alpha must be a number or have shape \(6,\), got \(3,\)"):
        cls(of(n, pyrnn.Cell(alpha=np.ones(3))))
    with pytest.raises(ValueError, match="network must be without R here: closed_loop"):
        cls(of(n)._replace(V=n["V"], R=n["V"].T))
    with pytest.raises(TypeError, match=r"network must be a pyrnn\.Network or a pyrnn\.RNN, got tuple"):
        cls((n["U"], n["W"]))
    learner = cls(of(n))
    before = learner.h
    with pytest.raises(ValueError, match=r"x must have shape \(4,\), got \(5,\)"):
        learner.step(np.ones(5), np.ones(6))
    with pytest.raises(ValueError, match=r"dh must have shape \(6,\), got \(5,\)"):
        learner.step(np.ones(4), np.ones(5))
    with pytest.raises(TypeError, match="complex128"):
        learner.step(np.ones(4) + 0j)
    assert np.array_equal(learner.h, before)
    narrow = cls(pyrnn.Network(np.float32(n["U"]), np.float32(n["W"])))
    with pytest.raises(TypeError, match="float32, the learner's, can hold, got float64"):
        narrow.step(n["x"][0])


UPDATES = [
    ({"b": None}, ValueError, "b must be given for a learner made with it, got None"),
    ({"W": np.ones((6, 4))}, ValueError, r"W must have shape \(6, 6\), got \(6, 4\)"),
    ({"U": np.ones((6, 3))}, ValueError, r"U must have shape \(6, 4\), got \(6, 3\)"),
    ({"b": np.ones(5)}, ValueError, r"b must have shape \(6,\), got \(5,\)"),
    ({"W": np.ones((6, 6), complex)}, TypeError, "W must be real numbers"),
    ({"R": np.ones((6, 2))}, ValueError, "network must be without R here"),
    ({"cell": pyrnn.Cell()}, ValueError, "alpha must be given for a learner made with it, got None"),
    ({"cell": pyrnn.Cell(alpha=np.ones(5))}, ValueError, r"alpha must be a number or have shape \(6,\), got \(5,\)"),
    ({"cell": pyrnn.Cell("relu", 0.5)}, ValueError, "nonlinearity must be 'tanh', the learner's, got 'relu'"),
    ({"cell": pyrnn.Cell("tanh", 0.5, "current")}, ValueError, "form must be 'rate', the learner's, got 'current'"),
]


@pytest.mark.parametrize("cls", LEARNERS)
@pytest.mark.parametrize(("changes", "error", "message"), UPDATES)
def test_bad_updates(cls, changes, error, message):
    n = network(B=None, I=4, H=6)
    whole = of(n, pyrnn.Cell(alpha=0.5))
    learner = cls(whole)
    with pytest.raises(error, match=message):
        learner.update(whole._replace(U=n["U"] + 1)._replace(**changes))
    assert np.array_equal(learner.network.U, n["U"])
    assert learner.network.cell == whole.cell


@pytest.mark.parametrize("cls", LEARNERS)
def test_updates_of_what_was_not_there(cls):
    n = network(B=None, I=4, H=6)
    whole = pyrnn.Network(*(n[name].astype(np.float32) for name in ("U", "W")))
    learner = cls(whole)
    with pytest.raises(ValueError, match="b must be None for a learner made without it, got an array"):
        learner.update(whole._replace(b=np.ones(6, np.float32)))
    with pytest.raises(ValueError, match=r"alpha must be None for a learner made without it, got 0\.5"):
        learner.update(whole._replace(cell=pyrnn.Cell(alpha=0.5)))
    with pytest.raises(TypeError, match=r"network must be of a dtype that float32, .* can hold, got float64"):
        learner.update(whole._replace(W=n["W"]))
    learner.update(whole._replace(V=n["V"], c=n["c"]))  # of another dtype, but it plays no part
    assert learner.dtype == np.float32


@pytest.mark.parametrize("cls", LEARNERS)
def test_the_network_of_a_learner(cls, make_cell):
    n, cell = network(B=None), make_cell(6)
    whole = of(n, cell)._replace(V=n["V"], c=n["c"])
    learner = cls(whole)
    assert learner.network.cell == cell
    assert learner.network.V is None
    for name in ("U", "W", "b"):
        a = getattr(learner.network, name)
        assert np.array_equal(a, n[name])
        assert not np.shares_memory(a, n[name])


@pytest.mark.parametrize("name", ["batch", "dtype", "input_size", "hidden_size", "h", "network"])
def test_sizes_and_parameters_are_read_only(name):
    """What is carried was allocated for them."""
    learner = made(RTRL, network(B=None), None)
    with pytest.raises(AttributeError):
        setattr(learner, name, 1)


def test_bad_blocks():
    n = network(B=None)
    with pytest.raises(ValueError, match="block must be an integer from 1, got 0"):
        BlockedRTRL(of(n), block=0)
    with pytest.raises(TypeError, match="block must be an integer from 1, got '3'"):
        BlockedRTRL(of(n), block="3")
    with pytest.raises(TypeError, match="every_step must be True or False, got 1"):
        BlockedRTRL(of(n), every_step=1)


@pytest.mark.parametrize("cls", LEARNERS)
def test_an_rnn_of_one_layer_is_its_network(cls, make_cell):
    cell, more = make_cell(5), {"rng": 0} if cls is UORO else {}
    alpha = 1.0 if cell.alpha is None else cell.alpha
    options = {"nonlinearity": cell.nonlinearity, "alpha": alpha, "form": cell.form, "dtype": np.float64}
    rnn, rng = pyrnn.RNN(3, 5, output_size=2, rng=0, **options), np.random.default_rng(0)
    assert rnn.cell == cell
    learners = [cls(network, batch=2, **more) for network in (rnn, rnn.network())]
    for _ in range(2):
        for x, dh in zip(rng.standard_normal((7, 2, 3)), rng.standard_normal((7, 2, 5)), strict=True):
            results = [learner.step(x, dh) for learner in learners]
            assert np.array_equal(*(learner.h for learner in learners))
            if results[0] is not None:
                assert_same(*results, 0)
        if cls is BlockedRTRL:
            assert_same(*(learner.finish() for learner in learners), 0)
        rnn.parameters[...] *= 0.9
        learners[0].update(rnn)
        learners[1].update(rnn.network())
    with pytest.raises(ValueError, match=r"rnn\.network\(layer\)"):
        cls(pyrnn.RNN(3, 5, num_layers=2))
    with pytest.raises(ValueError, match=r"rnn\.network\(layer\)"):
        learners[0].update(pyrnn.RNN(3, 5, num_layers=2))


@pytest.mark.parametrize("cls", LEARNERS)
def test_nan_passes_through(cls):
    n = network(T=2, B=2)
    learner = made(cls, n, 2, **({"block": 2} if cls is BlockedRTRL else {}))
    x = n["x"].copy()
    x[0, 0, 0] = np.nan
    h = [learner.forward(row) for row in x]
    assert np.isnan(h[1][0]).all()
    assert np.isfinite(h[1][1]).all()
    assert np.isnan(learner.gradients(n["dh"][1]).W).any()


@pytest.mark.parametrize("cls", LEARNERS)
def test_infinities_give_no_warning(cls):
    """Sums over the batch of what is inf and -inf; then of NaN."""
    learner = cls(pyrnn.Network(np.ones((3, 1)), np.eye(3), cell=pyrnn.Cell("identity", alpha=0.5)), batch=2)
    x = np.array([[np.inf], [-np.inf]])
    steps = [learner.step(x, np.ones((2, 3))) for _ in range(3)]
    assert np.isnan(steps[-1].U).all()


@pytest.mark.parametrize("cls", LEARNERS)
@for_each("layout", LAYOUTS)
def test_any_layout_and_nothing_written(cls, layout):
    n = network(T=2, B=3)
    more = {"block": 1} if cls is BlockedRTRL else {"rng": 0} if cls is UORO else {}
    plain = made(cls, n, 3, **more)
    laid = {name: layout(n[name]) for name in ("U", "W", "b", "h0")}
    other = made(cls, laid, 3, **more)
    for x, dh in zip(n["x"], n["dh"], strict=True):
        a, d = layout(x), layout(dh)
        bytes_before = (a.tobytes(), d.tobytes())
        assert_same(other.step(a, d), plain.step(x, dh), 0)
        assert (a.tobytes(), d.tobytes()) == bytes_before


@pytest.mark.parametrize("cls", LEARNERS)
def test_states_handed_out_are_copies(cls):
    n = network(T=2, B=None)
    learner = made(cls, n, None)
    learner.forward(n["x"][0])[:] = np.nan
    learner.h[:] = np.nan
    learner.network.W[:] = np.nan
    assert np.isfinite(learner.forward(n["x"][1])).all()


@pytest.mark.unsanitized
def test_steps_allocate_nothing_large():
    """The influence of H = 64 has 2.5 MB; a step takes its gradients, of 38 KB, and up to four Jacobians of 33 KB."""
    learner, x, dh = RTRL(pyrnn.initialize(8, 64, rng=0)), np.ones(8), np.ones(64)

    def steps():
        for _ in range(8):  # of which some move the influence
            learner.step(x, dh)

    steps()  # scratch memory has then its size
    _, most = allocated(steps)
    assert most < 300_000


def test_an_interrupted_learner_says_so():
    n = network(T=2, B=None)
    learner = made(RTRL, n, None)
    learner.forward(n["x"][0])
    step = learner._step
    learner._step = step._replace(moved="no array")  # whatever stops the step of the influence
    with pytest.raises(TypeError):
        learner.gradients(n["dh"][0])
    with pytest.raises(RuntimeError, match="reset"):
        learner.forward(n["x"][1])
    learner.reset()
    assert np.isfinite(learner.step(n["x"][0], n["dh"][0]).W).all()
