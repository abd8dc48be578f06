"""Losses over a sequence, each with its gradient with respect to the outputs."""

import numpy as np

from pyrnn import _checks
from pyrnn.profiling import timed

# NaN and inf pass through without a warning, as they do in the compiled functions.
QUIET = np.errstate(over="ignore", divide="ignore", invalid="ignore")


@QUIET
@timed
def softmax_cross_entropy(o, targets, weights=None):
    """Negative log-likelihood of the target classes under softmax(o), summed over time and batch.

    Parameters
    ----------
    o : array_like, shape (T, B, O) or (T, O)
        Unnormalised log probabilities of the O classes.
    targets : array_like of int, shape (T, B) or (T,)
        The class y_t of each step, 0 to O - 1; anything where the weight is 0.
    weights : array_like, shape (T, B) or (T,), optional
        Multiplies the loss of each step. Where it is 0 the step does not exist: its target is not looked at, and a
        NaN in its o does not spread. 1/(T B) everywhere makes the sum a mean.

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
    ŷ_t - 1[y_t]. The greatest o is subtracted first, so that no o is too large.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> loss, do = pyrnn.softmax_cross_entropy(np.array([[0.0, 0.0]]), np.array([1]))
    >>> round(float(loss), 4), do
    (0.6931, array([[ 0.5, -0.5]]))
    """
    o, weights = _checks.as_real_arrays("weights", o=o, weights=weights)
    _check_outputs(o, weights)
    targets = _class_targets(targets, o, weights)
    do = np.empty_like(o)
    if o.size == 0:
        return np.float64(0.0), do
    if weights is not None:
        o = np.where(weights[..., np.newaxis] != 0, o, 0)
    np.subtract(o, o.max(axis=-1, keepdims=True), out=do)
    chosen = np.take_along_axis(do, targets[..., np.newaxis], axis=-1)[..., 0]
    np.exp(do, out=do)
    total = do.sum(axis=-1)
    losses = np.log(total) - chosen
    do /= total[..., np.newaxis]
    np.put_along_axis(
        do, targets[..., np.newaxis], np.take_along_axis(do, targets[..., np.newaxis], axis=-1) - 1, axis=-1
    )
    return _weighted(losses, do, weights)


@QUIET
@timed
def squared_error(o, targets, weights=None):
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
    o, targets, weights = _checks.as_real_arrays("weights", o=o, targets=targets, weights=weights)
    _check_outputs(o, weights)
    _checks.check_shape("targets", targets, o.shape, "o", o)
    do = o - targets
    if weights is not None:
        do[weights == 0] = 0
    losses = np.square(do, dtype=np.float64).sum(axis=-1)
    do *= 2
    return _weighted(losses, do, weights)


def _weighted(losses, do, weights):
    if weights is not None:
        do *= weights[..., np.newaxis]
        losses = losses * weights
    return losses.sum(dtype=np.float64), do


def _check_outputs(o, weights):
    _checks.check_sequence("o", "O", o)
    _checks.check_shape("weights", weights, o.shape[:-1], "o", o)


def _class_targets(targets, o, weights):
    """The targets as an array of valid indices; 0 where the weight is 0."""
    targets = _checks.as_array("targets", targets)
    if targets.dtype.kind not in "iu" and targets.size:
        raise TypeError(f"targets must be integers, the classes, got dtype {targets.dtype}")
    _checks.check_shape("targets", targets, o.shape[:-1], "o", o)
    counted = True if weights is None else weights != 0
    wrong = counted & ((targets < 0) | (targets >= o.shape[-1]))
    if np.any(wrong):
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"targets must be classes from 0 to {o.shape[-1] - 1}, got {targets[where]} at {where}")
    return np.where(counted, targets, 0).astype(np.intp)
