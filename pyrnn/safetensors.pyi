from collections.abc import Mapping
from os import PathLike

from numpy.typing import ArrayLike

from pyrnn.state_dict import StateDict

def load_safetensors(path: str | PathLike[str], *, prefix: str = "") -> StateDict: ...
def save_safetensors(
    state_dict: Mapping[str, ArrayLike],
    path: str | PathLike[str],
    *,
    prefix: str = "",
    metadata: Mapping[str, str] | None = None,
) -> None: ...
