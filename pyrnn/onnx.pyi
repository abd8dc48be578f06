from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, NamedTuple

from numpy.typing import ArrayLike, DTypeLike, NDArray

from pyrnn.state_dict import Description

_Nonlinearity = Literal["tanh", "relu", "identity"]
_Direction = Literal["forward", "reverse", "bidirectional"]

class OnnxOutputs(NamedTuple):
    Y: NDArray
    Y_h: NDArray

@dataclass(frozen=True, eq=False)
class OnnxRNN:
    W: NDArray
    R: NDArray
    B: NDArray | None = None
    sequence_lens: NDArray | None = None
    initial_h: NDArray | None = None
    direction: _Direction = "forward"
    nonlinearities: tuple[_Nonlinearity, ...] = ("tanh",)
    layout: Literal[0, 1] = 0
    name: str = ""
    inputs: Mapping[str, str] = ...
    number: int | None = None
    source: int | None = None
    def __init__(
        self,
        W: ArrayLike,
        R: ArrayLike,
        B: ArrayLike | None = None,
        sequence_lens: ArrayLike | None = None,
        initial_h: ArrayLike | None = None,
        direction: _Direction = "forward",
        nonlinearities: tuple[_Nonlinearity, ...] = ("tanh",),
        layout: Literal[0, 1] = 0,
        name: str = "",
        inputs: Mapping[str, str] = ...,
        number: int | None = None,
        source: int | None = None,
    ) -> None: ...
    def __post_init__(self) -> None: ...
    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    def weights(self, number: int = 0) -> tuple[NDArray, NDArray, NDArray | None]: ...

def run_onnx_rnn(
    node: OnnxRNN, x: ArrayLike, sequence_lens: ArrayLike | None = None, initial_h: ArrayLike | None = None
) -> OnnxOutputs: ...
def from_onnx(model: Any | str | PathLike[str]) -> tuple[OnnxRNN, ...]: ...
def to_state_dict(nodes: Sequence[OnnxRNN]) -> Description: ...
def to_onnx(
    state_dict: Description | Mapping[str, ArrayLike],
    *,
    nonlinearity: _Nonlinearity | None = None,
    reverse: bool = False,
    layout: Literal[0, 1] = 0,
    sequence_lens: bool = False,
    initial_h: bool = False,
    dtype: DTypeLike = ...,
) -> Any: ...
