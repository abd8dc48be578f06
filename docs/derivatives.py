"""Draws derivatives.png, the picture of derivatives.md: python docs/derivatives.py"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize

import pyrnn

start = pyrnn.initialize(1, 6, 1, rng=3)
wave = np.sin(0.7 * np.arange(80.0))[:, np.newaxis]
objective = pyrnn.training.Objective(start, wave[:-1], wave[1:], loss="squared_error")
trained = minimize(
    objective.fun, objective.first, jac=objective.jac, hessp=objective.ggnp, method="trust-ncg",
    options={"maxiter": 60},
).x  # fmt: skip

figure = Figure(figsize=(8, 2.8), layout="constrained")
panels = figure.subplots(1, 2, sharey=True)
for axes, point, when in zip(panels, (objective.first, trained), ("before", "after"), strict=True):
    directions = np.eye(point.size)
    for product, marker, color, name in (
        (objective.hessp, "o", "#0072B2", "Hessian"),
        (objective.ggnp, "x", "#D55E00", "Gauss-Newton"),
    ):
        matrix = np.stack([product(point, v) for v in directions])
        eigenvalues = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        axes.plot(eigenvalues[::-1], marker, color=color, markersize=4, fillstyle="none", label=name)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set(title=f"{when} training: loss {objective.fun(point):.2g}", xlabel="eigenvalues by size", yscale="symlog")
panels[0].legend(frameon=False)
figure.savefig(Path(__file__).with_name("derivatives.png"), dpi=110)
