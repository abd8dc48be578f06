"""PyTorch checkpoints as .safetensors files, without PyTorch. The package safetensors is imported when it is used."""

import json
import os
from collections.abc import Mapping

import numpy as np

from pyrnn import _checks

# The widened dtype of what NumPy has not, or what pyrnn does not compute in; others stay what they are.
_WIDENED = {"F16": np.float32, "BF16": np.float32}
_KEPT = {"F32", "F64", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL"}


def load_safetensors(path, *, prefix=""):
    """Read the arrays of a .safetensors file.

    Parameters
    ----------
    path : path-like
    prefix : str
        Only names that begin so are read, and lose it: ``"rnn."`` for the network of a model.

    Returns
    -------
    state_dict : dict of str to ndarray
        New arrays, in the order of the file. float16 and bfloat16 come as float32, which holds them exactly; everything
        else as it was. `pyrnn.state_dict.describe` finds the network in it.

    Raises
    ------
    ImportError
        If the package safetensors is missing.
    OSError
        If the file cannot be read.
    ValueError
        If it is no such file, is cut short or contradicts itself, if no name begins with the prefix, or if an array is
        of eight-bit floats or another dtype that NumPy has not.

    Notes
    -----
    The package checks the header before anything is read: lengths and offsets must cover the file exactly.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> from pyrnn.safetensors import load_safetensors, save_safetensors
    >>> path = os.path.join(tempfile.mkdtemp(), "network.safetensors")
    >>> save_safetensors({"weight_hh_l0": np.eye(2, dtype=np.float32)}, path, prefix="rnn.")
    >>> load_safetensors(path)
    {'rnn.weight_hh_l0': array([[1., 0.],
           [0., 1.]], dtype=float32)}
    """
    safetensors = _import()
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be text, got {prefix!r}")
    path = os.fspath(path)
    os.stat(path)  # the package's own errors for missing files differ by version
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
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
    arrays |= _bfloat16(path, [name for name in wanted if dtypes[name] == "BF16"])
    return {
        name.removeprefix(prefix): arrays[name].astype(_WIDENED.get(dtypes[name], arrays[name].dtype), copy=False)
        for name in wanted
    }


def save_safetensors(state_dict, path, *, prefix="", metadata=None):
    """Write arrays to a .safetensors file that PyTorch and others read.

    Parameters
    ----------
    state_dict : mapping of str to array_like
        Names and arrays, of any dtype that NumPy shares with the format. Nothing is rounded.
    path : path-like
        An existing file is replaced.
    prefix : str
        Is put before every name.
    metadata : mapping of str to str, optional
        Goes into the header.

    Raises
    ------
    ImportError
        If the package safetensors is missing.
    OSError
        If the file cannot be written.
    ValueError, TypeError
        If a name is no text, the metadata are not text, or an array is complex, long double, of text or of objects.
        Nothing is written then.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> from pyrnn.safetensors import save_safetensors
    >>> save_safetensors({"b": np.ones(2)}, os.path.join(tempfile.mkdtemp(), "b.safetensors"))
    """
    _import()
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a mapping of names to arrays, got {type(state_dict).__name__}")
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be text, got {prefix!r}")
    if metadata is not None and not (
        isinstance(metadata, Mapping) and all(isinstance(text, str) for pair in metadata.items() for text in pair)
    ):
        raise TypeError(f"metadata must be a mapping of text to text, got {metadata!r}")
    arrays = {}
    for name, value in state_dict.items():
        if not isinstance(name, str):
            raise TypeError(f"state_dict must have text as names, got {name!r}")
        if prefix + name == "__metadata__":
            raise ValueError("state_dict must not have the name '__metadata__', which the format keeps for itself")
        a = _checks.as_array(name, value)
        if a.dtype.kind not in "fiub" or a.dtype.char == "g":
            raise TypeError(f"{name} must be real numbers of at most eight bytes, got dtype {a.dtype}")
        # The package writes the memory behind an array as it lies, whatever its strides say.
        arrays[prefix + name] = np.ascontiguousarray(a, a.dtype.newbyteorder("<")).reshape(a.shape)
    from safetensors.numpy import save

    data = save(arrays, metadata=None if metadata is None else dict(metadata))
    with open(path, "wb") as file:
        file.write(data)


def _import():
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(f"it needs safetensors: python -m pip install 'pyrnn-bptt[safetensors]' ({error})") from error
    return safetensors


def _bfloat16(path, names):
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
