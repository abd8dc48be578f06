"""What all tasks share: where their random numbers come from, batches, and the checks of their arguments."""

from __future__ import annotations

import abc
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from pyrnn import _checks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import Loss

Span: TypeAlias = float | tuple[float, float]  # a duration in ms, or the shortest and the longest one

STREAM = zlib.crc32(b"pyrnn.tasks")  # so that a network with the same seed draws other numbers


class Batch(NamedTuple):
    """What `Task.batch` returns: x (T, B, I), y (T, B) or (T, B, O), and weights (T, B)."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray


class Trials(NamedTuple):
    """What `Task.trials` returns: a batch without input noise, and a dict of arrays (B, ...) that describes it."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    info: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """Batches of random trials: the base of all tasks, and of your own.

    Parameters
    ----------
    batch_size : int
        B, the number of trials in a batch.
    dt : float
        The time that a step takes, in ms.
    sigma : float
        The strength of the input noise, 0 for none. Each input gets sqrt(2 tau / dt) sigma times a standard normal
        number at each step, as in [1]_.
    tau : float
        The time constant that this noise is measured by, in ms: that of the network's units.
    seed : int
        Chooses the trials. Use another one for validation: ``dataclasses.replace(task, seed=1)``.

    Attributes
    ----------
    input_size, output_size : int
        I and O of a network for the task.
    length : int
        T, the number of steps of all trials. Trials that end earlier have the weight 0 after their end.
    loss : {"softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson", "huber"}
        The loss of the task, as in `pyrnn.loss_and_gradients`.

    Raises
    ------
    ValueError, TypeError
        If an argument has no such value.

    See Also
    --------
    pyrnn.loss_and_gradients : takes what `batch` returns.

    Notes
    -----
    The numbers of a trial come from their own place (seed, step, place in the batch) of Philox [2]_, a generator
    without a state to be lost. So a run that was interrupted sees the same batches after it has been resumed, and a
    smaller batch is the beginning of a larger one. Other versions of NumPy may draw other numbers.

    A task of your own has the attributes above, `numbers` and `trials`.

    References
    ----------
    .. [1] H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive
       tasks: a simple and flexible framework", PLoS Computational Biology 12, e1004792, 2016.
    .. [2] J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> import pyrnn
    >>> task = pyrnn.tasks.FlipFlop(bits=2, batch_size=8)
    >>> x, y, weights = task.batch(0)
    >>> x.shape, y.shape, weights.shape
    ((100, 8, 2), (100, 8, 2), (100, 8))
    >>> rnn = pyrnn.RNN(task.input_size, 16, output_size=task.output_size, rng=0)
    >>> result = rnn.loss_and_gradients(x, y, weights=weights, loss=task.loss)
    """

    loss: ClassVar[Loss]

    batch_size: int = 64
    dt: float = 20.0
    sigma: float = 0.01
    tau: float = 100.0
    seed: int = 0

    def __post_init__(self) -> None:
        _checks.positive_integer("batch_size", self.batch_size)
        check_number("dt", self.dt, above=0)
        check_number("sigma", self.sigma, low=0)
        check_number("tau", self.tau, above=0)
        _checks.integer_within("seed", self.seed, 0)

    @property
    @abc.abstractmethod
    def input_size(self) -> int: ...

    @property
    @abc.abstractmethod
    def output_size(self) -> int: ...

    @property
    @abc.abstractmethod
    def length(self) -> int: ...

    @property
    @abc.abstractmethod
    def numbers(self) -> int:
        """How many uniform random numbers decide what a trial is."""

    @abc.abstractmethod
    def trials(self, u: np.ndarray) -> Trials:
        """Make trials from their uniform random numbers.

        Parameters
        ----------
        u : ndarray, shape (B, numbers), float64
            Each at least 0 and below 1. Trial b is a function of ``u[b]`` alone.

        Returns
        -------
        Trials
            x of float32, without noise.
        """

    @abc.abstractmethod
    def accuracy(self, outputs: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float:
        """Return how well the outputs of a network solve the trials of a batch; 1 if they do."""

    def batch(self, step: int) -> Batch:
        """Return the batch of a step of training.

        Parameters
        ----------
        step : int
            From 0.

        Returns
        -------
        x : ndarray, shape (T, B, I), float32
        y : ndarray, shape (T, B), int64, or (T, B, O), float32
            The class of each step, or the targets.
        weights : ndarray, shape (T, B), float32
            1 where a step counts, else 0. ``weights / weights.sum()`` makes the loss a mean.

        Raises
        ------
        ValueError, TypeError
            If step is no such integer.
        """
        u, noise = self._draw(step, with_noise=self.sigma > 0)
        x, y, weights, _ = self.trials(u)
        if noise is not None:
            x += noise.swapaxes(0, 1) * np.float32(math.sqrt(2 * self.tau / self.dt) * self.sigma)
        return Batch(x, y, weights)

    def trial_info(self, step: int) -> dict[str, np.ndarray]:
        """Return what the trials of a batch are: a dict of arrays with one entry for each trial.

        Parameters
        ----------
        step : int
            As in `batch`.

        Returns
        -------
        dict of str to ndarray, shape (B, ...)
            The class documents the names.

        Raises
        ------
        ValueError, TypeError
            If step is no such integer.
        """
        return self.trials(self._draw(step, with_noise=False)[0]).info

    def __call__(self) -> Batch:
        """Return the next batch: the first call returns that of step 0."""
        step = self.__dict__.get("_next", 0)
        object.__setattr__(self, "_next", step + 1)
        return self.batch(step)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of steps 0, 1, 2, ... without end."""
        step = 0
        while True:
            yield self.batch(step)
            step += 1

    def _draw(self, step: int, with_noise: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw the uniform numbers (B, numbers) and the standard normal ones (B, T, I) of a batch."""
        step = _checks.integer_within("step", step, 0, 2**64 - 1)
        u = np.empty((self.batch_size, self.numbers))
        noise = np.empty((self.batch_size, self.length, self.input_size), np.float32) if with_noise else None
        key = np.random.SeedSequence(self.seed, spawn_key=(STREAM,)).generate_state(2, np.uint64)
        philox = np.random.Philox(key=key)
        rng = np.random.Generator(philox)
        state: Any = philox.state
        # Of lists NumPy sets a state in a seventh of the time that arrays take.
        place = state["state"]
        place["key"], state["buffer"] = place["key"].tolist(), state["buffer"].tolist()
        for b in range(self.batch_size):
            place["counter"] = [0, 0, b, step]  # the generator counts in the first two words
            philox.state = state
            rng.random(out=u[b])
            if noise is not None:
                rng.standard_normal(out=noise[b], dtype=np.float32)
        return u, noise


# ---- Arguments ------------------------------------------------------------------------------------------------------
def check_number(
    name: str, value: Any, *, low: float | None = None, above: float | None = None, high: float | None = None
) -> None:
    """Check a finite number that is at least `low`, greater than `above` and at most `high`."""
    limits = [
        f"{words} {limit:g}"
        for words, limit in (("at least", low), ("greater than", above), ("at most", high))
        if limit is not None
    ]
    expected = f"{name} must be a finite number {' and '.join(limits)}"
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{expected}, got {value!r}")
    inside = (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)
    if not (inside and math.isfinite(value)):
        raise ValueError(f"{expected}, got {value!r}")


def steps_of(name: str, span: Any, dt: float, least: int) -> tuple[int, int]:
    """Return the least and the greatest number of steps of a duration in ms, or of a pair of them."""
    ends = tuple(span) if isinstance(span, tuple | list) else (span, span)
    if len(ends) != 2:
        raise ValueError(f"{name} must be a duration in ms or a pair of them, got {span!r}")
    for end in ends:
        check_number(name, end, low=0)
    if ends[0] > ends[1]:
        raise ValueError(f"{name} must be a pair of durations, the shorter one first, got {span!r}")
    low, high = (math.floor(end / dt + 0.5) for end in ends)
    if low < least:
        raise ValueError(f"{name} must be at least one step of {dt:g} ms long, got {span!r}")
    return low, high


def among(u: np.ndarray, n: int) -> np.ndarray:
    """Return equally probable integers from 0 to n - 1."""
    return (u * n).astype(np.intp)


def check_outputs(
    outputs: ArrayLike, y: ArrayLike, weights: ArrayLike | None, classes: bool, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return outputs (T, B, size), y, and weights of ones where there are none, all as arrays of shapes that fit."""
    outputs, weights = _checks.as_real_arrays("weights", outputs=outputs, weights=weights)
    if outputs.ndim != 3 or outputs.shape[2] != size:
        _checks.shape_error("outputs", f"(T, B, {size})", outputs)
    if classes:
        y = _checks.as_array("y", y)
        if y.dtype.kind not in "iu":
            raise TypeError(f"y must be integers, the classes, got dtype {y.dtype}")
    else:
        (y,) = _checks.as_real_arrays(y=y)
    _checks.check_shape("y", y, outputs.shape[:2] if classes else outputs.shape, "outputs", outputs)
    _checks.check_shape("weights", weights, outputs.shape[:2], "outputs", outputs)
    return outputs, y, np.ones(outputs.shape[:2]) if weights is None else weights
