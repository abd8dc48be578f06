"""Fixed and slow points of a network: where its state stays, or nearly so, and how it moves around there."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from pyrnn import _checks
from pyrnn import network as networks
from pyrnn._progress import Progress
from pyrnn.dynamics import descent as _descent

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import AnyNetwork
    from pyrnn.cell import Cell
    from pyrnn.network import Network


def _divided(left: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """left / conj(shares), by real and imaginary parts: a complex number over 0 has NaN for the part that is 0."""
    size = abs(shares)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        phase = np.where(size == 0, 1, shares.real / size + 1j * (shares.imag / size))
        result = left * phase
        for part in (result.real, result.imag):
            part[...] = np.where(part == 0, 0, part / size)
    return result


class FixedPoints:
    """What `find_fixed_points` has found: k points, the fixed ones first, those that most starts led to before others.

    ``points[i]`` with a slice, a mask or an array of integers selects some: ``points[~points.slow]``. Jacobians and
    modes are computed when they are first read, in float64.

    Parameters
    ----------
    network : Network
        Whose step F is.
    h, x, q, slow, stuck, outlier, origin : ndarray
        As the attributes, h and x of float64.
    slopes : ndarray of float64, shape (k, H)
        phi' in the step F(h).

    Attributes
    ----------
    network : Network
        As given to `find_fixed_points`, without its output layer. Its dtype is that of h, x and jacobian.
    h : ndarray, shape (k, H)
        The points.
    x : ndarray, shape (k, I)
        The input at which each is one.
    q : ndarray of float64, shape (k,)
        ½|F(h) - h|², where F is a step of the network, before h was rounded to its dtype.
    speed : ndarray of float64, shape (k,)
        |F(h) - h|, how far a step goes.
    slow : ndarray of bool, shape (k,)
        Whether it is no fixed point: q has a minimum there that is above the tolerance, unless the point is `stuck`.
    stuck : ndarray of bool, shape (k,)
        Whether the search ended there, at a kink of phi or beside one, although q has no minimum. Such a point says
        nothing about the network. Always False for a phi without a kink.
    outlier : ndarray of bool, shape (k,)
        Whether it is far from all starts.
    origin : ndarray of int, shape (n,)
        For each start the index of the point that it led to; -1 where it led to none.
    counts : ndarray of int, shape (k,)
        How many starts led to each point.
    jacobian : ndarray, shape (k, H, H)
        ∂F(h)/∂h.
    eigenvalues : ndarray of complex128, shape (k, H)
        Of the Jacobian, by falling modulus. Modes with a modulus above 1 grow.
    right, left : ndarray of complex128, shape (k, H, H)
        Eigenvectors in columns, in that order: J r = λ r with |r| = 1, and lᴴ J = λ lᴴ with lᴴ r = 1, so that lᴴ v is
        the share of a mode in v. Where the Jacobian has too few eigenvectors, lᴴ r of those it has is 0 but for
        rounding, and the entries of l that are not 0 are huge or infinite. NaN where the Jacobian is not finite.
    unstable : ndarray of int, shape (k,)
        How many modes grow.
    stability : ndarray of str, shape (k,)
        ``stable`` if none grows, ``unstable`` if all do, else ``saddle``.
    """

    def __init__(
        self,
        network: Network,
        h: np.ndarray,
        x: np.ndarray,
        q: np.ndarray,
        slow: np.ndarray,
        stuck: np.ndarray,
        outlier: np.ndarray,
        origin: np.ndarray,
        slopes: np.ndarray,
    ) -> None:
        self.h, self.x = (a.astype(network.U.dtype, copy=False) for a in (h, x))
        self.q, self.slow, self.stuck, self.outlier, self.origin = q, slow, stuck, outlier, origin
        self.network, self._exact = network, (h, x, slopes)

    @property
    def speed(self) -> np.ndarray:
        speed: np.ndarray = np.sqrt(2 * self.q)
        return speed

    @property
    def counts(self) -> np.ndarray:
        return np.bincount(self.origin[self.origin >= 0], minlength=len(self))

    @functools.cached_property
    def _jacobians(self) -> np.ndarray:
        """In float64."""
        W = self.network.W.astype(np.float64, copy=False)
        with np.errstate(invalid="ignore", over="ignore"):
            return _descent.jacobians(W, self._exact[2], _rounded_cell(self.network))

    @functools.cached_property
    def jacobian(self) -> np.ndarray:
        return self._jacobians.astype(self.h.dtype, copy=False)

    @functools.cached_property
    def _modes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eigenvalues, right and left eigenvectors, sorted."""
        k, H = self.h.shape
        values = np.empty((k, H), complex)
        right, left = (np.empty((k, H, H), complex) for _ in range(2))
        for i, J in enumerate(self._jacobians if H else ()):
            if not np.isfinite(J).all():  # an infinite weight behind a saturated unit
                values[i] = right[i] = left[i] = np.nan
                continue
            w, l, r = scipy.linalg.eig(J, left=True, right=True)
            order = np.lexsort((-w.imag, -abs(w)))
            values[i], left[i], right[i] = w[order], l[:, order], r[:, order]
        with np.errstate(invalid="ignore"):
            shares = np.einsum("kij,kij->kj", left.conj(), right)[:, np.newaxis]  # lᴴ r
        return values, right, _divided(left, shares)

    @property
    def eigenvalues(self) -> np.ndarray:
        return self._modes[0]

    @property
    def right(self) -> np.ndarray:
        return self._modes[1]

    @property
    def left(self) -> np.ndarray:
        return self._modes[2]

    @property
    def unstable(self) -> np.ndarray:
        growing: np.ndarray = (abs(self.eigenvalues) > 1).sum(axis=1)
        return growing

    @property
    def stability(self) -> np.ndarray:
        growing, H = self.unstable, self.h.shape[1]
        return np.where(growing == 0, "stable", np.where(growing == H, "unstable", "saddle"))

    def __len__(self) -> int:
        return len(self.q)

    def __getitem__(self, index: slice | np.ndarray) -> FixedPoints:
        kept = np.arange(len(self))[index]
        if kept.ndim != 1:
            raise TypeError(f"points are selected by a slice, a mask or an array of integers, got {index!r}")
        place = np.full(len(self) + 1, -1)
        place[kept] = np.arange(len(kept))
        h, x, slopes = (a[kept] for a in self._exact)
        q, slow, stuck, outlier = (a[kept] for a in (self.q, self.slow, self.stuck, self.outlier))
        selected = FixedPoints(self.network, h, x, q, slow, stuck, outlier, place[self.origin], slopes)
        if "_modes" in self.__dict__:
            selected.__dict__["_modes"] = tuple(a[kept] for a in self._modes)
        return selected

    def __repr__(self) -> str:
        slow, stuck, H = int(self.slow.sum()), int(self.stuck.sum()), self.h.shape[1]
        led = int((self.origin >= 0).sum())
        kinds = f"{len(self) - slow} fixed, {slow - stuck} slow" + (f", {stuck} stuck" if stuck else "")
        return f"FixedPoints({kinds}; H = {H}; {led} of {len(self.origin)} starts)"


def find_fixed_points(
    network: AnyNetwork,
    x: ArrayLike | None = None,
    *,
    starts: ArrayLike,
    tolerance: float = 1e-24,
    max_iterations: int = 200,
    unique_tolerance: float = 1e-4,
    outlier_distance: float = 10.0,
    between: bool = True,
    max_speed: float | None = None,
) -> FixedPoints:
    """Fixed and slow points of a network at a constant input, from many starts at once.

    Parameters
    ----------
    network : Network or RNN of one layer
        In any form of the cell; in the ``current`` form points are currents. The output layer plays no part.
    x : array_like, shape (I,) or (n, I), optional
        The input, the same for all starts or one for each; None for zeros.
    starts : array_like, shape (n, H)
        States to begin with. Mostly states that the network has visited, with noise added.
    tolerance : float
        A point is fixed if q = ½|F(h) - h|² is at most this, where F is a step of the network.
    max_iterations : int
        How many steps of Newton's method a start may take; a start that needs more leads to no point.
    unique_tolerance : float
        Points closer to each other than this are one.
    outlier_distance : float
        A point is marked as an outlier if it is more than this many times as far from the starts' mean as they are,
        root mean square. Without a spread of starts, none is.
    between : bool
        Whether to continue from half-way between points that were found, where saddles are, and from the starts' mean:
        at most a quarter as many states as there are starts, or 32. Without relu, where b + U x is zero, also from the
        mirror images -h, which are points too. Points that only these led to have a count of 0.
    max_speed : float, optional
        Return only points with a speed |F(h) - h| of at most this, in units of h a step; None for all. Starts that led
        to others lead to no point.

    Returns
    -------
    FixedPoints
        The points, with their Jacobians, modes, stability, and which starts led to them.

    Raises
    ------
    ValueError
        If shapes do not fit, the network has R, or an option has no such value.
    TypeError
        If the network is none, an argument is complex, long double, text, an object or masked, or an option is no
        number.

    See Also
    --------
    plot_fixed_points : a picture of the result.
    jacobian : along a trajectory.

    Notes
    -----
    Sussillo and Barak [1]_ minimise q: where it falls to zero the state stays, where it has a minimum above zero the
    state lingers, and the linear system around either explains what the network computes. FixedPointFinder [2]_ does
    so with Adam; here each start follows Newton's method within a trust region, with the exact second derivative of q
    and conjugate gradients (Steihaug [3]_), which ends in minima of q alone and converges quadratically there. All
    starts share each product with W. A start from which one step of Newton's method, with the second derivative at a
    point that is known, goes at least half the way to it is not followed further: docs/fixed-points.md. Nothing finds
    all points for certain: a further start may lead to another one (see [4]_ for a method that follows curves).

    **Kinks.** With relu, leaky_relu and retanh phi' jumps where u_i = 0; u = b + U x + W h in the rate form, u = h in
    the current form. Between kinks F of relu and leaky_relu is linear, F(h) - h = J (h - h*). There q = ½|J (h - h*)|²
    has no minimum but h*, a fixed point, unless J is singular. So their slow points are at kinks. Let g be ∇q with
    phi'(0-) for the units K that are at their kinks, A_i = ∂u_i/∂h and k_i = (phi'(0+) - phi'(0-)) ∂q/∂phi_i. Along d

        q'(h; d) = g · d + Σ_K k_i max(A_i · d, 0)

    which is negative for no d exactly if there are λ_i with g + Σ_K λ_i A_i = 0 and 0 <= λ_i <= k_i: zero is in
    Clarke's generalised gradient [5]_, and q turns upwards at each kink. (The A_i must be linearly independent. With
    retanh, ∇²q must have no negative eigenvalue orthogonal to all A_i.) Newton's method alone stops at the first kink
    where q rises on the other side, although q may fall along the kink. From there an active-set method goes on, along
    kinks and across them, until the condition holds or no kink is in the way. So a slow point at a kink is a minimum of
    q. Where the method ends without one, the point is `stuck`.

    All is computed in float64, whatever the arguments. A leak changes no fixed point, only q and the Jacobian; units
    with alpha 0 keep what they start with. Starts that are not finite lead to no point.

    References
    ----------
    .. [1] D. Sussillo, O. Barak, "Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
       networks", Neural Computation 25 (2013) 626-649.
    .. [2] M. D. Golub, D. Sussillo, "FixedPointFinder: a Tensorflow toolbox for identifying and characterizing fixed
       points in recurrent neural networks", Journal of Open Source Software 3 (2018) 1003.
    .. [3] T. Steihaug, "The conjugate gradient method and trust regions in large scale optimization", SIAM J. Numer.
       Anal. 20 (1983) 626-637.
    .. [4] G. E. Katz, J. A. Reggia, "Using directional fibers to locate fixed points of recurrent neural networks",
       IEEE Trans. Neural Netw. Learn. Syst. 29 (2018) 3636-3646.
    .. [5] F. H. Clarke, "Optimization and nonsmooth analysis", Wiley, 1983.

    Examples
    --------
    Two units that excite themselves, each with the states of h = tanh(2 h): two stable ones and zero.

    >>> import numpy as np, pyrnn
    >>> starts = np.random.default_rng(0).uniform(-1, 1, (100, 2))
    >>> network = pyrnn.Network(np.zeros((2, 1)), 2 * np.eye(2))
    >>> points = pyrnn.dynamics.find_fixed_points(network, starts=starts)
    >>> points
    FixedPoints(9 fixed, 0 slow; H = 2; 100 of 100 starts)
    >>> np.unique(points.h.round(4) + 0.0)
    array([-0.9575,  0.    ,  0.9575])
    >>> sorted(points.stability.tolist())  # doctest: +NORMALIZE_WHITESPACE
    ['saddle', 'saddle', 'saddle', 'saddle', 'stable', 'stable', 'stable', 'stable', 'unstable']
    """
    max_iterations = _checks.positive_integer("max_iterations", max_iterations)
    _checks.check_flag("between", between)
    options = {"tolerance": tolerance, "unique_tolerance": unique_tolerance, "outlier_distance": outlier_distance}
    for name, value in (options if max_speed is None else options | {"max_speed": max_speed}).items():
        if not _checks.is_finite_number(value) or value < 0:
            raise ValueError(f"{name} must be a finite number from 0, got {value!r}")
    hidden = networks.as_network(network)._replace(V=None, c=None)
    hidden, x_, first = networks.conform(hidden, "x", x=x, starts=starts)
    networks.check_shapes(hidden)
    inputs, group = _checked_inputs(hidden, x_, first)
    b, cell = hidden.b, _rounded_cell(hidden)
    U, W, first, inputs = (np.ascontiguousarray(a, np.float64) for a in (hidden.U, hidden.W, first, inputs))
    del options["outlier_distance"]
    origin = np.full(len(first), -1)
    found: list[tuple[np.ndarray, ...]] = []
    with np.errstate(all="ignore"), Progress() as progress:
        c = inputs @ U.T + (0 if b is None else b)
        for i in range(len(inputs)):
            descent = _descent.Descent(W, c[i], cell, first[group == i], max_iterations=max_iterations, **options)
            descent.run(progress)
            if between and descent.points:
                descent.look_between(progress)
            descent.polish()
            number = sum([len(q) for _, _, q, *_ in found])  # of points at other inputs
            ends = descent.origin[: len(descent.starts)]
            origin[group == i] = np.where(ends < 0, -1, ends + number)
            found.append(_points_of(descent, inputs[i], outlier_distance))
    h, at, q, slow, stuck, outlier, slopes = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    points = FixedPoints(hidden, h, at, q, slow, stuck, outlier, origin, slopes)
    points = points[np.lexsort((-points.counts, stuck, slow))]
    return points if max_speed is None else points[points.speed <= max_speed]


def _rounded_cell(network: Network) -> Cell:
    """The cell with alpha as the arrays round it: it stays the same where they become float64."""
    return dataclasses.replace(network.cell, alpha=network.cell.leak(len(network.U), network.U.dtype))


def _checked_inputs(network: Network, x: np.ndarray | None, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inputs [m, I], each once, and for each start which one it has; checks the shapes of x and starts."""
    U = network.U
    H, I = U.shape
    _checks.check_columns("starts", "n", starts, H, "U", U)
    n = len(starts)
    if x is None:
        x = np.zeros(I)
    if x.shape not in ((I,), (n, I)):
        _checks.shape_error("x", f"({I},) or ({n}, {I})", x, "U", U, "starts", starts)
    if x.ndim == 2 and x.size:
        inputs, group = np.unique(x, axis=0, return_inverse=True)
        return inputs, group.reshape(-1)
    return x[np.newaxis] if x.ndim == 1 else np.zeros((1, I)), np.zeros(n, int)


def _points_of(descent: _descent.Descent, x: np.ndarray, outlier_distance: float) -> tuple[np.ndarray, ...]:
    """h, x, q, slow, stuck, outlier and slopes of what was found at one input."""
    h, starts = descent.h[descent.points], descent.starts[np.isfinite(descent.starts).all(axis=1)]
    outlier = np.zeros(len(h), bool)
    if len(h):
        center = starts.mean(axis=0)
        spread = np.sqrt(((starts - center) ** 2).sum(axis=1).mean())
        outlier = (np.linalg.norm(h - center, axis=1) > outlier_distance * spread) & (spread > 0)
    at = np.broadcast_to(x, (len(h), len(x)))
    q, slopes = descent.q[descent.points], descent.slopes[descent.points]
    return h, at, q, np.array(descent.slow, bool), np.array(descent.stuck, bool), outlier, slopes
