"""What a chain of Jacobians is made of: the slopes phi' of each step, and the matrices around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyrnn import _calls, _checks, _directions, _noise
from pyrnn.cell import SATURATING
from pyrnn.losses import QUIET

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike

    from pyrnn._types import MaybeArray
    from pyrnn.trajectory import Trajectory

TOGETHER = 100_000_000  # multiply-adds of steps that NumPy computes in one call, some 10 ms


class Steps(NamedTuple):
    """Some steps of a run, as the loops of csrc/chains.pyx take them."""

    slopes: np.ndarray  # [n, B, H], each row divided by a power of two
    exponents: np.ndarray  # [n, B], of those powers
    W: np.ndarray  # [H, H], row i times alpha_i
    keep: np.ndarray | None  # [H], 1 - alpha, or None where that is 0
    of_columns: bool  # whether the slopes scale the columns of W, as in the current form, and not its rows


@QUIET
def prepare(
    run: Trajectory,
    start: int = 0,
    stop: int | None = None,
    preactivations: bool = False,
    dtype: DTypeLike | None = None,
) -> Steps:
    """The Steps from start to stop in the order in which they are made, after a check of the arguments.

    preactivations: take phi' at a_t; dtype: of the Steps, that of the run by default.
    """
    _directions.check_run(run, all_steps=True)
    _checks.check_flag("preactivations", preactivations)
    T, H, cell = len(run.h), len(run.network.U), run.network.cell
    start = _checks.integer_within("start", start, 0, T)
    stop = _checks.integer_within("stop", T if stop is None else stop, start, T)
    dtype = run.h.dtype if dtype is None else np.dtype(dtype)
    wide: Callable[[MaybeArray], np.ndarray] = lambda a: a.astype(dtype, copy=False)
    if cell.current:  # the slope is taken at the state before, which is a pre-activation
        h = _calls.in_order(run.h, run.reverse)
        slopes = cell.slope_at(wide(_calls.previous(h, run.h0, None, False)[start:stop]))
    elif preactivations:
        slopes = cell.slope_at(wide(sums(run, start, stop)))
    else:
        slopes = cell.slope(wide(_calls.in_order(run.rates, run.reverse)[start:stop]))
    if run.h.ndim == 2:
        slopes = slopes[:, np.newaxis]
    W, leak = wide(run.network.W), cell.leak(H, run.h.dtype)
    keep = None
    if leak is not None:
        leak = wide(leak)
        W, keep = leak[:, np.newaxis] * W, 1 - leak
        if not keep.any():
            keep = None
    exponents = np.zeros(slopes.shape[:2], np.int64)
    if keep is None and cell.nonlinearity in SATURATING:
        # With a leak, what is kept has the scale of the vector, and slopes that underflow do not matter.
        slopes, exponents = _scaled(slopes)
    return Steps(np.ascontiguousarray(slopes, dtype), exponents, np.ascontiguousarray(W), keep, cell.current)


def sums(run: Trajectory, start: int, stop: int) -> np.ndarray:
    """a_t = b + U x_t + W h_{t-1} + drive_t of the steps from start to stop, in the order in which they are made."""
    U, b, cell, H = run.network.U, run.network.b, run.network.cell, len(run.network.U)
    W: MaybeArray = run.network.W
    h, x, drive = (_calls.in_order(a, run.reverse) for a in (run.h, run.require_x(), run.drive))
    a, before = np.empty((stop - start, *h.shape[1:]), h.dtype), h[start - 1] if start else run.h0
    together = max(1, TOGETHER // max(1, h[:1].size * (H + U.shape[1] + 1)))
    for first in range(start, stop, together):  # in parts, between which Ctrl-C is heard
        part = slice(first, min(first + together, stop))
        previous = _calls.previous(h[part], before, None, False)
        before, out = h[part][-1], a[part.start - start : part.stop - start]
        np.matmul(cell.phi(previous) if cell.current else previous, W.T, out=out)  # 10.8
        for term in (x[part] @ U.T, b, None if drive is None else drive[part], _noise_of(run, part)):
            if term is not None:
                out += term
    return a


def _noise_of(run: Trajectory, part: slice) -> np.ndarray | None:
    """The noise of some steps, in the order in which they are made."""
    if run.noise is None or run.seed is None:
        return None
    shape = (part.stop - part.start, *run.h.shape[1:])
    first = len(run.h) - part.stop if run.reverse else part.start
    return _calls.in_order(_noise.array(run.seed, shape, run.h.dtype, run.noise, step=first), run.reverse)


def _scaled(slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes with the largest of each row in [1/2, 1), and the exponents of what they were divided by."""
    largest = slopes.max(axis=-1, initial=0)
    exponents = np.where(np.isfinite(largest), np.frexp(largest)[1], 0)
    return np.ldexp(slopes, -exponents[..., np.newaxis]), np.ascontiguousarray(exponents, np.int64)
