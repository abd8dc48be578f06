import itertools
import re
import sys

import numpy as np
import pytest
from helpers import stops_early

import pyrnn
from pyrnn import _progress, reference
from pyrnn._core import lyapunov as compiled
from pyrnn.dynamics import lyapunov, lyapunov_spectrum
from pyrnn.elementwise import sech2

pytestmark = pytest.mark.compiled

PLAIN = pyrnn.Cell()
LEAKS = [(None, "rate"), *itertools.product((0.4, "by unit"), ("rate", "current"))]


def network(H, I=2, gain=1.5, seed=0, cell=PLAIN):
    rng = np.random.default_rng(seed)
    U, W = rng.standard_normal((H, I)) / I**0.5, gain * rng.standard_normal((H, H)) / H**0.5
    return pyrnn.Network(U, W, 0.1 * rng.standard_normal(H), cell=cell)


def alone(W, b=None, cell=PLAIN):
    """A network without input."""
    W = np.asarray(W, float)
    return pyrnn.Network(np.zeros((len(W), 0)), W, b, cell=cell)


def by_qr_at_each_step(J, Q):
    """What the columns of Q grow by in all steps, and what they become."""
    total = np.zeros(Q.shape[1])
    with np.errstate(divide="ignore"):
        for step in J:
            Q, R = np.linalg.qr(step @ Q)
            total += np.log(np.abs(np.diag(R)))
    return total, Q


@pytest.mark.filterwarnings("ignore:qr_every=(4|1000) is too long")
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize(("H", "k"), [(1, 1), (7, 7), (20, 3), (33, 33)])
def test_against_qr_at_each_step(nonlinearity, leak, H, k):
    """The triangular factor of many steps is the product of theirs: nothing is estimated."""
    alpha, form = leak
    cell = pyrnn.Cell(nonlinearity, np.linspace(0.2, 0.9, H) if alpha == "by unit" else alpha, form)
    T, net = 130, network(H, cell=cell)
    x, h0 = np.random.default_rng(1).standard_normal((T, 2)), np.linspace(-0.5, 0.5, H)
    run = reference.simulate(net, x, h0)
    J = reference.jacobian(run.h, net.W, h0, cell=cell, rates=run.written_rates)
    spectra = [lyapunov_spectrum(net, x, h0, k=k, warmup=0, qr_every=every, rng=3) for every in ("auto", 1, 4, 1000)]
    Q = np.linalg.qr(np.random.default_rng(3).standard_normal((H, k)))[0]
    total, _ = by_qr_at_each_step(J, Q)
    sure = slice(None) if nonlinearity != "relu" else slice(0, 1)  # relu loses directions, but for rounding
    for spectrum, digits in zip(spectra, (1e-8, 1e-10, 1e-6, None), strict=True):
        if digits is not None:
            expected = np.sort(total / T)[::-1][sure]
            np.testing.assert_allclose(spectrum.exponents[sure], expected, atol=digits, rtol=digits)
        assert spectrum.finite_time.shape == (11, k)
    np.testing.assert_allclose(spectra[3].exponents[0], spectra[1].exponents[0], rtol=1e-6)  # the first one always
    assert np.isnan(spectra[0].log_volume) == (alpha is not None)


def test_the_walk_itself():
    """Vectors are orthonormal after it, span what they should, and an interval too long is mended by itself."""
    H, T = 30, 200
    W = network(H).W
    h = pyrnn.forward(np.zeros((T, 0)), np.zeros((H, 0)), W, None, np.linspace(-1, 1, H))
    first = np.linalg.qr(np.random.default_rng(0).standard_normal((H, H)))[0]
    expected, end = by_qr_at_each_step((1 - h**2)[:, :, np.newaxis] * W, first)
    for interval, automatic in ((1, True), (100, True), (1, False)):
        Q, total = np.ascontiguousarray(first.T), np.zeros(H)
        times, last, _ = compiled.vectors(W, pyrnn.Cell(), h, None, None, Q, interval, automatic, total)
        np.testing.assert_allclose(Q @ Q.T, np.eye(H), atol=1e-13)
        np.testing.assert_allclose(np.abs((Q @ end).diagonal()), 1, atol=1e-8)
        np.testing.assert_allclose(total, expected, rtol=1e-8, atol=1e-7)
        assert last == interval if not automatic else 1 <= last < 30
        assert times >= (T if interval == 1 and not automatic else T // 30)


def all_exponents(W, h, chunks, monkeypatch, least_slope=lyapunov.LEAST_SLOPE):
    """Of the steps of h in so many chunks, by Tangents: sums, vectors, and how often they were orthonormalised."""
    monkeypatch.setattr(lyapunov, "LEAST_SLOPE", least_slope)
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal(W.shape))[0].T.copy()
    total, tangents = np.zeros(len(W)), lyapunov.Tangents(alone(W), Q, "auto")
    times = sum(tangents.advance(part, None, total) for part in np.array_split(h, chunks))
    return total, Q, times


@pytest.mark.parametrize(("H", "gain"), [(2, 1.5), (5, 1.5), (40, 1.5), (40, 0.7), (61, 2.5)])
def test_two_parts_are_the_whole(H, gain, monkeypatch):
    """All H exponents: the last ones through inverses, and where some steps cannot go that way, through neither."""
    W = network(H, gain=gain).W
    h = pyrnn.forward(np.zeros((300, 0)), np.zeros((H, 0)), W, None, 0.7 * np.cos(np.arange(H)))
    first = np.linalg.qr(np.random.default_rng(0).standard_normal((H, H)))[0]
    J = (1 - h**2)[:, :, np.newaxis] * W
    expected, end = by_qr_at_each_step(J, first)
    slopes = np.array([(1 - part**2).min() for part in np.array_split(h, 20)])
    whole = all_exponents(W, h, 20, monkeypatch, least_slope=np.inf)
    parts = all_exponents(W, h, 20, monkeypatch, least_slope=0)
    mixed = all_exponents(W, h, 20, monkeypatch, least_slope=np.median(slopes))
    for total, Q, _ in (whole, parts, mixed):
        np.testing.assert_allclose(total, expected, rtol=1e-8, atol=1e-7)
        np.testing.assert_allclose(Q @ Q.T, np.eye(H), atol=1e-9)
        np.testing.assert_allclose(np.abs((Q @ end).diagonal()), 1, atol=1e-8)
    assert H < 40 or parts[2] < 0.8 * whole[2]  # that they drift apart less is what it is for


def test_inverses_that_keep_no_digits_are_not_taken():
    """W that is singular, or nearly; NaN in it; and fewer vectors than units."""
    H = 6
    W = network(H).W
    U, s, V = np.linalg.svd(W)
    for smallest, taken in ((1e-3, True), (1e-9, False), (0, False), (np.nan, False)):
        s[-1] = smallest
        singular = (U * s) @ V
        assert (lyapunov.Tangents(alone(singular), np.eye(H), "auto")._inverse is not None) == taken
    of = lambda cell, qr_every="auto", k=H: lyapunov.Tangents(alone(W, cell=cell), np.eye(H)[:k].copy(), qr_every)
    plain = pyrnn.Cell()
    assert of(plain)._inverse is not None
    for cell in (pyrnn.Cell(alpha=0.5), pyrnn.Cell(alpha=0.5, form="current")):
        assert of(cell)._inverse is None
    assert of(plain, 3)._inverse is None
    assert of(plain, k=H - 1)._inverse is None


@pytest.mark.parametrize("moduli", [[1.3, 0.8, 0.2], [1.0, 1.0, 1e-3]])
def test_linear_network(moduli):
    """Exponents are the logs of the moduli of the eigenvalues of W, here of a normal matrix."""
    rng = np.random.default_rng(0)
    P = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    W = P @ np.diag(moduli) @ P.T
    spectrum = lyapunov_spectrum(alone(W, cell=pyrnn.Cell("identity")), steps=2000, h0=np.zeros(3))
    np.testing.assert_allclose(spectrum.exponents, np.log(moduli), atol=1e-8)
    np.testing.assert_allclose(spectrum.exponents.sum(), spectrum.log_volume, atol=1e-8)


@pytest.mark.parametrize("cell", [pyrnn.Cell(), pyrnn.Cell(alpha=0.3), pyrnn.Cell(alpha=0.3, form="current")], ids=str)
def test_fixed_point_at_zero(cell):
    """And those of the Jacobian there, with a complex pair whose modulus no step shows by itself."""
    rng = np.random.default_rng(0)
    P = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    block = np.diag([0.9, -0.3, 0.5, 0.5])
    block[2:, 2:] = 0.6 * np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    W = P @ block @ P.T
    J = W if cell.alpha is None else 0.7 * np.eye(4) + 0.3 * W
    spectrum = lyapunov_spectrum(alone(W, cell=cell), steps=3000, h0=np.zeros(4))
    np.testing.assert_allclose(spectrum.exponents, np.sort(np.log(np.abs(np.linalg.eigvals(J))))[::-1], atol=1e-8)


@pytest.mark.parametrize("gain", [3.0, 6.0, 10.0, 30.0])
@pytest.mark.parametrize("qr_every", ["auto", 1])
@pytest.mark.parametrize("seed", range(3))
def test_sum_identity_of_chaotic_networks(seed, qr_every, gain):
    """Up to gains at which units saturate so far that a step has singular values from 10 to 1e-60."""
    net = network(80, gain=gain, seed=seed)
    x = 0.1 * np.random.default_rng(seed).standard_normal((500, 2))
    spectrum = lyapunov_spectrum(net, x, rng=seed, qr_every=qr_every)
    assert spectrum.exponents[0] > 0
    assert abs(spectrum.exponents.sum() - spectrum.log_volume) < 1e-8


def test_saturated_units():
    """Where tanh has rounded to 1, slopes come from the pre-activation: log sech²(20) and not log 0."""
    W, b = np.array([[1.0, 0.3], [0.2, 1.5]]), np.array([19.0, -15.0])
    spectrum = lyapunov_spectrum(alone(W, b), steps=400, qr_every=1, h0=np.array([1.0, -1.0]))
    a = W @ [1.0, -1.0] + b
    slopes = sech2(a)
    J = slopes[:, np.newaxis] * W
    largest = np.abs(np.linalg.eigvals(J)).max()
    np.testing.assert_allclose(spectrum.exponents[0], np.log(largest), rtol=1e-8)
    np.testing.assert_allclose(
        spectrum.exponents.sum(), np.log(np.abs(np.linalg.det(W))) + np.log(slopes).sum(), rtol=1e-8
    )
    np.testing.assert_allclose(spectrum.log_volume, spectrum.exponents.sum(), rtol=1e-8)


@pytest.mark.parametrize("qr_every", ["auto", 1])
@pytest.mark.parametrize(
    ("H", "gain", "T", "seed", "size"),
    [
        (2, 4.637510412175711, 20, 462489, 30),
        (2, 7.096548191366311, 20, 2823, 30),
        (5, 9.157871608142027, 600, 452592, 30),
        (5, 1.9818510504383708, 2000, 458417, 3),
        (10, 18.775335785943597, 20, 120058, 30),
    ],
)
def test_steps_that_shrink_by_many_orders(qr_every, H, gain, T, seed, size):
    """Inputs that saturate some units more than others: what Cholesky's factor has left of such vectors is rounding."""
    net = pyrnn.initialize(2, H, scheme="gaussian", gain=gain, rng=seed)
    x = size * np.random.default_rng(seed).standard_normal((T, 2))
    spectrum = lyapunov_spectrum(net, x, qr_every=qr_every)
    np.testing.assert_allclose(spectrum.exponents.sum(), spectrum.log_volume, rtol=1e-8)


@pytest.mark.parametrize("qr_every", ["auto", 1])
def test_saturated_networks_against_mpmath(qr_every):
    """Exponents from -1 to -87 a step: a step keeps the smallest apart from the others by 37 digits."""
    mpmath = pytest.importorskip("mpmath")
    H, T, rng = 5, 20, np.random.default_rng(3)
    W, h0 = 20 * rng.standard_normal((H, H)) / H**0.5, rng.standard_normal(H)
    spectrum = lyapunov_spectrum(alone(W), steps=T, h0=h0, warmup=0, qr_every=qr_every, rng=np.random.default_rng(4))
    states = np.vstack([h0, pyrnn.forward(np.zeros((T, 0)), np.zeros((H, 0)), W, None, h0)])
    with mpmath.workdps(300):
        exact_W, totals = mpmath.matrix(W.tolist()), [mpmath.mpf(0)] * H
        Q = mpmath.matrix(np.linalg.qr(np.random.default_rng(4).standard_normal((H, H)))[0].tolist())
        for h in states[:-1]:
            slopes = [mpmath.sech(a) ** 2 for a in exact_W * mpmath.matrix(h.tolist())]
            Q, R = mpmath.qr(mpmath.diag(slopes) * exact_W * Q)
            totals = [total + mpmath.log(abs(R[i, i])) for i, total in enumerate(totals)]
        expected = sorted((float(total / T) for total in totals), reverse=True)
    np.testing.assert_allclose(spectrum.exponents, expected, rtol=1e-12)


def test_one_unit_against_mpmath():
    mpmath = pytest.importorskip("mpmath")
    w, b, T = 2.5, 0.3, 60
    with mpmath.workdps(40):
        h, total = mpmath.mpf("0.25"), mpmath.mpf(0)
        for _ in range(T):
            a = mpmath.mpf(w) * h + mpmath.mpf(b)
            h = mpmath.tanh(a)
            total += mpmath.log(mpmath.mpf(w) * mpmath.sech(a) ** 2)
    spectrum = lyapunov_spectrum(alone([[w]], [b]), steps=T, warmup=0, h0=[0.25])
    assert float(total) / T == pytest.approx(spectrum.exponents[0], rel=1e-12)


def test_a_lost_direction():
    W = np.array([[1.0, 1.0], [1.0, 1.0]])
    spectrum = lyapunov_spectrum(alone(W, cell=pyrnn.Cell("identity")), steps=100, h0=np.zeros(2))
    assert spectrum.exponents[0] == pytest.approx(np.log(2), abs=1e-12)
    assert spectrum.exponents[1] < -30  # zero but for rounding


def test_standard_errors_cover_what_a_long_run_finds():
    net = network(100, gain=3.0)
    long = lyapunov_spectrum(net, np.zeros((20_000, 2)), k=3)
    short = [lyapunov_spectrum(net, np.zeros((2000, 2)), k=3, rng=seed) for seed in range(8)]
    off = np.array([(s.exponents - long.exponents) / np.hypot(s.standard_errors, long.standard_errors) for s in short])
    assert 0.2 < np.sqrt(np.square(off).mean()) < 3
    assert long.standard_errors[0] < np.mean([s.standard_errors[0] for s in short])


def test_batch_is_each_sequence_alone():
    net = network(12)
    x, h0 = np.random.default_rng(2).standard_normal((100, 3, 2)), np.random.default_rng(3).standard_normal((3, 12))
    batch = lyapunov_spectrum(net, x, h0, k=12)
    assert batch.exponents.shape == (3, 12)
    assert batch.finite_time.shape[0] == 3
    assert batch.dimension.shape == batch.log_volume.shape == (3,)
    np.testing.assert_allclose(batch.exponents.sum(axis=1), batch.log_volume, atol=1e-8)
    alone = lyapunov_spectrum(net, x[:, 0], h0[0], k=12)
    np.testing.assert_array_equal(batch.exponents[0], alone.exponents)


@pytest.mark.parametrize("T", [0, 1, 2, 5])
@pytest.mark.parametrize("B", [0, 2])
def test_few_steps(T, B):
    net = network(4)
    spectrum = lyapunov_spectrum(net, np.zeros((T, B, 2)), warmup=0)
    assert spectrum.exponents.shape == (B, 4)
    assert np.isnan(spectrum.exponents).all() == (T == 0 or B == 0)
    one = lyapunov_spectrum(net, steps=T, warmup=T)  # nothing counts
    assert np.isnan(one.exponents).all()
    assert np.isnan(one.dimension)


@pytest.mark.parametrize("T", [0, 1, 30])
@pytest.mark.parametrize("B", [None, 0, 2])
@pytest.mark.parametrize(("H", "k"), [(0, None), (0, 0), (3, 0)])
@pytest.mark.parametrize("qr_every", ["auto", 3])
@pytest.mark.parametrize("cell", [pyrnn.Cell(), pyrnn.Cell(alpha=0.5), pyrnn.Cell(alpha=0.5, form="current")], ids=str)
def test_no_vectors(capfd, T, B, H, k, qr_every, cell):
    """Without units, or with none asked for: nothing, and not a word from BLAS, which writes past sys.stderr."""
    net = pyrnn.Network(np.zeros((H, 2)), 0.5 * np.eye(H), cell=cell)
    shape = (T, 2) if B is None else (T, B, 2)
    spectrum = lyapunov_spectrum(net, np.zeros(shape), k=k, warmup=0, qr_every=qr_every)
    batch = shape[1:-1]
    assert spectrum.exponents.shape == spectrum.standard_errors.shape == (*batch, 0)
    assert np.all(spectrum.dimension == 0)
    assert np.all(np.asarray(spectrum.entropy_rate) == 0) == (T > 0 or B == 0)
    if T > 0 and B != 0 and cell.alpha is None:
        np.testing.assert_allclose(spectrum.log_volume, H * np.log(0.5), atol=0.01)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("H", "gain", "qr_every"), [(20, 1.5, 10), (20, 1.5, 50), (50, 3.0, 4), (30, 0.5, 30)])
def test_an_interval_that_is_too_long_says_how_wrong_it_is(H, gain, qr_every):
    net = network(H, gain=gain)
    with pytest.warns(RuntimeWarning, match=r"^qr_every=\d+ is too long: .* condition number of 1e\d\d, .*") as caught:
        wrong = lyapunov_spectrum(net, steps=1000, qr_every=qr_every)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    figure = float(re.search("wrong by about (.*?) nats a step", message)[1])
    actual = np.abs(wrong.exponents - lyapunov_spectrum(net, steps=1000, qr_every=1).exponents).max()
    assert actual / 10 < figure < 10 * actual
    enough = float(re.search(r"would have taken (\d+\.\d) steps", message)[1])
    np.testing.assert_allclose(enough, lyapunov_spectrum(net, steps=1000).qr_every, rtol=0.7)


def test_an_interval_that_is_short_enough_is_silent():
    """Under `-W error`. At 6 steps the condition number reaches 4e10, and errors 1e-9."""
    net = network(20)
    for qr_every in (1, 2, 6):
        spectrum = lyapunov_spectrum(net, steps=1000, qr_every=qr_every)
        np.testing.assert_allclose(spectrum.exponents.sum(), spectrum.log_volume, atol=1e-6)
    lyapunov_spectrum(net, steps=200, qr_every=100, k=1)  # one vector has nothing to drift from


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_passes_without_a_warning(value):
    net = network(5)
    net.W[2, 3] = value
    assert np.isnan(lyapunov_spectrum(net, steps=20, h0=np.ones(5)).exponents).any()


def test_float32_is_computed_in_float64():
    cell = pyrnn.Cell(alpha=0.3)
    net = pyrnn.Network(*(a.astype(np.float32) for a in network(6)[:3]), cell=cell)
    x = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    cell = pyrnn.Cell(alpha=np.float32(0.3))  # rounded as in float32
    wide = lyapunov_spectrum(pyrnn.Network(*(a.astype(np.float64) for a in net[:3]), cell=cell), x.astype(float))
    np.testing.assert_array_equal(lyapunov_spectrum(net, x).exponents, wide.exponents)


def test_inputs_are_left_alone():
    net, x = network(6), np.ones((40, 2))
    arrays = [*net.arrays, x]
    before = [a.tobytes() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    lyapunov_spectrum(net, x)
    assert [a.tobytes() for a in arrays] == before


def test_layouts():
    net, x = network(6), np.random.default_rng(0).standard_normal((2, 40))
    expected = lyapunov_spectrum(net, np.ascontiguousarray(x.T)).exponents
    other = pyrnn.Network(*(np.asfortranarray(a)[::1] for a in net.arrays))
    np.testing.assert_array_equal(lyapunov_spectrum(other, x.T).exponents, expected)


@pytest.mark.parametrize(
    ("exponents", "dimension"),
    [([0.5, -0.25, -1.0], 2.25), ([-1.0, -2.0], 0.0), ([1.0, 0.5], 2.0), ([0.0, -1.0], 1.0), ([0.3, -np.inf], 1.0)],
)
def test_kaplan_yorke(exponents, dimension):
    assert lyapunov.kaplan_yorke(np.array(exponents)) == pytest.approx(dimension)


def test_threads_change_nothing(monkeypatch):
    net = network(20)
    one = lyapunov_spectrum(net, steps=200).exponents
    monkeypatch.setenv("PYRNN_NUM_THREADS", "2")
    np.testing.assert_array_equal(lyapunov_spectrum(net, steps=200).exponents, one)


def test_progress_is_for_a_terminal_alone(monkeypatch, capsys):
    net = network(6)
    lyapunov_spectrum(net, steps=600)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    clock = itertools.count()
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(clock))
    lyapunov_spectrum(net, steps=600)
    shown = capsys.readouterr().err
    assert "of 600" in shown
    assert shown.endswith("\r\033[K")


@pytest.mark.unsanitized
def test_interrupt():
    net = network(150)
    run = lambda steps: lyapunov_spectrum(net, steps=steps)
    stops_early(lambda: run(20_000), lambda: run(200), 100)


BAD = [
    ({"x": None}, ValueError, "either x or steps must be given, got neither"),
    ({"steps": 5}, ValueError, "either x or steps must be given, got both"),
    ({"x": None, "steps": -1}, ValueError, "steps must be an integer from 0, got -1"),
    ({"x": None, "steps": 2.5}, TypeError, "steps must be an integer from 0, got 2.5"),
    ({"k": -1}, ValueError, "k must be an integer from 0 to 4, got -1"),
    ({"k": 5}, ValueError, "k must be an integer from 0 to 4, got 5"),
    ({"k": True}, TypeError, "k must be an integer from 0 to 4, got True"),
    ({"k": "all"}, TypeError, "k must be an integer from 0 to 4, got 'all'"),
    ({"warmup": 11}, ValueError, "warmup must be an integer from 0 to 10, got 11: it counts within the 10 steps, "),
    ({"qr_every": 0}, ValueError, "qr_every"),
    ({"qr_every": "often"}, (ValueError, TypeError), "qr_every"),
    ({"network": network(4, cell=pyrnn.Cell(alpha=[1.0, 2.0]))}, ValueError, "alpha must be a number or have shape"),
    ({"x": np.zeros((10, 3))}, ValueError, "U must have"),
    ({"h0": np.zeros(5)}, ValueError, "h0 must have shape"),
    ({"network": pyrnn.Network(np.zeros((4, 2)), np.zeros((3, 3)))}, ValueError, "W must have shape"),
    ({"network": network(4)._replace(R=np.zeros((4, 1)))}, ValueError, "network must be without R here: closed_loop"),
    ({"network": 3}, TypeError, "network must be a pyrnn.Network or a pyrnn.RNN, got int"),
    ({"network": pyrnn.Network(np.zeros((4, 2)), np.zeros((4, 4), complex))}, TypeError, "W must be real"),
    ({"network": pyrnn.RNN(2, 4, num_layers=2)}, ValueError, r"rnn\.network\(layer\)"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD)
def test_bad_arguments(changes, error, message):
    arguments = {"network": network(4), "x": np.zeros((10, 2))} | changes
    with pytest.raises(error, match=message):
        lyapunov_spectrum(arguments.pop("network"), arguments.pop("x"), **arguments)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
@pytest.mark.parametrize(("alpha", "form"), [(1.0, "rate"), (0.3, "rate"), (0.3, "current")])
def test_an_rnn_of_one_layer_is_its_network(nonlinearity, alpha, form):
    rnn = pyrnn.RNN(2, 6, output_size=3, nonlinearity=nonlinearity, alpha=alpha, form=form, rng=0)
    x = np.random.default_rng(0).standard_normal((50, 3, 2))
    ours, other = lyapunov_spectrum(rnn, x), lyapunov_spectrum(rnn.network(), x)
    assert ours.exponents.shape == (3, 6)
    for a, b in zip(ours, other, strict=True):
        np.testing.assert_array_equal(a, b)
