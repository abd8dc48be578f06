"""`pyrnn.Network` and `pyrnn.initialize`: vectors for optimisers, the closed loop, the distribution of each scheme."""

import numpy as np
import pytest
import scipy.stats
from helpers import forms, network

import pyrnn
from pyrnn import network as networks

pytestmark = pytest.mark.once

PLAIN = pyrnn.Cell()

SCHEMES = ["orthogonal", "gaussian", "uniform", "glorot", "identity"]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
every_choice_of_parts = pytest.mark.parametrize("missing", ["R", "bR", "cR", "bcR", "VcR", "bVcR", "", "W", "Wbc"])


CELL = pyrnn.Cell("relu", alpha=0.5, form="current")


def made(dtype=np.float64, cell=PLAIN, **missing):
    n = network(I=2, H=3, O=4, dtype=dtype)
    R = np.random.default_rng(1).standard_normal((3, 4)).astype(dtype)
    return pyrnn.Network(*(n[name] for name in "UWbVc"), R, cell)._replace(**missing)


# ---- One vector -----------------------------------------------------------------------------------------------------
@every_choice_of_parts
def test_round_trip(dtype, missing):
    n = made(dtype, CELL, **dict.fromkeys(missing))
    vector = n.ravel()
    assert vector.dtype == dtype
    assert vector.shape == (sum(a.size for a in n.arrays),)
    back = n.unravel(vector)
    assert isinstance(back, pyrnn.Network)
    assert back.cell is CELL
    for a, b in zip(n[:6], back[:6], strict=True):
        if a is None:
            assert b is None
        else:
            assert b.dtype == dtype
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(back.ravel(), vector)


def test_arrays_are_those_that_are_there_in_the_order_of_the_vector():
    n = made()
    assert [id(a) for a in n.arrays] == [id(a) for a in n[:6]]
    np.testing.assert_array_equal(n.ravel(), np.concatenate([a.ravel() for a in n.arrays]))
    less = n._replace(W=None, c=None)
    assert [id(a) for a in less.arrays] == [id(a) for a in (n.U, n.b, n.V, n.R)]
    assert pyrnn.Network(n.U, n.W).arrays == (n.U, n.W)


def test_changes_in_place_through_the_arrays():
    n = made(cell=CELL)
    expected = n.ravel() - 0.1 * n.ravel()
    for a, gradient in zip(n.arrays, n.unravel(n.ravel()).arrays, strict=True):
        a -= 0.1 * gradient
    np.testing.assert_array_equal(n.ravel(), expected)


def test_order_of_the_vector():
    n = pyrnn.Network(U=[[1], [2]], W=[[3, 4], [5, 6]], b=[7, 8], V=[[9, 10]], c=[11], R=[[12], [13]])
    np.testing.assert_array_equal(n.ravel(), np.arange(1, 14))
    columns = pyrnn.Network(*(np.asfortranarray(a) for a in n[:6]))
    np.testing.assert_array_equal(columns.ravel(), np.arange(1, 14))
    back = n.unravel(range(1, 14))
    for a, b in zip(n[:6], back[:6], strict=True):
        np.testing.assert_array_equal(a, b)


def test_ravel_copies_and_unravel_does_not(dtype):
    n = made(dtype)
    vector = n.ravel()
    assert not any(np.shares_memory(vector, a) for a in n.arrays)
    back = n.unravel(vector)
    assert all(np.shares_memory(vector, a) for a in back.arrays)
    vector *= 2
    np.testing.assert_array_equal(back.W, 2 * n.W)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("f4", "f4", "f4"), np.float32),
        (("f4", "f8", "f4"), np.float64),
        (("f2", "f4", "i2"), np.float32),
        (("f4", "i8", "f4"), np.float64),
        ((">f8", "f4", "f4"), np.float64),
        ((">f4", "f4", "f4"), np.float32),
    ],
)
def test_ravel_promotes(dtypes, expected):
    shapes = {"U": (2, 1), "W": (2, 2), "b": (2,)}
    arrays = {name: np.ones(shape, dtype) for (name, shape), dtype in zip(shapes.items(), dtypes, strict=True)}
    vector = pyrnn.Network(**arrays).ravel()
    assert vector.dtype == expected
    assert vector.dtype.isnative
    np.testing.assert_array_equal(vector, 1)


@pytest.mark.parametrize(
    ("vector", "error", "message"),
    [
        (np.zeros(33), ValueError, r"vector must have shape \(34,\).*got \(33,\)"),
        (np.zeros(35), ValueError, r"vector must have shape \(34,\).*got \(35,\)"),
        (np.zeros((34, 1)), ValueError, r"vector must have shape \(34,\).*got \(34, 1\)"),
        (0.0, ValueError, r"vector must have shape \(34,\).*got \(\)"),
        (np.zeros(34, complex), TypeError, "vector must be real .* complex128"),
        (["a"] * 34, TypeError, "vector must be real .* <U1"),
        (None, TypeError, "vector must be .* None"),
    ],
)
def test_unravel_rejects(vector, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        made(R=None).unravel(vector)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"W": np.ones((3, 3), complex)}, TypeError, "W must be real .* complex128"),
        ({"U": None}, TypeError, "U must be .* None"),
        ({"b": ["x"]}, TypeError, "b must be real .* <U1"),
        ({"V": [[1.0], [1.0, 2.0]]}, ValueError, "V must be an array of numbers: .*"),
    ],
)
def test_ravel_rejects(changes, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        made(**changes).ravel()


# ---- The closed loop ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("missing", ["", "W", "b", "c", "bc", "Wbc"])
@pytest.mark.parametrize("cell", forms(3).values(), ids=forms(3))
def test_closed_loop(missing, cell):
    n = made(cell=cell, **dict.fromkeys(missing))
    closed = n.closed_loop()
    assert closed.R is None
    assert closed.cell is cell
    assert closed.U is n.U
    assert closed.V is n.V
    assert closed.c is n.c
    np.testing.assert_allclose(closed.W, n.R @ n.V + (0 if n.W is None else n.W), rtol=1e-15)
    if n.b is n.c is None:
        assert closed.b is None
    else:
        expected = (0 if n.b is None else n.b) + (0 if n.c is None else n.R @ n.c)
        np.testing.assert_allclose(closed.b, expected, rtol=1e-15)
    # The same states as when the output is fed back as an input.
    x, h = np.random.default_rng(2).standard_normal((4, 2)), np.full(3, 0.1)
    opened = pyrnn.Network(np.hstack([n.U, n.R]), np.zeros((3, 3)) if n.W is None else n.W, n.b, cell=cell)
    states = []
    for x_t in x:
        o = n.V @ (cell.phi(h) if cell.current else h) + (0 if n.c is None else n.c)
        h = pyrnn.simulate(opened, np.append(x_t, o)[np.newaxis], h).h[0]
        states.append(h)
    np.testing.assert_allclose(pyrnn.simulate(closed, x, np.full(3, 0.1)).h, states, rtol=0, atol=1e-13)


@pytest.mark.parametrize("missing", ["V", "R"])
def test_closed_loop_rejects(missing):
    with pytest.raises(ValueError, match=rf"^{missing} must be given to feed the output back, got None$"):
        made(**{missing: None}).closed_loop()


# ---- What functions of a network take -------------------------------------------------------------------------------
def test_as_network():
    n = made(cell=CELL)
    assert networks.as_network(n) is n
    rnn = pyrnn.RNN(2, 3, alpha=0.5, output_size=4, rng=0)
    of_rnn = networks.as_network(rnn)
    assert of_rnn.cell == pyrnn.Cell(alpha=0.5)
    assert np.shares_memory(of_rnn.W, rnn.parameters)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, TypeError, r"network must be a pyrnn\.Network or a pyrnn\.RNN, got NoneType"),
        (pyrnn.Network, TypeError, "network must be .*, got type"),
        (np.ones((3, 3)), TypeError, "network must be .*, got ndarray"),
        (tuple(made()), TypeError, r"network must be .*, got tuple; Network\(\*arrays\) makes one"),
        (list(made()), TypeError, r"network must be .*, got list; Network\(\*arrays\) makes one"),
        (made(cell="tanh"), TypeError, r"cell must be a pyrnn\.Cell, got 'tanh'"),
        (made(cell=None), TypeError, r"cell must be a pyrnn\.Cell, got None"),
        (pyrnn.RNN(2, 3, 2), ValueError, "layer must be given for an RNN of 2 layers.*"),
        (pyrnn.RNN(2, 3, bidirectional=True), ValueError, "direction must be given for a bidirectional RNN.*"),
    ],
)
def test_as_network_rejects(given, error, message):
    for function in (networks.as_network, networks.conform, lambda n: pyrnn.simulate(n, np.ones((4, 2)))):
        with pytest.raises(error, match=f"^{message}$"):
            function(given)


# ---- Shapes, types, random numbers ----------------------------------------------------------------------------------
@every_scheme
@pytest.mark.parametrize(
    ("I", "H", "O"), [(1, 1, 1), (2, 5, 3), (7, 1, None), (1, 30, None), (np.int64(3), 4, np.int8(2))]
)
def test_shapes(dtype, scheme, I, H, O):
    n = pyrnn.initialize(I, H, O, scheme=scheme, dtype=dtype, rng=0)
    expected = [(H, I), (H, H), (H,), None, None, None] if O is None else [(H, I), (H, H), (H,), (O, H), (O,), None]
    assert [None if a is None else a.shape for a in n[:6]] == expected
    assert all(a.dtype == dtype and a.flags.c_contiguous and np.isfinite(a).all() for a in n.arrays)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(n.arrays) for b in n.arrays[:i])


@pytest.mark.parametrize("I", [0, 2])
@every_scheme
def test_with_feedback_u_and_r_are_the_columns_of_one_u(I, scheme, dtype):
    n = pyrnn.initialize(I, 4, 3, scheme=scheme, feedback=True, dtype=dtype, rng=0)
    expected = pyrnn.initialize(I + 3, 4, 3, scheme=scheme, dtype=dtype, rng=0)
    assert n.U.shape == (4, I)
    np.testing.assert_array_equal(np.hstack([n.U, n.R]), expected.U)
    for name in "WbVc":
        np.testing.assert_array_equal(getattr(n, name), getattr(expected, name))
    assert {a.dtype for a in n.arrays} == {np.dtype(dtype)}
    assert all(a.flags.c_contiguous for a in n.arrays)


def test_the_cell_is_that_of_the_network_and_changes_no_weight():
    n = pyrnn.initialize(2, 3, cell=CELL, rng=0)
    assert n.cell is CELL
    np.testing.assert_array_equal(n.ravel(), pyrnn.initialize(2, 3, rng=0).ravel())
    assert pyrnn.initialize(2, 3).cell == PLAIN


def test_defaults():
    n = pyrnn.initialize(2, 8, rng=0)
    assert all(a.dtype == np.float64 for a in n.arrays)
    np.testing.assert_array_equal(n.W, pyrnn.initialize(2, 8, scheme="orthogonal", gain=1.0, rng=0).W)


@every_scheme
def test_reproducible(scheme):
    draw = lambda rng: pyrnn.initialize(3, 6, 2, scheme=scheme, rng=rng).ravel()
    np.testing.assert_array_equal(draw(5), draw(5))
    np.testing.assert_array_equal(draw(5), draw(np.random.default_rng(5)))
    assert not np.array_equal(draw(5), draw(6))
    assert not np.array_equal(draw(None), draw(None))
    generator = np.random.default_rng(5)
    assert not np.array_equal(draw(generator), draw(generator)), "the generator must move on"


@every_scheme
def test_float32_is_the_rounded_float64(scheme):
    wide, narrow = (pyrnn.initialize(3, 6, 2, scheme=scheme, dtype=dtype, rng=1) for dtype in (np.float64, np.float32))
    np.testing.assert_array_equal(wide.ravel().astype(np.float32), narrow.ravel())


@every_scheme
@pytest.mark.parametrize("gain", [0, 0.5, 3, np.float32(2)])
def test_gain_scales(scheme, gain):
    one, scaled = (pyrnn.initialize(3, 6, 2, scheme=scheme, gain=g, rng=1) for g in (1.0, gain))
    np.testing.assert_allclose(scaled.W, gain * one.W, rtol=1e-15)
    all_scale = scheme in ("uniform", "glorot")
    for name in "UbVc":
        expected = getattr(one, name) * (gain if all_scale else 1)
        np.testing.assert_allclose(getattr(scaled, name), expected, rtol=1e-15)


# ---- Distributions --------------------------------------------------------------------------------------------------
def assert_distributed(sample, distribution):
    """Kolmogorov and Smirnov; the random numbers are fixed, so that this fails always or never."""
    assert scipy.stats.kstest(np.ravel(sample), distribution.cdf).pvalue > 0.01


normal = lambda scale: scipy.stats.norm(0, scale)
within = lambda bound: scipy.stats.uniform(-bound, 2 * bound)


@pytest.mark.parametrize("scheme", ["orthogonal", "gaussian", "identity"])
def test_U_and_V_are_normal_and_biases_zero(scheme):
    n = pyrnn.initialize(50, 200, 30, scheme=scheme, gain=1.7, rng=3)
    assert_distributed(n.U, normal(50**-0.5))
    assert_distributed(n.V, normal(200**-0.5))
    np.testing.assert_array_equal(n.b, 0)
    np.testing.assert_array_equal(n.c, 0)


@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_gaussian(gain):
    W = pyrnn.initialize(1, 200, scheme="gaussian", gain=gain, rng=3).W
    assert_distributed(W, normal(gain / 200**0.5))
    np.testing.assert_allclose(W.std(), gain / 200**0.5, rtol=0.02)


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_uniform(gain):
    n = pyrnn.initialize(50, 200, 300, scheme="uniform", gain=gain, rng=3)
    bound = gain / 200**0.5
    for a in n.arrays:
        assert np.abs(a).max() <= bound
        assert_distributed(a, within(bound))
    assert np.abs(n.W).max() > 0.999 * bound


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_glorot(gain):
    n = pyrnn.initialize(50, 200, 30, scheme="glorot", gain=gain, rng=3)
    for a in (n.U, n.W, n.V):
        bound = gain * (6 / sum(a.shape)) ** 0.5
        assert 0.999 * bound < np.abs(a).max() <= bound
        assert_distributed(a, within(bound))
    np.testing.assert_array_equal(n.b, 0)
    np.testing.assert_array_equal(n.c, 0)


@pytest.mark.parametrize("H", [1, 2, 3, 50])
@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_orthogonal(H, gain):
    W = pyrnn.initialize(1, H, scheme="orthogonal", gain=gain, rng=3).W
    np.testing.assert_allclose(W @ W.T, gain**2 * np.eye(H), atol=1e-14 * gain**2 * H**0.5)


def test_orthogonal_is_uniform():
    """Each column lies uniformly on the sphere, of which each coordinate is uniform in three dimensions; and
    rotations and reflections are equally frequent."""
    rng = np.random.default_rng(3)
    W = np.array([pyrnn.initialize(1, 3, rng=rng).W for _ in range(1000)])
    for i, j in np.ndindex(3, 3):
        assert scipy.stats.kstest(W[:, i, j], within(1).cdf).pvalue > 0.001
    assert abs((np.linalg.det(W) > 0).mean() - 0.5) < 0.05


@pytest.mark.parametrize("gain", [1.0, 0.9])
def test_identity(gain):
    np.testing.assert_array_equal(pyrnn.initialize(2, 7, scheme="identity", gain=gain).W, gain * np.eye(7))


# ---- Errors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["input_size", "hidden_size", "output_size"])
@pytest.mark.parametrize(
    ("size", "error"),
    [(0, ValueError), (-3, ValueError), (2.0, TypeError), ("2", TypeError), ([2], TypeError), (None, TypeError)],
)
def test_wrong_size(name, size, error):
    if name == "output_size" and size is None:
        pytest.skip("may be None")
    sizes = {"input_size": 2, "hidden_size": 3, "output_size": 2} | {name: size}
    with pytest.raises(error, match=rf"^{name} must be a positive integer, got ") as caught:
        pyrnn.initialize(**sizes)
    assert str(caught.value).endswith(repr(size))


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((-1, 2, 3), ValueError, "input_size must be an integer from 0, got -1"),
        ((1.0, 2, 3), TypeError, r"input_size must be an integer from 0, got 1\.0"),
        ((1, 0, 3), ValueError, "hidden_size must be a positive integer, got 0"),
        ((1, 2, 0), ValueError, "output_size must be a positive integer, got 0"),
        ((1, 2, None), ValueError, "output_size must be given with feedback, got None"),
    ],
)
def test_wrong_size_with_feedback(sizes, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        pyrnn.initialize(*sizes, feedback=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scheme": "xavier"}, ValueError, "scheme must be one of .*'glorot'.*, got 'xavier'"),
        ({"scheme": None}, ValueError, "scheme must be one of .*, got None"),
        ({"gain": np.nan}, ValueError, "gain must be a finite real number, got nan"),
        ({"gain": np.inf}, ValueError, "gain must be a finite real number, got inf"),
        ({"gain": "1"}, ValueError, "gain must be a finite real number, got '1'"),
        ({"gain": None}, ValueError, "gain must be a finite real number, got None"),
        ({"gain": 1j}, ValueError, "gain must be a finite real number, got 1j"),
        ({"gain": 1 + 0j}, ValueError, r"gain must be a finite real number, got \(1\+0j\)"),
        ({"gain": np.ones(3)}, ValueError, "gain must be a finite real number, got array.*"),
        ({"dtype": np.float16}, TypeError, "dtype must be float32 or float64, got float16"),
        ({"dtype": np.longdouble}, TypeError, "dtype must be float32 or float64, got .*"),
        ({"dtype": int}, TypeError, "dtype must be float32 or float64, got int.*"),
        ({"dtype": complex}, TypeError, "dtype must be float32 or float64, got complex128"),
        ({"cell": "relu"}, TypeError, r"cell must be a pyrnn\.Cell, got 'relu'"),
        ({"feedback": 1}, TypeError, "feedback must be True or False, got 1"),
        ({"feedback": True}, ValueError, "output_size must be given with feedback, got None"),
    ],
)
def test_wrong_option(options, error, message):
    if options.get("dtype") is np.longdouble and np.dtype(np.longdouble) == np.float64:
        pytest.skip("long double is float64 here")
    with pytest.raises(error, match=f"^{message}$"):
        pyrnn.initialize(2, 3, **options)
