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
constraints = {"weight_hh_l0": pyrnn.training.Constraint(signs=signs, dale="absolute")}
cell = {"nonlinearity": "relu", "alpha": task.dt / task.tau}
rnn = pyrnn.RNN(task.input_size, 50, output_size=task.output_size, constraints=constraints, rng=0, **cell)
rnn.weight_hh_l0 = np.abs(W)  # raw weights are magnitudes


class Accuracy:
    """Adds accuracy and loss in new trials to the record of every 20th step."""

    def on_step_end(self, state):
        if state.step % EVERY == 0 or state.step == STEPS:
            x, y, weights = validation.batch(0)
            o, _ = state.rnn(x)
            loss, _ = pyrnn.softmax_cross_entropy(o, y, weights / weights.sum())
            state.history[-1].update(accuracy=validation.accuracy(o, y, weights), validation_loss=float(loss))


history = pyrnn.fit(
    rnn,
    task,
    steps=STEPS,
    optimizer=pyrnn.training.Adam(lr=RATE),
    schedule=lambda step: RATE * (1 - step / STEPS),
    clip_norm=0.5,
    callbacks=[Accuracy()],
)

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
plots.weights(rnn.network().W, signs=signs, ax=axes[1, 1])
plots.eigenvalues(rnn.network().W, alpha=rnn.alpha, ax=axes[1, 2])
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
