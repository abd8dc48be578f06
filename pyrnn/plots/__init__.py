"""Pictures, with matplotlib."""

from pyrnn.plots.drawing import PlotError
from pyrnn.plots.fixed_points import plot_fixed_points
from pyrnn.plots.flow import plot_gradient_flow
from pyrnn.plots.history import learning_curve
from pyrnn.plots.matrices import eigenvalues, weights
from pyrnn.plots.states import trajectories
from pyrnn.plots.trials import psychometric, trial

__all__ = [
    "PlotError",
    "eigenvalues",
    "learning_curve",
    "plot_fixed_points",
    "plot_gradient_flow",
    "psychometric",
    "trajectories",
    "trial",
    "weights",
]
