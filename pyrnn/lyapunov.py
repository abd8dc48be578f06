"""Lyapunov exponents of a network: how fast neighbouring states move apart, in each direction, in the long run."""

import math
import warnings
from typing import NamedTuple

import numpy as np

from pyrnn import _cell, _checks, _lyapunov
from pyrnn._network import as_parameters
from pyrnn._progress import Progress
from pyrnn._slopes import slopes_at
from pyrnn.elementwise import sech2
from pyrnn.functional import forward

CHUNK = 512  # steps whose states are there at once
MOST_BLOCKS = 100
SATURATED = 1 - 1e-6  # a state from which 1 - h² lacks so many digits that the slope is taken at the pre-activation
REST = 0.25  # of all vectors, which go through inverses: those that shrink most, and drift apart most
LEAST_SLOPE = 1e-6  # of a unit in two parts: steps that shrink more show the rounding errors of what each spans
WIDE = 20  # the log of a condition number of vectors that leaves half of the digits
MOST_LOSS = 1e-6  # nats a step by which exponents may be wrong without a warning
LARGEST_CONDITION = 1e6  # of W whose inverse keeps enough digits


class LyapunovSpectrum(NamedTuple):
    """What `lyapunov_spectrum` returns; with a batch axis B in front where x had one.

    ``exponents`` and ``standard_errors`` (k,), ``finite_time`` (blocks, k), ``dimension``, ``entropy_rate``,
    ``log_volume`` and ``qr_every``.
    """

    exponents: np.ndarray
    standard_errors: np.ndarray
    finite_time: np.ndarray
    dimension: np.ndarray | float
    entropy_rate: np.ndarray | float
    log_volume: np.ndarray | float
    qr_every: np.ndarray | float


def lyapunov_spectrum(
    params,
    x=None,
    h0=None,
    *,
    steps=None,
    k=None,
    warmup=None,
    qr_every="auto",
    nonlinearity="tanh",
    alpha=None,
    form="rate",
    rng=0,
):
    """The Lyapunov exponents of a network, the largest first: the logs of what volumes of states grow by in a step.

    Parameters
    ----------
    params : Parameters
        Or any ``(U, W, b, V, c)``; the output layer plays no part.
    x : array_like, shape (T, B, I) or (T, I), optional
        Input, time first. Each sequence of a batch has a spectrum of its own.
    h0 : array_like, shape (B, H) or (H,), optional
        The state before the first step; None for a random one, near zero, from `rng`.
    steps : int, optional
        T of a network without input; give this or x.
    k : int, optional
        How many exponents, the largest ones, from 0 to H; None for all H.
    warmup : int, optional
        How many of the T steps, the first ones, do not count: until states are on the attractor, and tangent vectors in
        their directions. None for a tenth of T.
    qr_every : int or "auto"
        Steps between orthonormalisations. ``auto`` makes it as long as the condition number of the tangent vectors
        stays below 1e7, from what they have grown by. The result does not depend on it but for rounding, as long as
        the condition number stays below 1e16; above, the smallest exponents are wrong by any amount.
    nonlinearity, alpha, form
        As given to `forward`.
    rng : int, numpy.random.Generator or None
        Draws the first tangent vectors, and h0.

    Returns
    -------
    LyapunovSpectrum
        Named tuple ``(exponents, standard_errors, finite_time, dimension, entropy_rate, log_volume, qr_every)``.

        - ``exponents`` (k,): per step, natural logarithms. -inf for directions that a step loses altogether.
        - ``standard_errors`` (k,): of these, from the spread of finite_time; honest where blocks are longer than the
          network remembers, NaN for less than two blocks.
        - ``finite_time`` (blocks, k): exponents of blocks of about √T steps, at most 100 blocks.
        - ``dimension``: Kaplan and Yorke's; k if the sum of all k exponents is positive.
        - ``entropy_rate``: the sum of the positive exponents, nats per step, which bounds that of the dynamics, and is
          equal to it by Pesin's identity where their measure is smooth.
        - ``log_volume``: the mean of log |det J_t|, to which all H exponents must sum up; NaN with a leak, or in the
          ``current`` form, where it takes a determinant for each step, and without steps.
        - ``qr_every``: the steps between orthonormalisations, in the mean.

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit, an argument has no such value, or x and steps are both given or both missing.

    Warns
    -----
    RuntimeWarning
        If a `qr_every` that was given is so long that exponents are wrong by more than 1e-6 nats a step, with the
        figure.

    See Also
    --------
    jacobian_product, log_singular_values : the same for given numbers of steps.
    find_fixed_points : where the exponents are the logs of |eigenvalues|.

    Notes
    -----
    Benettin's method [1]_ with J_t = diag(phi'(a_t)) W, which is never formed: k tangent vectors go through
    Q ← diag(phi') W Q, and what they have grown by is read from the triangular factor that makes them orthonormal
    again.
    det J_t = Π phi'(a_t) det W, so that the sum of all exponents is ``mean(sum(log(phi'))) + log(abs(det(W)))``:
    compare ``exponents.sum()`` with ``log_volume``. [2]_ is about the spectra of chaotic networks.

    Where all H exponents are asked for, of a cell without a leak and with W that has an inverse, the last quarter of
    the vectors goes through (J_t⁻¹)ᵀ = diag(1 / phi') (W⁻¹)ᵀ, as what is orthogonal to the others does. The logs of
    what they grow by there are the last exponents, with the other sign.

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
    >>> W = np.array([[0.5, 1.0], [0.0, 0.25]])
    >>> spectrum = pyrnn.lyapunov_spectrum((np.zeros((2, 1)), W), h0=np.zeros(2), steps=1000)
    >>> np.exp(spectrum.exponents).round(6)
    array([0.5 , 0.25])

    A chaotic network, with one direction in which states move apart:

    >>> params = pyrnn.initialize(1, 50, scheme="gaussian", gain=1.5, rng=0)
    >>> spectrum = pyrnn.lyapunov_spectrum(params, steps=2000)
    >>> bool(spectrum.exponents[0] > 3 * spectrum.standard_errors[0]), round(float(spectrum.dimension), 1)
    (True, 3.6)
    >>> bool(np.isclose(spectrum.exponents.sum(), spectrum.log_volume))
    True
    """
    _, current = _cell.numbers(nonlinearity, form)
    U, W, b, *_ = as_parameters(params)
    given = {"U": U, "W": W, "b": b, "x": x, "h0": h0, "alpha": _cell.array_or_none(alpha)}
    U, W, b, x, h0, leak = _checks.as_real_arrays("b", "x", "h0", "alpha", **given)
    x, batched = _checked_input(x, steps, U, W, b, h0)
    leak = _cell.checked_leak(alpha if leak is None else leak, current, len(W), W.dtype)
    (T, B), H = x.shape[:2], len(W)
    k = H if k is None else _checks.integer_within("k", k, 0, H)
    warmup = T // 10 if warmup is None else _checked_warmup(warmup, T)
    if not (isinstance(qr_every, str) and qr_every == "auto"):
        qr_every = _checks.positive_integer("qr_every", qr_every)
    rng = np.random.default_rng(rng)
    U, W, b, leak = (None if a is None else np.ascontiguousarray(a, np.float64) for a in (U, W, b, leak))
    h0 = 0.1 * rng.standard_normal((B, H)) if h0 is None else np.broadcast_to(h0, (B, H)).astype(np.float64)
    network = _Network(U, W, b, leak, nonlinearity, current)
    with np.errstate(all="ignore"), Progress() as progress:
        each = [
            _spectrum(network, x[:, i : i + 1], h0[i : i + 1], k, warmup, qr_every, rng, progress) for i in range(B)
        ]
    each, tangents = zip(*each, strict=True) if each else ((), ())
    _warn_of_loss(qr_every, tangents)
    if not batched:
        return each[0]
    shapes = [(k,), (k,), (len(_blocks(warmup, T)) - 1, k), (), (), (), ()]
    columns = (np.array([spectrum[i] for spectrum in each]).reshape(B, *shape) for i, shape in enumerate(shapes))
    return LyapunovSpectrum(*columns)


def _warn_of_loss(qr_every, tangents):
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


class _Network(NamedTuple):
    U: np.ndarray
    W: np.ndarray
    b: np.ndarray | None
    leak: np.ndarray | None  # [H]
    nonlinearity: str
    current: bool


def _checked_input(x, steps, U, W, b, h0):
    """x [T, B, I] as float64, and whether it had a batch axis; checks all shapes."""
    if (x is None) == (steps is None):
        raise ValueError("either x or steps must be given, got " + ("neither" if x is None else "both"))
    if U.ndim != 2:
        _checks.shape_error("U", "(H, I)", U)
    H, I = U.shape
    _checks.check_shape("W", W, (H, H), "U", U)
    _checks.check_shape("b", b, (H,), "U", U)
    if x is None:
        x = np.broadcast_to(np.zeros(I), (_checks.integer_within("steps", steps, 0), I))  # no memory
    else:
        _checks.check_sequence("x", "I", x)
        _checks.check_columns("U", "H", U, x.shape[-1], "x", x)
    _checks.check_shape("h0", h0, (*x.shape[1:-1], H), "x", x, "U", U)
    return (x, True) if x.ndim == 3 else (x[:, np.newaxis], False)


def _checked_warmup(warmup, T):
    try:
        return _checks.integer_within("warmup", warmup, 0, T)
    except ValueError as error:
        raise ValueError(f"{error}: it counts within the {T} steps, of which the rest makes the exponents") from None


# ---- One sequence ---------------------------------------------------------------------------------------------------
def _blocks(warmup, T):
    """Where blocks of the steps that count begin, and T."""
    n = min(math.isqrt(T - warmup), MOST_BLOCKS)
    return np.linspace(warmup, T, n + 1).round().astype(int)


def _spectrum(network, x, h, k, warmup, qr_every, rng, progress):
    """The spectrum of one sequence x [T, 1, I] from h [1, H]."""
    Q = np.ascontiguousarray(np.linalg.qr(rng.standard_normal((len(network.W), k)))[0].T)
    tangents, times = Tangents(network.W, network.nonlinearity, network.leak, network.current, Q, qr_every), 0
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


def _steps(network, x, h):
    """h after these steps, what phi' is computed from or else phi' itself, and Σ log phi', NaN with a leak."""
    U, W, b, leak, nonlinearity, current = network
    rates = None if leak is None else np.empty((len(x), *h.shape))
    form = "current" if current else "rate"
    states = forward(x, U, W, b, h, nonlinearity=nonlinearity, alpha=leak, form=form, rates=rates)[:, 0]
    before = np.concatenate([h, states[:-1]])
    h = states[-1:].copy()
    if current:
        return h, None, slopes_at(nonlinearity, before), np.nan
    r = states if rates is None else rates[:, 0]
    saturated = nonlinearity == "tanh" and (np.abs(r) > SATURATED).any()
    if saturated:
        slopes = sech2(before @ W.T + x[:, 0] @ U.T + (0 if b is None else b))
    else:
        slopes = _cell.slopes_from(nonlinearity, r)
    if leak is not None:
        return h, None, slopes, np.nan
    logs = np.log(slopes).sum()
    return (h, None, slopes, logs) if saturated else (h, states, None, logs)


def _summary(totals, lengths, volume, times, network):
    n, (blocks, k) = lengths.sum(), totals.shape
    exponents = totals.sum(axis=0) / n if n else np.full(k, np.nan)
    order = np.argsort(-exponents, kind="stable")
    exponents, finite_time = exponents[order], totals[:, order] / lengths[:, np.newaxis]
    if blocks > 1:
        errors = finite_time.std(axis=0, ddof=1) / np.sqrt(blocks)
    else:
        errors = np.full(k, np.nan)
    log_volume = volume / n + np.linalg.slogdet(network.W)[1] if n and network.leak is None else np.nan
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

    All H of them go in two parts. The second one spans what is orthogonal to the first, and that goes through the
    inverse of each Jacobian, transposed: J Q = Q' R is J⁻ᵀ Q = Q' R⁻ᵀ, where R⁻ᵀ is triangular from the other side, and
    has 1 / R_ii on its diagonal. So the last vector comes first there. Each part takes less time to be made
    orthonormal, and drifts apart less, so that it need not be done as often.

    Parameters
    ----------
    W, nonlinearity, leak, current
        Of the cell; leak [H] or None.
    Q : ndarray of float64, contiguous, shape (k, H)
        The vectors as rows; overwritten.
    qr_every : int or "auto"
        As of `lyapunov_spectrum`; two parts only with "auto".

    Attributes
    ----------
    spread : float
        The log of the largest condition number that vectors have had after several steps.
    loss, enough : float
        With an interval of the caller's by which vectors drift too far apart: by how much exponents are wrong, nats a
        step, and the interval that "auto" has taken instead, both measured where the spread was largest; else 0.
    """

    def __init__(self, W, nonlinearity, leak, current, Q, qr_every):
        self._W = W if leak is None else leak[:, np.newaxis] * W
        self._keep = None if leak is None else 1 - leak
        self._nonlinearity, self._phi, self._current = nonlinearity, _cell.NONLINEARITIES.index(nonlinearity), current
        self._Q, self._first = Q, len(Q) - int(len(Q) * REST)
        self._automatic = qr_every == "auto"
        self._intervals = [1, 1] if self._automatic else [qr_every]
        self.spread = self.loss = self.enough = 0.0
        self._inverse = None
        if self._automatic and self._first < len(Q) == len(W) and leak is None and not current:
            self._inverse = _transposed_inverse(W)

    def advance(self, h, slopes, total):
        """Through the steps of states h [n, H], or of these slopes; total [k] += logs of what each vector has grown by.

        Returns how often the vectors were made orthonormal, in the mean.
        """
        k, first, at = len(self._Q), self._first, slopes
        if k == 0:
            return 0
        if not self._automatic:
            return self._forced(h, slopes, total)
        if self._inverse is not None and slopes is None:
            at = _cell.slopes_from(self._nonlinearity, h)
        if self._inverse is None or not at.size or not at.min() >= LEAST_SLOPE:
            return self._run(0, self._W, h, slopes, self._Q, total)
        times = self._run(0, self._W, h, slopes, self._Q[:first], total[:first])
        rest, logs = self._Q[: first - 1 : -1].copy(), np.zeros(k - first)
        times_of_rest = self._run(1, self._inverse, None, 1 / at, rest, logs)
        self._Q[first:] = rest[::-1]
        total[first:] -= logs[::-1]
        return (first * times + (k - first) * times_of_rest) / k

    def _forced(self, h, slopes, total):
        """`advance` by the interval of the caller; where vectors drift too far apart, measures what that loses."""
        before, known, logs = self._Q.copy(), self.spread, np.zeros(len(self._Q))
        times = self._run(0, self._W, h, slopes, self._Q, logs)
        total += logs
        if self.spread > max(known, WIDE):
            exact, n = np.zeros_like(logs), len(slopes if h is None else h)
            arguments = (self._W, self._phi, h, slopes, self._keep, self._current, before, 1, True, exact)
            self.enough = n / _lyapunov.vectors(*arguments)[0]
            self.loss = max(self.loss, np.where(logs == exact, 0, abs(logs - exact)).max() / n)
        return times

    def _run(self, which, W, h, slopes, Q, total):
        times, self._intervals[which], spread = _lyapunov.vectors(
            W, self._phi, h, slopes, self._keep, self._current, Q, self._intervals[which], self._automatic, total
        )
        self.spread = max(self.spread, spread)
        return times


def _transposed_inverse(W):
    """W⁻ᵀ, contiguous, or None where rounding would be felt in it."""
    try:
        inverse = np.linalg.inv(W)
    except np.linalg.LinAlgError:
        return None
    condition = np.linalg.norm(W, 1) * np.linalg.norm(inverse, 1)
    return np.ascontiguousarray(inverse.T) if condition <= LARGEST_CONDITION else None


def kaplan_yorke(exponents):
    """The dimension of exponents in falling order: how many add up to zero, the last one in part."""
    sums = np.cumsum(exponents)
    if np.isnan(sums).any():
        return np.nan
    j = int(np.count_nonzero(np.logical_and.accumulate(sums >= 0)))
    if j == len(sums):
        return float(j)
    return float(j + (sums[j - 1] if j else 0.0) / abs(exponents[j]))
