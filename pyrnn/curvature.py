"""Products of curvature matrices of a whole network with vectors: Hessian, Gauss-Newton, and an objective for SciPy."""

from typing import NamedTuple

import numpy as np

from pyrnn import _calls, _cell, _checks, _directions, _engines, _memory, _network, losses
from pyrnn.functional import forward
from pyrnn.output import output, output_gradients
from pyrnn.parameters import Parameters


class Objective:
    """The loss of a network as a function of one vector, with its gradient and products with its curvature.

    Parameters
    ----------
    params : Parameters
        Or any ``(U, W, b, V, c)``: the shapes, and a first point. Without V the outputs are what V would read.
    x : array_like, shape (T, B, I) or (T, I)
    targets : array_like
        What the loss expects: classes (T, B) or (T,), or numbers (T, B, O) or (T, O).
    loss : {"softmax_cross_entropy", "squared_error"}
    h0 : array_like, shape (B, H) or (H,), optional
        The state before ``x[0]``; None for zeros.
    weights : array_like, shape (T, B) or (T,), optional
        Multiplies the loss of each step. Where it is 0 the target is not read, but the input is: the step still moves
        the state, and a NaN in its x makes the gradients NaN. `RNN` with `lengths` leaves out steps that
        do not exist.
    nonlinearity, alpha, form
        Of the cell, as in `forward`. V reads h, in the ``current`` form phi(h), as in `RNN` and `Stepper`.

    Attributes
    ----------
    first : ndarray, shape (number of parameters,)
        ``params`` as a vector: a point to start from.

    Raises
    ------
    ValueError, TypeError
        As in `loss_and_gradients`.

    Notes
    -----
    Vectors are those of `Parameters.ravel`. States, gradient and what else depends on the point are kept for the last
    point, so that a method called there once more does not compute them again: `fun` and `jac` share the forward pass,
    and all products at one point share everything but their own pass forwards and backwards.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> from scipy.optimize import minimize
    >>> start, x = pyrnn.initialize(1, 3, 1, rng=0), np.sin(np.arange(30.0))[:, None]
    >>> objective = pyrnn.Objective(start, x[:-1], x[1:], loss="squared_error")
    >>> found = minimize(
    ...     objective.fun, start.ravel(), jac=objective.jac, hessp=objective.hessp, method="trust-ncg",
    ...     options={"maxiter": 30},
    ... )
    >>> bool(found.fun < 0.1)
    True
    """

    def __init__(
        self,
        params,
        x,
        targets,
        *,
        loss="softmax_cross_entropy",
        h0=None,
        weights=None,
        nonlinearity="tanh",
        alpha=None,
        form="rate",
    ):
        losses.check_loss(loss)
        _cell.numbers(nonlinearity, form)
        U, W, b, V, c = _network.as_parameters(params)
        given = {"U": U, "W": W, "b": b, "V": V, "c": c, "x": x, "h0": h0, "alpha": _cell.array_or_none(alpha)}
        *first, x, h0, leak = _checks.as_real_arrays("b", "V", "c", "h0", "alpha", **given)
        targets, weights = _network.check_network(x, *first, h0, targets, loss, weights)
        alpha = alpha if leak is None else leak
        _cell.checked_leak(alpha, form == "current", len(first[0]), x.dtype)
        cell = {"nonlinearity": nonlinearity, "alpha": alpha, "form": form}
        self._first, self._data, self._last = Parameters(*first), _Data(x, targets, loss, h0, weights, cell), None

    @property
    def first(self):
        """The parameters that the objective was made with, as a vector: a point to start from."""
        return self._first.ravel()

    def fun(self, p):
        """The loss.

        Parameters
        ----------
        p : array_like, shape (number of parameters,)

        Returns
        -------
        float
        """
        return self._at(p).loss

    def jac(self, p):
        """The gradient of the loss.

        Parameters
        ----------
        p : array_like, shape (number of parameters,)

        Returns
        -------
        ndarray, shape of p
        """
        return self._at(p).gradient().copy()

    def hessp(self, p, v):
        """The Hessian of the loss times a vector; v may be a `Parameters`, and the result then is one.

        Parameters
        ----------
        p, v : array_like, shape (number of parameters,)

        Returns
        -------
        ndarray, shape of p
        """
        return self._product(p, v, _At.hessian_product)

    def ggnp(self, p, v):
        """The Gauss-Newton matrix times a vector, as `hessp`; positive semi-definite.

        Parameters
        ----------
        p, v : array_like, shape (number of parameters,)

        Returns
        -------
        ndarray, shape of p
        """
        return self._product(p, v, _At.gauss_newton_product)

    def _product(self, p, v, method, name="v"):
        named = isinstance(v, Parameters)
        direction = self._direction(name, v) if named else self._unravel(name, v)
        result = method(self._at(p), direction)
        return result if named else result.ravel()

    def _direction(self, vector, v):
        """A direction that came as named arrays, after a check of each."""
        for name, a, like in zip(Parameters._fields, v, self._first, strict=True):
            if (a is None) != (like is None):
                kind = "None" if like is None else "an array"
                raise ValueError(f"{vector}.{name} must be {kind}, as params.{name} is")
            if a is not None:
                _checks.check_shape(f"{vector}.{name}", _checks.as_array(f"{vector}.{name}", a), like.shape)
        return self._unravel(vector, v.ravel())

    def _unravel(self, name, vector):
        """Parameters from a vector, in the dtype of the network."""
        (vector,) = _checks.as_real_arrays(**{name: vector})
        count = sum(a.size for a in self._first if a is not None)
        _checks.check_shape(name, vector, (count,))
        return self._first.unravel(vector.astype(self._data.x.dtype, copy=False))

    def _at(self, p):
        """The last point if it is this one, else a new one."""
        if self._last is None or not np.array_equal(self._last.p, p, equal_nan=False):
            self._last = _At(np.array(p), self._unravel("p", p), self._data)
        return self._last


class _Data(NamedTuple):
    """What an objective has beside its point. A point refers to it, not to the objective: that would be a cycle, and
    keep the states of old points until the garbage is collected."""

    x: np.ndarray
    targets: np.ndarray
    loss: str
    h0: np.ndarray | None
    weights: np.ndarray | None
    cell: dict


class _At:
    """The network of an objective at one point; each part is computed when it is first asked for."""

    def __init__(self, p, params, data):
        self.p, self._data = p, data
        self.params = Parameters(*(None if a is None else a.copy() for a in params))
        (x, targets, loss, h0, weights, cell), (U, W, b, V, c) = data, self.params
        rates = None if cell["alpha"] is None else _memory.empty((*x.shape[:-1], len(U)), x.dtype)
        h = forward(x, U, W, b, h0, rates=rates, **cell)
        read = rates if cell["form"] == "current" else h
        self.o = read if V is None else output(read, V, c)
        self.loss, do = losses.LOSSES[loss](self.o, targets, weights)
        do = do.astype(h.dtype, copy=False)
        point, _, _ = _directions.check(h, x, U, W, h0, rates=rates, **cell)
        self.point, _, (self._do,) = _directions.with_batch(point, (None,) * 7, do)
        self._slopes = self.point.slopes()
        self._gradient = self._states = self._top_gradients = self._chances = None

    def _top(self):
        """(dh, dV, dc) of the loss itself."""
        if self._top_gradients is None:
            self._top_gradients = self._through_output(self._do)
        return self._top_gradients

    def _through_output(self, do):
        """(dh, dV, dc) from the gradient of the outputs."""
        dr, dV, dc = self._to_read(do)
        return dr if self._slopes is None else self._slopes * dr, dV, dc

    def _to_read(self, do):
        """The same with the gradient of what V reads for dh."""
        V = self.params.V
        return (do, None, None) if V is None else output_gradients(do, self.point.read, V)

    def gradient(self):
        if self._gradient is None:
            self._gradient = self._below(*self._top()).ravel()
        return self._gradient

    def _below(self, dh, dV, dc):
        """Gradients of all parameters from those of the states and of the output layer."""
        h, x, U, W, h0, rates = self.point[:6]
        phi, leak, current = self.point.cell
        results = _calls.new_results(False, x, U, False, leak)
        _engines.choose().backward(dh, h, x, U, W, h0, None, phi, leak, current, False, rates, None, results)
        return self._as_parameters(*results[1:4], dV, dc)

    def _as_parameters(self, U, W, b, V, c):
        return Parameters(U, W, None if self.params.b is None else b, V, None if self.params.c is None else c)

    def _move(self, v):
        """How states and outputs move in a direction: what `second_order` reads, and o_dot."""
        dots = (None, v.U, v.W, v.b, None, None, None)
        moved = _directions.kept_tangent(self.point, dots)
        read_dot = self._read_dot(moved)
        if self.params.V is None:
            return dots, moved, read_dot
        o_dot = output(read_dot, self.params.V, v.c)
        o_dot += output(self.point.read, v.V)
        return dots, moved, o_dot

    def _read_dot(self, moved):
        """How what V reads moves: h_dot, in the current form the tangent of phi(h)."""
        return moved[1 if self.point.current else 0]

    @losses.QUIET
    def _loss_curvature(self, o_dot):
        """The Hessian of the loss with respect to o, times o_dot: w (diag(p) - p pᵀ) o_dot, or 2 w o_dot."""
        weights = self._data.weights
        if self._data.loss == "squared_error":
            result = 2 * o_dot
        else:
            p = self._probabilities(o_dot.shape)
            result = p * (o_dot - (p * o_dot).sum(axis=-1, keepdims=True))
        if weights is not None:
            weights = weights.reshape(*o_dot.shape[:-1], 1)
            result = np.where(weights == 0, 0, weights * result)
        return result.astype(o_dot.dtype, copy=False)

    def _probabilities(self, shape):
        """softmax(o)."""
        if self._chances is None:
            p = np.exp(self.o - losses.largest(self.o)[..., np.newaxis])
            self._chances = (p / p.sum(axis=-1, keepdims=True)).reshape(shape)
        return self._chances

    def hessian_product(self, v):
        dots, moved, o_dot = self._move(v)
        do_dot, V = self._loss_curvature(o_dot), self.params.V
        if self._states is None:
            self._states = _directions.gradient_states(self.point, self._top()[0])
        dh_dot, dV, dc = self._to_read(do_dot)
        if V is not None:
            # The tangents of dr = Vᵀ do and dV = Σ do rᵀ, with r = h or phi(h)                  (10.19, 10.24)
            more = output_gradients(self._do, self._read_dot(moved), v.V)
            dh_dot += more.h
            dV += more.V
        if self._slopes is not None:
            dh_dot = self._slopes * dh_dot
            if self._data.cell["nonlinearity"] == "tanh":  # the others have no phi''; here it is -2 phi phi'
                dr = self._to_read(self._do)[0]
                dh_dot -= 2 * self.point.read * self._read_dot(moved) * dr
        _, _, _, dU, dW, db = _directions.second_order(self.point, dots, moved, self._states, dh_dot)
        return self._as_parameters(dU, dW, db, dV, dc)

    def gauss_newton_product(self, v):
        _, _, o_dot = self._move(v)
        return self._below(*self._through_output(self._loss_curvature(o_dot)))


def hvp(
    params,
    x,
    targets,
    vector,
    *,
    loss="softmax_cross_entropy",
    h0=None,
    weights=None,
    nonlinearity="tanh",
    alpha=None,
    form="rate",
):
    """The Hessian of a network's loss with respect to its parameters, times a vector.

    Parameters
    ----------
    params, x, targets, loss, h0, weights, nonlinearity, alpha, form
        As in `Objective`.
    vector : Parameters or array_like of shape (number of parameters,)
        A direction, as named arrays or as `Parameters.ravel` makes it.

    Returns
    -------
    Parameters or ndarray
        What the vector is.

    Raises
    ------
    ValueError, TypeError
        As in `loss_and_gradients`, and if the vector does not fit.

    See Also
    --------
    Objective : keeps the point: several products at one point, or an optimiser of SciPy.
    ggn_vp : the Gauss-Newton matrix, which has no negative eigenvalues.

    Notes
    -----
    Exact, without the Hessian [1]_: a pass forwards for how states and outputs move, and one backwards for how their
    gradients do, at about the cost of two calls of `loss_and_gradients`. relu has no curvature of its own: the Hessian
    is that where no unit is at its bend. Section 8.6 of [2]_ says what such products are for.

    References
    ----------
    .. [1] B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994) 147-160.
    .. [2] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016.

    Examples
    --------
    One linear unit and one step, L = (u x - y)², with the second derivative 2 x² by u:

    >>> import numpy as np, pyrnn
    >>> params = pyrnn.Parameters(np.array([[1.0]]), np.array([[0.0]]))
    >>> x, y = np.array([[3.0]]), np.array([[1.0]])
    >>> pyrnn.hvp(params, x, y, [1.0, 0.0], loss="squared_error", nonlinearity="identity")
    array([18.,  0.])
    """
    objective = Objective(
        params, x, targets, loss=loss, h0=h0, weights=weights, nonlinearity=nonlinearity, alpha=alpha, form=form
    )
    return objective._product(objective.first, vector, _At.hessian_product, "vector")


def ggn_vp(
    params,
    x,
    targets,
    vector,
    *,
    loss="softmax_cross_entropy",
    h0=None,
    weights=None,
    nonlinearity="tanh",
    alpha=None,
    form="rate",
):
    """The Gauss-Newton matrix of a network's loss with respect to its parameters, times a vector.

    Parameters
    ----------
    params, x, targets, loss, h0, weights, nonlinearity, alpha, form
        As in `Objective`.
    vector : Parameters or array_like of shape (number of parameters,)
        A direction, as named arrays or as `Parameters.ravel` makes it.

    Returns
    -------
    Parameters or ndarray
        What the vector is.

    Raises
    ------
    ValueError, TypeError
        As in `loss_and_gradients`, and if the vector does not fit.

    See Also
    --------
    Objective : keeps the point.
    hvp : the Hessian.

    Notes
    -----
    G = Jᵀ L'' J, with J the Jacobian of all outputs and L'' the Hessian of the loss with respect to them [1]_: the
    Hessian without the curvature of the network, and without negative eigenvalues where no weight is negative. Of the
    softmax cross-entropy it is the Fisher matrix; of the squared error, which has no half, twice Jᵀ J. A pass forwards
    (`jvp`) and one backwards (`backward`). Section 8.6 of [2]_.

    References
    ----------
    .. [1] N. N. Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural
       Computation 14 (2002) 1723-1738.
    .. [2] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> params, x = pyrnn.initialize(2, 3, 4, rng=0), np.ones((5, 2))
    >>> vector = np.random.default_rng(0).standard_normal(params.ravel().size)
    >>> bool(vector @ pyrnn.ggn_vp(params, x, np.array([0, 1, 2, 3, 0]), vector) >= 0)
    True
    """
    objective = Objective(
        params, x, targets, loss=loss, h0=h0, weights=weights, nonlinearity=nonlinearity, alpha=alpha, form=form
    )
    return objective._product(objective.first, vector, _At.gauss_newton_product, "vector")
