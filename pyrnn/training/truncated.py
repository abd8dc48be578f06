"""Truncated backpropagation through time: every k1 steps, k2 steps back."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyrnn import _checks, losses
from pyrnn import network as networks
from pyrnn._results import LossGradients
from pyrnn.functional import forward
from pyrnn.losses import Criterion
from pyrnn.network import Network
from pyrnn.training.gradients import back_from_read, each_array, loss_gradients, through_output
from pyrnn.trajectory import Trajectory

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import AnyNetwork, Loss, MaybeArray


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


def truncated_gradients(
    network: AnyNetwork,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    k1: int,
    k2: int,
    loss: Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> TruncatedGradients:
    """Loss of a network on sequences, and its gradients by truncated backpropagation through time.

    Parameters
    ----------
    network : Network or RNN of one layer
        Without R. Without V the outputs are what V would read, as in `loss_and_gradients`.
    x : array_like, shape (T, B, I) or (T, I)
    targets : array_like
        As in `loss_and_gradients`.
    k1 : int
        The number of steps whose losses go back through time together; at the end of time, those that are left.
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
    >>> network = pyrnn.initialize(2, 3, 2, rng=0)
    >>> x, targets = np.ones((50, 2)), np.arange(50) % 2
    >>> part = pyrnn.training.truncated_gradients(network, x, targets, k1=5, k2=20)
    >>> loss, whole = pyrnn.loss_and_gradients(network, x, targets)
    >>> bool(abs(part.gradients.W - whole.W).max() < 1e-3 * abs(whole.W).max())
    True
    """
    window = _Window(network, x, targets, k1, k2, loss, h0, weights)
    dx, dh0 = np.zeros_like(window.x), np.zeros_like(window.h[0])
    total, sums = np.float64(0.0), window.zeros()
    while window.stop < window.T:
        value, gradients = window.next(network)
        dx[window.start : window.stop] += gradients.x
        if window.start == 0:
            dh0 += gradients.h0
        total += value
        for a, part in zip(sums, (*gradients[:5], gradients.alpha), strict=True):
            if a is not None:
                a += part
    dU, dW, db, dV, dc, d_alpha = sums
    d_alpha = None if d_alpha is None else d_alpha[()]  # a number where alpha is one
    result = LossGradients(dU, dW, db, dV, dc, dx, dh0, d_alpha)
    return TruncatedGradients(0, window.T, total, *window.without_batch(result))


def truncated_updates(
    network: AnyNetwork,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    k1: int,
    k2: int,
    loss: Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Generator[TruncatedGradients, AnyNetwork | None]:
    """The updates of truncated backpropagation through time, one by one.

    Parameters
    ----------
    network : Network or RNN of one layer
        Without R. Its arrays are read anew for each update: they may be changed in place between two, as an optimiser
        does, or another network of the same shapes and form of the cell sent: ``updates.send(network)``.
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
    >>> network = pyrnn.initialize(1, 8, 1, rng=0)
    >>> x = np.sin(0.3 * np.arange(2001.0))[:, None]
    >>> losses = []
    >>> for update in pyrnn.training.truncated_updates(network, x[:-1], x[1:], k1=10, k2=20, loss="squared_error"):
    ...     losses.append(float(update.loss))
    ...     for a, gradient in zip(network.arrays, update.gradients.parameters.arrays):
    ...         a -= 0.01 * gradient
    >>> sum(losses[-10:]) < 0.1 * sum(losses[:10])
    True
    """
    return _updates(network, _Window(network, x, targets, k1, k2, loss, h0, weights))


def _updates(network: AnyNetwork, window: _Window) -> Generator[TruncatedGradients, AnyNetwork | None]:
    while window.stop < window.T:
        value, gradients = window.next(network)
        changed = yield TruncatedGradients(window.start, window.stop, value, *window.without_batch(gradients))
        network = network if changed is None else changed


class _Window:
    """The last steps of a sequence on its way through time, and their states."""

    def __init__(
        self,
        network: AnyNetwork,
        x: ArrayLike,
        targets: ArrayLike,
        k1: int,
        k2: int,
        loss: Loss,
        h0: ArrayLike | None,
        weights: ArrayLike | None,
    ) -> None:
        losses.check_loss(loss)
        self.k1 = _checks.positive_integer("k1", k1)
        self.k2 = _checks.positive_integer("k2", k2)
        if self.k2 < self.k1:
            raise ValueError(f"k2 must not be less than k1, {self.k1}, got {self.k2}")
        self.first_network, x_, h0_ = networks.conform(network, "h0", x=x, h0=h0)
        shape = networks.check_input(self.first_network, x_, h0_)
        criterion = Criterion(loss, targets, weights).checked(shape, x_.dtype)
        self.batched = x_.ndim == 3
        self.T, H = len(x_), len(self.first_network.U)
        if not self.batched:
            x_, criterion = x_[:, np.newaxis], criterion.at((slice(None), np.newaxis))
        self.x, self.criterion = x_, criterion
        self.start = self.stop = 0
        # h[i] is the state before step first + i, rates[i] are those of that step.
        self.first, back = 0, min(self.k2, self.T)
        shape = (min(self.T, 2 * back + self.k1) + 1, x_.shape[1], H)
        self.h = np.empty(shape, x_.dtype)
        self.rates = None if self.first_network.cell.alpha is None else np.empty(shape, x_.dtype)
        self.h[0] = 0 if h0_ is None else h0_
        self.dr = np.zeros((back, x_.shape[1], H), x_.dtype)

    def next(self, given: AnyNetwork) -> tuple[np.float64, LossGradients]:
        """Make the next steps, and go back through those of the window: the loss of the new ones and its gradients."""
        network = self.checked(given)
        new, self.stop = self.stop, min(self.stop + self.k1, self.T)
        self.start = max(0, self.stop - self.k2)
        if self.stop - self.first >= len(self.h):  # the older half makes room
            for a in (self.h, self.rates):
                if a is not None:
                    a[: new - self.start + 1] = a[self.start - self.first : new - self.first + 1]
            self.first = self.start
        made = self._run(network, new, self.stop)
        x, U, W, b, cell = made.require_x(), network.U, network.W, network.b, network.cell
        forward(x, U, W, b, made.h0, cell=cell, rates=made.written_rates, out=made.h)
        value, do = self.criterion.at(slice(new, self.stop))(made.read if network.V is None else made.output())
        top = through_output(network, do, made.read)
        # The steps before have no loss of their own here.
        dr = self.dr[: self.stop - self.start]
        dr[new - self.start :] = top.read
        below = back_from_read(self._run(network, self.start, self.stop), dr)
        dr[new - self.start :] = 0
        return value, loss_gradients(network, below, top)

    def _run(self, network: Network, start: int, stop: int) -> Trajectory:
        """Some steps, with their places in the window."""
        at, end = start - self.first, stop - self.first
        h = self.h[at + 1 : end + 1]
        return Trajectory(network, self.x[start:stop], self.h[at], h, h if self.rates is None else self.rates[at:end])

    def without_batch(self, gradients: LossGradients) -> tuple[LossGradients, np.ndarray]:
        """The gradients, and the state after the last step, a copy, with a batch axis if the call has one."""
        h = self.h[self.stop - self.first].copy()
        if self.batched:
            return gradients, h
        dx: MaybeArray = gradients.x
        return gradients._replace(x=dx[:, 0], h0=gradients.h0[0]), h[0]

    def zeros(self) -> list[MaybeArray]:
        """Sums for the gradients of U, W, b, V, c and alpha."""
        alpha = self.first_network.cell.alpha
        each = np.zeros(np.shape(alpha), self.x.dtype)
        return [*_checks.map_given(np.zeros_like, *self.first_network[:5]), None if alpha is None else each]

    def checked(self, given: AnyNetwork) -> Network:
        """The network as it is now, in the dtype of the states."""
        (network,), first = networks.conform(given), self.first_network
        for name, a, like in zip(networks.ARRAYS, network[:5], first, strict=False):
            found, shape = (None if array is None else array.shape for array in (a, like))
            if found != shape:
                raise ValueError(f"{name} must keep its shape {shape} from update to update, got {found}")
        cell = network.cell
        if (cell.alpha is None, cell.current) != (first.cell.alpha is None, first.cell.current):
            raise ValueError(f"cell must keep its form from update to update, {first.cell}, got {cell}")
        return each_array(lambda a: a.astype(self.x.dtype, copy=False), network)
