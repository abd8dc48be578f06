"""Every kind of call that may run on several threads, for the tests of threads: plain helpers, no tests.

A form is a function without arguments that returns the bytes of all its results. The number of threads is that of
PYRNN_NUM_THREADS, for functions that have `n_threads` and for those that have not. Chunks of time have the size that is
set: the usual one, or a few steps (CHUNKS).
"""

import itertools
import os

import numpy as np

import pyrnn

LEAKS = ("plain", "rate", "current")
STEPS = ("all", "reverse", "sorted", "sorted, reverse", "unsorted", "unsorted, reverse", "mask", "mask, reverse")
CHUNKS = (0, 2000)  # bytes; 0 for the usual rule
NONLINEARITIES = ("tanh", "relu", "identity")
SIZES = {  # T, B, I, H, dtype
    "small": (7, 13, 5, 20, np.float32),  # 5 inputs: loads and stores under a mask
    "narrow": (5, 9, 3, 132, np.float64),  # delta is packed for the weight gradients
    "crowded": (4, 9, 3, 256, np.float64),  # and states are kept a second time, padded
}


def threads(number):
    """Let every call take this number of threads."""
    os.environ["PYRNN_NUM_THREADS"] = str(number)


def network(T, B, I, H, dtype, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)
    scale = dtype(0.7 / H**0.5)
    return {
        "x": draw(T, B, I), "U": draw(H, I) * dtype(0.5), "W": draw(H, H) * scale, "b": draw(H) * dtype(0.3),
        "h0": draw(B, H) * dtype(0.3), "dh": draw(T, B, H), "drive": draw(T, B, H) * dtype(0.3),
        "alpha": rng.uniform(0.2, 0.9, H).astype(dtype), "lengths": rng.integers(0, T + 1, B),
        "mask": rng.random((T, B)) < 0.7, "accumulated": draw(T, B, I),
    }  # fmt: skip


def bits(results):
    return [np.asarray(a).tobytes() for a in results if a is not None]


def which_steps(steps, n):
    chosen = {"reverse": "reverse" in steps}
    if "unsorted" in steps:
        chosen["lengths"] = n["lengths"]
    elif "sorted" in steps:
        chosen["lengths"] = np.sort(n["lengths"])[::-1].copy()
    elif "mask" in steps:
        chosen["mask"] = n["mask"]
    return chosen


def loop(n, leak, steps, nonlinearity, drive, add):
    """forward, backward, where `add` once more into the same gradients, and state_gradients."""
    x, U, W, b, h0, dh = (n[name] for name in ("x", "U", "W", "b", "h0", "dh"))
    cell = {"nonlinearity": nonlinearity} | which_steps(steps, n)
    rates = None
    if leak != "plain":
        cell |= {"alpha": n["alpha"], "form": leak}
        rates = np.zeros_like(dh)
    driven = {"drive": n["drive"]} if drive else {}
    h = pyrnn.forward(x, U, W, b, h0, rates=rates, engine="fused", **cell, **driven)
    g = pyrnn.backward(dh, h, x, U, W, h0, rates=rates, engine="fused", **cell, **driven)
    results = [h, rates, *g]
    if add:
        names = ("x", "U", "W", "b")
        again = pyrnn.backward(
            dh, h, x, U, W, h0, rates=rates, engine="fused", out=g, accumulate=names, **cell, **driven
        )
        results += [again.x.copy(), again.U.copy(), again.W.copy(), again.b.copy()]
    results.append(pyrnn.state_gradients(dh, h, W, rates=rates, **cell))
    return bits(results)


def loops(size):
    """The loops over time in every form of cell and steps; drives, sums and nonlinearities take turns."""
    n, forms = network(*SIZES[size]), {}
    for i, (leak, steps) in enumerate(itertools.product(LEAKS, STEPS)):
        arguments = (n, leak, steps, NONLINEARITIES[i % 3], i // 2 % 2 == 0, i % 2 == 0)
        forms[f"{leak}; {steps}; {size}"] = lambda arguments=arguments: loop(*arguments)
    return forms


def callers():
    """The functions that are built on those loops, each in one form or two."""
    n = network(9, 12, 4, 18, np.float64)
    x, U, W, b, h0, dh, alpha = (n[name] for name in ("x", "U", "W", "b", "h0", "dh", "alpha"))
    rng = np.random.default_rng(1)
    V, c = rng.standard_normal((3, 18)) / 4, np.zeros(3)
    parameters, classes = pyrnn.Parameters(U, W, b, V, c), rng.integers(0, 3, (9, 12))
    direction = {"x_dot": n["accumulated"], "W_dot": W[::-1].copy()}
    h = pyrnn.forward(x, U, W, b, h0, engine="fused")
    forms = {
        "loss_and_gradients": lambda: flat(pyrnn.loss_and_gradients(parameters, x, classes, h0=h0)),
        "checkpointing": lambda: flat(pyrnn.loss_and_gradients(parameters, x, classes, h0=h0, memory_limit=230_000)),
        "truncated": lambda: flat(pyrnn.truncated_gradients(parameters, x, classes, k1=2, k2=4)),
        "jvp": lambda: flat(pyrnn.jvp(h, x, U, W, h0, **direction)),
        "backward_jvp": lambda: flat(pyrnn.backward_jvp(dh, h, x, U, W, h0, **direction)),
        "per sample": lambda: flat(pyrnn.per_sample_gradients(dh, h, x, U, W, h0)),
        "products of Jacobians": lambda: flat(pyrnn.jacobian_product(h, W)),
        "singular values": lambda: flat(pyrnn.log_singular_values(h[:3], W)),
        "gradient flow": lambda: flat(pyrnn.gradient_flow(parameters, x)),
        "Lyapunov": lambda: flat([pyrnn.lyapunov_spectrum(parameters, x[:, 0], k=3).exponents]),
        "fixed points": lambda: flat([pyrnn.find_fixed_points(parameters, starts=h[:, 0]).h]),
        "layers of rates": lambda: layers(n, classes, alpha, "rate"),
        "layers of currents": lambda: layers(n, classes, alpha, "current"),
        "Stepper": lambda: steps(pyrnn.Stepper(U, W, b, batch=12, h0=h0), x),
    }
    for name in ("RTRL", "BlockedRTRL", "SnAp1", "RFLO", "UORO"):
        options = {"batch": 12} | ({"rng": 0} if name == "UORO" else {})
        make = getattr(pyrnn, name)
        forms[name] = lambda make=make, options=options: learn(make(U, W, b, h0, alpha=alpha, **options), x, dh)
    return forms


def flat(results):
    """The bytes of what a function returns, of arrays in tuples of any depth."""
    if results is None or isinstance(results, str):
        return []
    if isinstance(results, tuple | list):
        return [part for a in results for part in flat(a)]
    return bits([results])


def layers(n, classes, alpha, form):
    rnn = pyrnn.RNN(
        4, 18, 2, bidirectional=True, alpha=alpha, form=form, output_size=3, dtype=np.float64, dropout=0.3, rng=0
    )
    loss = rnn.loss_and_gradients(n["x"], classes, lengths=n["lengths"])
    return [*flat(loss), rnn.gradients.tobytes()]


def steps(stepper, x):
    return [stepper.step(x_t).tobytes() for x_t in x]


def learn(learner, x, dh):
    return [part for x_t, dh_t in zip(x, dh, strict=True) for part in flat(learner.step(x_t, dh_t))]


def tensors():
    """PyTorch's module over the same loops; nothing where PyTorch is missing."""
    try:
        import torch
    except ImportError:
        return {}
    from pyrnn.torch import RNN

    torch.manual_seed(0)
    module = RNN(4, 18, 2, bidirectional=True).double()
    x, lengths = torch.randn(9, 12, 4, dtype=torch.float64), torch.arange(12) % 9 + 1

    def run(pack):
        given = x.clone().requires_grad_()
        packed = torch.nn.utils.rnn.pack_padded_sequence(given, lengths, enforce_sorted=False) if pack else given
        out, h_n = module(packed)
        out = out.data if pack else out
        gradients = torch.autograd.grad(out.sum() + (h_n * h_n).sum(), [given, *module.parameters()])
        return bits([a.detach().numpy() for a in (out, h_n, *gradients)])

    return {"tensors": lambda: run(False), "packed tensors": lambda: run(True)}
