"""The whole of section 10.2.2 in one call: forward, output layer, loss, and the gradients of everything."""

from pyrnn import _checks
from pyrnn._results import LossGradients
from pyrnn.functional import backward, forward
from pyrnn.losses import softmax_cross_entropy, squared_error
from pyrnn.output import output, output_gradients
from pyrnn.parameters import Parameters
from pyrnn.profiling import timed

LOSSES = {"softmax_cross_entropy": softmax_cross_entropy, "squared_error": squared_error}


@timed
def loss_and_gradients(params, x, targets, *, loss="softmax_cross_entropy", h0=None, weights=None):
    """Loss of a network on sequences, and its gradients with respect to parameters, input and initial state.

    Parameters
    ----------
    params : Parameters
        Or any ``(U, W, b, V, c)``. Without V the states themselves are the outputs.
    x : array_like, shape (T, B, I) or (T, I)
    targets : array_like
        What the loss expects: classes (T, B) or (T,), or numbers (T, B, O) or (T, O).
    loss : {"softmax_cross_entropy", "squared_error"}
    h0 : array_like, shape (B, H) or (H,), optional
        The state before ``x[0]``; None for zeros.
    weights : array_like, shape (T, B) or (T,), optional
        Multiplies the loss of each step; 0 masks a step.

    Returns
    -------
    loss : float
        Summed over time and batch.
    gradients : LossGradients
        Named tuple ``(U, W, b, V, c, x, h0)``; ``gradients.parameters`` is its first five as a `Parameters`.

    Raises
    ------
    ValueError, TypeError
        As in `forward`, `output` and the losses.

    Notes
    -----
    Equations 10.8 to 10.28 of Goodfellow et al., "Deep Learning", section 10.2.2; docs/equations.md says which is
    where.

    Examples
    --------
    An objective for SciPy:

    >>> import numpy as np, pyrnn
    >>> from scipy.optimize import minimize
    >>> start = pyrnn.initialize(1, 4, 1, rng=0)
    >>> x = np.sin(np.arange(40.0))[:, None]
    >>> def objective(vector):
    ...     loss, gradients = pyrnn.loss_and_gradients(start.unravel(vector), x[:-1], x[1:], loss="squared_error")
    ...     return loss, gradients.parameters.ravel()
    >>> bool(minimize(objective, start.ravel(), jac=True, method="L-BFGS-B").fun < 0.5)
    True
    """
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(map(repr, LOSSES))}, got {loss!r}")
    U, W, b, V, c = as_parameters(params)
    if V is None and c is not None:
        raise ValueError("params must have V where it has c, got V None")
    x, U, W, b, V, c, h0 = _checks.as_real_arrays("b", "V", "c", "h0", x=x, U=U, W=W, b=b, V=V, c=c, h0=h0)
    h = forward(x, U, W, b, h0)
    if V is None:
        value, dh = LOSSES[loss](h, targets, weights)
        dV = dc = None
    else:
        value, do = LOSSES[loss](output(h, V, c), targets, weights)
        dh, dV, dc = output_gradients(do.astype(h.dtype, copy=False), h, V)
    below = backward(dh.astype(h.dtype, copy=False), h, x, U, W, h0)
    return value, LossGradients(
        U=below.U,
        W=below.W,
        b=None if b is None else below.b,
        V=dV,
        c=None if c is None else dc,
        x=below.x,
        h0=below.h0,
    )


def as_parameters(params):
    """Any five arrays or None as a `Parameters`."""
    try:
        return Parameters(*params)
    except TypeError:
        count = f"{len(params)} values" if hasattr(params, "__len__") else repr(params)
        raise TypeError(f"params must be a Parameters or a tuple (U, W, b, V, c), got {count}") from None
