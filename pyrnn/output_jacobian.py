"""The derivative of a network's outputs with respect to its parameters, as one matrix."""

import operator

import numpy as np

from pyrnn import _cell, _checks, _directions, _network
from pyrnn.functional import forward
from pyrnn.per_sample import gradients_at
from pyrnn.profiling import timed

NUMBERS = 1 << 22  # of states that the passes go through together


@timed
def output_jacobian(params, x, *, steps=None, h0=None, nonlinearity="tanh", alpha=None, form="rate"):
    """The Jacobian of the outputs with respect to the parameters.

    Parameters
    ----------
    params : Parameters
        Or any ``(U, W, b, V, c)``. Without V the outputs are what V would read.
    x : array_like, shape (T, B, I) or (T, I)
    steps : array_like of integers, shape (S,), optional
        The steps whose outputs count, from -T to T - 1; None for all.
    h0 : array_like, shape (B, H) or (H,), optional
        The state before ``x[0]``; None for zeros.
    nonlinearity, alpha, form
        Of the cell, as in `forward`. V reads h, in the ``current`` form phi(h), as in `RNN` and `Stepper`.

    Returns
    -------
    J : ndarray, shape (S, B, O, P) or (S, O, P)
        ``J[s, r, k]`` is the gradient of output k of sequence r at ``steps[s]``, a vector of all P parameters in the
        order of `Parameters.ravel`: ``params.unravel`` makes arrays of it.

    Raises
    ------
    ValueError, TypeError
        As in `forward`, and if a step is not there.

    See Also
    --------
    jvp, vjp : its products with a vector from either side, at the cost of one pass.
    ggn_vp : the product of Jᵀ J and a vector, up to the loss.

    Notes
    -----
    Row by row, backwards from each output, or column by column, forwards in the direction of each parameter, whichever
    takes fewer multiply-adds: many rows or columns go through one pass together, as sequences of a batch that share
    their states. J Jᵀ is the neural tangent kernel [1]_.

    References
    ----------
    .. [1] A. Jacot, F. Gabriel, C. Hongler, "Neural tangent kernel: convergence and generalization in neural
       networks", NeurIPS 2018.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> params = pyrnn.initialize(2, 3, 1, rng=0)
    >>> J = pyrnn.output_jacobian(params, np.ones((7, 5, 2)), steps=[-1])
    >>> J.shape, params.unravel(J[0, 0, 0]).V.shape
    ((1, 5, 1, 22), (1, 3))
    """
    named = _network.as_parameters(params)
    given = named._asdict() | {"x": x, "h0": h0, "alpha": _cell.array_or_none(alpha)}
    U, W, b, V, c, x, h0, leak = _checks.as_real_arrays("b", "V", "c", "h0", "alpha", **given)
    _network.check_shapes(x, U, W, b, V, c, h0)
    steps = _checked_steps(steps, len(x))
    cell = {"nonlinearity": nonlinearity, "alpha": alpha if leak is None else leak, "form": form}
    rates = None if alpha is None else np.empty((*x.shape[:-1], len(U)), x.dtype)
    h = forward(x, U, W, b, h0, rates=rates, **cell)
    point, dots, _ = _directions.check(h, x, U, W, h0, rates=rates, **cell)
    point, _, _ = _directions.with_batch(point, dots)

    H, I = U.shape
    recurrent = H * (I + H + (b is not None))
    top = np.eye(H, dtype=x.dtype) if V is None else V
    O = len(top)
    J = np.zeros((len(steps), point.h.shape[1], O, recurrent + sum(a.size for a in (V, c) if a is not None)), x.dtype)
    # A row takes a pass backwards and its outer products, a column a pass forwards of half that.
    fill = _columns if recurrent * H < len(steps) * O * (2 * H + I) else _rows
    for sequence in range(point.h.shape[1]):
        fill(_one(point, sequence), top, steps, b is not None, J[:, sequence, :, :recurrent])
    if V is not None:
        outputs = np.arange(O)
        dV = J[..., recurrent : recurrent + V.size].reshape(*J.shape[:3], O, H)  # a copy where O and H are above 1
        dV[:, :, outputs, outputs] = point.read[steps][:, :, np.newaxis]
        J[..., recurrent : recurrent + V.size] = dV.reshape(*J.shape[:3], V.size)
    if c is not None:
        J[..., -O:] = np.eye(O, dtype=x.dtype)
    return J if x.ndim == 3 else J[:, 0]


def _checked_steps(steps, T):
    """As integers from 0 on."""
    if steps is None:
        return np.arange(T)
    try:
        steps = [operator.index(t) for t in steps]
    except TypeError:
        raise TypeError(f"steps must be integers, got {steps!r}") from None
    if any(not -T <= t < T for t in steps):
        raise ValueError(f"steps must be from {-T} to {T - 1}, got {steps}")
    return np.array(steps, np.intp) % max(T, 1)


def _one(point, sequence):
    """The point of one sequence alone."""
    at = slice(sequence, sequence + 1)
    rates = None if point.rates is None else point.rates[:, at]
    return point._replace(h=point.h[:, at], x=point.x[:, at], h0=point.h0[at], rates=rates)


def _shared(point, rows):
    """So many sequences that are all the one of the point, in its memory."""
    h, x, rates = (
        None if a is None else np.broadcast_to(a, (len(a), rows, a.shape[2])) for a in (point.h, point.x, point.rates)
    )
    return point._replace(h=h, x=x, rates=rates, h0=np.repeat(point.h0, rows, axis=0))


def _rows(point, top, steps, bias, J):
    """J [S, O, .] by the gradients of each output."""
    T, _, H = point.h.shape
    S, O, _ = J.shape
    together = max(1, NUMBERS // max(1, T * H))
    for first in range(0, S * O, together):
        at = np.arange(first, min(first + together, S * O))
        end = steps[at // O].max() + 1  # nothing behind it counts
        dh = np.zeros((end, len(at), H), point.h.dtype)
        step, slopes = steps[at // O], point.slopes()
        dh[step, np.arange(len(at))] = top[at % O] if slopes is None else slopes[step, 0] * top[at % O]
        until = point._replace(
            h=point.h[:end], x=point.x[:end], rates=None if point.rates is None else point.rates[:end]
        )
        dU, dW, db = gradients_at(_shared(until, len(at)), dh)
        parts = [dU.reshape(len(at), -1), dW.reshape(len(at), -1), *([db] if bias else [])]
        J[at // O, at % O] = np.concatenate(parts, axis=1)


def _columns(point, top, steps, bias, J):
    """J [S, O, .] by how the states move with each parameter.

    The direction of U_ij is a drive of unit i that is x_tj; of W_ij, what unit j feeds back; of b_i, 1.
    """
    T, _, H = point.h.shape
    fed, fed0 = point.fed
    slopes = point.slopes()
    before = np.concatenate([fed0, fed[:-1, 0]])[:T]
    together = max(1, NUMBERS // max(1, T * H))
    first = 0
    for read in (point.x[:, 0], before, *([np.ones((T, 1), before.dtype)] if bias else [])):
        n = read.shape[1]
        for start in range(0, H * n, together):
            at = np.arange(start, min(start + together, H * n))
            drive = np.zeros((T, len(at), H), before.dtype)
            drive[:, np.arange(len(at)), at // max(n, 1)] = read[:, at % max(n, 1)]
            h_dot = np.empty_like(drive)
            _directions.tangent(_shared(point, len(at)), (None,) * 5 + (drive, None), h_dot)
            read_dot = h_dot[steps] if slopes is None else slopes[steps] * h_dot[steps]
            J[..., first + start : first + start + len(at)] = np.swapaxes(read_dot @ top.T, 1, 2)
        first += H * n
