"""`pyrnn.simulate` and `pyrnn.Trajectory`: against the reference, the functions of arrays, and differences."""

import itertools

import numpy as np
import pytest
from helpers import EDGE_SIZES, InEngine, central_differences, for_each, network

import pyrnn
from pyrnn import reference

pytestmark = pytest.mark.compiled

LEAKS = {
    "plain": {},
    "rate": {"alpha": 0.3},
    "rate by unit": {"alpha": np.array([0.1, 0.9, 1.0, 0.0, 0.5, 0.25])},
    "current": {"alpha": 0.3, "form": "current"},
    "current by unit": {"alpha": np.array([0.1, 0.9, 1.0, 0.2, 0.5, 0.25]), "form": "current"},
}
MASK = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 0, 1]], bool)
LENGTHS = np.array([3, 0, 5, 1])
STEPS = {
    "all": {},
    "reverse": {"reverse": True},
    "lengths": {"lengths": LENGTHS},
    "lengths reverse": {"lengths": LENGTHS, "reverse": True},
    "one length": {"lengths": np.full(4, 3)},
    "mask": {"mask": MASK},
    "mask reverse": {"mask": MASK, "reverse": True},
}
PLAIN = pyrnn.Cell()


@pytest.fixture(params=itertools.product(("tanh", "relu", "identity"), LEAKS), ids="-".join)
def cell(request):
    nonlinearity, leak = request.param
    return pyrnn.Cell(nonlinearity, **LEAKS[leak])


every_steps = for_each("steps", STEPS)
with_and_without_a_batch = for_each("batched", [True, False])


def case(cell=PLAIN, steps=None, dtype=np.float64, batched=True, sizes=(5, 4, 3, 6)):
    """A network, what `simulate` takes beside it, and dh and drates; without a batch axis, of the first sequence."""
    n = network(*sizes, dtype=dtype)
    rng = np.random.default_rng(3)
    drive, drates = rng.standard_normal((2, *n["dh"].shape)).astype(dtype)
    given = {"x": n["x"], "h0": n["h0"], "drive": drive} | (steps or {})
    dh = n["dh"]
    if not batched:
        given |= {name: given[name][:, 0] for name in ("x", "drive", "mask") if name in given}
        given |= {name: given[name][0] for name in ("h0", "lengths") if name in given}
        dh, drates = dh[:, 0], drates[:, 0]
    return pyrnn.Network(n["U"], n["W"], n["b"], n["V"], n["c"], cell=cell), given, dh, drates


def wide(net, given, *arrays):
    """The same in float64."""
    as_double = lambda a: a.astype(float) if getattr(a, "dtype", None) == np.float32 else a
    net = net._replace(**{name: as_double(getattr(net, name)) for name in ("U", "W", "b", "V", "c")})
    return net, {name: as_double(a) for name, a in given.items()}, *map(as_double, arrays)


def missing(given):
    """Where steps do not exist, shape (T, B) or (T,)."""
    shape = given["x"].shape[:-1]
    if "mask" in given:
        return ~given["mask"]
    times = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return times >= given.get("lengths", np.full(shape[1:], shape[0]))


def close(actual, expected, tolerance):
    """Relative to the largest entry; of tuples, with None at the same places."""
    if isinstance(actual, tuple):
        for a, e in zip(actual, expected, strict=True):
            close(a, e, tolerance)
        return
    assert (actual is None) == (expected is None)
    if actual is not None:
        assert np.shape(actual) == np.shape(expected)
        largest = np.abs(expected).max(initial=0)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * largest)


def same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) == (e is None)
        np.testing.assert_array_equal(a, e)


def tolerance(dtype):
    return 1e-12 if dtype == np.float64 else 2e-5


# ---- simulate and Trajectory.of -------------------------------------------------------------------------------------
@with_and_without_a_batch
@every_steps
def test_simulate(cell, steps, dtype, batched):
    net, given, _, _ = case(cell, steps, dtype, batched)
    run = pyrnn.simulate(net, **given)
    wide_net, wide_given = wide(net, given)
    exact = reference.simulate(wide_net, **wide_given)
    close(run.h, exact.h, tolerance(dtype))
    close(run.rates, exact.rates, tolerance(dtype))
    close(run.output(), reference.output(exact.read, *wide_net[3:5]), tolerance(dtype))
    assert run.h.dtype == run.rates.dtype == dtype

    rates = None if cell.alpha is None else np.empty_like(run.h)
    h = pyrnn.forward(**given, U=net.U, W=net.W, b=net.b, cell=cell, rates=rates)
    np.testing.assert_array_equal(run.h, h)
    np.testing.assert_array_equal(run.rates, h if rates is None else rates)
    assert run.x is given["x"]
    assert run.h0 is given["h0"]
    assert run.drive is given["drive"]
    assert run.network.W is net.W
    assert run.reverse == given.get("reverse", False)
    assert (run.lengths is None) == ("lengths" not in given)
    assert (run.mask is None) == ("mask" not in given)
    assert (run.written_rates is None) == (cell.alpha is None)
    assert run.read is (run.rates if cell.current else run.h)


@with_and_without_a_batch
@every_steps
def test_of_is_what_simulate_returns(cell, steps, batched):
    net, given, dh, drates = case(cell, steps, batched=batched)
    run = pyrnn.simulate(net, **given)
    rates = run.written_rates if cell.form == "rate" else None
    again = pyrnn.Trajectory.of(net, run.h, rates=rates, **given)
    assert again.h is run.h
    np.testing.assert_array_equal(again.rates, run.rates)
    np.testing.assert_array_equal(again.output(), run.output())
    same(again.backward(dh, drates), run.backward(dh, drates))
    same([again.state_gradients(dh), again.jacobian()], [run.state_gradients(dh), run.jacobian()])


@every_steps
def test_of_states_without_an_input(cell, steps):
    net, given, dh, _ = case(cell, steps)
    run = pyrnn.simulate(net, **given)
    rest = {name: a for name, a in given.items() if name not in ("x", "drive")}
    alone = pyrnn.Trajectory.of(net, run.h, rates=run.written_rates, **rest)
    np.testing.assert_array_equal(alone.state_gradients(dh), run.state_gradients(dh))
    np.testing.assert_array_equal(alone.jacobian(), run.jacobian())
    np.testing.assert_array_equal(alone.output(), run.output())
    for call in (alone.backward, lambda dh: alone.backward(dh, dh)):
        with pytest.raises(ValueError, match="x must be known, and this Trajectory was made without"):
            call(dh)


def test_one_dtype():
    """All arrays are promoted together, but for alpha, which has none."""
    cell = pyrnn.Cell(alpha=np.full(6, 0.5))
    net, given, dh, _ = case(cell, dtype=np.float32)
    assert pyrnn.simulate(net, **given).h.dtype == np.float32
    for name in ("x", "h0", "drive"):
        run = pyrnn.simulate(net, **given | {name: given[name].astype(float)})
        assert run.x.dtype == run.h.dtype == run.rates.dtype == run.network.W.dtype == np.float64
    run = pyrnn.simulate(net, given["x"].tolist())
    assert run.h.dtype == np.float64
    run = pyrnn.simulate(net, **given)
    double = pyrnn.Trajectory.of(net, run.h.astype(float), given["x"], rates=run.rates)
    assert double.x.dtype == double.rates.dtype == double.network.U.dtype == np.float64
    for arguments in ((dh.astype(float), None), (dh, dh.astype(float)), (None, dh.astype(float))):
        assert all(a is None or a.dtype == np.float64 for a in run.backward(*arguments))


def test_an_rnn_of_one_layer():
    rnn = pyrnn.RNN(3, 5, dtype=np.float64, rng=0)
    x = np.random.default_rng(0).standard_normal((4, 2, 3))
    run = pyrnn.simulate(rnn, x)
    np.testing.assert_array_equal(run.h, pyrnn.simulate(rnn.network(), x).h)
    same(pyrnn.Trajectory.of(rnn, run.h, x).backward(run.h), run.backward(run.h))


# ---- Going back -----------------------------------------------------------------------------------------------------
@with_and_without_a_batch
@every_steps
def test_backward_is_that_of_arrays(cell, steps, dtype, batched):
    """Bit for bit, also into arrays of an earlier call."""
    net, given, dh, _ = case(cell, steps, dtype, batched)
    run = pyrnn.simulate(net, **given)
    options = {"cell": cell, "drive": run.drive, "rates": run.written_rates, **run.steps}
    expected = pyrnn.backward(dh, run.h, run.x, net.U, net.W, run.h0, **options)
    same(run.backward(dh), expected)
    out = run.backward(2 * dh)
    again = run.backward(dh, out=out)
    same(again, expected)
    assert all(a is b for a, b in zip(again[:6], out[:6], strict=True))
    assert run.backward(dh, x_gradient=False).x is None
    for engine in ("blas", "fused"):
        exact = InEngine(engine).backward(dh, run.h, run.x, net.U, net.W, run.h0, **options)
        same(InEngine(engine)(run.backward)(dh, n_threads=1), exact)
    same([run.state_gradients(dh)], [pyrnn.state_gradients(dh, run.h, net.W, **_without_drive(options))])
    same([run.jacobian()], [pyrnn.jacobian(run.h, net.W, run.h0, **_without_drive(options))])


def _without_drive(options):
    return {name: a for name, a in options.items() if name != "drive"}


@with_and_without_a_batch
@every_steps
def test_backward_of_states_and_rates(cell, steps, dtype, batched):
    net, given, dh, drates = case(cell, steps, dtype, batched)
    run = pyrnn.simulate(net, **given)
    wide_net, wide_given, wide_dh, wide_drates = wide(net, given, dh, drates)
    exact = reference.simulate(wide_net, **wide_given)
    for d_states, d_rates in ((dh, None), (dh, drates), (None, drates), (None, None)):
        expected = reference.backward_of(
            exact, 0 * wide_dh if d_states is None else wide_dh, 0 if d_rates is None else wide_drates
        )
        close(run.backward(d_states, d_rates), expected, tolerance(dtype))
    out, whole = run.backward(dh), run.backward(dh, drates)
    same(run.backward(dh, drates, out=out), whole)
    assert out.W is not whole.W
    without = run.backward(dh, drates, x_gradient=False)
    same(without, whole._replace(x=None))
    close(
        run.state_gradients(dh),
        reference.state_gradients(wide_dh, exact.h, wide_net.W, cell=cell, rates=exact.written_rates, **exact.steps),
        tolerance(dtype),
    )
    close(
        run.jacobian(),
        reference.jacobian(exact.h, wide_net.W, exact.h0, cell=cell, rates=exact.written_rates, **exact.steps),
        tolerance(dtype),
    )


@pytest.mark.parametrize("dh_too", [False, True])
@every_steps
def test_backward_by_differences(cell, steps, dh_too):
    """Of the sum of dh ∘ h and drates ∘ rates."""
    net, given, dh, drates = case(cell, steps, sizes=(5, 4, 2, 6))
    dh = dh if dh_too else None
    others = {name: a for name, a in given.items() if name not in ("x", "h0", "drive")}

    def loss(x, U, W, b, h0, drive, alpha=None):
        moved = cell if alpha is None else pyrnn.Cell(cell.nonlinearity, alpha, cell.form)
        run = pyrnn.simulate(pyrnn.Network(U, W, b, cell=moved), x, h0, drive=drive, **others)
        return (drates * run.rates).sum() + (0 if dh is None else (dh * run.h).sum())

    at = {name: getattr(net, name) for name in "UWb"} | {name: given[name] for name in ("x", "h0", "drive")}
    if cell.alpha is not None:
        at["alpha"] = np.asarray(cell.alpha, float)
    if cell.nonlinearity == "relu":
        at["b"] = at["b"] + 0.01  # away from the bends
        net = net._replace(b=at["b"])
    gradients, expected = pyrnn.simulate(net, **given).backward(dh, drates), central_differences(loss, at)
    for name, e in expected.items():
        close(getattr(gradients, name), e, 1e-8)


@with_and_without_a_batch
@every_steps
def test_what_does_not_exist_is_never_read(cell, steps, batched):
    """x, drive, and what arrives there; of a plain cell with a mask, rates are states that are passed on."""
    net, given, dh, drates = case(cell, steps, batched=batched)
    run, absent = pyrnn.simulate(net, **given), missing(given)
    expected = run.backward(dh, drates)
    poisoned = {name: np.where(absent[..., np.newaxis], np.nan, given[name]) for name in ("x", "drive")}
    again = pyrnn.simulate(net, **given | poisoned)
    np.testing.assert_array_equal(again.h, run.h)
    np.testing.assert_array_equal(again.rates, run.rates)
    if "lengths" in given:
        dh[absent] = np.nan
    if cell.alpha is not None or "lengths" in given:
        drates[absent] = np.nan
    same(again.backward(dh, drates), expected)
    assert not expected.x[absent].any()
    assert not expected.drive[absent].any()


@for_each("edge_size", EDGE_SIZES)
def test_sizes(edge_size, dtype):
    for leak in ({}, {"alpha": 0.3}, {"alpha": 0.3, "form": "current"}):
        net, given, dh, drates = case(pyrnn.Cell(**leak), dtype=dtype, sizes=edge_size)
        run = pyrnn.simulate(net, **given)
        wide_net, wide_given, wide_dh, wide_drates = wide(net, given, dh, drates)
        exact = reference.simulate(wide_net, **wide_given)
        close(run.backward(dh, drates), reference.backward_of(exact, wide_dh, wide_drates), tolerance(dtype))
        everything = np.ones(given["x"].shape[:-1], bool)
        close(pyrnn.simulate(net, **given, mask=everything).backward(dh, drates), run.backward(dh, drates), 1e-5)
        assert run.output().shape == (*run.h.shape[:-1], 2)
        assert pyrnn.simulate(net._replace(V=None, c=None), **given).output().shape == run.h.shape


def test_output_without_V_is_a_copy(cell):
    net, given, _, _ = case(cell)
    run = pyrnn.simulate(net._replace(V=None, c=None), **given)
    o = run.output()
    np.testing.assert_array_equal(o, run.rates if cell.current else run.h)
    assert not np.shares_memory(o, run.h)
    assert not np.shares_memory(o, run.rates)


# ---- Arguments ------------------------------------------------------------------------------------------------------
def test_any_layout_is_read_and_nothing_is_written(layout):
    for leak in LEAKS.values():
        for options in ({}, {"lengths": LENGTHS, "reverse": True}, {"mask": MASK}):
            net, given, dh, drates = case(pyrnn.Cell(**leak), options)
            run = pyrnn.simulate(net, **given)
            laid = {name: layout(a) if isinstance(a, np.ndarray) else a for name, a in given.items()}
            arrays = net._replace(**{name: layout(getattr(net, name)) for name in ("U", "W", "b", "V", "c")})
            more = [layout(dh), layout(drates)]
            all_arrays = [a for a in (*laid.values(), *arrays.arrays, *more) if isinstance(a, np.ndarray)]
            before = [a.tobytes() for a in all_arrays]
            again = pyrnn.simulate(arrays, **laid)
            np.testing.assert_allclose(again.h, run.h, rtol=1e-12, atol=1e-12)
            parts = layout(again.h), None if again.written_rates is None else layout(again.rates)
            made = pyrnn.Trajectory.of(arrays, parts[0], rates=parts[1], **laid)
            frozen = [a.tobytes() for a in parts if a is not None]
            for each in (again, made):
                close(each.backward(*more), run.backward(dh, drates), 1e-12)
                close(each.state_gradients(more[0]), run.state_gradients(dh), 1e-12)
                close(each.jacobian(), run.jacobian(), 1e-12)
                close(each.output(), run.output(), 1e-12)
            assert [a.tobytes() for a in all_arrays] == before
            assert [a.tobytes() for a in parts if a is not None] == frozen


BAD = [
    ({"h": np.zeros(6)}, ValueError, r"h must have shape \(T, B, H\) or \(T, H\), got \(6,\)"),
    ({"h": np.zeros((5, 4, 5))}, ValueError, r"h must have shape \(T, B, 6\) or \(T, 6\) to match U"),
    ({"h": np.zeros((4, 4, 6))}, ValueError, r"h must have shape \(5, 4, 6\) to match x"),
    ({"h": np.array("a")}, TypeError, "h must be real numbers"),
    ({"h": None}, TypeError, "h must be an array of numbers, got None"),
    ({"x": np.zeros((5, 4, 2))}, ValueError, r"U must have shape \(H, 2\) to match x"),
    ({"h0": np.zeros((3, 6))}, ValueError, r"h0 must have shape \(4, 6\)"),
    ({"x": None, "h0": np.zeros((3, 6))}, ValueError, r"h0 must have shape \(4, 6\) to match h"),
    ({"rates": np.zeros((5, 4, 6))}, ValueError, "rates must be None without alpha"),
    ({"drive": np.zeros((5, 4, 5))}, ValueError, r"drive must have shape \(5, 4, 6\) to match h"),
    ({"lengths": [1, 2, 3]}, ValueError, r"lengths must have shape \(4,\)"),
    ({"lengths": [1, 2, 3, 6]}, ValueError, "lengths must be from 0 to 5"),
    ({"mask": np.ones((5, 3), bool)}, ValueError, r"mask must have shape \(5, 4\)"),
    ({"lengths": LENGTHS, "mask": MASK}, ValueError, "lengths and mask must not be given together"),
    ({"reverse": 1}, TypeError, "reverse must be True or False"),
    ({"network": (1, 2)}, TypeError, "network must be a pyrnn.Network or a pyrnn.RNN, got tuple"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD)
def test_bad_arguments_of_states_from_elsewhere(bad, error, message):
    net, given, _, _ = case()
    good = {"network": net, "h": np.zeros((5, 4, 6)), **given}
    with pytest.raises(error, match=message):
        pyrnn.Trajectory.of(**good | bad)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        *(row for row in BAD if {"h", "rates"}.isdisjoint(row[0]) and row[0].get("x", 0) is not None),
        ({"x": np.zeros(3)}, ValueError, "x must have shape"),
        ({"x": None}, TypeError, "x must be an array of numbers, got None"),
        ({"n_threads": 0}, ValueError, "n_threads must be a positive integer"),
    ],
)
def test_bad_arguments_of_simulations(bad, error, message):
    net, given, _, _ = case()
    with pytest.raises(error, match=message.replace("to match h", "to match x") if "drive" in bad else message):
        pyrnn.simulate(**{"network": net, **given} | bad)


def test_bad_networks():
    net, given, _, _ = case()
    run = pyrnn.simulate(net, **given)
    for changes, error, message in (
        ({"R": np.zeros((6, 2))}, ValueError, "network must be without R here"),
        ({"V": None}, ValueError, "network must have V where it has c"),
        ({"W": np.zeros((6, 5))}, ValueError, r"W must have shape \(6, 6\)"),
        ({"b": np.zeros(5)}, ValueError, r"b must have shape \(6,\)"),
        ({"cell": pyrnn.Cell(alpha=np.ones(5))}, ValueError, r"alpha must be a number or have shape \(6,\)"),
        ({"cell": "tanh"}, TypeError, "cell must be a pyrnn.Cell"),
        ({"W": 1j * net.W}, TypeError, "W must be real numbers"),
    ):
        with pytest.raises(error, match=message):
            pyrnn.simulate(net._replace(**changes), **given)
        with pytest.raises(error, match=message):
            pyrnn.Trajectory.of(net._replace(**changes), run.h, given["x"])


def test_bad_arguments_of_gradients():
    for leak in LEAKS.values():
        net, given, dh, drates = case(pyrnn.Cell(**leak))
        run = pyrnn.simulate(net, **given)
        with pytest.raises(ValueError, match=r"dh must have shape \(5, 4, 6\)"):
            run.backward(dh[1:])
        with pytest.raises(ValueError, match=r"drates must have shape \(5, 4, 6\) to match h"):
            run.backward(dh, drates[1:])
        with pytest.raises(ValueError, match=r"dh must have shape \(5, 4, 6\) to match h"):
            run.backward(dh[1:], drates)
        with pytest.raises(TypeError, match="drates must be real numbers"):
            run.backward(dh, 1j * drates)
        with pytest.raises(TypeError, match="out must be a"):
            run.backward(dh, drates, out=3)
        with pytest.raises(TypeError, match="x_gradient must be True or False"):
            run.backward(dh, drates, x_gradient=0)
    with pytest.raises(ValueError, match="rates must be given with alpha and form 'rate'"):
        pyrnn.Trajectory.of(net._replace(cell=pyrnn.Cell(alpha=0.5)), run.h)
