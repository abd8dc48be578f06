"""Lyapunov spectra: tangent vectors of pyrnn against a QR decomposition at each step in NumPy and PyTorch; one thread.

    python -P benchmarks/lyapunov.py [--hidden 100,200,500] [--seconds 3] [--growth]

Random tanh networks of gain 1.5 on their attractor, float64, k = 10 and k = H tangent vectors, from the same states and
the same first vectors, which all must give the same exponents. The contenders run in turn, on one processor. Printed
are microseconds a step, medians, how many times as long the others took, medians over rounds, and the steps between
orthonormalisations; with --growth pyrnn alone over T, k and H, with the exponents of growth.
"""

import argparse
import itertools
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -P keeps it out

import timing


def parse():
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=numbers, default=[100, 200, 500], metavar="H,H")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each contender in each cell, about")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def trajectory(H, T, gain=1.5):
    """W, and T states on the attractor."""
    import numpy as np

    import pyrnn

    rng = np.random.default_rng(0)
    W = gain * rng.standard_normal((H, H)) / H**0.5
    h = pyrnn.forward(np.zeros((T + 500, 0)), np.zeros((H, 0)), W, None, rng.standard_normal(H))
    return W, np.ascontiguousarray(h[500:])


def by_pyrnn(W, h, Q):
    """The loop behind `lyapunov_spectrum`, without the states, which nobody computes here."""
    import numpy as np

    import pyrnn
    from pyrnn.dynamics.lyapunov import Tangents

    network, rows = pyrnn.Network(np.zeros((len(W), 0)), W), np.ascontiguousarray(Q.T)

    def run():
        total = np.zeros(len(rows))
        run.times = Tangents(network, rows.copy(), "auto").advance(h, None, total)
        return total

    return run


def by_numpy(W, h, first):
    import numpy as np

    def run():
        Q, total = first, np.zeros(first.shape[1])
        for state in h:
            J = (1 - state**2)[:, np.newaxis] * W
            Q, R = np.linalg.qr(J @ Q)
            total += np.log(np.abs(np.diag(R)))
        return total

    return run


def by_torch(W, h, first):
    import torch

    W, h, first = (torch.as_tensor(a) for a in (W, h, first))

    @torch.no_grad()
    def run():
        Q, total = first, torch.zeros(first.shape[1], dtype=torch.float64)
        for state in h:
            J = (1 - state**2)[:, None] * W
            Q, R = torch.linalg.qr(J @ Q)
            total += R.diagonal().abs().log()
        return total.numpy()

    return run


def first_vectors(H, k):
    import numpy as np

    return np.linalg.qr(np.random.default_rng(1).standard_normal((H, k)))[0]


def compare(hidden, T, seconds):
    import numpy as np

    contenders = {"pyrnn": by_pyrnn, "NumPy": by_numpy}
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(1)
        contenders["PyTorch"] = by_torch
    others = list(contenders)[1:]
    every = {name: [] for name in others}
    print("   H    k  pyrnn, us", *(f"{name:>8}" for name in others), "  steps a QR")
    for H, k in itertools.chain.from_iterable(((H, min(10, H)), (H, H)) for H in hidden):
        W, h = trajectory(H, T)
        runs = {name: make(W, h, first_vectors(H, k)) for name, make in contenders.items()}
        expected = runs["NumPy"]()
        for name, run in runs.items():
            if not np.allclose(run(), expected, rtol=1e-8, atol=1e-6):
                sys.exit(f"H = {H}, k = {k}: {name} computes other exponents")
        times = timing.in_turn(runs, seconds=seconds)
        pyrnn = statistics.median(times["pyrnn"]) / T * 1e6
        ratios = [statistics.median(a / p for a, p in zip(times[name], times["pyrnn"], strict=True)) for name in others]
        for name, ratio in zip(others, ratios, strict=True):
            every[name].append(ratio)
        print(
            f"{H:4} {k:4} {pyrnn:10.0f}", *(f"{r:8.2f}" for r in ratios), f"{T / runs['pyrnn'].times:12.1f}", flush=True
        )
    for name, ratios in every.items():
        print(f"{name}: geometric mean {statistics.geometric_mean(ratios):.2f}, least {min(ratios):.2f}")


def growth(seconds):
    import numpy as np

    cells = {
        "T": [(100, 100, T) for T in (250, 500, 1000, 2000)],
        "k": [(256, k, 200) for k in (16, 32, 64, 128, 256)],
        "H, k = H": [(H, H, 200) for H in (32, 64, 128, 256)],
        "H, k = 10": [(H, 10, 400) for H in (64, 128, 256, 512)],
    }
    for what, sizes in cells.items():
        runs = {size: by_pyrnn(*trajectory(size[0], size[2]), first_vectors(*size[:2])) for size in sizes}
        times = {size: statistics.median(t) for size, t in timing.in_turn(runs, seconds=seconds).items()}
        axis = 2 if what == "T" else 1 if what == "k" else 0
        slope = np.polyfit(np.log([s[axis] for s in sizes]), np.log([times[s] for s in sizes]), 1)[0]
        print(
            f"{what}: time grows as its power {slope:.2f};",
            *(f"{s}: {1e3 * times[s]:.2f} ms" for s in sizes),
            flush=True,
        )


def main():
    options = parse()
    if not options.here:
        return timing.again(threads=1)
    timing.pin(1)
    if options.growth:
        growth(options.seconds)
    else:
        compare(options.hidden, options.steps, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
