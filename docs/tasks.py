"""Draws tasks.png, the picture of tasks.md: python docs/tasks.py"""

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyrnn
from pyrnn import plots

STEPS, EVERY, RATE = 1000, 20, 2e-3
task = pyrnn.tasks.PerceptualDecision(sigma=0.2, batch_size=32)
validation = dataclasses.replace(task, seed=1, batch_size=1000)

# Leaky rectified units: four in five are excitatory, the others inhibitory.
W, signs = pyrnn.training.balanced(50, excitatory=0.8, gain=0.9, rng=1)
constraint = pyrnn.training.Constraint(signs=signs)
rnn = pyrnn.RNN(task.input_size, 50, output_size=task.output_size, nonlinearity="relu", alpha=task.dt / task.tau, rng=0)
rnn.weight_hh_l0 = W

# Adam with clipped gradients, and weights of the wrong sign set to 0 after each step.
history = []
mean, square = np.zeros((2, rnn.parameters.size))
for step in range(STEPS):
    x, y, weights = task.batch(step)
    loss = float(rnn.loss_and_gradients(x, y, weights=weights / weights.sum(), loss=task.loss)[0])
    history.append({"step": step, "loss": loss})
    if step % EVERY == 0 or step == STEPS - 1:
        x, y, weights = validation.batch(0)
        history[-1]["accuracy"] = validation.accuracy(rnn(x)[0], y, weights)
        history[-1]["validation_loss"] = pyrnn.softmax_cross_entropy(rnn(x)[0], y, weights / weights.sum())[0]
    gradients, _ = pyrnn.training.clip_gradients(rnn.gradients, max_norm=0.5)
    mean, square = 0.9 * mean + 0.1 * gradients, 0.999 * square + 0.001 * gradients**2
    rnn.parameters -= (
        RATE
        * (1 - step / STEPS)
        * (mean / (1 - 0.9 ** (step + 1)))
        / (np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8)
    )
    rnn.weight_hh_l0 = constraint.project(rnn.weight_hh_l0)

x, y, weights = validation.batch(0)
difference = np.where(weights[..., np.newaxis] == 0, x, 0).sum(axis=0) @ [0, -1, 1]
by_sum = np.mean(1 + (difference > 0) == validation.trial_info(0)["correct"])
print(f"accuracy after training {history[-1]['accuracy']:.3f}, of the sum of all evidence {by_sum:.3f}")
outputs = rnn(x)[0]
h = rnn.layer_states[0]
coherence, chosen = validation.trial_info(0)["coherence"], validation.choices(outputs, y, weights)
figure = Figure(figsize=(13, 7.5), layout="constrained")
axes = figure.subplots(2, 3)
b = int(np.flatnonzero((coherence == 12.8) & (chosen == 2))[0])
plots.trial(x[:, b], y[:, b], outputs[:, b], h[:, b], weights=weights[:, b], dt=task.dt, ax=axes[0, 0])
plots.learning_curve(history, ax=axes[0, 1])
decided = chosen > 0
plots.psychometric(coherence[decided], chosen[decided] == 2, ax=axes[0, 2])
plots.trajectories(h, coherence, ax=axes[1, 0])
plots.weights(rnn.weight_hh_l0, signs=signs, ax=axes[1, 1])
plots.eigenvalues(rnn.weight_hh_l0, alpha=rnn.alpha, ax=axes[1, 2])
titles = (
    "a trial",
    "",  # the legend is there
    "choices",
    "means by coherence",
    "recurrent weights",
    "eigenvalues of $(1 - α) I + α W$",
)
for ax, title in zip(axes.flat, titles, strict=True):
    ax.set_title(title, loc="left", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
figure.savefig(Path(__file__).with_name("tasks.png"), dpi=80)
