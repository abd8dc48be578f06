"""The picture of a gradient flow. Matplotlib is imported here only when it is needed, and without pyplot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrnn.dynamics.flow import GradientFlow
from pyrnn.plots.drawing import COLORS, GREY, check_destination, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrnn._types import Path


def plot_gradient_flow(flow: GradientFlow, path: Path) -> None:
    """Draw the norms of `gradient_flow` over time, one line for each layer and direction.

    Parameters
    ----------
    flow : GradientFlow
        From `gradient_flow`. Of a batch, the thick line is the mean of the logarithms, thin ones are sequences.
    path : path-like
        Where to; overwritten. The suffix names the format.

    Raises
    ------
    TypeError
        If flow is no GradientFlow.
    pyrnn.plots.PlotError
        Without matplotlib, or if the file cannot be written.

    Returns
    -------
    None

    See Also
    --------
    gradient_flow : computes what is drawn.

    Notes
    -----
    Straight lines mean exponential decay or growth, by as much at every step. Zeros have no place on a logarithmic
    axis and are left out.

    Examples
    --------
    >>> import pyrnn, numpy as np
    >>> flow = pyrnn.dynamics.gradient_flow(pyrnn.initialize(1, 8, rng=0), np.ones((50, 1)))
    >>> pyrnn.plots.plot_gradient_flow(flow, "flow.png")  # doctest: +SKIP
    """
    if not isinstance(flow, GradientFlow):
        raise TypeError(f"flow must be a pyrnn.dynamics.GradientFlow, got {type(flow).__name__}")
    require_matplotlib()
    from matplotlib.figure import Figure

    check_destination(path)
    panels = [(flow.log_jacobian_norms, rf"$\partial h_{{last}}/\partial h_t$, {flow.norm} norm")]
    if flow.log_gradient_norms is not None:
        panels.insert(0, (flow.log_gradient_norms, r"gradient of the loss at $h_t$"))
    figure = Figure(figsize=(5 * len(panels), 3.4), layout="constrained")
    for axes, (logs, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, logs / np.log(10), title)
    figure.savefig(path, dpi=130)


def _draw(axes: Axes, logs: np.ndarray, title: str) -> None:
    """One panel: powers of ten over steps, [layers, T] or [layers, T, B]."""
    logs = np.where(np.isfinite(logs), logs, np.nan)
    for layer, values in enumerate(logs):
        color = COLORS[layer % len(COLORS)]
        values = values.reshape(len(values), -1)
        if values.shape[1] > 1:
            axes.plot(values, color=color, linewidth=0.5, alpha=0.35)
        axes.plot(values.mean(axis=1) if values.size else [], color=color, linewidth=2, label=f"row {layer}")
    axes.set_title(title, loc="left", color=GREY)
    axes.set_xlabel("step t")
    axes.set_ylabel(r"$\log_{10}$ of the norm")
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    if len(logs) > 1:
        axes.legend(frameon=False)
