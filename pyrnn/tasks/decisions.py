"""Tasks that end with a choice between two answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from pyrnn import _checks
from pyrnn.tasks.base import Span, Task, Trials, among, check_number, check_outputs, steps_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import Loss


class Periods(NamedTuple):
    """The periods of a batch of trials: where the response begins, and the steps (T, B) of each period by its name."""

    go: np.ndarray
    end: np.ndarray
    during: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Decision(Task):
    """What the tasks with a choice share: the periods of a trial, the classes, and how choices are read.

    Parameters
    ----------
    batch_size, dt, sigma, tau, seed
        As in `Task`.

    Raises
    ------
    ValueError, TypeError
        If an argument has no such value.

    See Also
    --------
    PerceptualDecision, ContextDecision, DelayedMatch, WorkingMemory : the tasks.

    Notes
    -----
    The first input is 1 until the response period begins, and 0 from then on. The class of a step is 0, no choice yet,
    until then, and the choice, 1 or 2, in the response period. Weights are 1 in the fixation and response periods and 0
    between them and after the end of a trial, as in [1]_.

    Durations are in ms: a number, or a pair of the shortest and the longest one, between which each trial draws its
    own. They are rounded to steps.

    `trial_info` has ``correct``, the class of each trial's right choice, and ``go`` and ``end``, the steps at which the
    response period begins and ends, beside what the task documents.

    References
    ----------
    .. [1] H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive
       tasks: a simple and flexible framework", PLoS Computational Biology 12, e1004792, 2016.
    """

    loss: ClassVar[Loss] = "softmax_cross_entropy"
    PERIODS: ClassVar[tuple[str, ...]]
    CONDITIONS: ClassVar[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges = {}
        for name in self.PERIODS:
            span = getattr(self, name)
            if isinstance(span, list):
                object.__setattr__(self, name, tuple(span))
            ranges[name] = steps_of(name, span, self.dt, 0 if name in ("fixation", "delay") else 1)
        object.__setattr__(self, "_ranges", ranges)  # a batch asks for them a dozen times

    @property
    def output_size(self) -> int:
        return 3

    @property
    def length(self) -> int:
        return sum(self._steps(name)[1] for name in self.PERIODS)

    @property
    def numbers(self) -> int:
        return len(self.PERIODS) + self.CONDITIONS

    def choices(self, outputs: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
        """Return what a network has chosen in each trial.

        Parameters
        ----------
        outputs : array_like, shape (T, B, 3)
        y : array_like of int, shape (T, B)
            The classes of `batch`. They say where the response period is.
        weights : array_like, shape (T, B), optional
            Steps whose weight is 0 are left out.

        Returns
        -------
        ndarray of int, shape (B,)
            The class of the largest output, averaged over the response period: 0 if the network does not choose; -1
            where no step of the response period counts or an output is NaN.

        Raises
        ------
        ValueError, TypeError
            If shapes do not fit, y is not of integers or another argument is not real.
        """
        outputs, y, weights = check_outputs(outputs, y, weights, True, self.output_size)
        response = (y != 0) & (weights != 0)
        with np.errstate(invalid="ignore"):  # of infinities of both signs
            total = np.where(response[..., np.newaxis], outputs, 0).sum(axis=0, dtype=np.float64)
        known = response.any(axis=0) & ~np.isnan(total).any(axis=1)
        chosen: np.ndarray = np.where(known, total.argmax(axis=1), -1)
        return chosen

    def accuracy(self, outputs: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float:
        """Return the fraction of trials in which the network chooses what is right in the response period.

        Parameters
        ----------
        outputs : array_like, shape (T, B, 3)
        y : array_like of int, shape (T, B)
        weights : array_like, shape (T, B), optional

        Returns
        -------
        float
            A trial without a choice counts as wrong: 1/3 by chance among the three classes, 1/2 of a network that
            always chooses. NaN if there is no response period.

        Raises
        ------
        ValueError, TypeError
            If shapes do not fit, y is not of integers or another argument is not real.

        See Also
        --------
        choices : the choice of each trial.
        """
        outputs, y, weights = check_outputs(outputs, y, weights, True, self.output_size)
        correct = np.where(weights != 0, y, 0).max(axis=0, initial=0)
        right = self.choices(outputs, y, weights) == correct
        return float(right[correct != 0].mean()) if (correct != 0).any() else np.nan

    def _steps(self, name: str) -> tuple[int, int]:
        ranges: dict[str, tuple[int, int]] = self.__dict__["_ranges"]
        return ranges[name]

    def _periods(self, u: np.ndarray) -> Periods:
        ranges = np.array([self._steps(name) for name in self.PERIODS])
        lengths = ranges[:, 0] + np.floor(u[:, : len(ranges)] * (ranges[:, 1] - ranges[:, 0] + 1)).astype(np.intp)
        ends = np.cumsum(lengths, axis=1)
        starts = ends - lengths
        t = np.arange(self.length)[:, np.newaxis]
        during = {name: (starts[:, k] <= t) & (t < ends[:, k]) for k, name in enumerate(self.PERIODS)}
        return Periods(starts[:, -1], ends[:, -1], during)

    def _made(self, x: np.ndarray, periods: Periods, correct: np.ndarray, info: dict[str, np.ndarray]) -> Trials:
        """Return the trials, after adding the first input, the classes and the weights."""
        x[..., 0] = np.arange(len(x))[:, np.newaxis] < periods.go
        response = periods.during["response"]
        y = np.where(response, correct, 0).astype(np.int64)
        weights = (response | periods.during["fixation"]).astype(np.float32)
        return Trials(x, y, weights, info | {"correct": correct, "go": periods.go, "end": periods.end})


@dataclass(frozen=True, kw_only=True)
class PerceptualDecision(Decision):
    """Decide for which of two sides there is more evidence: the motion of random dots, to the left or to the right.

    Parameters
    ----------
    coherences : sequence of float
        Strengths of the evidence, in %. Each trial draws one of them, and the side that the evidence is for. Where the
        strength is 0 the right choice is drawn at random.
    fixation, stimulus, response : float or pair of float
        The periods of a trial in their order, in ms, as in `Decision`.
    batch_size, dt, sigma, tau, seed
        As in `Task`.

    Raises
    ------
    ValueError, TypeError
        If an argument has no such value.

    See Also
    --------
    pyrnn.plots.psychometric : draws choices over coherences.

    Notes
    -----
    The inputs are the fixation cue of `Decision` and, in the stimulus period, the evidence for left and for right,
    (1 - c) / 2 and (1 + c) / 2, with the signed coherence c / 100. Class 1 is left, c < 0, and class 2 right.
    `trial_info` has ``coherence``, signed and in %. The task and its coherences are those of [1]_, the inputs those of
    [2]_ with a fixation cue, which that work does not have.

    References
    ----------
    .. [1] J. D. Roitman, M. N. Shadlen, "Response of neurons in the lateral intraparietal area during a combined visual
       discrimination reaction time task", Journal of Neuroscience 22, 9475-9489, 2002.
    .. [2] H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive
       tasks: a simple and flexible framework", PLoS Computational Biology 12, e1004792, 2016.

    Examples
    --------
    >>> import pyrnn
    >>> task = pyrnn.tasks.PerceptualDecision(batch_size=4)
    >>> x, y, weights = task.batch(0)
    >>> task.trial_info(0)["coherence"], y[-1]
    (array([ -6.4,  25.6, -12.8, -51.2]), array([1, 2, 1, 1]))
    """

    PERIODS: ClassVar[tuple[str, ...]] = ("fixation", "stimulus", "response")
    CONDITIONS: ClassVar[int] = 2

    coherences: tuple[float, ...] = (3.2, 6.4, 12.8, 25.6, 51.2)
    fixation: Span = 100.0
    stimulus: Span = 800.0
    response: Span = 300.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "coherences", _coherences("coherences", self.coherences))

    @property
    def input_size(self) -> int:
        return 3

    def trials(self, u: np.ndarray) -> Trials:
        periods = self._periods(u)
        coherence, correct = _evidence(self.coherences, u[:, 3], u[:, 4])
        x = np.zeros((self.length, len(u), self.input_size), np.float32)
        x[..., 1:] = _pair(coherence / 100, periods.during["stimulus"])
        return self._made(x, periods, correct, {"coherence": coherence})


@dataclass(frozen=True, kw_only=True)
class ContextDecision(Decision):
    """Decide by the motion or by the colour of a stimulus, whichever the context asks for.

    Parameters
    ----------
    motion, colour : sequence of float
        Strengths of the evidence in each of them, in %, as in `PerceptualDecision`.
    fixation, stimulus, response : float or pair of float
        The periods of a trial in their order, in ms, as in `Decision`.
    batch_size, dt, sigma, tau, seed
        As in `Task`.

    Raises
    ------
    ValueError, TypeError
        If an argument has no such value.

    See Also
    --------
    PerceptualDecision : without a context.

    Notes
    -----
    The inputs are the fixation cue of `Decision`; the contexts motion and colour, 1 for the one that is asked for at
    all steps of a trial; and, in the stimulus period, the evidence of the motion for left and for right and that of the
    colour, (1 ± c) / 2 as in `PerceptualDecision`. Class 1 is left and class 2 right. `trial_info` has ``context``, 0
    for motion and 1 for colour, ``motion`` and ``colour``, signed coherences in %, and ``coherence``, the one of the
    two that decides. The task is that of [1]_, with two inputs for each kind of evidence as in [2]_.

    References
    ----------
    .. [1] V. Mante, D. Sussillo, K. V. Shenoy, W. T. Newsome, "Context-dependent computation by recurrent dynamics in
       prefrontal cortex", Nature 503, 78-84, 2013.
    .. [2] H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive
       tasks: a simple and flexible framework", PLoS Computational Biology 12, e1004792, 2016.

    Examples
    --------
    >>> import pyrnn
    >>> info = pyrnn.tasks.ContextDecision(batch_size=4).trial_info(0)
    >>> info["context"], info["motion"], info["colour"], info["correct"]
    (array([0, 1, 1, 1]), array([ 15.,  15., -15.,   5.]), array([-50.,  50.,   5.,   5.]), array([2, 2, 2, 2]))
    """

    PERIODS: ClassVar[tuple[str, ...]] = ("fixation", "stimulus", "response")
    CONDITIONS: ClassVar[int] = 5

    motion: tuple[float, ...] = (5.0, 15.0, 50.0)
    colour: tuple[float, ...] = (5.0, 15.0, 50.0)
    fixation: Span = 100.0
    stimulus: Span = 800.0
    response: Span = 300.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("motion", "colour"):
            object.__setattr__(self, name, _coherences(name, getattr(self, name)))

    @property
    def input_size(self) -> int:
        return 7

    def trials(self, u: np.ndarray) -> Trials:
        periods, steps = self._periods(u), np.arange(self.length)[:, np.newaxis]
        context = among(u[:, 3], 2)
        motion, by_motion = _evidence(self.motion, u[:, 4], u[:, 5])
        colour, by_colour = _evidence(self.colour, u[:, 6], u[:, 7])
        x = np.zeros((self.length, len(u), self.input_size), np.float32)
        for k in range(2):
            x[..., 1 + k] = (context == k) & (steps < periods.end)
        x[..., 3:5] = _pair(motion / 100, periods.during["stimulus"])
        x[..., 5:7] = _pair(colour / 100, periods.during["stimulus"])
        coherence = np.where(context == 0, motion, colour)
        info = {"context": context, "motion": motion, "colour": colour, "coherence": coherence}
        return self._made(x, periods, np.where(context == 0, by_motion, by_colour), info)


@dataclass(frozen=True, kw_only=True)
class DelayedMatch(Decision):
    """Decide whether a second stimulus is the same as the first one: delayed match to sample.

    Parameters
    ----------
    stimuli : int
        How many stimuli there are, 2 or more.
    fixation, sample, delay, test, response : float or pair of float
        The periods of a trial in their order, in ms, as in `Decision`.
    batch_size, dt, sigma, tau, seed
        As in `Task`.

    Raises
    ------
    ValueError, TypeError
        If an argument has no such value.

    Notes
    -----
    The inputs are the fixation cue of `Decision`, and one line for each stimulus that is 1 while it is shown. Half of
    the trials match. Class 1 is a match and class 2 none. `trial_info` has ``sample`` and ``test``, the stimuli from 0.
    The task is that of [1]_, with one test stimulus in place of several.

    References
    ----------
    .. [1] E. K. Miller, C. A. Erickson, R. Desimone, "Neural mechanisms of visual working memory in prefrontal cortex
       of the macaque", Journal of Neuroscience 16, 5154-5167, 1996.

    Examples
    --------
    >>> import pyrnn
    >>> info = pyrnn.tasks.DelayedMatch(batch_size=4).trial_info(0)
    >>> info["sample"], info["test"], info["correct"]
    (array([3, 3, 0, 0]), array([1, 2, 0, 2]), array([2, 2, 1, 2]))
    """

    PERIODS: ClassVar[tuple[str, ...]] = ("fixation", "sample", "delay", "test", "response")
    CONDITIONS: ClassVar[int] = 3

    stimuli: int = 4
    fixation: Span = 300.0
    sample: Span = 500.0
    delay: Span = 1000.0
    test: Span = 500.0
    response: Span = 300.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.integer_within("stimuli", self.stimuli, 2)

    @property
    def input_size(self) -> int:
        return 1 + self.stimuli

    def trials(self, u: np.ndarray) -> Trials:
        periods = self._periods(u)
        matches = u[:, 5] < 0.5
        sample = among(u[:, 6], self.stimuli)
        test = np.where(matches, sample, (sample + 1 + among(u[:, 7], self.stimuli - 1)) % self.stimuli)
        x = np.zeros((self.length, len(u), self.input_size), np.float32)
        for name, shown in (("sample", sample), ("test", test)):
            x[..., 1:] += periods.during[name][..., np.newaxis] & (shown[:, np.newaxis] == np.arange(self.stimuli))
        return self._made(x, periods, np.where(matches, 1, 2), {"sample": sample, "test": test})


@dataclass(frozen=True, kw_only=True)
class WorkingMemory(Decision):
    """Decide which of two frequencies, one before and one after a delay, was higher: parametric working memory.

    Parameters
    ----------
    pairs : sequence of pairs of float
        Pairs of different frequencies, in Hz. Each trial draws a pair, and the order in which it is shown.
    fixation, first, delay, second, response : float or pair of float
        The periods of a trial in their order, in ms, as in `Decision`.
    batch_size, dt, sigma, tau, seed
        As in `Task`.

    Raises
    ------
    ValueError, TypeError
        If an argument has no such value.

    Notes
    -----
    The inputs are the fixation cue of `Decision` and, while a frequency f is on, one that grows with it and one that
    falls, 0.2 + 0.8 (f - f_min) / (f_max - f_min) and 0.2 + 0.8 (f_max - f) / (f_max - f_min), with the lowest and the
    highest frequency of all pairs. Class 1 means that the first is higher, class 2 the second. `trial_info` has
    ``first`` and ``second``, in Hz. The task is that of [1]_, with the inputs and frequencies of [2]_.

    References
    ----------
    .. [1] R. Romo, C. D. Brody, A. Hernández, L. Lemus, "Neuronal correlates of parametric working memory in the
       prefrontal cortex", Nature 399, 470-473, 1999.
    .. [2] H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive
       tasks: a simple and flexible framework", PLoS Computational Biology 12, e1004792, 2016.

    Examples
    --------
    >>> import pyrnn
    >>> info = pyrnn.tasks.WorkingMemory(batch_size=4).trial_info(0)
    >>> info["first"], info["second"], info["correct"]
    (array([26., 30., 10., 18.]), array([18., 22., 18., 26.]), array([1, 1, 2, 2]))
    """

    PERIODS: ClassVar[tuple[str, ...]] = ("fixation", "first", "delay", "second", "response")
    CONDITIONS: ClassVar[int] = 2

    pairs: tuple[tuple[float, float], ...] = ((18, 10), (22, 14), (26, 18), (30, 22), (34, 26))
    fixation: Span = 100.0
    first: Span = 500.0
    delay: Span = 3000.0
    second: Span = 500.0
    response: Span = 300.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "pairs", _pairs(self.pairs))

    @property
    def input_size(self) -> int:
        return 3

    def trials(self, u: np.ndarray) -> Trials:
        periods, pairs = self._periods(u), np.array(self.pairs, float)
        chosen, swapped = pairs[among(u[:, 5], len(pairs))], u[:, 6] < 0.5
        first, second = np.where(swapped, chosen[:, ::-1].T, chosen.T)
        low, high = pairs.min(), pairs.max()
        x = np.zeros((self.length, len(u), self.input_size), np.float32)
        for name, frequency in (("first", first), ("second", second)):
            x[..., 1] += periods.during[name] * (0.2 + 0.8 * (frequency - low) / (high - low))
            x[..., 2] += periods.during[name] * (0.2 + 0.8 * (high - frequency) / (high - low))
        return self._made(x, periods, np.where(first > second, 1, 2), {"first": first, "second": second})


def _evidence(strengths: tuple[float, ...], u: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return signed coherences in %, and the right choices, 1 for left and 2 for right."""
    right = side >= 0.5
    coherence = np.array(strengths, float)[among(u, len(strengths))] * np.where(right, 1, -1)
    return coherence + 0.0, np.where(right, 2, 1)  # without a zero that is negative


def _pair(c: np.ndarray, during: np.ndarray) -> np.ndarray:
    """Return the inputs for left and for right, (T, B, 2), of signed coherences from -1 to 1."""
    inputs: np.ndarray = during[..., np.newaxis] * np.stack([(1 - c) / 2, (1 + c) / 2], axis=1)
    return inputs


def _coherences(name: str, values: Any) -> tuple[float, ...]:
    try:
        values = tuple(values)
    except TypeError:
        raise TypeError(f"{name} must be a sequence of numbers, got {values!r}") from None
    if not values:
        raise ValueError(f"{name} must be one or more numbers, got {values!r}")
    for value in values:
        check_number(name, value, low=0, high=100)
    return tuple(float(value) for value in values)


def _pairs(values: Any) -> tuple[tuple[float, float], ...]:
    try:
        pairs = tuple((first, second) for first, second in values)
    except (TypeError, ValueError):
        raise ValueError(f"pairs must be pairs of frequencies, got {values!r}") from None
    if not pairs:
        raise ValueError(f"pairs must be one or more pairs of frequencies, got {values!r}")
    for pair in pairs:
        for frequency in pair:
            check_number("pairs", frequency, low=0)
        if pair[0] == pair[1]:
            raise ValueError(f"pairs must be pairs of different frequencies, got {pair!r}")
    return pairs
