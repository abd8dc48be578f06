"""What every function does with its arguments: layouts, types, errors, and that nothing is written but `out`."""

import array
import re

import numpy as np
import pytest
from helpers import LAYOUTS, InEngine, agree, arguments, assert_close, call, for_each, lay_out, network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyrnn
from pyrnn._core.call import Call

pytestmark = pytest.mark.compiled

SHAPES = {
    "forward": {"x": "TBI", "U": "HI", "W": "HH", "b": "H", "h0": "BH"},
    "backward": {"dh": "TBH", "h": "TBH", "x": "TBI", "U": "HI", "W": "HH", "h0": "BH"},
    "state_gradients": {"dh": "TBH", "h": "TBH", "W": "HH"},
    "jacobian": {"h": "TBH", "W": "HH", "h0": "BH"},
    "output": {"h": "TBH", "V": "OH", "c": "O"},
    "output_gradients": {"do": "TBO", "h": "TBH", "V": "OH"},
    "softmax_cross_entropy": {"o": "TBO", "targets": "TB", "weights": "TB"},
    "squared_error": {"o": "TBO", "targets": "TBO", "weights": "TB"},
    "loss_and_gradients": {
        "U": "HI",
        "W": "HH",
        "b": "H",
        "V": "OH",
        "c": "O",
        "x": "TBI",
        "targets": "TB",
        "h0": "BH",
        "weights": "TB",
    },
}
ARGUMENTS = [(function, name) for function, shapes in SHAPES.items() for name in shapes]
OPTIONAL = ("b", "h0", "c", "weights")
CLASSES = [("softmax_cross_entropy", "targets"), ("loss_and_gradients", "targets")]  # integers, not real numbers
REAL = [pair for pair in ARGUMENTS if pair not in CLASSES]

every_function = pytest.mark.parametrize("function", SHAPES)
every_argument = pytest.mark.parametrize(("function", "name"), ARGUMENTS)
every_real_argument = pytest.mark.parametrize(("function", "name"), REAL)


def rejects(error, words, function, arguments, **options):
    """Assert that a call raises, with all these words in the message, and writes to none of its arguments."""
    content = lambda: {
        name: a.tobytes() if isinstance(a, np.ndarray) else repr(a) for name, a in (arguments | options).items()
    }
    before = content()
    with pytest.raises(error) as caught:
        call(pyrnn, function, arguments, **options)
    assert type(caught.value) is error
    for word in words:
        assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", str(caught.value)), str(caught.value)
    assert content() == before


# ---- Layouts --------------------------------------------------------------------------------------------------------
@every_argument
@pytest.mark.parametrize("B", [None, 3])
@for_each("layout", LAYOUTS)
def test_one_argument_in_another_layout(layout, dtype, function, name, B):
    given = arguments(function, network(B=B, dtype=dtype))
    agree(function, given | {name: layout(given[name])})


@every_function
@pytest.mark.parametrize("B", [None, 1, 3])
@for_each("layout", LAYOUTS)
def test_all_arguments_in_another_layout(layout, function, B):
    given = arguments(function, network(B=B))
    agree(function, {name: layout(a) for name, a in given.items()})


@every_argument
@pytest.mark.parametrize("B", [None, 3])
def test_zero_strides(function, name, B):
    given = arguments(function, network(B=B))
    a = given[name]
    if (function, name) == ("loss_and_gradients", "V"):
        pytest.skip("all outputs are then the same, and their gradient cancels to nothing")
    for axis in range(a.ndim):
        one = a[tuple(slice(0, 1) if i == axis else slice(None) for i in range(a.ndim))]
        agree(function, given | {name: np.broadcast_to(one, a.shape)})
    agree(function, given | {name: np.broadcast_to(a[(0,) * a.ndim], a.shape)})


@every_function
def test_same_array_twice(function):
    """Arguments of one shape may share their memory: nothing is written."""
    given = arguments(function, network(T=4, B=4, I=4, H=4, O=4))
    for shape in {a.shape for a in given.values()}:
        same = {name: a for name, a in given.items() if a.shape == shape and a.dtype.kind == "f"}
        agree(function, given | dict.fromkeys(same, next(iter(same.values()), None)))


@st.composite
def placements(draw, ndim):
    """How an array of so many axes may lie in memory: the arguments of `lay_out`."""
    order = draw(st.permutations(range(ndim)))
    steps = draw(st.lists(st.sampled_from([-2, -1, 1, 1, 2, 3]), min_size=ndim, max_size=ndim))
    return {"order": order, "steps": steps, "margin": draw(st.integers(0, 2))}


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_shape_and_strides(set_chunk_bytes, data):
    function = data.draw(st.sampled_from(list(SHAPES)))
    size = st.one_of(st.integers(0, 3), st.integers(4, 20))
    T, I, H, O = (data.draw(size) for _ in range(4))
    B = data.draw(st.one_of(st.none(), size))
    if function in ("softmax_cross_entropy", "loss_and_gradients"):
        O = max(O, 1)  # there is no class among none
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    n = network(T, B, I, H, O, dtype=dtype, seed=data.draw(st.integers(0, 9)))
    given_ = {name: lay_out(a, **data.draw(placements(a.ndim))) for name, a in arguments(function, n).items()}
    set_chunk_bytes(data.draw(st.sampled_from([1, 500, 5000, 1 << 19])))
    # Not sharper: the one number of a small result may be a sum that cancels.
    agree(function, given_, tolerance=1e-3 if dtype == np.float32 else 1e-10)


@every_function
@pytest.mark.parametrize("missing", OPTIONAL)
def test_optional_argument_left_out(function, missing):
    given = arguments(function, network())
    if missing not in given:
        pytest.skip("not an argument of this function")
    agree(function, given | {missing: None})


# ---- Types ----------------------------------------------------------------------------------------------------------
PROMOTIONS = {
    "float16": np.float32,
    "bool": np.float32,
    "int8": np.float32,
    "uint8": np.float32,
    "int16": np.float32,
    "uint16": np.float32,
    "int32": np.float64,
    "uint32": np.float64,
    "int64": np.float64,
    "uint64": np.float64,
    "float32": np.float32,
    "float64": np.float64,
    ">f2": np.float32,
    ">f4": np.float32,
    ">f8": np.float64,
    ">i2": np.float32,
    ">i8": np.float64,
}


def cast(a, dtype):
    """Numbers of this type that are not all zero."""
    dtype = np.dtype(dtype)
    return (a if dtype.kind == "f" else a > 0 if dtype.kind == "b" else np.abs(a * 3)).astype(dtype)


@every_real_argument
@for_each(("dtype", "expected"), PROMOTIONS.items())
def test_one_argument_promotes(function, name, dtype, expected):
    given = arguments(function, network(dtype=np.float32))
    if function == "loss_and_gradients" and name == "weights":
        expected = np.float32
    agree(function, given | {name: cast(given[name], dtype)}, dtype=expected, tolerance=1e-4)


@every_function
@for_each(("dtype", "expected"), PROMOTIONS.items())
def test_all_arguments_of_one_type(function, dtype, expected):
    given = arguments(function, network())
    changed = {name: cast(a, dtype) if (function, name) in REAL else a for name, a in given.items()}
    agree(function, changed, dtype=expected, tolerance=1e-4 if expected == np.float32 else 1e-12)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("float16", "float16", "float16"), np.float32),
        (("float16", "float32", "bool"), np.float32),
        (("int16", "uint16", "float16"), np.float32),
        (("int32", "float32", "float32"), np.float64),
        (("float32", "float64", "float32"), np.float64),
        (("int8", "int64", "bool"), np.float64),
        ((">f4", "float32", ">f4"), np.float32),
        ((">f4", "<f4", ">f8"), np.float64),
        (("uint64", "float16", ">f4"), np.float64),
    ],
)
def test_mixed_types(dtypes, expected):
    n = network()
    x, U, W = (cast(n[name], dtype) for name, dtype in zip("xUW", dtypes, strict=True))
    agree("forward", {"x": x, "U": U, "W": W}, dtype=expected, tolerance=1e-5 if expected == np.float32 else 1e-13)


@pytest.mark.parametrize(("function", "name"), CLASSES)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int64", "uint64", ">i4"])
def test_classes_of_any_integer_type(function, name, dtype):
    given = arguments(function, network(dtype=np.float32, O=5))
    agree(function, given | {name: given[name].astype(dtype)}, dtype=np.float32)


WRAPPERS = {
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(map(tuple, a.tolist())) if a.ndim == 2 else tuple(a.tolist()),
    "list of arrays": list,
    "masked array without masked values": np.ma.masked_array,
    "memoryview": memoryview,
    "memmap class": lambda a: a.view(np.memmap),
    "record class": lambda a: a.view(np.recarray),
}


@every_argument
@for_each("wrap", WRAPPERS)
def test_what_converts_to_an_array(function, name, wrap):
    given = arguments(function, network())
    actual = call(pyrnn, function, given | {name: wrap(given[name])})
    for a, expected in zip(actual, call(pyrnn, function, given), strict=True):
        assert type(a) is type(expected)
        assert_close(a, expected, 1e-15)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", ["x", "U", "W"])
def test_matrix_is_an_array(name):
    given = arguments("forward", network(B=None, I=6))
    (h,) = agree("forward", given | {name: np.matrix(given[name])})
    assert type(h) is np.ndarray


def test_array_protocol_and_buffers():
    class Tensor:
        def __init__(self, a):
            self.a = a

        def __array__(self, dtype=None, copy=None):
            return self.a

    given = arguments("forward", network())
    h = pyrnn.forward(**given)
    assert_close(pyrnn.forward(**given | {"x": Tensor(given["x"])}), h, 1e-15)
    assert_close(pyrnn.forward(**given | {"b": array.array("d", given["b"])}), h, 1e-15)


# ---- NaN and infinity -----------------------------------------------------------------------------------------------
@every_real_argument
@for_each("value", [np.nan, np.inf, -np.inf])
@for_each("size", [(4, 1, 3, 20), (4, 6, 3, 20), (4, 20, 3, 20), (5, None, 40, 7)])
def test_not_finite_is_passed_on(dtype, function, name, value, size):
    """The same entries become NaN and infinite as in the reference, and there is no warning."""
    given = arguments(function, network(*size, dtype=dtype))
    a = given[name].copy()
    a[tuple(n // 2 for n in a.shape)] = value
    agree(function, given | {name: a})


def test_zero_times_nan_is_nan():
    """No route skips a product by zero: h0 and dh of zeros do not hide a NaN."""
    for size in [(2, 1, 3, 20), (20, 1, 3, 20), (2, 6, 3, 20), (2, 20, 3, 20)]:
        n = network(*size)
        n["W"] = np.full_like(n["W"], np.nan)
        assert np.isnan(pyrnn.forward(**arguments("forward", n | {"h0": 0 * n["h0"]}))).all()
        assert np.isnan(pyrnn.backward(**arguments("backward", n | {"dh": 0 * n["dh"]})).h0).all()


# ---- Wrong types ----------------------------------------------------------------------------------------------------
def raising(error):
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            raise error("needs a gradient")

    return Tensor()


NOT_REAL = {
    "complex": (lambda a: a.astype(complex), TypeError, ["complex128"]),
    "object": (lambda a: a.astype(object), TypeError, ["object"]),
    "text": (lambda a: a.astype(str), TypeError, ["dtype"]),
    "bytes": (lambda a: a.astype("S9"), TypeError, ["S9"]),
    "datetime": (lambda a: np.zeros(a.shape, "M8[s]"), TypeError, ["datetime64[s]"]),
    "timedelta": (lambda a: np.zeros(a.shape, "m8[s]"), TypeError, ["timedelta64[s]"]),
    "structured": (lambda a: np.zeros(a.shape, [("re", "f8"), ("im", "f8")]), TypeError, ["dtype"]),
    "masked": (lambda a: np.ma.masked_array(a, np.arange(a.size).reshape(a.shape) < 2), TypeError, ["2 masked"]),
    "all masked": (lambda a: np.ma.masked_all(a.shape), TypeError, ["masked"]),
    "list with None": (lambda a: [None] * len(a), TypeError, ["object"]),
    "ragged": (lambda a: [[1.0], [1.0, 2.0]], ValueError, ["array"]),
    "dict": (lambda a: {"a": a}, TypeError, ["object"]),
    "one string": (lambda a: "abc", TypeError, ["U3"]),
    "too large an integer": (lambda a: [10**400], TypeError, ["object"]),
    "array that raises": (lambda a: raising(RuntimeError), ValueError, ["needs a gradient"]),
    "array that raises TypeError": (lambda a: raising(TypeError), TypeError, ["needs a gradient"]),
}


@every_argument
@for_each(("bad", "error", "words"), NOT_REAL)
def test_not_real(function, name, bad, error, words):
    given = arguments(function, network())
    if (function, name) in CLASSES and "masked" not in words[0] and error is TypeError:
        words = ["integers"] if "gradient" not in words[0] else words
    rejects(error, [name, *words], function, given | {name: bad(given[name])})


@every_real_argument
@pytest.mark.skipif(np.dtype(np.longdouble) == np.float64, reason="long double is float64 here")
def test_long_double(function, name):
    given = arguments(function, network())
    rejects(TypeError, [name, str(np.dtype(np.longdouble))], function, given | {name: given[name].astype("g")})


@every_argument
def test_none(function, name):
    given = arguments(function, network())
    if name in OPTIONAL or (function, name) == ("loss_and_gradients", "V"):
        pytest.skip("may be None")
    expected = "integers" if (function, name) in CLASSES else "numbers"
    rejects(TypeError, [name, expected], function, given | {name: None})


@pytest.mark.parametrize(("function", "name"), CLASSES)
@pytest.mark.parametrize("dtype", [float, bool, np.float32])
def test_classes_must_be_integers(function, name, dtype):
    given = arguments(function, network())
    words = ["targets", "integers", str(np.dtype(dtype))]
    rejects(TypeError, words, function, given | {name: given[name].astype(dtype)})


# ---- Wrong shapes ---------------------------------------------------------------------------------------------------
@every_argument
@pytest.mark.parametrize("B", [None, 3])
def test_wrong_rank(function, name, B):
    given = arguments(function, network(B=B))
    for bad in (given[name][np.newaxis, np.newaxis], given[name][..., np.newaxis, np.newaxis], given[name].ravel()[0]):
        words = [name, "must have shape", f"got {bad.shape}"]
        rejects(ValueError, words, function, given | {name: bad})


# What no other argument says the size of.
FREE = [("forward", "x", "T"), ("softmax_cross_entropy", "o", "O")]
FREE += [(function, "h", axis) for function in ("jacobian", "output") for axis in "TB"]


@every_argument
@for_each("B", [None, 3])
@for_each("change", [-1, 1])
def test_wrong_size(function, name, B, change):
    given = arguments(function, network(5, B, 4, 6, 3))
    a = given[name]
    letters = [letter for letter in SHAPES[function][name] if letter != "B" or B is not None]
    for axis, letter in enumerate(letters):
        if (function, name, letter) in FREE:
            continue
        bad = np.take(a, range(a.shape[axis] + change), axis, mode="clip")
        words = ["must have shape", "got"]
        if (function, name, letter) != ("loss_and_gradients", "x", "T"):  # there the targets and o are named
            words.append(name)
        rejects(ValueError, words, function, given | {name: bad})


@pytest.mark.parametrize(
    ("function", "changes", "message"),
    [
        ("forward", {"U": (5, 3)}, "U must have shape (H, 4) to match x (2, 3, 4), got (5, 3)"),
        ("forward", {"W": (5, 4)}, "W must have shape (5, 5) to match U (5, 4), got (5, 4)"),
        ("forward", {"b": (4,)}, "b must have shape (5,) to match U (5, 4), got (4,)"),
        ("forward", {"b": (5, 1)}, "b must have shape (5,) to match U (5, 4), got (5, 1)"),
        ("forward", {"h0": (5,)}, "h0 must have shape (3, 5) to match x (2, 3, 4) and U (5, 4), got (5,)"),
        ("forward", {"x": (4,)}, "x must have shape (T, B, I) or (T, I), got (4,)"),
        ("backward", {"dh": (2, 3, 1)}, "dh must have shape (2, 3, 5) to match h (2, 3, 5), got (2, 3, 1)"),
        ("backward", {"h": (2, 5)}, "h must have shape (2, 3, 5) to match x (2, 3, 4) and U (5, 4), got (2, 5)"),
        ("state_gradients", {"W": (4, 5)}, "W must have shape (5, 5) to match h (2, 3, 5), got (4, 5)"),
        ("jacobian", {"h": (5,)}, "h must have shape (T, B, H) or (T, H), got (5,)"),
        ("output", {"V": (6, 4)}, "V must have shape (O, 5) to match h (2, 3, 5), got (6, 4)"),
        ("output", {"c": (5,)}, "c must have shape (6,) to match V (6, 5), got (5,)"),
        (
            "output_gradients",
            {"do": (2, 6)},
            "do must have shape (2, 3, 6) to match h (2, 3, 5) and V (6, 5), got (2, 6)",
        ),
        ("squared_error", {"targets": (2, 3)}, "targets must have shape (2, 3, 6) to match o (2, 3, 6), got (2, 3)"),
        (
            "squared_error",
            {"weights": (2,)},
            "weights must have shape (2, 3) or (2, 3, 6) to match o (2, 3, 6), got (2,)",
        ),
    ],
)
def test_messages(function, changes, message):
    given = arguments(function, network(2, 3, 4, 5, 6))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        getattr(pyrnn, function)(**given | {name: np.zeros(shape) for name, shape in changes.items()})


# ---- Options --------------------------------------------------------------------------------------------------------
WITH_THREADS = pytest.mark.parametrize("function", ["forward", "backward"])


@WITH_THREADS
@pytest.mark.parametrize("engine", ["auto", "blas"])
@pytest.mark.parametrize("n_threads", [None, 1, 3, np.int64(2)])
def test_engine_and_n_threads(function, engine, n_threads):
    InEngine(engine)(agree)(function, arguments(function, network()), n_threads=n_threads)


@WITH_THREADS
@pytest.mark.parametrize(
    ("n_threads", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("2", TypeError), ([1], TypeError)]
)
def test_wrong_n_threads(function, n_threads, error):
    words = ["n_threads", "positive integer", f"got {n_threads!r}"]
    rejects(error, words, function, arguments(function, network()), n_threads=n_threads)


@WITH_THREADS
def test_options_are_keywords(function):
    given = arguments(function, network())
    with pytest.raises(TypeError, match="positional"):
        getattr(pyrnn, function)(*given.values(), None)


# ---- out ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (np.full((5, 3, 7), 7.0), ValueError, ["must have shape", "(5, 3, 6)", "got (5, 3, 7)"]),
        (np.full((3, 5, 6), 7.0), ValueError, ["must have shape", "(5, 3, 6)", "got (3, 5, 6)"]),
        (np.full((5, 6), 7.0), ValueError, ["must have shape", "got (5, 6)"]),
        (np.array(7.0), ValueError, ["must have shape", "got ()"]),
        (np.full((5, 3, 6), 7.0, np.float32), ValueError, ["dtype float64", "got float32"]),
        (np.full((5, 3, 6), 7), ValueError, ["dtype float64", "got int64"]),
        (np.full((5, 3, 6), 7, object), ValueError, ["dtype float64", "got object"]),
        (np.full((5, 3, 6), 7.0, np.dtype("f8").newbyteorder("S")), ValueError, ["dtype float64", "got"]),
        (np.broadcast_to(7.0, (5, 3, 6)), ValueError, ["writeable", "read-only"]),
        (np.ma.masked_array(np.full((5, 3, 6), 7.0)), TypeError, ["MaskedArray"]),
        (np.full((5, 3, 6), 7.0).tolist(), TypeError, ["NumPy array", "list"]),
    ],
)
def test_wrong_out(out, error, words):
    rejects(error, ["out", *words], "forward", arguments("forward", network()), out=out)


def test_wrong_dtype_of_out_for_float32():
    words = ["out", "dtype float32", "got float64"]
    rejects(ValueError, words, "forward", arguments("forward", network(dtype=np.float32)), out=np.full((5, 3, 6), 7.0))


@pytest.mark.parametrize("B", [None, 3])
def test_subclass_as_out(B):
    given = arguments("forward", network(B=B))
    expected = pyrnn.forward(**given)
    out = np.full_like(expected, np.nan).view(np.memmap)
    assert pyrnn.forward(**given, out=out) is out
    np.testing.assert_array_equal(np.asarray(out), expected)


def test_error_comes_before_writing_to_out():
    given = arguments("forward", network())
    for name, shape in {"W": (6, 5), "b": (5,), "h0": (3, 5), "U": (6, 5)}.items():
        rejects(ValueError, [name], "forward", given | {name: np.zeros(shape)}, out=np.full((5, 3, 6), 7.0))


def share(given, name, offset, before=False):
    """The argument in a larger memory, and an `out` that starts so many elements after its start, or ends before."""
    a, size = given[name], 5 * 3 * 6
    memory = np.full(a.size + 2 * size, 7.0)
    shared = memory[size : size + a.size].reshape(a.shape)
    shared[...] = a
    start = size + offset - (size if before else 0)
    return given | {name: shared}, memory[start : start + size].reshape(5, 3, 6), memory


@pytest.mark.parametrize("name", ["x", "U", "W", "b", "h0"])
@pytest.mark.parametrize("place", ["start", "last element", "first element"])
@pytest.mark.parametrize("wrap", [np.asarray, memoryview])
def test_out_overlaps_an_input(name, place, wrap):
    given = arguments("forward", network(I=6))
    given, out, memory = {
        "start": lambda: share(given, name, 0),
        "last element": lambda: share(given, name, given[name].size - 1),
        "first element": lambda: share(given, name, 1, before=True),
    }[place]()
    before = memory.copy()
    with pytest.raises(ValueError, match=rf"^out must not overlap .*\b{name}$"):
        pyrnn.forward(**given | {name: wrap(given[name])}, out=out)
    np.testing.assert_array_equal(memory, before)


@pytest.mark.parametrize("name", ["x", "U", "W", "b", "h0"])
@pytest.mark.parametrize("before", [False, True])
def test_out_beside_an_input(name, before):
    given = arguments("forward", network(I=6))
    expected = pyrnn.forward(**given)
    given, out, _ = share(given, name, 0 if before else given[name].size, before)
    np.testing.assert_array_equal(pyrnn.forward(**given, out=out), expected)


@pytest.mark.parametrize("split", [lambda a: (a[..., ::2], a[..., 1::2]), lambda a: (a[..., :6], a[..., 6:])])
@pytest.mark.parametrize("B", [None, 3])
def test_out_interleaved_with_x(split, B):
    given = arguments("forward", network(40, B, 6, 6))
    expected = pyrnn.forward(**given)
    x, out = split(np.full((*given["x"].shape[:-1], 12), 7.0))
    x[...] = given["x"]
    assert pyrnn.forward(**given | {"x": x}, out=out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(x, given["x"])


# ---- Sizes beyond 32 bits -------------------------------------------------------------------------------------------
def available_memory():
    """Bytes that this machine can still give, 0 where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0


@pytest.mark.slow
@pytest.mark.skipif(available_memory() < 20e9, reason="needs 20 GB of memory")
@pytest.mark.parametrize(("T", "B", "H"), [(2**31 + 5, None, 1), (2**17 + 1, 256, 64)], ids=["steps", "elements"])
def test_beyond_32_bits(T, B, H):
    """Constant input: the last states of more than 2^31 are those that a short run settles at."""
    n = network(1, B and 1, 1, H, dtype=np.float32)
    x = np.broadcast_to(n["x"], (T, 1) if B is None else (T, B, 1))
    steady = pyrnn.forward(x[:200], n["U"], n["W"], n["b"]).reshape(200, -1, H)[:, 0]
    h = pyrnn.forward(x, n["U"], n["W"], n["b"]).reshape(T, -1, H)
    assert h.size > 2**31
    for t in (0, 1, 2, -7, -2, -1):
        for i in {0, h.shape[1] // 2, h.shape[1] - 1}:
            assert_close(h[t, i], steady[t], 1e-5)


class Subclass(np.ndarray):
    pass


def unaligned(a):
    return np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)


def one_too_many(a):
    return np.concatenate([a, a[-1:]])


def rows_overlap(a):
    return np.lib.stride_tricks.as_strided(a, a.shape, (0, a.itemsize))


OTHERWISE = {
    "a list": np.ndarray.tolist,
    "a subclass": lambda a: a.view(Subclass),
    "float32": lambda a: a.astype(np.float32),
    "integers": lambda a: a.astype(np.int64),
    "byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "columns apart": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "unaligned": unaligned,
    "one row too many": one_too_many,
    "one column too many": lambda a: one_too_many(a.T).T.copy(),
    "an axis too many": lambda a: a[np.newaxis],
}


@pytest.mark.parametrize("otherwise", OTHERWISE)
@pytest.mark.parametrize("name", ["x", "U", "W", "b", "h0", "dh", "h"])
def test_only_what_fits_goes_past_the_checks(name, otherwise):
    n = {k: v for k, v in network(dtype=np.float64).items() if k in ("x", "U", "W", "b", "h0", "dh", "h")}
    assert fit(**n)
    assert not fit(**n | {name: OTHERWISE[otherwise](n[name])})


def fit(x, U, W, b=None, h0=None, dh=None, h=None):
    """Whether a call is made of the arrays as they are, in every function that has them."""
    rest = (pyrnn.Cell(), None, None, None, False, None)
    made = Call.forward(x, U, W, b, h0, *rest, None, None) is not None
    if dh is not None:
        both = Call.backward(dh, h, x, U, W, h0, *rest, True, None, None) is not None
        return made and both
    return made


def test_what_fits_and_may_be_missing():
    n = network(dtype=np.float64)
    assert fit(n["x"], n["U"], n["W"])
    for name in ("U", "W"):
        assert not fit(*({**n, name: rows_overlap(n[name])}[k] for k in ("x", "U", "W", "b", "h0")))
    assert not fit(n["x"], n["U"], n["W"], None, None, n["dh"], None)
    for name in ("x", "U", "W"):
        assert not fit(*({**n, name: None}[k] for k in ("x", "U", "W", "b", "h0")))
