"""The loss of a network as a function of one vector, with products of its Hessian and Gauss-Newton matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from pyrnn import _checks, _directions, losses
from pyrnn import network as networks
from pyrnn.losses import Criterion
from pyrnn.network import Network
from pyrnn.readout import output, output_gradients
from pyrnn.training.gradients import TopGradients, each_array, through_output
from pyrnn.trajectory import Direction, simulate

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import ArrayLike

    from pyrnn._types import AnyNetwork, Loss, MaybeArray, Shape

    _Product: TypeAlias = Callable[["_At", Network], Network]


class Objective:
    """The loss of a network as a function of one vector, with its gradient and products with its curvature.

    Parameters
    ----------
    network : Network or RNN of one layer
        Without R: its shapes, its cell, and a first point. Without V the outputs are what V would read: the states, in
        the ``current`` form phi of them.
    x : array_like, shape (T, B, I) or (T, I)
    targets : array_like
        What the loss expects: classes (T, B) or (T,), or numbers (T, B, O) or (T, O).
    loss : {"softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson", "huber"}
    h0 : array_like, shape (B, H) or (H,), optional
        The state before ``x[0]``; None for zeros.
    weights : array_like, shape (T, B) or (T,), optional
        Multiplies the loss of each step; of the shape of the outputs that of each number. Where it is 0 the target is
        not read, but the input is: the step still moves the state, and a NaN in its x makes the gradients NaN. `RNN`
        with `lengths` leaves out steps that do not exist.

    Attributes
    ----------
    first : ndarray, shape (number of parameters,)
        The network as a vector: a point to start from.

    Raises
    ------
    ValueError, TypeError
        As in `loss_and_gradients`.

    Notes
    -----
    Vectors are those of `Network.ravel`; alpha is none of them. States, gradient and what else depends on the point are
    kept for the last point, so that a method called there once more does not compute them again: `fun` and `jac` share
    the forward pass, and all products at one point share everything but their own pass forwards and backwards.

    Products are exact, without the matrix: that of the Hessian [1]_ takes a pass forwards for how states and outputs
    move, and one backwards for how their gradients do, at about the cost of two calls of `loss_and_gradients`. relu has
    no curvature of its own: the Hessian is that where no unit is at its bend. The Gauss-Newton matrix is G = Jᵀ L'' J,
    with J the Jacobian of all outputs and L'' the Hessian of the loss with respect to them [2]_: the Hessian without
    the curvature of the network, and without negative eigenvalues where no weight is negative. Of the softmax
    cross-entropy it is the Fisher matrix; of the squared error, which has no half, twice Jᵀ J. Section 8.6 of [3]_ says
    what such products are for.

    References
    ----------
    .. [1] B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994) 147-160.
    .. [2] N. N. Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural
       Computation 14 (2002) 1723-1738.
    .. [3] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> from scipy.optimize import minimize
    >>> start, x = pyrnn.initialize(1, 3, 1, rng=0), np.sin(np.arange(30.0))[:, None]
    >>> objective = pyrnn.training.Objective(start, x[:-1], x[1:], loss="squared_error")
    >>> found = minimize(
    ...     objective.fun, start.ravel(), jac=objective.jac, hessp=objective.hessp, method="trust-ncg",
    ...     options={"maxiter": 30},
    ... )
    >>> bool(found.fun < 0.1)
    True

    One linear unit and one step, L = (u x - y)², with the second derivative 2 x² by u:

    >>> network = pyrnn.Network(np.array([[1.0]]), np.array([[0.0]]), cell=pyrnn.Cell("identity"))
    >>> objective = pyrnn.training.Objective(network, np.array([[3.0]]), np.array([[1.0]]), loss="squared_error")
    >>> objective.hessp(objective.first, [1.0, 0.0])
    array([18.,  0.])
    """

    def __init__(
        self,
        network: AnyNetwork,
        x: ArrayLike,
        targets: ArrayLike,
        *,
        loss: Loss = "softmax_cross_entropy",
        h0: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> None:
        losses.check_loss(loss)
        self._first, x_, h0_ = networks.conform(network, "h0", x=x, h0=h0)
        shape = networks.check_input(self._first, x_, h0_)
        self._data = _Data(x_, h0_, Criterion(loss, targets, weights).checked(shape, x_.dtype))
        self._last: _At | None = None

    @property
    def first(self) -> np.ndarray:
        """The network that the objective was made with, as a vector: a point to start from."""
        first: np.ndarray = self._first.ravel()
        return first

    def fun(self, p: ArrayLike) -> np.float64:
        """The loss.

        Parameters
        ----------
        p : array_like, shape (number of parameters,)

        Returns
        -------
        float
        """
        return self._at(p).loss

    def jac(self, p: ArrayLike) -> np.ndarray:
        """The gradient of the loss.

        Parameters
        ----------
        p : array_like, shape (number of parameters,)

        Returns
        -------
        ndarray, shape of p
        """
        return self._at(p).gradient().copy()

    @overload
    def hessp(self, p: ArrayLike, v: Network) -> Network: ...
    @overload
    def hessp(self, p: ArrayLike, v: ArrayLike) -> np.ndarray: ...
    def hessp(self, p: ArrayLike, v: ArrayLike | Network) -> np.ndarray | Network:
        """The Hessian of the loss times a vector.

        Parameters
        ----------
        p : array_like, shape (number of parameters,)
            The point.
        v : array_like, shape (number of parameters,), or Network
            The direction, as a vector or as the arrays of a network.

        Returns
        -------
        ndarray, shape of p, or Network
            What v is.

        Raises
        ------
        ValueError, TypeError
            If p or v does not fit the network.
        """
        return self._product(p, v, _At.hessian_product)

    @overload
    def ggnp(self, p: ArrayLike, v: Network) -> Network: ...
    @overload
    def ggnp(self, p: ArrayLike, v: ArrayLike) -> np.ndarray: ...
    def ggnp(self, p: ArrayLike, v: ArrayLike | Network) -> np.ndarray | Network:
        """The Gauss-Newton matrix times a vector; positive semi-definite.

        Parameters
        ----------
        p, v
            As in `hessp`.

        Returns
        -------
        ndarray, shape of p, or Network
            What v is.

        Raises
        ------
        ValueError, TypeError
            As in `hessp`.
        """
        return self._product(p, v, _At.gauss_newton_product)

    def _product(self, p: ArrayLike, v: ArrayLike | Network, method: _Product) -> np.ndarray | Network:
        direction = self._direction(v) if isinstance(v, Network) else self._unravel("v", v)
        result = method(self._at(p), direction)
        return result if isinstance(v, Network) else result.ravel()

    def _direction(self, v: Network) -> Network:
        """A direction that came as named arrays, after a check of each."""
        for name, a, like in zip(networks.ARRAYS, v, self._first, strict=False):
            if (a is None) != (like is None):
                kind = "None" if like is None else "an array"
                raise ValueError(f"v.{name} must be {kind}, as network.{name} is")
            if a is not None and like is not None:
                _checks.check_shape(f"v.{name}", _checks.as_array(f"v.{name}", a), like.shape)
        return self._unravel("v", v.ravel())

    def _unravel(self, name: str, vector: ArrayLike) -> Network:
        """A network from a vector, in the dtype of the first."""
        (vector,) = _checks.as_real_arrays(**{name: vector})
        count = sum(a.size for a in self._first.arrays)
        _checks.check_shape(name, vector, (count,))
        network: Network = self._first.unravel(vector.astype(self._data.x.dtype, copy=False))
        return network

    def _at(self, p: ArrayLike) -> _At:
        """The last point if it is this one, else a new one."""
        if self._last is None or not np.array_equal(self._last.p, p, equal_nan=False):
            self._last = _At(np.array(p), self._unravel("p", p), self._data)
        return self._last


class _Data(NamedTuple):
    """What an objective has beside its point. A point refers to it, not to the objective: that would be a cycle, and
    keep the states of old points until the garbage is collected."""

    x: np.ndarray
    h0: np.ndarray | None
    criterion: Criterion


class _At:
    """The network of an objective at one point; each part is computed when it is first asked for."""

    def __init__(self, p: np.ndarray, network: Network, data: _Data) -> None:
        self.p, self.criterion = p, data.criterion
        self.network = each_array(np.copy, network)
        run = simulate(self.network, data.x, data.h0)
        self.o = run.read if network.V is None else run.output()
        self.loss, do = self.criterion(self.o)
        self.run, _, (self._do,) = _directions.with_batch(run, Direction(), do)  # the arrays are contiguous
        self._slope = _directions.read_slope(self.run)
        self._gradient: np.ndarray | None = None
        self._states: tuple[np.ndarray, np.ndarray] | None = None
        self._top_gradients: TopGradients | None = None
        self._chances: np.ndarray | None = None

    def _top(self) -> TopGradients:
        """Gradients of the loss itself with respect to what the output layer reads, and to the layer."""
        if self._top_gradients is None:
            self._top_gradients = through_output(self.network, self._do, self.run.read)
        return self._top_gradients

    def _to_states(self, dr: np.ndarray) -> np.ndarray:
        """What arrives at the states of what arrives where an output layer reads."""
        return dr if self._slope is None else self._slope * dr

    def gradient(self) -> np.ndarray:
        if self._gradient is None:
            self._gradient = self._below(self._top()).ravel()
        return self._gradient

    def _below(self, top: TopGradients) -> Network:
        """Gradients of all arrays."""
        below = self.run.backward(self._to_states(top.read), x_gradient=False)
        return self._as_network(below.U, below.W, below.b, top)

    def _as_network(self, U: np.ndarray, W: np.ndarray, b: np.ndarray, top: TopGradients) -> Network:
        network = self.network
        return Network(U, W, None if network.b is None else b, top.V, None if network.c is None else top.c)

    def _move(self, v: Network) -> tuple[Direction, tuple[np.ndarray, np.ndarray], np.ndarray]:
        """How states and outputs move in a direction: what `second_order` reads, and o_dot."""
        direction = Direction(U=v.U, W=v.W, b=v.b)
        moved = _directions.kept_tangent(self.run, direction)
        read_dot = self._read_dot(moved)
        if self.network.V is None:
            return direction, moved, read_dot
        V_dot: MaybeArray = v.V
        o_dot = output(read_dot, self.network.V, v.c)
        o_dot += output(self.run.read, V_dot)
        return direction, moved, o_dot

    def _read_dot(self, moved: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """How what V reads moves: h_dot, in the current form the tangent of phi(h)."""
        return moved[1 if self.network.cell.current else 0]

    @losses.QUIET
    def _loss_curvature(self, o_dot: np.ndarray) -> np.ndarray:
        """The Hessian of the loss with respect to o, times o_dot: w (diag(p) - p pᵀ) o_dot, or w c o_dot."""
        loss, targets, weights = self.criterion
        result: np.ndarray
        if losses.of_classes(loss):
            p = self._probabilities(o_dot.shape)
            result = p * (o_dot - (p * o_dot).sum(axis=-1, keepdims=True))
        else:
            slopes = losses.slopes_of_gradient(loss, self.o, targets)
            result = o_dot * (slopes if isinstance(slopes, float) else np.reshape(slopes, o_dot.shape))
        if weights is not None:
            columns = o_dot.shape[-1] if weights.ndim == self.o.ndim else 1
            weights = weights.reshape(*o_dot.shape[:-1], columns)
            result = np.where(weights == 0, 0, weights * result)
        return result.astype(o_dot.dtype, copy=False)

    def _probabilities(self, shape: Shape) -> np.ndarray:
        """softmax(o)."""
        if self._chances is None:
            p = np.exp(self.o - losses.largest(self.o)[..., np.newaxis])
            self._chances = (p / p.sum(axis=-1, keepdims=True)).reshape(shape)
        return self._chances

    def hessian_product(self, v: Network) -> Network:
        direction, moved, o_dot = self._move(v)
        dr = self._top().read
        if self._states is None:
            self._states = _directions.gradient_states(self.run, self._to_states(dr))
        top_dot = through_output(self.network, self._loss_curvature(o_dot), self.run.read)
        if self.network.V is not None:
            # The tangents of dr = Vᵀ do and dV = Σ do rᵀ, with r = h or phi(h)                  (10.19, 10.24)
            V_dot: MaybeArray = v.V
            more = output_gradients(self._do, self._read_dot(moved), V_dot)
            for total, part in ((top_dot.read, more.h), (top_dot.V, more.V)):
                total += part
        dh_dot, bend = self._to_states(top_dot.read), self.network.cell.bend(self.run.read)
        if self._slope is not None and bend is not None:
            dh_dot += bend * self._read_dot(moved) * dr  # phi'' h_dot dr
        _, _, _, dU, dW, db = _directions.second_order(self.run, direction, moved, self._states, dh_dot)
        return self._as_network(dU, dW, db, top_dot)

    def gauss_newton_product(self, v: Network) -> Network:
        _, _, o_dot = self._move(v)
        return self._below(through_output(self.network, self._loss_curvature(o_dot), self.run.read))
