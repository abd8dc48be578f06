"""tanh of the kernels, on every instruction set of this machine.

Errors are in units in the last place of the exact value. Greatest seen, and where:
    float32  1.3320  at 0x1.43183ap-1        of all float32, against float64
    float64  1.3447  at 0x1.40e2153ef0fc4p-1 of 5e8 random points, against long double, then 50 digits
Both lie just above the split at 0.625, where tanh = 1 - 2 / (e + 1), e = exp(2|x|) = 3.49. In units of the result, the
roundings of e, e + 1, the quotient and the difference are at most 0.198 + 0.396 + 0.25 + 0.5 = 1.344; the polynomial
in front adds a few hundredths. Below the split the last addition has nearly all of the error.
"""

import os
import subprocess
import sys

import mpmath
import numpy as np
import pytest

import pyrnn
from pyrnn import _kernels

DTYPES = [np.float32, np.float64]
LAST_BELOW_ONE = {np.float32: "0x1.2059660000000p+3", np.float64: "0x1.30fc1931f09c9p+4"}  # 9.011 and 19.06
ALWAYS_ONE_FROM = {np.float32: 9.02, np.float64: 19.1}
SPLIT = 0.625


@pytest.fixture(params=_kernels.available())
def instructions(request):
    """Every instruction set in turn; the one that was in use is restored."""
    before = _kernels.selected()
    _kernels.select(request.param)
    yield request.param
    _kernels.select(before)


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def dtype(request):
    return request.param


def bits(a):
    return a.view(np.uint32 if a.dtype == np.float32 else np.uint64)


def from_bits(numbers, dtype):
    return np.array(numbers, np.uint32 if dtype == np.float32 else np.uint64).view(dtype)


def around(value, dtype, count):
    """The floating-point numbers nearest to a positive value, ascending."""
    return from_bits(int(bits(np.array([value], dtype))[0]) + np.arange(-count, count + 1), dtype)


def samples(dtype, n, seed=0):
    """Numbers from the whole range with both signs, most of them where tanh bends."""
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)
    spread = np.exp(rng.uniform(np.log(float(info.smallest_normal)), np.log(float(info.max)), n // 4))
    return np.concatenate(
        [rng.normal(size=n // 4), rng.uniform(-3, 3, n // 4), spread, rng.uniform(-20, 20, n // 4)]
    ).astype(dtype)


def exponent_boundaries(dtype, count):
    """Numbers around (k + 1/2) log(2) / 2, where the exponential changes from k to k + 1, and around the split."""
    places = [SPLIT, *(np.arange(1, 56) + 0.5) * np.log(2) / 2]
    return np.concatenate([around(place, dtype, count) for place in places])


def units_in_the_last_place(exact, dtype):
    """The distance of neighbouring numbers of dtype at `exact`, in the type of `exact`."""
    info = np.finfo(dtype)
    exponent = np.maximum(np.frexp(exact)[1] - info.nmant - 1, info.minexp - info.nmant)
    return np.ldexp(exact.dtype.type(1), exponent)


def exact_error(x):
    """The error of tanh of one float64, in units in the last place, by 50 digits."""
    with mpmath.workdps(50):
        truth = mpmath.tanh(mpmath.mpf(float(x)))
        difference = abs(mpmath.mpf(float(_kernels.tanh(np.array([x]))[0])) - truth)
        return float(difference / mpmath.ldexp(1, max(mpmath.frexp(truth)[1] - 53, -1074)))


def run_python(script, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


# ------------------------------------------------------------------------------------------ special values and limits
def test_zeros_infinities_and_saturation(instructions, dtype):
    last = float.fromhex(LAST_BELOW_ONE[dtype])
    x = np.array(
        [
            0.0,
            np.inf,
            last,
            np.nextafter(dtype(last), dtype(np.inf)),
            ALWAYS_ONE_FROM[dtype],
            1e3,
            1e30,
            np.finfo(dtype).max,
        ],
        dtype,
    )
    expected = np.array([0, 1, np.nextafter(dtype(1), dtype(0)), 1, 1, 1, 1, 1], dtype)
    np.testing.assert_array_equal(bits(_kernels.tanh(x)), bits(expected))
    np.testing.assert_array_equal(bits(_kernels.tanh(-x)), bits(-expected))


def test_nan_keeps_sign_and_payload(instructions, dtype):
    digits, exponent_digits = np.finfo(dtype).nmant, np.finfo(dtype).bits - 1 - np.finfo(dtype).nmant
    quiet, exponent = 1 << (digits - 1), ((1 << exponent_digits) - 1) << digits
    payloads = [1, 2, quiet - 1, quiet, quiet + 1, quiet | 0x2345, (1 << digits) - 1]
    numbers = [sign << (digits + exponent_digits) | exponent | payload for sign in (0, 1) for payload in payloads]
    y = _kernels.tanh(from_bits(numbers, dtype))
    np.testing.assert_array_equal(bits(y), bits(from_bits([n | quiet for n in numbers], dtype)))


def test_nan_stays_in_its_lane(instructions, dtype):
    x = samples(dtype, 400)
    expected = _kernels.tanh(x)
    x[::7] = expected[::7] = np.nan
    np.testing.assert_array_equal(_kernels.tanh(x), expected)


def test_denormals_and_tiny_numbers_are_kept(instructions, dtype):
    tiny = np.finfo(dtype).smallest_subnormal * np.array([1, 2, 3, 1000], dtype)
    x = np.concatenate([tiny, around(np.finfo(dtype).smallest_normal, dtype, 20)])
    np.testing.assert_array_equal(bits(_kernels.tanh(x)), bits(x))
    np.testing.assert_array_equal(bits(_kernels.tanh(-x)), bits(-x))


def test_odd_bounded_and_signed(instructions, dtype):
    x = np.concatenate([samples(dtype, 40_000), exponent_boundaries(dtype, 100)])
    y = _kernels.tanh(x)
    np.testing.assert_array_equal(bits(_kernels.tanh(-x)), bits(-y))
    assert (np.abs(y) <= 1).all()
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x))
    assert (np.abs(y[np.abs(x) >= ALWAYS_ONE_FROM[dtype]]) == 1).all()


def test_monotone_where_branches_meet(instructions, dtype):
    for place in [SPLIT, *(np.arange(1, 56) + 0.5) * np.log(2) / 2]:
        assert (np.diff(_kernels.tanh(around(place, dtype, 2_000))) >= 0).all(), place


def test_monotone_from_zero_to_one(instructions):
    x = np.arange(0, bits(np.float32([9.1]))[0], 251, dtype=np.uint32).view(np.float32)
    assert (np.diff(_kernels.tanh(x)) >= 0).all()


# --------------------------------------------------------------------------------------------------- lengths and bits
@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_every_length_from_every_start(instructions, dtype, start):
    x = samples(dtype, 400)
    y = _kernels.tanh(x)
    for n in range(41):
        np.testing.assert_array_equal(bits(_kernels.tanh(x[start : start + n])), bits(y[start : start + n]))


def test_rows_of_every_length_leave_their_neighbours_alone(instructions, dtype):
    for n in range(1, 41):
        out = np.full((3, n + 2), 7, dtype)
        a = samples(dtype, 400)[: 3 * n].reshape(3, n)
        U, W = np.eye(n, dtype=dtype), np.zeros((n, n), dtype)
        pyrnn.forward(a[np.newaxis], U, W, out=out[np.newaxis, :, 1:-1])
        np.testing.assert_array_equal(out[:, 1:-1], _kernels.tanh(a))
        assert (out[:, [0, -1]] == 7).all()


GUARDED = """
import ctypes, mmap, os
import numpy as np
from pyrnn import _kernels
libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
pages = mmap.mmap(-1, 3 * page)
address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
for guard in (0, 2):
    assert libc.mprotect(ctypes.c_void_p(address + guard * page), ctypes.c_size_t(page), 0) == 0  # PROT_NONE
for name in _kernels.available():
    _kernels.select(name)
    for dtype in (np.float32, np.float64):
        middle = np.frombuffer(pages, dtype, page // np.dtype(dtype).itemsize, page)
        for n in range(41):
            _kernels.tanh(middle[:n])
            _kernels.tanh(middle[middle.size - n:])
print("read nothing else", flush=True)
os._exit(0)  # without closing the map, which NumPy still holds
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")
def test_nothing_beyond_the_array_is_read():
    process = run_python(GUARDED)
    assert process.stdout == "read nothing else\n", (process.returncode, process.stderr)


def test_the_same_bits_on_every_instruction_set(instructions, dtype):
    n = 100_000
    x = np.concatenate([samples(dtype, n), exponent_boundaries(dtype, 200), from_bits([0, 1, 2, 3], dtype)])
    ours = _kernels.tanh(x)
    _kernels.select("base")
    np.testing.assert_array_equal(bits(ours), bits(_kernels.tanh(x)))


def test_shape_is_kept_and_the_input_is_not_written(instructions, dtype):
    x = samples(dtype, 24).reshape(2, 3, 4)
    before = x.copy()
    assert _kernels.tanh(x.T).shape == (4, 3, 2)
    np.testing.assert_array_equal(_kernels.tanh(x.T), _kernels.tanh(x).T)
    np.testing.assert_array_equal(x, before)


# ----------------------------------------------------------------------------------------------------------- accuracy
def float32_errors(x):
    exact = np.tanh(x.astype(np.float64))
    return np.abs(_kernels.tanh(x) - exact) / units_in_the_last_place(exact, np.float32)


def test_float32_error(instructions):
    x = np.arange(1, bits(np.float32([9.1]))[0], 509, dtype=np.uint32).view(np.float32)
    assert float32_errors(x).max() <= 1.34
    assert float32_errors(exponent_boundaries(np.float32, 2_000)).max() <= 1.34


def test_float64_error_against_50_digits(instructions):
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [
            rng.uniform(0, 20, 500),
            rng.uniform(0, 2, 1_000),
            rng.uniform(SPLIT, 0.66, 1_000),
            np.exp(rng.uniform(np.log(1e-310), 0, 500)),
            exponent_boundaries(np.float64, 5),
        ]
    )
    assert max(map(exact_error, x)) <= 1.36


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is not wider than float64 here")
def test_float64_error_against_long_double(instructions):
    rng = np.random.default_rng(2)
    x = np.concatenate(
        [
            rng.uniform(0, 20, 100_000),
            rng.uniform(SPLIT, 0.66, 200_000),
            rng.uniform(0.3, SPLIT, 100_000),
            exponent_boundaries(np.float64, 1_000),
        ]
    )
    exact = np.tanh(x.astype(np.longdouble))
    errors = np.abs(_kernels.tanh(x) - exact) / units_in_the_last_place(exact, np.float64)
    assert errors.max() <= 1.36


@pytest.mark.parametrize(("x", "error"), [("0x1.40e2153ef0fc4p-1", 1.3447), ("0x1.148a15a13ab6ep-1", 0.7723)])
def test_the_worst_float64_arguments(instructions, x, error):
    assert exact_error(float.fromhex(x)) == pytest.approx(error, abs=1e-4)


def test_the_worst_float32_argument(instructions):
    x = np.float32([float.fromhex("0x1.43183ap-1")])
    assert float32_errors(x)[0] == pytest.approx(1.3320, abs=1e-4)


@pytest.mark.slow
def test_every_positive_float32(instructions):
    step, end = 1 << 22, int(bits(np.float32([np.inf]))[0]) + 1
    previous, worst = np.float32(0), 0.0
    for start in range(0, end, step):
        x = np.arange(start, min(start + step, end), dtype=np.uint32).view(np.float32)
        y = _kernels.tanh(x)
        assert y[0] >= previous
        assert (np.diff(y) >= 0).all()
        if x[0] < 10:
            worst = max(worst, float32_errors(x).max())
        else:
            assert (y == 1).all()
        previous = y[-1]
    assert worst == pytest.approx(1.3320, abs=1e-4)


# -------------------------------------------------------------------------------------------- choosing the instructions
@pytest.mark.parametrize("name", _kernels.available())
def test_environment_variable_chooses(name):
    process = run_python("from pyrnn import _kernels; print(_kernels.selected())", PYRNN_CPU=name)
    assert process.stdout.strip() == name, process.stderr


def test_no_choice_is_the_best():
    process = run_python("from pyrnn import _kernels; print(_kernels.selected())", PYRNN_CPU="")
    assert process.stdout.strip() == _kernels.available()[0], process.stderr


def test_unknown_instructions_are_an_error_on_import():
    process = run_python("import pyrnn", PYRNN_CPU="nonsense")
    assert process.returncode == 1
    message = process.stderr.strip().splitlines()[-1]
    assert message == (
        f"ValueError: environment variable PYRNN_CPU: instruction set must be one of "
        f"{', '.join(_kernels.available())} on this machine, got 'nonsense'"
    )


def test_select_refuses_and_keeps_what_it_had():
    before = _kernels.selected()
    with pytest.raises(ValueError, match="instruction set must be one of"):
        _kernels.select("nonsense")
    assert _kernels.selected() == before


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, np.int64, complex])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="x must be float32 or float64"):
        _kernels.tanh(np.zeros(3, dtype))
