"""Draws gradient_flow.png, the picture of gradient-flow.md: python docs/gradient_flow.py"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyrnn

H, T = 32, 60
GAINS = (0.5, 0.8, 1.0, 1.25, 2.0)
COLORS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00")  # of Okabe and Ito

figure = Figure(figsize=(9, 3.4), layout="constrained")
left, right = figure.subplots(1, 2)
x = 0.3 * np.random.default_rng(0).standard_normal((200 + T, 4))
for gain, color in zip(GAINS, COLORS, strict=True):
    network = pyrnn.initialize(4, H, scheme="gaussian", gain=gain, rng=1)
    logs = pyrnn.dynamics.log_singular_values(pyrnn.simulate(network, x), start=200) / np.log(10)
    left.plot(logs[:, 0], color=color, linewidth=2, label=f"gain {gain}")
    if gain in (0.5, 1.0, 2.0):
        axis = np.arange(T + 1)
        left.fill_between(axis, logs[:, 0], logs[:, H // 2], color=color, alpha=0.15, linewidth=0)
    right.plot(np.arange(1, H + 1), logs[T], color=color, linewidth=2)
left.set_title(
    "singular values of $\\partial h_T/\\partial h_{T-n}$: largest, and to the middle one", loc="left", fontsize=9
)
left.set_xlabel("lag n")
left.set_ylabel("$\\log_{10}$")
left.legend(frameon=False, fontsize=8, loc="lower left")
left.set_ylim(-30, 5)
right.axhspan(-400, -16, color="0.93", linewidth=0)
right.text(2, -132, "beyond the digits of the product itself", color="0.4", fontsize=8)
right.set_title(f"all of them after {T} steps", loc="left", fontsize=9)
right.set_xlabel("index")
right.set_ylim(-140, 10)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
figure.savefig(Path(__file__).with_name("gradient_flow.png"), dpi=110)
