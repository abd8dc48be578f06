"""Speed of noise: nanoseconds a number, one thread, on every instruction set, beside NumPy's generators.

    taskset -c 0 python -P benchmarks/noise.py

Contenders take turns; each figure is the least of 200 calls. The last columns say how many times as long a number of
NumPy's default generator takes.
"""

import time

import numpy as np

import pyrnn
from pyrnn._core import noise as compiled
from pyrnn._core import table

SHAPES = [(10, 64, H) for H in (16, 50, 100, 200, 512)]


def least(contenders, n, rounds=200):
    """The least nanoseconds a number of each contender, which take turns."""
    times = dict.fromkeys(contenders, np.inf)
    for _ in range(rounds):
        for name, fill in contenders.items():
            since = time.perf_counter()
            fill()
            times[name] = min(times[name], 1e9 * (time.perf_counter() - since) / n)
    return times


def fill_on(name, out):
    def fill():
        table.select(name)
        compiled.noise(out, 1, 0, 0, 0, None, 1)

    return fill


def main():
    before = table.selected()
    for dtype in (np.float32, np.float64):
        for shape in SHAPES:
            out = np.empty(shape, dtype)
            generators = {"PCG64": np.random.default_rng(0), "SFC64": np.random.Generator(np.random.SFC64(0))}
            contenders = {name: lambda g=g, out=out: g.standard_normal(dtype=out.dtype, out=out)
                          for name, g in generators.items()}  # fmt: skip
            contenders |= {name: fill_on(name, out) for name in table.available() if name != "base"}
            times = least(contenders, out.size)
            ratios = [f"{name} {times['PCG64'] / t:.1f}x" for name, t in times.items() if name in table.available()]
            row = "  ".join(f"{name} {t:6.2f}" for name, t in times.items())
            print(f"{np.dtype(dtype).name} H = {shape[2]:3}  {row}  {', '.join(ratios)}", flush=True)
    table.select(before)
    network, x = pyrnn.initialize(10, 100, cell=pyrnn.Cell("relu", alpha=0.2), rng=0), np.zeros((20, 64, 10))
    network = pyrnn.Network(*(None if a is None else a.astype(np.float32) for a in network.arrays), cell=network.cell)
    x, rng = x.astype(np.float32), np.random.default_rng(0)
    contenders = {
        "without": lambda: pyrnn.simulate(network, x, n_threads=1),
        "noise=": lambda: pyrnn.simulate(network, x, noise=0.1, seed=1, n_threads=1),
        "drive of NumPy": lambda: pyrnn.simulate(
            network, x, drive=np.float32(0.1) * rng.standard_normal((20, 64, 100), np.float32), n_threads=1
        ),
    }
    times = least(contenders, 1e6)
    print("simulate, float32, T = 20, B = 64, H = 100, ms:", "  ".join(f"{n} {t:.2f}" for n, t in times.items()))


if __name__ == "__main__":
    main()
