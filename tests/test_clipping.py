"""`pyrnn.training.clip_gradients` and `pyrnn.training.gradient_norm`, against PyTorch's and exact arithmetic."""

import collections
import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from helpers import network

import pyrnn

pytestmark = pytest.mark.once

nan, inf = np.nan, np.inf


def random_gradients(seed, dtype=np.float64, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = [(4, 3), (7,), (0, 2), (2, 1, 5)]
    return [(scale * rng.standard_normal(shape)).astype(dtype) for shape in shapes]


def exact_norm(arrays):
    """By rational numbers, rounded once or twice; for results that float64 holds."""
    total = sum(Fraction(float(x)) ** 2 for a in arrays for x in np.ravel(a))
    scale = Fraction(2) ** (2 * 1200)
    return float(Fraction(math.isqrt(int(total * scale)), 2**1200))


def in_torch(function, gradients, *arguments, **options):
    """What one of PyTorch's functions returns for the gradients of parameters, and what it makes of them."""
    torch = pytest.importorskip("torch")
    parameters = [torch.nn.Parameter(torch.zeros(a.shape, dtype=torch.from_numpy(a).dtype)) for a in gradients]
    for p, a in zip(parameters, gradients, strict=True):
        p.grad = torch.from_numpy(a.copy())
    result = getattr(torch.nn.utils, function)(parameters, *arguments, **options)
    return result, [p.grad.numpy() for p in parameters]


# ---- By norm --------------------------------------------------------------------------------------------------------
@pytest.mark.peer
@pytest.mark.parametrize("max_norm", [0.1, 1.0, 5.0, 1e3])
@pytest.mark.parametrize("seed", range(5))
def test_norm_against_torch(dtype, max_norm, seed):
    gradients = random_gradients(seed, dtype)
    norm, expected = in_torch("clip_grad_norm_", gradients, max_norm)
    clipped, factor = pyrnn.training.clip_gradients(gradients, max_norm=max_norm)
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(pyrnn.training.gradient_norm(gradients), float(norm), rtol=tolerance)
    # PyTorch divides by norm + 1e-6.
    theirs = float(norm) / (float(norm) + 1e-6) if max_norm < norm else 1.0
    np.testing.assert_allclose(factor, min(1.0, max_norm / float(norm)), rtol=tolerance)
    for a, c, e in zip(gradients, clipped, expected, strict=True):
        assert c.dtype == dtype
        assert not np.shares_memory(a, c)
        np.testing.assert_allclose(c * theirs, e, rtol=2 * tolerance)
        np.testing.assert_allclose(c, a * factor, rtol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        *((np.float32, s) for s in (1e-44, 1e-38, 1e-30, 1e-20, 1e20, 1e30, 5e37)),
        *((np.float64, s) for s in (5e-324, 1e-308, 1e-200, 1e200, 1e307)),
    ],
)
def test_norms_of_any_size(dtype, scale):
    """No square overflows or vanishes, and the clipped norm is the threshold."""
    gradients = [np.array([3, 0, -1], dtype) * dtype(scale), np.array([[2, 5]], dtype) * dtype(scale)]
    norm = exact_norm(gradients)
    np.testing.assert_allclose(pyrnn.training.gradient_norm(gradients), norm, rtol=1e-15)
    for ratio in (0.5, 1e-3):
        if norm * ratio > 1e-320:
            clipped, factor = pyrnn.training.clip_gradients(gradients, max_norm=ratio * norm)
            np.testing.assert_allclose(factor, ratio, rtol=1e-3 if norm < 1e-300 else 1e-14)
            smallest = np.finfo(dtype).smallest_subnormal
            for a, c in zip(gradients, clipped, strict=True):
                np.testing.assert_allclose(c, ratio * a.astype(np.float64), rtol=np.finfo(dtype).eps, atol=smallest)


def test_factors_too_small_for_the_dtype():
    """1e-60 is 0 in float32, and 1e-310 has few digits in float64; the products are neither."""
    clipped, factor = pyrnn.training.clip_gradients(np.array([3e30, 4e30], np.float32), max_norm=1e-30)
    np.testing.assert_allclose(clipped, [6e-31, 8e-31], rtol=1e-6)
    assert factor == pytest.approx(2e-61)
    clipped, factor = pyrnn.training.clip_gradients(np.array([3e300, 4e300]), max_norm=1e-13)
    np.testing.assert_allclose(clipped, [6e-14, 8e-14], rtol=1e-15)
    assert factor == pytest.approx(2e-314, rel=1e-6)


def test_norms_too_large_for_float64():
    gradients = np.full(9, 1.7e308)
    assert pyrnn.training.gradient_norm(gradients) == inf
    clipped, factor = pyrnn.training.clip_gradients(gradients, max_norm=3.0)
    np.testing.assert_allclose(clipped, 1.0, rtol=1e-15)
    assert factor == pytest.approx(1 / 1.7e308)


def test_at_the_threshold():
    """Not above it, not clipped; above it by the least number, clipped."""
    gradients = np.array([3.0, 4.0])
    assert pyrnn.training.clip_gradients(gradients, max_norm=5.0)[1] == 1.0
    assert pyrnn.training.clip_gradients(gradients, max_norm=5)[1] == 1.0
    assert pyrnn.training.clip_gradients(gradients, max_norm=np.nextafter(5, 0))[1] < 1
    for a in (gradients, np.array([inf, 1.0]), np.full(9, 1.7e308)):  # nothing is above inf
        clipped, factor = pyrnn.training.clip_gradients(a, max_norm=inf)
        assert factor == 1
        np.testing.assert_array_equal(clipped, a)


def test_float32_sums_in_float64():
    """Ten million entries of 1 and one of 1e4 lose nothing."""
    gradients = [np.ones(10**6, np.float32), np.array([1e4], np.float32)]
    assert pyrnn.training.gradient_norm(gradients) == np.sqrt(1e6 + 1e8)


@pytest.mark.peer
@pytest.mark.parametrize("bad", [inf, -inf, nan])
def test_nonfinite_against_torch(dtype, bad):
    gradients = [np.array([1.0, bad], dtype), np.array([0.0, 2.0], dtype)]
    norm, expected = in_torch("clip_grad_norm_", gradients, 1.0)
    np.testing.assert_array_equal(pyrnn.training.gradient_norm(gradients), float(norm))
    clipped, factor = pyrnn.training.clip_gradients(gradients, max_norm=1.0)
    for c, e in zip(clipped, expected, strict=True):
        np.testing.assert_array_equal(c, e)
    np.testing.assert_array_equal(factor, nan if np.isnan(bad) else 0.0)
    with pytest.raises(RuntimeError):
        in_torch("clip_grad_norm_", gradients, 1.0, error_if_nonfinite=True)
    message = r"^gradients\[0\] must be finite, got NaN or inf in it$"
    for threshold in ({"max_norm": 1.0}, {"max_value": 1.0}):
        with pytest.raises(ValueError, match=message):
            pyrnn.training.clip_gradients(gradients, **threshold, error_if_nonfinite=True)


def test_nan_beside_inf():
    gradients = [np.array([1.0, inf]), np.array([nan])]
    assert np.isnan(pyrnn.training.gradient_norm(gradients))
    clipped, factor = pyrnn.training.clip_gradients(gradients, max_norm=1.0)
    assert np.isnan(factor)
    assert all(np.isnan(a).all() for a in clipped)


def test_finite_gradients_are_no_error():
    """A norm that float64 does not hold is of finite numbers all the same."""
    factor = pyrnn.training.clip_gradients(np.full(9, 1.7e308), max_norm=1.0, error_if_nonfinite=True)[1]
    assert 0 < factor < 1


# ---- By entry -------------------------------------------------------------------------------------------------------
@pytest.mark.peer
@pytest.mark.parametrize("max_value", [0.1, 0.5, 1, 10.0])
@pytest.mark.parametrize("seed", range(5))
def test_value_against_torch(dtype, max_value, seed):
    gradients = random_gradients(seed, dtype)
    _, expected = in_torch("clip_grad_value_", gradients, max_value)
    clipped, fraction = pyrnn.training.clip_gradients(gradients, max_value=max_value)
    changed = 0
    for a, c, e in zip(gradients, clipped, expected, strict=True):
        assert c.dtype == dtype
        assert not np.shares_memory(a, c)
        np.testing.assert_array_equal(c, e)
        changed += (c != a).sum()
    assert isinstance(fraction, float)
    assert fraction == changed / sum(a.size for a in gradients)


@pytest.mark.peer
def test_value_of_nan_and_inf(dtype):
    gradients = [np.array([nan, inf, -inf, 0.5], dtype)]
    _, expected = in_torch("clip_grad_value_", gradients, 2.0)
    clipped, fraction = pyrnn.training.clip_gradients(gradients, max_value=2.0)
    np.testing.assert_array_equal(clipped[0], expected[0])
    assert fraction == 0.5


def test_value_beyond_the_dtype():
    largest = np.finfo(np.float32).max
    gradients = np.array([largest, inf, -inf], np.float32)
    clipped, fraction = pyrnn.training.clip_gradients(gradients, max_value=1e300)
    np.testing.assert_array_equal(clipped, [largest, largest, -largest])
    assert fraction == 2 / 3
    clipped, fraction = pyrnn.training.clip_gradients(gradients, max_value=inf)
    np.testing.assert_array_equal(clipped, gradients)
    assert fraction == 0


def test_value_at_the_threshold():
    assert pyrnn.training.clip_gradients(np.array([-1.0, 1.0]), max_value=1.0)[1] == 0
    assert pyrnn.training.clip_gradients(np.array([0.1], np.float32), max_value=0.1)[1] == 0


# ---- What gradients come in -----------------------------------------------------------------------------------------
by_both = pytest.mark.parametrize("threshold", [{"max_norm": 0.5}, {"max_value": 0.5}])


class Pair(NamedTuple):
    one: object
    other: object


@by_both
def test_loss_gradients(threshold):
    n = network()
    _, gradients = pyrnn.loss_and_gradients(pyrnn.Network(n["U"], n["W"], None, n["V"], n["c"]), n["x"], n["targets"])
    clipped, _ = pyrnn.training.clip_gradients(gradients, **threshold)
    assert type(clipped) is pyrnn.LossGradients
    assert clipped.b is None
    flat, _ = pyrnn.training.clip_gradients(
        np.concatenate([a.ravel() for a in gradients if a is not None]), **threshold
    )
    np.testing.assert_allclose(np.concatenate([a.ravel() for a in clipped if a is not None]), flat, rtol=1e-14)
    assert all(c.shape == a.shape for a, c in zip(gradients, clipped, strict=True) if a is not None)
    of_parameters, factor = pyrnn.training.clip_gradients(gradients.parameters, **threshold)
    assert type(of_parameters) is pyrnn.Network
    assert of_parameters.cell is gradients.parameters.cell
    if "max_norm" in threshold:
        np.testing.assert_allclose(np.linalg.norm(of_parameters.ravel()), 0.5, rtol=1e-14)
        np.testing.assert_allclose(of_parameters.ravel(), factor * gradients.parameters.ravel(), rtol=1e-14)


@pytest.mark.parametrize("alpha", [0.5, np.full(6, 0.5)])
def test_gradients_with_drive_and_alpha(alpha):
    n = network()
    made = pyrnn.Network(n["U"], n["W"], n["b"], cell=pyrnn.Cell(alpha=alpha))
    gradients = pyrnn.simulate(made, n["x"], n["h0"], drive=n["dh"]).backward(n["dh"])
    norm = np.linalg.norm(np.concatenate([np.ravel(a) for a in gradients]))
    np.testing.assert_allclose(pyrnn.training.gradient_norm(gradients), norm, rtol=1e-14)
    clipped, factor = pyrnn.training.clip_gradients(gradients, max_norm=norm / 4)
    assert type(clipped) is pyrnn.Gradients
    assert factor == pytest.approx(0.25)
    for a, c in zip(gradients, clipped, strict=True):
        assert type(c) is type(a)
        np.testing.assert_allclose(c, a / 4, rtol=1e-14)
    plain = pyrnn.simulate(made._replace(cell=pyrnn.Cell()), n["x"], n["h0"]).backward(n["dh"])
    assert pyrnn.training.clip_gradients(plain, max_norm=1.0)[0].drive is None


@by_both
def test_nests(threshold):
    W, b, s = np.full((2, 2), 3.0), np.full(2, -4.0, np.float32), 5.0
    nest = {"layers": [Pair(W, None), (b, [])], 7: collections.OrderedDict(s=s), "none": None}
    clipped, factor = pyrnn.training.clip_gradients(nest, **threshold)
    flat, same_factor = pyrnn.training.clip_gradients([W, b, s], **threshold)
    assert factor == same_factor < 1 or factor == 1  # all of them are above 0.5
    assert list(clipped) == list(nest)
    assert type(clipped["layers"][0]) is Pair
    assert type(clipped["layers"][1]) is tuple
    assert type(clipped[7]) is collections.OrderedDict
    assert clipped["layers"][0].other is clipped["none"] is None
    assert clipped["layers"][1][1] == []
    for c, e in zip((clipped["layers"][0].one, clipped["layers"][1][0], clipped[7]["s"]), flat, strict=True):
        assert c.dtype == e.dtype
        np.testing.assert_array_equal(c, e)
    assert clipped["layers"][1][0].dtype == np.float32
    assert nest["layers"][0].one is W
    assert (W == 3).all()


@pytest.mark.parametrize("threshold", [{"max_norm": 1.0}, {"max_norm": 9.0}, {"max_value": 1.0}, {"max_value": 9.0}])
def test_numbers(threshold):
    """Of Python and NumPy, clipped and not."""
    expected = min(2.0, *threshold.values())
    for number in (2.0, 2, np.float64(2), np.float32(2), np.array(2.0)):
        clipped, _ = pyrnn.training.clip_gradients(number, **threshold)
        assert isinstance(clipped, np.floating)
        assert clipped.dtype == (np.float32 if isinstance(number, np.float32) else np.float64)
        assert clipped == expected


def test_dicts_that_need_more_than_their_items():
    nest = collections.defaultdict(list, W=np.array([2.0]))
    clipped, _ = pyrnn.training.clip_gradients(nest, max_norm=1.0)
    assert clipped.default_factory is list
    np.testing.assert_array_equal(clipped["W"], [1.0])
    np.testing.assert_array_equal(nest["W"], [2.0])


def test_keys_that_look_alike():
    class Key:
        __repr__ = lambda self: "key"

    nest = {Key(): np.array([3.0]), Key(): np.array([4.0])}
    clipped, _ = pyrnn.training.clip_gradients(nest, max_norm=1.0)
    np.testing.assert_allclose(list(clipped.values()), [[0.6], [0.8]])


@pytest.mark.parametrize("nothing", [None, [], {}, (), [None], np.zeros((0, 3)), [np.zeros(4)]])
def test_nothing_to_clip(nothing):
    assert pyrnn.training.gradient_norm(nothing) == 0
    clipped, factor = pyrnn.training.clip_gradients(nothing, max_norm=1.0)
    assert factor == 1.0
    assert type(clipped) is type(nothing)
    assert pyrnn.training.clip_gradients(nothing, max_value=1.0)[1] == 0.0


@by_both
def test_layouts(layout, threshold):
    a, b = np.random.default_rng(0).standard_normal((2, 3, 4))
    laid_out = layout(a)
    before = laid_out.tobytes()
    clipped, factor = pyrnn.training.clip_gradients([laid_out, b], **threshold)
    expected, same = pyrnn.training.clip_gradients([a, b], **threshold)
    assert factor == pytest.approx(same, rel=1e-15)
    for c, e in zip(clipped, expected, strict=True):
        assert c.flags.writeable
        np.testing.assert_allclose(c, e, rtol=1e-15)
    assert laid_out.tobytes() == before


@pytest.mark.parametrize("threshold", [{"max_norm": 100.0}, {"max_value": 100.0}, {"max_norm": inf}])
def test_results_are_new_arrays_also_where_nothing_is_clipped(threshold):
    a = np.ones((3, 2))
    clipped, _ = pyrnn.training.clip_gradients(a, **threshold)
    assert not np.shares_memory(a, clipped)
    np.testing.assert_array_equal(a, clipped)


# ---- Bad arguments --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "exactly one of max_norm and max_value must be given, got None and None"),
        ({"max_norm": 1, "max_value": 2}, ValueError, "exactly one of .* must be given, got 1 and 2"),
        ({"max_norm": 0}, ValueError, "max_norm must be a positive number, got 0"),
        ({"max_norm": -1.0}, ValueError, "max_norm must be a positive number, got -1.0"),
        ({"max_norm": nan}, ValueError, "max_norm must be a positive number, got nan"),
        ({"max_norm": "1"}, ValueError, "max_norm must be a positive number, got '1'"),
        ({"max_norm": 1j}, ValueError, "max_norm must be a positive number, got 1j"),
        ({"max_norm": [1.0]}, ValueError, r"max_norm must be a positive number, got \[1.0\]"),
        ({"max_value": 0.0}, ValueError, "max_value must be a positive number, got 0.0"),
        ({"max_value": np.float32(-2)}, ValueError, "max_value must be a positive number, got .*2.0.*"),
        ({"max_norm": 1, "error_if_nonfinite": 1}, TypeError, "error_if_nonfinite must be True or False, got 1"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        pyrnn.training.clip_gradients(np.ones(3), **options)


@pytest.mark.parametrize(
    ("gradients", "error", "message"),
    [
        (np.ones(2, complex), TypeError, "gradients must be real numbers .* got dtype complex128"),
        ("text", TypeError, "gradients must be real numbers .*"),
        ([np.ones(2), {"W": np.array([object()])}], TypeError, r"gradients\[1\]\['W'\] must be real numbers .* object"),
        (pyrnn.Network("U", None), TypeError, r"gradients\.U must be real numbers .*"),
        ({1: np.ones(2, np.longdouble)}, TypeError, r"gradients\[1\] must be real numbers .*"),
        ([np.ma.array([1.0], mask=[True])], TypeError, r"gradients\[0\] must be an array without masked values.*"),
        (object(), TypeError, "gradients must be real numbers .* object"),
    ],
)
def test_bad_gradients(gradients, error, message):
    for call in (
        pyrnn.training.gradient_norm,
        lambda g: pyrnn.training.clip_gradients(g, max_norm=1.0),
        lambda g: pyrnn.training.clip_gradients(g, max_value=1.0),
    ):
        with pytest.raises(error, match=f"^{message}$"):
            call(gradients)
