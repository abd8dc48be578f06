"""Constants of an ONNX graph: initializers, and what a few operators that move numbers make of them.

A small file may ask for any amount of memory and work. So no operator of the package onnx is run: those here check the
size of what they make before they make it, and all of them together may make a few times what the model holds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

# Bytes of all values together: so many, or so many times the model, whichever is more.
SMALL, EXPANSION = 2**22, 32
_MAX_DIMENSIONS = 32
_TYPES = (
    *("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "BOOL"),
    *("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
)


class Constants:
    """Which values of a graph are constants, and their arrays; folder: where other files with data lie, or None."""

    def __init__(self, onnx: ModuleType, model: Any, folder: str | None) -> None:
        self.onnx, self.folder = onnx, folder
        self.nodes = list(model.graph.node)  # one object for each: attributes are kept by its id
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._types = {getattr(onnx.TensorProto, name): name for name in _TYPES}
        self._held, self._made = model.ByteSize(), 0  # bytes
        self._arrays: dict[str, np.ndarray] = {}
        self._weights: dict[str, np.ndarray | None] = {}
        self._attributes: dict[int, dict[str, Any]] = {}
        self._files: set[str] = set()
        # By the name of a value: the node that makes it of constants alone, and the first one that is not read, or None
        # where the value comes at run time.
        self._makers: dict[str, int] = {}
        self._obstacles: dict[str, Any] = {}
        later = {name for node in self.nodes for name in node.output}
        for i, node in enumerate(self.nodes):
            inputs = [name for name in node.input if name and name not in self.initializers]
            outputs = [name for name in node.output if name]
            for name in outputs:
                if name in self.initializers or name in self._makers or name in self._obstacles:
                    raise ValueError(f"model must make each value once, got {name!r:.80} twice")
            if disorder := [name for name in inputs if name in later]:
                raise ValueError(f"model must have its nodes in order, got {disorder[0]!r:.80} before it is made")
            later.difference_update(outputs)
            if all(map(self.known, inputs)):
                behind = [self._obstacles[name] for name in inputs if name in self._obstacles]
                if not behind and node.domain in ("", "ai.onnx") and node.op_type in OPERATORS:
                    self._makers.update(dict.fromkeys(outputs, i))
                    continue
                obstacle = behind[0] if behind else node
            else:
                obstacle = None
            self._obstacles.update(dict.fromkeys(outputs, obstacle))

    def known(self, name: str) -> bool:
        """Whether a value is a constant, or made of constants by an operator that is not read."""
        return name in self.initializers or name in self._makers or self._obstacles.get(name) is not None

    def obstacle(self, name: str) -> Any:
        """The first node behind a value that makes something of constants and is not read; None if there is none."""
        return None if name in self.initializers or name in self._makers else self._obstacles.get(name)

    def array(self, name: str) -> np.ndarray | None:
        """The value of a constant; None if it is none."""
        if name not in self.initializers and name not in self._makers:
            return None
        try:
            needed, names = set(), [name]
            while names:
                value = names.pop()
                if value and value not in self._arrays and value not in self.initializers:
                    i = self._makers[value]
                    if i not in needed:
                        needed.add(i)
                        names.extend(self.nodes[i].input)
            for i in sorted(needed):
                self._compute(self.nodes[i])
            return self._value(name)
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, RuntimeError, AttributeError) as error:
            raise ValueError(f"model must have a readable constant {name!r:.80}: {error}") from error

    def weights(self, name: str) -> np.ndarray | None:
        """As `array`, with half precision as float32 and in C order: one array for all nodes that read it."""
        if name not in self._weights:
            a = self.array(name)
            if a is not None and (a.dtype.kind == "V" or a.dtype == np.float16):  # bfloat16 is void to NumPy
                self._make(4 * a.size)
                a = a.astype(np.float32)
            if a is not None and not a.flags.c_contiguous:
                self._make(a.nbytes)
                a = np.ascontiguousarray(a)
            self._weights[name] = a
        return self._weights[name]

    def attribute(self, node: Any, name: str, kind: str, default: Any = None) -> Any:
        """The value of an attribute, which must be of this kind; strings as str."""
        attributes = self._attributes.get(id(node))
        if attributes is None:
            attributes = self._attributes[id(node)] = {a.name: a for a in node.attribute}
            if len(attributes) < len(node.attribute):
                raise ValueError(f"{node.op_type} node {node.name!r:.80} must have each attribute once")
        if name not in attributes:
            return default
        a = attributes[name]
        if isinstance(a, tuple):
            got, value = a
        else:
            got, value = a.type, self.onnx.helper.get_attribute_value(a)
            attributes[name] = (got, value)
        if got != getattr(self.onnx.AttributeProto, kind):
            got = self.onnx.AttributeProto.AttributeType.Name(got)
            raise ValueError(f"{node.op_type} node {node.name!r:.80} must have {name} of type {kind}, got {got}")
        if kind == "STRING":
            return value.decode(errors="replace")
        return [text.decode(errors="replace") for text in value] if kind == "STRINGS" else value

    def tensor(self, tensor: Any) -> np.ndarray:
        """The array of a tensor of the file."""
        if tensor.data_type not in self._types:
            raise ValueError(f"data type {tensor.data_type} is not of real numbers of 1 to 8 bytes")
        if len(tensor.dims) > _MAX_DIMENSIONS:
            raise ValueError(f"it has {len(tensor.dims)} dimensions")
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            if self.folder is None:
                # onnx.load fetches such data; to_array would too, from the current folder, and write to the model
                raise ValueError(f"model must have its data in it, got {tensor.name!r} in another file: use onnx.load")
            own = self.onnx.TensorProto()
            own.CopyFrom(tensor)
            own.raw_data = self._external(tensor, self.folder)
            own.data_location = self.onnx.TensorProto.DEFAULT
            tensor = own
        a: np.ndarray = self.onnx.numpy_helper.to_array(tensor)
        self._make(a.nbytes)
        return a

    def _external(self, tensor: Any, folder: str) -> bytes:
        """The bytes of a tensor in another file, which must lie in the folder of the model."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = (int(entries[key]) if key in entries else None for key in ("offset", "length"))
        folder = os.path.realpath(folder)
        path = os.path.realpath(os.path.join(folder, entries.get("location", "")))
        if os.path.commonpath([folder, path]) != folder or not os.path.isfile(path):
            raise ValueError(f"its data must lie in a file beside the model, got {entries.get('location')!r:.80}")
        size = os.path.getsize(path)
        offset = 0 if offset is None else offset
        length = size - offset if length is None else length
        if not 0 <= offset <= size or not 0 <= length <= size - offset:
            raise ValueError(f"its data must be within {path} of {size} bytes, got {length} from {offset} on")
        if path not in self._files:
            self._files.add(path)
            self._held += size
        self._make(length)
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    def _value(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = self.tensor(self.initializers[name])
        return self._arrays[name]

    def _make(self, nbytes: int) -> None:
        """Count bytes that are about to be made."""
        self._made += nbytes
        if self._made > max(SMALL, EXPANSION * self._held):
            raise ValueError(f"its constants must not take more than {EXPANSION} times the model's {self._held} bytes")

    def _compute(self, node: Any) -> None:
        """Run one node, whose inputs are constants."""
        inputs = [self._value(name) if name else None for name in node.input]
        results = OPERATORS[node.op_type](self, node, *inputs)
        if len(results) < len(node.output):
            raise ValueError(f"{node.op_type} node {node.name!r:.80} must have {len(results)} outputs")
        self._arrays.update(zip(node.output, results, strict=False))

    def _integers(self, node: Any, name: str, given: np.ndarray | None) -> list[int] | Any:
        """A list of integers that is an input or, in older models, an attribute; None without one."""
        if given is None:
            return self.attribute(node, name, "INTS")
        if given.dtype.kind not in "iu" or given.ndim > 1:
            raise ValueError(f"{node.op_type} node {node.name!r:.80} must have integers as {name}, got {given.dtype}")
        return given.reshape(-1).tolist()

    # ---- Operators ------------------------------------------------------------------------------------------------
    def _constant(self, node: Any) -> tuple[np.ndarray]:
        if (value := self.attribute(node, "value", "TENSOR")) is not None:
            return (self.tensor(value),)
        dtypes = {"FLOAT": np.float32, "FLOATS": np.float32, "INT": np.int64, "INTS": np.int64}
        for kind, dtype in dtypes.items():
            if (value := self.attribute(node, f"value_{kind.lower()}", kind)) is not None:
                self._make(8 * np.size(value))
                return (np.array(value, dtype),)
        raise ValueError(f"Constant node {node.name!r:.80} must have a value of numbers")

    def _identity(self, node: Any, a: np.ndarray) -> tuple[np.ndarray]:
        return (a,)

    def _cast(self, node: Any, a: np.ndarray) -> tuple[np.ndarray]:
        to = self.attribute(node, "to", "INT")
        if to not in self._types:
            raise ValueError(f"Cast node {node.name!r:.80} must be to real numbers of 1 to 8 bytes, got data type {to}")
        dtype = np.dtype(self.onnx.helper.tensor_dtype_to_np_dtype(to))
        self._make(a.size * dtype.itemsize)
        with np.errstate(all="ignore"):
            return (a.astype(dtype),)

    def _concat(self, node: Any, *arrays: np.ndarray) -> tuple[np.ndarray]:
        if len({a.dtype for a in arrays}) != 1:
            raise ValueError(f"Concat node {node.name!r:.80} must have inputs of one type")
        self._make(sum(a.nbytes for a in arrays))
        return (np.concatenate(arrays, self.attribute(node, "axis", "INT", 0)),)

    def _gather(self, node: Any, a: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray]:
        if indices.dtype.kind not in "iu" or a.ndim + indices.ndim - 1 > _MAX_DIMENSIONS:
            raise ValueError(f"Gather node {node.name!r:.80} must have integers as indices, of few dimensions")
        axis = self._axis(node, self.attribute(node, "axis", "INT", 0), a.ndim)
        self._make(math.prod(a.shape[:axis] + indices.shape + a.shape[axis + 1 :]) * a.itemsize)
        return (np.take(a, indices, axis=axis),)

    def _reshape(self, node: Any, a: np.ndarray, given: np.ndarray | None = None) -> tuple[np.ndarray]:
        shape = self._integers(node, "shape", given)
        self._check_dimensions(node, len(shape))
        if not self.attribute(node, "allowzero", "INT", 0):
            shape = [n if n else a.shape[i] for i, n in enumerate(shape)]
        self._make(a.nbytes)
        return (np.ascontiguousarray(a).reshape(shape),)

    def _slice(self, node: Any, a: np.ndarray, *given: np.ndarray | None) -> tuple[np.ndarray]:
        names = ("starts", "ends", "axes", "steps")
        given += (None,) * (4 - len(given))
        starts, ends, axes, steps = (self._integers(node, name, v) for name, v in zip(names, given, strict=True))
        self._check_dimensions(node, len(starts))
        axes = list(range(len(starts))) if axes is None else axes
        steps = [1] * len(starts) if steps is None else steps
        at: list[slice] = [slice(None)] * a.ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            at[self._axis(node, axis, a.ndim)] = slice(start, end, step)
        return (a[tuple(at)],)

    def _split(self, node: Any, a: np.ndarray, given: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        sizes, count = self._integers(node, "split", given), len(node.output)
        axis = self._axis(node, self.attribute(node, "axis", "INT", 0), a.ndim)
        n = a.shape[axis]
        if sizes is None:
            each = -(-n // count)
            sizes = [each] * (count - 1) + [n - each * (count - 1)]
        if len(sizes) != count or min(sizes) < 0 or sum(sizes) != n:
            raise ValueError(f"Split node {node.name!r:.80} must have {count} sizes of the sum {n}")
        ends = np.cumsum(sizes).tolist()
        before = (slice(None),) * axis
        return tuple(a[(*before, slice(end - size, end))] for size, end in zip(sizes, ends, strict=True))

    def _squeeze(self, node: Any, a: np.ndarray, given: np.ndarray | None = None) -> tuple[np.ndarray]:
        axes = self._integers(node, "axes", given)
        self._check_dimensions(node, len(axes or ()))
        return (np.squeeze(a, None if axes is None else tuple(axes)),)

    def _transpose(self, node: Any, a: np.ndarray) -> tuple[np.ndarray]:
        return (np.transpose(a, self.attribute(node, "perm", "INTS")),)

    def _unsqueeze(self, node: Any, a: np.ndarray, given: np.ndarray | None = None) -> tuple[np.ndarray]:
        axes = self._integers(node, "axes", given)
        self._check_dimensions(node, a.ndim + len(axes))
        return (np.expand_dims(a, tuple(axes)),)

    def _axis(self, node: Any, axis: int, dimensions: int) -> int:
        if not -dimensions <= axis < dimensions:
            raise ValueError(f"{node.op_type} node {node.name!r:.80} must have an axis of {dimensions}, got {axis}")
        return axis % dimensions

    def _check_dimensions(self, node: Any, dimensions: int) -> None:
        if dimensions > _MAX_DIMENSIONS:
            raise ValueError(f"{node.op_type} node {node.name!r:.80} must have few dimensions, got {dimensions}")


# Of these exporters make weights.
OPERATORS: dict[str, Callable[..., tuple[np.ndarray, ...]]] = {
    "Cast": Constants._cast,
    "Concat": Constants._concat,
    "Constant": Constants._constant,
    "Gather": Constants._gather,
    "Identity": Constants._identity,
    "Reshape": Constants._reshape,
    "Slice": Constants._slice,
    "Split": Constants._split,
    "Squeeze": Constants._squeeze,
    "Transpose": Constants._transpose,
    "Unsqueeze": Constants._unsqueeze,
}
