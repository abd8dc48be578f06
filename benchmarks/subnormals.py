"""Vanishing states and gradients against ordinary ones: how many times as long they take, one thread.

    python -P benchmarks/subnormals.py [--hidden 16,64] [--batch 1,8] [--dtype float32] [--seconds 1]

W is Gaussian of gain 0.9, I = min(H, 64), T 1000, in float64 8000: numbers fall below the smallest normal one by then.
Printed are microseconds of the ordinary call, and medians over rounds of the quotient; both run in turn, on one
processor.

- forward: without input, from a state that decays to zero, against inputs at each step;
- backward, state_gradients: a loss at the last step alone, against one at each step;
- Stepper: steps without input after the state has decayed to subnormal numbers, against steps with an input;
- products: the gradient through the Jacobians of all steps, where W lets half of the units die out, against one where
  all live on (gains 0.9 and 0.3 in two blocks, against 0.9 in both).
"""

import argparse
import itertools
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -P keeps it out

import timing

NAMES = ("forward", "backward", "state_gradients", "Stepper", "products")


def parse():
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=numbers, default=[16, 64, 256], metavar="H,H")
    parser.add_argument("--batch", type=numbers, default=[1, 8, 32], metavar="B,B")
    parser.add_argument("--dtype", type=lambda text: text.split(","), default=["float32", "float64"], metavar="D,D")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each call in each cell, about")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def steps(stepper, h0, x, count, skip):
    """Return a function that makes the steps of x from `skip` on, from the state that the earlier ones leave."""
    stepper.state = h0
    for _ in range(skip):
        stepper.step(x)
    begin, out = stepper.state, stepper.step(x).copy()

    def run():
        stepper.state = begin
        for _ in range(count):
            stepper.step(x, out=out)

    return run


def calls(H, B, dtype):
    """Pairs of functions () by name: of vanishing numbers, and of ordinary ones."""
    import numpy as np

    import pyrnn

    rng = np.random.default_rng(0)
    T, I = 1000 if dtype == np.float32 else 8000, min(H, 64)
    draw = lambda *shape, gain=1.0: (gain * rng.standard_normal(shape)).astype(dtype)
    x, U, W, h0, dh = draw(T, B, I), draw(H, I, gain=I**-0.5), draw(H, H, gain=0.9 * H**-0.5), draw(B, H), draw(T, B, H)
    fading, nothing, last = W * dtype(0.5), np.zeros_like(x), np.zeros_like(dh)
    last[-1] = dh[-1]
    h, out, options = pyrnn.forward(x, U, W, None, h0), np.empty_like(dh), {"n_threads": 1}
    forward = lambda x: lambda: pyrnn.forward(x, U, fading, None, h0, out=out, **options)
    grads = pyrnn.backward(dh, h, x, U, W, h0, **options)
    backward = lambda dh: lambda: pyrnn.backward(dh, h, x, U, W, h0, out=grads, **options)
    state_gradients = lambda dh: lambda: pyrnn.state_gradients(dh, h, W)
    stepper = pyrnn.Stepper(pyrnn.Network(U, fading), batch=B)
    skip = int(np.log(np.finfo(dtype).tiny) / np.log(0.45))
    step = lambda x: steps(stepper, h0, x, 20, skip)
    half = H // 2
    alive = np.zeros_like(W)
    alive[:half, :half], alive[half:, half:] = 2**0.5 * W[:half, :half], 2**0.5 * W[half:, half:]
    dying = alive.copy()
    dying[half:, half:] /= 3
    runs = [pyrnn.Trajectory.of(pyrnn.Network(U, W), 0.1 * h) for W in (dying, alive)]
    products = [lambda run=run: pyrnn.dynamics.pull(run, dh[0]) for run in runs]
    return {
        "forward": (forward(nothing), forward(x)),
        "backward": (backward(last), backward(dh)),
        "state_gradients": (state_gradients(last), state_gradients(dh)),
        "Stepper": (step(nothing[0]), step(x[0])),
        "products": tuple(products),
    }


def main(options):
    import numpy as np

    timing.pin(1)
    print("microseconds of ordinary numbers, and how many times as long vanishing ones take")
    print(f"{'dtype':8}{'H':>5}{'B':>5}" + "".join(f"{name:>22}" for name in NAMES))
    for dtype, H, B in itertools.product(options.dtype, options.hidden, options.batch):
        cells = ""
        for vanishing, ordinary in calls(H, B, getattr(np, dtype)).values():
            times = timing.in_turn({"pyrnn": ordinary, "vanishing": vanishing}, seconds=options.seconds)
            cells += f"{1e6 * timing.medians(times)['pyrnn']:14.1f}{timing.ratios(times)['vanishing']:8.2f}"
        print(f"{dtype:8}{H:5}{B:5}{cells}", flush=True)


if __name__ == "__main__":
    options = parse()
    if options.here:
        main(options)
    else:  # again, with what must be said before NumPy starts
        command = [sys.executable, "-P", __file__, *sys.argv[1:], "--here"]
        sys.exit(subprocess.run(command, env=os.environ | timing.environment(1)).returncode)
