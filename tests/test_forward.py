"""`pyrnn.forward`: values against the reference, routes, chunks, `out` and memory."""

import math

import numpy as np
import pytest
from helpers import (
    EDGE_SIZES,
    LAYOUTS,
    THRESHOLD_SIZES,
    WRITEABLE_LAYOUTS,
    agree,
    allocated,
    arguments,
    assert_close,
    for_each,
    memory,
    network,
    states,
)

import pyrnn

pytestmark = [pytest.mark.compiled, pytest.mark.plain_c, pytest.mark.python, pytest.mark.wheel]


@for_each("edge_size", EDGE_SIZES)
def test_edge_sizes(dtype, edge_size):
    agree("forward", arguments("forward", network(*edge_size, dtype=dtype)))


@pytest.mark.parametrize("T", [3, 20])
@for_each("threshold_size", THRESHOLD_SIZES)
def test_thresholds(dtype, threshold_size, T):
    B, H = threshold_size
    agree("forward", arguments("forward", network(T, B, 5, H, dtype=dtype)))


@for_each("steps", [1, 2, 3, 7, 8, 9, 1000])
@pytest.mark.parametrize("B", [None, 1, 3])
@for_each("layout", LAYOUTS)
def test_chunks(layout, set_chunk_bytes, steps, B):
    n = network(8, B, 4, 6)
    set_chunk_bytes(steps * (B or 1) * 6 * 8)
    n["x"] = layout(n["x"])
    agree("forward", arguments("forward", n))


@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("missing", [{"b"}, {"h0"}, {"b", "h0"}])
def test_missing_is_zero(B, missing, dtype):
    given = arguments("forward", network(B=B, dtype=dtype))
    zeros = given | {name: np.zeros_like(given[name]) for name in missing}
    none = given | dict.fromkeys(missing)
    np.testing.assert_array_equal(pyrnn.forward(**none), pyrnn.forward(**zeros))


def test_unbatched_is_a_batch_of_one(dtype):
    given = arguments("forward", network(B=1, dtype=dtype))
    h = pyrnn.forward(**given | {"x": given["x"][:, 0], "h0": given["h0"][0]})
    np.testing.assert_array_equal(h, pyrnn.forward(**given)[:, 0])


def test_sequences_do_not_mix():
    given = arguments("forward", network(T=7, B=20))
    h = pyrnn.forward(**given)
    for i in range(20):
        alone = pyrnn.forward(**given | {"x": given["x"][:, i], "h0": given["h0"][i]})
        assert_close(h[:, i], alone, 1e-14)


def test_continues_from_h0():
    given = arguments("forward", network(T=30))
    h = pyrnn.forward(**given)
    rest = pyrnn.forward(**given | {"x": given["x"][12:], "h0": h[11]})
    assert_close(rest, h[12:], 1e-14)


def test_by_hand():
    h, expected = 0.25, []
    for x_t in (1.0, -2.0, 0.5):
        h = math.tanh(0.1 + 0.8 * x_t - 0.7 * h)
        expected.append([h])
    x = np.array([[1.0], [-2.0], [0.5]])
    actual = pyrnn.forward(x, U=[[0.8]], W=[[-0.7]], b=[0.1], h0=[0.25])
    np.testing.assert_allclose(actual, expected, rtol=1e-15)


def test_against_other_loop():
    given = arguments("forward", network(T=9, B=4, I=3, H=11))
    assert_close(pyrnn.forward(**given), states(**given), 1e-14)


def test_saturates_at_one(dtype):
    x = np.array([[[1e30], [-1e30], [40.0], [-40.0]]], dtype)
    h = pyrnn.forward(x, np.ones((1, 1), dtype), np.zeros((1, 1), dtype))
    np.testing.assert_array_equal(h.ravel(), [1, -1, 1, -1])


# ---- out ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("B", [None, 1, 3, 13])
@for_each("steps", [1, 2, 100])
@for_each("writeable_layout", WRITEABLE_LAYOUTS)
def test_out(writeable_layout, set_chunk_bytes, B, steps):
    n = network(5, B, 4, 6)
    set_chunk_bytes(steps * (B or 1) * 6 * 8)
    out = writeable_layout(np.full(n["h"].shape, np.nan))
    (h,) = agree("forward", arguments("forward", n), out=out)
    assert h is out
    out[...] = np.nan
    margin = writeable_layout(np.full(n["h"].shape, np.nan))
    assert memory(out).tobytes() == memory(margin).tobytes(), "written beside out"


@for_each("edge_size", EDGE_SIZES)
def test_out_edge_sizes(edge_size):
    n = network(*edge_size)
    out = np.full(n["h"].shape, np.nan)
    (h,) = agree("forward", arguments("forward", n), out=out)
    assert h is out


def test_new_array_owes_nothing_to_old_memory():
    """Whatever lies in memory that NumPy hands out again, NaN too, must not reach the result."""
    n = network(4, 3, 5, 50)
    for _ in range(20):
        used = [np.full_like(a, np.nan) for a in n.values() if a.dtype.kind == "f" for _ in range(3)]
        del used
        agree("forward", arguments("forward", n))


# ---- Memory ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("B", [None, 4])
def test_batch_first_is_read_and_written_in_place(B):
    given = arguments("forward", network(2000, B, 32, 32))
    first = lambda a: a if B is None else np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1)
    given["x"] = first(given["x"])
    out = first(np.zeros_like(given["x"]))
    _, most = allocated(lambda: pyrnn.forward(**given, out=out))
    assert most < max(given["x"].nbytes / 2, 1 << 20)


def test_memory_does_not_grow_with_time(set_chunk_bytes):
    set_chunk_bytes(1 << 14)
    peaks = []
    for T in (500, 5000):
        n = network(T, 4, 32, 32)
        out = np.empty_like(n["h"])
        given = arguments("forward", n | {"x": n["x"][:, ::-1]})
        peaks.append(allocated(lambda given=given, out=out: pyrnn.forward(**given, out=out))[1])
    assert peaks[1] < peaks[0] + 4096
