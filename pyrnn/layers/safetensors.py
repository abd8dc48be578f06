"""Arrays in .safetensors files, read and written. The package safetensors is imported when it is used."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import ModuleType

import numpy as np

# The widened dtype of what NumPy has not, or what pyrnn does not compute in; others stay what they are.
_WIDENED = {"F16": np.float32, "BF16": np.float32}
_KEPT = {"F32", "F64", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL"}


def read(path: str, prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays whose names begin with the prefix, which they keep, and the metadata.

    The package checks the header before anything is read: lengths and offsets must cover the file exactly. Raises
    ValueError, with the path, for everything that the file may have wrong.
    """
    safetensors = package()
    os.stat(path)  # the package's own errors for missing files differ by version
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            wanted = [name for name in dtypes if name.startswith(prefix)]
            for name in wanted:
                if dtypes[name] not in _KEPT and dtypes[name] not in _WIDENED:
                    raise ValueError(f"{path}: {name} must have a dtype of NumPy or bfloat16, got {dtypes[name]}")
            arrays = {name: file.get_tensor(name) for name in wanted if dtypes[name] != "BF16"}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} must be a whole .safetensors file: {error}") from None
    if prefix and not wanted:
        raise ValueError(f"prefix must begin one of the {len(dtypes)} names of {path}, got {prefix!r}")
    try:
        arrays |= _bfloat16(path, [name for name in wanted if dtypes[name] == "BF16"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} was changed while it was read: {error}") from None
    widened = {name: _WIDENED.get(dtypes[name], arrays[name].dtype) for name in wanted}
    with np.errstate(invalid="ignore"):  # of NaN that signal, which become quiet
        return {name: arrays[name].astype(dtype, copy=False) for name, dtype in widened.items()}, metadata


def write(path: str, arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write arrays of any layout; nothing is written where one does not fit."""
    package()
    from safetensors.numpy import save

    # The package writes the memory behind an array in its own order and ignores the strides.
    arrays = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")).reshape(a.shape) for name, a in arrays.items()}
    data = save(arrays, metadata=metadata)
    with open(path, "wb") as file:
        file.write(data)


def package() -> ModuleType:
    """The package safetensors."""
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(f"it needs safetensors: python -m pip install 'pyrnn-bptt[safetensors]' ({error})") from error
    module: ModuleType = safetensors
    return module


def _bfloat16(path: str, names: list[str]) -> dict[str, np.ndarray]:
    """Arrays of bfloat16 from a file whose header has been checked, as float32: the upper halves of its bits."""
    arrays = {}
    if names:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            for name in names:
                begin, end = header[name]["data_offsets"]
                file.seek(8 + size + begin)
                halves = np.frombuffer(file.read(end - begin), "<u2").reshape(header[name]["shape"])
                arrays[name] = (halves.astype(np.uint32) << 16).view(np.float32)
    return arrays
