"""A picture of states in a plane, by condition. Matplotlib is imported when it is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn import _checks
from pyrnn.plots.drawing import COLORS, axes_or_new, require_matplotlib
from pyrnn.plots.planes import checked_components, label_plane, principal_plane

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def trajectories(
    h: ArrayLike,
    conditions: ArrayLike | None = None,
    *,
    components: tuple[int, int] = (0, 1),
    average: bool = True,
    ax: Any = None,
) -> Any:
    """Draw states over time in the plane of two principal components, in a colour for each condition.

    Parameters
    ----------
    h : array_like, shape (T, B, H) or (T, H)
        The states, or rates.
    conditions : array_like, shape (B,), optional
        The condition of each sequence: numbers or text. None for one condition each.
    components : tuple of two int
        Which principal components, counted from 0.
    average : bool
        Whether each condition is one line, the mean of its sequences; else each sequence is one.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None for a new figure.

    Returns
    -------
    ax : matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If shapes do not fit, h has NaN or inf, or there are not so many components.
    TypeError
        If h is not of real numbers.
    pyrnn.plots.PlotError
        Without matplotlib.

    See Also
    --------
    plot_fixed_points : draws trajectories and the points that organise them.

    Notes
    -----
    The components are those of what is drawn: with `average`, those of the means, as in [1]_. A circle marks the
    beginning of each line. Up to six conditions get distinct colours, more of them a scale in their order.

    References
    ----------
    .. [1] V. Mante, D. Sussillo, K. V. Shenoy, W. T. Newsome, "Context-dependent computation by recurrent dynamics in
       prefrontal cortex", Nature 503, 78-84, 2013.

    Examples
    --------
    >>> import pyrnn
    >>> task = pyrnn.tasks.PerceptualDecision()
    >>> h = pyrnn.simulate(pyrnn.initialize(task.input_size, 20, rng=0), task.batch(0).x).h
    >>> ax = pyrnn.plots.trajectories(h, task.trial_info(0)["coherence"])  # doctest: +SKIP
    """
    (h,) = _checks.as_real_arrays(h=h)
    _checks.check_sequence("h", "H", h)
    h = (h if h.ndim == 3 else h[:, np.newaxis]).astype(np.float64)
    B, H = h.shape[1:]
    if not np.isfinite(h).all():
        raise ValueError("h must be finite, got NaN or inf")
    first, second = checked_components(components, H)
    _checks.check_flag("average", average)
    labels = np.arange(B) if conditions is None else _checks.as_array("conditions", conditions)
    _checks.check_shape("conditions", labels, (B,), "h", h)
    require_matplotlib()
    names, which = np.unique(labels, return_inverse=True)
    if average and len(names) < B:
        h = np.stack([h[:, which == k].mean(axis=1) for k in range(len(names))], axis=1)
        which = np.arange(len(names))
    center, plane, shares = principal_plane(h.reshape(-1, H), [first, second])
    ax = axes_or_new(ax)
    colors = _colors(len(names))
    shown: set[int] = set()
    for b, k in enumerate(which.tolist()):
        line = (h[:, b] - center) @ plane
        label = None if k in shown or conditions is None else str(names[k])
        ax.plot(*line.T, color=colors[k], linewidth=1.2, label=label)
        ax.plot(*line[:1].T, "o", color=colors[k], markersize=3)
        shown.add(k)
    if conditions is not None and 0 < len(names) <= 12:
        ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    label_plane(ax, [first, second], shares)
    return ax


def _colors(n: int) -> list[Any]:
    if n <= len(COLORS):
        return list(COLORS[:n])
    from matplotlib import colormaps

    return list(colormaps["viridis"](np.linspace(0, 0.95, n)))
