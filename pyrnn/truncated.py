"""Truncated backpropagation through time: every k1 steps, k2 steps back."""

from typing import NamedTuple

import numpy as np

from pyrnn import _checks, losses
from pyrnn._network import as_parameters, check_network
from pyrnn._results import LossGradients
from pyrnn.functional import backward, forward
from pyrnn.output import output, output_gradients
from pyrnn.parameters import Parameters


class TruncatedGradients(NamedTuple):
    """What `truncated_gradients` returns for a sequence and `truncated_updates` for each update.

    ``start`` and ``stop`` are the steps that ``gradients`` went back through, ``loss`` that of the steps which no
    update before has had, and ``h`` the state after the last one: the `h0` of what follows.
    """

    start: int
    stop: int
    loss: np.float64
    gradients: LossGradients
    h: np.ndarray


def truncated_gradients(params, x, targets, *, k1, k2, loss="softmax_cross_entropy", h0=None, weights=None):
    """Loss of a network on sequences, and its gradients by truncated backpropagation through time.

    Parameters
    ----------
    params : Parameters
        Or any ``(U, W, b, V, c)``. Without V the states themselves are the outputs.
    x : array_like, shape (T, B, I) or (T, I)
    targets : array_like
        As in `loss_and_gradients`.
    k1 : int
        The losses of so many steps, and at the end of those that are left, go back through time together.
    k2 : int
        How many steps back from the last one of them, not less than k1. k2 = k1 cuts time into pieces; from k2 = T on
        the gradients are those of `loss_and_gradients`.
    loss, h0, weights
        As in `loss_and_gradients`.

    Returns
    -------
    TruncatedGradients
        Named tuple ``(start, stop, loss, gradients, h)``: 0, T, the loss summed over time and batch, the sums of the
        gradients of all updates as `LossGradients`, and the last state, which is the `h0` of what follows.
        ``gradients.h0`` has what has come back to the beginning.

    Raises
    ------
    ValueError
        If k1 is below 1 or k2 below k1, or as in `loss_and_gradients`.
    TypeError
        If k1 or k2 is not an integer, or as in `loss_and_gradients`.

    See Also
    --------
    truncated_updates : the updates one by one, to change the parameters after each.
    loss_and_gradients : the whole gradient, which its ``memory_limit`` makes possible for long sequences too.

    Notes
    -----
    BPTT(k2; k1) of [1]_, in the letters of [2]_: delta_{t+1} of equation 10.21 is taken as 0 after k2 steps. The
    states are computed once, T steps, those back are T k2 / k1. Beside the arguments and gradients with respect to x
    it keeps about 2 k2 states.

    References
    ----------
    .. [1] R. J. Williams, J. Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
       trajectories", Neural Computation 2 (1990) 490-501.
    .. [2] I. Sutskever, "Training recurrent neural networks", PhD thesis, University of Toronto, 2013, section 2.8.6.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> params = pyrnn.initialize(2, 3, 2, rng=0)
    >>> x, targets = np.ones((50, 2)), np.arange(50) % 2
    >>> part = pyrnn.truncated_gradients(params, x, targets, k1=5, k2=20)
    >>> loss, whole = pyrnn.loss_and_gradients(params, x, targets)
    >>> bool(abs(part.gradients.W - whole.W).max() < 1e-3 * abs(whole.W).max())
    True
    """
    params = as_parameters(params)
    window = _Window(params, x, targets, k1, k2, loss, h0, weights)
    dx = np.zeros_like(window.x)
    total, dh0 = np.float64(0.0), np.zeros_like(window.h[0])
    sums = Parameters(*(None if a is None else np.zeros_like(a) for a in window.checked(params)))
    while window.stop < window.T:
        value, gradients = window.next(params)
        dx[window.start : window.stop] += gradients.x
        if window.start == 0:
            dh0 += gradients.h0
        total += value
        for a, part in zip(sums, gradients.parameters, strict=True):
            if a is not None:
                a += part
    result = LossGradients(*sums, dx, dh0)
    h = window.state
    if not window.batched:
        result, h = result._replace(x=dx[:, 0], h0=dh0[0]), h[0]
    return TruncatedGradients(0, window.T, total, result, h)


def truncated_updates(params, x, targets, *, k1, k2, loss="softmax_cross_entropy", h0=None, weights=None):
    """The updates of truncated backpropagation through time, one by one.

    Parameters
    ----------
    params : Parameters
        Or any ``(U, W, b, V, c)``. Its arrays are read anew for each update: they may be changed in place between two,
        as an optimiser does, or others of the same shapes sent: ``updates.send(params)``.
    x, targets, k1, k2, loss, h0, weights
        As in `truncated_gradients`.

    Returns
    -------
    updates : generator of TruncatedGradients
        One for each k1 steps, and one for what is left of T: the loss of these steps, and its gradients through the
        steps from ``start`` to ``stop``, at most k2. ``gradients.x`` is that of ``x[start:stop]``, ``gradients.h0``
        that of the state before ``start``.

    Raises
    ------
    ValueError, TypeError
        As in `truncated_gradients`, when it is called, not when the first update is asked for.

    See Also
    --------
    truncated_gradients : their sum.

    Notes
    -----
    The states of earlier steps are those of the parameters of then, as in [1]_: with k2 above k1 and changed parameters
    the gradients are approximations in this respect too.

    References
    ----------
    .. [1] R. J. Williams, J. Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
       trajectories", Neural Computation 2 (1990) 490-501.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> params = pyrnn.initialize(1, 8, 1, rng=0)
    >>> x = np.sin(0.3 * np.arange(2001.0))[:, None]
    >>> losses = []
    >>> for update in pyrnn.truncated_updates(params, x[:-1], x[1:], k1=10, k2=20, loss="squared_error"):
    ...     losses.append(float(update.loss))
    ...     for a, gradient in zip(params, update.gradients.parameters):
    ...         a -= 0.01 * gradient
    >>> sum(losses[-10:]) < 0.1 * sum(losses[:10])
    True
    """
    params = as_parameters(params)
    return _updates(params, _Window(params, x, targets, k1, k2, loss, h0, weights))


def _updates(params, window):
    while window.stop < window.T:
        value, gradients = window.next(params)
        h = window.state
        if not window.batched:
            gradients, h = gradients._replace(x=gradients.x[:, 0], h0=gradients.h0[0]), h[0]
        changed = yield TruncatedGradients(window.start, window.stop, value, gradients, h)
        params = params if changed is None else changed


class _Window:
    """The last steps of a sequence on its way through time, and their states."""

    def __init__(self, params, x, targets, k1, k2, loss, h0, weights):
        losses.check_loss(loss)
        self.k1 = _checks.positive_integer("k1", k1)
        self.k2 = _checks.positive_integer("k2", k2)
        if self.k2 < self.k1:
            raise ValueError(f"k2 must not be less than k1, {self.k1}, got {self.k2}")
        U, W, b, V, c = params
        x, U, W, b, V, c, h0 = _checks.as_real_arrays("b", "V", "c", "h0", x=x, U=U, W=W, b=b, V=V, c=c, h0=h0)
        targets, weights = check_network(x, U, W, b, V, c, h0, targets, loss, weights)
        self.loss, self.batched = losses.LOSSES[loss], x.ndim == 3
        self.shapes = [None if a is None else a.shape for a in (U, W, b, V, c)]
        self.T, H = len(x), len(U)
        if not self.batched:
            x, targets = x[:, np.newaxis], targets[:, np.newaxis]
            weights, h0 = (None if weights is None else weights[:, np.newaxis]), None if h0 is None else h0[np.newaxis]
        self.x, self.targets, self.weights = x, targets, weights
        self.start = self.stop = 0
        # h[i] is the state before step first + i.
        self.first, back = 0, min(self.k2, self.T)
        self.h = np.empty((min(self.T, 2 * back + self.k1) + 1, x.shape[1], H), x.dtype)
        self.h[0] = 0 if h0 is None else h0
        self.dh = np.zeros((back, x.shape[1], H), x.dtype)

    @property
    def state(self):
        """The state after the last step, a copy."""
        return self.h[self.stop - self.first].copy()

    def next(self, params):
        """Make the next steps, and go back through those of the window: the loss of the new ones and its gradients."""
        U, W, b, V, c = self.checked(params)
        new, self.stop = self.stop, min(self.stop + self.k1, self.T)
        self.start = max(0, self.stop - self.k2)
        if self.stop - self.first >= len(self.h):  # the older half makes room
            self.h[: new - self.start + 1] = self.h[self.start - self.first : new - self.first + 1]
            self.first = self.start
        before, states = self.h[new - self.first], self.h[new - self.first + 1 : self.stop - self.first + 1]
        forward(self.x[new : self.stop], U, W, b, before, out=states)
        weights = None if self.weights is None else self.weights[new : self.stop]
        if V is None:
            value, dh = self.loss(states, self.targets[new : self.stop], weights)
            dV = dc = None
        else:
            value, do = self.loss(output(states, V, c), self.targets[new : self.stop], weights)
            dh, dV, dc = output_gradients(do.astype(states.dtype, copy=False), states, V)
        # The steps before have no loss of their own here.
        whole = self.dh[: self.stop - self.start]
        whole[new - self.start :] = dh
        at, end = self.start - self.first, self.stop - self.first
        below = backward(whole, self.h[at + 1 : end + 1], self.x[self.start : self.stop], U, W, self.h[at])
        whole[new - self.start :] = 0
        return value, LossGradients(
            U=below.U,
            W=below.W,
            b=None if b is None else below.b,
            V=dV,
            c=None if c is None else dc,
            x=below.x,
            h0=below.h0,
        )

    def checked(self, params):
        """The parameters as they are now, in the dtype of the states."""
        arrays = _checks.as_real_arrays("b", "V", "c", **as_parameters(params)._asdict())
        for name, a, shape in zip("UWbVc", arrays, self.shapes, strict=True):
            found = None if a is None else a.shape
            if found != shape:
                raise ValueError(f"{name} must keep its shape {shape} from update to update, got {found}")
        return [None if a is None else a.astype(self.x.dtype, copy=False) for a in arrays]
