"""The row-major products over BLAS: every argument, both routes, and the splitting of what BLAS cannot index."""

import itertools

import numpy as np
import pytest
from helpers import for_each

import pyrnn
from pyrnn._core import blas

pytestmark = pytest.mark.compiled

# M, N, K on both sides of the border between a gemv for each row (few rows) and gemm, with 0, 1 and odd numbers.
SIZES = [
    *itertools.product([0, 1, 3], [0, 1, 5], [0, 1, 7]),
    (4, 31, 33),
    (5, 31, 33),
    (5, 33, 32),
    (12, 32, 32),
    (13, 32, 32),
    (12, 31, 33),
    (64, 17, 1),
    (1, 1, 300),
    (2, 130, 129),
    (40, 41, 43),
    (129, 65, 67),
]
KINDS = list(itertools.product([False, True], repeat=3))  # ta, tb, accumulate
DTYPES = ["float32", "float64"]


def padded(a, extra):
    """The same numbers with `extra` numbers between rows, which hold NaN."""
    wide = np.full((a.shape[0], a.shape[1] + extra), np.nan, a.dtype)
    wide[:, : a.shape[1]] = a
    return wide[:, : a.shape[1]]


def operands(M, N, K, ta, tb, dtype, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(K, M) if ta else (M, K)).astype(dtype)
    B = rng.normal(size=(N, K) if tb else (K, N)).astype(dtype)
    C = rng.normal(size=(M, N)).astype(dtype)
    return A, B, C


def sum_of_products(A, B, C, ta, tb, accumulate):
    """op(A) op(B) + C without BLAS, in float64."""
    A, B = (A.T if ta else A).astype(np.float64), (B.T if tb else B).astype(np.float64)
    product = (A[:, :, np.newaxis] * B).sum(axis=1)
    return product + C if accumulate else product


def check(A, B, C, ta, tb, accumulate, **options):
    """Compute in place, and compare element by element with a bound on the rounding of a sum in any order."""
    terms = A.shape[0 if ta else 1] + 1
    expected = sum_of_products(A, B, C, ta, tb, accumulate)
    scale = sum_of_products(np.abs(A), np.abs(B), np.abs(C), ta, tb, accumulate)
    if not accumulate:
        C[...] = np.nan
    before = A.copy(), B.copy()
    blas.multiply(A, B, C, ta, tb, accumulate, **options)
    assert np.isfinite(C).all()
    assert (np.abs(C - expected) <= terms * np.finfo(C.dtype).eps * scale).all()
    np.testing.assert_array_equal(A, before[0])
    np.testing.assert_array_equal(B, before[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ta", "tb", "accumulate"), KINDS)
@for_each(("M", "N", "K"), SIZES)
def test_contiguous(M, N, K, ta, tb, accumulate, dtype):
    check(*operands(M, N, K, ta, tb, dtype), ta, tb, accumulate)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ta", "tb", "accumulate"), KINDS)
@for_each(("M", "N", "K"), SIZES)
def test_distance_between_rows(M, N, K, ta, tb, accumulate, dtype):
    for extra in [(3, 0, 0), (0, 5, 0), (0, 0, 7), (2, 3, 1)]:
        A, B, C = map(padded, operands(M, N, K, ta, tb, dtype), extra)
        check(A, B, C, ta, tb, accumulate)
        assert np.isnan(C.base[:, N:]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ta", "tb", "accumulate"), KINDS)
@pytest.mark.parametrize("stride", [-3, 0, 1, 10**6], ids="stride{}".format)
def test_a_single_row_may_have_any_distance_to_the_next(ta, tb, accumulate, dtype, stride):
    for M, N, K in [(1, 1, 1), (1, 6, 6), (6, 1, 6), (6, 6, 1)]:
        one_row = [
            np.lib.stride_tricks.as_strided(a, strides=(stride * a.itemsize, a.itemsize)) if len(a) == 1 else a
            for a in operands(M, N, K, ta, tb, dtype)
        ]
        check(*one_row, ta, tb, accumulate)


# Sizes of which one, some or all, or only the distances between rows, are above 7.
SPLIT_SIZES = [(20, 3, 3), (3, 20, 3), (3, 3, 20), (15, 16, 17), (1, 8, 50), (8, 1, 1), (1, 1, 8), (7, 7, 7), (5, 6, 4)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ta", "tb", "accumulate"), KINDS)
@for_each(("M", "N", "K"), SPLIT_SIZES)
def test_splitting(M, N, K, ta, tb, accumulate, dtype):
    for extra in [(0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9), (9, 9, 9)]:
        for largest in (1, 2, 7):
            A, B, C = map(padded, operands(M, N, K, ta, tb, dtype), extra)
            check(A, B, C, ta, tb, accumulate, largest=largest)
            assert np.isnan(C.base[:, N:]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ta", "tb"), [(False, False), (False, True), (True, False), (True, True)])
def test_splitting_loses_and_doubles_nothing(ta, tb, dtype):
    # Sums of small integers are exact in any order.
    rng = np.random.default_rng(0)
    A, B, C = (rng.integers(-4, 5, a.shape).astype(dtype) for a in operands(30, 31, 32, ta, tb, dtype))
    whole, parts = C.copy(), C.copy()
    blas.multiply(A, B, whole, ta, tb, True)
    blas.multiply(A, B, parts, ta, tb, True, largest=7)
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(whole, sum_of_products(A, B, C, ta, tb, True))


def test_the_limit_is_obeyed_and_restored():
    # A sum that was split is rounded in other places.
    A, B, C = operands(20, 30, 500, False, False, "float32")
    network = {"x": A[np.newaxis], "U": operands(30, 500, 1, False, False, "float32")[2], "W": np.eye(30, dtype="f")}
    blas.multiply(A, B, C)
    before = pyrnn.forward(**network)
    parts = np.empty_like(C)
    blas.multiply(A, B, parts, largest=7)
    assert (parts != C).any()
    np.testing.assert_array_equal(pyrnn.forward(**network), before)


@for_each("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["A", "B"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ta", "tb", "accumulate"), KINDS)
@for_each(("M", "N", "K"), [(1, 9, 7), (3, 5, 4), (12, 32, 33), (40, 41, 43), (20, 1, 6), (1, 1, 3)])
def test_nan_and_inf_spread_as_in_the_sums(special, where, M, N, K, ta, tb, accumulate, dtype):
    A, B, C = operands(M, N, K, ta, tb, dtype)
    (A if where == "A" else B).ravel()[:: max(1, A.size // 3)] = special
    (B if where == "A" else A)[...] *= np.arange((B if where == "A" else A).shape[1]) % 2  # zeros: 0 inf = NaN
    with np.errstate(invalid="ignore"):
        expected = sum_of_products(A, B, C, ta, tb, accumulate)
    if not accumulate:
        C[...] = np.nan
    blas.multiply(A, B, C, ta, tb, accumulate)
    assert not np.isfinite(expected).all()
    np.testing.assert_array_equal(np.isnan(C), np.isnan(expected))
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(C[infinite], expected[infinite])
    np.testing.assert_array_equal(np.isinf(C), infinite)


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "N", "K"), [(1, 9, 7), (12, 32, 33), (40, 41, 43)])
def test_nan_and_inf_in_c_count_only_when_added_to(special, M, N, K, dtype):
    A, B, C = operands(M, N, K, False, True, dtype)
    C[0, 0] = special
    blas.multiply(A, B, C, False, True, True)
    np.testing.assert_array_equal(C[0, 0], special)
    assert np.isfinite(C.ravel()[1:]).all()
    blas.multiply(A, B, C, False, True, False)
    assert np.isfinite(C).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ta", "tb", "accumulate"), KINDS)
def test_an_empty_sum_is_zero_or_nothing(ta, tb, accumulate, dtype):
    A, B, C = operands(3, 5, 0, ta, tb, dtype)
    C = padded(C, 2)
    expected = C.copy() if accumulate else np.zeros((3, 5))
    blas.multiply(A, B, C, ta, tb, accumulate)
    np.testing.assert_array_equal(C, expected)
    assert np.isnan(C.base[:, 5:]).all()


def test_dtypes_are_not_mixed():
    A, B, C = operands(2, 2, 2, False, False, "float64")
    with pytest.raises((TypeError, ValueError)):
        blas.multiply(A.astype(np.float32), B, C)
