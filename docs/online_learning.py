"""Draws online-learning.png, the picture of online-learning.md: python docs/online_learning.py"""

import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyrnn

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
U, W, b, V, c = pyrnn.initialize(I, H, 1, scheme="gaussian", gain=1.2, rng=1)
x = rng.standard_normal((T, I))
y = np.convolve(x[:, 0], np.ones(20) / 20)[:T]  # the mean of the last 20 inputs is to be told

rates = np.empty((T, H))
h = pyrnn.forward(x, U, W, b, alpha=ALPHA, rates=rates)
dh = (h @ V.T - y[:, np.newaxis]) @ V


def of_learner(learner, copies=None):
    """Of each step; the mean over so many copies of the sequence."""
    if copies is None:
        return np.array([learner.step(sample, d).W for sample, d in zip(x, dh, strict=True)])
    many = (np.broadcast_to(a[:, np.newaxis], (T, copies, a.shape[1])) for a in (x, dh / copies))
    return np.array([learner.step(sample, d).W for sample, d in zip(*many, strict=True)])


def truncated(t):
    """The gradient of step t through the last steps alone."""
    first = max(0, t + 1 - STEPS)
    last = slice(first, t + 1)
    only = np.zeros_like(dh[last])
    only[-1] = dh[t]
    h0 = h[first - 1] if first else np.zeros(H)
    return pyrnn.backward(only, h[last], x[last], U, W, h0, alpha=ALPHA, rates=rates[last]).W


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
    "SnAp-1": of_learner(pyrnn.SnAp1(U, W, b, alpha=ALPHA)),
    "RFLO": of_learner(pyrnn.RFLO(U, W, b, alpha=ALPHA)),
    "UORO": of_learner(pyrnn.UORO(U, W, b, alpha=ALPHA, rng=0)),
    "UORO, mean of 100": of_learner(pyrnn.UORO(U, W, b, alpha=ALPHA, rng=0, batch=SEEDS), SEEDS),
    "RTRL": of_learner(pyrnn.RTRL(U, W, b, alpha=ALPHA)),
}
# The exact one: backpropagation of one step's loss is that of all so far less that of all before.
exact = np.zeros((T + 1, H, H))
for t in range(T):
    exact[t + 1] = pyrnn.backward(dh[: t + 1], h[: t + 1], x[: t + 1], U, W, alpha=ALPHA, rates=rates[: t + 1]).W

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
classes = {"RTRL": pyrnn.RTRL, "BlockedRTRL": pyrnn.BlockedRTRL, "SnAp-1": pyrnn.SnAp1, "RFLO": pyrnn.RFLO}
for name, cls in (classes | {"UORO": pyrnn.UORO}).items():
    Hs = sizes.get(name, (16, 32, 64, 128, 256))
    params = {H: pyrnn.initialize(8, H, rng=0)[:3] for H in Hs}
    options = {"alpha": 0.1} if name == "RFLO" else {}
    times = [microseconds(cls(*params[H], **options), 20 if name == "RTRL" else H) for H in Hs]
    right.loglog(Hs, times, "o-", markersize=4, color=COLORS[name], label=name)
right.set(title="cost", xlabel="H", ylabel="microseconds a step")
right.set_xticks((16, 32, 64, 128, 256), ("16", "32", "64", "128", "256"))
right.minorticks_off()
right.legend(frameon=False, fontsize=8)
figure.savefig(Path(__file__).with_name("online-learning.png"), dpi=110)
