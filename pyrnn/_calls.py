"""Calls of forward, backward and state_gradients whose arguments must be converted first, and what they return.

`conform_forward` and the others check all arguments, make arrays of them that the loops can take as they are, and make
the `Call`. Its `give` then makes what the caller wants of the result: without a batch axis, in the arrays of `out`.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn import _checks, _steps
from pyrnn import cell as cells
from pyrnn._core import memory
from pyrnn._core.call import Call
from pyrnn._results import Gradients

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import Compiled, MaybeArray, Results, Shape
    from pyrnn.cell import Cell


def conform_forward(
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    b: ArrayLike | None,
    h0: ArrayLike | None,
    cell: Cell,
    drive: ArrayLike | None,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    reverse: bool,
    rates: np.ndarray | None,
    out: np.ndarray | None,
    n_threads: int | None,
) -> Call:
    """The call of `pyrnn.forward` with these arguments."""
    given = {"x": x, "U": U, "W": W, "b": b, "h0": h0, "drive": drive}
    x, U, W, b, h0, drive = arrays = _checks.as_real_arrays("b", "h0", "drive", **given)
    states = _check_network(x, U, W, h0)
    H, batched = len(U), x.ndim == 3
    _checks.check_shape("b", b, (H,), "U", U)
    _checks.check_shape("drive", drive, states, "x", x, "U", U)
    cell.check_units(H)
    lengths, mask, reverse = _steps.check(lengths, mask, reverse, x)
    cells.check_written_rates(cell, rates, states, x.dtype, given, arrays)
    if out is not None:
        _checks.check_out(out, states, x.dtype, given | {"rates": rates}, (*arrays, rates))
    if not batched:
        x, drive = with_batch(x, drive)
        h0, lengths, mask = with_one_row(h0, lengths, mask)
    U, W, h0, mask = *_matrices(U, W), _rows(h0), _steps_first(mask, batched)
    # The loops write to out and rates themselves if they can, else to new arrays, which `give` copies to them.
    places = [None if a is None else np.asarray(a) if batched else np.asarray(a)[:, np.newaxis] for a in (out, rates)]
    call = None
    for h, r in (places, [None if a is None else np.empty(a.shape, a.dtype) for a in places]):
        call = call or Call.forward(x, U, W, b, h0, cell, drive, lengths, mask, reverse, r, h, n_threads)
    call = made(call)
    written_rates = call.rates

    def give(h: np.ndarray) -> np.ndarray:
        for a, to in zip((h, written_rates), places, strict=True):
            if to is not None and a is not to:
                to[...] = a
        return out if out is not None else h if batched else h[:, 0]

    call.give = give
    return call


def conform_backward(
    dh: ArrayLike,
    h: ArrayLike,
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    h0: ArrayLike | None,
    cell: Cell,
    drive: ArrayLike | None,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    reverse: bool,
    rates: ArrayLike | None,
    x_gradient: bool,
    out: Gradients | None,
    n_threads: int | None,
) -> Call:
    """The call of `pyrnn.backward` with these arguments."""
    given: dict[str, object] = {"dh": dh, "h": h, "x": x, "U": U, "W": W, "h0": h0, "drive": drive, "rates": rates}
    dh, h, x, U, W, h0, drive, rates = arrays = _checks.as_real_arrays("h0", "drive", "rates", **given)
    states = _check_network(x, U, W, h0)
    _checks.check_shape("h", h, states, "x", x, "U", U)
    for name, a in (("dh", dh), ("drive", drive), ("rates", rates)):
        _checks.check_shape(name, a, states, "h", h)
    cell.check_units(len(U))
    cells.check_read_rates(cell, rates)
    lengths, mask, reverse = _steps.check(lengths, mask, reverse, x)
    if out is not None:
        _check_gradients(out, x, U, drive, cell, given, arrays)
        x_gradient = out.x is not None
    batched = x.ndim == 3
    if not batched:
        dh, h, x, rates, drive = with_batch(dh, h, x, rates, drive)
        h0, lengths, mask = with_one_row(h0, lengths, mask)
    U, W, h0, mask = *_matrices(U, W), _rows(h0), _steps_first(mask, batched)
    steps = (lengths, mask, reverse)
    call = made(Call.backward(dh, h, x, U, W, h0, cell, drive, *steps, rates, x_gradient, None, n_threads))

    def give(results: Results) -> Results:
        if not batched:
            dx, dU, dW, db, dh0, d_drive, d_alpha = results
            dx, d_drive = _checks.map_given(lambda a: a[:, 0], dx, d_drive)
            results = (dx, dU, dW, db, dh0[0], d_drive, d_alpha)
        if out is None:
            return results
        written: Any = [None if a is None else to for a, to in zip(results, out, strict=True)]
        if isinstance(cell.alpha, float):
            written[6] = results[6]
        for a, to in zip(results, written, strict=True):
            if to is not None and to is not a:
                to[...] = a
        return tuple(written)

    call.give = give
    return call


def conform_state_gradients(
    dh: ArrayLike,
    h: ArrayLike,
    W: ArrayLike,
    cell: Cell,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    reverse: bool,
    rates: ArrayLike | None,
) -> Call:
    """The call of `pyrnn.state_gradients` with these arguments."""
    dh, h, W, rates = _checks.as_real_arrays("rates", dh=dh, h=h, W=W, rates=rates)
    check_states(h, W)
    for name, a in (("dh", dh), ("rates", rates)):
        _checks.check_shape(name, a, h.shape, "h", h)
    cell.check_units(len(W))
    cells.check_read_rates(cell, rates)
    lengths, mask, reverse = _steps.check(lengths, mask, reverse, h)
    batched = h.ndim == 3
    if not batched:
        dh, h, rates = with_batch(dh, h, rates)
        lengths, mask = with_one_row(lengths, mask)
    mask = _steps_first(mask, batched)
    call = made(Call.state_gradients(dh, h, _checks.matrix(W), cell, lengths, mask, reverse, rates, None))
    if not batched:
        call.give = lambda grad_h: grad_h[:, 0]
    return call


@np.errstate(all="ignore")
def pass_back_through_holes(compiled: Compiled, call: Call, cell: Cell) -> None:
    """Write to grad_h of a call with a mask what later steps pass back to steps that do not exist."""
    reverse, grad_h, leak = call.reverse, call.grad_h, call.alpha
    g_h, h, rates, mask = (in_order(a, reverse) for a in (grad_h, call.h, call.rates, call.mask))
    holes = np.nonzero(mask[1:] & ~mask[:-1])
    if len(holes[0]):
        after = (holes[0] + 1, holes[1])
        g = g_h[after]
        delta = g if leak is None else leak * g
        slopes: np.ndarray | int
        if cell.current:
            slopes = cell.slope(cell.phi(h[holes]))
        else:
            slopes = 1
            delta = cell.slope((h if leak is None else rates)[after]) * delta
        # Wᵀ delta                                                                                           (10.21)
        back = compiled.output(np.ascontiguousarray(delta)[np.newaxis], np.ascontiguousarray(call.W.T), None)[0]
        back *= slopes
        g_h[holes] = back if leak is None else (1 - leak) * g + back
    if call.sequences is not None:
        call.sequences.add_along_holes(call.dh, grad_h)


def made(call: Call | None) -> Call:
    """A call of conformed arguments; None would be a fault of who has conformed them."""
    if call is None:
        raise AssertionError("arguments that were conformed do not fit")
    return call


def _check_network(x: np.ndarray, U: np.ndarray, W: np.ndarray, h0: np.ndarray | None) -> Shape:
    """Check what forward and backward share; returns the shape of h."""
    _checks.check_sequence("x", "I", x)
    _checks.check_columns("U", "H", U, x.shape[-1], "x", x)
    H = U.shape[0]
    _checks.check_shape("W", W, (H, H), "U", U)
    states = (*x.shape[:-1], H)
    _checks.check_shape("h0", h0, states[1:], "x", x, "U", U)
    return states


def check_states(h: np.ndarray, W: np.ndarray) -> None:
    _checks.check_sequence("h", "H", h)
    H = h.shape[-1]
    _checks.check_shape("W", W, (H, H), "h", h)


def _matrices(*arrays: np.ndarray) -> list[np.ndarray]:
    return [_checks.matrix(a) for a in arrays]


def _rows(h0: np.ndarray | None) -> np.ndarray | None:
    return None if h0 is None else _checks.matrix(h0)


def _steps_first(mask: np.ndarray | None, batched: bool) -> np.ndarray | None:
    """A mask [T, B]; that of a sequence without a batch axis has got its axis in front."""
    return mask if mask is None or batched else mask.T


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
    return cell.phi(previous(h, h0, lengths, reverse))


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
def _check_gradients(
    out: Gradients,
    x: np.ndarray,
    U: np.ndarray,
    drive: np.ndarray | None,
    cell: Cell,
    given: dict[str, object],
    arrays: Collection[np.ndarray | None],
) -> None:
    """Check the Gradients that backward is to overwrite."""
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


def gradients(results: Results, cell: Cell, out: Gradients | None = None) -> Gradients:
    """Results as the public tuple, `out` if they are what it holds; with a number for alpha where it is one."""
    fields: tuple[MaybeArray, ...] = results
    if isinstance(cell.alpha, float):
        fields = (*results[:6], cell.alpha_gradient(fields[6]))
    if out is not None and all(map(operator.is_, fields, out)):
        return out
    return Gradients(*fields)
