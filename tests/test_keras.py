"""SimpleRNN weights, files and masks, against Keras where it is installed, and against damaged files."""

import dataclasses
import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import pyrnn
from pyrnn import _keras_files
from pyrnn.keras import KerasRNN, from_keras, load_keras, run_keras_rnn, to_keras, to_state_dict
from pyrnn.state_dict import describe

TOLERANCE = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's on PyTorch


@pytest.fixture(scope="module")
def keras():
    """Keras, on PyTorch if that is there: it does with masks what TensorFlow does, JAX and NumPy do not."""
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch" if importlib.util.find_spec("torch") else "numpy")
    return pytest.importorskip("keras")


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py")


def arrays(rng, I=3, H=4, bias=True, dtype=np.float32):
    draw = lambda *shape: rng.uniform(-0.7, 0.7, shape).astype(dtype)
    return [draw(I, H), draw(H, H)] + ([draw(H)] if bias else [])


def drawn(layer, rng):
    """Give a built layer random weights, biases too, and return it."""
    layer.set_weights([rng.uniform(-0.7, 0.7, a.shape).astype(np.float32) for a in layer.get_weights()])
    return layer


def as_list(value, keras):
    value = value if isinstance(value, list | tuple) else [value]
    return [np.asarray(keras.ops.convert_to_numpy(a)) for a in value]


# ---- Against Keras --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(80))
def test_layer_against_keras(keras, seed):
    """activation x bias x go_backwards x mask with holes x initial state x directions, both kinds of output."""
    rng = np.random.default_rng(seed)
    T, B, I, H = (int(n) for n in rng.integers(1, 9, 4))
    both = seed % 4 == 3
    options = {
        "activation": ["tanh", "relu", "linear", None][rng.integers(4)],
        "use_bias": bool(rng.integers(2)),
        "go_backwards": not both and bool(rng.integers(2)),
        "zero_output_for_mask": bool(rng.integers(2)),
    }
    mode = ["concat", "sum", "mul", "ave", None][rng.integers(5)]
    x = rng.normal(size=(B, T, I)).astype(np.float32)
    mask = rng.random((B, T)) < 0.6 if seed % 3 else None
    start = rng.normal(size=(2, B, H)).astype(np.float32) if rng.integers(2) else None
    if keras.backend.backend() not in ("torch", "tensorflow") and mask is not None:
        start = None  # before the first step that exists, these two show the initial state
    for sequences in (True, False):
        layer = keras.layers.SimpleRNN(H, return_sequences=sequences, return_state=True, **options)
        if both:
            layer = keras.layers.Bidirectional(layer, merge_mode=mode)
        layer.build((B, T, I))
        drawn(layer, np.random.default_rng(seed))
        state = None if start is None else (list(start) if both else start[0])
        given = None if start is None else (list(start) if both else [start[0]])
        expected = as_list(layer(x, mask=mask, initial_state=given), keras)
        ours = from_keras(
            layer.get_weights(),
            activation=options["activation"],
            go_backwards=options["go_backwards"],
            zero_output_for_mask=sequences if both else options["zero_output_for_mask"],
            merge_mode=mode,
        )
        result = run_keras_rnn(ours, x, mask=mask, initial_state=state)
        out = result.outputs if sequences else result.last_output
        actual = [*(out if isinstance(out, tuple) else [out]), *result.states]
        for a, e in zip(actual, expected, strict=True):
            assert (a.dtype, a.shape) == (e.dtype, e.shape)
            np.testing.assert_allclose(a, e, rtol=TOLERANCE, atol=TOLERANCE)


def test_masks_with_holes_by_hand():
    """h_t = x_t + h_{t-1} / 2 of ones, in every order of holes; the numbers of Keras on TensorFlow and PyTorch."""
    layer = from_keras([np.ones((1, 1)), 0.5 * np.eye(1)], activation=None)
    x, mask = np.ones((1, 4, 1)), np.array([[False, True, False, True]])
    run = lambda layer, **options: run_keras_rnn(layer, x, mask=mask, **options)
    assert run(layer).outputs.ravel().tolist() == [0, 1, 1, 1.5]
    assert run(layer, initial_state=[[7.0]]).outputs.ravel().tolist() == [0, 4.5, 4.5, 3.25]
    zero = from_keras([np.ones((1, 1)), 0.5 * np.eye(1)], activation=None, zero_output_for_mask=True)
    assert run(zero, initial_state=[[7.0]]).outputs.ravel().tolist() == [0, 4.5, 0, 3.25]
    back = from_keras([np.ones((1, 1)), 0.5 * np.eye(1)], activation=None, go_backwards=True)
    assert run(back).outputs.ravel().tolist() == [1, 1, 1.5, 1.5]
    nothing = run_keras_rnn(layer, x, mask=~np.ones((1, 4), bool), initial_state=[[7.0]])
    assert (nothing.last_output.item(), nothing.states[0].item()) == (0, 7)


def test_masked_input_is_never_read():
    layer, x = from_keras(arrays(np.random.default_rng(0))), np.ones((2, 5, 3), np.float32)
    mask = np.array([[True, False, True, True, False], [False, True, True, False, True]])
    expected = run_keras_rnn(layer, x, mask=mask)
    x[~mask] = np.nan
    np.testing.assert_array_equal(run_keras_rnn(layer, x, mask=mask).outputs, expected.outputs)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_there_and_back(keras, both, bias):
    """PyTorch's names to Keras's arrays, set in layers, and to PyTorch's names again."""
    rng, ends = np.random.default_rng(0), ["", "_reverse"] if both else [""]
    state_dict = {}
    for n in range(2):
        for end in ends:
            kernel, recurrent, b = arrays(rng, 3 if n == 0 else 4 * len(ends))
            state_dict |= {f"weight_ih_l{n}{end}": kernel.T, f"weight_hh_l{n}{end}": recurrent}
            if bias:
                state_dict |= {f"bias_ih_l{n}{end}": b, f"bias_hh_l{n}{end}": 2 * b}
    layers = [keras.layers.SimpleRNN(4, return_sequences=True, use_bias=bias) for _ in range(2)]
    layers = [keras.layers.Bidirectional(layer) for layer in layers] if both else layers
    model = keras.Sequential([keras.Input((None, 3)), *layers])
    for layer, weights in zip(layers, to_keras({"rnn." + name: a for name, a in state_dict.items()}), strict=True):
        layer.set_weights(weights)
    x = rng.normal(size=(2, 5, 3)).astype(np.float32)
    h = x.swapaxes(0, 1)
    network = describe(state_dict)
    for n in range(2):
        ways = [pyrnn.forward(h, *network.layer(n, reverse=back), reverse=back) for back in (False, True)[: 1 + both]]
        h = np.concatenate(ways, axis=-1)
    np.testing.assert_allclose(as_list(model(x), keras)[0], h.swapaxes(0, 1), rtol=0, atol=TOLERANCE)

    again = to_state_dict([from_keras(layer.get_weights()) for layer in layers])
    assert again.config == network.config
    for n in range(2):
        for back in (False, True)[: 1 + both]:
            for a, e in zip(again.layer(n, reverse=back), network.layer(n, reverse=back), strict=True):
                np.testing.assert_array_equal(a, e) if e is not None else None


def test_weights_are_views_of_float64():
    kernel, recurrent, bias = arrays(np.random.default_rng(0), dtype=np.float64)
    layer = from_keras((kernel, recurrent, bias))
    U, W, b = layer.weights()
    assert np.shares_memory(U, kernel)
    assert np.shares_memory(W, recurrent)
    x = np.random.default_rng(1).normal(size=(2, 5, 3))
    expected = pyrnn.forward(x.swapaxes(0, 1), kernel.T, recurrent.T, b).swapaxes(0, 1)
    np.testing.assert_array_equal(run_keras_rnn(layer, x).outputs, expected)
    assert (layer.input_size, layer.hidden_size) == (3, 4)


@pytest.mark.parametrize(("B", "T"), [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("both", [False, True])
def test_nothing(B, T, both):
    rng = np.random.default_rng(0)
    layer = from_keras(arrays(rng) + arrays(rng) if both else arrays(rng))
    result = run_keras_rnn(layer, np.zeros((B, T, 3), np.float32), mask=np.zeros((B, T), bool))
    width = 8 if both else 4
    assert (result.outputs.shape, result.last_output.shape) == ((B, T, width), (B, width))
    assert [a.shape for a in result.states] == [(B, 4)] * (1 + both)


# ---- Files ----------------------------------------------------------------------------------------------------------
def models(keras):
    """A model of everything that is read and of what is left out, and one within another."""
    layers = keras.layers
    plain = keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.Masking(),
            layers.SimpleRNN(4, return_sequences=True, name="zeta"),
            layers.LSTM(4, return_sequences=True),
            layers.Bidirectional(layers.GRU(2, return_sequences=True)),
            layers.Bidirectional(layers.SimpleRNN(5, activation="relu", return_sequences=True), merge_mode="sum"),
            layers.RNN(layers.GRUCell(3), return_sequences=True),
            layers.RNN(layers.SimpleRNNCell(2, use_bias=False), go_backwards=True, return_sequences=True),
            layers.SimpleRNN(3, activation=None, zero_output_for_mask=True, name="alpha"),
            layers.Dense(1),
        ]
    )
    x = keras.Input((None, 3))
    below = layers.SimpleRNN(4, return_sequences=True, name="b1")(x)
    inner = keras.Model(x, layers.SimpleRNN(4, name="a1")(below), name="inner")
    y = keras.Input((None, 3))
    first = layers.SimpleRNN(3, return_sequences=True, name="a1")(y)
    outer = keras.Model(y, layers.Dense(2)(inner(first)))
    many = keras.Sequential(
        [keras.Input((None, 2)), *(layers.SimpleRNN(2, return_sequences=True, name=f"n{i}") for i in range(12))]
    )
    return [plain, outer, many]


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_files_of_keras(keras, h5py, tmp_path, number, suffix):
    model = models(keras)[number]
    drawn(model, np.random.default_rng(0))
    path = tmp_path / f"model{suffix}"
    (model.save if suffix == ".keras" else model.save_weights)(path)
    layers = load_keras(path)
    flat = {}
    for layer in model.layers:
        inner = layer.layers if isinstance(layer, keras.Model) else []
        flat |= {f"{layer.name}/{one.name}": one for one in inner} | {layer.name: layer}
    rnns = {
        name: layer
        for name, layer in flat.items()
        if isinstance(getattr(layer, "forward_layer", layer), keras.layers.RNN)
        and isinstance(getattr(layer, "forward_layer", layer).cell, keras.layers.SimpleRNNCell)
    }
    if suffix == ".keras":
        assert list(layers) == list(rnns)
    else:
        names = [name.rpartition("/")[2] for name in rnns]
        assert len(layers) == len(names)
        if number == 1:  # of two layers of one name, one has its place for a name
            assert {"b1", "a1"} < set(layers)
            return
        assert set(layers) == set(names)
        assert number != 2 or list(layers) == [f"n{i}" for i in range(12)]
    for name, layer in rnns.items():
        ours = layers[name]
        pairs = [(ours, getattr(layer, "forward_layer", layer))]
        pairs += [(ours.backward, layer.backward_layer)] if ours.backward is not None else []
        for mine, theirs in pairs:
            got = [mine.kernel, mine.recurrent_kernel] + ([] if mine.bias is None else [mine.bias])
            for a, e in zip(got, theirs.get_weights(), strict=True):
                np.testing.assert_array_equal(a, e)
            if suffix == ".keras":
                assert mine.go_backwards == theirs.go_backwards
                assert mine.zero_output_for_mask == theirs.zero_output_for_mask
                assert mine.return_sequences == theirs.return_sequences
                activation = theirs.cell.activation.__name__
                assert mine.nonlinearity == ("identity" if activation == "linear" else activation)
        assert suffix != ".keras" or ours.merge_mode == getattr(layer, "merge_mode", "concat")


def test_a_network_of_a_file_runs_as_in_keras(keras, h5py, tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.Masking(mask_value=9.0),
            layers.Bidirectional(layers.SimpleRNN(4, return_sequences=True)),
            layers.SimpleRNN(5),
        ]
    )
    drawn(model, np.random.default_rng(0)).save(tmp_path / "m.keras")
    x = np.random.default_rng(1).normal(size=(4, 6, 3)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 1, 1], [0, 0, 1, 1, 1, 0], [1] * 6], bool)
    x[~mask] = 9
    result = x
    for layer in load_keras(tmp_path / "m.keras").values():
        result = run_keras_rnn(layer, result if result is x else result.outputs, mask=mask)
    np.testing.assert_allclose(result.last_output, as_list(model(x), keras)[0], rtol=0, atol=TOLERANCE)


def test_bfloat16(h5py, tmp_path):
    """Keras stores it as two bytes without a meaning, and says what they are beside them."""
    expected = np.array([[1.5, -2.0], [0.0, np.inf]], np.float32)
    halves = (expected.view(np.uint32) >> 16).astype("<u2").view("V2")
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for i in range(2):
            file[f"layers/simple_rnn/cell/vars/{i}"] = halves
            file[f"layers/simple_rnn/cell/vars/{i}"].attrs["dtype"] = "bfloat16"
    (layer,) = load_keras(tmp_path / "m.weights.h5").values()
    assert layer.kernel.dtype == np.float32
    np.testing.assert_array_equal(layer.recurrent_kernel, expected)


@pytest.mark.filterwarnings("ignore")
def test_older_layout(keras, h5py, tmp_path):
    plain, outer, many = models(keras)
    for model in (plain, many):
        drawn(model, np.random.default_rng(0)).save(tmp_path / "m.h5")
        model.save(tmp_path / "m.keras")
        older, newer = load_keras(tmp_path / "m.h5"), load_keras(tmp_path / "m.keras")
        assert list(older) == list(newer)
        for a, b in zip(older.values(), newer.values(), strict=True):
            for one, other in ((a, b), (a.backward, b.backward)):
                if one is None:
                    assert other is None
                    continue
                for field in dataclasses.fields(one):
                    if field.name != "backward":
                        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    outer.save(tmp_path / "m.h5")
    with pytest.raises(ValueError, match="a model within a model"):
        load_keras(tmp_path / "m.h5")


def older_file(h5py, path, config, weights, names=("a/kernel:0", "a/recurrent_kernel:0", "a/bias:0")):
    """As Keras 2 writes it: names as bytes, no module in the configuration."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = config if isinstance(config, bytes | str) else json.dumps(config)
        group = file.create_group("model_weights/r")
        group.attrs["weight_names"] = [name.encode() for name in names]
        for name, a in zip(names, weights, strict=False):
            group[name] = a
    return path


def older_config(*layers):
    return {"class_name": "Sequential", "config": {"name": "m", "layers": list(layers)}}


def test_older_layout_without_keras(h5py, tmp_path):
    weights, path = arrays(np.random.default_rng(0)), tmp_path / "m.h5"
    layer = {"class_name": "SimpleRNN", "config": {"name": "r", "units": 4, "activation": "relu", "use_bias": True}}
    older_file(h5py, path, older_config({"class_name": "Dense"}, layer), weights)
    read = load_keras(path)["r"]
    assert (read.nonlinearity, read.return_sequences) == ("relu", False)
    for a, e in zip((read.kernel, read.recurrent_kernel, read.bias), weights, strict=True):
        np.testing.assert_array_equal(a, e)
    with pytest.raises(ValueError, match="activation must be None for a whole model"):
        load_keras(path, activation="tanh")
    older_file(h5py, path, older_config(layer), weights, ("a", "b"))
    with pytest.raises(ValueError, match="r must have 3 arrays for each direction, got a, b"):
        load_keras(path)
    older_file(h5py, path, older_config(layer), weights[:1])
    with pytest.raises(ValueError, match="must be an array, got NoneType"):
        load_keras(path)
    older_file(h5py, path, older_config(layer | {"class_name": "mine>SimpleRNN"}), weights)
    with pytest.raises(ValueError, match="must have a SimpleRNN layer, got none"):
        load_keras(path)
    for config, message in (("{", "JSON"), ("[]", "config of type dict"), (older_config(3), "got none")):
        with pytest.raises(ValueError, match=message):
            load_keras(older_file(h5py, path, config, weights))
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"r"]
    with pytest.raises(ValueError, match="must come with their model"):
        load_keras(path)


def weights_file(h5py, path, weights, group="layers/simple_rnn/cell/vars"):
    with h5py.File(path, "w") as file:
        file.require_group(group)
        for i, a in enumerate(weights):
            file[f"{group}/{i}"] = a
    return path


def config_of(*layers):
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "m", "layers": list(layers)}}


def simple_rnn(**changes):
    config = {"name": "r", "units": 4, "activation": "tanh", "use_bias": True, "return_sequences": True} | changes
    return {"module": "keras.layers", "class_name": "SimpleRNN", "config": config}


def archive(h5py, path, config, weights, members=("config.json", "model.weights.h5"), name="r"):
    data = io.BytesIO()
    weights_file(h5py, data, weights)
    with h5py.File(data, "r+") as file:
        file.create_group("layers/simple_rnn/vars").attrs["name"] = name
    contents = [config if isinstance(config, bytes) else json.dumps(config).encode(), data.getvalue()]
    with zipfile.ZipFile(path, "w") as file:
        for name, content in zip(members, contents, strict=True):
            file.writestr(name, content)
    return path


def test_files_without_keras(h5py, tmp_path):
    """As Keras writes them, also where Keras is not installed."""
    weights = arrays(np.random.default_rng(0))
    path = archive(h5py, tmp_path / "m.keras", config_of(simple_rnn(activation="relu")), weights)
    layer = load_keras(str(path))["r"]
    assert (layer.nonlinearity, layer.name, layer.return_sequences) == ("relu", "r", True)
    for a, e in zip((layer.kernel, layer.recurrent_kernel, layer.bias), weights, strict=True):
        np.testing.assert_array_equal(a, e)
    path = weights_file(h5py, tmp_path / "m.weights.h5", weights)
    assert load_keras(path)["layers/simple_rnn"].nonlinearity == "tanh"
    assert load_keras(path, activation="linear")["layers/simple_rnn"].nonlinearity == "identity"
    path = archive(h5py, tmp_path / "m.keras", config_of(simple_rnn()), weights, name="other")
    with pytest.raises(ValueError, match="layers/simple_rnn must have the weights of 'r', got those of 'other'"):
        load_keras(path)
    custom = simple_rnn(name="mine") | {"module": "mine", "registered_name": "mine>SimpleRNN"}
    path = archive(h5py, tmp_path / "m.keras", config_of(custom), weights)
    with pytest.raises(ValueError, match="must have a SimpleRNN layer, got none"):
        load_keras(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"{", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        (b"[" * 200_000, "must be JSON"),
        ([], "must be of a Sequential or functional model"),
        ({"module": "mine", "class_name": "Sequential"}, "must be of a Sequential or functional model"),
        ({"module": "keras", "class_name": "Sequential"}, "must have config of type dict"),
        ({"module": "keras", "class_name": "Sequential", "config": {"layers": 3}}, "must have layers of type list"),
        (config_of(3), "must have layers with a class_name"),
        (config_of(simple_rnn(activation="gelu")), "r: activation must be one of .* got 'gelu'"),
        (config_of(simple_rnn(activation={"class_name": "f"})), "r: activation must be one of"),
        (config_of(simple_rnn(activation=[])), "r: activation must be one of"),
        (config_of(simple_rnn(units=5)), "r: kernel must have 5 columns"),
        (config_of(simple_rnn(use_bias=False)), "must have 2 arrays, got 3 of them"),
        (config_of(simple_rnn(name=3)), "must have name of type str"),
        (config_of(simple_rnn(go_backwards="yes")), "go_backwards must be True or False"),
        (config_of(simple_rnn(), simple_rnn(name="s")), "simple_rnn_1/cell/vars must have 3 arrays, got nothing"),
        (config_of({"class_name": "Dense"}), "must have a SimpleRNN layer, got none"),
    ],
)
def test_hostile_configurations(h5py, tmp_path, config, message):
    path = archive(h5py, tmp_path / "m.keras", config, arrays(np.random.default_rng(0)))
    with pytest.raises(ValueError, match=message) as error:
        load_keras(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "got 0 of them"),
        ([np.ones((3, 4)), np.ones((4, 3)), np.ones(4)], r"recurrent_kernel must have shape \(4, 4\)"),
        ([np.ones((3, 4)), np.eye(4), np.ones(3)], r"bias must have shape \(4,\)"),
        ([np.ones(4), np.eye(4), np.ones(4)], "kernel must have 4 columns"),
        ([np.ones((3, 4), complex), np.eye(4), np.ones(4)], "kernel must be real"),
        ([np.ones((3, 4), "S3"), np.eye(4), np.ones(4)], "kernel must be real"),
    ],
)
def test_hostile_weights(h5py, tmp_path, weights, message):
    path = archive(h5py, tmp_path / "m.keras", config_of(simple_rnn()), weights)
    with pytest.raises(ValueError, match=message):
        load_keras(path)


def test_links_and_other_files(h5py, tmp_path):
    weights = arrays(np.random.default_rng(0))
    other = weights_file(h5py, tmp_path / "other.h5", weights)
    path = tmp_path / "m.weights.h5"
    for link in (h5py.SoftLink("/x"), h5py.ExternalLink(str(other), "/layers")):
        with h5py.File(path, "w") as file:
            file["layers"] = link
            file["x"] = 1
        with pytest.raises(ValueError, match="must not be a link"):
            load_keras(path)
    (tmp_path / "secret").write_bytes(b"\0" * 48)
    for external in (True, False):
        weights_file(h5py, path, weights[1:])
        with h5py.File(path, "r+") as file:
            at = file["layers/simple_rnn/cell/vars"]
            at.move("1", "2")
            at.move("0", "1")
            if external:
                at.create_dataset("0", (3, 4), np.float32, external=[(str(tmp_path / "secret"), 0, 48)])
            else:
                layout = h5py.VirtualLayout((3, 4), np.float32)
                layout[:] = h5py.VirtualSource(str(other), "/layers/simple_rnn/cell/vars/0", shape=(3, 4))
                at.create_virtual_dataset("0", layout)
        with pytest.raises(ValueError, match="must lie in the file itself"):
            load_keras(path)


def test_circles_and_bombs(h5py, tmp_path):
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/a/b"] = 1
        file["layers/a/up"] = file["layers"]
        file["layers/a/same"] = file["layers/a"]
    with pytest.raises(ValueError, match="must have a SimpleRNN layer, got none"):
        load_keras(path)
    with h5py.File(path, "w") as file:
        at = file.create_group("layers/simple_rnn/cell/vars")
        at.create_dataset("0", (2**20, 2**20), np.float32, chunks=(1024, 1024))  # nothing of it is stored
        at.create_dataset("1", data=np.eye(4))
    with pytest.raises(ValueError, match=f"must not unpack to {2**42} bytes"):
        load_keras(path)


def test_bombs_in_archives(h5py, tmp_path, monkeypatch):
    path = archive(h5py, tmp_path / "m.keras", config_of(simple_rnn()), arrays(np.random.default_rng(0)))
    monkeypatch.setattr(_keras_files, "_LARGE", 1000)
    assert load_keras(path)["r"].hidden_size == 4
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", " " * 100_000)
    with pytest.raises(ValueError, match=r"config\.json must not unpack to 100000 bytes"):
        load_keras(path)


def test_archives(h5py, tmp_path):
    weights, path = arrays(np.random.default_rng(0)), tmp_path / "m.keras"
    archive(h5py, path, config_of(simple_rnn()), weights, ("config.json", "other.h5"))
    with pytest.raises(
        ValueError, match=r"must have config.json and model.weights.h5, got \['config.json', 'other.h5'\]"
    ):
        load_keras(path)
    archive(h5py, path, config_of(simple_rnn()), weights)
    with pytest.raises(ValueError, match=r"activation must be None for a \.keras file"):
        load_keras(path, activation="relu")
    content = path.read_bytes()
    for at in range(0, len(content), 97):  # bytes that are wrong, anywhere: an error of ours or the right numbers
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        try:
            layer = load_keras(path)["r"]
        except ValueError:
            continue
        except KeyError:  # another name
            continue
        assert layer.kernel.shape == (3, 4)
    for size in range(0, len(content), 211):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="must be a whole"):
            load_keras(path)


def test_damaged_weights(h5py, tmp_path):
    path = weights_file(h5py, tmp_path / "m.weights.h5", arrays(np.random.default_rng(0)))
    content = path.read_bytes()
    for size in range(0, len(content) - 1, 211):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="must be a whole"):
            load_keras(path)
    for at in range(0, len(content), 53):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        try:
            layers = load_keras(path)
        except ValueError:
            continue
        assert all(isinstance(layer, KerasRNN) for layer in layers.values())


def test_paths(h5py, tmp_path):
    with pytest.raises(FileNotFoundError):
        load_keras(tmp_path / "absent.keras")
    with pytest.raises(TypeError):
        load_keras(None)
    with pytest.raises(ValueError, match="must be a whole"):
        load_keras(tmp_path)
    with pytest.raises(ValueError, match="activation must be one of"):
        load_keras(tmp_path / "absent.keras", activation="gelu")


# ---- Errors ---------------------------------------------------------------------------------------------------------
GOOD = arrays(np.random.default_rng(0))
X = np.zeros((2, 5, 3), np.float32)
ONE, TWO = from_keras(GOOD), from_keras(GOOD + GOOD)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "weights must be a list", lambda: from_keras(np.ones((3, 4)))),
        (ValueError, "weights must have 2 or 3 arrays", lambda: from_keras(GOOD[:1])),
        (ValueError, "weights must have 2 or 3 arrays", lambda: from_keras([*GOOD, *GOOD[:2]])),
        (ValueError, "activation must be one of", lambda: from_keras(GOOD, activation="sigmoid")),
        (ValueError, "activation must be one of", lambda: from_keras(GOOD, activation=np.tanh)),
        (TypeError, "go_backwards must be True or False", lambda: from_keras(GOOD, go_backwards=1)),
        (TypeError, "zero_output_for_mask must be", lambda: from_keras(GOOD, zero_output_for_mask="no")),
        (ValueError, "merge_mode must be one of", lambda: from_keras(GOOD + GOOD, merge_mode="add")),
        (ValueError, r"kernel must have shape \(I, H\)", lambda: from_keras([np.ones(3), *GOOD[1:]])),
        (ValueError, "recurrent_kernel must have shape", lambda: from_keras([GOOD[0], np.ones((4, 12))])),
        (TypeError, "bias must be real", lambda: from_keras([*GOOD[:2], np.ones(4, complex)])),
        (ValueError, "nonlinearity must be one of", lambda: KerasRNN(*GOOD, nonlinearity="linear")),
        (TypeError, "backward must be a KerasRNN", lambda: KerasRNN(*GOOD, backward=GOOD)),
        (ValueError, "backward must have go_backwards True", lambda: KerasRNN(*GOOD, backward=ONE)),
        (
            ValueError,
            "backward.kernel must have shape",
            lambda: KerasRNN(*GOOD, backward=KerasRNN(*arrays(np.random.default_rng(0), 2), go_backwards=True)),
        ),
        (TypeError, "layer must be a KerasRNN", lambda: run_keras_rnn(GOOD, X)),
        (ValueError, r"x must have shape \(B, T, 3\)", lambda: run_keras_rnn(ONE, X[0])),
        (ValueError, r"x must have shape \(B, T, 3\)", lambda: run_keras_rnn(ONE, X[..., :2])),
        (TypeError, "x must be real", lambda: run_keras_rnn(ONE, X + 0j)),
        (TypeError, "mask must be booleans", lambda: run_keras_rnn(ONE, X, mask=np.ones((2, 5)))),
        (ValueError, r"mask must have shape \(2, 5\)", lambda: run_keras_rnn(ONE, X, mask=np.ones((5, 2), bool))),
        (ValueError, "initial_state must have shape", lambda: run_keras_rnn(ONE, X, initial_state=np.ones(4))),
        (TypeError, "initial_state must be a pair", lambda: run_keras_rnn(TWO, X, initial_state=np.ones((2, 2, 4)))),
        (ValueError, "initial_state must have shape", lambda: run_keras_rnn(TWO, X, initial_state=[None, X])),
        (TypeError, "layers must be a sequence", lambda: to_state_dict([])),
        (TypeError, "layers must be a sequence", lambda: to_state_dict(ONE)),
        (TypeError, "layers must be a sequence", lambda: to_state_dict([GOOD])),
        (ValueError, "Bidirectional or none", lambda: to_state_dict([ONE, TWO])),
        (ValueError, "go_backwards", lambda: to_state_dict([from_keras(GOOD, go_backwards=True)])),
        (ValueError, "one nonlinearity", lambda: to_state_dict([ONE, from_keras(GOOD, activation="relu")])),
        (ValueError, "'concat', got 'sum'", lambda: to_state_dict([from_keras(GOOD + GOOD, merge_mode="sum")])),
        (
            ValueError,
            "must return sequences",
            lambda: to_state_dict(
                [KerasRNN(*GOOD, return_sequences=False), from_keras(arrays(np.random.default_rng(0), 4))]
            ),
        ),
        (ValueError, "weight_ih_l1 must have shape", lambda: to_state_dict({"a": ONE, "b": ONE})),
        (TypeError, "state_dict must be a mapping", lambda: to_keras(GOOD)),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_inputs_are_left_alone():
    rng = np.random.default_rng(0)
    layer = from_keras(arrays(rng) + arrays(rng))
    x, mask, states = rng.normal(size=(2, 5, 3)), rng.random((2, 5)) < 0.5, list(rng.normal(size=(2, 2, 4)))
    before = [a.tobytes() for a in (x, mask, *states, layer.kernel)]
    for mode in ("concat", "sum", None):
        result = run_keras_rnn(from_keras(arrays(rng) * 2, merge_mode=mode), x, mask=mask, initial_state=states)
        for a in (*result.states, *np.atleast_1d(result.outputs)):
            assert not np.shares_memory(a, x)
    empty = run_keras_rnn(layer, x[:, :0], initial_state=states)
    empty.states[0][...] = 9
    assert [a.tobytes() for a in (x, mask, *states, layer.kernel)] == before


def test_import_without_h5py():
    script = (
        "import sys; sys.modules['h5py'] = sys.modules['keras'] = None; import numpy as np, pyrnn.keras as k\n"
        "k.run_keras_rnn(k.from_keras([np.ones((1, 1)), np.eye(1)]), np.ones((1, 2, 1)))\n"
        "try: k.load_keras('x.keras')\n"
        "except ImportError as error: assert 'pyrnn-bptt[keras]' in str(error)\n"
        "else: raise SystemExit(1)\n"
    )
    process = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
