"""The forms of a cell: what a unit makes of its sum, how it leaks, and the check of the arguments that say so."""

import numpy as np

from pyrnn import _checks, _sequences

NONLINEARITIES = ("tanh", "relu", "identity")
FORMS = ("rate", "current")


def numbers(nonlinearity, form):
    """Check the two names: the number of the first, and whether the second is ``current``."""
    if nonlinearity is NONLINEARITIES[0] and form is FORMS[0]:  # the defaults, in no time
        return 0, False
    if not isinstance(nonlinearity, str) or nonlinearity not in NONLINEARITIES:
        raise ValueError(f"nonlinearity must be one of {', '.join(map(repr, NONLINEARITIES))}, got {nonlinearity!r}")
    if not isinstance(form, str) or form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(map(repr, FORMS))}, got {form!r}")
    return NONLINEARITIES.index(nonlinearity), form == "current"


def slopes_from(nonlinearity, r):
    """phi'(a), from r = phi(a)."""
    if nonlinearity == "tanh":
        return (1 - r) * (1 + r)
    return (~(r <= 0)).astype(r.dtype) if nonlinearity == "relu" else np.ones_like(r)


def array_or_none(alpha):
    """alpha as an argument whose dtype counts; a plain number takes that of the arrays, as in NumPy's arithmetic."""
    return None if type(alpha) in (int, float) else alpha


def leak(alpha, x, U):
    """alpha as the loops like it if it is a number, or None, and x and U are arrays; else as it is."""
    if (
        alpha is not None
        and type(alpha) in (int, float)
        and isinstance(x, np.ndarray)
        and isinstance(U, np.ndarray)
        and U.ndim
    ):
        return np.full(len(U), alpha, x.dtype)
    return alpha


def checked_leak(alpha, current, H, dtype):
    """alpha as [H], or None for no leak; it comes as a number or an array of `dtype`."""
    if alpha is None:
        if current:
            raise ValueError("alpha must be given with form 'current', got None")
        return None
    array = np.asarray(alpha, dtype)
    if array.shape not in ((), (H,)):
        raise ValueError(f"alpha must be a number or have shape ({H},), got {array.shape}")
    return np.ascontiguousarray(np.broadcast_to(array, (H,)))


def check_written_rates(rates, leak, shape, dtype, inputs, arrays):
    """Check an array that forward writes to."""
    if rates is None:
        return
    if leak is None:
        raise ValueError("rates must be None without alpha, where the states are the rates, got an array")
    _checks.check_out(rates, shape, dtype, inputs, arrays, name="rates")


def check_read_rates(rates, leak, current):
    """Check what the others read."""
    if leak is None and rates is not None:
        raise ValueError("rates must be None without alpha, where the states are the rates, got an array")
    if leak is not None and rates is None and not current:
        raise ValueError("rates must be the array that forward wrote, with alpha and form 'rate', got None")


def check_steps(lengths, mask, reverse, x):
    """(lengths, mask, reverse), the first two arrays of intp and bool of the shapes that x [T, B, I] wants, or None."""
    if not isinstance(reverse, bool | np.bool_):
        raise TypeError(f"reverse must be True or False, got {reverse!r}")
    if lengths is not None and mask is not None:
        raise ValueError("lengths and mask must not be given together")
    if lengths is not None and not _sequences.fit(lengths, x):
        lengths = _checks.as_array("lengths", lengths)
        if lengths.dtype.kind not in "iu" and lengths.size:
            raise TypeError(f"lengths must be integers, got dtype {lengths.dtype}")
        _checks.check_shape("lengths", lengths, x.shape[1:-1], "x", x)
        given, lengths = lengths, np.require(lengths, np.intp, ["C", "A"])
        if not _sequences.between(lengths, 0, len(x)):
            raise ValueError(f"lengths must be from 0 to {len(x)}, got {given.min()} to {given.max()}")
    if mask is not None:
        mask = _checks.as_array("mask", mask)
        if mask.dtype.kind != "b" and mask.size:
            raise TypeError(f"mask must be booleans, got dtype {mask.dtype}")
        _checks.check_shape("mask", mask, x.shape[:-1], "x", x)
    return lengths, mask, bool(reverse)
