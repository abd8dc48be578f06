"""`pyrnn.output` and `pyrnn.output_gradients`: values, derivatives, chunks."""

import numpy as np
import pytest
from helpers import (
    LAYOUTS,
    THRESHOLD_SIZES,
    WRITEABLE_LAYOUTS,
    agree,
    arguments,
    assert_close,
    central_differences,
    complex_step,
    for_each,
    network,
)

import pyrnn
from pyrnn import _engines, reference
from pyrnn._core import table

pytestmark = [pytest.mark.compiled, pytest.mark.plain_c]

FUNCTIONS = ("output", "output_gradients")


@pytest.mark.parametrize("function", FUNCTIONS)
@for_each("T", [0, 1, 3])
@for_each("B", [None, 0, 1, 3])
@for_each("H", [0, 1, 3])
@for_each("O", [0, 1, 3])
def test_edge_sizes(dtype, function, T, B, H, O):
    agree(function, arguments(function, network(T, B, 1, H, O, dtype=dtype)))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("O", [2, 17])
@for_each("threshold_size", THRESHOLD_SIZES)
def test_thresholds(dtype, threshold_size, function, O):
    B, H = threshold_size
    agree(function, arguments(function, network(3, B, 1, H, O, dtype=dtype)))


@pytest.mark.parametrize("function", FUNCTIONS)
@for_each("steps", [1, 2, 3, 7, 8, 9, 1000])
@pytest.mark.parametrize("B", [None, 1, 3])
@pytest.mark.parametrize("O", [2, 9])
@for_each("layout", LAYOUTS)
def test_chunks(layout, set_chunk_bytes, function, steps, B, O):
    n = network(8, B, 1, 6, O)
    set_chunk_bytes(steps * (B or 1) * max(6, O) * 8)
    for name in ("h", "do"):
        n[name] = layout(n[name])
    agree(function, arguments(function, n))


@pytest.mark.parametrize("B", [None, 3])
def test_missing_c_is_zero(B, dtype):
    n = network(B=B, dtype=dtype)
    np.testing.assert_array_equal(pyrnn.output(n["h"], n["V"]), pyrnn.output(n["h"], n["V"], 0 * n["c"]))


def test_unbatched_is_a_batch_of_one(dtype):
    n = network(B=1, dtype=dtype)
    h, do = n["h"][:, 0], n["do"][:, 0]
    np.testing.assert_array_equal(pyrnn.output(h, n["V"], n["c"]), pyrnn.output(n["h"], n["V"], n["c"])[:, 0])
    batched, alone = pyrnn.output_gradients(n["do"], n["h"], n["V"]), pyrnn.output_gradients(do, h, n["V"])
    np.testing.assert_array_equal(alone.h, batched.h[:, 0])
    np.testing.assert_array_equal(alone.V, batched.V)
    np.testing.assert_array_equal(alone.c, batched.c)


def test_returns_named_new_arrays():
    given = arguments("output_gradients", network())
    gradients = pyrnn.output_gradients(**given)
    assert isinstance(gradients, pyrnn.OutputGradients)
    assert gradients._fields == ("h", "V", "c")
    assert not any(np.shares_memory(a, b) for a in gradients for b in given.values())


@pytest.mark.parametrize("module", [pyrnn, reference])
@pytest.mark.parametrize("B", [None, 2])
def test_complex_step(module, B):
    n = network(4, B, 1, 3, 5)
    layer = lambda h, V, c: (n["do"] * (np.einsum("oh,...h->...o", V, h) + c)).sum()
    exact = complex_step(layer, arguments("output", n))
    for name, gradient in module.output_gradients(**arguments("output_gradients", n))._asdict().items():
        assert_close(gradient, exact[name], 1e-14)


def test_central_differences():
    n = network(4, 2, 1, 3, 5)
    differences = central_differences(lambda **given: (n["do"] * pyrnn.output(**given)).sum(), arguments("output", n))
    for name, gradient in pyrnn.output_gradients(**arguments("output_gradients", n))._asdict().items():
        assert_close(gradient, differences[name], 1e-8)


def test_adjoint_identity():
    """⟨V h, do⟩ = ⟨h, Vᵀ do⟩ = ⟨V, Σ do hᵀ⟩."""
    n = network(6, 5, 1, 9, 7)
    gradients = pyrnn.output_gradients(n["do"], n["h"], n["V"])
    product = (pyrnn.output(n["h"], n["V"]) * n["do"]).sum()
    np.testing.assert_allclose((n["h"] * gradients.h).sum(), product, rtol=1e-12)
    np.testing.assert_allclose((n["V"] * gradients.V).sum(), product, rtol=1e-12)


@pytest.mark.parametrize("instructions", table.available())
@for_each("O", [1, 2, 3, 4])
@for_each("H", [1, 15, 16, 17, 33, 50, 64, 100])
def test_few_outputs_have_the_bits_of_many(dtype, instructions, O, H, monkeypatch):
    """A kernel of its own takes up to four outputs; with a fifth one, which is 0, panels are packed."""
    monkeypatch.setattr(_engines, "automatic", lambda: "fused")
    before = table.selected()
    table.select(instructions)
    try:
        n = network(40, 7, 1, H, O, dtype=dtype)  # two chains of 128 rows and a part
        V = np.concatenate([n["V"], np.zeros((5 - O, H), dtype)])
        do = np.concatenate([n["do"], np.zeros((40, 7, 5 - O), dtype)], axis=2)
        few, many = pyrnn.output_gradients(n["do"], n["h"], n["V"]), pyrnn.output_gradients(do, n["h"], V)
    finally:
        table.select(before)
    np.testing.assert_array_equal(few.h, many.h)
    np.testing.assert_array_equal(few.V, many.V[:O])
    np.testing.assert_array_equal(few.c, many.c[:O])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_new_arrays_owe_nothing_to_old_memory(function):
    """Whatever lies in memory that NumPy hands out again, NaN too, must not reach the result."""
    n = network(4, 3, 1, 50, 20)
    for _ in range(20):
        used = [np.full_like(a, np.nan) for a in n.values() if a.dtype.kind == "f" for _ in range(3)]
        del used
        agree(function, arguments(function, n))


# ---- Results that are overwritten -----------------------------------------------------------------------------------
@pytest.mark.parametrize("B", [None, 3])
@for_each("writeable_layout", WRITEABLE_LAYOUTS)
def test_out_of_any_layout(writeable_layout, dtype, B):
    given = arguments("output", network(B=B, dtype=dtype))
    expected = pyrnn.output(**given)
    out = writeable_layout(np.zeros_like(expected))
    assert pyrnn.output(**given, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("T", [0, 5])
@for_each("writeable_layout", WRITEABLE_LAYOUTS)
def test_overwritten_gradients(writeable_layout, dtype, B, T):
    given = arguments("output_gradients", network(T=T, B=B, dtype=dtype))
    expected = pyrnn.output_gradients(**given)
    for lay in (np.copy, writeable_layout):
        out = pyrnn.OutputGradients(*(lay(np.full_like(a, np.nan)) for a in expected))
        assert pyrnn.output_gradients(**given, out=out) is out
        for a, e in zip(out, expected, strict=True):
            np.testing.assert_array_equal(a, e)


def test_bad_out():
    n = network()
    given = arguments("output", n)
    with pytest.raises(ValueError, match=r"out must have shape \(5, 3, 2\), got \(5, 3, 3\)"):
        pyrnn.output(**given, out=np.empty((5, 3, 3)))
    with pytest.raises(ValueError, match="out must have dtype float64"):
        pyrnn.output(**given, out=np.empty((5, 3, 2), np.float32))
    with pytest.raises(ValueError, match="out must not overlap an input, but shares memory with h"):
        pyrnn.output(**given, out=n["h"][..., :2])
    given = arguments("output_gradients", n)
    good = pyrnn.output_gradients(**given)
    with pytest.raises(
        TypeError, match=r"out must be a pyrnn\.OutputGradients, as output_gradients returns it, got tuple"
    ):
        pyrnn.output_gradients(**given, out=tuple(good))
    with pytest.raises(ValueError, match=r"out\.V must have shape \(2, 6\), got \(6, 2\)"):
        pyrnn.output_gradients(**given, out=good._replace(V=good.V.T))
    with pytest.raises(ValueError, match=r"out\.h must not overlap an input, but shares memory with h"):
        pyrnn.output_gradients(**given, out=good._replace(h=n["h"]))
    with pytest.raises(ValueError, match=r"out\.V must not share memory with out\.h"):
        pyrnn.output_gradients(**given, out=good._replace(V=good.h.reshape(-1)[:12].reshape(2, 6)))
