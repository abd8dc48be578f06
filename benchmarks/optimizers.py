"""Microseconds a step of the optimisers, beside torch.optim and NumPy: python -P benchmarks/optimizers.py [n ...]

One vector of n parameters, one thread, contenders in turn. PyTorch's three implementations (for each tensor, foreach,
fused) are left out where it is not installed. NumPy's Adam works in place, with two arrays for what is between.
"""

import importlib.util
import itertools
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -P keeps it out

import numpy as np
import timing

from pyrnn import training

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
OPTIONS = {
    "SGD": {"lr": 1e-3, "momentum": 0.9},
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3},
    "RMSprop": {"lr": 1e-3},
}


class NumPyAdam:
    """Adam as NumPy's users write it, without an allocation in a step."""

    def __init__(self, p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        self.p, self.lr, self.betas, self.eps, self.k = p, lr, betas, eps, 0
        self.m, self.v, self.a, self.b = (np.zeros_like(p) for _ in range(4))

    def step(self, g):
        (beta1, beta2), m, v, a, b = self.betas, self.m, self.v, self.a, self.b
        self.k += 1
        m *= beta1
        m += np.multiply(g, 1 - beta1, out=a)
        v *= beta2
        v += np.multiply(np.multiply(g, g, out=a), 1 - beta2, out=a)
        np.sqrt(v, out=a)
        a /= math.sqrt(1 - beta2**self.k)
        a += self.eps
        self.p -= np.divide(np.multiply(m, self.lr / (1 - beta1**self.k), out=b), a, out=a)


def contenders(name, n, dtype):
    """Functions that make one step each, by name."""
    rng = np.random.default_rng(0)
    draw = lambda: rng.standard_normal(n).astype(dtype)
    g, found = draw(), {}

    def ours(**options):
        p, optimizer = draw(), getattr(training, name)(**OPTIONS[name])
        return lambda: optimizer.step(p, g, **options)

    found["pyrnn"] = ours()
    found["pyrnn, clipped"] = ours(clip_norm=1.0)
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        ways = {"torch": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
        for kind, options in ways.items():
            if kind == "fused" and name == "RMSprop":
                continue
            parameter = torch.nn.Parameter(torch.from_numpy(draw()))
            parameter.grad = torch.from_numpy(g)
            found[kind] = getattr(torch.optim, name)([parameter], **OPTIONS[name], **options).step
    if name == "Adam":
        optimizer = NumPyAdam(draw())
        found["NumPy"] = lambda: optimizer.step(g)
    return found


def main(sizes):
    timing.pin(1)
    columns = ("pyrnn", "pyrnn, clipped", "torch", "foreach", "fused", "NumPy")
    for dtype in (np.float32, np.float64):
        print(f"{np.dtype(dtype)}, us a step\n{'':10}{'n':>10}" + "".join(f"{column:>16}" for column in columns))
        for name, n in itertools.product(OPTIONS, sizes):
            taken = timing.medians(timing.in_turn(contenders(name, n, dtype)))
            shown = "".join(f"{1e6 * taken[c]:16.2f}" if c in taken else f"{'':16}" for c in columns)
            print(f"{name:10}{n:10}{shown}", flush=True)


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]] or SIZES)
