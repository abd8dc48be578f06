"""Gradients of a long sequence in little memory: the states of some steps are kept, the others computed once more."""

from __future__ import annotations

import itertools
import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrnn import _calls, _checks, _engines, losses
from pyrnn._core.call import Call, steps_of_a_chunk
from pyrnn._results import LossGradients
from pyrnn.cell import PLAIN
from pyrnn.functional import forward
from pyrnn.readout import output

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrnn._types import MaybeArray
    from pyrnn.cell import Cell
    from pyrnn.losses import Criterion
    from pyrnn.network import Network

LEVELS = 8  # of segments in segments at most; the states of 3^8 chunks are then 24 kept ones


class Schedule(NamedTuple):
    """Which states are kept: those before the segments of time of `sizes[0]` steps, counted from the end of time.

    While one of them is at work, also those before its own segments of `sizes[1]` steps, and so on; of a segment of the
    last size all. Sizes are whole chunks of `chunk` steps; `output_chunk` is that of the output layer.
    """

    sizes: tuple[int, ...]
    chunk: int
    output_chunk: int

    def segments(self, start: int, stop: int, size: int) -> list[int]:
        """Where the segments of this size begin in a larger one, which ends where one of them does."""
        return [start, *range(stop - size * ((stop - start - 1) // size), stop, size)]


# ---- What fits ------------------------------------------------------------------------------------------------------
def checked_limit(memory_limit: Any) -> int:
    try:
        limit = operator.index(memory_limit)
    except TypeError:
        raise TypeError(f"memory_limit must be a positive number of bytes or None, got {memory_limit!r}") from None
    if isinstance(memory_limit, bool | np.bool_):
        raise TypeError(f"memory_limit must be a positive number of bytes or None, got {memory_limit!r}")
    if limit < 1:
        raise ValueError(f"memory_limit must be a positive number of bytes or None, got {limit}")
    return limit


def schedule_for(network: Network, x: np.ndarray, criterion: Criterion, limit: int) -> Schedule | None:
    """The `schedule` of checked arrays."""
    (H, I), T, B, V = network.U.shape, x.shape[0], x.shape[1] if x.ndim == 3 else 1, network.V
    in_loss = (x, criterion.targets, criterion.weights)
    wide = max(a.itemsize if a is not None and a.dtype.kind == "f" else 0 for a in in_loss)
    O, cell = H if V is None else V.shape[0], network.cell
    return schedule(T, B, I, H, O, V is not None, x.itemsize, limit, wide, cell, losses.TEMPORARY[criterion.loss])


def schedule(
    T: int,
    B: int,
    I: int,
    H: int,
    O: int,
    layer: bool,
    size: int,
    limit: int,
    wide: int = 8,
    cell: Cell = PLAIN,
    temporary: int = 2,
) -> Schedule | None:
    """The schedule of the least time within `limit` bytes, or None if all states fit or there are none.

    size: of a number in bytes, wide: of one in a loss, which takes so many `temporary` arrays.
    """
    if T * B == 0:  # nothing to keep
        return None
    chunk = steps_of_a_chunk(T, B, max(H, I), size)
    output_chunk = steps_of_a_chunk(T, B, max(H, O), size) if layer else chunk
    state, rows, output_rows = B * H * size, chunk * B, output_chunk * B
    # Beside the states: what the losses and the compiled loops take for a chunk, the parameters packed and their
    # gradients twice, and the losses of all steps, whose sum must not depend on the segments.
    of_loss = O * (2 * size + temporary * wide + 8) + 32
    # With a leak also rates and grad_h; in the current form phi' of the rates, and its product with what arrives there.
    arrays = 1 if cell.alpha is None else 2  # of a step that is kept
    more = 0 if cell.alpha is None else 6 if cell.current else 2
    work = rows * (size * ((5 + more) * H + 3 * I) + of_loss)
    work += output_rows * (size * ((3 + arrays) * H + I + 2 * O) + of_loss)
    work += 4 * size * (H * H + H * I + H * O)
    whole = work + T * ((1 + arrays + (3 if cell.current else 0)) * state + B * of_loss)
    if whole <= limit:
        return None
    fixed, chunks = work + 8 * T * B, -(-T // chunk)

    def needed(leaf: int, levels: int) -> int:
        return fixed + (leaf * chunk * arrays + levels * _branches(-(-chunks // leaf), levels)) * state

    longest = min(chunks, max(1, (limit - fixed) // max(chunk * state * arrays, 1)))
    for levels in range(1, LEVELS + 1):
        for leaf in range(longest, 0, -1):
            if needed(leaf, levels) <= limit:
                branches = _branches(-(-chunks // leaf), levels)
                sizes = (leaf * chunk * branches**level for level in range(levels - 1, -1, -1))
                return Schedule(tuple(sizes), chunk, output_chunk)
    # A last segment of more chunks than this takes more than one of one chunk with all levels.
    most = min(chunks, 1 + LEVELS * _branches(chunks, LEVELS))
    least = min(needed(leaf, levels) for leaf in range(1, most + 1) for levels in range(1, LEVELS + 1))
    raise ValueError(f"memory_limit must be at least {min(whole, least)} bytes for these arrays, got {limit}")


def _branches(n: int, levels: int) -> int:
    """The least number whose power is n or more."""
    branches: int = round(n ** (1 / levels))
    return branches if branches**levels >= n else branches + 1


# ---- Forward and back -----------------------------------------------------------------------------------------------
@losses.QUIET
def loss_and_gradients(
    schedule: Schedule,
    network: Network,
    x: np.ndarray,
    h0: np.ndarray | None,
    criterion: Criterion,
    x_gradient: bool,
) -> tuple[np.float64, LossGradients]:
    """As `pyrnn.loss_and_gradients` of checked arguments.

    The same bits: the sums over time are those of the compiled loops, chunk by chunk in their order, the recurrent ones
    from the last chunk to the first, those of the output layer from the first one on. Only those of alpha differ in
    the last bits, since the loops add the first step of all by itself, and here the first step of each chunk.
    """
    batched = x.ndim == 3
    if not batched:
        x, h0, criterion = x[:, np.newaxis], None if h0 is None else h0[np.newaxis], criterion.at(_ONE_SEQUENCE)
    run = _Run(schedule, network, x, h0, criterion, x_gradient)
    run.forward()
    run.back_through(0, len(x), 0)
    value, below = run.losses.sum(dtype=np.float64), run.below
    dx, dh0 = below.dx, below.dh0
    if not batched:
        dx, dh0 = None if dx is None else dx[:, 0], dh0[0]
    db = None if network.b is None else below.db
    dc = None if network.c is None else run.dc
    d_alpha: MaybeArray = None if below.d_alpha is None else network.cell.alpha_gradient(below.d_alpha)
    return value, LossGradients(below.dU, below.dW, db, run.dV, dc, dx, dh0, d_alpha)


_ONE_SEQUENCE = (slice(None), np.newaxis)


class _States(NamedTuple):
    """The states of some steps and the rates, which without a leak are the same array."""

    h: np.ndarray
    rates: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: np.dtype, cell: Cell) -> _States:
        h = np.empty(shape, dtype)
        return cls(h, h if cell.alpha is None else np.empty(shape, dtype))

    def steps(self, start: int, stop: int | None = None) -> _States:
        h = self.h[start:stop]
        return _States(h, h if self.rates is self.h else self.rates[start:stop])

    def put(self, states: _States) -> None:
        """Write others over them."""
        self.h[...] = states.h
        if self.rates is not self.h:
            self.rates[...] = states.rates


class _Run:
    """A network on its way through time."""

    def __init__(
        self,
        schedule: Schedule,
        network: Network,
        x: np.ndarray,
        h0: np.ndarray | None,
        criterion: Criterion,
        x_gradient: bool,
    ) -> None:
        self.schedule, self.x, self.criterion = schedule, x, criterion
        U, W, _, V, _, _, self.cell = network
        U_, W_, V_ = _checks.map_given(_checks.matrix, U, W, V)
        self.network = network._replace(U=U_, W=W_, V=V_)
        T, B, H = len(x), x.shape[1], len(U)
        self.VT: MaybeArray = None if V is None else np.ascontiguousarray(V.T)
        self.saved = {0: np.zeros((B, H), x.dtype) if h0 is None else _checks.matrix(h0)}  # the state before a step
        # of the steps of a segment of the last size
        self.states = _States.empty((min(schedule.sizes[-1], T), B, H), x.dtype, self.cell)
        self.last: int | None = None  # where the last of all begins: its states are there when the way back begins
        self.losses: MaybeArray = None  # of all steps, once the first are known
        self.dV: MaybeArray = None if V is None else np.empty(V.shape, x.dtype)
        self.dc: MaybeArray = None if V is None else np.empty(len(V), x.dtype)
        self.below = _Sums(self.network, x, x_gradient)

    def forward(self) -> None:
        """Through all of time: the losses, the gradients of the output layer, and the first states to keep."""
        T, step = len(self.x), self.schedule.output_chunk
        kept, last = {0}, 0
        for size in self.schedule.sizes:
            starts = self.schedule.segments(last, T, size)
            kept.update(starts)
            last = starts[-1]
        buffer = _States.empty((step, *self.states.h.shape[1:]), self.x.dtype, self.cell)
        state = self.saved[0]
        keep = sorted(kept)
        for start in range(0, T, step):
            stop = min(start + step, T)
            states = self._states(start, stop, state, buffer)
            state = states.h[-1].copy()
            while keep and keep[0] <= stop:
                at = keep.pop(0)
                if 0 < at < T:
                    self.saved[at] = states.h[at - 1 - start].copy()
            if stop > last:
                first = max(start, last)
                self.states.steps(first - last, stop - last).put(states.steps(first - start))
            self._outputs(start, stop, states)
        self.last = last

    def _outputs(self, start: int, stop: int, states: _States) -> None:
        losses, do = self._loss(start, stop, states)
        if self.losses is None:
            self.losses = np.empty((*self.x.shape[:2], *losses.shape[2:]), losses.dtype)
        self.losses[start:stop] = losses
        if self.network.V is not None:
            read = self._read(states)
            results = (np.empty_like(read), self.dV, self.dc)
            _engines.choose().output_gradients(do, read, self.network.V, results, start > 0)

    def back_through(self, start: int, stop: int, level: int) -> None:
        """Back through a segment, before which the state is saved: it is not needed any more then."""
        if level == len(self.schedule.sizes):
            state = self.saved.pop(start)
            if start != self.last:
                self._states(start, stop, state, self.states)
            self._back(start, stop, state)
            return
        starts = self.schedule.segments(start, stop, self.schedule.sizes[level])
        for before, at in itertools.pairwise(starts):
            if at not in self.saved:
                self.saved[at] = self._state_before(before, at)
        for at in reversed(starts):
            self.back_through(at, stop, level + 1)
            stop = at

    def _state_before(self, start: int, stop: int) -> np.ndarray:
        """The state before step `stop`, from the saved one before `start`."""
        state, most = self.saved[start], len(self.states.h)
        for first in range(start, stop, most):
            end = min(first + most, stop)
            state = self._states(first, end, state, self.states).h[-1].copy()
        return state

    def _states(self, start: int, stop: int, state: np.ndarray, out: _States) -> _States:
        states, (U, W, b, *_) = out.steps(0, stop - start), self.network
        rates = None if self.cell.alpha is None else states.rates
        forward(self.x[start:stop], U, W, b, state, cell=self.cell, rates=rates, out=states.h)
        return states

    def _back(self, start: int, stop: int, state: np.ndarray) -> None:
        """Back through a segment whose states are there, chunk by chunk."""
        first = start
        for start in reversed(self.schedule.segments(first, stop, self.schedule.chunk)):
            states = self.states.steps(start - first, stop - first)
            before = state if start == first else self.states.h[start - first - 1]
            _, do = self._loss(start, stop, states)
            # dr_t = Vᵀ do_t                                                     (10.19)
            dr = do if self.network.V is None else output(do, self.VT)
            dh = self.cell.slope(states.rates) * dr if self.cell.current else dr
            self.below.add(start, stop, dh, states, before)
            stop = start

    def _read(self, states: _States) -> np.ndarray:
        """What an output layer reads."""
        return states.rates if self.cell.current else states.h

    def _loss(self, start: int, stop: int, states: _States) -> tuple[np.ndarray, np.ndarray]:
        """The losses of some steps, and their gradient with respect to the outputs."""
        _, _, _, V, c, _, _ = self.network
        read = self._read(states)
        return self.criterion.at(slice(start, stop)).of_steps(read if V is None else output(read, V, c))


class _Sums:
    """The gradients of the recurrence, which the compiled loops add to, and what their sums have lost by rounding."""

    def __init__(self, network: Network, x: np.ndarray, x_gradient: bool) -> None:
        self.network, self.x, H = network, x, len(network.U)
        new: Callable[..., np.ndarray] = lambda *shape: np.empty(shape, x.dtype)
        self.dx = new(*x.shape) if x_gradient else None
        self.dU, self.dW, self.db, self.dh0 = new(*network.U.shape), new(H, H), new(H), new(x.shape[1], H)
        self.d_alpha = None if network.cell.alpha is None else new(H)
        self.lost = np.zeros((3, H), x.dtype)

    def add(self, start: int, stop: int, dh: np.ndarray, states: _States, before: np.ndarray) -> None:
        """Steps `start` to `stop`, the last ones that are left; before: the state before them."""
        U, W, dx = self.network.U, self.network.W, None if self.dx is None else self.dx[start:stop]
        accumulate = stop < len(self.x)
        if accumulate:
            last = dh[-1]
            last[np.abs(last) < np.finfo(last.dtype).tiny] = 0  # as the loops count it, which add in one pass
            last += self.dh0
        rates = None if self.d_alpha is None else states.rates
        results = (dx, self.dU, self.dW, self.db, self.dh0, None, self.d_alpha)
        arrays = (dh, states.h, self.x[start:stop], U, W, before)
        rest = (self.network.cell, None, None, None, False, rates, dx is not None, results, None)
        call = _calls.made(Call.backward(*arrays, *rest))
        call.add(weights=accumulate, x=False, lost=self.lost, goes_on=start > 0)
        _engines.choose().backward(call)
