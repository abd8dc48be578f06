"""A picture of fixed points and trajectories in a plane. Matplotlib is imported when it is drawn, without pyplot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn import _checks
from pyrnn.plots.drawing import BLUE, GREY, ORANGE, axes_or_new, require_matplotlib
from pyrnn.plots.planes import checked_components, label_plane, principal_plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from pyrnn.dynamics.fixed_points import FixedPoints

KINDS = {  # of points: label, marker, colour of the face and of the edge
    "stable": ("stable", "o", BLUE, BLUE),
    "saddle": ("saddle", "o", "white", ORANGE),
    "unstable": ("unstable", "X", ORANGE, ORANGE),
    "slow": ("slow", "s", "white", GREY),
    "stuck": ("stuck", "x", GREY, GREY),
}


def plot_fixed_points(
    points: FixedPoints,
    trajectories: ArrayLike | None = None,
    *,
    components: tuple[int, int] = (0, 1),
    directions: bool = True,
    stuck: bool = False,
    axes: Any = None,
) -> Any:
    """Draw fixed and slow points, and trajectories, in the plane of two principal components.

    Parameters
    ----------
    points : FixedPoints
        From `find_fixed_points`.
    trajectories : array_like, shape (T, B, H) or (T, H), optional
        States that the network went through, drawn as lines: what `forward` returned. Their principal components
        span the plane; without them, those of the points do.
    components : tuple of two int
        Which principal components, counted from 0.
    directions : bool
        Whether a line through each saddle shows the mode that grows fastest, its real part.
    stuck : bool
        Whether to draw the points where the search got stuck, which are no minima of q.
    axes : matplotlib.axes.Axes, optional
        Where to draw; None for a new figure.

    Returns
    -------
    axes : matplotlib.axes.Axes
        ``axes.figure.savefig("points.png")`` writes the picture.

    Raises
    ------
    ValueError
        If shapes do not fit, or there are not so many components.
    TypeError
        If `trajectories` is not of real numbers.
    pyrnn.plots.PlotError
        Without matplotlib.

    See Also
    --------
    find_fixed_points : finds them.

    Notes
    -----
    Outliers are left out: one of them would shrink everything else to a dot. Points that are `stuck` are left out too:
    with relu there may be hundreds of them. The components are those of the states'
    covariance; the axes say which part of the variance each has.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> starts = np.random.default_rng(0).uniform(-1, 1, (100, 2))
    >>> points = pyrnn.dynamics.find_fixed_points(pyrnn.Network(np.zeros((2, 1)), 2 * np.eye(2)), starts=starts)
    >>> axes = pyrnn.plots.plot_fixed_points(points)  # doctest: +SKIP
    """
    H = points.h.shape[1]
    _checks.check_flag("stuck", stuck)
    if not stuck:
        points = points[~points.stuck]
    states = points.h
    if trajectories is not None:
        (trajectories,) = _checks.as_real_arrays(trajectories=trajectories)
        if trajectories.ndim not in (2, 3) or trajectories.shape[-1] != H:
            _checks.shape_error("trajectories", f"(T, B, {H}) or (T, {H})", trajectories)
        states = trajectories.reshape(-1, H)
    first, second = checked_components(components, H)
    require_matplotlib()
    center, plane, shares = principal_plane(states.astype(np.float64), [first, second])
    axes = axes_or_new(axes)
    if trajectories is not None:
        lines = trajectories if trajectories.ndim == 3 else trajectories[:, np.newaxis]
        for b in range(lines.shape[1]):
            axes.plot(*((lines[:, b] - center) @ plane).T, color="0.7", linewidth=0.6, zorder=1)
    inside = points[~points.outlier]
    _draw_points(axes, inside, (inside.h - center) @ plane)
    if directions:
        _draw_directions(axes, inside, (inside.h - center) @ plane, plane)
    label_plane(axes, [first, second], shares)
    return axes


def _draw_points(axes: Axes, points: FixedPoints, at: np.ndarray) -> None:
    kinds = np.where(points.stuck, "stuck", np.where(points.slow, "slow", points.stability))
    for kind, (label, marker, face, edge) in KINDS.items():
        if (kinds == kind).any():
            axes.plot(
                *at[kinds == kind].T,
                linestyle="none",
                marker=marker,
                markerfacecolor=face,
                markeredgecolor=edge,
                markersize=6,
                label=label,
                zorder=3,
            )
    if len(points):
        axes.legend(frameon=False)


def _draw_directions(axes: Axes, points: FixedPoints, at: np.ndarray, plane: np.ndarray) -> None:
    """A line along the fastest mode of each saddle, of a tenth of the picture."""
    length = 0.05 * np.ptp(axes.dataLim.get_points(), axis=0).max()
    for i in np.flatnonzero((points.stability == "saddle") & ~points.slow):
        line = points.right[i, :, 0].real @ plane
        size = np.linalg.norm(line)
        if size > 0:
            ends = at[i] + np.outer((-length, length), line / size)
            axes.plot(*ends.T, color=ORANGE, linewidth=1, zorder=2)
