"""The types that the annotations of this package share. Nothing imports this module at run time.

An array is ``np.ndarray``, of any shape and dtype: which of float32 and float64 it has, the arguments of a call decide.
"""

from collections.abc import Callable
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from pyrnn._core.call import Call
from pyrnn.layers.rnn import RNN
from pyrnn.network import Network

# ---- Arguments of public functions ----------------------------------------------------------------------------------
Nonlinearity: TypeAlias = Literal["tanh", "relu", "identity", "softplus", "sigmoid", "retanh", "leaky_relu"]
Form: TypeAlias = Literal["rate", "current"]
AnyNetwork: TypeAlias = Network | RNN  # an RNN of one layer and direction
Engine: TypeAlias = Literal["auto", "blas", "fused"]
Loss: TypeAlias = Literal["softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson", "huber"]
Scheme: TypeAlias = Literal["orthogonal", "gaussian", "uniform", "glorot", "identity"]
Norm: TypeAlias = Literal["spectral", "frobenius"]
Dale: TypeAlias = Literal["rectified", "absolute"]
Omega: TypeAlias = Literal["book", "published"]
Activation: TypeAlias = Literal["tanh", "relu", "linear", "softplus", "sigmoid", "leaky_relu"]
MergeMode: TypeAlias = Literal["concat", "sum", "mul", "ave"]
OnnxDirection: TypeAlias = Literal["forward", "reverse", "bidirectional"]
# A loss of outputs, targets and weights that returns its value and its gradient.
OwnLoss: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray | None], tuple[Any, Any]]
RateOfStep: TypeAlias = Callable[[int], float]  # a learning rate, by the number of the step
Seed: TypeAlias = int | np.random.Generator | None
Path: TypeAlias = str | PathLike[str]
Nest = TypeVar("Nest", bound=np.ndarray | tuple[Any, ...] | list[Any] | dict[Any, Any] | None)
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

# ---- Inside of the package ------------------------------------------------------------------------------------------
Shape: TypeAlias = tuple[int, ...]
# One of several arrays, those of optional arguments None: the caller knows which.
MaybeArray: TypeAlias = np.ndarray | Any
StepOptions: TypeAlias = tuple[np.ndarray | None, np.ndarray | None, bool]  # lengths, mask, reverse
# A loss by step: of outputs, targets and weights, its values and its gradient.
OfSteps: TypeAlias = Callable[[ArrayLike, ArrayLike, ArrayLike | None], tuple[np.ndarray, np.ndarray]]
Results: TypeAlias = tuple[  # x, U, W, b, h0, drive, alpha
    np.ndarray | None, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None
]


class Compiled(Protocol):
    """The compiled module of an engine."""

    def forward(self, call: Call) -> None: ...
    def backward(self, call: Call) -> None: ...
    def state_gradients(self, call: Call) -> None: ...
    def output(
        self, h: np.ndarray, V: np.ndarray, c: np.ndarray | None, out: np.ndarray | None = None
    ) -> np.ndarray: ...
    def output_gradients(
        self,
        do: np.ndarray,
        h: np.ndarray,
        V: np.ndarray,
        results: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
        accumulate: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
