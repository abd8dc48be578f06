"""The forms of a cell against plain tanh: forward and backward, one thread.

    python -P benchmarks/forms.py [--hidden 32,64] [--batch 1,8] [--dtype float32] [--seconds 1]

T = 100 steps, I = min(H, 64) inputs, gradients of x, U, W, b and h0, results in arrays that are there; all run in turn,
on one processor. Printed are microseconds of plain tanh, and how many times as long a form takes, medians over rounds.
Sequences of different lengths, random or those sorted, have two figures:

- steps: over plain tanh, times the part of the steps that exists;
- rows: over what plain tanh takes for as many sequences a step as are left at each. This is what skipping costs: one
  sequence a step takes longer than an eighth of eight, since W is read for both.
"""

import argparse
import itertools
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -P keeps it out

import timing

T = 100
NAMES = ("relu", "identity", "rate", "current", "equal lengths", "random, steps", "random, rows", "sorted, steps",
         "sorted, rows")  # fmt: skip
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # of plain calls that stand for steps of so many rows


def parse():
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=numbers, default=[32, 64, 128, 256, 512], metavar="H,H")
    parser.add_argument("--batch", type=numbers, default=[1, 8, 32], metavar="B,B")
    parser.add_argument("--dtype", type=lambda text: text.split(","), default=["float32", "float64"], metavar="D,D")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each contender in each cell, about")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def training_step(rng, H, B, dtype, **form):
    """A function () that computes states and gradients, in the same memory each time."""
    import numpy as np

    import pyrnn

    x, dh = (rng.standard_normal((T, B, n)).astype(dtype) for n in (min(H, 64), H))
    U, W = (rng.standard_normal((H, n)).astype(dtype) / dtype(n**0.5) for n in (min(H, 64), H))
    b, h0 = np.zeros(H, dtype), np.zeros((B, H), dtype)
    rates = {"rates": np.empty_like(dh)} if getattr(form.get("cell"), "alpha", None) is not None else {}
    h, grads = np.empty_like(dh), None

    def step():
        nonlocal grads
        pyrnn.forward(x, U, W, b, h0, out=h, n_threads=1, **rates, **form)
        grads = pyrnn.backward(dh, h, x, U, W, h0, out=grads, n_threads=1, **rates, **form)

    return step


def measure(H, B, dtype, seconds):
    """Seconds of plain tanh, and the figures of NAMES."""
    import numpy as np

    import pyrnn

    dtype = getattr(np, dtype)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, T + 1, B)
    left = (lengths > np.arange(T)[:, np.newaxis]).sum(axis=1)  # sequences at each step
    alpha = np.full(H, 0.3)
    forms = {
        "plain": {},
        "relu": {"cell": pyrnn.Cell("relu")},
        "identity": {"cell": pyrnn.Cell("identity")},
        "rate": {"cell": pyrnn.Cell(alpha=alpha)},
        "current": {"cell": pyrnn.Cell(alpha=alpha, form="current")},
        "equal lengths": {"lengths": np.full(B, T)},
        "random": {"lengths": lengths},
        "sorted": {"lengths": np.sort(lengths)[::-1]},
    }
    steps = {name: training_step(rng, H, B, dtype, **form) for name, form in forms.items()}
    batches = [n for n in BATCHES if n < B]
    steps |= {n: training_step(rng, H, n, dtype) for n in batches}
    times = timing.in_turn(steps, seconds=seconds)
    median = {name: statistics.median(ts) for name, ts in times.items()}
    ratio = lambda name: statistics.median(a / p for a, p in zip(times[name], times["plain"], strict=True))
    rows = np.interp(left, [0, *batches, B], [0, *(median[n] / T for n in batches), median["plain"] / T]).sum()
    figures = {name: ratio(name) for name in NAMES if name in forms}
    for name in ("random", "sorted"):
        figures[f"{name}, steps"] = ratio(name) * T * B / lengths.sum()
        figures[f"{name}, rows"] = median[name] / rows
    return median["plain"], [figures[name] for name in NAMES]


def run(arguments):
    timing.pin(1)
    every = []
    print("   H   B  dtype     plain, us", *(f"{name:>14}" for name in NAMES))
    for dtype, H, B in itertools.product(arguments.dtype, arguments.hidden, arguments.batch):
        plain, figures = measure(H, B, dtype, arguments.seconds)
        every.append(figures)
        print(f"{H:4} {B:3}  {dtype:8} {plain * 1e6:10.0f}", *(f"{figure:14.2f}" for figure in figures), flush=True)
    means = [statistics.geometric_mean(column) for column in zip(*every, strict=True)]
    print("geometric means           ", *(f"{mean:14.2f}" for mean in means))


if __name__ == "__main__":
    arguments = parse()
    if arguments.here:
        run(arguments)
    else:
        sys.exit(timing.again(threads=1))
