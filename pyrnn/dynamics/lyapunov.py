"""Lyapunov exponents of a network: how fast neighbouring states move apart, in each direction, in the long run."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from pyrnn import _checks
from pyrnn import network as networks
from pyrnn._core import lyapunov as compiled
from pyrnn._progress import Progress
from pyrnn.network import Network
from pyrnn.trajectory import simulate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from pyrnn._types import AnyNetwork, MaybeArray, Seed

CHUNK = 512  # steps whose states are there at once
MOST_BLOCKS = 100
SATURATED = 1 - 1e-6  # from here on 1 - h² has lost so many digits that the slope is taken at the pre-activation
REST = 0.25  # the share of vectors that go through inverses: those that shrink most, and drift apart most
LEAST_SLOPE = 1e-6  # with two parts: steps that shrink more show the rounding errors of the space that each part spans
WIDE = 20  # the log of a condition number of vectors that leaves half of the digits
MOST_LOSS = 1e-6  # nats a step by which exponents may be wrong without a warning
LARGEST_CONDITION = 1e6  # of W whose inverse keeps enough digits


class LyapunovSpectrum(NamedTuple):
    """What `lyapunov_spectrum` returns; with a batch axis B in front where x had one.

    ``exponents`` and ``standard_errors`` (k,), ``finite_time`` (blocks, k), ``dimension``, ``entropy_rate``,
    ``log_volume`` and ``qr_every``.
    """

    exponents: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    finite_time: NDArray[np.float64]
    dimension: NDArray[np.float64] | float
    entropy_rate: NDArray[np.float64] | float
    log_volume: NDArray[np.float64] | float
    qr_every: NDArray[np.float64] | float


def lyapunov_spectrum(
    network: AnyNetwork,
    x: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    steps: int | None = None,
    k: int | None = None,
    warmup: int | None = None,
    qr_every: int | Literal["auto"] = "auto",
    rng: Seed = 0,
) -> LyapunovSpectrum:
    """The Lyapunov exponents of a network, the largest first: the logs of what volumes of states grow by in a step.

    Parameters
    ----------
    network : Network or RNN of one layer
        In any form of the cell; the output layer plays no part.
    x : array_like, shape (T, B, I) or (T, I), optional
        Input, time first. Each sequence of a batch has a spectrum of its own.
    h0 : array_like, shape (B, H) or (H,), optional
        The state before the first step; None for a random one, near zero, from `rng`.
    steps : int, optional
        T of a network without input; give this or x.
    k : int, optional
        How many exponents, the largest ones, from 0 to H; None for all H.
    warmup : int, optional
        How many of the T steps, the first ones, do not count. They bring the state to the attractor, and tangent
        vectors to their directions. None for a tenth of T.
    qr_every : int or "auto"
        Steps between orthonormalisations. ``auto`` chooses as many as keep the condition number of the tangent vectors
        below 1e7, from their growth so far. The result does not depend on the choice, apart from rounding, as long as
        the condition number stays below 1e16. Above it the smallest exponents are wrong by any amount.
    rng : int, numpy.random.Generator or None
        Draws the first tangent vectors, and h0.

    Returns
    -------
    LyapunovSpectrum
        Named tuple ``(exponents, standard_errors, finite_time, dimension, entropy_rate, log_volume, qr_every)``.

        - ``exponents`` (k,): per step, natural logarithms. -inf for directions that a step loses altogether.
        - ``standard_errors`` (k,): of these, from the spread of finite_time. They are reliable where blocks are longer
          than the network remembers; NaN for less than two blocks.
        - ``finite_time`` (blocks, k): exponents of blocks of about √T steps, at most 100 blocks.
        - ``dimension``: Kaplan and Yorke's; k if the sum of all k exponents is positive.
        - ``entropy_rate``: the sum of the positive exponents, nats per step. It bounds the entropy rate of the
          dynamics, and is equal to it by Pesin's identity where their measure is smooth.
        - ``log_volume``: the mean of log |det J_t|, to which all H exponents must sum up. NaN without steps, and with a
          leak, where it would take a determinant for each step.
        - ``qr_every``: the mean number of steps between orthonormalisations.

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit, the network has R, an argument has no such value, or x and steps are both given or both
        missing.

    Warns
    -----
    RuntimeWarning
        If `qr_every` is a number so large that exponents are wrong by more than 1e-6 nats a step. The warning says by
        how much.

    See Also
    --------
    jacobian_product, log_singular_values : the same for given numbers of steps.
    find_fixed_points : where the exponents are the logs of |eigenvalues|.

    Notes
    -----
    Benettin's method [1]_ with J_t = diag(phi'(a_t)) W, or that of another form of the cell, which is never formed: k
    tangent vectors go through Q ← diag(phi') W Q, and what they have grown by is read from the triangular factor that
    makes them orthonormal again.
    det J_t = Π phi'(a_t) det W, so that the sum of all exponents is ``mean(sum(log(phi'))) + log(abs(det(W)))``:
    compare ``exponents.sum()`` with ``log_volume``. [2]_ is about the spectra of chaotic networks.

    For all H exponents of a cell without a leak, with W that has an inverse, the last quarter of the vectors goes
    through (J_t⁻¹)ᵀ = diag(1 / phi') (W⁻¹)ᵀ, as all vectors do that are orthogonal to the others. The logs of what they
    grow by there are the last exponents, with the other sign.

    Everything is computed in float64, whatever the dtype of the arguments. Slopes of saturated units are taken at their
    pre-activations. Memory does not grow with T. Time grows as T k H², for k = H as T H³.

    References
    ----------
    .. [1] G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, "Lyapunov characteristic exponents for smooth
       dynamical systems and for Hamiltonian systems; a method for computing all of them", Meccanica 15 (1980) 9-30.
    .. [2] R. Engelken, F. Wolf, L. F. Abbott, "Lyapunov spectra of chaotic recurrent neural networks", Physical Review
       Research 5 (2023) 043044.

    Examples
    --------
    At a fixed point, here zero, exponents are the logarithms of the eigenvalues' moduli:

    >>> import numpy as np, pyrnn
    >>> network = pyrnn.Network(np.zeros((2, 1)), np.array([[0.5, 1.0], [0.0, 0.25]]))
    >>> spectrum = pyrnn.dynamics.lyapunov_spectrum(network, h0=np.zeros(2), steps=1000)
    >>> np.exp(spectrum.exponents).round(6)
    array([0.5 , 0.25])

    A chaotic network, with one direction in which states move apart:

    >>> network = pyrnn.initialize(1, 50, scheme="gaussian", gain=1.5, rng=0)
    >>> spectrum = pyrnn.dynamics.lyapunov_spectrum(network, steps=2000)
    >>> bool(spectrum.exponents[0] > 3 * spectrum.standard_errors[0]), round(float(spectrum.dimension), 1)
    (True, 3.6)
    >>> bool(np.isclose(spectrum.exponents.sum(), spectrum.log_volume))
    True
    """
    hidden = networks.as_network(network)._replace(V=None, c=None)
    hidden, inputs, first = networks.conform(hidden, "x", "h0", x=x, h0=h0)
    networks.check_shapes(hidden)
    inputs, batched = _checked_input(hidden, inputs, steps, first)
    (T, B), H = inputs.shape[:2], len(hidden.U)
    k = H if k is None else _checks.integer_within("k", k, 0, H)
    warmup = T // 10 if warmup is None else _checked_warmup(warmup, T)
    if not (isinstance(qr_every, str) and qr_every == "auto"):
        qr_every = _checks.positive_integer("qr_every", qr_every)
    rng = np.random.default_rng(rng)
    U, W, b = _checks.map_given(lambda a: np.ascontiguousarray(a, np.float64), *hidden[:3])
    cell = dataclasses.replace(hidden.cell, alpha=hidden.cell.leak(H, hidden.U.dtype))  # rounded as in the network
    hidden = Network(U, W, b, cell=cell)
    first = 0.1 * rng.standard_normal((B, H)) if first is None else np.broadcast_to(first, (B, H)).astype(np.float64)
    with np.errstate(all="ignore"), Progress() as progress:
        found = [
            _spectrum(hidden, inputs[:, i : i + 1], first[i : i + 1], k, warmup, qr_every, rng, progress)
            for i in range(B)
        ]
    each = [spectrum for spectrum, _ in found]
    _warn_of_loss(qr_every, [tangents for _, tangents in found])
    if not batched:
        return each[0]
    shapes = [(k,), (k,), (len(_blocks(warmup, T)) - 1, k), (), (), (), ()]
    columns = (np.array([spectrum[i] for spectrum in each]).reshape(B, *shape) for i, shape in enumerate(shapes))
    return LyapunovSpectrum(*columns)


def _warn_of_loss(qr_every: int | str, tangents: Iterable[Tangents]) -> None:
    """Warn if vectors have drifted so far apart between orthonormalisations that exponents are wrong."""
    worst = max(tangents, key=lambda t: t.loss, default=None)
    if worst is not None and worst.loss > MOST_LOSS:
        digits = f"1e{worst.spread / math.log(10):.0f}" if math.isfinite(worst.spread) else "infinity"
        warnings.warn(
            f"qr_every={qr_every} is too long: tangent vectors reached a condition number of {digits}, where float64 "
            f"has 16 digits, and exponents are wrong by about {worst.loss:.1g} nats a step; 'auto' would have taken "
            f"{worst.enough:.1f} steps in the mean",
            RuntimeWarning,
            stacklevel=3,
        )


def _checked_input(
    network: Network, x: np.ndarray | None, steps: int | None, h0: np.ndarray | None
) -> tuple[np.ndarray, bool]:
    """x [T, B, I] as float64, and whether it had a batch axis; checks it, and h0."""
    if (x is None) == (steps is None):
        raise ValueError("either x or steps must be given, got " + ("neither" if x is None else "both"))
    if x is None:
        I = network.U.shape[1]
        x = np.broadcast_to(np.zeros(I), (_checks.integer_within("steps", steps, 0), I))  # no memory
    networks.check_input(network, x, h0)
    return (x, True) if x.ndim == 3 else (x[:, np.newaxis], False)


def _checked_warmup(warmup: int, T: int) -> int:
    try:
        return _checks.integer_within("warmup", warmup, 0, T)
    except ValueError as error:
        raise ValueError(f"{error}: it counts within the {T} steps, of which the rest makes the exponents") from None


# ---- One sequence ---------------------------------------------------------------------------------------------------
def _blocks(warmup: int, T: int) -> np.ndarray:
    """Where blocks of the steps that count begin, and T."""
    n = min(math.isqrt(T - warmup), MOST_BLOCKS)
    return np.linspace(warmup, T, n + 1).round().astype(int)


def _spectrum(
    network: Network,
    x: np.ndarray,
    h: np.ndarray,
    k: int,
    warmup: int,
    qr_every: int | Literal["auto"],
    rng: np.random.Generator,
    progress: Progress,
) -> tuple[LyapunovSpectrum, Tangents]:
    """The spectrum of one sequence x [T, 1, I] from h [1, H]."""
    Q = np.ascontiguousarray(np.linalg.qr(rng.standard_normal((len(network.W), k)))[0].T)
    tangents, times = Tangents(network, Q, qr_every), 0.0
    starts = _blocks(warmup, len(x))
    totals, volume = np.zeros((len(starts), k)), 0.0  # the first total is of the warmup
    for block, (start, stop) in enumerate(zip([0, *starts[:-1]], starts, strict=True)):
        for first in range(start, stop, CHUNK):
            progress.show(f"step {first} of {len(x)}")
            last = min(first + CHUNK, stop)
            h, seen, slopes, log_slopes = _steps(network, x[first:last], h)
            n = tangents.advance(seen, slopes, totals[block])
            if block:
                times, volume = times + n, volume + log_slopes
    return _summary(totals[1:], np.diff(starts), volume, times, network), tangents


def _steps(
    network: Network, x: np.ndarray, h: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, float]:
    """h after these steps; the states that phi' is computed from, or phi' itself; and Σ log phi', NaN with a leak."""
    U, W, b, *_, cell = network
    run = simulate(network, x, h)
    states, r = run.h[:, 0], run.rates[:, 0]
    before = np.concatenate([h, states[:-1]])
    h = states[-1:].copy()
    if cell.current:
        return h, None, cell.slope_at(before), np.nan
    saturated = cell.nonlinearity in ("tanh", "sigmoid", "retanh") and (np.abs(r) > SATURATED).any()
    slopes = cell.slope_at(before @ W.T + x[:, 0] @ U.T + (0 if b is None else b)) if saturated else cell.slope(r)
    if cell.alpha is not None:
        return h, None, slopes, np.nan
    logs = np.log(slopes).sum()
    known = saturated or cell.nonlinearity == "softplus"  # whose slope takes an exponential, not one for each vector
    return (h, None, slopes, logs) if known else (h, states, None, logs)


def _summary(
    totals: np.ndarray, lengths: np.ndarray, volume: float, times: float, network: Network
) -> LyapunovSpectrum:
    n, (blocks, k) = lengths.sum(), totals.shape
    exponents = totals.sum(axis=0) / n if n else np.full(k, np.nan)
    order = np.argsort(-exponents, kind="stable")
    exponents, finite_time = exponents[order], totals[:, order] / lengths[:, np.newaxis]
    if blocks > 1:
        errors = finite_time.std(axis=0, ddof=1) / np.sqrt(blocks)
    else:
        errors = np.full(k, np.nan)
    log_volume = volume / n + np.linalg.slogdet(network.W)[1] if n and network.cell.alpha is None else np.nan
    return LyapunovSpectrum(
        exponents,
        errors,
        finite_time,
        kaplan_yorke(exponents),
        float(exponents[exponents > 0].sum()) if n else np.nan,
        float(log_volume),
        n / times if times else np.nan,
    )


class Tangents:
    """k orthonormal vectors along a trajectory.

    If k is H, they go in two parts. The vectors of the second part are orthogonal to those of the first, and go through
    the inverse of each Jacobian, transposed: J Q = Q' R is J⁻ᵀ Q = Q' R⁻ᵀ, where R⁻ᵀ is triangular from the other side,
    and has 1 / R_ii on its diagonal. So the last vector comes first there. Each part takes less time to be made
    orthonormal, and its vectors drift apart less, so that it need not be done as often.

    Parameters
    ----------
    network : Network
        Of contiguous float64 arrays.
    Q : ndarray of float64, contiguous, shape (k, H)
        The vectors as rows; overwritten.
    qr_every : int or "auto"
        As of `lyapunov_spectrum`; two parts only with "auto".

    Attributes
    ----------
    spread : float
        The log of the largest condition number that vectors have had after several steps.
    loss, enough : float
        Of a given interval that is too long: by how much exponents are wrong, nats a step, and the interval that
        "auto" would have taken, both measured where the spread was largest. Else 0.
    """

    def __init__(self, network: Network, Q: np.ndarray, qr_every: int | Literal["auto"]) -> None:
        W, self._cell = network.W, network.cell
        leak = self._cell.leak(len(W), np.float64)
        self._W = W if leak is None else leak[:, np.newaxis] * W
        self._keep = None if leak is None else 1 - leak
        self._Q, self._first = Q, len(Q) - int(len(Q) * REST)
        self._automatic = qr_every == "auto"
        self._intervals = [1, 1] if qr_every == "auto" else [qr_every]
        self.spread = self.loss = self.enough = 0.0
        self._inverse = None
        if self._automatic and self._first < len(Q) == len(W) and leak is None:
            self._inverse = _transposed_inverse(W)

    def advance(self, h: MaybeArray, slopes: MaybeArray, total: np.ndarray) -> float:
        """Through the steps of states h [n, H], or of these slopes; total [k] += logs of what each vector has grown by.

        Returns how often the vectors were made orthonormal, in the mean.
        """
        k, first, at = len(self._Q), self._first, slopes
        if k == 0:
            return 0
        if not self._automatic:
            return self._forced(h, slopes, total)
        if self._inverse is not None and slopes is None:
            at = self._cell.slope(h)
        if self._inverse is None or not at.size or not at.min() >= LEAST_SLOPE:
            return self._run(0, self._W, h, slopes, self._Q, total)
        times = self._run(0, self._W, h, slopes, self._Q[:first], total[:first])
        rest, logs = self._Q[: first - 1 : -1].copy(), np.zeros(k - first)
        times_of_rest = self._run(1, self._inverse, None, 1 / at, rest, logs)
        self._Q[first:] = rest[::-1]
        total[first:] -= logs[::-1]
        return (first * times + (k - first) * times_of_rest) / k

    def _forced(self, h: MaybeArray, slopes: MaybeArray, total: np.ndarray) -> int:
        """`advance` with the given interval; measures the error where vectors drift too far apart."""
        before, known, logs = self._Q.copy(), self.spread, np.zeros(len(self._Q))
        times = self._run(0, self._W, h, slopes, self._Q, logs)
        total += logs
        if self.spread > max(known, WIDE):
            exact, n = np.zeros_like(logs), len(slopes if h is None else h)
            self.enough = n / compiled.vectors(self._W, self._cell, h, slopes, self._keep, before, 1, True, exact)[0]
            self.loss = max(self.loss, np.where(logs == exact, 0, abs(logs - exact)).max() / n)
        return times

    def _run(
        self,
        which: int,
        W: np.ndarray,
        h: np.ndarray | None,
        slopes: np.ndarray | None,
        Q: np.ndarray,
        total: np.ndarray,
    ) -> int:
        times, self._intervals[which], spread = compiled.vectors(
            W, self._cell, h, slopes, self._keep, Q, self._intervals[which], self._automatic, total
        )
        self.spread = max(self.spread, spread)
        return times


def _transposed_inverse(W: np.ndarray) -> np.ndarray | None:
    """W⁻ᵀ, contiguous, or None if W is too ill-conditioned for it."""
    try:
        inverse = np.linalg.inv(W)
    except np.linalg.LinAlgError:
        return None
    condition = np.linalg.norm(W, 1) * np.linalg.norm(inverse, 1)
    return np.ascontiguousarray(inverse.T) if condition <= LARGEST_CONDITION else None


def kaplan_yorke(exponents: np.ndarray) -> float:
    """The dimension of exponents in falling order: how many add up to zero, the last one in part."""
    sums = np.cumsum(exponents)
    if np.isnan(sums).any():
        return np.nan
    j = int(np.count_nonzero(np.logical_and.accumulate(sums >= 0)))
    if j == len(sums):
        return float(j)
    return float(j + (sums[j - 1] if j else 0.0) / abs(exponents[j]))
