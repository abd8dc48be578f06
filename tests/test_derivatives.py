"""Derivatives in a direction, and of each sequence: against complex steps of the reference, differences, each other."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import EDGE_SIZES, for_each, network, stops_early

import pyrnn
from pyrnn import reference
from pyrnn.training import per_sample_gradients

pytestmark = pytest.mark.compiled

NONLINEARITIES = ("tanh", "relu", "identity")
LEAKS = {
    "plain": {},
    "rate": {"alpha": 0.3},
    "rate by unit": {"alpha": np.array([0.1, 0.9, 1.0, 0.0, 0.5, 0.25])},
    "current": {"alpha": 0.3, "form": "current"},
    "current by unit": {"alpha": np.array([0.1, 0.9, 1.0, 0.01, 0.5, 0.25]), "form": "current"},
}
LEAKY = ({}, {"alpha": 0.3}, {"alpha": 0.3, "form": "current"})
MASK = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 0, 1]], bool)
STEPS = {"all": {}, "lengths": {"lengths": np.array([3, 0, 5, 1])}, "mask": {"mask": MASK}}
FIELDS = pyrnn.Direction._fields
PLAIN, TINY = pyrnn.Cell(), 1e-30


def case(T=5, B=4, I=3, H=6, dtype=np.float64, cell=PLAIN, seed=0, scale=1, **steps):
    """A run, dh, a direction of every argument, and dh_dot."""
    n = network(T, B, I, H, dtype=dtype, seed=seed)
    rng = np.random.default_rng(seed + 1)
    draw = lambda a: rng.standard_normal(np.shape(a)).astype(dtype)
    net, drive = pyrnn.Network(n["U"], dtype(scale) * n["W"], n["b"], cell=cell), draw(n["dh"])
    run = pyrnn.simulate(net, n["x"], n["h0"], drive=drive, **steps)
    moves = [draw(a) for a in (run.x, net.U, net.W, net.b, run.h0, drive)]
    alpha = None if cell.alpha is None else rng.standard_normal(np.shape(cell.alpha))
    return run, n["dh"], pyrnn.Direction(*moves, alpha), draw(n["dh"])


def wide(*values):
    """Runs, directions and arrays in float64."""
    if len(values) > 1:
        return [wide(a) for a in values]
    (value,) = values
    if isinstance(value, np.ndarray):
        return value.astype(float) if value.dtype.kind == "f" else value
    return type(value)(*map(wide, value)) if isinstance(value, tuple) else value


def moved(run, direction):
    """Arguments of the reference's backward but dh, complex: moved by TINY i in the direction, h and rates too."""
    net, cell = run.network, run.network.cell
    move = lambda a, a_dot: a + 1j * TINY * (0 if a_dot is None else a_dot)
    given = zip((run.x, net.U, net.W, net.b, run.h0, run.drive), direction, strict=False)
    x, U, W, b, h0, drive = (move(*pair) for pair in given)
    alpha = None if cell.alpha is None else move(cell.alpha, direction.alpha)
    rates = np.empty(run.h.shape, complex)
    options = {"cell": SimpleNamespace(nonlinearity=cell.nonlinearity, alpha=alpha, form=cell.form), "rates": rates}
    options |= {"drive": drive, "lengths": run.lengths, "mask": run.mask, "reverse": run.reverse}
    h = reference.forward(x, U, W, b, h0, **options)
    return (h, x, U, W, h0), options


def tangent(run, direction):
    return moved(run, direction)[0][0].imag / TINY


def backward_tangent(run, dh, direction, dh_dot):
    arguments, options = moved(run, direction)
    g = reference.backward(dh + 1j * TINY * dh_dot, *arguments, **options)
    return pyrnn.Gradients(*(None if a is None else np.imag(a) / TINY for a in g))


def close(actual, expected, tolerance=1e-12):
    """Relative to the largest entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max(initial=0))


def all_close(actual, expected, tolerance=1e-12):
    """Of tuples, with None at the same places."""
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            close(a, e, tolerance)


@pytest.fixture(params=itertools.product(NONLINEARITIES, LEAKS), ids="-".join)
def cell(request):
    nonlinearity, leak = request.param
    return pyrnn.Cell(nonlinearity, **LEAKS[leak])


# ---- jvp ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("module", [pyrnn, reference], ids=["pyrnn", "reference"])
def test_jvp_against_complex_steps(cell, steps, reverse, module):
    run, _, direction, _ = case(cell=cell, reverse=reverse, **STEPS[steps])
    close(module.jvp(run, direction), tangent(run, direction))


def test_jvp_by_differences(cell):
    run, _, direction, _ = case(cell=cell)
    if cell.current and np.ndim(cell.alpha):
        direction = direction._replace(alpha=None)  # near alpha = 0 states move by much in a small step

    def h(step):
        x, U, W, b, h0, drive = (
            a + step * d for a, d in zip((run.x, *run.network[:3], run.h0, run.drive), direction, strict=False)
        )
        alpha = cell.alpha if direction.alpha is None else cell.alpha + step * direction.alpha
        moved_cell = pyrnn.Cell(cell.nonlinearity, alpha, cell.form)
        return pyrnn.simulate(pyrnn.Network(U, W, b, cell=moved_cell), x, h0, drive=drive).h

    if cell.nonlinearity == "relu":  # its bends are nowhere near
        assert np.abs(pyrnn.dynamics.preactivations(run)).min() > 1e-4
    close(pyrnn.jvp(run, direction), (h(1e-6) - h(-1e-6)) / 2e-6, 1e-7)


@pytest.mark.parametrize("reverse", [False, True])
def test_reference_of_the_others(cell, reverse):
    """The compiled functions against their namesakes, which differ from them in how they are computed."""
    run, dh, direction, dh_dot = case(cell=cell, reverse=reverse)
    both = [module.backward_jvp(run, dh, direction, dh_dot=dh_dot) for module in (pyrnn, reference)]
    all_close(*both)
    for steps in STEPS.values():
        run, dh, _, _ = case(cell=cell, reverse=reverse, **steps)
        for norms in (False, True):
            expected = reference.per_sample_gradients(run, dh, norms_only=norms)
            all_close(per_sample_gradients(run, dh, norms_only=norms), expected)


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("only", FIELDS)
def test_each_direction_alone(leak, only):
    cell = pyrnn.Cell(**LEAKS[leak])
    run, dh, direction, _ = case(cell=cell)
    if only == "alpha" and cell.alpha is None:
        return
    alone = pyrnn.Direction(**{only: getattr(direction, only)})
    close(pyrnn.jvp(run, alone), tangent(run, alone))
    all_close(pyrnn.backward_jvp(run, dh, alone), backward_tangent(run, dh, alone, 0))


def test_the_drive_of_the_result():
    """Is there if the run has one or the direction moves one."""
    run, dh, direction, _ = case()
    still = pyrnn.Direction(W=direction.W)
    without = pyrnn.simulate(run.network, run.x, run.h0)
    assert pyrnn.backward_jvp(run, dh, still).drive is not None
    assert pyrnn.backward_jvp(without, dh, still).drive is None
    assert pyrnn.backward_jvp(without, dh, still._replace(drive=direction.drive)).drive is not None


def test_without_directions():
    """Nothing moves; and a network may have neither b nor h0."""
    run, dh, direction, _ = case()
    still = pyrnn.Direction()
    assert not pyrnn.jvp(run, still).any()
    assert not pyrnn.backward_jvp(run, dh, still).W.any()
    bare = pyrnn.simulate(run.network._replace(b=None), run.x)
    full = pyrnn.simulate(run.network._replace(b=np.zeros(6)), run.x, np.zeros((4, 6)))
    np.testing.assert_array_equal(pyrnn.jvp(bare, direction), pyrnn.jvp(full, direction))


@for_each("edge_size", EDGE_SIZES)
def test_sizes(edge_size, dtype):
    B, tolerance = edge_size[1], 1e-13 if dtype == np.float64 else 1e-5
    for leak in LEAKY:
        run, dh, direction, dh_dot = case(*edge_size, dtype, pyrnn.Cell(**leak))
        direction = direction._replace(alpha=None)
        h_dot = pyrnn.jvp(run, direction)
        assert h_dot.dtype == dtype
        close(h_dot, tangent(*wide(run, direction)), tolerance)
        g, like = pyrnn.backward_jvp(run, dh, direction, dh_dot=dh_dot), run.backward(dh)
        for a, b in zip(g, like, strict=True):
            assert np.shape(a) == np.shape(b)
            assert b is None or a.dtype == dtype
        each, norms = (per_sample_gradients(run, dh, norms_only=only) for only in (False, True))
        for name in ("U", "W", "b"):
            total = getattr(each, name) if B is None else getattr(each, name).sum(axis=0)
            close(total, getattr(like, name), tolerance)
            assert getattr(norms, name).shape == run.x.shape[1:-1]
        everything = np.ones(run.x.shape[:-1], bool)
        masked = pyrnn.simulate(run.network, run.x, run.h0, drive=run.drive, mask=everything)
        all_close(per_sample_gradients(masked, dh), each, tolerance)
        close(pyrnn.jvp(masked, direction), h_dot, tolerance)


@pytest.mark.parametrize("steps", [{"lengths": 3}, {"mask": np.array([1, 0, 1, 1, 0], bool)}, {}])
@pytest.mark.parametrize("reverse", [False, True])
def test_without_a_batch_axis(cell, steps, reverse):
    """The same bits as a batch of one."""
    run, dh, direction, dh_dot = case(B=None, cell=cell, reverse=reverse, **steps)
    row = lambda a: a if a is None else a[:, np.newaxis]
    in_batch = {"lengths": [3]} if "lengths" in steps else {"mask": row(steps["mask"])} if steps else {}
    one = pyrnn.simulate(run.network, row(run.x), run.h0[np.newaxis], drive=row(run.drive), reverse=reverse, **in_batch)
    moves = direction._replace(x=row(direction.x), h0=direction.h0[np.newaxis], drive=row(direction.drive))
    np.testing.assert_array_equal(pyrnn.jvp(run, direction), pyrnn.jvp(one, moves)[:, 0])
    for a, b in zip(per_sample_gradients(run, dh), per_sample_gradients(one, row(dh)), strict=True):
        np.testing.assert_array_equal(a, b[0])
    if steps:
        return
    g = pyrnn.backward_jvp(run, dh, direction, dh_dot=dh_dot)
    of_one = pyrnn.backward_jvp(one, row(dh), moves, dh_dot=row(dh_dot))
    for name, a, b in zip(g._fields, g, of_one, strict=True):
        b = b[:, 0] if name in ("x", "drive") else b[0] if name == "h0" else b
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("sizes", [(3, 1, 5, 33), (40, 5, 3, 64), (9, 33, 17, 256), (300, 2, 1, 16), (7, 12, 4, 100)])
def test_jvp_in_float32_and_in_chunks(set_chunk_bytes, dtype, sizes):
    run, _, direction, _ = case(*sizes, dtype)
    actual = pyrnn.jvp(run, direction)
    close(actual, tangent(*wide(run, direction)), 1e-13 if dtype == np.float64 else 3e-5)
    set_chunk_bytes(5000)
    np.testing.assert_array_equal(pyrnn.jvp(run, direction), actual)


def test_bits_of_a_sequence_do_not_depend_on_the_batch(dtype):
    run, _, direction, _ = case(7, 13, 3, 40, dtype)
    x, h, h0 = run.x[:, 4], run.h[:, 4], run.h0[4]
    alone = direction._replace(x=direction.x[:, 4], h0=direction.h0[4], drive=direction.drive[:, 4])
    one = pyrnn.jvp(pyrnn.Trajectory.of(run.network, h, x, h0), alone)
    np.testing.assert_array_equal(one, pyrnn.jvp(run, direction)[:, 4])


@pytest.mark.parametrize("steps", [{"lengths": np.array([2, 0, 5, 4])}, {"mask": MASK}])
@pytest.mark.parametrize("reverse", [False, True])
def test_steps_that_do_not_exist_are_never_read(cell, steps, reverse):
    run, dh, direction, _ = case(cell=cell, reverse=reverse, **steps)
    missing = ~steps["mask"] if "mask" in steps else np.arange(5)[:, np.newaxis] >= steps["lengths"]
    expected, each = pyrnn.jvp(run, direction), per_sample_gradients(run, dh)
    x = run.x.copy()
    for a in (x, direction.x, direction.drive):
        a[missing] = np.nan
    np.testing.assert_array_equal(pyrnn.jvp(run._replace(x=x), direction), expected)
    if "lengths" in steps:
        dh[missing] = np.nan
    for a, b in zip(per_sample_gradients(run._replace(x=x), dh), each, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- jvp against backward -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("reverse", [False, True])
def test_backward_is_the_transpose_of_jvp(cell, steps, reverse):
    """<dh, J v> = <Jᵀ dh, v>."""
    run, dh, direction, _ = case(cell=cell, reverse=reverse, **STEPS[steps])
    g = run.backward(dh)
    if "lengths" in steps:
        dh = np.where((np.arange(5)[:, np.newaxis] < run.lengths)[..., np.newaxis], dh, 0)
    if cell.alpha is not None and np.any(np.asarray(cell.alpha) == 0):  # of which backward knows the direction alone
        direction = direction._replace(alpha=np.where(cell.alpha == 0, 0, direction.alpha))
    forwards = (dh * pyrnn.jvp(run, direction)).sum()
    backwards = sum(np.sum(a * d) for a, d in zip(g, direction, strict=True) if d is not None)
    np.testing.assert_allclose(forwards, backwards, rtol=0, atol=1e-11)


# ---- backward_jvp ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [(5, 4, 3, 6), (1, 1, 1, 6)])
@pytest.mark.parametrize("reverse", [False, True])
def test_backward_jvp_against_complex_steps(cell, sizes, reverse):
    run, dh, direction, dh_dot = case(*sizes, cell=cell, reverse=reverse)
    actual = pyrnn.backward_jvp(run, dh, direction, dh_dot=dh_dot)
    all_close(actual, backward_tangent(run, dh, direction, dh_dot))
    without = pyrnn.backward_jvp(run, dh, direction, dh_dot=dh_dot, x_gradient=False)
    assert without.x is None
    np.testing.assert_array_equal(without.W, actual.W)


@pytest.mark.parametrize("sizes", [(40, 5, 3, 64), (9, 33, 17, 256), (300, 2, 1, 16)])
@pytest.mark.parametrize("leak", ["plain", "rate", "current"])
def test_backward_jvp_in_chunks(set_chunk_bytes, dtype, sizes, leak):
    run, dh, direction, dh_dot = case(*sizes, dtype, pyrnn.Cell(**LEAKS[leak]))
    one = pyrnn.backward_jvp(run, dh, direction, dh_dot=dh_dot)
    wide_run, wide_dh, wide_direction, wide_dh_dot = wide(run, dh, direction, dh_dot)
    exact = pyrnn.backward_jvp(wide_run, wide_dh, wide_direction, dh_dot=wide_dh_dot)
    set_chunk_bytes(5000)
    again = pyrnn.backward_jvp(run, dh, direction, dh_dot=dh_dot)
    all_close(again[:6], one[:6], 1e-13 if dtype == np.float64 else 1e-5)
    all_close(again[:6], exact[:6], 1e-13 if dtype == np.float64 else 3e-4)


# ---- Gradients of each sequence -------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [(5, 4, 3, 6), (3, 5, 2, 40), (60, 3, 2, 7), (1, 2, 4, 8), (700, 2, 3, 5)])
@pytest.mark.parametrize("reverse", [False, True])
def test_per_sample_gradients(cell, dtype, sizes, reverse):
    if np.ndim(cell.alpha):
        cell = pyrnn.Cell(cell.nonlinearity, np.resize(cell.alpha, sizes[3]), cell.form)
    scale = 1 if cell.nonlinearity == "tanh" else 0.5
    run, dh, _, _ = case(*sizes, dtype, cell, scale=scale, reverse=reverse)
    each, norms = (per_sample_gradients(run, dh, norms_only=only) for only in (False, True))
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    for i in range(sizes[1]):
        rates = None if run.written_rates is None else run.rates[:, i]
        first = (run.h[:, i], run.x[:, i], run.h0[i])
        one = pyrnn.Trajectory.of(run.network, *first, rates=rates, reverse=reverse).backward(dh[:, i])
        for name in ("U", "W", "b"):
            close(getattr(each, name)[i], getattr(one, name), tolerance)
            close(getattr(norms, name)[i], np.linalg.norm(getattr(one, name)), 10 * tolerance)
            assert getattr(norms, name).dtype == dtype


def test_sums_of_many_chunks_keep_their_digits(set_chunk_bytes):
    """db of each sequence and the tangent of db: small numbers after a large one are not lost."""
    set_chunk_bytes(1024)
    dh = np.full((100_000, 1), 0.5, np.float32)
    dh[40_000] = 3e9  # where neighbours are 256 apart
    net = pyrnn.Network(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32), cell=pyrnn.Cell("identity"))
    run = pyrnn.Trajectory.of(net, dh, np.zeros((100_000, 1), np.float32))
    expected = np.float32(dh.sum(dtype=np.float64))
    for b in (per_sample_gradients(run, dh).b, pyrnn.backward_jvp(run, dh, pyrnn.Direction(), dh_dot=dh).b):
        assert abs(b[0] - expected) <= 2 * np.spacing(expected)


def test_norms_of_steps_that_cancel_are_not_nan():
    """The squares are sums of products of steps, and some come out below 0."""
    rng = np.random.default_rng(0)
    dh = rng.standard_normal((3, 500, 8)).astype(np.float32)
    dh[2] = -(dh[0] + dh[1])
    net = pyrnn.Network(np.zeros((8, 1), np.float32), np.zeros((8, 8), np.float32), cell=pyrnn.Cell("identity"))
    run = pyrnn.Trajectory.of(net, dh, np.ones((3, 500, 1), np.float32))
    norms = per_sample_gradients(run, dh, norms_only=True)
    assert norms.b.min() == 0
    assert norms.b.max() < 1e-2


def test_long_sequences_are_summed_in_chunks(set_chunk_bytes):
    run, dh, _, _ = case(T=50, B=3, I=2, H=4)
    one = per_sample_gradients(run, dh)
    set_chunk_bytes(200)
    all_close(per_sample_gradients(run, dh), one, 1e-13)


# ---- Arguments ------------------------------------------------------------------------------------------------------
def test_any_layout_is_read_and_nothing_is_written(layout):
    run, dh, direction, dh_dot = case(cell=pyrnn.Cell(alpha=np.full(6, 0.3)))
    U, W, b = (layout(a) for a in run.network[:3])
    parts = {name: layout(getattr(run, name)) for name in ("x", "h0", "h", "rates", "drive")}
    laid = run._replace(network=run.network._replace(U=U, W=W, b=b), **parts)
    moves, more = pyrnn.Direction(*map(layout, direction)), (layout(dh), layout(dh_dot))
    arrays = (U, W, b, *parts.values(), *moves, *more)
    before = [a.tobytes() for a in arrays]
    np.testing.assert_array_equal(pyrnn.jvp(laid, moves), pyrnn.jvp(run, direction))
    g, g_laid = (
        pyrnn.backward_jvp(run, dh, direction, dh_dot=dh_dot),
        pyrnn.backward_jvp(laid, more[0], moves, dh_dot=more[1]),
    )
    for a, e in zip(g_laid, g, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)
    for norms in (False, True):
        each = per_sample_gradients(laid, more[0], norms_only=norms)
        for a, e in zip(each, per_sample_gradients(run, dh, norms_only=norms), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)
    assert [a.tobytes() for a in arrays] == before


def test_the_dtype_of_directions():
    """All arrays take part in the dtype of the result, but for alpha."""
    run, dh, direction, dh_dot = case(dtype=np.float32, cell=pyrnn.Cell(alpha=np.full(6, 0.3)))
    assert direction.alpha.dtype == np.float64
    assert pyrnn.jvp(run, direction).dtype == np.float32
    for name in FIELDS[:-1]:
        moves = direction._replace(**{name: getattr(direction, name).astype(float)})
        assert pyrnn.jvp(run, moves).dtype == np.float64
        assert all(a.dtype == np.float64 for a in pyrnn.backward_jvp(run, dh, moves))
    assert pyrnn.backward_jvp(run, dh, direction, dh_dot=dh_dot.astype(float)).W.dtype == np.float64
    assert per_sample_gradients(run, dh.astype(float)).W.dtype == np.float64
    lists = pyrnn.Direction(W=direction.W.tolist(), alpha=direction.alpha.tolist())
    assert pyrnn.jvp(run, lists).dtype == np.float64


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_what_is_not_finite_passes_through(value, dtype):
    run, dh, direction, dh_dot = case(dtype=dtype, cell=pyrnn.Cell(alpha=0.3))
    for a in (direction.x, direction.W, direction.h0):
        a.flat[2] = value
    assert pyrnn.jvp(run, direction).shape == run.h.shape
    for norms in (False, True):
        wild = dh.copy()
        wild[3, 1, 2] = value
        each = per_sample_gradients(run, wild, norms_only=norms)
        assert np.isfinite(each.W[0]).all()
    pyrnn.backward_jvp(run, dh, direction, dh_dot=dh_dot)


def test_errors_name_the_argument():
    run, dh, direction, _ = case()
    for name, shape in (
        ("x", (5, 4, 3)),
        ("U", (6, 3)),
        ("W", (6, 6)),
        ("b", (6,)),
        ("h0", (4, 6)),
        ("drive", dh.shape),
    ):
        moves = pyrnn.Direction(**{name: getattr(direction, name)[:-1]})
        with pytest.raises(ValueError, match=rf"direction\.{name} must have shape \({str(shape)[1:-1]}\)"):
            pyrnn.jvp(run, moves)
    with pytest.raises(ValueError, match=r"direction\.alpha must be None for a cell without alpha"):
        pyrnn.jvp(run, pyrnn.Direction(alpha=1.0))
    leaky, _, _, _ = case(cell=pyrnn.Cell(alpha=0.3))
    with pytest.raises(ValueError, match=r"direction\.alpha must be a number or have shape \(6,\), got \(3,\)"):
        pyrnn.jvp(leaky, pyrnn.Direction(alpha=np.ones(3)))
    with pytest.raises(TypeError, match=r"direction\.alpha must be real numbers"):
        pyrnn.jvp(leaky, pyrnn.Direction(alpha=1j))
    with pytest.raises(TypeError, match=r"direction\.W must be real numbers"):
        pyrnn.jvp(run, pyrnn.Direction(W=1j * direction.W))
    with pytest.raises(ValueError, match=r"dh must have shape \(5, 4, 6\) to match h"):
        pyrnn.backward_jvp(run, dh[1:], direction)
    with pytest.raises(ValueError, match=r"dh must have shape \(5, 4, 6\) to match h"):
        per_sample_gradients(run, dh[1:])
    with pytest.raises(TypeError, match="dh must be an array of numbers, got None"):
        per_sample_gradients(run, None)
    with pytest.raises(ValueError, match=r"dh_dot must have shape \(5, 4, 6\)"):
        pyrnn.backward_jvp(run, dh, direction, dh_dot=dh[1:])
    with pytest.raises(TypeError, match="norms_only must be True or False"):
        per_sample_gradients(run, dh, norms_only=1)
    with pytest.raises(TypeError, match="x_gradient must be True or False"):
        pyrnn.backward_jvp(run, dh, direction, x_gradient=1)
    with pytest.raises(TypeError, match=r"direction must be a pyrnn\.Direction, got Gradients"):
        pyrnn.jvp(run, run.backward(dh))
    for function in (
        pyrnn.jvp,
        lambda run, d: pyrnn.backward_jvp(run, dh, d),
        lambda run, d: per_sample_gradients(run, dh),
    ):
        with pytest.raises(TypeError, match=r"run must be a pyrnn\.Trajectory, as simulate returns it, got ndarray"):
            function(run.h, direction)
        with pytest.raises(ValueError, match="x must be known"):
            function(pyrnn.Trajectory.of(run.network, run.h), direction)
    for steps in ({"lengths": [1, 2, 3, 4]}, {"mask": MASK}):
        part = pyrnn.simulate(run.network, run.x, **steps)
        with pytest.raises(ValueError, match=f"run must be without lengths and mask here, .* got {next(iter(steps))}"):
            pyrnn.backward_jvp(part, dh, direction)


@pytest.mark.parametrize("function", ["jvp", "backward_jvp", "per_sample_gradients"])
def test_ctrl_c_stops_a_call_in_its_middle(function):
    H = 512  # the whole takes a second, since loops look for signals every 50 ms

    def call(T):
        h, x, W = np.zeros((T, 8, H)), np.zeros((T, 8, 1)), np.zeros((H, H))
        run = pyrnn.Trajectory.of(pyrnn.Network(np.zeros((H, 1)), W), h, x)
        if function == "jvp":
            pyrnn.jvp(run, pyrnn.Direction(W=W))
        elif function == "backward_jvp":
            pyrnn.backward_jvp(run, h, pyrnn.Direction(W=W))
        else:
            per_sample_gradients(run, h)

    stops_early(lambda: call(6000), lambda: call(200), 30)
