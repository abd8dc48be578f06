"""Draws online-learning.png, the picture of online-learning.md: python docs/online_learning.py"""

import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyrnn
from pyrnn import online

T, I, H, STEPS, SEEDS, ALPHA = 300, 2, 32, 10, 100, 0.2
COLORS = {
    "truncated BPTT, 10 steps": "#009E73",
    "SnAp-1": "#0072B2",
    "RFLO": "#D55E00",
    "UORO": "0.7",
    "UORO, mean of 100": "0.35",
    "RTRL": "#000000",
    "BlockedRTRL": "#CC79A7",
}
rng = np.random.default_rng(0)
network = pyrnn.initialize(I, H, 1, scheme="gaussian", gain=1.2, cell=pyrnn.Cell(alpha=ALPHA), rng=1)
x = rng.standard_normal((T, I))
y = np.convolve(x[:, 0], np.ones(20) / 20)[:T]  # the mean of the last 20 inputs is to be told

run = pyrnn.simulate(network, x)
dh = (run.output() - y[:, np.newaxis]) @ network.V


def of_learner(learner, copies=None):
    """Of each step; the mean over so many copies of the sequence."""
    if copies is None:
        return np.array([learner.step(sample, d).W for sample, d in zip(x, dh, strict=True)])
    many = (np.broadcast_to(a[:, np.newaxis], (T, copies, a.shape[1])) for a in (x, dh / copies))
    return np.array([learner.step(sample, d).W for sample, d in zip(*many, strict=True)])


def truncated(t):
    """The gradient of step t through the last steps alone."""
    first = max(0, t + 1 - STEPS)
    part = pyrnn.simulate(network, x[first : t + 1], run.h[first - 1] if first else None)
    only = np.zeros_like(part.h)
    only[-1] = dh[t]
    return part.backward(only).W


def angles(gradients, exact):
    """In degrees, of the sums so far; the first is of nothing, as h_0 is 0."""
    a, e = (np.cumsum(g, axis=0).reshape(T, -1) for g in (gradients, exact))
    cosine = (a * e).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(e, axis=1), 1e-300)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def microseconds(learner, n):
    """A step, the least of some rounds of n."""
    sample, d, times = np.ones(8), np.ones(learner.hidden_size), []
    for _ in range(4):
        begin = time.perf_counter()
        for _ in range(n):
            learner.step(sample, d)
        times.append((time.perf_counter() - begin) / n)
    return 1e6 * min(times)


gradients = {
    "truncated BPTT, 10 steps": np.array([truncated(t) for t in range(T)]),
    "SnAp-1": of_learner(online.SnAp1(network)),
    "RFLO": of_learner(online.RFLO(network)),
    "UORO": of_learner(online.UORO(network, rng=0)),
    "UORO, mean of 100": of_learner(online.UORO(network, rng=0, batch=SEEDS), SEEDS),
    "RTRL": of_learner(online.RTRL(network)),
}
# The exact one: backpropagation of one step's loss is that of all so far less that of all before.
exact = np.zeros((T + 1, H, H))
for t in range(T):
    exact[t + 1] = pyrnn.simulate(network, x[: t + 1]).backward(dh[: t + 1]).W

figure = Figure(figsize=(9, 3.4), layout="constrained")
left, right = figure.subplots(1, 2)
for name, g in gradients.items():
    angle = angles(g, np.diff(exact, axis=0))
    print(f"{name}: {angle[-1]:.1f} degrees after {T} steps")
    left.plot(np.arange(2, T + 1), angle[1:], color=COLORS[name], label=name)
left.set(title="from the exact gradient, all steps so far", xlabel="step", ylabel="angle in degrees", ylim=(-3, 130))
left.set_yticks(range(0, 91, 30))
left.legend(frameon=False, fontsize=8, ncols=2)

sizes = {"RTRL": (16, 32, 64, 128)}
classes = {"RTRL": online.RTRL, "BlockedRTRL": online.BlockedRTRL, "SnAp-1": online.SnAp1, "RFLO": online.RFLO}
for name, cls in (classes | {"UORO": online.UORO}).items():
    Hs = sizes.get(name, (16, 32, 64, 128, 256))
    cell = pyrnn.Cell(alpha=0.1 if name == "RFLO" else None)
    learners = [cls(pyrnn.initialize(8, H, cell=cell, rng=0)) for H in Hs]
    times = [microseconds(learner, 20 if name == "RTRL" else learner.hidden_size) for learner in learners]
    right.loglog(Hs, times, "o-", markersize=4, color=COLORS[name], label=name)
right.set(title="cost", xlabel="H", ylabel="microseconds a step")
right.set_xticks((16, 32, 64, 128, 256), ("16", "32", "64", "128", "256"))
right.minorticks_off()
right.legend(frameon=False, fontsize=8)
figure.savefig(Path(__file__).with_name("online-learning.png"), dpi=110)
