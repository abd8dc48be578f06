from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Nonlinearity = Literal["tanh", "relu", "identity"]

class StateDict(dict[str, NDArray]):
    arguments: dict[str, Any]
    def __init__(
        self,
        arrays: Mapping[str, NDArray] | Iterable[tuple[str, NDArray]] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> None: ...

@dataclass(frozen=True, eq=False)
class Description:
    state_dict: dict[str, NDArray]
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    bidirectional: bool
    nonlinearity: _Nonlinearity
    dtype: np.dtype
    @property
    def config(self) -> dict[str, Any]: ...
    def layer(self, number: int, *, reverse: bool = False) -> tuple[NDArray, NDArray, NDArray | None]: ...

def describe(
    state_dict: Mapping[str, ArrayLike], *, prefix: str | None = None, nonlinearity: _Nonlinearity | None = None
) -> Description: ...
