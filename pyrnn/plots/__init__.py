"""Pictures, with matplotlib."""

from pyrnn.plots.drawing import PlotError
from pyrnn.plots.fixed_points import plot_fixed_points
from pyrnn.plots.flow import plot_gradient_flow

__all__ = [
    "PlotError",
    "plot_fixed_points",
    "plot_gradient_flow",
]
