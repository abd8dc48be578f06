"""Ctrl-C in the middle of long calls, by the processor time that they still take, which no busy machine changes."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import network

import pyrnn

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not hasattr(signal, "ITIMER_PROF"), reason="needs timers of processor time"),
]

# Each takes many seconds: the signal comes after 0.2 s of processor time, and little more may follow.
COMMON = """
import signal, sys, time
import numpy as np, pyrnn
rng = np.random.default_rng(0)
"""
CALLS = {
    "log_singular_values": "pyrnn.log_singular_values(h[:9, :1, :900], W[:900, :900])",
    "log_singular_values of few units": "pyrnn.log_singular_values(np.zeros((200_000, 1, 40)), W[:40, :40])",
    "preactivations": "pyrnn.preactivations(h, h[..., :1], U, W)",
    "preactivations of currents": "pyrnn.preactivations(h, h[..., :1], U, W, form='current')",
}
INTERRUPT = """
h = np.broadcast_to(rng.uniform(-0.5, 0.5, 1024), (4000, 16, 1024))
U, W = rng.normal(size=(1024, 1)), rng.normal(size=(1024, 1024)) / 32
signal.signal(signal.SIGPROF, signal.default_int_handler)
start = time.process_time()
signal.setitimer(signal.ITIMER_PROF, 0.2)
try:
    {call}
    print("not interrupted")
except KeyboardInterrupt:
    print("interrupted", time.process_time() - start - 0.2)
"""


def run(script):
    process = subprocess.run(
        [sys.executable, "-P", "-c", COMMON + script], capture_output=True, text=True, encoding="utf-8", timeout=3600
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


@pytest.mark.parametrize("name", CALLS)
def test_a_long_call_ends_soon_after_the_signal(name):
    word, more = run(INTERRUPT.format(call=CALLS[name]))
    assert word == "interrupted"
    assert float(more) < 0.5


@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize("h0", [False, True])
def test_preactivations_in_parts(monkeypatch, form, h0):
    """The parts between which Ctrl-C is heard are those of the whole."""
    n = network(T=23, B=3, I=2, H=5)
    arguments = n["h"], n["x"], n["U"], n["W"], n["b"], n["h0"] if h0 else None
    whole = pyrnn.preactivations(*arguments, form=form, drive=n["dh"])
    for together in (1, 300):
        monkeypatch.setattr(sys.modules["pyrnn.jacobian_products"], "TOGETHER", together)
        np.testing.assert_allclose(
            pyrnn.preactivations(*arguments, form=form, drive=n["dh"]), whole, rtol=1e-13, atol=1e-14
        )
