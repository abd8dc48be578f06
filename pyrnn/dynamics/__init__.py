"""What a network does over many steps: products of Jacobians, singular values, gradients, exponents, fixed points."""

from pyrnn._results import ScaledProduct
from pyrnn.dynamics.chains import jacobian_product, preactivations, pull, push
from pyrnn.dynamics.fixed_points import FixedPoints, find_fixed_points
from pyrnn.dynamics.flow import GradientFlow, gradient_flow
from pyrnn.dynamics.lyapunov import LyapunovSpectrum, lyapunov_spectrum
from pyrnn.dynamics.singular_values import log_singular_values

__all__ = [
    "FixedPoints",
    "GradientFlow",
    "LyapunovSpectrum",
    "ScaledProduct",
    "find_fixed_points",
    "gradient_flow",
    "jacobian_product",
    "log_singular_values",
    "lyapunov_spectrum",
    "preactivations",
    "pull",
    "push",
]
