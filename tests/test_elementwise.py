"""The public tanh and sech²: arguments and dtypes; test_tanh.py has the numbers of the kernels."""

import numpy as np
import pytest

import pyrnn
from pyrnn import elementwise, reference
from pyrnn._core import table

pytestmark = pytest.mark.compiled

FUNCTIONS = [elementwise.tanh, elementwise.sech2]


@pytest.mark.parametrize("name", ["tanh", "sech2"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_the_reference(name, dtype):
    a = np.linspace(-8, 8, 1001).astype(dtype)
    ours, exact = getattr(elementwise, name)(a), getattr(reference, name)(a.astype(np.longdouble))
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours.astype(np.longdouble), exact, rtol=5 * float(np.finfo(dtype).eps))


def test_forward_computes_the_same_numbers():
    a = np.random.default_rng(0).normal(0, 3, (5, 4, 33))
    states = pyrnn.forward(a, np.eye(33), np.zeros((33, 33)))
    np.testing.assert_array_equal(states, elementwise.tanh(a))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (7,), (2, 3, 4)])
def test_shapes(function, shape):
    a = np.full(shape, 0.5)
    y = function(a)
    assert np.shape(y) == shape
    np.testing.assert_array_equal(y, np.full(shape, function(0.5)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_any_layout_and_the_input_is_kept(function):
    a = np.random.default_rng(1).normal(size=(6, 8))
    kept = a.copy()
    for view in (a.T, a[::2, ::-3], np.asfortranarray(a), a.astype(">f8"), np.broadcast_to(a[0], (3, 8))):
        np.testing.assert_array_equal(function(view), function(np.array(view, np.float64, order="C")))
    np.testing.assert_array_equal(a, kept)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("given", "result"),
    [(np.float16, np.float32), (np.int8, np.float32), (bool, np.float32), (np.int64, np.float64), (">f4", np.float32)],
)
def test_promotion(function, given, result):
    a = np.array([0, 1, 1], given)
    assert function(a).dtype == result
    np.testing.assert_array_equal(function(a), function(a.astype(result)))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("bad", [1j, "a", None, np.longdouble(1), object()])
def test_what_is_no_real_number_is_refused(function, bad):
    with pytest.raises((TypeError, ValueError), match=r"^a must be"):
        function(bad)


# ------------------------------------------------------------------------------------------------------- show_config
def test_config_says_what_is_in_use(capsys):
    config = pyrnn.show_config(mode="dicts")
    assert config["instructions"]["selected"] == table.selected()
    assert config["versions"]["pyrnn"] == pyrnn.__version__
    assert config["engine"]["auto"] == ("blas" if table.selected() == "base" else "fused")
    assert capsys.readouterr().out == ""
    pyrnn.show_config()
    printed = capsys.readouterr().out
    for section, entries in config.items():
        assert f"{section}:\n" in printed
        assert all(f"  {name}: " in printed for name in entries)


def test_config_names_the_environment(monkeypatch):
    monkeypatch.setenv("PYRNN_NUM_THREADS", "3")
    threads = pyrnn.show_config(mode="dicts")["threads"]
    assert (threads["default"], threads["PYRNN_NUM_THREADS"]) == (3, "3")


def test_config_refuses_other_modes():
    with pytest.raises(ValueError, match="mode must be 'stdout' or 'dicts', got 'yaml'"):
        pyrnn.show_config(mode="yaml")
