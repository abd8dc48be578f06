"""The cell of a network: what a unit makes of its sum, and how it leaks. Nothing else knows phi, phi' and alpha."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn import _checks
from pyrnn._core.call import phi_in_place, slopes
from pyrnn.elementwise import sech2

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from pyrnn._types import Form, Nonlinearity, Shape

NONLINEARITIES = ("tanh", "relu", "identity", "softplus", "sigmoid", "retanh", "leaky_relu")  # as numbered in kernels.h
SATURATING = ("tanh", "softplus", "sigmoid", "retanh")  # phi' may come near 0
KINKED = ("relu", "retanh", "leaky_relu")  # phi' jumps at 0, where phi is 0
FORMS = ("rate", "current")
NEGATIVE_SLOPE = 0.01  # the default of PyTorch, under its name


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class Cell:
    """The form of a cell: h_t = phi(a_t), or a leaky one, with a_t = b + U x_t + W h_{t-1}.

    Parameters
    ----------
    nonlinearity : {"tanh", "relu", "identity", "softplus", "sigmoid", "retanh", "leaky_relu"}
        The function phi of each unit. ``softplus``: log(1 + exp(a)); ``sigmoid``: 1 / (1 + exp(-a)); ``retanh``:
        max(tanh(a), 0); ``leaky_relu``: a above 0, negative_slope a below.
    alpha : float or array_like of shape (H,), optional
        The leak, a step of time over the unit's time constant; None for a cell without leak. It is kept in float64 and
        rounded to the dtype of the arrays that it meets.
    form : {"rate", "current"}
        What leaks. ``rate``: h_t = (1 - alpha) h_{t-1} + alpha phi(b + U x_t + W h_{t-1}). ``current``: the states are
        pre-activations, h_t = (1 - alpha) h_{t-1} + alpha (b + U x_t + W phi(h_{t-1})). docs/cells.md says who uses
        which.
    negative_slope : float
        The slope of ``leaky_relu`` below 0, 0 or more, so that phi' can be told from the sign of the rate. The others
        have none.

    Raises
    ------
    ValueError
        If an option has no such value, alpha is not finite or has more than one axis, the form is ``current`` without
        alpha, or a negative_slope is below 0, not finite, or given with another nonlinearity than ``leaky_relu``.
    TypeError
        If alpha or negative_slope is not real.

    Notes
    -----
    Frozen: ``dataclasses.replace(cell, alpha=0.1)`` makes another one. Equal to a cell with equal values. Equations
    10.8 and 10.9 of [1]_; the book's alpha (10.9.2) multiplies the old state and is 1 - alpha here.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> cell = pyrnn.Cell("relu", alpha=0.5)
    >>> pyrnn.forward(np.ones((3, 1)), U=[[1.0]], W=[[0.0]], cell=cell).ravel()
    array([0.5  , 0.75 , 0.875])
    """

    nonlinearity: Nonlinearity = "tanh"
    alpha: Any = None  # given as any array_like, kept as a float or an array
    form: Form = "rate"
    negative_slope: float = NEGATIVE_SLOPE
    number: int = dataclasses.field(init=False, repr=False)  # of phi in the kernels
    current: bool = dataclasses.field(init=False, repr=False)  # whether the states are currents
    _leaks: dict[tuple[int, str], np.ndarray] = dataclasses.field(init=False, repr=False)  # what `leak` has made

    def __post_init__(self) -> None:
        for name, value, known in (
            ("nonlinearity", self.nonlinearity, NONLINEARITIES),
            ("form", self.form, FORMS),
        ):
            if not isinstance(value, str) or value not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        if self.alpha is None and self.form == "current":
            raise ValueError("alpha must be given with form 'current', got None")
        alpha = None if self.alpha is None else _checked(self.alpha)
        slope = self.negative_slope
        if isinstance(slope, bool) or not isinstance(slope, int | float | np.integer | np.floating):
            raise TypeError(f"negative_slope must be a real number, got {slope!r}")
        if not 0 <= slope < np.inf:
            raise ValueError(f"negative_slope must be finite and at least 0, got {slope!r}")
        if self.nonlinearity != "leaky_relu" and slope != NEGATIVE_SLOPE:
            raise ValueError(
                f"negative_slope must be left at {NEGATIVE_SLOPE} with nonlinearity {self.nonlinearity!r}, which has "
                f"none, got {slope!r}"
            )
        made: dict[str, Any] = {
            "alpha": alpha,
            "negative_slope": float(slope),
            "number": NONLINEARITIES.index(self.nonlinearity),
            "current": self.form == "current",
            "_leaks": {},
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cell):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:  # else the alpha of a copy could be written to
        return Cell, (self.nonlinearity, self.alpha, self.form, self.negative_slope)

    def __repr__(self) -> str:
        slope = f", negative_slope={self.negative_slope}" if self.nonlinearity == "leaky_relu" else ""
        return f"Cell(nonlinearity={self.nonlinearity!r}, alpha={self.alpha!r}, form={self.form!r}{slope})"

    def _key(self) -> tuple[str, float | bytes | None, str, float]:
        alpha = self.alpha.tobytes() if isinstance(self.alpha, np.ndarray) else self.alpha
        return self.nonlinearity, alpha, self.form, self.negative_slope

    # ---- The leak ----------------------------------------------------------------------------------------------------
    def leak(self, H: int, dtype: DTypeLike) -> np.ndarray | None:
        """alpha of each of H units, a contiguous read-only array of this dtype; None without a leak."""
        if self.alpha is None:
            return None
        key = H, np.dtype(dtype).char
        leak = self._leaks.get(key)
        if leak is None:
            self.check_units(H)
            leak = np.full(H, self.alpha, key[1])  # in native byte order
            leak.flags.writeable = False
            leak = self._leaks.setdefault(key, leak)  # compiled code keeps its address as long as the cell: one array
        return leak

    def check_units(self, H: int) -> None:
        """Raise an error if there is an alpha for each unit of another number of units."""
        if isinstance(self.alpha, np.ndarray) and self.alpha.shape != (H,):
            raise ValueError(f"alpha must be a number or have shape ({H},), got {self.alpha.shape}")

    def drive_sigma(self, sigma: ArrayLike) -> np.ndarray:
        """The standard deviation of the drive that is state noise sqrt(2 alpha) sigma xi: sqrt(2 / alpha) sigma."""
        alpha = np.asarray(1.0 if self.alpha is None else self.alpha)
        if not (alpha > 0).all():
            raise ValueError(f"alpha must be above 0 in a network with noise, got {self.alpha!r}")
        return np.sqrt(2 / alpha) * sigma

    def alpha_gradient(self, each: np.ndarray) -> np.ndarray | np.floating:
        """The gradient at alpha from that of each unit's: its sum where alpha is one number."""
        return each if isinstance(self.alpha, np.ndarray) else each.sum()

    # ---- phi and its derivatives -------------------------------------------------------------------------------------
    def phi(self, a: np.ndarray) -> np.ndarray:
        """phi of an array of any shape, as the kernels compute it."""
        rates = np.array(a, order="C")
        H = rates.shape[-1]
        phi_in_place(rates.reshape(rates.size // max(H, 1), H), self)
        return rates

    def slope(self, r: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """phi'(a), from r = phi(a), as the kernels compute it; out: where to write it, contiguous."""
        out = np.empty(r.shape, r.dtype) if out is None else out
        slopes(np.ascontiguousarray(r).reshape(-1), self, out.reshape(-1))
        return out

    def slope_at(self, a: np.ndarray) -> np.ndarray:
        """phi'(a); where phi saturates in float64, which has digits left: sech² is 0 only from |a| = 373 on."""
        if self.nonlinearity in SATURATING:
            a = a.astype(np.float64, copy=False)
        match self.nonlinearity:
            case "tanh":
                return np.asarray(sech2(a))
            case "retanh":
                return np.where(a <= 0, 0, sech2(a))
            case "softplus":
                return SIGMOID.phi(a)
            case "sigmoid":
                return np.asarray(self.phi(a) * self.phi(-a))
        return self.slope(a)  # phi(a) has the sign of a

    def bend(self, r: np.ndarray) -> np.ndarray | None:
        """phi''(a) over phi'(a), from r = phi(a); None for a phi that has no second derivative but 0."""
        match self.nonlinearity:
            case "tanh" | "retanh":
                return -2 * r
            case "sigmoid":
                return 1 - 2 * r
            case "softplus":
                return 1 - self.slope(r)
        return None


PLAIN, SIGMOID = Cell(), Cell("sigmoid")


def check(cell: object) -> None:
    """Raise an error unless this is a Cell."""
    if not isinstance(cell, Cell):
        raise TypeError(f"cell must be a pyrnn.Cell, got {cell!r}")


# ---- Rates ----------------------------------------------------------------------------------------------------------
def check_written_rates(
    cell: Cell,
    rates: np.ndarray | None,
    shape: Shape,
    dtype: np.dtype,
    inputs: Mapping[str, object],
    arrays: Collection[np.ndarray | None],
) -> None:
    """Check an array that forward writes to."""
    if rates is None:
        return
    if cell.alpha is None:
        raise ValueError("rates must be None without alpha, where the states are the rates, got an array")
    _checks.check_out(rates, shape, dtype, inputs, arrays, name="rates")


def check_read_rates(cell: Cell, rates: np.ndarray | None) -> None:
    """Check what the others read."""
    if cell.alpha is None and rates is not None:
        raise ValueError("rates must be None without alpha, where the states are the rates, got an array")
    if cell.alpha is not None and rates is None and not cell.current:
        raise ValueError("rates must be the array that forward wrote, with alpha and form 'rate', got None")


def _checked(alpha: ArrayLike) -> float | np.ndarray:
    """alpha as a number, or an array that nobody writes to."""
    (array,) = _checks.as_real_arrays(alpha=alpha)
    if array.ndim > 1:
        raise ValueError(f"alpha must be a number or have shape (H,), got {array.shape}")
    array = np.array(array, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"alpha must be finite, got {alpha!r}")
    if array.ndim == 0:
        return float(array)
    array.flags.writeable = False
    return array
