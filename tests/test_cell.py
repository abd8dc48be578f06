"""The value that says what a cell is: what it holds, what it refuses, and phi with its derivatives."""

import copy
import dataclasses
import pickle
import re
from functools import partial

import mpmath
import numpy as np
import pytest

import pyrnn
from pyrnn._core import table
from pyrnn.cell import NONLINEARITIES

pytestmark = pytest.mark.once

LEAKS = ((None, "rate"), (0.3, "rate"), ([0.1, 0.9], "current"))
CELLS = [pyrnn.Cell(name, *leak) for name in NONLINEARITIES for leak in LEAKS]
EXACT = {
    "tanh": mpmath.tanh,
    "relu": lambda t: max(t, mpmath.mpf(0)),
    "identity": lambda t: t,
    "softplus": lambda t: mpmath.log1p(mpmath.exp(t)),
    "sigmoid": lambda t: 1 / (1 + mpmath.exp(-t)),
    "retanh": lambda t: max(mpmath.tanh(t), mpmath.mpf(0)),
    "leaky_relu": lambda t, slope=0.01: t if t > 0 else slope * t,
}
CELLS += [pyrnn.Cell("leaky_relu", *leak, negative_slope=0.2) for leak in LEAKS]


@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_cells_are_values(cell):
    for other in (copy.copy(cell), copy.deepcopy(cell), pickle.loads(pickle.dumps(cell)), dataclasses.replace(cell)):
        assert other == cell
        assert hash(other) == hash(cell)
        assert (other.number, other.current) == (cell.number, cell.current)
        assert not isinstance(other.alpha, np.ndarray) or not other.alpha.flags.writeable
    assert sum(cell == other for other in CELLS) == 1
    assert cell != "tanh"
    for name in ("nonlinearity", "alpha", "form", "negative_slope"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(cell, name, getattr(cell, name))


def test_alpha_is_a_copy_that_nobody_writes_to():
    alpha = np.array([0.1, 0.2], np.float32)
    cell = pyrnn.Cell(alpha=alpha)
    alpha[0] = 7
    assert cell.alpha.dtype == np.float64
    np.testing.assert_array_equal(cell.alpha, np.array([0.1, 0.2], np.float32))
    with pytest.raises(ValueError, match="read-only"):
        cell.alpha[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        cell.leak(2, np.float32)[0] = 7
    assert cell.leak(2, np.float32) is cell.leak(2, "f")  # made once
    for number in (1, True, np.float32(0.5), np.array(0.5), np.int64(1)):
        assert type(pyrnn.Cell(alpha=number).alpha) is float
        np.testing.assert_array_equal(pyrnn.Cell(alpha=number).leak(3, np.float32), np.full(3, number, np.float32))
    assert pyrnn.Cell().leak(3, np.float32) is None


def test_alpha_takes_the_dtype_of_the_arrays():
    x, U, W = (np.ones(shape, np.float32) for shape in ((3, 2), (2, 2), (2, 2)))
    for alpha in (0.1, np.float64(0.1), np.full(2, 0.1), [0.1, 0.1]):
        h = pyrnn.forward(x, U, W, cell=pyrnn.Cell(alpha=alpha))
        assert h.dtype == np.float32
        np.testing.assert_array_equal(h, pyrnn.forward(x, U, W, cell=pyrnn.Cell(alpha=np.float32(0.1))))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("elu",),
            ValueError,
            "nonlinearity must be one of 'tanh', 'relu', 'identity', 'softplus', 'sigmoid', 'retanh', "
            "'leaky_relu', got 'elu'",
        ),
        ((None,), ValueError, "nonlinearity must be one of"),
        (("tanh", 0.1, "leaky"), ValueError, "form must be one of 'rate', 'current', got 'leaky'"),
        (("tanh", None, "current"), ValueError, "alpha must be given with form 'current', got None"),
        (("tanh", np.ones((1, 6))), ValueError, "alpha must be a number or have shape (H,), got (1, 6)"),
        (("tanh", np.nan), ValueError, "alpha must be finite, got nan"),
        (("tanh", [0.1, np.inf]), ValueError, "alpha must be finite, got [0.1, inf]"),
        (("tanh", 0.5j), TypeError, "alpha must be real numbers"),
        (("tanh", "0.5"), TypeError, "alpha must be real numbers"),
        (("leaky_relu", None, "rate", -0.1), ValueError, "negative_slope must be finite and at least 0, got -0.1"),
        (("leaky_relu", None, "rate", np.nan), ValueError, "negative_slope must be finite and at least 0, got nan"),
        (("leaky_relu", None, "rate", np.inf), ValueError, "negative_slope must be finite and at least 0, got inf"),
        (("leaky_relu", None, "rate", "0.1"), TypeError, "negative_slope must be a real number, got '0.1'"),
        (("leaky_relu", None, "rate", True), TypeError, "negative_slope must be a real number, got True"),
        (("leaky_relu", None, "rate", [0.1]), TypeError, "negative_slope must be a real number, got [0.1]"),
        (
            ("relu", None, "rate", 0.1),
            ValueError,
            "negative_slope must be left at 0.01 with nonlinearity 'relu', which has none, got 0.1",
        ),
    ],
)
def test_bad_cells(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        pyrnn.Cell(*arguments)


@pytest.mark.parametrize("bad", [None, "tanh", pyrnn.Cell])
def test_what_is_no_cell(bad):
    x, U, W = np.ones((3, 2)), np.ones((2, 2)), np.ones((2, 2))
    for function, arguments in (
        (pyrnn.forward, (x, U, W)),
        (pyrnn.backward, (x, x, x, U, W)),
        (pyrnn.state_gradients, (x, x, W)),
        (pyrnn.jacobian, (x, W)),
    ):
        with pytest.raises(TypeError, match=re.escape(f"cell must be a pyrnn.Cell, got {bad!r}")):
            function(*arguments, cell=bad)


@pytest.mark.parametrize("cell", CELLS[::3], ids=repr)
def test_phi_and_its_derivatives_against_arbitrary_precision(cell):
    a = np.concatenate([np.linspace(-3, 3, 24), [-20.0, 20.0]]).reshape(2, 13)
    with mpmath.workdps(60):
        phi = EXACT[cell.nonlinearity]
        if cell.nonlinearity == "leaky_relu":
            phi = partial(phi, slope=cell.negative_slope)
        exact = [np.array([float(mpmath.diff(phi, t, n)) for t in map(mpmath.mpf, a.ravel())]).reshape(a.shape)
                 for n in (0, 1, 2)]  # fmt: skip
    before = a.copy()
    r = cell.phi(a)
    np.testing.assert_allclose(r, exact[0], rtol=4e-16)
    np.testing.assert_allclose(cell.slope_at(a), exact[1], rtol=1e-15)
    np.testing.assert_allclose(cell.slope(r), exact[1], rtol=0, atol=4e-16)
    bend = cell.bend(r)
    np.testing.assert_allclose(0 if bend is None else bend * cell.slope(r), exact[2], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(a, before)


def test_gradient_of_alpha_is_of_its_shape():
    each = np.array([1.0, 2.0])
    assert pyrnn.Cell(alpha=0.5).alpha_gradient(each) == 3
    np.testing.assert_array_equal(pyrnn.Cell(alpha=[0.5, 0.1]).alpha_gradient(each), each)


@pytest.mark.parametrize("cell", CELLS[::3], ids=repr)
def test_phi_and_its_derivatives_have_the_same_bits_on_every_instruction_set(cell, dtype):
    a = np.random.default_rng(0).standard_normal((7, 13)).astype(dtype) * 4
    found = set()
    old = table.selected()
    try:
        for name in table.available():
            table.select(name)
            r = cell.phi(a)
            results = (r, cell.slope(r), cell.slope(r[:, ::2]), cell.bend(r), cell.slope_at(a))
            found.add(tuple(None if each is None else each.tobytes() for each in results))
    finally:
        table.select(old)
    assert len(found) == 1
    slope = cell.slope(r)
    assert cell.slope(r, out=r) is r
    np.testing.assert_array_equal(r, slope)
