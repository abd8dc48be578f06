"""The regulariser of Pascanu, Mikolov and Bengio, which asks every step to hand on a gradient as long as it got."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyrnn import _calls, _checks, _directions
from pyrnn._results import RegularizerGradients

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import MaybeArray, Omega
    from pyrnn.cell import Cell
    from pyrnn.trajectory import Trajectory

VARIANTS = ("book", "published")
PUBLISHED_BOUND = 1e-20  # of squared norms: `bound` in RNN.py of pascanur/trainingRNNs
CHUNK = 2**15  # numbers of h at a time: temporaries that stay in cache, and that malloc does not take from the system


def vanishing_regularizer(
    run: Trajectory, grad_h: ArrayLike, *, variant: Omega = "book"
) -> tuple[np.float64, RegularizerGradients]:
    """How much the gradients' lengths change from step to step, squared: Omega, with its gradients.

    Parameters
    ----------
    run : Trajectory
        From `simulate`.
    grad_h : array_like, shape of h
        The whole gradient of the loss with respect to every state, as `Trajectory.state_gradients` returns it.
    variant : {"book", "published"}
        ``book``: the sum of (ratio of norms - 1)², equation 10.52. ``published``: what the code published with the
        paper computes, the *mean* of (ratio of *squared* norms - 1)².

    Returns
    -------
    omega : float
        A float64 scalar.
    gradients : RegularizerGradients
        Named tuple ``(h, W, rates)`` of the derivatives with grad_h, alpha and h0 held constant. ``rates`` is None but
        for a cell with a leak in the ``rate`` form, and then h is zeros.

    Raises
    ------
    ValueError, TypeError
        As in `Trajectory.state_gradients`, and if the variant has another name.

    See Also
    --------
    Trajectory.state_gradients : makes grad_h.

    Notes
    -----
    With r_t = ||grad_h_t ∂h_t/∂h_{t-1}|| / ||grad_h_t||, equation 10.52 of [1]_ is::

        Omega = Σ_t (r_t - 1)²                      book
        Omega = (1/n) Σ_t (r_t² - 1)²               published

    over all steps of all sequences that exist, the first one included, where the state before is h0. No Jacobian is
    formed: grad_h_t ∂h_t/∂h_{t-1}, what a step hands on, is the row::

        (phi'(a_t) ∘ grad_h_t) W                                                            without a leak
        (1 - alpha) ∘ grad_h_t + (alpha ∘ phi'(a_t) ∘ grad_h_t) W                           with one
        (1 - alpha) ∘ grad_h_t + phi'(h_{t-1}) ∘ ((alpha ∘ grad_h_t) W)                     in the ``current`` form

    Only the direction of grad_h_t plays a part, so that its scale neither matters nor overflows.

    - **Steps without a gradient.** Where grad_h_t is zero, the ratio has no value, and the step does not count: it adds
      nothing to Omega, its gradients or n. Nor does, in the published form, a step with ||grad_h_t||² < 1e-20, the
      bound in the published code. Omega of no steps is 0.
    - **Where nothing is handed on**, r_t = 0, the term is 1, and the book's form has no derivative: 0 is returned.
    - **What is held constant.** Omega depends on the parameters through W, h and grad_h. The paper [2]_ takes the
      derivative through W alone, with h and grad_h as constants; its code adds a multiple of ``gradients.W`` to dW,
      and so may you. ``gradients.h`` and ``gradients.rates`` are one more term, which the code does not have: the same
      multiple of them goes into ``run.backward(dh + gradients.h, gradients.rates)``. What flows through grad_h itself
      is left out in both cases.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.11.2.
    .. [2] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013;
       code: https://github.com/pascanur/trainingRNNs, RNN.py.

    Examples
    --------
    At h = 0 every step halves the gradient:

    >>> import numpy as np, pyrnn
    >>> run = pyrnn.simulate(pyrnn.Network(np.ones((1, 1)), np.array([[0.5]])), np.zeros((3, 1)))
    >>> grad_h = run.state_gradients([[0.0], [0.0], [1.0]])
    >>> omega, gradients = pyrnn.training.vanishing_regularizer(run, grad_h)
    >>> float(omega), gradients.W
    (0.75, array([[-3.]]))
    """
    if not isinstance(variant, str) or variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(map(repr, VARIANTS))}, got {variant!r}")
    _directions.check_run(run)
    given = {"grad_h": grad_h, "h": run.h, "W": run.network.W, "h0": run.h0, "rates": run.rates}
    g: MaybeArray
    g, h, W, h0, rates = _checks.as_real_arrays("h0", **given)
    _checks.check_shape("grad_h", g, h.shape, "h", h)
    cell, H = run.network.cell, h.shape[-1]
    missing = _calls.missing_steps(h, run.lengths, run.mask)
    if cell.current:
        rates = _calls.phi_of_previous(h, h0, cell, run.lengths, run.reverse)
    shape, (g, rates) = h.shape, (a.reshape(math.prod(h.shape[:-1]), H) for a in (g, rates))
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        norms = _norms(g)
        counted = (norms != 0) & ~(norms * norms < (PUBLISHED_BOUND if variant == "published" else 0))
        if missing is not None:
            counted &= ~missing.reshape(-1)
        n = 1 if variant == "book" else max(int(np.count_nonzero(counted)), 1)
        omega, d_slopes, dW = np.float64(0), np.zeros(rates.shape, h.dtype), np.zeros(W.shape, W.dtype)
        leak, step = cell.leak(H, h.dtype), max(CHUNK // max(H, 1), 16)
        for start in range(0, len(rates), step):
            rows: slice | np.ndarray = slice(start, start + step)
            if not counted[rows].all():
                rows = start + np.flatnonzero(counted[rows])
            chunk_omega, d_slopes[rows], chunk_dW = _chunk(g[rows], rates[rows], W, cell, leak, variant)
            omega += chunk_omega
            dW += chunk_dW
        if variant == "published":
            omega, d_slopes, dW = omega / n, d_slopes / h.dtype.type(n), dW / h.dtype.type(n)
    through = d_slopes.reshape(shape)
    if cell.current:
        return omega, RegularizerGradients(_calls.to_previous(through, run.lengths, run.reverse)[0], dW)
    if cell.alpha is None:
        return omega, RegularizerGradients(through, dW)
    return omega, RegularizerGradients(np.zeros_like(through), dW, through)


def _chunk(
    grad_h: np.ndarray, rates: np.ndarray, W: np.ndarray, cell: Cell, leak: np.ndarray | None, variant: Omega
) -> tuple[np.float64, np.ndarray | int, np.ndarray]:
    """Omega of rows that all count, as a sum, and its derivatives through their slopes and by W.

    Those through the slopes are with respect to the rates, in the current form, whose rates are of the state before,
    with respect to that.
    """
    direction, _ = _units(grad_h)
    slope, bend = cell.slope(rates), cell.bend(rates)
    delta = leak * direction if cell.current else slope * direction if leak is None else leak * slope * direction
    fed = delta @ W
    handed = slope * fed if cell.current else fed  # grad_h_t ∂h_t/∂h_{t-1}, over ||grad_h_t||
    if leak is not None:
        handed = (1 - leak) * direction + handed
    unit, r = _units(handed)
    if variant == "book":
        omega = np.square(r - 1).sum()
        d_handed = unit * (2 * (r - 1)).astype(rates.dtype)[:, np.newaxis]  # unit is the derivative of r
    else:
        omega = np.square(r * r - 1).sum()
        d_handed = handed * (4 * (r * r - 1)).astype(rates.dtype)[:, np.newaxis]
    if cell.current:
        d_fed = slope * d_handed
        return omega, 0 if bend is None else d_fed * fed * bend, delta.T @ d_fed
    d_rates: np.ndarray | int = 0
    if bend is not None:
        d_rates = d_handed @ W.T
        d_rates *= direction if leak is None else leak * direction
        d_rates *= bend  # the derivative of phi' with respect to phi
    return omega, d_rates, delta.T @ d_handed


def _norms(rows: np.ndarray) -> np.ndarray:
    """Euclidean norms of rows in float64."""
    squares, limits = np.vecdot(rows, rows), np.finfo(rows.dtype)
    norms: np.ndarray = np.sqrt(squares, dtype=np.float64)
    # Where squares overflow or vanish, or nearly so: once more with scaled numbers.
    rough = ~((squares > limits.tiny / limits.eps) & (squares < limits.max * limits.eps))
    if rough.any():
        norms[rough] = _scaled(rows[rough])[1]
    return norms


def _units(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows over their norms, zeros where that is 0, and the norms."""
    norms, limits = _norms(rows), np.finfo(rows.dtype)
    units = rows / norms.astype(rows.dtype)[:, np.newaxis]
    rough = ~((norms > limits.tiny / limits.eps) & (norms < limits.max * limits.eps))
    if rough.any():
        units[rough] = _scaled(rows[rough])[0]
    return units, norms


def _scaled(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for numbers of any size."""
    largest = np.abs(rows).max(axis=1, initial=0)
    exponents = np.frexp(np.where(np.isfinite(largest), largest, 1))[1]
    scaled = np.ldexp(rows, -exponents[:, np.newaxis])
    lengths = np.sqrt(np.square(scaled, dtype=np.float64).sum(axis=1))
    units = scaled / np.where(lengths == 0, 1, lengths).astype(rows.dtype)[:, np.newaxis]
    return units, np.ldexp(lengths, exponents)
