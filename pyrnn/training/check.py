"""Gradients against central differences: what every student of the subject has to write once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from pyrnn import _checks
from pyrnn import network as networks
from pyrnn._results import GradientErrors
from pyrnn.losses import Criterion
from pyrnn.training.gradients import each_array, loss_and_gradients
from pyrnn.trajectory import simulate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import AnyNetwork, Loss, Seed


@overload
def check_gradients(
    network: AnyNetwork,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    loss: Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    step: float = 1e-5,
    max_entries: int | None = 200,
    rng: Seed = 0,
) -> GradientErrors: ...
@overload
def check_gradients(
    network: Callable[..., tuple[Any, Any]],
    x: tuple[ArrayLike | None, ...] | list[ArrayLike | None],
    targets: None = None,
    *,
    step: float = 1e-5,
    max_entries: int | None = 200,
    rng: Seed = 0,
) -> tuple[float | None, ...]: ...
@overload
def check_gradients(
    network: Callable[..., tuple[Any, Any]],
    x: np.ndarray,
    targets: None = None,
    *,
    step: float = 1e-5,
    max_entries: int | None = 200,
    rng: Seed = 0,
) -> float: ...
def check_gradients(
    network: AnyNetwork | Callable[..., tuple[Any, Any]],
    x: ArrayLike | Sequence[ArrayLike | None],
    targets: ArrayLike | None = None,
    *,
    loss: Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    step: float = 1e-5,
    max_entries: int | None = 200,
    rng: Seed = 0,
) -> GradientErrors | tuple[float | None, ...] | float:
    """Compare gradients with central differences: those of `loss_and_gradients`, or of a function of yours.

    ``check_gradients(network, x, targets)`` checks the gradients of a network, ``check_gradients(function, arrays)``
    those that a function returns. Everything is computed in float64, whatever comes in.

    Parameters
    ----------
    network : Network, RNN of one layer, or callable
        A network, or a function that takes arrays and returns ``(loss, gradients)``: a number, and for each array a
        gradient of its shape, or None for one that is not to be checked.
    x : array_like, or tuple or list of these
        The input of the network, as in `loss_and_gradients`. Of a function the arrays at which it is checked: a tuple
        or list of them, for ``function(*arrays)``, or one array, for ``function(array)``, whose gradient then is one
        array too. None in a tuple is passed on as it is.
    targets, loss, h0, weights
        Of the network, as in `loss_and_gradients`. None of them with a function.
    step : float
        ε of (L(θ + ε) - L(θ - ε)) / 2ε. The error of the difference is of the order ε² L''' + 1e-16 L/ε, so that
        about 1e-5 is best.
    max_entries : int or None
        The most entries of each array that are varied, a random choice if there are more; None for all.
    rng : int, numpy.random.Generator or None
        For that choice.

    Returns
    -------
    errors : GradientErrors, tuple of float, or float
        The worst error of each array: |gradient - difference| relative to the largest of either among the entries
        compared (0 where all are 0). About 1e-9 is right; 1e-2 is a mistake. Of a network for each of U, W, b, V, c, x,
        h0 and alpha, None where there is no such array; ``errors.worst`` is the largest. Of a function for each of its
        arrays, None where the array or its gradient is None, or a float for one array.

    Raises
    ------
    ValueError, TypeError
        As in `loss_and_gradients`; if step or max_entries is not positive; if what a function returns does not fit its
        arrays.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.initialize(2, 3, 2, cell=pyrnn.Cell(alpha=0.2), rng=0)
    >>> x, targets = np.ones((5, 2)), np.array([0, 1, 0, 1, 0])
    >>> pyrnn.check_gradients(network, x, targets).worst < 1e-7
    True

    A loss of your own, with a regulariser on the rates:

    >>> def loss(W, b):
    ...     run = pyrnn.simulate(network._replace(W=W, b=b), x)
    ...     gradients = run.backward(None, run.rates)
    ...     return 0.5 * (run.rates**2).sum(), (gradients.W, gradients.b)
    >>> max(pyrnn.check_gradients(loss, (network.W, network.b))) < 1e-7
    True
    """
    if not (_checks.is_finite_number(step) and step > 0):
        raise ValueError(f"step must be a positive number, got {step!r}")
    if max_entries is not None and not (
        isinstance(max_entries, int | np.integer) and not isinstance(max_entries, bool) and max_entries >= 1
    ):
        raise ValueError(f"max_entries must be a positive integer or None, got {max_entries!r}")
    options = (step, max_entries, np.random.default_rng(rng))
    if callable(network) and not hasattr(type(network), "network"):  # an RNN is callable too
        for name, a in (("targets", targets), ("h0", h0), ("weights", weights)):
            if a is not None:
                raise ValueError(f"{name} must be None with a function, which has its own, got a value")
        return _check_function(network, x, *options)
    given, x_, h0_ = networks.conform(cast("AnyNetwork", network), "h0", x=cast("ArrayLike", x), h0=h0)
    cell, given, (x_, h0_) = given.cell, each_array(_copy, given), _checks.map_given(_copy, x_, h0_)
    _, gradients = loss_and_gradients(given, x_, cast("ArrayLike", targets), loss=loss, h0=h0_, weights=weights)
    h0_ = np.zeros(gradients.h0.shape) if h0_ is None else h0_
    alpha = None if cell.alpha is None else np.array(cell.alpha)
    criterion = Criterion(loss, targets, weights)

    def value() -> np.float64:
        moved = given if alpha is None else given._replace(cell=dataclasses.replace(cell, alpha=alpha))
        return criterion(simulate(moved, x_, h0_).output())[0]

    return GradientErrors(*_errors(value, (*given[:5], x_, h0_, alpha), gradients, *options))


def _check_function(
    function: Callable[..., tuple[Any, Any]],
    given: Any,
    step: float,
    max_entries: int | None,
    rng: np.random.Generator,
) -> tuple[float | None, ...] | float:
    several = isinstance(given, tuple | list)
    named = {f"arrays[{i}]": a for i, a in enumerate(given)} if several else {"array": given}
    arrays = [None if a is None else _copy(*_checks.as_real_arrays(**{name: a})) for name, a in named.items()]
    returned = function(*arrays)
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise TypeError(f"function must return (loss, gradients), got {type(returned).__name__}")
    gradients = list(returned[1]) if several else [returned[1]]
    if len(gradients) != len(arrays):
        raise ValueError(f"function must return a gradient for each of {len(arrays)} arrays, got {len(gradients)}")
    for i, (a, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        if a is not None and gradient is not None:
            gradients[i] = _copy(*_checks.as_real_arrays(gradient=gradient))  # a later call may overwrite its own
            _checks.check_shape(f"gradient of {list(named)[i]}", gradients[i], a.shape)
    errors = _errors(lambda: np.float64(function(*arrays)[0]), arrays, gradients, step, max_entries, rng)
    return tuple(errors) if several else errors[0]


def _copy(a: np.ndarray) -> np.ndarray:
    return np.array(a, np.float64, order="C")


def _errors(
    value: Callable[[], np.float64],
    arrays: Sequence[np.ndarray | None],
    gradients: Sequence[Any],
    step: float,
    max_entries: int | None,
    rng: np.random.Generator,
) -> list[Any]:
    """The worst error of each array, which the value depends on; None without an array or a gradient."""
    errors: list[Any] = []
    for array, gradient in zip(arrays, gradients, strict=True):
        if array is None or gradient is None:
            errors.append(None)
            continue
        entries = np.arange(array.size)
        if max_entries is not None and array.size > max_entries:
            entries = rng.choice(array.size, max_entries, replace=False)
        difference = np.array([_central_difference(value, array, int(i), step) for i in entries])
        exact = np.ravel(gradient)[entries]
        scale = max(np.abs(exact).max(initial=0), np.abs(difference).max(initial=0))
        errors.append(float(np.abs(exact - difference).max(initial=0) / (scale or 1)))
    return errors


def _central_difference(value: Callable[[], np.float64], array: np.ndarray, i: int, step: float) -> np.float64:
    """The difference for entry i of the array, which is changed for the moment and put back."""
    at = np.unravel_index(i, array.shape)
    kept = array[at]
    array[at] = kept + step
    above, high = value(), array[at]
    array[at] = kept - step
    below, low = value(), array[at]
    array[at] = kept
    difference: np.float64 = (above - below) / (high - low)
    return difference
