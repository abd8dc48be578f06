"""Several Python threads, each calling the fused engine with teams of several sizes, under a profile now and then, and
steppers: for ThreadSanitizer.

    PYRNN_SANITIZE=thread python -m pip install .
    LD_PRELOAD=$(gcc -print-file-name=libtsan.so) OPENBLAS_NUM_THREADS=1 python -P tests/thread_stress.py

Exits with 1 if a result differs from that of one thread; ThreadSanitizer makes its own findings known.
"""

import sys
import threading
import time

import numpy as np

import pyrnn

ROUNDS = 30


def network(T, B, I, H):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape)
    return draw(T, B, I), draw(H, I) / 8, draw(H, H) / H**0.5, draw(H), draw(B, H), draw(T, B, H)


def run(network, n_threads):
    x, U, W, b, h0, dh = network
    options = {"n_threads": n_threads, "engine": "fused"}
    h = pyrnn.forward(x, U, W, b, h0, **options)
    gradients = pyrnn.backward(dh, h, x, U, W, h0, **options)
    return [a.tobytes() for a in (h, *gradients, pyrnn.state_gradients(dh, h, W))]


def step(stepper, x):
    """The states of all steps, or None for those that the stepper refused because another thread was in it."""
    states = []
    for x_t in x:
        try:
            states.append(stepper.step(x_t).tobytes())
        except RuntimeError:
            states.append(None)
    return states


def main():
    networks = [network(30, 16, 8, 96), network(10, 40, 30, 64)]
    expected = [run(n, 1) for n in networks]
    x, U, W, b, h0, _ = network(40, 64, 8, 128)
    make = lambda: pyrnn.Stepper(U, W, b, batch=64, h0=h0)
    shared, expected_steps = make(), step(make(), x)
    wrong = []

    def work(seed):
        for i in range(ROUNDS):
            which = (i + seed) % 2
            if run(networks[which], 1 + i % 4) != expected[which]:
                wrong.append(i)
            if step(make(), x) != expected_steps:
                wrong.append(i)
            step(shared, x)
            if i % 10 == 0:
                time.sleep(0.001)  # long enough for the team to go to sleep

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with pyrnn.profile():
            time.sleep(0.01)
    print(f"{len(wrong)} of {3 * ROUNDS} wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
