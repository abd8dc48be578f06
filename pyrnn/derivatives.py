"""Derivatives in a direction, forwards and backwards: how states and gradients move with what made them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pyrnn import _calls, _checks, _directions
from pyrnn._core import memory
from pyrnn._results import Gradients
from pyrnn.profiling import timed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._directions import Pair
    from pyrnn._types import MaybeArray
    from pyrnn.trajectory import Direction, Trajectory


@timed
def jvp(run: Trajectory, direction: Direction) -> np.ndarray:
    """How the states move when the arguments of a simulation move: a Jacobian-vector product, in one pass forwards.

    Parameters
    ----------
    run : Trajectory
        From `simulate`.
    direction : Direction
        How fast each argument moves. One that stays, None, costs nothing.

    Returns
    -------
    h_dot : ndarray, shape of h
        The derivative of h in that direction; where a step does not exist, as h there. float32 if all arrays promote
        to it, else float64; alpha of the direction does not count.

    Raises
    ------
    ValueError
        If shapes do not fit, the input of the run is not known, or alpha moves in a cell without a leak.
    TypeError
        If an argument is no Trajectory or Direction, or an array is complex, long double, text, an object or masked.

    See Also
    --------
    Trajectory.backward : the same Jacobian from the other side, in one pass backwards.
    backward_jvp : how the gradients move.
    jacobian : the Jacobian of each step as a matrix.

    Notes
    -----
    The derivative of equations 10.8 and 10.9 of [1]_ in a direction, written with a dot:
    h_dot_t = (1 - h_t²) ∘ (b_dot + U x_dot_t + U_dot x_t + W_dot h_{t-1} + W h_dot_{t-1}), and what that is in other
    forms of the cell (docs/derivatives.md). A direction of x, h0, b or the drive costs as much as `forward`, one of W
    twice as much. With alpha in the ``current`` form the direction of alpha is divided by alpha, as in `backward`.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.
    .. [2] B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994) 147-160.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.Network(np.array([[1.0]]), np.array([[0.5]]))
    >>> run = pyrnn.simulate(network, np.zeros((3, 1)))  # zeros, where the slope of tanh is 1
    >>> pyrnn.jvp(run, pyrnn.Direction(x=[[1.0], [0.0], [0.0]])).ravel()
    array([1.  , 0.5 , 0.25])
    """
    run, direction, _ = _directions.conform(run, direction)
    batched = run.h.ndim == 3
    run, direction, _ = _directions.with_batch(run, direction)
    h_dot = memory.empty(run.h.shape, run.h.dtype)
    _directions.tangent_of_steps(run, direction, h_dot)
    return h_dot if batched else h_dot[:, 0]


@timed
def backward_jvp(
    run: Trajectory,
    dh: ArrayLike,
    direction: Direction,
    *,
    dh_dot: ArrayLike | None = None,
    x_gradient: bool = True,
) -> Gradients:
    """How the gradients of `backward` move when its arguments move: backpropagation, differentiated in a direction.

    Parameters
    ----------
    run : Trajectory
        From `simulate`; all its steps exist.
    dh : array_like, shape of h
        What the loss sends into each h_t directly.
    direction : Direction
        How fast the arguments of the simulation move. h moves with them, and is not asked for.
    dh_dot : array_like, shape of h, optional
        How fast dh moves; None if it stays.
    x_gradient : bool
        Whether the gradient at x is wanted.

    Returns
    -------
    Gradients
        The derivative of each gradient in that direction, as `Trajectory.backward` returns the gradients. ``drive`` is
        there if the run has a drive or the direction moves one.

    Raises
    ------
    ValueError, TypeError
        As in `jvp`, and if the run has lengths or a mask.

    See Also
    --------
    pyrnn.training.Objective : products with a Hessian, with the loss and the output layer.

    Notes
    -----
    Pearlmutter's R-operator [1]_ applied to equations 10.20 to 10.28 of [2]_, with g for grad_h:
    g_dot_t = dh_dot_t + W_dotᵀ delta_{t+1} + Wᵀ delta_dot_{t+1} and
    delta_dot_t = (1 - h_t²) ∘ g_dot_t - 2 h_t ∘ h_dot_t ∘ g_t. relu and the identity have no second derivative: the
    last term is 0. Costs twice what `forward` and `backward` cost together, and as much memory as five times h.

    References
    ----------
    .. [1] B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994) 147-160.
    .. [2] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.2.

    Examples
    --------
    The second derivative of tanh(u x) with respect to u, at u = 1 and x = 1:

    >>> import numpy as np, pyrnn
    >>> run = pyrnn.simulate(pyrnn.Network(np.ones((1, 1)), np.zeros((1, 1))), np.ones((1, 1)))
    >>> pyrnn.backward_jvp(run, np.ones((1, 1)), pyrnn.Direction(U=np.ones((1, 1)))).U
    array([[-0.63970001]])
    """
    _checks.check_flag("x_gradient", x_gradient)
    _directions.check_run(run, all_steps=True)
    run, direction, sent = _directions.conform(run, direction, dh=dh, dh_dot=dh_dot)
    batched, reverse, cell = run.h.ndim == 3, run.reverse, run.network.cell
    run, direction, sent = _directions.with_batch(run, direction, *sent)
    run, direction, (dh_, dh_dot_) = _directions.in_order(run, direction, *sent)
    moved = _directions.kept_tangent(run, direction)
    states = _directions.gradient_states(run, dh_)
    delta_dot, g_dot, dx, dU, dW, db = _directions.second_order(
        run, direction, moved, states, dh_dot_, bool(x_gradient)
    )
    dh0 = _initial_tangent(run, direction, states, delta_dot, g_dot)
    wants_drive = not (run.drive is direction.drive is None)
    d_drive = _calls.in_order(delta_dot, reverse).copy() if wants_drive else None
    dx = dx if dx is None or not reverse else np.ascontiguousarray(dx[::-1])
    if not batched:
        dx, d_drive = _checks.map_given(lambda a: a[:, 0], dx, d_drive)
        dh0 = dh0[0]
    d_alpha: MaybeArray = None
    if g_dot is not None:
        d_alpha = cell.alpha_gradient(_alpha_tangent(run, direction, moved, states[0], g_dot))
    return Gradients(dx, dU, dW, db, dh0, d_drive, d_alpha)


@np.errstate(all="ignore")
def _initial_tangent(
    run: Trajectory, direction: Direction, states: Pair, delta_dot: np.ndarray, g_dot: np.ndarray | None
) -> np.ndarray:
    """The tangent of dh0 = Wᵀ delta_1; of a leaky cell, what its first state would have as grad_h."""
    (g, delta), cell, dots = states, run.network.cell, cast("Any", direction)
    W, h0 = cast("np.ndarray", run.network.W), cast("np.ndarray", run.h0)
    if len(g) == 0:
        return np.zeros_like(h0)
    flow: np.ndarray = delta_dot[0] @ W
    if dots.W is not None:
        flow += delta[0] @ dots.W
    if cell.current:
        rate = cell.phi(h0)
        bend = cell.bend(rate)
        if dots.h0 is not None and bend is not None:
            flow += bend * dots.h0 * (delta[0] @ W)
        flow *= cell.slope(rate)
    leak = cell.leak(len(W), g.dtype)
    if leak is not None and g_dot is not None:
        flow += (1 - leak) * g_dot[0]
        if dots.alpha is not None:
            flow -= dots.alpha * g[0]
    return flow


@np.errstate(all="ignore")
def _alpha_tangent(run: Trajectory, direction: Direction, moved: Pair, g: np.ndarray, g_dot: np.ndarray) -> np.ndarray:
    """The tangent of dalpha = Σ g_t ∘ (r_t - h_{t-1}), in the current form Σ g_t ∘ (h_t - h_{t-1}) / alpha."""
    (h_dot, second), cell, dots = moved, run.network.cell, cast("Any", direction)
    change = (run.h if cell.current else run.rates) - _calls.previous(run.h, run.h0, None, False)
    r_dot = h_dot if cell.current else cell.slope(run.rates) * second
    change_dot = r_dot - _calls.previous(h_dot, dots.h0, None, False)
    total: np.ndarray = np.einsum("tbh,tbh->h", g_dot, change) + np.einsum("tbh,tbh->h", g, change_dot)
    if cell.current:
        leak = cell.leak(g.shape[-1], g.dtype)
        if dots.alpha is not None:
            total -= np.einsum("tbh,tbh->h", g, change) * dots.alpha / leak
        total /= leak
    return total
