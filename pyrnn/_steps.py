"""The check of lengths, mask and reverse: which steps of each sequence exist, and the order in which they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrnn import _checks
from pyrnn._core import sequences

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import StepOptions


def check(lengths: ArrayLike | None, mask: ArrayLike | None, reverse: bool, x: np.ndarray) -> StepOptions:
    """(lengths, mask, reverse), the first two arrays of intp and bool of the shapes that x [T, B, I] wants, or None."""
    if not isinstance(reverse, bool | np.bool_):
        raise TypeError(f"reverse must be True or False, got {reverse!r}")
    if lengths is not None and mask is not None:
        raise ValueError("lengths and mask must not be given together")
    if lengths is not None and not sequences.fit(lengths, x):
        lengths = _checks.as_array("lengths", lengths)
        if lengths.dtype.kind not in "iu" and lengths.size:
            raise TypeError(f"lengths must be integers, got dtype {lengths.dtype}")
        _checks.check_shape("lengths", lengths, x.shape[1:-1], "x", x)
        given, lengths = lengths, np.require(lengths, np.intp, ["C", "A"])
        if not sequences.between(lengths, 0, len(x)):
            raise ValueError(f"lengths must be from 0 to {len(x)}, got {given.min()} to {given.max()}")
    if mask is not None:
        mask = _checks.as_array("mask", mask)
        if mask.dtype.kind != "b" and mask.size:
            raise TypeError(f"mask must be booleans, got dtype {mask.dtype}")
        _checks.check_shape("mask", mask, x.shape[:-1], "x", x)
    return lengths, mask, bool(reverse)
