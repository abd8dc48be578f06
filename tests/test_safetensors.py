""".safetensors files in and out, against PyTorch's own and against damaged ones."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from pyrnn.bridges.state_dict import describe

pytest.importorskip("safetensors")

from pyrnn.bridges.safetensors import load_safetensors, save_safetensors

pytestmark = pytest.mark.peer

DTYPES = ["float32", "float64", "float16", "bool", *(f"{kind}{n}" for kind in ("int", "uint") for n in (8, 16, 32, 64))]


def file_of(header, data=b"", size=None):
    """The bytes of a file; size: of the header, where it lies."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


@pytest.mark.parametrize("prefix", ["", "rnn."])
def test_checkpoint_of_torch(tmp_path, prefix):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    rnn = torch.nn.RNN(3, 4, 2, bidirectional=True)
    tensors = {prefix + name: a for name, a in rnn.state_dict().items()} | {"other": torch.ones(2)}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    network = describe(load_safetensors(path))
    assert network.num_layers == 2
    for name, a in rnn.state_dict().items():
        np.testing.assert_array_equal(network.state_dict[name], a.numpy())
    if prefix:
        assert load_safetensors(str(path), prefix=prefix).keys() == rnn.state_dict().keys()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_becomes_float32_without_rounding(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-40, 6e-8, 65504.0, 1.0])
    tensors = {"a": special.to(getattr(torch, dtype)), "b": torch.randn(5, 7).to(getattr(torch, dtype))}
    tensors |= {"empty": torch.zeros(0, 3).to(getattr(torch, dtype)), "number": torch.tensor(2.5, dtype=torch.float64)}
    save_file(tensors, tmp_path / "half.safetensors")
    loaded = load_safetensors(tmp_path / "half.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, a in tensors.items():
        expected = a.float().numpy() if name != "number" else a.numpy()
        assert (loaded[name].dtype, loaded[name].shape) == (expected.dtype, expected.shape)
        assert loaded[name].tobytes() == expected.tobytes()  # the signs of zeros too


@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back(tmp_path, dtype):
    a = (np.random.default_rng(0).normal(size=(3, 4)) * 9).astype(dtype)
    save_safetensors({"a": a}, tmp_path / "a", prefix="x.", metadata={"by": "test"})
    loaded = load_safetensors(tmp_path / "a", prefix="x.")["a"]
    assert loaded.dtype == (np.float32 if dtype == "float16" else a.dtype)
    np.testing.assert_array_equal(loaded, a)
    assert loaded.flags.writeable


def test_layouts_are_written_as_they_read(layout, tmp_path):
    """The package alone writes the memory behind an array, whatever its strides."""
    a = np.arange(24.0).reshape(2, 3, 4)
    save_safetensors({"a": layout(a)}, tmp_path / "a")
    loaded = load_safetensors(tmp_path / "a")["a"]
    assert loaded.dtype == np.float64
    np.testing.assert_array_equal(loaded, a)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,)])
def test_small_shapes(tmp_path, shape):
    save_safetensors({"a": np.ones(shape)}, tmp_path / "a")
    assert load_safetensors(tmp_path / "a")["a"].shape == shape


def test_what_we_write_loads_in_torch(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    rnn = torch.nn.RNN(3, 4)
    network = describe({name: a.numpy() + 1 for name, a in rnn.state_dict().items()})
    save_safetensors(network.state_dict, tmp_path / "a.safetensors", prefix="rnn.")
    loaded = load_file(tmp_path / "a.safetensors")
    model = torch.nn.ModuleDict({"rnn": rnn})
    model.load_state_dict(loaded)
    np.testing.assert_array_equal(rnn.bias_hh_l0.detach().numpy(), network.state_dict["bias_hh_l0"])


def test_no_names(tmp_path):
    save_safetensors({}, tmp_path / "a")
    assert load_safetensors(tmp_path / "a") == {}
    with pytest.raises(ValueError, match="prefix must begin one of the 0 names"):
        load_safetensors(tmp_path / "a", prefix="rnn.")


HOSTILE = {
    "empty": b"",
    "short": b"\x01\0\0",
    "no header": b"\0" * 8,
    "a long header": file_of({}, size=2**62),
    "text": b"weights weights weights weights",
    "half a header": file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234")[:30],
    "no JSON": file_of(b"{{{{", b"1234"),
    "a list": file_of([1, 2]),
    "cut": file_of({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
    "more than said": file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678"),
    "huge": file_of({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"1234"),
    "negative": file_of({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
    "offsets": file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [2**40, 2**40 + 4]}}, b"1234"),
    "backwards": file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"1234"),
    "shape": file_of({"a": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 4]}}, b"1234"),
    "dtype": file_of({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "overlap": file_of({n: {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]} for n in ("a", "b")}, b"12345678"),
    "no offsets": file_of({"a": {"dtype": "F32", "shape": [1]}}, b"1234"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_files(tmp_path, case):
    path = tmp_path / "a.safetensors"
    path.write_bytes(HOSTILE[case])
    with pytest.raises(ValueError, match=r"must be a whole \.safetensors file"):
        load_safetensors(path)


def test_every_truncation(tmp_path):
    path = tmp_path / "a.safetensors"
    save_safetensors({"a": np.arange(3.0), "b": np.ones((2, 2), np.float32)}, path)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="whole"):
            load_safetensors(path)


def test_dtypes_that_numpy_has_not(tmp_path):
    header = {
        "a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
    }
    path = tmp_path / "a"
    path.write_bytes(file_of(header, b"\0" * 8))
    with pytest.raises(ValueError, match="a must have a dtype of NumPy or bfloat16, got F8_E4M3"):
        load_safetensors(path)
    assert load_safetensors(path, prefix="b").keys() == {""}


def test_paths(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_safetensors(tmp_path / "absent")
    with pytest.raises((OSError, ValueError)):
        load_safetensors(tmp_path)
    with pytest.raises(TypeError):
        load_safetensors(3)
    with pytest.raises(OSError):
        save_safetensors({}, tmp_path / "absent" / "a")


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (TypeError, "state_dict must be a mapping", [1], {}),
        (TypeError, "state_dict must have text as names", {1: np.ones(1)}, {}),
        (ValueError, "__metadata__", {"__metadata__": np.ones(1)}, {}),
        (TypeError, "a must be real numbers", {"a": np.ones(1, complex)}, {}),
        (TypeError, "a must be real numbers", {"a": np.ones(1, np.longdouble)}, {}),
        (TypeError, "a must be real numbers", {"a": "text"}, {}),
        (TypeError, "a must be real numbers", {"a": None}, {}),
        (ValueError, "a must be an array", {"a": [[1], [1, 2]]}, {}),
        (TypeError, "prefix must be text", {}, {"prefix": None}),
        (TypeError, "metadata must be a mapping of text", {}, {"metadata": {"a": 1}}),
        (TypeError, "metadata must be a mapping of text", {}, {"metadata": "text"}),
    ],
)
def test_errors_write_nothing(tmp_path, error, message, arguments, options):
    path = tmp_path / "a"
    path.write_bytes(b"kept")
    with pytest.raises(error, match=message):
        save_safetensors(arguments, path, **options)
    assert path.read_bytes() == b"kept"


def test_import_without_safetensors(tmp_path):
    script = (
        "import sys; sys.modules['safetensors'] = None; import pyrnn.bridges.safetensors as s\n"
        "for call in (lambda: s.load_safetensors('x'), lambda: s.save_safetensors({}, 'x')):\n"
        "    try: call()\n"
        "    except ImportError as error: assert 'pyrnn-bptt[safetensors]' in str(error)\n"
        "    else: raise SystemExit(1)\n"
    )
    process = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=3600, cwd=tmp_path
    )
    assert process.returncode == 0, process.stderr
    assert not list(tmp_path.iterdir())
