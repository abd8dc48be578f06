"""The gradient of each sequence of a batch on its own, or its norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrnn import _calls, _checks, _directions
from pyrnn._core import tangents
from pyrnn._results import SampleGradients
from pyrnn.profiling import timed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn.trajectory import Trajectory


@timed
def per_sample_gradients(run: Trajectory, dh: ArrayLike, *, norms_only: bool = False) -> SampleGradients:
    """The gradients at U, W and b of each sequence of the batch, where `Trajectory.backward` returns their sum.

    Parameters
    ----------
    run : Trajectory
        From `simulate`.
    dh : array_like, shape of h
        What the loss sends into each h_t directly.
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
        As in `Trajectory.backward`.

    See Also
    --------
    Trajectory.backward : its gradients at x and h0 are those of each sequence already.

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
    >>> x = np.random.default_rng(0).standard_normal((5, 3, 2))
    >>> run = pyrnn.simulate(pyrnn.initialize(2, 4, rng=0), x)
    >>> each = pyrnn.training.per_sample_gradients(run, run.h)
    >>> each.W.shape, bool(np.allclose(each.W.sum(axis=0), run.backward(run.h).W))
    ((3, 4, 4), True)
    """
    _checks.check_flag("norms_only", norms_only)
    run, _, arrays = _directions.conform(run, dh=dh)
    batched = run.h.ndim == 3
    run, _, (dh_,) = _directions.with_batch(run, _directions.STILL, *arrays)
    if run.lengths is run.mask is None:
        run, _, (dh_,) = _directions.in_order(run, _directions.STILL, dh_)
        result = gradients_at(run, dh_, norms_only)
    else:
        result = _of_existing_steps(run, dh_, norms_only)
    return SampleGradients(*(result if batched else (a[0] for a in result)))


def gradients_at(
    run: Trajectory, dh: np.ndarray, norms_only: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dU, dW, db) of each sequence, or their norms, of a run as `_directions` says."""
    _, delta = _directions.gradient_states(run, dh)
    return _each(delta, run.require_x(), *_directions.fed(run), norms_only)


def _of_existing_steps(run: Trajectory, dh: np.ndarray, norms_only: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of a run with lengths or a mask: nothing comes from steps that do not exist."""
    cell, missing = run.network.cell, _calls.missing_steps(run.h, run.lengths, run.mask)
    delta = tangents.deltas(run.state_gradients(dh), cell, run.rates)
    before = _calls.previous(run.h, run.h0, run.lengths, run.reverse)
    x = run.require_x().copy()
    for a in (delta, before, x):
        a[missing] = 0
    fed = cell.phi(before) if cell.current else before
    first = fed[0] if len(fed) else np.zeros(fed.shape[1:], fed.dtype)
    return _each(delta, x, np.roll(fed, -1, axis=0), first, norms_only)


def _each(
    delta: np.ndarray, x: np.ndarray, fed: np.ndarray, fed0: np.ndarray, norms_only: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    result = tangents.each(delta, x, fed, fed0, bool(norms_only))
    if isinstance(result, tuple):
        return result
    with np.errstate(invalid="ignore"):
        U, W, b = np.sqrt(np.maximum(result, 0)).astype(x.dtype)  # a sum that cancels may fall below 0
    return U, W, b
