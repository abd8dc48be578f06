"""The RNN nodes of an ONNX graph: their weights, their options, and which one reads which."""

import numpy as np

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
_EQUALS = {
    ("Tanh",): "tanh",
    ("Relu",): "relu",
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
# Operators of which exporters make weights. No other one is run: a file may ask for any amount of work.
_OF_CONSTANTS = {
    "Cast",
    "Concat",
    "Constant",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
}
_OF_CONSTANTS |= {"Unsqueeze"}
# Operators that make zeros of zeros, whatever their other inputs say.
_OF_ZEROS = _OF_CONSTANTS - {"Concat", "Constant"} | {"Expand"}


class Graph:
    """The graph of a model, by the names of its values."""

    def __init__(self, onnx, model):
        self.onnx = onnx
        self.nodes = [node for node in model.graph.node if node.domain in ("", "ai.onnx")]
        if model.graph.sparse_initializer:
            raise ValueError("model must not have sparse initializers, got some")
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers = {output: i for i, node in enumerate(self.nodes) for output in node.output if output}
        self.rnns = [i for i, node in enumerate(self.nodes) if node.op_type == "RNN"]
        self.opsets = list(model.opset_import)
        self.ir_version = model.ir_version
        bodies = [body for node in model.graph.node for body in _subgraphs(node)] + list(model.functions)
        if any(map(_contains_rnn, bodies)):
            raise ValueError("model must have its RNN nodes in the main graph, got one in a subgraph or a function")
        if not self.rnns:
            kinds = {node.op_type for node in model.graph.node}
            raise ValueError(f"model must have an RNN node, got {_listed(kinds) or 'no nodes'}")

    def maker(self, name):
        """The node that a value comes from, or None."""
        return self.nodes[self.makers[name]] if name in self.makers else None

    def array(self, name):
        """The value of a constant; None if it depends on an input of the model."""
        needed, names = set(), [name]
        while names:
            value = names.pop()
            if not value or value in self.initializers or self.makers.get(value) in needed:
                continue
            node = self.maker(value)
            if node is None or node.op_type not in _OF_CONSTANTS:
                return None
            needed.add(self.makers[value])
            names.extend(node.input)
        nodes = [self.nodes[i] for i in sorted(needed)]
        tensors = [a.t for node in nodes for a in node.attribute if a.HasField("t")]
        tensors += [self.initializers[value] for node in nodes for value in node.input if value in self.initializers]
        for tensor in [*tensors, *([self.initializers[name]] if name in self.initializers else [])]:
            # onnx.load fetches such data; to_array would too, from the current folder, and write to the model
            if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
                raise ValueError(f"model must have its data in it, got {name!r} in another file: use onnx.load")
        try:
            if name in self.initializers:
                return self.onnx.numpy_helper.to_array(self.initializers[name])
            return self._compute(nodes, name)
        except Exception as error:  # of every kind, from protobuf, NumPy and onnx: the file is at fault
            raise ValueError(f"model must have a readable constant {name!r}: {error}") from error

    def _compute(self, nodes, name):
        from onnx.reference import ReferenceEvaluator

        used = {i for node in nodes for i in node.input}
        make = self.onnx.helper
        graph = make.make_graph(
            nodes,
            "constant",
            [],
            [self.onnx.ValueInfoProto(name=name)],
            [tensor for key, tensor in self.initializers.items() if key in used],
        )
        part = make.make_model(graph, opset_imports=self.opsets, ir_version=self.ir_version)
        return np.asarray(ReferenceEvaluator(part).run(None, {})[0])

    def is_zero(self, name):
        """Whether a value is zeros of a shape that only the run tells, as PyTorch's exporter makes them."""
        for _ in range(len(self.nodes) + 1):  # a hostile graph may be a circle
            node = self.maker(name)
            if name in self.initializers or (node is not None and node.op_type == "Constant"):
                a = self.array(name)
                return bool(a.dtype.kind in "fiub" and not a.any())
            if node is None:
                return False
            if node.op_type == "ConstantOfShape":
                value = attribute(self.onnx, node, "value", "TENSOR", None)
                return value is None or not self.onnx.numpy_helper.to_array(value).any()
            if node.op_type not in _OF_ZEROS or not node.input:
                return False
            name = node.input[0]
        return False


def _listed(names):
    """Names of a file for a message: text, or bytes where a damaged file has no text there."""
    return ", ".join(sorted(map(str, names))[:12])


def _subgraphs(node):
    for a in node.attribute:
        yield from a.graphs
        if a.HasField("g"):
            yield a.g


def _contains_rnn(body):
    return any(node.op_type == "RNN" or any(map(_contains_rnn, _subgraphs(node))) for node in body.node)


def attribute(onnx, node, name, kind, default=None):
    """The value of an attribute, which must be of this kind; strings as str."""
    for a in node.attribute:
        if a.name == name:
            if a.type != getattr(onnx.AttributeProto, kind):
                got = onnx.AttributeProto.AttributeType.Name(a.type)
                raise ValueError(f"{node.op_type} node {node.name!r} must have {name} of type {kind}, got {got}")
            value = onnx.helper.get_attribute_value(a)
            if kind == "STRING":
                return value.decode(errors="replace")
            return [text.decode(errors="replace") for text in value] if kind == "STRINGS" else value
    return default


def rnn_fields(graph, number):
    """The fields of the OnnxRNN of one node, whose shapes are still to be checked, and its hidden_size or None."""
    node = graph.nodes[graph.rnns[number]]
    where = f"RNN node {node.name!r}"
    value = lambda name, kind, default=None: attribute(graph.onnx, node, name, kind, default)
    if unknown := {a.name for a in node.attribute} - _ATTRIBUTES:
        raise ValueError(f"{where} must have attributes of the operator RNN, got {_listed(unknown)}")
    clip = value("clip", "FLOAT")
    if clip is not None:
        raise ValueError(f"{where} must have no clip, which pyrnn has not, got {clip}")
    direction = value("direction", "STRING", "forward")
    if direction not in DIRECTIONS:
        raise ValueError(f"{where} must have a direction of {', '.join(DIRECTIONS)}, got {direction!r}")
    constants, dynamic = _inputs(graph, node, where)
    fields = {
        **constants,
        "direction": direction,
        "nonlinearities": _nonlinearities(value, len(DIRECTIONS[direction])),
        "layout": value("layout", "INT", 0),
        "name": node.name,
        "inputs": dynamic,
        "number": number,
        "source": _source(graph, node),
    }
    return fields, value("hidden_size", "INT")


def _inputs(graph, node, where):
    """Constant inputs as arrays, and the names of those that come at run time."""
    constants, dynamic = {}, {}
    given = dict(zip(INPUTS, node.input, strict=False))
    for name in INPUTS:
        value = given.get(name, "")
        if not value:
            if name in ("X", "W", "R"):
                raise ValueError(f"{where} must have an input {name}, got none")
            continue
        constant = None if name == "X" else graph.array(value)
        if constant is not None:
            # bfloat16 and the like are void to NumPy
            widen = name != "sequence_lens" and constant.dtype.kind == "V"
            constants[name] = constant.astype(np.float32) if widen else constant
        elif name in ("W", "R", "B"):
            raise ValueError(f"{where} must have constant weights, got {name} computed at run time as {value!r}")
        elif not (name == "initial_h" and graph.is_zero(value)):
            dynamic[name] = value
    return constants, dynamic


def _nonlinearities(value, D):
    """The functions of a node, one for each direction; value: gives its attributes."""
    functions = value("activations", "STRINGS", ["Tanh"] * D)
    if len(functions) != D:
        raise ValueError(f"activations must have {D} names, one for each direction, got {functions}")
    alphas, betas = (list(value(f"activation_{name}", "FLOATS", [])) for name in ("alpha", "beta"))
    found = []
    for function in functions:
        if function not in _TAKES:
            raise ValueError(f"activations must be of {', '.join(_TAKES)}, got {function!r}")
        key = (function,)
        for count, values in zip(_TAKES[function], (alphas, betas), strict=True):
            key += (values.pop(0) if values else None,) if count else ()
        if key not in _EQUALS:
            values = ", ".join(f"{letter} {v}" for letter, v in zip(("alpha", "beta"), key[1:], strict=False))
            raise ValueError(
                f"activations must equal tanh, relu or the identity, got {function}{' with ' * bool(values)}{values}"
            )
        found.append(_EQUALS[key])
    return tuple(found)


def _source(graph, node):
    """Which RNN node's Y is the X of this one, with nothing between but changes of shape that keep its meaning."""
    between, name = [], node.input[0]
    while (below := graph.maker(name)) is not None and below.op_type != "RNN":
        if below.op_type not in ("Identity", "Dropout", "Squeeze", "Transpose", "Reshape") or not below.input:
            return None
        if below.op_type == "Dropout" and (len(below.input) > 2 or name != below.output[0]):
            return None  # with training_mode given, or its mask
        between.append(below)
        if len(between) > len(graph.nodes):
            return None  # in a circle
        name = below.input[0]
    if below is None or name != below.output[0]:
        return None
    directions = 2 if attribute(graph.onnx, below, "direction", "STRING", "forward") == "bidirectional" else 1
    W = graph.array(below.input[1]) if len(below.input) > 1 else None
    if W is None or W.ndim != 3:
        return None
    width = directions * W.shape[1]
    axes = ["B", "T", "D", "H"] if attribute(graph.onnx, below, "layout", "INT", 0) else ["T", "D", "B", "H"]
    for step in reversed(between):
        axes = _after(graph, step, axes, directions, width)
        if axes is None:
            return None
    wanted = ["B", "T"] if attribute(graph.onnx, node, "layout", "INT", 0) else ["T", "B"]
    if axes not in ([*wanted, "DH"], *([[*wanted, "H"]] if directions == 1 else [])):
        return None
    return graph.rnns.index(graph.makers[name])


def _after(graph, step, axes, directions, width):
    """The meaning of the axes after one node; None if that is not clear."""
    value = lambda name, kind, default=None: attribute(graph.onnx, step, name, kind, default)
    second = graph.array(step.input[1]) if step.op_type != "Dropout" and len(step.input) > 1 else None
    if step.op_type == "Transpose":
        order = list(value("perm", "INTS", range(len(axes))[::-1]))
        return [axes[i] for i in order] if sorted(order) == list(range(len(axes))) else None
    if step.op_type == "Squeeze":
        gone = value("axes", "INTS") if second is None else second  # an attribute before opset 13
        gone = [] if gone is None else [axes[int(i) % len(axes)] for i in np.ravel(gone)]
        return [a for a in axes if a != "D"] if gone == ["D"] and directions == 1 else None
    if step.op_type == "Reshape":
        if second is None or second.shape != (3,) or axes[2:] != ["D", "H"] or value("allowzero", "INT", 0):
            return None
        kept, last = [int(n) for n in second[:2]], int(second[2])  # 0 keeps an axis, -1 takes what is left
        sure = kept == [0, 0] or (sorted(kept) == [-1, 0] and last == width)
        return [*axes[:2], "DH"] if sure else None
    return axes  # Identity, Dropout
