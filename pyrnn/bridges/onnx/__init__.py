"""ONNX models in and out: RNN nodes as descriptions that pyrnn runs. The package onnx is imported when it is used."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from pyrnn import arguments
from pyrnn.bridges.onnx.read import DIRECTIONS, Graph, rnn_fields
from pyrnn.bridges.onnx.write import Writer
from pyrnn.bridges.state_dict import Description, describe
from pyrnn.cell import NEGATIVE_SLOPE, Cell
from pyrnn.layers import forward_layers
from pyrnn.network import Network

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from pyrnn._types import Nonlinearity, OnnxDirection, Path


class OnnxOutputs(NamedTuple):
    """What an RNN node returns, in ONNX's shapes."""

    Y: np.ndarray
    Y_h: np.ndarray


@dataclass(frozen=True, eq=False)
class OnnxRNN:
    """One RNN node of an ONNX model; D is 2 if it is bidirectional, else 1.

    Parameters
    ----------
    W : array_like, shape (D, H, I)
        Input-to-hidden weights, U of `pyrnn.forward`.
    R : array_like, shape (D, H, H)
        Hidden-to-hidden weights, W of `pyrnn.forward`.
    B : array_like, shape (D, 2 H), optional
        Both biases, one behind the other.
    sequence_lens : array_like of int, shape (B,), optional
        Where the file fixes them.
    initial_h : array_like, shape (D, B, H), or (B, D, H) with layout 1, optional
        Where the file fixes it.
    direction : {"forward", "reverse", "bidirectional"}
    nonlinearities : tuple of {"tanh", "relu", "identity", "softplus", "sigmoid", "retanh", "leaky_relu"}
        One for each direction.
    layout : {0, 1}
        0: time first. 1: batch first.
    name : str
    inputs : dict of str to str
        What of ``X``, ``sequence_lens`` and ``initial_h`` comes at run time, and what it is called in the model.
    number : int, optional
        Which of the model's RNN nodes it is, from 0.
    source : int, optional
        The number of the one whose Y is this one's X.
    negative_slopes : tuple of float, optional
        Of ``leaky_relu``, one for each direction. None for 0.01.

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit, or an option has no such value.
    """

    W: np.ndarray
    R: np.ndarray
    B: np.ndarray | None = None
    sequence_lens: np.ndarray | None = None
    initial_h: np.ndarray | None = None
    direction: OnnxDirection = "forward"
    nonlinearities: tuple[Nonlinearity, ...] = ("tanh",)
    layout: Literal[0, 1] = 0
    name: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    number: int | None = None
    source: int | None = None
    negative_slopes: tuple[float, ...] | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            W: ArrayLike,
            R: ArrayLike,
            B: ArrayLike | None = None,
            sequence_lens: ArrayLike | None = None,
            initial_h: ArrayLike | None = None,
            direction: OnnxDirection = "forward",
            nonlinearities: tuple[Nonlinearity, ...] = ("tanh",),
            layout: Literal[0, 1] = 0,
            name: str = "",
            inputs: Mapping[str, str] = ...,
            number: int | None = None,
            source: int | None = None,
            negative_slopes: tuple[float, ...] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {', '.join(map(repr, DIRECTIONS))}, got {self.direction!r}")
        _check_layout(self.layout)
        D = len(DIRECTIONS[self.direction])
        if isinstance(self.nonlinearities, str) or len(self.nonlinearities) != D:
            raise ValueError(f"nonlinearities must be a tuple of {D} with {self.direction}, got {self.nonlinearities}")
        slopes = (NEGATIVE_SLOPE,) * D if self.negative_slopes is None else self.negative_slopes
        if not isinstance(slopes, tuple) or len(slopes) != D:
            raise ValueError(f"negative_slopes must be a tuple of {D} with {self.direction}, got {slopes!r}")
        cells = [Cell(name, negative_slope=s) for name, s in zip(self.nonlinearities, slopes, strict=True)]
        object.__setattr__(self, "negative_slopes", tuple(cell.negative_slope for cell in cells))
        W, R, B, initial_h = arguments.as_real_arrays(
            "B", "initial_h", W=self.W, R=self.R, B=self.B, initial_h=self.initial_h
        )
        arguments.check_shape("W", W, (D, "H", "I"))
        H = W.shape[1]
        arguments.check_shape("R", R, (D, H, H), "W", W)
        arguments.check_shape("B", B, (D, 2 * H), "W", W)
        arguments.check_shape("initial_h", initial_h, ("B", D, H) if self.layout else (D, "B", H), "W", W)
        lengths = None if self.sequence_lens is None else arguments.as_array("sequence_lens", self.sequence_lens)
        if lengths is not None and (lengths.dtype.kind not in "iu" or lengths.ndim != 1):
            raise TypeError(f"sequence_lens must be integers of shape (B,), got {lengths.dtype} {lengths.shape}")
        for name, a in (("W", W), ("R", R), ("B", B), ("initial_h", initial_h), ("sequence_lens", lengths)):
            object.__setattr__(self, name, a)
        object.__setattr__(self, "inputs", dict(self.inputs))

    @property
    def input_size(self) -> int:
        return int(self.W.shape[2])

    @property
    def hidden_size(self) -> int:
        return int(self.W.shape[1])

    def cell(self, number: int = 0) -> Cell:
        """The cell of one direction.

        Parameters
        ----------
        number : {0, 1}
            The direction.

        Returns
        -------
        Cell
        """
        return Cell(self.nonlinearities[number], negative_slope=(self.negative_slopes or ())[number])

    def weights(self, number: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The arrays of one direction as `pyrnn.forward` takes them.

        Parameters
        ----------
        number : {0, 1}
            The direction; 1 is the second one of a bidirectional node.

        Returns
        -------
        U, W, b : ndarray
            b is the sum of both biases, or None.
        """
        H = self.hidden_size
        b = None if self.B is None else self.B[number, :H] + self.B[number, H:]
        return self.W[number], self.R[number], b


# ---- Running --------------------------------------------------------------------------------------------------------
def run_onnx_rnn(
    node: OnnxRNN, x: ArrayLike, sequence_lens: ArrayLike | None = None, initial_h: ArrayLike | None = None
) -> OnnxOutputs:
    """Run one RNN node.

    Parameters
    ----------
    node : OnnxRNN
    x : array_like, shape (T, B, I), or (B, T, I) with layout 1
    sequence_lens : array_like of int, shape (B,), optional
        How many steps each sequence has, 0 to T. None for those of the file or, without them, for T.
    initial_h : array_like, shape (D, B, H), or (B, D, H) with layout 1, optional
        None for that of the file or, without one, for zeros.

    Returns
    -------
    Y : ndarray, shape (T, D, B, H), or (B, T, D, H) with layout 1
        All states; 0 behind the ends of sequences.
    Y_h : ndarray, shape (D, B, H), or (B, D, H) with layout 1
        The states after the last step of each sequence, which is its first one where time runs backwards. 0 for
        sequences without steps: the standard does not say, ONNX Runtime does it so.

    Raises
    ------
    ValueError
        If a shape does not fit, a length is not from 0 to T, or the model computes an input that is not given.
    TypeError
        If lengths are not integers, or an array is not of real numbers.

    Notes
    -----
    H_t = f(X_t Wᵀ + H_{t-1} Rᵀ + Wb + Rb) of the operator RNN, https://onnx.ai/onnx/operators/onnx__RNN.html; in
    float64 if one of the arrays is.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.bridges.onnx import OnnxRNN, run_onnx_rnn
    >>> node = OnnxRNN(W=[[[1.0]]], R=[[[0.5]]], direction="reverse", nonlinearities=("relu",))
    >>> Y, Y_h = run_onnx_rnn(node, np.ones((3, 1, 1)), sequence_lens=[2])
    >>> Y.ravel(), Y_h.ravel()
    (array([1.5, 1. , 0. ]), array([1.5]))
    """
    if not isinstance(node, OnnxRNN):
        raise TypeError(f"node must be an OnnxRNN, got {type(node).__name__}")
    given = {"sequence_lens": sequence_lens, "initial_h": initial_h}
    for name, a in given.items():
        if a is None and name in node.inputs:
            raise ValueError(f"{name} must be given, as the model reads it from {node.inputs[name]!r}, got None")
    sequence_lens = node.sequence_lens if sequence_lens is None else sequence_lens
    initial_h = node.initial_h if initial_h is None else initial_h
    x, W, R, B, h0 = arguments.as_real_arrays("B", "initial_h", x=x, W=node.W, R=node.R, B=node.B, initial_h=initial_h)
    D, H, I = W.shape
    batch_first = node.layout == 1
    arguments.check_shape("x", x, ("B", "T", I) if batch_first else ("T", "B", I), "W", W)
    x = x.swapaxes(0, 1) if batch_first else x
    T, batch = x.shape[:2]
    arguments.check_shape("initial_h", h0, (batch, D, H) if batch_first else (D, batch, H), "x", x, "W", W)
    h0 = h0.swapaxes(0, 1) if batch_first and h0 is not None else h0
    lengths = _lengths(sequence_lens, T, batch)
    ways = [Network(W[d], R[d], None if B is None else B[d, :H] + B[d, H:], cell=node.cell(d)) for d in range(D)]
    tape = forward_layers(x, [ways], h0, lengths=lengths, reverse=DIRECTIONS[node.direction])
    Y_h = np.zeros((batch, D, H) if batch_first else (D, batch, H), x.dtype)
    last = Y_h.swapaxes(0, 1) if batch_first else Y_h  # [D, B, H]
    tape.last_states(last)
    last[:, (np.full(batch, T) if lengths is None else lengths) == 0] = 0
    Y = tape.states[0].reshape(T, batch, D, H).transpose((1, 0, 2, 3) if batch_first else (0, 2, 1, 3))
    return OnnxOutputs(Y, Y_h)


def _lengths(sequence_lens: ArrayLike | None, T: int, batch: int) -> np.ndarray | None:
    """Checked lengths, or None."""
    if sequence_lens is None:
        return None
    lengths = arguments.as_array("sequence_lens", sequence_lens)
    if lengths.dtype.kind not in "iu" and lengths.size:
        raise TypeError(f"sequence_lens must be integers, got dtype {lengths.dtype}")
    arguments.check_shape("sequence_lens", lengths, (batch,))
    if lengths.size and not (lengths.min() >= 0 and lengths.max() <= T):
        raise ValueError(f"sequence_lens must be from 0 to {T}, got {lengths.min()} to {lengths.max()}")
    return lengths.astype(np.intp)


def _check_layout(layout: object) -> None:
    if isinstance(layout, bool) or not isinstance(layout, int | np.integer) or layout not in (0, 1):
        raise ValueError(f"layout must be 0 (time first) or 1 (batch first), got {layout!r}")


# ---- Reading --------------------------------------------------------------------------------------------------------
def from_onnx(model: Any | Path) -> tuple[OnnxRNN, ...]:
    """Read the RNN nodes of an ONNX model.

    Parameters
    ----------
    model : onnx.ModelProto or path-like

    Returns
    -------
    nodes : tuple of OnnxRNN
        In the order of the graph. Other nodes are looked at only where they join one RNN to the next, or compute its
        weights from constants.

    Raises
    ------
    ImportError
        If the package onnx is missing.
    OSError
        If the file cannot be read.
    ValueError
        If it is no model, has no RNN node, or has one that pyrnn cannot represent: with other activations than
        those of `pyrnn.Cell` and what equals them, with clip, with weights that are no constants, inside of a subgraph
        or a function.
    TypeError
        If `model` is neither.

    See Also
    --------
    run_onnx_rnn : runs what was read.
    to_state_dict : layers that stand on each other, as one network.

    Notes
    -----
    Weights of half precision become float32, which holds them. Values of activation_alpha and activation_beta are read
    as ONNX Runtime reads them, in the order of the functions that take one. Affine and ScaledTanh without their alpha
    are refused: ONNX Runtime takes 0, the standard has 1 for Affine.

    PyTorch's exporter writes RNN nodes with ``dynamo=False`` only; its newer one unrolls the network for one length.
    `to_onnx` takes the state_dict instead.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.bridges.onnx import from_onnx, to_onnx
    >>> model = to_onnx({"weight_ih_l0": np.ones((2, 3)), "weight_hh_l0": np.eye(2)}, nonlinearity="relu")
    >>> (node,) = from_onnx(model)
    >>> node.direction, node.nonlinearities, node.W.shape
    ('forward', ('relu',), (1, 2, 3))
    """
    onnx = _import()
    if isinstance(model, onnx.ModelProto):
        return _nodes(Graph(onnx, model))
    if not isinstance(model, str | os.PathLike):
        raise TypeError(f"model must be an onnx.ModelProto or a path, got {type(model).__name__}")
    path = os.fspath(model)
    with open(path, "rb") as file:
        content = file.read()
    try:
        return _nodes(Graph(onnx, _parsed(onnx, content), os.path.dirname(path) or "."))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parsed(onnx: ModuleType, content: bytes) -> Any:
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ValueError(f"it must be an ONNX model: {error}") from None
    return model


def _nodes(graph: Graph) -> tuple[OnnxRNN, ...]:
    nodes = []
    for number in range(len(graph.rnns)):
        fields, hidden_size = rnn_fields(graph, number)
        try:
            node = OnnxRNN(**fields)
            if hidden_size not in (None, node.hidden_size):
                raise ValueError(f"hidden_size must be {node.hidden_size} to match W {node.W.shape}, got {hidden_size}")
        except (TypeError, ValueError) as error:
            raise ValueError(f"RNN node {fields['name']!r:.80}: {error}") from None
        nodes.append(node)
    return tuple(nodes)


def to_state_dict(nodes: Sequence[OnnxRNN]) -> Description:
    """Layers that stand on each other, read from an ONNX model, as one network under PyTorch's names.

    Parameters
    ----------
    nodes : sequence of OnnxRNN
        From the first layer to the last. From `from_onnx`, each must read what the one before returns.

    Returns
    -------
    pyrnn.bridges.state_dict.Description

    Raises
    ------
    ValueError
        If PyTorch's `nn.RNN` is no such network: layers of unlike sizes, directions or nonlinearities, single layers
        backwards, lengths or initial states fixed in the file.
    TypeError
        If `nodes` are none.

    Examples
    --------
    >>> from pyrnn.bridges.onnx import OnnxRNN, to_state_dict
    >>> network = to_state_dict([OnnxRNN(W=[[[1.0]]], R=[[[0.5]]]), OnnxRNN(W=[[[2.0]]], R=[[[0.1]]])])
    >>> network.num_layers, network.state_dict["weight_ih_l1"]
    (2, array([[2.]]))
    """
    if not isinstance(nodes, Sequence) or not nodes or not all(isinstance(node, OnnxRNN) for node in nodes):
        raise TypeError(f"nodes must be a sequence of OnnxRNN, got {nodes!r}")
    first, bias = nodes[0], any(node.B is not None for node in nodes)
    state_dict: dict[str, np.ndarray] = {}
    for i, node in enumerate(nodes):
        if node.direction == "reverse":
            raise ValueError(f"nodes must run forward or both ways, got node {i} in reverse")
        if {node.cell(d) for d in range(len(node.W))} != {first.cell()}:
            raise ValueError(f"nodes must have one nonlinearity, got {first.nonlinearities} and {node.nonlinearities}")
        if node.direction != first.direction:
            raise ValueError(f"nodes must have one direction, got {first.direction} and {node.direction}")
        if node.inputs.get("sequence_lens") != first.inputs.get("sequence_lens"):
            raise ValueError(f"nodes must have the same sequence_lens, got another one in node {i}")
        if node.sequence_lens is not None or (node.initial_h is not None and node.initial_h.any()):
            raise ValueError(f"nodes must not fix lengths or initial states, got node {i} that does")
        if i and node.number is not None and node.source != nodes[i - 1].number:
            raise ValueError(f"nodes must read each other's outputs, got node {i} that does not read that before it")
        H = node.hidden_size
        B = np.zeros((len(node.W), 2 * H), node.W.dtype) if node.B is None else node.B
        for d, end in zip(range(len(node.W)), (f"_l{i}", f"_l{i}_reverse"), strict=False):
            state_dict |= {"weight_ih" + end: node.W[d], "weight_hh" + end: node.R[d]}
            if bias:
                state_dict |= {"bias_ih" + end: B[d, :H], "bias_hh" + end: B[d, H:]}
    cell = first.cell()
    return describe(state_dict, prefix="", nonlinearity=cell.nonlinearity, negative_slope=cell.negative_slope)


# ---- Writing --------------------------------------------------------------------------------------------------------
def to_onnx(
    state_dict: Description | Mapping[str, ArrayLike],
    *,
    nonlinearity: Nonlinearity | None = None,
    negative_slope: float | None = None,
    reverse: bool = False,
    layout: Literal[0, 1] = 0,
    sequence_lens: bool = False,
    initial_h: bool = False,
    dtype: DTypeLike = np.float32,
) -> Any:
    """A network as an ONNX model, one RNN node for each layer.

    Parameters
    ----------
    state_dict : pyrnn.bridges.state_dict.Description, or mapping of str to array_like
        Arrays under PyTorch's names, with or without a common prefix; they tell the sizes, the number of layers, and
        whether it has biases and two directions.
    nonlinearity : {"tanh", "relu", "identity", "softplus", "sigmoid", "leaky_relu"}, optional
        None for that of the Description, or of the `pyrnn.RNN` whose `state_dict()` it is; else tanh. ONNX has no
        retanh.
    negative_slope : float, optional
        Of ``leaky_relu``. None for that of the Description or of the `pyrnn.RNN`; else 0.01.
    reverse : bool
        All layers run backwards through time; not for two directions.
    layout : {0, 1}
        0: the model's ``x`` (T, B, I), ``initial_h`` (D, B, H), ``out`` (T, B, D H) and ``h_n`` (D, B, H), D counting
        directions of all layers, as in PyTorch. 1: the batch is the first axis of each of them.
    sequence_lens : bool
        The model has an input of this name, int32 of shape (B,): how many steps each sequence has.
    initial_h : bool
        The model has an input of this name; without it all states start from zeros.
    dtype : {float32, float64}
        Of the model. ONNX Runtime runs RNN nodes in float32 only.

    Returns
    -------
    onnx.ModelProto
        With inputs ``x`` and those asked for, outputs ``out`` and ``h_n``, T and B open. `onnx.save` writes it.

    Raises
    ------
    ImportError
        If the package onnx is missing.
    ValueError, TypeError
        If names or shapes do not fit, an option has no such value, or the network has a leak or an output layer, as in
        `pyrnn.bridges.state_dict.describe`: the operator RNN has neither.

    Notes
    -----
    Dropout acts in training only, and is not in the model.

    ONNX Runtime 1.32 refuses nodes with layout 1, so that here the nodes have layout 0, and Transpose stands around
    them. The identity is Affine with alpha 1. Opset 14.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.bridges.onnx import to_onnx
    >>> model = to_onnx({"weight_ih_l0": np.ones((2, 3)), "weight_hh_l0": np.eye(2)})
    >>> [node.op_type for node in model.graph.node]
    ['RNN', 'Squeeze']
    """
    onnx = _import()
    network = state_dict if isinstance(state_dict, Description) else describe(state_dict)
    nonlinearity = network.nonlinearity if nonlinearity is None else nonlinearity
    if negative_slope is None:
        negative_slope = network.negative_slope if nonlinearity == "leaky_relu" else NEGATIVE_SLOPE
    slope = Cell(nonlinearity, negative_slope=negative_slope).negative_slope  # checks them
    _check_layout(layout)
    for name, value in (("reverse", reverse), ("sequence_lens", sequence_lens), ("initial_h", initial_h)):
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    if reverse and network.bidirectional:
        raise ValueError("reverse must be False for a network of two directions, got True")
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
    direction: OnnxDirection = "bidirectional" if network.bidirectional else "reverse" if reverse else "forward"
    writer = Writer(onnx, network, nonlinearity, slope, direction, layout, np.dtype(dtype))
    return writer.model(sequence_lens, initial_h)


def _import() -> ModuleType:
    try:
        import onnx
    except ImportError as error:
        raise ImportError(f"it needs onnx: python -m pip install 'pyrnn-bptt[onnx]' ({error})") from error
    package: ModuleType = onnx
    return package
