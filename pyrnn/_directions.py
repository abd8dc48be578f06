"""A run that is differentiated in directions, and the compiled calls there.

`conform` checks a Trajectory and a Direction, `with_batch` and `in_order` lay them out as the compiled calls want them:
arrays of one dtype with a batch axis, in the order of the steps, with an array for h0. The derivative of a named array
in a direction has its name and ``_dot``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pyrnn import _calls, _checks, functional
from pyrnn._core import memory, tangents
from pyrnn._core.sequences import Sequences
from pyrnn.trajectory import Direction, Trajectory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from pyrnn._types import MaybeArray

STILL = Direction()
Pair = tuple[np.ndarray, np.ndarray]


# ---- Arguments ------------------------------------------------------------------------------------------------------
def conform(
    run: Trajectory, direction: Direction = STILL, **others: ArrayLike | None
) -> tuple[Trajectory, Direction, list[MaybeArray]]:
    """The run, the direction and other arrays like h, checked and of one dtype; of the others dh_dot may be None.

    All arrays but alpha take part in the dtype. With or without a batch axis, and in the order of time, as they come.
    """
    check_run(run)
    if not isinstance(direction, Direction):
        raise TypeError(f"direction must be a pyrnn.Direction, got {type(direction).__name__}")
    network = run.network
    given = {"h": run.h, "x": run.require_x(), "U": network.U, "W": network.W, "h0": run.h0, "rates": run.rates}
    dots = {f"direction.{name}": a for name, a in zip(direction._fields[:-1], direction, strict=False)}
    arrays = _checks.as_real_arrays("h0", "dh_dot", *dots, **given, **dots, **others)
    h, x, U, W, h0, rates, *rest = arrays
    shapes = (x.shape, U.shape, W.shape, U.shape[:1], h.shape[1:], h.shape)
    for (name, _), a, shape in zip(dots.items(), rest, shapes, strict=False):
        _checks.check_shape(name, a, shape)
    for name, a in zip(others, rest[len(dots) :], strict=True):
        _checks.check_shape(name, a, h.shape, "h", h)
    x_dot, U_dot, W_dot, b_dot, h0_dot, drive_dot, *others_ = rest
    U, W = _checks.matrix(U), _checks.matrix(W)
    U_dot, W_dot = _checks.map_given(_checks.matrix, U_dot, W_dot)
    (b_dot,) = _checks.map_given(np.ascontiguousarray, b_dot)
    direction = Direction(x_dot, U_dot, W_dot, b_dot, h0_dot, drive_dot, _alpha_dot(direction.alpha, run, h.dtype))
    return run._replace(network=network._replace(U=U, W=W), x=x, h0=h0, h=h, rates=rates), direction, others_


def check_run(run: object, all_steps: bool = False) -> None:
    """Raise an error unless this is a Trajectory, and if asked, one whose steps all exist."""
    if not isinstance(run, Trajectory):
        raise TypeError(f"run must be a pyrnn.Trajectory, as simulate returns it, got {type(run).__name__}")
    if all_steps and not (run.lengths is run.mask is None):
        kind = "mask" if run.lengths is None else "lengths"
        raise ValueError(f"run must be without lengths and mask here, whose steps do not all exist, got {kind}")


def _alpha_dot(given: ArrayLike | None, run: Trajectory, dtype: np.dtype) -> np.ndarray | None:
    """That of each unit."""
    if given is None:
        return None
    if run.network.cell.alpha is None:
        raise ValueError("direction.alpha must be None for a cell without alpha, got a direction")
    H = len(run.network.U)
    names: Mapping[str, Any] = {"direction.alpha": given}
    (alpha_dot,) = _checks.as_real_arrays(**names)
    if alpha_dot.shape not in ((), (H,)):
        raise ValueError(f"direction.alpha must be a number or have shape ({H},), got {alpha_dot.shape}")
    return np.ascontiguousarray(np.broadcast_to(alpha_dot, (H,)), dtype)


def with_batch(
    run: Trajectory, direction: Direction = STILL, *others: np.ndarray | None
) -> tuple[Trajectory, Direction, list[MaybeArray]]:
    """A conformed run, its direction and other sequences with a batch axis, of one if they have none."""
    h, h0 = run.h, run.h0
    if h.ndim == 2:
        dots: Any = direction
        sequences = (h, run.x, run.rates, dots.x, dots.drive, *others)
        h, x, rates, x_dot, drive_dot, *others_ = _calls.with_batch(*sequences)
        h0, h0_dot, lengths, mask = _calls.with_one_row(h0, dots.h0, run.lengths, run.mask)
        mask = None if mask is None else mask.T
        run = run._replace(h=h, x=x, rates=rates, lengths=lengths, mask=mask)
        direction, others = direction._replace(x=x_dot, h0=h0_dot, drive=drive_dot), tuple(others_)
    _, B, H = h.shape
    return run._replace(h0=_calls.initial(h0, B, H, h.dtype)), direction, list(others)


def in_order(
    run: Trajectory, direction: Direction = STILL, *others: np.ndarray | None
) -> tuple[Trajectory, Direction, list[MaybeArray]]:
    """A run whose steps all exist, its direction and other sequences, forwards in the order of the steps."""
    dots: Any = direction
    sequences = (run.h, run.x, run.rates, dots.x, dots.drive, *others)
    h, x, rates, x_dot, drive_dot, *others_ = (_calls.in_order(a, run.reverse) for a in sequences)
    run = run._replace(h=h, x=x, rates=rates, reverse=False)
    return run, direction._replace(x=x_dot, drive=drive_dot), others_


# ---- What such a run leads to ---------------------------------------------------------------------------------------
def fed(run: Trajectory) -> Pair:
    """What W multiplies in the step after each, and in the first step."""
    h0: MaybeArray = run.h0
    return (run.rates, run.network.cell.phi(h0)) if run.network.cell.current else (run.h, h0)


def read_slope(run: Trajectory) -> np.ndarray | None:
    """phi'(h), through which gradients of what an output layer reads reach h; None where that is h itself."""
    return run.network.cell.slope(run.rates) if run.network.cell.current else None


def tangent(
    run: Trajectory,
    direction: Direction,
    h_dot: np.ndarray,
    second: np.ndarray | None = None,
    offsets: np.ndarray | None = None,
) -> None:
    """Write h_dot, and to `second` a_dot; in the current form, for which it is needed, the tangent of phi(h)."""
    if run.network.cell.current and second is None:
        second = memory.empty(h_dot.shape, h_dot.dtype)
    tangents.tangent(run, direction, offsets, h_dot, second)


def tangent_of_steps(run: Trajectory, direction: Direction, h_dot: np.ndarray) -> None:
    """Write h_dot of the steps that exist, in the order of time."""
    if run.lengths is run.mask is None:
        ordered, moves, _ = in_order(run, direction)
        tangent(ordered, moves, _calls.in_order(h_dot, run.reverse))
        return
    T, B, H = run.h.shape
    sequences, dots = Sequences(T, B, run.lengths, run.mask, run.reverse), cast("Any", direction)
    h, x, rates, x_dot, drive_dot = _checks.map_given(sequences.gather, run.h, run.x, run.rates, dots.x, dots.drive)
    h0, h0_dot = _checks.map_given(sequences.first_rows, run.h0, dots.h0)
    packed = sequences.empty(h, H)
    moves = direction._replace(x=x_dot, h0=h0_dot, drive=drive_dot)
    tangent(run._replace(h=h, x=x, rates=rates, h0=h0), moves, packed, None, sequences.offsets)
    passed_on = np.zeros((B, H), h.dtype) if dots.h0 is None else dots.h0
    sequences.scatter(packed, h_dot, None if run.mask is None else passed_on)


def kept_tangent(run: Trajectory, direction: Direction) -> Pair:
    """(h_dot, second), new arrays as `second_order` reads them."""
    T, B, H = run.h.shape
    h_dot, second = (tangents.padded_rows(run.h, T, B, H) for _ in range(2))
    tangent(run, direction, h_dot, second)
    return h_dot, second


def gradient_states(run: Trajectory, dh: np.ndarray) -> Pair:
    """grad_h of every step, and delta, the gradient at its pre-activation, from the dh of a loss."""
    W, cell = run.network.W, run.network.cell
    g = functional.state_gradients(dh, run.h, W, cell=cell, rates=run.written_rates)
    return g, tangents.deltas(g, cell, run.rates)


def second_order(
    run: Trajectory,
    direction: Direction,
    moved: Pair,
    states: Pair,
    dh_dot: np.ndarray | None,
    x_gradient: bool = False,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray, np.ndarray, np.ndarray]:
    """(delta_dot, g_dot, dx_dot, dU_dot, dW_dot, db_dot); moved: of `kept_tangent`, states: of `gradient_states`."""
    return tangents.second_order(*states, dh_dot, *moved, run, direction, x_gradient)
