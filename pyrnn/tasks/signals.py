"""Tasks whose targets are numbers at every step: memories of bits, and sine waves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pyrnn import _checks
from pyrnn.tasks.base import Task, Trials, among, check_number, check_outputs, steps_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import Loss


@dataclass(frozen=True, kw_only=True)
class FlipFlop(Task):
    """Remember the sign of the last pulse on each of n lines: the n-bit flip-flop.

    Parameters
    ----------
    bits : int
        How many lines, I = O.
    duration : float
        The time of a trial, in ms.
    interval : float
        The mean time from a pulse to the next one on the same line, in ms. Each step begins one with the probability
        dt / interval.
    pulse : float
        How long a pulse lasts, in ms, unless the next one ends it.
    batch_size, dt, sigma, tau, seed
        As in `Task`.

    Raises
    ------
    ValueError, TypeError
        If an argument has no such value.

    See Also
    --------
    pyrnn.dynamics.find_fixed_points : finds the points that a trained network remembers with.

    Notes
    -----
    The inputs are 0 but for pulses of 1 or -1. The targets are the last pulse of each line, from its first step on. A
    trial begins with a pulse on every line: before it, no target would be right. `trial_info` has ``pulses``, the
    number of pulses on each line, (B, bits). The task is that of [1]_.

    References
    ----------
    .. [1] D. Sussillo, O. Barak, "Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
       networks", Neural Computation 25, 626-649, 2013.

    Examples
    --------
    >>> import pyrnn
    >>> task = pyrnn.tasks.FlipFlop(bits=1, batch_size=1, duration=240, interval=50, sigma=0, seed=2)
    >>> x, y, weights = task.batch(0)
    >>> x[:, 0, 0].astype(int)
    array([ 1, -1,  1,  1,  0,  0,  0,  0,  0,  1,  1,  0])
    >>> y[:, 0, 0].astype(int)
    array([ 1, -1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1])
    """

    loss: ClassVar[Loss] = "squared_error"

    bits: int = 3
    duration: float = 2000.0
    interval: float = 400.0
    pulse: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.positive_integer("bits", self.bits)
        check_number("duration", self.duration)
        check_number("interval", self.interval, low=self.dt)
        check_number("pulse", self.pulse)
        steps_of("duration", self.duration, self.dt, 1)
        steps_of("pulse", self.pulse, self.dt, 1)

    @property
    def input_size(self) -> int:
        return self.bits

    @property
    def output_size(self) -> int:
        return self.bits

    @property
    def length(self) -> int:
        return steps_of("duration", self.duration, self.dt, 1)[0]

    @property
    def numbers(self) -> int:
        return self.length * self.bits

    def trials(self, u: np.ndarray) -> Trials:
        T, B = self.length, len(u)
        u = np.ascontiguousarray(u.reshape(B, T, self.bits).swapaxes(0, 1))
        probability = np.full((T, 1, 1), self.dt / self.interval)
        probability[0] = 1
        begins = u < probability
        signs = np.where(u < probability / 2, np.float32(-1), np.float32(1))
        t = np.arange(T)[:, np.newaxis, np.newaxis]
        last = np.maximum.accumulate(np.where(begins, t, 0), axis=0)
        y = np.take_along_axis(signs, last, axis=0)
        width = steps_of("pulse", self.pulse, self.dt, 1)[0]
        x = np.where(t - last < width, y, np.float32(0))
        return Trials(x, y, np.ones((T, B), np.float32), {"pulses": begins.sum(axis=0)})

    def accuracy(self, outputs: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float:
        """Return the fraction of bits that the signs of the outputs have right, over all steps that count.

        Parameters
        ----------
        outputs, y : array_like, shape (T, B, bits)
        weights : array_like, shape (T, B), optional

        Returns
        -------
        float
            1/2 by chance; NaN where no step counts.

        Raises
        ------
        ValueError, TypeError
            If shapes do not fit or an argument is not real.
        """
        outputs, y, weights = check_outputs(outputs, y, weights, False, self.output_size)
        right = np.sign(outputs) == np.sign(y)
        return _mean(right.mean(axis=2, dtype=np.float64), weights)


@dataclass(frozen=True, kw_only=True)
class SineWave(Task):
    """Make a sine wave of the frequency that a constant input asks for.

    Parameters
    ----------
    low, high : float
        The lowest and the highest frequency, in Hz; the latter below half of the steps in a second.
    count : int
        How many frequencies, equally spaced.
    duration : float
        The time of a trial, in ms.
    batch_size, dt, sigma, tau, seed
        As in `Task`.

    Raises
    ------
    ValueError, TypeError
        If an argument has no such value.

    Notes
    -----
    With the j-th of n frequencies f_j, j = 1, ..., n, the input is j / n + 1/4 at all steps, and the target sin(2π f_j
    t) at the time t = 0, dt, 2 dt, .... `trial_info` has ``frequency``, in Hz. The task is that of [1]_, with the
    frequencies in Hz.

    References
    ----------
    .. [1] D. Sussillo, O. Barak, "Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
       networks", Neural Computation 25, 626-649, 2013.

    Examples
    --------
    >>> import pyrnn
    >>> task = pyrnn.tasks.SineWave(low=1, high=5, count=5, batch_size=4, sigma=0)
    >>> task.trial_info(0)["frequency"]
    array([2., 3., 2., 5.])
    >>> task.batch(0).x[0, :, 0]
    array([0.65, 0.85, 0.65, 1.25], dtype=float32)
    """

    loss: ClassVar[Loss] = "squared_error"

    low: float = 0.5
    high: float = 3.5
    count: int = 51
    duration: float = 2000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("low", self.low, above=0)
        check_number("high", self.high, low=self.low)
        if self.high >= 500 / self.dt:
            raise ValueError(
                f"high must be less than half of the steps in a second, {500 / self.dt:g}, got {self.high!r}"
            )
        _checks.positive_integer("count", self.count)
        check_number("duration", self.duration)
        steps_of("duration", self.duration, self.dt, 1)

    @property
    def input_size(self) -> int:
        return 1

    @property
    def output_size(self) -> int:
        return 1

    @property
    def length(self) -> int:
        return steps_of("duration", self.duration, self.dt, 1)[0]

    @property
    def numbers(self) -> int:
        return 1

    def trials(self, u: np.ndarray) -> Trials:
        T, B = self.length, len(u)
        chosen = among(u[:, 0], self.count)
        frequency = np.linspace(self.low, self.high, self.count)[chosen]
        seconds = np.arange(T)[:, np.newaxis] * (self.dt / 1000)
        y = np.sin(2 * np.pi * frequency * seconds).astype(np.float32)
        level = ((chosen + 1) / self.count + 0.25).astype(np.float32)
        x = np.tile(level[:, np.newaxis], (T, 1, 1))
        return Trials(x, y[..., np.newaxis], np.ones((T, B), np.float32), {"frequency": frequency})

    def accuracy(self, outputs: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float:
        """Return the part of the targets' variance that the outputs explain, R², over all steps that count.

        Parameters
        ----------
        outputs, y : array_like, shape (T, B, 1)
        weights : array_like, shape (T, B), optional

        Returns
        -------
        float
            1 - Σ w (o - y)² / Σ w (y - mean of y)²: 0 for outputs that are the mean at all steps, below 0 for worse
            ones, NaN where no step counts.

        Raises
        ------
        ValueError, TypeError
            If shapes do not fit or an argument is not real.
        """
        outputs, y, weights = check_outputs(outputs, y, weights, False, self.output_size)
        outputs, y = outputs[..., 0].astype(np.float64), y[..., 0].astype(np.float64)
        variance = _mean(np.square(y - _mean(y, weights)), weights)
        return 1 - _mean(np.square(outputs - y), weights) / variance if variance else np.nan


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted mean, without what has the weight 0."""
    counted = weights != 0
    if not counted.any():
        return np.nan
    return float(np.average(values[counted], weights=weights[counted].astype(np.float64)))
