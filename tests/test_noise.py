import shutil
import subprocess
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.stats
from helpers import for_each

import pyrnn
from pyrnn import _engines, reference
from pyrnn._core import table
from pyrnn.training import noise

pytestmark = [pytest.mark.compiled, pytest.mark.plain_c]

ROOT = Path(__file__).parent.parent
# Counter, key and words of philox4x32 with 10 rounds in kat_vectors of Random123.
PUBLISHED = [
    ((0, 0, 0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), 0x299F31D0A4093822, "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.fixture(params=table.available())
def instructions(request):
    """Every instruction set in turn; the one that was in use is restored."""
    before = table.selected()
    table.select(request.param)
    yield request.param
    table.select(before)


# ---- The generator --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("counter", "seed", "words"), PUBLISHED)
def test_published_vectors_of_the_reference(counter, seed, words):
    assert " ".join(f"{int(word):08x}" for word in reference.philox(counter, seed)) == words


FLAGS = {"base": [], "avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mavx512dq"], "neon": ["-DNEON", "-static"]}


def published_by(compiler, name, path, *emulator):
    """The lines that tests/philox.c prints: the words of each vector, from each lane of a register."""
    command = [compiler, "-O2", "-std=c11", f"-I{ROOT / 'csrc'}", f"-DISA={name}", *FLAGS[name]]
    subprocess.run([*command, ROOT / "tests" / "philox.c", "-lm", "-o", path / name], check=True)
    return subprocess.check_output([*emulator, path / name], text=True).splitlines()


def test_published_vectors_on_every_instruction_set(gcc, tmp_path):
    lanes = {"base": 1, "neon": 2, "avx2": 4, "avx512": 8}
    found = {name: published_by(gcc, name, tmp_path) for name in table.available()}
    arm, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if arm and emulator:
        found["neon"] = published_by(arm, "neon", tmp_path, emulator)
    for name, lines in found.items():
        assert lines == [words for _, _, words in PUBLISHED for _ in range(lanes[name])], name


# ---- Where each number comes from -----------------------------------------------------------------------------------
CASES = [(0, (3, 4, 40), {}), (2**64 - 1, (2, 3, 17), {"step": 2**32 - 2, "sequence": 2**32 - 3, "stream": 2**31 - 1}),
         (0x123456789ABCDEF, (2, 65, 1), {"stream": "input"}), (5, (70, 33), {"step": 9, "sequence": 4})]  # fmt: skip


@for_each("case", CASES)
def test_reference(instructions, dtype, case):
    seed, shape, options = case
    ours, expected = noise(seed, shape, dtype=dtype, **options), reference.noise(seed, shape, dtype=dtype, **options)
    assert ours.dtype == expected.dtype == dtype
    np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-15 if dtype == np.float64 else 1.5e-6)


def test_float32_is_float64_rounded():
    wide, narrow = noise(3, (10, 100, 1000)), noise(3, (10, 100, 1000), dtype=np.float32)
    error = np.abs(wide - narrow)
    assert error.max() < 1e-4  # numbers of the tail have few bits
    assert (error > 2e-6).mean() < 1e-4
    assert error.mean() < 1e-7


UNITS = (0, 1, 3, 15, 16, 17, 31, 33, 50, 64, 100, 129)
SIZES = [(T, B, H) for T in (0, 1, 3) for B in (0, 1, 2, 5, 70) for H in UNITS]


def test_same_bits_on_every_instruction_set(instructions, dtype):
    whole = noise(11, (3, 70, 129), dtype=dtype, step=4, sequence=8)
    for T, B, H in SIZES:
        part = noise(11, (T, B, H), dtype=dtype, step=4, sequence=8)
        np.testing.assert_array_equal(part, whole[:T, :B, :H])
    table.select("base")
    np.testing.assert_array_equal(noise(11, (3, 70, 129), dtype=dtype, step=4, sequence=8), whole)


@for_each("n_threads", [None, 1, 2, 3])
def test_parts_are_parts(dtype, n_threads):
    whole = noise(1, (60, 40, 50), dtype=dtype, n_threads=n_threads)
    for t, b in ((0, 0), (1, 0), (0, 1), (17, 23), (59, 39)):
        part = noise(1, (60 - t, 40 - b, 50), dtype=dtype, step=t, sequence=b)
        np.testing.assert_array_equal(part, whole[t:, b:])
    np.testing.assert_array_equal(noise(1, (60, 50), dtype=dtype, sequence=7), whole[:, 7])


def test_sigma(dtype):
    xi, each = noise(2, (4, 5, 37), dtype=dtype), np.linspace(0, 3, 37)
    np.testing.assert_array_equal(noise(2, (4, 5, 37), 0.3, dtype=dtype), dtype(0.3) * xi)
    np.testing.assert_array_equal(noise(2, (4, 5, 37), each[::-1], dtype=dtype), each[::-1].astype(dtype) * xi)
    np.testing.assert_array_equal(noise(2, (4, 5, 37), 1, dtype=dtype), xi)
    assert (noise(2, (4, 5, 37), 0, dtype=dtype) == 0).all()


def test_streams_and_seeds_differ(dtype):
    options = [{"seed": seed, "stream": stream} for seed in (0, 1, 2**32, 2**63) for stream in (0, 1, 2, 2**30)]
    numbers = {noise(**more, shape=(1, 1, 1), dtype=dtype).item() for more in options}
    assert len(numbers) == len(options)
    np.testing.assert_array_equal(noise(1, (2, 2, 2), stream="state"), noise(1, (2, 2, 2), stream=0))
    np.testing.assert_array_equal(noise(1, (2, 2, 2), stream="input"), noise(1, (2, 2, 2), stream=1))


WRONG = {
    "seed": [((seed, (1, 1)), {}) for seed in (-1, 2**64, 0.5, None, True)],
    "shape": [((0, 3), {}), ((0, (3,)), {}), ((0, (1, 2, 3, 4)), {}), ((0, (-1, 2)), {}), ((0, (1.5, 2)), {})],
    "sigma": [((0, (1, 2), s), {}) for s in (-1, np.nan, np.inf, [1, 2, 3], [[1, 2]], "a", 1j, None)],
    "dtype": [((0, (1, 2)), {"dtype": d}) for d in (np.float16, int, complex)],
    "step": [((0, (3, 2)), {"step": s}) for s in (-1, 2**32 - 2, 0.5)],
    "sequence": [((0, (3, 2, 2)), {"sequence": s}) for s in (-1, 2**32 - 1, "1")],
    "stream": [((0, (3, 2)), {"stream": s}) for s in (-1, 2**31, "other", None)],
    "n_threads": [((0, (3, 2)), {"n_threads": n}) for n in (0, -1, 1.5, True)],
}


@for_each(("name", "call"), {f"{name} {call}": (name, call) for name, calls in WRONG.items() for call in calls})
def test_wrong_arguments(name, call):
    arguments, options = call
    with pytest.raises((TypeError, ValueError), match=f"^{name} must "):
        noise(*arguments, **options)


# ---- Accuracy -------------------------------------------------------------------------------------------------------
def exact(seed, unit, dtype):
    """r and the two numbers of the pair that a unit of step 0 begins, by 40 digits."""
    block, word = unit // 16 * 4 + unit % 4, unit % 16 // 4
    words = [int(w) for w in reference.philox((block, 0, 0, 0), seed)[word : word + 2]]
    rest = [int(w) for w in reference.philox((block, 0, 0, 2**31), seed)[word : word + 2]]
    with mpmath.workdps(40):
        signed = [mpmath.mpf(w - 2**32 if w >= 2**31 else w) for w in words]
        if dtype == np.float32:
            v = [(s + mpmath.mpf("0.5")) / 2**32 for s in signed]
        else:
            v = [(s + (k + mpmath.mpf("0.5")) / 2**32) / 2**32 for s, k in zip(signed, rest, strict=True)]
        r = mpmath.sqrt(-2 * (mpmath.log(v[0]) if v[0] > 0 else mpmath.log1p(v[0])))
        cosine = mpmath.cos(mpmath.pi * v[1]) * (-1 if words[1] % 2 else 1)
        return r, r * cosine, r * mpmath.sin(mpmath.pi * v[1])


def test_accuracy_against_40_digits(dtype):
    """Of r: cos(a) and sin(a) near 0 have the absolute error of numbers near 1."""
    H = 1 << 22
    xi = noise(5, (1, H), dtype=dtype)[0]
    first = np.arange(H).reshape(-1, 2, 2, 4)[:, :, 0].ravel()  # units whose pair is 4 units further on
    radius = np.hypot(xi[first].astype(float), xi[first + 4].astype(float))
    order = np.argsort(radius)
    near_zero = (np.argsort(np.abs(xi[first + more]))[:100] for more in (0, 4))
    places = np.concatenate([order[:150], order[-150:], *near_zero])
    bound = 2.5e-7 if dtype == np.float32 else 5e-16
    for unit in np.concatenate([first[places], first[:: len(first) // 500]]):
        r, *pair = exact(5, int(unit), dtype)
        for number, value in zip(pair, (xi[unit], xi[unit + 4]), strict=True):
            assert abs(mpmath.mpf(float(value)) - number) <= bound * r, unit


# ---- Statistics -----------------------------------------------------------------------------------------------------
def deviations(xi):
    """How many standard deviations statistics of numbers [T, B, H] are from what independent normal numbers have."""
    x, (_, B, H) = xi.ravel().astype(float), xi.shape
    n, square = x.size, x**2
    powers = {1: x, 2: square, 3: square * x, 4: square**2, 6: square**2 * square}
    found = {}
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        found[f"mean of x^{power}"] = (powers[power].mean() - mean) * np.sqrt(n / variance)
    for bound in (1, 2, 3, 4, 4.5, 5):
        p = 2 * scipy.stats.norm.sf(bound)
        found[f"beyond {bound}"] = (np.count_nonzero(square > bound**2) - n * p) / np.sqrt(n * p * (1 - p))
    # Neighbours of units, of sequences and of steps; at an end, of the next row's beginning.
    lags = (1, 2, 3, 4, 8, 12, 16, 64, H, 2 * H, 5 * H, B * H, 2 * B * H, 5 * B * H)
    for name, y in (("x", x), ("x²", (square - 1) / np.sqrt(2))):
        for lag in lags:
            found[f"{name}, lag {lag}"] = np.dot(y[lag:], y[:-lag]) / np.sqrt(n - lag)
    return found


def between(x, y):
    """The same of correlations between two arrays, and between their squares."""
    x, y = x.ravel().astype(float), y.ravel().astype(float)
    return np.dot(x, y) / np.sqrt(x.size), np.dot(x**2 - 1, y**2 - 1) / 2 / np.sqrt(x.size)


SHAPE = (100, 100, 1000)  # 10^7 numbers
LIMIT = 4.5  # one of 3,000 series of 50 independent deviations would have a larger one; the seeds are fixed


@pytest.mark.unsanitized
def test_statistics_of_ten_million(dtype):
    xi = noise(1, SHAPE, dtype=dtype)
    found = deviations(xi)
    assert len(found) > 35
    assert max(map(abs, found.values())) < LIMIT, found
    assert scipy.stats.kstest(xi.ravel(), "norm").pvalue > 1e-3
    others = {"seed + 1": noise(2, SHAPE, dtype=dtype), "seed + 2^32": noise(1 + 2**32, SHAPE, dtype=dtype),
              "stream": noise(1, SHAPE, dtype=dtype, stream="input"),
              "stream 2": noise(1, SHAPE, dtype=dtype, stream=2)}  # fmt: skip
    for name, other in others.items():
        assert max(map(abs, between(xi, other))) < LIMIT, name


def test_statistics_would_see_a_fault():
    """A hundredth of a standard deviation too much, a correlation of 0.01, a tail that ends."""
    xi = noise(1, (100, 100, 100))
    assert max(map(abs, deviations(1.01 * xi).values())) > LIMIT
    assert max(map(abs, deviations(xi + 0.01 * np.roll(xi, 4, 2)).values())) > LIMIT
    assert max(map(abs, deviations(np.clip(xi, -3.5, 3.5)).values())) > LIMIT
    assert max(map(abs, between(xi, noise(2, xi.shape) + 0.01 * xi))) > LIMIT


# ---- In the loops over time -----------------------------------------------------------------------------------------
CELLS = [pyrnn.Cell(nonlinearity, alpha, form) for nonlinearity in ("tanh", "relu") for alpha, form in
         ((None, "rate"), (0.2, "rate"), (0.2, "current"))]  # fmt: skip
STEPS = [{}, {"reverse": True}, {"lengths": [9, 9, 9, 9, 9]}, {"lengths": [9, 9, 9, 9, 9], "reverse": True},
         {"lengths": [3, 12, 0, 7, 12]}, {"lengths": [12, 9, 9, 4, 1]}, {"lengths": [3, 12, 0, 7, 12], "reverse": True},
         {"mask": np.random.default_rng(3).random((12, 5)) < 0.7},
         {"mask": np.random.default_rng(3).random((12, 5)) < 0.7, "reverse": True}]  # fmt: skip


def of_first(steps, B):
    """The steps of the first B sequences."""
    return {name: a if name == "reverse" else a[:B] if name == "lengths" else a[:, :B] for name, a in steps.items()}


@pytest.fixture(params=["blas", "fused"])
def engine(request, monkeypatch):
    monkeypatch.setattr(_engines, "automatic", lambda: request.param)


@for_each("B", [1, 3, 5])
@for_each("steps", STEPS)
@for_each("cell", CELLS)
def test_simulate_adds_the_numbers_of_noise(instructions, engine, dtype, cell, steps, B):
    network = pyrnn.initialize(4, 18, cell=cell, rng=1, dtype=dtype)
    rng, shape = np.random.default_rng(0), (12, B, 18)
    x, more = rng.standard_normal((12, B, 4)).astype(dtype), rng.standard_normal(shape).astype(dtype)
    sigma, options = np.linspace(0.1, 2, 18), of_first(steps, B)
    drive = noise(9, shape, cell.drive_sigma(sigma), dtype=dtype)
    for given, whole in ((None, drive), (more, more + drive)):
        run = pyrnn.simulate(network, x, drive=given, noise=sigma, seed=9, **options)
        expected = pyrnn.simulate(network, x, drive=whole, **options)
        np.testing.assert_array_equal(run.h, expected.h)
        np.testing.assert_array_equal(run.rates, expected.rates)
        assert run.drive is given


@for_each("n_threads", [1, 2, 3])
def test_simulate_in_chunks_and_on_threads(engine, dtype, n_threads, set_chunk_bytes):
    network = pyrnn.initialize(3, 40, cell=pyrnn.Cell(alpha=0.1), rng=1, dtype=dtype)
    x = np.zeros((50, 130, 3), dtype)
    expected = pyrnn.simulate(network, x, drive=noise(4, (50, 130, 40), np.sqrt(2 / 0.1) * 0.5, dtype=dtype)).h
    for size in (0, 1, 1 << 16):
        set_chunk_bytes(size)
        np.testing.assert_array_equal(pyrnn.simulate(network, x, noise=0.5, seed=4, n_threads=n_threads).h, expected)


def test_simulate_without_a_batch_and_without_inputs(engine, dtype):
    W = pyrnn.initialize(1, 7, rng=1, dtype=dtype).W
    network, x = pyrnn.Network(np.zeros((7, 0), dtype), W), np.zeros((20, 0), dtype)
    run = pyrnn.simulate(network, x, noise=0.5, seed=4)
    drive = noise(4, (20, 7), np.sqrt(2) * 0.5, dtype=dtype)
    np.testing.assert_array_equal(run.h, pyrnn.simulate(network, x, drive=drive).h)


@for_each("steps", STEPS)
def test_simulate_agrees_with_the_reference(steps):
    network = pyrnn.initialize(3, 6, cell=pyrnn.Cell(alpha=0.3), rng=1)
    x = np.random.default_rng(0).standard_normal((12, 5, 3))
    run = pyrnn.simulate(network, x, noise=0.5, seed=4, **steps)
    expected = reference.simulate(network, x, noise=0.5, seed=4, **steps)
    np.testing.assert_allclose(run.h, expected.h, rtol=0, atol=1e-14)
    if "mask" not in steps and "lengths" not in steps:
        sums = pyrnn.dynamics.preactivations(run)
        np.testing.assert_allclose(sums, reference.preactivations(expected), rtol=0, atol=1e-13)
        with_drive = pyrnn.simulate(network, x, drive=noise(4, run.h.shape, np.sqrt(2 / 0.3) * 0.5), **steps)
        np.testing.assert_allclose(sums, pyrnn.dynamics.preactivations(with_drive), rtol=0, atol=1e-13)


def test_wrong_noise_of_simulate():
    network, x = pyrnn.initialize(2, 3, rng=0), np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"^noise and seed must be given together, got noise 0.5 and seed None"):
        pyrnn.simulate(network, x, noise=0.5)
    with pytest.raises(ValueError, match=r"^noise and seed must be given together, got noise None and seed 3"):
        pyrnn.simulate(network, x, seed=3)
    with pytest.raises(ValueError, match=r"^noise must have shape \(3,\), got \(2,\)"):
        pyrnn.simulate(network, x, noise=[0.1, 0.2], seed=3)
    with pytest.raises(ValueError, match=r"^noise must be finite numbers from 0, got -1"):
        pyrnn.simulate(network, x, noise=-1, seed=3)
    still = network._replace(cell=pyrnn.Cell(alpha=[0.1, 0.0, 1.0]))
    with pytest.raises(ValueError, match=r"^alpha must be above 0 in a network with noise, got array"):
        pyrnn.simulate(still, x, noise=1, seed=3)
    with pytest.raises(ValueError, match=r"^seed must be an integer from 0 to 18446744073709551615, got -1"):
        pyrnn.simulate(network, x, noise=1, seed=-1)


@pytest.mark.slow
@pytest.mark.unsanitized
def test_statistics_of_a_billion():
    """A hundred times ten million float32 numbers: the deviations of all, and their distribution in 2^16 parts."""
    edges = scipy.stats.norm.ppf(np.arange(1, 1 << 16) / (1 << 16))
    total, counts = {}, np.zeros(1 << 16)
    for part in range(100):
        options = {"dtype": np.float32, "step": part * SHAPE[0]}
        xi = noise(1, SHAPE, **options)
        found = deviations(xi)
        others = {"seed + 1": noise(2, SHAPE, **options), "stream": noise(1, SHAPE, **options, stream="input")}
        for name, other in others.items():
            found |= dict(zip((f"{name}, x", f"{name}, x²"), between(xi, other), strict=True))
        for name, deviation in found.items():
            total[name] = total.get(name, 0) + deviation / 10
        counts += np.histogram(xi, [-np.inf, *edges, np.inf])[0]
    print({name: round(deviation, 2) for name, deviation in total.items()})
    assert max(map(abs, total.values())) < LIMIT, total
    expected = 100 * np.prod(SHAPE) / (1 << 16)
    chi = scipy.stats.norm.ppf(scipy.stats.chi2.cdf(((counts - expected) ** 2 / expected).sum(), (1 << 16) - 1))
    largest = np.abs(np.cumsum(counts - expected)).max() / np.sqrt(counts.sum())  # Kolmogorov and Smirnov's
    print(f"chi² {chi:.2f} standard deviations, KS {largest:.3f}")
    assert abs(chi) < LIMIT
    assert scipy.stats.kstwobign.sf(largest) > 1e-3


# ---- RNN ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_rnn_has_the_noise_of_simulate(dtype, form, bidirectional):
    """Each layer and direction with a seed of its own, in the order in which rng draws them."""
    sigma, lengths = np.linspace(0, 0.5, 6), np.array([7, 3, 0, 5])
    options = {"nonlinearity": "relu", "alpha": 0.2, "form": form, "bidirectional": bidirectional, "dtype": dtype}
    rnn = pyrnn.RNN(3, 6, 2, **options, noise=sigma, rng=0)
    x = np.random.default_rng(1).standard_normal((7, 4, 3)).astype(dtype)
    rnn.rng = 5
    out, _ = rnn(x, lengths=lengths)
    seeds = np.random.default_rng(5).integers(2**64, size=2 * (1 + bidirectional), dtype=np.uint64).tolist()
    for layer in range(2):
        runs = []
        for d in range(1 + bidirectional):
            steps = {"lengths": lengths, "reverse": d == 1, "noise": sigma, "seed": seeds.pop(0)}
            runs.append(pyrnn.simulate(rnn.network(layer, d), x, **steps))
        x = np.concatenate([run.rates if form == "current" else run.h for run in runs], axis=-1)
    np.testing.assert_array_equal(out, x)
    again, _ = rnn(np.zeros_like(x[..., :3]))
    assert not np.array_equal(again, rnn(np.zeros_like(x[..., :3]))[0])  # new numbers in each call
    rnn.eval()
    calm = rnn(np.zeros_like(x[..., :3]))[0]
    assert np.array_equal(calm, rnn(np.zeros_like(x[..., :3]))[0])


def test_gradients_of_an_rnn_with_noise():
    """Noise is a drive: the gradient is that of the network with these numbers."""
    rnn = pyrnn.RNN(2, 5, alpha=0.3, noise=0.4, output_size=2, dtype=np.float64, rng=0)
    x, y = np.random.default_rng(1).standard_normal((2, 9, 3, 2))

    def loss(vector):
        rnn.parameters, rnn.rng = vector, 7
        return rnn.loss_and_gradients(x, y, loss="squared_error")

    start = rnn.parameters.copy()
    _, gradient = loss(start)
    for i in np.random.default_rng(2).choice(len(start), 20, replace=False):
        step = 1e-6 * np.eye(len(start))[i]
        difference = (loss(start + step)[0] - loss(start - step)[0]) / 2e-6
        assert abs(difference - gradient[i]) < 1e-7 * max(1, abs(gradient[i]))


def test_noise_with_recurrent_dropout_is_that_of_the_whole_batch():
    """Sequences run alone then; each has its own numbers."""
    rnn = pyrnn.RNN(2, 5, recurrent_dropout=1e-9, noise=0.4, dtype=np.float64, rng=0)
    x = np.zeros((6, 3, 2))
    rnn.rng = np.random.default_rng(3)
    rnn.rng.random((1, 3, 5))  # what the dropout draws
    seed = int(rnn.rng.integers(2**64, size=1, dtype=np.uint64)[0])
    rnn.rng = 3
    np.testing.assert_allclose(
        rnn(x)[0], pyrnn.simulate(rnn.network(), x, noise=0.4, seed=seed).h, rtol=1e-7, atol=1e-12
    )


def test_noise_of_an_rnn_in_files_and_copies(tmp_path):
    rnn = pyrnn.RNN(2, 3, noise=[0.1, 0.2, 0.3], rng=0)
    rnn.save(tmp_path / "rnn.npz")
    loaded = pyrnn.RNN.load(tmp_path / "rnn.npz")
    np.testing.assert_array_equal(loaded.noise, [0.1, 0.2, 0.3])
    assert "noise=" in repr(rnn)
    assert "noise" not in repr(pyrnn.RNN(2, 3))
    for wrong in (-1, np.nan, [0.1, 0.2], "a"):
        with pytest.raises((ValueError, TypeError), match="noise must"):
            rnn.noise = wrong
    with pytest.raises(ValueError, match="alpha must be above 0"):
        pyrnn.RNN(2, 3, alpha=0.0, noise=0.1)
    np.testing.assert_array_equal(rnn.noise, [0.1, 0.2, 0.3])
