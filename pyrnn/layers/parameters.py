"""All parameters of a stack of layers: in one vector, or each array under PyTorch's name, in its order."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from pyrnn._types import Shape

DIRECTIONS = ("", "_reverse")
NEITHER = ("h0", "raw_alpha")  # parameters that are no weights and no biases


def layout(
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    output_size: int | None,
    read: int | None = None,
    h0: bool = False,
    alphas: int = 0,
) -> dict[str, Shape]:
    """The shape of every parameter by its name, in the order in which they lie in the vector.

    read: how many units the output layer reads, None for all; h0: whether there is one; alphas: how many are trained.
    """
    H, suffixes = hidden_size, DIRECTIONS[: 1 + bidirectional]
    shapes: dict[str, Shape] = {}
    for layer in range(num_layers):
        columns = input_size if layer == 0 else len(suffixes) * H
        for suffix in suffixes:
            end = f"_l{layer}{suffix}"
            shapes |= {f"weight_ih{end}": (H, columns), f"weight_hh{end}": (H, H)}
            if bias:
                shapes |= {f"bias_ih{end}": (H,), f"bias_hh{end}": (H,)}
    if output_size is not None:
        shapes["weight_out"] = (output_size, len(suffixes) * H if read is None else read)
        if bias:
            shapes["bias_out"] = (output_size,)
    if h0:
        shapes["h0"] = (num_layers * len(suffixes), H)
    if alphas:
        shapes["raw_alpha"] = (alphas,)
    return shapes


def misfits(shapes: Mapping[str, Shape], given: Mapping[str, Shape | None]) -> str:
    """Say which names of `given` are missing or unexpected and which shapes do not fit `shapes`; "" if all do."""
    missing = [name for name in shapes if name not in given]
    unexpected = [str(name) for name in given if name not in shapes]
    problems = [f"missing: {listed(missing)}"] if missing else []
    problems += [f"unexpected: {listed(unexpected)}"] if unexpected else []
    wrong = [name for name, shape in shapes.items() if name in given and given[name] != shape]
    problems += [f"{name} must have shape {shapes[name]}, got {given[name]}" for name in wrong]
    return "; ".join(problems)


def listed(names: Iterable[str]) -> str:
    """Names for a message, a few of them where there are many."""
    names = list(names)
    return ", ".join(f"{name:.80}" for name in names[:24]) + f" and {len(names) - 24} more" * (len(names) > 24)


def size(shapes: Mapping[str, Shape]) -> int:
    """How many numbers there are in all."""
    return sum(map(math.prod, shapes.values()))


def views(vector: np.ndarray, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """The arrays of these shapes that lie in the vector one after the other, by name."""
    arrays, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape)
        arrays[name] = vector[start:end].reshape(shape)
    return arrays


def draw(arrays: Mapping[str, np.ndarray], hidden_size: int, rng: np.random.Generator) -> None:
    """Fill weights and biases as PyTorch's nn.RNN and nn.Linear do: uniform within 1/sqrt(columns that are read)."""
    for name, a in arrays.items():
        if name in NEITHER:
            continue
        fan_in = arrays["weight_out"].shape[1] if name.endswith("_out") else hidden_size
        bound = 1 / math.sqrt(fan_in)
        a[...] = rng.uniform(-bound, bound, a.shape)


class Workspace:
    """Arrays that are kept under a name from call to call, and grow when one does not suffice."""

    def __init__(self) -> None:
        self._arrays: dict[Hashable, np.ndarray] = {}

    def __call__(self, name: Hashable, shape: Shape, dtype: DTypeLike) -> np.ndarray:
        """An array of that shape with anything in it."""
        n = math.prod(shape)
        memory = self._arrays.get(name)
        if memory is None or memory.size < n:
            memory = self._arrays[name] = np.empty(n, dtype)
        return memory[:n].reshape(shape)


class StateDict(dict[str, np.ndarray]):
    """Arrays by name, with what the arrays do not say: what `RNN.state_dict` returns.

    It is a dictionary like any other; a copy by ``dict(...)`` or a comprehension loses the attribute.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    arguments : dict
        The keyword arguments of the `pyrnn.RNN` that the arrays are of, but rng.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(arrays)
        self.arguments = dict(arguments or {})
