"""Draws fixed_points.png, the picture of fixed-points.md: python docs/fixed_points.py"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyrnn
from pyrnn.dynamics import find_fixed_points
from pyrnn.plots import plot_fixed_points

H, STEPS = 32, 600
rng = np.random.default_rng(0)


def flip_flop(T, B):
    """Pulses of ±1 on two lines, and as targets the last pulse of each."""
    x = (rng.random((T, B, 2)) < 0.1) * rng.choice([-1.0, 1.0], (T, B, 2))
    x[0] = rng.choice([-1.0, 1.0], (B, 2))
    targets = x.copy()
    for t in range(1, T):
        targets[t] = np.where(x[t] == 0, targets[t - 1], x[t])
    return x, targets


# Adam, with a rate that falls.
rnn = pyrnn.RNN(2, H, output_size=2, dtype=np.float64, rng=rng)
mean, square = np.zeros((2, rnn.parameters.size))
for k in range(1, STEPS + 1):
    loss = rnn.loss_and_gradients(*flip_flop(50, 32), loss="squared_error")[0] / (50 * 32)
    gradient = rnn.gradients / (50 * 32)
    mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
    rate = 5e-3 * (1 - k / STEPS)
    rnn.parameters -= rate * (mean / (1 - 0.9**k)) / (np.sqrt(square / (1 - 0.999**k)) + 1e-8)
print(f"mean squared error after training: {loss:.4f}")

# States that it visits, with noise, are where the search starts.
x, _ = flip_flop(100, 8)
h = pyrnn.simulate(rnn, x).h
visited = h[10:].reshape(-1, H)
starts = visited[rng.integers(0, len(visited), 1000)] + 0.3 * rng.standard_normal((1000, H))
points = find_fixed_points(rnn, starts=starts)
print(points, dict(zip(*np.unique(points.stability, return_counts=True), strict=True)))

figure = Figure(figsize=(9.5, 4.2), layout="constrained")
plane, circle = figure.subplots(1, 2, width_ratios=[1.5, 1])
plot_fixed_points(points, h[10:], axes=plane)
plane.set_title("states, and the points that organise them", loc="left")

angles = np.linspace(0, 2 * np.pi, 200)
circle.plot(np.cos(angles), np.sin(angles), color="0.8", linewidth=0.8)
for kind, color in (("stable", "#0072B2"), ("saddle", "#D55E00")):
    values = points[(points.stability == kind) & ~points.slow].eigenvalues.ravel()
    circle.plot(values.real, values.imag, ".", color=color, markersize=4, label=kind)
circle.set(title="eigenvalues of their Jacobians", aspect="equal", xlabel="real part", ylabel="imaginary part")
for axes in (plane, circle):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(Path(__file__).with_name("fixed_points.png"), dpi=100)
