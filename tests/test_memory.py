"""Peak memory of forward and backward on a long sequence: nothing beside inputs and outputs grows with T."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

ALLOWED = 16 * 2**20

# Prints the bytes by which the peak of resident memory rose above inputs and outputs. Inputs are filled in place, so
# that the peak before the call is not above what is resident; a short call of the same kinds sets up BLAS.
SCRIPT = """
import sys
import numpy as np
import pyrnn

what, batch_first, engine = sys.argv[1], sys.argv[2] == "batch first", sys.argv[3]
T, B, I, H = 20_000, 16, 64, 128
rng = np.random.default_rng(0)


def sequence(n, steps):
    a = np.empty((B, steps, n) if batch_first else (steps, B, n), np.float32)
    rng.random(out=a, dtype=np.float32)
    a -= 0.5
    return a.transpose(1, 0, 2) if batch_first else a


def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))


def call(x, dh, h):
    if what == "forward":
        return [pyrnn.forward(x, U, W, b, h0, engine=engine)]
    return pyrnn.backward(dh, h, x, U, W, h0, engine=engine)


U, W, b, h0 = (rng.uniform(-0.1, 0.1, shape).astype(np.float32) for shape in ((H, I), (H, H), H, (B, H)))
for steps in (1, 300):
    call(sequence(I, steps), sequence(H, steps), sequence(H, steps))
x, dh, h = sequence(I, T), sequence(H, T), sequence(H, T)
before, peak_before = status("VmRSS"), status("VmHWM")
outputs = call(x, dh, h)
beyond = status("VmHWM") - before - sum(a.nbytes for a in outputs)
assert all(np.isfinite(a[:: max(1, len(a) // 100)]).all() for a in outputs)
print(beyond, peak_before - before)
"""


@pytest.mark.parametrize("engine", ["blas", "fused"])
@pytest.mark.parametrize("layout", ["time first", "batch first"])
@pytest.mark.parametrize("what", ["forward", "backward"])
def test_peak_memory(what, layout, engine):
    process = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, what, layout, engine],
        capture_output=True,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    beyond, slack = map(int, process.stdout.split())
    assert slack <= 2**20  # else the peak before the call would hide a part of that of the call
    assert beyond <= ALLOWED
    assert beyond >= -(2**20)  # all outputs were counted, and all of them written
