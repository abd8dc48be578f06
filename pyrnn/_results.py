"""The named tuples that the functions of this package return."""

from typing import NamedTuple

import numpy as np

from pyrnn.network import Network


class Gradients(NamedTuple):
    """Gradients of a loss with respect to the inputs of `pyrnn.forward`, each shaped like its input.

    ``x`` is None where it was not requested; ``drive`` and ``alpha`` are None unless the call had the argument.
    """

    x: np.ndarray | None
    U: np.ndarray
    W: np.ndarray
    b: np.ndarray
    h0: np.ndarray
    drive: np.ndarray | None = None
    alpha: np.ndarray | float | None = None


class OutputGradients(NamedTuple):
    """Gradients of a loss with respect to the inputs of `pyrnn.output`; ``h`` is the ``dh`` of `pyrnn.backward`."""

    h: np.ndarray
    V: np.ndarray
    c: np.ndarray


class LossGradients(NamedTuple):
    """Gradients of a loss with respect to the arrays of a network, the input, the initial state, and alpha.

    ``b``, ``V`` and ``c`` are None where the network has none, ``x`` where it was not requested, ``alpha`` of a cell
    without a leak; it is one number where alpha is.
    """

    U: np.ndarray
    W: np.ndarray
    b: np.ndarray | None
    V: np.ndarray | None
    c: np.ndarray | None
    x: np.ndarray | None
    h0: np.ndarray
    alpha: np.ndarray | float | None = None

    @property
    def parameters(self) -> Network:
        """Those of the arrays of the network alone, as a `pyrnn.Network`: ``ravel`` it for an optimiser."""
        return Network(*self[:5])


class SampleGradients(NamedTuple):
    """Gradients of each sequence of a batch, the first axis, or their norms: of `training.per_sample_gradients`."""

    U: np.ndarray
    W: np.ndarray
    b: np.ndarray


class RegularizerGradients(NamedTuple):
    """Gradients of Omega of `pyrnn.training.vanishing_regularizer`, with grad_h constant.

    ``rates`` is None but for a cell with a leak in the ``rate`` form, whose slopes depend on its rates.
    """

    h: np.ndarray
    W: np.ndarray
    rates: np.ndarray | None = None


class GradientErrors(NamedTuple):
    """Worst relative error by argument, as `pyrnn.check_gradients` finds it; None where there is no such argument."""

    U: float
    W: float
    b: float | None
    V: float | None
    c: float | None
    x: float
    h0: float
    alpha: float | None

    @property
    def worst(self) -> float:
        """The largest of them."""
        return max(error for error in self if error is not None)


class ScaledProduct(NamedTuple):
    """A matrix, or vectors, too large or too small for their dtype: the value is ``mantissa * exp(log_scale)``.

    The largest number of a mantissa, or of each vector, lies in [1, 2), or is 0; ``exp(log_scale)`` is a power of two.
    """

    mantissa: np.ndarray
    log_scale: np.ndarray | np.float64
