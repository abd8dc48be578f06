"""Random numbers that each have a place: the same in any batch, on any thread, in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn import _checks, _engines
from pyrnn._core import memory
from pyrnn._core import noise as compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, DTypeLike

STREAMS = {"state": 0, "input": 1}  # the uses of noise, in the numbers of csrc/noise.h
LAST = 2**32 - 1  # of the steps and sequences that a counter has


def noise(
    seed: int,
    shape: Sequence[int],
    sigma: ArrayLike = 1.0,
    *,
    dtype: DTypeLike = np.float64,
    step: int = 0,
    sequence: int = 0,
    stream: str | int = "state",
    n_threads: int | None = None,
) -> np.ndarray:
    """Normal noise, in which each number has a place of its own: seed, stream, step, sequence and unit.

    Parameters
    ----------
    seed : int
        From 0 to 2^64 - 1.
    shape : (T, B, H) or (T, H)
        Steps, sequences and units; without B, of one sequence.
    sigma : float or array_like of shape (H,), optional
        The standard deviation, of all units or of each. Finite, from 0.
    dtype : float32 or float64, optional
    step, sequence : int, optional
        What the first ones are: the noise of a part of a longer sequence, or of a larger batch, begins there. From 0;
        the last ones are at most 2^32 - 1.
    stream : {'state', 'input'} or int, optional
        What the noise is for: numbers of different streams are independent. An integer from 2 to 2^31 - 1 is a stream
        of your own.
    n_threads : int, optional
        As in `pyrnn.forward`.

    Returns
    -------
    noise : ndarray of shape `shape`
        A new array.

    Raises
    ------
    ValueError
        If an integer, sigma, the dtype or the stream is out of range, or shapes do not match.
    TypeError
        If an integer is none, or sigma is not of real numbers.

    See Also
    --------
    pyrnn.forward : adds it to the pre-activation, as `drive`.

    Notes
    -----
    Counters and keys go through Philox 4x32-10 [1]_, words in pairs through the method of Box and Muller. The bits
    depend neither on the rest of the array nor on the number of threads nor on the instruction set. float32 numbers are
    the float64 numbers to some 3e-7; those beyond 5 are one of 36 possible ones or fewer for a million, and differ more. The largest
    possible numbers are 6.8 and 9.5.

    References
    ----------
    .. [1] Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> xi = pyrnn.training.noise(7, (100, 16, 50))
    >>> bool((pyrnn.training.noise(7, (40, 2, 9), step=60, sequence=14) == xi[60:, 14:, :9]).all())
    True
    """
    seed = _checks.integer_within("seed", seed, 0, 2**64 - 1)
    sizes = _shape(shape)
    T, B, H = sizes if len(sizes) == 3 else (sizes[0], 1, sizes[1])
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    step = _checks.integer_within("step", step, 0, LAST + 1 - T)
    sequence = _checks.integer_within("sequence", sequence, 0, LAST + 1 - B)
    if n_threads is not None:
        _engines.check_threads(n_threads)
    out = memory.empty((T, B, H), dtype)
    compiled.noise(out, seed, stream_number(stream), step, sequence, per_unit(sigma, H, dtype), n_threads)
    return out if len(sizes) == 3 else out[:, 0]


def stream_number(stream: Any) -> int:
    """The number of a stream, given by name or number."""
    if isinstance(stream, str):
        if stream not in STREAMS:
            raise ValueError(f"stream must be {', '.join(map(repr, STREAMS))} or an integer, got {stream!r}")
        return STREAMS[stream]
    return _checks.integer_within("stream", stream, 0, 2**31 - 1)


def per_unit(sigma: ArrayLike, H: int, dtype: np.dtype) -> np.ndarray | None:
    """sigma of each unit, contiguous; None for 1."""
    (given,) = _checks.as_real_arrays(sigma=sigma)
    if given.ndim != 0:
        _checks.check_shape("sigma", given, (H,))
    if not (np.isfinite(given).all() and (given >= 0).all()):
        raise ValueError(f"sigma must be finite numbers from 0, got {sigma!r}")
    if given.ndim == 0 and given == 1:
        return None
    return np.ascontiguousarray(np.broadcast_to(given, (H,)), dtype)


def _shape(shape: Any) -> list[int]:
    """Check (T, B, H) or (T, H)."""
    try:
        sizes = [_checks.integer_within("shape", n, 0) for n in shape]
    except TypeError:
        sizes = []
    if len(sizes) not in (2, 3):
        raise ValueError(f"shape must be (T, B, H) or (T, H), integers from 0, got {shape!r}")
    return sizes
