"""`pyrnn.Parameters` and `pyrnn.initialize`: vectors for optimisers, and the distribution of each scheme."""

import numpy as np
import pytest
import scipy.stats
from helpers import network

import pyrnn

pytestmark = pytest.mark.once

SCHEMES = ["orthogonal", "gaussian", "uniform", "glorot", "identity"]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
every_choice_of_parts = pytest.mark.parametrize("missing", ["", "b", "c", "bc", "Vc", "bVc"])


@pytest.fixture
def parameters(dtype):
    n = network(I=2, H=3, O=4, dtype=dtype)
    return pyrnn.Parameters(*(n[name] for name in "UWbVc"))


# ---- One vector -----------------------------------------------------------------------------------------------------
@every_choice_of_parts
def test_round_trip(parameters, dtype, missing):
    params = parameters._replace(**dict.fromkeys(missing))
    vector = params.ravel()
    assert vector.dtype == dtype
    assert vector.shape == (sum(a.size for a in params if a is not None),)
    back = params.unravel(vector)
    assert isinstance(back, pyrnn.Parameters)
    for a, b in zip(params, back, strict=True):
        if a is None:
            assert b is None
        else:
            assert b.dtype == dtype
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(back.ravel(), vector)


def test_order_of_the_vector():
    params = pyrnn.Parameters(U=[[1], [2]], W=[[3, 4], [5, 6]], b=[7, 8], V=[[9, 10]], c=[11])
    np.testing.assert_array_equal(params.ravel(), np.arange(1, 12))
    columns = pyrnn.Parameters(*(np.asfortranarray(a) for a in params))
    np.testing.assert_array_equal(columns.ravel(), np.arange(1, 12))
    back = params.unravel(range(1, 12))
    for a, b in zip(params, back, strict=True):
        np.testing.assert_array_equal(a, b)


def test_ravel_copies_and_unravel_does_not(parameters):
    vector = parameters.ravel()
    assert not any(np.shares_memory(vector, a) for a in parameters)
    back = parameters.unravel(vector)
    assert all(np.shares_memory(vector, a) for a in back)
    vector *= 2
    np.testing.assert_array_equal(back.W, 2 * parameters.W)


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
    vector = pyrnn.Parameters(**arrays).ravel()
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
    n = network(I=2, H=3, O=4)
    params = pyrnn.Parameters(*(n[name] for name in "UWbVc"))
    with pytest.raises(error, match=f"^{message}$"):
        params.unravel(vector)


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
    n = network(I=2, H=3, O=4)
    params = pyrnn.Parameters(*(n[name] for name in "UWbVc"))._replace(**changes)
    with pytest.raises(error, match=f"^{message}$"):
        params.ravel()


# ---- Shapes, types, random numbers ----------------------------------------------------------------------------------
@every_scheme
@pytest.mark.parametrize(
    ("I", "H", "O"), [(1, 1, 1), (2, 5, 3), (7, 1, None), (1, 30, None), (np.int64(3), 4, np.int8(2))]
)
def test_shapes(dtype, scheme, I, H, O):
    params = pyrnn.initialize(I, H, O, scheme=scheme, dtype=dtype, rng=0)
    expected = [(H, I), (H, H), (H,), None, None] if O is None else [(H, I), (H, H), (H,), (O, H), (O,)]
    assert [None if a is None else a.shape for a in params] == expected
    assert all(a is None or (a.dtype == dtype and a.flags.c_contiguous and np.isfinite(a).all()) for a in params)
    arrays = [a for a in params if a is not None]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def test_defaults():
    params = pyrnn.initialize(2, 8, rng=0)
    assert all(a is None or a.dtype == np.float64 for a in params)
    np.testing.assert_array_equal(params.W, pyrnn.initialize(2, 8, scheme="orthogonal", gain=1.0, rng=0).W)


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
    params = pyrnn.initialize(50, 200, 30, scheme=scheme, gain=1.7, rng=3)
    assert_distributed(params.U, normal(50**-0.5))
    assert_distributed(params.V, normal(200**-0.5))
    np.testing.assert_array_equal(params.b, 0)
    np.testing.assert_array_equal(params.c, 0)


@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_gaussian(gain):
    W = pyrnn.initialize(1, 200, scheme="gaussian", gain=gain, rng=3).W
    assert_distributed(W, normal(gain / 200**0.5))
    np.testing.assert_allclose(W.std(), gain / 200**0.5, rtol=0.02)


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_uniform(gain):
    params = pyrnn.initialize(50, 200, 300, scheme="uniform", gain=gain, rng=3)
    bound = gain / 200**0.5
    for a in params:
        assert np.abs(a).max() <= bound
        assert_distributed(a, within(bound))
    assert np.abs(params.W).max() > 0.999 * bound


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_glorot(gain):
    params = pyrnn.initialize(50, 200, 30, scheme="glorot", gain=gain, rng=3)
    for a in (params.U, params.W, params.V):
        bound = gain * (6 / sum(a.shape)) ** 0.5
        assert 0.999 * bound < np.abs(a).max() <= bound
        assert_distributed(a, within(bound))
    np.testing.assert_array_equal(params.b, 0)
    np.testing.assert_array_equal(params.c, 0)


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
    ],
)
def test_wrong_option(options, error, message):
    if options.get("dtype") is np.longdouble and np.dtype(np.longdouble) == np.float64:
        pytest.skip("long double is float64 here")
    with pytest.raises(error, match=f"^{message}$"):
        pyrnn.initialize(2, 3, **options)
