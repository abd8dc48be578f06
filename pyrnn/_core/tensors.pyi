from typing import Any

from numpy import ndarray

def array(tensor: Any) -> ndarray: ...
