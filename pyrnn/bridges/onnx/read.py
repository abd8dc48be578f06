"""The RNN nodes of an ONNX graph: their weights, their options, and which one reads which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn.bridges.onnx.constants import OPERATORS, Constants
from pyrnn.cell import NEGATIVE_SLOPE

if TYPE_CHECKING:
    from typing import TypeAlias

    from pyrnn._types import Nonlinearity

    _Function: TypeAlias = tuple[str | float | None, ...]  # a name, and alpha and beta where it takes them

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}  # is each one reversed?
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h")

# How many values of activation_alpha and of activation_beta each function takes from the lists.
_TAKES = {
    "Tanh": (0, 0),
    "Relu": (0, 0),
    "Sigmoid": (0, 0),
    "Softsign": (0, 0),
    "Softplus": (0, 0),
    "LeakyRelu": (1, 0),
    "ThresholdedRelu": (1, 0),
    "Elu": (1, 0),
    "Affine": (1, 1),
    "ScaledTanh": (1, 1),
    "HardSigmoid": (1, 1),
}
# Which of them, with which values, are functions of ours. None: not given, where all agree on what that means.
_EQUALS: dict[_Function, Nonlinearity] = {
    ("Tanh",): "tanh",
    ("Relu",): "relu",
    ("Softplus",): "softplus",
    ("Sigmoid",): "sigmoid",
    ("LeakyRelu", 0.0): "relu",
    ("LeakyRelu", 1.0): "identity",
    ("ThresholdedRelu", 0.0): "relu",
    ("Affine", 1.0, 0.0): "identity",
    ("Affine", 1.0, None): "identity",
    ("ScaledTanh", 1.0, 1.0): "tanh",
}
_ATTRIBUTES = {
    "activation_alpha",
    "activation_beta",
    "activations",
    "clip",
    "direction",
    "hidden_size",
    "layout",
    "output_sequence",  # of opset 1: whether Y is wanted
}
# Operators that make zeros of zeros, whatever their other inputs say.
_OF_ZEROS = OPERATORS.keys() - {"Concat", "Constant"} | {"Expand"}
# So many nodes at most stand between what belongs together: a hostile graph has chains without end.
_BETWEEN = 64


class Graph:
    """The graph of a model, by the names of its values; folder: where other files with its data lie, or None."""

    def __init__(self, onnx: ModuleType, model: Any, folder: str | None = None) -> None:
        self.onnx = onnx
        if model.graph.sparse_initializer:
            raise ValueError("model must not have sparse initializers, got some")
        self.constants = Constants(onnx, model, folder)
        self.attribute = self.constants.attribute
        self.nodes = [node for node in self.constants.nodes if node.domain in ("", "ai.onnx")]
        self.makers = {output: i for i, node in enumerate(self.nodes) for output in node.output if output}
        self.rnns = [i for i, node in enumerate(self.nodes) if node.op_type == "RNN"]
        self.numbers = {i: number for number, i in enumerate(self.rnns)}
        bodies = [body for node in self.constants.nodes for body in _subgraphs(node)] + list(model.functions)
        if any(map(_contains_rnn, bodies)):
            raise ValueError("model must have its RNN nodes in the main graph, got one in a subgraph or a function")
        if not self.rnns:
            kinds = {node.op_type for node in model.graph.node}
            raise ValueError(f"model must have an RNN node, got {_listed(kinds) or 'no nodes'}")

    def maker(self, name: str) -> Any:
        """The node that a value comes from, or None."""
        return self.nodes[self.makers[name]] if name in self.makers else None

    def is_zero(self, name: str) -> bool:
        """Whether a value is zeros of a shape that only the run tells, as PyTorch's exporter makes them."""
        for _ in range(_BETWEEN):
            a = self.constants.array(name)
            if a is not None:
                return bool(a.dtype.kind in "fiub" and not a.any())
            node = self.maker(name)
            if node is None:
                return False
            if node.op_type == "ConstantOfShape":
                value = self.attribute(node, "value", "TENSOR")
                return value is None or not self.constants.tensor(value).any()
            if node.op_type not in _OF_ZEROS or not node.input:
                return False
            name = node.input[0]
        return False


def _listed(names: Iterable[object]) -> str:
    """Names of a file for a message: text, or bytes where a damaged file has no text there."""
    return ", ".join(f"{name:.40}" for name in sorted(map(str, names))[:12])


def _subgraphs(node: Any) -> Iterator[Any]:
    for a in node.attribute:
        yield from a.graphs
        if a.HasField("g"):
            yield a.g


def _contains_rnn(body: Any) -> bool:
    return any(node.op_type == "RNN" or any(map(_contains_rnn, _subgraphs(node))) for node in body.node)


def rnn_fields(graph: Graph, number: int) -> tuple[dict[str, Any], int | None]:
    """The fields of the OnnxRNN of one node, whose shapes are still to be checked, and its hidden_size or None."""
    node = graph.nodes[graph.rnns[number]]
    where = f"RNN node {node.name!r}"
    value: Callable[..., Any] = lambda name, kind, default=None: graph.attribute(node, name, kind, default)
    if unknown := {a.name for a in node.attribute} - _ATTRIBUTES:
        raise ValueError(f"{where} must have attributes of the operator RNN, got {_listed(unknown)}")
    clip = value("clip", "FLOAT")
    if clip is not None:
        raise ValueError(f"{where} must have no clip, which pyrnn has not, got {clip}")
    direction = value("direction", "STRING", "forward")
    if direction not in DIRECTIONS:
        raise ValueError(f"{where} must have a direction of {', '.join(DIRECTIONS)}, got {direction!r}")
    constants, dynamic = _inputs(graph, node, where)
    nonlinearities, slopes = _nonlinearities(value, len(DIRECTIONS[direction]))
    fields = {
        **constants,
        "direction": direction,
        "nonlinearities": nonlinearities,
        "negative_slopes": slopes,
        "layout": value("layout", "INT", 0),
        "name": node.name,
        "inputs": dynamic,
        "number": number,
        "source": _source(graph, node),
    }
    return fields, value("hidden_size", "INT")


def _inputs(graph: Graph, node: Any, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Constant inputs as arrays, and the names of those that come at run time."""
    constants, dynamic = {}, {}
    given = dict(zip(INPUTS, node.input, strict=False))
    for name in INPUTS:
        value = given.get(name, "")
        if not value:
            if name in ("X", "W", "R"):
                raise ValueError(f"{where} must have an input {name}, got none")
            continue
        constant = None if name == "X" else graph.constants.weights(value)
        if constant is not None:
            constants[name] = constant
        elif name in ("W", "R", "B"):
            raise ValueError(f"{where} must have constant weights, got {name} {_origin(graph, value)}")
        elif not (name == "initial_h" and graph.is_zero(value)):
            dynamic[name] = value
    return constants, dynamic


def _origin(graph: Graph, value: str) -> str:
    """Say where a value comes from that is no constant to us."""
    node = graph.constants.obstacle(value)
    if node is None:
        return f"computed at run time as {value!r:.80}"
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return (
        f"from the operator {kind!s:.80} of node {node.name!r:.80}, which pyrnn does not read, but only "
        f"{', '.join(sorted(OPERATORS))}: fold the model's constants first"
    )


def _nonlinearities(value: Callable[..., Any], D: int) -> tuple[tuple[Nonlinearity, ...], tuple[float, ...]]:
    """The functions of a node and their negative slopes, one for each direction; value: gives its attributes."""
    functions = value("activations", "STRINGS", ["Tanh"] * D)
    if len(functions) != D:
        raise ValueError(f"activations must have {D} names, one for each direction, got {functions}")
    alphas, betas = (list(value(f"activation_{name}", "FLOATS", [])) for name in ("alpha", "beta"))
    found: list[tuple[Nonlinearity, float]] = []
    for function in functions:
        key: _Function = (function,)
        for count, values in zip(_TAKES.get(function, ()), (alphas, betas), strict=False):
            key += (values.pop(0) if values else None,) if count else ()
        if key in _EQUALS:
            found.append((_EQUALS[key], NEGATIVE_SLOPE))
        elif key[0] == "LeakyRelu" and isinstance(key[1], float) and 0 < key[1] < np.inf:
            found.append(("leaky_relu", key[1]))
        else:
            known = ", ".join(dict.fromkeys(map(_spoken, _EQUALS)))
            raise ValueError(
                f"activations must be functions of pyrnn.Cell, that is {known}, or LeakyRelu with an alpha that is not "
                f"negative, got {_spoken(key)}"
            )
    names, slopes = zip(*found, strict=True)
    return names, slopes


def _spoken(key: _Function) -> str:
    """A function with its values, for a message."""
    values = [f"{letter} {v:g}" for letter, v in zip(("alpha", "beta"), key[1:], strict=False) if v is not None]
    absent = [letter for letter, v in zip(("alpha", "beta"), key[1:], strict=False) if v is None]
    with_, without = (
        f" {word} {' and '.join(some)}" if some else "" for word, some in (("with", values), ("without", absent))
    )
    return f"{key[0]:.80}{with_}{without}"


def _source(graph: Graph, node: Any) -> int | None:
    """Which RNN node's Y is the X of this one, with nothing between but changes of shape that keep its meaning."""
    between, name = [], node.input[0]
    while (below := graph.maker(name)) is not None and below.op_type != "RNN":
        if below.op_type not in ("Identity", "Dropout", "Squeeze", "Transpose", "Reshape") or not below.input:
            return None
        if below.op_type == "Dropout" and (len(below.input) > 2 or name != below.output[0]):
            return None  # with training_mode given, or its mask
        between.append(below)
        if len(between) > _BETWEEN:
            return None
        name = below.input[0]
    if below is None or name != below.output[0]:
        return None
    directions = 2 if graph.attribute(below, "direction", "STRING", "forward") == "bidirectional" else 1
    W = graph.constants.array(below.input[1]) if len(below.input) > 1 else None
    if W is None or W.ndim != 3:
        return None
    width = directions * W.shape[1]
    axes = ["B", "T", "D", "H"] if graph.attribute(below, "layout", "INT", 0) else ["T", "D", "B", "H"]
    for step in reversed(between):
        if (after := _after(graph, step, axes, directions, width)) is None:
            return None
        axes = after
    wanted = ["B", "T"] if graph.attribute(node, "layout", "INT", 0) else ["T", "B"]
    if axes not in ([*wanted, "DH"], *([[*wanted, "H"]] if directions == 1 else [])):
        return None
    return graph.numbers[graph.makers[name]]


def _after(graph: Graph, step: Any, axes: list[str], directions: int, width: int) -> list[str] | None:
    """The meaning of the axes after one node; None if that is not clear."""
    value: Callable[..., Any] = lambda name, kind, default=None: graph.attribute(step, name, kind, default)
    second = graph.constants.array(step.input[1]) if step.op_type != "Dropout" and len(step.input) > 1 else None
    if step.op_type == "Transpose":
        order = value("perm", "INTS", range(len(axes))[::-1])
        right = len(order) == len(axes) and sorted(order) == list(range(len(axes)))
        return [axes[i] for i in order] if right else None
    if step.op_type == "Squeeze":
        gone = value("axes", "INTS") if second is None else second  # an attribute before opset 13
        gone = [] if gone is None or np.size(gone) != 1 else [axes[int(i) % len(axes)] for i in np.ravel(gone)]
        return [a for a in axes if a != "D"] if gone == ["D"] and directions == 1 else None
    if step.op_type == "Reshape":
        if second is None or second.shape != (3,) or axes[2:] != ["D", "H"] or value("allowzero", "INT", 0):
            return None
        kept, last = [int(n) for n in second[:2]], int(second[2])  # 0 keeps an axis, -1 takes what is left
        sure = kept == [0, 0] or (sorted(kept) == [-1, 0] and last == width)
        return [*axes[:2], "DH"] if sure else None
    return axes  # Identity, Dropout
