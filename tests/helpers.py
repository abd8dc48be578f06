"""Random networks, ways to lay an array out in memory, and comparison with the reference, for all files of tests."""

import functools
import inspect
import signal
import threading
import time
import tracemalloc
import types

import numpy as np
import pytest

import pyrnn
from pyrnn import _steps, reference
from pyrnn._core import engine_blas, engine_fused
from pyrnn._core.call import Call


# ---- Many cases in one test -----------------------------------------------------------------------------------------
def for_each(names, values):
    """Like pytest.mark.parametrize, but all cases are one test: pytest takes longer for a test than most cases take.

    values: a dictionary gives them names. An error tells its case. A case cannot be skipped, but for want of a library.
    """
    names = [names] if isinstance(names, str) else list(names)
    cases = list(values.items()) if isinstance(values, dict) else [(value, value) for value in values]
    assert cases, f"no cases of {names}"

    def decorate(test):
        @functools.wraps(test)
        def run(*args, **kwargs):
            for label, value in cases:
                try:
                    test(*args, **kwargs, **dict(zip(names, value if len(names) > 1 else [value], strict=True)))
                except BaseException as error:
                    if isinstance(error, pytest.skip.Exception) and "could not import" not in str(error):
                        raise AssertionError(f"a case is skipped: leave it out of the values of {names}") from error
                    error.add_note(f"{', '.join(names)}: {label!r}")
                    raise

        signature = inspect.signature(test)
        others = [parameter for name, parameter in signature.parameters.items() if name not in names]
        assert len(others) == len(signature.parameters) - len(names), f"{test.__name__} does not take all of {names}"
        run.__signature__ = signature.replace(parameters=others)
        return run

    return decorate


# T, B, I and H of nothing, of one, and of more, with and without a batch axis.
EDGE_SIZES = [(T, B, I, H) for T in (0, 1, 3) for B in (None, 0, 1, 3) for I in (0, 1, 3) for H in (0, 1, 3)]
# B and H on both sides of every size at which the code takes another route, and of vectors and their tails.
THRESHOLD_SIZES = [
    (B, H) for B in (1, 4, 5, 12, 13, 33) for H in (7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 256, 257, 300)
]


# ---- Random networks ------------------------------------------------------------------------------------------------
def network(T=5, B=3, I=4, H=6, O=2, *, dtype=np.float64, seed=0):
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


def arguments(function, network):
    """What the function of this name takes from the network."""
    if function in ("loss_and_gradients", "check_gradients"):
        names = ["U", "W", "b", "V", "c", "x", "targets", "h0", "weights"]
    else:
        names = list(inspect.signature(getattr(pyrnn, function)).parameters)
    chosen = {name: network[name] for name in names if name in network}
    return chosen | {"targets": network["numbers"]} if function == "squared_error" else chosen


def call(module, function, arguments, **options):
    """All arrays that the function returns, as one flat tuple."""
    if "network" in inspect.signature(getattr(module, function)).parameters:
        made = pyrnn.Network(*(arguments[name] for name in "UWbVc"))
        others = {name: a for name, a in arguments.items() if name not in "UWbVc"}
        result = getattr(module, function)(made, **others, **options)
    else:
        result = getattr(module, function)(**arguments, **options)
    parts = result if isinstance(result, tuple) else (result,)
    return tuple(a for part in parts for a in (part if isinstance(part, tuple) else (part,)))


def with_cell(form):
    """Arguments as they are, but those of a cell as one `Cell`, or as a namespace where alpha is complex."""
    names = ("nonlinearity", "alpha", "form", "negative_slope")
    given = {name: form[name] for name in names if name in form}
    others = {name: value for name, value in form.items() if name not in names}
    if np.iscomplexobj(given.get("alpha")):  # of the reference, for derivatives by complex steps
        default = {"nonlinearity": "tanh", "form": "rate", "negative_slope": 0.01}
        return others | {"cell": types.SimpleNamespace(**default | given)}
    return others | {"cell": pyrnn.Cell(**given)}


# ---- Layouts --------------------------------------------------------------------------------------------------------
def lay_out(a, order=None, steps=None, margin=0):
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


def step_in(axis, step):
    """A layout with this step in one axis, the last one if there are not so many."""
    return lambda a: lay_out(a, steps=[step if i == min(axis, a.ndim - 1) else 1 for i in range(a.ndim)])


def unaligned(a):
    memory = np.zeros(a.nbytes + 1, np.uint8)
    view = memory[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def field(a):
    """Every element three quarters or one and a half of its size after the one before."""
    view = np.zeros(a.shape, [("a", a.dtype), ("other", "V2")])["a"]
    view[...] = a
    return view


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


WRITEABLE_LAYOUTS = {
    "C": lambda a: lay_out(a),
    "F": lambda a: lay_out(a, order=range(a.ndim)[::-1]),
    "batch first": lambda a: lay_out(a, order=[*range(a.ndim)[1::-1], *range(a.ndim)[2:]]),
    "sub-array": lambda a: lay_out(a, margin=2),
    "batch-first sub-array": lambda a: lay_out(a, order=[*range(a.ndim)[1::-1], *range(a.ndim)[2:]], margin=1),
    "all reversed": lambda a: lay_out(a, steps=(-1,) * a.ndim),
    "first axis reversed": step_in(0, -1),
    "second axis reversed": step_in(1, -1),
    "last axis reversed": step_in(9, -1),
    "step in first axis": step_in(0, 2),
    "step in second axis": step_in(1, 3),
    "step in last axis": step_in(9, 2),
    "steps in all axes": lambda a: lay_out(a, steps=(-3, 2, -2)[: a.ndim]),
    "unaligned": unaligned,
    "field": field,
}
LAYOUTS = WRITEABLE_LAYOUTS | {
    "read-only": read_only,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


def memory(a):
    """The whole array that `a` is a view into."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


# ---- Comparison -----------------------------------------------------------------------------------------------------
def tolerance_of(dtype, arrays):
    """The error allowed, relative to the largest entry of a result.

    float64: 1e-13. float32: rounding errors of a sum of n terms grow as sqrt(n) eps (Higham and Mary, SIAM J. Sci.
    Comput. 41, 2019), and n is at most the number of rows of all steps or the longest row; 8 for the many roundings
    beside, and because each step passes its error on to the next.
    """
    if dtype == np.float64:
        return 1e-13
    terms = max([1, *(a.shape[-1] + a[..., 0].size for a in arrays if a.ndim > 0 and a.size)])
    return 8 * np.finfo(np.float32).eps * terms**0.5


def assert_close(actual, expected, tolerance):
    if expected is None:
        assert actual is None
        return
    assert actual.shape == expected.shape
    largest = np.abs(expected).max(initial=0, where=np.isfinite(expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * largest)


def agree(function, arguments, *, tolerance=None, dtype=None, **options):
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
    before = {name: memory(a).tobytes() for name, a in arrays.items()}

    actual = call(pyrnn, function, arguments, **options)
    with np.errstate(all="ignore"):
        expected = call(reference, function, exact, **options)
    for name, a in arrays.items():
        assert memory(a).tobytes() == before[name], f"{name} was written to"
    if tolerance is None:
        tolerance = tolerance_of(dtype, arrays.values())
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        if e is not None:
            assert a.dtype == (dtype if np.ndim(e) else np.float64)
            assert a.dtype.isnative
        assert_close(a, e, tolerance)
    return actual


# ---- Memory ---------------------------------------------------------------------------------------------------------
def allocated(call, rounds=3):
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


# ---- Interrupts -----------------------------------------------------------------------------------------------------
def stops_early(call, part, times):
    """Assert that an interrupt stops a call before half of its work is done; part: a call with one of `times` parts.

    Work is told from processor time, compared with that of the part, so that it does not matter what else the machine
    does.
    """
    if not hasattr(signal, "setitimer"):
        pytest.skip("this system has no timers that send signals")
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals go to the main thread")
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


# ---- Derivatives ----------------------------------------------------------------------------------------------------
def states(x, U, W, b, h0):
    """The hidden states once more, for complex numbers too."""
    states = np.empty((len(x), *h0.shape), np.result_type(x, U, W, b, h0))
    for t in range(len(x)):
        states[t] = h0 = np.tanh(np.einsum("hi,...i->...h", U, x[t]) + np.einsum("hk,...k->...h", W, h0) + b)
    return states


def complex_step(function, arguments):
    """The derivative of a real-valued function of the arguments with respect to each entry, to machine precision."""
    gradients = {}
    for name, a in arguments.items():
        gradients[name] = np.empty((*a.shape, *np.shape(function(**arguments))))
        for index in np.ndindex(a.shape):
            moved = a.astype(complex)
            moved[index] += 1e-30j
            gradients[name][index] = np.imag(function(**arguments | {name: moved})) / 1e-30
    return gradients


def central_differences(function, arguments, step=1e-5):
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


def forms(H):
    """A cell of each form with H units, by name."""
    each = np.linspace(0.1, 1, H)
    leaks = {
        "plain": {},
        "rate": {"alpha": 0.3},
        "rate by unit": {"alpha": each},
        "current": {"alpha": 0.3, "form": "current"},
        "current by unit": {"alpha": each, "form": "current"},
    }
    names = ("tanh", "relu", "identity")
    return {f"{name}-{leak}": pyrnn.Cell(name, **options) for name in names for leak, options in leaks.items()}


# ---- Calls of the compiled engines --------------------------------------------------------------------------------
ENGINES = {"blas": engine_blas, "fused": engine_fused}


class InEngine:
    """The functions of pyrnn, computed with this engine; called, any function."""

    def __init__(self, engine):
        self._engine = engine

    def __call__(self, function):
        def call(*arguments, **named):
            with pyrnn.config.using(engine=self._engine):
                return function(*arguments, **named)

        return call

    def __getattr__(self, name):
        return self(getattr(pyrnn, name))


FUSED, BLAS, AUTO = (InEngine(name) for name in ("fused", "blas", "auto"))


def compiled_state_gradients(engine, dh, h, W, n_threads=None):
    """state_gradients of one engine, of arrays that fit and a plain tanh cell."""
    call = Call.state_gradients(dh, h, W, pyrnn.Cell(), None, None, False, None, n_threads)
    ENGINES[engine].state_gradients(call)
    return call.grad_h


def add_gradients(
    dh, h, x, U, W, h0, out, *, weights, x_too, cell=None, drive=None, lengths=None, mask=None, reverse=False,
    rates=None, lost=None, goes_on=False, engine="fused", n_threads=None,
):  # fmt: skip
    """backward that adds to the arrays of `out`, those of the weights or of x; they are what comes back."""
    cell = pyrnn.Cell() if cell is None else cell
    steps = _steps.check(lengths, mask, reverse, x)
    call = Call.backward(dh, h, x, U, W, h0, cell, drive, *steps, rates, True, tuple(out), n_threads)
    call.add(weights, x_too, lost, goes_on)
    ENGINES[engine].backward(call)
    return call.results
