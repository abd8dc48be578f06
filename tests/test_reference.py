"""The first lines of reference.py, for students: they work when copied, and agree with the package and with PyTorch."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_close, network

import pyrnn
from pyrnn import reference

pytestmark = pytest.mark.once

SOURCE = Path(reference.__file__).read_text("utf-8")
NAMES = ("x", "U", "W", "b", "h0")


@pytest.fixture(scope="module")
def copied():
    """The two functions from that part of the source alone, in a namespace with nothing but NumPy."""
    parts = re.split(r"^# ---- .*$", SOURCE, flags=re.MULTILINE)
    lines = [line for line in parts[1].splitlines() if line.strip()]
    assert len(lines) <= 25
    namespace = {"np": np}
    exec(parts[1], namespace)
    assert set(namespace) == {"np", "__builtins__", "forward_tanh", "backward_tanh"}
    return namespace["forward_tanh"], namespace["backward_tanh"]


@pytest.mark.parametrize(("T", "B", "I", "H"), [(7, 3, 4, 6), (1, 1, 1, 1), (20, 2, 5, 3), (0, 2, 3, 4), (3, 0, 2, 4)])
def test_copied_lines_agree_with_the_package(copied, dtype, T, B, I, H):
    forward, backward = copied
    n, tolerance = network(T, B, I, H, dtype=dtype), 1e-13 if dtype == np.float64 else 1e-5
    x, U, W, b, h0 = (n[name] for name in NAMES)
    h = forward(x, U, W, b, h0)
    assert_close(pyrnn.forward(x, U, W, b, h0), h, tolerance)
    h = h.astype(dtype)
    gradients = backward(n["dh"], h, x, U, W, h0)
    assert len(gradients) == len(NAMES)
    for actual, expected in zip(pyrnn.backward(n["dh"], h, x, U, W, h0)[:5], gradients, strict=True):
        assert_close(actual, expected, tolerance)


@pytest.mark.peer
def test_copied_lines_against_torch(copied):
    torch = pytest.importorskip("torch")
    n = network()
    x, U, W, b, h0 = given = [torch.tensor(n[name], requires_grad=True) for name in NAMES]
    h, states = h0, []
    for x_t in x:
        h = torch.tanh(b + x_t @ U.T + h @ W.T)
        states.append(h)
    torch.stack(states).backward(torch.tensor(n["dh"]))
    forward, backward = copied
    arrays = [n[name] for name in NAMES]
    h = forward(*arrays)
    np.testing.assert_allclose(h, torch.stack(states).detach().numpy(), rtol=0, atol=1e-14)
    gradients = backward(n["dh"], h, *(n[name] for name in ("x", "U", "W", "h0")))
    for name, actual, tensor in zip(NAMES, gradients, given, strict=True):
        np.testing.assert_allclose(actual, tensor.grad.numpy(), rtol=0, atol=1e-13, err_msg=name)


def test_equations_stand_beside_the_lines():
    first = re.split(r"^# ---- .*$", SOURCE, flags=re.MULTILINE)[1]
    for number in ("10.8", "10.9", "10.20", "10.21", "10.23", "10.26", "10.28"):
        assert first.count(f"# {number}:") == 1
