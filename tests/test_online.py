"""RTRL, BlockedRTRL, SnAp1, RFLO and UORO against backpropagation through time, PyTorch and their definitions."""

import copy
import pickle

import numpy as np
import pytest
from helpers import allocated, network

import pyrnn
from pyrnn import _kernels, reference

pytestmark = [pytest.mark.compiled, pytest.mark.peer]

EXACT = [pyrnn.RTRL, pyrnn.BlockedRTRL]
LEARNERS = [*EXACT, pyrnn.SnAp1, pyrnn.RFLO, pyrnn.UORO]
FORMS = [
    {"nonlinearity": "tanh"},
    {"nonlinearity": "relu"},
    {"nonlinearity": "identity"},
    {"nonlinearity": "tanh", "alpha": 0.3},
    {"nonlinearity": "relu", "alpha": "units"},
    {"nonlinearity": "tanh", "alpha": 0.3, "form": "current"},
    {"nonlinearity": "relu", "alpha": "units", "form": "current"},
]


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(map(str, form.values())))
def form(request):
    return request.param


def options(form, H):
    """The form with a leak for each unit where it says so."""
    return form | ({"alpha": np.linspace(0.2, 0.9, H)} if form.get("alpha") == "units" else {})


def exact(n, form, T):
    """The gradients of the first T steps by `pyrnn.backward`, as a learner names them."""
    x, U, W, b, h0, dh = (n[name] for name in ("x", "U", "W", "b", "h0", "dh"))
    rates = np.empty_like(dh[:T]) if form.get("alpha") is not None else None
    h = pyrnn.forward(x[:T], U, W, b, h0, rates=rates, **form)
    g = pyrnn.backward(dh[:T], h, x[:T], U, W, h0, rates=rates, **form)
    return pyrnn.OnlineGradients(g.U, g.W, g.b, g.h0, g.alpha)


def added(total, g):
    if total is None or g is None:
        return g if total is None else total
    return pyrnn.OnlineGradients(*(None if a is None else a + c for a, c in zip(total, g, strict=True)))


def assert_same(actual, expected, tolerance=1e-12):
    for name, a, e in zip(actual._fields, actual, expected, strict=True):
        assert (a is None) == (e is None), name
        if a is not None:
            largest = max(np.abs(e).max(initial=0), 1e-300)
            np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * largest, err_msg=name)


def made(cls, n, B, form, **more):
    return cls(n["U"], n["W"], n["b"], n["h0"], batch=B, **form, **more)


# ---- Exact ones -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("B", [None, 1, 3])
@pytest.mark.parametrize("H", [1, 5, 33])
def test_sums_of_rtrl_are_those_of_backward_at_every_step(form, B, H):
    n, form = network(T=7, B=B, I=2, H=H), options(form, H)
    learner, total = made(pyrnn.RTRL, n, B, form), None
    for t in range(7):
        g = learner.step(n["x"][t], n["dh"][t])
        assert (g.U.shape, g.W.shape, g.b.shape, g.h0.shape) == ((H, 2), (H, H), (H,), n["h0"].shape)
        total = added(total, g)
        assert_same(total, exact(n, form, t + 1))


@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("H", [1, 5, 33])
@pytest.mark.parametrize("block", [1, 3, None])
def test_sums_of_blocks_are_those_of_backward_at_every_end(form, B, H, block):
    T = 8
    n, form = network(T=T, B=B, I=2, H=H), options(form, H)
    learner, total, size = made(pyrnn.BlockedRTRL, n, B, form, block=block), None, block or H
    for t in range(T):
        g = learner.step(n["x"][t], n["dh"][t])
        assert (g is not None) == ((t + 1) % size == 0)
        total = added(total, g)
        if g is not None:
            assert_same(total, exact(n, form, t + 1))
    assert_same(added(total, learner.finish()), exact(n, form, T))
    assert not learner.finish().W.any()


@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("block", [1, 3, 20])
def test_blocks_at_every_step_are_rtrl(form, B, block):
    n, form = network(T=8, B=B, I=2, H=6), options(form, 6)
    learner = made(pyrnn.BlockedRTRL, n, B, form, block=block, every_step=True)
    other = made(pyrnn.RTRL, n, B, form)
    for x, dh in zip(n["x"], n["dh"], strict=True):
        expected = other.step(x, dh)
        assert_same(learner.step(x, dh), expected, 1e-11)
        assert_same(learner.gradients(dh), expected, 1e-11)
    assert not learner.finish().W.any()


@pytest.mark.parametrize("cls", EXACT)
@pytest.mark.parametrize("name", _kernels.available())
def test_every_instruction_set(cls, name):
    n, before = network(T=9, B=None, I=1, H=65), _kernels.selected()
    learner, total = made(cls, n, None, {}, **({"block": 2} if cls is pyrnn.BlockedRTRL else {})), None
    try:
        _kernels.select(name)
        for x, dh in zip(n["x"], n["dh"], strict=True):
            total = added(total, learner.step(x, dh))
        total = added(total, learner.finish()) if cls is pyrnn.BlockedRTRL else total
    finally:
        _kernels.select(before)
    assert_same(total, exact(n, {}, 9))


def test_rtrl_is_the_specification(form):
    n, form = network(T=6, B=None, I=2, H=5), options(form, 5)
    learner = made(pyrnn.RTRL, n, None, form)
    plain = reference.RTRL(n["U"], n["W"], n["b"], n["h0"], **form)
    for x, dh in zip(n["x"], n["dh"], strict=True):
        g, (G, G_alpha, G_h0) = learner.step(x, dh), plain.step(x, dh)
        alpha = None if g.alpha is None else G_alpha if np.ndim(form["alpha"]) else G_alpha.sum()
        assert_same(g, pyrnn.OnlineGradients(G[:, 5:7], G[:, :5], G[:, 7], G_h0, alpha))
    influence = learner.influence()
    for part, columns in ((influence.W, np.s_[:5]), (influence.U, np.s_[5:7]), (influence.b, 7)):
        np.testing.assert_allclose(part, plain.P[:, columns], atol=1e-13)
    np.testing.assert_allclose(influence.h0, plain.P_h0, atol=1e-13)


def test_one_step_is_pytorch_s_gradient_of_its_loss():
    torch = pytest.importorskip("torch")
    n = network(T=6, B=2, I=3, H=4)
    learner = made(pyrnn.RTRL, n, 2, {})
    for t in range(6):
        g = learner.step(n["x"][t], dh=lambda h: 2 * h)
        U, W, b, h0 = (torch.tensor(n[name], requires_grad=True) for name in ("U", "W", "b", "h0"))
        h = h0
        for x in torch.tensor(n["x"][: t + 1]):
            h = torch.tanh(x @ U.T + h @ W.T + b)
        (h**2).sum().backward()  # of step t alone
        assert_same(g, pyrnn.OnlineGradients(*(a.grad.numpy() for a in (U, W, b, h0))))


@pytest.mark.parametrize("cls", LEARNERS)
def test_states_have_the_bits_of_forward(form, dtype, cls):
    n, form = network(T=5, B=3, I=2, H=7, dtype=dtype), options(form, 7)
    if "alpha" in form:
        form["alpha"] = dtype(form["alpha"])
    learner = made(cls, n, 3, form)
    h = [learner.forward(x) for x in n["x"]]
    assert learner.dtype == dtype
    assert np.array_equal(h, pyrnn.forward(n["x"], n["U"], n["W"], n["b"], n["h0"], engine="fused", **form))
    assert np.array_equal(learner.h, h[-1])


@pytest.mark.parametrize("cls", EXACT)
def test_float32(cls):
    n = network(T=9, B=2, I=3, H=20, dtype=np.float32)
    learner, total = made(cls, n, 2, {}), None
    for t in range(9):
        total = added(total, learner.step(n["x"][t], n["dh"][t]))
    total = added(total, learner.finish()) if cls is pyrnn.BlockedRTRL else total
    assert all(a.dtype == np.float32 for a in total[:4])
    assert_same(total, exact({name: np.float64(a) for name, a in n.items()}, {}, 9), 1e-5)


# ---- Approximations -------------------------------------------------------------------------------------------------
def test_snap_1_is_exact_for_diagonal_weights(form):
    n, form = network(T=7, B=2, I=2, H=5), options(form, 5)
    n["W"] = np.diag(np.linspace(-0.9, 0.8, 5))
    learner, other = made(pyrnn.SnAp1, n, 2, form), made(pyrnn.RTRL, n, 2, form)
    for x, dh in zip(n["x"], n["dh"], strict=True):
        g, e = learner.step(x, dh), other.step(x, dh)
        assert_same(g, e._replace(h0=None))  # those of other entries of W count too: they start from zero


def test_rflo_is_exact_without_recurrent_weights(form):
    n, form = network(T=7, B=2, I=2, H=5), options(form, 5)
    n["W"] = np.zeros((5, 5))
    learner, other = made(pyrnn.RFLO, n, 2, form), made(pyrnn.RTRL, n, 2, form)
    for x, dh in zip(n["x"], n["dh"], strict=True):
        assert_same(learner.step(x, dh), other.step(x, dh)._replace(h0=None))


@pytest.mark.parametrize(("cls", "kept"), [(pyrnn.SnAp1, True), (pyrnn.RFLO, False)])
def test_traces_by_their_definition(form, cls, kept):
    """e <- d e + immediate, with d the diagonal of the Jacobian or 1 - alpha, on a W that is not diagonal."""
    n, form = network(T=6, B=None, I=2, H=5), options(form, 5)
    learner, e, h, units = made(cls, n, None, form), np.zeros((5, 8)), n["h0"], np.arange(5)
    for x, dh in zip(n["x"], n["dh"], strict=True):
        one_step = pyrnn.RTRL(n["U"], n["W"], n["b"], h, **form)
        h = one_step.forward(x)
        i = one_step.influence()
        J = i.h0.T
        d = np.diag(J) if kept else 1 - np.broadcast_to(form.get("alpha", 1), (5,))
        e = d[:, np.newaxis] * e + np.concatenate([i.W, i.U, i.b[:, np.newaxis]], axis=1)[units, :, units]
        g = learner.step(x, dh)
        np.testing.assert_allclose(
            np.concatenate([g.W, g.U, g.b[:, np.newaxis]], axis=1), dh[:, np.newaxis] * e, atol=1e-13
        )


def test_uoro_has_the_mean_of_rtrl(form):
    """Many seeds at once, as a batch of equal sequences; the mean is within five standard errors of the exact one."""
    n, form, seeds = network(T=4, B=None, I=2, H=4), options(form, 4), 20_000
    exact_one = made(pyrnn.RTRL, n, None, form)
    many = pyrnn.UORO(n["U"], n["W"], n["b"], np.tile(n["h0"], (seeds, 1)), batch=seeds, rng=1, **form)
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
    runs = [[made(pyrnn.UORO, n, None, {}, rng=seed).step(n["x"][0], n["dh"][0]).W] for seed in (0, 0, 1)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


# ---- The interface --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cls", LEARNERS)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_go_on_by_themselves(cls, copied):
    n = network(T=6, B=2)
    more = {"block": 3} if cls is pyrnn.BlockedRTRL else {"rng": 3} if cls is pyrnn.UORO else {}
    learner, other = (made(cls, n, 2, {"alpha": 0.5}, **more) for _ in range(2))
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
    learner = made(cls, n, B, {"alpha": 0.5})
    for x, dh in zip(n["x"], n["dh"], strict=True):
        g = learner.step(x, dh)
        if g is not None:
            assert (g.U.shape, g.W.shape) == ((H, I), (H, H))
            assert np.isfinite(g.U).all()


@pytest.mark.parametrize("cls", EXACT)
def test_steps_without_loss_and_gradients_asked_late(cls):
    n = network(T=7, B=None)
    n["dh"][[0, 1, 2, 4]] = 0
    learner, total = made(cls, n, None, {}, **({"block": 3} if cls is pyrnn.BlockedRTRL else {})), None
    for t in range(7):
        if n["dh"][t].any():
            total = added(total, learner.step(n["x"][t], n["dh"][t]))
        else:
            learner.forward(n["x"][t])
    total = added(total, learner.finish()) if cls is pyrnn.BlockedRTRL else total
    assert_same(total, exact(n, {}, 7))


def test_gradients_twice_and_in_parts():
    n = network(T=3, B=None)
    learner, other = (made(pyrnn.RTRL, n, None, {}) for _ in range(2))
    for x in n["x"]:
        learner.forward(x)
        other.forward(x)
    whole = learner.gradients(n["dh"][2])
    assert_same(learner.gradients(n["dh"][2]), whole)
    assert_same(added(other.gradients(n["dh"][0]), other.gradients(n["dh"][2] - n["dh"][0])), whole)


@pytest.mark.parametrize("cls", LEARNERS)
def test_update_changes_what_follows_alone(cls):
    n = network(T=4, B=None)
    more = {"block": 2} if cls is pyrnn.BlockedRTRL else {"rng": 0} if cls is pyrnn.UORO else {}
    learner = made(cls, n, None, {"alpha": 0.5}, **more)
    for x in n["x"][:2]:
        learner.step(x)
    before, held = learner.h, n["W"] * 0.5
    learner.update(U=n["U"] + 1, W=held, b=n["b"] * 0, alpha=0.25)
    held[:] = np.nan  # a copy was taken
    assert np.array_equal(learner.h, before)
    assert np.array_equal(learner.W, n["W"] * 0.5)
    expected = pyrnn.forward(n["x"][2:3], n["U"] + 1, n["W"] * 0.5, None, before, alpha=0.25, engine="fused")
    assert np.array_equal(learner.forward(n["x"][2]), expected[0])


def test_the_influence_at_an_update_is_of_the_old_parameters():
    n = network(T=3, B=None)
    learner, other = (made(pyrnn.RTRL, n, None, {}) for _ in range(2))
    learner.forward(n["x"][0])
    learner.update(W=n["W"] * 2)  # before the influence has made its step
    assert np.array_equal(learner.influence().U, (other.forward(n["x"][0]), other.influence().U)[1])


@pytest.mark.parametrize("asked", [(), (0, 1, 2, 5, 9), range(12)], ids=len)
def test_updates_at_every_step(form, asked):
    """The influence goes through each Jacobian as it was, also where it is asked for between."""
    n, form = network(T=12, B=None, I=2, H=5), options(form, 5)
    rng = np.random.default_rng(0)
    learner = made(pyrnn.RTRL, n, None, form)
    plain = reference.RTRL(n["U"], n["W"], n["b"], n["h0"], **form)
    for t in range(12):
        g, (G, G_alpha, G_h0) = learner.step(n["x"][t], n["dh"][t]), plain.step(n["x"][t], n["dh"][t])
        alpha = None if g.alpha is None else G_alpha if np.ndim(form["alpha"]) else G_alpha.sum()
        assert_same(g, pyrnn.OnlineGradients(G[:, 5:7], G[:, :5], G[:, 7], G_h0, alpha))
        if t in asked:
            np.testing.assert_allclose(learner.influence().W, plain.P[:, :5], rtol=0, atol=1e-13)
        plain.U, plain.W, plain.b = (a + 0.1 * rng.standard_normal(a.shape) for a in (plain.U, plain.W, plain.b))
        learner.update(plain.U, plain.W, plain.b)
    np.testing.assert_allclose(learner.influence().h0, plain.P_h0, rtol=0, atol=1e-13)


def test_a_block_cannot_be_updated_within():
    n = network(T=2, B=None)
    learner = made(pyrnn.BlockedRTRL, n, None, {}, block=5)
    learner.step(n["x"][0])
    with pytest.raises(RuntimeError, match="finish"):
        learner.update(W=n["W"])
    learner.finish()
    learner.update(W=n["W"])
    with pytest.raises(RuntimeError, match="after forward"):
        learner.gradients(n["dh"][0])


@pytest.mark.parametrize("cls", LEARNERS)
def test_reset_forgets(cls):
    n = network(T=3, B=2)
    more = {"block": 1} if cls is pyrnn.BlockedRTRL else {"rng": 0} if cls is pyrnn.UORO else {}
    learner, new = (made(cls, n, 2, {}, **more) for _ in range(2))
    learner.step(n["x"][0])
    learner.reset()
    if cls is pyrnn.UORO:
        new._rng = copy.deepcopy(learner._rng)
    assert_same(learner.step(n["x"][1], n["dh"][1]), new.step(n["x"][1], n["dh"][1]), 0)
    learner.reset(n["h0"] * 2)
    assert np.array_equal(learner.h, n["h0"] * 2)


@pytest.mark.parametrize("cls", LEARNERS)
def test_bad_arguments(cls):
    n = network(B=None, I=4, H=6)
    with pytest.raises(ValueError, match=r"W must have shape \(6, 6\) to match U \(6, 4\), got \(6, 4\)"):
        cls(n["U"], n["U"])
    with pytest.raises(ValueError, match="batch must be an integer from 0, got -1"):
        cls(n["U"], n["W"], batch=-1)
    with pytest.raises(TypeError, match=r"batch must be an integer from 0, got 1\.5"):
        cls(n["U"], n["W"], batch=1.5)
    with pytest.raises(ValueError, match="alpha must be given with form 'current'"):
        cls(n["U"], n["W"], form="current")
    learner = cls(n["U"], n["W"])
    before = learner.h
    with pytest.raises(ValueError, match=r"x must have shape \(4,\), got \(5,\)"):
        learner.step(np.ones(5), np.ones(6))
    with pytest.raises(ValueError, match=r"dh must have shape \(6,\), got \(5,\)"):
        learner.step(np.ones(4), np.ones(5))
    with pytest.raises(TypeError, match="complex128"):
        learner.step(np.ones(4) + 0j)
    assert np.array_equal(learner.h, before)
    for name in ("b", "alpha"):
        with pytest.raises(ValueError, match=f"{name} must be None for a learner made without it"):
            learner.update(**{name: np.ones(6)})
    with pytest.raises(ValueError, match=r"W must have shape \(6, 6\), got \(6, 4\)"):
        learner.update(U=n["U"] + 1, W=n["U"])
    assert np.array_equal(learner.U, n["U"])
    narrow = cls(np.float32(n["U"]), np.float32(n["W"]))
    with pytest.raises(TypeError, match="float32, the learner's, can hold, got float64"):
        narrow.step(n["x"][0])


@pytest.mark.parametrize("name", ["batch", "dtype", "input_size", "hidden_size", "h", "U", "W", "b", "alpha"])
def test_sizes_and_parameters_are_read_only(name):
    """What is carried was allocated for them."""
    learner = made(pyrnn.RTRL, network(B=None), None, {})
    with pytest.raises(AttributeError):
        setattr(learner, name, 1)


def test_bad_blocks():
    n = network(B=None)
    with pytest.raises(ValueError, match="block must be an integer from 1, got 0"):
        pyrnn.BlockedRTRL(n["U"], n["W"], block=0)
    with pytest.raises(TypeError, match="block must be an integer from 1, got '3'"):
        pyrnn.BlockedRTRL(n["U"], n["W"], block="3")
    with pytest.raises(TypeError, match="every_step must be True or False, got 1"):
        pyrnn.BlockedRTRL(n["U"], n["W"], every_step=1)


@pytest.mark.parametrize("cls", LEARNERS)
def test_nan_passes_through(cls):
    n = network(T=2, B=2)
    learner = made(cls, n, 2, {}, **({"block": 2} if cls is pyrnn.BlockedRTRL else {}))
    x = n["x"].copy()
    x[0, 0, 0] = np.nan
    h = [learner.forward(row) for row in x]
    assert np.isnan(h[1][0]).all()
    assert np.isfinite(h[1][1]).all()
    assert np.isnan(learner.gradients(n["dh"][1]).W).any()


@pytest.mark.parametrize("cls", LEARNERS)
def test_infinities_give_no_warning(cls):
    """Sums over the batch of what is inf and -inf; then of NaN."""
    learner = cls(np.ones((3, 1)), np.eye(3), batch=2, nonlinearity="identity", alpha=0.5)
    x = np.array([[np.inf], [-np.inf]])
    steps = [learner.step(x, np.ones((2, 3))) for _ in range(3)]
    assert np.isnan(steps[-1].U).all()


@pytest.mark.parametrize("cls", LEARNERS)
def test_any_layout_and_nothing_written(cls, layout):
    n = network(T=2, B=3)
    more = {"block": 1} if cls is pyrnn.BlockedRTRL else {"rng": 0} if cls is pyrnn.UORO else {}
    plain = made(cls, n, 3, {}, **more)
    laid = {name: layout(n[name]) for name in ("U", "W", "b", "h0")}
    other = made(cls, laid, 3, {}, **more)
    for x, dh in zip(n["x"], n["dh"], strict=True):
        a, d = layout(x), layout(dh)
        bytes_before = (a.tobytes(), d.tobytes())
        assert_same(other.step(a, d), plain.step(x, dh), 0)
        assert (a.tobytes(), d.tobytes()) == bytes_before


@pytest.mark.parametrize("cls", LEARNERS)
def test_states_handed_out_are_copies(cls):
    n = network(T=2, B=None)
    learner = made(cls, n, None, {})
    learner.forward(n["x"][0])[:] = np.nan
    learner.h[:] = np.nan
    learner.W[:] = np.nan
    assert np.isfinite(learner.forward(n["x"][1])).all()


@pytest.mark.unsanitized
def test_steps_allocate_nothing_large():
    """The influence of H = 64 has 2.5 MB; a step takes its gradients, of 38 KB, and up to four Jacobians of 33 KB."""
    U, W, b, _, _ = pyrnn.initialize(8, 64, rng=0)
    learner, x, dh = pyrnn.RTRL(U, W, b), np.ones(8), np.ones(64)

    def steps():
        for _ in range(8):  # of which some move the influence
            learner.step(x, dh)

    steps()  # scratch memory has then its size
    _, most = allocated(steps)
    assert most < 300_000


def test_an_interrupted_learner_says_so():
    n = network(T=2, B=None)
    learner = made(pyrnn.RTRL, n, None, {})
    learner.forward(n["x"][0])
    step = learner._step
    learner._step = (*step[:2], "no array", step[3])  # whatever stops the step of the influence
    with pytest.raises(TypeError):
        learner.gradients(n["dh"][0])
    with pytest.raises(RuntimeError, match="reset"):
        learner.forward(n["x"][1])
    learner.reset()
    assert np.isfinite(learner.step(n["x"][0], n["dh"][0]).W).all()
