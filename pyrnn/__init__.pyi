from collections.abc import Iterator, Mapping
from os import PathLike
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from pyrnn.profiling import FunctionTotals, PhaseRecord, PhaseTotals

__version__: str
__all__ = [
    "RNN",
    "GradientErrors",
    "Gradients",
    "LossGradients",
    "OutputGradients",
    "Parameters",
    "RNNGradients",
    "Stepper",
    "backward",
    "check_gradients",
    "forward",
    "initialize",
    "jacobian",
    "loss_and_gradients",
    "output",
    "output_gradients",
    "profile",
    "sech2",
    "show_config",
    "softmax_cross_entropy",
    "squared_error",
    "state_gradients",
    "tanh",
]

_Engine = Literal["auto", "blas", "fused"]
_Nonlinearity = Literal["tanh", "relu", "identity"]
_Form = Literal["rate", "current"]
_Loss = Literal["softmax_cross_entropy", "squared_error"]
_Scheme = Literal["orthogonal", "gaussian", "uniform", "glorot", "identity"]

class _InputGradients(NamedTuple):
    x: NDArray
    U: NDArray
    W: NDArray
    b: NDArray
    h0: NDArray

class Gradients(_InputGradients):
    drive: NDArray | None
    alpha: NDArray | float | None

class OutputGradients(NamedTuple):
    h: NDArray
    V: NDArray
    c: NDArray

class LossGradients(NamedTuple):
    U: NDArray
    W: NDArray
    b: NDArray | None
    V: NDArray | None
    c: NDArray | None
    x: NDArray
    h0: NDArray
    @property
    def parameters(self) -> Parameters: ...

class Parameters(NamedTuple):
    U: NDArray
    W: NDArray
    b: NDArray | None = None
    V: NDArray | None = None
    c: NDArray | None = None
    def ravel(self) -> NDArray: ...
    def unravel(self, vector: ArrayLike) -> Parameters: ...

class GradientErrors(NamedTuple):
    U: float
    W: float
    b: float | None
    V: float | None
    c: float | None
    x: float
    h0: float

class profile:
    seconds: float
    instruction_set: str
    peak: dict[str, float]
    records: tuple[PhaseRecord, ...]
    functions: dict[str, FunctionTotals]
    def __init__(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None: ...
    @property
    def phases(self) -> dict[str, PhaseTotals]: ...
    @property
    def threads(self) -> dict[int, PhaseTotals]: ...
    @overload
    def to_json(self, path: None = None) -> str: ...
    @overload
    def to_json(self, path: str | PathLike[str]) -> None: ...

def forward(
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    b: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    drive: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: NDArray | None = None,
    out: NDArray | None = None,
    n_threads: int | None = None,
    engine: _Engine = "auto",
) -> NDArray: ...
def backward(
    dh: ArrayLike,
    h: ArrayLike,
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    drive: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: ArrayLike | None = None,
    n_threads: int | None = None,
    engine: _Engine = "auto",
) -> Gradients: ...
def state_gradients(
    dh: ArrayLike,
    h: ArrayLike,
    W: ArrayLike,
    *,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: ArrayLike | None = None,
) -> NDArray: ...
def jacobian(
    h: ArrayLike,
    W: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: ArrayLike | None = None,
) -> NDArray: ...
def tanh(a: ArrayLike) -> Any: ...
def sech2(a: ArrayLike) -> Any: ...
@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, dict[str, Any]]: ...
def output(h: ArrayLike, V: ArrayLike, c: ArrayLike | None = None) -> NDArray: ...
def output_gradients(do: ArrayLike, h: ArrayLike, V: ArrayLike) -> OutputGradients: ...
def softmax_cross_entropy(
    o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None
) -> tuple[np.float64, NDArray]: ...
def squared_error(o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> tuple[np.float64, NDArray]: ...
def loss_and_gradients(
    params: Parameters,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    loss: _Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> tuple[np.float64, LossGradients]: ...
def check_gradients(
    params: Parameters,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    loss: _Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    step: float = 1e-5,
    max_entries: int | None = 200,
    rng: int | np.random.Generator | None = 0,
) -> GradientErrors: ...
def initialize(
    input_size: int,
    hidden_size: int,
    output_size: int | None = None,
    *,
    scheme: _Scheme = "orthogonal",
    gain: float = 1.0,
    dtype: DTypeLike = ...,
    rng: int | np.random.Generator | None = None,
) -> Parameters: ...

class Stepper:
    def __new__(
        cls,
        U: ArrayLike,
        W: ArrayLike,
        b: ArrayLike | None = None,
        V: ArrayLike | None = None,
        c: ArrayLike | None = None,
        *,
        batch: int | None = None,
        h0: ArrayLike | None = None,
    ) -> Self: ...
    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def output_size(self) -> int | None: ...
    @property
    def batch(self) -> int | None: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def state(self) -> NDArray: ...
    @state.setter
    def state(self, h: ArrayLike) -> None: ...
    def step(self, x: ArrayLike, out: NDArray | None = None) -> NDArray: ...
    def run(self, x: ArrayLike, *, n_threads: int | None = None) -> NDArray: ...
    def reset(self, h0: ArrayLike | None = None) -> None: ...

class RNNGradients(NamedTuple):
    x: NDArray
    h0: NDArray
    alpha: NDArray | np.floating | None

class RNN:
    training: bool
    input_size: Final[int]
    hidden_size: Final[int]
    num_layers: Final[int]
    nonlinearity: Final[_Nonlinearity]
    bias: Final[bool]
    batch_first: Final[bool]
    bidirectional: Final[bool]
    alpha: Final[float | NDArray]
    form: Final[_Form]
    output_size: Final[int | None]
    dtype: Final[np.dtype]
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: _Nonlinearity = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        alpha: ArrayLike = 1.0,
        form: _Form = "rate",
        output_size: int | None = None,
        dtype: DTypeLike = ...,
        rng: int | np.random.Generator | None = None,
    ) -> None: ...
    @property
    def dropout(self) -> float: ...
    @dropout.setter
    def dropout(self, p: float) -> None: ...
    @property
    def recurrent_dropout(self) -> float: ...
    @recurrent_dropout.setter
    def recurrent_dropout(self, p: float) -> None: ...
    @property
    def rng(self) -> np.random.Generator: ...
    @rng.setter
    def rng(self, rng: int | np.random.Generator | None) -> None: ...
    @property
    def parameters(self) -> NDArray: ...
    @parameters.setter
    def parameters(self, values: ArrayLike) -> None: ...
    @property
    def gradients(self) -> NDArray: ...
    @gradients.setter
    def gradients(self, values: ArrayLike) -> None: ...
    @property
    def layer_states(self) -> tuple[NDArray, ...]: ...
    @property
    def layer_rates(self) -> tuple[NDArray, ...]: ...
    def __getattr__(self, name: str) -> NDArray: ...
    def __setattr__(self, name: str, value: Any) -> None: ...
    def named_parameters(self) -> Iterator[tuple[str, NDArray]]: ...
    def named_gradients(self) -> Iterator[tuple[str, NDArray]]: ...
    def state_dict(self) -> dict[str, NDArray]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def __call__(
        self,
        x: ArrayLike,
        h0: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        *,
        out: tuple[NDArray | None, NDArray | None] | None = None,
    ) -> tuple[NDArray, NDArray]: ...
    def backward(
        self,
        dout: ArrayLike | None,
        dh_n: ArrayLike | None = None,
        *,
        accumulate: bool = False,
        out: tuple[NDArray | None, NDArray | None] | None = None,
    ) -> RNNGradients: ...
    def loss_and_gradients(
        self,
        x: ArrayLike,
        targets: ArrayLike,
        *,
        loss: _Loss = "softmax_cross_entropy",
        h0: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        out: NDArray | None = None,
    ) -> tuple[np.float64, NDArray]: ...
    def save(self, path: str | PathLike[str]) -> None: ...
    @classmethod
    def load(cls, path: str | PathLike[str], *, rng: int | np.random.Generator | None = None) -> Self: ...
    def __copy__(self) -> Self: ...
    def __dir__(self) -> list[str]: ...
    def __getstate__(self) -> dict[str, Any]: ...
    def __setstate__(self, state: dict[str, Any]) -> None: ...
