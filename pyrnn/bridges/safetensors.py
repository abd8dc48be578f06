"""PyTorch checkpoints as .safetensors files, without PyTorch. The package safetensors is imported when it is used."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyrnn.arguments import as_array
from pyrnn.layers import safetensors
from pyrnn.layers.files import KEY, check_safetensors, parse
from pyrnn.layers.parameters import StateDict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import Path


def load_safetensors(path: Path, *, prefix: str = "") -> StateDict:
    """Read the arrays of a .safetensors file.

    Parameters
    ----------
    path : path-like
    prefix : str
        Only names that begin so are read, and lose it: ``"rnn."`` for the network of a model.

    Returns
    -------
    state_dict : pyrnn.layers.StateDict
        A dict of str to ndarray: new arrays, in the order of the file. Its ``arguments`` are those that
        `save_safetensors` has written for an `RNN`. float16 and bfloat16 come as float32, which holds them exactly;
        everything else as it was. `pyrnn.bridges.state_dict.describe` finds the network in it.

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
    >>> from pyrnn.bridges.safetensors import load_safetensors, save_safetensors
    >>> path = os.path.join(tempfile.mkdtemp(), "network.safetensors")
    >>> save_safetensors({"weight_hh_l0": np.eye(2, dtype=np.float32)}, path, prefix="rnn.")
    >>> load_safetensors(path)
    {'rnn.weight_hh_l0': array([[1., 0.],
           [0., 1.]], dtype=float32)}
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be text, got {prefix!r}")
    path = os.fspath(path)
    arrays, metadata = safetensors.read(path, prefix)
    texts = [text for name, text in metadata.items() if name == prefix + KEY]
    if not texts and not prefix:  # all names are read: those of one network in the file
        texts = [text for name, text in metadata.items() if name.endswith(KEY)]
    arguments = parse(path, texts[0]) if len(texts) == 1 else None
    check_safetensors(path, arguments or {})  # which `save_safetensors` does not write
    return StateDict({name.removeprefix(prefix): a for name, a in arrays.items()}, arguments)


def save_safetensors(
    state_dict: Mapping[str, ArrayLike], path: Path, *, prefix: str = "", metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays to a .safetensors file that PyTorch and others read.

    Parameters
    ----------
    state_dict : mapping of str to array_like
        Names and arrays, of any dtype that NumPy shares with the format. Nothing is rounded. From `RNN.state_dict` the
        arguments of the constructor are written too, as metadata, so that `RNN.load` reads a file without a prefix, and
        nothing forgets a leak.
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
        If a name is no text, the metadata are not text, or an array is complex, long double, of text or of objects; or
        if `state_dict` is that of an RNN with constraints, whose raw weights others would take for weights: give
        ``rnn.state_dict() | rnn.effective_weights()``. Nothing is written then.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> from pyrnn.bridges.safetensors import save_safetensors
    >>> save_safetensors({"b": np.ones(2)}, os.path.join(tempfile.mkdtemp(), "b.safetensors"))
    """
    safetensors.package()
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
        a = as_array(name, value)
        if a.dtype.kind not in "fiub" or a.dtype.char == "g":
            raise TypeError(f"{name} must be real numbers of at most eight bytes, got dtype {a.dtype}")
        arrays[prefix + name] = a
    if isinstance(state_dict, StateDict) and state_dict.arguments:
        check_safetensors("state_dict", state_dict.arguments)
        metadata = {prefix + KEY: json.dumps(state_dict.arguments)} | dict(metadata or {})
    safetensors.write(os.fspath(path), arrays, None if metadata is None else dict(metadata))
