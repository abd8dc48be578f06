"""Random networks, ways to lay an array out in memory, and comparison with the reference, for all test files."""

import inspect
import re
import shutil
import signal
import threading
import time
import tracemalloc

import numpy as np
import pytest

import pyrnn
from pyrnn import _bptt, reference

# ---- Which step of CI runs a test -----------------------------------------------------------------------------------
STEPS = {"once", "wheel", "python", "plain_c", "peer", "profile", "compiled"}  # pyproject.toml says what they mean
NO_PEER = re.compile(
    r"could not import '(torch|onnx|onnxruntime|keras|h5py|safetensors)\b|"
    r"\b(PyTorch|ONNX Runtime|torch|onnx|onnxruntime|keras|h5py|safetensors) is not installed"
)


def pytest_ignore_collect(collection_path, config):
    """Leave out the files without a step that -m names: to import them all takes 13 s, and minutes under sanitizers."""
    asked = STEPS & set(re.findall(r"\w+", config.option.markexpr))
    if asked and collection_path.name.startswith("test_"):
        text = collection_path.read_text("utf-8")
        if not any(f"mark.{step}" in text for step in asked):
            return True
    return None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Refuse a file of tests that does not state its steps: it would be left out of them without a word."""
    report = yield
    if isinstance(collector, pytest.Module):
        if report.passed and not STEPS & {mark.name for mark in collector.own_markers}:
            steps = ", ".join(sorted(STEPS))
            fail(report, f"pytestmark must name the steps of CI that run this file, one or more of {steps}")
        if (
            report.skipped
            and NO_PEER.search(str(report.longrepr))
            and "mark.peer" not in collector.path.read_text("utf-8")
        ):
            fail(report, "pytestmark must name peer, since this file needs another library")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Refuse a test that skips for want of a library and is not marked `peer`: the step with it would not run it."""
    report = yield
    if report.skipped and NO_PEER.search(str(report.longrepr)) and not item.get_closest_marker("peer"):
        fail(report, f"this test must be marked peer, since it needs a library: {report.longrepr[2]}")
    return report


def fail(report, reason):
    report.outcome, report.longrepr = "failed", reason


def pytest_itemcollected(item):
    """Mark the tests that compile C."""
    if "gcc" in item.fixturenames:
        item.add_marker("gcc")


def pytest_collection_modifyitems(config, items):
    """Skip what is marked slow unless -m names it."""
    if "slow" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: chosen with -m slow"))


@pytest.fixture(scope="session")
def gcc():
    """The compiler, for the tests of C programs; they are marked `gcc`."""
    path = shutil.which("gcc")
    return path or pytest.skip("needs gcc")


# ---- Random networks ------------------------------------------------------------------------------------------------
def _network(T=5, B=3, I=4, H=6, O=2, *, dtype=np.float64, seed=0):
    """Arguments of every function by name, for one random network; B None leaves the batch axis out.

    W has about norm 1, so that neither a forward error nor a gradient grows over the steps. `numbers` are the targets
    of the squared error, `targets` those of the cross-entropy.
    """
    rng = np.random.default_rng(seed)
    steps = (T,) if B is None else (T, B)
    shapes = {
        "x": (*steps, I),
        "U": (H, I),
        "W": (H, H),
        "b": (H,),
        "h0": (*steps[1:], H),
        "dh": (*steps, H),
        "V": (O, H),
        "c": (O,),
        "do": (*steps, O),
        "o": (*steps, O),
        "numbers": (*steps, O),
    }
    n = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    n["W"] *= dtype(0.5 / max(H, 1) ** 0.5)
    n["U"] *= dtype(1 / max(I, 1) ** 0.5)
    n["h0"] = np.tanh(n["h0"])
    n["h"] = reference.forward(*(n[name] for name in ("x", "U", "W", "b", "h0")))
    n["targets"] = rng.integers(0, max(O, 1), steps)
    n["weights"] = rng.uniform(0.5, 1.5, steps).astype(dtype)
    return n


def _arguments(function, network):
    """What the function of this name takes from the network."""
    if function in ("loss_and_gradients", "check_gradients"):
        names = ["U", "W", "b", "V", "c", "x", "targets", "h0", "weights"]
    else:
        names = list(inspect.signature(getattr(pyrnn, function)).parameters)
    chosen = {name: network[name] for name in names if name in network}
    return chosen | {"targets": network["numbers"]} if function == "squared_error" else chosen


def _call(module, function, arguments, **options):
    """All arrays that the function returns, as one flat tuple."""
    if "params" in inspect.signature(getattr(module, function)).parameters:
        params = pyrnn.Parameters(*(arguments[name] for name in pyrnn.Parameters._fields))
        others = {name: a for name, a in arguments.items() if name not in pyrnn.Parameters._fields}
        result = getattr(module, function)(params, **others, **options)
    else:
        result = getattr(module, function)(**arguments, **options)
    parts = result if isinstance(result, tuple) else (result,)
    return tuple(a for part in parts for a in (part if isinstance(part, tuple) else (part,)))


@pytest.fixture(scope="session")
def network():
    return _network


@pytest.fixture(scope="session")
def arguments():
    return _arguments


@pytest.fixture(scope="session")
def call():
    return _call


@pytest.fixture(params=[np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def dtype(request):
    return request.param


@pytest.fixture(params=[(T, B, I, H) for T in (0, 1, 3) for B in (None, 0, 1, 3) for I in (0, 1, 3) for H in (0, 1, 3)])
def edge_size(request):
    """T, B, I and H of nothing, of one, and of more, with and without a batch axis."""
    return request.param


@pytest.fixture(
    params=[(B, H) for B in (1, 4, 5, 12, 13, 33) for H in (7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 256, 257, 300)]
)
def threshold_size(request):
    """B and H on both sides of every size at which the code takes another route, and of vectors and their tails."""
    return request.param


@pytest.fixture
def set_chunk_bytes():
    """Sets the size of a chunk for one test."""
    old = _bptt.set_chunk_bytes(1)
    _bptt.set_chunk_bytes(old)
    yield _bptt.set_chunk_bytes
    _bptt.set_chunk_bytes(old)


# ---- Layouts --------------------------------------------------------------------------------------------------------
def _lay_out(a, order=None, steps=None, margin=0):
    """The values of `a` in a larger array full of NaN.

    order: the axes from the slowest in memory to the fastest; steps: of each axis, of any sign; margin: how many
    elements lie unused at both ends of each axis.
    """
    order = range(a.ndim) if order is None else order
    steps = (1,) * a.ndim if steps is None else steps
    room = [2 * margin + n * abs(step) for n, step in zip(a.shape, steps, strict=True)]
    poison = np.nan if a.dtype.kind == "f" else 99
    memory = np.full([room[axis] for axis in order], poison, a.dtype).transpose(np.argsort(order))
    used = [slice(margin, margin + n * abs(step), abs(step)) for n, step in zip(a.shape, steps, strict=True)]
    view = memory[tuple(used)][tuple(slice(None, None, 1 if step > 0 else -1) for step in steps)]
    view[...] = a
    return view


def _step_in(axis, step):
    """A layout with this step in one axis, the last one if there are not so many."""
    return lambda a: _lay_out(a, steps=[step if i == min(axis, a.ndim - 1) else 1 for i in range(a.ndim)])


def _unaligned(a):
    memory = np.zeros(a.nbytes + 1, np.uint8)
    view = memory[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def _field(a):
    """Every element three quarters or one and a half of its size after the one before."""
    view = np.zeros(a.shape, [("a", a.dtype), ("other", "V2")])["a"]
    view[...] = a
    return view


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


WRITEABLE_LAYOUTS = {
    "C": lambda a: _lay_out(a),
    "F": lambda a: _lay_out(a, order=range(a.ndim)[::-1]),
    "batch first": lambda a: _lay_out(a, order=[*range(a.ndim)[1::-1], *range(a.ndim)[2:]]),
    "sub-array": lambda a: _lay_out(a, margin=2),
    "batch-first sub-array": lambda a: _lay_out(a, order=[*range(a.ndim)[1::-1], *range(a.ndim)[2:]], margin=1),
    "all reversed": lambda a: _lay_out(a, steps=(-1,) * a.ndim),
    "first axis reversed": _step_in(0, -1),
    "second axis reversed": _step_in(1, -1),
    "last axis reversed": _step_in(9, -1),
    "step in first axis": _step_in(0, 2),
    "step in second axis": _step_in(1, 3),
    "step in last axis": _step_in(9, 2),
    "steps in all axes": lambda a: _lay_out(a, steps=(-3, 2, -2)[: a.ndim]),
    "unaligned": _unaligned,
    "field": _field,
}
LAYOUTS = WRITEABLE_LAYOUTS | {
    "read-only": _read_only,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    """A function that returns an array with the values of its argument, laid out in some way."""
    return LAYOUTS[request.param]


@pytest.fixture(params=WRITEABLE_LAYOUTS)
def writeable_layout(request):
    return WRITEABLE_LAYOUTS[request.param]


@pytest.fixture(scope="session")
def layouts():
    return LAYOUTS


@pytest.fixture(scope="session")
def writeable_layouts():
    return WRITEABLE_LAYOUTS


@pytest.fixture(scope="session")
def lay_out():
    return _lay_out


def _memory(a):
    """The whole array that `a` is a view into."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


@pytest.fixture(scope="session")
def memory():
    return _memory


# ---- Comparison -----------------------------------------------------------------------------------------------------
def _tolerance(dtype, arrays):
    """The error allowed, relative to the largest entry of a result.

    float64: 1e-13. float32: rounding errors of a sum of n terms grow as sqrt(n) eps (Higham and Mary, SIAM J. Sci.
    Comput. 41, 2019), and n is at most the number of rows of all steps or the longest row; 8 for the many roundings
    beside, and because each step passes its error on to the next.
    """
    if dtype == np.float64:
        return 1e-13
    terms = max([1, *(a.shape[-1] + a[..., 0].size for a in arrays if a.ndim > 0 and a.size)])
    return 8 * np.finfo(np.float32).eps * terms**0.5


def _assert_close(actual, expected, tolerance):
    if expected is None:
        assert actual is None
        return
    assert actual.shape == expected.shape
    largest = np.abs(expected).max(initial=0, where=np.isfinite(expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * largest)


def _agree(function, arguments, *, tolerance=None, dtype=None, **options):
    """Assert that the function and its reference in float64 return the same, leave the inputs alone, and return it.

    dtype: of the results, by default what NumPy promotes the arguments and float32 to.
    """
    arrays = {name: np.asarray(a) for name, a in arguments.items() if a is not None}
    classes = () if "squared_error" in (function, options.get("loss")) else ("targets",)
    if dtype is None:
        count = {name: a.dtype for name, a in arrays.items() if name not in classes}
        if function == "loss_and_gradients":
            count = {name: a for name, a in count.items() if name not in ("targets", "weights")}
        dtype = np.result_type(np.float32, *count.values())
    exact = {name: a if name in classes else a.astype(np.float64) for name, a in arrays.items()}
    exact = {name: exact.get(name) for name in arguments}
    before = {name: _memory(a).tobytes() for name, a in arrays.items()}

    actual = _call(pyrnn, function, arguments, **options)
    with np.errstate(all="ignore"):
        expected = _call(reference, function, exact, **options)
    for name, a in arrays.items():
        assert _memory(a).tobytes() == before[name], f"{name} was written to"
    if tolerance is None:
        tolerance = _tolerance(dtype, arrays.values())
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        if e is not None:
            assert a.dtype == (dtype if np.ndim(e) else np.float64)
            assert a.dtype.isnative
        _assert_close(a, e, tolerance)
    return actual


@pytest.fixture(scope="session")
def assert_close():
    return _assert_close


@pytest.fixture(scope="session")
def agree():
    return _agree


# ---- Memory ---------------------------------------------------------------------------------------------------------
def _allocated(call, rounds=3):
    """Bytes that a call keeps, and the most that it has at once, beyond what there was before.

    The least of some rounds, since other threads of this process count too, such as that of pytest-xdist.
    """
    kept, most = [], []
    for _ in range(rounds):
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            call()
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        kept.append(after - before)
        most.append(peak - before)
    return min(kept), min(most)


@pytest.fixture(scope="session")
def allocated():
    return _allocated


# ---- Interrupts -----------------------------------------------------------------------------------------------------
def _stops_early(call, part, times):
    """Assert that an interrupt stops a call before half of its work is done; part: a call with one of `times` parts.

    Work is told from processor time, compared with that of the part, so that it does not matter what else the machine
    does.
    """
    part()
    begin = time.process_time()
    part()
    one = time.process_time() - begin
    old = signal.signal(signal.SIGPROF, signal.default_int_handler)
    begin = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_PROF, max(2 * one, 1e-3))
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
    took = time.process_time() - begin
    assert took < times * one / 2, f"stopped after {took:.3f} s where a part of {times} takes {one:.3f} s"


@pytest.fixture
def stops_early():
    if not hasattr(signal, "setitimer"):
        pytest.skip("this system has no timers that send signals")
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals go to the main thread")
    return _stops_early


# ---- Derivatives ----------------------------------------------------------------------------------------------------
def _states(x, U, W, b, h0):
    """The hidden states once more, for complex numbers too."""
    states = np.empty((len(x), *h0.shape), np.result_type(x, U, W, b, h0))
    for t in range(len(x)):
        states[t] = h0 = np.tanh(np.einsum("hi,...i->...h", U, x[t]) + np.einsum("hk,...k->...h", W, h0) + b)
    return states


def _complex_step(function, arguments):
    """The derivative of a real-valued function of the arguments with respect to each entry, to machine precision."""
    gradients = {}
    for name, a in arguments.items():
        gradients[name] = np.empty((*a.shape, *np.shape(function(**arguments))))
        for index in np.ndindex(a.shape):
            moved = a.astype(complex)
            moved[index] += 1e-30j
            gradients[name][index] = np.imag(function(**arguments | {name: moved})) / 1e-30
    return gradients


def _central_differences(function, arguments, step=1e-5):
    """The same of a function that takes real numbers alone, to about 1e-10."""
    gradients = {}
    for name, a in arguments.items():
        gradients[name] = np.empty((*a.shape, *np.shape(function(**arguments))))
        for index in np.ndindex(a.shape):
            above, below = a.copy(), a.copy()
            above[index] += step
            below[index] -= step
            difference = function(**arguments | {name: above}) - function(**arguments | {name: below})
            gradients[name][index] = difference / (above[index] - below[index])
    return gradients


@pytest.fixture(scope="session")
def states():
    return _states


@pytest.fixture(scope="session")
def complex_step():
    return _complex_step


@pytest.fixture(scope="session")
def central_differences():
    return _central_differences
