"""Pictures of recurrent weights and of eigenvalues. Matplotlib is imported when they are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn import _checks
from pyrnn.plots.drawing import BLUE, GREY, ORANGE, axes_or_new, require_matplotlib

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def weights(W: ArrayLike, *, signs: ArrayLike | None = None, ax: Any = None) -> Any:
    """Draw recurrent weights as an image, the units sorted by sign: excitatory ones first.

    Parameters
    ----------
    W : array_like, shape (H, H)
        Row i has the weights to unit i, column j those from unit j.
    signs : array_like, shape (H,), optional
        Positive for excitatory units, else inhibitory: the ``signs`` of a `pyrnn.training.Constraint`. None for the
        signs of the columns' sums.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None for a new figure.

    Returns
    -------
    ax : matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If W is not square or shapes do not fit.
    TypeError
        If an argument is not real.
    pyrnn.plots.PlotError
        Without matplotlib.

    See Also
    --------
    pyrnn.training.Constraint : keeps signs during training.

    Notes
    -----
    Red is positive, blue negative, white 0. Units of the same sign keep their order. Dale's principle, that all weights
    from a unit have one sign [1]_, shows as columns of one colour.

    References
    ----------
    .. [1] H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive
       tasks: a simple and flexible framework", PLoS Computational Biology 12, e1004792, 2016.

    Examples
    --------
    >>> import pyrnn
    >>> network = pyrnn.initialize(3, 20, rng=0)
    >>> ax = pyrnn.plots.weights(network.W)  # doctest: +SKIP
    """
    W = _square("W", W)
    excitatory = W.sum(axis=0) > 0
    if signs is not None:
        (signs,) = _checks.as_real_arrays(signs=signs)
        _checks.check_shape("signs", signs, (len(W),), "W", W)
        excitatory = signs > 0
    require_matplotlib()
    ax = axes_or_new(ax)
    order = np.argsort(~excitatory, kind="stable")
    most = np.abs(W[np.isfinite(W)]).max(initial=0) or 1.0
    image = ax.imshow(W[np.ix_(order, order)], cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    ax.figure.colorbar(image, cax=ax.inset_axes((1.03, 0.1, 0.03, 0.8)))
    n, border = len(W), int(excitatory.sum())
    groups = [(0, border, "excitatory"), (border, n, "inhibitory")]
    middles = {name: (low + high - 1) / 2 for low, high, name in groups if low < high}
    ax.set_xticks(list(middles.values()), list(middles))
    ax.set_yticks(list(middles.values()), list(middles), rotation=90, va="center")
    if 0 < border < n:
        ax.axhline(border - 0.5, color=GREY, linewidth=0.6)
        ax.axvline(border - 0.5, color=GREY, linewidth=0.6)
    ax.tick_params(length=0)
    ax.set_xlabel("from")
    ax.set_ylabel("to")
    return ax


def eigenvalues(matrix: ArrayLike, *, alpha: ArrayLike | None = None, ax: Any = None) -> Any:
    """Draw the eigenvalues of W, or of a Jacobian, in the complex plane with the unit circle.

    Parameters
    ----------
    matrix : array_like, shape (H, H)
        The matrix; for several of them, call this with the same `ax`.
    alpha : float or array_like, shape (H,), optional
        A leak, greater than 0 and at most 1: draws those of (1 - alpha) I + alpha W, the Jacobian of a leaky network at
        slopes of 1. None for the matrix itself.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None for a new figure.

    Returns
    -------
    ax : matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the matrix is not square, has NaN or inf, shapes do not fit, or alpha is out of its range.
    TypeError
        If an argument is not real.
    pyrnn.plots.PlotError
        Without matplotlib.

    See Also
    --------
    pyrnn.jacobian : computes Jacobians.
    pyrnn.dynamics.find_fixed_points : finds states where their eigenvalues say what grows.

    Notes
    -----
    Eigenvalues outside of the unit circle, in orange, are those of modes that grow.

    Examples
    --------
    >>> import pyrnn
    >>> network = pyrnn.initialize(3, 20, rng=0)
    >>> ax = pyrnn.plots.eigenvalues(network.W, alpha=0.2)  # doctest: +SKIP
    """
    square = _square("matrix", matrix)
    if not np.isfinite(square).all():
        raise ValueError("matrix must be finite, got NaN or inf")
    if alpha is not None:
        (alpha,) = _checks.as_real_arrays(alpha=alpha)
        if alpha.shape not in ((), (len(square),)):
            _checks.shape_error("alpha", f"() or ({len(square)},)", alpha, "matrix", square)
        if not ((alpha > 0) & (alpha <= 1)).all():
            raise ValueError(f"alpha must be greater than 0 and at most 1, got {alpha}")
        leak = np.broadcast_to(alpha.astype(np.float64), len(square))
        square = np.diag(1 - leak) + leak[:, np.newaxis] * square
    require_matplotlib()
    values = np.linalg.eigvals(square)
    ax = axes_or_new(ax, (5, 5))
    angles = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angles), np.sin(angles), color="0.8", linewidth=0.8, zorder=1)
    for grows, color in ((False, BLUE), (True, ORANGE)):
        drawn = values[(np.abs(values) > 1) == grows]
        ax.plot(drawn.real, drawn.imag, "o", color=color, markersize=3, zorder=2)
    ax.set(aspect="equal", xlabel="real part", ylabel="imaginary part")
    return ax


def _square(name: str, matrix: ArrayLike) -> np.ndarray:
    """The argument as a float64 matrix."""
    (given,) = _checks.as_real_arrays(**{name: matrix})
    array: np.ndarray = given.astype(np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.size == 0:
        _checks.shape_error(name, "(H, H), with one unit or more", array)
    return array
