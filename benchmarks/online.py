"""Microseconds a step of the online learners, beside RTRL in NumPy: python -P benchmarks/online.py [H ...]

One thread, float64, I = 8; OPENBLAS_NUM_THREADS=1 holds NumPy to one as well. The last line is the growth of time from
the smallest H to the largest: the exponent.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -P keeps it out

import numpy as np
import timing

import pyrnn
from pyrnn import online

I = 8


def with_kronecker(U, W, b):
    """RTRL as its equation stands, P [H, H (H + I + 1)], with matrices of the slopes and the immediate influence."""
    H = len(W)
    P, h, one = np.zeros((H, H * (H + I + 1))), np.zeros(H), np.eye(H)

    def step(x, dh):
        nonlocal P, h
        z = np.concatenate([h, x, [1.0]])
        h = np.tanh(W @ h + U @ x + b)
        P = np.diag(1 - h**2) @ (W @ P + np.kron(one, z))
        return dh @ P

    return step


def with_gemm(U, W, b):
    """The same without those matrices: slopes by rows, the immediate influence where it is not zero."""
    H = len(W)
    P, h, units = np.zeros((H, H, H + I + 1)), np.zeros(H), np.arange(H)

    def step(x, dh):
        nonlocal P, h
        z = np.concatenate([h, x, [1.0]])
        h = np.tanh(W @ h + U @ x + b)
        P = (W @ P.reshape(H, -1)).reshape(P.shape)
        P[units, units] += z
        P *= (1 - h**2)[:, np.newaxis, np.newaxis]
        return dh @ P.reshape(H, -1)

    return step


def contenders(H):
    """Functions that make one step, and in a block of them all; and how many steps each makes."""
    network = pyrnn.initialize(I, H, rng=0)
    U, W, b = network.arrays
    rng = np.random.default_rng(0)
    x, dh = rng.standard_normal(I), rng.standard_normal(H)
    learners = {
        "RTRL": online.RTRL(network),
        "BlockedRTRL": online.BlockedRTRL(network),
        "BlockedRTRL, every step": online.BlockedRTRL(network, block=16, every_step=True),
        "SnAp1": online.SnAp1(network),
        "RFLO": online.RFLO(network._replace(cell=pyrnn.Cell(alpha=0.1))),
        "UORO": online.UORO(network, rng=0),
    }
    functions = {name: lambda step=learner.step: step(x, dh) for name, learner in learners.items()}
    steps = {"RTRL": 4, "BlockedRTRL": H, "BlockedRTRL, every step": 16}
    for name, n in steps.items():
        functions[name] = lambda step=learners[name].step, n=n: [step(x, dh) for _ in range(n)]
    if H <= 64:  # beyond, one of its matrices takes more than 0.1 s to make
        others = {"NumPy, Kronecker": with_kronecker(U, W, b), "NumPy, gemm": with_gemm(U, W, b)}
        functions |= {name: lambda step=step: step(x, dh) for name, step in others.items()}
    return functions, steps


def main(sizes):
    timing.pin(1)
    least = {}
    for H in sizes:
        functions, steps = contenders(H)
        times = timing.in_turn(functions, seconds=0.5)
        least[H] = {name: min(seconds) / steps.get(name, 1) for name, seconds in times.items()}
        print(f"H = {H}: " + ", ".join(f"{name} {1e6 * s:.1f}" for name, s in least[H].items()), "µs a step")
        flops = 2 * H**3 * (H + I + 1)
        print(f"    RTRL {flops / least[H]['RTRL'] / 1e9:.0f} GF/s;", ratios(least[H]))
    first, last = min(least), max(least)
    if first < last:
        growth = {n: math.log(least[last][n] / least[first][n], last / first) for n in least[last]}
        print(f"growth from H = {first} to {last}: " + ", ".join(f"{name} H^{p:.1f}" for name, p in growth.items()))


def ratios(least):
    others = {name: s / least["RTRL"] for name, s in least.items() if name != "RTRL"}
    return "RTRL takes 1, " + ", ".join(f"{name} {ratio:.3g}" for name, ratio in others.items())


if __name__ == "__main__":
    main([int(H) for H in sys.argv[1:]] or [16, 32, 64, 128])
