"""`pyrnn.state_gradients`: values against the reference, and what equation 10.21 means."""

import numpy as np
import pytest
from helpers import (
    EDGE_SIZES,
    THRESHOLD_SIZES,
    agree,
    arguments,
    assert_close,
    complex_step,
    for_each,
    network,
    states,
    with_cell,
)

import pyrnn
from pyrnn import reference
from pyrnn._core import table

pytestmark = [pytest.mark.compiled, pytest.mark.plain_c]


@for_each("edge_size", EDGE_SIZES)
def test_edge_sizes(dtype, edge_size):
    agree("state_gradients", arguments("state_gradients", network(*edge_size, dtype=dtype)))


@for_each("threshold_size", THRESHOLD_SIZES)
def test_thresholds(dtype, threshold_size):
    B, H = threshold_size
    agree("state_gradients", arguments("state_gradients", network(4, B, 2, H, dtype=dtype)))


def test_unbatched_is_a_batch_of_one(dtype):
    given = arguments("state_gradients", network(B=1, dtype=dtype))
    alone = {name: a[:, 0] if a.ndim == 3 else a for name, a in given.items()}
    np.testing.assert_array_equal(pyrnn.state_gradients(**alone), pyrnn.state_gradients(**given)[:, 0])


@pytest.mark.parametrize("module", [pyrnn, reference])
@pytest.mark.parametrize("B", [None, 2])
def test_complex_step(module, B):
    """grad_h_t is what the loss changes by when h_t is moved, and all later steps with it."""
    n = network(5, B, 3, 4)
    grad_h = module.state_gradients(**arguments("state_gradients", n))
    for t in range(5):

        def loss(h_t, t=t):
            later = states(n["x"][t + 1 :], n["U"], n["W"], n["b"], h_t)
            return (n["dh"][t] * h_t).sum() + (n["dh"][t + 1 :] * later).sum()

        assert_close(grad_h[t], complex_step(loss, {"h_t": n["h"][t]})["h_t"], 1e-13)


def test_is_dh_where_nothing_follows():
    given = arguments("state_gradients", network())
    np.testing.assert_array_equal(pyrnn.state_gradients(**given)[-1], given["dh"][-1])
    np.testing.assert_array_equal(pyrnn.state_gradients(**given | {"W": 0 * given["W"]}), given["dh"])


def test_powers_of_W_at_the_origin():
    """At h = 0 every Jacobian is W: the gradient of the last state's sum is a power of Wᵀ."""
    W, dh = network(H=6)["W"], np.zeros((9, 1, 6))
    dh[-1] = 1
    grad_h = pyrnn.state_gradients(dh, np.zeros_like(dh), W)
    for t in range(9):
        assert_close(grad_h[t, 0], np.linalg.matrix_power(W.T, 8 - t) @ np.ones(6), 1e-14)


def test_gives_the_deltas_of_backward():
    """delta = (1 - h²) grad_h is all that backward needs."""
    n = network()
    grad_h = pyrnn.state_gradients(**arguments("state_gradients", n))
    delta = (1 - n["h"] ** 2) * grad_h
    gradients = pyrnn.backward(**arguments("backward", n))
    assert_close(gradients.x, delta @ n["U"], 1e-13)
    assert_close(gradients.b, delta.sum(axis=(0, 1)), 1e-13)
    assert_close(gradients.h0, delta[0] @ n["W"], 1e-13)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("options", [{}, {"nonlinearity": "relu", "alpha": 0.5, "form": "current"}])
def test_masks_of_no_steps(dtype, reverse, options):
    for T, B, H in ((0, 2, 3), (0, 0, 3), (4, 2, 3), (4, 2, 0), (4, 0, 3)):
        dh = np.ones((T, B, H), dtype)
        mask = np.zeros((T, B), bool)
        gradients = pyrnn.state_gradients(
            dh, dh / 2, np.eye(H, dtype=dtype), mask=mask, reverse=reverse, **with_cell(options)
        )
        assert gradients.shape == dh.shape
        sums = dh[::-1].cumsum(axis=0)[::-1] if not reverse else dh.cumsum(axis=0)  # each state is that before it
        np.testing.assert_allclose(gradients, np.broadcast_to(sums, dh.shape))


def test_new_array_owes_nothing_to_old_memory():
    """Whatever lies in memory that NumPy hands out again, NaN too, must not reach the result."""
    n = network(4, 3, 5, 50)
    for _ in range(20):
        used = [np.full_like(n["h"], np.nan) for _ in range(8)]
        del used
        agree("state_gradients", arguments("state_gradients", n))


@pytest.mark.parametrize("engine", ["auto", "base"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", [{}, {"alpha": 0.3}, {"alpha": 0.3, "form": "current"}])
def test_large_gradients_before_holes_leave_the_digits_of_small_ones(form, reverse, engine):
    """What a state passes on to a step that a mask leaves out has a gradient of its own, not a difference of two."""
    selected = table.selected()
    table.select("base" if engine == "base" else None)  # where blas is the default engine
    try:
        rng = np.random.default_rng(0)
        T, B, H = 8, 3, 5
        x, U, W = (rng.standard_normal(shape) for shape in ((T, B, 2), (H, 2), (H, H)))
        mask = np.array([[0, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0]], bool)
        dh = rng.standard_normal((T, B, H)) * 10.0 ** np.array([12, 8, 4, 0, -4, -8, -12, -16])[:, None, None]
        dh = dh[::-1] if reverse else dh
        options = with_cell(form) | {"mask": mask, "reverse": reverse}
        rates = np.empty((T, B, H)) if form else None
        h = pyrnn.forward(x, U, W, rates=rates, **options)
        options |= {"rates": rates}
        np.testing.assert_allclose(
            pyrnn.state_gradients(dh, h, W, **options), reference.state_gradients(dh, h, W, **options), rtol=1e-10
        )
    finally:
        table.select(selected)
