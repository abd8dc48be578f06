"""Random numbers that each have a place: the same in any batch, on any thread, in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn import _checks, _engines, _noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, DTypeLike


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
    the float64 numbers to 1e-6, but for few, of the tail. The largest possible numbers are 6.8 and 9.5.

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
    seed = _noise.check_seed(seed)
    sizes = _shape(shape)
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    step = _checks.integer_within("step", step, 0, _noise.LAST + 1 - sizes[0])
    sequence = _checks.integer_within("sequence", sequence, 0, _noise.LAST + 1 - (sizes[1] if len(sizes) == 3 else 1))
    if n_threads is not None:
        _engines.check_threads(n_threads)
    number, checked = _noise.stream_number(stream), _noise.check_sigma("sigma", sigma, sizes[-1])
    return _noise.array(seed, sizes, dtype, checked, number, step, sequence, n_threads)


def _shape(shape: Any) -> tuple[int, ...]:
    """Check (T, B, H) or (T, H)."""
    try:
        sizes = tuple(_checks.integer_within("shape", n, 0) for n in shape)
    except TypeError:
        sizes = ()
    if len(sizes) not in (2, 3):
        raise ValueError(f"shape must be (T, B, H) or (T, H), integers from 0, got {shape!r}")
    return sizes
