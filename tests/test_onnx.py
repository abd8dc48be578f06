"""ONNX models in and out, against ONNX Runtime and against models that PyTorch exports."""

import copy
import itertools
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import pyrnn
from pyrnn.bridges.state_dict import describe

pytestmark = pytest.mark.peer

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from pyrnn.bridges.onnx import OnnxRNN, from_onnx, run_onnx_rnn, to_onnx, to_state_dict  # noqa: E402

TOLERANCE = 1e-5  # float32, of numbers about 1
FUNCTIONS = {"tanh": "Tanh", "relu": "Relu"}


def run(model, feeds):
    """All outputs of a model by ONNX Runtime on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # refusals are tested, not read
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def model_of(nodes, inputs, outputs, initializers, opset=14):
    """A model; inputs: names and NumPy dtypes, of open shapes."""
    make = onnx.helper
    info = lambda name, dtype: make.make_tensor_value_info(name, make.np_dtype_to_tensor_dtype(np.dtype(dtype)), None)
    graph = make.make_graph(
        nodes,
        "test",
        [make.make_tensor_value_info(n, make.np_dtype_to_tensor_dtype(np.dtype(d)), s) for n, (d, s) in inputs.items()],
        [info(name, np.float32) for name in outputs],
        [onnx.numpy_helper.from_array(a, name) for name, a in initializers.items()],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", opset)], ir_version=8)


def weights(rng, D=1, H=3, I=2, bias=True, dtype=np.float32):
    draw = lambda *shape: (rng.uniform(-1, 1, shape) / np.sqrt(H)).astype(dtype)
    a = {"W": draw(D, H, I), "R": draw(D, H, H)}
    return a | {"B": draw(D, 2 * H)} if bias else a


def one_node(initializers, *, optional=(), opset=14, layout=0, hidden_size=None, **attributes):
    """A model with one RNN node; optional: of sequence_lens and initial_h, those that are inputs."""
    names = ["X", "W", "R"]
    for name in ("B", "sequence_lens", "initial_h"):
        names.append(name if name in initializers or name in optional else "")
    H = initializers["W"].shape[1]
    attributes |= {"layout": layout} if layout else {}
    node = onnx.helper.make_node("RNN", names, ["Y", "Y_h"], hidden_size=hidden_size or H, **attributes)
    shapes = {"X": (np.float32, 3), "sequence_lens": (np.int32, 1), "initial_h": (np.float32, 3)}
    inputs = {name: (shapes[name][0], [None] * shapes[name][1]) for name in ("X", *optional)}
    return model_of([node], inputs, ["Y", "Y_h"], initializers, opset)


def random_state_dict(rng, layers, bidirectional, bias, I, H, dtype=np.float32):
    ends = ["", "_reverse"] if bidirectional else [""]
    state_dict = {}
    for n, end in itertools.product(range(layers), ends):
        columns = I if n == 0 else H * len(ends)
        shapes = {"weight_ih": (H, columns), "weight_hh": (H, H)} | ({"bias_ih": (H,), "bias_hh": (H,)} if bias else {})
        for kind, shape in shapes.items():
            state_dict[f"{kind}_l{n}{end}"] = (rng.uniform(-1, 1, shape) / np.sqrt(H)).astype(dtype)
    return state_dict


def network_outputs(network, x, lengths, h0, reverse=False):
    """out and h_n of stacked layers, [T, B, ...], by pyrnn.forward."""
    lasts, D = [], 1 + network.bidirectional
    T, batch = x.shape[:2]
    steps = np.full(batch, T) if lengths is None else lengths
    for n in range(network.num_layers):
        outs = []
        for d in range(D):
            U, W, b = network.layer(n, reverse=d == 1)
            start = None if h0 is None else h0[n * D + d]
            back = bool(d) or reverse
            h = pyrnn.forward(x, U, W, b, start, cell=pyrnn.Cell(network.nonlinearity), lengths=lengths, reverse=back)
            outs.append(h)
            at_end = np.zeros_like(h, shape=h.shape[1:])
            for i in np.flatnonzero(steps):
                at_end[i] = h[0 if back else steps[i] - 1, i]
            lasts.append(at_end)
        x = np.concatenate(outs, axis=-1)
    return x, np.stack(lasts)


# ---- Reading and running a node -------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(72))
def test_node_against_onnxruntime(seed):
    """direction x function x lengths, initial_h and B given or not."""
    rng = np.random.default_rng(seed)
    direction = ["forward", "reverse", "bidirectional"][seed % 3]
    names = ["tanh", "relu"]
    D = 2 if direction == "bidirectional" else 1
    functions = [names[seed // 3 % 2]] if D == 1 else [names[seed // 3 % 2], names[seed // 9 % 2]]
    has_lengths, has_start, bias = seed // 6 % 2 == 0, seed // 12 % 2 == 0, seed // 24 != 1
    T, batch, I, H = (int(n) for n in rng.integers(1, [12, 7, 6, 20]))
    optional = ["sequence_lens"] * has_lengths + ["initial_h"] * has_start
    # Tanh is the default: half of the models do not name it.
    named = {} if set(functions) == {"tanh"} and seed % 2 else {"activations": [FUNCTIONS[f] for f in functions]}
    model = one_node(weights(rng, D, H, I, bias), optional=optional, direction=direction, **named)
    feeds = {"X": rng.normal(size=(T, batch, I)).astype(np.float32)}
    if has_lengths:
        feeds["sequence_lens"] = rng.integers(0, T + 1, batch).astype(np.int32)
    if has_start:
        feeds["initial_h"] = rng.uniform(-1, 1, (D, batch, H)).astype(np.float32)

    (node,) = from_onnx(model)
    assert (node.direction, list(node.nonlinearities), node.layout) == (direction, functions, 0)
    assert (node.hidden_size, node.input_size, node.B is not None) == (H, I, bias)
    assert dict(node.inputs) == {name: name for name in feeds}
    result = run_onnx_rnn(node, feeds["X"], feeds.get("sequence_lens"), feeds.get("initial_h"))
    for name, ours, theirs in zip(("Y", "Y_h"), result, run(model, feeds), strict=True):
        assert ours.dtype == np.float32
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def test_layout_1_is_what_onnxruntime_refuses_and_layout_0_transposed():
    rng = np.random.default_rng(0)
    a = weights(rng, 2, 4, 3)
    optional = ["sequence_lens", "initial_h"]
    x, start = rng.normal(size=(5, 3, 3)).astype(np.float32), rng.normal(size=(2, 3, 4)).astype(np.float32)
    lengths = np.array([5, 0, 2], np.int32)
    models = [one_node(a, optional=optional, direction="bidirectional", layout=n) for n in (0, 1)]
    Y, Y_h = run(models[0], {"X": x, "initial_h": start, "sequence_lens": lengths})
    with pytest.raises(Exception, match="layout"):  # the day this is untrue, docs/files.md must change
        run(models[1], {"X": x.swapaxes(0, 1), "initial_h": start.swapaxes(0, 1), "sequence_lens": lengths})
    (node,) = from_onnx(models[1])
    assert node.layout == 1
    ours = run_onnx_rnn(node, x.swapaxes(0, 1), lengths, start.swapaxes(0, 1))
    np.testing.assert_allclose(ours.Y, Y.transpose(2, 0, 1, 3), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(ours.Y_h, Y_h.swapaxes(0, 1), rtol=0, atol=TOLERANCE)


def test_layout_1_against_the_reference_of_onnx():
    """The one implementation of layout 1 that runs here; one direction, no lengths."""
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(1)
    x, start = rng.normal(size=(3, 5, 3)).astype(np.float32), rng.normal(size=(3, 1, 4)).astype(np.float32)
    model = one_node(weights(rng, 1, 4, 3), optional=["initial_h"], layout=1)
    try:
        Y_h = ReferenceEvaluator(model).run(["Y_h"], {"X": x, "initial_h": start})[0]
    except ValueError:
        pytest.skip("the reference of this onnx has no initial_h with layout 1, as that of 1.16")
    (node,) = from_onnx(model)
    np.testing.assert_allclose(run_onnx_rnn(node, x, None, start).Y_h.reshape(3, 4), Y_h.reshape(3, 4), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"activations": ["Affine"], "activation_alpha": [1.0]}, ("identity",)),
        ({"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]}, ("identity",)),
        ({"activations": ["LeakyRelu"], "activation_alpha": [1.0]}, ("identity",)),
        ({"activations": ["LeakyRelu"], "activation_alpha": [0.0]}, ("relu",)),
        ({"activations": ["ThresholdedRelu"], "activation_alpha": [0.0]}, ("relu",)),
        ({"activations": ["ScaledTanh"], "activation_alpha": [1.0], "activation_beta": [1.0]}, ("tanh",)),
        ({"activations": ["Tanh"], "activation_alpha": [0.3]}, ("tanh",)),
        (
            {"activations": ["Tanh", "Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]},
            ("tanh", "identity"),
        ),
        ({"activations": ["LeakyRelu", "LeakyRelu"], "activation_alpha": [0.0, 1.0]}, ("relu", "identity")),
        ({"activations": ["Softplus"]}, ("softplus",)),
        ({"activations": ["Softplus", "Sigmoid"]}, ("softplus", "sigmoid")),
        ({"activations": ["Sigmoid", "LeakyRelu"], "activation_alpha": [0.5]}, ("sigmoid", "leaky_relu")),
        ({"activations": ["LeakyRelu", "LeakyRelu"], "activation_alpha": [0.25, 1.5]}, ("leaky_relu", "leaky_relu")),
    ],
)
def test_functions_that_equal_ours(attributes, expected):
    rng = np.random.default_rng(0)
    D = len(expected)
    model = one_node(weights(rng, D), direction="bidirectional" if D == 2 else "forward", **attributes)
    x = rng.normal(size=(4, 2, 2)).astype(np.float32)
    (node,) = from_onnx(model)
    assert node.nonlinearities == expected
    for ours, theirs in zip(run_onnx_rnn(node, x), run(model, {"X": x}), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("opset", [7, 14, 22])
def test_opsets(opset):
    rng = np.random.default_rng(0)
    model = one_node(weights(rng), opset=opset)
    x = rng.normal(size=(4, 2, 2)).astype(np.float32)
    np.testing.assert_allclose(run_onnx_rnn(from_onnx(model)[0], x).Y, run(model, {"X": x})[0], atol=TOLERANCE)


def test_lengths_and_initial_state_in_the_file():
    rng = np.random.default_rng(0)
    fixed = {"sequence_lens": np.array([3, 1], np.int32), "initial_h": rng.normal(size=(1, 2, 3)).astype(np.float32)}
    model = one_node(weights(rng) | fixed)
    x = rng.normal(size=(4, 2, 2)).astype(np.float32)
    (node,) = from_onnx(model)
    assert not node.inputs.keys() - {"X"}
    for ours, theirs in zip(run_onnx_rnn(node, x), run(model, {"X": x}), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)
    other = run_onnx_rnn(node, x, sequence_lens=[4, 4], initial_h=np.zeros((1, 2, 3)))
    np.testing.assert_allclose(other.Y[:, 0], pyrnn.forward(x, *node.weights()), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("how", ["Constant", "computed"])
def test_weights_of_nodes(how):
    """Weights from Constant nodes, and from what exporters put together where they do not fold constants."""
    rng = np.random.default_rng(0)
    a = weights(rng)
    make, arrays = onnx.helper.make_node, {}
    if how == "Constant":
        nodes = [make("Constant", [], [name], value=onnx.numpy_helper.from_array(v)) for name, v in a.items()]
    else:
        arrays = {
            "w": a["W"][0].T.copy(),
            "r": a["R"][0],
            "b0": a["B"][:, :3],
            "b1": a["B"][:, 3:],
            "zero": np.array([0]),
        }
        nodes = [
            make("Transpose", ["w"], ["w_t"]),
            make("Unsqueeze", ["w_t", "zero"], ["W"]),
            make("Unsqueeze", ["r", "zero"], ["R_"]),
            make("Identity", ["R_"], ["R"]),
            make("Concat", ["b0", "b1"], ["B"], axis=1),
        ]
    nodes.append(make("RNN", ["X", "W", "R", "B"], ["Y", "Y_h"], hidden_size=3))
    model = model_of(nodes, {"X": (np.float32, [None, None, 2])}, ["Y", "Y_h"], arrays)
    x = rng.normal(size=(4, 2, 2)).astype(np.float32)
    (node,) = from_onnx(model)
    for name, v in a.items():
        np.testing.assert_array_equal(getattr(node, name), v)
    np.testing.assert_allclose(run_onnx_rnn(node, x).Y, run(model, {"X": x})[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("value", [0.0, None, 0.5])
@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand"])
def test_initial_states_of_the_shape_of_the_batch(operator, value):
    """Zeros are seen as zeros; anything else must be given."""
    rng = np.random.default_rng(0)
    make, tensor = onnx.helper.make_node, onnx.helper.make_tensor
    arrays = weights(rng) | {"one": np.array([1]), "three": np.array([3]), "at": np.array([1])}
    nodes = [make("Shape", ["X"], ["shape"]), make("Gather", ["shape", "at"], ["batch"])]
    nodes.append(make("Concat", ["one", "batch", "three"], ["start"], axis=0))
    if operator == "Expand":
        arrays["value"] = np.array([value or 0], np.float32)
        nodes.append(make("Expand", ["value", "start"], ["h"]))
    else:
        values = {} if value is None else {"value": tensor("v", onnx.TensorProto.FLOAT, [1], [value])}
        nodes.append(make("ConstantOfShape", ["start"], ["h"], **values))
    nodes += [make("Identity", ["h"], ["h0"]), make("RNN", ["X", "W", "R", "B", "", "h0"], ["Y", "Y_h"], hidden_size=3)]
    model = model_of(nodes, {"X": (np.float32, [None, None, 2])}, ["Y", "Y_h"], arrays)
    x = rng.normal(size=(4, 2, 2)).astype(np.float32)
    (read,) = from_onnx(model)
    if value:
        assert read.inputs["initial_h"] == "h0"
        with pytest.raises(ValueError, match="initial_h must be given"):
            run_onnx_rnn(read, x)
    start = np.full((1, 2, 3), value, np.float32) if value else None
    np.testing.assert_allclose(run_onnx_rnn(read, x, None, start).Y, run(model, {"X": x})[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", ["FLOAT16", "BFLOAT16", "DOUBLE"])
def test_dtypes_of_weights(dtype):
    rng = np.random.default_rng(0)
    a = {name: (v * 8).round() / 8 for name, v in weights(rng).items()}  # exact in all of them
    model = one_node(a)
    for tensor in model.graph.initializer:
        v, name = a[tensor.name], tensor.name
        tensor.CopyFrom(onnx.helper.make_tensor(name, getattr(onnx.TensorProto, dtype), v.shape, v.ravel()))
    (node,) = from_onnx(model)
    for name, v in a.items():
        got = getattr(node, name)
        assert got.dtype == (np.float64 if dtype == "DOUBLE" else np.float32)
        np.testing.assert_array_equal(got, v)


def test_float64_node():
    rng = np.random.default_rng(0)
    node = OnnxRNN(**weights(rng, dtype=np.float64))
    x = rng.normal(size=(4, 2, 2))
    np.testing.assert_array_equal(run_onnx_rnn(node, x).Y[:, 0], pyrnn.forward(x, *node.weights()))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies(again):
    inputs = {"sequence_lens": "lengths"}
    node = OnnxRNN(**weights(np.random.default_rng(0)), inputs=inputs)
    inputs.clear()
    other = again(node)
    assert other.inputs == node.inputs == {"sequence_lens": "lengths"}
    x = np.ones((3, 2, 2), np.float32)
    np.testing.assert_array_equal(run_onnx_rnn(other, x, [2, 3]).Y, run_onnx_rnn(node, x, [2, 3]).Y)


@pytest.mark.parametrize(("T", "batch"), [(0, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("layout", [0, 1])
def test_nothing(T, batch, layout):
    node = OnnxRNN(**weights(np.random.default_rng(0), 2), direction="bidirectional", nonlinearities=("tanh",) * 2,
                   layout=layout)  # fmt: skip
    x = np.zeros((batch, T, 2) if layout else (T, batch, 2), np.float32)
    Y, Y_h = run_onnx_rnn(node, x, np.zeros(batch, int))
    assert Y.shape == ((batch, T, 2, 3) if layout else (T, 2, batch, 3))
    assert Y_h.shape == ((batch, 2, 3) if layout else (2, batch, 3))
    assert not Y_h.any()


# ---- Writing --------------------------------------------------------------------------------------------------------
EXPORTS = list(
    itertools.product(
        [1, 2, 3], [False, True], ["tanh", "relu", "identity", "softplus", "sigmoid", "leaky_relu"], [0, 1]
    )
)


@pytest.mark.parametrize(("layers", "bidirectional", "nonlinearity", "layout"), EXPORTS)
@pytest.mark.parametrize("options", [(), ("sequence_lens",), ("initial_h",), ("sequence_lens", "initial_h")])
def test_exported_model_runs_in_onnxruntime(layers, bidirectional, nonlinearity, layout, options):
    rng = np.random.default_rng([layers, bidirectional, layout, len(options)])
    T, batch, I, H = (int(n) for n in rng.integers(1, [9, 6, 6, 12]))
    D = 1 + bidirectional
    state_dict = random_state_dict(rng, layers, bidirectional, bool(rng.integers(2)), I, H)
    model = to_onnx(state_dict, nonlinearity=nonlinearity, layout=layout, **dict.fromkeys(options, True))
    x = rng.normal(size=(T, batch, I)).astype(np.float32)
    lengths = rng.integers(0, T + 1, batch).astype(np.int32) if "sequence_lens" in options else None
    h0 = rng.uniform(-1, 1, (layers * D, batch, H)).astype(np.float32) if "initial_h" in options else None
    network = describe(state_dict, nonlinearity=nonlinearity)
    out, h_n = network_outputs(network, x, lengths, h0)

    swap = (lambda a: np.ascontiguousarray(a.swapaxes(0, 1))) if layout else (lambda a: a)
    feeds = {"x": swap(x)} | ({"sequence_lens": lengths} if lengths is not None else {})
    feeds |= {"initial_h": swap(h0)} if h0 is not None else {}
    theirs = run(model, feeds)
    np.testing.assert_allclose(theirs[0], swap(out), rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(theirs[1], swap(h_n), rtol=TOLERANCE, atol=TOLERANCE)
    # and back
    again = to_state_dict(from_onnx(model))
    slope = {"negative_slope": float(np.float32(0.01))} if nonlinearity == "leaky_relu" else {}  # as ONNX holds it
    assert again.config == network.config | slope
    for name, a in network.state_dict.items():
        np.testing.assert_array_equal(again.state_dict[name], a)


@pytest.mark.parametrize("layout", [0, 1])
def test_reverse_export(layout):
    rng = np.random.default_rng(0)
    state_dict = random_state_dict(rng, 2, False, True, 3, 4)
    model = to_onnx(state_dict, reverse=True, layout=layout, sequence_lens=True)
    x, lengths = rng.normal(size=(5, 3, 3)).astype(np.float32), np.array([5, 2, 0], np.int32)
    out, h_n = network_outputs(describe(state_dict), x, lengths, None, reverse=True)
    swap = (lambda a: a.swapaxes(0, 1)) if layout else (lambda a: a)
    theirs = run(model, {"x": np.ascontiguousarray(swap(x)), "sequence_lens": lengths})
    np.testing.assert_allclose(theirs[0], swap(out), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(theirs[1], swap(h_n), rtol=0, atol=TOLERANCE)
    with pytest.raises(ValueError, match="forward or both ways"):
        to_state_dict(from_onnx(model))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_export_against_torch(batch_first, nonlinearity):
    """Our file in ONNX Runtime against the network that the weights came from."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    rnn = torch.nn.RNN(3, 5, 2, nonlinearity=nonlinearity, bidirectional=True, batch_first=batch_first)
    model = to_onnx(rnn.state_dict(), nonlinearity=nonlinearity, layout=int(batch_first))
    x = torch.randn(4, 6, 3)
    with torch.no_grad():
        out, h_n = (a.numpy() for a in rnn(x))
    theirs = run(model, {"x": x.numpy()})
    np.testing.assert_allclose(theirs[0], out, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(theirs[1], h_n.swapaxes(0, 1) if batch_first else h_n, rtol=0, atol=TOLERANCE)


@pytest.mark.filterwarnings("ignore")  # of PyTorch's exporter, about itself
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_models_of_torch(tmp_path, layers, bidirectional, batch_first, given):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    rnn = torch.nn.RNN(3, 4, layers, bidirectional=bidirectional, batch_first=batch_first).eval()
    path, arguments = tmp_path / "model.onnx", (torch.zeros(2, 5, 3),)
    if given:
        arguments += (torch.zeros(layers * (1 + bidirectional), 2 if batch_first else 5, 4),)
    axes = {"x": {0: "a", 1: "b"}}
    torch.onnx.export(rnn, arguments, path, dynamo=False, input_names=["x", "h0"][: len(arguments)], dynamic_axes=axes)
    nodes = from_onnx(path)
    # PyTorch makes zeros of a shape of the run time, or takes slices of an input
    assert [set(node.inputs) for node in nodes] == [{"X", "initial_h"} if given else {"X"}] * layers
    assert [node.source for node in nodes] == [None, 0, 1][:layers]
    network = to_state_dict(nodes)
    assert network.config["num_layers"] == layers
    for name, a in rnn.state_dict().items():
        np.testing.assert_array_equal(network.state_dict[name], a.numpy(), err_msg=name)


def test_dtype_of_the_model():
    state_dict = random_state_dict(np.random.default_rng(0), 1, False, True, 2, 3, np.float64)
    assert from_onnx(to_onnx(state_dict))[0].W.dtype == np.float32
    model = to_onnx(state_dict, dtype=np.float64)
    np.testing.assert_array_equal(from_onnx(model)[0].W[0], state_dict["weight_ih_l0"])
    with pytest.raises(Exception, match="RNN"):  # the day this is untrue, the docstring must change
        run(model, {"x": np.zeros((2, 1, 2))})


def test_nothing_is_written_to(tmp_path):
    rng = np.random.default_rng(0)
    state_dict = random_state_dict(rng, 2, True, True, 2, 3)
    for a in state_dict.values():
        a.flags.writeable = False
    before = {name: a.tobytes() for name, a in state_dict.items()}
    model = to_onnx(state_dict)
    content = model.SerializeToString()
    node = from_onnx(model)[0]
    x = rng.normal(size=(3, 2, 2)).astype(np.float32)
    x.flags.writeable = False
    run_onnx_rnn(node, x)
    assert model.SerializeToString() == content
    assert {name: a.tobytes() for name, a in state_dict.items()} == before


# ---- Chains ---------------------------------------------------------------------------------------------------------
def chain(between, shapes, D=1, H=3, layouts=(0, 0), last=None):
    """Two RNN nodes with other nodes between, from Y to Z."""
    rng = np.random.default_rng(0)
    first, second = weights(rng, D, H, 2), weights(rng, D, H, last or D * H)
    arrays = {name + "0": v for name, v in first.items()} | {name + "1": v for name, v in second.items()} | shapes
    direction = "bidirectional" if D == 2 else "forward"
    make = onnx.helper.make_node
    options = [{"layout": 1} if n else {} for n in layouts]
    nodes = [
        make("RNN", ["X", "W0", "R0", "B0"], ["Y", ""], direction=direction, hidden_size=H, **options[0]),
        *between,
        make("RNN", ["Z", "W1", "R1", "B1"], ["out", ""], direction=direction, hidden_size=H, **options[1]),
    ]
    return model_of(nodes, {"X": (np.float32, [None, None, 2])}, ["out"], arrays)


def node(*arguments, **attributes):
    return onnx.helper.make_node(*arguments, **attributes)


JOINED = {
    "squeeze": ([node("Squeeze", ["Y", "s"], ["Z"])], {"s": np.array([1])}, {}),
    "squeeze from the end": ([node("Squeeze", ["Y", "s"], ["Z"])], {"s": np.array([-3])}, {}),
    "squeeze, there and back": (
        [
            node("Squeeze", ["Y", "s"], ["a"]),
            node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
            node("Identity", ["b"], ["c"]),
            node("Dropout", ["c"], ["d"]),
            node("Transpose", ["d"], ["Z"], perm=[1, 0, 2]),
        ],
        {"s": np.array([1])},
        {},
    ),
    "reshape": (
        [node("Transpose", ["Y"], ["a"], perm=[0, 2, 1, 3]), node("Reshape", ["a", "s"], ["Z"])],
        {"s": np.array([0, 0, -1])},
        {"D": 2},
    ),
    "reshape of one direction": (
        [node("Transpose", ["Y"], ["a"], perm=[0, 2, 1, 3]), node("Reshape", ["a", "s"], ["Z"])],
        {"s": np.array([0, -1, 3])},
        {},
    ),
    "layout 1": ([node("Reshape", ["Y", "s"], ["Z"])], {"s": np.array([0, 0, 6])}, {"D": 2, "layouts": (1, 1)}),
    "layout 1 above layout 0": (
        [node("Transpose", ["Y"], ["a"], perm=[1, 0, 2, 3]), node("Squeeze", ["a", "s"], ["Z"])],
        {"s": np.array([2])},
        {"layouts": (1, 0)},
    ),
}
# All of these run, and mean something else than layers on each other.
APART = {
    "time and batch swapped": (
        [node("Squeeze", ["Y", "s"], ["a"]), node("Transpose", ["a"], ["Z"], perm=[1, 0, 2])],
        {"s": np.array([1])},
        {},
    ),
    "reshape without transpose": ([node("Reshape", ["Y", "s"], ["Z"])], {"s": np.array([0, -1, 6])}, {"D": 2}),
    "reshape to other steps": (
        [node("Transpose", ["Y"], ["a"], perm=[0, 2, 1, 3]), node("Reshape", ["a", "s"], ["Z"])],
        {"s": np.array([4, 5, 6])},
        {"D": 2},
    ),
    "arithmetic": ([node("Squeeze", ["Y", "s"], ["a"]), node("Relu", ["a"], ["Z"])], {"s": np.array([1])}, {}),
    "layout forgotten": ([node("Squeeze", ["Y", "s"], ["Z"])], {"s": np.array([2])}, {"layouts": (1, 0)}),
    "units of both directions mixed": (
        [node("Transpose", ["Y"], ["a"], perm=[0, 2, 3, 1]), node("Reshape", ["a", "s"], ["Z"])],
        {"s": np.array([0, 0, -1])},
        {"D": 2},
    ),
    "directions as sequences": (
        [node("Transpose", ["Y"], ["a"], perm=[0, 2, 1, 3]), node("Reshape", ["a", "s"], ["Z"])],
        {"s": np.array([0, -1, 3])},
        {"D": 2, "last": 3},
    ),
    "no zeros in shapes": (
        [node("Transpose", ["Y"], ["a"], perm=[0, 2, 1, 3]), node("Reshape", ["a", "s"], ["Z"], allowzero=1)],
        {"s": np.array([0, 0, 6])},
        {"D": 2},
    ),
    "dropout at work": (
        [node("Squeeze", ["Y", "s"], ["a"]), node("Dropout", ["a", "r", "t"], ["Z"])],
        {"s": np.array([1]), "r": np.array(0.5, np.float32), "t": np.array(True)},
        {},
    ),
    "the input itself": ([node("Identity", ["X"], ["Z"])], {}, {"last": 2}),
}


@pytest.mark.parametrize("case", JOINED)
def test_layers_that_stand_on_each_other(case):
    between, shapes, options = JOINED[case]
    model = chain(between, shapes, **options)
    nodes = from_onnx(model)
    assert [n.source for n in nodes] == [None, 0]
    network = to_state_dict(nodes)
    if not any(options.get("layouts", ())):  # ONNX Runtime has no layout 1
        x = np.random.default_rng(1).normal(size=(4, 3, 2)).astype(np.float32)
        theirs = run(model, {"X": x})[0]
        theirs = theirs.transpose(0, 2, 1, 3).reshape(4, 3, -1)
        np.testing.assert_allclose(network_outputs(network, x, None, None)[0], theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", APART)
def test_layers_that_do_not(case):
    between, shapes, options = APART[case]
    nodes = from_onnx(chain(between, shapes, **options))
    assert [n.source for n in nodes] == [None, None]
    with pytest.raises(ValueError, match="must read each other's outputs"):
        to_state_dict(nodes)


# ---- Errors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"clip": 3.0}, "no clip"),
        ({"activations": ["Softsign"]}, "must be functions of pyrnn.Cell.*, got Softsign$"),
        ({"activations": ["LeakyRelu"], "activation_alpha": [-0.5]}, "got LeakyRelu with alpha -0.5"),
        ({"activations": ["LeakyRelu"]}, "got LeakyRelu without alpha$"),
        ({"activations": ["Affine"]}, "got Affine without alpha and beta$"),
        (
            {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.5]},
            "got Affine with alpha 1 and beta 0.5$",
        ),
        ({"activations": ["ScaledTanh"], "activation_alpha": [1.0]}, "got ScaledTanh with alpha 1 without beta$"),
        ({"activations": ["tanh"]}, "activations must be functions of pyrnn.Cell, that is Tanh, .* got tanh$"),
        ({"activations": ["Tanh", "Tanh"]}, "must have 1 names"),
        ({"activations": "Tanh"}, "must have activations of type STRINGS, got STRING"),
        ({"direction": "sideways"}, "must have a direction of"),
        ({"direction": 3}, "must have direction of type STRING, got INT"),
        ({"direction": "bidirectional"}, r"W must have shape \(2, H, I\)"),
        ({"hidden_size": 4}, "hidden_size must be 3"),
        ({"hidden_size": -1}, "hidden_size must be 3"),
        ({"layout": 2}, "layout must be 0"),
        ({"colour": 1}, "got colour"),
    ],
)
def test_attributes_that_pyrnn_has_not(attributes, message):
    with pytest.raises(ValueError, match=message):
        from_onnx(one_node(weights(np.random.default_rng(0)), **attributes))


@pytest.mark.parametrize(
    ("name", "shape"), [("W", (3, 2)), ("R", (1, 3, 4)), ("R", (1, 9, 3)), ("B", (1, 3)), ("initial_h", (1, 2, 4))]
)
def test_shapes_of_weights(name, shape):
    a = weights(np.random.default_rng(0)) | {name: np.zeros(shape, np.float32)}
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        from_onnx(one_node(a))


def test_weights_from_the_run():
    model = one_node(weights(np.random.default_rng(0)))
    del model.graph.initializer[1]
    with pytest.raises(ValueError, match="constant weights, got R computed at run time"):
        from_onnx(model)
    del model.graph.node[0].input[1:]
    with pytest.raises(ValueError, match="must have an input W, got none"):
        from_onnx(model)


def quantized(between=(), domain="", zero=True):
    """A model whose R is quantized, with some nodes behind that; and R."""
    a = weights(np.random.default_rng(0))
    r8 = np.round(a.pop("R") * 32).astype(np.int8)
    arrays = a | {"r8": r8, "scale": np.float32(1 / 32), "zero": np.int8(0)}
    inputs = ["r8", "scale", "zero"] if zero else ["r8", "scale"]
    nodes = [node("DequantizeLinear", inputs, ["r"], domain=domain, name="d"), *between]
    nodes.append(node("RNN", ["X", "W", nodes[-1].output[0], "B"], ["Y", "Y_h"], hidden_size=3))
    return model_of(nodes, {"X": (np.float32, [None, None, 2])}, ["Y"], arrays)


def test_weights_behind_operators_that_are_not_read():
    """The first of them is named, whatever lies between it and the RNN."""
    between = [node("Transpose", ["r"], ["t"], perm=[0, 1, 2]), node("Mul", ["t", "scale"], ["m"], name="n")]
    for model, named in (
        (quantized(), "DequantizeLinear of node 'd'"),
        (quantized(between), "DequantizeLinear of node 'd'"),
        (quantized(domain="com.microsoft"), r"com\.microsoft\.DequantizeLinear of node 'd'"),
    ):
        with pytest.raises(ValueError, match=f"got R from the operator {named}, which pyrnn does not read"):
            from_onnx(model)
    arrays = weights(np.random.default_rng(0)) | {"two": np.float32(2)}
    nodes = [node("Mul", ["W", "two"], ["w"], name="n"), node("RNN", ["X", "w", "R"], ["Y", ""], hidden_size=3)]
    with pytest.raises(ValueError, match="got W from the operator Mul of node 'n'"):
        from_onnx(model_of(nodes, {"X": (np.float32, [None, None, 2])}, ["Y"], arrays))
    nodes[0].input[1] = "X"
    with pytest.raises(ValueError, match="got W computed at run time as 'w'"):
        from_onnx(model_of(nodes, {"X": (np.float32, [None, None, 2])}, ["Y"], arrays))


def random_step(rng, name, shape, opset, arrays):
    """A random node that reads `name`, of this shape; its output's name and arrays for it are made up."""
    out, rank = f"{name}.", len(shape)

    def ints(values):
        arrays[f"i{len(arrays)}"] = np.array(values, np.int64)
        return f"i{len(arrays) - 1}"

    axis = int(rng.integers(-rank, rank))
    kind = rng.choice(
        ["Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"]
    )
    newer = opset >= 13
    if kind == "Cast":
        to = rng.choice(
            [onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT32]
        )
        return node(kind, [name], [out], to=int(to))
    if kind == "Concat":
        return node(kind, [name] * int(rng.integers(1, 4)), [out], axis=axis)
    if kind == "Gather" and shape[axis]:
        n = shape[axis]
        return node(
            kind,
            [name, ints(rng.integers(-n, n, size=tuple(rng.integers(0, 3, size=rng.integers(3)))))],
            [out],
            axis=axis,
        )
    if kind == "Reshape":
        target = [[-1], [0, -1], [*shape[::-1]], [1, *shape]][rng.integers(4)]
        return node(kind, [name, ints(target)], [out])
    if kind == "Slice":
        bounds = [[int(v)] for v in rng.integers(-6, 7, size=2)]
        step = int(rng.choice([-2, -1, 1, 2]))
        if opset < 10:
            return node(kind, [name], [out], starts=bounds[0], ends=bounds[1], axes=[axis % rank])
        return node(kind, [name, *map(ints, [*bounds, [axis], [step]])], [out])
    if kind == "Split":
        n = shape[axis]
        first = int(rng.integers(0, n + 1))
        if newer:
            return node(kind, [name, ints([first, n - first])], [out, out + "b"], axis=axis)
        return node(kind, [name], [out, out + "b"], axis=axis, split=[first, n - first])
    if kind == "Squeeze":
        axes = [i for i, n in enumerate(shape) if n == 1][:1]
        if not axes or rng.integers(3) == 0:
            return node(kind, [name], [out])
        return node(kind, [name, ints(axes)], [out]) if newer else node(kind, [name], [out], axes=axes)
    if kind == "Transpose":
        return node(kind, [name], [out], **({"perm": rng.permutation(rank).tolist()} if rng.integers(2) else {}))
    if kind == "Unsqueeze":
        axes = [int(rng.integers(rank + 1))]
        return node(kind, [name, ints(axes)], [out]) if newer else node(kind, [name], [out], axes=axes)
    return node(kind, [name], [out])


@pytest.mark.parametrize("opset", [8, 11, 14, 18])
def test_computed_constants_against_the_reference_of_onnx(opset):
    """Chains of the operators that are read, with negative axes and indices, empty arrays, attributes of old opsets."""
    from onnx.reference import ReferenceEvaluator

    from pyrnn.bridges.onnx.constants import OPERATORS, Constants

    seen = {}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        arrays = {"a": rng.normal(size=tuple(rng.integers(1, 4, size=rng.integers(1, 4)))).astype(np.float32)}
        nodes, name = [], "a"
        value = arrays["a"]
        for _ in range(5):
            if value.ndim == 0 or value.ndim > 5:
                break
            step = random_step(rng, name, value.shape, opset, arrays)
            graph = model_of([*nodes, step], {}, list(step.output), arrays, opset)
            try:
                expected = ReferenceEvaluator(graph).run(None, {})
            except Exception:
                continue  # e.g. a Reshape to what does not fit
            nodes.append(step)
            constants = Constants(onnx, graph, None)
            for output, a in zip(step.output, expected, strict=True):
                got = constants.array(output)
                assert (got.dtype, got.shape) == (a.dtype, a.shape), step
                np.testing.assert_array_equal(got, a)
            name, value = step.output[0], expected[0]
            seen[step.op_type] = seen.get(step.op_type, 0) + 1
    assert seen.keys() == OPERATORS.keys() - {"Constant"}
    assert min(seen.values()) > 2


def hostile(case):
    """A small model whose W asks for much; what it would take, and a part of the error."""
    big, n, i64 = np.ones((1, 64, 64), np.float32), 10**6, np.int64
    arrays, nodes = {"a0": big}, []
    if case == "Concat, doubled":
        nodes = [node("Concat", [f"a{i}"] * 2, [f"a{i + 1}"], axis=0) for i in range(40)]
    elif case == "Concat of many":
        nodes = [node("Concat", ["a0"] * 10_000, ["a1"], axis=0)]
    elif case == "Gather":
        arrays["i"] = np.zeros(10_000, i64)
        nodes = [node("Gather", [f"a{i}", "i"], [f"a{i + 1}"], axis=0) for i in range(3)]
    elif case == "Gather of many dimensions":
        arrays["i"] = np.zeros((1,) * 30, i64)
        nodes = [node("Gather", [f"a{i}", "i"], [f"a{i + 1}"], axis=0) for i in range(3)]
    elif case == "Unsqueeze":
        arrays["axes"] = np.arange(n)
        nodes = [node("Unsqueeze", ["a0", "axes"], ["a1"])]
    elif case == "Unsqueeze, one by one":
        arrays["axes"] = np.zeros(1, i64)
        nodes = [node("Unsqueeze", [f"a{i}", "axes"], [f"a{i + 1}"]) for i in range(10_000)]
    elif case == "Squeeze":
        arrays["axes"] = np.zeros(n, i64)
        nodes = [node("Squeeze", ["a0", "axes"], ["a1"])]
    elif case == "Split":
        arrays["sizes"] = np.zeros(n, i64)
        nodes = [node("Split", ["a0", "sizes"], ["a1", "b"], axis=0)]
    elif case == "Slice":
        arrays["starts"] = np.zeros(n, i64)
        nodes = [node("Slice", ["a0", "starts", "starts"], ["a1"])]
    elif case == "Reshape":
        arrays["shape"] = np.ones(n, i64)
        nodes = [node("Reshape", ["a0", "shape"], ["a1"])]
    elif case == "Transpose":
        nodes = [node("Transpose", ["a0"], ["a1"], perm=[0] * n)]
    elif case == "Cast, again and again":
        nodes = [node("Cast", [f"a{i}"], [f"a{i + 1}"], to=onnx.TensorProto.DOUBLE) for i in range(10_000)]
    elif case == "Constant":
        nodes = [node("Constant", [], ["a1"], value_ints=[1] * n)]
    elif case == "dimensions":
        arrays["a0"] = np.ones((1,) * 40, np.float32)
    last = nodes[-1].output[0] if nodes else "a0"
    nodes.append(node("RNN", ["X", last, "R"], ["Y", ""]))
    return model_of(
        nodes, {"X": (np.float32, [None, None, 2])}, ["Y"], arrays | {"R": np.ones((1, 64, 64), np.float32)}
    )


HOSTILE = [
    *("Concat, doubled", "Concat of many", "Gather", "Gather of many dimensions", "Unsqueeze", "Unsqueeze, one by one"),
    *("Squeeze", "Split", "Slice", "Reshape", "Transpose", "Cast, again and again", "Constant", "dimensions"),
]


@pytest.mark.parametrize("case", HOSTILE)
def test_constants_take_what_the_model_holds(case, tmp_path):
    model = hostile(case)
    onnx.save(model, tmp_path / "m.onnx")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"m\.onnx: .*(readable constant|W must have shape|must have)") as caught:
            from_onnx(tmp_path / "m.onnx")
        assert tracemalloc.get_traced_memory()[1] < 2**26 + 20 * model.ByteSize()
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000


def test_nodes_that_share_weights_share_memory():
    """A file may have many RNN nodes on one array, stored in a way that must be converted."""
    tensor = onnx.numpy_helper.from_array(np.ones((1, 256, 256), np.float16), "W")
    nodes = [node("RNN", ["X", "T", "T"], [f"Y{i}", ""]) for i in range(500)]
    nodes.insert(0, node("Transpose", ["W"], ["T"], perm=[0, 2, 1]))
    model = model_of(nodes, {"X": (np.float16, [None, None, 256])}, ["Y0"], {})
    model.graph.initializer.append(tensor)
    tracemalloc.start()
    try:
        read = from_onnx(model)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert len(read) == 500
    assert read[0].W is read[499].W


def test_external_data_that_lies(tmp_path):
    """Offsets and lengths beyond the file, paths out of the folder, and no file at all."""
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir()
    model = one_node(weights(np.random.default_rng(0)))
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    (tmp_path / "other").write_bytes(bytes(2**10))
    for key, value in (
        *(("length", v) for v in (str(2**40), "-1", "x", "9" * 5000)),
        *(("offset", v) for v in (str(2**40), "-1", "1e3")),
        *(("location", v) for v in ("../other", str(tmp_path / "other"), "", ".", "absent", "weights\0")),
    ):
        damaged = onnx.load(path, load_external_data=False)
        for tensor in damaged.graph.initializer:
            (entry,) = (entry for entry in tensor.external_data if entry.key == key)
            entry.value = value
        onnx.save(damaged, path.with_name("damaged.onnx"))
        with pytest.raises(ValueError, match=r"damaged\.onnx: model must have a readable constant 'W'"):
            from_onnx(path.with_name("damaged.onnx"))


def test_graphs_without_an_rnn(tmp_path):
    model = model_of([node("Relu", ["X"], ["Y"])], {"X": (np.float32, [1])}, ["Y"], {})
    with pytest.raises(ValueError, match="must have an RNN node, got Relu"):
        from_onnx(model)
    inner = one_node(weights(np.random.default_rng(0))).graph
    inner.ClearField("input")
    model = model_of([node("If", ["c"], ["Y"], then_branch=inner, else_branch=inner)], {"c": (np.bool_, [])}, ["Y"], {})
    with pytest.raises(ValueError, match="in a subgraph"):
        from_onnx(model)
    with pytest.raises(ValueError, match="no nodes"):
        from_onnx(onnx.ModelProto())


def test_weights_in_another_file(tmp_path, monkeypatch):
    model = one_node(weights(np.random.default_rng(0)))
    content = model.SerializeToString()
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    model.ParseFromString(content)
    for ours, original in zip(from_onnx(tmp_path / "m.onnx"), from_onnx(model), strict=True):
        np.testing.assert_array_equal(ours.W, original.W)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"must have its data in it, got 'W' in another file: use onnx\.load"):
        from_onnx(onnx.load("m.onnx", load_external_data=False))
    (tmp_path / "weights").unlink()
    with pytest.raises((OSError, ValueError)):
        from_onnx(tmp_path / "m.onnx")


def test_sparse_weights():
    model = one_node(weights(np.random.default_rng(0)))
    model.graph.sparse_initializer.add()
    with pytest.raises(ValueError, match="sparse"):
        from_onnx(model)


def test_files(tmp_path):
    model = one_node(weights(np.random.default_rng(0)))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert from_onnx(str(path))[0].hidden_size == from_onnx(path)[0].hidden_size == 3
    content = path.read_bytes()
    for size in (1, 10, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"model\.onnx: "):
            from_onnx(path)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "absent.onnx")
    for wrong in (None, 3, b"model.onnx", {}):
        with pytest.raises(TypeError, match="model must be"):
            from_onnx(wrong)


def test_damaged_constants():
    model = one_node(weights(np.random.default_rng(0)))
    model.graph.initializer[0].raw_data = b"123"
    with pytest.raises(ValueError, match="readable constant 'W'"):
        from_onnx(model)
    model.graph.initializer[0].dims[:] = [1, 2**40, 2**40]
    with pytest.raises(ValueError, match="readable constant 'W'"):
        from_onnx(model)


def test_flipped_bits(tmp_path):
    """Anything may stand in a file, text that is no UTF-8 too: an error of ours, or a network."""
    rng, path = np.random.default_rng(0), tmp_path / "model.onnx"
    state_dict = random_state_dict(rng, 2, True, True, 2, 3)
    content = to_onnx(state_dict, layout=1, initial_h=True, sequence_lens=True).SerializeToString()
    errors = 0
    for _ in range(1500):
        damaged = bytearray(content)
        for at in rng.integers(len(content), size=rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            to_state_dict(from_onnx(path))
        except ValueError:
            errors += 1
    assert 300 < errors < 1500


def test_a_graph_in_a_circle():
    """No valid model; it must end."""
    a = weights(np.random.default_rng(0))
    del a["B"]
    nodes = [
        node("Identity", ["p"], ["q"]),
        node("Identity", ["q"], ["p"]),
        node("RNN", ["p", "W", "R", "", "", "q"], ["Y", ""], hidden_size=3),
    ]
    with pytest.raises(ValueError, match="nodes in order, got 'p' before it is made"):
        from_onnx(model_of(nodes, {}, ["Y"], a))


def good_node(**changes):
    return OnnxRNN(**(weights(np.random.default_rng(0)) | changes))


X = np.zeros((4, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "node must be an OnnxRNN", lambda: run_onnx_rnn({}, X)),
        (ValueError, "x must have shape", lambda: run_onnx_rnn(good_node(), X[0])),
        (ValueError, "x must have shape", lambda: run_onnx_rnn(good_node(), X[..., :1])),
        (TypeError, "x must be real", lambda: run_onnx_rnn(good_node(), X + 0j)),
        (TypeError, "sequence_lens must be integers", lambda: run_onnx_rnn(good_node(), X, [1.0, 2.0])),
        (ValueError, "sequence_lens must have shape", lambda: run_onnx_rnn(good_node(), X, [1])),
        (ValueError, "sequence_lens must be from 0 to 4, got -1 to 2", lambda: run_onnx_rnn(good_node(), X, [-1, 2])),
        (ValueError, "sequence_lens must be from 0 to 4, got 2 to 5", lambda: run_onnx_rnn(good_node(), X, [5, 2])),
        (ValueError, "initial_h must have shape", lambda: run_onnx_rnn(good_node(), X, None, np.zeros((2, 1, 3)))),
        (
            ValueError,
            "initial_h must be given, as the model reads it from 'h0'",
            lambda: run_onnx_rnn(good_node(inputs={"initial_h": "h0"}), X),
        ),
        (ValueError, "direction must be one of", lambda: good_node(direction="up")),
        (ValueError, "layout must be", lambda: good_node(layout=True)),
        (ValueError, "nonlinearities must be a tuple of 1", lambda: good_node(nonlinearities="tanh")),
        (ValueError, "nonlinearity must be one of", lambda: good_node(nonlinearities=("sin",))),
        (TypeError, "sequence_lens must be integers", lambda: good_node(sequence_lens=[1.5])),
        (ValueError, "initial_h must have shape", lambda: good_node(initial_h=np.zeros(3))),
        (TypeError, "W must be", lambda: good_node(W=None)),
    ],
)
def test_errors_of_a_node(error, message, call):
    with pytest.raises(error, match=message):
        call()


STATE_DICT = random_state_dict(np.random.default_rng(0), 1, False, True, 2, 3)
TWO_WAYS = random_state_dict(np.random.default_rng(0), 1, True, True, 2, 3)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "state_dict must be a mapping", lambda: to_onnx([1])),
        (ValueError, "nonlinearity must be one of", lambda: to_onnx(STATE_DICT, nonlinearity="sin")),
        (ValueError, "nonlinearity must be one of", lambda: to_onnx(describe(STATE_DICT), nonlinearity="sin")),
        (ValueError, "nonlinearity must be one of", lambda: to_onnx(describe(STATE_DICT), nonlinearity="")),
        (ValueError, "layout must be", lambda: to_onnx(STATE_DICT, layout=2)),
        (TypeError, "reverse must be True or False", lambda: to_onnx(STATE_DICT, reverse=1)),
        (TypeError, "initial_h must be True or False", lambda: to_onnx(STATE_DICT, initial_h=np.zeros(3))),
        (TypeError, "sequence_lens must be True or False", lambda: to_onnx(STATE_DICT, sequence_lens=[1])),
        (ValueError, "reverse must be False for a network of two directions", lambda: to_onnx(TWO_WAYS, reverse=True)),
        (TypeError, "dtype must be float32 or float64", lambda: to_onnx(STATE_DICT, dtype=np.float16)),
    ],
)
def test_errors_of_the_export(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("error", "message", "nodes"),
    [
        (TypeError, "nodes must be a sequence", []),
        (TypeError, "nodes must be a sequence", None),
        (TypeError, "nodes must be a sequence", [3]),
        (ValueError, "forward or both ways", [good_node(direction="reverse")]),
        (ValueError, "must not fix lengths", [good_node(sequence_lens=[1])]),
        (ValueError, "must not fix lengths", [good_node(initial_h=np.ones((1, 1, 3)))]),
        (ValueError, "same sequence_lens", [good_node(), good_node(inputs={"sequence_lens": "n"})]),
        (ValueError, "weight_ih_l1 must have shape", [good_node(), good_node()]),
        (ValueError, "one nonlinearity", [good_node(), good_node(nonlinearities=("relu",))]),
    ],
)
def test_errors_of_to_state_dict(error, message, nodes):
    with pytest.raises(error, match=message):
        to_state_dict(nodes)


def test_biases_that_some_layers_lack():
    rng = np.random.default_rng(0)
    first, second = OnnxRNN(**weights(rng, bias=False)), OnnxRNN(**weights(rng, I=3))
    network = to_state_dict([first, second])
    assert not network.state_dict["bias_ih_l0"].any()
    np.testing.assert_array_equal(network.state_dict["bias_hh_l1"], second.B[0, 3:])


def test_import_without_onnx():
    script = (
        "import sys; sys.modules['onnx'] = None; import numpy as np, pyrnn.bridges.onnx as p\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "p.run_onnx_rnn(p.OnnxRNN(W=np.ones((1, 1, 1)), R=np.ones((1, 1, 1))), np.ones((1, 1, 1)))\n"
        "for f, a in ((p.from_onnx, 'x'), (p.to_onnx, {})):\n"
        "    try: f(a)\n"
        "    except ImportError as error: assert 'pyrnn-bptt[onnx]' in str(error)\n"
        "    else: raise SystemExit(1)\n"
    )
    process = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=3600)
    assert process.returncode == 0, process.stderr


def test_a_description_keeps_its_nonlinearity():
    model = to_onnx(describe(STATE_DICT, nonlinearity="relu"))
    assert from_onnx(model)[0].nonlinearities == ("relu",)
    assert to_state_dict(from_onnx(model)).nonlinearity == "relu"
    assert from_onnx(to_onnx(describe(STATE_DICT, nonlinearity="relu"), nonlinearity="tanh"))[0].nonlinearities == (
        "tanh",
    )
