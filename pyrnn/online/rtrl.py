"""Real-time recurrent learning: the exact gradient carried forward with the state, step by step or in blocks."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pyrnn import _calls, _checks
from pyrnn._core import engine_fused, online
from pyrnn._core.call import Call
from pyrnn.online.learner import Learner, OnlineGradients, Returned, Step, quiet

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import ArrayLike

    from pyrnn._types import AnyNetwork, MaybeArray

    _Totals: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, MaybeArray]  # U, W, b, h0, alpha

STEPS = 4  # of RTRL that go through the influence at once


class _Influential(Learner[Returned]):
    """A learner with the whole influence of all parameters on the state."""

    def _begin(self) -> None:
        B, H, C = self._rows, self.hidden_size, self._columns + 1
        self._memory, self._high = online.influence_memory(self._h, B, H, C), False
        self._influence()[:, np.arange(H), C - 1, np.arange(H)] = 1  # of h0 on itself

    def _influence(self) -> np.ndarray:
        return online.influence_rows(self._memory, self._high, self._rows, self.hidden_size, self._columns + 1)

    def _complete(self) -> None:
        """Bring the influence up to the last state."""
        self._settle()

    def influence(self) -> OnlineGradients:
        """dh / d(parameters) of the last step: what the learner carries.

        Returns
        -------
        OnlineGradients
            Copies, each with the axes of its parameter and then one of H units of the state, (batch, ...) in front
            where the learner has one; h0 is (H, H), and alpha has one for each unit.
        """
        self._complete()
        P = self._influence()
        P = (P if self.batch is not None else P[0]).copy()
        H, Z = self.hidden_size, self.hidden_size + self.input_size
        alpha = None if self._network.cell.alpha is None else P[..., Z + 1, :]
        return OnlineGradients(P[..., H:Z, :], P[..., :H, :], P[..., Z, :], P[..., -1, :], alpha)

    def __getstate__(self) -> dict[str, Any]:
        """Without the padding of memory, which depends on its address."""
        return self.__dict__ | {"_memory": self._influence().copy(), "_high": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        P, self._memory = self._memory, online.influence_memory(self._h, *self._memory.shape[:3])
        self._influence()[...] = P

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = object.__new__(type(self))
        memo[id(self)] = other
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return other


class RTRL(_Influential[OnlineGradients]):
    """Real-time recurrent learning: the exact gradient at every step, without going back in time.

    It carries the influence P = dh / d(parameters) forward: H numbers for each parameter. Four steps go through it at
    once, so that every fourth takes longest: as many multiply-adds as P times a Jacobian, about H³ (H + I).

    Parameters
    ----------
    network : Network or RNN of one layer
        In any form of the cell. Its arrays are copied: `update` changes them. The output layer plays no part. The
        gradient at b is there also without b.
    h0 : array_like, shape (H,) or (batch, H), optional
        The state before the first step; None for zeros.
    batch : int, optional
        How many sequences advance together, each with an influence of its own; None for one, whose arrays have no batch
        axis.

    Attributes
    ----------
    network : Network
        Copies of the present parameters, with their cell; V and c are None.
    h : ndarray, shape (H,) or (batch, H)
        The state after the last step, a copy.
    input_size, hidden_size : int
    batch : int or None
    dtype : numpy.dtype
        float32 if all arguments promote to it, else float64. Later arguments of a narrower dtype are converted to it;
        those of a wider one are a TypeError.

    Raises
    ------
    ValueError
        If shapes do not fit, the network has R, or batch is negative.
    TypeError
        If the network is none, an argument is complex, long double, text, an object or masked, or batch is not an
        integer.

    See Also
    --------
    BlockedRTRL : the same gradients, once in a block of steps, for a fraction of the work.
    SnAp1, RFLO, UORO : approximations that cost no more than the step itself.
    backward : backpropagation through time, which needs all steps at once.

    Notes
    -----
    With a_t = b + U x_t + W h_{t-1}, J_t = dh_t/dh_{t-1} and z_t = (h_{t-1}, x_t, 1), the influence of the parameter in
    row i, column j of (W, U, b) is P_t[i, j] = J_t P_{t-1}[i, j] + (dh_t/da_t)_i z_t[j] e_i, and its gradient dh_t .
    P_t[i, j] [1]_. The sum over steps is what `pyrnn.backward` returns for all of them. One learner serves one thread
    at a time. Copies and pickles take state and influence along.

    References
    ----------
    .. [1] R. J. Williams, D. Zipser, "A learning algorithm for continually running fully recurrent neural networks",
       Neural Computation 1 (1989) 270-280.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.initialize(input_size=2, hidden_size=4, rng=0)
    >>> x = np.random.default_rng(0).standard_normal((50, 2))
    >>> learner = pyrnn.online.RTRL(network)
    >>> total = sum(learner.step(sample, dh=lambda h: h).W for sample in x)  # the loss of a step: half of h²
    >>> run = pyrnn.simulate(network, x)
    >>> np.allclose(total, run.backward(run.h).W)
    True
    """

    def _begin(self) -> None:
        super()._begin()
        self._waiting: tuple[Step, ...] = ()  # pending: the influence has not made them yet; each with its Jacobian

    def _advance(self, step: Step, dh: np.ndarray | None) -> np.ndarray | None:
        J = online.jacobians(step.point, self._network.W, self._network.cell)
        self._waiting += (step._replace(J=J),)
        if len(self._waiting) == STEPS:
            return self._move(dh)
        return None if dh is None else self._contracted(dh)

    def _move(self, dh: np.ndarray | None = None) -> np.ndarray | None:
        """Make the pending steps; return G [B, H, C] for dh."""
        G = online.advance(self._memory, self._high, self._columns + 1, self._waiting, dh)
        self._high, self._waiting = not self._high, ()
        return G

    def _contracted(self, dh: np.ndarray) -> np.ndarray:
        """G for dh, without making them."""
        return online.contract(self._memory, self._high, self._columns + 1, dh, self._waiting)

    def _complete(self) -> None:
        self._settle()
        if self._waiting:
            self._whole = False
            self._move()
            self._whole = True

    @quiet
    def _collect(self, dh: np.ndarray) -> OnlineGradients:
        if self._whole and self._step is not None:
            G: MaybeArray = self._advancing(self._step, dh)  # in one pass through the influence
        else:
            self._settle()
            G = self._contracted(dh)
        return self._named(G[0] if len(G) == 1 else G.sum(axis=0), G[..., -1].copy())


class BlockedRTRL(_Influential[OnlineGradients | None]):
    """RTRL by blocks of steps: exact gradients at the end of each block, for about H³ a step.

    Within a block it backpropagates; across blocks it carries the influence, which moves once a block.

    Parameters
    ----------
    network, h0, batch
        As in `RTRL`.
    block : int, optional
        Steps of a block; None for H. Longer ones need memory for block H² numbers and gain little.
    every_step : bool
        Return at every step the gradients of its loss alone, as `RTRL` does: back through the block so far, and then
        by the influence at its beginning. Blocks of about 16 are best for it.

    Attributes
    ----------
    network, h, input_size, hidden_size, batch, dtype
        As in `RTRL`.
    block : int
    every_step : bool

    Raises
    ------
    ValueError, TypeError
        As in `RTRL`.

    See Also
    --------
    RTRL : gradients at every step.

    Notes
    -----
    `step` and `gradients` return None within a block, and at its last step the gradients of the losses of all its
    steps; `finish` ends a block early. Where a block ends without a call of `gradients`, its gradients are added to the
    next that are returned: no step is lost. The sum of all is that of `RTRL`. With `every_step` nothing is gathered:
    each step returns its own.

    From a block of T steps after the state h_0 the gradient is what backpropagation finds within the block, and g_0 P
    with g_0 the gradient at h_0; then P <- K P + sum_t (dh_T/da_t) z_tᵀ with K = dh_T/dh_0 [1]_.

    References
    ----------
    .. [1] J. Schmidhuber, "A fixed size storage O(n³) time complexity learning algorithm for fully recurrent
       continually running networks", Neural Computation 4 (1992) 243-248.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> learner = pyrnn.online.BlockedRTRL(pyrnn.initialize(input_size=2, hidden_size=4, rng=0), block=3)
    >>> [learner.step(x, dh=np.ones(4)) is not None for x in np.ones((7, 2))]
    [False, False, True, False, False, True, False]
    >>> learner.finish().W.shape  # the seventh step
    (4, 4)
    """

    _totals: _Totals | None

    def __init__(
        self,
        network: AnyNetwork,
        h0: ArrayLike | None = None,
        *,
        block: int | None = None,
        every_step: bool = False,
        batch: int | None = None,
    ) -> None:
        _checks.check_flag("every_step", every_step)
        self._block = None if block is None else _checks.integer_within("block", block, 1)
        self._every_step = bool(every_step)
        super().__init__(network, h0, batch=batch)

    @property
    def block(self) -> int:
        """Steps of a block."""
        return max(self.hidden_size, 1) if self._block is None else self._block

    @property
    def every_step(self) -> bool:
        """Whether each step returns gradients."""
        return self._every_step

    def finish(self) -> OnlineGradients:
        """End the block here, so that `update` may come.

        Returns
        -------
        OnlineGradients
            Of the steps since the last that were returned; zero if there are none, and with `every_step`.

        Raises
        ------
        RuntimeError
            As in `forward`.
        """
        self._check_whole()
        totals = self._ended()
        self._totals = None
        return self._of_totals(totals)

    @quiet
    def _of_totals(self, totals: _Totals) -> OnlineGradients:
        U, W, b, h0, alpha = totals
        if alpha is not None:
            alpha = self._network.cell.alpha_gradient(alpha)
        return OnlineGradients(U, W, b, h0.reshape(self._shape(self.hidden_size)), alpha)

    def _begin(self) -> None:
        super()._begin()
        T, B, H = self.block, self._rows, self.hidden_size
        self._steps = 0
        self._totals = None
        self._xs = np.empty((T, B, self.input_size), self.dtype)
        self._hs = np.empty((T + 1, B, H), self.dtype)
        self._rs = np.empty((T, B, H), self.dtype)
        self._dhs = np.zeros((T, B, H), self.dtype)
        self._hs[0] = self._h

    def _follow(self, x: np.ndarray, h: np.ndarray, rates: np.ndarray | None) -> None:
        t = self._steps
        self._xs[t], self._hs[t + 1] = x, h
        if rates is not None:
            self._rs[t] = rates
        self._steps = t + 1

    def _collect(self, dh: np.ndarray) -> OnlineGradients | None:
        self._check_whole()
        if self._steps == 0:
            raise RuntimeError("gradients must come after forward, and the last block has ended")
        if self.every_step:
            self._dhs[self._steps - 1] = dh
            totals = self._within()
            self._dhs[self._steps - 1] = 0
            return self._of_totals(totals)
        self._dhs[self._steps - 1] += dh
        return self.finish() if self._steps == self.block else None

    def _settle(self) -> None:
        self._check_whole()
        if self._steps == self.block:
            self._totals = self._ended()

    def _before_update(self) -> None:
        self._settle()
        if self._steps:
            raise RuntimeError(f"update must come at the end of a block, got {self._steps} steps: call finish first")

    def influence(self) -> OnlineGradients:
        """As in `RTRL`, of the last state; it ends the block, whose gradients are added to the next returned."""
        self._check_whole()
        self._totals = self._ended()
        return super().influence()

    def _so_far(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """The steps of the block so far: x, the states before and after, rates where they tell more."""
        n = self._steps
        cell = self._network.cell
        rates = None if cell.alpha is None or cell.current else self._rs[:n]
        return self._xs[:n], self._hs[:n], self._hs[1 : n + 1], rates

    @quiet
    def _within(self) -> _Totals:
        """Gradients (U, W, b, h0, alpha) of the losses of the block so far."""
        H, Z = self.hidden_size, self.hidden_size + self.input_size
        cell = self._network.cell
        x, _, h, rates = self._so_far()
        arrays = (self._dhs[: self._steps], h, x, *self._network[:2], self._hs[0])
        call = _calls.made(Call.backward(*arrays, cell, None, None, None, False, rates, False, None, 1))
        engine_fused.backward(call)
        _, U, W, b, g0, _, alpha = call.results
        G = online.contract(self._memory, self._high, self._columns + 1, g0)
        sums = G[0] if len(G) == 1 else G.sum(axis=0)
        alpha = None if cell.alpha is None else alpha + sums[:, Z + 1]
        return U + sums[:, H:Z], W + sums[:, :H], b + sums[:, Z], G[..., -1].copy(), alpha

    @quiet
    def _ended(self) -> _Totals:
        """End the block: `_within`, added to what earlier blocks have left and nobody has got."""
        totals = self._within()
        self._whole = False
        n = self._steps * self._rows
        x, past, h, rates = _checks.map_given(lambda a: a.reshape(n, a.shape[2]), *self._so_far())
        W, cell = self._network.W, self._network.cell
        steps = Step(*online.immediate(x, past, h, rates, cell))
        online.advance_block(self._memory, self._high, self._columns + 1, self._rows, steps, W, cell)
        self._high = not self._high
        self._hs[0], self._dhs[: self._steps] = self._hs[self._steps], 0
        self._steps, self._whole = 0, True
        if self._totals is None:
            return totals
        U, W, b, h0, alpha = totals
        U_old, W_old, b_old, h0_old, alpha_old = self._totals
        return U + U_old, W + W_old, b + b_old, h0 + h0_old, None if alpha is None else alpha + alpha_old
