"""Draws fixed_points.png, the picture of fixed-points.md: python docs/fixed_points.py"""

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyrnn
from pyrnn.dynamics import find_fixed_points
from pyrnn.plots import plot_fixed_points

H, STEPS = 32, 600

# Pulses of ±1 on two lines; the targets are the last pulse of each.
task = pyrnn.tasks.FlipFlop(bits=2, duration=1000, interval=200, sigma=0, batch_size=32)
rnn = pyrnn.RNN(task.input_size, H, output_size=task.output_size, dtype=np.float64, rng=0)
rate = lambda step: 5e-3 * (1 - step / STEPS)
history = pyrnn.fit(rnn, task, steps=STEPS, optimizer="adam", schedule=rate)
print(f"mean squared error after training: {history[-1]['loss']:.4f}")

# States that it visits, with noise, are where the search starts.
rng = np.random.default_rng(0)
h = pyrnn.simulate(rnn, dataclasses.replace(task, duration=2000, batch_size=8, seed=1).batch(0).x).h
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
