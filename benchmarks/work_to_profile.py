"""Calls for a profiler to look at; docs/profiling.md runs this under each of them.

The arguments, all optional: how often, the number of threads, the engine.
"""

import sys

import numpy as np

import pyrnn

T, B, I, H = 100, 32, 64, 128


def main(rounds=10, threads=1, engine="auto"):
    rng = np.random.default_rng(0)
    params = pyrnn.initialize(I, H, rng=rng, dtype=np.float32)
    x, dh = rng.standard_normal((T, B, I), np.float32), rng.standard_normal((T, B, H), np.float32)
    with pyrnn.config.using(engine=engine):
        for _ in range(int(rounds)):
            h = pyrnn.forward(x, params.U, params.W, params.b, n_threads=int(threads))
            pyrnn.backward(dh, h, x, params.U, params.W, n_threads=int(threads))


if __name__ == "__main__":
    main(*sys.argv[1:])
