"""SimpleRNN weights, files and masks, against Keras where it is installed, and against damaged files."""

import dataclasses
import importlib.util
import io
import itertools
import json
import os
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

import pyrnn
from pyrnn.bridges.keras import KerasRNN, files, from_keras, hdf5, load_keras, run_keras_rnn, to_keras, to_state_dict
from pyrnn.bridges.state_dict import describe

TOLERANCE = 1e-5
pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras's on PyTorch
]


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
        "activation": ["tanh", "relu", "linear", None, "softplus", "sigmoid", "leaky_relu"][rng.integers(7)],
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
            zero_output_for_mask=None if both else options["zero_output_for_mask"],
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


ONES = [np.ones((1, 1))] * 2
PAIR = np.ones((1, 2, 1)), np.array([[True, False]])  # x and its mask; Keras's outputs in Bidirectional are 1, 1, 0, 0


def test_masked_outputs_of_bidirectional_by_hand():
    """Keras sets zero_output_for_mask where sequences are returned, and only there: both results are right at once."""
    layer = from_keras(ONES * 2, activation="linear")
    result = run_keras_rnn(layer, PAIR[0], mask=PAIR[1])
    assert result.outputs.tolist() == [[[1, 1], [0, 0]]]
    assert result.last_output.tolist() == [[1, 1]]
    assert [state.tolist() for state in result.states] == [[[1]], [[1]]]
    repeated = run_keras_rnn(
        from_keras(ONES * 2, activation="linear", zero_output_for_mask=False), *PAIR[:1], mask=PAIR[1]
    )
    assert (repeated.outputs.tolist(), repeated.last_output.tolist()) == ([[[1, 1], [1, 0]]], [[1, 1]])
    nothing = run_keras_rnn(layer, PAIR[0], mask=~np.ones((1, 2), bool))
    assert (nothing.outputs.any(), nothing.last_output.any()) == (False, False)


@pytest.mark.parametrize("both", [False, True])
def test_states_go_in_again(both):
    """Two halves, the second with the states of the first, are the whole."""
    rng = np.random.default_rng(0)
    layer, x = from_keras(arrays(rng) * (1 + both)), rng.normal(size=(2, 6, 3)).astype(np.float32)
    if both:  # the backward direction has no first half: its own states, and none
        result = run_keras_rnn(layer, x)
        again = run_keras_rnn(layer, x[:, :0], initial_state=result.states)
        np.testing.assert_array_equal(again.states, result.states)
        return
    first = run_keras_rnn(layer, x[:, :4])
    second = run_keras_rnn(layer, x[:, 4:], initial_state=first.states)
    np.testing.assert_array_equal(second.last_output, run_keras_rnn(layer, x).last_output)
    for state in (list(first.states), first.states[0], first.states[0].tolist(), [first.states[0].tolist()]):
        again = run_keras_rnn(layer, x[:, 4:], initial_state=state)
        np.testing.assert_allclose(again.outputs, second.outputs, rtol=0, atol=TOLERANCE)
    one = run_keras_rnn(layer, x[:1], initial_state=first.states[0][:1].tolist())  # of one sequence, not of one array
    assert one.outputs.shape == (1, 6, 4)
    assert run_keras_rnn(layer, x, initial_state=(None,)).outputs.shape == (2, 6, 4)


def test_options_that_keras_and_pyrnn_do_not_share():
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(2, 5, 3)), np.array([[True] * 5, [True, False, True, True, True]])
    layer = KerasRNN(*arrays(rng), stateful=True)
    with pytest.raises(ValueError, match="initial_state must be given, as the layer is stateful"):
        run_keras_rnn(layer, x)
    assert run_keras_rnn(layer, x, initial_state=np.zeros((2, 4))).outputs.shape == (2, 5, 4)
    for options in ({"unroll": 1}, {"stateful": None}):
        with pytest.raises(TypeError, match=f"{next(iter(options))} must be True or False"):
            KerasRNN(*arrays(rng), **options)
    layer = KerasRNN(*arrays(rng), unroll=True, go_backwards=True, zero_output_for_mask=True)
    with pytest.raises(ValueError, match="mask must have no False for a layer with unroll"):
        run_keras_rnn(layer, x, mask=mask)
    plain = dataclasses.replace(layer, unroll=False)
    for given, options in (((layer, x), {}), ((layer, x), {"mask": np.ones((2, 5), bool)})):
        np.testing.assert_array_equal(run_keras_rnn(*given, **options).outputs, run_keras_rnn(plain, x).outputs)
    assert run_keras_rnn(dataclasses.replace(layer, zero_output_for_mask=False), x, mask=mask).outputs.any()


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


def older_layers(h5py, path, config, parts, version=None):
    """Write a whole model in HDF5: `parts` has for each layer the names and the arrays that Keras lists."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config).encode()
        if version is not None:
            file.attrs["keras_version"] = version.encode()
        for layer, weights in parts.items():
            group = file.create_group(f"model_weights/{layer}")
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, a in weights.items():
                group[name] = a
    return path


def test_models_before_2_2_3(h5py, tmp_path):
    """The configuration of a Sequential model is a list of its layers; of Keras 1 with other names of options."""
    weights, path = arrays(np.random.default_rng(0)), tmp_path / "m.h5"
    names = ("r/kernel:0", "r/recurrent_kernel:0", "r/bias:0")
    layers = [
        {"class_name": "Masking", "config": {"name": "masking_1", "mask_value": 0.0}},
        {"class_name": "SimpleRNN", "config": {"name": "r", "units": 4, "activation": "relu", "use_bias": True}},
        {"class_name": "Merge", "config": {"name": "merge_1", "mode": "sum"}},
    ]
    config = {"class_name": "Sequential", "config": layers}
    parts = {"r": dict(zip(names, weights, strict=True))}
    read = load_keras(older_layers(h5py, path, config, parts, "2.2.2"))
    assert (list(read), read["r"].nonlinearity) == (["r"], "relu")
    for a, e in zip((read["r"].kernel, read["r"].recurrent_kernel, read["r"].bias), weights, strict=True):
        np.testing.assert_array_equal(a, e)
    first = {"name": "r", "output_dim": 4, "activation": "tanh", "inner_init": "orthogonal", "consume_less": "cpu"}
    layers[1] = {"class_name": "SimpleRNN", "config": first | {"return_sequences": True, "go_backwards": False}}
    parts = {"r": dict(zip(("r_W", "r_U", "r_b"), weights, strict=True))}
    read = load_keras(older_layers(h5py, path, config, parts, "1.2.2"))["r"]
    np.testing.assert_array_equal(read.kernel, weights[0])
    layers[2]["config"]["layers"] = [{"class_name": "Sequential", "config": []}]
    with pytest.raises(ValueError, match="a model within a model"):
        load_keras(older_layers(h5py, path, config, parts))


def bidirectional(**changes):
    inner = {"name": "s", "units": 1, "activation": "linear", "use_bias": False, "return_sequences": True} | changes
    return {
        "class_name": "Bidirectional",
        "config": {"name": "b", "layer": {"class_name": "SimpleRNN", "config": inner}},
    }


@pytest.mark.parametrize(
    ("version", "zeros"),
    [
        ("2.2.2", False),
        ("2.3.1", False),
        ("1.2.2", False),
        ("2.2.4-tf", True),
        ("2.4.0", True),
        ("2.15.0", True),
        (None, True),
    ],
)
def test_bidirectional_of_older_files(h5py, tmp_path, version, zeros):
    """Keras has forced zero_output_for_mask since tf.keras, and saves neither it nor that it did so."""
    names = [f"b/{way}_s/{name}:0" for way in ("forward", "backward") for name in ("kernel", "recurrent_kernel")]
    parts = {"b": dict(zip(names, ONES * 2, strict=True))}
    layer = load_keras(older_layers(h5py, tmp_path / "m.h5", older_config(bidirectional()), parts, version))["b"]
    result = run_keras_rnn(layer, PAIR[0], mask=PAIR[1])
    assert result.outputs.tolist() == ([[[1, 1], [0, 0]]] if zeros else [[[1, 1], [1, 0]]])
    assert result.last_output.tolist() == [[1, 1]]


@pytest.mark.parametrize("ways", [("forward_s", "backward_s"), ("backward_s", "forward_s"), ("own", "forward_s")])
def test_frozen_directions_of_older_files(h5py, tmp_path, ways):
    """Keras lists what is trained first: with the forward layer frozen, the backward layer, whose name is its own."""
    kernels = {way: np.full((1, 1), 2.0 if "forward" in way else 3.0) for way in ways}
    parts = {"b": {f"b/{way}/{name}:0": kernels[way] for way in ways for name in ("kernel", "recurrent_kernel")}}
    layer = load_keras(older_layers(h5py, tmp_path / "m.h5", older_config(bidirectional()), parts))["b"]
    assert (layer.kernel.item(), layer.backward.kernel.item(), layer.backward.go_backwards) == (2, 3, True)


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


def archive_of(h5py, path, config, groups):
    """Write an archive: `groups` has the arrays of each group of variables, the place as one name or in parts."""
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        for place, weights in groups.items():
            group = file.require_group(place).require_group("vars")
            for i, a in enumerate(weights):
                group[str(i)] = a
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", data.getvalue())
    return path


# How versions of Keras name the groups of three layers of a class: with arrays, each was counted twice at first.
LAYOUTS = {
    "2.12 and 2.13": ("_layer_checkpoint_dependencies", "/", 2),
    "2.14": ("_layer_checkpoint_dependencies", "/", 1),
    "2.15 and later": ("layers", "/", 1),
    "2.13 on Windows": ("_layer_checkpoint_dependencies", "\\", 2),
    "2.15 on Windows": ("layers", "\\", 1),
}


@pytest.mark.parametrize(("container", "by", "step"), LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("module", ["keras.src.engine.functional", "tf_keras.src.engine.functional", None])
def test_layouts(h5py, tmp_path, container, by, step, module):
    """Twelve layers of a class, a Bidirectional, and a model within the model, in the files of each version."""
    rng = np.random.default_rng(0)
    layers, groups, expected = [], {}, {}

    def add(place, layer, name):
        expected[name] = groups[f"{place}{by}cell"] = arrays(rng, 4)
        groups[place] = []
        return layer

    numbered = lambda base, i: base + (f"_{i * step}" if i else "")
    for i in range(12):
        groups[f"{container}{by}{numbered('dense', i)}"] = [np.ones((4, 4)), np.ones(4)]
        layers.append({"class_name": "Dense", "config": {"name": f"d{i}"}, "module": "keras.layers"})
        layers.append(add(f"{container}{by}{numbered('simple_rnn', i)}", simple_rnn(name=f"n{i}"), f"n{i}"))
    inner = f"{container}{by}functional"
    within = [
        add(f"{inner}{by}{container}{by}{numbered('simple_rnn', i)}", simple_rnn(name=f"n{i}"), f"m/n{i}")
        for i in (0, 1)
    ]
    layers.append({"module": module, "class_name": "Functional", "config": {"name": "m", "layers": within}})
    both = {"class_name": "Bidirectional", "module": "keras.layers", "config": {"name": "b", "layer": simple_rnn()}}
    for way in ("forward_layer", "backward_layer"):
        expected[way] = groups[f"{container}{by}bidirectional{by}{way}{by}cell"] = arrays(rng, 4)
    config = {"module": module, "class_name": "Functional", "config": {"name": "m", "layers": [*layers, both]}}
    read = load_keras(archive_of(h5py, tmp_path / "m.keras", config, groups))
    assert list(read) == [*(f"n{i}" for i in range(12)), "m/n0", "m/n1", "b"]
    read |= {"forward_layer": read["b"], "backward_layer": read.pop("b").backward}
    for name, weights in expected.items():
        for a, e in zip((read[name].kernel, read[name].recurrent_kernel, read[name].bias), weights, strict=True):
            np.testing.assert_array_equal(a, e)
    assert (read["backward_layer"].go_backwards, read["backward_layer"].zero_output_for_mask) == (True, True)
    with zipfile.ZipFile(tmp_path / "m.keras") as file:
        (tmp_path / "m.weights.h5").write_bytes(file.read("model.weights.h5"))
    alone = load_keras(tmp_path / "m.weights.h5")
    assert len(alone) == 15
    kernels = {layer.kernel.tobytes() for layer in alone.values()}
    assert kernels == {weights[0].tobytes() for name, weights in expected.items() if name != "backward_layer"}


def test_names_of_classes_meet_in_one_name_of_groups(h5py, tmp_path):
    """Keras counts layers by the names of their groups: those of SimpleRnn, of the user, are simple_rnn too."""
    first, second = arrays(np.random.default_rng(0)), arrays(np.random.default_rng(1))
    mine = {"module": "mine", "class_name": "SimpleRnn", "registered_name": "mine>SimpleRnn", "config": {"name": "x"}}
    groups = {"layers/simple_rnn/cell": first, "layers/simple_rnn_1/cell": second}
    path = archive_of(h5py, tmp_path / "m.keras", config_of(mine, simple_rnn()), groups)
    np.testing.assert_array_equal(load_keras(path)["r"].kernel, second[0])
    registered = simple_rnn() | {"module": None, "registered_name": "mine>SimpleRNN"}
    path = archive_of(h5py, tmp_path / "m.keras", config_of(registered, simple_rnn(name="s")), groups)
    assert list(load_keras(path)) == ["s"]
    path = archive_of(h5py, tmp_path / "m.keras", config_of(simple_rnn(), simple_rnn()), groups)
    with pytest.raises(ValueError, match="must have one layer of each name, got two of 'r'"):
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
        (config_of(simple_rnn(time_major=True)), "r: time_major must be False, got True"),
        (config_of(simple_rnn(use_bias="no")), "r: use_bias must be true or false, got 'no'"),
        (config_of(simple_rnn(stateful="no")), "stateful must be True or False"),
        (config_of(simple_rnn(unroll=1)), "unroll must be True or False"),
        (b'{"units": ' + b"9" * 10_000 + b"}", "must be JSON"),
        (config_of(simple_rnn(), simple_rnn(name="s")), "simple_rnn_1/cell/vars must have 3 arrays, got nothing"),
        (config_of({"class_name": "Dense"}), "must have a SimpleRNN layer, got none"),
    ],
)
def test_hostile_configurations(h5py, tmp_path, config, message):
    path = archive(h5py, tmp_path / "m.keras", config, arrays(np.random.default_rng(0)))
    with pytest.raises(ValueError, match=message) as error:
        load_keras(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("changes", [{"name": "x" * 10**5}, {"activation": "x" * 10**5}, {"unroll": "x" * 10**5}])
def test_messages_are_short(h5py, tmp_path, changes):
    path = archive(h5py, tmp_path / "m.keras", config_of(simple_rnn(**changes)), arrays(np.random.default_rng(0)))
    with pytest.raises(ValueError, match=r"m\.keras") as error:
        load_keras(path)
    assert len(str(error.value)) < 3000


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
    monkeypatch.setattr(files, "_LARGE", 1000)
    assert load_keras(path)["r"].hidden_size == 4
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", " " * 100_000)
    with pytest.raises(ValueError, match=r"config\.json must not unpack to 100000 bytes"):
        load_keras(path)


AT = "layers/simple_rnn/cell/vars"


def hostile_files(h5py, folder):
    """Small files that say they are large, and others that HDF5 or Python would spend gigabytes or hours on."""

    def weights(name, write, **options):
        with h5py.File(folder / f"{name}.weights.h5", "w", **options) as file:
            write(file)
        return folder / f"{name}.weights.h5"

    def first(name, *args, **options):
        def write(file):
            vars = file.create_group(AT)
            vars.create_dataset("0", *args, **options)
            vars["1"] = np.eye(4)

        return weights(name, write)

    def archived(name, config, compression=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(folder / f"{name}.keras", "w", compression) as file:
            file.writestr("config.json", config)
            file.writestr("model.weights.h5", (folder / "kernel of no chunks.weights.h5").read_bytes())
        return folder / f"{name}.keras"

    yield first("kernel of no chunks", (2**20, 2**20), np.float32, chunks=(1024, 1024)), f"unpack to {2**42} bytes"
    yield first("product of 0 in 64 bits", (2**33, 2**31), "i1", chunks=(1, 1)), f"unpack to {2**64} bytes"
    yield first("large chunk", (4, 4), "f4", chunks=(4096, 4096), maxshape=(None, None)), "in chunks of shape"
    yield first("many chunks", (1000, 1000), "i1", chunks=(1, 1)), "in chunks of shape"
    yield first("filter", data=np.ones((4, 4)), compression="lzf"), "compressed by gzip or not at all"
    yield first("texts", data=["a"] * 4), "an array of numbers"
    yield first("lists", (4, 4), h5py.vlen_dtype(np.float32)), "an array of numbers"
    yield first("fields", np.zeros((4, 4), [("a", "f4"), ("b", "f4")]).shape, [("a", "f4")]), "an array of numbers"
    yield first("arrays", (4, 4), np.dtype(("f4", (3,)))), "an array of numbers"
    yield first("nothing", data=h5py.Empty("f4")), "an array of numbers"

    def many(file):
        zeros = file.create_dataset("zeros", (300, 300), np.float32, chunks=True, compression="gzip", fillvalue=0)
        zeros[...] = 0
        for i in range(64):
            for key in "01":
                file[f"layers/simple_rnn_{i}/cell/vars/{key}"] = zeros

    yield weights("one array for all", many), "unpack to 360000 bytes"

    def stream(file):
        vars = file.create_group(AT)
        vars.create_dataset("0", (4, 4), np.float32, chunks=(4, 4), compression="gzip")
        vars["0"].id.write_direct_chunk((0, 0), zlib.compress(b"\0" * 50_000_000))
        vars["1"] = np.eye(4)

    yield weights("chunk of 50 MB", stream), "chunks that unpack to 64 bytes"

    def doubled(file):
        groups = [file.create_group(f"layers/x{i}") for i in range(64)]
        for one, other in itertools.pairwise(groups):
            one["forward_layer"] = one["backward_layer"] = other

    yield weights("two directions of two directions", doubled), "must have a SimpleRNN layer, got none"
    yield weights("deep", lambda file: file.create_group("/".join("x" * 200))), "at most .* 100 groups"
    yield weights("long", lambda file: file.create_group("x" * 5000)), "at most 4000 characters"
    yield weights("bytes", lambda file: file.create_group(b"\xff\xfe")), "names in UTF-8"

    def attributes(file):
        file.attrs.update({f"a{i}": i for i in range(20)})

    yield weights("many attributes", attributes, libver="latest"), "few attributes"

    def named(file):
        file.create_group("layers/simple_rnn/vars").attrs["name"] = "n" * 300
        for i, a in enumerate(arrays(np.random.default_rng(0))):
            file[f"{AT}/{i}"] = a

    for name, at, value in (
        ("text of 4 GB", 0, 2**32 - 1),
        ("heap far away", 4, 2**40),
        ("no heap", 4, 0),
        ("no such text", 12, 7),
    ):
        path = weights(name, named)
        content = bytearray(path.read_bytes())
        place = content.index((300).to_bytes(4, "little") + content.index(b"GCOL").to_bytes(8, "little")) + at
        size = 8 if at == 4 else 4
        content[place : place + size] = value.to_bytes(size, "little")
        path.write_bytes(content)
        yield path, "must have a string|whole HDF5 file"
    path = weights("cut", named)
    path.write_bytes(path.read_bytes()[:20])
    yield path, "must be a whole"
    (folder / "empty.weights.h5").write_bytes(b"")
    yield folder / "empty.weights.h5", "must be a whole HDF5 file"

    nested = simple_rnn()
    for _ in range(150):
        nested = config_of(nested)
        nested["config"]["name"] = "n" * 50
    yield archived("models within models", json.dumps(nested)), "at most .* groups|must have 3 arrays"
    yield archived("objects", b"[" + b"[]," * 300_000 + b"[]]"), "the objects in config.json must not unpack to"
    yield archived("spaces", b" " * 3_000_000), "config.json must not unpack to 3000000 bytes"
    yield archived("another method", b"{}" * 1000, zipfile.ZIP_LZMA), "stored or deflated, got method 14"
    path = archived("sizes", b"{}", zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1) + 20  # of the weights, in the directory
    content[place : place + 8] = (2**30).to_bytes(4, "little") * 2
    path.write_bytes(content)
    yield path, f"model.weights.h5 must not unpack to {2**30} bytes"


def test_hostile_files(h5py, tmp_path):
    for path, message in hostile_files(h5py, tmp_path):
        with pytest.raises(ValueError, match=message) as error:
            load_keras(path)
        assert str(path) in str(error.value)


def test_memory_of_hostile_files(h5py, tmp_path):
    """In a process that may not take 256 MB more, and takes 64 at most: each file is of 50 KB at most."""
    pytest.importorskip("resource")
    paths = [str(path) for path, _ in hostile_files(h5py, tmp_path)]
    weights_file(h5py, tmp_path / "good.weights.h5", arrays(np.random.default_rng(0)))
    script = (
        "import re, resource, sys, h5py, pyrnn.bridges.keras as k\n"
        "k.load_keras(sys.argv[1])\n"
        "status = lambda what: int(re.search(what + r':\\s+(\\d+) kB', open('/proc/self/status').read())[1]) * 1024\n"
        "most = status('VmSize') + 2**28\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "before = status('VmHWM')\n"
        "for path in sys.argv[2:]:\n"
        "    try: k.load_keras(path)\n"
        "    except ValueError as error: assert path in str(error) and 'allocat' not in str(error), error\n"
        "    else: raise SystemExit(path)\n"
        "    assert status('VmHWM') - before < 2**26, (path, status('VmHWM') - before)\n"
    )
    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs /proc")
    command = [sys.executable, "-P", "-c", script, str(tmp_path / "good.weights.h5"), *paths]
    process = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert process.returncode == 0, process.stdout + process.stderr


def test_gzip_and_odd_names(h5py, tmp_path):
    """What HDF5 packs for a user who asks for it is read; so are names that only look like numbers."""
    weights = arrays(np.random.default_rng(0), 30, 40)
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for i, a in enumerate(weights):
            options = {"chunks": tuple(min(n, 16) for n in a.shape), "compression": "gzip", "shuffle": True}
            file.create_dataset(f"layers/simple_rnn_²/cell/vars/{i}", data=a, fletcher32=True, **options)
        file["layers/simple_rnn_²"].create_group("vars").attrs["name"] = np.float32(3)  # no text: the place is the name
        file["layers/²"] = file["layers/\u0663"] = 1
    layer = load_keras(tmp_path / "m.weights.h5")["layers/simple_rnn_²"]
    for a, e in zip((layer.kernel, layer.recurrent_kernel, layer.bias), weights, strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
@pytest.mark.parametrize("text", ["r", "é" * 500, np.bytes_(b"r" * 40), b"r"])
def test_texts_are_those_of_h5py(h5py, tmp_path, libver, text):
    """The attributes that are read without HDF5, in each version of its format."""
    with h5py.File(tmp_path / "m.weights.h5", "w", libver=libver) as file:
        for i, a in enumerate(arrays(np.random.default_rng(0))):
            file[f"{AT}/{i}"] = a
        attributes = file.create_group("layers/simple_rnn/vars", track_order=text == "r").attrs
        attributes["other"] = [b"abc", b"de"]
        attributes["empty"] = h5py.Empty("f4")
        attributes["name"] = text
        for i in range(5):
            attributes[f"more {i}"] = "x" * 100
    expected = text if isinstance(text, str) else text.decode()
    assert list(load_keras(tmp_path / "m.weights.h5")) == [expected]
    with h5py.File(tmp_path / "m.weights.h5") as file:
        limit = hdf5.Limit(10**6, 0, 1)
        group = hdf5.Group(
            hdf5.Source(h5py, (tmp_path / "m.weights.h5").read_bytes(), limit), file["layers/simple_rnn/vars"]
        )
        assert (group.texts("other", 2), group.texts("empty", 1), group.texts("absent", 1)) == (("abc", "de"), (), None)
        with pytest.raises(ValueError, match="must be of 1 strings at most, got 2"):
            group.texts("other", 1)


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
        (ValueError, "activation must be one of", lambda: from_keras(GOOD, activation="elu")),
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
        "import sys; sys.modules['h5py'] = sys.modules['keras'] = None; import numpy as np, pyrnn.bridges.keras as k\n"
        "k.run_keras_rnn(k.from_keras([np.ones((1, 1)), np.eye(1)]), np.ones((1, 2, 1)))\n"
        "try: k.load_keras('x.keras')\n"
        "except ImportError as error: assert 'pyrnn-bptt[keras]' in str(error)\n"
        "else: raise SystemExit(1)\n"
    )
    process = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=3600)
    assert process.returncode == 0, process.stderr
