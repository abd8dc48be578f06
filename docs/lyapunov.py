"""Draws lyapunov.png, the picture of lyapunov.md: python docs/lyapunov.py"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyrnn
from pyrnn.dynamics import lyapunov_spectrum
from pyrnn.training import spectral_radius

H, STEPS = 100, 4000
GAINS = (0.8, 1.3, 1.8, 3.0)
COLORS = ("#0072B2", "#009E73", "#E69F00", "#D55E00")  # of Okabe and Ito

figure = Figure(figsize=(9, 3.4), layout="constrained")
left, right = figure.subplots(1, 2)
network = pyrnn.Network(np.zeros((H, 0)), np.random.default_rng(0).standard_normal((H, H)) / H**0.5)  # no input
for gain, color in zip(GAINS, COLORS, strict=True):
    spectrum = lyapunov_spectrum(network._replace(W=gain * network.W), steps=STEPS)
    label = f"gain {gain}, dimension {spectrum.dimension:.0f}"
    left.plot(np.arange(1, H + 1), spectrum.exponents, color=color, linewidth=2, label=label)
left.axhline(0, color="0.6", linewidth=0.8, zorder=0)
left.set_title(f"the spectrum of tanh networks, H = {H}", loc="left", fontsize=9)
left.set_xlabel("index")
left.set_ylabel("exponent, nats per step")
left.set_ylim(-4, 0.6)
left.legend(frameon=False, fontsize=8, loc="lower left")

gains = np.linspace(0.6, 3, 25)
spectra = [lyapunov_spectrum(network._replace(W=gain * network.W), steps=STEPS, k=1) for gain in gains]
largest = np.array([s.exponents[0] for s in spectra])
errors = np.array([s.standard_errors[0] for s in spectra])
right.axhline(0, color="0.6", linewidth=0.8, zorder=0)
radius = spectral_radius(network.W)
right.plot(gains, np.log(gains * radius), color="0.6", linestyle=(0, (3, 1.5)), label="log of the spectral radius of W")
right.errorbar(
    gains, largest, 2 * errors, color="#0072B2", linewidth=2, elinewidth=1, label="largest exponent, ± 2 s.e."
)
right.set_title("the largest exponent over the gain", loc="left", fontsize=9)
right.set_xlabel("gain")
right.legend(frameon=False, fontsize=8)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
figure.savefig(Path(__file__).with_name("lyapunov.png"), dpi=110)
