"""The search of `find_fixed_points` at one input: many states go down q, until they are assigned to known points.

States go in blocks, a small one first. The first ones are followed to their ends, which takes a hundred products with W
and more. Later ones need only come near to a point that was found: one product tells whether Newton's method leads
there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import lapack

from pyrnn._core import fixed_points as compiled
from pyrnn.dynamics import kinks

if TYPE_CHECKING:
    from pyrnn._progress import Progress
    from pyrnn.cell import Cell

FIRST_BLOCK = 32  # starts; each block after it has twice as many
LEAST_BETWEEN = 32  # pairs of points, half-way between which the search goes on; a quarter of the starts, if more
FLOAT_STEPS = 60  # The first 60 steps are found in float, twice as fast; later ones may need the digits of double.
LEAST_COSINE = 0.3  # between a state's last step and the way to a point, for that point to be tried
DRAWN = 0.5  # a state is assigned to a known point if one Newton step leaves at most this fraction of the distance
BOWL = 0.6, 1.6  # -∇q · way / 2 (q - q of the point), 1 where q is quadratic: between these, the step is tried
COST = 4  # an inverse second derivative takes as long as this many times H products with ∇²q
BETWEEN_LOOKS = 400  # products with ∇²q between two attempts to assign states to points
SAVED = 0.5  # about this fraction of a start's products is saved if it is assigned to a point
LARGEST_CONDITION = 1e10  # of a second derivative; beyond, points form a line, or nearly so
LONGEST_POLISH = 1e6  # times |F(h) - h|; a longer step comes from rounding errors and goes along a line of points
INVERSE_BYTES = 128 << 20  # the most memory for inverse second derivatives
ODD = "tanh", "identity"  # phi(-a) = -phi(a)
UNKNOWN, GOOD, BAD = range(3)  # whether the inverse at a point is of use
STUCK = -1  # an outcome beside those of the compiled descent: the search ended at a kink where q has no minimum
SHORT = 1e-3  # of the first radius: a state whose steps are that short may be zigzagging around a kink
ESCAPES = 4  # The first 4 times a state is only led off its kinks, which takes a third of the time of the whole way.


def leak(cell: Cell, H: int) -> np.ndarray:
    """alpha of each unit in float64, 1 for a cell without a leak."""
    alpha = cell.leak(H, np.float64)
    return np.ones(H) if alpha is None else alpha


def _first_radius(H: int) -> float:
    return 0.1 * math.sqrt(max(H, 1))


def jacobians(W: np.ndarray, slopes: np.ndarray, cell: Cell) -> np.ndarray:
    """∂F(h)/∂h [k, H, H] for phi' [k, H]: diag(phi') W, with the leak around it."""
    alpha = leak(cell, len(W))
    J: np.ndarray = W * slopes[:, np.newaxis] if cell.current else slopes[:, :, np.newaxis] * W
    J *= alpha[:, np.newaxis]
    units = np.arange(len(W))
    J[:, units, units] += 1 - alpha
    return J


class Descent:
    """States on their way, and the points where some have ended.

    Parameters
    ----------
    W, c : ndarray of float64, contiguous, shapes (H, H), (H,)
        The recurrent weights, and b + U x of the one input.
    cell : Cell
    starts : ndarray of float64, shape (n, H)
    options : the arguments tolerance, max_iterations and unique_tolerance of `find_fixed_points`

    Attributes
    ----------
    starts : ndarray, shape (n, H)
        As given.
    h, slopes, q : ndarray, shapes (n, H), (n, H), (n,), and more rows behind those of the starts
        Of each state, where it is now: itself, phi' and ½|F(h) - h|².
    points : list of int
        The states that were the first to end in a point.
    slow : list of bool
        Whether q had a minimum there, above the tolerance.
    stuck : list of bool
        Whether the search ended there at a kink of phi, although q has no minimum.
    origin : ndarray of int, shape (n,), and more
        For each state the index in `points` of the point that it has ended in or was assigned to, or -1.
    """

    def __init__(
        self,
        W: np.ndarray,
        c: np.ndarray,
        cell: Cell,
        starts: np.ndarray,
        *,
        tolerance: float,
        max_iterations: int,
        unique_tolerance: float,
    ) -> None:
        n, H = starts.shape
        self._odd = cell.nonlinearity in ODD and not c.any()  # F(-h) = -F(h)
        self._tolerance, self._max_iterations, self._unique_tolerance = tolerance, max_iterations, unique_tolerance
        self._landscape = compiled.Landscape(W, c, cell)
        self._kinks = kinks.Kinks(W, c, cell, leak(cell, H)) if kinks.kinked(cell) else None
        self.starts, self._n = starts, n
        self._take(self._new_states(np.array(starts)))
        self.points: list[int] = []
        self.slow: list[bool] = []
        self.stuck: list[bool] = []
        self._inverses: list[np.ndarray | None] = []
        self.origin = np.full(n, -1)
        self._escapes = np.zeros(n, int)
        self._axis = np.full(H, 1 / max(H, 1) ** 0.5)
        self._places, self._squares, self._shadows = np.empty((0, H)), np.empty(0), np.empty(0)  # of points, and more
        self._ended, self._use = np.zeros(0, int), np.zeros(0, np.int8)
        self._products = self._looked = self._made = 0
        self._left = n  # states that have no end
        self._most_inverses = max(1, INVERSE_BYTES // (8 * max(H, 1) ** 2))

    def _states(self) -> tuple[np.ndarray, ...]:
        return self.h, self._gradient, self.slopes, self._bends, self.q, self._radius

    def _take(self, states: tuple[np.ndarray, ...]) -> None:
        self.h, self._gradient, self.slopes, self._bends, self.q, self._radius = states

    def _new_states(self, h: np.ndarray) -> tuple[np.ndarray, ...]:
        """Arrays for these states, which become the first of them."""
        n, H = h.shape
        states = (h, *(np.empty_like(h) for _ in range(3)), np.empty(n), np.full(n, _first_radius(H)))
        self._landscape.evaluate(states)
        return states

    def run(self, progress: Progress) -> None:
        """Bring all starts to their ends; those that take more than `max_iterations` steps, or are NaN, have none."""
        self._follow(0, progress)

    def look_between(self, progress: Progress) -> None:
        """Start once more from half-way between points, from the middle of all starts, and from mirror images."""
        points = self.h[self.points]
        first, second = np.triu_indices(len(points), 1)
        most = max(LEAST_BETWEEN, self._n // 4)
        if len(first) > most:
            chosen = np.linspace(0, len(first) - 1, most).astype(int)
            first, second = first[chosen], second[chosen]
        middle = self.starts[np.isfinite(self.starts).all(axis=1)].mean(axis=0, keepdims=True)
        mirrored = -points if self._odd else points[:0]
        more = self._new_states(np.concatenate([(points[first] + points[second]) / 2, middle, mirrored]))
        begin, k = len(self.h), len(more[0])
        self._take(tuple(np.concatenate(pair) for pair in zip(self._states(), more, strict=True)))
        self.origin = np.concatenate([self.origin, np.full(k, -1)])
        self._escapes = np.concatenate([self._escapes, np.zeros(k, int)])
        self._follow(begin, progress)

    def _follow(self, first: int, progress: Progress) -> None:
        """Bring all states from the first one on to their ends."""
        size = FIRST_BLOCK
        while first < len(self.h):
            rows = np.arange(first, min(first + size, len(self.h)))
            rows = rows[np.isfinite(self.q[rows])]
            arrived = self.q[rows] <= self._tolerance
            self._arrive(rows[arrived], False)
            rows = rows[~arrived]
            for number in range(self._max_iterations):
                if rows.size == 0:
                    break
                self._left = len(self.h) - first - size + rows.size
                rows = self._step(rows, number < FLOAT_STEPS)
                progress.show(f"{first + size - rows.size} of {len(self.starts)} starts, {len(self.points)} points")
            first, size = first + size, 2 * size

    def _step(self, rows: np.ndarray, in_float: bool) -> np.ndarray:
        """One step for these states; returns those that go on."""
        before, outcomes = self.h[rows], np.empty(len(rows), np.int8)
        self._products += self._landscape.descend(self._states(), rows, self._tolerance, in_float, outcomes)
        lost = outcomes == compiled.LOST
        if in_float and lost.any():  # numbers that float cannot hold
            again = np.empty(np.count_nonzero(lost), np.int8)
            self._landscape.descend(self._states(), rows[lost], self._tolerance, False, again)
            outcomes[lost] = again
        if self._kinks is not None:
            self._settle(self._kinks, rows, outcomes)
        for outcome, slow in ((compiled.FIXED, False), (compiled.SLOW, True), (STUCK, True)):
            self._arrive(rows[outcomes == outcome], slow, outcome == STUCK)
        on = outcomes == compiled.GOES_ON
        rows, steps = rows[on], self.h[rows[on]] - before[on]
        if not self.points or self._products - self._looked < BETWEEN_LOOKS:
            return rows
        self._looked = self._products
        outside: np.ndarray = rows[~self._drawn(rows, steps)]
        return outside

    def _settle(self, search: kinks.Kinks, rows: np.ndarray, outcomes: np.ndarray) -> None:
        """Find out whether q has a minimum where states have stopped; if not, lead them off their kinks."""
        radius = SHORT * _first_radius(self.h.shape[1])
        stopped = (outcomes == compiled.SLOW) | ((outcomes == compiled.GOES_ON) & (self._radius[rows] < radius))
        moved = []
        for i in np.flatnonzero(stopped):
            row = rows[i]
            end, h = search.settle(self.h[row], self._escapes[row] < ESCAPES)
            outcomes[i] = {kinks.MINIMUM: compiled.SLOW, kinks.SMOOTH: compiled.GOES_ON, kinks.STUCK: STUCK}[end]
            self._escapes[row] += 1
            if h is not None:
                self.h[row] = h
                moved.append(i)
        to = rows[moved]
        for array, new in zip(self._states(), self._new_states(self.h[to]), strict=True):
            array[to] = new
        outcomes[moved] = np.where(self.q[to] <= self._tolerance, compiled.FIXED, outcomes[moved])

    def _arrive(self, rows: np.ndarray, slow: bool, stuck: bool = False) -> None:
        """Add the points that states have reached; of two in one place keep a minimum, of two minima the lower one."""
        for row in rows:
            known = self._place_of(self.h[row])
            if known is None:
                known = len(self.points)
                self.points.append(row)
                self.slow.append(slow)
                self.stuck.append(stuck)
                self._inverses.append(None)
                self._note(known, row)
            elif (stuck, self.q[row]) < (self.stuck[known], self.q[self.points[known]]):
                self.points[known], self.slow[known], self.stuck[known] = row, slow, stuck
                self._inverses[known] = None
                self._note(known, row)
            self.origin[row] = known
            self._ended[known] += 1

    def _note(self, known: int, row: int) -> None:
        """Store what is read of a point again and again."""
        if known == len(self._places):
            more = max(16, known)
            self._places = np.concatenate([self._places, np.empty((more, self._places.shape[1]))])
            self._squares, self._shadows = (np.concatenate([a, np.empty(more)]) for a in (self._squares, self._shadows))
            self._ended = np.concatenate([self._ended, np.zeros(more, int)])
            self._use = np.concatenate([self._use, np.zeros(more, np.int8)])
        h = self._places[known] = self.h[row]
        self._squares[known], self._shadows[known] = h @ h, h @ self._axis
        self._use[known] = BAD if self.stuck[known] else UNKNOWN

    def _place_of(self, h: np.ndarray) -> int | None:
        """Which point lies within the tolerance of h, the nearest one, or None."""
        shadows = self._shadows[: len(self.points)]  # on a line: what is far apart there is far apart
        close = np.flatnonzero(abs(shadows - h @ self._axis) <= 1.001 * self._unique_tolerance)
        distances = np.linalg.norm(self._places[close] - h, axis=1)
        if close.size == 0 or distances.min() > self._unique_tolerance:
            return None
        return int(close[distances.argmin()])

    def _drawn(self, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Which states are on the way to a known point; they are assigned to it."""
        drawn, worth = np.zeros(len(rows), bool), self._worth()
        if worth.size == 0:
            return drawn
        h, gradient = self.h[rows], self._gradient[rows]
        nearest = worth[self._nearest(h, worth)]
        way = self._places[nearest] - h
        left = np.linalg.norm(way, axis=1)
        towards = np.einsum("ij,ij->i", steps, way) >= LEAST_COSINE * np.linalg.norm(steps, axis=1) * left
        height, slope = self.q[rows] - self.q[self.points][nearest], np.einsum("ij,ij->i", gradient, way)
        towards &= (-slope >= 2 * BOWL[0] * height) & (-slope <= 2 * BOWL[1] * height)
        near = np.flatnonzero(towards)
        if near.size and len(worth) < len(self.points):
            near = near[self._nearest(h[near], np.s_[: len(self.points)]) == nearest[near]]
        for known in np.unique(nearest[near]):
            tried = near[nearest[near] == known]
            inverse = self._inverse(known)
            if inverse is None:
                continue
            behind = way[tried] + gradient[tried] @ inverse  # of Newton's step, h - ∇q (∇²q)⁻¹
            there = tried[np.linalg.norm(behind, axis=1) <= DRAWN * left[tried]]
            drawn[there] = True
            self.origin[rows[there]] = known
            self._ended[known] += len(there)
        return drawn

    def _nearest(self, h: np.ndarray, points: np.ndarray | slice) -> np.ndarray:
        """For each row the nearest of some points."""
        nearest: np.ndarray = (self._squares[points] - 2 * h @ self._places[points].T).argmin(axis=1)
        return nearest

    def _worth(self) -> np.ndarray:
        """Which points states may be assigned to: those with an inverse, and those where an inverse is expected to save
        more products than it costs, from the number of starts that have ended there so far."""
        n, done = len(self.points), max(len(self.h) - self._left, 1)
        worth: np.ndarray = self._use[:n] == GOOD
        if self._made < self._most_inverses:
            expected = (self._ended[:n] - 1) * (self._left / done)
            worth |= (self._use[:n] == UNKNOWN) & (
                expected * (SAVED * self._products / done) > COST * self._places.shape[1]
            )
        return np.flatnonzero(worth)

    def _inverse(self, known: int) -> np.ndarray | None:
        """(∇²q)⁻¹ at a point; None if it is lost in rounding errors, or if there are too many of them already."""
        if self._use[known] == UNKNOWN and self._made < self._most_inverses:
            inverse = _inverse_of(self._landscape.second_derivative(self._states(), self.points[known]))
            self._inverses[known], self._use[known] = inverse, BAD if inverse is None else GOOD
            self._made += 1
        return self._inverses[known]

    def polish(self) -> None:
        """Make one more Newton step for each fixed point, in double: it finds the digits that q cannot show."""
        fixed = np.array([row for row, slow in zip(self.points, self.slow, strict=True) if not slow], int)
        self._radius[fixed] = LONGEST_POLISH * np.sqrt(2 * self.q[fixed])
        self._landscape.descend(self._states(), fixed, 0.0, False, np.empty(len(fixed), np.int8))


def _inverse_of(second: np.ndarray) -> np.ndarray | None:
    """Of ∇²q, by Cholesky's factor; None if it is not positive definite, or its condition is too large."""
    factor, failed = lapack.dpotrf(second.T, clean=False)
    if failed:
        return None
    upper, failed = lapack.dpotri(factor, overwrite_c=True)
    if failed:
        return None
    inverse = np.triu(upper)
    inverse += np.triu(upper, 1).T
    condition = abs(second).sum(axis=0).max() * abs(inverse).sum(axis=0).max()
    return inverse if condition < LARGEST_CONDITION else None
