"""Networks as dictionaries of arrays under PyTorch's names: what such a dictionary says, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pyrnn.arguments import as_real_arrays, check_shape
from pyrnn.cell import NEGATIVE_SLOPE, Cell
from pyrnn.layers.parameters import NEITHER, StateDict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import Nonlinearity

_NAME = re.compile(r"(weight|bias)_(ih|hh)_l(0|[1-9][0-9]{0,5})(_reverse)?")
_FIRST = "weight_ih_l0"


@dataclass(frozen=True, eq=False)
class Description:
    """A plain network of one or more layers: its sizes, and its arrays under PyTorch's names.

    Made by `describe`, by `pyrnn.bridges.onnx.to_state_dict` and by `pyrnn.bridges.keras.to_state_dict`.

    Parameters
    ----------
    state_dict : dict of str to ndarray
        ``weight_ih_l0`` (H, I), ``weight_hh_l0`` (H, H), ``bias_ih_l0`` and ``bias_hh_l0`` (H,), the same with
        ``_reverse`` for the second direction, and so on with ``l1``, whose input has the H or 2 H units below it.
    input_size, hidden_size, num_layers : int
    bias, bidirectional : bool
    nonlinearity : {"tanh", "relu", "identity", "softplus", "sigmoid", "retanh", "leaky_relu"}
    dtype : numpy.dtype
        float32 or float64, of all arrays.
    negative_slope : float
        Of ``leaky_relu``.
    """

    state_dict: dict[str, np.ndarray]
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    bidirectional: bool
    nonlinearity: Nonlinearity
    dtype: np.dtype
    negative_slope: float = NEGATIVE_SLOPE

    @property
    def config(self) -> dict[str, Any]:
        """The sizes and options as a dictionary: the keyword arguments of `torch.nn.RNN`, without the dtype.

        `torch.nn.RNN` raises an error for other nonlinearities than tanh and relu, and has no ``negative_slope``, which
        is there with ``leaky_relu``.
        """
        names = ["input_size", "hidden_size", "num_layers", "nonlinearity", "bias", "bidirectional"]
        names += ["negative_slope"] if self.nonlinearity == "leaky_relu" else []
        return {name: getattr(self, name) for name in names}

    def layer(self, number: int, *, reverse: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The arrays of one layer and direction as `pyrnn.forward` takes them.

        Parameters
        ----------
        number : int
            The layer, from 0.
        reverse : bool
            The second direction of a bidirectional network.

        Returns
        -------
        U, W, b : ndarray
            b is bias_ih + bias_hh, or None.

        Raises
        ------
        KeyError
            If there is no such layer or direction.
        """
        end = f"_l{number}" + "_reverse" * bool(reverse)
        a = self.state_dict
        b = a["bias_ih" + end] + a["bias_hh" + end] if self.bias else None
        return a["weight_ih" + end], a["weight_hh" + end], b


def describe(
    state_dict: Mapping[str, ArrayLike],
    *,
    prefix: str | None = None,
    nonlinearity: Nonlinearity | None = None,
    negative_slope: float | None = None,
) -> Description:
    """Read a dictionary of arrays with PyTorch's names as a network, and check all names and shapes.

    Parameters
    ----------
    state_dict : mapping of str to array_like
        From `torch.nn.RNN.state_dict`, from a checkpoint. Names that belong to something else are left out.
    prefix : str, optional
        What stands before the names, such as ``"encoder.rnn."``. None looks for it: there must be one network only.
    nonlinearity : {"tanh", "relu", "identity", "softplus", "sigmoid", "retanh", "leaky_relu"}, optional
        No checkpoint tells it, but `RNN.state_dict` does. None for what that says, or tanh.
    negative_slope : float, optional
        Of ``leaky_relu``. None for what `RNN.state_dict` says, or 0.01.

    Returns
    -------
    Description
        Without the prefix. Its arrays are those given, or copies where a dtype or a layout must change; of an
        `RNN.state_dict` with constraints, effective weights.

    Raises
    ------
    ValueError
        If there is no network or more than one, a name is missing, or a shape does not fit: that of an LSTM or a GRU,
        for example. If the network is more than a Description says: with a leak, an output layer, or a trained h0.
    TypeError
        If `state_dict` is no mapping, a name no text, or an array not of real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.bridges.state_dict import describe
    >>> network = describe({"rnn.weight_ih_l0": np.zeros((4, 3)), "rnn.weight_hh_l0": np.eye(4), "fc.bias": [1.0]})
    >>> network.config["hidden_size"], network.bias, sorted(network.state_dict)
    (4, False, ['weight_hh_l0', 'weight_ih_l0'])
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a mapping of names to arrays, got {type(state_dict).__name__}")
    arguments = state_dict.arguments if isinstance(state_dict, StateDict) else {}
    nonlinearity = arguments.get("nonlinearity", "tanh") if nonlinearity is None else nonlinearity
    if negative_slope is None:
        leaky = nonlinearity == arguments.get("nonlinearity") == "leaky_relu"
        negative_slope = arguments.get("negative_slope", NEGATIVE_SLOPE) if leaky else NEGATIVE_SLOPE
    cell = Cell(nonlinearity, negative_slope=negative_slope)  # checks them
    alpha, form = arguments.get("alpha", 1.0), arguments.get("form", "rate")
    if (
        form != "rate"
        or arguments.get("train_alpha")
        or any(a != 1 for a in (alpha if isinstance(alpha, list) else [alpha]))
    ):
        raise ValueError(
            f"state_dict must be of a network without a leak, got an RNN of alpha {alpha!r:.60} and form {form!r:.60}: "
            "PyTorch, ONNX and Keras have no such network"
        )
    for name in state_dict:
        if not isinstance(name, str):
            raise TypeError(f"state_dict must have text as names, got {name!r}")
    if prefix is None:
        prefix = _find_prefix(state_dict)
    elif not isinstance(prefix, str):
        raise TypeError(f"prefix must be text or None, got {prefix!r}")
    own = {name.removeprefix(prefix): a for name, a in state_dict.items() if name.startswith(prefix)}
    if any(name.startswith("weight_hr_l") for name in own):
        raise ValueError("state_dict must be of a plain RNN, got weight_hr_l0, a projection of an LSTM")
    constraints = arguments.get("constraints") or {}
    of = " of rnn.state_dict() | rnn.effective_weights()" if constraints else ""  # a copy forgets the constraints
    if output := [prefix + name for name in ("weight_out", "bias_out") if name in own]:
        raise ValueError(
            f"state_dict must be of recurrent layers alone, got an output layer, {' and '.join(output)}: leave these "
            f"out{of}, and give nonlinearity={nonlinearity!r}"
        )
    if starts := [prefix + name for name in NEITHER if name in own]:
        raise ValueError(
            f"state_dict must be of recurrent layers alone, got {' and '.join(starts)}, which PyTorch, ONNX and Keras "
            "do not have: leave h0 out, and give it to calls; a leak cannot be left out"
        )
    own = {name: a for name, a in own.items() if _NAME.fullmatch(name)}
    own |= {name: constraint.apply(own[name]) for name, constraint in constraints.items() if name in own}
    if _FIRST not in own:
        raise ValueError(f"state_dict must have {prefix + _FIRST}, got {_some(state_dict)}")

    layers = 1 + max(_kind_and_layer(name)[1] for name in own)
    bias = "bias_ih_l0" in own or "bias_hh_l0" in own
    directions = ("", "_reverse") if any(name.endswith("_reverse") for name in own) else ("",)
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if bias else ("weight_ih", "weight_hh")
    # The number of layers comes from a name that may be hostile: look at no more names than there are.
    order = (f"{kind}_l{n}{way}" for n in range(layers) for way in directions for kind in kinds)
    names = []
    for name in order:
        if name not in own:
            raise ValueError(f"state_dict must have {prefix + name} beside {prefix}{_last(own)}, got no such name")
        names.append(name)
    if extra := own.keys() - set(names):
        raise ValueError(f"state_dict must have biases in all layers or in none, got {_some(extra)}")
    arrays = dict(zip(names, as_real_arrays(**{name: own[name] for name in names}), strict=True))
    I, H = _sizes(arrays)
    for name, a in arrays.items():
        kind, number = _kind_and_layer(name)
        shape: tuple[int, ...] = (H, I if number == 0 else len(directions) * H)
        if kind == "bias":
            shape = (H,)
        elif name.startswith("weight_hh"):
            shape = (H, H)
        check_shape(name, a, shape, _FIRST, arrays[_FIRST])
    return Description(
        state_dict=arrays,
        input_size=I,
        hidden_size=H,
        num_layers=layers,
        bias=bias,
        bidirectional=len(directions) == 2,
        nonlinearity=nonlinearity,
        dtype=arrays[_FIRST].dtype,
        negative_slope=cell.negative_slope,
    )


def _find_prefix(state_dict: Iterable[str]) -> str:
    found = [name.removesuffix(_FIRST) for name in state_dict if name.endswith(_FIRST)]
    if not found:
        raise ValueError(f"state_dict must have a name that ends in {_FIRST}, got {_some(state_dict)}")
    if len(found) > 1:
        raise ValueError(f"prefix must say which network is meant, one of {_some(found)}, got None")
    return found[0]


def _sizes(arrays: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """I and H, with a word on cells whose gates are stacked."""
    U, W = arrays[_FIRST], arrays["weight_hh_l0"]
    check_shape(_FIRST, U, ("H", U.shape[-1] if U.ndim else "I"))
    if W.ndim == 2 and W.shape[0] in (3 * W.shape[1], 4 * W.shape[1]) and W.shape[1]:
        cell = "a GRU" if W.shape[0] == 3 * W.shape[1] else "an LSTM"
        raise ValueError(f"weight_hh_l0 must have shape (H, H), got {W.shape}: the stacked gates of {cell}?")
    return U.shape[1], U.shape[0]


def _kind_and_layer(name: str) -> tuple[str, int]:
    """``weight`` or ``bias``, and the number of the layer, of a name that `_NAME` matches."""
    found = cast("re.Match[str]", _NAME.fullmatch(name))
    return found[1], int(found[3])


def _last(own: Iterable[str]) -> str:
    return max(own, key=lambda name: (_kind_and_layer(name)[1], name))


def _some(names: Iterable[str]) -> str:
    """The first few names, for a message."""
    names = sorted(map(repr, names))
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "no names"
