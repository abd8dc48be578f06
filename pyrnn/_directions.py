"""A point at which a cell is differentiated in directions, and the compiled calls there.

The derivative of a named array in a direction has its name and ``_dot``.
"""

from typing import NamedTuple

import numpy as np

from pyrnn import _bptt, _calls, _cell, _checks, _engines, _memory, _network, _sequences, _tangents

DOTS = ("x_dot", "U_dot", "W_dot", "b_dot", "h0_dot", "drive_dot", "alpha_dot")


class Point(NamedTuple):
    """Checked arrays of one dtype, with a batch axis: what `forward` was called with, and what it returned.

    rates are phi of each step, None without alpha. The state of the step before is h0 or h, also in other orders of
    time: arrays are in the order of the steps.
    """

    h: np.ndarray
    x: np.ndarray
    U: np.ndarray
    W: np.ndarray
    h0: np.ndarray
    rates: np.ndarray | None
    phi: int
    leak: np.ndarray | None
    current: bool

    @property
    def cell(self):
        return self.phi, self.leak, self.current

    @property
    def fed(self):
        """What W multiplies in the step after each, and in the first step."""
        return (self.rates, rates_of(self.h0, self.phi)) if self.current else (self.h, self.h0)

    @property
    def read(self):
        """What an output layer reads: phi(h) in the current form, else h."""
        return self.rates if self.current else self.h

    def slopes(self):
        """phi'(h), through which gradients of what an output layer reads reach h; None where that is h itself."""
        return _cell.slopes_from(_cell.NONLINEARITIES[self.phi], self.rates) if self.current else None


def check(h, x, U, W, h0, *, nonlinearity, alpha, form, rates, dots=None, **sequences):
    """Check the arguments of a call: a Point, the dots in the order of DOTS, and `sequences`, other arrays like h.

    All as they come: a Point without a batch axis if the call has none.
    """
    phi, current = _cell.numbers(nonlinearity, form)
    dots = dict.fromkeys(DOTS) if dots is None else dict(dots)
    dots["alpha_dot"], plain = _cell.array_or_none(dots["alpha_dot"]), dots["alpha_dot"]
    given = {"h": h, "x": x, "U": U, "W": W, "h0": h0, "rates": rates, "alpha": _cell.array_or_none(alpha)}
    arrays = _checks.as_real_arrays("h0", "rates", "alpha", "dh_dot", "drive", *DOTS, **given, **dots, **sequences)
    h, x, U, W, h0, rates, leak, *others = arrays
    states = _network.check_shapes(x, U, W, None, None, None, h0)
    _checks.check_shape("h", h, states, "x", x, "U", U)
    dots, others = dict(zip(DOTS, others, strict=False)), others[len(DOTS) :]
    for name, a in (("rates", rates), *zip(sequences, others, strict=True)):
        _checks.check_shape(name, a, states, "h", h)
    shapes = {"x_dot": x.shape, "U_dot": U.shape, "W_dot": W.shape, "b_dot": U.shape[:1], "h0_dot": states[1:]}
    for name, shape in (*shapes.items(), ("drive_dot", states)):
        _checks.check_shape(name, dots[name], shape)
    leak = _cell.checked_leak(alpha if leak is None else leak, current, len(U), x.dtype)
    dots["alpha_dot"] = _alpha_dot(plain if dots["alpha_dot"] is None else dots["alpha_dot"], leak, len(U), x.dtype)
    _cell.check_read_rates(rates, leak, current)
    for name in ("U_dot", "W_dot"):
        dots[name] = None if dots[name] is None else _checks.matrix(dots[name])
    for name in ("b_dot", "alpha_dot"):
        dots[name] = None if dots[name] is None else np.ascontiguousarray(dots[name])
    if current and rates is None:
        rates = rates_of(h, phi)
    point = Point(h, x, _checks.matrix(U), _checks.matrix(W), h0, rates, phi, leak, current)
    return point, tuple(dots.values()), others


def _alpha_dot(alpha_dot, leak, H, dtype):
    if alpha_dot is None:
        return None
    if leak is None:
        raise ValueError("alpha_dot must be None without alpha, got a direction")
    alpha_dot = np.asarray(alpha_dot, dtype)
    if alpha_dot.shape not in ((), (H,)):
        raise ValueError(f"alpha_dot must be a number or have shape ({H},), got {alpha_dot.shape}")
    return np.broadcast_to(alpha_dot, (H,))


def with_batch(point, dots, *sequences):
    """A point, its dots and other sequences with a batch axis, of one if they have none."""
    if point.x.ndim == 3:
        h0 = _calls.initial(point.h0, point.x.shape[1], len(point.U), point.x.dtype)
        return point._replace(h0=h0), dots, sequences
    h, x, rates, x_dot, drive_dot, *sequences = _calls.with_batch(
        point.h, point.x, point.rates, dots[0], dots[5], *sequences
    )
    h0, h0_dot = _calls.with_one_row(point.h0, dots[4])
    h0 = _calls.initial(h0, 1, len(point.U), x.dtype)
    return point._replace(h=h, x=x, rates=rates, h0=h0), (x_dot, *dots[1:4], h0_dot, drive_dot, dots[6]), sequences


def in_order(point, dots, reverse):
    """A point and its dots, forwards in the order of the steps."""
    h, x, rates, x_dot, drive_dot = (
        _calls.in_order(a, reverse) for a in (point.h, point.x, point.rates, dots[0], dots[5])
    )
    return point._replace(h=h, x=x, rates=rates), (x_dot, *dots[1:5], drive_dot, dots[6])


def rates_of(h, phi):
    """phi of states of any shape, as the loops compute it."""
    rates = np.array(h, order="C")
    H = h.shape[-1]
    _bptt._phi(rates.reshape(rates.size // max(H, 1), H), phi)
    return rates


def tangent(point, dots, h_dot, second=None, offsets=None):
    """Write h_dot, and to `second` a_dot; in the current form, for which it is needed, the tangent of phi(h)."""
    if point.current and second is None:
        second = _memory.empty(h_dot.shape, h_dot.dtype)
    point_h, x, U, W, h0, rates = point[:6]
    _tangents.tangent(point_h, x, U, W, h0, dots, *point.cell, rates, offsets, h_dot, second)


def tangent_of_steps(point, dots, h_dot, steps):
    """The same of the steps that exist: lengths, mask and reverse of the call."""
    lengths, mask, reverse = steps
    if lengths is mask is None:
        tangent(*in_order(point, dots, reverse), _calls.in_order(h_dot, reverse))
        return
    sequences = _sequences.Sequences(*point.x.shape[:2], *steps)
    gathered = (point.h, point.x, point.rates, dots[0], dots[5])
    h, x, rates, x_dot, drive_dot = (None if a is None else sequences.gather(a) for a in gathered)
    h0, h0_dot = (None if a is None else sequences.first_rows(a) for a in (point.h0, dots[4]))
    packed = sequences.empty(x, h_dot.shape[2])
    point = point._replace(h=h, x=x, rates=rates, h0=h0)
    tangent(point, (x_dot, *dots[1:4], h0_dot, drive_dot, dots[6]), packed, None, sequences.offsets)
    passed_on = np.zeros(h_dot.shape[1:], h_dot.dtype) if dots[4] is None else dots[4]
    sequences.scatter(packed, h_dot, None if mask is None else passed_on)


def kept_tangent(point, dots):
    """(h_dot, second), new arrays as `second_order` reads them."""
    T, B, H = point.h.shape
    h_dot = _tangents.padded_rows(point.h, T, B, H)
    second = _tangents.padded_rows(point.h, T, B, H)
    tangent(point, dots, h_dot, second)
    return h_dot, second


def gradient_states(point, dh):
    """grad_h of every step, and delta, the gradient at its pre-activation, from the dh of a loss."""
    g = _engines.choose().state_gradients(dh, point.h, point.W, *point.cell, point.rates)
    return g, _tangents.deltas(g, *point.cell, point.h if point.rates is None else point.rates)


def second_order(point, dots, moved, states, dh_dot, x_gradient=False):
    """(delta_dot, g_dot, dx_dot, dU_dot, dW_dot, db_dot); moved: of `kept_tangent`, states: of `gradient_states`."""
    h, x, U, W, h0, rates = point[:6]
    return _tangents.second_order(*states, dh_dot, *moved, h, x, U, W, h0, dots, *point.cell, rates, x_gradient)
