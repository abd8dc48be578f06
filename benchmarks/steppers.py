"""The contenders for one step at a time, as a control loop or a decoder calls it: each keeps its state."""

import contenders
import numpy as np

import pyrnn


def ours(U, W, b, x):
    stepper = pyrnn.Stepper(pyrnn.Network(U, W, b))
    return lambda: stepper.step(x)


def numpy_step(U, W, b, x):
    h = 0 * b

    def step():
        nonlocal h
        h = np.tanh(U @ x + W @ h + b)
        return h

    return step


def rnn_cell(U, W, b, x):
    import torch

    torch.set_num_threads(1)
    x = torch.from_numpy(x)
    h = torch.zeros(len(W), dtype=x.dtype)
    cell = torch.nn.RNNCell(len(x), len(W), dtype=x.dtype).requires_grad_(False)
    for parameter, value in zip(cell.parameters(), (U, W, b, 0 * b), strict=True):
        parameter.copy_(torch.from_numpy(value))

    def step():
        nonlocal h
        h = cell(x, h)
        return h

    return step


def onnx_runtime(U, W, b, x):
    if x.dtype != np.float32:
        return None
    state = np.zeros((1, len(W)), x.dtype)
    net = contenders.Network(x[None, None], U, W, b, state, state[None])
    session, inputs = contenders.onnx_session(net, 1)

    def step():
        inputs["H0"] = session.run(["Y_h"], inputs)[0]
        return inputs["H0"]

    return step


STEPPERS = {"pyrnn": ours, "NumPy": numpy_step, "PyTorch RNNCell": rnn_cell, "ONNX Runtime": onnx_runtime}


def ready(net, only=None, makers=STEPPERS):
    """Functions () -> h by name, of a network that sees the same x in every step, checked against NumPy's third step.

    Arguments and errors as those of `contenders.ready`.
    """
    arrays = (net.U, net.W, net.b, net.x[0, 0])
    exact = numpy_step(*(a.astype(np.float64) for a in arrays))
    expected = [exact() for _ in range(3)][-1]
    found = {}
    for name, make in makers.items():
        if only is not None and name != "pyrnn" and name.removesuffix(" RNNCell") not in only:
            continue
        try:
            step = make(*arrays)
        except ImportError:
            continue
        if step is not None:
            contenders.compare(name, "h after three steps", [step() for _ in range(3)][-1], expected, net)
            found[name] = step
    return found
