"""The peers on the same work: forward, and forward with the gradients of x, U, W, b and h0 given dL/dh of every step.

Each is checked against the NumPy loop in float64 before anybody times it.
"""

import ctypes
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import pyrnn

TOLERANCES = {np.float32: 1e-3, np.float64: 1e-9}  # relative to the largest entry


class WrongAnswerError(Exception):
    """A contender whose states or gradients are not those of the NumPy loop."""


class Network(NamedTuple):
    x: np.ndarray  # (T, B, I)
    U: np.ndarray  # (H, I)
    W: np.ndarray  # (H, H)
    b: np.ndarray  # (H,)
    h0: np.ndarray  # (B, H)
    dh: np.ndarray  # (T, B, H)


class Contender(NamedTuple):
    forward: Callable  # () -> h (T, B, H)
    both: Callable | None = None  # () -> gradients of x, U, W, b, h0; None for who has no backward


def network(H, B, T, I, dtype):
    """Random numbers, W of about norm 1."""
    rng = np.random.default_rng(0)
    draw = lambda *shape, scale=1.0: (rng.standard_normal(shape) * scale).astype(dtype)
    return Network(
        draw(T, B, I),
        draw(H, I, scale=I**-0.5),
        draw(H, H, scale=H**-0.5),
        draw(H, scale=0.1),
        draw(B, H, scale=0.1),
        draw(T, B, H),
    )


def ours(net, threads, engine="auto"):
    x, U, W, b, h0, dh = net
    forward = lambda: pyrnn.forward(x, U, W, b, h0, n_threads=threads)
    gradients = lambda: pyrnn.backward(dh, forward(), x, U, W, h0, n_threads=threads)[:5]  # of x, U, W, b and h0
    if engine != "auto":
        forward, gradients = in_engine(engine, forward), in_engine(engine, gradients)
    return Contender(forward, gradients)


def in_engine(engine, function):
    def call():
        with pyrnn.config.using(engine=engine):
            return function()

    return call


def numpy_loop(net, threads):
    """As a careful NumPy user writes them: what can be merged over time is. Threads are those of its BLAS."""
    x, U, W, b, h0, dh = net
    T, B, I = x.shape
    H = len(W)

    def states():
        a = (x.reshape(T * B, I) @ U.T + b).reshape(T, B, H)
        h = np.empty((T + 1, B, H), x.dtype)
        h[0] = h0
        for t in range(T):
            h[t + 1] = np.tanh(a[t] + h[t] @ W.T)
        return h

    def both():
        h = states()
        delta, back = np.empty_like(dh), np.zeros_like(h0)
        for t in reversed(range(T)):
            delta[t] = (dh[t] + back) * (1 - h[t + 1] ** 2)
            back = delta[t] @ W
        rows = delta.reshape(T * B, H)
        dW = rows.T @ h[:-1].reshape(T * B, H)
        return (rows @ U).reshape(x.shape), rows.T @ x.reshape(T * B, I), dW, rows.sum(0), back

    return Contender(lambda: states()[1:], both)


def pytorch(net, threads):
    import torch

    torch.set_num_threads(threads)
    x, dh = (torch.from_numpy(a) for a in (net.x, net.dh))
    h0 = torch.from_numpy(net.h0[None])
    rnn = torch.nn.RNN(net.U.shape[1], len(net.W), dtype=x.dtype)
    with torch.no_grad():
        for parameter, value in zip(rnn.parameters(), (net.U, net.W, net.b, 0 * net.b), strict=True):
            parameter.copy_(torch.from_numpy(value))
    wanted = (x.requires_grad_(), rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0, h0.requires_grad_())

    def forward():
        with torch.no_grad():
            return rnn(x, h0)[0]

    return Contender(forward, lambda: torch.autograd.grad(rnn(x, h0)[0], wanted, dh))


def jax_scan(net, threads):
    """Threads are those that `timing.environment` and the processors of the process allow."""
    import jax

    jax.clear_caches()
    jax.config.update("jax_enable_x64", net.x.dtype == np.float64)

    def states(x, U, W, b, h0):
        def step(h, a):
            h = jax.numpy.tanh(a + h @ W.T)
            return h, h

        return jax.lax.scan(step, h0, x @ U.T + b)[1]

    *arrays, dh = (jax.numpy.asarray(a) for a in net)
    forward, both = jax.jit(states), jax.jit(lambda arrays, dh: jax.vjp(states, *arrays)[1](dh))
    return Contender(lambda: jax.block_until_ready(forward(*arrays)), lambda: jax.block_until_ready(both(arrays, dh)))


def onnx_session(net, threads):
    """An ONNX Runtime session for the network's shapes, and the inputs x and h0 for its `run`; outputs h, last h."""
    import onnx
    import onnxruntime

    weights = {"W": net.U[None], "R": net.W[None], "B": np.concatenate([net.b, 0 * net.b])[None]}
    inputs = {"X": net.x, "H0": net.h0[None]}
    outputs = {"Y": (len(net.x), 1, *net.h0.shape), "Y_h": (1, *net.h0.shape)}
    info = lambda name, shape: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
    names = ["X", "W", "R", "B", "", "H0"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("RNN", names, list(outputs), hidden_size=len(net.W), activations=["Tanh"])],
        "rnn",
        [info(name, value.shape) for name, value in inputs.items()],
        [info(name, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, inputs


def onnx_runtime(net, threads):
    if net.x.dtype != np.float32:
        return None  # it has no float64 RNN
    session, inputs = onnx_session(net, threads)
    return Contender(lambda: session.run(["Y"], inputs)[0])


def onednn(net, threads):
    """Through the library of build_onednn.sh that the variable ONEDNN_LIBRARY names."""
    if net.x.dtype != np.float32 or not os.environ.get("ONEDNN_LIBRARY"):
        return None
    library = ctypes.CDLL(os.environ["ONEDNN_LIBRARY"])
    library.rnn_new.restype = ctypes.c_void_p
    inputs = [np.ascontiguousarray(a) for a in (net.x, net.U.T, net.W.T, *net[3:])]
    h, (dx, dU, dW, db, dh0) = np.empty_like(net.dh), (np.empty_like(a) for a in inputs[:5])
    arrays = (*inputs, h, dx, dU, dW, db, dh0)
    T, B, I = net.x.shape
    rnn = library.rnn_new(T, B, I, len(net.W), *(ctypes.c_void_p(a.ctypes.data) for a in arrays))
    if not rnn:
        return None  # it cannot

    class Handle(ctypes.c_void_p):
        keep = arrays  # what the library reads and writes

        def __del__(self):
            library.rnn_delete(self)

    handle, gradients = Handle(rnn), (dx, dU.T, dW.T, db, dh0)
    library.rnn_forward.restype = library.rnn_both.restype = None
    return Contender(lambda: library.rnn_forward(handle) or h, lambda: library.rnn_both(handle) or gradients)


CONTENDERS = {
    "pyrnn": ours,
    "NumPy": numpy_loop,
    "PyTorch": pytorch,
    "JAX": jax_scan,
    "ONNX Runtime": onnx_runtime,
    "oneDNN": onednn,
}


def compare(who, what, have, want, net):
    """Raise WrongAnswerError unless `have`, one of a contender's results, is `want`."""
    error = abs(np.asarray(have).reshape(want.shape) - want).max() / abs(want).max()
    if not error < TOLERANCES[net.x.dtype.type]:
        T, B, I = net.x.shape
        where = f"H={len(net.W)} B={B} T={T} I={I} {net.x.dtype}"
        raise WrongAnswerError(f"{who}: {what} is off by {error:.1e} of its largest entry at {where}")


def check(name, contender, net, h, gradients):
    """Raise WrongAnswerError unless the contender's states and gradients are these."""
    compare(name, "h", contender.forward(), h, net)
    if contender.both:
        for label, have, want in zip(("x", "U", "W", "b", "h0"), contender.both(), gradients, strict=True):
            compare(name, f"the gradient of {label}", have, want, net)


def ready(net, threads, only=None, makers=CONTENDERS):
    """The contenders that are installed and can do this network, by name, each checked against NumPy in float64.

    Parameters
    ----------
    only : collection of str, optional
        Names of peers to leave in; pyrnn always is.
    makers : dict of str to callable
        What makes a contender of a network and a number of threads, or None or an ImportError where it cannot.

    Raises
    ------
    WrongAnswerError
        For one that computes something else.
    """
    exact = numpy_loop(Network(*(a.astype(np.float64) for a in net)), 1)
    h, gradients, found = exact.forward(), exact.both(), {}
    for name, make in makers.items():
        if only is not None and name != "pyrnn" and name not in only:
            continue
        try:
            contender = make(net, threads)
        except ImportError:
            continue
        if contender is not None:
            check(name, contender, net, h, gradients)
            found[name] = contender
    return found
