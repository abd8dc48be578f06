"""How gradients grow and shrink on their way back through time, layer by layer."""

from typing import NamedTuple

import numpy as np

from pyrnn import _checks, _jacobian_products, _slopes, functional
from pyrnn.jacobian_products import preactivations
from pyrnn.losses import LOSSES, QUIET, check_loss
from pyrnn.output import output, output_gradients
from pyrnn.parameters import Parameters
from pyrnn.rnn import RNN
from pyrnn.singular_values import log_singular_values

NORMS = ("spectral", "frobenius")


class GradientFlow(NamedTuple):
    """Logarithms of norms over time, float64; rows are layers, of a bidirectional network each layer's two directions.

    Results of `gradient_flow`.
    """

    log_gradient_norms: np.ndarray | None  # [layers, T, B]: of the gradient of the loss at h_t, through all later steps
    log_jacobian_norms: np.ndarray  # [layers, T, B]: of ∂h_last/∂h_t
    norm: str  # which one the second is


class _Layer(NamedTuple):
    """One layer and direction after its forward pass, in the order of its steps: backwards ones are turned around."""

    x: np.ndarray
    U: np.ndarray
    W: np.ndarray
    h0: np.ndarray
    h: np.ndarray
    rates: np.ndarray | None
    a: np.ndarray | None  # pre-activations, None in the current form
    options: dict
    reverse: bool

    @property
    def chain(self):
        """What functions of Jacobians take beside h, W and h0."""
        return self.options | {"preactivations": self.a, "rates": None}

    def in_time(self, a):
        """An array in the order of the steps in that of time, or the other way round."""
        return a[::-1] if self.reverse else a

    @property
    def sent(self):
        """What the next layer reads."""
        return self.rates if self.options["form"] == "current" else self.h


def gradient_flow(
    network,
    x,
    targets=None,
    *,
    loss="softmax_cross_entropy",
    dh=None,
    h0=None,
    weights=None,
    norm="frobenius",
    vectors=None,
    rng=0,
):
    """Norms of the gradients at all states, and of ∂h_last/∂h_t over all lags, in logarithms.

    Parameters
    ----------
    network : Parameters or RNN
        Of an RNN, its layers without dropout; nothing that it keeps is changed.
    x : array_like, shape (T, B, I) or (T, I)
        Input, time first; batch first where the RNN is.
    targets : array_like, optional
        As in `loss_and_gradients`: for the loss on the network's output, or on its top states without an output layer.
    loss : {"softmax_cross_entropy", "squared_error"}
        The loss of `targets`.
    dh : array_like, shape (T, B, D H) or (T, D H), optional
        Instead of targets: what a loss sends directly into what the top layer sends up, laid out as x. Without either
        there are no gradients, only Jacobians.
    h0 : array_like, optional
        The state before the first step, as the network takes it.
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
    plot_gradient_flow : draws it.
    jacobian_product, log_singular_values : more of one layer.
    vanishing_regularizer : asks for gradients that keep their lengths.

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
    >>> params = pyrnn.initialize(2, 16, gain=0.5, rng=0)
    >>> x = 0.1 * np.random.default_rng(0).standard_normal((2000, 2))
    >>> dh = np.zeros((2000, 16))
    >>> dh[-1] = 1.0  # a loss at the last step
    >>> flow = pyrnn.gradient_flow(params, x, dh=dh)
    >>> flow.log_gradient_norms[0, [-1, -2, 0]].round(1).tolist()
    [1.4, 0.7, -1396.4]
    """
    if not isinstance(network, Parameters | RNN):
        raise TypeError(f"network must be a pyrnn.Parameters or a pyrnn.RNN, got {type(network).__name__}")
    _check_choices(targets, loss, dh, norm, vectors)
    x, h0, dh, batched = _inputs(network, x, h0, dh)
    layers = _forward(network, x, h0)
    if targets is not None:
        dh = _from_loss(network, layers[-1], targets, loss, weights, batched)
    generator = np.random.default_rng(rng)
    flat = [cell for layer in layers for cell in layer]
    jacobians = np.stack([_jacobian_norms(cell, norm, vectors, generator) for cell in flat])
    gradients = None if dh is None else np.stack(_gradient_norms(layers, dh))
    if not batched:
        jacobians, gradients = jacobians[..., 0], None if gradients is None else gradients[..., 0]
    return GradientFlow(gradients, jacobians, norm)


def _check_choices(targets, loss, dh, norm, vectors):
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
def _inputs(network, x, h0, dh):
    """x, h0 [layers, B, H] or None and dh, time first and with a batch axis; and whether x had one."""
    like = network.U if isinstance(network, Parameters) else network.parameters
    x, h0, dh, _ = _checks.as_real_arrays("h0", "dh", x=x, h0=h0, dh=dh, like=like)
    _checks.check_sequence("x", "I", x)
    batched = x.ndim == 3
    layers, directions, H = _sizes(network)
    sent, first = (*x.shape[:-1], directions * H), (layers * directions, *_batch(network, x), H)
    _checks.check_shape("dh", dh, sent, "x", x)
    if isinstance(network, Parameters):
        _checks.check_shape("h0", h0, first[1:], "x", x)
        h0 = None if h0 is None else h0[np.newaxis]
    else:
        _checks.check_columns("weight_ih_l0", "H", network.weight_ih_l0, x.shape[-1], "x", x)
        _checks.check_shape("h0", h0, first, "x", x)
    if not batched:
        return (
            x[:, np.newaxis],
            None if h0 is None else h0[:, np.newaxis],
            None if dh is None else dh[:, np.newaxis],
            False,
        )
    if isinstance(network, RNN) and network.batch_first:
        x, dh = (None if a is None else a.swapaxes(0, 1) for a in (x, dh))
    return x, h0, dh, True


def _sizes(network):
    """Layers, directions, H."""
    if isinstance(network, Parameters):
        return 1, 1, len(network.W)
    return network.num_layers, 1 + network.bidirectional, network.hidden_size


def _batch(network, x):
    """The shape of the batch: (B,) or ()."""
    if x.ndim == 2:
        return ()
    return x.shape[:1] if isinstance(network, RNN) and network.batch_first else x.shape[1:2]


def _cells(network):
    """By layer, and in it by direction: (U, W, b), and what the cell is."""
    if isinstance(network, Parameters):
        return [[(network.U, network.W, network.b)]], {"nonlinearity": "tanh", "alpha": None, "form": "rate"}
    ends = [[f"_l{i}{way}" for way in ("", "_reverse")[: 1 + network.bidirectional]] for i in range(network.num_layers)]
    get = lambda name, end: getattr(network, name + end)
    bias = lambda end: get("bias_ih", end) + get("bias_hh", end) if network.bias else None
    cells = [[(get("weight_ih", e), get("weight_hh", e), bias(e)) for e in layer] for layer in ends]
    leaks = network.form == "current" or np.any(np.asarray(network.alpha) != 1)
    alpha = network.alpha if leaks else None
    return cells, {"nonlinearity": network.nonlinearity, "alpha": alpha, "form": network.form}


@QUIET
def _forward(network, x, h0):
    """All layers, each a list of directions."""
    cells, options = _cells(network)
    layers, i = [], 0
    for layer in cells:
        done = []
        for direction, (U, W, b) in enumerate(layer):
            first = np.zeros((x.shape[1], len(U)), x.dtype) if h0 is None else h0[i]
            read = x[::-1] if direction else x
            rates = None if options["alpha"] is None else np.empty((*x.shape[:2], len(U)), np.result_type(x, U))
            h = functional.forward(read, U, W, b, first, rates=rates, **options)
            a = None
            if options["form"] == "rate":
                a = preactivations(h, read, U, W, b, first, nonlinearity=options["nonlinearity"])
            done.append(_Layer(read, U, W, first, h, rates, a, options, direction == 1))
            i += 1
        layers.append(done)
        x = _sent(done)
    return layers


def _sent(layer):
    """What a layer sends up, [T, B, D H], in the order of time."""
    return np.concatenate([cell.in_time(cell.sent) for cell in layer], axis=-1)


def _from_loss(network, top, targets, loss, weights, batched):
    """What the loss sends into what the top layer sends up."""
    h = _sent(top)
    if isinstance(network, Parameters):
        V, c = network.V, network.c
    else:
        V = None if network.output_size is None else network.weight_out
        c = network.bias_out if V is not None and network.bias else None
    o = h if V is None else output(h, V, c)
    turn = isinstance(network, RNN) and network.batch_first and batched
    laid_out = lambda a: a[:, 0] if not batched else a.swapaxes(0, 1) if turn else a
    do = LOSSES[loss](laid_out(o), targets, weights)[1]
    do = do[:, np.newaxis] if not batched else do.swapaxes(0, 1) if turn else do
    return do if V is None else output_gradients(do, h, V).h


# ---- Norms ----------------------------------------------------------------------------------------------------------
@QUIET
def _jacobian_norms(cell, norm, vectors, rng):
    """Logs of the norms of ∂h_last/∂h_t, [T, B]."""
    T, B, H = cell.h.shape
    if norm == "spectral":
        lags = log_singular_values(cell.h, cell.W, cell.h0, start=min(1, T), **cell.chain)[:T]
        return cell.in_time(lags[::-1].max(axis=-1, initial=-np.inf))
    k = H if vectors is None else vectors
    rows = np.eye(H) if vectors is None else rng.standard_normal((k, H))
    logs = _norms_of_rows(cell, np.tile(rows, (B, 1, 1)))
    return cell.in_time(_log_root(logs) - (0 if vectors is None else np.log(k) / 2))


@QUIET
def _gradient_norms(layers, dh):
    """Logs of the norms of the gradient at h_t, [T, B], from the first layer and direction to the last."""
    norms = []
    for layer in reversed(layers):
        below, own = 0, []
        for direction, cell in enumerate(layer):
            H = cell.h.shape[-1]
            g = cell.in_time(dh[..., direction * H : (direction + 1) * H])
            if cell.options["form"] == "current":  # the layer above reads phi(h)
                g = (g * _slopes.slopes_at(cell.options["nonlinearity"], cell.h)).astype(g.dtype)
            g = np.ascontiguousarray(g, cell.h.dtype)
            own.append(cell.in_time(_norms_of_rows(cell, np.zeros((cell.h.shape[1], 1, H)), g)[..., 0]))
            if layer is not layers[0]:
                gradients = functional.backward(
                    g, cell.h, cell.x, cell.U, cell.W, cell.h0, rates=cell.rates, **cell.options
                )
                below = below + cell.in_time(gradients.x)
        norms[:0], dh = own, below
    return norms


def _norms_of_rows(cell, rows, add=None):
    """Logs [T, B, k] of the norms of rows [B, k, H] on their way back from the last step, in the order of the steps."""
    arguments, _, _ = _slopes.check(cell.h, cell.W, cell.h0, 0, None, **cell.chain)
    steps = _slopes.prepare(*arguments)
    rows, logs = rows.astype(cell.h.dtype), np.empty((len(cell.h), *rows.shape[:2]))
    _jacobian_products.vectors(*steps, True, rows, np.zeros(rows.shape[:2], np.int64), add, logs)
    return logs


def _log_root(logs):
    """log sqrt(Σ exp(2 logs)) over the last axis, without overflow."""
    largest = logs.max(axis=-1, initial=-np.inf)
    shift = np.where(np.isfinite(largest), largest, 0)
    return np.log(np.exp(2 * (logs - shift[..., np.newaxis])).sum(axis=-1)) / 2 + shift
