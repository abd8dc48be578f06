"""How gradients grow and shrink on their way back through time, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrnn import _calls, _checks
from pyrnn import network as networks
from pyrnn._core import chains as compiled
from pyrnn.dynamics import slopes
from pyrnn.dynamics.singular_values import log_singular_values
from pyrnn.layers.rnn import RNN
from pyrnn.losses import LOSSES, QUIET, check_loss
from pyrnn.network import Network
from pyrnn.readout import output, output_gradients
from pyrnn.trajectory import Trajectory, simulate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import Loss, MaybeArray, Norm, Seed
    from pyrnn.dynamics.slopes import Steps

NORMS = ("spectral", "frobenius")


class GradientFlow(NamedTuple):
    """Logarithms of norms over time, float64; rows are layers, of a bidirectional network each layer's two directions.

    Results of `gradient_flow`.
    """

    log_gradient_norms: np.ndarray | None  # [layers, T, B]: of the gradient of the loss at h_t, through all later steps
    log_jacobian_norms: np.ndarray  # [layers, T, B]: of ∂h_last/∂h_t
    norm: Norm  # which one the second is


class _Stack(NamedTuple):
    """The layers of a network, each a list of its directions, and what reads what the top one sends up."""

    layers: list[list[Network]]
    V: np.ndarray | None
    c: np.ndarray | None
    batch_first: bool = False
    stacked: bool = False  # whether h0 has an axis of layers and directions
    h0: np.ndarray | None = None  # of an RNN that has trained it: (layers, H), for all sequences


def gradient_flow(
    network: Network | RNN,
    x: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    loss: Loss = "softmax_cross_entropy",
    dh: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    norm: Norm = "frobenius",
    vectors: int | None = None,
    rng: Seed = 0,
) -> GradientFlow:
    """Norms of the gradients at all states, and of ∂h_last/∂h_t over all lags, in logarithms.

    Parameters
    ----------
    network : Network or RNN
        Without R. Of an RNN, with any number of layers and directions: its layers without dropout; nothing that it
        keeps is changed.
    x : array_like, shape (T, B, I) or (T, I)
        Input, time first; batch first where the RNN is.
    targets : array_like, optional
        As in `loss_and_gradients`: for the loss on the network's output, or on its top states without an output layer.
    loss : {"softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson", "huber"}
        The loss of `targets`.
    dh : array_like, shape (T, B, D H) or (T, D H), optional
        Instead of targets: what a loss sends directly into what the top layer sends up, laid out as x. Without either
        there are no gradients, only Jacobians.
    h0 : array_like, optional
        The state before the first step, as the network takes it. None for zeros, or for what an RNN has trained.
    weights : array_like, optional
        Of the loss at each step, as in `loss_and_gradients`.
    norm : {"frobenius", "spectral"}
        Of ∂h_last/∂h_t. The spectral norm comes from `log_singular_values` and takes a hundred times as long.
    vectors : int, optional
        Estimate the Frobenius norm from so many random vectors instead of all H of the identity: the mean over vectors
        of ||gᵀ J||², with normal g, is an unbiased estimate of the norm's square, and each costs H² a step.
    rng : int, numpy.random.Generator or None
        Draws them.

    Returns
    -------
    GradientFlow
        Named tuple ``(log_gradient_norms, log_jacobian_norms, norm)``: float64 arrays of shape (layers, T, B), or
        (layers, T) where x has no batch axis. ``log_gradient_norms[l, t]`` is the log of ||∇_{h_t} L||, through all
        later steps and layers; None without a loss. ``log_jacobian_norms[l, t]`` is that of the norm of ∂h_last/∂h_t,
        where last is the layer's last step: T - 1, or 0 in the backward direction.

    Raises
    ------
    ValueError, TypeError
        If arguments do not fit, or both targets and dh are given.

    See Also
    --------
    pyrnn.plots.plot_gradient_flow : draws it.
    jacobian_product, log_singular_values : more of one layer.
    pyrnn.training.vanishing_regularizer : asks for gradients that keep their lengths.

    Notes
    -----
    Vanishing and exploding gradients, sections 8.2.5 and 10.7 of [1]_. Vectors have exponents of their own and slopes
    are taken at the pre-activations, so that norms far below what a float holds are right, and saturated units too. At
    each step of each layer (10.21)::

        grad_h_t = dh_t + J_{t+1}ᵀ grad_h_{t+1}

    with dh_t from the loss or from the layer above. Those from a layer above are computed in the dtype of the network
    without exponents, and may underflow to 0.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016.

    Examples
    --------
    A small network forgets, at about the same rate from step to step:

    >>> import numpy as np, pyrnn
    >>> network = pyrnn.initialize(2, 16, gain=0.5, rng=0)
    >>> x = 0.1 * np.random.default_rng(0).standard_normal((2000, 2))
    >>> dh = np.zeros((2000, 16))
    >>> dh[-1] = 1.0  # a loss at the last step
    >>> flow = pyrnn.dynamics.gradient_flow(network, x, dh=dh)
    >>> flow.log_gradient_norms[0, [-1, -2, 0]].round(1).tolist()
    [1.4, 0.7, -1396.4]
    """
    _check_choices(targets, loss, dh, norm, vectors)
    stack = _stack(network)
    x_, h0_, dh_, batched = _inputs(stack, x, h0, dh)
    layers = _forward(stack, x_, h0_)
    if targets is not None:
        dh_ = _from_loss(stack, layers[-1], targets, loss, weights, batched)
    generator = np.random.default_rng(rng)
    chains = [[slopes.prepare(run, preactivations=True) for run in layer] for layer in layers]
    flat = [pair for layer, steps in zip(layers, chains, strict=True) for pair in zip(layer, steps, strict=True)]
    jacobians = np.stack([_jacobian_norms(run, steps, norm, vectors, generator) for run, steps in flat])
    gradients = None if dh_ is None else np.stack(_gradient_norms(layers, chains, dh_))
    if not batched:
        jacobians, gradients = jacobians[..., 0], None if gradients is None else gradients[..., 0]
    return GradientFlow(gradients, jacobians, norm)


def _check_choices(targets: ArrayLike | None, loss: str, dh: ArrayLike | None, norm: str, vectors: int | None) -> None:
    if targets is not None and dh is not None:
        raise ValueError("targets and dh must not be given together")
    check_loss(loss)
    if not isinstance(norm, str) or norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}")
    if vectors is not None:
        _checks.positive_integer("vectors", vectors)
        if norm == "spectral":
            raise ValueError(f"vectors must be None with norm 'spectral', got {vectors!r}")


# ---- The network ----------------------------------------------------------------------------------------------------
def _stack(network: Network | RNN) -> _Stack:
    """What the rest of this module knows of a network."""
    if not isinstance(network, RNN):
        network = networks.as_network(network)
        return _Stack([[network]], network.V, network.c)
    ways = range(1 + network.bidirectional)
    layers = [[network.network(layer, way) for way in ways] for layer in range(network.num_layers)]
    V = None if network.output_size is None else layers[-1][0].V
    if V is None and network.output_size is not None:  # it reads two directions
        V = network.effective_weights()["weight_out"]
    c = network.bias_out if V is not None and network.bias else None
    return _Stack(layers, V, c, network.batch_first, True, network.h0 if network.train_h0 else None)


def _inputs(
    stack: _Stack, x: ArrayLike, h0: ArrayLike | None, dh: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, bool]:
    """x, h0 [layers, B, H] or None and dh, time first and with a batch axis; and whether x had one."""
    bottom = stack.layers[0]
    U = bottom[0].U
    x_, h0_, dh_, _ = _checks.as_real_arrays("h0", "dh", x=x, h0=h0, dh=dh, U=U)
    _checks.check_sequence("x", "I", x_)
    _checks.check_columns("U", "H", U, x_.shape[-1], "x", x_)
    H, batched, turn = len(U), x_.ndim == 3, stack.batch_first and x_.ndim == 3
    _checks.check_shape("dh", dh_, (*x_.shape[:-1], len(bottom) * H), "x", x_)
    batch = x_.shape[:1] if turn else x_.shape[1:-1]
    rows = (len(stack.layers) * len(bottom),) if stack.stacked else ()
    _checks.check_shape("h0", h0_, (*rows, *batch, H), "x", x_)
    h0_ = h0_ if h0_ is None or stack.stacked else h0_[np.newaxis]
    if not batched:
        x_, h0_, dh_ = _checks.map_given(lambda a: a[:, np.newaxis], x_, h0_, dh_)
    elif turn:
        x_, dh_ = _checks.map_given(lambda a: a.swapaxes(0, 1), x_, dh_)
    if h0_ is None and stack.h0 is not None:
        h0_ = np.repeat(stack.h0[:, np.newaxis].astype(x_.dtype), x_.shape[1], axis=1)
    return x_, h0_, dh_, batched


@QUIET
def _forward(stack: _Stack, x: np.ndarray, h0: np.ndarray | None) -> list[list[Trajectory]]:
    """All layers, each a list of directions."""
    layers: list[list[Trajectory]] = []
    first = iter(() if h0 is None else h0)
    for layer in stack.layers:
        layers.append([simulate(net, x, next(first, None), reverse=way == 1) for way, net in enumerate(layer)])
        x = _sent(layers[-1])
    return layers


def _sent(layer: list[Trajectory]) -> np.ndarray:
    """What a layer sends up, [T, B, D H]."""
    return np.concatenate([run.read for run in layer], axis=-1)


def _from_loss(
    stack: _Stack,
    top: list[Trajectory],
    targets: ArrayLike,
    loss: Loss,
    weights: ArrayLike | None,
    batched: bool,
) -> np.ndarray:
    """What the loss sends into what the top layer sends up."""
    h, V = _sent(top), stack.V
    o = h if V is None else output(h, V, stack.c)
    laid_out: Callable[[np.ndarray], np.ndarray] = lambda a: (
        a[:, 0] if not batched else a.swapaxes(0, 1) if stack.batch_first else a
    )
    do = LOSSES[loss](laid_out(o), targets, weights)[1]
    do = do[:, np.newaxis] if not batched else laid_out(do)
    return do if V is None else output_gradients(do, h, V).h


# ---- Norms ----------------------------------------------------------------------------------------------------------
@QUIET
def _jacobian_norms(
    run: Trajectory, steps: Steps, norm: Norm, vectors: int | None, rng: np.random.Generator
) -> np.ndarray:
    """Logs of the norms of ∂h_last/∂h_t, [T, B]."""
    T, B, H = run.h.shape
    if norm == "spectral":
        lags = log_singular_values(run, min(1, T), preactivations=True)[:T]
        logs = lags[::-1].max(axis=-1, initial=-np.inf)
    else:
        rows = np.eye(H) if vectors is None else rng.standard_normal((vectors, H))
        logs = _log_root(_norms_of_rows(steps, np.tile(rows, (B, 1, 1))))
        logs -= 0 if vectors is None else np.log(vectors) / 2
    return _calls.in_order(logs, run.reverse)


@QUIET
def _gradient_norms(layers: list[list[Trajectory]], chains: list[list[Steps]], dh: np.ndarray) -> list[np.ndarray]:
    """Logs of the norms of the gradient at h_t, [T, B], from the first layer and direction to the last."""
    norms: list[np.ndarray] = []
    for layer, all_steps in zip(reversed(layers), reversed(chains), strict=True):
        below: Any = 0
        own = []
        for way, (run, steps) in enumerate(zip(layer, all_steps, strict=True)):
            (_, B, H), cell = run.h.shape, run.network.cell
            g = dh[..., way * H : (way + 1) * H]
            if cell.current:  # the layer above reads phi(h)
                g = g * cell.slope_at(run.h)
            g = np.ascontiguousarray(g, run.h.dtype)
            logs = _norms_of_rows(steps, np.zeros((B, 1, H)), _calls.in_order(g, run.reverse))[..., 0]
            own.append(_calls.in_order(logs, run.reverse))
            if layer is not layers[0]:
                below = below + run.backward(g).x
        norms[:0], dh = own, below
    return norms


def _norms_of_rows(steps: Steps, rows: np.ndarray, add: MaybeArray = None) -> np.ndarray:
    """Logs [T, B, k] of the norms of rows [B, k, H] on their way back from the last step, in the order of the steps."""
    rows, logs = rows.astype(steps.W.dtype), np.empty((len(steps.slopes), *rows.shape[:2]))
    add = None if add is None else np.ascontiguousarray(add)
    compiled.vectors(*steps, True, rows, np.zeros(rows.shape[:2], np.int64), add, logs)
    return logs


def _log_root(logs: np.ndarray) -> np.ndarray:
    """log sqrt(Σ exp(2 logs)) over the last axis."""
    from scipy.special import logsumexp

    if logs.shape[-1] == 0:  # which old versions of SciPy refuse
        return np.full(logs.shape[:-1], -np.inf)
    roots: np.ndarray = logsumexp(2 * logs, axis=-1) / 2
    return roots
