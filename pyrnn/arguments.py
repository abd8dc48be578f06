"""The checks of arguments that all functions of this package make, for bridges and whoever writes one.

`as_real_arrays` makes arrays of one dtype of what was given, `check_shape` names what does not fit, `tensor_array` is
the array on a tensor's memory.
"""

from pyrnn._checks import as_array, as_real_arrays, check_shape
from pyrnn._core.tensors import array as tensor_array

__all__ = ["as_array", "as_real_arrays", "check_shape", "tensor_array"]
