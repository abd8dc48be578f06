"""A network as an ONNX graph: one RNN node for each layer, and what brings one's output into the shape of the next."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn.bridges.onnx.read import DIRECTIONS

if TYPE_CHECKING:
    from pyrnn._types import Nonlinearity, OnnxDirection
    from pyrnn.bridges.state_dict import Description

OPSET = 14  # the first whose RNN has `layout`
_NODES: dict[str, tuple[str, dict[str, float]]] = {
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "identity": ("Affine", {"alpha": 1.0, "beta": 0.0}),
    "softplus": ("Softplus", {}),
    "sigmoid": ("Sigmoid", {}),
    "leaky_relu": ("LeakyRelu", {}),  # whose alpha is the slope
}


class Writer:
    """Collects the nodes and initializers of one model."""

    def __init__(
        self,
        onnx: ModuleType,
        network: Description,
        nonlinearity: Nonlinearity,
        negative_slope: float,
        direction: OnnxDirection,
        layout: int,
        dtype: np.dtype,
    ) -> None:
        self.onnx, self.network, self.direction, self.layout, self.dtype = onnx, network, direction, layout, dtype
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.D, self.H, self.L = len(DIRECTIONS[direction]), network.hidden_size, network.num_layers
        if nonlinearity not in _NODES:
            raise ValueError(f"nonlinearity must be one that the operator RNN of ONNX knows, got {nonlinearity!r}")
        function, values = _NODES[nonlinearity]
        if nonlinearity == "leaky_relu":
            values = {"alpha": negative_slope}
        self.attributes: dict[str, Any] = {
            "activations": [function] * self.D,
            "direction": direction,
            "hidden_size": self.H,
        }
        self.attributes |= {f"activation_{letter}": [value] * self.D for letter, value in values.items()}

    def constant(self, name: str, a: np.ndarray) -> str:
        self.initializers.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(a), name))
        return name

    def add(self, operator: str, inputs: list[str], outputs: list[str], **attributes: object) -> str:
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]  # the last optional inputs are left out, not named ""
        node = self.onnx.helper.make_node(operator, inputs, outputs, name=outputs[0] + ".node", **attributes)
        self.nodes.append(node)
        return outputs[0]

    def swapped(self, name: str, output: str) -> str:
        """Swap the first two axes, if the model is batch-first."""
        return self.add("Transpose", [name], [output], perm=[1, 0, 2])

    def model(self, sequence_lens: bool, initial_h: bool) -> Any:
        rows = self.L * self.D
        value = self.onnx.helper.make_tensor_value_info
        real = self.onnx.helper.np_dtype_to_tensor_dtype(self.dtype)
        shape: Callable[..., list[Any]] = lambda first, second, last: (
            [second, first, last] if self.layout else [first, second, last]
        )
        inputs = [value("x", real, shape("T", "B", self.network.input_size))]
        if sequence_lens:
            inputs.append(value("sequence_lens", self.onnx.TensorProto.INT32, ["B"]))
        if initial_h:
            inputs.append(value("initial_h", real, shape(rows, "B", self.H)))
        outputs = [
            value("out", real, shape("T", "B", self.D * self.H)),
            value("h_n", real, shape(rows, "B", self.H)),
        ]
        below = self.swapped("x", "x.time_first") if self.layout else "x"
        starts = self.starts() if initial_h else [""] * self.L
        lasts = []
        for number in range(self.L):
            below, last = self.add_layer(number, below, "sequence_lens" if sequence_lens else "", starts[number])
            lasts.append(last)
        if self.layout:
            self.swapped(below, "out")
        if self.L > 1:
            lasts = [self.add("Concat", lasts, ["h_n.layers" if self.layout else "h_n"], axis=0)]
        if self.layout:
            self.swapped(lasts[0], "h_n")
        graph = self.onnx.helper.make_graph(self.nodes, "pyrnn", inputs, outputs, self.initializers)
        model = self.onnx.helper.make_model(
            graph,
            opset_imports=[self.onnx.helper.make_opsetid("", OPSET)],
            producer_name="pyrnn",
            ir_version=7,  # of the time of this opset, so that older runtimes take it
        )
        self.onnx.checker.check_model(model)
        return model

    def starts(self) -> list[str]:
        """The names of the initial states of each layer."""
        whole = self.swapped("initial_h", "initial_h.layers") if self.layout else "initial_h"
        if self.L == 1:
            return [whole]
        names = [f"layer{number}.initial_h" for number in range(self.L)]
        self.add("Split", [whole, self.constant("initial_h.split", np.full(self.L, self.D, np.int64))], names, axis=0)
        return names

    def add_layer(self, number: int, below: str, lengths: str, start: str) -> tuple[str, str]:
        """Add one RNN node and what brings its Y into the shape of an input; the names of that and of its Y_h."""
        name = f"layer{number}"
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf
            a = {key: value.astype(self.dtype) for key, value in self.network.state_dict.items()}
        ends = (f"_l{number}", f"_l{number}_reverse")[: self.D]
        stack: Callable[[str], np.ndarray] = lambda kind: np.stack([a[kind + end] for end in ends])
        weights = [self.constant(name + ".W", stack("weight_ih")), self.constant(name + ".R", stack("weight_hh"))]
        B = ""
        if self.network.bias:
            B = self.constant(name + ".B", np.concatenate([stack("bias_ih"), stack("bias_hh")], axis=1))
        alone = self.L == 1 and not self.layout
        Y, last = name + ".Y", "h_n" if alone else name + ".Y_h"
        self.add("RNN", [below, *weights, B, lengths, start], [Y, last], **self.attributes)
        out = "out" if number == self.L - 1 and not self.layout else name + ".out"
        if self.D == 1:
            self.add("Squeeze", [Y, self.constant(name + ".axes", np.array([1], np.int64))], [out])
        else:
            joined = self.add("Transpose", [Y], [name + ".Y_by_step"], perm=[0, 2, 1, 3])
            to = self.constant(name + ".shape", np.array([0, 0, 2 * self.H], np.int64))
            self.add("Reshape", [joined, to], [out])
        return out, last
