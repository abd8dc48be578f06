"""Draws leaks.png, the picture of cells.md: python docs/leaks.py"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyrnn

T = 90
x = np.zeros((T, 1))
x[10:40] = 3.0  # a strong input that comes and goes
network = pyrnn.Network(np.ones((1, 1)), np.zeros((1, 1)))

figure = Figure(figsize=(8, 2.8), layout="constrained")
panels = figure.subplots(1, 2, sharey=True)
for axes, form in zip(panels, ("rate", "current"), strict=True):
    axes.fill_between(np.arange(T), 0, np.tanh(x[:, 0]), color="0.92", step="mid", label="without leak")
    for alpha, color in ((0.3, "#0072B2"), (0.1, "#D55E00")):
        run = pyrnn.simulate(network._replace(cell=pyrnn.Cell(alpha=alpha, form=form)), x)
        axes.plot(run.read, color=color, label=f"α = {alpha}")
    axes.set(title=f'form="{form}": {"h" if form == "rate" else "φ(h), the rates"}', xlabel="step", ylim=(0, 1.05))
panels[0].set_ylabel("what the output reads")
panels[0].legend(frameon=False, loc="upper right")
figure.savefig(Path(__file__).with_name("leaks.png"), dpi=110)
