"""All parameters of a stack of layers in one vector, under PyTorch's names and in its order."""

import math

import numpy as np

DIRECTIONS = ("", "_reverse")


def layout(input_size, hidden_size, num_layers, bidirectional, bias, output_size):
    """The shape of every parameter by its name, in the order in which they lie in the vector."""
    H, suffixes = hidden_size, DIRECTIONS[: 1 + bidirectional]
    shapes = {}
    for layer in range(num_layers):
        columns = input_size if layer == 0 else len(suffixes) * H
        for suffix in suffixes:
            end = f"_l{layer}{suffix}"
            shapes |= {f"weight_ih{end}": (H, columns), f"weight_hh{end}": (H, H)}
            if bias:
                shapes |= {f"bias_ih{end}": (H,), f"bias_hh{end}": (H,)}
    if output_size is not None:
        shapes["weight_out"] = (output_size, len(suffixes) * H)
        if bias:
            shapes["bias_out"] = (output_size,)
    return shapes


def misfits(shapes, given):
    """Say which names of `given` are missing or unexpected and which shapes do not fit `shapes`; "" if all do."""
    missing = [name for name in shapes if name not in given]
    unexpected = [str(name) for name in given if name not in shapes]
    problems = [f"missing: {listed(missing)}"] if missing else []
    problems += [f"unexpected: {listed(unexpected)}"] if unexpected else []
    wrong = [name for name, shape in shapes.items() if name in given and given[name] != shape]
    problems += [f"{name} must have shape {shapes[name]}, got {given[name]}" for name in wrong]
    return "; ".join(problems)


def listed(names):
    """Names for a message, a few of them where there are many."""
    names = list(names)
    return ", ".join(f"{name:.80}" for name in names[:24]) + f" and {len(names) - 24} more" * (len(names) > 24)


def size(shapes):
    """How many numbers there are in all."""
    return sum(map(math.prod, shapes.values()))


def views(vector, shapes):
    """The arrays of these shapes that lie in the vector one after the other, by name."""
    arrays, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape)
        arrays[name] = vector[start:end].reshape(shape)
    return arrays


def draw(arrays, hidden_size, rng):
    """Fill the arrays as PyTorch's nn.RNN and nn.Linear do: uniform within 1/sqrt(columns of what they read)."""
    for name, a in arrays.items():
        fan_in = arrays["weight_out"].shape[1] if name.endswith("_out") else hidden_size
        bound = 1 / math.sqrt(fan_in)
        a[...] = rng.uniform(-bound, bound, a.shape)


class Workspace:
    """Arrays that are kept under a name from call to call, and grow when one does not suffice."""

    def __init__(self):
        self._arrays = {}

    def __call__(self, name, shape, dtype):
        """An array of that shape with anything in it."""
        n = math.prod(shape)
        memory = self._arrays.get(name)
        if memory is None or memory.size < n:
            memory = self._arrays[name] = np.empty(n, dtype)
        return memory[:n].reshape(shape)
