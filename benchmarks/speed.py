"""Times pyrnn beside a NumPy loop, PyTorch, JAX and ONNX Runtime on the same work, in one run, call by call in turn.

    OPENBLAS_NUM_THREADS=1 taskset -c 0 python -P benchmarks/speed.py [--dtype float64] [--steps 100] [H:B ...]

The work: forward, and forward with the gradients of x, U, W, b and h0 given dL/dh for every step; I = min(H, 64).
What is not installed is left out. Each figure is a median over rounds; in a round every contender runs in turn, so that
a drift of the machine's speed falls on all of them. Prints one Markdown row for each network and the geometric means.
"""

import argparse
import itertools
import statistics
import time

import numpy as np

import pyrnn

GRID = tuple(itertools.product((32, 64, 128, 256, 512), (1, 8, 32, 128)))


def numpy_loop(x, U, W, b, h0, dh):
    """(forward, forward and gradients) as a careful NumPy user writes them: what can be merged over time is."""
    T, B, I = x.shape
    H = len(W)

    def forward():
        a = (x.reshape(T * B, I) @ U.T + b).reshape(T, B, H)
        h = np.empty((T + 1, B, H), x.dtype)
        h[0] = h0
        for t in range(T):
            h[t + 1] = np.tanh(a[t] + h[t] @ W.T)
        return h

    def both():
        h = forward()
        delta, back = np.empty_like(dh), np.zeros_like(h0)
        for t in reversed(range(T)):
            delta[t] = (dh[t] + back) * (1 - h[t + 1] ** 2)
            back = delta[t] @ W
        rows = delta.reshape(T * B, H)
        return rows @ U, rows.T @ x.reshape(T * B, I), rows.T @ h[:-1].reshape(T * B, H), rows.sum(0), back

    return forward, both


def ours(x, U, W, b, h0, dh):
    forward = lambda: pyrnn.forward(x, U, W, b, h0, n_threads=1)
    return forward, lambda: pyrnn.backward(dh, forward(), x, U, W, h0, n_threads=1)


def pytorch(x, U, W, b, h0, dh):
    import torch

    torch.set_num_threads(1)
    rnn = torch.nn.RNN(U.shape[1], len(W), dtype=torch.from_numpy(x).dtype)
    with torch.no_grad():
        for parameter, value in zip(rnn.parameters(), (U, W, b, 0 * b), strict=True):
            parameter.copy_(torch.from_numpy(value))
    tx, th, tg = torch.from_numpy(x).requires_grad_(), torch.from_numpy(h0[None]).requires_grad_(), torch.from_numpy(dh)
    wanted = (tx, rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0, th)

    def forward():
        with torch.no_grad():
            rnn(tx, th)

    return forward, lambda: torch.autograd.grad(rnn(tx, th)[0], wanted, tg)


def jax_scan(x, U, W, b, h0, dh):
    import jax

    jax.config.update("jax_enable_x64", x.dtype == np.float64)

    def states(x, U, W, b, h0):
        def step(h, a):
            h = jax.numpy.tanh(a + h @ W.T)
            return h, h

        return jax.lax.scan(step, h0, x @ U.T + b)[1]

    arrays = [jax.numpy.asarray(v) for v in (x, U, W, b, h0)]
    forward, both = jax.jit(states), jax.jit(lambda arrays, dh: jax.vjp(states, *arrays)[1](dh))
    return lambda: jax.block_until_ready(forward(*arrays)), lambda: jax.block_until_ready(both(arrays, dh))


def onnx_runtime(x, U, W, b, h0, dh):
    import onnx
    import onnxruntime

    if x.dtype != np.float32:
        raise ImportError("ONNX Runtime has no float64 RNN")
    weights = {"W": U[None], "R": W[None], "B": np.concatenate([b, 0 * b])[None]}
    inputs, output = {"X": x, "H0": h0[None]}, (len(x), 1, *h0.shape)
    info = lambda name, shape: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
    node = onnx.helper.make_node("RNN", ["X", "W", "R", "B", "", "H0"], ["Y"], hidden_size=len(W), activations=["Tanh"])
    graph = onnx.helper.make_graph(
        [node],
        "rnn",
        [info(name, value.shape) for name, value in inputs.items()],
        [info("Y", output)],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs), None


CONTENDERS = {"pyrnn": ours, "NumPy": numpy_loop, "PyTorch": pytorch, "JAX": jax_scan, "ONNX Runtime": onnx_runtime}


def network(H, B, T, dtype):
    rng = np.random.default_rng(0)
    I = min(H, 64)
    draw = lambda *shape, scale=1.0: (rng.standard_normal(shape) * scale).astype(dtype)
    return draw(T, B, I), draw(H, I, scale=I**-0.5), draw(H, H, scale=H**-0.5), draw(H), draw(B, H), draw(T, B, H)


def medians(functions, rounds=9, seconds=0.03):
    """Seconds a call, by name: the median over rounds in which every function runs in turn."""
    repeats = {}
    for name, f in functions.items():
        f(), f()
        begin = time.perf_counter()
        f()
        repeats[name] = max(1, int(seconds / (time.perf_counter() - begin)))
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, f in functions.items():
            begin = time.perf_counter()
            for _ in range(repeats[name]):
                f()
            times[name].append((time.perf_counter() - begin) / repeats[name])
    return {name: statistics.median(values) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("networks", nargs="*", metavar="H:B", help="default: H 32 to 512, B 1 to 128")
    options = parser.parse_args()
    grid = [tuple(map(int, text.split(":"))) for text in options.networks] or GRID
    ratios, names = {}, None
    for H, B in grid:
        arrays = network(H, B, options.steps, options.dtype)
        ready = {}
        for name, make in CONTENDERS.items():
            try:
                ready[name] = make(*arrays)
            except ImportError:
                continue
        if names is None:
            names = list(ready)
            print(f"| H, B | forward: {' | '.join(names)} | forward and gradients: {' | '.join(names)} |")
            print("|---" * (1 + 2 * len(names)) + "|")
        cells = []
        for k in (0, 1):
            times = medians({name: pair[k] for name, pair in ready.items() if pair[k]})
            cells += [f"{times[name] * 1e6:.0f}" if name in times else "" for name in names]
            for name in times:
                ratios.setdefault((name, k), []).append(times[name] / times["pyrnn"])
        print(f"| {H}, {B} | {' | '.join(cells)} |", flush=True)
    for (name, k), values in ratios.items():
        if name != "pyrnn":
            work = ("forward", "forward and gradients")[k]
            print(f"{name} / pyrnn, {work}: geometric mean {statistics.geometric_mean(values):.2f}, ", end="")
            print(f"least {min(values):.2f}")


if __name__ == "__main__":
    main()
