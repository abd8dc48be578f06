"""The specification: backpropagation through time in plain NumPy, one equation a line.

To learn the subject, read this file from top to bottom beside ``docs/bptt.md``. It begins with the plain tanh network,
in two functions that need NumPy alone and can be copied into a notebook. The functions below them do the same for every
form of the cell. Each compiled function of this package is tested against its namesake here, and this file in turn
against finite differences, arbitrary precision and PyTorch. Equation numbers are those of Goodfellow, Bengio and
Courville, *Deep Learning* (MIT Press, 2016), section 10.2. The book writes column vectors, so its ``W h`` is
``h @ W.T`` for arrays with rows ``h``.

Shapes: x (T, B, I), h (T, B, H), o (T, B, O); U (H, I), W (H, H), b (H,), h0 (B, H), V (O, H), c (O,). Below the first
two functions the batch axis B may be missing everywhere. Nothing is checked, and the arguments ``out`` and
``n_threads`` are there only so that a call reads the same: the public functions check and document them.
"""

from functools import partial
from types import SimpleNamespace

import numpy as np

from pyrnn._results import Gradients, LossGradients, OutputGradients, SampleGradients, ScaledProduct
from pyrnn.cell import NEGATIVE_SLOPE, PLAIN
from pyrnn.trajectory import Trajectory


# ---- The plain tanh network: these lines need NumPy alone -----------------------------------------------------------
def forward_tanh(x, U, W, b, h0):
    h, h_t = np.empty((*x.shape[:2], len(W))), h0
    for t in range(len(x)):
        a_t = b + h_t @ W.T + x[t] @ U.T                        # 10.8:  a_t = b + W h_{t-1} + U x_t
        h[t] = h_t = np.tanh(a_t)                               # 10.9:  h_t = tanh(a_t)
    return h


def backward_tanh(dh, h, x, U, W, h0):
    dx, dU, dW, db = np.empty(x.shape), np.zeros(U.shape), np.zeros(W.shape), np.zeros(len(W))
    later = np.zeros(h0.shape)                                  # nothing comes after the last step
    for t in reversed(range(len(x))):
        grad_h = dh[t] + later                                  # 10.20: the paths from the loss at t and from h_{t+1}
        delta = (1 - h[t] ** 2) * grad_h                        # diag(1 - h_t²) ∇_{h_t} L, the gradient at a_t
        later = delta @ W                                       # 10.21: Wᵀ diag(1 - h_t²) ∇_{h_t} L, for h_{t-1}
        dW += delta.T @ (h[t - 1] if t > 0 else h0)             # 10.26: the sum of delta_t h_{t-1}ᵀ
        dU += delta.T @ x[t]                                    # 10.28: the sum of delta_t x_tᵀ
        db += delta.sum(axis=0)                                 # 10.23: the sum of delta_t
        dx[t] = delta @ U                                       # dx_t = Uᵀ delta_t
    return dx, dU, dW, db, later                                # dh0 = Wᵀ delta_1


# ---- The same in every form of the cell -----------------------------------------------------------------------------
def forward(x, U, W, b=None, h0=None, *, cell=PLAIN, drive=None, lengths=None, mask=None, reverse=False, rates=None,
            out=None, n_threads=None):
    b, h = _zeros_if_none(x, W, b, h0)
    phi, exists, alpha = phi_of(cell), _existing(x, lengths, mask), cell.alpha
    others = (a for a in (drive, alpha) if a is not None)
    states = np.empty(x.shape[:-1] + W.shape[:1], np.result_type(x, U, W, b, h, *others))
    rates = np.empty_like(states) if rates is None else rates
    for t in _order(x, reverse):
        if cell.form == "rate":
            a = b + _term(drive, t) + h @ W.T + x[t] @ U.T      # 10.8
            r = phi(a)                                          # 10.9
            h_next = _leak(alpha, h, r)                         # without alpha: h_t = tanh(a_t)
        else:
            a = b + _term(drive, t) + phi(h) @ W.T + x[t] @ U.T
            h_next = _leak(alpha, h, a)
            r = phi(h_next)
        h = np.where(exists[t], h_next, h)                      # a step that does not exist passes the state on
        states[t], rates[t] = h, np.where(exists[t], r, 0)
    return states if lengths is None else np.where(exists, states, 0)  # behind its end a sequence has no state


def backward(dh, h, x, U, W, h0=None, *, cell=PLAIN, drive=None, lengths=None, mask=None, reverse=False, rates=None,
             x_gradient=True, out=None, n_threads=None):
    gradients = _gradients(dh, 0, h, x, U, W, h0, cell, drive, rates, lengths=lengths, mask=mask, reverse=reverse)
    return gradients if x_gradient else gradients._replace(x=None)


def _gradients(dh, drates, h, x, U, W, h0, cell, drive, rates, *, lengths, mask, reverse):
    _, h0 = _zeros_if_none(x, W, None, h0)
    phi, exists, alpha = phi_of(cell), _existing(x, lengths, mask), cell.alpha
    grad_h, delta, dh0 = _backward(dh, drates, h, W, h0, cell, alpha, exists, lengths, reverse, rates)
    h_previous = _previous(h, h0, reverse, lengths)
    steps = tuple(range(delta.ndim - 1))                        # the axes of time and batch
    d_alpha = None
    if alpha is not None:                                       # h_t = h_{t-1} + alpha (r_t - h_{t-1}), or a_t for r_t
        moved = rates - h_previous if cell.form == "rate" else (h - h_previous) / alpha
        each = np.where(exists, grad_h * moved, 0).sum(axis=steps)
        d_alpha = each if np.ndim(alpha) else each.sum()
    return Gradients(
        x=delta @ U,                                            # dx_t = Uᵀ delta_t
        U=np.tensordot(delta, np.where(exists, x, 0), (steps, steps)),  # 10.28
        W=np.tensordot(delta, h_previous if cell.form == "rate" else phi(h_previous), (steps, steps)),  # 10.26
        b=delta.sum(axis=steps),                                # 10.23
        h0=dh0,
        drive=None if drive is None else delta,                 # a_t = ... + drive_t
        alpha=d_alpha,
    )


def state_gradients(dh, h, W, *, cell=PLAIN, lengths=None, mask=None, reverse=False, rates=None):
    h0, exists, alpha = np.zeros(h.shape[1:]), _existing(h, lengths, mask), cell.alpha
    return _backward(dh, 0, h, W, h0, cell, alpha, exists, lengths, reverse, rates)[0]


def _backward(dh, drates, h, W, h0, cell, alpha, exists, lengths, reverse, rates):
    """grad_h, delta, and the gradient at h0."""
    phi, slope, scale = phi_of(cell), slope_of(cell), 1 if alpha is None else alpha
    dh, drates = (a if np.ndim(a) else np.zeros_like(h) for a in (dh, drates))  # 0 where nothing arrives
    if lengths is not None:
        dh = np.where(exists, dh, 0)                            # what stands behind an end is no state
    drates = np.where(exists, drates, 0)                        # and where there is no step, there is no rate
    r = h if alpha is None else phi(h) if cell.form == "current" else rates
    r_previous = None if cell.form == "rate" else _previous(r, phi(h0), reverse, lengths)
    grad_h, delta = (np.empty(h.shape, np.result_type(dh, drates, h, W)) for _ in range(2))
    later = np.zeros(h.shape[1:], grad_h.dtype)                 # the part of grad_h_t from later steps
    for t in _order(h, not reverse):
        grad_h[t] = dh[t] + later                               # 10.19, 10.20
        if cell.form == "rate":
            delta[t] = slope(r[t]) * (scale * grad_h[t] + drates[t])  # the gradient at a_t
            through = delta[t] @ W                              # 10.21: Wᵀ diag(1 - h²) grad_h
        else:
            grad_h[t] += np.where(drates[t] == 0, 0, slope(r[t]) * drates[t])  # r_t = phi(h_t); 0 also of NaN
            delta[t] = scale * grad_h[t]
            through = slope(r_previous[t]) * (delta[t] @ W)
        delta[t] = np.where(exists[t], delta[t], 0)
        past = through if alpha is None else (1 - scale) * grad_h[t] + through
        later = np.where(exists[t], past, grad_h[t])
    return grad_h if lengths is None else np.where(exists, grad_h, 0), delta, later


def jacobian(h, W, h0=None, *, cell=PLAIN, lengths=None, mask=None, reverse=False, rates=None):
    _, h0 = _zeros_if_none(h, W, None, h0)
    phi, slope, exists = phi_of(cell), slope_of(cell), _existing(h, lengths, mask)
    scale = np.broadcast_to(1 if cell.alpha is None else cell.alpha, h.shape[-1:])[:, np.newaxis]
    one = np.eye(len(W))
    if cell.form == "rate":
        r = h if cell.alpha is None else rates
        J = (1 - scale) * one + scale * (slope(r)[..., np.newaxis] * W)  # diag(1 - h²) W: row i scaled by 1 - h_i²
    else:
        r_previous = phi(_previous(h, h0, reverse, lengths))
        J = (1 - scale) * one + scale * (W * slope(r_previous)[..., np.newaxis, :])  # W diag: column j scaled
    return np.where(exists[..., np.newaxis], J, one if lengths is None else 0)


def simulate(network, x, h0=None, *, lengths=None, mask=None, reverse=False, drive=None, noise=None, seed=None,
             n_threads=None):
    U, W, b, cell = network.U, network.W, network.b, network.cell
    steps = {"lengths": lengths, "mask": mask, "reverse": reverse}
    rates = np.empty(x.shape[:-1] + W.shape[:1], np.result_type(x, U, W))
    if noise is not None:                                       # sqrt(2 alpha) sigma xi is a drive, times alpha
        noise = np.sqrt(2 / (1 if cell.alpha is None else cell.alpha)) * noise
    driven = drive if noise is None else (0 if drive is None else drive) + _noise(seed, rates.shape, noise, rates.dtype)
    h = forward(x, U, W, b, h0, cell=cell, drive=driven, rates=rates, **steps)
    return Trajectory(network, x, h0, h, h if cell.alpha is None else rates, drive, **steps, noise=noise, seed=seed)


def philox(counter, seed):
    """Philox 4x32-10 (Salmon et al., SC 2011): four words of 32 bits of a counter of four words."""
    c, low = [np.asarray(word, np.uint64) for word in counter], np.uint64(0xFFFFFFFF)
    keys = [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)]
    for _ in range(10):
        p, q = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [q >> np.uint64(32) ^ c[1] ^ keys[0], q & low, p >> np.uint64(32) ^ c[3] ^ keys[1], p & low]
        keys = [keys[0] + np.uint64(0x9E3779B9) & low, keys[1] + np.uint64(0xBB67AE85) & low]
    return np.stack(np.broadcast_arrays(*c))


def noise(seed, shape, sigma=1.0, *, dtype=np.float64, step=0, sequence=0, stream="state", n_threads=None):
    stream, units = {"state": 0, "input": 1}.get(stream, stream), np.arange(shape[-1])
    steps = step + np.arange(shape[0])
    places = (steps[:, np.newaxis], sequence) if len(shape) == 2 else (
        steps[:, np.newaxis, np.newaxis], sequence + np.arange(shape[1])[:, np.newaxis])
    # Unit 16 g + 4 w + j: word w of block 4 g + j; of two neighbouring words, one is r, one the angle of both numbers.
    block, word = units // 16 * 4 + units % 4, units % 16 // 4
    high, rest = (philox((block, places[1], places[0], stream + more), seed) for more in (0, 2**31))
    s = high.astype(np.uint32).view(np.int32).astype(float)     # float64 has 32 bits more of another stream
    v = (s + (0.5 if dtype == np.float32 else (rest + 0.5) / 2**32)) / 2**32
    at = np.broadcast_to(word, v.shape[1:])[np.newaxis]
    radius, angle = (np.take_along_axis(v, at // 2 * 2 + i, 0)[0] for i in range(2))
    odd = np.take_along_axis(high, at // 2 * 2 + 1, 0)[0] % 2
    r = np.sqrt(-2 * np.where(radius > 0, np.log(np.abs(radius)), np.log1p(np.minimum(radius, 0))))
    cosine = np.where(odd == 1, -1, 1) * np.cos(np.pi * angle)
    return (sigma * (r * np.where(word % 2, np.sin(np.pi * angle), cosine))).astype(dtype)


def _noise(seed, shape, sigma, dtype):
    return noise(seed, shape, sigma, dtype=dtype)


def backward_of(run, dh, drates=0, x_gradient=True):
    """`Trajectory.backward`: without a leak rates are states, so that what arrives at them arrives at those."""
    U, W, cell = run.network.U, run.network.W, run.network.cell
    if cell.alpha is None:
        dh, drates = dh + drates, 0
    gradients = _gradients(dh, drates, run.h, run.x, U, W, run.h0, cell, run.drive, run.written_rates, **run.steps)
    return gradients if x_gradient else gradients._replace(x=None)


# ---- The forms of a cell --------------------------------------------------------------------------------------------
def sigmoid(a):
    e = np.exp(np.where(a.real <= 0, a, -a))                    # does not overflow
    return np.where(a.real <= 0, e, 1) / (1 + e)


def leaky_relu(a, slope=NEGATIVE_SLOPE):
    return np.where(a.real <= 0, slope * a, a)


def leaky_relu_slope(r, slope=NEGATIVE_SLOPE):
    return np.where(r.real <= 0, slope, 1).astype(r.dtype)


NONLINEARITIES = {
    "tanh": np.tanh,
    "relu": lambda a: np.where(a.real <= 0, 0, a),              # of the real part: derivatives by complex steps
    "identity": lambda a: a,
    "softplus": lambda a: np.where(a.real <= 0, 0, a) + np.log1p(np.exp(np.where(a.real <= 0, a, -a))),
    "sigmoid": sigmoid,
    "retanh": lambda a: np.where(a.real <= 0, 0, np.tanh(a)),
    "leaky_relu": leaky_relu,
}
SLOPES = {                                                      # the derivative, from r = phi(a)
    "tanh": lambda r: (1 - r) * (1 + r),                        # 1 - r², without cancellation near |r| = 1
    "relu": lambda r: (~(r <= 0)).astype(r.dtype),
    "identity": lambda r: np.ones_like(r),
    "softplus": lambda r: -np.expm1(-r),                        # 1 - exp(-r), which is sigmoid(a)
    "sigmoid": lambda r: r * (1 - r),
    "retanh": lambda r: np.where(r.real <= 0, 0, (1 - r) * (1 + r)),
    "leaky_relu": leaky_relu_slope,
}
SLOPES_AT = {                                                   # the same from a, where r has lost digits
    "tanh": lambda a: sech2(a),
    "retanh": lambda a: np.where(a <= 0, 0, sech2(a)),
    "softplus": sigmoid,
    "sigmoid": lambda a: sigmoid(a) * sigmoid(-a),
}


def phi_of(cell):
    phi = NONLINEARITIES[cell.nonlinearity]
    return partial(phi, slope=cell.negative_slope) if cell.nonlinearity == "leaky_relu" else phi


def slope_of(cell):
    slope = SLOPES[cell.nonlinearity]
    return partial(slope, slope=cell.negative_slope) if cell.nonlinearity == "leaky_relu" else slope


def _leak(alpha, old, new):
    """A leaky integrator: the book's alpha (10.9.2), which multiplies the old value, is 1 - alpha here."""
    return new if alpha is None else (1 - alpha) * old + alpha * new


def _term(drive, t):
    return 0 if drive is None else drive[t]


def _order(x, reverse):
    return reversed(range(len(x))) if reverse else range(len(x))


def _existing(x, lengths, mask):
    """Which steps of which sequences are there, with one more axis for units."""
    if lengths is not None:
        mask = np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 2)) < lengths
    return np.ones((*x.shape[:-1], 1), bool) if mask is None else np.asarray(mask, bool)[..., np.newaxis]


def _previous(h, h0, reverse, lengths):
    """h_{t-1} for all t, in the order in which the steps are made; h0 before the first one."""
    if not reverse:
        return np.concatenate([h0[np.newaxis], h])[: len(h)]
    h_previous = np.concatenate([h[1:], h0[np.newaxis]])[: len(h)]
    return h_previous if lengths is None else np.where(_existing(h, np.asarray(lengths) - 1, None), h_previous, h0)


def tanh(a):
    return np.tanh(a)


def sech2(a):
    e = np.exp(-2 * np.abs(a))
    return 4 * e / (1 + e) ** 2                                 # 1 - tanh², without cancellation


def output(h, V, c=None, *, out=None):
    return h @ V.T + (0 if c is None else c)                    # 10.10


def output_gradients(do, h, V, *, out=None):
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
    loss = -_weighted(weights, np.where(is_target, log_p, 0).sum(axis=-1)).sum()  # 10.12-10.14
    return loss, _weighted(weights[..., np.newaxis], np.exp(log_p) - is_target)  # 10.17, 10.18


def squared_error(o, targets, weights=None):
    error = o - targets
    return _summed(o, weights, error**2, 2 * error)             # 10.12, 10.13 with L_t = |o_t - y_t|², and 10.17


def huber(o, targets, weights=None, *, delta=1.0):
    error = o - targets
    size, inside = np.abs(error), np.clip(error, -delta, delta)
    return _summed(o, weights, np.where(size <= delta, error**2 / 2, delta * (size - delta / 2)), inside)


def binary_cross_entropy(o, targets, weights=None):
    p = 1 / (1 + np.exp(-o))                                    # the probability of 1
    return _summed(o, weights, np.logaddexp(0, o) - targets * o, p - targets)


def poisson(o, targets, weights=None):
    rate = np.exp(o)
    return _summed(o, weights, rate - targets * o, rate - targets)


def _summed(o, weights, losses, gradient):
    """The sum of losses of outputs, and its gradient; weights of each step, or of each output."""
    weights = np.ones(o.shape[:-1], o.dtype) if weights is None else weights
    weights = weights if weights.ndim == o.ndim else weights[..., np.newaxis]
    return _weighted(weights, losses).sum(), _weighted(weights, gradient)


def _weighted(weights, a):
    """weights a, and 0 where a weight is 0, whatever a is there."""
    return weights * np.where(weights == 0, 0, a)


LOSSES = {
    "softmax_cross_entropy": softmax_cross_entropy, "squared_error": squared_error, "huber": huber,
    "binary_cross_entropy": binary_cross_entropy, "poisson": poisson,
}


def loss_and_gradients(network, x, targets, *, loss="softmax_cross_entropy", h0=None, weights=None, memory_limit=None,
                       x_gradient=True):
    loss_function = LOSSES[loss]
    b, V, c, current = network.b, network.V, network.c, network.cell.form == "current"
    run = simulate(network, x, h0)
    read = run.rates if current else run.h
    value, do = loss_function(read if V is None else output(read, V, c), targets, weights)
    top = OutputGradients(do, None, None) if V is None else output_gradients(do, read, V)
    below = backward_of(run, *(0, top.h) if current else (top.h,), x_gradient=x_gradient)
    return value, LossGradients(
        U=below.U, W=below.W, b=None if b is None else below.b, V=top.V, c=None if c is None else top.c,
        x=below.x, h0=below.h0, alpha=below.alpha,
    )


def _zeros_if_none(x, W, b, h0):
    b = np.zeros(len(W), x.dtype) if b is None else b
    return b, np.zeros(x.shape[1:-1] + W.shape[:1], x.dtype) if h0 is None else h0


# ---- Online learning ------------------------------------------------------------------------------------------------
class RTRL:
    """The influence P of the parameters on the state, carried forward: P[p, k] = dh_k / d(parameter p).

    `step` returns the gradient with respect to (W, U, b) as one array (H, H + I + 1), and then those of alpha and h0.
    """

    def __init__(self, network, h0):
        self.network, self.h = network, h0
        H, I = network.U.shape
        self.P, self.P_alpha, self.P_h0 = np.zeros((H, H + I + 1, H)), np.zeros((H, H)), np.eye(H)

    def step(self, x, dh):
        h_previous, cell, units = self.h, self.network.cell, np.arange(len(self.h))
        run = simulate(self.network, x[np.newaxis], h_previous)
        J = jacobian(run.h, self.network.W, h_previous, cell=cell, rates=run.written_rates)[0]
        scale, r, self.h = 1 if cell.alpha is None else cell.alpha, run.rates[0], run.h[0]
        if cell.form == "rate":
            slope, sent, moved = slope_of(cell)(r), h_previous, r - h_previous
        else:
            slope, sent = 1.0, phi_of(cell)(h_previous)
            moved = (self.h - h_previous) / scale
        z = np.concatenate([sent, x, [1.0]])                    # what the parameters of a unit multiply
        self.P, self.P_alpha, self.P_h0 = self.P @ J.T, self.P_alpha @ J.T, self.P_h0 @ J.T
        self.P[units, :, units] += np.outer(scale * slope * np.ones(len(units)), z)
        self.P_alpha[units, units] += moved                     # dh_t / dalpha
        return self.P @ dh, self.P_alpha @ dh, self.P_h0 @ dh


# ---- Derivatives in a direction -------------------------------------------------------------------------------------
def jvp(run, direction):
    return _tangents(run, direction)[0]


def backward_jvp(run, dh, direction, *, dh_dot=None, x_gradient=True):
    (U, W), cell, r = run.network[:2], run.network.cell, run.written_rates
    _, h0 = _zeros_if_none(run.x, W, None, run.h0)
    h_dot, r_dot = _tangents(run, direction)
    step = 1e-30                                                # f(a + i ε a_dot) = f(a) + i ε f_dot, to the last digit
    move = lambda a, a_dot: a + 1j * step * (0 if a_dot is None else a_dot)
    pairs = ((dh, dh_dot), (run.h, h_dot), (run.x, direction.x), (U, direction.U), (W, direction.W), (h0, direction.h0))
    alpha = None if cell.alpha is None else move(cell.alpha, direction.alpha)
    moved = SimpleNamespace(nonlinearity=cell.nonlinearity, alpha=alpha, form=cell.form,
                            negative_slope=cell.negative_slope)
    g = backward(*(move(*pair) for pair in pairs), cell=moved, rates=None if r is None else move(r, r_dot),
                 drive=direction.drive if run.drive is None else run.drive, x_gradient=x_gradient, **run.steps)
    return Gradients(*(None if a is None else np.imag(a) / step for a in g))


def _tangents(run, direction):
    """h_dot, and the tangent of the rates."""
    (U, W), cell, h, r = run.network[:2], run.network.cell, run.h, run.rates
    _, h0 = _zeros_if_none(run.x, W, None, run.h0)
    phi, slope, alpha = phi_of(cell), slope_of(cell), cell.alpha
    exists, like = _existing(h, run.lengths, run.mask), (run.x, U, W, np.zeros(len(W), W.dtype), h0, h, 0)
    x_dot, U_dot, W_dot, b_dot, state, drive_dot, alpha_dot = (
        np.zeros_like(a) if d is None else d for a, d in zip(like, direction, strict=True)
    )
    x, x_dot = (np.where(exists, a, 0) for a in (run.x, x_dot))
    h_previous = _previous(h, h0, run.reverse, run.lengths)
    fed = h_previous if cell.form == "rate" else phi(h_previous)
    add = b_dot + drive_dot + x_dot @ U.T + x @ U_dot.T + fed @ W_dot.T
    h_dot, r_dot = (np.empty(h.shape, np.result_type(h, add, state)) for _ in range(2))
    for t in _order(x, run.reverse):
        if cell.form == "rate":
            a_dot = add[t] + state @ W.T                        # the derivative of 10.8
            r_dot[t] = slope(r[t]) * a_dot                      # and of 10.9
            h_next = _leak(alpha, state, r_dot[t]) + alpha_dot * (r[t] - h_previous[t])
        else:
            a_dot = add[t] + (slope(fed[t]) * state) @ W.T
            h_next = _leak(alpha, state, a_dot) + alpha_dot * (h[t] - h_previous[t]) / alpha
            r_dot[t] = slope(r[t]) * h_next
        state = np.where(exists[t], h_next, state)
        h_dot[t] = state
    return h_dot if run.lengths is None else np.where(exists, h_dot, 0), r_dot


def per_sample_gradients(run, dh, *, norms_only=False):
    if run.h.ndim == 2:
        g = backward_of(run, dh)
        parts = SampleGradients(g.U, g.W, g.b)
        return SampleGradients(*map(np.linalg.norm, parts)) if norms_only else parts
    each = []
    for i in range(run.h.shape[1]):
        one = {name: a[:, i] for name in ("x", "h", "rates", "mask") if (a := getattr(run, name)) is not None}
        one = run._replace(**one, **{name: a[i] for name in ("h0", "lengths") if (a := getattr(run, name)) is not None})
        each.append(per_sample_gradients(one, dh[:, i], norms_only=norms_only))
    return SampleGradients(*map(np.stack, zip(*each, strict=True)))


# ---- Products of Jacobians ------------------------------------------------------------------------------------------
def jacobian_product(run, start=0, stop=None, *, preactivations=False):
    M = np.broadcast_to(np.eye(len(run.network.W)), (*run.h.shape[1:], len(run.network.W)))
    for J_t in _jacobians(run, preactivations)[start:stop]:
        M = J_t @ M                                             # 10.36: the chain of steps
    return ScaledProduct(M, np.zeros(M.shape[:-2]))             # no scale: it may under- and overflow


def push(run, v, start=0, stop=None, *, preactivations=False):
    M, _ = jacobian_product(run, start, stop, preactivations=preactivations)
    v = v @ M.swapaxes(-1, -2)                                  # M v, by rows
    return ScaledProduct(v, np.zeros(v.shape[:-1]))


def pull(run, u, start=0, stop=None, *, preactivations=False):
    M, _ = jacobian_product(run, start, stop, preactivations=preactivations)
    u = u @ M
    return ScaledProduct(u, np.zeros(u.shape[:-1]))


def log_singular_values(run, start=0, stop=None, *, preactivations=False):
    stop = len(run.h) if stop is None else stop
    starts, options = range(stop, start - 1, -1), {"preactivations": preactivations}
    products = [jacobian_product(run, t, stop, **options).mantissa for t in starts]
    return np.log(np.linalg.svd(products, compute_uv=False))    # of as many digits as a number has


def preactivations(run):
    U, W, b = run.network[:3]
    b, h0 = _zeros_if_none(run.x, W, b, run.h0)
    h_previous = _previous(run.h, h0, run.reverse, run.lengths)
    fed = h_previous if run.network.cell.form == "rate" else phi_of(run.network.cell)(h_previous)
    random = 0 if run.noise is None else _noise(run.seed, run.h.shape, run.noise, run.h.dtype)
    return b + (0 if run.drive is None else run.drive) + random + fed @ W.T + run.x @ U.T  # 10.8


def _jacobians(run, at_sums):
    """As `jacobian`, in the order of the steps; phi' from the pre-activations if asked."""
    W, cell = run.network.W, run.network.cell
    if at_sums and cell.form == "rate":
        a, alpha = preactivations(run), cell.alpha
        slope = SLOPES_AT.get(cell.nonlinearity, slope_of(cell))(a)  # of the others phi(a) has the sign of a
        scale = np.broadcast_to(1 if alpha is None else alpha, a.shape[-1:])[:, np.newaxis]
        J = (1 - scale) * np.eye(len(W)) + scale * (slope[..., np.newaxis] * W)
    else:
        J = jacobian(run.h, W, run.h0, cell=cell, rates=run.written_rates, **run.steps)
    return J[::-1] if run.reverse else J
