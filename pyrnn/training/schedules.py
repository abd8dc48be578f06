"""Learning rates by the number of the step, with PyTorch's names and values.

A schedule is any function of the number of a step, from 0 on, that returns a learning rate:
``optimizer.step(parameters, gradients, lr=schedule(k))``. Those made here are values: they compare, print as the call
that makes them, can be pickled, and `Schedule.arguments` has all that they depend on. With ``lr=1.0`` they return
factors.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from pyrnn import _checks
from pyrnn._core.optimizers import non_negative

if TYPE_CHECKING:
    from pyrnn._types import RateOfStep


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What the functions of this module return: called with the number of a step, a learning rate."""

    @property
    def name(self) -> str:
        """The function of this module that makes it."""
        return type(self).__name__.removeprefix("_").lower()

    @property
    def arguments(self) -> dict[str, Any]:
        """What that function was called with, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    def __call__(self, step: int) -> float:
        return self._rate(_checks.integer_within("step", step, 0))

    def _rate(self, step: int) -> float:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, repr=False)
class _Constant(Schedule):
    lr: float

    def _rate(self, step: int) -> float:
        return self.lr


@dataclasses.dataclass(frozen=True, repr=False)
class _Step(Schedule):
    lr: float
    step_size: int
    gamma: float

    def _rate(self, step: int) -> float:
        return self.lr * self.gamma ** (step // self.step_size)


@dataclasses.dataclass(frozen=True, repr=False)
class _Exponential(Schedule):
    lr: float
    gamma: float

    def _rate(self, step: int) -> float:
        return self.lr * self.gamma**step


@dataclasses.dataclass(frozen=True, repr=False)
class _Cosine(Schedule):
    lr: float
    T_max: int
    eta_min: float

    def _rate(self, step: int) -> float:
        # The cosine has the period 2 T_max: a large step loses no digits.
        return (
            self.eta_min
            + (self.lr - self.eta_min) * (1 + math.cos(math.pi * (step % (2 * self.T_max)) / self.T_max)) / 2
        )


@dataclasses.dataclass(frozen=True, repr=False)
class _Warmup(Schedule):
    steps: int
    then: RateOfStep
    start_factor: float

    def _rate(self, step: int) -> float:
        if step >= self.steps:
            return self.then(step - self.steps)
        return self.then(0) * (self.start_factor + (1 - self.start_factor) * step / self.steps)


def constant(lr: float) -> Schedule:
    """The same learning rate at every step.

    Parameters
    ----------
    lr : float

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError, TypeError
        If lr is no number, negative or not finite.

    Examples
    --------
    >>> from pyrnn.training import schedules
    >>> schedules.constant(0.1)(1000)
    0.1
    """
    return _Constant(non_negative("lr", lr))


def step(lr: float, step_size: int, gamma: float = 0.1) -> Schedule:
    """Learning rates that fall every so many steps, as of ``torch.optim.lr_scheduler.StepLR``.

    Parameters
    ----------
    lr : float
        The first rate.
    step_size : int
        How many steps have the same rate.
    gamma : float
        What the rate is multiplied by then.

    Returns
    -------
    Schedule
        lr gamma^⌊k / step_size⌋ at step k.

    Raises
    ------
    ValueError, TypeError
        If lr or gamma is no number, negative or not finite, or step_size is not a positive integer.

    Examples
    --------
    >>> from pyrnn.training import schedules
    >>> rate = schedules.step(1.0, step_size=10, gamma=0.5)
    >>> rate(9), rate(10), rate(20)
    (1.0, 0.5, 0.25)
    """
    return _Step(non_negative("lr", lr), _checks.positive_integer("step_size", step_size), non_negative("gamma", gamma))


def exponential(lr: float, gamma: float) -> Schedule:
    """Learning rates that fall at each step, as of ``torch.optim.lr_scheduler.ExponentialLR``.

    Parameters
    ----------
    lr : float
        The first rate.
    gamma : float
        What the rate is multiplied by after each step.

    Returns
    -------
    Schedule
        lr gamma^k at step k.

    Raises
    ------
    ValueError, TypeError
        If lr or gamma is no number, negative or not finite.

    Examples
    --------
    >>> from pyrnn.training import schedules
    >>> schedules.exponential(1.0, gamma=0.5)(3)
    0.125
    """
    return _Exponential(non_negative("lr", lr), non_negative("gamma", gamma))


def cosine(lr: float, T_max: int, eta_min: float = 0.0) -> Schedule:
    """Learning rates along half a cosine, as of ``torch.optim.lr_scheduler.CosineAnnealingLR``.

    Parameters
    ----------
    lr : float
        The first rate.
    T_max : int
        The step of the least rate. Beyond it the rate goes up again, with the period 2 T_max.
    eta_min : float
        The least rate.

    Returns
    -------
    Schedule
        eta_min + (lr - eta_min)(1 + cos(π k / T_max)) / 2 at step k [1]_.

    Raises
    ------
    ValueError, TypeError
        If lr or eta_min is no number, negative or not finite, or T_max is not a positive integer.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017.

    Examples
    --------
    >>> from pyrnn.training import schedules
    >>> rate = schedules.cosine(1.0, T_max=100)
    >>> rate(0), round(rate(50), 6), rate(100)
    (1.0, 0.5, 0.0)
    """
    return _Cosine(non_negative("lr", lr), _checks.positive_integer("T_max", T_max), non_negative("eta_min", eta_min))


def warmup(steps: int, then: RateOfStep, start_factor: float = 1 / 3) -> Schedule:
    """Learning rates that rise linearly to the first of another schedule, which follows.

    Parameters
    ----------
    steps : int
        How long they rise. 0 for `then` alone.
    then : callable
        Another schedule, or a function of one's own: at step `steps` its step 0 begins.
    start_factor : float
        The rate of step 0 over ``then(0)``.

    Returns
    -------
    Schedule
        As of PyTorch's ``SequentialLR([LinearLR(start_factor), then], milestones=[steps])``.

    Raises
    ------
    ValueError, TypeError
        If steps is not an integer from 0 on, `then` is not callable, or start_factor no finite number from 0 on.

    Notes
    -----
    A schedule with a function of one's own in it can be pickled if that function can.

    Examples
    --------
    >>> from pyrnn.training import schedules
    >>> rate = schedules.warmup(4, then=schedules.cosine(1.0, T_max=100), start_factor=0.0)
    >>> [rate(k) for k in range(5)], rate(104)
    ([0.0, 0.25, 0.5, 0.75, 1.0], 0.0)
    >>> rate
    warmup(steps=4, then=cosine(lr=1.0, T_max=100, eta_min=0.0), start_factor=0.0)
    """
    if not callable(then):
        raise TypeError(f"then must be a function of the number of a step, got {then!r}")
    return _Warmup(_checks.integer_within("steps", steps, 0), then, non_negative("start_factor", start_factor))
