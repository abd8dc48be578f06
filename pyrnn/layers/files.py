"""An RNN in a file: .npz, which NumPy reads, or .safetensors, which PyTorch does."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from pyrnn.layers import npz, parameters, safetensors
from pyrnn.layers.constraints import Constraint

if TYPE_CHECKING:
    from pyrnn._types import Path

KEY = "pyrnn.RNN"  # under which the arguments of the constructor lie, as JSON
SUFFIXES = (".npz", ".safetensors")
CONSTRAINTS = KEY + ".constraints."  # begins the names of the arrays of constraints
PARTS = ("mask", "frozen", "signs")  # the arrays of a constraint


def save(path: Path, arguments: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> None:
    """Write the arguments of a constructor and a state_dict."""
    path, suffix = _path(path)
    text, constraints = as_json(arguments)
    if suffix == ".npz":
        arrays: dict[str, Any] = {**state, **constraints, KEY: np.array(text)}
        np.savez(path, **arrays)
    else:
        check_safetensors("path", arguments)
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
    if suffix != ".npz":
        check_safetensors(path, arguments)
    parts = {name: state.pop(name) for name in list(state) if name.startswith(CONSTRAINTS)}
    _check_sizes(path, arguments, state)
    if arguments.get("constraints") is not None or parts:
        arguments["constraints"] = _constraints_of(path, arguments.get("constraints"), parts, state)
    return arguments, state


def as_json(arguments: Mapping[str, Any]) -> tuple[str, dict[str, np.ndarray]]:
    """Arguments as JSON, which says of a constraint how signs are made and which arrays it has; and these arrays."""
    constraints = arguments.get("constraints") or {}
    arrays: dict[str, np.ndarray] = {}
    told = {}
    for name, constraint in constraints.items():
        parts = {part: getattr(constraint, part) for part in PARTS if getattr(constraint, part) is not None}
        arrays |= {f"{CONSTRAINTS}{name}.{part}": a for part, a in parts.items()}
        told[name] = {"dale": constraint.dale, "arrays": list(parts)}
    return json.dumps({**arguments, "constraints": told or None}), arrays


def digest(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as JSON can hold them, with a check sum for the arrays of constraints: to tell networks apart."""
    text, arrays = as_json(arguments)
    sums = {name: f"{zlib.crc32(a.astype(a.dtype.newbyteorder('<')).tobytes()):08x}" for name, a in arrays.items()}
    told: dict[str, Any] = json.loads(text)
    return told | ({"arrays of constraints": sums} if sums else {})


def check_safetensors(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise for an RNN with constraints."""
    if constraints := arguments.get("constraints"):
        names = constraints if isinstance(constraints, dict) else [str(constraints)]
        raise ValueError(
            f"{name} must be of an RNN without constraints for .safetensors, got those of {parameters.listed(names)}: "
            "PyTorch, which reads such files, would take raw weights for weights. Write an .npz file, or "
            "rnn.state_dict() | rnn.effective_weights() with pyrnn.bridges.safetensors"
        )


def _constraints_of(
    path: str, told: Any, parts: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]
) -> dict[str, Constraint]:
    """The constraints that a file declares, of arrays that it holds."""

    def fail(problem: str) -> NoReturn:
        raise ValueError(f"{path} must have the constraints that its arguments declare: {problem}")

    made, rest = {}, dict(parts)
    if not isinstance(told, dict):
        fail(f"they declare {told!r:.80}, got arrays {parameters.listed(parts)}")
    for name, one in told.items():
        if name not in state or not isinstance(one, dict) or set(one) != {"dale", "arrays"}:
            fail(f"{name!r:.80} is {one!r:.80}")
        names = one["arrays"]
        if not isinstance(names, list) or not all(part in PARTS for part in names) or len(set(names)) < len(names):
            fail(f"{name!r:.80} has arrays {names!r:.80}")
        arrays = {part: rest.pop(f"{CONSTRAINTS}{name}.{part}", None) for part in names}
        for part, a in arrays.items():
            if a is None:
                fail(f"missing: {CONSTRAINTS}{name:.80}.{part}")
            if a.shape != (state[name].shape[1:] if part == "signs" else state[name].shape):
                fail(f"{part} of {name:.80} must have the shape of its weights, {state[name].shape}, got {a.shape}")
        try:
            made[name] = Constraint(**arrays, dale=one["dale"])
        except (TypeError, ValueError) as error:
            fail(f"{name:.80}: {error!s:.200}")
    if rest:
        fail(f"unexpected: {parameters.listed(rest)}")
    return made


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
    defaults |= {"output_size": None, "train_h0": False, "train_alpha": False}
    sizes = {name: arguments.get(name, default) for name, default in defaults.items()}
    for name, value in sizes.items():
        flag = name in ("bidirectional", "bias", "train_h0", "train_alpha")
        valid = isinstance(value, bool) if flag else isinstance(value, int) and 0 < value < 2**63
        if not valid and not (name == "output_size" and value is None):
            expected = "True or False" if flag else "a positive integer"
            raise ValueError(
                f"{path} has arguments that RNN does not take: {name} must be {expected}, got {value!r:.80}"
            )
    units, alpha = arguments.get("output_units"), arguments.get("alpha", 1.0)
    if units is not None and not isinstance(units, list):
        raise ValueError(f"{path} has arguments that RNN does not take: output_units must be a list, got {units!r:.80}")
    if sizes["num_layers"] > max(1, len(state)):
        raise ValueError(f"{path} must have arrays of {sizes['num_layers']} layers, got {len(state)} arrays in all")
    h0, trained = sizes.pop("train_h0"), sizes.pop("train_alpha")
    read, count = None if units is None else len(units), len(alpha) if isinstance(alpha, list) else 1
    shapes = parameters.layout(**sizes, read=read, h0=h0, alphas=trained * count)
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
