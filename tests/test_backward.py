"""`pyrnn.backward`: values against the reference and against derivatives, chunks, and memory."""

import numpy as np
import pytest
from helpers import (
    EDGE_SIZES,
    LAYOUTS,
    THRESHOLD_SIZES,
    InEngine,
    agree,
    allocated,
    arguments,
    assert_close,
    central_differences,
    complex_step,
    for_each,
    network,
    states,
)

import pyrnn
from pyrnn import reference

pytestmark = [pytest.mark.compiled, pytest.mark.plain_c, pytest.mark.python, pytest.mark.wheel]


@for_each("edge_size", EDGE_SIZES)
def test_edge_sizes(dtype, edge_size):
    agree("backward", arguments("backward", network(*edge_size, dtype=dtype)))


@for_each("threshold_size", THRESHOLD_SIZES)
def test_thresholds(dtype, threshold_size):
    B, H = threshold_size
    agree("backward", arguments("backward", network(4, B, 5, H, dtype=dtype)))


@for_each("I", [1, 2, 8, 16, 33, 200])
@for_each("B", [None, 1, 4, 13])
def test_input_sizes(dtype, B, I):
    agree("backward", arguments("backward", network(4, B, I, 7, dtype=dtype)))


@for_each("steps", [1, 2, 3, 7, 8, 9, 1000])
@pytest.mark.parametrize("B", [None, 1, 3])
@pytest.mark.parametrize("I", [4, 9])
@for_each("layout", LAYOUTS)
def test_chunks(layout, set_chunk_bytes, steps, B, I):
    n = network(8, B, I, 6)
    set_chunk_bytes(steps * (B or 1) * 6 * 8)
    for name in ("x", "h", "dh"):
        n[name] = layout(n[name])
    agree("backward", arguments("backward", n))


@pytest.mark.parametrize("B", [None, 3])
def test_missing_h0_is_zero(dtype, B):
    given = arguments("backward", network(B=B, dtype=dtype))
    zeros = given | {"h0": np.zeros_like(given["h0"])}
    for a, b in zip(pyrnn.backward(**given | {"h0": None})[:5], pyrnn.backward(**zeros)[:5], strict=True):
        np.testing.assert_array_equal(a, b)


def test_unbatched_is_a_batch_of_one(dtype):
    given = arguments("backward", network(B=1, dtype=dtype))
    alone = {name: a[:, 0] if a.ndim == 3 else a for name, a in given.items()} | {"h0": given["h0"][0]}
    batched, unbatched = pyrnn.backward(**given), pyrnn.backward(**alone)
    np.testing.assert_array_equal(unbatched.x, batched.x[:, 0])
    np.testing.assert_array_equal(unbatched.h0, batched.h0[0])
    for name in "UWb":
        np.testing.assert_array_equal(getattr(unbatched, name), getattr(batched, name))


def test_returns_named_new_arrays():
    given = arguments("backward", network())
    gradients = pyrnn.backward(**given)
    assert isinstance(gradients, pyrnn.Gradients)
    assert gradients._fields == ("x", "U", "W", "b", "h0", "drive", "alpha")
    assert gradients.drive is gradients.alpha is None
    arrays = [*gradients[:5], *given.values()]
    for i, a in enumerate(gradients[:5]):
        assert a.flags.writeable
        assert not any(np.shares_memory(a, other) for other in arrays[i + 1 :])


# ---- Derivatives ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("module", [pyrnn, reference])
@pytest.mark.parametrize("B", [None, 2])
@pytest.mark.parametrize("T", [1, 4])
def test_complex_step(module, B, T):
    n = network(T, B, 3, 4)
    exact = complex_step(lambda **given: (n["dh"] * states(**given)).sum(), arguments("forward", n))
    gradients = module.backward(**arguments("backward", n))
    for name in ("x", "U", "W", "b", "h0"):
        assert_close(getattr(gradients, name), exact[name], 1e-13)


@pytest.mark.parametrize("B", [None, 2])
def test_central_differences(B):
    n = network(4, B, 3, 4)
    differences = central_differences(lambda **given: (n["dh"] * pyrnn.forward(**given)).sum(), arguments("forward", n))
    gradients = pyrnn.backward(**arguments("backward", n))
    for name in ("x", "U", "W", "b", "h0"):
        assert_close(getattr(gradients, name), differences[name], 1e-8)


def test_long_sequence_with_loss_at_the_end(set_chunk_bytes):
    n = network(300, 2, 3, 8)
    n["W"] = np.linalg.qr(n["W"])[0]
    n["dh"][:-1] = 0
    set_chunk_bytes(17 * 2 * 8 * 8)
    (dx, *_) = agree("backward", arguments("backward", n))
    assert np.abs(dx[0]).max() > 0


def test_linear_in_dh():
    given = arguments("backward", network())
    other = np.cos(np.arange(given["dh"].size)).reshape(given["dh"].shape)
    both = pyrnn.backward(**given | {"dh": 2 * given["dh"] + other})
    parts = zip(pyrnn.backward(**given)[:5], pyrnn.backward(**given | {"dh": other})[:5], strict=True)
    for a, (first, second) in zip(both[:5], parts, strict=True):
        assert_close(a, 2 * first + second, 1e-13)


def test_sums_over_the_batch():
    given = arguments("backward", network(6, 14, 3, 5))
    batch = pyrnn.backward(**given)
    alone = [
        pyrnn.backward(**given | {name: given[name][:, i] for name in ("dh", "h", "x")} | {"h0": given["h0"][i]})
        for i in range(14)
    ]
    for name in "UWb":
        assert_close(getattr(batch, name), sum(getattr(g, name) for g in alone), 1e-13)
    assert_close(batch.x, np.stack([g.x for g in alone], axis=1), 1e-13)
    assert_close(batch.h0, np.stack([g.h0 for g in alone]), 1e-13)


def test_saturated_units_pass_nothing():
    n = network()
    n["h"] = np.sign(n["h"])
    for gradient in pyrnn.backward(**arguments("backward", n))[:5]:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("engine", ["blas", "fused"])
def test_no_sequences_give_zeros_over_many_chunks(dtype, set_chunk_bytes, engine):
    set_chunk_bytes(1)
    for H in (1, 3, 50):
        given = arguments("backward", network(7, 0, 2, H, dtype=dtype))
        for _ in range(5):
            used = [np.full((H, H), np.nan, dtype) for _ in range(8)]
            del used
            for gradient in InEngine(engine).backward(**given)[1:4]:
                np.testing.assert_array_equal(gradient, 0)


# ---- Memory ---------------------------------------------------------------------------------------------------------
def test_new_arrays_owe_nothing_to_old_memory():
    """Whatever lies in memory that NumPy hands out again, NaN too, must not reach the result."""
    n = network(4, 3, 5, 50)
    for _ in range(20):
        used = [np.full_like(a, np.nan) for a in n.values() if a.dtype.kind == "f" for _ in range(3)]
        del used
        agree("backward", arguments("backward", n))


@pytest.mark.parametrize("reverse", [False, True], ids=["in place", "copied by chunk"])
def test_memory_does_not_grow_with_time(set_chunk_bytes, reverse):
    set_chunk_bytes(1 << 14)
    beside = []
    for T in (500, 5000):
        given = arguments("backward", network(T, 4, 32, 32))
        if reverse:
            given |= {name: given[name][:, ::-1] for name in ("dh", "h", "x")}
        results = sum(a.nbytes for a in pyrnn.backward(**given)[:5])
        beside.append(allocated(lambda given=given: pyrnn.backward(**given))[1] - results)
    assert beside[1] < beside[0] + 4096
