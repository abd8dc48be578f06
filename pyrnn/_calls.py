"""The calls of an engine behind forward, backward and state_gradients: in the order of the steps that exist.

Arrays here are checked, of one dtype, with a batch axis. `steps` is (lengths [B], mask [T, B], reverse), the first two
may be None.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pyrnn import _checks
from pyrnn._core import engine_blas, memory
from pyrnn._core.sequences import Sequences, common
from pyrnn._results import Gradients

if TYPE_CHECKING:
    from pyrnn._types import CallOptions, CellOptions, Compiled, MaybeArray, Results, Shape, StepOptions
    from pyrnn.cell import Cell


def forward(
    compiled: Compiled,
    x: np.ndarray,
    U: np.ndarray,
    W: np.ndarray,
    b: np.ndarray | None,
    h0: np.ndarray,
    h: np.ndarray,
    options: CallOptions,
    drive: np.ndarray | None,
    rates: np.ndarray | None,
    steps: StepOptions,
) -> None:
    """Write h, and rates unless None; options: n_threads, and phi, alpha and current of the cell."""
    lengths, mask, reverse = steps
    if lengths is mask is None:
        if reverse:
            x, drive, h, rates = (in_order(a, True) for a in (x, drive, h, rates))
        compiled.forward(x, U, W, b, h0, h, *options, drive, rates)
        return
    if (n := common(lengths)) == len(x):
        forward(compiled, x, U, W, b, h0, h, options, drive, rates, (None, None, reverse))
        return
    if n >= 0:  # one length for all
        x, drive, used_h, used_rates = _checks.map_given(lambda a: a[:n], x, drive, h, rates)
        forward(compiled, x, U, W, b, h0, used_h, options, drive, used_rates, (None, None, reverse))
        for a in (h, rates):
            if a is not None:
                a[n:] = 0
        return
    sequences = Sequences(len(x), x.shape[1], *steps)
    if mask is None and compiled.takes_sequences(len(sequences.order)):
        first = sequences.first_rows(h0)
        compiled.forward(x, U, W, b, first, h, *options, drive, rates, sequences.offsets, sequences)  # type: ignore[call-arg]
        for a in (h, rates):
            if a is not None:
                sequences.fill(a)
        return
    packed_h, packed_rates = _checks.map_given(lambda a: sequences.empty(x, a.shape[2]), h, rates)
    x, drive = _checks.map_given(sequences.gather, x, drive)
    first = sequences.first_rows(h0)
    compiled.forward(x, U, W, b, first, packed_h, *options, drive, packed_rates, sequences.offsets)
    sequences.scatter(packed_h, h, None if mask is None else h0)
    if rates is not None:
        sequences.scatter(packed_rates, rates)


def backward(
    compiled: Compiled,
    dh: np.ndarray,
    h: np.ndarray,
    x: np.ndarray,
    U: np.ndarray,
    W: np.ndarray,
    h0: np.ndarray,
    options: CallOptions,
    rates: np.ndarray | None,
    steps: StepOptions,
    results: Results,
    accumulate: bool = False,
    add_x: bool = False,
) -> None:
    """Write the results (dx, dU, dW, db, dh0, d_drive, d_alpha), of which some may be None; options as in forward.

    accumulate: add to dU, dW, db and d_alpha instead, and add_x to dx.
    """
    lengths, mask, reverse = steps
    dx, dU, dW, db, dh0, d_drive, d_alpha = results
    n_threads, phi, leak, current = options
    cell = (n_threads, phi, leak, current, d_drive is not None)
    adds = (None, accumulate, False, add_x)
    if lengths is mask is None:
        if reverse:
            dh, h, x, rates, dx, d_drive = (in_order(a, True) for a in (dh, h, x, rates, dx, d_drive))
            results = (dx, dU, dW, db, dh0, d_drive, d_alpha)
        compiled.backward(dh, h, x, U, W, h0, *cell, rates, None, results, *adds)
        return
    if (n := common(lengths)) == len(x):
        steps = (None, None, reverse)
        backward(compiled, dh, h, x, U, W, h0, options, rates, steps, results, accumulate, add_x)
        return
    if n >= 0:
        dh, h, x, rates, used_dx, used_drive = _checks.map_given(lambda a: a[:n], dh, h, x, rates, dx, d_drive)
        results = (used_dx, dU, dW, db, dh0, used_drive, d_alpha)
        steps = (None, None, reverse)
        backward(compiled, dh, h, x, U, W, h0, options, rates, steps, results, accumulate, add_x)
        for a in (None if add_x else dx, d_drive):
            if a is not None:
                a[n:] = 0
        return
    sequences = Sequences(len(x), x.shape[1], *steps)
    if mask is None and compiled.takes_sequences(len(sequences.order)):
        dh0[...] = 0
        first, d_first = sequences.first_rows(h0), sequences.first_rows(h0)
        results = (dx, dU, dW, db, d_first, d_drive, d_alpha)
        arguments = (first, *cell, rates, sequences.offsets, results, *adds, sequences)
        compiled.backward(dh, h, x, U, W, *arguments)  # type: ignore[call-arg]
        sequences.add_first_rows(d_first, dh0)
        for a in (None if add_x else dx, d_drive):
            if a is not None:
                sequences.fill(a)
        return
    packed_dh = sequences.gather_gradients(dh, dh0)
    h, x, rates = _checks.map_given(sequences.gather, h, x, rates)
    first, d_first = sequences.first_rows(h0), sequences.first_rows(h0)
    packed_dx, packed_drive = _checks.map_given(lambda a: sequences.empty(x, a.shape[2]), dx, d_drive)
    packed = (packed_dx, dU, dW, db, d_first, packed_drive, d_alpha)
    compiled.backward(packed_dh, h, x, U, W, first, *cell, rates, sequences.offsets, packed, *adds[:-1])
    sequences.add_first_rows(d_first, dh0)
    if dx is not None:
        to = memory.empty(dx.shape, dx.dtype) if add_x else dx
        sequences.scatter(packed_dx, to)
        if add_x:
            dx += to
    if d_drive is not None:
        sequences.scatter(packed_drive, d_drive)


def state_gradients(
    compiled: Compiled,
    dh: np.ndarray,
    h: np.ndarray,
    W: np.ndarray,
    cell: Cell,
    leak: np.ndarray | None,
    rates: np.ndarray | None,
    steps: StepOptions,
) -> np.ndarray:
    """grad_h, a new array; leak: alpha [H] of the cell, or None."""
    lengths, mask, reverse = steps
    numbers: CellOptions = (cell.number, leak, cell.current)
    if lengths is mask is None:
        dh, h, rates = (in_order(a, reverse) for a in (dh, h, rates))
        grad_h = compiled.state_gradients(dh, h, W, *numbers, rates)
        return np.ascontiguousarray(grad_h[::-1]) if reverse else grad_h
    sequences = Sequences(len(h), h.shape[1], *steps)
    packed_dh = sequences.gather_gradients(dh, np.empty(h.shape[1:], h.dtype))
    packed_h, packed_rates = _checks.map_given(sequences.gather, h, rates)
    packed = compiled.state_gradients(packed_dh, packed_h, W, *numbers, packed_rates, sequences.offsets)
    grad_h = memory.empty(h.shape, h.dtype)
    sequences.scatter(packed, grad_h)
    if mask is not None:
        _pass_back(compiled, grad_h, h, W, cell, leak, rates, mask, reverse)
        sequences.add_along_holes(dh, grad_h)
    return grad_h


@np.errstate(all="ignore")
def _pass_back(
    compiled: Compiled,
    grad_h: np.ndarray,
    h: np.ndarray,
    W: np.ndarray,
    cell: Cell,
    leak: np.ndarray | None,
    rates: np.ndarray | None,
    mask: np.ndarray,
    reverse: bool,
) -> None:
    """Write what a step passes back to the place of the step before it, where `mask` leaves that one out."""
    grad_h, h, rates, mask = (in_order(a, reverse) for a in (grad_h, h, rates, mask))
    holes = np.nonzero(mask[1:] & ~mask[:-1])
    if len(holes[0]) == 0:
        return
    after = (holes[0] + 1, holes[1])
    g = grad_h[after]
    delta = g if leak is None else leak * g
    slopes: np.ndarray | int
    if cell.current:
        slopes = cell.slope(cell.phi(h[holes]))
    else:
        slopes = 1
        delta = cell.slope((h if leak is None else rates)[after]) * delta
    # Wᵀ delta                                                                                               (10.21)
    back = slopes * compiled.output(np.ascontiguousarray(delta)[np.newaxis], np.ascontiguousarray(W.T), None)[0]
    grad_h[holes] = back if leak is None else (1 - leak) * g + back


def previous(h: np.ndarray, h0: np.ndarray | None, lengths: np.ndarray | None, reverse: bool) -> np.ndarray:
    """h_{t-1} for every step, a new array; h may have no batch axis, and h0 None stands for zeros."""
    before, first = memory.empty(h.shape, h.dtype), np.zeros((), h.dtype) if h0 is None else h0
    if reverse:
        before[:-1], before[-1:] = h[1:], first
        if lengths is not None:
            np.copyto(before, first, where=_times(h) == lengths[..., np.newaxis] - 1)
    else:
        before[1:], before[:1] = h[:-1], first
    return before


def phi_of_previous(
    h: np.ndarray, h0: np.ndarray | None, cell: Cell, lengths: np.ndarray | None, reverse: bool
) -> np.ndarray:
    """phi(h_{t-1}) for every step."""
    before, n = previous(h, h0, lengths, reverse), h.shape[-1]
    return engine_blas._phi(before.reshape(before.size // max(n, 1), n), cell.number).reshape(h.shape)


def to_previous(a: np.ndarray, lengths: np.ndarray | None, reverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """What belongs to h_{t-1} of every step, at the places of these: an array like a, and that of h0."""
    moved, first = np.zeros_like(a), np.zeros(a.shape[1:], a.dtype)
    if reverse and lengths is not None:
        begins = _times(a) == lengths[..., np.newaxis] - 1
        moved[1:] = np.where(begins[:-1], 0, a[:-1])
        first += np.where(begins, a, 0).sum(axis=0)
    elif reverse:
        moved[1:] = a[:-1]
        first += a[-1:].sum(axis=0)
    else:
        moved[:-1] = a[1:]
        first += a[:1].sum(axis=0)
    return moved, first


def missing_steps(h: np.ndarray, lengths: np.ndarray | None, mask: np.ndarray | None) -> np.ndarray | None:
    """True where a step does not exist; None if all do."""
    if mask is not None:
        return ~mask
    return None if lengths is None else (_times(h) >= lengths[..., np.newaxis])[..., 0]


def _times(h: np.ndarray) -> np.ndarray:
    return np.arange(len(h)).reshape(-1, *[1] * (h.ndim - 1))


def in_order(a: np.ndarray | None, reverse: bool) -> MaybeArray:
    """A sequence in the order of the steps."""
    return a[::-1] if reverse and a is not None else a


# ---- A batch of one -------------------------------------------------------------------------------------------------
def with_batch(*sequences: np.ndarray | None) -> list[MaybeArray]:
    """Sequences [T, n], or None, as [T, 1, n]."""
    return _checks.map_given(lambda a: a[:, np.newaxis], *sequences)


def with_one_row(*arrays: np.ndarray | None) -> list[MaybeArray]:
    """What has one entry for each sequence, or None, with an axis for them."""
    return _checks.map_given(lambda a: a[np.newaxis], *arrays)


def initial(h0: np.ndarray | None, B: int, H: int, dtype: np.dtype) -> np.ndarray:
    return np.zeros((B, H), dtype) if h0 is None else _checks.matrix(h0)


# ---- What backward writes to ----------------------------------------------------------------------------------------
def new_results(x_gradient: bool, x: np.ndarray, U: np.ndarray, drive: bool, leak: np.ndarray | None) -> Results:
    """Arrays for the results of backward: (dx, dU, dW, db, dh0, d_drive, d_alpha), None for what is not wanted."""
    T, B, _ = x.shape
    H = len(U)
    shapes = [x.shape if x_gradient else None, U.shape, (H, H), (H,), (B, H)]
    shapes += [(T, B, H) if drive else None, None if leak is None else (H,)]
    return cast("Results", tuple(None if shape is None else memory.empty(shape, x.dtype) for shape in shapes))


def results_of(
    out: Gradients, x: np.ndarray, U: np.ndarray, inputs: tuple[object, ...], drive: bool, cell: Cell
) -> Results | None:
    """The arrays of `out`, Gradients of an earlier call, as such results; None if they do not fit as they lie."""
    if type(out) is not Gradients or (out.drive is None and drive):
        return None
    d_alpha = out.alpha
    if cell.alpha is None:
        d_alpha = None
    elif np.ndim(cell.alpha) == 0:  # its gradient is a sum over the units
        d_alpha = np.empty(len(U), x.dtype)
    elif not isinstance(d_alpha, np.ndarray):
        return None
    results = (*out[:5], out.drive if drive else None, d_alpha)
    return results if engine_blas.fit_results(results, x, U, inputs) else None


def check_gradients(
    out: Gradients,
    x: np.ndarray,
    U: np.ndarray,
    drive: np.ndarray | None,
    cell: Cell,
    given: Mapping[str, object],
    arrays: Collection[np.ndarray | None],
) -> None:
    """Check the Gradients that backward is to overwrite."""
    if not isinstance(out, Gradients):
        raise TypeError(f"out must be a pyrnn.Gradients, as backward returns it, got {type(out).__name__}")
    H = len(U)
    states = (*x.shape[:-1], H)
    shapes: dict[str, Shape] = {"x": x.shape, "U": U.shape, "W": (H, H), "b": (H,), "h0": states[1:]}
    if drive is not None:
        shapes["drive"] = states
    if np.ndim(cell.alpha):
        shapes["alpha"] = (H,)
    seen: list[tuple[str, np.ndarray]] = []
    for name, shape in shapes.items():
        a = getattr(out, name)
        if a is None and name == "x":
            continue
        _checks.check_out(a, shape, x.dtype, given, arrays, name=f"out.{name}")
        for other, b in seen:
            if _checks.overlap(a, b):
                raise ValueError(f"out.{name} must not share memory with out.{other}")
        seen.append((name, a))


def names_to_add(accumulate: Collection[str], out: Gradients | None) -> Collection[str]:
    """Check the names of the fields of `out` that backward is to add to; returns them as a set."""
    if type(accumulate) is tuple and (not accumulate or (accumulate == ("x",) and getattr(out, "x", None) is not None)):
        return accumulate  # what most ask for, in no time
    names = Gradients._fields
    if isinstance(accumulate, str) or not isinstance(accumulate, Collection):
        raise TypeError(f"accumulate must be a collection of names, such as ('x',), got {accumulate!r}")
    for name in accumulate:
        if not isinstance(name, str) or name not in names:
            raise ValueError(f"accumulate must hold names among {', '.join(map(repr, names))}, got {name!r}")
    if accumulate and out is None:
        raise ValueError("accumulate must be empty without out, which it adds to, got " + ", ".join(accumulate))
    for name in accumulate if isinstance(out, Gradients) else ():
        if getattr(out, name) is None:
            raise ValueError(f"accumulate must hold names of gradients that out has, got {name!r}, which is None there")
    return frozenset(accumulate)


def add_gradients(
    compiled: Compiled,
    arguments: tuple[
        np.ndarray,
        np.ndarray,
        np.ndarray,
        np.ndarray,
        np.ndarray,
        np.ndarray,
        CallOptions,
        np.ndarray | None,
        StepOptions,
    ],
    results: Results,
    to_add: Collection[str],
    cell: Cell,
    out: Gradients | None,
) -> Gradients:
    """`backward` with these arguments, adding to those of the results, the arrays of `out`, that `to_add` names."""
    if to_add == ("x",):
        backward(compiled, *arguments, results, False, True)
        return gradients(results, cell, out)
    dx, dU, dW, db, *others = results
    accumulate = not {"U", "W", "b"}.isdisjoint(to_add)
    if accumulate:
        for name, a in (("U", dU), ("W", dW), ("b", db)):
            if name not in to_add:
                a.fill(0)
    names = ("h0", "drive", "alpha")  # the loops only write the first two, and what the third holds they would divide
    apart: list[MaybeArray] = [
        np.zeros_like(a) if a is not None and (name in to_add or (accumulate and name == "alpha")) else a
        for name, a in zip(names, others, strict=True)
    ]
    dh0, d_drive, d_alpha = apart
    backward(compiled, *arguments, (dx, dU, dW, db, dh0, d_drive, d_alpha), accumulate, "x" in to_add)
    for name, a, to in zip(names, apart, others, strict=True):
        if to is not None and a is not to:
            put(a, to, name in to_add and not (name == "alpha" and np.ndim(cell.alpha) == 0))
    return gradients(results, cell, out, "alpha" in to_add)


def put(a: np.ndarray, to: np.ndarray, add: bool) -> None:
    """Write a to an array, or add it."""
    if add:
        to += a
    else:
        to[...] = a


def gradients(
    results: tuple[MaybeArray, ...], cell: Cell, out: Gradients | None = None, add_alpha: bool = False
) -> Gradients:
    """Results as the public tuple, `out` if they are what it holds; with a number for alpha where it is one.

    add_alpha: add the number to that of `out`.
    """
    if isinstance(cell.alpha, float):
        d_alpha = cell.alpha_gradient(results[6])
        before: Any = out.alpha if add_alpha and out is not None else 0
        results = (*results[:6], d_alpha + before if add_alpha else d_alpha)
    if out is not None and all(map(operator.is_, results, out)):
        return out
    return Gradients(*results)
