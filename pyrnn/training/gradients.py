"""The whole of section 10.2.2 in one call: forward, output layer, loss, and the gradients of everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyrnn import _checks, losses
from pyrnn import network as networks
from pyrnn._results import Gradients, LossGradients
from pyrnn.losses import Criterion
from pyrnn.network import Network
from pyrnn.profiling import timed
from pyrnn.readout import output_gradients
from pyrnn.training import checkpointing
from pyrnn.trajectory import Trajectory, simulate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import AnyNetwork, Loss


@timed
def loss_and_gradients(
    network: AnyNetwork,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    loss: Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    memory_limit: int | None = None,
    x_gradient: bool = True,
) -> tuple[np.float64, LossGradients]:
    """Loss of a network on sequences, and its gradients with respect to its arrays, input, initial state and alpha.

    Parameters
    ----------
    network : Network or RNN of one layer
        Without R. Without V the outputs are what V would read: the states, in the ``current`` form phi of them.
    x : array_like, shape (T, B, I) or (T, I)
    targets : array_like
        What the loss expects: classes (T, B) or (T,), or numbers (T, B, O) or (T, O).
    loss : {"softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson", "huber"}
    h0 : array_like, shape (B, H) or (H,), optional
        The state before ``x[0]``; None for zeros.
    weights : array_like, shape (T, B) or (T,), optional
        Multiplies the loss of each step; of the shape of the outputs that of each number. Where it is 0 the target is
        not read, but the input is: the step still moves the state, and a NaN in its x makes the gradients NaN.
        `lengths` or `mask` of `forward` and
        `backward`, or `lengths` of `RNN`, leave out steps that do not exist.
    memory_limit : int, optional
        How many bytes the call may use beside its arguments and what it returns; None for as many as are fastest.
        Where the states of all steps do not fit, some are kept and the others computed a second time, which takes a
        third more time or, if the limit is very low, several times as much. In the ``fused`` engine each number is the
        same to the last bit, but for the gradient of alpha: its sums begin anew in each piece, and the last bits
        differ. Arguments that must be converted are still copied as a whole.
    x_gradient : bool
        Whether to return the gradient with respect to x, which is as large as x.

    Returns
    -------
    loss : float
        Summed over time and batch.
    gradients : LossGradients
        Named tuple ``(U, W, b, V, c, x, h0, alpha)``; ``gradients.parameters`` is its first five as a `Network`. ``x``
        is None without `x_gradient`, ``alpha`` of a cell without a leak.

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
    losses.check_loss(loss)
    _checks.check_flag("x_gradient", x_gradient)
    limit = None if memory_limit is None else checkpointing.checked_limit(memory_limit)
    criterion = Criterion(loss, targets, weights)
    if limit is not None:
        made, x_, h0_ = networks.conform(network, "h0", x=x, h0=h0)
        criterion = criterion.checked(networks.check_input(made, x_, h0_), x_.dtype)
        schedule = checkpointing.schedule_for(made, x_, criterion, limit)
        if schedule is not None:
            return checkpointing.loss_and_gradients(schedule, made, x_, h0_, criterion, bool(x_gradient))
    run = simulate(network, x, h0)
    made = run.network
    value, do = criterion(run.read if made.V is None else run.output())
    top = through_output(made, do, run.read)
    return value, loss_gradients(made, back_from_read(run, top.read, x_gradient=bool(x_gradient)), top)


# ---- The way back through an output layer, where there is one -------------------------------------------------------
class TopGradients(NamedTuple):
    """Gradients of a loss with respect to what an output layer reads, and to the layer; None where there is none."""

    read: np.ndarray
    V: np.ndarray | None
    c: np.ndarray | None


def through_output(network: Network, do: np.ndarray, read: np.ndarray) -> TopGradients:
    """Those of a loss from the gradient of its outputs."""
    return TopGradients(do, None, None) if network.V is None else TopGradients(*output_gradients(do, read, network.V))


def back_from_read(
    run: Trajectory, dr: np.ndarray, dh: np.ndarray | None = None, *, x_gradient: bool = True
) -> Gradients:
    """Gradients from dr, which arrives at what an output layer reads, and dh, which arrives at the states."""
    if run.network.cell.current:
        return run.backward(dh, dr, x_gradient=x_gradient)
    return run.backward(dr if dh is None else dr + dh, x_gradient=x_gradient)


def loss_gradients(network: Network, below: Gradients, top: TopGradients) -> LossGradients:
    """Both in one, None where the network has no such array."""
    db, dc = None if network.b is None else below.b, None if network.c is None else top.c
    return LossGradients(below.U, below.W, db, top.V, dc, below.x, below.h0, below.alpha)


def each_array(function: Callable[[np.ndarray], np.ndarray], network: Network) -> Network:
    """The network with what the function makes of each of its arrays."""
    U, W, b, V, c, R = _checks.map_given(function, *network[:6])
    return Network(U, W, b, V, c, R, network.cell)
