"""Gradients of a long sequence in little memory: the states of some steps are kept, the others computed once more."""

import itertools
import operator
from typing import NamedTuple

import numpy as np

from pyrnn import _bptt, _checks, _engines, losses
from pyrnn._results import LossGradients
from pyrnn.functional import forward
from pyrnn.output import output

LEVELS = 8  # of segments in segments at most; the states of 3^8 chunks are then 24 kept ones


class Schedule(NamedTuple):
    """Which states are kept: those before the segments of time of `sizes[0]` steps, counted from the end of time.

    While one of them is at work, also those before its own segments of `sizes[1]` steps, and so on; of a segment of the
    last size all. Sizes are whole chunks of `chunk` steps; `output_chunk` is that of the output layer.
    """

    sizes: tuple[int, ...]
    chunk: int
    output_chunk: int

    def segments(self, start, stop, size):
        """Where the segments of this size begin in a larger one, which ends where one of them does."""
        return [start, *range(stop - size * ((stop - start - 1) // size), stop, size)]


# ---- What fits ------------------------------------------------------------------------------------------------------
def checked_limit(memory_limit):
    try:
        limit = operator.index(memory_limit)
    except TypeError:
        raise TypeError(f"memory_limit must be a positive number of bytes or None, got {memory_limit!r}") from None
    if isinstance(memory_limit, bool | np.bool_):
        raise TypeError(f"memory_limit must be a positive number of bytes or None, got {memory_limit!r}")
    if limit < 1:
        raise ValueError(f"memory_limit must be a positive number of bytes or None, got {limit}")
    return limit


def schedule_for(x, U, V, targets, weights, limit):
    """The `schedule` of checked arrays."""
    (H, I), T, B = U.shape, x.shape[0], x.shape[1] if x.ndim == 3 else 1
    wide = max(a.itemsize if a is not None and a.dtype.kind == "f" else 0 for a in (x, targets, weights))
    return schedule(T, B, I, H, H if V is None else V.shape[0], V is not None, x.itemsize, limit, wide)


def schedule(T, B, I, H, O, layer, size, limit, wide=8):
    """The schedule of the least time within `limit` bytes, or None if all states fit or there are none.

    size: of a number in bytes, wide: of one in a loss.
    """
    if T * B == 0:  # nothing to keep
        return None
    chunk = _bptt.steps_of_a_chunk(T, B, max(H, I), size)
    output_chunk = _bptt.steps_of_a_chunk(T, B, max(H, O), size) if layer else chunk
    state, rows, output_rows = B * H * size, chunk * B, output_chunk * B
    # Beside the states: what the losses and the compiled loops take for a chunk, the parameters packed and their
    # gradients twice, and the losses of all steps, whose sum must not depend on the segments.
    of_loss = O * (2 * size + 2 * wide + 8) + 32
    work = rows * (size * (5 * H + 3 * I) + of_loss) + output_rows * (size * (4 * H + I + 2 * O) + of_loss)
    work += 4 * size * (H * H + H * I + H * O)
    whole = work + T * (2 * state + B * of_loss)
    if whole <= limit:
        return None
    fixed, chunks = work + 8 * T * B, -(-T // chunk)

    def needed(leaf, levels):
        return fixed + (leaf * chunk + levels * _branches(-(-chunks // leaf), levels)) * state

    for levels in range(1, LEVELS + 1):
        for leaf in range(min(chunks, max(1, (limit - fixed) // max(chunk * state, 1))), 0, -1):  # longest first
            if needed(leaf, levels) <= limit:
                branches = _branches(-(-chunks // leaf), levels)
                sizes = (leaf * chunk * branches**level for level in range(levels - 1, -1, -1))
                return Schedule(tuple(sizes), chunk, output_chunk)
    # A last segment of more chunks than this takes more than one of one chunk with all levels.
    most = min(chunks, 1 + LEVELS * _branches(chunks, LEVELS))
    least = min(needed(leaf, levels) for leaf in range(1, most + 1) for levels in range(1, LEVELS + 1))
    raise ValueError(f"memory_limit must be at least {min(whole, least)} bytes for these arrays, got {limit}")


def _branches(n, levels):
    """The least number whose power is n or more."""
    branches = round(n ** (1 / levels))
    return branches if branches**levels >= n else branches + 1


# ---- Forward and back -----------------------------------------------------------------------------------------------
@losses.QUIET
def loss_and_gradients(schedule, x, U, W, b, V, c, h0, targets, loss, weights, x_gradient):
    """As `pyrnn.loss_and_gradients` of checked arguments.

    The same bits: the sums over time are those of the compiled loops, chunk by chunk in their order, the recurrent ones
    from the last chunk to the first, those of the output layer from the first one on.
    """
    batched = x.ndim == 3
    if not batched:
        x, targets = x[:, np.newaxis], targets[:, np.newaxis]
        h0, weights = None if h0 is None else h0[np.newaxis], None if weights is None else weights[:, np.newaxis]
    network = _Network(schedule, x, U, W, b, V, c, h0, targets, losses.OF_STEPS[loss], weights, x_gradient)
    network.forward()
    network.back_through(0, len(x), 0)
    value, below = network.losses.sum(dtype=np.float64), network.below
    dx, dh0 = below.dx, below.dh0
    if not batched:
        dx, dh0 = None if dx is None else dx[:, 0], dh0[0]
    db = None if b is None else below.db
    dc = None if c is None else network.dc
    return value, LossGradients(below.dU, below.dW, db, network.dV, dc, dx, dh0)


class _Network:
    """A network on its way through time."""

    def __init__(self, schedule, x, U, W, b, V, c, h0, targets, loss, weights, x_gradient):
        self.schedule, self.x, self.b, self.c = schedule, x, b, c
        self.U, self.W = _checks.matrix(U), _checks.matrix(W)
        self.V = None if V is None else _checks.matrix(V)
        self.targets, self.loss, self.weights = targets, loss, weights
        T, B, H = len(x), x.shape[1], len(U)
        self.VT = None if V is None else np.ascontiguousarray(V.T)
        self.saved = {0: np.zeros((B, H), x.dtype) if h0 is None else _checks.matrix(h0)}  # the state before a step
        self.h = np.empty((min(schedule.sizes[-1], T), B, H), x.dtype)  # of the steps of a segment of the last size
        self.last = None  # where the last of all begins: its states are there when the way back begins
        self.losses = None
        self.dV, self.dc = (None, None) if V is None else (np.empty(V.shape, x.dtype), np.empty(len(V), x.dtype))
        self.below = _Sums(self, x_gradient)

    def forward(self):
        """Through all of time: the losses, the gradients of the output layer, and the first states to keep."""
        T, step = len(self.x), self.schedule.output_chunk
        keep, last = {0}, 0
        for size in self.schedule.sizes:
            starts = self.schedule.segments(last, T, size)
            keep.update(starts)
            last = starts[-1]
        buffer = np.empty((step, *self.h.shape[1:]), self.h.dtype)
        state = self.saved[0]
        keep = sorted(keep)
        for start in range(0, T, step):
            stop = min(start + step, T)
            h = self._states(start, stop, state, buffer)
            state = h[-1].copy()
            while keep and keep[0] <= stop:
                at = keep.pop(0)
                if 0 < at < T:
                    self.saved[at] = h[at - 1 - start].copy()
            if stop > last:
                first = max(start, last)
                self.h[first - last : stop - last] = h[first - start :]
            self._outputs(start, stop, h)
        self.last = last

    def _outputs(self, start, stop, h):
        losses, do = self._loss(start, stop, h)
        if self.losses is None:
            self.losses = np.empty((*self.x.shape[:2], *losses.shape[2:]), losses.dtype)
        self.losses[start:stop] = losses
        if self.V is not None:
            results = (np.empty_like(h), self.dV, self.dc)
            _engines.choose().output_gradients(do, h, self.V, results, start > 0)

    def back_through(self, start, stop, level):
        """Back through a segment, before which the state is saved: it is not needed any more then."""
        if level == len(self.schedule.sizes):
            state = self.saved.pop(start)
            if start != self.last:
                self._states(start, stop, state, self.h)
            self._back(start, stop, state)
            return
        starts = self.schedule.segments(start, stop, self.schedule.sizes[level])
        for before, at in itertools.pairwise(starts):
            if at not in self.saved:
                self.saved[at] = self._state_before(before, at)
        for at in reversed(starts):
            self.back_through(at, stop, level + 1)
            stop = at

    def _state_before(self, start, stop):
        """The state before step `stop`, from the saved one before `start`."""
        state = self.saved[start]
        for first in range(start, stop, len(self.h)):
            end = min(first + len(self.h), stop)
            state = self._states(first, end, state, self.h)[-1].copy()
        return state

    def _states(self, start, stop, state, out):
        return forward(self.x[start:stop], self.U, self.W, self.b, state, out=out[: stop - start])

    def _back(self, start, stop, state):
        """Back through a segment whose states are there, chunk by chunk."""
        first = start
        for start in reversed(self.schedule.segments(first, stop, self.schedule.chunk)):
            h = self.h[start - first : stop - first]
            before = state if start == first else self.h[start - first - 1]
            _, do = self._loss(start, stop, h)
            # dh_t = Vᵀ do_t                                                     (10.19)
            dh = do if self.V is None else output(do, self.VT)
            self.below.add(start, stop, dh, h, before)
            stop = start

    def _loss(self, start, stop, h):
        """The losses of some steps, and their gradient with respect to the outputs, in the dtype of the network."""
        o = h if self.V is None else output(h, self.V, self.c)
        weights = None if self.weights is None else self.weights[start:stop]
        losses, do = self.loss(o, self.targets[start:stop], weights)
        return losses, do.astype(h.dtype, copy=False)


class _Sums:
    """The gradients of the recurrence, which the compiled loops add to, and what their sums have lost by rounding."""

    def __init__(self, network, x_gradient):
        self.network, x, H = network, network.x, len(network.U)
        new = lambda *shape: np.empty(shape, x.dtype)
        self.dx = new(*x.shape) if x_gradient else None
        self.dU, self.dW, self.db, self.dh0 = new(*network.U.shape), new(H, H), new(H), new(x.shape[1], H)
        self.lost = np.zeros((3, H), x.dtype)

    def add(self, start, stop, dh, h, before):
        """Steps `start` to `stop`, the last ones that are left; before: the state before them."""
        network, dx = self.network, None if self.dx is None else self.dx[start:stop]
        accumulate = stop < len(network.x)
        if accumulate:
            dh[-1] += self.dh0
        results = (dx, self.dU, self.dW, self.db, self.dh0, None, None)
        options = (None, 0, None, False, False, None, None, results, self.lost, accumulate, start > 0)
        compiled = _engines.choose()
        compiled.backward(dh, h, network.x[start:stop], network.U, network.W, before, *options)
