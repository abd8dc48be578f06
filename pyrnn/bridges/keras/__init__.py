"""Keras's SimpleRNN in and out: its weights, its files, its masks. Keras itself is not needed, h5py for files only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np

from pyrnn import arguments
from pyrnn.bridges.keras.files import ACTIVATIONS, layers_in
from pyrnn.bridges.state_dict import Description, describe
from pyrnn.cell import NEGATIVE_SLOPE, Cell
from pyrnn.functional import forward

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import Activation, MergeMode, Nonlinearity, Path

_ARRAYS = ("kernel", "recurrent_kernel", "bias")
MERGE_MODES: tuple[str | None, ...] = ("concat", "sum", "mul", "ave", None)


class KerasOutputs(NamedTuple):
    """What a layer returns, batch first: all outputs, the last one, and the states after the last step.

    With ``merge_mode`` None the first two are pairs. ``states`` has one array for each direction.
    """

    outputs: np.ndarray | tuple[np.ndarray, np.ndarray]
    last_output: np.ndarray | tuple[np.ndarray, np.ndarray]
    states: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class KerasRNN:
    """A SimpleRNN layer of Keras, or a Bidirectional one of two of them.

    Parameters
    ----------
    kernel : array_like, shape (I, H)
        Input-to-hidden weights: Uᵀ of `pyrnn.forward`.
    recurrent_kernel : array_like, shape (H, H)
        Hidden-to-hidden weights: Wᵀ.
    bias : array_like, shape (H,), optional
    nonlinearity : {"tanh", "relu", "identity", "softplus", "sigmoid", "retanh", "leaky_relu"}
        Keras's activation; its linear is the identity, and it has no retanh.
    go_backwards : bool
        Begin at the last step. Outputs come in the order of work then, the last step first.
    zero_output_for_mask : bool
        The output of a masked step is 0; else that of the step before. In Bidirectional it counts for `outputs` alone:
        Keras sets it to False in both layers where only the last output is returned.
    return_sequences : bool
        Whether the layer returns all outputs in Keras, or the last one. Only `to_state_dict` asks for it.
    backward : KerasRNN, optional
        The second layer of Bidirectional, whose outputs are turned round once more.
    merge_mode : {"concat", "sum", "mul", "ave", None}
        What becomes of the outputs of both.
    name : str
    stateful : bool
        Keras begins each batch where the one before has ended. `run_keras_rnn` keeps nothing, and asks for the states.
    unroll : bool
        Changes nothing, but Keras's backends differ where a layer with a mask runs backwards and has outputs of 0:
        `run_keras_rnn` refuses such a call.
    negative_slope : float
        Of ``leaky_relu``; that of Keras's function is 0.2 unless it is said.

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit, or an option has no such value.
    """

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None = None
    nonlinearity: Nonlinearity = "tanh"
    go_backwards: bool = False
    zero_output_for_mask: bool = False
    return_sequences: bool = True
    backward: KerasRNN | None = None
    merge_mode: MergeMode | None = "concat"
    name: str = ""
    stateful: bool = False
    unroll: bool = False
    negative_slope: float = NEGATIVE_SLOPE

    if TYPE_CHECKING:

        def __init__(
            self,
            kernel: ArrayLike,
            recurrent_kernel: ArrayLike,
            bias: ArrayLike | None = None,
            nonlinearity: Nonlinearity = "tanh",
            go_backwards: bool = False,
            zero_output_for_mask: bool = False,
            return_sequences: bool = True,
            backward: KerasRNN | None = None,
            merge_mode: MergeMode | None = "concat",
            name: str = "",
            stateful: bool = False,
            unroll: bool = False,
            negative_slope: float = NEGATIVE_SLOPE,
        ) -> None: ...

    def __post_init__(self) -> None:
        arrays = {"kernel": self.kernel, "recurrent_kernel": self.recurrent_kernel, "bias": self.bias}
        kernel, recurrent_kernel, bias = arguments.as_real_arrays("bias", **arrays)
        arguments.check_shape("kernel", kernel, ("I", "H"))
        H = kernel.shape[1]
        arguments.check_shape("recurrent_kernel", recurrent_kernel, (H, H), "kernel", kernel)
        arguments.check_shape("bias", bias, (H,), "kernel", kernel)
        Cell(self.nonlinearity, negative_slope=self.negative_slope)  # checks them
        for name in ("go_backwards", "zero_output_for_mask", "return_sequences", "stateful", "unroll"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.merge_mode is not None and self.merge_mode not in MERGE_MODES:
            raise ValueError(f"merge_mode must be one of {', '.join(map(repr, MERGE_MODES))}, got {self.merge_mode!r}")
        if self.backward is not None:
            if not isinstance(self.backward, KerasRNN) or self.backward.backward is not None:
                raise TypeError("backward must be a KerasRNN of one direction or None")
            if self.backward.go_backwards == self.go_backwards:
                raise ValueError(f"backward must have go_backwards {not self.go_backwards}, got {self.go_backwards}")
            other = self.backward.kernel
            if len(other) != len(kernel) or (other.shape[1] != H and self.merge_mode in ("sum", "mul", "ave")):
                arguments.check_shape("backward.kernel", other, kernel.shape, "kernel", kernel)
        for name, a in (("kernel", kernel), ("recurrent_kernel", recurrent_kernel), ("bias", bias)):
            object.__setattr__(self, name, a)

    @property
    def input_size(self) -> int:
        return int(self.kernel.shape[0])

    @property
    def hidden_size(self) -> int:
        return int(self.kernel.shape[1])

    def weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The arrays as `pyrnn.forward` takes them; those of the second direction are ``layer.backward.weights()``.

        Returns
        -------
        U, W, b : ndarray
            Views of the kernels; b is None without a bias.
        """
        return self.kernel.T, self.recurrent_kernel.T, self.bias


def from_keras(
    weights: Sequence[ArrayLike],
    *,
    activation: Activation | None = "tanh",
    go_backwards: bool = False,
    zero_output_for_mask: bool | None = None,
    merge_mode: MergeMode | None = "concat",
    name: str = "",
) -> KerasRNN:
    """A layer from the arrays that Keras's ``layer.get_weights()`` returns.

    Parameters
    ----------
    weights : sequence of array_like
        kernel (I, H), recurrent_kernel (H, H) and, if there is one, bias (H,); of Bidirectional, those of its forward
        layer and then those of its backward layer. (With the forward layer alone frozen, ``get_weights()`` of Keras 2
        begins with the backward layer: exchange them.)
    activation : {"tanh", "relu", "linear", "softplus", "sigmoid", "leaky_relu", None}
        As in Keras, where None is linear, and the slope of leaky_relu is 0.2.
    go_backwards : bool
        Of the (forward) layer.
    zero_output_for_mask : bool, optional
        None for what Keras does: True in Bidirectional, for sequences, else False.
    merge_mode : {"concat", "sum", "mul", "ave", None}
        Of Bidirectional.
    name : str

    Returns
    -------
    KerasRNN

    Raises
    ------
    ValueError, TypeError
        If there are not so many arrays, a shape does not fit, or an option has no such value.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.bridges.keras import from_keras
    >>> U, W, b = from_keras([np.ones((3, 2)), np.eye(2), np.zeros(2)]).weights()
    >>> U.shape
    (2, 3)
    """
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        raise TypeError(f"weights must be a list of arrays, got {type(weights).__name__}")
    if len(weights) not in (2, 3, 4, 6):
        raise ValueError(f"weights must have 2 or 3 arrays, or 4 or 6 of Bidirectional, got {len(weights)}")
    if not (activation is None or (isinstance(activation, str) and activation in ACTIVATIONS)):
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    both = len(weights) > 3
    options: dict[str, Any] = {
        **ACTIVATIONS[activation],
        "zero_output_for_mask": both if zero_output_for_mask is None else zero_output_for_mask,
    }
    count, backward = len(weights) // 2 if both else len(weights), None
    if both:
        second = dict(zip(_ARRAYS, weights[count:], strict=False))
        backward = KerasRNN(**second | options, go_backwards=not go_backwards)
    options |= zip(_ARRAYS, weights[:count], strict=False)
    return KerasRNN(**options, go_backwards=go_backwards, backward=backward, merge_mode=merge_mode, name=name)


def to_keras(network: Description | Mapping[str, ArrayLike]) -> list[list[np.ndarray]]:
    """The arrays of a network as Keras's ``layer.set_weights()`` takes them, layer by layer.

    Parameters
    ----------
    network : pyrnn.bridges.state_dict.Description, or mapping of str to array_like
        Arrays under PyTorch's names, with or without a common prefix.

    Returns
    -------
    layers : list of list of ndarray
        For each layer kernel, recurrent_kernel and, where there are biases, bias: the sum of PyTorch's two. Of two
        directions, for Bidirectional, both one after the other. New arrays.

    Raises
    ------
    ValueError, TypeError
        As in `pyrnn.bridges.state_dict.describe`; for retanh, which Keras does not have.

    Notes
    -----
    The activation is not among the arrays: the layer gets it when it is made. Keras's ``"leaky_relu"`` has the slope
    0.2; for another one make the layer with a function that calls `keras.activations.leaky_relu` with it.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.bridges.keras import to_keras
    >>> [a.shape for a in to_keras({"weight_ih_l0": np.ones((2, 3)), "weight_hh_l0": np.eye(2)})[0]]
    [(3, 2), (2, 2)]
    """
    network = network if isinstance(network, Description) else describe(network)
    if network.nonlinearity == "retanh":
        raise ValueError("network must have a nonlinearity that Keras knows, got 'retanh'")
    layers = []
    for number in range(network.num_layers):
        arrays = []
        for reverse in (False, True)[: 1 + network.bidirectional]:
            U, W, b = network.layer(number, reverse=reverse)
            arrays += [np.array(U.T, order="C"), np.array(W.T, order="C")] + ([] if b is None else [b])
        layers.append(arrays)
    return layers


def to_state_dict(layers: Sequence[KerasRNN] | Mapping[str, KerasRNN]) -> Description:
    """Layers that stand on each other as one network under PyTorch's names.

    Parameters
    ----------
    layers : sequence of KerasRNN, or mapping with them as values
        From the first to the last; what `load_keras` returns, if the model has nothing else between them.

    Returns
    -------
    pyrnn.bridges.state_dict.Description
        ``bias_ih`` is Keras's bias, ``bias_hh`` 0.

    Raises
    ------
    ValueError
        If PyTorch's `nn.RNN` is no such network: layers of unlike sizes, directions or nonlinearities, single layers
        backwards, outputs merged otherwise than by concat, a layer below another that returns its last output only.
    TypeError
        If `layers` are none.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.bridges.keras import from_keras, to_state_dict
    >>> sorted(to_state_dict([from_keras([np.ones((3, 2)), np.eye(2)])]).state_dict)
    ['weight_hh_l0', 'weight_ih_l0']
    """
    layers = list(layers.values()) if isinstance(layers, Mapping) else layers
    if not isinstance(layers, Sequence) or not layers or not all(isinstance(layer, KerasRNN) for layer in layers):
        raise TypeError(f"layers must be a sequence of KerasRNN, got {layers!r}")
    state_dict: dict[str, np.ndarray] = {}
    first = layers[0]
    ways = [(layer,) if layer.backward is None else (layer, layer.backward) for layer in layers]
    bias = any(way.bias is not None for pair in ways for way in pair)
    for i, (layer, pair) in enumerate(zip(layers, ways, strict=True)):
        if (layer.backward is None) != (first.backward is None):
            raise ValueError(f"layers must all be Bidirectional or none, got layer {i} unlike the first")
        if [way.go_backwards for way in pair] != [False, True][: len(pair)]:
            raise ValueError(f"layers must run forward, or forward and backward, got layer {i} with go_backwards")
        if {(way.nonlinearity, way.negative_slope) for way in pair} != {(first.nonlinearity, first.negative_slope)}:
            raise ValueError(f"layers must have one nonlinearity, got another one in layer {i}")
        if layer.backward is not None and layer.merge_mode != "concat":
            raise ValueError(f"layers must have merge_mode 'concat', got {layer.merge_mode!r} in layer {i}")
        if not layer.return_sequences and i < len(layers) - 1:
            raise ValueError(f"layers below others must return sequences, got layer {i} that does not")
        for way, end in zip(pair, (f"_l{i}", f"_l{i}_reverse"), strict=False):
            U, W, b = way.weights()
            state_dict |= {"weight_ih" + end: U, "weight_hh" + end: W}
            if bias:
                zeros = np.zeros(way.hidden_size, U.dtype)
                state_dict |= {"bias_ih" + end: zeros if b is None else b, "bias_hh" + end: zeros}
    return describe(state_dict, prefix="", nonlinearity=first.nonlinearity, negative_slope=first.negative_slope)


def load_keras(path: Path, *, activation: Activation | None = None) -> dict[str, KerasRNN]:
    """Read the SimpleRNN layers of a file that Keras has saved.

    Parameters
    ----------
    path : path-like
        ``.keras`` of ``model.save``, of Keras 2.12 and later and of tf_keras: a Sequential or functional model, others
        in it. ``.h5`` of ``model.save``, of Keras 1 to 3: the same without others in it. ``.weights.h5`` of
        ``model.save_weights`` in Keras 2.12 and later, which has arrays only.
    activation : {"tanh", "relu", "linear", "softplus", "sigmoid", "leaky_relu"}, optional
        Of the layers in a ``.weights.h5``; None for tanh. The others say it themselves.

    Returns
    -------
    layers : dict of str to KerasRNN
        By the layer's name, ``outer/inner`` in a model within a model. In the model's order; from ``.weights.h5``,
        which does not have it, in the order of the groups in the file. SimpleRNN, RNN of a SimpleRNNCell, and
        Bidirectional of these; other layers are left out.

    Raises
    ------
    ImportError
        If the package h5py is missing.
    OSError
        If the file cannot be read.
    ValueError
        If it is no such file, is damaged, has no such layer, or one with what pyrnn has not: another activation,
        `time_major`. If it would unpack to more than 1 MiB and a hundred times its size.

    Notes
    -----
    No code in the file is run. Links out of the file are not followed.

    Of a layer's options, `dropout`, `recurrent_dropout`, `return_state`, initial values, regularizers and constraints
    change nothing that a trained layer computes. A policy of mixed precision is not imitated: all is computed in the
    type of the arrays and of `x`. Bidirectional has outputs of 0 at masked steps, as Keras has it since 2.4 and
    tf.keras; in files of Keras 1.0 to 2.3 it repeats the output of the step before, as those did.

    Examples
    --------
    >>> import h5py, numpy as np, os, tempfile
    >>> from pyrnn.bridges.keras import load_keras
    >>> path = os.path.join(tempfile.mkdtemp(), "model.weights.h5")
    >>> with h5py.File(path, "w") as file:
    ...     for i, a in enumerate([np.ones((3, 2)), np.eye(2), np.zeros(2)]):
    ...         file[f"layers/simple_rnn/cell/vars/{i}"] = a
    >>> load_keras(path)["layers/simple_rnn"].hidden_size
    2
    """
    if activation is not None and (not isinstance(activation, str) or activation not in ACTIVATIONS):
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    path = os.fspath(path)
    layers = {}
    for name, fields in layers_in(_import(), path, activation):
        if name in layers:
            raise ValueError(f"{path} must have one layer of each name, got two of {name!r:.200}")
        try:
            backward = fields.pop("backward", None)
            backward = None if backward is None else KerasRNN(**backward)
            layers[name] = KerasRNN(**fields, backward=backward, name=name)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {name:.200}: {error!s:.1000}") from None
    if not layers:
        raise ValueError(f"{path} must have a SimpleRNN layer, got none")
    return layers


def run_keras_rnn(
    layer: KerasRNN,
    x: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    initial_state: ArrayLike | Sequence[ArrayLike | None] | None = None,
) -> KerasOutputs:
    """Run a layer as Keras does, masks with holes included.

    Parameters
    ----------
    layer : KerasRNN
    x : array_like, shape (B, T, I)
    mask : array_like of booleans, shape (B, T), optional
        False where a step does not exist: it leaves the state as it is.
    initial_state : array_like, shape (B, H), or sequence of one, optional
        None for zeros. For two directions a pair. The `states` of the call before go in as they came.

    Returns
    -------
    KerasOutputs
        ``outputs``, shape (B, T, H), or (B, T, 2 H) with two directions and ``concat``: what the layer returns with
        ``return_sequences``. ``last_output``, shape (B, H) or (B, 2 H): what it returns without. ``states``: one of
        shape (B, H) for each direction.

    Raises
    ------
    ValueError
        If a shape does not fit. If the layer is stateful and there is no `initial_state`. If Keras's backends do not
        agree about it: a mask, `unroll`, and a layer that runs backwards with outputs of 0.
    TypeError
        If the mask is not of booleans, or an array not of real numbers.

    Notes
    -----
    In Bidirectional `zero_output_for_mask` is for `outputs`; `last_output` is that of the last step that exists.

    The output of a masked step is that of the step before, and 0 before the first step that exists, also where the
    state there is an initial state that is not 0. So it is in Keras 3.15 on TensorFlow and PyTorch; on JAX and NumPy
    the output is that initial state instead, and with ``unroll`` these two ignore zero_output_for_mask. Without steps
    ``last_output`` is 0. Dropout does nothing, as when Keras predicts.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.bridges.keras import from_keras, run_keras_rnn
    >>> layer = from_keras([np.ones((1, 1)), 0.5 * np.eye(1)], activation="linear")
    >>> run_keras_rnn(layer, np.ones((1, 4, 1)), mask=[[False, True, False, True]]).outputs.ravel()
    array([0. , 1. , 1. , 1.5])
    """
    if not isinstance(layer, KerasRNN):
        raise TypeError(f"layer must be a KerasRNN, got {type(layer).__name__}")
    ways = [layer] if layer.backward is None else [layer, layer.backward]
    if initial_state is None and any(way.stateful for way in ways):
        raise ValueError(
            "initial_state must be given, as the layer is stateful: zeros, then the states of the call before"
        )
    if layer.backward is None:
        states: list[Any] = list(initial_state) if _is_of_one(initial_state) else [initial_state]
    elif initial_state is None:
        states = [None, None]
    elif isinstance(initial_state, Sequence) and len(initial_state) == 2:
        states = list(initial_state)
    else:
        raise TypeError("initial_state must be a pair of arrays for two directions, or None")
    runs = [_prepare(way, x, mask, state) for way, state in zip(ways, states, strict=True)]
    both = layer.backward is not None
    outputs, last, ends = zip(*(_run(way, *run, both) for way, run in zip(ways, runs, strict=True)), strict=True)
    if layer.backward is None:
        return KerasOutputs(outputs[0], last[0], ends)
    turned = (outputs[0], outputs[1][:, ::-1])
    return KerasOutputs(_merged(turned, layer.merge_mode), _merged(last, layer.merge_mode), ends)


def _is_of_one(state: object) -> TypeGuard[Sequence[ArrayLike | None]]:
    """Return whether this is a sequence of one array of states, as Keras and `KerasOutputs` have it."""
    if not isinstance(state, Sequence) or len(state) != 1:
        return False
    return state[0] is None or np.ndim(state[0]) == 2


def _prepare(
    layer: KerasRNN, x: ArrayLike, mask: ArrayLike | None, state: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Checked arrays of one direction: x, U, W, b, mask and state."""
    U, W, b = layer.weights()
    x, U, W, b, state = arguments.as_real_arrays("b", "initial_state", x=x, U=U, W=W, b=b, initial_state=state)
    arguments.check_shape("x", x, ("B", "T", U.shape[1]), "kernel", layer.kernel)
    arguments.check_shape("initial_state", state, (len(x), len(U)), "x", x, "kernel", layer.kernel)
    if mask is not None:
        mask = arguments.as_array("mask", mask)
        if mask.dtype.kind != "b" and mask.size:
            raise TypeError(f"mask must be booleans, got dtype {mask.dtype}")
        arguments.check_shape("mask", mask, x.shape[:2], "x", x)
        mask = mask.astype(bool)
        disputed = layer.unroll and layer.go_backwards and layer.zero_output_for_mask and layer.return_sequences
        if disputed and not mask.all():
            raise ValueError(
                "mask must have no False for a layer with unroll, go_backwards and zero_output_for_mask, where Keras's "
                "backends differ: dataclasses.replace(layer, unroll=False) computes what all have without unroll"
            )
    return x, U, W, b, mask, state


def _run(
    layer: KerasRNN,
    x: np.ndarray,
    U: np.ndarray,
    W: np.ndarray,
    b: np.ndarray | None,
    mask: np.ndarray | None,
    state: np.ndarray | None,
    both: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs in the order of work, the last one, and the state after it; both: of Bidirectional."""
    h = np.empty((*x.shape[:2], len(U)), x.dtype)
    options: dict[str, Any] = {
        "cell": Cell(layer.nonlinearity, negative_slope=layer.negative_slope),
        "reverse": layer.go_backwards,
    }
    steps = None if mask is None else mask.T
    forward(x.swapaxes(0, 1), U, W, b, state, mask=steps, out=h.swapaxes(0, 1), **options)
    if layer.go_backwards:
        h, mask = h[:, ::-1], None if mask is None else mask[:, ::-1]
    nothing = np.zeros((len(x), len(U)), x.dtype)
    if not h.shape[1]:
        return h, nothing, nothing if state is None else state.copy()
    last = end = h[:, -1].copy()
    if mask is not None:
        begun = np.logical_or.accumulate(mask, axis=1)
        h[~(mask if layer.zero_output_for_mask else begun)] = 0
        shown = mask if layer.zero_output_for_mask and not both else begun
        last = np.where(shown[:, -1:], end, nothing)
    return h, last.copy(), end


def _merged(pair: tuple[np.ndarray, np.ndarray], mode: str | None) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    a, b = pair
    if mode == "concat":
        return np.concatenate(pair, axis=-1)
    merged: dict[str | None, Callable[[], np.ndarray | tuple[np.ndarray, np.ndarray]]] = {
        "sum": lambda: a + b,
        "mul": lambda: a * b,
        "ave": lambda: (a + b) / 2,
        None: lambda: (a, b),
    }
    return merged[mode]()


def _import() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"it needs h5py: python -m pip install 'pyrnn-bptt[keras]' ({error})") from error
    package: ModuleType = h5py
    return package
