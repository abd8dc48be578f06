"""Draws rate_networks.png, the picture of rate-networks.md: python docs/rate_networks.py"""

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyrnn
from pyrnn import plots
from pyrnn.training import Adam, Constraint, balanced, schedules

STEPS, EVERY, RATE = 500, 10, 2e-2
task = pyrnn.tasks.PerceptualDecision(batch_size=32)
test = dataclasses.replace(task, seed=1, batch_size=2000)

# The network of the page: 80 excitatory units, which the outputs read, and 20 inhibitory ones.
W, signs = balanced(100, excitatory=0.8, rng=0)
constraints = {
    "weight_ih_l0": Constraint(signs=[1, 1, 1], dale="absolute"),
    "weight_hh_l0": Constraint(mask=~np.eye(100, dtype=bool), signs=signs, dale="absolute"),
    "weight_out": Constraint(signs=np.ones(80), dale="absolute"),
}
cell = {"nonlinearity": "relu", "alpha": task.dt / task.tau, "noise": 0.05}
readout = {"output_size": 3, "output_units": signs > 0}
rnn = pyrnn.RNN(3, 100, constraints=constraints, **cell, **readout, rng=0)
rnn.weight_hh_l0 = np.abs(W)


class Accuracy:
    """Adds the accuracy in new trials, with noise of their own, to the record of every 10th step."""

    def on_step_end(self, state):
        if state.step % EVERY == 0:
            x, y, weights = dataclasses.replace(test, batch_size=500).batch(state.step)
            run = pyrnn.simulate(state.rnn, x, noise=state.rnn.noise, seed=state.step)
            outputs = pyrnn.output(run.read, run.network.V, run.network.c)
            state.history[-1]["accuracy"] = test.accuracy(outputs, y, weights)


options = {"optimizer": Adam(lr=RATE), "schedule": schedules.cosine(RATE, T_max=STEPS), "clip_norm": 1.0}
history = pyrnn.fit(rnn, task, steps=STEPS, penalties={"rates_l2": 1e-3}, callbacks=[Accuracy()], **options)

x, y, weights = test.batch(0)
outputs, _ = rnn(x)
h = rnn.layer_states[0]
coherence, chosen = test.trial_info(0)["coherence"], test.choices(outputs, y, weights)
print(f"accuracy {test.accuracy(outputs, y, weights):.4f} after {STEPS} steps")

# Where states go when the inputs are gone, without noise, and how fast they forget while trials follow one another.
rng = np.random.default_rng(0)
visited = h[45:].reshape(-1, 100)[rng.integers(0, 15 * len(h[0]), 300)]
starts = visited + 0.05 * rng.standard_normal((300, 100))
points = pyrnn.dynamics.find_fixed_points(rnn, np.zeros(3), starts=starts, max_speed=1e-6)
print(points, *zip(points.stability.tolist(), np.abs(points.eigenvalues[:, :2]).round(3).tolist(), strict=True))
during = h[5:45].reshape(-1, 100)[rng.integers(0, 40 * len(h[0]), 300)]
for c in (0, 0.064, 0.128):
    found = pyrnn.dynamics.find_fixed_points(rnn, np.array([1, (1 - c) / 2, (1 + c) / 2]), starts=during)
    slow = found[found.slow]
    print(f"coherence {c}: speed {slow.speed.round(5)}, |h| {np.linalg.norm(slow.h, axis=1).round(1)}", slow.counts)
after = pyrnn.simulate(rnn, np.concatenate([x[:45, :40], np.zeros((1000, 40, 3), np.float32)])).h
spectrum = pyrnn.dynamics.lyapunov_spectrum(rnn, x[:, :40].swapaxes(0, 1).reshape(-1, 3))
print("directions forget within, in ms:", (-task.dt / spectrum.exponents[:3]).round())

figure = Figure(figsize=(13, 7.5), layout="constrained")
axes = figure.subplots(2, 3)
plots.learning_curve(history, ax=axes[0, 0])
decided = chosen > 0
plots.psychometric(coherence[decided], chosen[decided] == 2, ax=axes[0, 1])
plots.plot_fixed_points(points, after, axes=axes[0, 2])
plots.weights(rnn.network().W, signs=signs, ax=axes[1, 0])
plots.eigenvalues(points.jacobian[points.stability == "saddle"][0], ax=axes[1, 1])
axes[1, 2].plot(np.arange(1, 101), spectrum.exponents * 1000 / task.dt, ".", color="#0072B2")
axes[1, 2].axhline(0, color="0.8", linewidth=0.8)
axes[1, 2].set(xlabel="index", ylabel="1/s")
titles = (
    "",  # the legend is there
    "choices",
    "after the stimulus",
    "recurrent weights",
    "eigenvalues at the saddle",
    "Lyapunov exponents",
)
for ax, title in zip(axes.flat, titles, strict=True):
    ax.set_title(title, loc="left", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
figure.savefig(Path(__file__).with_name("rate_networks.png"), dpi=80)
