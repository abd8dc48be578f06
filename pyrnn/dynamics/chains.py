"""Products of many Jacobians, and what they make of vectors, without underflow or overflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrnn import _calls, _checks, _directions
from pyrnn._core import chains as compiled
from pyrnn._results import ScaledProduct
from pyrnn.dynamics import slopes
from pyrnn.losses import QUIET

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import MaybeArray
    from pyrnn.trajectory import Trajectory


def jacobian_product(
    run: Trajectory, start: int = 0, stop: int | None = None, *, preactivations: bool = False
) -> ScaledProduct:
    """How the state after many steps depends on that before: the product of their Jacobians.

    Parameters
    ----------
    run : Trajectory
        From `simulate`; all its steps exist.
    start, stop : int
        The steps, as in a slice: the factors are ``run.jacobian()[start:stop]``. The result is
        ∂h[stop-1]/∂h[start-1], where h0 stands for h[-1]; stop None is T. Of no steps it is the identity. With
        ``reverse`` steps are counted in the order in which they are made: step 0 reads the last x.
    preactivations : bool
        Take phi' at the pre-activations, for saturated units, where 1 - h² from a rounded h has no digits. The run must
        have its input. In the ``current`` form, whose states are pre-activations, it changes nothing.

    Returns
    -------
    ScaledProduct
        Named tuple ``(mantissa, log_scale)``: an array of shape (B, H, H) or (H, H) of the dtype of h, and the float64
        logarithms of the scales, of shape (B,) or (). The product is ``mantissa * exp(log_scale)``.

    Raises
    ------
    ValueError
        If start and stop are not in order within 0 to T, the run has lengths or a mask, or its input is not known and
        needed.
    TypeError
        If the run is no Trajectory, or an option of another type.

    See Also
    --------
    push, pull : what it makes of a few vectors, H times as fast for each.
    log_singular_values : of all lags, right also where they differ by more than the digits of a number.
    gradient_flow : the norms of gradients and of these products over time.

    Notes
    -----
    The product J_stop ... J_{start+1} that equations 10.36 to 10.39 of [1]_ make an example of, with
    J_t = diag(phi'(a_t)) W. Its size changes exponentially with the number of factors [2]_. No Jacobian is formed:
    columns go through M ← diag(phi') (W M) with an exponent each, which is rescaled by powers of two and so loses no
    digit, and join at the end. Time grows as (stop - start) B H³.

    Units whose tanh has rounded to ±1 have ``1 - h²`` of 0 or of a few digits: ``preactivations`` is for those.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.7.
    .. [2] Y. Bengio, P. Simard, P. Frasconi, "Learning long-term dependencies with gradient descent is difficult",
       IEEE Transactions on Neural Networks 5 (1994) 157-166.

    Examples
    --------
    At h = 0 every step is W, here a rotation that shrinks to three tenths:

    >>> import numpy as np, pyrnn
    >>> network = pyrnn.Network(np.ones((2, 1)), np.array([[0.0, 0.3], [-0.3, 0.0]]))
    >>> product = pyrnn.dynamics.jacobian_product(pyrnn.simulate(network, np.zeros((5000, 1))))
    >>> product.mantissa.round(3) + 0.0
    array([[1.127, 0.   ],
           [0.   , 1.127]])
    >>> print((np.log(product.mantissa[0, 0]) + product.log_scale) / 5000, np.log(0.3))
    -1.2039728043259361 -1.2039728043259361
    """
    steps = slopes.prepare(run, start, stop, preactivations)
    _, B, H = steps.slopes.shape
    columns = np.tile(np.eye(H, dtype=steps.W.dtype), (B, 1, 1))
    scales = np.zeros((B, H), np.int64)
    compiled.vectors(*steps, False, columns, scales)
    mantissa, scales = _joined(columns, scales)
    mantissa, log_scale = mantissa.swapaxes(1, 2).copy(), scales * np.log(2)
    return ScaledProduct(mantissa, log_scale) if run.h.ndim == 3 else ScaledProduct(mantissa[0], log_scale[0])


def push(
    run: Trajectory, v: ArrayLike, start: int = 0, stop: int | None = None, *, preactivations: bool = False
) -> ScaledProduct:
    """What many steps make of small changes of the state before them: J_stop ... J_{start+1} v.

    Parameters
    ----------
    run, start, stop, preactivations
        As in `jacobian_product`.
    v : array_like, shape (k, H) or (B, k, H)
        Vectors, as rows: changes of ``h[start - 1]``, the same for all sequences or for each its own.

    Returns
    -------
    ScaledProduct
        Named tuple ``(mantissa, log_scale)``: arrays of shape (B, k, H), of the dtype of h and v, and (B, k), float64;
        without a batch axis (k, H) and (k,). Each vector has a scale of its own.

    Raises
    ------
    ValueError, TypeError
        As in `jacobian_product`, and if v does not fit.

    See Also
    --------
    pull : the other direction, for gradients.

    Notes
    -----
    The tangent of the recurrence, v ← diag(phi'(a_t)) W v, of equation 10.38 of Goodfellow et al., "Deep Learning".
    Time grows as (stop - start) B k H².

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> run = pyrnn.Trajectory.of(pyrnn.Network(np.ones((2, 1)), np.array([[0.0, 2.0], [2.0, 0.0]])), np.zeros((3, 2)))
    >>> pyrnn.dynamics.push(run, [[1.0, 0.0]])
    ScaledProduct(mantissa=array([[0., 1.]]), log_scale=array([2.07944154]))
    """
    return _through("v", v, False, run, start, stop, preactivations)


def pull(
    run: Trajectory, u: ArrayLike, start: int = 0, stop: int | None = None, *, preactivations: bool = False
) -> ScaledProduct:
    """What many steps, backwards, make of gradients at the state after them: uᵀ J_stop ... J_{start+1}.

    Parameters
    ----------
    run, start, stop, preactivations
        As in `jacobian_product`.
    u : array_like, shape (k, H) or (B, k, H)
        Vectors, as rows: gradients at ``h[stop - 1]``, the same for all sequences or for each its own. Rows of the
        identity, or of V of an output layer, give the derivatives of those few units or outputs.

    Returns
    -------
    ScaledProduct
        As of `push`: gradients at ``h[start - 1]``.

    Raises
    ------
    ValueError, TypeError
        As in `jacobian_product`, and if u does not fit.

    See Also
    --------
    push : the other direction.
    state_gradients : of a loss at every step, without scales.

    Notes
    -----
    u ← Wᵀ diag(phi'(a_t)) u: equation 10.21 of Goodfellow et al., "Deep Learning", without what later losses add. Time
    grows as (stop - start) B k H².

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> run = pyrnn.Trajectory.of(pyrnn.Network(np.ones((2, 1)), np.array([[0.0, 0.0], [2.0, 0.0]])), np.zeros((3, 2)))
    >>> pyrnn.dynamics.pull(run, [[0.0, 1.0]], start=2)
    ScaledProduct(mantissa=array([[1., 0.]]), log_scale=array([0.69314718]))
    """
    return _through("u", u, True, run, start, stop, preactivations)


def _through(
    name: str,
    given: ArrayLike,
    backwards: bool,
    run: Trajectory,
    start: int,
    stop: int | None,
    preactivations: bool,
) -> ScaledProduct:
    """Vectors through the steps, forwards or backwards."""
    _directions.check_run(run, all_steps=True)
    v: MaybeArray
    v, h = _checks.as_real_arrays(**{name: given}, h=run.h)
    steps = slopes.prepare(run, start, stop, preactivations, h.dtype)
    (_, B, H), batched = steps.slopes.shape, h.ndim == 3
    if v.ndim == 2:
        _checks.check_columns(name, "k", v, H, "h", h)
    elif not batched or v.shape != (B, v.shape[1] if v.ndim == 3 else -1, H):
        _checks.shape_error(name, f"(k, {H}) or ({B}, k, {H})" if batched else f"(k, {H})", v, "h", h)
    v, scales = normalized(np.broadcast_to(v, (B, *v.shape[-2:])))
    compiled.vectors(*steps, backwards, v, scales)
    v, shift = normalized(v)
    log_scale = (scales + shift) * np.log(2)
    return ScaledProduct(v, log_scale) if batched else ScaledProduct(v[0], log_scale[0])


@QUIET
def normalized(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A copy of rows with the largest number of each in [1, 2), and the exponents that they were divided by.

    Both are contiguous, whatever the order of the axes of v in memory, which NumPy's functions keep.
    """
    largest = np.abs(v).max(axis=-1, initial=0)
    exponents = np.where(np.isfinite(largest) & (largest > 0), np.frexp(largest)[1] - 1, 0)
    exponents = np.ascontiguousarray(exponents, np.int64)
    return np.ascontiguousarray(np.ldexp(v, -exponents[..., np.newaxis])), exponents


@QUIET
def _joined(rows: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of each matrix at one scale, the largest number of the matrix in [1, 2)."""
    rows, more = normalized(rows)
    scales = scales + more
    alive = (rows != 0).any(axis=-1)
    shared = scales.max(axis=-1, initial=-(2**62), where=alive)
    shared = np.where(alive.any(axis=-1), shared, 0)
    shift = np.clip(scales - shared[..., np.newaxis], -5000, 0).astype(np.intc)
    return np.ldexp(rows, shift[..., np.newaxis]), shared


def preactivations(run: Trajectory) -> np.ndarray:
    """What each step's phi was taken of, a_t = b + U x_t + W h_{t-1} + drive_t: slopes from it keep their digits.

    Parameters
    ----------
    run : Trajectory
        From `simulate`, or with its input; all its steps exist.

    Returns
    -------
    a : ndarray, shape of h
        In the ``current`` form with W phi(h_{t-1}), what the leak adds to the state.

    Raises
    ------
    ValueError
        If the input is not known, or the run has lengths or a mask.
    TypeError
        If the run is no Trajectory.

    See Also
    --------
    pyrnn.elementwise.sech2 : the slope of tanh from it.
    jacobian_product : takes slopes there, if asked.

    Notes
    -----
    Equation 10.8 of Goodfellow et al., "Deep Learning", for all steps at once: the states are known.

    Examples
    --------
    A unit that tanh has rounded to 1 has no slope left, and here it has:

    >>> import numpy as np, pyrnn
    >>> run = pyrnn.simulate(pyrnn.Network(np.ones((1, 1)), np.ones((1, 1))), np.full((3, 1), 20.0))
    >>> a = pyrnn.dynamics.preactivations(run)
    >>> print(1 - run.h[2] ** 2, pyrnn.elementwise.sech2(a[2]))
    [0.] [2.29980891e-18]
    >>> product = pyrnn.dynamics.jacobian_product(run, start=1, preactivations=True)
    >>> print(product.log_scale.round(2))  # 118 factors of 1/2
    -81.79
    """
    _directions.check_run(run, all_steps=True)
    with np.errstate(all="ignore"):
        a = slopes.sums(run, 0, len(run.h))
    return np.ascontiguousarray(_calls.in_order(a, run.reverse))
