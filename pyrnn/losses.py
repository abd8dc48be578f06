"""Losses over a sequence, each with its gradient with respect to the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrnn import _checks
from pyrnn._core import losses as compiled
from pyrnn._core import memory
from pyrnn.profiling import timed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import Loss, MaybeArray, OfSteps, Shape

PART = 1 << 16  # targets that are checked at once where memory is scarce

# NaN and inf pass through without a warning, as they do in the compiled functions.
QUIET = np.errstate(over="ignore", divide="ignore", invalid="ignore")


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
    targets = _checks.as_array("targets", targets)
    _check_classes(targets, o)
    losses, do = _results(o)
    if o.size == 0:
        _check_range_of_classes(targets, o, weights)
        return losses, do
    classes = targets.astype(np.intp, order="C", copy=not targets.flags.aligned)
    if compiled.of_classes(_contiguous(o), classes, _contiguous(weights), losses, do) >= 0:
        _check_range_of_classes(targets, o, weights)  # raises the error
    return losses, do


def largest(o: np.ndarray) -> np.ndarray:
    """The maximum over the last axis, which is short: over the first, of a copy, it takes NumPy a tenth of the time."""
    maxima: np.ndarray = np.ascontiguousarray(np.moveaxis(o, -1, 0)).max(axis=0, initial=-np.inf)
    return maxima


@timed
def squared_error(o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> tuple[np.float64, np.ndarray]:
    """Squared distance between outputs and targets, summed over time, batch and outputs: no mean, no half.

    Parameters
    ----------
    o : array_like, shape (T, B, O) or (T, O)
    targets : array_like, shape of o
        Anything where the weight is 0.
    weights : array_like, shape (T, B) or (T,), or shape of o, optional
        As in `softmax_cross_entropy`: of each step, or of each output.

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
    return _of_numbers("squared_error", o, targets, weights)


@timed
def huber(
    o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, *, delta: float = 1.0
) -> tuple[np.float64, np.ndarray]:
    """Huber's loss, summed over time, batch and outputs: half the square of small errors, the size of large ones.

    Parameters
    ----------
    o : array_like, shape (T, B, O) or (T, O)
    targets : array_like, shape of o
        Anything where the weight is 0.
    weights : array_like, shape (T, B) or (T,), or shape of o, optional
        As in `squared_error`.
    delta : float
        The error up to which the loss is quadratic. As ``loss="huber"`` it is 1; for another one give
        ``functools.partial(huber, delta=2.0)`` to `fit`.

    Returns
    -------
    loss : float
        With e = o - y: Σ w e²/2 where abs(e) ≤ delta, and Σ w delta (abs(e) - delta/2) elsewhere. A float64 scalar.
    do : ndarray, shape of o
        Its gradient with respect to o, w e cut off at ±delta.

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit, an argument is not real, or delta is not a positive number.

    See Also
    --------
    pyrnn.squared_error : outliers count more.

    Notes
    -----
    ``torch.nn.HuberLoss(reduction="sum")``, after [1]_.

    References
    ----------
    .. [1] P. J. Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35 (1964) 73-101.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> loss, do = pyrnn.training.huber(np.array([[0.5, 3.0]]), np.zeros((1, 2)))
    >>> float(loss), do
    (2.625, array([[0.5, 1. ]]))
    """
    losses, do = huber_of_steps(o, targets, weights, delta)
    return losses.sum(dtype=np.float64), do


def huber_of_steps(
    o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None, delta: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """What `huber` sums, by step, and its gradient."""
    if isinstance(delta, bool) or not _checks.is_finite_number(delta) or delta <= 0:
        raise ValueError(f"delta must be a positive number, got {delta!r}")
    return _of_numbers("huber", o, targets, weights, float(delta))


@timed
def binary_cross_entropy(
    o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None
) -> tuple[np.float64, np.ndarray]:
    """Negative log-likelihood of yes or no for each output by itself, summed over time, batch and outputs.

    Parameters
    ----------
    o : array_like, shape (T, B, O) or (T, O)
        Log odds: the probability of 1 is 1 / (1 + exp(-o)).
    targets : array_like, shape of o
        Numbers from 0 to 1, the probability that is wanted. Anything where the weight is 0.
    weights : array_like, shape (T, B) or (T,), or shape of o, optional
        As in `squared_error`.

    Returns
    -------
    loss : float
        Σ w (log(1 + exp(o)) - y o); a float64 scalar, also for float32 inputs.
    do : ndarray, shape of o
        Its gradient with respect to o, w (1 / (1 + exp(-o)) - y).

    Raises
    ------
    ValueError
        If shapes do not fit or a target is below 0 or above 1.
    TypeError
        If an argument is not real.

    See Also
    --------
    pyrnn.softmax_cross_entropy : one class of several.

    Notes
    -----
    ``torch.nn.BCEWithLogitsLoss(reduction="sum")``; section 6.2.2.2 of Goodfellow et al., "Deep Learning". The
    exponential is that of -abs(o), so that no o is too large. Infinite outputs make the loss infinite or NaN.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> loss, do = pyrnn.training.binary_cross_entropy(np.array([[0.0, 100.0]]), np.array([[1.0, 1.0]]))
    >>> round(float(loss), 4), do
    (0.6931, array([[-0.5,  0. ]]))
    """
    losses, do = binary_cross_entropy_of_steps(o, targets, weights)
    return losses.sum(dtype=np.float64), do


def binary_cross_entropy_of_steps(
    o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """What `binary_cross_entropy` sums, by step, and its gradient."""
    return _of_numbers("binary_cross_entropy", o, targets, weights)


@timed
def poisson(o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> tuple[np.float64, np.ndarray]:
    """Negative log-likelihood of counts whose log rates are the outputs, without its constant, summed.

    Parameters
    ----------
    o : array_like, shape (T, B, O) or (T, O)
        Logarithms of the expected counts.
    targets : array_like, shape of o
        Counts, not negative. Anything where the weight is 0.
    weights : array_like, shape (T, B) or (T,), or shape of o, optional
        As in `squared_error`.

    Returns
    -------
    loss : float
        Σ w (exp(o) - y o), which may be negative: log y! is left out. A float64 scalar, also for float32 inputs.
    do : ndarray, shape of o
        Its gradient with respect to o, w (exp(o) - y).

    Raises
    ------
    ValueError
        If shapes do not fit or a target is negative.
    TypeError
        If an argument is not real.

    Notes
    -----
    ``torch.nn.PoissonNLLLoss(log_input=True, full=False, reduction="sum")``. Counts of spikes are such targets.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> loss, do = pyrnn.training.poisson(np.array([[0.0, np.log(3)]]), np.array([[0.0, 3.0]]))
    >>> round(float(loss), 4), do.round(12)
    (0.7042, array([[1., 0.]]))
    """
    losses, do = poisson_of_steps(o, targets, weights)
    return losses.sum(dtype=np.float64), do


def poisson_of_steps(o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """What `poisson` sums, by step, and its gradient."""
    return _of_numbers("poisson", o, targets, weights)


# ---- What losses of numbers share -----------------------------------------------------------------------------------
def _of_numbers(
    loss: str, o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None, delta: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of each step, and its gradient."""
    outputs, numbers, factors = _checks.as_real_arrays("weights", o=o, targets=targets, weights=weights)
    _check_outputs(outputs, factors, by_output=True)
    _checks.check_shape("targets", numbers, outputs.shape, "o", outputs)
    losses, do = _results(outputs)
    o, targets, weights = map(_contiguous, (outputs, numbers, factors))
    if not compiled.of_numbers(loss, o, targets, weights, losses, do, delta):
        _check_range(numbers, factors, loss)  # raises the error
    return losses, do


def _results(o: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arrays for the losses of the steps, and for their gradient."""
    return np.zeros(o.shape[:-1]), memory.empty(o.shape, o.dtype)


def _contiguous(a: MaybeArray) -> MaybeArray:
    return None if a is None else np.ascontiguousarray(a)


RANGES = {"binary_cross_entropy": (0.0, 1.0), "poisson": (0.0, math.inf)}


def _check_range(targets: np.ndarray, weights: np.ndarray | None, loss: str, first: int = 0) -> None:
    """Raise unless targets lie within the range of the loss, where the weight is not 0. They are those from `first`."""
    if loss not in RANGES:
        return
    low, high = RANGES[loss]
    wrong = (targets < low) | (targets > high)
    if not wrong.any():
        return
    if weights is not None:
        wrong[weights == 0] = False
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        expected = f"from {low:g} to {high:g}" if math.isfinite(high) else "not negative"
        raise ValueError(
            f"targets must be {expected} for {loss}, got {targets[where]} at {(where[0] + first, *where[1:])}"
        )


# ---- By name --------------------------------------------------------------------------------------------------------
LOSSES: dict[str, Callable[..., tuple[np.float64, np.ndarray]]] = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "squared_error": squared_error,
    "binary_cross_entropy": binary_cross_entropy,
    "poisson": poisson,
    "huber": huber,
}
OF_STEPS: dict[str, OfSteps] = {
    "softmax_cross_entropy": cross_entropy_of_steps,
    "squared_error": squared_error_of_steps,
    "binary_cross_entropy": binary_cross_entropy_of_steps,
    "poisson": poisson_of_steps,
    "huber": huber_of_steps,
}


def check_loss(loss: object, known: Collection[str] = LOSSES) -> None:
    if not isinstance(loss, str) or loss not in known:
        raise ValueError(f"loss must be one of {', '.join(map(repr, known))}, got {loss!r}")


# How many arrays like the outputs, of the wider dtype, a loss takes beside its result: copies that it can read.
TEMPORARY = {"softmax_cross_entropy": 1, "squared_error": 2, "binary_cross_entropy": 2, "poisson": 2, "huber": 2}


def of_classes(loss: str) -> bool:
    """Whether the targets are classes, one for each step; else they are numbers, one for each output."""
    return loss == "softmax_cross_entropy"


def _sigmoid(o: np.ndarray, small: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-o)), from small = exp(-|o|)."""
    result: np.ndarray = np.where(o >= 0, 1, small) / (1 + small)
    return result.astype(o.dtype, copy=False)


@QUIET
def slopes_of_gradient(loss: str, o: np.ndarray, targets: np.ndarray) -> MaybeArray | float:
    """The second derivative of a loss of numbers with respect to each output, without weights."""
    if loss == "squared_error":
        return 2.0
    if loss == "huber":
        slopes = (np.abs(o - targets) <= 1).astype(o.dtype)
    elif loss == "poisson":
        slopes = np.exp(o)
    else:
        p = _sigmoid(o, np.exp(-np.abs(o)))
        slopes = p * (1 - p)
    return slopes


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
    if targets is None and not of_classes(loss):
        raise TypeError("targets must be an array of numbers, got None")
    targets = _checks.as_array("targets", targets)
    weights = None if weights is None else _checks.as_array("weights", weights)
    dtypes = {"weights": None if weights is None else np.empty(0, weights.dtype)}
    if of_classes(loss):
        _checks.as_real_arrays("weights", **dtypes)
        _check_outputs(o, weights)
        _check_classes(targets, o)
    else:
        _checks.as_real_arrays("weights", targets=np.empty(0, targets.dtype), **dtypes)
        _check_outputs(o, weights, by_output=True)
        _checks.check_shape("targets", targets, o.shape, "o", o)
    rows = max(1, PART // max(1, math.prod(targets.shape[1:])))
    for first in range(0, len(o), rows):
        part = slice(first, first + rows)
        its = None if weights is None else weights[part]
        if of_classes(loss):
            _check_range_of_classes(targets[part], o[part], its, first)
        else:
            _check_range(targets[part], its, loss, first)
    return targets, weights


def _check_outputs(o: np.ndarray, weights: np.ndarray | None, by_output: bool = False) -> None:
    """Check shapes. by_output: whether each output may have a weight of its own."""
    _checks.check_sequence("o", "O", o)
    if weights is not None and not (by_output and weights.shape == o.shape):
        expected = f"{o.shape[:-1]} or {o.shape}" if by_output else o.shape[:-1]
        if weights.shape != o.shape[:-1]:
            _checks.shape_error("weights", expected, weights, "o", o)


def _check_classes(targets: np.ndarray, o: np.ndarray) -> None:
    if targets.dtype.kind not in "iu" and targets.size:
        raise TypeError(f"targets must be integers, the classes, got dtype {targets.dtype}")
    _checks.check_shape("targets", targets, o.shape[:-1], "o", o)


def _check_range_of_classes(targets: np.ndarray, o: np.ndarray, weights: np.ndarray | None, first: int = 0) -> None:
    """Raise unless targets are classes where the weight is not 0. They are those from step `first` on."""
    if targets.size == 0 or 0 <= targets.min() <= targets.max() < o.shape[-1]:
        return
    wrong = (targets < 0) | (targets >= o.shape[-1])
    if weights is not None:
        wrong &= weights != 0
    if np.any(wrong):
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        step = (where[0] + first, *where[1:])
        raise ValueError(f"targets must be classes from 0 to {o.shape[-1] - 1}, got {targets[where]} at {step}")
