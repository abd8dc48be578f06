"""Every example in the documentation and in the docstrings runs and prints what it says."""

import doctest
import importlib
import inspect
import itertools
import pkgutil
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

import pyrnn
from pyrnn import reference

pytestmark = [pytest.mark.python, pytest.mark.wheel]

ROOT = Path(__file__).parent.parent
MODULES = [
    m.name.removeprefix("pyrnn.")
    for m in pkgutil.walk_packages(pyrnn.__path__, "pyrnn.", onerror=lambda _: None)
    if not m.name.endswith("__main__")
]
ROOMS = {name: getattr(pyrnn, name) for name in pyrnn._ROOMS}
BRIDGES = {
    name: importlib.import_module(f"pyrnn.bridges.{name}") for name in ("keras", "onnx", "safetensors", "state_dict")
}
# Every public function by the name that a user writes behind `pyrnn.`.
FUNCTIONS = {name: getattr(pyrnn, name) for name in pyrnn.__all__}
FUNCTIONS |= {f"{room}.{name}": getattr(module, name) for room, module in ROOMS.items() for name in module.__all__}
FUNCTIONS |= {
    f"bridges.{bridge}.{name}": function
    for bridge, module in BRIDGES.items()
    for name, function in vars(module).items()
    if not name.startswith("_") and getattr(function, "__module__", None) == module.__name__
}
FUNCTIONS = {name: function for name, function in FUNCTIONS.items() if inspect.isfunction(function)}
NEEDS = {"torch": "torch", "onnx": "onnx", "keras": "h5py", "safetensors": "safetensors"}
PAGES = [
    "README.md",
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")) if ">>>" in page.read_text("utf-8")),
]


def needed(name):
    """The other library that a module or a page needs, or None."""
    return next((NEEDS[part] for part in re.split(r"[./]", name) if part in NEEDS), None)


def marked(names):
    """The names as parameters of a test; `peer` is added where the module or page needs another library."""
    return [pytest.param(name, marks=pytest.mark.peer) if needed(name) else name for name in names]


@pytest.mark.parametrize("page", marked(PAGES))
def test_page(page):
    if library := needed(page):
        pytest.importorskip(library)
    results = doctest.testfile(str(ROOT / page), module_relative=False, encoding="utf-8")
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", marked(MODULES))
def test_docstrings(name):
    if library := needed(name):
        pytest.importorskip(library)
    module = importlib.import_module(f"pyrnn.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented(name):
    doc, returned = inspect.getdoc(FUNCTIONS[name]), inspect.signature(FUNCTIONS[name]).return_annotation
    for section in ("Parameters", *(["Returns"] if returned != "None" else []), "Raises", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in doc, f"{name} has no section {section}"
    for argument in inspect.signature(FUNCTIONS[name]).parameters:
        assert argument in doc


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_are_few(name):
    """The functions of plain arrays aside, which have the parts of a call one by one, and a run of training."""
    most = {"backward": 17, "forward": 14, "fit": 21, "training.fit": 21}.get(name, 10)
    assert len(inspect.signature(FUNCTIONS[name]).parameters) <= most


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if hasattr(reference, name.split(".")[-1])])
def test_reference_has_the_same_signature(name):
    twins = FUNCTIONS[name], getattr(reference, name.split(".")[-1])
    public, plain = (inspect.signature(function).parameters.values() for function in twins)
    # Annotations aside, which the reference leaves out: they would be longer than its equations.
    assert [(p.name, p.kind, p.default) for p in public] == [(p.name, p.kind, p.default) for p in plain]


def test_every_equation_is_mapped():
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    for number in range(8, 29):
        assert f"10.{number}" in page


def test_the_lines_of_the_reference_exist():
    """The last column of the first two tables of equations.md."""
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8").split("## Further on")[0]
    source = Path(reference.__file__).read_text(encoding="utf-8")
    rows = [
        row.split(" | ")[-1] for row in page.splitlines() if row.startswith("| ") and "in `reference.py`" not in row
    ]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(named) > 40
    for name in named:
        parts = name.split(".") if name == "RTRL.step" else [name.removesuffix("...").strip()]
        assert all(part in source for part in parts), name


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


def test_ways_to_the_transposed_jacobian_of_a_batch():
    """docs/bptt.md, section 6: J is another matrix for each sequence; with the slopes apart, all share W."""
    rng, B, H = np.random.default_rng(0), 3, 4
    slopes, g, W = rng.uniform(0, 1, (B, H)), rng.standard_normal((B, H)), rng.standard_normal((H, H))
    D = slopes[:, :, np.newaxis] * np.eye(H)
    J = slopes[:, :, np.newaxis] * W
    assert len(np.unique(J, axis=0)) == B
    ways = (
        np.stack([(D[n] @ W).T @ g[n] for n in range(B)]),
        np.stack([J[n].T @ g[n] for n in range(B)]),
        np.stack([D[n] @ g[n] for n in range(B)]) @ W,
        (slopes * g) @ W,
    )
    for way in ways:
        np.testing.assert_allclose(way, ways[0], rtol=0, atol=1e-14)
    h = np.sqrt(1 - slopes)  # of states with these slopes, state_gradients makes the same
    dh = np.stack([np.zeros((B, H)), g])
    np.testing.assert_allclose(pyrnn.state_gradients(dh, np.stack([h, h]), W)[0], ways[-1], rtol=0, atol=1e-14)


def test_weights_of_zero_and_padding():
    """docs/bptt.md, section 10: padding may be ordinary finite numbers; infinities and NaN reach the gradients."""
    x, U, W, b = network()
    V, targets, weights = np.ones((2, 4)), np.zeros((3, 1), int), np.array([[1.0], [1.0], [0.0]])
    results = {}
    for padding in (0.0, 7.0, np.inf, np.nan):
        x[2] = padding
        results[padding] = pyrnn.loss_and_gradients(pyrnn.Network(U, W, b, V), x, targets, weights=weights)
    for loss, _ in results.values():
        assert loss == results[0.0][0]
    np.testing.assert_array_equal(results[7.0][1].U, results[0.0][1].U)
    assert np.isnan(results[np.inf][1].U).all()
    assert np.isnan(results[np.nan][1].U).all()


def test_the_picture_of_the_unrolled_network(tmp_path):
    """Its script needs nothing but matplotlib, writes the picture beside itself, and writes the same bytes again."""
    pytest.importorskip("matplotlib")
    script = shutil.copy(ROOT / "docs" / "unrolled.py", tmp_path)
    pictures = []
    for _ in range(2):
        runpy.run_path(str(script))
        pictures.append((tmp_path / "unrolled.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert 10_000 < len(pictures[0]) < 150_000
    assert (ROOT / "docs" / "unrolled.png").read_bytes()[:8] == pictures[0][:8]
