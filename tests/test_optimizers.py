"""SGD, Adam, AdamW and RMSprop of `pyrnn.training` against PyTorch's, and against their formulas in NumPy.

The schedules of learning rates are in test_learning_rates.py, L-BFGS in test_lbfgs.py.
"""

import copy
import itertools
import pickle
import platform
import threading

import numpy as np
import pytest
from helpers import for_each

import pyrnn
from pyrnn._core import table
from pyrnn.training import SGD, Adam, AdamW, RMSprop, clip_gradients, gradient_norm

pytestmark = [pytest.mark.plain_c, pytest.mark.compiled]

KINDS = (SGD, Adam, AdamW, RMSprop)


def combinations(**choices):
    """All ways to choose one value of each."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


OPTIONS = {
    SGD: [
        *combinations(momentum=[0, 0.9], dampening=[0, 0.3], weight_decay=[0, 0.1], maximize=[False, True]),
        *combinations(momentum=[0.9], nesterov=[True], weight_decay=[0, 0.1], maximize=[False, True]),
    ],
    Adam: combinations(
        betas=[(0.9, 0.999), (0.3, 0.5), (0.0, 0.0)],
        eps=[1e-8, 1e-3],
        weight_decay=[0, 0.1],
        amsgrad=[False, True],
        maximize=[False, True],
    ),
    RMSprop: combinations(
        alpha=[0.99, 0.3],
        eps=[1e-8, 1e-3],
        momentum=[0, 0.9],
        centered=[False, True],
        weight_decay=[0, 0.1],
        maximize=[False, True],
    ),
}
OPTIONS[AdamW] = OPTIONS[Adam]
EVERY = [(kind, options) for kind in KINDS for options in OPTIONS[kind]]
every_option = for_each(
    ("kind", "options"), {f"{kind.__name__}({options})": (kind, options) for kind, options in EVERY}
)


# ---- The formulas ---------------------------------------------------------------------------------------------------
def between(a, b, weight):
    return a + weight * (b - a) if weight < 0.5 else b - (b - a) * (1 - weight)


class Formulas:
    """One step as the documentation has it, each operation rounded on its own, in the dtype of the parameters."""

    def __init__(self, kind, options):
        self.kind, self.o, self.k, self.state = kind, kind(**options).state_dict(), 0, {}

    def of(self, name, like):
        return self.state.get(name, np.zeros_like(like))

    def step(self, p, g, lr=None):
        o, self.k = self.o, self.k + 1
        lr, real = o["lr"] if lr is None else lr, p.dtype.type
        s = -g if o["maximize"] else g
        if o["weight_decay"] and self.kind is not AdamW:
            s = s + real(o["weight_decay"]) * p
        if self.kind is SGD:
            way = real(lr) * self.sgd(s, o, real)
        elif self.kind is RMSprop:
            way = self.rmsprop(s, o, real, lr)
        else:
            if o["weight_decay"] and self.kind is AdamW:
                p = p * real(1 - lr * o["weight_decay"])
            way = self.adam(s, o, real, lr)
        return p - way

    def sgd(self, s, o, real):
        if not o["momentum"]:
            return s
        b = real(o["momentum"])
        self.state["b"] = s if self.k == 1 else self.state["b"] * b + real(1 - o["dampening"]) * s
        return s + b * self.state["b"] if o["nesterov"] else self.state["b"]

    def adam(self, s, o, real, lr):
        beta1, beta2 = o["betas"]
        m = self.state["m"] = between(self.of("m", s), s, real(1 - beta1))
        v = self.state["v"] = self.of("v", s) * real(beta2) + real(1 - beta2) * s * s
        if o["amsgrad"]:
            v = self.state["largest"] = np.maximum(self.of("largest", s), v)
        below = np.sqrt(v) / real((1 - beta2**self.k) ** 0.5) + real(o["eps"])
        return real(lr / (1 - beta1**self.k)) * m / below

    def rmsprop(self, s, o, real, lr):
        weight = real(1 - o["alpha"])
        v = self.state["v"] = self.of("v", s) * real(o["alpha"]) + weight * s * s
        if o["centered"]:
            m = self.state["m"] = between(self.of("m", s), s, weight)
            v = v - m * m
        below = np.sqrt(v) + real(o["eps"])
        if not o["momentum"]:
            return real(lr) * s / below
        self.state["b"] = self.of("b", s) * real(o["momentum"]) + s / below
        return real(lr) * self.state["b"]


def problem(n, dtype=np.float64, seed=0):
    """Parameters, and a gradient that depends on them and on chance."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(n).astype(dtype), lambda p: (0.5 * p + rng.standard_normal(n)).astype(p.dtype)


@every_option
@for_each("n", [0, 1, 17, 100])
def test_against_the_formulas(kind, options, n, dtype):
    """Bit by bit, at learning rates that change."""
    p, gradient = problem(n, dtype)
    expected, optimizer, formulas = p.copy(), kind(**options), Formulas(kind, options)
    for k in range(30):
        g = gradient(p)
        before, lr = g.copy(), None if k % 3 else 0.02
        assert optimizer.step(p, g, lr=lr) is None
        expected = formulas.step(expected, g, lr)
        np.testing.assert_array_equal(p, expected)
        np.testing.assert_array_equal(g, before)
        assert p.dtype == expected.dtype == dtype


def torch_steps(kind, options, p, gradients):
    """The parameters after steps of PyTorch's optimiser."""
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.from_numpy(p.copy()))
    optimizer = getattr(torch.optim, kind.__name__)([parameter], foreach=False, **options)
    for g in gradients:
        parameter.grad = torch.from_numpy(g)
        optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.peer
@every_option
def test_a_thousand_steps_against_torch(kind, options):
    rng = np.random.default_rng(2)
    p, gradients = rng.standard_normal(9), rng.standard_normal((1000, 9))
    expected = torch_steps(kind, options, p, gradients)
    optimizer = kind(**options)
    for g in gradients:
        optimizer.step(p, g)
    np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.peer
@for_each("kind", KINDS)
def test_defaults_are_those_of_torch(kind):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.optim, kind.__name__)([torch.zeros(1)]).defaults
    ours = kind().state_dict()
    assert ours.pop("step") == 0
    assert ours.items() <= ({"decoupled_weight_decay": False} | theirs).items()


@pytest.mark.peer
@for_each("kind", KINDS)
def test_states_have_the_names_of_torch(kind):
    torch = pytest.importorskip("torch")
    options = {SGD: {"momentum": 0.9}, RMSprop: {"momentum": 0.9, "centered": True}}.get(kind, {"amsgrad": True})
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    parameter.grad = torch.arange(3.0, dtype=torch.float64)
    theirs = getattr(torch.optim, kind.__name__)([parameter], **options)
    theirs.step()
    optimizer = kind(**options)
    optimizer.step(np.ones(3), np.arange(3.0))
    ours = optimizer.state_dict()
    for name, value in theirs.state_dict()["state"][0].items():
        np.testing.assert_allclose(ours[name], value.numpy(), rtol=1e-14)


# ---- Clipping -------------------------------------------------------------------------------------------------------
@for_each("kind", KINDS)
@for_each("clip_norm", [0.1, 1.0, 1e6, np.inf])
def test_clipping(kind, clip_norm, dtype):
    """As with gradients that `clip_gradients` has clipped, up to the rounding of a product."""
    p, gradient = problem(50, dtype)
    expected = p.copy()
    clipping, other = kind(), kind()
    for _ in range(20):
        g = gradient(p)
        norm = clipping.step(p, g, clip_norm=clip_norm)
        assert type(norm) is float
        np.testing.assert_allclose(norm, gradient_norm(g), rtol=1e-15)
        clipped, factor = clip_gradients(g, max_norm=clip_norm)
        other.step(expected, clipped)
        np.testing.assert_allclose(p, expected, rtol=100 * np.finfo(dtype).eps, atol=10 * np.finfo(dtype).eps)
        assert (factor == 1) == (norm <= clip_norm)


@for_each(
    ("dtype", "size"),
    [
        *((np.float32, s) for s in (2e-38, 1e-30, 1e-20, 1e20, 1e30, 5e37)),
        *((np.float64, s) for s in (3e-308, 1e-200, 1e-140, 1e140, 1e200, 1e307)),
    ],
)
def test_norms_of_any_size(dtype, size):
    """No square overflows or vanishes, and the clipped norm is the threshold."""
    g = np.array([3, 0, -1, 2, 5], dtype) * dtype(size)
    norm = gradient_norm(g)
    for ratio in (0.5, 1e-3):
        p = np.zeros(5, dtype)
        np.testing.assert_allclose(SGD(lr=1.0).step(p, g, clip_norm=ratio * norm), norm, rtol=1e-15)
        np.testing.assert_allclose(
            p, -ratio * g.astype(np.float64), rtol=4 * np.finfo(dtype).eps, atol=2 * np.finfo(dtype).smallest_normal
        )


def test_factors_too_small_for_the_dtype():
    p = np.zeros(2, np.float32)
    SGD(lr=1.0).step(p, np.array([3e30, 4e30], np.float32), clip_norm=1e-30)
    np.testing.assert_allclose(p, [-6e-31, -8e-31], rtol=1e-6)
    p = np.zeros(2)
    SGD(lr=1.0).step(p, np.array([3e300, 4e300]), clip_norm=1e-13)
    np.testing.assert_allclose(p, [-6e-14, -8e-14], rtol=1e-14)
    p = np.zeros(9)
    assert SGD(lr=1.0).step(p, np.full(9, 1.7e308), clip_norm=3.0) == np.inf
    np.testing.assert_allclose(p, -1.0, rtol=1e-14)


def test_a_sum_of_many():
    """Ten million entries of 1 and one of 1e4 lose nothing."""
    g = np.ones(10**6 + 1, np.float32)
    g[5] = 1e4
    assert SGD().step(np.zeros_like(g), g, clip_norm=1e9) == np.sqrt(1e6 + 1e8)


@for_each("bad", [np.inf, -np.inf, np.nan])
def test_gradients_that_are_not_finite(bad, dtype):
    """Without clipping as in the formulas; with it as by `clip_gradients`; or an error, and nothing has changed."""
    g = np.array([1.0, bad, 2.0], dtype)
    for clip_norm in (None, 1.0, np.inf):
        p, optimizer = np.ones(3, dtype), Adam()
        before = optimizer.state_dict()
        with pytest.raises(ValueError, match=r"^gradients must be finite, got NaN or inf in it$"):
            optimizer.step(p, g, clip_norm=clip_norm, error_if_nonfinite=True)
        np.testing.assert_array_equal(p, 1)
        assert optimizer.state_dict() == before
    p = np.zeros(3, dtype)
    norm = SGD(lr=1.0).step(p, g, clip_norm=1.0)
    np.testing.assert_array_equal(norm, gradient_norm(g))
    np.testing.assert_array_equal(p, -clip_gradients(g, max_norm=1.0)[0])
    p = np.zeros(3, dtype)
    SGD(lr=1.0).step(p, g)
    np.testing.assert_array_equal(p, -g)
    with np.errstate(invalid="ignore"):
        for kind in (Adam, RMSprop):
            p, formulas = np.zeros(3, dtype), Formulas(kind, {})
            kind().step(p, g)
            np.testing.assert_array_equal(p, formulas.step(np.zeros(3, dtype), g))


def test_numbers_are_checked_as_finite_without_clipping_too():
    p = np.ones(2)
    assert SGD(lr=1.0).step(p, np.array([1.0, 1.7e308]), error_if_nonfinite=True) is None
    assert p[0] == 0


# ---- Bits -----------------------------------------------------------------------------------------------------------
@every_option
def test_the_same_bits_on_every_instruction_set(kind, options, dtype):
    before, results = table.selected(), []
    try:
        for name in table.available():
            table.select(name)
            p, gradient = problem(1100, dtype)
            optimizer = kind(**options)
            norms = [optimizer.step(p, gradient(p), clip_norm=20.0) for _ in range(4)]
            results.append((norms, p.tobytes()))
    finally:
        table.select(before)
    assert all(result == results[0] for result in results)


@for_each("kind", KINDS)
def test_subnormal_numbers_count_as_zero(kind):
    """On x86 and Arm; elsewhere they stay."""
    tiny = np.finfo(np.float32).smallest_normal / 4
    g, p = np.full(40, tiny, np.float32), np.zeros(40, np.float32)
    optimizer = kind(lr=1.0, **({"momentum": 0.9} if kind is SGD else {}))
    optimizer.step(p, g)
    flushes = platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")
    state = optimizer.state_dict()
    states = [a for name, a in state.items() if name in ("momentum_buffer", "exp_avg", "exp_avg_sq", "square_avg")]
    assert states
    assert not flushes or not any(a.any() for a in states)
    assert not flushes or not p.any()
    assert np.float32(tiny) / 2 != 0, "the caller's floating-point state has changed"


def test_any_shape():
    """Matrices and numbers without an axis have the results of the same numbers in a row."""
    rng = np.random.default_rng(0)
    row, g = rng.standard_normal(24), rng.standard_normal(24)
    for shape in ((4, 6), (2, 3, 4), (24, 1), (1, 24)):
        p, flat, optimizer, other = row.reshape(shape).copy(), row.copy(), Adam(amsgrad=True), Adam(amsgrad=True)
        optimizer.step(p, g.reshape(shape))
        other.step(flat, g)
        np.testing.assert_array_equal(p.ravel(), flat)
        assert optimizer.state_dict()["exp_avg"].shape == shape
    p = np.array(1.0)
    SGD(lr=0.5).step(p, np.array(1.0))
    assert p == 0.5


# ---- State ----------------------------------------------------------------------------------------------------------
def trained(kind, options, dtype=np.float64, steps=5):
    p, gradient = problem(20, dtype)
    optimizer = kind(**options)
    for _ in range(steps):
        optimizer.step(p, gradient(p))
    return optimizer, p, gradient(p)


@every_option
def test_a_state_goes_on_with_the_same_bits(kind, options, dtype, tmp_path):
    """After state_dict, an npz file, copies and a pickle, also with another rate, and before the first step."""
    for steps in (0, 5):
        optimizer, p, g = trained(kind, options, dtype, steps)
        optimizer.lr = 0.03
        np.savez(tmp_path / "state.npz", **optimizer.state_dict())
        loaded, read = kind(), kind()
        loaded.load_state_dict(optimizer.state_dict())
        with np.load(tmp_path / "state.npz") as file:
            read.load_state_dict(file)
        others = [optimizer.copy(), copy.copy(optimizer), copy.deepcopy(optimizer), loaded, read]
        others.append(pickle.loads(pickle.dumps(optimizer)))
        results = []
        for one in (optimizer, *others):
            assert type(one) is kind
            assert repr(one) == repr(optimizer)
            q = p.copy()
            for _ in range(3):
                one.step(q, g)
            results.append(q.tobytes())
        assert all(result == results[0] for result in results)


def test_a_state_is_a_copy():
    optimizer, p, g = trained(Adam, {})
    state, second = optimizer.state_dict(), optimizer.copy()
    state["exp_avg"][:] = np.nan
    second.step(p.copy(), np.full(20, np.nan))
    loaded = Adam()
    loaded.load_state_dict(good := optimizer.state_dict())
    good["exp_avg"][:] = np.nan
    for one in (optimizer, loaded):
        q = p.copy()
        one.step(q, g)
        assert np.isfinite(q).all()


@for_each(
    ("change", "error", "message"),
    {
        "no step": (lambda s: s.pop("step"), ValueError, "^state must have step, got "),
        "no array": (lambda s: s.pop("exp_avg"), ValueError, "^state must have the arrays "),
        "one more": (lambda s: s.update(more=1), ValueError, "^state must have the arrays "),
        "of AdamW": (lambda s: s.update(decoupled_weight_decay=True), ValueError, "^state must be of Adam, got "),
        "step": (lambda s: s.update(step=-1), ValueError, r"^state\['step'\] must be an integer from 0, got -1$"),
        "shape": (lambda s: s.update(exp_avg=np.zeros(3)), ValueError, r"must have shape \(3,\) and dtype float64"),
        "dtype": (lambda s: s.update(exp_avg=np.zeros(20, np.float32)), ValueError, "dtype float32"),
        "integers": (lambda s: s.update(exp_avg=np.zeros(20, int)), TypeError, "must be float32 or float64, got"),
        "rate": (lambda s: s.update(lr=-1.0), ValueError, "^lr must be a finite number and not negative, got -1.0$"),
    },
)
def test_states_that_are_wrong(change, error, message):
    optimizer, p, g = trained(Adam, {})
    state, expected, other = optimizer.state_dict(), p.copy(), optimizer.copy()
    change(state)
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(state)
    optimizer.step(p, g)
    other.step(expected, g)
    np.testing.assert_array_equal(p, expected)


def test_representation():
    assert repr(SGD(0.1, 0.9)) == (
        "SGD(lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False)"
    )
    adam = AdamW(betas=(0.8, 0.9))
    adam.lr = 0.5
    assert repr(adam) == "AdamW(lr=0.5, betas=(0.8, 0.9), eps=1e-08, weight_decay=0.01, amsgrad=False, maximize=False)"
    assert (adam.lr, adam.betas, adam.eps, adam.weight_decay, adam.amsgrad) == (0.5, (0.8, 0.9), 1e-8, 0.01, False)
    assert repr(eval(repr(adam))) == repr(adam)


def test_an_rnn():
    """Its one vector of parameters is updated in place."""
    rnn = pyrnn.RNN(2, 5, output_size=1, rng=0)
    first = rnn.parameters.copy()
    rnn.gradients[:] = 1
    SGD(lr=0.5).step(rnn.parameters, rnn.gradients)
    np.testing.assert_array_equal(rnn.parameters, first - np.float32(0.5))


# ---- Errors ---------------------------------------------------------------------------------------------------------
def read_only():
    a = np.ones(4)
    a.flags.writeable = False
    return a


NEEDED = "must be a NumPy array of float32 or float64, C-contiguous, aligned and of native byte order"
ARRAYS = {
    "list": ([1.0] * 4, TypeError, "got list"),
    "None": (None, TypeError, "got NoneType"),
    "integers": (np.ones(4, int), TypeError, "got dtype int64"),
    "half": (np.ones(4, np.float16), TypeError, "got dtype float16"),
    "complex": (np.ones(4, complex), TypeError, "got dtype complex128"),
    "masked": (np.ma.ones(4), TypeError, "got a MaskedArray"),
    "strides": (np.ones(8)[::2], ValueError, r"got one of shape \(4,\) with strides \(16,\)"),
    "reversed": (np.ones(4)[::-1], ValueError, r"got one of shape \(4,\) with strides \(-8,\)"),
    "byte order": (np.ones(4, np.dtype(np.float64).newbyteorder()), ValueError, "got dtype "),
    "unaligned": (np.zeros(33, np.uint8)[1:].view(np.float64), ValueError, "got one that is not aligned"),
}


@for_each(("a", "error", "message"), ARRAYS)
def test_arrays_that_a_step_cannot_take(a, error, message):
    optimizer = SGD()
    with pytest.raises(error, match=f"^parameters {NEEDED.replace('a NumPy', 'a writeable NumPy')}, {message}"):
        optimizer.step(a, np.ones(4))
    with pytest.raises(error, match=f"^gradients {NEEDED}, {message}"):
        optimizer.step(np.ones(4), a)
    assert optimizer.state_dict()["step"] == 0


def test_other_arrays():
    optimizer = Adam()
    with pytest.raises(ValueError, match=r"^parameters must be a writeable NumPy array .*, got one that is read-only$"):
        optimizer.step(read_only(), np.ones(4))
    with pytest.raises(ValueError, match=r"^parameters .* with strides"):
        optimizer.step(np.ones((3, 4)).T, np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"^gradients must have shape \(4,\) to match parameters, got \(5,\)$"):
        optimizer.step(np.ones(4), np.ones(5))
    with pytest.raises(TypeError, match=r"^gradients must have dtype float64 to match parameters, got float32$"):
        optimizer.step(np.ones(4), np.ones(4, np.float32))
    memory = np.ones(6)
    for g in (memory[:4], memory[1:5], memory[2:]):
        with pytest.raises(ValueError, match=r"^gradients must not overlap parameters"):
            optimizer.step(memory[:4], g)
    optimizer.step(memory[:3], memory[3:])
    optimizer.step(np.ones(3), read_only()[:3])  # gradients are not written
    for p in (np.ones(4), np.ones(3, np.float32)):
        with pytest.raises(ValueError, match=r"^parameters must have shape \(3,\) and dtype float64, as at the first "):
            optimizer.step(p, p.copy())
    plain = SGD()
    plain.step(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match=r"^parameters must have shape \(3,\) and dtype float64, as at the first "):
        plain.step(np.ones(4), np.ones(4))


@for_each(
    ("given", "error", "message"),
    [
        ({"lr": -1}, ValueError, "lr must be a finite number and not negative, got -1"),
        ({"lr": np.nan}, ValueError, "lr must be a finite number and not negative, got nan"),
        ({"lr": "0.1"}, TypeError, "lr must be a number, got '0.1'"),
        ({"clip_norm": 0}, ValueError, "clip_norm must be a positive number, got 0"),
        ({"clip_norm": np.nan}, ValueError, "clip_norm must be a positive number, got nan"),
        ({"clip_norm": "1"}, ValueError, "clip_norm must be a positive number, got '1'"),
        ({"error_if_nonfinite": 1}, TypeError, "error_if_nonfinite must be True or False, got 1"),
    ],
)
def test_arguments_of_a_step(given, error, message):
    p = np.ones(3)
    with pytest.raises(error, match=f"^{message}$"):
        SGD().step(p, np.ones(3), **given)
    np.testing.assert_array_equal(p, 1)


@for_each(
    ("kind", "given", "error", "message"),
    [
        *((kind, {"lr": -1}, ValueError, "lr must be a finite number and not negative, got -1") for kind in KINDS),
        *((kind, {"lr": True}, TypeError, "lr must be a number, got True") for kind in KINDS),
        *((kind, {"weight_decay": -1}, ValueError, "weight_decay must be a finite") for kind in KINDS),
        *((kind, {"maximize": 1}, TypeError, "maximize must be True or False, got 1") for kind in KINDS),
        (SGD, {"momentum": -0.1}, ValueError, "momentum must be a finite number and not negative, got -0.1"),
        (SGD, {"dampening": "a"}, TypeError, "dampening must be a finite number, got 'a'"),
        (SGD, {"nesterov": True}, ValueError, "nesterov must come with momentum and without dampening"),
        (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, "nesterov must come with"),
        (Adam, {"betas": 0.9}, TypeError, "betas must be a pair of numbers, got 0.9"),
        (Adam, {"betas": (0.9, 1)}, ValueError, r"betas\[1\] must be below 1, got 1"),
        (AdamW, {"betas": (-0.1, 0.9)}, ValueError, r"betas\[0\] must be a finite number and not negative, got -0.1"),
        (Adam, {"eps": -1e-8}, ValueError, "eps must be a finite number and not negative, got -1e-08"),
        (Adam, {"amsgrad": None}, TypeError, "amsgrad must be True or False, got None"),
        (RMSprop, {"alpha": 1.5}, ValueError, "alpha must be from 0 to 1, got 1.5"),
        (RMSprop, {"centered": "yes"}, TypeError, "centered must be True or False, got 'yes'"),
    ],
)
def test_options_that_are_wrong(kind, given, error, message):
    with pytest.raises(error, match=f"^{message}"):
        kind(**given)


def test_the_rate_can_be_set():
    optimizer = SGD()
    with pytest.raises(ValueError, match=r"^lr must be a finite number and not negative, got -1$"):
        optimizer.lr = -1
    optimizer.lr = 1
    p = np.ones(1)
    optimizer.step(p, np.ones(1))
    assert (optimizer.lr, p[0]) == (1, 0)


def test_threads_do_not_mix():
    """A step that finds the optimizer in use raises an error; those that were made are whole."""
    p, g, optimizer = np.zeros(100_000), np.ones(100_000), SGD(lr=1.0)
    made, refused = [], []

    def work():
        for _ in range(50):
            try:
                optimizer.step(p, g)
                made.append(1)
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refused) <= {"the optimizer is being used by another thread: each thread needs one of its own"}
    assert len(made) + len(refused) == 100
    np.testing.assert_array_equal(p, -len(made))
