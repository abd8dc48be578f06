"""Minimisation of a smooth function of one vector by L-BFGS, without BLAS."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrnn import _checks
from pyrnn._core.optimizers import Pairs, inner, non_negative

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from scipy.optimize import OptimizeResult

DECREASE, CURVATURE = 1e-3, 0.9  # of the strong Wolfe conditions: those of L-BFGS-B
MOST_TRIALS = 20  # of one line search


def lbfgs(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: tuple[Any, ...] = (),
    *,
    jac: Callable[..., ArrayLike] | bool = True,
    callback: Callable[..., object] | None = None,
    maxiter: int = 15000,
    maxcor: int = 10,
    ftol: float = 2.220446049250313e-09,
    gtol: float = 1e-5,
    **others: object,
) -> OptimizeResult:
    """Minimise a smooth function of one vector, without bounds, by L-BFGS with a strong Wolfe line search.

    It takes the place of SciPy's ``method="L-BFGS-B"`` where there are no bounds: call it, or give it to SciPy, with
    the same options, as ``scipy.optimize.minimize(fun, x0, jac=True, method=pyrnn.training.lbfgs)``.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)`` returns the value and, with ``jac=True``, also the gradient at x, of float64.
    x0 : array_like, shape (n,)
        Where to begin.
    args : tuple
        What else `fun` and `jac` are called with.
    jac : callable or True
        ``jac(x, *args)`` returns the gradient; True if `fun` returns it beside the value.
    callback : callable, optional
        Called after each iteration, with a copy of x, or with ``intermediate_result=``, an OptimizeResult with x and
        fun, if it has a parameter of that name. If it raises StopIteration, the search ends.
    maxiter : int
        The most iterations.
    maxcor : int
        How many of the last steps approximate the Hessian.
    ftol : float
        End when an iteration lowers the value by no more than ftol max(\\|f_k\\|, \\|f_k+1\\|, 1).
    gtol : float
        End when no entry of the gradient is larger.
    **others
        What SciPy passes to every method: None, or empty, for what this one does not have, such as bounds.

    Returns
    -------
    scipy.optimize.OptimizeResult
        With x, fun, jac, nit, nfev, njev, status, message and success. status is 0 where ftol or gtol ended it, 1 after
        maxiter iterations, 2 where no step along the line lowers the value, 99 where the callback stopped it.

    Raises
    ------
    ValueError
        If x0 is not a vector, a gradient has another shape, or bounds, constraints or unknown options are given.
    TypeError
        If fun, jac, callback or an option is not what it should be.

    See Also
    --------
    Objective : the loss of a network as such a function.

    Notes
    -----
    The two-loop recursion [1]_, section 7.2, and the line search of its section 3.5. L-BFGS-B solves a small triangular
    system at each iteration, by LAPACK's dtrtrs. OpenBLAS wakes its threads for each, of whatever size, and waits for
    them: on a busy machine this takes a thousand times as long as the system does (docs/training.md). Here all work
    with vectors is sums of products and multiples, on the thread of the caller. The same arguments give the same bits,
    on any instruction set, if `fun` does.

    References
    ----------
    .. [1] J. Nocedal, S. J. Wright, "Numerical Optimization", 2nd edition, Springer, 2006.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> x, start = np.sin(np.arange(30.0))[:, None], pyrnn.initialize(1, 3, 1, rng=0)
    >>> objective = pyrnn.training.Objective(start, x[:-1], x[1:], loss="squared_error")
    >>> found = pyrnn.training.lbfgs(objective.fun, objective.first, jac=objective.jac, maxiter=50)
    >>> bool(found.fun < 0.01 * objective.fun(objective.first))
    True
    """
    from scipy.optimize import OptimizeResult  # takes 50 ms to import

    function = _Function(fun, args, jac, callback, others)
    options = _Options(
        _checks.integer_within("maxiter", maxiter, 0),
        _checks.positive_integer("maxcor", maxcor),
        non_negative("ftol", ftol),
        non_negative("gtol", gtol),
    )
    (x,) = _checks.as_real_arrays(x0=x0)
    if x is None or x.ndim != 1:
        raise ValueError(f"x0 must have shape (n,), got {np.shape(x0)}")
    end, iterations, status, message = _minimise(function, np.array(x, np.float64), options)
    return OptimizeResult(
        x=end.x,
        fun=end.value,
        jac=end.gradient,
        nit=iterations,
        nfev=function.calls,
        njev=function.calls,
        status=status,
        message=message,
        success=status == 0,
    )


class _Options(NamedTuple):
    maxiter: int
    maxcor: int
    ftol: float
    gtol: float


class _Point(NamedTuple):
    """A point, the value and the gradient there; of a line search also how far along it lies, and the slope."""

    x: np.ndarray
    value: float
    gradient: np.ndarray
    at: float = 0.0
    slope: float = 0.0


class _Function:
    """A user's function of x, its gradient and callback, checked and counted."""

    def __init__(self, fun: Any, args: Any, jac: Any, callback: Any, others: dict[str, object]) -> None:
        if not callable(fun):
            raise TypeError(f"fun must be callable, got {fun!r}")
        if jac is not True and not callable(jac):
            raise TypeError(f"jac must be callable, or True if fun returns the gradient too, got {jac!r}")
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable or None, got {callback!r}")
        for name, value in others.items():
            if name not in ("bounds", "constraints", "hess", "hessp") or not (value is None or value == ()):
                raise ValueError(f"lbfgs does not take {name}, got {value!r}")
        self.fun, self.jac, self.callback = fun, jac, callback
        self.args = args if isinstance(args, tuple) else (args,)
        self.calls = 0

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        self.calls += 1
        if self.jac is True:
            value, gradient = self.fun(x.copy(), *self.args)
        else:
            value, gradient = self.fun(x.copy(), *self.args), self.jac(x.copy(), *self.args)
        gradient = np.array(gradient, np.float64, order="C")
        _checks.check_shape("the gradient", gradient, x.shape)
        return float(value), gradient

    def report(self, point: _Point) -> bool:
        """Call the callback; whether the search goes on."""
        if self.callback is None:
            return True
        try:
            if "intermediate_result" in inspect.signature(self.callback).parameters:
                from scipy.optimize import OptimizeResult

                self.callback(intermediate_result=OptimizeResult(x=point.x.copy(), fun=point.value))
            else:
                self.callback(point.x.copy())
        except StopIteration:
            return False
        return True


def _minimise(function: _Function, x: np.ndarray, options: _Options) -> tuple[_Point, int, int, str]:
    """The last point, the number of iterations, the status and what it means."""
    point = _Point(x, *function(x))
    pairs = Pairs(options.maxcor, len(x))
    for iteration in range(options.maxiter + 1):
        if not math.isfinite(point.value):
            return point, iteration, 2, f"the value at x0 is {point.value}"
        if np.abs(point.gradient).max(initial=0.0) <= options.gtol:
            return point, iteration, 0, "no entry of the gradient is larger than gtol"
        if iteration == options.maxiter:
            break
        reached = _search(function, point, pairs.direction(point.gradient), first=len(pairs) == 0)
        if reached is None and len(pairs) > 0:  # what is known of the Hessian may mislead: down the gradient
            pairs.clear()
            reached = _search(function, point, -point.gradient, first=True)
        if reached is None:
            return point, iteration, 2, "no step along the line lowers the value"
        pairs.add(reached.x - point.x, reached.gradient - point.gradient)
        fall, size = point.value - reached.value, max(abs(point.value), abs(reached.value), 1.0)
        point = reached
        if not function.report(point):
            return point, iteration + 1, 99, "the callback raised StopIteration"
        if fall <= options.ftol * size:
            return point, iteration + 1, 0, "the value fell by no more than ftol"
    return point, options.maxiter, 1, "maxiter iterations were made"


def _search(function: _Function, start: _Point, direction: np.ndarray, *, first: bool) -> _Point | None:
    """A point along the direction where the strong Wolfe conditions hold; None if there is none to be found.

    scipy.optimize.line_search has such a one, but reports its failures, which are common near the minimum, by warnings.
    """
    slope = inner(start.gradient, direction)
    if not slope < 0:
        return None
    low = start._replace(at=0.0, slope=slope)

    def try_at(at: float) -> _Point:
        x = start.x + at * direction
        value, gradient = function(x)
        along = inner(gradient, direction)
        return _Point(x, value if math.isfinite(along) else math.inf, gradient, at, along)

    def falls(point: _Point) -> bool:
        return point.value <= start.value + DECREASE * point.at * slope

    at = min(1.0, 1 / math.sqrt(inner(direction, direction))) if first else 1.0
    high: _Point | None = None  # until it is known, steps grow; then the interval from low to high shrinks
    for _ in range(MOST_TRIALS):
        point = try_at(at)
        if not falls(point) or point.value >= low.value:
            high = point
        elif abs(point.slope) <= -CURVATURE * slope:
            return point
        elif high is None and point.slope < 0:
            ahead = _minimum_of_cubic(low, point)
            low, at = point, min(max(ahead, 2 * at), 10 * at) if math.isfinite(ahead) and ahead > at else 4 * at
            continue
        else:
            if high is None or point.slope * (high.at - low.at) >= 0:
                high = low
            low = point
        width = high.at - low.at
        at = _minimum_of_cubic(low, high)
        if not (0.1 <= (at - low.at) / width <= 0.9 if width else False):
            at = low.at + (0.1 if math.isfinite(at) and (at - low.at) / width < 0.1 else 0.5) * width
        if abs(width) <= 1e-14 * max(abs(low.at), abs(high.at)):
            break
    return low if low.at > 0 and low.value < start.value else None


def _minimum_of_cubic(a: _Point, b: _Point) -> float:
    """Where the cubic through two values and slopes is least, in steps; NaN where it is not, or a value is infinite."""
    if not (math.isfinite(a.value) and math.isfinite(b.value) and a.at != b.at):
        return math.nan
    width = b.at - a.at
    d1 = a.slope + b.slope - 3 * (b.value - a.value) / width
    square = d1 * d1 - a.slope * b.slope
    if not 0 <= square < math.inf:
        return math.nan
    d2 = math.copysign(math.sqrt(square), width)
    below = b.slope - a.slope + 2 * d2
    return b.at - width * (b.slope + d2 - d1) / below if below != 0 else math.nan
