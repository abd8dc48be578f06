from collections.abc import Mapping
from os import PathLike

from numpy.typing import ArrayLike, NDArray

def load_safetensors(path: str | PathLike[str], *, prefix: str = "") -> dict[str, NDArray]: ...
def save_safetensors(
    state_dict: Mapping[str, ArrayLike],
    path: str | PathLike[str],
    *,
    prefix: str = "",
    metadata: Mapping[str, str] | None = None,
) -> None: ...
