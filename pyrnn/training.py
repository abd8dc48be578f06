"""The whole of section 10.2.2 in one call: forward, output layer, loss, and the gradients of everything."""

import numpy as np

from pyrnn import _checks, checkpointing
from pyrnn._network import as_parameters, check_network
from pyrnn._results import LossGradients
from pyrnn.functional import backward, forward
from pyrnn.losses import LOSSES, check_loss
from pyrnn.output import output, output_gradients
from pyrnn.profiling import timed


@timed
def loss_and_gradients(
    params,
    x,
    targets,
    *,
    loss="softmax_cross_entropy",
    h0=None,
    weights=None,
    memory_limit=None,
    x_gradient=True,
):
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
        Multiplies the loss of each step. Where it is 0 the target is not read, but the input is: the step still moves
        the state, and a NaN in its x makes the gradients NaN. `lengths` or `mask` of `forward` and
        `backward`, or `lengths` of `RNN`, leave out steps that do not exist.
    memory_limit : int, optional
        How many bytes the call may use beside its arguments and what it returns; None for as many as are fastest.
        Where the states of all steps do not fit, some are kept and the others computed a second time, which takes a
        third more time or, if the limit is very low, several times as much. Each number is the same to the last bit in
        the ``fused`` engine. Arguments that must be converted are still copied as a whole.
    x_gradient : bool
        Whether to return the gradient with respect to x, which is as large as x.

    Returns
    -------
    loss : float
        Summed over time and batch.
    gradients : LossGradients
        Named tuple ``(U, W, b, V, c, x, h0)``; ``gradients.parameters`` is its first five as a `Parameters`. ``x`` is
        None without `x_gradient`.

    Raises
    ------
    ValueError, TypeError
        As in `forward`, `output` and the losses, and if memory_limit is too low: the message says what it must be.

    See Also
    --------
    truncated_gradients : an approximation whose time and memory do not grow faster than T.

    Notes
    -----
    Equations 10.8 to 10.28 of Goodfellow et al., "Deep Learning", section 10.2.2; docs/equations.md says which is
    where. With `memory_limit` gradients are those of checkpointing [1]_ [2]_; docs/long-sequences.md has the schedule.

    References
    ----------
    .. [1] A. Griewank, "Achieving logarithmic growth of temporal and spatial complexity in reverse automatic
       differentiation", Optimization Methods and Software 1 (1992) 35-54.
    .. [2] T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training deep nets with sublinear memory cost",
       arXiv:1604.06174 (2016).

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
    check_loss(loss)
    if not isinstance(x_gradient, bool | np.bool_):
        raise TypeError(f"x_gradient must be True or False, got {x_gradient!r}")
    limit = None if memory_limit is None else checkpointing.checked_limit(memory_limit)
    U, W, b, V, c = as_parameters(params)
    if V is None and c is not None:
        raise ValueError("params must have V where it has c, got V None")
    x, U, W, b, V, c, h0 = _checks.as_real_arrays("b", "V", "c", "h0", x=x, U=U, W=W, b=b, V=V, c=c, h0=h0)
    if limit is not None:
        targets, weights = check_network(x, U, W, b, V, c, h0, targets, loss, weights)
        schedule = checkpointing.schedule_for(x, U, V, targets, weights, limit)
        if schedule is not None:
            return checkpointing.loss_and_gradients(
                schedule, x, U, W, b, V, c, h0, targets, loss, weights, bool(x_gradient)
            )
    h = forward(x, U, W, b, h0)
    if V is None:
        value, dh = LOSSES[loss](h, targets, weights)
        dV = dc = None
    else:
        value, do = LOSSES[loss](output(h, V, c), targets, weights)
        dh, dV, dc = output_gradients(do.astype(h.dtype, copy=False), h, V)
    below = backward(dh.astype(h.dtype, copy=False), h, x, U, W, h0, x_gradient=x_gradient)
    return value, LossGradients(
        U=below.U,
        W=below.W,
        b=None if b is None else below.b,
        V=dV,
        c=None if c is None else dc,
        x=below.x,
        h0=below.h0,
    )
