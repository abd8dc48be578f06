"""pyrnn.dynamics.find_fixed_points against Adam on q = ½|F(h) - h|² in PyTorch, as FixedPointFinder does; one thread.

    python -P benchmarks/fixed_points.py [--networks flip-flop,Hopfield,random] [--hidden 16,64] [--whole]

All starts are one tensor of float64. Adam takes 5,000 steps, its rate falls linearly from 0.01 to 0. The two run in
turn, on one processor. A few of Adam's steps are timed and multiplied; with --whole all are made, once, and those of
its points that have q < 1e-20 are looked for among pyrnn's.

Printed for each network: seconds of Adam, milliseconds of pyrnn, how many times as long Adam took (the median over
rounds), the fixed and slow points of pyrnn, the share of starts that ended in one; with --whole the share of starts
that Adam brought below 1e-20, its points, and how many of them pyrnn missed.
"""

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -P keeps it out

import timing

STEPS = 5000
RATE = 0.01


def parse():
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(NETWORKS), metavar="NAME,NAME")
    parser.add_argument("--hidden", type=numbers, default=[16, 32, 64, 128, 256], metavar="H,H")
    parser.add_argument("--starts", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=50, help="of Adam that are timed in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--training", type=int, default=400, help="steps of training the flip-flop")
    parser.add_argument("--whole", action="store_true", help="run Adam to its end")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.networks) - set(NETWORKS):
        parser.error(f"--networks: there are {', '.join(NETWORKS)}, got {', '.join(sorted(unknown))}")
    return options


# ---- Networks: W, b and states that they visit ----------------------------------------------------------------------
def random_network(H, n, rng, options):
    """A random network that is chaotic by itself, with a structure of rank two; its trajectories."""
    import numpy as np

    import pyrnn

    M, N = rng.standard_normal((2, H, 2))
    W = 1.3 * rng.standard_normal((H, H)) / H**0.5 + (M @ M.T + 0.5 * M @ N.T) / H
    b = 0.1 * rng.standard_normal(H)
    h = pyrnn.forward(np.zeros((100, 20, 1)), np.zeros((H, 1)), W, b, rng.standard_normal((20, H)))
    return W, b, visited(h, n, rng)


def hopfield_network(H, n, rng, options):
    """One stored pattern for 16 units; patterns of which every fifth unit is wrong."""
    import numpy as np

    patterns = rng.choice([-1.0, 1.0], (max(2, H // 16), H))
    states = patterns[rng.integers(0, len(patterns), n)] * np.where(rng.random((n, H)) < 0.2, -1, 1)
    return 2 * patterns.T @ patterns / H, np.zeros(H), 0.9 * states + 0.3 * rng.standard_normal((n, H))


def flip_flop_network(H, n, rng, options):
    """Trained to keep the sign of the last pulse on each of three lines; its trajectories."""
    import numpy as np

    import pyrnn

    network = pyrnn.initialize(3, H, 3, scheme="gaussian", rng=rng, dtype=np.float32)
    vector = network.ravel()
    mean, square = np.zeros_like(vector), np.zeros_like(vector)
    for k in range(options.training):
        x, targets = flip_flop(60, 32, rng)
        _, gradients = pyrnn.loss_and_gradients(
            network.unravel(vector), x, targets, loss="squared_error", x_gradient=False
        )
        g = pyrnn.training.clip_gradients(gradients.parameters, max_norm=60 * 32)[0].ravel() / (60 * 32)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        size = 3e-3 * (1 - k / options.training) + 1e-4
        vector -= size * (mean / (1 - 0.9 ** (k + 1))) / (np.sqrt(square / (1 - 0.999 ** (k + 1))) + 1e-8)
    U, W, b, *_ = (a.astype(np.float64) for a in network.unravel(vector).arrays)
    h = pyrnn.forward(flip_flop(100, 20, rng)[0], U, W, b)
    return W, b, visited(h, n, rng)


def flip_flop(T, B, rng):
    """Pulses of ±1 on three lines, and for each step and line the last one."""
    import numpy as np

    x = ((rng.random((T, B, 3)) < 0.08) * rng.choice([-1.0, 1.0], (T, B, 3))).astype(np.float32)
    x[0] = rng.choice([-1.0, 1.0], (B, 3))
    targets = x.copy()
    for t in range(1, T):
        targets[t] = np.where(x[t] == 0, targets[t - 1], x[t])
    return x, targets


def visited(h, n, rng):
    """States of trajectories [T, B, H], without the first ones, with noise."""
    h = h[20:].reshape(-1, h.shape[-1])
    h = h[rng.integers(0, len(h), n)]
    return h + 0.3 * h.std() * rng.standard_normal(h.shape)


NETWORKS = {"flip-flop": flip_flop_network, "Hopfield": hopfield_network, "random": random_network}


# ---- Contenders -----------------------------------------------------------------------------------------------------
def adam(W, b, starts, iterations):
    """Points [n, H] and q [n] after so many of 5,000 steps, and seconds."""
    import torch

    W, b, h = torch.tensor(W), torch.tensor(b), torch.tensor(starts, requires_grad=True)
    optimizer = torch.optim.Adam([h], lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: max(1 - k / STEPS, 1e-3))
    q_of = lambda: 0.5 * ((torch.tanh(h @ W.T + b) - h) ** 2).sum(dim=1)
    begin = time.perf_counter()
    for _ in range(iterations):
        optimizer.zero_grad()
        q_of().sum().backward()
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - begin
    return h.detach().numpy(), q_of().detach().numpy(), seconds


def newton(W, b, starts):
    """The result of pyrnn, and seconds."""
    import numpy as np

    import pyrnn

    network = pyrnn.Network(np.zeros((len(W), 1)), W, b)
    begin = time.perf_counter()
    points = pyrnn.dynamics.find_fixed_points(network, starts=starts)
    return points, time.perf_counter() - begin


def distinct(points, tolerance=1e-3):
    """Of points [n, H] one for each place."""
    import numpy as np

    kept = points[:0]
    for h in points:
        if not (np.linalg.norm(kept - h, axis=1) < tolerance).any():
            kept = np.concatenate([kept, h[np.newaxis]])
    return kept


def measure(name, H, options):
    """One line of the table."""
    import numpy as np

    W, b, starts = NETWORKS[name](H, options.starts, np.random.default_rng(0), options)
    adam(W, b, starts, 2)
    newton(W, b, starts)
    theirs, ours = [], []
    for _ in range(options.rounds):
        theirs.append(adam(W, b, starts, options.iterations)[2] * STEPS / options.iterations)
        points, seconds = newton(W, b, starts)
        ours.append(seconds)
    ratio = statistics.median(a / n for a, n in zip(theirs, ours, strict=True))
    slow = int(points.slow.sum())
    line = f"{name:10}{H:5}{statistics.median(theirs):9.2f}{1e3 * statistics.median(ours):9.1f}{ratio:7.0f}"
    line += f"{len(points) - slow:7}{slow:6}{(points.origin >= 0).mean():7.0%}"
    if options.whole:
        h, q, _ = adam(W, b, starts, STEPS)
        found, fixed = distinct(h[q < 1e-20]), points.h[~points.slow]
        missed = sum(not (np.linalg.norm(fixed - h, axis=1) < 1e-3).any() for h in found)
        line += f"{(q < 1e-20).mean():12.0%}{len(found):7}{missed:7}"
    print(line, flush=True)
    return ratio


def main():
    options = parse()
    if not options.here:
        return timing.again(threads=1)
    timing.pin(1)
    import torch

    torch.set_num_threads(1)
    print(f"{'':10}{'H':>5}{'Adam, s':>9}{'ours, ms':>9}{'ratio':>7}{'fixed':>7}{'slow':>6}{'ended':>7}", end="")
    print(f"{'Adam ended':>12}{'points':>7}{'missed':>7}" if options.whole else "")
    ratios = [measure(name, H, options) for name, H in itertools.product(options.networks, options.hidden)]
    print(f"geometric mean {statistics.geometric_mean(ratios):.0f}, least {min(ratios):.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
