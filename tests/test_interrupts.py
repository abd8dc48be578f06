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
    "log_singular_values": "pyrnn.dynamics.log_singular_values(run(h[:9, :1, :900], W[:900, :900]))",
    "log_singular_values of few": "pyrnn.dynamics.log_singular_values(run(np.zeros((200_000, 1, 40)), W[:40, :40]))",
    "preactivations": "pyrnn.dynamics.preactivations(run(h, W))",
    "preactivations of currents": "pyrnn.dynamics.preactivations(run(h, W, pyrnn.Cell(alpha=0.5, form='current'), h))",
}
INTERRUPT = """
h = np.broadcast_to(rng.uniform(-0.5, 0.5, 1024), (4000, 16, 1024))
W = rng.normal(size=(1024, 1024)) / 32


def run(h, W, cell=pyrnn.Cell(), rates=None):
    network = pyrnn.Network(rng.normal(size=(len(W), 1)), W, cell=cell)
    return pyrnn.Trajectory.of(network, h, h[..., :1], rates=rates)


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


@pytest.mark.parametrize("cell", [pyrnn.Cell(), pyrnn.Cell(alpha=0.3), pyrnn.Cell(alpha=0.3, form="current")], ids=str)
@pytest.mark.parametrize("h0", [False, True])
def test_preactivations_in_parts(monkeypatch, cell, h0):
    """The parts between which Ctrl-C is heard are those of the whole."""
    n = network(T=23, B=3, I=2, H=5)
    made_of = pyrnn.Network(n["U"], n["W"], n["b"], cell=cell)
    run = pyrnn.simulate(made_of, n["x"], n["h0"] if h0 else None, drive=n["dh"])
    whole = pyrnn.dynamics.preactivations(run)
    for together in (1, 300):
        monkeypatch.setattr(sys.modules["pyrnn.dynamics.slopes"], "TOGETHER", together)
        np.testing.assert_allclose(pyrnn.dynamics.preactivations(run), whole, rtol=1e-13, atol=1e-14)
