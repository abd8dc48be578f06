"""What every public function does with its arguments before anything is computed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np

from pyrnn._core.call import read_in_place

if TYPE_CHECKING:
    from pyrnn._types import MaybeArray, Shape


def as_real_arrays(*optional: str, **arguments: object) -> Collection[MaybeArray]:
    """The arguments as arrays of one dtype, float32 or float64, in the order given; only `optional` ones may be None.

    The common dtype is NumPy's for the given ones and float32, so that half precision, booleans and small integers
    become float32 and larger integers float64. An array that has the dtype already, is aligned and has a contiguous
    last axis comes back as it is; every other one is copied once.

    Raises TypeError for complex, object, text and long double, and for masked values; ValueError for what is no array.
    """
    for name, a in arguments.items():
        if a is None and name not in optional:
            raise TypeError(f"{name} must be an array of numbers, got None")
    if read_in_place(*arguments.values()):
        return arguments.values()
    arrays = {name: None if a is None else as_array(name, a) for name, a in arguments.items()}
    for name, a in arrays.items():
        if a is not None and (a.dtype.kind not in "fiub" or a.dtype.char == "g"):
            raise TypeError(f"{name} must be real numbers that fit float32 or float64, got dtype {a.dtype}")
    dtype = np.result_type(np.float32, *(a.dtype for a in arrays.values() if a is not None))
    return [None if a is None else _in_place_or_copied(a, dtype) for a in arrays.values()]


def as_array(name: str, a: object) -> np.ndarray:
    """The argument as a plain array of whatever dtype it has; bfloat16, which is none of NumPy's, becomes float32."""
    if isinstance(a, np.ma.MaskedArray) and np.ma.is_masked(a):
        raise TypeError(f"{name} must be an array without masked values, got {np.ma.count_masked(a)} masked: fill them")
    try:
        array = np.asarray(a)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from None
    except TypeError as error:
        if str(getattr(a, "dtype", None)) == "torch.bfloat16":
            return np.asarray(cast("Any", a).float())  # a tensor of PyTorch
        raise TypeError(f"{name} must be an array of numbers: {error}") from None
    return array.astype(np.float32) if array.dtype.kind == "V" and array.dtype.name == "bfloat16" else array


def map_given(function: Callable[[np.ndarray], np.ndarray], *arrays: np.ndarray | None) -> list[MaybeArray]:
    """Return what the function makes of each array, and None where there is none."""
    return [None if a is None else function(a) for a in arrays]


def _in_place_or_copied(a: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return a if a.dtype == dtype and read_in_place(a) else np.array(a, dtype=dtype, order="C")


def matrix(a: np.ndarray) -> np.ndarray:
    """The matrix itself if its rows lie as BLAS wants them, one after the other without overlap; else a copy."""
    return a if a.strides[0] >= a.shape[1] * a.itemsize else np.ascontiguousarray(a)


def shape_error(name: str, expected: object, a: np.ndarray, *others: str | np.ndarray) -> NoReturn:
    """Raise the error for a wrong shape; others: names and arrays, in turn, that the expected shape comes from."""
    pairs = [f"{other} {np.shape(array)}" for other, array in zip(others[::2], others[1::2], strict=True)]
    to = f" to match {' and '.join(pairs)}" if pairs else ""
    raise ValueError(f"{name} must have shape {expected}{to}, got {a.shape}")


def check_sequence(name: str, letter: str, a: np.ndarray) -> None:
    if a.ndim != 3 and a.ndim != 2:
        shape_error(name, f"(T, B, {letter}) or (T, {letter})", a)


def check_columns(name: str, letter: str, a: np.ndarray, columns: object, *others: str | np.ndarray) -> None:
    """Check a 2-D array with so many columns and any number of rows."""
    if a.ndim != 2 or a.shape[1] != columns:
        shape_error(name, f"({letter}, {columns})", a, *others)


def check_shape(name: str, a: np.ndarray | None, shape: tuple[object, ...], *others: str | np.ndarray) -> None:
    """Raise `shape_error` for an array of another shape, where a letter stands for any size; None passes."""
    if a is None or a.shape == shape:
        return
    letters = any(isinstance(n, str) for n in shape)
    pairs = zip(shape, a.shape, strict=False)
    if not letters or a.ndim != len(shape) or not all(isinstance(n, str) or n == m for n, m in pairs):
        shape_error(name, f"({', '.join(map(str, shape))})" if letters else shape, a, *others)


def check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def is_finite_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and bool(np.isfinite(value))


def positive_integer(name: str, value: Any) -> int:
    try:
        integer = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a positive integer, got {value!r}") from None
    if integer < 1:
        raise ValueError(f"{name} must be a positive integer, got {integer}")
    return integer


def integer_within(name: str, value: Any, low: int, high: int | None = None) -> int:
    """An integer from low to high, which None leaves open."""
    expected = f"{name} must be an integer from {low}" + ("" if high is None else f" to {high}")
    try:
        integer = operator.index(value)
    except TypeError:
        raise TypeError(f"{expected}, got {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{expected}, got {value!r}")
    if integer < low or (high is not None and integer > high):
        raise ValueError(f"{expected}, got {integer}")
    return integer


def check_out(
    out: object,
    shape: Shape,
    dtype: np.dtype,
    inputs: Mapping[str, object],
    arrays: Collection[object],
    name: str = "out",
) -> None:
    """Check an array that results are written to; inputs: the arguments by name, arrays: what they became."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(out).__name__}")
    if isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a plain NumPy array, got a MaskedArray")
    if out.shape != shape:
        shape_error(name, shape, out)
    if out.dtype != dtype:
        raise ValueError(f"{name} must have dtype {dtype} to match the inputs, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    for (other, given), array in zip(inputs.items(), arrays, strict=True):
        for a in (given,) if array is given else (given, array):
            if isinstance(a, np.ndarray) and overlap(out, a):
                raise ValueError(f"{name} must not overlap an input, but shares memory with {other}")


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays share memory, or may where that is too hard to tell."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]  # its stub has two of the values
    except np.exceptions.TooHardError:
        return True


def written_in_place(out: np.ndarray) -> bool:
    """Whether the compiled loops can write to `out` [T, B, N] as it lies: contiguous rows, apart from each other."""
    size = out.itemsize
    T, B, N = out.shape
    st, sb, sn = out.strides
    return bool(
        out.flags.aligned
        and (sn == size or N == 1)
        and not (st % size or sb % size)
        and (B <= 1 or sb >= N * size)
        and (T <= 1 or abs(st) >= N * size)
    )
