"""Recurrent weights by their eigenvalues, and random ones in which excitation and inhibition cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pyrnn import _checks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from pyrnn._types import Seed


def spectral_radius(W: ArrayLike) -> np.float64:
    """The largest modulus of the eigenvalues of a matrix.

    Parameters
    ----------
    W : array_like, shape (H, H)

    Returns
    -------
    radius : float
        0 for H of 0, NaN if an entry is NaN or infinite.

    Raises
    ------
    ValueError
        If W is not square.
    TypeError
        If W is not of real numbers.

    Notes
    -----
    Computed in float64, also for float32. At h = 0 the Jacobian of a tanh network is W: a small state dies out if the
    radius is below 1 and grows if it is above. Eigenvalues of matrices far from symmetric are sensitive: a matrix of n
    ones above the diagonal has radius 0, and 1e-16 in its corner gives it the radius 1e-16 ** (1 / n).

    Examples
    --------
    >>> import pyrnn
    >>> float(pyrnn.training.spectral_radius([[1.0, 5.0], [0.0, -2.0]]))
    2.0
    """
    (W,) = _checks.as_real_arrays(W=W)
    _check_square(W)
    return _radius(W)


def scale_spectral_radius(W: ArrayLike, radius: float) -> np.ndarray:
    """A multiple of a matrix that has a given spectral radius.

    Parameters
    ----------
    W : array_like, shape (H, H)
    radius : float
        At least 0.

    Returns
    -------
    W : ndarray, shape (H, H)
        A new array: W · radius / spectral_radius(W). NaN if an entry of W is NaN or infinite.

    Raises
    ------
    ValueError
        If W is not square or all its eigenvalues are 0, so that no multiple has another radius, or `radius` is
        negative or not finite.
    TypeError
        If W is not of real numbers.

    Notes
    -----
    The usual start of echo state networks [1]_, and of the networks in [2]_ with a radius of 1.5. Signs and zeros stay
    as they are.

    References
    ----------
    .. [1] H. Jaeger, "The 'echo state' approach to analysing and training recurrent neural networks", GMD report 148
       (2001).
    .. [2] H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive
       tasks: a simple and flexible framework", PLOS Comput. Biol. 12 (2016) e1004792.

    Examples
    --------
    >>> import pyrnn
    >>> pyrnn.training.scale_spectral_radius([[1.0, 5.0], [0.0, -2.0]], 1.5)
    array([[ 0.75,  3.75],
           [ 0.  , -1.5 ]])
    """
    if not _checks.is_finite_number(radius) or radius < 0:
        raise ValueError(f"radius must be a finite number from 0, got {radius!r}")
    (W,) = _checks.as_real_arrays(W=W)
    _check_square(W)
    now = _radius(W)
    if now == 0 and W.size:
        raise ValueError("W must have an eigenvalue other than 0, got a matrix that has none")
    with np.errstate(over="ignore", invalid="ignore"):
        return (W.astype(np.float64) / now * float(radius)).astype(W.dtype)


def balanced(
    H: int,
    *,
    excitatory: float = 0.8,
    gain: float = 1.0,
    density: float = 1.0,
    rng: Seed = None,
    dtype: DTypeLike = np.float64,
) -> tuple[np.ndarray, np.ndarray]:
    """Random recurrent weights of excitatory and inhibitory units, in which the two cancel in every row.

    Parameters
    ----------
    H : int
        The number of units, at least 2.
    excitatory : float
        The fraction of units that are excitatory, between 0 and 1; the first round(excitatory · H) of them are, at
        least one and at most H - 1.
    gain : float
        The spectral radius that W approaches as H grows, at least 0.
    density : float
        The fraction of possible connections that exist, above 0, up to 1. Each unit has the same numbers of excitatory
        and of inhibitory ones, at least one of each.
    rng : int, numpy.random.Generator or None
        As in `numpy.random.default_rng`.
    dtype : {float64, float32}

    Returns
    -------
    W : ndarray, shape (H, H)
        Columns of excitatory units have no negative entries, those of inhibitory units no positive ones. Each row sums
        to zero: exactly, but for rounding, and not in expectation alone.
    signs : ndarray of int8, shape (H,)
        +1 for excitatory units, -1 for inhibitory ones, as `Constraint` takes them.

    Raises
    ------
    ValueError
        If H is below 2 or another number out of its range.
    TypeError
        If H is not an integer or the dtype not float32 or float64.

    See Also
    --------
    scale_spectral_radius : to have a radius exactly.

    Notes
    -----
    A column with one sign has a mean other than zero, and the matrix of the means, which has rank one, throws single
    eigenvalues far out of the circle that the others fill. Rajan and Abbott [1]_ show that they return into it if
    every row of W sums to zero, and that the circle has the radius of the root of a row's summed variances. Here

    - magnitudes are of a gamma distribution of shape 2, as in [2]_, which has one sign where the normal distribution
      of [1]_ has two;
    - inhibitory ones are larger by the ratio of the numbers of connections, so that rows sum to zero in expectation;
    - all are scaled so that a row's variances sum to gain²;
    - and inhibitory entries of each row are multiplied by the one positive number that makes the row sum to zero.

    References
    ----------
    .. [1] K. Rajan, L. F. Abbott, "Eigenvalue spectra of random matrices for neural networks", Phys. Rev. Lett. 97
       (2006) 188104.
    .. [2] H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive
       tasks: a simple and flexible framework", PLOS Comput. Biol. 12 (2016) e1004792.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> W, signs = pyrnn.training.balanced(10, excitatory=0.8, rng=0)
    >>> signs
    array([ 1,  1,  1,  1,  1,  1,  1,  1, -1, -1], dtype=int8)
    >>> bool(np.abs(W.sum(axis=1)).max() < 1e-15), bool((W * signs >= 0).all())
    (True, True)
    """
    H = _checks.positive_integer("H", H)
    if H < 2:
        raise ValueError("H must be at least 2, one unit of each kind, got 1")
    ranges: list[tuple[str, float, Callable[[float], bool], str]] = [
        ("excitatory", excitatory, lambda v: 0 < v < 1, "between 0 and 1"),
        ("gain", gain, lambda v: v >= 0, "from 0"),
        ("density", density, lambda v: 0 < v <= 1, "above 0, up to 1"),
    ]
    for name, value, allowed, expected in ranges:
        if not _checks.is_finite_number(value) or not allowed(value):
            raise ValueError(f"{name} must be a finite number {expected}, got {value!r}")
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
    rng = np.random.default_rng(rng)

    E = min(max(round(excitatory * H), 1), H - 1)
    numbers = (E, H - E)
    degrees = [max(round(density * n), 1) for n in numbers]
    means = (degrees[1], degrees[0])  # times the degrees: the same sum
    shape = 2.0
    square = 1 + 1 / shape  # E m² of magnitudes m with mean 1
    variance = sum(k * mean**2 * (square - k / n) for k, n, mean in zip(degrees, numbers, means, strict=True))
    W = np.zeros((H, H))
    for kind, n, k, mean in zip((W[:, :E], W[:, E:]), numbers, degrees, means, strict=True):
        # the k smallest of n random numbers: a random set of k columns
        columns = np.argpartition(rng.random((H, n)), k - 1, axis=1)[:, :k]
        magnitudes = rng.gamma(shape, mean / shape / np.sqrt(variance), (H, k))
        np.put_along_axis(kind, columns, magnitudes, axis=1)
    excitation, inhibition = W[:, :E].sum(axis=1), W[:, E:].sum(axis=1)
    W[:, E:] *= -(excitation / inhibition)[:, np.newaxis]
    W *= float(gain)
    W += 0  # missing inhibitory connections are -0.0
    signs = np.repeat(np.array([1, -1], np.int8), numbers)
    return W.astype(dtype, copy=False), signs


def _radius(W: np.ndarray) -> np.float64:
    if not np.isfinite(W).all():
        return np.float64(np.nan)
    radius: np.float64 = np.abs(np.linalg.eigvals(W.astype(np.float64))).max(initial=0.0)
    return radius


def _check_square(W: np.ndarray) -> None:
    if W.ndim != 2 or W.shape[0] != W.shape[1]:
        _checks.shape_error("W", "(H, H)", W)
