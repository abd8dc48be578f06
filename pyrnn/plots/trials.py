"""Pictures of a trial and of choices over coherences. Matplotlib is imported when they are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.special import expit, ndtr

from pyrnn import _checks
from pyrnn.plots.drawing import BLUE, GREY, ORANGE, axes_or_new, require_matplotlib

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

UNITS = 3.0  # the height of the image of units; a line has 1
LABELS = 8  # so many lines have a label each


# ---- A trial --------------------------------------------------------------------------------------------------------
def trial(
    x: ArrayLike,
    y: ArrayLike,
    outputs: ArrayLike | None = None,
    units: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    dt: float | None = None,
    ax: Any = None,
) -> Any:
    """Draw one trial over time: inputs above, targets and outputs below them, units at the bottom.

    Parameters
    ----------
    x : array_like, shape (T, I)
        The inputs of one trial: ``x[:, b]`` of a batch.
    y : array_like, shape (T,) of int, or (T, O)
        Its classes, or targets.
    outputs : array_like, shape (T, O), optional
        What a network makes of it. Of classes, unnormalised log probabilities, which are drawn as probabilities.
    units : array_like, shape (T, H), optional
        The states or rates of the network's units.
    weights : array_like, shape (T,), optional
        Steps whose weight is 0 are grey behind targets and outputs.
    dt : float, optional
        The time that a step takes, in ms; None to count steps.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None for a new figure.

    Returns
    -------
    ax : matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If shapes do not fit, or dt is not positive.
    TypeError
        If an argument is not real.
    pyrnn.plots.PlotError
        Without matplotlib.

    See Also
    --------
    pyrnn.tasks : makes trials.

    Notes
    -----
    All inputs have one scale, and so have all targets and outputs. Of classes, the target is a line for each class, 1
    while it is the right one. The image of the units is red where they are positive and blue where they are negative.

    Examples
    --------
    >>> import pyrnn
    >>> task = pyrnn.tasks.FlipFlop(sigma=0)
    >>> x, y, weights = task.batch(0)
    >>> ax = pyrnn.plots.trial(x[:, 0], y[:, 0], weights=weights[:, 0], dt=task.dt)  # doctest: +SKIP
    """
    x, outputs, units, weights = _checks.as_real_arrays(
        "outputs", "units", "weights", x=x, outputs=outputs, units=units, weights=weights
    )
    if x.ndim != 2 or x.size == 0:
        _checks.shape_error("x", "(T, I), with one step and one input or more", x)
    T = len(x)
    for name, a, letter in (("outputs", outputs, "O"), ("units", units, "H")):
        if a is not None and (a.ndim != 2 or len(a) != T or a.size == 0):
            _checks.shape_error(name, f"({T}, {letter})", a, "x", x)
    _checks.check_shape("weights", weights, (T,), "x", x)
    y, outputs = _targets(y, outputs, T)
    if dt is not None and not (_checks.is_finite_number(dt) and dt > 0):
        raise ValueError(f"dt must be a positive number, got {dt!r}")
    require_matplotlib()
    ax = axes_or_new(ax, (6, 5))
    time = np.arange(T + 1) * (1.0 if dt is None else dt)
    bottom, ticks = 0.0, {}
    if units is not None:
        most = np.abs(units[np.isfinite(units)]).max(initial=0) or 1.0
        ax.imshow(
            units.T,
            extent=(0, time[-1], 0, UNITS),
            aspect="auto",
            interpolation="nearest",
            cmap="RdBu_r",
            vmin=-most,
            vmax=most,
        )
        ticks["units"] = UNITS / 2
        bottom = UNITS + 0.2
    top = bottom + y.shape[1]
    if weights is not None:
        edges = time[np.flatnonzero(np.diff(np.concatenate([[False], weights == 0, [False]])))]
        spans = list(zip(edges[::2], np.diff(edges)[::2], strict=True))
        ax.broken_barh(spans, (bottom, top - bottom), color="0.93", linewidth=0, zorder=0)
    outputs_below = [] if outputs is None else [(outputs, ORANGE, "output")]
    _draw_lines(ax, time, bottom, [*outputs_below, (y, GREY, "target")])
    _add_ticks(ticks, "output", bottom, y.shape[1])
    _draw_lines(ax, time, top + 0.2, [(x, BLUE, None)])
    _add_ticks(ticks, "input", top + 0.2, x.shape[1])
    ax.set_yticks(list(ticks.values()), list(ticks))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlim(0, time[-1])
    ax.set_ylim(0, top + 0.2 + x.shape[1])
    ax.set_xlabel("step" if dt is None else "time (ms)")
    if outputs is not None:
        ax.legend(frameon=False, fontsize="small", loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    return ax


def _targets(y: ArrayLike, outputs: np.ndarray | None, T: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Targets (T, O), and outputs on their scale."""
    y = _checks.as_array("y", y)
    if y.ndim == 1 and y.dtype.kind in "iu":
        _checks.check_shape("y", y, (T,))
        n = int(y.max()) + 1 if outputs is None else outputs.shape[1]
        if outputs is not None:
            with np.errstate(invalid="ignore"):
                outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
                outputs = outputs / outputs.sum(axis=1, keepdims=True)
        return (y[:, np.newaxis] == np.arange(max(1, n))).astype(np.float64), outputs
    (y,) = _checks.as_real_arrays(y=y)
    if y.ndim != 2 or len(y) != T or y.size == 0:
        _checks.shape_error("y", f"({T},) of integers or ({T}, O)", y)
    _checks.check_shape("outputs", outputs, y.shape, "y", y)
    return y, outputs


def _draw_lines(ax: Any, time: np.ndarray, bottom: float, groups: list[tuple[np.ndarray, str, str | None]]) -> None:
    """Draw the columns of arrays (T, n), the first one at the top, all on one scale."""
    every = np.concatenate([values.ravel() for values, _, _ in groups])
    every = every[np.isfinite(every)]
    low, high = every.min(initial=0), every.max(initial=0)
    scale = 0.8 / (high - low) if high > low else 1.0
    for values, color, label in groups:
        n = values.shape[1]
        held = np.concatenate([values, values[-1:]]).astype(np.float64)  # each number for a whole step
        for k in range(n):
            line = bottom + n - 1 - k + 0.1 + (held[:, k] - low) * scale
            ax.plot(time, line, color=color, linewidth=1, drawstyle="steps-post", label=label if k == 0 else None)


def _add_ticks(ticks: dict[str, float], name: str, bottom: float, n: int) -> None:
    if n > LABELS:
        ticks[f"{n} {name}s"] = bottom + n / 2
        return
    for k in range(n):
        ticks[f"{name} {k}" if n > 1 else name] = bottom + n - 1 - k + 0.5


# ---- Choices --------------------------------------------------------------------------------------------------------
def psychometric(
    coherence: ArrayLike,
    chosen: ArrayLike,
    *,
    fit: Literal["logistic", "normal"] | None = "logistic",
    color: str = BLUE,
    ax: Any = None,
) -> Any:
    """Draw the fraction of choices over signed coherence, with a fitted curve: the psychometric function.

    Parameters
    ----------
    coherence : array_like, shape (n,)
        The signed coherence of each trial.
    chosen : array_like of bool, or of 0 and 1, shape (n,)
        Whether the choice was the one that positive coherence asks for: ``task.choices(...) == 2``.
    fit : {"logistic", "normal"}, optional
        The curve that is fitted: a logistic function or a cumulative normal distribution; None for none.
    color : str
        Of points and curve, for several conditions in the same axes.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None for a new figure.

    Returns
    -------
    ax : matplotlib.axes.Axes
        The label of the curve has its parameters.

    Raises
    ------
    ValueError
        If shapes do not fit, there are no trials, a coherence is not finite, `chosen` has other values, or there is no
        such fit.
    TypeError
        If an argument is not real.
    pyrnn.plots.PlotError
        Without matplotlib.

    See Also
    --------
    pyrnn.tasks.PerceptualDecision : has signed coherences.

    Notes
    -----
    The curve is F((c - m) / s), of the greatest likelihood: F is the logistic function or the distribution of a
    standard normal variable, m the coherence at which both choices are equally frequent and s the width [1]_. If
    some coherence separates the choices, the likelihood grows as s goes to 0: then the curve is a step, and its label
    has no parameters. Bars are standard errors of the fractions, sqrt(p (1 - p) / n).

    References
    ----------
    .. [1] F. A. Wichmann, N. J. Hill, "The psychometric function: I. Fitting, sampling, and goodness of fit",
       Perception & Psychophysics 63, 1293-1313, 2001.

    Examples
    --------
    >>> ax = pyrnn.plots.psychometric([-10, -10, 10, 10], [False, True, True, True])  # doctest: +SKIP
    """
    coherence, chosen = _checks.as_real_arrays(coherence=coherence, chosen=chosen)
    if coherence.ndim != 1 or coherence.size == 0:
        _checks.shape_error("coherence", "(n,), with one trial or more", coherence)
    _checks.check_shape("chosen", chosen, coherence.shape, "coherence", coherence)
    if not np.isfinite(coherence).all():
        raise ValueError("coherence must be finite, got NaN or inf")
    if not np.isin(chosen, (0, 1)).all():
        raise ValueError(f"chosen must be True or False, or 1 or 0, got {chosen[~np.isin(chosen, (0, 1))][0]}")
    if fit not in (None, *CURVES):
        raise ValueError(f"fit must be 'logistic', 'normal' or None, got {fit!r}")
    require_matplotlib()
    ax = axes_or_new(ax, (5, 4))
    levels, which, n = np.unique(coherence.astype(np.float64), return_inverse=True, return_counts=True)
    p = np.bincount(which, weights=chosen) / n
    ax.axhline(0.5, color="0.85", linewidth=0.8, zorder=0)
    ax.axvline(0, color="0.85", linewidth=0.8, zorder=0)
    ax.errorbar(levels, p, np.sqrt(p * (1 - p) / n), fmt="o", color=color, markersize=4, linewidth=1)
    if fit is not None and len(levels) > 1:
        a, b, is_finite = fit_curve(levels, p, n, fit)
        at = np.linspace(levels[0], levels[-1], 400)
        label = f"{fit}: m = {-a / b:.3g}, s = {1 / b:.3g}" if is_finite else fit
        ax.plot(at, CURVES[fit](a + b * at), color=color, linewidth=1.5, label=label)
        ax.legend(frameon=False, fontsize="small", loc="upper left")
    ax.set(xlabel="signed coherence", ylabel="fraction of choices", ylim=(-0.03, 1.03))
    return ax


CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"logistic": expit, "normal": ndtr}
STEEP = 30.0  # the argument of F at which a curve is a step


def fit_curve(levels: np.ndarray, p: np.ndarray, n: np.ndarray, fit: str) -> tuple[float, float, bool]:
    """Fit p = F(a + b c) by Fisher's scoring; returns a, b and whether the likelihood has a maximum with b not 0."""
    curve, unit = CURVES[fit], np.abs(levels).max()
    design = np.stack([np.ones(len(levels)), levels / unit], axis=1)

    def likelihood(ab: np.ndarray) -> tuple[float, np.ndarray]:
        q = np.clip(curve(design @ ab), 1e-15, 1 - 1e-15)
        return float((n * (p * np.log(q) + (1 - p) * np.log1p(-q))).sum()), q

    ab = np.zeros(2)
    value, q = likelihood(ab)
    for _ in range(200):
        z = design @ ab
        slope = q * (1 - q) if fit == "logistic" else np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        score = design.T @ (n * (p - q) * slope / (q * (1 - q)))
        information = design.T @ ((n * slope**2 / (q * (1 - q)))[:, np.newaxis] * design)
        step = np.linalg.lstsq(information, score, rcond=None)[0]
        for _ in range(30):
            better, moved = likelihood(ab + step)
            if better >= value:
                break
            step = step / 2
        else:
            break
        done = better - value <= 1e-12 * max(1.0, abs(value))
        ab, value, q = ab + step, better, moved
        if done or np.abs(design @ ab).min() > STEEP:
            break
    rising = np.diff(p)
    separable = ((p > 0) & (p < 1)).sum() <= 1 and ((rising >= 0).all() or (rising <= 0).all())
    return float(ab[0]), float(ab[1] / unit), bool(ab[1] != 0 and not separable)
