"""Networks whose output is fed back: a_t = b + U x_t + W h_{t-1} + R y_{t-1}, with y the target or the output."""

import math
from typing import NamedTuple

import numpy as np

from pyrnn import _checks
from pyrnn._network import as_named, check_shapes
from pyrnn.functional import backward, forward
from pyrnn.losses import LOSSES, QUIET, check_loss, check_targets
from pyrnn.output import output, output_gradients
from pyrnn.parameters import Parameters, initialize, raveled, unraveled
from pyrnn.stepper import Stepper
from pyrnn.training import loss_and_gradients

CHOICES = ("sample", "argmax")


class FeedbackParameters(NamedTuple):
    """The arrays of a network h_t = tanh(U x_t + W h_{t-1} + R y_{t-1} + b), o_t = V h_t + c.

    Parameters
    ----------
    U : ndarray, shape (H, I)
        Input-to-hidden weights; I may be 0 for a network without other input.
    W : ndarray, shape (H, H), or None
        None for a network that remembers nothing but what is fed back (figure 10.4 of the book).
    b : ndarray, shape (H,), or None for no bias
    V : ndarray, shape (O, H)
    c : ndarray, shape (O,), or None for no output bias
    R : ndarray, shape (H, O)
        From what is fed back to the hidden units; of classes, column y is what class y adds.

    Notes
    -----
    A tuple, like `Parameters`: ``U, W, b, V, c, R = params``.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> params = pyrnn.initialize_feedback(2, 3, 4, rng=0)
    >>> params.unravel(params.ravel() + 1).R.shape
    (3, 4)
    """

    U: np.ndarray
    W: np.ndarray | None
    b: np.ndarray | None
    V: np.ndarray
    c: np.ndarray | None
    R: np.ndarray

    def ravel(self):
        """As `Parameters.ravel`, in the order U, W, b, V, c, R.

        Returns
        -------
        vector : ndarray, shape (number of parameters,)
        """
        return raveled(self, "W", "b", "c")

    def unravel(self, vector):
        """As `Parameters.unravel`.

        Parameters
        ----------
        vector : array_like, shape (number of parameters,)

        Returns
        -------
        FeedbackParameters
        """
        return unraveled(self, vector)


def initialize_feedback(
    input_size, hidden_size, output_size, *, scheme="orthogonal", gain=1.0, dtype=np.float64, rng=None
):
    """Random parameters of a network whose output is fed back.

    Parameters
    ----------
    input_size : int
        I, the size of the input beside what is fed back: 0 for none.
    hidden_size, output_size : int
        H and O.
    scheme, gain, dtype, rng
        As in `initialize`: U and R are the columns of what is U there with I + O inputs.

    Returns
    -------
    FeedbackParameters

    Raises
    ------
    ValueError, TypeError
        As in `initialize`.

    Examples
    --------
    >>> import pyrnn
    >>> params = pyrnn.initialize_feedback(2, 3, 4, rng=0)
    >>> params.U.shape, params.R.shape
    ((3, 2), (3, 4))
    """
    I, O = _checks.integer_within("input_size", input_size, 0), _checks.positive_integer("output_size", output_size)
    U_R, W, b, V, c = initialize(I + O, hidden_size, O, scheme=scheme, gain=gain, dtype=dtype, rng=rng)
    return FeedbackParameters(U_R[:, :I].copy(), W, b, V, c, U_R[:, I:].copy())


class FeedbackGradients(NamedTuple):
    """Gradients of a loss with respect to the parameters, the input, the initial state and `first`.

    The first six fields are those of `FeedbackParameters`; `parameters` are these alone. ``W``, ``b`` and ``c`` are
    None where the parameter was, ``first`` where the call had none, or classes.
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

    @property
    def parameters(self):
        """The gradients of the parameters alone, as a `FeedbackParameters`."""
        return FeedbackParameters(*self[:6])


class ScheduledGradients(NamedTuple):
    """What `scheduled_sampling` returns: the loss, its gradients, and what was fed back, (T, B, O) or (T, O)."""

    loss: np.float64
    gradients: FeedbackGradients
    fed: np.ndarray


class Samples(NamedTuple):
    """What `sample` returns: classes, how many of each sequence there are, and the logarithm of each one's probability.

    ``classes`` and ``log_probabilities`` have shape (length, batch) or (length,), ``lengths`` (batch,) or none.
    """

    classes: np.ndarray
    lengths: np.ndarray
    log_probabilities: np.ndarray


# ---- Teacher forcing ------------------------------------------------------------------------------------------------
def teacher_forcing(
    params,
    x,
    targets,
    *,
    loss="softmax_cross_entropy",
    fed=None,
    first=None,
    h0=None,
    weights=None,
    memory_limit=None,
):
    """Loss and gradients of a network to which the target of the step before is fed back.

    Parameters
    ----------
    params : FeedbackParameters
        Or any ``(U, W, b, V, c, R)``.
    x : array_like, shape (T, B, I) or (T, I)
        Input beside what is fed back; I may be 0.
    targets : array_like
        What the loss expects: classes (T, B) or (T,), or numbers (T, B, O) or (T, O). The one of each step is also what
        is fed back at the next: a class y as the y-th unit vector. Targets of weight 0 are fed back too, unless they
        are not classes or not finite: then nothing is, that is zeros.
    loss : {"softmax_cross_entropy", "squared_error"}
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
        Named tuple ``(U, W, b, V, c, R, x, h0, first)``.

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
    [x_t, y_{t-1}] and the weights [U R], and its gradients are exact. With W None (figure 10.4) no step depends on
    another one: they are computed as one step of T B sequences.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.1.

    Examples
    --------
    Which letter follows?

    >>> import numpy as np, pyrnn
    >>> letters = np.array([ord(letter) - ord("a") for letter in "abracadabra"])
    >>> params = pyrnn.initialize_feedback(0, 8, 26, rng=0)
    >>> loss, gradients = pyrnn.teacher_forcing(params, np.empty((11, 0)), letters)
    >>> gradients.R.shape, np.flatnonzero(gradients.R.any(axis=0))  # the last letter is not fed back
    ((8, 26), array([ 0,  1,  2,  3, 17]))
    """
    n = _Network(params, x, h0, {"fed": fed, "first": first}, targets, loss, weights)
    if fed is not None and first is not None:
        raise ValueError("fed and first must not be given together")
    return n.forced(n.sequence("fed") if fed is not None else n.taught(), memory_limit)


# ---- Free running ---------------------------------------------------------------------------------------------------
def free_running(
    params, x, targets, *, loss="softmax_cross_entropy", first=None, h0=None, weights=None, memory_limit=None
):
    """Loss and gradients of a network to which its own output of the step before is fed back, o_{t-1}.

    Parameters
    ----------
    params : FeedbackParameters
        Or any ``(U, W, b, V, c, R)``.
    x : array_like, shape (T, B, I) or (T, I)
        Input beside what is fed back; I may be 0.
    targets, loss, h0, weights, memory_limit
        As in `loss_and_gradients`.
    first : array_like, optional
        What is fed back at the first step, as in `teacher_forcing`; None for the output of h0, c + V h0.

    Returns
    -------
    loss : float
        Summed over time and batch.
    gradients : FeedbackGradients
        Named tuple ``(U, W, b, V, c, R, x, h0, first)``, through all that is fed back.

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
    W' = W + R V and b' = b + R c, and its gradients are exact:

        dW = dW'    db = db'    dR = dW' Vᵀ + db' cᵀ    dV += Rᵀ dW'    dc += Rᵀ db'

    With `first` the first step is one with the input [x_1, first] and the weights [U R].

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> params = pyrnn.initialize_feedback(1, 4, 2, rng=0)
    >>> x, targets = np.ones((5, 1)), np.zeros((5, 2))
    >>> loss, gradients = pyrnn.free_running(params, x, targets, loss="squared_error")
    >>> o = pyrnn.free_running_output(params, x)
    >>> bool(np.isclose(loss, (o**2).sum()))
    True
    """
    n = _Network(params, x, h0, {"first": first}, targets, loss, weights)
    U, _, b, V, c, _ = n.params
    closed = Parameters(U, *n.closed(), V, c)
    options = {"loss": loss, "memory_limit": memory_limit}
    if first is None or len(n.x) == 0:
        value, below = loss_and_gradients(closed, n.x, n.targets, h0=n.h0, weights=n.weights, **options)
        d_first = None if first is None or not n.is_number("first") else np.zeros_like(n.fed["first"])
        return value, FeedbackGradients(*n.opened(below), below.x, below.h0, d_first)
    early, late = slice(0, 1), slice(1, None)
    early_weights, late_weights = (None, None) if n.weights is None else (n.weights[early], n.weights[late])
    joined, U_R = n.joined(n.first()[np.newaxis], early)
    h = forward(joined, U_R, n.W, b, n.h0)
    late_value, below = loss_and_gradients(closed, n.x[late], n.targets[late], h0=h[0], weights=late_weights, **options)
    early_value, do = LOSSES[loss](output(h, V, c), n.targets[early], early_weights)
    dh, dV, dc = output_gradients(do.astype(h.dtype, copy=False), h, V)
    first_step = backward(dh + below.h0, h, joined, U_R, n.W, n.h0)
    dU, dR = np.split(first_step.U, [n.I], axis=1)
    early_parts = FeedbackParameters(dU, first_step.W, first_step.b, dV, dc, dR)
    sums = (None if a is None else a + part for a, part in zip(n.opened(below), early_parts, strict=True))
    dx = np.concatenate([first_step.x[..., : n.I], below.x])
    d_first = first_step.x[0, ..., n.I :].copy() if n.is_number("first") else None
    return early_value + late_value, FeedbackGradients(*sums, dx, first_step.h0, d_first)


def free_running_output(params, x, *, first=None, h0=None):
    """Outputs of a network to which its own output of the step before is fed back.

    Parameters
    ----------
    params, x, first, h0
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
    Stepper : one step at a time; ``Stepper(U, W + R @ V, b + R @ c, V, c)`` is this network.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> params = pyrnn.initialize_feedback(0, 4, 2, rng=0)
    >>> pyrnn.free_running_output(params, np.empty((100, 0)), first=[1.0, 0.0]).shape
    (100, 2)
    """
    n = _Network(params, x, h0, {"first": first})
    U, _, b, V, c, _ = n.params
    h = np.empty((*n.x.shape[:-1], len(U)), n.x.dtype)
    steps, state = 0, n.h0
    if first is not None and len(h):
        joined, U_R = n.joined(n.first()[np.newaxis], slice(0, 1))
        forward(joined, U_R, n.W, b, state, out=h[:1])
        steps, state = 1, h[0]
    forward(n.x[steps:], U, *n.closed(), state, out=h[steps:])
    return output(h, V, c)


# ---- Scheduled sampling ---------------------------------------------------------------------------------------------
def scheduled_sampling(
    params,
    x,
    targets,
    probability,
    *,
    loss="softmax_cross_entropy",
    choose="sample",
    first=None,
    h0=None,
    weights=None,
    rng=None,
):
    """Loss and gradients of a network to which sometimes the target is fed back, sometimes what it says itself.

    Parameters
    ----------
    params, x, targets, loss, first, h0, weights
        As in `teacher_forcing`.
    probability : float or array_like of shape (T,)
        With which the target of the step before is fed back, from 1 (teacher forcing) to 0. Of each step of each
        sequence by itself, the first ones aside.
    choose : {"sample", "argmax"}
        What is fed back otherwise with softmax_cross_entropy: a class drawn from softmax(o_{t-1}), or the most probable
        one. With squared_error it is o_{t-1} itself. Outputs of +inf count as in `sample`; those of which one is NaN,
        or all are -inf, give no class: nothing is fed back then, that is zeros, and the loss of that step is NaN.
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
    >>> params = pyrnn.initialize_feedback(1, 4, 3, rng=0)
    >>> x, targets = np.ones((5, 1)), np.array([0, 1, 2, 0, 1])
    >>> result = pyrnn.scheduled_sampling(params, x, targets, 0.5, rng=0)
    >>> loss, gradients = pyrnn.teacher_forcing(params, x, targets, fed=result.fed)
    >>> bool(result.loss == loss)
    True
    """
    if not isinstance(choose, str) or choose not in CHOICES:
        raise ValueError(f"choose must be one of {', '.join(map(repr, CHOICES))}, got {choose!r}")
    n = _Network(params, x, h0, {"first": first}, targets, loss, weights)
    T, steps = len(n.x), n.x.shape[:-1]
    probability = _probability(probability, T)
    rng = np.random.default_rng(rng)
    fed = n.taught()
    told = rng.random(steps) < probability.reshape(-1, *[1] * (len(steps) - 1))
    told[:1] = True
    if not told.all():
        _choose(n, fed, told, loss == "squared_error", choose == "sample", rng)
    return ScheduledGradients(*n.forced(fed, None), fed)


@QUIET
def _choose(n, fed, told, numbers, sample, rng):
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


def _said(o, sample, rng):
    """The classes that outputs say, -1 where they say none."""
    logits, none = _logits(o)
    return np.where(none, -1, _chosen(logits, 1.0 if sample else 0, rng))


def _probability(probability, T):
    (array,) = _checks.as_real_arrays(probability=probability)
    if array.shape not in ((), (T,)):
        raise ValueError(f"probability must be a number or have shape ({T},), got {array.shape}")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"probability must be from 0 to 1, got {array[~((array >= 0) & (array <= 1))].flat[0]}")
    return np.broadcast_to(array, (T,))


# ---- Sampling -------------------------------------------------------------------------------------------------------
@QUIET
def sample(params, length, *, batch=None, x=None, first=None, h0=None, end_symbol=None, temperature=1.0, rng=None):
    """Draw sequences of classes: each is drawn from softmax(o_t) and fed back at the next step.

    Parameters
    ----------
    params : FeedbackParameters
        Or any ``(U, W, b, V, c, R)``.
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
    >>> params = pyrnn.initialize_feedback(0, 8, 5, rng=0)
    >>> classes, lengths, log_probabilities = pyrnn.sample(params, 20, batch=3, end_symbol=4, rng=0)
    >>> loss, _ = pyrnn.teacher_forcing(
    ...     params, np.empty((20, 3, 0)), classes, weights=np.arange(20)[:, None] < lengths
    ... )
    >>> bool(np.isclose(-loss, log_probabilities.sum()))
    True
    """
    length = _checks.integer_within("length", length, 0)
    batch = None if batch is None else _checks.integer_within("batch", batch, 0)
    if not _checks.is_finite_number(temperature) or isinstance(temperature, bool) or temperature < 0:
        raise ValueError(f"temperature must be a number of at least 0, got {temperature!r}")
    steps = (length,) if batch is None else (length, batch)
    params = as_named(FeedbackParameters, params)
    if x is None:
        columns = np.shape(params.U)[1:]
        if columns != (0,):
            raise ValueError(f"x must be given where U has columns, got None and U of shape {np.shape(params.U)}")
        x = np.empty((*steps, 0), np.float32)
    n = _Network(params, x, h0, {"first": first})
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


def _logits(o):
    """(o less its largest entry, whether there is no class: one is NaN or all are -inf).

    Where some are +inf, these are 0 and the others -inf: the limit.
    """
    top = o.max(axis=-1)
    if np.isfinite(top).all():
        return o - top[..., np.newaxis], np.zeros(top.shape, bool)
    infinite = np.isposinf(top)[..., np.newaxis]
    shifted = np.where(infinite, np.where(np.isposinf(o), 0, -np.inf), o - top[..., np.newaxis])
    return shifted.astype(o.dtype, copy=False), np.isnan(top) | np.isneginf(top)


def _check_chosen(none, t):
    """Raise an error if a sequence has no class at step t."""
    where = np.argwhere(none)
    if len(where):
        at = f"step {t}" + (f" of sequence {where[0][0]}" if none.ndim else "")
        got = "NaN or only -inf"
        raise ValueError(f"params, x, first and h0 must give outputs that a class can be drawn from, got {got} at {at}")


def _chosen(o, temperature, rng):
    """Classes from softmax(o / temperature), o as `_logits` returns it; at 0 the first of the largest."""
    if temperature == 0:
        return o.argmax(axis=-1)
    return (o / temperature + rng.gumbel(size=o.shape)).argmax(axis=-1)


# ---- What they share ------------------------------------------------------------------------------------------------
class _Network:
    """Checked arguments: nothing is computed before all of them are."""

    def __init__(self, params, x, h0, fed, targets=None, loss=None, weights=None):
        if loss is not None:
            check_loss(loss)
        params = as_named(FeedbackParameters, params)
        x = None if x is None else _checks.as_array("x", x)
        fed = {name: None if a is None else _checks.as_array(name, a) for name, a in fed.items()}
        ndim = {name: np.ndim(x) - (1 if name == "fed" else 2) for name in fed}  # of classes
        classes = {
            name: a for name, a in fed.items() if a is not None and a.dtype.kind in "iu" and a.ndim in (0, ndim[name])
        }
        numbers = {name: None if name in classes else a for name, a in fed.items()}
        named = {"x": x, "h0": h0} | params._asdict() | numbers
        arrays = _checks.as_real_arrays("h0", "W", "b", "c", *numbers, **named)
        self.x, self.h0, U, W, b, V, c, R, *fed = arrays
        self.params = FeedbackParameters(U, W, b, V, c, R)
        outputs = check_shapes(self.x, U, W, b, V, c, self.h0)
        self.loss = loss
        if loss is not None:
            self.targets, self.weights = check_targets(loss, outputs, self.x.dtype, targets, weights)
        self.O, self.I = len(V), U.shape[1]
        self.W = np.zeros((len(U), len(U)), U.dtype) if W is None else W  # for what reads a state that is not there
        _checks.check_shape("R", R, (len(U), self.O), "U", U, "V", V)
        self.fed = {name: classes.get(name, a) for name, a in zip(numbers, fed, strict=True)}
        for name, a in self.fed.items():
            self._check_fed(name, a)

    def _check_fed(self, name, a):
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

    def is_number(self, name):
        """Whether what is fed back is numbers, not classes."""
        return self.fed[name].dtype.kind == "f"

    def sequence(self, name):
        """What was given, as numbers [..., O]."""
        a = self.fed[name]
        return a if self.is_number(name) else _one_hot(a, self.O, self.x.dtype)

    def first(self):
        """What is fed back at the first step, [B, O] or [O]."""
        shape = (*self.x.shape[1:-1], self.O)
        if self.fed["first"] is None:
            return np.zeros(shape, self.x.dtype)
        return np.broadcast_to(self.sequence("first"), shape)

    def taught(self):
        """What the teacher feeds back: the target of the step before, [T, B, O] or [T, O]."""
        fed = np.zeros((*self.x.shape[:-1], self.O), self.x.dtype)
        if len(fed) == 0:
            return fed
        before = self.targets[:-1]
        nothing = False if self.weights is None else self.weights[:-1] == 0
        if self.loss == "squared_error":
            np.copyto(fed[1:], before, where=~(nothing & ~np.isfinite(before).all(axis=-1))[..., np.newaxis])
        else:
            fed[1:] = _one_hot(np.where((before < 0) | (before >= self.O), -1, before), self.O, fed.dtype)
        fed[0] = self.first()
        return fed

    def joined(self, fed, steps=slice(None)):
        """[x_t, y_{t-1}] of some steps, and [U R]."""
        return np.concatenate([self.x[steps], fed], axis=-1), np.concatenate([self.params.U, self.params.R], axis=1)

    @QUIET
    def closed(self):
        """W + R V and b + R c, of the network whose output is fed back."""
        _, W, b, V, c, R = self.params
        W = R @ V if W is None else W + R @ V
        return W, b if c is None else R @ c if b is None else b + R @ c

    @QUIET
    def opened(self, below):
        """The gradients of the parameters from those of the closed network."""
        _, W, b, V, c, R = self.params
        dR, dV = below.W @ V.T, below.V + R.T @ below.W
        if c is not None:
            dR += np.outer(below.b, c)
        dc = None if c is None else below.c + R.T @ below.b
        return FeedbackParameters(below.U, None if W is None else below.W, None if b is None else below.b, dV, dc, dR)

    def stepper(self, batch):
        """A Stepper that takes [x_t, y_{t-1}]."""
        U, _, b, V, c, R = self.params
        return Stepper(np.concatenate([U, R], axis=1), self.W, b, V, c, batch=batch, h0=self.h0)

    def forced(self, fed, memory_limit):
        """Loss and gradients, given what is fed back."""
        U, W, b, V, c, _ = self.params
        x, U_R = self.joined(fed)
        targets, weights, h0, shape = self.targets, self.weights, self.h0, x.shape
        if W is None:  # no step reads the one before: all of them as the sequences of one step
            axes, h0 = x.ndim - 1, None
            x, targets, weights = (
                None if a is None else a.reshape(1, math.prod(shape[:-1]), *a.shape[axes:])
                for a in (x, targets, weights)
            )
        value, below = loss_and_gradients(
            Parameters(U_R, self.W, b, V, c),
            x,
            targets,
            loss=self.loss,
            h0=h0,
            weights=weights,
            memory_limit=memory_limit,
        )
        dx, dW, dh0 = below.x.reshape(shape), below.W, below.h0
        if W is None:
            dW, dh0 = None, np.zeros((*shape[1:-1], len(U)), U.dtype)
        dU, dR = (np.ascontiguousarray(a) for a in np.split(below.U, [self.I], axis=1))
        d_first = None
        if self.fed.get("first") is not None and self.is_number("first"):
            d_first = dx[0, ..., self.I :].copy() if len(dx) else np.zeros_like(self.fed["first"])
        dx = np.ascontiguousarray(dx[..., : self.I])
        return value, FeedbackGradients(dU, dW, below.b, below.V, below.c, dR, dx, dh0, d_first)


def _one_hot(classes, O, dtype):
    """Unit vectors [..., O]; zeros for -1."""
    return (np.arange(O) == np.asarray(classes)[..., np.newaxis]).astype(dtype)
