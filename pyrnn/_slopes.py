"""What a chain of Jacobians is made of: the slopes phi' of each step, and the matrices around them."""

from typing import NamedTuple

import numpy as np

from pyrnn import _cell, _checks
from pyrnn.elementwise import sech2
from pyrnn.losses import QUIET


class Steps(NamedTuple):
    """Some steps of a cell, as the loops of csrc/_jacobian_products.pyx take them."""

    slopes: np.ndarray  # [n, B, H], each row divided by a power of two
    exponents: np.ndarray  # [n, B], of those powers
    W: np.ndarray  # [H, H], row i times alpha_i
    keep: np.ndarray | None  # [H], 1 - alpha, or None where that is 0
    of_columns: bool  # whether the slopes scale the columns of W, as in the current form, and not its rows


def check(h, W, h0, start, stop, nonlinearity, alpha, form, rates, preactivations, **more):
    """The arguments that all functions of this kind share, checked and with a batch axis.

    Returns what `prepare` takes, whether there was a batch axis, and the arrays of `more`, of the same dtype.
    """
    _, current = _cell.numbers(nonlinearity, form)
    h, W, h0, leak, rates, preactivations, *others = _checks.as_real_arrays(
        "h0", "alpha", "rates", "preactivations", h=h, W=W, h0=h0, alpha=_cell.array_or_none(alpha), rates=rates,
        preactivations=preactivations, **more,
    )  # fmt: skip
    _checks.check_sequence("h", "H", h)
    H = h.shape[-1]
    _checks.check_shape("W", W, (H, H), "h", h)
    _checks.check_shape("h0", h0, h.shape[1:], "h", h)
    _checks.check_shape("rates", rates, h.shape, "h", h)
    _checks.check_shape("preactivations", preactivations, h.shape, "h", h)
    leak = _cell.checked_leak(alpha if leak is None else leak, current, H, h.dtype)
    if preactivations is None:
        _cell.check_read_rates(rates, leak, current)
    elif current:
        raise ValueError("preactivations must be None with form 'current', whose states are them, got an array")
    start = _checks.integer_within("start", start, 0, len(h))
    stop = _checks.integer_within("stop", len(h) if stop is None else stop, start, len(h))
    batched = h.ndim == 3
    if not batched:
        h, rates, preactivations = (None if a is None else a[:, np.newaxis] for a in (h, rates, preactivations))
        h0 = None if h0 is None else h0[np.newaxis]
    return (h, W, h0, start, stop, nonlinearity, leak, current, rates, preactivations), batched, others


@QUIET
def prepare(h, W, h0, start, stop, nonlinearity, leak, current, rates, preactivations):
    """The Steps of checked arguments."""
    if current:  # the slope is taken at the state before, which is a pre-activation
        before = np.zeros_like(h[:1]) if h0 is None else h0[np.newaxis]
        slopes = slopes_at(nonlinearity, np.concatenate([before, h])[start:stop])
    elif preactivations is not None:
        slopes = slopes_at(nonlinearity, preactivations[start:stop])
    else:
        slopes = _cell.slopes_from(nonlinearity, (h if rates is None else rates)[start:stop])
    keep = None if leak is None else 1 - leak
    if keep is not None and not keep.any():
        keep = None
    exponents = np.zeros(slopes.shape[:2], np.int64)
    if keep is None and nonlinearity == "tanh":
        # With a leak, what is kept has the scale of the vector, and slopes that underflow do not matter.
        slopes, exponents = _scaled(slopes)
    W = W if leak is None else leak[:, np.newaxis] * W
    return Steps(np.ascontiguousarray(slopes, h.dtype), exponents, np.ascontiguousarray(W), keep, current)


def slopes_at(nonlinearity, a):
    """phi'(a); of tanh in float64, where sech² is 0 only from |a| = 373 on."""
    if nonlinearity == "tanh":
        return sech2(a.astype(np.float64, copy=False))
    return _cell.slopes_from(nonlinearity, a)


def _scaled(slopes):
    """Slopes with the largest of each row in [1/2, 1), and the exponents of what they were divided by."""
    largest = slopes.max(axis=-1, initial=0)
    exponents = np.where(np.isfinite(largest), np.frexp(largest)[1], 0)
    return np.ldexp(slopes, -exponents[..., np.newaxis]), np.ascontiguousarray(exponents, np.int64)
