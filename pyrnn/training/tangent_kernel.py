"""The derivative of a network's outputs with respect to its parameters, as one matrix."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pyrnn import _directions
from pyrnn import network as networks
from pyrnn.profiling import timed
from pyrnn.training.per_sample import gradients_at
from pyrnn.trajectory import Direction, Trajectory, simulate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import AnyNetwork, MaybeArray

NUMBERS = 1 << 22  # of states that the passes go through together


@timed
def output_jacobian(
    network: AnyNetwork, x: ArrayLike, h0: ArrayLike | None = None, *, steps: ArrayLike | None = None
) -> np.ndarray:
    """The Jacobian of the outputs with respect to the arrays of a network.

    Parameters
    ----------
    network : Network or RNN of one layer
        Without R. Without V the outputs are what V would read: the states, in the ``current`` form phi of them.
    x : array_like, shape (T, B, I) or (T, I)
    h0 : array_like, shape (B, H) or (H,), optional
        The state before ``x[0]``; None for zeros.
    steps : array_like of integers, shape (S,), optional
        The steps whose outputs count, from -T to T - 1; None for all.

    Returns
    -------
    J : ndarray, shape (S, B, O, P) or (S, O, P)
        ``J[s, r, k]`` is the gradient of output k of sequence r at ``steps[s]``, a vector of all P parameters in the
        order of `Network.ravel`: ``network.unravel`` makes arrays of it.

    Raises
    ------
    ValueError, TypeError
        As in `forward`, and if a step is not there.

    See Also
    --------
    jvp, Trajectory.backward : its products with a vector from either side, at the cost of one pass.
    Objective.ggnp : the product of Jᵀ J and a vector, up to the loss.

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
    >>> network = pyrnn.initialize(2, 3, 1, rng=0)
    >>> J = pyrnn.training.output_jacobian(network, np.ones((7, 5, 2)), steps=[-1])
    >>> J.shape, network.unravel(J[0, 0, 0]).V.shape
    ((1, 5, 1, 22), (1, 3))
    """
    made, x_, h0_ = networks.conform(network, "h0", x=x, h0=h0)
    networks.check_input(made, x_, h0_)
    at = _checked_steps(steps, len(x_))
    run, _, _ = _directions.conform(simulate(made, x_, h0_))
    run, _, _ = _directions.with_batch(run)

    U, _, b, V, c, _, _ = made
    (H, I), dtype = U.shape, x_.dtype
    recurrent = H * (I + H + (b is not None))
    top = np.eye(H, dtype=dtype) if V is None else V
    O = len(top)
    J = np.zeros((len(at), run.h.shape[1], O, recurrent + sum(a.size for a in (V, c) if a is not None)), dtype)
    # A row takes a pass backwards and its outer products, a column a pass forwards of half that.
    fill = _columns if recurrent * H < len(at) * O * (2 * H + I) else _rows
    for sequence in range(run.h.shape[1]):
        fill(_one(run, sequence), top, at, b is not None, J[:, sequence, :, :recurrent])
    if V is not None:
        outputs = np.arange(O)
        dV = J[..., recurrent : recurrent + V.size].reshape(*J.shape[:3], O, H)  # a copy where O and H are above 1
        dV[:, :, outputs, outputs] = run.read[at][:, :, np.newaxis]
        J[..., recurrent : recurrent + V.size] = dV.reshape(*J.shape[:3], V.size)
    if c is not None:
        J[..., -O:] = np.eye(O, dtype=dtype)
    return J if x_.ndim == 3 else J[:, 0]


def _checked_steps(steps: ArrayLike | None, T: int) -> np.ndarray:
    """As integers from 0 on."""
    if steps is None:
        return np.arange(T)
    try:
        indices = [operator.index(t) for t in cast("Iterable[Any]", steps)]
    except TypeError:
        raise TypeError(f"steps must be integers, got {steps!r}") from None
    if any(not -T <= t < T for t in indices):
        raise ValueError(f"steps must be from {-T} to {T - 1}, got {indices}")
    return np.array(indices, np.intp) % max(T, 1)


def _one(run: Trajectory, sequence: int) -> Trajectory:
    """The run of one sequence alone."""
    at, (x, h0) = slice(sequence, sequence + 1), cast("tuple[MaybeArray, ...]", (run.x, run.h0))
    return run._replace(x=x[:, at], h0=h0[at], h=run.h[:, at], rates=run.rates[:, at])


def _shared(run: Trajectory, rows: int) -> Trajectory:
    """So many sequences that are all the one of the run, in its memory."""
    x, h, rates = (
        np.broadcast_to(a, (len(a), rows, a.shape[2]))
        for a in cast("tuple[MaybeArray, ...]", (run.x, run.h, run.rates))
    )
    return run._replace(x=x, h0=np.repeat(cast("MaybeArray", run.h0), rows, axis=0), h=h, rates=rates)


def _rows(run: Trajectory, top: np.ndarray, steps: np.ndarray, bias: bool, J: np.ndarray) -> None:
    """J [S, O, .] by the gradients of each output."""
    T, _, H = run.h.shape
    S, O, _ = J.shape
    x, slope = run.require_x(), _directions.read_slope(run)
    together = max(1, NUMBERS // max(1, T * H))
    for first in range(0, S * O, together):
        at = np.arange(first, min(first + together, S * O))
        end = steps[at // O].max() + 1  # nothing behind it counts
        dh = np.zeros((end, len(at), H), run.h.dtype)
        step = steps[at // O]
        dh[step, np.arange(len(at))] = top[at % O] if slope is None else slope[step, 0] * top[at % O]
        until = run._replace(x=x[:end], h=run.h[:end], rates=run.rates[:end])
        dU, dW, db = gradients_at(_shared(until, len(at)), dh)
        parts = [dU.reshape(len(at), -1), dW.reshape(len(at), -1), *([db] if bias else [])]
        J[at // O, at % O] = np.concatenate(parts, axis=1)


def _columns(run: Trajectory, top: np.ndarray, steps: np.ndarray, bias: bool, J: np.ndarray) -> None:
    """J [S, O, .] by how the states move with each parameter.

    The direction of U_ij is a drive of unit i that is x_tj; of W_ij, what unit j feeds back; of b_i, 1.
    """
    T, _, H = run.h.shape
    fed, fed0 = _directions.fed(run)
    slope = _directions.read_slope(run)
    before = np.concatenate([fed0, fed[:-1, 0]])[:T]
    together = max(1, NUMBERS // max(1, T * H))
    first = 0
    for read in (run.require_x()[:, 0], before, *([np.ones((T, 1), before.dtype)] if bias else [])):
        n = read.shape[1]
        for start in range(0, H * n, together):
            at = np.arange(start, min(start + together, H * n))
            drive = np.zeros((T, len(at), H), before.dtype)
            drive[:, np.arange(len(at)), at // max(n, 1)] = read[:, at % max(n, 1)]
            h_dot = np.empty_like(drive)
            _directions.tangent(_shared(run, len(at)), Direction(drive=drive), h_dot)
            read_dot = h_dot[steps] if slope is None else slope[steps] * h_dot[steps]
            J[..., first + start : first + start + len(at)] = np.swapaxes(read_dot @ top.T, 1, 2)
        first += H * n
