"""The stepper: the bits of forward step by step, its state, its errors, and that it costs no memory."""

import copy
import gc
import itertools
import pickle
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers import FUSED, LAYOUTS, WRITEABLE_LAYOUTS, allocated, for_each, network
from numpy.lib.stride_tricks import as_strided

import pyrnn
from pyrnn import reference
from pyrnn._core import engine_fused, table

pytestmark = [pytest.mark.compiled, pytest.mark.python]

SIZES = [(0, 1, 1), (3, 0, 2), (1, 1, 0), (1, 1, 1), (2, 17, 3), (8, 64, 5), (5, 100, 17), (33, 257, 40)]  # I, H, O
BATCHES = [None, 0, 1, 3, 20]
PLAIN = pyrnn.Cell()


@pytest.fixture(params=table.available())
def instruction_set(request):
    before = table.selected()
    table.select(request.param)
    yield request.param
    table.select(before)


def made(*sizes, cell=PLAIN, **options):
    """A small network, or one of other sizes."""
    return of(network(*sizes, **options), cell=cell)


def of(n, names="UWbVc", cell=PLAIN):
    """The network of these arrays."""
    return pyrnn.Network(**{name: n[name] for name in names}, cell=cell)


def bits(*arrays):
    return [(a.shape, a.dtype, a.tobytes()) for a in arrays]


# ---- Numbers --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("with_output", [False, True])
@for_each("B", BATCHES)
@for_each(("I", "H", "O"), SIZES)
def test_bits_of_forward(dtype, instruction_set, I, H, O, B, with_output):
    T = 7
    n = network(T, B, I, H, O, dtype=dtype)
    x, U, W, b, h0, V, c = (n[name] for name in ("x", "U", "W", "b", "h0", "V", "c"))
    h = FUSED.forward(x, U, W, b, h0)
    expected = h
    if with_output:
        rows = h if B is not None else h[:, np.newaxis]
        expected = engine_fused.output(rows, V, c).reshape(*h.shape[:-1], O)
    make = lambda: pyrnn.Stepper(of(n, "UWbVc" if with_output else "UWb"), h0, batch=B)

    stepper = make()
    for t in range(T):
        assert bits(stepper.step(x[t])) == bits(expected[t])
        assert bits(stepper.state) == bits(h[t])
    stepper, out = make(), np.empty_like(expected[0])
    for t in range(T):
        assert stepper.step(x[t], out=out) is out
        assert bits(out, stepper.state) == bits(expected[t], h[t])
    stepper = make()
    assert bits(stepper.run(x), stepper.state) == bits(expected, h[-1])
    stepper = make()
    parts = [stepper.run(x[:3]), stepper.step(x[3])[np.newaxis], stepper.run(x[4:4]), stepper.run(x[4:])]
    assert bits(np.concatenate(parts), stepper.state) == bits(expected, h[-1])


LEAKS = [(None, "rate"), *itertools.product((0.3, "by unit"), ("rate", "current"))]


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
@pytest.mark.parametrize("leak", LEAKS)
@for_each("with_output", [False, True])
@for_each(("B", "H"), [(None, 1), (None, 33), (5, 17), (20, 64)])
def test_bits_of_forward_in_all_forms(dtype, nonlinearity, leak, with_output, B, H):
    n = network(7, B, 3, H, 4, dtype=dtype)
    x, U, W, b, h0, V, c = (n[name] for name in ("x", "U", "W", "b", "h0", "V", "c"))
    alpha, form = leak
    cell = pyrnn.Cell(nonlinearity, np.linspace(0, 1, H) if alpha == "by unit" else alpha, form)
    rates = None if alpha is None else np.empty_like(n["h"])
    h = FUSED.forward(x, U, W, b, h0, rates=rates, cell=cell)
    expected = h
    if with_output:
        read = rates if cell.current else h
        rows = read if B is not None else read[:, np.newaxis]
        expected = engine_fused.output(rows, V, c).reshape(*h.shape[:-1], 4)
    stepper = pyrnn.Stepper(of(n, "UWbVc" if with_output else "UWb", cell), h0, batch=B)
    copies = [stepper, copy.copy(stepper), pickle.loads(pickle.dumps(stepper))]
    for other in copies:
        assert other.network.cell == cell
        out = np.empty_like(expected[0])
        for t in range(4):
            assert bits(other.step(x[t])) == bits(expected[t])
            assert bits(other.state) == bits(h[t])
        assert bits(other.step(x[4], out=out)) == bits(expected[4])
        later = copy.deepcopy(other)  # in the middle of its stream
        assert bits(other.run(x[5:]), other.state) == bits(expected[5:], h[-1])
        assert bits(later.run(x[5:])) == bits(expected[5:])
        other.reset()
        assert bits(other.run(x), other.state) == bits(expected, h[-1])
        other.state = h[2]
        assert bits(other.step(x[3])) == bits(expected[3])


@pytest.mark.parametrize(("with_b", "with_c"), [*itertools.product([False, True], repeat=2)])
def test_optional_arguments_left_out(with_b, with_c):
    n = network(6, 3, 4, 9, 2)
    b, c = n["b"] if with_b else None, n["c"] if with_c else None
    stepper = pyrnn.Stepper(pyrnn.Network(n["U"], n["W"], b, n["V"], c), batch=3)
    h = reference.forward(n["x"], n["U"], n["W"], b)
    np.testing.assert_allclose(stepper.run(n["x"]), reference.output(h, n["V"], c), rtol=0, atol=1e-14)


@pytest.mark.peer
@pytest.mark.parametrize("B", [None, 5])
def test_against_torch(dtype, B):
    torch = pytest.importorskip("torch")
    I, H = 8, 64
    n = network(30, B, I, H, dtype=dtype)
    cell = torch.nn.RNNCell(I, H, dtype=getattr(torch, dtype.__name__))
    stepper = pyrnn.Stepper(of(n, "UWb"), n["h0"], batch=B)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.from_numpy(n["U"]))
        cell.weight_hh.copy_(torch.from_numpy(n["W"]))
        cell.bias_ih.copy_(torch.from_numpy(n["b"]))
        cell.bias_hh.zero_()
        h = torch.from_numpy(n["h0"])
        for x in n["x"]:
            h = cell(torch.from_numpy(x), h)
            np.testing.assert_allclose(stepper.step(x), h.numpy(), rtol=0, atol=20 * np.finfo(dtype).eps)


@pytest.mark.peer
def test_against_onnxruntime():
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    I, H, O = 8, 64, 3
    n = network(20, None, I, H, O, dtype=np.float32)
    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    constants = {"W": n["U"][None], "R": n["W"][None], "B": np.concatenate([n["b"], 0 * n["b"]])[None]}
    constants |= {"V": n["V"].T.copy(), "c": n["c"]}
    graph = helper.make_graph(
        [
            helper.make_node("RNN", ["x", "W", "R", "B", "", "h0"], ["", "h"], hidden_size=H, activations=["Tanh"]),
            helper.make_node("MatMul", ["h", "V"], ["Vh"]),
            helper.make_node("Add", ["Vh", "c"], ["o"]),
        ],
        "rnn",
        [helper.make_tensor_value_info(*v) for v in (("x", FLOAT, (1, 1, I)), ("h0", FLOAT, (1, 1, H)))],
        [helper.make_tensor_value_info(*v) for v in (("o", FLOAT, (1, 1, O)), ("h", FLOAT, (1, 1, H)))],
        [onnx.numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    stepper = pyrnn.Stepper(of(n), n["h0"])
    h = n["h0"][None, None]
    for x in n["x"]:
        o, h = session.run(["o", "h"], {"x": x[None, None], "h0": h})
        np.testing.assert_allclose(stepper.step(x), o[0, 0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(stepper.state, h[0, 0], rtol=0, atol=2e-6)


def test_another_instruction_set_between_steps():
    """The panels of one instruction set are not those of the next."""
    n = network(12, 3, 5, 40, 6, dtype=np.float32)
    make = lambda: pyrnn.Stepper(of(n), batch=3)
    expected, stepper, before = make().run(n["x"]), make(), table.selected()
    try:
        for t, name in zip(range(0, 12, 2), itertools.cycle(table.available()), strict=False):
            table.select(name)
            assert bits(stepper.step(n["x"][t])) == bits(expected[t])
            assert bits(stepper.run(n["x"][t + 1 : t + 2])) == bits(expected[t + 1 : t + 2])
    finally:
        table.select(before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_not_finite(value):
    stepper = pyrnn.Stepper(made(dtype=np.float32), batch=2)
    x = np.zeros((2, 4), np.float32)
    untouched = stepper.step(x)[1]
    stepper.reset()
    x[0, 0] = value
    o, h = stepper.step(x), stepper.state
    assert bits(o[1]) == bits(untouched)
    assert np.isnan(h[0]).all() if np.isnan(value) else (np.abs(h[0]) == 1).all()


def test_large_step_without_the_gil():
    n = network(3, 40, 30, 128, dtype=np.float32)
    assert 2 * 40 * 128 * (128 + 30) > 1e6
    stepper = pyrnn.Stepper(of(n, "UWb"), batch=40)
    expected = FUSED.forward(n["x"], n["U"], n["W"], n["b"])
    assert bits(*[stepper.step(x) for x in n["x"]]) == bits(*expected)


# ---- Layouts and types ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("B", [None, 1, 3])
@for_each("layout", LAYOUTS)
def test_any_layout_of_every_argument(layout, dtype, B):
    n = network(4, B, dtype=dtype)
    expected = pyrnn.Stepper(made(dtype=dtype), n["h0"], batch=B).run(n["x"])
    given = pyrnn.Network(*(layout(a) for a in made(dtype=dtype).arrays))
    stepper = pyrnn.Stepper(given, layout(n["h0"]), batch=B)
    assert bits(*[stepper.step(layout(x)) for x in n["x"]]) == bits(*expected)
    stepper.state = layout(n["h0"])
    assert bits(stepper.run(layout(n["x"]))) == bits(expected)
    stepper.reset(layout(n["h0"]))
    assert bits(stepper.step(n["x"][0])) == bits(expected[0])


@pytest.mark.parametrize("B", [None, 1, 3])
@for_each("writeable_layout", WRITEABLE_LAYOUTS)
def test_any_layout_of_out(writeable_layout, dtype, B):
    n = network(4, B, dtype=dtype)
    stepper = pyrnn.Stepper(made(dtype=dtype), batch=B)
    expected = stepper.run(n["x"])
    stepper.reset()
    for x, o in zip(n["x"], expected, strict=True):
        out = writeable_layout(np.full_like(o, 7))
        assert stepper.step(x, out=out) is out
        assert bits(np.array(out, order="C")) == bits(o)


def test_step_into_columns_of_a_sequence():
    """Batch-first arrays are read and written in place, and nothing beside them is touched."""
    n = network(6, 3)
    x = np.ascontiguousarray(n["x"].transpose(1, 0, 2))
    stepper = pyrnn.Stepper(made(), batch=3)
    expected = stepper.run(n["x"])
    out = np.full((3, 8, 2), np.nan)
    stepper.reset()
    for t in range(6):
        stepper.step(x[:, t], out=out[:, t + 1])
    assert bits(np.ascontiguousarray(out[:, 1:-1].transpose(1, 0, 2))) == bits(expected)
    assert np.isnan(out[:, [0, -1]]).all()


@pytest.mark.parametrize("kind", ["f2", "f4", "?", "i1", "u1", "i2", "u2", ">f4"])
def test_narrower_input_is_converted(dtype, kind):
    x = (network(5, 2)["x"] * 3).astype(kind)
    stepper = pyrnn.Stepper(made(dtype=dtype), batch=2)
    expected = stepper.run(x.astype(dtype))
    stepper.reset()
    assert bits(*[stepper.step(a) for a in x]) == bits(*expected)


@pytest.mark.parametrize("name", ["x", "state", "h0"])
@pytest.mark.parametrize("kind", ["f8", "i4", "i8", ">f8"])
def test_wider_input_is_rejected(name, kind):
    stepper = pyrnn.Stepper(made(dtype=np.float32))
    a = np.zeros(4 if name == "x" else 6, kind)
    message = f"{name} must be of a dtype that float32, the Stepper's, can hold, got {a.dtype}"
    with pytest.raises(TypeError, match=re.escape(message)):
        set_state(stepper, a) if name == "state" else stepper.reset(a) if name == "h0" else stepper.step(a)
    if name == "x":
        with pytest.raises(TypeError, match=re.escape(message)):
            stepper.run(a[np.newaxis])


@pytest.mark.parametrize("wide", ["U", "W", "b", "V", "c", "h0"])
def test_dtype_is_that_of_the_widest_argument(wide):
    n = network(B=None, dtype=np.float32)
    make = lambda n: pyrnn.Stepper(of(n), n["h0"])
    assert make(n).dtype == np.float32
    assert make(n | {wide: n[wide].astype(np.float64)}).dtype == np.float64
    alpha = pyrnn.Cell(alpha=np.full(6, 0.5))  # kept in float64, and rounded to the dtype of the arrays
    assert pyrnn.Stepper(made(dtype=np.float32, cell=alpha)).dtype == np.float32
    assert pyrnn.Stepper(pyrnn.Network([[1.0]], [[0.5]])).dtype == np.float64
    assert pyrnn.Stepper(pyrnn.Network(np.ones((1, 1), np.int8), np.ones((1, 1), bool))).dtype == np.float32


def test_lists():
    stepper = pyrnn.Stepper(pyrnn.Network([[1.0], [0.0]], [[0.0, 0.5], [1.0, 0.0]]), [0.0, 0.0])
    assert bits(stepper.step([1])) == bits(np.tanh([1.0, 0.0]))
    stepper.state = [0.5, 0.25]
    assert stepper.state.tolist() == [0.5, 0.25]


# ---- State ----------------------------------------------------------------------------------------------------------
def set_state(stepper, h):
    stepper.state = h


@pytest.mark.parametrize("B", BATCHES)
@pytest.mark.parametrize("given", [False, True])
def test_reset(dtype, B, given):
    n = network(4, B, dtype=dtype)
    stepper = pyrnn.Stepper(of(n, "UWb"), n["h0"] if given else None, batch=B)
    first = n["h0"] if given else np.zeros_like(n["h0"])
    assert bits(stepper.state) == bits(first)
    expected = stepper.run(n["x"])
    stepper.reset()
    assert bits(stepper.state) == bits(first)
    stepper.reset(n["h0"])
    assert bits(stepper.state) == bits(n["h0"])
    stepper.reset()
    assert bits(stepper.run(n["x"])) == bits(expected)


def test_state_can_be_taken_and_given_back():
    x = network(10, None)["x"]
    stepper = pyrnn.Stepper(made())
    stepper.run(x[:4])
    saved = stepper.state
    expected = stepper.run(x[4:])
    stepper.state = saved
    assert bits(stepper.run(x[4:])) == bits(expected)


def test_results_and_arguments_belong_to_the_caller():
    """No array that goes in or comes out shares memory with the stepper, or is written later."""
    n = network(5, None)
    given = [*made().arrays, n["h0"].copy()]
    stepper = pyrnn.Stepper(pyrnn.Network(*given[:5]), given[5])
    expected = stepper.run(n["x"])
    stepper.reset()
    for a in given:
        a[...] = np.nan
    results = []
    for x, o in zip(n["x"], expected, strict=True):
        results.append(stepper.step(x))
        assert bits(results[-1]) == bits(o)
        stepper.state[...] = np.nan
        for a in stepper.network.arrays:
            a[...] = np.nan
    assert bits(*results) == bits(*expected)
    results[-1][...] = np.nan
    stepper.reset()
    assert bits(stepper.run(n["x"])) == bits(expected)
    h = n["h0"].copy()
    stepper.state = h
    h[...] = np.nan
    assert bits(stepper.state) == bits(n["h0"])


def test_attributes():
    cell = pyrnn.Cell("relu", 0.1)
    net = made(I=4, H=6, O=2, dtype=np.float32, cell=cell)
    stepper = pyrnn.Stepper(net, batch=3)
    assert (stepper.input_size, stepper.hidden_size, stepper.output_size, stepper.batch) == (4, 6, 2, 3)
    assert stepper.dtype == np.float32
    assert repr(stepper) == "Stepper(input_size=4, hidden_size=6, output_size=2, batch=3, dtype=float32)"
    assert bits(*stepper.network.arrays) == bits(*net.arrays)
    assert stepper.network.cell == cell
    states = pyrnn.Stepper(net._replace(V=None, c=None))
    assert (states.output_size, states.batch, states.network.V) == (None, None, None)
    for name in ("batch", "network"):
        with pytest.raises(AttributeError):
            setattr(stepper, name, 4)


class Named(pyrnn.Stepper):
    """A subclass of a user."""


@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("with_output", [False, True])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copy_and_pickle(dtype, B, with_output, duplicate):
    n = network(9, B, dtype=dtype)
    cell = pyrnn.Cell(alpha=0.1)
    original = Named(of(n, "UWbVc" if with_output else "UWb", cell), n["h0"], batch=B)
    original.name = "left"
    original.run(n["x"][:3])
    twin = duplicate(original)
    assert (type(twin), repr(twin), twin.name) == (Named, repr(original), "left")
    assert twin.network.cell == cell
    assert bits(*twin.network.arrays) == bits(*original.network.arrays)
    expected = original.run(n["x"])
    assert bits(twin.run(n["x"])) == bits(expected)  # the state came along, and is its own
    original.reset()
    twin.reset()
    assert bits(twin.state, twin.run(n["x"])) == bits(original.state, original.run(n["x"]))


# ---- Errors ---------------------------------------------------------------------------------------------------------
CONSTRUCTION = [
    ({"U": np.ones(4)}, ValueError, "U must have shape (H, I), got (4,)"),
    ({"W": np.ones((6, 5))}, ValueError, "W must have shape (6, 6) to match U (6, 4), got (6, 5)"),
    ({"b": np.ones(5)}, ValueError, "b must have shape (6,) to match U (6, 4), got (5,)"),
    ({"V": np.ones((2, 5))}, ValueError, "V must have shape (O, 6) to match U (6, 4), got (2, 5)"),
    ({"V": np.ones(6)}, ValueError, "V must have shape (O, 6) to match U (6, 4), got (6,)"),
    ({"c": np.ones(3)}, ValueError, "c must have shape (2,) to match V (2, 6), got (3,)"),
    ({"V": None}, ValueError, "network must have V where it has c, got V None"),
    ({"R": np.ones((6, 2))}, ValueError, "network must be without R here: closed_loop() is the network"),
    ({"cell": pyrnn.Cell(alpha=np.ones(3))}, ValueError, "alpha must be a number or have shape (6,), got (3,)"),
    ({"cell": "tanh"}, TypeError, "cell must be a pyrnn.Cell, got 'tanh'"),
    ({"h0": np.ones((1, 6))}, ValueError, "h0 must have shape (6,) to match U (6, 4), got (1, 6)"),
    ({"h0": np.ones(6), "batch": 3}, ValueError, "h0 must have shape (3, 6) to match U (6, 4), got (6,)"),
    ({"batch": -1}, ValueError, "batch must be an integer from 0, got -1"),
    ({"batch": 2.0}, TypeError, "batch must be an integer from 0, got 2.0"),
    ({"U": None}, TypeError, "U must be an array of numbers, got None"),
    ({"W": np.ones((6, 6), complex)}, TypeError, "W must be real numbers that fit float32 or float64, got dtype"),
    ({"V": np.ones((2, 6), "g")}, TypeError, "V must be real numbers that fit float32 or float64, got dtype"),
    ({"b": np.ma.masked_equal(np.ones(6), 1)}, TypeError, "b must be an array without masked values"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), CONSTRUCTION)
def test_wrong_construction(wrong, error, message):
    options = {name: wrong[name] for name in ("h0", "batch") if name in wrong}
    arrays = {name: a for name, a in wrong.items() if name not in options}
    with pytest.raises(error, match=re.escape(message)):
        pyrnn.Stepper(made(I=4, H=6, O=2)._replace(**arrays), **options)


def test_what_is_no_network():
    with pytest.raises(TypeError, match=r"network must be a pyrnn.Network .* got tuple; Network\(\*arrays\) makes one"):
        pyrnn.Stepper(tuple(made().arrays))


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
@pytest.mark.parametrize(("alpha", "form"), [(1.0, "rate"), (0.3, "rate"), (0.3, "current")])
def test_an_rnn_of_one_layer_is_its_network(nonlinearity, alpha, form):
    rnn = pyrnn.RNN(3, 5, output_size=2, nonlinearity=nonlinearity, alpha=alpha, form=form, rng=0)
    x = network(6, 2, 3, dtype=np.float32)["x"]
    expected = pyrnn.simulate(rnn, x).output()
    stepper, other = pyrnn.Stepper(rnn, batch=2), pyrnn.Stepper(rnn.network(), batch=2)
    assert stepper.network.cell == rnn.cell
    steps = np.stack([stepper.step(row) for row in x])
    assert bits(steps) == bits(other.run(x))
    np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"rnn\.network\(layer\)"):
        pyrnn.Stepper(pyrnn.RNN(3, 5, num_layers=2))


X = np.zeros((3, 4))
STEPS = [
    ("step", np.ones(4), ValueError, "x must have shape (3, 4), got (4,)"),
    ("step", np.ones((4, 3)), ValueError, "x must have shape (3, 4), got (4, 3)"),
    ("step", np.ones((1, 3, 4)), ValueError, "x must have shape (3, 4), got (1, 3, 4)"),
    ("step", None, TypeError, "x must be an array of numbers, got None"),
    ("step", 1.0, ValueError, "x must have shape (3, 4), got ()"),
    ("step", X.astype(complex), TypeError, "x must be real numbers that fit float32 or float64, got dtype complex128"),
    ("step", X.astype(object), TypeError, "x must be real numbers that fit float32 or float64, got dtype object"),
    ("step", [["a"] * 4] * 3, TypeError, "x must be real numbers that fit float32 or float64, got dtype <U1"),
    ("step", np.ma.masked_equal(X, 0), TypeError, "x must be an array without masked values, got 12 masked: fill them"),
    ("run", X, ValueError, "x must have shape (T, 3, 4), got (3, 4)"),
    ("run", np.ones((2, 3, 5)), ValueError, "x must have shape (T, 3, 4), got (2, 3, 5)"),
    ("reset", np.ones(6), ValueError, "h0 must have shape (3, 6), got (6,)"),
    ("state", np.ones(6), ValueError, "state must have shape (3, 6), got (6,)"),
    ("state", 0.0, ValueError, "state must have shape (3, 6), got ()"),
    ("state", None, TypeError, "state must be an array of numbers, got None"),
]


@pytest.mark.parametrize(("what", "a", "error", "message"), STEPS)
def test_wrong_argument(what, a, error, message):
    stepper = pyrnn.Stepper(made(), batch=3)
    stepper.run(network(4, 3)["x"])
    before = stepper.state
    with pytest.raises(error, match=re.escape(message)):
        set_state(stepper, a) if what == "state" else getattr(stepper, what)(a)
    assert bits(stepper.state) == bits(before)


def test_message_without_batch():
    stepper = pyrnn.Stepper(made())
    with pytest.raises(ValueError, match=re.escape("x must have shape (4,), got (1, 4)")):
        stepper.step(np.ones((1, 4)))
    with pytest.raises(ValueError, match=re.escape("x must have shape (T, 4), got (4,)")):
        stepper.run(np.ones(4))
    with pytest.raises(ValueError, match="n_threads must be a positive integer"):
        stepper.run(np.ones((1, 4)), n_threads=0)


def read_only(a):
    a.flags.writeable = False
    return a


OUTS = [
    ([0.0, 0.0], TypeError, "out must be a NumPy array, got list"),
    (np.ma.zeros((3, 2)), TypeError, "out must be a plain NumPy array, got a MaskedArray"),
    (np.zeros((3, 6)), ValueError, "out must have shape (3, 2), got (3, 6)"),
    (np.zeros(2), ValueError, "out must have shape (3, 2), got (2,)"),
    (np.zeros((3, 2), np.float32), ValueError, "out must have dtype float64 to match the inputs, got float32"),
    (read_only(np.zeros((3, 2))), ValueError, "out must be writeable, got a read-only array"),
]


@pytest.mark.parametrize(("out", "error", "message"), OUTS)
def test_wrong_out(out, error, message):
    stepper = pyrnn.Stepper(made(), batch=3)
    with pytest.raises(error, match=re.escape(message)):
        stepper.step(X, out=out)
    assert not stepper.state.any()


def test_out_that_overlaps_x():
    stepper, memory = pyrnn.Stepper(of(network(I=6, H=6), "UW")), np.zeros(20)
    for start in range(13):
        out, x = memory[start : start + 6], memory[6:12]
        if 0 < start < 12:
            with pytest.raises(ValueError, match="out must not overlap an input, but shares memory with x"):
                stepper.step(x, out=out)
        else:
            stepper.step(x, out=out)


def test_out_that_overlaps_x_of_a_batch():
    """Rows of x and out may lie between each other, in any order; only a number that both have is an error."""
    stepper, rng = pyrnn.Stepper(of(network(I=3, H=3, dtype=np.float32), "UW"), batch=4), np.random.default_rng(0)
    content, shared = rng.standard_normal((16, 8)).astype(np.float32), 0
    index = np.arange(content.size).reshape(content.shape)
    for _ in range(500):
        memory, first, second = content.copy(), *draw(rng)
        x, out, own = rows(memory, *first), rows(memory, *second), rows(index, *second)
        stepper.reset()
        expected = stepper.step(x.copy())
        stepper.reset()
        if np.shares_memory(x, out):
            shared += 1
            with pytest.raises(ValueError, match="out must not overlap an input, but shares memory with x"):
                stepper.step(x, out=out)
            assert bits(memory) == bits(content)
        else:
            assert bits(np.array(stepper.step(x, out=out), order="C")) == bits(expected)
            assert bits(np.delete(memory, own)) == bits(np.delete(content, own))
    assert 100 < shared < 400


def draw(rng):
    """Two places for four rows of three numbers in 16 rows of eight: first row, step, first column."""
    return [(rng.integers(0, 4), rng.choice([-3, -2, -1, 1, 2, 3]), rng.integers(0, 6)) for _ in range(2)]


def rows(memory, first, step, column):
    return memory[first:, column : column + 3][::step][:4]


def test_out_with_rows_upon_each_other(dtype):
    """As in an assignment by NumPy, the later row stays."""
    n = network(1, 3, 2, 100, dtype=dtype)
    stepper = pyrnn.Stepper(of(n, "UW"), batch=3)
    expected, own = np.zeros(200, dtype), np.zeros(200, dtype)
    for step in (0, 1, 50):
        strides = (step * own.itemsize, own.itemsize)
        stepper.reset()
        for row, h in zip(as_strided(expected, (3, 100), strides), stepper.step(n["x"][0]), strict=True):
            row[...] = h
        stepper.reset()
        stepper.step(n["x"][0], out=as_strided(own, (3, 100), strides))
        assert bits(own) == bits(expected)


# ---- Threads, memory, interrupts ------------------------------------------------------------------------------------
def in_threads(n, work):
    """Run work(i) in n threads at once; returns what they raised."""
    raised, start = [], threading.Barrier(n)

    def run(i):
        start.wait()
        try:
            work(i)
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("size", [(200, None, 8, 64), (40, 40, 16, 160)])
def test_one_stepper_for_each_thread(size):
    n = network(*size, dtype=np.float32)
    make = lambda: pyrnn.Stepper(of(n, "UWb"), batch=size[1])
    expected = make().run(n["x"])

    def work(i):
        stepper, out = make(), np.empty_like(expected[0])
        for x, h in zip(n["x"], expected, strict=True):
            assert bits(stepper.step(x, out=out)) == bits(h)

    assert in_threads(4, work) == []


def test_one_stepper_for_several_threads():
    """Each call either makes a whole step, from a state that was there, or raises; steps that were made add up."""
    B, H, calls = 64, 128, 300
    U, W = np.zeros((H, 1), np.float32), np.zeros((H, H), np.float32)
    W[np.arange(H), np.arange(H) - 1] = 1  # moves the state on by one unit: tanh of a small number keeps its place
    h0 = np.zeros((B, H), np.float32)
    h0[:, 0] = 1e-20
    stepper, x, steps, refused = pyrnn.Stepper(pyrnn.Network(U, W), h0, batch=B), np.zeros((B, 1), np.float32), [], []

    def work(i):
        for _ in range(calls):
            try:
                h = stepper.step(x)
            except RuntimeError as error:
                refused.append(str(error))
            else:
                steps.append(np.flatnonzero(h[0]).tolist())

    assert in_threads(4, work) == []
    assert len(steps) + len(refused) == 4 * calls
    assert all("being used by another thread" in message for message in refused)
    counts = sorted(int(s[0]) for s in steps)
    assert counts == sorted((i + 1) % H for i in range(len(steps)))
    assert np.flatnonzero(stepper.state[-1]).tolist() == [len(steps) % H]


def test_calls_during_a_run_are_refused():
    H = 256
    n = network(1, None, 1, H, dtype=np.float32)
    stepper = pyrnn.Stepper(of(n, "UW"))
    x = np.zeros((20_000, 1), np.float32)
    expected = pyrnn.Stepper(of(n, "UW")).run(x)
    results = []
    thread = threading.Thread(target=lambda: results.append(stepper.run(x)))
    calls = [lambda: stepper.step(x[0]), lambda: stepper.state, lambda: stepper.reset(), lambda: stepper.run(x[:1])]
    calls.append(lambda: set_state(stepper, np.zeros(H, np.float32)))
    refused = set()
    thread.start()
    while thread.is_alive() and len(refused) < len(calls):
        try:
            calls[1]()
        except RuntimeError:  # the run has begun
            for i, call in enumerate(calls):
                try:
                    call()
                except RuntimeError:
                    refused.add(i)
    thread.join()
    assert refused == set(range(len(calls)))
    assert bits(*results) == bits(expected)


@pytest.mark.parametrize("with_output", [False, True])
@pytest.mark.parametrize("B", [None, 3])
def test_step_with_out_allocates_nothing(B, with_output):
    n = network(1, B)
    stepper = pyrnn.Stepper(of(n, "UWbVc" if with_output else "UWb"), batch=B)
    x, out = n["x"][0], np.empty((2 if with_output else 6,) if B is None else (B, 2 if with_output else 6))

    def steps(count):
        for _ in itertools.repeat(None, count):
            stepper.step(x, out=out)

    steps(1000)
    gc.collect()
    assert allocated(lambda: steps(1000)) == allocated(lambda: steps(0))


INTERRUPT = """
import signal, time
import numpy as np, pyrnn
rng = np.random.default_rng(0)
H = 1024
U, W = rng.normal(size=(H, 1)).astype("f"), (rng.normal(size=(H, H)) / np.sqrt(H)).astype("f")
network = pyrnn.Network(U, W, None, U.T.copy())
stepper, x = pyrnn.Stepper(network, rng.random(H, np.float32)), np.ones((60_000, 1), "f")
stepper.run(x[:5])
before = stepper.state
expected = stepper.run(x[:3])
stepper.state = before
signal.signal(signal.SIGPROF, signal.default_int_handler)
start = time.process_time()
stepper.run(x[:600])
part = time.process_time() - start
stepper.state = before
start = time.process_time()
signal.setitimer(signal.ITIMER_PROF, 2 * part)
try:
    stepper.run(x)
    print("not interrupted")
except KeyboardInterrupt:
    print("interrupted", time.process_time() - start < 50 * part, (stepper.state == before).all(),
          (stepper.run(x[:3]) == expected).all())
"""


@pytest.mark.unsanitized
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer")
def test_interrupted_run_leaves_the_state_alone():
    process = subprocess.run(
        [sys.executable, "-P", "-c", INTERRUPT], check=True, capture_output=True, text=True, timeout=3600
    )
    outcome = process.stdout.split()
    assert outcome[0] == "interrupted"
    assert outcome[1:] == ["True", "True", "True"]  # the first: before half of the work was done
