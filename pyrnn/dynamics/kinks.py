"""Down q(h) = ½|F(h) - h|² where phi has a kink: along the kink or across it, until q has a minimum.

A unit's kink is where u_i = 0, with u = c + W h in the rate form and u = h in the current form: u = A h + const, with
A = W or the identity. Away from kinks q is smooth. From a point on the kinks of some units K it changes along a
direction d by

    q'(h; d) = g · d + Σ_K k_i max(A_i · d, 0)        g = ∇q with phi'(0-) for the units of K
                                                      k_i = (phi'(0+) - phi'(0-)) ∂q/∂phi_i

Where k_i < 0 the kink is a ridge: q falls on one side of it at least. Where k_i > 0 it is the floor of a valley, and
along the floor q may fall although it rises on both sides. There is no way down exactly if there are multipliers with

    g + Σ_K λ_i A_i = 0,    0 <= λ_i <= k_i           (0 is in Clarke's generalised gradient)

as long as the rows A_i of K are linearly independent. So this is an active-set method. It holds the kinks where q turns
upwards, and Newton's method goes down their common floor: A_K p = -u_K. At the lowest point there it lets go of the
unit whose multiplier is furthest out of bounds: q falls towards u_i < 0 if λ_i < 0, towards u_i > 0 if λ_i > k_i.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.linalg
from scipy.linalg import lapack

from pyrnn.cell import KINKED

if TYPE_CHECKING:
    from pyrnn.cell import Cell

LEAST_DESCENT = 1e-12  # of q, by its quadratic model, as a fraction: less is the end
LEAST_EXCESS = 1e-9  # of a multiplier beyond its bounds, as a fraction of the largest one
MOST_STEPS = 4  # times H, and 100 more
MOST_HALVES = 40  # of a step that does not lower q
LEAST_BEND = 1e-12  # an eigenvalue of a second derivative, as a fraction of the largest one
AT_KINK = 1e-12  # u of a unit that is at its kink, as a fraction of 1 + |h|
MOST_LEFT = 1e-7  # of a gradient that multipliers make zero, as a fraction
MINIMUM, SMOOTH, STUCK = range(3)


class Ground(NamedTuple):
    """One state, and what the derivatives of q there are made of."""

    h: np.ndarray  # [H]
    u: np.ndarray  # [H]
    s: np.ndarray  # [H], alpha ∘ (F(h) - h): minus ∂q/∂h for fixed phi
    push: np.ndarray  # [H], ∂q/∂phi
    q: float


def kinked(cell: Cell) -> bool:
    """Whether phi' of this cell jumps."""
    return cell.nonlinearity in KINKED and not (cell.nonlinearity == "leaky_relu" and cell.negative_slope == 1)


class Kinks:
    """The way down q at one input, for one state at a time.

    Parameters
    ----------
    W, c, alpha : ndarray of float64, shapes (H, H), (H,), (H,)
        The recurrent weights, b + U x, and the leak of each unit.
    cell : Cell
        One whose phi has a kink.
    """

    def __init__(self, W: np.ndarray, c: np.ndarray, cell: Cell, alpha: np.ndarray) -> None:
        self._W, self._c, self._cell, self._alpha = W, c, cell, alpha
        self._A = np.eye(len(W)) if cell.current else W
        self._lengths = np.linalg.norm(self._A, axis=1)
        self._below = cell.negative_slope if cell.nonlinearity == "leaky_relu" else 0.0  # phi'(0-)
        self._jump = 1 - self._below  # phi'(0+) is 1
        self._bent = cell.bend(c) is not None

    def settle(self, h: np.ndarray, leave: bool) -> tuple[int, np.ndarray | None]:
        """Go down from h [H] until q has a minimum; returns what is there, and the place, None for h itself.

        MINIMUM: of q, where kinks are held, or h itself; SMOOTH: a lower place where no kink is held, from where the
        descent of smooth functions goes on; STUCK: none of these was reached. leave: stop at the first SMOOTH place.
        """
        ground = self._ground(h, self._sums(h))
        above, held, moved = ground.u > 0, np.zeros(0, int), False  # what is held counts as below
        for _ in range(MOST_STEPS * len(h) + 100):
            slopes = self._slopes(ground.u, above)
            g = self._gradient(ground, slopes)
            step, multipliers = self._newton(ground, g, slopes, held)
            if not np.isfinite(step).all():
                break
            if -0.5 * (g @ step) > LEAST_DESCENT * ground.q:
                lower, above, stopped = self._along(ground, g, step, above, held)
                if lower is not None:
                    ground, moved = self._ground(lower, self._sums(lower)), True
                    if stopped >= 0:
                        held = np.append(held, stopped)
                    elif leave and held.size == 0:
                        return SMOOTH, ground.h
                    continue
            if held.size == 0:
                if moved:
                    return SMOOTH, ground.h
                return (MINIMUM if self._is_minimum(ground, above, held) else STUCK), None
            k = self._jump * ground.push[held]
            excess = np.maximum(-multipliers, multipliers - k)
            worst = (excess * self._lengths[held]).argmax()
            if excess[worst] <= LEAST_EXCESS * max(abs(multipliers).max(), abs(k).max()):
                return (MINIMUM if self._is_minimum(ground, above, held) else STUCK), ground.h
            above[held[worst]] = multipliers[worst] - k[worst] > -multipliers[worst]
            held = np.delete(held, worst)
        return STUCK, ground.h

    def _sums(self, h: np.ndarray) -> np.ndarray:
        return h if self._cell.current else self._c + self._W @ h

    def _ground(self, h: np.ndarray, u: np.ndarray) -> Ground:
        phi = self._cell.phi(u)
        moved = self._alpha * ((self._c + self._W @ phi if self._cell.current else phi) - h)  # F(h) - h
        s = self._alpha * moved
        return Ground(h, u, s, self._W.T @ s if self._cell.current else s, 0.5 * (moved @ moved))

    def _slopes(self, u: np.ndarray, above: np.ndarray) -> np.ndarray:
        """phi' on the side where each unit is."""
        return np.where(above, np.where(u == 0, 1, self._cell.slope_at(abs(u))) if self._bent else 1, self._below)

    def _gradient(self, ground: Ground, slopes: np.ndarray) -> np.ndarray:
        through: np.ndarray = slopes * ground.push
        gradient: np.ndarray = (through if self._cell.current else self._W.T @ through) - ground.s
        return gradient

    def _second_derivative(self, ground: Ground, slopes: np.ndarray) -> np.ndarray:
        units = np.arange(len(slopes))
        J = self._W * slopes if self._cell.current else slopes[:, np.newaxis] * self._W
        J[units, units] -= 1
        J *= self._alpha[:, np.newaxis]
        second: np.ndarray = J.T @ J
        bend = self._cell.bend(self._cell.phi(ground.u))  # phi'' / phi', and phi' is 0 below
        if bend is not None:
            bends = ground.push * bend * slopes
            if self._cell.current:
                second[units, units] += bends
            else:
                second += self._W.T @ (bends[:, np.newaxis] * self._W)
        return second

    def _newton(
        self, ground: Ground, g: np.ndarray, slopes: np.ndarray, held: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The step p to the minimum of g p + ½ p ∇²q p with A_K p = -u_K, and the multipliers λ.

        Where ∇²q is not positive definite, its eigenvalues are replaced by their moduli.
        """
        A, B = self._A[held], self._second_derivative(ground, slopes)
        if not np.isfinite(B).all():
            return np.full_like(g, np.nan), g[:0]
        factor, failed = lapack.dpotrf(B, lower=True, clean=False)
        if failed:
            values, vectors = np.linalg.eigh(B)
            values = np.maximum(abs(values), LEAST_BEND * abs(values).max())
            factor, _ = lapack.dpotrf(vectors * values @ vectors.T, lower=True, clean=False)
        right = np.column_stack([g, A.T])
        right, _ = lapack.dtrtrs(factor, right, lower=True)
        y, Y = right[:, 0], right[:, 1:]
        multipliers = np.linalg.lstsq(Y.T @ Y, ground.u[held] - Y.T @ y, rcond=None)[0] if held.size else y[:0]
        step, _ = lapack.dtrtrs(factor, -(y + Y @ multipliers), lower=True, trans=1)
        return step, multipliers

    def _is_minimum(self, ground: Ground, above: np.ndarray, held: np.ndarray) -> bool:
        """Whether the lowest point on the floor of the kinks that are held is a minimum of q.

        Other units may be at their kinks by chance, such as copies of one that is held. Then multipliers of all of them
        must exist. On the floor JᵀJ has no negative eigenvalue; where phi has a second derivative, ∇²q may have one.
        """
        at_kink = (abs(ground.u) <= AT_KINK * (1 + np.linalg.norm(ground.h))) & (self._lengths > 0)
        at_kink[held] = True
        slopes = self._slopes(ground.u, above & ~at_kink)
        if np.count_nonzero(at_kink) > held.size:
            from scipy.optimize import lsq_linear

            k = self._jump * ground.push[at_kink]
            least = -LEAST_EXCESS * abs(ground.push).max() - np.finfo(float).tiny
            if k.min() < least:
                return False
            g, rows = self._gradient(ground, slopes), self._A[at_kink]
            found = lsq_linear(rows.T, -g, (least, np.maximum(k, 0) - least), method="bvls")
            if np.linalg.norm(found.fun) > MOST_LEFT * (np.linalg.norm(g) + np.linalg.norm(ground.s)):
                return False
        if not self._bent or held.size == 0:
            return True
        floor = scipy.linalg.null_space(self._A[at_kink])
        B = floor.T @ self._second_derivative(ground, slopes) @ floor
        return bool(scipy.linalg.eigvalsh(B).min(initial=0) >= -LEAST_EXCESS * abs(B).max(initial=0))

    def _along(
        self, ground: Ground, g: np.ndarray, step: np.ndarray, above: np.ndarray, held: np.ndarray
    ) -> tuple[np.ndarray | None, np.ndarray, int]:
        """The first minimum of q on the way h + t step, t <= 1; the sides there; the unit at whose kink it is, or -1.

        None where q does not fall.
        """
        along = step if self._cell.current else self._W @ step
        crosses = (above == (along < 0)) & (along != 0)
        crosses[held] = False
        when = np.full(len(step), np.inf)
        when[crosses] = np.maximum(-ground.u[crosses] / along[crosses], 0)
        sides, before, slope = above.copy(), 0.0, g @ step
        for unit in np.argsort(when, kind="stable"):
            t = min(when[unit], 1.0)
            there, new_slope = self._at(ground, step, along, t, sides)
            if new_slope > 0:  # between two kinks; where q is quadratic, its slope is linear
                t = before + (t - before) * slope / (slope - new_slope)
            if new_slope > 0 or t == 1:
                break
            slope = new_slope + self._jump * there.push[unit] * abs(along[unit])  # behind the kink
            sides[unit] = along[unit] > 0 and slope < 0
            if slope >= 0:
                return there.h, sides, int(unit)
            before = t
        for _ in range(MOST_HALVES):
            there, _ = self._at(ground, step, along, t, above)
            if there.q < ground.q:
                return there.h, above ^ (when < t), -1
            t *= 0.5
        return None, above, -1

    def _at(
        self, ground: Ground, step: np.ndarray, along: np.ndarray, t: float, sides: np.ndarray
    ) -> tuple[Ground, float]:
        """The ground at h + t step, and the slope of q along the step with these sides."""
        there = self._ground(ground.h + t * step, ground.u + t * along)
        return there, float(there.push @ (self._slopes(there.u, sides) * along) - there.s @ step)
