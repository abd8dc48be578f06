"""A picture of a run of training. Matplotlib is imported when it is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyrnn import _checks
from pyrnn.plots.drawing import BLUE, GREEN, ORANGE, axes_or_new, require_matplotlib

LINES = {"loss": BLUE, "validation_loss": ORANGE}


def learning_curve(history: Sequence[Mapping[str, Any]], *, ax: Any = None) -> Any:
    """Draw losses, and the accuracy if there is one, over the steps of training.

    Parameters
    ----------
    history : sequence of mappings
        Rows with "step" and "loss"; "validation_loss" and "accuracy" may be there, in some or all rows. None counts as
        absent.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None for a new figure.

    Returns
    -------
    ax : matplotlib.axes.Axes
        With the losses. The accuracy has an axis of its own at the right.

    Raises
    ------
    ValueError
        If there are no rows, or one has no "step", or none has a "loss".
    TypeError
        If history is no sequence of mappings, or a value is no real number.
    pyrnn.plots.PlotError
        Without matplotlib.

    Notes
    -----
    The axis of the losses is logarithmic if all of them are positive and the largest is more than ten times the
    smallest.

    Examples
    --------
    >>> import pyrnn
    >>> history = [{"step": 0, "loss": 1.1}, {"step": 100, "loss": 0.2, "accuracy": 0.9}]
    >>> ax = pyrnn.plots.learning_curve(history)  # doctest: +SKIP
    """
    series = _series(history)
    require_matplotlib()
    ax = axes_or_new(ax, (6, 4))
    drawn = []
    for name, color in LINES.items():
        if name in series:
            drawn += ax.plot(*series[name], color=color, linewidth=1.5, label=name.replace("_", " "))
    losses = np.concatenate([line.get_ydata() for line in drawn])
    finite = losses[np.isfinite(losses)]
    if finite.size and finite.min() > 0 and finite.max() > 10 * finite.min():
        ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    if "accuracy" in series:
        right = ax.twinx()
        drawn += right.plot(*series["accuracy"], color=GREEN, linewidth=1.5, label="accuracy")
        right.set_ylabel("accuracy")
        right.set_ylim(min(0.0, np.fmin.reduce(series["accuracy"][1], initial=0)), 1.02)
        right.spines["top"].set_visible(False)
    if len(drawn) > 1:
        above = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": len(drawn), "borderaxespad": 0}
        ax.legend(handles=drawn, frameon=False, fontsize="small", **above)
    return ax


def _series(history: Sequence[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values by name, of the names that some row has."""
    if not isinstance(history, Sequence) or not all(isinstance(row, Mapping) for row in history):
        raise TypeError(f"history must be a sequence of dicts, got {history!r:.200}")
    for k, row in enumerate(history):
        if row.get("step") is None:
            raise ValueError(f'history must have "step" in every row, got {sorted(map(str, row))} in row {k}')
    series = {}
    for name in (*LINES, "accuracy"):
        pairs = [(row["step"], row[name]) for row in history if row.get(name) is not None]
        if pairs:
            steps, values = _checks.as_real_arrays(step=[a for a, _ in pairs], **{name: [b for _, b in pairs]})
            _checks.check_shape(name, values, (len(pairs),))
            series[name] = steps.astype(np.float64), values.astype(np.float64)
    if "loss" not in series:
        raise ValueError(f'history must have "loss" in one row or more, got {len(history)} rows without it')
    return series
