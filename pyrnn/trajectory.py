"""What a forward pass leaves: the network, its input, its states, and how to go back through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrnn import _calls, _checks, _noise, _steps, functional
from pyrnn import network as networks
from pyrnn._core import memory
from pyrnn._results import Gradients, OutputGradients
from pyrnn.network import Network
from pyrnn.readout import output, output_gradients

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import AnyNetwork


class Direction(NamedTuple):
    """How fast each argument of a simulation moves: a direction to differentiate in. None for one that stays.

    Parameters
    ----------
    x : array_like, shape of x, optional
    U : array_like, shape (H, I), optional
    W : array_like, shape (H, H), optional
    b : array_like, shape (H,), optional
    h0 : array_like, shape (B, H) or (H,), optional
    drive : array_like, shape of h, optional
    alpha : float or array_like of shape (H,), optional
        Of a cell with a leak.

    Notes
    -----
    The fields are those of `Gradients`, and in their order.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.Network(np.array([[1.0]]), np.array([[0.5]]))
    >>> run = pyrnn.simulate(network, np.zeros((3, 1)))  # zeros, where the slope of tanh is 1
    >>> pyrnn.jvp(run, pyrnn.Direction(x=[[1.0], [0.0], [0.0]])).ravel()
    array([1.  , 0.5 , 0.25])
    """

    x: ArrayLike | None = None
    U: ArrayLike | None = None
    W: ArrayLike | None = None
    b: ArrayLike | None = None
    h0: ArrayLike | None = None
    drive: ArrayLike | None = None
    alpha: ArrayLike | None = None


class Trajectory(NamedTuple):
    """The states of a network on its way through an input, with all that made them. `simulate` returns it.

    Its arrays have one dtype and are not copied: do not change them while it is in use. They lie in memory as long as
    it does.

    Parameters
    ----------
    network : Network
        Without R.
    x : ndarray, shape (T, B, I) or (T, I); None of states from elsewhere whose input is not known
    h0 : ndarray, shape (B, H) or (H,), or None for zeros
    h : ndarray, shape (T, B, H) or (T, H)
        The states.
    rates : ndarray, shape of h
        phi of each step; of a cell without a leak h itself. 0 where a step does not exist.
    drive : ndarray, shape of h, or None
    lengths : ndarray of intp, shape (B,) or (), or None
    mask : ndarray of bool, shape (T, B) or (T,), or None
    reverse : bool
        As in `forward`.
    noise : ndarray, shape (H,) or (), or None
        The standard deviation of what noise has added to the drive.
    seed : int or None
        As in `simulate`.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.Network(np.array([[1.0], [0.0]]), np.array([[0.0, 0.5], [1.0, 0.0]]))
    >>> run = pyrnn.simulate(network, np.ones((3, 1)))
    >>> run.backward(np.ones_like(run.h)).U.round(4)  # of the sum of all states
    array([[1.6126],
           [2.582 ]])
    """

    network: Network
    x: np.ndarray | None
    h0: np.ndarray | None
    h: np.ndarray
    rates: np.ndarray
    drive: np.ndarray | None = None
    lengths: np.ndarray | None = None
    mask: np.ndarray | None = None
    reverse: bool = False
    noise: np.ndarray | None = None
    seed: int | None = None

    @classmethod
    def of(
        cls,
        network: AnyNetwork,
        h: ArrayLike,
        x: ArrayLike | None = None,
        h0: ArrayLike | None = None,
        *,
        rates: ArrayLike | None = None,
        drive: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reverse: bool = False,
    ) -> Trajectory:
        """A trajectory of states that were made elsewhere.

        Parameters
        ----------
        network : Network or RNN of one layer
        h : array_like, shape (T, B, H) or (T, H)
            The states.
        x : array_like, shape (T, B, I) or (T, I), optional
            The input. `backward` and derivatives need it, products of Jacobians do not.
        h0, drive, lengths, mask, reverse
            As in `simulate`.
        rates : array_like, shape of h, optional
            phi of each step. In the ``rate`` form with alpha h does not tell it without loss, and it must be given; in
            the others it is computed.

        Returns
        -------
        Trajectory

        Raises
        ------
        ValueError, TypeError
            As in `forward`.

        Examples
        --------
        >>> import numpy as np, pyrnn
        >>> run = pyrnn.Trajectory.of(pyrnn.Network(np.ones((1, 1)), np.array([[0.5]])), np.zeros((3, 1)))
        >>> run.state_gradients([[0.0], [0.0], [1.0]]).ravel()  # at h = 0 the Jacobian is W
        array([0.25, 0.5 , 1.  ])
        """
        made, h_, x_, h0_, rates_, drive_ = networks.conform(
            network, "x", "h0", "rates", "drive", h=h, x=x, h0=h0, rates=rates, drive=drive
        )
        networks.check_shapes(made)
        H, cell = len(made.U), made.cell
        _checks.check_sequence("h", "H", h_)
        if h_.shape[-1] != H:
            _checks.shape_error("h", f"(T, B, {H}) or (T, {H})", h_, "U", made.U)
        if x_ is not None:
            networks.check_input(made, x_, h0_)
            _checks.check_shape("h", h_, (*x_.shape[:-1], H), "x", x_, "U", made.U)
        _checks.check_shape("h0", h0_, h_.shape[1:], "h", h_)
        for name, a in (("rates", rates_), ("drive", drive_)):
            _checks.check_shape(name, a, h_.shape, "h", h_)
        lengths, mask, reverse = _steps.check(lengths, mask, reverse, h_)
        if cell.alpha is None or cell.current:
            if rates_ is not None and cell.alpha is None:
                raise ValueError("rates must be None without alpha, where the states are the rates, got an array")
            if rates_ is None:
                rates_ = h_ if cell.alpha is None else cell.phi(h_)
                missing = _calls.missing_steps(h_, lengths, mask)
                if cell.current and missing is not None:
                    rates_[missing] = 0
        elif rates_ is None:
            raise ValueError("rates must be given with alpha and form 'rate', as forward writes them, got None")
        return cls(made, x_, h0_, h_, rates_, drive_, lengths, mask, reverse)

    @property
    def read(self) -> np.ndarray:
        """What an output layer reads: h, in the ``current`` form phi(h)."""
        return self.rates if self.network.cell.current else self.h

    def output(self) -> np.ndarray:
        """Outputs of each step, o_t = c + V h_t, in the ``current`` form c + V phi(h_t).

        Returns
        -------
        o : ndarray, shape (T, B, O) or (T, O)
            Without V a copy of what V would read. Also where a step does not exist: then o = c, or as the state there.

        Examples
        --------
        >>> import numpy as np, pyrnn
        >>> pyrnn.simulate(pyrnn.initialize(2, 3, 4, rng=0), np.ones((5, 2))).output().shape
        (5, 4)
        """
        V, c = self.network.V, self.network.c
        return self.read.copy() if V is None else output(self.read, V, c)

    def backward(
        self,
        dh: ArrayLike | None,
        drates: ArrayLike | None = None,
        *,
        x_gradient: bool = True,
        out: Gradients | None = None,
        n_threads: int | None = None,
    ) -> Gradients:
        """Gradients of a loss through the simulation, by exact backpropagation through time.

        Parameters
        ----------
        dh : array_like, shape of h, or None for zeros
            What the loss sends into each h_t directly.
        drates : array_like, shape of h, optional
            What it sends into each of the rates: it is taken through phi' here. Of a cell without a leak, whose rates
            are its states, it is added to dh.
        x_gradient, out, n_threads
            As in `pyrnn.backward`.

        Returns
        -------
        Gradients
            Named tuple ``(x, U, W, b, h0, drive, alpha)``, as of `pyrnn.backward`. ``drive`` is None unless there is
            one.

        Raises
        ------
        ValueError, TypeError
            As in `pyrnn.backward`, and if the input is not known.

        Notes
        -----
        Equations 10.20 to 10.28 of Goodfellow et al., "Deep Learning". May be called any number of times.

        Examples
        --------
        >>> import numpy as np, pyrnn
        >>> network = pyrnn.initialize(2, 3, cell=pyrnn.Cell(alpha=0.5, form="current"), rng=0)
        >>> run = pyrnn.simulate(network, np.ones((5, 2)))
        >>> a, b = run.backward(None, run.rates), run.backward((1 - run.rates**2) * run.rates)
        >>> bool(np.allclose(a.W, b.W))
        True
        """
        network, x = self.network, self.require_x()
        dh_, past_states = self._arriving(dh, drates)
        gradients = functional.backward(
            dh_,
            self.h,
            x,
            network.U,
            network.W,
            self.h0,
            cell=network.cell,
            drive=self.drive,
            rates=self.written_rates,
            x_gradient=x_gradient,
            out=out,
            n_threads=n_threads,
            **self.steps,
        )
        if past_states is not None:
            self._add(gradients, *past_states)
        return gradients

    def state_gradients(self, dh: ArrayLike) -> np.ndarray:
        """The gradient of the loss with respect to every state, through all later steps, as `pyrnn.state_gradients`.

        Parameters
        ----------
        dh : array_like, shape of h
            What the loss sends into each h_t directly.

        Returns
        -------
        grad_h : ndarray, shape of h

        Raises
        ------
        ValueError, TypeError
            As in `pyrnn.state_gradients`.
        """
        W, cell = self.network.W, self.network.cell
        return functional.state_gradients(dh, self.h, W, cell=cell, rates=self.written_rates, **self.steps)

    def jacobian(self) -> np.ndarray:
        """The Jacobian of every step, J_t = ∂h_t/∂h_{t-1}, as `pyrnn.jacobian`.

        Returns
        -------
        J : ndarray, shape (T, B, H, H) or (T, H, H)
        """
        W, cell = self.network.W, self.network.cell
        return functional.jacobian(self.h, W, self.h0, cell=cell, rates=self.written_rates, **self.steps)

    @property
    def written_rates(self) -> np.ndarray | None:
        """The rates as `forward` writes and `backward` reads them: None without a leak."""
        return None if self.network.cell.alpha is None else self.rates

    @property
    def steps(self) -> dict[str, Any]:
        """lengths, mask and reverse, as arguments of `forward` and `backward`."""
        return {"lengths": self.lengths, "mask": self.mask, "reverse": self.reverse}

    def require_x(self) -> np.ndarray:
        """The input, or a ValueError where it is not known."""
        if self.x is None:
            raise ValueError("x must be known, and this Trajectory was made without: give it to Trajectory.of")
        return self.x

    # ---- Gradients that arrive at the rates ----------------------------------------------------------------------
    @np.errstate(all="ignore")
    def _arriving(
        self, dh: ArrayLike | None, drates: ArrayLike | None
    ) -> tuple[Any, tuple[np.ndarray, OutputGradients, np.ndarray] | None]:
        """dh with what arrives at the rates, after a check of both; and what of that does not go through the state."""
        if drates is None:
            return np.zeros_like(self.h) if dh is None else dh, None
        _, dr, given = _checks.as_real_arrays("dh", h=self.h, drates=drates, dh=dh)
        for name, a in (("drates", dr), ("dh", given)):
            _checks.check_shape(name, a, self.h.shape, "h", self.h)
        cell = self.network.cell
        total: Callable[[np.ndarray], np.ndarray] = lambda a: a if given is None else given + a
        if cell.alpha is None:
            return total(dr), None
        s = cell.slope(self.rates) * dr  # what arrives at a_t, in the current form at h_t
        missing = _calls.missing_steps(self.h, self.lengths, self.mask)
        if missing is not None:
            s[missing] = 0  # their rates are 0 whatever the network
        if cell.current:
            return total(s), None
        # Wᵀ s_t goes to the state before. The rest is as of delta in 10.23, 10.26 and 10.28.
        through = output_gradients(s, _calls.previous(self.h, self.h0, self.lengths, self.reverse), self.network.W)
        if missing is not None:
            through.h[missing] = 0  # also where W has NaN
        before, first = _calls.to_previous(through.h, self.lengths, self.reverse)
        return total(before), (s, through, first)

    @np.errstate(all="ignore")
    def _add(self, gradients: Gradients, s: np.ndarray, through: OutputGradients, first: np.ndarray) -> None:
        """Add the gradients of what arrives at a_t of each step."""
        x, missing = self.require_x(), _calls.missing_steps(self.h, self.lengths, self.mask)
        if missing is not None:
            x = np.where(missing[..., np.newaxis], 0, x)
        below = output_gradients(s, x, self.network.U)
        if missing is not None:
            below.h[missing] = 0
        parts = (below.h, below.V, through.V, through.c, first, s)
        for total, part in zip(gradients[:6], parts, strict=True):
            if total is not None:
                total += part


def simulate(
    network: AnyNetwork,
    x: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    drive: ArrayLike | None = None,
    noise: ArrayLike | None = None,
    seed: int | None = None,
    n_threads: int | None = None,
) -> Trajectory:
    """States of a network on an input, with all that derivatives and analyses of them need.

    Parameters
    ----------
    network : Network or RNN of one layer
        Without R: its `closed_loop` is the network whose output is fed back.
    x : array_like, shape (T, B, I) or (T, I)
        Input, time first; without a batch axis the result has none either.
    h0 : array_like, shape (B, H) or (H,), optional
        The state before the first step; None for zeros.
    lengths, mask, reverse, drive, n_threads
        As in `forward`.
    noise : float or array_like of shape (H,), optional
        σ of the state noise √(2 alpha) σ ξ [1]_, of all units or of each; alpha is 1 for a cell without a leak. It is
        a drive of standard deviation ``cell.drive_sigma(noise)``, √(2 / alpha) σ: the numbers of
        `pyrnn.training.noise(seed, shape of h, cell.drive_sigma(noise))`, to the last bit, without an array of them.
    seed : int, optional
        From 0 to 2^64 - 1; of the noise.

    Returns
    -------
    Trajectory
        Its arrays are those that were given, where they fit as they are, and not copies.

    Raises
    ------
    ValueError, TypeError
        As in `forward`; or if only one of noise and seed is given, or one is out of range.

    See Also
    --------
    forward : the states alone, from arrays.
    pyrnn.training.noise : the noise as an array.

    Notes
    -----
    Equations 10.8 and 10.9 of Goodfellow et al., "Deep Learning". docs/noise.md has more on noise.

    References
    ----------
    .. [1] H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive
       tasks: a simple and flexible framework", PLOS Comput. Biol. 12 (2016) e1004792.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.initialize(2, 3, cell=pyrnn.Cell(alpha=0.1), rng=0)
    >>> run = pyrnn.simulate(network, np.ones((50, 2)))
    >>> gradients = run.backward(run.h)  # of the loss that is half the sum of h²
    >>> gradients.U.shape, gradients.alpha.shape
    ((3, 2), ())
    """
    made, x_, h0_, drive_ = networks.conform(network, "h0", "drive", x=x, h0=h0, drive=drive)
    networks.check_input(made, x_, h0_)
    U, W, b, cell = made.U, made.W, made.b, made.cell
    lengths, mask, reverse = _steps.check(lengths, mask, reverse, x_)
    states = (*x_.shape[:-1], len(U))
    if (noise is None) != (seed is None):
        raise ValueError(f"noise and seed must be given together, got noise {noise!r} and seed {seed!r}")
    rates = None if cell.alpha is None else memory.empty(states, x_.dtype)
    sigma = None if noise is None else cell.drive_sigma(_noise.check_sigma("noise", noise, len(U)))
    options: dict[str, Any] = {
        "lengths": lengths,
        "mask": mask,
        "reverse": reverse,
        "n_threads": n_threads,
    }
    if sigma is None:
        h = functional.forward(x_, U, W, b, h0_, cell=cell, drive=drive_, rates=rates, **options)
    else:
        seed = _noise.check_seed(seed)
        h = _noise.forward(x_, U, W, b, h0_, cell, drive_, rates, sigma, seed, **options)
    return Trajectory(made, x_, h0_, h, h if rates is None else rates, drive_, lengths, mask, reverse, sigma, seed)
