"""Gradients against central differences: what every student of the subject has to write once."""

import numpy as np

from pyrnn import _checks
from pyrnn._network import as_parameters
from pyrnn._results import GradientErrors, LossGradients
from pyrnn.functional import forward
from pyrnn.losses import LOSSES
from pyrnn.output import output
from pyrnn.parameters import Parameters
from pyrnn.training import loss_and_gradients


def check_gradients(
    params,
    x,
    targets,
    *,
    loss="softmax_cross_entropy",
    h0=None,
    weights=None,
    step=1e-5,
    max_entries=200,
    rng=0,
):
    """Compare the gradients of `loss_and_gradients` with central differences.

    Parameters
    ----------
    params, x, targets, loss, h0, weights
        As in `loss_and_gradients`. Everything is computed in float64, whatever comes in.
    step : float
        ε of (L(θ + ε) - L(θ - ε)) / 2ε. The error of the difference is of the order ε² L''' + 1e-16 L/ε, so that
        about 1e-5 is best.
    max_entries : int or None
        The most entries of each array that are varied, a random choice if there are more; None for all.
    rng : int, numpy.random.Generator or None
        For that choice.

    Returns
    -------
    errors : GradientErrors
        For each of U, W, b, V, c, x and h0 the worst error as a float: |gradient - difference| relative to the
        largest of either among the entries compared (0 where all are 0). None where the parameter is None. About
        1e-9 is right; 1e-2 is a mistake.

    Raises
    ------
    ValueError, TypeError
        As in `loss_and_gradients`, and if step or max_entries is not positive.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> params = pyrnn.initialize(2, 3, 2, rng=0)
    >>> x, targets = np.ones((5, 2)), np.array([0, 1, 0, 1, 0])
    >>> max(pyrnn.check_gradients(params, x, targets)) < 1e-7
    True
    """
    if not (_checks.is_finite_number(step) and step > 0):
        raise ValueError(f"step must be a positive number, got {step!r}")
    if max_entries is not None and not (
        isinstance(max_entries, int | np.integer) and not isinstance(max_entries, bool) and max_entries >= 1
    ):
        raise ValueError(f"max_entries must be a positive integer or None, got {max_entries!r}")
    rng = np.random.default_rng(rng)
    U, W, b, V, c = as_parameters(params)
    arrays = _checks.as_real_arrays("b", "V", "c", "h0", U=U, W=W, b=b, V=V, c=c, x=x, h0=h0)
    U, W, b, V, c, x, h0 = (None if a is None else a.astype(np.float64) for a in arrays)
    _, gradients = loss_and_gradients(Parameters(U, W, b, V, c), x, targets, loss=loss, h0=h0, weights=weights)
    h0 = np.zeros(gradients.h0.shape) if h0 is None else h0
    varied = LossGradients(U, W, b, V, c, x, h0)

    def value():
        h = forward(x, U, W, b, h0)
        return LOSSES[loss](h if V is None else output(h, V, c), targets, weights)[0]

    errors = []
    for array, gradient in zip(varied, gradients, strict=True):
        if array is None:
            errors.append(None)
            continue
        entries = np.arange(array.size)
        if max_entries is not None and array.size > max_entries:
            entries = rng.choice(array.size, max_entries, replace=False)
        difference = np.array([_central_difference(value, array, i, step) for i in entries])
        exact = gradient.ravel()[entries]
        scale = max(np.abs(exact).max(initial=0), np.abs(difference).max(initial=0))
        errors.append(float(np.abs(exact - difference).max(initial=0) / (scale or 1)))
    return GradientErrors(*errors)


def _central_difference(value, array, i, step):
    """The difference for entry i of the array, which is changed for the moment and put back."""
    at = np.unravel_index(i, array.shape)
    kept = array[at]
    array[at] = kept + step
    above, high = value(), array[at]
    array[at] = kept - step
    below, low = value(), array[at]
    array[at] = kept
    return (above - below) / (high - low)
