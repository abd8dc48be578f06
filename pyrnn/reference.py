"""The specification: backpropagation through time in plain NumPy, one equation a line.

Every compiled function of this package is tested against its namesake here, and this file in turn against finite
differences, arbitrary precision and PyTorch. To learn the subject, read it from top to bottom beside
``docs/bptt.md``. Equation numbers are those of Goodfellow, Bengio and Courville, *Deep Learning* (MIT Press, 2016),
section 10.2; the book writes column vectors, so its ``W h`` is ``h @ W.T`` for arrays with rows ``h``.

Shapes: x (T, B, I), h (T, B, H), o (T, B, O); U (H, I), W (H, H), b (H,), V (O, H), c (O,). The batch axis B may be
missing everywhere. Nothing is checked, and the arguments ``out``, ``n_threads`` and ``engine`` are there only so
that a call reads the same: the public functions check and document them.
"""

import numpy as np

from pyrnn._results import Gradients, LossGradients, OutputGradients


def forward(x, U, W, b=None, h0=None, *, out=None, n_threads=None, engine="auto"):
    b, h_previous = _zeros_if_none(x, W, b, h0)
    states = np.empty(x.shape[:-1] + W.shape[:1], np.result_type(x, U, W, b, h_previous))
    for t in range(len(x)):
        a = b + h_previous @ W.T + x[t] @ U.T                   # 10.8
        states[t] = h_previous = np.tanh(a)                     # 10.9
    return states


def backward(dh, h, x, U, W, h0=None, *, n_threads=None, engine="auto"):
    _, h0 = _zeros_if_none(x, W, None, h0)
    _, delta = _state_gradients_and_deltas(dh, h, W)
    h_previous = np.concatenate([h0[np.newaxis], h])[: len(h)]
    steps = tuple(range(delta.ndim - 1))                        # the axes of time and batch
    return Gradients(
        x=delta @ U,                                            # dx_t = Uᵀ delta_t
        U=np.tensordot(delta, x, (steps, steps)),               # 10.28
        W=np.tensordot(delta, h_previous, (steps, steps)),      # 10.26
        b=delta.sum(axis=steps),                                # 10.23
        h0=delta[0] @ W if len(h) else np.zeros_like(h0),       # dh0 = Wᵀ delta_1
    )


def state_gradients(dh, h, W):
    return _state_gradients_and_deltas(dh, h, W)[0]


def _state_gradients_and_deltas(dh, h, W):
    grad_h, delta = (np.empty(h.shape, np.result_type(dh, h, W)) for _ in range(2))
    for t in reversed(range(len(h))):
        grad_h[t] = dh[t]                                       # 10.19: no later step
        if t + 1 < len(h):
            grad_h[t] += delta[t + 1] @ W                       # 10.20, 10.21: Wᵀ diag(1 - h²) grad_h
        delta[t] = _slope(h[t]) * grad_h[t]                     # the gradient at a_t
    return grad_h, delta


def jacobian(h, W):
    return _slope(h)[..., np.newaxis] * W                       # diag(1 - h²) W: row i scaled by 1 - h_i²


def _slope(h):
    return (1 - h) * (1 + h)                                    # 1 - h², without cancellation near |h| = 1


def tanh(a):
    return np.tanh(a)


def sech2(a):
    e = np.exp(-2 * np.abs(a))
    return 4 * e / (1 + e) ** 2                                 # 1 - tanh², without cancellation


def output(h, V, c=None):
    return h @ V.T + (0 if c is None else c)                    # 10.10


def output_gradients(do, h, V):
    steps = tuple(range(do.ndim - 1))
    return OutputGradients(
        h=do @ V,                                               # 10.19: the part of grad_h from o_t
        V=np.tensordot(do, h, (steps, steps)),                  # 10.24
        c=do.sum(axis=steps),                                   # 10.22
    )


def softmax_cross_entropy(o, targets, weights=None):
    weights = np.ones(o.shape[:-1], o.dtype) if weights is None else weights
    log_p = o - o.max(axis=-1, keepdims=True)                   # the softmax does not change, and cannot overflow
    log_p = log_p - np.log(np.exp(log_p).sum(axis=-1, keepdims=True))  # 10.11
    is_target = np.arange(o.shape[-1]) == np.asarray(targets)[..., np.newaxis]
    loss = -(weights * np.where(is_target, log_p, 0).sum(axis=-1)).sum()  # 10.12-10.14
    return loss, weights[..., np.newaxis] * (np.exp(log_p) - is_target)  # 10.17, 10.18


def squared_error(o, targets, weights=None):
    weights = np.ones(o.shape[:-1], o.dtype) if weights is None else weights
    error = o - targets
    loss = (weights * (error**2).sum(axis=-1)).sum()            # 10.12, 10.13 with L_t = |o_t - y_t|²
    return loss, 2 * weights[..., np.newaxis] * error           # 10.17, the gradient with respect to o_t


def loss_and_gradients(params, x, targets, *, loss="softmax_cross_entropy", h0=None, weights=None):
    U, W, b, V, c = params
    loss_function = {"softmax_cross_entropy": softmax_cross_entropy, "squared_error": squared_error}[loss]
    h = forward(x, U, W, b, h0)
    value, do = loss_function(h if V is None else output(h, V, c), targets, weights)
    top = OutputGradients(do, None, None) if V is None else output_gradients(do, h, V)
    below = backward(top.h, h, x, U, W, h0)
    return value, LossGradients(
        U=below.U, W=below.W, b=None if b is None else below.b, V=top.V, c=None if c is None else top.c,
        x=below.x, h0=below.h0,
    )


def _zeros_if_none(x, W, b, h0):
    b = np.zeros(len(W), x.dtype) if b is None else b
    return b, np.zeros(x.shape[1:-1] + W.shape[:1], x.dtype) if h0 is None else h0
