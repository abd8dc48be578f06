"""Every example in the documentation and in the docstrings runs and prints what it says."""

import doctest
import importlib
import inspect
import itertools
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import pyrnn
from pyrnn import reference

pytestmark = [pytest.mark.python, pytest.mark.wheel]

ROOT = Path(__file__).parent.parent
MODULES = [m.name for m in pkgutil.iter_modules(pyrnn.__path__) if m.name != "__main__"]
NEEDS = {"torch": "torch", "onnx": "onnx", "keras": "h5py", "safetensors": "safetensors"}  # of modules and pages
PAGES = [
    "README.md",
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")) if ">>>" in page.read_text("utf-8")),
]


def marked(names):
    """The names as parameters of a test; `peer` is added where the module or page needs another library."""
    return [pytest.param(name, marks=pytest.mark.peer) if Path(name).stem in NEEDS else name for name in names]


@pytest.mark.parametrize("page", marked(PAGES))
def test_page(page):
    if (name := Path(page).stem) in NEEDS:
        pytest.importorskip(NEEDS[name])
    results = doctest.testfile(str(ROOT / page), module_relative=False, encoding="utf-8")
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", marked(MODULES))
def test_docstrings(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    module = importlib.import_module(f"pyrnn.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", [n for n in pyrnn.__all__ if inspect.isfunction(getattr(pyrnn, n))])
def test_public_functions_are_documented(name):
    doc = inspect.getdoc(getattr(pyrnn, name))
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in doc, f"{name} has no section {section}"
    for argument in inspect.signature(getattr(pyrnn, name)).parameters:
        assert argument in doc


@pytest.mark.parametrize("name", [n for n in pyrnn.__all__ if hasattr(reference, n) and n[0].islower()])
def test_reference_has_the_same_signature(name):
    assert inspect.signature(getattr(pyrnn, name)) == inspect.signature(getattr(reference, name))


def test_every_equation_is_mapped():
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    for number in range(8, 29):
        assert f"10.{number}" in page


# ---- What the pages say in words -------------------------------------------------------------------------------------
def network(T=3, B=1, I=2, H=4, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((T, B, I), (H, I), (H, H), (H,))
    return [rng.standard_normal(shape) / max(1, len(shape) - 1) for shape in shapes]


def test_equation_10_35():
    """exp(-loss) is p(y_1, ..., y_T | x) = Π_t p(y_t | x_1, ..., x_t): a probability, whose parts know no later x."""
    (x, U, W, b), K = network(), 3
    V = np.random.default_rng(1).standard_normal((K, 4))

    def probability(x, y, steps=3):
        o = pyrnn.output(pyrnn.forward(x, U, W, b), V)[:steps]
        return np.exp(-pyrnn.softmax_cross_entropy(o, np.array(y)[:steps, np.newaxis])[0])

    joint = {y: probability(x, y) for y in itertools.product(range(K), repeat=3)}
    assert sum(joint.values()) == pytest.approx(1, rel=1e-12)
    later = x.copy()
    later[2] += 1
    for first in itertools.product(range(K), repeat=2):
        marginal = sum(joint[(*first, last)] for last in range(K))
        assert marginal == pytest.approx(probability(later, (*first, 0), steps=2), rel=1e-12)


def test_equation_10_23_without_copies_counts_paths_many_times():
    """A path from b at step s to the loss at step t is counted t - s + 1 times: once for each state on the way."""
    (x, U, W, b), T, H = network(T=4), 4, 4
    h = pyrnn.forward(x, U, W, b)
    dh = np.random.default_rng(2).standard_normal(h.shape)
    J, grad_h = pyrnn.jacobian(h, W)[:, 0], pyrnn.state_gradients(dh, h, W)[:, 0]
    own = [np.diag(1 - h[t, 0] ** 2) for t in range(T)]
    paths = np.zeros((T, T, H))  # [s, t]: from b^(s) to the loss at t
    for s in range(T):
        effect = own[s]
        for t in range(s, T):
            effect = effect if t == s else J[t] @ effect
            paths[s, t] = effect.T @ dh[t, 0]
    total, without_copies = np.zeros((H, H)), np.zeros(H)
    for t in range(T):
        total = own[t] + J[t] @ total
        without_copies += total.T @ grad_h[t]
    times = np.arange(T) - np.arange(T)[:, np.newaxis] + 1
    np.testing.assert_allclose(paths.sum(axis=(0, 1)), pyrnn.backward(dh, h, x, U, W).b, rtol=1e-12)
    np.testing.assert_allclose((times[..., np.newaxis] * paths).sum(axis=(0, 1)), without_copies, rtol=1e-12)
    assert np.abs(without_copies - paths.sum(axis=(0, 1))).max() > 0.1


def test_a_context_is_another_bias():
    """Section 10.2.4: the same product is added at every step."""
    x, U, W, b = network()
    R, context = np.random.default_rng(1).standard_normal((4, 3)), np.array([0.3, -1.0, 0.5])
    drive = np.broadcast_to(R @ context, (3, 1, 4))
    expected = pyrnn.forward(x, U, W, b + R @ context)
    np.testing.assert_allclose(pyrnn.forward(x, U, W, b, drive=drive), expected, rtol=0, atol=1e-15)


def test_connections_that_skip_steps():
    """docs/cells.md, drive: d steps at a time, with the states of d steps before."""
    d, (x, U, W, b) = 3, network(T=12)
    W_d = 0.4 * np.random.default_rng(1).standard_normal((4, 4))
    h = np.zeros((d + 12, 1, 4))  # zeros before the first step
    for t in range(12):
        h[d + t] = np.tanh(b + x[t] @ U.T + h[d + t - 1] @ W.T + h[t] @ W_d.T)
    parts, drive, h0 = [], np.zeros((d, 1, 4)), None
    for t in range(0, 12, d):
        parts.append(pyrnn.forward(x[t : t + d], U, W, b, h0, drive=drive))
        drive, h0 = parts[-1][-d:] @ W_d.T, parts[-1][-1]
    np.testing.assert_allclose(np.concatenate(parts), h[d:], rtol=0, atol=1e-14)
