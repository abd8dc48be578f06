"""The gradient of each sequence of a batch on its own, or its norm."""

import numpy as np

from pyrnn import _calls, _directions, _tangents
from pyrnn._results import SampleGradients
from pyrnn.profiling import timed


@timed
def per_sample_gradients(
    dh,
    h,
    x,
    U,
    W,
    h0=None,
    *,
    nonlinearity="tanh",
    alpha=None,
    form="rate",
    reverse=False,
    rates=None,
    norms_only=False,
):
    """The gradients at U, W and b of each sequence of the batch, where `backward` returns their sum.

    Parameters
    ----------
    dh, h, x, U, W, h0, nonlinearity, alpha, form, reverse, rates
        As given to `backward`. A sequence that is shorter has zeros in dh behind its end.
    norms_only : bool
        Return the Euclidean norms alone: no more than one sequence's gradients are in memory at a time.

    Returns
    -------
    SampleGradients
        Named tuple ``(U, W, b)`` of shapes (B, H, I), (B, H, H) and (B, H), or three times (B,) of norms. Without a
        batch axis there is no B.

    Raises
    ------
    ValueError, TypeError
        As in `backward`.

    See Also
    --------
    backward : its gradients at x and h0 are those of each sequence already.

    Notes
    -----
    For clipping each sequence's gradient in differentially private training [1]_, for influence functions, and for the
    noise of a gradient. Where sequences are short, norms come from products of steps with steps [2]_,
    |Σ_t delta_t h_{t-1}ᵀ|² = Σ_{t,s} (delta_t · delta_s)(h_{t-1} · h_{s-1}), without any matrix of weights; that is as
    soon as it takes fewer multiply-adds, T (2 H + I) < H (H + I). Such a norm is exact to about the square root of the
    rounding error where the steps' gradients cancel each other.

    References
    ----------
    .. [1] M. Abadi et al., "Deep learning with differential privacy", ACM CCS 2016.
    .. [2] I. Goodfellow, "Efficient per-example gradient computations", arXiv:1510.01799 (2015).

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> rng = np.random.default_rng(0)
    >>> x, U, W = rng.standard_normal((5, 3, 2)), rng.standard_normal((4, 2)), 0.4 * rng.standard_normal((4, 4))
    >>> h = pyrnn.forward(x, U, W)
    >>> each = pyrnn.per_sample_gradients(h, h, x, U, W)
    >>> each.W.shape, bool(np.allclose(each.W.sum(axis=0), pyrnn.backward(h, h, x, U, W).W))
    ((3, 4, 4), True)
    """
    for name, value in (("reverse", reverse), ("norms_only", norms_only)):
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    point, dots, (dh,) = _directions.check(
        h, x, U, W, h0, nonlinearity=nonlinearity, alpha=alpha, form=form, rates=rates, dh=dh
    )
    batched = point.x.ndim == 3
    point, dots, (dh,) = _directions.with_batch(point, dots, dh)
    point, dots = _directions.in_order(point, dots, reverse)
    result = gradients_at(point, _calls.in_order(dh, reverse), norms_only)
    return SampleGradients(*(result if batched else (a[0] for a in result)))


def gradients_at(point, dh, norms_only=False):
    """(dU, dW, db) of each sequence, or their norms."""
    _, delta = _directions.gradient_states(point, dh)
    fed, fed0 = point.fed
    result = _tangents.each(delta, point.x, fed, fed0, bool(norms_only))
    if not norms_only:
        return result
    with np.errstate(invalid="ignore"):
        return tuple(np.sqrt(np.maximum(result, 0)).astype(point.x.dtype))  # a sum that cancels may fall below 0
