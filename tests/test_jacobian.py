"""`pyrnn.jacobian`: values, derivatives of one step, and chains of steps against the gradients."""

import numpy as np
import pytest
from helpers import (
    EDGE_SIZES,
    agree,
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

pytestmark = [pytest.mark.compiled, pytest.mark.plain_c, pytest.mark.python]


@for_each("edge_size", EDGE_SIZES)
def test_edge_sizes(dtype, edge_size):
    agree("jacobian", arguments("jacobian", network(*edge_size, dtype=dtype)))


@pytest.mark.parametrize("B", [1, 5])
@pytest.mark.parametrize("H", [7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 300])
def test_thresholds(dtype, B, H):
    agree("jacobian", arguments("jacobian", network(2, B, 2, H, dtype=dtype)))


def test_unbatched_is_a_batch_of_one(dtype):
    given = arguments("jacobian", network(B=1, dtype=dtype))
    J = pyrnn.jacobian(given["h"][:, 0], given["W"])
    np.testing.assert_array_equal(J, pyrnn.jacobian(**given)[:, 0])


def test_scales_rows():
    """Row i of W is scaled, not column i: the derivative of unit i with respect to unit j."""
    n = network()
    J = pyrnn.jacobian(n["h"], n["W"])
    for t, r, i, j in np.ndindex(J.shape):
        h = n["h"][t, r, i]
        np.testing.assert_allclose(J[t, r, i, j], (1 - h) * (1 + h) * n["W"][i, j], rtol=1e-14)


def test_exact_near_saturation(dtype):
    """1 - h² is rounded once, also where |h| is nearly 1: every entry is right to two roundings."""
    h = np.nextafter(dtype(1), dtype(0), dtype=dtype) - np.arange(40, dtype=dtype) * np.finfo(dtype).eps
    W = np.full((40, 40), 0.7, dtype)
    exact = (1 - h.astype(np.longdouble)) * (1 + h.astype(np.longdouble)) * W[0, 0].astype(np.longdouble)
    if np.finfo(np.longdouble).eps >= np.finfo(dtype).eps:
        pytest.skip("no wider type to compare with")
    error = np.abs(pyrnn.jacobian(h[np.newaxis], W)[0] / exact[:, np.newaxis] - 1)
    assert error.max() < np.finfo(dtype).eps


# ---- Derivatives of one step ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("module", [pyrnn, reference])
def test_complex_step(module):
    n = network(4, 2, 3, 5)
    J = module.jacobian(**arguments("jacobian", n))
    before = np.concatenate([n["h0"][np.newaxis], n["h"]])
    for t, r in np.ndindex(4, 2):
        step = lambda h, t=t, r=r: states(n["x"][t : t + 1, r], n["U"], n["W"], n["b"], h)[0]
        derivative = complex_step(step, {"h": before[t, r]})["h"]  # [j, i]: of unit i with respect to unit j
        assert_close(J[t, r], derivative.T, 1e-13)


def test_central_differences():
    n = network(4, None, 3, 5)
    J = pyrnn.jacobian(**arguments("jacobian", n))
    before = np.concatenate([n["h0"][np.newaxis], n["h"]])
    for t in range(4):
        step = lambda h, t=t: pyrnn.forward(n["x"][t : t + 1], n["U"], n["W"], n["b"], h)[0]
        assert_close(J[t], central_differences(step, {"h": before[t]})["h"].T, 1e-8)


# ---- Chains ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("start", [0, 1, 5])
def test_adjoint_identity(start):
    """⟨J_T ... J_s v, u⟩ = ⟨v, J_sᵀ ... J_Tᵀ u⟩: tangents by the Jacobians, adjoints by the backward loop."""
    n = network(8, 3, 2, 7)
    n["dh"][:-1] = 0
    rng = np.random.default_rng(1)
    v = tangent = rng.standard_normal((3, 7))
    J = pyrnn.jacobian(**arguments("jacobian", n))
    for t in range(start, 8):
        tangent = np.einsum("bij,bj->bi", J[t], tangent)
    if start == 0:
        adjoint = pyrnn.backward(**arguments("backward", n)).h0
    else:
        adjoint = pyrnn.state_gradients(**arguments("state_gradients", n))[start - 1]
    np.testing.assert_allclose((tangent * n["dh"][-1]).sum(), (v * adjoint).sum(), rtol=1e-13)


def test_chain_gives_the_gradients():
    """grad_h_t = dh_t + J_{t+1}ᵀ grad_h_{t+1}, down to h0."""
    n = network(8, 3, 2, 7)
    J = pyrnn.jacobian(**arguments("jacobian", n))
    grad_h = pyrnn.state_gradients(**arguments("state_gradients", n))
    chained = n["dh"][-1]
    for t in range(7, -1, -1):
        assert_close(grad_h[t], chained, 1e-13)
        chained = np.einsum("bij,bi->bj", J[t], chained) + (n["dh"][t - 1] if t > 0 else 0)
    assert_close(pyrnn.backward(**arguments("backward", n)).h0, chained, 1e-13)
