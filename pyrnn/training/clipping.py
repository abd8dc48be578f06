"""Gradients that are too large, cut back by their norm or entry by entry."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from pyrnn import _checks
from pyrnn.cell import Cell

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import Nest

QUIET = np.errstate(all="ignore")  # NaN and inf pass through; what is too small to matter becomes 0


@QUIET
def gradient_norm(gradients: ArrayLike | tuple[Any, ...] | list[Any] | dict[Any, Any] | None) -> np.float64:
    """The Euclidean norm of all entries of all gradients together.

    Parameters
    ----------
    gradients : array_like, tuple, list or dict of these, or None
        As `clip_gradients` takes them.

    Returns
    -------
    norm : float
        In float64; inf if it is too large for that or an entry is infinite, NaN if an entry is NaN, 0 for nothing.

    Raises
    ------
    TypeError
        If a gradient is not of real numbers.

    Notes
    -----
    Entries are divided by a power of two near the largest one before they are squared, so that neither squares of
    1e30 in float32 overflow nor those of 1e-30 vanish.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> print(f"{pyrnn.training.gradient_norm([np.array([3e200, 0.0]), None, np.array([[4e200]])]):.3g}")
    5e+200
    """
    norm: np.float64 = np.ldexp(*_norm([a for _, a in _leaves(gradients)]))
    return norm


@overload
def clip_gradients(
    gradients: Nest, *, max_norm: float | None = None, max_value: float | None = None, error_if_nonfinite: bool = False
) -> tuple[Nest, float]: ...
@overload
def clip_gradients(
    gradients: float,
    *,
    max_norm: float | None = None,
    max_value: float | None = None,
    error_if_nonfinite: bool = False,
) -> tuple[np.float64, float]: ...
@QUIET
def clip_gradients(
    gradients: Any, *, max_norm: float | None = None, max_value: float | None = None, error_if_nonfinite: bool = False
) -> tuple[Any, float]:
    """Gradients whose norm, or whose entries, are no larger than a threshold.

    Parameters
    ----------
    gradients : array_like, tuple, list or dict of these, or None
        An array, a named tuple such as `LossGradients`, `Gradients` or `Network`, or any nest of tuples, lists and
        dicts with arrays and None in it; the cell of a network is kept. **All** arrays in it count for the norm: of
        `LossGradients`, take ``gradients.parameters`` to leave out those of x, h0 and alpha.
    max_norm : float, optional
        Clip by norm: if the norm of all arrays together is above it, multiply all by max_norm / norm.
    max_value : float, optional
        Clip by entry: bring each entry into [-max_value, max_value]. Exactly one of the two must be given.
    error_if_nonfinite : bool
        Whether to raise an error if an entry is NaN or infinite. If not, clipping by norm makes all entries NaN if
        there is a NaN; if there is an inf and no NaN, its factor is 0: infinite entries become NaN, others 0.
        Clipping by entry keeps NaN and clips inf.

    Returns
    -------
    clipped : as `gradients`
        The same types and dtypes, in new arrays; numbers become NumPy's.
    factor : float
        By norm: what all entries were multiplied by, 1.0 if the norm was not above the threshold. By entry: the
        fraction of entries that were clipped, 0.0 if none was.

    Raises
    ------
    ValueError
        If a threshold is not positive, not exactly one is given, or `error_if_nonfinite` found such an entry.
    TypeError
        If a gradient is not of real numbers.

    See Also
    --------
    gradient_norm : the norm alone.

    Notes
    -----
    By norm: equations 10.48 and 10.49 of [1]_, after [2]_; the direction stays. By entry: it does not.
    `torch.nn.utils.clip_grad_norm_` divides by norm + 1e-6, this function by the norm.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.11.1.
    .. [2] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> clipped, factor = pyrnn.training.clip_gradients({"W": np.array([[3.0]]), "b": np.array([4.0])}, max_norm=1.0)
    >>> clipped["W"], clipped["b"], factor
    (array([[0.6]]), array([0.8]), 0.2)
    >>> pyrnn.training.clip_gradients(np.array([0.5, -3.0]), max_value=1.0)
    (array([ 0.5, -1. ]), 0.5)
    """
    if (max_norm is None) == (max_value is None):
        raise ValueError(f"exactly one of max_norm and max_value must be given, got {max_norm!r} and {max_value!r}")
    name, threshold = ("max_norm", max_norm) if max_value is None else ("max_value", max_value)
    if not isinstance(threshold, int | float | np.integer | np.floating) or not threshold > 0:
        raise ValueError(f"{name} must be a positive number, got {threshold!r}")
    if not isinstance(error_if_nonfinite, bool | np.bool_):
        raise TypeError(f"error_if_nonfinite must be True or False, got {error_if_nonfinite!r}")
    threshold = float(threshold)
    leaves = _leaves(gradients)
    if error_if_nonfinite:
        for where, a in leaves:
            if not np.isfinite(a).all():
                raise ValueError(f"{where} must be finite, got NaN or inf in it")
    arrays = [a for _, a in leaves]
    clip, factor = (_by_norm if max_value is None else _by_value)(arrays, threshold)
    return _replaced(gradients, map(clip, arrays)), factor


def _by_norm(arrays: list[np.ndarray], threshold: float) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """A function that clips an array, and its factor."""
    root, exponent = _norm(arrays)
    norm = np.ldexp(root, exponent)  # may be inf where root and exponent still tell the ratio
    if norm <= threshold:
        return np.copy, 1.0
    ratio = threshold / root

    def clip(a: np.ndarray) -> np.ndarray:
        # In float64 and in two steps, so that a factor too small for a's dtype does its work.
        return (np.ldexp(a.astype(np.float64), -exponent) * ratio).astype(a.dtype)

    return clip, float(np.ldexp(ratio, -exponent))


def _by_value(arrays: list[np.ndarray], threshold: float) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """A function that clips an array, and the fraction of entries that it changes."""
    size = sum([a.size for a in arrays])
    # A finite threshold above all numbers of a dtype clips inf alone.
    bound: Callable[[np.ndarray], float] = lambda a: (
        threshold if math.isinf(threshold) else min(threshold, float(np.finfo(a.dtype).max))
    )
    above = sum(int(np.count_nonzero(np.abs(a) > bound(a))) for a in arrays)
    return lambda a: np.clip(a, -bound(a), bound(a)), above / size if size else 0.0


def _norm(arrays: list[np.ndarray]) -> tuple[np.float64, int]:
    """The norm as root · 2**exponent; a root of inf or NaN where it is that, with exponent 0."""
    largest = np.max([np.abs(a).max(initial=0.0) for a in arrays], initial=0.0)
    if largest == 0 or not np.isfinite(largest):
        return np.float64(largest), 0
    exponent = math.frexp(largest)[1]
    total = sum(np.square(np.ldexp(a.astype(np.float64), -exponent)).sum() for a in arrays)
    return np.sqrt(total), exponent


# ---- Nests of arrays ------------------------------------------------------------------------------------------------
def _leaves(tree: object, name: str = "gradients") -> list[tuple[str, np.ndarray]]:
    """All arrays of a nest, in order, each with where it is; checked, and each of its own dtype, float32 or float64."""
    if tree is None or isinstance(tree, Cell):
        return []
    children = _children(tree, name)
    if children is None:
        (a,) = _checks.as_real_arrays(**{name: tree})
        return [(name, a)]
    return [leaf for place, child in children for leaf in _leaves(child, place)]


def _replaced(tree: Any, arrays: Iterator[np.ndarray]) -> Any:
    """The nest with other arrays, from an iterator in the order of `_leaves`."""
    if tree is None or isinstance(tree, Cell):
        return tree
    children = _children(tree)
    if children is None:
        a = next(arrays)
        return a if a.ndim else a[()]
    new = [_replaced(child, arrays) for _, child in children]
    if isinstance(tree, dict):
        result = copy.copy(tree)  # a subclass may need more than its items
        for key, value in zip(tree, new, strict=True):
            result[key] = value
        return result
    return type(tree)._make(new) if hasattr(tree, "_fields") else type(tree)(new)


def _children(tree: object, name: str = "") -> list[tuple[str, object]] | None:
    """What a tuple, list or dict holds, each with a name for error messages; None for an array."""
    if isinstance(tree, dict):
        return [(f"{name}[{key!r}]", child) for key, child in tree.items()]
    if not isinstance(tree, tuple | list):
        return None
    if hasattr(tree, "_fields"):
        return [(f"{name}.{field}", child) for field, child in zip(tree._fields, tree, strict=True)]
    return [(f"{name}[{i}]", child) for i, child in enumerate(tree)]
