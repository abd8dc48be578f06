"""An RNN in a file: .npz, which NumPy reads, or .safetensors, which PyTorch does."""

import json
import os

import numpy as np

KEY = "pyrnn.RNN"  # under which the arguments of the constructor lie, as JSON
SUFFIXES = (".npz", ".safetensors")


def save(path, arguments, state):
    """Write the arguments of a constructor and a state_dict."""
    path, suffix = _path(path)
    text = json.dumps(arguments)
    if suffix == ".npz":
        np.savez(path, **state, **{KEY: np.array(text)})
    else:
        _safetensors().save_file(state, path, metadata={KEY: text})


def load(path):
    """The arguments and the state_dict of a file."""
    path, suffix = _path(path)
    text, state = _read_npz(path) if suffix == ".npz" else _read_safetensors(path)
    if text is None:
        raise ValueError(
            f"{path} has no arguments of pyrnn.RNN, only arrays: {', '.join(state) or 'none'}. Make an RNN and give "
            "them to its load_state_dict"
        )
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} has arguments of pyrnn.RNN that are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"{path} must have arguments of pyrnn.RNN by name, got {text}")
    return arguments, state


def _path(path):
    path = os.fspath(path)
    if not isinstance(path, str):
        path = os.fsdecode(path)
    suffix = os.path.splitext(path)[1]
    if suffix not in SUFFIXES:
        raise ValueError(f"path must end in {' or '.join(SUFFIXES)}, got {path!r}")
    return path, suffix


def _read_npz(path):
    try:
        file = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no .npz file: {error}") from None
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} is no .npz file but holds one array")
    with file:
        state = {name: file[name] for name in file.files}
    text = state.pop(KEY, None)
    return None if text is None else str(text), state


def _read_safetensors(path):
    _safetensors()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get(KEY), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no .safetensors file: {error}") from None


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            ".safetensors files need the package safetensors: python -m pip install safetensors, or use .npz"
        ) from None
    return safetensors.numpy
