"""Draws balance.png, the picture of constraints.md: python docs/balance.py"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyrnn

W, signs = pyrnn.training.balanced(400, gain=1.0, rng=0)
matrices = {
    "rows sum to zero": W,
    "shuffled within columns": np.random.default_rng(1).permuted(W, axis=0),
    "10 % less inhibition": W * np.where(signs > 0, 1, 0.9),
}
circle = np.exp(2j * np.pi * np.linspace(0, 1, 200))

figure = Figure(figsize=(8, 2.9), layout="constrained")
for axes, (title, matrix) in zip(figure.subplots(1, 3, sharex=True, sharey=True), matrices.items(), strict=True):
    eigenvalues = np.linalg.eigvals(matrix)
    outside = np.abs(eigenvalues) > 1.1
    axes.plot(circle.real, circle.imag, color="0.25", linewidth=0.8)
    axes.plot(eigenvalues[~outside].real, eigenvalues[~outside].imag, ".", markersize=3, color="#0072B2")
    axes.plot(eigenvalues[outside].real, eigenvalues[outside].imag, "o", markersize=5, color="#D55E00")
    axes.set(title=title, aspect="equal", xlabel="real part")
figure.axes[0].set_ylabel("imaginary part")
figure.savefig(Path(__file__).with_name("balance.png"), dpi=110)
