"""softplus, the logistic function, softplus' and exp of the kernels, on every instruction set of this machine.

Errors are in units in the last place of the exact value. Greatest seen, for arguments above 0 and below, and where:
WORST. softplus_error.c makes these figures; long double adds up to 0.001 units to those of float64.
"""

import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
from test_tanh import around, bits, dtype, instructions, samples  # noqa: F401

import pyrnn
from pyrnn._core import table

pytestmark = pytest.mark.compiled

CELLS = {name: pyrnn.Cell(name) for name in ("softplus", "sigmoid")}
LOWEST = {np.float32: "-0x1.5d589ep+6", np.float64: "-0x1.6232bdd7abcd2p+9"}
WORST = {
    ("f32", "softplus"): [("0x1.022beap+0", 0.6926), ("-0x1.faace8p-1", 0.9577)],
    ("f32", "sigmoid"): [("0x1.61fe04p-2", 0.9888), ("-0x1.61fe04p-2", 0.9777)],
    ("f32", "slope"): [("0x1.840f9p-2", 0.9959), ("0x0p+0", 0.0)],
    ("f64", "softplus"): [("0x1.06d84f3246294p+0", 0.7036), ("-0x1.f1ea46afdb9fap-1", 0.9062)],
    ("f64", "sigmoid"): [("0x1.55162d2d84df2p-2", 0.9849), ("-0x1.5a26a8d52acb7p-2", 0.9844)],
    ("f64", "slope"): [("0x1.62e42fefa3b6dp-2", 1.1621), ("0x0p+0", 0.0)],
    ("f32", "exp"): [("0x1.4cc9d4p+2", 1.0348), ("-0x1.dfa67cp+5", 1.0214)],
    ("f64", "exp"): [("0x1.9c6c2db4fcbd8p+7", 1.0488), ("-0x1.555fff1c43062p+8", 1.0527)],
}
EXACT = {
    "softplus": lambda a: mpmath.log1p(mpmath.exp(a)),
    "sigmoid": lambda a: 1 / (1 + mpmath.exp(-a)),
    "slope": lambda r: -mpmath.expm1(-r),
    "exp": mpmath.exp,
}
every_function = pytest.mark.parametrize("name", CELLS)


def slope(r):
    """phi' of softplus by the kernels, from r = phi(a): the gradient at the bias, of one step."""
    H, r = len(r), r[np.newaxis]
    x, U, W = (np.zeros(shape, r.dtype) for shape in ((1, 1), (H, 1), (H, H)))
    return pyrnn.backward(np.ones_like(r), r, x, U, W, cell=CELLS["softplus"]).b


def exp(x):
    """exp by the kernels: the gradient of a loss whose targets are 0."""
    return pyrnn.training.poisson(x[np.newaxis], np.zeros_like(x[np.newaxis]))[1][0]


def exact_error(name, x, y):
    """The error of one number, in units in the last place, by 60 digits."""
    digits = 24 if y.dtype == np.float32 else 53
    with mpmath.workdps(60):
        truth = EXACT[name](mpmath.mpf(float(x)))
        return float(abs(mpmath.mpf(float(y)) - truth) / mpmath.ldexp(1, mpmath.frexp(truth)[1] - digits))


@every_function
def test_special_values(name, instructions, dtype):  # noqa: F811
    phi, lowest, info = CELLS[name].phi, dtype(float.fromhex(LOWEST[dtype])), np.finfo(dtype)
    x = np.array([np.inf, -np.inf, np.nan, info.max, -info.max, np.nextafter(lowest, dtype(-np.inf))], dtype)
    first, last = (np.inf, info.max) if name == "softplus" else (1, 1)
    np.testing.assert_array_equal(phi(x), np.array([first, 0, np.nan, last, 0, 0], dtype))
    y = phi(np.array([lowest, 0.0, -0.0, info.smallest_subnormal, -info.smallest_subnormal], dtype))
    assert info.smallest_normal <= y[0] < info.smallest_normal * (1 + 1e-5)  # the number below it gives 0
    np.testing.assert_array_equal(y[1:], dtype(np.log(2) if name == "softplus" else 0.5))


@every_function
def test_nan_stays_in_its_lane(name, instructions, dtype):  # noqa: F811
    x = samples(dtype, 400)
    expected = CELLS[name].phi(x)
    x[::7] = expected[::7] = np.nan
    np.testing.assert_array_equal(CELLS[name].phi(x), expected)


@every_function
def test_the_same_bits_on_every_instruction_set_and_length(name, instructions, dtype):  # noqa: F811
    x = np.concatenate([samples(dtype, 40_000), np.linspace(-100, 100, 999).astype(dtype)])
    ours = CELLS[name].phi(x)
    for n in range(1, 40):
        np.testing.assert_array_equal(bits(CELLS[name].phi(x[:n])), bits(ours[:n]))
    table.select("base")
    np.testing.assert_array_equal(bits(ours), bits(CELLS[name].phi(x)))


@every_function
def test_monotone_where_formulas_meet(name, instructions, dtype):  # noqa: F811
    for place in [1.0, *(np.arange(1, 40) + 0.5) * np.log(2)]:
        x = around(place, dtype, 500)
        for a in (x, -x[::-1]):
            y = CELLS[name].phi(a).astype(np.float64)
            assert (np.diff(y) >= -np.finfo(dtype).eps * y[1:]).all(), place


@every_function
def test_error_against_60_digits(name, instructions, dtype):  # noqa: F811
    rng, limit = np.random.default_rng(1), 1.0
    least = float.fromhex(LOWEST[dtype])
    x = np.concatenate(
        [
            rng.uniform(-1.2, 1.2, 600),
            rng.uniform(-20, 20, 600),
            rng.uniform(least, -least, 300),
            np.exp(rng.uniform(-80, 0, 50)),
            around(1, dtype, 30),
            -around(1, dtype, 30),
        ]
    ).astype(dtype)
    y = CELLS[name].phi(x)
    assert max(exact_error(name, *pair) for pair in zip(x, y, strict=True)) <= limit


def test_slope_from_the_rate(instructions, dtype):  # noqa: F811
    rng = np.random.default_rng(2)
    r = np.concatenate([rng.uniform(0, 2, 300), rng.uniform(0, 100, 200), np.exp(rng.uniform(-80, 0, 300))])
    r = r.astype(dtype)
    limit = 1.0 if dtype == np.float32 else 1.1625
    assert max(exact_error("slope", *pair) for pair in zip(r, slope(r), strict=True)) <= limit


def test_exp(instructions, dtype):  # noqa: F811
    """Errors, special values, and the same bits in plain C."""
    rng, info = np.random.default_rng(4), np.finfo(dtype)
    least, most = float.fromhex(LOWEST[dtype]), float(np.log(float(info.max)))
    parts = [rng.uniform(-1, 1, 300), rng.uniform(-20, 20, 300), rng.uniform(least, most * (1 - info.eps), 600)]
    parts += [sign * around(k * np.log(2), np.float64, 5) for k in np.arange(20) + 0.5 for sign in (-1, 1)]
    x = np.concatenate([*parts, np.exp(rng.uniform(-80, 0, 50))]).astype(dtype)
    y = exp(x)
    assert max(exact_error("exp", *pair) for pair in zip(x, y, strict=True)) <= 1.053
    lowest, highest = dtype(least), dtype(most)
    highest = highest if float(highest) <= most else np.nextafter(highest, dtype(0))
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, info.max, -info.max, lowest, highest], dtype)
    special = np.append(special, [np.nextafter(lowest, dtype(-np.inf)), np.nextafter(highest, dtype(np.inf))])
    result = exp(special.astype(dtype))
    np.testing.assert_array_equal(result[:7], np.array([1, 1, np.nan, np.inf, 0, np.inf, 0], dtype))
    assert info.smallest_normal <= result[7] < info.smallest_normal * (1 + 1e-5)
    assert info.max * (1 - 1e-4) < result[8] <= info.max
    np.testing.assert_array_equal(result[9:], np.array([0, np.inf], dtype))
    for n in range(1, 40):
        np.testing.assert_array_equal(bits(exp(x[:n])), bits(y[:n]))
    table.select("base")
    np.testing.assert_array_equal(bits(y), bits(exp(x)))
    np.testing.assert_array_equal(bits(result), bits(exp(special.astype(dtype))))


@pytest.mark.parametrize("key", WORST, ids=str)
def test_the_worst_arguments(key, instructions):  # noqa: F811
    kind, name = key
    for place, error in WORST[key][: 1 if name == "slope" else 2]:
        x = np.array([float.fromhex(place)], np.float32 if kind == "f32" else np.float64)
        y = {"slope": slope, "exp": exp}[name](x) if name in ("slope", "exp") else CELLS[name].phi(x)
        assert exact_error(name, x[0], y[0]) == pytest.approx(error, abs=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is not wider than float64 here")
def test_the_worst_of_every_float32_and_of_many_float64(gcc, tmp_path):
    here = Path(__file__).parent
    sources = [here / "softplus_error.c", here.parent / "csrc" / "kernels.c"]
    flags = ["-O3", "-std=c11", "-ffp-contract=off", f"-I{here.parent / 'csrc'}"]
    subprocess.run([gcc, *flags, *sources, "-lm", "-o", tmp_path / "softplus_error"], check=True)
    lines = subprocess.check_output([tmp_path / "softplus_error", "20000000"], text=True).splitlines()
    seen = {(name, kind, function): rest for name, kind, function, *rest in map(str.split, lines)}
    assert set(seen) == {(name, *key) for name in table.available() for key in WORST}
    for (_, *key), (above, place_above, below, place_below) in seen.items():
        worst = WORST[tuple(key)]
        if key[0] == "f32":
            assert [(place_above, float(above)), (place_below, float(below))] == worst
        else:
            assert float(above) <= worst[0][1] + 1e-3
            assert float(below) <= worst[1][1] + 1e-3
