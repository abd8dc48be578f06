"""What a dictionary of arrays under PyTorch's names says about the network."""

import contextlib
import copy
import pickle

import numpy as np
import pytest

import pyrnn
from pyrnn.bridges.state_dict import describe

pytestmark = pytest.mark.peer


def arrays(**changes):
    a = {
        "weight_ih_l0": np.ones((4, 3), np.float32),
        "weight_hh_l0": np.ones((4, 4), np.float32),
        "bias_ih_l0": np.ones(4, np.float32),
        "bias_hh_l0": np.ones(4, np.float32),
    } | changes
    return {name: v for name, v in a.items() if v is not None}


@pytest.mark.parametrize("prefix", ["", "rnn.", "module.encoder.rnn."])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 12])
def test_networks_of_torch(prefix, bias, bidirectional, layers):
    torch = pytest.importorskip("torch")
    rnn = torch.nn.RNN(3, 4, layers, bias=bias, bidirectional=bidirectional)
    state_dict = {prefix + name: a for name, a in rnn.state_dict().items()} | {"fc.weight": torch.ones(2, 4)}
    network = describe(state_dict, nonlinearity="relu")
    assert network.config == {
        "input_size": 3,
        "hidden_size": 4,
        "num_layers": layers,
        "nonlinearity": "relu",
        "bias": bias,
        "bidirectional": bidirectional,
    }
    torch.nn.RNN(**network.config)
    assert network.dtype == np.float32
    assert network.state_dict.keys() == rnn.state_dict().keys()
    for name, a in rnn.state_dict().items():
        np.testing.assert_array_equal(network.state_dict[name], a.numpy())


def test_layer_is_what_forward_takes():
    torch = pytest.importorskip("torch")
    rnn = torch.nn.RNN(3, 4, 2, bidirectional=True, dtype=torch.float64)
    network, x = describe(rnn.state_dict()), np.random.default_rng(0).normal(size=(5, 2, 3))
    with torch.no_grad():
        expected = rnn(torch.tensor(x))[0].numpy()
    h = x
    for n in range(2):
        ways = [pyrnn.forward(h, *network.layer(n, reverse=back), reverse=back) for back in (False, True)]
        h = np.concatenate(ways, axis=-1)
    np.testing.assert_allclose(h, expected, rtol=0, atol=1e-12)
    with pytest.raises(KeyError):
        network.layer(2)
    with pytest.raises(KeyError):
        describe(arrays()).layer(0, reverse=True)


def test_arrays_are_not_copied():
    a = arrays()
    network = describe(a)
    for name, v in a.items():
        assert network.state_dict[name] is v
    assert network.state_dict is not a
    with pytest.raises(AttributeError):
        network.bias = False


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies(again):
    network = describe(arrays(), nonlinearity="relu")
    other = again(network)
    assert (other.config, other.dtype) == (network.config, network.dtype)
    for name, v in network.state_dict.items():
        np.testing.assert_array_equal(other.state_dict[name], v)


def test_dtypes_promote():
    assert describe(arrays(bias_hh_l0=np.ones(4))).dtype == np.float64
    network = describe({name: v.astype(np.float16) for name, v in arrays().items()})
    assert {v.dtype for v in network.state_dict.values()} == {np.dtype(np.float32)}


def test_one_prefix_of_several():
    a = {f"{prefix}.{name}": v for prefix in ("a", "b") for name, v in arrays().items()}
    with pytest.raises(ValueError, match=r"prefix must say which network is meant, one of 'a\.', 'b\.'"):
        describe(a)
    assert describe(a, prefix="b.").hidden_size == 4
    with pytest.raises(ValueError, match=r"state_dict must have c\.weight_ih_l0"):
        describe(a, prefix="c.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_ih_l0": None}, "must have a name that ends in weight_ih_l0"),
        ({"weight_hh_l0": None}, "must have weight_hh_l0"),
        ({"bias_hh_l0": None}, "must have bias_hh_l0"),
        ({"weight_ih_l1": np.ones((4, 4))}, "must have weight_hh_l1 beside weight_ih_l1"),
        ({"bias_ih_l999999": np.ones(4)}, "must have weight_ih_l1 beside bias_ih_l999999"),
        ({"weight_hh_l0_reverse": np.ones((4, 4))}, "must have weight_ih_l0_reverse"),
        ({"weight_hh_l0": np.ones((4, 3))}, r"weight_hh_l0 must have shape \(4, 4\).* got \(4, 3\)"),
        ({"weight_ih_l0": np.ones(4)}, r"weight_ih_l0 must have shape \(H, 4\), got \(4,\)"),
        ({"weight_ih_l0": np.float32(1)}, r"weight_ih_l0 must have shape \(H, I\), got \(\)"),
        ({"bias_ih_l0": np.ones((4, 1))}, r"bias_ih_l0 must have shape \(4,\)"),
        ({"weight_ih_l0": np.ones((16, 3)), "weight_hh_l0": np.ones((16, 4))}, "the stacked gates of an LSTM"),
        ({"weight_ih_l0": np.ones((12, 3)), "weight_hh_l0": np.ones((12, 4))}, "the stacked gates of a GRU"),
        ({"weight_hr_l0": np.ones((2, 4))}, "a projection of an LSTM"),
        (
            {"weight_ih_l1": np.ones((4, 5)), "weight_hh_l1": np.ones((4, 4)), "bias_ih_l1": np.ones(4),
             "bias_hh_l1": np.ones(4)},
            r"weight_ih_l1 must have shape \(4, 4\)",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        describe(arrays(**changes))


def test_biases_in_one_layer_only():
    a = arrays(bias_ih_l0=None, bias_hh_l0=None, weight_ih_l1=np.ones((4, 4)), weight_hh_l1=np.ones((4, 4)))
    with pytest.raises(ValueError, match="biases in all layers or in none, got 'bias_ih_l1'"):
        describe(a | {"bias_ih_l1": np.ones(4)})


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "state_dict must be a mapping", lambda: describe(None)),
        (TypeError, "state_dict must have text as names, got 3", lambda: describe({3: 1})),
        (ValueError, "got no names", lambda: describe({})),
        (TypeError, "prefix must be text or None", lambda: describe(arrays(), prefix=1)),
        (ValueError, "nonlinearity must be one of", lambda: describe(arrays(), nonlinearity="sin")),
        (TypeError, "weight_hh_l0 must be", lambda: describe(arrays(weight_hh_l0="text"))),
        (TypeError, "bias_ih_l0 must be real", lambda: describe(arrays(bias_ih_l0=np.ones(4, complex)))),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_a_name_with_many_layers_is_no_work():
    """Only names that are there are looked at."""
    with pytest.raises(ValueError, match="must have weight_ih_l1"):
        describe(arrays(weight_ih_l123456=np.ones((4, 4))))


class TestBfloat16:
    """Tensors of bfloat16 are read where those of float16 are, and widened: float32 holds each number exactly."""

    @pytest.fixture
    def pair(self):
        """state_dict of a network of PyTorch in bfloat16, and the same numbers in float32."""
        torch = pytest.importorskip("torch")
        torch.manual_seed(0)
        half = torch.nn.RNN(3, 4, 2, bidirectional=True).to(torch.bfloat16).state_dict()
        return half, {name: a.float().numpy() for name, a in half.items()}

    def test_describe(self, pair):
        half, expected = pair
        network = describe(half)
        assert network.dtype == np.float32
        for name, a in network.state_dict.items():
            np.testing.assert_array_equal(a, expected[name])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_rnn(self, pair, dtype):
        half, expected = pair
        rnn = pyrnn.RNN(3, 4, 2, bidirectional=True, dtype=dtype)
        rnn.load_state_dict(half)
        for name, a in rnn.named_parameters():
            np.testing.assert_array_equal(a, expected[name])
        x = half["weight_ih_l0"].reshape(2, 2, 3)
        np.testing.assert_array_equal(rnn(x)[0], rnn(x.float().numpy())[0])
        rnn.weight_ih_l0 = half["weight_ih_l0"] * 2
        np.testing.assert_array_equal(rnn.weight_ih_l0, expected["weight_ih_l0"] * 2)

    def test_functions(self, pair):
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")
        (U, W, b), exact = ([a[name] for name in names] for a in pair)
        h = pyrnn.forward(U, U, W, b)
        assert h.dtype == np.float32
        np.testing.assert_array_equal(h, pyrnn.forward(exact[0], *exact))
        for a, e in zip(pyrnn.backward(W, h, U, U, W), pyrnn.backward(exact[1], h, exact[0], *exact[:2]), strict=True):
            np.testing.assert_array_equal(a, e)

    def test_bridges(self, pair, tmp_path):
        pytest.importorskip("safetensors")
        from pyrnn.bridges import keras, safetensors

        half, expected = pair
        safetensors.save_safetensors(half, tmp_path / "a.safetensors")
        for name, a in safetensors.load_safetensors(tmp_path / "a.safetensors").items():
            assert a.dtype == np.float32
            np.testing.assert_array_equal(a, expected[name])
        for a, e in zip(*map(str, (keras.to_keras(half), keras.to_keras(expected))), strict=True):
            assert a == e

    def test_onnx(self, pair):
        pytest.importorskip("onnx")
        from pyrnn.bridges import onnx

        half, expected = pair
        assert onnx.to_onnx(half).SerializeToString() == onnx.to_onnx(expected).SerializeToString()

    def test_arrays_of_ml_dtypes(self):
        ml_dtypes = pytest.importorskip("ml_dtypes")
        a = np.array([[0.5, 1.5], [-3.0, 0.25]], ml_dtypes.bfloat16)
        h = pyrnn.forward(a, a, a)
        assert h.dtype == np.float32
        np.testing.assert_array_equal(h, pyrnn.forward(*[a.astype(np.float32)] * 3))

    def test_that_needs_a_gradient(self, pair):
        half, _ = pair
        with pytest.raises(ValueError, match="x must be an array of numbers"):
            pyrnn.forward(half["weight_ih_l0"].requires_grad_(), half["weight_ih_l0"], half["weight_hh_l0"])


# ---- What arrays do not say -----------------------------------------------------------------------------------------
def exporters():
    """Everything that makes another network of a state_dict, by name."""
    found = {"describe": describe}
    with contextlib.suppress(ImportError):
        import onnx  # noqa: F401

        from pyrnn.bridges.onnx import to_onnx

        found["to_onnx"] = to_onnx
    from pyrnn.bridges.keras import to_keras

    return found | {"to_keras": to_keras}


@pytest.mark.parametrize("name", ["describe", "to_onnx", "to_keras"])
def test_nothing_of_an_rnn_is_dropped_in_silence(name):
    if name not in exporters():
        pytest.skip("onnx is not installed")
    export = exporters()[name]
    for options, message in (
        ({"alpha": 0.2}, "without a leak, got an RNN of alpha 0.2 and form 'rate'"),
        ({"alpha": [1.0, 0.5]}, r"without a leak, got an RNN of alpha \[1.0, 0.5\]"),
        ({"form": "current"}, "without a leak, got an RNN of alpha 1.0 and form 'current'"),
        ({"alpha": 0.2, "output_size": 3}, "without a leak"),
        (
            {"output_size": 3, "nonlinearity": "relu"},
            "an output layer, weight_out and bias_out: leave these out, and give nonlinearity='relu'",
        ),
        ({"output_size": 3, "bias": False}, "an output layer, weight_out: leave"),
    ):
        rnn = pyrnn.RNN(1, 2, rng=0, **options)
        with pytest.raises(ValueError, match=message):
            export(rnn.state_dict())
    prefixed = {f"net.{name}": a for name, a in pyrnn.RNN(1, 2, output_size=3).state_dict().items()}
    with pytest.raises(ValueError, match=r"got an output layer, net\.weight_out and net\.bias_out"):
        export(prefixed)
    for options in ({"alpha": [1.0, 1.0]}, {"dropout": 0.5, "num_layers": 2}, {"recurrent_dropout": 0.5}):
        export(pyrnn.RNN(1, 2, **options).state_dict())  # the same network outside of training


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
def test_nonlinearity_of_an_rnn(nonlinearity):
    state_dict = pyrnn.RNN(1, 2, nonlinearity=nonlinearity).state_dict()
    assert describe(state_dict).nonlinearity == nonlinearity
    assert describe(state_dict, nonlinearity="tanh").nonlinearity == "tanh"  # that is said
    for again in (copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))):
        assert describe(again(state_dict)).nonlinearity == nonlinearity
    assert describe(dict(state_dict)).nonlinearity == "tanh"  # a plain dictionary does not know


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
def test_exported_rnn_computes_the_same(nonlinearity):
    pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    from pyrnn.bridges.onnx import to_onnx

    rnn = pyrnn.RNN(2, 3, 2, nonlinearity=nonlinearity, bidirectional=True, rng=0)
    x = np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32)
    session = ort.InferenceSession(to_onnx(rnn.state_dict()).SerializeToString())
    out, h_n = rnn(x)
    for ours, theirs in zip((out, h_n), session.run(["out", "h_n"], {"x": x}), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "rnn."])
def test_safetensors_keep_what_an_rnn_says(tmp_path, prefix):
    pytest.importorskip("safetensors")
    from pyrnn.bridges.safetensors import load_safetensors, save_safetensors

    leaky = pyrnn.RNN(1, 2, alpha=[0.2, 0.5], nonlinearity="relu", output_size=1, rng=0)
    path = tmp_path / "rnn.safetensors"
    save_safetensors(leaky.state_dict(), path, prefix=prefix, metadata={"by": "test"})
    for wanted in {"", prefix}:
        loaded = load_safetensors(path, prefix=wanted)
        assert loaded.arguments == leaky.state_dict().arguments
        with pytest.raises(ValueError, match="without a leak"):
            describe(loaded)
    if not prefix:
        again = pyrnn.RNN.load(path)
        assert repr(again) == repr(leaky)
        np.testing.assert_array_equal(again.parameters, leaky.parameters)
    save_safetensors(dict(leaky.state_dict()), path, prefix=prefix)
    assert load_safetensors(path).arguments == {}
    save_safetensors(leaky.state_dict(), path, metadata={"pyrnn.RNN": "[" * 100_000})
    with pytest.raises(ValueError, match=r"rnn\.safetensors has arguments of pyrnn\.RNN that are not JSON"):
        load_safetensors(path)
