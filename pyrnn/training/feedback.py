"""Networks whose output is fed back: a_t = b + U x_t + W h_{t-1} + R y_{t-1}, with y the target or the output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from pyrnn import _checks, losses
from pyrnn import network as networks
from pyrnn.losses import QUIET, Criterion
from pyrnn.network import Network
from pyrnn.online.stepper import Stepper
from pyrnn.training.gradients import back_from_read, loss_and_gradients, loss_gradients, through_output
from pyrnn.trajectory import Trajectory, simulate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from pyrnn._results import LossGradients
    from pyrnn._types import Loss, MaybeArray, Seed

CHOICES = ("sample", "argmax")
SAID = ("softmax_cross_entropy", "squared_error", "huber")  # whose outputs can stand for targets


class FeedbackGradients(NamedTuple):
    """Gradients of a loss with respect to the arrays of a network, the input, the initial state, `first` and alpha.

    The first six fields are the arrays of a `Network`; `parameters` are these alone. ``W``, ``b`` and ``c`` are None
    where the network has none, ``first`` where the call had none, or classes, ``alpha`` of a cell without a leak.
    """

    U: np.ndarray
    W: np.ndarray | None
    b: np.ndarray | None
    V: np.ndarray
    c: np.ndarray | None
    R: np.ndarray
    x: np.ndarray
    h0: np.ndarray
    first: np.ndarray | None
    alpha: np.ndarray | float | None = None

    @property
    def parameters(self) -> Network:
        """Those of the arrays of the network alone, as a `pyrnn.Network`: ``ravel`` it for an optimiser."""
        return Network(*self[:6])


class ScheduledGradients(NamedTuple):
    """What `scheduled_sampling` returns: the loss, its gradients, and what was fed back, (T, B, O) or (T, O)."""

    loss: np.float64
    gradients: FeedbackGradients
    fed: np.ndarray


class Samples(NamedTuple):
    """What `sample` returns: classes, how many of each sequence there are, and the logarithm of each one's probability.

    ``classes`` and ``log_probabilities`` have shape (length, batch) or (length,), ``lengths`` (batch,) or none.
    """

    classes: NDArray[np.intp]
    lengths: NDArray[np.intp] | np.intp
    log_probabilities: NDArray[np.float64]


# ---- Teacher forcing ------------------------------------------------------------------------------------------------
def teacher_forcing(
    network: Network,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    loss: Loss = "softmax_cross_entropy",
    fed: ArrayLike | None = None,
    first: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    memory_limit: int | None = None,
) -> tuple[np.float64, FeedbackGradients]:
    """Loss and gradients of a network to which the target of the step before is fed back.

    Parameters
    ----------
    network : Network
        With V and R; W may be None.
    x : array_like, shape (T, B, I) or (T, I)
        Input beside what is fed back; I may be 0.
    targets : array_like
        What the loss expects: classes (T, B) or (T,), or numbers (T, B, O) or (T, O). The one of each step is also what
        is fed back at the next: a class y as the y-th unit vector. Targets of weight 0 are fed back too, unless they
        are not classes or not finite: then nothing is, that is zeros.
    loss : {"softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson", "huber"}
    fed : array_like, optional
        What is fed back at each step instead: classes (T, B) or (T,), -1 for nothing, or numbers (T, B, O) or (T, O).
    first : array_like, optional
        What is fed back at the first step: classes (B,), one for all or -1 for nothing, or numbers (B, O) or (O,). None
        for nothing. Not together with `fed`.
    h0, weights, memory_limit
        As in `loss_and_gradients`.

    Returns
    -------
    loss : float
        Summed over time and batch.
    gradients : FeedbackGradients
        Named tuple ``(U, W, b, V, c, R, x, h0, first, alpha)``.

    Raises
    ------
    ValueError, TypeError
        As in `loss_and_gradients`; if `fed` and `first` are given together or hold numbers that are no classes.

    See Also
    --------
    free_running : the output is fed back.
    scheduled_sampling : sometimes the one, sometimes the other.

    Notes
    -----
    Section 10.2.1 of [1]_. What is fed back is known, so that the network is an ordinary one with the input
    [x_t, y_{t-1}] and the weights [U R], and its gradients are exact. With W None (figure 10.4), and without a leak, no
    step depends on another one: they are computed as one step of T B sequences.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.1.

    Examples
    --------
    Which letter follows?

    >>> import numpy as np, pyrnn
    >>> letters = np.array([ord(letter) - ord("a") for letter in "abracadabra"])
    >>> network = pyrnn.initialize(0, 8, 26, feedback=True, rng=0)
    >>> loss, gradients = pyrnn.training.teacher_forcing(network, np.empty((11, 0)), letters)
    >>> gradients.R.shape, np.flatnonzero(gradients.R.any(axis=0))  # the last letter is not fed back
    ((8, 26), array([ 0,  1,  2,  3, 17]))
    """
    n = _Problem(network, x, h0, {"fed": fed, "first": first}, targets, loss, weights)
    if fed is not None and first is not None:
        raise ValueError("fed and first must not be given together")
    return n.forced(n.sequence("fed") if fed is not None else n.taught(), memory_limit)


# ---- Free running ---------------------------------------------------------------------------------------------------
def free_running(
    network: Network,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    loss: Loss = "softmax_cross_entropy",
    first: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    memory_limit: int | None = None,
) -> tuple[np.float64, FeedbackGradients]:
    """Loss and gradients of a network to which its own output of the step before is fed back, o_{t-1}.

    Parameters
    ----------
    network : Network
        With V and R; W may be None.
    x : array_like, shape (T, B, I) or (T, I)
        Input beside what is fed back; I may be 0.
    targets, loss, h0, weights, memory_limit
        As in `loss_and_gradients`.
    first : array_like, optional
        What is fed back at the first step, as in `teacher_forcing`; None for the output of h0, c + V h0, in the
        ``current`` form c + V phi(h0).

    Returns
    -------
    loss : float
        Summed over time and batch.
    gradients : FeedbackGradients
        Named tuple ``(U, W, b, V, c, R, x, h0, first, alpha)``, through all that is fed back.

    Raises
    ------
    ValueError, TypeError
        As in `loss_and_gradients`.

    See Also
    --------
    free_running_output : the outputs.
    sample : where classes are drawn and fed back, which has no gradient.

    Notes
    -----
    The output is linear in the state, o_{t-1} = c + V h_{t-1}, so that the network is an ordinary one with
    W' = W + R V and b' = b + R c, its `Network.closed_loop`, and its gradients are exact. So it is with a leak too, and
    in the ``current`` form, where V and W read phi(h_{t-1}).

        dW = dW'    db = db'    dR = dW' Vᵀ + db' cᵀ    dV += Rᵀ dW'    dc += Rᵀ db'

    With `first` the first step is one with the input [x_1, first] and the weights [U R].

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.initialize(1, 4, 2, feedback=True, rng=0)
    >>> x, targets = np.ones((5, 1)), np.zeros((5, 2))
    >>> loss, gradients = pyrnn.training.free_running(network, x, targets, loss="squared_error")
    >>> o = pyrnn.training.free_running_output(network, x)
    >>> bool(np.isclose(loss, (o**2).sum()))
    True
    """
    n = _Problem(network, x, h0, {"first": first}, targets, loss, weights)
    closed, criterion = n.network.closed_loop(), n.criterion
    options: dict[str, Any] = {"loss": loss, "memory_limit": memory_limit}
    if first is None or len(n.x) == 0:
        options |= {"weights": criterion.weights, "h0": n.h0}
        value, below = loss_and_gradients(closed, n.x, criterion.targets, **options)
        d_first = None if first is None or not n.is_number("first") else np.zeros_like(n.fed["first"])
        U, W, b, V, c, R, _ = cast("tuple[MaybeArray, ...]", n.opened(below))
        dx: MaybeArray = below.x
        return value, FeedbackGradients(U, W, b, V, c, R, dx, below.h0, d_first, below.alpha)
    run, late = n.first_step(), criterion.at(slice(1, None))
    late_value, below = loss_and_gradients(closed, n.x[1:], late.targets, weights=late.weights, h0=run.h[0], **options)
    early_value, do = criterion.at(slice(0, 1))(run.output())
    top = through_output(run.network, do, run.read)
    early = loss_gradients(run.network, back_from_read(run, top.read, below.h0[np.newaxis]), top)
    dU, dR = np.split(early.U, [n.I], axis=1)
    sums: list[MaybeArray] = [
        None if a is None or part is None else a + part
        for a, part in zip(n.opened(below)[:6], (dU, early.W, early.b, early.V, early.c, dR), strict=True)
    ]
    U, W, b, V, c, R = sums
    early_dx, late_dx = cast("tuple[MaybeArray, ...]", (early.x, below.x))
    dx = np.concatenate([early_dx[..., : n.I], late_dx])
    d_first = early_dx[0, ..., n.I :].copy() if n.is_number("first") else None
    d_alpha = None if below.alpha is None else below.alpha + cast("MaybeArray", early.alpha)
    return early_value + late_value, FeedbackGradients(U, W, b, V, c, R, dx, early.h0, d_first, d_alpha)


def free_running_output(
    network: Network, x: ArrayLike, *, first: ArrayLike | None = None, h0: ArrayLike | None = None
) -> np.ndarray:
    """Outputs of a network to which its own output of the step before is fed back.

    Parameters
    ----------
    network, x, first, h0
        As in `free_running`.

    Returns
    -------
    o : ndarray, shape (T, B, O) or (T, O)

    Raises
    ------
    ValueError, TypeError
        As in `free_running`.

    See Also
    --------
    free_running : the gradients.
    Stepper : one step at a time; ``Stepper(network.closed_loop())`` is this network.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.initialize(0, 4, 2, feedback=True, rng=0)
    >>> pyrnn.training.free_running_output(network, np.empty((100, 0)), first=[1.0, 0.0]).shape
    (100, 2)
    """
    n = _Problem(network, x, h0, {"first": first})
    closed = n.network.closed_loop()
    if first is None or len(n.x) == 0:
        return simulate(closed, n.x, n.h0).output()
    early = n.first_step()
    return np.concatenate([early.output(), simulate(closed, n.x[1:], early.h[0]).output()])


# ---- Scheduled sampling ---------------------------------------------------------------------------------------------
def scheduled_sampling(
    network: Network,
    x: ArrayLike,
    targets: ArrayLike,
    probability: ArrayLike,
    *,
    loss: Loss = "softmax_cross_entropy",
    choose: Literal["sample", "argmax"] = "sample",
    first: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    rng: Seed = None,
) -> ScheduledGradients:
    """Loss and gradients of a network to which sometimes the target is fed back, sometimes what it says itself.

    Parameters
    ----------
    network, x, targets, first, h0, weights
        As in `teacher_forcing`.
    loss : {"softmax_cross_entropy", "squared_error", "huber"}
        Those whose outputs are on the scale of the targets, so that they can be fed back in their place.
    probability : float or array_like of shape (T,)
        With which the target of the step before is fed back, from 1 (teacher forcing) to 0. Of each step of each
        sequence by itself, the first ones aside.
    choose : {"sample", "argmax"}
        What is fed back otherwise with softmax_cross_entropy: a class drawn from softmax(o_{t-1}), or the most probable
        one. With the other losses it is o_{t-1} itself. Outputs of +inf count as in `sample`; those of which one is
        NaN, or all are -inf, give no class: nothing is fed back then, that is zeros, and the loss of that step is NaN.
    rng : int, numpy.random.Generator or None
        As in `numpy.random.default_rng`.

    Returns
    -------
    ScheduledGradients
        Named tuple ``(loss, gradients, fed)``. What was fed back, ``fed``, is taken as given by the gradients: they
        are those of ``teacher_forcing(..., fed=fed)``.

    Raises
    ------
    ValueError, TypeError
        As in `teacher_forcing`, and if a probability is not within 0 and 1 or choose is not one of these.

    Notes
    -----
    Algorithm of [1]_, where the probability falls from 1 to 0 in the course of training; it takes no gradient through
    what was chosen either. Steps are made one by one to choose, and then all at once for the gradients.

    References
    ----------
    .. [1] S. Bengio, O. Vinyals, N. Jaitly, N. Shazeer, "Scheduled sampling for sequence prediction with recurrent
       neural networks", NeurIPS 2015.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.initialize(1, 4, 3, feedback=True, rng=0)
    >>> x, targets = np.ones((5, 1)), np.array([0, 1, 2, 0, 1])
    >>> result = pyrnn.training.scheduled_sampling(network, x, targets, 0.5, rng=0)
    >>> loss, gradients = pyrnn.training.teacher_forcing(network, x, targets, fed=result.fed)
    >>> bool(result.loss == loss)
    True
    """
    losses.check_loss(loss, SAID)
    if not isinstance(choose, str) or choose not in CHOICES:
        raise ValueError(f"choose must be one of {', '.join(map(repr, CHOICES))}, got {choose!r}")
    n = _Problem(network, x, h0, {"first": first}, targets, loss, weights)
    T, steps = len(n.x), n.x.shape[:-1]
    probability = _probability(probability, T)
    rng = np.random.default_rng(rng)
    fed = n.taught()
    told = rng.random(steps) < probability.reshape(-1, *[1] * (len(steps) - 1))
    told[:1] = True
    if not told.all():
        _choose(n, fed, told, not losses.of_classes(loss), choose == "sample", rng)
    return ScheduledGradients(*n.forced(fed, None), fed)


@QUIET
def _choose(
    n: _Problem, fed: np.ndarray, told: np.ndarray, numbers: bool, sample: bool, rng: np.random.Generator
) -> None:
    """Overwrite what is fed back with what the network says, where it is not told."""
    I, stepper = n.I, n.stepper(n.x.shape[1] if n.x.ndim == 3 else None)
    arguments = np.empty((*n.x.shape[1:-1], I + n.O), n.x.dtype)
    last = np.flatnonzero(~told.reshape(len(told), -1).all(axis=1))[-1]
    for t in range(last):
        arguments[..., :I], arguments[..., I:] = n.x[t], fed[t]
        o = stepper.step(arguments)
        if told[t + 1].all():
            continue
        said = o if numbers else _one_hot(_said(o, sample, rng), n.O, o.dtype)
        np.copyto(fed[t + 1], said, where=~np.asarray(told[t + 1])[..., np.newaxis])


def _said(o: np.ndarray, sample: bool, rng: np.random.Generator) -> np.ndarray:
    """The classes that outputs say, -1 where they say none."""
    logits, none = _logits(o)
    return np.where(none, -1, _chosen(logits, 1.0 if sample else 0, rng))


def _probability(probability: ArrayLike, T: int) -> np.ndarray:
    (array,) = _checks.as_real_arrays(probability=probability)
    if array.shape not in ((), (T,)):
        raise ValueError(f"probability must be a number or have shape ({T},), got {array.shape}")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"probability must be from 0 to 1, got {array[~((array >= 0) & (array <= 1))].flat[0]}")
    return np.broadcast_to(array, (T,))


# ---- Sampling -------------------------------------------------------------------------------------------------------
@QUIET
def sample(
    network: Network,
    length: int,
    *,
    batch: int | None = None,
    x: ArrayLike | None = None,
    first: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    end_symbol: int | None = None,
    temperature: float = 1.0,
    rng: Seed = None,
) -> Samples:
    """Draw sequences of classes: each is drawn from softmax(o_t) and fed back at the next step.

    Parameters
    ----------
    network : Network
        With V and R; W may be None.
    length : int
        The most steps that are made.
    batch : int, optional
        How many sequences; None for one, whose arrays have no batch axis.
    x : array_like, shape (length, batch, I) or (length, I), optional
        Input beside what is fed back; None if I is 0.
    first : array_like, optional
        What is fed back at the first step, as in `teacher_forcing`: for instance a class that means the beginning.
    h0 : array_like, shape (batch, H) or (H,), optional
    end_symbol : int, optional
        A class with which a sequence ends.
    temperature : float
        Classes are drawn from softmax(o_t / temperature): below 1 the probable ones more often, at 0 always the most
        probable one.
    rng : int, numpy.random.Generator or None
        As in `numpy.random.default_rng`.

    Returns
    -------
    Samples
        Named tuple ``(classes, lengths, log_probabilities)``. ``lengths`` counts the end symbol; behind it ``classes``
        is `end_symbol`, too, and ``log_probabilities`` 0. These are log softmax(o_t) at any temperature: their sum is
        minus the cross-entropy when the sequence is fed back with `teacher_forcing`. A class whose output is +inf has
        probability 1, or 1/n if n classes have that; one with -inf has 0.

    Raises
    ------
    ValueError
        If shapes do not fit, length, batch or temperature is negative, end_symbol is no class, or the outputs of a step
        give no class: if one is NaN, or all are -inf.
    TypeError
        If length, batch or end_symbol is not an integer, or an argument is not real.

    See Also
    --------
    teacher_forcing : trains such a network.

    Notes
    -----
    Sections 10.2.1 and 10.2.3 of [1]_. Drawn as argmax(o_t / temperature + g) with g from the Gumbel distribution [2]_,
    which needs no sum of probabilities.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016.
    .. [2] E. J. Gumbel, "Statistical theory of extreme values and some practical applications", National Bureau of
       Standards, 1954.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.initialize(0, 8, 5, feedback=True, rng=0)
    >>> classes, lengths, log_probabilities = pyrnn.training.sample(network, 20, batch=3, end_symbol=4, rng=0)
    >>> loss, _ = pyrnn.training.teacher_forcing(
    ...     network, np.empty((20, 3, 0)), classes, weights=np.arange(20)[:, None] < lengths
    ... )
    >>> bool(np.isclose(-loss, log_probabilities.sum()))
    True
    """
    length = _checks.integer_within("length", length, 0)
    batch = None if batch is None else _checks.integer_within("batch", batch, 0)
    if not _checks.is_finite_number(temperature) or isinstance(temperature, bool) or temperature < 0:
        raise ValueError(f"temperature must be a number of at least 0, got {temperature!r}")
    steps = (length,) if batch is None else (length, batch)
    network = _with_feedback(network)
    if x is None:
        shape = np.shape(network.U)
        if shape[1:] != (0,):
            raise ValueError(f"x must be given where U has columns, got None and U of shape {shape}")
        x = np.empty((*steps, 0), np.float32)
    n = _Problem(network, x, h0, {"first": first})
    if n.x.shape[:-1] != steps:
        _checks.shape_error("x", f"({', '.join(map(str, steps))}, I)", n.x)
    if end_symbol is not None:
        end_symbol = _checks.integer_within("end_symbol", end_symbol, 0)
        if end_symbol >= n.O:
            raise ValueError(f"end_symbol must be a class from 0 to {n.O - 1}, got {end_symbol}")
    if n.O == 0 and np.prod(steps):
        raise ValueError("V must have a row for each class, got none")
    rng = np.random.default_rng(rng)
    I, rows = n.I, steps[1:]
    stepper = n.stepper(batch)
    classes = np.full(steps, 0 if end_symbol is None else end_symbol, np.intp)
    log_probabilities = np.zeros(steps)
    lengths = np.full(rows, length, np.intp)
    going_on = np.ones(rows, bool)
    arguments = np.empty((*rows, I + n.O), n.x.dtype)
    arguments[..., I:] = n.first()
    for t in range(length):
        arguments[..., :I] = n.x[t]
        o = stepper.step(arguments).astype(np.float64, copy=False)
        o, none = _logits(o)
        if none.any():
            _check_chosen(none & going_on, t)
        drawn = _chosen(o, temperature, rng)
        chosen = np.take_along_axis(o, drawn[..., np.newaxis], axis=-1)[..., 0]
        log_p = chosen - np.log(np.exp(o).sum(axis=-1))
        np.copyto(classes[t : t + 1], drawn, where=going_on)
        np.copyto(log_probabilities[t : t + 1], log_p, where=going_on)
        if end_symbol is not None:
            ended = going_on & (drawn == end_symbol)
            lengths = np.where(ended, t + 1, lengths)
            going_on = going_on & ~ended
            if not going_on.any():
                break
        arguments[..., I:] = _one_hot(drawn, n.O, arguments.dtype)
    return Samples(classes, lengths if rows else np.intp(lengths), log_probabilities)


def _logits(o: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(o less its largest entry, whether there is no class: one is NaN or all are -inf).

    Where some are +inf, these are 0 and the others -inf: the limit.
    """
    top = o.max(axis=-1)
    if np.isfinite(top).all():
        return o - top[..., np.newaxis], np.zeros(top.shape, bool)
    infinite = np.isposinf(top)[..., np.newaxis]
    shifted = np.where(infinite, np.where(np.isposinf(o), 0, -np.inf), o - top[..., np.newaxis])
    return shifted.astype(o.dtype, copy=False), np.isnan(top) | np.isneginf(top)


def _check_chosen(none: np.ndarray, t: int) -> None:
    """Raise an error if a sequence has no class at step t."""
    where = np.argwhere(none)
    if len(where):
        at = f"NaN or only -inf at step {t}" + (f" of sequence {where[0][0]}" if none.ndim else "")
        raise ValueError(f"network, x, first and h0 must give outputs that a class can be drawn from, got {at}")


def _chosen(o: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """Classes from softmax(o / temperature), o as `_logits` returns it; at 0 the first of the largest."""
    if temperature == 0:
        classes: np.ndarray = o.argmax(axis=-1)
    else:
        classes = (o / temperature + rng.gumbel(size=o.shape)).argmax(axis=-1)
    return classes


# ---- What they share ------------------------------------------------------------------------------------------------
def _with_feedback(network: object) -> Network:
    """The argument, after a check that it has what is fed back."""
    network = networks.as_network(cast("Network", network))
    if network.R is None:
        raise ValueError("network must have R, by which its output is fed back, got R None")
    return network


class _Problem:
    """Checked arguments: nothing is computed before all of them are."""

    def __init__(
        self,
        network: Network,
        x: ArrayLike | None,
        h0: ArrayLike | None,
        fed: Mapping[str, ArrayLike | None],
        targets: ArrayLike | None = None,
        loss: Loss | None = None,
        weights: ArrayLike | None = None,
    ) -> None:
        if loss is not None:
            losses.check_loss(loss)
        network = _with_feedback(network)
        x = None if x is None else _checks.as_array("x", x)
        given: dict[str, MaybeArray] = {n: None if a is None else _checks.as_array(n, a) for n, a in fed.items()}
        axes = 0 if x is None else x.ndim
        ndim = {name: axes - (1 if name == "fed" else 2) for name in given}  # of classes
        classes = {
            name: a for name, a in given.items() if a is not None and a.dtype.kind in "iu" and a.ndim in (0, ndim[name])
        }
        numbers = {name: None if name in classes else a for name, a in given.items()}
        named: dict[str, Any] = {"x": x, "h0": h0} | dict(zip(networks.ARRAYS, network, strict=False)) | numbers
        arrays = _checks.as_real_arrays("h0", "W", "b", "c", *numbers, **named)
        self.x, self.h0, U, W, b, V, c, R, *others = arrays
        self.network = Network(U, W, b, V, c, R, network.cell)
        outputs = networks.check_input(self.network, self.x, self.h0)
        if loss is not None:
            self.criterion = Criterion(loss, targets, weights).checked(outputs, self.x.dtype)
        self.O, self.I = len(V), U.shape[1]
        self.W = np.zeros((len(U), len(U)), U.dtype) if W is None else W  # for what reads a state that is not there
        self.fed: dict[str, MaybeArray] = {n: classes.get(n, a) for n, a in zip(numbers, others, strict=True)}
        for name, a in self.fed.items():
            self._check_fed(name, a)

    def _check_fed(self, name: str, a: np.ndarray | None) -> None:
        if a is None:
            return
        steps = self.x.shape[:-1] if name == "fed" else self.x.shape[1:-1]
        if self.is_number(name):
            if a.shape != (*steps, self.O):
                of_classes = steps if name == "fed" or not steps else f"{steps} or ()"
                raise ValueError(
                    f"{name} must be classes of shape {of_classes} or numbers of shape {(*steps, self.O)}, "
                    f"got shape {a.shape}"
                )
            return
        if not (a.ndim == 0 and name == "first"):
            _checks.check_shape(name, a, steps, "x", self.x)
        wrong = (a < -1) | (a >= self.O)
        if np.any(wrong):
            raise ValueError(f"{name} must be classes from 0 to {self.O - 1}, or -1, got {a[wrong].flat[0]}")

    def is_number(self, name: str) -> bool:
        """Whether what is fed back is numbers, not classes."""
        return bool(self.fed[name].dtype.kind == "f")

    def sequence(self, name: str) -> np.ndarray:
        """What was given, as numbers [..., O]."""
        a = self.fed[name]
        return a if self.is_number(name) else _one_hot(a, self.O, self.x.dtype)

    def first(self) -> np.ndarray:
        """What is fed back at the first step, [B, O] or [O]."""
        shape = (*self.x.shape[1:-1], self.O)
        if self.fed["first"] is None:
            return np.zeros(shape, self.x.dtype)
        return np.broadcast_to(self.sequence("first"), shape)

    def taught(self) -> np.ndarray:
        """What the teacher feeds back: the target of the step before, [T, B, O] or [T, O]."""
        fed = np.zeros((*self.x.shape[:-1], self.O), self.x.dtype)
        if len(fed) == 0:
            return fed
        loss, targets, weights = self.criterion
        before = targets[:-1]
        nothing: MaybeArray = False if weights is None else weights[:-1] == 0
        if not losses.of_classes(loss):
            if weights is not None and weights.ndim == fed.ndim:  # by output
                np.copyto(fed[1:], before, where=~(nothing & ~np.isfinite(before)))
            else:
                np.copyto(fed[1:], before, where=~(nothing & ~np.isfinite(before).all(axis=-1))[..., np.newaxis])
        else:
            fed[1:] = _one_hot(np.where((before < 0) | (before >= self.O), -1, before), self.O, fed.dtype)
        fed[0] = self.first()
        return fed

    @property
    def joined(self) -> Network:
        """The network of the input [x_t, y_{t-1}], with the weights [U R]."""
        U, _, b, V, c, R, cell = self.network
        return Network(np.concatenate([U, R], axis=1), self.W, b, V, c, None, cell)

    def first_step(self) -> Trajectory:
        """The first step alone, with what is fed back there."""
        return simulate(self.joined, np.concatenate([self.x[:1], self.first()[np.newaxis]], axis=-1), self.h0)

    @QUIET
    def opened(self, below: LossGradients) -> Network:
        """The gradients of the arrays of the network from those of its closed loop."""
        _, W, b, V, c, R, _ = cast("tuple[MaybeArray, ...]", self.network)
        db, dV, dc = cast("tuple[MaybeArray, ...]", (below.b, below.V, below.c))
        dR, dV = below.W @ V.T, dV + R.T @ below.W
        if c is not None:
            dR += np.outer(db, c)
        dc = None if c is None else dc + R.T @ db
        return Network(below.U, None if W is None else below.W, None if b is None else db, dV, dc, dR)

    def stepper(self, batch: int | None) -> Stepper:
        """A Stepper that takes [x_t, y_{t-1}]."""
        return Stepper(self.joined, batch=batch, h0=self.h0)

    def forced(self, fed: np.ndarray, memory_limit: int | None) -> tuple[np.float64, FeedbackGradients]:
        """Loss and gradients, given what is fed back."""
        network, x = self.joined, np.concatenate([self.x, fed], axis=-1)
        (loss, targets, weights), h0, shape = self.criterion, self.h0, x.shape
        apart = self.network.W is None and network.cell.alpha is None
        if apart:  # no step reads the one before: all of them as the sequences of one step
            axes, h0 = x.ndim - 1, None
            x, targets, weights = _checks.map_given(
                lambda a: a.reshape(1, math.prod(shape[:-1]), *a.shape[axes:]), x, targets, weights
            )
        value, below = loss_and_gradients(
            network, x, targets, loss=loss, h0=h0, weights=weights, memory_limit=memory_limit
        )
        dx, dV = cast("tuple[MaybeArray, ...]", (below.x, below.V))
        dx, dW = dx.reshape(shape), None if self.network.W is None else below.W
        dh0 = np.zeros((*shape[1:-1], len(network.U)), x.dtype) if apart else below.h0
        dU, dR = (np.ascontiguousarray(a) for a in np.split(below.U, [self.I], axis=1))
        d_first = None
        if self.fed.get("first") is not None and self.is_number("first"):
            d_first = dx[0, ..., self.I :].copy() if len(dx) else np.zeros_like(self.fed["first"])
        dx = np.ascontiguousarray(dx[..., : self.I])
        return value, FeedbackGradients(dU, dW, below.b, dV, below.c, dR, dx, dh0, d_first, below.alpha)


def _one_hot(classes: ArrayLike, O: int, dtype: DTypeLike) -> np.ndarray:
    """Unit vectors [..., O]; zeros for -1."""
    ones: np.ndarray = np.arange(O) == np.asarray(classes)[..., np.newaxis]
    return ones.astype(dtype)
