from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Literal, NamedTuple

from numpy.typing import ArrayLike, NDArray

from pyrnn.state_dict import Description

MERGE_MODES: tuple[str | None, ...]

_Nonlinearity = Literal["tanh", "relu", "identity"]
_Activation = Literal["tanh", "relu", "linear"]
_MergeMode = Literal["concat", "sum", "mul", "ave"]

class KerasOutputs(NamedTuple):
    outputs: NDArray | tuple[NDArray, NDArray]
    last_output: NDArray | tuple[NDArray, NDArray]
    states: tuple[NDArray, ...]

@dataclass(frozen=True, eq=False)
class KerasRNN:
    kernel: NDArray
    recurrent_kernel: NDArray
    bias: NDArray | None = None
    nonlinearity: _Nonlinearity = "tanh"
    go_backwards: bool = False
    zero_output_for_mask: bool = False
    return_sequences: bool = True
    backward: KerasRNN | None = None
    merge_mode: _MergeMode | None = "concat"
    name: str = ""
    stateful: bool = False
    unroll: bool = False
    def __init__(
        self,
        kernel: ArrayLike,
        recurrent_kernel: ArrayLike,
        bias: ArrayLike | None = None,
        nonlinearity: _Nonlinearity = "tanh",
        go_backwards: bool = False,
        zero_output_for_mask: bool = False,
        return_sequences: bool = True,
        backward: KerasRNN | None = None,
        merge_mode: _MergeMode | None = "concat",
        name: str = "",
        stateful: bool = False,
        unroll: bool = False,
    ) -> None: ...
    def __post_init__(self) -> None: ...
    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    def weights(self) -> tuple[NDArray, NDArray, NDArray | None]: ...

def from_keras(
    weights: Sequence[ArrayLike],
    *,
    activation: _Activation | None = "tanh",
    go_backwards: bool = False,
    zero_output_for_mask: bool | None = None,
    merge_mode: _MergeMode | None = "concat",
    name: str = "",
) -> KerasRNN: ...
def to_keras(network: Description | Mapping[str, ArrayLike]) -> list[list[NDArray]]: ...
def to_state_dict(layers: Sequence[KerasRNN] | Mapping[str, KerasRNN]) -> Description: ...
def load_keras(path: str | PathLike[str], *, activation: _Activation | None = None) -> dict[str, KerasRNN]: ...
def run_keras_rnn(
    layer: KerasRNN,
    x: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    initial_state: ArrayLike | Sequence[ArrayLike | None] | None = None,
) -> KerasOutputs: ...
