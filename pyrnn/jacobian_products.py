"""Products of many Jacobians, and what they make of vectors, without underflow or overflow."""

from typing import NamedTuple

import numpy as np

from pyrnn import _calls, _cell, _checks, _jacobian_products, _slopes
from pyrnn.losses import QUIET

TOGETHER = 100_000_000  # multiply-adds of steps that NumPy computes in one call, some 10 ms


class ScaledProduct(NamedTuple):
    """A matrix, or vectors, too large or too small for their dtype: the value is ``mantissa * exp(log_scale)``.

    The largest number of a mantissa, or of each vector, lies in [1, 2), or is 0; ``exp(log_scale)`` is a power of two.
    """

    mantissa: np.ndarray
    log_scale: np.ndarray | np.float64


def jacobian_product(
    h,
    W,
    h0=None,
    *,
    start=0,
    stop=None,
    nonlinearity="tanh",
    alpha=None,
    form="rate",
    rates=None,
    preactivations=None,
):
    """How the state after many steps depends on that before: the product of their Jacobians.

    Parameters
    ----------
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    W : array_like, shape (H, H)
        Hidden-to-hidden weights.
    h0 : array_like, shape (B, H) or (H,), optional
        The state before the first step; None for zeros. Only the ``current`` form reads it.
    start, stop : int
        The steps, as in a slice: the factors are ``jacobian(h, W)[start:stop]``. The result is
        ∂h[stop-1]/∂h[start-1], where h0 stands for h[-1]; stop None is T. Of no steps it is the identity.
    nonlinearity, alpha, form
        As given to `forward`.
    rates : array_like, shape of h, optional
        As in `backward`.
    preactivations : array_like, shape of h, optional
        From `preactivations`: where phi' is taken. For saturated units, where 1 - h² from a rounded h has no digits.
        Not in the ``current`` form, whose states are pre-activations.

    Returns
    -------
    ScaledProduct
        Named tuple ``(mantissa, log_scale)``: an array of shape (B, H, H) or (H, H) of the dtype of h, and the float64
        logarithms of the scales, of shape (B,) or (). The product is ``mantissa * exp(log_scale)``.

    Raises
    ------
    ValueError
        If shapes do not fit, an option has no such value, or start and stop are not in order within 0 to T.
    TypeError
        If an argument is complex, long double, text, an object or masked.

    See Also
    --------
    jacobian_vector_product, vector_jacobian_product : what it makes of a few vectors, H times as fast for each.
    log_singular_values : of all lags, right also where they differ by more than the digits of a number.
    gradient_flow : the norms of gradients and of these products over time.

    Notes
    -----
    The product J_stop ... J_{start+1} that equations 10.36 to 10.39 of [1]_ make an example of, with
    J_t = diag(phi'(a_t)) W. Its size changes exponentially with the number of factors [2]_. No Jacobian is formed:
    columns go through M ← diag(phi') (W M) with an exponent each, which is rescaled by powers of two and so loses no
    digit, and join at the end. Time grows as (stop - start) B H³.

    Units whose tanh has rounded to ±1 have ``1 - h²`` of 0 or of a few digits: give `preactivations` for those.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.7.
    .. [2] Y. Bengio, P. Simard, P. Frasconi, "Learning long-term dependencies with gradient descent is difficult",
       IEEE Transactions on Neural Networks 5 (1994) 157-166.

    Examples
    --------
    At h = 0 every step is W, here a rotation that shrinks to three tenths:

    >>> import numpy as np, pyrnn
    >>> product = pyrnn.jacobian_product(np.zeros((5000, 2)), [[0.0, 0.3], [-0.3, 0.0]])
    >>> product.mantissa.round(3) + 0.0
    array([[1.127, 0.   ],
           [0.   , 1.127]])
    >>> print((np.log(product.mantissa[0, 0]) + product.log_scale) / 5000, np.log(0.3))
    -1.2039728043259361 -1.2039728043259361
    """
    arguments, batched, _ = _slopes.check(h, W, h0, start, stop, nonlinearity, alpha, form, rates, preactivations)
    B, H = arguments[0].shape[1:]
    steps = _slopes.prepare(*arguments)
    columns = np.tile(np.eye(H, dtype=steps.W.dtype), (B, 1, 1))
    scales = np.zeros((B, H), np.int64)
    _jacobian_products.vectors(*steps, False, columns, scales)
    mantissa, scales = _joined(columns, scales)
    mantissa, log_scale = mantissa.swapaxes(1, 2).copy(), scales * np.log(2)
    return ScaledProduct(mantissa, log_scale) if batched else ScaledProduct(mantissa[0], log_scale[0])


def jacobian_vector_product(
    h,
    W,
    v,
    h0=None,
    *,
    start=0,
    stop=None,
    nonlinearity="tanh",
    alpha=None,
    form="rate",
    rates=None,
    preactivations=None,
):
    """What many steps make of small changes of the state before them: J_stop ... J_{start+1} v.

    Parameters
    ----------
    h, W, h0, start, stop, nonlinearity, alpha, form, rates, preactivations
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
        As in `jacobian_product`.

    See Also
    --------
    vector_jacobian_product : the other direction, for gradients.

    Notes
    -----
    The tangent of the recurrence, v ← diag(phi'(a_t)) W v, of equation 10.38 of Goodfellow et al., "Deep Learning".
    Time grows as (stop - start) B k H².

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> pyrnn.jacobian_vector_product(np.zeros((3, 2)), [[0.0, 2.0], [2.0, 0.0]], [[1.0, 0.0]])
    ScaledProduct(mantissa=array([[0., 1.]]), log_scale=array([2.07944154]))
    """
    return _through("v", v, False, h, W, h0, start, stop, nonlinearity, alpha, form, rates, preactivations)


def vector_jacobian_product(
    h,
    W,
    u,
    h0=None,
    *,
    start=0,
    stop=None,
    nonlinearity="tanh",
    alpha=None,
    form="rate",
    rates=None,
    preactivations=None,
):
    """What many steps, backwards, make of gradients at the state after them: uᵀ J_stop ... J_{start+1}.

    Parameters
    ----------
    h, W, h0, start, stop, nonlinearity, alpha, form, rates, preactivations
        As in `jacobian_product`.
    u : array_like, shape (k, H) or (B, k, H)
        Vectors, as rows: gradients at ``h[stop - 1]``, the same for all sequences or for each its own. Rows of the
        identity, or of V of an output layer, give the derivatives of those few units or outputs.

    Returns
    -------
    ScaledProduct
        As of `jacobian_vector_product`: gradients at ``h[start - 1]``.

    Raises
    ------
    ValueError, TypeError
        As in `jacobian_product`.

    See Also
    --------
    jacobian_vector_product : the other direction.
    state_gradients : of a loss at every step, without scales.

    Notes
    -----
    u ← Wᵀ diag(phi'(a_t)) u: equation 10.21 of Goodfellow et al., "Deep Learning", without what later losses add. Time
    grows as (stop - start) B k H².

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> pyrnn.vector_jacobian_product(np.zeros((3, 2)), [[0.0, 0.0], [2.0, 0.0]], [[0.0, 1.0]], start=2)
    ScaledProduct(mantissa=array([[1., 0.]]), log_scale=array([0.69314718]))
    """
    return _through("u", u, True, h, W, h0, start, stop, nonlinearity, alpha, form, rates, preactivations)


def _through(name, given, backwards, *arguments):
    """Vectors through the steps, forwards or backwards."""
    arguments, batched, (v,) = _slopes.check(*arguments, **{name: given})
    B, H = arguments[0].shape[1:]
    if v.ndim == 2:
        _checks.check_columns(name, "k", v, H, "h", arguments[0] if batched else arguments[0][:, 0])
    elif not batched or v.shape != (B, v.shape[1] if v.ndim == 3 else -1, H):
        shape = f"(k, {H}) or ({B}, k, {H})" if batched else f"(k, {H})"
        _checks.shape_error(name, shape, v, "h", arguments[0] if batched else arguments[0][:, 0])
    v, scales = normalized(np.broadcast_to(v, (B, *v.shape[-2:])))
    _jacobian_products.vectors(*_slopes.prepare(*arguments), backwards, v, scales)
    v, more = normalized(v)
    log_scale = (scales + more) * np.log(2)
    return ScaledProduct(v, log_scale) if batched else ScaledProduct(v[0], log_scale[0])


@QUIET
def normalized(v):
    """A copy of rows with the largest number of each in [1, 2), and the exponents that they were divided by.

    Both are contiguous, whatever the order of the axes of v in memory, which NumPy's functions keep.
    """
    largest = np.abs(v).max(axis=-1, initial=0)
    exponents = np.where(np.isfinite(largest) & (largest > 0), np.frexp(largest)[1] - 1, 0)
    exponents = np.ascontiguousarray(exponents, np.int64)
    return np.ascontiguousarray(np.ldexp(v, -exponents[..., np.newaxis])), exponents


@QUIET
def _joined(rows, scales):
    """The rows of each matrix at one scale, the largest number of the matrix in [1, 2)."""
    rows, more = normalized(rows)
    scales = scales + more
    alive = (rows != 0).any(axis=-1)
    shared = scales.max(axis=-1, initial=-(2**62), where=alive)
    shared = np.where(alive.any(axis=-1), shared, 0)
    shift = np.clip(scales - shared[..., np.newaxis], -5000, 0).astype(np.intc)
    return np.ldexp(rows, shift[..., np.newaxis]), shared


def preactivations(h, x, U, W, b=None, h0=None, *, nonlinearity="tanh", form="rate", drive=None):
    """What each step's phi was taken of, a_t = b + U x_t + W h_{t-1} + drive_t: slopes from it keep their digits.

    Parameters
    ----------
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    x, U, W, b, h0, nonlinearity, form, drive
        As given to `forward`.

    Returns
    -------
    a : ndarray, shape of h

    Raises
    ------
    ValueError, TypeError
        As in `forward`.

    See Also
    --------
    sech2 : the slope of tanh from it.
    jacobian_product : takes it as an argument.

    Notes
    -----
    Equation 10.8 of Goodfellow et al., "Deep Learning", for all steps at once: the states are known.

    Examples
    --------
    A unit that tanh has rounded to 1 has no slope left, and here it has:

    >>> import numpy as np, pyrnn
    >>> x, U, W = np.full((3, 1), 20.0), np.ones((1, 1)), np.ones((1, 1))
    >>> h = pyrnn.forward(x, U, W)
    >>> a = pyrnn.preactivations(h, x, U, W)
    >>> print(1 - h[2] ** 2, pyrnn.sech2(a[2]))
    [0.] [2.29980891e-18]
    >>> print(pyrnn.jacobian_product(h, W, start=1, preactivations=a).log_scale.round(2))  # 118 factors of 1/2
    -81.79
    """
    phi, current = _cell.numbers(nonlinearity, form)
    h, x, U, W, b, h0, drive = _checks.as_real_arrays("b", "h0", "drive", h=h, x=x, U=U, W=W, b=b, h0=h0, drive=drive)
    _checks.check_sequence("x", "I", x)
    _checks.check_columns("U", "H", U, x.shape[-1], "x", x)
    H = len(U)
    _checks.check_shape("W", W, (H, H), "U", U)
    _checks.check_shape("b", b, (H,), "U", U)
    states = (*x.shape[:-1], H)
    _checks.check_shape("h", h, states, "x", x, "U", U)
    _checks.check_shape("h0", h0, states[1:], "x", x, "U", U)
    _checks.check_shape("drive", drive, states, "x", x, "U", U)
    before = np.zeros(states[1:], h.dtype) if h0 is None else h0
    a = np.empty(states, h.dtype)
    steps = max(1, TOGETHER // max(1, a[:1].size * (H + U.shape[1] + 1)))
    with np.errstate(all="ignore"):
        for first in range(0, len(h), steps):  # in parts, between which Ctrl-C is heard
            part = slice(first, first + steps)
            if current:
                previous = _calls.phi_of_previous(h[part], before, phi, None, False)
            else:
                previous = np.concatenate([before[np.newaxis], h[part]])[:-1]
            before = h[part][-1]
            np.matmul(previous, W.T, out=a[part])
            a[part] += x[part] @ U.T
            for term in (b, None if drive is None else drive[part]):
                if term is not None:
                    a[part] += term
    return a
