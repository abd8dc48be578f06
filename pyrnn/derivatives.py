"""Derivatives in a direction, forwards and backwards, and the derivative of backpropagation itself."""

import numpy as np

from pyrnn import _calls, _cell, _checks, _directions, _memory
from pyrnn._results import Gradients
from pyrnn.functional import backward, forward
from pyrnn.profiling import timed


@timed
def jvp(
    h,
    x,
    U,
    W,
    h0=None,
    *,
    x_dot=None,
    U_dot=None,
    W_dot=None,
    b_dot=None,
    h0_dot=None,
    drive_dot=None,
    alpha_dot=None,
    nonlinearity="tanh",
    alpha=None,
    form="rate",
    lengths=None,
    mask=None,
    reverse=False,
    rates=None,
):
    """How the states move when the arguments of `forward` move: a Jacobian-vector product, in one pass forwards.

    Parameters
    ----------
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    x, U, W, h0, nonlinearity, alpha, form, lengths, mask, reverse
        As given to `forward`. The bias and the drive are not needed.
    x_dot, U_dot, W_dot, b_dot, h0_dot, drive_dot, alpha_dot : array_like, optional
        The direction: how fast each argument moves, of its shape. None for one that stays, and costs nothing.
    rates : array_like, shape of h, optional
        As in `backward`.

    Returns
    -------
    h_dot : ndarray, shape of h
        The derivative of h in that direction; where a step does not exist, as h there.

    Raises
    ------
    ValueError, TypeError
        As in `forward`.

    See Also
    --------
    vjp : the same Jacobian from the other side, in one pass backwards.
    backward_jvp : how the gradients move.
    jacobian : the Jacobian of each step as a matrix.

    Notes
    -----
    The derivative of equations 10.8 and 10.9 of [1]_ in a direction, written with a dot:
    h_dot_t = (1 - h_t²) ∘ (b_dot + U x_dot_t + U_dot x_t + W_dot h_{t-1} + W h_dot_{t-1}), and what that is in other
    forms of the cell (docs/derivatives.md). A direction of x, h0, b or the drive costs as much as `forward`, one of W
    twice as much. With alpha in the ``current`` form alpha_dot is divided by alpha, as in `backward`.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.
    .. [2] B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994) 147-160.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> x, U, W = np.zeros((3, 1)), np.array([[1.0]]), np.array([[0.5]])
    >>> h = pyrnn.forward(x, U, W)  # zeros, where the slope of tanh is 1
    >>> pyrnn.jvp(h, x, U, W, x_dot=[[1.0], [0.0], [0.0]]).ravel()
    array([1.  , 0.5 , 0.25])
    """
    given = (x_dot, U_dot, W_dot, b_dot, h0_dot, drive_dot, alpha_dot)
    point, dots, _ = _directions.check(
        h, x, U, W, h0, nonlinearity=nonlinearity, alpha=alpha, form=form, rates=rates,
        dots=zip(_directions.DOTS, given, strict=True),
    )  # fmt: skip
    lengths, mask, reverse = _cell.check_steps(lengths, mask, reverse, point.x)
    batched = point.x.ndim == 3
    if not batched:
        lengths, mask = _calls.with_one_row(lengths, mask)
        mask = None if mask is None else mask.T
    point, dots, _ = _directions.with_batch(point, dots)
    h_dot = _memory.empty(point.h.shape, point.h.dtype)
    _directions.tangent_of_steps(point, dots, h_dot, (lengths, mask, reverse))
    return h_dot if batched else h_dot[:, 0]


@timed
def vjp(
    x,
    U,
    W,
    b=None,
    h0=None,
    *,
    nonlinearity="tanh",
    alpha=None,
    form="rate",
    drive=None,
    lengths=None,
    mask=None,
    reverse=False,
    n_threads=None,
    engine="auto",
):
    """States, and a function that pulls gradients at the states back to the arguments: a vector-Jacobian product.

    Parameters
    ----------
    x, U, W, b, h0, nonlinearity, alpha, form, drive, lengths, mask, reverse, n_threads, engine
        As in `forward`.

    Returns
    -------
    h : ndarray, shape (T, B, H) or (T, H)
        As `forward` returns it.
    pullback : callable
        ``pullback(dh)`` is the `Gradients` that `backward` computes for these arguments. It keeps them, h and the
        rates, so that the two calls cannot differ in an option; may be called any number of times, and takes
        `backward`'s ``x_gradient`` and ``out``. Arrays are not copied: do not change them in between.

    Raises
    ------
    ValueError, TypeError
        As in `forward` and `backward`.

    See Also
    --------
    jvp : the same Jacobian from the other side.

    Notes
    -----
    A function that returns its own derivative is what ``jax.vjp`` and ``torch.func.vjp`` have under this name.
    Equations 10.20 to 10.28 of [1]_.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.2.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> h, pullback = pyrnn.vjp(np.ones((3, 1)), U=[[1.0], [0.0]], W=[[0.0, 0.5], [1.0, 0.0]])
    >>> pullback(np.ones_like(h)).U.round(4)  # of the sum of all states
    array([[1.6126],
           [2.582 ]])
    """
    given = {"x": x, "U": U, "W": W, "b": b, "h0": h0, "drive": drive, "alpha": _cell.array_or_none(alpha)}
    x, U, W, b, h0, drive, leak = _checks.as_real_arrays("b", "h0", "drive", "alpha", **given)
    alpha = alpha if leak is None else leak
    form_of = {"nonlinearity": nonlinearity, "alpha": alpha, "form": form, "drive": drive}
    options = form_of | {"lengths": lengths, "mask": mask, "reverse": reverse, "n_threads": n_threads, "engine": engine}
    rates = None if alpha is None else _memory.empty((*x.shape[:-1], *U.shape[:1]), x.dtype)
    h = forward(x, U, W, b, h0, rates=rates, **options)

    def pullback(dh, *, x_gradient=True, out=None):
        return backward(dh, h, x, U, W, h0, rates=rates, x_gradient=x_gradient, out=out, **options)

    return h, pullback


@timed
def backward_jvp(
    dh,
    h,
    x,
    U,
    W,
    h0=None,
    *,
    dh_dot=None,
    x_dot=None,
    U_dot=None,
    W_dot=None,
    b_dot=None,
    h0_dot=None,
    drive_dot=None,
    alpha_dot=None,
    nonlinearity="tanh",
    alpha=None,
    form="rate",
    drive=None,
    reverse=False,
    rates=None,
    x_gradient=True,
):
    """How the gradients of `backward` move when its arguments move: backpropagation, differentiated in a direction.

    Parameters
    ----------
    dh, h, x, U, W, h0, nonlinearity, alpha, form, drive, reverse, rates, x_gradient
        As given to `backward`.
    dh_dot : array_like, shape of h, optional
        How fast what the loss sends into each h_t moves; None if it stays.
    x_dot, U_dot, W_dot, b_dot, h0_dot, drive_dot, alpha_dot : array_like, optional
        How fast the arguments of `forward` move, as in `jvp`. h moves with them, and is not asked for.

    Returns
    -------
    Gradients
        The derivative of each gradient in that direction, as `backward` returns the gradients.

    Raises
    ------
    ValueError, TypeError
        As in `backward`.

    See Also
    --------
    hvp : what this is mostly for, with the loss and the output layer.

    Notes
    -----
    Pearlmutter's R-operator [1]_ applied to equations 10.20 to 10.28 of [2]_, with g for grad_h:
    g_dot_t = dh_dot_t + W_dotᵀ delta_{t+1} + Wᵀ delta_dot_{t+1} and
    delta_dot_t = (1 - h_t²) ∘ g_dot_t - 2 h_t ∘ h_dot_t ∘ g_t. relu and the identity have no second derivative: the
    last term is 0. Costs twice what `forward` and `backward` cost together, as much memory as five times h, and is
    not there for sequences with lengths or a mask.

    References
    ----------
    .. [1] B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994) 147-160.
    .. [2] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.2.

    Examples
    --------
    The second derivative of tanh(u x) with respect to u, at u = 1 and x = 1:

    >>> import numpy as np, pyrnn
    >>> x, U, W = np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1))
    >>> h = pyrnn.forward(x, U, W)
    >>> pyrnn.backward_jvp(np.ones((1, 1)), h, x, U, W, U_dot=np.ones((1, 1))).U
    array([[-0.63970001]])
    >>> float(-2 * np.tanh(1) * (1 - np.tanh(1) ** 2))
    -0.6397000084492246
    """
    given = (x_dot, U_dot, W_dot, b_dot, h0_dot, drive_dot, alpha_dot)
    if not isinstance(x_gradient, bool | np.bool_):
        raise TypeError(f"x_gradient must be True or False, got {x_gradient!r}")
    if not isinstance(reverse, bool | np.bool_):
        raise TypeError(f"reverse must be True or False, got {reverse!r}")
    point, dots, (dh, dh_dot, _) = _directions.check(
        h, x, U, W, h0, nonlinearity=nonlinearity, alpha=alpha, form=form, rates=rates,
        dots=zip(_directions.DOTS, given, strict=True), dh=dh, dh_dot=dh_dot, drive=drive,
    )  # fmt: skip
    batched = point.x.ndim == 3
    point, dots, (dh, dh_dot) = _directions.with_batch(point, dots, dh, dh_dot)
    point, dots = _directions.in_order(point, dots, reverse)
    dh, dh_dot = (_calls.in_order(a, reverse) for a in (dh, dh_dot))
    moved = _directions.kept_tangent(point, dots)
    states = _directions.gradient_states(point, dh)
    delta_dot, g_dot, dx, dU, dW, db = _directions.second_order(point, dots, moved, states, dh_dot, bool(x_gradient))
    dh0 = _initial_tangent(point, dots, states, delta_dot, g_dot)
    d_drive = None if drive is None else _calls.in_order(delta_dot, reverse).copy()
    dx = dx if dx is None or not reverse else np.ascontiguousarray(dx[::-1])
    if not batched:
        dx, d_drive, dh0 = None if dx is None else dx[:, 0], None if drive is None else d_drive[:, 0], dh0[0]
    d_alpha = None
    if alpha is not None:
        each = _alpha_tangent(point, dots, moved, states[0], g_dot)
        d_alpha = each if np.ndim(alpha) else each.sum()
    return Gradients(dx, dU, dW, db, dh0, d_drive, d_alpha)


@np.errstate(all="ignore")
def _initial_tangent(point, dots, states, delta_dot, g_dot):
    """The tangent of dh0 = Wᵀ delta_1; of a leaky cell, what its first state would have as grad_h."""
    (g, delta), W_dot, h0_dot, alpha_dot = states, dots[2], dots[4], dots[6]
    if len(g) == 0:
        return np.zeros_like(point.h0)
    flow = delta_dot[0] @ point.W
    if W_dot is not None:
        flow += delta[0] @ W_dot
    if point.current:
        rate = _directions.rates_of(point.h0, point.phi)
        if h0_dot is not None and point.phi == _cell.NONLINEARITIES.index("tanh"):
            flow -= 2 * rate * h0_dot * (delta[0] @ point.W)
        flow *= _cell.slopes_from(_cell.NONLINEARITIES[point.phi], rate)
    if point.leak is not None:
        flow += (1 - point.leak) * g_dot[0]
        if alpha_dot is not None:
            flow -= alpha_dot * g[0]
    return flow


@np.errstate(all="ignore")
def _alpha_tangent(point, dots, moved, g, g_dot):
    """The tangent of dalpha = Σ g_t ∘ (r_t - h_{t-1}), in the current form Σ g_t ∘ (h_t - h_{t-1}) / alpha."""
    h_dot, second = moved
    before, h0_dot = _memory.empty(g.shape, g.dtype), dots[4]
    before[:1], before[1:] = point.h0, point.h[:-1]
    change = (point.h if point.current else point.rates) - before
    before[:1], before[1:] = 0 if h0_dot is None else h0_dot, h_dot[:-1]
    r_dot = h_dot if point.current else _cell.slopes_from(_cell.NONLINEARITIES[point.phi], point.rates) * second
    change_dot = r_dot - before
    total = np.einsum("tbh,tbh->h", g_dot, change) + np.einsum("tbh,tbh->h", g, change_dot)
    if not point.current:
        return total
    if dots[6] is not None:
        total -= np.einsum("tbh,tbh->h", g, change) * dots[6] / point.leak
    return total / point.leak
