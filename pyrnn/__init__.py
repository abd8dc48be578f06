"""pyrnn: exact backpropagation through time for recurrent networks, on CPUs, as NumPy function calls.

h_t = tanh(U x_t + W h_{t-1} + b), its gradients and its Jacobians; see `forward` and `backward` first.
"""

import importlib.util

if importlib.util.find_spec("pyrnn._bptt") is None:
    raise ImportError(
        f"pyrnn has no compiled modules in {__path__[0]}: this is the source folder, found before the installed "
        "package because it lies in the current folder. Run `python -P -m ...`, or from another folder, or install "
        "in place with `python -m pip install -e .`"
    )

__version__ = "0.1.0"

from pyrnn._learner import OnlineGradients
from pyrnn._results import (
    GradientErrors,
    Gradients,
    LossGradients,
    OutputGradients,
    RegularizerGradients,
    SampleGradients,
)
from pyrnn.clipping import clip_gradients, gradient_norm
from pyrnn.config import show_config
from pyrnn.connectivity import balanced, scale_spectral_radius, spectral_radius
from pyrnn.constraints import Constraint
from pyrnn.curvature import Objective, ggn_vp, hvp
from pyrnn.derivatives import backward_jvp, jvp, vjp
from pyrnn.elementwise import sech2, tanh
from pyrnn.feedback import (
    FeedbackGradients,
    FeedbackParameters,
    Samples,
    ScheduledGradients,
    free_running,
    free_running_output,
    initialize_feedback,
    sample,
    scheduled_sampling,
    teacher_forcing,
)
from pyrnn.fixed_points import FixedPoints, find_fixed_points
from pyrnn.fixed_points_plot import plot_fixed_points
from pyrnn.flow_plotting import plot_gradient_flow
from pyrnn.functional import backward, forward, jacobian, state_gradients
from pyrnn.gradient_check import check_gradients
from pyrnn.gradient_flow import GradientFlow, gradient_flow
from pyrnn.jacobian_products import (
    ScaledProduct,
    jacobian_product,
    jacobian_vector_product,
    preactivations,
    vector_jacobian_product,
)
from pyrnn.losses import softmax_cross_entropy, squared_error
from pyrnn.lyapunov import LyapunovSpectrum, lyapunov_spectrum
from pyrnn.online import RFLO, UORO, SnAp1
from pyrnn.output import output, output_gradients
from pyrnn.output_jacobian import output_jacobian
from pyrnn.parameters import Parameters, initialize
from pyrnn.per_sample import per_sample_gradients
from pyrnn.profiling import profile
from pyrnn.regularizer import vanishing_regularizer
from pyrnn.rnn import RNN, RNNGradients
from pyrnn.rtrl import RTRL, BlockedRTRL
from pyrnn.singular_values import log_singular_values
from pyrnn.stepper import Stepper
from pyrnn.training import loss_and_gradients
from pyrnn.truncated import TruncatedGradients, truncated_gradients, truncated_updates

__all__ = [
    "RFLO",
    "RNN",
    "RTRL",
    "UORO",
    "BlockedRTRL",
    "Constraint",
    "FeedbackGradients",
    "FeedbackParameters",
    "FixedPoints",
    "GradientErrors",
    "GradientFlow",
    "Gradients",
    "LossGradients",
    "LyapunovSpectrum",
    "Objective",
    "OnlineGradients",
    "OutputGradients",
    "Parameters",
    "RNNGradients",
    "RegularizerGradients",
    "SampleGradients",
    "Samples",
    "ScaledProduct",
    "ScheduledGradients",
    "SnAp1",
    "Stepper",
    "TruncatedGradients",
    "backward",
    "backward_jvp",
    "balanced",
    "check_gradients",
    "clip_gradients",
    "find_fixed_points",
    "forward",
    "free_running",
    "free_running_output",
    "ggn_vp",
    "gradient_flow",
    "gradient_norm",
    "hvp",
    "initialize",
    "initialize_feedback",
    "jacobian",
    "jacobian_product",
    "jacobian_vector_product",
    "jvp",
    "log_singular_values",
    "loss_and_gradients",
    "lyapunov_spectrum",
    "output",
    "output_gradients",
    "output_jacobian",
    "per_sample_gradients",
    "plot_fixed_points",
    "plot_gradient_flow",
    "preactivations",
    "profile",
    "sample",
    "scale_spectral_radius",
    "scheduled_sampling",
    "sech2",
    "show_config",
    "softmax_cross_entropy",
    "spectral_radius",
    "squared_error",
    "state_gradients",
    "tanh",
    "teacher_forcing",
    "truncated_gradients",
    "truncated_updates",
    "vanishing_regularizer",
    "vector_jacobian_product",
    "vjp",
]
