"""The named tuples that the functions of this package return."""

from typing import NamedTuple

import numpy as np

from pyrnn.parameters import Parameters


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
    """Gradients of a loss with respect to the parameters, the input and the initial state.

    The first five fields are those of `pyrnn.Parameters`, so ``Parameters(*grads[:5]).ravel()`` is the gradient for
    an optimiser; `parameters` does that. ``b``, ``V`` and ``c`` are None where the parameter was, ``x`` where it was
    not asked for.
    """

    U: np.ndarray
    W: np.ndarray
    b: np.ndarray | None
    V: np.ndarray | None
    c: np.ndarray | None
    x: np.ndarray | None
    h0: np.ndarray

    @property
    def parameters(self):
        """The gradients of the parameters alone, as a `pyrnn.Parameters`."""
        return Parameters(*self[:5])


class SampleGradients(NamedTuple):
    """Gradients of each sequence of a batch, the first axis, or their norms, as `pyrnn.per_sample_gradients` finds."""

    U: np.ndarray
    W: np.ndarray
    b: np.ndarray


class RegularizerGradients(NamedTuple):
    """Gradients of Omega of `pyrnn.vanishing_regularizer` with respect to the states and W, with grad_h constant."""

    h: np.ndarray
    W: np.ndarray


class GradientErrors(NamedTuple):
    """Worst relative error by parameter, as `pyrnn.check_gradients` finds it; None where the parameter is None."""

    U: float
    W: float
    b: float | None
    V: float | None
    c: float | None
    x: float
    h0: float
