"""Every kind of call that may run on several threads, for the tests of threads: plain helpers, no tests.

A form is a function without arguments that returns the bytes of all its results. The number of threads is that of
PYRNN_NUM_THREADS, for functions that have `n_threads` and for those that have not. Chunks of time have the size that is
set: the usual one, or a few steps (CHUNKS).
"""

import itertools
import os
import re

import numpy as np
from helpers import FUSED, add_gradients

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
    leaky = leak != "plain"
    options = {"cell": cell_of(n, leak, nonlinearity), "rates": np.zeros_like(dh) if leaky else None}
    options |= which_steps(steps, n)
    driven = {"drive": n["drive"] if drive else None}
    h = FUSED.forward(x, U, W, b, h0, **options, **driven)
    g = FUSED.backward(dh, h, x, U, W, h0, **options, **driven)
    results = [h, options["rates"], *g]
    if add:
        zeros = np.zeros_like(options["cell"].leak(len(W), h.dtype)) if leaky else None
        into = [None if a is None else a.copy() for a in g[:6]]
        results += add_gradients(dh, h, x, U, W, h0, (*into, zeros), weights=True, x_too=True, **options, **driven)[:6]
    results.append(pyrnn.state_gradients(dh, h, W, **options))
    return bits(results)


def cell_of(n, leak, nonlinearity="tanh"):
    return pyrnn.Cell(nonlinearity) if leak == "plain" else pyrnn.Cell(nonlinearity, n["alpha"], leak)


def loops(size):
    """The loops over time in every form of cell and steps; drives, sums and nonlinearities take turns."""
    n, forms = network(*SIZES[size]), {}
    for i, (leak, steps) in enumerate(itertools.product(LEAKS, STEPS)):
        arguments = (n, leak, steps, NONLINEARITIES[i % 3], i // 2 % 2 == 0, i % 2 == 0)
        forms[f"{leak}; {steps}; {size}"] = lambda arguments=arguments: loop(*arguments)
    return forms


def callers():
    """The functions that are built on those loops, each with a cell without a leak and with both leaks."""
    n, forms = network(9, 12, 4, 18, np.float64), {}
    classes = np.random.default_rng(1).integers(0, 3, (9, 12))
    for leak in LEAKS:
        forms |= {f"{name}; {leak}": form for name, form in callers_of(n, classes, cell_of(n, leak)).items()}
    forms["population"] = population
    for form in ("rate", "current"):
        forms[f"layers; {form}"] = lambda form=form: layers(n, classes, n["alpha"], form)
    return forms


def callers_of(n, classes, cell):
    x, U, W, b, h0, dh = (n[name] for name in ("x", "U", "W", "b", "h0", "dh"))
    V, c = np.random.default_rng(2).standard_normal((3, 18)) / 4, np.zeros(3)
    net = pyrnn.Network(U, W, b, V, c, cell=cell)
    fed = net._replace(R=V.T.copy())
    direction = pyrnn.Direction(x=n["accumulated"], W=W[::-1].copy())
    run = FUSED.simulate(net, x, h0)
    masked = FUSED.simulate(net, x, h0, mask=n["mask"])
    short, row = FUSED.simulate(net, x[:3], h0), FUSED.simulate(net, x[:, 0])
    dynamics, training = pyrnn.dynamics, pyrnn.training
    forms = {
        "simulate": lambda: flat(pyrnn.simulate(net, x, h0, mask=n["mask"]).backward(dh, n["drive"])),
        "noise": lambda: flat([training.noise(3, (9, 12, 18))]),
        "simulate with noise": lambda: flat([FUSED.simulate(net, x, h0, noise=0.3, seed=5).h]),
        "simulate with lengths and noise": lambda: flat(
            [FUSED.simulate(net, x, h0, lengths=n["lengths"], reverse=True, noise=0.3, seed=5).h]
        ),
        "simulate with a mask and noise": lambda: flat(
            [FUSED.simulate(net, x, h0, mask=n["mask"], drive=n["drive"], noise=0.3, seed=5).h]
        ),
        "loss_and_gradients": lambda: flat(pyrnn.loss_and_gradients(net, x, classes, h0=h0)),
        "checkpointing": lambda: checkpointing(
            lambda limit: pyrnn.loss_and_gradients(net, x, classes, h0=h0, memory_limit=limit)
        ),
        "truncated": lambda: flat(training.truncated_gradients(net, x, classes, k1=2, k2=4)),
        "teacher forcing": lambda: flat(training.teacher_forcing(fed, x, classes)),
        "curvature": lambda: curvature(training.Objective(net, x, classes, h0=h0)),
        "jvp": lambda: flat(pyrnn.jvp(run, direction)),
        "jvp of a mask": lambda: flat(pyrnn.jvp(masked, direction)),
        "backward_jvp": lambda: flat(pyrnn.backward_jvp(run, dh, direction)),
        "per sample": lambda: flat(training.per_sample_gradients(run, dh)),
        "products of Jacobians": lambda: flat(dynamics.jacobian_product(run)),
        "products with vectors": lambda: flat([dynamics.push(run, h0[:, np.newaxis]), dynamics.pull(run, dh[:1, 0])]),
        "singular values": lambda: flat(dynamics.log_singular_values(short)),
        "gradient flow": lambda: flat(dynamics.gradient_flow(net, x, classes)),
        "Lyapunov": lambda: flat([dynamics.lyapunov_spectrum(net, x[:, 0], k=3).exponents]),
        "fixed points": lambda: flat([dynamics.find_fixed_points(net, starts=row.h).h]),
        "Stepper": lambda: steps(pyrnn.Stepper(net, h0, batch=12), x),
    }
    for name in ("RTRL", "BlockedRTRL", "SnAp1", "RFLO", "UORO"):
        options = {"batch": 12} | ({"rng": 0} if name == "UORO" else {})
        make = getattr(pyrnn.online, name)
        forms[name] = lambda make=make, options=options: learn(make(net, h0, **options), x, dh)
    return forms


def curvature(objective):
    p, v = objective.first, objective.first[::-1].copy()
    return flat([objective.jac(p), objective.hessp(p, v), objective.ggnp(p, v)])


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


def population():
    """As many networks at once as a call has threads, with penalties that all of them share."""
    rng = np.random.default_rng(4)
    data = rng.standard_normal((5, 6, 2)), rng.integers(0, 3, (5, 6))
    make = lambda k: pyrnn.RNN(2, 9, 2, output_size=3, alpha=0.4, noise=0.1, dropout=0.2, rng=k)
    options = {"loss": "softmax_cross_entropy", "batch_size": 4, "steps": 3, "clip_norm": 0.5}
    penalties = [pyrnn.training.L2(0.1), pyrnn.training.L1(0.1)]
    found = pyrnn.fit_population(make, 4, data, penalties=penalties, **options)
    return flat([rnn.parameters for rnn in found.rnns])


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
    from pyrnn.bridges.torch import RNN

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


def checkpointing(call):
    """With the least memory that will do, which the error for less says."""
    try:
        return flat(call(1))
    except ValueError as error:
        return flat(call(int(re.search(r"at least (\d+) bytes", str(error))[1])))
