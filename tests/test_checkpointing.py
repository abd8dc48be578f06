"""`pyrnn.loss_and_gradients` under a memory limit: the same bits, in the memory that was allowed."""

import itertools
import os
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from helpers import agree, assert_close, forms
from hypothesis import given, settings
from hypothesis import strategies as st

import pyrnn
from pyrnn import _engines
from pyrnn.losses import Criterion
from pyrnn.training import checkpointing

pytestmark = pytest.mark.compiled

PLAIN = pyrnn.Cell()
FIELDS = ("U", "W", "b", "V", "c", "x", "h0", "alpha")
ALPHA = 4  # the most roundings of the largest number, by which its gradient may differ; 1.7 were measured
LOSSES = ["softmax_cross_entropy", "squared_error"]
every_loss = pytest.mark.parametrize("loss", LOSSES)
fused = pytest.mark.skipif(_engines.automatic() != "fused", reason="bits are those of the fused engine")

# Sizes at which time has many chunks: (T, B, I, H, O), B None without a batch axis, O None without an output layer.
# In the second U is wider than W, in the fourth the chunks of the output layer are shorter than the others.
MANY_CHUNKS = [(2000, 4, 3, 128, 5), (30000, None, 130, 16, 7), (3000, 3, 13, 160, None), (1500, 64, 3, 8, 25)]


def problem(T, B, I, H, O, loss="squared_error", dtype=np.float32, seed=0, cell=PLAIN):
    """A network, and the other arguments; some weights are 0, where the target is no class."""
    rng = np.random.default_rng(seed)
    network = pyrnn.initialize(I, H, O, dtype=dtype, rng=rng, cell=cell)
    network = network._replace(b=rng.uniform(-0.1, 0.1, H).astype(dtype))
    steps = (T,) if B is None else (T, B)
    weights = rng.uniform(0, 1, steps).astype(dtype) * (rng.uniform(0, 1, steps) < 0.9)
    if loss == "squared_error":
        targets = rng.standard_normal((*steps, O or H)).astype(dtype)
    else:
        targets = np.where(weights > 0, rng.integers(0, O or H, steps), -7)
    x, h0 = rng.standard_normal((*steps, I)).astype(dtype), rng.uniform(-1, 1, (*steps[1:], H)).astype(dtype)
    return network, {"x": x, "targets": targets, "h0": h0, "weights": weights.astype(dtype), "loss": loss}


def least_limit(network, others):
    with pytest.raises(ValueError, match=r"^memory_limit must be at least \d+ bytes") as caught:
        pyrnn.loss_and_gradients(network, **others, memory_limit=1)
    return int(re.fullmatch(r"memory_limit must be at least (\d+) bytes for these arrays, got 1", str(caught.value))[1])


def schedule_of(network, others, limit):
    criterion = Criterion(others["loss"], others["targets"], others["weights"])
    return checkpointing.schedule_for(network, others["x"], criterion, limit)


def assert_same(result, expected):
    """Bit by bit; the gradient of alpha up to the last ones."""
    assert result[0].dtype == expected[0].dtype
    assert result[0].tobytes() == expected[0].tobytes()
    for name, a, exact in zip(FIELDS, result[1], expected[1], strict=True):
        assert (a is None) == (exact is None)
        if a is not None:
            assert (a.dtype, a.shape) == (exact.dtype, exact.shape)
            if name == "alpha":
                assert_close(a, exact, ALPHA * np.finfo(a.dtype).eps)
            else:
                assert a.tobytes() == exact.tobytes(), f"{name} has other bits"


# ---- The same numbers -----------------------------------------------------------------------------------------------
@fused
@every_loss
@pytest.mark.parametrize("sizes", MANY_CHUNKS)
def test_same_bits(dtype, loss, sizes):
    network, others = problem(*sizes, loss, dtype)
    expected = pyrnn.loss_and_gradients(network, **others)
    least, levels = least_limit(network, others), set()
    for factor in (1, 1.06, 1.3, 2, 10):
        levels.add(len((schedule_of(network, others, int(least * factor)) or ((),))[0]))
        assert_same(pyrnn.loss_and_gradients(network, **others, memory_limit=int(least * factor)), expected)
    assert len(levels) > 1


@fused
@pytest.mark.parametrize("sizes", MANY_CHUNKS)
@pytest.mark.parametrize("kind", [kind for kind in forms(1) if not kind.endswith("plain")])
def test_same_bits_of_every_form(set_chunk_bytes, dtype, sizes, kind):
    """As many chunks, of an eighth of the usual size or less."""
    set_chunk_bytes(1 << 15)
    T, *rest = sizes
    loss = "softmax_cross_entropy" if "unit" in kind else "squared_error"
    network, others = problem(T // 8, *rest, loss, dtype, cell=forms(sizes[3])[kind])
    network = network._replace(W=dtype(0.9) * network.W)
    expected = pyrnn.loss_and_gradients(network, **others)
    least, levels = least_limit(network, others), set()
    for factor in (1, 1.3, 3):
        levels.add(len((schedule_of(network, others, int(least * factor)) or ((),))[0]))
        assert_same(pyrnn.loss_and_gradients(network, **others, memory_limit=int(least * factor)), expected)
    assert len(levels) > 1


@fused
@pytest.mark.parametrize("missing", ["b", "c", "b c", "V c", "h0", "weights", "h0 weights b c"])
def test_same_bits_of_what_may_be_missing(missing):
    network, others = problem(1000, 4, 128, 128, 128, "squared_error")
    network = network._replace(**{name: None for name in missing.split() if name in network._fields})
    others |= {name: None for name in missing.split() if name in others}
    limit = least_limit(network, others)
    assert schedule_of(network, others, limit).sizes[-1] < 1000
    result = pyrnn.loss_and_gradients(network, **others, memory_limit=limit)
    assert_same(result, pyrnn.loss_and_gradients(network, **others))


@fused
@pytest.mark.parametrize(
    "sizes", [(700, 5, 20, 100, 1000), (1100, 1, 1, 300, 2), (600, 100, 40, 33, 3), (60, 300, 2, 256, 1)]
)
def test_same_bits_of_other_shapes(dtype, sizes):
    """Also where rows of delta are packed (H from 256 on), and of a thousand classes."""
    network, others = problem(*sizes, "softmax_cross_entropy", dtype)
    limit = int(least_limit(network, others) * 1.02)
    assert_same(
        pyrnn.loss_and_gradients(network, **others, memory_limit=limit), pyrnn.loss_and_gradients(network, **others)
    )


@fused
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["x", "h0", "W", "b", "V"])
def test_nan_and_inf_pass_through(name, value):
    network, others = problem(1000, 4, 3, 128, 5, "softmax_cross_entropy")
    target = others if name in others else network._asdict()
    target[name].flat[target[name].size // 2] = value
    expected = pyrnn.loss_and_gradients(network, **others)
    result = pyrnn.loss_and_gradients(network, **others, memory_limit=least_limit(network, others))
    np.testing.assert_array_equal(result[0], expected[0])
    for a, exact in zip(result[1][:7], expected[1], strict=False):
        np.testing.assert_array_equal(a, exact)


@fused
def test_targets_of_weight_zero_are_not_read():
    network, others = problem(1000, 4, 3, 128, 5)
    expected = pyrnn.loss_and_gradients(network, **others)
    others["targets"][others["weights"] == 0] = np.nan
    assert_same(pyrnn.loss_and_gradients(network, **others, memory_limit=least_limit(network, others)), expected)


@fused
def test_sums_that_overflow():
    """A sum of inf has lost NaN, which is left out."""
    network, others = problem(1000, 4, 3, 128, 5)
    others["targets"][...] = -1e36
    value, gradients = expected = pyrnn.loss_and_gradients(network, **others)
    assert np.isinf(gradients.b).any()
    assert np.isfinite(value)
    assert_same(pyrnn.loss_and_gradients(network, **others, memory_limit=least_limit(network, others)), expected)


@fused
def test_sums_that_become_subnormal(set_chunk_bytes):
    """Between two chunks too they count as zero: 1.02 and -1 times the smallest normal number are 0.02 of it."""
    set_chunk_bytes(1)
    T, H, smallest = 8, 16, np.finfo(np.float32).smallest_normal
    network, others = problem(T, 1, 1, H, 1)
    network = network._replace(W=np.zeros_like(network.W), V=np.zeros_like(network.V), c=np.zeros_like(network.c))
    h = pyrnn.forward(others["x"] * 0, network.U, network.W, network.b)[0]
    factors = np.array([0, 1.02, -1, 0.01, 0, 1.3, -1.29, 0], np.float32)
    # do = -2 * 0.5 * target
    others |= {"x": others["x"] * 0, "targets": (-factors * smallest / np.abs(h).max())[:, None, None]}
    others |= {"weights": np.full((T, 1), 0.5, np.float32), "h0": None}
    expected = pyrnn.loss_and_gradients(network, **others)
    limit = least_limit(network, others)
    assert schedule_of(network, others, limit).output_chunk < 3
    assert_same(pyrnn.loss_and_gradients(network, **others, memory_limit=limit), expected)


@fused
@pytest.mark.parametrize("scale", [1e-36, 1e-38, 1e-39])
def test_slopes_that_make_gradients_subnormal(set_chunk_bytes, scale):
    """In the current form phi' makes subnormal numbers of the gradient of the loss, which the loops count as zero."""
    network, others = problem(60, 4, 3, 16, None, cell=pyrnn.Cell(alpha=0.5, form="current"))
    set_chunk_bytes(4 * 4 * 16 * 4)
    others["weights"] *= np.float32(scale)
    limit = least_limit(network, others)
    schedule = schedule_of(network, others, limit)
    assert len(schedule.segments(0, 60, schedule.chunk)) > 5
    results = (pyrnn.loss_and_gradients(network, **others, **more) for more in ({"memory_limit": limit}, {}))
    (loss, gradients), (expected_loss, expected) = results
    assert loss == expected_loss
    for name in FIELDS[:-1]:  # sums by parts of time are another number here: what is subnormal in one counts as zero
        np.testing.assert_array_equal(getattr(gradients, name), getattr(expected, name), err_msg=name)


@every_loss
@pytest.mark.parametrize("sizes", [MANY_CHUNKS[0], MANY_CHUNKS[3]])
def test_reference(loss, sizes):
    network, others = problem(*sizes, loss, np.float64)
    others.pop("loss")
    others["targets"] = np.maximum(others["targets"], 0) if loss == "softmax_cross_entropy" else others["targets"]
    limit = int(least_limit(network, others | {"loss": loss}) * 1.1)
    agree(
        "loss_and_gradients",
        dict(zip("UWbVc", network, strict=False)) | others,
        loss=loss,
        memory_limit=limit,
        tolerance=1e-11,
    )


@pytest.mark.parametrize("kind", forms(1))
def test_blas_engine(monkeypatch, kind):
    monkeypatch.setattr(_engines, "automatic", lambda: "blas")
    network, others = problem(2000, 4, 3, 128, 5, dtype=np.float64, cell=forms(128)[kind])
    network = network._replace(W=0.9 * network.W)
    value, gradients = pyrnn.loss_and_gradients(network, **others)
    limited, result = pyrnn.loss_and_gradients(network, **others, memory_limit=least_limit(network, others))
    np.testing.assert_allclose(limited, value, rtol=1e-13)
    for a, exact in zip(result, gradients, strict=True):
        assert_close(None if a is None else np.asarray(a), None if exact is None else np.asarray(exact), 1e-12)


@fused
def test_batch_first_and_other_layouts(layout):
    network, others = problem(1000, 4, 3, 128, 5)
    limit = least_limit(network, others)
    expected = pyrnn.loss_and_gradients(network, **others)
    laid_out = others | {name: layout(others[name]) for name in ("x", "targets", "weights", "h0")}
    before = {name: np.array(a) for name, a in laid_out.items()}
    assert_same(pyrnn.loss_and_gradients(network, **laid_out, memory_limit=limit), expected)
    for name, a in laid_out.items():
        np.testing.assert_array_equal(a, before[name])


@fused
def test_targets_and_weights_of_another_dtype():
    network, others = problem(1000, 4, 3, 128, 5)
    others |= {"targets": others["targets"].astype(np.float64), "weights": others["weights"].astype(np.float64)}
    result = pyrnn.loss_and_gradients(network, **others, memory_limit=least_limit(network, others))
    assert_same(result, pyrnn.loss_and_gradients(network, **others))


@fused
@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_same_bits_on_any_number_of_threads(monkeypatch, threads):
    network, others = problem(1000, 16, 64, 128, 5)
    expected = pyrnn.loss_and_gradients(network, **others)
    monkeypatch.setenv("PYRNN_NUM_THREADS", threads)
    assert_same(pyrnn.loss_and_gradients(network, **others, memory_limit=least_limit(network, others)), expected)


@pytest.mark.parametrize("limited", [False, True])
def test_without_the_gradient_of_x(limited):
    network, others = problem(1000, 4, 3, 128, 5)
    limit = least_limit(network, others) if limited else None
    value, gradients = pyrnn.loss_and_gradients(network, **others, memory_limit=limit)
    other, without = pyrnn.loss_and_gradients(network, **others, memory_limit=limit, x_gradient=False)
    assert without.x is None
    assert_same((other, without), (value, gradients._replace(x=None)))
    assert without.parameters.ravel().shape == network.ravel().shape


def test_the_gradient_of_x_is_not_computed():
    network, others = problem(1000, 4, 256, 8, 5)
    most = []
    for x_gradient in (True, False):
        tracemalloc.start()
        pyrnn.loss_and_gradients(network, **others, x_gradient=x_gradient)
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert most[0] > others["x"].nbytes > 2 * most[1]


@pytest.mark.parametrize("B", [None, 0, 1, 3])
@pytest.mark.parametrize("T", [0, 1, 3])
@pytest.mark.parametrize("H", [0, 1, 3])
def test_edge_sizes(T, B, H):
    network, others = problem(T, B, 2, max(H, 1), 3)
    if H == 0:
        network = pyrnn.Network(np.ones((0, 2)), np.ones((0, 0)), None, np.ones((3, 0)), network.c)
        others["h0"] = None
    expected = pyrnn.loss_and_gradients(network, **others)
    for limit in [2**20] if T and B != 0 else [1, 2**20]:  # no steps take no memory
        assert_same(pyrnn.loss_and_gradients(network, **others, memory_limit=limit), expected)


def test_least_limit_of_a_network_without_units():
    network, others = problem(400, 3, 2, 1, 3)
    network = pyrnn.Network(np.ones((0, 2)), np.ones((0, 0)), None, np.ones((3, 0)), network.c)
    others["h0"] = None
    expected = pyrnn.loss_and_gradients(network, **others)
    with pytest.raises(ValueError, match=r"memory_limit must be at least \d+ bytes") as error:
        pyrnn.loss_and_gradients(network, **others, memory_limit=1)
    least = int(re.search(r"\d+", str(error.value))[0])
    assert_same(pyrnn.loss_and_gradients(network, **others, memory_limit=least), expected)


# ---- Schedules ------------------------------------------------------------------------------------------------------
class Watched(checkpointing._Run):
    """Counts the steps that are made, and the most states that are kept at one time."""

    steps = most = 0

    def _states(self, start, stop, state, out):
        Watched.steps += stop - start
        Watched.most = max(Watched.most, len(self.saved))
        assert stop - start <= len(out.h)
        return super()._states(start, stop, state, out)


@settings(deadline=None, max_examples=60)
@given(
    T=st.integers(1, 60),
    chunk=st.integers(1, 5),
    output_chunk=st.integers(1, 9),
    leaf=st.integers(1, 4),
    branches=st.integers(2, 4),
    levels=st.integers(1, 4),
    layer=st.booleans(),
    cell=st.sampled_from(list(forms(4).values())),
)
def test_any_schedule(T, chunk, output_chunk, leaf, branches, levels, layer, cell):
    network, others = problem(T, 2, 3, 4, 3 if layer else None, "softmax_cross_entropy", np.float64, cell=cell)
    value, gradients = pyrnn.loss_and_gradients(network, **others)
    sizes = tuple(leaf * chunk * branches**level for level in range(levels - 1, -1, -1))
    schedule = checkpointing.Schedule(sizes, chunk, output_chunk)
    Watched.steps = Watched.most = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointing, "_Run", Watched)
        criterion = Criterion(others["loss"], others["targets"], others["weights"])
        limited, result = checkpointing.loss_and_gradients(
            schedule, network, others["x"], others["h0"], criterion, True
        )
    np.testing.assert_allclose(limited, value, rtol=1e-13)
    for a, exact in zip(result, gradients, strict=True):
        if exact is not None:
            np.testing.assert_allclose(a, exact, rtol=0, atol=1e-12 * np.abs(exact).max())
    assert Watched.most <= max(1, -(-T // sizes[0])) + (levels - 1) * branches
    assert Watched.steps <= T * (levels + 1)
    if levels == 1:  # the last segment is not computed twice
        assert Watched.steps == 2 * T - min(T, sizes[0])


@settings(deadline=None, max_examples=200)
@given(
    T=st.integers(1, 10**6),
    B=st.integers(1, 100),
    I=st.integers(1, 300),
    H=st.integers(1, 600),
    O=st.integers(1, 300),
    size=st.sampled_from([4, 8]),
    factor=st.floats(1, 20),
    cell=st.sampled_from([pyrnn.Cell(), pyrnn.Cell(alpha=0.5), pyrnn.Cell(alpha=0.5, form="current")]),
)
def test_schedules_fit(T, B, I, H, O, size, factor, cell):
    schedule_within = lambda limit: checkpointing.schedule(T, B, I, H, O, True, size, limit, cell=cell)
    with pytest.raises(ValueError, match="at least") as caught:
        schedule_within(1)
    least, arrays = int(str(caught.value).split()[5]), 1 if cell.alpha is None else 2
    with pytest.raises(ValueError, match=f"at least {least} bytes"):
        schedule_within(least - 1)
    for limit in (least, int(least * factor)):
        schedule = schedule_within(limit)
        if schedule is None:
            assert (1 + arrays) * T * B * H * size <= limit
            continue
        sizes, state = schedule.sizes, B * H * size
        assert all(after % before == 0 for before, after in itertools.pairwise((schedule.chunk, *sizes[::-1])))
        kept = -(-T // sizes[0]) + sum(a // b for a, b in itertools.pairwise(sizes))
        assert (kept + arrays * sizes[-1]) * state + 8 * T * B <= limit


def test_more_memory_is_less_work():
    T, steps = 100_000, []
    for limit in (2 * 10**7, 10**8, 5 * 10**8):
        schedule = checkpointing.schedule(T, 8, 64, 256, 10, True, 4, limit)
        steps.append(len(schedule.sizes) * T - schedule.sizes[-1])
    assert steps[0] > steps[1] > steps[2]
    assert checkpointing.schedule(T, 8, 64, 256, 10, True, 4, 2 * 10**9) is None


# ---- Memory ---------------------------------------------------------------------------------------------------------
# Prints the bytes by which the peak of resident memory rose above inputs and outputs; see test_memory.py.
SCRIPT = """
import sys
import numpy as np
import pyrnn

T, B, H, I, O, limit = map(int, sys.argv[1:7])
loss, form = sys.argv[7:]
cell = pyrnn.Cell() if form == "plain" else pyrnn.Cell(alpha=0.3, form=form)


def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))


def arguments(T):
    x = np.empty((T, B, I), np.float32)
    rng.random(out=x, dtype=np.float32)
    if loss == "squared_error":
        targets = np.empty((T, B, O), np.float32)
        rng.random(out=targets, dtype=np.float32)
        return x, targets
    targets = np.empty((T, B), np.int64)
    for t in range(T):
        targets[t] = t % O
    return x, targets


rng = np.random.default_rng(0)
network = pyrnn.initialize(I, H, O, cell=cell, dtype=np.float32, rng=0)
for steps in (1, 300):
    pyrnn.loss_and_gradients(network, *arguments(steps), loss=loss)
x, targets = arguments(T)
before, peak_before = status("VmRSS"), status("VmHWM")
value, gradients = pyrnn.loss_and_gradients(network, x, targets, loss=loss, memory_limit=limit)
gradients = gradients[:7]
beyond = status("VmHWM") - before - sum(a.nbytes for a in gradients)
assert np.isfinite(value) and all(np.isfinite(a[:: max(1, len(a) // 100)]).all() for a in gradients)
print(beyond, peak_before - before)
"""


@pytest.mark.unsanitized
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@every_loss
@pytest.mark.parametrize("form", ["plain", "current"])
@pytest.mark.parametrize(
    ("sizes", "limit"),
    [
        ((10_000, 8, 256, 64, 10), 16 << 20),  # the states alone are 82 MB
        ((10_000, 8, 256, 64, 10), 40 << 20),
        ((10_000, 8, 256, 64, 10), 190 << 20),  # all of them fit
        ((200_000, 1, 32, 1, 100), 24 << 20),  # 26 MB, and the outputs 80
        ((200_000, 1, 32, 1, 100), 640 << 20),
        pytest.param((100_000, 8, 256, 64, 10), 64 << 20, marks=pytest.mark.slow),  # 820 MB
    ],
)
def test_peak_memory(loss, form, sizes, limit):
    process = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, *map(str, sizes), str(limit), loss, form],
        capture_output=True,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        timeout=3600,
    )
    assert process.returncode == 0, process.stderr
    beyond, slack = map(int, process.stdout.split())
    assert slack <= 8 << 20  # else the peak before the call would hide a part of that of the call
    assert beyond <= limit
    assert beyond >= limit // 4  # otherwise something was not measured, or the schedule leaves room


# ---- Errors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"memory_limit": 0}, ValueError, "memory_limit must be a positive number of bytes or None, got 0"),
        ({"memory_limit": -5}, ValueError, "memory_limit must be a positive number of bytes or None, got -5"),
        ({"memory_limit": 1e9}, TypeError, r"memory_limit must be .*, got 1000000000\.0"),
        ({"memory_limit": "64 MB"}, TypeError, "memory_limit must be .*, got '64 MB'"),
        ({"memory_limit": True}, TypeError, "memory_limit must be .*, got True"),
        ({"memory_limit": 10}, ValueError, r"memory_limit must be at least \d+ bytes for these arrays, got 10"),
        ({"x_gradient": 1}, TypeError, "x_gradient must be True or False, got 1"),
        ({"x_gradient": None}, TypeError, "x_gradient must be True or False, got None"),
    ],
)
def test_errors(options, error, message):
    network, others = problem(10, 2, 3, 4, 5)
    with pytest.raises(error, match=f"^{message}$"):
        pyrnn.loss_and_gradients(network, **others, **options)


def test_limit_as_low_as_the_message_says():
    network, others = problem(2000, 4, 3, 128, 5)
    least = least_limit(network, others)
    pyrnn.loss_and_gradients(network, **others, memory_limit=least)
    with pytest.raises(ValueError, match=f"^memory_limit must be at least {least} bytes .*, got {least - 1}$"):
        pyrnn.loss_and_gradients(network, **others, memory_limit=least - 1)


@every_loss
@pytest.mark.parametrize(
    "changes",
    [
        {"x": None},
        {"x": np.ones((10, 2, 4))},
        {"x": np.ones(4)},
        {"U": np.ones(4)},
        {"W": np.ones((4, 3))},
        {"b": np.ones(3)},
        {"V": np.ones((5, 3))},
        {"V": None},
        {"c": np.ones(4)},
        {"c": np.ones(4, complex)},
        {"h0": np.ones(4)},
        {"weights": np.ones(10)},
        {"weights": np.ones((10, 2), object)},
        {"weights": np.ma.masked_array(np.ones((10, 2)), np.eye(10, 2))},
        {"targets": None},
        {"targets": 3},
        {"targets": np.ones((10, 2, 4))},
        {"targets": np.ones((10, 2, 5), complex)},
        {"targets": np.ones((10, 2))},
        {"targets": [[1, 2], [3]]},
        {"targets": np.arange(20).reshape(10, 2)},
        {"targets": np.ones((10, 3), int)},
        {"targets": np.ones((10, 2), bool)},
        {"loss": "mse"},
        {"network": (1,)},
        {"R": np.ones((4, 5))},
        {"cell": pyrnn.Cell(alpha=np.ones(3))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_same_errors_as_without_a_limit(monkeypatch, loss, changes):
    """All of them before anything is computed: also where without a limit the states come first."""
    network, others = problem(10, 2, 3, 4, 5, loss)
    given = {"network": network._replace(**{n: a for n, a in changes.items() if n in network._fields})} | others
    given |= {name: a for name, a in changes.items() if name not in network._fields}
    try:
        pyrnn.loss_and_gradients(**given)
    except (TypeError, ValueError) as error:
        expected = error
    else:
        pytest.skip("an argument that this loss accepts")
    monkeypatch.setattr(checkpointing, "loss_and_gradients", None)  # whoever computes has another TypeError
    message, *_ = str(expected).split(" to match ")  # without a limit it may name states or outputs
    with pytest.raises(type(expected), match=f"^{re.escape(message)}"):
        pyrnn.loss_and_gradients(**given, memory_limit=1)


def test_wrong_class_far_into_the_sequence():
    network, others = problem(30_000, 4, 1, 8, 5, "softmax_cross_entropy")
    others["weights"][...] = 1
    others["targets"][...] = 0
    others["targets"][29_999, 2] = 5
    with pytest.raises(ValueError, match=r"^targets must be classes from 0 to 4, got 5 at \(29999, 2\)$"):
        pyrnn.loss_and_gradients(network, **others, memory_limit=1)
