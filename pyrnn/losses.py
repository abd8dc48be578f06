"""Losses over a sequence, each with its gradient with respect to the outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrnn import _checks
from pyrnn.profiling import timed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import Loss, MaybeArray, Shape

PART = 1 << 16  # targets that are checked at once where memory is scarce

# NaN and inf pass through without a warning, as they do in the compiled functions.
QUIET = np.errstate(over="ignore", divide="ignore", invalid="ignore")


@QUIET
@timed
def softmax_cross_entropy(
    o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None
) -> tuple[np.float64, np.ndarray]:
    """Negative log-likelihood of the target classes under softmax(o), summed over time and batch.

    Parameters
    ----------
    o : array_like, shape (T, B, O) or (T, O)
        Unnormalised log probabilities of the O classes.
    targets : array_like of int, shape (T, B) or (T,)
        The class y_t of each step, 0 to O - 1; anything where the weight is 0.
    weights : array_like, shape (T, B) or (T,), optional
        Multiplies the loss of each step. Where it is 0 neither o nor the target is read: a NaN there does not spread
        to the loss or to do. (A NaN in the states themselves spreads through `backward`: steps that do not exist are
        left out by its `lengths` or `mask`.) 1/(T B) everywhere makes the sum a mean.

    Returns
    -------
    loss : float
        The sum; a float64 scalar, also for float32 inputs.
    do : ndarray, shape of o
        Its gradient with respect to o, of the dtype that o and weights promote to.

    Raises
    ------
    ValueError
        If shapes do not fit or a target is not a class.
    TypeError
        If the targets are not integers or an argument is not real.

    Notes
    -----
    Equations 10.11 to 10.14 and 10.18 of Goodfellow et al., "Deep Learning": L = -Σ_t log ŷ_t[y_t], and its gradient
    ŷ_t - 1[y_t]. The greatest o is subtracted first, so that no o is too large. A class whose o is -inf has probability
    0. A step with an o of NaN or +inf, or of -inf for all classes, has the loss NaN, as in PyTorch.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> loss, do = pyrnn.softmax_cross_entropy(np.array([[0.0, 0.0]]), np.array([1]))
    >>> round(float(loss), 4), do
    (0.6931, array([[ 0.5, -0.5]]))
    """
    losses, do = cross_entropy_of_steps(o, targets, weights)
    return losses.sum(dtype=np.float64), do


def cross_entropy_of_steps(
    o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """What `softmax_cross_entropy` sums, by step, and its gradient."""
    o, weights = _checks.as_real_arrays("weights", o=o, weights=weights)
    _check_outputs(o, weights)
    targets = _class_targets(targets, o, weights)
    do = np.empty(o.shape, o.dtype)
    if o.size == 0:
        return np.zeros(o.shape[:-1]), do
    if weights is not None:
        o = np.where(weights[..., np.newaxis] != 0, o, 0)
    np.subtract(o, largest(o)[..., np.newaxis], out=do)
    rows, right = do.reshape(targets.size, -1), (np.arange(targets.size), targets.reshape(-1))
    chosen = rows[right].reshape(targets.shape)
    np.exp(do, out=do)
    total = do.sum(axis=-1)
    losses = np.log(total) - chosen
    do /= total[..., np.newaxis]
    rows[right] -= 1
    return _weighted(losses, do, weights)


def largest(o: np.ndarray) -> np.ndarray:
    """The maximum over the last axis, which is short: over the first, of a copy, it takes NumPy a tenth of the time."""
    maxima: np.ndarray = np.ascontiguousarray(np.moveaxis(o, -1, 0)).max(axis=0, initial=-np.inf)
    return maxima


@QUIET
@timed
def squared_error(o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> tuple[np.float64, np.ndarray]:
    """Squared distance between outputs and targets, summed over time, batch and outputs: no mean, no half.

    Parameters
    ----------
    o : array_like, shape (T, B, O) or (T, O)
    targets : array_like, shape of o
        Anything where the weight is 0.
    weights : array_like, shape (T, B) or (T,), optional
        As in `softmax_cross_entropy`.

    Returns
    -------
    loss : float
        Σ w |o - y|²; a float64 scalar, also for float32 inputs.
    do : ndarray, shape of o
        Its gradient with respect to o, 2 w (o - y).

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit or an argument is not real.

    Notes
    -----
    Equations 10.12 and 10.13 of Goodfellow et al., "Deep Learning", with L_t = |o_t - y_t|²: the negative
    log-likelihood of a normal distribution but for its constants.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> loss, do = pyrnn.squared_error(np.array([[3.0]]), np.array([[1.0]]))
    >>> float(loss), do
    (4.0, array([[4.]]))
    """
    losses, do = squared_error_of_steps(o, targets, weights)
    return losses.sum(dtype=np.float64), do


def squared_error_of_steps(
    o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """What `squared_error` sums, by step, and its gradient."""
    o, targets, weights = _checks.as_real_arrays("weights", o=o, targets=targets, weights=weights)
    _check_outputs(o, weights)
    _checks.check_shape("targets", targets, o.shape, "o", o)
    do = o - targets
    if weights is not None:
        do[weights == 0] = 0
    losses = np.square(do, dtype=np.float64).sum(axis=-1)
    do *= 2
    return _weighted(losses, do, weights)


def _weighted(losses: np.ndarray, do: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if weights is not None:
        do *= weights[..., np.newaxis]
        losses = losses * weights
    return losses, do


LOSSES = {"softmax_cross_entropy": softmax_cross_entropy, "squared_error": squared_error}
OF_STEPS = {"softmax_cross_entropy": cross_entropy_of_steps, "squared_error": squared_error_of_steps}


def check_loss(loss: object) -> None:
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(map(repr, LOSSES))}, got {loss!r}")


class Criterion(NamedTuple):
    """A loss with its targets and weights: a function of outputs."""

    loss: Loss
    targets: MaybeArray
    weights: MaybeArray

    def __call__(self, o: np.ndarray) -> tuple[np.float64, np.ndarray]:
        """The loss, and its gradient in the dtype of the outputs."""
        value, do = LOSSES[self.loss](o, self.targets, self.weights)
        return value, do.astype(o.dtype, copy=False)

    def of_steps(self, o: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The loss of each step, and its gradient in the dtype of the outputs."""
        losses, do = OF_STEPS[self.loss](o, self.targets, self.weights)
        return losses, do.astype(o.dtype, copy=False)

    def at(self, steps: Any) -> Criterion:
        """That of some steps, where targets and weights are arrays."""
        return self._replace(targets=self.targets[steps], weights=None if self.weights is None else self.weights[steps])

    def checked(self, shape: Shape, dtype: np.dtype) -> Criterion:
        """The criterion with arrays, after all that it checks of outputs of this shape and dtype."""
        targets, weights = _checked_targets(self.loss, shape, dtype, self.targets, self.weights)
        return self._replace(targets=targets, weights=weights)


def _checked_targets(
    loss: str, shape: Shape, dtype: np.dtype, targets: ArrayLike | None, weights: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """In parts of time, so that it takes no memory that grows with T."""
    o = np.broadcast_to(np.zeros((), dtype), shape)
    if targets is None and loss == "squared_error":
        raise TypeError("targets must be an array of numbers, got None")
    targets = _checks.as_array("targets", targets)
    weights = None if weights is None else _checks.as_array("weights", weights)
    dtypes = {"weights": None if weights is None else np.empty(0, weights.dtype)}
    if loss == "squared_error":
        _checks.as_real_arrays("weights", targets=np.empty(0, targets.dtype), **dtypes)
        _check_outputs(o, weights)
        _checks.check_shape("targets", targets, o.shape, "o", o)
        return targets, weights
    _checks.as_real_arrays("weights", **dtypes)
    _check_outputs(o, weights)
    _check_classes(targets, o)
    rows = max(1, PART // max(1, math.prod(shape[1:-1])))
    for first in range(0, len(o), rows):
        part = slice(first, first + rows)
        _class_targets(targets[part], o[part], None if weights is None else weights[part], first)
    return targets, weights


def _check_outputs(o: np.ndarray, weights: np.ndarray | None) -> None:
    _checks.check_sequence("o", "O", o)
    _checks.check_shape("weights", weights, o.shape[:-1], "o", o)


def _check_classes(targets: np.ndarray, o: np.ndarray) -> None:
    if targets.dtype.kind not in "iu" and targets.size:
        raise TypeError(f"targets must be integers, the classes, got dtype {targets.dtype}")
    _checks.check_shape("targets", targets, o.shape[:-1], "o", o)


def _class_targets(targets: ArrayLike, o: np.ndarray, weights: np.ndarray | None, first: int = 0) -> np.ndarray:
    """The targets as an array of valid indices; 0 where the weight is 0. They are those from step `first` on."""
    targets = _checks.as_array("targets", targets)
    _check_classes(targets, o)
    if weights is None and (targets.size == 0 or 0 <= targets.min() <= targets.max() < o.shape[-1]):
        return targets.astype(np.intp, copy=False)
    counted = True if weights is None else weights != 0
    wrong = counted & ((targets < 0) | (targets >= o.shape[-1]))
    if np.any(wrong):
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        step = (where[0] + first, *where[1:])
        raise ValueError(f"targets must be classes from 0 to {o.shape[-1] - 1}, got {targets[where]} at {step}")
    return np.where(counted, targets, 0).astype(np.intp)
