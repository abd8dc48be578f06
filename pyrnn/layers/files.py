"""An RNN in a file: .npz, which NumPy reads, or .safetensors, which PyTorch does."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn.layers import npz, parameters, safetensors

if TYPE_CHECKING:
    from pyrnn._types import Path

KEY = "pyrnn.RNN"  # under which the arguments of the constructor lie, as JSON
SUFFIXES = (".npz", ".safetensors")


def save(path: Path, arguments: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> None:
    """Write the arguments of a constructor and a state_dict."""
    path, suffix = _path(path)
    text = json.dumps(arguments)
    if suffix == ".npz":
        arrays: dict[str, Any] = {**state, KEY: np.array(text)}
        np.savez(path, **arrays)
    else:
        safetensors.write(path, state, {KEY: text})


def load(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The arguments and the state_dict of a file, which fit each other."""
    path, suffix = _path(path)
    if suffix == ".npz":
        state = npz.read(path, text=(KEY,))
        text = state.pop(KEY, None)
    else:
        state, metadata = safetensors.read(path)
        text = metadata.get(KEY)
    if text is None:
        raise ValueError(
            f"{path} has no arguments of pyrnn.RNN, only arrays: {parameters.listed(state) or 'none'}. Make an "
            "RNN and give them to its load_state_dict"
        )
    arguments = parse(path, text)
    _check_sizes(path, arguments, state)
    return arguments, state


def parse(path: str, text: str) -> dict[str, Any]:
    """The arguments that a file holds as JSON."""
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has arguments of pyrnn.RNN that are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"{path} must have arguments of pyrnn.RNN by name, got {text:.80}")
    return arguments


def _check_sizes(path: str, arguments: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> None:
    """Raise unless the arrays are those that the arguments declare, which may be any number of any size."""
    defaults = {"input_size": None, "hidden_size": None, "num_layers": 1, "bidirectional": False, "bias": True}
    sizes = {name: arguments.get(name, default) for name, default in (defaults | {"output_size": None}).items()}
    for name, value in sizes.items():
        flag = name in ("bidirectional", "bias")
        valid = isinstance(value, bool) if flag else isinstance(value, int) and 0 < value < 2**63
        if not valid and not (name == "output_size" and value is None):
            expected = "True or False" if flag else "a positive integer"
            raise ValueError(
                f"{path} has arguments that RNN does not take: {name} must be {expected}, got {value!r:.80}"
            )
    if sizes["num_layers"] > max(1, len(state)):
        raise ValueError(f"{path} must have arrays of {sizes['num_layers']} layers, got {len(state)} arrays in all")
    shapes = parameters.layout(**sizes)
    if misfits := parameters.misfits(shapes, {name: a.shape for name, a in state.items()}):
        raise ValueError(f"{path} must have the arrays that its arguments declare: {misfits}")
    dtype = arguments.get("dtype", "float32")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"{path} has arguments that RNN does not take: dtype {dtype!r:.80}")
    for name, a in state.items():
        if a.dtype.kind == "f" and a.dtype.itemsize > np.dtype(dtype).itemsize:
            raise ValueError(f"{path} declares numbers of {dtype}, got {name} of {a.dtype}, which has more digits")
    # Narrow numbers that are compressed become wide ones.
    built, size = parameters.size(shapes) * np.dtype(dtype).itemsize, os.path.getsize(path)
    if built > max(npz.SMALL, npz.EXPANSION * size):
        raise ValueError(f"{path}: its {size} bytes would become {built} of {dtype}: write the arrays uncompressed")


def _path(path: Path) -> tuple[str, str]:
    path = os.fspath(path)
    if not isinstance(path, str):
        path = os.fsdecode(path)
    suffix = os.path.splitext(path)[1]
    if suffix not in SUFFIXES:
        raise ValueError(f"path must end in {' or '.join(SUFFIXES)}, got {path!r}")
    return path, suffix
