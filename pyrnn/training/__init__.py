"""Losses and gradients of whole networks, and what training does with them."""

from pyrnn._results import GradientErrors, LossGradients, RegularizerGradients, SampleGradients
from pyrnn.layers.constraints import Constraint
from pyrnn.losses import binary_cross_entropy, huber, poisson
from pyrnn.training import schedules as schedules
from pyrnn.training.check import check_gradients
from pyrnn.training.clipping import clip_gradients, gradient_norm
from pyrnn.training.connectivity import balanced, scale_spectral_radius, spectral_radius
from pyrnn.training.feedback import (
    FeedbackGradients,
    Samples,
    ScheduledGradients,
    free_running,
    free_running_output,
    sample,
    scheduled_sampling,
    teacher_forcing,
)
from pyrnn.training.fitting import EarlyStopping, FitState, fit
from pyrnn.training.gradients import loss_and_gradients
from pyrnn.training.history import History
from pyrnn.training.minimizers import lbfgs
from pyrnn.training.objective import Objective
from pyrnn.training.optimizers import SGD, Adam, AdamW, RMSprop
from pyrnn.training.penalties import L1, L2, RateChange, RatesL1, RatesL2, Vanishing
from pyrnn.training.per_sample import per_sample_gradients
from pyrnn.training.population import Member, Population, fit_population
from pyrnn.training.regularizer import vanishing_regularizer
from pyrnn.training.run_files import CheckpointError
from pyrnn.training.stochastic import noise
from pyrnn.training.tangent_kernel import output_jacobian
from pyrnn.training.truncated import TruncatedGradients, truncated_gradients, truncated_updates

__all__ = [
    "L1",
    "L2",
    "SGD",
    "Adam",
    "AdamW",
    "CheckpointError",
    "Constraint",
    "EarlyStopping",
    "FeedbackGradients",
    "FitState",
    "GradientErrors",
    "History",
    "LossGradients",
    "Member",
    "Objective",
    "Population",
    "RMSprop",
    "RateChange",
    "RatesL1",
    "RatesL2",
    "RegularizerGradients",
    "SampleGradients",
    "Samples",
    "ScheduledGradients",
    "TruncatedGradients",
    "Vanishing",
    "balanced",
    "binary_cross_entropy",
    "check_gradients",
    "clip_gradients",
    "fit",
    "fit_population",
    "free_running",
    "free_running_output",
    "gradient_norm",
    "huber",
    "lbfgs",
    "loss_and_gradients",
    "noise",
    "output_jacobian",
    "per_sample_gradients",
    "poisson",
    "sample",
    "scale_spectral_radius",
    "scheduled_sampling",
    "spectral_radius",
    "teacher_forcing",
    "truncated_gradients",
    "truncated_updates",
    "vanishing_regularizer",
]
